//! The hosts of an environment from Consul, a file or a command; those of Consul are rolled to.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use siskin::delivery::apt::{Key, Publish, Repository};
use siskin::delivery::deb::Build;
use siskin::delivery::hosts::{self, Host};
use siskin::model::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::support::consul::Consul;
use crate::support::server::Server;

const TOKEN: &str = "00000000-aaaa-bbbb-cccc-000000000003";

struct World {
    folder: tempfile::TempDir,
    consul: Consul,
    server: Server,
}

impl World {
    /// Three hosts that are dpkg roots here: h1 is a canary, h3 does not pass its check.
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let acl = format!(
            "primary_datacenter = \"dc1\" acl {{ enabled = true default_policy = \"deny\" tokens {{ master = \"{TOKEN}\" agent = \"{TOKEN}\" }} }}"
        );
        let consul = Consul::start_with(&acl);
        let roots = folder.path().display();
        let from_consul = format!("consul: shop, role: app, roots: {roots}");
        fs::write(folder.path().join("list"), "h2 # by hand\nh1\n").unwrap();
        let app = format!(
            "owner: team\nenvironments:\n  canary: {{hosts: {{{from_consul}}}, advertise: {{consul: '{{app}}::canary_version'}}}}\n  sick: {{hosts: {{{from_consul}}}, check: {{script: 'false', tries: 1}}, advertise: {{consul: 'shop::version'}}}}\n  own: {{hosts: {{{from_consul}}}, advertise: {{kv: '{{app}}/{{environment}}'}}}}\n  production: {{hosts: {{{from_consul}}}}}\n  asked: {{hosts: {{{from_consul}, canary: false}}, check: {{consul: shop, tag: 'shop::app', tries: 2, interval: 50ms}}}}\n  careful: {{hosts: {{{from_consul}, at_least: 3}}}}\n  listed: {{hosts: {{file: {roots}/list}}}}\n  told: {{hosts: {{command: \"printf '[\\\"h3\\\"]'\", ssh: {{user: deploy}}}}}}\n  broken: {{hosts: {{command: [\"false\"]}}}}\n"
        );
        let site = format!(
            "config: {{deploy: {{consul_address: \"{}\", consul_token_secret: consul_token}}}}\n",
            consul.url()
        );
        let server = Server::start(&[("siskin.yaml", &site), ("apps/shop.yaml", &app)]);
        server.set_secret("consul_token", TOKEN);
        let world = World { folder, consul, server };
        world.publish();
        for name in ["h1", "h2", "h3"] {
            let repository = world.folder.path().join("apt");
            let source = format!("deb [signed-by={0}/key.gpg] file:{0} stable main", repository.display());
            hosts::prepare_root(&world.folder.path().join(name), &source).unwrap();
        }
        world.register("h1", &["shop::app", "shop::app_canary"], "passing");
        world.register("h2", &["shop::app"], "passing");
        world.register("h3", &["shop::app"], "critical");
        world
    }

    fn register(&self, node: &str, tags: &[&str], status: &str) {
        let node = json!({"Node": node, "Address": "127.0.0.1",
            "Service": {"ID": "shop", "Service": "shop", "Tags": tags, "Port": 80},
            "Checks": [{"Name": "up", "CheckID": "up", "ServiceID": "shop", "Status": status}]});
        self.consul.put_as("catalog/register", &node.to_string(), TOKEN);
    }

    fn publish(&self) {
        let input = self.folder.path().join("input");
        fs::create_dir_all(&input).unwrap();
        fs::write(input.join("version"), "1.0").unwrap();
        let build = Build {
            name: "shop".to_owned(),
            version: "1.0".to_owned(),
            architecture: Some("all".to_owned()),
            maintainer: Some("Ada Example <ada@example.com>".to_owned()),
            description: Some("a shop".to_owned()),
            prefix: Some("/opt/shop".to_owned()),
            chdir: Some(input),
            source_date_epoch: Some(1_700_000_000),
            ..Build::default()
        };
        let debs = [build.write_to(self.folder.path()).unwrap().path];
        let now = Timestamp(jiff::Timestamp::now().as_millisecond());
        let repository = Repository::open_or_create(&self.folder.path().join("apt")).unwrap();
        let key = Key::for_repository(repository.root(), &self.folder.path().join("key.asc"), now).unwrap();
        repository.publish(&Publish { suite: "stable", component: "main", debs: &debs }, &key, now).unwrap();
    }

    /// The hosts that have the package.
    fn installed(&self) -> Vec<&'static str> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let has = |name: &&'static str| {
            let host = Host::root(*name, self.folder.path().join(name));
            let cancel = CancellationToken::new();
            runtime.block_on(hosts::installed_version(&host, "shop", &cancel)).unwrap().is_some()
        };
        ["h1", "h2", "h3"].into_iter().filter(has).collect()
    }

    fn run(&self, action: &str, environment: &str) -> Value {
        let with = json!({"app": "shop", "environment": environment});
        self.server.run_to_end(action, with)
    }

    fn roll(&self, environment: &str) -> Value {
        let with = json!({"app": "shop", "environment": environment, "version": "1.0"});
        self.server.run_to_end("deploy.roll", with)
    }
}

fn names(run: &Value) -> Vec<&str> {
    assert_eq!(run["status"], "succeeded", "{run}");
    run["output"]["hosts"].as_array().unwrap().iter().map(|host| host["name"].as_str().unwrap()).collect()
}

#[test]
fn hosts_of_a_role_that_pass_their_checks_are_rolled_to_and_taken_back_however_they_are_then() {
    let world = World::new();
    assert_eq!(names(&world.run("deploy.hosts", "canary")), ["h1"]);
    assert_eq!(names(&world.run("deploy.hosts", "production")), ["h1", "h2"]);
    assert_eq!(names(&world.roll("canary")), ["h1"]);
    assert_eq!(world.installed(), ["h1"]);
    let rolled = world.roll("production");
    assert_eq!(names(&rolled), ["h1", "h2"]);
    assert_eq!(world.installed(), ["h1", "h2"]);

    // What was touched is taken back also where it is ill now; what was not, is not.
    world.register("h2", &["shop::app"], "critical");
    let deployment = &rolled["output"]["deployment"];
    let restored =
        world.server.run_to_end("deploy.restore", json!({"deployment": deployment, "app": "shop"}));
    assert_eq!(restored["status"], "succeeded", "{restored}");
    assert_eq!(world.installed(), ["h1"]);
}

#[test]
fn too_few_hosts_are_a_failure_and_nothing_is_touched() {
    let world = World::new();
    let few = world.roll("careful");
    let why = few["error"]["message"].as_str().unwrap();
    assert!(why.contains("has 2 hosts to deploy to, at least 3 are wanted; 1 more do not pass"), "{why}");
    world.register("h1", &["shop::app"], "critical");
    let none = world.roll("canary");
    let why = none["error"]["message"].as_str().unwrap();
    assert!(why.contains("the service `shop` of Consul has 0 hosts to deploy to"), "{why}");
    assert_eq!(world.installed(), Vec::<&str>::new());
    world.server.set_secret("consul_token", "not-the-right-one");
    let forbidden = world.run("deploy.hosts", "production");
    let why = forbidden["error"]["message"].as_str().unwrap();
    assert!(why.contains("forbids") && !why.contains("not-the-right-one"), "{why}");
    assert!(Path::new(&world.folder.path().join("h1")).exists());
}

#[test]
fn hosts_stand_in_a_file_or_are_told_by_a_command() {
    let world = World::new();
    assert_eq!(names(&world.run("deploy.hosts", "listed")), ["h2", "h1"]);
    let told = world.run("deploy.hosts", "told");
    assert_eq!(names(&told), ["h3"]);
    assert_eq!(told["output"]["hosts"][0]["address"], "deploy@h3");
    let broken = world.run("deploy.hosts", "broken");
    assert!(
        broken["error"]["message"].as_str().unwrap().contains("the command for hosts failed"),
        "{broken}"
    );
}

#[test]
fn the_version_is_advertised_before_hosts_are_touched_and_put_back_when_the_roll_fails_or_is_taken_back() {
    let world = World::new();
    let advertised = |key: &str| {
        let pair = world
            .server
            .run_to_end("consul.kv_get", json!({"key": key, "address": world.consul.url(), "token": TOKEN}));
        pair["output"]["value"].clone()
    };
    let put = |key: &str, value: &str| world.consul.put_as(&format!("kv/{key}"), value, TOKEN);
    let restore = |rolled: &Value| {
        let with = json!({"deployment": rolled["output"]["deployment"], "app": "shop"});
        assert_eq!(world.server.run_to_end("deploy.restore", with)["status"], "succeeded");
    };

    let rolled = world.roll("canary");
    assert_eq!(names(&rolled), ["h1"]);
    let told = json!({"in": "shop::canary_version in Consul", "from": null, "to": "1.0"});
    assert_eq!(rolled["output"]["advertised"], told);
    assert_eq!(advertised("shop::canary_version"), "1.0");
    restore(&rolled);
    assert_eq!(advertised("shop::canary_version"), Value::Null);

    // What somebody else set since is theirs.
    let rolled = world.roll("canary");
    put("shop::canary_version", "2.0");
    restore(&rolled);
    assert_eq!(advertised("shop::canary_version"), "2.0");

    put("shop::version", "0.9");
    let failed = world.roll("sick");
    assert_eq!(failed["status"], "failed");
    assert!(failed["error"]["message"].as_str().unwrap().contains("the health check failed"), "{failed}");
    assert_eq!(advertised("shop::version"), "0.9");

    let rolled = world.roll("own");
    assert_eq!(rolled["output"]["advertised"]["in"], "the key shop/own");
    assert_eq!(world.server.get("/kv/shop/own")["value"], "1.0");
    restore(&rolled);
    assert_eq!(world.server.get("/kv/shop/own")["value"], Value::Null);
}

#[test]
fn consul_says_whether_a_host_is_well_and_is_asked_again_until_it_does() {
    let world = World::new();
    let checked = world.run("deploy.check", "asked");
    assert_eq!(checked["output"]["healthy"], false, "{checked}");
    let hosts = &checked["output"]["hosts"];
    assert_eq!((&hosts[0]["ok"], &hosts[1]["ok"]), (&json!(true), &json!(true)), "{hosts}");
    let why = hosts[2]["error"].as_str().unwrap();
    assert!(why.contains("the health check failed, 2 tries: `shop` on h3 in Consul at 127.0.0.1:"), "{why}");
    assert!(why.ends_with("is critical (instance shop)"), "{why}");
    assert_eq!(world.roll("asked")["status"], "succeeded");
}
