//! Graphs with edges: who is let in, how often, and what is told on the way. What an edge carried is counted from the history and from what workers
//! said, not from the run's own tokens.

use super::super::random::{goes_again, published};
use super::{Seen, Verdict, each, holds};
use crate::definitions::workflow::{Edge, Entry, Join, StartOn, Step as Definition};
use crate::model::{Outcome, RunStatus, StepStatus, Value};

/// A step is entered no more often than as many came as it joins.
pub(super) fn let_in_only_who_was_led(seen: &Seen<'_>) -> Verdict {
    each(joined(seen), |(definition, entry)| {
        let visits = seen.after.steps[&definition.id].visit;
        let may = may_enter(seen, definition, entry);
        holds(visits <= may, || format!("{} was entered {visits} times, and {may} may be", definition.id))
    })
}

/// Where a run went well, everybody who was led somewhere has been there.
pub(super) fn followed_to_the_end(seen: &Seen<'_>) -> Verdict {
    if seen.after.status != RunStatus::Succeeded {
        return Ok(());
    }
    each(joined(seen).filter(|(definition, _)| definition.when.is_none()), |(definition, entry)| {
        let visits = seen.after.steps[&definition.id].visit;
        let due = may_enter(seen, definition, entry);
        holds(visits == due, || format!("{} was entered {visits} times of {due}", definition.id))
    })
}

/// What an edge publishes is what its step gave when it led on last.
pub(super) fn publish_what_was_given(seen: &Seen<'_>) -> Verdict {
    each(joined(seen), |(definition, entry)| {
        each(entry.edges.iter().filter(|edge| !edge.publish.is_empty()), |edge| {
            // Two edges between the same steps publish the same name; whichever led on last.
            let twins = entry.edges.iter().filter(|twin| twin.from == edge.from && !twin.publish.is_empty());
            let last = twins.flat_map(|twin| crossings(seen, twin)).max_by_key(|(turn, _)| *turn);
            let Some((_, output)) = last else { return Ok(()) };
            let name = published(&edge.from, &definition.id);
            let is = seen.after.published.get(&name);
            let wanted = output.map(|output| &output["x"]);
            holds(is == wanted, || format!("{name} is {is:?} and should be {wanted:?}"))
        })
    })
}

/// The steps that are entered by edges, of a run that is no rollback.
fn joined<'a>(seen: &Seen<'a>) -> impl Iterator<Item = (&'a Definition, &'a Entry)> {
    let steps: &[Definition] = if seen.after.rollback_of.is_some() { &[] } else { &seen.workflow.steps };
    steps.iter().filter_map(|definition| Some((definition, definition.entry.as_ref()?)))
}

/// How often a step may be entered by now.
fn may_enter(seen: &Seen<'_>, definition: &Definition, entry: &Entry) -> u32 {
    if entry.edges.is_empty() {
        return u32::from(definition.when.is_none() && seen.after.steps[&definition.id].visit > 0);
    }
    let join = match entry.join {
        Join::All => entry.edges.len(),
        Join::Count(count) => count as usize,
    };
    let came: usize = entry.edges.iter().map(|edge| crossings(seen, edge).count()).sum();
    u32::try_from(came / join).unwrap()
}

/// Each time that an edge led on: in which turn, and what its step gave then.
fn crossings<'a>(seen: &Seen<'a>, edge: &'a Edge) -> impl Iterator<Item = (u32, Option<&'a Value>)> {
    let outside = seen.outside;
    outside.notes.iter().filter_map(move |(note, turn)| {
        let status = status_of(&note.what)?;
        let fits = match edge.on {
            StartOn::Success => status == StepStatus::Succeeded,
            StartOn::Failure => status.is_failure(),
            StartOn::Finished => {
                status.is_failure() || matches!(status, StepStatus::Succeeded | StepStatus::Cancelled)
            }
        };
        // An attempt that is tried again does not end its step.
        let goes_on = note
            .detail
            .as_ref()
            .is_some_and(|detail| detail.contains("; attempt ") || detail.contains("begins again"));
        if goes_on || note.step.as_ref() != Some(&edge.from) || !fits {
            return None;
        }
        let gave = outside.works.iter().find_map(|work| match &work.ended {
            Some((at, _, Outcome::Succeeded { output })) if at == turn && work.of == edge.from => {
                Some(output)
            }
            _ => None,
        });
        let leads = edge.when.is_none() || gave.is_some_and(goes_again);
        leads.then_some((*turn, gave))
    })
}

fn status_of(what: &str) -> Option<StepStatus> {
    serde_json::from_value(Value::from(what.strip_prefix("step.")?)).ok()
}
