//! `siskin test` from outside: what it prints, how it exits, and a test that is written from a real run.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::server::{Server, siskin};

const WORKFLOW: &str = "description: d
input: {n: integer}
steps:
  - {id: a, run: core.echo, with: {value: {n: \"{{ input.n }}\", text: \"a: 'b' #c\"}}, undo: {run: core.noop}}
  - {id: gate, approve: {ask: Go?, of: [admin], distinct_from: none, fields: {ticket: string}}}
  - {id: b, run: core.fail, with: {message: no luck}}
";

fn test(site: &Path, args: &[&str]) -> Output {
    siskin().arg("test").arg("--site").arg(site).args(args).env("NO_COLOR", "1").output().unwrap()
}

fn site(test: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in [("workflows/w.yaml", WORKFLOW), ("tests/w.yaml", test)] {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

#[test]
fn a_failed_case_is_told_with_its_place_its_differences_and_what_happened() {
    let folder = site(
        "workflow: w
cases:
  - name: nobody answers
    input: {n: 1}
    expect: {status: failed, steps: {gate: timed_out}}
  - name: somebody does
    input: {n: 1}
    answers: {gate: {by: ada, answers: {ticket: OPS-1}}}
    expect: {status: succeeded}
",
    );
    let said = test(folder.path(), &[]);
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    for part in [
        "✔ site.w  nobody answers\n",
        "✘ site.w  somebody does\n    tests/w.yaml:6:5\n",
        "status: expected succeeded, got failed (b: no luck)",
        "gate asks admin: Go?",
        "1 passed, 1 failed",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let said = test(folder.path(), &["--json"]);
    let shown: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((&shown["ok"], &shown["passed"], &shown["failed"]), (&json!(false), &json!(1), &json!(1)));
    let difference = &shown["cases"][1]["differences"][0];
    assert_eq!(difference["path"], "status");
    assert_eq!((&difference["expected"], &difference["got"]), (&json!("succeeded"), &json!("failed")));
}

#[test]
fn the_exit_status_says_passed_failed_or_wrong_use() {
    let folder = site("workflow: w\ncases: [{name: x, input: {n: 1}, expect: {steps: {a: succeeded}}}]\n");
    for names in [&[][..], &["w"], &["site.w"], &["tests/w.yaml"]] {
        let said = test(folder.path(), names);
        assert_eq!(said.status.code(), Some(0), "{said:?}");
    }
    let said = test(folder.path(), &["nothing"]);
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    fs::write(folder.path().join("tests/v.yaml"), "workflow: v\ncases: []\n").unwrap();
    let said = test(folder.path(), &[]);
    assert_eq!(said.status.code(), Some(1), "a mistake in a test: {said:?}");
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(text.contains("tests/v.yaml:1:11") && text.contains("1 passed"), "{text}");
}

#[test]
fn a_test_written_from_a_run_passes() {
    let server = Server::start(&[("workflows/w.yaml", WORKFLOW)]);
    let run = server.post("/runs", &json!({"run": "site.w", "with": {"n": 3}}))["id"].as_i64().unwrap();
    let waiting = server.wait_for(&format!("/runs/{run}"), |run| run["status"] == "waiting");
    let early = server.cli(&["test", "--from-run", &run.to_string()]);
    assert_eq!(early.status.code(), Some(2), "it has not ended: {early:?}");
    let approval = waiting["waits"][0]["approval"].clone();
    let answer = json!({"comment": "fine: \"yes\"", "answers": {"ticket": "12345e7"}});
    server.post(&format!("/approvals/{approval}/approve"), &answer);
    server.wait_for_end(run);
    let written = server.cli(&["test", "--from-run", &run.to_string()]);
    assert!(written.status.success(), "{written:?}");
    let text = String::from_utf8_lossy(&written.stdout).into_owned();
    server.write("tests/run.yaml", &text);
    let said = test(&server.site(), &["run"]);
    assert!(said.status.success(), "{text}\n{said:?}");
    for part in ["undone: [a]", "gate:", "ticket: \"12345e7\"", "status: failed"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let missing = server.cli(&["test", "--from-run", "99"]);
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
}
