//! `amqp`, with a real broker.

use lapin::BasicProperties;
use serde_json::{Value, json};

use super::{payloads, start, wait_for_events, wait_for_health, wait_until_watching};
use crate::support::publisher::{self, Publisher};
use crate::support::rabbitmq::{self, Private};
use crate::support::server::{PATIENCE, until};

fn source(url: &str, more: &str) -> String {
    format!("kind: amqp\ntrigger: message\nurl: {url}\n{more}\n")
}

fn contents(payloads: &[Value]) -> Vec<Value> {
    payloads.iter().map(|payload| payload["content"].clone()).collect()
}

#[test]
fn every_message_is_one_event_whoever_is_killed_in_between() {
    let mut broker = Private::start();
    let publisher = Publisher::connect(&broker.url());
    publisher.queue("builds", None);
    let send = |publisher: &Publisher, number: u32| {
        let body = json!({"number": number}).to_string();
        publisher.send("", "builds", publisher::json(&format!("id-{number}")), body.as_bytes());
    };
    let mut server = start(&[("sources/builds.yaml", &source(&broker.url(), "queue: builds\nat_once: 20"))]);
    wait_until_watching(&server, "site.builds");
    send(&publisher, 0);
    let first = wait_for_events(&server, "site.builds", 1);
    assert_eq!((&first[0]["content"], &first[0]["message_id"]), (&json!({"number": 0}), &json!("id-0")));
    assert_eq!((&first[0]["routing_key"], &first[0]["redelivered"]), (&json!("builds"), &json!(false)));

    // Killed in the middle of many, again and again: some were stored and not acknowledged.
    for round in 0..4 {
        for number in 0..50 {
            send(&publisher, 1 + round * 50 + number);
        }
        server.kill();
        server.run();
    }
    wait_for_events(&server, "site.builds", 201);

    // The broker dies, and comes back with what it had.
    broker.kill();
    let health = wait_for_health(&server, "site.builds", |health| health["state"] == "failing");
    assert!(health["problem"].as_str().unwrap().contains("broker"), "{health}");
    broker.run();
    let publisher = Publisher::connect(&broker.url());
    (201..230).for_each(|number| send(&publisher, number));
    let seen = contents(&wait_for_events(&server, "site.builds", 230));
    let mut numbers: Vec<u64> = seen.iter().map(|content| content["number"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..230).collect::<Vec<u64>>());
    wait_for_health(&server, "site.builds", |health| health["problem"].is_null());
    server.stop();
    assert_eq!(publisher.take("builds"), None);
}

#[test]
fn a_poisoned_message_goes_to_the_dead_and_holds_up_no_other() {
    let url = rabbitmq::shared();
    let publisher = Publisher::connect(&url);
    publisher.queue("jobs", Some("dead"));
    let schema = "description: A job.\npayload:\n  type: object\n  properties:\n    content:\n      type: object\n      required: [app]\n";
    let text = format!("kind: amqp\ntrigger: job\nurl: {url}\nqueue: jobs\n");
    let server = start(&[("triggers/job.yaml", schema), ("sources/jobs.yaml", &text)]);
    wait_until_watching(&server, "site.jobs");
    let send = |id: &str, body: &str| publisher.send("", "jobs", publisher::json(id), body.as_bytes());
    send("bad", "{\"app\": ");
    send("other", "{\"application\": \"shop\"}");
    send("good", "{\"app\": \"shop\"}");
    assert_eq!(contents(&wait_for_events(&server, "site.jobs", 1)), [json!({"app": "shop"})]);
    let health = wait_for_health(&server, "site.jobs", |health| health["refused"] == 2);
    let why = health["last_error"].as_str().unwrap();
    assert!(why.contains("`other`") && why.contains("app"), "{why}");
    let mut dead: Vec<Vec<u8>> = Vec::new();
    until(PATIENCE, || {
        dead.extend(publisher.take("dead"));
        (dead.len() == 2).then_some(())
    });
    assert_eq!(dead, [b"{\"app\": ".to_vec(), b"{\"application\": \"shop\"}".to_vec()]);
    assert_eq!(payloads(&server, "site.jobs").len(), 1);
}

#[test]
fn a_queue_of_ones_own_gets_what_an_exchange_sends_also_while_nobody_is_there() {
    let url = rabbitmq::shared();
    let publisher = Publisher::connect(&url);
    publisher.exchange("events");
    let text = source(
        &url,
        "queue: siskin.builds\ndeclare: true\nexchange: events\nbinding: [\"build.#\", release]\neach: \"[body.content]\"",
    );
    let mut server = start(&[("sources/builds.yaml", &text)]);
    wait_until_watching(&server, "site.builds");
    let send = |key: &str, body: &str| {
        publisher.send("events", key, BasicProperties::default(), body.as_bytes());
    };
    send("build.done.shop", "{\"app\": \"shop\"}");
    send("deploy.done", "{\"app\": \"other\"}");
    assert_eq!(wait_for_events(&server, "site.builds", 1), [json!({"app": "shop"})]);
    server.kill();
    send("release", "just text");
    server.run();
    assert_eq!(wait_for_events(&server, "site.builds", 2)[1], json!("just text"));
}

#[test]
fn what_is_missing_or_forbidden_is_said_and_no_password_shown() {
    let url = rabbitmq::shared();
    let login = url.replace("test:test@", "test:wrong-word@");
    let named = url.replace("test:test@", "nobody@");
    Publisher::connect(&url).queue("jobs", None);
    let server = start(&[
        ("sources/queue.yaml", &source(&url, "queue: nothing")),
        ("sources/exchange.yaml", &source(&url, "queue: mine\ndeclare: true\nexchange: nowhere")),
        ("sources/other.yaml", &source(&url, "queue: jobs\ndeclare: true")),
        ("sources/login.yaml", &source(&login, "queue: jobs")),
        ("sources/named.yaml", &source(&named, "queue: jobs\nuser: test\nsecret: broker_password")),
    ]);
    server.set_secret("broker_password", "test");
    for (name, part) in [
        ("queue", "no queue 'nothing'"),
        ("exchange", "no exchange 'nowhere'"),
        ("other", "inequivalent arg"),
        ("login", "refuses the user or the password"),
    ] {
        let said = |health: &Value| health["problem"].as_str().is_some_and(|problem| problem.contains(part));
        wait_for_health(&server, &format!("site.{name}"), said);
    }
    wait_until_watching(&server, "site.named");
    assert!(!server.log().contains("wrong-word"));
    assert!(!server.get("/sources").to_string().contains("wrong-word"));
}
