//! What is defined, as it is in force.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde_json::json;

use super::Api;
use super::problem::{Answer, Problem};
use super::request::{Name, Params};
use super::types::Page;
use crate::definitions::fields::shown_fields;
use crate::definitions::source::{Kind as SourceKind, Verify};
use crate::definitions::workflow::{Kind, StartOn, Step};
use crate::definitions::{Action, Definitions, Source, Trigger, Workflow};
use crate::model::{Object, Value};

/// Lists of definitions are in memory and whole: `limit` is taken so that all lists are asked alike.
const KNOWN: [&str; 1] = ["limit"];

pub(super) async fn actions(State(api): State<Api>, params: Params) -> Answer<Page<Value>> {
    params.check(&KNOWN)?;
    Ok(Json(Page::whole(
        api.engine.definitions().actions.values().map(|action| action_shape(action)).collect(),
    )))
}

pub(super) async fn action(State(api): State<Api>, Name(name): Name) -> Answer<Value> {
    let definitions = api.engine.definitions();
    let found = definitions.actions.get(&name).ok_or_else(|| Problem::missing(format!("action `{name}`")))?;
    Ok(Json(action_shape(found)))
}

fn action_shape(action: &Action) -> Value {
    json!({
        "name": action.name,
        "pack": action.pack,
        "description": action.description,
        "runner": action.work.runner,
        "input": shown_fields(&action.input),
        "returns": action.returns.as_ref().map(shown_fields),
        "idempotent": action.idempotent,
        "timeout": action.timeout,
        "place": action.place.to_string(),
    })
}

pub(super) async fn workflows(State(api): State<Api>, params: Params) -> Answer<Page<Value>> {
    params.check(&KNOWN)?;
    let definitions = api.engine.definitions();
    Ok(Json(Page::whole(definitions.workflows.values().map(|workflow| workflow_shape(workflow)).collect())))
}

pub(super) async fn workflow(State(api): State<Api>, Name(name): Name) -> Answer<Value> {
    let definitions = api.engine.definitions();
    let found =
        definitions.workflows.get(&name).ok_or_else(|| Problem::missing(format!("workflow `{name}`")))?;
    Ok(Json(workflow_shape(found)))
}

fn workflow_shape(workflow: &Workflow) -> Value {
    let graph: Vec<Value> =
        [("steps", &workflow.steps), ("on_failure", &workflow.on_failure), ("finally", &workflow.finally)]
            .into_iter()
            .flat_map(|(part, steps)| steps.iter().map(move |step| step_shape(part, step)))
            .collect();
    json!({
        "name": workflow.name,
        "pack": workflow.pack,
        "description": workflow.description,
        "input": shown_fields(&workflow.input),
        "timeout": workflow.timeout,
        "graph": graph,
        "place": workflow.place.to_string(),
    })
}

fn step_shape(part: &str, step: &Step) -> Value {
    let (does, run) = match &step.kind {
        Kind::Run(call) => ("run", Some(call.run.as_str())),
        Kind::Approve(_) => ("approve", None),
        Kind::Watch(_) => ("watch", None),
        Kind::WaitFor(_) => ("wait_for", None),
        Kind::Sleep(_) => ("sleep", None),
        Kind::Emit { .. } => ("emit", None),
    };
    let start_on = match step.start_on {
        StartOn::Success => "success",
        StartOn::Failure => "failure",
        StartOn::Finished => "finished",
    };
    json!({
        "id": step.id,
        "part": part,
        "does": does,
        "run": run,
        "needs": step.needs,
        "start_on": start_on,
        "undo": step.undo.as_ref().map(|call| call.run.as_str()),
        "place": step.place.to_string(),
    })
}

pub(super) async fn triggers(State(api): State<Api>, params: Params) -> Answer<Page<Value>> {
    params.check(&KNOWN)?;
    let definitions = api.engine.definitions();
    Ok(Json(Page::whole(definitions.triggers.values().map(|trigger| trigger_shape(trigger)).collect())))
}

pub(super) async fn trigger(State(api): State<Api>, Name(name): Name) -> Answer<Value> {
    let definitions = api.engine.definitions();
    let found =
        definitions.triggers.get(&name).ok_or_else(|| Problem::missing(format!("trigger `{name}`")))?;
    Ok(Json(trigger_shape(found)))
}

fn trigger_shape(trigger: &Trigger) -> Value {
    json!({
        "name": trigger.name,
        "description": trigger.description,
        "payload": trigger.payload,
        "place": trigger.place.to_string(),
    })
}

pub(super) async fn sources(State(api): State<Api>, params: Params) -> Answer<Page<Value>> {
    params.check(&KNOWN)?;
    let definitions = api.engine.definitions();
    let mut items = Vec::new();
    for source in definitions.sources.values() {
        items.push(source_shape(&api, source).await);
    }
    Ok(Json(Page::whole(items)))
}

pub(super) async fn source(State(api): State<Api>, Name(name): Name) -> Answer<Value> {
    let definitions = api.engine.definitions();
    let found = definitions.sources.get(&name).ok_or_else(|| Problem::missing(format!("source `{name}`")))?;
    Ok(Json(source_shape(&api, found).await))
}

async fn source_shape(api: &Api, source: &Source) -> Value {
    let SourceKind::Webhook(hook) = &source.kind;
    let (verify, secret) = match &hook.verify {
        Verify::None => ("none", None),
        Verify::HmacSha256 { secret, .. } => ("hmac_sha256", Some(secret)),
        Verify::Token { secret, .. } => ("token", Some(secret)),
    };
    json!({
        "name": source.name,
        "pack": source.pack,
        "description": source.description,
        "kind": "webhook",
        "path": hook.path,
        "url": format!("{}/hooks/{}", api.engine.public_url().trim_end_matches('/'), hook.path),
        "verify": verify,
        "secret": secret,
        "health": api.sources.health(source).await,
        "place": source.place.to_string(),
    })
}

pub(super) async fn packs(State(api): State<Api>, params: Params) -> Answer<Page<Value>> {
    params.check(&KNOWN)?;
    let packs = by_pack(&api.engine.definitions());
    let items = packs
        .into_iter()
        .map(|(name, held)| {
            let mut shown = Object::from_iter([("name".to_owned(), json!(name))]);
            shown.extend(held.into_iter().map(|(kind, names)| (kind.to_owned(), json!(names.len()))));
            Value::Object(shown)
        })
        .collect();
    Ok(Json(Page::whole(items)))
}

pub(super) async fn pack(State(api): State<Api>, Name(name): Name) -> Answer<Value> {
    let mut packs = by_pack(&api.engine.definitions());
    let held = packs.remove(&name).ok_or_else(|| Problem::missing(format!("pack `{name}`")))?;
    let mut shown = json!(held);
    shown["name"] = json!(name);
    Ok(Json(shown))
}

/// What each pack holds: kind → names.
fn by_pack(definitions: &Definitions) -> BTreeMap<String, BTreeMap<&'static str, Vec<String>>> {
    let kinds: [(&'static str, Vec<&String>); 5] = [
        ("actions", definitions.actions.keys().collect()),
        ("workflows", definitions.workflows.keys().collect()),
        ("rules", definitions.rules.keys().collect()),
        ("triggers", definitions.triggers.keys().collect()),
        ("sources", definitions.sources.keys().collect()),
    ];
    let mut packs: BTreeMap<String, BTreeMap<&'static str, Vec<String>>> = BTreeMap::new();
    for (kind, _) in &kinds {
        for (_, names) in &kinds {
            for name in names {
                let pack = name.split('.').next().unwrap_or_default();
                packs.entry(pack.to_owned()).or_default().entry(kind).or_default();
            }
        }
    }
    for (kind, names) in kinds {
        for name in names {
            let pack = name.split('.').next().unwrap_or_default();
            packs.entry(pack.to_owned()).or_default().entry(kind).or_default().push(name.clone());
        }
    }
    packs
}
