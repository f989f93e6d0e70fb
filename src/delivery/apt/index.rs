//! The texts of a repository: `Packages`, `Release`, and what they say of files.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256, Sha512};

use super::{Listed, Settings};
use crate::delivery::deb::{Inspected, Paragraph, Version};
use crate::model::{Span, Timestamp};

/// The folders of `by-hash`, which are also the fields of `Release`.
pub(super) const ALGORITHMS: [&str; 4] = ["MD5Sum", "SHA1", "SHA256", "SHA512"];

/// Size and checksums of one file, as hexadecimal, in the order of [`ALGORITHMS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) size: u64,
    pub(super) hashes: [String; 4],
}

impl Sums {
    pub(super) fn of(mut reader: impl Read, mut copy_to: impl Write) -> io::Result<Sums> {
        let (mut md5, mut sha1) = (md5::Md5::new(), sha1::Sha1::new());
        let (mut sha256, mut sha512) = (Sha256::new(), Sha512::new());
        let mut buffer = vec![0; 1 << 16];
        let mut size = 0;
        loop {
            let read = reader.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            let part = &buffer[..read];
            size += read as u64;
            md5.update(part);
            sha1.update(part);
            sha256.update(part);
            sha512.update(part);
            copy_to.write_all(part)?;
        }
        let hashes = [
            hex::encode(md5.finalize()),
            hex::encode(sha1.finalize()),
            hex::encode(sha256.finalize()),
            hex::encode(sha512.finalize()),
        ];
        Ok(Sums { size, hashes })
    }

    pub(super) fn of_file(path: &Path) -> io::Result<Sums> {
        Sums::of(File::open(path)?, io::sink())
    }

    pub(super) fn of_bytes(bytes: &[u8]) -> Sums {
        Sums::of(bytes, io::sink()).expect("reading from memory and writing nowhere can't fail")
    }

    pub(super) fn sha256(&self) -> &str {
        &self.hashes[2]
    }
}

/// One package in one suite: the paragraph of `Packages`, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) component: String,
    pub(super) paragraph: Paragraph,
    pub(super) version: Version,
}

impl Entry {
    /// From a package and its checksums, to lie at `filename` within the repository.
    pub(super) fn new(component: &str, package: &Inspected, filename: &str, sums: &Sums) -> Entry {
        let mut paragraph = Paragraph::default();
        for (name, value) in
            package.control.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("Description"))
        {
            paragraph.set(name, value);
        }
        paragraph.set("Filename", filename);
        paragraph.set("Size", sums.size.to_string());
        for (field, hash) in ["MD5sum", "SHA1", "SHA256", "SHA512"].iter().zip(&sums.hashes) {
            paragraph.set(field, hash);
        }
        paragraph.set("Description", package.control.get("Description").unwrap_or(package.name()));
        Entry { component: component.to_owned(), paragraph, version: package.version.clone() }
    }

    pub(super) fn read(component: &str, paragraph: Paragraph) -> Result<Entry, String> {
        for field in ["Package", "Version", "Architecture", "Filename", "Size", "SHA256"] {
            if paragraph.get(field).is_none() {
                return Err(format!("a paragraph lacks its field {field}"));
            }
        }
        let version = paragraph.get("Version").unwrap_or_default().parse()?;
        Ok(Entry { component: component.to_owned(), paragraph, version })
    }

    fn field(&self, name: &str) -> &str {
        self.paragraph.get(name).unwrap_or_default()
    }
    pub(super) fn name(&self) -> &str {
        self.field("Package")
    }
    pub(super) fn version_text(&self) -> &str {
        self.field("Version")
    }
    pub(super) fn architecture(&self) -> &str {
        self.field("Architecture")
    }
    pub(super) fn filename(&self) -> &str {
        self.field("Filename")
    }
    pub(super) fn sha256(&self) -> &str {
        self.field("SHA256")
    }
    pub(super) fn size(&self) -> u64 {
        self.field("Size").parse().unwrap_or(0)
    }

    /// Whether both are the same package at the same version for the same machines.
    pub(super) fn is_same_package(&self, other: &Entry) -> bool {
        self.name() == other.name()
            && self.architecture() == other.architecture()
            && self.version == other.version
    }

    fn order(&self, other: &Entry) -> Ordering {
        let by_name = self.name().cmp(other.name());
        by_name.then(self.version.cmp(&other.version)).then(self.architecture().cmp(other.architecture()))
    }

    pub(super) fn listed(&self, suite: &str) -> Listed {
        Listed {
            suite: suite.to_owned(),
            component: self.component.clone(),
            name: self.name().to_owned(),
            version: self.version_text().to_owned(),
            architecture: self.architecture().to_owned(),
            filename: self.filename().to_owned(),
            size: self.size(),
            sha256: self.sha256().to_owned(),
        }
    }
}

/// Where a package lies: `pool/COMPONENT/PREFIX/SOURCE/name_version_arch.deb`, without the epoch.
pub(super) fn pool_path(component: &str, package: &Inspected) -> String {
    let source = package.control.get("Source").and_then(|source| source.split_whitespace().next());
    let source = source.filter(|source| crate::delivery::deb::control::is_package_name(source));
    let source = source.unwrap_or(package.name());
    let prefix = if source.starts_with("lib") && source.len() > 3 { &source[..4] } else { &source[..1] };
    let version = package.version.without_epoch();
    format!("pool/{component}/{prefix}/{source}/{}_{version}_{}.deb", package.name(), package.architecture())
}

/// The packages that a machine of `architecture` may install, in order; those for all machines stand in every list.
pub(super) fn packages_text(entries: &[Entry], component: &str, architecture: &str) -> String {
    let fits = |entry: &&Entry| {
        entry.component == component
            && (entry.architecture() == architecture || entry.architecture() == "all")
    };
    let mut chosen: Vec<&Entry> = entries.iter().filter(fits).collect();
    chosen.sort_by(|one, other| one.order(other));
    let texts: Vec<String> = chosen.iter().map(|entry| entry.paragraph.to_string()).collect();
    texts.join("\n")
}

/// What a `Release` says.
pub(super) struct Release<'a> {
    pub(super) suite: &'a str,
    pub(super) settings: &'a Settings,
    pub(super) date: Timestamp,
    pub(super) architectures: &'a BTreeSet<String>,
    pub(super) components: &'a BTreeSet<String>,
    /// Files by their path below the suite.
    pub(super) files: &'a [(String, Sums)],
}

impl Release<'_> {
    pub(super) fn text(&self) -> String {
        let Release { suite, settings, date, .. } = self;
        let join = |set: &BTreeSet<String>| set.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let mut text = format!(
            "Origin: {}\nLabel: {}\nSuite: {suite}\nCodename: {suite}\nDate: {}\n",
            settings.origin,
            settings.label,
            date_text(*date)
        );
        if let Some(valid_for) = settings.valid_for {
            text.push_str(&format!("Valid-Until: {}\n", date_text(date.plus(valid_for))));
        }
        text.push_str(&format!(
            "Acquire-By-Hash: yes\nArchitectures: {}\nComponents: {}\n",
            join(self.architectures),
            join(self.components)
        ));
        for (index, algorithm) in ALGORITHMS.iter().enumerate() {
            text.push_str(&format!("{algorithm}:\n"));
            for (path, sums) in self.files {
                text.push_str(&format!(" {} {:>8} {path}\n", sums.hashes[index], sums.size));
            }
        }
        text
    }
}

/// The files that a `Release` lists under one algorithm: path, size, hash.
pub(super) fn release_files(release: &Paragraph, algorithm: &str) -> Vec<(String, u64, String)> {
    let lines = release.get(algorithm).unwrap_or_default().lines();
    let file = |line: &str| {
        let mut words = line.split_whitespace();
        let (hash, size, path) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        Some((path.to_owned(), size, hash.to_owned()))
    };
    lines.filter_map(file).collect()
}

/// A moment as APT writes it: `Sat, 21 Nov 2026 06:43:58 UTC`.
pub(super) fn date_text(at: Timestamp) -> String {
    let at = jiff::Timestamp::from_millisecond(at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string()
}

pub(super) fn read_date(text: &str) -> Option<Timestamp> {
    let text = text.strip_suffix(" UTC")?;
    let at = jiff::civil::DateTime::strptime("%a, %d %b %Y %H:%M:%S", text).ok()?;
    let at = at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some(Timestamp(at.as_millisecond()))
}

/// A span that leaves the last `grace` before `now` alone.
pub(super) fn is_over(since: Timestamp, grace: Span, now: Timestamp) -> bool {
    since.plus(grace) < now
}
