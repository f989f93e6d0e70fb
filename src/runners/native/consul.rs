//! Pack `consul`: keys, services, sessions, locks and events of a Consul.
//!
//! | action | parameters | does, and gives |
//! | --- | --- | --- |
//! | `consul.kv_get` | `key` | `{found, value, modify_index, create_index, flags, session}`; bytes that are no text are in `value_base64` |
//! | `consul.kv_list` | `prefix` | `{keys}`: all that begin with it, as `kv_get` gives them, with `key` |
//! | `consul.kv_put` | `key`, `value`, `cas`, `flags` | sets it, or fails when `cas` is not its modify index (0: it must be absent); `{modify_index}` |
//! | `consul.kv_delete` | `key`, `cas`; or `prefix` | deletes it, or all that begin alike; `{deleted}` |
//! | `consul.services` | | `{services}`: `{name: [tags]}` |
//! | `consul.service` | `name`, `tags`, `passing`, `at_least` | its instances, those that are well only unless `passing` is false; fails when there are fewer than `at_least`; `{instances, count}` |
//! | `consul.session_create` | `name`, `ttl`, `behavior`, `lock_delay` | `{session}` |
//! | `consul.session_renew` | `session` | fails when it has ended; `{session, ttl}` |
//! | `consul.session_destroy` | `session` | `{session}` |
//! | `consul.lock_acquire` | `key`, `session`, `value`, `wait` | locks the key, or fails when it is held by another for longer than `wait`; `{key, session}` |
//! | `consul.lock_release` | `key`, `session`, `value` | frees it, and leaves what it holds unless `value` says otherwise; `{released}`, false when the session did not hold it |
//! | `consul.event_fire` | `name`, `payload` | tells all agents; `{id}` |
//!
//! All take `address`, `datacenter`, `token` and `ca` (PEM, or the path of a file); what is not said comes from the pack's configuration.

use std::time::Duration;

use base64::Engine as _;
use tokio::time::Instant;

use super::super::{Done, Failure, Job, object, optional_text, text_parameter};
use crate::consul::{Client, ConsulError, Instance, LOCAL, NewSession, Pair, Wait};
use crate::model::{Object, Span, Value};

/// How often a lock that is held is tried again.
const LOCK_POLL: Duration = Duration::from_millis(500);

impl From<ConsulError> for Failure {
    fn from(error: ConsulError) -> Failure {
        Failure::new(error.to_string())
    }
}

/// Which Consul is asked, and as whom.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) address: Option<String>,
    pub(super) datacenter: Option<String>,
    pub(super) token: Option<String>,
    /// PEM, or the path of a file.
    pub(super) ca: Option<String>,
}

impl Settings {
    /// Those of the pack `deploy`, with what the app's file says of it.
    pub(super) fn of_deploy(
        job: &Job,
        address: Option<String>,
        datacenter: Option<String>,
    ) -> Result<Settings, Failure> {
        let configured = |name: &str| -> Result<Option<String>, Failure> {
            Ok(optional_text(&job.work.config, name)?.map(str::to_owned))
        };
        Ok(Settings {
            address: address.or(configured("consul_address")?),
            datacenter: datacenter.or(configured("consul_datacenter")?),
            token: optional_text(&job.parameters, "consul_token")?.map(str::to_owned),
            ca: configured("consul_ca")?,
        })
    }

    pub(super) async fn client(self) -> Result<Client, Failure> {
        let ca = match self.ca.filter(|text| !text.trim().is_empty()) {
            None => None,
            Some(text) if text.contains("-----BEGIN") => Some(text.into_bytes()),
            Some(path) => Some(tokio::fs::read(&path).await.map_err(|error| {
                Failure::new(format!("the CA's certificate `{path}` can't be read: {error}"))
            })?),
        };
        let address = self.address.filter(|address| !address.is_empty());
        let address = address.unwrap_or_else(|| LOCAL.to_owned());
        let client = Client::trusting(&address, self.token.as_deref(), ca.as_deref())?;
        Ok(match self.datacenter.filter(|name| !name.is_empty()) {
            Some(name) => client.datacenter(name),
            None => client,
        })
    }
}

/// The Consul that a job means.
async fn client(job: &Job) -> Result<Client, Failure> {
    let setting = |name: &str| -> Result<Option<String>, Failure> {
        let of_config = optional_text(&job.work.config, name)?;
        Ok(optional_text(&job.parameters, name)?.or(of_config).map(str::to_owned))
    };
    let settings = Settings {
        address: setting("address")?,
        datacenter: setting("datacenter")?,
        token: setting("token")?,
        ca: setting("ca")?,
    };
    settings.client().await
}

/// What a job's Consul says, unless it is cancelled first.
async fn asked<T>(job: &Job, answer: impl Future<Output = Result<T, ConsulError>>) -> Result<T, Failure> {
    tokio::select! {
        answer = answer => answer.map_err(Failure::from),
        () = job.cancel.cancelled() => Err(Failure::cancelled()),
    }
}

pub(super) async fn kv_get(job: Job) -> Result<Done, Failure> {
    let key = text_parameter(&job.parameters, "key")?;
    let client = client(&job).await?;
    let found = asked(&job, client.key(key, &Wait::no())).await?.value;
    let mut output = Object::new();
    output.insert("found".to_owned(), Value::from(found.is_some()));
    match found {
        Some(pair) => output.extend(of_pair(pair)),
        None => output.extend([
            ("value".to_owned(), Value::Null),
            // What `cas` of kv_put takes for a key that is not there.
            ("modify_index".to_owned(), Value::from(0)),
        ]),
    }
    Ok(Done::with(Value::Object(output)))
}

pub(super) async fn kv_list(job: Job) -> Result<Done, Failure> {
    let prefix = text_parameter(&job.parameters, "prefix")?;
    let client = client(&job).await?;
    let found = asked(&job, client.keys(prefix, &Wait::no())).await?.value;
    let keys = found.into_iter().map(|pair| {
        let mut key = Object::new();
        key.insert("key".to_owned(), Value::from(pair.key.as_str()));
        key.extend(of_pair(pair));
        Value::Object(key)
    });
    Ok(Done::with(object([("keys", keys.collect())])))
}

fn of_pair(pair: Pair) -> Object {
    let mut shown = Object::new();
    match String::from_utf8(pair.value) {
        Ok(text) => drop(shown.insert("value".to_owned(), Value::from(text))),
        Err(error) => {
            let text = base64::engine::general_purpose::STANDARD.encode(error.as_bytes());
            shown.insert("value".to_owned(), Value::Null);
            shown.insert("value_base64".to_owned(), Value::from(text));
        }
    }
    shown.insert("modify_index".to_owned(), Value::from(pair.modify_index));
    shown.insert("create_index".to_owned(), Value::from(pair.create_index));
    shown.insert("flags".to_owned(), Value::from(pair.flags));
    shown.insert("session".to_owned(), pair.session.map_or(Value::Null, Value::from));
    shown
}

pub(super) async fn kv_put(job: Job) -> Result<Done, Failure> {
    let key = text_parameter(&job.parameters, "key")?;
    let value =
        job.parameters.get("value").ok_or_else(|| Failure::new("the parameter `value` is missing"))?;
    let cas = number(&job, "cas")?;
    let flags = number(&job, "flags")?.unwrap_or(0);
    let client = client(&job).await?;
    let put = asked(&job, client.set_at(key, bytes(value).as_bytes(), flags, cas)).await?;
    match put {
        Some(index) => Ok(Done::with(object([("modify_index", Value::from(index))]))),
        None => Err(moved(key, cas)),
    }
}

pub(super) async fn kv_delete(job: Job) -> Result<Done, Failure> {
    let cas = number(&job, "cas")?;
    let client = client(&job).await?;
    let key = optional_text(&job.parameters, "key")?;
    let prefix = optional_text(&job.parameters, "prefix")?;
    let deleted = match (key, prefix) {
        (Some(key), None) => match asked(&job, client.delete(key, cas)).await? {
            true => true,
            false => return Err(moved(key, cas)),
        },
        (None, Some("")) => {
            return Err(Failure::new("`prefix` is empty: that would delete all keys there are"));
        }
        (None, Some(prefix)) if cas.is_none() => asked(&job, client.delete_below(prefix)).await?,
        (None, Some(_)) => return Err(Failure::new("`cas` is for one `key`, not for a `prefix`")),
        _ => return Err(Failure::new("either a `key` or a `prefix` is deleted")),
    };
    Ok(Done::with(object([("deleted", Value::from(deleted))])))
}

fn moved(key: &str, cas: Option<u64>) -> Failure {
    match cas {
        Some(0) => Failure::new(format!("the key `{key}` is there already, and `cas: 0` wants it absent")),
        Some(index) => {
            Failure::new(format!("the key `{key}` is not at {index} any more: somebody else changed it"))
        }
        None => Failure::new(format!("Consul did not take the key `{key}`, and does not say why")),
    }
}

pub(super) async fn services(job: Job) -> Result<Done, Failure> {
    let client = client(&job).await?;
    let found = asked(&job, client.services(&Wait::no())).await?.value;
    let services: Object = found.into_iter().map(|(name, tags)| (name, Value::from(tags))).collect();
    Ok(Done::with(object([("services", Value::Object(services))])))
}

pub(super) async fn service(job: Job) -> Result<Done, Failure> {
    let name = text_parameter(&job.parameters, "name")?;
    let tags = texts(job.parameters.get("tags"), "tags")?;
    let passing = job.parameters.get("passing").and_then(Value::as_bool).unwrap_or(true);
    let at_least = number(&job, "at_least")?.unwrap_or(0);
    let client = client(&job).await?;
    let found = asked(&job, client.instances(name, &tags, passing, &Wait::no())).await?.value;
    let output =
        object([("count", Value::from(found.len())), ("instances", found.iter().map(of_instance).collect())]);
    if (found.len() as u64) < at_least {
        let well = if passing { " that pass their checks" } else { "" };
        let tagged = if tags.is_empty() { String::new() } else { format!(" with {}", tags.join(", ")) };
        let count = found.len();
        let why = format!("there are {count} instances of `{name}`{tagged}{well}; {at_least} are the least");
        return Err(Failure::new(why).showing(output));
    }
    Ok(Done::with(output))
}

fn of_instance(instance: &Instance) -> Value {
    let meta: Object =
        instance.meta.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    object([
        ("id", Value::from(instance.id.as_str())),
        ("node", Value::from(instance.node.as_str())),
        ("address", Value::from(instance.address.as_str())),
        ("port", Value::from(instance.port)),
        ("tags", Value::from(instance.tags.clone())),
        ("meta", Value::Object(meta)),
        ("status", Value::from(instance.status.as_str())),
    ])
}

pub(super) async fn session_create(job: Job) -> Result<Done, Failure> {
    let deletes = match optional_text(&job.parameters, "behavior")? {
        None | Some("release") => false,
        Some("delete") => true,
        Some(other) => {
            return Err(Failure::new(format!("`behavior` is `{other}`; it is release or delete")));
        }
    };
    let session = NewSession {
        name: optional_text(&job.parameters, "name")?.unwrap_or("siskin").to_owned(),
        ttl: span(&job, "ttl")?,
        deletes,
        lock_delay: span(&job, "lock_delay")?,
    };
    let client = client(&job).await?;
    let id = asked(&job, client.create_session(&session)).await?;
    Ok(Done::with(object([("session", Value::from(id))])))
}

pub(super) async fn session_renew(job: Job) -> Result<Done, Failure> {
    let id = text_parameter(&job.parameters, "session")?;
    let client = client(&job).await?;
    match asked(&job, client.renew_session(id)).await? {
        Some(session) => {
            Ok(Done::with(object([("session", Value::from(session.id)), ("ttl", Value::from(session.ttl))])))
        }
        None => Err(Failure::new(format!("the session {id} has ended, and its locks with it"))),
    }
}

pub(super) async fn session_destroy(job: Job) -> Result<Done, Failure> {
    let id = text_parameter(&job.parameters, "session")?;
    let client = client(&job).await?;
    asked(&job, client.destroy_session(id)).await?;
    Ok(Done::with(object([("session", Value::from(id))])))
}

pub(super) async fn lock_acquire(job: Job) -> Result<Done, Failure> {
    let key = text_parameter(&job.parameters, "key")?;
    let session = text_parameter(&job.parameters, "session")?;
    let value = job.parameters.get("value").map(bytes).unwrap_or_default();
    let until = Instant::now() + span(&job, "wait")?.unwrap_or(Span::seconds(0)).duration();
    let client = client(&job).await?;
    let mut is_noted = false;
    while !asked(&job, client.acquire(key, value.as_bytes(), session)).await? {
        let left = until.saturating_duration_since(Instant::now());
        let holder = || async {
            let found = asked(&job, client.key(key, &Wait::no())).await?.value;
            Ok::<_, Failure>(match found.and_then(|pair| pair.session) {
                Some(holder) => format!("the session {holder} holds the key `{key}`"),
                // Consul's lock delay.
                None => format!("the key `{key}` was held by a session that ended a moment ago"),
            })
        };
        if left.is_zero() {
            return Err(Failure::new(holder().await?));
        }
        if !is_noted {
            job.note(&format!("{}; waiting for it", holder().await?));
            is_noted = true;
        }
        tokio::select! {
            () = tokio::time::sleep(left.min(LOCK_POLL)) => (),
            () = job.cancel.cancelled() => return Err(Failure::cancelled()),
        }
    }
    Ok(Done::with(object([("key", Value::from(key)), ("session", Value::from(session))])))
}

pub(super) async fn lock_release(job: Job) -> Result<Done, Failure> {
    let key = text_parameter(&job.parameters, "key")?;
    let session = text_parameter(&job.parameters, "session")?;
    let client = client(&job).await?;
    // To free a key sets it, so what it holds is given back to it; as long as it is locked, nobody else changes it.
    let held = asked(&job, client.key(key, &Wait::no())).await?.value;
    let Some(held) = held.filter(|pair| pair.session.as_deref() == Some(session)) else {
        return Ok(Done::with(object([("released", Value::from(false))])));
    };
    let value = match job.parameters.get("value").filter(|value| !value.is_null()) {
        Some(value) => bytes(value).into_bytes(),
        None => held.value,
    };
    let released = asked(&job, client.release(key, value, session)).await?;
    Ok(Done::with(object([("released", Value::from(released))])))
}

pub(super) async fn event_fire(job: Job) -> Result<Done, Failure> {
    let name = text_parameter(&job.parameters, "name")?;
    let payload = job.parameters.get("payload").map(bytes).unwrap_or_default();
    let client = client(&job).await?;
    let event = asked(&job, client.fire(name, payload)).await?;
    Ok(Done::with(object([("id", Value::from(event.id))])))
}

/// A value as Consul keeps it: text as it is, nothing for null, all else as JSON.
fn bytes(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A whole number that need not be there.
fn number(job: &Job, name: &str) -> Result<Option<u64>, Failure> {
    match job.parameters.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) => Ok(Some(number)),
            None => Err(Failure::new(format!("the parameter `{name}` must be a whole number from 0"))),
        },
    }
}

fn span(job: &Job, name: &str) -> Result<Option<Span>, Failure> {
    optional_text(&job.parameters, name)?.map(|text| text.parse().map_err(Failure::new)).transpose()
}

/// One text or a list of them.
pub(super) fn texts(value: Option<&Value>, name: &str) -> Result<Vec<String>, Failure> {
    let wrong = || Failure::new(format!("`{name}` must be text, or a list of texts"));
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}
