//! Real PostgreSQL servers for tests, on free ports of 127.0.0.1, run by an ordinary user.
//!
//! `Shared` is one server for all tests of this checkout, since starting one takes a second: the first test that asks starts it, and it ends by
//! itself when no test has asked for some minutes. Each test has a schema of its own in it. `Private` is for tests that kill it.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg};

/// How long the shared server waits for another test, in seconds.
const LINGERS: u32 = 180;
/// How long a server gets to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The address of a schema of this name in the server that all tests share.
pub(crate) fn shared(schema: &str) -> String {
    let folder = shared_folder();
    let lock = File::options().create(true).truncate(false).write(true).open(folder.with_extension("lock"));
    // Whoever holds it looks, starts or ends the server; it goes with the process.
    let _lock = Flock::lock(lock.unwrap(), FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
    let port = match running(&folder) {
        Some(port) => port,
        None => start_shared(&folder),
    };
    fs::write(folder.join("used"), "").unwrap();
    format!("postgres://siskin@127.0.0.1:{port}/postgres?options=-csearch_path%3D{schema}")
}

/// A name that no other test has.
pub(crate) fn new_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("t{now:x}_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A schema of its own in the shared server, ready to be used.
pub(crate) fn new_schema() -> String {
    let schema = new_name();
    let url = shared(&schema);
    let port = port_of(&url);
    psql(port, "postgres", &format!("CREATE SCHEMA {schema}"));
    url
}

fn port_of(url: &str) -> u16 {
    url.split("127.0.0.1:").nth(1).unwrap().split('/').next().unwrap().parse().unwrap()
}

/// What a statement says, as plain text.
pub(crate) fn psql(port: u16, database: &str, statement: &str) -> String {
    let mut command = Command::new(program("psql"));
    command.args(["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "siskin"]);
    let output = command.args(["-p", &port.to_string(), "-d", database, "-c", statement]).output().unwrap();
    assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A server that belongs to one test.
pub(crate) struct Private {
    folder: tempfile::TempDir,
    port: u16,
    server: Option<Child>,
}

/// Where this file lies, the server syncs.
const DURABLE: &str = "durable";

impl Private {
    /// A running server with an empty database `siskin`.
    pub(crate) fn start() -> Private {
        Private::start_in(tempfile::tempdir().unwrap())
    }

    /// As `start`, but all that is committed is synced to the disk: for measurements.
    pub(crate) fn start_durable() -> Private {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(DURABLE), "").unwrap();
        Private::start_in(folder)
    }

    fn start_in(folder: tempfile::TempDir) -> Private {
        give_away(folder.path());
        make_cluster(folder.path());
        let mut private = Private { folder, port: free_port(), server: None };
        private.run();
        psql(private.port, "postgres", "CREATE DATABASE siskin");
        private
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://siskin@127.0.0.1:{}/siskin", self.port)
    }

    /// The address of another database in it, made now.
    pub(crate) fn new_database(&self) -> String {
        let name = new_name();
        psql(self.port, "postgres", &format!("CREATE DATABASE {name}"));
        format!("postgres://siskin@127.0.0.1:{}/{name}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Starts it on its old port and data.
    pub(crate) fn run(&mut self) {
        assert!(self.server.is_none(), "it is running");
        // What is written is there after SIGKILL of the server without a sync; only a crash of the machine needs one.
        let mut server = server_of(self.folder.path(), self.port).spawn().unwrap();
        wait_until_ready(&mut server, self.folder.path(), self.port);
        self.server = Some(server);
    }

    /// SIGKILL to the server and all its processes.
    pub(crate) fn kill(&mut self) {
        let mut server = self.server.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(server.id()).unwrap());
        // Stopped first: a process that it forks between the list and its death would live on, and could wait for ever for what the dead held.
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        let family = children_of(server.id());
        server.kill().unwrap();
        for pid in family {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).ok();
        }
        server.wait().unwrap();
        fs::remove_file(self.folder.path().join("data/postmaster.pid")).ok();
    }

    /// Lets this user in with a password only.
    pub(crate) fn demand_password(&self, user: &str) {
        let path = self.folder.path().join("data/pg_hba.conf");
        let rules = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("host all {user} 127.0.0.1/32 scram-sha-256\n{rules}")).unwrap();
        self.ask("SELECT pg_reload_conf()");
    }

    /// What a statement in its database says.
    pub(crate) fn ask(&self, statement: &str) -> String {
        psql(self.port, "siskin", statement)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.kill();
        }
    }
}

fn children_of(parent: u32) -> Vec<i32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Below the directory for temporary files: one per user and checkout.
fn shared_folder() -> PathBuf {
    let checkout = env!("CARGO_MANIFEST_DIR").replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    let user = fs::metadata("/proc/self").unwrap().uid();
    std::env::temp_dir().join(format!("siskin-test-postgres-{user}{checkout}"))
}

/// The port of the shared server, when it runs.
fn running(folder: &Path) -> Option<u16> {
    let port: u16 = fs::read_to_string(folder.join("port")).ok()?.trim().parse().ok()?;
    let pid = fs::read_to_string(folder.join("data/postmaster.pid")).ok()?;
    let pid = pid.lines().next()?.trim().to_owned();
    Path::new("/proc").join(pid).exists().then_some(())?;
    TcpStream::connect(("127.0.0.1", port)).ok()?;
    Some(port)
}

fn start_shared(folder: &Path) -> u16 {
    if folder.exists() {
        fs::remove_dir_all(folder).unwrap();
    }
    fs::DirBuilder::new().mode(0o700).create(folder).unwrap();
    give_away(folder);
    make_cluster(folder);
    let port = free_port();
    fs::write(folder.join("used"), "").unwrap();
    let mut server = server_of(folder, port).spawn().unwrap();
    wait_until_ready(&mut server, folder, port);
    end_when_unused(folder, server.id());
    fs::write(folder.join("port"), port.to_string()).unwrap();
    port
}

/// A process of its own looks now and then when the server was last used. It ends the server, by its pid, under the same lock under which tests take it.
fn end_when_unused(folder: &Path, server: u32) {
    let script = format!(
        r#"folder=$1 server=$2
        unused() {{ [ $(($(date +%s) - $(stat -c %Y "$folder/used" 2>/dev/null || echo 0))) -gt {LINGERS} ]; }}
        while kill -0 "$server" 2>/dev/null; do
            sleep 10
            unused || continue
            exec 9>"$folder.lock"
            flock 9
            if unused; then
                kill -INT "$server"
                while kill -0 "$server" 2>/dev/null; do sleep 1; done
                rm -rf "$folder"
                exit
            fi
            exec 9>&-
        done"#
    );
    let watching = Command::new("setsid")
        .args(["--fork", "sh", "-c", &script, "watch"])
        .arg(folder)
        .arg(server.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(watching.unwrap().success());
}

fn make_cluster(folder: &Path) {
    let made = as_ordinary_user(&program("initdb"))
        .arg("-D")
        .arg(folder.join("data"))
        .args(["-U", "siskin", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"])
        .output()
        .unwrap();
    assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
}

fn server_of(folder: &Path, port: u16) -> Command {
    let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let mut command = Command::new("setsid");
    command.arg("--").args(ordinary_user()).arg(program("postgres")).arg("-D").arg(folder.join("data"));
    for setting in [
        format!("port={port}"),
        "listen_addresses=127.0.0.1".to_owned(),
        "unix_socket_directories=".to_owned(),
        format!("fsync={}", if folder.join(DURABLE).exists() { "on" } else { "off" }),
        "max_connections=300".to_owned(),
        "shared_buffers=32MB".to_owned(),
    ] {
        command.arg("-c").arg(setting);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}

fn wait_until_ready(server: &mut Child, folder: &Path, port: u16) {
    let end = Instant::now() + PATIENCE;
    let mut probe = Command::new(program("pg_isready"));
    probe.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
    while !probe.status().unwrap().success() {
        let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
        if let Some(status) = server.try_wait().unwrap() {
            panic!("PostgreSQL ended with {status}:\n{}", log());
        }
        assert!(Instant::now() < end, "PostgreSQL did not come up:\n{}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Words before a command that make an ordinary user of root: the server refuses to be run by root.
fn ordinary_user() -> Vec<&'static str> {
    if nix::unistd::geteuid().is_root() {
        vec!["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    } else {
        vec!["env"]
    }
}

fn as_ordinary_user(program: &Path) -> Command {
    let words = ordinary_user();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(program).current_dir("/");
    command
}

fn give_away(folder: &Path) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    std::os::unix::fs::chown(folder, Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
}

/// A program of the newest PostgreSQL that is installed.
fn program(name: &str) -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = installed
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            let path = entry.path().join("bin").join(name);
            path.exists().then_some((version, path))
        })
        .collect();
    versions.sort();
    let Some((_, path)) = versions.pop() else {
        panic!("PostgreSQL's {name} is not here; `./test` installs it, or: apt-get install postgresql")
    };
    path
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
