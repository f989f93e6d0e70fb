//! Values from outside as rhai sees them: a map stays where it is and is walked ([`Branch`]), what is read from it becomes a value of
//! rhai's own. And back: what a script gives becomes JSON.

use std::sync::Arc;

use rhai::{Array, Dynamic, EvalAltResult, FnPtr, ImmutableString, Map, Position};

use super::functions::describe;
use super::limits;
use super::scope::{Branch, Way};
use crate::model::{Object, Value};

/// What natives give rhai.
pub(super) type Outcome<T> = Result<T, Box<EvalAltResult>>;

/// An error of a native; rhai adds the place of the call.
pub(super) fn error<T>(message: impl Into<String>) -> Outcome<T> {
    Err(Box::new(EvalAltResult::ErrorRuntime(message.into().into(), Position::NONE)))
}

/// The value at a place, for rhai.
pub(super) fn to_dynamic(branch: &Branch) -> Outcome<Dynamic> {
    if branch.is_parts() {
        return Ok(Dynamic::from(branch.clone()));
    }
    Ok(match branch.value() {
        Value::Null => Dynamic::UNIT,
        Value::Bool(value) => (*value).into(),
        Value::String(text) => text.as_str().into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(whole), ..) => whole.into(),
            (None, Some(large), _) => {
                return error(format!("{branch} is {large}, which is too large for a whole number in rhai"));
            }
            (None, None, Some(float)) => float.into(),
            (None, None, None) => {
                return error(format!("{branch} is no number that rhai can hold: {number}"));
            }
        },
        Value::Array(items) => {
            if items.len() > limits::LIST_ITEMS {
                return Err(Box::new(EvalAltResult::ErrorDataTooLarge(
                    format!("{branch} has {} items", items.len()),
                    Position::NONE,
                )));
            }
            let items = (0..items.len()).map(|index| to_dynamic(&branch.down(Way::Index(index))));
            items.collect::<Outcome<Array>>()?.into()
        }
        Value::Object(_) => Dynamic::from(branch.clone()),
    })
}

/// A value that a function made, for rhai.
pub(super) fn from_value(name: &str, value: Value) -> Outcome<Dynamic> {
    to_dynamic(&Branch::new(name, Arc::new(value)))
}

/// What is left of the limits on one result.
pub(super) struct Budget {
    values: usize,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { values: limits::RESULT_VALUES, bytes: limits::RESULT_BYTES }
    }
}

impl Budget {
    /// Pays for one value with so many bytes of text.
    pub(super) fn spend(&mut self, bytes: usize, depth: usize) -> Result<(), String> {
        if depth > limits::RESULT_DEPTH {
            return Err(format!("the result is more than {} lists and maps deep", limits::RESULT_DEPTH));
        }
        let (Some(values), Some(bytes)) = (self.values.checked_sub(1), self.bytes.checked_sub(bytes)) else {
            return Err(format!(
                "the result is too large: at most {} values and {} MB of text",
                limits::RESULT_VALUES,
                limits::RESULT_BYTES >> 20
            ));
        };
        (self.values, self.bytes) = (values, bytes);
        Ok(())
    }

    /// Pays for a value and all that is in it.
    pub(super) fn spend_all(&mut self, value: &Value, depth: usize) -> Result<(), String> {
        match value {
            Value::String(text) => self.spend(text.len(), depth),
            Value::Array(items) => {
                self.spend(0, depth)?;
                items.iter().try_for_each(|item| self.spend_all(item, depth + 1))
            }
            Value::Object(map) => {
                self.spend(0, depth)?;
                map.iter().try_for_each(|(key, item)| {
                    self.spend(key.len(), depth)?;
                    self.spend_all(item, depth + 1)
                })
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => self.spend(0, depth),
        }
    }
}

/// A value of rhai as JSON.
pub(super) fn to_value(value: &Dynamic) -> Result<Value, String> {
    convert(value, &mut Budget::default(), 0)
}

fn convert(value: &Dynamic, budget: &mut Budget, depth: usize) -> Result<Value, String> {
    if let Some(branch) = value.read_lock::<Branch>() {
        budget.spend_all(branch.value(), depth)?;
        return Ok(branch.value().clone());
    }
    if let Some(text) = value.read_lock::<ImmutableString>() {
        budget.spend(text.len(), depth)?;
        return Ok(Value::from(text.as_str()));
    }
    budget.spend(0, depth)?;
    if let Some(items) = value.read_lock::<Array>() {
        return Ok(Value::Array(
            items.iter().map(|item| convert(item, budget, depth + 1)).collect::<Result<_, _>>()?,
        ));
    }
    if let Some(map) = value.read_lock::<Map>() {
        let mut object = Object::new();
        for (key, item) in map.iter() {
            budget.spend(key.len(), depth)?;
            object.insert(key.to_string(), convert(item, budget, depth + 1)?);
        }
        return Ok(Value::Object(object));
    }
    if let Some(range) = value.read_lock::<std::ops::Range<i64>>() {
        return whole_numbers(range.start, range.end, budget);
    }
    if let Some(range) = value.read_lock::<std::ops::RangeInclusive<i64>>() {
        return whole_numbers(*range.start(), range.end().saturating_add(1), budget);
    }
    if value.is_unit() {
        return Ok(Value::Null);
    }
    if let Ok(value) = value.as_bool() {
        return Ok(Value::Bool(value));
    }
    if let Ok(value) = value.as_int() {
        return Ok(Value::from(value));
    }
    if let Ok(value) = value.as_float() {
        return match serde_json::Number::from_f64(value) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(format!("{value} is no number that JSON can hold")),
        };
    }
    if let Ok(value) = value.as_char() {
        return Ok(Value::from(value.to_string()));
    }
    Err(format!("{} is no value that can leave a script", kind(value)))
}

fn whole_numbers(start: i64, end: i64, budget: &mut Budget) -> Result<Value, String> {
    (start..end)
        .map(|number| budget.spend(0, 0).map(|()| Value::from(number)))
        .collect::<Result<Vec<_>, _>>()
        .map(Value::Array)
}

/// The type of a value in words for people; values of the same kind can be compared.
pub(super) fn kind(value: &Dynamic) -> &'static str {
    if value.is_unit() {
        "()"
    } else if value.is_bool() {
        "a boolean"
    } else if value.is_int() || value.is_float() {
        "a number"
    } else if value.is_string() || value.is_char() {
        "a text"
    } else if value.is_array() {
        "a list"
    } else if value.is_map() || value.is::<Branch>() {
        "a map"
    } else if value.is::<FnPtr>() {
        "a function"
    } else {
        "a range"
    }
}

/// The value and its type, short.
pub(super) fn describe_dynamic(value: &Dynamic) -> String {
    if value.is::<Branch>() || value.is_map() || value.is_array() {
        return kind(value).to_owned();
    }
    to_value(value).map_or_else(|_| kind(value).to_owned(), |value| describe(&value))
}
