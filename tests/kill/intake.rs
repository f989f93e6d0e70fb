//! Deliveries while the server is killed: what was answered is there, once; what was not may be sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::Dice;
use crate::support::server::{PATIENCE, Server, client, github_signature, until};

const ROUNDS: u64 = 10;
const SENDERS: u64 = 6;
pub(crate) const SECRET: &str = "kept between us";
pub(crate) const RULE: &str = "description: Every push is counted.\ntrigger: github.push\nrun: core.echo\nwith: {value: \"{{ event.after }}\"}\n";

/// What was heard of a delivery: the event, by its id.
pub(crate) type Answers = BTreeMap<String, i64>;

fn server() -> Server {
    let server = Server::start(&[("rules/count.yaml", RULE)]);
    server.set_secret("github_webhook", SECRET);
    server
}

fn body(delivery: &str) -> Vec<u8> {
    let repository = json!({"name": "shop", "full_name": "acme/shop"});
    json!({"ref": "refs/heads/main", "after": delivery, "repository": repository}).to_string().into_bytes()
}

/// The event, when the server says that it has it.
fn deliver(http: &reqwest::blocking::Client, url: &str, delivery: &str) -> Option<i64> {
    let body = body(delivery);
    let answer = http
        .post(format!("{url}/hooks/github"))
        .header("Content-Type", "application/json")
        .header("X-GitHub-Event", "push")
        .header("X-GitHub-Delivery", delivery)
        .header("X-Hub-Signature-256", github_signature(SECRET, &body))
        .body(body)
        .send()
        .ok()?;
    let status = answer.status().as_u16();
    // Whoever is refused for a while, or cut off, sends again.
    if ![200, 202].contains(&status) {
        assert!(status == 429 || status >= 500, "{status}");
        return None;
    }
    serde_json::from_str::<Value>(&answer.text().ok()?).ok()?["event"].as_i64()
}

#[test]
fn what_was_answered_is_there_once_whenever_the_server_is_killed() {
    let mut server = server();
    let url = Mutex::new(server.url());
    let (stop, answers) = (AtomicBool::new(false), Mutex::new(Answers::new()));
    let sent_again = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let (url, stop, answers) = (&url, &stop, &answers);
                scope.spawn(move || send(sender, url, stop, answers))
            })
            .collect();
        let mut dice = Dice::new(11);
        for _ in 0..ROUNDS {
            std::thread::sleep(Duration::from_millis(30 + dice.roll(300)));
            server.kill();
            server.run();
            *url.lock().unwrap() = server.url();
        }
        stop.store(true, Ordering::SeqCst);
        senders.into_iter().map(|sender| sender.join().unwrap()).sum::<u64>()
    });
    let answers = answers.into_inner().unwrap();
    println!("{} deliveries over {ROUNDS} kills, {sent_again} sent again", answers.len());
    assert!(sent_again > 0, "no delivery was cut off");
    assert_all_are_there_once(&server, &answers, &[]);

    // Also much later, and of another start of the server, a known delivery is the event that it was.
    for (delivery, event) in answers.iter().step_by(answers.len() / 20 + 1) {
        assert_eq!(deliver(&client(), &server.url(), delivery), Some(*event));
    }
    assert_all_are_there_once(&server, &answers, &[]);
}

/// Sends deliveries one after another until it is told to stop; each until it is answered. Says how many had to be sent again.
pub(crate) fn send(sender: u64, url: &Mutex<String>, stop: &AtomicBool, answers: &Mutex<Answers>) -> u64 {
    let http = client();
    let mut sent_again = 0;
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let delivery = format!("delivery-{sender}-{number}");
        let mut first = true;
        let event = until(PATIENCE, || {
            let now = url.lock().unwrap().clone();
            let event = deliver(&http, &now, &delivery);
            if event.is_none() && std::mem::take(&mut first) {
                sent_again += 1;
            }
            event
        });
        answers.lock().unwrap().insert(delivery, event.unwrap());
        std::thread::sleep(Duration::from_millis(10));
    }
    sent_again
}

/// Each delivery that was answered is one event, and started one run; `others` are runs that no event started.
pub(crate) fn assert_all_are_there_once(server: &Server, answers: &Answers, others: &[i64]) {
    let events = all(server, "/events?trigger=github.push");
    let found: Answers = events
        .iter()
        .map(|event| (event["payload"]["after"].as_str().unwrap().to_owned(), event["id"].as_i64().unwrap()))
        .collect();
    assert_eq!(events.len(), found.len(), "a delivery is two events");
    assert_eq!(&found, answers);

    let ended = until(PATIENCE, || {
        let mut runs = all(server, "/runs?");
        runs.retain(|run| !others.contains(&run["id"].as_i64().unwrap()));
        let done = runs.len() >= events.len() && runs.iter().all(|run| run["status"] == "succeeded");
        done.then_some(runs)
    });
    let runs = ended.unwrap_or_else(|| panic!("not all runs ended:\n{}", server.log()));
    let of: BTreeSet<i64> = runs.iter().map(|run| run["event"].as_i64().unwrap()).collect();
    assert_eq!((runs.len(), of.len()), (events.len(), events.len()), "not one run for each event");
    for event in events.iter().step_by(events.len() / 25 + 1) {
        let event = server.get(&format!("/events/{}", event["id"]));
        assert_eq!(event["matches"].as_array().unwrap().len(), 1, "{event}");
    }
}

/// Every page of a list.
fn all(server: &Server, path: &str) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("{path}&limit=500{cursor}"));
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { return items };
        cursor = format!("&cursor={next}");
    }
}
