//! `run` and `shell`: a step that has an action done by a worker; also undos and the checks of a watch.

use crate::definitions::Action;
use crate::definitions::fields;
use crate::definitions::tree;
use crate::definitions::workflow::{Call, Group, Kind, Step as Definition};
use crate::model::run::UNDO_SUFFIX;
use crate::model::step::StepState;
use crate::model::{
    Attempt, AttemptKey, ErrorKind, Filled, Outcome, Route, RunError, Span, StepStatus, Value,
};

use crate::conductor::MAX_LOST;
use crate::conductor::advance::{Turn, broken};
use crate::conductor::effect::Effect;
use crate::conductor::ending::status_of;

use super::{child, group, plain, repeat, wait_for, watch};

/// How long an attempt may take when neither step nor action says.
pub(super) const DEFAULT_TIMEOUT: Span = Span::hours(1);

/// The step's or undo's first attempt, or its child run.
pub(in crate::conductor) fn start(turn: &mut Turn<'_>, key: &str, call: &Call) {
    if let Some(action) = turn.world.definitions.actions.get(&call.run) {
        let action = action.clone();
        match dispatch(turn, key, call, &action) {
            Ok(number) => turn.set(key, StepState::Attempting { number }),
            Err(error) => could_not_start(turn, key, error),
        }
        return;
    }
    match child::start(turn, key, call) {
        Ok(()) => turn.set(key, StepState::Child { run: None }),
        Err(error) => could_not_start(turn, key, error),
    }
}

/// An undo whose values were never reported has nothing to undo; anything else that can't start fails.
fn could_not_start(turn: &mut Turn<'_>, key: &str, error: RunError) {
    let expr = &turn.world.definitions.expr;
    let unreported = |call: &Call| tree::render_map(&call.with, expr, &turn.scope_for(key)).is_err();
    if key.ends_with(UNDO_SUFFIX) && turn.call_of(key).is_some_and(unreported) {
        if let Some(step) = turn.run.step_mut(key) {
            step.note = Some(format!("nothing to undo: {error}"));
        }
        return turn.end(key, StepStatus::Skipped);
    }
    turn.fail(key, status_of(error.kind), error);
}

/// The next attempt after a delay.
pub(in crate::conductor) fn again(turn: &mut Turn<'_>, key: &str) {
    if let Some(call) = turn.call_of(key) {
        return start(turn, key, call);
    }
    let Some(definition) = turn.definition(key) else { return };
    if let Kind::Group(Group::Run { workflow, reads }) = &definition.kind {
        group::start_run(turn, definition, key, workflow, reads);
    }
}

/// Renders what the action is given and hands the attempt over; its number comes back.
pub(in crate::conductor) fn dispatch(
    turn: &mut Turn<'_>,
    key: &str,
    call: &Call,
    action: &Action,
) -> Result<u32, RunError> {
    let expr = &turn.world.definitions.expr;
    let given = tree::render_map(&call.with, expr, &turn.scope_for(key)).map_err(|failure| {
        RunError::failed(format!("`with` of {}: {}", call.run, failure.message)).at(&call.place)
    })?;
    let input = fields::accept(&action.input, &given, true).map_err(|mistakes| {
        RunError::failed(format!("{}: {}", call.run, mistakes.join("; "))).at(&call.place)
    })?;
    let timeout = time_limit(turn, key, action)?;
    let route = route(turn, key)?;
    let run = turn.run.id;
    let Some(step) = turn.run.step_mut(key) else {
        return Err(RunError::failed(format!("no step `{key}`")));
    };
    step.attempts += 1;
    let number = step.attempts;
    let mut secrets = input.secrets();
    secrets.extend(action.secrets.iter().cloned());
    secrets.sort();
    secrets.dedup();
    let attempt = Attempt {
        key: AttemptKey::of(run, key, step.visit, number),
        action: action.name.clone(),
        apps: app_of(turn, &input),
        input,
        work: action.work.clone(),
        idempotent: action.idempotent,
        timeout,
        route,
    };
    turn.effects.push(Effect::Dispatch { attempt: Box::new(attempt), secrets });
    Ok(number)
}

/// Which workers may do it. An undo goes to the pool of its step, but not only to the worker that did that.
fn route(turn: &Turn<'_>, key: &str) -> Result<Route, RunError> {
    let definition = turn.definition(key);
    let Some((definition, worker)) =
        definition.and_then(|definition| Some((definition, definition.worker.as_ref()?)))
    else {
        return Ok(Route::default());
    };
    let scope = turn.scope_for(key);
    let text = |what: &str, tree: &tree::Tree| {
        let value = plain(tree, &turn.world.definitions.expr, &scope)
            .map_err(|failure| broken(definition, what, &failure))?;
        Ok::<String, RunError>(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    let pool = worker.pool.as_ref().map(|tree| text("worker.pool", tree)).transpose()?;
    let labels = worker.labels.iter().map(|(name, tree)| Ok((name.clone(), text("worker.labels", tree)?)));
    let labels = labels.collect::<Result<_, RunError>>()?;
    let same_as = worker.same_as.as_ref().filter(|_| !key.ends_with(UNDO_SUFFIX));
    let same = match same_as {
        None => None,
        Some(other) => match turn.run.steps.get(other).and_then(|step| step.worker.clone()) {
            Some(worker) => Some(worker),
            None => {
                let message = format!("`worker.same_as`: no worker did step `{other}`");
                return Err(RunError::failed(message).at(&definition.place));
            }
        },
    };
    Ok(Route { pool, labels, worker: same })
}

/// How long an attempt may take: with `until`, what is left of the time for all repetitions. The `timeout` of a wait is not that of its polls.
fn time_limit(turn: &Turn<'_>, key: &str, action: &Action) -> Result<Span, RunError> {
    let definition = turn.definition(key).filter(|_| !key.ends_with(UNDO_SUFFIX));
    let own = definition.filter(|definition| matches!(definition.kind, Kind::Run(_)));
    let limit = own.and_then(|definition| definition.timeout).or(action.timeout).unwrap_or(DEFAULT_TIMEOUT);
    match repeat::ends_at(turn, key) {
        None => Ok(limit),
        Some(end) if end > turn.world.now => Ok(end.since(turn.world.now)),
        Some(_) => Err(repeat::timed_out(turn, key)),
    }
}

/// The app that an attempt is about, by its name: of its own input `app`, or else of the run's.
fn app_of(turn: &Turn<'_>, input: &Filled) -> Value {
    let named = |value: &Value| value.as_str().map(str::to_owned);
    let own = input.get("app").and_then(|app| named(&app.masked()));
    let app = own.or_else(|| turn.run.input.get("app").and_then(named));
    let found = app.and_then(|app| Some((app.clone(), turn.world.definitions.apps.get(&app)?.clone())));
    Value::Object(found.into_iter().collect())
}

/// An outcome came. One that nobody waits for changes nothing.
pub(in crate::conductor) fn finished(
    turn: &mut Turn<'_>,
    key: &AttemptKey,
    outcome: &Outcome,
    worker: Option<&str>,
) {
    let Some(step) = turn.attempting(key) else { return };
    step.worker = worker.map(str::to_owned);
    let key = &key.step_key();
    match step.state {
        StepState::Watching { .. } => return watch::checked(turn, key, outcome),
        StepState::WaitingFor { .. } => return wait_for::polled(turn, key, outcome),
        _ => (),
    }
    match outcome {
        Outcome::Succeeded { output } => {
            step.reported.set(output.clone());
            repeat::succeeded(turn, key);
        }
        Outcome::Failed { error, output } => {
            if !output.is_null() {
                step.reported.set(output.clone());
            }
            step.error = Some(error.clone());
            failed(turn, key, error.clone());
        }
    }
}

/// An attempt or child of the step failed: it is tried again, or the step fails.
pub(in crate::conductor) fn failed(turn: &mut Turn<'_>, key: &str, error: RunError) {
    if begins_again_by_itself(turn, key, &error) {
        if let Some(step) = turn.run.step_mut(key) {
            step.lost += 1;
        }
        turn.note("lost", Some(key), Some(format!("{error}; its action is idempotent, so it begins again")));
        if !turn.starts_nothing() {
            return again(turn, key);
        }
        // When the run is resumed.
        let number = turn.run.step(key).map_or(1, |step| step.attempts + 1);
        return turn.set(key, StepState::Retrying { number, at: turn.world.now });
    }
    match retries_at(turn, key, &error) {
        Some((number, at)) => {
            turn.note("failed", Some(key), Some(format!("{error}; attempt {number} at {at}")));
            turn.set(key, StepState::Retrying { number, at });
        }
        None => turn.fail(key, status_of(error.kind), error),
    }
}

fn begins_again_by_itself(turn: &Turn<'_>, key: &str, error: &RunError) -> bool {
    let Some(step) = turn.run.step(key) else { return false };
    let action = turn.call_of(key).and_then(|call| turn.world.definitions.actions.get(&call.run));
    let idempotent = action.is_some_and(|action| action.idempotent);
    error.kind == ErrorKind::Lost && idempotent && step.lost < MAX_LOST && !may_not_go_on(turn, key)
}

/// The run, or a group around the step, is being ended, or the step itself: nothing begins again. Undos are of no group.
pub(super) fn may_not_go_on(turn: &Turn<'_>, key: &str) -> bool {
    let is_stopped = turn.run.step(key).is_some_and(|step| step.stopped);
    is_stopped || turn.is_ending() || (!key.ends_with(UNDO_SUFFIX) && group::is_broken_around(turn, key))
}

/// When and as which attempt a failed step is tried again.
fn retries_at(turn: &Turn<'_>, key: &str, error: &RunError) -> Option<(u32, crate::model::Timestamp)> {
    let definition = turn.definition(key).filter(|_| !key.ends_with(UNDO_SUFFIX))?;
    let step = turn.run.step(key)?;
    let retry = &definition.retry;
    let covered = match error.kind {
        ErrorKind::Failed | ErrorKind::TimedOut => true,
        ErrorKind::Lost => retry.lost,
        ErrorKind::Rejected | ErrorKind::Cancelled | ErrorKind::Limit => false,
    };
    let counted = step.attempts.saturating_sub(step.lost + step.repeats);
    if !covered
        || may_not_go_on(turn, key)
        || counted >= retry.attempts
        || !wanted(turn, key, definition, step, error)
    {
        return None;
    }
    let number = counted + 1;
    let dice = dice(turn.run.id.0, key, number);
    let at = turn.world.now.plus(retry.delay_before(number, dice));
    match repeat::ends_at(turn, key) {
        Some(end) if end <= at => None,
        _ => Some((step.attempts + 1, at)),
    }
}

/// Whether `retry.when` wants another attempt; an error in it means no.
fn wanted(
    turn: &Turn<'_>,
    key: &str,
    definition: &Definition,
    step: &crate::model::Step,
    error: &RunError,
) -> bool {
    let Some(when) = &definition.retry_when else { return true };
    let error = serde_json::to_value(error).unwrap_or(Value::Null);
    let scope = turn.scope_for(key).with("error", error).with("output", step.reported.shared());
    turn.world.definitions.expr.condition(when, &scope).unwrap_or(false)
}

/// FNV-1a over run, step and number: the core rolls no dice.
fn dice(run: i64, step: &str, number: u32) -> u64 {
    let bytes = run.to_le_bytes().into_iter().chain(step.bytes()).chain(number.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
