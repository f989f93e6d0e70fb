//! Runs and their history, and the one transaction that advances a run.
//!
//! Promises: a run is saved only over the version that was read, else `Conflict` and nothing is written; state, history, attempts,
//! questions, children, events and inputs of one step forward are written together or not at all. A run that ended keeps no wait, no
//! timer and no input.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::audit::{self, NewAudit};
use super::db::{Connection, Query, sql};
use super::rows::Rows;
use super::slots::{self, Place};
use super::statement::Argument;
use super::waits::{self, Wait};
use super::{
    AddedEvent, Store, StoreError, approvals, artefacts, attempts, bounded, events, inbox, json, locks, meta,
    values,
};
use crate::model::approval::{ApprovalStatus, Question};
use crate::model::event::NewEvent;
use crate::model::step::StepState;
use crate::model::{
    Actor, ApprovalId, Attempt, AttemptKey, EventId, Object, Run, RunId, RunStatus, Slot, Timestamp, Value,
};

/// A run that is not stored yet. Its `id` and `version` are ignored; the store gives them.
#[derive(Clone, Debug)]
pub struct NewRun {
    pub run: Run,
    pub wake_at: Option<Timestamp>,
    /// Its first inputs.
    pub inputs: Vec<Value>,
    pub history: Vec<NewHistory>,
    /// The place that it needs before it may begin: until it has it, it gets none of its inputs.
    pub slot: Option<Slot>,
    /// How it hears of its place, and those hear that it takes it from.
    pub words: Words,
}

/// A run that was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inserted {
    pub id: RunId,
    /// Its first inputs as they lie in its inbox; none while it waits for its place.
    pub inputs: Vec<i64>,
    /// Runs that have an input now because of it: those that it may supersede.
    pub woken: Vec<RunId>,
}

impl NewRun {
    /// A run with one first input, `started` say, for the driver to take.
    pub fn with_input(run: Run, input: Value) -> NewRun {
        let (slot, words) = (None, Words::default());
        NewRun { run, wake_at: None, inputs: vec![input], history: Vec::new(), slot, words }
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
    /// Keys of the KV store that its steps read: step, and pairs of name and key.
    pub reads: Vec<(String, Vec<(String, String)>)>,
    /// How runs are told what became of what they asked for.
    pub words: Words,
}

/// The inputs by which the store tells runs what became of what they asked for.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// This step has its lock.
    pub lock_taken: fn(&str) -> Value,
    /// This step's keys have these values, by their names.
    pub values_read: fn(&str, Object) -> Value,
    /// It may begin.
    pub started: fn() -> Value,
    /// This younger run wants its place.
    pub superseded: fn(RunId) -> Value,
    /// It may not begin, and why.
    pub refused: fn(&str) -> Value,
}

impl Default for Words {
    fn default() -> Words {
        Words {
            lock_taken: |_| Value::Null,
            values_read: |_, _| Value::Null,
            started: || Value::Null,
            superseded: |_| Value::Null,
            refused: |_| Value::Null,
        }
    }
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
            reads: Vec::new(),
            words: Words::default(),
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
    ) -> Result<Inserted, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let inserted = insert_or_refuse(tx, &run, now).await?;
                if let Some(row) = &audit {
                    audit::add(tx, row).await?;
                }
                Ok(inserted)
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
    ) -> Result<(Inserted, bool), StoreError> {
        let key = format!("idempotency/{key}");
        self.write(move |tx| {
            Box::pin(async move {
                if let Some(known) = meta::read(tx, &key).await?.and_then(|text| text.parse().ok()) {
                    return Ok((Inserted { id: known, inputs: Vec::new(), woken: Vec::new() }, false));
                }
                let inserted = insert_or_refuse(tx, &run, now).await?;
                meta::write(tx, &key, &inserted.id.to_string()).await?;
                if let Some(row) = &audit {
                    audit::add(tx, row).await?;
                }
                Ok((inserted, true))
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
                let known: Option<i64> = sql("SELECT min(id) FROM runs WHERE rollback_of = $1")
                    .bind(of)
                    .fetch_one(&mut *tx)
                    .await?;
                if let (Some(known), Some(of)) = (known, of) {
                    return Err(StoreError::Conflict(format!(
                        "run {of} was rolled back already, by run {known}"
                    )));
                }
                let inserted = insert_all(tx, &[(&run, now)]).await?;
                let inserted =
                    inserted.first().ok_or_else(|| StoreError::Sql("a run got no id".to_owned()))?;
                audit::add(tx, &audit).await?;
                Ok(inserted.id)
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
        let saving = Saving::of(advance)?;
        let advance = Arc::clone(&saving.advance);
        let done = self.lanes().advances.write(self.queue(), saving, None).await?;
        // The lane has let go of it by now.
        let advance = Arc::try_unwrap(advance).unwrap_or_else(|shared| (*shared).clone());
        let Advance { mut run, children, .. } = advance;
        for (child, id) in children.iter().zip(&done.children) {
            name_child(&mut run, child, *id);
        }
        run.version += 1;
        run.stored();
        let Done { approvals, children, events, woken } = done;
        Ok(Saved { run, approvals, children, events, woken })
    }

    /// One run.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn run(&self, id: RunId) -> Result<Option<Run>, StoreError> {
        let mut query = select();
        query.push(" WHERE id = ").push_bind(id.0);
        let Some(mut run) = self.fetch_runs(query).await?.pop() else { return Ok(None) };
        self.fill_items(&mut run).await?;
        self.fill_values(std::slice::from_mut(&mut run)).await?;
        Ok(Some(run))
    }

    /// One run without its items and without the values that have rows of their own: cheap, whatever it does.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn run_alone(&self, id: RunId) -> Result<Option<Run>, StoreError> {
        let mut query = select();
        query.push(" WHERE id = ").push_bind(id.0);
        Ok(self.fetch_runs(query).await?.pop())
    }

    /// Who started these runs; one that is not stored is left out.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn starters(&self, ids: &[RunId]) -> Result<BTreeMap<RunId, Actor>, StoreError> {
        /// The one field of a run's state that is wanted.
        #[derive(serde::Deserialize)]
        struct Started {
            started_by: Actor,
        }
        let mut found = BTreeMap::new();
        if ids.is_empty() {
            return Ok(found);
        }
        let mut query = Query::new("SELECT id, state FROM runs WHERE id IN (");
        query.push_list(ids.iter().map(|id| id.0));
        query.push(")");
        let rows: Vec<(i64, String)> = query.fetch_all(self.readers()).await?;
        for (id, state) in rows {
            let started: Started = serde_json::from_str(&state)
                .map_err(|error| StoreError::corrupt(format!("run {id}"), error))?;
            found.insert(RunId(id), started.started_by);
        }
        Ok(found)
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
        let ids: Vec<i64> = sql("SELECT id FROM runs WHERE open = 1 AND id > $1 ORDER BY id LIMIT $2")
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
        let ids: Vec<i64> =
            sql("SELECT id FROM runs WHERE wake_at IS NOT NULL AND wake_at <= $1 ORDER BY wake_at LIMIT $2")
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
        let at: Option<i64> =
            sql("SELECT min(wake_at) FROM runs WHERE wake_at IS NOT NULL").fetch_one(self.readers()).await?;
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
        let mut runs = self.fetch_runs(query).await?;
        self.fill_values(&mut runs).await?;
        Ok(runs)
    }

    /// What happened in a run, oldest first, that after `after` (0: from the first).
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn history(&self, run: RunId, after: i64, limit: u32) -> Result<Vec<HistoryRow>, StoreError> {
        let rows: Vec<(i64, i64, Option<String>, String, String)> = sql(
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

    async fn fetch_runs(&self, query: Query) -> Result<Vec<Run>, StoreError> {
        let rows: Vec<(i64, i64, String)> = query.fetch_all(self.readers()).await?;
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
    query.push_list(status.iter().map(|status| status.as_str()));
    query.push(")");
}

/// Stores a run inside somebody's transaction.
static INSERT: Rows<17> = Rows::new(
    [
        "workflow", "revision", "status", "phase", "open", "event", "rule", "parent_run", "parent_step", "created_at",
        "started_at", "finished_at", "wake_at", "state", "rerun_of", "rollback_of", "held_for",
    ],
    "INSERT INTO runs (version, workflow, revision, status, phase, open, event, rule, parent_run, parent_step,
                       created_at, started_at, finished_at, wake_at, state, rerun_of, rollback_of, held_for)
     SELECT 1, workflow, revision, status, phase, open, event, rule, parent_run, parent_step,
            created_at, started_at, finished_at, wake_at, state, rerun_of, rollback_of, held_for
     FROM new WHERE workflow IS NOT NULL RETURNING id",
);

/// Stores runs; what came of each, in their order.
pub(super) async fn insert_all(
    tx: &mut Connection,
    runs: &[(&NewRun, Timestamp)],
) -> Result<Vec<Inserted>, StoreError> {
    let mut rows = Vec::with_capacity(runs.len());
    let mut named = Vec::with_capacity(runs.len());
    for (NewRun { run, wake_at, .. }, _) in runs {
        let open = !run.status.is_final();
        let parent = run.parent.as_ref();
        let state = json::write("run", run)?;
        named.push(artefacts::named_by(RunId(0), &state).collect::<Vec<_>>());
        rows.push([
            (&run.workflow).into(),
            (&run.revision).into(),
            run.status.as_str().into(),
            json::word("phase", &run.phase)?.into(),
            i64::from(open).into(),
            run.event.map(|id| id.0).into(),
            (&run.rule).into(),
            parent.map(|parent| parent.run.0).into(),
            parent.map(|parent| parent.step.as_str()).into(),
            run.created_at.0.into(),
            run.started_at.map(|at| at.0).into(),
            run.finished_at.map(|at| at.0).into(),
            wake_at.filter(|_| open).map(|at| at.0).into(),
            state.into(),
            run.rerun_of.map(|id| id.0).into(),
            run.rollback_of.map(|id| id.0).into(),
            None::<&str>.into(),
        ]);
    }
    let mut ids: Vec<i64> = INSERT.fetch_all(tx, rows).await?;
    // Ids are given in the order of the rows, whatever the order in which they are told.
    ids.sort_unstable();
    let ids: Vec<RunId> = ids.into_iter().map(RunId).collect();
    for (id, named) in ids.iter().zip(named) {
        let named: Vec<_> = named.into_iter().map(|(_, digits)| (*id, digits)).collect();
        artefacts::note_named(tx, &named).await?;
    }

    let (mut stored, mut history, mut first) = (Vec::new(), Vec::new(), Vec::new());
    let mut inserted = Vec::with_capacity(runs.len());
    for ((new, now), id) in runs.iter().zip(ids) {
        stored.push((id, values::Changed::of(&new.run)?));
        for row in &new.history {
            history.push((id, row, json::write("history", &row.details)?));
        }
        let (place, woken) = match &new.slot {
            None => (Place::Taken, Vec::new()),
            Some(slot) => slots::take(tx, id, slot, new.words, *now).await?,
        };
        match place {
            Place::Taken => {
                for input in &new.inputs {
                    first.push((id, json::write("input", input)?, *now));
                }
            }
            Place::Queued => (),
            Place::Rejected(why) => {
                first.push((id, json::write("input", &(new.words.refused)(&why))?, *now));
            }
        }
        inserted.push(Inserted { id, inputs: Vec::new(), woken });
    }
    values::write_all(tx, stored.iter().map(|(id, changed)| (*id, changed)).collect()).await?;
    let mut inputs = inbox::add_all(tx, &first).await?.into_iter().zip(&first).peekable();
    for inserted in &mut inserted {
        let own = std::iter::from_fn(|| inputs.next_if(|(_, (run, ..))| *run == inserted.id));
        inserted.inputs = own.map(|(id, _)| id).collect();
    }
    add_history(tx, &history).await?;
    Ok(inserted)
}

/// Stores a run, unless the limit of its workflow rejects it.
pub(super) async fn insert_or_refuse(
    tx: &mut Connection,
    new: &NewRun,
    now: Timestamp,
) -> Result<Inserted, StoreError> {
    if let Some(slot) = &new.slot
        && let Some(why) = slots::rejected(tx, slot).await?
    {
        return Err(StoreError::Conflict(why));
    }
    let mut inserted = insert_all(tx, &[(new, now)]).await?;
    inserted.pop().ok_or_else(|| StoreError::Sql("a run got no id".to_owned()))
}

/// One step forward, with what of it is text made before the writer is asked, so that the writer only writes.
#[derive(Debug)]
pub(super) struct Saving {
    advance: Arc<Advance>,
    phase: String,
    /// Not known yet where ids of children are still to come into it.
    state: Option<String>,
    changed: values::Changed,
    events: Vec<events::PreparedEvent>,
    history: Vec<String>,
    inputs: Vec<String>,
    attempts: Vec<String>,
}

impl Saving {
    fn of(advance: Advance) -> Result<Saving, StoreError> {
        let Advance { run, history, inputs, attempts, .. } = &advance;
        let state = match advance.children.is_empty() {
            true => Some(json::write("run", run)?),
            false => None,
        };
        let texts =
            |values: Vec<Result<String, StoreError>>| values.into_iter().collect::<Result<Vec<_>, _>>();
        Ok(Saving {
            phase: json::word("phase", &run.phase)?,
            state,
            changed: values::Changed::of(run)?,
            events: events::prepare(advance.events.clone())?,
            history: texts(history.iter().map(|row| json::write("history", &row.details)).collect())?,
            inputs: texts(inputs.iter().map(|(_, input)| json::write("input", input)).collect())?,
            attempts: texts(attempts.iter().map(|attempt| json::write("attempt", attempt)).collect())?,
            advance: Arc::new(advance),
        })
    }

    fn run(&self) -> &Run {
        &self.advance.run
    }
}

/// What came of one step forward.
#[derive(Debug, Default)]
pub(super) struct Done {
    approvals: Vec<ApprovalId>,
    children: Vec<RunId>,
    events: Vec<AddedEvent>,
    woken: Vec<RunId>,
}

/// Writes steps forward of many runs: what all have in common as sets, the rest one after another. When one of them has been overtaken, all are
/// refused, and the lane gives them one by one.
pub(super) async fn save_all(
    tx: &mut Connection,
    items: &[Saving],
) -> Result<Vec<Result<Done, StoreError>>, StoreError> {
    let mut done = Vec::with_capacity(items.len());
    let mut states = Vec::with_capacity(items.len());
    for item in items {
        let children: Vec<_> = item.advance.children.iter().map(|child| (child, item.advance.now)).collect();
        let inserted = insert_all(tx, &children).await?;
        states.push(match &item.state {
            Some(state) => Cow::Borrowed(state.as_str()),
            None => Cow::Owned(with_children(item.run(), &item.advance.children, &inserted)?),
        });
        let woken = inserted.iter().flat_map(|child| child.woken.iter().copied()).collect();
        let children = inserted.into_iter().map(|child| child.id).collect();
        done.push(Done { children, woken, ..Done::default() });
    }
    let named = items.iter().zip(&states).flat_map(|(item, state)| artefacts::named_by(item.run().id, state));
    let named: Vec<_> = named.collect();
    update(tx, items, states).await?;
    artefacts::note_named(tx, &named).await?;
    values::write_all(tx, items.iter().map(|item| (item.run().id, &item.changed)).collect()).await?;

    inbox::consume(tx, items.iter().flat_map(|item| item.advance.consumed.iter().copied()).collect()).await?;
    let history = items.iter().flat_map(|item| {
        item.advance.history.iter().zip(&item.history).map(|(row, details)| (item.run().id, row, details))
    });
    add_history(tx, &history.collect::<Vec<_>>()).await?;
    let inputs = items.iter().flat_map(|item| {
        let inputs = item.advance.inputs.iter().zip(&item.inputs);
        inputs.map(|((other, _), input)| (*other, input.as_str(), item.advance.now))
    });
    inbox::add_all(tx, &inputs.collect::<Vec<_>>()).await?;
    attempts::remove_all(tx, items.iter().flat_map(|item| &item.advance.ended_attempts).collect()).await?;
    let attempts = items.iter().flat_map(|item| {
        let Advance { boot, now, attempts, .. } = &*item.advance;
        attempts
            .iter()
            .zip(&item.attempts)
            .map(move |(attempt, text)| (attempt, text.as_str(), boot.as_str(), *now))
    });
    attempts::add_all(tx, attempts.collect()).await?;
    let events = items.iter().flat_map(|item| item.events.iter().map(|event| (event, item.advance.now)));
    let mut events = events::add_events(tx, events.collect()).await?.into_iter();
    let occupied = occupied(tx, items).await?;
    for (item, done) in items.iter().zip(&mut done) {
        done.events = events.by_ref().take(item.events.len()).collect();
        save_rare(tx, item, &occupied, done).await?;
    }
    let ended = items.iter().map(Saving::run).filter(|run| run.status.is_final()).map(|run| run.id);
    let ended: Vec<RunId> = ended.collect();
    waits::remove_all(tx, &ended).await?;
    inbox::remove_all(tx, &ended).await?;
    audit::add_all(tx, &items.iter().filter_map(|item| item.advance.audit.as_ref()).collect::<Vec<_>>())
        .await?;
    Ok(done.into_iter().map(Ok).collect())
}

/// What few steps forward have.
async fn save_rare(
    tx: &mut Connection,
    item: &Saving,
    occupied: &HashSet<i64>,
    done: &mut Done,
) -> Result<(), StoreError> {
    let Advance { run, now, words, .. } = &*item.advance;
    for (step, status) in &item.advance.settled {
        approvals::settle(tx, run.id, step, *status).await?;
    }
    for question in &item.advance.questions {
        done.approvals.push(approvals::ask(tx, run.id, question, *now).await?);
    }
    let (freed, asked) = (&item.advance.freed, &item.advance.locks);
    let ends = run.status.is_final() && occupied.contains(&run.id.0);
    if ends || !freed.is_empty() || !asked.is_empty() {
        done.woken.extend(move_locks(tx, run, freed, asked, *words, *now).await?);
    }
    for (step, keys) in &item.advance.reads {
        let values = read_keys(tx, keys, *now).await?;
        let input = json::write("input", &(words.values_read)(step, values))?;
        inbox::add(tx, run.id, &input, *now).await?;
        done.woken.push(run.id);
    }
    if ends {
        done.woken.extend(slots::free(tx, run.id, *words, *now).await?);
    } else if let Some(waits) = item.advance.waits.as_ref().filter(|_| !run.status.is_final()) {
        waits::replace(tx, run.id, waits).await?;
    }
    Ok(())
}

static OCCUPIED: Rows<1> = Rows::new(
    ["run"],
    "SELECT run FROM locks WHERE run IN (SELECT run FROM new) UNION SELECT run FROM slots WHERE run IN (SELECT run FROM new)",
);

/// Which of the runs that end have a lock or a place, or wait for one.
async fn occupied(tx: &mut Connection, items: &[Saving]) -> Result<HashSet<i64>, StoreError> {
    let ended = items.iter().map(Saving::run).filter(|run| run.status.is_final());
    let rows: Vec<i64> = OCCUPIED.fetch_all(tx, ended.map(|run| [run.id.0.into()]).collect()).await?;
    Ok(rows.into_iter().collect())
}

/// The values of keys, by the names that a step calls them by; null where there is none.
async fn read_keys(
    tx: &mut Connection,
    keys: &[(String, String)],
    now: Timestamp,
) -> Result<Object, StoreError> {
    let mut values = Object::new();
    for (name, key) in keys {
        let value: Option<String> =
            sql("SELECT value FROM kv WHERE key = $1 AND (expires_at IS NULL OR expires_at > $2)")
                .bind(key)
                .bind(now.0)
                .fetch_optional(&mut *tx)
                .await?;
        let value = value.map(|value| json::read("value of a key", &value)).transpose()?;
        values.insert(name.clone(), value.unwrap_or_default());
    }
    Ok(values)
}

/// Gives locks back and asks for others; whoever has one now is told.
async fn move_locks(
    tx: &mut Connection,
    run: &Run,
    freed: &[String],
    asked: &[(String, String)],
    words: Words,
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
        inbox::add(tx, other, &json::write("input", &(words.lock_taken)(&step))?, now).await?;
        woken.push(other);
    }
    woken.dedup();
    Ok(woken)
}

/// Tells the step that waits for this child which run that is: the number is known only here.
fn name_child(run: &mut Run, child: &NewRun, id: RunId) {
    let Some(parent) = child.run.parent.as_ref().filter(|parent| parent.run == run.id) else { return };
    let Some(step) = run.step_mut(&parent.step) else { return };
    if let StepState::Child { run: known @ None } = &mut step.state {
        *known = Some(id);
    }
}

/// The state of a run with the numbers of its new children.
fn with_children(run: &Run, children: &[NewRun], inserted: &[Inserted]) -> Result<String, StoreError> {
    let mut run = run.clone();
    for (child, inserted) in children.iter().zip(inserted) {
        name_child(&mut run, child, inserted.id);
    }
    json::write("run", &run)
}

static UPDATE: Rows<10> = Rows::new(
    ["id", "version", "status", "phase", "open", "started_at", "finished_at", "wake_at", "state", "held_for"],
    "UPDATE runs SET version = runs.version + 1, status = new.status, phase = new.phase, open = new.open,
                     started_at = new.started_at, finished_at = new.finished_at, wake_at = new.wake_at,
                     state = new.state, held_for = new.held_for
     FROM new WHERE runs.id = new.id AND runs.version = new.version",
);

async fn update(tx: &mut Connection, items: &[Saving], states: Vec<Cow<'_, str>>) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(items.len());
    for (item, state) in items.iter().zip(states) {
        let run = item.run();
        let open = !run.status.is_final();
        rows.push([
            run.id.0.into(),
            run.version.into(),
            run.status.as_str().into(),
            (&item.phase).into(),
            i64::from(open).into(),
            run.started_at.map(|at| at.0).into(),
            run.finished_at.map(|at| at.0).into(),
            item.advance.wake_at.filter(|_| open).map(|at| at.0).into(),
            Argument::Text(Some(state)),
            run.held.as_ref().filter(|_| open).map(|hold| hold.what.as_str()).into(),
        ]);
    }
    if UPDATE.execute(tx, rows).await? == items.len() as u64 {
        return Ok(());
    }
    // Which one it was is found when each is tried alone.
    let Some(run) = items.first().map(Saving::run) else { return Ok(()) };
    let there: Option<i64> =
        sql("SELECT 1 FROM runs WHERE id = $1").bind(run.id.0).fetch_optional(tx).await?;
    Err(match there {
        Some(_) => StoreError::Conflict(format!("run {}", run.id)),
        None => StoreError::Missing(format!("run {}", run.id)),
    })
}

static HISTORY: Rows<5> = Rows::new(
    ["run", "at", "step", "what", "details"],
    "INSERT INTO history (run, at, step, what, details) SELECT run, at, step, what, details FROM new WHERE run IS NOT NULL",
);

/// Lines of history, each with its details as text.
async fn add_history(
    tx: &mut Connection,
    lines: &[(RunId, &NewHistory, impl AsRef<str>)],
) -> Result<(), StoreError> {
    let rows = lines.iter().map(|(run, row, details)| {
        [run.0.into(), row.at.0.into(), (&row.step).into(), (&row.what).into(), details.as_ref().into()]
    });
    HISTORY.execute(tx, rows.collect()).await.map(drop)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Span;
    use crate::model::run::Parent;
    use crate::store::testing::{NOW, attempt, audit, event, fresh, new_run, on_both, reopen, stored_run};
    use crate::store::{ApprovalFilter, AttemptFilter};

    on_both!(
        one_step_forward_is_written_whole_and_read_back,
        of_many_who_read_the_same_version_one_advances_the_run,
        a_run_that_ended_waits_for_nothing_and_takes_nothing,
        a_run_is_rolled_back_once_and_its_successors_are_found,
        lists_show_top_runs_unless_asked_for_children,
    );

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

    async fn one_step_forward_is_written_whole_and_read_back() {
        let (folder, store) = fresh().await;
        let other = stored_run(&store).await;
        let mut new = new_run();
        new.inputs = vec![json!("started")];
        let id = store.insert_run(new, Some(audit("run.start")), NOW).await.unwrap().id;
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
        let rerun = store.insert_run(again, None, NOW).await.unwrap().id;
        let found: Vec<RunId> =
            store.successors(first.id, 9).await.unwrap().iter().map(|run| run.id).collect();
        assert_eq!(found, [id, rerun]);
        assert_eq!(store.count("SELECT count(*) FROM audit").await, 1);
    }

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
