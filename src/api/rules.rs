//! Rules as they are in force, and the switch that people have on each.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::json;

use super::Api;
use super::problem::{Answer, Problem};
use super::request::{Body, Fields, Name, Params, Who};
use super::types::{Page, Trial, Why};
use crate::definitions::Rule;
use crate::definitions::meets::{Meets, Part};
use crate::engine::{Caller, MOST_TRIED, On, Tried};
use crate::model::{EventId, Value};
use crate::store::RuleOverride;

pub(super) async fn list(State(api): State<Api>, params: Params) -> Answer<Page<Value>> {
    // All rules fit one page: they are in memory, and few enough to be loaded at every start.
    params.check(&["limit"])?;
    let switched = switched(&api).await?;
    let definitions = api.engine.definitions();
    let items = definitions.rules.values().map(|rule| shape(rule, switched.get(&rule.name))).collect();
    Ok(Json(Page::whole(items)))
}

pub(super) async fn show(State(api): State<Api>, Name(name): Name) -> Answer<Value> {
    one(&api, &name).await
}

async fn one(api: &Api, name: &str) -> Answer<Value> {
    let definitions = api.engine.definitions();
    let rule = definitions.rules.get(name).ok_or_else(|| Problem::missing(format!("rule `{name}`")))?;
    let switched = switched(api).await?;
    Ok(Json(shape(rule, switched.get(name))))
}

async fn switched(api: &Api) -> Result<HashMap<String, RuleOverride>, Problem> {
    let overrides = api.engine.store().rule_overrides().await?;
    Ok(overrides.into_iter().map(|over| (over.rule.clone(), over)).collect())
}

fn shape(rule: &Rule, switched: Option<&RuleOverride>) -> Value {
    let off = switched.is_some_and(|over| over.disabled);
    let mut shape = json!({
        "name": rule.name,
        "pack": rule.pack,
        "description": rule.description,
        "triggers": rule.triggers,
        "when": rule.when.as_ref().map(|script| script.source()),
        "run": rule.run,
        "owner": rule.owner,
        "enabled": rule.enabled && !off,
        "place": rule.place.to_string(),
    });
    match &rule.meets {
        Meets::Each => (),
        Meets::Count { count, within, by } => {
            shape["count"] = json!(count);
            shape["within"] = json!(within);
            shape["by"] = json!(by.as_ref().map(|script| script.source()));
        }
        Meets::All { parts, within } => {
            let part = |part: &Part| json!({"as": part.name, "trigger": part.trigger, "when": part.when.as_ref().map(|script| script.source()), "by": part.by.as_ref().map(|script| script.source())});
            shape["all"] = parts.iter().map(part).collect();
            shape["within"] = json!(within);
        }
    }
    if let Some(limit) = &rule.at_most {
        shape["at_most"] = json!({
            "count": limit.count,
            "per": limit.per,
            "by": limit.by.as_ref().map(|script| script.source()),
            "otherwise": limit.otherwise.as_ref().map(|call| &call.run),
        });
    }
    if let Some(over) = switched.filter(|over| over.disabled) {
        shape["switched"] = json!({"disabled": over.disabled, "by": over.by, "why": over.why, "at": over.at});
    }
    shape
}

#[derive(Deserialize)]
pub(super) struct Switch {
    #[serde(default)]
    why: Option<String>,
}

impl Fields for Switch {
    const NAMES: &'static [&'static str] = &["why"];
}

pub(super) async fn enable(
    State(api): State<Api>,
    Who(caller): Who,
    Name(name): Name,
    Body(switch): Body<Switch>,
) -> Answer<Value> {
    turn(&api, &name, true, switch, &caller).await
}

pub(super) async fn disable(
    State(api): State<Api>,
    Who(caller): Who,
    Name(name): Name,
    Body(switch): Body<Switch>,
) -> Answer<Value> {
    turn(&api, &name, false, switch, &caller).await
}

#[derive(Deserialize)]
pub(super) struct Test {
    rule: String,
    #[serde(default)]
    event: Option<Value>,
    #[serde(default)]
    trigger: Option<String>,
    #[serde(default)]
    event_id: Option<EventId>,
    #[serde(default)]
    last: Option<u32>,
}

impl Fields for Test {
    const NAMES: &'static [&'static str] = &["rule", "event", "trigger", "event_id", "last"];
}

pub(super) async fn test(State(api): State<Api>, Who(_): Who, Body(test): Body<Test>) -> Answer<Trial> {
    let on = match (test.event, test.event_id, test.last) {
        (Some(event), None, None) => {
            let (trigger, payload) = unwrapped(event);
            On::Payload { trigger: test.trigger.or(trigger), payload }
        }
        (None, Some(id), None) => On::Event(id),
        (None, None, Some(count)) if (1..=MOST_TRIED).contains(&count) => On::Last(count),
        (None, None, Some(_)) => {
            return Err(Problem::invalid(vec![format!("`last` is 1 to {MOST_TRIED}")]));
        }
        _ => {
            let why = "say one of `event` (a payload), `event_id` (a stored event) or `last` (so many stored events)";
            return Err(Problem::invalid(vec![why.to_owned()]));
        }
    };
    // The text of a rule has keys.
    let tried = match test.rule.contains(':') {
        true => Tried::Text(test.rule),
        false => Tried::Named(test.rule),
    };
    let results: Vec<Why> = api.engine.try_rule(tried, on).await?.into_iter().map(Why::of).collect();
    let matched = results.iter().filter(|result| result.result == "matched").count();
    Ok(Json(Trial { tried: results.len(), matched, results }))
}

/// The payload of `{trigger, payload}`; anything else is a payload itself.
fn unwrapped(event: Value) -> (Option<String>, Value) {
    match event {
        Value::Object(mut event)
            if event.contains_key("payload")
                && event.keys().all(|key| ["payload", "trigger"].contains(&key.as_str())) =>
        {
            let trigger = event.get("trigger").and_then(Value::as_str).map(str::to_owned);
            (trigger, event.remove("payload").unwrap_or_default())
        }
        other => (None, other),
    }
}

async fn turn(api: &Api, name: &str, enabled: bool, switch: Switch, caller: &Caller) -> Answer<Value> {
    api.engine.set_rule_enabled(name, enabled, switch.why, caller).await?;
    one(api, name).await
}
