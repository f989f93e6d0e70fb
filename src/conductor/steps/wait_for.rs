//! `wait_for`: waits for an event. Events since the run began count, so a fast callback is never missed; one event satisfies at most one
//! wait of a run. `or_poll` asks for the same thing again and again: whichever comes first.

use serde_json::json;

use crate::conductor::advance::{Turn, broken};
use crate::definitions::workflow::{EventPattern, Kind, Poll, Step as Definition, WaitFor};
use crate::expr::Failure;
use crate::model::step::StepState;
use crate::model::{ErrorKind, Event, Outcome, RunError, Span, StepStatus, Timestamp};

use super::action;

const DEFAULT_TIMEOUT: Span = Span::days(7);

pub(in crate::conductor) fn start(turn: &mut Turn<'_>, definition: &Definition, wait: &WaitFor) {
    let span = wait.timeout.or(definition.timeout).unwrap_or(DEFAULT_TIMEOUT);
    let now = turn.world.now;
    let poll = wait.poll.as_ref().map(|_| now);
    turn.set(&definition.id, StepState::WaitingFor { expires_at: now.plus(span), poll, polling: None });
    if poll.is_some() {
        tick(turn, &definition.id); // The first poll is at once.
    }
}

/// Time passed: the wait is over, or a poll falls due.
pub(in crate::conductor) fn tick(turn: &mut Turn<'_>, key: &str) {
    let Some(StepState::WaitingFor { expires_at, poll, polling }) =
        turn.run.step(key).map(|step| step.state.clone())
    else {
        return;
    };
    let now = turn.world.now;
    if expires_at <= now {
        return expired(turn, key);
    }
    if polling.is_none() && !turn.starts_nothing() && poll.is_some_and(|at| at <= now) {
        begin_poll(turn, key);
    }
}

fn begin_poll(turn: &mut Turn<'_>, key: &str) {
    let Some(poll) = poll_of(turn, key) else { return };
    let Some(action) = turn.world.definitions.actions.get(&poll.call.run).cloned() else {
        let error = RunError::failed(format!("there is no action `{}` in this revision", poll.call.run));
        return turn.fail(key, StepStatus::Failed, error);
    };
    match action::dispatch(turn, key, &poll.call, &action) {
        Ok(number) => set_poll(turn, key, None, Some(number)),
        Err(error) => turn.fail(key, StepStatus::Failed, error),
    }
}

/// A poll's outcome came. One that failed says nothing about what is waited for; it is shown on the step.
pub(in crate::conductor) fn polled(turn: &mut Turn<'_>, key: &str, outcome: &Outcome) {
    let (Some(poll), Some(definition)) = (poll_of(turn, key), turn.definition(key)) else { return };
    let next = turn.world.now.plus(poll.every);
    set_poll(turn, key, Some(next), None);
    let output = match outcome {
        Outcome::Succeeded { output } => output,
        Outcome::Failed { error, .. } => {
            if let Some(step) = turn.run.step_mut(key) {
                step.note = Some(format!("a poll failed: {error}"));
            }
            return;
        }
    };
    let scope = turn.scope_for(key).with("output", output.clone());
    match turn.world.definitions.expr.condition(&poll.until, &scope) {
        Ok(true) => turn.succeed(key, json!({"by": "poll", "output": output})),
        Ok(false) => (),
        Err(failure) => {
            let error = broken(definition, "until", &failure);
            turn.fail(key, StepStatus::Failed, error);
        }
    }
}

fn poll_of<'a>(turn: &Turn<'a>, key: &str) -> Option<&'a Poll> {
    match &turn.definition(key)?.kind {
        Kind::WaitFor(wait) => wait.poll.as_ref(),
        _ => None,
    }
}

fn set_poll(turn: &mut Turn<'_>, key: &str, at: Option<Timestamp>, number: Option<u32>) {
    if let Some(step) = turn.run.step_mut(key)
        && let StepState::WaitingFor { poll, polling, .. } = &mut step.state
    {
        (*poll, *polling) = (at, number);
    }
}

/// The wait ends: so does the poll that is at work.
fn end_poll(turn: &mut Turn<'_>, key: &str) {
    let Some(step) = turn.run.step(key) else { return };
    if let Some(number) = step.state.attempt() {
        turn.cancel_attempt(key, step.visit, number);
    }
}

pub(in crate::conductor) fn event_came(turn: &mut Turn<'_>, event: &Event) {
    let workflow = turn.world.workflow;
    if turn.run.taken.contains(&event.id) {
        return;
    }
    for definition in workflow.steps.iter().chain(&workflow.on_failure).chain(&workflow.finally) {
        let Kind::WaitFor(wait) = &definition.kind else { continue };
        let waits = turn
            .run
            .step(&definition.id)
            .is_some_and(|step| matches!(step.state, StepState::WaitingFor { .. }));
        if !waits || event.received_at < turn.run.created_at {
            continue;
        }
        match meets(turn, &definition.id, &wait.event, event) {
            Ok(false) => (),
            Ok(true) => {
                turn.run.taken.push(event.id);
                end_poll(turn, &definition.id);
                let output = json!({"by": "event", "event": *event.payload, "id": event.id});
                return turn.succeed(&definition.id, output);
            }
            Err(failure) => remark(turn, &definition.id, event, &failure),
        }
    }
}

fn expired(turn: &mut Turn<'_>, key: &str) {
    let Some(Kind::WaitFor(wait)) = turn.definition(key).map(|definition| &definition.kind) else { return };
    end_poll(turn, key);
    if wait.continue_on_timeout {
        return turn.succeed(key, json!({"by": "timeout"}));
    }
    let error = RunError::new(ErrorKind::TimedOut, format!("no {} came in time", wait.event.trigger));
    turn.fail(key, StepStatus::TimedOut, error);
}

/// Whether the event is of the pattern's trigger and its `when` says yes.
pub(super) fn meets(
    turn: &Turn<'_>,
    key: &str,
    pattern: &EventPattern,
    event: &Event,
) -> Result<bool, Failure> {
    if pattern.trigger != event.trigger {
        return Ok(false);
    }
    let Some(when) = &pattern.when else { return Ok(true) };
    let scope = turn.scope_for(key).with("event", std::sync::Arc::clone(&event.payload));
    turn.world.definitions.expr.condition(when, &scope)
}

/// An error in `when` is no match, shown on the step.
pub(super) fn remark(turn: &mut Turn<'_>, key: &str, event: &Event, failure: &Failure) {
    if let Some(step) = turn.run.step_mut(key) {
        step.note = Some(format!("`when` failed on event {}: {}", event.id, failure.message));
    }
}
