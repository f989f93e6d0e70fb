//! `siskin agent`: keeps the packages of this host at the versions that are advertised.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::serve::log_to_stderr;
use super::{Screen, Style, Usage};
use crate::agent::{self, BadFile, Ending, Options, Outcome, Status};
use crate::clock::Clock;
use crate::definitions::mistake;
use crate::model::Span;

#[derive(Args, Clone, Debug)]
#[command(
    after_help = "A host that was down during a deployment catches up: the agent installs by apt exactly the version that is advertised, and leaves a roll alone\nthat is at work. It refuses a lower version unless that is marked as a way back (`deploy.restore`, `siskin rollback` and `downgrade: true` mark it), a package\nthat is held, what is in no signed repository, and what is no version. What fails, or is ill afterwards, is taken back.\n\nIts file:\n  # /etc/siskin/agent.yaml\n  server: {url: \"https://siskin.example.org\", token_file: /etc/siskin/agent.token}    # is told, and knows of rolls\n  consul: {address: \"http://127.0.0.1:8500\"}\n  apps:\n    shop:\n      environment: production\n      package: shop                                # as the app when not said\n      advertise: {consul: \"{app}::version\"}        # or {etcd: KEY}, or {kv: KEY} for Siskin's own\n      source_list: siskin.list                     # apt-get update is for this one only; all when not said\n      check: \"curl -fsS http://127.0.0.1:8080/health\"\n  every: 1m      # how often it looks, whatever it is told\n  jitter: 10s    # it waits up to so long when it is told of a change\n\nExit status with --once: 0 when every app is as it should be or will be, 1 when one is not; 2 for mistakes in the file.\n\nExamples:\n  siskin agent                                          as a service; docs/guide/agent.md has a unit for systemd\n  siskin agent --once                                   from cron\n  siskin agent --once --dry-run                         what would be done"
)]
pub(super) struct AgentArgs {
    /// What it keeps, and where it hears of versions
    #[arg(long, value_name = "FILE", env = "SISKIN_AGENT_CONFIG", default_value = "/etc/siskin/agent.yaml")]
    config: PathBuf,
    /// The host: / is this machine, another directory a dpkg root in it
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Look once, then end
    #[arg(long)]
    once: bool,
    /// Say what would be done, and do nothing
    #[arg(long, requires = "once")]
    dry_run: bool,
    /// With --once: print how each app stands as JSON
    #[arg(long, requires = "once")]
    json: bool,
    /// Log lines of JSON
    #[arg(long)]
    log_json: bool,
}

impl AgentArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        log_to_stderr(self.log_json);
        let options =
            Options { config: self.config, root: self.root, once: self.once, dry_run: self.dry_run };
        let ending = Ending::default();
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let listens = tokio::spawn(listen(interrupt, terminate, ending.clone()));
        let outcomes = agent::run(&options, &Clock::wall(), &ending).await;
        listens.abort();
        let outcomes = outcomes.map_err(|error| match error.downcast::<BadFile>() {
            Ok(bad) => Usage(mistake::show(&bad.mistakes, &bad.files, false)).into(),
            Err(error) => error,
        })?;
        if !options.once {
            return Ok(ExitCode::SUCCESS);
        }
        if self.json {
            screen.json(&json!(outcomes.iter().map(shape).collect::<Vec<_>>()))?;
        } else {
            outcomes.iter().try_for_each(|outcome| screen.line(line(screen, outcome)))?;
        }
        let all_well = outcomes.iter().all(|outcome| outcome.is_well);
        Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The first signal lets it finish what it installs, the second ends that too.
async fn listen(mut interrupt: Signal, mut terminate: Signal, ending: Ending) {
    for token in [&ending.stop, &ending.abort] {
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
        }
        token.cancel();
    }
}

fn shape(outcome: &Outcome) -> serde_json::Value {
    match &outcome.report {
        Some(report) => json!(report),
        None => json!({"app": outcome.app, "status": null, "why": outcome.note}),
    }
}

fn line(screen: &Screen, outcome: &Outcome) -> String {
    let Some(report) = &outcome.report else {
        return format!("{}: {}", outcome.app, outcome.note.as_deref().unwrap_or("nothing to say"));
    };
    let style = match report.status {
        Status::Converged => Style::Good,
        Status::Behind => Style::Waiting,
        Status::Refused | Status::Failed => Style::Bad,
    };
    let status = screen.paint(style, report.status);
    let held = report.held.as_deref().unwrap_or("nothing");
    let late =
        report.late_by_seconds.map_or_else(String::new, |late| format!(", {} late", Span::seconds(late)));
    match (report.status, &report.why) {
        (Status::Converged, _) => format!("{}: {status} at {held}{late}", report.app),
        (_, why) => {
            let wanted = report.wanted.as_deref().unwrap_or("nothing");
            let why = why.as_deref().map_or_else(String::new, |why| format!(": {why}"));
            format!("{}: {status}, has {held}, {wanted} is advertised{why}", report.app)
        }
    }
}
