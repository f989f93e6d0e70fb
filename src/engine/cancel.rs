//! Cancel, pause and resume: what people do to a run that is under way.

use std::sync::Arc;

use serde_json::Value;

use crate::conductor::Input;
use crate::model::{Run, RunId, RunStatus};

use super::driver::Move;
use super::{Caller, Engine, Refused};

impl Engine {
    /// Ends what a run does. `finally` still runs; a second cancel ends that too.
    ///
    /// # Errors
    /// There is no such run, or it has ended.
    pub async fn cancel(self: &Arc<Self>, run: RunId, caller: &Caller) -> Result<Run, Refused> {
        let input = Input::CancelAsked { by: caller.actor.clone() };
        self.ask_run(run, input, "run.cancel", Value::Null, caller, |_| None).await
    }

    /// Starts nothing new in a run; attempts in flight are left to finish.
    ///
    /// # Errors
    /// There is no such run, it has ended, or it is paused.
    pub async fn pause(self: &Arc<Self>, run: RunId, caller: &Caller) -> Result<Run, Refused> {
        let input = Input::PauseAsked { by: caller.actor.clone() };
        let refuse = |run: &Run| run.paused.then(|| format!("run {} is paused already", run.id));
        self.ask_run(run, input, "run.pause", Value::Null, caller, refuse).await
    }

    /// Lets a paused run go on.
    ///
    /// # Errors
    /// There is no such run, or it is not paused.
    pub async fn resume(self: &Arc<Self>, run: RunId, caller: &Caller) -> Result<Run, Refused> {
        let input = Input::ResumeAsked { by: caller.actor.clone() };
        let refuse = |run: &Run| (!run.paused).then(|| format!("run {} is not paused", run.id));
        self.ask_run(run, input, "run.resume", Value::Null, caller, refuse).await
    }

    pub(super) async fn ask_run(
        self: &Arc<Self>,
        id: RunId,
        input: Input,
        act: &str,
        details: Value,
        caller: &Caller,
        refuse: impl Fn(&Run) -> Option<String> + Send + Sync + 'static,
    ) -> Result<Run, Refused> {
        let ended = move |status: RunStatus| format!("run {id} has ended: it is {status}");
        let judge =
            move |run: &Run| if run.status.is_final() { Some(ended(run.status)) } else { refuse(run) };
        let audit = self.audit(caller, act, format!("run {id}"), details);
        let wanted = Move {
            inputs: vec![input],
            audit: Some(audit),
            refuse: Some(Box::new(judge)),
            ..Move::default()
        };
        let engine = Arc::clone(self);
        self.to_the_end(async move { engine.drive(id, wanted).await }).await
    }
}
