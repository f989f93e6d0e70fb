//! `siskin events`: list, show, send, replay.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::inputs::read_json;
use super::screen::ago;
use super::{Client, Screen, ServerArgs};
use crate::api::types::{Event, Page};
use crate::model::{EventId, Value};

#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  siskin events --trigger github.push\n  siskin events 3                                the event, which rules it met, and their runs\n  siskin events 3 --why site.ci_on_push          why a rule did not match\n  siskin events send github.push push.json\n  siskin events replay 3"
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
        let answer: Value = client.post(&format!("/events/{}/replay", self.event), &json!({})).await?;
        tell(&answer, self.json, screen)
    }
}

fn tell(answer: &Value, as_json: bool, screen: &mut Screen) -> anyhow::Result<()> {
    match as_json {
        true => screen.json(answer)?,
        false => screen.line(&answer["event"])?,
    }
    Ok(())
}
