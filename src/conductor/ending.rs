//! How steps end: by themselves, by a failure, or because the run ends.

use std::sync::Arc;

use crate::definitions::workflow::Step as Definition;
use crate::model::run::{Phase, UNDO_SUFFIX};
use crate::model::step::StepState;
use crate::model::{AttemptKey, ErrorKind, Run, RunError, RunStatus, StepKey, StepStatus, Timestamp, Value};

use super::advance::{Turn, tell_parent};
use super::effect::{Effect, Entry};
use super::steps;

impl Turn<'_> {
    pub(super) fn succeed(&mut self, key: &str, output: impl Into<Arc<Value>>) {
        if let Some(step) = self.run.step_mut(key) {
            step.output.set(output);
            step.error = None;
        }
        self.end(key, StepStatus::Succeeded);
    }

    /// Ends a step without a failure.
    pub(super) fn end(&mut self, key: &str, status: StepStatus) {
        let now = self.world.now;
        let Some(step) = self.run.step_mut(key) else { return };
        if step.has_ended() {
            return;
        }
        step.state = StepState::Ended(status);
        let began = step.started_at.is_some();
        let locked = step.lock.is_some();
        if began {
            step.finished_at = Some(now);
        }
        if locked {
            self.effects.push(Effect::FreeLock { step: key.to_owned() });
        }
        let Some(step) = self.run.step(key) else { return };
        let detail = step.error.as_ref().map(ToString::to_string).or_else(|| step.note.clone());
        self.follow_edges(key, status);
        let is_item = StepKey::parse(key).item.is_some();
        if (began || status.is_failure() || status == StepStatus::Skipped)
            && (!is_item || status != StepStatus::Succeeded)
        {
            self.note(status.as_str(), Some(key), detail);
        }
        if is_item {
            steps::each::item_ended(self, key, status);
        }
    }

    /// Ends a step with a failure, and the run with it unless the step is forgiven or belongs to a later phase.
    pub(super) fn fail(&mut self, key: &str, status: StepStatus, error: RunError) {
        if let Some(step) = self.run.step_mut(key) {
            step.error = Some(error.clone());
        }
        self.end(key, status);
        // What an item comes to is for its step to judge; so is an undo for the run, once all are done.
        let parsed = StepKey::parse(key);
        if parsed.item.is_some() || parsed.undo {
            return;
        }
        let Some(definition) = self.definition(key) else { return };
        if definition.continue_on_failure || self.leads_on(definition, status) {
            return;
        }
        if !self.break_groups(definition) || self.run.phase != Phase::Steps || self.run.verdict.is_some() {
            return;
        }
        self.run.verdict = Some(RunStatus::Failed);
        self.run.error = Some(error.of_step(key));
        self.stop_waiting();
    }

    /// A failure breaks the groups around it, up to one that is forgiven, and what only waits in them ends. Whether it gets as far as the run.
    fn break_groups(&mut self, definition: &Definition) -> bool {
        let mut at = definition.group.clone();
        let mut outermost = None;
        while let Some(id) = at {
            if let Some(step) = self.run.steps.get_mut(&id)
                && let StepState::Open { broken, .. } = &mut step.state
            {
                *broken = true;
            }
            let Some(group) = self.definition(&id) else { return true };
            if group.continue_on_failure {
                self.stop_waiting_in(Some(&id));
                return false;
            }
            at = group.group.clone();
            outermost = Some(id);
        }
        // Also where the run had failed before, or this is a later phase.
        if let Some(group) = outermost {
            self.stop_waiting_in(Some(&group));
        }
        true
    }

    /// A refusal by people: no failure, but the end.
    pub(super) fn refuse(&mut self, key: &str, error: RunError) {
        if let Some(step) = self.run.step_mut(key) {
            step.error = Some(error.clone());
        }
        self.end(key, StepStatus::Rejected);
        if self.run.phase == Phase::Steps && self.run.verdict.is_none() {
            self.run.verdict = Some(RunStatus::Rejected);
            self.run.error = Some(error.of_step(key));
            self.stop_waiting();
        }
    }

    /// After a failure: attempts in flight are left to finish, no retry starts, and what only waits ends.
    pub(super) fn stop_waiting(&mut self) {
        self.stop_waiting_in(None);
    }

    /// The same for the steps of one group.
    fn stop_waiting_in(&mut self, group: Option<&str>) {
        for definition in self.section() {
            if group.is_some_and(|group| !self.is_inside(definition, group)) {
                continue;
            }
            let Some(step) = self.run.steps.get(&definition.id) else { continue };
            match step.state {
                StepState::Retrying { .. } => self.give_up_retrying(&definition.id),
                StepState::Each(_) => steps::each::give_up_retrying(self, &definition.id),
                StepState::Pending
                | StepState::Open { .. }
                | StepState::Attempting { .. }
                | StepState::Child { .. }
                | StepState::Ended(_) => (),
                _ => self.stop(&definition.id),
            }
        }
    }

    fn is_inside(&self, definition: &Definition, group: &str) -> bool {
        let mut at = definition.group.as_deref();
        while let Some(id) = at {
            if id == group {
                return true;
            }
            at = self.definition(id).and_then(|definition| definition.group.as_deref());
        }
        false
    }

    /// After a cancel or the workflow's timeout: attempts and children are ended too.
    pub(super) fn end_all(&mut self) {
        let undos = self.run.undos.keys().map(|id| format!("{id}{UNDO_SUFFIX}"));
        let steps = self.section().iter().map(|definition| definition.id.clone());
        let keys: Vec<String> = steps.chain(undos).collect();
        for key in keys {
            self.stop(&key);
        }
    }

    pub(super) fn stop(&mut self, key: &str) {
        let Some(step) = self.run.step_mut(key) else { return };
        step.stopped = !step.has_ended() && step.state != StepState::Pending;
        let visit = step.visit;
        match step.state.clone() {
            StepState::Attempting { number, .. } => self.cancel_attempt(key, visit, number),
            StepState::Child { run: Some(run) } => self.effects.push(Effect::CancelChild { run }),
            StepState::Approving { .. } => {
                self.effects.push(Effect::Withdraw { step: key.to_owned(), expired: false });
                self.end(key, StepStatus::Cancelled);
            }
            StepState::Watching { checking: at_work, .. }
            | StepState::WaitingFor { polling: at_work, .. } => {
                if let Some(number) = at_work {
                    self.cancel_attempt(key, visit, number);
                }
                self.end(key, StepStatus::Cancelled);
            }
            StepState::Sleeping { .. } | StepState::Retrying { .. } | StepState::Repeating { .. } => {
                self.end(key, StepStatus::Cancelled);
            }
            StepState::Locking { .. }
            | StepState::Reading
            | StepState::Held { .. }
            | StepState::Closed { .. } => self.end(key, StepStatus::NotStarted),
            StepState::Each(_) => steps::each::stop_items(self, key),
            StepState::Open { .. }
            | StepState::Pending
            | StepState::Child { run: None }
            | StepState::Ended(_) => (),
        }
    }

    pub(super) fn give_up_retrying(&mut self, key: &str) {
        let error = self.run.step(key).and_then(|step| step.error.clone());
        let error = error
            .unwrap_or_else(|| RunError::failed("it failed, and the run failed before it was tried again"));
        self.fail(key, status_of(error.kind), error);
    }

    pub(super) fn cancel_attempt(&mut self, step: &str, visit: u32, number: u32) {
        let key = AttemptKey::of(self.run.id, step, visit, number);
        self.effects.push(Effect::CancelAttempt { key });
    }
}

/// Ends a run that can't go on, its definitions being gone, say, with everything that it is doing.
pub fn give_up(run: &mut Run, why: &str, now: Timestamp) -> Vec<Effect> {
    if run.status.is_final() {
        return Vec::new();
    }
    let mut effects = Vec::new();
    let undos = run.undos.keys().map(|id| format!("{id}{UNDO_SUFFIX}"));
    let mut keys: Vec<String> = run.steps.keys().cloned().chain(undos).collect();
    for (key, items) in run.all_items() {
        keys.extend(items.active().map(|item| StepKey { item: Some(item), ..key }.to_string()));
    }
    for key in keys {
        let id = run.id;
        let Some(step) = run.step_mut(&key).filter(|step| !step.has_ended()) else { continue };
        if let Some(number) = step.state.attempt() {
            let key = AttemptKey::of(id, &key, step.visit, number);
            effects.push(Effect::CancelAttempt { key });
        }
        match step.state {
            StepState::Child { run: Some(child) } => effects.push(Effect::CancelChild { run: child }),
            StepState::Approving { .. } => effects.push(Effect::Withdraw { step: key, expired: false }),
            _ => (),
        }
        let began = step.started_at.is_some();
        step.state = StepState::Ended(if began { StepStatus::Cancelled } else { StepStatus::NotStarted });
        step.finished_at = began.then_some(now);
    }
    run.verdict = Some(RunStatus::Failed);
    run.status = RunStatus::Failed;
    run.phase = Phase::Ended;
    run.finished_at = Some(now);
    let error = RunError::new(ErrorKind::Limit, format!("the run can't go on: {why}"));
    let detail = Some(error.to_string());
    effects.push(Effect::Note(Entry { at: now, what: "run.failed".to_owned(), step: None, detail }));
    run.error = Some(error);
    effects.extend(tell_parent(run));
    effects
}

/// The status of a step that ended with this kind of error.
pub(super) fn status_of(kind: ErrorKind) -> StepStatus {
    match kind {
        ErrorKind::Failed | ErrorKind::Limit => StepStatus::Failed,
        ErrorKind::TimedOut => StepStatus::TimedOut,
        ErrorKind::Rejected => StepStatus::Rejected,
        ErrorKind::Lost => StepStatus::Lost,
        ErrorKind::Cancelled => StepStatus::Cancelled,
    }
}
