//! What the server and its shim say to each other over the socket that is the shim's stdin. Both are the same binary, so there
//! are no versions.
//!
//! To the shim: a frame with the [`Request`], a frame with the program's stdin, then single [`TERMINATE`] bytes. Closing is
//! the third message: the server is gone, end everything now.
//!
//! From the shim: frames with a [`Report`] each, the last being `Ended`.

use std::io::{Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Asks the shim to end the program: SIGTERM, and after the grace SIGKILL.
pub(super) const TERMINATE: u8 = b't';

#[derive(Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) program: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: Option<PathBuf>,
    pub(super) lock: Option<PathBuf>,
    /// Shared by all that this server starts.
    pub(super) family: Option<PathBuf>,
    pub(super) lock_wait_ms: u64,
    pub(super) grace_ms: u64,
    pub(super) holds_stdin: bool,
    pub(super) result_bytes: Option<usize>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// All locks are held. When this can't be said the server is gone, and nothing is started.
    Ready,
    Started {
        pid: i32,
    },
    /// In base64: a frame is JSON, a result any bytes.
    Result(String),
    ResultOverflowed,
    Ended {
        how: How,
        /// The end was asked for before the program ended by itself.
        asked: bool,
        leftovers: Vec<String>,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum How {
    Code(i32),
    Signal(i32),
    /// Asked to end before it was started.
    NotStarted,
    /// `errno` of starting; `None` for text that no program can be given.
    StartFailed(Option<i32>),
    Busy(String),
    LockFailed(i32),
}

/// Writes `length, bytes`.
pub(super) fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(bytes.len() + 8);
    framed.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    framed.extend_from_slice(bytes);
    framed
}

pub(super) fn write_report(to: &mut impl Write, report: &Report) -> std::io::Result<()> {
    to.write_all(&frame(&serde_json::to_vec(report)?))
}

pub(super) fn read_frame(from: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let length = u64::from_be_bytes(length);
    let mut bytes = Vec::new();
    from.take(length).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// Takes the next whole frame off what has arrived so far.
pub(super) fn take_frame(arrived: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = u64::from_be_bytes(arrived.first_chunk::<8>().copied()?);
    let end = usize::try_from(length).ok()?.checked_add(8)?;
    if arrived.len() < end {
        return None;
    }
    let rest = arrived.split_off(end);
    let mut whole = std::mem::replace(arrived, rest);
    Some(whole.split_off(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cutting() {
        let mut sent = frame(b"one");
        sent.extend(frame(b""));
        sent.extend(frame(b"three"));
        let (mut arrived, mut got) = (Vec::new(), Vec::new());
        for byte in sent {
            arrived.push(byte);
            got.extend(take_frame(&mut arrived));
        }
        assert_eq!(got, [b"one".to_vec(), Vec::new(), b"three".to_vec()]);
        assert!(arrived.is_empty());
    }
}
