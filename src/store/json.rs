//! JSON in text columns, and words that stand for enums.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;

/// The deepest nesting that is read back. What is deeper must not get in: it could never be read again.
const DEEPEST: usize = 127;

/// The text to store.
pub(super) fn write<T: Serialize + ?Sized>(what: &str, value: &T) -> Result<String, StoreError> {
    let text = serde_json::to_string(value).map_err(|error| StoreError::corrupt(what, error))?;
    if depth(&text) > DEEPEST {
        return Err(StoreError::TooDeep { what: what.to_owned(), most: DEEPEST });
    }
    Ok(text)
}

/// How deep the brackets of well-formed JSON nest, those inside strings not counted.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    deepest
}

fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            // The next one is escaped, whatever it is.
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}

/// What was stored.
pub(super) fn read<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::corrupt(what, error))
}

/// The word of an enum without data, as it is serialized.
pub(super) fn word<T: Serialize>(what: &str, value: &T) -> Result<String, StoreError> {
    Ok(write(what, value)?.trim_matches('"').to_owned())
}

/// The enum that a word stands for.
pub(super) fn of_word<T: DeserializeOwned>(what: &str, word: &str) -> Result<T, StoreError> {
    serde_json::from_value(serde_json::Value::String(word.to_owned()))
        .map_err(|error| StoreError::corrupt(what, error))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::Value;

    fn nested(levels: usize) -> Value {
        (0..levels).fold(Value::from(r#"[[{"#), |inner, level| match level % 2 {
            0 => Value::Array(vec![inner]),
            _ => serde_json::json!({ r#"a\"["#: inner }),
        })
    }

    #[test]
    fn what_is_accepted_can_be_read_back_and_what_is_deeper_is_refused() {
        for levels in [0, 1, DEEPEST - 1, DEEPEST] {
            let text = write("value", &nested(levels)).unwrap();
            assert_eq!(read::<Value>("value", &text).unwrap(), nested(levels), "{levels}");
        }
        let refused = write("value", &nested(DEEPEST + 1));
        assert_eq!(refused, Err(StoreError::TooDeep { what: "value".to_owned(), most: DEEPEST }));
    }
}
