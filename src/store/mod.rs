//! The only place that knows SQL. One file per table family; each holds the records, the statements and the promises of its tables.
//!
//! Promises: what a function answered is on disk; a write that names a version fails with `Conflict` when someone else was first; of a
//! write that failed nothing has happened; a full disk is `Full` and loses nothing. Times come in as arguments: the store has no clock.
//!
//! What is stored in which state is decided by others: the store does not know what a run does next.

mod approvals;
mod artefacts;
mod attempts;
mod audit;
mod connection;
mod cursors;
mod db;
mod deployments;
mod error;
mod events;
mod holds;
mod inbox;
mod json;
mod kv;
mod lane;
mod locks;
mod logs;
mod matches;
mod meta;
mod migrations;
mod news;
mod nodes;
mod overrides;
mod postgres;
mod retention;
mod revisions;
mod rows;
mod runs;
mod secrets;
mod slots;
mod standing;
mod statement;
mod tokens;
mod values;
mod waits;
mod windows;
mod workers;
mod writer;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod testing;

pub use approvals::{ApprovalFilter, StoredApproval};
pub use artefacts::{Artefacts, Piece, Put};
pub use attempts::{AttemptFilter, AttemptState, InFlight};
pub use audit::{AuditFilter, AuditRow, NewAudit};
pub use cursors::{Cursor, CursorMove};
pub use db::{Location, Store};
pub use deployments::{DeploymentFilter, NewDeployment, Newest, RunOrigin, StoredDeployment};
pub use error::StoreError;
pub use events::{AddedEvent, DEDUP_LIVES, EventFilter};
pub use inbox::InboxRow;
pub use kv::{KvEntry, KvSet};
pub use locks::LockWait;
pub use logs::{LogChunk, LogFilter, StoredChunk};
pub use matches::{MatchFilter, NewMatch, Routed, Routing, StoredMatch};
pub use news::{LONGEST_NEWS, News};
pub use nodes::{Beat, DEAD_AFTER, LEASE_LIVES, NewNode, Node};
pub use overrides::RuleOverride;
pub use postgres::DatabaseUrl;
pub use retention::Left;
pub use revisions::{RevisionFile, RevisionInfo};
pub use runs::{Advance, Family, HistoryRow, Inserted, NewHistory, NewRun, RunFilter, Saved, Words};
pub use secrets::SealedSecret;
pub use tokens::{NewToken, Token};
pub use waits::Wait;
pub use windows::{NewWindow, WindowKey};
pub use workers::Claim;

/// The longest list that one call gives; the rest comes by the cursor.
pub const LONGEST_LIST: u32 = 500;

/// A limit that a caller asked for, within bounds.
fn bounded(limit: u32) -> i64 {
    i64::from(limit.clamp(1, LONGEST_LIST))
}
