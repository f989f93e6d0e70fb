//! `siskin rules`: list, show, test, enable, disable.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;

use super::client::segment;
use super::inputs::read_json;
use super::{Client, Screen, ServerArgs};
use crate::model::{EventId, Value};

#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  siskin rules site.ci_on_push\n  siskin rules test rules/ci_on_push.yaml --last 100\n  siskin rules disable site.ci_on_push -m 'too many builds'"
)]
pub(super) struct RulesArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Show this one
    #[arg(value_name = "REF")]
    rule: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what it would make of events, in force or as a file that is not there yet; nothing is done
    Test(TestArgs),
    /// Let it match again, whatever was switched before
    Enable(SwitchArgs),
    /// Let it match no more; outlives restarts and new versions of its file
    Disable(SwitchArgs),
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  siskin rules test site.ci_on_push --event push.json\n  siskin rules test rules/ci_on_push.yaml --last 500\n  siskin rules test site.ci_on_push --event-id 4711\n\nCounts (`count`, `all`, `at_most`) begin empty and see the events in their order."
)]
struct TestArgs {
    /// A rule in force, or a file with one
    #[arg(value_name = "REF|FILE")]
    rule: String,
    /// On this payload, a file of JSON; `-` reads stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["event_id", "last"], required_unless_present_any = ["event_id", "last"])]
    event: Option<PathBuf>,
    /// The payload's trigger, where the rule has several
    #[arg(long, value_name = "REF", requires = "event")]
    trigger: Option<String>,
    /// On this stored event
    #[arg(long, value_name = "ID", conflicts_with = "last")]
    event_id: Option<EventId>,
    /// On the last so many stored events of its triggers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    last: Option<u32>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
struct SwitchArgs {
    #[arg(value_name = "REF")]
    rule: String,
    /// Why; others will read it
    #[arg(short = 'm', long = "message", value_name = "WHY")]
    why: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

impl RulesArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        match self.verb {
            Some(Verb::Test(args)) => args.run(screen).await?,
            Some(Verb::Enable(args)) => args.switch("enable", screen).await?,
            Some(Verb::Disable(args)) => args.switch("disable", screen).await?,
            None => {
                let client = Client::find(&self.server)?;
                if let Some(rule) = self.rule {
                    let found: Value = client.get(&format!("/rules/{}", segment(&rule))).await?;
                    screen.json(&found)?;
                    return Ok(ExitCode::SUCCESS);
                }
                let found = client.list("/rules", &[("limit", Some("500".to_owned()))]).await?;
                list(&found, self.json, screen)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl TestArgs {
    async fn run(self, screen: &mut Screen) -> anyhow::Result<()> {
        let is_file = Path::new(&self.rule).is_file() || self.rule.ends_with(".yaml");
        let rule = match is_file {
            true => fs::read_to_string(&self.rule).with_context(|| format!("{} can't be read", self.rule))?,
            false => self.rule,
        };
        let event = self.event.as_deref().map(read_json).transpose()?;
        let body = json!({
            "rule": rule, "event": event, "trigger": self.trigger, "event_id": self.event_id, "last": self.last,
        });
        let client = Client::find(&self.server)?;
        let trial: Value = client.post("/rules/test", &body).await?;
        if self.json {
            return Ok(screen.json(&trial)?);
        }
        for result in trial["results"].as_array().into_iter().flatten() {
            let of = result["event"].as_i64().map(|id| format!("event {id}: ")).unwrap_or_default();
            let mut line = format!("{of}{}", text(result, "result"));
            if let Some(run) = result["run"].as_str() {
                line += &format!(": {run} {}", result["with"]);
            }
            if let Some(why) = result["why"].as_str() {
                line += &format!(": {why}");
            }
            if let Some(place) = result["place"].as_str() {
                line += &format!(" ({place})");
            }
            screen.line(line)?;
        }
        screen.line(format!("{} of {} events match", trial["matched"], trial["tried"]))?;
        Ok(())
    }
}

impl SwitchArgs {
    async fn switch(self, verb: &str, screen: &mut Screen) -> anyhow::Result<()> {
        let client = Client::find(&self.server)?;
        let body = match self.why {
            Some(why) => json!({"why": why}),
            None => json!({}),
        };
        let rule: Value = client.post(&format!("/rules/{}/{verb}", segment(&self.rule)), &body).await?;
        screen.line(format!("{} {}", text(&rule, "name"), state(&rule)))?;
        Ok(())
    }
}

fn list(found: &Value, as_json: bool, screen: &mut Screen) -> anyhow::Result<()> {
    if as_json {
        return Ok(screen.json(found)?);
    }
    let rules = found["items"].as_array().cloned().unwrap_or_default();
    let rows = rules.iter().map(|rule| {
        let triggers: Vec<&str> =
            rule["triggers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        vec![
            text(rule, "name"),
            state(rule),
            triggers.join(", "),
            text(rule, "run"),
            text(rule, "description"),
        ]
    });
    Ok(screen.table(&["RULE", "STATE", "TRIGGER", "RUNS", ""], rows.collect(), "no rules")?)
}

fn state(rule: &Value) -> String {
    let switched = &rule["switched"];
    match (rule["enabled"].as_bool(), switched["by"].as_str()) {
        (Some(true), _) => "enabled".to_owned(),
        (_, Some(by)) => format!("disabled by {by}"),
        _ => "disabled by its file".to_owned(),
    }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}
