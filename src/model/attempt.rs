//! One try of a step: what travels to a worker and what comes back.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ErrorKind, Filled, RunError, RunId, Span, Value};

/// What an attempt is known by, everywhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptKey {
    pub run: RunId,
    /// The step's id, or `STEP/undo`.
    pub step: String,
    pub visit: u32,
    pub item: Option<u32>,
    pub number: u32,
}

impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.run, self.step)?;
        if let Some(item) = self.item {
            write!(f, "[{item}]")?;
        }
        write!(f, "#{}.{}", self.visit, self.number)
    }
}

/// All that a worker needs in order to do it, but for the secrets that fill the holes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    pub key: AttemptKey,
    /// The action, `pack.name`.
    pub action: String,
    pub input: Filled,
    pub work: Work,
    /// The app that it is about, by its name: `{shop: {...}}`, from the input `app` or else the run's. Empty when it is about none.
    #[serde(default)]
    pub apps: Value,
    pub idempotent: bool,
    /// How long it may take, from its start at the worker.
    pub timeout: Span,
}

/// How the action is done: the part of its file that the worker reads, verbatim, so that attempts carry the scripts they need.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Work {
    pub runner: String,
    /// The runner's own section of the action file (`http: {...}`), its templates not rendered; null when the action has none.
    pub section: Value,
    /// `output:` of the action file, its templates not rendered; null when it has none.
    pub output: Value,
    /// The file that `section` names, for the runner `script`.
    #[serde(default)]
    pub script: Option<String>,
    /// Names of outputs that are secret: masked wherever they go.
    #[serde(default)]
    pub secret_outputs: Vec<String>,
    /// The pack's configuration, seen as `config`.
    pub config: Value,
    /// The pack's `functions.rhai`, seen as filters.
    #[serde(default)]
    pub functions: Option<String>,
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded {
        output: Value,
    },
    /// `output` is what it had reported until then.
    Failed {
        error: RunError,
        output: Value,
    },
}

impl Outcome {
    pub fn failed(kind: ErrorKind, message: impl Into<String>) -> Outcome {
        Outcome::Failed { error: RunError::new(kind, message), output: Value::Null }
    }
}
