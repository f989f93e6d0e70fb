//! A watch: a request whose answer does not end, one line of JSON for each thing that etcd says.

use reqwest::Response;
use serde::Deserialize;

use super::{Client, EtcdError, Header, LARGEST, Pair, Refusal, number};
use crate::http_client;

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Set(Pair),
    /// Of the pair, only `key` and `mod_revision` mean something.
    Deleted(Pair),
}

/// What a watch says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It watches. What it says next may take as long as nothing changes.
    Begun,
    /// In the order in which they happened. One revision's may come in several parts.
    Changes(Vec<Change>),
    /// There are no changes up to this revision but those that were said.
    NothingUpTo(i64),
    /// Changes before this revision are forgotten, and some that were asked for are among them. The watch has ended.
    Forgotten { before: i64 },
}

/// A watch that goes on until it is dropped.
#[derive(Debug)]
pub struct Watching {
    client: Client,
    answer: Response,
    /// What has come and is no whole line yet.
    rest: Vec<u8>,
    /// How much of it holds no end of a line.
    searched: usize,
}

impl Watching {
    pub(super) fn new(client: Client, answer: Response) -> Watching {
        Watching { client, answer, rest: Vec::new(), searched: 0 }
    }

    /// What it says next. May be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// It ended: `Away`, `NoMajority`, `Answered`, `NotUnderstood`, `TooLarge`.
    pub async fn next(&mut self) -> Result<Said, EtcdError> {
        loop {
            while let Some(line) = self.line() {
                if let Some(said) = self.read(&line)? {
                    return Ok(said);
                }
            }
            let chunk = self.answer.chunk().await;
            let chunk = chunk.map_err(|error| self.client.away(http_client::why(&error)))?;
            let Some(chunk) = chunk else {
                return Err(self.client.away("it ended the watch".to_owned()));
            };
            if self.rest.len() + chunk.len() > LARGEST {
                return Err(self.client.too_large());
            }
            self.rest.extend_from_slice(&chunk);
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let found = self.rest.iter().skip(self.searched).position(|byte| *byte == b'\n');
        let Some(end) = found.map(|end| self.searched + end + 1).or_else(|| self.error_at_end()) else {
            self.searched = self.rest.len();
            return None;
        };
        let rest = self.rest.split_off(end);
        self.searched = 0;
        Some(std::mem::replace(&mut self.rest, rest))
    }

    /// An error is the last that comes, and no newline follows it.
    fn error_at_end(&self) -> Option<usize> {
        let is_error = self.rest.starts_with(b"{\"error\"") && self.rest.ends_with(b"}");
        let is_whole = is_error && serde_json::from_slice::<serde_json::Value>(&self.rest).is_ok();
        is_whole.then_some(self.rest.len())
    }

    fn read(&self, line: &[u8]) -> Result<Option<Said>, EtcdError> {
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let line: Line = serde_json::from_slice(line).map_err(|error| self.client.not_understood(&error))?;
        if let Some(refusal) = line.error {
            return Err(self.client.refused(refusal).into_error());
        }
        let Some(result) = line.result else { return Ok(None) };
        if result.canceled && result.compact_revision > 0 {
            return Ok(Some(Said::Forgotten { before: result.compact_revision }));
        }
        if result.canceled {
            let refusal = match result.cancel_reason.is_empty() {
                true => Refusal::of("it cancelled the watch"),
                false => Refusal::of(&result.cancel_reason),
            };
            return Err(self.client.refused(refusal).into_error());
        }
        if result.created {
            return Ok(Some(Said::Begun));
        }
        if result.events.is_empty() {
            return Ok(Some(Said::NothingUpTo(result.header.revision)));
        }
        let changes = result.events.into_iter().map(|event| match event.kind.as_str() {
            "DELETE" => Change::Deleted(event.kv),
            _ => Change::Set(event.kv),
        });
        Ok(Some(Said::Changes(changes.collect())))
    }
}

#[derive(Deserialize)]
struct Line {
    result: Option<Told>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Told {
    header: Header,
    created: bool,
    canceled: bool,
    #[serde(deserialize_with = "number")]
    compact_revision: i64,
    cancel_reason: String,
    events: Vec<Happened>,
}

#[derive(Deserialize)]
struct Happened {
    #[serde(rename = "type", default)]
    kind: String,
    kv: Pair,
}
