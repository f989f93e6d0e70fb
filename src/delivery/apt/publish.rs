//! Changing a suite. Everything is judged first; then packages go to the pool, a whole new generation of indexes is written
//! beside the old one, and the suite's link is swapped. Only after that is anything tidied up.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::generation::{KEPT_GENERATIONS, folders_of};
use super::index::Entry;
use super::plan::{
    Candidate, Plan, Suites, examine, find_same, is_elsewhere, packages_below, select, superseded,
};
use super::sign::{Key, PublicKeys};
use super::suite;
use super::{Change, Error, Publish, Repository, Selection, Settings, check_component, check_suite};
use crate::model::Timestamp;

/// The folder that is no business of clients. It holds nothing secret.
pub(super) const INTERNAL: &str = ".siskin";
pub(super) const SETTINGS: &str = "repository.json";
pub(super) const TEMPORARY: &str = "tmp";

impl Repository {
    /// Puts packages into a suite. The ones that are there already with the same bytes are left as they are.
    pub fn publish(&self, order: &Publish<'_>, key: &Key, now: Timestamp) -> Result<Change, Error> {
        self.check_known_suite(order.suite)?;
        check_component(order.component)?;
        let mut candidates = Vec::new();
        for path in order.debs {
            candidates.push(examine(order.component, path)?);
        }
        self.change(order.suite, key, now, |suites| self.plan_publish(order.suite, candidates, suites))
    }

    /// Puts the very package that `from` holds into `to`: the newest version when none is named.
    pub fn promote(
        &self,
        what: &Selection,
        from: &str,
        to: &str,
        key: &Key,
        now: Timestamp,
    ) -> Result<Change, Error> {
        check_suite(from)?;
        self.check_known_suite(to)?;
        self.change(to, key, now, |suites| {
            let chosen = select(suites, from, what, true)?;
            let mut plan = Plan::default();
            for entry in chosen {
                match find_same(suites, to, &entry)? {
                    Some(known) => plan.unchanged.push(known.listed(to)),
                    None => plan.add.push(entry),
                }
            }
            Ok(plan)
        })
    }

    /// Takes a package out of a suite: all its versions when none is named.
    pub fn remove(&self, what: &Selection, suite: &str, key: &Key, now: Timestamp) -> Result<Change, Error> {
        check_suite(suite)?;
        self.change(suite, key, now, |suites| {
            Ok(Plan { remove: select(suites, suite, what, false)?, ..Plan::default() })
        })
    }

    /// Signs a suite again with a new date, before its `Valid-Until` runs out.
    pub fn refresh(&self, suite: &str, key: &Key, now: Timestamp) -> Result<Change, Error> {
        check_suite(suite)?;
        self.change(suite, key, now, |suites| {
            if !suites.contains_key(suite) {
                return Err(Error::NotFound(format!("there is no suite `{suite}`")));
            }
            Ok(Plan { sign_again: true, ..Plan::default() })
        })
    }

    /// Leaves the `keep` newest versions of each package and architecture in a suite, and what `protect` names.
    pub fn prune(
        &self,
        suite: &str,
        keep: NonZeroUsize,
        protect: &[Selection],
        key: &Key,
        now: Timestamp,
    ) -> Result<Change, Error> {
        check_suite(suite)?;
        self.change(suite, key, now, |suites| {
            Ok(Plan { remove: superseded(suites, suite, keep, protect)?, ..Plan::default() })
        })
    }

    /// Makes a suite's index anew from all packages that the pool holds for `component`: the way back when somebody damaged
    /// what is published. Nothing of the old index is needed.
    pub fn rebuild(&self, suite: &str, component: &str, key: &Key, now: Timestamp) -> Result<Change, Error> {
        self.check_known_suite(suite)?;
        check_component(component)?;
        self.check_key(key, now)?;
        let _lock = self.lock()?;
        let mut plan = Plan::default();
        for path in packages_below(&self.root.join("pool").join(component))? {
            let Candidate { mut entry, .. } = examine(component, &path)?;
            let filename = path.strip_prefix(&self.root).unwrap_or(&path).to_string_lossy();
            entry.paragraph.set("Filename", filename);
            plan.add.push(entry);
        }
        if plan.add.is_empty() {
            return Err(Error::NotFound(format!("the pool holds no package of component `{component}`")));
        }
        let added = plan.add.iter().map(|entry| entry.listed(suite)).collect();
        self.sweep_folders(suite)?;
        self.carry_out(suite, &plan, &Suites::new(), key, now)?;
        Ok(Change { suite: suite.to_owned(), added, ..Change::default() })
    }

    /// Keeps new settings; they show with the next publish or refresh.
    pub fn configure(&mut self, settings: Settings) -> Result<(), Error> {
        settings.check()?;
        let _lock = self.lock()?;
        let text = serde_json::to_vec_pretty(&settings).map_err(|error| Error::Refused(error.to_string()))?;
        self.replace(&self.internal().join(SETTINGS), &text)?;
        self.settings = settings;
        Ok(())
    }

    /// Whether this repository may have a suite of this name.
    pub fn check_known_suite(&self, suite: &str) -> Result<(), Error> {
        check_suite(suite)?;
        let known = &self.settings.suites;
        if known.is_empty() || known.iter().any(|name| name == suite) {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "`{suite}` is no suite of this repository, which has {}",
            known.join(", ")
        )))
    }

    /// The one way in which a suite changes.
    fn change(
        &self,
        suite: &str,
        key: &Key,
        now: Timestamp,
        plan: impl FnOnce(&Suites) -> Result<Plan, Error>,
    ) -> Result<Change, Error> {
        self.check_key(key, now)?;
        let _lock = self.lock()?;
        let mut suites = self.read_suites()?;
        if !suites.contains_key(suite) {
            // A folder that another program made under this name is found here, before anything is written.
            suite::read(&self.root, suite)?;
        }
        let plan = plan(&suites)?;
        let mut change = Change {
            suite: suite.to_owned(),
            added: plan
                .add
                .iter()
                .chain(plan.copy.iter().map(|new| &new.entry))
                .map(|new| new.listed(suite))
                .collect(),
            removed: plan.remove.iter().map(|entry| entry.listed(suite)).collect(),
            unchanged: plan.unchanged.clone(),
            warnings: Vec::new(),
        };
        if change.added.is_empty() && change.removed.is_empty() && !plan.sign_again {
            return Ok(change);
        }
        self.sweep(suite, &suites)?;
        if let Err(error) = self.carry_out(suite, &plan, &suites, key, now) {
            // Room on the disk may be what is missing, so what is of no use goes at once; if that fails too, the next call does it.
            drop(self.read_suites().and_then(|suites| self.sweep(suite, &suites)));
            return Err(error);
        }
        let tidied = suite::read(&self.root, suite).and_then(|new| {
            suites.extend(new.map(|new| (suite.to_owned(), new)));
            self.tidy_up(suite, &suites, now)
        });
        if let Err(error) = tidied {
            change.warnings.push(error.to_string());
        }
        Ok(change)
    }

    fn carry_out(
        &self,
        suite: &str,
        plan: &Plan,
        suites: &Suites,
        key: &Key,
        now: Timestamp,
    ) -> Result<(), Error> {
        let old = suites.get(suite);
        self.disk().make_folder(&self.internal().join(TEMPORARY))?;
        self.write_public_key(key)?;
        self.note_pending(&plan.copy)?;
        for candidate in &plan.copy {
            self.put_into_pool(candidate)?;
        }
        let gone: Vec<&Entry> =
            plan.remove.iter().filter(|entry| !is_elsewhere(suites, suite, entry)).collect();
        self.remember_removed(&gone, now)?;

        let mut entries: Vec<Entry> = old.map(|old| old.entries.clone()).unwrap_or_default();
        entries.retain(|entry| !plan.remove.contains(entry));
        entries.extend(plan.add.iter().cloned());
        entries.extend(plan.copy.iter().map(|candidate| candidate.entry.clone()));
        let number = self.next_generation(suite)?;
        let generation = suite::generation_folder(suite, number);
        let files = self.write_generation(suite, &generation, &entries, old, key, now)?;
        if let Some(old) = old {
            self.stamp_superseded(suite, old, &files, now)?;
        }
        self.swap(suite, &generation)
    }

    fn read_suites(&self) -> Result<Suites, Error> {
        let mut suites = Suites::new();
        for name in suite::names(&self.root)? {
            if let Some(found) = suite::read(&self.root, &name)? {
                suites.insert(name, found);
            }
        }
        Ok(suites)
    }

    pub(super) fn internal(&self) -> PathBuf {
        self.root.join(INTERNAL)
    }

    /// One at a time. The lock goes with the process that holds it.
    pub(super) fn lock(&self) -> Result<Flock<File>, Error> {
        let path = self.internal().join("lock");
        let failed = |source: io::Error| Error::Disk { verb: "lock", path: path.clone(), source };
        fs::create_dir_all(self.internal()).map_err(failed)?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| failed(error.into()))
    }

    /// Another key than the one that clients trust would lock them out, and so would one that has run out.
    pub(super) fn check_key(&self, key: &Key, now: Timestamp) -> Result<(), Error> {
        key.check_in_force(now)?;
        let Some(public) = PublicKeys::of(&self.root)? else { return Ok(()) };
        let (known, given) = (public.fingerprints(), key.in_force(now));
        if given.iter().any(|given| known.contains(given)) {
            return Ok(());
        }
        let reason = format!(
            "its fingerprint is {}, but clients of this repository trust {}; restore that key, or rotate from it",
            given.join(", "),
            known.join(", ")
        );
        Err(Error::Key { path: key.path().to_owned(), reason })
    }

    fn write_public_key(&self, key: &Key) -> Result<(), Error> {
        let (binary, armored) = key.public()?;
        if !self.root.join("key.gpg").exists() {
            self.replace(&self.root.join("key.gpg"), &binary)?;
        }
        if !self.root.join("key.asc").exists() {
            self.replace(&self.root.join("key.asc"), armored.as_bytes())?;
        }
        Ok(())
    }

    /// A small file: the old content or the new one.
    pub(super) fn replace(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        let disk = self.disk();
        let temporary = self.internal().join(TEMPORARY).join("replacing");
        disk.make_folder(&self.internal().join(TEMPORARY))?;
        disk.write(&temporary, content)?;
        disk.rename(&temporary, path)?;
        disk.sync_folder(path.parent().unwrap_or(&self.root))
    }

    /// Removes what a killed publish left: nothing of it was ever seen by a client.
    fn sweep(&self, suite: &str, suites: &Suites) -> Result<(), Error> {
        self.sweep_folders(suite)?;
        self.sweep_pending(suites)
    }

    fn tidy_up(&self, suite: &str, suites: &Suites, now: Timestamp) -> Result<(), Error> {
        let disk = self.disk();
        self.forget_pending()?;
        let Some(current) = suites.get(suite) else { return Ok(()) };
        let number = suite::generation_number(suite, &current.generation).unwrap_or(0);
        for (old, folder) in folders_of(&self.root, suite)? {
            if old + KEPT_GENERATIONS < number {
                disk.remove_folder(&folder)?;
            }
        }
        self.forget_old_indexes(suite, current, now)?;
        self.forget_removed(suites, now)
    }
}
