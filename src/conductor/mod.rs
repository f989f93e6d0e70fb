//! What a run does next. One pure function: `advance(run, input) -> effects`; a run changes nowhere else.
//!
//! Promises: the same run, definitions and inputs give the same effects; an input that comes late, twice or for something that the run no
//! longer does changes nothing; a run that is not final always has an effect outstanding, a time at which it wakes, people or an event that it
//! waits for. Leaves to others: storing (the engine writes run and effects in one transaction, and only then acts), and time (it comes in).
//!
//! Read `input.rs` and `effect.rs` first, then `advance.rs`; `phases.rs` and `ending.rs` are the rest of it.

mod advance;
mod begin;
mod edges;
mod effect;
mod ending;
mod gates;
mod graph;
mod input;
mod names;
mod phases;
pub mod steps;
#[cfg(test)]
mod tests;
mod undo;

pub use advance::{advance, listens, wakes_at};
pub use begin::{Start, did, new_rerun, new_rollback, new_run, slot_of};
pub use effect::{Effect, Entry, Listening};
pub use ending::give_up;
pub use input::Input;
pub use undo::shown as undos_shown;

use crate::definitions::{Definitions, Workflow};
use crate::model::Timestamp;
use crate::model::hold::Holds;

/// How deep runs may start one another.
pub const MAX_DEPTH: u32 = 20;
/// How often a lost attempt of an idempotent action begins again by itself.
pub const MAX_LOST: u32 = 3;

/// What the conductor sees of the world.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// The definitions of the run's own revision.
    pub definitions: &'a Definitions,
    /// The run's workflow among them.
    pub workflow: &'a Workflow,
    pub now: Timestamp,
    /// The holds of this moment.
    pub holds: &'a Holds,
    /// Where people find the server: the front of `run.url`.
    pub public_url: &'a str,
}
