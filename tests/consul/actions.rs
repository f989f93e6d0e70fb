//! The actions of the pack `consul`.

use serde_json::{Value, json};

use crate::support::consul::Consul;
use crate::support::server::Server;

const TOKEN: &str = "00000000-aaaa-bbbb-cccc-000000000002";

/// A Consul that demands a token, and a server that has it.
fn start() -> (Consul, Server) {
    let acl = format!(
        "primary_datacenter = \"dc1\" acl {{ enabled = true default_policy = \"deny\" tokens {{ master = \"{TOKEN}\" agent = \"{TOKEN}\" }} }}"
    );
    let consul = Consul::start_with(&acl);
    let site = format!("config: {{consul: {{address: \"{}\", token_secret: consul_token}}}}\n", consul.url());
    let server = Server::start(&[("siskin.yaml", &site)]);
    server.set_secret("consul_token", TOKEN);
    // It has a leader before it knows its own token.
    consul.put_as("kv/ready", "1", TOKEN);
    (consul, server)
}

/// What an action gives.
fn done(server: &Server, action: &str, with: Value) -> Value {
    let run = server.run_to_end(&format!("consul.{action}"), with);
    assert_eq!(run["status"], "succeeded", "{action}: {run}");
    run["output"].clone()
}

/// Why an action fails.
fn refused(server: &Server, action: &str, with: Value) -> String {
    let run = server.run_to_end(&format!("consul.{action}"), with);
    assert_eq!(run["status"], "failed", "{action}: {run}");
    run["error"]["message"].as_str().unwrap().to_owned()
}

#[test]
fn keys_are_read_and_written_and_what_moved_on_is_not_overwritten() {
    let (consul, server) = start();
    let none = done(&server, "kv_get", json!({"key": "shop/version"}));
    assert_eq!(none, json!({"found": false, "value": null, "modify_index": 0}));
    let made = done(&server, "kv_put", json!({"key": "shop/version", "value": "1.0", "cas": 0}));
    let again = refused(&server, "kv_put", json!({"key": "shop/version", "value": "1.1", "cas": 0}));
    assert!(again.contains("is there already"), "{again}");
    let read = done(&server, "kv_get", json!({"key": "shop/version"}));
    assert_eq!((&read["value"], &read["modify_index"]), (&json!("1.0"), &made["modify_index"]));
    let next =
        json!({"key": "shop/version", "value": {"version": "2.0"}, "cas": made["modify_index"], "flags": 7});
    let moved = done(&server, "kv_put", next.clone());
    assert!(moved["modify_index"].as_u64() > made["modify_index"].as_u64());
    let late = refused(&server, "kv_put", next);
    assert!(late.contains("somebody else changed it"), "{late}");
    consul.put_as("kv/shop/bytes", "x", TOKEN);
    let all = done(&server, "kv_list", json!({"prefix": "shop/"}));
    let keys: Vec<&str> =
        all["keys"].as_array().unwrap().iter().map(|key| key["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["shop/bytes", "shop/version"]);
    assert_eq!(
        (&all["keys"][1]["value"], &all["keys"][1]["flags"]),
        (&json!("{\"version\":\"2.0\"}"), &json!(7))
    );

    let stale = refused(&server, "kv_delete", json!({"key": "shop/version", "cas": made["modify_index"]}));
    assert!(stale.contains("somebody else"), "{stale}");
    assert!(refused(&server, "kv_delete", json!({"prefix": ""})).contains("all keys"));
    done(&server, "kv_delete", json!({"prefix": "shop/"}));
    assert_eq!(done(&server, "kv_list", json!({"prefix": "shop/"})), json!({"keys": []}));

    // A token in `with` is in place of the configured one, and shown nowhere.
    let other = refused(&server, "kv_get", json!({"key": "ready", "token": "not-the-t0ken"}));
    assert!(other.contains("forbids") && !other.contains("t0ken"), "{other}");
    assert!(!server.log().contains(TOKEN));
}

#[test]
fn services_are_listed_by_tag_and_health() {
    let (consul, server) = start();
    for (id, status) in [("web1", "passing"), ("web2", "critical")] {
        let node = json!({"Node": id, "Address": "127.0.0.9",
            "Service": {"ID": id, "Service": "web", "Tags": ["blue", id], "Port": 80},
            "Checks": [{"Name": "up", "CheckID": "up", "ServiceID": id, "Status": status}]});
        consul.put_as("catalog/register", &node.to_string(), TOKEN);
    }
    let ids = |with: Value| -> Vec<Value> {
        let found = done(&server, "service", with);
        found["instances"].as_array().unwrap().iter().map(|instance| instance["id"].clone()).collect()
    };
    assert_eq!(ids(json!({"name": "web"})), ["web1"]);
    assert_eq!(ids(json!({"name": "web", "tags": "blue", "passing": false})), ["web1", "web2"]);
    assert_eq!(ids(json!({"name": "web", "tags": ["blue", "web2"], "passing": false})), ["web2"]);
    assert_eq!(ids(json!({"name": "nothing"})), Vec::<Value>::new());
    let few = refused(&server, "service", json!({"name": "web", "at_least": 2}));
    assert_eq!(few, "there are 1 instances of `web` that pass their checks; 2 are the least");
    assert_eq!(done(&server, "services", json!({}))["services"]["web"], json!(["blue", "web1", "web2"]));
}

#[test]
fn a_lock_has_one_holder_and_is_waited_for() {
    let (consul, server) = start();
    let session = |name: &str| {
        done(&server, "session_create", json!({"name": name, "ttl": "30s", "lock_delay": "1ms"}))
    };
    let (one, two) = (session("one")["session"].clone(), session("two")["session"].clone());
    let lock = |session: &Value, wait: &str| json!({"key": "lock/deploy", "session": session, "value": "held", "wait": wait});
    done(&server, "lock_acquire", lock(&one, "0s"));
    done(&server, "lock_acquire", lock(&one, "0s"));
    let held = refused(&server, "lock_acquire", lock(&two, "0s"));
    assert!(held.contains(one.as_str().unwrap()), "{held}");

    // The second waits until the first lets go; what the key holds stays.
    let waiting = server.post("/runs", &json!({"run": "consul.lock_acquire", "with": lock(&two, "1m")}));
    let id = waiting["id"].as_i64().unwrap();
    server.wait_for(&format!("/runs/{id}"), |run| run["status"] == "running");
    let release = |session: &Value| json!({"key": "lock/deploy", "session": session});
    assert_eq!(done(&server, "lock_release", release(&one)), json!({"released": true}));
    assert_eq!(server.wait_for_end(id)["status"], "succeeded");
    let read = done(&server, "kv_get", json!({"key": "lock/deploy"}));
    assert_eq!((&read["value"], &read["session"]), (&json!("held"), &two));
    assert_eq!(done(&server, "lock_release", release(&one)), json!({"released": false}));

    assert_eq!(done(&server, "session_renew", json!({"session": two}))["session"], two);
    done(&server, "session_destroy", json!({"session": two}));
    done(&server, "session_destroy", json!({"session": two}));
    assert!(refused(&server, "session_renew", json!({"session": two})).contains("has ended"));
    assert_eq!(done(&server, "kv_get", json!({"key": "lock/deploy"}))["session"], Value::Null);

    let fired = done(&server, "event_fire", json!({"name": "deploy", "payload": {"app": "shop"}}));
    assert_eq!(fired["id"].as_str().unwrap().len(), 36);
    drop(consul);
    let away = refused(&server, "event_fire", json!({"name": "deploy"}));
    assert!(away.contains("does not answer"), "{away}");
}
