//! Lets go of what is no longer needed: keys that have expired, what is older than `retention` of siskin.yaml says, files that no run names, definitions
//! that were read for runs long ended. In the background, a few rows at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::model::Timestamp;
use crate::store::StoreError;

use super::{Engine, lock};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(600);
/// How many rows go in one transaction: nobody waits long behind it.
const BITE: u32 = 500;
/// Between two bites, for those who have something to do.
const PAUSE: Duration = Duration::from_millis(5);
/// How many revisions are kept in memory beside the one in force; the store has them all.
const REVISIONS: usize = 16;

impl Engine {
    pub(super) async fn keep_house(self: &Arc<Self>, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => (),
                () = stop.cancelled() => return,
            }
            tokio::select! {
                done = self.let_go_of_old() => if let Err(error) = done {
                    tracing::warn!(%error, "what has expired can't be removed; trying again later");
                },
                () = stop.cancelled() => return,
            }
        }
    }

    async fn let_go_of_old(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        while self.store.forget_dedup(now, BITE).await? == u64::from(BITE) {}
        while self.store.forget_kv(now, BITE).await? == u64::from(BITE) {}
        while self.store.forget_rule_windows(now, BITE).await? == u64::from(BITE) {}
        self.let_go_of_the_past(now).await?;
        while self.artefacts.forget_unnamed(now, BITE).await? == u64::from(BITE) {}
        let mut pinned = lock(&self.pinned);
        if pinned.len() > REVISIONS {
            pinned.clear();
        }
        Ok(())
    }

    /// What is older than the site wants to keep.
    async fn let_go_of_the_past(&self, now: Timestamp) -> Result<(), StoreError> {
        let keep = self.definitions().site.retention;
        let store = &self.store;
        let before = now.minus(keep.runs);
        while store.forget_deployments(before, BITE).await? == u64::from(BITE) {}
        // Deployments first: those that go name their runs no longer.
        if self.until_young(Past::Runs, before).await? > 0 {
            let mut after = Some(String::new());
            while let Some(page) = after {
                after = store.forget_idempotency(&page, BITE).await?;
            }
        }
        self.until_young(Past::Logs, now.minus(keep.logs)).await?;
        self.until_young(Past::Events, now.minus(keep.events)).await?;
        let before = now.minus(keep.audit);
        self.until_young(Past::Audit, before).await?;
        while store.forget_tokens(before, BITE).await? == u64::from(BITE) {}
        Ok(())
    }

    /// Looks, bite by bite, until what comes is young; how much has gone.
    async fn until_young(&self, past: Past, before: Timestamp) -> Result<u64, StoreError> {
        let (mut after, mut gone) = (0, 0);
        loop {
            let left = match past {
                Past::Runs => self.store.forget_runs(after, before, BITE).await?,
                Past::Logs => self.store.forget_logs(after, before, BITE).await?,
                Past::Events => self.store.forget_events(after, before, BITE).await?,
                Past::Audit => self.store.forget_audit(after, before, BITE).await?,
            };
            gone += left.gone;
            match left.next {
                Some(next) => after = next,
                None => return Ok(gone),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What is looked through by age.
#[derive(Clone, Copy)]
enum Past {
    Runs,
    Logs,
    Events,
    Audit,
}
