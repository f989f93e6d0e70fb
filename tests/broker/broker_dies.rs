//! What stands when the broker is killed, or is not there.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use siskin::amqp::Connection;

use super::stage::{PACK, Stage, action, arguments, is_alive, wait_until};
use crate::support::rabbitmq::Private;
use crate::support::server::Server;
use crate::support::worker::Worker;

/// Notes its run, so that it is seen how often each was done.
const NOTE: &str = "echo \"$SISKIN_RUN\" >>\"$FOLDER/done\"";

fn files(work: &str) -> Vec<(&str, &str)> {
    vec![PACK, ("packs/local/actions/work.yaml", work)]
}

/// RabbitMQ 3.10 often comes back without a leader for queues that are younger than some seconds.
#[test]
fn a_broker_that_is_killed_when_its_queues_are_new_loses_and_doubles_nothing() {
    killed_under_load(Duration::ZERO);
}

#[test]
fn a_broker_that_is_killed_under_load_loses_and_doubles_nothing() {
    killed_under_load(Duration::from_secs(3));
}

/// Kills the broker while its queues, which are of that `age`, are worked through.
fn killed_under_load(age: Duration) {
    let mut broker = Private::start();
    let work = action(false, NOTE);
    let stage = Stage::over(&broker.url(), &files(&work));
    let workers = [stage.worker(), stage.worker()];
    let since = Instant::now();
    wait_until("the queues are old enough", || since.elapsed() >= age);
    let mut runs: BTreeSet<i64> = (0..40).map(|_| stage.start("local.work")).collect();
    wait_until("some are done", || !stage.read("done").is_empty());
    broker.kill();
    let killed = Instant::now();
    // They wait in the store.
    runs.extend((0..20).map(|_| stage.start("local.work")));
    broker.run();
    // What a worker was at is lost, as promised, when a busy machine brings the broker back only after the lease.
    let may_be_lost = killed.elapsed() > Duration::from_secs(5);
    runs.extend((0..20).map(|_| stage.start("local.work")));
    let mut lost = BTreeSet::new();
    for run in &runs {
        let ended = stage.server.wait_for_end(*run);
        let logs = || workers.iter().map(Worker::log).collect::<String>();
        if may_be_lost && ended["error"]["kind"] == "lost" {
            lost.insert(*run);
            continue;
        }
        assert_eq!(ended["status"], "succeeded", "{ended}\n{}\n{}", stage.server.log(), logs());
    }
    let done: Vec<i64> = stage.read("done").lines().map(|line| line.parse().unwrap()).collect();
    let once: BTreeSet<i64> = done.iter().copied().collect();
    assert_eq!(done.len(), once.len(), "some were done twice");
    assert!(runs.iter().all(|run| once.contains(run) || lost.contains(run)), "{once:?}");
}

#[test]
fn without_the_broker_runs_wait_and_say_so_and_go_on_when_it_is_there() {
    let mut broker = Private::start();
    let url = broker.url();
    broker.kill();
    let work = action(false, NOTE);
    let server = Server::start_with(&files(&work), &arguments(&url));
    let folder = tempfile::tempdir().unwrap();
    let started = server.post("/runs", &json!({"run": "local.work", "with": {"folder": folder.path()}}));
    let run = started["id"].as_i64().unwrap();
    let says = |run: &Value| {
        run["waits"][0]["for"]
            .as_str()
            .is_some_and(|why| why.starts_with("the broker: ") && why.contains("can't be reached"))
    };
    server.wait_for(&format!("/runs/{run}"), says);
    let ready: Value = serde_json::from_str(
        &reqwest::blocking::get(format!("{}/readyz", server.url())).unwrap().text().unwrap(),
    )
    .unwrap();
    assert_eq!(ready["missing"], json!(["the broker"]), "{ready}");
    broker.run();
    let _worker = Worker::start(&url);
    let ended = server.wait_for_end(run);
    assert_eq!(ended["status"], "succeeded", "{ended}");
}

#[test]
fn a_worker_without_the_broker_ends_what_it_does_after_its_lease_and_says_so_when_it_is_back() {
    let mut broker = Private::start();
    let work = action(false, "echo $$ >\"$FOLDER/pid\"\nsleep 1000");
    let stage = Stage::over(&broker.url(), &files(&work));
    let worker = stage.worker();
    let run = stage.start("local.work");
    let pid = stage.wait_for_file("pid");
    broker.kill();
    wait_until("its processes are ended", || !is_alive(&pid));
    assert!(worker.log().contains("ended: no server could be told"), "{}", worker.log());
    // The server has no broker either: it calls nothing lost before it could hear of it.
    let shown = stage.server.get(&format!("/runs/{run}"));
    assert_eq!(shown["status"], "running", "{shown}");
    broker.run();
    let ended = stage.server.wait_for_end(run);
    assert_eq!(ended["error"]["kind"], "lost", "{ended}\n{}", worker.log());
}

#[test]
fn what_was_done_while_the_broker_was_away_is_told_when_it_is_back() {
    let mut broker = Private::start();
    let work = action(
        false,
        "echo begun >\"$FOLDER/begun\"\nuntil test -e \"$FOLDER/go\"; do sleep 0.05; done\necho \"said alone\"\necho done >>\"$FOLDER/done\"",
    );
    let stage = Stage::over(&broker.url(), &files(&work));
    // A lease that outlasts the time without the broker.
    let worker = Worker::start_with(&stage.broker, &["--slots", "2", "--drain", "1m"]);
    let run = stage.start("local.work");
    stage.wait_for_file("begun");
    broker.kill();
    fs::write(stage.path("go"), "").unwrap();
    stage.wait_for_file("done");
    broker.run();
    let ended = stage.server.wait_for_end(run);
    assert_eq!(ended["status"], "succeeded", "{ended}\n{}", worker.log());
    assert_eq!(stage.log_of(run).matches("said alone").count(), 1);
}

/// As a broker that was killed may do, and people.
fn take_away(queue: &str, broker: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connection = Connection::open(&broker.parse().unwrap(), "a test").await.unwrap();
        connection.channel().await.unwrap().delete(queue).await.unwrap();
        connection.close().await;
    });
}

#[test]
fn attempts_that_the_broker_took_and_lost_are_sent_again() {
    let work = action(false, NOTE);
    let stage = Stage::new(&[PACK, ("packs/local/actions/work.yaml", &work)]);
    let worker = stage.worker();
    assert_eq!(stage.run("local.work")["status"], "succeeded");
    // Nobody takes them while they are lost.
    worker.signal(Signal::SIGSTOP);
    let runs = [(); 5].map(|()| stage.start("local.work"));
    wait_until("they are with the broker", || {
        stage.server.get("/runs?status=running")["items"].as_array().unwrap().len() == runs.len()
    });
    take_away("siskin.pool.default", &stage.broker);
    worker.signal(Signal::SIGCONT);
    for run in runs {
        let ended = stage.server.wait_for_end(run);
        assert_eq!(ended["status"], "succeeded", "{ended}\n{}\n{}", stage.server.log(), worker.log());
    }
    assert_eq!(stage.read("done").lines().count(), 1 + runs.len());
}
