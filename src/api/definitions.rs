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
use crate::definitions::source::Kind as SourceKind;
use crate::definitions::tree::Tree;
use crate::definitions::workflow::{ForEach, Group, Kind, List, MaxFailures, StartOn, Step, Worker};
use crate::definitions::{Action, Definitions, Source, Trigger, Workflow};
use crate::model::{Object, OnLimit, Value};

/// Lists of definitions are in memory and whole: `limit` is taken so that all lists are asked alike.
const KNOWN: [&str; 1] = ["limit"];

/// The revision in force, and what is wrong with the folder that it came from.
pub(super) async fn state(State(api): State<Api>, params: Params) -> Answer<Value> {
    params.check(&[])?;
    let loaded = api.engine.loaded();
    Ok(Json(json!({
        "revision": loaded.definitions.revision,
        "mistakes": *loaded.mistakes,
        "kept": loaded.kept,
        "left_out": loaded.definitions.left_out,
        "unreadable": api.engine.why_site_is_unreadable(),
    })))
}

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
    let sections =
        [("steps", &workflow.steps), ("on_failure", &workflow.on_failure), ("finally", &workflow.finally)];
    let mut graph = Vec::new();
    for (part, steps) in sections {
        add_steps(&mut graph, part, steps, None, workflow);
    }
    let concurrency = workflow.concurrency.as_ref().map(|concurrency| {
        json!({
            "key": concurrency.key.as_ref().map(Tree::shown),
            "limit": concurrency.limit,
            "on_limit": match concurrency.on_limit {
                OnLimit::Queue => "queue",
                OnLimit::Newest => "newest",
                OnLimit::Reject => "reject",
            },
        })
    });
    json!({
        "name": workflow.name,
        "pack": workflow.pack,
        "description": workflow.description,
        "input": shown_fields(&workflow.input),
        "timeout": workflow.timeout,
        "concurrency": concurrency,
        "graph": graph,
        "place": workflow.place.to_string(),
    })
}

/// The steps of a section, those of each group after it. `group` is the group that is run by itself and whose steps these are.
fn add_steps(graph: &mut Vec<Value>, part: &str, steps: &[Step], group: Option<&str>, workflow: &Workflow) {
    for step in steps {
        graph.push(step_shape(part, step, step.group.as_deref().or(group)));
        if let (Kind::Group(Group::Run { .. }), Some(inside)) = (&step.kind, workflow.groups.get(&step.id)) {
            add_steps(graph, part, &inside.steps, Some(&step.id), workflow);
        }
    }
}

fn step_shape(part: &str, step: &Step, group: Option<&str>) -> Value {
    let (does, run) = match &step.kind {
        Kind::Run(call) => ("run", Some(call.run.as_str())),
        Kind::Approve(_) => ("approve", None),
        Kind::Watch(_) => ("watch", None),
        Kind::WaitFor(_) => ("wait_for", None),
        Kind::Sleep(_) => ("sleep", None),
        Kind::Emit { .. } => ("emit", None),
        Kind::Group(_) => ("group", None),
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
        "group": group,
        "needs": step.needs,
        "start_on": start_on,
        "for_each": step.for_each.as_ref().map(for_each_shape),
        "window": step.window,
        "worker": step.worker.as_ref().map(worker_shape),
        "undo": step.undo.as_ref().map(|call| call.run.as_str()),
        "place": step.place.to_string(),
    })
}

fn for_each_shape(for_each: &ForEach) -> Value {
    json!({
        "in": match &for_each.list {
            List::Script(script) => json!(script.source()),
            List::Tree(tree) => tree.shown(),
        },
        "as": for_each.name,
        "concurrency": for_each.concurrency,
        "max_failures": match for_each.max_failures {
            MaxFailures::Count(count) => json!(count),
            MaxFailures::Percent(percent) => json!(format!("{percent}%")),
        },
        "fail_fast": for_each.fail_fast,
    })
}

fn worker_shape(worker: &Worker) -> Value {
    let labels = worker.labels.iter().map(|(name, value)| (name.clone(), value.shown()));
    json!({
        "pool": worker.pool.as_ref().map(Tree::shown),
        "labels": Value::Object(labels.collect()),
        "same_as": worker.same_as,
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
    let mut shown = json!({
        "name": source.name,
        "pack": source.pack,
        "description": source.description,
    });
    match &source.kind {
        SourceKind::Webhook(hook) => {
            shown["kind"] = json!("webhook");
            shown["path"] = json!(hook.path);
            shown["url"] =
                json!(format!("{}/hooks/{}", api.engine.public_url().trim_end_matches('/'), hook.path));
            shown["verify"] = json!(hook.verify.kinds());
            shown["secrets"] = json!(hook.verify.secrets());
            let rate = hook.limit.rate.map(|rate| rate.to_string());
            shown["limit"] = json!({"size": hook.limit.size, "depth": hook.limit.depth, "rate": rate});
        }
        SourceKind::Live(live) => shown["kind"] = json!(live.watch.kind()),
    }
    shown["health"] = json!(api.sources.health(source).await);
    shown["place"] = json!(source.place.to_string());
    shown
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::definitions::Files;

    #[test]
    fn a_workflow_shows_its_groups_loops_windows_and_workers() {
        let text = "input: {app: string}
concurrency: {key: \"ship/{{ input.app }}\", on_limit: newest}
steps:
  - id: all
    for_each: {os: [a, b], host: \"{{ input.app }}\"}
    max_failures: 10%
    steps:
      - {id: one, emit: t.e}
      - {id: two, parallel: [{id: three, sleep: 1m, window: office}]}
  - {id: last, run: t.a, worker: {pool: \"{{ input.app }}\", labels: {os: linux}}, for_each: \"1..3\", as: n}
";
        let (definitions, mistakes) = Definitions::read(&Files::from_texts([
            ("siskin.yaml", "windows: {office: {open: \"* * * * *\"}}\n"),
            ("packs/t/actions/a.yaml", "runner: native\n"),
            ("packs/t/triggers/e.yaml", "description: x\n"),
            ("workflows/w.yaml", text),
        ]));
        assert_eq!(mistakes, []);
        let shown = workflow_shape(&definitions.workflows["site.w"]);
        assert_eq!(
            shown["concurrency"],
            json!({"key": "ship/{{ input.app }}", "limit": 1, "on_limit": "newest"})
        );
        let graph = shown["graph"].as_array().unwrap();
        let of = |key: &str| -> Vec<&Value> { graph.iter().map(|step| &step[key]).collect() };
        assert_eq!(of("id"), ["all", "one", "two", "three", "last"]);
        assert_eq!(json!(of("group")), json!([null, "all", "all", "two", null]));
        assert_eq!(json!(of("needs")), json!([[], [], ["one"], [], ["all"]]));
        assert_eq!(
            graph[0]["for_each"],
            json!({"in": {"os": ["a", "b"], "host": "{{ input.app }}"}, "as": "item", "concurrency": 10, "max_failures": "10%", "fail_fast": false})
        );
        assert_eq!(graph[3]["window"], "office");
        assert_eq!(graph[4]["for_each"]["in"], "1..3");
        assert_eq!(
            graph[4]["worker"],
            json!({"pool": "{{ input.app }}", "labels": {"os": "linux"}, "same_as": null})
        );
    }
}
