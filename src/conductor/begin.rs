//! How a run comes to be.

use std::collections::BTreeSet;

use indexmap::IndexMap;

use crate::definitions::Workflow;
use crate::definitions::workflow::Step as Definition;
use crate::model::run::{Parent, Phase};
use crate::model::{Actor, EventId, Run, RunId, RunStatus, Step, StepStatus, Timestamp, Value};

use super::undo;

/// What starts a run.
#[derive(Clone, Debug)]
pub struct Start {
    pub revision: String,
    /// Accepted by the workflow's fields: defaults are in it.
    pub input: Value,
    pub started_by: Actor,
    pub event: Option<EventId>,
    pub rule: Option<String>,
    pub parent: Option<Parent>,
    pub depth: u32,
}

/// A run that takes back what the ended run `old` did: its steps are the undos that are still to be done. It keeps copies of `old`'s steps, whose
/// outputs the undos read.
pub fn new_rollback(workflow: &Workflow, old: &Run, start: Start, now: Timestamp) -> Run {
    let mut run = new_run(workflow, start, now);
    run.rollback_of = Some(old.rollback_of.unwrap_or(old.id));
    run.phase = Phase::Undo;
    run.steps = old.steps.iter().map(|(id, step)| (id.clone(), copy(old, id, step))).collect();
    run.undos = undo::plan(workflow, old);
    run.begun = old.begun;
    run
}

/// A run that does again what the ended run `old` did, from the step `from` on: every other step that does not wait for it, and that went well, is
/// kept with what it gave.
pub fn new_rerun(workflow: &Workflow, old: &Run, from: Option<&str>, start: Start, now: Timestamp) -> Run {
    let mut run = new_run(workflow, start, now);
    run.rerun_of = Some(old.id);
    let Some(from) = from else { return run };
    let mut kept: BTreeSet<&str> = workflow.steps.iter().map(|step| step.id.as_str()).collect();
    loop {
        let again = workflow.steps.iter().find(|step| {
            let can_stay = step.id != from
                && old.steps.get(&step.id).is_some_and(|state| went_well(step, state))
                && step.needs.iter().all(|need| kept.contains(need.as_str()));
            kept.contains(step.id.as_str()) && !can_stay
        });
        let Some(again) = again else { break };
        kept.remove(again.id.as_str());
    }
    for id in kept {
        if let (Some(new), Some(step)) = (run.steps.get_mut(id), old.steps.get(id)) {
            *new = copy(old, id, step);
        }
    }
    run.begun = old.begun;
    run
}

fn went_well(definition: &Definition, state: &Step) -> bool {
    let status = state.status();
    matches!(status, StepStatus::Succeeded | StepStatus::Skipped)
        || (status.is_failure() && definition.continue_on_failure)
}

/// The step as `old` left it.
fn copy(old: &Run, id: &str, step: &Step) -> Step {
    Step { kept_from: Some(did(old, id)), ..step.clone() }
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
        output: Value::Null,
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
    }
}
