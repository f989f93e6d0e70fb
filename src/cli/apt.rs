//! `siskin apt`: a signed APT repository in a folder. Needs no server.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};

use crate::clock::Clock;
use crate::delivery::apt::{self, Change, Error, Key, Publish, Repository, Selection};
use crate::model::{Span, Timestamp};

/// Publish packages in a signed APT repository.
#[derive(Debug, Subcommand)]
pub enum Apt {
    /// Put packages into a suite
    Publish(PublishArgs),
    /// Put the very package that one suite holds into another
    Promote(PromoteArgs),
    /// Take packages out of a suite
    Remove(RemoveArgs),
    /// Show what is published
    List(ListArgs),
    /// Check signatures, indexes and packages
    Verify(VerifyArgs),
    /// Sign a suite again with a new date
    Refresh(RefreshArgs),
    /// Make a damaged suite's index anew from all packages in the pool, removed ones included
    Rebuild(RebuildArgs),
}

impl Apt {
    /// 0 when it is done, 1 when it failed, 2 when it was asked wrongly.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let done = match self {
            Apt::Publish(args) => args.run(),
            Apt::Promote(args) => args.run(),
            Apt::Remove(args) => args.run(),
            Apt::List(args) => args.run(),
            Apt::Verify(args) => args.run(),
            Apt::Refresh(args) => args.run(),
            Apt::Rebuild(args) => args.run(),
        };
        match done {
            Err(error) if matches!(error.downcast_ref(), Some(Error::Refused(_))) => {
                writeln!(std::io::stderr(), "siskin apt: {error}")?;
                Ok(ExitCode::from(2))
            }
            other => other,
        }
    }
}

#[derive(Args, Debug)]
struct Place {
    /// The repository's folder
    #[arg(long, value_name = "DIR")]
    repo: PathBuf,
}

#[derive(Args, Debug)]
struct Signing {
    /// The private key; made here when neither this file nor the repository has one
    /// [default: keys/apt.asc in SISKIN_DATA or ~/.config/siskin]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl Signing {
    fn key(&self, repository: &Path) -> anyhow::Result<Key> {
        let path = match &self.key {
            Some(path) => path.clone(),
            None => default_key_path()?,
        };
        Ok(Key::for_repository(repository, &path, now())?)
    }
}

/// Where the key lies when nobody says otherwise: with SISKIN_DATA, where a server of that data directory has it.
pub(super) fn default_key_path() -> anyhow::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("SISKIN_DATA")
        .or_else(|| set("XDG_CONFIG_HOME").map(|config| config.join("siskin")))
        .or_else(|| set("HOME").map(|home| home.join(".config/siskin")));
    let folder = folder
        .context("no place for the signing key is known: give --key FILE, or set SISKIN_DATA or HOME")?;
    Ok(folder.join("keys/apt.asc"))
}

#[derive(Args, Debug)]
pub struct PublishArgs {
    #[command(flatten)]
    place: Place,
    /// The suite; several with commas between
    #[arg(long, value_name = "SUITE", value_delimiter = ',', required = true)]
    suite: Vec<String>,
    #[arg(long, value_name = "NAME", default_value = "main")]
    component: String,
    #[command(flatten)]
    signing: Signing,
    /// What Release says of where the packages come from; kept
    #[arg(long, value_name = "TEXT")]
    origin: Option<String>,
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// After this long without a publish or refresh, clients no longer believe the index; kept
    #[arg(long, value_name = "DURATION")]
    valid_for: Option<Span>,
    /// An architecture that has an index even without packages; kept
    #[arg(long, value_name = "ARCH")]
    architecture: Vec<String>,
    #[arg(long)]
    json: bool,
    #[arg(value_name = "FILE.deb", required = true)]
    debs: Vec<PathBuf>,
}

impl PublishArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        // Names and packages are judged before a folder or a key is made.
        self.suite.iter().try_for_each(|suite| apt::check_suite(suite))?;
        apt::check_component(&self.component)?;
        for deb in &self.debs {
            crate::delivery::deb::inspect(deb)?;
        }
        let key = self.signing.key(&self.place.repo)?;
        let mut repository = Repository::open_or_create(&self.place.repo)?;
        let mut settings = repository.settings().clone();
        settings.origin = self.origin.unwrap_or(settings.origin);
        settings.label = self.label.unwrap_or(settings.label);
        settings.valid_for = self.valid_for.or(settings.valid_for);
        settings.architectures.extend(self.architecture);
        settings.architectures.sort();
        settings.architectures.dedup();
        if settings != *repository.settings() {
            repository.configure(settings)?;
        }
        let mut changes = Vec::new();
        for suite in &self.suite {
            let order = Publish { suite, component: &self.component, debs: &self.debs };
            changes.push(repository.publish(&order, &key, now())?);
        }
        report(&changes, self.json)
    }
}

#[derive(Args, Debug)]
pub struct PromoteArgs {
    #[command(flatten)]
    place: Place,
    #[arg(long, value_name = "SUITE")]
    from: String,
    #[arg(long, value_name = "SUITE")]
    to: String,
    #[command(flatten)]
    signing: Signing,
    #[arg(long)]
    json: bool,
    /// The package; its newest version when none is named
    #[arg(value_name = "NAME[=VERSION]", required = true)]
    packages: Vec<Selection>,
}

impl PromoteArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        let repository = Repository::open(&self.place.repo)?;
        let key = self.signing.key(&self.place.repo)?;
        let mut changes = Vec::new();
        for what in &self.packages {
            changes.push(repository.promote(what, &self.from, &self.to, &key, now())?);
        }
        report(&changes, self.json)
    }
}

#[derive(Args, Debug)]
pub struct RemoveArgs {
    #[command(flatten)]
    place: Place,
    #[arg(long, value_name = "SUITE")]
    suite: String,
    #[command(flatten)]
    signing: Signing,
    #[arg(long)]
    json: bool,
    /// The package; all its versions when none is named
    #[arg(value_name = "NAME[=VERSION]", required = true)]
    packages: Vec<Selection>,
}

impl RemoveArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        let repository = Repository::open(&self.place.repo)?;
        let key = self.signing.key(&self.place.repo)?;
        let mut changes = Vec::new();
        for what in &self.packages {
            changes.push(repository.remove(what, &self.suite, &key, now())?);
        }
        report(&changes, self.json)
    }
}

#[derive(Args, Debug)]
pub struct RefreshArgs {
    #[command(flatten)]
    place: Place,
    #[arg(long, value_name = "SUITE")]
    suite: String,
    #[command(flatten)]
    signing: Signing,
}

impl RefreshArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        let repository = Repository::open(&self.place.repo)?;
        let key = self.signing.key(&self.place.repo)?;
        let change = repository.refresh(&self.suite, &key, now())?;
        report(&[change], false)
    }
}

#[derive(Args, Debug)]
pub struct RebuildArgs {
    #[command(flatten)]
    place: Place,
    #[arg(long, value_name = "SUITE")]
    suite: String,
    #[arg(long, value_name = "NAME", default_value = "main")]
    component: String,
    #[command(flatten)]
    signing: Signing,
}

impl RebuildArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        let repository = Repository::open(&self.place.repo)?;
        let key = self.signing.key(&self.place.repo)?;
        let change = repository.rebuild(&self.suite, &self.component, &key, now())?;
        report(&[change], false)
    }
}

#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    place: Place,
    #[arg(long, value_name = "SUITE")]
    suite: Option<String>,
    #[arg(long)]
    json: bool,
}

impl ListArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        let packages = Repository::open(&self.place.repo)?.list(self.suite.as_deref())?;
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&packages)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        for package in packages {
            let apt::Listed { suite, component, name, version, architecture, .. } = package;
            writeln!(out, "{suite}/{component} {name} {version} {architecture}")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args, Debug)]
pub struct VerifyArgs {
    #[command(flatten)]
    place: Place,
    #[arg(long)]
    json: bool,
}

impl VerifyArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        let found = Repository::open(&self.place.repo)?.verify(now())?;
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&found)?)?;
        } else {
            for problem in &found.problems {
                writeln!(out, "{problem}")?;
            }
            writeln!(
                out,
                "{} suites, {} packages, {} problems",
                found.suites,
                found.packages,
                found.problems.len()
            )?;
        }
        Ok(if found.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn report(changes: &[Change], as_json: bool) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if as_json {
        writeln!(out, "{}", serde_json::to_string_pretty(changes)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for change in changes {
        let said = [(&change.added, "added"), (&change.removed, "removed"), (&change.unchanged, "unchanged")];
        for (packages, what) in said {
            for package in packages {
                let apt::Listed { suite, component, name, version, architecture, .. } = package;
                writeln!(out, "{what} {suite}/{component} {name} {version} {architecture}")?;
            }
        }
        for warning in &change.warnings {
            writeln!(std::io::stderr(), "warning: {warning}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn now() -> Timestamp {
    Clock::wall().now()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        apt: Apt,
    }

    fn apt(arguments: &[&str]) -> anyhow::Result<ExitCode> {
        Line::try_parse_from([&["siskin apt"], arguments].concat()).unwrap().apt.run()
    }

    #[test]
    fn a_wrong_suite_is_bad_use_and_makes_no_folder() {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path().join("repository");
        let place = place.to_str().unwrap();
        let done = apt(&["publish", "--repo", place, "--suite", "a/b", "x.deb"]).unwrap();
        assert_eq!(done, ExitCode::from(2));
        assert!(apt(&["publish", "--repo", place, "--suite", "a", "/nonexistent.deb"]).is_err());
        assert!(apt(&["list", "--repo", place]).is_err());
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn several_suites_stand_behind_commas() {
        let line = Line::try_parse_from(["siskin apt", "publish", "--repo", "r", "--suite", "a,b", "x.deb"])
            .unwrap();
        let Apt::Publish(args) = line.apt else { panic!("it is a publish") };
        assert_eq!(args.suite, ["a", "b"]);
    }
}
