//! A question to people that a run waits on, and the votes on it.

use serde::{Deserialize, Serialize};

use super::{ApprovalId, RunId, Timestamp, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalStatus {
    Waiting,
    Approved,
    Rejected,
    Expired,
    /// The run no longer asks: it was cancelled, or failed elsewhere.
    Withdrawn,
}

/// What a run asks, before the store gives it a number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    pub step: String,
    pub ask: String,
    /// Roles or users, exactly these.
    pub of: Vec<String>,
    /// How many have to agree.
    pub count: u32,
    /// People who may not decide.
    pub distinct_from: Vec<String>,
    /// What the card shows.
    pub show: Value,
    /// A schema of what to answer; null when nothing is asked for.
    pub fields: Value,
    /// What people should know before they decide: a starter that no user is linked to, say.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The undos as they would be done, were the run to fail later.
    #[serde(default)]
    pub undos: Vec<Value>,
    pub expires_at: Timestamp,
}

/// An asked question with its votes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Approval {
    pub id: ApprovalId,
    pub run: RunId,
    #[serde(flatten)]
    pub question: Question,
    pub votes: Vec<Vote>,
    pub status: ApprovalStatus,
    pub asked_at: Timestamp,
}

/// What one person said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vote {
    pub by: String,
    pub yes: bool,
    #[serde(default)]
    pub comment: Option<String>,
    #[serde(default)]
    pub answers: Value,
    pub at: Timestamp,
}

/// Why a vote does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("this was decided already: {0}")]
    Decided(&'static str),
    #[error("{by} has voted already; {missing} more to agree")]
    Twice { by: String, missing: usize },
    #[error("{by} may not decide this: it is for {of}")]
    NotAsked { by: String, of: String },
    #[error("{by} may not decide this: nobody approves their own run")]
    TooClose { by: String },
}

impl Approval {
    /// Adds a vote of `by`, who has `roles`. What it decides, if it decides, is the new `status`.
    ///
    /// # Errors
    /// The approval is decided, or `by` may not vote or has voted.
    pub fn vote(&mut self, vote: Vote, roles: &[String]) -> Result<(), Refusal> {
        if self.status != ApprovalStatus::Waiting {
            return Err(Refusal::Decided(self.status.as_str()));
        }
        let asked = |name: &String| *name == vote.by || roles.contains(name);
        if !self.question.of.iter().any(asked) {
            return Err(Refusal::NotAsked { by: vote.by, of: self.question.of.join(", ") });
        }
        if self.question.distinct_from.contains(&vote.by) {
            return Err(Refusal::TooClose { by: vote.by });
        }
        let needed = usize::try_from(self.question.count).unwrap_or(usize::MAX).max(1);
        if self.votes.iter().any(|earlier| earlier.by == vote.by) {
            return Err(Refusal::Twice { by: vote.by, missing: needed.saturating_sub(self.votes.len()) });
        }
        if !vote.yes {
            self.status = ApprovalStatus::Rejected;
        } else if self.votes.len() + 1 >= needed {
            self.status = ApprovalStatus::Approved;
        }
        self.votes.push(vote);
        Ok(())
    }
}

impl ApprovalStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            ApprovalStatus::Waiting => "waiting",
            ApprovalStatus::Approved => "approved",
            ApprovalStatus::Rejected => "rejected",
            ApprovalStatus::Expired => "expired",
            ApprovalStatus::Withdrawn => "withdrawn",
        }
    }
}
