//! `siskin apps`: which version is where; how two environments of an app differ; how fast and how well it is delivered.

use std::process::ExitCode;

use clap::Args;

use super::client::segment;
use super::lists::cell;
use super::screen::{Style, ago, lasted};
use super::{Client, Screen, ServerArgs, Usage};
use crate::api::types::{Difference, Stats};
use crate::model::{Span, Timestamp, Value};
use crate::whereabouts::{Figures, Spread};

/// Below so many, a median says little.
const FEW: usize = 5;
/// So many commits are shown; `--json` has them all.
const COMMITS_SHOWN: usize = 30;

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  siskin apps\n  siskin apps shop                              each environment, and how they differ\n  siskin apps shop --diff canary..production    versions and commits that lie between\n  siskin apps shop --stats --last 90d           how fast and how well it is delivered"
)]
pub(super) struct AppsArgs {
    /// Show this one
    #[arg(value_name = "APP")]
    name: Option<String>,
    /// What lies between two environments
    #[arg(long, value_name = "ENV..ENV", requires = "name", conflicts_with = "stats")]
    diff: Option<String>,
    /// Deployment frequency, lead time, failure rate, time to restore
    #[arg(long, requires = "name")]
    stats: bool,
    /// Over this time, up to now
    #[arg(long, value_name = "TIME", default_value = "30d", requires = "stats")]
    last: Span,
    /// Only of this environment
    #[arg(long, value_name = "ENV", requires = "stats")]
    environment: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl AppsArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        let Some(name) = &self.name else {
            let found = client.list("/apps", &[]).await?;
            match self.json {
                true => screen.json(&found)?,
                false => table(found["items"].as_array().into_iter().flatten(), &client, screen)?,
            }
            return Ok(ExitCode::SUCCESS);
        };
        if let Some(pair) = &self.diff {
            let (from, to) =
                pair.split_once("..").filter(|(from, to)| !from.is_empty() && !to.is_empty()).ok_or_else(
                    || Usage(format!("`{pair}` is no pair of environments; write canary..production")),
                )?;
            let found: Value = client.get(&difference_of(name, from, to)).await?;
            match self.json {
                true => screen.json(&found)?,
                false => tell(&serde_json::from_value(found)?, &client, screen)?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        if self.stats {
            let mut path = format!("/apps/{}/stats?since={}", segment(name), self.last);
            if let Some(environment) = &self.environment {
                path += &format!("&environment={}", segment(environment));
            }
            let found: Value = client.get(&path).await?;
            match self.json {
                true => screen.json(&found)?,
                false => figures(&serde_json::from_value(found)?, self.last, screen)?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        let found: Value = client.get(&format!("/apps/{}", segment(name))).await?;
        match self.json {
            true => screen.json(&found)?,
            false => one(name, &found, &client, screen).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn difference_of(app: &str, from: &str, to: &str) -> String {
    format!("/apps/{}/difference?from={}&to={}", segment(app), segment(from), segment(to))
}

/// An app, with how each of its environments stands to the one before it.
async fn one(name: &str, app: &Value, client: &Client, screen: &mut Screen) -> anyhow::Result<()> {
    let said = ["description", "owner", "repository"].iter().filter_map(|key| app[*key].as_str());
    let said: Vec<&str> = said.collect();
    screen.line(format!("{}  {}", screen.paint(Style::Strong, name), said.join("  ")).trim_end())?;
    table(std::iter::once(app), client, screen)?;
    let places = app["deployed"].as_object().into_iter().flatten();
    let filled = places.filter(|(_, there)| !there["version"].is_null());
    let filled: Vec<&String> = filled.map(|(place, _)| place).collect();
    for pair in filled.windows(2) {
        if let [from, to] = pair {
            let found: Difference = client.get(&difference_of(name, from, to)).await?;
            screen.line(found.summary)?;
        }
    }
    Ok(())
}

fn table<'a>(
    apps: impl Iterator<Item = &'a Value>,
    client: &Client,
    screen: &mut Screen,
) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for app in apps {
        let name = cell(app, "name");
        let places = app["deployed"].as_object().into_iter().flatten();
        let before = rows.len();
        rows.extend(places.map(|(environment, there)| {
            let since: Option<Timestamp> = there["since"].as_str().and_then(|at| at.parse().ok());
            let ago = since.map_or_else(|| "-".to_owned(), |since| ago(Some(since), client.now()));
            let latest = &there["latest"];
            let note = match latest["status"].as_str() {
                Some(status) => format!("{} {status}, run {}", cell(latest, "version"), cell(latest, "run")),
                None => String::new(),
            };
            let (version, by, run) = (cell(there, "version"), cell(there, "by"), cell(there, "run"));
            vec![name.clone(), environment.clone(), version, ago, by, run, note]
        }));
        if rows.len() == before {
            let none = || "-".to_owned();
            rows.push(vec![name, none(), none(), none(), none(), none(), String::new()]);
        }
    }
    screen.table(&["APP", "ENVIRONMENT", "VERSION", "SINCE", "BY", "RUN", ""], rows, "no apps")?;
    Ok(())
}

fn tell(found: &Difference, client: &Client, screen: &mut Screen) -> anyhow::Result<()> {
    screen.line(&found.summary)?;
    let rows = [&found.from, &found.to].map(|side| {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            side.environment.clone(),
            or_none(side.version.clone()),
            or_none(side.commit.clone().map(|commit| commit.chars().take(12).collect())),
            ago(side.since, client.now()),
            or_none(side.run.map(|run| run.to_string())),
        ]
    });
    screen.table(&["ENVIRONMENT", "VERSION", "COMMIT", "SINCE", "RUN"], rows.into(), "")?;
    if found.deployments > 0 {
        screen.line(format!("versions between: {}", found.versions.join(", ")))?;
        match found.commits.is_empty() {
            true => screen.line(
                "which commits lie between is not known: no run that brought them has an input `commit`",
            )?,
            false => screen.line("commits between, oldest first:")?,
        }
    }
    for commit in found.commits.iter().take(COMMITS_SHOWN) {
        let hash: String = commit.commit.chars().take(12).collect();
        let message = commit.message.as_deref().unwrap_or_default();
        screen.line(format!("  {hash}  {}  {message}", commit.version).trim_end())?;
    }
    if found.commits.len() > COMMITS_SHOWN {
        screen.line(format!("  and {} more: --json has them all", found.commits.len() - COMMITS_SHOWN))?;
    }
    if let Some(url) = &found.compare_url {
        screen.line(url)?;
    }
    Ok(())
}

fn figures(stats: &Stats, last: Span, screen: &mut Screen) -> anyhow::Result<()> {
    screen.line(format!("{}, the last {last}", screen.paint(Style::Strong, &stats.app)))?;
    let rows = stats.environments.iter().map(|(environment, of)| {
        vec![
            environment.clone(),
            format!("{} whole of {}, {} a day", of.whole, of.changes, rounded(of.per_day)),
            spread(&of.lead_time),
            failures(of),
            spread(&of.time_to_restore),
        ]
    });
    let rows = rows.collect();
    screen.table(
        &["ENVIRONMENT", "DEPLOYMENTS", "LEAD TIME", "FAILED", "RESTORED IN"],
        rows,
        "no environments",
    )?;
    for (environment, of) in &stats.environments {
        let mut notes = Vec::new();
        if of.unknown_origin > 0 {
            notes.push(format!(
                "{} versions have no lead time, since their first runs are no longer kept",
                of.unknown_origin
            ));
        }
        if of.not_restored > 0 {
            notes.push(format!("{} failures have nothing good after them yet", of.not_restored));
        }
        if of.ways_back > 0 {
            notes.push(format!("{} rollbacks are not counted as deployments", of.ways_back));
        }
        if of.changes > 0 && of.changes < FEW {
            notes.push(format!("only {} in this time: the figures say little", of.changes));
        }
        for note in notes {
            screen.line(screen.paint(Style::Faint, format!("{environment}: {note}")))?;
        }
    }
    if let Some(bound) = &stats.bound {
        screen.line(bound)?;
    }
    Ok(())
}

fn failures(of: &Figures) -> String {
    match of.failure_rate {
        None => "- (n=0)".to_owned(),
        Some(rate) => format!("{:.0}% ({} of {})", rate * 100.0, of.failures, of.changes),
    }
}

/// `1h05m, p90 3h00m (n=9)`.
fn spread(of: &Spread) -> String {
    let text = |seconds: f64| lasted(Span((seconds * 1000.0).max(0.0) as u64));
    match (of.median, of.p90) {
        (Some(median), Some(p90)) => format!("{}, p90 {} (n={})", text(median), text(p90), of.n),
        _ => "- (n=0)".to_owned(),
    }
}

fn rounded(number: f64) -> String {
    if number >= 10.0 { format!("{number:.0}") } else { format!("{number:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_few_there_were_is_said_with_every_figure() {
        let of = Spread { n: 3, median: Some(90.0), p90: Some(3700.5) };
        assert_eq!(spread(&of), "1m30s, p90 1h01m (n=3)");
        assert_eq!(spread(&Spread::default()), "- (n=0)");
        let of = Figures { changes: 6, failures: 1, failure_rate: Some(1.0 / 6.0), ..Figures::default() };
        assert_eq!(failures(&of), "17% (1 of 6)");
    }
}
