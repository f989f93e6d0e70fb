//! What can go wrong with the store, by what the caller does about it.

use std::path::{Path, PathBuf};

use sqlx::postgres::PgDatabaseError;

/// Why the store did not do it. Nothing of a refused write has happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A newer Siskin wrote this data and said that this one must not touch it.
    #[error(
        "the data was written by a newer Siskin (schema {found}, this one knows {known}): start that version again, or restore a backup from before the upgrade"
    )]
    Newer { found: i64, known: i64 },
    /// The file or its directory cannot be written.
    #[error("{path} cannot be written ({why}): make it writable for this user, or choose another data directory", path = .path.display())]
    NotWritable { path: PathBuf, why: String },
    /// There is a file, but it is something else.
    #[error("{path} is not a database of Siskin: move it away, or choose another data directory", path = .path.display())]
    NotADatabase { path: PathBuf },
    /// The database has tables of somebody else and none of ours.
    #[error(
        "{database} holds tables of another program: choose another database, or a schema of its own with ?options=-csearch_path%3DNAME"
    )]
    NotOurs { database: String },
    /// The database server can't be used: it does not answer, or does not let us in.
    #[error("{database} can't be used: {why}; {advice}")]
    Unreachable { database: String, why: String, advice: String },
    /// The disk has no room. Nothing was lost; the same call succeeds once there is room.
    #[error("the disk is full: make room where the data is kept; nothing that was accepted is lost")]
    Full,
    /// The queue of writes is full; the caller should say so and be asked again later.
    #[error("too many writes are waiting: try again shortly")]
    Busy,
    /// The database cannot be reached, or the store was closed.
    #[error("the database is away: {0}")]
    Away(String),
    /// The record is no longer as the caller read it, or is there already.
    #[error("{0} was changed by someone else: read it again")]
    Conflict(String),
    /// What the write is about does not exist.
    #[error("there is no {0}")]
    Missing(String),
    /// JSON that nests too deep to be read back.
    #[error("the {what} nests deeper than {most} levels")]
    TooDeep { what: String, most: usize },
    /// A name or key that is longer than the database can find again.
    #[error("a name or key in this is too long to be kept ({0})")]
    TooLong(String),
    /// What is stored cannot be understood.
    #[error("the stored {what} cannot be read ({why}): restore the data from a backup")]
    Corrupt { what: String, why: String },
    /// Anything else that the database said.
    #[error("the database said: {0}")]
    Sql(String),
}

impl StoreError {
    /// The same write would be refused again, however often.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            StoreError::TooDeep { .. }
                | StoreError::TooLong(_)
                | StoreError::Missing(_)
                | StoreError::Corrupt { .. }
        )
    }

    pub(super) fn corrupt(what: impl Into<String>, why: impl ToString) -> StoreError {
        StoreError::Corrupt { what: what.into(), why: why.to_string() }
    }

    pub(super) fn closed() -> StoreError {
        StoreError::Away("the store was closed".to_owned())
    }

    /// The writer let go of a write without a word.
    pub(super) fn dropped() -> StoreError {
        StoreError::Away("it did not answer in time, or the store was closed".to_owned())
    }

    /// Says which file, where the error of opening it knows better than the database.
    pub(super) fn of_file(self, path: &Path) -> StoreError {
        match self {
            StoreError::NotWritable { why, .. } => StoreError::NotWritable { path: path.to_owned(), why },
            StoreError::NotADatabase { .. } => StoreError::NotADatabase { path: path.to_owned() },
            other => other,
        }
    }
}

/// SQLite's primary result codes that a caller tells apart, and the one extended code that means a full disk in disguise.
mod code {
    pub(super) const BUSY: i64 = 5;
    pub(super) const LOCKED: i64 = 6;
    pub(super) const READ_ONLY: i64 = 8;
    pub(super) const IO: i64 = 10;
    pub(super) const CORRUPT: i64 = 11;
    pub(super) const FULL: i64 = 13;
    pub(super) const CANNOT_OPEN: i64 = 14;
    pub(super) const NOT_A_DATABASE: i64 = 26;
    pub(super) const IO_SHARED_MEMORY_SIZE: i64 = 4874;
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> StoreError {
        match &error {
            sqlx::Error::Database(database) => of_database(database.as_ref()),
            sqlx::Error::RowNotFound => StoreError::Missing("such row".to_owned()),
            sqlx::Error::ColumnDecode { index, source } => StoreError::corrupt(index, source),
            sqlx::Error::PoolClosed => StoreError::closed(),
            sqlx::Error::PoolTimedOut
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_) => StoreError::Away(error.to_string()),
            _ => StoreError::Sql(error.to_string()),
        }
    }
}

fn of_database(error: &dyn sqlx::error::DatabaseError) -> StoreError {
    use sqlx::error::ErrorKind;
    let message = error.message().to_owned();
    match error.kind() {
        ErrorKind::ForeignKeyViolation => {
            return StoreError::Missing("record that the write refers to".to_owned());
        }
        ErrorKind::UniqueViolation => return StoreError::Conflict(message),
        _ => {}
    }
    if error.try_downcast_ref::<PgDatabaseError>().is_some() {
        return of_state(error.code().as_deref().unwrap_or_default(), message);
    }
    let extended: i64 = error.code().and_then(|code| code.parse().ok()).unwrap_or(0);
    if extended == code::IO_SHARED_MEMORY_SIZE {
        return StoreError::Full;
    }
    match extended & 0xff {
        code::FULL => StoreError::Full,
        code::READ_ONLY | code::CANNOT_OPEN => {
            StoreError::NotWritable { path: PathBuf::from("the database"), why: message }
        }
        code::NOT_A_DATABASE => StoreError::NotADatabase { path: PathBuf::from("the database") },
        code::CORRUPT => StoreError::corrupt("database", message),
        code::BUSY | code::LOCKED => StoreError::Away(format!("another process holds it ({message})")),
        code::IO => StoreError::Away(message),
        _ => StoreError::Sql(message),
    }
}

/// PostgreSQL's SQLSTATE, of which the first two characters are a class.
fn of_state(state: &str, message: String) -> StoreError {
    match (state.get(..2).unwrap_or_default(), state) {
        (_, "53100") => StoreError::Full,
        (_, "54000") => StoreError::TooLong(message),
        // Connections, resources, an operator's or a timeout's end, locks, conflicts of transactions, a server that became a standby.
        ("08" | "53" | "57" | "55" | "40", _) | (_, "25P03" | "25006") => StoreError::Away(message),
        ("XX", "XX001" | "XX002") => StoreError::corrupt("database", message),
        _ => StoreError::Sql(message),
    }
}
