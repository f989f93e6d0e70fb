//! Rules that are tried and do nothing: one that is in force, or the text of one that is not yet, on an event, a payload, or the events that were.
//!
//! Promise: what is said is what the router would do with the definitions as they stand: the same functions judge, and windows begin empty. What
//! `read` gives is what the key-value store has now.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::definitions::{Definitions, Rule};
use crate::matching::decide::{Verdict, Wanted, counts_for, decide_one, keys_of};
use crate::matching::explain;
use crate::model::{Event, EventId, Timestamp, Value};
use crate::store::{EventFilter, LONGEST_LIST, StoreError};

use super::counting::Counting;
use super::{Engine, Refused};

/// How many stored events a rule is tried on at most.
pub const MOST_TRIED: u32 = 1000;
/// How many are in memory at once.
const PAGE: u32 = 50;
/// Where a draft stands among the definitions.
const DRAFT: &str = "draft";

/// What is tried.
#[derive(Clone, Debug)]
pub enum Tried {
    /// A rule in force, `pack.name`.
    Named(String),
    /// The text of a rule's file, as if it lay in rules/.
    Text(String),
}

/// On what.
#[derive(Clone, Debug)]
pub enum On {
    /// As if it had come; without a trigger, of the rule's only one.
    Payload {
        trigger: Option<String>,
        payload: Value,
    },
    Event(EventId),
    /// The last so many stored events of the rule's triggers, oldest first.
    Last(u32),
}

/// What came of one event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub event: Option<EventId>,
    pub trigger: String,
    pub received_at: Option<Timestamp>,
    /// `matched`, `not matched`, `counted`, `throttled` or `errored`.
    pub result: &'static str,
    /// What would run, and with what.
    pub run: Option<String>,
    pub with: Option<Value>,
    pub on_behalf_of: Option<String>,
    pub why: Option<String>,
    /// The parts of `when` that made it false, and what their names had.
    pub parts: Vec<explain::Part>,
    pub place: Option<String>,
}

impl Engine {
    /// Tries a rule.
    ///
    /// # Errors
    /// There is no such rule or event; the text has mistakes; the store can't be read.
    pub async fn try_rule(&self, tried: Tried, on: On) -> Result<Vec<Outcome>, Refused> {
        let (definitions, name) = match tried {
            Tried::Named(name) => (self.definitions(), name),
            Tried::Text(text) => self.with_draft(&text).await?,
        };
        let Some(rule) = definitions.rules.get(&name).map(Arc::clone) else {
            return Err(Refused::NotFound(format!("there is no rule `{name}`")));
        };
        let mut counting = Counting::forgetful(&self.store, &definitions);
        let mut outcomes = Vec::new();
        match on {
            On::Payload { trigger, payload } => {
                let event = self.imagined(&rule, trigger, payload)?;
                let outcome = self.try_on(&mut counting, &definitions, &rule, &event).await?;
                outcomes.push(Outcome { event: None, received_at: None, ..outcome });
            }
            On::Event(id) => {
                let Some(event) = self.store.event(id).await? else {
                    return Err(Refused::NotFound(format!("there is no event {id}")));
                };
                outcomes.push(self.try_on(&mut counting, &definitions, &rule, &event).await?);
            }
            On::Last(count) => {
                let Some(first) = self.first_of_last(&rule, count).await? else { return Ok(outcomes) };
                let (since, mut after) = (first.1, None);
                loop {
                    let page = self.store.events_since(&rule.triggers, since, after, PAGE).await?;
                    let Some(last) = page.last() else { break };
                    after = Some(last.id);
                    for event in page.iter().filter(|event| event.id >= first.0) {
                        outcomes.push(self.try_on(&mut counting, &definitions, &rule, event).await?);
                    }
                }
            }
        }
        Ok(outcomes)
    }

    /// The definitions in force with one rule more.
    async fn with_draft(&self, text: &str) -> Result<(Arc<Definitions>, String), Refused> {
        let current = self.definitions();
        let mut files = self.files_of(&current.revision).await?.ok_or_else(|| {
            Refused::NotFound("the definitions in force are not stored yet; try again".to_owned())
        })?;
        let mut name = DRAFT.to_owned();
        while files.texts.contains_key(&format!("rules/{name}.yaml")) {
            name.push('_');
        }
        let path = format!("rules/{name}.yaml");
        files.texts.insert(path.clone(), Arc::from(text.as_bytes()));
        let read = tokio::task::spawn_blocking(move || Definitions::read(&files)).await;
        let Ok((definitions, mistakes)) = read else {
            return Err(Refused::Invalid(vec!["the rule could not be read".to_owned()]));
        };
        let own: Vec<String> = mistakes
            .into_iter()
            .filter(|mistake| *mistake.place.file == *path)
            .map(|mistake| {
                let help = mistake.help.map(|help| format!("; {help}")).unwrap_or_default();
                format!("{}:{}: {}{help}", mistake.place.line, mistake.place.column, mistake.message)
            })
            .collect();
        if !own.is_empty() {
            return Err(Refused::Invalid(own));
        }
        Ok((Arc::new(definitions), format!("site.{name}")))
    }

    fn imagined(&self, rule: &Rule, trigger: Option<String>, payload: Value) -> Result<Event, Refused> {
        let trigger = match (trigger, rule.triggers.as_slice()) {
            (Some(trigger), _) => trigger,
            (None, [only]) => only.clone(),
            (None, several) => {
                let why = format!("say which `trigger` the event has: {}", several.join(", "));
                return Err(Refused::Invalid(vec![why]));
            }
        };
        Ok(Event {
            id: EventId(0),
            trigger,
            source: rule.clock(),
            payload: Arc::new(payload),
            received_at: self.clock.now(),
            routed_at: None,
            replay_of: None,
        })
    }

    /// The oldest of the last `count` events of the rule's triggers.
    async fn first_of_last(
        &self,
        rule: &Rule,
        count: u32,
    ) -> Result<Option<(EventId, Timestamp)>, StoreError> {
        let count = count.min(MOST_TRIED) as usize;
        let mut found = BTreeMap::new();
        for trigger in &rule.triggers {
            let (mut before, mut of_trigger) = (None, 0);
            while of_trigger < count {
                let limit = u32::try_from(count - of_trigger).unwrap_or(LONGEST_LIST).min(PAGE);
                let filter = EventFilter { trigger: Some(trigger.clone()), source: None, before, limit };
                let page = self.store.events(&filter).await?;
                let Some(last) = page.last() else { break };
                before = Some(last.id);
                of_trigger += page.len();
                found.extend(page.iter().map(|event| (event.id, event.received_at)));
            }
        }
        let skipped = found.len().saturating_sub(count);
        Ok(found.into_iter().nth(skipped))
    }

    pub(super) async fn try_on(
        &self,
        counting: &mut Counting<'_>,
        definitions: &Arc<Definitions>,
        rule: &Arc<Rule>,
        event: &Event,
    ) -> Result<Outcome, StoreError> {
        let mut outcome = self.try_without_reasons(counting, definitions, rule, event).await?;
        if outcome.result == "not matched" && outcome.why.is_none() {
            let values = self.values(keys_of(definitions, rule, event)).await?;
            outcome.parts = explain::why_not(definitions, rule, event, &values);
            let parts: Vec<String> = outcome.parts.iter().map(ToString::to_string).collect();
            outcome.why = Some(match parts.is_empty() {
                true => "`when` was false".to_owned(),
                false => parts.join("; "),
            });
        }
        Ok(outcome)
    }

    /// As `try_on`, without looking for the part of `when` that was false.
    pub(super) async fn try_without_reasons(
        &self,
        counting: &mut Counting<'_>,
        definitions: &Arc<Definitions>,
        rule: &Arc<Rule>,
        event: &Event,
    ) -> Result<Outcome, StoreError> {
        let mut outcome = Outcome {
            event: Some(event.id),
            trigger: event.trigger.clone(),
            received_at: Some(event.received_at),
            ..Outcome::default()
        };
        if !rule.hears(event) {
            outcome.result = "not matched";
            outcome.why = Some(format!("it is a time of {}, another schedule", event.source));
            return Ok(outcome);
        }
        if !rule.triggers.contains(&event.trigger) {
            outcome.result = "not matched";
            let triggers = rule.triggers.join(", ");
            outcome.why = Some(format!("its trigger is {triggers}, the event's is {}", event.trigger));
            return Ok(outcome);
        }
        let values = self.values(keys_of(definitions, rule, event)).await?;
        let (judging, ruling) = (Arc::clone(definitions), Arc::clone(rule));
        let (seen, known) = (event.clone(), values.clone());
        let decided = tokio::task::spawn_blocking(move || decide_one(&judging, &ruling, &seen, &known)).await;
        let Ok(decision) = decided else {
            outcome.result = "errored";
            outcome.why = Some("the rule could not be tried".to_owned());
            return Ok(outcome);
        };
        let counted = match &decision.result {
            Verdict::Counts(counted) if !counted.seats.is_empty() => Some(counts_for(rule, counted)),
            _ => None,
        };
        let (settled, _) = counting.settle(event, vec![decision], &values).await?;
        let Some(decision) = settled.into_iter().next() else { return Ok(outcome) };
        let wanted = |outcome: &mut Outcome, wanted: Wanted| {
            outcome.run = Some(wanted.run);
            outcome.with = Some(wanted.input);
            outcome.on_behalf_of = wanted.on_behalf_of;
        };
        match decision.result {
            Verdict::Matched(found) => {
                outcome.result = "matched";
                wanted(&mut outcome, found);
            }
            Verdict::Throttled { why, otherwise } => {
                outcome.result = "throttled";
                outcome.why = Some(why);
                if let Some(otherwise) = otherwise {
                    wanted(&mut outcome, otherwise);
                }
            }
            Verdict::Errored { why, place } => {
                outcome.result = "errored";
                outcome.why = Some(why);
                outcome.place = Some(place.to_string());
            }
            Verdict::NotMatched | Verdict::Counts(_) => match counted {
                Some(why) => {
                    outcome.result = "counted";
                    outcome.why = Some(why);
                }
                None => outcome.result = "not matched",
            },
        }
        Ok(outcome)
    }
}

/// Why a rule is not asked at all: its file or people switched it off.
pub(super) fn why_not_tried(rule: &Rule, switched: Option<Option<String>>) -> Option<String> {
    if !rule.enabled {
        return Some(format!("{} says `enabled: false`", rule.place));
    }
    let why = switched?.map(|why| format!(": {why}")).unwrap_or_default();
    Some(format!("it was switched off{why}"))
}
