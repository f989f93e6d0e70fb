//! `siskin token`: who may talk to the server.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::screen::ago;
use super::{Client, Screen, ServerArgs};
use crate::model::{Timestamp, Value};

#[derive(Args, Debug)]
#[command(
    after_help = "A user's roles stand in siskin.yaml (`users: {alice: {roles: [release-managers]}}`); --role adds more to this token.\n\nExamples:\n  siskin token create --user alice --role release-managers\n  SISKIN_TOKEN=$(siskin token create --user alice) siskin approve 3\n  siskin token revoke 2"
)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a token and print it; it can't be shown again
    Create {
        /// Who talks with it
        #[arg(long, value_name = "NAME")]
        user: String,
        /// A role that it has beside those of its user
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// What it is for
        #[arg(long, value_name = "TEXT", default_value = "")]
        name: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// List tokens
    List {
        /// Print as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// End a token
    Revoke {
        id: i64,
        #[command(flatten)]
        server: ServerArgs,
    },
}

impl TokenArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Create { user, roles, name, json, server } => {
                let body = json!({"user": user, "roles": roles, "name": name});
                let made: Value = Client::find(&server)?.post("/tokens", &body).await?;
                match json {
                    true => screen.json(&made)?,
                    false => screen.line(made["token"].as_str().unwrap_or_default())?,
                }
            }
            Verb::Revoke { id, server } => {
                Client::find(&server)?.tell(reqwest::Method::DELETE, &format!("/tokens/{id}"), None).await?;
            }
            Verb::List { json, server } => {
                let client = Client::find(&server)?;
                let found = client.list("/tokens", &[]).await?;
                if json {
                    screen.json(&found)?;
                    return Ok(ExitCode::SUCCESS);
                }
                let items = found["items"].as_array().cloned().unwrap_or_default();
                let rows = items.iter().map(|token| row(token, &client)).collect();
                screen.table(
                    &["TOKEN", "USER", "ROLES", "NAME", "MADE", "LAST USED", ""],
                    rows,
                    "no tokens",
                )?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn row(token: &Value, client: &Client) -> Vec<String> {
    let text = |name: &str| token[name].as_str().unwrap_or_default().to_owned();
    let time = |name: &str| -> Option<Timestamp> { token[name].as_str().and_then(|at| at.parse().ok()) };
    let roles: Vec<&str> =
        token["roles"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    vec![
        token["id"].to_string(),
        text("user"),
        roles.join(", "),
        text("name"),
        ago(time("created_at"), client.now()),
        ago(time("last_used_at"), client.now()),
        if token["revoked_at"].is_null() { String::new() } else { "revoked".to_owned() },
    ]
}
