//! Pack `chat`.
//!
//! | action | parameters | does |
//! | --- | --- | --- |
//! | `chat.say` | `to`, `text` | says it; with no chat network set up, in the run's log |

use super::super::{Done, Failure, Job, text_parameter};
use crate::model::{Object, Value};

pub(super) async fn say(job: Job) -> Result<Done, Failure> {
    let to = text_parameter(&job.parameters, "to")?;
    let text = text_parameter(&job.parameters, "text")?;
    job.note(&format!("to {to}: {text}"));
    Ok(Done::with(Value::Object(Object::new())))
}
