//! What a changed definition means beyond its own text: which rules start it though they do not change, and what becomes of a source whose settings differ,
//! in its file or in siskin.yaml.

use std::collections::{BTreeMap, VecDeque};

use crate::definitions::source::{Kind as SourceKind, Source};
use crate::definitions::workflow::{Kind, Step, Workflow};
use crate::definitions::{Definitions, Rule};
use crate::model::Value;

use super::plan::DefinitionChange;

/// Of how many rules it is said that they start what changes.
const MOST: usize = 10;

/// Says of each change what it means, and adds sources whose settings differ though their files do not.
pub(super) fn judge(now: &Definitions, new: &Definitions, changes: &mut Vec<DefinitionChange>) {
    let callers = callers(new);
    for change in changes.iter_mut().filter(|change| matches!(change.kind, "workflow" | "action")) {
        // A comment that changes means nothing, and what is removed is said by what it breaks.
        if change.change == "changed" && !change.how.is_empty() {
            change.means.extend(started_by(&change.name, new, &callers));
        }
    }
    for (name, old) in &now.sources {
        match new.sources.get(name) {
            None => {
                let removed =
                    changes.iter_mut().find(|change| change.kind == "source" && change.name == *name);
                if let (Some(change), SourceKind::Webhook(hook)) = (removed, &old.kind) {
                    change.means.push(format!("deliveries to /hooks/{} are refused from then on", hook.path));
                }
            }
            Some(source) if !source.is_as(old) => judge_source(old, source, changes),
            Some(_) => (),
        }
    }
}

fn judge_source(old: &Source, new: &Source, changes: &mut Vec<DefinitionChange>) {
    let mut how = differing(&old.config, &new.config);
    let known = changes.iter_mut().find(|change| change.kind == "source" && change.name == new.name);
    match known {
        Some(change) => {
            change.how.append(&mut how);
            if !change.how.is_empty() {
                change.means.extend(meaning(old, new, &change.how));
            }
        }
        None if how.is_empty() => (),
        None => {
            let means = meaning(old, new, &how);
            changes.push(DefinitionChange {
                kind: "source",
                name: new.name.clone(),
                file: new.place.file.to_string(),
                change: "changed",
                how,
                means,
                is_broken: false,
            });
        }
    }
}

/// The keys of the pack's configuration that differ. Values are not told: they need not be for everybody.
fn differing(old: &Value, new: &Value) -> Vec<String> {
    let empty = crate::model::Object::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let sign = |key: &String| match (old.get(key), new.get(key)) {
        (None, _) => "+",
        (_, None) => "-",
        _ => "~",
    };
    let differs = |key: &&String| old.get(key.as_str()) != new.get(key.as_str());
    keys.into_iter().filter(differs).map(|key| format!("{} config.{key} (siskin.yaml)", sign(key))).collect()
}

fn meaning(old: &Source, new: &Source, how: &[String]) -> Vec<String> {
    let (SourceKind::Webhook(was), SourceKind::Webhook(will)) = (&old.kind, &new.kind) else {
        return match (&old.kind, &new.kind) {
            (SourceKind::Webhook(was), _) => {
                vec![format!(
                    "deliveries to /hooks/{} are refused from then on: it is no webhook any more",
                    was.path
                )]
            }
            _ => vec!["it is stopped and begins anew with these settings".to_owned()],
        };
    };
    let mut means = Vec::new();
    if was.path != will.path {
        means.push(format!(
            "deliveries to /hooks/{} are refused from then on; senders have to be told /hooks/{}",
            was.path, will.path
        ));
    }
    let touches = |key: &str| {
        how.iter().any(|line| {
            let rest = line.get(2..).and_then(|rest| rest.strip_prefix(key));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', ':', '[', ' ']))
        })
    };
    if touches("verify") {
        means.push("deliveries have to prove otherwise where they come from".to_owned());
    }
    if touches("trigger") {
        means.push("its events have another trigger: rules of the old one no longer hear them".to_owned());
    }
    if touches("dedup") {
        means.push("what counts as the same delivery changes: one that is known may come again".to_owned());
    }
    means
}

/// By what is called: the workflows that call it.
type Callers<'a> = BTreeMap<&'a str, Vec<&'a str>>;

fn callers(definitions: &Definitions) -> Callers<'_> {
    let mut callers = Callers::new();
    for workflow in definitions.workflows.values() {
        note_calls(workflow, &workflow.name, &mut callers);
    }
    callers
}

fn note_calls<'a>(workflow: &'a Workflow, name: &'a str, callers: &mut Callers<'a>) {
    for call in workflow.own_steps().flat_map(calls) {
        let of = callers.entry(call).or_default();
        if !of.contains(&name) {
            of.push(name);
        }
    }
    for group in workflow.groups.values() {
        note_calls(group, name, callers);
    }
}

/// What a step calls.
fn calls(step: &Step) -> Vec<&str> {
    let mut calls: Vec<&str> = step.undo.iter().map(|undo| undo.run.as_str()).collect();
    match &step.kind {
        Kind::Run(call) => calls.push(&call.run),
        Kind::Watch(watch) => calls.extend(watch.check.iter().map(|check| check.call.run.as_str())),
        Kind::WaitFor(wait) => calls.extend(wait.poll.iter().map(|poll| poll.call.run.as_str())),
        _ => (),
    }
    calls
}

/// The rules that come to `name`, by themselves or through workflows.
fn started_by(name: &str, definitions: &Definitions, callers: &Callers<'_>) -> Vec<String> {
    // By what leads there: through what.
    let mut through: BTreeMap<&str, Option<&str>> = BTreeMap::from([(name, None)]);
    let mut next = VecDeque::from([name]);
    while let Some(at) = next.pop_front() {
        for caller in callers.get(at).into_iter().flatten() {
            if !through.contains_key(caller) {
                through.insert(caller, Some(caller));
                next.push_back(caller);
            }
        }
    }
    let starts = |rule: &Rule| {
        let otherwise = rule.at_most.as_ref().and_then(|limit| limit.otherwise.as_ref());
        let mut runs = std::iter::once(rule.run.as_str()).chain(otherwise.map(|call| call.run.as_str()));
        runs.find_map(|run| through.get(run).copied())
    };
    let mut said: Vec<String> = definitions
        .rules
        .values()
        .filter(|rule| rule.enabled)
        .filter_map(|rule| {
            Some(match starts(rule)? {
                None => format!("rule {} starts it", rule.name),
                Some(workflow) => format!("rule {} comes to it through {workflow}", rule.name),
            })
        })
        .collect();
    if said.len() > MOST {
        let more = said.len() - MOST;
        said.truncate(MOST);
        said.push(format!("and {more} more rules"));
    }
    said
}
