//! `siskin events`: list, show, send, replay.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::inputs::read_json;
use super::screen::ago;
use super::{Client, Screen, ServerArgs};
use crate::api::types::{DryReplay, Event, Page};
use crate::model::{EventId, Value};

#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  siskin events --trigger github.push\n  siskin events 3                                the event, which rules it met, and their runs\n  siskin events 3 --why site.ci_on_push          why a rule did not match\n  siskin events send github.push push.json\n  siskin events replay 3\n  siskin events replay 3 --dry-run               what would run, and why not; nothing is done"
)]
pub(super) struct EventsArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Put an event in, as if it had come from outside
    Send(SendArgs),
    /// Put a stored event in again, as a new one
    Replay(ReplayArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// Show this one
    #[arg(value_name = "EVENT")]
    event: Option<EventId>,
    /// Say why this rule did or did not match the event
    #[arg(long, value_name = "RULE", requires = "event")]
    why: Option<String>,
    /// Only events of this trigger
    #[arg(long, value_name = "REF")]
    trigger: Option<String>,
    /// Only events of this source
    #[arg(long, value_name = "REF")]
    source: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
struct SendArgs {
    /// The event's type, `pack.name`
    #[arg(value_name = "TRIGGER")]
    trigger: String,
    /// The payload, a file of JSON; `-` reads stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The same key within 7 days is the same event
    #[arg(long, value_name = "KEY")]
    dedup: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
struct ReplayArgs {
    #[arg(value_name = "EVENT")]
    event: EventId,
    /// Only say which rules would match and what would run, with which values
    #[arg(long)]
    dry_run: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl EventsArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        match self.verb {
            None => self.list.run(screen).await?,
            Some(Verb::Send(args)) => args.run(screen).await?,
            Some(Verb::Replay(args)) => args.run(screen).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl ListArgs {
    async fn run(self, screen: &mut Screen) -> anyhow::Result<()> {
        let client = Client::find(&self.server)?;
        if let Some(event) = self.event {
            let found = client.list(&format!("/events/{event}"), &[("why", self.why)]).await?;
            return match self.json {
                true => Ok(screen.json(&found)?),
                false => show(&found, screen),
            };
        }
        let query =
            [("trigger", self.trigger), ("source", self.source), ("limit", Some(self.limit.to_string()))];
        let found = client.list("/events", &query).await?;
        if self.json {
            return Ok(screen.json(&found)?);
        }
        let page: Page<Event> = serde_json::from_value(found)?;
        let rows = page.items.into_iter().map(|event| {
            let routed = if event.routed_at.is_some() { "yes" } else { "no" };
            vec![
                event.id.to_string(),
                event.trigger,
                event.source,
                ago(Some(event.received_at), client.now()),
                routed.to_owned(),
            ]
        });
        Ok(screen.table(
            &["EVENT", "TRIGGER", "SOURCE", "RECEIVED", "ROUTED"],
            rows.collect(),
            "no events",
        )?)
    }
}

fn show(found: &Value, screen: &mut Screen) -> anyhow::Result<()> {
    let event: Event = serde_json::from_value(found.clone())?;
    screen.line(format!(
        "event {}  {}  from {}, {}",
        event.id, event.trigger, event.source, event.received_at
    ))?;
    if let Some(original) = event.replay_of {
        screen.line(format!("replay of event {original}"))?;
    }
    for found in event.matches.unwrap_or_default() {
        let status = json!(found.result);
        let run = found.run.map(|run| format!(" run {run}")).unwrap_or_default();
        let why = found.why.map(|why| format!(": {why}")).unwrap_or_default();
        let place = found.place.map(|place| format!(" ({place})")).unwrap_or_default();
        screen.line(format!(
            "{} {}{run}{why}{place}",
            screen.status(status.as_str().unwrap_or_default()),
            found.rule
        ))?;
    }
    if let Some(why) = found["why"].as_object() {
        let text = |name: &str| why.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        screen.line(format!("{}: {} {}", text("rule"), text("result"), text("why")))?;
    }
    Ok(screen.json(&event.payload.unwrap_or_default())?)
}

impl SendArgs {
    async fn run(self, screen: &mut Screen) -> anyhow::Result<()> {
        let client = Client::find(&self.server)?;
        let payload = read_json(&self.file)?;
        let mut body = json!({"trigger": self.trigger, "payload": payload});
        if let Some(key) = self.dedup {
            body["dedup"] = json!(key);
        }
        let answer: Value = client.post("/events", &body).await?;
        tell(&answer, self.json, screen)
    }
}

impl ReplayArgs {
    async fn run(self, screen: &mut Screen) -> anyhow::Result<()> {
        let client = Client::find(&self.server)?;
        let path = format!("/events/{}/replay", self.event);
        if !self.dry_run {
            let answer: Value = client.post(&path, &json!({})).await?;
            return tell(&answer, self.json, screen);
        }
        let answer: Value = client.post(&path, &json!({"dry_run": true})).await?;
        if self.json {
            return Ok(screen.json(&answer)?);
        }
        let dry: DryReplay = serde_json::from_value(answer)?;
        show_dry(dry, screen)
    }
}

fn show_dry(dry: DryReplay, screen: &mut Screen) -> anyhow::Result<()> {
    let said = dry.rules.iter().filter(|rule| rule.result == "not matched").count();
    for rule in &dry.rules {
        let name = rule.rule.as_deref().unwrap_or_default();
        let mut line = format!("{} {name}", screen.status(&rule.result));
        if let Some(run) = &rule.run {
            line += &format!(": would run {run} {}", rule.with.clone().unwrap_or_default());
        }
        if let Some(starter) = &rule.on_behalf_of {
            line += &format!(" on behalf of {starter}");
        }
        if let Some(why) = &rule.why {
            line += &format!(": {why}");
        }
        if let Some(place) = &rule.place {
            line += &format!(" ({place})");
        }
        screen.line(line)?;
    }
    if dry.unmatched > said {
        screen.line(format!("and {} more rules do not match", dry.unmatched - said))?;
    }
    if !dry.waiting.is_empty() {
        let runs: Vec<String> = dry.waiting.iter().map(ToString::to_string).collect();
        screen.line(format!("runs that wait for {}: {}", dry.trigger, runs.join(", ")))?;
    }
    screen.line(format!("{} would match; nothing was done", dry.matched))?;
    Ok(())
}

fn tell(answer: &Value, as_json: bool, screen: &mut Screen) -> anyhow::Result<()> {
    match as_json {
        true => screen.json(answer)?,
        false => screen.line(&answer["event"])?,
    }
    Ok(())
}
