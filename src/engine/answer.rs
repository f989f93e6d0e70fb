//! Approve and reject: counts a vote, and tells the run what it decided.

use std::sync::Arc;

use serde_json::json;

use crate::model::approval::{ApprovalStatus, Refusal, Vote};
use crate::model::{Approval, ApprovalId};
use crate::store::StoreError;

use super::posted::Posted;
use super::{Answer, Caller, Change, Engine, Refused};

/// How often a vote is counted anew because another came in between.
const TRIES: usize = 8;

impl Engine {
    /// Counts an answer of `caller`.
    ///
    /// # Errors
    /// There is no such approval; it is decided; `caller` may not decide it; the answers do not fit its fields.
    pub async fn answer(
        self: &Arc<Self>,
        id: ApprovalId,
        answer: Answer,
        caller: &Caller,
    ) -> Result<Approval, Refused> {
        let Some(by) = caller.actor.person() else {
            return Err(Refused::Forbidden(format!("{} is no person, and only people decide", caller.actor)));
        };
        let (engine, by, caller) = (Arc::clone(self), by.to_owned(), caller.clone());
        self.to_the_end(async move {
            for _ in 0..TRIES {
                match engine.try_answer(id, &answer, &by, &caller).await {
                    Err(Refused::Store(StoreError::Conflict(_))) => continue,
                    other => return other,
                }
            }
            Err(Refused::Busy(1))
        })
        .await
    }

    async fn try_answer(
        self: &Arc<Self>,
        id: ApprovalId,
        answer: &Answer,
        by: &str,
        caller: &Caller,
    ) -> Result<Approval, Refused> {
        let Some(mut stored) = self.store.approval(id).await? else {
            return Err(Refused::NotFound(format!("there is no approval {id}")));
        };
        let accepted = self.accept_answers(&stored.approval, answer);
        let answers = accepted.as_ref().ok().cloned().unwrap_or_default();
        let vote = Vote {
            by: by.to_owned(),
            yes: answer.yes,
            comment: answer.comment.clone(),
            answers: answers.clone(),
            at: self.clock.now(),
        };
        // Who may not decide hears that, whatever they answered.
        if let Err(refusal) = stored.approval.vote(vote, &caller.roles) {
            self.record_refusal(id, &refusal, caller).await?;
            return Err(match refusal {
                Refusal::Decided(_) | Refusal::Twice { .. } => Refused::Conflict(refusal.to_string()),
                Refusal::NotAsked { .. } | Refusal::TooClose { .. } => {
                    Refused::Forbidden(refusal.to_string())
                }
            });
        }
        accepted?;
        let approval = stored.approval.clone();
        let step = approval.question.step.clone();
        let comment = answer.comment.clone();
        let posted = match approval.status {
            ApprovalStatus::Approved => {
                let agreed =
                    approval.votes.iter().filter(|vote| vote.yes).map(|vote| vote.by.clone()).collect();
                Some(Posted::Approved { step, by: agreed, comment, answers })
            }
            ApprovalStatus::Rejected => Some(Posted::Rejected { step, by: by.to_owned(), comment }),
            _ => None,
        };
        let act = if answer.yes { "approval.approve" } else { "approval.reject" };
        let details = json!({"run": approval.run, "comment": answer.comment});
        let audit = self.audit(caller, act, format!("approval {id}"), details);
        let input = posted.map(|posted| posted.stored());
        self.store.save_votes(&stored, input.as_ref(), audit, self.clock.now()).await?;
        self.changed(Change::Approval(approval.run));
        if input.is_some() {
            self.nudge(approval.run); // The vote counts, whatever becomes of the run now.
        }
        Ok(approval)
    }

    /// A refused vote is an act that people will ask about.
    async fn record_refusal(
        &self,
        id: ApprovalId,
        refusal: &Refusal,
        caller: &Caller,
    ) -> Result<(), StoreError> {
        let details = json!({"why": refusal.to_string()});
        self.store
            .add_audit(self.audit(caller, "approval.refused", format!("approval {id}"), details))
            .await?;
        Ok(())
    }

    fn accept_answers(&self, approval: &Approval, answer: &Answer) -> Result<crate::model::Value, Refused> {
        if !answer.yes {
            return Ok(crate::model::Value::Null);
        }
        crate::definitions::answers::accept_answers(&approval.question.fields, &answer.answers)
            .map_err(Refused::Invalid)
    }
}
