//! Sources that live in the server: how they are written, and when schedules come.

use super::{mistakes, read};
use crate::definitions::live::Watch;
use crate::definitions::schedule::{CatchUp, Schedule};
use crate::model::Timestamp;

const TRIGGER: (&str, &str) = ("triggers/tick.yaml", "description: It ticks.\n");

/// The mistakes of a source.
fn in_source(text: &str) -> String {
    mistakes(&[TRIGGER, ("sources/s.yaml", text)])
}

fn schedule(keys: &str) -> Schedule {
    let (definitions, mistakes) =
        read(&[TRIGGER, ("sources/s.yaml", &format!("kind: at\ntrigger: tick\n{keys}\n"))]);
    assert_eq!(mistakes, []);
    match &definitions.sources["site.s"].live().unwrap().watch {
        Watch::At(schedule) => schedule.clone(),
        other => panic!("{other:?}"),
    }
}

/// The next three times after `after`, as the clock there shows them.
fn next(keys: &str, after: &str) -> String {
    let schedule = schedule(keys);
    let after: Timestamp = after.parse().unwrap();
    let times = schedule.next_times(after, 3);
    let shown =
        times.iter().map(|at| schedule.local(*at).replace(":00+", "+").replace("[Europe/Berlin]", ""));
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_pattern_comes_at_its_times_in_its_zone() {
    let keys = "cron: \"30 2 * * mon-fri\"\ntime_zone: Europe/Berlin\ncatch_up: all";
    assert_eq!(
        next(keys, "2026-11-20T12:00:00Z"),
        "2026-11-23T02:30+01:00 2026-11-24T02:30+01:00 2026-11-25T02:30+01:00"
    );
    assert_eq!(schedule(keys).catch_up, CatchUp::All);
    // The last minute of an hour that begins just then is after, not at.
    assert_eq!(
        schedule("cron: \"0 * * * *\"").next("2026-11-20T12:00:00Z".parse().unwrap()).unwrap().to_string(),
        "2026-11-20T13:00:00.000Z"
    );
}

#[test]
fn summer_time_neither_loses_a_time_nor_gives_it_twice() {
    // The 29th of March 2026 has no 02:30, the 25th of October two.
    let nightly = "cron: \"30 2 * * *\"\ntime_zone: Europe/Berlin";
    assert_eq!(
        next(nightly, "2026-03-28T12:00:00Z"),
        "2026-03-29T03:00+02:00 2026-03-30T02:30+02:00 2026-03-31T02:30+02:00"
    );
    assert_eq!(
        next(nightly, "2026-10-24T12:00:00Z"),
        "2026-10-25T02:30+02:00 2026-10-26T02:30+01:00 2026-10-27T02:30+01:00"
    );
    assert_eq!(
        next("cron: \"30 * * * *\"\ntime_zone: Europe/Berlin", "2026-10-25T00:00:00Z"),
        "2026-10-25T02:30+02:00 2026-10-25T02:30+01:00 2026-10-25T03:30+01:00"
    );
}

#[test]
fn times_are_daily_or_once_and_come_in_order() {
    let keys = "times: [\"08:30\", \"2026-12-24 18:00\", \"2026-12-24T20:00:00Z\"]\ntime_zone: Europe/Berlin";
    assert_eq!(
        next(keys, "2026-12-24T16:00:00Z"),
        "2026-12-24T18:00+01:00 2026-12-24T21:00+01:00 2026-12-25T08:30+01:00"
    );
    assert_eq!(
        schedule("times: \"2020-01-01 00:00\"").next_times("2026-12-24T16:00:00Z".parse().unwrap(), 3),
        []
    );
}

#[test]
fn mistakes_say_what_is_wanted() {
    for (text, expected) in [
        ("kind: interval\ntrigger: tick\nevery: 10ms\n", "3:8 `every` must be 1s at least, not 10ms"),
        ("kind: interval\ntrigger: tick\n", "1:1 an interval source needs `every`"),
        ("kind: at\ntrigger: tick\n", "1:1 an `at` source needs `cron` or `times`"),
        ("kind: at\ntrigger: tick\ncron: \"0 0 30 2 *\"\n", "3:7 `0 0 30 2 *` matches no minute of any year"),
        (
            "kind: at\ntrigger: tick\ncron: \"* * * * *\"\ncatch_up: some\n",
            "4:11 `catch_up` must be one or all or none, not `some`",
        ),
        (
            "kind: consul_kv\ntrigger: tick\n",
            "1:1 a consul_kv source watches either one `key` or all below a `prefix`",
        ),
        (
            "kind: consul_event\ntrigger: tick\nname: x\ntoken: a\nsecret: b\n",
            "5:9 the token comes either from `token` or from `secret`",
        ),
        ("kind: consul_kv\ntrigger: tick\nkey: \"{{ body.x }}\"\n", "3:10 there is no `body` in a source"),
        ("kind: consul_kv\ntrigger: \"site.{{ item.x }}\"\nkey: a\n", "2:19 there is no `item` in a source"),
        ("kind: intervall\ntrigger: tick\n", "1:7 there is no kind of source `intervall`"),
        (
            "kind: etcd\ntrigger: tick\n",
            "1:1 an etcd source watches either one `key` or all below a `prefix`",
        ),
        ("kind: etcd\ntrigger: tick\nkey: a\nsecret: b\n", "4:9 the password of nobody: `user` is missing"),
        (
            "kind: etcd\ntrigger: tick\nkey: a\nuser: b\n",
            "4:7 `user` needs a `password`, or the `secret` that holds it",
        ),
        ("kind: amqp\ntrigger: tick\nurl: amqp://a\n", "1:1 an amqp source needs `queue`"),
        (
            "kind: amqp\ntrigger: tick\nurl: amqp://a\nqueue: q\nbinding: a.#\n",
            "5:10 `binding` needs the `exchange` that it binds to",
        ),
        (
            "kind: amqp\ntrigger: tick\nurl: amqp://a\nqueue: q\nat_once: 0\n",
            "5:10 `at_once` must be a whole number from 1, not `0`",
        ),
        (
            "kind: amqp\ntrigger: tick\nurl: amqp://a\nqueue: q\nformat: xml\n",
            "5:9 `format` must be auto or json or text, not `xml`",
        ),
        (
            "kind: github_releases\ntrigger: tick\nrepository: shop\n",
            "3:13 `shop` is no repository: write owner/name",
        ),
    ] {
        assert_eq!(in_source(text).lines().next().unwrap(), expected, "{text}");
    }
}
