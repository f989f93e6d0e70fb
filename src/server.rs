//! The composition root: builds the parts, hands each what it needs, starts every task, and stops them in reverse order.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api;
use crate::auth::Auth;
use crate::clock::Clock;
use crate::definitions::Files;
use crate::dispatch::local;
use crate::engine::{Change, Engine, Loaded, Parts, last_in_force};
use crate::process;
use crate::secrets::Secrets;
use crate::site;
use crate::store::Store;
use crate::worker::{Worker, Workspaces};

/// How often the folder of definitions is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// How long open connections get to end when the server stops.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How long what an earlier server started gets to end.
const LEFTOVERS: Duration = Duration::from_secs(30);

/// What `siskin serve` was asked.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The folder of definitions.
    pub site: PathBuf,
    /// Where everything is kept.
    pub data: PathBuf,
    /// `ADDRESS:PORT`; port 0 takes a free one.
    pub listen: String,
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// One line that says what to do: the port is taken, the data directory can't be used, its data is of a newer version.
pub async fn serve(options: ServeOptions) -> anyhow::Result<()> {
    let data = open_data_directory(&options.data)?;
    let _lock = lock_data_directory(&data)?;
    let listener = listen(&options.listen).await?;
    let address = listener.local_addr()?;
    let clock = Clock::wall();
    let store = Store::open(&data.join("siskin.db"), clock.now()).await?;
    let secrets = Secrets::open(&data, store.clone()).await?;
    let auth = Auth::open(&data, store.clone(), clock.now()).await?;
    let files = site::read(&options.site)?;
    let good = last_in_force(&store).await?;
    let loaded = Loaded::from_files(&files, good.as_ref(), &store, clock.now()).await?;
    report_mistakes(&loaded);
    let public_url =
        loaded.definitions.site.public_url.clone().unwrap_or_else(|| format!("http://{address}"));
    end_what_was_left(&data).await?;
    let (server_end, worker_end) = local::pair();
    let engine = Engine::new(Parts {
        store: store.clone(),
        secrets,
        clock: clock.clone(),
        public_url,
        boot: random_name()?,
        orders: server_end.orders,
        loaded,
    });
    let worker = Worker::new(worker_end, &data, Worker::default_slots());
    let workspaces = worker.workspaces();
    remove_old_workspaces(&engine, &workspaces).await;
    let (stop_intake, stop_worker) = (CancellationToken::new(), CancellationToken::new());
    let (tasks, workers) = (TaskTracker::new(), TaskTracker::new());
    workers.spawn(worker.run(stop_worker.clone()));
    tasks.spawn(clean_up(Arc::clone(&engine), workspaces, stop_intake.clone()));
    engine.run_tasks(&tasks, server_end.reports, stop_intake.clone()).await?;
    tasks.spawn(watch_site(Arc::clone(&engine), options.site.clone(), files, stop_intake.clone()));

    let router = api::router(Arc::clone(&engine), Arc::new(auth), stop_intake.clone());
    let server_json = announce(&data, address)?;
    tracing::info!("listening on http://{address}, site {}, data {}", options.site.display(), data.display());
    serve_until_asked(listener, router, &stop_intake).await?;

    // In reverse: nobody comes in, nothing new is routed, workers end what they do, their last words are stored.
    fs::remove_file(&server_json).ok();
    stop_intake.cancel();
    stop_worker.cancel();
    workers.close();
    workers.wait().await;
    tasks.close();
    if tokio::time::timeout(STOP_GRACE, tasks.wait()).await.is_err() {
        tracing::warn!("some tasks did not end in time; what they did is in the store");
    }
    store.close().await;
    tracing::info!("stopped");
    Ok(())
}

async fn listen(address: &str) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!("{address} is taken by another program; stop it, or choose another address with --listen")
        }
        Err(error) => bail!("can't listen on {address} ({error}); choose another address with --listen"),
    }
}

async fn serve_until_asked(
    listener: TcpListener,
    router: axum::Router,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let asked = CancellationToken::new();
    let closing = asked.clone();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let serving =
        async move { axum::serve(listener, service).with_graceful_shutdown(closing.cancelled_owned()).await };
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return Ok(ended?),
        _ = interrupt.recv() => (),
        _ = terminate.recv() => (),
    }
    tracing::info!("stopping");
    asked.cancel();
    stop.cancel(); // Followers of logs and streams end with it.
    match tokio::time::timeout(STOP_GRACE, &mut serving).await {
        Ok(ended) => Ok(ended?),
        Err(_) => Ok(()), // Connections that won't end are closed with the process.
    }
}

/// Removes the workspaces of runs that end.
async fn clean_up(engine: Arc<Engine>, workspaces: Workspaces, stop: CancellationToken) {
    let mut changes = engine.changes();
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            () = stop.cancelled() => return,
        };
        match change {
            Ok(Change::RunEnded(run)) => workspaces.remove(run).await,
            Ok(_) => (),
            // Some ends were missed: look at all.
            Err(RecvError::Lagged(_)) => remove_old_workspaces(&engine, &workspaces).await,
            Err(RecvError::Closed) => return,
        }
    }
}

/// Removes what runs left behind whose end nobody here has seen.
async fn remove_old_workspaces(engine: &Engine, workspaces: &Workspaces) {
    // In this order: what begins after the first question is younger than its answer.
    let (newest, open) = match (engine.newest_run().await, engine.open_runs().await) {
        (Ok(newest), Ok(open)) => (newest, open),
        (Err(error), _) | (_, Err(error)) => return tracing::warn!(%error, "workspaces can't be cleaned up"),
    };
    workspaces.keep_only(&open, newest);
}

/// Takes changed definitions in: those without a mistake at once, of the others the last good version stays.
async fn watch_site(engine: Arc<Engine>, folder: PathBuf, mut known: Files, stop: CancellationToken) {
    let mut told = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => (),
            () = stop.cancelled() => return,
        }
        let path = folder.clone();
        let read = tokio::task::spawn_blocking(move || site::read(&path)).await;
        let files = match read {
            Ok(Ok(files)) => {
                told = None;
                if files == known {
                    continue;
                }
                files
            }
            Err(_) => continue,
            Ok(Err(error)) => {
                let why = Some(error.to_string());
                if told != why {
                    tracing::warn!(%error, "the definitions can't be read; the last good ones stay in force");
                    told = why;
                }
                continue;
            }
        };
        let good = engine.files();
        match Loaded::from_files(&files, Some(&good), engine.store(), engine.clock().now()).await {
            Ok(loaded) => {
                tracing::info!(revision = %loaded.definitions.revision, "definitions loaded");
                report_mistakes(&loaded);
                engine.put_in_force(loaded);
                known = files;
            }
            Err(error) => tracing::error!(%error, "changed definitions can't be stored; trying again"),
        }
    }
}

fn report_mistakes(loaded: &Loaded) {
    for mistake in loaded.mistakes.iter() {
        tracing::warn!("{}: {}", mistake.place, mistake.message);
    }
}

fn open_data_directory(path: &Path) -> anyhow::Result<PathBuf> {
    let advice =
        || format!("the data directory {} can't be used; choose another with --data", path.display());
    if !path.is_dir() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(advice)?;
    }
    tempfile::tempfile_in(path).with_context(advice)?;
    path.canonicalize().with_context(advice)
}

/// One server per data directory. The lock goes with the process, however it ends.
fn lock_data_directory(data: &Path) -> anyhow::Result<Flock<File>> {
    let path = data.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("{} can't be opened", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0)?;
            lock.rewind()?;
            write!(lock, "{}", std::process::id())?;
            Ok(lock)
        }
        Err((mut file, _)) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).ok();
            bail!(
                "another siskin (process {}) uses {}; stop it, or choose another directory with --data",
                pid.trim(),
                data.display()
            )
        }
    }
}

/// Before any attempt of an earlier server is called lost, or begins again, nothing of it is alive.
async fn end_what_was_left(data: &Path) -> anyhow::Result<()> {
    let path = data.join("processes.lock");
    process::set_family(path.clone());
    let advice = || format!("{} can't be locked; choose another directory with --data", path.display());
    let living = process::family::end(&path, LEFTOVERS).await.with_context(advice)?;
    if !living.is_empty() {
        tracing::warn!("processes of an earlier server can't be ended: {}", living.join(", "));
    }
    Ok(())
}

/// Says where the server is, for the command line on this machine.
fn announce(data: &Path, address: SocketAddr) -> anyhow::Result<PathBuf> {
    let path = data.join("server.json");
    // Who listens everywhere is reached by loopback.
    let host = if address.ip().is_unspecified() { "127.0.0.1".to_owned() } else { host_of(address) };
    let text = serde_json::json!({
        "url": format!("http://{host}:{}", address.port()),
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    let mut file = tempfile::NamedTempFile::new_in(data)?;
    writeln!(file, "{text}")?;
    file.persist(&path).with_context(|| format!("{} can't be written", path.display()))?;
    Ok(path)
}

fn host_of(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    }
}

fn random_name() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow::anyhow!("the system gives no randomness: {error}"))?;
    Ok(hex::encode(bytes))
}
