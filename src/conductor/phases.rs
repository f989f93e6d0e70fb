//! From phase to phase: starts what may start, and ends the run when nothing is left. `semantics.md` has the order: steps, undo, `on_failure`,
//! `finally`.

use crate::definitions::workflow::{Kind, Step as Definition};
use crate::model::run::{Phase, UNDO_SUFFIX};
use crate::model::step::StepState;
use crate::model::{Run, RunError, RunStatus, Step, StepStatus};

use super::advance::{Turn, tell_parent};
use super::{gates, graph, steps, undo};

impl<'a> Turn<'a> {
    /// Starts what may start and goes from phase to phase, until something has to be waited for.
    pub(super) fn settle(&mut self) {
        // What ends before it began runs its last phases all the same.
        let goes = |run: &Run| !run.paused && (run.started_at.is_some() || run.verdict.is_some());
        while goes(self.run) && self.run.phase != Phase::Ended {
            let moved = match self.run.phase {
                Phase::Steps | Phase::OnFailure | Phase::Finally => self.start_ready(),
                Phase::Undo => self.start_undo(),
                Phase::Ended => false,
            };
            if moved {
                continue;
            }
            if !self.phase_has_ended() {
                return;
            }
            self.next_phase();
        }
    }

    /// The steps of the phase at hand.
    pub(super) fn section(&self) -> &'a [Definition] {
        match self.run.phase {
            Phase::Steps => &self.world.workflow.steps,
            Phase::OnFailure => &self.world.workflow.on_failure,
            Phase::Finally => &self.world.workflow.finally,
            Phase::Undo | Phase::Ended => &[],
        }
    }

    /// What judges the entry of steps in this phase: later phases have failures of their own only.
    pub(super) fn section_verdict(&self) -> Option<RunStatus> {
        match self.run.phase {
            Phase::Steps => self.run.verdict,
            Phase::OnFailure if self.run.cancels > 0 => Some(RunStatus::Cancelled),
            Phase::Finally if self.run.cancels > 1 => Some(RunStatus::Cancelled),
            _ => None,
        }
    }

    /// Nothing may be tried again: the part of the run that is at work is being ended.
    pub(super) fn is_ending(&self) -> bool {
        self.section_verdict().is_some() || (self.run.phase == Phase::Undo && self.run.cancels > 0)
    }

    /// The run has failed or was refused, and only what waits for that starts.
    pub(super) fn is_failing(&self) -> bool {
        let verdict = self.section_verdict();
        matches!(verdict, Some(RunStatus::Failed | RunStatus::Rejected))
    }

    pub(super) fn start_ready(&mut self) -> bool {
        let section = self.section();
        let mut moved = false;
        for definition in section {
            let Some(state) = self.run.steps.get(&definition.id).map(|step| &step.state) else { continue };
            moved |= match state {
                StepState::Each(_) => steps::each::go_on(self, &definition.id),
                StepState::Open { .. } => steps::group::finish(self, definition),
                StepState::Held { .. } | StepState::Closed { .. } | StepState::Locking { .. } => {
                    self.try_gate(definition)
                }
                _ => false,
            };
            if definition.entry.is_some() {
                moved |= self.try_enter(definition);
                continue;
            }
            if self.run.steps.get(&definition.id).is_none_or(|step| step.state != StepState::Pending) {
                continue;
            }
            match graph::entry(definition, section, &self.run.steps, self.section_verdict()) {
                graph::Entry::Wait => continue,
                graph::Entry::Start => self.start(definition),
                graph::Entry::Skip => self.end(&definition.id, StepStatus::Skipped),
                graph::Entry::Never => self.end(&definition.id, StepStatus::NotStarted),
            }
            moved = true;
        }
        moved
    }

    /// Begins a step that has what it needs.
    pub(super) fn enter(&mut self, definition: &'a Definition) {
        self.begin(&definition.id);
        if let Some(each) = &definition.for_each {
            return steps::each::start(self, definition, each);
        }
        match &definition.kind {
            Kind::Run(call) => steps::action::start(self, &definition.id, call),
            Kind::Approve(approve) => steps::approve::start(self, definition, approve),
            Kind::Watch(watch) => steps::watch::start(self, definition, watch),
            Kind::WaitFor(wait) => steps::wait_for::start(self, definition, wait),
            Kind::Sleep(span) => steps::sleep::start(self, definition, span),
            Kind::Emit { trigger, with } => {
                steps::emit::start(self, definition, &definition.id, trigger, with)
            }
            Kind::Group(group) => steps::group::start(self, definition, &definition.id, group),
        }
    }

    /// One undo at a time, newest start first.
    pub(super) fn start_undo(&mut self) -> bool {
        let each = self.run.undos.iter().find(|(_, undo)| matches!(undo.state, StepState::Each(_)));
        if let Some((id, _)) = each {
            let key = format!("{id}{UNDO_SUFFIX}");
            return steps::each::go_on(self, &key);
        }
        if let Some((id, _)) = self.run.undos.iter().find(|(_, undo)| gates::may_begin(&undo.state)) {
            let id = id.clone();
            self.enter_undo(&id);
            return true;
        }
        let working =
            self.run.undos.values().any(|undo| !undo.has_ended() && undo.state != StepState::Pending);
        let next = self.run.undos.iter().find(|(_, undo)| undo.state == StepState::Pending);
        let Some((id, _)) = next.filter(|_| !working) else { return false };
        let id = id.clone();
        let key = format!("{id}{UNDO_SUFFIX}");
        match self.lock_of_undo(&id) {
            _ if self.run.cancels > 0 => self.end(&key, StepStatus::NotStarted),
            Some(lock) => self.ask_for_lock(&key, lock),
            None => self.enter_undo(&id),
        }
        true
    }

    fn enter_undo(&mut self, id: &str) {
        let key = format!("{id}{UNDO_SUFFIX}");
        if self.run.items.contains_key(id) {
            self.begin(&key);
            return steps::each::start_undo(self, id);
        }
        let child = self.definition(&key).and_then(|definition| undo::child(definition, self.run));
        match (self.call_of(&key), child) {
            (Some(call), _) => {
                self.begin(&key);
                steps::action::start(self, &key, call);
            }
            (None, Some(child)) => {
                self.begin(&key);
                steps::child::roll_back(self, &key, child);
            }
            (None, None) => self.end(&key, StepStatus::Skipped),
        }
    }

    pub(super) fn phase_has_ended(&self) -> bool {
        let ended = |definition: &Definition| {
            let ended = self.run.steps.get(&definition.id).is_none_or(Step::has_ended);
            ended || self.is_unreached(definition)
        };
        match self.run.phase {
            Phase::Undo => self.run.undos.values().all(Step::has_ended),
            _ => self.section().iter().all(ended),
        }
    }

    pub(super) fn next_phase(&mut self) {
        self.run.phase = match self.run.phase {
            Phase::Steps => self.after_steps(),
            Phase::Undo => {
                self.run.undone = undo::summary(self.run);
                match self.run.verdict {
                    _ if self.run.rollback_of.is_some() => self.rolled_back(),
                    Some(RunStatus::Failed) => Phase::OnFailure,
                    _ => self.without_failure(Phase::Finally),
                }
            }
            Phase::OnFailure => Phase::Finally,
            Phase::Finally | Phase::Ended => Phase::Ended,
        };
        if self.run.phase == Phase::Ended {
            self.finish();
        }
    }

    /// A rollback is nothing but undos: it succeeded when all of them are done.
    fn rolled_back(&mut self) -> Phase {
        if self.run.verdict.is_none() {
            let left = undo::left(self.run);
            let error = (!left.is_empty()).then(|| format!("not undone: {}", left.join(", ")));
            self.run.verdict = Some(if error.is_some() { RunStatus::Failed } else { RunStatus::Succeeded });
            self.run.error = error.map(RunError::failed);
        }
        Phase::Ended
    }

    /// Where a run goes that will not run its `on_failure`: those steps never start.
    pub(super) fn without_failure(&mut self, phase: Phase) -> Phase {
        for definition in &self.world.workflow.on_failure {
            self.end(&definition.id, StepStatus::NotStarted);
        }
        phase
    }

    pub(super) fn after_steps(&mut self) -> Phase {
        self.end_unreached();
        if self.run.verdict.is_none() {
            self.give_output();
        }
        match self.run.verdict {
            Some(RunStatus::Failed | RunStatus::Rejected) => {
                self.run.undos = undo::plan(self.world.workflow, self.run);
                Phase::Undo
            }
            _ => self.without_failure(Phase::Finally),
        }
    }

    /// The run's output; an `output` that cannot be rendered fails the run while there is still an undo.
    pub(super) fn give_output(&mut self) {
        match steps::output_of(self.world, self.run, &self.scope()) {
            Ok(output) => {
                self.run.output.set(output);
                self.run.verdict = Some(RunStatus::Succeeded);
            }
            Err(error) => {
                self.run.verdict = Some(RunStatus::Failed);
                self.run.error = Some(error);
            }
        }
    }

    pub(super) fn finish(&mut self) {
        self.run.finished_at = Some(self.world.now);
        self.run.status = self.run.verdict.unwrap_or(RunStatus::Failed);
        let why = self.run.error.as_ref().map(ToString::to_string);
        self.note(&format!("run.{}", self.run.status), None, why);
        self.effects.extend(tell_parent(self.run));
    }

    pub(super) fn status(&self) -> RunStatus {
        // A group is only as busy as its steps.
        let working = |step: &Step| {
            step.status() == StepStatus::Running && !matches!(step.state, StepState::Open { .. })
        };
        let waiting = |step: &Step| matches!(step.status(), StepStatus::Waiting | StepStatus::Queued);
        match self.run.phase {
            Phase::Ended => self.run.verdict.unwrap_or(RunStatus::Failed),
            _ if self.run.paused => RunStatus::Paused,
            _ if self.run.started_at.is_none() && self.run.verdict.is_none() => RunStatus::Queued,
            Phase::Undo if self.run.rollback_of.is_some() => RunStatus::Running,
            Phase::Undo => RunStatus::Undoing,
            _ if self.run.steps.values().any(working) => RunStatus::Running,
            _ if self.run.steps.values().any(waiting) => RunStatus::Waiting,
            _ => RunStatus::Running,
        }
    }
}
