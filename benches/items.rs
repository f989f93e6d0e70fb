//! Fanned out and joined: whether ten thousand items cost a hundred times what a hundred cost.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::server::Server;
use crate::{Scene, meter, site};

pub(crate) fn measure(scene: &mut Scene) {
    for (workflow, name) in [("items", "items"), ("large_items", "items after an output of 900 KB")] {
        let server = site::start(&scene.stand);
        if !site::has(&server, workflow) {
            scene.table.missing(name, "this server has no for_each");
            continue;
        }
        measure_one(scene, &server, workflow, name);
    }
}

fn measure_one(scene: &mut Scene, server: &Server, workflow: &str, name: &str) {
    let pid = meter::pid(server);
    let most = scene.number(10_000, 1_000);
    let mut of_a_hundred = Duration::ZERO;
    for count in [1, 100, 1_000, 10_000].into_iter().filter(|count| *count <= most) {
        meter::forget_peak(pid);
        let rounds = if count <= 100 { 5 } else { 1 };
        let mut took = Duration::ZERO;
        for _ in 0..rounds {
            took += one_run(server, workflow, count);
        }
        took /= rounds;
        let an_item = took / u32::try_from(count).unwrap();
        scene.table.plain(
            &format!("{count} {name}"),
            took.as_secs_f64(),
            "s",
            &format!("{:.1} MB at most", meter::peak_mb(pid)),
        );
        if count == 100 {
            of_a_hundred = an_item;
            scene.table.plain(
                "  such runs a second, one after another",
                1.0 / took.as_secs_f64(),
                "/s",
                "aim: 250 /s",
            );
        } else if count > 100 {
            let ratio = an_item.as_secs_f64() / of_a_hundred.as_secs_f64();
            scene.table.plain(
                &format!("  an item of {count} beside one of 100"),
                ratio,
                "times",
                "linear: 1",
            );
        }
    }
}

/// How long a run takes, from the request to its end.
fn one_run(server: &Server, workflow: &str, count: usize) -> Duration {
    let began = Instant::now();
    let started = server.post("/runs", &json!({"run": format!("site.{workflow}"), "with": {"n": count}}));
    // Asked for with what it waits for, so that its end is known at once.
    loop {
        let run = server.get(&format!("/runs/{}?wait=30s", started["id"]));
        if ["succeeded", "failed", "cancelled"].iter().any(|end| run["status"] == *end) {
            assert_eq!(run["status"], "succeeded", "{:.2000}", run.to_string());
            return began.elapsed();
        }
        assert!(began.elapsed() < Duration::from_secs(600), "{count} items never ended");
    }
}
