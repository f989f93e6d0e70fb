//! Runs by the API.

use serde_json::{Value, json};

use crate::support::server::{Server, client};

#[test]
fn an_action_runs_and_its_output_is_the_run_s() {
    let server = Server::start(&[]);
    let run = server.run_to_end("core.echo", json!({"value": {"deep": [1, "zwei"]}}));
    assert_eq!(run["status"], "succeeded");
    assert_eq!(run["output"], json!({"value": {"deep": [1, "zwei"]}}));
}

const MANY: &str = "input: {text: string}
steps:
  - id: say
    shell: |
      echo '{{.Names}} {{ input.text }}'
      printf '%s' \"$TEXT\"
    env: {TEXT: \"{{ input.text }}\"}
  - id: pass
    run: core.echo
    with: {value: \"{{ steps.say.output.stdout }}\"}
  - id: skip
    when: input.text == \"never\"
    run: core.noop
  - id: flaky
    shell: |
      test -f there || { touch there; exit 3; }
    retry: {attempts: 3, delay: 1s}
  - id: allowed
    run: core.fail
    continue_on_failure: true
  - id: nap
    sleep: 1s
  - id: tell
    emit: github.ping
    with: {zen: \"{{ input.text }}\"}
  - id: child
    run: site.child
    with: {code: \"{{ steps.say.output.code }}\"}
finally:
  - id: last
    run: core.echo
    with: {value: \"{{ run.status }}\"}
output:
  said: \"{{ steps.pass.output.value }}\"
  child: \"{{ steps.child.output.code }}\"
";
const CHILD: &str = "input: {code: integer}\nsteps:\n  - id: a\n    run: core.echo\n    with: {value: \"{{ input.code }}\"}\noutput: {code: \"{{ steps.a.output.value }}\"}\n";

#[test]
fn data_that_looks_like_code_stays_data_through_every_step() {
    let server = Server::start(&[("workflows/many.yaml", MANY), ("workflows/child.yaml", CHILD)]);
    for text in
        ["{{ 7 * 7 }}", "'; touch /tmp/x; '", "$(reboot)", "a\nb", "{{ secret('x') }}", "\u{1b}[31m é😀"]
    {
        let run = server.run_to_end("site.many", json!({"text": text}));
        assert_eq!(run["status"], "succeeded", "{run}");
        assert_eq!(run["output"]["said"], format!("{{{{.Names}}}} {{{{ input.text }}}}\n{text}"));
        assert_eq!(run["output"]["child"], 0);
        let steps: Vec<(&str, &str)> = run["steps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| (step["id"].as_str().unwrap(), step["status"].as_str().unwrap()))
            .collect();
        let wanted = [
            ("say", "succeeded"),
            ("pass", "succeeded"),
            ("skip", "skipped"),
            ("flaky", "succeeded"),
            ("allowed", "failed"),
            ("nap", "succeeded"),
            ("tell", "succeeded"),
            ("child", "succeeded"),
            ("last", "succeeded"),
        ];
        assert_eq!(steps, wanted);
        assert_eq!(run["steps"][3]["attempts"], 2);
    }
}

#[test]
fn a_large_output_is_kept_as_a_file_and_bytes_that_are_no_text_are_shown() {
    let server = Server::start(&[(
        "workflows/w.yaml",
        "steps:\n  - id: large\n    shell: |\n      printf begin\n      head -c 2000000 /dev/zero | tr '\\000' x\n      printf end\n  - id: odd\n    shell: |\n      printf 'a\\377b'\n",
    )]);
    let run = server.run_to_end("site.w", json!({}));
    let large = &run["steps"][0]["output"]["stdout"];
    assert_eq!(large["size"], 2_000_008, "{large}");
    assert!(large["tail"].as_str().unwrap().ends_with("xxxend"), "{large}");
    assert!(large["artefact"].as_str().unwrap().starts_with("sha256:"), "{large}");
    assert_eq!(run["steps"][1]["output"]["stdout"], "a\u{fffd}b");
}

#[test]
fn what_was_asked_wrongly_is_told_with_its_status() {
    let server = Server::start(&[("workflows/child.yaml", CHILD)]);
    let start = |body: Value| server.ask("POST", "/runs?wait=10s", Some(&body));
    for (body, status) in [
        (json!({}), 422),
        (json!({"run": "site.nothing"}), 404),
        (json!({"run": "core.echo"}), 422),
        (json!({"run": "core.echo", "with": {"value": 1, "other": 2}}), 422),
        (json!({"run": "core.echo", "with": [1]}), 422),
        (json!({"run": "core.noop", "extra": 1}), 422),
        (json!({"run": "site.child", "with": {"code": "abc"}}), 422),
        (json!({"run": "site.child", "with": {"code": 1.5}}), 422),
        (json!({"run": "site.child", "with": {"code": true}}), 422),
        (json!([]), 422),
    ] {
        let (answered, problem) = start(body.clone());
        assert_eq!(answered, status, "{body}: {problem}");
        assert_eq!(problem["status"], status);
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
    for (given, kept) in [(json!("12"), json!(12)), (json!(1.0), json!(1))] {
        let (_, run) = start(json!({"run": "site.child", "with": {"code": given}}));
        assert_eq!(run["output"]["code"], kept);
    }
    let (_, near) = start(json!({"run": "site.chidl"}));
    assert!(near["detail"].as_str().unwrap().contains("did you mean `site.child`?"), "{near}");
    for query in ["limit=0", "limit=501", "cursor=x", "status=nope", "event=x", "foo=1", "limit=1&limit=2"] {
        assert_eq!(server.ask("GET", &format!("/runs?{query}"), None).0, 422, "{query}");
    }
    for path in ["/runs/99", "/runs/x", "/runs/-1", "/nothing", "/runs/1/nothing"] {
        assert_eq!(server.ask("GET", path, None).0, 404, "{path}");
    }
    for verb in ["cancel", "pause", "resume"] {
        assert_eq!(server.ask("POST", &format!("/runs/1/{verb}"), None).0, 409, "{verb}");
        assert_eq!(server.ask("POST", &format!("/runs/99/{verb}"), None).0, 404, "{verb}");
    }
}

#[test]
fn an_idempotency_key_starts_one_run_and_pages_hold_each_run_once() {
    let server = Server::start(&[]);
    let start = || {
        let request = client().post(format!("{}/api/v1/runs", server.url())).bearer_auth(server.token());
        let answer =
            request.header("Idempotency-Key", "k").json(&json!({"run": "core.noop"})).send().unwrap();
        serde_json::from_str::<Value>(&answer.text().unwrap()).unwrap()["id"].as_i64().unwrap()
    };
    assert_eq!(start(), start());
    for _ in 0..6 {
        server.run_to_end("core.noop", json!({}));
    }
    let (mut ids, mut path) = (Vec::new(), "/runs?limit=3".to_owned());
    loop {
        let page = server.get(&path);
        ids.extend(page["items"].as_array().unwrap().iter().map(|run| run["id"].as_i64().unwrap()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/runs?limit=3&cursor={next}");
    }
    assert_eq!(ids, [7, 6, 5, 4, 3, 2, 1]);
}

#[test]
fn a_run_is_paused_resumed_and_cancelled_with_its_processes() {
    let server = Server::start(&[(
        "workflows/slow.yaml",
        "steps:\n  - id: slow\n    shell: |\n      sleep 300 & sleep 300\n  - id: after\n    run: core.noop\nfinally:\n  - id: last\n    run: core.noop\n",
    )]);
    let run = server.post("/runs", &json!({"run": "site.slow"}))["id"].as_i64().unwrap();
    server.wait_for(&format!("/runs/{run}"), |run| run["steps"][0]["status"] == "running");
    let verb = |verb: &str| server.ask("POST", &format!("/runs/{run}/{verb}"), None).0;
    assert_eq!([verb("pause"), verb("pause"), verb("resume"), verb("resume")], [200, 409, 200, 409]);
    assert_eq!(verb("cancel"), 200);
    let ended = server.wait_for_end(run);
    assert_eq!(ended["status"], "cancelled");
    let statuses: Vec<&str> =
        ended["steps"].as_array().unwrap().iter().map(|step| step["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["cancelled", "not_started", "succeeded"]);
    assert_eq!([verb("cancel"), verb("pause"), verb("resume")], [409, 409, 409]);
}
