//! One thing that happened.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{EventId, RunId, Timestamp, Value};

/// An event as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub id: EventId,
    /// The trigger's name, `pack.name`.
    pub trigger: String,
    /// What it came from: `github.webhook` (a source), `api`, `run 12`.
    pub source: String,
    pub payload: Arc<Value>,
    pub received_at: Timestamp,
    /// When rules were tried on it.
    pub routed_at: Option<Timestamp>,
    pub replay_of: Option<EventId>,
}

/// An event that is not stored yet.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    pub trigger: String,
    pub source: String,
    pub payload: Arc<Value>,
    /// The same source and key within 7 days is the same event.
    pub dedup: Option<String>,
    pub replay_of: Option<EventId>,
}

/// What came of one rule that met one event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Match {
    pub rule: String,
    pub revision: String,
    pub result: MatchResult,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Why it errored or was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// `file:line:column` of what errored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MatchResult {
    Matched,
    Errored,
    Throttled,
    Rejected,
}
