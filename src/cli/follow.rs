//! Watches a run as it goes: its steps and what they print, with timings, until it ends.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::bail;
use futures::StreamExt;

use super::screen::{Screen, Style, lasted};
use super::{Client, runs};
use crate::api::types::{LogLine, Run, StepChange};
use crate::model::{RunId, RunStatus, StepStatus};

/// What is shown of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// Steps and lines.
    All,
    /// Lines only.
    Log,
    /// The events of the stream as JSON lines.
    Json,
    /// Nothing: its end is waited for.
    Nothing,
}

/// How often a broken connection is made anew before we give up. The server may be restarting.
const TRIES: u32 = 20;

/// Follows a run to its end, and gives it as it is then.
///
/// # Errors
/// The server stays away, or does not know the run.
pub(super) async fn follow(
    client: &Client,
    run: RunId,
    show: Show,
    screen: &mut Screen,
) -> anyhow::Result<Run> {
    let shown = HashMap::new();
    let mut follower = Follower { client, run, show, last_event: None, connected: false, shown };
    let mut failures = 0;
    loop {
        let seen = follower.last_event.clone();
        match follower.listen(screen).await {
            Ok(true) => return client.get(&format!("/runs/{run}")).await,
            // Our own output is closed, or the server never had this run for us: that does not get better.
            Err(error) if !follower.connected || is_own_output(&error) => return Err(error),
            Ok(false) | Err(_) => {}
        }
        failures = if follower.last_event == seen { failures + 1 } else { 0 };
        if failures > TRIES {
            bail!("the connection to {} broke; `siskin log -f {run}` follows on", client.url());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn is_own_output(error: &anyhow::Error) -> bool {
    error.is::<std::io::Error>()
}

struct Follower<'a> {
    client: &'a Client,
    run: RunId,
    show: Show,
    last_event: Option<String>,
    /// The server has answered once.
    connected: bool,
    /// The status last shown of each step: after a reconnection the server tells all of them again.
    shown: HashMap<String, (StepStatus, u32)>,
}

impl Follower<'_> {
    /// Reads one connection. True: the run has ended.
    async fn listen(&mut self, screen: &mut Screen) -> anyhow::Result<bool> {
        let path = format!("/runs/{}/log?follow=1", self.run);
        let response = self.client.open(&path, "text/event-stream", self.last_event.as_deref()).await?;
        self.connected = true;
        let mut chunks = response.bytes_stream();
        let mut reader = SseReader::default();
        while let Some(chunk) = chunks.next().await {
            for message in reader.feed(&chunk.map_err(reqwest::Error::without_url)?) {
                if message.id.is_some() {
                    self.last_event.clone_from(&message.id);
                }
                if self.take(&message, screen)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn take(&mut self, message: &Message, screen: &mut Screen) -> anyhow::Result<bool> {
        let ended = message.event == "end";
        if self.show == Show::Json && ["line", "step", "run", "end"].contains(&message.event.as_str()) {
            screen.raw(&format!("{{\"{}\":{}}}\n", message.event, message.data))?;
            return Ok(ended);
        }
        match message.event.as_str() {
            "line" if self.show != Show::Nothing => {
                self.line(&serde_json::from_str(&message.data)?, screen)?
            }
            "step" if self.show == Show::All => self.step(&serde_json::from_str(&message.data)?, screen)?,
            _ => {}
        }
        Ok(ended)
    }

    fn line(&self, line: &LogLine, screen: &mut Screen) -> anyhow::Result<()> {
        screen.line(render_line(line, screen))?;
        Ok(())
    }

    fn step(&mut self, change: &StepChange, screen: &mut Screen) -> anyhow::Result<()> {
        let step = &change.step;
        let now = (step.status, step.attempts);
        if self.shown.insert(step.id.clone(), now) == Some(now) || step.status == StepStatus::Pending {
            return Ok(());
        }
        let mut text =
            format!("{} {}", runs::mark(step.status, screen), screen.paint(Style::Strong, &step.id));
        if let (Some(started), Some(finished)) = (step.started_at, step.finished_at) {
            text += &format!("  {}", screen.paint(Style::Faint, lasted(finished.since(started))));
        }
        match step.status {
            StepStatus::Succeeded | StepStatus::Running | StepStatus::Queued => {}
            status => text += &format!("  {}", screen.status(status.as_str())),
        }
        if let Some(error) = &step.error {
            text += &format!(": {error}");
        } else if let Some(note) = &step.note {
            text += &format!(": {note}");
        }
        if let Some(wait) = change.wait.as_ref().filter(|_| step.status == StepStatus::Waiting) {
            text += &format!(" for {}", wait.what);
            if let Some(until) = wait.until {
                text += &screen.paint(Style::Faint, format!(", until {until}"));
            }
            if let Some(approval) = wait.approval {
                text += &format!("\n    siskin approve {approval}   or   siskin reject {approval} -m WHY");
            }
        }
        screen.line(text)?;
        Ok(())
    }
}

/// A line of a log as people read it.
pub(super) fn render_line(line: &LogLine, screen: &Screen) -> String {
    let item = line.item.map(|item| format!("[{item}]")).unwrap_or_default();
    let place = screen.paint(Style::Faint, format!("  {}{item} │", line.step));
    let text = match line.stream {
        crate::model::log::Stream::Stdout => line.text.clone(),
        crate::model::log::Stream::Stderr => screen.paint(Style::Waiting, &line.text),
        crate::model::log::Stream::Note => screen.paint(Style::Busy, &line.text),
    };
    format!("{place} {text}")
}

/// The last line about a run that has ended.
pub(super) fn conclude(run: &Run, screen: &mut Screen) -> std::io::Result<()> {
    let mut text = format!("run {} {}", run.id, screen.status(run.status.as_str()));
    if let (Some(started), Some(finished)) = (run.started_at, run.finished_at) {
        text += &format!(" in {}", lasted(finished.since(started)));
    }
    if let Some(error) = &run.error {
        let step = error.step.as_ref().map(|step| format!(" in {step}")).unwrap_or_default();
        text += &format!("{step}: {error}");
    }
    screen.line(text)?;
    if run.status != RunStatus::Succeeded {
        screen.line(screen.paint(
            Style::Faint,
            format!("siskin runs {} shows it; siskin log {} shows what it printed", run.id, run.id),
        ))?;
    }
    Ok(())
}

/// One server-sent event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) id: Option<String>,
    pub(super) event: String,
    pub(super) data: String,
}

/// Puts server-sent events together from whatever pieces the network gives.
#[derive(Default)]
pub(super) struct SseReader {
    rest: Vec<u8>,
    message: Message,
}

impl SseReader {
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Message> {
        self.rest.extend_from_slice(bytes);
        let mut messages = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some(message) = self.line(line.trim_end_matches(['\r', '\n'])) {
                messages.push(message);
            }
        }
        messages
    }

    fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let message = std::mem::take(&mut self.message);
            return (!message.event.is_empty() || !message.data.is_empty()).then_some(message);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.message.event),
            "id" => self.message.id = Some(value.to_owned()),
            "data" => {
                if !self.message.data.is_empty() {
                    self.message.data.push('\n');
                }
                self.message.data.push_str(value);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_however_the_network_cuts_them() {
        let text = ": hello\n\nid: 7\nevent: line\ndata: {\"a\":\"ü\"}\n\nevent: end\ndata: {}\n\n";
        let whole = SseReader::default().feed(text.as_bytes());
        assert_eq!(whole.len(), 2);
        assert_eq!(whole.first().and_then(|message| message.id.as_deref()), Some("7"));
        let mut reader = SseReader::default();
        let pieces: Vec<Message> = text.as_bytes().chunks(1).flat_map(|piece| reader.feed(piece)).collect();
        assert_eq!(pieces, whole);
    }
}
