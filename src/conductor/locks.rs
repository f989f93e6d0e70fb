//! `lock`: a step that has one does not begin before it has its lock, and gives it back when it ends. Its undo takes the same lock again.

use crate::definitions::workflow::Step as Definition;
use crate::model::step::StepState;
use crate::model::{RunError, Value};

use super::advance::{Turn, broken};
use super::effect::Effect;
use super::steps::plain;

impl Turn<'_> {
    /// The name of the lock that a step takes, if it takes one.
    pub(super) fn lock_of(&self, definition: &Definition) -> Result<Option<String>, RunError> {
        let Some(lock) = &definition.lock else { return Ok(None) };
        let name = plain(lock, &self.world.definitions.expr, &self.scope());
        match name.map_err(|failure| broken(definition, "lock", &failure))? {
            Value::String(name) if !name.trim().is_empty() => Ok(Some(name)),
            other => {
                let message = format!("`lock` of step `{}` must be a name, not {other}", definition.id);
                Err(RunError::failed(message).at(&definition.place))
            }
        }
    }

    pub(super) fn ask_for_lock(&mut self, key: &str, lock: String) {
        let since = self.world.now;
        let Some(step) = self.run.step_mut(key) else { return };
        step.lock = Some(lock.clone());
        step.state = StepState::Locking { lock: lock.clone(), since, taken: false };
        self.effects.push(Effect::TakeLock { step: key.to_owned(), lock });
    }

    /// It is the step's turn. It begins when the run goes on: a paused one starts nothing.
    pub(super) fn lock_taken(&mut self, key: &str) {
        if let Some(step) = self.run.step_mut(key)
            && let StepState::Locking { taken, .. } = &mut step.state
        {
            *taken = true;
        }
    }
}

/// The step has its lock and may begin.
pub(super) fn may_begin(state: &StepState) -> bool {
    matches!(state, StepState::Locking { taken: true, .. })
}
