//! The parts of a condition, by its text: what stands between `&&` or `||`, and whether it begins with a comparison that can be looked up.

use crate::model::Value;

/// A condition that begins so is false for every event that has another value there, whatever comes after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Lead {
    /// The names after `event`, each with whether it may be missing (`?.`).
    pub path: Vec<(String, bool)>,
    pub value: Value,
}

/// What a payload has where a lead looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Found<'a> {
    /// A value, or `()` where it may be missing.
    Value(&'a Value),
    /// Only the condition itself can say: it may fail there.
    Unclear,
}

const NOTHING: Value = Value::Null;

impl Lead {
    /// The comparison at the beginning of a condition: `event.a.b == "text"`, with a text, a whole number or a truth.
    pub fn of(condition: &str) -> Option<Lead> {
        let condition = condition.trim().trim_end_matches(';');
        if split(condition, "||").len() > 1 {
            return None;
        }
        let first = split(condition, "&&").into_iter().next()?.trim();
        let mut sides = split(first, "==").into_iter();
        let (path, value) = (sides.next()?.trim(), sides.next()?.trim());
        if sides.next().is_some() {
            return None;
        }
        Some(Lead { path: path_of(path)?, value: literal(value)? })
    }

    /// What `payload` has there.
    pub fn find<'a>(&self, payload: &'a Value) -> Found<'a> {
        let mut value = payload;
        for (name, is_optional) in &self.path {
            value = match value {
                Value::Object(entries) => match entries.get(name) {
                    Some(value) => value,
                    None if *is_optional => &NOTHING,
                    None => return Found::Unclear,
                },
                Value::Null if *is_optional => &NOTHING,
                _ => return Found::Unclear,
            };
        }
        Found::Value(value)
    }
}

/// `event.a?.b`
fn path_of(text: &str) -> Option<Vec<(String, bool)>> {
    let mut rest = text.strip_prefix("event")?;
    let mut path = Vec::new();
    while !rest.is_empty() {
        let is_optional = rest.starts_with('?');
        rest = rest.trim_start_matches('?').strip_prefix('.')?;
        let end = rest
            .find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'))
            .unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
            return None;
        }
        path.push((name.to_owned(), is_optional));
        rest = after;
    }
    (!path.is_empty()).then_some(path)
}

/// A text without escapes, a whole number, or a truth.
fn literal(text: &str) -> Option<Value> {
    if let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        let is_plain = !inner.contains(['"', '\\', '\n', '\r']);
        return is_plain.then(|| Value::String(inner.to_owned()));
    }
    match text {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        number if number.chars().all(|letter| letter.is_ascii_digit()) => {
            number.parse::<i64>().ok().map(Value::from)
        }
        _ => None,
    }
}

/// What stands between parentheses that hold all of a text.
pub fn inside_of_parentheses(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    // `(a) && (b)` begins and ends so too.
    let closes_early = Marks::of(inner).any(|mark| mark.depth < 0);
    (!closes_early).then_some(inner)
}

/// The parts of a text between an operator that stands outside of all brackets, strings and comments; the whole when it is more than one expression.
pub fn split<'t>(text: &'t str, operator: &str) -> Vec<&'t str> {
    let mut parts = Vec::new();
    let mut begin = 0;
    for mark in Marks::of(text).filter(|mark| mark.depth == 0) {
        if text[mark.at..].starts_with(';') {
            return vec![text];
        }
        if mark.at >= begin && text[mark.at..].starts_with(operator) {
            parts.push(&text[begin..mark.at]);
            begin = mark.at + operator.len();
        }
    }
    parts.push(&text[begin..]);
    parts
}

/// A character of code, outside of strings and comments, and how many brackets are open there.
struct Mark {
    at: usize,
    depth: i32,
}

struct Marks<'t> {
    rest: std::iter::Peekable<std::str::CharIndices<'t>>,
    depth: i32,
}

impl<'t> Marks<'t> {
    fn of(text: &'t str) -> Marks<'t> {
        Marks { rest: text.char_indices().peekable(), depth: 0 }
    }

    fn skip_string(&mut self, quote: char) {
        while let Some((_, letter)) = self.rest.next() {
            match letter {
                '\\' if quote != '`' => drop(self.rest.next()),
                letter if letter == quote => return,
                _ => (),
            }
        }
    }

    fn skip_comment(&mut self, is_block: bool) {
        let mut before = ' ';
        for (_, letter) in self.rest.by_ref() {
            if (is_block && before == '*' && letter == '/') || (!is_block && letter == '\n') {
                return;
            }
            before = letter;
        }
    }
}

impl Iterator for Marks<'_> {
    type Item = Mark;

    fn next(&mut self) -> Option<Mark> {
        loop {
            let (at, letter) = self.rest.next()?;
            match (letter, self.rest.peek().map(|(_, next)| *next)) {
                ('"' | '\'' | '`', _) => self.skip_string(letter),
                ('/', Some('/')) => self.skip_comment(false),
                ('/', Some('*')) => self.skip_comment(true),
                ('(' | '[' | '{', _) => {
                    self.depth += 1;
                    return Some(Mark { at, depth: self.depth });
                }
                (')' | ']' | '}', _) => {
                    self.depth -= 1;
                    return Some(Mark { at, depth: self.depth });
                }
                _ => return Some(Mark { at, depth: self.depth }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lead(condition: &str) -> Option<(String, Value)> {
        let lead = Lead::of(condition)?;
        let path =
            lead.path.iter().map(|(name, optional)| format!("{}{name}", if *optional { "?" } else { "" }));
        Some((path.collect::<Vec<_>>().join("."), lead.value))
    }

    #[test]
    fn a_comparison_at_the_beginning_is_a_lead_and_nothing_else_is() {
        assert_eq!(lead("event.a.b == \"x && y\" && f(event)"), Some(("a.b".to_owned(), json!("x && y"))));
        assert_eq!(lead(" event?.a?.b==3 "), Some(("?a.?b".to_owned(), json!(3))));
        assert_eq!(lead("event.on == true"), Some(("on".to_owned(), json!(true))));
        for other in [
            "!event.deleted && event.a == 1",
            "event.a == 1 || event.b == 2",
            "(event.a == 1)",
            "event.a.len() == 1",
            "event.a[0] == 1",
            "event.a == event.b",
            "event.a == \"x\\n\"",
            "event.a == 1.5",
            "event.a != 1",
            "event.a == 1 == true",
            "let x = 1; event.a == x",
            "event == 1",
            "events.a == 1",
            "if event.a == 1 { true } else { false }",
        ] {
            assert_eq!(lead(other), None, "{other}");
        }
    }

    #[test]
    fn what_may_be_missing_is_nothing_and_what_may_not_is_unclear() {
        let find = |condition: &str, payload: &Value| {
            Lead::of(condition).map(|lead| match lead.find(payload) {
                Found::Value(value) => value.to_string(),
                Found::Unclear => "unclear".to_owned(),
            })
        };
        let found = |condition: &str, payload: Value| find(condition, &payload).unwrap_or_default();
        assert_eq!(found("event.a == 1", json!({"a": 2})), "2");
        assert_eq!(found("event.a == 1", json!({})), "unclear");
        assert_eq!(found("event.a.b == 1", json!({"a": null})), "unclear");
        assert_eq!(found("event.a?.b == 1", json!({"a": null})), "null");
        assert_eq!(found("event?.a?.b == 1", json!({})), "null");
        assert_eq!(found("event?.a?.b == 1", json!({"a": "text"})), "unclear");
    }
}
