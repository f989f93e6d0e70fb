//! `consul_kv`, `consul_service` and `consul_event`, with a real agent.

use serde_json::{Value, json};

use super::{payloads, start, wait_for_events, wait_for_health, wait_until_watching};
use crate::support::consul::Consul;
use crate::support::etcd::make_certificates;
use crate::support::server::Server;

const MASTER: &str = "00000000-aaaa-bbbb-cccc-000000000001";

fn source(consul: &Consul, kind: &str, what: &str) -> String {
    let trigger = match kind {
        "consul_kv" => "kv",
        "consul_service" => "service",
        _ => "fired",
    };
    format!("kind: {kind}\ntrigger: {trigger}\naddress: \"{}\"\n{what}\n", consul.url())
}

/// `set KEY=VALUE` and `deleted KEY`.
fn changes(payloads: &[Value]) -> Vec<String> {
    let text = |payload: &Value| match payload["change"].as_str() {
        Some("set") => {
            format!("set {}={}", payload["key"].as_str().unwrap(), payload["value"].as_str().unwrap())
        }
        _ => format!("deleted {}", payload["key"].as_str().unwrap()),
    };
    payloads.iter().map(text).collect()
}

#[test]
fn each_changed_key_is_one_event_whoever_is_killed_in_between() {
    let mut consul = Consul::start();
    consul.put("kv/apps/old", "0");
    let mut server = start(&[
        ("sources/apps.yaml", &source(&consul, "consul_kv", "prefix: apps/")),
        ("sources/one.yaml", &source(&consul, "consul_kv", "key: apps/one")),
    ]);
    wait_until_watching(&server, "site.apps");
    wait_until_watching(&server, "site.one");
    consul.put("kv/apps/one", "1");
    consul.put("kv/other", "1");
    assert_eq!(changes(&wait_for_events(&server, "site.apps", 1)), ["set apps/one=1"]);
    let first = wait_for_events(&server, "site.one", 1);
    assert_eq!(changes(&first), ["set apps/one=1"]);
    assert!(first[0]["modify_index"].as_u64() > Some(0), "{first:?}");

    // While the server is dead, two keys change, one of them twice, and one goes.
    server.kill();
    consul.put("kv/apps/one", "2");
    consul.put("kv/apps/one", "3");
    consul.put("kv/apps/two", "1");
    consul.delete("kv/apps/old");
    server.run();
    let expected = ["set apps/one=1", "set apps/one=3", "set apps/two=1", "deleted apps/old"];
    assert_eq!(changes(&wait_for_events(&server, "site.apps", 4)), expected);

    // Consul dies and comes back with what it had.
    consul.kill();
    let health = wait_for_health(&server, "site.apps", |health| health["state"] == "failing");
    assert!(health["problem"].as_str().unwrap().contains("does not answer"), "{health}");
    assert!(health["next_try_at"].is_string(), "{health}");
    consul.run();
    consul.put("kv/apps/two", "2");
    assert_eq!(changes(&wait_for_events(&server, "site.apps", 5))[4], "set apps/two=2");
    let health = wait_for_health(&server, "site.apps", |health| health["state"] == "watching");
    assert!(health["restarts"].as_u64() > Some(0) && health["problem"].is_null(), "{health}");
    assert!(health["last_error"].is_string(), "{health}");
    assert_eq!(changes(&payloads(&server, "site.one")), ["set apps/one=1", "set apps/one=3"]);
}

#[test]
fn a_history_that_begins_anew_is_compared_by_what_the_keys_hold() {
    let mut consul = Consul::start();
    for round in 0..5 {
        consul.put("kv/a/same", &format!("{round}"));
    }
    consul.put("kv/a/other", "1");
    let server = start(&[("sources/a.yaml", &source(&consul, "consul_kv", "prefix: a/"))]);
    wait_until_watching(&server, "site.a");
    consul.kill();
    wait_for_health(&server, "site.a", |health| health["state"] == "failing");
    consul.forget();
    consul.run();
    consul.put("kv/a/same", "4");
    consul.put("kv/a/new", "1");
    // In between it may have been seen empty: then all keys were deleted, and set again.
    let seen = until_seen(&server, "set a/new=1");
    assert!(seen.contains(&"deleted a/other".to_owned()), "{seen:?}");
    let count = |what: &str| seen.iter().filter(|change| *change == what).count();
    assert_eq!(count("set a/same=4"), count("deleted a/same"), "{seen:?}");
}

fn until_seen(server: &Server, change: &str) -> Vec<String> {
    let seen = || changes(&payloads(server, "site.a"));
    server.wait_for("/events?source=site.a", |_| seen().iter().any(|seen| seen == change));
    seen()
}

#[test]
fn a_token_goes_with_each_question_and_without_it_the_source_says_what_is_missing() {
    let more = format!(
        "primary_datacenter = \"dc1\" acl {{ enabled = true default_policy = \"deny\" tokens {{ master = \"{MASTER}\" }} }}"
    );
    let consul = Consul::start_with(&more);
    consul.put_as("kv/a", "1", MASTER);
    let server = start(&[
        ("sources/open.yaml", &source(&consul, "consul_kv", "key: a")),
        ("sources/named.yaml", &source(&consul, "consul_kv", "key: a\nsecret: consul_token")),
        (
            "sources/template.yaml",
            &source(&consul, "consul_service", "service: web\ntoken: \"{{ secret('consul_token') }}\""),
        ),
    ]);
    let health = wait_for_health(&server, "site.named", |health| health["state"] == "failing");
    assert!(health["problem"].as_str().unwrap().contains("siskin secret set consul_token"), "{health}");
    server.set_secret("consul_token", MASTER);
    wait_until_watching(&server, "site.named");
    wait_until_watching(&server, "site.template");
    consul.put_as("kv/a", "2", MASTER);
    assert_eq!(changes(&wait_for_events(&server, "site.named", 1)), ["set a=2"]);
    assert_eq!(payloads(&server, "site.open"), Vec::<Value>::new());
    assert!(!server.log().contains(MASTER));
}

#[test]
fn who_joins_and_leaves_a_service_is_seen_by_tag_and_health() {
    let consul = Consul::start();
    let register = |id: &str, tag: &str, port: u16| {
        let service = json!({"Name": "web", "ID": id, "Tags": [tag], "Port": port, "Check": {"TTL": "60s", "CheckID": format!("check-{id}")}});
        consul.put("agent/service/register", &service.to_string());
    };
    let server =
        start(&[("sources/web.yaml", &source(&consul, "consul_service", "service: web\ntag: canary"))]);
    wait_until_watching(&server, "site.web");
    register("w1", "canary", 81);
    register("w2", "stable", 82);
    consul.put("agent/check/pass/check-w2", "");
    consul.put("agent/check/pass/check-w1", "");
    let seen = wait_for_events(&server, "site.web", 1);
    assert_eq!((&seen[0]["added"][0]["id"], &seen[0]["added"][0]["port"]), (&json!("w1"), &json!(81)));
    assert_eq!((&seen[0]["removed"], seen[0]["passing"].as_array().unwrap().len()), (&json!([]), 1));
    consul.put("agent/check/fail/check-w1", "");
    let seen = wait_for_events(&server, "site.web", 2);
    assert_eq!((&seen[1]["removed"][0]["id"], &seen[1]["passing"]), (&json!("w1"), &json!([])));
}

#[test]
fn an_event_that_was_fired_comes_once_and_old_ones_do_not() {
    let mut consul = Consul::start();
    consul.put("event/fire/deploy", "old");
    let mut server = start(&[("sources/deploy.yaml", &source(&consul, "consul_event", "name: deploy"))]);
    wait_until_watching(&server, "site.deploy");
    consul.put("event/fire/deploy", "one");
    consul.put("event/fire/other", "x");
    assert_eq!(wait_for_events(&server, "site.deploy", 1)[0]["payload"], "one");
    server.kill();
    consul.put("event/fire/deploy", "two");
    server.run();
    assert_eq!(wait_for_events(&server, "site.deploy", 2)[1]["payload"], "two");
    // An agent forgets its events when it dies; the next one is new all the same.
    consul.kill();
    wait_for_health(&server, "site.deploy", |health| health["state"] == "failing");
    consul.run();
    wait_for_health(&server, "site.deploy", |health| health["state"] == "watching");
    consul.put("event/fire/deploy", "three");
    let seen = wait_for_events(&server, "site.deploy", 3);
    let said: Vec<&str> = seen.iter().map(|event| event["payload"].as_str().unwrap()).collect();
    assert_eq!(said, ["one", "two", "three"]);
}

#[test]
fn tls_is_checked_against_the_authority_that_is_given() {
    let folder = tempfile::tempdir().unwrap();
    make_certificates(folder.path());
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let consul = Consul::start_with(&format!(
        "ports {{ https = {free} }} cert_file = \"{}\" key_file = \"{}\"",
        at("cert.pem"),
        at("key.pem")
    ));
    let url = format!("https://127.0.0.1:{free}");
    let text = format!("kind: consul_kv\ntrigger: kv\naddress: {url}\nkey: a\n");
    let server = start(&[
        ("sources/trusting.yaml", &format!("{text}ca: {}\n", at("ca.pem"))),
        ("sources/wary.yaml", &text),
    ]);
    wait_until_watching(&server, "site.trusting");
    consul.put("kv/a", "1");
    assert_eq!(changes(&wait_for_events(&server, "site.trusting", 1)), ["set a=1"]);
    let health = wait_for_health(&server, "site.wary", |health| health["state"] == "failing");
    assert!(health["problem"].as_str().unwrap().contains("certificate"), "{health}");
    let get = |ca: Value| server.run_to_end("consul.kv_get", json!({"key": "a", "address": url, "ca": ca}));
    assert_eq!(get(json!(at("ca.pem")))["output"]["value"], "1");
    assert_eq!(get(json!(std::fs::read_to_string(at("ca.pem")).unwrap()))["output"]["value"], "1");
    assert!(get(Value::Null)["error"]["message"].as_str().unwrap().contains("certificate"));
}
