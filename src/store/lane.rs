//! Many writes of one kind as one. What callers bring waits in a lane, and when the writer comes to it, it takes all that waits there:
//! the busier it is, the more rows go into one statement.
//!
//! Promises: what is in a lane is written in the order in which it came, and answered after the commit, each by itself. When all of it
//! together can't be written, each is tried alone: nobody's mistake is another's.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::StoreError;
use super::connection::Connection;
use super::writer::{Answer, Job, Write};

/// How many may wait in a lane.
const ROOM: usize = 1024;

/// Writes all of them. What one of them can't have is an error of its own, which must have written nothing.
type Work<I, O> =
    for<'a> fn(&'a mut Connection, &'a [I]) -> BoxFuture<'a, Result<Vec<Result<O, StoreError>>, StoreError>>;

/// The lane of one kind of writes.
pub(super) struct Lane<I, O> {
    waiting: Mutex<Vec<Waiting<I, O>>>,
    room: Arc<Semaphore>,
    work: Work<I, O>,
}

struct Waiting<I, O> {
    item: I,
    tell: oneshot::Sender<Result<O, StoreError>>,
    /// Given back when it was written.
    _room: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl<I, O> fmt::Debug for Lane<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl<I: Send + Sync + 'static, O: Send + 'static> Lane<I, O> {
    pub(super) fn new(work: Work<I, O>) -> Arc<Lane<I, O>> {
        Arc::new(Lane { waiting: Mutex::default(), room: Arc::new(Semaphore::new(ROOM)), work })
    }

    /// Brings an item and waits until it is on disk. `more` is given back with the room in the lane.
    pub(super) async fn write(
        self: &Arc<Self>,
        queue: &mpsc::Sender<Job>,
        item: I,
        more: Option<OwnedSemaphorePermit>,
    ) -> Result<O, StoreError> {
        let room = Arc::clone(&self.room).acquire_owned().await.map_err(|_| StoreError::closed())?;
        self.add(queue, item, (room, more)).await
    }

    /// As `write`, but says `Busy` at once where it would have to wait for the lane.
    pub(super) async fn try_write(
        self: &Arc<Self>,
        queue: &mpsc::Sender<Job>,
        item: I,
        more: Option<OwnedSemaphorePermit>,
    ) -> Result<O, StoreError> {
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_| StoreError::Busy)?;
        self.add(queue, item, (room, more)).await
    }

    async fn add(
        self: &Arc<Self>,
        queue: &mpsc::Sender<Job>,
        item: I,
        room: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
    ) -> Result<O, StoreError> {
        let (tell, told) = oneshot::channel();
        let is_first = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(Waiting { item, tell, _room: room });
            waiting.len() == 1
        };
        // Whoever comes first calls the writer for all. That must come about also when this caller stops waiting, so nothing is awaited here.
        if is_first {
            match queue.try_send(Job::Write(self.job())) {
                Ok(()) => (),
                Err(mpsc::error::TrySendError::Full(job)) => {
                    let (queue, lane) = (queue.clone(), Arc::clone(self));
                    tokio::spawn(async move {
                        if queue.send(job).await.is_err() {
                            drop(lane.take());
                        }
                    });
                }
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    drop(self.take());
                    return Err(StoreError::closed());
                }
            }
        }
        told.await.map_err(|_| StoreError::dropped())?
    }

    fn take(&self) -> Vec<Waiting<I, O>> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The write of all that waits when its turn comes.
    fn job(self: &Arc<Self>) -> Write {
        let turn = Turn { lane: Arc::clone(self), came: false };
        Box::new(move |transaction| {
            Box::pin(async move {
                let lane = turn.come();
                let (items, rest): (Vec<I>, Vec<_>) =
                    lane.take().into_iter().map(|each| (each.item, (each.tell, each._room))).unzip();
                let (results, failed) = match transaction {
                    Ok(tx) => lane.write_all(tx, &items).await,
                    Err(error) => (all(&items, &error), Some(error)),
                };
                let tell = move |committed: Result<(), StoreError>| {
                    for ((tell, room), result) in rest.into_iter().zip(results) {
                        drop(room);
                        // The caller may have gone; the write stands all the same.
                        tell.send(committed.clone().and(result)).ok();
                    }
                };
                Answer { failed, tell: Box::new(tell) }
            })
        })
    }

    /// What came of each, and why the transaction is where it was before, when it is.
    async fn write_all(
        &self,
        tx: &mut Connection,
        items: &[I],
    ) -> (Vec<Result<O, StoreError>>, Option<StoreError>) {
        let error = match self.attempt(tx, items).await {
            Ok(results) => return (results, None),
            Err(error) => error,
        };
        if items.len() == 1 || matches!(error, StoreError::Full | StoreError::Away(_)) {
            return (all(items, &error), Some(error));
        }
        let mut results = Vec::with_capacity(items.len());
        for item in items.chunks(1) {
            // The savepoint of the group: what came before in this lane is kept by the one that is made after it.
            if tx.run("ROLLBACK TO one").await.is_err() {
                return (all(items, &error), Some(error));
            }
            match self.attempt(tx, item).await {
                Ok(result) => {
                    results.extend(result);
                    if let Err(error) = tx.run("RELEASE one; SAVEPOINT one").await {
                        return (all(items, &error), Some(error));
                    }
                }
                Err(error) => results.push(Err(error)),
            }
        }
        // What the last one left, if it failed.
        match tx.run("ROLLBACK TO one").await {
            Ok(()) => (results, None),
            Err(error) => (all(items, &error), Some(error)),
        }
    }

    async fn attempt(
        &self,
        tx: &mut Connection,
        items: &[I],
    ) -> Result<Vec<Result<O, StoreError>>, StoreError> {
        // A bug in one write must not end the task that does all of them.
        let written = AssertUnwindSafe(async { (self.work)(tx, items).await }).catch_unwind().await;
        written
            .unwrap_or_else(|_| Err(StoreError::Sql("a write panicked; this is a bug in Siskin".to_owned())))
    }
}

/// That somebody will come for what waits in a lane. When it is lost, so is all that waits: nobody would come for it, nor call for somebody.
struct Turn<I: Send + Sync + 'static, O: Send + 'static> {
    lane: Arc<Lane<I, O>>,
    came: bool,
}

impl<I: Send + Sync + 'static, O: Send + 'static> Turn<I, O> {
    fn come(mut self) -> Arc<Lane<I, O>> {
        self.came = true;
        Arc::clone(&self.lane)
    }
}

impl<I: Send + Sync + 'static, O: Send + 'static> Drop for Turn<I, O> {
    fn drop(&mut self) {
        if !self.came {
            drop(self.lane.take());
        }
    }
}

/// The same for all of them.
fn all<I, O>(items: &[I], error: &StoreError) -> Vec<Result<O, StoreError>> {
    items.iter().map(|_| Err(error.clone())).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::db::sql;
    use crate::store::testing::{fresh, on_both};

    on_both!(
        many_at_once_are_each_written_once_and_told_their_own,
        whoever_waits_for_a_turn_that_is_lost_hears_of_it_and_the_next_gets_one,
        what_one_of_them_can_t_have_harms_no_other,
        who_stops_waiting_harms_no_other,
    );

    /// Writes numbers; refuses 13, fails with 7 after it has written it, and panics over 5.
    fn numbers<'a>(
        tx: &'a mut Connection,
        items: &'a [i64],
    ) -> BoxFuture<'a, Result<Vec<Result<i64, StoreError>>, StoreError>> {
        Box::pin(async move {
            let mut results = Vec::new();
            for number in items {
                if *number == 13 {
                    results.push(Err(StoreError::Busy));
                    continue;
                }
                sql("INSERT INTO meta (key, value) VALUES ($1, 'n')")
                    .bind(format!("number {number}"))
                    .execute(&mut *tx)
                    .await?;
                assert!(*number != 5, "five");
                if *number == 7 {
                    return Err(StoreError::Conflict("seven".to_owned()));
                }
                results.push(Ok(number * 2));
            }
            Ok(results)
        })
    }

    async fn write_numbers(numbers_to_write: Vec<i64>) -> (Vec<Result<i64, StoreError>>, i64) {
        let (_folder, store) = fresh().await;
        let lane = Lane::new(numbers);
        let tasks: Vec<_> = numbers_to_write
            .into_iter()
            .map(|number| {
                let (lane, queue) = (Arc::clone(&lane), store.queue().clone());
                tokio::spawn(async move { lane.write(&queue, number, None).await })
            })
            .collect();
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await.unwrap());
        }
        (results, store.count("SELECT count(*) FROM meta WHERE key LIKE 'number %'").await)
    }

    async fn many_at_once_are_each_written_once_and_told_their_own() {
        let (results, written) = write_numbers((100..3000).collect()).await;
        assert_eq!(results, (100..3000).map(|number| Ok(number * 2)).collect::<Vec<_>>());
        assert_eq!(written, 2900);
    }

    async fn whoever_waits_for_a_turn_that_is_lost_hears_of_it_and_the_next_gets_one() {
        let (_folder, store) = fresh().await;
        let lane = Lane::new(numbers);
        let (queue, mut jobs) = mpsc::channel(1);
        let mut waiting = Box::pin(lane.write(&queue, 100, None));
        assert_eq!((&mut waiting).now_or_never(), None);
        drop(jobs.recv().await);
        assert!(waiting.await.is_err());
        assert_eq!(lane.write(store.queue(), 101, None).await, Ok(202));
    }

    async fn what_one_of_them_can_t_have_harms_no_other() {
        let (results, written) = write_numbers((0..200).collect()).await;
        for (number, result) in (0..).zip(results) {
            match number {
                13 => assert_eq!(result, Err(StoreError::Busy)),
                7 => assert_eq!(result, Err(StoreError::Conflict("seven".to_owned()))),
                5 => assert!(matches!(result, Err(StoreError::Sql(_))), "{result:?}"),
                _ => assert_eq!(result, Ok(number * 2)),
            }
        }
        assert_eq!(written, 197);
    }

    async fn who_stops_waiting_harms_no_other() {
        let (_folder, store) = fresh().await;
        let lane = Lane::new(numbers);
        // Asked once, so that it is in the lane, and then let go.
        let mut gone = Box::pin(lane.write(store.queue(), 100, None));
        assert_eq!((&mut gone).now_or_never(), None);
        drop(gone);
        assert_eq!(lane.write(store.queue(), 101, None).await, Ok(202));
        assert_eq!(store.count("SELECT count(*) FROM meta WHERE key LIKE 'number %'").await, 2);
    }
}
