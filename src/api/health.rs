//! Whether the server lives, and whether it can work.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;

use super::Api;
use crate::model::Value;

pub(super) async fn healthz() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// 200 when events can be taken and runs go on; `warnings` says what is not as it should be. How many, not what: this page has no lock.
pub(super) async fn readyz(State(api): State<Api>) -> (StatusCode, Json<Value>) {
    let warnings = api.engine.readiness();
    match api.engine.store().meta("ready").await {
        Ok(_) => (StatusCode::OK, Json(json!({"status": "ready", "warnings": warnings}))),
        Err(error) => {
            tracing::error!(%error, "the store can't be read");
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "not ready", "missing": ["the store"]})))
        }
    }
}
