//! Taking back.

use super::{Seen, Verdict, each, holds, id_of};
use crate::model::run::{UNDO_SUFFIX, Undone};
use crate::model::{RunStatus, StepKey, StepStatus, Value};

/// What began last is taken back first.
pub(super) fn newest_first(seen: &Seen<'_>) -> Verdict {
    let mut begun: Vec<_> = seen.after.undos.iter().filter(|(_, undo)| undo.order > 0).collect();
    begun.sort_by_key(|(_, undo)| undo.order);
    let started = |id: &str| seen.after.steps.get(id).map_or(0, |step| step.order);
    each(begun.windows(2), |pair| {
        let (first, second) = (pair[0].0, pair[1].0);
        holds(started(first) > started(second), || format!("{first} was taken back before {second}"))
    })
}

/// One undo begins when the one before it has ended.
pub(super) fn one_at_a_time(seen: &Seen<'_>) -> Verdict {
    let works = seen.outside.open_works().filter(|work| !work.told).map(|work| &work.of);
    let children = seen.outside.open_children().filter(|child| !child.told).map(|child| &child.step);
    let at_work: Vec<_> = works.chain(children).filter(|key| key.ends_with(UNDO_SUFFIX)).collect();
    holds(at_work.len() < 2, || format!("{at_work:?} are at work at once"))
}

/// A run that ended failed or rejected has tried to take back every step that began and can be.
pub(super) fn of_all_that_began(seen: &Seen<'_>) -> Verdict {
    let ended_so = matches!(seen.after.status, RunStatus::Failed | RunStatus::Rejected);
    if !seen.became_final() || !ended_so || seen.cancels() > 0 || seen.outside.refused {
        return Ok(());
    }
    let done_before = |id: &str| {
        let old = seen.old.filter(|_| seen.after.rollback_of.is_some());
        let undo = old.and_then(|old| old.undos.get(id)).map(crate::model::Step::status);
        matches!(undo, Some(StepStatus::Succeeded | StepStatus::Skipped))
    };
    let can_be = seen.mains(seen.after).filter(|(definition, step)| {
        let items = seen.items_of(seen.after, &definition.id);
        let has_child = step.child.is_some() || items.iter().any(|(_, item)| item.child.is_some());
        step.order > 0 && (definition.undo.is_some() || has_child) && !done_before(&definition.id)
    });
    each(can_be, |(definition, step)| {
        let id = &definition.id;
        if step.has_items {
            return each(
                seen.items_of(seen.after, id).into_iter().filter(|(_, item)| item.order > 0),
                |(item, _)| {
                    let undo = StepKey { id, item: Some(item), undo: true }.to_string();
                    tried(seen, &undo)
                },
            );
        }
        tried(seen, &format!("{id}{UNDO_SUFFIX}"))
    })
}

/// Something was done for an undo, or it says why not.
fn tried(seen: &Seen<'_>, key: &str) -> Verdict {
    let Some(undo) = seen.after.step(key) else { return Err(format!("there is no {key}")) };
    let tried = seen.outside.works.iter().any(|work| work.of == key)
        || seen.outside.children.iter().any(|child| child.step == key);
    let nothing = undo.note.as_ref().is_some_and(|note| note.starts_with("nothing to undo"));
    let told = undo.status().is_failure() && undo.error.is_some();
    let of_item = StepKey::parse(key);
    // Nothing was said to take it back, nor did a run do it.
    let without = seen.definition(key).is_some_and(|definition| definition.undo.is_none())
        && of_item.item.is_some()
        && seen
            .after
            .step(&StepKey { undo: false, ..of_item }.to_string())
            .is_none_or(|item| item.child.is_none());
    holds(tried || nothing || told || without, || format!("{key} was not tried, and nobody says why"))
}

/// Nothing is taken back that did not begin, or of a run that neither failed nor was rejected.
pub(super) fn of_nothing_else(seen: &Seen<'_>) -> Verdict {
    each(seen.begun().filter(|(key, _)| key.ends_with(UNDO_SUFFIX)), |(key, _)| {
        let id = id_of(&key);
        let of = StepKey { undo: false, ..StepKey::parse(&key) }.to_string();
        let began = seen.after.step(&of).is_some_and(|step| step.order > 0);
        holds(began, || format!("{id} never began and was taken back"))?;
        let old = seen.old.filter(|_| seen.after.rollback_of.is_some());
        let undo = old.and_then(|old| old.undos.get(id)).map(crate::model::Step::status);
        holds(undo != Some(StepStatus::Succeeded), || format!("{id} was taken back twice"))?;
        let is_rollback = seen.after.rollback_of.is_some();
        let verdict = seen.after.verdict;
        let due = is_rollback || matches!(verdict, Some(RunStatus::Failed | RunStatus::Rejected));
        holds(due, || format!("{id} was taken back of a run that is going to be {verdict:?}"))
    })?;
    let is_rollback = seen.after.rollback_of.is_some();
    each(seen.ordered(), |key| {
        holds(!is_rollback || key.ends_with(UNDO_SUFFIX), || format!("a rollback did {key}"))
    })
}

/// An undo is given what its step's attempts reported last, whatever came of them.
pub(super) fn sees_what_was_reported(seen: &Seen<'_>) -> Verdict {
    each(seen.dispatched().filter(|work| work.of.ends_with(UNDO_SUFFIX)), |work| {
        let of = StepKey { undo: false, ..StepKey::parse(&work.of) }.to_string();
        let id = id_of(&work.of);
        let call = seen.definition(id).and_then(|definition| definition.undo.as_ref());
        if call.is_none_or(|call| call.with.is_empty()) {
            return Ok(());
        }
        let given = work.attempt.input.masked();
        let reported = seen.outside.reported.get(&of).map_or(&Value::Null, |output| &output["x"]);
        holds(given["what"] == *reported, || {
            format!("{of} reported {reported}, and its undo was given {given}")
        })
    })
}

/// What is said of undos is what came of them.
pub(super) fn undone_is_true(seen: &Seen<'_>) -> Verdict {
    if !seen.after.status.is_final() {
        return Ok(());
    }
    let undos = seen.after.undos.values();
    let done = |status| matches!(status, StepStatus::Succeeded | StepStatus::Skipped);
    let (all, done) = (undos.len(), undos.filter(|undo| done(undo.status())).count());
    let is = match (all, done) {
        (0, _) => None,
        (_, 0) => Some(Undone::None),
        (all, done) if all == done => Some(Undone::All),
        _ => Some(Undone::Part),
    };
    holds(seen.after.undone == is, || format!("{:?} is said of {done} undos of {all}", seen.after.undone))
}
