//! Signs suites again when half of the time is over for which clients believe them: a repository to which nothing is published does not run out,
//! and half of the time is left to repair what keeps it from being signed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Repositories;
use crate::delivery::apt::{Change, Error, Key, Place, Repository};
use crate::model::Timestamp;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(60);

/// Looks after all repositories until it is stopped.
pub async fn keep_valid(repositories: Repositories, stop: CancellationToken) {
    let mut told: BTreeMap<PathBuf, String> = BTreeMap::new();
    loop {
        let now = repositories.engine.clock().now();
        match repositories.places() {
            Ok(places) => {
                for place in places {
                    look_after(place, now, &mut told).await;
                }
            }
            Err(error) => tell_once(&mut told, PathBuf::new(), error),
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => (),
            () = stop.cancelled() => return,
        }
    }
}

async fn look_after(place: Place, now: Timestamp, told: &mut BTreeMap<PathBuf, String>) {
    let directory = place.directory.clone();
    let Ok(done) = tokio::task::spawn_blocking(move || renew(&place, now)).await else { return };
    match done {
        Ok(changes) => {
            told.remove(&directory);
            for change in changes {
                tracing::info!(suite = %change.suite, repository = %directory.display(), "signed again before its Valid-Until");
            }
        }
        Err(error) => tell_once(told, directory, error.to_string()),
    }
}

/// Signs again what is due. A repository that is not there, or whose key lies on another machine, is somebody else's.
fn renew(place: &Place, now: Timestamp) -> Result<Vec<Change>, Error> {
    if !place.directory.join("dists").is_dir() || !place.key.exists() {
        return Ok(Vec::new());
    }
    let repository = Repository::open(&place.directory)?;
    let due = repository.due(now)?;
    if due.is_empty() {
        return Ok(Vec::new());
    }
    let key = Key::load(&place.key)?;
    due.iter().map(|suite| repository.refresh(suite, &key, now)).collect()
}

fn tell_once(told: &mut BTreeMap<PathBuf, String>, directory: PathBuf, error: String) {
    if told.get(&directory) != Some(&error) {
        tracing::warn!(%error, repository = %directory.display(), "an APT repository can't be kept valid; trying again each minute");
        told.insert(directory, error);
    }
}
