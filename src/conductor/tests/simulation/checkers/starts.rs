//! What may start, and how often.

use super::{Part, Seen, Verdict, each, holds, id_of, is_item, is_run};
use crate::conductor::{Effect, MAX_LOST};
use crate::definitions::workflow::{Kind, StartOn, Step as Definition};
use crate::model::run::UNDO_SUFFIX;
use crate::model::{ErrorKind, Outcome, RunStatus, StepStatus};

use super::super::world::Work;

/// An attempt's key is dispatched once.
pub(super) fn dispatched_once(seen: &Seen<'_>) -> Verdict {
    each(&seen.outside.doubled, |key| Err(format!("attempt {key} was dispatched twice")))
}

/// No attempt begins beside another of its step that was not asked to end.
pub(super) fn one_attempt_at_a_time(seen: &Seen<'_>) -> Verdict {
    each(seen.dispatched(), |work| {
        let beside = |other: &&Work| {
            other.is_open() && other.of == work.of && !other.told && other.attempt.key != work.attempt.key
        };
        let beside = seen.outside.works.iter().find(beside);
        holds(beside.is_none(), || format!("{} began beside another attempt of its step", work.attempt.key))
    })
}

fn kind_of(work: &Work) -> Option<ErrorKind> {
    match &work.ended.as_ref()?.2 {
        Outcome::Succeeded { .. } => None,
        Outcome::Failed { error, .. } => Some(error.kind),
    }
}

/// Whether the attempt is of a step's own action, or of an undo: no check and no poll.
fn is_own(seen: &Seen<'_>, work: &Work) -> bool {
    work.of.ends_with(UNDO_SUFFIX) || seen.definition(&work.of).is_some_and(is_run)
}

fn retry_of(seen: &Seen<'_>, work: &Work) -> crate::model::retry::Retry {
    match seen.definition(&work.of) {
        Some(definition) if !work.of.ends_with(UNDO_SUFFIX) => definition.retry,
        _ => Default::default(),
    }
}

/// An attempt whose worker died begins again only when its action is idempotent, at most so often, or when the step's `retry` says so.
pub(super) fn lost_is_not_repeated(seen: &Seen<'_>) -> Verdict {
    each(seen.dispatched().filter(|work| is_own(seen, work)), |work| {
        let earlier = seen.earlier(work);
        if earlier.last().and_then(|last| kind_of(last)) != Some(ErrorKind::Lost) {
            return Ok(());
        }
        let lost = earlier.iter().filter(|work| kind_of(work) == Some(ErrorKind::Lost)).count();
        let by_itself = work.attempt.idempotent && lost <= MAX_LOST as usize;
        holds(by_itself || retry_of(seen, work).lost, || {
            format!("{} was lost and began again", work.attempt.key)
        })
    })
}

/// A step has no more attempts than `retry` says, those not counted that were lost and are idempotent, and repetitions.
pub(super) fn retries_are_counted(seen: &Seen<'_>) -> Verdict {
    each(seen.dispatched().filter(|work| is_own(seen, work)), |work| {
        let earlier = seen.earlier(work);
        let Some(last) = earlier.last() else { return Ok(()) };
        let free = earlier
            .iter()
            .filter(|work| work.attempt.idempotent && kind_of(work) == Some(ErrorKind::Lost))
            .count()
            .min(MAX_LOST as usize);
        let repeated = earlier.iter().filter(|work| kind_of(work).is_none()).count();
        let counted = earlier.len() + 1 - free - repeated;
        let most = retry_of(seen, work).attempts as usize;
        holds(counted <= most.max(1), || format!("{} is attempt {counted} of {most}", work.attempt.key))?;
        let covered =
            matches!(kind_of(last), None | Some(ErrorKind::Failed | ErrorKind::TimedOut | ErrorKind::Lost));
        holds(covered, || format!("{} began after one that ended {:?}", work.attempt.key, kind_of(last)))
    })
}

/// A retry does not begin before its delay is over.
pub(super) fn retries_wait(seen: &Seen<'_>) -> Verdict {
    each(seen.dispatched().filter(|work| is_own(seen, work)), |work| {
        let earlier = seen.earlier(work);
        let Some(last) = earlier.last() else { return Ok(()) };
        let Some((_, at, _)) = &last.ended else { return Ok(()) };
        let waited = seen.now >= at.plus(retry_of(seen, work).delay);
        let failed = matches!(kind_of(last), Some(ErrorKind::Failed | ErrorKind::TimedOut));
        holds(!failed || waited, || format!("{} began before its delay was over", work.attempt.key))
    })
}

/// A step begins once all that it needs has ended as it needs it.
pub(super) fn needs_are_met(seen: &Seen<'_>) -> Verdict {
    each(seen.begun().filter(|(key, _)| seen.part(key) != Part::Undo), |(key, _)| {
        let Some(definition) = seen.definition(&key) else { return Ok(()) };
        let mut failed = false;
        for need in &definition.needs {
            let status = seen.after.steps[need].status();
            let ended = seen.after.steps[need].has_ended();
            holds(ended, || format!("{key} began, and {need} is {status}"))?;
            let forgiven = seen.definition(need).is_some_and(|need| need.continue_on_failure);
            failed |= status == StepStatus::NotStarted || (status.is_failure() && !forgiven);
        }
        let fits = match definition.start_on {
            StartOn::Success => !failed,
            StartOn::Failure => failed,
            StartOn::Finished => true,
        };
        holds(fits, || {
            format!("{key} began, on {:?}, and what it needs failed: {failed}", definition.start_on)
        })
    })
}

/// A step whose `when` is false never begins.
pub(super) fn skipped_never_begins(seen: &Seen<'_>) -> Verdict {
    each(seen.begun(), |(key, _)| {
        let when = seen.definition(&key).and_then(|definition| definition.when.as_ref());
        let never = when.is_some_and(|when| when.source().trim() == "false");
        holds(!never, || format!("{key} began"))
    })
}

/// After a failure nothing of the main steps starts but what is for it, no retry either; after a refusal only what starts on anything.
pub(super) fn nothing_starts_after_a_failure(seen: &Seen<'_>) -> Verdict {
    let timed_out = seen.before.verdict == Some(RunStatus::Failed);
    let (failed, rejected) = (timed_out || seen.has_failed(seen.before), seen.was_rejected(seen.before));
    if !failed && !rejected {
        return Ok(());
    }
    let is_for_it = |definition: &Definition| match definition.start_on {
        StartOn::Finished => true,
        StartOn::Failure => failed,
        StartOn::Success => false,
    };
    let may = |key: &str| {
        let Some(definition) = seen.definition(key) else { return false };
        is_for_it(definition) || seen.groups(definition).into_iter().any(is_for_it)
    };
    let main = |key: &str| seen.part(key) == Part::Main;
    let again = |work: &Work| is_own(seen, work) && !seen.earlier(work).is_empty();
    each(seen.ordered().into_iter().filter(|key| main(key)), |key| {
        holds(may(&key), || format!("{key} started"))
    })?;
    each(seen.dispatched().filter(|work| main(&work.of)), |work| {
        holds(!again(work), || format!("{} is a retry", work.attempt.key))
    })?;
    each(seen.begun().filter(|(key, _)| main(key)), |(key, _)| holds(may(&key), || format!("{key} began")))
}

/// After a cancel nothing starts but `finally`, and after a second one not that.
pub(super) fn nothing_starts_after_a_cancel(seen: &Seen<'_>) -> Verdict {
    let (now, cancels) = (seen.outside.turn, seen.cancels());
    if cancels == 0 {
        return Ok(());
    }
    // A second cancel in the phase before `finally`, or in it, ends that too.
    let may = |key: &str| seen.part(key) == Part::Finally && cancels < 2;
    each(seen.ordered(), |key| {
        holds(may(&key), || format!("{key} was started after a cancel, in turn {now}"))
    })?;
    each(seen.begun(), |(key, _)| holds(may(&key), || format!("{key} began after a cancel, in turn {now}")))
}

/// A paused run starts nothing.
pub(super) fn pause_starts_nothing(seen: &Seen<'_>) -> Verdict {
    if !seen.outside.paused {
        return Ok(());
    }
    each(seen.ordered(), |key| Err(format!("{key} was started in a paused run")))?;
    each(seen.begun(), |(key, _)| Err(format!("{key} began in a paused run")))?;
    each(seen.effects, |effect| {
        holds(!matches!(effect, Effect::Emit { .. } | Effect::TakeLock { .. }), || {
            format!("a paused run did {effect:?}")
        })
    })
}

/// No repetition may go on beyond the time for all of them.
pub(super) fn repetitions_keep_their_time(seen: &Seen<'_>) -> Verdict {
    each(seen.dispatched(), |work| {
        let definition = seen.definition(&work.of).filter(|_| seen.part(&work.of) == Part::Main);
        let Some(definition) = definition.filter(|definition| definition.repeat.is_some()) else {
            return Ok(());
        };
        let (Some(limit), Some(step)) = (definition.timeout, seen.after.step(&work.of)) else {
            return Ok(());
        };
        let end = step.started_at.unwrap_or(seen.now).plus(limit);
        let may_take = seen.now.plus(work.attempt.timeout);
        holds(may_take <= end, || format!("{} may go on until {may_take}, after {end}", work.attempt.key))
    })
}

/// Each visit of a step puts one event in.
pub(super) fn emits_once(seen: &Seen<'_>) -> Verdict {
    let mut known = std::collections::BTreeSet::new();
    each(&seen.outside.emitted, |(dedup, _)| {
        holds(known.insert(dedup), || format!("{dedup} was emitted twice"))
    })?;
    let emits = |key: &str| {
        let definition = seen.definition(key).filter(|step| matches!(step.kind, Kind::Emit { .. }));
        definition.is_some_and(|step| step.for_each.is_none() || is_item(key))
    };
    let succeeded = |(note, turn): &&(crate::conductor::Entry, u32)| {
        let plain = note.step.as_deref().is_some_and(emits);
        *turn == seen.outside.turn && note.what == "step.succeeded" && plain
    };
    let of_items = seen
        .begun()
        .filter(|(key, step)| is_item(key) && emits(key) && step.status() == StepStatus::Succeeded);
    let begun = of_items.count() + seen.outside.notes.iter().filter(succeeded).count();
    let emitted = seen.outside.emitted.iter().filter(|(_, turn)| *turn == seen.outside.turn).count();
    holds(begun == emitted, || {
        format!("{begun} steps that emit succeeded, and {emitted} events were emitted")
    })
}

/// One child at a time works for a step, and no more in a visit of it than its retries and repetitions allow.
pub(super) fn children_begin_once(seen: &Seen<'_>) -> Verdict {
    let new = seen.outside.children.iter().filter(|child| child.began == seen.outside.turn);
    each(new, |child| {
        let same = seen
            .outside
            .children
            .iter()
            .filter(|other| other.step == child.step && other.visit == child.visit);
        let open = same.clone().filter(|other| other.ended.is_none() && !other.told).count();
        holds(open < 2, || format!("{open} children work for {} at once", child.step))?;
        let own = seen.definition(&child.step).filter(|_| !child.step.ends_with(UNDO_SUFFIX));
        let is_repeated = own.is_some_and(|definition| definition.repeat.is_some());
        let most = own.map_or(1, |definition| definition.retry.attempts) as usize;
        let count = same.count();
        holds(is_repeated || count <= most, || format!("{} began {count} children of {most}", child.step))
    })
}

/// What a rerun keeps is as it was and is not done again, and nothing of it waits for something that is.
pub(super) fn kept_is_not_done_again(seen: &Seen<'_>) -> Verdict {
    let Some(old) = seen.old.filter(|_| seen.after.rerun_of.is_some()) else { return Ok(()) };
    each(seen.ordered(), |key| {
        let kept = seen.part(&key) != Part::Undo && seen.after.steps[id_of(&key)].kept_from.is_some();
        holds(!kept, || format!("{key} is kept, and was done again"))
    })?;
    each(seen.mains(seen.after).filter(|(_, step)| step.kept_from.is_some()), |(definition, step)| {
        let id = &definition.id;
        holds(step.output == old.steps[id].output, || format!("{id} was kept otherwise"))?;
        let again = definition.needs.iter().find(|need| seen.after.steps[*need].kept_from.is_none());
        holds(again.is_none(), || format!("{id} is kept, but {again:?} is done again"))
    })
}
