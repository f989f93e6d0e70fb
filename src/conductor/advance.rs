//! The one place where a run changes: an input is taken, then everything that can start starts, then the phase moves on.

use crate::definitions::workflow::{Call, Kind, Step as Definition};
use crate::model::run::{Phase, UNDO_SUFFIX};
use crate::model::step::StepState;
use crate::model::{
    Actor, AttemptKey, ErrorKind, Items, Kept, Run, RunError, RunId, RunStatus, Step, StepKey, StepStatus,
    Timestamp, Value,
};

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
    turn.give_way();
    turn.run.held = turn.hold().filter(|_| turn.run.phase != Phase::Ended).cloned();
    turn.run.status = turn.status();
    turn.run.all_items_mut().for_each(Items::settle);
    turn.effects
}

/// When time alone moves the run next.
pub fn wakes_at(run: &Run) -> Option<Timestamp> {
    if run.status.is_final() {
        return None;
    }
    let states = run.steps.values().chain(run.undos.values()).map(|step| &step.state);
    let starts_nothing = run.paused || run.held.is_some();
    let of_steps = states.filter_map(|state| state.wakes_at(starts_nothing)).min();
    // Items only wait for their next attempt.
    let of_items =
        run.all_items().filter(|_| !starts_nothing).filter_map(|(_, items)| items.wakes_at()).min();
    // A hold keeps nobody waiting who starts no attempt, so a window is looked at when it opens; who does start one is held from then on.
    let opens = |step: &Step| match step.state {
        StepState::Closed { until, .. } => until,
        _ => None,
    };
    let of_windows = run.steps.values().filter(|_| !run.paused).filter_map(opens).min();
    // Once it is known how the run ends, its timeout has nothing left to decide.
    let deadline = run.deadline.filter(|_| run.phase == Phase::Steps && run.verdict.is_none());
    [of_steps, of_items, of_windows, deadline].into_iter().flatten().min()
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
                    step.reported.set(output.clone());
                }
            }
            Input::AttemptFinished { key, outcome, worker } => {
                steps::action::finished(self, key, outcome, worker.as_deref());
            }
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
            Input::ValuesRead { step, values } => self.values_read(step, values),
            Input::TimePassed => self.time_passed(),
            // What was held is tried again, and retries that fell due meanwhile.
            Input::HoldsChanged => self.time_passed(),
            Input::Superseded { by } => self.superseded(*by),
            Input::Refused { why } => self.refused(why),
            Input::ForceAsked { by, why } => {
                self.force(by, why);
                self.time_passed();
            }
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

    pub(super) fn tell_children(&mut self, what: impl Fn(RunId) -> Effect) {
        self.run.all_items_mut().for_each(Items::settle);
        let steps = self.run.steps.values().chain(self.run.undos.values());
        let items =
            self.run.all_items().flat_map(|(_, items)| items.active().filter_map(|item| items.get(item)));
        let children = steps.chain(items).filter_map(|step| match step.state {
            StepState::Child { run } => run,
            _ => None,
        });
        self.effects.extend(children.map(what));
    }

    /// A younger run wants this one's place. One that has not begun gives way at once.
    fn superseded(&mut self, by: RunId) {
        self.run.wanted_by = self.run.wanted_by.max(Some(by));
        if self.run.started_at.is_none() && self.run.verdict.is_none() {
            self.end_superseded(by);
            self.run.paused = false;
            self.settle();
        }
    }

    /// Ends a run that only waits, when a younger one wants its place.
    fn give_way(&mut self) {
        let Some(by) = self.run.wanted_by else { return };
        let may_end =
            self.run.phase == Phase::Steps && self.run.verdict.is_none() && self.run.started_at.is_some();
        if may_end && self.only_waits() {
            self.end_superseded(by);
            self.stop_waiting();
            self.run.paused = false;
            self.settle();
        }
    }

    fn end_superseded(&mut self, by: RunId) {
        self.run.verdict = Some(RunStatus::Superseded);
        self.run.error = Some(RunError::new(ErrorKind::Cancelled, format!("superseded by run {by}")));
    }

    /// Whether all that is at work is waiting for people, events or time.
    fn only_waits(&self) -> bool {
        let at_work = |step: &&Step| !step.has_ended() && step.state != StepState::Pending;
        let mut steps = self.run.steps.values().filter(at_work).peekable();
        let waits = |step: &Step| match &step.state {
            StepState::Approving { .. } | StepState::Sleeping { .. } | StepState::Open { .. } => true,
            StepState::WaitingFor { .. } | StepState::Watching { .. } => step.state.attempt().is_none(),
            _ => false,
        };
        steps.peek().is_some() && steps.all(waits)
    }

    /// It may not begin.
    fn refused(&mut self, why: &str) {
        if self.run.started_at.is_some() || self.run.verdict.is_some() {
            return;
        }
        // Nothing of it begins, not even what tells of failures.
        self.run.verdict = Some(RunStatus::Failed);
        self.run.error = Some(RunError::new(ErrorKind::Rejected, why));
        let steps: Vec<String> = self.run.steps.keys().cloned().collect();
        for step in steps {
            self.end(&step, StepStatus::NotStarted);
        }
        self.run.phase = Phase::Ended;
        self.finish();
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
        let was_paused = std::mem::replace(&mut self.run.paused, false);
        self.note("run.cancelled", None, Some(format!("by {by}")));
        self.run.cancelled_by.get_or_insert_with(|| by.clone());
        let goes_on = self.run.phase == Phase::Finally && self.run.cancels < 2;
        self.run.verdict = Some(RunStatus::Cancelled);
        if self.run.error.is_none() {
            self.run.error = Some(RunError::new(ErrorKind::Cancelled, format!("cancelled by {by}")));
        }
        if !goes_on {
            self.end_all();
        } else if was_paused {
            // What works for `finally` goes on with it.
            self.tell_children(|run| Effect::ResumeChild { run });
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
        let mut keys: Vec<String> = self.run.steps.keys().cloned().chain(undos).collect();
        self.run.all_items_mut().for_each(Items::settle);
        for (key, items) in self.run.all_items() {
            keys.extend(
                items.due(now).into_iter().map(|item| StepKey { item: Some(item), ..key }.to_string()),
            );
        }
        for key in keys {
            let starts_nothing = self.starts_nothing();
            let wakes_at = self.run.step(&key).and_then(|step| step.state.wakes_at(starts_nothing));
            if wakes_at.is_some_and(|at| at <= now) {
                self.fall_due(&key);
            }
        }
    }

    fn fall_due(&mut self, key: &str) {
        let Some(state) = self.run.step(key).map(|step| step.state.clone()) else { return };
        match state {
            StepState::Retrying { .. } | StepState::Repeating { .. } => steps::action::again(self, key),
            StepState::Approving { .. } => steps::approve::tick(self, key),
            StepState::WaitingFor { .. } => steps::wait_for::tick(self, key),
            StepState::Watching { .. } => steps::watch::tick(self, key),
            StepState::Sleeping { .. } => self.succeed(key, Value::Null),
            // Gates are tried when the run settles.
            StepState::Pending
            | StepState::Reading
            | StepState::Held { .. }
            | StepState::Closed { .. }
            | StepState::Open { .. }
            | StepState::Each(_)
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

    /// The names for what is said of `key`: an undo sees outputs that were only reported, an item sees itself, and a step what its `read` bound.
    pub(super) fn scope_for(&self, key: &str) -> Scope {
        let mut scope = names::scope(self.world, self.run, key.ends_with(UNDO_SUFFIX));
        let parsed = StepKey::parse(key);
        if let Some(bound) = self.run.steps.get(parsed.id).and_then(|step| step.bound.as_object()) {
            for (name, value) in bound {
                scope = scope.with(name, value.clone());
            }
        }
        for (name, value) in self.loop_names(key) {
            scope = scope.with(&name, value);
        }
        if let (true, Some(item)) = (parsed.undo, parsed.item) {
            let step = self.run.items.get(parsed.id).and_then(|items| items.get(item));
            let output = step.map(|step| if step.output.is_null() { &step.reported } else { &step.output });
            scope = scope.with("output", output.map(Kept::shared).unwrap_or_default());
        }
        scope
    }

    /// `item`, as it is called, and `index` of an item.
    pub(super) fn loop_names(&self, key: &str) -> Vec<(String, Value)> {
        let key = StepKey::parse(key);
        let Some(index) = key.item else { return Vec::new() };
        let name = self.definition(key.id).and_then(|definition| definition.for_each.as_ref());
        let list = self.run.items.get(key.id).map(|items| &items.list);
        let item = list.and_then(|list| list.get(index as usize)).cloned().unwrap_or_default();
        let name = name.map_or("item", |each| each.name.as_str()).to_owned();
        vec![(name, item), ("index".to_owned(), Value::from(index))]
    }

    /// The step's definition; an undo's is that of its step.
    pub(super) fn definition(&self, key: &str) -> Option<&'a Definition> {
        let id = StepKey::parse(key).id;
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
            Kind::Approve(_) | Kind::Sleep(_) | Kind::Emit { .. } | Kind::Group(_) => None,
        }
    }

    /// The step that is doing the attempt `key` now; none when it came late or twice.
    pub(super) fn attempting(&mut self, key: &AttemptKey) -> Option<&mut Step> {
        if key.run != self.run.id {
            return None;
        }
        self.run.step_mut(&key.step_key()).filter(|step| step.is_doing(key))
    }

    pub(super) fn begin(&mut self, key: &str) {
        self.run.begun += 1;
        let (order, now) = (self.run.begun, self.world.now);
        if let Some(step) = self.run.step_mut(key) {
            step.order = order;
            step.visit += 1;
            step.started_at = Some(now);
        }
        // Thousands of items would drown the history; they have a page of their own.
        if StepKey::parse(key).item.is_none() {
            self.note("started", Some(key), None);
        }
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
