//! A small store of keys and values for workflows and people, with compare-and-set and expiry. An expired key is as good as gone.

use super::audit::{self, NewAudit};
use super::connection::Dialect;
use super::db::{Connection, Query, sql};
use super::{Store, StoreError, bounded, json};
use crate::model::{Timestamp, Value};

/// A key with what it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct KvEntry {
    pub key: String,
    pub value: Value,
    /// Counts the writes of this key since it was made.
    pub version: i64,
    pub updated_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

/// A value to set.
#[derive(Clone, Debug, PartialEq)]
pub struct KvSet {
    pub key: String,
    pub value: Value,
    /// `None`: it stays.
    pub expires_at: Option<Timestamp>,
    /// Only if the key is at this version; 0: only if it is absent. `None`: whatever it holds.
    pub if_version: Option<i64>,
}

impl Store {
    /// What a key holds.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn kv(&self, key: &str, now: Timestamp) -> Result<Option<KvEntry>, StoreError> {
        let mut query = select(now);
        query.push(" AND key = ").push_bind(key.to_owned());
        Ok(self.fetch_kv(query).await?.pop())
    }

    /// Keys that begin with `prefix`, in order, those after `after`.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn kv_list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<KvEntry>, StoreError> {
        let mut query = select(now);
        query.push(" AND key >= ").push_bind(prefix.to_owned());
        match self.dialect() {
            Dialect::Sqlite => {
                let characters = i64::try_from(prefix.chars().count()).unwrap_or(i64::MAX);
                query
                    .push(" AND substr(key, 1, ")
                    .push_bind(characters)
                    .push(") = ")
                    .push_bind(prefix.to_owned());
            }
            Dialect::Postgres => {
                query.push(" AND starts_with(key, ").push_bind(prefix.to_owned()).push(")");
            }
        }
        if let Some(after) = after {
            query.push(" AND key > ").push_bind(after.to_owned());
        }
        query.push(" ORDER BY key LIMIT ").push_bind(bounded(limit));
        self.fetch_kv(query).await
    }

    /// Sets a key and gives its new version.
    ///
    /// # Errors
    /// `Conflict` when the key is not at `if_version`. The database cannot be written.
    pub async fn kv_set(
        &self,
        set: KvSet,
        audit: Option<NewAudit>,
        now: Timestamp,
    ) -> Result<i64, StoreError> {
        let value = json::write("value", &set.value)?;
        self.write_large(value.len(), move |tx| {
            Box::pin(async move {
                let version = put(tx, &set, &value, now).await?;
                if let Some(row) = &audit {
                    audit::add(tx, row).await?;
                }
                Ok(version)
            })
        })
        .await
    }

    /// Deletes a key, with `if_version` only at that version. False when it was not there.
    ///
    /// # Errors
    /// `Conflict` when the key is at another version. The database cannot be written.
    pub async fn kv_delete(
        &self,
        key: &str,
        if_version: Option<i64>,
        audit: Option<NewAudit>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let key = key.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let version = version(tx, &key, now).await?;
                if version == 0 {
                    return Ok(false);
                }
                refuse_other(&key, if_version, version)?;
                sql("DELETE FROM kv WHERE key = $1").bind(&key).execute(&mut *tx).await?;
                if let Some(row) = &audit {
                    audit::add(tx, row).await?;
                }
                Ok(true)
            })
        })
        .await
    }

    /// Removes up to `limit` keys that have expired; says how many.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget_kv(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let done = sql("DELETE FROM kv WHERE key IN
                     (SELECT key FROM kv WHERE expires_at IS NOT NULL AND expires_at <= $1 LIMIT $2)")
                .bind(now.0)
                .bind(i64::from(limit))
                .execute(tx)
                .await?;
                Ok(done)
            })
        })
        .await
    }

    async fn fetch_kv(&self, query: Query) -> Result<Vec<KvEntry>, StoreError> {
        let rows: Vec<Row> = query.fetch_all(self.readers()).await?;
        rows.into_iter().map(read).collect()
    }
}

async fn put(tx: &mut Connection, set: &KvSet, value: &str, now: Timestamp) -> Result<i64, StoreError> {
    let found = version(tx, &set.key, now).await?;
    refuse_other(&set.key, set.if_version, found)?;
    sql("INSERT INTO kv (key, value, version, updated_at, expires_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version,
                                         updated_at = excluded.updated_at, expires_at = excluded.expires_at")
    .bind(&set.key)
    .bind(value)
    .bind(found + 1)
    .bind(now.0)
    .bind(set.expires_at.map(|at| at.0))
    .execute(tx)
    .await?;
    Ok(found + 1)
}

/// The version that a key is at; 0 when it is absent or has expired.
async fn version(tx: &mut Connection, key: &str, now: Timestamp) -> Result<i64, StoreError> {
    let version: Option<i64> =
        sql("SELECT version FROM kv WHERE key = $1 AND (expires_at IS NULL OR expires_at > $2)")
            .bind(key)
            .bind(now.0)
            .fetch_optional(tx)
            .await?;
    Ok(version.unwrap_or(0))
}

fn refuse_other(key: &str, wanted: Option<i64>, found: i64) -> Result<(), StoreError> {
    match wanted {
        Some(wanted) if wanted != found => Err(StoreError::Conflict(format!("key `{key}`"))),
        _ => Ok(()),
    }
}

type Row = (String, String, i64, i64, Option<i64>);

fn select(now: Timestamp) -> Query {
    let mut query = Query::new("SELECT key, value, version, updated_at, expires_at FROM kv");
    query.push(" WHERE (expires_at IS NULL OR expires_at > ").push_bind(now.0).push(")");
    query
}

fn read((key, value, version, updated_at, expires_at): Row) -> Result<KvEntry, StoreError> {
    let value = json::read(&format!("value of key `{key}`"), &value)?;
    Ok(KvEntry {
        key,
        value,
        version,
        updated_at: Timestamp(updated_at),
        expires_at: expires_at.map(Timestamp),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Span;
    use crate::store::testing::{NOW, audit, fresh, on_both};

    on_both!(
        compare_and_set_lets_one_of_two_through,
        an_expired_key_is_as_good_as_gone,
        a_list_holds_a_prefix_in_order,
        any_character_may_stand_in_a_key,
    );

    fn set(key: &str, if_version: Option<i64>) -> KvSet {
        KvSet { key: key.to_owned(), value: json!({"n": key}), expires_at: None, if_version }
    }

    async fn compare_and_set_lets_one_of_two_through() {
        let (_folder, store) = fresh().await;
        assert_eq!(store.kv_set(set("a", Some(0)), None, NOW).await, Ok(1));
        let conflict = Err(StoreError::Conflict("key `a`".to_owned()));
        assert_eq!(store.kv_set(set("a", Some(0)), Some(audit("kv.set")), NOW).await, conflict);
        assert_eq!(store.kv_set(set("a", Some(1)), Some(audit("kv.set")), NOW).await, Ok(2));
        assert_eq!(store.kv_set(set("a", Some(1)), None, NOW).await, conflict);
        assert_eq!(store.kv_set(set("a", None), None, NOW).await, Ok(3));
        assert!(store.kv_delete("a", Some(2), None, NOW).await.is_err());
        assert_eq!(store.kv_delete("a", Some(3), None, NOW).await, Ok(true));
        assert_eq!(store.kv_delete("a", None, None, NOW).await, Ok(false));
        assert_eq!(store.count("SELECT count(*) FROM audit").await, 1);
    }

    async fn an_expired_key_is_as_good_as_gone() {
        let (_folder, store) = fresh().await;
        let later = NOW.plus(Span::seconds(1));
        store.kv_set(KvSet { expires_at: Some(later), ..set("a", None) }, None, NOW).await.unwrap();
        assert_eq!(store.kv("a", NOW).await.unwrap().unwrap().value, json!({"n": "a"}));
        assert_eq!(store.kv("a", later).await.unwrap(), None);
        assert_eq!(store.kv_delete("a", None, None, later).await, Ok(false));
        assert_eq!(store.kv_set(set("a", Some(0)), None, later).await, Ok(1));
        assert_eq!(store.forget_kv(later, 9).await, Ok(0));
    }

    async fn any_character_may_stand_in_a_key() {
        let (_folder, store) = fresh().await;
        for key in ["a\0", "a\0b", "a\u{10}", "a"] {
            store.kv_set(set(key, Some(0)), None, NOW).await.unwrap();
            assert_eq!(store.kv(key, NOW).await.unwrap().unwrap().value, json!({"n": key}));
        }
        let found = store.kv_list("", None, 9, NOW).await.unwrap();
        assert_eq!(found.len(), 4);
        assert!(found.iter().any(|entry| entry.key == "a\0b"));
    }

    async fn a_list_holds_a_prefix_in_order() {
        let (_folder, store) = fresh().await;
        for key in ["a/2", "a/1", "b", "a", "a%", "A/3", "a/\u{1F426}"] {
            store.kv_set(set(key, None), None, NOW).await.unwrap();
        }
        let keys = async |prefix: &str, after: Option<&str>| -> Vec<String> {
            let entries = store.kv_list(prefix, after, 9, NOW).await.unwrap();
            entries.into_iter().map(|entry| entry.key).collect()
        };
        assert_eq!(keys("a/", None).await, ["a/1", "a/2", "a/\u{1F426}"]);
        assert_eq!(keys("a/", Some("a/1")).await, ["a/2", "a/\u{1F426}"]);
        assert_eq!(keys("", None).await.len(), 7);
    }
}
