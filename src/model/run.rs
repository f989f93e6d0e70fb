//! One execution of a workflow or of a single action: the record that the conductor advances and the store keeps.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{Actor, EventId, RunError, RunId, Step, Timestamp, Value};

/// Where a run stands, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    Queued,
    Running,
    Waiting,
    Paused,
    Undoing,
    Succeeded,
    Failed,
    Rejected,
    Superseded,
    Cancelled,
}

impl RunStatus {
    pub const ALL: [RunStatus; 10] = [
        RunStatus::Queued,
        RunStatus::Running,
        RunStatus::Waiting,
        RunStatus::Paused,
        RunStatus::Undoing,
        RunStatus::Succeeded,
        RunStatus::Failed,
        RunStatus::Rejected,
        RunStatus::Superseded,
        RunStatus::Cancelled,
    ];

    /// Nothing will happen in the run any more.
    pub fn is_final(self) -> bool {
        use RunStatus::{Cancelled, Failed, Rejected, Succeeded, Superseded};
        matches!(self, Succeeded | Failed | Rejected | Superseded | Cancelled)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            RunStatus::Queued => "queued",
            RunStatus::Running => "running",
            RunStatus::Waiting => "waiting",
            RunStatus::Paused => "paused",
            RunStatus::Undoing => "undoing",
            RunStatus::Succeeded => "succeeded",
            RunStatus::Failed => "failed",
            RunStatus::Rejected => "rejected",
            RunStatus::Superseded => "superseded",
            RunStatus::Cancelled => "cancelled",
        }
    }

    pub fn parse(text: &str) -> Option<RunStatus> {
        RunStatus::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

impl std::fmt::Display for RunStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The part of the workflow that a run is in. They follow one another in this order; each may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Steps,
    Undo,
    OnFailure,
    Finally,
    Ended,
}

/// What of a failed run's work was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undone {
    All,
    Part,
    None,
}

/// The step of another run that waits for this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    pub run: RunId,
    pub step: String,
    pub visit: u32,
}

/// A run. Only `conductor::advance` changes one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub id: RunId,
    /// The version that is stored; a write names the version that it read. 0: not stored yet.
    #[serde(skip)]
    pub version: i64,
    /// The workflow or action, `pack.name`.
    pub workflow: String,
    /// The revision of the definitions that it keeps until its end.
    pub revision: String,
    pub status: RunStatus,
    pub phase: Phase,
    pub started_by: Actor,
    pub event: Option<EventId>,
    pub rule: Option<String>,
    pub parent: Option<Parent>,
    /// How many parents stand above it.
    #[serde(default)]
    pub depth: u32,
    #[serde(default)]
    pub rerun_of: Option<RunId>,
    #[serde(default)]
    pub rollback_of: Option<RunId>,
    pub input: Value,
    pub output: Value,
    pub error: Option<RunError>,
    /// How it will end once its later phases are done; set when the first phase ends.
    pub verdict: Option<RunStatus>,
    /// Who asked to cancel it; a second one ends `finally` too.
    #[serde(default)]
    pub cancelled_by: Option<Actor>,
    #[serde(default)]
    pub cancels: u32,
    #[serde(default)]
    pub paused: bool,
    pub undone: Option<Undone>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// When the workflow's own `timeout` ends its steps.
    pub deadline: Option<Timestamp>,
    /// Every step of all phases, in the order of writing.
    pub steps: IndexMap<String, Step>,
    /// The undo of a step, by the step's id, in the order in which they are done.
    #[serde(default)]
    pub undos: IndexMap<String, Step>,
    /// Events that a `wait_for` of this run took: one event satisfies at most one wait.
    #[serde(default)]
    pub taken: Vec<EventId>,
    /// How many steps have begun: gives each its place in the order of starts.
    #[serde(default)]
    pub begun: u32,
}

/// The suffix that makes a step's id the id of its undo. No step id can hold it.
pub const UNDO_SUFFIX: &str = "/undo";

impl Run {
    /// The step or undo that a key in an attempt, approval or wait names.
    pub fn step(&self, key: &str) -> Option<&Step> {
        match key.strip_suffix(UNDO_SUFFIX) {
            Some(step) => self.undos.get(step),
            None => self.steps.get(key),
        }
    }

    /// As `step`, to change it.
    pub fn step_mut(&mut self, key: &str) -> Option<&mut Step> {
        match key.strip_suffix(UNDO_SUFFIX) {
            Some(step) => self.undos.get_mut(step),
            None => self.steps.get_mut(key),
        }
    }

    /// The person that counts as its starter in four eyes.
    pub fn starter(&self) -> Option<&str> {
        self.started_by.person()
    }
}
