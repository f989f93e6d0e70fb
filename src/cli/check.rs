//! `siskin check`: every mistake in the definitions, at once.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::Screen;
use super::screen::Style;
use crate::clock::Clock;
use crate::definitions::{Definitions, mistake};
use crate::site;

#[derive(Args, Debug)]
#[command(
    after_help = "Exit status 1 when there is a mistake. Every one is shown with its file, line and column."
)]
pub(super) struct CheckArgs {
    /// The folder of definitions
    #[arg(long, value_name = "DIR", env = "SISKIN_SITE", default_value = ".")]
    site: PathBuf,
    /// Print the mistakes as JSON
    #[arg(long)]
    json: bool,
}

impl CheckArgs {
    pub(super) fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let files = site::read(&self.site)?;
        let (definitions, mistakes) = Definitions::read(&files);
        let ok = mistakes.is_empty();
        if self.json {
            screen.json(&json!({"ok": ok, "mistakes": mistakes, "revision": definitions.revision}))?;
        } else if ok {
            screen.line(format!("{}: {}", screen.paint(Style::Good, "ok"), what(&definitions)))?;
            let now = Clock::wall().now();
            for rule in definitions.rules.values() {
                let Some(schedule) = &rule.schedule else { continue };
                let times: Vec<String> =
                    schedule.next_times(now, SHOWN_TIMES).into_iter().map(|at| schedule.local(at)).collect();
                let off = if rule.enabled { "" } else { " (disabled)" };
                screen.line(format!("{}{off} is due at {}", rule.name, times.join(", ")))?;
            }
        } else {
            screen.line(mistake::show(&mistakes, &files, screen.has_colours()))?;
            let count = count(mistakes.len(), "mistake");
            screen.line(screen.paint(Style::Bad, count))?;
        }
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// How many times of a schedule are shown.
const SHOWN_TIMES: usize = 5;

fn what(definitions: &Definitions) -> String {
    let apps = definitions.apps.as_object().map_or(0, |apps| apps.len());
    [
        (definitions.rules.len(), "rule"),
        (definitions.workflows.len(), "workflow"),
        (definitions.actions.len(), "action"),
        (definitions.triggers.len(), "trigger"),
        (definitions.sources.len(), "source"),
        (apps, "app"),
    ]
    .map(|(number, noun)| count(number, noun))
    .join(", ")
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
