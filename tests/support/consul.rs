//! Real Consul agents for tests, each on free ports of 127.0.0.1 with its data in a directory of its own, ended by their pid.
//!
//! The program is the one in the PATH, or the one that `SISKIN_TEST_CONSUL` names, or is unpacked once from the package of the distribution's release that
//! still has it, by the machine's own package sources, into the user's cache. Nothing of the system is touched.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use super::server::{client, until};

const PATIENCE: Duration = Duration::from_secs(60);
/// The last release of the distribution that has the package.
const SUITE: &str = "bullseye";

/// An agent that is a server of its own. Its data outlives it.
pub(crate) struct Consul {
    folder: tempfile::TempDir,
    ports: [u16; 3],
    more: String,
    child: Option<Child>,
}

impl Consul {
    pub(crate) fn start() -> Consul {
        Consul::start_with("")
    }

    /// With more configuration, in Consul's own language.
    pub(crate) fn start_with(more: &str) -> Consul {
        // All are open at once, so that they differ.
        let listeners: [TcpListener; 3] =
            std::array::from_fn(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let ports = std::array::from_fn(|index: usize| listeners[index].local_addr().unwrap().port());
        drop(listeners);
        let folder = tempfile::tempdir().unwrap();
        let mut consul = Consul { folder, ports, more: more.to_owned(), child: None };
        consul.run();
        consul
    }

    /// Starts it on its old ports and data, and waits until it leads.
    pub(crate) fn run(&mut self) {
        assert!(self.child.is_none(), "it is running");
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let [http, serf, rpc] = self.ports.map(|port| port.to_string());
        let child = Command::new(program())
            .args(["agent", "-server", "-bootstrap-expect", "1", "-node", "one", "-disable-host-node-id"])
            .args([
                "-bind",
                "127.0.0.1",
                "-client",
                "127.0.0.1",
                "-http-port",
                &http,
                "-serf-lan-port",
                &serf,
            ])
            .args(["-server-port", &rpc, "-grpc-port", "-1", "-dns-port", "-1", "-serf-wan-port", "-1"])
            .args(["-hcl", "disable_update_check = true performance { raft_multiplier = 1 }"])
            .args(["-hcl", &self.more])
            .arg("-data-dir")
            .arg(self.folder.path().join("data"))
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let leads = until(PATIENCE, || {
            let answer = client().get(format!("{}/v1/status/leader", self.url())).send().ok()?;
            answer.text().ok()?.contains(':').then_some(())
        });
        let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert!(leads.is_some(), "Consul did not come up:\n{}", log());
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Removes its data, when it does not run.
    pub(crate) fn forget(&self) {
        assert!(self.child.is_none(), "it is running");
        fs::remove_dir_all(self.folder.path().join("data")).unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// PUT below `/v1` that must succeed.
    pub(crate) fn put(&self, path: &str, body: &str) -> Value {
        self.put_as(path, body, "")
    }

    /// As `put`, with a token.
    pub(crate) fn put_as(&self, path: &str, body: &str, token: &str) -> Value {
        // It may be without a leader for a moment after its start.
        let done = until(PATIENCE, || {
            let request = client().put(format!("{}/v1/{path}", self.url())).header("X-Consul-Token", token);
            let answer = request.body(body.to_owned()).send().ok()?;
            answer.status().is_success().then(|| answer.text().ok())?
        });
        serde_json::from_str(&done.unwrap_or_else(|| panic!("PUT {path}"))).unwrap_or(Value::Null)
    }

    pub(crate) fn delete(&self, path: &str) {
        let answer = client().delete(format!("{}/v1/{path}", self.url())).send().unwrap();
        assert!(answer.status().is_success());
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("SISKIN_TEST_CONSUL") {
        return named.into();
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) =
        std::env::split_paths(&paths).map(|path| path.join("consul")).find(|path| path.is_file())
    {
        return found;
    }
    let home = PathBuf::from(std::env::var_os("HOME").unwrap());
    let folder = home.join(".cache/siskin-consul");
    let program = folder.join("consul/usr/bin/consul");
    if program.is_file() {
        return program;
    }
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
    if !program.is_file() {
        fetch(&folder);
    }
    program
}

/// Unpacks the package, by lists of its own.
fn fetch(folder: &Path) {
    let script = format!(
        r#"set -e
        uri=$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null | awk '/^URIs:/ {{print $2; exit}} /^deb / {{for (i = 2; i <= NF; i++) if ($i ~ /^[a-z]+:/) {{print $i; exit}}}}')
        mkdir -p lists/partial cache/archives/partial
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri {SUITE} main" > sources.list
        only="-o Dir::Etc::sourcelist=$PWD/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$PWD/lists -o Dir::Cache=$PWD/cache"
        apt-get -qq update $only
        apt-get -qq download consul $only
        rm -rf new && dpkg -x consul_*.deb new
        rm -rf consul && mv new consul"#
    );
    let done = Command::new("sh").args(["-c", &script]).current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "no Consul to test with: put one in the PATH, or name it by SISKIN_TEST_CONSUL\n{said}"
    );
}
