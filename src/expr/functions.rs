//! The functions that both languages see: as functions and methods in rhai, as filters in templates. One list, [`ALL`].

use core::net::IpAddr;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use base64::Engine as _;
use sha2::{Digest, Sha256};

use crate::model::{Span, Value};

/// A function of values.
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) arguments: usize,
    pub(super) call: fn(&[Value]) -> Result<Value, String>,
}

/// All of them.
pub(super) const ALL: &[Function] = &[
    Function { name: "version_compare", arguments: 2, call: version_compare },
    Function { name: "matches", arguments: 2, call: matches },
    Function { name: "glob", arguments: 2, call: glob },
    Function { name: "cidr", arguments: 2, call: cidr },
    Function { name: "duration", arguments: 1, call: duration },
    Function { name: "seconds", arguments: 1, call: seconds },
    Function { name: "sha256", arguments: 1, call: sha256 },
    Function { name: "base64", arguments: 1, call: base64 },
    Function { name: "json", arguments: 1, call: json },
    Function { name: "removeprefix", arguments: 2, call: removeprefix },
    Function { name: "removesuffix", arguments: 2, call: removesuffix },
];

/// `text "1"`, `number 1`: a value and its type for people, never long.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "()".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {:?}", shorten(text)),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "a map".to_owned(),
    }
}

/// At most 40 characters of a text.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

fn text<'a>(function: &str, arguments: &'a [Value], at: usize) -> Result<&'a str, String> {
    match arguments.get(at) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("{function}() takes text, not {}", describe(other))),
        None => Err(format!("{function}() takes {} values", at + 1)),
    }
}

fn version_compare(arguments: &[Value]) -> Result<Value, String> {
    let left = text("version_compare", arguments, 0)?;
    let right = text("version_compare", arguments, 1)?;
    Ok(Value::from(compare_versions(left, right) as i8))
}

/// The order of Debian versions: `[epoch:]upstream[-revision]`, `~` before everything, even the end.
pub(super) fn compare_versions(left: &str, right: &str) -> Ordering {
    let (left_epoch, left_rest) = split_epoch(left.trim());
    let (right_epoch, right_rest) = split_epoch(right.trim());
    let (left_upstream, left_revision) = left_rest.rsplit_once('-').unwrap_or((left_rest, ""));
    let (right_upstream, right_revision) = right_rest.rsplit_once('-').unwrap_or((right_rest, ""));
    compare_digits(left_epoch, right_epoch)
        .then_with(|| compare_parts(left_upstream, right_upstream))
        .then_with(|| compare_parts(left_revision, right_revision))
}

fn split_epoch(version: &str) -> (&str, &str) {
    match version.split_once(':') {
        Some((epoch, rest)) if !epoch.is_empty() && epoch.bytes().all(|c| c.is_ascii_digit()) => {
            (epoch, rest)
        }
        _ => ("0", version),
    }
}

/// Numbers of any length, by value.
fn compare_digits(left: &str, right: &str) -> Ordering {
    let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

/// Texts and numbers in turn: `~`, then the end, then letters, then all else.
fn compare_parts(mut left: &str, mut right: &str) -> Ordering {
    let rank = |c: Option<char>| match c {
        Some('~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => i64::from(u32::from(c)),
        Some(c) => i64::from(u32::from(c)) + 0x11_0000,
    };
    while !left.is_empty() || !right.is_empty() {
        let (left_text, left_rest) = take(left, |c| !c.is_ascii_digit());
        let (right_text, right_rest) = take(right, |c| !c.is_ascii_digit());
        let (mut left_chars, mut right_chars) = (left_text.chars(), right_text.chars());
        loop {
            let (left_char, right_char) = (left_chars.next(), right_chars.next());
            match rank(left_char).cmp(&rank(right_char)) {
                Ordering::Equal if left_char.is_none() => break,
                Ordering::Equal => (),
                order => return order,
            }
        }
        let (left_number, left_rest) = take(left_rest, |c| c.is_ascii_digit());
        let (right_number, right_rest) = take(right_rest, |c| c.is_ascii_digit());
        let order = compare_digits(left_number, right_number);
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

fn take(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// Patterns that were compiled already: rules use the same few again and again.
static PATTERNS: LazyLock<Mutex<HashMap<String, regex::Regex>>> = LazyLock::new(Mutex::default);
const PATTERNS_KEPT: usize = 256;

fn matches(arguments: &[Value]) -> Result<Value, String> {
    let subject = text("matches", arguments, 0)?;
    let pattern = text("matches", arguments, 1)?;
    let known = PATTERNS.lock().unwrap_or_else(PoisonError::into_inner).get(pattern).cloned();
    if let Some(regex) = known {
        return Ok(Value::from(regex.is_match(subject)));
    }
    let regex =
        regex::RegexBuilder::new(pattern).size_limit(1 << 20).dfa_size_limit(1 << 20).build().map_err(
            |error| {
                format!("matches(): the pattern {:?} does not work: {}", shorten(pattern), last_line(&error))
            },
        )?;
    let answer = regex.is_match(subject);
    let mut patterns = PATTERNS.lock().unwrap_or_else(PoisonError::into_inner);
    if patterns.len() >= PATTERNS_KEPT {
        patterns.clear();
    }
    patterns.insert(pattern.to_owned(), regex);
    Ok(Value::from(answer))
}

/// Errors of regular expressions draw a picture; the last line says why.
fn last_line(error: &impl ToString) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

fn glob(arguments: &[Value]) -> Result<Value, String> {
    let subject = text("glob", arguments, 0)?;
    let pattern = text("glob", arguments, 1)?;
    // As in file names and .gitignore: `*` stops at a slash, `**` does not.
    let glob = globset::GlobBuilder::new(pattern).literal_separator(true).build();
    let glob = glob.map_err(|error| {
        format!("glob(): the pattern {:?} does not work: {}", shorten(pattern), error.kind())
    })?;
    Ok(Value::from(glob.compile_matcher().is_match(subject)))
}

fn cidr(arguments: &[Value]) -> Result<Value, String> {
    let address = text("cidr", arguments, 0)?;
    let network = text("cidr", arguments, 1)?;
    let address: IpAddr = address
        .parse()
        .map_err(|_| format!("cidr() takes an address like 10.1.2.3 first, not {:?}", shorten(address)))?;
    let network =
        network.parse::<ipnet::IpNet>().or_else(|_| network.parse::<IpAddr>().map(ipnet::IpNet::from));
    let Ok(network) = network else {
        return Err(format!(
            "cidr() takes a network like 10.0.0.0/8 second, not {}",
            describe(&arguments[1])
        ));
    };
    Ok(Value::from(network.contains(&address)))
}

fn duration(arguments: &[Value]) -> Result<Value, String> {
    in_seconds("duration", arguments)
}

fn seconds(arguments: &[Value]) -> Result<Value, String> {
    in_seconds("seconds", arguments)
}

/// A duration as a number of seconds, whole when it is; a number is taken as seconds already.
fn in_seconds(function: &str, arguments: &[Value]) -> Result<Value, String> {
    if let Some(number @ Value::Number(_)) = arguments.first() {
        return Ok(number.clone());
    }
    let Span(millis) =
        text(function, arguments, 0)?.parse().map_err(|error| format!("{function}(): {error}"))?;
    if millis % 1000 == 0 {
        return Ok(Value::from(millis / 1000));
    }
    Ok(Value::from(std::time::Duration::from_millis(millis).as_secs_f64()))
}

fn sha256(arguments: &[Value]) -> Result<Value, String> {
    Ok(Value::from(hex::encode(Sha256::digest(text("sha256", arguments, 0)?))))
}

fn base64(arguments: &[Value]) -> Result<Value, String> {
    Ok(Value::from(base64::engine::general_purpose::STANDARD.encode(text("base64", arguments, 0)?)))
}

/// Text is read as JSON; anything else is written as JSON.
fn json(arguments: &[Value]) -> Result<Value, String> {
    match arguments.first() {
        Some(Value::String(text)) => serde_json::from_str(text).map_err(|error| format!("json(): {error}")),
        Some(other) => Ok(Value::from(other.to_string())),
        None => Err("json() takes a value".to_owned()),
    }
}

fn removeprefix(arguments: &[Value]) -> Result<Value, String> {
    let subject = text("removeprefix", arguments, 0)?;
    Ok(Value::from(subject.strip_prefix(text("removeprefix", arguments, 1)?).unwrap_or(subject)))
}

fn removesuffix(arguments: &[Value]) -> Result<Value, String> {
    let subject = text("removesuffix", arguments, 0)?;
    Ok(Value::from(subject.strip_suffix(text("removesuffix", arguments, 1)?).unwrap_or(subject)))
}
