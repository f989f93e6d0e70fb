//! A server that is killed at any moment of a roll: in the end every host has the version, or has its old one back, and nobody is left without traffic.

#![expect(clippy::print_stdout, reason = "says at which points it was killed")]

use std::time::Duration;

use serde_json::{Value, json};

use super::world::{ILL, NAMES, World, roll_of};
use crate::kill::number;
use crate::support::dice::Dice;
use crate::support::server::until;

/// How many rolls are killed when `SISKIN_KILLS` says nothing.
const ROUNDS: u64 = 6;

const WORKFLOW: &str = "input: {version: string}
steps:
  - id: roll
    run: deploy.roll
    with: {app: shop, environment: all, version: \"{{ input.version }}\", downgrade: true}
    undo: {run: deploy.restore, with: {deployment: \"{{ steps.roll.output.deployment }}\", app: shop}}
";

#[test]
fn a_roll_that_is_killed_at_any_moment_ends_right_and_leaves_nobody_without_traffic() {
    let Some(mut world) = World::new(1, [""; 2], &[("workflows/roll.yaml", WORKFLOW)]) else { return };
    let rounds = number("SISKIN_KILLS").unwrap_or(ROUNDS);
    let mut dice = Dice::new(number("SISKIN_SEED").unwrap_or(23));
    let mut stands = "1.0";
    let mut killed_at = Vec::new();
    for round in 0..rounds {
        let version = match round % 3 {
            0 => "2.0",
            1 => ILL,
            _ => "4.0",
        };
        let version = if version == stands { "1.0" } else { version };
        let run = world.server.post("/runs", &json!({"run": "site.roll", "with": {"version": version}}));
        let id = run["id"].as_i64().unwrap();
        // Half of them at a step that can be seen, the others at any time.
        match round % 2 {
            0 => {
                let name = NAMES[usize::try_from(dice.roll(3)).unwrap()];
                let name = if version == ILL { NAMES[0] } else { name };
                let drained = until(Duration::from_secs(60), || {
                    let status = world.server.get(&format!("/runs/{id}"))["status"].clone();
                    let ended = status == "succeeded" || status == "failed";
                    (ended || world.haproxies[0].is_drained(name)).then_some(())
                });
                assert!(drained.is_some(), "{name} was never drained");
                std::thread::sleep(Duration::from_millis(dice.roll(900)));
            }
            _ => std::thread::sleep(Duration::from_millis(dice.roll(2500))),
        }
        let states: Vec<String> = NAMES.iter().map(|name| world.haproxies[0].server(name).0).collect();
        killed_at
            .push(format!("{version}: {states:?} {:?}", world.server.get(&format!("/runs/{id}"))["status"]));
        world.server.kill();
        world.server.run();
        let ended = world.server.wait_for_end(id);
        let well = version != ILL;
        assert_eq!(ended["status"], if well { "succeeded" } else { "failed" }, "{ended}\n{killed_at:#?}");
        if well {
            stands = version;
        } else {
            assert_eq!(ended["undone"], "all", "{ended}\n{killed_at:#?}");
        }
        assert_eq!(world.versions(), [stands; 3], "{killed_at:#?}");
        assert_eq!(world.advertised("all"), stands, "{killed_at:#?}");
        world.all_are_up();
    }
    println!("killed at: {killed_at:#?}");
}

#[test]
fn two_rolls_at_once_leave_every_host_whole_and_in_traffic() {
    let Some(world) = World::new(1, [""; 2], &[]) else { return };
    let start = |version: &str| {
        let run = world.server.post("/runs", &json!({"run": "deploy.roll", "with": roll_of("all", version)}));
        run["id"].as_i64().unwrap()
    };
    let runs = [start("2.0"), start("4.0")];
    let ended: Vec<Value> = runs.iter().map(|run| world.server.wait_for_end(*run)).collect();
    assert!(ended.iter().all(|run| run["status"] == "succeeded" || run["status"] == "failed"), "{ended:?}");
    let versions = world.versions();
    assert!(versions.iter().all(|version| version == "2.0" || version == "4.0"), "{versions:?}");
    world.all_are_up();
}
