//! The convention by which a repository says how it is built and packaged: `script/cisetup` (may be missing), `script/cibuild`,
//! `script/post-install` or `script/post-inst`, and `fpm.json` with the package's metadata.
//!
//! Everything is read and checked before anything runs: a repository that keeps not to the convention has no side effect.

pub mod cache;
pub mod container;
pub mod junit;

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use self::container::Container;
use crate::model::{Object, Span};
use crate::process::{self, Command, Ended, Finished, ProcessError, Stream};

const SETUP: &str = "script/cisetup";
const BUILD: &str = "script/cibuild";
/// Both spellings are in use; the first that is there counts.
const AFTER_INSTALL: [&str; 2] = ["script/post-install", "script/post-inst"];
const METADATA: &str = "fpm.json";
const METADATA_BYTES: u64 = 1024 * 1024;

/// What a repository says of itself, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Convention {
    pub tree: PathBuf,
    /// Runs before the build.
    pub setup: Option<PathBuf>,
    pub build: PathBuf,
    /// Runs on a host after the package was installed.
    pub after_install: Option<PathBuf>,
    pub metadata: Metadata,
}

/// `fpm.json`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    pub name: Option<String>,
    /// Without a leading `v`.
    pub version: String,
    pub description: Option<String>,
    pub maintainer: Option<String>,
    pub license: Option<String>,
    pub vendor: Option<String>,
    pub homepage: Option<String>,
    pub section: Option<String>,
    pub depends: Vec<String>,
    /// Relative to the tree.
    pub after_install: Option<PathBuf>,
    /// What else stands there, as it is.
    pub other: Object,
}

/// Why a repository can't be built.
#[derive(Debug, thiserror::Error)]
pub enum CiError {
    #[error("{0} is missing; the repository says there how it is built")]
    NoBuildScript(&'static str),
    #[error("{0} is not executable; run `git update-index --chmod=+x {0}` and commit")]
    NotExecutable(String),
    #[error("fpm.json is missing; it says the version of the package, as {{\"version\": \"1.0\"}}")]
    NoMetadata,
    #[error("fpm.json is no valid JSON: {0}")]
    InvalidMetadata(String),
    #[error("fpm.json must hold an object, as {{\"version\": \"1.0\"}}")]
    NoObject,
    #[error("fpm.json has no `version`")]
    NoVersion,
    #[error(
        "`version` in fpm.json is `{0}`; a version begins with a digit and has only letters, digits and . + ~ -"
    )]
    BadVersion(String),
    #[error("`{key}` in fpm.json must be {expected}")]
    BadField { key: String, expected: &'static str },
    #[error("`after_install` in fpm.json names `{0}`, which is no file of the repository")]
    NoAfterInstall(String),
    #[error("{script} failed: {ended}: {said}")]
    Failed { script: String, ended: Ended, said: String, finished: Box<Finished> },
    #[error("{script} took longer than {timeout}")]
    TimedOut { script: String, timeout: Span },
    #[error("cancelled")]
    Cancelled,
    #[error("{}: {source}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// What is built, and how long it may take.
#[derive(Clone, Debug)]
pub struct Build {
    pub commit: String,
    pub branch: String,
    /// Over what a build is given anyway.
    pub env: Vec<(String, String)>,
    pub timeout: Span,
    pub lock: Option<PathBuf>,
    /// Where the scripts run, when that is not this machine itself.
    pub container: Option<Container>,
}

/// Looks at a checked-out tree; runs nothing.
pub fn read(tree: &Path) -> Result<Convention, CiError> {
    let present = |name: &str| is_own_file(tree, Path::new(name)).then(|| tree.join(name));
    let Some(build) = present(BUILD) else { return Err(CiError::NoBuildScript(BUILD)) };
    let setup = present(SETUP);
    for script in setup.iter().chain([&build]) {
        check_executable(tree, script)?;
    }
    let metadata = read_metadata(tree)?;
    let after_install = match &metadata.after_install {
        Some(path) => Some(tree.join(path)),
        None => AFTER_INSTALL.iter().find_map(|name| present(name)),
    };
    Ok(Convention { tree: tree.to_owned(), setup, build, after_install, metadata })
}

/// Whether there is a file of the tree itself: a link that leads out of it would bring files of this machine into the package.
fn is_own_file(tree: &Path, path: &Path) -> bool {
    let (Ok(tree), Ok(real)) = (tree.canonicalize(), tree.join(path).canonicalize()) else { return false };
    real.starts_with(&tree) && real.is_file()
}

/// Reads `fpm.json` of a tree.
pub fn read_metadata(tree: &Path) -> Result<Metadata, CiError> {
    let path = tree.join(METADATA);
    let failed = |source| CiError::Read { path: path.clone(), source };
    if !is_own_file(tree, Path::new(METADATA)) {
        return Err(CiError::NoMetadata);
    }
    if std::fs::metadata(&path).map_err(failed)?.len() > METADATA_BYTES {
        return Err(CiError::InvalidMetadata("it is larger than 1 MiB".into()));
    }
    let metadata = parse_metadata(&std::fs::read(&path).map_err(failed)?)?;
    if let Some(script) = &metadata.after_install {
        // It becomes part of a package that root installs: only what is in the commit may.
        let stays_inside = script.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !stays_inside || !is_own_file(tree, script) {
            return Err(CiError::NoAfterInstall(script.display().to_string()));
        }
    }
    Ok(metadata)
}

/// The bytes of `fpm.json`.
pub fn parse_metadata(bytes: &[u8]) -> Result<Metadata, CiError> {
    // Editors of other systems put a byte order mark there.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| CiError::InvalidMetadata(error.to_string()))?;
    let Value::Object(mut fields) = value else { return Err(CiError::NoObject) };
    let version = match fields.shift_remove("version") {
        None | Some(Value::Null) => return Err(CiError::NoVersion),
        Some(Value::String(text)) => text,
        // `"version": 1.10` would lose its last digit, so numbers are refused rather than guessed at.
        Some(_) => return Err(CiError::BadField { key: "version".into(), expected: "a string in quotes" }),
    };
    Ok(Metadata {
        version: check_version(&version)?,
        name: text(&mut fields, "name")?,
        description: text(&mut fields, "description")?,
        maintainer: text(&mut fields, "maintainer")?,
        license: text(&mut fields, "license")?,
        vendor: text(&mut fields, "vendor")?,
        homepage: text(&mut fields, "homepage")?.or(text(&mut fields, "url")?),
        section: text(&mut fields, "section")?.or(text(&mut fields, "category")?),
        depends: list(&mut fields, "depends")?,
        after_install: text(&mut fields, "after_install")?.map(PathBuf::from),
        other: fields,
    })
}

/// Runs setup and build in the tree. The result is that of the build.
pub async fn run(
    convention: &Convention,
    build: &Build,
    on_line: &mut (dyn FnMut(Stream, &[u8]) + Send),
    cancel: &CancellationToken,
) -> Result<Finished, CiError> {
    let began = tokio::time::Instant::now();
    if let Some(setup) = &convention.setup {
        run_script(convention, setup, build, build.timeout, on_line, cancel).await?;
    }
    let spent = Span(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    let left = Span(build.timeout.0.saturating_sub(spent.0));
    run_script(convention, &convention.build, build, left, on_line, cancel).await
}

async fn run_script(
    convention: &Convention,
    script: &Path,
    build: &Build,
    timeout: Span,
    on_line: &mut (dyn FnMut(Stream, &[u8]) + Send),
    cancel: &CancellationToken,
) -> Result<Finished, CiError> {
    let mut env = vec![
        ("CI".to_owned(), "true".to_owned()),
        ("GIT_COMMIT".to_owned(), build.commit.clone()),
        ("GIT_BRANCH".to_owned(), build.branch.clone()),
        ("SISKIN_COMMIT".to_owned(), build.commit.clone()),
        ("SISKIN_BRANCH".to_owned(), build.branch.clone()),
        ("SISKIN_VERSION".to_owned(), convention.metadata.version.clone()),
    ];
    env.extend(build.env.iter().cloned());
    let mut command = match &build.container {
        None => Command::new(script.to_string_lossy()).cwd(&convention.tree).envs(env),
        Some(container) => {
            container.end().await?;
            container.command(script, &convention.tree, env)
        }
    };
    command.lock.clone_from(&build.lock);
    let finished = process::run(command, on_line, cancel, Some(timeout)).await;
    if let Some(container) = &build.container {
        // Its engine runs it, not we: that our client of it ended says nothing.
        container.end().await?;
    }
    let finished = finished?;
    let script = shown(&convention.tree, script);
    match finished.ended {
        Ended::Code(0) => Ok(finished),
        Ended::TimedOut => Err(CiError::TimedOut { script, timeout: build.timeout }),
        Ended::Cancelled => Err(CiError::Cancelled),
        ended => {
            let said = finished.last_words();
            Err(CiError::Failed { script, ended, said, finished: Box::new(finished) })
        }
    }
}

fn shown(tree: &Path, path: &Path) -> String {
    path.strip_prefix(tree).unwrap_or(path).display().to_string()
}

fn check_executable(tree: &Path, script: &Path) -> Result<(), CiError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata =
        std::fs::metadata(script).map_err(|source| CiError::Read { path: script.to_owned(), source })?;
    match metadata.permissions().mode() & 0o111 {
        0 => Err(CiError::NotExecutable(shown(tree, script))),
        _ => Ok(()),
    }
}

fn check_version(version: &str) -> Result<String, CiError> {
    let plain = version.strip_prefix('v').unwrap_or(version);
    let fine = |c: char| c.is_ascii_alphanumeric() || ".+~-".contains(c);
    match plain.starts_with(|c: char| c.is_ascii_digit()) && plain.chars().all(fine) && plain.len() <= 128 {
        true => Ok(plain.to_owned()),
        false => Err(CiError::BadVersion(version.to_owned())),
    }
}

/// A text without line breaks that would make fields of their own, except in `description`, where they are allowed.
fn text(fields: &mut Object, key: &str) -> Result<Option<String>, CiError> {
    let bad = |expected| CiError::BadField { key: key.to_owned(), expected };
    match fields.shift_remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => {
            let breaks = |c: char| c.is_control() && !(key == "description" && matches!(c, '\n' | '\t'));
            match text.contains(breaks) {
                true => Err(bad("text on one line")),
                false => Ok(Some(text)),
            }
        }
        Some(_) => Err(bad("a string")),
    }
}

/// A list of texts, or one text.
fn list(fields: &mut Object, key: &str) -> Result<Vec<String>, CiError> {
    let bad = || CiError::BadField { key: key.to_owned(), expected: "a list of strings, each on one line" };
    let one_line = |text: String| match text.contains(char::is_control) {
        true => Err(bad()),
        false => Ok(text),
    };
    match fields.shift_remove(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![one_line(text)?]),
        Some(Value::Array(items)) => items
            .into_iter()
            .map(|item| match item {
                Value::String(text) => one_line(text),
                _ => Err(bad()),
            })
            .collect(),
        Some(_) => Err(bad()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        folder
    }

    fn message(files: &[(&str, &str)]) -> String {
        read(tree(files).path()).unwrap_err().to_string()
    }

    const BUILD_FILE: (&str, &str) = ("script/cibuild", "#!/bin/sh\n");

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        assert!(message(&[]).starts_with("script/cibuild is missing"));
        assert!(message(&[BUILD_FILE]).starts_with("fpm.json is missing"));
        for (json, said) in [
            ("{", "fpm.json is no valid JSON: EOF"),
            ("[]", "fpm.json must hold an object"),
            ("{}", "fpm.json has no `version`"),
            (r#"{"version": 1.10}"#, "`version` in fpm.json must be a string"),
            (r#"{"version": "1_2"}"#, "`version` in fpm.json is `1_2`"),
            (r#"{"version": "1^a"}"#, "`version` in fpm.json is `1^a`"),
            (r#"{"version": "abc def"}"#, "`version` in fpm.json is `abc def`"),
            (r#"{"version": "1", "depends": [1]}"#, "`depends` in fpm.json must be a list"),
            (
                r#"{"version": "1", "maintainer": "a\nPackage: b"}"#,
                "`maintainer` in fpm.json must be text on one line",
            ),
            (
                r#"{"version": "1", "after_install": "nowhere"}"#,
                "`after_install` in fpm.json names `nowhere`",
            ),
            (r#"{"version": "1", "after_install": "../../etc/passwd"}"#, "`after_install` in fpm.json names"),
            (r#"{"version": "1", "after_install": "/etc/passwd"}"#, "`after_install` in fpm.json names"),
        ] {
            let said_instead = message(&[BUILD_FILE, ("fpm.json", json)]);
            assert!(said_instead.starts_with(said), "{json}: {said_instead}");
        }
        let folder = tree(&[BUILD_FILE, ("fpm.json", r#"{"version": "1"}"#)]);
        let path = folder.path().join("script/cibuild");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read(folder.path()), Err(CiError::NotExecutable(name)) if name == "script/cibuild"));
    }

    #[test]
    fn both_spellings_of_the_script_after_install_are_known() {
        let json = ("fpm.json", r#"{"version": "v1~beta", "name": "demo", "depends": "libc6", "x": 1}"#);
        for name in AFTER_INSTALL {
            let folder = tree(&[BUILD_FILE, json, (name, "")]);
            let convention = read(folder.path()).unwrap();
            assert_eq!(convention.after_install, Some(folder.path().join(name)));
            assert_eq!(convention.metadata.version, "1~beta");
            assert_eq!(convention.metadata.depends, ["libc6"]);
            assert_eq!(convention.metadata.other.get("x"), Some(&Value::from(1)));
        }
    }

    #[tokio::test]
    async fn setup_runs_before_build_with_the_commit_as_data() {
        let folder = tree(&[
            ("script/cisetup", "#!/bin/sh\necho setup >>log\n"),
            (
                "script/cibuild",
                "#!/bin/sh\necho \"build $GIT_COMMIT $GIT_BRANCH\" >>log; echo built; exit ${CODE:-0}\n",
            ),
            ("fpm.json", r#"{"version": "1"}"#),
        ]);
        let convention = read(folder.path()).unwrap();
        let mut build = Build {
            commit: "3f1c".into(),
            branch: "$(reboot); `x`".into(),
            env: Vec::new(),
            timeout: Span::minutes(1),
            lock: None,
            container: None,
        };
        let cancel = CancellationToken::new();
        let finished = run(&convention, &build, &mut |_, _| {}, &cancel).await.unwrap();
        assert_eq!(finished.stdout.text(), "built\n");
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert_eq!(log, "setup\nbuild 3f1c $(reboot); `x`\n");
        build.env.push(("CODE".into(), "3".into()));
        let failed = run(&convention, &build, &mut |_, _| {}, &cancel).await.unwrap_err();
        assert_eq!(failed.to_string(), "script/cibuild failed: exit status 3: built");
    }
}
