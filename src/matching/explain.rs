//! Why a condition was false: which part of it, and what its names had.

use crate::definitions::{Definitions, Rule};
use crate::expr::condition::{inside_of_parentheses, split};
use crate::expr::{Expr, Scope};
use crate::model::{Event, Value};

use super::decide::{Values, scope_of};

/// A part of a condition that made it false.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// As it is written.
    pub text: String,
    /// What it came to: `false`, `()`, or an error.
    pub came_to: String,
    /// What the names in it had.
    pub names: Vec<(String, Value)>,
}

/// How much of a value is shown, in characters.
const SHOWN: usize = 120;
/// More parts than anybody reads.
const MOST_PARTS: usize = 20;

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` is {}", self.text, self.came_to)?;
        for (position, (name, value)) in self.names.iter().enumerate() {
            let before = if position == 0 { ": " } else { ", " };
            write!(f, "{before}{name} is {}", shown(value))?;
        }
        Ok(())
    }
}

/// The parts of a rule's `when` that made it false for an event; of alternatives all, of what must be true together the first.
pub fn why_not(definitions: &Definitions, rule: &Rule, event: &Event, values: &Values) -> Vec<Part> {
    let Some(when) = &rule.when else { return Vec::new() };
    let Ok(scope) = scope_of(definitions, rule, event, values) else { return Vec::new() };
    let mut parts = Vec::new();
    collect(&definitions.expr, when.source(), &scope, &mut parts);
    parts
}

fn collect(expr: &Expr, text: &str, scope: &Scope, parts: &mut Vec<Part>) {
    let text = text.trim().trim_end_matches(';').trim();
    if parts.len() == MOST_PARTS {
        return;
    }
    if let Some(inner) = inside_of_parentheses(text) {
        return collect(expr, inner, scope, parts);
    }
    let alternatives = split(text, "||");
    if alternatives.len() > 1 {
        return alternatives.into_iter().for_each(|text| collect(expr, text, scope, parts));
    }
    let together = split(text, "&&");
    if together.len() > 1 {
        let is_true = |text: &&str| {
            let script = expr.script(text.trim());
            script.is_ok_and(|script| expr.evaluate(&script, scope) == Ok(Value::Bool(true)))
        };
        if let Some(first) = together.into_iter().find(|text| !is_true(text)) {
            collect(expr, first, scope, parts);
        }
        return;
    }
    let Ok(script) = expr.script(text) else { return };
    let came_to = match expr.evaluate(&script, scope) {
        Ok(Value::Null) => "()".to_owned(),
        Ok(value) => shown(&value),
        Err(failure) => format!("an error: {}", failure.message),
    };
    let mut names: Vec<(String, Value)> = Vec::new();
    for reference in script.references() {
        let name = reference.to_string();
        if names.iter().all(|(known, _)| *known != name) {
            names.extend(scope.get(&reference.root).map(|root| (name, at(&root, &reference.path))));
        }
    }
    parts.push(Part { text: text.to_owned(), came_to, names });
}

/// What is at a path; null when nothing is.
fn at(value: &Value, path: &[String]) -> Value {
    let found = path.iter().try_fold(value, |value, name| value.get(name));
    found.cloned().unwrap_or_default()
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "()".to_owned(),
        other => other.to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::definitions::Files;
    use crate::model::{EventId, Timestamp};

    /// What is said of `when` for this payload.
    fn said(when: &str, payload: Value) -> Vec<String> {
        let rule = format!("trigger: go\nwhen: |\n  {}\nrun: core.noop\n", when.replace('\n', "\n  "));
        let action = "description: d\nrunner: native\n";
        let texts = [
            ("triggers/go.yaml", "description: d\n"),
            ("packs/core/pack.yaml", "description: d\n"),
            ("packs/core/actions/noop.yaml", action),
            ("rules/r.yaml", rule.as_str()),
        ];
        let (definitions, mistakes) = Definitions::read(&Files::from_texts(texts));
        assert_eq!(mistakes, []);
        let event = Event {
            id: EventId(1),
            trigger: "site.go".to_owned(),
            source: "test".to_owned(),
            payload: payload.into(),
            received_at: Timestamp(0),
            routed_at: None,
            replay_of: None,
        };
        let rule = definitions.rules.values().next().unwrap();
        let parts = why_not(&definitions, rule, &event, &Values::new());
        parts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_part_that_is_false_is_named_with_its_values() {
        let payload = json!({"deleted": false, "ref": "refs/tags/v1", "size": 3});
        let when = "!event.deleted && event.ref.starts_with(\"refs/heads/\")\n  && event.size > 1";
        let wanted = r#"`event.ref.starts_with("refs/heads/")` is false: event.ref is "refs/tags/v1""#;
        assert_eq!(said(when, payload), [wanted]);
    }

    #[test]
    fn of_alternatives_each_says_why_not() {
        let payload = json!({"a": 1, "b": {"c": "x && y"}});
        let when = "event.a == 2 || (event.b.c == \"p || q\" && event.a == 1)";
        let wanted = [
            "`event.a == 2` is false: event.a is 1",
            r#"`event.b.c == "p || q"` is false: event.b.c is "x && y""#,
        ];
        assert_eq!(said(when, payload), wanted);
    }

    #[test]
    fn what_is_more_than_an_expression_is_shown_whole() {
        let said = said("let a = event.a; a == 2 && true", json!({"a": 1}));
        assert_eq!(said, ["`let a = event.a; a == 2 && true` is false: event.a is 1"]);
    }
}
