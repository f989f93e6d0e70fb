//! `siskin worker`: does work for a server that is elsewhere.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::serve::{label, log_to_stderr};
use crate::amqp::Address;
use crate::model::{DEFAULT_POOL, Span};
use crate::server::{self, WorkOptions};

/// What `siskin worker` was asked.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "The worker needs the broker and nothing else: no database, no connection to the server. It takes the attempts of its pools\n(`worker: {pool: gpu}` of a step; `default` when a step says nothing), and those whose labels it has (`worker: {labels: {arch: arm}}`).\nSecrets come sealed to the attempt that needs them. Say a broker with a password by SISKIN_BROKER: arguments are seen by everybody on the machine.\n\nSIGTERM lets it finish what it does and take nothing new; a second one ends it at once.\nIts name lies in DATA/worker.id, and the workspaces of runs below DATA/workspaces: two workers never share a data directory.\n\nExamples:\n  SISKIN_BROKER=amqp://siskin:PASSWORD@broker/siskin siskin worker --data /var/lib/siskin-worker\n  siskin worker --pool default --pool gpu --label arch=arm --slots 4\n\nWith docker:  siskin worker --data /work     and the volume /work, so that its name and workspaces stay."
)]
pub(super) struct WorkerArgs {
    /// The RabbitMQ broker: amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps://
    #[arg(long, value_name = "URL", env = "SISKIN_BROKER", hide_env_values = true)]
    pub(super) broker: Address,
    /// A pool to take from; may be given again
    #[arg(long = "pool", value_name = "NAME", env = "SISKIN_POOLS", value_delimiter = ',', default_value = DEFAULT_POOL)]
    pub(super) pools: Vec<String>,
    /// What steps may ask for with `worker: {labels: ..}`; may be given again
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label, env = "SISKIN_LABELS", value_delimiter = ',')]
    pub(super) labels: Vec<(String, String)>,
    /// How many attempts it does at once; twice the number of cores when not said, eight at least
    #[arg(long, value_name = "N", env = "SISKIN_SLOTS", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) slots: Option<u16>,
    /// Where it keeps its name and the workspaces of runs
    #[arg(long, value_name = "DIR", env = "SISKIN_DATA", default_value = "worker-data")]
    pub(super) data: PathBuf,
    /// How long what it does may take to finish after SIGTERM
    #[arg(long, value_name = "TIME", env = "SISKIN_DRAIN", default_value = "10m")]
    pub(super) drain: Span,
    /// How long it may go on without the broker before it ends what it does; as long as the servers' own
    #[arg(long, value_name = "TIME", env = "SISKIN_LEASE", default_value = "30s", hide = true)]
    pub(super) lease: Span,
    /// Log lines of JSON
    #[arg(long)]
    pub(super) log_json: bool,
}

impl WorkerArgs {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        log_to_stderr(self.log_json);
        server::work(WorkOptions {
            broker: self.broker,
            pools: self.pools,
            labels: self.labels.into_iter().collect(),
            slots: self.slots.map(usize::from),
            data: self.data,
            drain: self.drain,
            lease: self.lease,
        })
        .await?;
        Ok(ExitCode::SUCCESS)
    }
}
