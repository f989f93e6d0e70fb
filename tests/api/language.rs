//! The whole workflow language against a real server: items, groups, concurrency, windows, holds, and what a crash in the middle of them leaves.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::server::{PATIENCE, Server, until};

const GO: (&str, &str) = ("triggers/go.yaml", "description: d\n");

/// A server whose site has this workflow `w`.
fn with(workflow: &str) -> Server {
    with_more(workflow, &[])
}

fn with_more(workflow: &str, more: &[(&str, &str)]) -> Server {
    let mut files = vec![("workflows/w.yaml", workflow)];
    files.extend(more);
    Server::start(&files)
}

fn start(server: &Server, input: Value) -> i64 {
    server.post("/runs", &json!({"run": "site.w", "with": input}))["id"].as_i64().unwrap()
}

fn status(server: &Server, run: i64) -> String {
    server.get(&format!("/runs/{run}"))["status"].as_str().unwrap().to_owned()
}

fn wait_for_status(server: &Server, run: i64, status: &str) -> Value {
    server.wait_for(&format!("/runs/{run}"), |run| run["status"] == status)
}

/// Every item of a step, page by page.
fn items(server: &Server, run: i64, step: &str, limit: usize) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    let mut path = format!("/runs/{run}/steps/{step}/items?limit={limit}");
    loop {
        let page = server.get(&path);
        let found = page["items"].as_array().unwrap();
        assert!(found.len() <= limit);
        all.extend(found.iter().cloned());
        let Some(next) = page["next"].as_str() else { return all };
        path = format!("/runs/{run}/steps/{step}/items?limit={limit}&cursor={next}");
    }
}

fn each<'a>(items: &'a [Value], key: &str) -> Vec<&'a Value> {
    items.iter().map(|item| &item[key]).collect()
}

fn cli(server: &Server, args: &[&str]) -> String {
    let output = server.cli(args);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The process ids that a script has written into files of this folder.
fn pids(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap();
    let texts = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    texts.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
}

fn wait_for_pids(folder: &Path, count: usize) -> Vec<String> {
    let found = until(PATIENCE, || Some(pids(folder)).filter(|pids| pids.len() >= count));
    found.unwrap_or_else(|| panic!("{} scripts have not begun", count))
}

fn have_ended(pids: &[String]) -> bool {
    until(PATIENCE, || pids.iter().all(|pid| !Path::new("/proc").join(pid).exists()).then_some(())).is_some()
}

#[test]
fn a_step_is_done_for_each_of_200_items_and_gives_their_outputs_in_order() {
    let server = with("steps:
  - {id: say, for_each: 0..200, concurrency: 20, run: core.echo, with: {value: '{{ item * 2 }}'}}
  - {id: none, for_each: '[]', run: core.echo, with: {value: 1}}
  - {id: pairs, for_each: {os: [a, b], arch: [x, y]}, as: at, run: core.echo, with: {value: '{{ at.os }}{{ at.arch }}{{ index }}'}}
output: {all: '{{ steps.say.output }}', none: '{{ steps.none.output }}', pairs: '{{ steps.pairs.output }}'}
");
    let run = server.run_to_end("site.w", json!({}));
    assert_eq!(run["status"], "succeeded", "{run}");
    let wanted: Vec<Value> = (0..200).map(|item| json!({"value": item * 2})).collect();
    assert_eq!(run["output"]["all"], json!(wanted));
    assert_eq!(run["output"]["none"], json!([]));
    let pairs: Vec<Value> =
        ["ax0", "ay1", "bx2", "by3"].iter().map(|value| json!({"value": value})).collect();
    assert_eq!(run["output"]["pairs"], json!(pairs));
    assert_eq!(run["steps"][0]["items"], json!({"total": 200, "done": 200, "failed": 0}));

    let id = run["id"].as_i64().unwrap();
    let items = items(&server, id, "say", 30);
    let numbers: Vec<i64> = items.iter().map(|item| item["item"].as_i64().unwrap()).collect();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    assert_eq!((&items[7]["status"], &items[7]["attempts"]), (&json!("succeeded"), &json!(1)));
    assert_eq!(items[7]["output"], json!({"value": 14}));
    assert!(items[7]["started_at"].is_string() && items[7]["finished_at"].is_string());
    assert!(cli(&server, &["runs", &id.to_string()]).contains("200/200 items"));
    for path in ["/runs/99/steps/say/items", &format!("/runs/{id}/steps/nothing/items")] {
        assert_eq!(server.ask("GET", path, None).0, 404, "{path}");
    }
    assert_eq!(server.ask("GET", &format!("/runs/{id}/steps/say/items?cursor=x"), None).0, 422);
}

#[test]
fn each_item_is_tried_again_by_itself_and_some_may_fail() {
    let folder = tempfile::tempdir().unwrap();
    let server = with(
        "input: {folder: string, many: integer}
steps:
  - id: try
    for_each: 0..input.many
    max_failures: 1
    concurrency: 1
    retry: {attempts: 2, delay: 10ms}
    shell: |
      before=$(cat \"$FOLDER/$ITEM\" 2>/dev/null || echo 0)
      echo $((before + 1)) > \"$FOLDER/$ITEM\"
      test $ITEM -lt 2 || exit 3
      test $ITEM -eq 0 || test $before -ge 1
    env: {ITEM: '{{ item }}', FOLDER: '{{ input.folder }}'}
",
    );
    let input = |many: i64| json!({"folder": folder.path(), "many": many});
    let run = server.run_to_end("site.w", input(3));
    assert_eq!(run["status"], "succeeded", "{run}");
    let output = run["steps"][0]["output"].as_array().unwrap();
    assert_eq!((output[1]["code"].as_i64(), &output[2]), (Some(0), &Value::Null));
    assert_eq!(run["steps"][0]["items"], json!({"total": 3, "done": 3, "failed": 1}));
    let id = run["id"].as_i64().unwrap();
    let found = items(&server, id, "try", 100);
    assert_eq!(each(&found, "attempts"), [1, 2, 2]);
    assert_eq!(each(&found, "status"), ["succeeded", "succeeded", "failed"]);
    assert_eq!(found[2]["error"]["kind"], "failed");
    assert!(cli(&server, &["runs", &id.to_string()]).contains("3/3 items, 1 failed"));

    // Two may not: no further item starts.
    let run = server.run_to_end("site.w", input(6));
    assert_eq!(run["status"], "failed");
    let error = run["error"]["message"].as_str().unwrap();
    assert!(error.starts_with("2 of 6 items failed; item 2:"), "{error}");
    assert_eq!(items(&server, run["id"].as_i64().unwrap(), "try", 100).len(), 4);
}

const SLEEPERS: &str = "input: {folder: string}
steps:
  - id: sleep
    for_each: 0..20
    concurrency: 5
    fail_fast: true
    shell: |
      echo $$ > \"$FOLDER/$ITEM\"
      if test $ITEM -eq 2; then
        while ! test -e \"$FOLDER.fail\"; do sleep 0.05; done
        exit 3
      fi
      sleep 300
    env: {ITEM: '{{ item }}', FOLDER: '{{ input.folder }}'}
";

#[test]
fn fail_fast_ends_the_items_at_work_with_their_processes() {
    let folder = tempfile::tempdir().unwrap();
    let pids_of = folder.path().join("pids");
    std::fs::create_dir(&pids_of).unwrap();
    let server = with(SLEEPERS);
    let run = start(&server, json!({"folder": pids_of}));
    let pids = wait_for_pids(&pids_of, 5);
    std::fs::write(folder.path().join("pids.fail"), "").unwrap();
    let ended = server.wait_for_end(run);
    assert_eq!(ended["status"], "failed", "{ended}");
    let mut found = items(&server, run, "sleep", 100);
    assert_eq!(found.remove(2)["status"], "failed");
    assert_eq!(each(&found, "status"), ["cancelled"; 4]);
    assert!(have_ended(&pids));
}

#[test]
fn a_cancel_in_the_middle_of_items_ends_their_processes_and_starts_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let server = with(SLEEPERS);
    let run = start(&server, json!({"folder": folder.path()}));
    let pids = wait_for_pids(folder.path(), 5);
    let shown = server.get(&format!("/runs/{run}"));
    assert_eq!(shown["steps"][0]["items"], json!({"total": 20, "done": 0, "failed": 0}), "{shown}");
    server.post(&format!("/runs/{run}/cancel"), &json!({}));
    let ended = server.wait_for_end(run);
    assert_eq!((&ended["status"], &ended["steps"][0]["status"]), (&json!("cancelled"), &json!("cancelled")));
    assert_eq!(each(&items(&server, run, "sleep", 100), "status"), ["cancelled"; 5]);
    assert!(have_ended(&pids));
    assert_eq!(pids.len(), self::pids(folder.path()).len());
}

#[test]
fn a_crash_in_the_middle_of_200_items_loses_none_and_keeps_what_was_done() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = with_more(
        "input: {folder: string}
steps:
  - {id: touch, for_each: 0..200, concurrency: 8, run: touch, with: {file: '{{ input.folder }}/{{ item }}'}}
output: {many: '{{ steps.touch.output | length }}'}
",
        &[(
            "actions/touch.yaml",
            "description: d
runner: shell
input: {file: string}
idempotent: true
shell:
  script: |
    sleep 0.02
    echo $$ >> \"$FILE\"
  env: {FILE: '{{ input.file }}'}
",
        )],
    );
    let run = start(&server, json!({"folder": folder.path()}));
    for many in [30, 90] {
        wait_for_pids(folder.path(), many);
        server.kill();
        server.run();
    }
    let ended = server.wait_for_end(run);
    assert_eq!((&ended["status"], &ended["output"]["many"]), (&json!("succeeded"), &json!(200)), "{ended}");
    let found = items(&server, run, "touch", 500);
    assert_eq!(each(&found, "status"), ["succeeded"; 200]);
    let again = found.iter().filter(|item| item["attempts"].as_i64().unwrap() > 1).count();
    assert!(again <= 16, "only what was at work begins again: {again}");
    assert_eq!(pids(folder.path()).len(), 200);
}

#[test]
fn groups_are_structure_or_runs_of_their_own_that_are_seen_with_parent() {
    let server = with(
        "steps:
  - id: both
    parallel:
      - {id: a, run: core.echo, with: {value: 1}}
      - id: inner
        steps:
          - {id: b, run: core.echo, with: {value: 2}}
          - {id: c, run: core.echo, with: {value: '{{ steps.b.output.value + 1 }}'}}
  - id: each
    for_each: '[\"x\", \"y\"]'
    as: host
    steps:
      - {id: say, run: core.echo, with: {value: '{{ host }} {{ steps.both.output.a.value }} {{ index }}'}}
      - id: twice
        retry: {attempts: 2, delay: 10ms}
        steps: [{id: deep, run: core.echo, with: {value: '{{ host }} {{ steps.say.output.value }}'}}]
output: {both: '{{ steps.both.output }}', each: '{{ steps.each.output }}'}
",
    );
    let run = server.run_to_end("site.w", json!({}));
    assert_eq!(run["status"], "succeeded", "{run}");
    let value = |value: Value| json!({"value": value});
    let inner = json!({"b": value(json!(2)), "c": value(json!(3))});
    assert_eq!(run["output"]["both"], json!({"a": value(json!(1)), "inner": inner}));
    let of = |host: &str, index: i64| {
        let said = format!("{host} 1 {index}");
        let deep = json!({"deep": value(json!(format!("{host} {said}")))});
        json!({"say": value(json!(said)), "twice": deep})
    };
    assert_eq!(run["output"]["each"], json!([of("x", 0), of("y", 1)]));

    let id = run["id"].as_i64().unwrap();
    let children = server.get(&format!("/runs?parent={id}"))["items"].clone();
    let mut seen: Vec<(&str, &str)> = children
        .as_array()
        .unwrap()
        .iter()
        .map(|child| (child["parent"]["step"].as_str().unwrap(), child["workflow"].as_str().unwrap()))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [("each[0]", "site.w#each"), ("each[1]", "site.w#each")]);
    let found = items(&server, id, "each", 10);
    for item in &found {
        let child = server.get(&format!("/runs/{}", item["run"]));
        assert_eq!(child["parent"], json!({"run": id, "step": format!("each[{}]", item["item"])}));
        let deeper = server.get(&format!("/runs?parent={}", item["run"]));
        assert_eq!(deeper["items"][0]["workflow"], "site.w#twice");
    }
    assert_eq!(server.get("/runs")["items"].as_array().unwrap().len(), 1);

    // Written as a test, it passes as one.
    let text = cli(&server, &["test", "--from-run", &id.to_string()]);
    server.write("tests/was.yaml", &text);
    let told = cli(&server, &["test", "--site", server.site().to_str().unwrap()]);
    assert!(told.contains("1 passed"), "{told}\n{text}");
}

#[test]
fn what_groups_did_for_each_item_is_taken_back_with_the_names_that_they_saw() {
    let server = with(
        "input: {ok: boolean}
steps:
  - {id: first, run: core.echo, with: {value: before}}
  - id: each
    for_each: '[\"x\", \"y\"]'
    as: host
    steps:
      - id: set
        run: core.kv_set
        with: {key: '{{ host }}', value: after}
        undo: {run: core.kv_set, with: {key: '{{ host }}', value: '{{ steps.first.output.value }}'}}
  - {id: last, run: core.fail, when: '!input.ok', with: {message: no}}
",
    );
    let values = || ["x", "y"].map(|key| server.get(&format!("/kv/{key}"))["value"].clone());
    let run = server.run_to_end("site.w", json!({"ok": false}));
    assert_eq!((&run["status"], &run["undone"]), (&json!("failed"), &json!("all")), "{run}");
    assert_eq!(values(), ["before", "before"]);
    let run = server.run_to_end("site.w", json!({"ok": true}));
    assert_eq!(values(), ["after", "after"]);
    let back = server.post(&format!("/runs/{}/rollback", run["id"]), &json!({}));
    let back = server.wait_for_end(back["id"].as_i64().unwrap());
    assert_eq!(back["status"], "succeeded", "{back}");
    assert_eq!(values(), ["before", "before"]);
}

fn limited(on_limit: &str) -> Server {
    with_more(
        &format!(
            "input: {{n: integer, file: {{type: string, optional: true}}}}
concurrency: {{key: one, limit: 1, on_limit: {on_limit}}}
steps:
  - id: busy
    when: 'input?.file != ()'
    shell: |
      while ! test -e \"$FILE\"; do sleep 0.05; done
    env: {{FILE: '{{{{ input.file }}}}'}}
  - {{id: wait, wait_for: {{trigger: go, when: event.n == input.n}}}}
"
        ),
        &[GO],
    )
}

fn go(server: &Server, n: i64) {
    server.post("/events", &json!({"trigger": "site.go", "payload": {"n": n}}));
}

#[test]
fn runs_of_one_key_queue_first_come_first_served_also_after_a_crash() {
    let mut server = limited("queue");
    let runs: Vec<i64> = (1..=4).map(|n| start(&server, json!({"n": n}))).collect();
    wait_for_status(&server, runs[0], "waiting");
    let queued = server.get(&format!("/runs/{}", runs[1]));
    assert_eq!((&queued["status"], &queued["waits"][0]["for"]), (&json!("queued"), &json!("its turn")));
    for (n, run) in (1..).zip(&runs) {
        wait_for_status(&server, *run, "waiting");
        server.kill();
        server.run();
        for later in &runs[n..] {
            assert_eq!(status(&server, *later), "queued");
        }
        go(&server, i64::try_from(n).unwrap());
        assert_eq!(server.wait_for_end(*run)["status"], "succeeded");
    }
    // One that is cancelled in the queue leaves it.
    let [first, second, third] = [5, 6, 7].map(|n| start(&server, json!({"n": n})));
    server.post(&format!("/runs/{second}/cancel"), &json!({}));
    assert_eq!(server.wait_for_end(second)["status"], "cancelled");
    wait_for_status(&server, first, "waiting");
    server.post(&format!("/runs/{first}/cancel"), &json!({}));
    wait_for_status(&server, third, "waiting");
}

#[test]
fn the_newest_run_of_a_key_takes_the_place_of_those_that_only_wait() {
    let folder = tempfile::tempdir().unwrap();
    let server = limited("newest");
    let first = start(&server, json!({"n": 1}));
    wait_for_status(&server, first, "waiting");
    let file = folder.path().join("done");
    let second = start(&server, json!({"n": 2, "file": file}));
    let ended = server.wait_for_end(first);
    assert_eq!((&ended["status"], ended.get("undone")), (&json!("superseded"), None), "{ended}");
    assert_eq!(ended["error"]["message"], format!("superseded by run {second}"));
    // The second is at work: those that come wait, and of these only the newest stays.
    wait_for_status(&server, second, "running");
    let [third, fourth] = [3, 4].map(|n| start(&server, json!({"n": n})));
    assert_eq!(server.wait_for_end(third)["status"], "superseded");
    assert_eq!(
        (status(&server, second), status(&server, fourth)),
        ("running".to_owned(), "queued".to_owned())
    );
    std::fs::write(&file, "").unwrap();
    assert_eq!(server.wait_for_end(second)["status"], "superseded");
    wait_for_status(&server, fourth, "waiting");
    go(&server, 4);
    assert_eq!(server.wait_for_end(fourth)["status"], "succeeded");
}

#[test]
fn a_run_over_the_limit_is_rejected_where_the_workflow_says_so() {
    let server = limited("reject");
    let first = start(&server, json!({"n": 1}));
    let (status, problem) = server.ask("POST", "/runs", Some(&json!({"run": "site.w", "with": {"n": 2}})));
    assert_eq!(status, 409, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(&format!("run {first}")), "{problem}");
    wait_for_status(&server, first, "waiting");
    go(&server, 1);
    server.wait_for_end(first);
    start(&server, json!({"n": 2}));
}

#[test]
fn values_of_the_key_value_store_are_bound_before_when() {
    let server = with(
        "input: {team: string}
steps:
  - id: a
    read: {frozen: 'freeze/{{ input.team }}', other: nothing}
    when: frozen != true
    run: core.echo
    with: {value: ['{{ frozen }}', '{{ other }}']}
",
    );
    let team = |team: &str| server.run_to_end("site.w", json!({"team": team}));
    let freeze = |value: Value| server.ask("PUT", "/kv/freeze/shop", Some(&json!({"value": value}))).0;
    assert_eq!(team("shop")["steps"][0]["output"], json!({"value": [null, null]}));
    assert!(freeze(json!(true)) < 300);
    assert_eq!(team("shop")["steps"][0]["status"], "skipped");
    assert_eq!(team("other")["steps"][0]["status"], "succeeded");
    assert!(freeze(json!(false)) < 300);
    assert_eq!(team("shop")["steps"][0]["output"], json!({"value": [false, null]}));
}

/// A window that is closed now, and opens for an hour in twelve.
fn closed_window() -> String {
    let hour = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).hour();
    format!("windows: {{night: {{open: ['* {} * * *'], time_zone: UTC}}}}\n", (hour + 12) % 24)
}

#[test]
fn a_step_behind_a_closed_window_says_until_when_and_force_lets_it_and_its_children_pass() {
    let mut server = with_more(
        "steps:
  - {id: a, run: core.noop}
  - {id: b, run: core.noop, window: night}
  - {id: c, run: child}
",
        &[
            ("siskin.yaml", &closed_window()),
            ("workflows/child.yaml", "steps: [{id: d, run: core.noop, window: night}]\n"),
        ],
    );
    let run = start(&server, json!({}));
    wait_for_status(&server, run, "waiting");
    server.kill();
    server.run();
    let waits = wait_for_status(&server, run, "waiting")["waits"].clone();
    assert_eq!((&waits[0]["step"], &waits[0]["for"]), (&json!("b"), &json!("the window `night` to open")));
    let until: jiff::Timestamp = waits[0]["until"].as_str().unwrap().parse().unwrap();
    let hours = (until - jiff::Timestamp::now()).total(jiff::Unit::Hour).unwrap();
    assert!((10.9..12.1).contains(&hours), "{waits}");
    assert!(cli(&server, &["runs", &run.to_string()]).contains("b waits for the window `night` to open"));
    cli(&server, &["force", &run.to_string(), "-m", "outage"]);
    let ended = server.wait_for_end(run);
    assert_eq!(ended["status"], "succeeded", "{ended}");
}

#[test]
fn a_held_app_starts_no_step_until_it_is_let_go_and_others_go_on() {
    let apps = [("apps/shop.yaml", "owner: team\n"), ("apps/till.yaml", "owner: team\n")];
    let mut server = with_more(
        "input: {app: string}
steps:
  - {id: a, run: core.noop}
  - {id: each, for_each: 0..3, run: core.echo, with: {value: '{{ item }}'}}
",
        &apps,
    );
    cli(&server, &["hold", "shop", "-m", "the fair"]);
    let run = start(&server, json!({"app": "shop"}));
    let held = wait_for_status(&server, run, "waiting");
    let what = held["waits"][0]["for"].as_str().unwrap();
    assert!(what.contains("`shop`") && what.contains("the fair"), "{held}");
    assert_eq!(server.run_to_end("site.w", json!({"app": "till"}))["status"], "succeeded");
    server.kill();
    server.run();
    assert_eq!(status(&server, run), "waiting");
    cli(&server, &["unhold", "shop"]);
    assert_eq!(server.wait_for_end(run)["status"], "succeeded");
}

/// What the server has written so far, to files and to others, in bytes.
fn written(server: &Server) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", server.pid())).unwrap();
    let count = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
    count.trim().parse().unwrap()
}

#[test]
fn a_large_output_makes_the_items_after_it_no_more_expensive() {
    let server = with(
        "input: {text: string}
steps:
  - {id: large, run: core.echo, with: {value: '{{ input.text }}'}}
  - {id: each, for_each: 0..300, run: core.echo, with: {value: '{{ item }}'}}
",
    );
    let cost = |length: usize| {
        let before = written(&server);
        let body = json!({"run": "site.w", "with": {"text": "x".repeat(length)}});
        let run = server.post("/runs?wait=30s", &body);
        assert_eq!(run["status"], "succeeded", "{}", run["status"]);
        // What is written after the end is written by now.
        server.wait_for("/runs?status=running", |page| page["items"] == json!([]));
        written(&server) - before
    };
    cost(10);
    let (small, large) = (cost(10), cost(800_000));
    // Input, order, output and answer, each a few times; written again with each item it would be 240 MB.
    assert!(large < small + 24_000_000, "{small} bytes and {large} bytes");
}

#[test]
fn items_go_on_while_the_run_is_looked_at_and_paused() {
    let folder = tempfile::tempdir().unwrap();
    let server = with(
        "input: {folder: string}
steps:
  - id: each
    for_each: 0..6
    concurrency: 2
    shell: |
      echo $$ > \"$FOLDER/$ITEM\"
      while ! test -e \"$FOLDER.go\"; do sleep 0.05; done
    env: {ITEM: '{{ item }}', FOLDER: '{{ input.folder }}'}
",
    );
    let pids_of = folder.path().join("pids");
    std::fs::create_dir(&pids_of).unwrap();
    let run = start(&server, json!({"folder": pids_of}));
    wait_for_pids(&pids_of, 2);
    server.post(&format!("/runs/{run}/pause"), &json!({}));
    std::fs::write(folder.path().join("pids.go"), "").unwrap();
    let done = |run: &Value| run["steps"][0]["items"]["done"] == 2;
    server.wait_for(&format!("/runs/{run}"), done);
    // What begins is written with what ended: a paused run starts no item.
    assert_eq!(items(&server, run, "each", 100).len(), 2);
    server.post(&format!("/runs/{run}/resume"), &json!({}));
    assert_eq!(server.wait_for_end(run)["status"], "succeeded");
}
