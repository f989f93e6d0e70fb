//! Runner `native`: actions that are part of the binary. One file per family; each action is thin: parameters in, a function of `delivery` or a
//! question to the server, output. The table below is all there is.
//!
//! The action's input is its parameters. An action file with `runner: native` is done by the native action of its own name.

pub mod apt;
pub mod chat;
pub mod ci;
pub mod consul;
pub mod core;
pub mod deploy;
pub mod forge;
mod gitlab;
pub mod jenkins;
pub mod package;
mod advert;
mod analyse;
mod balancer;
mod inventory;
mod shift;
mod target;
mod way_back;

use std::fs::{File, OpenOptions};
use std::time::Duration;

use futures::future::BoxFuture;
use nix::fcntl::{Flock, FlockArg};

use super::{Done, Failure, Job, Runner};
use crate::model::Value;

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
    entry("jenkins.build", |job| Box::pin(jenkins::build(job))),
    entry("jenkins.start", |job| Box::pin(jenkins::start(job))),
    in_memory("jenkins.status", |job| Box::pin(jenkins::status(job))),
    in_memory("jenkins.abort", |job| Box::pin(jenkins::abort(job))),
    in_memory("jenkins.job", |job| Box::pin(jenkins::job(job))),
    in_memory("github.status", |job| Box::pin(forge::github_status(job))),
    in_memory("github.check", |job| Box::pin(forge::github_check(job))),
    in_memory("github.comment", |job| Box::pin(forge::github_comment(job))),
    in_memory("github.pull_request", |job| Box::pin(forge::github_pull_request(job))),
    in_memory("github.release", |job| Box::pin(forge::github_release(job))),
    in_memory("github.deployment", |job| Box::pin(forge::github_deployment(job))),
    in_memory("gitlab.status", |job| Box::pin(forge::gitlab_status(job))),
    in_memory("gitlab.comment", |job| Box::pin(gitlab::comment(job))),
    in_memory("gitlab.merge_request", |job| Box::pin(gitlab::merge_request(job))),
    in_memory("gitlab.release", |job| Box::pin(gitlab::release(job))),
    in_memory("gitlab.deployment", |job| Box::pin(gitlab::deployment(job))),
    in_memory("gitea.status", |job| Box::pin(forge::gitea_status(job))),
    in_memory("gitea.comment", |job| Box::pin(forge::gitea_comment(job))),
    in_memory("gitea.pull_request", |job| Box::pin(forge::gitea_pull_request(job))),
    in_memory("gitea.release", |job| Box::pin(forge::gitea_release(job))),
    entry("package.build", |job| Box::pin(package::build(job))),
    entry("apt.publish", |job| Box::pin(apt::publish(job))),
    entry("apt.promote", |job| Box::pin(apt::promote(job))),
    entry("apt.remove", |job| Box::pin(apt::remove(job))),
    entry("apt.prune", |job| Box::pin(apt::prune(job))),
    entry("apt.refresh", |job| Box::pin(apt::refresh(job))),
    entry("apt.rotate_key", |job| Box::pin(apt::rotate_key(job))),
    entry("apt.list", |job| Box::pin(apt::list(job))),
    entry("apt.verify", |job| Box::pin(apt::verify(job))),
    entry("apt.mirror", |job| Box::pin(apt::mirror(job))),
    entry("deploy.roll", |job| Box::pin(deploy::roll(job))),
    entry("deploy.restore", |job| Box::pin(deploy::restore(job))),
    entry("deploy.check", |job| Box::pin(deploy::check(job))),
    entry("deploy.hosts", |job| Box::pin(deploy::hosts_of(job))),
    entry("deploy.shift", |job| Box::pin(shift::shift(job))),
    entry("deploy.analyse", |job| Box::pin(analyse::analyse(job))),
    entry("deploy.way_back", |job| Box::pin(way_back::way_back(job))),
    entry("consul.kv_get", |job| Box::pin(consul::kv_get(job))),
    entry("consul.kv_list", |job| Box::pin(consul::kv_list(job))),
    entry("consul.kv_put", |job| Box::pin(consul::kv_put(job))),
    entry("consul.kv_delete", |job| Box::pin(consul::kv_delete(job))),
    entry("consul.services", |job| Box::pin(consul::services(job))),
    entry("consul.service", |job| Box::pin(consul::service(job))),
    entry("consul.session_create", |job| Box::pin(consul::session_create(job))),
    entry("consul.session_renew", |job| Box::pin(consul::session_renew(job))),
    entry("consul.session_destroy", |job| Box::pin(consul::session_destroy(job))),
    entry("consul.lock_acquire", |job| Box::pin(consul::lock_acquire(job))),
    entry("consul.lock_release", |job| Box::pin(consul::lock_release(job))),
    entry("consul.event_fire", |job| Box::pin(consul::event_fire(job))),
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

async fn run(mut job: Job) -> Result<Done, Failure> {
    lay_input_over_section(&mut job);
    let Some(entry) = find(&job.action) else {
        return Err(Failure::new(format!("this version of Siskin has no native action `{}`", job.action)));
    };
    let _lock = if entry.in_memory { None } else { Some(take_lock(&job).await?) };
    (entry.function)(job).await
}

/// What the action's file gives it beside its input is for where the input says nothing.
fn lay_input_over_section(job: &mut Job) {
    let (Value::Object(section), Value::Object(input)) = (&mut job.parameters, &job.input) else { return };
    let said = input.iter().filter(|(name, value)| !value.is_null() || !section.contains_key(*name));
    let said: Vec<(String, Value)> = said.map(|(name, value)| (name.clone(), value.clone())).collect();
    section.extend(said);
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
