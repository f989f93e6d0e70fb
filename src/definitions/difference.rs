//! What differs between two texts of a definition, shortly.

use std::sync::Arc;

use super::sheet::Sheet;
use super::yaml::Source;
use super::{SITE, read};
use crate::model::{Object, Value};

/// How deep a difference is told by its path.
const DEEPEST: usize = 5;
/// How many differences of one file are told.
const MOST: usize = 20;

/// What a path of a site defines: the kind and the name. Other files are `file` and their path.
pub fn what_is(path: &str) -> (&'static str, String) {
    match read::kind_and_name(path) {
        Some(found) => found,
        None if path.ends_with("functions.rhai") => ("functions", path.to_owned()),
        None if path.starts_with("tests/") || path.contains("/tests/") => ("test", path.to_owned()),
        None => ("file", path.to_owned()),
    }
}

/// The keys that differ: `+ by`, `- within`, `~ with.app`; empty when only comments and spaces do.
pub fn difference(path: &str, old: &[u8], new: &[u8]) -> Vec<String> {
    if !path.ends_with(".yaml") {
        return vec!["~ its text".to_owned()];
    }
    let (Some(old), Some(new)) = (values(path, old), values(path, new)) else {
        return vec!["~ its text".to_owned()];
    };
    let mut found = Vec::new();
    compare("", &old, &new, 0, &mut found);
    if found.len() > MOST {
        let more = found.len() - MOST;
        found.truncate(MOST);
        found.push(format!("and {more} more"));
    }
    found
}

/// The documents of a file as data; `None` when it is no YAML.
fn values(path: &str, bytes: &[u8]) -> Option<Value> {
    let source = Source::new(Arc::from(path), bytes).ok()?;
    let (nodes, mistakes) = source.parse();
    if !mistakes.is_empty() {
        return None;
    }
    let sheet = Sheet::new(&source, SITE);
    let mut values: Vec<Value> = nodes.iter().map(|node| sheet.value(node)).collect();
    Some(if values.len() == 1 { values.remove(0) } else { Value::Array(values) })
}

fn compare(at: &str, old: &Value, new: &Value, depth: usize, found: &mut Vec<String>) {
    if old == new {
        return;
    }
    let of = |at: &str, key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
    let (old_entries, new_entries) = match (entries(old), entries(new)) {
        (Some(old), Some(new)) if depth < DEEPEST => (old, new),
        _ => {
            let text = if at.is_empty() { "its text" } else { at };
            return found.push(match (shown(old), shown(new)) {
                (Some(old), Some(new)) => format!("~ {text}: {old} -> {new}"),
                _ => format!("~ {text}"),
            });
        }
    };
    for (key, value) in &new_entries {
        match old_entries.get(key) {
            Some(before) => compare(&of(at, key), before, value, depth + 1, found),
            None => found.push(format!("+ {}", of(at, key))),
        }
    }
    for key in old_entries.keys().filter(|key| !new_entries.contains_key(*key)) {
        found.push(format!("- {}", of(at, key)));
    }
    let old_order = old_entries.keys().filter(|key| new_entries.contains_key(*key));
    let new_order = new_entries.keys().filter(|key| old_entries.contains_key(*key));
    if old.is_array() && old_order.ne(new_order) {
        found.push(format!("~ the order of {}", if at.is_empty() { "all" } else { at }));
    }
}

/// A map's entries, or those of a list whose items have names of their own.
fn entries(value: &Value) -> Option<Object> {
    match value {
        Value::Object(entries) => Some(entries.clone()),
        Value::Array(items) if !items.is_empty() => {
            let name = |item: &Value| {
                ["id", "name", "as", "rule", "workflow"]
                    .iter()
                    .find_map(|key| item.get(key)?.as_str().map(str::to_owned))
            };
            let named: Object =
                items.iter().map(|item| Some((name(item)?, item.clone()))).collect::<Option<_>>()?;
            (named.len() == items.len()).then_some(named)
        }
        _ => None,
    }
}

/// A short value as it is.
fn shown(value: &Value) -> Option<String> {
    let text = match value {
        Value::Object(_) | Value::Array(_) => return None,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    (text.chars().count() <= 60 && !text.contains('\n')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(old: &str, new: &str) -> String {
        difference("workflows/w.yaml", old.as_bytes(), new.as_bytes()).join("; ")
    }

    #[test]
    fn differences_are_told_by_their_keys() {
        assert_eq!(told("a: 1\n", "# why\na:   1\n"), "");
        assert_eq!(told("a: 1\nb: x\n", "a: 2\nc: x\n"), "~ a: 1 -> 2; + c; - b");
        let steps = "steps:\n  - {id: a, run: x, timeout: 1h}\n  - {id: b, run: y}\n";
        assert_eq!(told(steps, &steps.replace("1h", "2h")), "~ steps.a.timeout: 1h -> 2h");
        assert_eq!(told(steps, "steps:\n  - {id: b, run: y}\n  - {id: c, run: y}\n"), "+ steps.c; - steps.a");
        assert_eq!(
            told(steps, "steps:\n  - {id: b, run: y}\n  - {id: a, run: x, timeout: 1h}\n"),
            "~ the order of steps"
        );
        assert_eq!(told("a: [1, 2]\n", "a: [1]\n"), "~ a");
        assert_eq!(told("a: 1\n", "a: [\n"), "~ its text");
    }

    #[test]
    fn a_path_says_what_it_defines() {
        assert_eq!(what_is("rules/a.yaml"), ("rule", "site.a".to_owned()));
        assert_eq!(what_is("packs/p/actions/a.yaml"), ("action", "p.a".to_owned()));
        assert_eq!(what_is("packs/p/bin/x.py"), ("file", "packs/p/bin/x.py".to_owned()));
        assert_eq!(what_is("packs/p/functions.rhai").0, "functions");
        assert_eq!(what_is("tests/t.yaml").0, "test");
    }
}
