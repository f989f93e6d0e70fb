//! Locks, across runs and restarts.

use serde_json::json;

use crate::support::server::Server;

#[test]
fn a_lock_is_held_by_one_run_at_a_time_and_a_restart_forgets_nobody_who_waits() {
    let mut server = Server::start(&[
        ("triggers/go.yaml", "description: d\n"),
        (
            "workflows/hold.yaml",
            "description: d\ninput: {app: string}\nsteps:\n  - {id: a, lock: \"deploy/{{ input.app }}\", wait_for: {trigger: go}}\n",
        ),
    ]);
    let start = |server: &Server, app: &str| {
        let run = server.post("/runs", &json!({"run": "site.hold", "with": {"app": app}}));
        run["id"].as_i64().unwrap()
    };
    let first = start(&server, "shop");
    server.wait_for(&format!("/runs/{first}"), |run| run["steps"][0]["status"] == "waiting");
    let second = start(&server, "shop");
    let other = start(&server, "till");
    server.wait_for(&format!("/runs/{other}"), |run| run["steps"][0]["status"] == "waiting");
    let held = format!("the lock `deploy/shop`, which run {first} has for its step a");
    server.wait_for(&format!("/runs/{second}"), |run| run["waits"][0]["for"] == held.as_str());
    server.kill();
    server.run();
    server.post("/events", &json!({"trigger": "site.go", "payload": {}}));
    let (first, second) = (server.wait_for_end(first), server.wait_for_end(second));
    assert_eq!((&first["status"], &second["status"]), (&json!("succeeded"), &json!("succeeded")));
    let (ended, began) = (&first["steps"][0]["finished_at"], &second["steps"][0]["started_at"]);
    assert!(ended.as_str() <= began.as_str(), "{ended} {began}");
}
