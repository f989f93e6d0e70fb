//! Signed APT repositories in a directory, which any web server, or `file:`, can serve.
//!
//! Promises: a publish is refused before anything changes, or appears whole. A suite is a link to a finished generation;
//! swapping that link is the one moment at which clients see something new, so a kill at any step leaves the old index or the
//! new one, signed. Indexes are also kept by their hash for a while after they are superseded: a client that read the old
//! `InRelease` still finds what it names. Two publishers at once take turns. A version's bytes never change.
//!
//! What is published is what the published `Packages` say; there is no second record that could differ.
//! Calls block: they read, hash, compress and wait for the disk and for the lock.

mod disk;
mod generation;
mod index;
mod mirror;
mod places;
mod plan;
mod pool;
mod publish;
mod rotate;
mod sign;
mod suite;
mod verify;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use disk::{Steps, Unhindered};
pub use mirror::{Mirror, Mirrored};
pub use places::{Place, find as find_place, places};
pub use rotate::Rotation;
pub use sign::{Key, Public};
pub use verify::Report;

use crate::delivery::deb;
use crate::model::{Span, Timestamp};

/// Why a repository was not changed, or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for makes no sense, whatever the repository holds.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Package(#[from] deb::Error),
    #[error(
        "{package} is known already with other bytes ({place}): published sha256 {known}, given sha256 {given}; \
         give the new package a new version"
    )]
    OtherBytes { package: String, place: String, known: String, given: String },
    #[error("signing key {}: {reason}", path.display())]
    Key { path: PathBuf, reason: String },
    #[error("{0}")]
    NotFound(String),
    #[error("repository {}: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "the copy at {mirror} is not up to date: {reason}; what has come there stays, so copying again goes on from it"
    )]
    Mirror { mirror: String, reason: String },
    #[error("can't {verb} {}: {source}", path.display())]
    Disk { verb: &'static str, path: PathBuf, source: io::Error },
}

/// What a repository is set to; kept in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub origin: String,
    pub label: String,
    /// After this long without a publish or refresh, clients no longer believe the index; unlimited when it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_for: Option<Span>,
    /// How long superseded indexes and removed packages stay for clients that are on their way.
    pub grace: Span,
    /// Architectures that have an index even without packages; this machine's always has.
    pub architectures: Vec<String>,
    /// When any are named, there are no suites but these.
    pub suites: Vec<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            origin: "Siskin".to_owned(),
            label: "Siskin".to_owned(),
            valid_for: None,
            grace: Span::hours(1),
            architectures: Vec::new(),
            suites: Vec::new(),
        }
    }
}

impl Settings {
    fn check(&self) -> Result<(), Error> {
        for (field, value) in [("origin", &self.origin), ("label", &self.label)] {
            deb::control::check_one_line(value)
                .map_err(|reason| Error::Refused(format!("{field}: {reason}")))?;
        }
        for architecture in &self.architectures {
            if !deb::control::is_architecture(architecture) || architecture == "all" {
                return Err(Error::Refused(format!("`{}` is no architecture", architecture.escape_debug())));
            }
        }
        self.suites.iter().try_for_each(|suite| check_suite(suite))
    }
}

/// A package as it stands in a suite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    pub suite: String,
    pub component: String,
    pub name: String,
    pub version: String,
    pub architecture: String,
    /// Below the repository's folder.
    pub filename: String,
    pub size: u64,
    pub sha256: String,
}

/// What a call did to a suite.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Change {
    pub suite: String,
    pub added: Vec<Listed>,
    pub removed: Vec<Listed>,
    /// What was there already with the same bytes.
    pub unchanged: Vec<Listed>,
    /// What could not be tidied up afterwards; the next call tries again.
    pub warnings: Vec<String>,
}

/// Packages to put into a suite.
#[derive(Clone, Debug)]
pub struct Publish<'a> {
    pub suite: &'a str,
    pub component: &'a str,
    pub debs: &'a [PathBuf],
}

/// A package of a suite: one version of it, or what the call takes when none is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub name: String,
    pub version: Option<deb::Version>,
}

impl std::str::FromStr for Selection {
    type Err = String;

    /// `name` or `name=version`.
    fn from_str(text: &str) -> Result<Selection, String> {
        let (name, version) = match text.split_once('=') {
            Some((name, version)) => (name, Some(version.parse()?)),
            None => (text, None),
        };
        if !deb::control::is_package_name(name) {
            return Err(format!("`{}` is no package's name", name.escape_debug()));
        }
        Ok(Selection { name: name.to_owned(), version })
    }
}

/// A repository in a folder.
#[derive(Clone)]
pub struct Repository {
    root: PathBuf,
    settings: Settings,
    steps: Arc<dyn Steps>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Repository {
    /// The repository in `root`, which must be one.
    pub fn open(root: &Path) -> Result<Repository, Error> {
        let root = fs::canonicalize(root).map_err(|source| Error::Disk {
            verb: "open",
            path: root.to_owned(),
            source,
        })?;
        if !root.join("dists").is_dir() {
            return Err(Error::Damaged {
                path: root,
                reason: "this folder is no APT repository: it has no dists".into(),
            });
        }
        let settings = read_settings(&root)?.unwrap_or_default();
        Ok(Repository { root, settings, steps: Arc::new(Unhindered) })
    }

    /// The repository in `root`, which becomes one if it is none. Changes nothing in one that is.
    pub fn open_or_create(root: &Path) -> Result<Repository, Error> {
        let disk = disk::Disk { steps: &Unhindered };
        for folder in ["dists", "pool", publish::INTERNAL] {
            disk.make_folder(&root.join(folder))?;
        }
        Repository::open(root)
    }

    /// The same, with somebody asked before each change to the disk.
    #[must_use]
    pub fn with_steps(mut self, steps: Arc<dyn Steps>) -> Repository {
        self.steps = steps;
        self
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn disk(&self) -> disk::Disk<'_> {
        disk::Disk { steps: self.steps.as_ref() }
    }

    /// The suites that have been published, by name.
    pub fn suites(&self) -> Result<Vec<String>, Error> {
        suite::names(&self.root)
    }

    /// The suites of which half of the time is over for which clients believe them, and those that ought to have a limit and have none.
    pub fn due(&self, now: Timestamp) -> Result<Vec<String>, Error> {
        let mut due = Vec::new();
        for name in self.suites()? {
            if suite::is_half_over(&self.root, &name, self.settings.valid_for, now)? {
                due.push(name);
            }
        }
        Ok(due)
    }

    /// The packages of one suite, or of all.
    pub fn list(&self, suite: Option<&str>) -> Result<Vec<Listed>, Error> {
        let names = match suite {
            Some(name) => vec![name.to_owned()],
            None => self.suites()?,
        };
        let mut all = Vec::new();
        for name in names {
            let found = suite::read(&self.root, &name)?;
            let found = found
                .ok_or_else(|| Error::NotFound(format!("there is no suite `{}`", name.escape_debug())))?;
            all.extend(found.entries.iter().map(|entry| entry.listed(&name)));
        }
        Ok(all)
    }
}

fn read_settings(root: &Path) -> Result<Option<Settings>, Error> {
    let path = root.join(publish::INTERNAL).join(publish::SETTINGS);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Disk { verb: "read", path, source }),
    };
    let settings: Settings = serde_json::from_str(&text)
        .map_err(|error| Error::Damaged { path: path.clone(), reason: format!("its settings: {error}") })?;
    settings.check()?;
    Ok(Some(settings))
}

/// The name of a suite, which is a folder's name and stands in clients' lists of sources.
pub fn check_suite(name: &str) -> Result<(), Error> {
    check_name("suite", name)
}

/// The name of a component.
pub fn check_component(name: &str) -> Result<(), Error> {
    check_name("component", name)
}

fn check_name(what: &str, name: &str) -> Result<(), Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+~".contains(c);
    let starts_well = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    if starts_well && name.len() <= 64 && name.chars().all(allowed) && !name.contains("..") {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "`{}` can't be the name of a {what}: use letters, digits and - _ . + ~, a letter or digit first",
        name.escape_debug()
    )))
}
