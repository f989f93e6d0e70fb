//! Starts a run because somebody asked for it.

use std::sync::Arc;

use serde_json::json;

use crate::conductor::{self, Start, new_run};
use crate::definitions::{Definitions, Workflow, fields};
use crate::model::depth::{DEEPEST, is_too_deep};
use crate::model::{Filled, Run, RunId, Value};
use crate::store::{Inserted, NewRun, StoreError};

use super::posted::{self, Posted};
use super::{Caller, Change, Engine, Refused, StartRun};

impl Engine {
    /// Starts an action or a workflow.
    ///
    /// # Errors
    /// There is no such action or workflow; its input is wrong; the database cannot be written.
    pub async fn start(self: &Arc<Self>, start: StartRun, caller: &Caller) -> Result<RunId, Refused> {
        let definitions = self.definitions();
        let (Some(workflow), Some(fields)) =
            (definitions.workflow_of(&start.what), definitions.input_of(&start.what))
        else {
            return Err(Refused::NotFound(definitions.no_such_callable(&start.what)));
        };
        let given = match start.with {
            Value::Null => Value::Object(crate::model::Object::new()),
            object @ Value::Object(_) => object,
            other => return Err(Refused::Invalid(vec![format!("`with` must be an object, not {other}")])),
        };
        let input = fields::accept(fields, &Filled::Plain(given), true).map_err(Refused::Invalid)?;
        let input = input.masked();
        if is_too_deep(&input) {
            return Err(Refused::Invalid(vec![format!(
                "the input nests deeper than {DEEPEST} lists and objects"
            )]));
        }
        let begin = Start {
            revision: definitions.revision.clone(),
            input: input.into(),
            started_by: caller.actor.clone(),
            event: start.event,
            rule: None,
            parent: None,
            depth: 0,
            outer: None,
        };
        let now = self.clock.now();
        let run = self.to_begin(&definitions, &workflow, new_run(&workflow, begin, now))?;
        let audit = self.audit(caller, "run.start", start.what.clone(), json!({"workflow": start.what}));
        let key = start.idempotency_key.map(|key| format!("{}/{key}", caller.actor));
        let engine = Arc::clone(self);
        self.to_the_end(async move {
            let new = run.clone();
            let id = match key {
                None => engine.store.insert_run(run, Some(audit), now).await,
                Some(key) => {
                    engine.store.insert_run_once(run, &key, Some(audit), now).await.map(|(run, _)| run)
                }
            };
            let inserted = match id {
                // Its workflow has a limit that it would pass.
                Err(StoreError::Conflict(why)) => return Err(Refused::Conflict(why)),
                other => other?,
            };
            Ok(engine.began(new, inserted))
        })
        .await
    }

    /// A run as it is stored to begin: at once, or when it has its place among those of its workflow.
    ///
    /// # Errors
    /// The key of that place can't be rendered.
    pub(super) fn to_begin(
        &self,
        definitions: &Definitions,
        workflow: &Workflow,
        run: Run,
    ) -> Result<NewRun, Refused> {
        let slot = conductor::slot_of(definitions, workflow, &run.input.shared());
        let slot = slot.map_err(|error| Refused::Invalid(vec![error.to_string()]))?;
        let new = NewRun::with_input(run, Posted::Started.stored());
        Ok(NewRun { slot, words: posted::WORDS, ..new })
    }

    /// A run was stored: it begins, and those that it may supersede hear of it.
    pub(super) fn began(self: &Arc<Self>, new: NewRun, inserted: Inserted) -> RunId {
        self.hold_new(new, &inserted);
        self.changed(Change::Run(inserted.id));
        self.nudge(inserted.id);
        for run in inserted.woken {
            self.nudge(run);
        }
        inserted.id
    }
}
