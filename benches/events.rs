//! Webhooks accepted a second: signed, parsed, held against their schema, deduplicated, on disk.

use crate::bare::Bare;
use crate::limits::WRITERS;
use crate::sender::send;
use crate::{Scene, meter, site};

/// How often limit and server take turns.
const TURNS: u32 = 3;

pub(crate) fn measure(scene: &mut Scene) {
    for connections in WRITERS {
        let (mut limit, mut ours, mut ticks, mut done) = (0.0, 0.0, 0, 0);
        // In turns, and each on a fresh database: what else this machine does meanwhile meets both.
        for turn in 0..TURNS {
            let time = scene.seconds / TURNS;
            let bare = Bare::start(&scene.stand);
            let of = format!("{turn}");
            limit += send(&bare.address, connections, time, site::deliveries("seen", &of)).a_second();
            drop(bare);
            let server = site::start(&scene.stand);
            let (pid, address) = (meter::pid(&server), meter::address(&server));
            let before = meter::ticks(pid);
            let load = send(&address, connections, time, site::deliveries("seen", &of));
            ticks += meter::ticks(pid) - before;
            done += load.done;
            ours += load.a_second();
        }
        let what = format!("webhooks accepted, {connections} connections");
        let turns = f64::from(TURNS);
        scene.table.against(&what, ours / turns, "/s", limit / turns, "a bare handler");
        scene.table.plain(
            "  processor time of one, routing included",
            meter::microseconds(ticks, done),
            "us",
            "",
        );
    }
}
