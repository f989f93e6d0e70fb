//! YAML as nodes with places: from events of saphyr-parser, so that tags, anchors, quoting and source text are seen.
//!
//! Promises: what YAML would quietly turn into something else (a tag, a comment, a map made of `{{ }}`) is a mistake that shows the line as
//! it should be; a text of any size or depth is answered in bounded time; places count characters, from 1.
//! Leaves to others: what the keys mean.

use std::collections::HashSet;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span as Range};

use super::mistake::{Mistake, Place};
use super::traps::{
    byte_of, flow_value, is_cut, is_value_or_flow, quote, script_end, script_in_flow, unquoted, value_of,
};

/// Bytes of one file.
pub const MAX_BYTES: usize = 1_000_000;
/// Lists and maps inside one another.
pub const MAX_DEPTH: usize = 64;
/// Values of one file.
pub const MAX_NODES: usize = 100_000;

/// Bytes of one line: a column is found by walking there.
pub const MAX_LINE_BYTES: usize = 20_000;
/// Bytes of a line that is shown as it should be.
const MAX_SHOWN_BYTES: usize = 300;

/// A file's text, by lines.
#[derive(Debug)]
pub struct Source {
    pub file: Arc<str>,
    pub(super) text: String,
    /// The byte offset of each line.
    pub(super) starts: Vec<usize>,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    pub content: Content,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

#[derive(Clone, Debug)]
pub enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// A mistake was reported here; readers pass it by without a word.
    Broken,
}

#[derive(Clone, Debug)]
pub struct Scalar {
    /// As YAML gives it; of a plain scalar the source text.
    pub text: String,
    pub style: ScalarStyle,
}

/// One `key: value`.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub line: usize,
    pub column: usize,
    pub value: Node,
}

impl Source {
    /// Reads bytes as text.
    ///
    /// # Errors
    /// They are too many, or no UTF-8, or begin with a byte order mark.
    pub fn new(file: Arc<str>, bytes: &[u8]) -> Result<Source, Mistake> {
        let at = |line, column, message: String, help: &str| Mistake {
            place: Place { file: Arc::clone(&file), line, column },
            message,
            help: Some(help.to_owned()),
        };
        if bytes.len() > MAX_BYTES {
            let message =
                format!("this file has {} bytes; a definition has at most {MAX_BYTES}", bytes.len());
            return Err(at(1, 1, message, "split it"));
        }
        if bytes.starts_with(&[0xFF, 0xFE])
            || bytes.starts_with(&[0xFE, 0xFF])
            || bytes.iter().take(4).any(|byte| *byte == 0)
        {
            return Err(at(1, 1, "this file is UTF-16 or binary".to_owned(), "save it as UTF-8"));
        }
        if bytes.starts_with(&[0xEF, 0xBB, 0xBF]) {
            return Err(at(
                1,
                1,
                "this file begins with a byte order mark".to_owned(),
                "save it as UTF-8 without a byte order mark",
            ));
        }
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
                return Err(at(line, column, "this is not UTF-8".to_owned(), "save the file as UTF-8"));
            }
        };
        let lone = text.match_indices('\r').find(|(index, _)| text.as_bytes().get(index + 1) != Some(&b'\n'));
        if let Some((index, _)) = lone {
            let line = text[..index].matches('\n').count() + 1;
            return Err(at(
                line,
                1,
                "a carriage return stands alone here".to_owned(),
                "end lines with a line feed",
            ));
        }
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        let starts: Vec<usize> = std::iter::once(0).chain(breaks).collect();
        let ends = starts.iter().skip(1).copied().chain([text.len()]);
        if let Some(long) = starts.iter().zip(ends).position(|(start, end)| end - start > MAX_LINE_BYTES) {
            let message = format!("this line is longer than {MAX_LINE_BYTES} bytes");
            return Err(at(long + 1, 1, message, "write it in several lines"));
        }
        Ok(Source { file, text: text.to_owned(), starts })
    }

    /// A file that could not be read as text.
    pub(super) fn empty(file: Arc<str>) -> Source {
        Source { file, text: String::new(), starts: vec![0] }
    }

    /// Line `number`, from 1, without its end.
    pub fn line(&self, number: usize) -> &str {
        let Some(start) = self.starts.get(number.saturating_sub(1)) else { return "" };
        let end = self.starts.get(number).map_or(self.text.len(), |next| next - 1);
        let line = &self.text[*start..end];
        line.strip_suffix('\r').unwrap_or(line)
    }

    pub fn place(&self, line: usize, column: usize) -> Place {
        Place { file: Arc::clone(&self.file), line, column }
    }

    /// The documents in it, and every mistake that can be seen without knowing what the keys mean.
    pub fn parse(&self) -> (Vec<Node>, Vec<Mistake>) {
        Builder::new(self).build()
    }

    /// A line with what stands between two byte offsets in quotes, without the space before it.
    fn with_quotes(&self, line: &str, start: usize, end: usize) -> String {
        if line.len() > MAX_SHOWN_BYTES {
            return "put the value in quotes".to_owned();
        }
        format!("{}{}{}", line[..start].trim_start(), quote(&line[start..end]), &line[end..])
    }

    /// Line `number` with what stands from `column` to the end in quotes, without the space before it.
    fn line_with_quotes(&self, number: usize, column: usize) -> String {
        let line = self.line(number);
        let start = byte_of(line, column);
        self.with_quotes(line, start, line.trim_end().len().max(start))
    }
}

enum Frame {
    List {
        items: Vec<Node>,
        line: usize,
        column: usize,
    },
    Map {
        entries: Vec<Entry>,
        keys: HashSet<String>,
        key: Option<(String, usize, usize)>,
        line: usize,
        column: usize,
        flow: bool,
        /// Something in it belongs to no key: what was reported says enough.
        broken: bool,
    },
}

/// Builds nodes from events. Nothing here recurses, so depth is a number and never the stack's end.
struct Builder<'a> {
    source: &'a Source,
    mistakes: Vec<Mistake>,
    frames: Vec<Frame>,
    roots: Vec<Node>,
    nodes: usize,
    /// Inside something that was reported as a whole: how many ends are to come.
    skipped: usize,
    /// Lines whose leading white space is content: those of scalars over several lines.
    content_lines: HashSet<usize>,
    /// Line of the last key or value.
    last_line: usize,
}

impl<'a> Builder<'a> {
    fn new(source: &'a Source) -> Builder<'a> {
        Builder {
            source,
            mistakes: Vec::new(),
            frames: Vec::new(),
            roots: Vec::new(),
            nodes: 0,
            skipped: 0,
            content_lines: HashSet::new(),
            last_line: 1,
        }
    }

    fn build(mut self) -> (Vec<Node>, Vec<Mistake>) {
        let mut parser = Parser::new_from_str(&self.source.text);
        while let Some(event) = parser.next_event() {
            match event {
                Ok((event, range)) => {
                    if !self.take(event, range) {
                        return (Vec::new(), self.mistakes);
                    }
                }
                Err(error) => {
                    self.explain(&error);
                    return (Vec::new(), self.mistakes);
                }
            }
        }
        self.find_tabs();
        (self.roots, self.mistakes)
    }

    fn report(&mut self, line: usize, column: usize, message: impl Into<String>, help: Option<String>) {
        let mistake = Mistake { place: self.source.place(line, column), message: message.into(), help };
        if !self.mistakes.contains(&mistake) {
            self.mistakes.push(mistake);
        }
    }

    /// Takes one event; false ends the reading.
    fn take(&mut self, event: Event<'_>, range: Range) -> bool {
        let (line, column) = (range.start.line(), range.start.col() + 1);
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            self.report(
                line,
                column,
                format!("this file has more than {MAX_NODES} values"),
                Some("split it".to_owned()),
            );
            return false;
        }
        match event {
            Event::MappingStart(anchor, tag) => self.open(range, anchor, tag.is_some(), true),
            Event::SequenceStart(anchor, tag) => self.open(range, anchor, tag.is_some(), false),
            Event::MappingEnd | Event::SequenceEnd => {
                self.close();
                true
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(text.into_owned(), style, range, anchor, tag.is_some());
                true
            }
            Event::Alias(_) => {
                if self.skipped == 0 {
                    self.report_sign(line, column, "an alias");
                    self.add(Node { content: Content::Broken, line, column });
                }
                true
            }
            _ => true,
        }
    }

    fn open(&mut self, range: Range, anchor: usize, tagged: bool, is_map: bool) -> bool {
        let (line, column) = (range.start.line(), range.start.col() + 1);
        if self.skipped > 0 {
            self.skipped += 1;
            // What is skipped is bounded as well.
            return self.skipped <= MAX_DEPTH;
        }
        self.last_line = line;
        if self.frames.len() >= MAX_DEPTH {
            self.report(line, column, format!("this is nested more than {MAX_DEPTH} deep"), None);
            return false;
        }
        let text = self.source.line(line);
        let rest = &text[byte_of(text, column)..];
        let flow = rest.starts_with('{');
        if tagged || anchor != 0 {
            self.report_sign(line, column, if tagged { "a tag" } else { "an anchor" });
            self.skip(line, column);
        } else if is_map && flow && rest.starts_with("{{") {
            let message = "an unquoted `{{` is a map to YAML, not a template";
            let help = self.quoted_template(line, column);
            self.report(line, column, message, Some(help));
            self.skip(line, column);
        } else if self.expects_key() {
            self.report(line, column, "a key must be a plain word here, not a list or map", None);
            self.skip(line, column);
            self.break_map(format!("{line}:{column}"), line, column);
        } else if self.comment_stands_for_value(line) {
            self.skip(line, column);
        } else if is_map {
            self.frames.push(Frame::Map {
                entries: Vec::new(),
                keys: HashSet::new(),
                key: None,
                line,
                column,
                flow,
                broken: false,
            });
        } else {
            self.frames.push(Frame::List { items: Vec::new(), line, column });
        }
        true
    }

    /// Takes a key that none is.
    fn break_map(&mut self, name: String, line: usize, column: usize) {
        if let Some(Frame::Map { key, broken, .. }) = self.frames.last_mut() {
            *broken = true;
            *key = Some((name, line, column));
        }
    }

    /// `when: #{` with more in the lines below: reports that the comment hides the beginning.
    fn comment_stands_for_value(&mut self, line: usize) -> bool {
        let Some(Frame::Map { key: Some((key, key_line, key_column)), .. }) = self.frames.last() else {
            return false;
        };
        let (key, key_line, key_column) = (key.clone(), *key_line, *key_column);
        line > key_line && self.report_comment(&key, key_line, key_column)
    }

    /// `key: #{...}`, if that stands there.
    fn report_comment(&mut self, key: &str, line: usize, column: usize) -> bool {
        let text = self.source.line(line);
        let after = text[byte_of(text, column)..].split_once(':').map(|(_, after)| after).unwrap_or_default();
        let value = after.trim_start();
        if !value.starts_with("#{") {
            return false;
        }
        let start = text.chars().count() - value.chars().count() + 1;
        let help = match value.matches('{').count() > value.matches('}').count() {
            true => "put the script in a block after `|`".to_owned(),
            false => self.source.line_with_quotes(line, start),
        };
        self.report(
            line,
            start,
            format!("`#{{` begins a comment to YAML, so `{key}` does not begin there"),
            Some(help),
        );
        true
    }

    fn skip(&mut self, line: usize, column: usize) {
        self.skipped = 1;
        if !self.expects_key() {
            self.add(Node { content: Content::Broken, line, column });
        }
    }

    fn expects_key(&self) -> bool {
        matches!(self.frames.last(), Some(Frame::Map { key: None, .. }))
    }

    fn close(&mut self) {
        if self.skipped > 0 {
            self.skipped -= 1;
            return;
        }
        match self.frames.pop() {
            Some(Frame::List { items, line, column }) => {
                self.add(Node { content: Content::List(items), line, column })
            }
            Some(Frame::Map { broken: true, line, column, .. }) => {
                self.add(Node { content: Content::Broken, line, column })
            }
            Some(Frame::Map { entries, line, column, .. }) => {
                self.add(Node { content: Content::Map(entries), line, column })
            }
            None => (),
        }
    }

    fn scalar(&mut self, text: String, style: ScalarStyle, range: Range, anchor: usize, tagged: bool) {
        if self.skipped > 0 {
            return;
        }
        let (line, column) = (range.start.line(), range.start.col() + 1);
        self.last_line = line;
        self.content_lines.extend(line + 1..=range.end.line());
        if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
            self.content_lines.insert(line);
        }
        if tagged || anchor != 0 {
            self.report_sign(line, column, if tagged { "a tag" } else { "an anchor" });
            if self.expects_key() {
                return self.key(text, style, line, column);
            }
            return self.add(Node { content: Content::Broken, line, column });
        }
        if self.expects_key() {
            return self.key(text, style, line, column);
        }
        if style == ScalarStyle::Plain && text.is_empty() {
            self.report_empty(line, column);
            return self.add(Node { content: Content::Broken, line, column });
        }
        let is_hidden = self.comment_stands_for_value(line);
        if is_hidden || (style == ScalarStyle::Plain && self.loses_its_tail(range)) {
            return self.add(Node { content: Content::Broken, line, column });
        }
        self.add(Node { content: Content::Scalar(Scalar { text, style }), line, column });
    }

    fn key(&mut self, text: String, style: ScalarStyle, line: usize, column: usize) {
        if style == ScalarStyle::Plain && text == "<<" {
            let message = "merge keys (`<<`) are not used here";
            self.report(line, column, message, Some("write the keys out".to_owned()));
            return self.break_map(text, line, column);
        }
        if text.is_empty() && style == ScalarStyle::Plain {
            self.report(line, column, "a key is missing before `:`", None);
            return self.break_map(text, line, column);
        }
        if let Some(Frame::Map { key, .. }) = self.frames.last_mut() {
            *key = Some((text, line, column));
        }
    }

    fn add(&mut self, node: Node) {
        let mut doubled = None;
        match self.frames.last_mut() {
            None if self.roots.len() < MAX_NODES => self.roots.push(node),
            None => (),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map { entries, keys, key, .. }) => {
                let Some((key, line, column)) = key.take() else { return };
                if !keys.insert(key.clone()) {
                    doubled = Some((key.clone(), line, column));
                }
                entries.push(Entry { key, line, column, value: node });
            }
        }
        if let Some((key, line, column)) = doubled {
            self.report(
                line,
                column,
                format!("`{key}` stands here twice"),
                Some("keep one of them".to_owned()),
            );
        }
    }

    // Mistakes with the line as it should be.

    /// A tag, anchor or alias.
    fn report_sign(&mut self, line: usize, column: usize, what: &str) {
        let text = self.source.line(line);
        let value = &text[byte_of(text, column)..];
        let sign: String = value.chars().take_while(|c| !c.is_whitespace()).collect();
        let message = match what {
            "a tag" => format!("`{sign}` is {what} to YAML, so the value would begin after it"),
            _ => format!("`{sign}` is {what} to YAML, and those are not used here"),
        };
        let help = match what {
            "an anchor" => {
                "write each value out where it is used; a text that begins with `&` needs quotes".to_owned()
            }
            _ if self.in_flow() => "put the value in quotes".to_owned(),
            _ => self.source.line_with_quotes(line, column),
        };
        self.report(line, column, message, Some(help));
    }

    fn in_flow(&self) -> bool {
        self.frames.iter().any(|frame| matches!(frame, Frame::Map { flow: true, .. }))
    }

    fn report_empty(&mut self, line: usize, column: usize) {
        let Some(Frame::Map { key: Some((key, key_line, key_column)), entries, flow, .. }) =
            self.frames.last()
        else {
            let message = "an item of this list is empty";
            return self.report(line, column, message, Some("give it a value, or leave it out".to_owned()));
        };
        let (key, key_line, key_column) = (key.clone(), *key_line, *key_column);
        let cut = entries
            .last()
            .filter(|before| *flow && is_cut(before, &key))
            .map(|before| (before.key.clone(), before.value.line, before.value.column));
        if let Some((script, line, column)) = cut {
            if let Some(Frame::Map { broken, .. }) = self.frames.last_mut() {
                *broken = true;
            }
            return self.report_cut(&script, line, column);
        }
        if self.report_comment(&key, key_line, key_column) {
            return;
        }
        let help = format!("give `{key}` a value, or leave it out");
        self.report(key_line, key_column, format!("`{key}` is empty"), Some(help));
    }

    /// `{when: f(1, 2)}`: what YAML made of the script.
    fn report_cut(&mut self, key: &str, line: usize, column: usize) {
        let text = self.source.line(line);
        let start = byte_of(text, column);
        let end = start + text[start..start + script_end(&text[start..])].trim_end().len();
        let help = self.source.with_quotes(text, start, end);
        // What else was found in this line comes from the cut.
        self.mistakes.retain(|mistake| mistake.place.line != line);
        let message =
            format!("inside `{{ }}` YAML cuts a value at `,` `[` `]` `{{` and `}}`: `{key}` must be quoted");
        self.report(line, column, message, Some(help));
    }

    /// `when: x == #{a: 1}`: the rest would be a comment.
    fn loses_its_tail(&mut self, range: Range) -> bool {
        let (line, column) = (range.end.line(), range.end.col() + 1);
        let text = self.source.line(line);
        let rest = &text[byte_of(text, column)..];
        if !rest.trim_start().starts_with("#{") || !rest.starts_with([' ', '\t']) {
            return false;
        }
        let at = column + rest.chars().count() - rest.trim_start().chars().count();
        let help = match range.start.line() == line {
            true => self.source.line_with_quotes(line, range.start.col() + 1),
            false => "put the value in quotes, or in a block after `|`".to_owned(),
        };
        self.report(line, at, "`#{` begins a comment to YAML, so the rest of this value is lost", Some(help));
        true
    }

    /// `a: {{ b }}` as it should be.
    fn quoted_template(&self, line: usize, column: usize) -> String {
        let text = self.source.line(line);
        let start = byte_of(text, column);
        if !self.in_flow() {
            return self.source.line_with_quotes(line, column);
        }
        let (start, end) = flow_value(text, start);
        self.source.with_quotes(text, start, end)
    }

    fn find_tabs(&mut self) {
        let source = self.source;
        for (index, text) in source.text.split('\n').enumerate() {
            let indentation = &text[..text.len() - text.trim_start_matches([' ', '\t']).len()];
            let Some(at) = indentation.find('\t') else { continue };
            let is_blank = text.trim().is_empty() || text.trim_start().starts_with('#');
            if !is_blank && !self.content_lines.contains(&(index + 1)) {
                self.report_tab(index + 1, at + 1);
            }
        }
    }

    fn report_tab(&mut self, line: usize, column: usize) {
        self.report(
            line,
            column,
            "a tab stands where the line is indented",
            Some("indent with spaces".to_owned()),
        );
    }

    /// Says what a syntax error really comes from, where that can be seen.
    fn explain(&mut self, error: &ScanError) {
        let (mut line, mut column) = (error.marker().line().max(1), error.marker().col() + 1);
        if line > self.source.starts.len() {
            // Of a text that ends too early, its end.
            line = self.source.starts.len();
            column = self.source.line(line).chars().count().max(1);
        }
        if error.info().contains("recursion limit") && !self.mistakes.is_empty() {
            return;
        }
        if error.info().contains("recursion limit") {
            return self.report(line, column, format!("this is nested more than {MAX_DEPTH} deep"), None);
        }
        let text = self.source.line(line);
        if let Some(at) = text[..text.len() - text.trim_start().len()].find('\t') {
            return self.report_tab(line, at + 1);
        }
        let first = self.last_line.min(line).max(line.saturating_sub(20)).max(1);
        let known = self.mistakes.len();
        for number in (first..=line).rev() {
            if !self.content_lines.contains(&number) && self.explain_line(number) {
                return;
            }
        }
        if known > 0 {
            return; // What was found before explains it: a `{{` with text after it, say.
        }
        let (message, help) = self.in_words(error.info(), text, line, column);
        self.report(line, column, message, help);
    }

    /// A syntax error of the parser, in words that say what to do.
    fn in_words(&self, info: &str, text: &str, line: usize, column: usize) -> (String, Option<String>) {
        if info.contains("mapping values are not allowed") {
            let at = byte_of(text, column);
            return match value_of(text) {
                Some((_, start)) if byte_of(text, start) <= at => {
                    let help = self.source.line_with_quotes(line, start);
                    ("`: ` inside a value begins a map to YAML".to_owned(), Some(help))
                }
                _ => {
                    let help = "begin the line in the column of the key that it stands beside".to_owned();
                    ("this line is indented too far".to_owned(), Some(help))
                }
            };
        }
        if info.contains("quoted scalar") {
            return (
                format!("this is not YAML: {info}"),
                Some("is the quote at the end of this value missing?".to_owned()),
            );
        }
        let opened = self.frames.iter().rev().find_map(|frame| {
            let (Frame::List { line, column, .. } | Frame::Map { line, column, .. }) = frame;
            let text = self.source.line(*line);
            let sign = text[byte_of(text, *column)..].chars().next().filter(|sign| "[{".contains(*sign))?;
            Some(format!("is the `{sign}` of line {line}, column {column} closed?"))
        });
        (format!("this is not YAML: {info}"), opened)
    }

    /// Whether a trap stands in this line.
    fn explain_line(&mut self, number: usize) -> bool {
        let source = self.source;
        let text = source.line(number);
        if let Some((key, at)) = script_in_flow(text) {
            self.report_cut(&key, number, at);
            return true;
        }
        if let Some(at) = unquoted(text, "{{").filter(|at| is_value_or_flow(text, byte_of(text, *at))) {
            let offset = byte_of(text, at);
            let help = match text[..offset].contains(['{', '[']) {
                true => {
                    let (start, end) = flow_value(text, offset);
                    source.with_quotes(text, start, end)
                }
                false => source.line_with_quotes(number, at),
            };
            self.report(number, at, "an unquoted `{{` is a map to YAML, not a template", Some(help));
            return true;
        }
        let Some((key, at)) = value_of(text) else { return false };
        let value = &text[byte_of(text, at)..];
        if value.starts_with("#{") {
            let message = format!("`#{{` begins a comment to YAML, so `{key}` does not begin there");
            self.report(number, at, message, Some(source.line_with_quotes(number, at)));
            return true;
        }
        let (sign, what) = match value.chars().next() {
            Some('!') => ('!', "a tag"),
            Some('&') => ('&', "an anchor"),
            Some('*') => ('*', "an alias"),
            Some(sign @ ('@' | '`' | '%')) => (sign, "a sign of its own"),
            _ => return false,
        };
        let message = format!("a value that begins with `{sign}` is {what} to YAML");
        self.report(number, at, message, Some(source.line_with_quotes(number, at)));
        true
    }
}
