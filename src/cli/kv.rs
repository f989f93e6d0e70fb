//! `siskin kv`: keys and values that rules and workflows share.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::client::segment;
use super::screen::ago;
use super::{Client, Screen, ServerArgs};
use crate::model::{Span, Timestamp, Value};

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  siskin kv set freeze/shop true --ttl 2h\n  siskin kv get freeze/shop\n  siskin kv list --prefix freeze/"
)]
pub(super) struct KvArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print a key's value as JSON
    Get {
        key: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Set a key; a value that is JSON is taken as JSON, any other as text
    Set {
        key: String,
        value: String,
        /// Forget it after this time: 90s 15m 2h 3d
        #[arg(long, value_name = "DURATION")]
        ttl: Option<Span>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Delete a key
    Delete {
        key: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// List keys
    List {
        /// Only keys that begin with this
        #[arg(long)]
        prefix: Option<String>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
}

impl KvArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Get { key, server } => {
                let entry: Value = Client::find(&server)?.get(&path(&key)).await?;
                screen.json(&entry["value"])?;
            }
            Verb::Set { key, value, ttl, server } => {
                let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
                let mut body = json!({"value": value});
                if let Some(ttl) = ttl {
                    body["ttl"] = json!(ttl);
                }
                Client::find(&server)?.tell(Method::PUT, &path(&key), Some(&body)).await?;
            }
            Verb::Delete { key, server } => {
                Client::find(&server)?.tell(Method::DELETE, &path(&key), None).await?;
            }
            Verb::List { prefix, json, server } => {
                let client = Client::find(&server)?;
                let found =
                    client.list("/kv", &[("prefix", prefix), ("limit", Some("500".to_owned()))]).await?;
                if json {
                    screen.json(&found)?;
                    return Ok(ExitCode::SUCCESS);
                }
                let items = found["items"].as_array().cloned().unwrap_or_default();
                let rows = items.iter().map(|item| {
                    let at: Option<Timestamp> = item["updated_at"].as_str().and_then(|at| at.parse().ok());
                    let key = item["key"].as_str().unwrap_or_default().to_owned();
                    vec![key, item["version"].to_string(), ago(at, client.now()), item["value"].to_string()]
                });
                screen.table(&["KEY", "VERSION", "SET", "VALUE"], rows.collect(), "no keys")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Slashes in a key are slashes in the path.
fn path(key: &str) -> String {
    let segments: Vec<String> = key.split('/').map(segment).collect();
    format!("/kv/{}", segments.join("/"))
}
