//! Rules that fail, and those beside them.

use serde_json::{Value, json};

use crate::support::server::Server;

fn fire(server: &Server, trigger: &str, payload: Value) -> Value {
    let sent = server.post("/events", &json!({"trigger": trigger, "payload": payload}));
    let id = sent["event"].as_i64().unwrap();
    server.wait_for(&format!("/events/{id}"), |event| !event["routed_at"].is_null())
}

fn push() -> Value {
    json!({"ref": "refs/heads/main", "after": "a", "repository": {"name": "shop"}, "pusher": {"name": "alice"}})
}

#[test]
fn a_rule_that_fails_is_told_with_its_place_and_harms_no_other() {
    let rule = |when: &str| format!("trigger: github.push\nwhen: |\n  {when}\nrun: core.noop\n");
    let texts = [
        ("rules/a_loops.yaml", rule("loop { }")),
        ("rules/b_throws.yaml", rule("if event.ref != \"\" { throw \"boom\" }\n  true")),
        ("rules/c_compares.yaml", rule("event.ref > 5")),
        ("rules/d_grows.yaml", rule("let text = \"x\"; loop { text += text; }")),
        ("rules/e_recurses.yaml", rule("fn f(n) { f(n + 1) }\n  f(0)")),
        ("rules/f_misses.yaml", rule("event.head_commit.id == \"x\"")),
        ("rules/g_gives_text.yaml", rule("event.ref")),
        ("rules/h_matches.yaml", rule("true")),
        ("rules/i_is_silent.yaml", rule("event?.head_commit?.id == \"x\"")),
    ];
    let files: Vec<(&str, &str)> = texts.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let server = Server::start(&files);
    let event = fire(&server, "github.push", push());
    let matches = event["matches"].as_array().unwrap();
    let rules: Vec<&str> = matches.iter().map(|found| found["rule"].as_str().unwrap()).collect();
    let wanted = [
        "a_loops",
        "b_throws",
        "c_compares",
        "d_grows",
        "e_recurses",
        "f_misses",
        "g_gives_text",
        "h_matches",
    ];
    assert_eq!(rules, wanted.map(|name| format!("site.{name}")));
    for found in &matches[..7] {
        assert_eq!(found["result"], "errored", "{found}");
        assert!(!found["why"].as_str().unwrap().is_empty());
        let place = found["place"].as_str().unwrap();
        let name = found["rule"].as_str().unwrap().trim_start_matches("site.");
        assert!(place.starts_with(&format!("rules/{name}.yaml:")), "{place}");
        assert_eq!(place.split(':').count(), 3, "{place}");
    }
    assert_eq!(matches[1]["why"], "boom");
    assert_eq!(matches[1]["place"], "rules/b_throws.yaml:3:24");
    assert_eq!(matches[7]["result"], "matched");
    server.wait_for_end(matches[7]["run"].as_i64().unwrap());
}

#[test]
fn a_with_that_does_not_fit_is_an_errored_match_at_its_own_place() {
    let server = Server::start(&[
        (
            "workflows/w.yaml",
            "input: {text: string, number: integer}\nsteps:\n  - id: a\n    run: core.noop\n",
        ),
        (
            "rules/a.yaml",
            "trigger: github.push\nrun: site.w\nwith:\n  text: x\n  number: \"{{ event.ref }}\"\n",
        ),
        (
            "rules/b.yaml",
            "trigger: github.push\nrun: site.w\nwith:\n  number: 1\n  text: \"{{ event.nothing }}\"\n",
        ),
    ]);
    let event = fire(&server, "github.push", push());
    let places: Vec<&str> =
        event["matches"].as_array().unwrap().iter().map(|found| found["place"].as_str().unwrap()).collect();
    assert_eq!(places, ["rules/a.yaml:5:11", "rules/b.yaml:5:9"]);
    assert_eq!(event["runs"], json!([]));
}

#[test]
fn a_map_is_what_matched_and_types_are_kept() {
    let server = Server::start(&[(
        "rules/r.yaml",
        "trigger: github.push\nwhen: |\n  #{branch: event.ref.removeprefix(\"refs/heads/\"), list: [1, #{a: true}]}\nrun: core.echo\nwith: {value: {branch: \"{{ matched.branch }}\", list: \"{{ matched.list }}\", n: \"{{ event.n }}\"}}\non_behalf_of: \"{{ event.pusher.name }}\"\n",
    )]);
    let mut payload = push();
    payload["n"] = json!(9_223_372_036_854_775_807_i64);
    let event = fire(&server, "github.push", payload);
    let run = server.wait_for_end(event["runs"][0].as_i64().unwrap());
    let wanted = json!({"branch": "main", "list": [1, {"a": true}], "n": 9_223_372_036_854_775_807_i64});
    assert_eq!(run["output"]["value"], wanted);
    assert_eq!(run["started_by"], "alice (rule site.r)");
}

#[test]
fn a_rule_that_people_switched_off_stays_off_after_a_crash() {
    let mut server = Server::start(&[
        ("rules/on.yaml", "trigger: github.ping\nrun: core.noop\n"),
        ("rules/off.yaml", "trigger: github.ping\nrun: core.noop\nenabled: false\n"),
    ]);
    assert_eq!(server.ask("POST", "/rules/site.off/enable", None).0, 409);
    assert_eq!(server.ask("POST", "/rules/site.nothing/enable", None).0, 404);
    assert_eq!(server.ask("POST", "/rules/site.on/disable", None).0, 200);
    server.kill();
    server.run();
    assert_eq!(fire(&server, "github.ping", json!({}))["matches"], json!([]));
    assert_eq!(server.ask("POST", "/rules/site.on/enable", None).0, 200);
    assert_eq!(fire(&server, "github.ping", json!({}))["matches"][0]["rule"], "site.on");
}

#[test]
fn a_dry_replay_says_what_would_run_and_changes_nothing() {
    let server = Server::start(&[
        (
            "rules/a.yaml",
            "trigger: github.push\nwhen: event.ref == \"refs/heads/main\"\nrun: core.echo\nwith: {value: \"{{ event.repository.name }}\"}\non_behalf_of: \"{{ event.pusher.name }}\"\n",
        ),
        ("rules/b.yaml", "trigger: github.push\nwhen: event.ref == \"refs/heads/other\"\nrun: core.noop\n"),
        ("rules/c.yaml", "trigger: github.push\nrun: core.noop\nenabled: false\n"),
        ("rules/d.yaml", "trigger: github.push\ncount: 3\nwithin: 1h\nrun: core.noop\n"),
        ("rules/e.yaml", "trigger: github.push\nat_most: {count: 1, per: 1h}\nrun: core.noop\n"),
    ]);
    let event = fire(&server, "github.push", push())["id"].as_i64().unwrap();
    let path = format!("/events/{event}/replay");
    let before = (server.get("/events"), server.get("/runs")["items"].as_array().unwrap().len());
    let dry = server.post(&path, &json!({"dry_run": true}));
    // Twice the same: what rules remember did not change either.
    assert_eq!(dry, server.post(&path, &json!({"dry_run": true})));
    assert_eq!((server.get("/events"), server.get("/runs")["items"].as_array().unwrap().len()), before);
    let results: Vec<(&str, &str)> = dry["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| (rule["rule"].as_str().unwrap(), rule["result"].as_str().unwrap()))
        .collect();
    let wanted = [
        ("site.a", "matched"),
        ("site.b", "not matched"),
        ("site.c", "disabled"),
        ("site.d", "counted"),
        ("site.e", "throttled"),
    ];
    assert_eq!(results, wanted, "{dry}");
    assert_eq!((&dry["dry_run"], &dry["matched"], &dry["unmatched"]), (&json!(true), &json!(1), &json!(1)));
    let first = &dry["rules"][0];
    assert_eq!((&first["run"], &first["with"]), (&json!("core.echo"), &json!({"value": "shop"})));
    assert_eq!(first["on_behalf_of"], "alice");
    let said = server.cli(&["events", "replay", &event.to_string(), "--dry-run"]);
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(
        said.contains("matched site.a: would run core.echo {\"value\":\"shop\"} on behalf of alice"),
        "{said}"
    );
    assert!(said.contains("1 would match; nothing was done"), "{said}");
    let (status, _) = server.ask("POST", "/events/999999/replay", Some(&json!({"dry_run": true})));
    assert_eq!(status, 404);
    let real = server.post(&path, &json!({}));
    assert_eq!(real["replay_of"], json!(event));
}
