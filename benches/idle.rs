//! What a server takes that has nothing to do.

use std::time::Duration;

use crate::{Scene, meter, site, start};

pub(crate) fn measure(scene: &mut Scene) {
    let mut server = site::start(&scene.stand);
    server.stop();
    let took = start::until_ready(&mut server);
    let pid = meter::pid(&server);
    meter::until_quiet(pid);
    scene.table.plain("start until ready", took.as_secs_f64(), "s", "aim: under 0.3 s");
    scene.table.plain("memory", meter::resident_mb(pid), "MB", "aim: under 40 MB");
    let ticks = meter::ticks_in(pid, Duration::from_secs(5));
    scene.table.plain("processor, ticks of 10 ms in 5 s", ticks as f64, "", "aim: none to be seen");
    let bytes = std::fs::metadata(env!("CARGO_BIN_EXE_siskin")).unwrap().len();
    scene.table.plain("the binary", bytes as f64 / 1e6, "MB", "aim: under 40 MB");
}
