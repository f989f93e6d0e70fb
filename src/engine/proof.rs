//! What the records know of a way back, for `deploy.way_back`, which looks at the hosts and the repository: where it would lead, whether anybody has gone it,
//! and how long it took.

use std::collections::BTreeSet;

use serde_json::json;

use crate::definitions::test::Subject;
use crate::definitions::tree::Tree;
use crate::definitions::workflow::{Kind, Step};
use crate::model::release::DeploymentStatus;
use crate::model::{RunId, Span, Timestamp, Value};
use crate::store::{RunOrigin, StoreError, StoredDeployment};

use super::way_back::ROLLBACK;
use super::{Engine, Refused};

/// So many deployments of an environment are looked through.
const LOOKED_AT: u32 = 100;

impl Engine {
    /// What is known of the way back from what `version` is about to do to an environment, or, without one, of what `siskin rollback APP ENV [--to to]`
    /// would do now. `run` asks.
    ///
    /// # Errors
    /// There is no such app or environment; the store can't be read.
    pub(super) async fn way_back_facts(
        &self,
        run: RunId,
        (app, environment): (&str, &str),
        version: Option<&str>,
        to: Option<&str>,
    ) -> Result<Value, Refused> {
        let recent = self.store().recent_deployments(Some(app), LOOKED_AT).await?;
        let past: Vec<&StoredDeployment> =
            recent.iter().filter(|one| one.deployment.environment == environment).collect();
        let mut facts = match version {
            Some(version) => self.after_what_comes(app, environment, version, &past)?,
            None => match self.way_back(app, environment, to).await {
                Ok(way) => json!({
                    "from": way.from.version, "to": way.to.version, "deployment": way.to.id, "hosts": way.hosts,
                    "each": false, "warnings": way.warnings,
                }),
                Err(Refused::Conflict(why)) => json!({"refused": why}),
                Err(other) => return Err(other),
            },
        };
        let runs: BTreeSet<RunId> = past.iter().filter_map(|one| one.deployment.run).collect();
        let runs: Vec<RunId> = runs.into_iter().collect();
        let origins = self.store().origins(&runs).await?;
        let is_back = |one: &StoredDeployment| {
            let workflow = |origin: &RunOrigin| origin.workflow == ROLLBACK;
            one.deployment.run.and_then(|run| origins.get(&run)).is_some_and(workflow)
        };
        facts["rehearsed"] = rehearsed(&past, &is_back, self.clock().now());
        facts["tested"] = json!(self.tested(run, environment).await?);
        facts["roll_seconds"] =
            json!(past.iter().find(|one| done(one) && !is_back(one)).and_then(|one| seconds(one)));
        facts["back_seconds"] =
            json!(past.iter().find(|one| done(one) && is_back(one)).and_then(|one| seconds(one)));
        let definitions = self.definitions();
        facts["repository"] = definitions
            .site
            .config
            .get("apt")
            .and_then(|apt| apt.get("repository"))
            .cloned()
            .unwrap_or_default();
        Ok(facts)
    }

    /// A version is about to be put there: the way back leads to what each host holds then.
    fn after_what_comes(
        &self,
        app: &str,
        environment: &str,
        version: &str,
        past: &[&StoredDeployment],
    ) -> Result<Value, Refused> {
        self.hosts_of(app, environment)?;
        let stands = past.iter().find(|one| done(one)).map(|one| &one.deployment);
        Ok(json!({
            "from": version,
            "to": stands.map(|one| &one.version),
            "deployment": stands.map(|one| one.id),
            "hosts": [],
            "each": true,
            "warnings": [],
        }))
    }

    /// The tests of the definitions in which the run's workflow takes back a roll of this environment: `WORKFLOW: CASE`.
    async fn tested(&self, run: RunId, environment: &str) -> Result<Vec<String>, StoreError> {
        let Some(run) = self.store().run(run).await? else { return Ok(Vec::new()) };
        let definitions = self.definitions();
        let Some(workflow) = definitions.workflow_of(&run.workflow) else { return Ok(Vec::new()) };
        let rolls: Vec<&str> = workflow
            .steps
            .iter()
            .filter(|step| rolls(step, environment))
            .map(|step| step.id.as_str())
            .collect();
        let mut found = Vec::new();
        for test in &definitions.tests {
            let Subject::Workflow { workflow, cases, .. } = &test.subject else { continue };
            if *workflow != run.workflow {
                continue;
            }
            let undoes = |undone: &[String]| undone.iter().any(|step| rolls.contains(&step.as_str()));
            let cases = cases.iter().filter(|case| undoes(&case.expect.undone));
            found.extend(cases.map(|case| format!("{workflow}: {}", case.name)));
        }
        Ok(found)
    }
}

/// Whether a step rolls to the environment, by what is written there.
fn rolls(step: &Step, environment: &str) -> bool {
    let Kind::Run(call) = &step.kind else { return false };
    let is = |tree: &Tree| matches!(tree, Tree::Plain(Value::String(text)) if text == environment);
    call.run == "deploy.roll" && call.with.iter().any(|(name, tree)| name == "environment" && is(tree))
}

fn done(one: &StoredDeployment) -> bool {
    one.deployment.status == DeploymentStatus::Done
}

fn seconds(one: &StoredDeployment) -> Option<f64> {
    let took = one.deployment.finished_at?.since(one.deployment.started_at);
    Some(took.0 as f64 / 1000.0)
}

/// The last time that a roll there was really taken back: by an undo, or by a rollback of the environment.
fn rehearsed(
    past: &[&StoredDeployment],
    is_back: &impl Fn(&StoredDeployment) -> bool,
    now: Timestamp,
) -> Value {
    let one = past.iter().find_map(|one| {
        let deployment = &one.deployment;
        match deployment.status {
            DeploymentStatus::Restored => {
                Some((deployment.restored_at.or(deployment.finished_at)?, "undo", deployment.id))
            }
            DeploymentStatus::Done if is_back(one) => {
                Some((deployment.finished_at?, "rollback", deployment.id))
            }
            _ => None,
        }
    });
    let Some((at, how, id)) = one else { return Value::Null };
    let ago: Span = now.since(at);
    json!({"at": at, "how": how, "deployment": id, "seconds_ago": ago.0 / 1000})
}
