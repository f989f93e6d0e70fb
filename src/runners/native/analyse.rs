//! `deploy.analyse`: whether a version does well, by what is measured: the health of its hosts, queries of Prometheus, alerts of Alertmanager.
//!
//! | parameter | meaning |
//! | --- | --- |
//! | `app`, `environment` | whose; the environment's `analysis` says what is measured, where the parameters do not |
//! | `queries` | `[{name, query, max, min, empty, nan}]`: all series that a query finds must be within the bounds. `empty` and `nan` say what finding nothing, or no number, means: `inconclusive` when not said |
//! | `alerts` | matchers of Alertmanager; an alert that fits all of them, and is neither silenced nor inhibited, is unhealthy |
//! | `tally` | a name: looks under the same name in the same run are counted together |
//! | `failure_limit`, `inconclusive_limit` | so many looks of a tally may be unhealthy, or inconclusive, before the verdict is; 0 when not said |
//! | `or_fail` | a verdict of unhealthy fails the step |
//!
//! Three verdicts: what was measured and is out of its bounds is unhealthy; what could not be measured (no data, Prometheus away, a Consul that cannot be
//! asked for the hosts or their health) is inconclusive, which is neither good nor bad: a person decides. A query that Prometheus does not understand is a
//! mistake, and fails.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;

use super::super::{Done, Failure, Job, object, optional_text, text_parameter};
use super::consul::texts;
use super::core::unexpected;
use super::target::Target;
use crate::delivery::health;
use crate::delivery::hosts::HostError;
use crate::http_client;
use crate::model::desk::{Reply, Request};
use crate::model::{ErrorKind, Object, Span, Value};

const PROMETHEUS: &str = "http://127.0.0.1:9090";
const ALERTMANAGER: &str = "http://127.0.0.1:9093";
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many series or alerts are named.
const SHOWN: usize = 5;
/// How long a tally is kept.
const KEPT: Span = Span::days(30);

/// The order is that of what matters more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Healthy,
    Inconclusive,
    Unhealthy,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Healthy => "healthy",
            Verdict::Inconclusive => "inconclusive",
            Verdict::Unhealthy => "unhealthy",
        }
    }

    fn of_word(word: &str) -> Result<Verdict, Failure> {
        let all = [Verdict::Healthy, Verdict::Inconclusive, Verdict::Unhealthy];
        all.into_iter()
            .find(|verdict| verdict.word() == word)
            .ok_or_else(|| Failure::new(format!("`{word}` is none of healthy, unhealthy and inconclusive")))
    }
}

/// One thing that was measured.
struct Measure {
    name: String,
    verdict: Verdict,
    value: Option<f64>,
    said: String,
}

impl Measure {
    fn new(name: &str, verdict: Verdict, said: impl Into<String>) -> Measure {
        Measure { name: name.to_owned(), verdict, value: None, said: said.into() }
    }

    fn as_value(&self) -> Value {
        object([
            ("name", Value::from(self.name.as_str())),
            ("verdict", Value::from(self.verdict.word())),
            ("value", self.value.map_or(Value::Null, Value::from)),
            ("said", Value::from(self.said.as_str())),
        ])
    }
}

/// What a query must give.
struct Bounds {
    name: String,
    query: String,
    max: Option<f64>,
    min: Option<f64>,
    empty: Verdict,
    nan: Verdict,
}

pub(super) async fn analyse(job: Job) -> Result<Done, Failure> {
    let app = text_parameter(&job.parameters, "app")?;
    let environment = text_parameter(&job.parameters, "environment")?;
    let target = Target::read(&job.apps, app, environment)?;
    let own = job.apps[app]["environments"][environment].get("analysis").cloned().unwrap_or_default();
    let said = |name: &str| {
        let given = job.parameters.get(name).filter(|value| !value.is_null());
        given.or_else(|| own.get(name).filter(|value| !value.is_null())).cloned()
    };
    let queries = match said("queries") {
        None => Vec::new(),
        Some(Value::Array(list)) => list.iter().map(bounds).collect::<Result<_, _>>()?,
        Some(_) => return Err(Failure::new("`queries` must be a list of {name, query, max, min}")),
    };
    let alerts = texts(said("alerts").as_ref(), "alerts")?;

    let mut measures = of_hosts(&job, &target).await?;
    for query in &queries {
        measures.push(of_query(&job, query).await?);
    }
    if !alerts.is_empty() {
        measures.push(of_alerts(&job, &alerts).await?);
    }
    if measures.is_empty() {
        let said = "the environment has neither `check` nor `analysis`, so nothing was measured";
        measures.push(Measure::new("nothing", Verdict::Inconclusive, said));
    }
    let look = measures.iter().map(|measure| measure.verdict).max().unwrap_or(Verdict::Inconclusive);
    let why: Vec<String> = measures
        .iter()
        .filter(|measure| measure.verdict != Verdict::Healthy)
        .map(|measure| format!("{} is {}: {}", measure.name, measure.verdict.word(), measure.said))
        .collect();
    let why = why.join("; ");
    let seen = tally(&job, look, &why).await?;
    let limit = |name: &str| said(name).and_then(|value| value.as_u64()).unwrap_or(0);
    let verdict = seen.verdict(limit("failure_limit"), limit("inconclusive_limit"));
    // What led to the verdict may have been an earlier look.
    let reason = if why.is_empty() { seen.last_why.clone() } else { why };
    let output = object([
        ("verdict", Value::from(verdict.word())),
        ("look", Value::from(look.word())),
        ("why", Value::from(if verdict == Verdict::Healthy { String::new() } else { reason.clone() })),
        ("measures", measures.iter().map(Measure::as_value).collect()),
        ("seen", seen.as_value()),
    ]);
    let fails = job.parameters.get("or_fail").and_then(Value::as_bool).unwrap_or(false);
    if fails && verdict == Verdict::Unhealthy {
        return Err(Failure::new(format!("{environment} of {app} is not well: {reason}")).showing(output));
    }
    Ok(Done::with(output))
}

fn bounds(value: &Value) -> Result<Bounds, Failure> {
    let query = text_parameter(value, "query")?.to_owned();
    let name = optional_text(value, "name")?.unwrap_or(&query).to_owned();
    let number = |key: &str| value.get(key).and_then(Value::as_f64);
    let verdict = |key: &str| {
        let word = optional_text(value, key)?;
        word.map_or(Ok(Verdict::Inconclusive), Verdict::of_word)
    };
    let bounds = Bounds {
        max: number("max"),
        min: number("min"),
        empty: verdict("empty")?,
        nan: verdict("nan")?,
        name,
        query,
    };
    if bounds.max.is_none() && bounds.min.is_none() {
        return Err(Failure::new(format!(
            "the query `{}` needs `max`, `min` or both: what it may be",
            bounds.name
        )));
    }
    Ok(bounds)
}

async fn of_hosts(job: &Job, target: &Target) -> Result<Vec<Measure>, Failure> {
    let check = match target.health(job).await {
        Ok(Some(check)) => check,
        Ok(None) => return Ok(Vec::new()),
        Err(failure) => return not_measured(job, failure),
    };
    let hosts = match target.inventory.look(job).await {
        Ok(hosts) => hosts,
        Err(failure) => return not_measured(job, failure),
    };
    if hosts.is_empty() {
        return Ok(vec![Measure::new("hosts", Verdict::Unhealthy, "there is none")]);
    }
    let asks = hosts.iter().map(|found| {
        let (host, check) = (&found.host, &check);
        async move { (host, health::ask(host, check, &mut |_, _| {}, &job.cancel).await) }
    });
    let answers = futures::future::join_all(asks).await;
    if job.cancel.is_cancelled() {
        return Err(Failure::cancelled());
    }
    let answers = answers.iter().map(|(host, answer)| (host.name.as_str(), answer.as_ref().err()));
    Ok(vec![judge_hosts(&answers.collect::<Vec<_>>())])
}

/// Where the hosts are, or how they do, could not be found out; that says nothing about the version.
fn not_measured(job: &Job, failure: Failure) -> Result<Vec<Measure>, Failure> {
    if job.cancel.is_cancelled() || failure.error.kind == ErrorKind::Cancelled {
        return Err(failure);
    }
    Ok(vec![Measure::new("hosts", Verdict::Inconclusive, failure.error.message)])
}

/// What the hosts come to: one that is ill matters more than one that could not be asked for.
fn judge_hosts(answers: &[(&str, Option<&HostError>)]) -> Measure {
    let verdict = |error: &HostError| match error {
        HostError::NotAsked { .. } => Verdict::Inconclusive,
        _ => Verdict::Unhealthy,
    };
    let errors: Vec<(&str, &HostError)> =
        answers.iter().filter_map(|(name, error)| error.map(|error| (*name, error))).collect();
    let Some(worst) = errors.iter().map(|(_, error)| verdict(error)).max() else {
        return Measure::new("hosts", Verdict::Healthy, format!("{} are well", answers.len()));
    };
    let said: Vec<String> = errors.iter().map(|(name, error)| format!("{name}: {error}")).collect();
    Measure::new("hosts", worst, said.join(", "))
}

/// Where one of them is, and as whom it is asked.
struct Server {
    name: &'static str,
    url: String,
    token: Option<String>,
}

impl Server {
    fn of(job: &Job, name: &'static str, usual: &str) -> Result<Server, Failure> {
        let configured = optional_text(&job.work.config, &format!("{name}_url"))?;
        let url = optional_text(&job.parameters, name)?.or(configured).filter(|url| !url.is_empty());
        let token = optional_text(&job.parameters, &format!("{name}_token"))?.map(str::to_owned);
        let url = url.unwrap_or(usual).trim_end_matches('/').to_owned();
        Ok(Server { name, url, token: token.filter(|token| !token.is_empty()) })
    }

    /// What it answers, or why it gave no answer that can be read.
    async fn ask(
        &self,
        job: &Job,
        make: impl FnOnce(&reqwest::Client, &str) -> reqwest::RequestBuilder,
    ) -> Result<Result<(StatusCode, Value), String>, Failure> {
        let client = http_client::builder().no_proxy().timeout(PATIENCE).build();
        let client = client.map_err(|error| Failure::new(http_client::why(&error)))?;
        let mut request = make(&client, &self.url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let (name, place) = (self.name, http_client::host_of(&self.url));
        let exchange = async {
            let response = request.send().await?;
            let status = response.status();
            Ok::<_, reqwest::Error>((status, response.text().await?))
        };
        let (status, text) = tokio::select! {
            answer = exchange => match answer {
                Ok(answer) => answer,
                Err(error) => return Ok(Err(format!("{name} at {place} does not answer: {}", http_client::why(&error)))),
            },
            () = job.cancel.cancelled() => return Err(Failure::cancelled()),
        };
        match serde_json::from_str(&text) {
            Ok(value) => Ok(Ok((status, value))),
            Err(_) => Ok(Err(format!("{name} at {place} answered {status}, and not in JSON"))),
        }
    }
}

async fn of_query(job: &Job, bounds: &Bounds) -> Result<Measure, Failure> {
    let server = Server::of(job, "prometheus", PROMETHEUS)?;
    let form = [("query", bounds.query.as_str())];
    let answer =
        server.ask(job, |client, url| client.post(format!("{url}/api/v1/query")).form(&form)).await?;
    let (status, body) = match answer {
        Ok(answer) => answer,
        Err(why) => return Ok(Measure::new(&bounds.name, Verdict::Inconclusive, why)),
    };
    if !status.is_success() {
        let said = body["error"].as_str().unwrap_or("it says no more").to_owned();
        if status == StatusCode::BAD_REQUEST {
            return Err(Failure::new(format!(
                "Prometheus does not understand the query `{}`: {said}",
                bounds.name
            )));
        }
        let why = format!("Prometheus answered {status}: {said}");
        return Ok(Measure::new(&bounds.name, Verdict::Inconclusive, why));
    }
    Ok(judge(bounds, &body["data"]))
}

/// What the series that a query found come to: the worst of them.
fn judge(bounds: &Bounds, data: &Value) -> Measure {
    let number = |value: &Value| value[1].as_str().and_then(|text| text.parse::<f64>().ok());
    let found: Vec<(String, Option<f64>)> = match data["resultType"].as_str() {
        Some("scalar") => vec![(String::new(), number(&data["result"]))],
        Some("vector") => {
            let series = data["result"].as_array().cloned().unwrap_or_default();
            series.iter().map(|one| (labels(&one["metric"]), number(&one["value"]))).collect()
        }
        other => {
            let said = format!("the query gives a {}, not numbers of one moment", other.unwrap_or("nothing"));
            return Measure::new(&bounds.name, Verdict::Inconclusive, said);
        }
    };
    if found.is_empty() {
        return Measure::new(&bounds.name, bounds.empty, "there is no data");
    }
    let one = |value: Option<f64>| match value.filter(|value| !value.is_nan()) {
        None => (bounds.nan, "is no number".to_owned()),
        Some(value) if bounds.max.is_some_and(|max| value > max) => {
            (Verdict::Unhealthy, format!("{value} is more than {}", bounds.max.unwrap_or_default()))
        }
        Some(value) if bounds.min.is_some_and(|min| value < min) => {
            (Verdict::Unhealthy, format!("{value} is less than {}", bounds.min.unwrap_or_default()))
        }
        Some(value) => (Verdict::Healthy, format!("{value}")),
    };
    let judged: Vec<(Verdict, Option<f64>, String)> = found
        .iter()
        .map(|(labels, value)| {
            let (verdict, said) = one(*value);
            (verdict, *value, if labels.is_empty() { said } else { format!("{labels} {said}") })
        })
        .collect();
    let verdict = judged.iter().map(|(verdict, ..)| *verdict).max().unwrap_or(Verdict::Inconclusive);
    let worst: Vec<&(Verdict, Option<f64>, String)> = judged.iter().filter(|one| one.0 == verdict).collect();
    let value = worst.first().and_then(|one| one.1).filter(|value| value.is_finite());
    let mut said = worst.iter().take(SHOWN).map(|one| one.2.as_str()).collect::<Vec<_>>().join(", ");
    if worst.len() > SHOWN {
        said += &format!(" and {} more", worst.len() - SHOWN);
    }
    Measure { name: bounds.name.clone(), verdict, value, said }
}

fn labels(metric: &Value) -> String {
    let Some(map) = metric.as_object().filter(|map| !map.is_empty()) else { return String::new() };
    let pairs: Vec<String> =
        map.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect();
    format!("{{{}}}", pairs.join(", "))
}

async fn of_alerts(job: &Job, matchers: &[String]) -> Result<Measure, Failure> {
    let server = Server::of(job, "alertmanager", ALERTMANAGER)?;
    let mut query =
        vec![("active", "true"), ("silenced", "false"), ("inhibited", "false"), ("unprocessed", "true")];
    query.extend(matchers.iter().map(|matcher| ("filter", matcher.as_str())));
    let answer =
        server.ask(job, |client, url| client.get(format!("{url}/api/v2/alerts")).query(&query)).await?;
    let (status, body) = match answer {
        Ok(answer) => answer,
        Err(why) => return Ok(Measure::new("alerts", Verdict::Inconclusive, why)),
    };
    if status == StatusCode::BAD_REQUEST {
        return Err(Failure::new(format!(
            "Alertmanager does not understand the matchers {matchers:?}: {body}"
        )));
    }
    let Some(alerts) = body.as_array().filter(|_| status.is_success()) else {
        let why = format!("Alertmanager answered {status}");
        return Ok(Measure::new("alerts", Verdict::Inconclusive, why));
    };
    let count = u32::try_from(alerts.len()).map_or(f64::MAX, f64::from);
    let names: Vec<String> = alerts.iter().take(SHOWN).map(|alert| labels(&alert["labels"])).collect();
    let (verdict, said) = match alerts.is_empty() {
        true => (Verdict::Healthy, "none fires".to_owned()),
        false => (Verdict::Unhealthy, format!("firing: {}", names.join(", "))),
    };
    Ok(Measure { value: Some(count), ..Measure::new("alerts", verdict, said) })
}

/// How many looks there were, by what they saw.
struct Seen {
    healthy: u64,
    unhealthy: u64,
    inconclusive: u64,
    /// Of the last look that was not healthy.
    last_why: String,
}

impl Seen {
    fn verdict(&self, failure_limit: u64, inconclusive_limit: u64) -> Verdict {
        if self.unhealthy > failure_limit {
            return Verdict::Unhealthy;
        }
        if self.inconclusive > inconclusive_limit { Verdict::Inconclusive } else { Verdict::Healthy }
    }

    fn as_value(&self) -> Value {
        json!({"healthy": self.healthy, "unhealthy": self.unhealthy, "inconclusive": self.inconclusive})
    }
}

/// Counts a look among those of its tally; alone where it has none.
async fn tally(job: &Job, look: Verdict, why: &str) -> Result<Seen, Failure> {
    let name = optional_text(&job.parameters, "tally")?;
    let key = name.map(|name| format!("deploy/analysis/{}/{name}", job.key.run));
    let known = match &key {
        None => Value::Null,
        Some(key) => match job.line.ask(Request::KvGet { key: key.clone() }).await {
            Reply::Kv { value, .. } => value.unwrap_or_default(),
            other => return Err(unexpected(other)),
        },
    };
    let count = |verdict: Verdict| known[verdict.word()].as_u64().unwrap_or(0) + u64::from(verdict == look);
    let last_why = if why.is_empty() { known["why"].as_str().unwrap_or_default() } else { why }.to_owned();
    let seen = Seen {
        healthy: count(Verdict::Healthy),
        unhealthy: count(Verdict::Unhealthy),
        inconclusive: count(Verdict::Inconclusive),
        last_why,
    };
    if let Some(key) = key {
        let mut value = seen.as_value();
        if let Some(map) = value.as_object_mut() {
            let map: &mut Object = map;
            map.insert("why".to_owned(), Value::from(seen.last_why.as_str()));
        }
        match job.line.ask(Request::KvSet { key, value, ttl: Some(KEPT), if_version: None }).await {
            Reply::Kv { .. } => (),
            other => return Err(unexpected(other)),
        }
    }
    Ok(seen)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn judged(query: Value, data: Value) -> (Verdict, Option<f64>, String) {
        let measure = judge(&bounds(&query).unwrap(), &data);
        (measure.verdict, measure.value, measure.said)
    }

    fn vector(values: &[&str]) -> Value {
        let series: Vec<Value> =
            values.iter().map(|value| json!({"metric": {"host": value}, "value": [1.5, value]})).collect();
        json!({"resultType": "vector", "result": series})
    }

    #[test]
    fn the_worst_series_decides_and_what_is_not_there_is_neither_good_nor_bad() {
        let query = json!({"query": "errors", "max": 0.1});
        assert_eq!(
            judged(query.clone(), vector(&["0.05"])),
            (Verdict::Healthy, Some(0.05), "{host=0.05} 0.05".into())
        );
        let (verdict, value, said) = judged(query.clone(), vector(&["0.05", "0.5"]));
        assert_eq!(
            (verdict, value, said.as_str()),
            (Verdict::Unhealthy, Some(0.5), "{host=0.5} 0.5 is more than 0.1")
        );
        assert_eq!(
            judged(query.clone(), vector(&[])),
            (Verdict::Inconclusive, None, "there is no data".into())
        );
        assert_eq!(judged(query.clone(), vector(&["NaN"])).0, Verdict::Inconclusive);
        assert_eq!(judged(query.clone(), vector(&["+Inf"])).0, Verdict::Unhealthy);
        let scalar = json!({"resultType": "scalar", "result": [1, "3"]});
        assert_eq!(judged(json!({"query": "x", "min": 4}), scalar).0, Verdict::Unhealthy);
        let said = json!({"query": "errors", "max": 0, "empty": "healthy", "nan": "unhealthy"});
        assert_eq!(judged(said.clone(), vector(&[])).0, Verdict::Healthy);
        assert_eq!(judged(said, vector(&["NaN"])).0, Verdict::Unhealthy);
    }

    #[test]
    fn a_host_that_could_not_be_asked_for_is_neither_well_nor_ill() {
        let ill = HostError::Ill { tries: 1, said: "it is critical".to_owned() };
        let away = HostError::NotAsked { tries: 1, said: "Consul is away".to_owned() };
        let judged = |answers: &[(&str, Option<&HostError>)]| judge_hosts(answers).verdict;
        assert_eq!(judged(&[("web1", None), ("web2", None)]), Verdict::Healthy);
        assert_eq!(judged(&[("web1", None), ("web2", Some(&away))]), Verdict::Inconclusive);
        assert_eq!(judged(&[("web1", Some(&ill)), ("web2", Some(&away))]), Verdict::Unhealthy);
        let said = judge_hosts(&[("web1", Some(&away))]).said;
        assert_eq!(said, "web1: the health check could not be made: Consul is away");
    }

    #[test]
    fn a_query_without_bounds_is_a_mistake() {
        assert!(bounds(&json!({"query": "up"})).is_err());
        assert!(bounds(&json!({"query": "up", "max": 1, "empty": "fine"})).is_err());
    }

    #[test]
    fn some_looks_may_be_bad_and_more_are_too_many() {
        let seen =
            |unhealthy, inconclusive| Seen { healthy: 9, unhealthy, inconclusive, last_why: String::new() };
        assert_eq!(seen(0, 0).verdict(0, 0), Verdict::Healthy);
        assert_eq!(seen(1, 2).verdict(1, 2), Verdict::Healthy);
        assert_eq!(seen(1, 3).verdict(1, 2), Verdict::Inconclusive);
        assert_eq!(seen(2, 3).verdict(1, 2), Verdict::Unhealthy);
    }
}
