//! The store itself: opens the database, and queues what is to be written.
//!
//! One task owns the one connection that writes; see `writer`. Reads go through a small pool and never wait for writes.
//!
//! A write goes on when its caller stops waiting: dropping the future never leaves half of it.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub(super) use super::connection::Connection;
use super::connection::{Dialect, Readers, file_readers, open_file};
use super::lane::Lane;
use super::migrations::{self, Migration};
use super::postgres::DatabaseUrl;
use super::standing::Standing;
pub(super) use super::statement::{Query, sql};
use super::writer::{Answer, Job, Link, Write, write_loop};
use super::{AddedEvent, Routed, Routing, StoreError, attempts, events, matches, runs};
use crate::model::Timestamp;

/// Writes that may wait in the queue.
const QUEUE: usize = 1024;
/// Payload that may wait in the queue, in KiB: 64 MiB.
const QUEUED_KIB: u32 = 64 * 1024;
/// How long a start waits for a database that does not answer yet.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Where everything is kept.
#[derive(Clone, Debug)]
pub enum Location {
    /// A file, made where it is missing: for one server.
    File(PathBuf),
    /// A database on PostgreSQL, which several servers may share.
    Postgres(DatabaseUrl),
}

impl Location {
    /// The file at `path`.
    pub fn file(path: impl Into<PathBuf>) -> Location {
        Location::File(path.into())
    }

    /// The database that `url` names.
    ///
    /// # Errors
    /// It is no URL of PostgreSQL.
    pub fn url(url: &str) -> Result<Location, StoreError> {
        Ok(Location::Postgres(DatabaseUrl::from_str(url)?))
    }
}

/// The store. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: mpsc::Sender<Job>,
    lanes: Lanes,
    /// Room for payload in the queue, so that memory stays bounded however large single writes are.
    room: Arc<Semaphore>,
    readers: Readers,
    standing: Arc<Standing>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// The kinds of writes that come often enough to share statements.
#[derive(Debug)]
pub(super) struct Lanes {
    pub(super) events: Arc<Lane<events::Adding, Vec<AddedEvent>>>,
    pub(super) routings: Arc<Lane<Routing, Routed>>,
    pub(super) advances: Arc<Lane<runs::Saving, runs::Done>>,
    pub(super) starts: Arc<Lane<attempts::Starting, bool>>,
}

impl Default for Lanes {
    fn default() -> Lanes {
        Lanes {
            events: Lane::new(|tx, items| Box::pin(events::add_all(tx, items))),
            routings: Lane::new(|tx, items| Box::pin(matches::route_all(tx, items))),
            advances: Lane::new(|tx, items| Box::pin(runs::save_all(tx, items))),
            starts: Lane::new(|tx, items| Box::pin(attempts::start_all(tx, items))),
        }
    }
}

impl Store {
    /// Opens the database, makes the file where it is missing, and brings its schema up to date. `now` is noted beside the
    /// changes of the schema. A server that does not answer yet is waited for, for a minute. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// `Newer`, `NotWritable`, `NotADatabase`, `Unreachable`, `Full`, `Corrupt`, each saying what to do.
    pub async fn open(location: &Location, now: Timestamp) -> Result<Store, StoreError> {
        Store::open_with(location, migrations::ALL, START_PATIENCE, now).await
    }

    pub(super) async fn open_with(
        location: &Location,
        migrations: &[Migration],
        patience: Duration,
        now: Timestamp,
    ) -> Result<Store, StoreError> {
        match location {
            Location::File(path) => {
                Store::open_path(path, migrations, now).await.map_err(|error| error.of_file(path))
            }
            Location::Postgres(url) => Store::open_url(url, migrations, patience, now).await,
        }
    }

    async fn open_path(path: &Path, migrations: &[Migration], now: Timestamp) -> Result<Store, StoreError> {
        let mut connection = open_file(path).await?;
        migrations::refuse_foreign_tables(&mut connection, &path.display()).await?;
        // Kept in the file, so it is asked for only once the file is known to be ours.
        connection.run("PRAGMA journal_mode = WAL").await?;
        migrations::migrate(&mut connection, migrations, now).await?;
        let standing = Arc::default();
        Ok(Store::over(connection, None, file_readers(path), standing))
    }

    async fn open_url(
        url: &DatabaseUrl,
        migrations: &[Migration],
        patience: Duration,
        now: Timestamp,
    ) -> Result<Store, StoreError> {
        let mut connection = Connection::Postgres(Box::new(url.connect_patiently(patience).await?));
        migrations::refuse_foreign_tables(&mut connection, url).await?;
        migrations::migrate(&mut connection, migrations, now).await.map_err(|error| url.refused(error))?;
        let standing = Arc::<Standing>::default();
        let readers = Readers::Postgres(url.readers(Arc::clone(&standing)));
        Ok(Store::over(connection, Some(url.clone()), readers, standing))
    }

    fn over(
        connection: Connection,
        url: Option<DatabaseUrl>,
        readers: Readers,
        standing: Arc<Standing>,
    ) -> Store {
        let (queue, waiting) = mpsc::channel(QUEUE);
        // The writer ends when the last clone of the store is dropped, or at `close`, which joins it.
        let is_file = url.is_none();
        let writing = write_loop(Link::new(connection, url, Arc::clone(&standing)), waiting);
        let writer = match is_file {
            // On a thread of its own: each statement is a word with SQLite's thread and back, and waking one thread is quicker than
            // waking a runtime. It waits for no socket and no timer.
            true => {
                let runtime = Handle::current();
                tokio::task::spawn_blocking(move || runtime.block_on(writing))
            }
            false => tokio::spawn(writing),
        };
        let shared = Shared {
            queue,
            lanes: Lanes::default(),
            room: Arc::new(Semaphore::new(QUEUED_KIB as usize)),
            readers,
            standing,
            writer: Mutex::new(Some(writer)),
        };
        Store { shared: Arc::new(shared) }
    }

    /// Why the database can't be used at the moment; `None` while it answers.
    pub fn away(&self) -> Option<String> {
        self.shared.standing.away()
    }

    /// Changes whenever writes were refused as `Away` of which nobody knows whether they were stored. Whoever acts on what is stored should look at
    /// all of it then.
    pub fn doubts(&self) -> watch::Receiver<u64> {
        self.shared.standing.doubts()
    }

    /// Whether several servers may share this database.
    pub fn is_shared(&self) -> bool {
        self.dialect() == Dialect::Postgres
    }

    pub(super) fn dialect(&self) -> Dialect {
        match &self.shared.readers {
            Readers::Sqlite(_) => Dialect::Sqlite,
            Readers::Postgres(_) => Dialect::Postgres,
        }
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
    pub(super) fn readers(&self) -> &Readers {
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
        reply.await.map_err(|_| StoreError::dropped())?
    }

    /// As `write`, for work that carries `bytes` of payload: waits until there is room for it.
    pub(super) async fn write_large<T, W>(&self, bytes: usize, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: for<'a> FnOnce(&'a mut Connection) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
    {
        let room = self.room_for(bytes).await?;
        self.write(holding(room, work)).await
    }

    /// The queue of the writer.
    pub(super) fn queue(&self) -> &mpsc::Sender<Job> {
        &self.shared.queue
    }

    pub(super) fn lanes(&self) -> &Lanes {
        &self.shared.lanes
    }

    /// Room for so many bytes of payload, to be held until they are written.
    pub(super) async fn room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, StoreError> {
        let room = Arc::clone(&self.shared.room).acquire_many_owned(kibibytes(bytes)).await;
        room.map_err(|_| StoreError::closed())
    }

    /// As `room_for`, but says `Busy` at once where it would have to wait.
    pub(super) fn try_room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, StoreError> {
        let room = Arc::clone(&self.shared.room).try_acquire_many_owned(kibibytes(bytes));
        room.map_err(|_| StoreError::Busy)
    }
}

/// At least one, and never more than there is altogether: the largest write waits for an empty queue, not for ever.
fn kibibytes(bytes: usize) -> u32 {
    u32::try_from(bytes / 1024 + 1).unwrap_or(QUEUED_KIB).min(QUEUED_KIB)
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::event::NewEvent;
    use crate::store::connection::file_options;
    use crate::store::testing::{NOW, event, fresh, on_both, reopen, stored_run};
    use crate::store::{Advance, EventFilter};

    on_both!(
        a_write_that_fails_takes_no_other_of_its_group_with_it,
        a_write_that_panics_harms_itself_only,
        a_write_is_finished_when_nobody_waits_for_it,
        a_closed_store_says_so,
        writes_that_wait_are_bounded_in_bytes,
    );

    async fn add(store: &Store, events: Vec<NewEvent>) -> Result<i64, StoreError> {
        Ok(store.add_events(events, NOW).await?[0].id.0)
    }

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
                                        sql("INSERT INTO meta VALUES ('left', 'behind')").execute(tx).await?;
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

    async fn a_write_that_panics_harms_itself_only() {
        let (_folder, store) = fresh().await;
        let panicked: Result<(), StoreError> = store
            .write(|tx| {
                Box::pin(async move {
                    sql("INSERT INTO meta VALUES ('left', 'behind')").execute(tx).await?;
                    std::panic::panic_any("planted")
                })
            })
            .await;
        assert!(matches!(panicked, Err(StoreError::Sql(_))));
        add(&store, vec![event("a.b", None)]).await.unwrap();
        assert_eq!(store.meta("left").await.unwrap(), None);
    }

    async fn a_write_is_finished_when_nobody_waits_for_it() {
        let (folder, store) = fresh().await;
        // Polled once, which puts it in the queue, and dropped.
        assert!(store.set_meta("key", "value").now_or_never().is_none());
        store.close().await;
        assert_eq!(reopen(&folder).await.meta("key").await.unwrap().as_deref(), Some("value"));
    }

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
        let error = Store::open(&Location::file(&text), NOW).await.unwrap_err();
        assert_eq!(error, StoreError::NotADatabase { path: text.clone() });
        let below = text.join("siskin.db");
        let error = Store::open(&Location::file(&below), NOW).await.unwrap_err();
        assert!(matches!(&error, StoreError::NotWritable { path, .. } if *path == below), "{error}");
        assert!(!error.to_string().contains('\n'));
    }

    #[tokio::test]
    async fn somebody_elses_database_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.db");
        use sqlx::{ConnectOptions as _, Connection as _};
        let mut other = file_options(&path).create_if_missing(true).connect().await.unwrap();
        sqlx::raw_sql("CREATE TABLE songs (title TEXT)").execute(&mut other).await.unwrap();
        other.close().await.unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = Store::open(&Location::file(&path), NOW).await.unwrap_err();
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
