//! A client of Consul's HTTP API: keys, services and their health, events, sessions and locks, and how a change of them is waited for. See docs/adr/0011-own-consul-client.md.
//!
//! Promises: the token travels as a header and in nothing else, and no error or `Debug` shows it; every answer is bounded; a key is asked for exactly
//! as it is named. `wait.rs` has the rules of blocking queries. Decides nothing: what a change means is the caller's.

mod locks;
mod wait;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::http_client;

pub use locks::{NewSession, Session};
pub use wait::{Index, Moved, Pace, Wait};

/// Where an agent listens when nobody says otherwise.
pub const LOCAL: &str = "http://127.0.0.1:8500";

/// The largest answer that is read.
const LARGEST: usize = 32 * 1024 * 1024;
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take beyond what was asked to be waited.
const PATIENCE: Duration = Duration::from_secs(15);
/// How much of what Consul says an error shows.
const SHOWN_CHARACTERS: usize = 200;

/// Why Consul did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ConsulError {
    #[error("`{address}` is no address of Consul ({why}); write it as http://127.0.0.1:8500")]
    BadAddress { address: String, why: String },
    #[error("the CA's certificate for Consul can't be used ({0}); it must be PEM")]
    BadCertificate(String),
    #[error("the token has characters that no header can hold")]
    BadToken,
    #[error("`{0}` can't be asked for: a part of it is empty in front, `.` or `..`")]
    BadName(String),
    /// It does not answer, or broke off.
    #[error("Consul at {address} does not answer: {why}")]
    Away { address: String, why: String },
    /// The token is missing, or may not do this.
    #[error("Consul at {address} forbids this ({said}); give a token that may do it")]
    Forbidden { address: String, said: String },
    #[error("Consul at {address} answered {status}: {said}")]
    Answered { address: String, status: u16, said: String },
    #[error("what Consul at {address} answered is not understood: {why}")]
    NotUnderstood { address: String, why: String },
    #[error("the answer of Consul at {address} is larger than {} MiB; ask for less", LARGEST / 1024 / 1024)]
    TooLarge { address: String },
}

/// An answer, and where it stands among those that come.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    pub value: T,
    /// To be noted in an `Index`.
    pub index: Option<u64>,
    /// Of the endpoints that are told by a hash whether something changed.
    pub hash: Option<String>,
}

/// A key with what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub key: String,
    pub value: Vec<u8>,
    pub flags: u64,
    pub create_index: u64,
    pub modify_index: u64,
    /// The session that holds its lock.
    pub session: Option<String>,
}

/// An instance of a service, with whether it is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub id: String,
    pub service: String,
    pub node: String,
    /// Where it is reached: its own address, or else its node's.
    pub address: String,
    pub port: u16,
    pub tags: Vec<String>,
    pub meta: BTreeMap<String, String>,
    /// The worst of its checks and its node's: `passing`, `warning` or `critical`.
    pub status: String,
}

/// Something that was told to all agents.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Event {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "Name")]
    pub name: String,
    #[serde(rename = "Payload", default, deserialize_with = "base64_or_null")]
    pub payload: Vec<u8>,
    #[serde(rename = "NodeFilter", default)]
    pub node_filter: String,
    #[serde(rename = "ServiceFilter", default)]
    pub service_filter: String,
    #[serde(rename = "TagFilter", default)]
    pub tag_filter: String,
    /// Orders events of one cluster, roughly.
    #[serde(rename = "LTime", default)]
    pub ltime: u64,
}

/// A machine that runs an agent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Node {
    #[serde(rename = "Node")]
    pub name: String,
    #[serde(rename = "Address")]
    pub address: String,
}

/// A way to one Consul. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    address: Url,
    token: Option<HeaderValue>,
    datacenter: Option<String>,
}

/// The address may hold a password, the token is one.
impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&self.shown()).finish()
    }
}

impl Client {
    /// A client of the Consul at `address`, with a token where access is controlled.
    ///
    /// # Errors
    /// `BadAddress`, `BadToken`.
    pub fn new(address: &str, token: Option<&str>) -> Result<Client, ConsulError> {
        Client::trusting(address, token, None)
    }

    /// As `new`; with `ca` (PEM) that vouches for Consul's certificate, in place of those that the machine trusts.
    ///
    /// # Errors
    /// `BadAddress`, `BadToken`, `BadCertificate`.
    pub fn trusting(address: &str, token: Option<&str>, ca: Option<&[u8]>) -> Result<Client, ConsulError> {
        let wrong = |why: String| ConsulError::BadAddress { address: http_client::host_of(address), why };
        let with_scheme =
            if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let url = Url::parse(&with_scheme).map_err(|error| wrong(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
            return Err(wrong(format!("it begins with `{}:`; only http and https are known", url.scheme())));
        }
        let token = token.filter(|token| !token.is_empty()).map(|token| {
            let mut value = HeaderValue::from_str(token).map_err(|_| ConsulError::BadToken)?;
            value.set_sensitive(true);
            Ok::<_, ConsulError>(value)
        });
        let trusted = ca.map(authorities).transpose()?;
        let http = build(trusted).map_err(|error| wrong(http_client::why(&error)))?;
        Ok(Client { http, address: url, token: token.transpose()?, datacenter: None })
    }

    /// Asks for another datacenter than the agent's own.
    #[must_use]
    pub fn datacenter(mut self, name: impl Into<String>) -> Client {
        self.datacenter = Some(name.into());
        self
    }

    /// Host and port: all of the address that may be shown.
    pub fn shown(&self) -> String {
        http_client::host_of(self.address.as_str())
    }

    // Keys.

    /// What a key holds.
    ///
    /// # Errors
    /// As any call: `Away`, `Forbidden`, `Answered`, `NotUnderstood`, `TooLarge`; `BadName`.
    pub async fn key(&self, key: &str, wait: &Wait) -> Result<Answer<Option<Pair>>, ConsulError> {
        let answer = self.pairs(key, &[], wait).await?;
        Ok(answer.map(|pairs| pairs.into_iter().next()))
    }

    /// All keys that begin with `prefix`, in order.
    ///
    /// # Errors
    /// As `key`.
    pub async fn keys(&self, prefix: &str, wait: &Wait) -> Result<Answer<Vec<Pair>>, ConsulError> {
        self.pairs(prefix, &[("recurse", "true")], wait).await
    }

    async fn pairs(
        &self,
        key: &str,
        query: &[(&str, &str)],
        wait: &Wait,
    ) -> Result<Answer<Vec<Pair>>, ConsulError> {
        let answer: Answer<Option<Vec<RawPair>>> = self.get("kv", key, query, wait).await?;
        let pairs = answer.value.unwrap_or_default().into_iter().map(Pair::from).collect();
        Ok(Answer { value: pairs, index: answer.index, hash: answer.hash })
    }

    /// Sets a key, with `cas` only when it is at that modify index; 0: only when it is not there. False when it is not.
    ///
    /// # Errors
    /// As `key`.
    pub async fn set(
        &self,
        key: &str,
        value: impl Into<Vec<u8>>,
        cas: Option<u64>,
    ) -> Result<bool, ConsulError> {
        let cas = cas.map(|index| index.to_string());
        let query: Vec<(&str, &str)> = cas.iter().map(|index| ("cas", index.as_str())).collect();
        self.change(Method::PUT, "kv", key, &query, value.into()).await
    }

    /// As `set`, and gives the key's new modify index; `None` when it is not where `cas` says.
    ///
    /// # Errors
    /// As `key`.
    pub async fn set_at(
        &self,
        key: &str,
        value: &[u8],
        flags: u64,
        cas: Option<u64>,
    ) -> Result<Option<u64>, ConsulError> {
        let verb = if cas.is_some() { "cas" } else { "set" };
        let value = base64::engine::general_purpose::STANDARD.encode(value);
        let pair =
            json!({"Verb": verb, "Key": key, "Value": value, "Flags": flags, "Index": cas.unwrap_or(0)});
        let body = json!([{"KV": pair}]).to_string().into_bytes();
        match self.change::<Transacted>(Method::PUT, "txn", "", &[], body).await {
            Ok(done) => Ok(done.results.into_iter().next().map(|result| result.pair.modify_index)),
            Err(ConsulError::Answered { status: 409, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes all keys that begin with `prefix`.
    ///
    /// # Errors
    /// As `key`.
    pub async fn delete_below(&self, prefix: &str) -> Result<bool, ConsulError> {
        self.change(Method::DELETE, "kv", prefix, &[("recurse", "true")], Vec::new()).await
    }

    /// Deletes a key, with `cas` only when it is at that modify index. False when it is not.
    ///
    /// # Errors
    /// As `key`.
    pub async fn delete(&self, key: &str, cas: Option<u64>) -> Result<bool, ConsulError> {
        let cas = cas.map(|index| index.to_string());
        let query: Vec<(&str, &str)> = cas.iter().map(|index| ("cas", index.as_str())).collect();
        self.change(Method::DELETE, "kv", key, &query, Vec::new()).await
    }

    // Services.

    /// The instances of a service that have all `tags`; with `passing` those that are well only.
    ///
    /// # Errors
    /// As `key`.
    pub async fn instances(
        &self,
        service: &str,
        tags: &[String],
        passing: bool,
        wait: &Wait,
    ) -> Result<Answer<Vec<Instance>>, ConsulError> {
        let mut query: Vec<(&str, &str)> = tags.iter().map(|tag| ("tag", tag.as_str())).collect();
        if passing {
            query.push(("passing", "true"));
        }
        let answer: Answer<Option<Vec<RawEntry>>> = self.get("health/service", service, &query, wait).await?;
        Ok(answer.map(|entries| entries.unwrap_or_default().into_iter().map(Instance::from).collect()))
    }

    /// The names of all services, with their tags.
    ///
    /// # Errors
    /// As `key`.
    pub async fn services(&self, wait: &Wait) -> Result<Answer<BTreeMap<String, Vec<String>>>, ConsulError> {
        let answer: Answer<Option<BTreeMap<String, Vec<String>>>> =
            self.get("catalog/services", "", &[], wait).await?;
        // Consul gives the tags in another order each time.
        Ok(answer.map(|services| {
            let mut services = services.unwrap_or_default();
            services.values_mut().for_each(|tags| tags.sort());
            services
        }))
    }

    /// All nodes.
    ///
    /// # Errors
    /// As `key`.
    pub async fn nodes(&self, wait: &Wait) -> Result<Answer<Vec<Node>>, ConsulError> {
        let answer: Answer<Option<Vec<Node>>> = self.get("catalog/nodes", "", &[], wait).await?;
        Ok(answer.map(Option::unwrap_or_default))
    }

    /// A service as this agent has it, whatever that may be: waited for by the hash of the answer before.
    ///
    /// # Errors
    /// As `key`.
    pub async fn own_service(
        &self,
        id: &str,
        wait: &Wait,
    ) -> Result<Answer<Option<serde_json::Value>>, ConsulError> {
        self.get("agent/service", id, &[], wait).await
    }

    // Events.

    /// The last events of a name that this agent heard of, oldest first; 256 at most. The index tells only whether something changed.
    ///
    /// # Errors
    /// As `key`.
    pub async fn events(&self, name: &str, wait: &Wait) -> Result<Answer<Vec<Event>>, ConsulError> {
        let answer: Answer<Option<Vec<Event>>> = self.get("event/list", "", &[("name", name)], wait).await?;
        Ok(answer.map(Option::unwrap_or_default))
    }

    /// Tells all agents of something.
    ///
    /// # Errors
    /// As `key`.
    pub async fn fire(&self, name: &str, payload: impl Into<Vec<u8>>) -> Result<Event, ConsulError> {
        self.change(Method::PUT, "event/fire", name, &[], payload.into()).await
    }

    /// The server that leads; `None` while there is none.
    ///
    /// # Errors
    /// As `key`.
    pub async fn leader(&self) -> Result<Option<String>, ConsulError> {
        let answer: Answer<Option<String>> = self.get("status/leader", "", &[], &Wait::no()).await?;
        Ok(answer.value.filter(|leader| !leader.is_empty()))
    }

    // How it is asked.

    /// What is at a path; `None` when there is nothing, which has an index too.
    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        name: &str,
        query: &[(&str, &str)],
        wait: &Wait,
    ) -> Result<Answer<Option<T>>, ConsulError> {
        let mut url = self.url(path, name)?;
        self.add_query(&mut url, query);
        // A leader that has just begun may not have read all of its log yet: asked otherwise it would answer that keys are gone which are not.
        url.query_pairs_mut().append_key_only("consistent");
        wait.add_to(&mut url);
        let request = self.request(Method::GET, url).timeout(wait.takes() + PATIENCE);
        let answer = request.send().await.map_err(|error| self.away(&error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let bytes = self.body(answer).await?;
        let index = header(&headers, "x-consul-index").and_then(|text| text.parse().ok());
        let hash = header(&headers, "x-consul-contenthash");
        let value = match status {
            StatusCode::NOT_FOUND => None,
            status if status.is_success() => Some(self.understood(&bytes)?),
            status => return Err(self.refused(status, &bytes)),
        };
        Ok(Answer { value, index, hash })
    }

    async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        name: &str,
        query: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<T, ConsulError> {
        let mut url = self.url(path, name)?;
        self.add_query(&mut url, query);
        let answer = self.request(method, url).timeout(PATIENCE).body(body).send().await;
        let answer = answer.map_err(|error| self.away(&error))?;
        let status = answer.status();
        let bytes = self.body(answer).await?;
        match status.is_success() {
            true => self.understood(&bytes),
            false => Err(self.refused(status, &bytes)),
        }
    }

    fn request(&self, method: Method, url: Url) -> reqwest::RequestBuilder {
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.token {
            headers.insert("X-Consul-Token", token.clone());
        }
        self.http.request(method, url).headers(headers)
    }

    /// The URL of what is called `name`, whatever letters it has.
    fn url(&self, path: &str, name: &str) -> Result<Url, ConsulError> {
        // A URL has no such parts: they would lead to something else.
        if name.starts_with('/') || name.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(ConsulError::BadName(name.to_owned()));
        }
        let mut url = self.address.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().push("v1").extend(path.split('/'));
            // `kv/` with nothing after it is the root of all keys.
            if !name.is_empty() || path == "kv" {
                parts.extend(name.split('/'));
            }
        }
        Ok(url)
    }

    fn add_query(&self, url: &mut Url, query: &[(&str, &str)]) {
        let datacenter = self.datacenter.as_deref().map(|name| ("dc", name));
        let all = query.iter().copied().chain(datacenter);
        all.for_each(|(name, value)| {
            url.query_pairs_mut().append_pair(name, value);
        });
    }

    async fn body(&self, mut answer: Response) -> Result<Vec<u8>, ConsulError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.away(&error))? {
            if bytes.len() + chunk.len() > LARGEST {
                return Err(ConsulError::TooLarge { address: self.shown() });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn understood<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, ConsulError> {
        let wrong = |error: serde_json::Error| ConsulError::NotUnderstood {
            address: self.shown(),
            why: error.to_string(),
        };
        serde_json::from_slice(bytes).map_err(wrong)
    }

    fn away(&self, error: &reqwest::Error) -> ConsulError {
        ConsulError::Away { address: self.shown(), why: http_client::why(error) }
    }

    fn refused(&self, status: StatusCode, bytes: &[u8]) -> ConsulError {
        let address = self.shown();
        let said: String = String::from_utf8_lossy(bytes).trim().chars().take(SHOWN_CHARACTERS).collect();
        match status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => ConsulError::Forbidden { address, said },
            _ => ConsulError::Answered { address, status: status.as_u16(), said },
        }
    }
}

impl<T> Answer<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        Answer { value: change(self.value), index: self.index, hash: self.hash }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Transacted {
    results: Vec<TransactedOne>,
}

#[derive(Deserialize)]
struct TransactedOne {
    #[serde(rename = "KV")]
    pair: TransactedPair,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TransactedPair {
    modify_index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawPair {
    key: String,
    #[serde(default, deserialize_with = "base64_or_null")]
    value: Vec<u8>,
    #[serde(default)]
    flags: u64,
    create_index: u64,
    modify_index: u64,
    session: Option<String>,
}

impl From<RawPair> for Pair {
    fn from(raw: RawPair) -> Pair {
        Pair {
            key: raw.key,
            value: raw.value,
            flags: raw.flags,
            create_index: raw.create_index,
            modify_index: raw.modify_index,
            session: raw.session,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawEntry {
    node: Node,
    service: RawService,
    checks: Option<Vec<RawCheck>>,
}

#[derive(Deserialize)]
struct RawService {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Service")]
    name: String,
    #[serde(rename = "Address", default)]
    address: String,
    #[serde(rename = "Port", default)]
    port: u16,
    #[serde(rename = "Tags")]
    tags: Option<Vec<String>>,
    #[serde(rename = "Meta")]
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawCheck {
    status: String,
}

impl From<RawEntry> for Instance {
    fn from(raw: RawEntry) -> Instance {
        let checks = raw.checks.unwrap_or_default();
        let is_any = |status: &str| checks.iter().any(|check| check.status == status);
        let status = ["critical", "warning"].into_iter().find(|status| is_any(status)).unwrap_or("passing");
        let service = raw.service;
        Instance {
            id: service.id,
            service: service.name,
            address: if service.address.is_empty() { raw.node.address } else { service.address },
            node: raw.node.name,
            port: service.port,
            tags: service.tags.unwrap_or_default(),
            meta: service.meta.unwrap_or_default(),
            status: status.to_owned(),
        }
    }
}

/// What Consul sends as base64, or as null when there is nothing.
fn base64_or_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    base64::engine::general_purpose::STANDARD.decode(text).map_err(serde::de::Error::custom)
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn authorities(pem: &[u8]) -> Result<Vec<reqwest::Certificate>, ConsulError> {
    let read = reqwest::Certificate::from_pem_bundle(pem);
    let found = read.map_err(|error| ConsulError::BadCertificate(http_client::why(&error)))?;
    match found.is_empty() {
        true => Err(ConsulError::BadCertificate("there is none in it".to_owned())),
        false => Ok(found),
    }
}

fn build(trusted: Option<Vec<reqwest::Certificate>>) -> Result<reqwest::Client, reqwest::Error> {
    let builder = || {
        http_client::builder()
            .connect_timeout(CONNECT)
            // An agent leads nowhere else, and the token is for it only.
            .redirect(redirect::Policy::none())
    };
    if let Some(trusted) = trusted {
        return builder().tls_certs_only(trusted).build();
    }
    // A machine without any certificates still speaks plain HTTP.
    builder().build().or_else(|_| builder().tls_certs_only([]).build())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_asked_for_exactly_as_it_is_named() {
        let client = Client::new("http://127.0.0.1:8500/consul/", None).unwrap();
        let url =
            |key: &str| client.url("kv", key).unwrap().as_str().replace("http://127.0.0.1:8500/consul", "");
        for (key, expected) in [
            ("a/b", "/v1/kv/a/b"),
            ("a/b/", "/v1/kv/a/b/"),
            ("", "/v1/kv/"),
            ("a b?c#d%e", "/v1/kv/a%20b%3Fc%23d%25e"),
            ("ü//x", "/v1/kv/%C3%BC//x"),
        ] {
            assert_eq!(url(key), expected);
        }
        for bad in ["..", "a/../b", "./a", "/a"] {
            assert!(matches!(client.url("kv", bad), Err(ConsulError::BadName(_))), "{bad}");
        }
        let other = client.clone().datacenter("dc 2");
        let mut url = other.url("health/service", "web").unwrap();
        other.add_query(&mut url, &[("tag", "a&b")]);
        assert!(url.as_str().ends_with("/v1/health/service/web?tag=a%26b&dc=dc+2"), "{url}");
    }

    #[test]
    fn nothing_shows_the_token_or_a_password() {
        let client = Client::new("https://me:hidden@consul.example:8501/x", Some("s3cret")).unwrap();
        assert_eq!(format!("{client:?}"), "Client(\"consul.example:8501\")");
        assert!(matches!(Client::new("http://a", Some("a\nb")), Err(ConsulError::BadToken)));
        let error = Client::new("ftp://me:hidden@a", None).unwrap_err().to_string();
        assert!(!error.contains("hidden"), "{error}");
        assert_eq!(Client::new("10.0.0.1:8500", None).unwrap().shown(), "10.0.0.1:8500");
    }

    #[test]
    fn an_instance_is_as_well_as_its_worst_check_and_has_an_address() {
        let text = r#"{"Node": {"Node": "n1", "Address": "10.0.0.1"}, "Service": {"ID": "web1", "Service": "web", "Address": "", "Port": 80,
            "Tags": null, "Meta": null}, "Checks": [{"Status": "passing"}, {"Status": "warning"}]}"#;
        let instance = Instance::from(serde_json::from_str::<RawEntry>(text).unwrap());
        assert_eq!((instance.address.as_str(), instance.status.as_str()), ("10.0.0.1", "warning"));
    }
}
