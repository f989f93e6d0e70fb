//! `etcd`, with real members.

use serde_json::{Value, json};

use super::{payloads, start, wait_for_events, wait_for_health, wait_until_watching};
use crate::support::etcd::Etcd;

fn source(etcd: &Etcd, what: &str) -> String {
    format!("kind: etcd\ntrigger: kv\naddress: \"{}\"\n{what}\n", etcd.url())
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
fn every_change_is_one_event_in_its_order_whoever_is_killed_in_between() {
    let mut etcd = Etcd::start();
    etcd.put("apps/old", "0");
    let mut server = start(&[
        ("sources/apps.yaml", &source(&etcd, "prefix: apps/")),
        ("sources/one.yaml", &source(&etcd, "key: apps/one")),
    ]);
    wait_until_watching(&server, "site.apps");
    wait_until_watching(&server, "site.one");
    etcd.put("apps/one", "1");
    etcd.put("other", "1");
    assert_eq!(changes(&wait_for_events(&server, "site.apps", 1)), ["set apps/one=1"]);
    let first = wait_for_events(&server, "site.one", 1);
    assert_eq!((&first[0]["version"], &first[0]["lease"]), (&json!(1), &Value::Null));
    assert!(first[0]["mod_revision"].as_i64() > Some(0), "{first:?}");

    // While the server is dead, everything that happens is kept by etcd.
    server.kill();
    etcd.put("apps/one", "2");
    etcd.put("apps/one", "3");
    etcd.put("apps/two", "1");
    etcd.delete("apps/two");
    etcd.delete("apps/old");
    server.run();
    let missed =
        ["set apps/one=2", "set apps/one=3", "set apps/two=1", "deleted apps/two", "deleted apps/old"];
    assert_eq!(changes(&wait_for_events(&server, "site.apps", 6))[1..], missed);

    // etcd dies and comes back with what it had.
    etcd.kill(0);
    let health = wait_for_health(&server, "site.apps", |health| health["state"] == "failing");
    assert!(health["problem"].as_str().unwrap().contains("does not answer"), "{health}");
    etcd.run();
    etcd.put("apps/two", "2");
    assert_eq!(changes(&wait_for_events(&server, "site.apps", 7))[6], "set apps/two=2");
    let health = wait_for_health(&server, "site.apps", |health| health["state"] == "watching");
    assert!(health["restarts"].as_u64() > Some(0) && health["problem"].is_null(), "{health}");
    let one = ["set apps/one=1", "set apps/one=2", "set apps/one=3"];
    assert_eq!(changes(&wait_for_events(&server, "site.one", 3)), one);

    // Hundreds of keys that go at once are one revision of etcd's, and a part at a time for us.
    etcd.put_many("apps/many/", 600);
    wait_for_health(&server, "site.apps", |health| health["accepted"].as_u64() >= Some(606));
    etcd.delete_below("apps/many/");
    let health = wait_for_health(&server, "site.apps", |health| health["accepted"].as_u64() >= Some(1206));
    assert_eq!((&health["accepted"], &health["state"]), (&json!(1206), &json!("watching")), "{health}");
}

#[test]
fn what_was_compacted_while_nobody_looked_is_found_by_comparing_and_said() {
    let etcd = Etcd::start();
    etcd.put("a/kept", "1");
    etcd.put("a/gone", "1");
    let mut server = start(&[("sources/a.yaml", &source(&etcd, "prefix: a/"))]);
    wait_until_watching(&server, "site.a");
    etcd.put("a/kept", "2");
    wait_for_events(&server, "site.a", 1);
    server.kill();
    etcd.put("a/kept", "3");
    etcd.put("a/kept", "4");
    etcd.delete("a/gone");
    etcd.put("a/new", "1");
    etcd.compact();
    server.run();
    let seen = changes(&wait_for_events(&server, "site.a", 4));
    assert_eq!(seen[1..], ["set a/kept=4", "set a/new=1", "deleted a/gone"]);
    let health = wait_for_health(&server, "site.a", |health| health["last_error"].is_string());
    assert!(health["last_error"].as_str().unwrap().contains("has forgotten the changes"), "{health}");
    wait_for_health(&server, "site.a", |health| health["state"] == "watching");
    // It goes on from there; a compaction of what was seen is none of its business.
    etcd.put("a/new", "2");
    assert_eq!(changes(&wait_for_events(&server, "site.a", 5))[4], "set a/new=2");
    etcd.compact();
    etcd.put("a/new", "3");
    assert_eq!(changes(&wait_for_events(&server, "site.a", 6))[5], "set a/new=3");
    assert_eq!(payloads(&server, "site.a").len(), 6);
}

#[test]
fn a_history_that_begins_anew_is_compared_by_what_the_keys_hold() {
    let mut etcd = Etcd::start();
    for round in 0..5 {
        etcd.put("a/same", &format!("{round}"));
    }
    etcd.put("a/other", "1");
    let mut server = start(&[("sources/a.yaml", &source(&etcd, "prefix: a/"))]);
    wait_until_watching(&server, "site.a");
    server.kill();
    etcd.kill(0);
    etcd.forget();
    etcd.run();
    etcd.put("a/same", "4");
    etcd.put("a/new", "1");
    server.run();
    assert_eq!(changes(&wait_for_events(&server, "site.a", 2)), ["set a/new=1", "deleted a/other"]);
    let health = wait_for_health(&server, "site.a", |health| health["state"] == "watching");
    assert!(health["last_error"].as_str().unwrap().contains("the history of etcd"), "{health}");
    etcd.put("a/same", "5");
    assert_eq!(changes(&wait_for_events(&server, "site.a", 3))[2], "set a/same=5");
}

#[test]
fn without_a_majority_it_says_so_and_goes_on_when_there_is_one_again() {
    let mut etcd = Etcd::cluster(3);
    let all = format!("[\"{}\", \"{}\"]", etcd.url_of(0), etcd.url_of(1));
    let text = format!("kind: etcd\ntrigger: kv\naddress: {all}\nprefix: a/\n");
    let server = start(&[("sources/a.yaml", &text)]);
    wait_until_watching(&server, "site.a");
    etcd.put("a/x", "1");
    wait_for_events(&server, "site.a", 1);
    // The one that is watched dies; there is another.
    etcd.kill(0);
    etcd.put("a/x", "2");
    assert_eq!(changes(&wait_for_events(&server, "site.a", 2))[1], "set a/x=2");
    etcd.kill(2);
    let health = wait_for_health(&server, "site.a", |health| {
        health["problem"].as_str().is_some_and(|problem| problem.contains("no leader or no majority"))
    });
    assert_eq!(health["state"], "failing", "{health}");
    etcd.run();
    etcd.put("a/x", "3");
    assert_eq!(changes(&wait_for_events(&server, "site.a", 3)), ["set a/x=1", "set a/x=2", "set a/x=3"]);
}

#[test]
fn a_user_logs_in_with_a_password_that_nobody_sees() {
    let etcd = Etcd::start();
    etcd.put("a", "0");
    etcd.demand_password("s3cret word");
    let server = start(&[
        ("sources/open.yaml", &source(&etcd, "key: a")),
        ("sources/named.yaml", &source(&etcd, "key: a\nuser: root\nsecret: etcd_password")),
    ]);
    let health = wait_for_health(&server, "site.open", |health| health["state"] == "failing");
    assert!(health["problem"].as_str().unwrap().contains("give a `user` and `password`"), "{health}");
    server.set_secret("etcd_password", "wrong");
    let health = wait_for_health(&server, "site.named", |health| {
        health["problem"].as_str().is_some_and(|problem| problem.contains("forbids"))
    });
    assert!(!health.to_string().contains("wrong\""), "{health}");
    server.set_secret("etcd_password", "s3cret word");
    wait_until_watching(&server, "site.named");
    etcd.put_as_root("a", "1", "s3cret word");
    assert_eq!(changes(&wait_for_events(&server, "site.named", 1)), ["set a=1"]);
    assert!(!server.log().contains("s3cret"));
}

#[test]
fn tls_is_checked_against_the_authority_that_is_given() {
    let etcd = Etcd::start_tls();
    let ca = format!("key: a\nca: \"{}\"", etcd.authority().display());
    let server = start(&[
        ("sources/trusting.yaml", &source(&etcd, &ca)),
        ("sources/wary.yaml", &source(&etcd, "key: a")),
    ]);
    wait_until_watching(&server, "site.trusting");
    etcd.put("a", "1");
    assert_eq!(changes(&wait_for_events(&server, "site.trusting", 1)), ["set a=1"]);
    let health = wait_for_health(&server, "site.wary", |health| health["state"] == "failing");
    assert!(health["problem"].as_str().unwrap().contains("certificate"), "{health}");
}
