#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use siskin::git::{self, GitError, Repository};
use tokio_util::sync::CancellationToken;

use super::use_the_shim;

/// A repository with two commits on `main`; the first is no longer the tip of anything.
struct Origin {
    folder: tempfile::TempDir,
    first: String,
    second: String,
}

fn in_git(directory: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_DATE", "2026-01-02T03:04:05Z")
        .env("GIT_COMMITTER_DATE", "2026-01-02T03:04:05Z")
        .args(["-c", "user.name=Bob", "-c", "user.email=bob@example.org", "-c", "init.defaultBranch=main"])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn origin() -> Origin {
    use_the_shim();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("origin");
    std::fs::create_dir(&path).unwrap();
    in_git(&path, &["init", "-q"]);
    let commit = |text: &str| {
        std::fs::write(path.join("file"), text).unwrap();
        in_git(&path, &["add", "-A"]);
        in_git(&path, &["commit", "-q", "-m", text]);
        in_git(&path, &["rev-parse", "HEAD"])
    };
    let first = commit("first");
    let second = commit("second");
    in_git(&path, &["tag", "-a", "v1", "-m", "a tag", &first]);
    in_git(&path, &["branch", "feature/a/b", &first]);
    Origin { folder, first, second }
}

impl Origin {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    fn repository(&self) -> Repository {
        Repository::new(self.path("origin").to_str().unwrap()).unwrap()
    }
    async fn checkout(&self, wanted: &str, to: &str) -> Result<git::Checkout, GitError> {
        git::checkout(&self.repository(), wanted, &self.path(to), &CancellationToken::new()).await
    }
    fn file(&self, of: &str) -> String {
        std::fs::read_to_string(self.path(of).join("file")).unwrap()
    }
}

#[tokio::test]
async fn a_commit_is_checked_out_although_the_branch_has_moved() {
    let origin = origin();
    for (number, wanted) in
        [origin.first.clone(), origin.first[..7].into(), "v1".into(), "feature/a/b".into()].iter().enumerate()
    {
        let place = format!("out{number}");
        let checkout = origin.checkout(wanted, &place).await.unwrap();
        assert_eq!(
            (checkout.commit.as_str(), checkout.subject.as_str()),
            (origin.first.as_str(), "first"),
            "{wanted}"
        );
        assert_eq!(checkout.time.to_string(), "2026-01-02T03:04:05.000Z");
        assert_eq!(origin.file(&place), "first");
    }
    assert_eq!(origin.checkout("main", "head").await.unwrap().commit, origin.second);
    assert_eq!(origin.checkout("HEAD", "head").await.unwrap().commit, origin.second);
}

#[tokio::test]
async fn a_server_that_gives_tips_only_is_asked_for_everything() {
    let origin = origin();
    in_git(&origin.path("origin"), &["branch", "-f", "feature/a/b", &origin.second]);
    in_git(&origin.path("origin"), &["tag", "-d", "v1"]);
    // The older protocol has servers that refuse what is no tip.
    let old = origin.repository().env([
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", "protocol.version"),
        ("GIT_CONFIG_VALUE_0", "0"),
    ]);
    let checkout =
        git::checkout(&old, &origin.first, &origin.path("out"), &CancellationToken::new()).await.unwrap();
    assert_eq!(checkout.commit, origin.first);
    assert_eq!(origin.file("out"), "first");
}

#[tokio::test]
async fn a_checkout_is_repeated_and_a_half_one_is_redone() {
    let origin = origin();
    origin.checkout(&origin.first, "out").await.unwrap();
    let out = origin.path("out");
    std::fs::write(out.join("file"), "changed").unwrap();
    std::fs::write(out.join("built"), "").unwrap();
    origin.checkout(&origin.first, "out").await.unwrap();
    assert_eq!(origin.file("out"), "first");
    assert!(!out.join("built").exists());

    // As a process leaves it that was killed at work: locks, no index, no mark of being whole.
    std::fs::write(out.join(".git/index.lock"), "").unwrap();
    std::fs::write(out.join(".git/shallow.lock"), "").unwrap();
    std::fs::remove_file(out.join(".git/index")).unwrap();
    origin.checkout(&origin.first, "out").await.unwrap();
    std::fs::write(out.join(".git/siskin-checkout"), "").unwrap();
    std::fs::remove_file(out.join("file")).unwrap();
    std::fs::remove_dir_all(out.join(".git/objects")).unwrap();
    origin.checkout(&origin.second, "out").await.unwrap();
    assert_eq!(origin.file("out"), "second");
}

#[tokio::test]
async fn what_is_missing_is_named_with_its_repository() {
    let origin = origin();
    let shown = origin.path("origin").display().to_string();
    for wanted in ["3f1c3f1c", &"3f1c".repeat(10), "no-such-branch"] {
        let error = origin.checkout(wanted, "out").await.unwrap_err();
        assert_eq!(error.to_string(), format!("{wanted} is not in {shown}"));
    }
    let nowhere = Repository::new(origin.path("nowhere").to_str().unwrap()).unwrap();
    let error = git::resolve(&nowhere, "main", &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, GitError::NoRepository { .. }), "{error}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = Repository::new(format!("http://bob:hunter2@{closed}/x")).unwrap();
    let error = git::resolve(&unreachable, "main", &CancellationToken::new()).await.unwrap_err();
    assert!(
        matches!(error, GitError::Unreachable { .. }) && !error.to_string().contains("hunter2"),
        "{error}"
    );
}

#[tokio::test]
async fn a_hostile_repository_and_configuration_run_nothing() {
    let origin = origin();
    let path = origin.path("origin");
    let touched = origin.path("touched");
    std::fs::write(path.join(".gitattributes"), "* filter=evil\n").unwrap();
    std::fs::write(path.join("-dash $(touch x)"), "").unwrap();
    in_git(&path, &["add", "-A"]);
    in_git(&path, &["commit", "-q", "-m", "$(touch x)"]);
    let home = origin.path("home");
    std::fs::create_dir(&home).unwrap();
    let config = format!("[filter \"evil\"]\nsmudge = touch {}\n[core]\nhooksPath = /\n", touched.display());
    std::fs::write(home.join(".gitconfig"), config).unwrap();
    let repository = origin.repository().env([("HOME", home.to_str().unwrap())]);
    git::checkout(&repository, "main", &origin.path("out"), &CancellationToken::new()).await.unwrap();
    assert!(!touched.exists());
    for wanted in ["--upload-pack=touch x", "-x", "a\nb"] {
        assert!(matches!(origin.checkout(wanted, "out").await, Err(GitError::BadCommit { .. })));
    }
    assert!(matches!(Repository::new("ext::sh -c touch"), Err(GitError::BadUrl { .. })));
}

#[tokio::test]
async fn changes_between_two_commits_are_listed() {
    let origin = origin();
    let cancel = CancellationToken::new();
    origin.checkout(&origin.second, "out").await.unwrap();
    let changes =
        git::changes(&origin.repository(), &origin.path("out"), &origin.first, &origin.second, 10, &cancel)
            .await
            .unwrap();
    assert_eq!(changes.iter().map(|change| change.subject.as_str()).collect::<Vec<_>>(), ["second"]);
    assert_eq!(changes[0].author, "Bob");
    let time = git::commit_time(&origin.path("out"), &origin.first, &cancel).await.unwrap();
    assert_eq!(time.to_string(), "2026-01-02T03:04:05.000Z");
    let refs = git::refs(&origin.repository(), &cancel).await.unwrap();
    let tag = refs.iter().find(|known| known.name == "refs/tags/v1").unwrap();
    assert_eq!(tag.commit, origin.first);
}

/// Answers every request with 401 and gives back what it was asked.
fn refusing_server() -> (std::net::SocketAddr, std::sync::mpsc::Receiver<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut request = String::new();
            while reader.read_line(&mut request).unwrap() > 2 {}
            let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    (address, requests)
}

#[tokio::test]
async fn a_token_is_sent_and_a_refusal_asks_nobody() {
    use_the_shim();
    let (address, requests) = refusing_server();
    let repository = Repository::new(format!("http://{address}/a.git")).unwrap().http_token("bob", "hunter2");
    let error = git::resolve(&repository, "main", &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, GitError::Denied { .. }) && !error.to_string().contains("hunter2"), "{error}");
    assert!(requests.recv().unwrap().to_ascii_lowercase().contains("authorization: basic"));
    let without = Repository::new(format!("http://{address}/a.git")).unwrap();
    let error = git::resolve(&without, "main", &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, GitError::Denied { .. }), "{error}");
}

#[tokio::test]
async fn repositories_behind_ssh_and_of_other_users_can_be_read() {
    let origin = origin();
    let cancel = CancellationToken::new();
    if nix::unistd::geteuid().is_root() {
        let chown = Command::new("chown").args(["-R", "nobody"]).arg(origin.path("origin")).status().unwrap();
        assert!(chown.success());
        assert_eq!(origin.checkout("main", "out").await.unwrap().commit, origin.second);
        let chown = Command::new("chown").args(["-R", "root"]).arg(origin.path("origin")).status().unwrap();
        assert!(chown.success());
    }
    let Some(sshd) = super::sshd::start() else { return };
    let target = sshd.target();
    let url =
        format!("ssh://{}@127.0.0.1:{}{}", target.user.unwrap(), sshd.port, origin.path("origin").display());
    let ssh = format!(
        "ssh -F /dev/null -i {} -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={}",
        sshd.path("id").display(),
        sshd.path("known").display(),
    );
    let repository = Repository::new(&url).unwrap().env([("GIT_SSH_COMMAND", ssh)]);
    let checkout = git::checkout(&repository, &origin.first, &origin.path("by-ssh"), &cancel).await.unwrap();
    assert_eq!(checkout.subject, "first");
    let strict = Repository::new(&url)
        .unwrap()
        .env([("GIT_SSH_COMMAND", "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=yes")]);
    let error = git::resolve(&strict, "main", &cancel).await.unwrap_err();
    assert!(matches!(error, GitError::Unreachable { .. }), "{error}");
}
