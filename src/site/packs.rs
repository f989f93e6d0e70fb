//! Packs of other people in a site: installed from git, pinned to a commit, brought up to date, taken away.
//!
//! Promises: a pack comes as a whole or not at all; what changes is looked at with the rest of the site before it is put in its place; nothing of a
//! pack is run; a repository that holds anything but plain files of moderate size is refused; what somebody changed by hand is not overwritten unasked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::SiteError;
use crate::definitions::needs::{self, Needs};
use crate::definitions::{Definitions, Files, Mistake, SITE, is_name};
use crate::git::snapshot::{Entry, Limits, Snapshot, Sort, snapshot};
use crate::git::{GitError, Repository};
use crate::model::Span;

/// What a pack may hold. A definition is smaller than 4 MiB anyway.
const LIMITS: Limits = Limits { files: 5_000, file_bytes: 4 * 1024 * 1024, bytes: 64 * 1024 * 1024 };
/// How long git may take.
const PATIENCE: Span = Span::minutes(5);
/// What was installed, beside siskin.yaml.
const LOCK: &str = "packs.lock";
/// What is said of a pack whose configuration is still to be written: nothing that keeps it from being installed.
const TO_BE_TOLD: &str = "must be told its";

/// Why a pack was not installed, updated or removed. The site is as it was.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("{} is not as `siskin packs` wrote it ({why}); mend it, or take it away and install the packs again", path.display())]
    Lock { path: PathBuf, why: String },
    #[error("{0}")]
    Refused(String),
    #[error("{what}:\n{}\n--force does it all the same", said(mistakes))]
    Breaks { what: String, mistakes: Vec<Mistake> },
}

fn said(mistakes: &[Mistake]) -> String {
    let lines: Vec<String> = mistakes.iter().take(20).map(|mistake| format!("  {mistake}")).collect();
    lines.join("\n")
}

/// All packs of a site that came from git.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    pub packs: BTreeMap<String, Locked>,
}

/// Where a pack came from, and what exactly came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locked {
    pub url: String,
    /// The branch, tag or commit that was asked for; without it, the repository's own branch.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The folder of the repository that holds it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub folder: String,
    pub commit: String,
    /// Over all its files.
    pub sha256: String,
}

/// What is to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub url: String,
    pub reference: Option<String>,
    /// The folder of the repository that holds it; empty: the repository itself.
    pub folder: String,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Done {
    pub pack: String,
    pub url: String,
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    pub from: Option<String>,
    pub commit: String,
    pub subject: String,
    /// Files that are new, not as they were, or gone.
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
    /// What to do before it works.
    pub remarks: Vec<String>,
}

impl Done {
    /// Whether nothing had to be done.
    pub fn is_nothing(&self) -> bool {
        self.from.as_ref() == Some(&self.commit)
            && self.added.is_empty()
            && self.changed.is_empty()
            && self.removed.is_empty()
    }
}

impl Wanted {
    /// `URL[@REF]`. A ref begins after the last `@` that is not that of a user before a host.
    pub fn parse(text: &str, folder: &str) -> Wanted {
        let start = match (text.find("://"), text.starts_with('/')) {
            (Some(scheme), _) => text[scheme + 3..].find('/').map(|slash| scheme + 3 + slash),
            (None, true) => Some(0),
            (None, false) => text.find(':'),
        };
        let at = start.and_then(|start| text[start..].rfind('@').map(|at| start + at));
        let (url, reference) = match at {
            Some(at) if at + 1 < text.len() => (&text[..at], Some(text[at + 1..].to_owned())),
            _ => (text, None),
        };
        Wanted { url: url.to_owned(), reference, folder: folder.trim_matches('/').to_owned() }
    }
}

/// A file of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PackFile {
    bytes: Vec<u8>,
    is_program: bool,
}

/// By path below the pack's folder.
type PackFiles = BTreeMap<String, PackFile>;

/// What is installed in the site.
///
/// # Errors
/// The lock file can't be read.
pub fn installed(site: &Path) -> Result<Lock, PackError> {
    let path = site.join(LOCK);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lock::default()),
        Err(error) => return Err(PackError::File { path, error }),
    };
    serde_json::from_slice(&bytes).map_err(|error| PackError::Lock { path, why: error.to_string() })
}

/// Installs a pack.
///
/// # Errors
/// The repository can't be read or is no pack; what it needs is not there; it has mistakes; there is such a pack already. With `force`, the last three
/// are passed over.
pub async fn install(
    site: &Path,
    wanted: &Wanted,
    force: bool,
    cancel: &CancellationToken,
) -> Result<Done, PackError> {
    if crate::git::shown(&wanted.url) != wanted.url {
        let message = format!(
            "{LOCK} keeps the URL, and no password belongs there; give git one by GIT_ASKPASS, or use ssh"
        );
        return Err(PackError::Refused(message));
    }
    let mut lock = installed(site)?;
    let (found, files) = fetch(site, wanted, cancel).await?;
    let pack = name_of(&files, wanted)?;
    let locked = lock.packs.get(&pack);
    if site.join("packs").join(&pack).exists() && !force {
        unchanged(site, &pack, locked)?;
        if let Some(locked) =
            locked.filter(|locked| locked.url != wanted.url || locked.folder != wanted.folder)
        {
            let url = crate::git::shown(&locked.url);
            return Err(PackError::Refused(format!(
                "the pack `{pack}` is installed from {url}; take it away first, or say --force"
            )));
        }
    }
    put(site, &mut lock, &pack, wanted, found, files, force)
}

/// Brings an installed pack to the newest commit of its ref.
///
/// # Errors
/// As `install`; the pack is not installed.
pub async fn update(
    site: &Path,
    pack: &str,
    dry_run: bool,
    force: bool,
    cancel: &CancellationToken,
) -> Result<Done, PackError> {
    let mut lock = installed(site)?;
    let Some(locked) = lock.packs.get(pack).cloned() else { return Err(not_installed(pack, &lock)) };
    let wanted = Wanted {
        url: locked.url.clone(),
        reference: locked.reference.clone(),
        folder: locked.folder.clone(),
    };
    if !force {
        unchanged(site, pack, Some(&locked))?;
    }
    let (found, files) = fetch(site, &wanted, cancel).await?;
    let now_called = name_of(&files, &wanted)?;
    if now_called != pack {
        let message = format!("the repository holds the pack `{now_called}` now, not `{pack}`; install that");
        return Err(PackError::Refused(message));
    }
    if dry_run {
        let before = on_disk(site, pack)?;
        return Ok(compared(pack, &wanted, Some(&locked), &found, &before, &files));
    }
    put(site, &mut lock, pack, &wanted, found, files, force)
}

/// Takes an installed pack away.
///
/// # Errors
/// It is not installed, was changed by hand, or definitions of the site use it; with `force` the last two are passed over.
pub fn remove(site: &Path, pack: &str, force: bool) -> Result<Locked, PackError> {
    let mut lock = installed(site)?;
    let Some(locked) = lock.packs.remove(pack) else { return Err(not_installed(pack, &lock)) };
    if !force {
        unchanged(site, pack, Some(&locked))?;
        let new = broken_by(site, pack, None)?;
        if !new.is_empty() {
            return Err(PackError::Breaks { what: format!("the pack `{pack}` is in use"), mistakes: new });
        }
    }
    let (folder, aside) = (site.join("packs").join(pack), aside(site, pack, "old"));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| PackError::File { path, error }
    };
    let is_there = folder.exists();
    if is_there {
        fs::rename(&folder, &aside).map_err(failed(&folder))?;
    }
    if let Err(error) = write_lock(site, &lock) {
        if is_there {
            fs::rename(&aside, &folder).map_err(failed(&folder))?;
        }
        return Err(error);
    }
    fs::remove_dir_all(&aside).ok();
    Ok(locked)
}

fn not_installed(pack: &str, lock: &Lock) -> PackError {
    let known: Vec<&str> = lock.packs.keys().map(String::as_str).collect();
    let known = match known.as_slice() {
        [] => "none is".to_owned(),
        names => format!("installed are {}", names.join(", ")),
    };
    PackError::Refused(format!("the pack `{pack}` is not installed from git; {known}"))
}

/// A folder beside the packs that no site sees.
fn aside(site: &Path, pack: &str, what: &str) -> PathBuf {
    site.join("packs").join(format!(".{pack}.{what}-{}", std::process::id()))
}

// What is in the repository.

async fn fetch(
    site: &Path,
    wanted: &Wanted,
    cancel: &CancellationToken,
) -> Result<(Snapshot, PackFiles), PackError> {
    if !site.is_dir() {
        return Err(SiteError::NoFolder(site.to_owned()).into());
    }
    let repository = Repository::new(&wanted.url)?.timeout(PATIENCE);
    let scratch =
        tempfile::tempdir().map_err(|error| PackError::File { path: std::env::temp_dir(), error })?;
    let reference = wanted.reference.as_deref().unwrap_or("HEAD");
    let found = snapshot(&repository, reference, &wanted.folder, scratch.path(), LIMITS, cancel).await?;
    let files = checked(&found.entries, &wanted.folder)?;
    Ok((found, files))
}

/// The files below the folder, when all of them may lie in a pack.
fn checked(entries: &[Entry], folder: &str) -> Result<PackFiles, PackError> {
    let below = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut files = PackFiles::new();
    for entry in entries {
        let path = entry.path.strip_prefix(&below).unwrap_or(&entry.path);
        let refused = |why: &str| Err(PackError::Refused(format!("{path}: {why}")));
        let is_program = match entry.sort {
            Sort::File { is_program } => is_program,
            Sort::Link => return refused("a pack holds files, no symbolic links"),
            Sort::Submodule => return refused("a pack holds files, no submodules"),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let is_plain = |part: &&str| {
            !part.is_empty()
                && !["..", "."].contains(part)
                && !part.chars().any(|c| c.is_control() || c == '\\')
        };
        if !parts.iter().all(is_plain) || path.len() > 1024 {
            return refused("a pack has no file of such a name");
        }
        if parts.iter().any(|part| part.eq_ignore_ascii_case(".git")) || path == ".gitmodules" {
            return refused("a pack holds files, no repositories");
        }
        // What git and its hosts read lies in hidden files: no part of the pack.
        if parts.iter().any(|part| part.starts_with('.')) {
            continue;
        }
        files.insert(path.to_owned(), PackFile { bytes: entry.bytes.clone(), is_program });
    }
    Ok(files)
}

/// What the pack is called: as its pack.yaml says, or after its repository.
fn name_of(files: &PackFiles, wanted: &Wanted) -> Result<String, PackError> {
    let Some(file) = files.get("pack.yaml") else {
        let at = if wanted.folder.is_empty() { "at its top" } else { "in that folder" };
        return Err(PackError::Refused(format!(
            "{} holds no pack: there is no pack.yaml {at}; name the folder with --folder",
            crate::git::shown(&wanted.url)
        )));
    };
    let path = if wanted.folder.is_empty() { wanted.url.trim_end_matches('/') } else { &wanted.folder };
    let last = path.rsplit(['/', ':']).next().unwrap_or_default().trim_end_matches(".git");
    let after = last.trim_start_matches("siskin-").replace('-', "_").to_lowercase();
    let name = needs::name_of_pack(&file.bytes).unwrap_or(after);
    if !is_name(&name) || name == SITE {
        let message = format!(
            "`{name}` is no name of a pack; say its `name` in pack.yaml: small letters, digits and _"
        );
        return Err(PackError::Refused(message));
    }
    Ok(name)
}

// What is in the site.

/// Whether the pack's folder is as it was installed.
fn unchanged(site: &Path, pack: &str, locked: Option<&Locked>) -> Result<(), PackError> {
    let refused = |why: String| Err(PackError::Refused(format!("packs/{pack} {why}; --force overwrites it")));
    let Some(locked) = locked else {
        return refused("is there already, and was not installed from git".to_owned());
    };
    if !site.join("packs").join(pack).is_dir() {
        return Ok(());
    }
    if hash(&on_disk(site, pack)?) == locked.sha256 {
        return Ok(());
    }
    refused(format!("was changed since it was installed at {}", short(&locked.commit)))
}

/// The files of a pack as they lie there; none when it does not.
fn on_disk(site: &Path, pack: &str) -> Result<PackFiles, PackError> {
    let root = site.join("packs").join(pack);
    let mut files = PackFiles::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        let failed = |error| PackError::File { path: folder.clone(), error };
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            if super::is_nobodys(&entry.file_name().to_string_lossy()) {
                continue;
            }
            if entry.file_type().map_err(failed)?.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
            let failed = |error| PackError::File { path: path.clone(), error };
            let is_program = fs::metadata(&path).map_err(failed)?.permissions().mode() & 0o100 != 0;
            files.insert(name, PackFile { bytes: fs::read(&path).map_err(failed)?, is_program });
        }
    }
    Ok(files)
}

fn hash(files: &PackFiles) -> String {
    let mut hash = Sha256::new();
    for (path, file) in files {
        for part in [path.as_bytes(), &[u8::from(file.is_program)], &file.bytes] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hex::encode(hash.finalize())
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

/// The mistakes that the site has only with these files of the pack; without any, when the pack is not there.
fn broken_by(site: &Path, pack: &str, files: Option<&PackFiles>) -> Result<Vec<Mistake>, PackError> {
    let now = super::read(site)?;
    let mut then =
        Files { texts: now.texts.clone(), embedded: now.embedded.clone(), unread: now.unread.clone() };
    let below = format!("packs/{pack}/");
    then.texts.retain(|path, _| !path.starts_with(&below));
    then.embedded.retain(|path| !path.starts_with(&below));
    for (path, file) in files.into_iter().flatten() {
        then.texts.insert(format!("{below}{path}"), Arc::from(file.bytes.as_slice()));
    }
    // One of the binary stands behind one that goes.
    super::lay_under(&mut then, super::embedded::packs());
    let known: BTreeSet<(Arc<str>, String)> =
        Definitions::read(&now).1.into_iter().map(|mistake| (mistake.place.file, mistake.message)).collect();
    let new = Definitions::read(&then).1.into_iter();
    Ok(new
        .filter(|mistake| !known.contains(&(Arc::clone(&mistake.place.file), mistake.message.clone())))
        .collect())
}

fn compared(
    pack: &str,
    wanted: &Wanted,
    locked: Option<&Locked>,
    found: &Snapshot,
    before: &PackFiles,
    after: &PackFiles,
) -> Done {
    let differs = |path: &&String| before.get(*path).is_some_and(|old| Some(old) != after.get(*path));
    Done {
        pack: pack.to_owned(),
        url: crate::git::shown(&wanted.url),
        reference: wanted.reference.clone(),
        from: locked.map(|locked| locked.commit.clone()),
        commit: found.commit.clone(),
        subject: found.subject.clone(),
        added: after.keys().filter(|path| !before.contains_key(*path)).cloned().collect(),
        changed: after.keys().filter(differs).cloned().collect(),
        removed: before.keys().filter(|path| !after.contains_key(*path)).cloned().collect(),
        remarks: Vec::new(),
    }
}

/// Looks at the pack in its place, then puts it there.
fn put(
    site: &Path,
    lock: &mut Lock,
    pack: &str,
    wanted: &Wanted,
    found: Snapshot,
    files: PackFiles,
    force: bool,
) -> Result<Done, PackError> {
    let before = on_disk(site, pack)?;
    let mut done = compared(pack, wanted, lock.packs.get(pack), &found, &before, &files);
    let file = format!("packs/{pack}/pack.yaml");
    let manifest = files.get("pack.yaml").map(|file| file.bytes.as_slice()).unwrap_or_default();
    let (needs, _) = needs::of_pack(pack, &file, manifest);
    let missing = missing_programs(&needs);
    if !missing.is_empty() && !force {
        return Err(PackError::Refused(format!(
            "the pack `{pack}` needs {}, and this machine has no such program; where its actions are done elsewhere, say --force",
            missing.join(" and ")
        )));
    }
    let (to_be_told, new): (Vec<Mistake>, Vec<Mistake>) = broken_by(site, pack, Some(&files))?
        .into_iter()
        .partition(|mistake| *mistake.place.file == *file && mistake.message.contains(TO_BE_TOLD));
    if !new.is_empty() && !force {
        return Err(PackError::Breaks {
            what: format!("the pack `{pack}` does not fit this site"),
            mistakes: new,
        });
    }
    for mistake in to_be_told {
        let help = mistake.help.map(|help| format!(": {help}")).unwrap_or_default();
        done.remarks.push(format!("{}{help}", mistake.message));
    }
    let locked = Locked {
        url: wanted.url.clone(),
        reference: wanted.reference.clone(),
        folder: wanted.folder.clone(),
        commit: found.commit,
        sha256: hash(&files),
    };
    if done.is_nothing() && lock.packs.get(pack) == Some(&locked) {
        return Ok(done);
    }
    lock.packs.insert(pack.to_owned(), locked);
    exchange(site, lock, pack, &files)?;
    Ok(done)
}

/// Of the programs that it needs, those that are not on PATH.
fn missing_programs(needs: &Needs) -> Vec<String> {
    let folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let is_there = |name: &&String| folders.iter().any(|folder| folder.join(name).is_file());
    needs.programs.iter().filter(|name| !is_there(name)).map(|name| format!("`{name}`")).collect()
}

/// Puts the files in the place of those that are there, and writes the lock; when that fails, all is as it was.
fn exchange(site: &Path, lock: &Lock, pack: &str, files: &PackFiles) -> Result<(), PackError> {
    let (folder, new) = (site.join("packs").join(pack), aside(site, pack, "new"));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| PackError::File { path, error }
    };
    let written = write_files(&new, files);
    if let Err(error) = written {
        fs::remove_dir_all(&new).ok();
        return Err(error);
    }
    let was_there = folder.exists();
    let exchanged = match was_there {
        true => swap(&folder, &new),
        false => fs::rename(&new, &folder),
    };
    if let Err(error) = exchanged {
        fs::remove_dir_all(&new).ok();
        return Err(failed(&folder)(error));
    }
    if let Err(error) = write_lock(site, lock) {
        match was_there {
            true => swap(&folder, &new).map_err(failed(&folder))?,
            false => fs::rename(&folder, &new).map_err(failed(&folder))?,
        }
        fs::remove_dir_all(&new).ok();
        return Err(error);
    }
    // What was there before, if anything was.
    fs::remove_dir_all(&new).ok();
    Ok(())
}

/// Exchanges two folders in one step, where the file system can.
fn swap(one: &Path, other: &Path) -> io::Result<()> {
    if renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).is_ok() {
        return Ok(());
    }
    let between = other.with_extension("between");
    fs::rename(one, &between)?;
    if let Err(error) = fs::rename(other, one) {
        fs::rename(&between, one)?;
        return Err(error);
    }
    fs::rename(&between, other)
}

fn write_files(folder: &Path, files: &PackFiles) -> Result<(), PackError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| PackError::File { path, error }
    };
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(failed(folder))?;
    }
    fs::create_dir_all(folder).map_err(failed(folder))?;
    for (name, file) in files {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed(parent))?;
        }
        fs::write(&path, &file.bytes).map_err(failed(&path))?;
        if file.is_program {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed(&path))?;
        }
    }
    Ok(())
}

fn write_lock(site: &Path, lock: &Lock) -> Result<(), PackError> {
    let path = site.join(LOCK);
    let write = || -> io::Result<()> {
        if lock.packs.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let mut file = tempfile::Builder::new().prefix(".packs.lock").tempfile_in(site)?;
        serde_json::to_writer_pretty(&mut file, lock)?;
        writeln!(file)?;
        file.as_file().sync_all()?;
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644))?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| PackError::File { path: path.clone(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ref_is_told_from_a_user() {
        let table = [
            ("https://example.org/a/b.git", "https://example.org/a/b.git", None),
            ("https://example.org/a/b.git@v1", "https://example.org/a/b.git", Some("v1")),
            ("https://user@example.org/a/b", "https://user@example.org/a/b", None),
            ("https://user:x@example.org/a/b@feature/x", "https://user:x@example.org/a/b", Some("feature/x")),
            ("ssh://git@example.org:22/a/b@v1.2", "ssh://git@example.org:22/a/b", Some("v1.2")),
            ("git@example.org:a/b.git", "git@example.org:a/b.git", None),
            ("git@example.org:a/b.git@main", "git@example.org:a/b.git", Some("main")),
            ("/srv/git/b@v2", "/srv/git/b", Some("v2")),
            ("/srv/git/b", "/srv/git/b", None),
        ];
        for (text, url, reference) in table {
            let wanted = Wanted::parse(text, "");
            assert_eq!((wanted.url.as_str(), wanted.reference.as_deref()), (url, reference), "{text}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let entry = |path: &str, sort: Sort| Entry { path: path.to_owned(), sort, bytes: Vec::new() };
        let file = Sort::File { is_program: false };
        for (path, sort) in [
            ("../x", file),
            ("a/../../x", file),
            ("/etc/passwd", file),
            ("a//b", file),
            ("a\\b", file),
            ("a\nb", file),
            (".GIT/hooks/post-checkout", file),
            (".gitmodules", file),
            ("link", Sort::Link),
            ("other", Sort::Submodule),
        ] {
            assert!(checked(&[entry(path, sort)], "").is_err(), "{path}");
        }
        let kept = checked(&[entry("p/pack.yaml", file), entry("p/.github/x.yaml", file)], "p");
        assert!(kept.is_ok_and(|files| files.keys().eq(["pack.yaml"])));
    }
}
