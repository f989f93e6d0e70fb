//! Starts a run because somebody asked for it.

use std::sync::Arc;

use serde_json::json;

use crate::conductor::{Start, new_run};
use crate::definitions::fields;
use crate::model::depth::{DEEPEST, is_too_deep};
use crate::model::{Filled, RunId, Value};
use crate::store::NewRun;

use super::posted::Posted;
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
            input,
            started_by: caller.actor.clone(),
            event: start.event,
            rule: None,
            parent: None,
            depth: 0,
        };
        let now = self.clock.now();
        let run = NewRun::with_input(new_run(&workflow, begin, now), Posted::Started.stored());
        let audit = self.audit(caller, "run.start", start.what.clone(), json!({"workflow": start.what}));
        let key = start.idempotency_key.map(|key| format!("{}/{key}", caller.actor));
        let engine = Arc::clone(self);
        self.to_the_end(async move {
            let id = match key {
                None => engine.store.insert_run(run, Some(audit), now).await?,
                Some(key) => engine.store.insert_run_once(run, &key, Some(audit), now).await?.0,
            };
            engine.changed(Change::Run(id));
            engine.nudge(id);
            Ok(id)
        })
        .await
    }
}
