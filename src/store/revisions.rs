//! Revisions of the definitions: the texts that a run began with and keeps. A file that did not change is kept once, by its hash.

use sha2::{Digest, Sha256};

use super::db::{Connection, sql};
use super::{Store, StoreError};
use crate::model::Timestamp;

/// One file of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionFile {
    /// Below the site's folder, with forward slashes.
    pub path: String,
    pub bytes: Vec<u8>,
}

/// A revision without its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionInfo {
    pub hash: String,
    /// When it was loaded last.
    pub loaded_at: Timestamp,
}

impl Store {
    /// Stores a revision and makes it the newest, also when it had been the newest some time before.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn put_revision(
        &self,
        hash: &str,
        files: Vec<RevisionFile>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let hash = hash.to_owned();
        let bytes = files.iter().map(|file| file.bytes.len()).sum();
        self.write_large(bytes, move |tx| Box::pin(async move { put(tx, &hash, &files, now).await })).await
    }

    /// The files of a revision in the order of their paths; `None` when it is not known.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn revision(&self, hash: &str) -> Result<Option<Vec<RevisionFile>>, StoreError> {
        let known: Option<i64> =
            sql("SELECT 1 FROM revisions WHERE hash = $1").bind(hash).fetch_optional(self.readers()).await?;
        if known.is_none() {
            return Ok(None);
        }
        let rows: Vec<(String, Vec<u8>)> = sql(
            "SELECT path, bytes FROM revision_files JOIN blobs ON hash = blob WHERE revision = $1 ORDER BY path",
        )
        .bind(hash)
        .fetch_all(self.readers())
        .await?;
        Ok(Some(rows.into_iter().map(|(path, bytes)| RevisionFile { path, bytes }).collect()))
    }

    /// The revision that was loaded last.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn newest_revision(&self) -> Result<Option<RevisionInfo>, StoreError> {
        let row: Option<(String, i64)> =
            sql("SELECT hash, loaded_at FROM revisions ORDER BY sequence DESC LIMIT 1")
                .fetch_optional(self.readers())
                .await?;
        Ok(row.map(|(hash, at)| RevisionInfo { hash, loaded_at: Timestamp(at) }))
    }
}

async fn put(
    tx: &mut Connection,
    hash: &str,
    files: &[RevisionFile],
    now: Timestamp,
) -> Result<(), StoreError> {
    sql("INSERT INTO revisions (hash, loaded_at, sequence)
         VALUES ($1, $2, (SELECT coalesce(max(sequence), 0) + 1 FROM revisions))
         ON CONFLICT (hash) DO UPDATE SET loaded_at = excluded.loaded_at, sequence = excluded.sequence")
    .bind(hash)
    .bind(now.0)
    .execute(&mut *tx)
    .await?;
    for file in files {
        let blob = hex::encode(Sha256::digest(&file.bytes));
        sql("INSERT INTO blobs (hash, bytes) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING")
            .bind(&blob)
            .bind(&file.bytes)
            .execute(&mut *tx)
            .await?;
        sql("INSERT INTO revision_files (revision, path, blob) VALUES ($1, $2, $3)
             ON CONFLICT (revision, path) DO NOTHING")
        .bind(hash)
        .bind(&file.path)
        .bind(&blob)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::testing::{NOW, fresh, on_both};

    on_both!(the_newest_is_the_one_loaded_last_and_equal_files_are_kept_once,);

    fn file(path: &str, bytes: &[u8]) -> RevisionFile {
        RevisionFile { path: path.to_owned(), bytes: bytes.to_vec() }
    }

    async fn the_newest_is_the_one_loaded_last_and_equal_files_are_kept_once() {
        let (_folder, store) = fresh().await;
        assert_eq!(store.newest_revision().await.unwrap(), None);
        let one = vec![file("rules/a.yaml", b"a"), file("scripts/s.sh", b"\xff")];
        let two = vec![file("rules/a.yaml", b"b"), file("scripts/s.sh", b"\xff")];
        store.put_revision("one", one.clone(), NOW).await.unwrap();
        store.put_revision("two", two.clone(), NOW).await.unwrap();
        assert_eq!(store.newest_revision().await.unwrap().unwrap().hash, "two");
        store.put_revision("one", one.clone(), NOW).await.unwrap();
        assert_eq!(store.newest_revision().await.unwrap().unwrap().hash, "one");
        assert_eq!(store.revision("one").await.unwrap(), Some(one));
        assert_eq!(store.revision("two").await.unwrap(), Some(two));
        assert_eq!(store.revision("three").await.unwrap(), None);
        assert_eq!(store.count("SELECT count(*) FROM blobs").await, 3);
    }
}
