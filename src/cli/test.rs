//! `siskin test`: plays the tests of the definitions, on simulated time; `--from-run` writes one from a run that really was.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::screen::Style;
use super::{Client, Screen, ServerArgs, Usage};
use crate::api::types::{Approval, Event, Item, Page, Run, Step};
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
    let undone = run.undos.iter().filter(|undo| undo.status == StepStatus::Succeeded);
    let mut recorded = Recorded {
        name: format!("as run {id} went"),
        workflow: run.workflow.clone(),
        input: run.input.clone(),
        status: run.status,
        error: run.error.clone(),
        output: run.output.clone(),
        undone: undone.map(|undo| undo.step.clone()).collect(),
        steps: Vec::new(),
        heard: Vec::new(),
        said: Vec::new(),
    };
    let began = run.started_at.unwrap_or(run.created_at);
    let mut runs = vec![(run, None)];
    while let Some((run, item)) = runs.pop() {
        for step in &run.steps {
            let does =
                kinds.iter().find(|(known, _)| *known == step.id).map_or(Does::Other, |(_, does)| *does);
            let does = if does == Does::Watch && heard_event(step).is_some() { Does::Other } else { does };
            let items = if does == Does::Call { items(client, &run, step).await? } else { Vec::new() };
            let found = RecordedStep { items, is_in_group: run.id != id, ..recorded_step(step, does) };
            add_step(&mut recorded.steps, found, item);
        }
        hear(client, &run, began, &mut recorded).await?;
        // The last first: they are taken from the end.
        let mut groups = groups(client, &run).await?;
        groups.reverse();
        runs.extend(groups.into_iter().map(|(group, own)| (group, own.or(item))));
    }
    recorded.heard.sort_by_key(|heard| heard.at);
    Ok(recorded)
}

/// Of a step that was done for each item, or in a group that was, one record holds what came of each; the first that is known counts.
fn add_step(steps: &mut Vec<RecordedStep>, step: RecordedStep, item: Option<usize>) {
    let known = steps.iter_mut().find(|known| known.id == step.id);
    let Some(item) = item.filter(|_| step.items.is_empty()) else {
        if known.is_none() {
            steps.push(step);
        }
        return;
    };
    let whole = match known {
        Some(known) => known,
        None => {
            steps.push(RecordedStep { items: Vec::new(), ..step.clone() });
            let Some(last) = steps.last_mut() else { return };
            last
        }
    };
    if item < rehearsal::MOST_ITEMS && whole.is_in_group {
        if whole.items.len() <= item {
            whole.items.resize(item + 1, None);
        }
        whole.items[item].get_or_insert(step);
    }
}

/// What came of each item of a step, as far as a test holds them.
async fn items(client: &Client, run: &Run, step: &Step) -> anyhow::Result<Vec<Option<RecordedStep>>> {
    if step.items.is_none() {
        return Ok(Vec::new());
    }
    // One more than are kept: then it is seen that there are more.
    let query = [("limit", Some((rehearsal::MOST_ITEMS + 1).to_string()))];
    let page: Page<Item> = serde_json::from_value(
        client.list(&format!("/runs/{}/steps/{}/items", run.id, step.id), &query).await?,
    )?;
    let took = |item: &Item| item.started_at.zip(item.finished_at).map(|(began, ended)| ended.since(began));
    let recorded = |item: Item| RecordedStep {
        id: step.id.clone(),
        status: item.status,
        does: Does::Call,
        attempts: item.attempts,
        took: took(&item),
        output: item.output,
        error: item.error,
        items: Vec::new(),
        is_in_group: false,
    };
    Ok(page.items.into_iter().map(|item| Some(recorded(item))).collect())
}

/// The runs of the groups of a run, those of its workflow that were runs of their own, newest first, each with the item that it was for.
async fn groups(client: &Client, run: &Run) -> anyhow::Result<Vec<(Run, Option<usize>)>> {
    let query = [("parent", Some(run.id.to_string())), ("limit", Some("500".to_owned()))];
    let page: Page<Run> = serde_json::from_value(client.list("/runs", &query).await?)?;
    let workflow = run.workflow.split('#').next().unwrap_or_default();
    let is_group = |child: &Run| {
        child.rollback_of.is_none() && child.workflow.split_once('#').is_some_and(|(of, _)| of == workflow)
    };
    let item = |child: &Run| {
        let (_, item) = child.parent.as_ref()?.step.strip_suffix(']')?.split_once('[')?;
        item.parse().ok()
    };
    let found = page.items.into_iter().filter(is_group);
    Ok(found.map(|child| (item(&child), child)).map(|(item, child)| (child, item)).collect())
}

/// What a run heard: events that its steps took notice of, and what people said.
async fn hear(client: &Client, run: &Run, began: Timestamp, recorded: &mut Recorded) -> anyhow::Result<()> {
    let query = [("run", Some(run.id.to_string())), ("limit", Some("500".to_owned()))];
    let approvals: Page<Approval> = serde_json::from_value(client.list("/approvals", &query).await?)?;
    recorded.said.extend(approvals.items.iter().filter_map(|approval| said(approval, began)));
    for event in run.steps.iter().filter_map(heard_event) {
        let event: Event = client.get(&format!("/events/{event}")).await?;
        let payload = event.payload.unwrap_or_default();
        let heard = Heard { at: event.received_at.since(began), trigger: event.trigger, payload };
        let is_known = |known: &Heard| (known.at, &known.trigger) == (heard.at, &heard.trigger);
        if !recorded.heard.iter().any(is_known) {
            recorded.heard.push(heard);
        }
    }
    Ok(())
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
            "watch" => Does::Watch,
            _ => Does::Other,
        };
        Some((step["id"].as_str()?.to_owned(), does))
    };
    Ok(steps.iter().filter_map(kind).collect())
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
        items: Vec::new(),
        is_in_group: false,
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
