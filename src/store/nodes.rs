//! The servers that share this database, and what each has to itself: its leases.
//!
//! Promises: a lease has one holder at a time; a server that was taken for dead hears of it at its next beat. Moments are those of the
//! database's clock, so servers whose clocks differ agree.

use super::connection::Dialect;
use super::db::{Connection, sql};
use super::{Store, StoreError};
use crate::model::{Span, Timestamp};

/// How long a lease lives after the beat that asked for it.
pub const LEASE_LIVES: Span = Span::seconds(6);
/// A server that has not beaten for so long is taken for dead.
pub const DEAD_AFTER: Span = Span::seconds(15);

/// A start of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// Names this start.
    pub boot: String,
    /// Names where it keeps what is its own: a new start at the same place means that the one before has ended.
    pub place: String,
    /// Where it can be reached.
    pub address: String,
}

/// A server that shares the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub boot: String,
    pub address: String,
    pub started_at: Timestamp,
    pub heartbeat_at: Timestamp,
}

/// What a beat came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beat {
    /// All that it holds for another `LEASE_LIVES`, and whether there are other servers.
    Alive { held: Vec<String>, others: bool },
    /// It was taken for dead: what it was at belongs to others.
    Buried,
}

impl Store {
    /// Makes this start one of the servers. Earlier starts at the same place are forgotten, so what they left behind is nobody's.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn join(&self, node: NewNode) -> Result<(), StoreError> {
        self.write(move |tx| Box::pin(async move { join(tx, &node).await })).await
    }

    /// Says that a server lives, takes or keeps those leases of `wanted` that nobody else holds, and gives back its others.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn beat(&self, boot: &str, wanted: Vec<String>) -> Result<Beat, StoreError> {
        let boot = boot.to_owned();
        self.write(move |tx| Box::pin(async move { beat(tx, &boot, &wanted).await })).await
    }

    /// Gives back all that a server holds, and has the others take it for dead at once.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn leave(&self, boot: &str) -> Result<(), StoreError> {
        let boot = boot.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                sql("DELETE FROM leases WHERE holder = $1").bind(&boot).execute(tx).await?;
                sql("UPDATE nodes SET heartbeat_at = 0 WHERE boot = $1").bind(&boot).execute(tx).await?;
                Ok(())
            })
        })
        .await
    }

    /// Forgets the servers that have left and, with `silent`, those that have not beaten for `DEAD_AFTER`; gives their boots.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn bury_dead(&self, silent: bool) -> Result<Vec<String>, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let latest = if silent { now(tx).await?.saturating_sub_unsigned(DEAD_AFTER.0) } else { 1 };
                sql("DELETE FROM nodes WHERE heartbeat_at < $1 RETURNING boot")
                    .bind(latest)
                    .fetch_all(tx)
                    .await
            })
        })
        .await
    }

    /// Whether some server on this database is alive, as far as it is known; never of a file, which has one at a time.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn has_living_nodes(&self) -> Result<bool, StoreError> {
        if !self.is_shared() {
            return Ok(false);
        }
        let living: i64 = sql("SELECT count(*) FROM nodes
                               WHERE heartbeat_at > CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) - $1")
        .bind(i64::try_from(DEAD_AFTER.0).unwrap_or(i64::MAX))
        .fetch_one(self.readers())
        .await?;
        Ok(living > 0)
    }

    /// The servers that share this database, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        let rows: Vec<(String, String, i64, i64)> =
            sql("SELECT boot, address, started_at, heartbeat_at FROM nodes ORDER BY started_at, boot")
                .fetch_all(self.readers())
                .await?;
        let node = |(boot, address, started_at, heartbeat_at)| Node {
            boot,
            address,
            started_at: Timestamp(started_at),
            heartbeat_at: Timestamp(heartbeat_at),
        };
        Ok(rows.into_iter().map(node).collect())
    }
}

/// What the database's clock says.
async fn now(tx: &mut Connection) -> Result<i64, StoreError> {
    let clock = match tx.dialect() {
        Dialect::Sqlite => "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)",
        Dialect::Postgres => "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
    };
    sql(clock).fetch_one(tx).await
}

async fn join(tx: &mut Connection, node: &NewNode) -> Result<(), StoreError> {
    let now = now(tx).await?;
    if tx.dialect() == Dialect::Sqlite {
        // A file has one server, wherever it was before.
        sql("DELETE FROM leases WHERE holder <> $1").bind(&node.boot).execute(tx).await?;
        sql("DELETE FROM nodes WHERE boot <> $1").bind(&node.boot).execute(tx).await?;
    }
    sql("DELETE FROM leases WHERE holder IN (SELECT boot FROM nodes WHERE place = $1 AND boot <> $2)")
        .bind(&node.place)
        .bind(&node.boot)
        .execute(tx)
        .await?;
    sql("DELETE FROM nodes WHERE place = $1 AND boot <> $2")
        .bind(&node.place)
        .bind(&node.boot)
        .execute(tx)
        .await?;
    sql("INSERT INTO nodes (boot, place, address, started_at, heartbeat_at) VALUES ($1, $2, $3, $4, $4)
         ON CONFLICT (boot) DO UPDATE SET heartbeat_at = excluded.heartbeat_at")
    .bind(&node.boot)
    .bind(&node.place)
    .bind(&node.address)
    .bind(now)
    .execute(tx)
    .await?;
    Ok(())
}

async fn beat(tx: &mut Connection, boot: &str, wanted: &[String]) -> Result<Beat, StoreError> {
    let now = now(tx).await?;
    let alive =
        sql("UPDATE nodes SET heartbeat_at = $2 WHERE boot = $1").bind(boot).bind(now).execute(tx).await?;
    if alive == 0 {
        sql("DELETE FROM leases WHERE holder = $1").bind(boot).execute(tx).await?;
        return Ok(Beat::Buried);
    }
    let known: Vec<String> =
        sql("SELECT name FROM leases WHERE holder = $1").bind(boot).fetch_all(&mut *tx).await?;
    for name in wanted {
        sql("INSERT INTO leases (name, holder, expires_at) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
             WHERE leases.holder = $2 OR leases.expires_at <= $4")
        .bind(name)
        .bind(boot)
        .bind(now.saturating_add_unsigned(LEASE_LIVES.0))
        .bind(now)
        .execute(tx)
        .await?;
    }
    for name in known.iter().filter(|name| !wanted.contains(name)) {
        sql("DELETE FROM leases WHERE name = $1").bind(name).execute(tx).await?;
    }
    let held =
        sql("SELECT name FROM leases WHERE holder = $1 ORDER BY name").bind(boot).fetch_all(&mut *tx).await?;
    let others: i64 = sql("SELECT count(*) FROM nodes WHERE boot <> $1").bind(boot).fetch_one(tx).await?;
    Ok(Beat::Alive { held, others: others > 0 })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::testing::{fresh, on_both};

    on_both!(
        a_lease_has_one_holder_until_it_dies_or_gives_it_back,
        who_was_taken_for_dead_hears_of_it,
        a_new_start_at_the_same_place_takes_over_at_once,
    );

    /// Two servers, also where there would be one: what is tried is the same.
    async fn join_both(store: &Store) {
        store.join(node("a", "one")).await.unwrap();
        if store.is_shared() {
            store.join(node("b", "two")).await.unwrap();
        } else {
            let other = "INSERT INTO nodes SELECT 'b', 'two', '', started_at, heartbeat_at FROM nodes";
            store.execute(other).await.unwrap();
        }
    }

    fn node(boot: &str, place: &str) -> NewNode {
        NewNode { boot: boot.to_owned(), place: place.to_owned(), address: "127.0.0.1:1".to_owned() }
    }

    async fn held(store: &Store, boot: &str, wanted: &[&str]) -> Vec<String> {
        let wanted = wanted.iter().map(|name| (*name).to_owned()).collect();
        match store.beat(boot, wanted).await.unwrap() {
            Beat::Alive { held, .. } => held,
            Beat::Buried => panic!("{boot} is dead"),
        }
    }

    async fn a_lease_has_one_holder_until_it_dies_or_gives_it_back() {
        let (_place, store) = fresh().await;
        store.join(node("a", "one")).await.unwrap();
        assert_eq!(
            store.beat("a", vec!["router".to_owned()]).await.unwrap(),
            Beat::Alive { held: vec!["router".to_owned()], others: false }
        );
        join_both(&store).await;
        assert_eq!(held(&store, "b", &["router", "timers"]).await, ["timers"]);
        assert_eq!(held(&store, "a", &["router", "timers"]).await, ["router"]);
        // It has expired.
        store.execute("UPDATE leases SET expires_at = 0 WHERE name = 'router'").await.unwrap();
        assert_eq!(held(&store, "b", &["router", "timers"]).await, ["router", "timers"]);
        assert_eq!(held(&store, "a", &["router", "timers"]).await, [""; 0]);
        store.leave("b").await.unwrap();
        assert_eq!(held(&store, "a", &["router", "timers"]).await, ["router", "timers"]);
        assert_eq!(store.bury_dead(false).await.unwrap(), ["b"]);
        assert_eq!(store.nodes().await.unwrap().len(), 1);
    }

    async fn who_was_taken_for_dead_hears_of_it() {
        let (_place, store) = fresh().await;
        join_both(&store).await;
        held(&store, "a", &["a"]).await;
        held(&store, "b", &["b"]).await;
        assert_eq!(store.bury_dead(true).await.unwrap(), [""; 0]);
        store.execute("UPDATE nodes SET heartbeat_at = heartbeat_at - 16000 WHERE boot = 'a'").await.unwrap();
        assert_eq!(store.bury_dead(false).await.unwrap(), [""; 0]);
        assert_eq!(store.bury_dead(true).await.unwrap(), ["a"]);
        assert_eq!(store.beat("a", vec![]).await.unwrap(), Beat::Buried);
        assert_eq!(held(&store, "b", &["a", "b"]).await, ["a", "b"]);
        assert_eq!(held(&store, "b", &["a"]).await, ["a"]);
    }

    async fn a_new_start_at_the_same_place_takes_over_at_once() {
        let (_place, store) = fresh().await;
        store.join(node("a", "one")).await.unwrap();
        held(&store, "a", &["router"]).await;
        store.join(node("b", "one")).await.unwrap();
        assert_eq!(held(&store, "b", &["router"]).await, ["router"]);
        assert_eq!(store.beat("a", vec![]).await.unwrap(), Beat::Buried);
    }
}
