//! Secrets: set, named, deleted; never read back.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::Api;
use super::problem::{Answer, Problem};
use super::request::{Body, Fields, Name, Params, Who};
use super::types::Page;
use crate::model::{Secret, Value};

pub(super) async fn list(State(api): State<Api>, params: Params) -> Answer<Page<Value>> {
    params.check(&["limit"])?;
    let names = api.engine.secrets().names().await?;
    let items = names.into_iter().map(|(name, at)| json!({"name": name, "updated_at": at})).collect();
    Ok(Json(Page::whole(items)))
}

#[derive(Deserialize)]
pub(super) struct Set {
    value: String,
}

impl Fields for Set {
    const NAMES: &'static [&'static str] = &["value"];
}

pub(super) async fn set(
    State(api): State<Api>,
    who: Who,
    Name(name): Name,
    Body(set): Body<Set>,
) -> Result<StatusCode, Problem> {
    let caller = who.admin()?;
    if set.value.is_empty() {
        return Err(Problem::invalid(vec!["`value` is empty; DELETE takes a secret away".to_owned()]));
    }
    let now = api.engine.clock().now();
    api.engine.secrets().set(&name, &Secret::new(set.value), &caller.actor, Some(&caller.from), now).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove(
    State(api): State<Api>,
    who: Who,
    Name(name): Name,
) -> Result<StatusCode, Problem> {
    let caller = who.admin()?;
    let now = api.engine.clock().now();
    if api.engine.secrets().delete(&name, &caller.actor, Some(&caller.from), now).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::missing(format!("secret `{name}`")))
}
