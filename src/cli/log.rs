//! `siskin log [-f] RUN`.

use std::process::ExitCode;

use clap::Args;
use futures::StreamExt;

use super::follow::{Show, follow, render_line};
use super::{Client, Screen, ServerArgs};
use crate::api::types::LogLine;
use crate::model::RunId;

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  siskin log 12\n  siskin log -f 12             until the run has ended\n  siskin log 12 --json         one line of JSON per line"
)]
pub(super) struct LogArgs {
    /// The run
    #[arg(value_name = "RUN")]
    run: RunId,
    /// Go on until the run has ended
    #[arg(short, long)]
    follow: bool,
    /// Only this step's lines
    #[arg(long, conflicts_with = "follow")]
    step: Option<String>,
    /// Print lines of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl LogArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        if self.follow {
            let show = if self.json { Show::Json } else { Show::Log };
            follow(&client, self.run, show, screen).await?;
            return Ok(ExitCode::SUCCESS);
        }
        let step =
            self.step.map(|step| format!("?step={}", super::client::segment(&step))).unwrap_or_default();
        let response =
            client.open(&format!("/runs/{}/log{step}", self.run), "application/x-ndjson", None).await?;
        let mut chunks = response.bytes_stream();
        let mut rest = Vec::new();
        while let Some(chunk) = chunks.next().await {
            rest.extend_from_slice(&chunk?);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if self.json {
                    screen.raw(&String::from_utf8_lossy(&line))?;
                } else {
                    let line: LogLine = serde_json::from_slice(&line)?;
                    screen.line(render_line(&line, screen))?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
