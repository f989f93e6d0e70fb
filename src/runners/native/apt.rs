//! Pack `apt`: `delivery::apt` on the repositories that `config.apt` of siskin.yaml names.
//!
//! | action | parameters | does, and gives |
//! | --- | --- | --- |
//! | `apt.publish` | `packages`, `suite`, `component` | puts .deb files into a suite, or several with commas between; `{suite, added, unchanged, repository}` |
//! | `apt.promote` | `package`, `from`, `to` | puts a package of one suite into another; the same |
//! | `apt.remove` | `package`, `suite` | takes a package out of a suite; `{suite, removed, repository}` |
//! | `apt.prune` | `suite`, `keep`, `protect` | leaves the newest versions of each package; the same |
//! | `apt.refresh` | `suite` | signs suites again with a new date; `{suites, repository}` |
//! | `apt.rotate_key` | `finish`, `overlap` | lets a new key sign beside the old one, or drops the old one; `{keys, suites, repository}` |
//! | `apt.list` | `suite` | what is published; `{packages, repository}` |
//! | `apt.verify` | | whether all is as clients need it; `{suites, packages, problems, repository}` |
//! | `apt.mirror` | `to` | brings copies up to date; `{mirrors, repository}` |
//!
//! Each takes `repository`, a name of `config.apt.repositories`. `config.apt`: `{repository: DIRECTORY, key: FILE, mirrors: [..]}`, absolute paths;
//! `DATA/apt` and `DATA/keys/apt.asc` when not said. The repository and the key are made when they are not there. What changes a repository brings its
//! mirrors up to date before it is done; done again, it goes on with those.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::super::{Done, Failure, Job, object, optional_text, text_parameter};
use crate::delivery::apt::{
    self, Change, Key, Listed, Mirror, Mirrored, Place, Publish, Repository, Selection, check_suite,
};
use crate::model::{Object, Span, Timestamp, Value};

/// How long both keys sign at least when nothing is said.
const OVERLAP: Span = Span::days(7);

pub(super) async fn publish(job: Job) -> Result<Done, Failure> {
    let suites = suites(text_parameter(&job.parameters, "suite")?)?;
    let component = optional_text(&job.parameters, "component")?.unwrap_or("main").to_owned();
    let debs = packages(&job)?;
    change(&job, move |repository, key, now| {
        // All names are judged before the first suite changes.
        suites.iter().try_for_each(|suite| repository.check_known_suite(suite))?;
        let order = |suite| Publish { suite, component: &component, debs: &debs };
        suites.iter().map(|suite| repository.publish(&order(suite), key, now)).collect()
    })
    .await
}

pub(super) async fn promote(job: Job) -> Result<Done, Failure> {
    let what = selection(text_parameter(&job.parameters, "package")?)?;
    let from = text_parameter(&job.parameters, "from")?.to_owned();
    let to = text_parameter(&job.parameters, "to")?.to_owned();
    change(&job, move |repository, key, now| Ok(vec![repository.promote(&what, &from, &to, key, now)?])).await
}

pub(super) async fn remove(job: Job) -> Result<Done, Failure> {
    let what = selection(text_parameter(&job.parameters, "package")?)?;
    let suite = text_parameter(&job.parameters, "suite")?.to_owned();
    let is_again = job.key.number > 1;
    change(&job, move |repository, key, now| match repository.remove(&what, &suite, key, now) {
        // An attempt before this one may have been killed between the removal and its answer.
        Err(apt::Error::NotFound(_)) if is_again => Ok(vec![Change { suite, ..Change::default() }]),
        done => Ok(vec![done?]),
    })
    .await
}

pub(super) async fn prune(job: Job) -> Result<Done, Failure> {
    let suite = text_parameter(&job.parameters, "suite")?.to_owned();
    let keep = job.parameters.get("keep").and_then(Value::as_u64).and_then(|keep| usize::try_from(keep).ok());
    let keep = keep
        .and_then(NonZeroUsize::new)
        .ok_or_else(|| Failure::new("`keep` must be a whole number from 1 on"))?;
    let protect = match job.parameters.get("protect") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => {
            let one = |item: &Value| item.as_str().map_or_else(|| Err(no_protection()), selection);
            items.iter().map(one).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(no_protection()),
    };
    change(&job, move |repository, key, now| Ok(vec![repository.prune(&suite, keep, &protect, key, now)?]))
        .await
}

fn no_protection() -> Failure {
    Failure::new("`protect` must be a list of NAME=VERSION")
}

pub(super) async fn refresh(job: Job) -> Result<Done, Failure> {
    let wanted = optional_text(&job.parameters, "suite")?.map(suites).transpose()?;
    let place = place(&job)?;
    let now = job.now;
    let root = place.directory.clone();
    let (key, all) = (place.key.clone(), wanted);
    let suites = super::blocking(move || -> Result<Vec<String>, Failure> {
        let repository = Repository::open(&root)?;
        let key = Key::for_repository(repository.root(), &key, now)?;
        let suites = all.map_or_else(|| repository.suites(), Ok)?;
        for suite in &suites {
            repository.refresh(suite, &key, now)?;
        }
        Ok(suites)
    })
    .await?;
    let mirrors = bring_up_to_date(&job, &place, None).await?;
    Ok(Done::with(with_mirrors(
        [("suites", Value::from(suites)), ("repository", shown_path(&place))],
        &mirrors,
    )))
}

pub(super) async fn rotate_key(job: Job) -> Result<Done, Failure> {
    let place = place(&job)?;
    let finish = job.parameters.get("finish").and_then(Value::as_bool).unwrap_or(false);
    let overlap = match optional_text(&job.parameters, "overlap")? {
        None => OVERLAP,
        Some(text) => text.parse().map_err(|error| Failure::new(format!("`overlap`: {error}")))?,
    };
    let (root, key, now) = (place.directory.clone(), place.key.clone(), job.now);
    let rotation = super::blocking(move || -> Result<apt::Rotation, Failure> {
        let repository = Repository::open(&root)?;
        Ok(match finish {
            false => repository.begin_rotation(&key, now)?,
            true => repository.finish_rotation(&key, overlap, now)?,
        })
    })
    .await?;
    job.note(&format!("signed by {}", rotation.keys.join(" and ")));
    let mirrors = bring_up_to_date(&job, &place, None).await?;
    let output = [
        ("keys", Value::from(rotation.keys)),
        ("suites", Value::from(rotation.suites)),
        ("repository", shown_path(&place)),
    ];
    Ok(Done::with(with_mirrors(output, &mirrors)))
}

pub(super) async fn list(job: Job) -> Result<Done, Failure> {
    let place = place(&job)?;
    let suite = optional_text(&job.parameters, "suite")?.map(str::to_owned);
    let root = place.directory.clone();
    let packages = super::blocking(move || Ok(Repository::open(&root)?.list(suite.as_deref())?)).await?;
    let packages = serde_json::to_value(packages).map_err(|error| Failure::new(error.to_string()))?;
    Ok(Done::with(object([("packages", packages), ("repository", shown_path(&place))])))
}

pub(super) async fn verify(job: Job) -> Result<Done, Failure> {
    let place = place(&job)?;
    let (root, now) = (place.directory.clone(), job.now);
    let report = super::blocking(move || Ok(Repository::open(&root)?.verify(now)?)).await?;
    let output = object([
        ("suites", Value::from(report.suites)),
        ("packages", Value::from(report.packages)),
        ("problems", Value::from(report.problems.clone())),
        ("repository", shown_path(&place)),
    ]);
    let Some(first) = report.problems.first() else { return Ok(Done::with(output)) };
    let more = report.problems.len() - 1;
    let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
    Err(Failure::new(format!("{}: {first}{more}", place.directory.display())).showing(output))
}

pub(super) async fn mirror(job: Job) -> Result<Done, Failure> {
    let place = place(&job)?;
    let to = optional_text(&job.parameters, "to")?;
    if to.is_none() && place.mirrors.is_empty() {
        return Err(Failure::new("no mirror is named: give `to`, or `config.apt.mirrors` in siskin.yaml"));
    }
    let mirrors = bring_up_to_date(&job, &place, to).await?;
    Ok(Done::with(with_mirrors([("repository", shown_path(&place))], &mirrors)))
}

fn selection(text: &str) -> Result<Selection, Failure> {
    text.parse().map_err(Failure::new)
}

/// Suites with commas between.
fn suites(text: &str) -> Result<Vec<String>, Failure> {
    let suites: Vec<String> = text.split(',').map(|suite| suite.trim().to_owned()).collect();
    suites.iter().try_for_each(|suite| check_suite(suite))?;
    Ok(suites)
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

/// Opens the repository and changes it; then its mirrors.
async fn change(
    job: &Job,
    how: impl FnOnce(&Repository, &Key, Timestamp) -> Result<Vec<Change>, apt::Error> + Send + 'static,
) -> Result<Done, Failure> {
    let place = place(job)?;
    let (root, key, now) = (place.directory.clone(), place.key.clone(), job.now);
    let changes = super::blocking(move || -> Result<Vec<Change>, Failure> {
        let repository = Repository::open_or_create(&root)?;
        let key = Key::for_repository(repository.root(), &key, now)?;
        Ok(how(&repository, &key, now)?)
    })
    .await?;
    changes.iter().for_each(|change| note(job, change));
    let mirrors = bring_up_to_date(job, &place, None).await?;
    let suites: Vec<&str> = changes.iter().map(|change| change.suite.as_str()).collect();
    let all =
        |of: fn(&Change) -> &[Listed]| changes.iter().flat_map(|change| shown(change, of(change))).collect();
    let output = [
        ("suite", Value::from(suites.join(","))),
        ("added", all(|change| &change.added)),
        ("unchanged", all(|change| &change.unchanged)),
        ("removed", all(|change| &change.removed)),
        ("repository", shown_path(&place)),
    ];
    Ok(Done::with(with_mirrors(output, &mirrors)))
}

/// Copies the repository to the mirror `to`, or to all that siskin.yaml names.
async fn bring_up_to_date(job: &Job, place: &Place, to: Option<&str>) -> Result<Vec<Mirrored>, Failure> {
    let mirrors = match to {
        Some(to) => vec![Mirror::parse(to, place.ssh_key.as_deref(), place.known_hosts.as_deref())?],
        None => Mirror::all_of(place)?,
    };
    let mut done = Vec::new();
    for mirror in mirrors {
        let (root, cancel) = (place.directory.clone(), job.cancel.clone());
        let runtime = tokio::runtime::Handle::current();
        // It waits for the disk and for locks in between.
        let mirrored = super::blocking(move || {
            let repository = Repository::open(&root)?;
            runtime.block_on(repository.mirror(&mirror, &cancel)).map_err(|error| {
                match cancel.is_cancelled() {
                    true => Failure::cancelled(),
                    false => Failure::from(error),
                }
            })
        })
        .await?;
        job.note(&format!("{} has {} files more", mirrored.mirror, mirrored.files_sent));
        done.push(mirrored);
    }
    Ok(done)
}

fn with_mirrors<const N: usize>(output: [(&str, Value); N], mirrors: &[Mirrored]) -> Value {
    let mut output: Object = output.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mirrors = mirrors.iter().map(|mirror| {
        object([
            ("mirror", Value::from(mirror.mirror.as_str())),
            ("files_sent", Value::from(mirror.files_sent)),
            ("bytes_sent", Value::from(mirror.bytes_sent)),
            ("files_removed", Value::from(mirror.files_removed)),
        ])
    });
    output.insert("mirrors".to_owned(), mirrors.collect());
    Value::Object(output)
}

fn shown_path(place: &Place) -> Value {
    Value::from(place.directory.display().to_string())
}

/// The repository that the step means.
fn place(job: &Job) -> Result<Place, Failure> {
    let name = optional_text(&job.parameters, "repository")?;
    apt::find_place(&job.work.config, &job.data, name).map_err(Failure::new)
}

fn note(job: &Job, change: &Change) {
    let said = [
        (&change.added, "is new in"),
        (&change.unchanged, "was already in"),
        (&change.removed, "is gone from"),
    ];
    for (listed, what) in said {
        for package in listed {
            job.note(&format!("{} {} {what} {}", package.name, package.version, change.suite));
        }
    }
    for warning in &change.warnings {
        job.note(warning);
    }
}

fn shown(change: &Change, listed: &[Listed]) -> Vec<Value> {
    let one = |package: &Listed| {
        object([
            ("name", Value::from(package.name.as_str())),
            ("version", Value::from(package.version.as_str())),
            ("architecture", Value::from(package.architecture.as_str())),
            ("sha256", Value::from(package.sha256.as_str())),
            ("suite", Value::from(change.suite.as_str())),
        ])
    };
    listed.iter().map(one).collect()
}

impl From<apt::Error> for Failure {
    fn from(error: apt::Error) -> Failure {
        Failure::new(error.to_string())
    }
}
