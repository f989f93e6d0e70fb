//! `steps:` and `parallel:`. A group that is only structure is open while its steps, which stand beside it, are at work. One with items, retries or a
//! timeout is a run of its own that sees the names of this one.

use std::collections::BTreeMap;

use crate::conductor::advance::Turn;
use crate::conductor::effect::Effect;
use crate::conductor::{MAX_DEPTH, names};
use crate::definitions::workflow::{Group, Step as Definition};
use crate::model::run::Outer;
use crate::model::step::StepState;
use crate::model::{ErrorKind, Kept, Object, RunError, StepStatus, Value};

pub(in crate::conductor) fn start(turn: &mut Turn<'_>, definition: &Definition, key: &str, group: &Group) {
    match group {
        Group::Inline => {
            let late = turn.is_failing();
            turn.set(key, StepState::Open { broken: false, late });
        }
        Group::Run { workflow, reads } => start_run(turn, definition, key, workflow, reads),
    }
}

/// The run that a group is done as, again after a retry.
pub(in crate::conductor) fn start_run(
    turn: &mut Turn<'_>,
    definition: &Definition,
    key: &str,
    workflow: &str,
    reads: &[String],
) {
    if turn.run.depth + 1 > MAX_DEPTH {
        let message =
            format!("runs may start one another {MAX_DEPTH} deep, and group `{}` is one more", definition.id);
        let error = RunError::new(ErrorKind::Limit, message).at(&definition.place);
        return turn.fail(key, StepStatus::Failed, error);
    }
    let outer = seen_from_inside(turn, key, reads);
    let visit = turn.run.step(key).map_or(1, |step| step.visit);
    if let Some(step) = turn.run.step_mut(key) {
        step.attempts += 1;
        step.state = StepState::Child { run: None };
    }
    turn.effects.push(Effect::StartChild {
        step: key.to_owned(),
        visit,
        workflow: workflow.to_owned(),
        input: turn.run.input.clone(),
        outer: Some(Box::new(outer)),
    });
}

fn seen_from_inside(turn: &Turn<'_>, key: &str, reads: &[String]) -> Outer {
    let around = turn.run.outer.as_ref();
    let mut steps = BTreeMap::new();
    for id in reads {
        if let Some(step) = turn.run.steps.get(id) {
            steps.insert(id.clone(), Kept::new(names::step_value(step)));
        } else if let Some(step) = around.and_then(|outer| outer.steps.get(id)) {
            steps.insert(id.clone(), step.clone());
        }
    }
    let mut names = around.map(|outer| outer.names.clone()).unwrap_or_default();
    for (name, value) in turn.loop_names(key) {
        names.insert(name, Kept::new(value));
    }
    let run = match around {
        Some(outer) => outer.run.clone(),
        None => Kept::new(names::run_value(turn.world, turn.run)),
    };
    Outer { run, steps, names }
}

/// Ends the group once all its steps have. Says whether it did.
pub(in crate::conductor) fn finish(turn: &mut Turn<'_>, definition: &Definition) -> bool {
    let Some(StepState::Open { broken, .. }) =
        turn.run.steps.get(&definition.id).map(|step| step.state.clone())
    else {
        return false;
    };
    let members: Vec<&Definition> = turn
        .section()
        .iter()
        .filter(|member| member.group.as_deref() == Some(definition.id.as_str()))
        .collect();
    let step = |member: &Definition| turn.run.steps.get(&member.id);
    if !members.iter().all(|member| step(member).is_none_or(crate::model::Step::has_ended)) {
        return false;
    }
    let has = |status: StepStatus| {
        members.iter().any(|member| step(member).is_some_and(|step| step.status() == status))
    };
    let error = members.iter().filter(|member| !member.continue_on_failure).find_map(|member| {
        let step = step(member)?;
        let error = step.error.clone().filter(|_| step.status().is_failure())?;
        Some(error.of_step(&member.id))
    });
    let id = definition.id.clone();
    if has(StepStatus::Rejected) {
        let error = members.iter().find_map(|member| {
            let step = step(member)?;
            step.error.clone().filter(|_| step.status() == StepStatus::Rejected)
        });
        turn.refuse(&id, error.unwrap_or_else(|| RunError::new(ErrorKind::Rejected, "rejected")));
    } else if broken {
        let error = error.unwrap_or_else(|| RunError::failed("a step of the group failed"));
        turn.fail(&id, StepStatus::Failed, error);
    } else if (turn.section_verdict().is_some() || is_broken_around(turn, &definition.id))
        && (has(StepStatus::Cancelled) || has(StepStatus::NotStarted))
    {
        turn.end(&id, StepStatus::Cancelled);
    } else {
        let mut output = Object::new();
        for member in &members {
            output.insert(member.id.clone(), step(member).map_or(Value::Null, |step| (*step.output).clone()));
        }
        turn.succeed(&id, Value::Object(output));
    }
    true
}

/// Whether a failure broke a group around a step: nothing of it begins any more, nor again.
pub(super) fn is_broken_around(turn: &Turn<'_>, key: &str) -> bool {
    let mut at = turn.definition(key).and_then(|definition| definition.group.as_deref());
    while let Some(id) = at {
        if let Some(StepState::Open { broken: true, .. }) = turn.run.steps.get(id).map(|step| &step.state) {
            return true;
        }
        at = turn.definition(id).and_then(|group| group.group.as_deref());
    }
    false
}
