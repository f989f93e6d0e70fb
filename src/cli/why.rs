//! `siskin why`: what a run, or the version on an environment, came of, back to the event; and what it waits for.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::client::segment;
use super::screen::ago;
use super::{Client, Screen, ServerArgs, Usage};
use crate::api::types::{Event, Run, Wait};
use crate::model::{RunId, StepStatus, Value};

/// Runs are not nested deeper.
const MOST_LINKS: usize = 100;

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  siskin why 12\n  siskin why shop@production\n\nEach line says what the line before came of: a run of its parent's step or of a rule, a rule of an event."
)]
pub(super) struct WhyArgs {
    /// A run's number, or an app and an environment
    #[arg(value_name = "RUN|APP@ENV")]
    what: String,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// One link of the chain.
struct Link {
    line: String,
    value: Value,
}

impl WhyArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        let mut chain = Vec::new();
        let run = match self.what.split_once('@') {
            Some((app, environment)) => deployed(&client, app, environment, &mut chain).await?,
            None => Some(self.what.trim_start_matches('#').parse::<RunId>().map_err(|_| {
                Usage(format!("`{}` is neither the number of a run nor APP@ENVIRONMENT", self.what))
            })?),
        };
        let waits = match run {
            Some(run) => follow(&client, run, &mut chain).await?,
            None => Vec::new(),
        };
        if self.json {
            let chain: Vec<Value> = chain.into_iter().map(|link| link.value).collect();
            screen.json(&json!({"chain": chain, "waits": waits}))?;
            return Ok(ExitCode::SUCCESS);
        }
        for (depth, link) in chain.iter().enumerate() {
            let arrow = if depth == 0 { String::new() } else { format!("{}<- ", "  ".repeat(depth - 1)) };
            screen.line(format!("{arrow}{}", link.line))?;
        }
        for wait in &waits {
            screen.line(said(wait, &client))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The run that put the version there which stands on an environment.
async fn deployed(
    client: &Client,
    app: &str,
    environment: &str,
    chain: &mut Vec<Link>,
) -> anyhow::Result<Option<RunId>> {
    let shown: Value = client.get(&format!("/apps/{}", segment(app))).await?;
    let Some(there) = shown["deployed"].get(environment) else {
        let known: Vec<&String> =
            shown["deployed"].as_object().into_iter().flatten().map(|(name, _)| name).collect();
        return Err(Usage(format!("{app} has no environment `{environment}`; it has {known:?}")).into());
    };
    let version = there["version"].as_str();
    let line = match version {
        Some(version) => format!("{app} {version} on {environment}, deployment {}", there["id"]),
        None => format!("nothing of {app} stands on {environment}"),
    };
    chain.push(Link { line, value: json!({"app": app, "environment": environment, "deployed": there}) });
    Ok(there["run"].as_i64().map(RunId))
}

/// The links from a run to what it came of; gives what the run waits for.
async fn follow(client: &Client, run: RunId, chain: &mut Vec<Link>) -> anyhow::Result<Vec<Wait>> {
    let mut waits = None;
    let mut next = Some(run);
    while let Some(id) = next.take().filter(|_| chain.len() < MOST_LINKS) {
        let run: Run = client.get(&format!("/runs/{id}")).await?;
        chain.push(Link {
            line: line_of(&run, client),
            value: json!({"run": id, "workflow": run.workflow, "status": run.status}),
        });
        waits.get_or_insert_with(|| run.waits.clone());
        if let Some(parent) = &run.parent {
            let line = format!("step `{}` of run {}", parent.step, parent.run);
            chain.push(Link { line, value: json!({"step": parent.step, "run": parent.run}) });
            next = Some(parent.run);
            continue;
        }
        if let Some(earlier) = run.rerun_of.or(run.rollback_of) {
            let how = if run.rerun_of.is_some() { "asked to run again" } else { "asked to take back" };
            let line = format!("{} {how} run {earlier}", run.started_by);
            chain.push(Link { line, value: json!({"started_by": run.started_by, "of": earlier}) });
            next = Some(earlier);
            continue;
        }
        match (&run.rule, run.event) {
            (Some(rule), Some(event)) => {
                chain.push(Link { line: format!("rule {rule}"), value: json!({"rule": rule}) });
                let event: Event = client.get(&format!("/events/{event}")).await?;
                let again = event.replay_of.map(|id| format!(", a replay of event {id}")).unwrap_or_default();
                let when = ago(Some(event.received_at), client.now());
                let line =
                    format!("event {}: {} from {}{again}, {when}", event.id, event.trigger, event.source);
                chain.push(Link {
                    line,
                    value: json!({"event": event.id, "trigger": event.trigger, "source": event.source}),
                });
            }
            _ => {
                let line = format!("started by {}", run.started_by);
                chain.push(Link { line, value: json!({"started_by": run.started_by}) });
            }
        }
    }
    Ok(waits.unwrap_or_default())
}

fn line_of(run: &Run, client: &Client) -> String {
    let mut line = format!("run {}: {} is {}", run.id, run.workflow, run.status);
    if let Some(error) = &run.error {
        line += &format!(": {error}");
    }
    let working: Vec<&str> = run
        .steps
        .iter()
        .filter(|step| matches!(step.status, StepStatus::Running | StepStatus::Waiting))
        .map(|step| step.id.as_str())
        .collect();
    if !working.is_empty() {
        line += &format!(", at {}", working.join(", "));
    }
    line += &format!(", {}", ago(run.started_at.or(Some(run.created_at)), client.now()));
    line
}

fn said(wait: &Wait, client: &Client) -> String {
    let of = wait.step.as_ref().map(|step| format!("step `{step}` ")).unwrap_or_default();
    let since =
        wait.since.map(|since| format!(", since {}", ago(Some(since), client.now()))).unwrap_or_default();
    let until = wait.until.map(|until| format!(", until {until}")).unwrap_or_default();
    let how = wait
        .approval
        .map(|id| format!("; answer with siskin approve {id} or siskin reject {id}"))
        .unwrap_or_default();
    format!("{of}waits for {}{since}{until}{how}", wait.what)
}
