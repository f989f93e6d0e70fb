//! Stores what was decided, then does it. The engine reads a run, lets `conductor::advance` decide, writes run and effects in one
//! transaction, and only then acts.
//!
//! Promises: nothing is acknowledged before it is stored; what people, events and other runs have to say to a run lies in
//! its inbox until it is taken; at start, whatever was going on goes on. Decides nothing itself: which rules match and what a run does next are pure functions.

mod desk;
mod driver;
mod effects;
mod housekeeping;
mod intake;
mod load;
mod posted;
mod recovery;
mod reports;
mod router;
mod timers;
mod verbs;

mod answer;
mod cancel;
mod rerun;
mod replay;
mod rollback;
mod rules;
mod start;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, broadcast, mpsc};
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::definitions::{Definitions, Files, Mistake};
use crate::dispatch::Order;
use crate::model::{RunId, Value};
use crate::secrets::Secrets;
use crate::store::Store;

pub use load::{Loaded, last_in_force};
pub use rerun::Rerun;
pub use rules::WhyNot;
pub use verbs::{Accepted, Answer, Caller, Change, Refused, StartRun};

/// How many changes a slow watcher may miss before it is told that it missed some.
const CHANGES: usize = 4096;

/// The engine. It lives in an `Arc`; its tasks are started by `run_tasks` and end when the token is cancelled.
#[derive(Debug)]
pub struct Engine {
    store: Store,
    secrets: Secrets,
    clock: Clock,
    /// Where people find the server.
    public_url: String,
    /// Names this start of the server: attempts of another boot are nobody's.
    boot: String,
    loaded: ArcSwap<Loaded>,
    /// Revisions that open runs keep, beside the one in force.
    pinned: Mutex<BTreeMap<String, Arc<Definitions>>>,
    /// Rules that people switched off.
    disabled: Mutex<BTreeMap<String, Option<String>>>,
    cells: Mutex<HashMap<RunId, Arc<driver::Cell>>>,
    orders: mpsc::Sender<Order>,
    changes: broadcast::Sender<Change>,
    /// Something is there to be routed.
    routable: Notify,
    /// A run may wake earlier than the timer thinks.
    earlier: Notify,
    /// What moves runs beside the engine's own tasks: a stop waits for it, so that what workers said last is stored.
    moves: TaskTracker,
}

/// What an engine is made of.
#[derive(Debug)]
pub struct Parts {
    pub store: Store,
    pub secrets: Secrets,
    pub clock: Clock,
    pub public_url: String,
    pub boot: String,
    pub orders: mpsc::Sender<Order>,
    pub loaded: Loaded,
}

impl Engine {
    /// An engine that does nothing yet.
    pub fn new(parts: Parts) -> Arc<Engine> {
        Arc::new(Engine {
            store: parts.store,
            secrets: parts.secrets,
            clock: parts.clock,
            public_url: parts.public_url,
            boot: parts.boot,
            loaded: ArcSwap::from_pointee(parts.loaded),
            pinned: Mutex::default(),
            disabled: Mutex::default(),
            cells: Mutex::default(),
            orders: parts.orders,
            changes: broadcast::channel(CHANGES).0,
            routable: Notify::new(),
            earlier: Notify::new(),
            moves: TaskTracker::new(),
        })
    }

    /// The definitions in force.
    pub fn definitions(&self) -> Arc<Definitions> {
        Arc::clone(&self.loaded.load().definitions)
    }

    /// The texts of the definitions in force.
    pub fn files(&self) -> Arc<Files> {
        Arc::clone(&self.loaded.load().files)
    }

    /// The mistakes of the last load.
    pub fn mistakes(&self) -> Arc<Vec<Mistake>> {
        Arc::clone(&self.loaded.load().mistakes)
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub fn public_url(&self) -> &str {
        &self.public_url
    }

    /// Everything that changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// What is missing or worth a warning, a line each.
    pub fn readiness(&self) -> Vec<String> {
        let mistakes = self.mistakes();
        mistakes.iter().map(|mistake| format!("{}: {}", mistake.place, mistake.message)).collect()
    }

    fn changed(&self, change: Change) {
        // Nobody may be watching.
        self.changes.send(change).ok();
    }

    /// An audit row for an act of `caller`.
    fn audit(&self, caller: &Caller, act: &str, subject: String, details: Value) -> crate::store::NewAudit {
        crate::store::NewAudit {
            at: self.clock.now(),
            actor: caller.actor.clone(),
            act: act.to_owned(),
            subject,
            details,
            from: Some(caller.from.clone()),
        }
    }
}

/// Locks a map that no panic can leave half changed.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
