//! Holds: who stopped what, and what goes on when they let go.

use serde_json::{Value, json};

use crate::support::server::Server;

const SITE: [(&str, &str); 6] = [
    ("apps/shop.yaml", "owner: team\n"),
    ("apps/both.yaml", "owner: team\n"),
    ("triggers/go.yaml", "description: d\n"),
    ("rules/on_go.yaml", "trigger: go\nrun: core.noop\n"),
    ("rules/both.yaml", "trigger: go\nrun: core.noop\n"),
    ("rules/off.yaml", "trigger: go\nrun: core.noop\nenabled: false\n"),
];

fn hold(server: &Server, what: &str) -> (u16, Value) {
    server.ask("POST", "/holds", Some(&json!({"what": what, "why": "the fair"})))
}

fn detail(answer: &Value) -> &str {
    answer["detail"].as_str().unwrap()
}

#[test]
fn what_is_held_says_who_why_and_since_when_and_outlives_a_crash() {
    let mut server = Server::start(&SITE);
    for (what, kind) in [("shop", "app"), ("all", "all"), ("on_go", "rule")] {
        let (status, held) = hold(&server, what);
        assert_eq!((status, held["kind"].as_str()), (201, Some(kind)), "{held}");
    }
    let (status, second) = hold(&server, "shop");
    assert_eq!(status, 409);
    assert!(detail(&second).starts_with("admin holds `shop` since 20"), "{second}");
    assert!(detail(&second).ends_with(": the fair"), "{second}");
    assert_eq!(hold(&server, "site.on_go").0, 409);

    server.kill();
    server.run();
    let items = server.get("/holds")["items"].clone();
    let names: Vec<&str> =
        items.as_array().unwrap().iter().map(|held| held["what"].as_str().unwrap()).collect();
    assert_eq!(names, ["all", "shop", "site.on_go"]);
    assert_eq!((&items[1]["by"], &items[1]["why"]), (&json!("admin"), &json!("the fair")));

    for path in ["/holds/shop", "/holds?what=all", "/holds/on_go"] {
        assert_eq!(server.ask("DELETE", path, None).0, 204, "{path}");
        assert_eq!(server.ask("DELETE", path, None).0, 404, "{path}");
    }
    assert_eq!(server.get("/holds")["items"], json!([]));
    let acts = server.get("/audit?subject=app%20shop")["items"].clone();
    assert_eq!((&acts[0]["act"], &acts[1]["act"]), (&json!("hold.end"), &json!("hold.set")));
}

#[test]
fn a_name_that_means_nothing_or_two_things_is_refused_with_what_was_meant() {
    let server = Server::start(&SITE);
    let (status, answer) = hold(&server, "shap");
    assert_eq!((status, detail(&answer)), (404, "there is no app or rule `shap`; did you mean `shop`?"));
    let (status, answer) = hold(&server, "both");
    assert_eq!(status, 422);
    assert!(detail(&answer).contains("`app:both`"), "{answer}");
    assert_eq!(hold(&server, "app:both").0, 201);
    assert_eq!(hold(&server, "rule:both").0, 201);
    assert_eq!(server.ask("DELETE", "/holds/site.both", None).0, 204);
    assert_eq!(server.ask("DELETE", "/holds/both", None).0, 204);
    assert_eq!(hold(&server, "site.off").0, 409);
    assert_eq!(server.ask("POST", "/holds", Some(&json!({"what": "shop", "why": " "}))).0, 422);
    assert_eq!(server.ask("DELETE", "/holds", None).0, 422);
}

#[test]
fn a_held_rule_matches_nothing_until_it_is_let_go() {
    let server = Server::start(&SITE);
    let fire = || {
        let sent = server.post("/events", &json!({"trigger": "site.go", "payload": {}}));
        let id = sent["event"].as_i64().unwrap();
        let event = server.wait_for(&format!("/events/{id}"), |event| !event["routed_at"].is_null());
        event["matches"].as_array().unwrap().len()
    };
    assert_eq!(fire(), 2);
    assert!(server.cli(&["hold", "on_go", "-m", "too many"]).status.success());
    assert_eq!(fire(), 1);
    assert!(server.cli(&["unhold", "on_go"]).status.success());
    assert_eq!(fire(), 2);
}

#[test]
fn the_command_line_holds_lists_and_lets_go() {
    let server = Server::start(&SITE);
    assert_eq!(server.cli(&["hold", "shop"]).status.code(), Some(2));
    let held = server.cli(&["hold", "shop", "-m", "the fair"]);
    assert_eq!(String::from_utf8_lossy(&held.stdout), "shop is held\n");
    for list in [&["hold"][..], &["holds"]] {
        let shown = String::from_utf8_lossy(&server.cli(list).stdout).into_owned();
        assert!(shown.contains("shop") && shown.contains("the fair"), "{shown}");
    }
    assert!(server.cli(&["unhold", "shop"]).status.success());
    let again = server.cli(&["unhold", "shop"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("`shop` is not held"));
}

#[test]
fn a_run_is_forced_with_a_reason_and_its_children_with_it() {
    let server = Server::start(&[
        ("triggers/go.yaml", "description: d\n"),
        ("workflows/child.yaml", "description: d\nsteps:\n  - {id: wait, wait_for: {trigger: go}}\n"),
        ("workflows/parent.yaml", "description: d\nsteps:\n  - {id: child, run: child}\n"),
    ]);
    let run = server.post("/runs", &json!({"run": "site.parent"}))["id"].as_i64().unwrap();
    let parent = server.wait_for(&format!("/runs/{run}"), |run| run["waits"][0]["run"].as_i64().is_some());
    let child = parent["waits"][0]["run"].as_i64().unwrap();
    assert_eq!(server.ask("POST", &format!("/runs/{run}/force"), Some(&json!({"why": ""}))).0, 422);
    assert!(server.cli(&["force", &run.to_string(), "-m", "outage"]).status.success());
    for id in [run, child] {
        server.wait_for(&format!("/runs/{id}/history"), |history| {
            let mut lines = history["items"].as_array().unwrap().iter();
            lines.any(|line| line["what"] == "run.forced" && line["details"] == "by admin: outage")
        });
    }
    let acts = server.get(&format!("/audit?subject=run%20{run}"))["items"].clone();
    assert_eq!((&acts[0]["act"], &acts[0]["details"]["why"]), (&json!("run.force"), &json!("outage")));
    server.post("/events", &json!({"trigger": "site.go", "payload": {}}));
    server.wait_for_end(run);
    assert_eq!(server.ask("POST", &format!("/runs/{run}/force"), Some(&json!({"why": "late"}))).0, 409);
}
