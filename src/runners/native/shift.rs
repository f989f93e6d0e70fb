//! `deploy.shift`: gives the hosts of an environment (the canaries) a share of the traffic that their backends get, by the weights of HAProxy.
//!
//! | parameter | meaning |
//! | --- | --- |
//! | `app`, `environment` | whose hosts get the share; the environment's `balancer` says where |
//! | `percent` | of the new sessions of each backend: 0 to 100; without it each server gets the weight that its configuration says |
//! | `weights` | in place of `percent`: what `was` of another shift says, to put it back |
//!
//! Promises: weights are computed from the configuration's, so that doing it twice changes nothing more; what they were is stored before the first is
//! set, and an attempt that goes on after a crash reports the same.

use serde_json::json;

use super::super::{Done, Failure, Job, object, text_parameter};
use super::balancer::{Balancer, Place};
use super::core::unexpected;
use super::target::Target;
use crate::delivery::haproxy::{HEAVIEST, Haproxy, HaproxyError, Server, Wanted};
use crate::model::desk::{Reply, Request};
use crate::model::{Span, Value};

/// How long it is known what weights were.
const NOTED: Span = Span::days(90);

/// A server, the weight that it has, and the one that it is to have.
struct Change {
    place: Place,
    from: u32,
    to: u32,
}

impl Change {
    fn as_line(&self) -> String {
        match self.from == self.to {
            true => format!("{}: {} as before", self.place.shown(), self.to),
            false => format!("{}: {} to {}", self.place.shown(), self.from, self.to),
        }
    }

    fn as_value(&self, weight: u32) -> Value {
        object([
            ("haproxy", Value::from(self.place.haproxy.shown())),
            ("backend", Value::from(self.place.backend.as_str())),
            ("server", Value::from(self.place.server.as_str())),
            ("weight", Value::from(weight)),
        ])
    }
}

pub(super) async fn shift(job: Job) -> Result<Done, Failure> {
    let app = text_parameter(&job.parameters, "app")?;
    let environment = text_parameter(&job.parameters, "environment")?;
    let target = Target::read(&job.apps, app, environment)?;
    let Some(balancer) = &target.balancer else {
        return Err(Failure::new(format!(
            "`{environment}` in apps/{app}.yaml has no `balancer`, so nobody knows where its traffic comes from"
        )));
    };
    let given = |name: &str| job.parameters.get(name).filter(|value| !value.is_null());
    let changes = match (given("weights"), given("percent")) {
        (Some(_), Some(_)) => return Err(Failure::new("give either `percent` or `weights`")),
        (Some(weights), None) => of_weights(weights).await?,
        (None, percent) => {
            let percent = percent.map(percent_of).transpose()?;
            let hosts = target.inventory.look(&job).await?;
            let names: Vec<String> = hosts.iter().map(|found| balancer.server_of(&found.host.name)).collect();
            of_percent(balancer, &names, percent).await?
        }
    };
    let was = remembered(&job, &changes).await?;
    job.line.progress(object([("was", was.clone())])).await?;
    for change in changes.iter().filter(|change| change.from != change.to) {
        let Place { haproxy, backend, server } = &change.place;
        haproxy.set_weight(backend, server, change.to).await.map_err(told)?;
        job.note(&change.as_line());
    }
    Ok(Done::with(object([
        ("percent", given("percent").cloned().unwrap_or(Value::Null)),
        ("weights", changes.iter().map(|change| change.as_value(change.to)).collect()),
        ("changes", changes.iter().map(|change| Value::from(change.as_line())).collect()),
        ("was", was),
    ])))
}

fn told(error: HaproxyError) -> Failure {
    Failure::new(error.to_string())
}

fn percent_of(value: &Value) -> Result<f64, Failure> {
    let percent = value.as_f64().filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| Failure::new("`percent` must be a number from 0 to 100"))
}

async fn of_weights(weights: &Value) -> Result<Vec<Change>, Failure> {
    let wrong = || {
        Failure::new(
            "`weights` must be what `was` of a shift gave: a list of {haproxy, backend, server, weight}",
        )
    };
    let mut changes = Vec::new();
    for one in weights.as_array().ok_or_else(wrong)? {
        let text = |name: &str| one.get(name).and_then(Value::as_str).ok_or_else(wrong);
        let haproxy = Haproxy::at(text("haproxy")?).map_err(told)?;
        let to = one.get("weight").and_then(Value::as_u64).and_then(|weight| u32::try_from(weight).ok());
        let to = to.filter(|weight| *weight <= HEAVIEST).ok_or_else(wrong)?;
        let (backend, server) = (text("backend")?.to_owned(), text("server")?.to_owned());
        let from = haproxy.server(&backend, &server).await.map_err(told)?.weight;
        changes.push(Change { place: Place { haproxy, backend, server }, from, to });
    }
    Ok(changes)
}

async fn of_percent(
    balancer: &Balancer,
    names: &[String],
    percent: Option<f64>,
) -> Result<Vec<Change>, Failure> {
    let mut changes = Vec::new();
    for (haproxy, backend) in balancer.backends() {
        let servers = haproxy.servers(backend).await.map_err(told)?;
        for name in names {
            if !servers.iter().any(|server| server.name == *name) {
                let known = servers.iter().map(|server| server.name.as_str()).collect::<Vec<_>>().join(", ");
                let shown = haproxy.shown();
                return Err(Failure::new(format!(
                    "the backend `{backend}` of HAProxy at {shown} has no server `{name}`; it has {known}"
                )));
            }
        }
        let is_ours = |server: &Server| names.contains(&server.name);
        // Who is out of service by somebody's word is not counted: nothing goes there.
        let counts = |server: &&Server| server.wanted == Wanted::Ready;
        let of = |ours: bool| -> Vec<u32> {
            let those = servers.iter().filter(|server| is_ours(server) == ours).filter(counts);
            those.map(|server| server.configured_weight).collect()
        };
        let (ours, others) = (of(true), of(false));
        if percent.is_some_and(|percent| percent > 0.0) && ours.is_empty() {
            let shown = haproxy.shown();
            return Err(Failure::new(format!(
                "none of {} is in service in the backend `{backend}` of HAProxy at {shown}, so no traffic can go there",
                names.join(", ")
            )));
        }
        let (ours, others) = match percent {
            None => (ours, others),
            Some(percent) => weights(percent, &ours, &others),
        };
        let (mut ours, mut others) = (ours.into_iter(), others.into_iter());
        for server in &servers {
            let next = if is_ours(server) { &mut ours } else { &mut others };
            let to = if counts(&server) { next.next() } else { Some(server.configured_weight) };
            let place =
                Place { haproxy: haproxy.clone(), backend: backend.to_owned(), server: server.name.clone() };
            changes.push(Change { place, from: server.weight, to: to.unwrap_or(server.configured_weight) });
        }
    }
    Ok(changes)
}

/// Weights with which `ours` get so much of the whole, each side shared out as its configured weights say. As heavy as they can be, since HAProxy takes
/// whole numbers only.
fn weights(percent: f64, ours: &[u32], others: &[u32]) -> (Vec<u32>, Vec<u32>) {
    // A side that is configured to get nothing is shared out evenly.
    let shares = |side: &[u32], of_all: f64| -> Vec<f64> {
        let sum: f64 = side.iter().copied().map(f64::from).sum();
        let count = u32::try_from(side.len()).map_or(f64::MAX, f64::from);
        let share = |weight: &u32| if sum > 0.0 { f64::from(*weight) / sum } else { 1.0 / count };
        side.iter().map(|weight| share(weight) * of_all).collect()
    };
    // Who is alone gets all that is left, however little it is to be.
    let percent = if others.is_empty() && percent > 0.0 { 100.0 } else { percent };
    let (ours, others) = (shares(ours, percent), shares(others, 100.0 - percent));
    let heaviest = ours.iter().chain(&others).copied().fold(0.0, f64::max);
    let whole = |side: Vec<f64>| -> Vec<u32> {
        let of = |share: f64| match share > 0.0 {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 256")]
            true => (share / heaviest * f64::from(HEAVIEST)).round().clamp(1.0, f64::from(HEAVIEST)) as u32,
            false => 0,
        };
        side.into_iter().map(of).collect()
    };
    (whole(ours), whole(others))
}

/// What the weights were before the first attempt of this step changed any.
async fn remembered(job: &Job, changes: &[Change]) -> Result<Value, Failure> {
    let item = job.key.item.map(|item| format!(".{item}")).unwrap_or_default();
    let key = format!("deploy/shift/{}/{}/{}{item}", job.key.run, job.key.step, job.key.visit);
    if let Reply::Kv { value: Some(known @ Value::Array(_)), .. } =
        job.line.ask(Request::KvGet { key: key.clone() }).await
    {
        return Ok(known);
    }
    let was: Value = changes.iter().map(|change| change.as_value(change.from)).collect();
    let set = Request::KvSet { key, value: json!(was), ttl: Some(NOTED), if_version: None };
    match job.line.ask(set).await {
        Reply::Kv { .. } => Ok(was),
        other => Err(unexpected(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(percent: f64, ours: &[u32], others: &[u32]) -> f64 {
        let (ours, others) = weights(percent, ours, others);
        let sum = |side: &[u32]| f64::from(side.iter().sum::<u32>());
        assert!(ours.iter().chain(&others).all(|weight| *weight <= HEAVIEST));
        100.0 * sum(&ours) / (sum(&ours) + sum(&others))
    }

    #[test]
    fn the_share_of_the_canaries_is_what_was_asked_for() {
        for percent in [1.0, 5.0, 10.0, 25.0, 50.0, 75.0] {
            for (ours, others) in
                [(vec![1], vec![1, 1, 1]), (vec![100, 100], vec![100; 8]), (vec![10], vec![100, 50])]
            {
                let got = share(percent, &ours, &others);
                assert!((got - percent).abs() < 0.5, "{percent}: {got} of {ours:?} and {others:?}");
            }
        }
    }

    #[test]
    fn none_and_all_are_none_and_all_and_who_is_alone_gets_all() {
        assert_eq!(weights(0.0, &[100], &[100, 50]), (vec![0], vec![256, 128]));
        assert_eq!(weights(100.0, &[100, 100], &[100]), (vec![256, 256], vec![0]));
        assert_eq!(weights(5.0, &[1], &[]), (vec![256], vec![]));
        assert_eq!(weights(50.0, &[0], &[0, 0]), (vec![256], vec![128, 128]));
    }
}
