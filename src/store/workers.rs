//! Workers that are heard of over the broker, and the attempts that they have claimed.
//!
//! Promises: of all workers that claim an attempt one has it, however often it asks; a claim names the start of the worker's process, so that what began before
//! a restart is known to be lost.

use super::attempts::item;
use super::db::{Connection, sql};
use super::statement::Sql;
use super::{AttemptState, Store, StoreError, bounded, json};
use crate::model::worker::WorkerRecord;
use crate::model::{Attempt, AttemptKey, RunId, Timestamp};

/// An attempt that a worker has claimed and not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub key: AttemptKey,
    pub worker: String,
    pub session: String,
    pub at: Timestamp,
}

impl Store {
    /// Gives an attempt to the worker that asks for it. True also when it has it already; false when another has it, or nobody wants it any more.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn claim_attempt(
        &self,
        key: &AttemptKey,
        worker: &str,
        session: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (key, worker, session) = (key.clone(), worker.to_owned(), session.to_owned());
        self.write(move |tx| Box::pin(async move { claim(tx, &key, &worker, &session, now).await })).await
    }

    /// Who has claimed an attempt.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn claim_of(&self, key: &AttemptKey) -> Result<Option<Claim>, StoreError> {
        let row: Option<Row> =
            sql("SELECT run, step, visit, item, number, worker, boot, started_at FROM attempts
             WHERE run = $1 AND step = $2 AND visit = $3 AND item = $4 AND number = $5
             AND state = 'started' AND worker IS NOT NULL")
            .bind(key.run.0)
            .bind(&key.step)
            .bind(i64::from(key.visit))
            .bind(item(key.item))
            .bind(i64::from(key.number))
            .fetch_optional(self.readers())
            .await?;
        row.map(read).transpose()
    }

    /// Claims in the order of their keys; of one worker, or of all.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn claims(
        &self,
        worker: Option<&str>,
        after: Option<&AttemptKey>,
        limit: u32,
    ) -> Result<Vec<Claim>, StoreError> {
        let after = after.cloned().unwrap_or(AttemptKey {
            run: RunId(0),
            step: String::new(),
            visit: 0,
            item: None,
            number: 0,
        });
        let rows: Vec<Row> =
            sql("SELECT run, step, visit, item, number, worker, boot, started_at FROM attempts
             WHERE worker IS NOT NULL AND state = 'started' AND (CAST($6 AS TEXT) IS NULL OR worker = $6)
             AND (run, step, visit, item, number) > ($1, $2, $3, $4, $5)
             ORDER BY run, step, visit, item, number LIMIT $7")
            .bind(after.run.0)
            .bind(after.step)
            .bind(i64::from(after.visit))
            .bind(item(after.item))
            .bind(i64::from(after.number))
            .bind(worker.map(str::to_owned))
            .bind(bounded(limit))
            .fetch_all(self.readers())
            .await?;
        rows.into_iter().map(read).collect()
    }

    /// An attempt in flight, and how far it is.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn attempt(&self, key: &AttemptKey) -> Result<Option<(Attempt, AttemptState)>, StoreError> {
        let row: Option<(String, String)> = sql("SELECT attempt, state FROM attempts
             WHERE run = $1 AND step = $2 AND visit = $3 AND item = $4 AND number = $5")
        .bind(key.run.0)
        .bind(&key.step)
        .bind(i64::from(key.visit))
        .bind(item(key.item))
        .bind(i64::from(key.number))
        .fetch_optional(self.readers())
        .await?;
        let Some((attempt, state)) = row else { return Ok(None) };
        let state = match state.as_str() {
            "dispatched" => AttemptState::Dispatched,
            "started" => AttemptState::Started,
            other => return Err(StoreError::corrupt("state of an attempt", other)),
        };
        Ok(Some((json::read("attempt", &attempt)?, state)))
    }

    /// Notes what a worker said of itself.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn save_worker(&self, record: WorkerRecord) -> Result<(), StoreError> {
        let text = json::write("worker", &record)?;
        self.write(move |tx| {
            Box::pin(async move {
                sql("INSERT INTO workers (id, seen_at, record) VALUES ($1, $2, $3)
                     ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, record = excluded.record")
                .bind(record.id)
                .bind(record.seen_at.0)
                .bind(text)
                .execute(tx)
                .await?;
                Ok(())
            })
        })
        .await
    }

    /// Drops what is known of a worker.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget_worker(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                sql("DELETE FROM workers WHERE id = $1").bind(id).execute(tx).await?;
                Ok(())
            })
        })
        .await
    }

    /// All workers that were heard of, by their names.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        let rows: Vec<String> =
            sql("SELECT record FROM workers ORDER BY id").fetch_all(self.readers()).await?;
        rows.into_iter().map(|record| json::read("worker", &record)).collect()
    }
}

type Row = (i64, String, i64, i64, i64, String, String, Option<i64>);

fn read((run, step, visit, item, number, worker, session, at): Row) -> Result<Claim, StoreError> {
    let small = |number: i64| {
        u32::try_from(number).map_err(|_| StoreError::corrupt("key of an attempt", number.to_string()))
    };
    let item = if item < 0 { None } else { Some(small(item)?) };
    let key = AttemptKey { run: RunId(run), step, visit: small(visit)?, item, number: small(number)? };
    Ok(Claim { key, worker, session, at: Timestamp(at.unwrap_or_default()) })
}

async fn claim(
    tx: &mut Connection,
    key: &AttemptKey,
    worker: &str,
    session: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let of_key = |text: &'static str| -> Sql<'_> {
        sql(text)
            .bind(key.run.0)
            .bind(key.step.as_str())
            .bind(i64::from(key.visit))
            .bind(item(key.item))
            .bind(i64::from(key.number))
            .bind(worker)
            .bind(session)
    };
    let claimed = of_key(
        "UPDATE attempts SET state = 'started', worker = $6, boot = $7, started_at = $8, heartbeat_at = $8
         WHERE run = $1 AND step = $2 AND visit = $3 AND item = $4 AND number = $5 AND state = 'dispatched'",
    )
    .bind(now.0)
    .execute(&mut *tx)
    .await?;
    if claimed == 1 {
        return Ok(true);
    }
    // The same worker asks again when it did not hear the answer.
    let again = of_key(
        "UPDATE attempts SET heartbeat_at = $8
         WHERE run = $1 AND step = $2 AND visit = $3 AND item = $4 AND number = $5 AND state = 'started'
         AND worker = $6 AND boot = $7",
    )
    .bind(now.0)
    .execute(tx)
    .await?;
    Ok(again == 1)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::Advance;
    use crate::store::testing::{NOW, attempt, fresh, on_both, stored_run};

    on_both!(an_attempt_has_one_worker_however_often_it_asks, a_worker_is_known_as_it_said_last);

    async fn an_attempt_has_one_worker_however_often_it_asks() {
        let (_folder, store) = fresh().await;
        let mut advance = Advance::of(stored_run(&store).await, NOW);
        let run = advance.run.id;
        let (one, other) = (attempt(run, None, 1), attempt(run, Some(4), 1));
        advance.attempts = vec![one.clone(), other.clone()];
        advance.boot = "boot".to_owned();
        let saved = store.save_run(advance).await.unwrap();
        assert_eq!(store.attempt(&one.key).await.unwrap(), Some((one.clone(), AttemptState::Dispatched)));
        for _ in 0..2 {
            assert!(store.claim_attempt(&one.key, "w1", "s1", NOW).await.unwrap());
            assert!(!store.claim_attempt(&one.key, "w2", "s1", NOW).await.unwrap());
            // The same worker, started again: what it had begun is gone.
            assert!(!store.claim_attempt(&one.key, "w1", "s2", NOW).await.unwrap());
        }
        assert!(!store.attempt_started(&one.key, "boot", NOW).await.unwrap());
        assert!(store.claim_attempt(&other.key, "w2", "s", NOW).await.unwrap());
        let claim = store.claim_of(&one.key).await.unwrap().unwrap();
        assert_eq!((claim.worker.as_str(), claim.session.as_str(), claim.at), ("w1", "s1", NOW));
        let all = store.claims(None, None, 9).await.unwrap();
        assert_eq!(all.iter().map(|claim| &claim.key).collect::<Vec<_>>(), [&one.key, &other.key]);
        assert_eq!(store.claims(None, Some(&one.key), 9).await.unwrap(), all[1..]);
        assert_eq!(store.claims(Some("w2"), None, 9).await.unwrap(), all[1..]);

        let mut advance = Advance::of(saved.run, NOW);
        advance.ended_attempts = vec![one.key.clone()];
        store.save_run(advance).await.unwrap();
        assert!(!store.claim_attempt(&one.key, "w1", "s1", NOW).await.unwrap());
        assert_eq!(store.attempt(&one.key).await.unwrap(), None);
    }

    async fn a_worker_is_known_as_it_said_last() {
        let (_folder, store) = fresh().await;
        let mut record = WorkerRecord {
            id: "w".to_owned(),
            session: "s".to_owned(),
            pools: None,
            labels: [("gpu".to_owned(), "yes".to_owned())].into(),
            slots: 4,
            busy: 1,
            draining: false,
            seen_at: NOW,
        };
        store.save_worker(record.clone()).await.unwrap();
        record.busy = 2;
        store.save_worker(record.clone()).await.unwrap();
        assert_eq!(store.workers().await.unwrap(), [record]);
        store.forget_worker("w").await.unwrap();
        assert_eq!(store.workers().await.unwrap(), []);
    }
}
