//! What a run causes: sorted into what is written with it and what is done once it is written, and then done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::conductor::{self, Effect, Input, Start};
use crate::definitions::Definitions;
use crate::dispatch::{Dispatched, Order};
use crate::model::approval::ApprovalStatus;
use crate::model::event::NewEvent;
use crate::model::run::Parent;
use crate::model::{
    Actor, Attempt, AttemptKey, ErrorKind, Outcome, Run, RunId, RunStatus, Secret, Timestamp,
};
use crate::store::{AddedEvent, Advance, NewRun};

use super::driver::Move;
use super::posted::Posted;
use super::{Change, Engine, Refused, driver};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is done in the world, after the commit.
#[derive(Debug)]
pub(super) enum Act {
    Dispatch {
        attempt: Box<Attempt>,
        secrets: Vec<String>,
    },
    CancelAttempt(AttemptKey),
    /// Another run has something in its inbox.
    Nudge(RunId),
    Approvals,
}

/// Splits effects into the transaction and what comes after it.
pub(super) fn sort(
    engine: &Engine,
    definitions: &Definitions,
    run: Run,
    effects: Vec<Effect>,
    rollbacks: Vec<Run>,
    now: Timestamp,
) -> (Advance, Vec<Act>) {
    let mut acts = Vec::new();
    let mut advance = Advance::of(run, now);
    advance.boot.clone_from(&engine.boot);
    advance.lock_taken = |step| Posted::LockTaken { step: step.to_owned() }.stored();
    let rollbacks = rollbacks.into_iter().map(|run| NewRun::with_input(run, Posted::Started.stored()));
    advance.children.extend(rollbacks);
    for effect in effects {
        match effect {
            // Its run is among `rollbacks`.
            Effect::StartRollback { .. } => (),
            Effect::Dispatch { attempt, secrets } => {
                advance.attempts.push((*attempt).clone());
                acts.push(Act::Dispatch { attempt, secrets });
            }
            Effect::CancelAttempt { key } => acts.push(Act::CancelAttempt(key)),
            Effect::TakeLock { step, lock } => advance.locks.push((step, lock)),
            Effect::FreeLock { step } => advance.freed.push(step),
            Effect::Ask { question } => {
                advance.questions.push(question);
                acts.push(Act::Approvals);
            }
            Effect::Withdraw { step, expired } => {
                let status = if expired { ApprovalStatus::Expired } else { ApprovalStatus::Withdrawn };
                advance.settled.push((step, status));
                acts.push(Act::Approvals);
            }
            Effect::StartChild { step, visit, workflow, input } => {
                let Some(workflow) = definitions.workflow_of(&workflow) else { continue };
                let parent = Parent { run: advance.run.id, step, visit };
                let start = Start {
                    revision: definitions.revision.clone(),
                    input,
                    started_by: advance.run.started_by.clone(),
                    event: advance.run.event,
                    rule: advance.run.rule.clone(),
                    parent: Some(parent),
                    depth: advance.run.depth + 1,
                };
                let child = conductor::new_run(&workflow, start, now);
                let mut child = NewRun::with_input(child, Posted::Started.stored());
                // The child is not there yet for what its parent may have been told in the same turn.
                let by = Actor::Run { id: advance.run.id };
                if advance.run.verdict == Some(RunStatus::Cancelled) {
                    child.inputs.push(Posted::Cancel { by }.stored());
                } else if advance.run.paused {
                    child.inputs.push(Posted::Pause { by }.stored());
                }
                advance.children.push(child);
            }
            Effect::CancelChild { run: child } => {
                tell_child(&mut advance, &mut acts, child, |by| Posted::Cancel { by })
            }
            Effect::PauseChild { run: child } => {
                tell_child(&mut advance, &mut acts, child, |by| Posted::Pause { by })
            }
            Effect::ResumeChild { run: child } => {
                tell_child(&mut advance, &mut acts, child, |by| Posted::Resume { by })
            }
            Effect::Emit { trigger, payload, dedup } => advance.events.push(NewEvent {
                trigger,
                source: format!("run {}", advance.run.id),
                payload: Arc::new(payload),
                dedup: Some(dedup),
                replay_of: None,
            }),
            Effect::TellParent { parent, status, output, error } => {
                let run = advance.run.id;
                let posted = Posted::ChildEnded { step: parent.step, run, status, output, error };
                advance.inputs.push((parent.run, posted.stored()));
                acts.push(Act::Nudge(parent.run));
            }
            Effect::Note(entry) => advance.history.push(driver::history(entry)),
        }
    }
    (advance, acts)
}

/// Puts what a parent says into its child's inbox.
fn tell_child(advance: &mut Advance, acts: &mut Vec<Act>, child: RunId, what: impl Fn(Actor) -> Posted) {
    let by = Actor::Run { id: advance.run.id };
    advance.inputs.push((child, what(by).stored()));
    acts.push(Act::Nudge(child));
}

impl Engine {
    pub(super) async fn act(
        self: &Arc<Self>,
        run: RunId,
        acts: Vec<Act>,
        children: &[RunId],
        events: &[AddedEvent],
    ) {
        for act in acts {
            match act {
                Act::Dispatch { attempt, secrets } => self.dispatch(attempt, secrets).await,
                Act::CancelAttempt(key) => self.order(Order::Cancel(key)).await,
                Act::Nudge(other) => self.nudge(other),
                Act::Approvals => self.changed(Change::Approval(run)),
            }
        }
        for child in children {
            self.nudge(*child);
        }
        for event in events {
            self.changed(Change::Event(event.id));
            self.routable.notify_one();
        }
    }

    /// Has a run take its inbox, in a task of its own. What lies there is stored, so a store that fails is asked again until it answers.
    pub(super) fn nudge(self: &Arc<Self>, run: RunId) {
        self.insist(run, Vec::new(), true);
    }

    /// Hands an attempt to a worker with the secrets that it needs; one that is not set fails it at once.
    pub(super) async fn dispatch(self: &Arc<Self>, attempt: Box<Attempt>, names: Vec<String>) {
        let mut secrets: BTreeMap<String, Secret> = BTreeMap::new();
        for name in names {
            match self.secrets.get(&name).await {
                Ok(Some(secret)) => drop(secrets.insert(name, secret)),
                Ok(None) => {
                    let why =
                        format!("the secret `{name}` is not set; set it with: siskin secret set {name}");
                    return self.finish_later(attempt.key, Outcome::failed(ErrorKind::Failed, why));
                }
                Err(error) => {
                    let why = format!("the secret `{name}` can't be read: {error}");
                    return self.finish_later(attempt.key, Outcome::failed(ErrorKind::Failed, why));
                }
            }
        }
        self.order(Order::Do(Box::new(Dispatched { attempt: *attempt, secrets }))).await;
    }

    async fn order(&self, order: Order) {
        if self.orders.send(order).await.is_err() {
            tracing::debug!("the worker has stopped; its attempts begin again at the next start");
        }
    }

    /// Reports an outcome from outside the run's own turn.
    pub(super) fn finish_later(self: &Arc<Self>, key: AttemptKey, outcome: Outcome) {
        self.insist(key.run, vec![Input::AttemptFinished { key, outcome }], false);
    }

    /// Gives a run inputs in a task of its own, again and again while the store fails: nothing that happened is forgotten because a disk was full. Inputs
    /// that the store can never keep end the run, which says so.
    fn insist(self: &Arc<Self>, run: RunId, inputs: Vec<Input>, inbox: bool) {
        let engine = Arc::clone(self);
        let moving: BoxFuture<'static, ()> = Box::pin(async move {
            let mut pause = FIRST_PAUSE;
            let mut give_up = None;
            loop {
                let wanted =
                    Move { inputs: inputs.clone(), inbox, give_up: give_up.clone(), ..Move::default() };
                match engine.drive(run, wanted).await {
                    Ok(_) => return,
                    Err(Refused::Store(error)) if error.is_final() && give_up.is_none() => {
                        tracing::error!(%run, %error, "what a run did can't be stored; it ends");
                        give_up = Some(error.to_string());
                        continue;
                    }
                    Err(Refused::Store(error)) => {
                        tracing::error!(%run, %error, "a run can't move while the store fails; trying again in {pause:?}");
                    }
                    Err(error) => return tracing::error!(%run, %error, "a run can't move"),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
        self.moves.spawn(moving);
    }

    /// Does `work` to its end, whoever waits for it: who asked may hang up at any moment, and what is stored must be acted on.
    pub(super) async fn to_the_end<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, Refused>> + Send + 'static,
    ) -> Result<T, Refused> {
        match self.moves.spawn(work).await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
