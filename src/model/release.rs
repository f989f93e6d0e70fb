//! What was put where: a deployment is one putting of a version of an app on an environment.

use serde::{Deserialize, Serialize};

use super::{RunId, Timestamp};

/// One deployment, as the deploy actions record it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    pub id: i64,
    pub app: String,
    pub environment: String,
    pub version: String,
    /// What the environment was to hold before: what a restore goes back to.
    pub previous: Option<String>,
    pub run: Option<RunId>,
    pub status: DeploymentStatus,
    pub started_at: Timestamp,
    /// When it was done, or failed, the last time: a roll that is tried again ends again.
    pub finished_at: Option<Timestamp>,
    /// When it was done: known also when it was taken back since.
    #[serde(default)]
    pub done_at: Option<Timestamp>,
    /// When it was taken back.
    #[serde(default)]
    pub restored_at: Option<Timestamp>,
}

impl Deployment {
    /// Whether it reached all its hosts, also when it was taken back since.
    pub fn was_whole(&self) -> bool {
        match self.status {
            DeploymentStatus::Done => true,
            DeploymentStatus::Restored => self.done_at.is_some(),
            DeploymentStatus::Rolling | DeploymentStatus::Failed => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentStatus {
    Rolling,
    Done,
    Failed,
    Restored,
}
