//! Copies of other repositories that are kept between checkouts, so that the next one fetches only what is new.
//!
//! A copy is a help, never the truth: only full hashes are looked for in it, and whatever is wrong with it, it is thrown away and the checkout is made
//! without. One process at a time changes a copy; several may read it. What nobody used for a month goes.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sha2::Digest;
use tokio_util::sync::CancellationToken;

use super::{
    Checkout, Git, GitError, Repository, check_commit, checkout, checkout_from, claim, is_full_hash, no_such,
};
use crate::model::{Span, Timestamp};

/// So long a copy stays that nobody uses.
const UNUSED: Span = Span::days(30);
/// Every fetch brings a file; a copy of so many is made anew.
const MOST_PACKS: usize = 200;
const LOCK_POLL: Duration = Duration::from_millis(50);

/// As [`checkout`], by way of a copy in the folder `keep`.
pub async fn checkout_kept(
    repository: &Repository,
    wanted: &str,
    directory: &Path,
    keep: &Path,
    now: Timestamp,
    cancel: &CancellationToken,
) -> Result<Checkout, GitError> {
    check_commit(wanted)?;
    // A path of this machine is as near as a copy would be; a branch is what it is at its own place only.
    if repository.url.starts_with('/') || !is_full_hash(wanted) {
        return checkout(repository, wanted, directory, cancel).await;
    }
    match by_copy(repository, wanted, directory, keep, now, cancel).await {
        // These are of the repository itself, or of nobody.
        Err(
            error @ (GitError::Cancelled
            | GitError::NoSuchCommit { .. }
            | GitError::Unreachable { .. }
            | GitError::Denied { .. }
            | GitError::NotOurs(_)),
        ) => Err(error),
        Err(error) => {
            tracing::warn!(%error, repository = %repository.shown(), "the kept copy of a repository can't be used; going on without");
            checkout(repository, wanted, directory, cancel).await
        }
        Ok(None) => checkout(repository, wanted, directory, cancel).await,
        Ok(Some(done)) => Ok(done),
    }
}

/// By way of the copy, or nothing where the copy has the commit and can't give it: it is damaged, and thrown away.
async fn by_copy(
    repository: &Repository,
    wanted: &str,
    directory: &Path,
    keep: &Path,
    now: Timestamp,
    cancel: &CancellationToken,
) -> Result<Option<Checkout>, GitError> {
    let name = hex::encode(&sha2::Sha256::digest(repository.url.as_bytes())[..16]);
    let (place, lock_path) = (keep.join(&name), keep.join(format!("{name}.lock")));
    let failed = |source| GitError::Directory { path: lock_path.clone(), source };
    fs::create_dir_all(keep).map_err(failed)?;
    forget_unused(keep, &lock_path, now);
    let lock = take(&lock_path, cancel).await?;
    let held = bring(repository, wanted, &place, cancel).await;
    if let Err(GitError::Failed { .. } | GitError::NoRepository { .. } | GitError::Directory { .. }) = &held {
        drop(fs::remove_dir_all(&place));
    }
    held?;
    // Others may read, too; nobody may remove it.
    lock.relock(FlockArg::LockShared).map_err(|errno| failed(errno.into()))?;
    let copy = Repository { url: place.display().to_string(), env: Vec::new(), timeout: repository.timeout };
    let done = match checkout_from(&copy, repository, wanted, directory, cancel).await {
        Ok(done) => Ok(Some(done)),
        Err(error @ (GitError::Cancelled | GitError::NotOurs(_))) => Err(error),
        Err(error) => {
            tracing::warn!(%error, repository = %repository.shown(), "the kept copy of a repository is damaged; making it anew");
            drop(fs::remove_dir_all(&place));
            Ok(None)
        }
    };
    drop(lock);
    done
}

/// Sees to it that the copy has the commit.
async fn bring(
    repository: &Repository,
    wanted: &str,
    place: &Path,
    cancel: &CancellationToken,
) -> Result<(), GitError> {
    if count(&place.join(".git/objects/pack")) > MOST_PACKS {
        drop(fs::remove_dir_all(place));
    }
    claim(place)?;
    let git = Git { repository, directory: Some(place), cancel };
    if !place.join(".git/config").is_file() {
        git.local(&["init", "--quiet", "--template="]).await?;
    }
    // A commit that no branch has is given, too: where it came from, somebody may have moved a branch since.
    git.local(&["config", "uploadpack.allowAnySHA1InWant", "true"]).await?;
    for lock in ["shallow.lock", "packed-refs.lock", "index.lock", "FETCH_HEAD.lock"] {
        // Of a fetch that was killed: we hold the only lock that counts.
        drop(fs::remove_file(place.join(".git").join(lock)));
    }
    if git.find(wanted).await?.is_some() {
        return Ok(());
    }
    git.fetch_everything().await?;
    if git.find(wanted).await?.is_some() {
        return Ok(());
    }
    // Of a pull request, say: in no branch, but many servers give it.
    match git.remote(&["fetch", "--quiet", "--no-tags"], &[wanted]).await {
        Ok(_) | Err(GitError::Failed { .. } | GitError::NoRepository { .. }) => {}
        Err(error) => return Err(error),
    }
    match git.find(wanted).await? {
        Some(_) => Ok(()),
        None => Err(no_such(repository, wanted)),
    }
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, |items| items.flatten().filter(|item| is_pack(&item.path())).count())
}

fn is_pack(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "pack")
}

async fn take(path: &Path, cancel: &CancellationToken) -> Result<Flock<File>, GitError> {
    let failed = |source| GitError::Directory { path: path.to_owned(), source };
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                // When it was used last.
                lock.set_len(0).map_err(failed)?;
                drop(lock.set_modified(std::time::SystemTime::now()));
                return Ok(lock);
            }
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err((_, errno)) => return Err(failed(errno.into())),
        }
        tokio::select! {
            () = tokio::time::sleep(LOCK_POLL) => (),
            () = cancel.cancelled() => return Err(GitError::Cancelled),
        }
    }
}

/// Removes copies that nobody used for long, but for the one that is about to be used.
fn forget_unused(keep: &Path, own: &Path, now: Timestamp) {
    let Ok(items) = fs::read_dir(keep) else { return };
    let locks = items.flatten().map(|item| item.path());
    for path in
        locks.filter(|path| path.extension().is_some_and(|extension| extension == "lock") && path != own)
    {
        let used = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
        let used = used.and_then(|used| used.duration_since(std::time::UNIX_EPOCH).ok());
        let is_old = used.is_some_and(|used| {
            Timestamp(i64::try_from(used.as_millis()).unwrap_or(i64::MAX)).plus(UNUSED) < now
        });
        let Some(copy) = is_old.then(|| path.with_extension("")) else { continue };
        let Ok(file) = OpenOptions::new().write(true).open(&path) else { continue };
        // Who has it now uses it.
        if let Ok(_lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            drop(fs::remove_dir_all(copy));
        }
    }
}
