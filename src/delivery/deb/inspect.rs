//! Reads a .deb, one's own or another's, whole: what it says of itself, what it holds, and whether it is sound.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::package::Format;
use super::archive::{ArMember, ArReader};
use super::control::Paragraph;
use super::{Error, Version, control};

/// The longest control file, list or script that is read.
const LONGEST_CONTROL_MEMBER: u64 = 16 << 20;
const CONTROL_MEMBERS: usize = 256;

/// What a sound .deb says and holds.
#[derive(Clone, Debug)]
pub struct Inspected {
    pub path: PathBuf,
    pub control: Paragraph,
    pub version: Version,
    pub files: Vec<FileEntry>,
    pub conffiles: Vec<String>,
    /// preinst, postinst, prerm, postrm and config, by name.
    pub scripts: BTreeMap<String, String>,
}

impl Inspected {
    pub fn name(&self) -> &str {
        self.control.get("Package").unwrap_or_default()
    }
    pub fn architecture(&self) -> &str {
        self.control.get("Architecture").unwrap_or_default()
    }
}

/// One entry of the data archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileEntry {
    pub path: String,
    pub kind: FileKind,
    pub mode: u32,
    pub owner: String,
    pub group: String,
    pub size: u64,
    pub mtime: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_target: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    HardLink,
    Other,
}

/// Reads `path` to its end. A file that dpkg would stumble over is refused with the reason.
pub fn inspect(path: &Path) -> Result<Inspected, Error> {
    let file = File::open(path).map_err(|error| Error::input(path, error.to_string()))?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(Error::input(path, "it is no file"));
    }
    let corrupt = |reason: String| Error::Corrupt { path: path.to_owned(), format: Format::Deb, reason };
    let parts =
        read_parts(BufReader::with_capacity(1 << 16, file)).map_err(|error| corrupt(error.to_string()))?;
    let text = parts.control.get("control").ok_or_else(|| corrupt("it has no control file".to_owned()))?;
    let paragraph =
        Paragraph::parse(text).map_err(|reason| corrupt(format!("its control file: {reason}")))?;
    let version =
        check_identity(&paragraph).map_err(|reason| corrupt(format!("its control file: {reason}")))?;
    let conffiles = parts.control.get("conffiles").map_or("", String::as_str).lines();
    let conffiles = conffiles.map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    let is_script = |name: &str| matches!(name, "preinst" | "postinst" | "prerm" | "postrm" | "config");
    let scripts = parts.control.iter().filter(|(name, _)| is_script(name));
    Ok(Inspected {
        path: path.to_owned(),
        version,
        files: parts.files,
        conffiles,
        scripts: scripts.map(|(name, text)| (name.clone(), text.clone())).collect(),
        control: paragraph,
    })
}

fn check_identity(paragraph: &Paragraph) -> Result<Version, String> {
    let field = |name: &str| paragraph.get(name).ok_or_else(|| format!("field {name} is missing"));
    let name = field("Package")?;
    if !control::is_package_name(name) {
        return Err(format!("`{}` is no package's name", name.escape_debug()));
    }
    let architecture = field("Architecture")?;
    if !control::is_architecture(architecture) {
        return Err(format!("`{}` is no architecture", architecture.escape_debug()));
    }
    field("Version")?.parse()
}

struct Parts {
    control: BTreeMap<String, String>,
    files: Vec<FileEntry>,
}

fn read_parts(reader: impl Read) -> io::Result<Parts> {
    let mut archive = ArReader::open(reader)?;
    let first = next(&mut archive, "debian-binary")?;
    check_format(&mut archive, &first)?;
    let control_member = next(&mut archive, "control.tar")?;
    let control = read_member(&mut archive, &control_member, "control.tar", read_control)?;
    let data_member = next(&mut archive, "data.tar")?;
    let files = read_member(&mut archive, &data_member, "data.tar", read_files)?;
    while let Some(extra) = archive.next_member()? {
        archive.finish(&extra, extra.size)?;
    }
    Ok(Parts { control, files })
}

/// The next member that counts; names that begin with `_` are left to others by the format.
fn next<R: Read>(archive: &mut ArReader<R>, wanted: &str) -> io::Result<ArMember> {
    loop {
        let Some(member) = archive.next_member()? else {
            return Err(invalid(format!("it ends before {wanted}")));
        };
        if member.name.starts_with('_') {
            archive.finish(&member, member.size)?;
            continue;
        }
        if member.name != wanted
            && !member.name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'))
        {
            return Err(invalid(format!("{} stands where {wanted} should", member.name.escape_debug())));
        }
        return Ok(member);
    }
}

fn check_format<R: Read>(archive: &mut ArReader<R>, member: &ArMember) -> io::Result<()> {
    let mut text = String::new();
    archive.data(member).take(64).read_to_string(&mut text)?;
    archive.finish(member, member.size - text.len() as u64)?;
    if !text.starts_with("2.") {
        return Err(invalid(format!("its format is `{}`; 2.0 is known", text.trim().escape_debug())));
    }
    Ok(())
}

fn read_member<R: Read, T>(
    archive: &mut ArReader<R>,
    member: &ArMember,
    stem: &str,
    read: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> io::Result<T> {
    let mut data = archive.data(member);
    let explain = |error: io::Error| invalid(format!("{}: {error}", member.name));
    let value = {
        let mut plain = decompressor(member.name.strip_prefix(stem).unwrap_or_default(), &mut data)?;
        let value = read(&mut plain).map_err(explain)?;
        // To the end, so that the compressor's own checksum is looked at.
        io::copy(&mut plain, &mut io::sink()).map_err(explain)?;
        value
    };
    let left = data.limit();
    archive.finish(member, left)?;
    Ok(value)
}

fn decompressor<'a>(suffix: &str, data: &'a mut dyn Read) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match suffix {
        "" => Box::new(data),
        ".gz" => Box::new(flate2::read::MultiGzDecoder::new(data)),
        ".xz" => Box::new(liblzma::read::XzDecoder::new_multi_decoder(data)),
        ".zst" => Box::new(zstd::stream::read::Decoder::new(data)?),
        other => return Err(invalid(format!("compression `{other}` is not known; gz, xz and zst are"))),
    })
}

fn read_control(reader: &mut dyn Read) -> io::Result<BTreeMap<String, String>> {
    let mut members = BTreeMap::new();
    for entry in tar::Archive::new(reader).entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        if entry.size() > LONGEST_CONTROL_MEMBER || members.len() >= CONTROL_MEMBERS {
            return Err(invalid(format!("{name} is too large to be part of a control archive")));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        let text = String::from_utf8(content)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into());
        members.insert(name, text);
    }
    Ok(members)
}

fn read_files(reader: &mut dyn Read) -> io::Result<Vec<FileEntry>> {
    let mut files = Vec::new();
    for entry in tar::Archive::new(reader).entries()? {
        let entry = entry?;
        files.push(file_entry(&entry)?);
    }
    Ok(files)
}

fn file_entry<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<FileEntry> {
    let header = entry.header();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let kind = header.entry_type();
    let kind = if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_symlink() {
        FileKind::Symlink
    } else if kind.is_hard_link() {
        FileKind::HardLink
    } else if kind.is_file() {
        FileKind::File
    } else {
        FileKind::Other
    };
    Ok(FileEntry {
        path: text(&entry.path_bytes()),
        kind,
        mode: header.mode()? & 0o7777,
        owner: owner(header.username_bytes(), header.uid()?),
        group: owner(header.groupname_bytes(), header.gid()?),
        size: entry.size(),
        mtime: header.mtime()?,
        link_target: entry.link_name_bytes().map(|target| text(&target)),
    })
}

fn owner(name: Option<&[u8]>, id: u64) -> String {
    match name.filter(|name| !name.is_empty()) {
        Some(name) => String::from_utf8_lossy(name).into_owned(),
        None => id.to_string(),
    }
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
