//! Every change that a repository makes to its disk goes through here, one named step at a time, so that a test can end the
//! process before any of them and look at what is left.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::Error;
use crate::model::Timestamp;

/// Asked before each change; an error ends the work there, with nothing tidied up.
pub trait Steps: Send + Sync {
    fn before(&self, verb: &'static str, path: &Path) -> io::Result<()>;
}

/// Lets every step pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unhindered;

impl Steps for Unhindered {
    fn before(&self, _verb: &'static str, _path: &Path) -> io::Result<()> {
        Ok(())
    }
}

pub(super) struct Disk<'a> {
    pub(super) steps: &'a dyn Steps,
}

impl Disk<'_> {
    fn step<T>(
        &self,
        verb: &'static str,
        path: &Path,
        change: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, Error> {
        let done = self.steps.before(verb, path).and_then(|()| change());
        done.map_err(|source| Error::Disk { verb, path: path.to_owned(), source })
    }

    /// Folders are for all to read, whatever this process's umask: web servers and apt's own user must get at them.
    pub(super) fn make_folder(&self, path: &Path) -> Result<(), Error> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.make_folder(parent)?;
        }
        self.step("make", path, || match fs::create_dir(path) {
            // Another publisher was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o755)),
        })
    }

    /// A new file with its content on the disk; whatever was there before is gone.
    pub(super) fn write(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        let mut file = self.create(path)?;
        self.step("write", path, || {
            file.write_all(content)?;
            file.sync_all()
        })
    }

    pub(super) fn create(&self, path: &Path) -> Result<File, Error> {
        self.step("create", path, || {
            let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
            file.set_permissions(fs::Permissions::from_mode(0o644))?;
            Ok(file)
        })
    }

    pub(super) fn sync_file(&self, path: &Path, file: &File) -> Result<(), Error> {
        self.step("sync", path, || file.sync_all())
    }

    pub(super) fn sync_folder(&self, path: &Path) -> Result<(), Error> {
        self.step("sync", path, || File::open(path)?.sync_all())
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.step("rename to", to, || fs::rename(from, to))
    }

    /// A second name for a file. One that is there already gives way at once: it should be the same, but may be damaged.
    pub(super) fn link(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.step("link", to, || match fs::hard_link(from, to) {
            Ok(()) => Ok(()),
            // Some file systems have no hard links, or too few.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => fs::copy(from, to).map(drop),
            Err(_) => {
                let beside = to.with_extension("new");
                drop(fs::remove_file(&beside));
                fs::hard_link(from, &beside)?;
                fs::rename(&beside, to)
            }
        })
    }

    pub(super) fn point(&self, path: &Path, target: &Path) -> Result<(), Error> {
        self.step("point", path, || symlink(target, path))
    }

    pub(super) fn remove_file(&self, path: &Path) -> Result<(), Error> {
        if fs::symlink_metadata(path).is_err() {
            return Ok(());
        }
        self.step("remove", path, || fs::remove_file(path))
    }

    pub(super) fn remove_folder(&self, path: &Path) -> Result<(), Error> {
        if fs::symlink_metadata(path).is_err() {
            return Ok(());
        }
        self.step("remove", path, || fs::remove_dir_all(path))
    }

    /// Marks when a file went out of use.
    pub(super) fn stamp(&self, path: &Path, at: Timestamp) -> Result<(), Error> {
        let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(at.0).unwrap_or(0));
        self.step("stamp", path, || File::open(path)?.set_modified(at))
    }
}
