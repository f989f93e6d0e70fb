//! An .rpm's contents, complete in mind before any of it is written: the tree, what of it the package owns, and the fields of the header.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::super::package::tree::{self, Entry, Kind, Tree};
use super::super::package::{self, Build, Error, Naming, PackedFile, scripts as maintainer_scripts};
use super::header::Header;
use super::relation::{self, Relation};
use super::scripts::{self, Scriptlet};
use super::{compressor, cpio, tag};

const DEFAULT_DESCRIPTION: &str = "software packaged without a description";
const LARGEST_CHANGELOG: u64 = 4 << 20;

/// Folders that every system has; no package makes them its own by itself.
const FOLDERS_OF_THE_SYSTEM: [&str; 36] = [
    "bin",
    "boot",
    "dev",
    "etc",
    "etc/default",
    "etc/init.d",
    "etc/opt",
    "etc/sysconfig",
    "home",
    "lib",
    "lib64",
    "media",
    "mnt",
    "opt",
    "root",
    "run",
    "sbin",
    "srv",
    "tmp",
    "usr",
    "usr/bin",
    "usr/include",
    "usr/lib",
    "usr/lib/systemd",
    "usr/lib/systemd/system",
    "usr/lib64",
    "usr/libexec",
    "usr/local",
    "usr/local/bin",
    "usr/sbin",
    "usr/share",
    "usr/share/doc",
    "usr/share/man",
    "var",
    "var/lib",
    "var/log",
];

/// A changelog's entry: when, who, what.
struct Change {
    time: u32,
    name: String,
    text: String,
}

pub(in super::super) struct Contents {
    pub(in super::super) time: u64,
    pub(super) naming: Naming,
    /// What the package owns, in rpm's order.
    tree: Tree,
    configuration: BTreeSet<Vec<u8>>,
    scriptlets: Vec<Scriptlet>,
    relations: Relations,
    changes: Vec<Change>,
    /// Some file is too large for plain cpio, or all together for the header's narrow numbers.
    is_large: bool,
    _staging: Option<tempfile::TempDir>,
}

struct Relations {
    requires: Vec<Relation>,
    provides: Vec<Relation>,
    conflicts: Vec<Relation>,
    obsoletes: Vec<Relation>,
    recommends: Vec<Relation>,
    suggests: Vec<Relation>,
}

/// The SHA-256 of each regular file, in hex, by path.
pub(super) type Digests = HashMap<Vec<u8>, String>;

impl Contents {
    /// Checks fields first, then scripts, then inputs.
    pub(in super::super) fn gather(build: &Build) -> Result<Contents, Error> {
        let naming = super::naming(build)?;
        check_texts(build)?;
        let scriptlets = scripts::scriptlets(build)?;
        let mut relations = relations(build, &naming, &scriptlets)?;
        let changes = build.changelog.as_deref().map(read_changelog).transpose()?.unwrap_or_default();
        package::check_chdir(build)?;
        let inputs = tree::collect(build)?;
        let mut tree = inputs.tree;
        build.services.add(&mut tree)?;
        set_default_modes(build, &mut tree)?;
        tree::finish(build, &mut tree)?;
        let newest = tree.values().filter_map(|entry| entry.mtime).max().unwrap_or(0);
        let time = build.source_date_epoch.unwrap_or(newest);
        let configuration = configuration(build, &tree)?;
        let tree = owned(build, tree)?;
        let total: u64 = tree.values().map(|entry| entry.kind.size()).sum();
        let is_large = total > u64::from(u32::MAX) - (1 << 20);
        if !configuration.is_empty() {
            let own = Relation {
                flags: tag::EQUAL | tag::OF_CONFIGURATION,
                ..Relation::equal(format!("config({})", naming.name), &naming.full_version)
            };
            relations.requires.push(own.clone());
            relations.provides.push(own);
        }
        relations.sort();
        let _staging = inputs.staging;
        let mut contents = Contents {
            time,
            naming,
            tree,
            configuration,
            scriptlets,
            relations,
            changes,
            is_large: false,
            _staging,
        };
        if is_large {
            contents.become_large();
        }
        Ok(contents)
    }

    /// Takes the forms that have room for any size, which rpm must know.
    pub(super) fn become_large(&mut self) {
        self.is_large = true;
        self.relations.requires.push(Relation::feature("LargeFiles", "4.12.0-1"));
        self.relations.sort();
    }

    pub(super) fn installed_bytes(&self) -> u64 {
        self.tree.values().map(|entry| content_size(&entry.kind)).sum()
    }

    /// Writes the archive; answers the digests that the header lists.
    pub(super) fn write_payload(&self, out: &mut impl Write) -> Result<Digests, Error> {
        let mut digests = Digests::new();
        let links = self.links();
        let places = self.places();
        for path in self.payload_order(&links) {
            let Some(entry) = self.tree.get(path) else { continue };
            let set = &links[self.first_of(path)];
            let index = places.get(path).copied().unwrap_or(1) - 1;
            // Of files that are one, the last in the archive brings the content.
            let carries = set.last().is_none_or(|last| *last == path);
            let kind = if carries { self.content(path) } else { &Kind::Directory };
            let size = content_size(kind);
            let failed = |source: io::Error| Error::Write { path: tree::as_path(path), source };
            let written = if self.is_large {
                cpio::write_short_header(out, index)
            } else {
                let header = cpio::Entry {
                    name: &[b"./", path].concat(),
                    inode: self.inode(&places, path),
                    mode: u32::from(mode(entry)),
                    links: number(set.len().max(1) as u64),
                    mtime: self.mtime(entry),
                    size: number(size),
                };
                cpio::write_header(out, &header)
            };
            written.map_err(failed)?;
            match kind {
                Kind::File { source, size, .. } => {
                    let digest = copy_file(source, *size, out)?;
                    set.iter().for_each(|path| drop(digests.insert(path.to_vec(), digest.clone())));
                    digests.insert(path.to_vec(), digest);
                }
                Kind::Made(content) => {
                    out.write_all(content).map_err(failed)?;
                    digests.insert(path.to_vec(), hex::encode(Sha256::digest(content)));
                }
                Kind::Symlink(target) => out.write_all(target).map_err(failed)?,
                Kind::Directory | Kind::HardLink(_) => {}
            }
            cpio::write_padding(out, size).map_err(failed)?;
        }
        cpio::write_end(out).map_err(|source| Error::Write { path: "payload".into(), source })?;
        Ok(digests)
    }

    /// The order of the archive: rpm wants the names of one file behind one another.
    fn payload_order<'a>(&'a self, links: &HashMap<&'a [u8], Vec<&'a [u8]>>) -> Vec<&'a [u8]> {
        let mut order = Vec::with_capacity(self.tree.len());
        for (path, entry) in &self.tree {
            match links.get(path.as_slice()) {
                Some(set) if !set.is_empty() => order.extend(set),
                // With the first of its names.
                _ if matches!(entry.kind, Kind::HardLink(_)) => {}
                _ => order.push(path.as_slice()),
            }
        }
        order
    }

    /// The path of the file that `path` is one with: itself where it is alone or the first.
    fn first_of<'a>(&'a self, path: &'a [u8]) -> &'a [u8] {
        match self.tree.get(path).map(|entry| &entry.kind) {
            Some(Kind::HardLink(first)) => first,
            _ => path,
        }
    }

    /// Paths of one file, in order, by the first of them; empty for what has no other name.
    fn links(&self) -> HashMap<&[u8], Vec<&[u8]>> {
        let mut links: HashMap<&[u8], Vec<&[u8]>> = HashMap::new();
        for (path, entry) in &self.tree {
            let set = links.entry(self.first_of(path)).or_default();
            if let Kind::HardLink(first) = &entry.kind {
                if set.is_empty() {
                    set.push(first);
                }
                set.push(path);
            }
        }
        links
    }

    /// What is in the file called `path`, whichever of its names that is.
    fn content(&self, path: &[u8]) -> &Kind {
        self.tree.get(self.first_of(path)).map_or(&Kind::Directory, |entry| &entry.kind)
    }

    /// Each path's place in the package, from 1 on.
    fn places(&self) -> HashMap<&[u8], u32> {
        self.tree
            .keys()
            .enumerate()
            .map(|(place, path)| (path.as_slice(), number(place as u64 + 1)))
            .collect()
    }

    /// Files that are one have one number.
    fn inode(&self, places: &HashMap<&[u8], u32>, path: &[u8]) -> u32 {
        places.get(self.first_of(path)).copied().unwrap_or(1)
    }

    fn mtime(&self, entry: &Entry) -> u32 {
        number(entry.mtime.unwrap_or(self.time).min(self.time))
    }

    pub(super) fn packed_files(&self, digests: &Digests) -> Vec<PackedFile> {
        let regular = self.tree.iter().filter(|(_, entry)| entry.is_file());
        let packed = regular.map(|(path, entry)| PackedFile {
            path: format!("/{}", tree::show(path)),
            mode: entry.mode,
            size: content_size(self.content(path)),
            sha256: digests.get(path).cloned().unwrap_or_default(),
        });
        packed.collect()
    }

    /// The package's header.
    pub(super) fn header(&self, build: &Build, digests: &Digests, payload: &str, plain: &str) -> Header {
        let mut header = Header::default();
        header.texts(tag::LANGUAGES, &["C"]);
        self.add_identity(build, &mut header);
        self.add_files(digests, &mut header);
        for scriptlet in &self.scriptlets {
            scriptlet.add_to(&mut header);
        }
        self.relations.add_to(&mut header);
        header
            .numbers(tag::CHANGELOG_TIME, &self.changes.iter().map(|change| change.time).collect::<Vec<_>>());
        header
            .texts(tag::CHANGELOG_NAME, &self.changes.iter().map(|change| &change.name).collect::<Vec<_>>());
        header
            .texts(tag::CHANGELOG_TEXT, &self.changes.iter().map(|change| &change.text).collect::<Vec<_>>());
        header.text(tag::PAYLOAD_FORMAT, "cpio");
        if let Some(known) = compressor(build.compression) {
            header.text(tag::PAYLOAD_COMPRESSOR, known.name);
            header.text(tag::PAYLOAD_LEVEL, known.level);
        }
        header.texts(tag::PAYLOAD_DIGEST, &[payload]);
        header.texts(tag::PAYLOAD_DIGEST_PLAIN, &[plain]);
        header.numbers(tag::PAYLOAD_DIGEST_ALGORITHM, &[tag::SHA256]);
        header
    }

    fn add_identity(&self, build: &Build, header: &mut Header) {
        let Naming { name, version, architecture, .. } = &self.naming;
        let release = self.naming.iteration.as_deref().unwrap_or("1");
        header.text(tag::NAME, name);
        header.text(tag::VERSION, version);
        header.text(tag::RELEASE, release);
        if let Some(epoch) = build.epoch {
            header.numbers(tag::EPOCH, &[epoch]);
        }
        let description = build.description.as_deref().unwrap_or(DEFAULT_DESCRIPTION).trim();
        let summary = build.rpm.summary.as_deref().or(description.lines().next()).unwrap_or_default();
        header.translated(tag::SUMMARY, summary.trim());
        header.translated(tag::DESCRIPTION, description);
        header.translated(tag::GROUP, build.category.as_deref().unwrap_or("default"));
        for (tag, value) in
            [(tag::VENDOR, &build.vendor), (tag::PACKAGER, &build.maintainer), (tag::URL, &build.url)]
        {
            if let Some(value) = value {
                header.text(tag, value.trim());
            }
        }
        header.text(tag::LICENSE, build.license.as_deref().map_or("unknown", str::trim));
        header.text(tag::OS, build.rpm.os.as_deref().unwrap_or("linux"));
        header.text(tag::ARCHITECTURE, architecture);
        header.numbers(tag::BUILD_TIME, &[number(self.time)]);
        header.text(tag::BUILD_HOST, "localhost");
        header.text(tag::RPM_VERSION, "siskin");
        // Without it rpm takes the package for one of sources.
        header.text(tag::SOURCE_PACKAGE, &format!("{name}-{version}-{release}.src.rpm"));
        header.text(tag::ENCODING, "utf-8");
        let size = self.installed_bytes();
        match self.is_large {
            true => header.long_numbers(tag::LONG_SIZE, &[size]),
            false => header.numbers(tag::SIZE, &[number(size)]),
        }
    }

    fn add_files(&self, digests: &Digests, header: &mut Header) {
        if self.tree.is_empty() {
            return;
        }
        let entries: Vec<(&Vec<u8>, &Entry)> = self.tree.iter().collect();
        let mut folders: Vec<Vec<u8>> = Vec::new();
        let mut place_of: HashMap<Vec<u8>, u32> = HashMap::new();
        let (mut bases, mut indexes) = (Vec::new(), Vec::new());
        for (path, _) in &entries {
            let end = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
            let folder = [b"/", &path[..end]].concat();
            let place = *place_of.entry(folder.clone()).or_insert_with(|| {
                folders.push(folder);
                number(folders.len() as u64 - 1)
            });
            bases.push(&path[end..]);
            indexes.push(place);
        }
        header.texts(tag::BASE_NAMES, &bases);
        header.texts(tag::FOLDER_NAMES, &folders);
        header.numbers(tag::FOLDER_INDEXES, &indexes);
        let all = |of: &dyn Fn(&[u8], &Entry) -> u32| {
            entries.iter().map(|(path, entry)| of(path, entry)).collect::<Vec<u32>>()
        };
        let size = |path: &[u8]| content_size(self.content(path));
        match self.is_large {
            true => {
                let sizes: Vec<u64> = entries.iter().map(|(path, _)| size(path)).collect();
                header.long_numbers(tag::LONG_FILE_SIZES, &sizes);
            }
            false => header.numbers(tag::FILE_SIZES, &all(&|path, _| number(size(path)))),
        }
        header.short_numbers(
            tag::FILE_MODES,
            &entries.iter().map(|(_, entry)| mode(entry)).collect::<Vec<_>>(),
        );
        header.short_numbers(tag::FILE_DEVICE_NUMBERS, &vec![0; entries.len()]);
        header.numbers(tag::FILE_TIMES, &all(&|_, entry| self.mtime(entry)));
        let digest = |path: &[u8]| digests.get(path).map_or("", String::as_str);
        header.texts(tag::FILE_DIGESTS, &entries.iter().map(|(path, _)| digest(path)).collect::<Vec<_>>());
        header.numbers(tag::FILE_DIGEST_ALGORITHM, &[tag::SHA256]);
        let target = |entry: &Entry| match &entry.kind {
            Kind::Symlink(target) => target.clone(),
            _ => Vec::new(),
        };
        header.texts(tag::FILE_LINKS, &entries.iter().map(|(_, entry)| target(entry)).collect::<Vec<_>>());
        let flags = |path: &[u8]| match self.configuration.contains(path) {
            true => tag::CONFIGURATION | tag::NO_REPLACE,
            false => 0,
        };
        header.numbers(tag::FILE_FLAGS, &all(&|path, _| flags(path)));
        header
            .texts(tag::FILE_USERS, &entries.iter().map(|(_, entry)| entry.owner.user()).collect::<Vec<_>>());
        header.texts(
            tag::FILE_GROUPS,
            &entries.iter().map(|(_, entry)| entry.owner.group()).collect::<Vec<_>>(),
        );
        header.numbers(tag::FILE_VERIFY, &vec![u32::MAX; entries.len()]);
        header.numbers(tag::FILE_DEVICES, &vec![1; entries.len()]);
        let places = self.places();
        header.numbers(tag::FILE_INODES, &all(&|path, _| self.inode(&places, path)));
        header.texts(tag::FILE_LANGUAGES, &vec![""; entries.len()]);
    }
}

/// RPM counts a link's target as its content.
fn content_size(kind: &Kind) -> u64 {
    match kind {
        Kind::Symlink(target) => target.len() as u64,
        other => other.size(),
    }
}

fn number(wide: u64) -> u32 {
    u32::try_from(wide).unwrap_or(u32::MAX)
}

/// With the bits of its kind.
fn mode(entry: &Entry) -> u16 {
    let kind = match &entry.kind {
        Kind::Directory => 0o040_000,
        Kind::Symlink(_) => 0o120_000,
        Kind::File { .. } | Kind::Made(_) | Kind::HardLink(_) => 0o100_000,
    };
    kind | u16::try_from(entry.mode & 0o7777).unwrap_or(0)
}

/// Copies exactly `size` bytes; a file that changes meanwhile is found out.
fn copy_file(path: &Path, size: u64, out: &mut impl Write) -> Result<String, Error> {
    let unreadable = |error: io::Error| Error::input(path, format!("it can't be read: {error}"));
    let mut file = File::open(path).map_err(unreadable)?;
    let mut sum = Sha256::new();
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

/// fpm's choice: files, empty folders and the named ones with all below; every other folder only when it is asked for.
fn owned(build: &Build, tree: Tree) -> Result<Tree, Error> {
    let mut named = Vec::new();
    for directory in &build.directories {
        named.push(tree::target_path(Path::new(directory))?);
    }
    let below = |path: &[u8], folder: &[u8]| {
        path == folder
            || (path.starts_with(folder) && path.get(folder.len()) == Some(&b'/'))
            || folder.is_empty()
    };
    let parents: BTreeSet<Vec<u8>> = tree
        .keys()
        .filter_map(|path| path.iter().rposition(|byte| *byte == b'/').map(|slash| path[..slash].to_vec()))
        .collect();
    let is_of_the_system = |path: &[u8]| FOLDERS_OF_THE_SYSTEM.iter().any(|known| known.as_bytes() == path);
    let is_owned = |path: &[u8], entry: &Entry| {
        entry.kind != Kind::Directory
            || (!parents.contains(path) && !is_of_the_system(path))
            || named.iter().any(|folder| below(path, folder))
            || (build.rpm.auto_add_directories && !is_of_the_system(path))
    };
    Ok(tree.into_iter().filter(|(path, entry)| !path.is_empty() && is_owned(path, entry)).collect())
}

fn set_default_modes(build: &Build, tree: &mut Tree) -> Result<(), Error> {
    let read = |field: &str, text: &Option<String>| match text.as_deref() {
        None | Some("-") => Ok(None),
        Some(digits) => {
            u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o7777).map(Some).ok_or_else(|| {
                Error::field(field, format!("`{}` is no octal mode like 0755", digits.escape_debug()))
            })
        }
    };
    let file = read("rpm-defattrfile", &build.rpm.defattrfile)?;
    let directory = read("rpm-defattrdir", &build.rpm.defattrdir)?;
    for entry in tree.values_mut() {
        let mode = if entry.kind == Kind::Directory { directory } else { file };
        if let Some(mode) = mode.filter(|_| !matches!(entry.kind, Kind::Symlink(_))) {
            entry.mode = mode;
        }
    }
    Ok(())
}

/// The files that were named, and those in the folders that were.
fn configuration(build: &Build, tree: &Tree) -> Result<BTreeSet<Vec<u8>>, Error> {
    let mut found = BTreeSet::new();
    for named in &build.config_files {
        let wrong =
            |reason: &str| Error::field("config-files", format!("`{}`: {reason}", named.escape_debug()));
        let path = tree::target_path(Path::new(named)).map_err(|_| wrong("`..` has no place there"))?;
        let folder = [path.as_slice(), b"/"].concat();
        let before = found.len();
        let meant = |candidate: &[u8]| candidate == path || candidate.starts_with(&folder);
        found.extend(
            tree.iter().filter(|(path, entry)| entry.is_file() && meant(path)).map(|(path, _)| path.clone()),
        );
        if found.len() == before {
            return Err(wrong("the package holds no such file"));
        }
    }
    Ok(found)
}

/// One line each, but for the description.
fn check_texts(build: &Build) -> Result<(), Error> {
    for (field, value) in [
        ("license", &build.license),
        ("vendor", &build.vendor),
        ("maintainer", &build.maintainer),
        ("url", &build.url),
        ("category", &build.category),
        ("rpm-summary", &build.rpm.summary),
        ("rpm-os", &build.rpm.os),
    ] {
        let Some(value) = value else { continue };
        if value.trim().is_empty() || value.chars().any(char::is_control) {
            let shown = value.escape_debug();
            return Err(Error::field(
                field,
                format!("`{shown}` must be one line of text; leave it out when there is none"),
            ));
        }
    }
    let description = build.description.as_deref().unwrap_or(DEFAULT_DESCRIPTION);
    if let Some(wrong) = description.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        return Err(Error::field("description", format!("it holds {wrong:?}, which is no text")));
    }
    if description.trim().is_empty() {
        return Err(Error::field("description", "it is empty; leave it out instead"));
    }
    if !build.fields.is_empty() {
        return Err(Error::field("deb-field", "only a .deb has fields of its own; leave it out for an .rpm"));
    }
    Ok(())
}

fn relations(build: &Build, naming: &Naming, scriptlets: &[Scriptlet]) -> Result<Relations, Error> {
    let read = |field: &str, values: &[String]| -> Result<Vec<Relation>, Error> {
        let mut all = Vec::new();
        for value in values {
            all.extend(relation::relations(field, value)?);
        }
        Ok(all)
    };
    let mut requires = read("depends", &build.depends)?;
    for early in read("pre-depends", &build.pre_depends)? {
        requires.push(Relation { flags: early.flags | tag::BEFORE_INSTALL_NEEDS, ..early });
    }
    requires.extend(scriptlets.iter().map(Scriptlet::requirement));
    let mut provides = read("provides", &build.provides)?;
    provides.push(Relation::equal(&naming.name, &naming.full_version));
    if let Some(machine) = relation::machine(&naming.architecture) {
        provides.push(Relation::equal(format!("{}({machine})", naming.name), &naming.full_version));
    }
    let mut conflicts = read("conflicts", &build.conflicts)?;
    conflicts.extend(read("breaks", &build.breaks)?);
    let all = Relations {
        requires,
        provides,
        conflicts,
        obsoletes: read("replaces", &build.replaces)?,
        recommends: read("recommends", &build.recommends)?,
        suggests: read("suggests", &build.suggests)?,
    };
    Ok(all.with_features(build))
}

impl Relations {
    /// What rpm itself must be able to do with the package.
    fn with_features(mut self, build: &Build) -> Relations {
        let mut features = vec![
            ("CompressedFileNames", "3.0.4-1"),
            ("FileDigests", "4.6.0-1"),
            ("PayloadFilesHavePrefix", "4.0-1"),
        ];
        features.extend(compressor(build.compression).and_then(|known| known.feature));
        let all = [&self.requires, &self.conflicts, &self.recommends, &self.suggests];
        if all.iter().any(|relations| relations.iter().any(|relation| relation.name.starts_with('('))) {
            features.push(("RichDependencies", "4.12.0-1"));
        }
        if self.all().any(|relation| relation.version.contains('~')) {
            features.push(("TildeInVersions", "4.10.0-1"));
        }
        if self.all().any(|relation| relation.version.contains('^')) {
            features.push(("CaretInVersions", "4.15.0-1"));
        }
        self.requires.extend(features.into_iter().map(|(name, version)| Relation::feature(name, version)));
        self
    }

    fn all(&self) -> impl Iterator<Item = &Relation> {
        [&self.requires, &self.provides, &self.conflicts, &self.obsoletes, &self.recommends, &self.suggests]
            .into_iter()
            .flatten()
    }

    /// rpm looks things up in them as in a dictionary.
    fn sort(&mut self) {
        for relations in [
            &mut self.requires,
            &mut self.provides,
            &mut self.conflicts,
            &mut self.obsoletes,
            &mut self.recommends,
            &mut self.suggests,
        ] {
            relations.sort();
            relations.dedup();
        }
    }

    fn add_to(&self, header: &mut Header) {
        for (relations, [name, version, flags]) in [
            (&self.requires, [tag::REQUIRE_NAME, tag::REQUIRE_VERSION, tag::REQUIRE_FLAGS]),
            (&self.provides, [tag::PROVIDE_NAME, tag::PROVIDE_VERSION, tag::PROVIDE_FLAGS]),
            (&self.conflicts, [tag::CONFLICT_NAME, tag::CONFLICT_VERSION, tag::CONFLICT_FLAGS]),
            (&self.obsoletes, [tag::OBSOLETE_NAME, tag::OBSOLETE_VERSION, tag::OBSOLETE_FLAGS]),
            (&self.recommends, [tag::RECOMMEND_NAME, tag::RECOMMEND_VERSION, tag::RECOMMEND_FLAGS]),
            (&self.suggests, [tag::SUGGEST_NAME, tag::SUGGEST_VERSION, tag::SUGGEST_FLAGS]),
        ] {
            header.texts(name, &relations.iter().map(|relation| &relation.name).collect::<Vec<_>>());
            header.texts(version, &relations.iter().map(|relation| &relation.version).collect::<Vec<_>>());
            header.numbers(flags, &relations.iter().map(|relation| relation.flags).collect::<Vec<_>>());
        }
    }
}

/// As in a spec file: `* Wed Jan 21 2015 Ada Example <ada@example.com> - 1.0-1`, then lines until the next of these.
fn read_changelog(path: &Path) -> Result<Vec<Change>, Error> {
    let content = maintainer_scripts::read_small(path, LARGEST_CHANGELOG)?;
    let text = String::from_utf8(content).map_err(|_| Error::input(path, "it is no text in UTF-8"))?;
    if text.contains('\0') {
        return Err(Error::input(path, "it is no text"));
    }
    let mut changes: Vec<Change> = Vec::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("* ") {
            let (time, name) = change_head(head).ok_or_else(|| {
                let reason = format!("`{}` is no head of a change; write it like `* Wed Jan 21 2015 Ada <ada@example.com> - 1.0-1`", line.escape_debug());
                Error::input(path, reason)
            })?;
            changes.push(Change { time, name, text: String::new() });
        } else if let Some(change) = changes.last_mut() {
            change.text.push_str(line);
            change.text.push('\n');
        } else if !line.trim().is_empty() {
            return Err(Error::input(
                path,
                "a changelog of RPM begins with a line like `* Wed Jan 21 2015 Ada <ada@example.com> - 1.0-1`",
            ));
        }
    }
    for change in &mut changes {
        change.text = change.text.trim().to_owned();
    }
    Ok(changes)
}

/// The time, which is noon as with rpmbuild, and who.
fn change_head(head: &str) -> Option<(u32, String)> {
    let mut words = head.split_whitespace();
    let date: Vec<&str> = words.by_ref().take(4).collect();
    let day = jiff::civil::Date::strptime("%b %d %Y", date.get(1..4)?.join(" ")).ok()?;
    let noon = day.at(12, 0, 0, 0).to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    let name = words.collect::<Vec<_>>().join(" ");
    (!name.is_empty()).then_some((u32::try_from(noon.timestamp().as_second()).ok()?, name))
}
