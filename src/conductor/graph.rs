//! Which steps of a graph may start, by what came of those they need.

use indexmap::IndexMap;

use crate::definitions::workflow::{StartOn, Step as Definition};
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
    match verdict {
        Some(RunStatus::Cancelled | RunStatus::Superseded) => return Entry::Never,
        Some(RunStatus::Rejected) if step.start_on != StartOn::Finished => return Entry::Never,
        Some(RunStatus::Failed) if step.start_on == StartOn::Success => return Entry::Never,
        _ => (),
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

/// A need that was not started because of a failure counts as one; a skipped one does not.
fn counts_as_failure(status: StepStatus, forgiven: bool) -> bool {
    status == StepStatus::NotStarted || (status.is_failure() && !forgiven)
}
