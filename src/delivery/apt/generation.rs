//! A suite's indexes: a whole new generation of them, the link that makes it the current one, and the end of old ones.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use flate2::write::GzEncoder;
use liblzma::write::XzEncoder;

use super::index::{self, ALGORITHMS, Entry, Release, Sums};
use super::publish::TEMPORARY;
use super::sign::Key;
use super::suite::{self, Suite};
use super::{Error, Repository};
use crate::delivery::deb;
use crate::model::Timestamp;

/// Superseded generations whose folders stay, for who is just opening a file in them.
pub(super) const KEPT_GENERATIONS: u64 = 2;

impl Repository {
    pub(super) fn next_generation(&self, suite: &str) -> Result<u64, Error> {
        let highest = folders_of(&self.root, suite)?.last().map_or(0, |(number, _)| *number);
        Ok(highest.max(self.current_generation(suite)) + 1)
    }

    /// The generation that clients see; 0 when there is none.
    pub(super) fn current_generation(&self, suite: &str) -> u64 {
        let linked = fs::read_link(self.root.join("dists").join(suite)).unwrap_or_default();
        suite::generation_number(suite, &linked.to_string_lossy()).unwrap_or(0)
    }

    /// Writes and syncs a complete generation; answers the hashes that it names.
    pub(super) fn write_generation(
        &self,
        suite: &str,
        generation: &str,
        entries: &[Entry],
        old: Option<&Suite>,
        key: &Key,
        now: Timestamp,
    ) -> Result<HashSet<String>, Error> {
        let disk = self.disk();
        let folder = self.root.join("dists").join(generation);
        let architectures = self.architectures(entries, old);
        let mut components: BTreeSet<String> = old.map(|old| old.components.clone()).unwrap_or_default();
        components.extend(entries.iter().map(|entry| entry.component.clone()));
        let mut files: Vec<(String, Sums)> = Vec::new();
        for component in &components {
            for architecture in &architectures {
                let text = index::packages_text(entries, component, architecture);
                let place = format!("{component}/binary-{architecture}");
                self.write_index(suite, &folder, &place, text.as_bytes(), &mut files)?;
            }
        }
        // Never earlier than before: clients would take the new index for an old one.
        let date = old.map_or(now, |old| old.date.max(now));
        let release = Release {
            suite,
            settings: &self.settings,
            date,
            architectures: &architectures,
            components: &components,
            files: &files,
        }
        .text();
        let (in_release, signature) = key.sign(&release, now)?;
        disk.write(&folder.join("Release"), release.as_bytes())?;
        disk.write(&folder.join("Release.gpg"), signature.as_bytes())?;
        disk.write(&folder.join("InRelease"), in_release.as_bytes())?;
        disk.sync_folder(&folder)?;
        Ok(files.into_iter().map(|(_, sums)| sums.sha256().to_owned()).collect())
    }

    pub(super) fn architectures(&self, entries: &[Entry], old: Option<&Suite>) -> BTreeSet<String> {
        let mut all: BTreeSet<String> = old.map(|old| old.architectures.clone()).unwrap_or_default();
        all.extend(entries.iter().map(|entry| entry.architecture().to_owned()));
        all.extend(self.settings.architectures.iter().cloned());
        all.insert(deb::control::native_architecture().to_owned());
        all.insert("all".to_owned());
        all
    }

    pub(super) fn write_index(
        &self,
        suite: &str,
        generation: &Path,
        place: &str,
        text: &[u8],
        files: &mut Vec<(String, Sums)>,
    ) -> Result<(), Error> {
        let disk = self.disk();
        let folder = generation.join(place);
        let store = suite::by_hash_folder(&self.root, suite).join(place);
        disk.make_folder(&folder)?;
        for algorithm in ALGORITHMS {
            disk.make_folder(&store.join(algorithm))?;
        }
        let failed = |source| Error::Disk { verb: "compress", path: folder.clone(), source };
        let (gz, xz) = (compress_gz(text).map_err(failed)?, compress_xz(text).map_err(failed)?);
        for (name, content) in [("Packages", text), ("Packages.gz", &gz), ("Packages.xz", &xz)] {
            let path = folder.join(name);
            disk.write(&path, content)?;
            let sums = Sums::of_bytes(content);
            for (algorithm, hash) in ALGORITHMS.iter().zip(&sums.hashes) {
                disk.link(&path, &store.join(algorithm).join(hash))?;
            }
            files.push((format!("{place}/{name}"), sums));
        }
        for algorithm in ALGORITHMS {
            disk.sync_folder(&store.join(algorithm))?;
        }
        // From .SUITE.NUMBER/COMPONENT/binary-ARCH up to dists, and down to what all generations share.
        let shared = Path::new("../../..").join(format!(".{suite}.by-hash")).join(place);
        disk.point(&folder.join("by-hash"), &shared)?;
        disk.sync_folder(&folder)
    }

    /// The grace of an index begins when it is superseded.
    pub(super) fn stamp_superseded(
        &self,
        suite: &str,
        old: &Suite,
        kept: &HashSet<String>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let store = suite::by_hash_folder(&self.root, suite);
        for (path, _, hash) in index::release_files(&old.release, "SHA256") {
            let Some((place, _)) = path.rsplit_once('/').filter(|_| !kept.contains(&hash)) else { continue };
            // All its names by hash are one file.
            let stored = store.join(place).join("SHA256").join(&hash);
            if stored.is_file() {
                self.disk().stamp(&stored, now)?;
            }
        }
        Ok(())
    }

    /// The moment at which clients see the new generation.
    pub(super) fn swap(&self, suite: &str, generation: &str) -> Result<(), Error> {
        let disk = self.disk();
        let dists = self.root.join("dists");
        disk.sync_folder(&dists)?;
        let temporary = self.internal().join(TEMPORARY).join("link");
        disk.remove_file(&temporary)?;
        disk.point(&temporary, Path::new(generation))?;
        disk.rename(&temporary, &dists.join(suite))?;
        disk.sync_folder(&dists)
    }

    pub(super) fn sweep_folders(&self, suite: &str) -> Result<(), Error> {
        let disk = self.disk();
        disk.remove_folder(&self.internal().join(TEMPORARY))?;
        let current = self.current_generation(suite);
        for (number, folder) in folders_of(&self.root, suite)? {
            if number > current {
                disk.remove_folder(&folder)?;
            }
        }
        Ok(())
    }

    pub(super) fn forget_old_indexes(
        &self,
        suite: &str,
        current: &Suite,
        now: Timestamp,
    ) -> Result<(), Error> {
        let used: HashSet<String> = ALGORITHMS
            .iter()
            .flat_map(|algorithm| index::release_files(&current.release, algorithm))
            .map(|(_, _, hash)| hash)
            .collect();
        let store = suite::by_hash_folder(&self.root, suite);
        for component in list(&store)? {
            for place in list(&component)? {
                for algorithm in list(&place)? {
                    for file in list(&algorithm)? {
                        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                        let is_old = index::is_over(modified(&file), self.settings.grace, now);
                        if is_old && !used.contains(&name) {
                            self.disk().remove_file(&file)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The generations' folders of a suite by number.
pub(super) fn folders_of(root: &Path, suite: &str) -> Result<Vec<(u64, PathBuf)>, Error> {
    let mut found = Vec::new();
    for path in list(&root.join("dists"))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(number) = suite::generation_number(suite, &name) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// What a folder holds; nothing when there is no such folder.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Disk { verb: "list", path: folder.to_owned(), source };
    let items = match fs::read_dir(folder) {
        Ok(items) => items,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    items.map(|item| item.map(|item| item.path()).map_err(failed)).collect()
}

pub(super) fn modified(path: &Path) -> Timestamp {
    let at = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let since = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    // What can't be read is taken for new, and stays.
    since.map_or(Timestamp(i64::MAX), |since| Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}

pub(super) fn compress_gz(content: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content)?;
    encoder.finish()
}

pub(super) fn compress_xz(content: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = XzEncoder::new(Vec::new(), 6);
    encoder.write_all(content)?;
    encoder.finish()
}
