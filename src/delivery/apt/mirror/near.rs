//! A copy in a directory of this machine.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{Content, Held, Item, Shot, names_below};
use crate::delivery::apt::{Error, generation};

/// Where files are written before they are moved to their places.
const INCOMING: &str = ".siskin/incoming";

pub(super) fn held(folder: &Path) -> Result<Held, Error> {
    let mut held = Held::default();
    let mut names = std::collections::BTreeSet::new();
    for part in ["pool", "dists"] {
        names_below(&folder.join(part), part, &mut names)?;
    }
    for name in names {
        let path = folder.join(&name);
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_file() {
            held.files.insert(name, metadata.len());
        }
    }
    for path in generation::list(&folder.join("dists"))? {
        if let (Ok(target), Some(name)) = (fs::read_link(&path), path.file_name()) {
            let target = target.to_string_lossy().into_owned();
            held.links.insert(name.to_string_lossy().into_owned(), target);
        }
    }
    Ok(held)
}

/// A file, whole under its name or not at all.
pub(super) fn put(folder: &Path, item: &Item) -> Result<(), Error> {
    let place = folder.join(&item.path);
    let beside = folder.join(INCOMING);
    let parent = place.parent().unwrap_or(folder).to_owned();
    on_disk("write", &place, || {
        make_public(folder, &parent)?;
        make_public(folder, &beside)?;
        let mut part = tempfile::Builder::new().tempfile_in(&beside)?;
        part.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        match &item.content {
            Content::Bytes(bytes) => io::Write::write_all(&mut part, bytes)?,
            Content::File(source) => {
                let copied = io::copy(&mut File::open(source)?, &mut part)?;
                if copied != item.size {
                    return Err(io::Error::other("its size is not what the index says"));
                }
            }
        }
        part.as_file().sync_all()?;
        part.persist(&place).map_err(|error| error.error)?;
        File::open(&parent)?.sync_all()
    })
}

pub(super) fn show(folder: &Path, shot: &Shot) -> Result<(), Error> {
    for (name, target) in &shot.links {
        point(folder, &folder.join(name), Path::new(target))?;
    }
    let dists = folder.join("dists");
    point(folder, &dists.join(&shot.suite), Path::new(&shot.generation))?;
    on_disk("sync", &dists, || File::open(&dists)?.sync_all())
}

pub(super) fn remove(folder: &Path, names: &[&String]) -> Result<(), Error> {
    for name in names {
        let path = folder.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Disk { verb: "remove", path, source: error });
            }
            _ => remove_empty_above(&path, folder),
        }
    }
    Ok(())
}

/// A generation is gone when its last file is; what is left of it are links and folders.
fn remove_empty_above(path: &Path, folder: &Path) {
    let mut above = path.parent();
    while let Some(parent) = above.filter(|parent| *parent != folder && parent.starts_with(folder)) {
        // Its link to the indexes by their hashes.
        let link = parent.join("by-hash");
        let only_link = fs::read_dir(parent).is_ok_and(|items| items.count() == 1)
            && fs::symlink_metadata(&link).is_ok_and(|metadata| metadata.is_symlink());
        if only_link {
            drop(fs::remove_file(&link));
        }
        // Fails where there is something else.
        if fs::remove_dir(parent).is_err() {
            return;
        }
        above = parent.parent();
    }
}

/// A link, swapped by one rename.
fn point(folder: &Path, link: &Path, target: &Path) -> Result<(), Error> {
    if fs::read_link(link).is_ok_and(|known| known == target) {
        return Ok(());
    }
    on_disk("point", link, || {
        let beside: PathBuf = folder.join(INCOMING).join("link");
        make_public(folder, &folder.join(INCOMING))?;
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(target, &beside)?;
        fs::rename(&beside, link)
    })
}

/// Folders below `folder`, and itself, for all to read whatever our umask.
fn make_public(folder: &Path, path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|_| path != folder) {
        make_public(folder, parent)?;
    }
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn on_disk(verb: &'static str, path: &Path, change: impl FnOnce() -> io::Result<()>) -> Result<(), Error> {
    change().map_err(|source| Error::Disk { verb, path: path.to_owned(), source })
}
