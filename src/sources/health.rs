//! How a source fares. Kept in memory: it is about this process.

use serde::Serialize;

use crate::model::{EventId, Span, Timestamp};

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
    /// Of a source that lives in the server.
    #[serde(flatten)]
    pub live: Option<Life>,
}

/// How a source that lives in the server fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Life {
    pub state: State,
    /// When what it watches answered last.
    pub last_seen_at: Option<Timestamp>,
    /// How long after it had happened the last event was stored, where that is known.
    pub lag: Option<Span>,
    /// How often it began again after it had failed.
    pub restarts: u64,
    /// When it begins again.
    pub next_try_at: Option<Timestamp>,
}

/// What a source that lives in the server does at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// This server does not watch; another one that shares the database does, or will in a moment.
    #[default]
    Elsewhere,
    /// It has begun, and waits for the first answer.
    Starting,
    Watching,
    /// It failed, and begins again at `next_try_at`.
    Failing,
}
