//! The native actions of the reference pipeline, one after another, on a real repository, with real packages and private dpkg roots.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use siskin::delivery::hosts;
use siskin::model::desk::{Reply, Request};
use siskin::model::release::{Deployment, DeploymentStatus};
use siskin::model::{ErrorKind, Outcome, RunId, Timestamp};

use super::bench::{Bench, Seen, attempt};

/// A repository, and a server that keeps records of deployments.
struct World {
    bench: Bench,
    folder: tempfile::TempDir,
    deployments: BTreeMap<i64, (Deployment, Value)>,
    /// What was asked, in short.
    asked: Vec<String>,
    steps: u32,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let world =
            World { bench: Bench::new(), folder, deployments: BTreeMap::new(), asked: Vec::new(), steps: 0 };
        std::fs::create_dir_all(world.repository().join("script")).unwrap();
        world.git(&["init", "--quiet", "--initial-branch=main"]);
        world
    }

    fn repository(&self) -> PathBuf {
        self.folder.path().join("shop")
    }

    fn apt(&self) -> PathBuf {
        self.folder.path().join("apt")
    }

    fn root(&self, name: &str) -> PathBuf {
        self.folder.path().join("hosts").join(name)
    }

    fn git(&self, words: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(self.repository())
            .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Commits a version of the app; its hash.
    fn commit(&self, version: &str, build: &str) -> String {
        let write = |name: &str, text: &str| {
            let path = self.repository().join(name);
            std::fs::write(&path, text).unwrap();
            use std::os::unix::fs::PermissionsExt;
            let mode = if name.starts_with("script/") { 0o755 } else { 0o644 };
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        write("script/cibuild", build);
        write("script/post-install", "#!/bin/sh\necho installed \"$@\" >>\"$DPKG_ROOT/post-install.log\"\n");
        write("fpm.json", &json!({"version": version, "description": "A shop"}).to_string());
        write("hello", &format!("hello {version}\n"));
        self.git(&["add", "-A"]);
        self.git(&["commit", "--quiet", "-m", &format!("version {version}")]);
        self.git(&["rev-parse", "HEAD"])
    }

    async fn done(&mut self, action: &str, mut input: Value) -> Seen {
        if matches!(action, "ci.build" | "package.build") {
            input["repository"] = json!(self.repository());
        }
        let mut attempt = attempt("native", action, input);
        self.steps += 1;
        attempt.key.step = format!("step{}", self.steps);
        let key = self.folder.path().join("key.asc");
        attempt.work.config = json!({"repository": self.apt(), "key": key});
        let host = |name: &str| json!({"name": name, "root": self.root(name)});
        attempt.apps = json!({"shop": {"environments": {
            "canary": {"hosts": [host("c1"), host("c2")], "check": "grep hello opt/shop/hello"},
            "broken": {"hosts": [host("c1"), host("c2")], "check": {"script": "echo sick; exit 1", "tries": 1}},
        }}});
        self.bench.order(attempt, &[]).await;
        let (deployments, asked) = (&mut self.deployments, &mut self.asked);
        self.bench.seen_answering(|request| answer(deployments, asked, request)).await
    }

    fn prepare_hosts(&self) {
        for name in ["c1", "c2"] {
            let keyring = self.apt().join("key.gpg");
            let source =
                format!("deb [signed-by={}] file:{} canary main", keyring.display(), self.apt().display());
            hosts::prepare_root(&self.root(name), &source).unwrap();
        }
    }

    fn installed(&self, name: &str) -> String {
        let output = Command::new("dpkg-query")
            .arg(format!("--admindir={}", self.root(name).join("var/lib/dpkg").display()))
            .args(["-W", "-f", "${Version}", "shop"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Builds, packages and publishes a commit; its version.
    async fn published(&mut self, commit: &str) -> String {
        let seen = self.done("package.build", json!({"commit": commit, "name": "shop"})).await;
        let package = seen.output().clone();
        let seen = self.done("apt.publish", json!({"packages": [package["deb"]], "suite": "canary"})).await;
        seen.output();
        package["version"].as_str().unwrap().to_owned()
    }
}

fn answer(
    deployments: &mut BTreeMap<i64, (Deployment, Value)>,
    asked: &mut Vec<String>,
    request: Request,
) -> Reply {
    let reply = |(deployment, hosts): &(Deployment, Value)| Reply::Deployment {
        deployment: Box::new(deployment.clone()),
        hosts: hosts.clone(),
    };
    match request {
        Request::BeginDeployment { app, environment, version, .. } => {
            let id = i64::try_from(deployments.len()).unwrap() + 1;
            let deployment = Deployment {
                id,
                app,
                environment,
                version,
                previous: None,
                run: Some(RunId(7)),
                status: DeploymentStatus::Rolling,
                started_at: Timestamp(id),
                finished_at: None,
                done_at: None,
                restored_at: None,
            };
            asked.push("begin".into());
            reply(deployments.entry(id).or_insert((deployment, Value::Null)))
        }
        Request::UpdateDeployment { id, status, hosts } => {
            asked.push(format!("{status:?}"));
            let known = deployments.get_mut(&id).unwrap();
            known.0.status = status;
            known.1 = hosts;
            Reply::Done
        }
        Request::Deployment { id } => {
            deployments.get(&id).map_or(Reply::Refused { why: "none".into() }, reply)
        }
        other => panic!("{other:?}"),
    }
}

const BUILD: &str = "#!/bin/sh\necho \"building $GIT_COMMIT of $GIT_BRANCH\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_built_as_its_scripts_say_and_a_failing_script_fails_it() {
    let mut world = World::new();
    let good = world.commit("1.0", BUILD);
    let bad = world.commit("1.1", "#!/bin/sh\necho 'test 3 failed' >&2\nexit 4\n");
    let seen = world.done("ci.build", json!({"commit": good, "branch": "feature/$(reboot)"})).await;
    assert_eq!(seen.output()["commit"], good);
    assert!(seen.stdout.contains(&format!("building {good} of feature/$(reboot)")), "{}", seen.stdout);
    let seen = world.done("ci.build", json!({"commit": bad})).await;
    assert!(
        seen.error().message.contains("script/cibuild failed: exit status 4: test 3 failed"),
        "{}",
        seen.error()
    );
    let seen = world.done("ci.build", json!({"commit": "0000000000000000000000000000000000000000"})).await;
    assert_eq!(seen.kind(), ErrorKind::Failed);
    let seen = world.done("ci.build", json!({"commit": "--upload-pack=touch hit"})).await;
    assert_eq!(seen.kind(), ErrorKind::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_commit_gives_the_same_package_and_publishing_it_again_changes_nothing() {
    let mut world = World::new();
    let commit = world.commit("1.0", BUILD);
    let one = world.done("package.build", json!({"commit": commit, "name": "shop"})).await.output().clone();
    world.commit("1.1", BUILD);
    let two = world.done("package.build", json!({"commit": commit, "name": "shop"})).await.output().clone();
    assert_eq!(one, two);
    assert!(one["version"].as_str().unwrap().starts_with("1.0-"), "{one}");
    assert!(one["version"].as_str().unwrap().ends_with(&commit[..8]), "{one}");

    let publish = json!({"packages": [one["deb"]], "suite": "canary"});
    let first = world.done("apt.publish", publish.clone()).await.output().clone();
    let second = world.done("apt.publish", publish).await.output().clone();
    assert_eq!(
        (first["added"].as_array().unwrap().len(), first["unchanged"].as_array().unwrap().len()),
        (1, 0)
    );
    assert_eq!(
        (second["added"].as_array().unwrap().len(), second["unchanged"].as_array().unwrap().len()),
        (0, 1)
    );
    assert_eq!(first["added"][0]["sha256"], one["sha256"]);

    let package = format!("shop={}", one["version"].as_str().unwrap());
    let promote = json!({"package": package, "from": "canary", "to": "stable"});
    let promoted = world.done("apt.promote", promote.clone()).await.output().clone();
    assert_eq!((&promoted["suite"], &promoted["added"][0]["sha256"]), (&json!("stable"), &one["sha256"]));
    world.done("apt.promote", promote).await.output();
    let seen =
        world.done("apt.promote", json!({"package": "shop=9", "from": "canary", "to": "stable"})).await;
    assert_eq!(seen.kind(), ErrorKind::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_is_recorded_before_it_is_done_and_restore_takes_it_back() {
    let mut world = World::new();
    let commit = world.commit("1.0", BUILD);
    let one = world.published(&commit).await;
    world.prepare_hosts();
    let roll = |version: &str| json!({"app": "shop", "environment": "canary", "version": version});
    let seen = world.done("deploy.roll", roll(&one)).await;
    let output = seen.output().clone();
    assert_eq!(output["changes"], json!([format!("c1: nothing to {one}"), format!("c2: nothing to {one}")]));
    assert_eq!(output["deployment"], 1);
    assert_eq!(seen.progress[0], json!({"deployment": 1}), "its number is known before anything is touched");
    assert_eq!(world.asked, ["begin", "Rolling", "Rolling", "Done"], "one host after another");
    assert_eq!((world.installed("c1"), world.installed("c2")), (one.clone(), one.clone()));

    let commit = world.commit("1.1", BUILD);
    let two = world.published(&commit).await;
    let output = world.done("deploy.roll", roll(&two)).await.output().clone();
    assert_eq!(output["hosts"][0]["from"], json!(one));
    let healthy =
        world.done("deploy.check", json!({"app": "shop", "environment": "canary"})).await.output().clone();
    assert_eq!((&healthy["healthy"], &healthy["hosts"][1]["output"]), (&json!(true), &json!("hello 1.1")));

    let restored = world.done("deploy.restore", json!({"deployment": 2})).await.output().clone();
    assert_eq!(restored["changes"][0], json!(format!("c1: {two} to {one}")), "{restored}");
    assert_eq!((world.installed("c1"), world.installed("c2")), (one.clone(), one));
    assert_eq!(world.deployments[&2].0.status, DeploymentStatus::Restored);
    world.done("deploy.restore", json!({"deployment": 2})).await.output();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_ill_stops_the_roll_and_the_outcome_says_what_was_touched() {
    let mut world = World::new();
    let commit = world.commit("1.0", BUILD);
    let version = world.published(&commit).await;
    world.prepare_hosts();
    let input = json!({"app": "shop", "environment": "broken", "version": version});
    let seen = world.done("deploy.roll", input).await;
    assert!(seen.error().message.contains("c1: the health check failed"), "{}", seen.error());
    assert!(seen.error().message.contains("not touched: c2"), "{}", seen.error());
    let Outcome::Failed { output, .. } = &seen.outcome else { unreachable!() };
    assert_eq!((&output["deployment"], &output["hosts"][0]["ok"]), (&json!(1), &json!(false)));
    assert_eq!(world.deployments[&1].0.status, DeploymentStatus::Failed);
    assert_eq!(world.installed("c2"), "");
    let healthy =
        world.done("deploy.check", json!({"app": "shop", "environment": "broken"})).await.output().clone();
    assert_eq!((&healthy["healthy"], &healthy["hosts"][0]["output"]), (&json!(false), &json!("sick")));
    world.done("deploy.restore", json!({"deployment": 1})).await.output();
    assert_eq!(world.installed("c1"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_or_environment_that_is_not_there_is_named_before_anything_is_asked() {
    let mut world = World::new();
    let seen = world.done("deploy.roll", json!({"app": "shop", "environment": "moon", "version": "1"})).await;
    assert!(
        seen.error().message.contains("it has broken, canary")
            || seen.error().message.contains("it has canary, broken")
    );
    assert!(world.asked.is_empty());
    assert!(!Path::new(&world.root("c1")).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_becomes_an_rpm_with_what_belongs_beside_it() {
    use siskin::delivery::package::attest;
    let mut world = World::new();
    let commit = world.commit("1.0", BUILD);
    world.published(&commit).await;
    let order = json!({
        "commit": commit, "name": "shop", "output_type": "rpm", "depends": ["bash"], "exclude": ["script"], "sbom": true, "provenance": true,
        "provenance_key": world.folder.path().join("key.asc"),
    });
    let made = world.done("package.build", order).await.output().clone();
    assert_eq!(
        (&made["rpm"], &made["architecture"], &made["deb"]),
        (&made["package"], &json!("noarch"), &Value::Null)
    );
    assert_eq!(made["files"], json!(["/opt/shop/fpm.json", "/opt/shop/hello"]));
    let read = |name: &str| std::fs::read(made[name].as_str().unwrap()).unwrap();
    assert_eq!(made["size"], read("rpm").len());
    let path = |name: &str| PathBuf::from(made[name].as_str().unwrap());
    let statement = attest::verify(&path("provenance"), &world.apt().join("key.gpg"), &path("rpm")).unwrap();
    let material = &statement["predicate"]["buildDefinition"]["resolvedDependencies"][0];
    assert_eq!(material["digest"]["gitCommit"], commit);
    assert!(
        statement["predicate"]["runDetails"]["metadata"]["invocationId"]
            .as_str()
            .unwrap()
            .starts_with("run 7 step")
    );
    let scripts = &statement["predicate"]["buildDefinition"]["externalParameters"]["scripts"];
    assert_eq!(scripts["after_install"], "post-install", "of this machine nothing is told");
    let bill: Value = serde_json::from_slice(&read("sbom")).unwrap();
    assert_eq!(bill["components"].as_array().unwrap().len(), 3);
    for (wrong, words) in [
        (json!({"commit": commit, "after_install": "../../etc/passwd"}), "`..`"),
        (json!({"commit": commit, "no_such_option": 1}), "no_such_option"),
        (json!({"commit": commit, "provenance": true, "provenance_key": "nowhere"}), "nowhere"),
    ] {
        let seen = world.done("package.build", wrong).await;
        assert!(seen.error().message.contains(words), "{}", seen.error().message);
    }
}
