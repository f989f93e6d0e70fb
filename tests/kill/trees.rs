//! Cancel and timeout reach whatever an action started, wherever it went.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::processes::Process;
use crate::support::server::{PATIENCE, Server, until};

/// A child, one that left the session, and one that did so twice and has no parent left; none heeds SIGTERM.
const TREE: &str = r#"description: Starts a tree of processes that want to stay.
input:
  folder: string
steps:
  - id: tree
    shell: |
      trap '' TERM HUP INT
      cat >stay <<'END'
      trap '' TERM HUP INT
      echo "$$" >>"$FOLDER/pids"
      while :; do sleep 1000; done
      END
      sh stay &
      setsid sh stay &
      setsid sh -c 'setsid sh stay </dev/null >/dev/null 2>&1 &' &
      echo "$$" >>"$FOLDER/pids"
      while :; do sleep 1000; done
    env: {FOLDER: "{{ input.folder }}"}
    timeout: TIMEOUT
finally:
  - id: tidy
    run: core.echo
    with: {value: tidy}
"#;
/// SIGTERM, ten seconds of grace, SIGKILL; and a slow machine.
const SOON: Duration = Duration::from_secs(45);

fn tree(timeout: &str) -> (Server, tempfile::TempDir, i64) {
    let server = Server::start(&[("workflows/tree.yaml", &TREE.replace("TIMEOUT", timeout))]);
    let folder = tempfile::tempdir().unwrap();
    let with = json!({"folder": folder.path()});
    let run = server.post("/runs", &json!({"run": "site.tree", "with": with}))["id"].as_i64().unwrap();
    (server, folder, run)
}

fn the_four(folder: &Path) -> Vec<Process> {
    let found = until(PATIENCE, || {
        let text = fs::read_to_string(folder.join("pids")).unwrap_or_default();
        let pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        (pids.len() == 4).then_some(pids)
    });
    found.unwrap().into_iter().filter_map(Process::of).collect()
}

fn assert_gone(processes: &[Process]) {
    let gone = until(SOON, || processes.iter().all(|process| !process.is_alive()).then_some(()));
    assert!(gone.is_some(), "still alive: {processes:?}");
}

fn step<'a>(run: &'a Value, id: &str) -> &'a Value {
    run["steps"].as_array().unwrap().iter().find(|step| step["id"] == id).unwrap()
}

#[test]
fn cancel_ends_a_whole_tree_of_processes() {
    let (server, folder, run) = tree("1h");
    let processes = the_four(folder.path());
    assert_eq!(processes.len(), 4);
    server.post(&format!("/runs/{run}/cancel"), &json!({}));
    let ended = server.wait_for_end(run);
    // Not before they are gone is it said that they are.
    assert!(processes.iter().all(|process| !process.is_alive()), "{processes:?}");
    assert_eq!(ended["status"], "cancelled", "{ended}");
    assert_eq!(step(&ended, "tree")["status"], "cancelled", "{ended}");
    assert_eq!(step(&ended, "tidy")["status"], "succeeded", "{ended}");
}

#[test]
fn a_timeout_ends_a_whole_tree_of_processes() {
    let (server, folder, run) = tree("3s");
    let processes = the_four(folder.path());
    let ended = server.wait_for_end(run);
    assert_gone(&processes);
    assert_eq!(ended["status"], "failed", "{ended}");
    assert_eq!(step(&ended, "tree")["status"], "timed_out", "{ended}");
    assert_eq!(step(&ended, "tree")["error"]["kind"], "timed_out", "{ended}");
    assert_eq!(step(&ended, "tidy")["status"], "succeeded", "{ended}");
}

#[test]
fn a_killed_server_takes_a_whole_tree_of_processes_along() {
    let (mut server, folder, _) = tree("1h");
    let processes = the_four(folder.path());
    server.kill();
    assert_gone(&processes);
}
