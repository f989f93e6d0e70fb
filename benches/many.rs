//! Many runs at once that do nothing: those that wait for somebody, and those that wait for their turn.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::server::Server;
use crate::{Scene, meter, site};

/// How long the processor is watched.
const WATCHED: Duration = Duration::from_secs(5);

pub(crate) fn waiting(scene: &mut Scene) {
    let count = scene.number(10_000, 500);
    let server = site::start(&scene.stand);
    let pid = meter::pid(&server);
    let empty = meter::resident_mb(pid);
    let took = time(&server, || {
        site::flood(&server, "approve", count / 2);
        site::flood(&server, "wait", count / 2);
    });
    assert_eq!(listed(&server, "/runs?status=waiting"), count, "not all runs wait");
    scene.table.plain(&format!("{count} runs begin to wait"), count as f64 / took.as_secs_f64(), "/s", "");
    scene.table.plain("  memory before", empty, "MB", "");
    scene.table.plain("  memory while they wait", meter::resident_mb(pid), "MB", "aim: under 100 MB");
    let ticks = meter::ticks_in(pid, WATCHED);
    scene.table.plain("  processor, ticks of 10 ms in 5 s", ticks as f64, "", "aim: none to be seen");
}

pub(crate) fn queued(scene: &mut Scene) {
    let count = scene.number(50_000, 1_000);
    let server = site::start(&scene.stand);
    if !site::has(&server, "queued") {
        return scene
            .table
            .missing(&format!("{count} runs in a queue"), "this server has no concurrency of workflows");
    }
    let pid = meter::pid(&server);
    let took = time(&server, || site::flood(&server, "queued", count));
    scene.table.plain(
        &format!("{count} runs queued"),
        count as f64 / took.as_secs_f64(),
        "/s",
        &format!("{:.1} s", took.as_secs_f64()),
    );
    scene.table.plain("  memory", meter::resident_mb(pid), "MB", "");
    let queued = server.get("/runs?status=queued&limit=1");
    let newest = queued["items"][0]["id"].as_i64().unwrap();
    for (name, run) in
        [("the last", newest), ("one in the middle", newest - i64::try_from(count / 2).unwrap())]
    {
        let began = Instant::now();
        let run = server.post(&format!("/runs/{run}/cancel"), &json!({}));
        assert!(run["status"] == "cancelled", "{run}");
        scene.table.plain(&format!("  {name} cancelled"), 1000.0 * began.elapsed().as_secs_f64(), "ms", "");
    }
}

/// How long something takes until the server is quiet again.
fn time(server: &Server, work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    meter::until_quiet(meter::pid(server));
    // It was quiet for two looks already.
    began.elapsed().saturating_sub(Duration::from_millis(500))
}

/// How many a list has.
pub(crate) fn listed(server: &Server, path: &str) -> usize {
    let (mut count, mut cursor) = (0, String::new());
    loop {
        let page = server.get(&format!("{path}&limit=500{cursor}"));
        count += page["items"].as_array().map_or(0, Vec::len);
        let Value::String(next) = &page["next"] else { return count };
        cursor = format!("&cursor={next}");
    }
}
