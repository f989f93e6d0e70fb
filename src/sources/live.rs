//! Sources that live in the server: one task each, held by a lease, so that of several servers on one database one watches.
//!
//! Promises: a definition that comes, changes or goes starts, restarts or ends its task, and leaves the others alone; a task that fails or panics says so
//! in its health and the log, and begins again after a while that grows to a minute; none dies silently. Where it goes on is the cursor's (`seat.rs`).

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use sha2::{Digest, Sha256};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::health::State;
use super::seat::{Seat, Trouble};
use super::{Life, Sources, amqp, consul, etcd, exec, file, git_branch, github_releases, http_poll, time};
use crate::definitions::Source;
use crate::definitions::live::Watch;
use crate::engine::{Change, Engine};
use crate::model::Span;
use crate::model::retry::Retry;

/// How long a source that failed waits before it begins again, by how often it did.
const AGAIN: Retry = Retry {
    attempts: u32::MAX,
    delay: Span::seconds(1),
    backoff: 2.0,
    max_delay: Some(Span::minutes(1)),
    jitter: 0.2,
    lost: false,
};

/// A source that was well for so long has not failed before.
const WELL_FOR: Duration = Duration::from_secs(10);

/// A source that is watched, or would be if the lease were ours.
struct Post {
    definition: watch::Sender<Arc<Source>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Sources {
    /// Watches what sources of the definitions in force watch, until `stop` is cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.engine.changes();
        let tasks = TaskTracker::new();
        let mut posts: BTreeMap<String, Post> = BTreeMap::new();
        let mut leaving: BTreeMap<String, JoinHandle<()>> = BTreeMap::new();
        while !stop.is_cancelled() {
            self.align(&tasks, &mut posts, &mut leaving, &stop);
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = stop.cancelled() => break,
                };
                match change {
                    Ok(Change::Definitions | Change::Everything) | Err(RecvError::Lagged(_)) => break,
                    Ok(_) => (),
                    Err(RecvError::Closed) => return,
                }
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Has a task for each live source, with its definition as it is now.
    fn align(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        posts: &mut BTreeMap<String, Post>,
        leaving: &mut BTreeMap<String, JoinHandle<()>>,
        stop: &CancellationToken,
    ) {
        let definitions = self.engine.definitions();
        let wanted = |name: &String| definitions.sources.get(name).filter(|source| source.live().is_some());
        leaving.retain(|_, task| !task.is_finished());
        let gone: Vec<String> = posts.keys().filter(|name| wanted(name).is_none()).cloned().collect();
        for name in gone {
            let Some(post) = posts.remove(&name) else { continue };
            post.stop.cancel();
            self.forget(&name);
            leaving.insert(name, post.task);
        }
        for (name, source) in definitions.sources.iter().filter(|(_, source)| source.live().is_some()) {
            if let Some(post) = posts.get(name) {
                post.definition.send_if_modified(|known| {
                    let changed = !known.is_as(source);
                    *known = Arc::clone(source);
                    changed
                });
                continue;
            }
            let (definition, changes) = watch::channel(Arc::clone(source));
            let stop = stop.child_token();
            let before = leaving.remove(name);
            let task = tasks.spawn(Arc::clone(self).hold(name.clone(), changes, stop.clone(), before));
            posts.insert(name.clone(), Post { definition, stop, task });
        }
    }

    /// Watches while the source's lease is held here.
    async fn hold(
        self: Arc<Self>,
        name: String,
        definition: watch::Receiver<Arc<Source>>,
        stop: CancellationToken,
        before: Option<JoinHandle<()>>,
    ) {
        if let Some(before) = before {
            before.await.ok(); // It says itself how it ended.
        }
        let engine = Arc::clone(&self.engine);
        let lease = format!("source {name}");
        let turn = |_: Arc<Engine>, turn: CancellationToken| {
            Arc::clone(&self).take_turn(name.clone(), definition.clone(), turn)
        };
        engine.while_holding(&lease, &stop, turn).await;
    }

    /// Watches until the turn is over; begins again when the definition changes, and after each failure.
    async fn take_turn(
        self: Arc<Self>,
        name: String,
        mut definition: watch::Receiver<Arc<Source>>,
        turn: CancellationToken,
    ) {
        let mut failures = 0_u32;
        while !turn.is_cancelled() {
            let source = Arc::clone(&definition.borrow_and_update());
            let (end, begun) = (turn.child_token(), Instant::now());
            self.note_life(&name, |life| {
                life.state = if failures == 0 { State::Starting } else { State::Failing };
                life.next_try_at = None;
            });
            let watching = AssertUnwindSafe(Arc::clone(&self).watch(source, end.clone())).catch_unwind();
            tokio::pin!(watching);
            let ended = tokio::select! {
                ended = &mut watching => ended,
                _ = definition.changed() => {
                    end.cancel();
                    watching.await.ok();
                    failures = 0;
                    continue;
                }
                () = turn.cancelled() => {
                    watching.await.ok();
                    break;
                }
            };
            if turn.is_cancelled() {
                break;
            }
            let trouble = match ended {
                Ok(Err(trouble)) => trouble,
                Ok(Ok(())) => Trouble::new("it ended"),
                Err(_) => Trouble::new("it panicked; this is a mistake in Siskin"),
            };
            // Whoever was well for a while begins to count anew.
            let was_well = self.is_watching(&name) && begun.elapsed() > WELL_FOR;
            failures = if was_well { 1 } else { failures.saturating_add(1) };
            let delay = AGAIN.delay_before(failures + 1, dice(&name, failures));
            self.note_failure(&name, &trouble, delay);
            tokio::select! {
                () = tokio::time::sleep(delay.duration()) => (),
                _ = definition.changed() => { definition.mark_changed(); failures = 0 }
                () = turn.cancelled() => break,
            }
            self.note_life(&name, |life| life.restarts += 1);
        }
        self.note_life(&name, |life| *life = Life { restarts: life.restarts, ..Life::default() });
    }

    /// Watches, as the source's kind does it.
    async fn watch(self: Arc<Self>, source: Arc<Source>, end: CancellationToken) -> Result<(), Trouble> {
        let Some(live) = source.live() else { return Ok(()) };
        let mut seat = Seat::new(Arc::clone(&self), &source, end.clone());
        let watching = async {
            match &live.watch {
                Watch::Interval(interval) => time::run(&mut seat, &time::Rhythm::Interval(*interval)).await,
                Watch::At(schedule) => time::run(&mut seat, &time::Rhythm::At(schedule)).await,
                Watch::Consul(consul) => consul::run(&mut seat, consul).await,
                Watch::Exec(exec) => exec::run(&mut seat, exec).await,
                Watch::File(file) => file::run(&mut seat, file).await,
                Watch::HttpPoll(poll) => http_poll::run(&mut seat, poll).await,
                Watch::GitBranch(branch) => git_branch::run(&mut seat, branch).await,
                Watch::Etcd(etcd) => etcd::run(&mut seat, etcd).await,
                Watch::Amqp(amqp) => amqp::run(&mut seat, amqp).await,
                Watch::GithubReleases(releases) => github_releases::run(&mut seat, releases).await,
            }
        };
        if matches!(live.watch, Watch::Exec(_)) {
            // It ends its program, and takes in what that says last.
            return watching.await;
        }
        tokio::select! {
            ended = watching => ended,
            () = end.cancelled() => Ok(()),
        }
    }

    fn note_failure(&self, name: &str, trouble: &Trouble, delay: Span) {
        let now = self.engine.clock().now();
        let why = trouble.to_string();
        let mut is_news = true;
        self.note(name, |health| {
            is_news = health.problem.as_ref() != Some(&why);
            health.problem = Some(why.clone());
            health.last_error = Some(why.clone());
            health.last_error_at = Some(now);
            let life = health.live.get_or_insert_default();
            life.state = State::Failing;
            life.next_try_at = Some(now.plus(delay));
        });
        match is_news {
            true => tracing::warn!(source = name, "the source failed: {why}; it begins again in {delay}"),
            false => tracing::debug!(source = name, "the source failed again: {why}"),
        }
    }

    pub(super) fn note_life(&self, name: &str, change: impl FnOnce(&mut Life)) {
        self.note(name, |health| change(health.live.get_or_insert_default()));
    }

    fn is_watching(&self, name: &str) -> bool {
        let health = self.lock();
        let life = health.get(name).and_then(|health| health.live.as_ref());
        life.is_some_and(|life| life.state == State::Watching)
    }
}

/// A number that differs between sources and failures.
fn dice(name: &str, failures: u32) -> u64 {
    let hash = Sha256::digest(format!("{name} {failures}"));
    hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
