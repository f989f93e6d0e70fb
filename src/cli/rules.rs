//! `siskin rules`: list, show, enable, disable.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::client::segment;
use super::{Client, Screen, ServerArgs};
use crate::model::Value;

#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  siskin rules site.ci_on_push\n  siskin rules disable site.ci_on_push -m 'too many builds'"
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
    /// Let it match again, whatever was switched before
    Enable(SwitchArgs),
    /// Let it match no more; outlives restarts and new versions of its file
    Disable(SwitchArgs),
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
