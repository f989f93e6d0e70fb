//! Pack `apt`: `delivery::apt` on the repository that `config.apt` of siskin.yaml names.
//!
//! | action | parameters | does, and gives |
//! | --- | --- | --- |
//! | `apt.publish` | `packages`, `suite`, `component` | puts .deb files into a suite; `{suite, added, unchanged, repository}` |
//! | `apt.promote` | `package`, `from`, `to` | puts a package of one suite into another; the same |
//!
//! `config.apt`: `{repository: DIRECTORY, key: FILE}`, absolute paths; `DATA/apt` and `DATA/keys/apt.asc` when not said. The repository and the key are
//! made when they are not there.

use std::path::PathBuf;

use super::super::{Done, Failure, Job, object, optional_text, text_parameter};
use crate::delivery::apt::{self, Change, Key, Listed, Place, Publish, Repository, Selection};
use crate::model::{Timestamp, Value};

pub(super) async fn publish(job: Job) -> Result<Done, Failure> {
    let suite = text_parameter(&job.parameters, "suite")?.to_owned();
    let component = optional_text(&job.parameters, "component")?.unwrap_or("main").to_owned();
    let debs = packages(&job)?;
    change(&job, move |repository, key, now| {
        repository.publish(&Publish { suite: &suite, component: &component, debs: &debs }, key, now)
    })
    .await
}

pub(super) async fn promote(job: Job) -> Result<Done, Failure> {
    let what: Selection = text_parameter(&job.parameters, "package")?.parse().map_err(Failure::new)?;
    let from = text_parameter(&job.parameters, "from")?.to_owned();
    let to = text_parameter(&job.parameters, "to")?.to_owned();
    change(&job, move |repository, key, now| repository.promote(&what, &from, &to, key, now)).await
}

/// The files to publish.
fn packages(job: &Job) -> Result<Vec<PathBuf>, Failure> {
    let wrong = || Failure::new("`packages` must be a list of files");
    let Some(Value::Array(items)) = job.parameters.get("packages") else { return Err(wrong()) };
    let file = |item: &Value| item.as_str().map(|file| job.workspace.join(file)).ok_or_else(wrong);
    let files = items.iter().map(file).collect::<Result<Vec<_>, _>>()?;
    if files.is_empty() {
        return Err(Failure::new("`packages` is empty: there is nothing to publish"));
    }
    Ok(files)
}

/// Opens the repository and changes it.
async fn change(
    job: &Job,
    how: impl FnOnce(&Repository, &Key, Timestamp) -> Result<Change, apt::Error> + Send + 'static,
) -> Result<Done, Failure> {
    let place = place(job)?;
    let now = job.now;
    let change = super::blocking(move || -> Result<(Change, PathBuf), Failure> {
        let repository = Repository::open_or_create(&place.directory)?;
        let key = Key::for_repository(repository.root(), &place.key, now)?;
        Ok((how(&repository, &key, now)?, repository.root().to_owned()))
    });
    let (change, root) = change.await?;
    note(job, &change);
    Ok(Done::with(object([
        ("suite", Value::from(change.suite)),
        ("added", shown(&change.added)),
        ("unchanged", shown(&change.unchanged)),
        ("repository", Value::from(root.display().to_string())),
    ])))
}

/// The repository that the step means.
fn place(job: &Job) -> Result<Place, Failure> {
    let name = optional_text(&job.parameters, "repository")?;
    apt::find_place(&job.work.config, &job.data, name).map_err(Failure::new)
}

fn note(job: &Job, change: &Change) {
    for (listed, what) in [(&change.added, "is new in"), (&change.unchanged, "was already in")] {
        for package in listed {
            job.note(&format!("{} {} {what} {}", package.name, package.version, change.suite));
        }
    }
    for warning in &change.warnings {
        job.note(warning);
    }
}

fn shown(listed: &[Listed]) -> Value {
    let one = |package: &Listed| {
        object([
            ("name", Value::from(package.name.as_str())),
            ("version", Value::from(package.version.as_str())),
            ("architecture", Value::from(package.architecture.as_str())),
            ("sha256", Value::from(package.sha256.as_str())),
        ])
    };
    listed.iter().map(one).collect()
}

impl From<apt::Error> for Failure {
    fn from(error: apt::Error) -> Failure {
        Failure::new(error.to_string())
    }
}
