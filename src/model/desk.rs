//! What a worker may ask the server while it does an attempt. A worker has no database: it asks over the channel that carries its
//! attempts, and the server's desk answers.

use serde::{Deserialize, Serialize};

use super::artefact::{ArtefactHash, base64_bytes};
use super::release::{Deployment, DeploymentStatus};
use super::{Span, Value};

/// A question. Each is idempotent: an attempt that was lost and begun again asks the same once more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    KvGet {
        key: String,
    },
    KvSet {
        key: String,
        value: Value,
        #[serde(default)]
        ttl: Option<Span>,
        /// 0: only if it is absent.
        #[serde(default)]
        if_version: Option<i64>,
    },
    /// Opens the record of a deployment; the same `step` of the same run and visit gets the same one back.
    BeginDeployment {
        app: String,
        environment: String,
        version: String,
        /// Refused when a deployment that is newer than this one is there.
        #[serde(default)]
        after: Option<i64>,
        /// Refused unless this version is what stands on this other environment of the app, by a deployment that is done.
        #[serde(default)]
        as_on: Option<String>,
    },
    /// What each host held before, and how far it is.
    UpdateDeployment {
        id: i64,
        status: DeploymentStatus,
        hosts: Value,
    },
    /// For taking it back: refused when a newer one stands there.
    Deployment {
        id: i64,
    },
    /// What is known of the way back from what `version` is about to do; without one, of what a rollback would do now.
    WayBack {
        app: String,
        environment: String,
        #[serde(default)]
        version: Option<String>,
        #[serde(default)]
        to: Option<String>,
    },
    /// Whether a file of these bytes is kept; it then is for this run too.
    HasArtefact {
        hash: ArtefactHash,
    },
    /// A piece of a file that is to be kept. They come in order; the last one ends at `size`.
    PutArtefact {
        hash: ArtefactHash,
        size: u64,
        offset: u64,
        #[serde(with = "base64_bytes")]
        bytes: Vec<u8>,
    },
    /// A piece of a file that is kept.
    GetArtefact {
        hash: ArtefactHash,
        offset: u64,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Done,
    Kv {
        /// `None`: no such key.
        value: Option<Value>,
        version: i64,
    },
    Deployment {
        deployment: Box<Deployment>,
        hosts: Value,
    },
    WayBack {
        facts: Value,
    },
    /// There is no such artefact.
    Absent,
    Artefact {
        size: u64,
    },
    /// Empty at the end of the file.
    Piece {
        #[serde(with = "base64_bytes")]
        bytes: Vec<u8>,
    },
    Refused {
        why: String,
    },
}
