//! A step of a run: its state, and what it gave.

use serde::{Deserialize, Serialize};

use super::kept::Row;
use super::{AttemptKey, Each, Kept, RunError, RunId, StepKey, Timestamp};

/// Where a step stands, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    Pending,
    Queued,
    Running,
    Waiting,
    Succeeded,
    Failed,
    Rejected,
    Skipped,
    Cancelled,
    TimedOut,
    Lost,
    NotStarted,
}

impl StepStatus {
    /// Counts as a failure for what follows and for the run.
    pub fn is_failure(self) -> bool {
        matches!(self, StepStatus::Failed | StepStatus::TimedOut | StepStatus::Lost | StepStatus::Cancelled)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            StepStatus::Pending => "pending",
            StepStatus::Queued => "queued",
            StepStatus::Running => "running",
            StepStatus::Waiting => "waiting",
            StepStatus::Succeeded => "succeeded",
            StepStatus::Failed => "failed",
            StepStatus::Rejected => "rejected",
            StepStatus::Skipped => "skipped",
            StepStatus::Cancelled => "cancelled",
            StepStatus::TimedOut => "timed_out",
            StepStatus::Lost => "lost",
            StepStatus::NotStarted => "not_started",
        }
    }
}

impl std::fmt::Display for StepStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a step is doing, with what that needs and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    Pending,
    /// It waits for a lock, or has it and has not begun yet.
    Locking {
        lock: String,
        since: Timestamp,
        #[serde(default)]
        taken: bool,
    },
    /// Values of the KV store are being read for it.
    Reading,
    /// It may start when its window opens.
    Closed {
        window: String,
        since: Timestamp,
        until: Option<Timestamp>,
    },
    /// A person holds what it is about.
    Held {
        since: Timestamp,
    },
    /// A group, while its steps are at work. `broken`: one of them failed, and no other starts.
    Open {
        #[serde(default)]
        broken: bool,
        /// It was let in after the run had failed, so that this keeps none of its steps back.
        #[serde(default)]
        late: bool,
    },
    /// Its items are at work.
    Each(Each),
    /// Attempt `number` was handed to dispatch.
    Attempting {
        number: u32,
    },
    /// Attempt `number` starts at `at`.
    Retrying {
        number: u32,
        at: Timestamp,
    },
    /// Attempt `number`, the next repetition, starts at `at`: `until` was not true yet.
    Repeating {
        number: u32,
        at: Timestamp,
    },
    /// A child run works for it; `None` until the child is there.
    Child {
        run: Option<RunId>,
    },
    /// People are asked. `remind` is when those who have not answered are asked again.
    Approving {
        expires_at: Timestamp,
        #[serde(default)]
        remind: Option<Timestamp>,
    },
    /// An event is waited for. `poll` is when the next poll for the same thing starts, `polling` the number of the one at work.
    WaitingFor {
        expires_at: Timestamp,
        #[serde(default)]
        poll: Option<Timestamp>,
        #[serde(default)]
        polling: Option<u32>,
    },
    /// Time passes under watch. `check` is when the next check starts, `checking` the number of the one at work.
    Watching {
        until: Timestamp,
        check: Option<Timestamp>,
        checking: Option<u32>,
        checks: u32,
        unhealthy: u32,
    },
    Sleeping {
        until: Timestamp,
    },
    Ended(StepStatus),
}

impl StepState {
    pub fn status(&self) -> StepStatus {
        match self {
            StepState::Pending => StepStatus::Pending,
            StepState::Locking { .. } | StepState::Reading => StepStatus::Queued,
            StepState::Attempting { .. }
            | StepState::Child { .. }
            | StepState::Open { .. }
            | StepState::Each(_) => StepStatus::Running,
            StepState::Closed { .. } | StepState::Held { .. } => StepStatus::Waiting,
            StepState::Retrying { .. }
            | StepState::Repeating { .. }
            | StepState::Approving { .. }
            | StepState::WaitingFor { .. }
            | StepState::Watching { .. }
            | StepState::Sleeping { .. } => StepStatus::Waiting,
            StepState::Ended(status) => *status,
        }
    }

    /// The number of the attempt that is at work for it.
    pub fn attempt(&self) -> Option<u32> {
        match self {
            StepState::Attempting { number, .. } => Some(*number),
            StepState::Watching { checking: at_work, .. }
            | StepState::WaitingFor { polling: at_work, .. } => *at_work,
            _ => None,
        }
    }

    /// When time alone moves it. A paused run starts nothing, so what it would start does not wake it, or it would wake for ever.
    pub fn wakes_at(&self, paused: bool) -> Option<Timestamp> {
        match self {
            StepState::Retrying { at, .. } | StepState::Repeating { at, .. } => Some(*at).filter(|_| !paused),
            StepState::Approving { expires_at, remind } => {
                Some(remind.map_or(*expires_at, |at| at.min(*expires_at)))
            }
            StepState::Closed { until, .. } => until.filter(|_| !paused),
            StepState::WaitingFor { expires_at, poll, polling } => {
                let poll = poll.filter(|_| polling.is_none() && !paused);
                Some(poll.map_or(*expires_at, |at| at.min(*expires_at)))
            }
            // A check that falls due while the run is paused is made when it is resumed: the watch does not end without it.
            StepState::Watching { check: Some(_), checking: None, .. } if paused => None,
            StepState::Sleeping { until } => Some(*until),
            // While a check is at work, its end moves the step.
            StepState::Watching { checking: Some(_), .. } => None,
            StepState::Watching { until, check, .. } => Some(check.map_or(*until, |at| at.min(*until))),
            StepState::Pending
            | StepState::Locking { .. }
            | StepState::Reading
            | StepState::Held { .. }
            | StepState::Open { .. }
            | StepState::Each(_)
            | StepState::Attempting { .. }
            | StepState::Child { .. }
            | StepState::Ended(_) => None,
        }
    }
}

/// One step of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub state: StepState,
    /// How often the node was entered.
    #[serde(default)]
    pub visit: u32,
    /// Attempts begun, the first included.
    #[serde(default)]
    pub attempts: u32,
    /// How many of them were lost and begun again by themselves.
    #[serde(default)]
    pub lost: u32,
    /// How many of them succeeded and were repeated, since `until` was not true yet.
    #[serde(default)]
    pub repeats: u32,
    /// It was asked to end, and its attempt or child may not know yet.
    #[serde(default)]
    pub stopped: bool,
    /// Null until it succeeded.
    #[serde(default)]
    pub output: Kept,
    /// The outputs that its attempts reported so far, whatever came of them: what an undo reads.
    #[serde(default)]
    pub reported: Kept,
    /// What `read` bound: its own names and their values.
    #[serde(default)]
    pub bound: Kept,
    /// The worker that did its last attempt.
    #[serde(default)]
    pub worker: Option<String>,
    #[serde(default)]
    pub error: Option<RunError>,
    /// It is done once for each item of a list.
    #[serde(default)]
    pub has_items: bool,
    /// A remark for people: why an undo had nothing to do, which condition erred.
    #[serde(default)]
    pub note: Option<String>,
    /// The lock that it has or had while it was at work.
    #[serde(default)]
    pub lock: Option<String>,
    /// The run that worked for it, once that has ended.
    #[serde(default)]
    pub child: Option<RunId>,
    /// The run that really did it, when this one was copied: by a rerun that keeps it, by a rollback.
    #[serde(default)]
    pub kept_from: Option<RunId>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// Its place in the order of starts, from 1; 0 when it never began.
    #[serde(default)]
    pub order: u32,
}

impl Step {
    pub fn pending() -> Step {
        Step {
            state: StepState::Pending,
            visit: 0,
            attempts: 0,
            lost: 0,
            stopped: false,
            repeats: 0,
            output: Kept::default(),
            reported: Kept::default(),
            bound: Kept::default(),
            worker: None,
            error: None,
            has_items: false,
            note: None,
            lock: None,
            child: None,
            kept_from: None,
            started_at: None,
            finished_at: None,
            order: 0,
        }
    }

    /// The value whose row is called `part`.
    pub fn value_mut(&mut self, part: &str) -> Option<&mut Kept> {
        match part {
            "output" => Some(&mut self.output),
            "reported" => Some(&mut self.reported),
            "bound" => Some(&mut self.bound),
            _ => None,
        }
    }

    /// A copy for another run: none of its values is stored yet.
    pub fn renew(&mut self) {
        for kept in [&mut self.output, &mut self.reported, &mut self.bound] {
            *kept = Kept::new(kept.shared());
        }
    }

    pub fn status(&self) -> StepStatus {
        self.state.status()
    }

    /// Whether `key`, an attempt of this step, is the one at work for it now: neither late nor doubled.
    pub fn is_doing(&self, key: &AttemptKey) -> bool {
        self.visit == key.visit && self.state.attempt() == Some(key.number)
    }

    /// The rows that its values need, when its key is `key`.
    pub(super) fn add_rows<'a>(&'a self, key: StepKey<'_>, rows: &mut Vec<(String, Row<'a>)>) {
        for (part, kept) in [("output", &self.output), ("reported", &self.reported), ("bound", &self.bound)] {
            rows.extend(kept.row().map(|row| (format!("{key}:{part}"), row)));
        }
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.state, StepState::Ended(_))
    }
}
