//! What the records of deployments say: which version is on which host and why, how two environments differ, and how fast and how well an app is
//! delivered.
//!
//! Promises: nothing here reads, writes or looks at a clock; whoever calls brings the records, newest first, and the time. What is not known is said
//! to be not known. What a host reports by itself (`agents/APP/ENVIRONMENT/HOST`) counts where it is younger than the record.

mod difference;
mod figures;
mod hosts;

pub use difference::{Difference, Relation, difference, stands_since};
pub use figures::{Figures, Origin, Spread, figures};
pub use hosts::{Standing, State, standing};

use crate::model::Value;
use crate::model::release::{Deployment, DeploymentStatus};

/// A deployment, with what came of each of its hosts.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub deployment: Deployment,
    /// The step of its run that did it.
    pub step: Option<String>,
    pub hosts: Vec<Touch>,
}

/// What a deployment knows of one host that it touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touch {
    pub host: String,
    pub package: Option<String>,
    /// What it held before.
    pub from: Option<String>,
    pub to: Option<String>,
    /// `None`: it was begun, and nobody knows its end.
    pub ok: Option<bool>,
    pub error: Option<String>,
}

impl Record {
    /// A record as it is stored: `[{name, package, from, to, ok, error}]`. Entries that say less are taken for what they say.
    pub fn new(deployment: Deployment, step: Option<String>, hosts: &Value) -> Record {
        let text = |host: &Value, name: &str| {
            host.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let touch = |host: &Value| {
            Some(Touch {
                host: text(host, "name")?,
                package: text(host, "package"),
                from: text(host, "from"),
                to: text(host, "to"),
                ok: host.get("ok").and_then(Value::as_bool),
                error: text(host, "error"),
            })
        };
        let hosts = hosts.as_array().into_iter().flatten().filter_map(touch).collect();
        Record { deployment, step, hosts }
    }

    /// What it says of a host.
    pub fn touch(&self, host: &str) -> Option<&Touch> {
        self.hosts.iter().find(|touch| touch.host == host)
    }
}

/// The hosts that an environment's definition names: `None` when they are found elsewhere.
pub fn named_hosts(environment: &Value) -> Option<Vec<String>> {
    let Value::Array(hosts) = environment.get("hosts")? else { return None };
    let name = |host: &Value| host.get("name").unwrap_or(host).as_str().map(str::to_owned);
    Some(hosts.iter().filter_map(name).collect())
}

/// What stands: the newest that is done.
fn stands(past: &[Record]) -> Option<&Record> {
    past.iter().find(|record| record.deployment.status == DeploymentStatus::Done)
}

#[cfg(test)]
mod testing {
    use serde_json::json;

    use super::*;
    use crate::model::{RunId, Timestamp};

    /// A deployment of `shop` that took one minute, an hour times its number after the beginning. One that was taken back had been done before.
    pub(super) fn record(id: i64, environment: &str, version: &str, status: DeploymentStatus) -> Record {
        let started_at = Timestamp(id * 3_600_000);
        let over = status != DeploymentStatus::Rolling;
        let was_done = over && status != DeploymentStatus::Failed;
        let deployment = Deployment {
            id,
            app: "shop".to_owned(),
            environment: environment.to_owned(),
            version: version.to_owned(),
            previous: None,
            run: Some(RunId(100 + id)),
            status,
            started_at,
            finished_at: over.then_some(Timestamp(started_at.0 + 60_000)),
            done_at: was_done.then_some(Timestamp(started_at.0 + 60_000)),
            restored_at: (status == DeploymentStatus::Restored).then_some(Timestamp(started_at.0 + 600_000)),
        };
        Record::new(deployment, Some("roll".to_owned()), &json!([]))
    }

    impl Record {
        /// With a host that went from one version to another.
        pub(super) fn on(mut self, host: &str, from: Option<&str>, ok: Option<bool>) -> Record {
            self.hosts.push(Touch {
                host: host.to_owned(),
                package: Some("shop".to_owned()),
                from: from.map(str::to_owned),
                to: Some(self.deployment.version.clone()),
                ok,
                error: (ok == Some(false)).then(|| "web does not answer".to_owned()),
            });
            self
        }
    }
}
