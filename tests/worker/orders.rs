//! Orders: how many at once, twice the same, cancelled, and the end of the worker.

use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde_json::json;
use siskin::dispatch::{Report, Verdict};
use siskin::model::{ErrorKind, Outcome, Span};

use super::bench::{Bench, attempt, key, shell, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_comes_twice_is_done_once() {
    let mut bench = Bench::new();
    let order = || shell("echo x >>count");
    bench.order(order(), &[]).await;
    bench.order(order(), &[]).await;
    bench.seen().await.output();
    bench.order(order(), &[]).await;
    let mut last = attempt("native", "core.noop", json!({}));
    last.key.step = "last".into();
    bench.order(last, &[]).await;
    while !matches!(bench.report().await, Report::Finished { key, .. } if key.step == "last") {}
    assert_eq!(std::fs::read_to_string(bench.workspace().join("count")).unwrap(), "x\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_the_slots_work_at_once_and_all_get_their_turn() {
    let mut bench = Bench::with_slots(2);
    for number in 0..6 {
        let mut attempt = shell(
            "mkdir -p now; : >now/$SISKIN_STEP; test $(ls now | wc -l) -le 2; sleep 0.05; rm now/$SISKIN_STEP",
        );
        attempt.key.step = format!("step{number}");
        bench.order(attempt, &[]).await;
    }
    let mut finished = 0;
    while finished < 6 {
        if let Report::Finished { outcome, key, .. } = bench.report().await {
            assert!(matches!(outcome, Outcome::Succeeded { .. }), "{key}: {outcome:?}");
            finished += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_slot_is_cancelled_without_beginning() {
    let mut bench = Bench::with_slots(1);
    bench.order(shell("until test -e go; do sleep 0.01; done"), &[]).await;
    bench.grant().await;
    let mut second = shell("touch begun");
    second.key.step = "second".into();
    let second_key = second.key.clone();
    bench.order(second, &[]).await;
    bench.cancel(&second_key).await;
    let outcome = loop {
        if let Report::Finished { key, outcome, .. } = bench.report().await {
            assert_eq!(key, second_key);
            break outcome;
        }
    };
    assert!(matches!(outcome, Outcome::Failed { error, .. } if error.kind == ErrorKind::Cancelled));
    let workspace = bench.workspace();
    until("the first began", || workspace.exists()).await;
    std::fs::write(workspace.join("go"), "").unwrap();
    bench.seen().await.output();
    assert!(!bench.workspace().join("begun").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_waits_for_the_lock_of_its_step() {
    for attempt in [shell("true"), attempt("native", "deploy.check", json!({}))] {
        let mut bench = Bench::new();
        let locks = bench.data.path().join("locks/7");
        std::fs::create_dir_all(&locks).unwrap();
        let file = std::fs::File::create(locks.join("build")).unwrap();
        let lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
        bench.order(attempt, &[]).await;
        bench.grant().await;
        let nothing = tokio::time::timeout(Duration::from_millis(300), bench.server.reports.recv()).await;
        assert!(nothing.is_err(), "it worked beside the holder of the lock: {nothing:?}");
        drop(lock);
        bench.seen().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_ends_what_can_be_repeated_and_tells_no_outcome() {
    let mut bench = Bench::new();
    let mut attempt = shell("echo $$ >pid; sleep 1000");
    attempt.idempotent = true;
    bench.order(attempt, &[]).await;
    bench.grant().await;
    let pid = bench.workspace().join("pid");
    until("it began", || std::fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n'))).await;
    bench.stop.cancel();
    while let Some(report) = bench.server.reports.recv().await {
        assert!(!matches!(report, Report::Finished { .. }), "{report:?}");
    }
    bench.worker.await.unwrap();
    let pid = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    assert!(!super::bench::alive(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_lets_what_can_not_be_repeated_finish_for_a_while() {
    let mut bench = Bench::new();
    bench.order(shell("touch begun; until test -e go; do sleep 0.01; done"), &[]).await;
    bench.grant().await;
    let workspace = bench.workspace();
    until("it began", || workspace.join("begun").exists()).await;
    bench.stop.cancel();
    std::fs::write(workspace.join("go"), "").unwrap();
    bench.seen().await.output();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_for_nobody_changes_nothing() {
    let mut bench = Bench::new();
    bench.cancel(&key(9)).await;
    let mut attempt = attempt("native", "core.noop", json!({}));
    attempt.timeout = Span::seconds(5);
    bench.done(attempt).await.output();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_before_the_claim_is_granted_nor_when_it_is_refused() {
    let mut bench = Bench::with_slots(1);
    bench.order(shell("touch begun"), &[]).await;
    let Report::Claim { go, .. } = bench.any_report().await else { panic!("no claim") };
    assert!(!bench.workspace().exists());
    go.send(Verdict::No).unwrap();
    let mut second = shell("touch dropped");
    second.key.step = "second".into();
    bench.order(second, &[]).await;
    let Report::Claim { go, .. } = bench.any_report().await else { panic!("no claim") };
    drop(go);
    let mut third = attempt("native", "core.noop", json!({}));
    third.key.step = "third".into();
    bench.order(third, &[]).await;
    assert!(matches!(bench.report().await, Report::Finished { key, .. } if key.step == "third"));
    assert!(!bench.workspace().join("begun").exists() && !bench.workspace().join("dropped").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_touches_nothing_but_memory_leaves_nothing_on_the_disk() {
    let mut bench = Bench::new();
    bench.done(attempt("native", "core.echo", json!({"value": 1}))).await.output();
    assert_eq!(std::fs::read_dir(bench.data.path()).unwrap().count(), 0);
}
