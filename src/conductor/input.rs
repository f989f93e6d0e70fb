//! All that can happen to a run.

use crate::model::{Actor, AttemptKey, Event, Outcome, RunError, RunId, RunStatus, Value};

/// What the engine hands to `advance`. The same input twice is one input: the second finds nothing that waits for it.
#[derive(Clone, Debug)]
pub enum Input {
    /// Begin.
    Started,
    /// An attempt reported its outputs so far.
    AttemptReported {
        key: AttemptKey,
        output: Value,
    },
    AttemptFinished {
        key: AttemptKey,
        outcome: Outcome,
    },
    /// People agreed; `answers` to the fields that were asked for.
    Approved {
        step: String,
        by: Vec<String>,
        comment: Option<String>,
        answers: Value,
    },
    Rejected {
        step: String,
        by: String,
        comment: Option<String>,
    },
    /// An event that the run may listen to.
    EventCame {
        event: Event,
    },
    ChildEnded {
        step: String,
        run: RunId,
        status: RunStatus,
        output: Value,
        error: Option<RunError>,
    },
    /// The run that an undo is to roll back did nothing that could be taken back.
    NothingToUndo {
        step: String,
    },
    /// The step has the lock that it asked for.
    LockTaken {
        step: String,
    },
    /// Time passed: whatever fell due by `World::now` happens.
    TimePassed,
    CancelAsked {
        by: Actor,
    },
    PauseAsked {
        by: Actor,
    },
    ResumeAsked {
        by: Actor,
    },
}
