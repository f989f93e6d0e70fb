//! Secrets, sealed. The store never sees one in clear; `crate::secrets` seals and opens them.

use super::audit::{self, NewAudit};
use super::db::{Connection, sql};
use super::{Store, StoreError};
use crate::model::Timestamp;

/// A secret that cannot be read without the key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSecret {
    pub name: String,
    pub nonce: Vec<u8>,
    pub ciphertext: Vec<u8>,
    pub updated_at: Timestamp,
}

impl Store {
    /// Stores a sealed secret over what had its name.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn put_secret(&self, secret: SealedSecret, audit: NewAudit) -> Result<(), StoreError> {
        self.write(move |tx| Box::pin(async move { put(tx, &secret, &audit).await })).await
    }

    /// One sealed secret.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn sealed_secret(&self, name: &str) -> Result<Option<SealedSecret>, StoreError> {
        let row: Option<(String, Vec<u8>, Vec<u8>, i64)> =
            sql("SELECT name, nonce, ciphertext, updated_at FROM secrets WHERE name = $1")
                .bind(name)
                .fetch_optional(self.readers())
                .await?;
        Ok(row.map(|(name, nonce, ciphertext, updated_at)| SealedSecret {
            name,
            nonce,
            ciphertext,
            updated_at: Timestamp(updated_at),
        }))
    }

    /// The names of all secrets in order, and when each was set.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn secret_names(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        let rows: Vec<(String, i64)> =
            sql("SELECT name, updated_at FROM secrets ORDER BY name").fetch_all(self.readers()).await?;
        Ok(rows.into_iter().map(|(name, at)| (name, Timestamp(at))).collect())
    }

    /// Deletes a secret. False when there was none; then there is no audit row.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn delete_secret(&self, name: &str, audit: NewAudit) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let deleted = sql("DELETE FROM secrets WHERE name = $1").bind(name).execute(&mut *tx).await?;
                if deleted == 0 {
                    return Ok(false);
                }
                audit::add(tx, &audit).await?;
                Ok(true)
            })
        })
        .await
    }
}

async fn put(tx: &mut Connection, secret: &SealedSecret, audit: &NewAudit) -> Result<(), StoreError> {
    sql("INSERT INTO secrets (name, nonce, ciphertext, updated_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (name) DO UPDATE SET nonce = excluded.nonce, ciphertext = excluded.ciphertext,
                                          updated_at = excluded.updated_at")
    .bind(&secret.name)
    .bind(&secret.nonce)
    .bind(&secret.ciphertext)
    .bind(secret.updated_at.0)
    .execute(&mut *tx)
    .await?;
    audit::add(tx, audit).await?;
    Ok(())
}
