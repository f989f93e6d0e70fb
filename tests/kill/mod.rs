//! What stands when processes are killed: the server at any moment of the demo, the demo itself, a server under load, one with runs at work.
//!
//! The short form is part of every test run. `SISKIN_KILLS=200` tries that many kill points of the demo, at random; `SISKIN_SEED` repeats them.

#![expect(clippy::print_stdout, reason = "says how many kill points were tried")]

mod demo;
mod hosts;
mod intake;
mod processes;
mod publish;
mod restart;
mod trees;

/// Random enough to spread kill points, and the same again for the same seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `end`.
    fn roll(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}
