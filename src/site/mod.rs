//! The folder of definitions: reads it, lays it over the packs that travel in the binary, and writes a new one.
//!
//! Promises: a `packs/P` of the folder replaces an embedded P whole; what is read is bounded in size and number; a file that can't be read is
//! told with its path, never an absent definition. Says nothing about what the texts mean: that is `definitions`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::definitions::Files;

mod embedded;
pub mod packs;

/// A file larger than this is no definition.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// A folder with more files than this is no site: somebody pointed at the wrong place.
const MAX_FILES: usize = 50_000;

/// The folders that hold definitions, and those of a pack that the site itself may have.
const FOLDERS: [&str; 9] =
    ["apps", "packs", "rules", "workflows", "actions", "triggers", "sources", "commands", "tests"];
/// The files beside them.
const FILES: [&str; 2] = ["siskin.yaml", "functions.rhai"];

/// Why a site could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    #[error("{} is no folder; name the folder of your definitions with --site", .0.display())]
    NoFolder(PathBuf),
    #[error("{} is a file; name a folder, or one that is to be made", .0.display())]
    NotAFolder(PathBuf),
    #[error("{}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{} holds more than {MAX_FILES} files; is it the folder of your definitions?", .0.display())]
    TooMany(PathBuf),
    #[error("{} exists already; `siskin init` writes into an empty or new folder", .0.display())]
    Exists(PathBuf),
}

/// The texts of the site in `folder`, over the packs of the binary.
///
/// # Errors
/// The folder or a file in it cannot be read, or holds too many files.
pub fn read(folder: &Path) -> Result<Files, SiteError> {
    if !folder.is_dir() {
        return Err(SiteError::NoFolder(folder.to_owned()));
    }
    let mut files = Files::default();
    paths(folder, &mut |path| add(&mut files, folder, path))?;
    lay_under(&mut files, embedded::packs());
    Ok(files)
}

/// How the files of a site look from outside: two looks that are alike saw the same texts, but for what was written within the same moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look(BTreeMap<PathBuf, Mark>);

/// What changes with a file's text: times of contents and inode in nanoseconds, size, and which file it is.
type Mark = (i128, i128, u64, u64);

/// Looks at the site in `folder` without reading it.
///
/// # Errors
/// The folder or one in it cannot be listed, or holds too many files.
pub fn look(folder: &Path) -> Result<Look, SiteError> {
    if !folder.is_dir() {
        return Err(SiteError::NoFolder(folder.to_owned()));
    }
    let mut look = Look::default();
    paths(folder, &mut |path| {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        // One that is gone, or can't be asked, is seen when the site is read.
        let mark = fs::metadata(path).map_or((0, 0, 0, 0), |data| {
            let written = nanoseconds(data.mtime(), data.mtime_nsec());
            (written, nanoseconds(data.ctime(), data.ctime_nsec()), data.size(), data.ino())
        });
        look.0.insert(path.to_owned(), mark);
        Ok(())
    })?;
    Ok(look)
}

/// Texts that did not come from a folder of this machine, over the packs of the binary.
pub fn over_embedded(texts: BTreeMap<String, Arc<[u8]>>) -> Files {
    let mut files = Files { texts, ..Files::default() };
    lay_under(&mut files, embedded::packs());
    files
}

/// The packs of the binary alone: what a server without a site knows.
pub fn bare() -> Files {
    let mut files = Files::default();
    lay_under(&mut files, embedded::packs());
    files
}

/// Writes a new site that works at once. Gives the paths written, relative to `folder`.
///
/// # Errors
/// The folder holds something already, or cannot be written.
pub fn init(folder: &Path) -> Result<Vec<PathBuf>, SiteError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |error| SiteError::Unreadable { path, error }
    };
    if folder.exists() && !folder.is_dir() {
        return Err(SiteError::NotAFolder(folder.to_owned()));
    }
    fs::create_dir_all(folder).map_err(unreadable(folder))?;
    let mut written = Vec::new();
    let files = embedded::starter();
    for (name, _) in &files {
        let path = folder.join(name);
        if path.exists() {
            return Err(SiteError::Exists(path));
        }
    }
    for (name, bytes) in files {
        let path = folder.join(&name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(unreadable(parent))?;
        }
        fs::write(&path, bytes).map_err(unreadable(&path))?;
        written.push(PathBuf::from(name));
    }
    Ok(written)
}

/// The reference pipeline's own files: rules/, workflows/ and apps/ as they travel in the binary.
pub fn reference() -> Vec<(String, Vec<u8>)> {
    embedded::reference()
}

fn lay_under(files: &mut Files, packs: Vec<(String, Vec<u8>)>) {
    let own: BTreeSet<String> =
        files.texts.keys().filter_map(|path| pack_of(path)).map(str::to_owned).collect();
    for (path, bytes) in packs {
        if pack_of(&path).is_some_and(|pack| !own.contains(pack)) {
            files.embedded.insert(path.clone());
            files.texts.insert(path, Arc::from(bytes));
        }
    }
}

fn pack_of(path: &str) -> Option<&str> {
    path.strip_prefix("packs/")?.split_once('/').map(|(pack, _)| pack)
}

/// Every file of the site in `root`.
fn paths(root: &Path, found: &mut dyn FnMut(&Path) -> Result<(), SiteError>) -> Result<(), SiteError> {
    let mut count = 0;
    let mut found = |path: &Path| {
        count += 1;
        if count > MAX_FILES { Err(SiteError::TooMany(root.to_owned())) } else { found(path) }
    };
    for name in FILES {
        let path = root.join(name);
        if path.is_file() {
            found(&path)?;
        }
    }
    for name in FOLDERS {
        let path = root.join(name);
        if path.is_dir() {
            walk(&path, &mut found)?;
        }
    }
    Ok(())
}

fn walk(folder: &Path, found: &mut dyn FnMut(&Path) -> Result<(), SiteError>) -> Result<(), SiteError> {
    let unreadable = |error| SiteError::Unreadable { path: folder.to_owned(), error };
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        let kind = entry.file_type().map_err(unreadable)?;
        if is_nobodys(&entry.file_name().to_string_lossy()) {
            continue;
        } else if kind.is_dir() {
            walk(&path, found)?;
        } else if path.is_file() {
            found(&path)?;
        }
    }
    Ok(())
}

/// Hidden, or what editors leave beside a file while it is edited: no part of the site.
fn is_nobodys(name: &str) -> bool {
    let ends = ["~", ".swp", ".swo", ".swx", "___jb_tmp___", "___jb_old___"];
    name.starts_with('.')
        || ends.iter().any(|end| name.ends_with(end))
        || (name.len() > 1 && name.starts_with('#') && name.ends_with('#'))
        || name == "4913" // Vim tries with it whether a folder can be written to.
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = fs::metadata(path)?.len();
    if bytes > MAX_FILE_BYTES {
        let message = format!("it has {bytes} bytes, and a file of a site has {MAX_FILE_BYTES} at most");
        return Err(io::Error::other(message));
    }
    fs::read(path)
}

fn add(files: &mut Files, root: &Path, path: &Path) -> Result<(), SiteError> {
    let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/");
    match read_file(path) {
        Ok(bytes) => {
            files.texts.insert(name, Arc::from(bytes));
        }
        // Gone since the folder was listed, as when an editor saves.
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => {
            // One file that can't be read harms no other.
            files.unread.insert(name.clone(), error.to_string());
            files.texts.insert(name, Arc::from([]));
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_editors_leave_is_no_part_of_a_site() {
        let folder = tempfile::tempdir().unwrap();
        let rules = folder.path().join("rules");
        fs::create_dir(&rules).unwrap();
        for name in ["a.yaml", "a.yaml~", ".a.yaml.swp", "#a.yaml#", "4913", "a.yaml___jb_tmp___", "b.swp"] {
            fs::write(rules.join(name), "x").unwrap();
        }
        let files = read(folder.path()).unwrap();
        let own: Vec<&String> = files.texts.keys().filter(|path| path.starts_with("rules/")).collect();
        assert_eq!(own, ["rules/a.yaml"]);
    }

    #[test]
    fn a_look_sees_every_kind_of_change() {
        let folder = tempfile::tempdir().unwrap();
        let (rules, workflows) = (folder.path().join("rules"), folder.path().join("workflows"));
        fs::create_dir(&rules).unwrap();
        fs::write(rules.join("a.yaml"), "one").unwrap();
        let mut before = look(folder.path()).unwrap();
        assert_eq!(before, look(folder.path()).unwrap());
        let mut changed = |what: &str, act: &dyn Fn()| {
            act();
            let after = look(folder.path()).unwrap();
            assert_ne!(before, after, "{what}");
            before = after;
        };
        changed("longer", &|| fs::write(rules.join("a.yaml"), "one and more").unwrap());
        changed("another file in its place", &|| {
            fs::write(rules.join(".new"), "two and more").unwrap();
            fs::rename(rules.join(".new"), rules.join("a.yaml")).unwrap();
        });
        changed("one more", &|| fs::write(rules.join("b.yaml"), "").unwrap());
        changed("one less", &|| fs::remove_file(rules.join("b.yaml")).unwrap());
        changed("a folder with another name", &|| fs::rename(&rules, &workflows).unwrap());
        changed("a file beside the folders", &|| fs::write(folder.path().join("siskin.yaml"), "").unwrap());
    }
}
