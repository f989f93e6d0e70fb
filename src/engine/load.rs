//! Definitions come into force, and runs keep those with which they began.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use crate::definitions::{Definitions, Files, Mistake, Place};
use crate::model::Timestamp;
use crate::store::{RevisionFile, Store, StoreError};

use super::{Change, Engine, Refused, lock};

/// What was loaded last.
#[derive(Debug)]
pub struct Loaded {
    pub definitions: Arc<Definitions>,
    /// The texts that are in force: of a file with a mistake the last good one, when there was one.
    pub files: Arc<Files>,
    /// Of the texts as they are in the folder.
    pub mistakes: Arc<Vec<Mistake>>,
    /// The files whose text in force is not that of the folder, but the last good one.
    pub kept: Vec<String>,
}

impl Loaded {
    /// Reads `files` and stores them as a revision. Where a file has a mistake, its text in `good`, the last ones in force, stays; where a change
    /// breaks a file that it did not touch, all of `good` stays.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn from_files(
        files: &Files,
        good: Option<&Files>,
        store: &Store,
        now: Timestamp,
    ) -> Result<Loaded, StoreError> {
        // Thousands of files take their time, and nobody else waits for it.
        let (reading, of) = (files.clone(), good.cloned());
        let read = spawn_blocking(move || read_in_force(&reading, of.as_ref())).await;
        let Read { definitions, in_force, mistakes } = read.unwrap_or_else(|error| {
            tracing::error!(%error, "reading the definitions broke off");
            Read::broken_off(good)
        });
        let kept_texts = differing(files, &in_force);
        let kept = in_force.texts.iter();
        let kept = kept.map(|(path, bytes)| RevisionFile { path: path.clone(), bytes: bytes.to_vec() });
        store.put_revision(&definitions.revision, kept.collect(), now).await?;
        Ok(Loaded {
            definitions: Arc::new(definitions),
            files: Arc::new(in_force),
            mistakes: Arc::new(mistakes),
            kept: kept_texts,
        })
    }
}

impl Loaded {
    /// The newest that the store has; `None` when it has none yet.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn newest(store: &Store) -> Result<Option<Loaded>, StoreError> {
        let Some(files) = last_in_force(store).await? else { return Ok(None) };
        let (definitions, mistakes) = Definitions::read(&files);
        Ok(Some(Loaded {
            definitions: Arc::new(definitions),
            files: Arc::new(files),
            mistakes: Arc::new(mistakes),
            kept: Vec::new(),
        }))
    }
}

/// The texts that were in force last, as the store has them.
///
/// # Errors
/// The database cannot be read.
pub async fn last_in_force(store: &Store) -> Result<Option<Files>, StoreError> {
    let Some(newest) = store.newest_revision().await? else { return Ok(None) };
    let kept = store.revision(&newest.hash).await?;
    Ok(kept.map(|kept| Files {
        texts: kept.into_iter().map(|file| (file.path, Arc::from(file.bytes))).collect(),
        ..Files::default()
    }))
}

/// What came of reading texts.
struct Read {
    definitions: Definitions,
    in_force: Files,
    mistakes: Vec<Mistake>,
}

impl Read {
    /// A fault of ours: the last good definitions stay.
    fn broken_off(good: Option<&Files>) -> Read {
        let in_force = good.cloned().unwrap_or_default();
        let (definitions, _) = Definitions::read(&in_force);
        let mistake = Mistake {
            place: Place { file: "siskin.yaml".into(), line: 1, column: 1 },
            message: "the definitions could not be read, by a fault of siskin itself".to_owned(),
            help: Some("`siskin check` may say at which file".to_owned()),
        };
        Read { definitions, in_force, mistakes: vec![mistake] }
    }
}

fn read_in_force(files: &Files, good: Option<&Files>) -> Read {
    let (mut definitions, mistakes) = Definitions::read(files);
    let mut in_force = files.clone();
    if let Some(good) = good {
        let mut found = mistakes.clone();
        while put_back(&mut in_force, good, &found) {
            (definitions, found) = Definitions::read(&in_force);
        }
        if breaks_others(&in_force, good, &found) {
            in_force = good.clone();
            (definitions, _) = Definitions::read(&in_force);
        }
    }
    Read { definitions, in_force, mistakes }
}

/// Puts the last good text in place of each file with a mistake. False when there was nothing to put back.
fn put_back(files: &mut Files, good: &Files, mistakes: &[Mistake]) -> bool {
    let mut changed = false;
    for mistake in mistakes {
        let path = &*mistake.place.file;
        let Some(text) = good.texts.get(path) else { continue };
        if files.texts.get(path) != Some(text) {
            files.unread.remove(path);
            files.texts.insert(path.to_owned(), Arc::clone(text));
            changed = true;
        }
    }
    changed
}

/// Whether a file that is as it was, and was good, has a mistake now: what it names is gone, or is no longer what it was. Tests may: they start
/// nothing.
fn breaks_others(files: &Files, good: &Files, mistakes: &[Mistake]) -> bool {
    let path_of = |mistake: &Mistake| mistake.place.file.to_string();
    let is_test = |path: &str| path.starts_with("tests/") || path.contains("/tests/");
    let is_as_it_was = |path: &String| {
        !is_test(path) && good.texts.contains_key(path) && good.texts.get(path) == files.texts.get(path)
    };
    let broken: Vec<String> = mistakes.iter().map(path_of).filter(is_as_it_was).collect();
    if broken.is_empty() {
        return false;
    }
    let before: BTreeSet<String> = Definitions::read(good).1.iter().map(path_of).collect();
    broken.iter().any(|path| !before.contains(path))
}

/// The paths whose text is not the same in both.
fn differing(files: &Files, others: &Files) -> Vec<String> {
    let paths: BTreeSet<&String> = files.texts.keys().chain(others.texts.keys()).collect();
    let differs = |path: &&&String| files.texts.get(**path) != others.texts.get(**path);
    paths.iter().filter(differs).map(|path| (*path).clone()).collect()
}

impl Engine {
    /// Puts definitions in force for what starts from now on.
    pub fn put_in_force(&self, loaded: Loaded) {
        self.loaded.store(Arc::new(loaded));
        self.changed(Change::Definitions);
    }

    /// Says why the folder of definitions can't be read, or that it can be again.
    pub fn site_is_unreadable(&self, why: Option<String>) {
        *lock(&self.unreadable) = why;
    }

    /// Why the folder of definitions can't be read now.
    pub fn why_site_is_unreadable(&self) -> Option<String> {
        lock(&self.unreadable).clone()
    }

    /// What was loaded last.
    pub fn loaded(&self) -> Arc<Loaded> {
        self.loaded.load_full()
    }

    /// Puts in force here what another server stored last.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn follow_definitions(&self) -> Result<(), StoreError> {
        let Some(newest) = self.store.newest_revision().await? else { return Ok(()) };
        if newest.hash == self.definitions().revision {
            return Ok(());
        }
        let Some(loaded) = Loaded::newest(&self.store).await? else { return Ok(()) };
        if loaded.definitions.revision != self.definitions().revision {
            tracing::info!(revision = %loaded.definitions.revision, "definitions of another server are in force");
            self.loaded.store(Arc::new(loaded));
            self.changes.send(Change::Definitions).ok(); // The others know.
        }
        Ok(())
    }

    /// The texts of a revision, where it is stored.
    pub(super) async fn files_of(&self, revision: &str) -> Result<Option<Files>, StoreError> {
        let Some(kept) = self.store.revision(revision).await? else { return Ok(None) };
        let texts = kept.into_iter().map(|file| (file.path, Arc::from(file.bytes))).collect();
        Ok(Some(Files { texts, ..Files::default() }))
    }

    /// The definitions of a revision that some run keeps.
    ///
    /// # Errors
    /// The store has no such revision, or cannot be read.
    pub(super) async fn revision(&self, hash: &str) -> Result<Arc<Definitions>, Refused> {
        let current = self.definitions();
        if current.revision == hash {
            return Ok(current);
        }
        if let Some(known) = lock(&self.pinned).get(hash) {
            return Ok(Arc::clone(known));
        }
        let Some(files) = self.files_of(hash).await? else {
            return Err(Refused::NotFound(format!(
                "the definitions of revision {hash} are no longer stored"
            )));
        };
        let definitions = Arc::new(Definitions::read(&files).0);
        lock(&self.pinned).insert(hash.to_owned(), Arc::clone(&definitions));
        Ok(definitions)
    }
}
