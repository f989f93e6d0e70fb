//! Rerun and rollback, by the API and by the command line.

use serde_json::{Value, json};

use crate::support::server::Server;

/// Each step and each undo writes a line into the key `said`; `c` fails while the key `break` is set.
const SHIP: &str = "description: d
input: {word: {type: string, default: first}}
steps:
  - id: a
    run: core.echo
    with: {value: \"{{ input.word }}\"}
    undo: {run: core.kv_set, with: {key: undone/a, value: \"{{ steps.a.output.value }}\"}}
  - {id: b, run: child, with: {word: \"{{ input.word }}\"}}
  - {id: c, run: core.kv_get, with: {key: go}}
  - id: d
    when: steps.c.output.value != true
    run: core.fail
    with: {message: not yet}
";
const CHILD: &str = "description: d
input: {word: string}
steps:
  - id: x
    run: core.echo
    with: {value: \"{{ input.word }}\"}
    undo: {run: core.kv_set, with: {key: undone/x, value: \"{{ steps.x.output.value }}\"}}
";

fn site() -> Server {
    Server::start(&[("workflows/ship.yaml", SHIP), ("workflows/child.yaml", CHILD)])
}

fn let_it_go(server: &Server) {
    let (status, answer) = server.ask("PUT", "/kv/go", Some(&json!({"value": true})));
    assert!(status < 300, "{answer}");
}

fn step<'a>(run: &'a Value, id: &str) -> &'a Value {
    run["steps"].as_array().unwrap().iter().find(|step| step["id"] == id).unwrap()
}

#[test]
fn a_failed_run_takes_its_child_run_back_with_its_own_undos() {
    let server = site();
    let run = server.run_to_end("site.ship", json!({}));
    assert_eq!((&run["status"], &run["undone"]), (&json!("failed"), &json!("all")));
    assert_eq!(server.get("/kv/undone/x")["value"], "first");
    assert_eq!(server.get("/kv/undone/a")["value"], "first");
    let (status, answer) =
        server.ask("POST", &format!("/runs/{}/rerun", run["id"]), Some(&json!({"from": "c"})));
    assert_eq!(status, 409, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("step `a` can't be kept"), "{answer}");
}

#[test]
fn a_run_that_succeeded_is_rolled_back_once_and_keeps_its_status() {
    let server = site();
    let_it_go(&server);
    let run = server.run_to_end("site.ship", json!({"word": "second"}));
    assert_eq!(run["status"], "succeeded", "{run}");
    let id = run["id"].to_string();
    let plan = server.cli(&["rollback", &id, "--dry-run"]);
    let text = String::from_utf8(plan.stdout).unwrap();
    assert!(text.contains("b: roll back run") && text.contains("a: core.kv_set"), "{text}");
    assert_eq!(server.ask("GET", "/kv/undone/a", None).0, 404, "a dry run does nothing");
    assert_eq!(server.cli(&["rollback", &id]).status.code(), Some(2), "nobody is there to be asked");
    let back = server.cli(&["rollback", &id, "--yes", "--json"]);
    let back: Value = serde_json::from_slice(&back.stdout).unwrap();
    assert_eq!((&back["status"], &back["rollback_of"]), (&json!("succeeded"), &run["id"]));
    assert_eq!(step(&back, "a/undo")["status"], "succeeded");
    assert_eq!(server.get("/kv/undone/x")["value"], "second");
    assert_eq!(server.get(&format!("/runs/{id}"))["status"], "succeeded");
    let (status, answer) = server.ask("POST", &format!("/runs/{id}/rollback"), Some(&json!({})));
    assert_eq!(status, 409, "{answer}");
}

#[test]
fn a_rerun_from_a_step_keeps_what_came_before_it_and_takes_changed_input() {
    let server = site();
    let_it_go(&server);
    let run = server.run_to_end("site.ship", json!({}));
    let id = run["id"].to_string();
    let again = server.cli(&["rerun", &id, "--from", "b", "word=changed", "--json"]);
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((&again["status"], &again["rerun_of"]), (&json!("succeeded"), &run["id"]));
    assert_eq!((&step(&again, "a")["kept_from"], &again["input"]["word"]), (&run["id"], &json!("changed")));
    assert_ne!(step(&again, "b")["run"], step(&run, "b")["run"], "the child is another run");
    let (status, answer) =
        server.ask("POST", &format!("/runs/{id}/rerun"), Some(&json!({"from": "nothing"})));
    assert_eq!(status, 422, "{answer}");
}
