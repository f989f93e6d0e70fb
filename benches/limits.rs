//! What this machine can do: rows of the same size committed in groups, with the same promise to be on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::{mpsc, oneshot};

use crate::{Scene, site};

/// How many write at once, in all measurements of this kind.
pub(crate) const WRITERS: [usize; 3] = [1, 16, 64];
/// Rows in one statement: the largest that fits is taken, then smaller ones.
const ROWS: [usize; 4] = [64, 16, 4, 1];
/// Rows that share a commit, at most.
const GROUP: usize = 512;

/// Rows a second by writers at once, as far as they were measured, of each store.
#[derive(Default)]
pub(crate) struct Limits {
    rows: [Option<[f64; 3]>; 2],
}

pub(crate) fn measure(scene: &mut Scene) {
    let rows = rows(scene);
    for (writers, rows) in WRITERS.iter().zip(rows) {
        scene.table.plain(&format!("rows committed in groups, {writers} writers"), rows, "/s", "");
    }
    let folder = tempfile::tempdir().unwrap();
    let syncs = syncs(folder.path(), scene.seconds);
    scene.table.plain("4 KiB written and synced, one after another", syncs, "/s", "");
}

/// Rows a second on the store at hand; measured once.
pub(crate) fn rows(scene: &mut Scene) -> [f64; 3] {
    let index = scene.stand.index();
    if let Some(known) = scene.limits.rows[index] {
        return known;
    }
    let rows = WRITERS.map(|writers| rows_a_second(writers, scene));
    scene.limits.rows[index] = Some(rows);
    rows
}

fn rows_a_second(writers: usize, scene: &Scene) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let (place, time) = (scene.stand.place(folder.path()), scene.seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let rows = Rows::open(&place).await;
        let body: Arc<str> = String::from_utf8(site::body()).unwrap().into();
        let (done, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let tasks: Vec<_> = (0..writers)
            .map(|_| {
                let (rows, body, done) = (rows.clone(), Arc::clone(&body), Arc::clone(&done));
                tokio::spawn(async move {
                    while began.elapsed() < time {
                        rows.add(body.to_string()).await;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
    })
}

fn syncs(folder: &Path, time: Duration) -> f64 {
    use std::io::{Seek, Write};
    let mut file = std::fs::File::create(folder.join("synced")).unwrap();
    let (page, began, mut count) = ([7_u8; 4096], Instant::now(), 0_usize);
    while began.elapsed() < time / 2 {
        file.rewind().unwrap();
        file.write_all(&page).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    count as f64 / began.elapsed().as_secs_f64()
}

/// Where a table of rows is kept.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    File(PathBuf),
    Database(String),
}

impl Place {
    /// As it is told to another process.
    pub(crate) fn to_text(&self) -> String {
        match self {
            Place::File(path) => path.display().to_string(),
            Place::Database(url) => url.clone(),
        }
    }

    pub(crate) fn of_text(text: &str) -> Place {
        if text.starts_with("postgres:") {
            Place::Database(text.to_owned())
        } else {
            Place::File(text.into())
        }
    }
}

/// A table of rows to which many add: what came while the last commit was under way shares the next.
#[derive(Clone)]
pub(crate) struct Rows {
    queue: mpsc::Sender<(String, oneshot::Sender<i64>)>,
}

impl Rows {
    pub(crate) async fn open(place: &Place) -> Rows {
        let (queue, waiting) = mpsc::channel(4096);
        match place {
            Place::File(path) => tokio::spawn(write_to_file(open_file(path).await, waiting)),
            Place::Database(url) => tokio::spawn(write_to_postgres(open_postgres(url).await, waiting)),
        };
        Rows { queue }
    }

    /// The row's number, once it is on disk.
    pub(crate) async fn add(&self, body: String) -> i64 {
        let (told, number) = oneshot::channel();
        self.queue.send((body, told)).await.unwrap();
        number.await.unwrap()
    }
}

type Waiting = mpsc::Receiver<(String, oneshot::Sender<i64>)>;

/// As the store of Siskin opens its own.
async fn open_file(path: &Path) -> SqliteConnection {
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", "4096")
        .disable_statement_logging()
        .connect()
        .await
        .unwrap();
    let table = "CREATE TABLE rows (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, at INTEGER NOT NULL, body TEXT NOT NULL)";
    sqlx::query(table).execute(&mut connection).await.unwrap();
    connection
}

async fn open_postgres(url: &str) -> PgConnection {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let table = "CREATE TABLE IF NOT EXISTS rows (id BIGSERIAL PRIMARY KEY, kind TEXT NOT NULL, at BIGINT NOT NULL, body TEXT NOT NULL)";
    sqlx::query(table).execute(&mut connection).await.unwrap();
    connection
}

async fn write_to_file(mut connection: SqliteConnection, mut waiting: Waiting) {
    let mut group = Vec::new();
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let (bodies, tells): (Vec<String>, Vec<_>) = group.drain(..).unzip();
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let mut last = 0;
        for (sql, bodies) in statements(bodies) {
            let statement =
                bodies.into_iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql)), sqlx::query::Query::bind);
            last = statement.execute(&mut *transaction).await.unwrap().last_insert_rowid();
        }
        transaction.commit().await.unwrap();
        tell(last, tells);
    }
    connection.close().await.unwrap();
}

async fn write_to_postgres(mut connection: PgConnection, mut waiting: Waiting) {
    let mut group = Vec::new();
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let (bodies, tells): (Vec<String>, Vec<_>) = group.drain(..).unzip();
        let mut transaction = connection.begin().await.unwrap();
        let mut last = 0;
        for (sql, bodies) in statements(bodies) {
            let sql = format!("{sql} RETURNING id");
            let statement = bodies
                .into_iter()
                .fold(sqlx::query_scalar(sqlx::AssertSqlSafe(sql)), sqlx::query::QueryScalar::bind);
            let ids: Vec<i64> = statement.fetch_all(&mut *transaction).await.unwrap();
            last = ids.into_iter().max().unwrap();
        }
        transaction.commit().await.unwrap();
        tell(last, tells);
    }
    connection.close().await.unwrap();
}

/// Inserts of many rows each.
fn statements(mut bodies: Vec<String>) -> Vec<(String, Vec<String>)> {
    let mut statements = Vec::new();
    while !bodies.is_empty() {
        let count = ROWS.into_iter().find(|count| *count <= bodies.len()).unwrap_or(1);
        let values: Vec<String> = (1..=count).map(|number| format!("('load.seen', 1, ${number})")).collect();
        let sql = format!("INSERT INTO rows (kind, at, body) VALUES {}", values.join(", "));
        statements.push((sql, bodies.drain(..count).collect()));
    }
    statements
}

fn tell(last: i64, tells: Vec<oneshot::Sender<i64>>) {
    let first = last + 1 - i64::try_from(tells.len()).unwrap();
    for (number, told) in (first..).zip(tells) {
        told.send(number).ok();
    }
}
