//! Locks that steps of runs have or wait for.
//!
//! Promises: a name is held by one step at a time, first come first served; it is asked for and given back in the transaction that advances the
//! run, and whoever gets it next is told by an input in the same transaction. A child run shares the locks of the steps above it.

use super::db::{Connection, sql};
use super::{Store, StoreError};
use crate::model::{RunId, Timestamp};

/// A step that waits for a lock, and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockWait {
    pub step: String,
    pub lock: String,
    pub held_by: RunId,
    pub held_for: String,
}

impl Store {
    /// What the steps of a run wait for.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn lock_waits(&self, run: RunId) -> Result<Vec<LockWait>, StoreError> {
        let rows: Vec<(String, String, i64, String)> =
            sql("SELECT mine.step, mine.name, other.run, other.step FROM locks AS mine
             JOIN locks AS other ON other.name = mine.name AND other.held = 1
             WHERE mine.run = $1 AND mine.held = 0 ORDER BY mine.id")
            .bind(run.0)
            .fetch_all(self.readers())
            .await?;
        let wait = |(step, lock, run, held_for)| LockWait { step, lock, held_by: RunId(run), held_for };
        Ok(rows.into_iter().map(wait).collect())
    }
}

/// Asks for a lock; whether the step has it at once.
pub(super) async fn take(
    tx: &mut Connection,
    run: RunId,
    step: &str,
    name: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    if held_above(tx, run, name).await? {
        return Ok(true);
    }
    let held: Option<i64> = sql("INSERT INTO locks (name, run, step, held, asked_at)
         VALUES ($1, $2, $3, CASE WHEN EXISTS (SELECT 1 FROM locks WHERE name = $1) THEN 0 ELSE 1 END, $4)
         ON CONFLICT (run, step) DO NOTHING RETURNING held")
    .bind(name)
    .bind(run.0)
    .bind(step)
    .bind(now.0)
    .fetch_optional(tx)
    .await?;
    Ok(held == Some(1))
}

/// Whether a step that the run works for, directly or through others, has the lock: its child would wait for it for ever.
async fn held_above(tx: &mut Connection, run: RunId, name: &str) -> Result<bool, StoreError> {
    let held: i64 = sql("WITH RECURSIVE above (run, step) AS (
             SELECT parent_run, parent_step FROM runs WHERE id = $1
             UNION ALL
             SELECT runs.parent_run, runs.parent_step FROM runs JOIN above ON runs.id = above.run
         )
         SELECT EXISTS (
             SELECT 1 FROM locks JOIN above ON locks.run = above.run AND locks.step = above.step
             WHERE locks.name = $2 AND locks.held = 1
         )")
    .bind(run.0)
    .bind(name)
    .fetch_one(tx)
    .await?;
    Ok(held == 1)
}

/// Gives back what a step has or waits for, or all that the run has when no step is said. The steps that get a lock now come back.
pub(super) async fn free(
    tx: &mut Connection,
    run: RunId,
    step: Option<&str>,
) -> Result<Vec<(RunId, String)>, StoreError> {
    let freed: Vec<(String, i64)> =
        sql("DELETE FROM locks WHERE run = $1 AND ($2 IS NULL OR step = $2) RETURNING name, held")
            .bind(run.0)
            .bind(step)
            .fetch_all(&mut *tx)
            .await?;
    let mut given = Vec::new();
    for (name, _) in freed.into_iter().filter(|(_, held)| *held == 1) {
        let next: Option<(i64, String)> = sql(
            "UPDATE locks SET held = 1 WHERE id = (SELECT min(id) FROM locks WHERE name = $1) RETURNING run, step",
        )
        .bind(name)
        .fetch_optional(&mut *tx)
        .await?;
        given.extend(next.map(|(run, step)| (RunId(run), step)));
    }
    Ok(given)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::run::Parent;
    use crate::model::{Run, RunStatus};
    use crate::store::testing::{NOW, fresh, new_run, on_both, reopen, stored_run};
    use crate::store::{Advance, Saved};

    on_both!(
        a_lock_goes_to_the_first_who_came_and_then_to_the_next_also_after_a_restart,
        a_child_shares_the_lock_of_the_step_that_it_works_for_and_of_no_other,
    );

    async fn advance(store: &Store, run: &Run, take: &[(&str, &str)], free: &[&str]) -> Saved {
        let mut advance = Advance::of(store.run(run.id).await.unwrap().unwrap(), NOW);
        advance.locks = take.iter().map(|(step, name)| ((*step).to_owned(), (*name).to_owned())).collect();
        advance.freed = free.iter().map(|step| (*step).to_owned()).collect();
        advance.words.lock_taken = |step| json!({"lock_taken": step});
        store.save_run(advance).await.unwrap()
    }

    async fn a_lock_goes_to_the_first_who_came_and_then_to_the_next_also_after_a_restart() {
        let (folder, store) = fresh().await;
        let [first, second, third] =
            [stored_run(&store).await, stored_run(&store).await, stored_run(&store).await];
        assert_eq!(advance(&store, &first, &[("build", "x")], &[]).await.woken, [first.id]);
        assert_eq!(advance(&store, &second, &[("build", "x"), ("ship", "y")], &[]).await.woken, [second.id]);
        assert_eq!(advance(&store, &third, &[("build", "x")], &[]).await.woken, []);
        let waits = store.lock_waits(third.id).await.unwrap();
        assert_eq!((waits[0].held_by, waits[0].lock.as_str()), (first.id, "x"));
        store.close().await;
        let store = reopen(&folder).await;
        assert_eq!(advance(&store, &first, &[], &["build"]).await.woken, [second.id]);
        assert_eq!(store.inbox(second.id).await.unwrap().len(), 2);
        // Who waits no longer is passed over; who ends gives all back.
        assert_eq!(advance(&store, &third, &[], &["build"]).await.woken, []);
        assert_eq!(advance(&store, &first, &[("build", "x")], &[]).await.woken, []);
        let mut last = Advance::of(store.run(second.id).await.unwrap().unwrap(), NOW);
        last.run.status = RunStatus::Failed;
        assert_eq!(store.save_run(last).await.unwrap().woken, [first.id]);
        assert_eq!(store.count("SELECT count(*) FROM locks").await, 1);
    }

    async fn a_child_shares_the_lock_of_the_step_that_it_works_for_and_of_no_other() {
        let (_folder, store) = fresh().await;
        let parent = stored_run(&store).await;
        let mut child = new_run();
        child.run.parent = Some(Parent { run: parent.id, step: "ship".to_owned(), visit: 1 });
        let child = store.insert_run(child, None, NOW).await.unwrap().id;
        let child = store.run(child).await.unwrap().unwrap();
        advance(&store, &parent, &[("ship", "x"), ("build", "y")], &[]).await;
        assert_eq!(advance(&store, &child, &[("build", "x")], &[]).await.woken, [child.id]);
        assert_eq!(advance(&store, &child, &[("ship", "y")], &["build"]).await.woken, []);
        assert_eq!(store.lock_waits(child.id).await.unwrap().len(), 1);
    }
}
