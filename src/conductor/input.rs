//! All that can happen to a run.

use std::sync::Arc;

use crate::model::{Actor, AttemptKey, Event, Object, Outcome, RunError, RunId, RunStatus, Value};

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
        /// Who did it.
        worker: Option<String>,
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
        output: Arc<Value>,
        error: Option<RunError>,
    },
    /// The run that an undo is to roll back did nothing that could be taken back.
    NothingToUndo {
        step: String,
    },
    /// The values that a step asked for by `read`, by its own names.
    ValuesRead {
        step: String,
        values: Object,
    },
    /// The step has the lock that it asked for.
    LockTaken {
        step: String,
    },
    /// Time passed: whatever fell due by `World::now` happens.
    TimePassed,
    /// Holds were set or released.
    HoldsChanged,
    /// A younger run of the same key wants its place: it ends as soon as it only waits.
    Superseded {
        by: RunId,
    },
    /// It may not begin, and why.
    Refused {
        why: String,
    },
    /// It may pass windows and holds from now on.
    ForceAsked {
        by: Actor,
        why: String,
    },
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
