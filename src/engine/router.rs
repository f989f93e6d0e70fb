//! Takes new events in order, finds the rules that they meet, and writes matches, runs and the mark "routed" in one transaction.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::conductor::{self, Input, Start};
use crate::definitions::{Definitions, Rule};
use crate::matching::decide::{Values, Verdict, Wanted, keys};
use crate::matching::{Decision, decide};
use crate::model::event::{Match, MatchResult};
use crate::model::{Actor, Event, RunId};
use crate::store::{NewAudit, NewMatch, NewRun, NewWindow, Routed, Routing, StoreError};

use super::counting::Counting;
use super::driver::Move;
use super::posted::Posted;
use super::{Change, Engine, Refused, lock};

/// How many events are read at once.
const BATCH: u32 = 400;
/// And how much text of payloads; one event may be more.
const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// For how many events rules are tried at once.
const DECIDING: usize = 4;
/// How many stored events are looked through at once for a wait.
const SCAN_AT_ONCE: u32 = 20;
/// Nothing that was missed waits longer.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How long to wait before trying again when the store fails.
const AGAIN: Duration = Duration::from_secs(1);

impl Engine {
    /// Routes until it is stopped.
    pub(super) async fn route_events(self: &Arc<Self>, stop: &CancellationToken) {
        loop {
            match self.route_batch().await {
                Ok(true) => continue,
                Ok(false) => (),
                Err(error) => {
                    tracing::error!(%error, "events can't be routed; they wait in the store");
                    tokio::select! {
                        () = tokio::time::sleep(AGAIN) => continue,
                        () = stop.cancelled() => return,
                    }
                }
            }
            tokio::select! {
                () = self.routable.notified() => (),
                () = tokio::time::sleep(LOOK_AGAIN) => (),
                () = stop.cancelled() => return,
            }
        }
    }

    async fn route_batch(self: &Arc<Self>) -> Result<bool, StoreError> {
        let events = self.store.unrouted(BATCH, BATCH_BYTES).await?;
        let some = !events.is_empty();
        let listening = self.listening(&events).await?;
        let definitions = self.definitions();
        let disabled = Arc::new(lock(&self.disabled).clone());
        let events = self.with_values(&definitions, &disabled, events).await?;
        let decided = decide_all(&definitions, &disabled, events).await;
        let mut counting = Counting::new(&self.store, &definitions);
        let mut settled = Vec::with_capacity(decided.len());
        for (decisions, event, values) in decided {
            let (decisions, windows) = counting.settle(&event, decisions, &values).await?;
            settled.push((decisions, event, windows));
        }
        let no_one = Vec::new();
        let routings = settled.into_iter().map(|(decisions, event, windows)| {
            let told = listening.get(&event.trigger).unwrap_or(&no_one);
            self.route_event(&definitions, event, decisions, windows, told)
        });
        // Side by side, so that they share a commit; they reach the writer in the events' order.
        for routed in join_all(routings).await {
            routed?;
        }
        Ok(some)
    }

    /// Each event with the values of the KV store that rules read for it.
    async fn with_values(
        &self,
        definitions: &Definitions,
        disabled: &BTreeMap<String, Option<String>>,
        events: Vec<Event>,
    ) -> Result<Vec<(Event, Values)>, StoreError> {
        let mut with_values = Vec::with_capacity(events.len());
        for event in events {
            let keys = keys(definitions, &event, &|rule| disabled.contains_key(rule));
            let values = self.values(keys).await?;
            with_values.push((event, values));
        }
        Ok(with_values)
    }

    /// What these keys of the KV store have.
    pub(super) async fn values(&self, keys: Vec<String>) -> Result<Values, StoreError> {
        let mut values = Values::new();
        for key in keys {
            if let Some(entry) = self.store.kv(&key, self.clock.now()).await? {
                values.insert(key, entry.value);
            }
        }
        Ok(values)
    }

    /// The runs that listen to the events' triggers.
    async fn listening(&self, events: &[Event]) -> Result<BTreeMap<String, Vec<RunId>>, StoreError> {
        let mut listening = BTreeMap::new();
        for event in events {
            if !listening.contains_key(&event.trigger) {
                let waits = self.store.waiting_for(&event.trigger).await?;
                let mut runs: Vec<RunId> = waits.into_iter().map(|wait| wait.run).collect();
                runs.sort_unstable();
                runs.dedup();
                listening.insert(event.trigger.clone(), runs);
            }
        }
        Ok(listening)
    }

    async fn route_event(
        self: &Arc<Self>,
        definitions: &Definitions,
        event: Event,
        decisions: Vec<Decision>,
        windows: Vec<NewWindow>,
        told: &[RunId],
    ) -> Result<(), StoreError> {
        let mut matches: Vec<NewMatch> =
            decisions.into_iter().filter_map(|decision| self.found(definitions, &event, decision)).collect();
        let routing =
            |matches, told| Routing { windows: windows.clone(), ..self.routing(&event, matches, told) };
        let routed = match self.store.route(routing(matches.clone(), told)).await {
            Err(error) if error.is_final() => {
                // What these rules want can never be stored: that is their error, and no other event waits for it.
                matches = matches.into_iter().map(|found| errored(found, &error)).collect();
                self.store.route(routing(matches.clone(), &[])).await?
            }
            other => other?,
        };
        if let Routed::Now { began } = routed {
            self.changed(Change::Event(event.id));
            for (place, inserted) in began {
                if let Some(run) = matches.get_mut(place).and_then(|found| found.run.take()) {
                    self.began(run, inserted);
                }
            }
            for run in told {
                self.nudge(*run);
            }
        }
        Ok(())
    }

    fn routing(&self, event: &Event, matches: Vec<NewMatch>, told: &[RunId]) -> Routing {
        let now = self.clock.now();
        let audit = matches.iter().filter(|found| found.run.is_some()).map(|found| {
            let actor = Actor::Rule { name: found.found.rule.clone(), event: event.id, on_behalf_of: None };
            let subject = format!("event {}", event.id);
            let details = serde_json::json!({"rule": found.found.rule});
            NewAudit { at: now, actor, act: "rule.matched".to_owned(), subject, details, from: None }
        });
        let audit = audit.collect();
        let posted = Posted::Event { id: event.id }.stored();
        let inputs = told.iter().map(|run| (*run, posted.clone())).collect();
        Routing { matches, inputs, audit, ..Routing::of(event.id, now) }
    }

    fn found(&self, definitions: &Definitions, event: &Event, decision: Decision) -> Option<NewMatch> {
        let Decision { rule, result } = decision;
        let found = |result, why, place| Match {
            rule: rule.name.clone(),
            revision: definitions.revision.clone(),
            result,
            run: None,
            why,
            place,
        };
        match result {
            // What counts was decided by its windows.
            Verdict::NotMatched | Verdict::Counts(_) => None,
            Verdict::Throttled { why, otherwise } => {
                let run = otherwise.map(|wanted| self.begin(definitions, event, &rule, wanted));
                match run.transpose() {
                    Ok(run) => {
                        let found = found(MatchResult::Throttled, Some(why), None);
                        Some(NewMatch { index: 0, found, run: run.flatten() })
                    }
                    Err(error) => {
                        let found = found(MatchResult::Errored, Some(error.to_string()), None);
                        Some(NewMatch { index: 0, found, run: None })
                    }
                }
            }
            Verdict::Errored { why, place } => {
                tracing::warn!(rule = %rule.name, event = %event.id, %place, %why, "a rule failed on an event");
                let found = found(MatchResult::Errored, Some(why), Some(place.to_string()));
                Some(NewMatch { index: 0, found, run: None })
            }
            Verdict::Matched(wanted) => match self.begin(definitions, event, &rule, wanted) {
                Ok(run) => {
                    let found = found(MatchResult::Matched, None, None);
                    Some(NewMatch { index: 0, found, run: Some(run?) })
                }
                Err(why) => {
                    let found = found(MatchResult::Errored, Some(why.to_string()), None);
                    Some(NewMatch { index: 0, found, run: None })
                }
            },
        }
    }

    /// The run that a rule wants; `None` when what it names is not in these definitions.
    fn begin(
        &self,
        definitions: &Definitions,
        event: &Event,
        rule: &Rule,
        Wanted { run, input, on_behalf_of }: Wanted,
    ) -> Result<Option<NewRun>, Refused> {
        let Some(workflow) = definitions.workflow_of(&run) else { return Ok(None) };
        let start = Start {
            revision: definitions.revision.clone(),
            input: input.into(),
            started_by: Actor::Rule { name: rule.name.clone(), event: event.id, on_behalf_of },
            event: Some(event.id),
            rule: Some(rule.name.clone()),
            parent: None,
            depth: 0,
            outer: None,
        };
        let run = conductor::new_run(&workflow, start, self.clock.now());
        self.to_begin(definitions, &workflow, run).map(Some)
    }

    /// Gives a run the stored events that its steps listen to: those that came before the wait was written. Again and again while the store
    /// fails: a callback that was missed here would be missed for ever.
    pub(super) async fn scan_for(self: &Arc<Self>, run: RunId) {
        while let Err(error) = self.scan(run).await {
            tracing::error!(%run, %error, "stored events could not be looked through for a waiting run");
            if !matches!(&error, Refused::Store(error) if !error.is_final()) {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn scan(self: &Arc<Self>, run: RunId) -> Result<(), Refused> {
        let waits = self.store.waits_of(run).await?;
        let Some(since) = waits.iter().map(|wait| wait.since).min() else { return Ok(()) };
        let triggers: Vec<String> = waits.into_iter().map(|wait| wait.trigger).collect();
        let mut after = None;
        loop {
            let events = self.store.events_since(&triggers, since, after, SCAN_AT_ONCE).await?;
            let Some(last) = events.last().map(|event| event.id) else { return Ok(()) };
            let inputs = events.into_iter().map(|event| Input::EventCame { event }).collect();
            self.drive(run, Move { inputs, ..Move::default() }).await?;
            after = Some(last);
        }
    }
}

/// What the rules make of each event, in the events' order. Not on the threads that serve everybody, where there are rules: one may take its time.
async fn decide_all(
    definitions: &Arc<Definitions>,
    disabled: &Arc<BTreeMap<String, Option<String>>>,
    events: Vec<(Event, Values)>,
) -> Vec<(Vec<Decision>, Event, Values)> {
    if events.iter().all(|(event, _)| definitions.rules_of(&event.trigger).is_none()) {
        return events.into_iter().map(|(event, values)| (Vec::new(), event, values)).collect();
    }
    let share = events.len().div_ceil(DECIDING).max(1);
    let mut events = events.into_iter();
    let shares = std::iter::from_fn(|| {
        let share: Vec<(Event, Values)> = events.by_ref().take(share).collect();
        (!share.is_empty()).then_some(share)
    });
    let decided = shares.map(|share| {
        let (definitions, disabled) = (Arc::clone(definitions), Arc::clone(disabled));
        spawn_blocking(move || {
            let disabled = |rule: &str| disabled.contains_key(rule);
            let judge = |event: &Event, values: &Values| {
                // A mistake of ours over one event is no other's.
                let decisions = AssertUnwindSafe(|| decide(&definitions, event, &disabled, values));
                catch_unwind(decisions).unwrap_or_default()
            };
            share
                .into_iter()
                .map(|(event, values)| (judge(&event, &values), event, values))
                .collect::<Vec<_>>()
        })
    });
    let shares = join_all(decided.collect::<Vec<_>>()).await;
    shares.into_iter().flat_map(|share| share.unwrap_or_default()).collect()
}

/// A match whose run can't be stored.
fn errored(mut found: NewMatch, error: &StoreError) -> NewMatch {
    if found.run.take().is_some() {
        found.found.result = MatchResult::Errored;
        found.found.why = Some(format!("what it runs can't be stored: {error}"));
    }
    found
}
