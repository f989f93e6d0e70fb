//! All that a run can cause. Effects are written with the run that caused them and carried out after that: what is outstanding after a crash is
//! found in the store.

use serde::Serialize;

use crate::model::approval::Question;
use crate::model::run::{Outer, Parent};
use crate::model::{Actor, Attempt, AttemptKey, Kept, RunError, RunId, RunStatus, Timestamp, Value};

/// What the engine is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Have a worker do it. `secrets` are the names that fill its holes and its action's own templates.
    Dispatch {
        attempt: Box<Attempt>,
        secrets: Vec<String>,
    },
    CancelAttempt {
        key: AttemptKey,
    },
    /// Ask people.
    Ask {
        question: Question,
    },
    /// Nobody needs to answer any more; `expired` when time ran out.
    Withdraw {
        step: String,
        expired: bool,
    },
    /// Read keys of the KV store, each with the name that it is called by.
    Read {
        step: String,
        keys: Vec<(String, String)>,
    },
    /// Ask for a lock. Whoever asked first has it first; `LockTaken` comes when it is the step's turn.
    TakeLock {
        step: String,
        lock: String,
    },
    /// The step no longer needs the lock that it has or waits for.
    FreeLock {
        step: String,
    },
    /// Begin a run for a step.
    StartChild {
        step: String,
        visit: u32,
        workflow: String,
        input: Kept,
        /// A group sees the run around it.
        outer: Option<Box<Outer>>,
    },
    /// Begin a run that takes back what `of` did, as the undo of a step. The engine answers `NothingToUndo` when there is nothing.
    StartRollback {
        step: String,
        visit: u32,
        of: RunId,
    },
    CancelChild {
        run: RunId,
    },
    PauseChild {
        run: RunId,
    },
    ResumeChild {
        run: RunId,
    },
    ForceChild {
        run: RunId,
        by: Actor,
        why: String,
    },
    /// Remind those who have not answered.
    Remind {
        step: String,
    },
    /// Put an event in; the key makes it once.
    Emit {
        trigger: String,
        payload: Value,
        dedup: String,
    },
    /// The run is final: its parent's step goes on.
    TellParent {
        parent: Parent,
        status: RunStatus,
        output: Kept,
        error: Option<RunError>,
    },
    /// A line of the run's history.
    Note(Entry),
}

/// One line of a run's history: what happened, for people and for `siskin why`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    pub at: Timestamp,
    /// `run` or `step` or `undo`, and what it did: `step.succeeded`.
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A trigger that a step of a run listens to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listening {
    pub step: String,
    pub trigger: String,
    /// Stored events since then count too.
    pub since: Timestamp,
}
