//! The composition root: builds the parts, hands each what it needs, starts every task, and stops them in reverse order.

mod worker;

use std::collections::BTreeMap;
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

use crate::amqp::Address;
use crate::api;
use crate::auth::Auth;
use crate::clock::Clock;
use crate::definitions::Files;
use crate::engine::{Change, Engine, Loaded, Parts, last_in_force};
use crate::model::Span;
use crate::process;
use crate::repositories::{self, Repositories};
use crate::secrets::Secrets;
use crate::site::{self, Look, SiteError};
use crate::sources::Sources;
use crate::store::{Artefacts, Beat, Location, NewNode, Store};
use crate::worker::Workspaces;

pub use worker::{WorkOptions, work};

/// How often the folder of definitions is looked at. A change is taken in when two looks were alike: files that are just being written, and
/// many that change together, are taken in whole.
const WATCH_EVERY: Duration = Duration::from_millis(200);
/// Looking takes a tenth of the time at most: a folder of very many files is looked at less often, but at least so often.
const WATCH_SHARE: u32 = 10;
const WATCH_AT_LEAST: Duration = Duration::from_secs(2);
/// A folder that never comes to rest is taken in after so many looks all the same.
const RESTLESS: u32 = 4;
/// After so many looks it is read, whatever it looks like: not every file system says when a file was changed.
const READ_ANYWAY: u32 = 150;
/// How long open connections get to end when the server stops.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How long to wait for the server that holds the definitions to store them, and how often to look.
const FIRST_DEFINITIONS: Duration = Duration::from_secs(30);
const LOOK_FOR_DEFINITIONS: Duration = Duration::from_millis(200);
/// How often definitions of other servers are looked for, in case nobody told.
const FOLLOW_EVERY: Duration = Duration::from_secs(5);
/// Who holds this lease stores the definitions of its folder; the others follow.
const DEFINITIONS: &str = "definitions";

/// How often, and how long each time, a lock is waited for whose process is gone.
const LOCK_WAITS: u32 = 250;
const LOCK_WAIT: Duration = Duration::from_millis(20);
/// How long what an earlier server started gets to end.
const LEFTOVERS: Duration = Duration::from_secs(30);

/// What `siskin serve` was asked.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The folder of definitions.
    pub site: PathBuf,
    /// Where everything is kept that is this server's own, and, without `database`, all the rest.
    pub data: PathBuf,
    /// The URL of the PostgreSQL database that it shares with others.
    pub database: Option<String>,
    /// `ADDRESS:PORT`; port 0 takes a free one.
    pub listen: String,
    /// Where other workers are. Without one, the worker of this process does everything.
    pub broker: Option<Address>,
    /// Whether this process works, too.
    pub works: bool,
    /// The labels of this process's worker.
    pub labels: BTreeMap<String, String>,
    /// How long a worker behind the broker may be silent.
    pub lease: Span,
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
    let location = match &options.database {
        Some(url) => Location::url(url)?,
        None => Location::file(data.join("siskin.db")),
    };
    let store = Store::open(&location, clock.now()).await?;
    let secrets = Secrets::open(&data, store.clone()).await?;
    let auth = Auth::open(&data, store.clone(), clock.now()).await?;
    let files = site::read(&options.site)?;
    let node = NewNode { boot: random_name()?, place: place(&data)?, address: address.to_string() };
    // Before this start takes the place of the one before, nothing of that is alive.
    end_what_was_left(&data).await?;
    let loaded = first_definitions(&store, &node, &files, &clock).await?;
    let public_url =
        loaded.definitions.site.public_url.clone().unwrap_or_else(|| format!("http://{address}"));
    let crew = worker::Crew::of(&options, &data, &node.boot)?;
    let engine = Engine::new(Parts {
        store: store.clone(),
        artefacts: match store.is_shared() {
            true => Artefacts::in_database(store.clone()),
            false => Artefacts::in_folder(store.clone(), data.join("artefacts")),
        },
        secrets,
        clock: clock.clone(),
        public_url,
        node,
        orders: crew.orders.clone(),
        workers: crew.workers.clone(),
        loaded,
    });
    let workspaces = Workspaces::new(&data);
    remove_old_workspaces(&engine, &workspaces, true).await;
    let (stop_intake, stop_worker) = (CancellationToken::new(), CancellationToken::new());
    let (tasks, workers) = (TaskTracker::new(), TaskTracker::new());
    let (stop_beating, beating) = (CancellationToken::new(), TaskTracker::new());
    beating.spawn(Arc::clone(&engine).live_among_others(stop_beating.clone()));
    tasks.spawn(clean_up(Arc::clone(&engine), workspaces, stop_intake.clone()));
    let stop_link = CancellationToken::new();
    let reports = crew.start(&engine, &tasks, &workers, &stop_worker, &stop_link);
    engine.run_tasks(&tasks, reports, stop_intake.clone()).await?;
    let watch = SiteWatch::new(options.site.clone(), files);
    tasks.spawn(watch.run(Arc::clone(&engine), stop_intake.clone()));

    let sources = Sources::new(Arc::clone(&engine));
    tasks.spawn(Arc::clone(&sources).run(stop_intake.clone()));

    let repositories = Repositories::new(Arc::clone(&engine), &data);
    tasks.spawn(repositories::keep_valid(repositories.clone(), stop_intake.clone()));

    let router = api::router(Arc::clone(&engine), Arc::new(auth), sources, stop_intake.clone())
        .merge(repositories::router(repositories));
    let server_json = announce(&data, address)?;
    tracing::info!("listening on http://{address}, site {}, data {}", options.site.display(), data.display());
    serve_until_asked(listener, router, &stop_intake).await?;

    // In reverse: nobody comes in, nothing new is routed, workers end what they do, their last words are stored.
    fs::remove_file(&server_json).ok();
    stop_intake.cancel();
    stop_worker.cancel();
    workers.close();
    workers.wait().await;
    stop_link.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_GRACE, tasks.wait()).await.is_err() {
        tracing::warn!("some tasks did not end in time; what they did is in the store");
    }
    // Last: what is left now is for the other servers.
    stop_beating.cancel();
    beating.close();
    beating.wait().await;
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
            Ok(Change::RunEnded(run)) => {
                workspaces.remove(run).await;
                engine.tell_run_ended(run).await;
            }
            Ok(Change::Everything) => remove_old_workspaces(&engine, &workspaces, false).await,
            Ok(_) => (),
            // Some ends were missed: look at all.
            Err(RecvError::Lagged(_)) => remove_old_workspaces(&engine, &workspaces, false).await,
            Err(RecvError::Closed) => return,
        }
    }
}

/// Removes what runs left behind whose end nobody here has seen.
async fn remove_old_workspaces(engine: &Engine, workspaces: &Workspaces, at_start: bool) {
    // In this order: what begins after the first question is younger than its answer.
    let (newest, open) = match (engine.newest_run().await, engine.open_runs().await) {
        (Ok(newest), Ok(open)) => (newest, open),
        (Err(error), _) | (_, Err(error)) => return tracing::warn!(%error, "workspaces can't be cleaned up"),
    };
    match at_start {
        true => workspaces.keep_only(&open, newest),
        false => workspaces.remove_ended(&open, newest),
    }
}

/// The definitions to begin with: those of this server's folder, or, when another server on the same database has the say, the newest in the store.
async fn first_definitions(
    store: &Store,
    node: &NewNode,
    files: &Files,
    clock: &Clock,
) -> anyhow::Result<Loaded> {
    store.join(node.clone()).await?;
    let end = tokio::time::Instant::now() + FIRST_DEFINITIONS;
    loop {
        let has_the_say = !store.is_shared() || {
            let beat = store.beat(&node.boot, vec![DEFINITIONS.to_owned()]).await?;
            matches!(beat, Beat::Alive { held, .. } if held.iter().any(|name| name == DEFINITIONS))
        };
        if has_the_say {
            let good = last_in_force(store).await?;
            let loaded = Loaded::from_files(files, good.as_ref(), store, clock.now()).await?;
            report_mistakes(&loaded);
            return Ok(loaded);
        }
        if let Some(loaded) = Loaded::newest(store).await? {
            tracing::info!("another server has the say about definitions; its newest are in force");
            return Ok(loaded);
        }
        if tokio::time::Instant::now() > end {
            bail!("another server holds the definitions and does not store them; look at its log");
        }
        tokio::time::sleep(LOOK_FOR_DEFINITIONS).await;
    }
}

/// Takes changed definitions in: those without a mistake at once, of the others the last good version stays.
struct SiteWatch {
    folder: PathBuf,
    /// As the folder was when it was last read.
    known: Files,
    /// As it looked then, when it was at rest.
    read: Option<Look>,
    /// As it looked last.
    last: Option<Look>,
    /// So many looks ago it was read, or changed first.
    looks: u32,
    restless: u32,
    /// How long till the next look.
    pause: Duration,
    /// It changed since its definitions were stored.
    changed: bool,
    /// Why it can't be read, as it was last said.
    told: Option<String>,
}

impl SiteWatch {
    fn new(folder: PathBuf, known: Files) -> SiteWatch {
        SiteWatch {
            folder,
            known,
            read: None,
            last: None,
            looks: 0,
            restless: 0,
            pause: WATCH_EVERY,
            changed: false,
            told: None,
        }
    }

    async fn run(mut self, engine: Arc<Engine>, stop: CancellationToken) {
        engine.want_lease(DEFINITIONS);
        let mut followed = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.pause) => (),
                () = stop.cancelled() => break,
            }
            self.look(&engine).await;
            if engine.has_lease(DEFINITIONS) {
                if self.changed {
                    self.take_in(&engine).await;
                }
            } else if followed.elapsed() > FOLLOW_EVERY {
                followed = tokio::time::Instant::now();
                if let Err(error) = engine.follow_definitions().await {
                    tracing::debug!(%error, "definitions of other servers can't be looked for");
                }
            }
        }
        engine.give_lease_back(DEFINITIONS);
    }

    async fn look(&mut self, engine: &Engine) {
        let (path, began) = (self.folder.clone(), tokio::time::Instant::now());
        let Ok(look) = tokio::task::spawn_blocking(move || site::look(&path)).await else { return };
        self.pause = (began.elapsed() * WATCH_SHARE).clamp(WATCH_EVERY, WATCH_AT_LEAST);
        match look {
            Ok(look) => {
                if self.is_to_be_read(look) {
                    self.read(engine).await;
                }
            }
            Err(error) => self.tell(&error, engine),
        }
    }

    /// Whether the folder changed and came to rest.
    fn is_to_be_read(&mut self, look: Look) -> bool {
        self.looks += 1;
        let is_at_rest = self.last.as_ref() == Some(&look);
        let has_changed = self.read.as_ref() != Some(&look) || self.told.is_some();
        self.restless = if has_changed && !is_at_rest { self.restless + 1 } else { 0 };
        let now = match (has_changed, is_at_rest) {
            (true, true) => true,
            (true, false) => self.restless >= RESTLESS,
            (false, _) => self.looks >= READ_ANYWAY,
        };
        if now {
            (self.looks, self.restless) = (0, 0);
            // What never rests may have changed again before it is read.
            self.read = is_at_rest.then(|| look.clone());
        }
        self.last = Some(look);
        now
    }

    async fn read(&mut self, engine: &Engine) {
        let path = self.folder.clone();
        let Ok(read) = tokio::task::spawn_blocking(move || site::read(&path)).await else { return };
        match read {
            Ok(files) => {
                if self.told.take().is_some() {
                    tracing::info!("the definitions can be read again");
                    engine.site_is_unreadable(None);
                }
                if files != self.known {
                    self.known = files;
                    self.changed = true;
                }
            }
            Err(error) => self.tell(&error, engine),
        }
    }

    fn tell(&mut self, error: &SiteError, engine: &Engine) {
        let why = Some(error.to_string());
        self.read = None;
        if self.told != why {
            tracing::warn!(%error, "the definitions can't be read; the last good ones stay in force");
            engine.site_is_unreadable(why.clone());
            self.told = why;
        }
    }

    async fn take_in(&mut self, engine: &Engine) {
        let good = engine.files();
        match Loaded::from_files(&self.known, Some(&good), engine.store(), engine.clock().now()).await {
            Ok(loaded) => {
                tracing::info!(revision = %loaded.definitions.revision, "definitions loaded");
                report_mistakes(&loaded);
                engine.put_in_force(loaded);
                self.changed = false;
            }
            Err(error) => tracing::error!(%error, "changed definitions can't be stored; trying again"),
        }
    }
}

fn report_mistakes(loaded: &Loaded) {
    for mistake in loaded.mistakes.iter() {
        tracing::warn!("{}: {}", mistake.place, mistake.message);
    }
    if !loaded.kept.is_empty() {
        tracing::warn!("the last good version stays in force of {}", loaded.kept.join(", "));
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

/// One server per data directory. The lock goes with the process, however it ends; but what a killed server was just about to start has it until
/// it is started, so a lock whose process is gone is waited for.
fn lock_data_directory(data: &Path) -> anyhow::Result<Flock<File>> {
    let path = data.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
    let mut file = file.with_context(|| format!("{} can't be opened", path.display()))?;
    let mut waits = 0;
    loop {
        let holder = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                lock.set_len(0)?;
                lock.rewind()?;
                write!(lock, "{}", std::process::id())?;
                return Ok(lock);
            }
            Err((held, _)) => {
                file = held;
                let mut pid = String::new();
                file.rewind()?;
                file.read_to_string(&mut pid).ok();
                pid.trim().to_owned()
            }
        };
        let is_gone = !holder.is_empty() && !Path::new("/proc").join(&holder).exists();
        if !is_gone || waits == LOCK_WAITS {
            bail!(
                "another siskin (process {holder}) uses {}; stop it, or choose another directory with --data",
                data.display()
            )
        }
        waits += 1;
        std::thread::sleep(LOCK_WAIT);
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

/// Names this data directory, for the servers that share a database.
fn place(data: &Path) -> anyhow::Result<String> {
    let path = data.join("node");
    match fs::read_to_string(&path) {
        Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
        Ok(_) => (),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => bail!("{} can't be read ({error})", path.display()),
    }
    let name = random_name()?;
    let mut file = tempfile::NamedTempFile::new_in(data)?;
    writeln!(file, "{name}")?;
    file.persist(&path).with_context(|| format!("{} can't be written", path.display()))?;
    Ok(name)
}

fn random_name() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow::anyhow!("the system gives no randomness: {error}"))?;
    Ok(hex::encode(bytes))
}
