//! `siskin why`: what a run, or the version on an environment or a host, came of, back to the event; and what it waits for.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::client::segment;
use super::screen::ago;
use super::{Client, Screen, ServerArgs, Usage};
use crate::api::types::{Event, Held, Host, Run, Wait};
use crate::model::{RunId, StepStatus, Value};
use crate::whereabouts::State;

/// Runs are not nested deeper.
const MOST_LINKS: usize = 100;

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  siskin why 12\n  siskin why shop@production\n  siskin why web1              what the host holds, what it should hold, and how that came\n\nEach line says what the line before came of: a run of its parent's step or of a rule, a rule of an event."
)]
pub(super) struct WhyArgs {
    /// A run's number, an app and an environment, or a host
    #[arg(value_name = "RUN|APP@ENV|HOST")]
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
        let number = self.what.trim_start_matches('#').parse::<RunId>().ok();
        let run = match (number, self.what.split_once('@')) {
            (Some(run), _) => Some(run),
            // A host may have an @ in its name, as deploy@web1 has.
            (None, Some((app, environment))) if is_app(&client, app).await? => {
                deployed(&client, app, environment, &mut chain).await?
            }
            _ => return on_host(&client, &self.what, self.json, screen).await,
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
        draw(&chain, screen)?;
        for wait in &waits {
            screen.line(said(wait, &client))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn draw(chain: &[Link], screen: &mut Screen) -> anyhow::Result<()> {
    for (depth, link) in chain.iter().enumerate() {
        let arrow = if depth == 0 { String::new() } else { format!("{}<- ", "  ".repeat(depth - 1)) };
        screen.line(format!("{arrow}{}", link.line))?;
    }
    Ok(())
}

async fn is_app(client: &Client, name: &str) -> anyhow::Result<bool> {
    let apps = client.list("/apps", &[]).await?;
    Ok(apps["items"].as_array().into_iter().flatten().any(|app| app["name"] == name))
}

/// What a host holds, of each app: and the way of each back to its event.
async fn on_host(
    client: &Client,
    name: &str,
    as_json: bool,
    screen: &mut Screen,
) -> anyhow::Result<ExitCode> {
    let found = client.get::<Host>(&format!("/hosts/{}", segment(name))).await;
    let host = found.map_err(|error| match error.to_string().starts_with("there is no host") {
        true => {
            Usage(format!("`{name}` is neither the number of a run nor APP@ENVIRONMENT, and {error}")).into()
        }
        false => error,
    })?;
    let mut shown = Vec::new();
    for held in &host.holds {
        let mut chain = vec![Link { line: held_line(&host.host, held, client), value: json!(held) }];
        let stands = &held.standing;
        if let (Some(run), Some(step)) = (stands.run, &stands.step) {
            chain.push(Link {
                line: format!("step `{step}` of run {run}{}", deployment_of(held)),
                value: json!({"step": step, "run": run}),
            });
        }
        let mut problem = None;
        if let Some(run) = stands.run {
            // Runs are let go of before deployments are.
            problem = follow(client, run, &mut chain).await.err();
        }
        if as_json {
            let chain: Vec<Value> = chain.into_iter().map(|link| link.value).collect();
            shown.push(json!({"held": held, "chain": chain}));
            continue;
        }
        draw(&chain, screen)?;
        for line in notes(held, client) {
            screen.line(format!("  {line}"))?;
        }
        if let Some(problem) = problem {
            screen.line(format!("  what began it is no longer known: {problem}"))?;
        }
    }
    if as_json {
        screen.json(&json!({"host": host.host, "holds": shown}))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn held_line(host: &str, held: &Held, client: &Client) -> String {
    let stands = &held.standing;
    let package = stands.package.as_deref().unwrap_or(&stands.app);
    let since =
        stands.since.map(|since| format!(", since {}", ago(Some(since), client.now()))).unwrap_or_default();
    let holds = match (&stands.held, stands.state) {
        (Some(version), _) => format!("{host} holds {package} {version}{since}"),
        (None, State::Failed | State::Rolling | State::Unknown) => {
            format!("{host}: nobody knows which {package} it holds now")
        }
        (None, _) => format!("{host} holds no {package} that a deployment brought"),
    };
    let should = match &stands.wanted {
        Some(wanted) if stands.held.as_ref() != Some(wanted) => format!("; it should hold {wanted}"),
        _ => String::new(),
    };
    format!("{holds}{should}: {} on {} of {}", stands.state.as_str(), stands.environment, stands.app)
}

fn deployment_of(held: &Held) -> String {
    held.standing.deployment.map(|id| format!(", deployment {id}")).unwrap_or_default()
}

/// What else there is to know of what a host holds.
fn notes(held: &Held, client: &Client) -> Vec<String> {
    let stands = &held.standing;
    let mut notes: Vec<String> = stands.why.clone().into_iter().collect();
    if let Some(agent) = &stands.agent {
        let text = |name: &str| agent[name].as_str().unwrap_or("-").to_owned();
        let at = agent["reported_at"].as_str().and_then(|at| at.parse().ok());
        let late = agent["late_by_seconds"].as_u64().filter(|late| *late > 0);
        let late = late.map(|late| format!(", {late} s late")).unwrap_or_default();
        notes.push(format!(
            "its agent, {}: {}, holds {}, wants {}{late}",
            ago(at, client.now()),
            text("status"),
            text("held"),
            text("wanted"),
        ));
    }
    notes
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
