//! Two servers on one database: what one does, the other sees; what one leaves behind, the other takes up.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::kill::processes::about;
use crate::support::postgres;
use crate::support::server::{PATIENCE, Server, client, siskin, until};

/// What is heard comes at once; what was missed is found by looking, later than this.
const AT_ONCE: Duration = Duration::from_secs(5);
/// What a server that died had is taken up by then.
const TAKEN_UP: Duration = Duration::from_secs(30);

const ONCE: &str = "description: Works.
input:
  folder: string
steps:
  - id: work
    shell: |
      echo $$ >>\"$FOLDER/begun\"
      test -e \"$FOLDER/quick\" || sleep 1000
    env: {FOLDER: \"{{ input.folder }}\"}
";
const ACTION: &str = "description: Works, and may be repeated.
runner: shell
input:
  folder: string
idempotent: true
shell:
  script: |
    echo $$ >>\"$FOLDER/begun_again\"
    test -e \"$FOLDER/quick\" || sleep 1000
  env: {FOLDER: \"{{ input.folder }}\"}
";
const AGAIN: &str = "description: Works.
input:
  folder: string
steps:
  - id: work
    run: local.work
    with: {folder: \"{{ input.folder }}\"}
";
const FILES: [(&str, &str); 8] = [
    ("workflows/once.yaml", ONCE),
    ("packs/local/pack.yaml", "description: For the tests.\n"),
    ("packs/local/actions/work.yaml", ACTION),
    ("workflows/again.yaml", AGAIN),
    ("workflows/nap.yaml", "description: Sleeps.\nsteps:\n  - id: nap\n    sleep: 2s\n"),
    (
        "workflows/ask.yaml",
        "description: Asks.\nsteps:\n  - id: ask\n    approve: {ask: \"May it?\", of: [admin], distinct_from: none, timeout: 1h}\n",
    ),
    (
        "workflows/wait.yaml",
        "description: Waits.\nsteps:\n  - id: wait\n    wait_for: {trigger: github.ping, when: event.zen == \"go\", timeout: 1h}\n",
    ),
    (
        "rules/push.yaml",
        "description: Every push is counted.\ntrigger: github.push\nrun: core.echo\nwith: {value: \"{{ event.after }}\"}\n",
    ),
];

/// Two servers on a schema of their own, and a folder that their actions know.
struct Scene {
    one: Server,
    other: Server,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let one = Server::start_on(&FILES, &postgres::new_schema());
        let other = one.join(&FILES);
        Scene { one, other, folder: tempfile::Builder::new().prefix("siskin-cluster-").tempdir().unwrap() }
    }

    fn start(&self, server: &Server, what: &str) -> i64 {
        let with = match what {
            "site.once" | "site.again" => json!({"folder": self.folder.path()}),
            _ => json!({}),
        };
        server.post("/runs", &json!({"run": what, "with": with}))["id"].as_i64().unwrap()
    }

    fn wait_for_lines(&self, name: &str, count: usize) {
        let path = self.folder.path().join(name);
        let found = until(PATIENCE, || (lines(&path) >= count).then_some(()));
        assert!(found.is_some(), "{name} never had {count} lines\n{}\n{}", self.one.log(), self.other.log());
    }

    fn let_work_be_quick(&self) {
        fs::write(self.folder.path().join("quick"), "").unwrap();
    }
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

fn push(server: &Server, after: &str) -> i64 {
    let payload = json!({"after": after, "ref": "refs/heads/main", "repository": {"name": "shop", "full_name": "acme/shop"}});
    let sent = server.post("/events", &json!({"trigger": "github.push", "payload": payload}));
    sent["event"].as_i64().unwrap()
}

/// The runs that an event started, once it has been routed; how long that took.
fn routed(server: &Server, event: i64) -> (Value, Duration) {
    let begin = Instant::now();
    let found = server.wait_for(&format!("/events/{event}"), |event| !event["routed_at"].is_null());
    (found, begin.elapsed())
}

fn step<'a>(run: &'a Value, id: &str) -> &'a Value {
    run["steps"].as_array().unwrap().iter().find(|step| step["id"] == id).unwrap()
}

#[test]
fn what_one_server_does_the_other_sees_at_once() {
    let scene = Scene::new();
    // Events come in at either, one of them routes, and both show what came of it.
    for (number, server) in [&scene.one, &scene.other, &scene.one, &scene.other].into_iter().enumerate() {
        let event = push(server, &number.to_string());
        let (event, took) = routed(&scene.other, event);
        assert!(took < AT_ONCE, "{took:?}");
        assert_eq!(event["matches"].as_array().unwrap().len(), 1, "{event}");
    }
    // Who watches at one sees what ends at the other.
    let stream = format!("{}/api/v1/stream", scene.other.url());
    let watching = client().get(stream).bearer_auth(scene.other.token()).send().unwrap();
    let run = scene.start(&scene.one, "site.nap");
    let begin = Instant::now();
    let wanted = json!({"run": run, "ended": true}).to_string();
    let mut seen = BufReader::new(watching).lines();
    assert!(seen.any(|line| line.unwrap().contains(&wanted)));
    assert!(begin.elapsed() < AT_ONCE + Duration::from_secs(2), "{:?}", begin.elapsed());
    // A rule that is switched off at one is off wherever events are routed.
    scene.other.post("/rules/site.push/disable", &json!({"why": "test"}));
    std::thread::sleep(Duration::from_millis(200));
    for server in [&scene.one, &scene.other] {
        let (event, _) = routed(server, push(server, "off"));
        assert_eq!(event["matches"], json!([]), "{event}");
    }
    // A run that is at work at one is cancelled at the other: its process ends.
    let run = scene.start(&scene.one, "site.once");
    scene.wait_for_lines("begun", 1);
    let begin = Instant::now();
    scene.other.post(&format!("/runs/{run}/cancel"), &json!({}));
    assert_eq!(scene.other.wait_for_end(run)["status"], "cancelled");
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    assert!(about(scene.folder.path()).is_empty(), "{:?}", about(scene.folder.path()));
}

#[test]
fn the_definitions_of_one_server_are_in_force_at_both() {
    let scene = Scene::new();
    let starts = |server: &Server| server.ask("POST", "/runs", Some(&json!({"run": "site.new"}))).0 == 201;
    assert!(!starts(&scene.one) && !starts(&scene.other));
    // The folder of the server that has no say changes nothing.
    let text = "description: New.\nsteps:\n  - id: a\n    run: core.noop\n";
    scene.one.write("workflows/new.yaml", text);
    let found = until(PATIENCE, || (starts(&scene.one) && starts(&scene.other)).then_some(()));
    assert!(found.is_some(), "{}\n{}", scene.one.log(), scene.other.log());
    // Also for one that comes later, with a folder of its own.
    let third = scene.one.join(&[]);
    assert!(starts(&third));
}

#[test]
fn a_server_that_joins_others_without_their_key_is_refused_with_what_to_do() {
    let database = postgres::new_schema();
    let _one = Server::start_on(&[], &database);
    let data = tempfile::tempdir().unwrap();
    let refused = siskin()
        .args(["serve", "--listen", "127.0.0.1:0", "--site"])
        .arg(data.path())
        .arg("--data")
        .arg(data.path().join("data"))
        .env("SISKIN_DATABASE", &database)
        .output()
        .unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("copy it from another server"), "{told}");
}

#[test]
fn what_a_killed_server_had_begun_goes_on_at_the_other() {
    let mut scene = Scene::new();
    let once = scene.start(&scene.one, "site.once");
    let again = scene.start(&scene.one, "site.again");
    let [nap, ask, wait] = ["site.nap", "site.ask", "site.wait"].map(|what| scene.start(&scene.one, what));
    let elsewhere = scene.start(&scene.other, "site.again");
    scene.wait_for_lines("begun", 1);
    scene.wait_for_lines("begun_again", 2);
    scene.other.wait_for(&format!("/runs/{wait}"), |run| !run["waits"].as_array().unwrap().is_empty());
    let killed = Instant::now();
    scene.one.kill();

    let other = &scene.other;
    other.wait_for("/approvals?status=waiting", |found| found["items"].as_array().unwrap().len() == 1);
    let asked = other.get(&format!("/approvals?run={ask}"))["items"][0]["id"].as_i64().unwrap();
    other.post(&format!("/approvals/{asked}/approve"), &json!({}));
    assert_eq!(other.wait_for_end(ask)["status"], "succeeded");
    other.post("/events", &json!({"trigger": "github.ping", "payload": {"zen": "go"}}));
    assert_eq!(other.wait_for_end(wait)["status"], "succeeded");
    assert_eq!(other.wait_for_end(nap)["status"], "succeeded");
    assert!(killed.elapsed() < TAKEN_UP, "{:?}", killed.elapsed());

    let ended = other.wait_for_end(once);
    assert_eq!(step(&ended, "work")["status"], "lost", "{ended}");
    assert_eq!(lines(&scene.folder.path().join("begun")), 1);
    // What may be repeated begins again, here; what was here all the time does not.
    scene.wait_for_lines("begun_again", 3);
    assert!(killed.elapsed() < TAKEN_UP, "{:?}", killed.elapsed());
    other.post(&format!("/runs/{elsewhere}/cancel"), &json!({}));
    scene.let_work_be_quick();
    other.post(&format!("/runs/{again}/cancel"), &json!({}));
    assert_eq!(other.wait_for_end(again)["status"], "cancelled");
    // The killed one comes back, and is as good as before.
    scene.one.run();
    assert_eq!(scene.one.run_to_end("core.noop", json!({}))["status"], "succeeded");
    assert_eq!(lines(&scene.folder.path().join("begun_again")), 3);
}

#[test]
fn a_server_that_was_taken_for_dead_while_it_was_paused_does_no_harm() {
    let scene = Scene::new();
    let run = scene.start(&scene.one, "site.once");
    scene.wait_for_lines("begun", 1);
    scene.one.signal(Signal::SIGSTOP);
    let ended = scene.other.wait_for_end(run);
    assert_eq!(step(&ended, "work")["status"], "lost", "{ended}");
    scene.one.signal(Signal::SIGCONT);
    let gone = until(PATIENCE, || about(scene.folder.path()).is_empty().then_some(()));
    assert!(gone.is_some(), "{}", scene.one.log());
    assert_eq!(scene.one.get(&format!("/runs/{run}")), scene.other.get(&format!("/runs/{run}")));
    assert_eq!(scene.one.run_to_end("core.noop", json!({}))["status"], "succeeded");
    assert!(scene.one.log().contains("took this one for dead"), "{}", scene.one.log());
}

#[test]
fn a_server_that_stops_gives_its_part_to_the_other_at_once() {
    let mut scene = Scene::new();
    let again = scene.start(&scene.one, "site.again");
    scene.wait_for_lines("begun_again", 1);
    assert!(scene.one.stop().success());
    let stopped = Instant::now();
    let (event, _) = routed(&scene.other, push(&scene.other, "x"));
    assert_eq!(event["matches"].as_array().unwrap().len(), 1, "{event}");
    scene.wait_for_lines("begun_again", 2);
    assert!(stopped.elapsed() < AT_ONCE, "{:?}", stopped.elapsed());
    scene.other.post(&format!("/runs/{again}/cancel"), &json!({}));
    scene.other.wait_for_end(again);
}
