//! `siskin serve`: runs the server until it is asked to stop.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::Usage;
use crate::amqp::Address;
use crate::model::Span;
use crate::server::{self, ServeOptions};

/// What `siskin serve` was asked.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "The first start writes DATA/admin.token (only you can read it); DATA/server.json says where the server is.\nThe definitions are watched: a file that you save is in force at once, unless it has a mistake.\nSISKIN_LOG says how much is logged: warn, info (the default), debug, or `siskin::engine=debug`.\n\nExamples:\n  siskin serve                                      the site in this folder, data in ./data\n  siskin serve --site site --data /var/lib/siskin --listen 0.0.0.0:8640\n  SISKIN_BROKER=amqp://siskin:PASSWORD@broker siskin serve --roles api,sources,engine\n                                                    ... and as many `siskin worker` as you like"
)]
pub struct ServeArgs {
    /// The folder of definitions: siskin.yaml, packs/, rules/, workflows/, apps/
    #[arg(long, value_name = "DIR", env = "SISKIN_SITE", default_value = ".")]
    pub site: PathBuf,
    /// Where events, runs, secrets and the tokens are kept
    #[arg(long, value_name = "DIR", env = "SISKIN_DATA", default_value = "data")]
    pub data: PathBuf,
    /// The PostgreSQL database to keep it in instead, which several servers may share: postgres://USER:PASSWORD@HOST:PORT/NAME
    #[arg(long, value_name = "URL", env = "SISKIN_DATABASE", hide_env_values = true)]
    pub database: Option<String>,
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", env = "SISKIN_LISTEN", default_value = "127.0.0.1:8640")]
    pub listen: String,
    /// The RabbitMQ broker that `siskin worker` processes are at; without one this process does all work
    #[arg(long, value_name = "URL", env = "SISKIN_BROKER", hide_env_values = true)]
    pub broker: Option<Address>,
    /// What this process does, of api,sources,engine,worker; only `worker` can be left out, and only with a broker
    #[arg(
        long,
        value_name = "ROLES",
        env = "SISKIN_ROLES",
        default_value = "api,sources,engine,worker",
        value_delimiter = ','
    )]
    pub roles: Vec<Role>,
    /// A label of this process's own worker; may be given again
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// How long a worker may be silent before what it does counts as lost
    #[arg(long, value_name = "TIME", env = "SISKIN_LEASE", default_value = "30s", hide = true)]
    pub lease: Span,
    /// Log lines of JSON
    #[arg(long)]
    pub log_json: bool,
}

/// A part of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    Api,
    Sources,
    Engine,
    Worker,
}

/// A label as it is given: `gpu=yes`.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE, for example gpu=yes".to_owned()),
    }
}

impl ServeArgs {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        log_to_stderr(self.log_json);
        self.check_roles()?;
        server::serve(self.into()).await?;
        Ok(ExitCode::SUCCESS)
    }

    fn check_roles(&self) -> Result<(), Usage> {
        let has = |role| self.roles.contains(&role);
        if !(has(Role::Api) && has(Role::Sources) && has(Role::Engine)) {
            let why = "api, sources and engine go together; what does nothing but work is `siskin worker`";
            return Err(Usage(format!("--roles: {why}")));
        }
        if !has(Role::Worker) && self.broker.is_none() {
            let why = "without the role worker nobody does any work; add it, or say where workers are with --broker";
            return Err(Usage(format!("--roles: {why}")));
        }
        Ok(())
    }
}

impl From<ServeArgs> for ServeOptions {
    fn from(args: ServeArgs) -> ServeOptions {
        ServeOptions {
            site: args.site,
            data: args.data,
            database: args.database,
            listen: args.listen,
            broker: args.broker,
            works: args.roles.contains(&Role::Worker),
            labels: args.labels.into_iter().collect(),
            lease: args.lease,
        }
    }
}

pub(super) fn log_to_stderr(as_json: bool) {
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
