//! Hides secrets in what an attempt prints and returns: each becomes `***`.
//!
//! What is hidden, for every secret that the attempt was given: the text; each line of it, when it has several; its base64 forms at all three
//! alignments, also wrapped in lines as tools print it; its URL-encoded forms; its form inside JSON. A secret that is split over two
//! chunks is hidden too.
//!
//! A secret, or a line of one, of fewer than three characters would blot out half of every text, and blots would tell it anyway: it is hidden
//! only where it stands alone, as a whole line or as a whole value.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use crate::model::{Object, Secret, Value};

/// What stands in place of a secret.
pub const MASK: &str = "***";
/// Shorter secrets are hidden only where they stand alone.
const SHORTEST_CHARACTERS: usize = 3;
/// Shorter pieces of base64 would match by chance.
const SHORTEST_BASE64: usize = 4;
/// The widths at which tools wrap base64: `base64`, PEM.
const WRAPS: [usize; 2] = [76, 64];
/// The automaton for more text than this would take too much memory; secrets are keys and passwords.
const LARGEST_SECRET_BYTES: usize = 64 * 1024;

/// The secrets of one attempt, ready to be found.
pub struct Mask {
    found: Option<AhoCorasick>,
    /// Sorted, to look up which of them a piece of text may be the beginning of.
    patterns: Vec<Vec<u8>>,
    longest: usize,
    /// Too short to be hidden inside other text.
    alone: BTreeSet<String>,
}

impl Mask {
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Mask {
        let mut patterns = BTreeSet::new();
        let mut alone = BTreeSet::new();
        for secret in secrets {
            add_forms(secret.reveal(), &mut patterns, &mut alone);
        }
        let patterns: Vec<Vec<u8>> = patterns.into_iter().collect();
        let found = (!patterns.is_empty())
            .then(|| AhoCorasick::builder().match_kind(MatchKind::Standard).build(&patterns).ok())
            .flatten();
        let longest = patterns.iter().map(Vec::len).max().unwrap_or(0);
        Mask { found, patterns, longest, alone }
    }

    /// Nothing is hidden.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty() && self.alone.is_empty()
    }

    /// A text with its secrets hidden.
    pub fn text(&self, text: &str) -> String {
        if self.alone.contains(text.trim()) {
            return MASK.to_owned();
        }
        let Some(found) = &self.found else { return text.to_owned() };
        if !found.is_match(text) {
            return text.to_owned();
        }
        let mut stream = Stream::default();
        let mut bytes = stream.push(self, text.as_bytes());
        bytes.extend(stream.finish(self));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A value with the secrets in all its texts, names and numbers hidden.
    pub fn value(&self, value: Value) -> Value {
        if self.is_empty() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.value(item)).collect(),
            Value::Object(map) => Value::Object(
                map.into_iter()
                    .map(|(name, value)| (self.text(&name), self.value(value)))
                    .collect::<Object>(),
            ),
            Value::Number(number) => {
                let text = number.to_string();
                let masked = self.text(&text);
                if masked == text { Value::Number(number) } else { Value::String(masked) }
            }
            Value::Null | Value::Bool(_) => value,
        }
    }

    /// Whether the bytes, taken as a line, are a secret too short to be hidden elsewhere.
    fn stands_alone(&self, line: &[u8]) -> bool {
        if self.alone.is_empty() || line.len() > 64 {
            return false;
        }
        std::str::from_utf8(line).is_ok_and(|line| self.alone.contains(line.trim()))
    }

    /// Where the last piece begins that may be the beginning of a secret.
    fn held_from(&self, bytes: &[u8]) -> usize {
        let first = bytes.len().saturating_sub(self.longest.saturating_sub(1));
        (first..bytes.len()).find(|start| self.begins_one(&bytes[*start..])).unwrap_or(bytes.len())
    }

    fn begins_one(&self, piece: &[u8]) -> bool {
        let place = self.patterns.partition_point(|pattern| pattern.as_slice() < piece);
        // Patterns that begin with the piece stand together, right where the piece itself would.
        self.patterns[place..]
            .iter()
            .take_while(|pattern| pattern.starts_with(piece))
            .any(|pattern| pattern.len() > piece.len())
    }
}

/// Masks what comes in pieces. Whatever the pieces, the whole is the same.
#[derive(Default)]
pub struct Stream {
    /// The end of what came, that may be the beginning of a secret.
    held: Vec<u8>,
    /// How much of `held` is covered by a `***` that was given already. `Some(0)`: the last that was given is a `***`.
    covered: Option<usize>,
}

impl Stream {
    /// The masked form of what came so far and was not given yet, but for an end that may be the beginning of a secret.
    pub fn push(&mut self, mask: &Mask, bytes: &[u8]) -> Vec<u8> {
        if self.held.is_empty() && mask.stands_alone(bytes) {
            self.covered = None;
            return alone(bytes);
        }
        let Some(found) = &mask.found else { return bytes.to_vec() };
        let mut whole = std::mem::take(&mut self.held);
        whole.extend_from_slice(bytes);
        let held_from = mask.held_from(&whole);
        self.give(found, whole, held_from)
    }

    /// What was held back: nothing follows that could make a longer secret of it.
    pub fn finish(&mut self, mask: &Mask) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        match &mask.found {
            Some(found) => {
                let end = held.len();
                self.give(found, held, end)
            }
            None => held,
        }
    }

    /// The masked form of `whole` up to `held_from`; the rest is held. A secret that begins before there is dealt with now, also where it
    /// reaches further; one that begins after is seen again, with what follows.
    fn give(&mut self, found: &AhoCorasick, mut whole: Vec<u8>, held_from: usize) -> Vec<u8> {
        let mut given = Vec::with_capacity(held_from);
        // Up to where the text is dealt with, and whether a mask that was given reaches to there.
        let mut dealt = self.covered.unwrap_or(0);
        let mut after_mask = self.covered.is_some();
        for (start, end) in merged(found, &whole) {
            let joins = after_mask && start <= dealt;
            if start >= held_from && !joins {
                break;
            }
            if start > dealt {
                given.extend_from_slice(&whole[dealt..start]);
            }
            if !joins {
                given.extend_from_slice(MASK.as_bytes());
                after_mask = true;
            }
            dealt = dealt.max(end);
        }
        if dealt < held_from {
            given.extend_from_slice(&whole[dealt..held_from]);
            after_mask = false;
            dealt = held_from;
        }
        self.covered = after_mask.then_some(dealt - held_from);
        self.held = whole.split_off(held_from);
        given
    }
}

/// A line that was nothing but a short secret, with its end of line.
fn alone(line: &[u8]) -> Vec<u8> {
    let mut masked = MASK.as_bytes().to_vec();
    if line.ends_with(b"\n") {
        masked.push(b'\n');
    }
    masked
}

/// All places of secrets, in order, those that touch or overlap as one.
fn merged(found: &AhoCorasick, bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut places: Vec<(usize, usize)> =
        found.find_overlapping_iter(bytes).map(|place| (place.start(), place.end())).collect();
    places.sort_unstable();
    let mut merged: Vec<(usize, usize)> = Vec::new();
    for (start, end) in places {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

fn add_forms(secret: &str, patterns: &mut BTreeSet<Vec<u8>>, alone: &mut BTreeSet<String>) {
    let secret = secret.trim();
    if secret.is_empty() || secret.len() > LARGEST_SECRET_BYTES {
        return;
    }
    if secret.chars().count() < SHORTEST_CHARACTERS {
        alone.insert(secret.to_owned());
        return;
    }
    for line in secret.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.chars().count() < SHORTEST_CHARACTERS {
            true => drop(alone.insert(line.to_owned())),
            false => add_line(line, patterns),
        }
    }
    add_base64(secret.as_bytes(), patterns);
    add_base64(format!("{secret}\n").as_bytes(), patterns);
    for encoded in [percent_encoded(secret, false), percent_encoded(secret, true)] {
        add(lower_hex(&encoded), patterns);
        add(encoded, patterns);
    }
    add(in_json(secret), patterns);
}

/// A line of a secret, as it is and as it stands in JSON and in URLs.
fn add_line(line: &str, patterns: &mut BTreeSet<Vec<u8>>) {
    add(line.to_owned(), patterns);
    add(in_json(line), patterns);
    add(percent_encoded(line, false), patterns);
}

/// A pattern must not go over an end of line: text comes by lines, and a line must not have to wait for the next one.
fn add(text: String, patterns: &mut BTreeSet<Vec<u8>>) {
    if !text.contains('\n') && text.chars().count() >= SHORTEST_CHARACTERS {
        patterns.insert(text.into_bytes());
    }
}

fn in_json(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted.trim_matches('"').to_owned()
}

/// The pieces of base64 that are the same whatever stands before and after the secret, for each of the three ways in which it may
/// lie in the text that was encoded; and the whole, wrapped as tools do it.
fn add_base64(secret: &[u8], patterns: &mut BTreeSet<Vec<u8>>) {
    for (before, first_sure) in [(0, 0), (1, 2), (2, 3)] {
        let mut text = vec![0; before];
        text.extend_from_slice(secret);
        let sure = text.len() * 8 / 6;
        for encoded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
            if sure - first_sure >= SHORTEST_BASE64 {
                patterns.insert(encoded.as_bytes()[first_sure..sure].to_vec());
            }
        }
    }
    let whole = STANDARD.encode(secret);
    if whole.len() >= SHORTEST_BASE64 {
        patterns.insert(whole.clone().into_bytes());
    }
    for width in WRAPS {
        if whole.len() > width {
            let lines = whole.as_bytes().chunks(width).filter(|line| line.len() >= 2 * SHORTEST_BASE64);
            patterns.extend(lines.map(<[u8]>::to_vec));
        }
    }
}

/// `%XX` for all but what never needs it; for forms `+` for a space.
fn percent_encoded(text: &str, form: bool) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => encoded.push(char::from(byte)),
            b'~' if !form => encoded.push('~'),
            b'*' if form => encoded.push('*'),
            b' ' if form => encoded.push('+'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The same with the hexadecimal digits in lower case.
fn lower_hex(encoded: &str) -> String {
    let mut after_percent = 0;
    encoded
        .chars()
        .map(|c| {
            if c == '%' {
                after_percent = 2;
                return c;
            }
            if after_percent > 0 {
                after_percent -= 1;
                return c.to_ascii_lowercase();
            }
            c
        })
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn mask(secrets: &[&str]) -> Mask {
        let secrets: Vec<Secret> = secrets.iter().map(|text| Secret::new(*text)).collect();
        Mask::new(&secrets)
    }

    fn in_pieces(mask: &Mask, pieces: &[&[u8]]) -> String {
        let mut stream = Stream::default();
        let mut bytes: Vec<u8> = pieces.iter().flat_map(|piece| stream.push(mask, piece)).collect();
        bytes.extend(stream.finish(mask));
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_secret_is_hidden_wherever_it_stands() {
        let mask = mask(&["hunter2", "s3cr3t/+ key"]);
        assert_eq!(mask.text("a hunter2 b hunter2hunter2 c"), "a *** b *** c");
        assert_eq!(mask.text("hunter"), "hunter");
        let value = json!({"hunter2": ["x hunter2", {"deep": "s3cr3t/+ key"}, 7, null]});
        assert_eq!(mask.value(value), json!({"***": ["x ***", {"deep": "***"}, 7, null]}));
    }

    #[test]
    fn base64_is_hidden_at_every_alignment() {
        let secret = "correct horse battery staple";
        let mask = mask(&[secret]);
        for before in ["", "a", "ab", "abc", "user:"] {
            for after in ["", "x", "yz", "123"] {
                let encoded = STANDARD.encode(format!("{before}{secret}{after}"));
                let masked = mask.text(&encoded);
                assert!(masked.contains(MASK), "{before}|{after}: {masked}");
                assert!(masked.len() <= 16, "{before}|{after}: {masked}");
            }
        }
        let long = format!("{}{}", "k".repeat(50), "j".repeat(77));
        let mask = self::mask(&[&long]);
        let encoded = STANDARD.encode(format!("{long}\n"));
        let wrapped: Vec<&str> =
            encoded.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
        for line in wrapped {
            assert_eq!(mask.text(line), MASK, "{line}");
        }
    }

    #[test]
    fn url_and_json_forms_are_hidden() {
        let mask = mask(&["p&ss w\"rd/ü"]);
        for form in ["p%26ss%20w%22rd%2F%C3%BC", "p%26ss+w%22rd%2f%c3%bc", "p&ss w\\\"rd/ü"] {
            assert_eq!(mask.text(&format!("x={form}&y")), "x=***&y", "{form}");
        }
    }

    #[test]
    fn each_line_of_a_long_secret_is_hidden() {
        let mask = mask(&["-----BEGIN KEY-----\nabcdefgh\n==\n-----END KEY-----\n"]);
        assert_eq!(mask.text("see abcdefgh"), "see ***");
        assert_eq!(in_pieces(&mask, &[b"-----BEGIN KEY-----\n", b"abcdefgh\n", b"==\n"]), "***\n***\n***\n");
    }

    #[test]
    fn a_short_secret_is_hidden_only_where_it_stands_alone() {
        let mask = mask(&["no", ""]);
        assert_eq!(mask.text("now or never"), "now or never");
        assert_eq!(mask.value(json!({"a": "no", "b": "nobody"})), json!({"a": "***", "b": "nobody"}));
        assert_eq!(in_pieces(&mask, &[b"nope\n", b"no\n"]), "nope\n***\n");
    }

    #[test]
    fn numbers_that_are_secrets_are_hidden() {
        assert_eq!(mask(&["123456"]).value(json!([123_456, 12_345])), json!(["***", 12_345]));
    }

    #[test]
    fn a_line_that_begins_no_secret_is_given_at_once() {
        let mask = mask(&["secret"]);
        let mut stream = Stream::default();
        assert_eq!(stream.push(&mask, b"waiting for sec\n"), b"waiting for sec\n");
        assert_eq!(stream.push(&mask, b"my sec"), b"my ");
        assert_eq!(stream.push(&mask, b"ret"), b"***");
    }

    proptest! {
        #[test]
        fn the_whole_is_the_same_however_it_is_cut(
            secrets in prop::collection::vec("[ab]{3,6}", 1..4),
            text in "[abc]{0,60}",
            cuts in prop::collection::vec(0usize..60, 0..8),
        ) {
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let mask = mask(&secrets);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]).collect();
            let masked = in_pieces(&mask, &pieces);
            prop_assert_eq!(&masked, &in_pieces(&mask, &[text.as_bytes()]));
            for secret in secrets {
                prop_assert!(!masked.contains(secret), "{} in {}", secret, masked);
            }
        }
    }
}
