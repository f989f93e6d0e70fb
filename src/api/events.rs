//! What happened, what came of it, and putting events in.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::Api;
use super::problem::{Answer, Problem};
use super::request::{Body, Fields, Id, Params, Who, idempotency_key};
use super::types::{DryReplay, Event, Page, Why};
use crate::engine::{Caller, On, Tried};
use crate::model::event::NewEvent;
use crate::model::{EventId, Value};
use crate::store::{EventFilter, LONGEST_LIST, MatchFilter};

/// A page of events grows no further when its payloads take so much.
const LARGEST_PAGE: usize = 16 * 1024 * 1024;
/// Events read at once: their payloads may be large.
const AT_ONCE: u32 = 10;

pub(super) async fn list(State(api): State<Api>, params: Params) -> Answer<Page<Event>> {
    let params = params.check(&["trigger", "source", "cursor", "limit"])?;
    let limit = params.limit()?;
    let mut filter = EventFilter {
        trigger: params.text("trigger"),
        source: params.text("source"),
        before: params.parsed("cursor")?,
        limit,
    };
    let (mut items, mut bytes) = (Vec::new(), 0);
    let mut ended = false;
    while !ended && items.len() < limit as usize && bytes < LARGEST_PAGE {
        filter.limit = AT_ONCE.min(limit - items.len() as u32);
        let found = api.engine.store().events(&filter).await?;
        ended = found.len() < filter.limit as usize;
        filter.before = found.last().map(|event| event.id).or(filter.before);
        for event in &found {
            bytes += weight(&event.payload);
            items.push(Event::of(event));
        }
    }
    let next = if ended { None } else { items.last().map(|event| event.id.to_string()) };
    Ok(Json(Page { items, next }))
}

/// About how much memory a payload takes.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => 32 + text.len(),
        Value::Array(items) => 32 + items.iter().map(weight).sum::<usize>(),
        Value::Object(entries) => {
            32 + entries.iter().map(|(name, value)| name.len() + weight(value)).sum::<usize>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 32,
    }
}

pub(super) async fn show(State(api): State<Api>, Id(id): Id<EventId>, params: Params) -> Answer<Event> {
    let params = params.check(&["why"])?;
    let store = api.engine.store();
    let event = store.event(id).await?.ok_or_else(|| Problem::missing(format!("event {id}")))?;
    let filter = MatchFilter { event: Some(id), limit: LONGEST_LIST, ..MatchFilter::default() };
    let mut matches: Vec<_> = store.matches(&filter).await?.into_iter().map(|stored| stored.found).collect();
    matches.reverse();
    let mut shown = Event::of(&event).with_matches(matches);
    if let Some(rule) = params.text("why") {
        let tried = api.engine.try_rule(Tried::Named(rule.clone()), On::Event(id)).await?;
        shown.why = tried.into_iter().next().map(|outcome| Why { rule: Some(rule), ..Why::of(outcome) });
    }
    Ok(Json(shown))
}

#[derive(Deserialize)]
pub(super) struct Send {
    trigger: String,
    #[serde(default)]
    payload: Value,
    #[serde(default)]
    dedup: Option<String>,
}

impl Fields for Send {
    const NAMES: &'static [&'static str] = &["trigger", "payload", "dedup"];
}

pub(super) async fn send(
    State(api): State<Api>,
    Who(caller): Who,
    headers: HeaderMap,
    Body(send): Body<Send>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let dedup = match (send.dedup, idempotency_key(&headers)?) {
        (Some(key), _) => Some(checked_key(key)?),
        (None, Some(key)) => Some(key_of(&caller, &key)),
        (None, None) => None,
    };
    let event = NewEvent {
        trigger: checked_trigger(send.trigger)?,
        source: "api".to_owned(),
        payload: Arc::new(send.payload),
        dedup,
        replay_of: None,
    };
    let accepted = api.engine.send(event, &caller).await?;
    let known = accepted.iter().all(|event| event.known);
    let id = accepted.first().map(|first| first.event);
    let status = if known { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(json!({"event": id}))))
}

fn checked_trigger(trigger: String) -> Result<String, Problem> {
    let plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    let named = trigger.len() <= 200
        && trigger.split_once('.').is_some_and(|(pack, name)| plain(pack) && plain(name));
    if named {
        return Ok(trigger);
    }
    Err(Problem::invalid(vec!["`trigger` is the event's type, written `pack.name`".to_owned()]))
}

fn checked_key(key: String) -> Result<String, Problem> {
    if (1..=512).contains(&key.len()) {
        return Ok(key);
    }
    Err(Problem::invalid(vec!["`dedup` has 1 to 512 bytes".to_owned()]))
}

/// A key of this caller's alone; no `dedup` of others can be it.
fn key_of(caller: &Caller, key: &str) -> String {
    format!("\u{0}{}\u{0}{key}", caller.actor)
}

pub(super) async fn replay(
    State(api): State<Api>,
    Who(caller): Who,
    Id(id): Id<EventId>,
    Body(replay): Body<Replay>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    if replay.dry_run {
        let dry = DryReplay::of(id, api.engine.replay_dry(id).await?);
        return Ok((StatusCode::OK, Json(json!(dry))));
    }
    let event = api.engine.replay(id, &caller).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({"event": event, "replay_of": id}))))
}

#[derive(Deserialize)]
pub(super) struct Replay {
    #[serde(default)]
    dry_run: bool,
}

impl Fields for Replay {
    const NAMES: &'static [&'static str] = &["dry_run"];
}

/// A body with nothing in it.
#[derive(Deserialize)]
pub(super) struct Nothing {}

impl Fields for Nothing {
    const NAMES: &'static [&'static str] = &[];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_is_a_name_and_nothing_else() {
        for good in ["github.push", "a.b_c-d2"] {
            assert!(checked_trigger(good.to_owned()).is_ok(), "{good}");
        }
        for wrong in ["", "push", ".push", "github.", "a.b.c", "a b.c", "a.$(reboot)", "a.b\n"] {
            assert!(checked_trigger(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
