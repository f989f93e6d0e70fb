//! Rules that remember events, against a real server: over kills, and as often as it is said.

use serde_json::{Value, json};

use crate::support::server::Server;

const GO: (&str, &str) = ("triggers/go.yaml", "description: d\n");
const STOP: (&str, &str) = ("triggers/stop.yaml", "description: d\n");
const NOTE: (&str, &str) = (
    "workflows/note.yaml",
    "description: d\ninput: {what: any}\nsteps:\n  - {id: a, run: core.echo, with: {value: \"{{ input.what }}\"}}\n",
);

/// Sends an event and waits until it is routed; what came of it.
fn send(server: &Server, trigger: &str, payload: Value) -> Value {
    let event = server.post("/events", &json!({"trigger": trigger, "payload": payload}));
    let routed =
        server.wait_for(&format!("/events/{}", event["event"]), |event| !event["routed_at"].is_null());
    routed["matches"].clone()
}

fn input_of(server: &Server, matches: &Value) -> Value {
    server.get(&format!("/runs/{}", matches[0]["run"]))["input"]["what"].clone()
}

#[test]
fn the_third_within_the_time_matches_with_all_three_also_over_a_kill() {
    let rule = "trigger: go\nwhen: event.bad\ncount: 3\nwithin: 1h\nby: event.host\nrun: note\nwith: {what: \"{{ events }}\"}\n";
    let mut server = Server::start(&[GO, NOTE, ("rules/thrice.yaml", rule)]);
    let bad = |server: &Server, host: &str, number: u32| {
        send(server, "site.go", json!({"bad": true, "host": host, "number": number}))
    };
    assert_eq!(bad(&server, "a", 1), json!([]));
    assert_eq!(bad(&server, "b", 2), json!([]));
    assert_eq!(send(&server, "site.go", json!({"bad": false, "host": "a"})), json!([]));
    assert_eq!(bad(&server, "a", 3), json!([]));
    server.kill();
    server.run();
    let matches = bad(&server, "a", 4);
    assert_eq!(matches[0]["result"], "matched", "{matches}");
    let numbers: Vec<Value> =
        input_of(&server, &matches).as_array().unwrap().iter().map(|event| event["number"].clone()).collect();
    assert_eq!(numbers, [1, 3, 4]);
    // It starts over.
    assert_eq!(bad(&server, "a", 5), json!([]));
    // An edit of what is counted forgets what was.
    server.write("rules/thrice.yaml", &rule.replace("count: 3", "count: 2"));
    server.wait_for("/rules/site.thrice", |rule| rule["count"] == 2);
    assert_eq!(bad(&server, "a", 6), json!([]));
    assert_eq!(bad(&server, "a", 7)[0]["result"], "matched");
}

#[test]
fn one_of_each_for_the_same_key_makes_a_match() {
    let rule = "all:
  - {as: built, trigger: go, when: event.ok, by: event.commit}
  - {as: tested, trigger: stop, by: event.sha}
within: 1h
run: note
with: {what: \"{{ event.built.number }} {{ event.tested.number }}\"}
";
    let server = Server::start(&[GO, STOP, NOTE, ("rules/both.yaml", rule)]);
    assert_eq!(send(&server, "site.go", json!({"ok": true, "commit": "c1", "number": 1})), json!([]));
    assert_eq!(send(&server, "site.stop", json!({"sha": "c2", "number": 2})), json!([]));
    assert_eq!(send(&server, "site.go", json!({"ok": false, "commit": "c2", "number": 3})), json!([]));
    assert_eq!(send(&server, "site.go", json!({"ok": true, "commit": "c1", "number": 4})), json!([]));
    let matches = send(&server, "site.stop", json!({"sha": "c1", "number": 5}));
    assert_eq!(input_of(&server, &matches), "4 5");
    // Used up.
    assert_eq!(send(&server, "site.stop", json!({"sha": "c1", "number": 6})), json!([]));
}

#[test]
fn a_rule_matches_at_most_so_often_and_runs_something_else_once() {
    let rule = "trigger: go
at_most: {count: 2, per: 1h, by: event.host, otherwise: {run: note, with: {what: too many}}}
run: note
with: {what: \"{{ event.number }}\"}
";
    let server = Server::start(&[GO, NOTE, ("rules/often.yaml", rule)]);
    let go = |host: &str, number: u32| send(&server, "site.go", json!({"host": host, "number": number}));
    assert_eq!(input_of(&server, &go("a", 1)), 1);
    assert_eq!(input_of(&server, &go("a", 2)), 2);
    let third = go("a", 3);
    assert_eq!(third[0]["result"], "throttled");
    assert_eq!(input_of(&server, &third), "too many");
    let why = third[0]["why"].as_str().unwrap();
    assert!(why.starts_with("it matched 2 times in 1h for \"a\"; the next may be at 20"), "{why}");
    let fourth = go("a", 4);
    assert_eq!((fourth[0]["result"].as_str(), &fourth[0]["run"]), (Some("throttled"), &Value::Null));
    assert_eq!(input_of(&server, &go("b", 5)), 5);
}

#[test]
fn what_a_rule_reads_is_there_before_its_condition() {
    let rule = "trigger: go
read: {frozen: \"freeze/{{ event.team }}\"}
when: frozen == ()
run: note
with: {what: \"{{ event.team }}\"}
";
    let server = Server::start(&[GO, NOTE, ("rules/thaw.yaml", rule)]);
    server.ask("PUT", "/kv/freeze/blue", Some(&json!({"value": "holidays"})));
    assert_eq!(send(&server, "site.go", json!({"team": "blue"})), json!([]));
    assert_eq!(input_of(&server, &send(&server, "site.go", json!({"team": "red"}))), "red");
}

#[test]
fn keys_that_do_not_belong_together_are_mistakes_with_their_place() {
    let refused = [
        ("trigger: go\nrun: core.noop\nwithin: 1h\n", "`within` belongs to `count` or `all`"),
        ("trigger: go\nrun: core.noop\ncount: 3\n", "it needs `within`"),
        ("trigger: go\nrun: core.noop\ncount: 1\nwithin: 1h\n", "count"),
        ("run: core.noop\nall: [{as: a, trigger: go}]\nwithin: 1h\n", "`all` wants 2 to 20 events"),
        (
            "run: core.noop\nall: [{as: a, trigger: go}, {as: a, trigger: go}]\nwithin: 1h\n",
            "`a` is the name of two events",
        ),
        ("trigger: go\nrun: core.noop\nat_most: {count: 3}\n", "per"),
        ("trigger: go\nrun: core.noop\nread: {event: x}\n", "`event` can't be the name"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(GO.0, GO.1);
    for (rule, wanted) in refused {
        write("rules/r.yaml", rule);
        let checked = crate::support::server::siskin().arg("check").arg("--site").arg(folder.path()).output();
        let checked = checked.unwrap();
        let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
        assert!(!checked.status.success() && said.contains("rules/r.yaml:"), "{rule}\n{said}");
        assert!(said.contains(wanted), "{rule}\n{said}");
    }
}

#[test]
fn a_draft_is_tried_on_the_events_that_were_and_says_why_not() {
    let server = Server::start(&[GO, STOP, NOTE]);
    for (host, bad) in [("a", true), ("b", true), ("a", false), ("a", true)] {
        send(&server, "site.go", json!({"host": host, "bad": bad}));
    }
    send(&server, "site.stop", json!({"host": "a", "bad": true}));
    let draft = "trigger: go\nwhen: event.host == \"a\" && event.bad\nrun: note\nwith: {what: \"{{ event.host }}\"}\n";
    let tried = server.post("/rules/test", &json!({"rule": draft, "last": 100}));
    assert_eq!((&tried["tried"], &tried["matched"]), (&json!(4), &json!(2)), "{tried}");
    let results: Vec<&str> = tried["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["result"].as_str().unwrap())
        .collect();
    assert_eq!(results, ["matched", "not matched", "not matched", "matched"]);
    assert_eq!(tried["results"][0]["with"], json!({"what": "a"}));
    assert_eq!(tried["results"][1]["why"], "`event.host == \"a\"` is false: event.host is \"b\"");
    assert_eq!(
        tried["results"][2]["parts"],
        json!([{"text": "event.bad", "came_to": "false", "names": {"event.bad": false}}])
    );
    // The last two of them only; and it counts as it would have counted.
    let counts = format!("{draft}at_most: {{count: 1, per: 1h}}\n");
    let tried = server.post("/rules/test", &json!({"rule": counts, "last": 4}));
    assert_eq!(tried["results"][3]["result"], "throttled", "{tried}");
    assert_eq!(server.post("/rules/test", &json!({"rule": draft, "last": 2}))["tried"], 2);
    // Nothing was done.
    assert_eq!(server.get("/runs")["items"], json!([]));
    let (status, answer) =
        server.ask("POST", "/rules/test", Some(&json!({"rule": "trigger: goo\nrun: note\n", "last": 1})));
    assert_eq!(status, 422);
    assert!(answer.to_string().contains("did you mean `site.go`"), "{answer}");
    for body in [
        json!({"rule": draft}),
        json!({"rule": draft, "last": 0}),
        json!({"rule": draft, "last": 1, "event_id": 1}),
    ] {
        assert_eq!(server.ask("POST", "/rules/test", Some(&body)).0, 422, "{body}");
    }
}

#[test]
fn the_command_line_tries_a_file_on_a_payload() {
    let server = Server::start(&[GO, NOTE]);
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let rule =
        write("r.yaml", "trigger: go\nwhen: event.a > 1\nrun: note\nwith: {what: \"{{ event.a }}\"}\n");
    let (two, one) = (write("two.json", "{\"a\": 2}"), write("one.json", "{\"a\": 1}"));
    let said = |event: &str| {
        let output = server.cli(&["rules", "test", &rule, "--event", event]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(said(&two), "matched: site.note {\"what\":2}\n1 of 1 events match\n");
    assert_eq!(said(&one), "not matched: `event.a > 1` is false: event.a is 1\n0 of 1 events match\n");
}

#[test]
fn why_tells_the_way_back_to_the_event_and_what_is_waited_for() {
    let asks = "description: d\nsteps:\n  - {id: ok, approve: {ask: Sure?, of: [admin], timeout: 1h}}\n";
    let outer = "description: d\nsteps:\n  - {id: inner, run: asks}\n";
    let rule = "trigger: go\nrun: outer\n";
    let files =
        [GO, ("workflows/asks.yaml", asks), ("workflows/outer.yaml", outer), ("rules/on_go.yaml", rule)];
    let server = Server::start(&files);
    let matches = send(&server, "site.go", json!({}));
    let outer = matches[0]["run"].as_i64().unwrap();
    let children =
        server.wait_for(&format!("/runs?parent={outer}"), |page| page["items"][0]["status"] == "waiting");
    let child = children["items"][0]["id"].as_i64().unwrap();
    let output = server.cli(&["why", &child.to_string()]);
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with(&format!("run {child}: site.asks is waiting, at ok, ")), "{said}");
    assert_eq!(lines[1], format!("<- step `inner` of run {outer}"));
    assert!(lines[2].starts_with(&format!("  <- run {outer}: site.outer is ")), "{said}");
    assert_eq!(lines[3], "    <- rule site.on_go");
    assert!(lines[4].starts_with("      <- event 1: site.go from api, "), "{said}");
    assert!(lines[5].starts_with("step `ok` waits for ") && lines[5].contains("siskin approve 1"), "{said}");
    let bad = server.cli(&["why", "nonsense"]);
    assert_eq!(bad.status.code(), Some(2));
}

#[test]
fn a_rule_with_a_schedule_runs_by_itself_and_no_other_hears_of_its_times() {
    let rule = |when: &str| {
        format!(
            "schedule: {{times: [\"{when}\"], catch_up: all}}\nrun: note\nwith: {{what: \"{{{{ event.missed }}}}\"}}\n"
        )
    };
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(4);
    let (soon, never) =
        (rule(&soon.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()), rule("2999-01-01T00:00:00Z"));
    let server = Server::start(&[NOTE, ("rules/soon.yaml", &soon), ("rules/never.yaml", &never)]);
    let runs = server.wait_for("/runs", |page| !page["items"].as_array().unwrap().is_empty());
    assert_eq!(runs["items"][0]["rule"], "site.soon");
    let event = server.get(&format!("/events/{}", runs["items"][0]["event"]));
    assert_eq!(
        (&event["trigger"], &event["source"]),
        (&json!("core.schedule"), &json!("site.soon.schedule"))
    );
    assert_eq!(event["matches"].as_array().unwrap().len(), 1);
    assert_eq!(server.get("/sources/site.never.schedule")["kind"], "at");
}
