//! `run` of a workflow: a child run works for the step.

use std::sync::Arc;

use crate::conductor::MAX_DEPTH;
use crate::conductor::advance::Turn;
use crate::conductor::effect::Effect;
use crate::conductor::ending::status_of;
use crate::definitions::workflow::Call;
use crate::definitions::{fields, tree};
use crate::model::step::StepState;
use crate::model::{ErrorKind, Kept, RunError, RunId, RunStatus, StepStatus, Value};

/// Asks for the child.
pub(in crate::conductor) fn start(turn: &mut Turn<'_>, key: &str, call: &Call) -> Result<(), RunError> {
    let Some(workflow) = turn.world.definitions.workflows.get(&call.run) else {
        let message = format!("there is no action or workflow `{}` in this revision", call.run);
        return Err(RunError::failed(message).at(&call.place));
    };
    if turn.run.depth + 1 > MAX_DEPTH {
        let message = format!("runs may start one another {MAX_DEPTH} deep; does {} start itself?", call.run);
        return Err(RunError::new(ErrorKind::Limit, message).at(&call.place));
    }
    let expr = &turn.world.definitions.expr;
    let given = tree::render_map(&call.with, expr, &turn.scope_for(key)).map_err(|failure| {
        RunError::failed(format!("`with` of {}: {}", call.run, failure.message)).at(&call.place)
    })?;
    let input = fields::accept(&workflow.input, &given, true).map_err(|mistakes| {
        RunError::failed(format!("{}: {}", call.run, mistakes.join("; "))).at(&call.place)
    })?;
    let visit = turn.run.step(key).map_or(1, |step| step.visit);
    if let Some(step) = turn.run.step_mut(key) {
        step.attempts += 1;
    }
    turn.effects.push(Effect::StartChild {
        step: key.to_owned(),
        visit,
        workflow: call.run.clone(),
        input: Kept::new(input.masked()),
        outer: None,
    });
    Ok(())
}

/// The undo of a step whose child run has no undo but its own: that run is rolled back.
pub(in crate::conductor) fn roll_back(turn: &mut Turn<'_>, key: &str, of: RunId) {
    let Some(step) = turn.run.step_mut(key) else { return };
    step.attempts += 1;
    step.state = StepState::Child { run: None };
    let visit = step.visit;
    turn.effects.push(Effect::StartRollback { step: key.to_owned(), visit, of });
}

pub(in crate::conductor) fn nothing_to_undo(turn: &mut Turn<'_>, key: &str) {
    let Some(step) = turn.run.step_mut(key).filter(|step| step.state == (StepState::Child { run: None }))
    else {
        return;
    };
    step.note = Some("nothing to undo".to_owned());
    turn.end(key, StepStatus::Skipped);
}

/// The child is final.
pub(in crate::conductor) fn ended(
    turn: &mut Turn<'_>,
    key: &str,
    child: RunId,
    status: RunStatus,
    output: &Arc<Value>,
    error: Option<&RunError>,
) {
    let Some(step) = turn.run.step_mut(key) else { return };
    let waited_for = match step.state {
        StepState::Child { run } => run.is_none_or(|run| run == child),
        _ => false,
    };
    if !waited_for {
        return;
    }
    step.child = Some(child);
    let error = || error.cloned().unwrap_or_else(|| RunError::failed(format!("run {child} ended {status}")));
    match status {
        RunStatus::Succeeded => {
            step.reported.set(output.clone());
            super::repeat::succeeded(turn, key);
        }
        RunStatus::Rejected => turn.refuse(key, error()),
        RunStatus::Cancelled | RunStatus::Superseded => {
            let error = RunError::new(ErrorKind::Cancelled, format!("run {child} ended {status}"));
            turn.fail(key, status_of(ErrorKind::Cancelled), error);
        }
        _ => {
            let error = RunError { kind: ErrorKind::Failed, ..error() };
            step.error = Some(error.clone());
            super::action::failed(turn, key, error);
        }
    }
}
