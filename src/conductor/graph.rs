//! Which steps of a graph may start, by what came of those they need.

use indexmap::IndexMap;

use crate::definitions::workflow::{StartOn, Step as Definition};
use crate::model::step::StepState;
use crate::model::{RunStatus, Step, StepStatus};

/// What is to become of a step that has not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Something that it needs has not ended.
    Wait,
    Start,
    /// It was for a failure that did not come.
    Skip,
    /// It will never start, because of a failure, a refusal or a cancel.
    Never,
}

/// Judges `step`, whose `needs` are among `states`, in a section with `siblings`. `verdict` is how the run is going to end, once that is known.
pub(super) fn entry(
    step: &Definition,
    siblings: &[Definition],
    states: &IndexMap<String, Step>,
    verdict: Option<RunStatus>,
) -> Entry {
    let (group, around) = group_of(step, siblings, states);
    let verdict = match around {
        Around::Well => verdict,
        Around::Broken => verdict.or(Some(RunStatus::Failed)),
        // The group is what was waiting for the failure.
        Around::Late => verdict.filter(|verdict| !matches!(verdict, RunStatus::Failed | RunStatus::Rejected)),
    };
    match verdict {
        Some(RunStatus::Cancelled | RunStatus::Superseded) => return Entry::Never,
        Some(RunStatus::Rejected) if step.start_on != StartOn::Finished => return Entry::Never,
        Some(RunStatus::Failed) if step.start_on == StartOn::Success => return Entry::Never,
        _ => (),
    }
    match group {
        Group::Works => (),
        Group::Waits => return Entry::Wait,
        Group::Skipped => return Entry::Skip,
        Group::Over => return Entry::Never,
    }
    let mut failed = false;
    for need in &step.needs {
        let Some(state) = states.get(need) else { continue };
        if !state.has_ended() {
            return Entry::Wait;
        }
        let forgiven = siblings.iter().any(|sibling| sibling.id == *need && sibling.continue_on_failure);
        failed |= counts_as_failure(state.status(), forgiven);
    }
    match (step.start_on, failed) {
        (StartOn::Finished, _) | (StartOn::Success, false) | (StartOn::Failure, true) => Entry::Start,
        (StartOn::Success, true) => Entry::Never,
        (StartOn::Failure, false) => Entry::Skip,
    }
}

/// What the group of a step lets it do.
enum Group {
    /// It is open, or there is none.
    Works,
    Waits,
    Skipped,
    Over,
}

/// How the groups around a step are.
enum Around {
    Well,
    /// A step of one of them failed.
    Broken,
    /// One of them was let in after the run had failed.
    Late,
}

/// What the group of `step` lets it do, and how it and those around it are.
fn group_of(step: &Definition, siblings: &[Definition], states: &IndexMap<String, Step>) -> (Group, Around) {
    let Some(own) = &step.group else { return (Group::Works, Around::Well) };
    let group = match states.get(own).map(|group| &group.state) {
        Some(StepState::Open { .. }) | None => Group::Works,
        Some(StepState::Ended(StepStatus::Skipped)) => Group::Skipped,
        Some(StepState::Ended(_)) => Group::Over,
        Some(_) => Group::Waits,
    };
    let (mut at, mut around) = (Some(own), Around::Well);
    while let Some(id) = at {
        match states.get(id).map(|group| &group.state) {
            Some(StepState::Open { broken: true, .. }) => return (group, Around::Broken),
            Some(StepState::Open { late: true, .. }) => around = Around::Late,
            _ => (),
        }
        at = siblings.iter().find(|sibling| sibling.id == *id).and_then(|group| group.group.as_ref());
    }
    (group, around)
}

/// A need that was not started because of a failure counts as one; a skipped one does not.
fn counts_as_failure(status: StepStatus, forgiven: bool) -> bool {
    status == StepStatus::NotStarted || (status.is_failure() && !forgiven)
}
