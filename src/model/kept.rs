//! A value that belongs to a run: its input, an output. Shared, so that a copy of the run costs nothing; a large one is stored in a row of its own,
//! so that moving a run costs no more because of what its steps gave long ago.

use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Value;

/// JSON of more bytes than about this is kept in a row of its own.
const SMALL: usize = 512;

/// The value. A large one is written as null among the run's state; whoever stores the run stores it beside.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    value: Arc<Value>,
    is_large: bool,
    /// The store has a row of it, which may hold an older value.
    has_row: bool,
    /// The row, if one is needed, holds this value.
    is_stored: bool,
}

impl Kept {
    /// A value that is not stored yet.
    pub fn new(value: impl Into<Arc<Value>>) -> Kept {
        let value = value.into();
        let is_large = weight(&value, SMALL) > SMALL;
        Kept { value, is_large, has_row: false, is_stored: false }
    }

    /// A value that always has a row, however small.
    pub fn beside(value: impl Into<Arc<Value>>) -> Kept {
        Kept { is_large: true, ..Kept::new(value) }
    }

    /// Another value in its place.
    pub fn set(&mut self, value: impl Into<Arc<Value>>) {
        let has_row = self.has_row;
        *self = Kept { has_row, ..Kept::new(value) };
    }

    /// The value, shared.
    pub fn shared(&self) -> Arc<Value> {
        Arc::clone(&self.value)
    }

    /// What the store has to do about its row, if anything.
    pub fn row(&self) -> Option<Row<'_>> {
        match (self.is_large, self.has_row) {
            (true, _) if !self.is_stored => Some(Row::Write(&self.value)),
            (false, true) => Some(Row::Remove),
            _ => None,
        }
    }

    /// Its row, as the store has it.
    pub fn fill(&mut self, value: Value) {
        *self = Kept { value: Arc::new(value), is_large: true, has_row: true, is_stored: true };
    }

    /// What `row` asked for has been done.
    pub fn stored(&mut self) {
        self.has_row = self.is_large;
        self.is_stored = self.is_large;
    }
}

/// What a row needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Row<'a> {
    Write(&'a Value),
    Remove,
}

/// About how many bytes `value` is as JSON; stops counting beyond `enough`.
fn weight(value: &Value, enough: usize) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => {
            let mut sum = 2;
            for item in items {
                sum += weight(item, enough);
                if sum > enough {
                    break;
                }
            }
            sum
        }
        Value::Object(entries) => {
            let mut sum = 2;
            for (key, item) in entries {
                sum += key.len() + 4 + weight(item, enough);
                if sum > enough {
                    break;
                }
            }
            sum
        }
    }
}

impl Deref for Kept {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.value
    }
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.value.fmt(f)
    }
}

impl From<Value> for Kept {
    fn from(value: Value) -> Kept {
        Kept::new(value)
    }
}

impl From<Arc<Value>> for Kept {
    fn from(value: Arc<Value>) -> Kept {
        Kept::new(value)
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Kept) -> bool {
        Arc::ptr_eq(&self.value, &other.value) || self.value == other.value
    }
}

impl PartialEq<Value> for Kept {
    fn eq(&self, other: &Value) -> bool {
        *self.value == *other
    }
}

impl Serialize for Kept {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_large { serializer.serialize_none() } else { self.value.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Kept, D::Error> {
        Value::deserialize(deserializer).map(Kept::new)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_small_value_stays_in_the_state_and_a_large_one_asks_for_a_row() {
        let mut kept = Kept::new(json!({"a": 1}));
        assert_eq!(kept.row(), None);
        assert_eq!(serde_json::to_string(&kept).unwrap(), r#"{"a":1}"#);
        let large = Value::from("x".repeat(SMALL));
        kept.set(large.clone());
        assert_eq!(serde_json::to_string(&kept).unwrap(), "null");
        assert_eq!(kept.row(), Some(Row::Write(&large)));
        kept.stored();
        assert_eq!(kept.row(), None);
        // It shrinks again: the row must go, or it would be taken for the value.
        kept.set(json!(1));
        assert_eq!(kept.row(), Some(Row::Remove));
        kept.stored();
        assert_eq!(kept.row(), None);
    }

    #[test]
    fn what_was_stored_inside_the_state_gets_its_row_at_the_next_write() {
        let text = format!("{:?}", "x".repeat(SMALL));
        let kept: Kept = serde_json::from_str(&text).unwrap();
        assert!(matches!(kept.row(), Some(Row::Write(_))));
        let mut filled = Kept::default();
        filled.fill(Value::from("y".repeat(SMALL)));
        assert_eq!(filled.row(), None);
    }
}
