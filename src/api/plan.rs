//! What a change of the definitions would do.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Api;
use super::problem::{Answer, Problem};
use super::request::{Body, Fields, Params, Who};
use super::types::{Plan, PlanFile};
use crate::model::{Object, Span, Value};
use crate::site;

/// Further back nobody looks.
const LONGEST: Span = Span::days(90);

/// The files in force, by their hashes: who plans sends only what differs.
pub(super) async fn files(State(api): State<Api>, params: Params) -> Answer<Value> {
    params.check(&[])?;
    let loaded = api.engine.loaded();
    let files: Object =
        loaded.files.texts.iter().map(|(path, bytes)| (path.clone(), json!(hash(bytes)))).collect();
    Ok(Json(json!({"revision": loaded.definitions.revision, "files": files})))
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[derive(Deserialize)]
pub(super) struct Asked {
    files: BTreeMap<String, PlanFile>,
    #[serde(default)]
    last: Option<Span>,
}

impl Fields for Asked {
    const NAMES: &'static [&'static str] = &["files", "last"];
}

pub(super) async fn plan(State(api): State<Api>, Who(_): Who, Body(asked): Body<Asked>) -> Answer<Plan> {
    let last = asked.last.unwrap_or(Span::days(7));
    if last > LONGEST {
        return Err(Problem::invalid(vec![format!("`last` is {LONGEST} at most")]));
    }
    let in_force = api.engine.files();
    let mut texts = BTreeMap::new();
    for (path, file) in asked.files {
        let bytes: Arc<[u8]> = match file {
            PlanFile::Same { sha256 } => match in_force.texts.get(&path) {
                Some(bytes) if hash(bytes) == sha256 => Arc::clone(bytes),
                _ => {
                    let detail =
                        format!("{path} is not in force as it was said; ask /definitions/files again");
                    return Err(Problem::new(StatusCode::CONFLICT, detail));
                }
            },
            PlanFile::Text { text } => Arc::from(text.into_bytes()),
            PlanFile::Base64 { base64 } => match BASE64_STANDARD.decode(base64) {
                Ok(bytes) => Arc::from(bytes),
                Err(error) => return Err(Problem::invalid(vec![format!("{path} is no base64: {error}")])),
            },
        };
        texts.insert(path, bytes);
    }
    Ok(Json(Plan::of(api.engine.plan(site::over_embedded(texts), last).await?)))
}
