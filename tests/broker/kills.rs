//! Whatever is killed: the server, workers, the broker. `SISKIN_KILLS=50` kills that often, `SISKIN_SEED` repeats what is killed when.

#![expect(clippy::print_stdout, reason = "says what was killed, so that it can be repeated")]

use std::collections::BTreeMap;
use std::time::Duration;

use super::stage::{PACK, Stage, action};
use crate::kill::number;
use crate::support::dice::Dice;
use crate::support::rabbitmq::Private;

/// Notes its run, and takes long enough to be met by a kill.
const NOTE: &str =
    "echo \"$SISKIN_RUN\" >>\"$FOLDER/begun\"\nsleep 0.2\necho \"$SISKIN_RUN\" >>\"$FOLDER/done\"";

/// How many runs are begun between two kills.
const RUNS: usize = 12;

fn counts(text: &str) -> BTreeMap<i64, usize> {
    let mut counts = BTreeMap::new();
    // A line that was being written when its process was killed counts for what it says.
    for run in text.lines().filter_map(|line| line.parse().ok()) {
        *counts.entry(run).or_default() += 1;
    }
    counts
}

#[test]
fn whatever_is_killed_every_run_ends_and_nothing_is_done_twice() {
    let seed = number("SISKIN_SEED").unwrap_or(11);
    let kills = number("SISKIN_KILLS").unwrap_or(3);
    let mut dice = Dice::new(seed);
    let mut broker = Private::start();
    let work = action(false, NOTE);
    let mut stage = Stage::over(&broker.url(), &[PACK, ("packs/local/actions/work.yaml", &work)]);
    let mut workers = [stage.worker(), stage.worker()];
    let mut runs = Vec::new();
    for kill in 0..kills {
        runs.extend((0..RUNS).map(|_| stage.start("local.work")));
        std::thread::sleep(Duration::from_millis(dice.roll(400)));
        // Each kind is met, also when there are few kills.
        let victim = (kill + dice.roll(2) * 3) % 3;
        match victim {
            0 => {
                let worker = &mut workers[usize::try_from(dice.roll(2)).unwrap()];
                worker.kill();
                worker.run_without_waiting();
            }
            1 => {
                stage.server.kill();
                std::thread::sleep(Duration::from_millis(dice.roll(300)));
                stage.server.run();
            }
            _ => {
                broker.kill();
                broker.run();
            }
        }
        println!("seed {seed}, kill {kill}: {}", ["a worker", "the server", "the broker"][victim as usize]);
    }
    let mut lost = 0;
    let ended: Vec<_> = runs.iter().map(|run| stage.server.wait_for_end(*run)).collect();
    let (begun, done) = (counts(&stage.read("begun")), counts(&stage.read("done")));
    for (run, ended) in runs.iter().zip(ended) {
        let times = |counts: &BTreeMap<i64, usize>| counts.get(run).copied().unwrap_or_default();
        assert!(times(&begun) <= 1, "run {run} was begun twice: {ended}");
        match ended["status"].as_str() {
            Some("succeeded") => assert_eq!(times(&done), 1, "{ended}"),
            Some("failed") if ended["error"]["kind"] == "lost" => lost += 1,
            _ => panic!("{ended}\n{}", stage.server.log()),
        }
    }
    println!("{} runs, {lost} lost with a worker", runs.len());
}
