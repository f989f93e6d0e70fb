//! What a suite holds, read back from what is published.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::index::{self, Entry};
use super::{Error, check_name};
use crate::delivery::deb::Paragraph;
use crate::model::{Span, Timestamp};

/// A published suite.
pub(super) struct Suite {
    /// The folder that the suite's link names.
    pub(super) generation: String,
    pub(super) entries: Vec<Entry>,
    pub(super) release: Paragraph,
    pub(super) architectures: BTreeSet<String>,
    pub(super) components: BTreeSet<String>,
    pub(super) date: Timestamp,
}

/// All published suites of a repository.
pub(super) fn names(root: &Path) -> Result<Vec<String>, Error> {
    let folder = root.join("dists");
    let unreadable = |source| Error::Disk { verb: "list", path: folder.clone(), source };
    let mut names = Vec::new();
    for item in fs::read_dir(&folder).map_err(unreadable)? {
        let item = item.map_err(unreadable)?;
        let Ok(name) = item.file_name().into_string() else { continue };
        let is_link = item.file_type().map_err(unreadable)?.is_symlink();
        if is_link && check_name("suite", &name).is_ok() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// One suite; nothing when it was never published.
pub(super) fn read(root: &Path, name: &str) -> Result<Option<Suite>, Error> {
    check_name("suite", name)?;
    let link = root.join("dists").join(name);
    let generation = match fs::read_link(&link) {
        Ok(target) => target.to_string_lossy().into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(_) => {
            let reason = "this is a suite that another program made; use a repository of its own".to_owned();
            return Err(Error::Damaged { path: link, reason });
        }
    };
    // By the generation's own name, so that all that is read is of one publish.
    let folder = root.join("dists").join(&generation);
    let path = folder.join("Release");
    let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
    let release = Paragraph::parse(&read_text(&path)?).map_err(damaged)?;
    let words =
        |field: &str| release.get(field).unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let architectures: BTreeSet<String> = words("Architectures");
    let components: BTreeSet<String> = words("Components");
    let date = release.get("Date").and_then(index::read_date).unwrap_or(Timestamp(0));
    let mut entries: Vec<Entry> = Vec::new();
    for (path, _, hash) in index::release_files(&release, "SHA256") {
        if !path.ends_with("/Packages") {
            continue;
        }
        read_packages(&folder.join(&path), &path, &hash, &mut entries)?;
    }
    Ok(Some(Suite { generation, entries, release, architectures, components, date }))
}

/// Whether half of the time between a suite's date and its `Valid-Until` is over. Without such a line: whether it ought to have one.
pub(super) fn is_half_over(
    root: &Path,
    name: &str,
    valid_for: Option<Span>,
    now: Timestamp,
) -> Result<bool, Error> {
    let path = root.join("dists").join(name).join("Release");
    let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
    let release = Paragraph::parse(&read_text(&path)?).map_err(damaged)?;
    let date = |field: &str| release.get(field).and_then(index::read_date);
    Ok(match (date("Date"), date("Valid-Until")) {
        (Some(from), Some(until)) => from.0 + (until.0 - from.0) / 2 <= now.0,
        _ => valid_for.is_some(),
    })
}

fn read_packages(path: &Path, relative: &str, hash: &str, entries: &mut Vec<Entry>) -> Result<(), Error> {
    let damaged = |reason: String| Error::Damaged { path: path.to_owned(), reason };
    let text = read_text(path)?;
    if index::Sums::of_bytes(text.as_bytes()).sha256() != hash {
        return Err(damaged("it is not the file that Release names".to_owned()));
    }
    let Some((component, rest)) = relative.split_once('/') else {
        return Err(damaged("it belongs to no component".to_owned()));
    };
    let for_all = rest == "binary-all/Packages";
    for paragraph in Paragraph::parse_all(&text).map_err(damaged)? {
        let entry = Entry::read(component, paragraph).map_err(damaged)?;
        // Packages for all machines stand in every list; each is taken once.
        if for_all || entry.architecture() != "all" {
            entries.push(entry);
        }
    }
    Ok(())
}

fn read_text(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Disk { verb: "read", path: path.to_owned(), source })
}

/// The number of a generation's folder of `suite`: 12 for `.stable.000012`.
pub(super) fn generation_number(suite: &str, folder: &str) -> Option<u64> {
    let digits = folder.strip_prefix('.')?.strip_prefix(suite)?.strip_prefix('.')?;
    let only_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    only_digits.then(|| digits.parse().ok()).flatten()
}

pub(super) fn generation_folder(suite: &str, number: u64) -> String {
    format!(".{suite}.{number:06}")
}

/// Where a suite's indexes lie by their hashes, shared by its generations.
pub(super) fn by_hash_folder(root: &Path, suite: &str) -> PathBuf {
    root.join("dists").join(format!(".{suite}.by-hash"))
}
