//! Lines out of chunks: a chunk may end in the middle of a line, and chunks of several attempts come mixed.

use std::collections::BTreeMap;
use std::fmt;

use super::super::types::LogLine;
use crate::model::log::Stream;
use crate::model::{AttemptKey, Timestamp};
use crate::store::StoredChunk;

/// A longer line comes in pieces.
const LONGEST_LINE: usize = 64 * 1024;

/// Puts lines together.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: BTreeMap<(AttemptKey, &'static str), Begun>,
}

#[derive(Debug)]
struct Begun {
    stream: Stream,
    at: Timestamp,
    bytes: Vec<u8>,
}

impl Lines {
    /// The lines that end in this chunk.
    pub(super) fn take(&mut self, stored: &StoredChunk) -> Vec<LogLine> {
        let chunk = &stored.chunk;
        let place = (chunk.key.clone(), chunk.stream.as_str());
        let mut begun = self.begun.remove(&place).unwrap_or(Begun {
            stream: chunk.stream,
            at: chunk.at,
            bytes: Vec::new(),
        });
        let mut lines = Vec::new();
        for piece in chunk.bytes.split_inclusive(|byte| *byte == b'\n') {
            if begun.bytes.is_empty() {
                begun.at = chunk.at;
            }
            begun.bytes.extend_from_slice(piece);
            if piece.ends_with(b"\n") || begun.bytes.len() >= LONGEST_LINE {
                lines.push(line(&chunk.key, &begun));
                begun.bytes.clear();
            }
        }
        if !begun.bytes.is_empty() {
            self.begun.insert(place, begun);
        }
        lines
    }

    /// What is left without a line break, when nothing more comes.
    pub(super) fn rest(&mut self) -> Vec<LogLine> {
        std::mem::take(&mut self.begun).iter().map(|((key, _), begun)| line(key, begun)).collect()
    }

    /// No line is begun.
    pub(super) fn is_between(&self) -> bool {
        self.begun.is_empty()
    }
}

fn line(key: &AttemptKey, begun: &Begun) -> LogLine {
    let text = String::from_utf8_lossy(&begun.bytes);
    LogLine {
        at: begun.at,
        step: key.step.clone(),
        visit: key.visit,
        item: key.item,
        number: key.number,
        stream: begun.stream,
        text: text.trim_end_matches(['\r', '\n']).to_owned(),
    }
}

/// How far a reader is: a chunk after which no line was begun, and how many lines came since. Written `CHUNK.LINES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) chunk: i64,
    pub(super) lines: u64,
}

impl Cursor {
    pub(super) fn parse(text: &str) -> Option<Cursor> {
        let (chunk, lines) = text.split_once('.')?;
        let cursor = Cursor { chunk: chunk.parse().ok()?, lines: lines.parse().ok()? };
        (cursor.chunk >= 0).then_some(cursor)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.chunk, self.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RunId;
    use crate::store::LogChunk;

    fn chunk(id: i64, step: &str, text: &[u8]) -> StoredChunk {
        let key = AttemptKey { run: RunId(1), step: step.to_owned(), visit: 1, item: None, number: 1 };
        StoredChunk {
            id,
            chunk: LogChunk { key, stream: Stream::Stdout, at: Timestamp(id), bytes: text.to_vec() },
        }
    }

    fn texts(lines: Vec<LogLine>) -> Vec<String> {
        lines.into_iter().map(|line| format!("{}: {}", line.step, line.text)).collect()
    }

    #[test]
    fn lines_are_whole_however_chunks_cut_and_mix_them() {
        let mut lines = Lines::default();
        assert_eq!(texts(lines.take(&chunk(1, "a", b"one\ntw"))), ["a: one"]);
        assert!(!lines.is_between());
        assert_eq!(texts(lines.take(&chunk(2, "b", b"other\r\n"))), ["b: other"]);
        assert_eq!(texts(lines.take(&chunk(3, "a", b"o\n\nb\xc3"))), ["a: two", "a: "]);
        assert_eq!(texts(lines.take(&chunk(4, "a", b"\xbcr"))), Vec::<String>::new());
        assert_eq!(texts(lines.rest()), ["a: bür"]);
        assert!(lines.is_between());
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let mut lines = Lines::default();
        let mut count = 0;
        for id in 1..=10 {
            count += lines.take(&chunk(id, "a", &[b'x'; 50_000])).len();
        }
        assert_eq!(count, 5);
    }

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        let cursor = Cursor { chunk: 12, lines: 3 };
        assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
        for wrong in ["", "12", "a.b", "-1.0", "1.-1"] {
            assert_eq!(Cursor::parse(wrong), None, "{wrong}");
        }
    }
}
