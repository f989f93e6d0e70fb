//! Keys and values that rules and workflows share, with compare and set by `ETag` and `If-Match`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::Api;
use super::problem::{Answer, Problem};
use super::request::{Body, Fields, Name, Params, Who};
use super::types::Page;
use crate::engine::Caller;
use crate::model::{Span, Timestamp, Value};
use crate::store::{KvEntry, KvSet, NewAudit, StoreError};

const LONGEST_KEY: usize = 512;

fn shape(entry: &KvEntry) -> Value {
    json!({
        "key": entry.key,
        "value": entry.value,
        "version": entry.version,
        "updated_at": entry.updated_at,
        "expires_at": entry.expires_at,
    })
}

pub(super) async fn list(State(api): State<Api>, params: Params) -> Answer<Page<Value>> {
    let params = params.check(&["prefix", "cursor", "limit"])?;
    let limit = params.limit()?;
    let prefix = params.text("prefix").unwrap_or_default();
    let after = params.text("cursor");
    let now = api.engine.clock().now();
    let found = api.engine.store().kv_list(&prefix, after.as_deref(), limit, now).await?;
    let full = found.len() >= limit as usize;
    let next = found.last().filter(|_| full).map(|entry| entry.key.clone());
    Ok(Json(Page { items: found.iter().map(shape).collect(), next }))
}

pub(super) async fn show(State(api): State<Api>, Name(key): Name) -> Result<Response, Problem> {
    let found = api.engine.store().kv(&key, api.engine.clock().now()).await?;
    let found = found.ok_or_else(|| Problem::missing(format!("key `{key}`")))?;
    Ok(answer(&found))
}

fn answer(entry: &KvEntry) -> Response {
    let mut response = Json(shape(entry)).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", entry.version)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

#[derive(Deserialize)]
pub(super) struct Set {
    value: Value,
    #[serde(default)]
    ttl: Option<Span>,
}

impl Fields for Set {
    const NAMES: &'static [&'static str] = &["value", "ttl"];
}

pub(super) async fn set(
    State(api): State<Api>,
    Who(caller): Who,
    Name(key): Name,
    headers: HeaderMap,
    Body(set): Body<Set>,
) -> Result<Response, Problem> {
    if key.is_empty() || key.len() > LONGEST_KEY || key.contains(char::is_control) {
        return Err(Problem::invalid(vec![format!(
            "a key is 1 to {LONGEST_KEY} bytes without control characters"
        )]));
    }
    let now = api.engine.clock().now();
    let expires_at = set.ttl.map(|ttl| now.plus(ttl));
    let new =
        KvSet { key: key.clone(), value: set.value.clone(), expires_at, if_version: expected(&headers)? };
    let audit = audit(&caller, "kv.set", &key, now);
    let version = api.engine.store().kv_set(new, Some(audit), now).await.map_err(changed)?;
    Ok(answer(&KvEntry { key, value: set.value, version, updated_at: now, expires_at }))
}

pub(super) async fn remove(
    State(api): State<Api>,
    Who(caller): Who,
    Name(key): Name,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let now = api.engine.clock().now();
    let audit = audit(&caller, "kv.delete", &key, now);
    let deleted =
        api.engine.store().kv_delete(&key, expected(&headers)?, Some(audit), now).await.map_err(changed)?;
    if deleted { Ok(StatusCode::NO_CONTENT) } else { Err(Problem::missing(format!("key `{key}`"))) }
}

/// The version that the caller read; 0 when they want to be the first.
fn expected(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    if headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag == "*") {
        return Ok(Some(0));
    }
    let Some(tag) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let version = tag.to_str().ok().and_then(|tag| tag.trim_matches('"').parse().ok());
    match version {
        Some(version) => Ok(Some(version)),
        None => {
            Err(Problem::invalid(vec!["`If-Match` takes the `ETag` of the value that you read".to_owned()]))
        }
    }
}

fn changed(error: StoreError) -> Problem {
    match error {
        StoreError::Conflict(_) => Problem::new(StatusCode::PRECONDITION_FAILED, error.to_string()),
        other => Problem::from(other),
    }
}

fn audit(caller: &Caller, act: &str, key: &str, now: Timestamp) -> NewAudit {
    NewAudit {
        at: now,
        actor: caller.actor.clone(),
        act: act.to_owned(),
        subject: format!("key {key}"),
        details: Value::Null,
        from: Some(caller.from.clone()),
    }
}
