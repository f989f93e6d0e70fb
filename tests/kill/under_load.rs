//! The short form of `cargo bench --bench kill`.

use std::time::Duration;

use super::number;
use super::storm::{self, Land, Plan};

fn plan(land: Land, rounds: u64) -> Plan {
    Plan {
        land,
        rounds,
        seed: number("SISKIN_SEED").unwrap_or(3),
        senders: 2,
        pace: Duration::from_millis(400),
        longest_life: Duration::from_millis(1200),
        patience: Duration::from_secs(90),
    }
}

#[test]
fn nothing_is_lost_and_nothing_is_done_twice_when_the_server_is_killed_under_load() {
    let tally = storm::play(&plan(Land::Alone, 6));
    println!("{tally}");
    assert!(tally.is_clean(), "{tally}");
    assert!(tally.sent_again + tally.cut_off > 0, "no kill came while something was under way: {tally}");
}

#[test]
fn nothing_is_lost_and_nothing_is_done_twice_when_server_workers_database_and_broker_are_killed_under_load() {
    let tally = storm::play(&plan(Land::Cluster, 6));
    println!("{tally}");
    assert!(tally.is_clean(), "{tally}");
    assert!(
        tally.kills.len() == 4 && tally.sent_again + tally.cut_off > 0,
        "not all were killed at work: {tally}"
    );
}
