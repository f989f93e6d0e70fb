//! `watch`: lets time pass, and fails as soon as an event says so or a check was not healthy too often.

use serde_json::json;

use crate::conductor::advance::{Turn, broken};
use crate::definitions::workflow::{Kind, Step as Definition, Watch, WatchCheck};
use crate::model::step::StepState;
use crate::model::{AttemptKey, ErrorKind, Event, Outcome, RunError, Span, StepStatus, Timestamp};

use crate::conductor::effect::Effect;

use super::{action, plain, wait_for};

pub(in crate::conductor) fn start(turn: &mut Turn<'_>, definition: &Definition, watch: &Watch) {
    let span = plain(&watch.span, &turn.world.definitions.expr, &turn.scope_for(&definition.id))
        .map_err(|failure| broken(definition, "for", &failure))
        .and_then(|value| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text.parse::<Span>().map_err(|why| RunError::failed(why).at(&definition.place))
        });
    match span {
        Err(error) => turn.fail(&definition.id, StepStatus::Failed, error),
        Ok(span) => {
            let now = turn.world.now;
            let check = watch.check.as_ref().map(|_| now);
            let state =
                StepState::Watching { until: now.plus(span), check, checking: None, checks: 0, unhealthy: 0 };
            turn.set(&definition.id, state);
            tick(turn, &definition.id); // The first check is at once.
        }
    }
}

/// Time passed: a check falls due, or the watch is over.
pub(in crate::conductor) fn tick(turn: &mut Turn<'_>, key: &str) {
    let Some(StepState::Watching { until, check, checking: None, checks, unhealthy }) =
        turn.run.step(key).map(|step| step.state.clone())
    else {
        return;
    };
    let now = turn.world.now;
    let due = check.filter(|at| *at <= now && *at <= until);
    match (due, check_of(turn, key)) {
        (_, Some(_)) if turn.starts_nothing() => (), // Not without its check, and that not while the run is paused.
        (Some(_), Some(check)) => begin_check(turn, key, check),
        (_, _) if now >= until => {
            turn.succeed(key, json!({"by": "time", "checks": checks, "unhealthy": unhealthy}))
        }
        _ => (),
    }
}

fn begin_check(turn: &mut Turn<'_>, key: &str, check: &WatchCheck) {
    let Some(action) = turn.world.definitions.actions.get(&check.call.run).cloned() else {
        let error = RunError::failed(format!("there is no action `{}` in this revision", check.call.run));
        return turn.fail(key, StepStatus::Failed, error);
    };
    match action::dispatch(turn, key, &check.call, &action) {
        Ok(number) => update(turn, key, |_, checking, _, _| *checking = Some(number)),
        Err(error) => turn.fail(key, StepStatus::Failed, error),
    }
}

/// A check's outcome came.
pub(in crate::conductor) fn checked(turn: &mut Turn<'_>, key: &str, outcome: &Outcome) {
    let Some(check) = check_of(turn, key) else { return };
    if matches!(outcome, Outcome::Failed { error, .. } if error.kind == ErrorKind::Lost) {
        // Its worker died: that says nothing about what was checked.
        let now = turn.world.now;
        update(turn, key, |at, checking, _, _| (*at, *checking) = (Some(now), None));
        return tick(turn, key);
    }
    let verdict = health(turn, key, check, outcome);
    let next = turn.world.now.plus(check.every);
    update(turn, key, |at, checking, checks, unhealthy| {
        *at = Some(next);
        *checking = None;
        *checks += 1;
        *unhealthy += u32::from(verdict.is_err());
    });
    let unhealthy = match turn.run.step(key).map(|step| &step.state) {
        Some(StepState::Watching { unhealthy, .. }) => *unhealthy,
        _ => return,
    };
    match verdict {
        Err(why) if unhealthy >= check.failures => {
            let error = RunError::failed(format!("not healthy {unhealthy} times: {why}"));
            turn.fail(key, StepStatus::Failed, error);
        }
        Err(why) => turn.note("unhealthy", Some(key), Some(why)),
        Ok(()) => (),
    }
    tick(turn, key);
}

/// An outcome is healthy when the action succeeded and `healthy` says so of its output.
fn health(turn: &Turn<'_>, key: &str, check: &WatchCheck, outcome: &Outcome) -> Result<(), String> {
    let output = match outcome {
        Outcome::Succeeded { output } => output,
        Outcome::Failed { error, .. } => return Err(error.to_string()),
    };
    let scope = turn.scope_for(key).with("output", output.clone());
    match turn.world.definitions.expr.condition(&check.healthy, &scope) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("`{}` was false of {output}", check.healthy.source().trim())),
        Err(failure) => Err(failure.message),
    }
}

pub(in crate::conductor) fn event_came(turn: &mut Turn<'_>, event: &Event) {
    let workflow = turn.world.workflow;
    for definition in workflow.steps.iter().chain(&workflow.on_failure).chain(&workflow.finally) {
        let Kind::Watch(watch) = &definition.kind else { continue };
        let Some(step) = turn.run.step(&definition.id) else { continue };
        let StepState::Watching { checking, .. } = step.state else { continue };
        let visit = step.visit;
        // One that let the run go on to this watch is not what may end it.
        let led_here = Some(event.received_at) == step.started_at && turn.run.taken.contains(&event.id);
        if event.received_at < since(turn, watch, step.started_at) || led_here {
            continue;
        }
        for pattern in &watch.abort_on {
            match wait_for::meets(turn, &definition.id, pattern, event) {
                Ok(false) => (),
                Ok(true) => {
                    if let Some(number) = checking {
                        let key = AttemptKey::of(turn.run.id, &definition.id, visit, number);
                        turn.effects.push(Effect::CancelAttempt { key });
                    }
                    let message = format!("{} came: event {}", event.trigger, event.id);
                    turn.fail(&definition.id, StepStatus::Failed, RunError::failed(message));
                    break;
                }
                Err(failure) => wait_for::remark(turn, &definition.id, event, &failure),
            }
        }
    }
}

/// Events count from the start of the watch, or of the step that `since` names.
fn since(turn: &Turn<'_>, watch: &Watch, started: Option<Timestamp>) -> Timestamp {
    let of_step = watch.since.as_ref().and_then(|id| turn.run.step(id)).and_then(|step| step.started_at);
    of_step.or(started).unwrap_or(turn.run.created_at)
}

fn check_of<'a>(turn: &Turn<'a>, key: &str) -> Option<&'a WatchCheck> {
    match &turn.definition(key)?.kind {
        Kind::Watch(watch) => watch.check.as_ref(),
        _ => None,
    }
}

fn update(
    turn: &mut Turn<'_>,
    key: &str,
    change: impl FnOnce(&mut Option<Timestamp>, &mut Option<u32>, &mut u32, &mut u32),
) {
    if let Some(step) = turn.run.step_mut(key)
        && let StepState::Watching { check, checking, checks, unhealthy, .. } = &mut step.state
    {
        change(check, checking, checks, unhealthy);
    }
}
