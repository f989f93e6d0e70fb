//! What reaches the terminal: tables, colours, times and lengths of time.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use crate::model::{Span, Timestamp, Value};

/// How a piece of text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Good,
    Bad,
    Waiting,
    Busy,
    Faint,
    Strong,
}

/// Standard output, and whether it likes colours.
pub struct Screen {
    out: Box<dyn Write + Send>,
    colours: bool,
    /// Nor those that data brings.
    none_at_all: bool,
}

impl Screen {
    /// Standard output. Colours when it is a terminal and NO_COLOR is unset or empty.
    pub fn of_stdout() -> Screen {
        let terminal = io::stdout().is_terminal();
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let out = Box::new(io::stdout());
        Screen { out, colours: terminal && !refused && !dumb, none_at_all: refused }
    }

    /// Whether `paint` paints.
    pub fn has_colours(&self) -> bool {
        self.colours
    }

    /// One line, its control characters made harmless.
    pub fn line(&mut self, text: impl Display) -> io::Result<()> {
        let text = text.to_string();
        for line in text.split('\n') {
            let line = clean(line);
            let line = if self.none_at_all { without_colours(&line) } else { line };
            writeln!(self.out, "{line}")?;
        }
        self.out.flush()
    }

    /// Indented JSON for a person with `jq`.
    pub fn json(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.out, "{value:#}")?;
        self.out.flush()
    }

    /// Text as it is, for `completions` and `kv get`.
    pub fn raw(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Rows under a line of headings; `nothing` when there is none.
    pub fn table(&mut self, headings: &[&str], rows: Vec<Vec<String>>, nothing: &str) -> io::Result<()> {
        if rows.is_empty() {
            let nothing = self.paint(Style::Faint, nothing);
            return self.line(nothing);
        }
        let head: Vec<String> = headings.iter().map(|heading| self.paint(Style::Faint, heading)).collect();
        let rows: Vec<Vec<String>> = std::iter::once(head)
            .chain(rows.into_iter().map(|row| row.iter().map(|cell| one_line(cell)).collect()))
            .collect();
        let widths: Vec<usize> = (0..headings.len())
            .map(|column| {
                rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0)
            })
            .collect();
        for row in &rows {
            let mut line = String::new();
            for (cell, wide) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', wide - width(cell) + 2));
            }
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// `text` in a style, when this screen likes colours.
    pub fn paint(&self, style: Style, text: impl Display) -> String {
        if !self.colours {
            return text.to_string();
        }
        let code = match style {
            Style::Good => "32",
            Style::Bad => "31",
            Style::Waiting => "33",
            Style::Busy => "36",
            Style::Faint => "2",
            Style::Strong => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// A status in its colour.
    pub fn status(&self, status: &str) -> String {
        match style_of(status) {
            Some(style) => self.paint(style, status),
            None => status.to_owned(),
        }
    }

    /// A line on stderr, for errors.
    pub fn complain(text: &str) {
        let mut err = io::stderr();
        for (number, line) in text.lines().enumerate() {
            let prefix = if number == 0 { "siskin: " } else { "  " };
            // Nobody is left to tell when stderr is closed.
            drop(writeln!(err, "{prefix}{}", clean(line)));
        }
    }

    /// A line on stderr for people, where stdout belongs to a program.
    pub fn remark(text: &str) {
        drop(writeln!(io::stderr(), "{}", clean(text)));
    }
}

fn style_of(status: &str) -> Option<Style> {
    Some(match status {
        "succeeded" | "approved" | "matched" | "done" | "current" => Style::Good,
        "failed" | "rejected" | "timed_out" | "lost" | "errored" | "behind" | "unknown" => Style::Bad,
        "waiting" | "paused" | "undoing" | "throttled" | "restored" | "untouched" | "ahead" => Style::Waiting,
        "running" | "queued" | "rolling" => Style::Busy,
        "pending" | "skipped" | "not_started" | "cancelled" | "superseded" | "withdrawn" | "expired" => {
            Style::Faint
        }
        _ => return None,
    })
}

/// The text with control characters made visible; only colours (`ESC [ 1 m`) and tabs pass, so that no data can play with the terminal.
pub(super) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let colour = colour_length(rest);
        if colour > 0 {
            clean.push_str(&rest[..colour]);
            rest = &rest[colour..];
            continue;
        }
        rest = &rest[character.len_utf8()..];
        match character {
            '\t' => clean.push('\t'),
            '\r' if rest.is_empty() => {}
            other if other.is_control() => clean.extend(other.escape_default()),
            // These turn the order of characters on the screen around.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => clean.extend(character.escape_default()),
            other => clean.push(other),
        }
    }
    clean
}

/// The text without the colours in it.
fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let colour = colour_length(rest);
        if colour == 0 {
            plain.push(character);
        }
        rest = &rest[colour.max(character.len_utf8())..];
    }
    plain
}

/// How many bytes the escape sequence for a colour at the start of `text` has; 0 when there is none.
fn colour_length(text: &str) -> usize {
    let Some(body) = text.strip_prefix("\u{1b}[") else { return 0 };
    let digits = body.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(body.len());
    if digits <= 20 && body[digits..].starts_with('m') { 2 + digits + 1 } else { 0 }
}

/// How many columns the text takes, colours not counted.
fn width(text: &str) -> usize {
    let mut width = 0;
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let colour = colour_length(rest);
        width += usize::from(colour == 0);
        rest = &rest[colour.max(character.len_utf8())..];
    }
    width
}

/// The text on one line, cut where it gets long: for cells.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 100;
    let flat = clean(&text.replace('\n', " "));
    if flat.chars().count() <= LONGEST {
        return flat;
    }
    flat.chars().take(LONGEST - 1).chain(['…']).collect()
}

/// A length of time as people read it: `0.42s`, `12.3s`, `4m05s`, `3h07m`, `2d04h`.
pub(super) fn lasted(span: Span) -> String {
    let millis = span.0;
    let seconds = millis / 1000;
    match seconds {
        0..10 => format!("{}.{:02}s", seconds, millis % 1000 / 10),
        10..60 => format!("{}.{}s", seconds, millis % 1000 / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// How long ago that was, by the server's clock; the time itself when its clock is not known.
pub(super) fn ago(at: Option<Timestamp>, now: Option<Timestamp>) -> String {
    let Some(at) = at else { return "-".to_owned() };
    let Some(now) = now else { return at.to_string() };
    let seconds = now.since(at).0 / 1000;
    match seconds {
        0..2 => "now".to_owned(),
        2..120 => format!("{seconds}s ago"),
        120..7200 => format!("{}m ago", seconds / 60),
        7200..172_800 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_cannot_play_with_the_terminal() {
        assert_eq!(clean("a\u{1b}]0;title\u{7}b"), "a\\u{1b}]0;title\\u{7}b");
        assert_eq!(clean("\u{1b}[2J\u{1b}[1;31mred\u{1b}[0m"), "\\u{1b}[2J\u{1b}[1;31mred\u{1b}[0m");
        assert_eq!(without_colours("\u{1b}[1;31mred\u{1b}[0m ü"), "red ü");
        assert_eq!(clean("50%\rdone\r"), "50%\\rdone");
        assert_eq!(clean("a\u{202e}b\tü"), "a\\u{202e}b\tü");
    }

    #[test]
    fn lengths_of_time_have_the_digits_that_matter() {
        let texts = [
            (420, "0.42s"),
            (12_345, "12.3s"),
            (245_000, "4m05s"),
            (11_220_000, "3h07m"),
            (187_200_000, "2d04h"),
        ];
        for (millis, text) in texts {
            assert_eq!(lasted(Span(millis)), text);
        }
    }

    #[test]
    fn times_are_told_from_the_servers_now() {
        let now = Some(Timestamp(10_000_000));
        assert_eq!(ago(Some(Timestamp(9_990_000)), now), "10s ago");
        assert_eq!(ago(Some(Timestamp(10_900_000)), now), "now");
        assert_eq!(ago(None, now), "-");
    }
}
