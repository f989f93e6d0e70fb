//! Dispatch over RabbitMQ: the server's end and the worker's, each a task that holds one connection and comes back when it is lost.
//!
//! | queue | holds | read by |
//! | --- | --- | --- |
//! | `siskin.pool.NAME` | attempts | the workers of the pool |
//! | `siskin.pool.NAME.2` | the same, while the broker keeps the first one waiting | the same |
//! | `siskin.reports` | claims, output, outcomes, questions | one server at a time |
//! | `siskin.worker.ID` | answers, cancels, attempts for this worker only | that worker; gone with its connection |
//! | `siskin.dead` | what nobody could read, with the reason | people |
//!
//! Signs of life go to all servers by the exchange `siskin.beats`, news for all workers by `siskin.news`.
//!
//! Promises: an attempt is confirmed by the broker or the engine is told that it was not; a report is acknowledged only once what it said is on disk;
//! what a worker said comes in its order, and again until it is settled, so that either end, and the broker, may die at any moment; secrets travel sealed
//! to one claim.

mod server;
mod wire;
mod worker;

pub use server::ServerLink;
pub use worker::{Pools, WorkerLink, WorkerOptions};

use std::time::Duration;

/// Where workers report.
const REPORTS: &str = "siskin.reports";
/// What nobody could read.
pub const DEAD: &str = "siskin.dead";
/// Signs of life of workers, to all servers.
const BEATS: &str = "siskin.beats";
/// News for all workers.
const NEWS: &str = "siskin.news";

/// No name of a pool ends so.
const SECOND: &str = ".2";

/// The shortest and the longest time between two tries to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

fn pool_queue(pool: &str) -> String {
    format!("siskin.pool.{pool}")
}

/// What workers are told of a pool's second queue: it is as a pool of its own to them.
fn second(pool: &str) -> String {
    format!("{pool}{SECOND}")
}

fn worker_queue(worker: &str) -> String {
    format!("siskin.worker.{worker}")
}

/// The time before the next try.
fn longer(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}

/// What comes of it; never anything, when there is nothing to wait for.
async fn or_never<T>(waited_for: Option<impl Future<Output = T>>) -> T {
    match waited_for {
        Some(waited_for) => waited_for.await,
        None => std::future::pending().await,
    }
}
