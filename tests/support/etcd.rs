//! Real etcds for tests, of one member or several, on free ports of 127.0.0.1 with their data in a directory of their own, ended by their pid.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::server::{client, until};

const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster. Its data outlives its processes.
pub(crate) struct Etcd {
    folder: tempfile::TempDir,
    members: Vec<Member>,
    is_tls: bool,
}

struct Member {
    client: u16,
    peer: u16,
    child: Option<Child>,
}

impl Etcd {
    pub(crate) fn start() -> Etcd {
        Etcd::start_with(1, false)
    }

    /// With so many members.
    pub(crate) fn cluster(size: usize) -> Etcd {
        Etcd::start_with(size, false)
    }

    /// One that speaks TLS only, with a certificate of `authority`.
    pub(crate) fn start_tls() -> Etcd {
        Etcd::start_with(1, true)
    }

    fn start_with(size: usize, is_tls: bool) -> Etcd {
        // All are open at once, so that they differ.
        let listeners: Vec<TcpListener> =
            (0..2 * size).map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap()).collect();
        let ports: Vec<u16> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(listeners);
        let members =
            ports.chunks(2).map(|ports| Member { client: ports[0], peer: ports[1], child: None }).collect();
        let folder = tempfile::tempdir().unwrap();
        if is_tls {
            make_certificates(folder.path());
        }
        let mut etcd = Etcd { folder, members, is_tls };
        (0..size).for_each(|index| etcd.spawn(index));
        etcd.wait_until_it_serves();
        etcd
    }

    /// Starts all members that do not run, and waits until it serves.
    pub(crate) fn run(&mut self) {
        let idle: Vec<usize> =
            (0..self.members.len()).filter(|index| self.members[*index].child.is_none()).collect();
        idle.into_iter().for_each(|index| self.spawn(index));
        self.wait_until_it_serves();
    }

    fn spawn(&mut self, index: usize) {
        let peers: Vec<String> = (self.members.iter().enumerate())
            .map(|(index, member)| format!("m{index}=http://127.0.0.1:{}", member.peer))
            .collect();
        let member = &self.members[index];
        assert!(member.child.is_none(), "it is running");
        let (url, peer) = (self.url_of(index), format!("http://127.0.0.1:{}", member.peer));
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(program());
        if self.is_tls {
            command.arg("--cert-file").arg(self.folder.path().join("cert.pem"));
            command.arg("--key-file").arg(self.folder.path().join("key.pem"));
        }
        let child = command
            .args(["--name", &format!("m{index}"), "--data-dir"])
            .arg(self.data(index))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &peers.join(","), "--log-level", "error"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.members[index].child = Some(child);
    }

    fn wait_until_it_serves(&self) {
        let serves = until(PATIENCE, || {
            let all = (0..self.members.len()).filter(|index| self.members[*index].child.is_some());
            let mut all = all.map(|index| self.try_ask(index, "maintenance/status", &json!({})));
            // A majority may be enough for it; all that run have to know their leader.
            all.all(|answer| answer.is_some_and(|answer| answer["leader"].is_string())).then_some(())
        });
        let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert!(serves.is_some(), "etcd did not come up:\n{}", log());
    }

    /// SIGKILL to a member.
    pub(crate) fn kill(&mut self, index: usize) {
        let mut child = self.members[index].child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Removes all data, when nothing runs.
    pub(crate) fn forget(&self) {
        for index in 0..self.members.len() {
            assert!(self.members[index].child.is_none(), "it is running");
            fs::remove_dir_all(self.data(index)).unwrap();
        }
    }

    pub(crate) fn data(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("m{index}"))
    }

    pub(crate) fn url(&self) -> String {
        self.url_of(0)
    }

    /// Of a member.
    pub(crate) fn url_of(&self, index: usize) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.members[index].client)
    }

    fn try_ask(&self, index: usize, path: &str, body: &Value) -> Option<Value> {
        let url = format!("{}/v3/{path}", self.url_of(index));
        let http = if url.starts_with("https") { self.trusting()? } else { client() };
        let answer = http.post(url).body(body.to_string()).send().ok()?;
        let is_done = answer.status().is_success();
        let text = answer.text().ok()?;
        is_done.then(|| serde_json::from_str(&text).unwrap())
    }

    /// A client that trusts its authority.
    fn trusting(&self) -> Option<reqwest::blocking::Client> {
        let pem = fs::read(self.authority()).ok()?;
        let certificate = reqwest::Certificate::from_pem(&pem).unwrap();
        rustls::crypto::ring::default_provider().install_default().ok();
        Some(reqwest::blocking::Client::builder().no_proxy().tls_certs_only([certificate]).build().unwrap())
    }

    /// Who vouches for its certificate.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A call of the gateway that must succeed.
    pub(crate) fn ask(&self, path: &str, body: &Value) -> Value {
        let running = (0..self.members.len()).find(|index| self.members[*index].child.is_some()).unwrap();
        let done = until(PATIENCE, || self.try_ask(running, path, body));
        done.unwrap_or_else(|| panic!("{path} {body}"))
    }

    pub(crate) fn put(&self, key: &str, value: &str) {
        self.ask("kv/put", &json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)}));
    }

    /// Sets so many keys below a prefix, a hundred at a time.
    pub(crate) fn put_many(&self, prefix: &str, count: usize) {
        let put = |index: &usize| {
            let key = STANDARD.encode(format!("{prefix}{index:04}"));
            json!({"request_put": {"key": key, "value": STANDARD.encode("1")}})
        };
        for part in (0..count).collect::<Vec<_>>().chunks(100) {
            self.ask("kv/txn", &json!({"success": part.iter().map(put).collect::<Vec<Value>>()}));
        }
    }

    pub(crate) fn delete(&self, key: &str) {
        self.ask("kv/deleterange", &json!({"key": STANDARD.encode(key)}));
    }

    /// Deletes all below a prefix that ends with `/`.
    pub(crate) fn delete_below(&self, prefix: &str) {
        let end = format!("{}0", prefix.strip_suffix('/').unwrap());
        let body = json!({"key": STANDARD.encode(prefix), "range_end": STANDARD.encode(end)});
        self.ask("kv/deleterange", &body);
    }

    /// Forgets all changes before now.
    pub(crate) fn compact(&self) {
        let now = self.ask("kv/range", &json!({"key": STANDARD.encode("no such key")}));
        self.ask("kv/compaction", &json!({"revision": now["header"]["revision"], "physical": true}));
    }

    /// From now on only `root` with this password may do anything.
    pub(crate) fn demand_password(&self, password: &str) {
        self.ask("auth/user/add", &json!({"name": "root", "password": password}));
        self.ask("auth/role/add", &json!({"name": "root"}));
        self.ask("auth/user/grant", &json!({"user": "root", "role": "root"}));
        self.ask("auth/enable", &json!({}));
    }

    /// As `put`, by `root`.
    pub(crate) fn put_as_root(&self, key: &str, value: &str, password: &str) {
        let body = json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)});
        self.ask_as_root("kv/put", &body, password);
    }

    /// As `ask`, by `root`.
    pub(crate) fn ask_as_root(&self, path: &str, body: &Value, password: &str) -> Value {
        let granted = self.ask("auth/authenticate", &json!({"name": "root", "password": password}));
        let http = if self.is_tls { self.trusting().unwrap() } else { client() };
        let request = http.post(format!("{}/v3/{path}", self.url()));
        let answer =
            request.header("Authorization", granted["token"].as_str().unwrap()).body(body.to_string());
        let answer = answer.send().unwrap();
        assert!(answer.status().is_success());
        serde_json::from_str(&answer.text().unwrap()).unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            if self.members[index].child.is_some() {
                self.kill(index);
            }
        }
    }
}

/// An authority, and a certificate of it for 127.0.0.1.
pub(crate) fn make_certificates(folder: &Path) {
    let script = "set -e
        new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
        openssl req -x509 $new -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
        openssl req $new -subj /CN=etcd -keyout key.pem -out request
        echo subjectAltName=IP:127.0.0.1 > names
        openssl x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem";
    let done = Command::new("sh").args(["-c", script]).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn program() -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&paths).map(|path| path.join("etcd"));
    found.find(|path: &PathBuf| Path::is_file(path)).unwrap_or_else(|| {
        panic!("`etcd` is not here; `./test` installs it, or: apt-get install etcd-server")
    })
}
