//! JSON over HTTP: one file per resource, `types.rs` is what travels, `problem.rs` what goes wrong.
//!
//! Promises: nothing under /api/v1 without a token; every refusal is a problem document; unknown fields and parameters are refused by
//! name; lists and bodies are bounded; a panic harms its own request only. Decides nothing: the engine does.

mod approvals;
mod artefacts;
mod audit;
mod definitions;
mod deployments;
mod drain;
mod events;
mod figures;
mod health;
mod holds;
mod hosts;
mod kv;
mod log;
mod metrics;
mod plan;
mod problem;
mod request;
mod rules;
mod runs;
mod secrets;
mod stream;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
mod tokens;
pub mod types;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::auth::{Auth, Denied};
use crate::engine::{Caller, Engine};
use crate::model::Actor;
use crate::sources::{Sources, webhook};

pub use problem::Problem;

/// What every handler may use.
#[derive(Clone)]
struct Api {
    engine: Arc<Engine>,
    auth: Arc<Auth>,
    sources: Arc<Sources>,
    /// Answers that never end by themselves end with it.
    stop: CancellationToken,
}

/// All routes of a server. Those who follow a log or the stream are let go when `stop` is cancelled.
pub fn router(
    engine: Arc<Engine>,
    auth: Arc<Auth>,
    sources: Arc<Sources>,
    stop: CancellationToken,
) -> Router {
    let hooks = webhook::router(Arc::clone(&sources));
    let api = Api { engine, auth, sources, stop };
    let open = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .with_state(api.clone());
    let metrics = Router::new()
        .route("/metrics", get(metrics::show))
        .layer(middleware::from_fn_with_state(api.clone(), sign_in))
        .with_state(api.clone());
    Router::new()
        .nest("/api/v1", v1(api))
        .merge(open)
        .merge(metrics)
        .merge(hooks)
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(CatchPanicLayer::custom(problem::of_panic))
        .layer(middleware::from_fn(drain::drain))
}

fn v1(api: Api) -> Router {
    Router::new()
        .route("/events", get(events::list).post(events::send))
        .route("/events/{id}", get(events::show))
        .route("/events/{id}/replay", post(events::replay))
        .route("/rules", get(rules::list))
        .route("/rules/test", post(rules::test))
        .route("/rules/{ref}", get(rules::show))
        .route("/rules/{ref}/enable", post(rules::enable))
        .route("/rules/{ref}/disable", post(rules::disable))
        .route("/definitions", get(definitions::state))
        .route("/definitions/files", get(plan::files))
        .route("/plan", post(plan::plan))
        .route("/packs", get(definitions::packs))
        .route("/packs/{ref}", get(definitions::pack))
        .route("/actions", get(definitions::actions))
        .route("/actions/{ref}", get(definitions::action))
        .route("/workflows", get(definitions::workflows))
        .route("/workflows/{ref}", get(definitions::workflow))
        .route("/triggers", get(definitions::triggers))
        .route("/triggers/{ref}", get(definitions::trigger))
        .route("/sources", get(definitions::sources))
        .route("/sources/{ref}", get(definitions::source))
        .route("/runs", get(runs::list).post(runs::start))
        .route("/runs/{id}", get(runs::show))
        .route("/runs/{id}/cancel", post(runs::cancel))
        .route("/runs/{id}/pause", post(runs::pause))
        .route("/runs/{id}/resume", post(runs::resume))
        .route("/runs/{id}/rerun", post(runs::rerun))
        .route("/runs/{id}/rollback", post(runs::rollback))
        .route("/runs/{id}/force", post(runs::force))
        .route("/runs/{id}/history", get(runs::history))
        .route("/runs/{id}/steps/{step}/items", get(runs::items))
        .route("/runs/{id}/log", get(log::log))
        .route("/approvals", get(approvals::list))
        .route("/approvals/{id}", get(approvals::show))
        .route("/approvals/{id}/approve", post(approvals::approve))
        .route("/approvals/{id}/reject", post(approvals::reject))
        .route("/secrets", get(secrets::list))
        .route("/secrets/{name}", put(secrets::set).delete(secrets::remove))
        .route("/kv", get(kv::list))
        .route("/kv/{*key}", get(kv::show).put(kv::set).delete(kv::remove))
        .route("/apps", get(deployments::apps))
        .route("/apps/{app}", get(deployments::app))
        .route("/apps/{app}/difference", get(figures::difference))
        .route("/apps/{app}/stats", get(figures::stats))
        .route("/apps/{app}/{environment}/rollback", post(deployments::rollback))
        .route("/deployments", get(deployments::list))
        .route("/deployments/{id}", get(deployments::show))
        .route("/hosts", get(hosts::list))
        .route("/hosts/{host}", get(hosts::show))
        .route("/holds", get(holds::list).post(holds::set).delete(holds::end))
        .route("/holds/{what}", delete(holds::end_one))
        .route("/artefacts/{hash}", get(artefacts::show))
        .route("/audit", get(audit::list))
        .route("/users", get(tokens::users))
        .route("/tokens", get(tokens::list).post(tokens::create))
        .route("/tokens/{id}", delete(tokens::revoke))
        .route("/stream", get(stream::stream))
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(middleware::from_fn_with_state(api.clone(), sign_in))
        .with_state(api)
}

/// Lets nobody pass without a token, and tells the handlers who it is.
async fn sign_in(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let mut given = request.headers().get_all(header::AUTHORIZATION).iter();
    let authorization = given.next().and_then(|header| header.to_str().ok());
    let authorization = if given.next().is_some() { None } else { authorization };
    let definitions = api.engine.definitions();
    let now = api.engine.clock().now();
    let identity = match api.auth.authenticate(authorization, &definitions, now).await {
        Ok(identity) => identity,
        Err(Denied::Store(error)) => return Problem::from(error).into_response(),
        Err(denied) => return problem::not_signed_in(&denied.to_string()),
    };
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_string());
    request.extensions_mut().insert(Caller {
        actor: Actor::user(identity.user),
        roles: identity.roles,
        from: from.unwrap_or_else(|| "local".to_owned()),
    });
    let mut response = next.run(request).await;
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
