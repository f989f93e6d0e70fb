//! Inputs that lie in a run's inbox until the run takes them. This is a stored format: add kinds, change none.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::conductor::Input;
use crate::model::{Actor, EventId, Object, RunError, RunId, RunStatus, Value};
use crate::store::Words;

/// An input as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Posted {
    Started,
    Event { id: EventId },
    ChildEnded { step: String, run: RunId, status: RunStatus, output: Value, error: Option<RunError> },
    Approved { step: String, by: Vec<String>, comment: Option<String>, answers: Value },
    Rejected { step: String, by: String, comment: Option<String> },
    Cancel { by: Actor },
    Pause { by: Actor },
    Resume { by: Actor },
    LockTaken { step: String },
    ValuesRead { step: String, values: Object },
    HoldsChanged,
    Superseded { by: RunId },
    Refused { why: String },
    Force { by: Actor, why: String },
}

impl Posted {
    /// The text for the inbox. A record of plain data always has one.
    pub(super) fn stored(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
}

/// How the store tells runs what became of what they asked for.
pub(super) const WORDS: Words = Words {
    lock_taken: |step| Posted::LockTaken { step: step.to_owned() }.stored(),
    values_read: |step, values| Posted::ValuesRead { step: step.to_owned(), values }.stored(),
    started: || Posted::Started.stored(),
    superseded: |by| Posted::Superseded { by }.stored(),
    refused: |why| Posted::Refused { why: why.to_owned() }.stored(),
};

/// What a stored input is to the conductor; an event still has to be fetched.
pub(super) enum Opened {
    Ready(Box<Input>),
    Event(EventId),
}

impl From<Posted> for Opened {
    fn from(posted: Posted) -> Opened {
        Opened::Ready(Box::new(match posted {
            Posted::Event { id } => return Opened::Event(id),
            Posted::Started => Input::Started,
            Posted::ChildEnded { step, run, status, output, error } => {
                Input::ChildEnded { step, run, status, output: Arc::new(output), error }
            }
            Posted::Approved { step, by, comment, answers } => Input::Approved { step, by, comment, answers },
            Posted::Rejected { step, by, comment } => Input::Rejected { step, by, comment },
            Posted::Cancel { by } => Input::CancelAsked { by },
            Posted::Pause { by } => Input::PauseAsked { by },
            Posted::LockTaken { step } => Input::LockTaken { step },
            Posted::Resume { by } => Input::ResumeAsked { by },
            Posted::ValuesRead { step, values } => Input::ValuesRead { step, values },
            Posted::HoldsChanged => Input::HoldsChanged,
            Posted::Superseded { by } => Input::Superseded { by },
            Posted::Refused { why } => Input::Refused { why },
            Posted::Force { by, why } => Input::ForceAsked { by, why },
        }))
    }
}
