//! Force: a person breaks the glass, and a run passes windows and holds. Never approvals.

use std::sync::Arc;

use serde_json::json;

use crate::conductor::Input;
use crate::model::{Run, RunId};

use super::hold::reason;
use super::{Caller, Engine, Refused};

impl Engine {
    /// Lets a run, and the runs that work for it, pass windows and holds from now on.
    ///
    /// # Errors
    /// There is no such run, or it has ended; no reason was given.
    pub async fn force(self: &Arc<Self>, run: RunId, why: &str, caller: &Caller) -> Result<Run, Refused> {
        let why = reason(why)?;
        let details = json!({"why": why});
        let input = Input::ForceAsked { by: caller.actor.clone(), why };
        self.ask_run(run, input, "run.force", details, caller, |_| None).await
    }
}
