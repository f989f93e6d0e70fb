//! Which version is where.

use axum::Json;
use axum::extract::State;
use serde_json::json;

use super::Api;
use super::problem::{Answer, Problem};
use super::request::{Id, Name, Params};
use super::types::Page;
use crate::model::{Object, Value};
use crate::store::{DeploymentFilter, StoredDeployment};

fn shape(stored: &StoredDeployment) -> Value {
    let mut shape = json!(stored.deployment);
    shape["hosts"] = stored.hosts.clone();
    shape
}

pub(super) async fn list(State(api): State<Api>, params: Params) -> Answer<Page<Value>> {
    let params = params.check(&["app", "environment", "run", "cursor", "limit"])?;
    let limit = params.limit()?;
    let filter = DeploymentFilter {
        app: params.text("app"),
        environment: params.text("environment"),
        run: params.parsed("run")?,
        before: params.parsed("cursor")?,
        limit,
    };
    let found = api.engine.store().deployments(&filter).await?;
    let full = found.len() >= limit as usize;
    let next = found.last().filter(|_| full).map(|stored| stored.deployment.id.to_string());
    Ok(Json(Page { items: found.iter().map(shape).collect(), next }))
}

pub(super) async fn show(State(api): State<Api>, Id(id): Id<i64>) -> Answer<Value> {
    let found = api.engine.store().deployment(id).await?;
    Ok(Json(shape(&found.ok_or_else(|| Problem::missing(format!("deployment {id}")))?)))
}

pub(super) async fn apps(State(api): State<Api>, params: Params) -> Answer<Page<Value>> {
    params.check(&["limit"])?;
    let definitions = api.engine.definitions();
    let apps = definitions.apps.as_object().into_iter().flatten();
    Ok(Json(Page::whole(apps.map(|(name, app)| named(name, app)).collect())))
}

/// An app with the newest deployment to each of its environments.
pub(super) async fn app(State(api): State<Api>, Name(name): Name) -> Answer<Value> {
    let definitions = api.engine.definitions();
    let app = definitions.apps.get(&name).ok_or_else(|| Problem::missing(format!("app `{name}`")))?;
    let mut shown = named(&name, app);
    let mut deployed = Object::new();
    let environments = app.get("environments").and_then(Value::as_object).into_iter().flatten();
    for (environment, _) in environments {
        let filter = DeploymentFilter {
            app: Some(name.clone()),
            environment: Some(environment.clone()),
            limit: 1,
            ..DeploymentFilter::default()
        };
        let newest = api.engine.store().deployments(&filter).await?;
        deployed.insert(environment.clone(), newest.first().map_or(Value::Null, shape));
    }
    shown["deployed"] = Value::Object(deployed);
    Ok(Json(shown))
}

fn named(name: &str, app: &Value) -> Value {
    let mut shown = Object::new();
    shown.insert("name".to_owned(), json!(name));
    for (key, value) in app.as_object().into_iter().flatten() {
        shown.insert(key.clone(), value.clone());
    }
    Value::Object(shown)
}
