//! `siskin rerun RUN` and `siskin rollback RUN`: a new run that follows from an old one.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::json;

use super::client::segment;
use super::inputs::{self, Input};
use super::run::attend;
use super::{Client, Screen, ServerArgs, Usage};
use crate::api::types::{RollbackPlan, Run, WayBack};
use crate::model::{RunId, RunStatus, Value};

/// How long a dry run waits for the hosts.
const PROOF_TIME: &str = "60s";

#[derive(Args, Debug)]
#[command(
    after_help = "Without --from everything is done again. With it, steps that do not wait for STEP, and that went well, are kept with what they gave.\n\nExamples:\n  siskin rerun 12\n  siskin rerun 12 --from production\n  siskin rerun 12 --latest bake=30m"
)]
pub(super) struct RerunArgs {
    /// The run that has ended
    #[arg(value_name = "RUN")]
    run: RunId,
    /// Inputs that are to be others than in the old run
    #[arg(value_name = "NAME=VALUE", value_parser = inputs::parse)]
    with: Vec<Input>,
    /// Begin at this step
    #[arg(long, value_name = "STEP")]
    from: Option<String>,
    /// By the definitions in force now, not by those of the old run
    #[arg(long)]
    latest: bool,
    /// Print the new run's number and do not wait for it
    #[arg(long)]
    detach: bool,
    /// Print the new run as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl RerunArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        let with = inputs::object(self.with)?;
        let asked = json!({"from": self.from, "latest": self.latest, "with": with});
        let begun: Run = client.post(&format!("/runs/{}/rerun", self.run), &asked).await?;
        attend(begun, &client, self.detach, self.json, screen).await
    }
}

#[derive(Args, Debug)]
#[command(
    after_help = "The old run keeps its status; the undos are a new run. With an app and an environment, the environment goes back to the last version whose run succeeded there, or to the one that --to names.\n\nExamples:\n  siskin rollback 12 --dry-run     what would be undone, in which order\n  siskin rollback 12\n  siskin rollback shop production --dry-run     what would go where, and whether the way is open: hosts, package\n  siskin rollback shop production\n  siskin rollback shop production --to 1.4.2"
)]
pub(super) struct RollbackArgs {
    /// The run that has ended, or an app
    #[arg(value_name = "RUN|APP")]
    what: String,
    /// The app's environment
    #[arg(value_name = "ENV")]
    environment: Option<String>,
    /// The version to go back to; the last one that went well when not said
    #[arg(long, value_name = "VERSION", requires = "environment")]
    to: Option<String>,
    /// Show the plan and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Print the new run's number and do not wait for it
    #[arg(long)]
    detach: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl RollbackArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        if let Some(environment) = self.environment.clone() {
            return self.go_back(&environment, screen).await;
        }
        let Ok(run) = self.what.parse::<RunId>() else {
            return Err(Usage(format!(
                "`{0}` is no run; say the environment too: siskin rollback {0} ENV",
                self.what
            ))
            .into());
        };
        let client = Client::find(&self.server)?;
        let path = format!("/runs/{run}/rollback");
        let plan: RollbackPlan = client.post(&path, &json!({"dry_run": true})).await?;
        if self.dry_run && self.json {
            screen.json(&serde_json::to_value(&plan)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        if !self.json {
            screen.line(format!("to roll back run {}:", plan.run))?;
            for undo in &plan.undos {
                screen.line(format!("  {}", sentence(undo)))?;
            }
        }
        if self.dry_run {
            return Ok(ExitCode::SUCCESS);
        }
        if !self.yes && !agreed(&format!("roll back run {run}?"))? {
            return Ok(ExitCode::FAILURE);
        }
        let begun: Run = client.post(&path, &json!({})).await?;
        attend(begun, &client, self.detach, self.json, screen).await
    }

    /// An environment goes back to an earlier version.
    async fn go_back(self, environment: &str, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        let path = format!("/apps/{}/{}/rollback", segment(&self.what), segment(environment));
        let mut asked = json!({"dry_run": true});
        if let Some(to) = &self.to {
            asked["to"] = json!(to);
        }
        let way: WayBack = client.post(&path, &asked).await?;
        if !self.json {
            tell(&way, screen)?;
        }
        if self.dry_run {
            let proof = prove(&client, &way).await;
            match (self.json, proof) {
                (true, proof) => {
                    let mut shown = serde_json::to_value(&way)?;
                    shown["proof"] = proof.unwrap_or_else(|why| json!({"problem": why.to_string()}));
                    screen.json(&shown)?;
                }
                (false, Ok(proof)) => tell_proof(&proof, screen)?,
                (false, Err(why)) => screen.line(format!("  the hosts were not asked: {why}"))?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        if !self.yes && !agreed(&format!("put {} on {}?", way.to.version, way.environment))? {
            return Ok(ExitCode::FAILURE);
        }
        // What was agreed to is done, whatever comes in between.
        let begun: Run = client.post(&path, &json!({"to": way.to.version})).await?;
        attend(begun, &client, self.detach, self.json, screen).await
    }
}

/// One undo, as people read it.
fn sentence(undo: &Value) -> String {
    let step = undo["step"].as_str().unwrap_or_default();
    if let Some(run) = undo["rollback_of"].as_i64() {
        return format!("{step}: roll back run {run}, which worked for it");
    }
    match undo["note"].as_str() {
        Some(note) => format!("{step}: {note}"),
        None => format!("{step}: {} {}", undo["run"].as_str().unwrap_or_default(), undo["with"]),
    }
}

fn tell(way: &WayBack, screen: &mut Screen) -> anyhow::Result<()> {
    let run = |run: Option<RunId>| run.map(|run| format!(", run {run}")).unwrap_or_default();
    let (from, to) = (&way.from, &way.to);
    screen.line(format!("{} on {}:", way.app, way.environment))?;
    screen.line(format!("  now   {}  (deployment {}{})", from.version, from.deployment, run(from.run)))?;
    screen.line(format!("  then  {}  (as deployment {}{})", to.version, to.deployment, run(to.run)))?;
    for host in &way.hosts {
        let text = |name: &str| host[name].as_str().unwrap_or("?").to_owned();
        screen.line(format!("  {}: {} to {}", text("name"), text("from"), text("to")))?;
    }
    for warning in &way.warnings {
        screen.line(format!("  warning: {warning}"))?;
    }
    Ok(())
}

/// Has a worker ask the hosts and the repository whether the way is open; nothing is changed.
async fn prove(client: &Client, way: &WayBack) -> anyhow::Result<Value> {
    let with = json!({"app": way.app, "environment": way.environment, "to": way.to.version});
    let asked = json!({"run": "deploy.way_back", "with": with});
    let run: Run = client.post(&format!("/runs?wait={PROOF_TIME}"), &asked).await?;
    if run.status == RunStatus::Succeeded {
        return Ok(run.output);
    }
    if run.status.is_final() {
        let why = run.error.map_or_else(|| run.status.to_string(), |error| error.to_string());
        bail!("run {}: {why}", run.id);
    }
    let waits: Vec<&str> = run.waits.iter().map(|wait| wait.what.as_str()).collect();
    let why = if waits.is_empty() { String::new() } else { format!(", and waits for {}", waits.join(", ")) };
    // It would only look later, when nobody reads it any more.
    client.post::<Value>(&format!("/runs/{}/cancel", run.id), &json!({})).await?;
    bail!("run {} is {} after {PROOF_TIME}{why}", run.id, run.status)
}

fn tell_proof(proof: &Value, screen: &mut Screen) -> anyhow::Result<()> {
    for host in proof["hosts"].as_array().into_iter().flatten() {
        let text = |name: &str| host[name].as_str().unwrap_or("nothing").to_owned();
        let line = match host["reachable"] == true {
            false => format!("{}: no answer: {}", text("name"), text("error")),
            true => format!("{} answers: holds {}, goes to {}", text("name"), text("holds"), text("to")),
        };
        screen.line(format!("  {line}"))?;
    }
    for (heading, list) in [("problem", &proof["problems"]), ("warning", &proof["warnings"])] {
        for text in list.as_array().into_iter().flatten().filter_map(Value::as_str) {
            screen.line(format!("  {heading}: {text}"))?;
        }
    }
    screen.line(format!("  {}", proof["summary"].as_str().unwrap_or_default()))?;
    Ok(())
}

/// Asks the person at the terminal.
fn agreed(question: &str) -> anyhow::Result<bool> {
    let mut input = std::io::stdin().lock();
    if !input.is_terminal() {
        return Err(
            Usage("nobody is there to be asked: say --yes to roll it back, or --dry-run".to_owned()).into()
        );
    }
    let mut err = std::io::stderr();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut line = String::new();
    input.read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
