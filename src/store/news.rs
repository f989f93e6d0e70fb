//! Words between the servers that share a database, by LISTEN and NOTIFY. They wake and may be lost: nothing that matters is only in them.

use std::time::Duration;

use sqlx::postgres::PgListener;

use super::connection::Readers;
use super::{Store, StoreError};

/// The longest text that one word may have, in bytes.
pub const LONGEST_NEWS: usize = 7000;
/// After so long without any word, this server's own included, the connection is taken for broken.
const SILENCE: Duration = Duration::from_secs(10);

/// Hears what the servers tell each other.
#[derive(Debug)]
pub struct News {
    listener: PgListener,
}

impl Store {
    /// Tells all servers that share this database, this one too. Where there is only one, nothing happens.
    ///
    /// # Errors
    /// The database cannot be reached; then nobody heard it.
    pub async fn tell(&self, text: &str) -> Result<(), StoreError> {
        let Readers::Postgres(readers) = self.readers() else { return Ok(()) };
        readers.tell(text).await
    }

    /// Begins to listen; `None` where there is only one server.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn listen(&self) -> Result<Option<News>, StoreError> {
        let Readers::Postgres(readers) = self.readers() else { return Ok(None) };
        Ok(Some(News { listener: readers.listen().await? }))
    }
}

impl News {
    /// The next word. `None`: the connection broke, words may have been lost, and this listener is of no more use.
    pub async fn next(&mut self) -> Option<String> {
        let heard = tokio::time::timeout(SILENCE, self.listener.try_recv()).await;
        Some(heard.ok()?.ok()??.payload().to_owned())
    }
}
