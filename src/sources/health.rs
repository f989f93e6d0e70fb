//! How a source fares. Kept in memory: it is about this process.

use serde::Serialize;

use crate::model::{EventId, Timestamp};

/// What a source did since the server started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Events stored.
    pub accepted: u64,
    /// Deliveries that were known already.
    pub known: u64,
    /// Deliveries turned away.
    pub refused: u64,
    pub last_event: Option<EventId>,
    pub last_event_at: Option<Timestamp>,
    pub last_error: Option<String>,
    pub last_error_at: Option<Timestamp>,
    /// What keeps it from working now.
    pub problem: Option<String>,
}
