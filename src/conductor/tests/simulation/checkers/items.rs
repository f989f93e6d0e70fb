//! `for_each`: what is done for each item.

use super::{Part, Seen, Verdict, each, holds};
use crate::definitions::workflow::{ForEach, List, MaxFailures, StartOn, Step as Definition};
use crate::model::{RunStatus, Step, StepKey, StepStatus, Value};

/// The steps that are done for each item and have begun.
fn looped<'a>(seen: &Seen<'a>) -> Vec<(&'a Definition, &'a ForEach, &'a Step)> {
    let looped = seen.mains(seen.after).filter_map(|(definition, step)| {
        let each = definition.for_each.as_ref()?;
        (step.has_items && step.kept_from.is_none()).then_some((definition, each, step))
    });
    looped.collect()
}

/// How many items there are: the lists of these runs are ranges from 0.
fn total(each: &ForEach) -> u32 {
    let List::Script(script) = &each.list else { return 0 };
    script.source().trim().strip_prefix("0..").and_then(|end| end.parse().ok()).unwrap_or(0)
}

fn most_failures(each: &ForEach) -> u32 {
    match each.max_failures {
        MaxFailures::Count(count) => count,
        MaxFailures::Percent(percent) => total(each) * percent / 100,
    }
}

fn failures(items: &[(u32, &Step)]) -> u32 {
    u32::try_from(items.iter().filter(|(_, step)| step.status().is_failure()).count()).unwrap_or(u32::MAX)
}

/// No more items are at work at once than the step says.
pub(super) fn at_once(seen: &Seen<'_>) -> Verdict {
    each(looped(seen), |(definition, each, _)| {
        let items = seen.items_of(seen.after, &definition.id);
        let active = items.iter().filter(|(_, step)| !step.has_ended()).count();
        let most = each.concurrency as usize;
        holds(active <= most, || format!("{active} items of {} are at work, not {most}", definition.id))
    })
}

/// Each item is begun at most once, one after the other, and there are no others.
pub(super) fn begin_once_in_order(seen: &Seen<'_>) -> Verdict {
    each(looped(seen), |(definition, each_of, _)| {
        let id = &definition.id;
        let mut before = seen.items_of(seen.before, id);
        before.retain(|_| seen.is_same_visit(id));
        let known = before.last().map(|(item, _)| *item);
        let new: Vec<_> = seen
            .items_of(seen.after, id)
            .into_iter()
            .filter(|(item, step)| {
                !before.iter().any(|(other, before)| other == item && before.order == step.order)
            })
            .collect();
        each(&new, |(item, step)| {
            holds(*item < total(each_of), || format!("{id} has no item {item}"))?;
            holds(Some(*item) > known, || format!("item {item} of {id} began after item {known:?}"))?;
            let visit = seen.after.steps[id].visit;
            holds(step.visit == visit, || {
                format!("item {item} of {id} is in visit {} of {visit}", step.visit)
            })
        })?;
        each(new.windows(2), |pair| {
            let in_order = pair[0].1.order < pair[1].1.order;
            holds(in_order, || format!("item {} of {id} began before item {}", pair[1].0, pair[0].0))
        })
    })
}

/// Once too many have failed, no further item begins.
pub(super) fn stop_after_too_many_failures(seen: &Seen<'_>) -> Verdict {
    each(looped(seen), |(definition, each, _)| {
        let (before, after) =
            (seen.items_of(seen.before, &definition.id), seen.items_of(seen.after, &definition.id));
        // What had begun before, with what came of it by now.
        let failed = failures(&after[..before.len().min(after.len())]);
        let is_over = failed > most_failures(each);
        holds(!is_over || after.len() == before.len(), || {
            format!("{failed} items of {} had failed, and another began", definition.id)
        })
    })
}

/// With `fail_fast`, the items at work are asked to end once too many have failed; without, they are left to finish.
pub(super) fn fail_fast(seen: &Seen<'_>) -> Verdict {
    each(looped(seen), |(definition, of, step)| {
        let id = definition.id.as_str();
        let items = seen.items_of(seen.after, id);
        let is_mine = |key: &str| StepKey::parse(key).whole() == StepKey { id, item: None, undo: false };
        let works: Vec<_> = seen.outside.open_works().filter(|work| is_mine(&work.of)).collect();
        if failures(&items) > most_failures(of) && of.fail_fast {
            return each(works, |work| holds(work.told, || format!("{} goes on", work.attempt.key)));
        }
        let rejected = items.iter().any(|(_, item)| item.status() == StepStatus::Rejected);
        let ended = step.stopped || rejected || seen.after.verdict.is_some();
        each(works, |work| holds(!work.told || ended, || format!("{} was asked to end", work.attempt.key)))
    })
}

/// A step is done when its items are: well, when no more of them failed than may.
pub(super) fn decide(seen: &Seen<'_>) -> Verdict {
    let ended = looped(seen).into_iter().filter(|(definition, _, step)| {
        step.has_ended() && seen.before.step(&definition.id).is_some_and(|step| !step.has_ended())
    });
    each(ended, |(definition, of, step)| {
        let id = &definition.id;
        let items = seen.items_of(seen.after, id);
        let open = items.iter().find(|(_, item)| !item.has_ended()).map(|(item, _)| *item);
        holds(open.is_none(), || format!("{id} has ended, and item {open:?} has not"))?;
        let (failed, began) = (failures(&items), u32::try_from(items.len()).unwrap_or(u32::MAX));
        let too_many = failed > most_failures(of);
        let rejected = items.iter().any(|(_, item)| item.status() == StepStatus::Rejected);
        let fits = match step.status() {
            StepStatus::Succeeded => !too_many && !rejected && began == total(of),
            StepStatus::Failed => too_many,
            StepStatus::Rejected => rejected,
            StepStatus::Cancelled => {
                // One that starts on a failure is not ended by it.
                let by_people = seen.cancels() > 0 || seen.outside.superseded;
                let timed_out = seen.after.deadline.is_some_and(|at| at <= seen.now);
                let by_failure = seen.after.verdict.is_some() || definition.group.is_some();
                let mut mains = seen.mains(seen.after);
                let later = mains.any(|(other, of_other)| {
                    let bad = of_other.status().is_failure() || of_other.status() == StepStatus::Rejected;
                    bad && other.id != *id && of_other.finished_at >= step.started_at
                });
                let may_end_it = definition.start_on == StartOn::Success || later;
                step.stopped || by_people || timed_out || (by_failure && may_end_it)
            }
            _ => false,
        };
        holds(fits, || {
            format!(
                "{id} is {}: of {} items {began} began, {failed} failed, rejected: {rejected}",
                step.status(),
                total(of)
            )
        })
    })
}

/// What the items gave stands in the order of the items, with null for each that failed.
pub(super) fn give_in_order(seen: &Seen<'_>) -> Verdict {
    each(
        looped(seen).into_iter().filter(|(_, _, step)| step.status() == StepStatus::Succeeded),
        |(definition, of, step)| {
            let items = seen.items_of(seen.after, &definition.id);
            let given = |item: u32| {
                let found = items.iter().find(|(number, _)| *number == item);
                found.map_or(Value::Null, |(_, step)| (*step.output).clone())
            };
            let expected: Vec<Value> = (0..total(of)).map(given).collect();
            holds(*step.output == Value::Array(expected), || {
                format!("{} gives {}", definition.id, *step.output)
            })
        },
    )
}

/// The items of a step are taken back from the last one on.
pub(super) fn undone_from_the_last(seen: &Seen<'_>) -> Verdict {
    let mut begun = seen.begun().filter(|(key, _)| seen.part(key) == Part::Undo);
    begun.try_for_each(|(key, _)| {
        let of = StepKey::parse(&key);
        let Some(item) = of.item else { return Ok(()) };
        let items = seen
            .after
            .undo_items
            .get(of.id)
            .map(|items| items.iter().collect::<Vec<_>>())
            .unwrap_or_default();
        let order = seen.after.step(&key).map_or(0, |step| step.order);
        let below =
            items.iter().find(|(other, step)| *other < item && step.order < order).map(|(other, _)| *other);
        holds(below.is_none(), || format!("item {item} of {} was taken back after item {below:?}", of.id))?;
        let open = items.iter().find(|(other, step)| *other > item && !step.has_ended());
        holds(open.is_none(), || format!("{key} began beside another undo"))?;
        let passed = seen.items_of(seen.after, of.id).into_iter().find(|(other, step)| {
            *other > item && step.order > 0 && !items.iter().any(|(undone, _)| undone == other)
        });
        let verdict = seen.after.verdict != Some(RunStatus::Cancelled);
        holds(passed.is_none() || !verdict, || {
            format!("{key} began before that of item {:?}", passed.map(|(item, _)| item))
        })
    })
}
