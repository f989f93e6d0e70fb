//! The database itself: opens it, and makes writes durable in groups.
//!
//! One task owns the one connection that writes. What arrives while it works shares a transaction and a sync to disk, each write
//! inside a savepoint of its own, so that one that fails takes no other with it. A write is answered only after the commit. Reads go
//! through a small pool of read-only connections and never wait for writes.
//!
//! A write goes on when its caller stops waiting: dropping the future never leaves half of it.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::StoreError;
use super::migrations::{self, Migration};
use crate::model::Timestamp;

/// What the statements of this module run on.
pub(super) type Connection = sqlx::SqliteConnection;
/// Builds the few statements whose text depends on a filter.
pub(super) type Query = sqlx::QueryBuilder<sqlx::Sqlite>;
/// A statement with its parameters.
pub(super) type Statement<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// Writes that may wait in the queue.
const QUEUE: usize = 1024;
/// Writes that share one commit, at most.
const GROUP: usize = 512;
/// Payload that may wait in the queue, in KiB: 64 MiB.
const QUEUED_KIB: u32 = 64 * 1024;
/// Connections that read.
const READERS: u32 = 4;
const STATEMENTS: usize = 256;
/// How long to wait for another process that holds the file.
const BUSY: Duration = Duration::from_secs(10);
/// Pages in the log before it is moved into the file: 16 MiB.
const CHECKPOINT_PAGES: &str = "4096";
/// The log is cut to this after it was moved.
const LOG_BYTES: &str = "67108864";

/// The store. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: mpsc::Sender<Job>,
    /// Room for payload in the queue, so that memory stays bounded however large single writes are.
    room: Arc<Semaphore>,
    readers: SqlitePool,
    writer: Mutex<Option<JoinHandle<()>>>,
}

enum Job {
    Write(Write),
    Close,
}

/// Is given the connection inside a transaction, or why there is none.
type Write = Box<dyn for<'a> FnOnce(Result<&'a mut Connection, StoreError>) -> BoxFuture<'a, Answer> + Send>;

/// A write that ran and waits for its commit: what it came to, and how its caller is told.
struct Answer {
    failed: Option<StoreError>,
    tell: Box<dyn FnOnce(Result<(), StoreError>) + Send>,
}

impl Store {
    /// Opens the database file at `path`, makes it where it is missing, and brings its schema up to date. `now` is noted beside the
    /// changes of the schema. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// `Newer`, `NotWritable`, `NotADatabase`, `Full`, `Corrupt`, each saying what to do.
    pub async fn open(path: &Path, now: Timestamp) -> Result<Store, StoreError> {
        Store::open_with(path, migrations::ALL, now).await.map_err(|error| error.of_file(path))
    }

    pub(super) async fn open_with(
        path: &Path,
        migrations: &[Migration],
        now: Timestamp,
    ) -> Result<Store, StoreError> {
        make_file(path)?;
        let options = options(path);
        let mut connection = options.connect().await?;
        migrations::refuse_foreign_tables(&mut connection).await?;
        // Kept in the file, so it is asked for only once the file is known to be ours.
        sqlx::query("PRAGMA journal_mode = WAL").execute(&mut connection).await?;
        migrations::migrate(&mut connection, migrations, now).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .min_connections(0)
            .test_before_acquire(false)
            .idle_timeout(Duration::from_secs(600))
            .connect_lazy_with(options.read_only(true).create_if_missing(false));
        let (queue, waiting) = mpsc::channel(QUEUE);
        // The writer ends when the last clone of the store is dropped, or at `close`, which joins it.
        let writer = tokio::spawn(write_loop(connection, waiting));
        let shared = Shared {
            queue,
            room: Arc::new(Semaphore::new(QUEUED_KIB as usize)),
            readers,
            writer: Mutex::new(Some(writer)),
        };
        Ok(Store { shared: Arc::new(shared) })
    }

    /// Finishes what is queued, refuses what comes later, and closes the file cleanly. A second call does nothing.
    pub async fn close(&self) {
        self.shared.readers.close().await;
        let Some(writer) = self.shared.writer.lock().await.take() else { return };
        // An error means that the writer has ended already.
        self.shared.queue.send(Job::Close).await.ok();
        if let Err(error) = writer.await {
            tracing::error!(%error, "the task that writes to the database ended badly");
        }
    }

    /// The pool that reads.
    pub(super) fn readers(&self) -> &SqlitePool {
        &self.shared.readers
    }

    /// Does `work` in a transaction and returns once it is on disk. Waits where the queue is full.
    pub(super) async fn write<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: for<'a> FnOnce(&'a mut Connection) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
    {
        let (write, reply) = package(work);
        self.shared.queue.send(Job::Write(write)).await.map_err(|_| StoreError::closed())?;
        reply.await.map_err(|_| StoreError::closed())?
    }

    /// As `write`, for work that carries `bytes` of payload: waits until there is room for it.
    pub(super) async fn write_large<T, W>(&self, bytes: usize, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: for<'a> FnOnce(&'a mut Connection) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
    {
        let room = Arc::clone(&self.shared.room).acquire_many_owned(kibibytes(bytes)).await;
        let room = room.map_err(|_| StoreError::closed())?;
        self.write(holding(room, work)).await
    }

    /// As `write_large`, but says `Busy` at once where it would have to wait for the queue.
    pub(super) async fn try_write_large<T, W>(&self, bytes: usize, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: for<'a> FnOnce(&'a mut Connection) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
    {
        let room = Arc::clone(&self.shared.room)
            .try_acquire_many_owned(kibibytes(bytes))
            .map_err(|_| StoreError::Busy)?;
        let (write, reply) = package(holding(room, work));
        self.shared.queue.try_send(Job::Write(write)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => StoreError::closed(),
        })?;
        reply.await.map_err(|_| StoreError::closed())?
    }
}

/// At least one, and never more than there is altogether: the largest write waits for an empty queue, not for ever.
fn kibibytes(bytes: usize) -> u32 {
    u32::try_from(bytes / 1024 + 1).unwrap_or(QUEUED_KIB).min(QUEUED_KIB)
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .statement_cache_capacity(STATEMENTS)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        .pragma("journal_size_limit", LOG_BYTES)
        .disable_statement_logging()
}

/// Makes the file for its owner only, and finds out early whether it can be written.
fn make_file(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    let refuse = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreError::Full,
        _ => StoreError::NotWritable { path: path.to_owned(), why: error.to_string() },
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(refuse)?;
    }
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(refuse)?;
    Ok(())
}

/// `work` that gives its room back when it is done, whether or not anybody still waits for it.
fn holding<T, W>(
    room: OwnedSemaphorePermit,
    work: W,
) -> impl for<'a> FnOnce(&'a mut Connection) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static
where
    T: Send + 'static,
    W: for<'a> FnOnce(&'a mut Connection) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
{
    move |tx| {
        async move {
            let result = work(tx).await;
            drop(room);
            result
        }
        .boxed()
    }
}

fn package<T, W>(work: W) -> (Write, oneshot::Receiver<Result<T, StoreError>>)
where
    T: Send + 'static,
    W: for<'a> FnOnce(&'a mut Connection) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
{
    let (reply, answer) = oneshot::channel::<Result<T, StoreError>>();
    let write: Write = Box::new(move |transaction| {
        Box::pin(async move {
            let result = match transaction {
                // A bug in one write must not end the task that does all of them.
                Ok(tx) => {
                    AssertUnwindSafe(async { work(tx).await }).catch_unwind().await.unwrap_or_else(|_| {
                        Err(StoreError::Sql("a write panicked; this is a bug in Siskin".to_owned()))
                    })
                }
                Err(error) => Err(error),
            };
            let (value, failed) = match result {
                Ok(value) => (Some(value), None),
                Err(error) => (None, Some(error)),
            };
            let tell = move |committed: Result<(), StoreError>| {
                let Some(result) = committed.map(|()| value).transpose() else { return };
                // The caller may have gone; the write stands all the same.
                reply.send(result).ok();
            };
            Answer { failed, tell: Box::new(tell) }
        })
    });
    (write, answer)
}

async fn write_loop(mut connection: Connection, mut queue: mpsc::Receiver<Job>) {
    while let Some(job) = queue.recv().await {
        match job {
            Job::Write(first) => write_group(&mut connection, first, &mut queue).await,
            // What was queued before still comes out; then `recv` gives `None`.
            Job::Close => queue.close(),
        }
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "the database was not closed cleanly; what was committed is safe");
    }
}

/// Runs `first` and what arrives meanwhile in one transaction, and tells all of them what came of it.
async fn write_group(connection: &mut Connection, first: Write, queue: &mut mpsc::Receiver<Job>) {
    let mut answers = Vec::new();
    let committed = match run_group(connection, first, queue, &mut answers).await {
        Ok(()) => run(connection, "COMMIT").await,
        Err(error) => Err(error),
    };
    if let Err(error) = &committed {
        // SQLite may have rolled back by itself; then this fails, and that is fine.
        run(connection, "ROLLBACK").await.ok();
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
    first: Write,
    queue: &mut mpsc::Receiver<Job>,
    answers: &mut Vec<Answer>,
) -> Result<(), StoreError> {
    if let Err(error) = run(connection, "BEGIN IMMEDIATE").await {
        answers.push(first(Err(error.clone())).await);
        return Err(error);
    }
    run(connection, "SAVEPOINT one").await?;
    let mut next = Some(first);
    while let Some(write) = next {
        let answer = write(Ok(&mut *connection)).await;
        // After `ROLLBACK TO` the savepoint is still there, fresh for the next write. Where the database gave up the whole transaction
        // by itself, as it may when the disk is full, this fails, and with it the group.
        let undone = answer.failed.clone();
        answers.push(answer);
        if let Some(error) = &undone {
            run(connection, "ROLLBACK TO one").await.map_err(|_| error.clone())?;
        }
        next = arrived_meanwhile(queue, answers.len());
        if next.is_some() && undone.is_none() {
            run(connection, "RELEASE one; SAVEPOINT one").await?;
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

async fn run(connection: &mut Connection, statement: &'static str) -> Result<(), StoreError> {
    sqlx::query(statement).execute(connection).await?;
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::event::NewEvent;
    use crate::store::testing::{NOW, event, fresh, reopen, stored_run};
    use crate::store::{Advance, EventFilter};

    async fn add(store: &Store, events: Vec<NewEvent>) -> Result<i64, StoreError> {
        Ok(store.add_events(events, NOW).await?[0].id.0)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_write_that_fails_takes_no_other_of_its_group_with_it() {
        let (folder, store) = fresh().await;
        let tasks: Vec<_> = (0..64)
            .map(|number| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut failures = 0;
                    for round in 0..8 {
                        let name = format!("t{number}.{round}");
                        if (number + round) % 7 == 0 {
                            // It writes first and fails then, so there is something to take back.
                            let refused: Result<(), StoreError> = store
                                .write(|tx| {
                                    Box::pin(async move {
                                        sqlx::query("INSERT INTO meta VALUES ('left', 'behind')")
                                            .execute(tx)
                                            .await?;
                                        Err(StoreError::Conflict("nothing".to_owned()))
                                    })
                                })
                                .await;
                            assert_eq!(refused, Err(StoreError::Conflict("nothing".to_owned())));
                            failures += 1;
                        } else {
                            add(&store, vec![event(&name, Some(&name))]).await.unwrap();
                        }
                    }
                    failures
                })
            })
            .collect();
        let mut failures = 0;
        for task in tasks {
            failures += task.await.unwrap();
        }
        store.close().await;
        let store = reopen(&folder).await;
        assert_eq!(store.count("SELECT count(*) FROM events").await, 64 * 8 - failures);
        assert_eq!(store.meta("left").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_write_that_panics_harms_itself_only() {
        let (_folder, store) = fresh().await;
        let panicked: Result<(), StoreError> = store
            .write(|tx| {
                Box::pin(async move {
                    sqlx::query("INSERT INTO meta VALUES ('left', 'behind')").execute(tx).await?;
                    std::panic::panic_any("planted")
                })
            })
            .await;
        assert!(matches!(panicked, Err(StoreError::Sql(_))));
        add(&store, vec![event("a.b", None)]).await.unwrap();
        assert_eq!(store.meta("left").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_write_is_finished_when_nobody_waits_for_it() {
        let (folder, store) = fresh().await;
        // Polled once, which puts it in the queue, and dropped.
        assert!(store.set_meta("key", "value").now_or_never().is_none());
        store.close().await;
        assert_eq!(reopen(&folder).await.meta("key").await.unwrap().as_deref(), Some("value"));
    }

    #[tokio::test]
    async fn a_closed_store_says_so() {
        let (_folder, store) = fresh().await;
        store.close().await;
        store.close().await;
        assert_eq!(store.set_meta("a", "b").await, Err(StoreError::closed()));
        assert_eq!(store.meta("a").await, Err(StoreError::closed()));
    }

    #[tokio::test]
    async fn a_full_disk_is_said_and_once_there_is_room_work_goes_on() {
        let (folder, store) = fresh().await;
        let run = stored_run(&store).await;
        let kept = add(&store, vec![event("a.kept", Some("kept"))]).await.unwrap();
        store.execute("PRAGMA max_page_count = 1").await.unwrap();
        let mut large = event("a.large", Some("large"));
        large.payload = Arc::new(serde_json::json!("x".repeat(1_000_000)));
        assert_eq!(add(&store, vec![event("a.small", None), large.clone()]).await, Err(StoreError::Full));
        let mut advance = Advance::of(run.clone(), NOW);
        advance.inputs = vec![(run.id, serde_json::json!("x".repeat(1_000_000)))];
        assert_eq!(store.save_run(advance.clone()).await, Err(StoreError::Full));
        assert_eq!(store.events(&EventFilter { limit: 9, ..EventFilter::default() }).await.unwrap().len(), 1);

        store.execute("PRAGMA max_page_count = 1000000").await.unwrap();
        assert!(add(&store, vec![large]).await.unwrap() > kept);
        assert_eq!(store.save_run(advance).await.unwrap().run.version, run.version + 1);
        store.close().await;
        let store = reopen(&folder).await;
        assert_eq!(store.count("SELECT count(*) FROM events").await, 2);
        assert_eq!(store.count("SELECT count(*) FROM inbox").await, 1);
    }

    #[tokio::test]
    async fn writes_that_wait_are_bounded_in_bytes() {
        let (_folder, store) = fresh().await;
        let room = Arc::clone(&store.shared.room).acquire_many_owned(QUEUED_KIB).await.unwrap();
        let refused = store.try_add_events(vec![event("a.b", None)], NOW).await;
        assert_eq!(refused, Err(StoreError::Busy));
        drop(room);
        assert!(store.try_add_events(vec![event("a.b", None)], NOW).await.is_ok());
        assert_eq!(store.shared.room.available_permits(), QUEUED_KIB as usize);
    }

    #[tokio::test]
    async fn what_cannot_be_a_database_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text.db");
        std::fs::write(&text, "no database, but long enough to be looked at. ".repeat(100)).unwrap();
        let error = Store::open(&text, NOW).await.unwrap_err();
        assert_eq!(error, StoreError::NotADatabase { path: text.clone() });
        let below = text.join("siskin.db");
        let error = Store::open(&below, NOW).await.unwrap_err();
        assert!(matches!(&error, StoreError::NotWritable { path, .. } if *path == below), "{error}");
        assert!(!error.to_string().contains('\n'));
    }

    #[tokio::test]
    async fn somebody_elses_database_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.db");
        let mut other = options(&path).create_if_missing(true).connect().await.unwrap();
        sqlx::raw_sql("CREATE TABLE songs (title TEXT)").execute(&mut other).await.unwrap();
        other.close().await.unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = Store::open(&path, NOW).await.unwrap_err();
        assert_eq!(error, StoreError::NotADatabase { path: path.clone() });
        assert!(std::fs::read(&path).unwrap() == before);
    }

    #[tokio::test]
    async fn the_file_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let (folder, store) = fresh().await;
        add(&store, vec![event("a.b", None)]).await.unwrap();
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o077, 0);
        }
    }
}
