//! Which worker may do an attempt, who is alive, and what is lost.
//!
//! Inside one process there is one worker, and it is alive as long as this is. Over a broker workers come and go: each says every few seconds that
//! it lives and what it holds. An attempt that was claimed is held by these beats; when they stop for a lease, or leave it out twice, it is lost.
//!
//! Promises: nothing is called lost while the broker is missing, nor for a lease after it is back; an attempt that no worker may do now waits in the store, says
//! why, and goes out when one may; what the broker did not confirm, or took and lost, goes out again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::dispatch::{Notice, Order, Verdict};
use crate::model::worker::{Beat, LOCAL, WorkerRecord};
use crate::model::{Attempt, AttemptKey, ErrorKind, Outcome, Route, RunId, Span, Timestamp};
use crate::store::{AttemptFilter, AttemptState, Claim, InFlight, LONGEST_LIST, StoreError};

use super::reports::{Standing, standing};
use super::{Engine, lock};

/// How many looks at workers there are in a lease.
const LOOKS_IN_LEASE: u64 = 6;
/// A worker is alive for this many of its own beats at least, whatever the lease.
const BEATS: u64 = 3;
/// How many beats may leave an attempt out that was sent to this worker only, before it is sent again.
const UNHEARD_BEATS: u32 = 2;
/// For how many leases a silent worker is still listed.
const LISTED_LEASES: u64 = 120;

/// Where attempts are done.
#[derive(Clone, Debug)]
pub enum Workers {
    /// By the one worker of this process, which has these labels and takes every pool.
    InProcess { labels: BTreeMap<String, String> },
    /// By workers behind a broker. One that is silent for `lease` has lost what it did.
    Behind { lease: Span },
}

impl Default for Workers {
    fn default() -> Workers {
        Workers::InProcess { labels: BTreeMap::new() }
    }
}

/// An attempt that waits for a worker, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    pub key: AttemptKey,
    pub since: Timestamp,
    pub why: String,
}

/// Where an attempt goes.
pub(super) enum Way {
    /// To whoever takes it of its pool.
    Pool,
    /// To this worker.
    Worker(String),
    /// Nowhere yet; it goes out when a worker may do it.
    Wait,
    /// Nowhere, ever.
    Gone(String),
}

#[derive(Debug)]
pub(super) struct Workforce {
    workers: Workers,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    broker: Broker,
    living: BTreeMap<String, Living>,
    /// What no worker may do now.
    parked: BTreeMap<AttemptKey, Parked>,
    /// What the broker did not confirm.
    unsent: BTreeSet<AttemptKey>,
    /// What was sent to one worker only and not claimed yet.
    direct: BTreeMap<AttemptKey, Direct>,
    /// Cancels that are told again while their attempts live.
    cancels: BTreeMap<AttemptKey, String>,
    /// Up to where it was looked for what the broker has lost.
    looked_through: Option<AttemptKey>,
}

#[derive(Debug)]
enum Broker {
    There { since: Timestamp },
    Missing { why: String },
}

#[derive(Debug)]
struct Living {
    beat: Beat,
    at: Timestamp,
    /// Whether it had a free slot at the beat before.
    was_free: bool,
    /// What the last two beats listed, and when they were heard; the newest last.
    listed: [Option<(Timestamp, Arc<HashSet<AttemptKey>>)>; 2],
}

#[derive(Debug)]
struct Parked {
    route: Route,
    why: String,
}

#[derive(Debug)]
struct Direct {
    worker: String,
    beats: u32,
}

impl Workforce {
    pub(super) fn new(workers: Workers) -> Workforce {
        let broker = Broker::Missing { why: "it was not reached yet".to_owned() };
        let state = State {
            broker,
            living: BTreeMap::new(),
            parked: BTreeMap::new(),
            unsent: BTreeSet::new(),
            direct: BTreeMap::new(),
            cancels: BTreeMap::new(),
            looked_through: None,
        };
        Workforce { workers, state: Mutex::new(state) }
    }

    /// Whether workers are behind a broker.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self.workers, Workers::Behind { .. })
    }

    pub(super) fn broker_is_missing(&self) -> bool {
        self.is_elsewhere() && matches!(self.state().broker, Broker::Missing { .. })
    }

    /// Where an attempt goes now. One that waits, or that goes to one worker, is remembered.
    pub(super) fn way(&self, attempt: &Attempt, now: Timestamp) -> Way {
        let (key, route) = (&attempt.key, &attempt.route);
        let mut state = self.state();
        let (way, why) = match &self.workers {
            Workers::InProcess { labels } => in_process(labels, route),
            Workers::Behind { lease } => state.way(*lease, route, now),
        };
        state.parked.remove(key);
        match &way {
            Way::Wait => drop(state.parked.insert(key.clone(), Parked { route: route.clone(), why })),
            Way::Worker(worker) if self.is_elsewhere() => {
                state.direct.insert(key.clone(), Direct { worker: worker.clone(), beats: 0 });
            }
            Way::Worker(_) | Way::Pool | Way::Gone(_) => (),
        }
        way
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// It is claimed, or over: nothing waits for it any more.
    fn forget(&self, key: &AttemptKey) {
        let mut state = self.state();
        state.parked.remove(key);
        state.unsent.remove(key);
        state.direct.remove(key);
    }
}

/// The way to the one worker of this process.
fn in_process(labels: &BTreeMap<String, String>, route: &Route) -> (Way, String) {
    if let Some(worker) = route.worker.as_ref().filter(|worker| *worker != LOCAL) {
        return (Way::Gone(worker_gone(worker)), String::new());
    }
    match has_labels(labels, &route.labels) {
        true => (Way::Pool, String::new()),
        false => (Way::Wait, format!("a worker with {}", said(&route.labels))),
    }
}

fn worker_gone(worker: &str) -> String {
    format!("worker {worker}, which has the workspace, is gone")
}

fn has_labels(has: &BTreeMap<String, String>, wants: &BTreeMap<String, String>) -> bool {
    wants.iter().all(|(name, value)| has.get(name) == Some(value))
}

fn said(labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("the labels {}", labels.join(" "))
}

impl State {
    /// For a lease from now nobody is called silent.
    fn begin_anew(&mut self, now: Timestamp) {
        if let Broker::There { since } = &mut self.broker {
            *since = now;
        }
    }

    fn is_settled(&self, lease: Span, now: Timestamp) -> bool {
        matches!(self.broker, Broker::There { since } if now.since(since) >= lease)
    }

    fn is_living(&self, worker: &str, lease: Span, now: Timestamp) -> bool {
        self.living.get(worker).is_some_and(|living| living.is_alive(lease, now))
    }

    fn way(&self, lease: Span, route: &Route, now: Timestamp) -> (Way, String) {
        let wait = |why: String| (Way::Wait, why);
        if let Some(worker) = &route.worker {
            return match self.living.get(worker).filter(|living| living.is_alive(lease, now)) {
                Some(living) if living.beat.draining => {
                    wait(format!("worker {worker}, which is being stopped"))
                }
                Some(_) => (Way::Worker(worker.clone()), String::new()),
                None if self.is_settled(lease, now) => (Way::Gone(worker_gone(worker)), String::new()),
                None => wait(format!("a word of worker {worker}")),
            };
        }
        if route.labels.is_empty() {
            return (Way::Pool, String::new());
        }
        let pool = route.pool();
        let fits = |living: &&Living| {
            living.is_alive(lease, now)
                && !living.beat.draining
                && living.takes(pool)
                && has_labels(&living.beat.labels, &route.labels)
        };
        let fitting: Vec<&Living> = self.living.values().filter(fits).collect();
        let wanted = format!("a worker of pool {pool} with {}", said(&route.labels));
        let Some(best) = fitting.into_iter().max_by_key(|living| self.free(living)) else {
            return wait(wanted);
        };
        match self.free(best) {
            0 => wait(format!("a free slot at {wanted}")),
            _ => (Way::Worker(best.beat.worker.clone()), String::new()),
        }
    }

    /// How many more attempts a worker could begin, as far as it is known here.
    fn free(&self, living: &Living) -> u32 {
        let unheard = |(key, direct): &(&AttemptKey, &Direct)| {
            direct.worker == living.beat.worker && !living.beat.keys.contains(key)
        };
        let sent = u32::try_from(self.direct.iter().filter(unheard).count()).unwrap_or(u32::MAX);
        living.beat.slots.saturating_sub(living.beat.busy).saturating_sub(sent)
    }

    /// Whether an attempt that nobody began should have been begun by now.
    fn is_swallowed(&self, attempt: &Attempt, lease: Span, now: Timestamp) -> bool {
        let Attempt { key, route, .. } = attempt;
        let is_known = self.parked.contains_key(key) || self.unsent.contains(key);
        let is_for_all = route.worker.is_none() && route.labels.is_empty();
        !is_known && is_for_all && self.idle(lease, now).any(|living| living.takes(route.pool()))
    }

    fn idle(&self, lease: Span, now: Timestamp) -> impl Iterator<Item = &Living> {
        self.living.values().filter(move |living| living.is_alive(lease, now) && living.is_idle())
    }

    fn takes_from(&self, pool: &str, lease: Span, now: Timestamp) -> bool {
        self.living.values().any(|living| living.is_alive(lease, now) && living.takes(pool))
    }

    /// Why a claim is lost.
    fn lost(&self, claim: &Claim, lease: Span, now: Timestamp) -> Option<String> {
        let Claim { worker, .. } = claim;
        let Some(living) = self.living.get(worker).filter(|living| living.is_alive(lease, now)) else {
            return Some(format!("its worker {worker} is silent"));
        };
        if living.beat.session != claim.session {
            return Some(format!("its worker {worker} was started again"));
        }
        let left_out = |listed: &Option<(Timestamp, Arc<HashSet<AttemptKey>>)>| {
            listed.as_ref().is_some_and(|(at, keys)| *at > claim.at && !keys.contains(&claim.key))
        };
        living
            .listed
            .iter()
            .all(left_out)
            .then(|| format!("its worker {worker} knows nothing of it any more"))
    }
}

impl Living {
    fn is_alive(&self, lease: Span, now: Timestamp) -> bool {
        let patience = lease.max(Span(self.beat.every.0.saturating_mul(BEATS)));
        now.since(self.at) < patience
    }

    /// Whether it had a free slot at its last two beats: then nothing that it takes waits for it at the broker.
    fn is_idle(&self) -> bool {
        !self.beat.draining && self.was_free && self.beat.busy < self.beat.slots
    }

    fn takes(&self, pool: &str) -> bool {
        self.beat.pools.as_ref().is_none_or(|pools| pools.iter().any(|known| known == pool))
    }
}

impl Engine {
    /// Takes what becomes known about workers behind a broker, until `stop` is cancelled.
    pub async fn watch_workers(
        self: Arc<Self>,
        mut notices: mpsc::Receiver<Notice>,
        stop: CancellationToken,
    ) {
        let Workers::Behind { lease } = self.workforce.workers else { return };
        let mut look = tokio::time::interval(
            (lease.duration() / LOOKS_IN_LEASE as u32).max(std::time::Duration::from_millis(50)),
        );
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looked_at = self.clock.now();
        loop {
            tokio::select! {
                biased; // What was said is heard before anybody is called silent.
                () = stop.cancelled() => return,
                notice = notices.recv() => match notice {
                    Some(notice) => self.take_notice(notice, lease),
                    None => return,
                },
                _ = look.tick() => {
                    let now = self.clock.now();
                    if now.since(looked_at) > Span(lease.0 / 2) {
                        // This process was held up: it may have missed what workers said.
                        self.workforce.state().begin_anew(now);
                    }
                    looked_at = now;
                    self.look_at_workers(lease).await;
                }
            }
        }
    }

    /// What waits for a worker, of one run.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn held_back(&self, run: RunId) -> Result<Vec<HeldBack>, StoreError> {
        if !self.workforce.is_elsewhere() && self.workforce.state().parked.is_empty() {
            return Ok(Vec::new());
        }
        let filter = AttemptFilter { run: Some(run), limit: LONGEST_LIST, ..AttemptFilter::default() };
        let mut held = Vec::new();
        for found in self.store.in_flight(&filter).await? {
            if found.state == AttemptState::Dispatched
                && let Some(why) = self.why_held_back(&found.attempt)
            {
                held.push(HeldBack { key: found.attempt.key, since: found.dispatched_at, why });
            }
        }
        Ok(held)
    }

    fn why_held_back(&self, attempt: &Attempt) -> Option<String> {
        let state = self.workforce.state();
        if let Some(parked) = state.parked.get(&attempt.key) {
            return Some(parked.why.clone());
        }
        let Workers::Behind { lease } = self.workforce.workers else { return None };
        match &state.broker {
            Broker::Missing { why } => Some(format!("the broker: {why}")),
            Broker::There { .. } if attempt.route.worker.is_none() => {
                let pool = attempt.route.pool();
                let takes = state.takes_from(pool, lease, self.clock.now());
                (!takes).then(|| format!("a worker of pool {pool}; none is there"))
            }
            Broker::There { .. } => None,
        }
    }

    /// Must not wait for anything that the task which gives the notices does.
    fn take_notice(self: &Arc<Self>, notice: Notice, lease: Span) {
        match notice {
            Notice::Connected => {
                self.workforce.state().broker = Broker::There { since: self.clock.now() };
                self.send_again();
            }
            Notice::Missing(why) => self.workforce.state().broker = Broker::Missing { why },
            Notice::Unsent(key) => {
                let mut state = self.workforce.state();
                state.direct.remove(&key);
                state.unsent.insert(key);
            }
            Notice::Refused { key, why } => self.refuse(key, why),
            Notice::Beat(beat) => self.hear_beat(*beat, lease),
        }
    }

    /// An attempt that can't be done by anybody as it is.
    fn refuse(self: &Arc<Self>, key: AttemptKey, why: String) {
        self.workforce.forget(&key);
        self.finish_later(key, Outcome::failed(ErrorKind::Failed, why));
    }

    fn hear_beat(self: &Arc<Self>, mut beat: Beat, lease: Span) {
        let now = self.clock.now();
        let kept = std::mem::take(&mut beat.kept);
        let worker = beat.worker.clone();
        let (mut again, mut cancels) = (Vec::new(), Vec::new());
        let has_lost_something = {
            let mut state = self.workforce.state();
            let listed = Arc::new(beat.keys.iter().cloned().collect::<HashSet<_>>());
            let known = state.living.remove(&worker);
            // Also when this server never heard of it: it may have been started again while no server was there.
            let is_other = known.as_ref().is_none_or(|known| known.beat.session != beat.session);
            let known = known.filter(|_| !is_other);
            let was_free = known.as_ref().is_some_and(|known| known.beat.busy < known.beat.slots);
            let before = known.and_then(|known| known.listed[1].clone());
            state.cancels.retain(|key, at| *at != worker || listed.contains(key));
            cancels.extend(state.cancels.iter().filter(|(_, at)| **at == worker).map(|(key, _)| key.clone()));
            state.direct.retain(|key, direct| {
                if direct.worker != worker {
                    return true;
                }
                direct.beats += 1;
                let is_heard = listed.contains(key);
                if !is_heard && (beat.leaving || direct.beats > UNHEARD_BEATS) {
                    again.push(key.clone());
                    return false;
                }
                !is_heard
            });
            let has_lost_something = is_other || beat.leaving;
            if !beat.leaving {
                let listed = [before, Some((now, listed))];
                state.living.insert(worker.clone(), Living { beat: beat.clone(), at: now, was_free, listed });
            }
            again.extend(state.ready(lease, now));
            has_lost_something
        };
        let engine = Arc::clone(self);
        self.moves.spawn(async move {
            if let Err(error) = engine.follow_beat(beat, kept, has_lost_something, now).await {
                tracing::error!(%worker, %error, "what follows from a worker's beat can't be stored; the next one will do it");
            }
            for key in cancels {
                engine.order(Order::Cancel { key, worker: Some(worker.clone()) }).await;
            }
            engine.dispatch_again(again).await;
        });
    }

    async fn follow_beat(
        self: &Arc<Self>,
        beat: Beat,
        kept: Vec<RunId>,
        has_lost_something: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let worker = beat.worker.clone();
        if has_lost_something {
            let why = match beat.leaving {
                true => format!("its worker {worker} was stopped"),
                false => format!("its worker {worker} was started again"),
            };
            let mut after = None;
            loop {
                let claims = self.store.claims(Some(&worker), after.as_ref(), LONGEST_LIST).await?;
                let Some(last) = claims.last() else { break };
                after = Some(last.key.clone());
                for claim in claims {
                    // Of the one that leaves, all; of the one that came again, what the one before it had.
                    if (claim.session == beat.session) == beat.leaving {
                        self.finish_later(claim.key, Outcome::failed(ErrorKind::Lost, why.clone()));
                    }
                }
            }
        }
        for run in kept {
            if self.store.run(run).await?.is_none_or(|run| run.status.is_final()) {
                self.order(Order::RunEnded { run, worker: Some(worker.clone()) }).await;
            }
        }
        if beat.leaving {
            return self.store.forget_worker(&worker).await;
        }
        let record = WorkerRecord {
            id: beat.worker,
            session: beat.session,
            pools: beat.pools,
            labels: beat.labels,
            slots: beat.slots,
            busy: beat.busy,
            draining: beat.draining,
            seen_at: now,
        };
        self.store.save_worker(record).await
    }

    /// Looks for what is lost, and sends again what was not sent.
    async fn look_at_workers(self: &Arc<Self>, lease: Span) {
        let now = self.clock.now();
        let (is_there, is_settled, ready) = {
            let state = self.workforce.state();
            let is_there = matches!(state.broker, Broker::There { .. });
            (is_there, state.is_settled(lease, now), state.ready(lease, now))
        };
        if !is_there {
            return;
        }
        self.send_again();
        if !ready.is_empty() {
            let engine = Arc::clone(self);
            self.moves.spawn(async move { engine.dispatch_again(ready).await });
        }
        if !is_settled {
            return;
        }
        if let Err(error) = self.find_lost(lease, now).await {
            tracing::error!(%error, "claims can't be read; trying again");
        }
        if let Err(error) = self.find_swallowed(lease, now).await {
            tracing::error!(%error, "attempts can't be read; trying again");
        }
        let (unheard, forgotten) = {
            let mut state = self.workforce.state();
            let silent = |state: &State, worker: &str| !state.is_living(worker, lease, now);
            let gone = state.direct.iter().filter(|(_, direct)| silent(&state, &direct.worker));
            let gone: Vec<AttemptKey> = gone.map(|(key, _)| key.clone()).collect();
            for key in &gone {
                state.direct.remove(key);
            }
            let listed = Span(lease.0.saturating_mul(LISTED_LEASES));
            let silent = state.living.iter().filter(|(_, living)| now.since(living.at) >= listed);
            let forgotten: Vec<String> = silent.map(|(worker, _)| worker.clone()).collect();
            for worker in &forgotten {
                state.living.remove(worker);
            }
            (gone, forgotten)
        };
        for worker in forgotten {
            if let Err(error) = self.store.forget_worker(&worker).await {
                tracing::warn!(%worker, %error, "a worker that is gone stays listed");
            }
        }
        if !unheard.is_empty() {
            let engine = Arc::clone(self);
            self.moves.spawn(async move { engine.dispatch_again(unheard).await });
        }
    }

    async fn find_lost(self: &Arc<Self>, lease: Span, now: Timestamp) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let claims = self.store.claims(None, after.as_ref(), LONGEST_LIST).await?;
            let Some(last) = claims.last() else { return Ok(()) };
            after = Some(last.key.clone());
            for claim in claims {
                let lost = self.workforce.state().lost(&claim, lease, now);
                if let Some(why) = lost {
                    tracing::warn!(attempt = %claim.key, "lost: {why}");
                    self.finish_later(claim.key, Outcome::failed(ErrorKind::Lost, why));
                }
            }
        }
    }

    /// Sends again what the broker took and does not have any more: nobody began it for a lease, although somebody who would is idle. One that the
    /// broker has after all is begun once all the same.
    async fn find_swallowed(self: &Arc<Self>, lease: Span, now: Timestamp) -> Result<(), StoreError> {
        if self.workforce.state().idle(lease, now).next().is_none() {
            return Ok(());
        }
        // A page at each look: pools without a worker may have many that wait.
        let filter = AttemptFilter {
            of_boot: Some(self.node.boot.clone()),
            waiting_since: Some(now.minus(lease)),
            after: self.workforce.state().looked_through.take(),
            limit: LONGEST_LIST,
            ..AttemptFilter::default()
        };
        let found = self.store.in_flight(&filter).await?;
        self.workforce.state().looked_through = found.last().map(|last| last.attempt.key.clone());
        for InFlight { attempt, .. } in found {
            let is_swallowed = self.workforce.state().is_swallowed(&attempt, lease, now);
            if is_swallowed && self.store.attempt_taken_over(&attempt.key, &self.node.boot, now).await? {
                tracing::warn!(attempt = %attempt.key, "sent again: nobody began it, although a worker is idle");
                self.dispatch(Box::new(attempt), Vec::new()).await;
            }
        }
        Ok(())
    }

    /// What the broker did not confirm goes out once more.
    fn send_again(self: &Arc<Self>) {
        let unsent = std::mem::take(&mut self.workforce.state().unsent);
        if unsent.is_empty() {
            return;
        }
        let engine = Arc::clone(self);
        self.moves.spawn(async move { engine.dispatch_again(unsent.into_iter().collect()).await });
    }

    /// Dispatches those of these attempts that nobody has begun.
    async fn dispatch_again(self: &Arc<Self>, keys: Vec<AttemptKey>) {
        for key in keys {
            match self.store.attempt(&key).await {
                Ok(Some((attempt, AttemptState::Dispatched))) => {
                    self.dispatch(Box::new(attempt), Vec::new()).await;
                }
                Ok(_) => self.workforce.forget(&key),
                Err(error) => {
                    tracing::error!(attempt = %key, %error, "an attempt can't be read; trying again");
                    self.workforce.state().unsent.insert(key);
                }
            }
        }
    }

    /// Gives an attempt to the worker that claims it, with the secrets that it needs.
    pub(super) async fn grant(
        self: &Arc<Self>,
        key: &AttemptKey,
        worker: &str,
        session: &str,
    ) -> Result<Verdict, StoreError> {
        if !self.store.claim_attempt(key, worker, session, self.clock.now()).await? {
            return Ok(Verdict::No);
        }
        self.workforce.forget(key);
        let Some((attempt, _)) = self.store.attempt(key).await? else { return Ok(Verdict::No) };
        match self.read_secrets(self.secrets_of(&attempt).await).await {
            Ok(secrets) => Ok(Verdict::Go(secrets)),
            Err(why) => {
                self.finish_later(key.clone(), Outcome::failed(ErrorKind::Failed, why));
                Ok(Verdict::No)
            }
        }
    }

    /// Ends an attempt wherever it is; its outcome comes as cancelled.
    pub(super) async fn cancel_attempt(self: &Arc<Self>, key: AttemptKey) {
        let is_parked = self.workforce.state().parked.contains_key(&key);
        if !self.workforce.is_elsewhere() && !is_parked {
            return self.order(Order::Cancel { key, worker: None }).await;
        }
        if let Err(error) = self.try_cancel(&key).await {
            // A worker that claims it later is told no, and one that is at work by the beats.
            tracing::error!(attempt = %key, %error, "a cancel waits for the store");
            self.workforce.state().unsent.insert(key);
        }
    }

    async fn try_cancel(self: &Arc<Self>, key: &AttemptKey) -> Result<(), StoreError> {
        // What no worker has claimed is claimed here, so that none does.
        if self.store.attempt_started(key, &self.node.boot, self.clock.now()).await? {
            self.workforce.forget(key);
            let why = "cancelled before it began";
            self.finish_later(key.clone(), Outcome::failed(ErrorKind::Cancelled, why));
            return Ok(());
        }
        let Some(claim) = self.store.claim_of(key).await? else { return Ok(()) };
        self.workforce.state().cancels.insert(key.clone(), claim.worker.clone());
        self.order(Order::Cancel { key: key.clone(), worker: Some(claim.worker) }).await;
        Ok(())
    }

    /// After a start: a claimed attempt whose run is being ended is to be told so again.
    pub(super) async fn remember_cancel(self: &Arc<Self>, key: &AttemptKey) -> Result<(), StoreError> {
        let ending = self.peek(key.run, |run| matches!(standing(run, key), Standing::Ending)).await?;
        if ending == Some(true)
            && let Some(claim) = self.store.claim_of(key).await?
        {
            self.workforce.state().cancels.insert(key.clone(), claim.worker);
        }
        Ok(())
    }

    /// Tells workers elsewhere that a run's workspaces may go.
    pub async fn tell_run_ended(&self, run: RunId) {
        if self.workforce.is_elsewhere() {
            self.order(Order::RunEnded { run, worker: None }).await;
        }
    }
}

impl State {
    /// What waited for a worker and need not wait any longer.
    fn ready(&self, lease: Span, now: Timestamp) -> Vec<AttemptKey> {
        let waits = |parked: &Parked| matches!(self.way(lease, &parked.route, now).0, Way::Wait);
        self.parked.iter().filter(|(_, parked)| !waits(parked)).map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Span = Span::seconds(30);

    fn at(seconds: i64) -> Timestamp {
        Timestamp(1_700_000_000_000 + seconds * 1000)
    }

    fn key(number: u32) -> AttemptKey {
        AttemptKey { run: RunId(1), step: "a".into(), visit: 1, item: None, number }
    }

    fn beat(worker: &str, keys: &[AttemptKey]) -> Beat {
        Beat {
            worker: worker.to_owned(),
            session: "s".to_owned(),
            pools: Some(vec!["default".to_owned()]),
            labels: BTreeMap::from([("arch".to_owned(), "arm".to_owned())]),
            slots: 2,
            busy: 0,
            keys: keys.to_vec(),
            every: Span::seconds(5),
            draining: false,
            leaving: false,
            kept: Vec::new(),
        }
    }

    /// A state in which the broker was there from second 0 on.
    fn state() -> State {
        State {
            broker: Broker::There { since: at(0) },
            living: BTreeMap::new(),
            parked: BTreeMap::new(),
            unsent: BTreeSet::new(),
            direct: BTreeMap::new(),
            cancels: BTreeMap::new(),
            looked_through: None,
        }
    }

    fn hear(state: &mut State, beat: Beat, now: Timestamp) {
        let keys = Arc::new(beat.keys.iter().cloned().collect());
        let before = state.living.remove(&beat.worker).and_then(|known| known.listed[1].clone());
        let listed = [before, Some((now, keys))];
        let living = Living { beat: beat.clone(), at: now, was_free: false, listed };
        state.living.insert(beat.worker, living);
    }

    fn claim(at: Timestamp) -> Claim {
        Claim { key: key(1), worker: "w".to_owned(), session: "s".to_owned(), at }
    }

    #[test]
    fn a_claim_is_lost_when_its_worker_is_silent_for_a_lease_or_leaves_it_out_twice() {
        let mut state = state();
        hear(&mut state, beat("w", &[key(1)]), at(100));
        assert_eq!(state.lost(&claim(at(99)), LEASE, at(129)), None);
        assert!(state.lost(&claim(at(99)), LEASE, at(130)).is_some());
        // The first beat without it was said before the claim came.
        hear(&mut state, beat("w", &[]), at(105));
        assert_eq!(state.lost(&claim(at(106)), LEASE, at(107)), None);
        hear(&mut state, beat("w", &[]), at(110));
        assert_eq!(state.lost(&claim(at(106)), LEASE, at(111)), None);
        hear(&mut state, beat("w", &[]), at(115));
        assert!(state.lost(&claim(at(106)), LEASE, at(116)).is_some());
        hear(&mut state, beat("w", &[key(1)]), at(120));
        assert_eq!(state.lost(&claim(at(106)), LEASE, at(121)), None);
    }

    #[test]
    fn what_an_earlier_start_of_the_worker_claimed_is_lost() {
        let mut state = state();
        hear(&mut state, beat("w", &[key(1)]), at(100));
        let earlier = Claim { session: "earlier".to_owned(), ..claim(at(99)) };
        assert!(state.lost(&earlier, LEASE, at(101)).is_some());
    }

    #[test]
    fn nothing_is_settled_for_a_lease_after_the_broker_is_back() {
        let mut state = state();
        assert!(!state.is_settled(LEASE, at(29)) && state.is_settled(LEASE, at(30)));
        state.begin_anew(at(50));
        assert!(!state.is_settled(LEASE, at(79)) && state.is_settled(LEASE, at(80)));
        state.broker = Broker::Missing { why: String::new() };
        assert!(!state.is_settled(LEASE, at(1000)));
        state.begin_anew(at(1000));
        assert!(!state.is_settled(LEASE, at(2000)));
    }

    #[test]
    fn labels_find_a_worker_with_a_free_slot_and_one_worker_is_waited_for_until_it_is_gone() {
        let mut state = state();
        let arm =
            Route { labels: BTreeMap::from([("arch".to_owned(), "arm".to_owned())]), ..Route::default() };
        let one = Route { worker: Some("w".to_owned()), ..Route::default() };
        let way = |state: &State, route: &Route, now| match state.way(LEASE, route, at(now)) {
            (Way::Pool, _) => "pool".to_owned(),
            (Way::Worker(worker), _) => worker,
            (Way::Wait, why) => format!("wait: {why}"),
            (Way::Gone(_), _) => "gone".to_owned(),
        };
        assert_eq!(way(&state, &Route::default(), 1), "pool");
        assert_eq!(way(&state, &arm, 1), "wait: a worker of pool default with the labels arch=arm");
        assert_eq!(way(&state, &one, 29), "wait: a word of worker w");
        assert_eq!(way(&state, &one, 30), "gone");
        hear(&mut state, beat("w", &[]), at(40));
        assert_eq!((way(&state, &arm, 41), way(&state, &one, 41)), ("w".to_owned(), "w".to_owned()));
        for number in [1, 2] {
            state.direct.insert(key(number), Direct { worker: "w".to_owned(), beats: 0 });
        }
        assert!(way(&state, &arm, 41).starts_with("wait: a free slot"), "{}", way(&state, &arm, 41));
        hear(&mut state, Beat { busy: 1, ..beat("w", &[key(1), key(2)]) }, at(42));
        assert_eq!(way(&state, &arm, 43), "w");
        let other_pool = Route { pool: Some("gpu".to_owned()), ..arm };
        assert!(way(&state, &other_pool, 43).starts_with("wait: a worker of pool gpu"));
        assert_eq!(way(&state, &one, 72), "gone");
    }
}
