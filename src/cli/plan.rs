//! `siskin plan`: the definitions of a folder against those of the server.

use std::path::PathBuf;
use std::process::ExitCode;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::screen::Style;
use super::{Client, Screen, ServerArgs};
use crate::api::types::{Plan, PlanExample, PlanFile, PlanRule, Why};
use crate::model::{Object, Span, Value};
use crate::site;

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  siskin plan                        what the folder here would change, and what it would have done last week\n  siskin plan --site site --last 30d\n\nNothing is changed. Exit status 1 when the folder has mistakes. Rules that count begin to do so with the first event that is tried."
)]
pub(super) struct PlanArgs {
    /// The folder of definitions
    #[arg(long, value_name = "DIR", env = "SISKIN_SITE", default_value = ".")]
    site: PathBuf,
    /// How far back events are tried
    #[arg(long, value_name = "TIME", default_value = "7d")]
    last: Span,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl PlanArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let files = site::read(&self.site)?;
        if let Some((path, why)) = files.unread.first_key_value() {
            anyhow::bail!("{path} can't be read: {why}");
        }
        let client = Client::find(&self.server)?;
        let in_force: Value = client.get("/definitions/files").await?;
        let own = files.texts.iter().filter(|(path, _)| !files.embedded.contains(*path));
        let sent: Object = own
            .map(|(path, bytes)| {
                let sha256 = hex::encode(Sha256::digest(bytes));
                let file = match std::str::from_utf8(bytes) {
                    _ if in_force["files"][path] == sha256.as_str() => PlanFile::Same { sha256 },
                    Ok(text) => PlanFile::Text { text: text.to_owned() },
                    Err(_) => PlanFile::Base64 { base64: BASE64_STANDARD.encode(bytes) },
                };
                (path.clone(), json!(file))
            })
            .collect();
        let answer: Value = client.post("/plan", &json!({"files": sent, "last": self.last})).await?;
        let plan: Plan = serde_json::from_value(answer.clone())?;
        match self.json {
            true => screen.json(&answer)?,
            false => show(&plan, screen)?,
        }
        Ok(if plan.mistakes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn show(plan: &Plan, screen: &mut Screen) -> anyhow::Result<()> {
    for change in &plan.changes {
        let (sign, style) = match change.change.as_str() {
            "added" => ("+", Style::Good),
            "removed" => ("-", Style::Bad),
            _ => ("~", Style::Waiting),
        };
        let broken =
            if change.broken { format!(" {}", screen.paint(Style::Bad, "broken")) } else { String::new() };
        let name = if change.name == change.file { String::new() } else { format!(" {}", change.name) };
        screen.line(format!(
            "{} {}{name} ({}){broken}",
            screen.paint(style, sign),
            change.kind,
            change.file
        ))?;
        for how in &change.how {
            screen.line(format!("    {how}"))?;
        }
        for means in &change.means {
            screen.line(format!("    {}", screen.paint(Style::Waiting, means)))?;
        }
        if change.change == "changed" && change.how.is_empty() {
            screen.line("    comments and spaces only")?;
        }
    }
    if plan.changes.is_empty() {
        screen.line("the server has the same definitions")?;
    }
    for (what, why) in &plan.left_out {
        screen.line(format!("{} {what}: {why}", screen.paint(Style::Bad, "would not be in force:")))?;
    }
    for mistake in &plan.mistakes {
        let text = |key: &str| mistake[key].as_str().unwrap_or_default();
        let place = format!("{}:{}:{}", text("file"), mistake["line"], mistake["column"]);
        screen.line(format!("{} {place}: {}", screen.paint(Style::Bad, "mistake"), text("message")))?;
    }
    if !plan.changes.is_empty() {
        show_events(plan, screen)?;
    }
    Ok(())
}

fn show_events(plan: &Plan, screen: &mut Screen) -> anyhow::Result<()> {
    let events = &plan.events;
    let differing: Vec<&PlanRule> = events
        .rules
        .iter()
        .filter(|rule| rule.newly + rule.no_longer + rule.otherwise + rule.errors > 0)
        .collect();
    screen.line("")?;
    if events.rules.is_empty() {
        screen.line("no rule would decide otherwise")?;
        return Ok(());
    }
    let bound = events.bound.as_ref().map(|bound| format!(" ({bound})")).unwrap_or_default();
    let since = events.tried_since.unwrap_or(events.since);
    let rules = match events.rules.len() {
        1 => "1 rule".to_owned(),
        number => format!("{number} rules"),
    };
    screen.line(format!("{} events since {since} were tried on {rules}{bound}", events.tried))?;
    if differing.is_empty() {
        screen.line("nothing would have come of them that did not")?;
    }
    for rule in differing {
        let counts = [
            (rule.newly, "would match newly"),
            (rule.no_longer, "no longer"),
            (rule.otherwise, "would start something else"),
            (rule.errors, "would fail"),
        ];
        let counts: Vec<String> = counts
            .iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, what)| format!("{number} {what}"))
            .collect();
        screen.line(format!(
            "{}: {} ({} matched, {} would)",
            screen.paint(Style::Strong, &rule.rule),
            counts.join(", "),
            rule.matched_before,
            rule.matched_after
        ))?;
        for example in &rule.examples {
            screen.line(format!("    {}", told(example)))?;
        }
    }
    Ok(())
}

fn told(example: &PlanExample) -> String {
    let of = example.after.as_ref().or(example.before.as_ref());
    let event = of.and_then(|why| why.event).map(|event| format!("event {event}: ")).unwrap_or_default();
    let side = |why: &Option<Why>| match why {
        None => "nothing".to_owned(),
        Some(Why { run: Some(run), with, .. }) => {
            format!("{run} {}", with.clone().unwrap_or_default())
        }
        Some(Why { result, why, .. }) => match why {
            Some(why) => format!("{result} ({why})"),
            None => result.clone(),
        },
    };
    format!("{event}{} -> {}", side(&example.before), side(&example.after))
}
