//! Packs come from real git repositories, as a whole or not at all.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::server::siskin;

fn in_git(directory: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .args(["-c", "user.name=Bob", "-c", "user.email=bob@example.org", "-c", "init.defaultBranch=main"])
        .args(["-c", "protocol.file.allow=always"])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A repository of a pack, and a site that wants it.
struct Stage {
    folder: tempfile::TempDir,
}

const ACTION: &str = "description: Says something.\nrunner: shell\ninput: {word: string}\nshell: {script: \"echo $WORD\", env: {WORD: \"{{ input.word }}\"}}\n";
const USE: &str = "trigger: github.ping\nrun: tools.say\nwith: {word: hello}\n";

impl Stage {
    fn new(files: &[(&str, &str)]) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage { folder };
        fs::create_dir(stage.origin()).unwrap();
        fs::create_dir(stage.site()).unwrap();
        in_git(&stage.origin(), &["init", "-q"]);
        stage.commit(files);
        stage
    }

    /// A repository with a pack that works.
    fn usual() -> Stage {
        let stage = Stage::new(&[
            ("pack.yaml", "name: tools\nversion: 1.0\n"),
            ("actions/say.yaml", ACTION),
            (".github/x.yaml", ""),
        ]);
        in_git(&stage.origin(), &["tag", "v1"]);
        stage
    }

    fn origin(&self) -> PathBuf {
        self.folder.path().join("siskin-tools.git")
    }

    fn site(&self) -> PathBuf {
        self.folder.path().join("site")
    }

    fn commit(&self, files: &[(&str, &str)]) -> String {
        for (path, text) in files {
            write(&self.origin().join(path), text);
        }
        in_git(&self.origin(), &["add", "-A"]);
        in_git(&self.origin(), &["commit", "-q", "-m", "A change"]);
        in_git(&self.origin(), &["rev-parse", "HEAD"])
    }

    fn packs(&self, args: &[&str]) -> Output {
        siskin().arg("packs").args(args).arg("--site").arg(self.site()).env("NO_COLOR", "1").output().unwrap()
    }

    fn url(&self, reference: &str) -> String {
        format!("{}{reference}", self.origin().display())
    }

    /// Must go well; what was said.
    fn done(&self, args: &[&str]) -> String {
        let output = self.packs(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Must be refused, and leave the site as it was; why.
    fn refused(&self, args: &[&str]) -> String {
        let before = everything(&self.site());
        let output = self.packs(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        assert_eq!(everything(&self.site()), before, "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn lock(&self) -> Value {
        serde_json::from_slice(&fs::read(self.site().join("packs.lock")).unwrap()).unwrap()
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Every file below, hidden ones too.
fn everything(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => found.push((entry.path(), fs::read(entry.path()).unwrap())),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_pack_is_installed_at_a_tag_updated_and_removed() {
    let stage = Stage::usual();
    let first = in_git(&stage.origin(), &["rev-parse", "v1"]);
    let said = stage.done(&["install", &stage.url("@v1")]);
    assert!(said.contains("packs/tools") && said.contains("+ actions/say.yaml"), "{said}");
    assert_eq!(fs::read_to_string(stage.site().join("packs/tools/actions/say.yaml")).unwrap(), ACTION);
    assert!(
        !stage.site().join("packs/tools/.github").exists() && !stage.site().join("packs/tools/.git").exists()
    );
    let lock = stage.lock();
    assert_eq!(
        (&lock["packs"]["tools"]["commit"], &lock["packs"]["tools"]["ref"]),
        (&first.as_str().into(), &"v1".into())
    );
    write(&stage.site().join("rules/r.yaml"), USE);
    let check = siskin().args(["check", "--site"]).arg(stage.site()).output().unwrap();
    assert!(check.status.success(), "{check:?}");
    assert!(stage.done(&["update"]).contains("is up to date at"));

    // A tag that stays does not move; a branch does.
    stage.done(&["install", &stage.url("@main")]);
    let second = stage.commit(&[
        ("actions/more.yaml", "runner: native\n"),
        ("actions/say.yaml", &format!("{ACTION}timeout: 1m\n")),
    ]);
    let said = stage.done(&["update", "tools", "--dry-run"]);
    assert!(
        said.contains("+ actions/more.yaml")
            && said.contains("~ actions/say.yaml")
            && said.contains("nothing was changed"),
        "{said}"
    );
    assert_eq!(stage.lock()["packs"]["tools"]["commit"], first.as_str());
    stage.done(&["update"]);
    assert_eq!(stage.lock()["packs"]["tools"]["commit"], second.as_str());
    assert!(stage.site().join("packs/tools/actions/more.yaml").exists());

    let why = stage.refused(&["remove", "tools"]);
    assert!(why.contains("is in use") && why.contains("rules/r.yaml:2:6"), "{why}");
    fs::remove_file(stage.site().join("rules/r.yaml")).unwrap();
    stage.done(&["remove", "tools"]);
    assert!(!stage.site().join("packs/tools").exists() && !stage.site().join("packs.lock").exists());
    assert_eq!(fs::read_dir(stage.site().join("packs")).unwrap().count(), 0, "nothing is left beside it");
}

#[test]
fn what_was_changed_by_hand_is_not_overwritten_unasked() {
    let stage = Stage::usual();
    stage.done(&["install", &stage.url("")]);
    write(&stage.site().join("packs/tools/actions/say.yaml"), &format!("{ACTION}timeout: 5m\n"));
    stage.commit(&[("actions/more.yaml", "runner: native\n")]);
    for args in [vec!["update"], vec!["remove", "tools"]] {
        let why = stage.refused(&args);
        assert!(why.contains("was changed since") && why.contains("--force"), "{why}");
    }
    let why = stage.refused(&["install", &stage.url("@main")]);
    assert!(why.contains("was changed since"), "{why}");
    stage.done(&["update", "--force"]);
    assert_eq!(fs::read_to_string(stage.site().join("packs/tools/actions/say.yaml")).unwrap(), ACTION);

    // A pack that somebody wrote is theirs.
    let other = Stage::usual();
    write(&other.site().join("packs/tools/actions/own.yaml"), "runner: native\n");
    assert!(other.refused(&["install", &other.url("")]).contains("was not installed from git"));
}

#[test]
fn a_pack_says_what_it_needs_and_is_looked_at_before_it_is_there() {
    let table: [(&[(&str, &str)], &str); 7] = [
        (&[("pack.yaml", "name: tools\nneeds: [no_such_pack]\n")], "there is no pack `no_such_pack`"),
        (&[("pack.yaml", "name: tools\nneeds: {programs: [no-such-program]}\n")], "`no-such-program`"),
        (&[("pack.yaml", "name: tools\nneeds: {siskin: \">=99\"}\n")], "needs siskin >=99"),
        (
            &[("pack.yaml", "name: tools\n"), ("actions/a.yaml", "runner: no\n")],
            "packs/tools/actions/a.yaml:1:9",
        ),
        (&[("pack.yaml", "name: Tools and more\n")], "is no name of a pack"),
        (&[("pack.yaml", "name: site\n")], "is no name of a pack"),
        (&[("README.md", "nothing here")], "holds no pack"),
    ];
    for (files, wanted) in table {
        let stage = Stage::new(files);
        let why = stage.refused(&["install", &stage.url("")]);
        assert!(why.contains(wanted), "{wanted} is not in {why}");
    }
    // One that is still to be told something is installed, and says so.
    let stage = Stage::new(&[(
        "pack.yaml",
        "config: {url: string}\nneeds: {packs: core, programs: [git], siskin: \">=0.1\"}\n",
    )]);
    let said = stage.done(&["install", &stage.url("")]);
    assert!(said.contains("must be told its url"), "{said}");
    assert!(stage.site().join("packs/tools/pack.yaml").exists(), "it is called after its repository");
}

#[test]
fn a_pack_in_a_folder_of_a_repository_is_installed_alone() {
    let stage = Stage::new(&[
        ("packs/one/pack.yaml", "description: x\n"),
        ("packs/two/pack.yaml", ""),
        ("huge.bin", &"x".repeat(5_000_000)),
    ]);
    stage.done(&["install", &stage.url(""), "--folder", "packs/one"]);
    assert_eq!(everything(&stage.site().join("packs")).len(), 1);
    assert_eq!(stage.lock()["packs"]["one"]["folder"], "packs/one");
    assert!(stage.refused(&["install", &stage.url(""), "--folder", "packs/none"]).contains("holds no pack"));
}

#[test]
fn hostile_repositories_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    let refused = |make: &dyn Fn(&Stage), wanted: &str| {
        let stage = Stage::new(&[("pack.yaml", "name: tools\n")]);
        make(&stage);
        stage.commit(&[("one", "more")]);
        let why = stage.refused(&["install", &stage.url("")]);
        assert!(why.contains(wanted), "{wanted} is not in {why}");
    };
    refused(&|stage| symlink("/etc/passwd", stage.origin().join("passwd")).unwrap(), "no symbolic links");
    refused(&|stage| symlink(outside.path(), stage.origin().join("actions")).unwrap(), "no symbolic links");
    refused(&|stage| write(&stage.origin().join("big"), &"0".repeat(4_200_000)), "are the most");
    refused(&|stage| write(&stage.origin().join(".gitmodules"), "[submodule \"x\"]\n"), "no repositories");
    refused(
        &|stage| {
            let inner = stage.folder.path().join("inner");
            fs::create_dir(&inner).unwrap();
            in_git(&inner, &["init", "-q"]);
            write(&inner.join("x"), "x");
            in_git(&inner, &["add", "-A"]);
            in_git(&inner, &["commit", "-q", "-m", "x"]);
            let commit = in_git(&inner, &["rev-parse", "HEAD"]);
            in_git(
                &stage.origin(),
                &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},sub")],
            );
            fs::create_dir(stage.origin().join("sub")).unwrap();
            in_git(&stage.origin(), &["commit", "-q", "-m", "sub"]);
        },
        "no submodules",
    );
    // A tree that git itself would not write: made by its plumbing.
    let stage = Stage::usual();
    let blob = in_git(&stage.origin(), &["rev-parse", "HEAD:pack.yaml"]);
    let spec = format!("100644 blob {blob}\tpack.yaml\0100644 blob {blob}\t..\0");
    let mut mktree = Command::new("git")
        .current_dir(stage.origin())
        .args(["mktree", "-z"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut mktree.stdin.take().unwrap(), spec.as_bytes()).unwrap();
    let made = mktree.wait_with_output().unwrap();
    let tree = String::from_utf8(made.stdout).unwrap();
    if made.status.success() {
        let commit = in_git(&stage.origin(), &["commit-tree", tree.trim(), "-m", "up"]);
        in_git(&stage.origin(), &["update-ref", "refs/heads/up", &commit]);
        stage.refused(&["install", &stage.url("@up")]);
    }
}

#[test]
fn nothing_of_a_repository_is_run() {
    let stage = Stage::usual();
    let mark = stage.folder.path().join("was-run");
    let hook = format!("#!/bin/sh\ntouch {}\n", mark.display());
    for path in [
        ".git/hooks/post-checkout",
        ".git/hooks/post-upload-pack",
        "install.sh",
        "setup.py",
        "hooks/post-install",
    ] {
        write(&stage.origin().join(path), &hook);
        fs::set_permissions(stage.origin().join(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
    stage.commit(&[(".gitattributes", "* filter=x export-subst\n"), ("x.txt", "$Format:%H$")]);
    stage.done(&["install", &stage.url("")]);
    assert!(!mark.exists());
    assert_eq!(fs::read_to_string(stage.site().join("packs/tools/x.txt")).unwrap(), "$Format:%H$");
    let mode = fs::metadata(stage.site().join("packs/tools/install.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, 0o111, "a program stays one");
}

#[test]
fn a_failed_install_or_update_leaves_the_site_as_it_was() {
    let stage = Stage::usual();
    assert!(stage.refused(&["install", &stage.url("@no-such-ref")]).contains("no-such-ref"));
    assert!(stage.refused(&["install", "/no/such/repository"]).contains("no git repository"));
    assert!(stage.refused(&["install", "ext::sh -c true"]).contains("is no repository address"));
    assert!(
        stage.refused(&["install", "https://u:secret@127.0.0.1:1/p"]).contains("no password belongs there")
    );
    assert!(stage.refused(&["update", "tools"]).contains("is not installed"));
    assert!(stage.refused(&["remove", "tools"]).contains("is not installed"));
    stage.done(&["install", &stage.url("")]);
    write(&stage.site().join("rules/r.yaml"), USE);
    // The action takes something else now, and a rule still gives the old.
    stage.commit(&[("actions/say.yaml", &ACTION.replace("word", "text"))]);
    let why = stage.refused(&["update"]);
    assert!(why.contains("does not fit this site") && why.contains("rules/r.yaml"), "{why}");
    stage.done(&["update", "--force"]);
    // The lock can't be written: the pack stays as it was.
    let lock = stage.site().join("packs.lock");
    fs::remove_file(&lock).unwrap();
    write(&lock.join("in/the/way"), "");
    let why = stage.refused(&["install", &stage.url(""), "--force"]);
    assert!(why.contains("packs.lock"), "{why}");
}
