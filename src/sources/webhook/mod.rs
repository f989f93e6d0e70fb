//! `POST /hooks/PATH`: events that others send us.
//!
//! The order is the promise: which hook, how it was called, how often, how large, who sent it; only then is a byte parsed. The answer is 202
//! once the event is on disk, 200 with the same id for a delivery that was known.

mod body;
pub mod probe;
mod rate;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures::StreamExt;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Sources;
use crate::definitions::webhook::{Limit, Verify, Webhook};
use crate::definitions::{Definitions, Source};
use crate::engine::{Accepted, Refused};
use crate::expr::{Scope, Template};
use crate::model::event::NewEvent;
use crate::model::{Object, Value};
use crate::secrets::Secrets;
use crate::store::StoreError;

pub(super) use rate::Rates;

/// How much memory a delivery has before its first byte.
const AT_FIRST: usize = 64 * 1024;
/// Deliveries in hand at once; more are asked to come again.
pub(super) const MOST_DELIVERIES: usize = 1024;
/// Memory that bodies in hand may take together.
pub(super) const MEMORY_KIB: usize = 256 * 1024;
/// What a body takes, parsed and rendered, for each of its bytes.
const MEMORY_PER_BYTE: usize = 4;
/// Events out of one delivery.
const MOST_EVENTS: usize = 10_000;
const LONGEST_TRIGGER: usize = 200;
/// A longer key is kept as its hash.
const LONGEST_DEDUP: usize = 512;
/// A body must have come in this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Larger bodies are parsed where they keep nobody waiting.
const SMALL_BODY: usize = 128 * 1024;

/// The routes of all webhook sources.
pub fn router(sources: Arc<Sources>) -> Router {
    Router::new().route("/hooks/{*path}", any(receive)).with_state(sources)
}

/// Why a delivery is turned away.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    status: StatusCode,
    detail: String,
    errors: Vec<String>,
    retry_after_seconds: Option<u32>,
    /// Whether a user and password would help.
    challenge: bool,
}

impl Refusal {
    fn new(status: StatusCode, detail: impl Into<String>) -> Refusal {
        Refusal {
            status,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_seconds: None,
            challenge: false,
        }
    }

    fn busy(seconds: u32) -> Refusal {
        Refusal::later(seconds, format!("too much at once; try again in {seconds} s"))
    }

    fn too_often(seconds: u32) -> Refusal {
        Refusal::later(seconds, format!("more than the rate of this source; try again in {seconds} s"))
    }

    fn later(seconds: u32, detail: String) -> Refusal {
        Refusal { retry_after_seconds: Some(seconds), ..Refusal::new(StatusCode::TOO_MANY_REQUESTS, detail) }
    }

    fn no_hook() -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "there is no hook at this path")
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Refusal {
        match refused {
            Refused::Busy(seconds) => Refusal::busy(seconds),
            Refused::Store(StoreError::Busy) => Refusal::busy(1),
            Refused::Invalid(errors) => {
                let detail = errors.join("; ");
                Refusal { errors, ..Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
            }
            Refused::NotFound(detail) | Refused::Conflict(detail) | Refused::Forbidden(detail) => {
                Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
            }
            Refused::Store(error) => {
                tracing::error!(%error, "an event could not be stored");
                let detail = "the event could not be stored; send it again";
                Refusal {
                    retry_after_seconds: Some(5),
                    ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, detail)
                }
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut problem = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Refused"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if !self.errors.is_empty() {
            problem["errors"] = json!(self.errors);
        }
        let mut response = (self.status, problem.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"siskin\""));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}

async fn receive(State(sources): State<Arc<Sources>>, request: Request) -> Response {
    let definitions = sources.engine.definitions();
    let Some(source) = find(&definitions, request.uri().path()) else {
        return Refusal::no_hook().into_response();
    };
    match sources.take(&definitions, &source, request).await {
        Ok(answer) => answer,
        Err(refusal) => {
            let now = sources.engine.clock().now();
            tracing::info!(
                source = source.name,
                status = refusal.status.as_u16(),
                why = refusal.detail,
                "delivery refused"
            );
            sources.note(&source.name, |health| {
                health.refused += 1;
                health.last_error = Some(refusal.detail.clone());
                health.last_error_at = Some(now);
            });
            refusal.into_response()
        }
    }
}

/// The source whose path stands after `/hooks/`.
fn find(definitions: &Definitions, path: &str) -> Option<Arc<Source>> {
    let path = body::percent_decode(path.strip_prefix("/hooks/")?, false)?;
    let has_path = |source: &&Arc<Source>| source.webhook().is_some_and(|hook| hook.path == path);
    definitions.sources.values().find(has_path).map(Arc::clone)
}

/// A delivery whose sender proved who they are. Only [`Sources::verified`] makes one, and `probe`, whose events go nowhere.
struct VerifiedDelivery {
    bytes: Bytes,
    is_form: bool,
    headers: HeaderMap,
    query: Vec<(String, String)>,
    /// Gives the memory back when the delivery is dropped.
    _memory: OwnedSemaphorePermit,
}

impl Sources {
    async fn take(
        self: &Arc<Self>,
        definitions: &Arc<Definitions>,
        source: &Arc<Source>,
        request: Request,
    ) -> Result<Response, Refusal> {
        if request.method() != Method::POST {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "a hook takes POST"));
        }
        let hook = source.webhook().ok_or_else(Refusal::no_hook)?;
        let Ok(_permit) = self.deliveries.try_acquire() else { return Err(Refusal::busy(1)) };
        let delivery = self.verified(&source.name, hook, request).await?;
        let has_each = hook.each.is_some();
        let taken = if delivery.bytes.len() <= SMALL_BODY {
            taken(definitions, source, hook, &delivery)?
        } else {
            let (definitions, source) = (Arc::clone(definitions), Arc::clone(source));
            let work = tokio::task::spawn_blocking(move || {
                let hook = source.webhook().ok_or_else(Refusal::no_hook)?;
                taken(&definitions, &source, hook, &delivery)
            });
            work.await.map_err(|_| {
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "this delivery could not be read")
            })??
        };
        let events = taken.events;
        let accepted = if events.is_empty() { Vec::new() } else { self.engine.accept(events).await? };
        self.note_accepted(&source.name, &accepted);
        Ok(match taken.answer {
            Some(said) => own_answer(said),
            None => answer(&accepted, has_each),
        })
    }

    /// Reads the body and holds it against its signature. The bytes are looked at by nobody before.
    async fn verified(
        &self,
        source: &str,
        hook: &Webhook,
        request: Request,
    ) -> Result<VerifiedDelivery, Refusal> {
        let clock = self.engine.clock();
        // Who comes too often is told so before anything is read. Only what is verified counts, so that nobody uses up the rate of others.
        if let Some(rate) = hook.limit.rate {
            self.rates.look(source, rate, clock.now()).map_err(Refusal::too_often)?;
        }
        let (parts, body) = request.into_parts();
        body::refuse_encoded(&parts.headers)?;
        let is_form = body::is_form(&parts.headers)?;
        let (bytes, memory) = read(body, &parts.headers, &hook.limit, &self.memory).await?;
        let query = body::pairs(parts.uri.query().unwrap_or_default())
            .ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "the query can't be decoded"))?;
        let sent = verify::Sent { headers: &parts.headers, query: &query, bytes: &bytes, now: clock.now() };
        verify::check(&hook.verify, &sent, self.engine.secrets()).await?;
        if let Some(rate) = hook.limit.rate {
            self.rates.take(source, rate, clock.now()).map_err(Refusal::too_often)?;
        }
        Ok(VerifiedDelivery { bytes, is_form, headers: parts.headers, query, _memory: memory })
    }
}

/// What is wrong with the secrets of a source.
pub(super) async fn problem(verify: &Verify, secrets: &Secrets) -> Option<String> {
    verify::problem(verify, secrets).await
}

/// Reads a body within its bounds; the permit stands for the memory that it takes.
async fn read(
    body: Body,
    headers: &HeaderMap,
    limit: &Limit,
    memory: &Arc<Semaphore>,
) -> Result<(Bytes, OwnedSemaphorePermit), Refusal> {
    let too_large = || {
        let detail = format!("the body is larger than {} bytes", limit.size);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    };
    let announced: Option<usize> =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let mut chunks = body.into_data_stream();
    if announced.is_some_and(|length| length > limit.size) {
        return Err(too_large());
    }
    // What is announced costs the sender nothing: memory is taken as bytes come.
    let mut reserved = announced.unwrap_or(0).min(AT_FIRST);
    let mut permit = reserve(memory, reserved)?;
    let mut bytes = Vec::with_capacity(reserved);
    let reading = async {
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the body broke off"))?;
            if bytes.len() + chunk.len() > limit.size {
                return Err(too_large());
            }
            if bytes.len() + chunk.len() > reserved {
                let more = chunk.len().max(reserved).min(limit.size);
                permit.merge(reserve(memory, more)?);
                reserved += more;
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(())
    };
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(read) => read?,
        Err(_) => return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    }
    Ok((Bytes::from(bytes), permit))
}

fn reserve(memory: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
    let kib = bytes.saturating_mul(MEMORY_PER_BYTE).div_ceil(1024);
    let kib = u32::try_from(kib).unwrap_or(u32::MAX);
    Arc::clone(memory).try_acquire_many_owned(kib).map_err(|_| Refusal::busy(1))
}

/// What a delivery comes to.
struct Taken {
    events: Vec<NewEvent>,
    /// What its sender is told, where the source says it.
    answer: Option<Value>,
}

fn taken(
    definitions: &Definitions,
    source: &Source,
    hook: &Webhook,
    delivery: &VerifiedDelivery,
) -> Result<Taken, Refusal> {
    let payload = Arc::new(body::parse(&delivery.bytes, delivery.is_form, hook.limit.depth)?);
    let scope = Scope::new()
        .with("config", source.config.clone())
        .with("apps", Arc::clone(&definitions.apps))
        .with("headers", body::headers(&delivery.headers))
        .with("query", body::object(&delivery.query))
        .with("path", Value::String(hook.path.clone()))
        .with("body", Arc::clone(&payload));
    let answer = match &hook.answer {
        Some(template) => Some(rendered(definitions, "answer", template, &scope)?),
        None => None,
    };
    let Some(each) = &hook.each else {
        let events = vec![event(definitions, source, hook, &scope, payload)?];
        return Ok(Taken { events, answer });
    };
    let items = definitions.expr.evaluate(each, &scope).map_err(|failure| unfit("each", &failure.message))?;
    let Value::Array(items) = items else { return Err(unfit("each", "it must give a list")) };
    if items.len() > MOST_EVENTS {
        return Err(unfit("each", &format!("it gives {} events; {MOST_EVENTS} are the most", items.len())));
    }
    let make = |item: Value| {
        let item = Arc::new(item);
        event(definitions, source, hook, &scope.with("item", Arc::clone(&item)), item)
    };
    let events = items.into_iter().map(make).collect::<Result<_, _>>()?;
    Ok(Taken { events, answer })
}

fn event(
    definitions: &Definitions,
    source: &Source,
    hook: &Webhook,
    scope: &Scope,
    payload: Arc<Value>,
) -> Result<NewEvent, Refusal> {
    let trigger = text("trigger", rendered(definitions, "trigger", &hook.trigger, scope)?)?;
    if trigger.len() > LONGEST_TRIGGER {
        return Err(unfit("trigger", &format!("it has more than {LONGEST_TRIGGER} bytes")));
    }
    if !is_trigger(&trigger) {
        let why = format!("`{trigger}` is no trigger: those are written pack.name");
        return Err(unfit("trigger", &why));
    }
    let dedup = match &hook.dedup {
        Some(template) => key(rendered(definitions, "dedup", template, scope)?)?,
        None => None,
    };
    Ok(NewEvent { trigger, source: source.name.clone(), payload, dedup, replay_of: None })
}

fn rendered(
    definitions: &Definitions,
    what: &str,
    template: &Template,
    scope: &Scope,
) -> Result<Value, Refusal> {
    definitions.expr.render_plain(template, scope).map_err(|failure| unfit(what, &failure.message))
}

/// The key of a delivery that is to be one event however often it comes; null: it is like no other.
fn key(value: Value) -> Result<Option<String>, Refusal> {
    if value.is_null() {
        return Ok(None);
    }
    let key = text("dedup", value)?;
    if key.len() <= LONGEST_DEDUP {
        return Ok(Some(key));
    }
    Ok(Some(format!("sha256:{}", hex::encode(Sha256::digest(key)))))
}

fn text(what: &str, value: Value) -> Result<String, Refusal> {
    match value {
        Value::String(text) if text.is_empty() => Err(unfit(what, "it is empty")),
        Value::String(text) if text.contains(char::is_control) => {
            Err(unfit(what, "it holds a control character"))
        }
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(unfit(what, &format!("it must be text, not {other}"))),
    }
}

/// Whether it can be the name of a trigger: `pack.name`, each part there, without blanks and commas. A header that came empty or twice gives none.
fn is_trigger(text: &str) -> bool {
    let parts = text.split('.');
    parts.clone().count() > 1
        && parts.into_iter().all(|part| !part.is_empty())
        && !text.contains(|c: char| c.is_whitespace() || c == ',')
}

fn unfit(what: &str, why: &str) -> Refusal {
    let why: String = why.chars().take(500).collect();
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, format!("`{what}` of this source: {why}"))
}

fn answer(accepted: &[Accepted], many: bool) -> Response {
    let known = accepted.iter().all(|event| event.known);
    let status = if known { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut answer = Object::new();
    answer.insert("event".to_owned(), json!(accepted.first().map(|first| first.event)));
    if many {
        let ids: Vec<_> = accepted.iter().map(|event| event.event).collect();
        answer.insert("events".to_owned(), json!(ids));
    }
    (status, axum::Json(answer)).into_response()
}

/// What the source says in place of the events' ids: nothing, text, or JSON.
fn own_answer(said: Value) -> Response {
    match said {
        Value::Null => StatusCode::OK.into_response(),
        Value::String(text) => text.into_response(),
        other => axum::Json(other).into_response(),
    }
}
