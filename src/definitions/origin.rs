//! Where each character of a script or template stands in its file, whatever YAML took away between them.

use std::sync::Arc;

use saphyr_parser::ScalarStyle;

use super::mistake::Place;
use super::traps::byte_of;
use super::yaml::{Node, Scalar, Source};

/// Where each character of a script or template stands in its file. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Origin {
    file: Arc<str>,
    /// Places from which text and file run alike, in order.
    segments: Arc<[Segment]>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    text: (usize, usize),
    file: (usize, usize),
}

impl Origin {
    /// Where the text of a scalar comes from.
    pub fn new(source: &Source, node: &Node, scalar: &Scalar) -> Origin {
        let segments = match scalar.style {
            ScalarStyle::Literal => literal_segments(source, node, &scalar.text),
            _ => aligned_segments(source, node, scalar),
        };
        Origin { file: Arc::clone(&source.file), segments: segments.into() }
    }

    /// The place in the file of a line and column of the text, all from 1.
    pub fn place(&self, line: usize, column: usize) -> Place {
        let wanted = (line.max(1), column.max(1));
        let before = self.segments.partition_point(|segment| segment.text <= wanted);
        let Some(segment) =
            before.checked_sub(1).and_then(|index| self.segments.get(index)).or(self.segments.first())
        else {
            return Place { file: Arc::clone(&self.file), line: 1, column: 1 };
        };
        let (line, column) = match segment.text.0 == wanted.0 {
            true => (segment.file.0, segment.file.1 + wanted.1.saturating_sub(segment.text.1)),
            false => (segment.file.0 + wanted.0.saturating_sub(segment.text.0), wanted.1),
        };
        Place { file: Arc::clone(&self.file), line, column }
    }

    /// Where the text begins.
    pub fn start(&self) -> Place {
        self.place(1, 1)
    }
}

/// A literal block has its lines as they are, all indented alike. Its node stands at its first line that is not blank.
fn literal_segments(source: &Source, node: &Node, text: &str) -> Vec<Segment> {
    let blank = text.len() - text.trim_start_matches('\n').len();
    let first = node.line.saturating_sub(blank).max(1);
    let segments = text.split('\n').enumerate().map(|(index, content)| {
        let line = source.line(first + index);
        let indentation = line.chars().count().saturating_sub(content.chars().count());
        Segment { text: (index + 1, 1), file: (first + index, indentation + 1) }
    });
    segments.collect()
}

/// Finds each visible character of the text again in the source: folding and escapes change only what stands between them.
fn aligned_segments(source: &Source, node: &Node, scalar: &Scalar) -> Vec<Segment> {
    let mut cursor = Cursor::new(source, node, scalar.style);
    let mut segments: Vec<Segment> = vec![Segment { text: (1, 1), file: (cursor.line, cursor.column) }];
    let (mut line, mut column) = (1, 1);
    for c in scalar.text.chars() {
        if !c.is_whitespace() {
            let file = cursor.take();
            let runs_on = segments.last().is_some_and(|last| {
                last.text.0 == line && last.file.0 == file.0 && last.file.1 + column == file.1 + last.text.1
            });
            if !runs_on {
                segments.push(Segment { text: (line, column), file });
            }
        }
        (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
    }
    segments
}

/// Walks through the source of one scalar.
struct Cursor<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    style: ScalarStyle,
    line: usize,
    column: usize,
}

impl<'a> Cursor<'a> {
    fn new(source: &'a Source, node: &Node, style: ScalarStyle) -> Cursor<'a> {
        let before = source.starts.get(node.line.saturating_sub(1)).copied().unwrap_or(source.text.len());
        let line = &source.text[before..];
        let start = byte_of(line, node.column);
        let mut cursor =
            Cursor { rest: line[start..].chars().peekable(), style, line: node.line, column: node.column };
        if matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted) {
            cursor.step();
        }
        cursor
    }

    fn step(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        (self.line, self.column) = if c == '\n' { (self.line + 1, 1) } else { (self.line, self.column + 1) };
        Some(c)
    }

    /// Goes over the next visible character and says where it stands.
    fn take(&mut self) -> (usize, usize) {
        loop {
            while self.rest.peek().is_some_and(|c| c.is_whitespace()) {
                self.step();
            }
            let at = (self.line, self.column);
            let Some(c) = self.step() else { return at };
            match (self.style, c) {
                (ScalarStyle::SingleQuoted, '\'') => {
                    self.step();
                }
                (ScalarStyle::DoubleQuoted, '\\') => {
                    let digits = match self.step() {
                        // White space, which the text has no visible character for.
                        Some(
                            'n' | 't' | 'r' | ' ' | '\t' | '\n' | '\r' | 'v' | 'f' | 'N' | '_' | 'L' | 'P',
                        ) => continue,
                        Some('x') => 2,
                        Some('u') => 4,
                        Some('U') => 8,
                        _ => 0,
                    };
                    for _ in 0..digits {
                        self.step();
                    }
                }
                _ => (),
            }
            return at;
        }
    }
}
