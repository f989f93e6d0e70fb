//! The one task of a node that writes: makes writes durable in groups.
//!
//! What arrives while it works shares a transaction and a sync to disk, each write inside a savepoint of its own, so that one that fails takes no
//! other with it. A write is answered only after the commit. When the connection is lost, the group fails with `Away`, further writes fail at once,
//! and it connects again by itself.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::StoreError;
use super::connection::Connection;
use super::postgres::{self, DatabaseUrl, Transaction};
use super::standing::Standing;

/// Writes that share one commit, at most.
const GROUP: usize = 512;
/// How long to find out what became of a commit whose answer was lost, before its writes are told that they failed.
const DOUBT: Duration = Duration::from_secs(5);
/// How long a connection that failed gets to take a transaction back.
const ROLLBACK: Duration = Duration::from_secs(2);

/// What the writer is asked.
pub(super) enum Job {
    Write(Write),
    Close,
}

/// Is given the connection inside a transaction, or why there is none.
pub(super) type Write =
    Box<dyn for<'a> FnOnce(Result<&'a mut Connection, StoreError>) -> BoxFuture<'a, Answer> + Send>;

/// A write that ran and waits for its commit: what it came to, and how its caller is told.
pub(super) struct Answer {
    pub(super) failed: Option<StoreError>,
    pub(super) tell: Box<dyn FnOnce(Result<(), StoreError>) + Send>,
}

/// The connection that writes, and how to get another.
pub(super) struct Link {
    connection: Option<Connection>,
    /// `None` for a file, which does not go away.
    url: Option<DatabaseUrl>,
    coming_back: Option<BoxFuture<'static, Connection>>,
    standing: Arc<Standing>,
}

impl Link {
    pub(super) fn new(connection: Connection, url: Option<DatabaseUrl>, standing: Arc<Standing>) -> Link {
        Link { connection: Some(connection), url, coming_back: None, standing }
    }

    /// Waits until there is a connection again. May be dropped and called again.
    async fn come_back(&mut self) {
        let Some(url) = &self.url else { return std::future::pending().await };
        let standing = &self.standing;
        let coming = self.coming_back.get_or_insert_with(|| {
            let (url, standing) = (url.clone(), Arc::clone(standing));
            Box::pin(async move { Connection::Postgres(Box::new(postgres::reconnect(url, standing).await)) })
        });
        self.connection = Some(coming.await);
        self.coming_back = None;
        if self.standing.came_back() {
            tracing::info!("the database is back");
        }
    }

    fn why_away(&self) -> StoreError {
        StoreError::Away(self.standing.away().unwrap_or_else(|| "the connection was lost".to_owned()))
    }

    /// How long one answer may take. A file has no network between.
    fn patience(&self) -> Option<Duration> {
        self.url.as_ref().map(|_| postgres::PATIENCE)
    }
}

/// Writes until the store is closed or dropped.
pub(super) async fn write_loop(mut link: Link, mut queue: mpsc::Receiver<Job>) {
    loop {
        let job = tokio::select! {
            job = queue.recv() => job,
            () = link.come_back(), if link.connection.is_none() => continue,
        };
        match job {
            Some(Job::Write(first)) => write_group(&mut link, first, &mut queue).await,
            // What was queued before still comes out; then `recv` gives `None`.
            Some(Job::Close) => queue.close(),
            None => break,
        }
    }
    let Some(connection) = link.connection else { return };
    match timeout(postgres::PATIENCE, connection.close()).await {
        Ok(Ok(())) => (),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the database was not closed cleanly; what was committed is safe");
        }
        Err(_) => tracing::warn!("the database did not answer a goodbye; what was committed is safe"),
    }
}

/// Runs `first` and what arrives meanwhile in one transaction, and tells all of them what came of it.
async fn write_group(link: &mut Link, first: Write, queue: &mut mpsc::Receiver<Job>) {
    let patience = link.patience();
    let Some(connection) = link.connection.as_mut() else {
        let away = link.why_away();
        let answer = first(Err(away.clone())).await;
        return (answer.tell)(Err(away));
    };
    let mut answers = Vec::new();
    let ran = run_group(connection, patience, first, queue, &mut answers).await;
    let committed = match ran {
        Ok(()) => match in_time(patience, connection.run("COMMIT")).await {
            Ok(()) => Ok(()),
            Err(error) => find_out(link, error).await,
        },
        Err(error) => {
            take_back(link).await;
            Err(error)
        }
    };
    if let Err(error) = &committed {
        tracing::error!(%error, writes = answers.len(), "a group of writes was rolled back");
    }
    for Answer { failed, tell } in answers {
        tell(match (&committed, failed) {
            (Err(error), _) => Err(error.clone()),
            (Ok(()), Some(error)) => Err(error),
            (Ok(()), None) => Ok(()),
        });
    }
}

/// Leaves the transaction open. On an error it is not worth committing, and all its writes get that error.
async fn run_group(
    connection: &mut Connection,
    patience: Option<Duration>,
    first: Write,
    queue: &mut mpsc::Receiver<Job>,
    answers: &mut Vec<Answer>,
) -> Result<(), StoreError> {
    if let Err(error) = in_time(patience, connection.begin()).await {
        answers.push(first(Err(error.clone())).await);
        return Err(error);
    }
    let mut next = Some(first);
    while let Some(write) = next {
        let answer = in_time(patience, async { Ok(write(Ok(&mut *connection)).await) }).await?;
        // After `ROLLBACK TO` the savepoint is still there, fresh for the next write. Where the database gave up the whole transaction
        // by itself, as it may when the disk is full, this fails, and with it the group.
        let undone = answer.failed.clone();
        answers.push(answer);
        if let Some(error) = &undone {
            let taken_back = in_time(patience, connection.run("ROLLBACK TO one")).await;
            taken_back.map_err(|broken| match broken {
                StoreError::Away(_) => broken,
                _ => error.clone(),
            })?;
        }
        next = arrived_meanwhile(queue, answers.len());
        if let (Some(write), None) = (next.take_if(|_| undone.is_none()), &undone) {
            match in_time(patience, connection.run("RELEASE one; SAVEPOINT one")).await {
                Ok(()) => next = Some(write),
                Err(error) => {
                    // It is out of the queue, so it must hear of this.
                    answers.push(write(Err(error.clone())).await);
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// The next write for the same commit. A close that comes in between lets the group end; `recv` sees the closed queue then.
fn arrived_meanwhile(queue: &mut mpsc::Receiver<Job>, so_far: usize) -> Option<Write> {
    if so_far >= GROUP {
        return None;
    }
    match queue.try_recv().ok()? {
        Job::Write(write) => Some(write),
        Job::Close => {
            queue.close();
            None
        }
    }
}

/// Gives the transaction up; a connection that can't even do that is let go.
async fn take_back(link: &mut Link) {
    let Some(connection) = link.connection.as_mut() else { return };
    let taken = timeout(ROLLBACK, connection.run("ROLLBACK")).await;
    // SQLite may have rolled back by itself; then this fails, and that is fine.
    if link.url.is_some() && !matches!(taken, Ok(Ok(()))) {
        link.connection = None;
    }
}

/// After a commit that failed: whether it was one all the same. When its answer was lost, the server is asked on another connection; when that does
/// not come about soon, the writes fail, and whoever depends on it hears that there is a doubt.
async fn find_out(link: &mut Link, error: StoreError) -> Result<(), StoreError> {
    let lost = match link.connection.as_ref() {
        Some(Connection::Postgres(connection)) => connection.transaction(),
        _ => {
            take_back(link).await;
            return Err(error);
        }
    };
    if !matches!(error, StoreError::Away(_)) {
        // The server said no.
        take_back(link).await;
        return Err(error);
    }
    link.connection = None;
    match timeout(DOUBT, ask_again(link, &lost)).await {
        Ok(Ok(Some(true))) => Ok(()),
        Ok(Ok(Some(false))) => Err(error),
        _ => {
            tracing::warn!("nobody knows whether the last writes before the loss were stored");
            link.standing.doubt();
            Err(error)
        }
    }
}

async fn ask_again(link: &mut Link, lost: &Transaction) -> Result<Option<bool>, StoreError> {
    link.come_back().await;
    let Some(Connection::Postgres(connection)) = link.connection.as_mut() else { return Ok(None) };
    let known = connection.was_committed(lost).await;
    if known.is_err() {
        take_back(link).await;
    }
    known
}

async fn in_time<T>(
    patience: Option<Duration>,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let Some(patience) = patience else { return work.await };
    let late = || StoreError::Away("it did not answer in time".to_owned());
    timeout(patience, work).await.unwrap_or_else(|_| Err(late()))
}
