//! A package's contents, complete in mind before any of it is written: the control archive and the data archive.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use md5::{Digest, Md5};
use tar::EntryType;

use super::archive::{self, TarEntry};
use super::control::{self, Paragraph};
use super::documents;
use super::tree::{self, Entry, Kind, Tree};
use super::{Build, Error, Version};

pub(super) const DEFAULT_MAINTAINER: &str = "Unnamed maintainer <unnamed@packages.invalid>";
const DEFAULT_DESCRIPTION: &str = "software packaged without a description";

/// Fields that have an option of their own, so no custom field may bring them.
const OWN_FIELDS: [&str; 21] = [
    "Package",
    "Version",
    "Architecture",
    "Maintainer",
    "Installed-Size",
    "Description",
    "License",
    "Vendor",
    "Homepage",
    "Section",
    "Priority",
    "Depends",
    "Pre-Depends",
    "Conflicts",
    "Breaks",
    "Provides",
    "Replaces",
    "Recommends",
    "Suggests",
    "Status",
    "Conffiles",
];

/// Who a package is.
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) version: Version,
    pub(super) architecture: String,
}

impl Identity {
    pub(super) fn of(build: &Build) -> Result<Identity, Error> {
        let version = Version::from_parts(build.epoch, &build.version, build.iteration.as_deref());
        let architecture = control::architecture(build.architecture.as_deref().unwrap_or("native"));
        Ok(Identity {
            name: control::package_name(&build.name).map_err(|reason| Error::field("name", reason))?,
            version: version.map_err(|reason| Error::field("version", reason))?,
            architecture: architecture.map_err(|reason| Error::field("architecture", reason))?,
        })
    }
}

pub(super) struct Contents {
    pub(super) identity: Identity,
    /// The time of what has no time of its own, and the latest there is.
    pub(super) time: u64,
    paragraph: Paragraph,
    tree: Tree,
    conffiles: Vec<Vec<u8>>,
    scripts: Vec<(&'static str, Vec<u8>)>,
}

impl Contents {
    /// Checks fields first, then scripts, then inputs.
    pub(super) fn gather(build: &Build) -> Result<Contents, Error> {
        let identity = Identity::of(build)?;
        let mut paragraph = paragraph(build, &identity)?;
        let scripts = build.scripts.read(Path::new("."))?;
        let changelog = build.changelog.as_ref().map(|path| documents::read_changelog(path)).transpose()?;
        if let Some(chdir) = &build.chdir {
            let metadata = fs::metadata(chdir).map_err(|error| Error::input(chdir, error.to_string()))?;
            if !metadata.is_dir() {
                return Err(Error::input(chdir, "it is no folder"));
            }
        }
        let mut tree = tree::collect(build)?;
        let newest = tree.values().filter_map(|entry| entry.mtime).max().unwrap_or(0);
        let time = build.source_date_epoch.unwrap_or(newest);
        let conffiles = conffiles(build, &tree)?;
        documents::add_documents(build, &identity, &paragraph, changelog, time, &mut tree)?;
        paragraph.set("Installed-Size", installed_size_kib(&tree).to_string());
        Ok(Contents { identity, time, paragraph: in_order(&paragraph), tree, conffiles, scripts })
    }

    pub(super) fn installed_size_kib(&self) -> u64 {
        installed_size_kib(&self.tree)
    }

    /// Writes the data archive; answers the md5sums file.
    pub(super) fn write_data(&self, out: &mut impl Write) -> Result<String, Error> {
        let mut md5sums = String::new();
        let mut sums: HashMap<&[u8], String> = HashMap::new();
        let root = Entry::directory();
        write_entry(out, b"", &root, self.time)?;
        for (path, entry) in &self.tree {
            let sum = match write_entry(out, path, entry, self.time)? {
                Some(sum) => sum,
                None => match &entry.kind {
                    Kind::HardLink(first) => sums.get(first.as_slice()).cloned().unwrap_or_default(),
                    _ => continue,
                },
            };
            md5sums.push_str(&format!("{sum}  {}\n", tree::show(path)));
            sums.insert(path, sum);
        }
        archive::write_tar_end(out).map_err(|source| writing(b"data.tar", source))?;
        Ok(md5sums)
    }

    /// Writes the control archive.
    pub(super) fn write_control(&self, md5sums: &str, out: &mut impl Write) -> io::Result<()> {
        let mut members: Vec<(&str, u32, Vec<u8>)> =
            vec![("control", 0o644, self.paragraph.to_string().into_bytes())];
        if !self.conffiles.is_empty() {
            let list =
                self.conffiles.iter().flat_map(|path| [b"/", path.as_slice(), b"\n"].concat()).collect();
            members.push(("conffiles", 0o644, list));
        }
        members.push(("md5sums", 0o644, md5sums.as_bytes().to_vec()));
        members.extend(self.scripts.iter().map(|(name, text)| (*name, 0o755, text.clone())));
        members.sort_by(|one, other| one.0.cmp(other.0));
        let root = header(b"./", EntryType::Directory, 0o755, self.time, 0, b"");
        archive::write_tar_header(out, &root)?;
        for (name, mode, content) in &members {
            let (name, size) = (format!("./{name}"), content.len() as u64);
            archive::write_tar_header(
                out,
                &header(name.as_bytes(), EntryType::Regular, *mode, self.time, size, b""),
            )?;
            out.write_all(content)?;
            archive::write_tar_padding(out, size)?;
        }
        archive::write_tar_end(out)
    }
}

fn header<'a>(
    name: &'a [u8],
    kind: EntryType,
    mode: u32,
    mtime: u64,
    size: u64,
    link: &'a [u8],
) -> TarEntry<'a> {
    TarEntry { name, kind, mode, mtime, size, link_target: link }
}

/// Writes one entry of the data archive; answers the MD5 of a file's content.
fn write_entry(
    out: &mut impl Write,
    path: &[u8],
    entry: &Entry,
    latest: u64,
) -> Result<Option<String>, Error> {
    let mtime = entry.mtime.unwrap_or(latest).min(latest);
    let mut name = [b"./", path].concat();
    let failed = |source| writing(path, source);
    let plain = |kind, name: &[u8], link: &[u8], out: &mut _| {
        archive::write_tar_header(out, &header(name, kind, entry.mode, mtime, 0, link)).map_err(failed)
    };
    match &entry.kind {
        Kind::Directory => {
            if !path.is_empty() {
                name.push(b'/');
            }
            plain(EntryType::Directory, &name, b"", out)?;
            Ok(None)
        }
        Kind::Symlink(target) => {
            plain(EntryType::Symlink, &name, target, out)?;
            Ok(None)
        }
        Kind::HardLink(first) => {
            plain(EntryType::Link, &name, &[b"./", first.as_slice()].concat(), out)?;
            Ok(None)
        }
        Kind::Made(content) => {
            let size = content.len() as u64;
            let header = header(&name, EntryType::Regular, entry.mode, mtime, size, b"");
            archive::write_tar_header(out, &header).map_err(failed)?;
            out.write_all(content).map_err(failed)?;
            archive::write_tar_padding(out, size).map_err(failed)?;
            Ok(Some(hex::encode(Md5::digest(content))))
        }
        Kind::File { source, size, .. } => {
            let header = header(&name, EntryType::Regular, entry.mode, mtime, *size, b"");
            archive::write_tar_header(out, &header).map_err(failed)?;
            let sum = copy_file(source, *size, out)?;
            archive::write_tar_padding(out, *size).map_err(failed)?;
            Ok(Some(sum))
        }
    }
}

fn writing(path: &[u8], source: io::Error) -> Error {
    Error::Write { path: tree::as_path(path), source }
}

/// Copies exactly `size` bytes; a file that changes meanwhile is found out.
fn copy_file(path: &Path, size: u64, out: &mut impl Write) -> Result<String, Error> {
    let unreadable = |error: io::Error| Error::input(path, format!("it can't be read: {error}"));
    let mut file = File::open(path).map_err(unreadable)?;
    let mut sum = Md5::new();
    let mut buffer = vec![0; 1 << 16];
    let mut copied = 0;
    loop {
        let read = file.read(&mut buffer).map_err(unreadable)?;
        copied += read as u64;
        if copied > size || (read == 0 && copied < size) {
            return Err(Error::input(path, "it changed while it was packaged"));
        }
        if read == 0 {
            return Ok(hex::encode(sum.finalize()));
        }
        sum.update(&buffer[..read]);
        out.write_all(&buffer[..read]).map_err(|source| Error::Write { path: path.to_owned(), source })?;
    }
}

/// Debian's reckoning: files in whole KiB, everything else one each.
fn installed_size_kib(tree: &Tree) -> u64 {
    let size = |entry: &Entry| match &entry.kind {
        Kind::File { size, .. } => size.div_ceil(1024),
        Kind::Made(content) => (content.len() as u64).div_ceil(1024),
        Kind::Directory | Kind::Symlink(_) => 1,
        Kind::HardLink(_) => 0,
    };
    tree.values().map(size).sum()
}

fn paragraph(build: &Build, identity: &Identity) -> Result<Paragraph, Error> {
    let mut paragraph = Paragraph::default();
    paragraph.set("Package", &identity.name);
    paragraph.set("Version", identity.version.to_string());
    paragraph.set("Architecture", &identity.architecture);
    let default_maintainer = Some(DEFAULT_MAINTAINER.to_owned());
    let default_category = Some("default".to_owned());
    let default_priority = Some("optional".to_owned());
    for (field, option, value) in [
        ("License", "license", &build.license),
        ("Vendor", "vendor", &build.vendor),
        ("Maintainer", "maintainer", &build.maintainer.clone().or(default_maintainer)),
        ("Section", "category", &build.category.clone().or(default_category)),
        ("Priority", "priority", &build.priority.clone().or(default_priority)),
        ("Homepage", "url", &build.url),
    ] {
        let Some(value) = value else { continue };
        paragraph.set(field, control::check_one_line(value).map_err(|reason| Error::field(option, reason))?);
    }
    for (field, option, values) in [
        ("Pre-Depends", "pre-depends", &build.pre_depends),
        ("Depends", "depends", &build.depends),
        ("Recommends", "recommends", &build.recommends),
        ("Suggests", "suggests", &build.suggests),
        ("Conflicts", "conflicts", &build.conflicts),
        ("Breaks", "breaks", &build.breaks),
        ("Replaces", "replaces", &build.replaces),
        ("Provides", "provides", &build.provides),
    ] {
        let relations: Result<Vec<_>, _> = values.iter().map(|value| control::relation(value)).collect();
        let relations = relations.map_err(|reason| Error::field(option, reason))?;
        if !relations.is_empty() {
            paragraph.set(field, relations.join(", "));
        }
    }
    let description = build.description.as_deref().unwrap_or(DEFAULT_DESCRIPTION);
    let mut description =
        control::description(description).map_err(|reason| Error::field("description", reason))?;
    if !description.contains('\n') {
        // Debian takes a synopsis alone for a mistake.
        description
            .push_str(&format!("\n {} is packaged by those who make it, not by Debian.", identity.name));
    }
    paragraph.set("Description", description);
    for (name, value) in &build.fields {
        add_custom_field(&mut paragraph, name, value).map_err(|reason| Error::field("field", reason))?;
    }
    Ok(paragraph)
}

fn add_custom_field(paragraph: &mut Paragraph, name: &str, value: &str) -> Result<(), String> {
    control::check_field_name(name)?;
    if OWN_FIELDS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
        return Err(format!("`{name}` has an option of its own; use that"));
    }
    if paragraph.get(name).is_some() {
        return Err(format!("`{name}` is given twice"));
    }
    let value = control::check_one_line(value).map_err(|reason| format!("`{name}`: {reason}"))?;
    paragraph.set(name, value);
    Ok(())
}

/// The order that dpkg writes: who it is first, the long description after the rest.
fn in_order(paragraph: &Paragraph) -> Paragraph {
    const FIRST: [&str; 19] = [
        "Package",
        "Version",
        "License",
        "Vendor",
        "Architecture",
        "Maintainer",
        "Installed-Size",
        "Pre-Depends",
        "Depends",
        "Recommends",
        "Suggests",
        "Conflicts",
        "Breaks",
        "Replaces",
        "Provides",
        "Section",
        "Priority",
        "Homepage",
        "Description",
    ];
    let mut ordered = Paragraph::default();
    for name in FIRST {
        if let Some(value) = paragraph.get(name) {
            ordered.set(name, value);
        }
    }
    for (name, value) in paragraph.iter() {
        ordered.set(name, value);
    }
    ordered
}

/// Files under /etc, and what was named; as paths in the package.
fn conffiles(build: &Build, tree: &Tree) -> Result<Vec<Vec<u8>>, Error> {
    let mut found: Vec<Vec<u8>> = Vec::new();
    if !build.no_default_config_files {
        let files = tree.iter().filter(|(path, entry)| path.starts_with(b"etc/") && entry.is_file());
        found.extend(files.map(|(path, _)| path.clone()));
    }
    for named in &build.config_files {
        let wrong =
            |reason: String| Error::field("config-files", format!("`{}`: {reason}", named.escape_debug()));
        let path =
            tree::target_path(Path::new(named)).map_err(|_| wrong("`..` has no place there".to_owned()))?;
        let folder = [path.as_slice(), b"/"].concat();
        let before = found.len();
        match tree.get(&path) {
            Some(entry) if entry.is_file() => found.push(path),
            Some(entry) if entry.kind == Kind::Directory => {
                let below = tree.iter().filter(|(path, entry)| path.starts_with(&folder) && entry.is_file());
                found.extend(below.map(|(path, _)| path.clone()));
            }
            Some(_) => {
                return Err(wrong(
                    "it is a symbolic link, which dpkg can't treat as configuration".to_owned(),
                ));
            }
            None => return Err(wrong("the package holds no such file".to_owned())),
        }
        if found.len() == before {
            return Err(wrong("the folder holds no file".to_owned()));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}
