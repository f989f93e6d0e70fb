//! Brings a version of a package to many hosts, a batch at a time, and back again.
//!
//! * No host is touched before its previous version is known and has been stored by the caller, so that an undo knows the way
//!   back whatever happens next.
//! * A roll that was killed is simply run again with the same key: what stands is left, what is half done is mended, and the
//!   previous versions are those from before the first try.
//! * A roll to no host is a failure. So is a batch in which one host fails: later batches are not begun.

use std::collections::HashSet;

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::hosts::{self, Check, Host, HostError, Install};
use crate::model::Span;
use crate::process::{Ended, Stream};

/// How much of a host's output its result shows.
const TAIL_BYTES: usize = 4096;
/// How many hosts of one batch are worked on at the same moment: each takes processes and connections.
const AT_ONCE: usize = 50;

/// What goes where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names this roll, the same for every try of it: run and step, say.
    pub key: String,
    pub package: String,
    pub version: String,
    pub hosts: Vec<Host>,
    pub batch: Batch,
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

async fn roll_batches(
    plan: &Plan,
    observer: &dyn Observer,
    cancel: &CancellationToken,
    rolled: &mut Rolled,
) -> Result<(), String> {
    for batch in plan.hosts.chunks(plan.batch.size(plan.hosts.len())) {
        if cancel.is_cancelled() {
            return Err("cancelled".to_owned());
        }
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
                    ready.push((host, previous));
                }
                // Not reached, so not touched; the others of the batch are not begun either.
                Err(error) => {
                    let outcome = Outcome::of(Err(error));
                    let result = outcome.result(&host.name, None, Some(plan.version.clone()), 0.0);
                    observer.done(&result);
                    rolled.hosts.push(result);
                }
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
        if let Some(failure) = failure_of(&rolled.hosts) {
            return Err(failure);
        }
    }
    Ok(())
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
    let mut on_line = |stream: Stream, line: &[u8]| observer.line(&host.name, stream, line);
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
        outcome.and(Outcome::of(hosts::health(host, check, &mut on_line, cancel).await));
    }
    let seconds = began.elapsed().as_secs_f64();
    let result = outcome.result(&host.name, previous.version.clone(), Some(plan.version.clone()), seconds);
    observer.done(&result);
    result
}

/// Brings hosts back to what they had, newest first, over failures. `hosts` are those that the names stand for; installing an
/// older version is what this is for, so it is allowed.
pub async fn restore(
    previous: &[Previous],
    hosts: &[Host],
    timeout: Span,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Restored {
    let mut results = Vec::new();
    for previous in previous.iter().rev() {
        let result = restore_host(previous, hosts, timeout, observer, cancel).await;
        observer.done(&result);
        results.push(result);
    }
    let error = failure_of(&results);
    Restored { ok: error.is_none(), hosts: results, error }
}

async fn restore_host(
    previous: &Previous,
    known: &[Host],
    timeout: Span,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> HostResult {
    let began = tokio::time::Instant::now();
    let Some(host) = known.iter().find(|host| host.name == previous.host) else {
        let error = Some(format!("no host called {} is known any more", previous.host));
        let outcome = Outcome { code: None, output: String::new(), error };
        return outcome.result(&previous.host, None, previous.version.clone(), 0.0);
    };
    let (from, mut outcome) = match hosts::installed_version(host, &previous.package, cancel).await {
        Ok(from) => (from, put_back(previous, host, timeout, observer, cancel).await),
        Err(error) => (None, Outcome::of(Err(error))),
    };
    if outcome.error.is_none()
        && let Err(error) = hosts::forget(host, &previous.package, cancel).await
    {
        outcome.error = Some(error.to_string());
    }
    outcome.result(&host.name, from, previous.version.clone(), began.elapsed().as_secs_f64())
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
}
