//! What people and programs may ask of the engine, and why it may refuse.

use crate::model::{Actor, EventId, RunId, Value};
use crate::store::StoreError;

/// Who asks, and from where: what the audit row says.
#[derive(Clone, Debug)]
pub struct Caller {
    pub actor: Actor,
    /// The roles of the person behind it.
    pub roles: Vec<String>,
    /// The network address, or `local`.
    pub from: String,
}

/// Start an action or a workflow.
#[derive(Clone, Debug)]
pub struct StartRun {
    /// `pack.name`.
    pub what: String,
    /// An object of inputs; strings in it are parsed to the declared types.
    pub with: Value,
    pub event: Option<EventId>,
    /// The same key by the same actor gives the same run.
    pub idempotency_key: Option<String>,
}

/// An answer to an approval.
#[derive(Clone, Debug)]
pub struct Answer {
    pub yes: bool,
    pub comment: Option<String>,
    /// To the fields that were asked for; null when none.
    pub answers: Value,
}

/// An event that was put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub event: EventId,
    /// It was known already, by its dedup key.
    pub known: bool,
}

/// Something that changed, for those who watch: it says what to look at, not what it looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Event(EventId),
    Run(RunId),
    /// Comes after the run's last `Run`.
    RunEnded(RunId),
    Log(RunId),
    Approval(RunId),
    Definitions,
    /// Some changes were missed: look at everything.
    Everything,
    /// People stopped something, or let it go on.
    Holds,
}

/// Why the engine did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    NotFound(String),
    /// Its state forbids it.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Forbidden(String),
    /// What was given is wrong; every mistake.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// Too much at once: try again in so many seconds.
    #[error("too much at once; try again in {0} s")]
    Busy(u32),
    #[error(transparent)]
    Store(#[from] StoreError),
}
