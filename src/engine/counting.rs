//! Rules that remember events: brings their windows, has `matching` judge, and gives what they remember after each event.
//!
//! Promise: what an event does to a window is stored with the mark that it was routed, or not at all. Events are taken one after another, in the order in
//! which they are routed.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use crate::definitions::meets::{AtMost, Meets, Part};
use crate::definitions::{Definitions, Rule};
use crate::matching::correlate::{self, Allowed};
use crate::matching::decide::{self, Counted, Seat, Together, Values, Verdict};
use crate::matching::{Decision, Wanted};
use crate::model::window::Window;
use crate::model::{Event, EventId, Span};
use crate::store::{NewWindow, Store, StoreError, WindowKey};

/// The windows of a batch of events, as far as they were asked for.
pub(super) struct Counting<'a> {
    store: &'a Store,
    definitions: Arc<Definitions>,
    windows: BTreeMap<WindowKey, Window>,
    /// Windows begin empty, whatever the store has.
    is_forgetful: bool,
}

/// The events that make a match, if they do.
enum Met {
    NotYet,
    Now(Together),
    /// One of them is not there any more.
    Gone(EventId),
}

impl<'a> Counting<'a> {
    pub(super) fn new(store: &'a Store, definitions: &Arc<Definitions>) -> Counting<'a> {
        let definitions = Arc::clone(definitions);
        Counting { store, definitions, windows: BTreeMap::new(), is_forgetful: false }
    }

    /// One that knows of nothing that was: for trials.
    pub(super) fn forgetful(store: &'a Store, definitions: &Arc<Definitions>) -> Counting<'a> {
        Counting { is_forgetful: true, ..Counting::new(store, definitions) }
    }

    /// Decides what was left to windows, and says what is remembered after the event.
    ///
    /// # Errors
    /// The store can't be read.
    pub(super) async fn settle(
        &mut self,
        event: &Event,
        decisions: Vec<Decision>,
        values: &Values,
    ) -> Result<(Vec<Decision>, Vec<NewWindow>), StoreError> {
        let (mut settled, mut touched) = (Vec::with_capacity(decisions.len()), Vec::new());
        for Decision { rule, result } in decisions {
            let result = match result {
                Verdict::Counts(counted) => self.count(&rule, event, counted, values, &mut touched).await?,
                other => other,
            };
            settled.push(Decision { rule, result });
        }
        let windows = touched.into_iter().filter_map(|(key, stamp, span)| {
            let window = self.windows.get(&key)?.clone();
            let ends_at = correlate::ends_at(&window, span);
            Some(NewWindow { key, stamp, window, ends_at })
        });
        Ok((settled, windows.collect()))
    }

    async fn count(
        &mut self,
        rule: &Arc<Rule>,
        event: &Event,
        counted: Counted,
        values: &Values,
        touched: &mut Vec<(WindowKey, String, Span)>,
    ) -> Result<Verdict, StoreError> {
        let (together, of) = match &rule.meets {
            Meets::Each => (Met::Now(Together::default()), None),
            Meets::Count { count, within, .. } => {
                let Some(seat) = counted.seats.first() else { return Ok(Verdict::NotMatched) };
                let key = window_key(rule, "count", &seat.key);
                let window = self.window(&key, rule).await?;
                let ids = correlate::count(window, event.id, event.received_at, *count, *within);
                touched.push((key, rule.stamp.clone(), *within));
                (self.together(ids, event).await?, None)
            }
            Meets::All { parts, within } => {
                self.gather(rule, event, &counted.seats, (parts, *within), touched).await?
            }
        };
        let together = match together {
            Met::NotYet => return Ok(Verdict::NotMatched),
            Met::Now(together) => together,
            Met::Gone(id) => {
                let why = format!("event {id}, which counts for it, is not stored any more");
                return Ok(Verdict::Errored { why, place: rule.place.clone() });
            }
        };
        let finished = self.finish(rule, event, counted, together, values).await;
        if !matches!(finished, Ok(None))
            && let Some(window) = of.and_then(|key| self.windows.get_mut(&key))
        {
            window.entries.clear();
        }
        match finished {
            Err((why, place)) => Ok(Verdict::Errored { why, place }),
            Ok(None) => Ok(Verdict::NotMatched),
            Ok(Some((wanted, key))) => match &rule.at_most {
                None => Ok(Verdict::Matched(wanted)),
                Some(limit) => self.limit(rule, event, (limit, key), wanted, values, touched).await,
            },
        }
    }

    /// Puts an event on its seats of `all`; the window that is full then is emptied by who uses it.
    async fn gather(
        &mut self,
        rule: &Rule,
        event: &Event,
        seats: &[Seat],
        (parts, within): (&[Part], Span),
        touched: &mut Vec<(WindowKey, String, Span)>,
    ) -> Result<(Met, Option<WindowKey>), StoreError> {
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        let mut by_key: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for seat in seats {
            by_key.entry(&seat.key).or_default().extend(seat.name.as_deref());
        }
        let mut full = None;
        for (key, fits) in by_key {
            let key = window_key(rule, "all", key);
            let window = self.window(&key, rule).await?;
            let ids = correlate::gather(window, event.id, event.received_at, &fits, &names, within);
            touched.push((key.clone(), rule.stamp.clone(), within));
            full = full.or(ids.map(|ids| (ids, key)));
        }
        let Some((ids, key)) = full else { return Ok((Met::NotYet, None)) };
        Ok((self.together(Some(ids), event).await?, Some(key)))
    }

    /// Whether the rule may match once more, and what is run when it may not.
    async fn limit(
        &mut self,
        rule: &Arc<Rule>,
        event: &Event,
        (limit, key): (&AtMost, String),
        wanted: Wanted,
        values: &Values,
        touched: &mut Vec<(WindowKey, String, Span)>,
    ) -> Result<Verdict, StoreError> {
        let window_key = window_key(rule, "at_most", &key);
        let window = self.window(&window_key, rule).await?;
        let allowed = correlate::allow(window, event.id, event.received_at, limit.count, limit.per);
        touched.push((window_key, rule.stamp.clone(), limit.per));
        let Allowed::No { until, is_first } = allowed else { return Ok(Verdict::Matched(wanted)) };
        let of = if key.is_empty() { String::new() } else { format!(" for {key}") };
        let why =
            format!("it matched {} times in {}{of}; the next may be at {until}", limit.count, limit.per);
        if !is_first {
            return Ok(Verdict::Throttled { why, otherwise: None });
        }
        match decide::otherwise(&self.definitions, rule, event, values) {
            Ok(otherwise) => Ok(Verdict::Throttled { why, otherwise }),
            Err((why, place)) => Ok(Verdict::Errored { why: format!("`otherwise`: {why}"), place }),
        }
    }

    /// Not on the threads that serve everybody: a rule may take its time.
    async fn finish(
        &self,
        rule: &Arc<Rule>,
        event: &Event,
        counted: Counted,
        together: Together,
        values: &Values,
    ) -> Result<Option<(Wanted, String)>, (String, crate::definitions::Place)> {
        let (definitions, rule) = (Arc::clone(&self.definitions), Arc::clone(rule));
        let (event, values, place) = (event.clone(), values.clone(), rule.place.clone());
        let finished =
            spawn_blocking(move || decide::finish(&definitions, &rule, &event, &counted, &together, &values));
        // A mistake of ours over one rule is no other's.
        finished.await.unwrap_or_else(|_| Err(("the rule could not be tried".to_owned(), place)))
    }

    async fn window(&mut self, key: &WindowKey, rule: &Rule) -> Result<&mut Window, StoreError> {
        if !self.windows.contains_key(key) {
            let window = match self.is_forgetful {
                true => Window::default(),
                false => self.store.rule_window(key, &rule.stamp).await?,
            };
            self.windows.insert(key.clone(), window);
        }
        Ok(self.windows.entry(key.clone()).or_default())
    }

    /// The payloads of these events.
    async fn together(&self, ids: Option<Vec<EventId>>, event: &Event) -> Result<Met, StoreError> {
        let Some(ids) = ids else { return Ok(Met::NotYet) };
        let mut payloads = Vec::with_capacity(ids.len());
        for id in ids {
            if id == event.id {
                payloads.push(Arc::clone(&event.payload));
                continue;
            }
            match self.store.event(id).await? {
                Some(other) => payloads.push(other.payload),
                None => return Ok(Met::Gone(id)),
            }
        }
        Ok(Met::Now(Together { payloads }))
    }
}

fn window_key(rule: &Rule, kind: &'static str, key: &str) -> WindowKey {
    WindowKey { rule: rule.name.clone(), kind, key: key.to_owned() }
}
