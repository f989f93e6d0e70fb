//! Brings a version of a package to many hosts, a batch at a time, and back again.
//!
//! * No host is touched before its previous version is known and has been stored by the caller, so that an undo knows the way
//!   back whatever happens next.
//! * A roll that was killed is simply run again with the same key: what stands is left, what is half done is mended, and the
//!   previous versions are those from before the first try.
//! * A roll to no host is a failure. So is a batch in which one host fails: later batches are not begun.
//! * Whoever works on a host holds its lock, so that two rolls never change packages there at once.
//! * Where something gives hosts their traffic ([`Traffic`]), a host gets none while it is changed, and gets it back only when it is well.
//! * `max_unavailable` counts hosts that are away already: a batch never makes them more than that.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::health::{self, Check, Well};
use super::hosts::{self, Held, Host, HostError, Install};
use crate::model::Span;
use crate::process::{Ended, Stream};

/// How much of a host's output its result shows.
const TAIL_BYTES: usize = 4096;
/// How many hosts of one batch are worked on at the same moment: each takes processes and connections.
const AT_ONCE: usize = 50;
/// How long somebody else may work on a host before a roll gives up.
const LOCK_LIMIT: Span = Span::minutes(20);
/// How often it is looked again whether a host may be taken out, when too many are away, and how long is between.
const LOOKS: u32 = 3;
const LOOK_INTERVAL: Span = Span::seconds(2);
/// How often a batch is put back because others were taken out while its locks were waited for.
const RECHECKS: u32 = 100;

/// What goes where.
#[derive(Clone)]
pub struct Plan {
    /// Names this roll, the same for every try of it: run and step, say.
    pub key: String,
    pub package: String,
    pub version: String,
    pub hosts: Vec<Host>,
    pub batch: Batch,
    /// How many hosts may be away at the same time, those of the batch among them.
    pub max_unavailable: Option<Batch>,
    /// Hosts that belong to these, but are not rolled to since they are ill.
    pub ill: Vec<String>,
    /// What gives the hosts their traffic.
    pub traffic: Option<Arc<dyn Traffic>>,
    pub allow_downgrade: bool,
    pub health: Option<Check>,
    /// For the installation on one host.
    pub timeout: Span,
    /// What an earlier try of this roll reported; it goes before what the host remembers.
    pub known: Vec<Previous>,
}

/// How many hosts are rolled at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    Hosts(usize),
    /// Of all hosts, rounded up.
    Percent(u8),
}

impl Batch {
    fn size(self, hosts: usize) -> usize {
        match self {
            Batch::Hosts(count) => count.max(1),
            Batch::Percent(percent) => (hosts * usize::from(percent.min(100))).div_ceil(100).max(1),
        }
    }

    /// As the most that may be: rounded down, and one at least, or nothing could ever be done.
    fn most(self, hosts: usize) -> usize {
        match self {
            Batch::Hosts(count) => count.max(1),
            Batch::Percent(percent) => (hosts * usize::from(percent.min(100)) / 100).max(1),
        }
    }
}

/// What gives hosts their traffic: a load balancer. A host is known by its name.
pub trait Traffic: Send + Sync {
    /// Whether each of these hosts can be taken out and back; changes nothing. The error says what is missing.
    fn look<'a>(&'a self, hosts: &'a [Host]) -> BoxFuture<'a, Result<(), String>>;
    /// Which of these hosts get no traffic now, and why.
    fn away<'a>(&'a self, hosts: &'a [Host]) -> BoxFuture<'a, Result<BTreeMap<String, String>, String>>;
    /// Gives a host no more traffic, and waits until what it has to do is done. What was so before is left so afterwards.
    fn take_out<'a>(&'a self, host: &'a Host, how: TakeOut) -> BoxFuture<'a, Result<(), String>>;
    /// Gives a host its traffic again, if [`Traffic::take_out`] took it, now or in a try that was killed. With `wait` it is done once the host
    /// really gets it; when it does not, the host is taken out again.
    fn bring_back<'a>(&'a self, host: &'a Host, wait: bool) -> BoxFuture<'a, Result<(), String>>;
    /// For people: where a host that was taken out is without traffic now.
    fn stays_out(&self, host: &Host) -> Option<String>;
}

/// How a host is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOut {
    /// It fails where it can't be.
    Surely,
    /// Where it can be: what is done to the host matters more.
    IfPossible,
    /// Only if an earlier try did so.
    IfBegun,
}

/// What stood on a host before it was touched; `version` is `null` when the package was not installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    pub host: String,
    pub package: String,
    pub version: Option<String>,
}

/// What came of one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostResult {
    pub host: String,
    pub from: Option<String>,
    /// `null` when the package was removed.
    pub to: Option<String>,
    pub ok: bool,
    /// The exit status of what failed, or 0; `null` when nothing ran to an end.
    pub code: Option<i32>,
    /// The end of what it printed.
    pub output: String,
    pub error: Option<String>,
    pub seconds: f64,
}

/// What came of a roll.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rolled {
    pub ok: bool,
    /// In the order of the plan, as far as it came.
    pub hosts: Vec<HostResult>,
    /// In the order in which hosts were touched.
    pub previous: Vec<Previous>,
    /// Hosts that were not begun.
    pub untouched: Vec<String>,
    pub error: Option<String>,
}

/// What came of a way back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    pub ok: bool,
    pub hosts: Vec<HostResult>,
    pub error: Option<String>,
}

/// Who is told while it goes on.
pub trait Observer: Send + Sync {
    /// A line that a host printed.
    fn line(&self, host: &str, stream: Stream, line: &[u8]);
    /// All previous versions known so far. The hosts are touched only after this is done; its error stops them.
    fn previous<'a>(&'a self, previous: &'a [Previous]) -> BoxFuture<'a, Result<(), String>>;
    /// A host is done.
    fn done(&self, result: &HostResult);
}

/// Rolls a version out.
pub async fn roll(plan: &Plan, observer: &dyn Observer, cancel: &CancellationToken) -> Rolled {
    let mut rolled = Rolled {
        ok: false,
        hosts: Vec::new(),
        previous: plan.known.clone(),
        untouched: Vec::new(),
        error: None,
    };
    rolled.error = match check(plan) {
        Err(error) => Some(error),
        Ok(()) => roll_batches(plan, observer, cancel, &mut rolled).await.err(),
    };
    rolled.ok = rolled.error.is_none();
    let begun: HashSet<&str> = rolled.hosts.iter().map(|result| result.host.as_str()).collect();
    rolled.untouched = plan
        .hosts
        .iter()
        .map(|host| host.name.clone())
        .filter(|name| !begun.contains(name.as_str()))
        .collect();
    rolled
}

fn check(plan: &Plan) -> Result<(), String> {
    if plan.hosts.is_empty() {
        return Err("there is no host to roll to".to_owned());
    }
    let mut names = HashSet::new();
    match plan.hosts.iter().find(|host| !names.insert(&host.name)) {
        Some(twice) => Err(format!("host {} is named twice", twice.name)),
        None => Ok(()),
    }
}

/// Looks, before anything is changed anywhere, whether the roll can go well: the hosts of the first batch are offered the version, and every host can be
/// taken out of its traffic.
///
/// # Errors
/// What is missing, where.
pub async fn look_first(
    plan: &Plan,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<(), String> {
    check(plan)?;
    if let Some(traffic) = &plan.traffic {
        traffic.look(&plan.hosts).await?;
    }
    let first = plan.hosts.iter().take(plan.batch.size(plan.hosts.len()));
    let looks: Vec<_> = first
        .map(|host| {
            Box::pin(async move {
                let told = |error: HostError| format!("{}: {error}", host.name);
                let held = hold(host, observer, cancel).await.map_err(told)?;
                let offered = hosts::must_be_offered(host, &plan.package, &plan.version, cancel).await;
                held.release().await;
                offered.map_err(told)
            })
        })
        .collect();
    let answers: Vec<Result<(), String>> = stream::iter(looks).buffered(AT_ONCE).collect().await;
    let wrong: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// Notes that a host could not be begun, and why. What it held before an earlier try is known all the same.
fn not_touched(plan: &Plan, host: &Host, error: HostError, observer: &dyn Observer, rolled: &mut Rolled) {
    let outcome = Outcome::of(Err(error));
    let known = rolled.previous.iter().find(|known| known.host == host.name && known.package == plan.package);
    let from = known.and_then(|known| known.version.clone());
    let result = outcome.result(&host.name, from, Some(plan.version.clone()), 0.0);
    observer.done(&result);
    rolled.hosts.push(result);
}

/// Holds the lock of a host; says so when it has to wait.
async fn hold(host: &Host, observer: &dyn Observer, cancel: &CancellationToken) -> Result<Held, HostError> {
    let mut on_wait = || {
        let line = format!("waiting: another roll or siskin agent works on this host (at most {LOCK_LIMIT})");
        observer.line(&host.name, Stream::Note, line.as_bytes());
    };
    hosts::hold(host, LOCK_LIMIT, &mut on_wait, cancel).await
}

async fn roll_batches(
    plan: &Plan,
    observer: &dyn Observer,
    cancel: &CancellationToken,
    rolled: &mut Rolled,
) -> Result<(), String> {
    let mut left: Vec<&Host> = plan.hosts.iter().collect();
    let mut rechecks = 0;
    while !left.is_empty() {
        if cancel.is_cancelled() {
            return Err("cancelled".to_owned());
        }
        let batch = next_batch(plan, &mut left, observer, cancel).await?;
        // Always in the same order, so that two rolls never wait for each other's hosts.
        let mut in_order = batch.clone();
        in_order.sort_by(|one, other| one.name.cmp(&other.name));
        let mut held = Vec::new();
        for host in in_order {
            match hold(host, observer, cancel).await {
                Ok(one) => held.push(one),
                // Not reached, so not touched; the others of the batch are not begun either.
                Err(error) => {
                    not_touched(plan, host, error, observer, rolled);
                    break;
                }
            }
        }
        let done = match failure_of(&rolled.hosts) {
            None => match still_fits(plan, &batch, cancel).await {
                Ok(true) => roll_batch(plan, &batch, observer, cancel, rolled).await,
                Ok(false) if rechecks < RECHECKS => {
                    rechecks += 1;
                    left.splice(0..0, batch.iter().copied());
                    Ok(())
                }
                Ok(false) => Err("other hosts were taken out while this roll waited for the locks of its own, again and again; \
                                  `max_unavailable` lets no more be away"
                    .to_owned()),
                Err(why) => Err(why),
            },
            Some(failure) => Err(failure),
        };
        futures::future::join_all(held.into_iter().map(Held::release)).await;
        done?;
    }
    Ok(())
}

/// Whether a batch whose hosts are locked may be taken out: whoever held the locks before may have taken out others.
async fn still_fits(plan: &Plan, batch: &[&Host], cancel: &CancellationToken) -> Result<bool, String> {
    let Some(most) = plan.max_unavailable else { return Ok(true) };
    let most = most.most(plan.hosts.len() + plan.ill.len());
    let away = away(plan, cancel).await?;
    let is_of_batch = |name: &str| batch.iter().any(|host| host.name == name);
    let others = away.keys().filter(|name| !is_of_batch(name)).count();
    let makes_more = batch.iter().any(|host| !away.contains_key(&host.name));
    Ok(!makes_more || others + batch.len() <= most)
}

/// Takes the hosts that are next from those that are left: as many as make a batch, and no more than may be away.
async fn next_batch<'a>(
    plan: &Plan,
    left: &mut Vec<&'a Host>,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<Vec<&'a Host>, String> {
    let size = plan.batch.size(plan.hosts.len());
    let Some(most) = plan.max_unavailable else {
        return Ok(left.drain(..size.min(left.len())).collect());
    };
    let most = most.most(plan.hosts.len() + plan.ill.len());
    let mut look = 1;
    loop {
        let away = away(plan, cancel).await?;
        let batch = fitting(left, size, most, &away);
        if !batch.is_empty() {
            let names: HashSet<&str> = batch.iter().map(|host| host.name.as_str()).collect();
            left.retain(|host| !names.contains(host.name.as_str()));
            return Ok(batch);
        }
        let shown: Vec<String> = away.iter().map(|(name, why)| format!("{name} ({why})")).collect();
        let shown = shown.join(", ");
        if look == LOOKS {
            return Err(format!(
                "{} hosts are away already and `max_unavailable` lets {most} be, so no other may be taken out: {shown}",
                away.len()
            ));
        }
        look += 1;
        if let Some(host) = left.first() {
            let line = format!("waiting: {} hosts are away already: {shown}", away.len());
            observer.line(&host.name, Stream::Note, line.as_bytes());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL.duration()) => {}
            () = cancel.cancelled() => return Err("cancelled".to_owned()),
        }
    }
}

/// The hosts, in order, that can be worked on so that no more than `most` are away. One that is away already makes them no more.
fn fitting<'a>(
    left: &[&'a Host],
    size: usize,
    most: usize,
    away: &BTreeMap<String, String>,
) -> Vec<&'a Host> {
    let mut count = away.len();
    let mut batch = Vec::new();
    for host in left {
        if batch.len() == size {
            break;
        }
        if !away.contains_key(&host.name) {
            if count >= most {
                continue;
            }
            count += 1;
        }
        batch.push(*host);
    }
    batch
}

/// Which hosts serve nobody now, and why: as their traffic and their health say.
async fn away(plan: &Plan, cancel: &CancellationToken) -> Result<BTreeMap<String, String>, String> {
    let mut away: BTreeMap<String, String> =
        plan.ill.iter().map(|name| (name.clone(), "does not pass its checks".to_owned())).collect();
    if let Some(traffic) = &plan.traffic {
        away.extend(traffic.away(&plan.hosts).await?);
    }
    if let Some(check) = &plan.health {
        let asks: Vec<_> = plan
            .hosts
            .iter()
            .filter(|host| !away.contains_key(&host.name))
            .map(|host| {
                Box::pin(async move { (host, health::ask_once(host, check, &mut |_, _| {}, cancel).await) })
            })
            .collect();
        let answers: Vec<_> = stream::iter(asks).buffered(AT_ONCE).collect().await;
        for (host, answer) in answers {
            if let Err(error) = answer {
                away.insert(host.name.clone(), error.to_string());
            }
        }
    }
    Ok(away)
}

async fn roll_batch(
    plan: &Plan,
    batch: &[&Host],
    observer: &dyn Observer,
    cancel: &CancellationToken,
    rolled: &mut Rolled,
) -> Result<(), String> {
    let begun: Vec<_> =
        batch.iter().map(|host| Box::pin(begin(plan, host, &rolled.previous, cancel))).collect();
    let begun: Vec<_> = stream::iter(begun).buffered(AT_ONCE).collect().await;
    let mut ready = Vec::new();
    for (host, previous) in batch.iter().zip(begun) {
        match previous {
            Ok(previous) => {
                if !rolled
                    .previous
                    .iter()
                    .any(|known| known.host == previous.host && known.package == previous.package)
                {
                    rolled.previous.push(previous.clone());
                }
                ready.push((*host, previous));
            }
            Err(error) => not_touched(plan, host, error, observer, rolled),
        }
    }
    if let Some(failure) = failure_of(&rolled.hosts) {
        return Err(failure);
    }
    observer.previous(&rolled.previous).await.map_err(|error| {
        format!("the previous versions could not be stored, so no host was touched: {error}")
    })?;
    let rolls: Vec<_> = ready
        .iter()
        .map(|(host, previous)| Box::pin(roll_host(plan, host, previous, observer, cancel)))
        .collect();
    let results: Vec<HostResult> = stream::iter(rolls).buffered(AT_ONCE).collect().await;
    rolled.hosts.extend(results);
    match failure_of(&rolled.hosts) {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

fn failure_of(results: &[HostResult]) -> Option<String> {
    let failed: Vec<String> = results
        .iter()
        .filter(|result| !result.ok)
        .map(|result| format!("{}: {}", result.host, result.error.as_deref().unwrap_or("failed")))
        .collect();
    (!failed.is_empty()).then(|| failed.join("; "))
}

async fn begin(
    plan: &Plan,
    host: &Host,
    known: &[Previous],
    cancel: &CancellationToken,
) -> Result<Previous, HostError> {
    if let Some(known) = known.iter().find(|known| known.host == host.name && known.package == plan.package) {
        return Ok(known.clone());
    }
    let version = hosts::begin(host, &plan.package, &plan.key, cancel).await?;
    Ok(Previous { host: host.name.clone(), package: plan.package.clone(), version })
}

async fn roll_host(
    plan: &Plan,
    host: &Host,
    previous: &Previous,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> HostResult {
    let began = tokio::time::Instant::now();
    let outcome = change_host(plan, host, observer, cancel).await;
    let seconds = began.elapsed().as_secs_f64();
    let result = outcome.result(&host.name, previous.version.clone(), Some(plan.version.clone()), seconds);
    observer.done(&result);
    result
}

/// Takes a host out of its traffic, installs, asks its health, and gives it its traffic again. What fails leaves it without.
async fn change_host(
    plan: &Plan,
    host: &Host,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Outcome {
    let mut on_line = |stream: Stream, line: &[u8]| observer.line(&host.name, stream, line);
    let traffic = plan.traffic.as_deref();
    if let Some(traffic) = traffic {
        // Where a try before this one has come to its end, nothing is changed any more, so nobody is sent away.
        let stands = hosts::installed_version(host, &plan.package, cancel).await;
        let stands = matches!(stands, Ok(Some(version)) if version == plan.version);
        let how = if stands { TakeOut::IfBegun } else { TakeOut::Surely };
        if let Err(error) = traffic.take_out(host, how).await {
            return Outcome::failed(error).without_traffic(traffic, host);
        }
    }
    let install = Install {
        package: &plan.package,
        version: &plan.version,
        allow_downgrade: plan.allow_downgrade,
        timeout: plan.timeout,
    };
    let mut outcome = Outcome::of(hosts::install(host, install, &mut on_line, cancel).await);
    if outcome.error.is_none()
        && let Some(check) = &plan.health
    {
        outcome.and(Outcome::of_health(health::ask(host, check, &mut on_line, cancel).await));
    }
    let Some(traffic) = traffic else { return outcome };
    if outcome.error.is_none() {
        outcome.error = traffic.bring_back(host, true).await.err();
    }
    outcome.without_traffic(traffic, host)
}

/// What a way back needs to know.
#[derive(Clone)]
pub struct WayBack {
    /// What hosts had, in the order in which they were touched.
    pub previous: Vec<Previous>,
    /// Those that the names stand for.
    pub hosts: Vec<Host>,
    /// How many go back at once.
    pub batch: Batch,
    pub timeout: Span,
    pub traffic: Option<Arc<dyn Traffic>>,
    /// Where there is traffic, it comes back to a host that is well.
    pub health: Option<Check>,
}

/// Brings hosts back to what they had, newest first, over failures. `hosts` are those that the names stand for; installing an
/// older version is what this is for, so it is allowed.
pub async fn restore(way: &WayBack, observer: &dyn Observer, cancel: &CancellationToken) -> Restored {
    let mut results = Vec::new();
    let newest_first: Vec<&Previous> = way.previous.iter().rev().collect();
    for batch in newest_first.chunks(way.batch.size(way.previous.len())) {
        // Each holds the lock of its own host only, so none waits for another.
        let restores: Vec<_> = batch
            .iter()
            .map(|previous| {
                Box::pin(async move {
                    let result = restore_host(previous, way, observer, cancel).await;
                    observer.done(&result);
                    result
                })
            })
            .collect();
        results.extend(stream::iter(restores).buffered(AT_ONCE).collect::<Vec<_>>().await);
    }
    let error = failure_of(&results);
    Restored { ok: error.is_none(), hosts: results, error }
}

async fn restore_host(
    previous: &Previous,
    way: &WayBack,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> HostResult {
    let began = tokio::time::Instant::now();
    let Some(host) = way.hosts.iter().find(|host| host.name == previous.host) else {
        let outcome = Outcome::failed(format!("no host called {} is known any more", previous.host));
        return outcome.result(&previous.host, None, previous.version.clone(), 0.0);
    };
    let held = match hold(host, observer, cancel).await {
        Ok(held) => held,
        Err(error) => {
            let seconds = began.elapsed().as_secs_f64();
            return Outcome::of(Err(error)).result(&host.name, None, previous.version.clone(), seconds);
        }
    };
    // Looked at while nobody else can change it.
    let (from, outcome) = match hosts::installed_version(host, &previous.package, cancel).await {
        Err(error) => (None, Outcome::of(Err(error))),
        Ok(from) => {
            let stands = from == previous.version;
            let outcome = change_back(previous, host, stands, way, observer, cancel).await;
            (from, outcome)
        }
    };
    held.release().await;
    outcome.result(&host.name, from, previous.version.clone(), began.elapsed().as_secs_f64())
}

/// As [`change_host`], the other way.
async fn change_back(
    previous: &Previous,
    host: &Host,
    stands: bool,
    way: &WayBack,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Outcome {
    let traffic = way.traffic.as_deref();
    if let Some(traffic) = traffic {
        let how = if stands { TakeOut::IfBegun } else { TakeOut::IfPossible };
        if let Err(error) = traffic.take_out(host, how).await {
            return Outcome::failed(error).without_traffic(traffic, host);
        }
    }
    let mut outcome = put_back(previous, host, way.timeout, observer, cancel).await;
    if outcome.error.is_none()
        && let Err(error) = hosts::forget(host, &previous.package, cancel).await
    {
        outcome.error = Some(error.to_string());
    }
    let Some(traffic) = traffic else { return outcome };
    let has_version = previous.version.is_some();
    if outcome.error.is_none()
        && has_version
        && let Some(check) = &way.health
    {
        let mut on_line = |stream: Stream, line: &[u8]| observer.line(&host.name, stream, line);
        outcome.and(Outcome::of_health(health::ask(host, check, &mut on_line, cancel).await));
    }
    if outcome.error.is_none() {
        // Where there was nothing before, nothing is going to be up.
        outcome.error = traffic.bring_back(host, has_version).await.err();
    }
    outcome.without_traffic(traffic, host)
}

async fn put_back(
    previous: &Previous,
    host: &Host,
    timeout: Span,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Outcome {
    let mut on_line = |stream: Stream, line: &[u8]| observer.line(&host.name, stream, line);
    let package = &previous.package;
    Outcome::of(match &previous.version {
        Some(version) => {
            let install = Install { package, version, allow_downgrade: true, timeout };
            hosts::install(host, install, &mut on_line, cancel).await
        }
        None => hosts::remove(host, package, timeout, &mut on_line, cancel).await,
    })
}

/// What a command on a host came to.
struct Outcome {
    code: Option<i32>,
    output: String,
    error: Option<String>,
}

impl Outcome {
    fn of(result: Result<crate::process::Finished, HostError>) -> Outcome {
        let (finished, error) = match &result {
            Ok(finished) => (Some(finished), None),
            Err(error) => (error.finished(), Some(error.to_string())),
        };
        let code = finished.and_then(|finished| match finished.ended {
            Ended::Code(code) => Some(code),
            _ => None,
        });
        let tail = |finished: &crate::process::Finished| {
            [finished.stdout.tail(TAIL_BYTES / 2), finished.stderr.tail(TAIL_BYTES / 2)].concat()
        };
        Outcome { code, output: finished.map(tail).unwrap_or_default(), error }
    }

    fn of_health(result: Result<Well, HostError>) -> Outcome {
        match result {
            Ok(well) => Outcome { code: Some(0), output: well.said, error: None },
            Err(error) if error.finished().is_some() => Outcome::of(Err(error)),
            Err(error) => Outcome::failed(error.to_string()),
        }
    }

    fn failed(error: String) -> Outcome {
        Outcome { code: None, output: String::new(), error: Some(error) }
    }

    /// Says with the error that the host gets no traffic, where it does not.
    fn without_traffic(mut self, traffic: &dyn Traffic, host: &Host) -> Outcome {
        if let (Some(error), Some(place)) = (&mut self.error, traffic.stays_out(host)) {
            error.push_str(&format!("; it stays without traffic ({place})"));
        }
        self
    }

    fn and(&mut self, next: Outcome) {
        self.output.push_str(&next.output);
        self.code = next.code;
        self.error = next.error;
    }

    fn result(self, host: &str, from: Option<String>, to: Option<String>, seconds: f64) -> HostResult {
        let Outcome { code, output, error } = self;
        HostResult { host: host.to_owned(), from, to, ok: error.is_none(), code, output, error, seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_never_empty_and_percent_rounds_up() {
        assert_eq!(Batch::Hosts(0).size(5), 1);
        assert_eq!(Batch::Hosts(2).size(5), 2);
        assert_eq!(Batch::Percent(0).size(5), 1);
        assert_eq!(Batch::Percent(25).size(10), 3);
        assert_eq!(Batch::Percent(200).size(4), 4);
    }

    #[test]
    fn what_may_be_away_rounds_down_and_is_never_nothing() {
        assert_eq!(Batch::Percent(25).most(10), 2);
        assert_eq!(Batch::Percent(10).most(4), 1);
        assert_eq!(Batch::Hosts(3).most(10), 3);
    }

    #[test]
    fn a_batch_takes_no_more_out_than_may_be_away_and_those_that_are_away_are_taken_first() {
        let hosts = ["a", "b", "c", "d"].map(|name| Host::root(name, "/srv"));
        let left: Vec<&Host> = hosts.iter().collect();
        let picked = |size, most, away: &[&str]| {
            let away = away.iter().map(|name| ((*name).to_owned(), String::new())).collect();
            fitting(&left, size, most, &away)
                .iter()
                .map(|host| host.name.clone())
                .collect::<Vec<_>>()
                .join("")
        };
        assert_eq!(picked(3, 2, &[]), "ab");
        assert_eq!(picked(1, 2, &[]), "a");
        assert_eq!(picked(3, 2, &["c"]), "ac");
        assert_eq!(picked(3, 1, &["x"]), "");
        assert_eq!(picked(3, 1, &["d"]), "d");
        assert_eq!(picked(2, 1, &["c", "d"]), "cd");
    }
}
