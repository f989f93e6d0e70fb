//! Plain records: what is stored, sent and shown. Everything that is serialized to our own database or broker lives here, so
//! a change in this folder is a change of format: add fields with `#[serde(default)]`, never rename or reuse one.
//!
//! Pure: no I/O, no clock, no randomness. Knows nothing of the other modules.

pub mod actor;
pub mod approval;
pub mod artefact;
pub mod attempt;
pub mod depth;
pub mod desk;
pub mod error;
pub mod event;
pub mod filled;
pub mod hold;
pub mod id;
pub mod items;
pub mod kept;
pub mod key;
pub mod log;
pub mod message;
pub mod release;
pub mod retry;
pub mod run;
pub mod secret;
pub mod slot;
pub mod step;
pub mod time;
pub mod window;
pub mod worker;

pub use actor::Actor;
pub use approval::Approval;
pub use artefact::{Artefact, ArtefactHash};
pub use attempt::{Attempt, AttemptKey, DEFAULT_POOL, Outcome, Route};
pub use error::{ErrorKind, RunError};
pub use event::Event;
pub use filled::Filled;
pub use id::{ApprovalId, EventId, RunId};
pub use items::{Each, Items};
pub use kept::Kept;
pub use key::StepKey;
pub use run::{Run, RunStatus};
pub use secret::Secret;
pub use slot::{OnLimit, Slot};
pub use step::{Step, StepStatus};
pub use time::{Span, Timestamp};

/// Any JSON value: payloads, inputs, outputs. Objects keep the order in which they were written.
pub type Value = serde_json::Value;
/// A JSON object.
pub type Object = serde_json::Map<String, Value>;
