//! Windows: how they are written, and when they are open.

use super::{in_steps, mistakes, read};
use crate::definitions::window::{Window, WindowState};
use crate::model::Timestamp;

/// A window of siskin.yaml.
fn window(text: &str) -> Window {
    let (definitions, mistakes) = read(&[("siskin.yaml", &format!("windows: {{w: {text}}}\n"))]);
    assert_eq!(mistakes, []);
    definitions.site.windows["w"].clone()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// `open`, or until when it is closed.
fn state(window: &Window, now: &str) -> String {
    match window.state(at(now)) {
        WindowState::Open => "open".to_owned(),
        WindowState::Closed { until: Some(until) } => until.to_string().replace(":00.000Z", "Z"),
        WindowState::Closed { until: None } => "closed".to_owned(),
    }
}

#[test]
fn it_is_open_in_every_minute_that_a_pattern_matches() {
    let office = window("{open: [\"* 9-16 * * mon-fri\"]}");
    for (now, expected) in [
        ("2026-11-20T08:59:59.999Z", "2026-11-20T09:00Z"),
        ("2026-11-20T09:00:00Z", "open"),
        ("2026-11-20T16:59:59.999Z", "open"),
        ("2026-11-20T17:00:00Z", "2026-11-23T09:00Z"),
        ("2026-11-22T12:00:30Z", "2026-11-23T09:00Z"),
    ] {
        assert_eq!(state(&office, now), expected, "{now}");
    }
    let two = window("{open: [\"0-9 12 * * *\", \"*/30 * 1 * *\"]}");
    assert_eq!(state(&two, "2026-11-30T12:09:00Z"), "open");
    assert_eq!(state(&two, "2026-11-30T12:10:00Z"), "2026-12-01T00:00Z");
    assert_eq!(state(&two, "2026-12-01T00:01:00Z"), "2026-12-01T00:30Z");
}

#[test]
fn closed_dates_are_days_of_its_time_zone_both_ends_included() {
    let office = window(
        "{open: \"* 9-16 * * *\", closed: [\"2026-12-24..2027-01-02\", 2027-01-03, \"2027-01-05\"], time_zone: Asia/Tokyo}",
    );
    assert_eq!(state(&office, "2026-12-23T07:59:00Z"), "open");
    assert_eq!(state(&office, "2026-12-23T08:00:00Z"), "2027-01-04T00:00Z");
    // In Tokyo it is the 24th already.
    assert_eq!(state(&office, "2026-12-23T23:30:00Z"), "2027-01-04T00:00Z");
    assert_eq!(state(&office, "2027-01-04T02:00:00Z"), "open");
    assert_eq!(state(&office, "2027-01-04T09:00:00Z"), "2027-01-06T00:00Z");
    let never = window("{open: \"* * * * *\", closed: [\"2020-01-01..2040-01-01\"]}");
    assert_eq!(state(&never, "2026-11-21T00:00:00Z"), "closed");
    let later = window("{open: \"* * * * *\", closed: [\"2020-01-01..2027-11-21\"]}");
    assert_eq!(state(&later, "2026-11-21T00:00:00Z"), "2027-11-22T00:00Z");
}

#[test]
fn an_hour_that_the_clock_leaves_out_opens_nothing_and_one_that_it_shows_twice_opens_twice() {
    // Berlin's clocks go from 2:00 to 3:00 on 29 March 2026, and from 3:00 back to 2:00 on 25 October.
    let night = window("{open: \"* 2 * * *\", time_zone: Europe/Berlin}");
    assert_eq!(state(&night, "2026-03-29T00:59:00Z"), "2026-03-30T00:00Z");
    assert_eq!(state(&night, "2026-03-29T01:00:00Z"), "2026-03-30T00:00Z");
    for now in
        ["2026-10-25T00:00:00Z", "2026-10-25T00:59:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:59:00Z"]
    {
        assert_eq!(state(&night, now), "open", "{now}");
    }
    assert_eq!(state(&night, "2026-10-25T02:00:00Z"), "2026-10-26T01:00Z");
    // Between its two openings of one night it is closed.
    let quarter = window("{open: \"10-19 2 * * *\", time_zone: Europe/Berlin}");
    assert_eq!(state(&quarter, "2026-10-25T00:19:00Z"), "open");
    assert_eq!(state(&quarter, "2026-10-25T00:20:00Z"), "2026-10-25T01:10Z");
    assert_eq!(state(&quarter, "2026-10-25T01:20:00Z"), "2026-10-26T01:10Z");
    // Its hour is summer's in summer.
    let morning = window("{open: \"0 9 * * *\", time_zone: Europe/Berlin}");
    assert_eq!(state(&morning, "2026-10-24T07:01:00Z"), "2026-10-25T08:00Z");
    assert_eq!(state(&morning, "2026-03-28T08:01:00Z"), "2026-03-29T07:00Z");
}

#[test]
fn an_opening_is_looked_for_two_years_ahead_and_no_further() {
    let leap = window("{open: \"0 0 29 2 *\"}");
    assert_eq!(state(&leap, "2026-11-21T00:00:00Z"), "2028-02-29T00:00Z");
    assert_eq!(state(&leap, "2024-02-29T00:01:00Z"), "closed");
    for now in [i64::MIN, i64::MAX, -1] {
        leap.state(Timestamp(now));
    }
}

#[test]
fn what_it_says_of_the_next_opening_is_what_a_walk_through_the_minutes_finds() {
    let windows = [
        "{open: [\"*/7 1-3 * * *\", \"5 12 1-7 * mon\"], closed: [\"2026-03-30\", \"2026-10-26..2026-10-27\"], time_zone: Europe/Berlin}",
        "{open: [\"*/20 0-2 * * sun\"], time_zone: America/New_York}",
        "{open: [\"15 1,2 * * *\"], closed: 2026-04-05, time_zone: Australia/Lord_Howe}",
    ]
    .map(window);
    for (window, start) in windows.iter().flat_map(|window| {
        [
            "2026-03-07T20:00:00Z",
            "2026-03-28T22:00:00Z",
            "2026-04-04T12:00:00Z",
            "2026-10-03T13:00:00Z",
            "2026-10-24T20:00:00Z",
            "2026-10-31T22:00:00Z",
        ]
        .map(|start| (window, at(start)))
    }) {
        let minute = |number: i64| Timestamp(start.0 + number * 60_000);
        let mut opens = None;
        for number in (0..3 * 1440).rev() {
            let state = window.state(minute(number));
            match (state, opens) {
                (WindowState::Open, _) => opens = Some(minute(number)),
                (WindowState::Closed { until }, Some(opens)) => {
                    assert_eq!(until, Some(opens), "{}", minute(number))
                }
                (WindowState::Closed { .. }, None) => (),
            }
        }
    }
}

#[test]
fn windows_are_checked_to_the_last_key() {
    insta::assert_snapshot!(mistakes(&[("siskin.yaml", "windows:
  a: {open: [\"* 9-25 * * *\", \"* * *\", \"0 0 0 1 1 *\", \"0 0 30 2 *\", \"* * * * mno\"]}
  b: {open: [], closed: [2026-13-01, \"2026-12-24..2026-12-01\", soon, \"2026-12-24..\"], time_zone: Europe/Belin}
  c: {closed: [2026-12-24]}
  D: {open: \"* * * * *\"}
  e: {opn: \"* * * * *\"}
  f: always
")]), @r##"
    2:14 `* 9-25 * * *` is no cron pattern: range out of bounds
        five fields: minute, hour, day of the month, month, day of the week; "* 9-16 * * mon-fri" is each minute of working hours
    2:30 `* * *` is no cron pattern: pattern must have 5 fields
        five fields: minute, hour, day of the month, month, day of the week; "* 9-16 * * mon-fri" is each minute of working hours
    2:39 `0 0 0 1 1 *` is no cron pattern: pattern must have 5 fields
        five fields: minute, hour, day of the month, month, day of the week; "* 9-16 * * mon-fri" is each minute of working hours
    2:54 `0 0 30 2 *` matches no minute of any year
    2:68 `* * * * mno` is no cron pattern: it has an illegal character 'M' in part 'MNO'
        five fields: minute, hour, day of the month, month, day of the week; "* 9-16 * * mon-fri" is each minute of working hours
    3:13 `open` has no pattern, so this window would never open
    3:26 `2026-13-01` is no date
        write a day as 2026-12-24, or days as 2026-12-24..2027-01-02
    3:38 `2026-12-24..2026-12-01` ends before it begins
        2026-12-01..2026-12-24
    3:64 `soon` is no date
        write a day as 2026-12-24, or days as 2026-12-24..2027-01-02
    3:70 `2026-12-24..` is no date
        write a day as 2026-12-24, or days as 2026-12-24..2027-01-02
    3:98 there is no time zone `Europe/Belin`
        did you mean `Europe/Berlin`?
    4:6 a window needs `open`
    5:3 `D` is no name of a window: small letters, digits, `_` and `-`, a letter first
    6:6 a window needs `open`
    6:7 `opn` is no key of a window
        did you mean `open`?
    7:6 a window must be a map
    "##);
}

#[test]
fn steps_and_environments_name_windows_that_are_there() {
    insta::assert_snapshot!(in_steps("  - {id: a, run: core.noop, window: office}\n"), @r##"
    3:37 there is no window `office`
        in siskin.yaml: windows: {office: {open: ["* 9-16 * * mon-fri"]}}
    "##);
    let app = "environments:\n  live: {hosts: [a], window: offce}\n  test: {hosts: [a], window: office}\n";
    let step = "steps:\n  - {id: a, sleep: 1m, window: ofice}\n  - {id: b, run: core.noop, window: office}\n";
    let site = ("siskin.yaml", "windows: {office: {open: \"* 9-16 * * mon-fri\"}}\n");
    insta::assert_snapshot!(mistakes(&[site, ("apps/x.yaml", app), ("workflows/w.yaml", step)]), @r##"
    2:30 there is no window `offce`
        did you mean `office`?
    2:32 there is no window `ofice`
        did you mean `office`?
    "##);
    let (definitions, mistakes) = read(&[
        site,
        ("apps/x.yaml", "environments:\n  test: {hosts: [a], window: office}\n"),
        ("workflows/w.yaml", "steps:\n  - {id: b, run: core.noop, window: office}\n"),
    ]);
    assert_eq!(mistakes, []);
    assert_eq!(definitions.apps["x"]["environments"]["test"]["window"], "office");
    assert_eq!(definitions.workflows["site.w"].steps[0].window.as_deref(), Some("office"));
}

#[test]
fn a_broken_window_takes_with_it_the_workflows_that_name_it() {
    let (definitions, mistakes) = read(&[
        ("siskin.yaml", "windows: {bad: {open: x}, good: {open: \"* * * * *\"}}\n"),
        ("workflows/a.yaml", "steps:\n  - {id: b, run: core.noop, window: bad}\n"),
        ("workflows/b.yaml", "steps:\n  - {id: b, run: core.noop, window: good}\n"),
    ]);
    assert_eq!(mistakes.len(), 1);
    assert_eq!(
        definitions.workflows.keys().filter(|name| name.starts_with("site.")).collect::<Vec<_>>(),
        ["site.b"]
    );
    assert_eq!(definitions.left_out["workflow site.a"], "the window bad, which it names, has a mistake");
}
