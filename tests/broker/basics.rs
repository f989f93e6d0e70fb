//! What works inside one process works over the broker.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::stage::{PACK, Stage, action, is_alive, step, wait_until};
use crate::support::rabbitmq;

#[test]
fn a_run_is_done_by_a_worker_elsewhere_and_its_lines_and_output_come_back() {
    let work = action(false, "echo \"hello from $SISKIN_STEP\"\necho done >>\"$FOLDER/done\"");
    let stage = Stage::new(&[PACK, ("packs/local/actions/work.yaml", &work)]);
    let _worker = stage.worker();
    let run = stage.run("local.work");
    assert_eq!(run["status"], "succeeded", "{run}");
    assert_eq!(stage.read("done"), "done\n");
    let log = stage.log_of(run["id"].as_i64().unwrap());
    assert!(log.contains("hello from"), "{log}");
    let run = stage.server.run_to_end("core.echo", json!({"value": [1, {"a": "b"}]}));
    assert_eq!(run["output"]["value"], json!([1, {"a": "b"}]), "{run}");
    let set = stage.server.run_to_end("core.kv_set", json!({"key": "a", "value": {"b": 1}}));
    assert_eq!(set["status"], "succeeded", "{set}");
    let got = stage.server.run_to_end("core.kv_get", json!({"key": "a"}));
    assert_eq!(got["output"]["value"], json!({"b": 1}), "{got}");
}

#[test]
fn lines_are_seen_while_the_action_runs_and_a_cancel_ends_its_process_group() {
    let work =
        action(false, "sleep 1000 &\necho $! >\"$FOLDER/child\"\necho $$ >\"$FOLDER/pid\"\necho begun\nwait");
    let stage = Stage::new(&[PACK, ("packs/local/actions/work.yaml", &work)]);
    let _worker = stage.worker();
    let run = stage.start("local.work");
    let (child, pid) = (stage.wait_for_file("child"), stage.wait_for_file("pid"));
    wait_until("the line is seen", || stage.log_of(run).contains("begun"));
    assert!(is_alive(&child) && is_alive(&pid));
    stage.server.post(&format!("/runs/{run}/cancel"), &json!({}));
    let ended = stage.server.wait_for_end(run);
    assert_eq!(ended["status"], "cancelled", "{ended}");
    assert!(!is_alive(&child) && !is_alive(&pid));
}

const CANARY: &str = "canary-Sekr1t-4b1c";

#[test]
fn secrets_reach_the_worker_and_lie_nowhere_at_the_broker() {
    let workflow = "input: {folder: string}\nsteps:\n  - id: use\n    shell: |\n      printf '%s' \"$S\" | sha256sum >\"$FOLDER/sum\"\n      echo \"it is $S\"\n      until test -e \"$FOLDER/go\"; do sleep 0.1; done\n    env: {S: \"{{ secret('canary') }}\", FOLDER: \"{{ input.folder }}\", SEEN: marker-Pl4in-77}\n";
    let broker = rabbitmq::Private::start();
    let stage = Stage::over(&broker.url(), &[("workflows/w.yaml", workflow)]);
    stage.server.set_secret("canary", CANARY);
    let run = stage.start("site.w");
    wait_until("the attempt lies in the queue", || holds(broker.folder(), "marker-Pl4in-77"));
    assert!(!holds(broker.folder(), CANARY));
    let _worker = stage.worker();
    let sum = stage.wait_for_file("sum");
    wait_until("the line is seen", || stage.log_of(run).contains("it is ***"));
    assert!(!holds(broker.folder(), CANARY));
    fs::write(stage.path("go"), "").unwrap();
    let ended = stage.server.wait_for_end(run);
    assert_eq!(ended["status"], "succeeded", "{ended}");
    use sha2::Digest as _;
    let expected = hex::encode(sha2::Sha256::digest(CANARY));
    assert!(sum.starts_with(&expected), "{sum}");
    assert!(!holds(broker.folder(), CANARY));

    // One that is not set fails the attempt, which says so.
    stage.server.ask("DELETE", "/secrets/canary", None);
    let ended = stage.run("site.w");
    let error = step(&ended, "use")["error"]["message"].as_str().unwrap();
    assert!(error.contains("the secret `canary` is not set"), "{error}");
}

/// Whether a text stands in any file below a folder.
fn holds(folder: &Path, text: &str) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        if path.is_dir() {
            return holds(&path, text);
        }
        let bytes = fs::read(&path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[test]
fn many_runs_of_many_steps_are_done_by_two_workers() {
    let workflow = "steps:\n  - {id: a, run: core.echo, with: {value: 1}}\n  - {id: b, run: core.echo, with: {value: \"{{ steps.a.output.value }}\"}}\noutput: {b: \"{{ steps.b.output.value }}\"}\n";
    let stage = Stage::new(&[("workflows/w.yaml", workflow)]);
    let _workers = [stage.worker(), stage.worker()];
    let runs: Vec<i64> = (0..20)
        .map(|_| stage.server.post("/runs", &json!({"run": "site.w"}))["id"].as_i64().unwrap())
        .collect();
    for run in runs {
        let ended = stage.server.wait_for_end(run);
        assert_eq!((&ended["status"], &ended["output"]["b"]), (&json!("succeeded"), &json!(1)), "{ended}");
    }
}
