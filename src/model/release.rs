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
    pub finished_at: Option<Timestamp>,
    /// When it was taken back.
    #[serde(default)]
    pub restored_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentStatus {
    Rolling,
    Done,
    Failed,
    Restored,
}
