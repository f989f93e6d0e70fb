//! `siskin runs [ID]`, and the verbs on a run.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::screen::{Style, ago, lasted};
use super::{Client, Screen, ServerArgs};
use crate::api::types::{Page, Run, Step};
use crate::model::{RunId, RunStatus, StepStatus, Value};

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  siskin runs --status failed --limit 5\n  siskin runs 12\n  siskin runs --parent 12      the child runs of run 12"
)]
pub(super) struct RunsArgs {
    /// Show this one
    #[arg(value_name = "RUN")]
    run: Option<RunId>,
    /// Only these, separated by commas: queued running waiting paused undoing succeeded failed rejected superseded cancelled
    #[arg(long, value_delimiter = ',', value_parser = run_status)]
    status: Vec<RunStatus>,
    /// Only runs of this workflow or action
    #[arg(long, value_name = "REF")]
    workflow: Option<String>,
    /// Only runs that this rule started
    #[arg(long, value_name = "REF")]
    rule: Option<String>,
    /// Only runs that this event started
    #[arg(long, value_name = "ID")]
    event: Option<i64>,
    /// Only children of this run
    #[arg(long, value_name = "RUN")]
    parent: Option<RunId>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl RunsArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        if let Some(run) = self.run {
            let found: Value = client.get(&format!("/runs/{run}")).await?;
            match self.json {
                true => screen.json(&found)?,
                false => show(&serde_json::from_value(found)?, &client, screen)?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        let words: Vec<&str> = self.status.iter().map(|status| status.as_str()).collect();
        let statuses = (!words.is_empty()).then(|| words.join(","));
        let query = [
            ("status", statuses),
            ("workflow", self.workflow),
            ("rule", self.rule),
            ("event", self.event.map(|event| event.to_string())),
            ("parent", self.parent.map(|run| run.to_string())),
            ("limit", Some(self.limit.to_string())),
        ];
        let found = client.list("/runs", &query).await?;
        if self.json {
            screen.json(&found)?;
            return Ok(ExitCode::SUCCESS);
        }
        let page: Page<Run> = serde_json::from_value(found)?;
        let rows = page.items.iter().map(|run| row(run, &client, screen)).collect();
        screen.table(&["RUN", "STATUS", "WORKFLOW", "STARTED BY", "STARTED", "TOOK", ""], rows, "no runs")?;
        Ok(ExitCode::SUCCESS)
    }
}

fn row(run: &Run, client: &Client, screen: &Screen) -> Vec<String> {
    let remark = match (&run.error, run.waits.first()) {
        (Some(error), _) => error.message.clone(),
        (None, Some(wait)) => format!("waits for {}", wait.what),
        (None, None) => String::new(),
    };
    vec![
        run.id.to_string(),
        screen.status(run.status.as_str()),
        run.workflow.clone(),
        run.started_by.clone(),
        ago(run.started_at.or(Some(run.created_at)), client.now()),
        took(run.started_at, run.finished_at, client),
        remark,
    ]
}

fn took(
    started: Option<crate::model::Timestamp>,
    finished: Option<crate::model::Timestamp>,
    client: &Client,
) -> String {
    match (started, finished.or(client.now())) {
        (Some(started), Some(end)) => lasted(end.since(started)),
        _ => "-".to_owned(),
    }
}

/// One run: what it is, its steps, what it waits for, why it failed.
fn show(run: &Run, client: &Client, screen: &mut Screen) -> anyhow::Result<()> {
    screen.line(format!(
        "run {}  {}  {}",
        run.id,
        screen.paint(Style::Strong, &run.workflow),
        screen.status(run.status.as_str())
    ))?;
    let event = run.event.map(|event| format!(", event {event}")).unwrap_or_default();
    let rule = run.rule.as_ref().map(|rule| format!(", rule {rule}")).unwrap_or_default();
    let parent = run
        .parent
        .as_ref()
        .map(|parent| format!(", for step {} of run {}", parent.step, parent.run))
        .unwrap_or_default();
    screen.line(format!("started by {}{rule}{event}{parent}", run.started_by))?;
    let at = run.started_at.unwrap_or(run.created_at);
    screen.line(format!("{at}, took {}", took(run.started_at, run.finished_at, client)))?;
    if run.input.as_object().is_some_and(|input| !input.is_empty()) {
        screen.line(format!("input {}", run.input))?;
    }
    screen.line("")?;
    for step in &run.steps {
        show_step(step, client, screen)?;
    }
    for undo in &run.undos {
        screen.line(format!("{} undo of {}", mark(undo.status, screen), undo.step))?;
    }
    if let Some(undone) = run.undone {
        screen.line(format!("undone: {}", json!(undone).as_str().unwrap_or_default()))?;
    }
    for wait in &run.waits {
        let step = wait.step.as_ref().map(|step| format!("{step} ")).unwrap_or_default();
        let until = wait.until.map(|until| format!(", until {until}")).unwrap_or_default();
        let since = wait.since.map(|since| format!(", since {since}")).unwrap_or_default();
        screen.line(screen.paint(Style::Waiting, format!("{step}waits for {}{since}{until}", wait.what)))?;
        if let Some(approval) = wait.approval {
            screen.line(format!("    siskin approve {approval}   or   siskin reject {approval} -m WHY"))?;
        }
    }
    if let Some(error) = &run.error {
        let place = error.place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
        screen.line(screen.paint(Style::Bad, format!("{error}{place}")))?;
    }
    if !run.output.is_null() {
        screen.json(&run.output)?;
    }
    Ok(())
}

fn show_step(step: &Step, client: &Client, screen: &mut Screen) -> anyhow::Result<()> {
    let mut text = format!("{} {:<20} {:<12}", mark(step.status, screen), step.id, step.status.as_str());
    if step.started_at.is_some() {
        text += &took(step.started_at, step.finished_at, client);
    }
    if step.attempts > 1 {
        text += &format!("  {} attempts", step.attempts);
    }
    if let Some(items) = step.items {
        text += &format!("  {}/{} items", items.done, items.total);
        if items.failed > 0 {
            text += &format!(", {} failed", items.failed);
        }
    }
    if let Some(error) = &step.error {
        text += &format!("  {error}");
    } else if let Some(note) = &step.note {
        text += &format!("  {note}");
    }
    screen.line(text.trim_end())?;
    Ok(())
}

/// Reads the status of a run.
fn run_status(text: &str) -> Result<RunStatus, String> {
    let known = || RunStatus::ALL.map(RunStatus::as_str).join(", ");
    RunStatus::parse(text).ok_or_else(|| format!("there is no such status; there are {}", known()))
}

/// A sign for a step's status.
pub(super) fn mark(status: StepStatus, screen: &Screen) -> String {
    let (style, mark) = match status {
        StepStatus::Succeeded => (Style::Good, "✔"),
        StepStatus::Failed | StepStatus::TimedOut | StepStatus::Lost | StepStatus::Rejected => {
            (Style::Bad, "✘")
        }
        StepStatus::Running => (Style::Busy, "▶"),
        StepStatus::Waiting => (Style::Waiting, "◔"),
        StepStatus::Pending | StepStatus::Queued => (Style::Faint, "·"),
        StepStatus::Skipped | StepStatus::Cancelled | StepStatus::NotStarted => (Style::Faint, "-"),
    };
    screen.paint(style, mark)
}

/// What may be asked of a run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verb {
    Cancel,
    Pause,
    Resume,
}

#[derive(Args, Debug)]
pub(super) struct VerbArgs {
    /// The run
    #[arg(value_name = "RUN")]
    run: RunId,
    /// Print the run as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl VerbArgs {
    pub(super) async fn run(self, verb: Verb, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        let word = match verb {
            Verb::Cancel => "cancel",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
        };
        let run: Run = client.post(&format!("/runs/{}/{word}", self.run), &json!({})).await?;
        match self.json {
            true => screen.json(&serde_json::to_value(&run)?)?,
            false => screen.line(format!("run {} {}", run.id, screen.status(run.status.as_str())))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
