//! A version that is let in slowly, judged by a real Prometheus and a real Alertmanager.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::get;
use serde_json::{Value, json};

use super::world::World;
use crate::support::prometheus::Monitoring;

/// What the canaries' environment measures.
const ANALYSIS: &str = "    analysis:
      queries:
        - {name: errors, query: max(shop_error_ratio), max: 0.01}
      alerts: app=\"shop\"
";
const APPROVERS: &str = "    approvers: [release-managers]\n";
const RULES: &str = "groups:
  - name: shop
    rules:
      - alert: ShopBroken
        expr: shop_broken > 0
        labels: {app: shop}
";

/// Consul is to say where the hosts are, or how they do, and is not there.
const BLIND: &str = "owner: team
environments:
  by_check: {hosts: [{name: web1, root: /srv/web1}], check: {consul: blind, address: 'http://127.0.0.1:1', tries: 1}}
  by_hosts: {hosts: {consul: blind, address: 'http://127.0.0.1:1'}, check: {tcp: 1}}
";

/// A tiny server of metrics.
struct Metrics {
    text: Arc<Mutex<String>>,
    address: String,
    _runtime: tokio::runtime::Runtime,
}

impl Metrics {
    fn start() -> Metrics {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let text = Arc::new(Mutex::new(String::new()));
        let shown = text.clone();
        let app = Router::new().route("/metrics", get(async move || shown.lock().unwrap().clone()));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Metrics { text, address, _runtime: runtime }
    }

    fn set(&self, errors: &str, broken: &str) {
        *self.text.lock().unwrap() = format!("shop_error_ratio {errors}\nshop_broken {broken}\n");
    }
}

fn stage() -> Option<(World, Monitoring, Metrics)> {
    let metrics = Metrics::start();
    metrics.set("0", "0");
    let monitoring = Monitoring::start(&metrics.address, RULES)?;
    let site = format!(
        "users:\n  ada: {{roles: [release-managers]}}\n  admin: {{roles: [admin, release-managers]}}\nconfig:\n  deploy: {{prometheus_url: \"{}\", alertmanager_url: \"{}/\"}}\n",
        monitoring.prometheus_url(),
        monitoring.alertmanager_url()
    );
    let world = World::new(1, [ANALYSIS, APPROVERS], &[("siskin.yaml", &site), ("apps/blind.yaml", BLIND)])?;
    monitoring.until("shop_error_ratio", "0");
    Some((world, monitoring, metrics))
}

fn analyse(world: &World, with: Value) -> Value {
    let mut all = json!({"app": "shop", "environment": "canary"});
    all.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    world.server.run_to_end("deploy.analyse", all)
}

fn verdict(world: &World, with: Value) -> (String, String) {
    let run = analyse(world, with);
    assert_eq!(run["status"], "succeeded", "{run}");
    let text = |name: &str| run["output"][name].as_str().unwrap().to_owned();
    (text("verdict"), text("why"))
}

fn ship(with: Value) -> Value {
    let mut all = json!({"app": "shop", "bake": "2s"});
    all.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    json!({"run": "deploy.ship_gradually", "with": all})
}

#[test]
fn what_is_measured_is_healthy_unhealthy_or_inconclusive() {
    let Some((world, mut monitoring, metrics)) = stage() else { return };
    assert_eq!(verdict(&world, json!({})), ("healthy".to_owned(), String::new()));
    metrics.set("0.25", "0");
    monitoring.until("shop_error_ratio", "0.25");
    let (is, why) = verdict(&world, json!({}));
    assert_eq!((is.as_str(), why.as_str()), ("unhealthy", "errors is unhealthy: 0.25 is more than 0.01"));
    let failed = analyse(&world, json!({"or_fail": true}));
    assert!(failed["error"]["message"].as_str().unwrap().contains("canary of shop is not well"), "{failed}");

    // No data, no number, a query that is none.
    let query = |text: &str| json!({"queries": [{"name": "q", "query": text, "max": 1}]});
    let (is, why) = verdict(&world, query("nobody_measures_this"));
    assert_eq!((is.as_str(), why.as_str()), ("inconclusive", "q is inconclusive: there is no data"));
    assert_eq!(verdict(&world, query("shop_broken / 0 * 0")).0, "inconclusive");
    let wrong = analyse(&world, query("sum("));
    assert!(
        wrong["error"]["message"].as_str().unwrap().contains("does not understand the query `q`"),
        "{wrong}"
    );

    // An alert that Prometheus raised, and Alertmanager holds.
    metrics.set("0", "1");
    monitoring.until("shop_error_ratio", "0");
    monitoring.until_alerts(1);
    let (is, why) = verdict(&world, json!({}));
    assert!(is == "unhealthy" && why.contains("firing: {") && why.contains("ShopBroken"), "{why}");
    assert_eq!(verdict(&world, json!({"alerts": ["app=\"blog\""]})).0, "healthy");

    monitoring.kill_prometheus();
    let (is, why) = verdict(&world, json!({"alerts": []}));
    assert!(is == "inconclusive" && why.contains("errors is inconclusive: prometheus at 127.0.0.1"), "{why}");
    for environment in ["by_check", "by_hosts"] {
        let (is, why) = verdict(&world, json!({"app": "blind", "environment": environment}));
        assert!(is == "inconclusive" && why.contains("127.0.0.1:1 does not answer"), "{why}");
    }
}

#[test]
fn a_version_is_let_in_slowly_and_taken_back_by_itself_when_it_is_not_well() {
    let Some((world, monitoring, metrics)) = stage() else { return };
    let weights = || ["web1", "web2", "web3"].map(|name| world.haproxies[0].server(name).1);
    let even = ["100"; 3].map(str::to_owned);
    let run = world.server.post("/runs", &ship(json!({"version": "2.0", "ask": false})));
    let shipped = world.server.wait_for_end(run["id"].as_i64().unwrap());
    assert_eq!(shipped["status"], "succeeded", "{shipped}");
    assert_eq!(world.versions(), ["2.0"; 3]);
    assert_eq!(weights(), even);
    assert_eq!((world.advertised("canary"), world.advertised("production")), (json!("2.0"), json!("2.0")));

    metrics.set("0.5", "0");
    monitoring.until("shop_error_ratio", "0.5");
    let run = world.server.post("/runs", &ship(json!({"version": "4.0", "ask": false})));
    let failed = world.server.wait_for_end(run["id"].as_i64().unwrap());
    assert_eq!((&failed["status"], &failed["undone"]), (&json!("failed"), &json!("all")), "{failed}");
    assert!(failed["error"]["message"].as_str().unwrap().contains("not healthy"), "{failed}");
    assert_eq!(world.versions(), ["2.0"; 3]);
    assert_eq!(weights(), even);
    assert_eq!(world.advertised("canary"), "2.0");
    world.all_are_up();
}

#[test]
fn where_nobody_can_say_how_it_does_a_person_is_asked() {
    let Some((world, mut monitoring, _metrics)) = stage() else { return };
    monitoring.kill_prometheus();
    let run = world.server.post("/runs", &ship(json!({"version": "2.0", "ask": false})));
    let id = run["id"].as_i64().unwrap();
    let waits = |run: &Value| {
        run["steps"].as_array().is_some_and(|steps| {
            steps.iter().any(|step| step["id"] == "doubt_small" && step["status"] == "waiting")
        })
    };
    world.server.wait_for(&format!("/runs/{id}"), waits);
    assert_eq!(world.versions(), ["2.0", "1.0", "1.0"]);
    let asked = world.server.get("/approvals");
    assert!(asked.to_string().contains("nobody can say how it does"), "{asked}");
    let cancelled = world.server.ask("POST", &format!("/runs/{id}/cancel"), Some(&json!({})));
    assert!(cancelled.0 < 300, "{cancelled:?}");
    world.server.wait_for_end(id);
}
