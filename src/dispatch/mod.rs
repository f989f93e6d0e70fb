//! How an attempt reaches a worker, and how what the worker says comes back: in the same process (`local`), or over RabbitMQ (`rabbitmq`).
//!
//! Promises: an attempt is known by its key, so a second delivery of the same key is the same attempt; of one attempt, the lines of output come before the outcome, in
//! the order in which it was said; every channel is bounded.

pub mod local;
pub mod rabbitmq;
mod sealing;

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::model::desk::{Reply, Request};
use crate::model::log::Stream;
use crate::model::worker::{Beat, Claimant};
use crate::model::{Attempt, AttemptKey, Outcome, RunId, Secret, Value};

/// An attempt on its way to a worker, with the secrets that fill its holes. Never stored, never logged. Over a broker the secrets come later, with the
/// answer to the claim.
#[derive(Clone, Debug)]
pub struct Dispatched {
    pub attempt: Attempt,
    pub secrets: BTreeMap<String, Secret>,
}

/// What the server tells a worker.
#[derive(Debug)]
pub enum Order {
    /// Do it: the worker that its route names, or else any of its pool.
    Do(Box<Dispatched>),
    /// End it; its outcome still comes, as cancelled. `worker` has it, where it is not the one in this process.
    Cancel { key: AttemptKey, worker: Option<String> },
    /// Its workspace may go, at every worker or at this one.
    RunEnded { run: RunId, worker: Option<String> },
}

/// Is told once something is on disk; dropped when it will not be.
pub type Stored = oneshot::Sender<()>;

/// What a worker tells the server.
#[derive(Debug)]
pub enum Report {
    /// The worker would begin it now. `go` answers whether it may: only once the claim is on disk, and not when the run no longer wants
    /// it. Nothing is done before the answer; a dropped answer is a no, and then no outcome is owed.
    Claim {
        key: AttemptKey,
        by: Claimant,
        go: oneshot::Sender<Verdict>,
    },
    /// Masked output, whole lines where possible; any bytes.
    Log {
        key: AttemptKey,
        stream: Stream,
        bytes: Vec<u8>,
        stored: Option<Stored>,
    },
    /// The outputs so far, masked; each replaces the one before. `stored` is answered once they are on disk: what must be known to an
    /// undo is reported, and waited for, before it is done.
    Progress {
        key: AttemptKey,
        output: Value,
        stored: Option<Stored>,
    },
    Finished {
        key: AttemptKey,
        /// The worker that did it.
        worker: String,
        outcome: Outcome,
        stored: Option<Stored>,
    },
    Question {
        key: AttemptKey,
        request: Request,
        answer: oneshot::Sender<Reply>,
    },
}

/// The answer to a claim.
#[derive(Debug)]
pub enum Verdict {
    /// Begin; with the secrets that did not come with the order.
    Go(BTreeMap<String, Secret>),
    No,
}

/// What becomes known about workers and the way to them; only over a broker.
#[derive(Debug)]
pub enum Notice {
    /// The broker is there (again).
    Connected,
    /// The broker is missing, and why.
    Missing(String),
    /// An attempt that could not be handed over: it waits in the store.
    Unsent(AttemptKey),
    /// An attempt that no worker will ever take in this form.
    Refused { key: AttemptKey, why: String },
    /// A worker is alive.
    Beat(Box<Beat>),
}
