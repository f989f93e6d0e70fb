//! Reads an .rpm, one's own or another's: what it says of itself, what it holds, and whether its sums are right. Who signed it is rpm's to say.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use md5::Md5;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::deb::{FileEntry, FileKind};
use super::super::package::{Error, Format};
use super::header::{Parsed, invalid};
use super::relation::{Relation, shown};
use super::{LEAD_BYTES, tag};

/// What a sound .rpm says and holds.
#[derive(Clone, Debug)]
pub struct Inspected {
    pub path: PathBuf,
    pub name: String,
    /// `[epoch:]version-release`.
    pub version: String,
    pub architecture: String,
    /// What it says of itself, by the names that `rpm -qi` shows.
    pub fields: Vec<(String, String)>,
    /// `Requires` and its kin, as rpm spells them.
    pub relations: BTreeMap<String, Vec<String>>,
    pub files: Vec<FileEntry>,
    pub configuration: Vec<String>,
    pub scripts: BTreeMap<String, String>,
}

impl Inspected {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// All of it for programs.
    pub fn json(&self) -> Value {
        let fields: serde_json::Map<_, _> =
            self.fields.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        json!({
            "fields": fields,
            "relations": self.relations,
            "files": self.files,
            "configuration": self.configuration,
            "scripts": self.scripts,
        })
    }
}

/// Reads `path` to its end. One whose sums do not hold is refused with the reason.
pub fn inspect(path: &Path) -> Result<Inspected, Error> {
    let file = File::open(path).map_err(|error| Error::input(path, error.to_string()))?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(Error::input(path, "it is no file"));
    }
    let corrupt = |error: io::Error| Error::Corrupt {
        path: path.to_owned(),
        format: Format::Rpm,
        reason: error.to_string(),
    };
    let header = read(BufReader::with_capacity(1 << 16, file)).map_err(corrupt)?;
    describe(path, &header).map_err(corrupt)
}

fn read(mut reader: impl Read) -> io::Result<Parsed> {
    let mut lead = [0; LEAD_BYTES];
    reader.read_exact(&mut lead).map_err(|_| invalid("it is too short"))?;
    if lead[..4] != [0xed, 0xab, 0xee, 0xdb] {
        return Err(invalid("it does not begin as an .rpm does"));
    }
    let signature = Parsed::read(&mut reader)?;
    let over = signature.bytes.len() % 8;
    if over != 0 {
        let mut padding = [0; 8];
        reader.read_exact(&mut padding[over..]).map_err(|_| invalid("it ends within its signature"))?;
    }
    let header = Parsed::read(&mut reader)?;
    if let Some(sum) = signature.text(tag::SIGNATURE_SHA256)
        && !sum.eq_ignore_ascii_case(&hex::encode(Sha256::digest(&header.bytes)))
    {
        return Err(invalid("its header is not what its sum says"));
    }
    let (mut payload, mut md5) = (Sha256::new(), Md5::new());
    md5.update(&header.bytes);
    let mut length = header.bytes.len() as u64;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        length += read as u64;
        payload.update(&buffer[..read]);
        md5.update(&buffer[..read]);
    }
    check_payload(&signature, &header, payload, md5, length)?;
    Ok(header)
}

fn check_payload(
    signature: &Parsed,
    header: &Parsed,
    payload: Sha256,
    md5: Md5,
    length: u64,
) -> io::Result<()> {
    let sizes = [tag::SIGNATURE_SIZE, tag::SIGNATURE_LONG_SIZE].map(|size| signature.numbers(size));
    if let Some(size) = sizes.iter().flatten().next().filter(|size| **size != length) {
        return Err(invalid(&format!("it holds {length} bytes in place of {size}")));
    }
    if header.numbers(tag::PAYLOAD_DIGEST_ALGORITHM) == [u64::from(tag::SHA256)] {
        let sum = header.text(tag::PAYLOAD_DIGEST).unwrap_or_default();
        if !sum.eq_ignore_ascii_case(&hex::encode(payload.finalize())) {
            return Err(invalid("its content is not what its sum says"));
        }
        return Ok(());
    }
    match signature.binary(tag::SIGNATURE_MD5) {
        Some(sum) if sum != md5.finalize().as_slice() => Err(invalid("its content is not what its sum says")),
        _ => Ok(()),
    }
}

fn describe(path: &Path, header: &Parsed) -> io::Result<Inspected> {
    let wanted = |tag: u32, name: &str| header.text(tag).ok_or_else(|| invalid(&format!("it has no {name}")));
    let name = wanted(tag::NAME, "name")?;
    let (version, release) = (wanted(tag::VERSION, "version")?, wanted(tag::RELEASE, "release")?);
    let architecture = wanted(tag::ARCHITECTURE, "architecture")?;
    let epoch = header.numbers(tag::EPOCH).first().copied();
    let mut fields = vec![
        ("Name".to_owned(), name.clone()),
        ("Version".to_owned(), version.clone()),
        ("Release".to_owned(), release.clone()),
        ("Architecture".to_owned(), architecture.clone()),
    ];
    if let Some(epoch) = epoch {
        fields.push(("Epoch".to_owned(), epoch.to_string()));
    }
    for (name, tag) in [
        ("Summary", tag::SUMMARY),
        ("Description", tag::DESCRIPTION),
        ("Group", tag::GROUP),
        ("License", tag::LICENSE),
        ("Vendor", tag::VENDOR),
        ("Packager", tag::PACKAGER),
        ("URL", tag::URL),
        ("Payload", tag::PAYLOAD_COMPRESSOR),
    ] {
        fields.extend(header.text(tag).map(|value| (name.to_owned(), value)));
    }
    let size = [tag::SIZE, tag::LONG_SIZE].map(|size| header.numbers(size));
    fields.extend(size.iter().flatten().next().map(|size| ("Size".to_owned(), size.to_string())));
    let epoch = epoch.filter(|epoch| *epoch > 0).map(|epoch| format!("{epoch}:")).unwrap_or_default();
    let (files, configuration) = files(header)?;
    Ok(Inspected {
        path: path.to_owned(),
        name,
        version: format!("{epoch}{version}-{release}"),
        architecture,
        fields,
        relations: relations(header),
        files,
        configuration,
        scripts: scripts(header),
    })
}

fn relations(header: &Parsed) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for (word, name, version, flags) in [
        ("Requires", tag::REQUIRE_NAME, tag::REQUIRE_VERSION, tag::REQUIRE_FLAGS),
        ("Provides", tag::PROVIDE_NAME, tag::PROVIDE_VERSION, tag::PROVIDE_FLAGS),
        ("Conflicts", tag::CONFLICT_NAME, tag::CONFLICT_VERSION, tag::CONFLICT_FLAGS),
        ("Obsoletes", tag::OBSOLETE_NAME, tag::OBSOLETE_VERSION, tag::OBSOLETE_FLAGS),
        ("Recommends", tag::RECOMMEND_NAME, tag::RECOMMEND_VERSION, tag::RECOMMEND_FLAGS),
        ("Suggests", tag::SUGGEST_NAME, tag::SUGGEST_VERSION, tag::SUGGEST_FLAGS),
    ] {
        let (versions, flags) = (header.texts(version), header.numbers(flags));
        let spelled = header.texts(name).into_iter().enumerate().map(|(place, name)| {
            let flags = flags.get(place).copied().unwrap_or(0);
            let version = versions.get(place).cloned().unwrap_or_default();
            shown(&Relation { name, version, flags: u32::try_from(flags).unwrap_or(0) })
        });
        let spelled: Vec<String> = spelled.collect();
        if !spelled.is_empty() {
            all.insert(word.to_owned(), spelled);
        }
    }
    all
}

fn scripts(header: &Parsed) -> BTreeMap<String, String> {
    let known = [
        ("before-install", tag::BEFORE_INSTALL),
        ("after-install", tag::AFTER_INSTALL),
        ("before-remove", tag::BEFORE_REMOVE),
        ("after-remove", tag::AFTER_REMOVE),
        ("pretrans", tag::BEFORE_TRANSACTION),
        ("posttrans", tag::AFTER_TRANSACTION),
        ("verifyscript", tag::VERIFY_SCRIPT),
    ];
    known.into_iter().filter_map(|(name, tag)| Some((name.to_owned(), header.text(tag)?))).collect()
}

fn files(header: &Parsed) -> io::Result<(Vec<FileEntry>, Vec<String>)> {
    let (bases, folders) = (header.texts(tag::BASE_NAMES), header.texts(tag::FOLDER_NAMES));
    let indexes = header.numbers(tag::FOLDER_INDEXES);
    let sizes = [tag::FILE_SIZES, tag::LONG_FILE_SIZES].map(|sizes| header.numbers(sizes)).concat();
    let (modes, times) = (header.numbers(tag::FILE_MODES), header.numbers(tag::FILE_TIMES));
    let (users, groups) = (header.texts(tag::FILE_USERS), header.texts(tag::FILE_GROUPS));
    let (links, flags) = (header.texts(tag::FILE_LINKS), header.numbers(tag::FILE_FLAGS));
    let (mut files, mut configuration) = (Vec::new(), Vec::new());
    for (place, base) in bases.iter().enumerate() {
        let folder = indexes.get(place).and_then(|index| folders.get(usize::try_from(*index).ok()?));
        let folder = folder.ok_or_else(|| invalid("a file of its list lies in no folder"))?;
        let path = format!("{folder}{base}");
        let mode = modes.get(place).copied().unwrap_or(0) as u32;
        let kind = match mode & 0o170_000 {
            0o040_000 => FileKind::Directory,
            0o120_000 => FileKind::Symlink,
            0o100_000 => FileKind::File,
            _ => FileKind::Other,
        };
        if flags.get(place).is_some_and(|flags| flags & u64::from(tag::CONFIGURATION) != 0) {
            configuration.push(path.clone());
        }
        files.push(FileEntry {
            path,
            kind,
            mode: mode & 0o7777,
            owner: users.get(place).cloned().unwrap_or_default(),
            group: groups.get(place).cloned().unwrap_or_default(),
            size: sizes.get(place).copied().unwrap_or(0),
            mtime: times.get(place).copied().unwrap_or(0),
            link_target: links.get(place).filter(|target| !target.is_empty()).cloned(),
        });
    }
    Ok((files, configuration))
}
