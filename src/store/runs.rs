//! Runs and their history, and the one transaction that advances a run.
//!
//! Promises: a run is saved only over the version that was read, else `Conflict` and nothing is written; state, history, attempts,
//! questions, children, events and inputs of one step forward are written together or not at all. A run that ended keeps no wait, no
//! timer and no input.

use super::audit::{self, NewAudit};
use super::db::{Connection, Query};
use super::waits::{self, Wait};
use super::{AddedEvent, Store, StoreError, approvals, attempts, bounded, events, inbox, json, locks, meta};
use crate::model::approval::{ApprovalStatus, Question};
use crate::model::event::NewEvent;
use crate::model::step::StepState;
use crate::model::{ApprovalId, Attempt, AttemptKey, EventId, Run, RunId, RunStatus, Timestamp, Value};

/// A run that is not stored yet. Its `id` and `version` are ignored; the store gives them.
#[derive(Clone, Debug)]
pub struct NewRun {
    pub run: Run,
    pub wake_at: Option<Timestamp>,
    /// Its first inputs.
    pub inputs: Vec<Value>,
    pub history: Vec<NewHistory>,
}

impl NewRun {
    /// A run with one first input, `started` say, for the driver to take.
    pub fn with_input(run: Run, input: Value) -> NewRun {
        NewRun { run, wake_at: None, inputs: vec![input], history: Vec::new() }
    }
}

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq)]
pub struct NewHistory {
    pub at: Timestamp,
    pub step: Option<String>,
    /// One word or two: `started`, `attempt failed`.
    pub what: String,
    pub details: Value,
}

/// Something that happened in a run, as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryRow {
    pub id: i64,
    pub at: Timestamp,
    pub step: Option<String>,
    pub what: String,
    pub details: Value,
}

/// All that one step forward of a run writes. `Advance::of` makes one with nothing in it but the run.
#[derive(Clone, Debug)]
pub struct Advance {
    /// The new state; its `version` is the one that was read.
    pub run: Run,
    pub now: Timestamp,
    /// When time alone moves it; ignored once it has ended.
    pub wake_at: Option<Timestamp>,
    pub history: Vec<NewHistory>,
    /// What it asks people.
    pub questions: Vec<Question>,
    /// Steps whose waiting approvals end otherwise than by a vote: withdrawn or expired.
    pub settled: Vec<(String, ApprovalStatus)>,
    /// All that its steps listen to from now on; `None`: as before.
    pub waits: Option<Vec<Wait>>,
    /// Inbox rows that it took.
    pub consumed: Vec<i64>,
    /// Runs to start. Where the child's `parent` names a step of this run that is `Child { run: None }`, the store fills in the id.
    pub children: Vec<NewRun>,
    pub events: Vec<NewEvent>,
    /// Inputs for other runs, as a child's end for its parent. A run that has ended gets none.
    pub inputs: Vec<(RunId, Value)>,
    /// Attempts to dispatch, in flight from now on. After a crash `in_flight` has those that never
    /// began as `Dispatched`.
    pub attempts: Vec<Attempt>,
    /// The boot that `attempts` belong to.
    pub boot: String,
    /// Attempts that are no longer in flight.
    pub ended_attempts: Vec<AttemptKey>,
    pub audit: Option<NewAudit>,
    /// Locks that its steps ask for: step and name.
    pub locks: Vec<(String, String)>,
    /// Steps that give back the lock that they have or wait for.
    pub freed: Vec<String>,
    /// The input that tells a run that this step of it has its lock.
    pub lock_taken: fn(&str) -> Value,
}

impl Advance {
    pub fn of(run: Run, now: Timestamp) -> Advance {
        Advance {
            run,
            now,
            wake_at: None,
            history: Vec::new(),
            questions: Vec::new(),
            settled: Vec::new(),
            waits: None,
            consumed: Vec::new(),
            children: Vec::new(),
            events: Vec::new(),
            inputs: Vec::new(),
            attempts: Vec::new(),
            boot: String::new(),
            ended_attempts: Vec::new(),
            audit: None,
            locks: Vec::new(),
            freed: Vec::new(),
            lock_taken: |_| Value::Null,
        }
    }
}

/// What `save_run` stored. Ids are in the order of what they belong to in `Advance`.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// The run as it is stored now, with its new version and the ids of its children.
    pub run: Run,
    pub approvals: Vec<ApprovalId>,
    pub children: Vec<RunId>,
    pub events: Vec<AddedEvent>,
    /// Runs that have an input now because a step of theirs got a lock; this one may be among them.
    pub woken: Vec<RunId>,
}

/// Which runs count, by where they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Those without a parent.
    #[default]
    Top,
    ChildrenOf(RunId),
    All,
}

/// Which runs a list holds. Newest first.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    pub family: Family,
    /// Any of these; empty: whatever their status.
    pub status: Vec<RunStatus>,
    pub workflow: Option<String>,
    pub rule: Option<String>,
    pub event: Option<EventId>,
    /// Only runs older than this one: the last of the page before.
    pub before: Option<RunId>,
    pub limit: u32,
}

impl Store {
    /// Stores a run that no event started: from the API, a rerun.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn insert_run(
        &self,
        run: NewRun,
        audit: Option<NewAudit>,
        now: Timestamp,
    ) -> Result<RunId, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let id = insert(tx, run, now).await?;
                if let Some(row) = &audit {
                    audit::add(tx, row).await?;
                }
                Ok(id)
            })
        })
        .await
    }

    /// As `insert_run`, once for `key`: who asks again with the same key gets the run of the first time, and false.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn insert_run_once(
        &self,
        run: NewRun,
        key: &str,
        audit: Option<NewAudit>,
        now: Timestamp,
    ) -> Result<(RunId, bool), StoreError> {
        let key = format!("idempotency/{key}");
        self.write(move |tx| {
            Box::pin(async move {
                if let Some(known) = meta::read(tx, &key).await?.and_then(|text| text.parse().ok()) {
                    return Ok((known, false));
                }
                let id = insert(tx, run, now).await?;
                meta::write(tx, &key, &id.to_string()).await?;
                if let Some(row) = &audit {
                    audit::add(tx, row).await?;
                }
                Ok((id, true))
            })
        })
        .await
    }

    /// Stores a run that rolls another back, unless there is one already.
    ///
    /// # Errors
    /// `Conflict` names the rollback that there is; the database cannot be written.
    pub async fn insert_rollback(
        &self,
        run: NewRun,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<RunId, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let of = run.run.rollback_of.map(|id| id.0);
                let known: Option<i64> =
                    sqlx::query_scalar("SELECT min(id) FROM runs WHERE rollback_of = $1")
                        .bind(of)
                        .fetch_one(&mut *tx)
                        .await?;
                if let (Some(known), Some(of)) = (known, of) {
                    return Err(StoreError::Conflict(format!(
                        "run {of} was rolled back already, by run {known}"
                    )));
                }
                let id = insert(tx, run, now).await?;
                audit::add(tx, &audit).await?;
                Ok(id)
            })
        })
        .await
    }

    /// The runs that ran this one again or rolled it back, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn successors(&self, id: RunId, limit: u32) -> Result<Vec<Run>, StoreError> {
        let mut query = select();
        query.push(" WHERE rerun_of = ").push_bind(id.0).push(" OR rollback_of = ").push_bind(id.0);
        query.push(" ORDER BY id LIMIT ").push_bind(bounded(limit));
        self.fetch_runs(query).await
    }

    /// Writes one step forward of a run.
    ///
    /// # Errors
    /// `Conflict` when the stored version is another than the one read; `Missing` when there is no such run; the database cannot be
    /// written. Nothing is written then.
    pub async fn save_run(&self, advance: Advance) -> Result<Saved, StoreError> {
        let events = events::prepare(advance.events.clone())?;
        // The state is by far the most text; the writer is spared it unless ids of children are still to come into it.
        let state = match advance.children.is_empty() {
            true => Some(json::write("run", &advance.run)?),
            false => None,
        };
        self.write(move |tx| Box::pin(async move { save(tx, advance, state, events).await })).await
    }

    /// One run.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn run(&self, id: RunId) -> Result<Option<Run>, StoreError> {
        let mut query = select();
        query.push(" WHERE id = ").push_bind(id.0);
        Ok(self.fetch_runs(query).await?.pop())
    }

    /// Runs that have not ended, children included, oldest first, those after `after` (0: from the first).
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn open_runs(&self, after: RunId, limit: u32) -> Result<Vec<Run>, StoreError> {
        let mut query = select();
        query.push(" WHERE open = 1 AND id > ").push_bind(after.0);
        query.push(" ORDER BY id LIMIT ").push_bind(bounded(limit));
        self.fetch_runs(query).await
    }

    /// The ids of runs that have not ended, oldest first, those after `after` (0: from the first).
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn open_run_ids(&self, after: RunId, limit: u32) -> Result<Vec<RunId>, StoreError> {
        let ids: Vec<i64> =
            sqlx::query_scalar("SELECT id FROM runs WHERE open = 1 AND id > $1 ORDER BY id LIMIT $2")
                .bind(after.0)
                .bind(bounded(limit))
                .fetch_all(self.readers())
                .await?;
        Ok(ids.into_iter().map(RunId).collect())
    }

    /// Runs whose time has come, the longest overdue first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<RunId>, StoreError> {
        let ids: Vec<i64> = sqlx::query_scalar(
            "SELECT id FROM runs WHERE wake_at IS NOT NULL AND wake_at <= $1 ORDER BY wake_at LIMIT $2",
        )
        .bind(now.0)
        .bind(bounded(limit))
        .fetch_all(self.readers())
        .await?;
        Ok(ids.into_iter().map(RunId).collect())
    }

    /// When the next run's time comes.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn next_wake(&self) -> Result<Option<Timestamp>, StoreError> {
        let at: Option<i64> = sqlx::query_scalar("SELECT min(wake_at) FROM runs WHERE wake_at IS NOT NULL")
            .fetch_one(self.readers())
            .await?;
        Ok(at.map(Timestamp))
    }

    /// A page of runs, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn runs(&self, filter: &RunFilter) -> Result<Vec<Run>, StoreError> {
        let mut query = select();
        match filter.family {
            // The plus keeps the index on all top runs out of it, so that the one on open runs answers, however long the past is.
            Family::Top if only_open(&filter.status) => query.push(" WHERE open = 1 AND +parent_run IS NULL"),
            Family::Top => query.push(" WHERE parent_run IS NULL"),
            Family::ChildrenOf(parent) => query.push(" WHERE parent_run = ").push_bind(parent.0),
            Family::All => query.push(" WHERE 1 = 1"),
        };
        push_status(&mut query, &filter.status);
        if let Some(workflow) = &filter.workflow {
            query.push(" AND workflow = ").push_bind(workflow.clone());
        }
        if let Some(rule) = &filter.rule {
            query.push(" AND rule = ").push_bind(rule.clone());
        }
        if let Some(event) = filter.event {
            query.push(" AND event = ").push_bind(event.0);
        }
        if let Some(before) = filter.before {
            query.push(" AND id < ").push_bind(before.0);
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(bounded(filter.limit));
        self.fetch_runs(query).await
    }

    /// What happened in a run, oldest first, that after `after` (0: from the first).
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn history(&self, run: RunId, after: i64, limit: u32) -> Result<Vec<HistoryRow>, StoreError> {
        let rows: Vec<(i64, i64, Option<String>, String, String)> = sqlx::query_as(
            "SELECT id, at, step, what, details FROM history WHERE run = $1 AND id > $2 ORDER BY id LIMIT $3",
        )
        .bind(run.0)
        .bind(after)
        .bind(bounded(limit))
        .fetch_all(self.readers())
        .await?;
        rows.into_iter()
            .map(|(id, at, step, what, details)| {
                let details = json::read(&format!("history of run {run}"), &details)?;
                Ok(HistoryRow { id, at: Timestamp(at), step, what, details })
            })
            .collect()
    }

    async fn fetch_runs(&self, mut query: Query) -> Result<Vec<Run>, StoreError> {
        let rows: Vec<(i64, i64, String)> = query.build_query_as().fetch_all(self.readers()).await?;
        rows.into_iter().map(read).collect()
    }
}

fn select() -> Query {
    Query::new("SELECT id, version, state FROM runs")
}

fn read((id, version, state): (i64, i64, String)) -> Result<Run, StoreError> {
    let mut run: Run = json::read(&format!("run {id}"), &state)?;
    // The text of a new run was written before its number was known.
    run.id = RunId(id);
    run.version = version;
    Ok(run)
}

fn only_open(status: &[RunStatus]) -> bool {
    !status.is_empty() && status.iter().all(|status| !status.is_final())
}

fn push_status(query: &mut Query, status: &[RunStatus]) {
    if status.is_empty() {
        return;
    }
    if only_open(status) {
        query.push(" AND open = 1");
    }
    query.push(" AND status IN (");
    let mut words = query.separated(", ");
    for status in status {
        words.push_bind(status.as_str());
    }
    query.push(")");
}

/// Stores a run inside somebody's transaction.
pub(super) async fn insert(tx: &mut Connection, new: NewRun, now: Timestamp) -> Result<RunId, StoreError> {
    let NewRun { run, wake_at, inputs, history } = new;
    let id: i64 = sqlx::query_scalar(
        "INSERT INTO runs (version, workflow, revision, status, phase, open, event, rule, parent_run, parent_step,
                           created_at, started_at, finished_at, wake_at, state, rerun_of, rollback_of)
         VALUES (1, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) RETURNING id",
    )
    .bind(&run.workflow)
    .bind(&run.revision)
    .bind(run.status.as_str())
    .bind(json::word("phase", &run.phase)?)
    .bind(i64::from(!run.status.is_final()))
    .bind(run.event.map(|id| id.0))
    .bind(&run.rule)
    .bind(run.parent.as_ref().map(|parent| parent.run.0))
    .bind(run.parent.as_ref().map(|parent| parent.step.clone()))
    .bind(run.created_at.0)
    .bind(run.started_at.map(|at| at.0))
    .bind(run.finished_at.map(|at| at.0))
    .bind(wake_at.filter(|_| !run.status.is_final()).map(|at| at.0))
    .bind(json::write("run", &run)?)
    .bind(run.rerun_of.map(|id| id.0))
    .bind(run.rollback_of.map(|id| id.0))
    .fetch_one(&mut *tx)
    .await?;
    let id = RunId(id);
    for input in &inputs {
        inbox::add(tx, id, &json::write("input", input)?, now).await?;
    }
    add_history(tx, id, &history).await?;
    Ok(id)
}

async fn save(
    tx: &mut Connection,
    advance: Advance,
    state: Option<String>,
    events: Vec<events::PreparedEvent>,
) -> Result<Saved, StoreError> {
    let Advance { mut run, now, .. } = advance;
    let id = run.id;
    let mut children = Vec::with_capacity(advance.children.len());
    for child in advance.children {
        let step =
            child.run.parent.as_ref().filter(|parent| parent.run == id).map(|parent| parent.step.clone());
        let child = insert(tx, child, now).await?;
        if let Some(step) = step {
            name_child(&mut run, &step, child);
        }
        children.push(child);
    }
    let state = match state {
        Some(state) => state,
        None => json::write("run", &run)?,
    };
    update(tx, &run, advance.wake_at, &state).await?;
    run.version += 1;

    inbox::consume(tx, &advance.consumed).await?;
    add_history(tx, id, &advance.history).await?;
    let mut approvals = Vec::with_capacity(advance.questions.len());
    for (step, status) in &advance.settled {
        approvals::settle(tx, id, step, *status).await?;
    }
    for question in &advance.questions {
        approvals.push(approvals::ask(tx, id, question, now).await?);
    }
    for (other, input) in &advance.inputs {
        inbox::add(tx, *other, &json::write("input", input)?, now).await?;
    }
    for key in &advance.ended_attempts {
        attempts::remove(tx, key).await?;
    }
    for attempt in &advance.attempts {
        attempts::add(tx, attempt, &advance.boot, now).await?;
    }
    let events = events::add(tx, &events, now).await?;
    let woken = move_locks(tx, &run, &advance.freed, &advance.locks, advance.lock_taken, now).await?;
    if run.status.is_final() {
        waits::replace(tx, id, &[]).await?;
        sqlx::query("DELETE FROM inbox WHERE run = $1").bind(id.0).execute(&mut *tx).await?;
    } else if let Some(waits) = &advance.waits {
        waits::replace(tx, id, waits).await?;
    }
    if let Some(row) = &advance.audit {
        audit::add(tx, row).await?;
    }
    Ok(Saved { run, approvals, children, events, woken })
}

/// Gives locks back and asks for others; whoever has one now is told.
async fn move_locks(
    tx: &mut Connection,
    run: &Run,
    freed: &[String],
    asked: &[(String, String)],
    lock_taken: fn(&str) -> Value,
    now: Timestamp,
) -> Result<Vec<RunId>, StoreError> {
    let mut given = Vec::new();
    if run.status.is_final() {
        given = locks::free(tx, run.id, None).await?;
    } else {
        for step in freed {
            given.extend(locks::free(tx, run.id, Some(step)).await?);
        }
        for (step, name) in asked {
            if locks::take(tx, run.id, step, name, now).await? {
                given.push((run.id, step.clone()));
            }
        }
    }
    let mut woken = Vec::new();
    for (other, step) in given {
        inbox::add(tx, other, &json::write("input", &lock_taken(&step))?, now).await?;
        woken.push(other);
    }
    woken.dedup();
    Ok(woken)
}

/// Tells the step that waits for its child which run that is: the number is known only here.
fn name_child(run: &mut Run, step: &str, child: RunId) {
    let Some(step) = run.step_mut(step) else { return };
    if let StepState::Child { run: known @ None } = &mut step.state {
        *known = Some(child);
    }
}

async fn update(
    tx: &mut Connection,
    run: &Run,
    wake_at: Option<Timestamp>,
    state: &str,
) -> Result<(), StoreError> {
    let open = !run.status.is_final();
    let saved = sqlx::query(
        "UPDATE runs SET version = version + 1, status = $3, phase = $4, open = $5, started_at = $6,
                         finished_at = $7, wake_at = $8, state = $9
         WHERE id = $1 AND version = $2",
    )
    .bind(run.id.0)
    .bind(run.version)
    .bind(run.status.as_str())
    .bind(json::word("phase", &run.phase)?)
    .bind(i64::from(open))
    .bind(run.started_at.map(|at| at.0))
    .bind(run.finished_at.map(|at| at.0))
    .bind(wake_at.filter(|_| open).map(|at| at.0))
    .bind(state)
    .execute(&mut *tx)
    .await?;
    if saved.rows_affected() == 1 {
        return Ok(());
    }
    let there: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM runs WHERE id = $1").bind(run.id.0).fetch_optional(tx).await?;
    Err(match there {
        Some(_) => StoreError::Conflict(format!("run {}", run.id)),
        None => StoreError::Missing(format!("run {}", run.id)),
    })
}

async fn add_history(tx: &mut Connection, run: RunId, rows: &[NewHistory]) -> Result<(), StoreError> {
    for row in rows {
        sqlx::query("INSERT INTO history (run, at, step, what, details) VALUES ($1, $2, $3, $4, $5)")
            .bind(run.0)
            .bind(row.at.0)
            .bind(&row.step)
            .bind(&row.what)
            .bind(json::write("history", &row.details)?)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Span;
    use crate::model::run::Parent;
    use crate::store::testing::{NOW, attempt, audit, event, fresh, new_run, reopen, stored_run};
    use crate::store::{ApprovalFilter, AttemptFilter};

    fn question(step: &str) -> Question {
        Question {
            step: step.to_owned(),
            ask: "ship it?".to_owned(),
            of: vec!["release".to_owned()],
            count: 1,
            distinct_from: vec!["ana".to_owned()],
            show: json!({"version": "2"}),
            fields: Value::Null,
            warnings: vec![],
            undos: vec![],
            expires_at: NOW.plus(Span::days(7)),
        }
    }

    fn wait(run: RunId, trigger: &str) -> Wait {
        Wait { run, step: "build".to_owned(), trigger: trigger.to_owned(), since: NOW }
    }

    #[tokio::test]
    async fn one_step_forward_is_written_whole_and_read_back() {
        let (folder, store) = fresh().await;
        let other = stored_run(&store).await;
        let mut new = new_run();
        new.inputs = vec![json!("started")];
        let id = store.insert_run(new, Some(audit("run.start")), NOW).await.unwrap();
        let run = store.run(id).await.unwrap().unwrap();
        assert_eq!(run.version, 1);
        let mut first = Advance::of(store.run(id).await.unwrap().unwrap(), NOW);
        first.attempts = vec![attempt(id, None, 1)];
        let mut run = store.save_run(first).await.unwrap().run;

        run.status = RunStatus::Waiting;
        run.steps["ship"].state = StepState::Child { run: None };
        let mut child = new_run();
        child.run.parent = Some(Parent { run: id, step: "ship".to_owned(), visit: 1 });
        let mut advance = Advance::of(run.clone(), NOW);
        advance.wake_at = Some(NOW.plus(Span(5)));
        advance.history = vec![NewHistory {
            at: NOW,
            step: Some("build".to_owned()),
            what: "began".to_owned(),
            details: json!(1),
        }];
        advance.questions = vec![question("build")];
        advance.waits = Some(vec![wait(id, "a.b"), wait(id, "c.d")]);
        advance.consumed = store.inbox(id).await.unwrap().iter().map(|row| row.id).collect();
        advance.children = vec![child];
        advance.events = vec![event("a.emitted", Some("k"))];
        advance.inputs = vec![(other.id, json!("hello"))];
        advance.ended_attempts = vec![attempt(id, None, 1).key];
        advance.audit = Some(audit("run.advance"));
        advance.attempts = vec![attempt(id, None, 2)];
        advance.boot = "boot".to_owned();
        let saved = store.save_run(advance.clone()).await.unwrap();
        assert_eq!(saved.run.version, 3);
        assert_eq!(saved.events.len(), 1);
        assert_eq!(saved.run.steps["ship"].state, StepState::Child { run: Some(saved.children[0]) });

        // The same step forward again, by somebody who read the old version.
        assert_eq!(store.save_run(advance).await, Err(StoreError::Conflict(format!("run {id}"))));

        store.close().await;
        let store = reopen(&folder).await;
        assert_eq!(store.run(id).await.unwrap().unwrap(), saved.run);
        assert_eq!(store.history(id, 0, 9).await.unwrap()[0].what, "began");
        let asked = store.approval(saved.approvals[0]).await.unwrap().unwrap().approval;
        assert_eq!((asked.run, &asked.question), (id, &question("build")));
        assert_eq!(store.waiting_for("a.b").await.unwrap(), [wait(id, "a.b")]);
        assert_eq!(store.inbox(id).await.unwrap(), []);
        assert_eq!(store.inbox(other.id).await.unwrap()[0].input, "hello");
        let in_flight =
            store.in_flight(&AttemptFilter { limit: 9, ..AttemptFilter::default() }).await.unwrap();
        assert_eq!((in_flight.len(), &in_flight[0].attempt), (1, &attempt(id, None, 2)));
        assert_eq!(store.count("SELECT count(*) FROM events").await, 1);
        assert_eq!(store.count("SELECT count(*) FROM audit").await, 2);
        assert_eq!(store.next_wake().await.unwrap(), Some(NOW.plus(Span(5))));
        assert_eq!(store.due(NOW, 9).await.unwrap(), []);
        assert_eq!(store.due(NOW.plus(Span(5)), 9).await.unwrap(), [id]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_who_read_the_same_version_one_advances_the_run() {
        let (_folder, store) = fresh().await;
        let run = stored_run(&store).await;
        let tasks: Vec<_> = (0..16)
            .map(|number| {
                let (store, run) = (store.clone(), run.clone());
                tokio::spawn(async move {
                    let mut advance = Advance::of(run, NOW);
                    let id = advance.run.id;
                    advance.inputs = vec![(id, json!(number))];
                    store.save_run(advance).await
                })
            })
            .collect();
        let mut won = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(_) => won += 1,
                Err(error) => assert_eq!(error, StoreError::Conflict("run 1".to_owned())),
            }
        }
        assert_eq!((won, store.count("SELECT count(*) FROM inbox").await), (1, 1));
        let mut gone = run;
        gone.id = RunId(9);
        assert_eq!(
            store.save_run(Advance::of(gone, NOW)).await,
            Err(StoreError::Missing("run 9".to_owned()))
        );
    }

    #[tokio::test]
    async fn a_run_that_ended_waits_for_nothing_and_takes_nothing() {
        let (_folder, store) = fresh().await;
        let run = stored_run(&store).await;
        let mut advance = Advance::of(run, NOW);
        advance.waits = Some(vec![wait(RunId(1), "a.b")]);
        advance.questions = vec![question("build")];
        advance.wake_at = Some(NOW);
        let mut run = store.save_run(advance).await.unwrap().run;
        store.add_input(run.id, &json!("late"), NOW).await.unwrap();
        run.status = RunStatus::Cancelled;
        run.finished_at = Some(NOW);
        let mut advance = Advance::of(run.clone(), NOW);
        advance.wake_at = Some(NOW);
        advance.settled = vec![("build".to_owned(), ApprovalStatus::Withdrawn)];
        store.save_run(advance).await.unwrap();

        assert_eq!(store.waiting_for("a.b").await.unwrap(), []);
        assert_eq!(store.next_wake().await.unwrap(), None);
        assert_eq!(store.open_run_ids(RunId(0), 9).await.unwrap(), []);
        assert_eq!(store.runs_with_inbox().await.unwrap(), []);
        assert_eq!(store.add_input(run.id, &json!("later"), NOW).await.unwrap(), None);
        let waiting =
            ApprovalFilter { status: Some(ApprovalStatus::Waiting), limit: 9, ..ApprovalFilter::default() };
        assert_eq!(store.approvals(&waiting).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_run_is_rolled_back_once_and_its_successors_are_found() {
        let (_folder, store) = fresh().await;
        let first = stored_run(&store).await;
        let mut back = new_run();
        back.run.rollback_of = Some(first.id);
        let mut again = new_run();
        again.run.rerun_of = Some(first.id);
        let id = store.insert_rollback(back.clone(), audit("run.rollback"), NOW).await.unwrap();
        let second = store.insert_rollback(back, audit("run.rollback"), NOW).await;
        assert_eq!(second, Err(StoreError::Conflict(format!("run 1 was rolled back already, by run {id}"))));
        let rerun = store.insert_run(again, None, NOW).await.unwrap();
        let found: Vec<RunId> =
            store.successors(first.id, 9).await.unwrap().iter().map(|run| run.id).collect();
        assert_eq!(found, [id, rerun]);
        assert_eq!(store.count("SELECT count(*) FROM audit").await, 1);
    }

    #[tokio::test]
    async fn lists_show_top_runs_unless_asked_for_children() {
        let (_folder, store) = fresh().await;
        let parent = stored_run(&store).await;
        let mut child = new_run();
        child.run.parent = Some(Parent { run: parent.id, step: "ship".to_owned(), visit: 1 });
        child.run.status = RunStatus::Queued;
        store.insert_run(child, None, NOW).await.unwrap();
        let mut done = new_run();
        done.run.status = RunStatus::Succeeded;
        done.run.workflow = "site.other".to_owned();
        store.insert_run(done, None, NOW).await.unwrap();
        let ids = async |filter: RunFilter| -> Vec<i64> {
            let runs = store.runs(&RunFilter { limit: 9, ..filter }).await.unwrap();
            runs.iter().map(|run| run.id.0).collect()
        };
        assert_eq!(ids(RunFilter::default()).await, [3, 1]);
        assert_eq!(
            ids(RunFilter { family: Family::ChildrenOf(parent.id), ..RunFilter::default() }).await,
            [2]
        );
        assert_eq!(
            ids(RunFilter { family: Family::All, before: Some(RunId(3)), ..RunFilter::default() }).await,
            [2, 1]
        );
        let open = vec![RunStatus::Running, RunStatus::Queued];
        assert_eq!(
            ids(RunFilter { family: Family::All, status: open, ..RunFilter::default() }).await,
            [2, 1]
        );
        assert_eq!(ids(RunFilter { status: vec![RunStatus::Succeeded], ..RunFilter::default() }).await, [3]);
        assert_eq!(
            ids(RunFilter { workflow: Some("site.other".to_owned()), ..RunFilter::default() }).await,
            [3]
        );
        assert_eq!(store.open_runs(RunId(1), 9).await.unwrap().len(), 1);
    }
}
