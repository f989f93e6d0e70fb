//! Who did something. What changes anything takes an `Actor`, so that the audit row beside the change can name it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{EventId, RunId};

/// Who acts: a person, a rule, a run, or the server itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// A person, by the name that they signed in with or that their token belongs to.
    User { name: String },
    /// A rule, acting on an event. `on_behalf_of` is who the rule says caused the event: they count as the starter.
    Rule { name: String, event: EventId, on_behalf_of: Option<String> },
    /// A run that started a child or emitted an event.
    Run { id: RunId },
    /// The server: timeouts, recovery.
    System,
}

impl Actor {
    pub fn user(name: impl Into<String>) -> Actor {
        Actor::User { name: name.into() }
    }

    /// The person behind it, where there is one: what four eyes compares.
    pub fn person(&self) -> Option<&str> {
        match self {
            Actor::User { name } => Some(name),
            Actor::Rule { on_behalf_of, .. } => on_behalf_of.as_deref(),
            Actor::Run { .. } | Actor::System => None,
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::User { name } => write!(f, "{name}"),
            Actor::Rule { name, on_behalf_of: Some(person), .. } => write!(f, "{person} (rule {name})"),
            Actor::Rule { name, .. } => write!(f, "rule {name}"),
            Actor::Run { id } => write!(f, "run {id}"),
            Actor::System => f.write_str("siskin"),
        }
    }
}
