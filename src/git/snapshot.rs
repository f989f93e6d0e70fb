//! The files of a commit as they are in the repository, without a checkout: no working tree, so no links, filters or line endings take part, and what
//! is too large is known before it is read.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::{Git, GitError, Repository, check_commit, claim, start_anew};
use crate::model::Timestamp;
use crate::process;

/// What a snapshot may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub files: usize,
    pub file_bytes: u64,
    pub bytes: u64,
}

/// What stands at a path of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    File {
        is_program: bool,
    },
    /// A symbolic link: its text is where it leads.
    Link,
    /// A commit of another repository.
    Submodule,
}

/// A file of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// With forward slashes, from the top of the repository.
    pub path: String,
    pub sort: Sort,
    pub bytes: Vec<u8>,
}

/// The files of one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The full hash.
    pub commit: String,
    pub time: Timestamp,
    pub subject: String,
    pub entries: Vec<Entry>,
}

/// Reads what lies below `folder` (empty: everything) in a commit, branch or tag. `scratch` is an empty directory, which holds the repository afterwards.
///
/// # Errors
/// The repository can't be read, or has no such commit; the commit holds more than `limits`; a path is no UTF-8.
pub async fn snapshot(
    repository: &Repository,
    wanted: &str,
    folder: &str,
    scratch: &Path,
    limits: Limits,
    cancel: &CancellationToken,
) -> Result<Snapshot, GitError> {
    check_commit(wanted)?;
    claim(scratch)?;
    start_anew(scratch)?;
    let git = Git { repository, directory: Some(scratch), cancel };
    git.local(&["init", "--quiet", "--template="]).await?;
    let commit = git.fetch(wanted).await?;
    let described = git.describe(&commit).await?;
    let refused = |said: String| GitError::Failed { repository: repository.shown(), said };
    let listed = git.local(&["ls-tree", "-r", "-l", "-z", "--full-tree", &commit]).await?;
    let below = if folder.is_empty() { String::new() } else { format!("{}/", folder.trim_matches('/')) };
    let mut found = Vec::new();
    let mut bytes = 0_u64;
    for line in listed.split('\0').filter(|line| !line.is_empty()) {
        let (Some(entry), Some(path)) = (listing(line), line.split_once('\t').map(|(_, path)| path)) else {
            return Err(refused("`git ls-tree` printed something else than files".to_owned()));
        };
        if !path.starts_with(&below) {
            continue;
        }
        if path.contains('\u{fffd}') {
            return Err(refused(format!("the name `{path}` is not UTF-8")));
        }
        bytes = bytes.saturating_add(entry.size);
        if entry.size > limits.file_bytes {
            let most = limits.file_bytes;
            return Err(refused(format!("{path} has {} bytes, and {most} are the most", entry.size)));
        }
        found.push((entry, path.to_owned()));
        if found.len() > limits.files || bytes > limits.bytes {
            let (files, most) = (limits.files, limits.bytes);
            return Err(refused(format!("it holds more than {files} files or {most} bytes")));
        }
    }
    let hashes: Vec<&str> = found
        .iter()
        .filter(|(entry, _)| entry.sort != Sort::Submodule)
        .map(|(entry, _)| entry.hash.as_str())
        .collect();
    let mut texts = blobs(&git, &hashes, limits).await?.into_iter();
    let entries = found.into_iter().map(|(entry, path)| {
        let bytes = match entry.sort {
            Sort::Submodule => Vec::new(),
            Sort::File { .. } | Sort::Link => texts.next().unwrap_or_default(),
        };
        Entry { path, sort: entry.sort, bytes }
    });
    let entries = entries.collect();
    Ok(Snapshot { commit: described.commit, time: described.time, subject: described.subject, entries })
}

struct Listed {
    sort: Sort,
    hash: String,
    size: u64,
}

/// `100644 blob HASH   SIZE\tPATH`
fn listing(line: &str) -> Option<Listed> {
    let mut words = line.split('\t').next()?.split_ascii_whitespace();
    let sort = match words.next()? {
        "100644" | "100664" => Sort::File { is_program: false },
        "100755" => Sort::File { is_program: true },
        "120000" => Sort::Link,
        "160000" => Sort::Submodule,
        _ => return None,
    };
    let (_, hash, size) = (words.next()?, words.next()?, words.next()?);
    Some(Listed { sort, hash: hash.to_owned(), size: size.parse().unwrap_or(0) })
}

/// The bytes of these blobs, in their order.
async fn blobs(git: &Git<'_>, hashes: &[&str], limits: Limits) -> Result<Vec<Vec<u8>>, GitError> {
    if hashes.is_empty() {
        return Ok(Vec::new());
    }
    let asked: String = hashes.iter().map(|hash| format!("{hash}\n")).collect();
    // A line of about a hundred bytes stands before each blob.
    let most = usize::try_from(limits.bytes).unwrap_or(usize::MAX).saturating_add(hashes.len() * 128);
    let command = git.prepared(&["cat-file", "--batch"]).stdin(asked.into_bytes()).keep(most);
    let finished = process::output(command, git.cancel, Some(git.repository.timeout)).await?;
    let refused = || GitError::Failed {
        repository: git.repository.shown(),
        said: "`git cat-file` printed no files".to_owned(),
    };
    if !finished.success() || finished.stdout.dropped_bytes > 0 {
        return Err(refused());
    }
    let mut rest = finished.stdout.bytes.as_slice();
    let mut blobs = Vec::with_capacity(hashes.len());
    for _ in hashes {
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(refused)?;
        let head = String::from_utf8_lossy(&rest[..end]);
        let size: usize = head.rsplit(' ').next().and_then(|size| size.parse().ok()).ok_or_else(refused)?;
        rest = &rest[end + 1..];
        let blob = rest.get(..size).ok_or_else(refused)?;
        blobs.push(blob.to_vec());
        rest = rest.get(size + 1..).ok_or_else(refused)?;
    }
    Ok(blobs)
}
