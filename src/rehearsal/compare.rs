//! What came, held against what was expected. Of a map only the expected entries are looked at; everything else must be equal.

use serde_json::json;

use super::Difference;
use crate::definitions::test::Called;
use crate::model::Value;

/// Adds what differs at `path` and below.
pub(super) fn values(path: &str, expected: &Value, got: Option<&Value>, found: &mut Vec<Difference>) {
    let at = |inner: &dyn std::fmt::Display| {
        if path.is_empty() { inner.to_string() } else { format!("{path}.{inner}") }
    };
    match (expected, got) {
        (Value::Object(expected), Some(Value::Object(got))) => {
            for (key, value) in expected {
                values(&at(key), value, got.get(key), found);
            }
        }
        (Value::Array(expected), Some(Value::Array(got))) if expected.len() == got.len() => {
            for (index, (value, got)) in expected.iter().zip(got).enumerate() {
                values(&at(&index), value, Some(got), found);
            }
        }
        (expected, Some(got)) if are_equal(expected, got) => (),
        // Null is what a name has that is not there.
        (Value::Null, None) => (),
        _ => differs(path, expected.clone(), got.cloned(), found),
    }
}

/// 1 and 1.0 are the same number.
fn are_equal(one: &Value, other: &Value) -> bool {
    one == other || (one.is_number() && other.is_number() && one.as_f64() == other.as_f64())
}

pub(super) fn differs(path: &str, expected: Value, got: Option<Value>, found: &mut Vec<Difference>) {
    found.push(Difference { path: path.to_owned(), expected, got, why: None });
}

/// Text that must stand in another text.
pub(super) fn holds(path: &str, part: &str, whole: Option<&str>, found: &mut Vec<Difference>) {
    if !whole.is_some_and(|whole| whole.contains(part)) {
        differs(path, json!(part), whole.map(|whole| json!(whole)), found);
    }
}

/// The expected calls must be among those that were made, in this order; others may stand between them.
pub(super) fn calls(expected: &[Called], made: &[(String, Value)], found: &mut Vec<Difference>) {
    let mut rest = made;
    for call in expected {
        let at = rest.iter().position(|(run, with)| {
            let mut differences = Vec::new();
            if let Some(expected) = &call.with {
                values("", expected, Some(with), &mut differences);
            }
            *run == call.run && differences.is_empty()
        });
        match at {
            Some(at) => rest = &rest[at + 1..],
            None => found.push(not_called(call, made)),
        }
    }
}

fn not_called(call: &Called, made: &[(String, Value)]) -> Difference {
    let expected = match &call.with {
        Some(with) => json!({"run": call.run, "with": with}),
        None => json!(call.run),
    };
    let same: Vec<&Value> = made.iter().filter(|(run, _)| *run == call.run).map(|(_, with)| with).collect();
    let (got, why) = match (same.as_slice(), &call.with) {
        ([], _) => (made.iter().map(|(run, _)| json!(run)).collect(), "these were called, in this order"),
        (_, None) => {
            (made.iter().map(|(run, _)| json!(run)).collect(), "it was called, but not as often or not then")
        }
        (same, Some(_)) => {
            (same.iter().map(|with| (*with).clone()).collect(), "it was called with these, in this order")
        }
    };
    Difference {
        path: "called".to_owned(),
        expected,
        got: Some(Value::Array(got)),
        why: Some(why.to_owned()),
    }
}

/// The expected names must be among those that came, in this order.
pub(super) fn names(path: &str, expected: &[String], came: &[String], found: &mut Vec<Difference>) {
    let mut rest = came.iter();
    if !expected.iter().all(|name| rest.any(|other| other == name)) {
        differs(path, json!(expected), Some(json!(came)), found);
    }
}
