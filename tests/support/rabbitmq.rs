//! Real RabbitMQ brokers for tests, on free ports of 127.0.0.1, each with an epmd of its own, run by an ordinary user.
//!
//! `shared` is one broker for all tests of this checkout, since starting one takes seconds: the first test that asks starts it, and it ends by itself
//! when no test has asked for some minutes. Each test has a virtual host of its own in it. `Private` is for tests that kill it.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;

/// How long the shared broker waits for another test, in seconds.
const LINGERS: u32 = 180;
/// How long a broker gets to start; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many virtual hosts a broker has. When the shared one has no new one left, a new broker takes its place.
const HOSTS: u32 = 150;

/// The address of a virtual host that no other test has, in the broker that all tests share.
pub(crate) fn shared() -> String {
    let folder = shared_folder();
    let lock = File::options().create(true).truncate(false).write(true).open(folder.with_extension("lock"));
    // Whoever holds it looks, starts or ends the broker; it goes with the process.
    let _lock = Flock::lock(lock.unwrap(), FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
    let mut port = running(&folder);
    let used = || -> u32 {
        let used = fs::read_to_string(folder.join("used")).unwrap_or_default();
        used.trim().parse().unwrap_or_default()
    };
    if port.is_some() && used() >= HOSTS {
        // Tests that still run over it have its last virtual hosts; it ends when it is unused, under another name.
        let old = folder.with_extension(format!("old{}", std::process::id()));
        fs::rename(&folder, old).unwrap();
        port = None;
    }
    let port = port.unwrap_or_else(|| start_shared(&folder));
    let host = used() + 1;
    fs::write(folder.join("used"), host.to_string()).unwrap();
    format!("amqp://test:test@127.0.0.1:{port}/test{host}")
}

/// Where the broker that all tests share keeps everything that it knows.
pub(crate) fn shared_folder() -> PathBuf {
    let checkout = env!("CARGO_MANIFEST_DIR").replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    let user = fs::metadata("/proc/self").unwrap().uid();
    std::env::temp_dir().join(format!("siskin-test-rabbitmq-{user}{checkout}"))
}

/// A broker that belongs to one test.
pub(crate) struct Private {
    folder: tempfile::TempDir,
    ports: Ports,
    running: Option<Running>,
}

#[derive(Clone, Copy)]
struct Ports {
    amqp: u16,
    epmd: u16,
    distribution: u16,
}

/// The processes of a broker.
struct Running {
    epmd: Child,
    broker: Child,
}

impl Private {
    pub(crate) fn start() -> Private {
        let folder = tempfile::Builder::new().prefix("siskin-rabbitmq-").tempdir().unwrap();
        let ports = Ports::free();
        prepare(folder.path(), ports, 1);
        let mut private = Private { folder, ports, running: None };
        private.run();
        private
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://test:test@127.0.0.1:{}/test1", self.ports.amqp)
    }

    /// Where it keeps everything that it knows.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it on its old port and data.
    pub(crate) fn run(&mut self) {
        assert!(self.running.is_none(), "it is running");
        let mut running = start(self.folder.path(), self.ports);
        wait_until_ready(&mut running.broker, self.folder.path(), self.ports.amqp);
        self.running = Some(running);
    }

    /// SIGKILL to all that it is.
    pub(crate) fn kill(&mut self) {
        let Running { mut epmd, mut broker } = self.running.take().unwrap();
        end(&mut broker);
        epmd.kill().unwrap();
        epmd.wait().unwrap();
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill();
        }
    }
}

/// The broker is the leader of a group of its own, to which all its processes belong.
fn end(broker: &mut Child) {
    killpg(Pid::from_raw(i32::try_from(broker.id()).unwrap()), Signal::SIGKILL).ok();
    broker.wait().unwrap();
}

impl Ports {
    fn free() -> Ports {
        // All are open at once, so that they differ.
        let listeners: [TcpListener; 3] =
            std::array::from_fn(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let port = |index: usize| listeners[index].local_addr().unwrap().port();
        Ports { amqp: port(0), epmd: port(1), distribution: port(2) }
    }
}

/// The port of the shared broker, when it runs.
fn running(folder: &Path) -> Option<u16> {
    let port: u16 = fs::read_to_string(folder.join("port")).ok()?.trim().parse().ok()?;
    let pid = fs::read_to_string(folder.join("leader")).ok()?;
    Path::new("/proc").join(pid.trim()).exists().then_some(())?;
    speaks_amqp(port).then_some(port)
}

fn start_shared(folder: &Path) -> u16 {
    if folder.exists() {
        fs::remove_dir_all(folder).unwrap();
    }
    fs::DirBuilder::new().mode(0o755).create(folder).unwrap();
    let ports = Ports::free();
    prepare(folder, ports, HOSTS);
    let Running { epmd, mut broker } = start(folder, ports);
    wait_until_ready(&mut broker, folder, ports.amqp);
    fs::write(folder.join("used"), "0").unwrap();
    end_when_unused(folder, broker.id(), epmd.id());
    fs::write(folder.join("leader"), broker.id().to_string()).unwrap();
    fs::write(folder.join("port"), ports.amqp.to_string()).unwrap();
    ports.amqp
}

/// A process of its own looks now and then when the broker was last used. It ends the broker, by its pid, under the same lock under which tests take it.
fn end_when_unused(folder: &Path, broker: u32, epmd: u32) {
    let script = format!(
        r#"folder=$1 broker=$2 epmd=$3
        where() {{ for place in "$folder" "${{folder%/*}}"/"${{folder##*/}}".old*; do
            [ "$(cat "$place/leader" 2>/dev/null)" = "$broker" ] && echo "$place" && return; done; }}
        unused() {{ [ $(($(date +%s) - $(stat -c %Y "$(where)/used" 2>/dev/null || echo 0))) -gt {LINGERS} ]; }}
        while kill -0 "$broker" 2>/dev/null; do
            sleep 10
            unused || continue
            exec 9>"${{folder%.*}}.lock"
            flock 9
            if unused; then
                place=$(where)
                kill -s KILL -- "-$broker"
                kill "$epmd"
                [ -z "$place" ] || rm -rf "$place"
                exit
            fi
            exec 9>&-
        done
        kill "$epmd" 2>/dev/null"#
    );
    let watching = Command::new("setsid")
        .args(["--fork", "sh", "-c", &script, "watch"])
        .arg(folder)
        .arg(broker.to_string())
        .arg(epmd.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(watching.unwrap().success());
}

/// Writes what a broker needs to start.
fn prepare(folder: &Path, ports: Ports, hosts: u32) {
    for name in ["mnesia", "log"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    let names: Vec<_> = (1..=hosts).map(|number| format!("test{number}")).collect();
    let rights = |host: &String| json!({"user": "test", "vhost": host, "configure": ".*", "write": ".*", "read": ".*"});
    let definitions = json!({
        "users": [{"name": "test", "password": "test", "tags": ""}],
        "vhosts": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>(),
        "permissions": names.iter().map(rights).collect::<Vec<_>>(),
    });
    fs::write(folder.join("definitions.json"), definitions.to_string()).unwrap();
    let definitions = folder.join("definitions.json");
    let config = format!(
        "listeners.tcp.1 = 127.0.0.1:{}\ndisk_free_limit.absolute = 50MB\nvm_memory_high_watermark.absolute = 1GB\nlog.console = false\nload_definitions = {}\n",
        ports.amqp,
        definitions.display()
    );
    fs::write(folder.join("rabbitmq.conf"), config).unwrap();
    fs::write(folder.join("enabled_plugins"), "[].").unwrap();
    fs::write(folder.join(".erlang.cookie"), format!("siskin{}", ports.amqp)).unwrap();
    fs::set_permissions(folder.join(".erlang.cookie"), fs::Permissions::from_mode(0o400)).unwrap();
    give_away(folder);
    for entry in fs::read_dir(folder).unwrap() {
        give_away(&entry.unwrap().path());
    }
}

fn start(folder: &Path, ports: Ports) -> Running {
    let log = || File::options().create(true).append(true).open(folder.join("out")).unwrap();
    let mut epmd = ordinary(&program("epmd"), folder);
    epmd.env("ERL_EPMD_ADDRESS", "127.0.0.1").env("ERL_EPMD_PORT", ports.epmd.to_string());
    let epmd = epmd.stdin(Stdio::null()).stdout(log()).stderr(log()).spawn().unwrap();
    let mut broker = ordinary(&program("rabbitmq-server"), folder);
    let at = |name: &str| folder.join(name).into_os_string();
    broker
        .env("HOME", folder)
        .env("ERL_EPMD_PORT", ports.epmd.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODENAME", format!("siskin{}@localhost", ports.amqp))
        .env("RABBITMQ_DIST_PORT", ports.distribution.to_string())
        .env("RABBITMQ_NODE_PORT", ports.amqp.to_string())
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_MNESIA_BASE", at("mnesia"))
        .env("RABBITMQ_MNESIA_DIR", at("mnesia/node"))
        .env("RABBITMQ_FEATURE_FLAGS_FILE", at("mnesia/flags"))
        .env("RABBITMQ_LOG_BASE", at("log"))
        .env("RABBITMQ_LOGS", at("log/broker.log"))
        .env("RABBITMQ_PID_FILE", at("pid"))
        .env("RABBITMQ_CONFIG_FILE", at("rabbitmq"))
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins"))
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
        );
    let broker = broker.stdin(Stdio::null()).stdout(log()).stderr(log()).spawn().unwrap();
    Running { epmd, broker }
}

fn wait_until_ready(broker: &mut Child, folder: &Path, port: u16) {
    let end_of_patience = Instant::now() + PATIENCE;
    while !speaks_amqp(port) {
        let log = || fs::read_to_string(folder.join("out")).unwrap_or_default();
        if let Some(status) = broker.try_wait().unwrap() {
            panic!("RabbitMQ ended with {status}:\n{}", log());
        }
        if Instant::now() > end_of_patience {
            end(broker);
            panic!("RabbitMQ did not come up:\n{}", log());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whether it answers as a broker does.
fn speaks_amqp(port: u16) -> bool {
    let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut byte = [0];
    socket.write_all(b"AMQP\x00\x00\x09\x01").is_ok() && socket.read_exact(&mut byte).is_ok()
}

/// A command in a group of its own, by somebody who is not root.
fn ordinary(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new("setsid");
    if nix::unistd::geteuid().is_root() {
        command.args(["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
    }
    command.arg(program).current_dir(folder);
    command
}

fn give_away(path: &Path) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    std::os::unix::fs::chown(path, Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
}

/// A program of RabbitMQ or Erlang. Debian's own `rabbitmq-server` on the path insists on a certain user; the one that it calls does not.
fn program(name: &str) -> PathBuf {
    let places = ["/usr/lib/rabbitmq/bin", "/usr/bin", "/usr/local/bin", "/usr/sbin"];
    let found = places.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| {
        panic!("`{name}` is not here; `./test` installs it, or: apt-get install rabbitmq-server")
    })
}
