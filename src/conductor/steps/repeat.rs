//! `until` + `every`: an action that succeeded is done again until `until` is true of its output, or the time for all repetitions is over.

use crate::conductor::advance::{Turn, broken};
use crate::definitions::workflow::{Kind, Repeat, Step as Definition};
use crate::model::run::UNDO_SUFFIX;
use crate::model::step::StepState;
use crate::model::{ErrorKind, RunError, StepStatus, Timestamp};

use super::action::DEFAULT_TIMEOUT;

/// An attempt succeeded: the step did, unless it is to be repeated.
pub(in crate::conductor) fn succeeded(turn: &mut Turn<'_>, key: &str) {
    let output = turn.run.step(key).map(|step| step.reported.shared()).unwrap_or_default();
    let Some((definition, repeat)) = repeat_of(turn, key) else { return turn.succeed(key, output) };
    let scope = turn.scope_for(key).with("output", std::sync::Arc::clone(&output));
    match turn.world.definitions.expr.condition(&repeat.until, &scope) {
        Ok(true) => turn.succeed(key, output),
        Ok(false) => once_more(turn, key, repeat),
        Err(failure) => {
            let error = broken(definition, "until", &failure);
            turn.fail(key, StepStatus::Failed, error);
        }
    }
}

fn once_more(turn: &mut Turn<'_>, key: &str, repeat: &Repeat) {
    if super::action::may_not_go_on(turn, key) {
        return turn.end(key, StepStatus::Cancelled);
    }
    let next = turn.world.now.plus(repeat.every);
    // Where no time is left, the step waits for its end.
    let at = ends_at(turn, key).map_or(next, |end| next.min(end));
    let Some(step) = turn.run.step_mut(key) else { return };
    step.repeats += 1;
    step.state = StepState::Repeating { number: step.attempts + 1, at };
}

/// When the time for all repetitions of a step is over; `None` for a step that is not repeated.
pub(super) fn ends_at(turn: &Turn<'_>, key: &str) -> Option<Timestamp> {
    let (definition, _) = repeat_of(turn, key)?;
    let of_action = match &definition.kind {
        Kind::Run(call) => turn.world.definitions.actions.get(&call.run).and_then(|action| action.timeout),
        _ => None,
    };
    let limit = definition.timeout.or(of_action).unwrap_or(DEFAULT_TIMEOUT);
    Some(turn.run.step(key)?.started_at.unwrap_or(turn.world.now).plus(limit))
}

pub(super) fn timed_out(turn: &Turn<'_>, key: &str) -> RunError {
    let attempts = turn.run.step(key).map_or(0, |step| step.attempts);
    RunError::new(ErrorKind::TimedOut, format!("`until` was not true in time, after {attempts} attempts"))
}

fn repeat_of<'a>(turn: &Turn<'a>, key: &str) -> Option<(&'a Definition, &'a Repeat)> {
    let definition = turn.definition(key).filter(|_| !key.ends_with(UNDO_SUFFIX))?;
    Some((definition, definition.repeat.as_ref()?))
}
