//! A real Docker Engine for tests, in a network namespace and directory of its own, and real registries.
#![expect(clippy::print_stderr, reason = "says why it is skipped")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::server::{PATIENCE, client, until};

/// An engine; with it goes all that it has.
pub(crate) struct Docker {
    folder: tempfile::TempDir,
    namespace: String,
    child: Child,
}

impl Docker {
    /// None, and why, where it can't be had: it needs `dockerd`, and to be root.
    pub(crate) fn start() -> Option<Docker> {
        if !Path::new("/usr/sbin/dockerd").exists() || !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: a Docker Engine needs root and dockerd (apt-get install docker.io iptables)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let namespace = format!("siskin{}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &namespace]).output();
        if !made.is_ok_and(|made| made.status.success()) {
            eprintln!("skipped: no network namespace can be made here");
            return None;
        }
        Command::new("ip").args(["-n", &namespace, "link", "set", "lo", "up"]).output().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let path = |name: &str| folder.path().join(name);
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{namespace}"))
            .arg("dockerd")
            .arg("--data-root")
            .arg(path("root"))
            .arg("--exec-root")
            .arg(path("exec"))
            .args(["-H", &format!("unix://{}", path("socket").display()), "--pidfile"])
            .arg(path("pid"))
            .args(["--storage-driver", "vfs", "--ip6tables=false", "--bip", "10.99.0.1/24"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut docker = Docker { folder, namespace, child };
        let up = until(PATIENCE, || {
            let ended = docker.child.try_wait().unwrap().is_some();
            (ended || docker.try_get("/version").is_some()).then_some(ended)
        });
        if up != Some(false) {
            let log = fs::read_to_string(docker.folder.path().join("log")).unwrap_or_default();
            eprintln!("skipped: dockerd does not start here:\n{log}");
            return None;
        }
        Some(docker)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn try_get(&self, path: &str) -> Option<Value> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// The names of all containers and of all networks but its own three.
    pub(crate) fn left(&self) -> Vec<String> {
        let containers = self.try_get("/containers/json?all=1").unwrap();
        let networks = self.try_get("/networks").unwrap();
        let named = containers.as_array().unwrap().iter().map(|found| found["Names"][0].to_string());
        let own = ["bridge", "host", "none"];
        let others =
            networks.as_array().unwrap().iter().map(|found| found["Name"].as_str().unwrap().to_owned());
        named.chain(others.filter(|name| !own.contains(&name.as_str()))).collect()
    }

    /// A registry that the engine reaches at `127.0.0.1:5000`.
    pub(crate) fn registry(&self) -> Registry {
        Registry::start_by(
            Command::new("nsenter")
                .arg(format!("--net=/run/netns/{}", self.namespace))
                .arg("docker-registry"),
            5000,
        )
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // It ends its containers when it is asked to; then its namespace goes.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
        self.child.wait().ok();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let folder = self.folder.path().display().to_string();
        let ours =
            mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| path.starts_with(&folder));
        for path in ours.collect::<Vec<_>>().into_iter().rev() {
            Command::new("umount").args(["-l", path]).output().ok();
        }
        Command::new("ip").args(["netns", "del", &self.namespace]).output().ok();
    }
}

/// Who may use a registry, and by which password.
pub(crate) const USER: &str = "bob";
pub(crate) const PASSWORD: &str = "n0t-shown-anywhere";
const HASH: &str = "$2b$04$abcdefghijklmnopqrstuuTbzSHaWXbgqMwN4S5dlNWY7srGsbKbO";

/// A `docker-registry` that wants a password.
pub(crate) struct Registry {
    _folder: tempfile::TempDir,
    pub(crate) host: String,
    child: Child,
}

impl Registry {
    pub(crate) fn start() -> Registry {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let registry = Registry::start_by(&mut Command::new("docker-registry"), port);
        let url = format!("http://{}/v2/", registry.host);
        let up = until(PATIENCE, || client().get(&url).send().ok());
        assert!(up.is_some(), "docker-registry did not come up");
        registry
    }

    fn start_by(command: &mut Command, port: u16) -> Registry {
        let folder = tempfile::tempdir().unwrap();
        let (config, users) = (folder.path().join("config.yml"), folder.path().join("users"));
        fs::write(&users, format!("{USER}:{HASH}\n")).unwrap();
        let text = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\nauth: {{htpasswd: {{realm: tests, path: {}}}}}\n",
            folder.path().join("data").display(),
            users.display()
        );
        fs::write(&config, text).unwrap();
        let child = command
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry; `./test` installs it, or: apt-get install docker-registry");
        Registry { _folder: folder, host: format!("127.0.0.1:{port}"), child }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
