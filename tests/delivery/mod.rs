//! Packages and repositories, judged by dpkg, lintian, rpm, openssl, gpgv and apt-get.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod apt;
mod apt_http;
mod apt_keep;
mod apt_drive;
mod apt_mirror;
mod deb;
mod package;
mod rpm;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use siskin::delivery::deb::{Build, Built};
use tempfile::TempDir;

/// A scratch folder that goes away with the test.
fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("siskin-delivery-").tempdir().unwrap()
}

/// Writes a file, and the folders above it.
fn file(path: &Path, content: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A small program with its configuration, as a build would leave it.
fn application(folder: &Path) {
    file(&folder.join("bin/greet"), "#!/bin/sh\necho hello\n", 0o755);
    file(&folder.join("share/words"), "hello\n", 0o644);
}

/// An order for a package of [`application`].
fn order(name: &str, version: &str, folder: &Path) -> Build {
    Build {
        name: name.to_owned(),
        version: version.to_owned(),
        architecture: Some("all".to_owned()),
        maintainer: Some("Ada Example <ada@example.com>".to_owned()),
        description: Some("greets whoever runs it".to_owned()),
        prefix: Some(format!("/opt/{name}")),
        chdir: Some(folder.to_owned()),
        source_date_epoch: Some(1_700_000_000),
        ..Build::default()
    }
}

/// A package whose only content is `word`.
fn package(folder: &Path, name: &str, version: &str, word: &str) -> Built {
    let input = folder.join(format!("input-{name}-{version}-{word}"));
    file(&input.join("word"), word, 0o644);
    let out = folder.join(format!("debs-{word}"));
    fs::create_dir_all(&out).unwrap();
    let (epoch, rest) =
        version.split_once(':').map_or((None, version), |(epoch, rest)| (epoch.parse().ok(), rest));
    let (upstream, iteration) =
        rest.split_once('-').map_or((rest, None), |(bare, iteration)| (bare, Some(iteration)));
    let build = Build { epoch, iteration: iteration.map(str::to_owned), ..order(name, upstream, &input) };
    Build { overwrite: true, ..build }.write_to(&out).unwrap()
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// What a program prints; it must succeed.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A host that is a folder: its own dpkg and apt, nothing of this machine's.
struct Host {
    root: PathBuf,
}

impl Host {
    fn new(root: PathBuf) -> Host {
        for folder in [
            "var/lib/dpkg/info",
            "var/lib/dpkg/updates",
            "var/lib/dpkg/triggers",
            "var/lib/apt/lists/partial",
            "var/cache/apt/archives/partial",
            "etc/apt/apt.conf.d",
            "etc/apt/sources.list.d",
            "etc/apt/preferences.d",
            "etc/apt/trusted.gpg.d",
            "var/log/apt",
        ] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for name in ["status", "available"] {
            fs::write(root.join("var/lib/dpkg").join(name), "").unwrap();
        }
        let r = root.display();
        let configuration = format!(
            "Dir \"{r}/\";\nDir::State::status \"{r}/var/lib/dpkg/status\";\nDir::Etc::Parts \"{r}/etc/apt/apt.conf.d\";\n\
             Dir::Log \"{r}/var/log/apt\";\nAPT::Architecture \"amd64\";\nAPT::Sandbox::User \"\";\n\
             Dpkg::Use-Pty \"false\";\nDPkg::Options {{\"--root={r}\";\"--force-script-chrootless\";\
             \"--force-not-root\";\"--log={r}/var/log/dpkg.log\";}};\nAcquire::http::Proxy \"false\";\n"
        );
        fs::write(root.join("apt.conf"), configuration).unwrap();
        Host { root }
    }

    /// Trusts what `key` signs in a repository.
    fn with_source(self, repository: &Path, suite: &str, key: &Path) -> Host {
        self.with_address(&format!("file:{}", repository.display()), suite, key)
    }

    /// The same, wherever the repository is.
    fn with_address(self, address: &str, suite: &str, key: &Path) -> Host {
        let line = format!("deb [signed-by={}] {address} {suite} main\n", key.display());
        fs::write(self.root.join("etc/apt/sources.list"), line).unwrap();
        self
    }

    fn apt_get(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("LC_ALL", "C").env("APT_CONFIG", self.root.join("apt.conf"));
        command.env("DEBIAN_FRONTEND", "noninteractive").output().unwrap()
    }

    fn must_apt_get(&self, arguments: &[&str]) -> String {
        let output = self.apt_get(arguments);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        // apt-get update counts a repository that it could not use as a warning.
        let fell_short = said.lines().any(|line| line.starts_with("W:") || line.starts_with("E:"));
        assert!(output.status.success() && !fell_short, "apt-get {arguments:?}: {said}");
        said
    }

    fn dpkg(&self, arguments: &[&str]) -> Output {
        let root = format!("--root={}", self.root.display());
        let log = format!("--log={}/var/log/dpkg.log", self.root.display());
        let fixed = [root.as_str(), log.as_str(), "--force-script-chrootless", "--force-not-root"];
        run("dpkg", &[&fixed[..], arguments].concat())
    }

    fn version_of(&self, package: &str) -> String {
        let folder = format!("--admindir={}/var/lib/dpkg", self.root.display());
        output("dpkg-query", &[&folder, "-W", "-f=${Version}", package])
    }
}
