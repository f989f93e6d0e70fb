//! Pack `deploy`: `delivery::rollout` on the hosts of an app's environment.
//!
//! | action | parameters | does, and gives |
//! | --- | --- | --- |
//! | `deploy.roll` | `app`, `version`, `environment`, `downgrade`, `after`, `as_on` | installs the version on all hosts, a batch at a time; `{deployment, changes, hosts}` |
//! | `deploy.restore` | `deployment` | gives each host of a deployment what it held before; the same |
//! | `deploy.check` | `app`, `environment` | runs the environment's health check on its hosts; `{healthy, hosts}` |
//! | `deploy.hosts` | `app`, `environment` | the hosts that it has now, wherever they are found; `{hosts, count}` |
//!
//! Where an app goes stands in its file (`target.rs` reads it). A roll begins by opening the record of its deployment, whose number it reports; what a host
//! held before is in that record before the host is touched; what can be known to go wrong is refused before that, and before anything is advertised. Killed at any moment and begun again, it finds the same record and goes on.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{BoxFuture, join_all};
use tokio_util::sync::CancellationToken;

use super::super::{Done, Failure, Job, Line, object, optional_text, say, text_parameter};
use super::core::unexpected;
use super::target::Target;
use crate::delivery::health::{self, Well};
use crate::delivery::hosts::{Host, HostError, Reach};
use crate::delivery::rollout::{self, HostResult, Observer, Plan, Previous, WayBack};
use crate::model::desk::{Reply, Request};
use crate::model::log::Stream;
use crate::model::release::{Deployment, DeploymentStatus};
use crate::model::{ErrorKind, Span, Value};

/// How long the installation on one host may take.
const HOST_TIMEOUT: Span = Span::minutes(15);
/// How much of what a health check printed is shown.
const SHOWN_BYTES: usize = 2000;

pub(super) async fn roll(job: Job) -> Result<Done, Failure> {
    let app = text_parameter(&job.parameters, "app")?.to_owned();
    let environment = text_parameter(&job.parameters, "environment")?.to_owned();
    let version = text_parameter(&job.parameters, "version")?.to_owned();
    let target = Target::read(&job.apps, &app, &environment)?;
    let after = job.parameters.get("after").and_then(Value::as_i64);
    let allow_downgrade = job.parameters.get("downgrade").and_then(Value::as_bool).unwrap_or(false);
    let found = target.inventory.look(&job).await?;
    if found.is_empty() {
        // Nothing is recorded of what can't begin; this says why.
        target.inventory.choose(found, &[])?;
        return Err(Failure::new("there is no host to roll to"));
    }
    let health = target.health(&job).await?;
    let as_on = optional_text(&job.parameters, "as_on")?.map(str::to_owned);
    let begin =
        Request::BeginDeployment { app: app.clone(), environment, version: version.clone(), after, as_on };
    let (deployment, known) = deployment(job.line.ask(begin).await)?;
    job.line.progress(object([("deployment", Value::from(deployment.id))])).await?;
    let touched = records_from(&known);
    let is_begun = !touched.is_empty();
    let touched: Vec<&str> = touched.iter().map(|previous| previous.host.as_str()).collect();
    let all: Vec<String> = found.iter().map(|found| found.host.name.clone()).collect();
    let hosts = match target.inventory.choose(found, &touched) {
        Ok(hosts) => hosts,
        Err(failure) => return Err(not_begun(&job, &target, deployment, known, failure).await),
    };
    if let Some(gone) =
        half_done(&known).into_iter().find(|name| !hosts.iter().any(|host| host.name == *name))
    {
        let why = format!(
            "an earlier try of this roll began on {gone}, which is not found any more: it may be half installed; bring it back, or restore deployment {}",
            deployment.id
        );
        return Err(not_begun(&job, &target, deployment, known, Failure::new(why)).await);
    }
    let ill = all.into_iter().filter(|name| !hosts.iter().any(|host| host.name == *name)).collect();
    let plan = Plan {
        // Names this roll and no other, also where a server was set up anew and counts from 1 again.
        key: format!("deployment {} of {}", deployment.id, deployment.started_at),
        package: target.package.clone(),
        version: version.clone(),
        hosts,
        batch: target.batch,
        max_unavailable: target.max_unavailable,
        ill,
        traffic: target.balancer.as_ref().map(|balancer| balancer.traffic(&job, &app)),
        allow_downgrade,
        health,
        timeout: HOST_TIMEOUT,
        known: records_from(&known),
    };
    let record = Record::new(&job, deployment.id, Some(version.clone()));
    // What can be known to go wrong is known before anything is told or touched. A roll that goes on after a crash is past that.
    if !is_begun && let Err(why) = rollout::look_first(&plan, &record, &job.cancel).await {
        let failure = told_or(&job.cancel, format!("{why}; no host was touched"));
        return Err(not_begun(&job, &target, deployment, known, failure).await);
    }

    // What is advertised changes before the first host does: one that is down now finds it there when it is back.
    let advertised = match &target.advert {
        None => Value::Null,
        Some(advert) => match advert.announce(&job, deployment.id, &version).await {
            Ok(advertised) => advertised,
            Err(failure) => return Err(not_begun(&job, &target, deployment, known, failure).await),
        },
    };
    let rolled = rollout::roll(&plan, &record, &job.cancel).await;
    record.keep(&rolled.previous);
    let status = if rolled.ok { DeploymentStatus::Done } else { DeploymentStatus::Failed };
    let stored = record.store(status).await;
    let mut output = record.output();
    if let Some(output) = output.as_object_mut() {
        output.insert("advertised".to_owned(), advertised);
    }
    if let Some(mut error) = rolled.error {
        if let Some(advert) = &target.advert
            && let Err(failure) = advert.take_back(&job, deployment.id, &version).await
        {
            error += &format!("; and {} could not be put back: {}", advert.shown(), failure.error.message);
        }
        let untouched = match rolled.untouched.as_slice() {
            [] => String::new(),
            hosts => format!("; not touched: {}", hosts.join(", ")),
        };
        return Err(told_or(&job.cancel, format!("{error}{untouched}")).showing(output));
    }
    stored.map_err(|failure| failure.showing(output.clone()))?;
    Ok(Done::with(output))
}

/// Records that a deployment failed before a host was touched, and takes back what an attempt that was killed had told; why it did, or why that can't be
/// recorded.
async fn not_begun(
    job: &Job,
    target: &Target,
    deployment: Deployment,
    hosts: Value,
    mut failure: Failure,
) -> Failure {
    if let Some(advert) = &target.advert
        && let Err(other) = advert.take_back(job, deployment.id, &deployment.version).await
    {
        failure.error.message +=
            &format!("; and {} could not be put back: {}", advert.shown(), other.error.message);
    }
    let (id, status) = (deployment.id, DeploymentStatus::Failed);
    stored(job.line.ask(Request::UpdateDeployment { id, status, hosts }).await).err().unwrap_or(failure)
}

pub(super) async fn restore(job: Job) -> Result<Done, Failure> {
    let id = job
        .parameters
        .get("deployment")
        .and_then(Value::as_i64)
        .ok_or_else(|| Failure::new("the parameter `deployment` must be a deployment's number"))?;
    let (deployment, known) = deployment(job.line.ask(Request::Deployment { id }).await)?;
    let target = Target::read(&job.apps, &deployment.app, &deployment.environment)?;
    let previous = records_from(&known);
    // Also hosts that do not pass their checks: they may be ill because of what is taken back.
    let hosts: Vec<Host> = target.inventory.look(&job).await?.into_iter().map(|found| found.host).collect();
    let record = Record::new(&job, id, None);
    record.keep(&previous);
    let traffic = target.balancer.as_ref().map(|balancer| balancer.traffic(&job, &deployment.app));
    let health = target.health(&job).await?;
    // Before the first host: agents wait for a deployment at work, and what they would put back on is told no more.
    let set = async |status, hosts: &Value| {
        let request = Request::UpdateDeployment { id, status, hosts: hosts.clone() };
        stored(job.line.ask(request).await)
    };
    set(DeploymentStatus::Rolling, &known).await?;
    let told = match &target.advert {
        None => Ok(()),
        Some(advert) => advert.take_back(&job, id, &deployment.version).await.map(drop),
    };
    let batch = target.batch;
    let way = WayBack { previous, hosts, batch, timeout: HOST_TIMEOUT, traffic, health };
    let restored = rollout::restore(&way, &record, &job.cancel).await;
    // That it could not be told kept no host from going back.
    let failure = match (restored.error, told) {
        (None, Ok(())) => None,
        (None, Err(failure)) => Some(failure),
        (Some(error), Ok(())) => Some(told_or(&job.cancel, error)),
        (Some(error), Err(told)) => {
            Some(told_or(&job.cancel, format!("{error}; and {}", told.error.message)))
        }
    };
    if let Some(failure) = failure {
        set(DeploymentStatus::Failed, &known).await?;
        return Err(failure.showing(record.output()));
    }
    // The record keeps what the roll wrote: what each host had before it.
    set(DeploymentStatus::Restored, &known).await?;
    Ok(Done::with(record.output()))
}

pub(super) async fn check(job: Job) -> Result<Done, Failure> {
    let app = text_parameter(&job.parameters, "app")?;
    let environment = text_parameter(&job.parameters, "environment")?;
    let target = Target::read(&job.apps, app, environment)?;
    let Some(check) = target.health(&job).await? else {
        job.note(&format!("{environment} of {app} has no `check`, so its hosts count as healthy"));
        return Ok(Done::with(object([("healthy", Value::from(true)), ("hosts", Value::Array(Vec::new()))])));
    };
    // A host that does not pass its checks in Consul is none that can be passed over here.
    let hosts: Vec<Host> = target.inventory.look(&job).await?.into_iter().map(|found| found.host).collect();
    if hosts.is_empty() {
        return Err(Failure::new(format!("{environment} of {app} has no hosts, so none is healthy")));
    }
    let (job, check) = (&job, &check);
    let checks = hosts.iter().map(|host| async move {
        let mut on_line = |stream: Stream, line: &[u8]| say_of(&*job.line, &host.name, stream, line);
        (host, health::ask(host, check, &mut on_line, &job.cancel).await)
    });
    let results = join_all(checks).await;
    if job.cancel.is_cancelled() {
        return Err(Failure::cancelled());
    }
    let healthy = results.iter().all(|(_, result)| result.is_ok());
    let hosts: Value = results.iter().map(|(host, result)| health_of(host, result)).collect();
    Ok(Done::with(object([("healthy", Value::from(healthy)), ("hosts", hosts)])))
}

pub(super) async fn hosts_of(job: Job) -> Result<Done, Failure> {
    let app = text_parameter(&job.parameters, "app")?;
    let environment = text_parameter(&job.parameters, "environment")?;
    let target = Target::read(&job.apps, app, environment)?;
    let found = target.inventory.look(&job).await?;
    let hosts = target.inventory.choose(found, &[])?;
    let shown = hosts.iter().map(|host| {
        let (address, root) = match &host.reach {
            Reach::Ssh(target) => (Value::from(target.to_string()), Value::Null),
            Reach::SshRoot(target, root) => {
                (Value::from(target.to_string()), Value::from(root.display().to_string()))
            }
            Reach::Root(root) => (Value::Null, Value::from(root.display().to_string())),
        };
        object([("name", Value::from(host.name.as_str())), ("address", address), ("root", root)])
    });
    Ok(Done::with(object([("hosts", shown.collect()), ("count", Value::from(hosts.len()))])))
}

fn health_of(host: &Host, result: &Result<Well, HostError>) -> Value {
    let (output, error) = match result {
        Ok(well) => (well.said.clone(), Value::Null),
        Err(error) => {
            let output =
                error.finished().map(|finished| finished.stdout.tail(SHOWN_BYTES)).unwrap_or_default();
            (output, Value::from(error.to_string()))
        }
    };
    object([
        ("name", Value::from(host.name.as_str())),
        ("ok", Value::from(result.is_ok())),
        ("output", Value::from(output.trim_end())),
        ("error", error),
    ])
}

fn told_or(cancel: &CancellationToken, error: String) -> Failure {
    match cancel.is_cancelled() {
        true => Failure::of_kind(ErrorKind::Cancelled, format!("cancelled: {error}")),
        false => Failure::new(error),
    }
}

fn deployment(reply: Reply) -> Result<(Deployment, Value), Failure> {
    match reply {
        Reply::Deployment { deployment, hosts } => Ok((*deployment, hosts)),
        other => Err(unexpected(other)),
    }
}

fn stored(reply: Reply) -> Result<(), Failure> {
    match reply {
        Reply::Done | Reply::Deployment { .. } => Ok(()),
        other => Err(unexpected(other)),
    }
}

/// What a deployment's record says that each host had before.
fn records_from(hosts: &Value) -> Vec<Previous> {
    let text = |host: &Value, name: &str| host.get(name).and_then(Value::as_str).map(str::to_owned);
    let one = |host: &Value| {
        Some(Previous {
            host: text(host, "name")?,
            package: text(host, "package")?,
            version: text(host, "from"),
        })
    };
    hosts.as_array().map(|hosts| hosts.iter().filter_map(one).collect()).unwrap_or_default()
}

/// Hosts that were begun, and of which it is not known that they came to the end.
fn half_done(hosts: &Value) -> Vec<String> {
    let begun = |host: &&Value| host.get("ok").and_then(Value::as_bool) != Some(true);
    let name = |host: &Value| host.get("name").and_then(Value::as_str).map(str::to_owned);
    hosts.as_array().map(|hosts| hosts.iter().filter(begun).filter_map(name).collect()).unwrap_or_default()
}

/// The record of a deployment while its hosts change: kept at the server, and shown as outputs so far.
struct Record {
    line: Arc<dyn Line>,
    deployment: i64,
    /// What each host is to hold, in a roll.
    to: Option<String>,
    hosts: Mutex<Vec<HostRecord>>,
    /// Hosts of which not even that is known which version they hold: shown, but never in the record, from which a way back is read.
    unreached: Mutex<Vec<HostResult>>,
}

/// What is known of one host.
#[derive(Clone)]
struct HostRecord {
    previous: Previous,
    result: Option<HostResult>,
}

impl Record {
    fn new(job: &Job, deployment: i64, to: Option<String>) -> Record {
        Record {
            line: job.line.clone(),
            deployment,
            to,
            hosts: Mutex::default(),
            unreached: Mutex::default(),
        }
    }

    /// Takes in what hosts had before; what was known stays.
    fn keep(&self, previous: &[Previous]) {
        let mut hosts = self.hosts();
        for previous in previous {
            if !hosts.iter().any(|known| known.previous.host == previous.host) {
                hosts.push(HostRecord { previous: previous.clone(), result: None });
            }
        }
    }

    fn hosts(&self) -> std::sync::MutexGuard<'_, Vec<HostRecord>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hosts_as_value(&self) -> Value {
        self.hosts().iter().map(|host| host.as_value(self.to.as_deref())).collect()
    }

    async fn store(&self, status: DeploymentStatus) -> Result<(), Failure> {
        let hosts = self.hosts_as_value();
        stored(self.line.ask(Request::UpdateDeployment { id: self.deployment, status, hosts }).await)
    }

    fn output(&self) -> Value {
        let mut shown = self.hosts().clone();
        let unreached = self.unreached.lock().unwrap_or_else(PoisonError::into_inner);
        shown.extend(unreached.iter().map(HostRecord::unreached));
        let to = self.to.as_deref();
        object([
            ("deployment", Value::from(self.deployment)),
            ("changes", shown.iter().map(|host| Value::from(host.as_line(to))).collect()),
            ("hosts", shown.iter().map(|host| host.as_value(to)).collect()),
        ])
    }
}

impl HostRecord {
    fn unreached(result: &HostResult) -> HostRecord {
        let previous = Previous { host: result.host.clone(), package: String::new(), version: None };
        HostRecord { previous, result: Some(result.clone()) }
    }

    /// What it held. Of a roll that is what it held before the first try, whatever a later one found: the way back is read from it.
    fn from(&self, to: Option<&str>) -> Option<&str> {
        match &self.result {
            Some(result) if to.is_none() => result.from.as_deref(),
            _ => self.previous.version.as_deref(),
        }
    }

    fn to<'a>(&'a self, to: Option<&'a str>) -> Option<&'a str> {
        match &self.result {
            Some(result) => result.to.as_deref(),
            None => to,
        }
    }

    fn as_value(&self, to: Option<&str>) -> Value {
        let optional = |text: Option<&str>| text.map_or(Value::Null, Value::from);
        let result = self.result.as_ref();
        object([
            ("name", Value::from(self.previous.host.as_str())),
            ("package", Value::from(self.previous.package.as_str())),
            ("from", optional(self.from(to))),
            ("to", optional(self.to(to))),
            ("ok", result.map_or(Value::Null, |result| Value::from(result.ok))),
            ("error", optional(result.and_then(|result| result.error.as_deref()))),
        ])
    }

    fn as_line(&self, to: Option<&str>) -> String {
        let or_nothing = |version: Option<&str>| version.unwrap_or("nothing").to_owned();
        let (from, to) = (or_nothing(self.from(to)), or_nothing(self.to(to)));
        let name = &self.previous.host;
        match &self.result {
            Some(result) if !result.ok => {
                format!(
                    "{name}: {from} to {to} failed: {}",
                    result.error.as_deref().unwrap_or("no reason was given")
                )
            }
            _ if from == to => format!("{name}: {to} as before"),
            _ => format!("{name}: {from} to {to}"),
        }
    }
}

impl Observer for Record {
    fn line(&self, host: &str, stream: Stream, line: &[u8]) {
        say_of(&*self.line, host, stream, line);
    }

    fn previous<'a>(&'a self, previous: &'a [Previous]) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            self.keep(previous);
            self.store(DeploymentStatus::Rolling).await.map_err(|failure| failure.error.message)?;
            self.line.progress(self.output()).await.map_err(|failure| failure.error.message)
        })
    }

    fn done(&self, result: &HostResult) {
        let note = |text: &str| self.line.output(Stream::Note, format!("{text}\n").as_bytes());
        let mut hosts = self.hosts();
        let Some(host) = hosts.iter_mut().find(|host| host.previous.host == result.host) else {
            note(&format!("{}: {}", result.host, result.error.as_deref().unwrap_or("done")));
            self.unreached.lock().unwrap_or_else(PoisonError::into_inner).push(result.clone());
            return;
        };
        host.result = Some(result.clone());
        note(&format!("{} ({:.1} s)", host.as_line(self.to.as_deref()), result.seconds));
    }
}

/// A host's line in the log, with its name before it.
fn say_of(line: &dyn Line, host: &str, stream: Stream, bytes: &[u8]) {
    let named = [host.as_bytes(), b": ", bytes].concat();
    say(line, stream, &named);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_host_held_before_the_first_try_is_never_overwritten_by_a_later_one() {
        let previous =
            Previous { host: "b".to_owned(), package: "shop".to_owned(), version: Some("1.0".to_owned()) };
        let unreached = HostResult {
            host: "b".to_owned(),
            from: None,
            to: Some("2.0".to_owned()),
            ok: false,
            code: None,
            output: String::new(),
            error: Some("connection refused".to_owned()),
            seconds: 0.0,
        };
        let record = HostRecord { previous, result: Some(unreached) };
        let kept = Value::Array(vec![record.as_value(Some("2.0"))]);
        assert_eq!(records_from(&kept)[0].version.as_deref(), Some("1.0"));
        // Of a way back it is shown what was there when it began.
        assert_eq!(record.as_value(None)["from"], Value::Null);
    }

    #[test]
    fn hosts_that_were_begun_and_did_not_come_to_the_end_are_known() {
        let hosts = json!([{"name": "a", "ok": true}, {"name": "b", "ok": null}, {"name": "c", "ok": false}]);
        assert_eq!(half_done(&hosts), ["b", "c"]);
        assert!(half_done(&Value::Null).is_empty());
    }
}
