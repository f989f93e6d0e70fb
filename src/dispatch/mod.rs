//! How an attempt reaches a worker, and how what the worker says comes back. Today in the same process (`local`).
//!
//! Promises: an attempt is known by its key, so a second delivery of the same key is the same attempt; of one attempt, the lines of output come before the outcome, in
//! the order in which it was said; every channel is bounded.

pub mod local;

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::model::desk::{Reply, Request};
use crate::model::log::Stream;
use crate::model::{Attempt, AttemptKey, Outcome, Secret, Value};

/// An attempt on its way to a worker, with the secrets that fill its holes. Never stored, never logged.
#[derive(Clone, Debug)]
pub struct Dispatched {
    pub attempt: Attempt,
    pub secrets: BTreeMap<String, Secret>,
}

/// What the server tells a worker.
#[derive(Debug)]
pub enum Order {
    Do(Box<Dispatched>),
    /// End it; its outcome still comes, as cancelled.
    Cancel(AttemptKey),
}

/// What a worker tells the server.
#[derive(Debug)]
pub enum Report {
    /// The worker would begin it now. `go` answers whether it may: only once the claim is on disk, and not when the run no longer wants
    /// it. Nothing is done before the answer; a dropped answer is a no, and then no outcome is owed.
    Claim {
        key: AttemptKey,
        go: oneshot::Sender<bool>,
    },
    /// Masked output, whole lines where possible; any bytes.
    Log {
        key: AttemptKey,
        stream: Stream,
        bytes: Vec<u8>,
    },
    /// The outputs so far, masked; each replaces the one before. `stored` is answered once they are on disk: what must be known to an
    /// undo is reported, and waited for, before it is done.
    Progress {
        key: AttemptKey,
        output: Value,
        stored: Option<oneshot::Sender<()>>,
    },
    Finished {
        key: AttemptKey,
        outcome: Outcome,
    },
    Question {
        key: AttemptKey,
        request: Request,
        answer: oneshot::Sender<Reply>,
    },
}
