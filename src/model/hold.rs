//! Holds: stops that people set. A held app starts no attempt until it is released.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Actor, Timestamp};

/// Why nothing starts, and who said so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// An app, or `all`.
    pub what: String,
    pub by: Actor,
    pub why: String,
    pub since: Timestamp,
}

/// All holds of apps at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    pub all: Option<Hold>,
    pub apps: BTreeMap<String, Hold>,
}

impl Holds {
    /// The hold that stops work on `app`, or work on no app in particular.
    pub fn on(&self, app: Option<&str>) -> Option<&Hold> {
        self.all.as_ref().or_else(|| self.apps.get(app?))
    }
}
