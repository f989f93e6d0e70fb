//! `siskin rerun RUN` and `siskin rollback RUN`: a new run that follows from an old one.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::client::segment;
use super::inputs::{self, Input};
use super::run::attend;
use super::{Client, Screen, ServerArgs, Usage};
use crate::api::types::{RollbackPlan, Run, WayBack};
use crate::model::{RunId, Value};

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
    after_help = "The old run keeps its status; the undos are a new run. With an app and an environment, the environment goes back to the last version whose run succeeded there, or to the one that --to names.\n\nExamples:\n  siskin rollback 12 --dry-run     what would be undone, in which order\n  siskin rollback 12\n  siskin rollback shop production\n  siskin rollback shop production --to 1.4.2"
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
        if self.dry_run && self.json {
            screen.json(&serde_json::to_value(&way)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        if !self.json {
            tell(&way, screen)?;
        }
        if self.dry_run {
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
