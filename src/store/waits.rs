//! Which steps of which runs listen to which trigger.

use super::db::{Connection, sql};
use super::rows::Rows;
use super::{Store, StoreError};
use crate::model::{RunId, Timestamp};

/// A step listens to a trigger: `wait_for`, or `abort_on` of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub run: RunId,
    pub step: String,
    pub trigger: String,
    /// Events from then on count.
    pub since: Timestamp,
}

impl Store {
    /// Who listens to a trigger, older runs first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn waiting_for(&self, trigger: &str) -> Result<Vec<Wait>, StoreError> {
        let rows = sql("SELECT run, step, trigger, since FROM waits WHERE trigger = $1 ORDER BY run, step")
            .bind(trigger)
            .fetch_all(self.readers())
            .await?;
        Ok(rows.into_iter().map(read).collect())
    }

    /// What a run listens to.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn waits_of(&self, run: RunId) -> Result<Vec<Wait>, StoreError> {
        let rows = sql("SELECT run, step, trigger, since FROM waits WHERE run = $1 ORDER BY step, trigger")
            .bind(run.0)
            .fetch_all(self.readers())
            .await?;
        Ok(rows.into_iter().map(read).collect())
    }
}

/// Makes `waits` all that the run listens to.
pub(super) async fn replace(tx: &mut Connection, run: RunId, waits: &[Wait]) -> Result<(), StoreError> {
    sql("DELETE FROM waits WHERE run = $1").bind(run.0).execute(&mut *tx).await?;
    for wait in waits {
        sql("INSERT INTO waits (run, step, trigger, since) VALUES ($1, $2, $3, $4)
             ON CONFLICT (run, step, trigger) DO NOTHING")
        .bind(run.0)
        .bind(&wait.step)
        .bind(&wait.trigger)
        .bind(wait.since.0)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

static REMOVE: Rows<1> = Rows::new(["run"], "DELETE FROM waits WHERE run IN (SELECT run FROM new)");

/// These runs listen to nothing any more.
pub(super) async fn remove_all(tx: &mut Connection, runs: &[RunId]) -> Result<(), StoreError> {
    REMOVE.execute(tx, runs.iter().map(|run| [run.0.into()]).collect()).await.map(drop)
}

type Row = (i64, String, String, i64);

fn read((run, step, trigger, since): Row) -> Wait {
    Wait { run: RunId(run), step, trigger, since: Timestamp(since) }
}
