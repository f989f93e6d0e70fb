//! Several servers on one database: one watches, and when it dies another goes on.

use super::{payloads, wait_for_events};
use crate::support::postgres;
use crate::support::server::{PATIENCE, Server, until};

const TICK: &str = "kind: interval\ntrigger: tick\nevery: 1s\ncatch_up: all\n";

fn state(server: &Server) -> String {
    server.get("/sources/site.clock")["health"]["state"].as_str().unwrap().to_owned()
}

#[test]
fn when_the_server_that_watches_dies_another_goes_on_where_it_was() {
    let files = [("sources/clock.yaml", TICK), ("triggers/tick.yaml", "description: It ticks.\n")];
    let mut one = Server::start_on(&files, &postgres::new_schema());
    let mut two = one.join(&files);
    wait_for_events(&one, "site.clock", 2);
    let states = until(PATIENCE, || {
        let states = [state(&one), state(&two)];
        (states.iter().filter(|state| *state == "watching").count() == 1).then_some(states)
    });
    let states = states.unwrap_or_else(|| panic!("{} {}", state(&one), state(&two)));
    let (dies, lives) = if states[0] == "watching" { (&mut one, &mut two) } else { (&mut two, &mut one) };
    assert_eq!(state(lives), "elsewhere");
    dies.kill();
    let count = payloads(lives, "site.clock").len();
    lives.wait_for("/sources/site.clock", |source| source["health"]["state"] == "watching");
    let ticks = wait_for_events(lives, "site.clock", count + 3);
    let at = |tick: &serde_json::Value| {
        let at: jiff::Timestamp = tick["at"].as_str().unwrap().parse().unwrap();
        at.as_millisecond()
    };
    let distances: Vec<i64> = ticks.windows(2).map(|two| at(&two[1]) - at(&two[0])).collect();
    assert!(distances.iter().all(|distance| *distance == 1000), "{distances:?}");
}
