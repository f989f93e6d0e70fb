//! Answers what workers ask: keys and values, records of deployments.

use std::collections::BTreeMap;

use serde_json::json;

use crate::model::desk::{Reply, Request};
use crate::model::release::{Deployment, DeploymentStatus};
use crate::model::{Actor, AttemptKey};
use crate::store::{DeploymentFilter, KvSet, NewAudit, NewDeployment, Piece, Put, StoreError};

use super::{Engine, Refused, lock};

/// App, environment and status, with how many deployments came to it.
pub(super) type Ended = BTreeMap<(String, String, &'static str), u64>;

impl Engine {
    /// The deployments whose status this server stored since it started.
    pub fn deployments_ended(&self) -> BTreeMap<(String, String, &'static str), u64> {
        lock(&self.ended).clone()
    }

    /// Counts what a deployment has come to. Told again, it is counted once.
    fn count_ended(&self, before: &Deployment, status: DeploymentStatus) {
        let word = match status {
            DeploymentStatus::Rolling => return,
            DeploymentStatus::Done => "done",
            DeploymentStatus::Failed => "failed",
            DeploymentStatus::Restored => "restored",
        };
        if before.status != status {
            *lock(&self.ended).entry((before.app.clone(), before.environment.clone(), word)).or_default() +=
                1;
        }
    }

    pub(super) async fn answer_worker(&self, key: &AttemptKey, request: Request) -> Reply {
        match self.answer_request(key, request).await {
            Ok(reply) => reply,
            Err(error) => Reply::Refused { why: error.to_string() },
        }
    }

    /// A later deployment of the same app to the same environment that is at work or done.
    async fn newer_deployment(&self, than: &Deployment) -> Result<Option<Deployment>, StoreError> {
        let filter = DeploymentFilter {
            app: Some(than.app.clone()),
            environment: Some(than.environment.clone()),
            limit: 100,
            ..DeploymentFilter::default()
        };
        let later = self.store.deployments(&filter).await?.into_iter().map(|stored| stored.deployment);
        let stands = |other: &Deployment| {
            other.id > than.id && matches!(other.status, DeploymentStatus::Rolling | DeploymentStatus::Done)
        };
        Ok(later.into_iter().find(stands))
    }

    async fn answer_request(&self, key: &AttemptKey, request: Request) -> Result<Reply, StoreError> {
        let now = self.clock.now();
        match request {
            Request::KvGet { key } => {
                let entry = self.store.kv(&key, now).await?;
                let version = entry.as_ref().map_or(0, |entry| entry.version);
                Ok(Reply::Kv { value: entry.map(|entry| entry.value), version })
            }
            Request::KvSet { key: name, value, ttl, if_version } => {
                let set = KvSet {
                    key: name.clone(),
                    value: value.clone(),
                    expires_at: ttl.map(|ttl| now.plus(ttl)),
                    if_version,
                };
                let audit = NewAudit {
                    at: now,
                    actor: Actor::Run { id: key.run },
                    act: "kv.set".to_owned(),
                    subject: format!("key {name}"),
                    details: json!({"step": key.step}),
                    from: None,
                };
                let version = self.store.kv_set(set, Some(audit), now).await?;
                Ok(Reply::Kv { value: Some(value), version })
            }
            Request::BeginDeployment { app, environment, version, after, as_on } => {
                // Items of one step are deployments of their own.
                let item = key.item.map(|item| format!(".{item}")).unwrap_or_default();
                let unique = format!("{}/{}/{}{item}", key.run, key.step, key.visit);
                let run = Some(key.run);
                let new = NewDeployment { key: unique, app, environment, version, run, after, as_on };
                let stored = match self.store.begin_deployment(new, now).await {
                    Err(StoreError::Conflict(why)) => return Ok(Reply::Refused { why }),
                    other => other?,
                };
                Ok(Reply::Deployment { deployment: Box::new(stored.deployment), hosts: stored.hosts })
            }
            Request::UpdateDeployment { id, status, hosts } => {
                let before = match status {
                    DeploymentStatus::Rolling => None,
                    _ => self.store.deployment(id).await?,
                };
                self.store.update_deployment(id, status, &hosts, now).await?;
                if let Some(before) = before {
                    self.count_ended(&before.deployment, status);
                }
                Ok(Reply::Done)
            }
            Request::Deployment { id } => match self.store.deployment(id).await? {
                Some(stored) => match self.newer_deployment(&stored.deployment).await? {
                    Some(newer) => Ok(Reply::Refused {
                        why: format!(
                            "deployment {} of {} {} stands on {} since; taking {id} back would undo it",
                            newer.id, newer.app, newer.version, newer.environment
                        ),
                    }),
                    None => {
                        Ok(Reply::Deployment { deployment: Box::new(stored.deployment), hosts: stored.hosts })
                    }
                },
                None => Ok(Reply::Refused { why: format!("there is no deployment {id}") }),
            },
            Request::WayBack { app, environment, version, to } => {
                let place = (app.as_str(), environment.as_str());
                match self.way_back_facts(key.run, place, version.as_deref(), to.as_deref()).await {
                    Ok(facts) => Ok(Reply::WayBack { facts }),
                    Err(Refused::Store(error)) => Err(error),
                    Err(refused) => Ok(Reply::Refused { why: refused.to_string() }),
                }
            }
            Request::HasArtefact { hash } => {
                let known = self.artefacts.keep_for(&hash, key.run, now).await?;
                Ok(known.map_or(Reply::Absent, |size| Reply::Artefact { size }))
            }
            Request::PutArtefact { hash, size, offset, bytes } => {
                let piece = Piece { hash: hash.clone(), size, offset, bytes };
                Ok(match self.artefacts.put(piece, key.run, now).await? {
                    Put::More => Reply::Done,
                    Put::Kept => Reply::Artefact { size },
                    Put::Wrong => {
                        Reply::Refused { why: format!("what came is not {hash}: it changed on the way") }
                    }
                })
            }
            Request::GetArtefact { hash, offset } => {
                let piece = self.artefacts.piece(&hash, offset).await?;
                Ok(piece.map_or(Reply::Absent, |bytes| Reply::Piece { bytes }))
            }
        }
    }
}
