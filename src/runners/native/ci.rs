//! Pack `ci`: `delivery::ci` on a checkout in the run's workspace.
//!
//! | action | parameters | does, and gives |
//! | --- | --- | --- |
//! | `ci.build` | `repository`, `commit`, `branch` | checks the commit out and runs `script/cisetup` and `script/cibuild` in it; `{commit, directory}` |

use super::super::{Done, Failure, Job, object, optional_text, text_parameter};
use crate::delivery::ci::{self, Build, CiError};
use crate::git::{self, Checkout, GitError};
use crate::model::Value;
use crate::model::log::Stream;

/// Where in the workspace the build happens.
const DIRECTORY: &str = "source";

pub(super) async fn build(job: Job) -> Result<Done, Failure> {
    let checkout = checkout(&job, DIRECTORY).await?;
    let directory = job.workspace.join(DIRECTORY);
    let convention = ci::read(&directory)?;
    let build = Build {
        commit: checkout.commit.clone(),
        branch: optional_text(&job.parameters, "branch")?.unwrap_or_default().to_owned(),
        env: job.environment(),
        timeout: job.timeout,
        lock: Some(job.child_lock("ci")),
    };
    let mut on_line = |stream: Stream, line: &[u8]| super::super::say(&*job.line, stream, line);
    ci::run(&convention, &build, &mut on_line, &job.cancel).await?;
    let directory = Value::from(directory.display().to_string());
    Ok(Done::with(object([("commit", Value::from(checkout.commit)), ("directory", directory)])))
}

/// The files of the commit that the parameters name, in a directory of the workspace.
pub(super) async fn checkout(job: &Job, directory: &str) -> Result<Checkout, Failure> {
    let repository = git::Repository::new(text_parameter(&job.parameters, "repository")?)?;
    let commit = text_parameter(&job.parameters, "commit")?;
    let checkout = git::checkout(&repository, commit, &job.workspace.join(directory), &job.cancel).await?;
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
