//! How things end, and that they have.

use super::{Seen, Verdict, all, each, holds, is_run};
use crate::conductor::{Effect, Input, wakes_at};
use crate::model::run::Phase;
use crate::model::step::StepState;
use crate::model::{ErrorKind, Outcome, RunStatus, StepStatus};

use super::super::world::is_to_end;

/// An input that comes late, twice or for something that the run does not do changes nothing and causes nothing.
pub(super) fn stale_inputs_change_nothing(seen: &Seen<'_>) -> Verdict {
    // What is due by now happens with whatever comes.
    let is_due = wakes_at(seen.before).is_some_and(|at| at <= seen.now) || seen.holds_moved;
    if is_due || !is_stale(seen) {
        return Ok(());
    }
    holds(seen.effects.is_empty(), || format!("it caused {:?}", seen.effects))?;
    holds(seen.before == seen.after, || "it changed the run".to_owned())
}

fn is_stale(seen: &Seen<'_>) -> bool {
    let now = seen.outside.turn;
    let earlier = |turn: Option<u32>| turn.is_some_and(|turn| turn < now);
    let outside = seen.outside;
    match seen.input {
        Input::Started => seen.before.started_at.is_some(),
        Input::AttemptReported { key, .. } | Input::AttemptFinished { key, .. } => {
            let work = outside.by_key.get(key).map(|index| &outside.works[*index]);
            work.is_none_or(|work| earlier(work.ended.as_ref().map(|(turn, _, _)| *turn)))
        }
        Input::Approved { step, .. } | Input::Rejected { step, .. } => {
            outside.asked.iter().filter(|asked| asked.step == *step).all(|asked| earlier(asked.settled))
        }
        Input::ChildEnded { run, .. } => {
            outside.children.iter().find(|child| child.run == *run).is_none_or(|child| earlier(child.ended))
        }
        Input::LockTaken { step } => outside
            .places
            .iter()
            .filter(|place| place.step == *step)
            .all(|place| earlier(place.freed) || earlier(place.granted)),
        Input::TimePassed => wakes_at(seen.before).is_none_or(|at| at > seen.now),
        // A watch may hear what a wait took.
        Input::EventCame { event } => {
            let watches = |step: &crate::model::Step| matches!(step.state, StepState::Watching { .. });
            seen.before.taken.contains(&event.id) && !seen.before.steps.values().any(watches)
        }
        Input::ValuesRead { step, .. } => outside
            .reads
            .iter()
            .filter(|reading| reading.step == *step)
            .all(|reading| earlier(reading.answered)),
        Input::HoldsChanged => true,
        Input::Refused { .. } => seen.before.started_at.is_some() || seen.before.verdict.is_some(),
        Input::NothingToUndo { .. }
        | Input::Superseded { .. }
        | Input::ForceAsked { .. }
        | Input::CancelAsked { .. }
        | Input::PauseAsked { .. }
        | Input::ResumeAsked { .. } => false,
    }
}

/// Nothing changes in a run that has ended, and nothing comes of it.
pub(super) fn final_is_final(seen: &Seen<'_>) -> Verdict {
    if !seen.before.status.is_final() {
        return Ok(());
    }
    holds(seen.before == seen.after, || "it changed after its end".to_owned())?;
    holds(seen.effects.is_empty(), || format!("after its end came {:?}", seen.effects))
}

/// When a run has ended, everything in it has: no attempt and no child that was not asked to end, no question, no lock, no timer.
pub(super) fn ends_completely(seen: &Seen<'_>) -> Verdict {
    let (status, phase) = (seen.after.status, seen.after.phase);
    holds(status.is_final() == (phase == Phase::Ended), || format!("{status} in {phase:?}"))?;
    holds(status.is_final() == seen.after.finished_at.is_some(), || format!("{status}, but not quite"))?;
    if !status.is_final() {
        return Ok(());
    }
    each(all(seen.after), |(key, step)| holds(step.has_ended(), || format!("{key} is {}", step.status())))?;
    let at_work = seen.outside.open_works().find(|work| !work.told).map(|work| work.attempt.key.to_string());
    holds(at_work.is_none(), || format!("{at_work:?} is at work"))?;
    let child = seen.outside.open_children().next().map(|child| child.run);
    holds(child.is_none(), || format!("{child:?} goes on"))?;
    let asked = seen.outside.open_questions().next().map(|asked| &asked.step);
    holds(asked.is_none(), || format!("{asked:?} still asks"))?;
    let place = seen.outside.open_places().next().map(|place| &place.step);
    holds(place.is_none(), || format!("{place:?} still has or wants its lock"))?;
    holds(wakes_at(seen.after).is_none(), || "it wakes after its end".to_owned())
}

/// How a run ended is what its steps and people say: each status for its reason and for no other.
pub(super) fn verdict_is_deserved(seen: &Seen<'_>) -> Verdict {
    if !seen.became_final() {
        return Ok(());
    }
    let (status, error) = (seen.after.status, seen.after.error.as_ref());
    let cancelled = seen.cancels() > 0;
    holds(cancelled == (status == RunStatus::Cancelled), || {
        format!("it ended {status}, and was cancelled: {cancelled}")
    })?;
    if cancelled {
        return holds(error.is_some(), || "it was cancelled and does not say by whom".to_owned());
    }
    if seen.after.rollback_of.is_some() {
        let all_done = seen.after.undos.values().all(|undo| !undo.status().is_failure());
        return holds((status == RunStatus::Succeeded) == all_done, || format!("it ended {status}"));
    }
    let (failed, rejected) = (seen.has_failed(seen.after), seen.was_rejected(seen.after));
    let timed_out = error.is_some_and(|error| error.kind == ErrorKind::TimedOut);
    let of_output = error.is_some_and(|error| error.message.contains("`output`"));
    let deserved = match status {
        RunStatus::Succeeded => !failed && !rejected && error.is_none(),
        RunStatus::Failed => failed || timed_out || of_output || seen.outside.refused,
        RunStatus::Rejected => rejected,
        RunStatus::Superseded => seen.outside.superseded,
        _ => false,
    };
    holds(deserved, || format!("it ended {status}: steps failed {failed}, rejected {rejected}, {error:?}"))
}

/// What an attempt gave is its step's output, and stays.
pub(super) fn outputs_are_kept(seen: &Seen<'_>) -> Verdict {
    each(all(seen.after), |(key, step)| {
        let Some(before) = seen.before.step(&key) else { return Ok(()) };
        let stays = before.status() != StepStatus::Succeeded
            || !seen.is_same_visit(&key)
            || before.output == step.output;
        holds(stays, || format!("the output of {key} was {} and is {}", *before.output, *step.output))
    })?;
    let Input::AttemptFinished { key, outcome: Outcome::Succeeded { output }, .. } = seen.input else {
        return Ok(());
    };
    let plain = seen
        .definition(&key.step)
        .is_some_and(|definition| is_run(definition) && definition.repeat.is_none());
    let (Some(before), Some(after)) = (seen.before.step(&key.step_key()), seen.after.step(&key.step_key()))
    else {
        return Ok(());
    };
    if !plain || !before.is_doing(key) || !seen.is_same_visit(&key.step_key()) {
        return Ok(());
    }
    let gave = after.output == *output && after.status() == StepStatus::Succeeded;
    holds(gave, || format!("{} gave {output}, and is {} with {}", key, after.status(), *after.output))
}

/// The run that waits for this one is told once, when it has ended, and how.
pub(super) fn parent_is_told_once(seen: &Seen<'_>) -> Verdict {
    let told = &seen.outside.told_parent;
    let due = usize::from(seen.after.status.is_final() && seen.after.parent.is_some());
    holds(told.len() == due, || {
        format!("its parent was told {} times, and it is {}", told.len(), seen.after.status)
    })?;
    each(told, |told| {
        let right = told.status == seen.after.status && Some(&told.parent) == seen.after.parent.as_ref();
        holds(right, || format!("its parent was told {}, and it is {}", told.status, seen.after.status))
    })
}

/// A process that has only what is stored decides as the one that died would have: the same run, the same effects.
pub(super) fn a_restart_decides_the_same(seen: &Seen<'_>) -> Verdict {
    let Some(again) = seen.again else { return Ok(()) };
    let ((run, effects), (other_run, other_effects)) = (&again.first, &again.second);
    let shown = |effects: &[Effect]| {
        effects.iter().map(|effect| format!("{effect:?}")).collect::<Vec<_>>().join("\n")
    };
    holds(effects == other_effects, || {
        format!("{}\nand after a restart\n{}", shown(effects), shown(other_effects))
    })?;
    holds(run == other_run, || format!("{run:#?}\nand after a restart\n{other_run:#?}"))
}

/// Which attempts are to end can be told from the run alone: the order to end one may get lost with the process.
pub(super) fn what_is_to_end_is_stored(seen: &Seen<'_>) -> Verdict {
    each(seen.outside.open_works(), |work| {
        let stored = is_to_end(seen.after, work);
        holds(stored == work.told, || {
            format!("{} was asked to end: {}; by the run: {stored}", work.attempt.key, work.told)
        })
    })
}
