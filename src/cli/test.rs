//! `siskin test`: plays the tests of the definitions, on simulated time; `--from-run` writes one from a run that really was.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::screen::Style;
use super::{Client, Screen, ServerArgs, Usage};
use crate::api::types::{Approval, Event, Page, Run, Step};
use crate::definitions::test::Test;
use crate::definitions::{Definitions, Mistake, mistake};
use crate::model::{EventId, RunId, RunStatus, Span, StepStatus, Timestamp, Value};
use crate::rehearsal::{self, Does, Heard, Recorded, RecordedStep, Report, Said};
use crate::site;

#[derive(Args, Debug)]
#[command(
    after_help = "Nothing is done and no time passes: actions are answered by the mocks of the test, a timeout of 24 hours takes none.\nExit status 1 when a case failed or a definition has a mistake.\n\nExamples:\n  siskin test --site site\n  siskin test ship                     only the tests of site.ship, or of tests/ship.yaml\n  siskin test --from-run 12 > tests/run_12.yaml"
)]
pub(super) struct TestArgs {
    /// Only the tests of these rules, workflows or files
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The folder of definitions
    #[arg(long, value_name = "DIR", env = "SISKIN_SITE", default_value = ".")]
    site: PathBuf,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    /// Write a test from this run, which ended, as YAML
    #[arg(long, value_name = "RUN", conflicts_with_all = ["names", "json"])]
    from_run: Option<RunId>,
    #[command(flatten)]
    server: ServerArgs,
}

impl TestArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        if let Some(run) = self.from_run {
            let client = Client::find(&self.server)?;
            screen.raw(&rehearsal::write(&recorded(&client, run).await?))?;
            return Ok(ExitCode::SUCCESS);
        }
        let files = site::read(&self.site)?;
        let (definitions, mistakes) = Definitions::read(&files);
        let tests = chosen(&definitions, &mistakes, &self.names)?;
        let reports: Vec<Report> =
            tests.iter().flat_map(|test| rehearsal::rehearse(&definitions, test)).collect();
        let failed = reports.iter().filter(|report| !report.passed()).count();
        let ok = failed == 0 && mistakes.is_empty();
        if self.json {
            let cases: Vec<_> = reports.iter().map(as_json).collect();
            let passed = reports.len() - failed;
            screen.json(
                &json!({"ok": ok, "passed": passed, "failed": failed, "cases": cases, "mistakes": mistakes}),
            )?;
        } else {
            if !mistakes.is_empty() {
                screen.line(mistake::show(&mistakes, &files, screen.has_colours()))?;
                screen.line("")?;
            }
            for report in &reports {
                show(report, screen)?;
            }
            screen.line(summary(reports.len() - failed, failed, mistakes.len(), screen))?;
        }
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The site's own tests that have one of the names; those of packs in the binary only when they are named.
fn chosen<'d>(
    definitions: &'d Definitions,
    mistakes: &[Mistake],
    names: &[String],
) -> Result<Vec<&'d Test>, Usage> {
    if names.is_empty() {
        return Ok(definitions.tests.iter().filter(|test| !test.place.is_embedded()).collect());
    }
    for name in names {
        // A file with a mistake has its name all the same.
        let is_broken = mistakes.iter().any(|mistake| is_file(&mistake.place.file, name));
        if !is_broken && !definitions.tests.iter().any(|test| is_called(test, name)) {
            return Err(Usage(format!(
                "there is no test of `{name}`: name a rule, a workflow or a file of tests/"
            )));
        }
    }
    let wanted = |test: &&Test| names.iter().any(|name| is_called(test, name));
    Ok(definitions.tests.iter().filter(wanted).collect())
}

/// `site.ship`, `ship`, `tests/ship.yaml`, `ship.yaml`.
fn is_called(test: &Test, name: &str) -> bool {
    let of = test.subject.name();
    of == name || of.rsplit('.').next() == Some(name) || is_file(&test.place.file, name)
}

fn is_file(file: &str, name: &str) -> bool {
    let last = file.rsplit('/').next().unwrap_or(file);
    file == name || last == name || last.strip_suffix(".yaml") == Some(name)
}

fn as_json(report: &Report) -> serde_json::Value {
    let mut shown = json!(report);
    shown["passed"] = json!(report.passed());
    shown
}

fn show(report: &Report, screen: &mut Screen) -> anyhow::Result<()> {
    let of = screen.paint(Style::Strong, &report.of);
    if report.passed() {
        screen.line(format!("{} {of}  {}", screen.paint(Style::Good, "✔"), report.case))?;
        return Ok(());
    }
    screen.line(format!("{} {of}  {}", screen.paint(Style::Bad, "✘"), report.case))?;
    screen.line(format!("    {}", screen.paint(Style::Faint, &report.place)))?;
    for difference in &report.differences {
        screen.line(format!("    {}", screen.paint(Style::Bad, difference)))?;
    }
    if !report.timeline.is_empty() {
        screen.line("    what happened:")?;
    }
    for moment in &report.timeline {
        let after = moment.after.to_string();
        screen.line(screen.paint(Style::Faint, format!("      {after:>8}  {moment}")))?;
    }
    Ok(())
}

fn summary(passed: usize, failed: usize, mistakes: usize, screen: &Screen) -> String {
    if passed + failed + mistakes == 0 {
        return "there are no tests; write some in tests/*.yaml".to_owned();
    }
    let mut parts = vec![format!("{passed} passed")];
    if failed > 0 {
        parts.push(screen.paint(Style::Bad, format!("{failed} failed")));
    }
    if mistakes > 0 {
        let noun = if mistakes == 1 { "mistake" } else { "mistakes" };
        parts.push(screen.paint(Style::Bad, format!("{mistakes} {noun}")));
    }
    parts.join(", ")
}

// A test from a run.

/// All that the server knows of a run that a test can hold.
async fn recorded(client: &Client, id: RunId) -> anyhow::Result<Recorded> {
    let run: Run = client.get(&format!("/runs/{id}")).await?;
    let can_be_played = matches!(run.status, RunStatus::Succeeded | RunStatus::Failed | RunStatus::Rejected);
    if !can_be_played {
        let why = "a test is written from a run that ended by itself";
        return Err(Usage(format!("run {id} is {}: {why}", run.status)).into());
    }
    let kinds = kinds(client, &run).await?;
    let began = run.started_at.unwrap_or(run.created_at);
    let query = [("run", Some(id.to_string())), ("limit", Some("500".to_owned()))];
    let approvals: Page<Approval> = serde_json::from_value(client.list("/approvals", &query).await?)?;
    let mut heard = Vec::new();
    for event in run.steps.iter().filter_map(heard_event) {
        let event: Event = client.get(&format!("/events/{event}")).await?;
        let payload = event.payload.unwrap_or_default();
        heard.push(Heard { at: event.received_at.since(began), trigger: event.trigger, payload });
    }
    let does = |id: &str| kinds.iter().find(|(step, _)| step == id).map_or(Does::Other, |(_, does)| *does);
    let undone = run.undos.iter().filter(|undo| undo.status == StepStatus::Succeeded);
    Ok(Recorded {
        name: format!("as run {id} went"),
        workflow: run.workflow.clone(),
        input: run.input.clone(),
        status: run.status,
        error: run.error.clone(),
        output: run.output.clone(),
        undone: undone.map(|undo| undo.step.clone()).collect(),
        steps: run.steps.iter().map(|step| recorded_step(step, does(&step.id))).collect(),
        heard,
        said: approvals.items.iter().filter_map(|approval| said(approval, began)).collect(),
    })
}

/// What each step of the run's workflow does.
async fn kinds(client: &Client, run: &Run) -> anyhow::Result<Vec<(String, Does)>> {
    let name = &run.workflow;
    let workflow: Value = client.get(&format!("/workflows/{name}")).await.map_err(|error| {
        Usage(format!("run {} was of {name}, which is no workflow now: {error:#}", run.id))
    })?;
    let steps = workflow["graph"].as_array().cloned().unwrap_or_default();
    let kind = |step: &Value| {
        let does = match step["does"].as_str()? {
            "run" => Does::Call,
            "wait_for" => Does::Wait,
            "watch" if !is_aborted(run, step["id"].as_str()?) => Does::Watch,
            _ => Does::Other,
        };
        Some((step["id"].as_str()?.to_owned(), does))
    };
    Ok(steps.iter().filter_map(kind).collect())
}

fn is_aborted(run: &Run, id: &str) -> bool {
    run.steps.iter().any(|step| step.id == id && heard_event(step).is_some())
}

/// The event that ended the step: one that was waited for, or one that broke off a watch.
fn heard_event(step: &Step) -> Option<EventId> {
    if step.output["by"] == "event" {
        return step.output["id"].as_i64().map(EventId);
    }
    let (_, id) = step.error.as_ref()?.message.rsplit_once(" came: event ")?;
    id.parse().ok().map(EventId)
}

fn recorded_step(step: &Step, does: Does) -> RecordedStep {
    let took: Option<Span> = step.started_at.zip(step.finished_at).map(|(began, ended)| ended.since(began));
    RecordedStep {
        id: step.id.clone(),
        status: step.status,
        does,
        attempts: step.attempts,
        output: step.output.clone(),
        error: step.error.clone(),
        took,
    }
}

/// The votes that decided an approval; `None` when it was not decided by people.
fn said(approval: &Approval, began: Timestamp) -> Option<Said> {
    let no = approval.votes.iter().find(|vote| !vote.yes);
    let last = no.or(approval.votes.last())?;
    let by: Vec<String> = match no {
        Some(vote) => vec![vote.by.clone()],
        None => approval.votes.iter().map(|vote| vote.by.clone()).collect(),
    };
    Some(Said {
        step: approval.step.clone(),
        by,
        at: last.at.since(began),
        reject: no.is_some(),
        comment: last.comment.clone(),
        answers: last.answers.clone(),
    })
}
