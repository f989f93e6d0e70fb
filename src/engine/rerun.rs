//! Runs a finished run again: whole, or from a step on with what came before it kept. It is a new run.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use crate::conductor::{self, Start};
use crate::definitions::fields;
use crate::model::{Filled, Object, Run, RunId, StepStatus, Value};
use crate::store::{LONGEST_LIST, NewRun, StoreError};

use super::posted::Posted;
use super::rollback::Kept;
use super::{Caller, Engine, Refused};

/// How many runs are looked through for an undo of a kept step.
const LARGEST_FAMILY: usize = 1000;

/// Run it again.
#[derive(Clone, Debug, Default)]
pub struct Rerun {
    /// Steps that do not wait for this one, and that went well, are kept with their outputs.
    pub from: Option<String>,
    /// By the definitions in force, not by those of the old run.
    pub latest: bool,
    /// Inputs that are to be others.
    pub with: Object,
}

impl Engine {
    /// Begins a run that does again what `id` did.
    ///
    /// # Errors
    /// There is no such run or step; it has not ended; its input is wrong; a step that is to be kept was undone.
    pub async fn rerun(self: &Arc<Self>, id: RunId, rerun: Rerun, caller: &Caller) -> Result<RunId, Refused> {
        let mut kept = self.kept(id).await?;
        if !kept.run.status.is_final() {
            return Err(Refused::Conflict(format!("run {id} has not ended: it is {}", kept.run.status)));
        }
        if rerun.latest {
            kept.definitions = self.definitions();
            kept.workflow = kept
                .definitions
                .workflow_of(&kept.run.workflow)
                .ok_or_else(|| Refused::NotFound(kept.definitions.no_such_callable(&kept.run.workflow)))?;
        }
        let run = match kept.run.rollback_of {
            Some(_) => self.rollback_again(&kept, &rerun, caller)?,
            None => self.run_again(&kept, &rerun, caller).await?,
        };
        let now = self.clock.now();
        let details = json!({"from": rerun.from, "latest": rerun.latest});
        let audit = self.audit(caller, "run.rerun", format!("run {id}"), details);
        let new = match run.rollback_of {
            // What takes back waits for no place.
            Some(_) => NewRun::with_input(run, Posted::Started.stored()),
            None => self.to_begin(&kept.definitions, &kept.workflow, run)?,
        };
        match self.store.insert_run(new.clone(), Some(audit), now).await {
            Err(StoreError::Conflict(why)) => Err(Refused::Conflict(why)),
            inserted => Ok(self.began(new, inserted?)),
        }
    }

    async fn run_again(&self, kept: &Kept, rerun: &Rerun, caller: &Caller) -> Result<Run, Refused> {
        let old = &kept.run;
        if let Some(from) = &rerun.from
            && !kept.workflow.steps.iter().any(|step| step.id == *from)
        {
            let known: Vec<&str> = kept.workflow.steps.iter().map(|step| step.id.as_str()).collect();
            let message =
                format!("`from`: {} has no step `{from}`; its steps are {}", old.workflow, known.join(", "));
            return Err(Refused::Invalid(vec![message]));
        }
        let input = if rerun.with.is_empty() && !rerun.latest {
            (*old.input).clone()
        } else {
            input(kept, &rerun.with)?
        };
        let start = start(kept, input, caller);
        let run = conductor::new_rerun(&kept.workflow, old, rerun.from.as_deref(), start, self.clock.now());
        if let Some((step, by)) = self.undone(old, &run).await? {
            let message = format!(
                "step `{step}` can't be kept: run {by} undid it, or tried to; rerun from `{step}`, or from a step before it"
            );
            return Err(Refused::Conflict(message));
        }
        Ok(run)
    }

    /// What a rollback left is tried again.
    fn rollback_again(&self, kept: &Kept, rerun: &Rerun, caller: &Caller) -> Result<Run, Refused> {
        let id = kept.run.id;
        if rerun.from.is_some() || rerun.latest || !rerun.with.is_empty() {
            let message = format!("run {id} is a rollback: it is run again as it was, with what it left");
            return Err(Refused::Conflict(message));
        }
        let start = start(kept, (*kept.run.input).clone(), caller);
        let mut run = conductor::new_rollback(&kept.workflow, &kept.run, start, self.clock.now());
        if run.undos.is_empty() {
            return Err(Refused::Conflict(format!("run {id} left nothing that could be undone")));
        }
        run.rerun_of = Some(id);
        Ok(run)
    }

    /// A step that `new` keeps and that some run has taken back: the old one, a rollback, or another rerun that kept it too.
    async fn undone(&self, old: &Run, new: &Run) -> Result<Option<(String, RunId)>, StoreError> {
        let kept: Vec<(&String, RunId)> =
            new.steps.iter().filter_map(|(id, step)| Some((id, step.kept_from?))).collect();
        if kept.is_empty() {
            return Ok(None);
        }
        for run in self.family(old).await? {
            for (id, did) in &kept {
                let tried = run.undos.get(*id).is_some_and(|undo| {
                    undo.order > 0 && undo.status() != StepStatus::Skipped || !undo.has_ended()
                });
                if tried && conductor::did(&run, id) == *did {
                    return Ok(Some(((*id).clone(), run.id)));
                }
            }
        }
        for (id, _) in &kept {
            let Some(child) = new.steps.get(*id).and_then(|step| step.child) else { continue };
            let successors = self.store.successors(child, LONGEST_LIST).await?;
            if let Some(back) = successors.iter().find(|run| run.rollback_of.is_some()) {
                return Ok(Some(((*id).clone(), back.id)));
            }
        }
        Ok(None)
    }

    /// All runs that ran one another again or rolled one another back.
    async fn family(&self, run: &Run) -> Result<Vec<Run>, StoreError> {
        let mut first = run.clone();
        while let Some(before) = first.rerun_of.or(first.rollback_of) {
            match self.store.run(before).await? {
                Some(run) => first = run,
                None => break, // It is too old to be kept.
            }
        }
        let mut known = BTreeSet::from([first.id]);
        let mut family = vec![first];
        let mut next = 0;
        while next < family.len() && family.len() < LARGEST_FAMILY {
            let successors = self.store.successors(family[next].id, LONGEST_LIST).await?;
            family.extend(successors.into_iter().filter(|run| known.insert(run.id)));
            next += 1;
        }
        Ok(family)
    }
}

fn start(kept: &Kept, input: Value, caller: &Caller) -> Start {
    Start {
        revision: kept.definitions.revision.clone(),
        input: input.into(),
        started_by: caller.actor.clone(),
        event: kept.run.event,
        rule: kept.run.rule.clone(),
        parent: None,
        depth: 0,
        outer: None,
    }
}

/// The old run's input with some values changed, accepted anew.
fn input(kept: &Kept, with: &Object) -> Result<Value, Refused> {
    let mut given = kept.run.input.as_object().cloned().unwrap_or_default();
    given.extend(with.clone());
    let input = fields::accept(&kept.workflow.input, &Filled::Plain(Value::Object(given)), true);
    Ok(input.map_err(Refused::Invalid)?.masked())
}
