//! Inputs that runs have not taken yet. An input is stored before it counts as given, and goes in the transaction that advances the run.

use super::db::{Connection, sql};
use super::rows::Rows;
use super::{Store, StoreError, json};
use crate::model::{RunId, Timestamp, Value};

/// An input that waits for its run.
#[derive(Clone, Debug, PartialEq)]
pub struct InboxRow {
    pub id: i64,
    pub input: Value,
    pub at: Timestamp,
}

impl Store {
    /// Gives a run an input. `None` when the run has ended or is not there: then nothing was stored.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn add_input(
        &self,
        run: RunId,
        input: &Value,
        now: Timestamp,
    ) -> Result<Option<i64>, StoreError> {
        let input = json::write("input", input)?;
        self.write_large(input.len(), move |tx| Box::pin(async move { add(tx, run, &input, now).await }))
            .await
    }

    /// What waits for a run, in the order in which it came.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn inbox(&self, run: RunId) -> Result<Vec<InboxRow>, StoreError> {
        let rows: Vec<(i64, String, i64)> = sql("SELECT id, input, at FROM inbox WHERE run = $1 ORDER BY id")
            .bind(run.0)
            .fetch_all(self.readers())
            .await?;
        rows.into_iter()
            .map(|(id, input, at)| {
                Ok(InboxRow { id, input: json::read("input of a run", &input)?, at: Timestamp(at) })
            })
            .collect()
    }

    /// The runs that have an input waiting.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn runs_with_inbox(&self) -> Result<Vec<RunId>, StoreError> {
        let runs: Vec<i64> =
            sql("SELECT DISTINCT run FROM inbox ORDER BY run").fetch_all(self.readers()).await?;
        Ok(runs.into_iter().map(RunId).collect())
    }
}

/// Stores an input inside somebody's transaction, if the run is still open.
pub(super) async fn add(
    tx: &mut Connection,
    run: RunId,
    input: &str,
    now: Timestamp,
) -> Result<Option<i64>, StoreError> {
    let id = sql(
        "INSERT INTO inbox (run, input, at) SELECT id, $2, $3 FROM runs WHERE id = $1 AND open = 1 RETURNING id",
    )
    .bind(run.0)
    .bind(input)
    .bind(now.0)
    .fetch_optional(tx)
    .await?;
    Ok(id)
}

static ADD: Rows<4> = Rows::new(
    ["number", "run", "input", "at"],
    "INSERT INTO inbox (run, input, at) SELECT new.run, new.input, new.at FROM new JOIN runs ON runs.id = new.run
     WHERE runs.open = 1 ORDER BY new.number RETURNING id",
);

/// As `add`, for many, in their order. Gives the ids, in the same order, where none of them was for a run that has ended.
pub(super) async fn add_all(
    tx: &mut Connection,
    inputs: &[(RunId, impl AsRef<str>, Timestamp)],
) -> Result<Vec<i64>, StoreError> {
    let rows = (0_i64..)
        .zip(inputs)
        .map(|(number, (run, input, at))| [number.into(), run.0.into(), input.as_ref().into(), at.0.into()]);
    let mut ids: Vec<i64> = ADD.fetch_all(tx, rows.collect()).await?;
    // Given in the order of the rows, whatever the order in which they are told.
    ids.sort_unstable();
    if ids.len() < inputs.len() {
        ids.clear();
    }
    Ok(ids)
}

static CONSUME: Rows<1> = Rows::new(["id"], "DELETE FROM inbox WHERE id IN (SELECT id FROM new)");

/// Takes inputs out that their runs have taken.
pub(super) async fn consume(tx: &mut Connection, ids: Vec<i64>) -> Result<(), StoreError> {
    CONSUME.execute(tx, ids.into_iter().map(|id| [id.into()]).collect()).await.map(drop)
}

static REMOVE: Rows<1> = Rows::new(["run"], "DELETE FROM inbox WHERE run IN (SELECT run FROM new)");

/// Forgets all that waits for these runs.
pub(super) async fn remove_all(tx: &mut Connection, runs: &[RunId]) -> Result<(), StoreError> {
    REMOVE.execute(tx, runs.iter().map(|run| [run.0.into()]).collect()).await.map(drop)
}
