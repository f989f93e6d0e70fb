//! `siskin serve`: runs the server until it is asked to stop.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tracing_subscriber::EnvFilter;

use crate::server::{self, ServeOptions};

/// What `siskin serve` was asked.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "The first start writes DATA/admin.token (only you can read it); DATA/server.json says where the server is.\nThe definitions are watched: a file that you save is in force at once, unless it has a mistake.\nSISKIN_LOG says how much is logged: warn, info (the default), debug, or `siskin::engine=debug`.\n\nExamples:\n  siskin serve                                      the site in this folder, data in ./data\n  siskin serve --site site --data /var/lib/siskin --listen 0.0.0.0:8640"
)]
pub struct ServeArgs {
    /// The folder of definitions: siskin.yaml, packs/, rules/, workflows/, apps/
    #[arg(long, value_name = "DIR", env = "SISKIN_SITE", default_value = ".")]
    pub site: PathBuf,
    /// Where events, runs, secrets and the tokens are kept
    #[arg(long, value_name = "DIR", env = "SISKIN_DATA", default_value = "data")]
    pub data: PathBuf,
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", env = "SISKIN_LISTEN", default_value = "127.0.0.1:8640")]
    pub listen: String,
    /// Log lines of JSON
    #[arg(long)]
    pub log_json: bool,
}

impl ServeArgs {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        log_to_stderr(self.log_json);
        server::serve(self.into()).await?;
        Ok(ExitCode::SUCCESS)
    }
}

impl From<ServeArgs> for ServeOptions {
    fn from(args: ServeArgs) -> ServeOptions {
        ServeOptions { site: args.site, data: args.data, listen: args.listen }
    }
}

fn log_to_stderr(as_json: bool) {
    // What SISKIN_LOG says and nobody understands counts as not said.
    let filter = EnvFilter::try_from_env("SISKIN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let ansi =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A second server in one process logs to where the first does.
    match as_json {
        true => log.json().try_init().ok(),
        false => log.with_ansi(ansi).with_target(false).try_init().ok(),
    };
}
