//! Why a step or a run did not succeed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What sort of failure; what `retry.when` and rules of failure look at as `error.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    Failed,
    TimedOut,
    Rejected,
    Lost,
    Cancelled,
    /// A limit of Siskin's own was met: depth of children, size of an output.
    Limit,
}

/// The error of a step or run. In a template it prints as its message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunError {
    pub kind: ErrorKind,
    pub message: String,
    /// The step that failed, in the error of a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// `file:line:column` of the definition at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

impl RunError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> RunError {
        RunError { kind, message: message.into(), step: None, place: None }
    }
    pub fn failed(message: impl Into<String>) -> RunError {
        RunError::new(ErrorKind::Failed, message)
    }
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> RunError {
        self.place = Some(place.to_string());
        self
    }
    #[must_use]
    pub fn of_step(mut self, step: impl Into<String>) -> RunError {
        self.step = Some(step.into());
        self
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
