//! A client of etcd's JSON gateway (`/v3/...`): what keys hold, how they are changed, and how their changes are watched.
//!
//! Promises: the password and the token travel in the body and header that etcd wants and in nothing else, and no error or `Debug` shows them; every
//! answer is bounded; nothing waits without end, except for a change. A member that has lost its majority says so in place of being silent. Decides
//! nothing: what a change means is the caller's.

mod watch;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Response, Url, redirect};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::http_client;

pub use watch::{Change, Said, Watching};

/// Where a member listens when nobody says otherwise.
pub const LOCAL: &str = "http://127.0.0.1:2379";

/// The largest answer, and the largest part of a watch, that is read.
const LARGEST: usize = 64 * 1024 * 1024;
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take. A member without its majority takes some seconds to say so.
const PATIENCE: Duration = Duration::from_secs(20);
/// A connection on which nothing comes is tried so often, so that one that is gone is seen.
const ALIVE: Duration = Duration::from_secs(20);
/// Keys in one answer.
const PAGE: usize = 500;
/// How much of what etcd says an error shows.
const SHOWN_CHARACTERS: usize = 200;

/// Why etcd did not do it.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    #[error("`{address}` is no address of etcd ({why}); write it as {LOCAL}")]
    BadAddress { address: String, why: String },
    #[error("the {what} for etcd can't be used ({why}); it must be PEM")]
    BadCertificate { what: &'static str, why: String },
    /// It does not answer, or broke off.
    #[error("etcd at {address} does not answer: {why}")]
    Away { address: String, why: String },
    /// Fewer than half of its members are there.
    #[error("etcd at {address} can't serve: its cluster has no leader or no majority ({said})")]
    NoMajority { address: String, said: String },
    #[error("etcd at {address} forbids this ({said}); give a `user` and `password` that may do it")]
    Forbidden { address: String, said: String },
    #[error("etcd at {address} answered: {said}")]
    Answered { address: String, said: String },
    #[error("what etcd at {address} answered is not understood: {why}")]
    NotUnderstood { address: String, why: String },
    #[error("an answer of etcd at {address} is larger than {} MiB", LARGEST / 1024 / 1024)]
    TooLarge { address: String },
    #[error("there are more than {most} keys; watch a longer prefix")]
    TooMany { most: usize },
}

/// What is asked for: one key, or all that begin alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    One(Vec<u8>),
    Below(Vec<u8>),
}

impl Keys {
    /// The first key, and the one after the last; none of a single one.
    fn range(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        match self {
            Keys::One(key) => (key.clone(), None),
            // Of all keys both ends are the byte 0.
            Keys::Below(prefix) if prefix.is_empty() => (vec![0], Some(vec![0])),
            Keys::Below(prefix) => (prefix.clone(), Some(after_all(prefix))),
        }
    }

    fn put_into(&self, request: &mut Value) {
        let (key, end) = self.range();
        request["key"] = STANDARD.encode(key).into();
        if let Some(end) = end {
            request["range_end"] = STANDARD.encode(end).into();
        }
    }
}

/// The first key after all that begin with `prefix`.
fn after_all(prefix: &[u8]) -> Vec<u8> {
    let kept = prefix.iter().rposition(|byte| *byte < 0xff);
    let Some(last) = kept else { return vec![0] };
    let mut end: Vec<u8> = prefix.iter().take(last + 1).copied().collect();
    if let Some(byte) = end.last_mut() {
        *byte += 1;
    }
    end
}

/// A key with what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Pair {
    #[serde(deserialize_with = "bytes")]
    pub key: Vec<u8>,
    #[serde(deserialize_with = "bytes")]
    pub value: Vec<u8>,
    #[serde(deserialize_with = "number")]
    pub create_revision: i64,
    #[serde(deserialize_with = "number")]
    pub mod_revision: i64,
    /// How often it was set since it was made.
    #[serde(deserialize_with = "number")]
    pub version: i64,
    #[serde(deserialize_with = "number")]
    pub lease: i64,
}

/// What keys hold, all at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The cluster's own number. One that is made anew may have the old one.
    pub cluster: String,
    /// When: etcd counts its changes.
    pub revision: i64,
    pub pairs: Vec<Pair>,
}

/// How many keys there are, and when the newest of them changed: less to send than all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    pub count: u64,
    pub newest: i64,
}

/// How etcd is reached over TLS, where the machine's own certificates do not do. All are PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// Who signed etcd's certificate.
    pub ca: Option<Vec<u8>>,
    /// Our certificate, with its key.
    pub identity: Option<Vec<u8>>,
}

/// It may hold a key.
impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tls { ca, identity } = self;
        f.debug_struct("Tls").field("ca", &ca.is_some()).field("identity", &identity.is_some()).finish()
    }
}

/// Who asks, where etcd has users.
#[derive(Clone)]
struct User {
    name: String,
    password: String,
}

/// A way to one member of an etcd. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    address: Url,
    user: Option<User>,
    /// What etcd gave for the password; it expires.
    token: Arc<Mutex<Option<HeaderValue>>>,
}

/// The address may hold a password.
impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&self.shown()).finish()
    }
}

impl Client {
    /// A client of the member at `address`.
    ///
    /// # Errors
    /// `BadAddress`, `BadCertificate`.
    pub fn new(address: &str, tls: &Tls) -> Result<Client, EtcdError> {
        let wrong = |why: String| EtcdError::BadAddress { address: http_client::host_of(address), why };
        let with_scheme =
            if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let url = Url::parse(&with_scheme).map_err(|error| wrong(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
            return Err(wrong(format!("it begins with `{}:`; only http and https are known", url.scheme())));
        }
        let http = build(tls)?.map_err(|error| wrong(http_client::why(&error)))?;
        Ok(Client { http, address: url, user: None, token: Arc::default() })
    }

    /// Asks as this user.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Client {
        self.user = Some(User { name: name.to_owned(), password: password.to_owned() });
        self
    }

    /// Host and port: all of the address that may be shown.
    pub fn shown(&self) -> String {
        http_client::host_of(self.address.as_str())
    }

    /// What keys hold, all at one moment, in order; `most` of them.
    ///
    /// # Errors
    /// As any call: `Away`, `NoMajority`, `Forbidden`, `Answered`, `NotUnderstood`, `TooLarge`; `TooMany`.
    pub async fn read(&self, keys: &Keys, most: usize) -> Result<Snapshot, EtcdError> {
        let mut snapshot = Snapshot::default();
        let mut request = json!({"limit": PAGE});
        keys.put_into(&mut request);
        loop {
            let mut answer: Range = self.ask("kv/range", &request).await?;
            if snapshot.revision == 0 {
                snapshot.cluster = answer.header.cluster_id;
                snapshot.revision = answer.header.revision;
            }
            snapshot.pairs.append(&mut answer.kvs);
            if snapshot.pairs.len() > most {
                return Err(EtcdError::TooMany { most });
            }
            let Some(last) = snapshot.pairs.last().filter(|_| answer.more) else { return Ok(snapshot) };
            // The next page: of the same moment, from the key after the last one.
            request["key"] = STANDARD.encode([last.key.as_slice(), &[0]].concat()).into();
            request["revision"] = snapshot.revision.to_string().into();
        }
    }

    /// Sets a key, or deletes it where there is no value; with `if_at` only when that is its mod revision (0: when it is not there). Whether it was.
    ///
    /// # Errors
    /// As `read`. After `Away` it may have happened.
    pub async fn change(
        &self,
        key: &str,
        value: Option<&str>,
        if_at: Option<i64>,
    ) -> Result<bool, EtcdError> {
        let name = STANDARD.encode(key);
        let what = match value {
            Some(value) => json!({"request_put": {"key": name, "value": STANDARD.encode(value)}}),
            None => json!({"request_delete_range": {"key": name}}),
        };
        let is_as_read = |at: i64| json!({"key": name, "target": "MOD", "result": "EQUAL", "mod_revision": at.to_string()});
        let compare: Vec<Value> = if_at.into_iter().map(is_as_read).collect();
        let request = json!({"compare": compare, "success": [what]});
        let answer: Transacted = self.ask("kv/txn", &request).await?;
        Ok(answer.succeeded)
    }

    /// Whether anything happened to keys, as a majority of the members knows it.
    ///
    /// # Errors
    /// As `read`.
    pub async fn glance(&self, keys: &Keys) -> Result<Glance, EtcdError> {
        let mut request =
            json!({"limit": 1, "keys_only": true, "sort_order": "DESCEND", "sort_target": "MOD"});
        keys.put_into(&mut request);
        let answer: Range = self.ask("kv/range", &request).await?;
        let newest = answer.kvs.first().map_or(0, |pair| pair.mod_revision);
        Ok(Glance { count: u64::try_from(answer.count).unwrap_or(0), newest })
    }

    /// Watches keys: every change from revision `from` on, that one included.
    ///
    /// # Errors
    /// As `read`; what goes wrong later `Watching::next` says.
    pub async fn watch(&self, keys: &Keys, from: i64) -> Result<Watching, EtcdError> {
        // Large sets of changes come in parts; a sign of life comes every ten minutes.
        let mut create =
            json!({"start_revision": from.to_string(), "progress_notify": true, "fragment": true});
        keys.put_into(&mut create);
        let request = json!({"create_request": create});
        Ok(Watching::new(self.clone(), self.send("watch", &request, None).await?))
    }

    /// Asks, and logs in again when the token is too old.
    async fn ask<T: DeserializeOwned>(&self, path: &str, request: &Value) -> Result<T, EtcdError> {
        let answer = self.send(path, request, Some(PATIENCE)).await?;
        let bytes = self.body(answer).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.not_understood(&error))
    }

    /// An answer that is none of an error, its body still to be read. `patience` is for all of it.
    async fn send(
        &self,
        path: &str,
        request: &Value,
        patience: Option<Duration>,
    ) -> Result<Response, EtcdError> {
        if self.user.is_some() && self.known_token().is_none() {
            self.log_in().await?;
        }
        match self.post(path, request, patience).await {
            Err(Failure::Token(_)) if self.user.is_some() => {
                self.log_in().await?;
                self.post(path, request, patience).await.map_err(Failure::into_error)
            }
            other => other.map_err(Failure::into_error),
        }
    }

    async fn log_in(&self) -> Result<(), EtcdError> {
        let Some(user) = &self.user else { return Ok(()) };
        self.keep_token(None);
        let request = json!({"name": user.name, "password": user.password});
        let answer = self.post("auth/authenticate", &request, Some(PATIENCE)).await;
        let bytes = self.body(answer.map_err(Failure::into_error)?).await?;
        let granted: Granted = serde_json::from_slice(&bytes).map_err(|error| self.not_understood(&error))?;
        let mut token = HeaderValue::from_str(&granted.token).map_err(|error| self.not_understood(&error))?;
        token.set_sensitive(true);
        self.keep_token(Some(token));
        Ok(())
    }

    fn known_token(&self) -> Option<HeaderValue> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep_token(&self, token: Option<HeaderValue>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    async fn post(
        &self,
        path: &str,
        request: &Value,
        patience: Option<Duration>,
    ) -> Result<Response, Failure> {
        let mut url = self.address.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().push("v3").extend(path.split('/'));
        }
        // Whoever watches is told when there is no leader any more.
        let mut asked = self.http.post(url).header("Grpc-Metadata-hasleader", "true").json(request);
        if let Some(token) = self.known_token() {
            asked = asked.header(AUTHORIZATION, token);
        }
        if let Some(patience) = patience {
            asked = asked.timeout(patience);
        }
        // Also of an answer that never ends, the beginning comes soon.
        let answer = tokio::time::timeout(PATIENCE, asked.send()).await;
        let late = |_| self.away("it took too long".to_owned());
        let answer = answer.map_err(late).map_err(Failure::Other)?;
        let answer = answer.map_err(|error| Failure::Other(self.away(http_client::why(&error))))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let bytes = self.body(answer).await.map_err(Failure::Other)?;
        // After the JSON of an error a trailer may stand.
        let mut read = serde_json::Deserializer::from_slice(&bytes).into_iter::<Refusal>();
        let refusal = read.next().and_then(Result::ok);
        Err(self.refused(refusal.unwrap_or_else(|| Refusal::of(&status.to_string()))))
    }

    async fn body(&self, mut answer: Response) -> Result<Vec<u8>, EtcdError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.away(http_client::why(&error)))? {
            if bytes.len() + chunk.len() > LARGEST {
                return Err(self.too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn away(&self, why: String) -> EtcdError {
        EtcdError::Away { address: self.shown(), why }
    }

    fn too_large(&self) -> EtcdError {
        EtcdError::TooLarge { address: self.shown() }
    }

    fn not_understood(&self, error: &impl ToString) -> EtcdError {
        EtcdError::NotUnderstood { address: self.shown(), why: error.to_string() }
    }

    fn refused(&self, refusal: Refusal) -> Failure {
        let address = self.shown();
        let said: String = refusal.message.trim().chars().take(SHOWN_CHARACTERS).collect();
        let is_old = said.contains("invalid auth token") || said.contains("revision in header is old");
        let error = match refusal.code {
            // Unavailable, and a deadline that passed within etcd.
            14 | 4 => EtcdError::NoMajority { address, said },
            // Not allowed, not logged in, wrong password, nobody given.
            7 | 16 => EtcdError::Forbidden { address, said },
            3 if said.contains("authentication failed") || said.contains("user name is empty") => {
                EtcdError::Forbidden { address, said }
            }
            _ => EtcdError::Answered { address, said },
        };
        if is_old { Failure::Token(error) } else { Failure::Other(error) }
    }
}

/// Why an answer was none.
enum Failure {
    /// The token is of no use any more; another one may be.
    Token(EtcdError),
    Other(EtcdError),
}

impl Failure {
    fn into_error(self) -> EtcdError {
        match self {
            Failure::Token(error) | Failure::Other(error) => error,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Header {
    cluster_id: String,
    #[serde(deserialize_with = "number")]
    revision: i64,
}

#[derive(Deserialize)]
struct Range {
    header: Header,
    #[serde(default)]
    kvs: Vec<Pair>,
    #[serde(default)]
    more: bool,
    #[serde(default, deserialize_with = "number")]
    count: i64,
}

#[derive(Deserialize)]
struct Transacted {
    /// What is false is left out.
    #[serde(default)]
    succeeded: bool,
}

#[derive(Deserialize)]
struct Granted {
    token: String,
}

/// An error, as the gateway writes it: in an answer with `code`, in a watch with `grpc_code`.
#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    message: String,
    #[serde(default, alias = "grpc_code")]
    code: i64,
}

impl Refusal {
    fn of(message: &str) -> Refusal {
        Refusal { message: message.to_owned(), code: -1 }
    }
}

/// Numbers come as texts, so that JavaScript does not round them.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(0),
        Value::String(text) => text.parse().map_err(serde::de::Error::custom),
        other => other.as_i64().ok_or_else(|| serde::de::Error::custom("no whole number")),
    }
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

fn build(tls: &Tls) -> Result<Result<reqwest::Client, reqwest::Error>, EtcdError> {
    let builder = || {
        http_client::builder()
            .connect_timeout(CONNECT)
            .tcp_keepalive(ALIVE)
            .tcp_keepalive_interval(ALIVE)
            .tcp_keepalive_retries(3)
            // A member leads nowhere else, and the token is for it only.
            .redirect(redirect::Policy::none())
    };
    let wrong = |what: &'static str| {
        move |error: reqwest::Error| EtcdError::BadCertificate { what, why: http_client::why(&error) }
    };
    let with_identity = |builder: reqwest::ClientBuilder| match &tls.identity {
        Some(pem) => {
            Ok(builder.identity(reqwest::Identity::from_pem(pem).map_err(wrong("certificate and key"))?))
        }
        None => Ok(builder),
    };
    if let Some(pem) = &tls.ca {
        let trusted = reqwest::Certificate::from_pem_bundle(pem).map_err(wrong("CA's certificate"))?;
        if trusted.is_empty() {
            let why = "there is none in it".to_owned();
            return Err(EtcdError::BadCertificate { what: "CA's certificate", why });
        }
        return Ok(with_identity(builder().tls_certs_only(trusted))?.build());
    }
    let built = with_identity(builder())?.build();
    // A machine without any certificates still speaks plain HTTP.
    Ok(built.or_else(|_| builder().tls_certs_only([]).build()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_first_key_that_begins_otherwise() {
        let end = |prefix: &[u8]| Keys::Below(prefix.to_vec()).range().1.unwrap();
        assert_eq!(end(b"apps/"), b"apps0");
        assert_eq!(end(b"a\xff"), b"b");
        assert_eq!(end(b"\xff\xff"), [0]);
        assert_eq!(Keys::Below(Vec::new()).range(), (vec![0], Some(vec![0])));
        assert_eq!(Keys::One(b"a".to_vec()).range(), (b"a".to_vec(), None));
    }

    #[test]
    fn nothing_shows_a_password() {
        let client = Client::new("https://me:hidden@etcd.example:2379/x", &Tls::default()).unwrap();
        let client = client.user("ana", "s3cret");
        assert_eq!(format!("{client:?}"), "Client(\"etcd.example:2379\")");
        let error = Client::new("ftp://me:hidden@a", &Tls::default()).unwrap_err().to_string();
        assert!(!error.contains("hidden"), "{error}");
        let tls = Tls { ca: Some(b"no certificate".to_vec()), identity: None };
        assert!(matches!(Client::new("a:2379", &tls), Err(EtcdError::BadCertificate { .. })));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let client = Client::new("127.0.0.1:1", &Tls::default()).unwrap();
        let error = |text: &str| client.refused(serde_json::from_str(text).unwrap()).into_error();
        let no_leader = r#"{"grpc_code": 14, "http_code": 503, "message": "etcdserver: no leader"}"#;
        assert!(matches!(error(no_leader), EtcdError::NoMajority { .. }));
        let empty = r#"{"error": "etcdserver: user name is empty", "message": "etcdserver: user name is empty", "code": 3}"#;
        assert!(matches!(error(empty), EtcdError::Forbidden { .. }));
        let old = r#"{"message": "etcdserver: invalid auth token", "code": 16}"#;
        assert!(matches!(client.refused(serde_json::from_str(old).unwrap()), Failure::Token(_)));
    }
}
