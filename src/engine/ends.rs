//! Who waits for the end of a run. Each is woken by the end of its own run only: with many who wait, every other change would wake them all.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::watch;

use super::lock;
use crate::model::RunId;

/// After so many runs that somebody waited for, those that nobody waits for any more are let go.
const TIDY_EVERY: usize = 256;

/// The runs whose end somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Ends {
    waited_for: Mutex<HashMap<RunId, watch::Sender<()>>>,
}

impl Ends {
    /// Its sender is gone once the run has ended.
    pub(super) fn of(&self, run: RunId) -> watch::Receiver<()> {
        let mut waited_for = lock(&self.waited_for);
        if waited_for.len() % TIDY_EVERY == TIDY_EVERY - 1 {
            waited_for.retain(|_, sender| sender.receiver_count() > 0);
        }
        waited_for.entry(run).or_insert_with(|| watch::channel(()).0).subscribe()
    }

    pub(super) fn ended(&self, run: RunId) {
        lock(&self.waited_for).remove(&run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_wakes_those_who_wait_for_it_and_nobody_else() {
        let ends = Ends::default();
        let (mut first, mut second, mut other) = (ends.of(RunId(1)), ends.of(RunId(1)), ends.of(RunId(2)));
        ends.ended(RunId(1));
        assert!(first.changed().await.is_err() && second.changed().await.is_err());
        assert!(other.has_changed().is_ok());
        ends.ended(RunId(2));
        assert!(other.changed().await.is_err());
    }

    #[tokio::test]
    async fn those_who_stopped_waiting_take_no_room() {
        let ends = Ends::default();
        for run in 0..10_000 {
            drop(ends.of(RunId(run)));
        }
        assert!(lock(&ends.waited_for).len() <= TIDY_EVERY);
    }
}
