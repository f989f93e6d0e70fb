//! The database dies and comes back under load.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::kill::intake::{Answers, RULE, SECRET, assert_all_are_there_once, send};
use crate::support::postgres::Private;
use crate::support::server::{PATIENCE, Server, client, until};

const ROUNDS: u32 = 3;
const SENDERS: u64 = 6;

fn ready(server: &Server) -> (u16, String) {
    let answer = client().get(format!("{}/readyz", server.url())).send().unwrap();
    (answer.status().as_u16(), answer.text().unwrap())
}

#[test]
fn what_was_answered_is_there_once_whenever_the_database_is_killed() {
    let mut database = Private::start();
    let files = [
        ("rules/count.yaml", RULE),
        ("workflows/nap.yaml", "description: Sleeps.\nsteps:\n  - id: nap\n    shell: sleep 1000\n"),
    ];
    let one = Server::start_on(&files, &database.url());
    one.set_secret("github_webhook", SECRET);
    let other = one.join(&files);
    // What is at work does not end because the database is away for a moment.
    let nap = one.post("/runs", &json!({"run": "site.nap"}))["id"].as_i64().unwrap();
    one.wait_for(&format!("/runs/{nap}"), |run| run["steps"][0]["status"] == "running");
    let (stop, answers) = (AtomicBool::new(false), Mutex::new(Answers::new()));
    let urls = [Mutex::new(one.url()), Mutex::new(other.url())];
    let sent_again = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let (url, stop, answers) = (&urls[sender as usize % 2], &stop, &answers);
                scope.spawn(move || send(sender, url, stop, answers))
            })
            .collect();
        for _ in 0..ROUNDS {
            std::thread::sleep(Duration::from_millis(400));
            database.kill();
            let away = until(PATIENCE, || Some(ready(&one)).filter(|(status, _)| *status == 503));
            assert!(away.unwrap().1.contains("the store"));
            database.run();
            let back = until(PATIENCE, || (ready(&one).0 == 200 && ready(&other).0 == 200).then_some(()));
            assert!(back.is_some(), "{}\n{}", one.log(), other.log());
        }
        stop.store(true, Ordering::SeqCst);
        senders.into_iter().map(|sender| sender.join().unwrap()).sum::<u64>()
    });
    let answers: BTreeMap<_, _> = answers.into_inner().unwrap();
    assert!(sent_again > 0, "no delivery was refused");
    assert_eq!(one.get(&format!("/runs/{nap}"))["status"], "running");
    one.post(&format!("/runs/{nap}/cancel"), &json!({}));
    one.wait_for_end(nap);
    assert_all_are_there_once(&one, &answers, &[nap]);
    assert!(!one.log().contains("panicked"), "{}", one.log());
}

#[test]
fn a_server_waits_for_its_database_at_start() {
    let mut database = Private::start();
    database.kill();
    let url = database.url();
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| Server::start_on(&[], &url));
        std::thread::sleep(Duration::from_millis(500));
        database.run();
        let server = starting.join().unwrap();
        assert_eq!(server.run_to_end("core.noop", json!({}))["status"], "succeeded");
        assert!(server.log().contains("waiting for the database"), "{}", server.log());
    });
}

#[test]
fn a_database_that_is_away_for_a_minute_refuses_what_is_new_and_forgets_nothing() {
    let mut database = Private::start();
    let files = [
        ("triggers/count.yaml", "description: d\n"),
        (
            "rules/count.yaml",
            "description: Counts.\ntrigger: count\nrun: core.echo\nwith: {value: '{{ event.number }}'}\n",
        ),
        (
            "workflows/nap.yaml",
            "description: Sleeps, and goes on.\nsteps:\n  - {id: nap, shell: sleep 5}\n  - {id: pause, sleep: 20s}\n  - {id: last, run: core.noop}\n",
        ),
    ];
    let server = Server::start_on(&files, &database.url());
    let send = |number: u32| {
        let event = json!({"trigger": "site.count", "payload": {"number": number}});
        server.ask("POST", "/events", Some(&event))
    };
    let mut accepted: Vec<i64> = (0..5).map(|number| send(number).1["event"].as_i64().unwrap()).collect();
    // One step ends while the database is away, and of another run the time comes.
    let run = server.post("/runs", &json!({"run": "site.nap"}))["id"].as_i64().unwrap();
    server.wait_for(&format!("/runs/{run}"), |run| run["steps"][0]["status"] == "running");
    database.kill();
    let began = std::time::Instant::now();
    let mut refused = 0;
    while began.elapsed() < Duration::from_secs(60) {
        let asked = std::time::Instant::now();
        let (status, problem) = send(100);
        assert_eq!(status, 503, "{problem}");
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        refused += 1;
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(refused > 5);
    database.run();
    let back = until(PATIENCE, || Some(send(5)).filter(|(status, _)| *status < 300));
    accepted.push(back.unwrap().1["event"].as_i64().unwrap());
    assert_eq!(server.wait_for_end(run)["status"], "succeeded");
    for event in &accepted {
        let event = server.wait_for(&format!("/events/{event}"), |event| event["matches"][0]["run"].is_i64());
        assert_eq!(server.wait_for_end(event["matches"][0]["run"].as_i64().unwrap())["status"], "succeeded");
    }
    let events = server.get("/events?trigger=site.count&limit=500");
    assert_eq!(events["items"].as_array().unwrap().len(), accepted.len());
}
