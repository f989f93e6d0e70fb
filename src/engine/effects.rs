//! What a run causes: sorted into what is written with it and what is done once it is written, and then done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::conductor::{self, Effect, Input, Start};
use crate::definitions::Definitions;
use crate::dispatch::{Dispatched, Order, Stored};
use crate::model::approval::ApprovalStatus;
use crate::model::event::NewEvent;
use crate::model::run::Parent;
use crate::model::{
    Actor, Attempt, AttemptKey, ErrorKind, Outcome, Run, RunId, RunStatus, Secret, Timestamp,
};
use crate::store::{AddedEvent, Advance, NewRun};

use super::driver::Move;
use super::posted::Posted;
use super::workers::Way;
use super::{Change, Engine, Refused, driver, posted};

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
    advance.boot.clone_from(&engine.node.boot);
    advance.words = posted::WORDS;
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
            Effect::StartChild { step, visit, workflow, input, outer } => {
                let Some(workflow) = definitions.workflow_of(&workflow) else { continue };
                let step_key = step.clone();
                let parent = Parent { run: advance.run.id, step, visit };
                let start = Start {
                    revision: definitions.revision.clone(),
                    input,
                    started_by: advance.run.started_by.clone(),
                    event: advance.run.event,
                    rule: advance.run.rule.clone(),
                    parent: Some(parent),
                    depth: advance.run.depth + 1,
                    outer: outer.map(|outer| *outer),
                };
                let child = conductor::new_run(&workflow, start, now);
                let mut child = match engine.to_begin(definitions, &workflow, child.clone()) {
                    Ok(child) => child,
                    Err(error) => {
                        NewRun::with_input(child, Posted::Refused { why: error.to_string() }.stored())
                    }
                };
                // The child is not there yet for what its parent may have been told in the same turn.
                let by = Actor::Run { id: advance.run.id };
                let stopped = advance.run.step(&step_key).is_some_and(|step| step.stopped);
                if stopped || advance.run.verdict == Some(RunStatus::Cancelled) {
                    child.inputs.push(Posted::Cancel { by }.stored());
                } else if advance.run.paused {
                    child.inputs.push(Posted::Pause { by }.stored());
                }
                // Before it begins: what somebody let pass is let pass in its children too.
                if let Some(force) = &advance.run.forced {
                    let force = Posted::Force { by: force.by.clone(), why: force.why.clone() };
                    child.inputs.insert(0, force.stored());
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
            Effect::ForceChild { run: child, by, why } => tell_child(&mut advance, &mut acts, child, |_| {
                Posted::Force { by: by.clone(), why: why.clone() }
            }),
            Effect::Read { step, keys } => advance.reads.push((step, keys)),
            Effect::Remind { .. } => acts.push(Act::Approvals),
            Effect::Emit { trigger, payload, dedup } => advance.events.push(NewEvent {
                trigger,
                source: format!("run {}", advance.run.id),
                payload: Arc::new(payload),
                dedup: Some(dedup),
                replay_of: None,
            }),
            Effect::TellParent { parent, status, output, error } => {
                let run = advance.run.id;
                let output = (*output).clone();
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
fn tell_child(advance: &mut Advance, acts: &mut Vec<Act>, child: RunId, what: impl FnOnce(Actor) -> Posted) {
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
                Act::CancelAttempt(key) => self.cancel_attempt(key).await,
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

    /// Has a worker do an attempt, or lets it wait where none may.
    pub(super) async fn dispatch(self: &Arc<Self>, mut attempt: Box<Attempt>, names: Vec<String>) {
        match self.workforce.way(&attempt, self.clock.now()) {
            Way::Pool => (),
            Way::Worker(worker) => attempt.route.worker = Some(worker),
            Way::Wait => return,
            Way::Gone(why) => {
                return self.finish_later(attempt.key, Outcome::failed(ErrorKind::Lost, why));
            }
        }
        let mut secrets = BTreeMap::new();
        if !self.workforce.is_elsewhere() {
            match self.read_secrets(names).await {
                Ok(read) => secrets = read,
                Err(why) => {
                    return self.finish_later(attempt.key, Outcome::failed(ErrorKind::Failed, why));
                }
            }
        }
        self.order(Order::Do(Box::new(Dispatched { attempt: *attempt, secrets }))).await;
    }

    /// The secrets that an attempt needs; one that is not set fails it.
    pub(super) async fn read_secrets(&self, names: Vec<String>) -> Result<BTreeMap<String, Secret>, String> {
        let mut secrets = BTreeMap::new();
        for name in names {
            match self.secrets.get(&name).await {
                Ok(Some(secret)) => drop(secrets.insert(name, secret)),
                Ok(None) => {
                    return Err(format!(
                        "the secret `{name}` is not set; set it with: siskin secret set {name}"
                    ));
                }
                Err(error) => return Err(format!("the secret `{name}` can't be read: {error}")),
            }
        }
        Ok(secrets)
    }

    pub(super) async fn order(&self, order: Order) {
        if self.orders.send(order).await.is_err() {
            tracing::debug!("the worker has stopped; its attempts begin again at the next start");
        }
    }

    /// Reports an outcome from outside the run's own turn.
    pub(super) fn finish_later(self: &Arc<Self>, key: AttemptKey, outcome: Outcome) {
        self.finish(key, outcome, None, None);
    }

    /// As `finish_later`, for what a worker did; `stored` is told once it is on disk.
    pub(super) fn finish(
        self: &Arc<Self>,
        key: AttemptKey,
        outcome: Outcome,
        worker: Option<String>,
        stored: Option<Stored>,
    ) {
        let run = key.run;
        self.insist_telling(run, vec![Input::AttemptFinished { key, outcome, worker }], false, stored);
    }

    /// Gives a run inputs in a task of its own, again and again while the store fails: nothing that happened is forgotten because a disk was full. Inputs
    /// that the store can never keep end the run, which says so.
    pub(super) fn insist(self: &Arc<Self>, run: RunId, inputs: Vec<Input>, inbox: bool) {
        self.insist_telling(run, inputs, inbox, None);
    }

    fn insist_telling(self: &Arc<Self>, run: RunId, inputs: Vec<Input>, inbox: bool, stored: Option<Stored>) {
        let engine = Arc::clone(self);
        let tell = |stored: Option<Stored>| stored.map_or((), |stored| stored.send(()).unwrap_or_default());
        let moving: BoxFuture<'static, ()> = Box::pin(async move {
            let mut pause = FIRST_PAUSE;
            let mut give_up = None;
            loop {
                let wanted =
                    Move { inputs: inputs.clone(), inbox, give_up: give_up.clone(), ..Move::default() };
                match engine.drive(run, wanted).await {
                    Ok(_) => return tell(stored),
                    Err(Refused::Store(error)) if error.is_final() && give_up.is_none() => {
                        tracing::error!(%run, %error, "what a run did can't be stored; it ends");
                        give_up = Some(error.to_string());
                        continue;
                    }
                    Err(Refused::Store(error)) => {
                        tracing::error!(%run, %error, "a run can't move while the store fails; trying again in {pause:?}");
                    }
                    Err(error) => {
                        tracing::error!(%run, %error, "a run can't move");
                        return tell(stored); // Saying it again would change nothing.
                    }
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
