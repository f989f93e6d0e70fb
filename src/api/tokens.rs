//! Users with their roles, and the tokens with which they talk to us.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::Api;
use super::problem::{Answer, Problem};
use super::request::{Body, Fields, Id, Params, Who};
use super::types::Page;
use crate::auth::AuthError;
use crate::model::Value;
use crate::store::Token;

const LONGEST_NAME: usize = 100;
const MOST_ROLES: usize = 50;

pub(super) async fn users(State(api): State<Api>, params: Params) -> Answer<Page<Value>> {
    params.check(&["limit"])?;
    let definitions = api.engine.definitions();
    let users = definitions.site.users.iter();
    let items =
        users.map(|(name, user)| json!({"name": name, "roles": user.roles, "links": user.links})).collect();
    Ok(Json(Page::whole(items)))
}

fn shape(token: &Token) -> Value {
    json!({
        "id": token.id,
        "user": token.user,
        "roles": token.roles,
        "name": token.name,
        "created_at": token.created_at,
        "last_used_at": token.last_used_at,
        "revoked_at": token.revoked_at,
    })
}

pub(super) async fn list(State(api): State<Api>, who: Who, params: Params) -> Answer<Page<Value>> {
    params.check(&["limit"])?;
    who.admin()?;
    let tokens = api.engine.store().tokens().await?;
    Ok(Json(Page::whole(tokens.iter().map(shape).collect())))
}

#[derive(Deserialize)]
pub(super) struct Create {
    user: String,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    name: String,
}

impl Fields for Create {
    const NAMES: &'static [&'static str] = &["user", "roles", "name"];
}

pub(super) async fn create(
    State(api): State<Api>,
    who: Who,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let caller = who.admin()?;
    let mut errors = Vec::new();
    if !is_name(&create.user) {
        errors.push("`user` is a name of letters, digits and . _ - @".to_owned());
    }
    if create.roles.len() > MOST_ROLES || !create.roles.iter().all(|role| is_name(role)) {
        errors.push("`roles` is a list of names of letters, digits and . _ - @".to_owned());
    }
    if create.name.len() > LONGEST_NAME {
        errors.push(format!("`name` has {LONGEST_NAME} bytes at most"));
    }
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let now = api.engine.clock().now();
    let made = api
        .auth
        .create(&create.user, create.roles.clone(), &create.name, &caller.actor, &caller.from, now)
        .await;
    let (id, token) = made.map_err(|error| match error {
        AuthError::Store(error) => Problem::from(error),
        other => {
            tracing::error!(error = %other, "a token could not be made");
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the token could not be made; the server's log says why",
            )
        }
    })?;
    let shown = json!({
        "id": id,
        "user": create.user,
        "roles": create.roles,
        "name": create.name,
        "token": token,
    });
    Ok((StatusCode::CREATED, Json(shown)))
}

fn is_name(text: &str) -> bool {
    let plain = |character: char| character.is_alphanumeric() || "._-@".contains(character);
    !text.is_empty() && text.len() <= LONGEST_NAME && text.chars().all(plain)
}

pub(super) async fn revoke(State(api): State<Api>, who: Who, Id(id): Id<i64>) -> Result<StatusCode, Problem> {
    let caller = who.admin()?;
    let now = api.engine.clock().now();
    if api.auth.revoke(id, &caller.actor, &caller.from, now).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::missing(format!("token {id} that still opens anything")))
}
