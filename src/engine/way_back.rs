//! `siskin rollback APP ENV`: finds what an environment can go back to, and starts the run that does it.
//!
//! It goes back by deploying again: the run is of `deploy.rollback`, whose roll installs the earlier version on the hosts as they are today, in batches,
//! with the environment's check, and is a deployment of its own. What a rollback went back to stands in its run's input, so that the next one goes
//! further back and not forth again. See docs/adr/0010-rollback-of-an-environment.md.

use std::sync::Arc;

use serde_json::json;

use crate::conductor::{Start, new_run};
use crate::definitions::{fields, nearest};
use crate::model::release::{Deployment, DeploymentStatus};
use crate::model::{Filled, Run, RunId, RunStatus, Value};
use crate::store::{DeploymentFilter, LONGEST_LIST, NewRun, StoreError, StoredDeployment};

use super::posted::Posted;
use super::{Caller, Engine, Refused};

/// The workflow that goes back.
pub(super) const ROLLBACK: &str = "deploy.rollback";
/// How far into the past of an environment it looks, in pages.
const PAGES: usize = 20;

/// What going back means, before anything is done.
#[derive(Clone, Debug, PartialEq)]
pub struct WayBack {
    /// What is there.
    pub from: Deployment,
    /// The deployment whose version will be there.
    pub to: Deployment,
    /// `{name, from, to}` for each host; `from` is null where nobody knows.
    pub hosts: Vec<Value>,
    pub lock: String,
    /// What people should know first.
    pub warnings: Vec<String>,
}

impl Engine {
    /// What would be rolled back to, and how.
    ///
    /// # Errors
    /// There is no such app or environment; a deployment is rolling; there is nothing to go back to.
    pub async fn way_back(&self, app: &str, environment: &str, to: Option<&str>) -> Result<WayBack, Refused> {
        let names = self.hosts_of(app, environment)?;
        let past = self.past_of(app, environment).await?;
        let Some(from) = past.iter().find(|one| one.deployment.status != DeploymentStatus::Restored) else {
            return Err(Refused::Conflict(format!("nothing of {app} stands on {environment}")));
        };
        // Hosts that are found elsewhere have no names here: those that were touched last have.
        let names = if names.is_empty() { names_in(&from.hosts) } else { names };
        let run = self.run_of(&from.deployment).await?;
        refuse_rolling(&from.deployment, run.as_ref())?;
        let target = match to {
            Some(version) => named(&past, &from.deployment, version)?,
            None => self.before(&past, &from.deployment, run.as_ref()).await?,
        };
        let mut warnings = Vec::new();
        if let Some(run) = run.filter(|run| !run.status.is_final()) {
            let version = &from.deployment.version;
            warnings.push(format!(
                "run {}, which brought {version}, has not ended: it is {}; cancel it if it must not go on",
                run.id, run.status
            ));
        }
        if let Some(run) = self
            .run_of(target)
            .await?
            .filter(|run| run.status.is_final() && run.status != RunStatus::Succeeded)
        {
            warnings
                .push(format!("run {}, which brought {} there, is {}", run.id, target.version, run.status));
        }
        Ok(WayBack {
            from: from.deployment.clone(),
            to: target.clone(),
            hosts: host_plans(&names, &past, &target.version),
            lock: format!("deploy/{app}/{environment}"),
            warnings,
        })
    }

    /// Starts the run that goes back.
    ///
    /// # Errors
    /// As `way_back`; the database cannot be written.
    pub async fn go_back(
        self: &Arc<Self>,
        app: &str,
        environment: &str,
        to: Option<&str>,
        key: Option<String>,
        caller: &Caller,
    ) -> Result<RunId, Refused> {
        let way = self.way_back(app, environment, to).await?;
        let definitions = self.definitions();
        let (Some(workflow), Some(fields)) =
            (definitions.workflow_of(ROLLBACK), definitions.input_of(ROLLBACK))
        else {
            return Err(Refused::NotFound(definitions.no_such_callable(ROLLBACK)));
        };
        let given = json!({
            "app": app,
            "environment": environment,
            "version": way.to.version,
            "to": way.to.id,
            "after": way.from.id,
        });
        let input = fields::accept(fields, &Filled::Plain(given), true).map_err(Refused::Invalid)?.masked();
        let start = Start {
            revision: definitions.revision.clone(),
            input: input.into(),
            started_by: caller.actor.clone(),
            event: None,
            rule: None,
            parent: None,
            depth: 0,
            outer: None,
        };
        let now = self.clock.now();
        let mut run = NewRun::with_input(new_run(&workflow, start, now), Posted::Started.stored());
        let why = "a rollback passes windows and holds".to_owned();
        run.inputs.insert(0, Posted::Force { by: caller.actor.clone(), why }.stored());
        let details = json!({"from": way.from.version, "to": way.to.version, "deployment": way.from.id});
        let audit = self.audit(caller, "app.rollback", format!("app {app}"), details);
        let key = key.map(|key| format!("{}/{key}", caller.actor));
        let engine = Arc::clone(self);
        self.to_the_end(async move {
            let new = run.clone();
            let id = match key {
                None => engine.store.insert_run(run, Some(audit), now).await?,
                Some(key) => engine.store.insert_run_once(run, &key, Some(audit), now).await?.0,
            };
            Ok(engine.began(new, id))
        })
        .await
    }

    /// The names of the environment's hosts today.
    pub(super) fn hosts_of(&self, app: &str, environment: &str) -> Result<Vec<String>, Refused> {
        let definitions = self.definitions();
        let apps = definitions.apps.as_object();
        let names = |of: Option<&crate::model::Object>| -> Vec<String> {
            of.into_iter().flatten().map(|(name, _)| name.clone()).collect()
        };
        let Some(found) = apps.and_then(|apps| apps.get(app)) else {
            return Err(no_such("app", app, &names(apps)));
        };
        let environments = found.get("environments").and_then(Value::as_object);
        let Some(place) = environments.and_then(|all| all.get(environment)) else {
            return Err(no_such("environment", environment, &names(environments)));
        };
        let hosts = place.get("hosts").and_then(Value::as_array).into_iter().flatten();
        let name = |host: &Value| host.get("name").unwrap_or(host).as_str().map(str::to_owned);
        Ok(hosts.filter_map(name).collect())
    }

    /// All that was put there, newest first.
    async fn past_of(&self, app: &str, environment: &str) -> Result<Vec<StoredDeployment>, StoreError> {
        let mut past: Vec<StoredDeployment> = Vec::new();
        for _ in 0..PAGES {
            let filter = DeploymentFilter {
                app: Some(app.to_owned()),
                environment: Some(environment.to_owned()),
                before: past.last().map(|last| last.deployment.id),
                limit: LONGEST_LIST,
                ..DeploymentFilter::default()
            };
            let page = self.store.deployments(&filter).await?;
            if page.is_empty() {
                break;
            }
            past.extend(page);
        }
        Ok(past)
    }

    async fn run_of(&self, deployment: &Deployment) -> Result<Option<Run>, StoreError> {
        match deployment.run {
            Some(run) => self.store.run(run).await,
            None => Ok(None),
        }
    }

    /// The last version before `from` whose run succeeded.
    async fn before<'a>(
        &self,
        past: &'a [StoredDeployment],
        from: &Deployment,
        run: Option<&Run>,
    ) -> Result<&'a Deployment, Refused> {
        let whole = from.status == DeploymentStatus::Done;
        let at = |id: i64| past.iter().map(|one| &one.deployment).find(|one| one.id == id);
        // Where a rollback went is where the environment is now, in its past.
        let mut here = from.clone();
        let mut went = run.and_then(gone_back_to);
        while let Some(earlier) = went.filter(|id| *id < here.id).and_then(at) {
            if !whole {
                return Ok(earlier); // That rollback failed: it is tried again.
            }
            here = earlier.clone();
            went = self.run_of(earlier).await?.as_ref().and_then(gone_back_to);
        }
        let earlier = past.iter().map(|one| &one.deployment).filter(|one| {
            one.id < here.id && one.status == DeploymentStatus::Done && one.version != here.version
        });
        for candidate in earlier {
            if self.run_of(candidate).await?.is_none_or(|run| run.status == RunStatus::Succeeded) {
                return Ok(candidate);
            }
        }
        Err(Refused::Conflict(format!(
            "there is nothing to go back to: no run brought another version of {} to {} before {} and succeeded; --to VERSION names one that was there",
            from.app, from.environment, here.version
        )))
    }
}

/// The deployment to which a rollback of an environment went.
fn gone_back_to(run: &Run) -> Option<i64> {
    (run.workflow == ROLLBACK).then(|| run.input.get("to").and_then(Value::as_i64)).flatten()
}

fn refuse_rolling(from: &Deployment, run: Option<&Run>) -> Result<(), Refused> {
    let ended = run.is_some_and(|run| run.status.is_final());
    if from.status != DeploymentStatus::Rolling || ended {
        return Ok(());
    }
    let by = from.run.map(|run| format!(", by run {run}")).unwrap_or_default();
    Err(Refused::Conflict(format!(
        "deployment {} of {} {} is rolling to {}{by}: wait for it, or cancel it",
        from.id, from.app, from.version, from.environment
    )))
}

/// The newest deployment of a version that a person named.
fn named<'a>(
    past: &'a [StoredDeployment],
    from: &Deployment,
    version: &str,
) -> Result<&'a Deployment, Refused> {
    if from.status == DeploymentStatus::Done && from.version == version {
        let message = format!("{version} of {} stands on {} already", from.app, from.environment);
        return Err(Refused::Conflict(message));
    }
    let mut whole = past.iter().map(|one| &one.deployment).filter(|one| one.was_whole());
    if let Some(found) = whole.clone().find(|one| one.version == version) {
        return Ok(found);
    }
    let mut known: Vec<&str> = Vec::new();
    for one in whole.by_ref() {
        if !known.contains(&one.version.as_str()) && known.len() < 10 {
            known.push(&one.version);
        }
    }
    Err(Refused::Conflict(format!(
        "{version} of {} was never whole on {}; there were: {}",
        from.app,
        from.environment,
        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
    )))
}

/// The hosts of a deployment's record.
fn names_in(hosts: &Value) -> Vec<String> {
    let name = |host: &Value| host.get("name")?.as_str().map(str::to_owned);
    hosts.as_array().into_iter().flatten().filter_map(name).collect()
}

fn host_plans(names: &[String], past: &[StoredDeployment], to: &str) -> Vec<Value> {
    names.iter().map(|name| json!({"name": name, "from": held_by(name, past), "to": to})).collect()
}

/// What a host holds, as far as the newest deployment that touched it knows.
fn held_by(name: &str, past: &[StoredDeployment]) -> Option<String> {
    let touched = |one: &StoredDeployment| {
        let host = one.hosts.as_array()?.iter().find(|host| host["name"] == name)?.clone();
        Some((one.deployment.status, host))
    };
    let (status, host) = past.iter().find_map(touched)?;
    let holds = match status {
        DeploymentStatus::Restored => &host["from"],
        // One that failed may hold either.
        _ if host["ok"] != true => return None,
        _ => &host["to"],
    };
    holds.as_str().map(str::to_owned)
}

fn no_such(kind: &str, name: &str, known: &[String]) -> Refused {
    let near = nearest(name, known.iter().map(String::as_str));
    let near = near.map(|near| format!("; did you mean `{near}`?"));
    Refused::NotFound(format!("there is no {kind} `{name}`{}", near.unwrap_or_default()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn what_stopped_half_way_before_it_was_taken_back_is_no_place_to_go_back_to() {
        let one = |id: i64, version: &str, status: DeploymentStatus, done_at: Option<i64>| StoredDeployment {
            deployment: Deployment {
                id,
                app: "shop".to_owned(),
                environment: "production".to_owned(),
                version: version.to_owned(),
                previous: None,
                run: None,
                status,
                started_at: Timestamp(id),
                finished_at: Some(Timestamp(id + 1)),
                done_at: done_at.map(Timestamp),
                restored_at: None,
            },
            step: None,
            hosts: json!([{"name": "a", "ok": true}]),
        };
        let past = [
            one(3, "3.0", DeploymentStatus::Restored, None),
            one(2, "2.0", DeploymentStatus::Restored, Some(3)),
            one(1, "1.0", DeploymentStatus::Done, Some(2)),
        ];
        let from = &past[2].deployment;
        assert_eq!(named(&past, from, "2.0").unwrap().id, 2);
        let refused = named(&past, from, "3.0").unwrap_err().to_string();
        assert!(refused.contains("3.0 of shop was never whole") && refused.contains("2.0, 1.0"), "{refused}");
    }
}
