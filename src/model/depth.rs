//! How deep values may nest. A value is stored inside others (a payload in an output in a run), and readers of JSON have a limit of their own
//! (127 for ours), so what comes in is held to half of that.

use super::Value;

/// The deepest that a payload, an input or an output may nest.
pub const DEEPEST: usize = 64;

/// Whether `value` nests deeper than [`DEEPEST`] lists and objects.
pub fn is_too_deep(value: &Value) -> bool {
    nests_deeper(value, DEEPEST)
}

fn nests_deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => true,
        Value::Array(items) => items.iter().any(|item| nests_deeper(item, levels - 1)),
        Value::Object(entries) => entries.values().any(|value| nests_deeper(value, levels - 1)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_levels_are_not_too_deep_and_one_more_is() {
        let nested = |levels: usize| (0..levels).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        assert!(!is_too_deep(&nested(DEEPEST)));
        assert!(is_too_deep(&nested(DEEPEST + 1)));
    }
}
