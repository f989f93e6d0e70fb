//! What the tests of this folder share: a store in a directory of its own, and plain records.

use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::json;
use tempfile::TempDir;

use super::connection::Dialect;
use super::db::sql;
use super::{Location, NewAudit, NewRun, Store, StoreError, Words};
use crate::model::attempt::Work;
use crate::model::event::NewEvent;
use crate::model::run::Phase;
use crate::model::{Actor, Attempt, AttemptKey, Filled, Run, RunId, RunStatus, Span, Step, Timestamp, Value};

#[path = "../../tests/support/postgres.rs"]
#[expect(dead_code, reason = "benches and tests from outside use the rest")]
pub(super) mod postgres;

pub(super) const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// Where a test keeps its store: in a directory of its own, or in a schema of its own of the server that tests share.
pub(super) struct Place {
    folder: TempDir,
    pub(super) location: Location,
}

impl Place {
    /// A place of the kind that the test is run for.
    pub(super) fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let location = match DIALECT.try_with(|dialect| *dialect).unwrap_or(Dialect::Sqlite) {
            Dialect::Sqlite => Location::file(folder.path().join("siskin.db")),
            Dialect::Postgres => Location::url(&postgres::new_schema()).unwrap(),
        };
        Place { folder, location }
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self.location, Location::File(_))
    }
}

tokio::task_local! {
    static DIALECT: Dialect;
}

/// Runs a test for one of the databases.
pub(super) async fn on(dialect: Dialect, test: impl Future<Output = ()>) {
    DIALECT.scope(dialect, test).await;
}

/// Makes tests of functions: each is run on both databases, where `Place::new` and `fresh` give what it is run for.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            use crate::store::connection::Dialect;
            use crate::store::testing::on;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() {
                on(Dialect::Sqlite, super::$name()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() {
                on(Dialect::Postgres, super::$name()).await;
            }
        }
    )*};
}
pub(super) use on_both;

/// A store that goes away with its directory.
pub(super) async fn fresh() -> (Place, Store) {
    let place = Place::new();
    let store = reopen(&place).await;
    (place, store)
}

pub(super) async fn reopen(place: &Place) -> Store {
    Store::open(&place.location, NOW).await.unwrap()
}

impl Store {
    /// Runs a statement as a write of its own.
    pub(super) async fn execute(&self, statement: &'static str) -> Result<(), StoreError> {
        self.write(move |tx| Box::pin(async move { sql(statement).execute(tx).await.map(drop) })).await
    }

    pub(super) async fn count(&self, statement: &'static str) -> i64 {
        sql(statement).fetch_one(self.readers()).await.unwrap()
    }
}

pub(super) fn event(trigger: &str, dedup: Option<&str>) -> NewEvent {
    NewEvent {
        trigger: trigger.to_owned(),
        source: "github.webhook".to_owned(),
        payload: Arc::new(json!({"z": 1, "a": {"deep": ["x", null, 2.5]}})),
        dedup: dedup.map(str::to_owned),
        replay_of: None,
    }
}

pub(super) fn run() -> Run {
    Run {
        id: RunId(0),
        version: 0,
        workflow: "site.ci".to_owned(),
        revision: "r1".to_owned(),
        status: RunStatus::Running,
        phase: Phase::Steps,
        started_by: Actor::user("ana"),
        event: None,
        rule: None,
        parent: None,
        depth: 0,
        rerun_of: None,
        rollback_of: None,
        input: json!({"commit": "abc"}).into(),
        output: crate::model::Kept::default(),
        error: None,
        verdict: None,
        cancelled_by: None,
        cancels: 0,
        paused: false,
        undone: None,
        created_at: NOW,
        started_at: None,
        finished_at: None,
        deadline: None,
        steps: IndexMap::from([("build".to_owned(), Step::pending()), ("ship".to_owned(), Step::pending())]),
        taken: Vec::new(),
        undos: IndexMap::new(),
        begun: 0,
        held: None,
        forced: None,
        wanted_by: None,
        outer: None,
        items: Default::default(),
        undo_items: Default::default(),
        tokens: Default::default(),
        published: Default::default(),
    }
}

pub(super) fn new_run() -> NewRun {
    NewRun {
        run: run(),
        wake_at: None,
        inputs: Vec::new(),
        history: Vec::new(),
        slot: None,
        words: Words::default(),
    }
}

/// A stored run, as it reads back.
pub(super) async fn stored_run(store: &Store) -> Run {
    let id = store.insert_run(new_run(), None, NOW).await.unwrap().id;
    store.run(id).await.unwrap().unwrap()
}

pub(super) fn attempt(run: RunId, item: Option<u32>, number: u32) -> Attempt {
    Attempt {
        key: AttemptKey { run, step: "build".to_owned(), visit: 1, item, number },
        action: "core.shell".to_owned(),
        input: Filled::Plain(json!({"command": "make"})),
        work: Work {
            runner: "shell".to_owned(),
            section: Value::Null,
            output: Value::Null,
            script: None,
            secret_outputs: Vec::new(),
            file_inputs: Vec::new(),
            file_outputs: Vec::new(),
            config: json!({}),
            functions: None,
        },
        apps: Value::Null,
        idempotent: false,
        timeout: Span::hours(1),
        route: crate::model::Route::default(),
    }
}

pub(super) fn audit(act: &str) -> NewAudit {
    NewAudit {
        at: NOW,
        actor: Actor::user("ana"),
        act: act.to_owned(),
        subject: "run 1".to_owned(),
        details: json!({"why": "test"}),
        from: Some("127.0.0.1".to_owned()),
    }
}
