//! `siskin hosts`: what is on each host, and what should be.

use std::process::ExitCode;

use clap::Args;

use super::screen::ago;
use super::{Client, Screen, ServerArgs};
use crate::api::types::{Held, Host, Page};

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  siskin hosts\n  siskin hosts --app shop --environment production\n  siskin hosts --state failed,behind,untouched      what does not hold what it should\n\nsiskin why HOST says how one came to hold what it holds."
)]
pub(super) struct HostsArgs {
    /// Only of this app
    #[arg(long)]
    app: Option<String>,
    /// Only on this environment
    #[arg(long)]
    environment: Option<String>,
    /// Only in one of these states: current, rolling, failed, untouched, behind, ahead, unknown, left
    #[arg(long, value_name = "STATE,..")]
    state: Option<String>,
    /// At most so many hosts
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl HostsArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        let query = [
            ("app", self.app),
            ("environment", self.environment),
            ("state", self.state),
            ("limit", Some(self.limit.to_string())),
        ];
        let found = client.list("/hosts", &query).await?;
        if self.json {
            screen.json(&found)?;
            return Ok(ExitCode::SUCCESS);
        }
        let page: Page<Host> = serde_json::from_value(found)?;
        let row = |host: &Host, held: &Held| {
            let (stands, none) = (&held.standing, || "-".to_owned());
            vec![
                host.host.clone(),
                stands.app.clone(),
                stands.environment.clone(),
                stands.held.clone().unwrap_or_else(none),
                stands.wanted.clone().unwrap_or_else(none),
                screen.status(stands.state.as_str()),
                ago(stands.since, client.now()),
                stands.run.map_or_else(none, |run| run.to_string()),
                stands.why.clone().unwrap_or_default(),
            ]
        };
        let rows =
            page.items.iter().flat_map(|host| host.holds.iter().map(move |held| row(host, held))).collect();
        let headings = ["HOST", "APP", "ENVIRONMENT", "HOLDS", "SHOULD", "STATE", "SINCE", "RUN", ""];
        screen.table(&headings, rows, "no hosts")?;
        if let Some(next) = page.next {
            screen.line(format!("there are more after {next}: --limit, or --app and --environment"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
