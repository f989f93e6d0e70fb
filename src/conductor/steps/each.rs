//! `for_each`: a step that is done once for each item of a list. Items are steps of their own, with their own attempts and retries; the step itself
//! only counts. What an item costs does not depend on how many there are. The undo of such a step takes its items back, the last one first.

use serde_json::json;

use crate::conductor::advance::{Turn, broken};
use crate::definitions::workflow::{ForEach, Kind, List, MaxFailures, Step as Definition};
use crate::model::items::{Each, Items};
use crate::model::run::UNDO_SUFFIX;
use crate::model::step::StepState;
use crate::model::{ErrorKind, Kept, Object, RunError, Step, StepKey, StepStatus, Value};

use super::{action, child, emit, group, plain};

/// More items than anybody means.
pub(in crate::conductor) const MAX_ITEMS: usize = 100_000;

/// The step begins: its list is made. Its items start when the run settles.
pub(in crate::conductor) fn start(turn: &mut Turn<'_>, definition: &Definition, each: &ForEach) {
    let list = match list_of(turn, definition, each) {
        Ok(list) => list,
        Err(error) => return turn.fail(&definition.id, StepStatus::Failed, error),
    };
    let total = u32::try_from(list.len()).unwrap_or(u32::MAX);
    let most_failures = match each.max_failures {
        MaxFailures::Count(count) => count,
        MaxFailures::Percent(percent) => {
            u32::try_from(u64::from(total) * u64::from(percent) / 100).unwrap_or(u32::MAX)
        }
    };
    let visit = turn.run.steps.get(&definition.id).map_or(1, |step| step.visit);
    turn.run.items.insert(definition.id.clone(), Items::new(visit, Kept::beside(Value::Array(list))));
    if let Some(step) = turn.run.steps.get_mut(&definition.id) {
        step.has_items = true;
    }
    let at_once = each.concurrency.max(1);
    let is_late = turn.is_failing();
    let state = Each { total, most_failures, at_once, is_late, ..Each::default() };
    turn.set(&definition.id, StepState::Each(state));
}

/// The undo of a step with items begins.
pub(in crate::conductor) fn start_undo(turn: &mut Turn<'_>, id: &str) {
    let key = format!("{id}{UNDO_SUFFIX}");
    let total = turn.run.items.get(id).and_then(|items| items.list.as_array().map(Vec::len)).unwrap_or(0);
    let total = u32::try_from(total).unwrap_or(u32::MAX);
    let visit = turn.run.undos.get(id).map_or(1, |step| step.visit);
    turn.run.undo_items.insert(id.to_owned(), Items::new(visit, Kept::default()));
    if let Some(step) = turn.run.undos.get_mut(id) {
        step.has_items = true;
    }
    let state = Each { total, next: total, most_failures: total, at_once: 1, ..Each::default() };
    turn.set(&key, StepState::Each(state));
}

/// The items: an array, a range (which is an array by now), or every combination of a map of lists.
fn list_of(turn: &Turn<'_>, definition: &Definition, each: &ForEach) -> Result<Vec<Value>, RunError> {
    let (expr, scope) = (&turn.world.definitions.expr, turn.scope_for(&definition.id));
    let value = match &each.list {
        List::Script(script) => expr.evaluate(script, &scope),
        List::Tree(tree) => plain(tree, expr, &scope),
    };
    let value = value.map_err(|failure| broken(definition, "for_each", &failure))?;
    let wrong = |what: String| {
        RunError::failed(format!("`for_each` of step `{}`: {what}", definition.id)).at(&definition.place)
    };
    let list = match value {
        Value::Array(list) => list,
        Value::Object(lists) => combinations(lists).map_err(wrong)?,
        other => {
            return Err(wrong(format!(
                "it takes a list, a range or a map of lists, and this is {}",
                short(&other)
            )));
        }
    };
    if list.len() > MAX_ITEMS {
        return Err(wrong(format!("{} items are too many; there may be {MAX_ITEMS}", list.len())));
    }
    Ok(list)
}

/// Every combination of one value of each list, the last list running fastest.
fn combinations(lists: Object) -> Result<Vec<Value>, String> {
    let mut combined = vec![Object::new()];
    for (name, list) in lists {
        let Value::Array(values) = list else {
            return Err(format!("`{name}` of the map is no list, but {}", short(&list)));
        };
        if combined.len().saturating_mul(values.len()) > MAX_ITEMS {
            return Err(format!("there are more than {MAX_ITEMS} combinations"));
        }
        let with = |entry: &Object, value: &Value| {
            let mut entry = entry.clone();
            entry.insert(name.clone(), value.clone());
            entry
        };
        combined = combined
            .iter()
            .flat_map(|entry| values.iter().map(|value| with(entry, value)).collect::<Vec<_>>())
            .collect();
    }
    Ok(combined.into_iter().map(Value::Object).collect())
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Starts items while more may be at work, and ends the step when none is left. Says whether anything moved.
pub(in crate::conductor) fn go_on(turn: &mut Turn<'_>, key: &str) -> bool {
    let mut moved = false;
    while let Some(item) = next_item(turn, key) {
        begin_item(turn, key, item);
        moved = true;
    }
    finish(turn, key) || moved
}

fn each_of<'r>(turn: &'r mut Turn<'_>, key: &str) -> Option<&'r mut Each> {
    match &mut turn.run.step_mut(key)?.state {
        StepState::Each(each) => Some(each),
        _ => None,
    }
}

/// The item that starts now, if one may.
fn next_item(turn: &mut Turn<'_>, key: &str) -> Option<u32> {
    let undo = key.ends_with(UNDO_SUFFIX);
    let held = !undo && turn.hold().is_some();
    let is_late = each_of(turn, key)?.is_late;
    let is_over = is_over(turn, key, is_late);
    let each = each_of(turn, key)?;
    if held || is_over || each.is_closed || each.active >= each.at_once {
        return None;
    }
    if !undo {
        if each.next >= each.total {
            return None;
        }
        each.next += 1;
        each.active += 1;
        return Some(each.next - 1);
    }
    // Only what began is taken back, the last one first.
    let mut next = each.next;
    let id = StepKey::parse(key).id;
    let began = |item: u32| {
        turn.run.items.get(id).and_then(|items| items.get(item)).is_some_and(|step| step.order > 0)
    };
    let found = loop {
        let Some(item) = next.checked_sub(1) else { break None };
        next = item;
        if began(item) {
            break Some(item);
        }
    };
    let each = each_of(turn, key)?;
    each.next = next;
    each.active += u32::from(found.is_some());
    found
}

/// Whether a failure or people keep further items from starting. What was let in after the failure is not ended by it.
fn is_over(turn: &Turn<'_>, key: &str, is_late: bool) -> bool {
    let by_run = turn.is_ending() && !(turn.is_failing() && is_late);
    by_run || (!key.ends_with(UNDO_SUFFIX) && group::is_broken_around(turn, key))
}

fn begin_item(turn: &mut Turn<'_>, key: &str, item: u32) {
    let whole = StepKey::parse(key);
    let of_item = StepKey { item: Some(item), ..whole };
    let Some(items) = turn.run.items_of_mut(whole) else { return };
    // Its attempts are those of this visit of the step.
    items.add(item, Step { visit: items.visit.saturating_sub(1), ..Step::pending() });
    let item_key = of_item.to_string();
    turn.begin(&item_key);
    let Some(definition) = turn.definition(key) else { return };
    if whole.undo {
        let child = turn.run.items.get(whole.id).and_then(|items| items.get(item)?.child);
        return match (&definition.undo, child) {
            (Some(call), _) => action::start(turn, &item_key, call),
            (None, Some(child)) => child::roll_back(turn, &item_key, child),
            (None, None) => turn.end(&item_key, StepStatus::Skipped),
        };
    }
    match &definition.kind {
        Kind::Run(call) => action::start(turn, &item_key, call),
        Kind::Emit { trigger, with } => emit::start(turn, definition, &item_key, trigger, with),
        Kind::Group(of) => group::start(turn, definition, &item_key, of),
        // `check` lets no other kind have items.
        Kind::Approve(_) | Kind::Watch(_) | Kind::WaitFor(_) | Kind::Sleep(_) => {
            turn.end(&item_key, StepStatus::Skipped);
        }
    }
}

/// An item has ended. What follows for the step is seen when the run settles; only `fail_fast` acts at once.
pub(in crate::conductor) fn item_ended(turn: &mut Turn<'_>, item_key: &str, status: StepStatus) {
    let whole = StepKey::parse(item_key).whole().to_string();
    let fail_fast = turn
        .definition(&whole)
        .and_then(|definition| definition.for_each.as_ref())
        .is_some_and(|each| each.fail_fast && !whole.ends_with(UNDO_SUFFIX));
    let Some(each) = each_of(turn, &whole) else { return };
    each.active = each.active.saturating_sub(1);
    let was_closed = each.is_closed;
    each.failed += u32::from(status.is_failure());
    each.is_closed |= each.failed > each.most_failures || status == StepStatus::Rejected;
    if each.is_closed && !was_closed && (fail_fast || status == StepStatus::Rejected) {
        stop_items(turn, &whole);
    }
}

/// Ends the items at work.
pub(in crate::conductor) fn stop_items(turn: &mut Turn<'_>, key: &str) {
    let whole = StepKey::parse(key);
    if let Some(each) = each_of(turn, key) {
        each.is_closed = true;
    }
    for item in active(turn, whole) {
        turn.stop(&StepKey { item: Some(item), ..whole }.to_string());
    }
}

/// After a failure elsewhere: no retry of an item starts.
pub(in crate::conductor) fn give_up_retrying(turn: &mut Turn<'_>, key: &str) {
    let whole = StepKey::parse(key);
    for item in active(turn, whole) {
        let item_key = StepKey { item: Some(item), ..whole }.to_string();
        match turn.run.step(&item_key).map(|step| &step.state) {
            Some(StepState::Retrying { .. }) => turn.give_up_retrying(&item_key),
            Some(StepState::Repeating { .. }) => turn.stop(&item_key),
            _ => (),
        }
    }
}

fn active(turn: &mut Turn<'_>, whole: StepKey<'_>) -> Vec<u32> {
    let Some(items) = turn.run.items_of_mut(whole) else { return Vec::new() };
    items.settle();
    items.active().collect()
}

/// Ends the step once no item is at work and none will start. Says whether it did.
fn finish(turn: &mut Turn<'_>, key: &str) -> bool {
    let undo = key.ends_with(UNDO_SUFFIX);
    let Some(each) = each_of(turn, key).map(|each| each.clone()) else { return false };
    let ending = is_over(turn, key, each.is_late);
    let all_began = if undo { each.next == 0 } else { each.next >= each.total };
    if each.active > 0 || !(all_began || each.is_closed || ending) {
        return false;
    }
    if undo {
        finish_undo(turn, key, &each, all_began);
        return true;
    }
    let (first, rejected) = first_error(turn, key);
    if let Some(error) = rejected {
        turn.refuse(key, error);
    } else if each.failed > each.most_failures && !was_stopped(turn, key) {
        let why = first.map(|(item, error)| format!("; item {item}: {error}")).unwrap_or_default();
        let many = if each.failed == 1 { "item" } else { "items" };
        let message = format!("{} of {} {many} failed{why}", each.failed, each.total);
        turn.fail(key, StepStatus::Failed, RunError::failed(message));
    } else if all_began && !was_stopped(turn, key) {
        let output = turn.run.items.get(key).map_or(Value::Null, |items| items.outputs(each.total));
        turn.succeed(key, output);
    } else {
        let message = format!("{} of {} items began before the run was ended", each.next, each.total);
        turn.fail(key, StepStatus::Cancelled, RunError::new(ErrorKind::Cancelled, message));
    }
    true
}

fn was_stopped(turn: &Turn<'_>, key: &str) -> bool {
    turn.run.step(key).is_some_and(|step| step.stopped)
}

fn finish_undo(turn: &mut Turn<'_>, key: &str, each: &Each, all_began: bool) {
    if !all_began {
        return turn.end(key, StepStatus::Cancelled);
    }
    if each.failed > 0 {
        let message = format!("{} of the undos of {} items failed", each.failed, each.total);
        return turn.fail(key, StepStatus::Failed, RunError::failed(message));
    }
    let items = turn.run.items_of(StepKey::parse(key));
    let done =
        items.is_some_and(|items| items.iter().any(|(_, step)| step.status() == StepStatus::Succeeded));
    if done {
        return turn.succeed(key, json!(null));
    }
    if let Some(step) = turn.run.step_mut(key) {
        step.note = Some("nothing to undo".to_owned());
    }
    turn.end(key, StepStatus::Skipped);
}

/// The first item that failed, and the error of one that was rejected.
fn first_error(turn: &Turn<'_>, key: &str) -> (Option<(u32, RunError)>, Option<RunError>) {
    let (mut first, mut rejected) = (None, None);
    let Some(items) = turn.run.items.get(key) else { return (None, None) };
    for (item, step) in items.iter() {
        let Some(error) = step.error.clone() else { continue };
        match step.status() {
            StepStatus::Rejected => rejected = rejected.or(Some(error)),
            status if status.is_failure() && error.kind != ErrorKind::Cancelled => {
                first = first.or(Some((item, error)));
            }
            _ => (),
        }
    }
    (first, rejected)
}
