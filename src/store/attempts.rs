//! Attempts in flight. A row is there from dispatch until the outcome is stored, so that after a crash it is known what had begun.
//!
//! Promises: an attempt is dispatched once and started once; its outcome counts once, and a late or doubled one changes nothing.

use std::collections::HashSet;

use super::db::{Connection, Query, sql};
use super::rows::Rows;
use super::statement::{Argument, Sql};
use super::{Store, StoreError, bounded, json};
use crate::model::{Attempt, AttemptKey, RunId, Timestamp};

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// Handed to dispatch; nothing has been done yet.
    Dispatched,
    /// A worker has begun.
    Started,
}

impl AttemptState {
    fn as_str(self) -> &'static str {
        match self {
            AttemptState::Dispatched => "dispatched",
            AttemptState::Started => "started",
        }
    }

    fn parse(word: &str) -> Option<AttemptState> {
        [AttemptState::Dispatched, AttemptState::Started].into_iter().find(|state| state.as_str() == word)
    }
}

/// An attempt that has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct InFlight {
    pub attempt: Attempt,
    /// Which start of which process it belongs to: an attempt of another boot has lost its worker.
    pub boot: String,
    pub state: AttemptState,
    pub dispatched_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub heartbeat_at: Timestamp,
}

/// Which attempts a list holds, in the order of their keys.
#[derive(Clone, Debug, Default)]
pub struct AttemptFilter {
    pub run: Option<RunId>,
    /// Only those of servers that are no longer there: what was left behind.
    pub left_behind: bool,
    /// Only those of this boot.
    pub of_boot: Option<String>,
    /// Only those that were dispatched before, and that nobody has begun.
    pub waiting_since: Option<Timestamp>,
    pub after: Option<AttemptKey>,
    pub limit: u32,
}

impl Store {
    /// Notes that a worker of `boot` begins an attempt. False when it has begun or ended already, or when this
    /// server was taken for dead: then the worker must leave it.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn attempt_started(
        &self,
        key: &AttemptKey,
        boot: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (key, boot) = (key.clone(), boot.to_owned());
        self.lanes().starts.write(self.queue(), (key, boot, now), None).await
    }

    /// Whether `attempt_started` at this moment by this boot is what stands: asked when its answer was lost.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn attempt_was_started(
        &self,
        key: &AttemptKey,
        boot: &str,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let found: Option<i64> = of_key(
            "SELECT 1 FROM attempts WHERE run = $1 AND step = $2 AND visit = $3 AND item = $4 AND number = $5
             AND state = 'started' AND boot = $6 AND started_at = $7",
            key,
        )
        .bind(boot)
        .bind(at.0)
        .fetch_optional(self.readers())
        .await?;
        Ok(found.is_some())
    }

    /// Hands an attempt that never began to this boot: it may be dispatched again. False when it has begun or ended.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn attempt_taken_over(
        &self,
        key: &AttemptKey,
        boot: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (key, boot) = (key.clone(), boot.to_owned());
        self.write(move |tx| Box::pin(async move { take_over(tx, &key, &boot, now).await })).await
    }

    /// Drops the record of an attempt that nobody asks for any more.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget_attempt(&self, key: &AttemptKey) -> Result<(), StoreError> {
        let key = key.clone();
        self.write(move |tx| Box::pin(async move { remove(tx, &key).await.map(drop) })).await
    }

    /// Attempts that have not ended.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn in_flight(&self, filter: &AttemptFilter) -> Result<Vec<InFlight>, StoreError> {
        let mut query = Query::new(
            "SELECT attempt, boot, state, dispatched_at, started_at, heartbeat_at FROM attempts WHERE 1 = 1",
        );
        if let Some(run) = filter.run {
            query.push(" AND run = ").push_bind(run.0);
        }
        if filter.left_behind {
            query.push(" AND boot NOT IN (SELECT boot FROM nodes)");
        }
        if let Some(boot) = &filter.of_boot {
            query.push(" AND boot = ").push_bind(boot.clone());
        }
        if let Some(since) = filter.waiting_since {
            query.push(" AND state = 'dispatched' AND dispatched_at < ").push_bind(since.0);
        }
        if let Some(after) = &filter.after {
            query.push(" AND (run, step, visit, item, number) > (");
            query.push_bind(after.run.0).push(", ").push_bind(after.step.clone()).push(", ");
            query.push_list([i64::from(after.visit), item(after.item), i64::from(after.number)]);
            query.push(")");
        }
        query.push(" ORDER BY run, step, visit, item, number LIMIT ").push_bind(bounded(filter.limit));
        let rows: Vec<Row> = query.fetch_all(self.readers()).await?;
        rows.into_iter().map(read).collect()
    }
}

type Row = (String, String, String, i64, Option<i64>, i64);

fn read(
    (attempt, boot, state, dispatched_at, started_at, heartbeat_at): Row,
) -> Result<InFlight, StoreError> {
    Ok(InFlight {
        attempt: json::read("attempt", &attempt)?,
        boot,
        state: AttemptState::parse(&state)
            .ok_or_else(|| StoreError::corrupt("state of an attempt", &state))?,
        dispatched_at: Timestamp(dispatched_at),
        started_at: started_at.map(Timestamp),
        heartbeat_at: Timestamp(heartbeat_at),
    })
}

/// Null equals nothing in a key, so "no item" has a number of its own.
pub(super) fn item(item: Option<u32>) -> i64 {
    item.map_or(-1, i64::from)
}

static ADD: Rows<8> = Rows::new(
    ["run", "step", "visit", "item", "number", "attempt", "boot", "at"],
    "INSERT INTO attempts (run, step, visit, item, number, attempt, boot, state, dispatched_at, heartbeat_at)
     SELECT run, step, visit, item, number, attempt, boot, 'dispatched', at, at FROM new WHERE run IS NOT NULL
     ON CONFLICT (run, step, visit, item, number) DO NOTHING",
);

/// Puts attempts in flight, in the transaction that advances their runs: each with its text, its boot, and when.
pub(super) async fn add_all<'a>(
    tx: &mut Connection,
    attempts: Vec<(&'a Attempt, &'a str, &'a str, Timestamp)>,
) -> Result<(), StoreError> {
    let rows = attempts.into_iter().map(|(attempt, text, boot, now)| {
        let [run, step, visit, item, number] = columns(&attempt.key);
        [run, step, visit, item, number, text.into(), boot.into(), now.0.into()]
    });
    ADD.execute(tx, rows.collect()).await.map(drop)
}

static REMOVE: Rows<5> = Rows::new(
    ["run", "step", "visit", "item", "number"],
    "DELETE FROM attempts WHERE (run, step, visit, item, number) IN (SELECT run, step, visit, item, number FROM new)",
);

/// Takes attempts out of flight.
pub(super) async fn remove_all(tx: &mut Connection, keys: Vec<&AttemptKey>) -> Result<(), StoreError> {
    REMOVE.execute(tx, keys.into_iter().map(columns).collect()).await.map(drop)
}

/// The columns of a key.
fn columns(key: &AttemptKey) -> [Argument<'_>; 5] {
    let (visit, number) = (i64::from(key.visit), i64::from(key.number));
    [key.run.0.into(), (&key.step).into(), visit.into(), item(key.item).into(), number.into()]
}

/// A statement whose first five parameters are the key's columns.
fn of_key<'q>(text: &'static str, key: &'q AttemptKey) -> Sql<'q> {
    sql(text)
        .bind(key.run.0)
        .bind(&key.step)
        .bind(i64::from(key.visit))
        .bind(item(key.item))
        .bind(i64::from(key.number))
}

/// An attempt that begins, the boot that begins it, and when.
pub(super) type Starting = (AttemptKey, String, Timestamp);

static START: Rows<7> = Rows::new(
    ["run", "step", "visit", "item", "number", "boot", "at"],
    "UPDATE attempts SET state = 'started', boot = new.boot, started_at = new.at, heartbeat_at = new.at FROM new
     WHERE attempts.run = new.run AND attempts.step = new.step AND attempts.visit = new.visit AND attempts.item = new.item
       AND attempts.number = new.number AND attempts.state = 'dispatched'
       AND (EXISTS (SELECT 1 FROM nodes WHERE nodes.boot = new.boot) OR NOT EXISTS (SELECT 1 FROM nodes))
     RETURNING attempts.run, attempts.step, attempts.visit, attempts.item, attempts.number",
);

/// Which of these attempts begin now.
pub(super) async fn start_all(
    tx: &mut Connection,
    items: &[Starting],
) -> Result<Vec<Result<bool, StoreError>>, StoreError> {
    let rows = items.iter().map(|(key, boot, now)| {
        let [run, step, visit, item, number] = columns(key);
        [run, step, visit, item, number, boot.into(), now.0.into()]
    });
    let started: Vec<(i64, String, i64, i64, i64)> = START.fetch_all(tx, rows.collect()).await?;
    let mut started: HashSet<_> = started.into_iter().collect();
    // Of two that begin the same one here the first does it.
    let begins = items.iter().map(|(key, _, _)| {
        let row = (key.run.0, key.step.clone(), i64::from(key.visit), item(key.item), i64::from(key.number));
        Ok(started.remove(&row))
    });
    Ok(begins.collect())
}

async fn take_over(
    tx: &mut Connection,
    key: &AttemptKey,
    boot: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let taken = of_key(
        "UPDATE attempts SET boot = $6, dispatched_at = $7, heartbeat_at = $7
         WHERE run = $1 AND step = $2 AND visit = $3 AND item = $4 AND number = $5 AND state = 'dispatched'",
        key,
    )
    .bind(boot)
    .bind(now.0)
    .execute(tx)
    .await?;
    Ok(taken == 1)
}

/// Takes an attempt out of flight; false when it was not there.
pub(super) async fn remove(tx: &mut Connection, key: &AttemptKey) -> Result<bool, StoreError> {
    let removed = of_key(
        "DELETE FROM attempts WHERE run = $1 AND step = $2 AND visit = $3 AND item = $4 AND number = $5",
        key,
    )
    .execute(tx)
    .await?;
    Ok(removed == 1)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::testing::{NOW, attempt, fresh, on_both, reopen, stored_run};
    use crate::store::{Advance, AttemptFilter, NewNode};

    on_both!(
        an_attempt_is_dispatched_started_and_ended_once,
        after_a_restart_what_an_earlier_boot_left_is_found,
    );

    async fn an_attempt_is_dispatched_started_and_ended_once() {
        let (_folder, store) = fresh().await;
        let mut advance = Advance::of(stored_run(&store).await, NOW);
        let one = attempt(advance.run.id, None, 1);
        advance.attempts = vec![one.clone(), one.clone(), attempt(advance.run.id, Some(0), 1)];
        advance.boot = "boot1".to_owned();
        let saved = store.save_run(advance).await.unwrap();
        assert_eq!(store.count("SELECT count(*) FROM attempts").await, 2);

        assert!(store.attempt_started(&one.key, "boot1", NOW).await.unwrap());
        assert!(!store.attempt_started(&one.key, "boot1", NOW).await.unwrap());
        assert!(!store.attempt_taken_over(&one.key, "boot2", NOW).await.unwrap());
        let mut advance = Advance::of(saved.run, NOW);
        advance.ended_attempts = vec![one.key.clone()];
        store.save_run(advance).await.unwrap();
        assert!(!store.attempt_started(&one.key, "boot1", NOW).await.unwrap());
    }

    async fn after_a_restart_what_an_earlier_boot_left_is_found() {
        let (folder, store) = fresh().await;
        let mut advance = Advance::of(stored_run(&store).await, NOW);
        let run = advance.run.id;
        let keys: Vec<_> = [None, Some(0), Some(1)].map(|item| attempt(run, item, 1)).into();
        advance.attempts.clone_from(&keys);
        advance.boot = "boot1".to_owned();
        store.save_run(advance).await.unwrap();
        store.attempt_started(&keys[1].key, "boot1", NOW).await.unwrap();
        store.close().await;

        let store = reopen(&folder).await;
        let (boot, place) = ("boot2".to_owned(), "here".to_owned());
        store.join(NewNode { boot, place, address: String::new() }).await.unwrap();
        assert!(store.attempt_taken_over(&keys[0].key, "boot2", NOW).await.unwrap());
        let mut filter =
            AttemptFilter { run: Some(run), left_behind: true, limit: 1, ..AttemptFilter::default() };
        let left = store.in_flight(&filter).await.unwrap().remove(0);
        assert_eq!((&left.attempt, left.state), (&keys[1], AttemptState::Started));
        assert_eq!((left.started_at, left.heartbeat_at), (Some(NOW), NOW));
        filter.after = Some(left.attempt.key);
        let left = store.in_flight(&filter).await.unwrap();
        assert_eq!((&left[0].attempt, left[0].state), (&keys[2], AttemptState::Dispatched));
    }
}
