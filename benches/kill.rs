//! Kills everything under load, round after round, and counts what was lost: exits with 1 when that is anything.
//!
//!     cargo bench --bench kill -- --rounds 200
//!     cargo bench --bench kill -- --rounds 200 --land alone  one server on a file in place of a whole cluster
//!     cargo bench --bench kill -- --rounds 200 --seed 7      the moments of another storm, or of one that lost something

#![expect(clippy::unwrap_used, reason = "it ends where a test would")]
#![expect(clippy::print_stdout, reason = "it prints a table")]

#[path = "../tests/kill/storm.rs"]
mod storm;
/// What tests stand on, as far as it is needed here.
#[path = "../tests/support"]
mod support {
    pub(crate) mod dice;
    #[expect(dead_code, reason = "tests use the rest of it")]
    pub(crate) mod postgres;
    #[expect(dead_code, reason = "tests use the rest of it")]
    pub(crate) mod rabbitmq;
    #[expect(dead_code, reason = "tests use the rest of it")]
    pub(crate) mod server;
    #[expect(dead_code, reason = "tests use the rest of it")]
    pub(crate) mod worker;
}

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use storm::{Land, Plan};

/// Kills everything under load, round after round, and counts what was lost.
#[derive(Parser)]
struct Arguments {
    /// How often something is killed
    #[arg(long, default_value_t = 100)]
    rounds: u64,
    /// What is killed: `alone` is one server on a file; `cluster` a server, two workers, PostgreSQL and RabbitMQ
    #[arg(long, default_value = "cluster", value_parser = ["alone", "cluster"])]
    land: String,
    /// Repeats the moments of a storm; random when not said
    #[arg(long)]
    seed: Option<u64>,
    /// Who send events, each one after another
    #[arg(long, default_value_t = 4)]
    senders: usize,
    /// Milliseconds between two events of a sender
    #[arg(long, default_value_t = 200)]
    pace: u64,
    /// The longest that something lives between two kills, in milliseconds
    #[arg(long, default_value_t = 2000)]
    longest_life: u64,
    /// Seconds in which nothing may be done while runs are open, after the last kill
    #[arg(long, default_value_t = 120)]
    patience: u64,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}, {} rounds", arguments.rounds);
    let land = if arguments.land == "alone" { Land::Alone } else { Land::Cluster };
    let tally = storm::play(&Plan {
        land,
        rounds: arguments.rounds,
        seed,
        senders: arguments.senders,
        pace: Duration::from_millis(arguments.pace),
        longest_life: Duration::from_millis(arguments.longest_life),
        patience: Duration::from_secs(arguments.patience),
    });
    println!("{tally}");
    if tally.is_clean() {
        return ExitCode::SUCCESS;
    }
    let Arguments { rounds, land, .. } = arguments;
    println!("again: cargo bench --bench kill -- --land {land} --rounds {rounds} --seed {seed}");
    ExitCode::FAILURE
}
