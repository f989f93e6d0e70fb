//! Workers come and go: killed, drained, started again, silent.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::json;

use super::stage::{PACK, Stage, action, is_alive, step, wait_until};
use crate::support::rabbitmq;
use crate::support::server::{PATIENCE, Server, siskin, until};
use crate::support::worker::{LEASE, Worker};

/// Notes that it began and where, then works until it is let go.
const WORK: &str = "echo \"$PWD\" >>\"$FOLDER/begun\"\necho $$ >\"$FOLDER/pid\"\nuntil test -e \"$FOLDER/go\"; do sleep 0.05; done\necho done >>\"$FOLDER/done\"";

fn stage(idempotent: bool) -> Stage {
    Stage::new(&[PACK, ("packs/local/actions/work.yaml", &action(idempotent, WORK))])
}

/// Begins the work, and says where.
fn begin(stage: &Stage) -> (i64, String) {
    let run = stage.start("local.work");
    (run, stage.wait_for_file("begun").trim().to_owned())
}

fn let_go(stage: &Stage) {
    fs::write(stage.path("go"), "").unwrap();
}

#[test]
fn what_a_killed_worker_did_is_lost_within_its_lease() {
    let stage = stage(false);
    let mut worker = stage.worker();
    let (run, _) = begin(&stage);
    let pid = stage.wait_for_file("pid");
    worker.kill();
    let ended = stage.server.wait_for_end(run);
    assert_eq!(ended["status"], "failed", "{ended}");
    assert_eq!(ended["error"]["kind"], "lost", "{ended}");
    let message = ended["error"]["message"].as_str().unwrap();
    assert!(message.contains(&worker.id()) && message.contains("silent"), "{message}");
    assert!(!is_alive(&pid));
}

#[test]
fn what_may_be_repeated_begins_again_at_another_worker() {
    let stage = stage(true);
    let mut workers = [stage.worker(), stage.worker()];
    let (run, place) = begin(&stage);
    let killed =
        workers.iter_mut().find(|worker| place.starts_with(&*worker.data().to_string_lossy())).unwrap();
    killed.kill();
    wait_until("it began again", || stage.read("begun").lines().count() == 2);
    let_go(&stage);
    let ended = stage.server.wait_for_end(run);
    assert_eq!(ended["status"], "succeeded", "{ended}");
    let begun = stage.read("begun");
    let places: Vec<&str> = begun.lines().collect();
    assert_ne!(places[0], places[1]);
    assert_eq!(stage.read("done"), "done\n");
}

#[test]
fn a_worker_that_is_started_again_has_lost_what_it_did_before() {
    let stage = stage(false);
    let mut worker = stage.worker();
    let id = worker.id();
    let (run, _) = begin(&stage);
    worker.kill();
    worker.run();
    let ended = stage.server.wait_for_end(run);
    assert_eq!((worker.id(), &ended["error"]["kind"]), (id, &json!("lost")), "{ended}");
    assert_eq!(stage.read("begun").lines().count(), 1);
}

#[test]
fn a_worker_that_is_asked_to_stop_finishes_what_it_does_and_takes_nothing_new() {
    let stage = stage(false);
    let mut worker = stage.worker();
    let (run, _) = begin(&stage);
    worker.signal(Signal::SIGTERM);
    wait_until("it is stopping", || worker.log().contains("takes nothing new"));
    let second = stage.start("local.work");
    let waits = |run: &serde_json::Value| run["waits"][0]["for"].as_str().is_some();
    // The one that stops still counts as alive; when it is gone, the second run says that nobody is there.
    assert!(worker.is_running());
    let_go(&stage);
    let first = stage.server.wait_for_end(run);
    assert_eq!(first["status"], "succeeded", "{first}");
    assert!(worker.wait().success());
    let waiting = stage.server.wait_for(&format!("/runs/{second}"), waits);
    assert_eq!(waiting["waits"][0]["for"], "a worker of pool default; none is there", "{waiting}");
    assert_eq!(stage.read("begun").lines().count(), 1);
    let _other = stage.worker();
    assert_eq!(stage.server.wait_for_end(second)["status"], "succeeded");
}

#[test]
fn a_worker_that_is_asked_twice_ends_at_once_and_what_it_did_is_lost() {
    let stage = stage(false);
    let mut worker = stage.worker();
    let (run, _) = begin(&stage);
    let pid = stage.wait_for_file("pid");
    worker.signal(Signal::SIGTERM);
    wait_until("it is stopping", || worker.log().contains("takes nothing new"));
    worker.signal(Signal::SIGTERM);
    assert!(worker.wait().success());
    assert!(!is_alive(&pid));
    let ended = stage.server.wait_for_end(run);
    assert_eq!(ended["error"]["kind"], "lost", "{ended}");
    assert!(ended["error"]["message"].as_str().unwrap().contains("was stopped"), "{ended}");
}

#[test]
fn a_worker_takes_no_more_than_it_has_slots_and_others_get_the_rest() {
    let stage = stage(false);
    let busy = Worker::start_with(&stage.broker, &["--slots", "1"]);
    let (run, place) = begin(&stage);
    assert!(place.starts_with(&*busy.data().to_string_lossy()));
    let more: Vec<i64> = (0..5).map(|_| stage.start("local.work")).collect();
    let _idle = Worker::start_with(&stage.broker, &["--slots", "5"]);
    wait_until("all have begun", || stage.read("begun").lines().count() == 6);
    let_go(&stage);
    for run in more.into_iter().chain([run]) {
        assert_eq!(stage.server.wait_for_end(run)["status"], "succeeded");
    }
}

#[test]
fn a_run_that_nobody_works_for_says_so_and_is_cancelled_at_once() {
    let stage = stage(false);
    let run = stage.start("local.work");
    let waits = |run: &serde_json::Value| run["waits"][0]["for"] == "a worker of pool default; none is there";
    stage.server.wait_for(&format!("/runs/{run}"), waits);
    stage.server.post(&format!("/runs/{run}/cancel"), &json!({}));
    assert_eq!(stage.server.wait_for_end(run)["status"], "cancelled");
    // Its message is still in the queue; whoever takes it is told no.
    let worker = stage.worker();
    let_go(&stage);
    assert_eq!(stage.run("local.work")["status"], "succeeded");
    assert_eq!(stage.read("begun").lines().count(), 1, "{}", worker.log());
}

#[test]
fn the_workspaces_of_a_run_go_when_it_has_ended_also_those_of_a_worker_that_was_away() {
    let stage = stage(false);
    let (mut away, place) = {
        let worker = stage.worker();
        let (_run, place) = begin(&stage);
        (worker, place)
    };
    let workspace = std::path::PathBuf::from(&place);
    assert!(workspace.starts_with(away.data()) && workspace.exists());
    away.kill();
    let_go(&stage);
    // Lost; the run ends while its worker is away.
    wait_until("it is lost", || {
        stage.server.get("/runs?status=failed")["items"].as_array().unwrap().len() == 1
    });
    assert!(workspace.exists());
    away.run();
    wait_until("the workspace is gone", || !workspace.exists());
    let run = stage.run("local.work");
    assert_eq!(run["status"], "succeeded", "{run}");
    let left = || fs::read_dir(away.data().join("workspaces")).unwrap().count();
    wait_until("the other is gone too", || left() == 0);
}

#[test]
fn a_server_that_is_killed_finds_its_workers_at_work_and_loses_nothing() {
    let mut stage = stage(false);
    let _worker = stage.worker();
    let (run, _) = begin(&stage);
    stage.server.kill();
    stage.server.run();
    let shown = stage.server.get(&format!("/runs/{run}"));
    assert_eq!(step(&shown, "work")["status"], "running", "{shown}");
    stage.server.kill();
    // The outcome comes while no server is there.
    let_go(&stage);
    stage.wait_for_file("done");
    stage.server.run();
    let ended = stage.server.wait_for_end(run);
    assert_eq!(ended["status"], "succeeded", "{ended}");
    assert_eq!(stage.read("begun").lines().count(), 1);
}

#[test]
fn a_server_with_a_broker_works_itself_too_and_holds_no_work_of_its_own_up_when_it_stops() {
    let work = action(true, WORK);
    let arguments = ["--broker", &rabbitmq::shared(), "--lease", LEASE].map(str::to_owned);
    let mut server = Server::start_with(&[PACK, ("packs/local/actions/work.yaml", &work)], &arguments);
    let folder = tempfile::tempdir().unwrap();
    let start = || server.post("/runs", &json!({"run": "local.work", "with": {"folder": folder.path()}}));
    let run = start()["id"].as_i64().unwrap();
    let begun = || fs::read_to_string(folder.path().join("begun")).unwrap_or_default().lines().count();
    wait_until("it began", || begun() == 1);
    assert!(server.stop().success());
    fs::write(folder.path().join("go"), "").unwrap();
    server.run();
    let ended = server.wait_for_end(run);
    assert_eq!((&ended["status"], begun()), (&json!("succeeded"), 2), "{ended}");
}

#[test]
fn a_worker_says_what_is_wrong_with_the_broker_and_goes_on_trying() {
    let broker = rabbitmq::shared();
    let wrong = broker.replace("test:test@", "test:wrong@");
    for (address, said) in [
        (wrong.as_str(), "refuses the user or the password"),
        ("amqp://test:test@127.0.0.1:1", "can't be reached"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut child = siskin()
            .args(["worker", "--broker", address, "--data"])
            .arg(folder.path().join("data"))
            .stderr(log)
            .spawn()
            .unwrap();
        let read = || fs::read_to_string(folder.path().join("log")).unwrap();
        let seen = until(PATIENCE, || read().contains(said).then_some(()));
        let log = read();
        assert!(child.try_wait().unwrap().is_none(), "{log}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(seen.is_some() && log.contains("trying again"), "{log}");
        assert!(!log.contains("test:wrong") && !log.contains("test:test"), "{log}");
    }
}
