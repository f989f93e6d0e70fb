//! What the demo plays on: an application in git, an APT repository, five hosts, and a site whose rules and workflow are those that ship.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::delivery::hosts::{self, Host};
use crate::model::Span;
use crate::process::{self, Command, Ended};
use crate::site;

use super::tell::Teller;

/// Says that a folder is a demo's.
const MARK: &str = "siskin-demo";
/// What must be on the machine; a Debian system with git has them all.
const PROGRAMS: [&str; 4] = ["git", "dpkg", "apt-get", "gpgv"];

/// Below `.git`: held while a commit is made.
const GIT_LOCKS: [&str; 5] =
    ["index.lock", "HEAD.lock", "config.lock", "refs/heads/main.lock", "logs/HEAD.lock"];

pub(super) const HOSTS: [(&str, &str); 5] = [
    ("canary-1", "canary"),
    ("canary-2", "canary"),
    ("web-1", "production"),
    ("web-2", "production"),
    ("web-3", "production"),
];

/// The folder with everything in it.
#[derive(Debug)]
pub(super) struct Stage {
    /// Absolute.
    pub(super) folder: PathBuf,
    /// One demo at a time. It goes with the process, however that ends.
    _lock: Flock<File>,
}

impl Stage {
    /// Makes what is missing in `folder`.
    pub(super) async fn set(folder: &Path, teller: &Teller) -> anyhow::Result<Stage> {
        look_for_programs()?;
        fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
        let folder = folder.canonicalize()?;
        let known = folder.join(MARK).exists();
        if !known && fs::read_dir(&folder)?.next().is_some() {
            bail!("{} holds something else; name an empty or a new folder with --dir", folder.display());
        }
        if folder.to_string_lossy().contains(|c: char| c.is_whitespace() || "\"\\;'".contains(c)) {
            bail!("{}: apt can't work in a folder with blanks or quotes in its name", folder.display());
        }
        let stage = Stage { _lock: lock(&folder)?, folder };
        stage.make_hosts()?;
        stage.make_site()?;
        stage.make_application().await?;
        let text = if known { "going on from" } else { "everything is made in" };
        teller.line("stage", &format!("{text} {}", stage.folder.display()), json!({"dir": stage.folder}));
        Ok(stage)
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(super) fn site(&self) -> PathBuf {
        self.folder.join("site")
    }

    fn application(&self) -> PathBuf {
        self.folder.join("shop")
    }

    pub(super) fn host(&self, name: &str) -> Host {
        Host::root(name, self.folder.join("hosts").join(name))
    }

    fn make_hosts(&self) -> anyhow::Result<()> {
        let repository = self.folder.join("apt");
        for (name, environment) in HOSTS {
            let suite = if environment == "canary" { "canary" } else { "stable" };
            let source = format!(
                "deb [signed-by={}/key.gpg] file:{} {suite} main",
                repository.display(),
                repository.display()
            );
            hosts::prepare_root(&self.folder.join("hosts").join(name), &source)?;
        }
        Ok(())
    }

    /// The pipeline's own files, and an app and a siskin.yaml that fit this folder.
    fn make_site(&self) -> anyhow::Result<()> {
        let site = self.site();
        for (name, bytes) in site::reference() {
            write(&site.join(name), &bytes)?;
        }
        let hosts = |environment: &str| {
            let of = HOSTS.iter().filter(|(_, known)| *known == environment);
            of.map(|(name, _)| format!("{{name: {name}, root: {}/hosts/{name}}}", self.folder.display()))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let app = format!(
            r#"# The demo's application. Its hosts are private dpkg roots on this machine; yours are reached by ssh.
owner: team-shop
repository: {repository}
environments:
  canary:
    hosts: [{canaries}]
    suite: canary
    batch: 1
    bake: 2s
    check: {check}
  production:
    hosts: [{production}]
    suite: stable
    batch: 2
    approvers: [release-managers]
    check: {check}
"#,
            repository = self.application().display(),
            canaries = hosts("canary"),
            production = hosts("production"),
            check = r#"{script: '"$ROOT/opt/shop/bin/shop" health', tries: 2, interval: 200ms}"#,
        );
        write(&site.join("apps/shop.yaml"), app.as_bytes())?;
        let settings = format!(
            "# The demo's settings.\nusers:\n  admin: {{roles: [admin, release-managers]}}\n  ada: {{roles: [developer]}}\nconfig:\n  apt: {{repository: {}/apt}}\n",
            self.folder.display()
        );
        write(&site.join("siskin.yaml"), settings.as_bytes())
    }

    async fn make_application(&self) -> anyhow::Result<()> {
        let folder = self.application();
        fs::create_dir_all(&folder)?;
        // What a demo that was killed in the middle of a commit left: git waits for whoever holds these, and nobody does.
        for lock in GIT_LOCKS {
            fs::remove_file(folder.join(".git").join(lock)).ok();
        }
        // Does nothing where all is there, and makes what is missing.
        self.git(&["init", "--quiet", "--initial-branch=main", "."]).await?;
        Ok(())
    }

    /// How many versions the application has had.
    pub(super) async fn versions(&self) -> anyhow::Result<u32> {
        // A repository without a commit has no HEAD to count from.
        let counted = self.git(&["rev-list", "--count", "--all"]).await?;
        Ok(counted.trim().parse().unwrap_or(0))
    }

    /// Commits version `number`; `healthy` is what its own health check will say. Gives the commit's hash.
    pub(super) async fn commit(&self, number: u32, healthy: bool) -> anyhow::Result<String> {
        let folder = self.application();
        let health = if healthy { "exit 0" } else { "echo 'the shop is closed' >&2; exit 1" };
        let program = format!(
            "#!/bin/sh\n# The shop. `shop health` says whether it is well.\ncase \"${{1:-}}\" in\n  health) {health} ;;\n  *) echo \"shop {number}.0\" ;;\nesac\n"
        );
        let build = "#!/bin/sh\n# What the pipeline calls to build and test this commit.\nset -e\necho \"testing commit $(git rev-parse --short HEAD)\"\nsh -n bin/shop\ntest -n \"$(sh bin/shop)\"\necho 'all tests passed'\n";
        let metadata = json!({
            "name": "shop",
            "version": format!("{number}.0"),
            "description": "A small shop, to show how software is shipped.",
            "maintainer": "Ada <ada@example.net>",
            "license": "Apache-2.0",
        });
        let after = "#!/bin/sh\nset -e\necho \"shop: $1\"\n";
        for (name, text, executable) in [
            ("bin/shop", program.as_str(), true),
            ("script/cibuild", build, true),
            ("script/post-install", after, true),
            ("fpm.json", &format!("{metadata:#}\n"), false),
        ] {
            let path = folder.join(name);
            write(&path, text.as_bytes())?;
            fs::set_permissions(&path, fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
        }
        self.git(&["add", "--all"]).await?;
        self.git(&["commit", "--quiet", "--allow-empty", "-m", &format!("Version {number}.0")]).await?;
        Ok(self.git(&["rev-parse", "HEAD"]).await?.trim().to_owned())
    }

    async fn git(&self, args: &[&str]) -> anyhow::Result<String> {
        let me = ["-c", "user.name=Ada", "-c", "user.email=ada@example.net", "-c", "commit.gpgsign=false"];
        let command = Command::new("git")
            .args(me.iter().chain(args).copied())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .cwd(self.application());
        let finished =
            process::run(command, &mut |_, _| (), &CancellationToken::new(), Some(Span::minutes(1))).await?;
        if finished.ended != Ended::Code(0) {
            bail!("git {} failed: {}", args.join(" "), finished.stderr.text());
        }
        Ok(finished.stdout.text())
    }
}

/// Marks the folder as a demo's, and takes it.
fn lock(folder: &Path) -> anyhow::Result<Flock<File>> {
    let path = folder.join(MARK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("{} can't be written", path.display()))?;
    let Ok(mut lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
        bail!("another demo plays in {}; stop it, or name another folder with --dir", folder.display());
    };
    lock.write_all(b"A demo of Siskin; `siskin demo --dir` goes on from here.\n")?;
    Ok(lock)
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, bytes).with_context(|| format!("{} can't be written", path.display()))
}

fn look_for_programs() -> anyhow::Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> =
        std::env::split_paths(&path).chain([PathBuf::from("/usr/bin"), PathBuf::from("/bin")]).collect();
    for program in PROGRAMS {
        if !folders.iter().any(|folder| folder.join(program).is_file()) {
            bail!(
                "the demo needs `{program}`, which is not here; on Debian: apt-get install git apt dpkg gpgv"
            );
        }
    }
    Ok(())
}
