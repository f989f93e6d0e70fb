//! How environments differ, and how fast and how well apps are delivered.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;

use super::Api;
use super::hosts::record;
use super::problem::{Answer, Problem};
use super::request::{Name, Params};
use super::types::{Commit, Difference, Side, Stats};
use crate::definitions::nearest;
use crate::model::{EventId, Run, RunId, Span, Timestamp, Value};
use crate::store::LONGEST_LIST;
use crate::whereabouts::{self, Origin, Record, Relation, figures, stands_since};

/// The workflow that goes back.
const ROLLBACK: &str = "deploy.rollback";
/// How far up from a run its commit is looked for.
const GENERATIONS: usize = 10;
/// Of how many deployments between two environments the commits are told.
const TOLD: usize = 50;
/// How many commits are told.
const COMMITS: usize = 500;
/// A period, when nobody says one.
const USUAL: Span = Span::days(30);

/// All that is known of an app's past, newest first.
async fn past_of(api: &Api, app: &str) -> Result<Vec<Record>, Problem> {
    let found = api.engine.store().recent_deployments(Some(app), LONGEST_LIST).await?;
    Ok(found.into_iter().map(record).collect())
}

/// The app's file, with the names of its environments.
fn file_of(api: &Api, app: &str) -> Result<(Value, Vec<String>), Problem> {
    let definitions = api.engine.definitions();
    let file = definitions.apps.get(app).cloned().ok_or_else(|| Problem::missing(format!("app `{app}`")))?;
    let environments = file.get("environments").and_then(Value::as_object).into_iter().flatten();
    let names = environments.map(|(name, _)| name.clone()).collect();
    Ok((file, names))
}

fn known_environment(app: &str, name: &str, known: &[String]) -> Result<(), Problem> {
    if known.iter().any(|known| known == name) {
        return Ok(());
    }
    let near = nearest(name, known.iter().map(String::as_str));
    let near =
        near.map_or_else(|| format!("it has {}", known.join(", ")), |near| format!("did you mean `{near}`?"));
    Err(Problem::missing(format!("environment `{name}` of {app}; {near}")))
}

/// What differs between two environments of an app.
pub(super) async fn difference(
    State(api): State<Api>,
    Name(app): Name,
    params: Params,
) -> Answer<Difference> {
    let params = params.check(&["from", "to"])?;
    let (file, known) = file_of(&api, &app)?;
    let wanted = |name: &str| {
        let text = params.text(name);
        let text = text
            .ok_or_else(|| Problem::invalid(vec![format!("`{name}` is needed: an environment of {app}")]))?;
        known_environment(&app, &text, &known).map(|()| text)
    };
    let (from, to) = (wanted("from")?, wanted("to")?);
    let past = past_of(&api, &app).await?;
    let on = |environment: &str| -> Vec<Record> {
        past.iter().filter(|record| record.deployment.environment == environment).cloned().collect()
    };
    let (first, second) = (on(&from), on(&to));
    let found = whereabouts::difference(&first, &second);
    let mut commits = Commits { api: &api, past: &past, runs: BTreeMap::new() };
    let (from, to) = (commits.side(&from, &first).await?, commits.side(&to, &second).await?);
    let now = api.engine.clock().now();
    let behind_by = match found.relation {
        Relation::Behind | Relation::Ahead => found.since.map(|since| now.since(since)),
        _ => None,
    };
    let mut between = Vec::new();
    for record in found.between.iter().take(TOLD) {
        between.extend(commits.brought_by(record).await?);
    }
    let mut seen = std::collections::BTreeSet::new();
    between.retain(|commit: &Commit| seen.insert(commit.commit.clone()));
    between.truncate(COMMITS);
    let compare_url = match found.relation {
        Relation::Ahead => compare_url(&file, from.commit.as_deref(), to.commit.as_deref()),
        _ => compare_url(&file, to.commit.as_deref(), from.commit.as_deref()),
    };
    let mut difference = Difference {
        app,
        relation: found.relation,
        since: found.since,
        deployments: found.between.len(),
        behind_by_seconds: behind_by.map(|span| span.0 / 1000),
        versions: found.between.iter().map(|record| record.deployment.version.clone()).collect(),
        commits: between,
        compare_url,
        summary: String::new(),
        from,
        to,
    };
    difference.summary = summary(&difference, now);
    Ok(Json(difference))
}

/// In one sentence.
fn summary(difference: &Difference, now: Timestamp) -> String {
    let (from, to) = (&difference.from, &difference.to);
    let version = |side: &Side| side.version.clone().unwrap_or_else(|| "nothing".to_owned());
    let late = |one: &Side, other: &Side| {
        let number = difference.deployments;
        let deployments =
            if number == 1 { "1 deployment".to_owned() } else { format!("{number} deployments") };
        let by =
            difference.since.map(|since| format!(" and {}", roughly(now.since(since)))).unwrap_or_default();
        format!(
            "{} ({}) is {deployments}{by} behind {} ({})",
            one.environment,
            version(one),
            other.environment,
            version(other)
        )
    };
    match difference.relation {
        Relation::Same => format!(
            "{} and {} hold {}, the same since {}",
            from.environment,
            to.environment,
            version(from),
            difference.since.map_or_else(|| "nobody knows when".to_owned(), |since| since.to_string())
        ),
        Relation::Behind => late(to, from),
        Relation::Ahead => late(from, to),
        Relation::Apart => format!(
            "{} holds {} and {} holds {}; neither ever had what the other has",
            from.environment,
            version(from),
            to.environment,
            version(to)
        ),
        Relation::Empty => {
            format!(
                "{} holds {} and {} holds {}",
                from.environment,
                version(from),
                to.environment,
                version(to)
            )
        }
    }
}

/// A length of time as people say it.
fn roughly(span: Span) -> String {
    let seconds = span.0 / 1000;
    let (number, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    if number == 1 { format!("1 {unit}") } else { format!("{number} {unit}s") }
}

/// Where a forge shows what lies between two commits.
fn compare_url(file: &Value, old: Option<&str>, new: Option<&str>) -> Option<String> {
    let repository =
        file.get("repository").and_then(Value::as_str)?.trim_end_matches('/').trim_end_matches(".git");
    let (old, new) = (old?, new?);
    let (_, rest) = repository.split_once("://").filter(|(scheme, _)| matches!(*scheme, "https" | "http"))?;
    let host = rest.split('/').next().unwrap_or_default();
    if old == new || host.contains('@') {
        return None;
    }
    let way = if host.contains("gitlab") { "/-/compare/" } else { "/compare/" };
    Some(format!("{repository}{way}{old}...{new}"))
}

/// Finds the commits that deployments brought, by the inputs of their runs.
struct Commits<'a> {
    api: &'a Api,
    past: &'a [Record],
    runs: BTreeMap<RunId, Option<(String, Option<EventId>)>>,
}

impl Commits<'_> {
    async fn side(&mut self, environment: &str, past: &[Record]) -> Result<Side, Problem> {
        let stands = past
            .iter()
            .find(|record| record.deployment.status == crate::model::release::DeploymentStatus::Done);
        let commit = match stands {
            Some(record) => self.of_version(&record.deployment.version).await?.map(|(commit, _)| commit),
            None => None,
        };
        Ok(Side {
            environment: environment.to_owned(),
            version: stands.map(|record| record.deployment.version.clone()),
            deployment: stands.map(|record| record.deployment.id),
            run: stands.and_then(|record| record.deployment.run),
            since: stands_since(past),
            commit,
        })
    }

    /// The commit of a version: any deployment of it may know.
    async fn of_version(&mut self, version: &str) -> Result<Option<(String, Option<EventId>)>, Problem> {
        let runs = self.past.iter().filter(|record| record.deployment.version == version);
        let runs: Vec<RunId> = runs.filter_map(|record| record.deployment.run).take(TOLD).collect();
        for run in runs {
            if let Some(found) = self.of_run(run).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The `commit` in the input of a run, or of one that it works for; and the event at the top.
    async fn of_run(&mut self, id: RunId) -> Result<Option<(String, Option<EventId>)>, Problem> {
        if let Some(known) = self.runs.get(&id) {
            return Ok(known.clone());
        }
        let (mut commit, mut event, mut next) = (None, None, Some(id));
        for _ in 0..GENERATIONS {
            let Some(run) = next.take() else { break };
            let Some(run) = self.api.engine.store().run(run).await? else { break };
            commit = commit.or_else(|| commit_in(&run));
            event = run.event;
            next = run.parent.as_ref().map(|parent| parent.run);
        }
        let found = commit.map(|commit| (commit, event));
        self.runs.insert(id, found.clone());
        Ok(found)
    }

    /// The commits that a deployment brought: those that its event tells, or the one that was built.
    async fn brought_by(&mut self, record: &Record) -> Result<Vec<Commit>, Problem> {
        let deployment = &record.deployment;
        let Some((commit, event)) = self.of_version(&deployment.version).await? else {
            return Ok(Vec::new());
        };
        let told = |commit: String, message: Option<String>| Commit {
            commit,
            message,
            version: deployment.version.clone(),
            deployment: deployment.id,
        };
        let event = match event {
            Some(event) => self.api.engine.store().event(event).await?,
            None => None,
        };
        let pushed = event.as_ref().and_then(|event| event.payload.get("commits")).and_then(Value::as_array);
        let mut commits: Vec<Commit> = Vec::new();
        for one in pushed.into_iter().flatten() {
            let Some(id) = one.get("id").and_then(Value::as_str) else { continue };
            let message = one.get("message").and_then(Value::as_str).and_then(|text| text.lines().next());
            commits.push(told(id.to_owned(), message.map(str::to_owned)));
        }
        if !commits.iter().any(|known| known.commit == commit) {
            commits.push(told(commit, None));
        }
        Ok(commits)
    }
}

fn commit_in(run: &Run) -> Option<String> {
    if run.workflow == ROLLBACK {
        return None;
    }
    let text = run.input.get("commit")?.as_str()?;
    let is_hash = text.len() >= 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| text.to_owned())
}

/// The figures of an app's environments over a period.
pub(super) async fn stats(State(api): State<Api>, Name(app): Name, params: Params) -> Answer<Stats> {
    let params = params.check(&["environment", "since", "until"])?;
    let now = api.engine.clock().now();
    let since = moment(&params, "since", now)?.unwrap_or_else(|| now.minus(USUAL));
    let until = moment(&params, "until", now)?.unwrap_or(now);
    if until <= since {
        return Err(Problem::invalid(vec!["`until` must be after `since`".to_owned()]));
    }
    let (_, mut environments) = file_of(&api, &app)?;
    if let Some(environment) = params.text("environment") {
        known_environment(&app, &environment, &environments)?;
        environments = vec![environment];
    }
    let past = past_of(&api, &app).await?;
    let runs: std::collections::BTreeSet<RunId> =
        past.iter().filter_map(|record| record.deployment.run).collect();
    let runs: Vec<RunId> = runs.into_iter().collect();
    let found = api.engine.store().origins(&runs).await?;
    let origin = |found: crate::store::RunOrigin| {
        // An event that is no longer kept says nothing of when it came; the run was made at most moments later.
        let began_at = found.received_at.unwrap_or(found.created_at);
        Origin { began_at, is_way_back: found.workflow == ROLLBACK }
    };
    let origins: BTreeMap<RunId, Origin> =
        found.into_iter().map(|(run, found)| (run, origin(found))).collect();
    // What is older than the oldest that was read is not counted; then it is said.
    let is_cut = |environment: &str| {
        let here: Vec<&Record> =
            past.iter().filter(|record| record.deployment.environment == environment).collect();
        here.len() >= LONGEST_LIST as usize
            && here.last().is_some_and(|last| last.deployment.started_at > since)
    };
    let bound = environments
        .iter()
        .any(|environment| is_cut(environment))
        .then(|| format!("only the newest {LONGEST_LIST} deployments of each environment were looked at"));
    let environments = environments
        .into_iter()
        .map(|environment| {
            let found = figures(&past, &origins, &environment, (since, until));
            (environment, found)
        })
        .collect();
    Ok(Json(Stats { app, since, until, environments, bound }))
}

/// A time, or how long ago: `30d`.
pub(super) fn moment(params: &Params, name: &str, now: Timestamp) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = params.text(name) else { return Ok(None) };
    if let Ok(span) = text.parse::<Span>() {
        return Ok(Some(now.minus(span)));
    }
    text.parse().map(Some).map_err(|_| {
        Problem::invalid(vec![format!(
            "`{name}={text}` is neither a time like 2026-11-01T00:00:00Z nor a duration like 30d"
        )])
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn where_a_forge_compares_two_commits() {
        let url =
            |repository: &str| compare_url(&json!({"repository": repository}), Some("aa11"), Some("bb22"));
        assert_eq!(
            url("https://github.com/acme/shop.git").as_deref(),
            Some("https://github.com/acme/shop/compare/aa11...bb22")
        );
        assert_eq!(
            url("https://gitlab.example.com/a/b/c").as_deref(),
            Some("https://gitlab.example.com/a/b/c/-/compare/aa11...bb22")
        );
        for none in ["git@github.com:acme/shop", "/srv/git/shop", "https://user:secret@github.com/acme/shop"]
        {
            assert_eq!(url(none), None, "{none}");
        }
    }

    #[test]
    fn lengths_of_time_are_said_as_people_say_them() {
        let said = [(1, "1 second"), (300, "5 minutes"), (7300, "2 hours"), (180_000, "2 days")];
        for (seconds, text) in said {
            assert_eq!(roughly(Span::seconds(seconds)), text);
        }
    }
}
