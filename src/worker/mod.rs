//! Does attempts: takes orders, fills secrets in, lets a runner do the work, masks what it says, and reports.
//!
//! Promises:
//! * At most `slots` attempts at once, and more of those that only touch memory; further orders wait, and when too many wait the sender does.
//! * An order that comes twice is done once.
//! * No attempt works beside another of its own step, not even beside what a killed server left behind: all take the step's lock.
//! * Every order is answered by exactly one `Finished`, also when the action crashes, unless the worker is stopped: then what was in flight
//!   is ended without an outcome, and counts as lost.
//! * What an attempt prints, returns or reports is masked before it leaves; its size and its memory are bounded.
//!
//! Left to others: what is done next, where things are stored.

mod artefacts;
mod attempt;
mod log;
pub mod mask;
mod render;
pub mod workspace;

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dispatch::local::WorkerEnd;
use crate::dispatch::{Dispatched, Order};
use crate::model::worker::Claimant;
use crate::model::{AttemptKey, ErrorKind, Outcome};
use crate::runners;

pub use workspace::Workspaces;

/// How many orders may wait for a free slot. Beyond it no further order is taken, and the sender waits.
const WAITING: usize = 4096;
/// How many attempts that touch nothing but memory may be under way at once, beside those that have slots: they mostly wait for their claim to be on disk.
const IN_MEMORY: usize = 256;
/// How many attempts that are done are still known, so that a late second order for one of them is not done again.
const REMEMBERED: usize = 8192;
/// How long attempts that can't be repeated may go on when the worker is stopped.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How long attempts get to end their processes before their tasks are dropped.
const END_GRACE: Duration = Duration::from_secs(15);

/// A worker in this process.
pub struct Worker {
    end: WorkerEnd,
    slots: usize,
    patience: Duration,
    context: Arc<attempt::Context>,
}

impl Worker {
    /// A worker that keeps workspaces, locks and whatever else actions keep in `data_dir`, and does `slots` attempts at once.
    pub fn new(end: WorkerEnd, data_dir: impl AsRef<Path>, slots: usize) -> Worker {
        Worker::known_as(Claimant::local(), end, data_dir, slots)
    }

    /// A worker with a name of its own.
    pub fn known_as(by: Claimant, end: WorkerEnd, data_dir: impl AsRef<Path>, slots: usize) -> Worker {
        let data = std::path::absolute(&data_dir).unwrap_or_else(|_| data_dir.as_ref().to_path_buf());
        let context = attempt::Context::new(data, end.reports.clone(), by);
        Worker { end, slots: slots.max(1), patience: STOP_GRACE, context: Arc::new(context) }
    }

    /// What can't be repeated is not waited for either when the worker is stopped.
    #[must_use]
    pub fn impatient(mut self) -> Worker {
        self.patience = Duration::ZERO;
        self
    }

    /// Twice the number of cores, eight at least: most attempts wait for something else.
    pub fn default_slots() -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (2 * cores).max(8)
    }

    /// The workspaces of this worker: whoever knows that a run has ended removes its own.
    pub fn workspaces(&self) -> Workspaces {
        self.context.workspaces.clone()
    }

    /// Works until `stop` is cancelled, or nobody can give orders any more. Attempts that are safe to repeat end at once when it is stopped;
    /// the others get a few seconds.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut floor = Floor::new(self.slots, self.context.clone());
        let mut no_more_orders = false;
        while !(no_more_orders && floor.is_idle()) {
            floor.begin_what_waits();
            tokio::select! {
                () = stop.cancelled() => return floor.close(self.patience).await,
                Some(ended) = floor.doing.join_next_with_id() => floor.end(ended).await,
                order = self.end.orders.recv(), if !no_more_orders && floor.has_room() => match order {
                    Some(order) => floor.take(order).await,
                    None => no_more_orders = true,
                },
            }
        }
    }
}

/// What a worker is doing right now.
struct Floor {
    slots: usize,
    context: Arc<attempt::Context>,
    doing: JoinSet<()>,
    tidying: TaskTracker,
    tasks: HashMap<Id, InFlight>,
    waiting: VecDeque<Box<Dispatched>>,
    /// Those that need no slot.
    waiting_in_memory: VecDeque<Box<Dispatched>>,
    in_memory: usize,
    known: Known,
}

struct InFlight {
    key: AttemptKey,
    idempotent: bool,
    in_memory: bool,
    cancel: CancellationToken,
}

impl Floor {
    fn new(slots: usize, context: Arc<attempt::Context>) -> Floor {
        Floor {
            slots,
            context,
            doing: JoinSet::new(),
            tidying: TaskTracker::new(),
            tasks: HashMap::new(),
            waiting: VecDeque::new(),
            waiting_in_memory: VecDeque::new(),
            in_memory: 0,
            known: Known::default(),
        }
    }

    fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.waiting.is_empty() && self.waiting_in_memory.is_empty()
    }

    fn has_room(&self) -> bool {
        self.waiting.len() + self.waiting_in_memory.len() < WAITING
    }

    async fn take(&mut self, order: Order) {
        match order {
            Order::Do(dispatched) => {
                if self.known.add(&dispatched.attempt.key) {
                    match is_in_memory(&dispatched) {
                        true => self.waiting_in_memory.push_back(dispatched),
                        false => self.waiting.push_back(dispatched),
                    }
                }
            }
            Order::Cancel { key, .. } => self.cancel(key).await,
            Order::RunEnded { run, .. } => {
                // A large checkout takes a while to go; nothing waits for it.
                let workspaces = self.context.workspaces.clone();
                self.tidying.spawn(async move { workspaces.remove(run).await });
            }
        }
    }

    async fn cancel(&mut self, key: AttemptKey) {
        if let Some(in_flight) = self.tasks.values().find(|in_flight| in_flight.key == key) {
            in_flight.cancel.cancel();
            return;
        }
        let found = [&mut self.waiting, &mut self.waiting_in_memory].into_iter().any(|waiting| {
            let place = waiting.iter().position(|waiting| waiting.attempt.key == key);
            place.and_then(|place| waiting.remove(place)).is_some()
        });
        if !found {
            return;
        }
        self.known.done(&key);
        let outcome = Outcome::failed(ErrorKind::Cancelled, "cancelled before it began");
        self.context.report(self.context.finished(key, outcome)).await;
    }

    fn begin_what_waits(&mut self) {
        while self.tasks.len() - self.in_memory < self.slots {
            let Some(next) = self.waiting.pop_front() else { break };
            self.begin(*next, false);
        }
        while self.in_memory < IN_MEMORY {
            let Some(next) = self.waiting_in_memory.pop_front() else { return };
            self.begin(*next, true);
        }
    }

    fn begin(&mut self, next: Dispatched, in_memory: bool) {
        let in_flight = InFlight {
            key: next.attempt.key.clone(),
            idempotent: next.attempt.idempotent,
            in_memory,
            cancel: CancellationToken::new(),
        };
        let work = attempt::work(self.context.clone(), next, in_flight.cancel.clone());
        let task = self.doing.spawn(work);
        self.in_memory += usize::from(in_memory);
        self.tasks.insert(task.id(), in_flight);
    }

    async fn end(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let (id, crash) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(in_flight) = self.tasks.remove(&id) else { return };
        self.in_memory -= usize::from(in_flight.in_memory);
        self.known.done(&in_flight.key);
        let Some(crash) = crash.filter(tokio::task::JoinError::is_panic) else { return };
        tracing::error!(attempt = %in_flight.key, "the worker crashed around an attempt: {crash}");
        let outcome = Outcome::failed(
            ErrorKind::Failed,
            "the worker crashed around this attempt; its own log says where",
        );
        self.context.report(self.context.finished(in_flight.key, outcome)).await;
    }

    /// Ends everything without a further outcome from what is ended here.
    async fn close(mut self, patience: Duration) {
        self.waiting.clear();
        self.waiting_in_memory.clear();
        let patient = self.tasks.values().any(|in_flight| !in_flight.idempotent);
        self.context
            .silence(self.tasks.values().filter(|in_flight| in_flight.idempotent).map(|each| &each.key));
        for in_flight in self.tasks.values().filter(|in_flight| in_flight.idempotent) {
            in_flight.cancel.cancel();
        }
        if patient && self.joined_within(patience).await {
            return;
        }
        self.context.silence(self.tasks.values().map(|each| &each.key));
        for in_flight in self.tasks.values() {
            in_flight.cancel.cancel();
        }
        if !self.joined_within(END_GRACE).await {
            self.doing.shutdown().await;
        }
    }

    async fn joined_within(&mut self, time: Duration) -> bool {
        let all = async {
            while let Some(ended) = self.doing.join_next_with_id().await {
                let id = match &ended {
                    Ok((id, ())) => *id,
                    Err(error) => error.id(),
                };
                self.tasks.remove(&id);
            }
        };
        tokio::time::timeout(time, all).await.is_ok()
    }
}

/// Whether an attempt touches nothing but memory and the server.
fn is_in_memory(dispatched: &Dispatched) -> bool {
    let attempt = &dispatched.attempt;
    runners::find(&attempt.work.runner).is_some_and(|runner| runner.is_in_memory(&attempt.action))
}

/// The attempts that were taken: all in flight, and the last ones that are done.
#[derive(Default)]
struct Known {
    keys: HashSet<AttemptKey>,
    done: VecDeque<AttemptKey>,
}

impl Known {
    /// Whether it was not known yet.
    fn add(&mut self, key: &AttemptKey) -> bool {
        self.keys.insert(key.clone())
    }

    fn done(&mut self, key: &AttemptKey) {
        self.done.push_back(key.clone());
        if self.done.len() > REMEMBERED
            && let Some(oldest) = self.done.pop_front()
        {
            self.keys.remove(&oldest);
        }
    }
}

/// Where a worker keeps what belongs to a run, below its data directory.
pub(crate) fn workspaces_below(data: &Path) -> (PathBuf, PathBuf) {
    (data.join("workspaces"), data.join("locks"))
}
