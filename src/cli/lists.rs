//! The lists of what is defined, and of what is deployed: each a path, its columns, and where in an item their text is.

use std::process::ExitCode;

use clap::Args;

use super::client::segment;
use super::{Client, Screen, ServerArgs};
use crate::model::Value;

/// A list: its path, and its columns as heading and field.
#[derive(Debug)]
pub(super) struct List {
    path: &'static str,
    columns: &'static [(&'static str, &'static str)],
}

pub(super) static ACTIONS: List =
    List { path: "/actions", columns: &[("ACTION", "name"), ("RUNNER", "runner"), ("", "description")] };
pub(super) static WORKFLOWS: List =
    List { path: "/workflows", columns: &[("WORKFLOW", "name"), ("", "description")] };
pub(super) static TRIGGERS: List =
    List { path: "/triggers", columns: &[("TRIGGER", "name"), ("", "description")] };
pub(super) static SOURCES: List = List {
    path: "/sources",
    columns: &[
        ("SOURCE", "name"),
        ("KIND", "kind"),
        ("AT", "url"),
        ("EVENTS", "health.accepted"),
        ("LAST", "health.last_event_at"),
        ("PROBLEM", "health.problem"),
        ("LAST ERROR", "health.last_error"),
    ],
};
pub(super) static PACKS: List = List {
    path: "/packs",
    columns: &[
        ("PACK", "name"),
        ("ACTIONS", "actions"),
        ("WORKFLOWS", "workflows"),
        ("RULES", "rules"),
        ("TRIGGERS", "triggers"),
        ("SOURCES", "sources"),
    ],
};
static DEPLOYMENTS: List = List {
    path: "/deployments",
    columns: &[
        ("DEPLOYMENT", "id"),
        ("APP", "app"),
        ("ENVIRONMENT", "environment"),
        ("VERSION", "version"),
        ("BEFORE", "previous"),
        ("STATUS", "status"),
        ("RUN", "run"),
        ("BY", "by"),
        ("STARTED", "started_at"),
    ],
};
static USERS: List = List { path: "/users", columns: &[("USER", "name"), ("ROLES", "roles")] };

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// Show this one, as JSON
    #[arg(value_name = "REF")]
    name: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl ListArgs {
    pub(super) async fn run(self, list: &List, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        if let Some(name) = self.name {
            let found: Value = client.get(&format!("{}/{}", list.path, segment(&name))).await?;
            screen.json(&found)?;
            return Ok(ExitCode::SUCCESS);
        }
        let found = client.list(list.path, &[("limit", Some("500".to_owned()))]).await?;
        list.show(&found, self.json, screen)
    }
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  siskin deployments --app shop --environment production\n  siskin deployments --status failed --since 7d\n  siskin deployments --host web1"
)]
pub(super) struct DeploymentsArgs {
    /// Only of this app
    #[arg(long)]
    app: Option<String>,
    /// Only on this environment
    #[arg(long)]
    environment: Option<String>,
    /// Only with this status: rolling, done, failed, restored
    #[arg(long)]
    status: Option<String>,
    /// Only those that began then or later: 7d, or a time
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only those that came to this host
    #[arg(long)]
    host: Option<String>,
    /// Only of this run
    #[arg(long)]
    run: Option<i64>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl DeploymentsArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        let query = [
            ("app", self.app),
            ("environment", self.environment),
            ("status", self.status),
            ("since", self.since),
            ("host", self.host),
            ("run", self.run.map(|run| run.to_string())),
            ("limit", Some(self.limit.to_string())),
        ];
        let found = client.list(DEPLOYMENTS.path, &query).await?;
        DEPLOYMENTS.show(&found, self.json, screen)
    }
}

#[derive(Args, Debug)]
#[command(
    after_help = "Users and their roles stand in siskin.yaml; `siskin token create --user NAME` makes a token for one."
)]
pub(super) struct UserArgs {
    /// What to do; `list` is all there is
    #[arg(value_parser = ["list"], default_value = "list")]
    verb: String,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl UserArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        let client = Client::find(&self.server)?;
        let found = client.list(USERS.path, &[]).await?;
        USERS.show(&found, self.json, screen)
    }
}

impl List {
    fn show(&self, found: &Value, as_json: bool, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        if as_json {
            screen.json(found)?;
            return Ok(ExitCode::SUCCESS);
        }
        let headings: Vec<&str> = self.columns.iter().map(|(heading, _)| *heading).collect();
        let items = found["items"].as_array().cloned().unwrap_or_default();
        let row =
            |item: &Value| self.columns.iter().map(|(_, field)| screen.status(&cell(item, field))).collect();
        let rows = items.iter().map(row).collect();
        screen.table(&headings, rows, "none")?;
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) fn cell(item: &Value, field: &str) -> String {
    let value = field.split('.').fold(item, |value, name| &value[name]);
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}
