//! What a rule remembers of events for one key.

use serde::{Deserialize, Serialize};

use super::{EventId, Timestamp};

/// Events that count for a rule. What they come to, `matching` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub entries: Vec<Entry>,
    /// Whether `otherwise` was run since the rule matched last.
    #[serde(default)]
    pub told: bool,
}

/// An event that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub event: EventId,
    /// When it was received.
    pub at: Timestamp,
    /// Which event of `all` it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}
