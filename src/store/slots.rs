//! The places that `concurrency` of a workflow gives: of the rows of one name, so many are held as the limit says, and the others get theirs in the
//! order of their ids. A run has its place until it has ended.

use super::db::{Connection, sql};
use super::runs::Words;
use super::{StoreError, inbox, json};
use crate::model::slot::{OnLimit, Slot};
use crate::model::{RunId, Timestamp};

/// What came of asking.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It may begin.
    Taken,
    /// It waits for its turn.
    Queued,
    /// It may not begin, and why.
    Rejected(String),
}

/// Whether a run that wants this slot would be rejected, and why.
pub(super) async fn rejected(tx: &mut Connection, slot: &Slot) -> Result<Option<String>, StoreError> {
    if slot.on_limit != OnLimit::Reject || held(tx, &slot.name).await? < i64::from(slot.limit) {
        return Ok(None);
    }
    let holder: Option<i64> = sql("SELECT min(run) FROM slots WHERE name = $1 AND held = 1")
        .bind(&slot.name)
        .fetch_one(&mut *tx)
        .await?;
    let holder = holder.map(|run| format!(": run {run} has not ended")).unwrap_or_default();
    Ok(Some(format!("at most {} of `{}` may run at once{holder}", slot.limit, slot.name.trim_end())))
}

/// Asks for the place of a new run. The runs that hear of it, since they may have to give way, come back.
pub(super) async fn take(
    tx: &mut Connection,
    run: RunId,
    slot: &Slot,
    words: Words,
    now: Timestamp,
) -> Result<(Place, Vec<RunId>), StoreError> {
    if held_above(tx, run, &slot.name).await? {
        return Ok((Place::Taken, Vec::new())); // It would wait for itself.
    }
    if let Some(why) = rejected(tx, slot).await? {
        return Ok((Place::Rejected(why), Vec::new()));
    }
    let is_free = held(tx, &slot.name).await? < i64::from(slot.limit);
    let mut told = Vec::new();
    if !is_free && slot.on_limit == OnLimit::Newest {
        let others: Vec<i64> = sql("SELECT run FROM slots WHERE name = $1 ORDER BY id")
            .bind(&slot.name)
            .fetch_all(&mut *tx)
            .await?;
        let input = json::write("input", &(words.superseded)(run))?;
        for other in others.into_iter().map(RunId) {
            if inbox::add(tx, other, &input, now).await?.is_some() {
                told.push(other);
            }
        }
    }
    sql("INSERT INTO slots (name, run, held, most, asked_at) VALUES ($1, $2, $3, $4, $5)")
        .bind(&slot.name)
        .bind(run.0)
        .bind(i64::from(is_free))
        .bind(i64::from(slot.limit))
        .bind(now.0)
        .execute(&mut *tx)
        .await?;
    Ok((if is_free { Place::Taken } else { Place::Queued }, told))
}

/// Gives back what a run has or waits for. The runs that may begin now come back.
pub(super) async fn free(
    tx: &mut Connection,
    run: RunId,
    words: Words,
    now: Timestamp,
) -> Result<Vec<RunId>, StoreError> {
    let freed: Option<(String, i64)> = sql("DELETE FROM slots WHERE run = $1 RETURNING name, held")
        .bind(run.0)
        .fetch_optional(&mut *tx)
        .await?;
    let Some((name, 1)) = freed else { return Ok(Vec::new()) };
    let mut begun = Vec::new();
    loop {
        let next: Option<(i64, i64, i64)> =
            sql("SELECT id, run, most FROM slots WHERE name = $1 AND held = 0 ORDER BY id LIMIT 1")
                .bind(&name)
                .fetch_optional(&mut *tx)
                .await?;
        let Some((id, next, most)) = next else { return Ok(begun) };
        if held(tx, &name).await? >= most {
            return Ok(begun);
        }
        sql("UPDATE slots SET held = 1 WHERE id = $1").bind(id).execute(&mut *tx).await?;
        inbox::add(tx, RunId(next), &json::write("input", &(words.started)())?, now).await?;
        begun.push(RunId(next));
    }
}

async fn held(tx: &mut Connection, name: &str) -> Result<i64, StoreError> {
    sql("SELECT count(*) FROM slots WHERE name = $1 AND held = 1").bind(name).fetch_one(&mut *tx).await
}

/// Whether a run that this one works for, directly or through others, has such a place.
async fn held_above(tx: &mut Connection, run: RunId, name: &str) -> Result<bool, StoreError> {
    let held: i64 = sql(
        "WITH RECURSIVE above (run) AS (
             SELECT parent_run FROM runs WHERE id = $1
             UNION ALL
             SELECT runs.parent_run FROM runs JOIN above ON runs.id = above.run
         )
         SELECT count(*) FROM slots JOIN above ON slots.run = above.run WHERE slots.name = $2 AND slots.held = 1",
    )
    .bind(run.0)
    .bind(name)
    .fetch_one(&mut *tx)
    .await?;
    Ok(held > 0)
}
