//! A rendered value in which secrets are still holes: what a stored attempt holds in place of text with secrets in it. A hole is a
//! structure, never marker text, so no data that somebody sends can pass for one.

use serde::{Deserialize, Serialize};

use super::{Object, Value};

/// A value with holes where secrets belong. Only the worker fills them, in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filled {
    /// No hole anywhere inside.
    Plain(Value),
    /// A string made of text and secrets.
    Text(Vec<Part>),
    List(Vec<Filled>),
    /// In the order of writing.
    Map(Vec<(String, Filled)>),
}

/// One piece of a string with secrets in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Text(String),
    Secret {
        name: String,
        /// The value goes through base64 first: the only filter that a secret may pass.
        #[serde(default)]
        base64: bool,
    },
}

impl Filled {
    /// A map from entries; plain when all of them are.
    pub fn map(entries: Vec<(String, Filled)>) -> Filled {
        if entries.iter().any(|(_, value)| !matches!(value, Filled::Plain(_))) {
            return Filled::Map(entries);
        }
        Filled::Plain(Value::Object(
            entries.into_iter().map(|(name, value)| (name, value.masked())).collect(),
        ))
    }

    /// A list from items; plain when all of them are.
    pub fn list(items: Vec<Filled>) -> Filled {
        if items.iter().any(|value| !matches!(value, Filled::Plain(_))) {
            return Filled::List(items);
        }
        Filled::Plain(Value::Array(items.into_iter().map(|value| value.masked()).collect()))
    }

    /// The value as people may see it: `***` for every secret.
    pub fn masked(&self) -> Value {
        match self.fill(&mut |_| Ok::<_, std::convert::Infallible>("***".to_owned())) {
            Ok(value) => value,
            Err(never) => match never {},
        }
    }

    /// The value with every hole filled by what `reveal` gives for the secret's name. `base64` holes are encoded here.
    ///
    /// # Errors
    /// The first error of `reveal`.
    pub fn fill<E>(&self, reveal: &mut impl FnMut(&str) -> Result<String, E>) -> Result<Value, E> {
        Ok(match self {
            Filled::Plain(value) => value.clone(),
            Filled::Text(parts) => {
                let mut text = String::new();
                for part in parts {
                    match part {
                        Part::Text(piece) => text.push_str(piece),
                        Part::Secret { name, base64: false } => text.push_str(&reveal(name)?),
                        Part::Secret { name, base64: true } => {
                            use base64::Engine as _;
                            base64::engine::general_purpose::STANDARD.encode_string(reveal(name)?, &mut text);
                        }
                    }
                }
                Value::String(text)
            }
            Filled::List(items) => {
                Value::Array(items.iter().map(|item| item.fill(reveal)).collect::<Result<_, E>>()?)
            }
            Filled::Map(entries) => {
                let mut object = Object::new();
                for (name, value) in entries {
                    object.insert(name.clone(), value.fill(reveal)?);
                }
                Value::Object(object)
            }
        })
    }

    /// The names of all secrets in it, each once.
    pub fn secrets(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut visit = |name: &str| {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
            Ok::<_, std::convert::Infallible>(String::new())
        };
        match self.fill(&mut visit) {
            Ok(_) => names,
            Err(never) => match never {},
        }
    }

    /// The entry `name` of a map.
    pub fn get(&self, name: &str) -> Option<Filled> {
        match self {
            Filled::Plain(value) => value.get(name).cloned().map(Filled::Plain),
            Filled::Map(entries) => {
                entries.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            }
            Filled::Text(_) | Filled::List(_) => None,
        }
    }
}
