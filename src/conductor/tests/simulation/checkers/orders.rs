//! What comes after what, and what people's verbs do.

use super::{Part, Seen, Verdict, all, each, holds, is_item};
use crate::conductor::{Effect, Input};
use crate::model::run::Phase;
use crate::model::step::StepState;
use crate::model::{ErrorKind, RunStatus, StepStatus};

/// Steps, undo, `on_failure`, `finally`: each begins when what comes before it has ended, and none comes twice.
pub(super) fn phases_in_order(seen: &Seen<'_>) -> Verdict {
    let (was, is) = (seen.before.phase, seen.after.phase);
    holds(is >= was, || format!("from {was:?} back to {is:?}"))?;
    let rank = |part| match part {
        Part::Main => 0,
        Part::Undo => 1,
        Part::OnFailure => 2,
        Part::Finally => 3,
    };
    each(seen.started(), |key| {
        let mine = rank(seen.part(&key));
        let unfinished =
            all(seen.after).find(|(other, step)| rank(seen.part(other)) < mine && !step.has_ended());
        holds(unfinished.is_none(), || {
            format!("{key} began before {:?} had ended", unfinished.map(|(key, _)| key))
        })?;
        let phase = [Phase::Steps, Phase::Undo, Phase::OnFailure, Phase::Finally][mine];
        holds(seen.before.phase <= phase, || format!("{key} began in {was:?}"))
    })
}

/// `on_failure` runs, once, when a run failed, and not after a refusal or a cancel.
pub(super) fn on_failure_is_for_failures(seen: &Seen<'_>) -> Verdict {
    let Some(first) = seen.workflow.on_failure.first() else { return Ok(()) };
    let count =
        seen.outside.works.iter().filter(|work| work.of == first.id && work.attempt.key.number == 1).count();
    let is_due =
        seen.after.status == RunStatus::Failed && seen.after.rollback_of.is_none() && !seen.outside.refused;
    if seen.became_final() && is_due {
        return holds(count == 1, || format!("a run failed and {} ran {count} times", first.id));
    }
    let begun = seen.begun().any(|(key, _)| key == first.id);
    let fails = seen.after.verdict == Some(RunStatus::Failed) && seen.after.status != RunStatus::Rejected;
    let timed_out = seen.after.error.as_ref().is_some_and(|error| error.kind == ErrorKind::TimedOut);
    let rejected =
        seen.was_rejected(seen.after) && !seen.has_failed(seen.after) && !timed_out && !seen.outside.refused;
    holds(!begun || (fails && !rejected), || format!("{} began and the run did not fail", first.id))
}

/// `finally` runs, once, whatever came of the run; only a second cancel keeps it from it.
pub(super) fn finally_runs_once(seen: &Seen<'_>) -> Verdict {
    let Some(first) = seen.workflow.finally.first() else { return Ok(()) };
    let of_first = |key: &str| key == first.id;
    let works = seen.outside.works.iter().filter(|work| of_first(&work.of) && work.attempt.key.number == 1);
    let children = seen.outside.children.iter().filter(|child| of_first(&child.step));
    let count = works.count() + children.count();
    holds(count <= 1, || format!("{} ran {count} times", first.id))?;
    let is_due = seen.became_final()
        && seen.after.rollback_of.is_none()
        && seen.cancels() < 2
        && !seen.outside.refused;
    holds(!is_due || count == 1, || format!("the run ended without {}", first.id))
}

/// History tells what happens when it happens: a run's start first, its end last and once, and of each step its start and how it ended.
pub(super) fn history_is_in_order(seen: &Seen<'_>) -> Verdict {
    let notes: Vec<_> = seen.outside.notes.iter().filter(|(_, turn)| *turn == seen.outside.turn).collect();
    each(&notes, |(entry, _)| holds(entry.at == seen.now, || format!("{} at {}", entry.what, entry.at)))?;
    let of_steps = seen.outside.notes.iter().position(|(entry, _)| entry.step.is_some());
    let started = seen.outside.notes.iter().position(|(entry, _)| entry.what == "run.started");
    let in_order = seen.after.started_at.is_none() || of_steps.is_none() || started < of_steps;
    // One that never began may have its end before its start, which comes late.
    let never = seen.outside.refused || seen.outside.superseded || seen.cancels() > 0;
    holds(in_order || never, || "a step is told of before the run's start".to_owned())?;
    // `run.cancelled` also says that somebody asked for it.
    let ends = seen.outside.notes.iter().filter(|(entry, _)| is_end(&entry.what)).count();
    let final_now = usize::from(seen.after.status.is_final());
    let due = final_now + seen.cancels();
    holds(ends == due, || format!("it is {} and an end was told {ends} times", seen.after.status))?;
    let last = seen.outside.notes.last().map(|(entry, _)| entry.what.as_str());
    let right = last.is_none_or(|last| last == format!("run.{}", seen.after.status));
    holds(final_now == 0 || right, || format!("it is {}, and {last:?} was told last", seen.after.status))?;
    let told = |key: &str, what: &str| {
        let (kind, id) = match key.strip_suffix("/undo") {
            Some(id) => ("undo", id),
            None => ("step", key),
        };
        let line = format!("{kind}.{what}");
        notes.iter().any(|(entry, _)| entry.what == line && entry.step.as_deref() == Some(id))
    };
    each(seen.begun().filter(|(key, _)| !is_item(key)), |(key, _)| {
        holds(told(&key, "started"), || format!("{key} began silently"))
    })?;
    each(all(seen.after), |(key, step)| {
        let ended = step.has_ended()
            && step.order > 0
            && seen.before.step(&key).is_some_and(|step| !step.has_ended());
        let what = step.status().as_str();
        // Thousands of items that went well would drown the history.
        let ended = ended && (!is_item(&key) || what != "succeeded");
        holds(!ended || told(&key, what), || format!("{key} ended {what} silently"))
    })
}

fn is_end(what: &str) -> bool {
    what.strip_prefix("run.").and_then(RunStatus::parse).is_some_and(RunStatus::is_final)
}

/// Every start has its own place in the order of starts.
pub(super) fn starts_are_numbered(seen: &Seen<'_>) -> Verdict {
    let newest = all(seen.before).map(|(_, step)| step.order).max().unwrap_or(0);
    let mut known = std::collections::BTreeSet::new();
    each(seen.begun(), |(key, step)| {
        holds(step.order > newest && known.insert(step.order), || {
            format!("{key} is start number {}", step.order)
        })
    })
}

/// A cancel asks everything in flight to end and ends what only waits. The first one leaves `finally` alone.
pub(super) fn cancel_ends_all(seen: &Seen<'_>) -> Verdict {
    let Input::CancelAsked { .. } = seen.input else { return Ok(()) };
    let goes_on = seen.before.phase == Phase::Finally && seen.cancels() < 2;
    if seen.before.status.is_final() || goes_on {
        return Ok(());
    }
    let now = seen.outside.turn;
    each(seen.outside.open_works().filter(|work| work.dispatched.0 < now), |work| {
        holds(work.told, || format!("{} was left at work", work.attempt.key))
    })?;
    each(seen.outside.open_children().filter(|child| child.began < now), |child| {
        holds(child.told, || format!("run {} of {} was left at work", child.run, child.step))
    })?;
    each(all(seen.after), |(key, step)| {
        let begun_now = seen.before.step(&key).is_none_or(|before| before.visit < step.visit);
        let may = match step.state {
            StepState::Pending => seen.part(&key) != Part::Main || !seen.after.status.is_final(),
            StepState::Attempting { .. } | StepState::Child { .. } | StepState::Ended(_) => true,
            StepState::Each(_) | StepState::Open { .. } => true,
            _ => begun_now,
        };
        holds(may, || format!("{key} still is {}", step.status()))
    })
}

/// What people ask of a run happens to it, and is seen of it.
pub(super) fn verbs_take_effect(seen: &Seen<'_>) -> Verdict {
    if seen.after.status.is_final() {
        return Ok(());
    }
    let paused = seen.outside.paused;
    holds(seen.after.paused == paused, || format!("it should be paused: {paused}"))?;
    let shown = seen.after.status == RunStatus::Paused;
    holds(shown == paused, || format!("it is {} and paused: {paused}", seen.after.status))?;
    let cancelled = seen.cancels() > 0;
    let heard = seen.after.verdict == Some(RunStatus::Cancelled) && seen.after.cancelled_by.is_some();
    holds(!cancelled || heard, || "nobody heard the cancel".to_owned())
}

/// Children are paused and resumed with their run, until they are asked to end.
pub(super) fn children_follow(seen: &Seen<'_>) -> Verdict {
    each(&seen.outside.unknown, |what| Err(format!("{what} was told something and never began")))?;
    if seen.after.status.is_final() {
        return Ok(());
    }
    each(seen.outside.open_children().filter(|child| !child.told), |child| {
        holds(child.paused == seen.after.paused, || {
            format!("run {} is paused: {}, and its parent: {}", child.run, child.paused, seen.after.paused)
        })
    })?;
    let unforced = seen.outside.open_children().find(|child| {
        seen.outside.forced
            && !child.forced
            && !child.told
            && child.began < seen.outside.turn
            && seen.before.forced.is_none()
    });
    holds(unforced.is_none(), || format!("{:?} was not forced", unforced.map(|child| child.run)))?;
    // Told once is enough.
    let twice = seen.effects.iter().enumerate().find(|(index, effect)| {
        matches!(effect, Effect::CancelChild { .. }) && seen.effects[..*index].contains(effect)
    });
    holds(twice.is_none(), || format!("{twice:?} is said twice"))?;
    let skipped =
        all(seen.after).find(|(_, step)| step.status() == StepStatus::Skipped && step.child.is_some());
    holds(skipped.is_none(), || format!("{:?} was skipped and had a child", skipped.map(|(key, _)| key)))
}
