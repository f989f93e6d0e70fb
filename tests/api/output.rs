//! What actions print, while they print it, against a real server.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::server::{PATIENCE, Server, client, until};

/// A workflow whose one step runs this script, told of a folder.
fn with(script: &str) -> (Server, tempfile::TempDir) {
    let workflow = format!(
        "description: d\ninput: {{folder: string}}\nsteps:\n  - id: a\n    shell: |\n      {}\n    env: {{FOLDER: \"{{{{ input.folder }}}}\"}}\n",
        script.replace('\n', "\n      ")
    );
    let folder = tempfile::tempdir().unwrap();
    (Server::start(&[("workflows/w.yaml", &workflow)]), folder)
}

fn start(server: &Server, folder: &tempfile::TempDir) -> i64 {
    let with = json!({"folder": folder.path()});
    server.post("/runs", &json!({"run": "site.w", "with": with}))["id"].as_i64().unwrap()
}

/// Follows a run from its beginning, or from an event on.
fn follow(server: &Server, run: i64, last: Option<&str>) -> BufReader<reqwest::blocking::Response> {
    let mut request = client()
        .get(format!("{}/api/v1/runs/{run}/log?follow=1", server.url()))
        .timeout(Duration::from_secs(300))
        .bearer_auth(server.token());
    if let Some(last) = last {
        request = request.header("Last-Event-ID", last);
    }
    BufReader::new(request.send().unwrap().error_for_status().unwrap())
}

/// The texts of lines with the ids of their events, up to the end or the `most`th.
fn texts(follower: &mut impl std::io::BufRead, most: usize) -> Vec<(String, String)> {
    let (mut found, mut id, mut is_line) = (Vec::new(), String::new(), false);
    for line in follower.lines() {
        let line = line.unwrap();
        if let Some(name) = line.strip_prefix("event: ") {
            if name == "end" {
                break;
            }
            is_line = name == "line";
        } else if let Some(number) = line.strip_prefix("id: ") {
            id = number.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ").filter(|_| is_line) {
            let data: Value = serde_json::from_str(data).unwrap();
            found.push((data["text"].as_str().unwrap().to_owned(), id.clone()));
            if found.len() == most {
                break;
            }
        }
    }
    found
}

fn words(found: &[(String, String)]) -> Vec<&str> {
    found.iter().map(|(text, _)| text.as_str()).collect()
}

#[test]
fn lines_come_while_it_runs_and_who_comes_late_or_again_sees_each_once() {
    let script = "echo one\necho two\nuntil test -e \"$FOLDER/go\"; do sleep 0.05; done\necho three";
    let (server, folder) = with(script);
    let run = start(&server, &folder);
    let mut early = follow(&server, run, None);
    let seen = texts(&mut early, 2);
    assert_eq!(words(&seen), ["one", "two"]);
    // It hangs up, and goes on after the first line; another comes only now.
    drop(early);
    let mut again = follow(&server, run, Some(&seen[0].1));
    let mut late = follow(&server, run, None);
    fs::write(folder.path().join("go"), "").unwrap();
    assert_eq!(words(&texts(&mut again, usize::MAX)), ["two", "three"]);
    assert_eq!(words(&texts(&mut late, usize::MAX)), ["one", "two", "three"]);
    assert_eq!(server.wait_for_end(run)["status"], "succeeded");
    // After the end it is the same.
    assert_eq!(words(&texts(&mut follow(&server, run, None), usize::MAX)), ["one", "two", "three"]);
}

#[test]
fn bytes_that_are_no_text_carriage_returns_and_colours_survive() {
    let script = "printf 'a\\377b\\n'\nprintf '10%%\\r20%%\\r100%%\\n'\nprintf '\\033[31mred\\033[0m\\n'\nprintf 'no end'";
    let (server, folder) = with(script);
    let run = start(&server, &folder);
    assert_eq!(server.wait_for_end(run)["status"], "succeeded");
    let seen = texts(&mut follow(&server, run, None), usize::MAX);
    let seen = words(&seen);
    assert_eq!(seen[0], "a\u{fffd}b");
    assert!(seen[1].ends_with("100%"), "{seen:?}");
    assert!(seen.contains(&"\u{1b}[31mred\u{1b}[0m"), "{seen:?}");
    assert_eq!(*seen.last().unwrap(), "no end");
}

#[test]
fn a_hundred_megabytes_take_bounded_memory_and_a_slow_follower_slows_nothing() {
    let script = "head -c 100000000 /dev/zero | tr '\\0' 'x' | fold -w 1000\necho the end";
    let (server, folder) = with(script);
    let run = start(&server, &folder);
    // It reads nothing at all.
    let slow = follow(&server, run, None);
    let ended = until(4 * PATIENCE, || {
        let run = server.get(&format!("/runs/{run}"));
        run["finished_at"].is_string().then_some(run)
    });
    let ended = ended.expect("it ends, whoever reads");
    assert_eq!(ended["status"], "succeeded", "{ended}");
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 400_000, "{peak} kB at the most");
    // The slow one finds everything there.
    let mut bytes = 0;
    let mut buffer = vec![0; 1 << 16];
    let mut slow = slow;
    while bytes < 1_000_000 {
        let read = slow.read(&mut buffer).unwrap();
        assert!(read > 0, "it ended after {bytes} bytes");
        bytes += read;
    }
}

#[test]
fn ten_thousand_cancels_at_once_end_what_runs_once_each() {
    let workflow =
        "description: d\nsteps:\n  - {id: nap, sleep: 1h}\nfinally:\n  - {id: last, run: core.noop}\n";
    let server = Server::start(&[("workflows/w.yaml", workflow)]);
    let runs: Vec<i64> =
        (0..200).map(|_| server.post("/runs", &json!({"run": "site.w"}))["id"].as_i64().unwrap()).collect();
    std::thread::scope(|scope| {
        for sender in 0..10 {
            let (server, runs) = (&server, &runs);
            scope.spawn(move || {
                for round in 0..5 {
                    for run in runs {
                        let (status, answer) = server.ask("POST", &format!("/runs/{run}/cancel"), None);
                        assert!([200, 409].contains(&status), "{sender} {round}: {status} {answer}");
                    }
                }
            });
        }
    });
    for run in runs {
        let ended = server.wait_for_end(run);
        assert_eq!(ended["status"], "cancelled", "{ended}");
    }
}
