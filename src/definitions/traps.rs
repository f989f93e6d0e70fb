//! Lines as people wrote them: where a value begins and was meant to end, and the quotes that it needs.

use saphyr_parser::ScalarStyle;

use super::yaml::{Content, Entry};

/// Keys whose values are rhai: what stands unquoted in a flow map is cut at commas and brackets.
const SCRIPT_KEYS: [&str; 5] = ["when", "healthy", "each", "until", "by"];

/// The byte offset of a column.
pub(super) fn byte_of(line: &str, column: usize) -> usize {
    line.char_indices().nth(column.saturating_sub(1)).map_or(line.len(), |(index, _)| index)
}

/// A text in the quotes that fit it.
pub(super) fn quote(text: &str) -> String {
    if text.contains('"') || text.contains('\\') {
        return format!("'{}'", text.replace('\'', "''"));
    }
    format!("\"{text}\"")
}

/// Whether `key` is no key but the rest of a script that YAML cut at a comma.
pub(super) fn is_cut(before: &Entry, key: &str) -> bool {
    let Content::Scalar(value) = &before.value.content else { return false };
    let opened = value.text.matches(['(', '[', '{']).count() > value.text.matches([')', ']', '}']).count();
    let is_word = key.chars().all(|c| c.is_alphanumeric() || c == '_');
    value.style == ScalarStyle::Plain && (opened || (SCRIPT_KEYS.contains(&before.key.as_str()) && !is_word))
}

/// The key of a line `key: value` or `- key: value`, and the column of its value.
pub(super) fn value_of(line: &str) -> Option<(String, usize)> {
    let mut start = line.len() - line.trim_start().len();
    while let Some(rest) = line[start..].strip_prefix("- ") {
        start = line.len() - rest.trim_start().len();
    }
    let colon = start + line[start..].find(": ")?;
    let key = &line[start..colon];
    let value = line[colon + 1..].trim_start();
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "_-.\"'".contains(c));
    (is_key && !value.is_empty())
        .then(|| (key.to_owned(), line[..line.len() - value.len()].chars().count() + 1))
}

/// The column of `sign` outside quotes and comments.
pub(super) fn unquoted(line: &str, sign: &str) -> Option<usize> {
    let mut quote = None;
    let mut before = ' ';
    for (index, (at, c)) in line.char_indices().enumerate() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => (),
            // A quote opens a value only at its beginning.
            None if (c == '"' || c == '\'') && " [{,".contains(before) => quote = Some(c),
            None if c == '#' && before == ' ' => return None,
            None if line[at..].starts_with(sign) => return Some(index + 1),
            None => (),
        }
        before = c;
    }
    None
}

/// An unquoted script in a flow map that YAML would cut: its key and column.
pub(super) fn script_in_flow(line: &str) -> Option<(String, usize)> {
    for key in SCRIPT_KEYS {
        for (at, _) in line.match_indices(&format!("{key}: ")) {
            let in_map = line[..at].trim_end().ends_with(['{', ',']);
            let start = at + key.len() + 2;
            let value = line[start..].trim_start();
            if !in_map || value.starts_with(['"', '\'']) {
                continue;
            }
            let script = &value[..script_end(value)];
            if script.contains([',', '[', ']', '{', '}']) {
                return Some((key.to_owned(), line[..line.len() - value.len()].chars().count() + 1));
            }
        }
    }
    None
}

/// Where a script that stands unquoted in a flow map was meant to end: before `, key: ` or the `}` of the map.
pub(super) fn script_end(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => (),
            (None, '"' | '\'' | '`') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') if depth > 0 => depth -= 1,
            (None, ']' | '}') => return at,
            (None, ',') if depth == 0 && begins_key(&text[at + 1..]) => return at,
            (None, _) => (),
        }
    }
    text.len()
}

pub(super) fn begins_key(text: &str) -> bool {
    let text = text.trim_start();
    let word = text.len() - text.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').len();
    word > 0 && text[word..].starts_with(": ")
}

/// Whether what stands at an offset begins a value, or stands inside `{ }` or `[ ]`.
pub(super) fn is_value_or_flow(line: &str, offset: usize) -> bool {
    let before = line[..offset].trim_end();
    let begins = before.is_empty() || before.ends_with(':') || before == "-" || before.ends_with(" -");
    begins
        || unquoted(line, "{").is_some_and(|at| byte_of(line, at) < offset)
        || unquoted(line, "[").is_some_and(|at| byte_of(line, at) < offset)
}

/// The extent of a value in a flow map or list that has a template at `offset`.
pub(super) fn flow_value(line: &str, offset: usize) -> (usize, usize) {
    let before = &line[..offset];
    let start = [": ", ", ", "{", "["]
        .iter()
        .filter_map(|sign| before.rfind(sign).map(|at| at + sign.len()))
        .max()
        .unwrap_or(offset);
    let start = line.len() - line[start..].trim_start().len();
    let mut at = offset;
    while let Some(c) = line[at..].chars().next() {
        if line[at..].starts_with("{{") {
            at += line[at..].find("}}").map_or(line.len() - at, |end| end + 2);
            continue;
        }
        if matches!(c, ',' | '}' | ']') {
            break;
        }
        at += c.len_utf8();
    }
    (start, start + line[start..at].trim_end().len())
}
