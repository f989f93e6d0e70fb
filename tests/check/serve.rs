//! Definitions with mistakes harm no others, and the last good version of each stays in force.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::server::{PATIENCE, Server, repository, siskin, until};

fn saying(word: &str) -> String {
    format!(
        "steps:\n  - id: a\n    run: core.echo\n    with: {{value: {word}}}\noutput: {{said: \"{{{{ steps.a.output.value }}}}\"}}\n"
    )
}

fn says(server: &Server, workflow: &str) -> Value {
    let (_, run) = server.ask("POST", "/runs?wait=30s", Some(&json!({"run": workflow})));
    run["output"]["said"].clone()
}

fn comes_to_say(server: &Server, workflow: &str, word: &str) {
    let found = until(PATIENCE, || (says(server, workflow) == word).then_some(()));
    assert!(found.is_some(), "{workflow} never said {word}: {}", server.log());
}

#[test]
fn what_is_broken_is_left_out_and_the_rest_works() {
    let large = "#".repeat(5_000_000);
    let good = saying("good");
    let server = Server::start(&[
        ("workflows/good.yaml", &good),
        ("workflows/bad.yaml", "steps: []\n"),
        ("workflows/large.yaml", &large),
        ("rules/bad.yaml", "trigger: no.such\nrun: site.good\n"),
        ("rules/of_bad.yaml", "trigger: github.ping\nrun: site.bad\n"),
        ("rules/good.yaml", "trigger: github.ping\nrun: site.good\n"),
    ]);
    assert_eq!(says(&server, "site.good"), "good");
    let (status, problem) = server.ask("POST", "/runs", Some(&json!({"run": "site.bad"})));
    assert_eq!(status, 404);
    assert!(problem["detail"].as_str().unwrap().contains("workflows/bad.yaml:1:8"), "{problem}");
    let event =
        server.post("/events", &json!({"trigger": "github.ping", "payload": {}}))["event"].as_i64().unwrap();
    let event = server.wait_for(&format!("/events/{event}"), |event| !event["routed_at"].is_null());
    let rules: Vec<&Value> =
        event["matches"].as_array().unwrap().iter().map(|found| &found["rule"]).collect();
    assert_eq!(rules, ["site.good"]);
}

#[test]
fn a_broken_new_version_keeps_the_last_good_one_also_over_a_restart() {
    let mut server =
        Server::start(&[("workflows/w.yaml", &saying("one")), ("workflows/other.yaml", &saying("a"))]);
    server.write("workflows/w.yaml", &saying("two"));
    comes_to_say(&server, "site.w", "two");
    for (broken, mark) in [
        (saying("three").replace("core.echo", "core.ecko"), "b"),
        (String::new(), "c"),
        ("#".repeat(5_000_000), "d"),
    ] {
        server.write("workflows/w.yaml", &broken);
        server.write("workflows/other.yaml", &saying(mark));
        comes_to_say(&server, "site.other", mark);
        assert_eq!(says(&server, "site.w"), "two");
    }
    server.kill();
    server.run();
    assert_eq!(says(&server, "site.w"), "two");
    server.write("workflows/w.yaml", &saying("four"));
    comes_to_say(&server, "site.w", "four");
}

/// What a server says that can't start: one line.
fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[test]
fn a_server_that_cannot_start_says_in_one_line_what_to_do() {
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let serve = |listen: &str, data: &std::path::Path| {
        let mut command = siskin();
        command.args(["serve", "--listen", listen, "--site"]).arg(folder.path()).arg("--data").arg(data);
        refused(&mut command)
    };
    let address = server.url().trim_start_matches("http://").to_owned();
    let said = serve(&address, &folder.path().join("data"));
    assert!(said.contains("is taken") && said.contains("--listen"), "{said}");
    let said = serve("127.0.0.1:0", &server.data());
    assert!(said.contains("another siskin") && said.contains("--data"), "{said}");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let said = serve("127.0.0.1:0", &file);
    assert!(said.contains("can't be used") && said.contains("--data"), "{said}");
    let said = serve("nonsense", &folder.path().join("data"));
    assert!(said.contains("nonsense") && said.contains("--listen"), "{said}");
}

#[test]
fn init_writes_a_site_that_checks_and_serves() {
    let folder = tempfile::tempdir().unwrap();
    let site = folder.path().join("new/site");
    let init = || siskin().arg("init").arg(&site).output().unwrap();
    assert!(init().status.success());
    let check = siskin().args(["check", "--site"]).arg(&site).output().unwrap();
    assert!(check.status.success(), "{check:?}");
    assert_eq!(init().status.code(), Some(1), "it overwrites nothing");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let on_file = siskin().arg("init").arg(&file).output().unwrap();
    assert_eq!(on_file.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&on_file.stderr).contains("is a file"));
}

#[test]
fn the_repository_of_siskin_is_itself_a_site_without_mistakes() {
    let check = siskin().args(["check", "--site"]).arg(repository("")).output().unwrap();
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn sigterm_stops_it_cleanly_and_the_same_data_go_on() {
    let mut server = Server::start(&[("workflows/w.yaml", &saying("one"))]);
    assert_eq!(says(&server, "site.w"), "one");
    let token = server.token();
    assert_eq!(server.stop().code(), Some(0));
    server.run();
    assert_eq!(server.token(), token);
    assert_eq!(server.get("/runs")["items"][0]["output"]["said"], "one");
}
