//! What the tests of this folder share: a store in a directory of its own, and plain records.

use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::json;
use tempfile::TempDir;

use super::{NewAudit, NewRun, Store, StoreError};
use crate::model::attempt::Work;
use crate::model::event::NewEvent;
use crate::model::run::Phase;
use crate::model::{Actor, Attempt, AttemptKey, Filled, Run, RunId, RunStatus, Span, Step, Timestamp, Value};

pub(super) const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// A store that goes away with its directory.
pub(super) async fn fresh() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = reopen(&folder).await;
    (folder, store)
}

pub(super) async fn reopen(folder: &TempDir) -> Store {
    Store::open(&folder.path().join("siskin.db"), NOW).await.unwrap()
}

impl Store {
    /// Runs a statement as a write of its own.
    pub(super) async fn execute(&self, statement: &'static str) -> Result<(), StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                sqlx::query(statement).execute(tx).await?;
                Ok(())
            })
        })
        .await
    }

    pub(super) async fn count(&self, statement: &'static str) -> i64 {
        sqlx::query_scalar(statement).fetch_one(self.readers()).await.unwrap()
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
        input: json!({"commit": "abc"}),
        output: Value::Null,
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
    }
}

pub(super) fn new_run() -> NewRun {
    NewRun { run: run(), wake_at: None, inputs: Vec::new(), history: Vec::new() }
}

/// A stored run, as it reads back.
pub(super) async fn stored_run(store: &Store) -> Run {
    let id = store.insert_run(new_run(), None, NOW).await.unwrap();
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
            config: json!({}),
            functions: None,
        },
        apps: Value::Null,
        idempotent: false,
        timeout: Span::hours(1),
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
