//! `siskin apt`: a signed APT repository in a folder. Needs no server.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::delivery::apt::{self, Change, Error, Key, Mirror, Publish, Repository, Selection};
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
    /// Leave only the newest versions of each package in a suite
    Prune(PruneArgs),
    /// Let a new key sign beside the old one; with --finish, drop the old one
    RotateKey(RotateKeyArgs),
    /// Copy the repository to a web server's directory, here or over ssh
    Mirror(MirrorArgs),
    /// Set what the repository keeps to; without options, show it
    Configure(ConfigureArgs),
    /// Make a damaged suite's index anew from all packages in the pool, removed ones included
    Rebuild(RebuildArgs),
}

impl Apt {
    /// 0 when it is done, 1 when it failed, 2 when it was asked wrongly.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let done = match self {
            Apt::Publish(args) => args.run(),
            Apt::Promote(args) => args.run(),
            Apt::Remove(args) => args.run(),
            Apt::List(args) => args.run(),
            Apt::Verify(args) => args.run(),
            Apt::Refresh(args) => args.run(),
            Apt::Prune(args) => args.run(),
            Apt::RotateKey(args) => args.run(),
            Apt::Mirror(args) => args.run().await,
            Apt::Configure(args) => args.run(),
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
        self.suite.iter().try_for_each(|suite| repository.check_known_suite(suite))?;
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
pub struct PruneArgs {
    #[command(flatten)]
    place: Place,
    #[arg(long, value_name = "SUITE")]
    suite: String,
    /// How many versions of each package and architecture stay
    #[arg(long, value_name = "NUMBER")]
    keep: NonZeroUsize,
    /// What stays in any case: what hosts still run
    #[arg(long, value_name = "NAME[=VERSION]")]
    protect: Vec<Selection>,
    #[command(flatten)]
    signing: Signing,
    #[arg(long)]
    json: bool,
}

impl PruneArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        let repository = Repository::open(&self.place.repo)?;
        let key = self.signing.key(&self.place.repo)?;
        let change = repository.prune(&self.suite, self.keep, &self.protect, &key, now())?;
        report(&[change], self.json)
    }
}

#[derive(Args, Debug)]
pub struct RotateKeyArgs {
    #[command(flatten)]
    place: Place,
    /// Drop the old key; it is kept beside the key's file
    #[arg(long)]
    finish: bool,
    /// How long both keys must have signed before the old one is dropped
    #[arg(long, value_name = "DURATION", default_value = "7d")]
    overlap: Span,
    /// The file of the private key [default: keys/apt.asc in SISKIN_DATA or ~/.config/siskin]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl RotateKeyArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        let repository = Repository::open(&self.place.repo)?;
        let key = self.key.map_or_else(default_key_path, Ok)?;
        let rotation = match self.finish {
            false => repository.begin_rotation(&key, now())?,
            true => repository.finish_rotation(&key, self.overlap, now())?,
        };
        let mut out = std::io::stdout().lock();
        for key in &rotation.keys {
            writeln!(out, "signed by {key}")?;
        }
        if rotation.keys.len() > 1 {
            writeln!(
                out,
                "Let clients fetch {} again, then: siskin apt rotate-key --finish",
                repository.root().join("key.gpg").display()
            )?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args, Debug)]
pub struct MirrorArgs {
    #[command(flatten)]
    place: Place,
    /// A directory, or ssh://[USER@]HOST[:PORT]/PATH
    #[arg(value_name = "TO")]
    to: String,
    /// The private key for ssh; your own keys and agent when not said
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<PathBuf>,
    /// The file of known hosts for ssh; your own when not said
    #[arg(long, value_name = "FILE")]
    known_hosts: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

impl MirrorArgs {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let repository = Repository::open(&self.place.repo)?;
        let mirror = Mirror::parse(&self.to, self.ssh_key.as_deref(), self.known_hosts.as_deref())?;
        let done = Box::pin(repository.mirror(&mirror, &CancellationToken::new())).await?;
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&done)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        for suite in &done.suites {
            writeln!(out, "shown {suite}")?;
        }
        let apt::Mirrored { files_sent, bytes_sent, files_removed, .. } = done;
        writeln!(out, "{files_sent} files sent ({bytes_sent} bytes), {files_removed} removed")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What is not said stays as it is.
#[derive(Args, Debug)]
pub struct ConfigureArgs {
    #[command(flatten)]
    place: Place,
    #[arg(long, value_name = "TEXT")]
    origin: Option<String>,
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// After this long without a publish or refresh, clients no longer believe the index; 0s: never
    #[arg(long, value_name = "DURATION")]
    valid_for: Option<Span>,
    /// How long superseded indexes and removed packages stay for clients that are on their way
    #[arg(long, value_name = "DURATION")]
    grace: Option<Span>,
    /// The only suites that there may be, with commas between; empty: any
    #[arg(long, value_name = "SUITES")]
    suites: Option<String>,
    /// Architectures that have an index even without packages, with commas between
    #[arg(long, value_name = "ARCHS")]
    architectures: Option<String>,
}

impl ConfigureArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        let mut repository = Repository::open_or_create(&self.place.repo)?;
        let mut settings = repository.settings().clone();
        let words = |text: String| {
            text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
        };
        settings.origin = self.origin.unwrap_or(settings.origin);
        settings.label = self.label.unwrap_or(settings.label);
        settings.grace = self.grace.unwrap_or(settings.grace);
        settings.valid_for = self.valid_for.or(settings.valid_for).filter(|span| span.0 > 0);
        settings.suites = self.suites.map_or(settings.suites, words);
        settings.architectures = self.architectures.map_or(settings.architectures, words);
        if settings != *repository.settings() {
            repository.configure(settings)?;
        }
        writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(repository.settings())?)?;
        Ok(ExitCode::SUCCESS)
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
        let line = Line::try_parse_from([&["siskin apt"], arguments].concat()).unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(line.apt.run())
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
