//! How long a server with a past takes until it is ready.

use std::time::{Duration, Instant};

use crate::many::listed;
use crate::support::server::{Server, client};
use crate::{Scene, meter, site};

pub(crate) fn measure(scene: &mut Scene) {
    let (open, finished) = (scene.number(1_000, 100), scene.number(100_000, 1_000));
    let mut server = site::start(&scene.stand);
    let pid = meter::pid(&server);
    let began = Instant::now();
    site::flood(&server, "approve", open / 2);
    site::flood(&server, "wait", open / 2);
    site::flood(&server, "skip", finished);
    meter::until_quiet(pid);
    assert_eq!(listed(&server, "/runs?status=waiting"), open, "not all runs wait");
    let made = (open + finished) as f64 / began.elapsed().as_secs_f64();
    scene.table.plain("runs made for it", made, "/s", "");
    for (how, clean) in [("stopped", true), ("killed", false)] {
        match clean {
            true => assert!(server.stop().success()),
            false => server.kill(),
        }
        let took = until_ready(&mut server);
        let what = format!("{open} open, {finished} finished, was {how}: ready");
        scene.table.plain(&what, took.as_secs_f64(), "s", "aim: under 1 s");
    }
    let pid = meter::pid(&server);
    meter::until_quiet(pid);
    scene.table.plain("  memory after it", meter::resident_mb(pid), "MB", "");
}

/// Starts the server; gives how long it takes until it says that it is ready.
pub(crate) fn until_ready(server: &mut Server) -> Duration {
    let http = client();
    let began = Instant::now();
    server.run();
    loop {
        let answer = http.get(format!("{}/readyz", server.url())).send();
        if answer.is_ok_and(|answer| answer.status().as_u16() == 200) {
            return began.elapsed();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
