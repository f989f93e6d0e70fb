//! What stands when processes are killed: the server at any moment of the demo, the demo itself, a server under load, one with runs at work.
//!
//! The short form is part of every test run. `SISKIN_KILLS=200` tries that many kill points of the demo, at random; `SISKIN_SEED` repeats them. Everything
//! under load, round after round, is `cargo bench --bench kill`.

#![expect(clippy::print_stdout, reason = "says how many kill points were tried")]

mod build;
mod demo;
mod disk;
mod hosts;
pub(crate) mod intake;
pub(crate) mod processes;
mod publish;
mod restart;
mod storm;
mod trees;
mod under_load;

use crate::support::dice::Dice;

/// A number from the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}
