//! Lets go of what is no longer needed: dedup keys and keys that have expired, definitions that were read for runs long ended.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::StoreError;

use super::{Engine, lock};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(600);
/// How many rows go in one transaction: nobody waits long behind it.
const BITE: u32 = 500;
/// How many revisions are kept in memory beside the one in force; the store has them all.
const REVISIONS: usize = 16;

impl Engine {
    pub(super) async fn keep_house(self: &Arc<Self>, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => (),
                () = stop.cancelled() => return,
            }
            if let Err(error) = self.let_go_of_old().await {
                tracing::warn!(%error, "what has expired can't be removed; trying again later");
            }
        }
    }

    async fn let_go_of_old(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        while self.store.forget_dedup(now, BITE).await? == u64::from(BITE) {}
        while self.store.forget_kv(now, BITE).await? == u64::from(BITE) {}
        let mut pinned = lock(&self.pinned);
        if pinned.len() > REVISIONS {
            pinned.clear();
        }
        Ok(())
    }
}
