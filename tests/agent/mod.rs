//! `siskin agent`, with the real apt-get and dpkg on dpkg roots, a real Consul, etcd and server.

mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use siskin::delivery::host_lock;
use siskin::delivery::hosts::{self, Host, Install};
use siskin::model::Span;
use tokio_util::sync::CancellationToken;

use crate::git_and_ssh::use_the_shim;
use crate::support::consul::Consul;
use crate::support::etcd::Etcd;
use crate::support::packages;
use crate::support::server::{PATIENCE, Server, siskin, until};

/// What the packages do when they are configured.
const AFTER_INSTALL: &str = r#"#!/bin/sh
echo "$*" >> "$DPKG_ROOT/configured"
[ ! -e "$DPKG_ROOT/fail" ] || exit 7
while [ -e "$DPKG_ROOT/hold" ]; do touch "$DPKG_ROOT/holding"; sleep 0.05; done
"#;

/// Versions of the package `shop` in a signed repository, and hosts that are dpkg roots.
struct World {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl World {
    fn new(versions: &[&str]) -> World {
        use_the_shim();
        let folder = tempfile::tempdir().unwrap();
        packages::publish_with(folder.path(), "shop", versions, Some(AFTER_INSTALL));
        World { folder, runtime: tokio::runtime::Runtime::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A host that has this version.
    fn host(&self, name: &str, version: &str) -> Host {
        packages::root(self.folder.path(), name);
        let host = Host::root(name, self.path(name));
        let install = Install { package: "shop", version, allow_downgrade: true, timeout: Span::minutes(2) };
        let cancel = CancellationToken::new();
        self.runtime.block_on(hosts::install(&host, install, &mut |_, _| {}, &cancel)).unwrap();
        host
    }

    fn installed(&self, name: &str) -> Option<String> {
        let host = Host::root(name, self.path(name));
        let cancel = CancellationToken::new();
        self.runtime.block_on(hosts::installed_version(&host, "shop", &cancel)).unwrap()
    }

    /// The agent's file of a host.
    fn configure(&self, host: &str, text: &str) -> PathBuf {
        let path = self.path(&format!("{host}.yaml"));
        fs::write(&path, format!("host: {host}\njitter: 0s\nevery: 1s\n{text}\n")).unwrap();
        path
    }

    fn run(&self, host: &str, more: &[&str]) -> Output {
        let mut command = siskin();
        command.args(["agent", "--once", "--config"]).arg(self.path(&format!("{host}.yaml")));
        command.arg("--root").arg(self.path(host)).args(more).output().unwrap()
    }

    /// One look: how the only app stands, and whether all is well.
    fn once(&self, host: &str) -> (Value, bool) {
        let output = self.run(host, &["--json"]);
        let said: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        (said[0].clone(), output.status.success())
    }

    /// That it is refused or failed for this reason, and `held` is still there.
    fn is_not_done(&self, host: &str, status: &str, why: &str, held: &str) {
        let (report, is_well) = self.once(host);
        let said = report["why"].as_str().unwrap_or_default();
        assert!(!is_well && report["status"] == status && said.contains(why), "wanted {why}: {report}");
        assert_eq!(self.installed(host).as_deref(), Some(held), "{report}");
    }

    fn converges(&self, host: &str, version: &str) -> Value {
        let (report, is_well) = self.once(host);
        assert!(is_well && report["status"] == "converged", "{report}");
        assert_eq!(self.installed(host).as_deref(), Some(version));
        report
    }
}

/// An agent that goes on.
struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    fn start(world: &World, host: &str) -> Agent {
        let log = world.path(&format!("{host}.log"));
        let file = fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = siskin();
        command.args(["agent", "--config"]).arg(world.path(&format!("{host}.yaml")));
        command.arg("--root").arg(world.path(host)).env("NO_COLOR", "1");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().unwrap();
        Agent { child, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn says(&self, what: &str) {
        let said = until(PATIENCE, || self.log().contains(what).then_some(()));
        assert!(said.is_some(), "it never said `{what}`:\n{}", self.log());
    }

    fn stop(mut self) -> bool {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().success()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn until_there(path: &Path) {
    let there = until(PATIENCE, || path.exists().then_some(()));
    assert!(there.is_some(), "{} never came", path.display());
}

/// C22, N16: one of two hosts is down while the environment is rolled to, and forward, and back.
#[test]
fn a_host_that_was_down_during_a_roll_catches_up_and_the_report_says_how_late() {
    let (world, consul) = (World::new(&["0.9", "1.0", "2.0"]), Consul::start());
    world.host("h1", "1.0");
    world.host("h2", "1.0");
    let roots = world.folder.path().display().to_string();
    fs::write(world.path("up"), "h1\n").unwrap();
    let app = format!(
        "environments:\n  production:\n    hosts: {{file: {roots}/up, roots: {roots}}}\n    advertise: {{consul: '{{app}}::version', address: '{}'}}\n",
        consul.url()
    );
    consul.put("kv/shop::version", "1.0");
    let server = Server::start(&[("apps/shop.yaml", &app)]);
    let token = server.data().join("admin.token");
    let config = format!(
        "server: {{url: '{}', token_file: {}}}\nconsul: {{address: '{}'}}\napps:\n  shop: {{environment: production, advertise: {{consul: '{{app}}::version'}}}}",
        server.url(),
        token.display(),
        consul.url()
    );
    world.configure("h2", &config);
    world.converges("h2", "1.0");

    // While a roll is at work it has the say: the agent of a host that comes back in the middle waits.
    fs::write(world.path("h1/hold"), "").unwrap();
    let with = json!({"app": "shop", "environment": "production", "version": "2.0"});
    let run = server.post("/runs", &json!({"run": "deploy.roll", "with": with}));
    until_there(&world.path("h1/holding"));
    let (report, is_well) = world.once("h2");
    assert!(is_well && report["status"] == "behind", "{report}");
    assert!(report["why"].as_str().unwrap().contains("is rolling"), "{report}");
    assert_eq!(world.installed("h2").as_deref(), Some("1.0"));
    fs::remove_file(world.path("h1/hold")).unwrap();
    let rolled = server.wait_for_end(run["id"].as_i64().unwrap());
    assert_eq!(rolled["status"], "succeeded", "{rolled}");
    assert_eq!(
        (world.installed("h1").as_deref(), world.installed("h2").as_deref()),
        (Some("2.0"), Some("1.0"))
    );

    // It is there again: it catches up, and the server knows how late.
    let report = world.converges("h2", "2.0");
    assert!(report["late_by_seconds"].is_u64(), "{report}");
    let kept = server.get("/kv/agents/shop/production/h2")["value"].clone();
    assert_eq!((&kept["held"], &kept["status"]), (&json!("2.0"), &json!("converged")), "{kept}");
    assert_eq!(kept["late_by_seconds"], report["late_by_seconds"]);
    // What stands as it stood is said once.
    let again = world.converges("h2", "2.0");
    assert_eq!((&again["since"], &again["late_by_seconds"]), (&report["since"], &report["late_by_seconds"]));
    let converged = server.get("/events?trigger=deploy.converged");
    let held: Vec<&Value> =
        converged["items"].as_array().unwrap().iter().map(|event| &event["payload"]["held"]).collect();
    assert_eq!(held, ["2.0", "1.0"]);

    // A way back is one, also to a host that no roll reaches.
    let with = json!({"deployment": rolled["output"]["deployment"], "app": "shop"});
    assert_eq!(server.run_to_end("deploy.restore", with)["status"], "succeeded");
    world.converges("h2", "1.0");

    // A lower version that nobody called a way back is none.
    consul.put("kv/shop::version", "0.9");
    world.is_not_done("h2", "refused", "lower than 1.0", "1.0");
    let refused = server.get("/events?trigger=deploy.refused");
    assert_eq!(refused["items"][0]["payload"]["host"], "h2", "{refused}");
    assert_eq!(server.get("/kv/agents/shop/production/h2")["value"]["status"], "refused");
    consul.put("kv/shop::version.rollback", "0.9");
    world.converges("h2", "0.9");
}

#[test]
fn what_must_not_be_installed_is_refused_and_what_is_there_stays() {
    let (world, etcd) = (World::new(&["0.9", "1.0", "2.0"]), Etcd::start());
    world.host("h1", "1.0");
    let config = |more: &str| {
        format!(
            "etcd: {{address: ['http://127.0.0.1:1', '{}']}}\napps:\n  shop: {{environment: production, advertise: {{etcd: /shop}}, settle: 0s{more}}}",
            etcd.url()
        )
    };
    world.configure("h1", &config(""));
    let (nothing, is_well) = world.once("h1");
    assert!(is_well && nothing["why"].as_str().unwrap().contains("nothing is advertised"), "{nothing}");
    for garbage in ["N/A", "$(reboot)", "1 2", "-y"] {
        etcd.put("/shop", garbage);
        world.is_not_done("h1", "refused", "no version of a package", "1.0");
    }
    etcd.put("/shop", "");
    assert!(world.once("h1").1, "an empty version is none");
    etcd.put("/shop", "9.9");
    world.is_not_done("h1", "refused", "shop 9.9 is not in the repository", "1.0");
    etcd.put("/shop", "0.9");
    world.is_not_done("h1", "refused", "lower than 1.0", "1.0");

    etcd.put("/shop", "2.0\n");
    let hold = |word: &str| {
        let mut command = std::process::Command::new("apt-mark");
        command.env("APT_CONFIG", world.path("h1/etc/apt/siskin.conf")).args([word, "shop"]);
        assert!(command.output().unwrap().status.success());
    };
    hold("hold");
    world.is_not_done("h1", "refused", "held at 1.0", "1.0");
    hold("unhold");
    let list = world.path("h1/etc/apt/sources.list.d/siskin.list");
    let signed = fs::read_to_string(&list).unwrap();
    // A roll may be at work that nobody can tell of.
    world.configure("h1", &config("").replace("settle: 0s", "settle: 1h"));
    let (report, is_well) = world.once("h1");
    assert!(is_well && report["why"].as_str().unwrap().contains("nobody can say"), "{report}");
    world.configure("h1", &config(""));
    fs::write(&list, signed.replace("signed-by", "trusted=yes signed-by")).unwrap();
    world.is_not_done("h1", "refused", "does not demand signatures", "1.0");
    let unknown = signed.replace(&format!("signed-by={}", world.path("apt/key.gpg").display()), "arch=amd64");
    fs::write(&list, unknown).unwrap();
    fs::remove_dir_all(world.path("h1/var/lib/siskin/agent")).unwrap();
    world.is_not_done("h1", "failed", "apt-get install failed", "1.0");
    fs::write(&list, signed).unwrap();
    fs::remove_dir_all(world.path("h1/var/lib/siskin/agent")).unwrap();

    // Who only asks what would be done leaves no trace; who has the lock is waited for.
    let dry = world.run("h1", &["--dry-run"]);
    let said = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert!(said.contains("has 1.0") && said.contains("would install 2.0"), "{said}");
    assert!(!world.path("h1/var/lib/siskin/agent").exists());
    let lock = world.runtime.block_on(host_lock::take(&world.path("h1"), Duration::ZERO)).unwrap();
    let (report, is_well) = world.once("h1");
    assert!(is_well && report["status"] == "behind", "{report}");
    assert!(report["why"].as_str().unwrap().contains("a roll works on this host"), "{report}");
    drop(lock);
    assert_eq!(world.installed("h1").as_deref(), Some("1.0"));
    world.converges("h1", "2.0");
    etcd.put("/shop", "0.9");
    world.configure("h1", &config(", allow_downgrade: true"));
    world.converges("h1", "0.9");
}

#[test]
fn what_fails_or_is_ill_is_taken_back_and_tried_again_only_when_its_time_has_come() {
    let (world, etcd) = (World::new(&["1.0", "2.0", "3.0"]), Etcd::start());
    world.host("h1", "1.0");
    let config = |retry: &str| {
        format!(
            "etcd: {{address: '{}'}}\napps:\n  shop:\n    environment: production\n    advertise: {{etcd: /shop}}\n    settle: 0s\n    retry: {retry}\n    check: {{script: 'echo ill >&2; ! grep -q 2.0 opt/shop/version', tries: 1}}",
            etcd.url()
        )
    };
    world.configure("h1", &config("1h"));
    let tried = || fs::read_to_string(world.path("h1/configured")).unwrap().lines().count();
    etcd.put("/shop", "2.0");
    world.is_not_done(
        "h1",
        "failed",
        "the health check failed (exit status 1): ill; 1.0 is there again",
        "1.0",
    );
    let so_far = tried();
    world.is_not_done("h1", "failed", "the health check failed", "1.0");
    assert_eq!(tried(), so_far, "it was tried again at once");

    // Another version is another matter.
    fs::write(world.path("h1/fail"), "").unwrap();
    etcd.put("/shop", "3.0");
    let (report, _) = world.once("h1");
    let why = report["why"].as_str().unwrap();
    assert!(report["status"] == "failed" && why.contains("apt-get install failed"), "{report}");
    assert!(why.contains("to go back to 1.0 failed"), "{report}");
    fs::remove_file(world.path("h1/fail")).unwrap();
    let (report, _) = world.once("h1");
    assert_eq!(report["status"], "failed", "{report}");
    // Its time has come.
    world.configure("h1", &config("1s"));
    let done = until(PATIENCE, || Some(world.once("h1").0).filter(|report| report["status"] == "converged"));
    assert_eq!(done.unwrap()["held"], "3.0");

    // A host without the package gets it, and loses it again where it is ill.
    packages::root(world.folder.path(), "h2");
    etcd.put("/shop", "2.0");
    world.configure("h2", &config("1h"));
    let (report, is_well) = world.once("h2");
    assert!(!is_well && report["why"].as_str().unwrap().contains("it was removed again"), "{report}");
    assert_eq!(world.installed("h2"), None);
}

#[test]
fn killed_in_the_middle_it_is_finished_by_the_next_which_still_knows_the_way_back() {
    let (world, etcd) = (World::new(&["1.0", "2.0"]), Etcd::start());
    world.host("h1", "1.0");
    let config = format!(
        "etcd: {{address: '{}'}}\napps:\n  shop: {{environment: production, advertise: {{etcd: /shop}}, settle: 0s, retry: 1h, check: {{script: 'test ! -e ill', tries: 1}}}}",
        etcd.url()
    );
    world.configure("h1", &config);
    etcd.put("/shop", "2.0");
    for _ in 0..2 {
        fs::write(world.path("h1/hold"), "").unwrap();
        let mut agent = Agent::start(&world, "h1");
        until_there(&world.path("h1/holding"));
        agent.child.kill().unwrap();
        agent.child.wait().unwrap();
        fs::remove_file(world.path("h1/hold")).unwrap();
        fs::remove_file(world.path("h1/holding")).ok();
    }
    fs::write(world.path("h1/ill"), "").unwrap();
    world.is_not_done(
        "h1",
        "failed",
        "the health check failed (exit status 1): it printed nothing; 1.0 is there again",
        "1.0",
    );
    fs::remove_file(world.path("h1/ill")).unwrap();
    fs::remove_dir_all(world.path("h1/var/lib/siskin/agent")).unwrap();

    fs::write(world.path("h1/hold"), "").unwrap();
    let mut agent = Agent::start(&world, "h1");
    until_there(&world.path("h1/holding"));
    agent.child.kill().unwrap();
    agent.child.wait().unwrap();
    fs::remove_file(world.path("h1/hold")).unwrap();
    world.converges("h1", "2.0");
}

#[test]
fn a_running_agent_follows_what_is_advertised_through_everything_that_goes_away() {
    let (world, mut consul) = (World::new(&["1.0", "2.0", "3.0", "4.0"]), Consul::start());
    world.host("h1", "1.0");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fs::write(world.path("token"), "t\n").unwrap();
    let config = format!(
        "server: {{url: 'http://{closed}', token_file: {}}}\nconsul: {{address: '{}'}}\napps:\n  shop: {{environment: production, advertise: {{consul: shop}}, settle: 0s}}",
        world.path("token").display(),
        consul.url()
    );
    let path = world.configure("h1", &config);
    let agent = Agent::start(&world, "h1");
    agent.says("nothing is advertised in shop in Consul");
    consul.put("kv/shop", "2.0");
    agent.says("shop: converged at 2.0");
    agent.says("what happens here can't be told");

    // A second one on the same host does not begin.
    let second = world.run("h1", &[]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another siskin agent is at work"));

    consul.kill();
    agent.says("shop stays as it is: Consul at");
    consul.run();
    consul.put("kv/shop", "3.0");
    agent.says("shop: converged at 3.0");

    // A broken file is said, and what it said before stays in force.
    fs::write(&path, "apps: [\n").unwrap();
    agent.says("what the file said before stays");
    // Nothing is begun when it could not be remembered.
    let state = world.path("h1/var/lib/siskin/agent/shop.json");
    fs::remove_file(&state).unwrap();
    fs::create_dir_all(state.join("in the way")).unwrap();
    consul.put("kv/shop", "4.0");
    agent.says("nothing is begun");
    assert_eq!(world.installed("h1").as_deref(), Some("3.0"));
    fs::remove_dir_all(&state).unwrap();
    agent.says("shop: converged at 4.0");
    let log = agent.log();
    assert_eq!(log.matches("what happens here can't be told").count(), 1, "{log}");
    assert!(agent.stop());
}

#[test]
fn a_version_in_the_servers_own_keys_is_followed_and_mistakes_in_the_file_are_all_told() {
    let world = World::new(&["1.0", "2.0"]);
    world.host("h1", "1.0");
    let server = Server::start(&[]);
    let config = format!(
        "server: {{url: '{}', token_file: {}}}\napps:\n  shop: {{environment: production, advertise: {{kv: '{{app}}/{{environment}}'}}, settle: SETTLE}}",
        server.url(),
        server.data().join("admin.token").display(),
    );
    world.configure("h1", &config.replace("SETTLE", "1h"));
    let (status, _) = server.ask("PUT", "/kv/shop/production", Some(&json!({"value": "2.0"})));
    assert_eq!(status, 200);
    // The server knows of no roll, so nothing is waited for.
    world.converges("h1", "2.0");

    fs::write(world.path("h1.yaml"), "every: never\napps: {shop: {}}\n").unwrap();
    let wrong = world.run("h1", &[]);
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert_eq!(wrong.status.code(), Some(2), "{said}");
    assert!(said.contains("every") && said.contains("needs `environment`"), "{said}");
}
