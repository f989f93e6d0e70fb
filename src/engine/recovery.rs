//! What was going on when a server stopped goes on: at its next start, before anything new is done there, or at another server that shares the
//! database.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::conductor;
use crate::dispatch::Report;
use crate::model::{Attempt, ErrorKind, Outcome, RunId};
use crate::store::{AttemptFilter, AttemptState, Family, InFlight, RunFilter, StoreError};

use super::{Engine, Refused};

const BATCH: u32 = 500;

impl Engine {
    /// Starts the engine's tasks on `tasks`; they end when `stop` is cancelled, the one that takes reports when its senders are gone.
    ///
    /// # Errors
    /// What was going on could not be read.
    pub async fn run_tasks(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        reports: mpsc::Receiver<Report>,
        stop: CancellationToken,
    ) -> Result<(), Refused> {
        self.store.join(self.node.clone()).await?;
        self.refresh_holds().await?;
        let engine = Arc::clone(self);
        tasks.spawn(async move { engine.take_reports(reports).await });
        self.recover_runs().await?;
        self.tell_held_runs().await?; // A hold may have ended just before the server did.
        self.recover_attempts().await?;
        let (engine, stopped) = (Arc::clone(self), stop.clone());
        tasks.spawn(async move {
            let route = |engine: Arc<Engine>, turn| async move { engine.route_events(&turn).await };
            engine.while_holding("router", &stopped, route).await;
        });
        let (engine, stopped) = (Arc::clone(self), stop.clone());
        tasks.spawn(async move {
            let keep_house = |engine: Arc<Engine>, turn| async move { engine.keep_house(&turn).await };
            engine.while_holding("housekeeping", &stopped, keep_house).await;
        });
        let (engine, stopped) = (Arc::clone(self), stop.clone());
        tasks.spawn(async move {
            let keep_time = |engine: Arc<Engine>, turn| async move { engine.keep_time(&turn).await };
            engine.while_holding("timers", &stopped, keep_time).await;
        });
        let (engine, stopped) = (Arc::clone(self), stop.clone());
        tasks.spawn(async move { engine.tell_others(&stopped).await });
        let (engine, stopped) = (Arc::clone(self), stop.clone());
        tasks.spawn(async move { engine.hear_others(&stopped).await });
        let engine = Arc::clone(self);
        tasks.spawn(async move { engine.settle_doubts(&stop).await });
        Ok(())
    }

    /// The run that began last; 0 when there was none yet.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn newest_run(&self) -> Result<RunId, StoreError> {
        let filter = RunFilter { family: Family::All, limit: 1, ..RunFilter::default() };
        Ok(self.store.runs(&filter).await?.first().map_or(RunId(0), |run| run.id))
    }

    /// The ids of runs that have not ended: workspaces of others may go.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn open_runs(&self) -> Result<Vec<RunId>, StoreError> {
        let mut open = Vec::new();
        loop {
            let page = self.store.open_run_ids(open.last().copied().unwrap_or(RunId(0)), BATCH).await?;
            if page.is_empty() {
                return Ok(open);
            }
            open.extend(page);
        }
    }

    pub(super) async fn recover_runs(self: &Arc<Self>) -> Result<(), Refused> {
        for run in self.store.runs_with_inbox().await? {
            self.nudge(run);
        }
        let mut after = RunId(0);
        loop {
            let runs = self.store.open_runs(after, BATCH).await?;
            let Some(last) = runs.last() else { return Ok(()) };
            after = last.id;
            for run in runs {
                let definitions = match self.revision(&run.revision).await {
                    Ok(definitions) => Some(definitions),
                    Err(Refused::NotFound(_)) => None,
                    Err(error) => return Err(error),
                };
                let Some(workflow) =
                    definitions.and_then(|definitions| definitions.workflow_of(&run.workflow))
                else {
                    self.nudge(run.id); // It will be ended, and say why.
                    continue;
                };
                if !conductor::listens(&workflow, &run).is_empty() {
                    // Its waits may have been written just before the end, and never looked for.
                    let engine = Arc::clone(self);
                    self.moves.spawn(async move { engine.scan_for(run.id).await });
                }
            }
        }
    }

    /// Attempts of servers that are no longer there: their workers died with them. Those that had not begun are handed out again, the others are lost.
    pub(super) async fn recover_attempts(self: &Arc<Self>) -> Result<(), Refused> {
        let mut after = None;
        loop {
            let filter = AttemptFilter { left_behind: true, after, limit: BATCH, ..AttemptFilter::default() };
            let attempts = self.store.in_flight(&filter).await?;
            let Some(last) = attempts.last() else { return Ok(()) };
            after = Some(last.attempt.key.clone());
            for attempt in attempts {
                self.recover_attempt(attempt).await?;
            }
        }
    }

    /// Hands out again what this server was to hand out: what the worker has already, it does once.
    pub(super) async fn dispatch_own_again(self: &Arc<Self>) -> Result<(), Refused> {
        let mut after = None;
        loop {
            let of_boot = Some(self.node.boot.clone());
            let filter = AttemptFilter { of_boot, after, limit: BATCH, ..AttemptFilter::default() };
            let attempts = self.store.in_flight(&filter).await?;
            let Some(last) = attempts.last() else { return Ok(()) };
            after = Some(last.attempt.key.clone());
            for found in attempts.into_iter().filter(|found| found.state == AttemptState::Dispatched) {
                let secrets = self.secrets_of(&found.attempt).await;
                self.dispatch(Box::new(found.attempt), secrets).await;
            }
        }
    }

    async fn recover_attempt(self: &Arc<Self>, found: InFlight) -> Result<(), Refused> {
        let key = found.attempt.key.clone();
        if found.state == AttemptState::Dispatched {
            if self.store.attempt_taken_over(&key, &self.node.boot, self.clock.now()).await? {
                let secrets = self.secrets_of(&found.attempt).await;
                self.dispatch(Box::new(found.attempt), secrets).await;
            }
            return Ok(());
        }
        if self.workforce.is_elsewhere() && self.store.claim_of(&key).await?.is_some() {
            // Its worker has a process of its own, and goes on; beats say whether.
            self.remember_cancel(&key).await?;
            return Ok(());
        }
        let outcome = Outcome::failed(ErrorKind::Lost, "the server stopped while it was at work");
        self.finish_later(key, outcome);
        Ok(())
    }

    /// The names of all secrets that an attempt needs: those of its holes, and those of its action's own templates.
    pub(super) async fn secrets_of(&self, attempt: &Attempt) -> Vec<String> {
        let mut names = attempt.input.secrets();
        if let Ok(Some(revision)) = self.peek(attempt.key.run, |run| run.revision.clone()).await
            && let Ok(definitions) = self.revision(&revision).await
            && let Some(action) = definitions.actions.get(&attempt.action)
        {
            names.extend(action.secrets.iter().cloned());
        }
        names.sort();
        names.dedup();
        names
    }
}
