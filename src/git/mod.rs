//! Reads git repositories by the `git` program: what a ref points to, the files of one commit, what changed between two.
//!
//! * A commit, ref or URL is data: none can become an option, a program (`ext::`), a hook or a question at a terminal.
//! * No configuration of the machine or user takes part, unless a caller's environment says so (credentials).
//! * A checkout is whole or redone: what a killed process left is recognised and replaced. A directory of somebody else is refused.
//! * Errors name the repository, without its password, and the reason.
//!
//! It never writes to a repository that is not its own checkout.

mod address;
mod kept;
pub mod snapshot;

use std::path::{Path, PathBuf};

use base64::Engine as _;
use tokio_util::sync::CancellationToken;

use crate::model::{Span, Timestamp};
use crate::process::{self, Command, Ended, Finished, ProcessError};

pub use address::shown;
pub use kept::checkout_kept;

/// Whose checkout a directory is, and of what; inside `.git`, where no checkout can reach it.
const MARK: &str = "siskin-checkout";

/// A repository somewhere, and what is needed to read it.
#[derive(Clone)]
pub struct Repository {
    url: String,
    env: Vec<(String, String)>,
    timeout: Span,
}

impl Repository {
    /// An `http https ssh git file` URL, `user@host:path`, or an absolute path.
    pub fn new(url: impl Into<String>) -> Result<Repository, GitError> {
        let url = url.into();
        address::check(&url).map_err(|why| GitError::BadUrl { repository: shown(&url), why })?;
        Ok(Repository { url, env: Vec::new(), timeout: Span::minutes(10) })
    }

    /// Environment of `git`, over ours: credentials by `GIT_SSH_COMMAND`, `GIT_ASKPASS`, `GIT_CONFIG_GLOBAL`.
    #[must_use]
    pub fn env<K: Into<String>, V: Into<String>>(
        mut self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Repository {
        self.env.extend(pairs.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// Sends a user and token with HTTP requests to this URL, and to no other.
    #[must_use]
    pub fn http_token(mut self, user: &str, token: &str) -> Repository {
        let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{token}"));
        // By the environment: arguments can be seen by every user of the machine.
        self.env.push(("GIT_CONFIG_COUNT".into(), "1".into()));
        self.env.push(("GIT_CONFIG_KEY_0".into(), format!("http.{}.extraHeader", self.url)));
        self.env.push(("GIT_CONFIG_VALUE_0".into(), format!("Authorization: Basic {credentials}")));
        self
    }

    /// How long one command of git may take; ten minutes when not said.
    #[must_use]
    pub fn timeout(mut self, timeout: Span) -> Repository {
        self.timeout = timeout;
        self
    }

    /// The URL without its password.
    pub fn shown(&self) -> String {
        shown(&self.url)
    }

    fn is_local(&self) -> bool {
        self.url.starts_with('/') || self.url.starts_with("file:")
    }
}

/// A URL may hold a password, the environment a token.
impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Repository").field(&self.shown()).finish()
    }
}

/// A branch or tag and the commit it points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ref {
    /// In full: `refs/heads/main`.
    pub name: String,
    pub commit: String,
}

/// What stands in a directory after [`checkout`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    /// The full hash.
    pub commit: String,
    /// When it was committed.
    pub time: Timestamp,
    pub subject: String,
}

/// One commit between two others.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    pub commit: String,
    pub author: String,
    pub subject: String,
}

/// Why git could not do it.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("`{repository}` is no repository address: {why}")]
    BadUrl { repository: String, why: &'static str },
    #[error("`{wanted}` can't be a commit or ref: {why}")]
    BadCommit { wanted: String, why: &'static str },
    #[error("{wanted} is not in {repository}")]
    NoSuchCommit { wanted: String, repository: String },
    #[error("{wanted} could be several commits of {repository}; give more digits of the hash")]
    Ambiguous { wanted: String, repository: String },
    #[error("{repository} is no git repository, or may not be seen with these credentials: {said}")]
    NoRepository { repository: String, said: String },
    #[error("{repository} can't be reached: {said}")]
    Unreachable { repository: String, said: String },
    #[error("{repository} does not accept these credentials: {said}")]
    Denied { repository: String, said: String },
    #[error("{} holds files that are no checkout of ours; give an empty or new directory", .0.display())]
    NotOurs(PathBuf),
    #[error("git took longer than {timeout} for {repository}")]
    TimedOut { repository: String, timeout: Span },
    #[error("cancelled")]
    Cancelled,
    #[error("git failed for {repository}: {said}")]
    Failed { repository: String, said: String },
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{}: {source}", .path.display())]
    Directory { path: PathBuf, source: std::io::Error },
}

/// All branches and tags, and `HEAD`. An annotated tag stands with the commit it is of.
pub async fn refs(repository: &Repository, cancel: &CancellationToken) -> Result<Vec<Ref>, GitError> {
    let listed = Git::anywhere(repository, cancel).remote(&["ls-remote"], &[]).await?;
    let mut refs: Vec<Ref> = Vec::new();
    for line in listed.lines() {
        let Some((commit, name)) = line.split_once('\t') else { continue };
        match name.strip_suffix("^{}") {
            // Follows the tag itself, and is what the tag is of.
            Some(tag) => refs
                .iter_mut()
                .filter(|known| known.name == tag)
                .for_each(|known| commit.clone_into(&mut known.commit)),
            None => refs.push(Ref { name: name.to_owned(), commit: commit.to_owned() }),
        }
    }
    Ok(refs)
}

/// The commit that a branch, tag or full ref points to now; a full hash is its own answer, and is not looked for.
pub async fn resolve(
    repository: &Repository,
    wanted: &str,
    cancel: &CancellationToken,
) -> Result<String, GitError> {
    check_commit(wanted)?;
    if is_full_hash(wanted) {
        return Ok(wanted.to_ascii_lowercase());
    }
    let refs = refs(repository, cancel).await?;
    find_ref(&refs, wanted).map(|found| found.commit.clone()).ok_or_else(|| no_such(repository, wanted))
}

/// Puts the files of exactly one commit into `directory`, which is made, or holds an earlier checkout of ours. `wanted` is a
/// hash, in full or abbreviated, or a branch or tag. Files that the commit does not have are removed.
pub async fn checkout(
    repository: &Repository,
    wanted: &str,
    directory: &Path,
    cancel: &CancellationToken,
) -> Result<Checkout, GitError> {
    checkout_from(repository, repository, wanted, directory, cancel).await
}

/// The same, with the commit taken from `source`, which has what `repository` has.
async fn checkout_from(
    source: &Repository,
    repository: &Repository,
    wanted: &str,
    directory: &Path,
    cancel: &CancellationToken,
) -> Result<Checkout, GitError> {
    check_commit(wanted)?;
    claim(directory)?;
    let git = Git { repository: source, directory: Some(directory), cancel };
    // Never what an earlier attempt left there: a build may have written to it since, its git directory with programs to run included.
    start_anew(directory)?;
    git.local(&["init", "--quiet", "--template="]).await?;
    let commit = git.fetch(wanted).await?;
    git.local(&["checkout", "--quiet", "--force", "--detach", &commit]).await?;
    let mark = directory.join(".git").join(MARK);
    let text = format!("{commit}\n{}\n", shown(&repository.url));
    std::fs::write(&mark, text).map_err(|source| GitError::Directory { path: mark, source })?;
    git.describe(&commit).await
}

/// When a commit of a checkout was made.
pub async fn commit_time(
    directory: &Path,
    commit: &str,
    cancel: &CancellationToken,
) -> Result<Timestamp, GitError> {
    check_commit(commit)?;
    let repository = here(directory);
    Ok(Git { repository: &repository, directory: Some(directory), cancel }.describe(commit).await?.time)
}

/// What came with `to` and was not in `from`, newest first, at most `limit` commits. `directory` is a checkout of the repository;
/// its history is fetched when it is not there.
pub async fn changes(
    repository: &Repository,
    directory: &Path,
    from: &str,
    to: &str,
    limit: usize,
    cancel: &CancellationToken,
) -> Result<Vec<Change>, GitError> {
    check_commit(from)?;
    check_commit(to)?;
    let git = Git { repository, directory: Some(directory), cancel };
    if directory.join(".git/shallow").exists() {
        git.fetch_everything().await?;
    }
    let mut ends = Vec::new();
    for end in [from, to] {
        match git.find(end).await? {
            Some(commit) => ends.push(commit),
            None => return Err(no_such(repository, end)),
        }
    }
    let limit = format!("--max-count={limit}");
    let range = format!("{}..{}", ends[0], ends[1]);
    let listed = git.local(&["log", &limit, "--format=%H%x00%an%x00%s", &range, "--"]).await?;
    let change = |line: &str| {
        let mut fields = line.splitn(3, '\0').map(str::to_owned);
        Some(Change { commit: fields.next()?, author: fields.next()?, subject: fields.next()? })
    };
    Ok(listed.lines().filter_map(change).collect())
}

/// `git`, ready to be called.
struct Git<'a> {
    repository: &'a Repository,
    directory: Option<&'a Path>,
    cancel: &'a CancellationToken,
}

impl<'a> Git<'a> {
    fn anywhere(repository: &'a Repository, cancel: &'a CancellationToken) -> Git<'a> {
        Git { repository, directory: None, cancel }
    }

    /// A command that talks to the repository: `verb`, then its address, then `rest`.
    async fn remote(&self, verb: &[&str], rest: &[&str]) -> Result<String, GitError> {
        let mut args = verb.to_vec();
        if self.repository.is_local() {
            // The other side of a local repository is a git of its own, which would refuse other users' repositories. It only
            // reads, and runs nothing that the repository says.
            args.push("--upload-pack=git -c safe.directory=* upload-pack");
        }
        args.extend(["--", &self.repository.url]);
        args.extend(rest);
        self.local(&args).await
    }

    async fn local(&self, args: &[&str]) -> Result<String, GitError> {
        let finished = self.run(args).await?;
        match finished.ended {
            Ended::Code(0) => Ok(finished.stdout.text()),
            _ => Err(self.failure(&finished)),
        }
    }

    /// The program with everything that keeps it from doing more than it is asked.
    fn prepared(&self, args: &[&str]) -> Command {
        const SETTINGS: [&str; 9] = [
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
            "core.attributesFile=/dev/null",
            "gc.auto=0",
            "maintenance.auto=false",
            "submodule.recurse=false",
            "protocol.version=2",
            "advice.detachedHead=false",
            // A server that stops talking must not hold a run for ever.
            "http.lowSpeedLimit=1",
        ];
        let mut command = Command::new("git").keep(32 * 1024 * 1024).grace(Span::seconds(5));
        for setting in SETTINGS {
            command = command.args(["-c", setting]);
        }
        command =
            command.args(["-c", "http.lowSpeedTime=60", "-c", "safe.directory=*"]).args(args.iter().copied());
        command = command.envs([
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ALLOW_PROTOCOL", "file:git:http:https:ssh"),
            ("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=20"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            // No repository above the directory is ours.
            ("GIT_CEILING_DIRECTORIES", "/"),
            ("LC_ALL", "C"),
        ]);
        if let Some(directory) = self.directory {
            let inside = directory.join(".git").to_string_lossy().into_owned();
            command = command
                .cwd(directory)
                .env("GIT_DIR", inside)
                .env("GIT_WORK_TREE", directory.to_string_lossy());
        }
        command.envs(self.repository.env.iter().cloned())
    }

    async fn run(&self, args: &[&str]) -> Result<Finished, GitError> {
        let command = self.prepared(args);
        let finished = process::output(command, self.cancel, Some(self.repository.timeout)).await?;
        match finished.ended {
            Ended::TimedOut => Err(GitError::TimedOut {
                repository: self.repository.shown(),
                timeout: self.repository.timeout,
            }),
            Ended::Cancelled => Err(GitError::Cancelled),
            Ended::Code(_) | Ended::Signal(_) => Ok(finished),
        }
    }

    /// What a failed command says, by its message in English (`LC_ALL=C`).
    fn failure(&self, finished: &Finished) -> GitError {
        let text = finished.stderr.text();
        let repository = self.repository.shown();
        let said = said(&text, &self.repository.url);
        let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
        if says(&[
            "Authentication failed",
            "could not read Username",
            "could not read Password",
            "Permission denied",
            "returned error: 403",
        ]) {
            return GitError::Denied { repository, said };
        }
        if says(&[
            "Could not resolve host",
            "Connection refused",
            "timed out",
            "Failed to connect",
            "Host key verification failed",
        ]) || says(&[
            "Could not connect",
            "No route to host",
            "Network is unreachable",
            "Operation too slow",
            "unable to connect",
        ]) {
            return GitError::Unreachable { repository, said };
        }
        if says(&[
            "not found",
            "does not exist",
            "does not appear to be a git repository",
            "not a git repository",
        ]) {
            return GitError::NoRepository { repository, said };
        }
        GitError::Failed { repository, said }
    }

    /// Brings the wanted commit here, and its hash.
    async fn fetch(&self, wanted: &str) -> Result<String, GitError> {
        if is_full_hash(wanted) {
            // Most servers give any commit that they have. Those that do not are asked for everything.
            if self.fetch_shallow(wanted).await? {
                return Ok(wanted.to_ascii_lowercase());
            }
        } else {
            let refs = refs(self.repository, self.cancel).await?;
            if let Some(found) = find_ref(&refs, wanted)
                && (self.fetch_shallow(&found.commit).await? || self.fetch_shallow(&found.name).await?)
                && let Some(commit) = self.find(&found.commit).await?
            {
                return Ok(commit);
            }
        }
        self.fetch_everything().await?;
        match self.find(wanted).await? {
            Some(commit) => Ok(commit),
            None => Err(no_such(self.repository, wanted)),
        }
    }

    /// Fetches one commit without its history; false when the server does not give it so.
    async fn fetch_shallow(&self, what: &str) -> Result<bool, GitError> {
        match self.remote(&["fetch", "--quiet", "--no-tags", "--depth=1"], &[what]).await {
            Ok(_) => Ok(true),
            Err(GitError::Failed { .. } | GitError::NoRepository { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn fetch_everything(&self) -> Result<(), GitError> {
        let directory = self.directory.unwrap_or(Path::new("/"));
        let mut verb = vec!["fetch", "--quiet", "--force", "--no-tags"];
        if directory.join(".git/shallow").exists() {
            verb.push("--unshallow");
        }
        let all = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        self.remote(&verb, &all).await.map(drop)
    }

    /// The commit of a hash or ref that is here.
    async fn find(&self, wanted: &str) -> Result<Option<String>, GitError> {
        let names = match is_hash(wanted) {
            true => vec![wanted.to_owned()],
            false => {
                ["refs/remotes/origin", "refs/tags"].iter().map(|under| format!("{under}/{wanted}")).collect()
            }
        };
        for name in names {
            let commit = format!("{name}^{{commit}}");
            let finished = self.run(&["rev-parse", "--verify", "--end-of-options", &commit]).await?;
            if finished.success() {
                let printed = finished.stdout.text();
                return Ok(printed
                    .split_ascii_whitespace()
                    .find(|word| is_full_hash(word))
                    .map(str::to_owned));
            }
            if finished.stderr.text().contains("is ambiguous") {
                let repository = self.repository.shown();
                return Err(GitError::Ambiguous { wanted: wanted.to_owned(), repository });
            }
        }
        Ok(None)
    }

    async fn describe(&self, commit: &str) -> Result<Checkout, GitError> {
        let printed =
            self.local(&["log", "-1", "--format=%H%n%ct%n%s", "--end-of-options", commit, "--"]).await?;
        let mut lines = printed.lines();
        let (Some(commit), Some(seconds)) =
            (lines.next(), lines.next().and_then(|text| text.parse::<i64>().ok()))
        else {
            return Err(GitError::Failed {
                repository: self.repository.shown(),
                said: "`git log` printed no commit".into(),
            });
        };
        let subject = lines.next().unwrap_or_default().to_owned();
        Ok(Checkout { commit: commit.to_owned(), time: Timestamp(seconds.saturating_mul(1000)), subject })
    }
}

/// The lines of git's complaint that say something, without the password of the URL.
fn said(text: &str, url: &str) -> String {
    let tells = |line: &&str| {
        ["fatal: ", "error: ", "remote: ", "ssh: "].iter().any(|prefix| line.starts_with(prefix))
    };
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(tells).collect();
    if lines.is_empty() {
        lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    }
    lines.truncate(3);
    lines.join("; ").replace(url, &shown(url))
}

fn no_such(repository: &Repository, wanted: &str) -> GitError {
    GitError::NoSuchCommit { wanted: wanted.to_owned(), repository: repository.shown() }
}

/// A checkout as its own repository, for what needs no other.
fn here(directory: &Path) -> Repository {
    Repository { url: directory.to_string_lossy().into_owned(), env: Vec::new(), timeout: Span::minutes(1) }
}

fn is_hash(text: &str) -> bool {
    (4..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_full_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && is_hash(text)
}

/// A ref by its full or short name; a branch goes before a tag.
fn find_ref<'a>(refs: &'a [Ref], wanted: &str) -> Option<&'a Ref> {
    let names = [wanted.to_owned(), format!("refs/heads/{wanted}"), format!("refs/tags/{wanted}")];
    names.iter().find_map(|name| refs.iter().find(|known| known.name == *name))
}

/// Refuses what could be anything but a commit or ref.
fn check_commit(wanted: &str) -> Result<(), GitError> {
    let why = if wanted.is_empty() {
        "it is empty"
    } else if wanted.starts_with('-') {
        "it begins with `-`"
    } else if wanted.len() > 1024 {
        "it is too long"
    } else if wanted.chars().any(|c| c.is_control() || " ~^:?*[\\".contains(c))
        || wanted.contains("..")
        || wanted.contains("@{")
    {
        "it has a character that no ref may have"
    } else {
        return Ok(());
    };
    let wanted = wanted.chars().take(100).flat_map(char::escape_debug).collect();
    Err(GitError::BadCommit { wanted, why })
}

/// Makes the directory, or finds an earlier checkout in it; it is refused when it holds anything else.
fn claim(directory: &Path) -> Result<(), GitError> {
    let failed = |source| GitError::Directory { path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(failed)?;
    // A link in its place would lead out of what is ours.
    let is_link = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    if is_link(directory) || is_link(&directory.join(".git")) {
        return Err(GitError::NotOurs(directory.to_owned()));
    }
    let mark = directory.join(".git").join(MARK);
    let is_empty = std::fs::read_dir(directory).map_err(failed)?.next().is_none();
    if is_empty {
        std::fs::create_dir(directory.join(".git")).map_err(failed)?;
        return std::fs::write(&mark, "").map_err(failed);
    }
    // `.git` alone, and empty, is what is left of us when we are killed between the two lines above.
    let only_git =
        std::fs::read_dir(directory).map_err(failed)?.flatten().all(|entry| entry.file_name() == ".git");
    let empty_git =
        || std::fs::read_dir(directory.join(".git")).is_ok_and(|mut entries| entries.next().is_none());
    match mark.is_file() || (only_git && empty_git()) {
        true => Ok(()),
        false => Err(GitError::NotOurs(directory.to_owned())),
    }
}

/// Empties the directory. The mark goes last, so that a half-emptied directory is still known as ours.
fn start_anew(directory: &Path) -> Result<(), GitError> {
    let failed = |source| GitError::Directory { path: directory.to_owned(), source };
    let git = directory.join(".git");
    for (folder, kept) in [(directory, ".git"), (&git, MARK)] {
        for entry in
            std::fs::read_dir(folder).map_err(failed)?.flatten().filter(|entry| entry.file_name() != kept)
        {
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => std::fs::remove_dir_all(entry.path()),
                false => std::fs::remove_file(entry.path()),
            }
            .map_err(failed)?;
        }
    }
    std::fs::write(git.join(MARK), "").map_err(failed)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn commits_that_could_be_something_else_are_refused() {
        for fine in
            ["main", "feature/a/b", "v1.0", "3f1c", "refs/heads/x", "ünïcode", "HEAD", "$(reboot)", "a;b"]
        {
            assert!(check_commit(fine).is_ok(), "{fine}");
        }
        for bad in
            ["", "-x", "--upload-pack=x", "a b", "a\nb", "a..b", "x^{commit}", "a:b", "HEAD@{1}", "a\0b"]
        {
            assert!(check_commit(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn directories_of_others_are_refused_and_ours_are_taken_again() {
        let folder = tempfile::tempdir().unwrap();
        let ours = folder.path().join("ours");
        claim(&ours).unwrap();
        std::fs::write(ours.join("left over"), "").unwrap();
        claim(&ours).unwrap();
        start_anew(&ours).unwrap();
        assert!(!ours.join("left over").exists());

        let theirs = folder.path().join("theirs");
        std::fs::create_dir_all(theirs.join(".git")).unwrap();
        std::fs::write(theirs.join(".git/HEAD"), "").unwrap();
        assert!(matches!(claim(&theirs), Err(GitError::NotOurs(_))));
    }
}
