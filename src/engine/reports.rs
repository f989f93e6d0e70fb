//! What workers say: claims, lines of output, outputs so far, outcomes, questions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::conductor::Input;
use crate::dispatch::{Report, Verdict};
use crate::model::worker::Claimant;
use crate::model::{AttemptKey, ErrorKind, Outcome, Run, Timestamp};
use crate::store::{LogChunk, StoreError};

use super::driver::Move;
use super::{Change, Engine, lock};

/// How many reports are taken at once.
const BATCH: usize = 256;
/// How long to wait before a claim is tried again.
const AGAIN: Duration = Duration::from_millis(500);

impl Engine {
    /// Takes reports until every worker has gone, and what they said has moved its runs.
    pub(super) async fn take_reports(self: &Arc<Self>, mut reports: mpsc::Receiver<Report>) {
        let mut batch = Vec::with_capacity(BATCH);
        while reports.recv_many(&mut batch, BATCH).await > 0 {
            // Lines are stored before the outcomes that came after them, so that whoever sees the end sees all of it.
            let mut chunks = Vec::new();
            let (mut others, mut kept) = (Vec::new(), Vec::new());
            for report in batch.drain(..) {
                match report {
                    Report::Log { key, stream, bytes, stored } => {
                        chunks.push(LogChunk { key, stream, at: self.clock.now(), bytes });
                        kept.extend(stored);
                    }
                    other => others.push(other),
                }
            }
            if !chunks.is_empty() {
                self.keep_log(chunks).await;
            }
            for stored in kept {
                stored.send(()).ok(); // Who is gone says it again.
            }
            for report in others {
                self.take_report(report);
            }
        }
        self.moves.close();
        self.moves.wait().await;
    }

    async fn keep_log(&self, chunks: Vec<LogChunk>) {
        let mut runs: Vec<_> = chunks.iter().map(|chunk| chunk.key.run).collect();
        runs.dedup();
        // Reports wait meanwhile: a full disk holds actions up rather than lose what they print.
        while let Err(error) = self.store.append_log(chunks.clone()).await {
            tracing::error!(%error, "lines of output can't be stored; trying again");
            tokio::time::sleep(AGAIN).await;
        }
        for run in runs {
            self.changed(Change::Log(run));
        }
    }

    /// Each in a task of its own: a run that is slow to move holds up no other.
    fn take_report(self: &Arc<Self>, report: Report) {
        let engine = Arc::clone(self);
        self.moves.spawn(async move {
            match report {
                Report::Log { .. } => (),
                Report::Claim { key, by, go } => {
                    let verdict = engine.claim(&key, &by).await;
                    go.send(verdict).ok(); // A worker that is gone does nothing.
                }
                Report::Progress { key, output, stored } => {
                    let run = key.run;
                    let input = Input::AttemptReported { key, output };
                    // A dropped `stored` tells the attempt that an undo would not know: it must not go on.
                    match engine.drive(run, Move::of(input)).await {
                        Ok(_) => stored.map_or((), |stored| stored.send(()).unwrap_or_default()),
                        Err(error) => tracing::error!(%run, %error, "outputs so far could not be stored"),
                    }
                }
                Report::Finished { key, worker, outcome, stored } => {
                    let outcome = engine.cluster.ended(&key, outcome);
                    engine.finish(key, outcome, Some(worker), stored);
                }
                Report::Question { key, request, answer } => {
                    let reply = engine.answer_worker(&key, request).await;
                    answer.send(reply).ok();
                }
            }
        });
    }

    /// Whether a worker may begin an attempt: its run still wants it, and the claim is on disk.
    async fn claim(self: &Arc<Self>, key: &AttemptKey, by: &Claimant) -> Verdict {
        let at = self.clock.now();
        let mut again = false;
        loop {
            match self.try_claim(key, by, at, again).await {
                Ok(verdict) => {
                    if by.session.is_none() && matches!(verdict, Verdict::Go(_)) {
                        self.cluster.begun(key);
                    }
                    return verdict;
                }
                Err(error) => {
                    tracing::error!(attempt = %key, %error, "a claim can't be stored; trying again")
                }
            }
            again = true;
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// `again`: it was tried at this moment before, and nobody knows what came of it.
    async fn try_claim(
        self: &Arc<Self>,
        key: &AttemptKey,
        by: &Claimant,
        at: Timestamp,
        again: bool,
    ) -> Result<Verdict, StoreError> {
        let boot = &self.node.boot;
        let mut seen = self.peek(key.run, |run| standing(run, key)).await?;
        if self.workforce.is_elsewhere() && !matches!(seen, Some(Standing::Wanted)) {
            // Another server may have moved the run since this one did.
            seen = self.store.run(key.run).await?.map(|run| standing(&run, key));
        }
        match seen {
            Some(Standing::Wanted) => match &by.session {
                None if again && self.store.attempt_was_started(key, boot, at).await? => {
                    Ok(Verdict::Go(BTreeMap::new()))
                }
                None if self.store.attempt_started(key, boot, at).await? => Ok(Verdict::Go(BTreeMap::new())),
                Some(session) => self.grant(key, &by.worker, session).await,
                None => Ok(Verdict::No),
            },
            Some(Standing::Ending) => {
                // Whoever gets it from here on may not begin; and it never began, so nobody else will say that it ended.
                if self.store.attempt_started(key, boot, self.clock.now()).await? {
                    let why = "cancelled before it began";
                    self.finish_later(key.clone(), Outcome::failed(ErrorKind::Cancelled, why));
                }
                Ok(Verdict::No)
            }
            Some(Standing::Over) | None => {
                // Nobody asks for it any more; its record goes.
                self.store.forget_attempt(key).await?;
                Ok(Verdict::No)
            }
        }
    }

    /// Whether the run of an attempt that is being done still wants it.
    pub(super) async fn is_wanted(&self, key: &AttemptKey) -> Result<bool, StoreError> {
        Ok(matches!(self.peek(key.run, |run| standing(run, key)).await?, Some(Standing::Wanted)))
    }

    /// Switches a rule off or on for the router; what people said is in the store.
    pub(super) fn remember_disabled(&self, rule: &str, disabled: bool, why: Option<String>) {
        let mut rules = lock(&self.disabled);
        if disabled {
            rules.insert(rule.to_owned(), why);
        } else {
            rules.remove(rule);
        }
    }
}

/// What an attempt is to its run.
pub(super) enum Standing {
    Wanted,
    /// The run is being ended, and waits for this attempt to end.
    Ending,
    /// The run does something else by now.
    Over,
}

pub(super) fn standing(run: &Run, key: &AttemptKey) -> Standing {
    let Some(step) = run.step(&key.step_key()) else { return Standing::Over };
    if !step.is_doing(key) {
        return Standing::Over;
    }
    if step.stopped { Standing::Ending } else { Standing::Wanted }
}
