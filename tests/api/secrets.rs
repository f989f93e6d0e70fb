//! Where a secret must never be seen.

use serde_json::json;

use crate::support::server::Server;

const CANARY: &str = "canary-Sekr1t-9f8e7d";
/// The same in base64.
const CODED: &str = "Y2FuYXJ5LVNla3IxdC05ZjhlN2Q=";

const WORKFLOW: &str = "steps:
  - id: shell
    shell: |
      echo \"plain $S\"
      printf '%s' \"$S\" | base64
      echo \"$CODED\" >&2
    env: {S: \"{{ secret('canary') }}\", CODED: \"{{ secret('canary') | base64 }}\"}
  - id: echo
    run: core.echo
    with: {value: \"x{{ secret('canary') }}y\"}
  - id: fail
    run: core.fail
    with: {message: \"bad {{ secret('canary') }}\"}
output: {said: \"{{ steps.shell.output.stdout }}\"}
";

#[test]
fn a_secret_is_nowhere_but_in_the_action() {
    let server = Server::start(&[("workflows/w.yaml", WORKFLOW)]);
    server.set_secret("canary", CANARY);
    let run = server.run_to_end("site.w", json!({}));
    let shown = run.to_string();
    assert_eq!(run["error"]["message"], "bad ***");
    assert_eq!(run["steps"][0]["output"]["stdout"], "plain ***\n***");
    let id = &run["id"];
    let log = server.cli(&["log", &id.to_string()]);
    let log = String::from_utf8(log.stdout).unwrap();
    assert!(log.contains("plain ***"), "{log}");
    let history = server.get(&format!("/runs/{id}/history")).to_string();
    for text in [shown, log, history, server.get("/audit").to_string(), server.log()] {
        assert!(!text.contains(CANARY) && !text.contains(CODED), "{text}");
    }
    for entry in std::fs::read_dir(server.data()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            for wanted in [CANARY, CODED] {
                let found = bytes.windows(wanted.len()).any(|window| window == wanted.as_bytes());
                assert!(!found, "{} holds the secret", path.display());
            }
        }
    }
}

#[test]
fn a_secret_that_is_not_set_fails_with_what_to_do() {
    let server = Server::start(&[(
        "workflows/w.yaml",
        "steps:\n  - id: a\n    shell: echo\n    env: {S: \"{{ secret('never_set') }}\"}\n",
    )]);
    let run = server.run_to_end("site.w", json!({}));
    let message = run["error"]["message"].as_str().unwrap();
    assert!(message.contains("siskin secret set never_set"), "{message}");
}
