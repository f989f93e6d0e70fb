//! What attempts printed, in chunks, in the order in which it came. Any bytes: programs print what they like.

use super::db::{Connection, Query, sql};
use super::{Store, StoreError, attempts, bounded};
use crate::model::log::Stream;
use crate::model::{AttemptKey, RunId, Timestamp};

/// A piece of output, masked already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    pub key: AttemptKey,
    pub stream: Stream,
    pub at: Timestamp,
    pub bytes: Vec<u8>,
}

/// A piece of output as it is stored. Ids grow with time, over all runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredChunk {
    pub id: i64,
    pub chunk: LogChunk,
}

/// Which chunks a list holds. Oldest first.
#[derive(Clone, Debug)]
pub struct LogFilter {
    pub run: RunId,
    /// Only this step's, all its attempts.
    pub step: Option<String>,
    /// Only chunks after this one; 0: from the first.
    pub after: i64,
    pub limit: u32,
}

impl Store {
    /// Appends chunks, in their order, in one transaction. Chunks of a run that is no longer there are dropped.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn append_log(&self, chunks: Vec<LogChunk>) -> Result<(), StoreError> {
        let bytes = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        self.write_large(bytes, move |tx| {
            Box::pin(async move {
                for chunk in &chunks {
                    append(tx, chunk).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// A page of a run's log, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn log(&self, filter: &LogFilter) -> Result<Vec<StoredChunk>, StoreError> {
        let mut query = Query::new(
            "SELECT id, run, step, visit, item, number, stream, at, bytes FROM log_chunks WHERE run = ",
        );
        query.push_bind(filter.run.0).push(" AND id > ").push_bind(filter.after);
        if let Some(step) = &filter.step {
            query.push(" AND step = ").push_bind(step.clone());
        }
        query.push(" ORDER BY id LIMIT ").push_bind(bounded(filter.limit));
        let rows: Vec<Row> = query.fetch_all(self.readers()).await?;
        rows.into_iter().map(read).collect()
    }
}

async fn append(tx: &mut Connection, chunk: &LogChunk) -> Result<(), StoreError> {
    let key = &chunk.key;
    sql("INSERT INTO log_chunks (run, step, visit, item, number, stream, at, bytes)
         SELECT id, $2, $3, $4, $5, $6, $7, $8 FROM runs WHERE id = $1")
    .bind(key.run.0)
    .bind(&key.step)
    .bind(i64::from(key.visit))
    .bind(attempts::item(key.item))
    .bind(i64::from(key.number))
    .bind(chunk.stream.as_str())
    .bind(chunk.at.0)
    .bind(&chunk.bytes)
    .execute(tx)
    .await?;
    Ok(())
}

type Row = (i64, i64, String, u32, i64, u32, String, i64, Vec<u8>);

fn read((id, run, step, visit, item, number, stream, at, bytes): Row) -> Result<StoredChunk, StoreError> {
    let stream =
        Stream::parse(&stream).ok_or_else(|| StoreError::corrupt("log", format!("no stream `{stream}`")))?;
    let key = AttemptKey { run: RunId(run), step, visit, item: u32::try_from(item).ok(), number };
    Ok(StoredChunk { id, chunk: LogChunk { key, stream, at: Timestamp(at), bytes } })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::testing::{NOW, attempt, fresh, on_both, reopen, stored_run};

    on_both!(any_bytes_survive_in_their_order,);

    async fn any_bytes_survive_in_their_order() {
        let (folder, store) = fresh().await;
        let run = stored_run(&store).await.id;
        let chunk = |stream, bytes: &[u8], item| LogChunk {
            key: attempt(run, item, 1).key,
            stream,
            at: NOW,
            bytes: bytes.to_vec(),
        };
        let chunks = vec![
            chunk(Stream::Stdout, b"one\n\xff\xfe\x00", None),
            chunk(Stream::Stderr, b"", Some(3)),
            chunk(Stream::Note, "two \u{1F426}".as_bytes(), None),
        ];
        store.append_log(chunks.clone()).await.unwrap();
        let mut nobody = chunk(Stream::Note, b"x", None);
        nobody.key.run = RunId(99);
        store.append_log(vec![nobody]).await.unwrap();
        store.close().await;
        let store = reopen(&folder).await;
        let mut filter = LogFilter { run, step: Some("build".to_owned()), after: 0, limit: 2 };
        let mut read = store.log(&filter).await.unwrap();
        filter.after = read[1].id;
        read.extend(store.log(&filter).await.unwrap());
        assert_eq!(read.into_iter().map(|stored| stored.chunk).collect::<Vec<_>>(), chunks);
        filter.step = Some("other".to_owned());
        assert_eq!(store.log(&filter).await.unwrap(), []);
    }
}
