//! Small facts about this database: one text per key.

use super::db::{Connection, sql};
use super::{Store, StoreError};

impl Store {
    /// The fact `key`, if it was ever set.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        let value =
            sql("SELECT value FROM meta WHERE key = $1").bind(key).fetch_optional(self.readers()).await?;
        Ok(value)
    }

    /// Sets the fact `key`.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn set_meta(&self, key: &str, value: &str) -> Result<(), StoreError> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.write(move |tx| Box::pin(async move { write(tx, &key, &value).await })).await
    }
}

/// As `set_meta`, inside somebody's transaction.
pub(super) async fn write(tx: &mut Connection, key: &str, value: &str) -> Result<(), StoreError> {
    sql(
        "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    )
    .bind(key)
    .bind(value)
    .execute(tx)
    .await?;
    Ok(())
}

/// As `meta`, inside somebody's transaction.
pub(super) async fn read(tx: &mut Connection, key: &str) -> Result<Option<String>, StoreError> {
    sql("SELECT value FROM meta WHERE key = $1").bind(key).fetch_optional(tx).await
}
