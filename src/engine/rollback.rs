//! Rolls a finished run back: a new run whose steps are the undos. The old run's status stays.

use std::sync::Arc;

use serde_json::json;

use crate::conductor::{self, Effect, Input, Start, World};
use crate::definitions::{Definitions, Workflow};
use crate::model::hold::Holds;
use crate::model::release::DeploymentStatus;
use crate::model::run::Parent;
use crate::model::{Run, RunError, RunId, RunStatus, StepStatus, Value};
use crate::store::{DeploymentFilter, Family, LONGEST_LIST, NewRun, RunFilter, StoreError};

use super::posted::Posted;
use super::{Caller, Change, Engine, Refused};

/// A run with the definitions that it keeps.
pub(super) struct Kept {
    pub(super) run: Run,
    pub(super) definitions: Arc<Definitions>,
    pub(super) workflow: Arc<Workflow>,
}

impl Engine {
    /// What a rollback of the run would do, in order: `{step, run, with}`, or `{step, rollback_of}` for a child run.
    ///
    /// # Errors
    /// There is no such run; its state forbids it; there is nothing to undo.
    pub async fn rollback_plan(&self, id: RunId) -> Result<Vec<Value>, Refused> {
        let kept = self.rollable(id).await?;
        Ok(conductor::undos_shown(self.world(&kept, &self.holds()), &kept.run))
    }

    /// Begins to take back what a finished run did.
    ///
    /// # Errors
    /// There is no such run; its state forbids it; it was rolled back already; a newer deployment stands.
    pub async fn rollback(self: &Arc<Self>, id: RunId, caller: &Caller) -> Result<RunId, Refused> {
        let Kept { run: old, workflow, .. } = self.rollable(id).await?;
        let now = self.clock.now();
        let start = Start {
            revision: old.revision.clone(),
            input: old.input.shared().into(),
            started_by: caller.actor.clone(),
            event: old.event,
            rule: old.rule.clone(),
            parent: None,
            depth: 0,
            outer: None,
        };
        let run = conductor::new_rollback(&workflow, &old, start, now);
        let undos: Vec<&String> = run.undos.keys().collect();
        let audit = self.audit(caller, "run.rollback", format!("run {id}"), json!({"undos": undos}));
        let new = NewRun::with_input(run, Posted::Started.stored());
        let new = match self.store.insert_rollback(new, audit, now).await {
            Err(StoreError::Conflict(why)) => return Err(Refused::Conflict(why)),
            other => other?,
        };
        self.changed(Change::Run(new));
        self.nudge(new);
        Ok(new)
    }

    async fn rollable(&self, id: RunId) -> Result<Kept, Refused> {
        let kept = self.kept(id).await?;
        let run = &kept.run;
        if !run.status.is_final() {
            let message = format!("run {id} has not ended: it is {}; cancel it, or wait", run.status);
            return Err(Refused::Conflict(message));
        }
        if let Some(of) = run.rollback_of {
            let message = format!(
                "run {id} is itself the rollback of run {of}; `siskin rerun {id}` tries again what it left"
            );
            return Err(Refused::Conflict(message));
        }
        let successors = self.store.successors(id, LONGEST_LIST).await?;
        if let Some(known) = successors.iter().find(|run| run.rollback_of == Some(id)) {
            return Err(Refused::Conflict(format!("run {id} was rolled back already, by run {}", known.id)));
        }
        if conductor::undos_shown(self.world(&kept, &self.holds()), run).is_empty() {
            return Err(Refused::Conflict(format!("run {id} left nothing that could be undone")));
        }
        self.refuse_newer_deployments(run).await?;
        Ok(kept)
    }

    /// What was deployed since is somebody else's: going back would take that away.
    async fn refuse_newer_deployments(&self, run: &Run) -> Result<(), Refused> {
        let mut family = vec![run.clone()];
        let mut next = 0;
        while let Some(run) = family.get(next) {
            next += 1;
            // Also those of items, and the rollbacks that belong to it.
            let (of, mut before) = (Family::ChildrenOf(run.id), None);
            loop {
                let filter = RunFilter { family: of, before, limit: LONGEST_LIST, ..RunFilter::default() };
                let children = self.store.runs(&filter).await?;
                let Some(last) = children.last() else { break };
                before = Some(last.id);
                family.extend(children);
            }
        }
        for member in &family {
            let filter = DeploymentFilter { run: Some(member.id), limit: LONGEST_LIST, ..Default::default() };
            for own in self.store.deployments(&filter).await? {
                let own = own.deployment;
                let filter = DeploymentFilter {
                    app: Some(own.app.clone()),
                    environment: Some(own.environment.clone()),
                    limit: LONGEST_LIST,
                    ..Default::default()
                };
                let there =
                    self.store.deployments(&filter).await?.into_iter().map(|stored| stored.deployment);
                let newer = there.into_iter().find(|other| {
                    let stands = matches!(other.status, DeploymentStatus::Done | DeploymentStatus::Rolling);
                    other.id > own.id && stands && !family.iter().any(|member| Some(member.id) == other.run)
                });
                if let Some(newer) = newer {
                    let message = format!(
                        "a newer deployment of {} stands in {}: {} (deployment {}); roll that back first",
                        newer.app, newer.environment, newer.version, newer.id
                    );
                    return Err(Refused::Conflict(message));
                }
            }
        }
        Ok(())
    }

    pub(super) async fn kept(&self, id: RunId) -> Result<Kept, Refused> {
        let run =
            self.store.run(id).await?.ok_or_else(|| Refused::NotFound(format!("there is no run {id}")))?;
        let definitions = self.revision(&run.revision).await?;
        let Some(workflow) = definitions.workflow_of(&run.workflow) else {
            return Err(Refused::NotFound(format!("{} is not in revision {}", run.workflow, run.revision)));
        };
        Ok(Kept { run, definitions, workflow })
    }

    fn world<'a>(&'a self, kept: &'a Kept, holds: &'a Holds) -> World<'a> {
        let (definitions, workflow) = (&kept.definitions, &kept.workflow);
        World { definitions, workflow, now: self.clock.now(), holds, public_url: &self.public_url }
    }

    /// Makes the runs that `StartRollback` asks for; where a child did nothing that could be taken back, the run hears so and moves on.
    pub(super) async fn prepare_rollbacks(
        &self,
        world: World<'_>,
        run: &mut Run,
        caused: &mut Vec<Effect>,
    ) -> Result<Vec<Run>, Refused> {
        let mut rollbacks = Vec::new();
        let mut next = 0;
        while let Some(effect) = caused.get(next) {
            next += 1;
            let Effect::StartRollback { step, visit, of } = effect.clone() else { continue };
            let mut kept = match self.kept(of).await {
                Ok(kept) => kept,
                // Its definitions are gone: that undo fails, and the others go on.
                Err(Refused::NotFound(why)) => {
                    let error = Some(RunError::failed(format!("run {of} can't be rolled back: {why}")));
                    let (status, output) = (RunStatus::Failed, Arc::default());
                    let ended = Input::ChildEnded { step, run: of, status, output, error };
                    caused.extend(conductor::advance(world, run, &ended));
                    continue;
                }
                Err(error) => return Err(error),
            };
            // What was taken back already, because somebody asked for it, is not taken back again.
            for successor in self.store.successors(of, LONGEST_LIST).await? {
                let done = |undo: &crate::model::Step| undo.status() == StepStatus::Succeeded;
                let back = successor.undos.into_iter().filter(|(id, undo)| {
                    done(undo)
                        && successor
                            .steps
                            .get(id)
                            .is_some_and(|step| step.kept_from == Some(conductor::did(&kept.run, id)))
                });
                let back: Vec<_> = back.collect();
                kept.run.undos.extend(back);
            }
            let start = Start {
                revision: kept.run.revision.clone(),
                input: kept.run.input.shared().into(),
                started_by: run.started_by.clone(),
                event: run.event,
                rule: run.rule.clone(),
                parent: Some(Parent { run: run.id, step: step.clone(), visit }),
                depth: run.depth + 1,
                outer: None,
            };
            let rollback = conductor::new_rollback(&kept.workflow, &kept.run, start, world.now);
            if rollback.undos.is_empty() {
                caused.extend(conductor::advance(world, run, &Input::NothingToUndo { step }));
            } else {
                rollbacks.push(rollback);
            }
        }
        Ok(rollbacks)
    }
}
