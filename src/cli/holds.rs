//! `siskin hold`, `siskin unhold`, `siskin holds`: people stop the line, and let it go on. And `siskin force`.

use std::process::ExitCode;

use clap::Args;
use reqwest::Method;
use serde_json::json;

use super::client::segment;
use super::screen::ago;
use super::{Client, Screen, ServerArgs, Usage};
use crate::api::types::Run;
use crate::model::{RunId, Timestamp, Value};

#[derive(Args, Debug)]
#[command(
    after_help = "A held app starts no attempt; what is at work is left to finish. A held rule matches nothing. Without a name: lists.\n\nExamples:\n  siskin hold shop -m 'the fair is on'\n  siskin hold site.ci_on_push -m 'too many builds'\n  siskin hold all -m 'the data centre moves'"
)]
pub(super) struct HoldArgs {
    /// An app, a rule or `all`; `app:NAME` and `rule:NAME` where it may be both
    #[arg(value_name = "APP|RULE|all")]
    what: Option<String>,
    /// Why; others will read it
    #[arg(short = 'm', long = "message", value_name = "WHY")]
    why: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl HoldArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let (what, why) = match (self.what, self.why) {
            (Some(what), Some(why)) => (what, why),
            (Some(what), None) => {
                return Err(Usage(format!("say why: siskin hold {what} -m WHY")).into());
            }
            (None, Some(_)) => return Err(Usage("say what to hold: an app, a rule or all".to_owned()).into()),
            (None, None) => {
                return ListArgs { json: self.json, server: self.server }.run(screen).await;
            }
        };
        let client = Client::find(&self.server)?;
        let held: Value = client.post("/holds", &json!({"what": what, "why": why})).await?;
        match self.json {
            true => screen.json(&held)?,
            false => screen.line(format!("{} is held", text(&held, "what")))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args, Debug)]
pub(super) struct UnholdArgs {
    /// What is held
    #[arg(value_name = "APP|RULE|all")]
    what: String,
    #[command(flatten)]
    server: ServerArgs,
}

impl UnholdArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        client.tell(Method::DELETE, &format!("/holds/{}", segment(&self.what)), None).await?;
        screen.line(format!("{} is held no longer", self.what))?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl ListArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        let found = client.list("/holds", &[]).await?;
        if self.json {
            screen.json(&found)?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows = found["items"].as_array().into_iter().flatten().map(|held| {
            let since: Option<Timestamp> = held["since"].as_str().and_then(|at| at.parse().ok());
            vec![
                text(held, "what"),
                text(held, "kind"),
                text(held, "by"),
                ago(since, client.now()),
                text(held, "why"),
            ]
        });
        screen.table(&["HELD", "KIND", "BY", "SINCE", "WHY"], rows.collect(), "nothing is held")?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args, Debug)]
#[command(
    after_help = "Approvals are still asked.\n\nExample:\n  siskin force 12 -m 'the shop is down; this is the fix'"
)]
pub(super) struct ForceArgs {
    /// The run
    #[arg(value_name = "RUN")]
    run: RunId,
    /// Why; others will read it
    #[arg(short = 'm', long = "message", value_name = "WHY")]
    why: String,
    /// Print the run as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl ForceArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        let run: Run = client.post(&format!("/runs/{}/force", self.run), &json!({"why": self.why})).await?;
        match self.json {
            true => screen.json(&serde_json::to_value(&run)?)?,
            false => {
                screen.line(format!("run {} {}, and passes windows and holds", run.id, run.status))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}
