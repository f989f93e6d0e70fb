//! A package's contents, complete in mind before any of it is written: the control archive and the data archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use md5::{Digest, Md5};
use sha2::Sha256;
use tar::EntryType;

use super::super::package::tree::{self, Entry, Kind, Tree};
use super::super::package::{self, Naming, PackedFile, scripts as maintainer_scripts};
use super::archive::{self, TarEntry};
use super::control::{self, Paragraph};
use super::documents;
use super::{Build, Error, scripts};

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

/// The largest further file of the control archive.
const LARGEST_MEMBER: u64 = 4 << 20;

pub(in super::super) struct Contents {
    /// The time of what has no time of its own, and the latest there is.
    pub(in super::super) time: u64,
    paragraph: Paragraph,
    tree: Tree,
    conffiles: Vec<Vec<u8>>,
    /// Scripts and further members of the control archive, with their modes.
    members: Vec<(String, u32, Vec<u8>)>,
    /// What came out of tar files lies there until it is packed.
    _staging: Option<tempfile::TempDir>,
}

/// What is known once the data archive is written.
pub(super) struct Written {
    pub(super) md5sums: String,
    pub(super) files: Vec<PackedFile>,
}

impl Contents {
    /// Checks fields first, then scripts, then inputs.
    pub(in super::super) fn gather(build: &Build) -> Result<Contents, Error> {
        let naming = super::naming(build)?;
        let mut paragraph = paragraph(build, &naming)?;
        let members = members(build)?;
        let read = documents::read_changelog;
        let changelog = build.changelog.as_deref().map(read).transpose()?;
        let upstream = build.deb.upstream_changelog.as_deref().map(read).transpose()?;
        package::check_chdir(build)?;
        let inputs = tree::collect(build)?;
        let mut tree = inputs.tree;
        build.services.add(&mut tree)?;
        tree::finish(build, &mut tree)?;
        let newest = tree.values().filter_map(|entry| entry.mtime).max().unwrap_or(0);
        let time = build.source_date_epoch.unwrap_or(newest);
        let conffiles = conffiles(build, &tree)?;
        let changelogs = documents::Changelogs { own: changelog, upstream };
        documents::add_documents(build, &naming, &paragraph, changelogs, time, &mut tree)?;
        let size = build.deb.installed_size.unwrap_or_else(|| installed_size_kib(&tree));
        paragraph.set("Installed-Size", size.to_string());
        Ok(Contents {
            time,
            paragraph: in_order(&paragraph),
            tree,
            conffiles,
            members,
            _staging: inputs.staging,
        })
    }

    pub(super) fn installed_size_kib(&self) -> u64 {
        installed_size_kib(&self.tree)
    }

    /// Writes the data archive.
    pub(super) fn write_data(&self, out: &mut impl Write) -> Result<Written, Error> {
        let mut written = Written { md5sums: String::new(), files: Vec::new() };
        let mut sums: HashMap<&[u8], (Sums, u64)> = HashMap::new();
        let root = Entry::directory();
        write_entry(out, b"", &root, self.time)?;
        for (path, entry) in &self.tree {
            let (sums_of, size) = match (write_entry(out, path, entry, self.time)?, &entry.kind) {
                (Some(found), kind) => (found, kind.size()),
                (None, Kind::HardLink(first)) => match sums.get(first.as_slice()) {
                    Some((found, size)) => (found.clone(), *size),
                    None => continue,
                },
                _ => continue,
            };
            written.md5sums.push_str(&format!("{}  {}\n", sums_of.md5, tree::show(path)));
            written.files.push(PackedFile {
                path: format!("/{}", tree::show(path)),
                mode: entry.mode,
                size,
                sha256: sums_of.sha256.clone(),
            });
            sums.insert(path, (sums_of, size));
        }
        archive::write_tar_end(out).map_err(|source| writing(b"data.tar", source))?;
        Ok(written)
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
        members.extend(self.members.iter().map(|(name, mode, text)| (name.as_str(), *mode, text.clone())));
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

/// The sums of a file's content.
#[derive(Clone)]
struct Sums {
    md5: String,
    sha256: String,
}

/// The members of the control archive that the order brings.
fn members(build: &Build) -> Result<Vec<(String, u32, Vec<u8>)>, Error> {
    let mut members: Vec<(String, u32, Vec<u8>)> =
        scripts::members(build)?.into_iter().map(|(name, text)| (name.to_owned(), 0o755, text)).collect();
    if let Some(path) = &build.deb.config {
        let script = maintainer_scripts::Script::read(path)?;
        members.push(("config".to_owned(), 0o755, script.into_text().into_bytes()));
    }
    if let Some(path) = &build.deb.templates {
        members.push(("templates".to_owned(), 0o644, maintainer_scripts::read_small(path, LARGEST_MEMBER)?));
    }
    if let Some(text) = &build.deb.shlibs {
        members.push(("shlibs".to_owned(), 0o644, format!("{}\n", text.trim_end()).into_bytes()));
    }
    let triggers = triggers(build)?;
    if !triggers.is_empty() {
        members.push(("triggers".to_owned(), 0o644, triggers.into_bytes()));
    }
    for path in &build.deb.meta_files {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let taken = |known: &str| known == name || members.iter().any(|(member, ..)| member == name);
        if ["control", "md5sums", "conffiles"].iter().any(|known| taken(known)) {
            return Err(Error::input(
                path,
                "the package has such a member already; its own option says what is in it",
            ));
        }
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(fine) {
            return Err(Error::input(
                path,
                "a member of the control archive has letters, digits and . _ - in its name",
            ));
        }
        let content = maintainer_scripts::read_small(path, LARGEST_MEMBER)?;
        let mode = if content.starts_with(b"#!") { 0o755 } else { 0o644 };
        members.push((name.to_owned(), mode, content));
    }
    Ok(members)
}

fn triggers(build: &Build) -> Result<String, Error> {
    let mut text = String::new();
    for (option, word, names) in [
        ("deb-interest", "interest", &build.deb.interest),
        ("deb-interest-noawait", "interest-noawait", &build.deb.interest_noawait),
        ("deb-activate", "activate", &build.deb.activate),
        ("deb-activate-noawait", "activate-noawait", &build.deb.activate_noawait),
    ] {
        for name in names {
            let printable = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
            if !printable {
                return Err(Error::field(
                    option,
                    format!("`{}` is no name of a trigger", name.escape_debug()),
                ));
            }
            text.push_str(&format!("{word} {name}\n"));
        }
    }
    Ok(text)
}

fn header<'a>(
    name: &'a [u8],
    kind: EntryType,
    mode: u32,
    mtime: u64,
    size: u64,
    link: &'a [u8],
) -> TarEntry<'a> {
    TarEntry { name, kind, mode, mtime, size, link_target: link, user: "root", group: "root" }
}

/// With the mode and owner of `entry`.
fn header_of<'a>(
    entry: &'a Entry,
    name: &'a [u8],
    kind: EntryType,
    mtime: u64,
    size: u64,
    link: &'a [u8],
) -> TarEntry<'a> {
    let plain = header(name, kind, entry.mode, mtime, size, link);
    TarEntry { user: entry.owner.user(), group: entry.owner.group(), ..plain }
}

/// Writes one entry of the data archive; answers the sums of a file's content.
fn write_entry(out: &mut impl Write, path: &[u8], entry: &Entry, latest: u64) -> Result<Option<Sums>, Error> {
    let mtime = entry.mtime.unwrap_or(latest).min(latest);
    let mut name = [b"./", path].concat();
    let failed = |source| writing(path, source);
    let plain = |kind, name: &[u8], link: &[u8], out: &mut _| {
        archive::write_tar_header(out, &header_of(entry, name, kind, mtime, 0, link)).map_err(failed)
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
            let header = header_of(entry, &name, EntryType::Regular, mtime, size, b"");
            archive::write_tar_header(out, &header).map_err(failed)?;
            out.write_all(content).map_err(failed)?;
            archive::write_tar_padding(out, size).map_err(failed)?;
            let (md5, sha256) = (hex::encode(Md5::digest(content)), hex::encode(Sha256::digest(content)));
            Ok(Some(Sums { md5, sha256 }))
        }
        Kind::File { source, size, .. } => {
            let header = header_of(entry, &name, EntryType::Regular, mtime, *size, b"");
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
fn copy_file(path: &Path, size: u64, out: &mut impl Write) -> Result<Sums, Error> {
    let unreadable = |error: io::Error| Error::input(path, format!("it can't be read: {error}"));
    let mut file = File::open(path).map_err(unreadable)?;
    let (mut md5, mut sha256) = (Md5::new(), Sha256::new());
    let mut buffer = vec![0; 1 << 16];
    let mut copied = 0;
    loop {
        let read = file.read(&mut buffer).map_err(unreadable)?;
        copied += read as u64;
        if copied > size || (read == 0 && copied < size) {
            return Err(Error::input(path, "it changed while it was packaged"));
        }
        if read == 0 {
            return Ok(Sums { md5: hex::encode(md5.finalize()), sha256: hex::encode(sha256.finalize()) });
        }
        md5.update(&buffer[..read]);
        sha256.update(&buffer[..read]);
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

fn paragraph(build: &Build, naming: &Naming) -> Result<Paragraph, Error> {
    let custom = custom_control(build)?;
    let of_file = |field: &str| custom.as_ref().and_then(|custom| custom.get(field)).map(str::to_owned);
    let mut paragraph = Paragraph::default();
    paragraph.set("Package", &naming.name);
    paragraph.set("Version", &naming.full_version);
    paragraph.set("Architecture", &naming.architecture);
    for (field, option, value) in [
        ("License", "license", (&build.license, None)),
        ("Vendor", "vendor", (&build.vendor, None)),
        ("Maintainer", "maintainer", (&build.maintainer, Some(DEFAULT_MAINTAINER))),
        ("Section", "category", (&build.category, Some("default"))),
        ("Priority", "priority", (&build.priority, Some("optional"))),
        ("Homepage", "url", (&build.url, None)),
    ] {
        let (given, default) = value;
        let Some(value) = given.clone().or_else(|| of_file(field)).or_else(|| default.map(str::to_owned))
        else {
            continue;
        };
        let value = value.as_str();
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
        ("Build-Depends", "deb-build-depends", &build.deb.build_depends),
    ] {
        let values = match of_file(field).filter(|_| values.is_empty()) {
            Some(text) => vec![text],
            None => values.clone(),
        };
        let spelled = |value: &String| {
            control::relation(value).map(|relation| match build.deb.ignore_iteration_in_dependencies {
                true => control::without_revision(&relation),
                false => relation,
            })
        };
        let relations: Result<Vec<_>, _> = values.iter().map(spelled).collect();
        let relations = relations.map_err(|reason| Error::field(option, reason))?;
        if !relations.is_empty() {
            paragraph.set(field, relations.join(", "));
        }
    }
    let described =
        build.description.clone().or_else(|| of_file("Description").map(|text| text.replace("\n ", "\n")));
    let description = described.as_deref().unwrap_or(DEFAULT_DESCRIPTION);
    let mut description =
        control::description(description).map_err(|reason| Error::field("description", reason))?;
    if !description.contains('\n') {
        // Debian takes a synopsis alone for a mistake.
        description.push_str(&format!("\n {} is packaged by those who make it, not by Debian.", naming.name));
    }
    paragraph.set("Description", description);
    for (name, value) in &build.fields {
        add_custom_field(&mut paragraph, name, value).map_err(|reason| Error::field("field", reason))?;
    }
    for (name, value) in custom.iter().flat_map(Paragraph::iter) {
        if paragraph.get(name).is_none() && !OWN_FIELDS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            paragraph.set(name, value);
        }
    }
    Ok(paragraph)
}

/// The fields of `--deb-custom-control`. Who the package is stays with the options.
fn custom_control(build: &Build) -> Result<Option<Paragraph>, Error> {
    let Some(path) = &build.deb.custom_control else { return Ok(None) };
    let content = maintainer_scripts::read_small(path, LARGEST_MEMBER)?;
    let text = String::from_utf8(content).map_err(|_| Error::input(path, "it is no text in UTF-8"))?;
    Paragraph::parse(&text).map(Some).map_err(|reason| Error::input(path, reason))
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
