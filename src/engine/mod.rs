//! Stores what was decided, then does it. The engine reads a run, lets `conductor::advance` decide, writes run and effects in one
//! transaction, and only then acts.
//!
//! Promises: nothing is acknowledged before it is stored; what people, events and other runs have to say to a run lies in
//! its inbox until it is taken; at start, whatever was going on goes on. Decides nothing itself: which rules match and what a run does next are pure functions.

mod desk;
mod driver;
mod effects;
mod ends;
mod housekeeping;
mod intake;
mod load;
mod posted;
mod proof;
mod reach;
mod recovery;
mod reports;
mod router;
mod timers;
mod trial;
mod verbs;
mod workers;

mod cluster;
mod counting;
mod leases;

mod answer;
mod cancel;
mod force;
mod hold;
mod rerun;
mod plan;
mod replay;
mod rollback;
mod rules;
mod start;
mod way_back;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::definitions::{Definitions, Files, Mistake};
use crate::dispatch::Order;
use crate::model::hold::Holds;
use crate::model::{RunId, Value};
use crate::secrets::Secrets;
use crate::store::{Artefacts, NewNode, Store};

pub use crate::matching::explain::Part as WhyPart;
pub use hold::{Held, HeldKind};
pub use load::{Loaded, last_in_force};
pub use plan::{DefinitionChange, Plan, RuleEffect};
pub use replay::DryReplay;
pub use rerun::Rerun;
pub use trial::{MOST_TRIED, On, Outcome as TrialOutcome, Tried};
pub use verbs::{Accepted, Answer, Caller, Change, Refused, StartRun};
pub use way_back::WayBack;
pub use workers::{HeldBack, Workers};

/// How many changes a slow watcher may miss before it is told that it missed some.
const CHANGES: usize = 4096;

/// The engine. It lives in an `Arc`; its tasks are started by `run_tasks` and end when the token is cancelled.
#[derive(Debug)]
pub struct Engine {
    store: Store,
    artefacts: Artefacts,
    secrets: Secrets,
    clock: Clock,
    /// Where people find the server.
    public_url: String,
    /// This start of the server: attempts of one that is no longer there are nobody's.
    node: NewNode,
    leases: leases::Leases,
    cluster: cluster::Cluster,
    loaded: ArcSwap<Loaded>,
    /// Why the folder of definitions can't be read now.
    unreadable: Mutex<Option<String>>,
    /// Revisions that open runs keep, beside the one in force.
    pinned: Mutex<BTreeMap<String, Arc<Definitions>>>,
    /// Rules that people switched off.
    disabled: Mutex<BTreeMap<String, Option<String>>>,
    /// How many deployments of which app, environment and status ended here since the start.
    ended: Mutex<desk::Ended>,
    /// Holds on apps and on all, as the store has them.
    holds: ArcSwap<Holds>,
    refreshing_holds: tokio::sync::Mutex<()>,
    cells: Mutex<HashMap<RunId, Arc<driver::Cell>>>,
    orders: mpsc::Sender<Order>,
    workforce: workers::Workforce,
    changes: broadcast::Sender<Change>,
    ends: ends::Ends,
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
    pub artefacts: Artefacts,
    pub secrets: Secrets,
    pub clock: Clock,
    pub public_url: String,
    pub node: NewNode,
    pub orders: mpsc::Sender<Order>,
    pub workers: Workers,
    pub loaded: Loaded,
}

impl Engine {
    /// An engine that does nothing yet.
    pub fn new(parts: Parts) -> Arc<Engine> {
        let is_shared = parts.store.is_shared();
        Arc::new(Engine {
            store: parts.store,
            artefacts: parts.artefacts,
            secrets: parts.secrets,
            clock: parts.clock,
            public_url: parts.public_url,
            node: parts.node,
            leases: leases::Leases::new(!is_shared),
            cluster: cluster::Cluster::new(is_shared),
            loaded: ArcSwap::from_pointee(parts.loaded),
            unreadable: Mutex::default(),
            pinned: Mutex::default(),
            disabled: Mutex::default(),
            ended: Mutex::default(),
            holds: ArcSwap::default(),
            refreshing_holds: tokio::sync::Mutex::default(),
            cells: Mutex::default(),
            orders: parts.orders,
            workforce: workers::Workforce::new(parts.workers),
            changes: broadcast::channel(CHANGES).0,
            ends: ends::Ends::default(),
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

    /// Files that runs keep.
    pub fn artefacts(&self) -> &Artefacts {
        &self.artefacts
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
        let loaded = self.loaded.load();
        let unreadable = self.why_site_is_unreadable();
        let unreadable = unreadable
            .map(|why| format!("the definitions can't be read, and the last good ones stay in force: {why}"));
        let mistakes =
            loaded.mistakes.iter().map(|mistake| format!("{}: {}", mistake.place, mistake.message));
        let kept = loaded.kept.iter().map(|path| format!("{path}: its last good version stays in force"));
        unreadable.into_iter().chain(mistakes).chain(kept).collect()
    }

    /// Changes when the run ends, and at no other change. Ask for it before you look at the run.
    pub fn end_of(&self, run: RunId) -> watch::Receiver<()> {
        self.ends.of(run)
    }

    /// Whether attempts wait because the way to workers is broken.
    pub fn broker_is_missing(&self) -> bool {
        self.workforce.broker_is_missing()
    }

    fn changed(&self, change: Change) {
        if let Change::RunEnded(run) = change {
            self.ends.ended(run);
        }
        // Nobody may be watching.
        self.changes.send(change).ok();
        self.cluster.tell(change);
    }

    /// A run may wake earlier than the timer thinks, wherever the timer is.
    fn wake_earlier(&self) {
        self.earlier.notify_one();
        self.cluster.tell_earlier();
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
