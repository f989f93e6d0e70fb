//! The output of attempts.

use serde::{Deserialize, Serialize};

/// Where a line of output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
    /// What Siskin itself has to say about the attempt.
    Note,
}

impl Stream {
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            Stream::Note => "note",
        }
    }

    pub fn parse(text: &str) -> Option<Stream> {
        [Stream::Stdout, Stream::Stderr, Stream::Note].into_iter().find(|stream| stream.as_str() == text)
    }
}
