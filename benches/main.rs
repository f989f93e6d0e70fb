//! What Siskin does in a second, beside what this machine can do at all, measured in the same run.
//!
//!     cargo bench --bench main                    every subject, a few minutes
//!     cargo bench --bench main -- events steps    some of them
//!     cargo bench --bench main -- --store sqlite  on one store only; both are measured where PostgreSQL is on the machine
//!     cargo bench --bench main -- --quick         short measurements and small numbers: whether it works at all
//!
//! The server is the release binary in a process of its own, as is the bare handler that it is held against; both are sent to by the same
//! sender over loopback. Numbers of two runs on a shared machine do not compare; ratios within one do.

#![expect(clippy::unwrap_used, reason = "a benchmark ends where a test would")]
#![expect(clippy::print_stdout, reason = "it prints tables")]

mod bare;
mod events;
mod idle;
mod items;
mod limits;
mod many;
mod meter;
mod sender;
mod site;
mod stand;
mod start;
mod steps;
/// What tests stand on, as far as it is needed here.
#[path = "../tests/support"]
mod support {
    #[expect(dead_code, reason = "tests use the rest of it")]
    pub(crate) mod postgres;
    #[expect(dead_code, reason = "tests use the rest of it")]
    pub(crate) mod rabbitmq;
    #[expect(dead_code, reason = "tests use the rest of it")]
    pub(crate) mod server;
}
mod table;

use std::time::Duration;

use clap::Parser;

use limits::Limits;
use stand::Stand;
use table::Table;

/// What Siskin does in a second, beside what this machine can do at all.
#[derive(Parser)]
struct Arguments {
    /// What to measure; all when none is named
    #[arg(value_parser = SUBJECTS.map(|subject| subject.name))]
    subjects: Vec<String>,
    /// Short measurements and small numbers
    #[arg(long)]
    quick: bool,
    /// How long each measurement takes
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Which stores to measure on; both when PostgreSQL is on this machine
    #[arg(long, value_parser = ["sqlite", "postgres", "both"])]
    store: Option<String>,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the bare handler on this database
    #[arg(long, hide = true)]
    bare: Option<String>,
}

/// One thing to measure.
struct Subject {
    name: &'static str,
    about: &'static str,
    measure: fn(&mut Scene),
}

const SUBJECTS: [Subject; 10] = [
    Subject { name: "limits", about: "what this machine can do", measure: limits::measure },
    Subject { name: "events", about: "webhooks accepted", measure: events::measure },
    Subject { name: "steps", about: "10-step workflows, 64 runs at once", measure: steps::ten },
    Subject { name: "runs", about: "runs of one step from a webhook, 64 at once", measure: steps::one },
    Subject { name: "latency", about: "event in to action done, 50 a second", measure: steps::latency },
    Subject { name: "items", about: "for_each", measure: items::measure },
    Subject { name: "waiting", about: "runs that wait", measure: many::waiting },
    Subject { name: "queued", about: "runs in a queue", measure: many::queued },
    Subject { name: "start", about: "start with a past", measure: start::measure },
    Subject { name: "idle", about: "nothing to do", measure: idle::measure },
];

/// What measurements share.
struct Scene {
    seconds: Duration,
    quick: bool,
    stand: Stand,
    limits: Limits,
    table: Table,
}

impl Scene {
    /// The full number, or the small one of a quick look.
    fn number(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

fn main() {
    let arguments = Arguments::parse();
    if let Some(database) = arguments.bare {
        return bare::serve(&limits::Place::of_text(&database));
    }
    let seconds = if arguments.quick { 1 } else { arguments.seconds.max(1) };
    let seconds = Duration::from_secs(seconds);
    let stores = match arguments.store.as_deref() {
        None if !Stand::has_postgres() => vec![Stand::Sqlite],
        None | Some("both") => vec![Stand::Sqlite, Stand::postgres()],
        Some("postgres") => vec![Stand::postgres()],
        Some(_) => vec![Stand::Sqlite],
    };
    let mut scene = Scene {
        seconds,
        quick: arguments.quick,
        stand: Stand::Sqlite,
        limits: Limits::default(),
        table: Table::default(),
    };
    let chosen = |subject: &&Subject| {
        arguments.subjects.is_empty() || arguments.subjects.iter().any(|name| name == subject.name)
    };
    for stand in stores {
        scene.stand = stand;
        for subject in SUBJECTS.iter().filter(chosen) {
            let title = format!("{}: {}, {}", subject.name, subject.about, scene.stand.name());
            scene.table.title(&title);
            (subject.measure)(&mut scene);
        }
    }
    println!("\n{}", scene.table.whole());
}
