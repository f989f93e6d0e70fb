//! The schema, step by step. Forward only, all steps of one start in one transaction; see docs/adr/0003-store.md.

use super::StoreError;
use super::connection::Dialect;
use super::db::{Connection, sql};
use crate::model::Timestamp;

/// One change of the schema: `migrations/sqlite/NAME.sql`, and its twin of the same name for PostgreSQL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Migration {
    pub(super) version: i64,
    pub(super) name: &'static str,
    /// The lowest version whose programs still work on the schema after this change. Equal to `version` when it breaks them all.
    pub(super) oldest: i64,
    pub(super) sqlite: &'static str,
    pub(super) postgres: &'static str,
}

/// A change with both its texts.
macro_rules! migration {
    ($version:literal, $name:literal, oldest: $oldest:literal) => {
        Migration {
            version: $version,
            name: $name,
            oldest: $oldest,
            sqlite: include_str!(concat!("../../migrations/sqlite/", $name, ".sql")),
            postgres: include_str!(concat!("../../migrations/postgres/", $name, ".sql")),
        }
    };
}

/// All changes, in order. Add at the end; never edit one that was released.
pub(super) const ALL: &[Migration] = &[
    migration!(1, "0001_first", oldest: 1),
    migration!(2, "0002_successors", oldest: 1),
    migration!(3, "0003_locks", oldest: 1),
    migration!(4, "0004_nodes", oldest: 1),
    migration!(5, "0005_workers", oldest: 1),
    migration!(6, "0006_holds", oldest: 1),
    migration!(7, "0007_items", oldest: 7),
    migration!(8, "0008_artefacts", oldest: 1),
    migration!(9, "0009_cursors", oldest: 1),
    migration!(10, "0010_rule_windows", oldest: 1),
    migration!(11, "0011_restored", oldest: 1),
    migration!(12, "0012_done", oldest: 1),
];

const VERSIONS: &str = "CREATE TABLE IF NOT EXISTS schema_version (
    version    BIGINT PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    oldest     BIGINT,
    applied_at BIGINT NOT NULL
)";

/// Brings the database to the newest of `migrations`. On PostgreSQL one node does it while others that start wait.
///
/// # Errors
/// `Newer` when a later program changed it so that this one can no longer use it; `NotADatabase` when the tables are not ours.
pub(super) async fn migrate(
    connection: &mut Connection,
    migrations: &[Migration],
    now: Timestamp,
) -> Result<(), StoreError> {
    connection.begin().await?;
    let done = apply(connection, migrations, now).await;
    match &done {
        Ok(()) => connection.run("COMMIT").await?,
        // The first error says more than one of taking it back.
        Err(_) => connection.run("ROLLBACK").await.unwrap_or_default(),
    }
    done
}

async fn apply(tx: &mut Connection, migrations: &[Migration], now: Timestamp) -> Result<(), StoreError> {
    if tx.dialect() == Dialect::Postgres {
        // A change of a large table may take its time.
        tx.run("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0").await?;
    }
    tx.run_script(VERSIONS).await?;
    let known = migrations.last().map_or(0, |last| last.version);
    let found = refuse_newer(tx, known).await?;
    for migration in migrations.iter().filter(|migration| migration.version > found) {
        let script = match tx.dialect() {
            Dialect::Sqlite => migration.sqlite,
            Dialect::Postgres => migration.postgres,
        };
        tx.run_script(script).await?;
        sql("INSERT INTO schema_version (version, name, oldest, applied_at) VALUES ($1, $2, $3, $4)")
            .bind(migration.version)
            .bind(migration.name)
            .bind(migration.oldest)
            .bind(now.0)
            .execute(tx)
            .await?;
    }
    Ok(())
}

/// The version that is there, unless a change that it went through shuts this program out.
async fn refuse_newer(tx: &mut Connection, known: i64) -> Result<i64, StoreError> {
    let (found, oldest): (i64, i64) = sql(
        "SELECT coalesce(max(version), 0), coalesce(max(coalesce(oldest, version)), 0) FROM schema_version",
    )
    .fetch_one(tx)
    .await?;
    if oldest > known {
        return Err(StoreError::Newer { found, known });
    }
    Ok(found)
}

/// A database that holds somebody else's tables is left alone.
pub(super) async fn refuse_foreign_tables(
    tx: &mut Connection,
    place: &dyn std::fmt::Display,
) -> Result<(), StoreError> {
    let (tables, refusal) = match tx.dialect() {
        Dialect::Sqlite => (
            "SELECT count(*), count(CASE WHEN name = 'schema_version' THEN 1 END) FROM sqlite_master WHERE type = 'table'",
            StoreError::NotADatabase { path: std::path::PathBuf::new() },
        ),
        Dialect::Postgres => (
            "SELECT count(*), count(CASE WHEN tablename = 'schema_version' THEN 1 END) FROM pg_tables
             WHERE schemaname = current_schema()",
            StoreError::NotOurs { database: place.to_string() },
        ),
    };
    let (tables, ours): (i64, i64) = sql(tables).fetch_one(tx).await?;
    if tables > 0 && ours == 0 {
        return Err(refusal);
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::LogFilter;
    use crate::store::Store;
    use crate::store::testing::{NOW, Place, on_both};

    on_both!(
        several_that_start_at_once_change_the_schema_once,
        somebody_elses_tables_are_left_alone,
        rows_of_the_first_schema_are_read_by_the_newest,
        what_was_deployed_before_is_known_to_have_been_done_or_not,
        a_start_that_fails_midway_leaves_the_old_schema,
        a_newer_schema_is_refused_when_it_says_so_and_borne_when_it_does_not,
    );

    const SECOND: Migration = Migration {
        version: 2,
        name: "0002_test",
        oldest: 1,
        sqlite: "ALTER TABLE meta ADD COLUMN note TEXT NOT NULL DEFAULT 'none'; CREATE TABLE more (id BIGINT)",
        postgres: "ALTER TABLE meta ADD COLUMN note TEXT NOT NULL DEFAULT 'none'; CREATE TABLE more (id BIGINT)",
    };

    fn newest() -> i64 {
        ALL.last().unwrap().version
    }

    fn with(next: Migration) -> Vec<Migration> {
        let mut all = ALL.to_vec();
        all.push(Migration { version: newest() + 1, ..next });
        all
    }

    async fn open(place: &Place, migrations: &[Migration]) -> Result<Store, StoreError> {
        Store::open_with(&place.location, migrations, Duration::ZERO, NOW).await
    }

    async fn rows_of_the_first_schema_are_read_by_the_newest() {
        let place = Place::new();
        let first = open(&place, &ALL[..1]).await.unwrap();
        for statement in [
            "INSERT INTO meta (key, value) VALUES ('k', 'v')",
            "INSERT INTO events (trigger, source, received_at, payload) VALUES ('a.b', 's', 5, '{\"z\":1,\"a\":2}')",
            "INSERT INTO dedup VALUES ('s', 'd', 1, 1700000000000)",
            "INSERT INTO runs (version, workflow, revision, status, phase, open, created_at, wake_at, state) VALUES
             (3, 'site.ci', 'r', 'waiting', 'steps', 1, 5, 77, '{\"id\":0,\"workflow\":\"site.ci\",\"revision\":\"r\",\"status\":\"waiting\",\"phase\":\"steps\",\"started_by\":\"system\",\"event\":null,\"rule\":null,\"parent\":null,\"input\":{},\"output\":null,\"error\":null,\"verdict\":null,\"undone\":null,\"created_at\":\"2023-11-14T22:13:20.000Z\",\"started_at\":null,\"finished_at\":null,\"deadline\":null,\"steps\":{}}')",
            "INSERT INTO inbox (run, input, at) VALUES (1, '\"go\"', 6)",
            "INSERT INTO kv (key, value, version, updated_at) VALUES ('k', '[1]', 4, 5)",
            match place.is_file() {
                true => "INSERT INTO log_chunks (run, step, visit, item, number, stream, at, bytes) VALUES (1, 's', 1, -1, 1, 'stderr', 5, x'ff00')",
                false => "INSERT INTO log_chunks (run, step, visit, item, number, stream, at, bytes) VALUES (1, 's', 1, -1, 1, 'stderr', 5, '\\xff00')",
            },
        ] {
            first.execute(statement).await.unwrap();
        }
        first.close().await;

        let newest = open(&place, &with(SECOND)).await.unwrap();
        assert_eq!(newest.meta("k").await.unwrap().as_deref(), Some("v"));
        let event = newest.unrouted(9, 1 << 20).await.unwrap().remove(0);
        assert_eq!(event.payload.to_string(), r#"{"z":1,"a":2}"#);
        let run = newest.open_runs(crate::model::RunId(0), 9).await.unwrap().remove(0);
        assert_eq!((run.id.0, run.version), (1, 3));
        assert_eq!(newest.next_wake().await.unwrap(), Some(Timestamp(77)));
        assert_eq!(newest.inbox(run.id).await.unwrap()[0].input, "go");
        let filter = LogFilter { run: run.id, step: None, after: 0, limit: 9 };
        assert_eq!(newest.log(&filter).await.unwrap()[0].chunk.bytes, [0xff, 0]);
        assert_eq!(newest.kv("k", NOW).await.unwrap().unwrap().version, 4);
        assert_eq!(newest.count("SELECT count(*) FROM meta WHERE note = 'none'").await, 1);
    }

    async fn what_was_deployed_before_is_known_to_have_been_done_or_not() {
        let place = Place::new();
        let before = open(&place, &ALL[..11]).await.unwrap();
        let whole = r#"[{"name":"a","ok":true}]"#;
        let half = r#"[{"name":"a","ok":true},{"name":"b","ok":false}]"#;
        let begun = r#"[{"name":"a","ok":true},{"name":"b","ok":null}]"#;
        let rows = [
            ("done", half),
            ("failed", whole),
            ("restored", whole),
            ("restored", half),
            ("restored", begun),
            ("restored", "[]"),
        ];
        for (number, (status, hosts)) in rows.iter().enumerate() {
            let row = format!(
                "INSERT INTO deployments (unique_key, app, environment, version, status, started_at, finished_at, hosts)
                 VALUES ('{number}/roll/1', 'shop', 'production', '1', '{status}', 5, 7, '{hosts}')"
            );
            before.execute(row.leak()).await.unwrap();
        }
        before.close().await;
        let newest = open(&place, ALL).await.unwrap();
        let filter = crate::store::DeploymentFilter { limit: 9, ..Default::default() };
        let mut found = newest.deployments(&filter).await.unwrap();
        found.reverse();
        let done: Vec<_> = found.iter().map(|one| one.deployment.done_at.map(|at| at.0)).collect();
        assert_eq!(done, [Some(7), None, Some(7), None, None, None]);
    }

    async fn a_start_that_fails_midway_leaves_the_old_schema() {
        let place = Place::new();
        open(&place, ALL).await.unwrap().close().await;
        const TWICE: &str = "CREATE TABLE more (id BIGINT); CREATE TABLE more (id BIGINT)";
        let broken = Migration { sqlite: TWICE, postgres: TWICE, ..SECOND };
        assert!(matches!(open(&place, &with(broken)).await, Err(StoreError::Sql(_))));
        let store = open(&place, &with(SECOND)).await.unwrap();
        assert_eq!(store.count("SELECT max(version) FROM schema_version").await, newest() + 1);
    }

    async fn a_newer_schema_is_refused_when_it_says_so_and_borne_when_it_does_not() {
        let known = newest();
        let expanded = Place::new();
        open(&expanded, &with(SECOND)).await.unwrap().close().await;
        open(&expanded, ALL).await.unwrap().close().await;

        let contracted = Place::new();
        let breaking = with(Migration { oldest: known + 1, ..SECOND });
        open(&contracted, &breaking).await.unwrap().close().await;
        let error = open(&contracted, ALL).await.unwrap_err();
        assert_eq!(error, StoreError::Newer { found: known + 1, known });
        assert!(error.to_string().contains("start that version again"));
    }

    async fn several_that_start_at_once_change_the_schema_once() {
        let place = Place::new();
        if place.is_file() {
            return; // A file is for one server.
        }
        let starts = (0..4).map(|_| open(&place, ALL));
        for started in futures::future::join_all(starts).await {
            started.unwrap();
        }
        let store = open(&place, ALL).await.unwrap();
        assert_eq!(store.count("SELECT count(*) FROM schema_version").await, ALL.len() as i64);
    }

    async fn somebody_elses_tables_are_left_alone() {
        let place = Place::new();
        if place.is_file() {
            return; // The file's own test says it.
        }
        let store = open(&place, ALL).await.unwrap();
        for statement in ["CREATE TABLE songs (title TEXT)", "DROP TABLE schema_version"] {
            store.execute(statement).await.unwrap();
        }
        let error = open(&place, ALL).await.unwrap_err();
        assert!(matches!(error, StoreError::NotOurs { .. }), "{error}");
    }
}
