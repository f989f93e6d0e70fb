//! Waiting: for time, people, events, locks and other runs, and never for nothing.

use super::super::random::{ASK, DEADLINE, SLEEP, WAIT, WATCH, WATCH_FAILURES};
use super::super::world::Place;
use super::{Part, Seen, Verdict, all, each, holds, id_of, whole_of};
use crate::conductor::{Effect, Input, wakes_at};
use crate::definitions::tree::Tree;
use crate::definitions::workflow::Kind;
use crate::model::run::Phase;
use crate::model::step::StepState;
use crate::model::{Outcome, RunStatus, StepStatus};

/// A run that has not ended has something outstanding: an attempt, a child, a question, a wait, a lock, a timer, or it is paused.
pub(super) fn never_stuck(seen: &Seen<'_>) -> Verdict {
    if seen.after.status.is_final() || seen.after.paused {
        return Ok(());
    }
    let outside = seen.outside;
    let moves = outside.open_works().next().is_some()
        || outside.open_children().next().is_some()
        || outside.open_places().any(|place| place.granted.is_none())
        || !outside.inbox.is_empty()
        || !outside.at_once.is_empty()
        || outside.reads.iter().any(|reading| reading.answered.is_none())
        || seen.after.held.is_some()
        || wakes_at(seen.after).is_some();
    holds(moves, || format!("nothing will move it: {:?}", states(seen)))
}

fn states(seen: &Seen<'_>) -> Vec<String> {
    all(seen.after).map(|(key, step)| format!("{key}: {:?}", step.state)).collect()
}

/// Every step that waits, waits for something that is really under way for it.
pub(super) fn who_waits_is_served(seen: &Seen<'_>) -> Verdict {
    let outside = seen.outside;
    each(all(seen.after), |(key, step)| {
        let served = seen.after.paused
            || match &step.state {
                StepState::Attempting { number } => outside.open_works().any(|work| {
                    work.of == key
                        && work.attempt.key.number == *number
                        && work.attempt.key.visit == step.visit
                }),
                StepState::Child { run } => {
                    let nothing =
                        outside.nothing.iter().any(|undo| *undo == key) && !outside.at_once.is_empty();
                    nothing
                        || outside.open_children().any(|child| child.step == key && Some(child.run) == *run)
                }
                StepState::Locking { taken, .. } => {
                    outside.open_places().any(|place| place.step == key && place.granted.is_some() == *taken)
                }
                StepState::WaitingFor { polling: Some(number), .. }
                | StepState::Watching { checking: Some(number), .. } => {
                    outside.open_works().any(|work| work.of == key && work.attempt.key.number == *number)
                }
                StepState::Reading => {
                    outside.reads.iter().any(|reading| reading.step == key && reading.answered.is_none())
                }
                StepState::Held { .. } => {
                    seen.holds_moved || seen.after.held.is_some() || !outside.inbox.is_empty()
                }
                StepState::Open { .. } => seen.mains(seen.after).any(|(member, step)| {
                    let is_inside = member.group.as_deref() == Some(&*key);
                    is_inside && step.state != StepState::Pending && !step.has_ended()
                }),
                StepState::Each(each) => each.active > 0 || seen.after.held.is_some(),
                state => state == &StepState::Pending || step.has_ended() || state.wakes_at(false).is_some(),
            };
        holds(served, || format!("{key} is {:?} and nothing is under way for it", step.state))
    })
}

/// When time has passed, nothing that fell due is left.
pub(super) fn what_is_due_happens(seen: &Seen<'_>) -> Verdict {
    let Input::TimePassed = seen.input else { return Ok(()) };
    let next = wakes_at(seen.after);
    holds(next.is_none_or(|at| at > seen.now), || format!("at {} something of {next:?} is left", seen.now))
}

/// Sleeps, questions, waits and watches take the time that they were given, and neither less nor more.
pub(super) fn nothing_happens_early(seen: &Seen<'_>) -> Verdict {
    each(
        all(seen.after).filter(|(_, step)| step.started_at.is_some() && step.kept_from.is_none()),
        |(key, step)| {
            let Some(definition) = seen.definition(&key).filter(|_| seen.part(&key) != Part::Undo) else {
                return Ok(());
            };
            let by = step.output["by"].as_str();
            let (span, by_time) = match &definition.kind {
                Kind::Sleep(_) => (SLEEP, step.status() == StepStatus::Succeeded),
                Kind::Approve(_) => (ASK, step.status() == StepStatus::TimedOut),
                Kind::WaitFor(_) => (WAIT, step.status() == StepStatus::TimedOut || by == Some("timeout")),
                Kind::Watch(_) => (WATCH, by == Some("time")),
                _ => return Ok(()),
            };
            let (Some(started), ended) = (step.started_at, step.finished_at) else { return Ok(()) };
            let end = started.plus(span);
            if let Some(ended) = ended.filter(|_| by_time) {
                return holds(ended >= end, || format!("{key} was over at {ended}, not at {end}"));
            }
            let waits = !step.has_ended() && !matches!(definition.kind, Kind::Watch(_));
            let passed = matches!(seen.input, Input::TimePassed) && seen.now >= end;
            holds(!(waits && passed), || format!("{key} was over at {end}, and it is {}", seen.now))
        },
    )
}

/// The workflow's timeout ends its steps.
pub(super) fn deadline_ends_the_steps(seen: &Seen<'_>) -> Verdict {
    let passed = match (seen.workflow.timeout, seen.after.started_at) {
        (Some(_), Some(started)) => seen.now >= started.plus(DEADLINE),
        _ => false,
    };
    let due = matches!(seen.input, Input::TimePassed) && passed && seen.before.phase == Phase::Steps;
    if !due || seen.before.verdict.is_some() {
        return Ok(());
    }
    holds(seen.after.verdict.is_some(), || "its time is over, and it goes on".to_owned())?;
    let main = seen.outside.open_works().find(|work| {
        seen.part(&work.of) == Part::Main && !work.told && work.dispatched.0 < seen.outside.turn
    });
    holds(main.is_none(), || format!("{} goes on", main.map_or(String::new(), |work| work.of.clone())))
}

/// People are asked as long as a step waits for them, and no longer.
pub(super) fn questions_are_open_while_asked(seen: &Seen<'_>) -> Verdict {
    let mut open: Vec<&str> = seen.outside.open_questions().map(|asked| asked.step.as_str()).collect();
    let asks = |step: &crate::model::Step| matches!(step.state, StepState::Approving { .. });
    let mut asking: Vec<_> = all(seen.after).filter(|(_, step)| asks(step)).map(|(key, _)| key).collect();
    open.sort_unstable();
    asking.sort_unstable();
    holds(open == asking, || format!("{open:?} are asked, and {asking:?} wait"))
}

/// What people decide is what comes of it.
pub(super) fn answers_decide(seen: &Seen<'_>) -> Verdict {
    let (step, approved) = match seen.input {
        Input::Approved { step, .. } => (step, true),
        Input::Rejected { step, .. } => (step, false),
        _ => return Ok(()),
    };
    let was_asked =
        seen.before.step(step).is_some_and(|step| matches!(step.state, StepState::Approving { .. }));
    if !was_asked {
        return Ok(());
    }
    let status = seen.after.steps[step].status();
    let expected = if approved { StepStatus::Succeeded } else { StepStatus::Rejected };
    holds(status == expected, || format!("{step} is {status}, and people said {expected}"))?;
    let refused = !approved && seen.before.phase == Phase::Steps && seen.before.verdict.is_none();
    let verdict = seen.after.verdict;
    holds(!refused || verdict == Some(RunStatus::Rejected), || {
        format!("it was refused, and will be {verdict:?}")
    })
}

/// An event that comes ends a wait for it.
pub(super) fn events_end_waits(seen: &Seen<'_>) -> Verdict {
    let Input::EventCame { event } = seen.input else { return Ok(()) };
    if event.received_at < seen.before.created_at || seen.before.taken.contains(&event.id) {
        return Ok(());
    }
    let waits = |(key, step): &(std::borrow::Cow<'_, str>, &crate::model::Step)| {
        let for_it = seen.definition(key).is_some_and(|step| match &step.kind {
            Kind::WaitFor(wait) => wait.event.trigger == event.trigger,
            _ => false,
        });
        for_it && matches!(step.state, StepState::WaitingFor { .. })
    };
    let waiting = all(seen.before).filter(waits).count();
    let ended = all(seen.before).filter(waits).filter(|(key, _)| {
        // An edge may have led back to it at once.
        !seen.is_same_visit(key) || seen.after.step(key).is_some_and(crate::model::Step::has_ended)
    });
    let ended = ended.count();
    holds(waiting == 0 || ended > 0, || {
        format!("{waiting} steps wait for event {}, and none took it", event.id)
    })
}

/// An event satisfies one wait of a run.
pub(super) fn one_event_for_one_wait(seen: &Seen<'_>) -> Verdict {
    let mut known = std::collections::BTreeSet::new();
    each(all(seen.after).filter(|(_, step)| step.kept_from.is_none()), |(key, step)| {
        let id = step.output["id"].as_i64().filter(|_| step.output["by"] == "event");
        holds(id.is_none_or(|id| known.insert(id)), || format!("{key} took event {id:?}, which another took"))
    })
}

/// An event that says so ends a watch, and so does a check that was not healthy too often.
pub(super) fn watches_abort(seen: &Seen<'_>) -> Verdict {
    let watching =
        all(seen.before).filter_map(|(key, step)| match (&step.state, &seen.definition(&key)?.kind) {
            (StepState::Watching { unhealthy, checking, .. }, Kind::Watch(watch)) => {
                Some((key, step, watch, *unhealthy, *checking))
            }
            _ => None,
        });
    each(watching, |(key, step, watch, unhealthy, checking)| {
        let after = seen.after.steps[&*key].status();
        let aborts = match seen.input {
            Input::EventCame { event } => {
                let since = step.started_at.unwrap_or(seen.before.created_at);
                // In the moment of its start it may be the one that led here.
                let led_here = event.received_at == since && seen.after.taken.contains(&event.id);
                event.received_at >= since
                    && !led_here
                    && watch.abort_on.iter().any(|pattern| pattern.trigger == event.trigger)
            }
            Input::AttemptFinished { key: of, outcome, .. }
                if of.step == key && checking == Some(of.number) =>
            {
                let well = match outcome {
                    Outcome::Succeeded { output } => output["well"] == true,
                    Outcome::Failed { error, .. } => error.kind == crate::model::ErrorKind::Lost,
                };
                !well && unhealthy + 1 >= WATCH_FAILURES
            }
            _ => false,
        };
        // Cancelled, when another watch heard it first.
        let given_up = matches!(after, StepStatus::Failed | StepStatus::Cancelled);
        holds(!aborts || given_up, || format!("{key} is {after} and had to be given up"))
    })
}

/// A step that is repeated, or polls, succeeds with what it waited for and with nothing else.
pub(super) fn waited_for_is_what_came(seen: &Seen<'_>) -> Verdict {
    each(seen.mains(seen.after), |(definition, step)| {
        if step.status() != StepStatus::Succeeded {
            return Ok(());
        }
        let repeated = definition.repeat.is_some() && definition.for_each.is_none();
        let well = !repeated || step.output["well"] == true;
        let polled = step.output["by"] != "poll" || step.output["output"]["well"] == true;
        holds(well && polled, || format!("{} went on with {}", definition.id, *step.output))
    })
}

/// A step or an undo with a lock is at work only while it has it.
pub(super) fn locks_are_held_at_work(seen: &Seen<'_>) -> Verdict {
    let now = seen.outside.turn;
    each(seen.started(), |key| {
        if seen.definition(&key).is_none_or(|definition| definition.lock.is_none()) {
            return Ok(());
        }
        let whole = whole_of(&key);
        let has = seen.outside.places.iter().any(|place| {
            place.step == whole && place.granted.is_some() && place.freed.is_none_or(|freed| freed == now)
        });
        // An undo of a step that never came to have its lock has none to take again.
        let never = key.ends_with("/undo") && seen.after.steps[id_of(&key)].lock.is_none();
        holds(has || never || is_locked_around(seen, &key), || format!("{key} began without its lock"))
    })
}

/// Whether a group around the step has the lock that it needs: for all of its steps.
fn is_locked_around(seen: &Seen<'_>, key: &str) -> bool {
    let definition = seen.definition(key);
    let name = definition.and_then(|definition| definition.lock.as_ref()).map(Tree::shown);
    let group = |id: &String| seen.definition(id).and_then(|definition| definition.group.clone());
    let around: Vec<String> =
        std::iter::successors(definition.and_then(|definition| definition.group.clone()), group).collect();
    let has = |place: &&Place| {
        around.contains(&place.step)
            && place.granted.is_some()
            && place.freed.is_none_or(|freed| freed == seen.outside.turn)
    };
    seen.outside
        .places
        .iter()
        .filter(has)
        .any(|place| name.as_ref().is_some_and(|name| *name == place.lock.as_str()))
}

/// A lock is asked for once, and given back when the step ends.
pub(super) fn locks_are_given_back(seen: &Seen<'_>) -> Verdict {
    each(&seen.outside.freed_nothing, |step| Err(format!("{step} gave back what it had not asked for")))?;
    let mut known = std::collections::BTreeSet::new();
    each(seen.outside.open_places(), |place| {
        holds(known.insert(&place.step), || format!("{} asked for {} twice", place.step, place.lock))?;
        let ended = seen.after.step(&place.step).is_none_or(crate::model::Step::has_ended);
        holds(!ended, || format!("{} has ended, and still has or wants {}", place.step, place.lock))
    })
}

/// What a child came to is what its step comes to.
pub(super) fn children_decide(seen: &Seen<'_>) -> Verdict {
    let Input::ChildEnded { step: key, run, status, output, .. } = seen.input else { return Ok(()) };
    let worked = seen.before.step(key).is_some_and(|step| step.state == StepState::Child { run: Some(*run) });
    let own = seen.definition(key).filter(|_| seen.part(key) != Part::Undo);
    let may_repeat = own.is_some_and(|own| own.repeat.is_some() || own.retry.attempts > 1);
    if !worked || may_repeat {
        return Ok(());
    }
    if !seen.is_same_visit(key) {
        return Ok(()); // An edge led back to it at once.
    }
    let step = seen.after.step(key).ok_or("its step is gone")?;
    let expected = match status {
        RunStatus::Succeeded => StepStatus::Succeeded,
        RunStatus::Rejected => StepStatus::Rejected,
        RunStatus::Cancelled | RunStatus::Superseded => StepStatus::Cancelled,
        _ => StepStatus::Failed,
    };
    holds(step.status() == expected, || format!("run {run} ended {status}, and {key} is {}", step.status()))?;
    let gave = *status != RunStatus::Succeeded || step.output == **output;
    holds(gave, || format!("run {run} gave {output}, and {key} has {}", *step.output))?;
    let told = seen
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::CancelChild { run: other } if other == run));
    holds(!told, || format!("run {run} was told to end, and has"))
}
