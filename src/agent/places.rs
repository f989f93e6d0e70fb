//! Where versions are told: Consul, etcd, or the server's own keys. Read when asked; where the place can tell of a change by itself, that is waited for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::server::Server;
use crate::consul::{self, Index, Pace, Wait};
use crate::definitions::agent::{Advertised, AgentFile, Remote};
use crate::delivery::advertised::{mark_of, version_in};
use crate::etcd::{self, Keys, Said};

/// Between two tries to wait for a change, at first and at last.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// A key, and a way to it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    key: String,
    way: Way,
}

#[derive(Clone, Debug)]
enum Way {
    Consul(consul::Client),
    Etcd(Vec<etcd::Client>),
    Kv(Arc<Server>),
}

impl Place {
    /// # Errors
    /// A secret or a certificate can't be read, an address is none.
    pub(super) fn of(
        advertised: &Advertised,
        file: &AgentFile,
        server: Option<&Arc<Server>>,
    ) -> anyhow::Result<Place> {
        let (key, way) = match advertised {
            Advertised::Consul(key) => (key, Way::Consul(consul_of(&file.consul)?)),
            Advertised::Etcd(key) => (key, Way::Etcd(etcd_of(&file.etcd)?)),
            Advertised::Kv(key) => {
                let Some(server) = server else { anyhow::bail!("`kv` needs `server`") };
                (key, Way::Kv(Arc::clone(server)))
            }
        };
        Ok(Place { key: key.clone(), way })
    }

    /// For people.
    pub(super) fn shown(&self) -> String {
        match &self.way {
            Way::Consul(client) => format!("{} in Consul at {}", self.key, client.shown()),
            Way::Etcd(clients) => {
                let members: Vec<String> = clients.iter().map(etcd::Client::shown).collect();
                format!("{} in etcd at {}", self.key, members.join(", "))
            }
            Way::Kv(server) => format!("the key {} at {}", self.key, server.shown()),
        }
    }

    /// The version that is told there.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub(super) async fn version(&self) -> Result<Option<String>, String> {
        self.read(&self.key).await
    }

    /// The version to which a host may go back.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub(super) async fn way_back(&self) -> Result<Option<String>, String> {
        self.read(&mark_of(&self.key)).await
    }

    async fn read(&self, key: &str) -> Result<Option<String>, String> {
        match &self.way {
            Way::Consul(client) => {
                let found = client.key(key, &Wait::no()).await.map_err(|error| error.to_string())?;
                Ok(found.value.and_then(|pair| version_in(&pair.value)))
            }
            Way::Etcd(clients) => {
                let mut failed = Vec::new();
                for client in clients {
                    match client.read(&Keys::One(key.as_bytes().to_vec()), 1).await {
                        Ok(found) => {
                            return Ok(found.pairs.first().and_then(|pair| version_in(&pair.value)));
                        }
                        Err(error) => failed.push(error.to_string()),
                    }
                }
                Err(failed.join("; "))
            }
            Way::Kv(server) => server.key(key).await,
        }
    }

    /// Says so whenever the key may have changed, for ever. What it misses, the next look at it does not.
    pub(super) async fn watch(self, changed: Arc<Notify>) {
        let mut pause = AGAIN.0;
        loop {
            let began = tokio::time::Instant::now();
            match &self.way {
                Way::Consul(client) => self.watch_consul(client, &changed).await,
                Way::Etcd(clients) => {
                    for client in clients {
                        self.watch_etcd(client, &changed).await;
                    }
                }
                // It is asked at every look.
                Way::Kv(_) => return,
            }
            // It may have changed while nobody watched.
            changed.notify_one();
            pause = if began.elapsed() > AGAIN.1 { AGAIN.0 } else { (pause * 2).min(AGAIN.1) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn watch_consul(&self, client: &consul::Client, changed: &Notify) {
        let (mut index, mut pace) = (Index::default(), Pace::default());
        let mut known = None;
        loop {
            pace.next().await;
            let Ok(answer) = client.key(&self.key, &Wait::after(&index)).await else { return };
            index.note(answer.index);
            let version = answer.value.map(|pair| pair.value);
            if known.as_ref().is_some_and(|known| *known != version) {
                changed.notify_one();
            }
            known = Some(version);
        }
    }

    async fn watch_etcd(&self, client: &etcd::Client, changed: &Notify) {
        let keys = Keys::One(self.key.as_bytes().to_vec());
        let Ok(now) = client.read(&keys, 1).await else { return };
        let Ok(mut watching) = client.watch(&keys, now.revision + 1).await else { return };
        while let Ok(said) = watching.next().await {
            match said {
                Said::Changes(_) => changed.notify_one(),
                Said::Forgotten { .. } => return,
                Said::Begun | Said::NothingUpTo(_) => {}
            }
        }
    }
}

fn consul_of(remote: &Remote) -> anyhow::Result<consul::Client> {
    let address = remote.addresses.first().map_or(consul::LOCAL, String::as_str);
    let (token, ca) = (secret(remote)?, bytes(remote.ca.as_deref())?);
    let client = consul::Client::trusting(address, token.as_deref(), ca.as_deref())?;
    Ok(match &remote.datacenter {
        Some(name) => client.datacenter(name),
        None => client,
    })
}

fn etcd_of(remote: &Remote) -> anyhow::Result<Vec<etcd::Client>> {
    let tls = etcd::Tls { ca: bytes(remote.ca.as_deref())?, identity: bytes(remote.certificate.as_deref())? };
    let password = secret(remote)?;
    let local = [etcd::LOCAL.to_owned()];
    let addresses = if remote.addresses.is_empty() { &local[..] } else { &remote.addresses };
    let client = |address: &String| {
        let client = etcd::Client::new(address, &tls)?;
        Ok(match (&remote.user, &password) {
            (Some(user), Some(password)) => client.user(user, password),
            _ => client,
        })
    };
    addresses.iter().map(client).collect()
}

fn secret(remote: &Remote) -> anyhow::Result<Option<String>> {
    remote.secret_file.as_deref().map(super::server::secret_in).transpose()
}

fn bytes(path: Option<&str>) -> anyhow::Result<Option<Vec<u8>>> {
    let read = |path| std::fs::read(path).map_err(|error| anyhow::anyhow!("{path} can't be read: {error}"));
    path.map(read).transpose()
}
