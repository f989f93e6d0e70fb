//! Versions advertised in a real etcd.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::etcd::Etcd;
use crate::support::packages;
use crate::support::server::Server;

struct World {
    folder: tempfile::TempDir,
    etcd: Etcd,
    server: Server,
}

impl World {
    /// One host, which is a dpkg root here, and an etcd that one has to log in to.
    fn new(etcd: Etcd, more: &str) -> World {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("h1");
        let host = format!("hosts: [{{name: h1, root: {}}}]", root.display());
        let app = format!(
            "environments:\n  production: {{{host}, advertise: {{etcd: '/{{app}}/{{environment}}', address: [{0}]}}}}\n  sick: {{{host}, check: {{script: 'false', tries: 1}}, advertise: {{etcd: '/{{app}}/sick'}}}}\n",
            etcd.url()
        );
        let site = format!(
            "config: {{deploy: {{etcd_address: 'http://127.0.0.1:1,{}', etcd_user: root, etcd_password_secret: etcd_password{more}}}}}\n",
            etcd.url()
        );
        let server = Server::start(&[("siskin.yaml", &site), ("apps/shop.yaml", &app)]);
        packages::publish(folder.path(), "shop", &["1.0", "2.0"]);
        packages::root(folder.path(), "h1");
        World { folder, etcd, server }
    }

    fn roll(&self, environment: &str, version: &str) -> Value {
        let with = json!({"app": "shop", "environment": environment, "version": version});
        self.server.run_to_end("deploy.roll", with)
    }

    fn restore(&self, rolled: &Value) {
        let with = json!({"deployment": rolled["output"]["deployment"], "app": "shop"});
        let restored = self.server.run_to_end("deploy.restore", with);
        assert_eq!(restored["status"], "succeeded", "{restored}");
    }

    fn held(&self, key: &str) -> Option<String> {
        let found = self.etcd.ask_as_root("kv/range", &json!({"key": STANDARD.encode(key)}), PASSWORD);
        let value = found["kvs"][0]["value"].as_str()?;
        Some(String::from_utf8(STANDARD.decode(value).unwrap()).unwrap())
    }
}

const PASSWORD: &str = "n0t-in-the-log";

#[test]
fn a_version_is_advertised_in_etcd_and_put_back_with_its_mark() {
    let etcd = Etcd::start();
    etcd.demand_password(PASSWORD);
    let world = World::new(etcd, "");
    world.server.set_secret("etcd_password", "wrong");
    let refused = world.roll("production", "1.0");
    let why = refused["error"]["message"].as_str().unwrap();
    assert!(why.contains("forbids") && !why.contains("wrong\""), "{refused}");
    assert!(!fs::exists(world.folder.path().join("h1/opt/shop")).unwrap(), "a host was touched");

    world.server.set_secret("etcd_password", PASSWORD);
    let first = world.roll("production", "1.0");
    assert_eq!(first["status"], "succeeded", "{first}");
    let told = json!({"in": "/shop/production in etcd", "from": null, "to": "1.0"});
    assert_eq!(first["output"]["advertised"], told);
    let second = world.roll("production", "2.0");
    assert_eq!(second["output"]["advertised"]["from"], "1.0", "{second}");
    assert_eq!(
        (world.held("/shop/production").as_deref(), world.held("/shop/production.rollback")),
        (Some("2.0"), None)
    );

    // A way back says that it is one; the next roll forward takes that word away.
    world.restore(&second);
    assert_eq!(world.held("/shop/production").as_deref(), Some("1.0"));
    assert_eq!(world.held("/shop/production.rollback").as_deref(), Some("1.0"));
    let again = world.roll("production", "2.0");
    assert_eq!(again["status"], "succeeded", "{again}");
    assert_eq!(world.held("/shop/production.rollback"), None);

    // What somebody else set since is theirs.
    world.etcd.put_as_root("/shop/production", "3.0", PASSWORD);
    world.restore(&again);
    assert_eq!(world.held("/shop/production").as_deref(), Some("3.0"));
    assert_eq!(world.held("/shop/production.rollback"), None);

    // A roll that fails puts back what stood there; the first of several members does not answer.
    world.etcd.put_as_root("/shop/sick", "0.9", PASSWORD);
    let failed = world.roll("sick", "2.0");
    assert_eq!(failed["status"], "failed", "{failed}");
    assert_eq!(world.held("/shop/sick").as_deref(), Some("0.9"));
    let said = world.server.get(&format!("/runs/{}", failed["id"])).to_string();
    assert!(!said.contains(PASSWORD), "{said}");
}

#[test]
fn etcd_over_tls_is_trusted_by_its_authority_and_a_wrong_one_is_refused_before_a_host_is_touched() {
    let etcd = Etcd::start_tls();
    etcd.demand_password(PASSWORD);
    let more = format!(", etcd_ca: {}", etcd.authority().display());
    let world = World::new(etcd, &more);
    world.server.set_secret("etcd_password", PASSWORD);
    let rolled = world.roll("production", "1.0");
    assert_eq!(rolled["status"], "succeeded", "{rolled}");
    assert_eq!(world.held("/shop/production").as_deref(), Some("1.0"));

    let site = fs::read_to_string(world.server.site().join("siskin.yaml")).unwrap();
    world.server.write("siskin.yaml", &site.replace(&more, ""));
    let refused = crate::support::server::until(std::time::Duration::from_secs(20), || {
        let run = world.roll("production", "2.0");
        (run["status"] == "failed").then_some(run)
    });
    let why = refused.unwrap()["error"]["message"].as_str().unwrap().to_owned();
    assert!(why.contains("does not answer"), "{why}");
}
