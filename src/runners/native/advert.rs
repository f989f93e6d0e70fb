//! The version of an app that an environment advertises: what its hosts, and whoever else looks, are to go by.
//!
//! | `advertise` | where |
//! | --- | --- |
//! | `{consul: KEY, address, datacenter}` | a key of Consul's store |
//! | `{etcd: KEY, address}` | a key of etcd; members are separated by commas |
//! | `{kv: KEY}` | a key of Siskin's own |
//!
//! `{app}` and `{environment}` in KEY stand for their names. Who asks Consul and etcd, and by which certificates, the configuration of the pack says.
//!
//! Promises: it is set by compare-and-set before the first host is touched, and what stood there before is noted first (`deploy/ID/advertised` in the KV
//! store), so that a roll which goes on after a crash, and a way back, know it. Where the roll fails or is taken back, it is put back, unless somebody else
//! has changed it since: then it is left, and that is said. A way back, and a roll with `downgrade`, say first in the key beside it that they are one
//! (`delivery::advertised`), or agents on the hosts would refuse a lower version; a roll forward takes that word away again.

use super::super::{Failure, Job, object, optional_text};
use super::consul::Settings;
use super::core::unexpected;
use crate::consul::{self, Wait};
use crate::delivery::advertised::{mark_of, version_in};
use crate::etcd::{self, EtcdError};
use crate::model::desk::{Reply, Request};
use crate::model::{Span, Value};

/// How long it is known what stood there before.
const NOTED: Span = Span::days(90);

/// Where an environment's version is advertised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Advert {
    key: String,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Consul { address: Option<String>, datacenter: Option<String> },
    Etcd { address: Option<String> },
    Store,
}

/// What a key holds, and by which number it is known whether somebody changed it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    version: Option<String>,
    at: i64,
}

/// A way to where it stands.
enum Way<'a> {
    Consul(consul::Client, &'a str),
    Etcd(etcd::Client, &'a str),
    Store(&'a Job, &'a str),
}

impl Advert {
    /// Reads `advertise` of an environment.
    pub(super) fn read(
        value: Option<&Value>,
        app: &str,
        environment: &str,
    ) -> Result<Option<Advert>, Failure> {
        let Some(map) = value.filter(|value| !value.is_null()) else { return Ok(None) };
        let text = |name: &str| Ok::<_, Failure>(optional_text(map, name)?.map(str::to_owned));
        let (key, place) = match (text("consul")?, text("etcd")?, text("kv")?) {
            (Some(key), None, None) => {
                (key, Place::Consul { address: text("address")?, datacenter: text("datacenter")? })
            }
            (None, Some(key), None) => (key, Place::Etcd { address: text("address")? }),
            (None, None, Some(key)) => (key, Place::Store),
            _ => {
                let message = "`advertise` says one of `consul: KEY`, `etcd: KEY` and `kv: KEY`";
                return Err(Failure::new(message));
            }
        };
        let key = key.replace("{app}", app).replace("{environment}", environment);
        if key.is_empty() {
            return Err(Failure::new("the key of `advertise` is empty"));
        }
        Ok(Some(Advert { key, place }))
    }

    /// For people.
    pub(super) fn shown(&self) -> String {
        match self.place {
            Place::Consul { .. } => format!("{} in Consul", self.key),
            Place::Etcd { .. } => format!("{} in etcd", self.key),
            Place::Store => format!("the key {}", self.key),
        }
    }

    /// Advertises the version of a deployment; what stood there before. A roll that goes on finds what it had set.
    pub(super) async fn announce(&self, job: &Job, deployment: i64, version: &str) -> Result<Value, Failure> {
        let way = self.way(job).await?;
        let held = way.held().await?;
        let before = match noted(job, deployment).await? {
            Some(before) => before,
            None => {
                note(job, deployment, held.version.as_deref()).await?;
                held.version.clone()
            }
        };
        let goes_back = job.parameters.get("downgrade").and_then(Value::as_bool).unwrap_or(false);
        if goes_back {
            way.mark(Some(version)).await?;
        }
        if held.version.as_deref() == Some(version) {
            return Ok(self.output(before.as_deref(), version));
        }
        if held.version != before || !way.set(Some(version), &held).await? {
            return Err(Failure::new(format!(
                "{} was changed by somebody else while this deployment was about to set it to {version}; look who deploys there, and roll again",
                self.shown()
            )));
        }
        if !goes_back {
            way.mark(None).await?;
        }
        job.note(&format!(
            "advertised {version} in {}; before: {}",
            self.shown(),
            or_nothing(before.as_deref())
        ));
        Ok(self.output(before.as_deref(), version))
    }

    /// Puts back what stood there before the deployment, if what it set still stands there.
    pub(super) async fn take_back(&self, job: &Job, deployment: i64, version: &str) -> Result<(), Failure> {
        let Some(before) = noted(job, deployment).await? else { return Ok(()) };
        let way = self.way(job).await?;
        let held = way.held().await?;
        if held.version == before {
            return Ok(());
        }
        if held.version.as_deref() == Some(version) && before.is_some() {
            way.mark(before.as_deref()).await?;
        }
        if held.version.as_deref() != Some(version) || !way.set(before.as_deref(), &held).await? {
            let is = or_nothing(held.version.as_deref());
            job.note(&format!("{} is {is}, which somebody else set: it is left so", self.shown()));
            return Ok(());
        }
        job.note(&format!("put {} back to {}", self.shown(), or_nothing(before.as_deref())));
        Ok(())
    }

    fn output(&self, before: Option<&str>, version: &str) -> Value {
        let before = before.map_or(Value::Null, Value::from);
        object([("in", Value::from(self.shown())), ("from", before), ("to", Value::from(version))])
    }

    async fn way<'a>(&'a self, job: &'a Job) -> Result<Way<'a>, Failure> {
        match &self.place {
            Place::Store => Ok(Way::Store(job, &self.key)),
            Place::Consul { address, datacenter } => {
                let settings = Settings::of_deploy(job, address.clone(), datacenter.clone())?;
                Ok(Way::Consul(settings.client().await?, &self.key))
            }
            Place::Etcd { address } => {
                let clients = members(job, address.as_deref()).await?;
                Ok(Way::Etcd(first_that_answers(clients, &self.key).await?, &self.key))
            }
        }
    }
}

impl From<EtcdError> for Failure {
    fn from(error: EtcdError) -> Failure {
        Failure::new(error.to_string())
    }
}

/// The members of an etcd, asked as the configuration of the pack says.
async fn members(job: &Job, address: Option<&str>) -> Result<Vec<etcd::Client>, Failure> {
    let config = &job.work.config;
    let addresses = address.or(optional_text(config, "etcd_address")?).unwrap_or(etcd::LOCAL);
    let tls = etcd::Tls {
        ca: pem(optional_text(config, "etcd_ca")?).await?,
        identity: pem(optional_text(&job.parameters, "etcd_certificate")?).await?,
    };
    let user = optional_text(config, "etcd_user")?;
    let password = optional_text(&job.parameters, "etcd_password")?;
    if user.is_some() != password.is_some() {
        let message = "etcd needs both `etcd_user` and `etcd_password_secret` in `config: {deploy: ..}`";
        return Err(Failure::new(message));
    }
    let client = |address: &str| {
        let client = etcd::Client::new(address.trim(), &tls)?;
        Ok(match (user, password) {
            (Some(user), Some(password)) => client.user(user, password),
            _ => client,
        })
    };
    addresses.split(',').filter(|address| !address.trim().is_empty()).map(client).collect()
}

/// What is PEM, or lies in the file that is named.
async fn pem(said: Option<&str>) -> Result<Option<Vec<u8>>, Failure> {
    match said.filter(|text| !text.trim().is_empty()) {
        None => Ok(None),
        Some(text) if text.contains("-----BEGIN") => Ok(Some(text.as_bytes().to_vec())),
        Some(path) => {
            let unreadable =
                |error| Failure::new(format!("the certificate `{path}` for etcd can't be read: {error}"));
            tokio::fs::read(path).await.map(Some).map_err(unreadable)
        }
    }
}

/// The first member that knows what a majority knows.
async fn first_that_answers(clients: Vec<etcd::Client>, key: &str) -> Result<etcd::Client, Failure> {
    let mut failed = Vec::new();
    for client in clients {
        match client.glance(&etcd::Keys::One(key.as_bytes().to_vec())).await {
            Ok(_) => return Ok(client),
            Err(error) => failed.push(error.to_string()),
        }
    }
    Err(Failure::new(failed.join("; ")))
}

impl Way<'_> {
    async fn held(&self) -> Result<Held, Failure> {
        match self {
            Way::Consul(client, key) => {
                let answer = client.key(key, &Wait::no()).await?;
                let at = answer.value.as_ref().map_or(0, |pair| pair.modify_index);
                Ok(Held {
                    version: answer.value.and_then(|pair| version_in(&pair.value)),
                    at: i64::try_from(at).unwrap_or(i64::MAX),
                })
            }
            Way::Etcd(client, key) => {
                let found = client.read(&etcd::Keys::One(key.as_bytes().to_vec()), 1).await?;
                let pair = found.pairs.into_iter().next();
                Ok(Held {
                    at: pair.as_ref().map_or(0, |pair| pair.mod_revision),
                    version: pair.and_then(|pair| version_in(&pair.value)),
                })
            }
            Way::Store(job, key) => {
                let (value, at) = asked(job, Request::KvGet { key: (*key).to_owned() }).await?;
                let version = match value {
                    None | Some(Value::Null) => None,
                    Some(Value::String(text)) => Some(text),
                    Some(other) => Some(other.to_string()),
                };
                Ok(Held { version, at })
            }
        }
    }

    /// Sets or empties it, if it still is as it was; whether it was.
    async fn set(&self, version: Option<&str>, held: &Held) -> Result<bool, Failure> {
        match self {
            Way::Consul(client, key) => {
                let cas = Some(u64::try_from(held.at).unwrap_or(0));
                match version {
                    Some(version) => Ok(client.set(key, version, cas).await?),
                    None => Ok(client.delete(key, cas).await?),
                }
            }
            Way::Etcd(client, key) => Ok(client.change(key, version, Some(held.at)).await?),
            Way::Store(job, key) => keep(job, (*key).to_owned(), version, Some(held.at)).await,
        }
    }

    /// Says to which version hosts may go back, or that they may to none.
    async fn mark(&self, version: Option<&str>) -> Result<(), Failure> {
        match self {
            Way::Consul(client, key) => match version {
                Some(version) => client.set(&mark_of(key), version, None).await.map(drop)?,
                None => client.delete(&mark_of(key), None).await.map(drop)?,
            },
            Way::Etcd(client, key) => drop(client.change(&mark_of(key), version, None).await?),
            Way::Store(job, key) => {
                let (stands, _) = asked(job, Request::KvGet { key: mark_of(key) }).await?;
                if version.is_some() || stands.is_some_and(|value| !value.is_null()) {
                    keep(job, mark_of(key), version, None).await?;
                }
            }
        }
        Ok(())
    }
}

/// Sets a key of Siskin's own; false when it is not as it was.
async fn keep(
    job: &Job,
    key: String,
    version: Option<&str>,
    if_version: Option<i64>,
) -> Result<bool, Failure> {
    let value = version.map_or(Value::Null, Value::from);
    match job.line.ask(Request::KvSet { key, value, ttl: None, if_version }).await {
        Reply::Kv { .. } => Ok(true),
        Reply::Refused { .. } => Ok(false),
        other => Err(unexpected(other)),
    }
}

fn or_nothing(version: Option<&str>) -> &str {
    version.unwrap_or("nothing")
}

fn note_of(deployment: i64) -> String {
    format!("deploy/{deployment}/advertised")
}

/// What a deployment found; `None` when it has noted nothing.
async fn noted(job: &Job, deployment: i64) -> Result<Option<Option<String>>, Failure> {
    let (value, _) = asked(job, Request::KvGet { key: note_of(deployment) }).await?;
    Ok(value.map(|value| value.get("before").and_then(Value::as_str).map(str::to_owned)))
}

async fn note(job: &Job, deployment: i64, before: Option<&str>) -> Result<(), Failure> {
    let value = object([("before", before.map_or(Value::Null, Value::from))]);
    let (key, ttl) = (note_of(deployment), Some(NOTED));
    match job.line.ask(Request::KvSet { key, value, ttl, if_version: None }).await {
        Reply::Kv { .. } => Ok(()),
        other => Err(unexpected(other)),
    }
}

async fn asked(job: &Job, request: Request) -> Result<(Option<Value>, i64), Failure> {
    match job.line.ask(request).await {
        Reply::Kv { value, version } => Ok((value, version)),
        other => Err(unexpected(other)),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_key_names_app_and_environment_and_stands_in_one_place() {
        let read = |value: Value| Advert::read(Some(&value), "shop", "canary");
        let in_consul = read(json!({"consul": "{app}::{environment}_version", "address": "http://c:8500"}));
        assert_eq!(in_consul.unwrap().unwrap().shown(), "shop::canary_version in Consul");
        let in_etcd = read(json!({"etcd": "/{app}/{environment}", "address": "http://e:2379"}));
        assert_eq!(in_etcd.unwrap().unwrap().shown(), "/shop/canary in etcd");
        let own = read(json!({"kv": "{app}/version"})).unwrap().unwrap();
        assert_eq!(own, Advert { key: "shop/version".to_owned(), place: Place::Store });
        assert_eq!(Advert::read(None, "shop", "canary").unwrap(), None);
        for wrong in [json!({}), json!({"consul": "a", "kv": "b"}), json!({"kv": ""})] {
            assert!(read(wrong).is_err());
        }
    }
}
