//! Graphs with edges: what a step leads to, on which outcome, under which condition, and what it publishes on the way. A step is entered when as many
//! tokens have come as it joins, and entered again when they come again: so a graph may go in circles. Lists and `needs` need nothing of this; other
//! syntaxes compile to it.

use crate::definitions::workflow::{Edge, Join, StartOn, Step as Definition};
use crate::model::run::Phase;
use crate::model::step::StepState;
use crate::model::{ErrorKind, RunError, Step, StepKey, StepStatus};

use super::advance::{Turn, broken};
use super::begin::with_groups;
use super::steps::plain;

/// How often a step may be entered in one run: a circle without a way out ends here.
pub(super) const MAX_VISITS: u32 = 1_000;

impl<'a> Turn<'a> {
    /// A step has ended: its edges that apply deliver a token each.
    pub(super) fn follow_edges(&mut self, key: &str, status: StepStatus) {
        let parsed = StepKey::parse(key);
        let went = !matches!(status, StepStatus::NotStarted | StepStatus::Skipped | StepStatus::Rejected);
        if parsed.undo || parsed.item.is_some() || self.run.phase != Phase::Steps || !went {
            return;
        }
        for (target, edge) in self.edges_from(parsed.id) {
            match self.applies(edge, status) {
                Ok(false) => (),
                Ok(true) => {
                    *self.run.tokens.entry(target.id.clone()).or_default() += 1;
                    self.publish(target, edge);
                }
                Err(error) => self.fail_at_edge(target, error),
            }
        }
    }

    /// Whether an edge leads on from a step although it failed: then the run does not fail with it.
    pub(super) fn leads_on(&self, definition: &Definition, status: StepStatus) -> bool {
        let mut edges = self.edges_from(&definition.id).into_iter();
        edges.any(|(_, edge)| edge.on != StartOn::Success && self.applies(edge, status).unwrap_or(false))
    }

    fn edges_from(&self, id: &str) -> Vec<(&'a Definition, &'a Edge)> {
        let steps = &self.world.workflow.steps;
        let of_step = |step: &'a Definition| {
            step.entry.iter().flat_map(|entry| &entry.edges).map(move |edge| (step, edge))
        };
        steps.iter().flat_map(of_step).filter(|(_, edge)| edge.from == id).collect()
    }

    fn applies(&self, edge: &Edge, status: StepStatus) -> Result<bool, RunError> {
        let fits = match edge.on {
            StartOn::Success => status == StepStatus::Succeeded,
            StartOn::Failure => status.is_failure(),
            StartOn::Finished => true,
        };
        match &edge.when {
            Some(when) if fits => {
                self.world.definitions.expr.condition(when, &self.scope()).map_err(|failure| {
                    RunError::failed(format!("the edge from step `{}`: {}", edge.from, failure.message))
                })
            }
            _ => Ok(fits),
        }
    }

    fn publish(&mut self, target: &'a Definition, edge: &Edge) {
        for (name, tree) in &edge.publish {
            match plain(tree, &self.world.definitions.expr, &self.scope()) {
                Ok(value) => drop(self.run.published.insert(name.clone(), value)),
                Err(failure) => return self.fail_at_edge(target, broken(target, "publish", &failure)),
            }
        }
    }

    /// An edge that can't be judged fails the step that it leads to.
    fn fail_at_edge(&mut self, target: &'a Definition, error: RunError) {
        if self.run.steps.get(&target.id).is_some_and(|step| step.state == StepState::Pending) {
            self.fail(&target.id, StepStatus::Failed, error);
        } else if self.run.verdict.is_none() {
            self.run.verdict = Some(crate::model::RunStatus::Failed);
            self.run.error = Some(error.of_step(&target.id));
            self.stop_waiting();
        }
    }

    /// Enters a step whose tokens have come. Says whether it did.
    pub(super) fn try_enter(&mut self, definition: &'a Definition) -> bool {
        let (Some(entry), Some(step)) = (&definition.entry, self.run.steps.get(&definition.id)) else {
            return false;
        };
        let is_free = step.state == StepState::Pending || step.has_ended();
        if !is_free || self.section_verdict().is_some() {
            return false;
        }
        if step.state == StepState::Pending && !step.bound.is_null() {
            // It was let in, and what it wanted to read has come.
            self.start(definition);
            return true;
        }
        let begins = entry.edges.is_empty() && step.visit == 0 && !step.has_ended();
        let joined = match entry.join {
            Join::All => u32::try_from(entry.edges.len()).unwrap_or(u32::MAX),
            Join::Count(count) => count,
        };
        let came = self.run.tokens.get(&definition.id).copied().unwrap_or(0);
        if !begins && (entry.edges.is_empty() || came < joined.max(1)) {
            return false;
        }
        if !begins {
            self.run.tokens.insert(definition.id.clone(), came - joined.max(1));
        }
        let visit = step.visit;
        if visit >= MAX_VISITS {
            let message = format!(
                "step `{}` was entered {MAX_VISITS} times; does its circle have a way out?",
                definition.id
            );
            // No edge leads on from here: the circle ends, and the run with it.
            let error = RunError::new(ErrorKind::Limit, message).at(&definition.place);
            if let Some(step) = self.run.steps.get_mut(&definition.id) {
                step.error = Some(error.clone());
                step.state = StepState::Ended(StepStatus::Failed);
            }
            self.run.verdict = Some(crate::model::RunStatus::Failed);
            self.run.error = Some(error.of_step(&definition.id));
            self.stop_waiting();
            return true;
        }
        self.reset(definition);
        self.start(definition);
        true
    }

    /// The step, and all that stands in it if it is a group, as it was before its last visit, of which only the count stays.
    fn reset(&mut self, definition: &Definition) {
        if let Some(step) = self.run.steps.get_mut(&definition.id).filter(|step| step.visit > 0) {
            let (mut output, mut reported, mut bound) =
                (step.output.clone(), step.reported.clone(), step.bound.clone());
            for kept in [&mut output, &mut reported, &mut bound] {
                kept.set(crate::model::Value::Null);
            }
            *step = Step { visit: step.visit, output, reported, bound, ..Step::pending() };
        }
        let workflow = self.world.workflow;
        for member in workflow.steps.iter().filter(|member| member.group.as_ref() == Some(&definition.id)) {
            self.reset(member);
        }
    }

    /// Whether no token has reached a step, or the group around it.
    pub(super) fn is_unreached(&self, definition: &Definition) -> bool {
        if definition.entry.is_none() && definition.group.is_none() {
            return false;
        }
        let around = with_groups(self.world.workflow, definition);
        let pending = |step: &Definition| {
            self.run.steps.get(&step.id).is_some_and(|state| state.state == StepState::Pending)
        };
        around.last().is_some_and(|outermost| outermost.entry.is_some()) && around.into_iter().all(pending)
    }

    /// What no token reached is not done.
    pub(super) fn end_unreached(&mut self) {
        let steps = &self.world.workflow.steps;
        let unreached: Vec<&Definition> = steps.iter().filter(|step| self.is_unreached(step)).collect();
        for definition in unreached {
            self.end(&definition.id, StepStatus::NotStarted);
        }
    }
}
