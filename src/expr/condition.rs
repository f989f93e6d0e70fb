//! The parts of a condition, by its text: what stands between `&&` or `||`, and whether it begins with a comparison that can be looked up.

use crate::model::Value;

/// A comparison with which a condition begins, or which follows others of its kind after `&&`: the condition is false for every event that has
/// something else there, whatever comes after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Lead {
    /// The names after `event`, each with whether it may be missing (`?.`).
    pub path: Vec<(String, bool)>,
    pub wanted: Wanted,
}

/// What an event has to have there.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// One of these, all of one type: `== "text"`, `in ["text", "other"]`.
    OneOf(Vec<Value>),
    /// A text that begins so: `.starts_with("text")`.
    Prefix(String),
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

/// The comparisons with which a condition begins, in order: those that are joined by `&&` before anything else stands there.
pub fn leads(condition: &str) -> Vec<Lead> {
    let condition = condition.trim().trim_end_matches(';');
    if split(condition, "||").len() > 1 {
        return Vec::new();
    }
    split(condition, "&&").into_iter().map_while(|term| Lead::of(term.trim())).collect()
}

impl Lead {
    /// One comparison: of `event.a.b` with texts, whole numbers or truths.
    fn of(term: &str) -> Option<Lead> {
        if let [path, value] = split(term, "==")[..] {
            return Some(Lead {
                path: path_of(path.trim())?,
                wanted: Wanted::OneOf(vec![literal(value.trim())?]),
            });
        }
        if let [path, list] = split(term, " in ")[..] {
            return Some(Lead { path: path_of(path.trim())?, wanted: Wanted::OneOf(literals(list.trim())?) });
        }
        let (path, prefix) = term.strip_suffix(')')?.rsplit_once(".starts_with(")?;
        match literal(prefix.trim())? {
            Value::String(prefix) => {
                Some(Lead { path: path_of(path.trim())?, wanted: Wanted::Prefix(prefix) })
            }
            _ => None,
        }
    }
}

/// What `payload` has at a path.
pub fn find<'a>(path: &[(String, bool)], payload: &'a Value) -> Found<'a> {
    let mut value = payload;
    for (name, is_optional) in path {
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

/// `["a", "b"]`: literals of one type.
fn literals(text: &str) -> Option<Vec<Value>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let values =
        split(inner, ",").into_iter().map(|text| literal(text.trim())).collect::<Option<Vec<Value>>>()?;
    let first = std::mem::discriminant(values.first()?);
    values.iter().all(|value| std::mem::discriminant(value) == first).then_some(values)
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

    /// `path wanted` of each.
    fn leads_of(condition: &str) -> Vec<String> {
        let shown = |lead: Lead| {
            let names = lead
                .path
                .iter()
                .map(|(name, optional)| format!("{}{name}", if *optional { "?" } else { "" }));
            let wanted = match lead.wanted {
                Wanted::OneOf(values) => Value::Array(values).to_string(),
                Wanted::Prefix(prefix) => format!("{prefix}..."),
            };
            format!("{} {wanted}", names.collect::<Vec<_>>().join("."))
        };
        leads(condition).into_iter().map(shown).collect()
    }

    #[test]
    fn comparisons_at_the_beginning_are_leads_and_nothing_else_is() {
        assert_eq!(leads_of("event.a.b == \"x && y\" && f(event)"), ["a.b [\"x && y\"]"]);
        assert_eq!(leads_of(" event?.a?.b==3 "), ["?a.?b [3]"]);
        assert_eq!(leads_of("event.on == true"), ["on [true]"]);
        assert_eq!(leads_of("event.a in [\"x, y\", \"z\"]"), ["a [\"x, y\",\"z\"]"]);
        assert_eq!(leads_of("event.a.starts_with(\"refs/\")"), ["a refs/..."]);
        assert_eq!(
            leads_of(
                "event.a == 1 && event.b in [2, 3] && event.c.starts_with(\"x\") && !event.d && event.e == 1"
            ),
            ["a [1]", "b [2,3]", "c x..."]
        );
        for other in [
            "!event.deleted && event.a == 1",
            "event.a == 1 || event.b == 2",
            "event.a == 1 && event.b == 1 || event.c == 2",
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
            "event.a in [1, \"x\"]",
            "event.a in []",
            "event.a in \"text\"",
            "event.a in [1] == true",
            "\"x\" in event.a",
            "event.a?.starts_with(\"x\")",
            "event.a.starts_with(1)",
            "event.a.starts_with(\"x\" + \"y\")",
            "event.a.starts_with(\"x\").starts_with(\"y\")",
            "event.a.ends_with(\"x\")",
        ] {
            assert_eq!(leads_of(other), Vec::<String>::new(), "{other}");
        }
    }

    #[test]
    fn what_may_be_missing_is_nothing_and_what_may_not_is_unclear() {
        let found = |path: &str, payload: Value| match find(&path_of(path).unwrap_or_default(), &payload) {
            Found::Value(value) => value.to_string(),
            Found::Unclear => "unclear".to_owned(),
        };
        assert_eq!(found("event.a", json!({"a": 2})), "2");
        assert_eq!(found("event.a", json!({})), "unclear");
        assert_eq!(found("event.a.b", json!({"a": null})), "unclear");
        assert_eq!(found("event.a?.b", json!({"a": null})), "null");
        assert_eq!(found("event?.a?.b", json!({})), "null");
        assert_eq!(found("event?.a?.b", json!({"a": "text"})), "unclear");
    }
}
