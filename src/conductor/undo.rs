//! Taking back what a run did: which undos there are, and in which order.

use indexmap::IndexMap;
use serde_json::json;

use crate::definitions::workflow::Step as Definition;
use crate::definitions::{Workflow, tree};
use crate::model::run::Undone;
use crate::model::{Run, RunId, Step, StepStatus, Value};

use super::{World, names};

/// The records of all undos that are still to be done, in the order in which they are done. A child run without an undo of its own on its step is
/// rolled back as a run.
pub(super) fn plan(workflow: &Workflow, run: &Run) -> IndexMap<String, Step> {
    let steps = began(&workflow.steps, run).into_iter();
    let undone = |step: &&Definition| run.undos.get(&step.id).is_some_and(is_done);
    let has_undo =
        |step: &&Definition| step.undo.is_some() || child(step, run).is_some() || has_children(step, run);
    let todo = steps.filter(has_undo).filter(|step| !undone(step));
    todo.map(|step| (step.id.clone(), Step::pending())).collect()
}

/// The run that worked for a step, when it is that run that has to be rolled back.
pub(super) fn child(step: &Definition, run: &Run) -> Option<RunId> {
    run.steps.get(&step.id)?.child.filter(|_| step.undo.is_none())
}

/// Whether items of the step were done by runs, which are rolled back.
fn has_children(step: &Definition, run: &Run) -> bool {
    let items = run.items.get(&step.id).filter(|_| step.undo.is_none());
    items.is_some_and(|items| items.iter().any(|(_, item)| item.child.is_some()))
}

/// The undos that are still to be done, as people are shown them: `{step, run, with}`, or `{step, rollback_of}` for a child run.
pub fn shown(world: World<'_>, run: &Run) -> Vec<Value> {
    let (expr, scope) = (&world.definitions.expr, names::scope(world, run, true));
    let plan = plan(world.workflow, run);
    let steps = plan.keys().filter_map(|id| world.workflow.steps.iter().find(|step| step.id == *id));
    let shown = steps.map(|step| match &step.undo {
        // Its values differ from item to item.
        _ if run.items.contains_key(&step.id) => {
            let began = run.items.get(&step.id).map_or(0, |items| items.iter().count());
            json!({"step": step.id, "run": step.undo.as_ref().map(|call| &call.run), "items": began})
        }
        Some(call) => match tree::render_map(&call.with, expr, &scope) {
            Ok(with) => json!({"step": step.id, "run": call.run, "with": with.masked()}),
            Err(failure) => {
                let note = format!("nothing to undo: {}", failure.message);
                json!({"step": step.id, "run": call.run, "with": null, "note": note})
            }
        },
        None => json!({"step": step.id, "rollback_of": child(step, run)}),
    });
    shown.collect()
}

/// The steps that began, newest start first.
fn began<'a>(definitions: &'a [Definition], run: &Run) -> Vec<&'a Definition> {
    let order = |step: &Definition| run.steps.get(&step.id).map_or(0, |state| state.order);
    let mut began: Vec<&Definition> = definitions.iter().filter(|step| order(step) > 0).collect();
    began.sort_by_key(|step| std::cmp::Reverse(order(step)));
    began
}

fn is_done(undo: &Step) -> bool {
    matches!(undo.status(), StepStatus::Succeeded | StepStatus::Skipped)
}

/// The undos that were not done.
pub(super) fn left(run: &Run) -> Vec<&str> {
    run.undos.iter().filter(|(_, undo)| !is_done(undo)).map(|(id, _)| id.as_str()).collect()
}

/// What the undos came to, once all have ended; `None` when there were none.
pub(super) fn summary(run: &Run) -> Option<Undone> {
    if run.undos.is_empty() {
        return None;
    }
    let done = run.undos.values().filter(|undo| is_done(undo)).count();
    Some(match done {
        0 => Undone::None,
        _ if done == run.undos.len() => Undone::All,
        _ => Undone::Part,
    })
}
