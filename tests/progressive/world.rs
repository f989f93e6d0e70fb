//! Hosts that are dpkg roots, each with a service of its own on an address of its own, behind HAProxys; and a server that knows them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};
use siskin::delivery::hosts;

use crate::support::haproxy::Haproxy;
use crate::support::server::{PATIENCE, Server, client, until};

pub(super) const NAMES: [&str; 3] = ["web1", "web2", "web3"];
/// It is well as long as it is not asked.
pub(super) const ILL: &str = "3.0";

/// Restarts the service and waits until that is done, as a unit file of systemd would have it.
const POSTINST: &str = r#"#!/bin/sh
touch "$DPKG_ROOT/restart"
tries=0
while [ -e "$DPKG_ROOT/restart" ] && [ $tries -lt 600 ]; do tries=$((tries+1)); sleep 0.05; done
"#;

/// The service of a host: it is killed and started again when the package's script wants it so.
struct Service {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    fn start(root: PathBuf, address: String) -> Service {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut running = run(&root, &address);
            while !told.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
                if root.join("restart").exists() {
                    // As kill -9: connections break where they are. Then it takes a moment.
                    running.shutdown_background();
                    std::thread::sleep(Duration::from_millis(300));
                    running = run(&root, &address);
                    std::fs::remove_file(root.join("restart")).unwrap();
                }
            }
            running.shutdown_background();
        });
        Service { stop, thread: Some(thread) }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().ok();
    }
}

fn run(root: &Path, address: &str) -> tokio::runtime::Runtime {
    let version = std::fs::read_to_string(root.join("usr/share/demo/version")).unwrap_or_default();
    let health = if version == ILL { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let app = Router::new().route("/health", get(async move || (health, "this is how it is"))).route(
        "/",
        get(async move || {
            tokio::time::sleep(Duration::from_millis(15)).await;
            version
        }),
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listen = || {
        let _entered = runtime.enter();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address.parse().unwrap()).ok()?;
        socket.listen(1024).ok()
    };
    // The one before may need a moment to go.
    let listener = until(PATIENCE, listen).unwrap_or_else(|| panic!("{address} is taken"));
    runtime.spawn(async move { axum::serve(listener, app).await });
    runtime
}

pub(super) struct World {
    pub(super) server: Server,
    pub(super) haproxies: Vec<Haproxy>,
    _services: Vec<Service>,
    folder: tempfile::TempDir,
}

fn must(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

impl World {
    /// Three hosts with version 1.0, behind so many HAProxys; `web1` is the canary. `more` goes into the environments `canary` and `production`, `files`
    /// into the site. `None` where a program is missing.
    pub(super) fn new(haproxies: usize, more: [&str; 2], files: &[(&str, &str)]) -> Option<World> {
        if !Path::new("/usr/bin/dpkg-scanpackages").exists() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        publish(folder.path());
        // A port that is free on all of them, so that the check of the environment is one.
        let port = std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
        let address = |index: usize| format!("127.0.0.{}", index + 2);
        let mut services = Vec::new();
        for (index, name) in NAMES.iter().enumerate() {
            let root = folder.path().join(name);
            let source = format!("deb [trusted=yes] file:{}/repository ./", folder.path().display());
            hosts::prepare_root(&root, &source).unwrap();
            services.push(Service::start(root, format!("{}:{port}", address(index))));
        }
        let servers: Vec<(&str, String)> = NAMES
            .iter()
            .enumerate()
            .map(|(index, name)| (*name, format!("{}:{port}", address(index))))
            .collect();
        let haproxies: Vec<Haproxy> =
            (0..haproxies).map(|_| Haproxy::start(&servers)).collect::<Option<_>>()?;
        let sockets: Vec<String> = haproxies.iter().map(Haproxy::socket).collect();
        let balancer = json!({"haproxy": sockets, "backend": "shop", "drain": "10s", "ready": "10s"});
        let host = |index: usize| json!({"name": NAMES[index], "root": folder.path().join(NAMES[index]), "address": address(index)});
        let environment = |name: &str, hosts: Vec<Value>, more: &str| {
            let check =
                json!({"http": "/health", "port": port, "tries": 3, "interval": "100ms", "timeout": "5s"});
            format!(
                "  {name}:\n    hosts: {}\n    check: {check}\n    balancer: {balancer}\n    advertise: {{kv: '{{app}}/{{environment}}'}}\n{more}",
                Value::Array(hosts)
            )
        };
        let app = format!(
            "owner: team\npackage: demo\nenvironments:\n{}{}{}",
            environment("canary", vec![host(0)], more[0]),
            environment("production", vec![host(1), host(2)], more[1]),
            environment("all", vec![host(0), host(1), host(2)], "")
        );
        let mut all = vec![("apps/shop.yaml", app.as_str())];
        all.extend_from_slice(files);
        let server = Server::start(&all);
        let world = World { server, haproxies, _services: services, folder };
        let first = world.roll("all", "1.0");
        assert_eq!(first["status"], "succeeded", "{first}");
        world.all_are_up();
        Some(world)
    }

    pub(super) fn roll(&self, environment: &str, version: &str) -> Value {
        self.server.run_to_end("deploy.roll", roll_of(environment, version))
    }

    pub(super) fn all_are_up(&self) {
        for haproxy in &self.haproxies {
            for name in NAMES {
                haproxy.until(name, "UP");
            }
        }
    }

    /// What each host has installed.
    pub(super) fn versions(&self) -> Vec<String> {
        let version = |name: &&str| {
            let admin = self.folder.path().join(name).join("var/lib/dpkg");
            let mut query = Command::new("dpkg-query");
            query.arg(format!("--admindir={}", admin.display())).args([
                "-W",
                "-f",
                "${Status} ${Version}",
                "demo",
            ]);
            let text = String::from_utf8(must(&mut query)).unwrap();
            text.strip_prefix("install ok installed ").unwrap_or(&text).to_owned()
        };
        NAMES.iter().map(version).collect()
    }

    pub(super) fn advertised(&self, environment: &str) -> Value {
        let (status, body) = self.server.ask("GET", &format!("/kv/shop/{environment}"), None);
        assert!(status == 200 || status == 404, "{body}");
        body["value"].clone()
    }

    pub(super) fn newest_deployment(&self) -> i64 {
        let mut id = 1;
        while self.server.ask("GET", &format!("/deployments/{}", id + 1), None).0 == 200 {
            id += 1;
        }
        id
    }
}

pub(super) fn roll_of(environment: &str, version: &str) -> Value {
    json!({"app": "shop", "environment": environment, "version": version, "downgrade": true})
}

/// A repository of the package `demo` in several versions.
fn publish(folder: &Path) {
    let repository = folder.join("repository");
    std::fs::create_dir(&repository).unwrap();
    for version in ["1.0", "2.0", ILL, "4.0"] {
        let tree = folder.join(format!("tree-{version}"));
        for name in ["DEBIAN", "usr/share/demo"] {
            std::fs::create_dir_all(tree.join(name)).unwrap();
        }
        let control = format!(
            "Package: demo\nVersion: {version}\nArchitecture: all\nMaintainer: Bob <bob@example.org>\nDescription: a test\n"
        );
        std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
        std::fs::write(tree.join("usr/share/demo/version"), version).unwrap();
        let script = tree.join("DEBIAN/postinst");
        std::fs::write(&script, POSTINST).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let deb = repository.join(format!("demo_{version}_all.deb"));
        must(Command::new("dpkg-deb").args(["--root-owner-group", "-b"]).arg(&tree).arg(&deb));
    }
    let packages = must(Command::new("dpkg-scanpackages").args(["-m", "."]).current_dir(&repository));
    std::fs::write(repository.join("Packages"), packages).unwrap();
}

/// Clients that ask again and again, at the same time.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    pub(super) fn start(url: &str, clients: usize) -> Load {
        let (stop, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..clients)
            .map(|_| {
                let (stop, good, url) = (stop.clone(), good.clone(), url.to_owned());
                std::thread::spawn(move || {
                    let (client, mut bad) = (client(), Vec::new());
                    while !stop.load(Ordering::Relaxed) {
                        match client.get(&url).send() {
                            Ok(answer) if answer.status().is_success() => {
                                drop(answer.text());
                                good.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok(answer) => bad.push(answer.status().to_string()),
                            Err(error) => bad.push(format!("{error:?}")),
                        }
                    }
                    bad
                })
            })
            .collect();
        Load { stop, good, threads }
    }

    /// How many requests were answered well, and what came of the others.
    pub(super) fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let bad = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        (self.good.load(Ordering::Relaxed), bad)
    }
}
