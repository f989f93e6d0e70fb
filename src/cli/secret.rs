//! `siskin secret`: a value comes from stdin, a prompt or a file, never from the arguments, which others can read.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use nix::sys::termios::{self, LocalFlags, SetArg, Termios};
use reqwest::Method;
use serde_json::json;

use super::client::segment;
use super::screen::ago;
use super::{Client, Screen, ServerArgs};
use crate::model::Timestamp;

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  siskin secret set github_webhook < secret.txt\n  siskin secret set deploy_key --from-file ~/.ssh/deploy\n  siskin secret set token              asks for it\n  siskin secret list"
)]
pub(super) struct SecretArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Set a secret; it is in force for the next request and attempt
    Set {
        name: String,
        /// Take the file's whole content [default: stdin, without its last line break]
        #[arg(long, value_name = "FILE")]
        from_file: Option<PathBuf>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// List the names
    List {
        /// Print as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Delete a secret
    Delete {
        name: String,
        #[command(flatten)]
        server: ServerArgs,
    },
}

impl SecretArgs {
    pub(super) async fn run(self, screen: &mut Screen) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Set { name, from_file, server } => {
                let client = Client::find(&server)?;
                let value = read(&name, from_file.as_deref())?;
                let path = format!("/secrets/{}", segment(&name));
                client.tell(Method::PUT, &path, Some(&json!({"value": value}))).await?;
            }
            Verb::Delete { name, server } => {
                let client = Client::find(&server)?;
                client.tell(Method::DELETE, &format!("/secrets/{}", segment(&name)), None).await?;
            }
            Verb::List { json, server } => {
                let client = Client::find(&server)?;
                let found = client.list("/secrets", &[]).await?;
                if json {
                    screen.json(&found)?;
                    return Ok(ExitCode::SUCCESS);
                }
                let items = found["items"].as_array().cloned().unwrap_or_default();
                let rows = items.iter().map(|item| {
                    let at: Option<Timestamp> = item["updated_at"].as_str().and_then(|at| at.parse().ok());
                    vec![item["name"].as_str().unwrap_or_default().to_owned(), ago(at, client.now())]
                });
                screen.table(&["SECRET", "SET"], rows.collect(), "no secrets")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn read(name: &str, file: Option<&Path>) -> anyhow::Result<String> {
    if let Some(file) = file {
        return std::fs::read_to_string(file).with_context(|| file.display().to_string());
    }
    let value = match std::io::stdin().is_terminal() {
        true => prompt(name)?,
        false => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("stdin")?;
            text
        }
    };
    let value = value.strip_suffix('\n').unwrap_or(&value);
    let value = value.strip_suffix('\r').unwrap_or(value);
    if value.is_empty() {
        bail!("the value is empty; give it on stdin, or with --from-file");
    }
    Ok(value.to_owned())
}

/// Asks on the terminal; nothing that is typed is shown.
fn prompt(name: &str) -> anyhow::Result<String> {
    eprint_now(&format!("{name}: "))?;
    let quiet = Quiet::begin();
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    drop(quiet);
    eprint_now("\n")?;
    read.context("stdin")?;
    Ok(line)
}

fn eprint_now(text: &str) -> std::io::Result<()> {
    let mut err = std::io::stderr();
    err.write_all(text.as_bytes())?;
    err.flush()
}

/// The terminal does not show what is typed while this lives.
struct Quiet(Option<Termios>);

impl Quiet {
    fn begin() -> Quiet {
        let stdin = std::io::stdin();
        let Ok(before) = termios::tcgetattr(&stdin) else { return Quiet(None) };
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        // Where the terminal can't be made quiet, what is typed shows.
        termios::tcsetattr(&stdin, SetArg::TCSAFLUSH, &quiet).ok();
        Quiet(Some(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            termios::tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, before).ok();
        }
    }
}
