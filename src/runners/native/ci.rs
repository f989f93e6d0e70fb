//! Pack `ci`: `delivery::ci` on a checkout in the run's workspace.
//!
//! | action | parameters | does, and gives |
//! | --- | --- | --- |
//! | `ci.build` | `repository`, `commit`, `branch`, `cache`, `cache_key`, `junit`, `container` | checks the commit out and runs `script/cisetup` and `script/cibuild` in it; `{commit, directory, cache, tests}` |
//!
//! What outlives a build lies in `DATA/cache`: copies of repositories (`git/`), so that a build fetches only what is new, and what `cache` names
//! (`ci/`). `config.ci`: `{engine: PROGRAM}`, docker or podman, for `container`.

use std::path::Path;

use super::super::{Done, Failure, Job, optional_text, text_parameter};
use crate::delivery::ci::cache::{Cache, Kept};
use crate::delivery::ci::container::Container;
use crate::delivery::ci::{self, Build, CiError, junit};
use crate::git::{self, Checkout, GitError};
use crate::model::log::Stream;
use crate::model::{Object, Value};

/// Where in the workspace the build happens.
const DIRECTORY: &str = "source";
/// How much one cache may hold when nothing is said, in MiB.
const CACHE_MEGABYTES: u64 = 2048;

pub(super) async fn build(job: Job) -> Result<Done, Failure> {
    let cache = cache(&job)?;
    let reports = texts(&job, "junit")?;
    let container = container(&job)?;
    let checkout = checkout(&job, DIRECTORY).await?;
    let directory = job.workspace.join(DIRECTORY);
    let convention = ci::read(&directory)?;
    let mut output = Object::new();
    output.insert("commit".to_owned(), Value::from(checkout.commit.clone()));
    output.insert("directory".to_owned(), Value::from(directory.display().to_string()));
    if let Some(cache) = &cache {
        let found = restore(&job, cache, &directory).await;
        output.insert("cache".to_owned(), Value::from(found));
    }
    let build = Build {
        commit: checkout.commit.clone(),
        branch: optional_text(&job.parameters, "branch")?.unwrap_or_default().to_owned(),
        env: job.environment(),
        timeout: job.timeout,
        lock: Some(job.child_lock("ci")),
        container,
    };
    let mut on_line = |stream: Stream, line: &[u8]| super::super::say(&*job.line, stream, line);
    let done = ci::run(&convention, &build, &mut on_line, &job.cancel).await;
    if !reports.is_empty() && !job.cancel.is_cancelled() {
        let place = directory.clone();
        let tests = super::blocking(move || Ok(junit::collect(&place, &reports))).await?;
        for problem in &tests.problems {
            job.note(problem);
        }
        output.insert("tests".to_owned(), tests.value());
    }
    if let Err(error) = done {
        return Err(Failure::from(error).showing(Value::Object(output)));
    }
    if let Some(cache) = cache {
        keep(&job, cache, &directory).await;
    }
    Ok(Done::with(Value::Object(output)))
}

fn cache(job: &Job) -> Result<Option<Cache>, Failure> {
    let paths = texts(job, "cache")?;
    if paths.is_empty() {
        return Ok(None);
    }
    let key = match optional_text(&job.parameters, "cache_key")? {
        Some(key) => key.to_owned(),
        None => git::Repository::new(text_parameter(&job.parameters, "repository")?)?.shown(),
    };
    let megabytes = job.parameters.get("cache_megabytes").and_then(Value::as_u64).unwrap_or(CACHE_MEGABYTES);
    let bytes = megabytes.saturating_mul(1024 * 1024);
    Cache::new(&job.data.join("cache/ci"), &key, paths, bytes).map(Some).map_err(Failure::new)
}

/// What an earlier build left. A cache is a help only: a build goes on without it.
async fn restore(job: &Job, cache: &Cache, directory: &Path) -> bool {
    let (cache, directory) = (cache.clone(), directory.to_owned());
    match super::blocking(move || cache.restore(&directory).map_err(Failure::new)).await {
        Ok(found) => {
            job.note(if found {
                "what earlier builds kept is there"
            } else {
                "nothing was kept by earlier builds"
            });
            found
        }
        Err(failure) => {
            job.note(&format!("what earlier builds kept can't be used: {}", failure.error.message));
            false
        }
    }
}

async fn keep(job: &Job, cache: Cache, directory: &Path) {
    let (directory, now) = (directory.to_owned(), job.now);
    match super::blocking(move || cache.keep(&directory, now).map_err(Failure::new)).await {
        Ok(Kept::Bytes(bytes)) => job.note(&format!("{bytes} bytes are kept for the next build")),
        Ok(Kept::TooMuch(most)) => {
            job.note(&format!("nothing is kept for the next build: it is more than {most} bytes"))
        }
        Ok(Kept::Nothing) => job.note("nothing is kept for the next build: none of the paths is there"),
        Err(failure) => job.note(&format!("nothing is kept for the next build: {}", failure.error.message)),
    }
}

fn container(job: &Job) -> Result<Option<Container>, Failure> {
    let Some(image) = optional_text(&job.parameters, "container")? else { return Ok(None) };
    let engine = optional_text(&job.work.config, "engine")?;
    // The same for all attempts of a step: what one of them left is ended before the next begins.
    let name = format!(
        "siskin-{}-{}-{}",
        short(&job.data.display().to_string()),
        job.key.run,
        short(&job.lock.display().to_string())
    );
    Container::new(engine, image, &name, &job.workspace).map(Some).map_err(Failure::new)
}

fn short(text: &str) -> String {
    use sha2::Digest;
    hex::encode(&sha2::Sha256::digest(text)[..5])
}

/// A list of texts, or one.
fn texts(job: &Job, name: &str) -> Result<Vec<String>, Failure> {
    let wrong = || Failure::new(format!("`{name}` must be a list of texts"));
    match job.parameters.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

/// The files of the commit that the parameters name, in a directory of the workspace.
pub(super) async fn checkout(job: &Job, directory: &str) -> Result<Checkout, Failure> {
    let repository = git::Repository::new(text_parameter(&job.parameters, "repository")?)?;
    let commit = text_parameter(&job.parameters, "commit")?;
    let directory = job.workspace.join(directory);
    let keep = job.data.join("cache/git");
    let checkout = git::checkout_kept(&repository, commit, &directory, &keep, job.now, &job.cancel).await?;
    job.note(&format!("checked out {} of {}: {}", checkout.commit, repository.shown(), checkout.subject));
    Ok(checkout)
}

impl From<GitError> for Failure {
    fn from(error: GitError) -> Failure {
        Failure::new(error.to_string())
    }
}

impl From<CiError> for Failure {
    fn from(error: CiError) -> Failure {
        match error {
            CiError::Cancelled => Failure::cancelled(),
            other => Failure::new(other.to_string()),
        }
    }
}
