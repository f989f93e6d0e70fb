//! What servers and workers say to one another over the broker. Versioned: a reader leaves a version that it does not know alone.

use serde::{Deserialize, Serialize};

use super::desk::{Reply, Request};
use super::log::Stream;
use super::worker::{Beat, Claimant};
use super::{Attempt, AttemptKey, Outcome, RunId, Value};

/// The version that this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// A message with the version that it is written in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T> {
    pub v: u32,
    #[serde(flatten)]
    pub message: T,
}

/// What a worker reads: in the queue of a pool (`do` only), or in its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToWorker {
    /// Claim this attempt, then do it.
    Do { key: AttemptKey, attempt: Box<Attempt> },
    /// The claim `id` is granted. The secrets come sealed; none when it needs none.
    Go {
        id: u64,
        #[serde(default)]
        sealed: Option<Sealed>,
    },
    /// The claim `id` is not granted: nothing is to be done.
    No { id: u64 },
    /// The answer to question `id`.
    Answer { id: u64, reply: Reply },
    /// What report `id` said is on disk.
    Stored { id: u64 },
    /// What report `id` said can't be kept.
    NotStored { id: u64 },
    /// End it.
    Cancel { key: AttemptKey },
    /// Its workspace may go.
    RunEnded { run: RunId },
    /// There are these pools: for workers that take every one.
    Pools { names: Vec<String> },
}

/// What a worker says, in the queue of reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FromWorker {
    pub by: Claimant,
    /// Counts what this worker said since its start.
    pub id: u64,
    pub key: AttemptKey,
    #[serde(flatten)]
    pub said: Said,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// May it begin? Secrets are sealed to this key, which is base64.
    Claim {
        public_key: String,
    },
    /// Masked output, base64.
    Log {
        stream: Stream,
        bytes: String,
    },
    Progress {
        output: Value,
    },
    Question {
        request: Request,
    },
    Finished {
        outcome: Outcome,
    },
    /// The attempt was sent in a form that this worker can't read.
    Unreadable {
        why: String,
    },
}

/// What all servers hear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToServers {
    Beat(Beat),
}

/// Secrets on their way to one worker, for one attempt (RFC 9180, base mode: X25519, HKDF-SHA256, ChaCha20Poly1305), base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    pub encapsulated_key: String,
    pub ciphertext: String,
}
