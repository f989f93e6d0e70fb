//! An environment goes back to an earlier version: on private dpkg roots, from a repository that was really published.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use siskin::delivery::apt::{Key, Publish, Repository};
use siskin::delivery::deb::Build;
use siskin::delivery::hosts;
use siskin::model::Timestamp;

use crate::support::server::Server;

pub(super) struct World {
    pub(super) folder: tempfile::TempDir,
    pub(super) server: Server,
}

impl World {
    /// Two hosts and a canary, and versions 1.0, 2.0 and 3.0 in their repository. With 3.0 on it, no host of production is healthy.
    pub(super) fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let roots = ["h1", "h2", "c1"].map(|name| folder.path().join(name));
        let hosts = roots.each_ref().map(|root| {
            let name = root.file_name().unwrap().to_string_lossy().into_owned();
            format!("{{name: {name}, root: {}}}", root.display())
        });
        let app = format!(
            "owner: team\nenvironments:\n  production:\n    suite: stable\n    hosts: [{}]\n    check: {{script: '! grep 3.0 opt/shop/version', tries: 1}}\n  empty:\n    hosts: [{}]\n  canary:\n    hosts: [{}]\n",
            hosts[..2].join(", "),
            hosts[0],
            hosts[2],
        );
        let workflow = "description: d\ninput: {version: string, commit: {type: string, optional: true}, environment: {type: string, default: production}, fails: {type: boolean, default: false}}\nsteps:\n  - id: roll\n    run: deploy.roll\n    with: {app: shop, version: \"{{ input.version }}\", environment: \"{{ input.environment }}\"}\n    lock: \"deploy/shop/{{ input.environment }}\"\n  - {id: after, when: input.fails, run: core.fail, with: {message: no}}\n";
        let rule = "description: d\ntrigger: site.go\nrun: site.put\nwith: {version: \"{{ event.version }}\", environment: \"{{ event.environment }}\", commit: \"{{ event.commit }}\"}\n";
        let server = Server::start(&[
            ("apps/shop.yaml", &app),
            (
                "siskin.yaml",
                &format!("config: {{apt: {{repository: {}}}}}\n", folder.path().join("apt").display()),
            ),
            ("workflows/put.yaml", workflow),
            ("triggers/go.yaml", "description: d\n"),
            ("rules/on_go.yaml", rule),
        ]);
        let world = World { folder, server };
        world.publish();
        for root in roots {
            let repository = world.folder.path().join("apt");
            let source = format!("deb [signed-by={0}/key.gpg] file:{0} stable main", repository.display());
            hosts::prepare_root(&root, &source).unwrap();
        }
        world
    }

    /// The version is no longer in the suite.
    pub(super) fn unpublish(&self, version: &str) {
        let now = Timestamp(jiff::Timestamp::now().as_millisecond());
        let repository = Repository::open(&self.folder.path().join("apt")).unwrap();
        let key = Key::for_repository(repository.root(), &self.folder.path().join("key.asc"), now).unwrap();
        repository.remove(&format!("shop={version}").parse().unwrap(), "stable", &key, now).unwrap();
    }

    fn publish(&self) {
        let debs: Vec<_> = ["1.0", "2.0", "3.0"].map(|version| deb(self.folder.path(), version)).into();
        let now = Timestamp(jiff::Timestamp::now().as_millisecond());
        let repository = Repository::open_or_create(&self.folder.path().join("apt")).unwrap();
        let key = Key::for_repository(repository.root(), &self.folder.path().join("key.asc"), now).unwrap();
        repository.publish(&Publish { suite: "stable", component: "main", debs: &debs }, &key, now).unwrap();
    }

    pub(super) fn put(&self, version: &str, fails: bool) -> Value {
        self.server.run_to_end("site.put", json!({"version": version, "fails": fails}))
    }

    fn back(&self, body: &Value) -> (u16, Value) {
        self.server.ask("POST", "/apps/shop/production/rollback", Some(body))
    }

    /// Goes back and waits; what is on the hosts then.
    fn goes_back(&self, body: &Value) -> [String; 2] {
        let (status, run) = self.back(body);
        assert_eq!(status, 201, "{run}");
        let run = self.server.wait_for_end(run["id"].as_i64().unwrap());
        assert_eq!(run["status"], "succeeded", "{run}");
        self.installed()
    }

    pub(super) fn installed(&self) -> [String; 2] {
        ["h1", "h2"].map(|name| {
            let admin = self.folder.path().join(name).join("var/lib/dpkg");
            let output = Command::new("dpkg-query")
                .arg(format!("--admindir={}", admin.display()))
                .args(["-W", "-f", "${Version}", "shop"])
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        })
    }
}

fn deb(folder: &Path, version: &str) -> std::path::PathBuf {
    let input = folder.join(format!("input-{version}"));
    std::fs::create_dir_all(&input).unwrap();
    std::fs::write(input.join("version"), version).unwrap();
    let build = Build {
        name: "shop".to_owned(),
        version: version.to_owned(),
        architecture: Some("all".to_owned()),
        maintainer: Some("Ada Example <ada@example.com>".to_owned()),
        description: Some("a shop".to_owned()),
        prefix: Some("/opt/shop".to_owned()),
        chdir: Some(input),
        source_date_epoch: Some(1_700_000_000),
        ..Build::default()
    };
    build.write_to(folder).unwrap().path
}

#[test]
fn an_environment_goes_back_step_by_step_and_never_forth_again() {
    let world = World::new();
    let none = world.back(&json!({}));
    assert_eq!((none.0, &none.1["detail"]), (409, &json!("nothing of shop stands on production")));
    world.put("1.0", false);
    let (status, only) = world.back(&json!({}));
    assert!(
        status == 409 && only["detail"].as_str().unwrap().starts_with("there is nothing to go back to"),
        "{only}"
    );
    // A version whose run did not succeed is none to go back to.
    world.put("2.0", true);
    world.put("1.0", false);
    world.put("2.0", false);
    world.server.post("/holds", &json!({"what": "shop", "why": "the fair"}));

    let (status, plan) = world.back(&json!({"dry_run": true}));
    assert_eq!(status, 200, "{plan}");
    assert_eq!((&plan["from"]["version"], &plan["to"]["version"]), (&json!("2.0"), &json!("1.0")));
    assert_eq!(plan["hosts"][1], json!({"name": "h2", "from": "2.0", "to": "1.0"}));
    assert_eq!((&plan["lock"], &plan["warnings"]), (&json!("deploy/shop/production"), &json!([])));
    assert_eq!(world.installed(), ["2.0", "2.0"]);

    assert_eq!(world.goes_back(&json!({})), ["1.0", "1.0"]);
    let there = world.server.get("/apps/shop")["deployed"]["production"].clone();
    assert_eq!((&there["version"], &there["by"]), (&json!("1.0"), &json!("admin")));
    // Behind the version that it went back to there is nothing else: 2.0 is what it came from.
    assert_eq!(world.back(&json!({})).0, 409);
    assert_eq!(world.back(&json!({"to": "1.0"})).0, 409);
    assert_eq!(world.goes_back(&json!({"to": "2.0"})), ["2.0", "2.0"]);
    assert_eq!(world.goes_back(&json!({})), ["1.0", "1.0"]);
}

#[test]
fn what_failed_is_taken_away_and_what_is_unknown_is_refused_with_what_was_meant() {
    let world = World::new();
    world.put("2.0", false);
    let failed = world.put("3.0", false);
    assert_eq!(failed["status"], "failed");
    // A batch is one host: the second was not touched.
    assert_eq!(world.installed(), ["3.0", "2.0"]);
    let there = world.server.get("/apps")["items"][0]["deployed"].clone();
    assert_eq!((&there["production"]["version"], &there["empty"]), (&json!("2.0"), &Value::Null));
    assert_eq!(there["production"]["latest"]["status"], "failed");

    let shown = world.server.cli(&["rollback", "shop", "production", "--dry-run"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("h1: ? to 2.0") && text.contains("h2: 2.0 to 2.0"), "{text}");
    assert_eq!(world.server.cli(&["rollback", "shop", "production"]).status.code(), Some(2));
    let done = world.server.cli(&["rollback", "shop", "production", "--yes"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(world.installed(), ["2.0", "2.0"]);
    let list = world.server.cli(&["apps"]);
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(text.contains("production") && text.contains("2.0") && text.contains("admin"), "{text}");

    let detail = |path: &str, body: &Value| {
        let (status, answer) = world.server.ask("POST", path, Some(body));
        (status, answer["detail"].as_str().unwrap_or_default().to_owned())
    };
    let (status, why) = detail("/apps/shap/production/rollback", &json!({}));
    assert_eq!((status, why.as_str()), (404, "there is no app `shap`; did you mean `shop`?"));
    let (status, why) = detail("/apps/shop/prod/rollback", &json!({}));
    assert_eq!((status, why.as_str()), (404, "there is no environment `prod`; did you mean `production`?"));
    let (status, why) = detail("/apps/shop/production/rollback", &json!({"to": "9"}));
    assert_eq!((status, why.as_str()), (409, "9 of shop was never whole on production; there were: 2.0"));
}
