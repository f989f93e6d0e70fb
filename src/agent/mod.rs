//! `siskin agent`: keeps the packages of the host that it is on at the versions that are advertised, so that a host that was down during a deployment
//! catches up by itself.
//!
//! Promises: it never works beside a roll (the host's lock; and it leaves a host to a roll that is at work in its environment), never goes to a lower version
//! unless that is said to be a way back, never touches what is held, and installs from signed repositories only. An installation that fails, or is not well
//! afterwards, is taken back, and not tried again at once. It survives everything around it being away, and its own death at any moment: what it was at is in
//! its state before it begins. What is to be done `decide.rs` says; where versions are told, `places.rs` knows.

mod decide;
mod places;
mod server;
mod state;

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::definitions::agent::{AgentApp, AgentFile};
use crate::definitions::{Files, Mistake};
use crate::delivery::here::{Check, Here, HereError, Standing};
use crate::delivery::host_lock;
use crate::model::{Span, Timestamp};
use crate::process::{self, Stream};

use decide::{Decision, Facts, Roll, decide};
use places::Place;
use server::Server;
use state::{Attempt, Failed, Kept, path_of};

pub use state::{Report, Status};

/// How long it waits for the host's lock before it looks again later.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// When to look again while a roll is at work here.
const SOON: Span = Span::seconds(5);
/// The server is told at least so often that a host stands as it stood.
const SIGN_OF_LIFE: Span = Span::hours(1);
/// How long what a killed agent started may take to end.
const LEFTOVERS: Duration = Duration::from_secs(30);

/// What `siskin agent` was asked.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: PathBuf,
    /// `/`: the machine itself.
    pub root: PathBuf,
    /// One look, then the end.
    pub once: bool,
    /// Says what it would do, and does nothing.
    pub dry_run: bool,
}

/// Its file has mistakes.
#[derive(Debug, thiserror::Error)]
#[error("{} mistakes", .mistakes.len())]
pub struct BadFile {
    pub mistakes: Vec<Mistake>,
    pub files: Files,
}

/// When it is to end: `stop` lets it finish what it installs, `abort` does not.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    pub stop: CancellationToken,
    pub abort: CancellationToken,
}

/// How it went with one app.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub app: String,
    pub report: Option<Report>,
    /// Why there is nothing to report.
    pub note: Option<String>,
    /// Nobody has to do anything about it.
    pub is_well: bool,
    /// When to look again, if earlier than usual.
    again: Option<Timestamp>,
}

/// Keeps the host until it is to end, or looks once. Gives how it went with each app at the last look.
///
/// # Errors
/// `BadFile`; what says what to do: a file can't be read, the state can't be written, another agent is at work here.
pub async fn run(options: &Options, clock: &Clock, ending: &Ending) -> anyhow::Result<Vec<Outcome>> {
    let folder = options.root.join(state::FOLDER);
    let mut agent = Agent::new(options, clock, ending)?;
    let _lock = match options.dry_run {
        true => None,
        false => {
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("{} can't be made; the agent runs as root", folder.display()))?;
            let lock = only_one(&folder.join("lock"))?;
            end_what_was_left(&folder).await?;
            Some(lock)
        }
    };
    loop {
        let outcomes = agent.look().await;
        if options.once || ending.stop.is_cancelled() {
            return Ok(outcomes);
        }
        let again = outcomes.iter().filter_map(|outcome| outcome.again).min();
        if agent.wait(again).await {
            return Ok(outcomes);
        }
        agent.read_again();
    }
}

fn only_one(path: &Path) -> anyhow::Result<Flock<File>> {
    let file = File::options().create(true).append(true).open(path);
    let file = file.with_context(|| format!("{} can't be written", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        anyhow::anyhow!(
            "another siskin agent is at work on this host: {} is locked ({errno})",
            path.display()
        )
    })
}

async fn end_what_was_left(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("processes.lock");
    process::set_family(path.clone());
    let living = process::family::end(&path, LEFTOVERS).await;
    let living = living.with_context(|| format!("{} can't be locked", path.display()))?;
    if !living.is_empty() {
        tracing::warn!("processes of an earlier agent can't be ended: {}", living.join(", "));
    }
    Ok(())
}

struct Agent<'a> {
    options: &'a Options,
    clock: &'a Clock,
    ending: &'a Ending,
    host: String,
    /// The file as it was read last, right or wrong.
    text: Vec<u8>,
    file: AgentFile,
    server: Option<Arc<Server>>,
    apps: Vec<App>,
    /// What a place told.
    changed: Arc<Notify>,
    watchers: JoinSet<()>,
    /// What was said of what, so that it is said once.
    said: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
struct App {
    told: AgentApp,
    place: Place,
    here: Here,
}

/// What is made of the file.
struct Parts {
    host: String,
    server: Option<Arc<Server>>,
    apps: Vec<App>,
}

fn parts(file: &AgentFile, root: &Path) -> anyhow::Result<Parts> {
    let server = file.server.as_ref().map(Server::new).transpose()?.map(Arc::new);
    let app = |told: &AgentApp| {
        let place = Place::of(&told.advertised, file, server.as_ref())?;
        let here = Here::new(root, told.source_list.as_deref())?;
        Ok(App { told: told.clone(), place, here })
    };
    let apps = file.apps.iter().map(app).collect::<anyhow::Result<_>>()?;
    let machine = || nix::unistd::gethostname().ok()?.into_string().ok();
    let host = file.host.clone().or_else(machine).context("this machine has no name; say `host`")?;
    Ok(Parts { host, server, apps })
}

fn file_of(path: &Path, text: &[u8]) -> Result<AgentFile, BadFile> {
    let mut files = Files::default();
    files.texts.insert(path.display().to_string(), text.into());
    AgentFile::read(&files).map_err(|mistakes| BadFile { mistakes, files })
}

impl<'a> Agent<'a> {
    fn new(options: &'a Options, clock: &'a Clock, ending: &'a Ending) -> anyhow::Result<Agent<'a>> {
        let text = std::fs::read(&options.config)
            .with_context(|| format!("{} can't be read", options.config.display()))?;
        let file = file_of(&options.config, &text)?;
        let Parts { host, server, apps } = parts(&file, &options.root)?;
        let mut agent = Agent {
            options,
            clock,
            ending,
            host,
            text,
            file,
            server,
            apps,
            changed: Arc::default(),
            watchers: JoinSet::new(),
            said: BTreeMap::new(),
        };
        agent.watch();
        Ok(agent)
    }

    fn watch(&mut self) {
        self.watchers = JoinSet::new();
        if self.options.once || self.options.dry_run {
            return;
        }
        for app in &self.apps {
            self.watchers.spawn(app.place.clone().watch(Arc::clone(&self.changed)));
        }
    }

    /// Takes the file as it is now, if it changed and is right.
    fn read_again(&mut self) {
        let path = &self.options.config;
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) => {
                return self
                    .say("file", format!("{} can't be read: {error}; what it said stays", path.display()));
            }
        };
        if text == self.text {
            return;
        }
        let made = file_of(path, &text).map_err(|bad| {
            let all: Vec<String> = bad.mistakes.iter().map(ToString::to_string).collect();
            all.join("; ")
        });
        self.text = text;
        let made = made.and_then(|file| {
            let parts = parts(&file, &self.options.root).map_err(|error| format!("{error:#}"))?;
            Ok((file, parts))
        });
        match made {
            Err(why) => self.say("file", format!("what the file said before stays: {why}")),
            Ok((file, Parts { host, server, apps })) => {
                tracing::info!("{} was read again", path.display());
                (self.file, self.host, self.server, self.apps) = (file, host, server, apps);
                self.said.clear();
                self.watch();
            }
        }
    }

    /// Waits for the next look; true when it is to end.
    async fn wait(&self, again: Option<Timestamp>) -> bool {
        let usual = self.clock.now().plus(self.file.every);
        let next = again.map_or(usual, |again| again.min(usual));
        tokio::select! {
            () = self.ending.stop.cancelled() => return true,
            () = self.clock.sleep_until(next) => return false,
            () = self.changed.notified() => {}
        }
        let jitter = self.file.jitter.0;
        let random = RandomState::new().build_hasher().finish();
        let pause = Duration::from_millis(random.checked_rem(jitter).unwrap_or(0));
        tokio::select! {
            () = self.ending.stop.cancelled() => true,
            () = tokio::time::sleep(pause) => false,
        }
    }

    async fn look(&mut self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for app in self.apps.clone() {
            if self.ending.stop.is_cancelled() {
                break;
            }
            outcomes.push(self.look_after(&app).await);
        }
        outcomes
    }

    async fn look_after(&mut self, app: &App) -> Outcome {
        let name = app.told.name.clone();
        let nothing = |note: String, is_well| Outcome {
            app: name.clone(),
            report: None,
            note: Some(note),
            is_well,
            again: None,
        };
        let wanted = match app.place.version().await {
            Err(why) => {
                self.say(&name, format!("{name} stays as it is: {why}"));
                return nothing(why, false);
            }
            Ok(None) => {
                let note = format!("nothing is advertised in {}", app.place.shown());
                self.say(&name, format!("{name} stays as it is: {note}"));
                return nothing(note, true);
            }
            Ok(Some(wanted)) => wanted,
        };
        self.well_again(&name);
        let path = path_of(&self.options.root, &name);
        let mut kept = Kept::read(&path);
        if kept.wanted.as_deref() != Some(&wanted) {
            kept.wanted = Some(wanted.clone());
            kept.wanted_since = Some(self.clock.now());
            kept.failed = None;
        }
        let turn = self.turn(app, &wanted, &mut kept, &path).await;
        let mut report = self.report(app, &wanted, &kept, &turn);
        let is_new = !kept.report.as_ref().is_some_and(|known| known.is_as(&report));
        if let Some(known) = kept.report.take().filter(|_| !is_new) {
            report = Report { since: known.since, late_by_seconds: known.late_by_seconds, ..report };
            let is_old = report.reported_at >= known.reported_at.plus(SIGN_OF_LIFE);
            kept.is_told &= !is_old;
            if kept.is_told {
                report.reported_at = known.reported_at;
            }
        } else {
            kept.is_told = false;
            log(&report);
        }
        if !kept.is_told && !self.options.dry_run {
            kept.is_told = self.tell(&report).await;
        }
        kept.report = Some(report.clone());
        if !self.options.dry_run {
            match kept.write(&path) {
                Ok(()) => self.well_again("state"),
                Err(error) => self.say("state", format!("{} can't be written: {error}", path.display())),
            }
        }
        let is_well = matches!(report.status, Status::Converged | Status::Behind);
        Outcome { app: name, report: Some(report), note: None, is_well, again: turn.again }
    }

    fn report(&self, app: &App, wanted: &str, kept: &Kept, turn: &Turn) -> Report {
        let now = self.clock.now();
        let late = turn.brought_since.map(|since| (now.0 - since.0).max(0));
        // What was not seen to be otherwise is what it was.
        let held = turn.held.clone().unwrap_or_else(|| kept.report.as_ref().and_then(|r| r.held.clone()));
        Report {
            host: self.host.clone(),
            app: app.told.name.clone(),
            environment: app.told.environment.clone(),
            package: app.told.package.clone(),
            wanted: Some(wanted.chars().take(200).collect()),
            held,
            status: turn.status,
            why: turn.why.clone(),
            since: now,
            reported_at: now,
            late_by_seconds: late.and_then(|millis| u64::try_from(millis / 1000).ok()),
        }
    }

    /// Tells the server; whether it knows now.
    async fn tell(&mut self, report: &Report) -> bool {
        let Some(server) = self.server.clone() else { return true };
        let told = async {
            server.keep(report).await?;
            server.tell(report).await
        };
        match told.await {
            Ok(()) => {
                self.well_again("server");
                true
            }
            Err(why) => {
                self.say("server", format!("what happens here can't be told: {why}"));
                false
            }
        }
    }

    /// Says what is wrong with something, once until it is otherwise.
    fn say(&mut self, of: &str, what: String) {
        if self.said.get(of) != Some(&what) {
            tracing::warn!("{what}");
            self.said.insert(of.to_owned(), what);
        }
    }

    fn well_again(&mut self, of: &str) {
        if let Some(what) = self.said.remove(of) {
            tracing::info!("no more: {what}");
        }
    }

    /// Looks how it stands, and does what is to be done.
    async fn turn(&mut self, app: &App, wanted: &str, kept: &mut Kept, path: &Path) -> Turn {
        match self.decision(app, wanted, kept).await {
            Err(why) => Turn::of(Status::Failed, None, Some(why)),
            Ok((standing, Decision::Install { .. } | Decision::Check, _)) if self.options.dry_run => {
                let why = format!("would install {wanted}");
                Turn::of(Status::Behind, Some(standing.installed), Some(why))
            }
            Ok((_, Decision::Install { .. } | Decision::Check, _)) => {
                self.under_lock(app, wanted, kept, path).await
            }
            Ok((standing, decision, _)) => self.without_work(app, standing, decision, kept),
        }
    }

    async fn decision(
        &mut self,
        app: &App,
        wanted: &str,
        kept: &Kept,
    ) -> Result<(Standing, Decision, Roll), String> {
        let standing = app.here.look(&app.told.package, &self.ending.abort).await;
        let standing = standing.map_err(|error| error.to_string())?;
        let now = self.clock.now();
        let mut facts = Facts {
            now,
            wanted,
            wanted_since: kept.wanted_since.unwrap_or(now),
            may_go_back: app.told.allow_downgrade,
            standing: &standing,
            attempt: kept.attempt.as_ref(),
            failed: kept.failed.as_ref(),
            roll: Roll::Unknown,
            settle: Span(0),
            retry: app.told.retry,
        };
        // Who need not ask does not.
        let asks = |decision: &Decision| matches!(decision, Decision::Install { .. } | Decision::Refuse(_));
        if !asks(&decide(&facts)) {
            let decision = decide(&facts);
            return Ok((standing, decision, Roll::Unknown));
        }
        if !facts.may_go_back {
            let way_back = app.place.way_back().await;
            facts.may_go_back = way_back?.as_deref() == Some(wanted);
        }
        facts.settle = app.told.settle;
        if let Some(server) = self.server.clone() {
            match server.roll(&app.told.name, &app.told.environment, wanted).await {
                Ok(roll) => {
                    self.well_again("rolls");
                    facts.roll = roll;
                }
                Err(why) => self.say("rolls", format!("whether a roll is at work is not known: {why}")),
            }
        }
        let (decision, roll) = (decide(&facts), facts.roll.clone());
        Ok((standing, decision, roll))
    }

    /// What there is to say where there is nothing to do.
    fn without_work(&self, app: &App, standing: Standing, decision: Decision, kept: &mut Kept) -> Turn {
        let held = Some(standing.installed);
        match decision {
            Decision::Wait { why, until } => {
                let until = until.unwrap_or_else(|| self.clock.now().plus(SOON.min(self.file.every)));
                Turn { again: Some(until), ..Turn::of(Status::Behind, held, Some(why)) }
            }
            Decision::Rest { why, until } => {
                let is_refused = kept.failed.as_ref().is_some_and(|failed| failed.is_refused);
                let status = if is_refused { Status::Refused } else { Status::Failed };
                Turn { again: Some(until), ..Turn::of(status, held, Some(why)) }
            }
            Decision::Refuse(why) => Turn::of(Status::Refused, held, Some(why)),
            Decision::Leave | Decision::Check | Decision::Install { .. } => {
                tracing::debug!("{} stands as it should", app.told.name);
                (kept.attempt, kept.failed) = (None, None);
                Turn::of(Status::Converged, held, None)
            }
        }
    }

    /// Works on the host while nobody else does.
    async fn under_lock(&mut self, app: &App, wanted: &str, kept: &mut Kept, path: &Path) -> Turn {
        let soon = Some(self.clock.now().plus(SOON.min(self.file.every)));
        let _lock = match host_lock::take(&self.options.root, LOCK_PATIENCE).await {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                let why = "a roll works on this host".to_owned();
                return Turn { again: soon, ..Turn::of(Status::Behind, None, Some(why)) };
            }
            Err(error) => {
                let lock = host_lock::path(&self.options.root);
                let why = format!("the host's lock {} can't be taken: {error}", lock.display());
                return Turn::of(Status::Failed, None, Some(why));
            }
        };
        // Whoever held it may have changed everything.
        if !matches!(app.place.version().await, Ok(Some(now)) if now == wanted) {
            let why = "another version is advertised by now".to_owned();
            return Turn { again: soon, ..Turn::of(Status::Behind, None, Some(why)) };
        }
        let (standing, decision, roll) = match self.decision(app, wanted, kept).await {
            Ok(found) => found,
            Err(why) => return Turn::of(Status::Failed, None, Some(why)),
        };
        let goes_back = match decision {
            Decision::Install { goes_back } => Some(goes_back),
            Decision::Check => None,
            other => return self.without_work(app, standing, other, kept),
        };
        let since = match roll {
            Roll::None { since: Some(since) } => since,
            _ => kept.wanted_since.unwrap_or_else(|| self.clock.now()),
        };
        let known = kept.attempt.take();
        let before = known.as_ref().map_or(standing.before, |known| known.before.clone());
        let since = known.filter(|known| known.version == wanted).map_or(since, |known| known.since);
        let attempt = Attempt { version: wanted.to_owned(), before, since };
        kept.attempt = Some(attempt.clone());
        if let Err(error) = kept.write(path) {
            // Without it, a kill in the middle would lose the way back.
            kept.attempt = None;
            let why = format!("nothing is begun: {} can't be written: {error}", path.display());
            return Turn::of(Status::Failed, Some(standing.installed), Some(why));
        }
        let done = self.bring(app, wanted, goes_back).await;
        self.after(app, kept, attempt, done).await
    }

    /// Installs and asks whether it is well.
    async fn bring(&self, app: &App, wanted: &str, goes_back: Option<bool>) -> Result<(), HereError> {
        let (told, abort) = (&app.told, &self.ending.abort);
        let mut on_line = lines_of(&told.name);
        if let Some(goes_back) = goes_back {
            tracing::info!("{}: installs {} {wanted}", told.name, told.package);
            app.here.install(&told.package, wanted, goes_back, told.timeout, &mut on_line, abort).await?;
        }
        let Some(check) = &told.check else { return Ok(()) };
        let check = Check {
            script: check.script.clone(),
            tries: check.tries,
            interval: check.interval,
            timeout: check.timeout,
        };
        app.here.health(&check, &mut on_line, abort).await
    }

    async fn after(&self, app: &App, kept: &mut Kept, attempt: Attempt, done: Result<(), HereError>) -> Turn {
        let error = match done {
            Ok(()) => {
                (kept.attempt, kept.failed) = (None, None);
                let turn = Turn::of(Status::Converged, Some(Some(attempt.version)), None);
                return Turn { brought_since: Some(attempt.since), ..turn };
            }
            // Taken up when the agent is there again.
            Err(HereError::Cancelled) => {
                return Turn::of(Status::Behind, None, Some("the agent was ended".to_owned()));
            }
            Err(error) => error,
        };
        let is_refused = matches!(error, HereError::NotThere(..) | HereError::Unsigned(_));
        let mut why = error.to_string();
        if !is_refused {
            match self.go_back(app, attempt.before.as_deref()).await {
                Ok(Some(what)) => why = format!("{why}; {what}"),
                Ok(None) => {}
                Err(HereError::Cancelled) => {
                    return Turn::of(Status::Behind, None, Some("the agent was ended".to_owned()));
                }
                Err(error) => {
                    let before = attempt.before.as_deref().unwrap_or("nothing");
                    why = format!("{why}; and to go back to {before} failed: {error}");
                }
            }
        }
        let times = 1 + kept
            .failed
            .as_ref()
            .filter(|failed| failed.version == attempt.version)
            .map_or(0, |failed| failed.times);
        let version = attempt.version;
        kept.failed = Some(Failed { version, times, at: self.clock.now(), why: why.clone(), is_refused });
        kept.attempt = None;
        let found = app.here.look(&app.told.package, &self.ending.abort).await.ok();
        let status = if is_refused { Status::Refused } else { Status::Failed };
        let again = Some(self.clock.now().plus(app.told.retry));
        Turn { again, ..Turn::of(status, found.map(|standing| standing.installed), Some(why)) }
    }

    /// Puts back what was there before; what was done, if anything.
    async fn go_back(&self, app: &App, before: Option<&str>) -> Result<Option<String>, HereError> {
        let (told, abort) = (&app.told, &self.ending.abort);
        let mut on_line = lines_of(&told.name);
        let standing = app.here.look(&told.package, abort).await?;
        if standing.installed.as_deref() == before && !standing.is_broken {
            return Ok(None);
        }
        let Some(before) = before else {
            app.here.remove(&told.package, &mut on_line, abort).await?;
            return Ok(Some("it was removed again".to_owned()));
        };
        app.here.install(&told.package, before, true, told.timeout, &mut on_line, abort).await?;
        Ok(Some(format!("{before} is there again")))
    }
}

/// What a look came to.
#[derive(Debug)]
struct Turn {
    status: Status,
    /// What is installed; `None` where that was not found out.
    held: Option<Option<String>>,
    why: Option<String>,
    again: Option<Timestamp>,
    /// The agent itself brought the version, which was meant to be here since then.
    brought_since: Option<Timestamp>,
}

impl Turn {
    fn of(status: Status, held: Option<Option<String>>, why: Option<String>) -> Turn {
        Turn { status, held, why, again: None, brought_since: None }
    }
}

/// What apt and dpkg say goes to the log.
fn lines_of(app: &str) -> impl FnMut(Stream, &[u8]) + Send + use<'_> {
    move |_, line| tracing::info!("{app}: {}", String::from_utf8_lossy(line).trim_end().escape_debug())
}

fn log(report: &Report) {
    let Report { app, wanted, held, status, why, late_by_seconds, .. } = report;
    let nothing = || "nothing".to_owned();
    let (wanted, held) = (wanted.clone().unwrap_or_else(nothing), held.clone().unwrap_or_else(nothing));
    let late = late_by_seconds.map_or_else(String::new, |late| format!(", {} late", Span::seconds(late)));
    let why = why.as_deref().map_or_else(String::new, |why| format!(": {why}"));
    match status {
        Status::Converged => tracing::info!("{app}: converged at {held}{late}"),
        Status::Behind => tracing::info!("{app}: has {held}, {wanted} is advertised{why}"),
        Status::Refused | Status::Failed => {
            tracing::warn!("{app}: has {held}, {wanted} is advertised, {status}{why}");
        }
    }
}
