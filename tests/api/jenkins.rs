//! Builds of Jenkins in workflows, from the settings in siskin.yaml to the callback.

use serde_json::json;

use crate::support::jenkins::{Jenkins, Manners};
use crate::support::server::{Server, client};

const FOLLOWED: &str = "steps:
  - id: build
    run: jenkins.build
    with: {job: shop, parameters: {BRANCH: main}, poll: 20ms}
output: {number: \"{{ steps.build.output.number }}\"}
";

struct Stage {
    server: Server,
    jenkins: Jenkins,
    _runtime: tokio::runtime::Runtime,
}

fn stage(manners: Manners) -> Stage {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let user = Some(("ada".to_owned(), "s3cr3t-t0k3n".to_owned()));
    let jenkins = runtime.block_on(Jenkins::start(Manners { user, ..manners }));
    let settings = format!("config: {{jenkins: {{url: \"{}\", user: ada}}}}\n", jenkins.url());
    let server = Server::start(&[("siskin.yaml", &settings), ("workflows/followed.yaml", FOLLOWED)]);
    server.set_secret("jenkins_token", "s3cr3t-t0k3n");
    server.set_secret("jenkins_webhook", "hook");
    Stage { server, jenkins, _runtime: runtime }
}

#[test]
fn a_step_builds_and_its_log_is_the_console() {
    let stage =
        stage(Manners { ends: Some(("compiling\ndone\n".into(), "SUCCESS".into())), ..Manners::default() });
    let run = stage.server.run_to_end("site.followed", json!({}));
    assert_eq!((&run["status"], &run["output"]["number"]), (&json!("succeeded"), &json!(1)), "{run}");
    let log = stage.server.cli(&["log", &run["id"].to_string()]);
    let log = String::from_utf8(log.stdout).unwrap();
    assert!(log.contains("compiling") && log.contains("quiet period") && !log.contains("s3cr3t"), "{log}");
}

#[test]
fn a_callback_ends_the_wait_for_a_build_and_a_look_does_where_none_comes() {
    let stage = stage(Manners { looks_in_queue: Some(0), ..Manners::default() });
    let with = json!({"job": "shop", "parameters": {"BRANCH": "main"}});
    let run = stage.server.post("/runs", &json!({"run": "jenkins.build_by_callback", "with": with}));
    let id = run["id"].as_i64().unwrap();
    let waits = |run: &serde_json::Value| {
        run["steps"].as_array().unwrap().iter().any(|step| step["id"] == "end" && step["status"] == "waiting")
    };
    stage.server.wait_for(&format!("/runs/{id}"), waits);
    stage.jenkins.end("shop", 1, "SUCCESS");
    let told = json!({"name": "shop", "url": "job/shop/", "build": {"number": 1, "phase": "FINALIZED", "status": "SUCCESS", "url": "job/shop/1/"}});
    let hook = format!("{}/hooks/jenkins?token=hook", stage.server.url());
    let answer =
        client().post(hook).header("content-type", "application/json").body(told.to_string()).send().unwrap();
    assert_eq!(answer.status(), 202, "{}", answer.text().unwrap_or_default());
    let run = stage.server.wait_for_end(id);
    assert_eq!((&run["status"], &run["output"]["result"]), (&json!("succeeded"), &json!("SUCCESS")), "{run}");
    // The next one has ended before anybody waits for it, and its callback is lost.
    stage.jenkins.change(|manners| manners.ends = Some((String::new(), "FAILURE".into())));
    let run = stage
        .server
        .run_to_end("jenkins.build_by_callback", json!({"job": "shop", "parameters": {"BRANCH": "other"}}));
    assert_eq!(run["status"], "failed", "{run}");
    assert!(run["error"]["message"].as_str().unwrap().contains("build 2 ended FAILURE"), "{run}");
}
