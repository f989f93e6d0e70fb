//! Stops that people set: on an app, or on all. One a name; the first stands until it is taken away.

use super::audit::{self, NewAudit};
use super::db::{Connection, sql};
use super::{Store, StoreError, bounded, json};
use crate::model::hold::Hold;
use crate::model::{RunId, Timestamp};

impl Store {
    /// All holds, by name.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        let rows: Vec<Row> = sql("SELECT what, held_by, why, since FROM holds ORDER BY what")
            .fetch_all(self.readers())
            .await?;
        rows.into_iter().map(read).collect()
    }

    /// Sets a hold, unless there is one on the same: then that comes back, and nothing is written.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn add_hold(&self, hold: Hold, audit: NewAudit) -> Result<Option<Hold>, StoreError> {
        self.write(move |tx| Box::pin(async move { add(tx, &hold, &audit).await })).await
    }

    /// Takes a hold away, and gives it; `None` when there is none.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn remove_hold(&self, what: &str, audit: NewAudit) -> Result<Option<Hold>, StoreError> {
        let what = what.to_owned();
        self.write(move |tx| Box::pin(async move { remove(tx, &what, &audit).await })).await
    }

    /// Open runs that wait for a hold to end, oldest first, those after `after` (0: from the first).
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn held_runs(&self, after: RunId, limit: u32) -> Result<Vec<RunId>, StoreError> {
        let ids: Vec<i64> =
            sql("SELECT id FROM runs WHERE held_for IS NOT NULL AND id > $1 ORDER BY id LIMIT $2")
                .bind(after.0)
                .bind(bounded(limit))
                .fetch_all(self.readers())
                .await?;
        Ok(ids.into_iter().map(RunId).collect())
    }
}

async fn add(tx: &mut Connection, hold: &Hold, audit: &NewAudit) -> Result<Option<Hold>, StoreError> {
    let added = sql(
        "INSERT INTO holds (what, held_by, why, since) VALUES ($1, $2, $3, $4) ON CONFLICT (what) DO NOTHING",
    )
    .bind(&hold.what)
    .bind(json::write("actor", &hold.by)?)
    .bind(&hold.why)
    .bind(hold.since.0)
    .execute(&mut *tx)
    .await?;
    if added == 1 {
        audit::add(tx, audit).await?;
        return Ok(None);
    }
    let there: Row = sql("SELECT what, held_by, why, since FROM holds WHERE what = $1")
        .bind(&hold.what)
        .fetch_one(tx)
        .await?;
    read(there).map(Some)
}

async fn remove(tx: &mut Connection, what: &str, audit: &NewAudit) -> Result<Option<Hold>, StoreError> {
    let gone: Option<Row> = sql("DELETE FROM holds WHERE what = $1 RETURNING what, held_by, why, since")
        .bind(what)
        .fetch_optional(&mut *tx)
        .await?;
    if gone.is_some() {
        audit::add(tx, audit).await?;
    }
    gone.map(read).transpose()
}

type Row = (String, String, String, i64);

fn read((what, by, why, since): Row) -> Result<Hold, StoreError> {
    let by = json::read(&format!("hold on {what}"), &by)?;
    Ok(Hold { what, by, why, since: Timestamp(since) })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::Actor;
    use crate::store::testing::{NOW, audit, fresh, reopen};

    fn hold(what: &str, why: &str) -> Hold {
        Hold { what: what.to_owned(), by: Actor::user("ana"), why: why.to_owned(), since: NOW }
    }

    #[tokio::test]
    async fn the_first_hold_on_an_app_stands_until_it_is_taken_away_also_after_a_restart() {
        let (folder, store) = fresh().await;
        assert_eq!(store.add_hold(hold("shop", "fair"), audit("hold.set")).await.unwrap(), None);
        let second = store.add_hold(hold("shop", "other"), audit("hold.set")).await.unwrap();
        assert_eq!(second, Some(hold("shop", "fair")));
        store.add_hold(hold("all", "audit"), audit("hold.set")).await.unwrap();
        store.close().await;
        let store = reopen(&folder).await;
        assert_eq!(store.holds().await.unwrap(), [hold("all", "audit"), hold("shop", "fair")]);
        let gone = store.remove_hold("shop", audit("hold.end")).await.unwrap();
        assert_eq!(gone, Some(hold("shop", "fair")));
        assert_eq!(store.remove_hold("shop", audit("hold.end")).await.unwrap(), None);
        // What changed nothing is in no audit.
        assert_eq!(store.count("SELECT count(*) FROM audit").await, 3);
    }

    #[tokio::test]
    async fn runs_that_wait_for_a_hold_are_found_page_by_page() {
        let (_folder, store) = fresh().await;
        for _ in 0..3 {
            crate::store::testing::stored_run(&store).await;
        }
        store.execute("UPDATE runs SET held_for = 'shop' WHERE id <> 2").await.unwrap();
        assert_eq!(store.held_runs(RunId(0), 9).await.unwrap(), [RunId(1), RunId(3)]);
        assert_eq!(store.held_runs(RunId(1), 9).await.unwrap(), [RunId(3)]);
    }
}
