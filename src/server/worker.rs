//! Who does the work: the worker of this process, and those behind a broker; and the process that is nothing but a worker.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{ServeOptions, end_what_was_left, lock_data_directory, open_data_directory, random_name};
use crate::amqp::Address;
use crate::dispatch::local::{self, WorkerEnd};
use crate::dispatch::rabbitmq::{Pools, ServerLink, WorkerLink, WorkerOptions};
use crate::dispatch::{Notice, Order, Report};
use crate::engine::{Engine, Workers};
use crate::model::{RunId, Span};
use crate::worker::{Worker, Workspaces};

/// How many orders, reports or notices may wait between the engine and the broker.
const CAPACITY: usize = 1024;
/// The longest name of a worker.
const LONGEST_ID: usize = 100;

/// Who does the work of a server.
pub(super) struct Crew {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) workers: Workers,
    reports: mpsc::Receiver<Report>,
    /// The worker of this process, and its own way to the broker.
    worker: Option<(Worker, Option<WorkerLink>)>,
    link: Option<(ServerLink, mpsc::Receiver<Notice>)>,
}

impl Crew {
    pub(super) fn of(options: &ServeOptions, data: &Path, boot: &str) -> anyhow::Result<Crew> {
        let Some(address) = &options.broker else {
            let (server_end, worker_end) = local::pair();
            return Ok(Crew {
                orders: server_end.orders,
                workers: Workers::InProcess { labels: options.labels.clone() },
                reports: server_end.reports,
                worker: Some((Worker::new(worker_end, data, Worker::default_slots()), None)),
                link: None,
            });
        };
        let (orders, their_orders) = mpsc::channel(CAPACITY);
        let (their_reports, reports) = mpsc::channel(CAPACITY);
        let (their_notices, notices) = mpsc::channel(CAPACITY);
        let link =
            ServerLink::new(address.clone(), boot.to_owned(), their_orders, their_reports, their_notices);
        let own = |()| own_worker(options, address, data);
        Ok(Crew {
            orders,
            workers: Workers::Behind { lease: options.lease },
            reports,
            worker: options.works.then_some(()).map(own).transpose()?,
            link: Some((link, notices)),
        })
    }

    /// Starts the workers and the way to them. `stop_link` is for when they have ended.
    pub(super) fn start(
        self,
        engine: &Arc<Engine>,
        tasks: &TaskTracker,
        workers: &TaskTracker,
        stop_worker: &CancellationToken,
        stop_link: &CancellationToken,
    ) -> mpsc::Receiver<Report> {
        if let Some((link, notices)) = self.link {
            tasks.spawn(link.run(stop_link.clone()));
            tasks.spawn(Arc::clone(engine).watch_workers(notices, stop_link.clone()));
        }
        if let Some((worker, link)) = self.worker {
            workers.spawn(worker.run(stop_worker.clone()));
            if let Some(link) = link {
                // When it stops it takes nothing new; it ends with its worker.
                workers.spawn(link.run(stop_worker.clone(), CancellationToken::new()));
            }
        }
        self.reports
    }
}

/// The worker of a server that has a broker works as all others do, and takes every pool.
fn own_worker(
    options: &ServeOptions,
    address: &Address,
    data: &Path,
) -> anyhow::Result<(Worker, Option<WorkerLink>)> {
    let slots = Worker::default_slots();
    let labels = options.labels.clone();
    let options = worker_options(address, Pools::All, labels, slots, options.lease, data)?;
    let (worker, link) = linked(options, data);
    Ok((worker, Some(link)))
}

fn worker_options(
    address: &Address,
    pools: Pools,
    labels: BTreeMap<String, String>,
    slots: usize,
    lease: Span,
    data: &Path,
) -> anyhow::Result<WorkerOptions> {
    let workspaces = Workspaces::new(data);
    Ok(WorkerOptions {
        address: address.clone(),
        id: worker_id(data)?,
        session: random_name()?,
        pools,
        labels,
        slots,
        lease: lease.duration(),
        kept: Arc::new(move || workspaces.runs()),
    })
}

fn linked(options: WorkerOptions, data: &Path) -> (Worker, WorkerLink) {
    let (slots, claimant) = (options.slots, options.claimant());
    let (link, end): (WorkerLink, WorkerEnd) = WorkerLink::new(options);
    (Worker::known_as(claimant, end, data, slots), link)
}

/// What `siskin worker` was asked.
#[derive(Clone, Debug)]
pub struct WorkOptions {
    pub broker: Address,
    pub pools: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// `None`: as many as fit the machine.
    pub slots: Option<usize>,
    pub data: PathBuf,
    pub drain: Span,
    pub lease: Span,
}

/// Works until SIGINT or SIGTERM; then finishes what it does, unless a second signal or the end of `drain` comes first.
///
/// # Errors
/// One line that says what to do: the data directory can't be used, or is used by another.
pub async fn work(options: WorkOptions) -> anyhow::Result<()> {
    let data = open_data_directory(&options.data)?;
    let _lock = lock_data_directory(&data)?;
    end_what_was_left(&data).await?;
    // What a killed worker left behind that belongs to no run; which runs have ended, servers say.
    Workspaces::new(&data).keep_only(&[], RunId(0));
    let slots = options.slots.unwrap_or_else(Worker::default_slots);
    let pools = Pools::Named(options.pools.clone());
    let known_as =
        worker_options(&options.broker, pools, options.labels.clone(), slots, options.lease, &data)?;
    let id = known_as.id.clone();
    let (worker, link) = linked(known_as, &data);
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (drain, drained, stop) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let tasks = TaskTracker::new();
    tasks.spawn(worker.impatient().run(stop.clone()));
    tasks.spawn(link.run(drain.clone(), drained.clone()));
    tasks.close();
    tracing::info!(
        "worker {id}: pools {}, {slots} slots, broker {}, data {}",
        options.pools.join(" "),
        options.broker,
        data.display()
    );
    tokio::select! {
        _ = interrupt.recv() => (),
        _ = terminate.recv() => (),
    }
    tracing::info!("stopping: takes nothing new, and has {} to finish what it does", options.drain);
    drain.cancel();
    tokio::select! {
        () = drained.cancelled() => (),
        () = tokio::time::sleep(options.drain.duration()) => tracing::warn!("time is up: ends what is left"),
        _ = interrupt.recv() => tracing::warn!("asked again: ends what is left"),
        _ = terminate.recv() => tracing::warn!("asked again: ends what is left"),
    }
    stop.cancel();
    tasks.wait().await;
    tracing::info!("stopped");
    Ok(())
}

/// The name of the worker of a data directory; made at the first start.
fn worker_id(data: &Path) -> anyhow::Result<String> {
    let path = data.join("worker.id");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let id = text.trim();
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if id.is_empty() || id.len() > LONGEST_ID || !id.chars().all(is_plain) {
                bail!("{} holds no name of a worker; correct or remove it", path.display());
            }
            return Ok(id.to_owned());
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
        Err(error) => bail!("{} can't be read: {error}", path.display()),
    }
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(50).collect();
    let unique: String = random_name()?.chars().take(6).collect();
    let id = if host.is_empty() { format!("worker-{unique}") } else { format!("{host}-{unique}") };
    let mut file = tempfile::NamedTempFile::new_in(data)?;
    writeln!(file, "{id}")?;
    file.persist(&path).with_context(|| format!("{} can't be written", path.display()))?;
    Ok(id)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_worker_keeps_its_name() {
        let data = tempfile::tempdir().unwrap();
        let id = worker_id(data.path()).unwrap();
        assert_eq!(worker_id(data.path()).unwrap(), id);
        assert_ne!(worker_id(tempfile::tempdir().unwrap().path()).unwrap(), id);
        fs::write(data.path().join("worker.id"), "no name at all\n").unwrap();
        assert!(worker_id(data.path()).unwrap_err().to_string().contains("worker.id"));
    }
}
