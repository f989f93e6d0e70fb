//! HAProxy's configuration file, changed by workflows: the example of `docs/guide/progressive.md` with a real Consul and a real HAProxy that is reloaded.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::support::consul::Consul;
use crate::support::haproxy;
use crate::support::server::{PATIENCE, Server, client, until};

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An HAProxy with a master, as systemd has it, and its folder.
struct Balancer {
    folder: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Balancer {
    /// With a configuration that answers `before` to all. `None` where HAProxy is not installed.
    fn start() -> Option<Balancer> {
        let program = haproxy::program()?;
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let path = folder.path().join("haproxy.cfg");
        std::fs::write(&path, text(folder.path().to_str().unwrap(), port, "before")).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(program)
            .args(["-W", "-p"])
            .arg(folder.path().join("pid"))
            .arg("-f")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let balancer = Balancer { folder, port, child };
        let up = until(PATIENCE, || balancer.answer(false).filter(|answer| answer == "before"));
        assert!(up.is_some(), "{}", std::fs::read_to_string(balancer.path("log")).unwrap());
        Some(balancer)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn held(&self) -> String {
        std::fs::read_to_string(self.path("haproxy.cfg")).unwrap()
    }

    fn text(&self, answer: &str) -> String {
        text(self.folder.path().to_str().unwrap(), self.port, answer)
    }

    fn settings(&self) -> String {
        format!("config: {{haproxy: {{socket: \"{}\"}}}}\n", self.path("admin.sock").display())
    }

    fn with(&self, text: &str) -> Value {
        let (path, pid_file) = (self.path("haproxy.cfg"), self.path("pid"));
        json!({"path": path, "text": text, "signal": {"pid_file": pid_file}, "wait": "3s"})
    }

    /// What a client gets, with or without the header.
    fn answer(&self, canary: bool) -> Option<String> {
        let mut request = client().get(format!("http://127.0.0.1:{}/", self.port));
        if canary {
            request = request.header("x-canary", "TRUE");
        }
        request.send().ok()?.error_for_status().ok()?.text().ok()
    }

    /// Who answers, in many requests.
    fn seen(&self, canary: bool) -> Vec<String> {
        let mut seen: Vec<String> = (0..12).map(|_| self.answer(canary).unwrap()).collect();
        seen.sort();
        seen.dedup();
        seen
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // The master ends its workers with it.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
        self.child.wait().ok();
    }
}

fn text(folder: &str, port: u16, answer: &str) -> String {
    format!(
        "global\n stats socket {folder}/admin.sock mode 600 level admin\ndefaults\n mode http\n timeout connect 2s\n timeout client 20s\n timeout server 20s\nfrontend f\n bind 127.0.0.1:{port}\n default_backend all\nbackend all\n http-request return status 200 content-type text/plain string {answer}\n"
    )
}

/// Clients that come anew for each request.
struct Visitors {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Visitors {
    fn start(port: u16) -> Visitors {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let visit = move |stop: Arc<AtomicBool>, count: Arc<AtomicU64>| {
            let mut bad = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let answer = std::net::TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
                    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")?;
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).map(|_| answer)
                });
                match answer {
                    Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    other => bad.push(format!("{other:?}")),
                }
            }
            bad
        };
        let threads = (0..4)
            .map(|_| {
                let (stop, count) = (stop.clone(), count.clone());
                std::thread::spawn(move || visit(stop, count))
            })
            .collect();
        Visitors { stop, count, threads }
    }

    /// How many were served; all must have been.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let bad: Vec<String> = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert!(bad.is_empty(), "{} failed: {:?}", bad.len(), &bad[..bad.len().min(5)]);
        self.count.load(Ordering::Relaxed)
    }
}

/// A server of shop that answers its name, on an address of its own, for as long as the test lasts.
fn shop(name: &'static str, address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut bytes = [0; 4096];
            // A check of HAProxy connects and says nothing.
            if stream.read(&mut bytes).is_ok_and(|count| count > 0) {
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}",
                    name.len()
                )
                .ok();
            }
        }
    });
    port
}

fn register(consul: &Consul, node: &'static str, address: &str, tags: &[&str]) {
    let service = json!({"ID": "shop", "Service": "shop", "Tags": tags, "Address": address, "Port": shop(node, address)});
    let body = json!({"Node": node, "Address": address, "Service": service});
    consul.put("catalog/register", &body.to_string());
}

/// The files that the guide has one write: path below the site, and text.
fn files_of_the_guide() -> Vec<(String, String)> {
    let guide = include_str!("../../docs/guide/progressive.md");
    let section = guide.split("\n## The canaries by a header").nth(1).unwrap().split("\n## ").next().unwrap();
    let blocks = section.split("```yaml\n# ").skip(1);
    blocks
        .map(|block| {
            let (path, text) = block.split("\n```").next().unwrap().split_once('\n').unwrap();
            (path.to_owned(), format!("{text}\n"))
        })
        .collect()
}

/// Puts one text in the place of another, which must be there.
fn instead(text: &mut String, old: &str, new: &str) {
    assert!(text.contains(old), "{old} is not in {text}");
    *text = text.replace(old, new);
}

#[test]
fn the_header_leads_to_the_canaries_and_the_servers_follow_consul() {
    let Some(balancer) = Balancer::start() else { return };
    let consul = Consul::start();
    register(&consul, "web1", "127.0.0.2", &["canary"]);
    register(&consul, "web2", "127.0.0.3", &[]);
    let mut files = files_of_the_guide();
    assert_eq!(files.len(), 4, "{files:?}");
    for (path, text) in &mut files {
        match path.as_str() {
            "sources/shop_servers.yaml" => *text += &format!("address: \"{}\"\n", consul.url()),
            "workflows/balance_shop.yaml" => {
                let folder = balancer.folder.path().display();
                instead(text, "/etc/haproxy/haproxy.cfg", &format!("{folder}/haproxy.cfg"));
                instead(text, "/run/haproxy/admin.sock", &format!("{folder}/admin.sock"));
                instead(text, "bind :8080", &format!("bind 127.0.0.1:{}", balancer.port));
                instead(
                    text,
                    "reload: [systemctl, reload, haproxy]",
                    &format!("signal: {{pid_file: {folder}/pid}}"),
                );
            }
            _ => {}
        }
    }
    let settings = format!(
        "config: {{haproxy: {{socket: \"{}\"}}, consul: {{address: \"{}\"}}}}\n",
        balancer.path("admin.sock").display(),
        consul.url()
    );
    files.push(("siskin.yaml".to_owned(), settings));
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let server = Server::start(&files);
    server.wait_for("/sources/site.shop_servers", |source| source["health"]["state"] == "watching");

    let done = server.run_to_end("site.balance_shop", json!({}));
    assert_eq!(done["status"], "succeeded", "{done}");
    assert_eq!(balancer.seen(false), ["web1", "web2"], "canaries included");
    assert_eq!(balancer.seen(true), ["web1"]);

    let visitors = Visitors::start(balancer.port);
    register(&consul, "web3", "127.0.0.4", &["canary"]);
    let came = until(PATIENCE, || (balancer.seen(false) == ["web1", "web2", "web3"]).then_some(()));
    assert!(came.is_some(), "{}\n{}", balancer.held(), server.log());
    assert_eq!(balancer.seen(true), ["web1", "web3"]);
    consul.put("catalog/deregister", &json!({"Node": "web1"}).to_string());
    let gone = until(PATIENCE, || (balancer.seen(false) == ["web2", "web3"]).then_some(()));
    assert!(gone.is_some(), "{}\n{}", balancer.held(), server.log());
    let served = visitors.end();
    assert!(served > 200, "{served}");

    // Without a canary the header is no dead end; and an empty answer of Consul empties nothing.
    consul.put("catalog/deregister", &json!({"Node": "web3"}).to_string());
    let gone = until(PATIENCE, || (balancer.seen(true) == ["web2"]).then_some(()));
    assert!(gone.is_some(), "{}\n{}", balancer.held(), server.log());
    consul.put("catalog/deregister", &json!({"Node": "web2"}).to_string());
    let has_failed =
        |runs: &Value| runs["items"].as_array().unwrap().iter().any(|run| run["status"] == "failed");
    server.wait_for("/runs", has_failed);
    assert_eq!(balancer.seen(false), ["web2"]);
}

#[test]
fn what_haproxy_does_not_take_keeps_the_old_configuration_and_its_traffic() {
    let Some(balancer) = Balancer::start() else { return };
    let server = Server::start(&[("siskin.yaml", &balancer.settings())]);
    let old = balancer.held();
    let configure = |text: &str| server.run_to_end("haproxy.configure", balancer.with(text));
    let why = |run: &Value| {
        assert_eq!(run["status"], "failed", "{run}");
        run["error"]["message"].as_str().unwrap().to_owned()
    };

    let visitors = Visitors::start(balancer.port);
    let bad = old.clone() + " servr web1 127.0.0.1:1\n";
    let said = why(&configure(&bad));
    assert!(said.contains("haproxy.cfg:13] : unknown keyword 'servr' in 'backend' section"), "{said}");
    assert!(said.contains("(line 13: `servr web1 127.0.0.1:1`)"), "{said}");
    assert!(said.contains("is as it was, and nothing was reloaded"), "{said}");
    assert_eq!(balancer.held(), old);
    let same = configure(&old)["output"].clone();
    assert_eq!((&same["changed"], &same["was"]), (&json!(false), &Value::Null), "{same}");
    visitors.end();

    // The check opens no ports. This one is taken.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = format!(" bind {}\n default_backend", taken.local_addr().unwrap());
    let said = why(&configure(&old.replace(" default_backend", &bind)));
    assert!(said.contains("HAProxy did not take up the new configuration"), "{said}");
    assert!(said.contains("is in") && said.contains("again, and HAProxy was reloaded with it"), "{said}");
    assert_eq!(balancer.held(), old);
    assert_eq!(balancer.seen(false), ["before"]);

    let first = configure(&balancer.text("first"))["output"].clone();
    assert_eq!(first["changed"], true, "{first}");
    let diff = first["diff"].as_str().unwrap();
    assert!(diff.contains("string before") && diff.contains("string first"), "{diff}");
    assert_eq!(balancer.seen(false), ["first"]);
    assert_eq!(std::fs::read_to_string(balancer.path("haproxy.cfg.before")).unwrap(), old);
    let mut back = balancer.with("");
    back.as_object_mut().unwrap().remove("text");
    back["was"] = first["was"].clone();
    let restored = server.run_to_end("haproxy.restore", back.clone());
    assert_eq!(restored["output"]["changed"], true, "{restored}");
    assert_eq!((balancer.held(), balancer.seen(false)), (old, vec!["before".to_owned()]));
    back["was"] = Value::Null;
    assert_eq!(server.run_to_end("haproxy.restore", back)["output"]["changed"], false);
}

#[test]
fn a_change_that_was_killed_half_way_is_finished_and_nobody_gets_an_error() {
    let Some(balancer) = Balancer::start() else { return };
    let mut server = Server::start(&[("siskin.yaml", &balancer.settings())]);
    let visitors = Visitors::start(balancer.port);
    let folder = balancer.folder.path().display();
    let reload =
        format!("touch {folder}/begun; test -e {folder}/go || sleep 60; kill -USR2 $(cat {folder}/pid)");
    let text = balancer.text("after");
    let with = json!({"path": balancer.path("haproxy.cfg"), "text": text, "reload": ["sh", "-c", reload], "wait": "5s"});
    let run =
        server.post("/runs", &json!({"run": "haproxy.configure", "with": with}))["id"].as_i64().unwrap();
    assert!(until(PATIENCE, || balancer.path("begun").exists().then_some(())).is_some());
    assert_eq!(balancer.held(), text, "replaced, and not reloaded yet");
    server.kill();
    assert_eq!(balancer.seen(false), ["before"]);
    std::fs::write(balancer.path("go"), "").unwrap();
    server.run();
    let done = server.wait_for_end(run);
    assert_eq!(done["status"], "succeeded", "{done}");
    assert_eq!(done["output"]["changed"], true, "{done}");
    assert_eq!(balancer.seen(false), ["after"]);
    let left: Vec<String> = std::fs::read_dir(balancer.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("pending") || name.contains("new") || name.contains("part"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let served = visitors.end();
    assert!(served > 200, "{served}");
}
