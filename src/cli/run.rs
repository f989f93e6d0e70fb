//! `siskin run REF k=v ..`: starts a run and follows it.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::follow::{self, Show, follow};
use super::inputs::{self, Input};
use super::screen::Style;
use super::{Client, Screen, ServerArgs};
use crate::api::types::Run;
use crate::model::{RunStatus, Value};

#[derive(Args, Debug)]
#[command(
    after_help = "Values are text that the server parses to the declared type; `name:=JSON` gives any JSON.\nExit status 1 when the run does not succeed. Ctrl-C stops following, not the run.\n\nExamples:\n  siskin run core.echo value=hello\n  siskin run site.ship app=shop branch=main commit=3f1c\n  siskin run core.shell script='make test' 'env:={\"CI\": \"1\"}'"
)]
pub(super) struct RunArgs {
    /// The action or workflow, `pack.name`
    #[arg(value_name = "REF")]
    what: String,
    /// Its inputs
    #[arg(value_name = "NAME=VALUE", value_parser = inputs::parse)]
    with: Vec<Input>,
    /// Print the run's number and do not wait for it
    #[arg(long)]
    detach: bool,
    /// Print the run as JSON when it has ended
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl RunArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        let with = inputs::object(self.with)?;
        let begun: Run = client.post("/runs", &json!({"run": self.what, "with": with})).await?;
        attend(begun, &client, self.detach, self.json, screen).await
    }
}

/// Follows a run that was started to its end, or says its number and lets it go.
pub(super) async fn attend(
    begun: Run,
    client: &Client,
    detach: bool,
    json: bool,
    screen: &mut Screen,
) -> anyhow::Result<ExitCode> {
    if detach {
        match json {
            true => screen.json(&serde_json::to_value(&begun)?)?,
            false => screen.line(begun.id)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let show = if json { Show::Nothing } else { Show::All };
    if !json {
        screen.line(format!("run {}  {}", begun.id, screen.paint(Style::Strong, &begun.workflow)))?;
    }
    let run = follow(client, begun.id, show, screen).await?;
    if json {
        screen.json(&serde_json::to_value(&run)?)?;
    } else {
        follow::conclude(&run, screen)?;
        if run.status == RunStatus::Succeeded && has_something(&run.output) {
            screen.json(&run.output)?;
        }
    }
    Ok(if run.status == RunStatus::Succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn has_something(output: &Value) -> bool {
    match output {
        Value::Null => false,
        Value::Object(entries) => !entries.is_empty(),
        _ => true,
    }
}
