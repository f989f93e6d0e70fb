//! `name=value` and `name:=JSON` on the command line, and files of JSON.

use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;

use crate::model::{Object, Value};

use super::Usage;

/// The JSON of a file; `-` is stdin.
pub(super) fn read_json(file: &Path) -> anyhow::Result<Value> {
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).context("stdin")?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    }
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))
}

/// One `name=value`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) value: Value,
}

/// Reads `name=value` (a string, which the server parses to the declared type) or `name:=JSON`.
pub(super) fn parse(text: &str) -> Result<Input, String> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(format!("`{text}` is not name=value; write the input's name, `=`, and its value"));
    };
    let (name, value) = match name.strip_suffix(':') {
        None => (name, Value::String(value.to_owned())),
        Some(name) => {
            let value = serde_json::from_str(value)
                .map_err(|error| format!("`{value}` after := is not JSON: {error}"))?;
            (name, value)
        }
    };
    if name.is_empty() {
        return Err(format!("`{text}` has no name before `=`"));
    }
    Ok(Input { name: name.to_owned(), value })
}

/// All of them as an object.
///
/// # Errors
/// A name stands twice.
pub(super) fn object(inputs: Vec<Input>) -> Result<Value, Usage> {
    let mut object = Object::new();
    for Input { name, value } in inputs {
        if object.contains_key(&name) {
            return Err(Usage(format!("`{name}` is given twice")));
        }
        object.insert(name, value);
    }
    Ok(Value::Object(object))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_text_unless_they_are_said_to_be_json() {
        assert_eq!(parse("value=3").unwrap().value, json!("3"));
        assert_eq!(parse("value:=3").unwrap().value, json!(3));
        assert_eq!(parse("hosts:=[\"a\"]").unwrap().value, json!(["a"]));
        assert_eq!(parse("url=http://h/?a=b").unwrap().value, json!("http://h/?a=b"));
        assert_eq!(parse("empty=").unwrap().value, json!(""));
    }

    #[test]
    fn what_is_no_input_is_refused() {
        for text in ["value", "=3", ":=3", "value:=hello"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let twice = vec![parse("a=1").unwrap(), parse("a=2").unwrap()];
        assert!(object(twice).is_err());
    }
}
