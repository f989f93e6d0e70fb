//! The APT repositories that a server keeps (`config.apt` of siskin.yaml): anybody may fetch from them at `/apt/`, and their suites are signed
//! again before they run out.
//!
//! Promises: nothing outside a repository's `dists`, `pool` and public keys is ever served, whatever links point to; what never changes may be
//! cached for ever, what changes is asked for each time. What is published, and when, is decided elsewhere.

mod refresh;
mod serve;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::delivery::apt::{Place, places};
use crate::engine::Engine;
use crate::model::Value;

pub use refresh::keep_valid;
pub use serve::router;

/// Where the repositories lie, as the definitions in force say.
#[derive(Clone)]
pub struct Repositories {
    engine: Arc<Engine>,
    data: PathBuf,
}

impl Repositories {
    pub fn new(engine: Arc<Engine>, data: &Path) -> Repositories {
        Repositories { engine, data: data.to_owned() }
    }

    fn places(&self) -> Result<Vec<Place>, String> {
        let definitions = self.engine.definitions();
        places(definitions.site.config.get("apt").unwrap_or(&Value::Null), &self.data)
    }
}
