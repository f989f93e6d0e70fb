//! What a change would do, judged before anything is done: whose bytes are known, which names are taken, what is meant.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::generation::list;
use super::index::{self, Entry, Sums};
use super::pool::{REMOVED, Removed};
use super::suite::Suite;
use super::{Error, Listed, Repository, Selection};
use crate::delivery::deb;

/// A package that was looked at and may go into the pool.
pub(super) struct Candidate {
    pub(super) source: PathBuf,
    pub(super) entry: Entry,
    pub(super) sums: Sums,
}

/// Packages to put in, and entries to take out.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) copy: Vec<Candidate>,
    pub(super) add: Vec<Entry>,
    pub(super) remove: Vec<Entry>,
    pub(super) unchanged: Vec<Listed>,
    /// Even when nothing else changes.
    pub(super) sign_again: bool,
}

/// What is published now, by suite.
pub(super) type Suites = BTreeMap<String, Suite>;

impl Repository {
    pub(super) fn plan_publish(
        &self,
        suite: &str,
        candidates: Vec<Candidate>,
        suites: &Suites,
    ) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        for candidate in candidates {
            let mut planned = plan.copy.iter().map(|copy| &copy.entry).chain(&plan.add);
            if let Some(twin) = planned.find(|known| known.is_same_package(&candidate.entry)) {
                refuse_other_bytes(twin, &candidate.entry, "given twice")?;
                continue;
            }
            if let Some(known) = find_same(suites, suite, &candidate.entry)? {
                plan.unchanged.push(known.listed(suite));
                continue;
            }
            if let Some(known) = find_in_any(suites, &candidate.entry)? {
                // The bytes are in the pool; the suite gets them from there.
                let component = candidate.entry.component.clone();
                plan.add.push(Entry { component, ..known.clone() });
                continue;
            }
            self.check_removed(&candidate.entry)?;
            refuse_taken_place(suites, &plan, &candidate.entry)?;
            plan.copy.push(candidate);
        }
        Ok(plan)
    }

    pub(super) fn check_removed(&self, entry: &Entry) -> Result<(), Error> {
        let path = self.removed_path(entry.filename());
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(Error::Disk { verb: "read", path, source }),
        };
        let removed: Removed = serde_json::from_str(&text)
            .map_err(|error| Error::Damaged { path: path.clone(), reason: error.to_string() })?;
        if removed.sha256 == entry.sha256() {
            return Ok(());
        }
        Err(Error::OtherBytes {
            package: describe(entry),
            place: "published once, and removed since".to_owned(),
            known: removed.sha256,
            given: entry.sha256().to_owned(),
        })
    }

    pub(super) fn removed_path(&self, filename: &str) -> PathBuf {
        let name = filename.rsplit('/').next().unwrap_or(filename);
        self.internal().join(REMOVED).join(format!("{name}.json"))
    }
}

pub(super) fn examine(component: &str, path: &Path) -> Result<Candidate, Error> {
    let package = deb::inspect(path)?;
    let sums =
        Sums::of_file(path).map_err(|source| Error::Disk { verb: "read", path: path.to_owned(), source })?;
    let filename = index::pool_path(component, &package);
    Ok(Candidate { source: path.to_owned(), entry: Entry::new(component, &package, &filename, &sums), sums })
}

/// The same package in this suite. Other bytes, or another component, are refused.
pub(super) fn find_same<'a>(
    suites: &'a Suites,
    suite: &str,
    entry: &Entry,
) -> Result<Option<&'a Entry>, Error> {
    let Some(known) =
        suites.get(suite).and_then(|suite| suite.entries.iter().find(|known| known.is_same_package(entry)))
    else {
        return Ok(None);
    };
    refuse_other_bytes(known, entry, &format!("in {suite}/{}", known.component))?;
    if known.component != entry.component {
        return Err(Error::Refused(format!(
            "{} is in {suite}/{} already; remove it there first",
            describe(entry),
            known.component
        )));
    }
    Ok(Some(known))
}

pub(super) fn find_in_any<'a>(suites: &'a Suites, entry: &Entry) -> Result<Option<&'a Entry>, Error> {
    for (name, suite) in suites {
        if let Some(known) = suite.entries.iter().find(|known| known.is_same_package(entry)) {
            refuse_other_bytes(known, entry, &format!("in {name}/{}", known.component))?;
            return Ok(Some(known));
        }
    }
    Ok(None)
}

pub(super) fn refuse_other_bytes(known: &Entry, given: &Entry, place: &str) -> Result<(), Error> {
    if known.sha256() == given.sha256() {
        return Ok(());
    }
    Err(Error::OtherBytes {
        package: describe(given),
        place: place.to_owned(),
        known: known.sha256().to_owned(),
        given: given.sha256().to_owned(),
    })
}

/// File names have no epoch, so `1:1.0` and `2:1.0` want the same place.
pub(super) fn refuse_taken_place(suites: &Suites, plan: &Plan, entry: &Entry) -> Result<(), Error> {
    let published = suites.values().flat_map(|suite| &suite.entries);
    let mut all = published.chain(plan.copy.iter().map(|candidate| &candidate.entry));
    match all.find(|known| known.filename() == entry.filename()) {
        None => Ok(()),
        Some(known) => Err(Error::Refused(format!(
            "{} would take the place of {} at {}; change more of the version than its epoch",
            describe(entry),
            describe(known),
            entry.filename()
        ))),
    }
}

pub(super) fn describe(entry: &Entry) -> String {
    format!("{} {} ({})", entry.name(), entry.version_text(), entry.architecture())
}

/// The entries of `suite` that are meant. Without a version: the newest one, or all of them.
pub(super) fn select(
    suites: &Suites,
    suite: &str,
    what: &Selection,
    newest_only: bool,
) -> Result<Vec<Entry>, Error> {
    let Some(found) = suites.get(suite) else {
        return Err(Error::NotFound(format!("there is no suite `{suite}`")));
    };
    let named: Vec<&Entry> = found.entries.iter().filter(|entry| entry.name() == what.name).collect();
    if named.is_empty() {
        return Err(Error::NotFound(format!("suite {suite} holds no package {}", what.name)));
    }
    let newest = named.iter().map(|entry| &entry.version).max();
    let wanted = what.version.as_ref().or(newest.filter(|_| newest_only));
    let chosen: Vec<Entry> = named
        .iter()
        .filter(|entry| wanted.is_none_or(|wanted| entry.version == *wanted))
        .map(|entry| (*entry).clone())
        .collect();
    if chosen.is_empty() {
        let versions: BTreeSet<&str> = named.iter().map(|entry| entry.version_text()).collect();
        let versions: Vec<&str> = versions.into_iter().collect();
        let wanted = wanted.map(ToString::to_string).unwrap_or_default();
        return Err(Error::NotFound(format!(
            "suite {suite} holds no {} {wanted}, but {}",
            what.name,
            versions.join(", ")
        )));
    }
    Ok(chosen)
}

/// What a suite holds beyond the newest versions of each package. Another suite that has it keeps it.
pub(super) fn superseded(
    suites: &Suites,
    suite: &str,
    keep: NonZeroUsize,
    protect: &[Selection],
) -> Result<Vec<Entry>, Error> {
    let Some(found) = suites.get(suite) else {
        return Err(Error::NotFound(format!("there is no suite `{suite}`")));
    };
    let mut of_package: BTreeMap<(&str, &str, &str), Vec<&Entry>> = BTreeMap::new();
    for entry in &found.entries {
        of_package.entry((&entry.component, entry.name(), entry.architecture())).or_default().push(entry);
    }
    let is_protected = |entry: &Entry| {
        protect.iter().any(|what| {
            what.name == entry.name() && what.version.as_ref().is_none_or(|version| *version == entry.version)
        })
    };
    let mut over = Vec::new();
    for entries in of_package.values_mut() {
        entries.sort_by(|one, other| other.version.cmp(&one.version));
        over.extend(
            entries
                .iter()
                .skip(keep.get())
                .filter(|entry| !is_protected(entry))
                .map(|entry| (*entry).clone()),
        );
    }
    Ok(over)
}

pub(super) fn is_elsewhere(suites: &Suites, suite: &str, entry: &Entry) -> bool {
    let mut others = suites.iter().filter(|(name, _)| *name != suite);
    others.any(|(_, other)| other.entries.iter().any(|known| known.filename() == entry.filename()))
}

pub(super) fn packages_below(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for path in list(&folder)? {
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "deb") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
