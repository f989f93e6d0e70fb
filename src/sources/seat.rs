//! What a live source has to work with: its settings, its cursor, and the way in for its events.
//!
//! Promises: events and cursor are stored in one transaction; what is stored goes on also while the database is away; an event that its template or
//! trigger refuses is left out and said, and holds up no other.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Sources;
use super::health::State;
use crate::clock::Clock;
use crate::definitions::live::Live;
use crate::definitions::{Definitions, Source};
use crate::engine::{Accepted, Engine, Refused};
use crate::expr::{Scope, Template};
use crate::model::event::NewEvent;
use crate::model::{Object, Span, Timestamp, Value};
use crate::store::{CursorMove, StoreError};

/// Before a write that the database did not take is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// Events in one transaction.
pub(super) const MOST_AT_ONCE: usize = 500;
/// Events out of one thing that was seen.
const MOST_EVENTS: usize = 10_000;
const LONGEST_TRIGGER: usize = 200;
const LONGEST_DEDUP: usize = 512;

/// Why a source can't watch on.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Trouble(String);

impl Trouble {
    pub(super) fn new(why: impl Into<String>) -> Trouble {
        Trouble(why.into())
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Trouble {
        Trouble(error.to_string())
    }
}

impl From<crate::process::ProcessError> for Trouble {
    fn from(error: crate::process::ProcessError) -> Trouble {
        Trouble(error.to_string())
    }
}

impl From<crate::git::GitError> for Trouble {
    fn from(error: crate::git::GitError) -> Trouble {
        Trouble(error.to_string())
    }
}

impl From<crate::consul::ConsulError> for Trouble {
    fn from(error: crate::consul::ConsulError) -> Trouble {
        Trouble(error.to_string())
    }
}

impl From<crate::etcd::EtcdError> for Trouble {
    fn from(error: crate::etcd::EtcdError) -> Trouble {
        Trouble(error.to_string())
    }
}

impl From<crate::amqp::AmqpError> for Trouble {
    fn from(error: crate::amqp::AmqpError) -> Trouble {
        Trouble(error.to_string())
    }
}

/// Something that was seen: an event, or with `each` several.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    /// `body` in templates, and the payload.
    pub(super) body: Value,
    /// Tells it from all others of this source, where the definition says no `dedup`.
    pub(super) dedup: Option<String>,
    /// When it happened, where that is known.
    pub(super) at: Option<Timestamp>,
}

impl Sight {
    pub(super) fn of(body: Value) -> Sight {
        Sight { body, dedup: None, at: None }
    }
}

/// What became of something that was seen.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) events: Vec<NewEvent>,
    /// Why the others became none.
    pub(super) refused: Vec<String>,
}

/// A live source at work.
pub(super) struct Seat {
    sources: Arc<Sources>,
    source: Arc<Source>,
    /// Cancelled when it should end.
    pub(super) end: CancellationToken,
    subject: String,
    /// Of the cursor in the store; 0: there is none.
    version: i64,
}

impl Seat {
    pub(super) fn new(sources: Arc<Sources>, source: &Arc<Source>, end: CancellationToken) -> Seat {
        Seat { sources, source: Arc::clone(source), end, subject: String::new(), version: 0 }
    }

    pub(super) fn clock(&self) -> &Clock {
        self.engine().clock()
    }

    /// Whether what is seen is taken apart into several events.
    pub(super) fn has_each(&self) -> bool {
        self.source.live().is_some_and(|live| live.each.is_some())
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.sources.engine
    }

    /// Where it goes on: what was stored when it watched the same `subject`. Must be called before anything is stored.
    pub(super) async fn open(&mut self, subject: String) -> Result<Option<Value>, Trouble> {
        let stored = self.engine().store().cursor(&self.source.name).await?;
        self.version = stored.as_ref().map_or(0, |cursor| cursor.version);
        let known = stored.filter(|cursor| cursor.subject == subject).map(|cursor| cursor.value);
        self.subject = subject;
        Ok(known)
    }

    /// What it watches has answered.
    pub(super) fn well(&self) {
        let now = self.clock().now();
        self.sources.note(&self.source.name, |health| {
            if health.problem.take().is_some() {
                tracing::info!(source = self.source.name, "the source is well again");
            }
            let life = health.live.get_or_insert_default();
            life.state = State::Watching;
            life.next_try_at = None;
            life.last_seen_at = Some(now);
        });
    }

    /// The text of a setting, with its secrets.
    pub(super) async fn setting(&self, what: &str, template: &Template) -> Result<String, Trouble> {
        let definitions = self.engine().definitions();
        let rendered = definitions
            .expr
            .render(template, &self.scope(&definitions))
            .map_err(|failure| Trouble::new(format!("`{what}` of this source: {}", failure.message)))?;
        let mut secrets = std::collections::BTreeMap::new();
        for name in rendered.secrets() {
            let found = self.engine().secrets().get(&name).await;
            let found = found.map_err(|error| Trouble::new(error.to_string()))?;
            let missing =
                || Trouble::new(format!("the secret `{name}` is not set: siskin secret set {name}"));
            secrets.insert(name.clone(), found.ok_or_else(missing)?);
        }
        let filled = rendered.fill(&mut |name| {
            let secret = secrets.get(name).ok_or_else(|| Trouble::new(format!("no secret `{name}`")))?;
            Ok::<_, Trouble>(secret.reveal().to_owned())
        })?;
        match filled {
            Value::String(text) => Ok(text),
            Value::Number(_) | Value::Bool(_) => Ok(filled.to_string()),
            other => Err(Trouble::new(format!("`{what}` of this source must be text, not {other}"))),
        }
    }

    /// What a template gives for something that was seen.
    pub(super) fn text_of(&self, what: &str, template: &Template, body: &Value) -> Result<String, String> {
        let definitions = self.engine().definitions();
        let scope = self.scope(&definitions).with("body", body.clone());
        let value = definitions.expr.render_plain(template, &scope);
        match value.map_err(|failure| format!("`{what}` of this source: {}", failure.message))? {
            Value::String(text) => Ok(text),
            other => Ok(other.to_string()),
        }
    }

    /// As `setting`, of one that need not be there.
    pub(super) async fn optional(
        &self,
        what: &str,
        template: Option<&Template>,
    ) -> Result<Option<String>, Trouble> {
        match template {
            Some(template) => self.setting(what, template).await.map(Some),
            None => Ok(None),
        }
    }

    /// Certificates or keys: the text itself, or the file at the path that it is.
    pub(super) async fn pem(
        &self,
        what: &str,
        template: Option<&Template>,
    ) -> Result<Option<String>, Trouble> {
        let text = self.optional(what, template).await?;
        let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
        if text.contains("-----BEGIN") {
            return Ok(Some(text));
        }
        let read = tokio::fs::read_to_string(&text).await;
        read.map(Some).map_err(|error| Trouble::new(format!("`{what}`: `{text}` can't be read: {error}")))
    }

    /// Stores what was seen, and where to go on after it. Goes on until the database takes it.
    pub(super) async fn store(&mut self, seen: Vec<Sight>, cursor: Value) -> Result<(), Trouble> {
        let lag = seen.iter().rev().find_map(|sight| sight.at).map(|at| self.clock().now().since(at));
        let events = self.events(seen);
        self.store_events(events, lag, cursor).await
    }

    /// As `store`, of events that were made already.
    pub(super) async fn store_events(
        &mut self,
        events: Vec<NewEvent>,
        lag: Option<Span>,
        cursor: Value,
    ) -> Result<(), Trouble> {
        let definitions = self.engine().definitions();
        if definitions.sources.get(&self.source.name).is_none_or(|source| source.live().is_none()) {
            // What was seen is left for when it comes back.
            return Err(Trouble::new("its definition is gone"));
        }
        let to = CursorMove {
            source: self.source.name.clone(),
            subject: self.subject.clone(),
            value: cursor,
            from: self.version,
        };
        let accepted = self.accept(events, to).await?;
        self.version += 1;
        self.sources.note_accepted(&self.source.name, &accepted);
        if !accepted.is_empty() {
            self.sources.note_life(&self.source.name, |life| life.lag = lag);
        }
        Ok(())
    }

    async fn accept(&self, events: Vec<NewEvent>, to: CursorMove) -> Result<Vec<Accepted>, Trouble> {
        let mut is_in_doubt = false;
        loop {
            let why = match self.engine().accept_at(events.clone(), to.clone()).await {
                Ok(accepted) => return Ok(accepted),
                // The answer to an earlier try was lost, not the write.
                Err(Refused::Store(StoreError::Conflict(_)))
                    if is_in_doubt && self.is_stored(&to).await? =>
                {
                    return Ok(Vec::new());
                }
                Err(Refused::Store(error)) if error.is_final() => return Err(error.into()),
                Err(Refused::Store(error @ StoreError::Conflict(_))) => return Err(error.into()),
                Err(Refused::Store(error)) => error.to_string(),
                Err(Refused::Busy(_)) => "too much is waiting to be stored".to_owned(),
                Err(refused) => return Err(Trouble::new(refused.to_string())),
            };
            is_in_doubt = true;
            self.note_error(format!("what was seen can't be stored yet: {why}"));
            tokio::select! {
                () = tokio::time::sleep(STORE_AGAIN) => (),
                () = self.end.cancelled() => return Err(Trouble::new(why)),
            }
        }
    }

    async fn is_stored(&self, to: &CursorMove) -> Result<bool, Trouble> {
        let stored = self.engine().store().cursor(&to.source).await?;
        Ok(stored.is_some_and(|cursor| cursor.version == to.from + 1 && cursor.value == to.value))
    }

    /// The events of what was seen, by the definition in force. What becomes none is said.
    pub(super) fn events(&self, seen: Vec<Sight>) -> Vec<NewEvent> {
        let mut events = Vec::new();
        for sight in seen {
            // Of a source whose definition is gone nothing is stored either.
            let Ok(made) = self.made(sight) else { break };
            made.refused.into_iter().for_each(|why| self.refuse(why));
            events.extend(made.events);
        }
        events
    }

    /// What becomes of one thing that was seen, by the definition in force. Says nothing of what is refused.
    ///
    /// # Errors
    /// Its definition is gone.
    pub(super) fn made(&self, sight: Sight) -> Result<Made, Trouble> {
        let definitions = self.engine().definitions();
        let mut made = Made::default();
        // Its expressions belong to the definitions with which they were read.
        let found = definitions.sources.get(&self.source.name);
        let Some((source, live)) = found.and_then(|source| Some((source, source.live()?))) else {
            return Err(Trouble::new("its definition is gone"));
        };
        let events = match of_sight(&definitions, source, live, sight, &self.scope(&definitions)) {
            Ok(events) => events,
            Err(why) => {
                made.refused.push(why);
                return Ok(made);
            }
        };
        for event in events {
            match event.and_then(|event| match self.engine().why_not_stored(&event) {
                Some(why) => Err(why),
                None => Ok(event),
            }) {
                Ok(event) => made.events.push(event),
                Err(why) => made.refused.push(why),
            }
        }
        Ok(made)
    }

    fn scope(&self, definitions: &Definitions) -> Scope {
        Scope::new().with("config", self.source.config.clone()).with("apps", Arc::clone(&definitions.apps))
    }

    /// Notes that something which was seen became no event.
    pub(super) fn refuse(&self, why: String) {
        tracing::warn!(source = self.source.name, "left out: {why}");
        self.sources.note(&self.source.name, |health| health.refused += 1);
        self.note_error(why);
    }

    /// Waits, because what it watches asked for it, and says so.
    pub(super) async fn rest(&self, why: String, span: Span) {
        let until = self.clock().now().plus(span);
        tracing::warn!(source = self.source.name, "{why}; it asks again in {span}");
        self.sources.note(&self.source.name, |health| health.problem = Some(why.clone()));
        self.sources.note_life(&self.source.name, |life| {
            life.state = State::Failing;
            life.next_try_at = Some(until);
        });
        self.note_error(why);
        tokio::time::sleep(span.duration()).await;
    }

    pub(super) fn note_error(&self, why: String) {
        let now = self.clock().now();
        self.sources.note(&self.source.name, |health| {
            health.last_error = Some(why);
            health.last_error_at = Some(now);
        });
    }
}

/// The events of one thing that was seen.
fn of_sight(
    definitions: &Definitions,
    source: &Source,
    live: &Live,
    sight: Sight,
    scope: &Scope,
) -> Result<Vec<Result<NewEvent, String>>, String> {
    let body = Arc::new(sight.body);
    let scope = scope.with("body", Arc::clone(&body));
    let Some(each) = &live.each else {
        return Ok(vec![event(definitions, source, live, &scope, body, sight.dedup)]);
    };
    let failed = |why: &str| format!("`each` of this source: {why}");
    let items = definitions.expr.evaluate(each, &scope).map_err(|failure| failed(&failure.message))?;
    let Value::Array(items) = items else { return Err(failed("it must give a list")) };
    if items.len() > MOST_EVENTS {
        return Err(failed(&format!("it gives {} events; {MOST_EVENTS} are the most", items.len())));
    }
    let make = |(index, item): (usize, Value)| {
        let item = Arc::new(item);
        let dedup = sight.dedup.as_ref().map(|key| format!("{key} {index}"));
        event(definitions, source, live, &scope.with("item", Arc::clone(&item)), item, dedup)
    };
    Ok(items.into_iter().enumerate().map(make).collect())
}

fn event(
    definitions: &Definitions,
    source: &Source,
    live: &Live,
    scope: &Scope,
    payload: Arc<Value>,
    dedup: Option<String>,
) -> Result<NewEvent, String> {
    let text = |what: &str, template: &Template, longest: usize| {
        let failed = |why: &str| format!("`{what}` of this source: {why}");
        let value = definitions.expr.render_plain(template, scope);
        match value.map_err(|failure| failed(&failure.message))? {
            Value::String(text) if text.is_empty() => Err(failed("it is empty")),
            Value::String(text) if text.len() > longest => {
                Err(failed(&format!("it has more than {longest} bytes")))
            }
            Value::String(text) if text.contains(char::is_control) => {
                Err(failed("it holds a control character"))
            }
            Value::String(text) => Ok(text),
            Value::Number(number) => Ok(number.to_string()),
            other => Err(failed(&format!("it must be text, not {other}"))),
        }
    };
    let trigger = text("trigger", &live.trigger, LONGEST_TRIGGER)?;
    let parts = trigger.split('.');
    if parts.clone().count() < 2
        || parts.into_iter().any(str::is_empty)
        || trigger.contains(char::is_whitespace)
    {
        return Err(format!("`{trigger}` is no trigger: those are written pack.name"));
    }
    let dedup = match &live.dedup {
        Some(template) => Some(text("dedup", template, LONGEST_DEDUP)?),
        None => dedup,
    };
    Ok(NewEvent { trigger, source: source.name.clone(), payload, dedup, replay_of: None })
}

/// Bytes as text; those that are none as base64, under another name.
pub(super) fn put_bytes(body: &mut Object, name: &str, bytes: Vec<u8>) {
    match String::from_utf8(bytes) {
        Ok(text) => drop(body.insert(name.to_owned(), Value::String(text))),
        Err(error) => {
            let text = base64::engine::general_purpose::STANDARD.encode(error.as_bytes());
            body.insert(name.to_owned(), Value::Null);
            body.insert(format!("{name}_base64"), Value::String(text));
        }
    }
}

/// A short text that tells bytes from others.
pub(super) fn fingerprint(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(&Sha256::digest(bytes)[..8])
}

/// What two cursors of the same thing have in common.
pub(super) fn subject(parts: &[&str]) -> String {
    json!(parts).to_string()
}
