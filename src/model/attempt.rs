//! One try of a step: what travels to a worker and what comes back.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ErrorKind, Filled, RunError, RunId, Span, StepKey, Value};

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

impl AttemptKey {
    /// Attempt `number` of what `key` names in a run.
    pub fn of(run: RunId, key: &str, visit: u32, number: u32) -> AttemptKey {
        let key = StepKey::parse(key);
        AttemptKey { run, step: key.whole().to_string(), visit, item: key.item, number }
    }

    /// The key of the step, undo or item that it is an attempt of.
    pub fn step_key(&self) -> String {
        match self.item {
            None => self.step.clone(),
            item => StepKey { item, ..StepKey::parse(&self.step) }.to_string(),
        }
    }
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
    /// Which workers may do it.
    #[serde(default, skip_serializing_if = "Route::is_open")]
    pub route: Route,
}

/// The pool that attempts are in whose step names none.
pub const DEFAULT_POOL: &str = "default";

/// Which workers may do an attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Those of this pool; [`DEFAULT_POOL`] when not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Those that have all of these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// This one and no other, by its id: the run's workspace is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

impl Route {
    /// Whether every worker of the default pool may do it.
    pub fn is_open(&self) -> bool {
        *self == Route::default()
    }

    pub fn pool(&self) -> &str {
        self.pool.as_deref().unwrap_or(DEFAULT_POOL)
    }
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
    /// Names of inputs that are files, or lists of them: each is a local path when the work begins.
    #[serde(default)]
    pub file_inputs: Vec<String>,
    /// Names of outputs that are files, or lists of them: each is kept as an artefact.
    #[serde(default)]
    pub file_outputs: Vec<String>,
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
