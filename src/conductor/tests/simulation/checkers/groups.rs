//! Groups: steps inside of steps.

use super::{Part, Seen, Verdict, each, holds};
use crate::definitions::workflow::{Group, Kind, StartOn, Step as Definition};
use crate::model::{RunStatus, StepStatus};

fn is_inline(definition: &Definition) -> bool {
    matches!(definition.kind, Kind::Group(Group::Inline))
}

/// The steps of a group begin while it is at work, and it ends when all of them have.
pub(super) fn groups_hold_their_steps(seen: &Seen<'_>) -> Verdict {
    each(seen.begun().filter(|(key, _)| seen.part(key) != Part::Undo), |(key, _)| {
        let Some(group) = seen.definition(&key).and_then(|step| step.group.as_ref()) else { return Ok(()) };
        let around = &seen.after.steps[group];
        let was_over = seen.before.steps[group].has_ended() && seen.is_same_visit(group);
        holds(around.order > 0 && !was_over, || format!("{key} began, and its group is {}", around.status()))
    })?;
    let ended = seen
        .mains(seen.after)
        .filter(|(definition, step)| is_inline(definition) && step.has_ended() && step.order > 0);
    each(ended, |(group, _)| {
        let mut members =
            seen.mains(seen.after).filter(|(member, _)| member.group.as_deref() == Some(&group.id));
        let open = members.find(|(_, step)| !step.has_ended()).map(|(member, _)| &member.id);
        holds(open.is_none(), || format!("{} has ended, and {open:?} has not", group.id))
    })
}

/// After a failure in a group nothing of it begins but what is for failures.
pub(super) fn groups_stop_at_a_failure(seen: &Seen<'_>) -> Verdict {
    each(seen.begun().filter(|(key, _)| seen.part(key) == Part::Main), |(key, _)| {
        let Some(definition) = seen.definition(&key).filter(|step| step.start_on == StartOn::Success) else {
            return Ok(());
        };
        let failed = seen.groups(definition).into_iter().find_map(|group| failed_in(seen, group));
        holds(failed.is_none(), || format!("{key} began, and {failed:?} of its group has failed"))
    })?;
    let retried =
        seen.dispatched().filter(|work| seen.part(&work.of) == Part::Main && !seen.earlier(work).is_empty());
    each(retried, |work| {
        let definition = seen.definition(&work.of).filter(|step| matches!(step.kind, Kind::Run(_)));
        let mut around = definition.map(|definition| seen.groups(definition)).unwrap_or_default().into_iter();
        let failed = around.find_map(|group| failed_in(seen, group));
        holds(failed.is_none(), || {
            format!("{} is a retry, and {failed:?} of its group has failed", work.attempt.key)
        })
    })
}

fn failed_now(seen: &Seen<'_>, group: &Definition) -> bool {
    let inside = |definition: &Definition| seen.groups(definition).iter().any(|around| around.id == group.id);
    seen.mains(seen.after).any(|(definition, step)| step.status().is_failure() && inside(definition))
}

/// A step of the group, however deep, whose failure came as far as the group.
fn failed_in<'a>(seen: &Seen<'a>, group: &Definition) -> Option<&'a str> {
    if !seen.is_same_visit(&group.id) {
        return None;
    }
    let mut mains = seen.mains(seen.before);
    let found = mains.find(|(definition, step)| {
        let around = seen.groups(definition);
        let mut between = around.iter().take_while(|around| around.id != group.id);
        let is_inside = around.iter().any(|around| around.id == group.id);
        let reaches = !definition.continue_on_failure && between.all(|around| !around.continue_on_failure);
        is_inside && reaches && step.status().is_failure()
    });
    found.map(|(definition, _)| definition.id.as_str())
}

/// A group succeeds when its steps did, and gives what they gave.
pub(super) fn groups_say_what_came_of_them(seen: &Seen<'_>) -> Verdict {
    let ended = seen.mains(seen.after).filter(|(definition, step)| {
        is_inline(definition)
            && step.has_ended()
            && step.order > 0
            && !seen.before.steps[&definition.id].has_ended()
    });
    each(ended, |(group, step)| {
        let members: Vec<_> =
            seen.mains(seen.after).filter(|(member, _)| member.group.as_deref() == Some(&group.id)).collect();
        let failed =
            members.iter().any(|(member, step)| step.status().is_failure() && !member.continue_on_failure);
        let rejected = members.iter().any(|(_, step)| step.status() == StepStatus::Rejected);
        if step.status() != StepStatus::Succeeded {
            let ended = matches!(seen.after.verdict, Some(verdict) if verdict != RunStatus::Succeeded);
            let around = seen.groups(group).into_iter().any(|around| failed_now(seen, around));
            return holds(failed || rejected || ended || around, || {
                format!("{} is {}, and nothing in it failed", group.id, step.status())
            });
        }
        holds(!failed && !rejected, || format!("{} succeeded, and something in it did not", group.id))?;
        each(members, |(member, of_member)| {
            let given = &step.output[&member.id];
            holds(*given == *of_member.output, || {
                format!("{} gives {given} for {}, which gave {}", group.id, member.id, *of_member.output)
            })
        })
    })
}
