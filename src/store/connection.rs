//! The two databases behind one face: connections, transactions, pools that read.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use super::StoreError;
use super::postgres::{Postgres, PostgresReaders};

/// Connections that read a file.
const FILE_READERS: u32 = 4;
/// Statements that a connection keeps prepared.
pub(super) const STATEMENTS: usize = 256;
/// How long to wait for another process that holds the file.
const BUSY: Duration = Duration::from_secs(10);
/// Pages in the log before it is moved into the file: 16 MiB.
const CHECKPOINT_PAGES: &str = "4096";
/// The log is cut to this after it was moved.
const LOG_BYTES: &str = "67108864";

/// Which database it is, for the few texts that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

/// What the statements of this module run on.
#[derive(Debug)]
pub(super) enum Connection {
    Sqlite(Box<SqliteConnection>),
    Postgres(Box<Postgres>),
}

impl Connection {
    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Connection::Sqlite(_) => Dialect::Sqlite,
            Connection::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Begins a transaction that writes, with a savepoint in it. On PostgreSQL it waits for its turn among all nodes.
    pub(super) async fn begin(&mut self) -> Result<(), StoreError> {
        match self {
            Connection::Sqlite(connection) => {
                sqlx::query("BEGIN IMMEDIATE").execute(&mut **connection).await?;
                sqlx::query("SAVEPOINT one").execute(&mut **connection).await?;
                Ok(())
            }
            Connection::Postgres(connection) => connection.begin().await,
        }
    }

    /// Runs statements that take and give nothing.
    pub(super) async fn run(&mut self, statements: &'static str) -> Result<(), StoreError> {
        match self {
            Connection::Sqlite(connection) => {
                sqlx::query(statements).execute(&mut **connection).await?;
            }
            Connection::Postgres(connection) => {
                sqlx::raw_sql(statements).execute(&mut ***connection).await?;
            }
        }
        Ok(())
    }

    /// Runs a script: the changes of the schema.
    pub(super) async fn run_script(&mut self, script: &'static str) -> Result<(), StoreError> {
        match self {
            Connection::Sqlite(connection) => {
                sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut **connection).await?;
            }
            Connection::Postgres(connection) => {
                sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut ***connection).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn close(self) -> Result<(), StoreError> {
        match self {
            Connection::Sqlite(connection) => Ok(connection.close().await?),
            Connection::Postgres(connection) => connection.close().await,
        }
    }
}

/// Connections that read and never wait for writes.
#[derive(Clone, Debug)]
pub(super) enum Readers {
    Sqlite(SqlitePool),
    Postgres(PostgresReaders),
}

impl Readers {
    pub(super) async fn close(&self) {
        match self {
            Readers::Sqlite(pool) => pool.close().await,
            Readers::Postgres(readers) => readers.close().await,
        }
    }
}

/// Opens the file at `path`, which is made where it is missing.
pub(super) async fn open_file(path: &Path) -> Result<Connection, StoreError> {
    make_file(path)?;
    Ok(Connection::Sqlite(Box::new(file_options(path).connect().await?)))
}

/// The pool that reads the file at `path`.
pub(super) fn file_readers(path: &Path) -> Readers {
    let pool = SqlitePoolOptions::new()
        .max_connections(FILE_READERS)
        .min_connections(0)
        .test_before_acquire(false)
        .idle_timeout(Duration::from_secs(600))
        .connect_lazy_with(file_options(path).read_only(true).create_if_missing(false));
    Readers::Sqlite(pool)
}

pub(super) fn file_options(path: &Path) -> SqliteConnectOptions {
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
