//! Which version is where, since when, by whom and through which run; and the way back.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::Api;
use super::problem::{Answer, Problem};
use super::request::{Body, Fields, Id, Name, Params, Who, idempotency_key};
use super::runs::created;
use super::types::{Page, WayBack};
use crate::model::release::{Deployment, DeploymentStatus};
use crate::model::{Actor, Object, RunId, Value};
use crate::store::{DeploymentFilter, Newest, StoredDeployment};

/// Who started the runs that brought what is shown.
type Starters = BTreeMap<RunId, Actor>;

async fn starters(api: &Api, shown: &[&StoredDeployment]) -> Result<Starters, Problem> {
    let runs: Vec<RunId> = shown.iter().filter_map(|stored| stored.deployment.run).collect();
    Ok(api.engine.store().starters(&runs).await?)
}

fn shape(stored: &StoredDeployment, starters: &Starters) -> Value {
    let mut shape = with_starter(&stored.deployment, starters);
    shape["step"] = json!(stored.step);
    shape["hosts"] = stored.hosts.clone();
    shape
}

fn with_starter(deployment: &Deployment, starters: &Starters) -> Value {
    let mut shape = json!(deployment);
    let by = deployment.run.and_then(|run| starters.get(&run));
    shape["by"] = by.map_or(Value::Null, |by| Value::from(by.to_string()));
    shape
}

pub(super) async fn list(State(api): State<Api>, params: Params) -> Answer<Page<Value>> {
    let params =
        params.check(&["app", "environment", "run", "status", "since", "host", "cursor", "limit"])?;
    let limit = params.limit()?;
    let status = params.text("status").map(|word| {
        let read = serde_json::from_value::<DeploymentStatus>(json!(word));
        read.map_err(|_| {
            let why = format!("`status={word}` is not understood; known are rolling, done, failed, restored");
            Problem::invalid(vec![why])
        })
    });
    let filter = DeploymentFilter {
        status: status.transpose()?,
        since: super::figures::moment(&params, "since", api.engine.clock().now())?,
        host: params.text("host"),
        app: params.text("app"),
        environment: params.text("environment"),
        run: params.parsed("run")?,
        before: params.parsed("cursor")?,
        limit,
    };
    let found = api.engine.store().deployments(&filter).await?;
    let starters = starters(&api, &found.iter().collect::<Vec<_>>()).await?;
    let full = found.len() >= limit as usize;
    let next = found.last().filter(|_| full).map(|stored| stored.deployment.id.to_string());
    Ok(Json(Page { items: found.iter().map(|stored| shape(stored, &starters)).collect(), next }))
}

pub(super) async fn show(State(api): State<Api>, Id(id): Id<i64>) -> Answer<Value> {
    let found = api.engine.store().deployment(id).await?;
    let found = found.ok_or_else(|| Problem::missing(format!("deployment {id}")))?;
    let starters = starters(&api, &[&found]).await?;
    Ok(Json(shape(&found, &starters)))
}

pub(super) async fn apps(State(api): State<Api>, params: Params) -> Answer<Page<Value>> {
    params.check(&["limit"])?;
    let definitions = api.engine.definitions();
    let there = There::read(&api, None).await?;
    let apps = definitions.apps.as_object().into_iter().flatten();
    Ok(Json(Page::whole(apps.map(|(name, app)| there.named(name, app)).collect())))
}

/// An app with what stands on each of its environments.
pub(super) async fn app(State(api): State<Api>, Name(name): Name) -> Answer<Value> {
    let definitions = api.engine.definitions();
    let app = definitions.apps.get(&name).ok_or_else(|| Problem::missing(format!("app `{name}`")))?;
    Ok(Json(There::read(&api, Some(&name)).await?.named(&name, app)))
}

/// What is on environments.
struct There {
    /// The newest deployment that is done, of each app and environment.
    done: Vec<StoredDeployment>,
    /// The newest that was not taken back.
    newest: Vec<StoredDeployment>,
    starters: Starters,
}

impl There {
    async fn read(api: &Api, app: Option<&str>) -> Result<There, Problem> {
        let store = api.engine.store();
        let done = store.newest_deployments(app, Newest::Done).await?;
        let newest = store.newest_deployments(app, Newest::NotTakenBack).await?;
        let starters = starters(api, &done.iter().chain(&newest).collect::<Vec<_>>()).await?;
        Ok(There { done, newest, starters })
    }

    fn named(&self, name: &str, app: &Value) -> Value {
        let mut shown = Object::new();
        shown.insert("name".to_owned(), json!(name));
        for (key, value) in app.as_object().into_iter().flatten() {
            shown.insert(key.clone(), value.clone());
        }
        let environments = app.get("environments").and_then(Value::as_object).into_iter().flatten();
        let deployed = environments.map(|(place, _)| (place.clone(), self.on(name, place))).collect();
        shown.insert("deployed".to_owned(), Value::Object(deployed));
        Value::Object(shown)
    }

    /// What stands there, with what began later and is rolling or failed as `latest`.
    fn on(&self, app: &str, environment: &str) -> Value {
        let here = |stored: &&StoredDeployment| {
            stored.deployment.app == app && stored.deployment.environment == environment
        };
        let done = self.done.iter().find(here).map(|stored| &stored.deployment);
        let newest = self.newest.iter().find(here).map(|stored| &stored.deployment);
        let latest = newest.filter(|newest| done.is_none_or(|done| done.id < newest.id));
        if done.is_none() && latest.is_none() {
            return Value::Null;
        }
        let mut shown = match done {
            Some(done) => {
                let mut shown = with_starter(done, &self.starters);
                shown["since"] = json!(done.finished_at);
                shown
            }
            None => json!({"version": null}),
        };
        if let Some(latest) = latest {
            shown["latest"] = with_starter(latest, &self.starters);
        }
        shown
    }
}

#[derive(Deserialize)]
pub(super) struct Back {
    to: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

impl Fields for Back {
    const NAMES: &'static [&'static str] = &["to", "dry_run"];
}

pub(super) async fn rollback(
    State(api): State<Api>,
    Who(caller): Who,
    Path((app, environment)): Path<(String, String)>,
    headers: HeaderMap,
    Body(Back { to, dry_run }): Body<Back>,
) -> Result<Response, Problem> {
    if dry_run {
        let way = api.engine.way_back(&app, &environment, to.as_deref()).await?;
        return Ok(Json(WayBack::from(way)).into_response());
    }
    let key = idempotency_key(&headers)?;
    let new = api.engine.go_back(&app, &environment, to.as_deref(), key, &caller).await?;
    created(&api, new).await
}
