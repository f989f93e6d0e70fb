//! `interval` and `at`.

use serde_json::Value;

use super::{payloads, start, wait_for_events, wait_for_health, wait_until_watching};
use crate::support::server::{PATIENCE, until};

fn interval(every: &str, catch_up: &str) -> String {
    format!("kind: interval\ntrigger: site.tick\nevery: {every}\ncatch_up: {catch_up}\n")
}

fn at(payload: &Value) -> i64 {
    let at: jiff::Timestamp = payload["at"].as_str().unwrap().parse().unwrap();
    at.as_millisecond()
}

#[test]
fn an_interval_keeps_its_rhythm_over_a_kill_and_makes_up_for_what_it_missed() {
    let mut server = start(&[
        ("sources/all.yaml", &interval("1s", "all")),
        ("sources/one.yaml", &interval("1s", "one")),
        ("sources/none.yaml", &interval("1s", "none")),
    ]);
    for source in ["site.all", "site.one", "site.none"] {
        wait_for_events(&server, source, 1);
    }
    server.kill();
    let killed = jiff::Timestamp::now().as_millisecond();
    // Time itself is what passes here.
    until(PATIENCE, || (jiff::Timestamp::now().as_millisecond() > killed + 4_000).then_some(())).unwrap();
    server.run();
    let back = jiff::Timestamp::now().as_millisecond();
    let after = |payloads: &[Value]| payloads.iter().filter(|payload| at(payload) > back).count();
    for source in ["site.all", "site.one", "site.none"] {
        let path = format!("/events?source={source}&limit=500");
        server.wait_for(&path, |_| after(&payloads(&server, source)) >= 2);
        let all = payloads(&server, source);
        let distances: Vec<i64> = all.windows(2).map(|two| at(&two[1]) - at(&two[0])).collect();
        let steps: Vec<i64> = distances.iter().map(|distance| distance / 1000).collect();
        assert!(distances.iter().all(|distance| distance % 1000 == 0), "{source}: {distances:?}");
        let missed: Vec<u64> = all.iter().map(|payload| payload["missed"].as_u64().unwrap()).collect();
        match source {
            // Each second has its event.
            "site.all" => assert!(steps.iter().all(|step| *step == 1), "{steps:?}"),
            // The last of those that were missed came late, and says how many there were.
            "site.one" => {
                assert!(missed.iter().any(|missed| *missed >= 2), "{missed:?}");
                assert_eq!(
                    steps.iter().sum::<i64>(),
                    (steps.len() as u64 + missed.iter().sum::<u64>()) as i64
                );
            }
            // None of them came.
            _ => assert!(all.iter().all(|tick| at(tick) < killed || at(tick) > killed + 4_000), "{all:?}"),
        }
    }
}

#[test]
fn a_source_that_comes_changes_and_goes_is_taken_in_while_the_server_runs() {
    let server = start(&[("sources/one.yaml", &interval("1h", "one"))]);
    wait_until_watching(&server, "site.one");
    let shown = server.get("/sources/site.one");
    assert_eq!((shown["kind"].as_str(), shown["health"]["restarts"].as_u64()), (Some("interval"), Some(0)));

    server.write("sources/one.yaml", &interval("1s", "one"));
    server.write(
        "sources/two.yaml",
        "kind: at\ntrigger: site.tock\ncron: \"* * * * *\"\ntime_zone: Asia/Tokyo\n",
    );
    let ticks = wait_for_events(&server, "site.one", 2);
    assert_eq!(at(&ticks[1]) - at(&ticks[0]), 1000);
    wait_until_watching(&server, "site.two");

    std::fs::remove_file(server.site().join("sources/one.yaml")).unwrap();
    let gone = until(PATIENCE, || (server.ask("GET", "/sources/site.one", None).0 == 404).then_some(()));
    gone.unwrap();
    // What was on its way has come; then there is silence.
    let count = || payloads(&server, "site.one").len();
    let quiet = until(PATIENCE, || {
        let (before, begun) = (count(), jiff::Timestamp::now().as_millisecond());
        until(PATIENCE, || (jiff::Timestamp::now().as_millisecond() > begun + 2_500).then_some(()));
        (count() == before).then_some(())
    });
    assert!(quiet.is_some());
    assert_eq!(server.get("/sources/site.two")["health"]["state"], "watching");
}

#[test]
fn times_of_a_pattern_come_in_their_time_zone() {
    let server = start(&[(
        "sources/minute.yaml",
        "kind: at\ntrigger: \"site.{{ 'minute' }}\"\ncron: \"* * * * *\"\ntime_zone: Asia/Kolkata\n",
    )]);
    wait_until_watching(&server, "site.minute");
    let found = until(PATIENCE * 2, || payloads(&server, "site.minute").into_iter().next()).unwrap();
    assert_eq!(at(&found) % 60_000, 0);
    assert!(found["local"].as_str().unwrap().ends_with("+05:30[Asia/Kolkata]"), "{found}");
    let health = wait_for_health(&server, "site.minute", |health| health["accepted"] == 1);
    assert!(health["lag"].as_str().is_some() && health["problem"].is_null(), "{health}");
}

#[test]
fn an_event_that_its_trigger_refuses_is_left_out_and_said() {
    let server = start(&[
        ("sources/one.yaml", &interval("1s", "one").replace("tick", "picky")),
        ("triggers/picky.yaml", "payload: {type: object, required: [never]}\n"),
    ]);
    let health = wait_for_health(&server, "site.one", |health| health["refused"].as_u64() >= Some(2));
    assert_eq!((&health["accepted"], &health["state"]), (&0.into(), &"watching".into()));
    assert!(health["last_error"].as_str().unwrap().contains("never"), "{health}");
}
