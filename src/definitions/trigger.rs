//! `packs/P/triggers/*.yaml`: the type of an event.

use std::sync::Arc;

use super::Place;
use super::sheet::{Keys, Sheet};
use super::yaml::Node;
use crate::model::Value;

#[derive(Clone, Debug)]
pub struct Trigger {
    /// `pack.name`.
    pub name: String,
    pub place: Place,
    pub description: String,
    /// JSON schema of the payload; null when any payload will do. It compiles: that was checked.
    pub payload: Value,
    validator: Option<Arc<jsonschema::Validator>>,
}

/// How many mistakes of a payload are named.
const NAMED_MISTAKES: usize = 5;

impl Trigger {
    /// Holds a payload against the schema.
    ///
    /// # Errors
    /// What does not fit, and where in the payload.
    pub fn validate(&self, payload: &Value) -> Result<(), String> {
        let Some(validator) = &self.validator else { return Ok(()) };
        let messages: Vec<String> = validator
            .iter_errors(payload)
            .take(NAMED_MISTAKES)
            .map(|error| {
                let path = error.instance_path().to_string();
                // The value itself stays out: payloads can be huge.
                let message = error.masked().to_string();
                if path.is_empty() { message } else { format!("{path}: {message}") }
            })
            .collect();
        if messages.is_empty() { Ok(()) } else { Err(messages.join("; ")) }
    }
}

pub(super) const TRIGGER: Keys = Keys { of: "a trigger", built: &["description", "payload"], later: &[] };

/// Reads a trigger file.
pub(super) fn read(sheet: &Sheet<'_>, node: &Node, name: &str) -> Option<Trigger> {
    let table = sheet.table(node, &TRIGGER)?;
    let (mut payload, mut validator) = (Value::Null, None);
    if let Some(node) = table.get("payload") {
        payload = sheet.value(node);
        if !payload.is_object() {
            sheet.wrong(node, "`payload` must be a map: a JSON schema", None);
        } else {
            match jsonschema::validator_for(&payload) {
                Ok(compiled) => validator = Some(Arc::new(compiled)),
                Err(error) => sheet.wrong(
                    node,
                    format!("`payload` is no JSON schema: {error} at {}", error.instance_path()),
                    None,
                ),
            }
        }
    }
    Some(Trigger {
        name: name.to_owned(),
        place: sheet.source.place(1, 1),
        description: table.description(),
        payload,
        validator,
    })
}
