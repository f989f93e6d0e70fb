//! The folder of definitions: reads it, lays it over the packs that travel in the binary, and writes a new one.
//!
//! Promises: a `packs/P` of the folder replaces an embedded P whole; what is read is bounded in size and number; a file that can't be read is
//! told with its path, never an absent definition. Says nothing about what the texts mean: that is `definitions`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::definitions::Files;

mod embedded;

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
    for name in FILES {
        let path = folder.join(name);
        if path.is_file() {
            add(&mut files, folder, &path)?;
        }
    }
    for name in FOLDERS {
        let path = folder.join(name);
        if path.is_dir() {
            walk(&mut files, folder, &path)?;
        }
    }
    lay_under(&mut files, embedded::packs());
    Ok(files)
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

fn walk(files: &mut Files, root: &Path, folder: &Path) -> Result<(), SiteError> {
    let unreadable = |error| SiteError::Unreadable { path: folder.to_owned(), error };
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let kind = entry.file_type().map_err(unreadable)?;
        if hidden {
            continue;
        } else if kind.is_dir() {
            walk(files, root, &path)?;
        } else if path.is_file() {
            add(files, root, &path)?;
        }
    }
    Ok(())
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
    if files.texts.len() >= MAX_FILES {
        return Err(SiteError::TooMany(root.to_owned()));
    }
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
