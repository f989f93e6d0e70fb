//! Saved definitions come into force by themselves, whole, within a second; and whatever happens to the folder, the server goes on with the last good
//! ones and says so.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::server::{PATIENCE, Server, siskin, until};

/// What a test that waits may take beside the second that is promised: many tests share the machine.
const A_SECOND: Duration = Duration::from_secs(1);

fn echo(word: &str) -> String {
    format!("trigger: github.ping\nrun: core.echo\nwith: {{value: {word}}}\n")
}

/// What each rule of `github.ping` would run with, in order of name.
fn words(server: &Server) -> Vec<String> {
    let event =
        server.post("/events", &json!({"trigger": "github.ping", "payload": {}}))["event"].as_i64().unwrap();
    let dry = server.post(&format!("/events/{event}/replay"), &json!({"dry_run": true}));
    let rules = dry["rules"].as_array().unwrap();
    rules.iter().filter_map(|rule| rule["with"]["value"].as_str()).map(str::to_owned).collect()
}

fn state(server: &Server) -> Value {
    server.get("/definitions")
}

fn readyz(server: &Server) -> (u16, Value) {
    let answer = crate::support::server::client().get(format!("{}/readyz", server.url())).send().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.text().unwrap()).unwrap())
}

/// Waits until the folder as it is now was looked at, and gives what the server says of it.
fn settled(server: &Server, wanted: impl Fn(&Value) -> bool) -> Value {
    server.wait_for("/definitions", wanted)
}

fn has_mistakes(state: &Value) -> bool {
    !state["mistakes"].as_array().unwrap().is_empty()
}

#[test]
fn a_saved_file_is_in_force_within_a_second() {
    let server = Server::start(&[("rules/a.yaml", &echo("one"))]);
    assert_eq!(words(&server), ["one"]);
    // The best of a few: what else runs on the machine is not the server's.
    let mut best = PATIENCE;
    for word in ["two", "three", "four", "five"] {
        let revision = state(&server)["revision"].clone();
        server.write("rules/a.yaml", &echo(word));
        let saved = Instant::now();
        until(PATIENCE, || (state(&server)["revision"] != revision).then_some(())).unwrap();
        best = best.min(saved.elapsed());
        assert_eq!(words(&server), [word]);
    }
    assert!(best < A_SECOND, "{best:?}");
}

#[test]
fn a_broken_file_keeps_its_last_good_version_and_that_is_said_everywhere() {
    let server = Server::start(&[("rules/a.yaml", &echo("one")), ("rules/b.yaml", &echo("bee"))]);
    assert_eq!(state(&server)["mistakes"], json!([]));
    assert_eq!(readyz(&server), (200, json!({"status": "ready", "warnings": [], "missing": []})));
    let garbage = "\u{0}\u{1}\u{feff}: [}{ - & * !x";
    for broken in ["trigger: github.ping\nrun: core.ecko\n", "", "trigger: [github.ping", garbage] {
        server.write("rules/a.yaml", broken);
        let state = settled(&server, has_mistakes);
        assert_eq!(state["mistakes"][0]["file"], "rules/a.yaml", "{state}");
        assert_eq!(state["kept"], json!(["rules/a.yaml"]));
        assert_eq!(words(&server), ["one", "bee"], "{broken:?}");
        let (status, ready) = readyz(&server);
        assert_eq!((status, &ready["status"]), (200, &json!("ready")));
        let warnings = ready["warnings"].to_string();
        assert!(warnings.contains("rules/a.yaml:") && warnings.contains("last good version"), "{warnings}");
        let check = siskin().args(["check", "--site"]).arg(server.site()).output().unwrap();
        assert_eq!(check.status.code(), Some(1));
        server.write("rules/a.yaml", &echo("one"));
        settled(&server, |state| !has_mistakes(state));
        assert_eq!(readyz(&server).1["warnings"], json!([]));
    }
    let log = server.log();
    assert!(log.contains("rules/a.yaml:2:6") && log.contains("core.ecko"), "{log}");
    assert!(log.contains("the last good version stays in force of rules/a.yaml"), "{log}");
}

#[test]
fn a_file_that_is_being_written_is_taken_in_when_it_is_whole() {
    use std::io::Write;
    let server = Server::start(&[("rules/a.yaml", &echo("one"))]);
    let before = state(&server)["revision"].clone();
    // Each part of it would do by itself; the last word is in its last part.
    let path = server.site().join("rules/a.yaml");
    let mut file = fs::File::create(&path).unwrap();
    for line in echo("whole").lines() {
        writeln!(file, "{line}").unwrap();
        file.flush().unwrap();
    }
    drop(file);
    settled(&server, |state| state["revision"] != before);
    assert_eq!(words(&server), ["whole"]);
    assert!(!server.log().contains("has a mistake"));
}

#[test]
fn files_and_folders_go_away_and_come_back() {
    let server = Server::start(&[("rules/a.yaml", &echo("one")), ("rules/b.yaml", &echo("two"))]);
    fs::remove_file(server.site().join("rules/b.yaml")).unwrap();
    until(PATIENCE, || (words(&server) == ["one"]).then_some(())).unwrap();
    let (rules, aside) = (server.site().join("rules"), server.site().join("rules-aside"));
    fs::rename(&rules, &aside).unwrap();
    until(PATIENCE, || words(&server).is_empty().then_some(())).unwrap();
    fs::rename(&aside, &rules).unwrap();
    until(PATIENCE, || (words(&server) == ["one"]).then_some(())).unwrap();
    // Without the folder there is nothing to go by: what was good stays.
    let (site, aside) = (server.site(), server.site().with_extension("aside"));
    fs::rename(&site, &aside).unwrap();
    let state = settled(&server, |state| !state["unreadable"].is_null());
    assert!(state["unreadable"].as_str().unwrap().contains("--site"), "{state}");
    assert_eq!(words(&server), ["one"]);
    let (status, ready) = readyz(&server);
    assert!(status == 200 && ready["warnings"].to_string().contains("can't be read"), "{ready}");
    fs::rename(&aside, &site).unwrap();
    settled(&server, |state| state["unreadable"].is_null());
    assert_eq!(readyz(&server).1["warnings"], json!([]));
}

#[test]
fn a_change_that_breaks_a_file_it_did_not_touch_is_not_taken_in() {
    let workflow =
        "input: {word: string}\nsteps:\n  - {id: a, run: core.echo, with: {value: \"{{ input.word }}\"}}\n";
    let rule = "trigger: github.ping\nrun: site.w\nwith: {word: old}\n";
    let mut server = Server::start(&[("rules/a.yaml", rule), ("workflows/w.yaml", workflow)]);
    let runs = |server: &Server| {
        let event = server.post("/events", &json!({"trigger": "github.ping", "payload": {}}))["event"]
            .as_i64()
            .unwrap();
        let dry = server.post(&format!("/events/{event}/replay"), &json!({"dry_run": true}));
        assert_eq!(dry["matched"], 1, "{dry}");
        dry["rules"][0]["with"].clone()
    };
    let path = server.site().join("workflows/w.yaml");
    fs::remove_file(&path).unwrap();
    let state = settled(&server, has_mistakes);
    assert_eq!(
        (&state["mistakes"][0]["file"], &state["kept"]),
        (&json!("rules/a.yaml"), &json!(["workflows/w.yaml"]))
    );
    assert_eq!(runs(&server), json!({"word": "old"}));
    server.write("workflows/w.yaml", &workflow.replace("word", "text"));
    let state = settled(&server, |state| state["mistakes"].to_string().contains("text"));
    assert_eq!(state["kept"], json!(["workflows/w.yaml"]), "{state}");
    assert_eq!(runs(&server), json!({"word": "old"}));
    // Also over a restart, and until both fit.
    server.kill();
    server.run();
    assert_eq!(runs(&server), json!({"word": "old"}));
    server.write("rules/a.yaml", &rule.replace("word: old", "text: new"));
    settled(&server, |state| !has_mistakes(state));
    assert_eq!(runs(&server), json!({"text": "new"}));
}

#[test]
fn a_file_that_cannot_be_read_harms_no_other() {
    let server = Server::start(&[("rules/a.yaml", &echo("one")), ("rules/b.yaml", &echo("bee"))]);
    // Larger than any definition: refused for every user, also for root.
    let path = server.site().join("rules/a.yaml");
    fs::File::create(&path).unwrap().set_len(5_000_000).unwrap();
    server.write("rules/b.yaml", &echo("bumble"));
    let state = settled(&server, has_mistakes);
    assert!(state["mistakes"][0]["message"].as_str().unwrap().contains("can't be read"), "{state}");
    until(PATIENCE, || (words(&server) == ["one", "bumble"]).then_some(())).unwrap();
}

#[test]
fn what_editors_leave_beside_a_file_changes_nothing() {
    let server = Server::start(&[("rules/a.yaml", &echo("one"))]);
    let revision = state(&server)["revision"].clone();
    let rules = server.site().join("rules");
    for name in ["a.yaml~", ".a.yaml.swp", "#a.yaml#", "4913", "a.yaml___jb_tmp___", ".a.yaml.kate-swp"] {
        fs::write(rules.join(name), "trigger: [\u{0}").unwrap();
    }
    symlink("somebody@somewhere.1234", rules.join(".#a.yaml")).unwrap();
    symlink("loop", rules.join("loop")).unwrap();
    nix::unistd::mkfifo(&rules.join("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    // As editors save: a new file in place of the old one.
    fs::write(rules.join(".new"), echo("two")).unwrap();
    fs::rename(rules.join(".new"), rules.join("a.yaml")).unwrap();
    let state = settled(&server, |state| state["revision"] != revision);
    assert_eq!(state["mistakes"], json!([]));
    assert_eq!(words(&server), ["two"]);
}

#[test]
fn many_changes_at_once_come_into_force_together() {
    let rule = |number: usize| format!("trigger: github.ping\nrun: site.w{number}\n");
    let workflow = |word: &str| format!("steps:\n  - {{id: a, run: core.echo, with: {{value: {word}}}}}\n");
    let server = Server::start(&[]);
    let before = state(&server)["revision"].clone();
    // Rules first, as a checkout may write them: none of them is good before its workflow is there.
    for number in 0..60 {
        server.write(&format!("rules/r{number}.yaml"), &rule(number));
    }
    for number in 0..60 {
        server.write(&format!("workflows/w{number}.yaml"), &workflow("x"));
    }
    until(PATIENCE, || (server.get("/rules")["items"].as_array().unwrap().len() >= 60).then_some(()))
        .unwrap();
    let state = settled(&server, |state| state["revision"] != before && !has_mistakes(state));
    assert_eq!(state["left_out"], json!({}));
    assert_eq!(server.get("/rules")["items"].as_array().unwrap().len(), 60);
}
