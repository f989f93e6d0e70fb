//! What one event costs against the rules of its trigger: time, events a second, bytes allocated. In this process, without store or network.
//!
//!     cargo bench --bench matching
//!
//! The event is a push of about two kilobytes. The lines for 10,000 rules are to be read beside those for 10: whoever looks rules up costs about the
//! same, whoever has to try each costs as much as there are.

#![expect(clippy::unwrap_used, reason = "a benchmark ends where a test would")]

use std::collections::BTreeMap;
use std::sync::Arc;

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use serde_json::{Value, json};
use siskin::definitions::{Definitions, Files};
use siskin::matching::{Verdict, decide};
use siskin::model::{Event, EventId, Timestamp};

/// Counts what is allocated.
#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const RULES: [usize; 5] = [1, 10, 100, 1_000, 10_000];

fn main() {
    divan::main();
}

/// Rules of one trigger, each with a condition of its own.
fn site(rules: usize, condition: impl Fn(usize) -> String) -> Definitions {
    let rule = |number| {
        let name = format!("rules/r{number:05}.yaml");
        (name, format!("trigger: push\nwhen: '{}'\nrun: core.noop\n", condition(number)))
    };
    let texts: Vec<(String, String)> = (0..rules).map(rule).collect();
    let fixed = [
        ("triggers/push.yaml", "description: d\n"),
        ("packs/core/pack.yaml", "description: d\n"),
        ("packs/core/actions/noop.yaml", "description: d\nrunner: native\n"),
    ];
    let own = texts.iter().map(|(path, text)| (path.as_str(), text.as_str()));
    let (definitions, mistakes) = Definitions::read(&Files::from_texts(own.chain(fixed)));
    assert_eq!(mistakes, []);
    definitions
}

/// A push to `org/repo0`, as GitHub words it.
fn push() -> Value {
    let commit = |number: u32| {
        json!({
            "id": format!("{number:040x}"),
            "message": "Make the second thing work as the first",
            "timestamp": "2026-11-21T12:00:00Z",
            "author": {"name": "Ada", "email": "ada@example.org", "username": "ada"},
            "added": ["src/a.rs"], "removed": [], "modified": ["src/b.rs", "docs/c.md"],
        })
    };
    json!({
        "ref": "refs/heads/main",
        "before": "0".repeat(40), "after": "1".repeat(40),
        "created": false, "deleted": false, "forced": false,
        "compare": "https://example.org/org/repo0/compare/0...1",
        "repository": {"id": 1, "name": "repo0", "full_name": "org/repo0", "private": true, "default_branch": "main",
                       "clone_url": "https://example.org/org/repo0.git", "owner": {"login": "org", "id": 2}},
        "pusher": {"name": "ada", "email": "ada@example.org"},
        "sender": {"login": "ada", "id": 3, "type": "User"},
        "commits": (0..3).map(commit).collect::<Vec<_>>(),
    })
}

fn event(payload: Value) -> Event {
    Event {
        id: EventId(1),
        trigger: "site.push".to_owned(),
        source: "bench".to_owned(),
        payload: Arc::new(payload),
        received_at: Timestamp(0),
        routed_at: None,
        replay_of: None,
    }
}

fn matched(definitions: &Definitions, event: &Event) -> usize {
    let decisions = decide(definitions, event, &|_| false, &BTreeMap::new());
    decisions.iter().filter(|decision| matches!(decision.result, Verdict::Matched(_))).count()
}

fn measure(bencher: Bencher<'_, '_>, definitions: &Definitions) {
    let event = event(push());
    assert!(matched(definitions, &event) >= 1);
    bencher.counter(ItemsCount::new(1_u32)).bench(|| matched(definitions, black_box(&event)));
}

/// One rule for each repository, all of them for the same branch.
#[divan::bench(args = RULES)]
fn rules_that_compare(bencher: Bencher<'_, '_>, rules: usize) {
    measure(
        bencher,
        &site(rules, |number| {
            format!("event.ref == \"refs/heads/main\" && event.repository.full_name == \"org/repo{number}\"")
        }),
    );
}

/// One rule for each repository that has a list of branches, or a beginning of one.
#[divan::bench(args = RULES)]
fn rules_with_lists_and_prefixes(bencher: Bencher<'_, '_>, rules: usize) {
    measure(
        bencher,
        &site(rules, |number| {
            let on = [
                "event.ref.starts_with(\"refs/heads/ma\")",
                "event.ref in [\"refs/heads/main\", \"refs/heads/next\"]",
            ];
            format!("{} && event.repository.name == \"repo{number}\"", on[number % 2])
        }),
    );
}

/// Rules that have to be tried one by one.
#[divan::bench(args = [1, 10, 100, 1_000])]
fn rules_that_compute(bencher: Bencher<'_, '_>, rules: usize) {
    measure(
        bencher,
        &site(rules, |number| format!("event.commits.len() > {}", if number == 0 { 2 } else { 3 + number })),
    );
}

/// From the bytes of the event on, with a hundred rules of which one matches.
#[divan::bench]
fn parsed_and_matched_with_100_rules(bencher: Bencher<'_, '_>) {
    let definitions = site(100, |number| {
        format!("event.ref == \"refs/heads/main\" && event.repository.name == \"repo{number}\"")
    });
    let bytes = push().to_string();
    bencher.counter(ItemsCount::new(1_u32)).bench(|| {
        let payload: Value = serde_json::from_str(black_box(&bytes)).unwrap();
        matched(&definitions, &event(payload))
    });
}

/// The parsing alone.
#[divan::bench]
fn parsed(bencher: Bencher<'_, '_>) {
    let bytes = push().to_string();
    bencher
        .counter(ItemsCount::new(1_u32))
        .bench(|| serde_json::from_str::<Value>(black_box(&bytes)).unwrap());
}
