//! What must have one owner among the servers that share a database: routing, timers, housekeeping, pollers. Each is done where its lease is held.
//!
//! Promises: a task runs only where its lease is held, and elsewhere within about ten seconds after its holder died; a server that is alone on its
//! database holds everything from the start, at no cost.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Engine, lock};

/// How long a lease counts here after it was asked for: less than it lives in the store.
const COUNTS: Duration = Duration::from_secs(5);

/// The leases of this server.
#[derive(Debug)]
pub(super) struct Leases {
    wanted: Mutex<BTreeSet<String>>,
    held: watch::Sender<Held>,
    /// Something is wanted, or no longer: the next beat comes at once.
    pub(super) changed: Notify,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    /// There is nobody else.
    All,
    These(BTreeSet<String>, Instant),
}

impl Held {
    fn has(&self, name: &str) -> bool {
        match self {
            Held::All => true,
            Held::These(names, until) => names.contains(name) && Instant::now() < *until,
        }
    }
}

impl Leases {
    pub(super) fn new(is_alone: bool) -> Leases {
        let held = if is_alone { Held::All } else { Held::These(BTreeSet::new(), Instant::now()) };
        Leases { wanted: Mutex::default(), held: watch::channel(held).0, changed: Notify::new() }
    }

    /// All that this server would hold.
    pub(super) fn wanted(&self) -> Vec<String> {
        lock(&self.wanted).iter().cloned().collect()
    }

    /// Notes what was got by the beat that began at `asked`.
    pub(super) fn got(&self, names: Vec<String>, asked: Instant) {
        self.held.send_replace(Held::These(names.into_iter().collect(), asked + COUNTS));
    }

    /// Lets go of what is held no longer.
    pub(super) fn expire(&self) {
        self.held.send_if_modified(|held| match held {
            Held::These(names, until) if !names.is_empty() && *until <= Instant::now() => {
                names.clear();
                true
            }
            _ => false,
        });
    }

    /// Lets go of all.
    pub(super) fn lose(&self) {
        self.held.send_if_modified(|held| match held {
            Held::All => false,
            Held::These(names, _) => !std::mem::take(names).is_empty(),
        });
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.held.borrow().has(name)
    }

    fn want(&self, name: &str) -> watch::Receiver<Held> {
        if lock(&self.wanted).insert(name.to_owned()) {
            self.changed.notify_one();
        }
        self.held.subscribe()
    }

    fn give_back(&self, name: &str) {
        lock(&self.wanted).remove(name);
        self.changed.notify_one();
    }
}

impl Engine {
    /// Has this server hold `name` when nobody else does; whether it does is said by `has_lease`.
    pub fn want_lease(&self, name: &str) {
        drop(self.leases.want(name));
    }

    /// Gives a lease back, and wants it no longer.
    pub fn give_lease_back(&self, name: &str) {
        self.leases.give_back(name);
    }

    /// Whether this server holds the lease `name`.
    pub fn has_lease(&self, name: &str) -> bool {
        self.leases.has(name)
    }

    /// Does `work` whenever this server holds the lease `name`, until `stop` is cancelled. When the lease is lost, the token that `work` was given
    /// is cancelled, and its end is waited for before it may begin again.
    pub async fn while_holding<W>(
        self: &Arc<Self>,
        name: &str,
        stop: &CancellationToken,
        work: impl Fn(Arc<Engine>, CancellationToken) -> W,
    ) where
        W: Future<Output = ()>,
    {
        let mut held = self.leases.want(name);
        // However this ends, others may have it.
        let _returned = Returned { engine: self, name };
        while !stop.is_cancelled() {
            tokio::select! {
                // The sender lives as long as the engine.
                got = is_so(&mut held, |held| held.has(name)) => if !got { return },
                () = stop.cancelled() => return,
            }
            let turn = stop.child_token();
            let working = work(Arc::clone(self), turn.clone());
            tokio::pin!(working);
            tokio::select! {
                () = &mut working => (),
                _ = is_so(&mut held, |held| !held.has(name)) => {
                    turn.cancel();
                    working.await;
                }
            }
        }
    }
}

/// Waits until what is held is as wanted; false when nobody says any more.
async fn is_so(held: &mut watch::Receiver<Held>, wanted: impl Fn(&Held) -> bool + Send) -> bool {
    held.wait_for(|held| wanted(held)).await.is_ok()
}

/// Gives a lease back when it is dropped.
struct Returned<'a> {
    engine: &'a Engine,
    name: &'a str,
}

impl Drop for Returned<'_> {
    fn drop(&mut self) {
        self.engine.give_lease_back(self.name);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_that_is_not_renewed_counts_no_longer() {
        let leases = Leases::new(false);
        let mut held = leases.want("router");
        assert_eq!(leases.wanted(), ["router"]);
        assert!(!leases.has("router"));
        leases.got(vec!["router".to_owned()], Instant::now());
        assert!(is_so(&mut held, |held| held.has("router")).await);
        leases.got(vec!["router".to_owned()], Instant::now() - COUNTS);
        held.mark_unchanged();
        assert!(!leases.has("router"));
        leases.expire();
        assert!(held.has_changed().unwrap());
        assert!(Leases::new(true).has("anything"));
    }
}
