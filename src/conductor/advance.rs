//! The one place where a run changes: an input is taken, then everything that can start starts, then the phase moves on.

use crate::definitions::workflow::{Call, Kind, Step as Definition};
use crate::model::run::{Phase, UNDO_SUFFIX};
use crate::model::step::StepState;
use crate::model::{Actor, AttemptKey, ErrorKind, Run, RunError, RunId, RunStatus, Step, Timestamp, Value};

use super::effect::{Effect, Entry, Listening};
use super::{Input, World, names, steps};
use crate::definitions::Workflow;
use crate::expr::{Failure, Scope};

/// Takes `input` and moves the run as far as it goes without another one. What it gives is to be carried out once the run is stored.
pub fn advance(world: World<'_>, run: &mut Run, input: &Input) -> Vec<Effect> {
    if run.status.is_final() {
        return Vec::new(); // Late: nothing waits for it.
    }
    let mut turn = Turn { world, run, effects: Vec::new() };
    turn.take(input);
    turn.settle();
    turn.run.status = turn.status();
    turn.effects
}

/// When time alone moves the run next.
pub fn wakes_at(run: &Run) -> Option<Timestamp> {
    if run.status.is_final() {
        return None;
    }
    let states = run.steps.values().chain(run.undos.values()).map(|step| &step.state);
    let of_steps = states.filter_map(|state| state.wakes_at(run.paused)).min();
    // Once it is known how the run ends, its timeout has nothing left to decide.
    let deadline = run.deadline.filter(|_| run.phase == Phase::Steps && run.verdict.is_none());
    [of_steps, deadline].into_iter().flatten().min()
}

/// The triggers that steps of the run listen to now.
pub fn listens(workflow: &Workflow, run: &Run) -> Vec<Listening> {
    let mut found = Vec::new();
    for definition in all_steps(workflow) {
        let Some(step) = run.steps.get(&definition.id) else { continue };
        let started = step.started_at.unwrap_or(run.created_at);
        let mut listen = |trigger: &str, since| {
            found.push(Listening { step: definition.id.clone(), trigger: trigger.to_owned(), since });
        };
        match (&definition.kind, &step.state) {
            (Kind::WaitFor(wait), StepState::WaitingFor { .. }) => {
                listen(&wait.event.trigger, run.created_at)
            }
            (Kind::Watch(watch), StepState::Watching { .. }) => {
                let since =
                    watch.since.as_ref().and_then(|id| run.steps.get(id)).and_then(|step| step.started_at);
                for pattern in &watch.abort_on {
                    listen(&pattern.trigger, since.unwrap_or(started));
                }
            }
            _ => (),
        }
    }
    found
}

pub(super) fn tell_parent(run: &Run) -> Option<Effect> {
    let parent = run.parent.clone()?;
    let (status, output, error) = (run.status, run.output.clone(), run.error.clone());
    Some(Effect::TellParent { parent, status, output, error })
}

fn all_steps(workflow: &Workflow) -> impl Iterator<Item = &Definition> {
    workflow.steps.iter().chain(&workflow.on_failure).chain(&workflow.finally)
}

/// One call of `advance` at work.
pub(super) struct Turn<'a> {
    pub(super) world: World<'a>,
    pub(super) run: &'a mut Run,
    pub(super) effects: Vec<Effect>,
}

impl<'a> Turn<'a> {
    fn take(&mut self, input: &Input) {
        match input {
            Input::Started => self.started(),
            Input::AttemptReported { key, output } => {
                if let Some(step) = self.attempting(key) {
                    step.reported = output.clone();
                }
            }
            Input::AttemptFinished { key, outcome } => steps::action::finished(self, key, outcome),
            Input::Approved { step, by, comment, answers } => {
                steps::approve::approved(self, step, by, comment.as_deref(), answers);
            }
            Input::Rejected { step, by, comment } => {
                steps::approve::rejected(self, step, by, comment.as_deref())
            }
            Input::EventCame { event } => {
                steps::wait_for::event_came(self, event);
                steps::watch::event_came(self, event);
            }
            Input::ChildEnded { step, run, status, output, error } => {
                steps::child::ended(self, step, *run, *status, output, error.as_ref());
            }
            Input::NothingToUndo { step } => steps::child::nothing_to_undo(self, step),
            Input::LockTaken { step } => self.lock_taken(step),
            Input::TimePassed => self.time_passed(),
            Input::CancelAsked { by } => self.cancel(by),
            Input::PauseAsked { by } => self.pause(by),
            Input::ResumeAsked { by } => self.resume(by),
        }
    }

    fn started(&mut self) {
        if self.run.started_at.is_some() {
            return;
        }
        self.run.started_at = Some(self.world.now);
        self.run.deadline = self.world.workflow.timeout.map(|span| self.world.now.plus(span));
        self.note("run.started", None, Some(format!("by {}", self.run.started_by)));
    }

    fn pause(&mut self, by: &Actor) {
        if !self.run.paused {
            self.run.paused = true;
            self.note("run.paused", None, Some(format!("by {by}")));
            self.tell_children(|run| Effect::PauseChild { run });
        }
    }

    fn tell_children(&mut self, what: impl Fn(RunId) -> Effect) {
        let steps = self.run.steps.values().chain(self.run.undos.values());
        let children = steps.filter_map(|step| match step.state {
            StepState::Child { run } => run,
            _ => None,
        });
        self.effects.extend(children.map(what));
    }

    fn resume(&mut self, by: &Actor) {
        if self.run.paused {
            self.run.paused = false;
            self.note("run.resumed", None, Some(format!("by {by}")));
            self.tell_children(|run| Effect::ResumeChild { run });
            self.time_passed(); // Retries that fell due meanwhile.
        }
    }

    /// Ends what goes on, by phase. Undo and `on_failure` do not run after it, `finally` does; a second cancel ends that too.
    fn cancel(&mut self, by: &Actor) {
        self.run.cancels += 1;
        self.run.paused = false;
        self.note("run.cancelled", None, Some(format!("by {by}")));
        self.run.cancelled_by.get_or_insert_with(|| by.clone());
        let goes_on = self.run.phase == Phase::Finally && self.run.cancels < 2;
        self.run.verdict = Some(RunStatus::Cancelled);
        if self.run.error.is_none() {
            self.run.error = Some(RunError::new(ErrorKind::Cancelled, format!("cancelled by {by}")));
        }
        if !goes_on {
            self.end_all();
        }
    }

    fn time_passed(&mut self) {
        let now = self.world.now;
        let over = self.run.deadline.is_some_and(|deadline| deadline <= now);
        if over && self.run.phase == Phase::Steps && self.run.verdict.is_none() {
            let span = self.world.workflow.timeout.unwrap_or_default();
            let error =
                RunError::new(ErrorKind::TimedOut, format!("the workflow's timeout of {span} has passed"));
            self.run.verdict = Some(RunStatus::Failed);
            self.run.error = Some(error);
            self.end_all();
        }
        let undos = self.run.undos.keys().map(|id| format!("{id}{UNDO_SUFFIX}"));
        let keys: Vec<String> = self.run.steps.keys().cloned().chain(undos).collect();
        for key in keys {
            let paused = self.run.paused;
            let wakes_at = self.run.step(&key).and_then(|step| step.state.wakes_at(paused));
            if wakes_at.is_some_and(|at| at <= now) {
                self.fall_due(&key);
            }
        }
    }

    fn fall_due(&mut self, key: &str) {
        let Some(state) = self.run.step(key).map(|step| step.state.clone()) else { return };
        match state {
            StepState::Retrying { .. } | StepState::Repeating { .. } => steps::action::again(self, key),
            StepState::Approving { .. } => steps::approve::expired(self, key),
            StepState::WaitingFor { .. } => steps::wait_for::tick(self, key),
            StepState::Watching { .. } => steps::watch::tick(self, key),
            StepState::Sleeping { .. } => self.succeed(key, Value::Null),
            StepState::Pending
            | StepState::Locking { .. }
            | StepState::Attempting { .. }
            | StepState::Child { .. }
            | StepState::Ended(_) => (),
        }
    }

    // What the steps use.

    pub(super) fn scope(&self) -> Scope {
        names::scope(self.world, self.run, false)
    }

    /// The names for rendering what `key` is called with: an undo sees outputs that were only reported.
    pub(super) fn scope_for(&self, key: &str) -> Scope {
        names::scope(self.world, self.run, key.ends_with(UNDO_SUFFIX))
    }

    /// The step's definition; an undo's is that of its step.
    pub(super) fn definition(&self, key: &str) -> Option<&'a Definition> {
        let id = key.strip_suffix(UNDO_SUFFIX).unwrap_or(key);
        all_steps(self.world.workflow).find(|definition| definition.id == id)
    }

    /// What a step or an undo calls.
    pub(super) fn call_of(&self, key: &str) -> Option<&'a Call> {
        let definition = self.definition(key)?;
        if key.ends_with(UNDO_SUFFIX) {
            return definition.undo.as_ref();
        }
        match &definition.kind {
            Kind::Run(call) => Some(call),
            Kind::Watch(watch) => watch.check.as_ref().map(|check| &check.call),
            Kind::WaitFor(wait) => wait.poll.as_ref().map(|poll| &poll.call),
            Kind::Approve(_) | Kind::Sleep(_) | Kind::Emit { .. } => None,
        }
    }

    /// The step that is doing the attempt `key` now; none when it came late or twice.
    pub(super) fn attempting(&mut self, key: &AttemptKey) -> Option<&mut Step> {
        if key.run != self.run.id {
            return None;
        }
        self.run.step_mut(&key.step).filter(|step| step.is_doing(key))
    }

    pub(super) fn begin(&mut self, key: &str) {
        self.run.begun += 1;
        let (order, now) = (self.run.begun, self.world.now);
        if let Some(step) = self.run.step_mut(key) {
            step.order = order;
            step.visit += 1;
            step.started_at = Some(now);
        }
        self.note("started", Some(key), None);
    }

    pub(super) fn set(&mut self, key: &str, state: StepState) {
        if let Some(step) = self.run.step_mut(key) {
            step.state = state;
        }
    }

    /// Adds a line of history. `what` of a step is prefixed with `step.` or `undo.`.
    pub(super) fn note(&mut self, what: &str, step: Option<&str>, detail: Option<String>) {
        let (what, step) = match step {
            None => (what.to_owned(), None),
            Some(key) => match key.strip_suffix(UNDO_SUFFIX) {
                Some(id) => (format!("undo.{what}"), Some(id.to_owned())),
                None => (format!("step.{what}"), Some(key.to_owned())),
            },
        };
        self.effects.push(Effect::Note(Entry { at: self.world.now, what, step, detail }));
    }
}

/// The error of a step whose own expression failed.
pub(super) fn broken(definition: &Definition, key: &str, failure: &Failure) -> RunError {
    RunError::failed(format!("`{key}` of step `{}`: {}", definition.id, failure.message))
        .at(&definition.place)
}
