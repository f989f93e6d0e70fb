//! What keeps a step from starting although it could, and a run from going on.

use super::super::random::is_open;
use super::{Part, Seen, Verdict, all, each, holds, is_item};
use crate::conductor::Input;
use crate::model::run::Phase;
use crate::model::step::StepState;
use crate::model::{RunStatus, Step};

/// A step that reads begins with the values that came for it.
pub(super) fn values_are_read_first(seen: &Seen<'_>) -> Verdict {
    each(seen.begun().filter(|(key, _)| seen.part(key) != Part::Undo && !is_item(key)), |(key, step)| {
        let Some(definition) = seen.definition(&key).filter(|step| !step.read.is_empty()) else {
            return Ok(());
        };
        let answered =
            seen.outside.reads.iter().any(|reading| reading.step == key && reading.answered.is_some());
        let bound = definition.read.iter().all(|(name, _)| step.bound[name] == "a/key");
        holds(answered && bound, || format!("{key} began with {}", *step.bound))
    })
}

/// Who is held starts no attempt in its main steps, whatever for; nobody forces it.
pub(super) fn a_hold_starts_nothing(seen: &Seen<'_>) -> Verdict {
    if seen.holds.on(Some("shop")).is_none() {
        return Ok(());
    }
    each(seen.dispatched().filter(|work| seen.is_gated(&work.of)), |work| {
        Err(format!("{} was dispatched, and its app is held", work.attempt.key))
    })
}

/// A step with a window begins while that is open.
pub(super) fn windows_are_respected(seen: &Seen<'_>) -> Verdict {
    if is_open(seen.now) {
        return Ok(());
    }
    each(seen.begun().filter(|(key, _)| seen.is_gated(key) && !is_item(key)), |(key, _)| {
        let has_window = seen.definition(&key).is_some_and(|definition| definition.window.is_some());
        holds(!has_window, || format!("{key} began outside of its window"))
    })
}

/// Undo, `on_failure` and `finally` wait for no hold and no window.
pub(super) fn undos_pass_holds(seen: &Seen<'_>) -> Verdict {
    let waits = |state: &StepState| matches!(state, StepState::Held { .. } | StepState::Closed { .. });
    let mut waiting =
        all(seen.after).filter(|(key, step)| seen.part(key) != Part::Main && waits(&step.state));
    let waiting = waiting.next().map(|(key, _)| key);
    holds(waiting.is_none(), || format!("{waiting:?} waits for a hold or a window"))?;
    let held = seen.after.phase != Phase::Steps && seen.after.held.is_some();
    holds(!held, || "it is held, and is past what can be".to_owned())
}

/// A run whose place a younger one wants gives it up as soon as it only waits, and not before.
pub(super) fn the_young_supersede_who_waits(seen: &Seen<'_>) -> Verdict {
    let is_over = seen.after.verdict == Some(RunStatus::Superseded);
    if is_over && seen.before.verdict.is_none() {
        let work = seen.outside.open_works().find(|work| !work.told).map(|work| work.attempt.key.to_string());
        // What begins now is for `finally`.
        let is_new = seen.dispatched().any(|new| seen.part(&new.of) == Part::Finally);
        return holds(work.is_none() || is_new, || format!("it gave way, and {work:?} was at work"));
    }
    let may =
        seen.after.phase == Phase::Steps && seen.after.verdict.is_none() && seen.after.started_at.is_some();
    if !seen.outside.superseded || !may {
        return Ok(());
    }
    let at_work: Vec<&Step> = seen
        .after
        .steps
        .values()
        .filter(|step| !step.has_ended() && step.state != StepState::Pending)
        .collect();
    let waits = |step: &&Step| match &step.state {
        StepState::Approving { .. } | StepState::Sleeping { .. } | StepState::Open { .. } => true,
        StepState::WaitingFor { .. } | StepState::Watching { .. } => step.state.attempt().is_none(),
        _ => false,
    };
    let only_waits = !at_work.is_empty() && at_work.iter().all(waits);
    holds(!only_waits, || "it only waits, and a younger run wants its place".to_owned())
}

/// A superseded run does nothing but its `finally`.
pub(super) fn superseded_starts_nothing(seen: &Seen<'_>) -> Verdict {
    if seen.after.verdict != Some(RunStatus::Superseded) {
        return Ok(());
    }
    let since = seen.before.verdict == Some(RunStatus::Superseded);
    each(seen.started().into_iter().filter(|key| since || seen.part(key) != Part::Main), |key| {
        holds(seen.part(&key) == Part::Finally, || format!("{key} began in a superseded run"))
    })?;
    holds(seen.after.undos.is_empty() || seen.after.rollback_of.is_some(), || {
        "a superseded run undoes".to_owned()
    })
}

/// A run that may not begin does nothing at all, not even what tells of failures.
pub(super) fn refused_never_begins(seen: &Seen<'_>) -> Verdict {
    let refused = matches!(seen.input, Input::Refused { .. }) && seen.before.started_at.is_none();
    let goes_on = refused && seen.before.verdict.is_none() && !seen.after.status.is_final();
    holds(!goes_on, || "it was refused, and goes on".to_owned())?;
    let ended = seen.outside.refused && seen.after.started_at.is_none() && seen.cancels() == 0;
    each(seen.started().into_iter().filter(|_| ended && !seen.outside.superseded), |key| {
        Err(format!("{key} began in a run that was refused"))
    })
}
