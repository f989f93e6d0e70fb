//! Which rules an event meets, and what each of them wants run. Pure.
//!
//! Promises: rules are tried in order of name; a rule that errs is an errored match of its own and harms no other.

pub mod correlate;
pub mod decide;
pub mod explain;

pub use decide::{Decision, Verdict, Wanted, decide};
