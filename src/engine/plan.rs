//! What a change of the definitions would do: which of them differ, and what the events that were would have started.
//!
//! Promise: nothing is done and nothing is stored. What is said of an event is what the rules would have decided if they had begun to count with the first event
//! that was tried; which events were tried is said with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::definitions::difference::{difference, what_is};
use crate::definitions::fields::shown_fields;
use crate::definitions::{Definitions, Files, Mistake, Rule};
use crate::model::{Event, EventId, Span, Timestamp, Value};
use crate::store::EventFilter;

use super::counting::Counting;
use super::trial::Outcome;
use super::{Engine, Refused, lock, reach};

/// How many events are tried at most: the newest.
const MOST_PLANNED: usize = 5_000;
/// How long they may be tried.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many are in memory at once.
const PAGE: u32 = 50;
/// Of how many events of a rule the difference is told.
const EXAMPLES: usize = 5;

/// What would be different.
#[derive(Debug)]
pub struct Plan {
    /// In force now.
    pub revision: String,
    pub changes: Vec<DefinitionChange>,
    /// Of the new definitions.
    pub mistakes: Vec<Mistake>,
    /// New ones that would not be in force, and why.
    pub left_out: BTreeMap<String, String>,
    pub effects: Effects,
}

/// A file that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinitionChange {
    pub kind: &'static str,
    pub name: String,
    pub file: String,
    /// `added`, `changed` or `removed`.
    pub change: &'static str,
    /// Of a changed one, which keys.
    pub how: Vec<String>,
    /// What that means elsewhere: which rules start it, what becomes of deliveries.
    pub means: Vec<String>,
    /// It has a mistake, or names what has one.
    pub is_broken: bool,
}

/// What events would have started.
#[derive(Debug)]
pub struct Effects {
    pub since: Timestamp,
    /// The first event that was tried came then.
    pub tried_since: Option<Timestamp>,
    pub tried: usize,
    /// Why not all events since then were tried.
    pub bound: Option<String>,
    /// Rules that could decide otherwise, in order of name.
    pub rules: Vec<RuleEffect>,
}

/// What a rule would have done otherwise.
#[derive(Debug, Default)]
pub struct RuleEffect {
    pub rule: String,
    pub matched_before: usize,
    pub matched_after: usize,
    /// Events that would match newly, no longer, or start something else.
    pub newly: usize,
    pub no_longer: usize,
    pub otherwise: usize,
    /// Events on which it would fail, and did not.
    pub errors: usize,
    pub examples: Vec<Difference>,
}

/// An event of which something else would come.
#[derive(Debug)]
pub struct Difference {
    pub before: Option<Outcome>,
    pub after: Option<Outcome>,
}

impl Engine {
    /// Holds other texts against the definitions in force.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn plan(&self, files: Files, last: Span) -> Result<Plan, Refused> {
        let (now_files, now) = (self.files(), self.definitions());
        let new_files = Arc::new(files);
        let reading = Arc::clone(&new_files);
        let read = tokio::task::spawn_blocking(move || Definitions::read(&reading)).await;
        let Ok((new, mistakes)) = read else {
            return Err(Refused::Invalid(vec!["the definitions could not be read".to_owned()]));
        };
        let new = Arc::new(new);
        let mut changes = changes(&now_files, &new_files, &new, &mistakes);
        reach::judge(&now, &new, &mut changes);
        let effects = match changes.is_empty() {
            true => Effects {
                since: self.clock.now().minus(last),
                tried_since: None,
                tried: 0,
                bound: None,
                rules: Vec::new(),
            },
            false => self.effects((&now, &now_files), (&new, &new_files), last).await?,
        };
        Ok(Plan {
            revision: now.revision.clone(),
            changes,
            mistakes,
            left_out: new.left_out.clone(),
            effects,
        })
    }

    async fn effects(
        &self,
        now: (&Arc<Definitions>, &Files),
        new: (&Arc<Definitions>, &Files),
        last: Span,
    ) -> Result<Effects, Refused> {
        let since = self.clock.now().minus(last);
        let mut effects = Effects { since, tried_since: None, tried: 0, bound: None, rules: Vec::new() };
        let disabled = lock(&self.disabled).clone();
        let pairs = affected(now, new, &|rule| disabled.contains_key(rule));
        let triggers: BTreeSet<String> = pairs
            .iter()
            .flat_map(|(_, before, after)| before.iter().chain(after))
            .flat_map(|rule| rule.triggers.iter().cloned())
            .collect();
        let triggers: Vec<String> = triggers.into_iter().collect();
        effects.rules = pairs
            .iter()
            .map(|(rule, _, _)| RuleEffect { rule: rule.clone(), ..RuleEffect::default() })
            .collect();
        let Some(first) = self.first_planned(&triggers, since, &mut effects).await? else {
            return Ok(effects);
        };
        effects.tried_since = Some(first.1);
        let mut counting = (Counting::forgetful(&self.store, now.0), Counting::forgetful(&self.store, new.0));
        let end = Instant::now() + PATIENCE;
        let (mut after, mut of) = (None, 0);
        loop {
            let page = self.store.events_since(&triggers, first.1, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for event in page.iter().filter(|event| (event.received_at, event.id) >= (first.1, first.0)) {
                of += 1;
                if Instant::now() > end {
                    let seconds = PATIENCE.as_secs();
                    effects.bound = Some(format!(
                        "it took longer than {seconds} seconds: only events up to {} were tried",
                        event.received_at
                    ));
                    return Ok(effects);
                }
                for ((_, before, after), effect) in pairs.iter().zip(&mut effects.rules) {
                    let before = self.outcome(&mut counting.0, now.0, before.as_ref(), event).await?;
                    let after = self.outcome(&mut counting.1, new.0, after.as_ref(), event).await?;
                    effect.take(before, after);
                }
                effects.tried = of;
            }
        }
        Ok(effects)
    }

    /// What a rule makes of an event; `None` when it is not there, or not asked.
    async fn outcome(
        &self,
        counting: &mut Counting<'_>,
        definitions: &Arc<Definitions>,
        rule: Option<&Arc<Rule>>,
        event: &Event,
    ) -> Result<Option<Outcome>, Refused> {
        let Some(rule) = rule.filter(|rule| rule.triggers.contains(&event.trigger) && rule.hears(event))
        else {
            return Ok(None);
        };
        Ok(Some(self.try_without_reasons(counting, definitions, rule, event).await?))
    }

    /// The first of the newest events that are tried.
    async fn first_planned(
        &self,
        triggers: &[String],
        since: Timestamp,
        effects: &mut Effects,
    ) -> Result<Option<(EventId, Timestamp)>, Refused> {
        let mut found = BTreeMap::new();
        for trigger in triggers {
            let mut filter =
                EventFilter { trigger: Some(trigger.clone()), source: None, before: None, limit: PAGE };
            let mut of_trigger = 0;
            // One more than is tried shows that there are more.
            while of_trigger <= MOST_PLANNED {
                let page = self.store.events(&filter).await?;
                let Some(last) = page.last() else { break };
                filter.before = Some(last.id);
                let is_over = last.received_at < since;
                of_trigger += page.len();
                let young = page.iter().filter(|event| event.received_at >= since);
                found.extend(young.map(|event| ((event.received_at, event.id), ())));
                if is_over {
                    break;
                }
            }
        }
        let skipped = found.len().saturating_sub(MOST_PLANNED);
        if skipped > 0 {
            effects.bound = Some(format!("there are more: only the newest {MOST_PLANNED} were tried"));
        }
        Ok(found.into_keys().nth(skipped).map(|(at, id)| (id, at)))
    }
}

impl RuleEffect {
    fn take(&mut self, before: Option<Outcome>, after: Option<Outcome>) {
        let is = |outcome: &Option<Outcome>, result: &str| {
            outcome.as_ref().is_some_and(|outcome| outcome.result == result)
        };
        let (was, is_now) = (is(&before, "matched"), is(&after, "matched"));
        self.matched_before += usize::from(was);
        self.matched_after += usize::from(is_now);
        let (failed, fails) = (is(&before, "errored"), is(&after, "errored"));
        let wants = |outcome: &Option<Outcome>| {
            outcome
                .as_ref()
                .map(|outcome| (outcome.run.clone(), outcome.with.clone(), outcome.on_behalf_of.clone()))
        };
        let runs = |outcome: &Option<Outcome>| outcome.as_ref().is_some_and(|outcome| outcome.run.is_some());
        let differs = (runs(&before) || runs(&after)) && wants(&before) != wants(&after);
        match (was, is_now) {
            (false, true) => self.newly += 1,
            (true, false) => self.no_longer += 1,
            (true, true) | (false, false) if differs => self.otherwise += 1,
            _ if fails && !failed => (),
            _ => return,
        }
        self.errors += usize::from(fails && !failed);
        if self.examples.len() < EXAMPLES {
            self.examples.push(Difference { before, after });
        }
    }

    /// Whether anything would have been different.
    pub fn is_nothing(&self) -> bool {
        self.newly + self.no_longer + self.otherwise + self.errors == 0
    }
}

fn changes(
    now: &Files,
    new: &Files,
    definitions: &Definitions,
    mistakes: &[Mistake],
) -> Vec<DefinitionChange> {
    let paths: BTreeSet<&String> = now.texts.keys().chain(new.texts.keys()).collect();
    let mut changes = Vec::new();
    for path in paths {
        let (change, how) = match (now.texts.get(path), new.texts.get(path)) {
            (Some(old), Some(new)) if old == new => continue,
            (Some(old), Some(new)) => ("changed", difference(path, old, new)),
            (None, _) => ("added", Vec::new()),
            (_, None) => ("removed", Vec::new()),
        };
        let (kind, name) = what_is(path);
        let is_broken = definitions.left_out.contains_key(&format!("{kind} {name}"))
            || mistakes.iter().any(|mistake| *mistake.place.file == **path);
        let means = Vec::new();
        changes.push(DefinitionChange { kind, name, file: path.clone(), change, how, means, is_broken });
    }
    changes
}

/// The rules that could decide otherwise: their name, and what they were and would be.
#[expect(clippy::type_complexity, reason = "a rule, before and after")]
fn affected(
    now: (&Arc<Definitions>, &Files),
    new: (&Arc<Definitions>, &Files),
    disabled: &dyn Fn(&str) -> bool,
) -> Vec<(String, Option<Arc<Rule>>, Option<Arc<Rule>>)> {
    let names: BTreeSet<&String> = now.0.rules.keys().chain(new.0.rules.keys()).collect();
    let same_apps = now.0.apps == new.0.apps;
    let mut pairs = Vec::new();
    for name in names.into_iter().filter(|name| !disabled(name)) {
        let (before, after) = (now.0.rules.get(name), new.0.rules.get(name));
        let is_same = same_apps
            && match (before, after) {
                (Some(before), Some(after)) => stamp(now, before) == stamp(new, after),
                _ => false,
            };
        let enabled = |rule: Option<&Arc<Rule>>| rule.filter(|rule| rule.enabled).cloned();
        let (before, after) = (enabled(before), enabled(after));
        if !is_same && (before.is_some() || after.is_some()) {
            pairs.push((name.clone(), before, after));
        }
    }
    pairs
}

/// Everything that a rule decides by, beside apps.
fn stamp((definitions, files): (&Arc<Definitions>, &Files), rule: &Rule) -> Value {
    let folder =
        if rule.pack == crate::definitions::SITE { String::new() } else { format!("packs/{}/", rule.pack) };
    let text = |path: &str| files.texts.get(path).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let name = rule.name.rsplit('.').next().unwrap_or_default();
    let taken = |run: &str| definitions.input_of(run).map(shown_fields);
    let otherwise = rule.at_most.as_ref().and_then(|limit| limit.otherwise.as_ref());
    json!([
        text(&format!("{folder}rules/{name}.yaml")),
        text(&format!("{folder}functions.rhai")),
        rule.config,
        taken(&rule.run),
        otherwise.and_then(|call| taken(&call.run)),
    ])
}
