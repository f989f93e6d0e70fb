//! What stands between a step that could start and its start: values to be read, a hold, a window, a lock. Undo, `on_failure`, `finally` and rollbacks
//! pass holds and windows, but take their lock; so does a run that somebody forced, but for its locks.

use crate::definitions::window::WindowState;
use crate::definitions::workflow::{Kind, Step as Definition};
use crate::model::hold::Hold;
use crate::model::run::Phase;
use crate::model::step::StepState;
use crate::model::{Actor, Object, RunError, StepStatus, Timestamp, Value};

use super::advance::{Turn, broken};
use super::begin::with_groups;
use super::effect::Effect;
use super::steps::plain;

impl<'a> Turn<'a> {
    /// A step whose needs are met, from its first gate on.
    pub(super) fn start(&mut self, definition: &'a Definition) {
        match self.values_to_read(definition) {
            Ok(keys) if keys.is_empty() => self.after_reading(definition),
            Ok(keys) => {
                self.set(&definition.id, StepState::Reading);
                self.effects.push(Effect::Read { step: definition.id.clone(), keys });
            }
            Err(error) => self.fail(&definition.id, StepStatus::Failed, error),
        }
    }

    /// The keys of `read`, by name; empty when there are none, or they have been read.
    fn values_to_read(&self, definition: &Definition) -> Result<Vec<(String, String)>, RunError> {
        let is_read = self.run.steps.get(&definition.id).is_none_or(|step| !step.bound.is_null());
        if is_read {
            return Ok(Vec::new());
        }
        let scope = self.scope_for(&definition.id);
        let key = |(name, tree): &(String, _)| {
            let key = plain(tree, &self.world.definitions.expr, &scope)
                .map_err(|failure| broken(definition, "read", &failure))?;
            match key {
                Value::String(key) if !key.is_empty() => Ok((name.clone(), key)),
                other => {
                    let message = format!("`read` of step `{}` must name a key, not {other}", definition.id);
                    Err(RunError::failed(message).at(&definition.place))
                }
            }
        };
        definition.read.iter().map(key).collect()
    }

    /// The values came.
    pub(super) fn values_read(&mut self, key: &str, values: &Object) {
        if let Some(step) = self.run.step_mut(key).filter(|step| step.state == StepState::Reading) {
            step.bound.set(Value::Object(values.clone()));
            step.state = StepState::Pending;
        }
    }

    fn after_reading(&mut self, definition: &'a Definition) {
        if let Some(when) = &definition.when {
            match self.world.definitions.expr.condition(when, &self.scope_for(&definition.id)) {
                Ok(true) => (),
                Ok(false) => return self.end(&definition.id, StepStatus::Skipped),
                Err(failure) => {
                    let error = broken(definition, "when", &failure);
                    return self.fail(&definition.id, StepStatus::Failed, error);
                }
            }
        }
        if self.is_open_for(definition) {
            self.after_window(definition);
        }
    }

    /// A step that waits at a gate goes on when that is open now. Says whether it moved.
    pub(super) fn try_gate(&mut self, definition: &'a Definition) -> bool {
        let Some(state) = self.run.steps.get(&definition.id).map(|step| step.state.clone()) else {
            return false;
        };
        match state {
            StepState::Held { .. } if self.hold().is_some() => false,
            StepState::Closed { until, .. }
                if until.is_none_or(|until| until > self.world.now) && self.run.forced.is_none() =>
            {
                false
            }
            StepState::Held { .. } | StepState::Closed { .. } => {
                if self.is_open_for(definition) {
                    self.after_window(definition);
                    return true;
                }
                self.run.steps.get(&definition.id).is_none_or(|step| step.state != state)
            }
            StepState::Locking { taken: true, .. } => {
                if self.is_open_for(definition) {
                    self.enter(definition);
                } else {
                    // Nobody is kept waiting behind a closed window.
                    self.effects.push(Effect::FreeLock { step: definition.id.clone() });
                    if let Some(step) = self.run.steps.get_mut(&definition.id) {
                        step.lock = None;
                    }
                }
                true
            }
            _ => false,
        }
    }

    /// Whether neither a hold nor a window keeps the step from starting; else it waits for that.
    fn is_open_for(&mut self, definition: &Definition) -> bool {
        let since = self.world.now;
        if self.does_attempts(definition) && self.hold().is_some() {
            self.set(&definition.id, StepState::Held { since });
            return false;
        }
        match self.closed_window(definition) {
            None => true,
            Some((window, until)) => {
                let why = match until {
                    Some(until) => format!("{window} opens at {until}"),
                    None => format!("{window} does not open within two years"),
                };
                self.note("waits for its window", Some(&definition.id), Some(why));
                self.set(&definition.id, StepState::Closed { window, since, until });
                false
            }
        }
    }

    fn after_window(&mut self, definition: &'a Definition) {
        match self.lock_of(definition) {
            Ok(None) => self.enter(definition),
            // It would wait for its own group for ever.
            Ok(Some(lock)) if self.is_locked_around(definition, &lock) => self.enter(definition),
            Ok(Some(lock)) => self.ask_for_lock(&definition.id, lock),
            Err(error) => self.fail(&definition.id, StepStatus::Failed, error),
        }
    }

    fn does_attempts(&self, definition: &Definition) -> bool {
        match &definition.kind {
            Kind::Run(call) => self.world.definitions.actions.contains_key(&call.run),
            _ => false,
        }
    }

    /// Whether holds and windows are of no concern to what the run does now.
    fn passes_gates(&self) -> bool {
        self.run.phase != Phase::Steps || self.run.forced.is_some() || self.run.rollback_of.is_some()
    }

    /// The hold that keeps the run from starting attempts now.
    pub(super) fn hold(&self) -> Option<&'a Hold> {
        if self.passes_gates() {
            return None;
        }
        self.world.holds.on(self.run.input.get("app").and_then(Value::as_str))
    }

    /// Nothing that is done by a worker may start now.
    pub(super) fn starts_nothing(&self) -> bool {
        self.run.paused || self.hold().is_some()
    }

    /// The window that keeps a step from starting now, and when it opens.
    fn closed_window(&self, definition: &Definition) -> Option<(String, Option<Timestamp>)> {
        if self.passes_gates() {
            return None;
        }
        let own = definition.window.clone();
        let names = [own, self.window_of_environment(definition)];
        let windows = &self.world.definitions.site.windows;
        let closed = |name: String| match windows.get(&name).map(|window| window.state(self.world.now)) {
            Some(WindowState::Open) => None,
            Some(WindowState::Closed { until }) => Some((name, until)),
            // Its definition is broken: better late than at a wrong time.
            None => Some((name, None)),
        };
        names.into_iter().flatten().find_map(closed)
    }

    /// An environment's window applies to steps that name both, app and environment.
    fn window_of_environment(&self, definition: &Definition) -> Option<String> {
        let Kind::Run(call) = &definition.kind else { return None };
        let scope = self.scope_for(&definition.id);
        let given = |name: &str| {
            let (_, tree) = call.with.iter().find(|(key, _)| key == name)?;
            let value = plain(tree, &self.world.definitions.expr, &scope).ok()?;
            value.as_str().map(str::to_owned)
        };
        let environment = given("environment")?;
        let of_run = || self.run.input.get("app").and_then(Value::as_str).map(str::to_owned);
        let app = given("app").or_else(of_run)?;
        let apps = &self.world.definitions.apps;
        apps.get(&app)?.get("environments")?.get(&environment)?.get("window")?.as_str().map(str::to_owned)
    }

    /// The name of the lock that a step takes, if it takes one.
    fn lock_of(&self, definition: &Definition) -> Result<Option<String>, RunError> {
        let Some(lock) = &definition.lock else { return Ok(None) };
        let name = plain(lock, &self.world.definitions.expr, &self.scope_for(&definition.id));
        match name.map_err(|failure| broken(definition, "lock", &failure))? {
            Value::String(name) if !name.trim().is_empty() => Ok(Some(name)),
            other => {
                let message = format!("`lock` of step `{}` must be a name, not {other}", definition.id);
                Err(RunError::failed(message).at(&definition.place))
            }
        }
    }

    /// Whether a group around the step has this lock.
    fn is_locked_around(&self, definition: &Definition, lock: &str) -> bool {
        let around = with_groups(self.world.workflow, definition);
        let steps = around.iter().skip(1).filter_map(|group| self.run.steps.get(&group.id));
        steps.into_iter().any(|group| group.lock.as_deref() == Some(lock) && !group.has_ended())
    }

    /// The lock under which a step was at work, its own or that of a group around it.
    pub(super) fn lock_of_undo(&self, id: &str) -> Option<String> {
        let own = self.run.steps.get(id)?.lock.clone();
        let definition = self.world.workflow.steps.iter().find(|step| step.id == id)?;
        if own.is_some() || definition.lock.is_none() {
            return own;
        }
        let around = with_groups(self.world.workflow, definition);
        around.iter().skip(1).find_map(|group| self.run.steps.get(&group.id)?.lock.clone())
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

    /// Somebody lets the run pass windows and holds; approvals it never passes.
    pub(super) fn force(&mut self, by: &Actor, why: &str) {
        if self.run.forced.is_some() {
            return;
        }
        self.run.forced = Some(crate::model::run::Force { by: by.clone(), why: why.to_owned() });
        self.note("run.forced", None, Some(format!("by {by}: {why}")));
        let (by, why) = (by.clone(), why.to_owned());
        self.tell_children(|run| Effect::ForceChild { run, by: by.clone(), why: why.clone() });
    }
}

/// The undo has its lock and may begin.
pub(super) fn may_begin(state: &StepState) -> bool {
    matches!(state, StepState::Locking { taken: true, .. })
}
