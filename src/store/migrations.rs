//! The schema, step by step. Forward only, all steps of one start in one transaction; see docs/adr/0003-store.md.

use sqlx::Connection as _;

use super::StoreError;
use super::db::Connection;
use crate::model::Timestamp;

/// One change of the schema: `migrations/sqlite/NAME.sql`, and its twin of the same name for PostgreSQL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Migration {
    pub(super) version: i64,
    pub(super) name: &'static str,
    /// The lowest version whose programs still work on the schema after this change. Equal to `version` when it breaks them all.
    pub(super) oldest: i64,
    pub(super) sql: &'static str,
}

/// All changes, in order. Add at the end; never edit one that was released.
pub(super) const ALL: &[Migration] = &[
    Migration {
        version: 1,
        name: "0001_first",
        oldest: 1,
        sql: include_str!("../../migrations/sqlite/0001_first.sql"),
    },
    Migration {
        version: 2,
        name: "0002_successors",
        oldest: 1,
        sql: include_str!("../../migrations/sqlite/0002_successors.sql"),
    },
    Migration {
        version: 3,
        name: "0003_locks",
        oldest: 1,
        sql: include_str!("../../migrations/sqlite/0003_locks.sql"),
    },
];

const VERSIONS: &str = "CREATE TABLE IF NOT EXISTS schema_version (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    oldest     INTEGER,
    applied_at INTEGER NOT NULL
)";

/// Brings the database to the newest of `migrations`.
///
/// # Errors
/// `Newer` when a later program changed it so that this one can no longer use it; `NotADatabase` when the tables are not ours.
pub(super) async fn migrate(
    connection: &mut Connection,
    migrations: &[Migration],
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::raw_sql(VERSIONS).execute(&mut *tx).await?;
    let known = migrations.last().map_or(0, |last| last.version);
    let found = refuse_newer(&mut tx, known).await?;
    for migration in migrations.iter().filter(|migration| migration.version > found) {
        sqlx::raw_sql(migration.sql).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO schema_version (version, name, oldest, applied_at) VALUES ($1, $2, $3, $4)")
            .bind(migration.version)
            .bind(migration.name)
            .bind(migration.oldest)
            .bind(now.0)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(())
}

/// The version that is there, unless a change that it went through shuts this program out.
async fn refuse_newer(tx: &mut Connection, known: i64) -> Result<i64, StoreError> {
    let (found, oldest): (i64, i64) = sqlx::query_as(
        "SELECT coalesce(max(version), 0), coalesce(max(coalesce(oldest, version)), 0) FROM schema_version",
    )
    .fetch_one(tx)
    .await?;
    if oldest > known {
        return Err(StoreError::Newer { found, known });
    }
    Ok(found)
}

/// A file that holds somebody else's tables is left alone.
pub(super) async fn refuse_foreign_tables(tx: &mut Connection) -> Result<(), StoreError> {
    let (tables, ours): (i64, i64) = sqlx::query_as(
        "SELECT count(*), coalesce(sum(name = 'schema_version'), 0) FROM sqlite_master WHERE type = 'table'",
    )
    .fetch_one(tx)
    .await?;
    if tables > 0 && ours == 0 {
        return Err(StoreError::NotADatabase { path: std::path::PathBuf::new() });
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::testing::NOW;

    const SECOND: Migration = Migration {
        version: 2,
        name: "0002_test",
        oldest: 1,
        sql: "ALTER TABLE meta ADD COLUMN note TEXT NOT NULL DEFAULT 'none'; CREATE TABLE more (id INTEGER)",
    };

    fn with(next: Migration) -> Vec<Migration> {
        let mut all = ALL.to_vec();
        all.push(Migration { version: all.len() as i64 + 1, ..next });
        all
    }

    async fn open(folder: &tempfile::TempDir, migrations: &[Migration]) -> Result<Store, StoreError> {
        Store::open_with(&folder.path().join("siskin.db"), migrations, NOW).await
    }

    #[tokio::test]
    async fn rows_of_the_first_schema_are_read_by_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(&folder, &ALL[..1]).await.unwrap();
        for statement in [
            "INSERT INTO meta (key, value) VALUES ('k', 'v')",
            "INSERT INTO events (trigger, source, received_at, payload) VALUES ('a.b', 's', 5, '{\"z\":1,\"a\":2}')",
            "INSERT INTO dedup VALUES ('s', 'd', 1, 1700000000000)",
            "INSERT INTO runs (version, workflow, revision, status, phase, open, created_at, wake_at, state) VALUES
             (3, 'site.ci', 'r', 'waiting', 'steps', 1, 5, 77, '{\"id\":0,\"workflow\":\"site.ci\",\"revision\":\"r\",\"status\":\"waiting\",\"phase\":\"steps\",\"started_by\":\"system\",\"event\":null,\"rule\":null,\"parent\":null,\"input\":{},\"output\":null,\"error\":null,\"verdict\":null,\"undone\":null,\"created_at\":\"2023-11-14T22:13:20.000Z\",\"started_at\":null,\"finished_at\":null,\"deadline\":null,\"steps\":{}}')",
            "INSERT INTO inbox (run, input, at) VALUES (1, '\"go\"', 6)",
            "INSERT INTO kv (key, value, version, updated_at) VALUES ('k', '[1]', 4, 5)",
            "INSERT INTO log_chunks (run, step, visit, item, number, stream, at, bytes) VALUES (1, 's', 1, -1, 1, 'stderr', 5, x'ff00')",
        ] {
            first.execute(statement).await.unwrap();
        }
        first.close().await;

        let newest = open(&folder, &with(SECOND)).await.unwrap();
        assert_eq!(newest.meta("k").await.unwrap().as_deref(), Some("v"));
        let event = newest.unrouted(9, 1 << 20).await.unwrap().remove(0);
        assert_eq!(event.payload.to_string(), r#"{"z":1,"a":2}"#);
        let run = newest.open_runs(crate::model::RunId(0), 9).await.unwrap().remove(0);
        assert_eq!((run.id.0, run.version), (1, 3));
        assert_eq!(newest.next_wake().await.unwrap(), Some(Timestamp(77)));
        assert_eq!(newest.inbox(run.id).await.unwrap()[0].input, "go");
        assert_eq!(newest.kv("k", NOW).await.unwrap().unwrap().version, 4);
        assert_eq!(newest.count("SELECT count(*) FROM meta WHERE note = 'none'").await, 1);
    }

    #[tokio::test]
    async fn a_start_that_fails_midway_leaves_the_old_schema() {
        let folder = tempfile::tempdir().unwrap();
        open(&folder, ALL).await.unwrap().close().await;
        let broken =
            Migration { sql: "CREATE TABLE more (id INTEGER); CREATE TABLE more (id INTEGER)", ..SECOND };
        assert!(matches!(open(&folder, &with(broken)).await, Err(StoreError::Sql(_))));
        let store = open(&folder, &with(SECOND)).await.unwrap();
        assert_eq!(store.count("SELECT max(version) FROM schema_version").await, ALL.len() as i64 + 1);
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused_when_it_says_so_and_borne_when_it_does_not() {
        let known = ALL.len() as i64;
        let expanded = tempfile::tempdir().unwrap();
        open(&expanded, &with(SECOND)).await.unwrap().close().await;
        open(&expanded, ALL).await.unwrap().close().await;

        let contracted = tempfile::tempdir().unwrap();
        let breaking = with(Migration { oldest: known + 1, ..SECOND });
        open(&contracted, &breaking).await.unwrap().close().await;
        let error = open(&contracted, ALL).await.unwrap_err();
        assert_eq!(error, StoreError::Newer { found: known + 1, known });
        assert!(error.to_string().contains("start that version again"));
    }
}
