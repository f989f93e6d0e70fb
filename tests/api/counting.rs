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
