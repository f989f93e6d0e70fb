//! `exec`: programs that print events.

use std::fs;

use serde_json::{Value, json};

use super::{payloads, start, wait_for_events, wait_for_health};
use crate::support::server::{PATIENCE, Server, until};

/// Counts on from where it was told, up to 3,000.
const COUNTER: &str = r#"kind: exec
trigger: printed
command: |
  echo $$ >> PIDS
  sleep 1000 &
  echo $! >> PIDS
  i=${SISKIN_CURSOR:-0}
  while [ "$i" -lt 3000 ]; do i=$((i + 1)); [ $((i % 100)) = 0 ] && sleep 0.05; echo "{\"number\": $i}"; done
  wait
cursor: "{{ body.number }}"
"#;

fn numbers(server: &Server) -> Vec<u64> {
    let mut all = Vec::new();
    let mut before = String::new();
    loop {
        let page = server.get(&format!("/events?source=site.counter&limit=500{before}"));
        let items = page["items"].as_array().unwrap().clone();
        let Some(last) = items.last() else { break };
        before = format!(
            "&cursor={}",
            page["next"].as_str().map_or_else(|| last["id"].to_string(), str::to_owned)
        );
        all.extend(items.iter().map(|event| number(server, event)));
        if page["next"].is_null() {
            break;
        }
    }
    all.reverse();
    all
}

fn number(server: &Server, event: &Value) -> u64 {
    super::payload(server, event.clone())["number"].as_u64().unwrap()
}

fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn what_a_program_prints_is_stored_once_whoever_is_killed_and_nothing_of_it_outlives_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let text = COUNTER.replace("PIDS", &pids.display().to_string());
    let mut server = start(&[("sources/counter.yaml", &text)]);
    wait_for_events(&server, "site.counter", 1);
    server.kill();
    server.run();
    let done = |server: &Server| {
        server.wait_for("/events?source=site.counter&limit=1", |list| {
            list["items"]
                .as_array()
                .and_then(|items| items.first())
                .is_some_and(|event| number(server, event) == 3000)
        });
    };
    done(&server);
    assert_eq!(numbers(&server), (1..=3000).collect::<Vec<_>>());
    let health = wait_for_health(&server, "site.counter", |health| health["state"] == "watching");
    assert_eq!(health["restarts"], 0);

    assert!(server.stop().success());
    let pids = fs::read_to_string(pids).unwrap();
    let alive = || pids.lines().filter(|pid| is_alive(pid)).count();
    assert!(until(PATIENCE, || (alive() == 0).then_some(())).is_some(), "{pids}");
}

#[test]
fn a_program_that_ends_begins_again_and_says_why() {
    let server = start(&[(
        "sources/brief.yaml",
        "kind: exec\ntrigger: printed\ncommand: [sh, -c, \"echo '[{\\\"n\\\": 1}, {\\\"n\\\": 2}]'; echo no json; echo 'out of cheese' >&2; exit 3\"]\neach: body\ndedup: \"{{ item.n }}\"\n",
    )]);
    let health = wait_for_health(&server, "site.brief", |health| health["restarts"].as_u64() >= Some(1));
    assert!(health["last_error"].as_str().is_some());
    let health = wait_for_health(&server, "site.brief", |health| health["state"] == "failing");
    assert_eq!(health["problem"], "the program ended (exit status 3): out of cheese");
    assert!(health["refused"].as_u64() >= Some(1), "{health}");
    // Its output came more than once, its events did not.
    let said = payloads(&server, "site.brief");
    assert_eq!(said, [json!({"n": 1}), json!({"n": 2})]);
}

#[test]
fn a_program_gets_its_secrets_by_its_environment() {
    let server = start(&[(
        "sources/env.yaml",
        r#"kind: exec
trigger: printed
command: |
  printf '{"length": %s}\n' "$(printf %s "$KEY" | wc -c)"
  sleep 1000
env: {KEY: "{{ secret('key') }}"}
"#,
    )]);
    wait_for_health(&server, "site.env", |health| {
        health["problem"].as_str().is_some_and(|why| why.contains("secret `key`"))
    });
    server.set_secret("key", "12345678");
    assert_eq!(wait_for_events(&server, "site.env", 1), [json!({"length": 8})]);
}
