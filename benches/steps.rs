//! Runs and their steps: how many a second, and how long one event takes to its first action.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;

use crate::sender::{self, send, send_and_see_runs_end};
use crate::{Scene, limits, meter, site};

const AT_ONCE: usize = 64;

/// Clients that start a run and wait for its end.
pub(crate) fn ten(scene: &mut Scene) {
    let limit = limits::rows(scene)[2];
    let server = site::start(&scene.stand);
    let body = json!({"run": "site.ten"}).to_string();
    let authorization = format!("Bearer {}", server.token());
    let request = Rc::new(move |_| {
        sender::post("/api/v1/runs?wait=60s", &[("Authorization", authorization.as_str())], body.as_bytes())
    });
    let pid = meter::pid(&server);
    let before = meter::ticks(pid);
    let load = send(&meter::address(&server), AT_ONCE, scene.seconds, request);
    let ticks = meter::ticks(pid) - before;
    scene.table.against("steps of 10-step workflows", 10.0 * load.a_second(), "/s", limit, "rows in groups");
    scene.table.plain("  processor time of a step", meter::microseconds(ticks, 10 * load.done), "us", "");
    scene.table.plain("  memory after it", meter::resident_mb(pid), "MB", "");
}

pub(crate) fn one(scene: &mut Scene) {
    let limit = limits::rows(scene)[2];
    let server = site::start(&scene.stand);
    let pid = meter::pid(&server);
    let before = meter::ticks(pid);
    let (load, _) = send_and_see_runs_end(
        &meter::address(&server),
        &server.token(),
        AT_ONCE,
        None,
        scene.seconds,
        site::deliveries("one", "runs"),
    );
    let ticks = meter::ticks(pid) - before;
    scene.table.against("runs of one step from a webhook", load.a_second(), "/s", limit, "rows in groups");
    scene.table.plain("  processor time of a run", meter::microseconds(ticks, load.done), "us", "");
}

pub(crate) fn latency(scene: &mut Scene) {
    let server = site::start(&scene.stand);
    let (_, mut times) = send_and_see_runs_end(
        &meter::address(&server),
        &server.token(),
        16,
        Some(Duration::from_millis(20)),
        scene.seconds,
        site::deliveries("one", "latency"),
    );
    times.sort_unstable();
    for (name, part) in [("p50", 0.50), ("p99", 0.99)] {
        let time = times[((times.len() - 1) as f64 * part) as usize];
        let aim = if name == "p50" { "aim: 2 ms" } else { "" };
        scene.table.plain(
            &format!("event in, run of one step ended, {name}"),
            1000.0 * time.as_secs_f64(),
            "ms",
            aim,
        );
    }
}
