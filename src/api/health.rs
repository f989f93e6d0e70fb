//! Whether the server lives, and whether it can work.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;

use super::Api;
use crate::model::Value;
use crate::store::StoreError;

pub(super) async fn healthz() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// 200 when events can be taken and runs go on; `warnings` says what is not as it should be.
pub(super) async fn readyz(State(api): State<Api>) -> (StatusCode, Json<Value>) {
    let warnings = api.engine.readiness();
    let read = match api.engine.store().away() {
        Some(why) => Err(StoreError::Away(why)),
        None => api.engine.store().meta("ready").await,
    };
    match read {
        Ok(_) => {
            // Without it events are taken all the same; what they start waits.
            let missing = api.engine.broker_is_missing().then_some("the broker");
            let missing: Vec<_> = missing.into_iter().collect();
            let said = json!({"status": "ready", "warnings": warnings, "missing": missing});
            (StatusCode::OK, Json(said))
        }
        Err(error) => {
            tracing::error!(%error, "the store can't be used");
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "not ready", "missing": ["the store"]})))
        }
    }
}
