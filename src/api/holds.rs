//! Stops that people set on apps, on rules and on all.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::Api;
use super::problem::{Answer, Problem};
use super::request::{Body, Fields, Name, Params, Who};
use super::types::Page;
use crate::engine::{Held, HeldKind};
use crate::model::Value;

fn shape(held: &Held) -> Value {
    let kind = match held.kind {
        HeldKind::All => "all",
        HeldKind::App => "app",
        HeldKind::Rule => "rule",
    };
    json!({"what": held.what, "kind": kind, "by": held.by, "why": held.why, "since": held.since})
}

pub(super) async fn list(State(api): State<Api>, params: Params) -> Answer<Page<Value>> {
    params.check(&["limit"])?;
    Ok(Json(Page::whole(api.engine.held().await?.iter().map(shape).collect())))
}

#[derive(Deserialize)]
pub(super) struct Set {
    what: String,
    why: String,
}

impl Fields for Set {
    const NAMES: &'static [&'static str] = &["what", "why"];
}

pub(super) async fn set(
    State(api): State<Api>,
    Who(caller): Who,
    Body(Set { what, why }): Body<Set>,
) -> Result<Response, Problem> {
    let held = api.engine.hold(&what, &why, &caller).await?;
    let mut response = (StatusCode::CREATED, Json(shape(&held))).into_response();
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/holds/{}", held.what)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `DELETE /holds?what=NAME`
pub(super) async fn end(
    State(api): State<Api>,
    Who(caller): Who,
    params: Params,
) -> Result<StatusCode, Problem> {
    let Some(what) = params.check(&["what"])?.text("what") else {
        return Err(Problem::invalid(vec!["say which: `?what=NAME`".to_owned()]));
    };
    api.engine.unhold(&what, &caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /holds/NAME`
pub(super) async fn end_one(
    State(api): State<Api>,
    Who(caller): Who,
    Name(what): Name,
) -> Result<StatusCode, Problem> {
    api.engine.unhold(&what, &caller).await?;
    Ok(StatusCode::NO_CONTENT)
}
