//! How a run comes to be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use indexmap::IndexMap;

use crate::definitions::workflow::Step as Definition;
use crate::definitions::{Definitions, Workflow};
use crate::expr::Scope;
use crate::model::run::{Outer, Parent, Phase};
use crate::model::{
    Actor, EventId, Kept, Run, RunError, RunId, RunStatus, Slot, Step, StepStatus, Timestamp, Value,
};

use super::steps::plain;
use super::undo;

/// What starts a run.
#[derive(Clone, Debug)]
pub struct Start {
    pub revision: String,
    /// Accepted by the workflow's fields: defaults are in it.
    pub input: Kept,
    pub started_by: Actor,
    pub event: Option<EventId>,
    pub rule: Option<String>,
    pub parent: Option<Parent>,
    pub depth: u32,
    /// What a group sees of the run around it.
    pub outer: Option<Outer>,
}

/// The slot that a run of `workflow` with `input` needs.
///
/// # Errors
/// The key can't be rendered, or is no text.
pub fn slot_of(
    definitions: &Definitions,
    workflow: &Workflow,
    input: &Arc<Value>,
) -> Result<Option<Slot>, RunError> {
    let Some(concurrency) = &workflow.concurrency else { return Ok(None) };
    let key = match &concurrency.key {
        None => Value::String(String::new()),
        Some(tree) => {
            let scope = Scope::new()
                .with("input", Arc::clone(input))
                .with("config", workflow.config.clone())
                .with("apps", Arc::clone(&definitions.apps));
            plain(tree, &definitions.expr, &scope).map_err(|failure| {
                let message = format!("`concurrency.key` of {}: {}", workflow.name, failure.message);
                RunError::failed(message).at(&concurrency.place)
            })?
        }
    };
    let key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
    let name = format!("{} {key}", workflow.name);
    Ok(Some(Slot { name, limit: concurrency.limit.max(1), on_limit: concurrency.on_limit }))
}

/// A run that takes back what the ended run `old` did: its steps are the undos that are still to be done. It keeps copies of `old`'s steps, whose
/// outputs the undos read.
pub fn new_rollback(workflow: &Workflow, old: &Run, start: Start, now: Timestamp) -> Run {
    let mut run = new_run(workflow, start, now);
    run.outer = outer_of(old);
    run.rollback_of = Some(old.rollback_of.unwrap_or(old.id));
    run.phase = Phase::Undo;
    run.steps = old.steps.iter().map(|(id, step)| (id.clone(), copy(old, id, step))).collect();
    run.undos = undo::plan(workflow, old);
    run.items = old.items.iter().map(|(id, items)| (id.clone(), items.copied())).collect();
    run.begun = old.begun;
    run
}

/// A run that does again what the ended run `old` did, from the step `from` on: every other step that does not wait for it, and that went well, is
/// kept with what it gave.
pub fn new_rerun(workflow: &Workflow, old: &Run, from: Option<&str>, start: Start, now: Timestamp) -> Run {
    let mut run = new_run(workflow, start, now);
    run.outer = outer_of(old);
    run.rerun_of = Some(old.id);
    let Some(from) = from else { return run };
    let mut kept: BTreeSet<&str> = workflow.steps.iter().map(|step| step.id.as_str()).collect();
    loop {
        let again = workflow.steps.iter().find(|step| {
            // A step waits for what its groups wait for, and a group is done again with any of its steps.
            let around = with_groups(workflow, step);
            let members = workflow.steps.iter().filter(|member| member.group.as_ref() == Some(&step.id));
            let can_stay = old.steps.get(&step.id).is_some_and(|state| went_well(step, state))
                && around.iter().all(|around| around.id != from)
                && around.iter().flat_map(|around| &around.needs).all(|need| kept.contains(need.as_str()))
                && members.into_iter().all(|member| kept.contains(member.id.as_str()));
            kept.contains(step.id.as_str()) && !can_stay
        });
        let Some(again) = again else { break };
        kept.remove(again.id.as_str());
    }
    for id in kept {
        if let (Some(new), Some(step)) = (run.steps.get_mut(id), old.steps.get(id)) {
            *new = copy(old, id, step);
            if let Some(items) = old.items.get(id) {
                run.items.insert(id.to_owned(), items.copied());
            }
        }
    }
    run.begun = old.begun;
    run
}

/// What `old`, if it is a group, saw of the run around it: who goes on from it reads the same names. Nothing of the copy is stored yet.
fn outer_of(old: &Run) -> Option<Outer> {
    let copy = |kept: &Kept| Kept::new(kept.shared());
    let all = |values: &BTreeMap<String, Kept>| {
        values.iter().map(|(name, kept)| (name.clone(), copy(kept))).collect::<BTreeMap<_, _>>()
    };
    let outer = old.outer.as_ref()?;
    Some(Outer { run: copy(&outer.run), steps: all(&outer.steps), names: all(&outer.names) })
}

/// A step and the groups around it.
pub(super) fn with_groups<'a>(workflow: &'a Workflow, step: &'a Definition) -> Vec<&'a Definition> {
    let around = |step: &&Definition| {
        let group = step.group.as_ref()?;
        workflow.steps.iter().find(|around| around.id == *group)
    };
    std::iter::successors(Some(step), around).collect()
}

fn went_well(definition: &Definition, state: &Step) -> bool {
    let status = state.status();
    matches!(status, StepStatus::Succeeded | StepStatus::Skipped)
        || (status.is_failure() && definition.continue_on_failure)
}

/// The step as `old` left it.
fn copy(old: &Run, id: &str, step: &Step) -> Step {
    let mut copy = Step { kept_from: Some(did(old, id)), ..step.clone() };
    copy.renew();
    copy
}

/// The run that really did what `run` shows as its step.
pub fn did(run: &Run, step: &str) -> RunId {
    run.steps.get(step).and_then(|step| step.kept_from).unwrap_or(run.id)
}

/// A run that has not begun. The store gives it its number.
pub fn new_run(workflow: &Workflow, start: Start, now: Timestamp) -> Run {
    let all = workflow.steps.iter().chain(&workflow.on_failure).chain(&workflow.finally);
    let steps: IndexMap<String, Step> = all.map(|step| (step.id.clone(), Step::pending())).collect();
    Run {
        id: RunId(0),
        version: 0,
        workflow: workflow.name.clone(),
        revision: start.revision,
        status: RunStatus::Queued,
        phase: Phase::Steps,
        started_by: start.started_by,
        event: start.event,
        rule: start.rule,
        parent: start.parent,
        depth: start.depth,
        rerun_of: None,
        rollback_of: None,
        input: start.input,
        output: Kept::default(),
        error: None,
        verdict: None,
        cancelled_by: None,
        cancels: 0,
        paused: false,
        undone: None,
        created_at: now,
        started_at: None,
        finished_at: None,
        deadline: None,
        steps,
        undos: IndexMap::new(),
        taken: Vec::new(),
        begun: 0,
        held: None,
        forced: None,
        wanted_by: None,
        outer: start.outer,
        items: BTreeMap::new(),
        undo_items: BTreeMap::new(),
        tokens: BTreeMap::new(),
        published: crate::model::Object::new(),
    }
}
