//! The directories of runs: `DATA/workspaces/RUN/`, made when an attempt needs one, gone when the run has ended; and the lock files of their
//! steps, `DATA/locks/RUN/STEP[.ITEM]`.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::model::{AttemptKey, RunId};

/// How many runs are listed at once; those beyond are seen when these are gone.
const LISTED: usize = 1000;

/// The workspaces and locks below one data directory.
#[derive(Clone, Debug)]
pub struct Workspaces {
    workspaces: PathBuf,
    locks: PathBuf,
}

impl Workspaces {
    pub fn new(data: &Path) -> Workspaces {
        let (workspaces, locks) = super::workspaces_below(data);
        Workspaces { workspaces, locks }
    }

    pub fn path(&self, run: RunId) -> PathBuf {
        self.workspaces.join(run.to_string())
    }

    /// The run's workspace; made when it is not there.
    ///
    /// # Errors
    /// The directory can't be made.
    pub fn create(&self, run: RunId) -> io::Result<PathBuf> {
        let path = self.path(run);
        private_directory(&path)?;
        Ok(path)
    }

    /// The lock of all attempts of the step that `key` names.
    ///
    /// # Errors
    /// The directory of locks can't be made.
    pub fn lock(&self, key: &AttemptKey) -> io::Result<PathBuf> {
        let folder = self.locks.join(key.run.to_string());
        private_directory(&folder)?;
        // Ids are letters, digits and `_`; what else is there (`STEP/undo`) must not lead to another directory.
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        let step: String = key.step.chars().map(plain).collect();
        let item = key.item.map_or_else(String::new, |item| format!(".{item}"));
        Ok(folder.join(format!("{step}{item}")))
    }

    /// The runs that something is kept for, some thousand at most.
    pub fn runs(&self) -> Vec<RunId> {
        let entries = entries(&self.workspaces).into_iter().chain(entries(&self.locks)).flatten();
        let runs: BTreeSet<RunId> = entries.filter_map(|entry| run_of(&entry)).collect();
        runs.into_iter().take(LISTED).collect()
    }

    /// Removes all that belongs to a run that has ended. What can't be removed is logged, and tried again when a server starts.
    pub async fn remove(&self, run: RunId) {
        let own = self.clone();
        // A large checkout takes a while.
        let removed = tokio::task::spawn_blocking(move || {
            remove_tree(&own.locks.join(run.to_string())).and(remove_tree(&own.path(run)))
        });
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(%run, "the workspace of a run that has ended can't be removed: {error}");
        }
    }

    /// Removes what does not belong to these runs: what a server that was killed left behind. To be called before any attempt begins. A run younger
    /// than `newest` may have begun since the list was read; what is its is left alone.
    pub fn keep_only(&self, open: &[RunId], newest: RunId) {
        self.remove_others(open, newest, true);
    }

    /// As `keep_only`, while attempts are at work: what belongs to no run, such as a script that is being run, stays.
    pub fn remove_ended(&self, open: &[RunId], newest: RunId) {
        self.remove_others(open, newest, false);
    }

    fn remove_others(&self, open: &[RunId], newest: RunId, strange: bool) {
        let open: BTreeSet<RunId> = open.iter().copied().collect();
        let stays = |run: Option<RunId>| match run {
            Some(run) => open.contains(&run) || run > newest,
            None => !strange,
        };
        if let Err(error) = self.try_remove_others(stays) {
            tracing::warn!("what belongs to runs that have ended can't be removed: {error}");
        }
    }

    /// The first error is told; the others are tried all the same.
    fn try_remove_others(&self, stays: impl Fn(Option<RunId>) -> bool) -> io::Result<()> {
        let mut first_error = Ok(());
        for entry in entries(&self.workspaces)?.into_iter().chain(entries(&self.locks)?) {
            let removed = if stays(run_of(&entry)) { Ok(()) } else { remove_tree(&entry) };
            first_error = first_error.and(removed);
        }
        first_error
    }
}

/// The run whose number a directory has as its name. What is called otherwise (a script that was being run) belongs to none.
fn run_of(path: &Path) -> Option<RunId> {
    path.file_name()?.to_str()?.parse().ok()
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Only we look into it: checkouts and outputs may hold what others must not read.
fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.is_dir() {
        return ignore_missing(fs::remove_file(path));
    }
    if fs::remove_dir_all(path).is_ok() {
        return Ok(());
    }
    // Some tools write directories that their owner may not change, and nothing can be removed from those.
    make_writable(path)?;
    ignore_missing(fs::remove_dir_all(path))
}

fn make_writable(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // `file_type` does not follow links, so nothing outside is touched.
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn key(run: i64, step: &str, item: Option<u32>, number: u32) -> AttemptKey {
        AttemptKey { run: RunId(run), step: step.into(), visit: 1, item, number }
    }

    #[tokio::test]
    async fn what_is_left_of_ended_runs_goes_and_open_ones_stay() {
        let data = tempfile::tempdir().unwrap();
        let workspaces = Workspaces::new(data.path());
        for run in [1, 2, 12] {
            fs::write(workspaces.create(RunId(run)).unwrap().join("file"), "x").unwrap();
            fs::write(workspaces.lock(&key(run, "build", None, 1)).unwrap(), "").unwrap();
        }
        fs::write(data.path().join("workspaces/.script-x"), "x").unwrap();
        workspaces.remove_ended(&[RunId(2), RunId(12)], RunId(12));
        assert_eq!(entries(&data.path().join("workspaces")).unwrap().len(), 3, "a script in use went");
        workspaces.keep_only(&[RunId(2)], RunId(12));
        assert_eq!(entries(&data.path().join("workspaces")).unwrap(), [workspaces.path(RunId(2))]);
        assert_eq!(entries(&data.path().join("locks")).unwrap().len(), 1);
        workspaces.remove(RunId(2)).await;
        workspaces.remove(RunId(2)).await;
        assert!(entries(&data.path().join("workspaces")).unwrap().is_empty());
        assert!(entries(&data.path().join("locks")).unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_workspace_full_of_read_only_directories_and_links_out_of_it_is_removed() {
        let data = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        let workspaces = Workspaces::new(data.path());
        let workspace = workspaces.create(RunId(1)).unwrap();
        fs::create_dir_all(workspace.join("a/b")).unwrap();
        fs::write(workspace.join("a/b/c"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), workspace.join("a/link")).unwrap();
        fs::set_permissions(workspace.join("a/b"), Permissions::from_mode(0o500)).unwrap();
        fs::set_permissions(workspace.join("a"), Permissions::from_mode(0o500)).unwrap();
        workspaces.remove(RunId(1)).await;
        assert!(!workspace.exists());
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn attempts_of_one_step_share_a_lock_and_others_do_not() {
        let data = tempfile::tempdir().unwrap();
        let workspaces = Workspaces::new(data.path());
        let lock = |key: AttemptKey| workspaces.lock(&key).unwrap();
        assert_eq!(lock(key(1, "a", None, 1)), lock(key(1, "a", None, 2)));
        let others =
            [key(2, "a", None, 1), key(1, "b", None, 1), key(1, "a/undo", None, 1), key(1, "a", Some(0), 1)];
        for other in others {
            assert_ne!(lock(key(1, "a", None, 1)), lock(other.clone()), "{other}");
        }
        let strange = lock(key(1, "../../etc/passwd", None, 1));
        assert_eq!(strange.parent(), Some(data.path().join("locks/1").as_path()));
    }
}
