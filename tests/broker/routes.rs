//! Which worker does what: pools, labels, the same one again.

use std::fs;

use serde_json::{Value, json};

use super::stage::{Stage, step};
use crate::support::server::Server;
use crate::support::worker::Worker;

fn workflow(worker: &str) -> String {
    format!(
        "input: {{folder: string}}\nsteps:\n  - id: work\n    shell: echo \"$PWD\" >>\"$FOLDER/where\"\n    env: {{FOLDER: \"{{{{ input.folder }}}}\"}}\n    worker: {worker}\n"
    )
}

fn is_at(place: &str, worker: &Worker) -> bool {
    place.starts_with(&*worker.data().to_string_lossy())
}

fn waits_for(stage: &Stage, run: i64, what: &str) {
    let waits = |run: &Value| run["waits"][0]["for"].as_str().is_some_and(|why| why.contains(what));
    stage.server.wait_for(&format!("/runs/{run}"), waits);
}

#[test]
fn an_attempt_goes_to_its_pool_and_waits_for_one_who_takes_from_it() {
    let stage = Stage::new(&[("workflows/w.yaml", &workflow("{pool: gpu}"))]);
    let _default = stage.worker();
    let run = stage.start("site.w");
    waits_for(&stage, run, "a worker of pool gpu");
    let gpu = Worker::start_with(&stage.broker, &["--pool", "gpu"]);
    assert_eq!(stage.server.wait_for_end(run)["status"], "succeeded");
    assert!(is_at(&stage.read("where"), &gpu));
}

#[test]
fn an_attempt_with_labels_waits_for_a_worker_that_has_them_all() {
    let stage = Stage::new(&[("workflows/w.yaml", &workflow("{labels: {arch: arm, disk: fast}}"))]);
    let _plain = stage.worker();
    let _half = Worker::start_with(&stage.broker, &["--label", "arch=arm"]);
    let run = stage.start("site.w");
    waits_for(&stage, run, "the labels arch=arm disk=fast");
    let both =
        Worker::start_with(&stage.broker, &["--label", "arch=arm", "--label", "disk=fast", "--slots", "1"]);
    assert_eq!(stage.server.wait_for_end(run)["status"], "succeeded");
    assert!(is_at(&stage.read("where"), &both));
    // One slot, many that want it: each gets its turn.
    let runs: Vec<i64> = (0..5).map(|_| stage.start("site.w")).collect();
    for run in runs {
        assert_eq!(stage.server.wait_for_end(run)["status"], "succeeded");
    }
    assert!(stage.read("where").lines().all(|place| is_at(place, &both)));
    // Cancelled while nobody has the labels: ends at once.
    drop(both);
    let run = stage.start("site.w");
    waits_for(&stage, run, "the labels");
    stage.server.post(&format!("/runs/{run}/cancel"), &json!({}));
    assert_eq!(stage.server.wait_for_end(run)["status"], "cancelled");
}

#[test]
fn without_a_broker_labels_count_too() {
    let files = [("workflows/w.yaml", &*workflow("{labels: {arch: arm}}"))];
    let folder = tempfile::tempdir().unwrap();
    let start = |server: &Server| {
        let with = json!({"folder": folder.path()});
        server.post("/runs", &json!({"run": "site.w", "with": with}))["id"].as_i64().unwrap()
    };
    let server = Server::start_with(&files, &[]);
    let run = start(&server);
    let waits = |run: &Value| run["waits"][0]["for"] == "a worker with the labels arch=arm";
    server.wait_for(&format!("/runs/{run}"), waits);
    server.post(&format!("/runs/{run}/cancel"), &json!({}));
    assert_eq!(server.wait_for_end(run)["status"], "cancelled");
    let server = Server::start_with(&files, &["--label".to_owned(), "arch=arm".to_owned()]);
    assert_eq!(server.wait_for_end(start(&server))["status"], "succeeded");
}

const SAME: &str = "input: {folder: string}\nsteps:\n  - id: make\n    shell: echo made >file; echo \"$PWD\" >\"$FOLDER/where\"\n    env: {FOLDER: \"{{ input.folder }}\"}\n  - id: pause\n    wait_for: {trigger: go}\n  - id: use\n    shell: cat file; echo \"$PWD\" >>\"$FOLDER/where\"\n    env: {FOLDER: \"{{ input.folder }}\"}\n    worker: {same_as: make}\n";

#[test]
fn a_step_that_wants_the_same_worker_finds_its_workspace() {
    let stage = Stage::new(&[("workflows/w.yaml", SAME), ("triggers/go.yaml", "description: d\n")]);
    let _workers = [stage.worker(), stage.worker(), stage.worker()];
    let run = stage.start("site.w");
    stage.server.wait_for(&format!("/runs/{run}"), |run| step(run, "pause")["status"] == "waiting");
    stage.server.post("/events", &json!({"trigger": "site.go", "payload": {}}));
    let ended = stage.server.wait_for_end(run);
    assert_eq!(ended["status"], "succeeded", "{ended}");
    let places = fs::read_to_string(stage.path("where")).unwrap();
    let places: Vec<&str> = places.lines().collect();
    assert_eq!(places[0], places[1]);
}

#[test]
fn a_step_that_wants_a_worker_that_is_gone_is_lost() {
    let stage = Stage::new(&[("workflows/w.yaml", SAME), ("triggers/go.yaml", "description: d\n")]);
    let mut first = stage.worker();
    let run = stage.start("site.w");
    stage.server.wait_for(&format!("/runs/{run}"), |run| step(run, "pause")["status"] == "waiting");
    first.kill();
    let _other = stage.worker();
    stage.server.post("/events", &json!({"trigger": "site.go", "payload": {}}));
    let ended = stage.server.wait_for_end(run);
    assert_eq!(step(&ended, "use")["status"], "lost", "{ended}");
    assert!(step(&ended, "use")["error"]["message"].as_str().unwrap().contains(&first.id()), "{ended}");
}
