//! The packages themselves: how they come into the pool, what is left of a killed publish there, and when they go.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};

use serde::{Deserialize, Serialize};

use super::generation::list;
use super::index::{self, Entry, Sums};
use super::plan::{Candidate, Suites};
use super::publish::TEMPORARY;
use super::{Error, Repository};
use crate::model::Timestamp;

const PENDING: &str = "pending.json";

pub(super) const REMOVED: &str = "removed";

/// A package that no suite holds any more, remembered so that its version never gets other bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Removed {
    pub(super) filename: String,
    pub(super) sha256: String,
    pub(super) at: Timestamp,
}

impl Repository {
    /// What the pool is about to get: until the swap, it is rubbish if we are killed.
    pub(super) fn note_pending(&self, candidates: &[Candidate]) -> Result<(), Error> {
        if candidates.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = candidates.iter().map(|candidate| candidate.entry.filename()).collect();
        let text = serde_json::to_vec(&names).map_err(|error| Error::Refused(error.to_string()))?;
        self.replace(&self.internal().join(PENDING), &text)
    }

    /// What was pending is published.
    pub(super) fn forget_pending(&self) -> Result<(), Error> {
        self.disk().remove_file(&self.internal().join(PENDING))
    }

    pub(super) fn put_into_pool(&self, candidate: &Candidate) -> Result<(), Error> {
        let disk = self.disk();
        let target = self.root.join(candidate.entry.filename());
        let folder = target.parent().unwrap_or(&self.root).to_owned();
        let temporary = self.internal().join(TEMPORARY).join("package");
        disk.make_folder(&folder)?;
        let file = disk.create(&temporary)?;
        let failed =
            |source| Error::Disk { verb: "copy to the pool", path: candidate.source.clone(), source };
        let source = File::open(&candidate.source).map_err(failed)?;
        let mut out = BufWriter::with_capacity(1 << 16, &file);
        let sums = Sums::of(source, &mut out).map_err(failed)?;
        out.flush().map_err(failed)?;
        drop(out);
        if sums != candidate.sums {
            return Err(failed(io::Error::other("the file changed while it was published")));
        }
        disk.sync_file(&temporary, &file)?;
        disk.rename(&temporary, &target)?;
        disk.sync_folder(&folder)
    }

    pub(super) fn remember_removed(&self, entries: &[&Entry], now: Timestamp) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        self.disk().make_folder(&self.internal().join(REMOVED))?;
        for entry in entries {
            let removed =
                Removed { filename: entry.filename().to_owned(), sha256: entry.sha256().to_owned(), at: now };
            let text = serde_json::to_vec(&removed).map_err(|error| Error::Refused(error.to_string()))?;
            self.replace(&self.removed_path(entry.filename()), &text)?;
        }
        Ok(())
    }

    pub(super) fn sweep_pending(&self, suites: &Suites) -> Result<(), Error> {
        let path = self.internal().join(PENDING);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
        // A torn list can't be: it is renamed into place.
        let names: Vec<String> = serde_json::from_str(&text).unwrap_or_default();
        let used = used_files(suites);
        for name in names {
            if !used.contains(name.as_str()) && is_pool_path(&name) {
                self.disk().remove_file(&self.root.join(&name))?;
            }
        }
        self.disk().remove_file(&path)
    }

    pub(super) fn forget_removed(&self, suites: &Suites, now: Timestamp) -> Result<(), Error> {
        let used = used_files(suites);
        for path in list(&self.internal().join(REMOVED))? {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let Ok(removed) = serde_json::from_str::<Removed>(&text) else { continue };
            let is_old = index::is_over(removed.at, self.settings.grace, now);
            if is_old && !used.contains(removed.filename.as_str()) && is_pool_path(&removed.filename) {
                self.disk().remove_file(&self.root.join(&removed.filename))?;
            }
        }
        Ok(())
    }
}

pub(super) fn used_files(suites: &Suites) -> HashSet<&str> {
    suites.values().flat_map(|suite| &suite.entries).map(Entry::filename).collect()
}

/// What stands in files of ours is still no reason to remove anything outside the pool.
pub(super) fn is_pool_path(name: &str) -> bool {
    name.starts_with("pool/") && !name.split('/').any(|part| part == ".." || part.is_empty())
}
