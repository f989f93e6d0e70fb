//! Answers to the fields of an approval. The fields come as the data that was stored with the question, since the definition may have
//! changed since it was asked.

use crate::model::{Filled, Object, Value};

use super::fields::{self, Field, Fields, Type};

/// Holds answers against the fields that were shown; strings are read as the declared types.
///
/// # Errors
/// One message per mistake.
pub fn accept_answers(shown: &Value, answers: &Value) -> Result<Value, Vec<String>> {
    let fields = read_fields(shown);
    let given = match answers {
        Value::Null => Value::Object(Object::new()),
        answers => answers.clone(),
    };
    fields::accept(&fields, &Filled::Plain(given), true).map(|accepted| accepted.masked())
}

/// The inverse of `shown_fields`.
fn read_fields(shown: &Value) -> Fields {
    let entries = shown.as_object().into_iter().flatten();
    entries.map(|(name, field)| (name.clone(), read_field(field))).collect()
}

fn read_field(shown: &Value) -> Field {
    let kind = Type::ALL.into_iter().find(|kind| shown["type"] == kind.as_str()).unwrap_or(Type::Any);
    let text = |key: &str| shown[key].as_str().map(str::to_owned);
    let flag = |key: &str| shown[key].as_bool().unwrap_or(false);
    Field {
        description: text("description"),
        default: shown.get("default").cloned(),
        optional: flag("optional"),
        choices: shown["enum"].as_array().cloned(),
        pattern: text("pattern"),
        min: shown["min"].as_f64(),
        max: shown["max"].as_f64(),
        items: shown.get("items").map(|items| Box::new(read_field(items))),
        properties: shown.get("properties").map(read_fields),
        secret: flag("secret"),
        verbatim: flag("verbatim"),
        ..Field::new(kind)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_held_against_what_was_shown() {
        let shown = json!({"ticket": {"type": "string", "pattern": "^OPS-"}, "count": {"type": "integer", "default": 3}});
        assert_eq!(
            accept_answers(&shown, &json!({"ticket": "OPS-7"})),
            Ok(json!({"ticket": "OPS-7", "count": 3}))
        );
        assert_eq!(
            accept_answers(&shown, &json!({"ticket": "OPS-7", "count": "4"})).map(|got| got["count"].clone()),
            Ok(json!(4))
        );
        assert!(
            accept_answers(&shown, &json!({"ticket": "no", "more": 1}))
                .is_err_and(|mistakes| mistakes.len() == 2)
        );
        assert!(accept_answers(&shown, &Value::Null).is_err());
        assert_eq!(accept_answers(&Value::Null, &Value::Null), Ok(json!({})));
    }
}
