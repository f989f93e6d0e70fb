//! Runner `native`: actions that are part of the binary. One file per family; each action is thin: parameters in, a function of `delivery` or a
//! question to the server, output. The table below is all there is.
//!
//! The action's input is its parameters. An action file with `runner: native` is done by the native action of its own name.

pub mod apt;
pub mod chat;
pub mod ci;
pub mod core;
pub mod deploy;
pub mod package;
mod target;

use std::fs::{File, OpenOptions};
use std::time::Duration;

use futures::future::BoxFuture;
use nix::fcntl::{Flock, FlockArg};

use super::{Done, Failure, Job, Runner};

/// A function that does an action.
pub type Function = fn(Job) -> BoxFuture<'static, Result<Done, Failure>>;

/// One action of the binary.
pub struct Entry {
    /// `pack.name`.
    pub name: &'static str,
    pub function: Function,
    /// It touches nothing but memory and the server.
    in_memory: bool,
}

/// An action that works on files, programs or hosts: it holds its step's lock.
const fn entry(name: &'static str, function: Function) -> Entry {
    Entry { name, function, in_memory: false }
}

/// An action that does not.
const fn in_memory(name: &'static str, function: Function) -> Entry {
    Entry { name, function, in_memory: true }
}

/// Every native action there is.
pub const ALL: &[Entry] = &[
    in_memory("core.noop", |job| Box::pin(core::noop(job))),
    in_memory("core.echo", |job| Box::pin(core::echo(job))),
    in_memory("core.fail", |job| Box::pin(core::fail(job))),
    in_memory("core.kv_get", |job| Box::pin(core::kv_get(job))),
    in_memory("core.kv_set", |job| Box::pin(core::kv_set(job))),
    in_memory("chat.say", |job| Box::pin(chat::say(job))),
    entry("ci.build", |job| Box::pin(ci::build(job))),
    entry("package.build", |job| Box::pin(package::build(job))),
    entry("apt.publish", |job| Box::pin(apt::publish(job))),
    entry("apt.promote", |job| Box::pin(apt::promote(job))),
    entry("deploy.roll", |job| Box::pin(deploy::roll(job))),
    entry("deploy.restore", |job| Box::pin(deploy::restore(job))),
    entry("deploy.check", |job| Box::pin(deploy::check(job))),
];

/// See the head of this file.
pub struct Native;

impl Runner for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn is_in_memory(&self, action: &str) -> bool {
        find(action).is_none_or(|entry| entry.in_memory)
    }

    fn run(&self, job: Job) -> BoxFuture<'static, Result<Done, Failure>> {
        Box::pin(run(job))
    }
}

/// The native action called `name`.
pub fn find(name: &str) -> Option<&'static Entry> {
    ALL.iter().find(|entry| entry.name == name)
}

async fn run(job: Job) -> Result<Done, Failure> {
    let Some(entry) = find(&job.action) else {
        return Err(Failure::new(format!("this version of Siskin has no native action `{}`", job.action)));
    };
    let _lock = if entry.in_memory { None } else { Some(take_lock(&job).await?) };
    (entry.function)(job).await
}

/// Between two looks at a lock that somebody else holds.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Holds the step's lock until it is dropped. For what works inside this process; programs take it themselves.
pub(super) async fn take_lock(job: &Job) -> Result<Flock<File>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(format!("the step's lock `{}` can't be taken: {error}", job.lock.display()))
    };
    let mut file = OpenOptions::new().create(true).append(true).open(&job.lock).map_err(failed)?;
    let wait = async {
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((back, nix::errno::Errno::EWOULDBLOCK)) => file = back,
                Err((_, errno)) => return Err(failed(errno.into())),
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    };
    tokio::select! {
        lock = wait => lock,
        () = job.cancel.cancelled() => Err(Failure::cancelled()),
    }
}

/// Does what blocks its thread on a thread where that harms nobody. It can't be cancelled: what is done so is short, or safe to be killed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Failure::cancelled()),
        },
    }
}
