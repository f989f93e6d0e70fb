//! The pack `container`, with a real Docker Engine. Nothing is fetched: images are made of busybox.
#![expect(clippy::print_stderr, reason = "says why it is skipped")]

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::docker::{Docker, PASSWORD, USER};
use crate::support::server::{PATIENCE, Server, until};

/// Builds an image of busybox, then runs what it is told with it.
const WORKFLOW: &str = r#"
input:
  with: {type: object}
  dockerfile: {type: string, default: Dockerfile}
steps:
  - id: files
    shell: |
      mkdir -p context shared
      cp /usr/bin/busybox context/
      echo hidden > context/hidden.txt
      echo hidden.txt > context/.dockerignore
      printf '%s\n' 'FROM scratch' 'ARG greeting=none' 'COPY busybox /bin/busybox' \
        'RUN ["/bin/busybox", "mkdir", "-p", "/tmp"]' 'RUN ["/bin/busybox", "--install", "-s", "/bin"]' \
        'COPY . /src' 'RUN echo "$greeting" > /greeting' > context/Dockerfile
  - id: build
    run: container.build
    with: {context: context, dockerfile: "{{ input.dockerfile }}", tags: ["busy:1"], args: {greeting: "good day"}, labels: {team: shop}}
  - id: run
    run: container.run
    with:
      image: "{{ steps.build.output.image }}"
      command: "{{ input.with.command }}"
      env: "{{ input.with.env | default({}) }}"
      mounts: "{{ input.with.mounts | default([]) }}"
      services: "{{ input.with.services | default([]) }}"
      network: "{{ input.with.network | default('own') }}"
output: {image: "{{ steps.build.output.image }}", ran: "{{ steps.run.output }}"}
"#;

struct Stage {
    docker: Docker,
    server: Server,
}

fn stage(more: &str) -> Option<Stage> {
    if !Path::new("/usr/bin/busybox").exists() {
        eprintln!("skipped: no busybox here (apt-get install busybox-static)");
        return None;
    }
    let docker = Docker::start()?;
    let site = format!("config: {{container: {{socket: {}{more}}}}}\n", docker.socket().display());
    let server = Server::start(&[("siskin.yaml", &site), ("workflows/build.yaml", WORKFLOW)]);
    Some(Stage { docker, server })
}

impl Stage {
    fn run(&self, with: &Value) -> Value {
        self.server.run_to_end("site.build", json!({"with": with}))
    }

    fn log(&self, run: &Value) -> String {
        let output = self.server.cli(&["log", &run["id"].to_string()]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// That it fails for this reason, and nothing is left.
    fn fails(&self, with: &Value, why: &str) {
        let run = self.run(with);
        let said = run["error"]["message"].as_str().unwrap_or_default();
        assert!(run["status"] == "failed" && said.contains(why), "wanted {why}: {run}\n{}", self.log(&run));
        assert_eq!(self.docker.left(), Vec::<String>::new());
    }

    fn begin(&self, with: &Value) -> i64 {
        self.server.post("/runs", &json!({"run": "site.build", "with": {"with": with}}))["id"]
            .as_i64()
            .unwrap()
    }

    fn until_started(&self) {
        let there =
            until(PATIENCE, || self.docker.left().iter().any(|name| name.contains("siskin-")).then_some(()));
        assert!(there.is_some(), "no container came");
    }
}

/// Y6, Y8, Y19, and of Y4 what a text for the shell means.
#[test]
fn a_container_is_built_and_run_with_services_and_whatever_happens_nothing_is_left() {
    let Some(stage) = stage("") else { return };
    let web = json!({"name": "web", "image": "busy:1", "command": ["httpd", "-f", "-p", "80", "-h", "/"],
        "ready": "wget -qO- http://127.0.0.1/greeting"});
    let second =
        json!({"name": "second", "image": "busy:1", "command": "wget -qO- http://web/greeting; sleep 60"});
    let command =
        "wget -qO- http://web/greeting; ls /src; echo \"$WHO\" > /workspace/out; cat out /seen/kept; id -u";
    let run = stage.run(&json!({"command": command, "env": {"WHO": "it's $(me)"}, "services": [web, second],
        "mounts": [{"from": "shared", "to": "/shared", "read_only": true}, {"from": "context/.dockerignore", "to": "/seen/kept"}]}));
    assert_eq!(run["status"], "succeeded", "{run}\n{}", stage.log(&run));
    let image = run["output"]["image"].as_str().unwrap();
    assert!(image.starts_with("sha256:") && run["output"]["ran"]["image"] == image, "{run}");
    let tail = run["output"]["ran"]["tail"].as_str().unwrap();
    assert!(tail.starts_with("good day\nDockerfile\nbusybox\nit's $(me)\nhidden.txt"), "{tail}");
    let log = stage.log(&run);
    assert!(log.contains("the service web is ready") && log.contains("Successfully built"), "{log}");
    assert_eq!(stage.docker.left(), Vec::<String>::new());

    let crash = json!({"name": "database", "image": "busy:1", "command": "echo no disk; exit 9"});
    stage.fails(
        &json!({"command": "sleep 60", "services": [crash]}),
        "the service database ended (exit status 9): no disk",
    );
    let late = json!({"name": "late", "image": "busy:1", "command": "echo still trying; sleep 60", "ready": "false", "timeout": "2s"});
    stage.fails(&json!({"command": "true", "services": [late]}), "was not ready within 2 s: still trying");
    let dies = json!({"name": "dies", "image": "busy:1", "command": "sleep 3; echo the end; exit 1"});
    stage.fails(
        &json!({"command": "sleep 60", "services": [dies]}),
        "the service dies ended (exit status 1): the end",
    );
    stage.fails(&json!({"command": "false\ntrue"}), "exit status 1");
    stage.fails(&json!({"command": ["sh", "-c", "echo oh no >&2; exit 7"]}), "exit status 7: oh no");
    for path in ["/", "/run", "../..", "shared/../../.."] {
        stage.fails(
            &json!({"command": "true", "mounts": [{"from": path, "to": "/x"}]}),
            "leads out of the workspace",
        );
    }
    let missing = stage
        .server
        .run_to_end("site.build", json!({"with": {"command": "true"}, "dockerfile": "Dockerfile.prod"}));
    assert!(
        missing["error"]["message"].as_str().unwrap().contains("there is no Dockerfile `Dockerfile.prod`"),
        "{missing}"
    );
    let none =
        stage.server.run_to_end("container.run", json!({"image": "sha256:0123456789ab", "command": "true"}));
    assert!(none["error"]["message"].as_str().unwrap().contains("built on another machine"), "{none}");
}

/// Y6: cancelled, and killed.
#[test]
fn what_is_cancelled_is_removed_and_what_a_killed_server_left_the_next_removes() {
    let Some(mut stage) = stage("") else { return };
    let service = json!({"name": "web", "image": "busy:1", "command": ["sleep", "600"]});
    let with = json!({"command": ["sleep", "600"], "services": [service]});
    let run = stage.begin(&with);
    stage.until_started();
    stage.server.post(&format!("/runs/{run}/cancel"), &json!({}));
    assert_eq!(stage.server.wait_for_end(run)["status"], "cancelled");
    let gone = until(PATIENCE, || stage.docker.left().is_empty().then_some(()));
    assert!(gone.is_some(), "{:?}", stage.docker.left());

    stage.begin(&with);
    let all = until(PATIENCE, || Some(stage.docker.left()).filter(|left| left.len() == 3));
    assert!(all.is_some(), "{:?}", stage.docker.left());
    stage.server.kill();
    assert_eq!(stage.docker.left().len(), 3, "a server that is killed can remove nothing");
    stage.server.run();
    let began = Instant::now();
    let swept = stage.server.run_to_end("container.sweep", json!({}));
    // The run that was killed is not begun again by itself: `container.run` is not idempotent.
    assert_eq!(swept["output"]["removed"].as_array().unwrap().len(), 3, "{swept}");
    assert!(stage.docker.left().is_empty() && began.elapsed() < Duration::from_secs(60));
}

/// Y8: the digest that the registry has; and a password that is wrong.
#[test]
fn an_image_is_pushed_under_its_digest_and_a_wrong_password_is_said_and_not_shown() {
    let more = format!(", user: {USER}, password_secret: registry_password");
    let Some(stage) = stage(&more) else { return };
    let _registry = stage.docker.registry();
    let wrong = "wr0ng-password";
    stage.server.set_secret("registry_password", wrong);
    let built = stage.run(&json!({"command": "true"}));
    assert_eq!(built["status"], "succeeded", "{built}");
    let with = json!({"image": built["output"]["image"], "to": "127.0.0.1:5000/team/shop:1.0.dev"});
    let refused = stage.server.run_to_end("container.push", with.clone());
    let why = refused["error"]["message"].as_str().unwrap();
    assert!(why.contains("was not pushed") && why.contains("password_secret"), "{refused}");
    assert!(!refused.to_string().contains(wrong) && !stage.log(&refused).contains(wrong));
    stage.server.set_secret("registry_password", PASSWORD);
    let pushed = stage.server.run_to_end("container.push", with);
    assert_eq!(pushed["status"], "succeeded", "{pushed}");
    let digest = pushed["output"]["digest"].as_str().unwrap();
    assert_eq!(pushed["output"]["reference"], format!("127.0.0.1:5000/team/shop@{digest}"));
    let bad = stage
        .server
        .run_to_end("container.push", json!({"image": "busy:1", "to": "127.0.0.1:5000/team/shop:feature/x"}));
    assert!(
        bad["error"]["message"].as_str().unwrap().contains("no name of an image")
            || bad["status"] == "failed"
    );
}
