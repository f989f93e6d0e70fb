//! What the agent remembers of an app between two looks, and over its own death: a file for each app below `var/lib/siskin/agent` of the host's root.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::Timestamp;

/// Below the host's root.
pub(super) const FOLDER: &str = "var/lib/siskin/agent";

/// What is remembered of an app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Kept {
    /// What was advertised when it was last looked at, and since when that is known here.
    pub(super) wanted: Option<String>,
    pub(super) wanted_since: Option<Timestamp>,
    /// An installation that has begun, and is not known to have come to its end.
    pub(super) attempt: Option<Attempt>,
    pub(super) failed: Option<Failed>,
    /// What was told last, and whether the server knows it.
    pub(super) report: Option<Report>,
    pub(super) is_told: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attempt {
    pub(super) version: String,
    /// What was installed before: what a way back goes to.
    pub(super) before: Option<String>,
    /// When this version was first meant to be here.
    pub(super) since: Timestamp,
}

/// A version that could not be installed here, or was ill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failed {
    pub(super) version: String,
    pub(super) times: u32,
    pub(super) at: Timestamp,
    pub(super) why: String,
    /// Nothing was changed: it was not to be had, or not to be trusted.
    #[serde(default)]
    pub(super) is_refused: bool,
}

/// How it stands with an app on this host; as the server keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub host: String,
    pub app: String,
    pub environment: String,
    pub package: String,
    pub wanted: Option<String>,
    pub held: Option<String>,
    pub status: Status,
    pub why: Option<String>,
    /// When this status, of these versions, began.
    pub since: Timestamp,
    pub reported_at: Timestamp,
    /// Where the agent itself had to bring the version: how long after it was meant to be here.
    pub late_by_seconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// What is advertised is installed.
    Converged,
    /// It is not, and will be: a roll is at work, or something is waited for.
    Behind,
    /// It will not be, until somebody does something.
    Refused,
    /// It was tried, and what was there before is there again, if it could be.
    Failed,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Converged => "converged",
            Status::Behind => "behind",
            Status::Refused => "refused",
            Status::Failed => "failed",
        })
    }
}

impl Report {
    /// Whether it says the same, but for when.
    pub(super) fn is_as(&self, other: &Report) -> bool {
        let what =
            |report: &Report| (report.wanted.clone(), report.held.clone(), report.status, report.why.clone());
        what(self) == what(other) && self.host == other.host && self.environment == other.environment
    }
}

impl Kept {
    /// What is remembered; nothing where there is no file, or one that says nothing (the disk may have been full).
    pub(super) fn read(path: &Path) -> Kept {
        fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Remembers, so that also a power cut leaves this or what was remembered before.
    ///
    /// # Errors
    /// The disk is full, or not to be written on.
    pub(super) fn write(&self, path: &Path) -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        fs::File::open(folder)?.sync_all()
    }
}

/// Where an app is remembered.
pub(super) fn path_of(root: &Path, app: &str) -> PathBuf {
    root.join(FOLDER).join(format!("{app}.json"))
}
