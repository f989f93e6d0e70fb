//! Workers, as they make themselves known.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{AttemptKey, RunId, Span, Timestamp};

/// What the worker inside the server is called where there is no broker.
pub const LOCAL: &str = "local";

/// Who claims an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimant {
    pub worker: String,
    /// Names this start of the worker's process: what an earlier start began died with it. `None` for the worker inside the server.
    pub session: Option<String>,
}

impl Claimant {
    /// The worker inside the server.
    pub fn local() -> Claimant {
        Claimant { worker: LOCAL.to_owned(), session: None }
    }
}

/// A sign of life: who the worker is and what it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    pub worker: String,
    pub session: String,
    /// The pools that it takes from; `None`: every one.
    pub pools: Option<Vec<String>>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub slots: u32,
    /// How many slots are taken.
    pub busy: u32,
    /// Every attempt that it knows of and that is not settled with a server: taken, claimed, at work, or ended and not confirmed yet.
    pub keys: Vec<AttemptKey>,
    /// Between two of its beats.
    pub every: Span,
    /// It takes nothing new.
    #[serde(default)]
    pub draining: bool,
    /// It ends now: what it had claimed and not finished is lost.
    #[serde(default)]
    pub leaving: bool,
    /// Runs whose workspaces it keeps, in the first beat after it came (back): it may have missed their ends.
    #[serde(default)]
    pub kept: Vec<RunId>,
}

/// A worker, as it was last heard of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerRecord {
    pub id: String,
    pub session: String,
    pub pools: Option<Vec<String>>,
    pub labels: BTreeMap<String, String>,
    pub slots: u32,
    pub busy: u32,
    pub draining: bool,
    pub seen_at: Timestamp,
}
