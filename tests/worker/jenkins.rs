//! Pack `jenkins`, against a stand-in with all of Jenkins' habits.

use std::collections::HashMap;

use serde_json::{Value, json};
use siskin::model::desk::{Reply, Request};
use siskin::model::{Attempt, ErrorKind};

use super::bench::{Bench, Seen, attempt, key, until};
use crate::support::jenkins::{Jenkins, Manners};

/// The server's KV store, in the hands of a test.
#[derive(Default)]
struct Desk {
    values: HashMap<String, Value>,
}

impl Desk {
    fn answer(&mut self, request: Request) -> Reply {
        match request {
            Request::KvGet { key } => Reply::Kv { value: self.values.get(&key).cloned(), version: 1 },
            Request::KvSet { key, value, .. } => {
                self.values.insert(key, value);
                Reply::Kv { value: None, version: 1 }
            }
            other => panic!("nobody asked for {other:?}"),
        }
    }
}

fn input(jenkins: &Jenkins, more: Value) -> Value {
    let mut input = json!({"url": jenkins.url(), "job": "shop", "poll": "20ms", "patience": "5s"});
    for (name, value) in more.as_object().unwrap() {
        input[name] = value.clone();
    }
    input
}

fn wanted(action: &str, jenkins: &Jenkins, more: Value) -> Attempt {
    Attempt { idempotent: true, ..attempt("native", action, input(jenkins, more)) }
}

async fn done(action: &str, jenkins: &Jenkins, more: Value) -> Seen {
    let (mut bench, mut desk) = (Bench::new(), Desk::default());
    bench.order(wanted(action, jenkins, more), &[]).await;
    bench.seen_answering(|request| desk.answer(request)).await
}

fn parameters() -> Value {
    json!({"parameters": {"BRANCH": "feature/ä $(x)", "COMMIT": "abc"}})
}

fn ended(result: &str) -> Manners {
    Manners { ends: Some(("one\ntwo\n".into(), result.into())), ..Manners::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_followed_from_the_queue_to_its_end_with_its_console() {
    let jenkins = Jenkins::start(ended("SUCCESS")).await;
    let seen = done("jenkins.build", &jenkins, parameters()).await;
    let output = seen.output();
    assert_eq!(
        (&output["number"], &output["result"], &output["queue_item"]),
        (&json!(1), &json!("SUCCESS"), &json!(100))
    );
    assert_eq!(output["url"], json!(format!("{}/job/shop/1/", jenkins.url())));
    assert_eq!(seen.stdout, "one\ntwo\n");
    assert!(seen.notes.contains("In the quiet period"), "{}", seen.notes);
    assert_eq!(seen.notes.matches("quiet period").count(), 1, "the seconds that pass are no news");
    assert_eq!(seen.progress[0]["number"], 1);
    assert_eq!(
        jenkins.builds("shop")[0].parameters["BRANCH"],
        "feature/ä $(x)",
        "it is data, whatever is in it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_comes_as_it_grows_and_no_line_twice() {
    let jenkins = Jenkins::start(Manners::default()).await;
    let (mut bench, mut desk) = (Bench::new(), Desk::default());
    bench.order(wanted("jenkins.build", &jenkins, parameters()), &[]).await;
    let other = jenkins.clone();
    let builder = tokio::spawn(async move {
        until("the build begins", || !other.builds("shop").is_empty()).await;
        for line in 0..20 {
            other.print("shop", 1, &format!("line {line}\n"));
            if line == 7 {
                other.restart(false);
            }
            let before = other.asked().len();
            until("it is looked at", || other.asked().len() > before + 2).await;
        }
        other.end("shop", 1, "UNSTABLE");
    });
    let seen = bench.seen_answering(|request| desk.answer(request)).await;
    builder.await.unwrap();
    let expected: String = (0..20).map(|line| format!("line {line}\n")).collect();
    assert_eq!(seen.stdout, expected);
    assert!(seen.error().message.contains("build 1 of shop ended UNSTABLE"), "{}", seen.error().message);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_result_fails_unless_it_is_accepted() {
    for result in ["FAILURE", "UNSTABLE", "ABORTED", "NOT_BUILT"] {
        let jenkins = Jenkins::start(ended(result)).await;
        let seen = done("jenkins.build", &jenkins, parameters()).await;
        let message = &seen.error().message;
        assert!(message.contains(result) && message.contains("/job/shop/1/"), "{message}");
    }
    let jenkins = Jenkins::start(ended("UNSTABLE")).await;
    let mut more = parameters();
    more["accept"] = json!(["SUCCESS", "unstable"]);
    assert_eq!(done("jenkins.build", &jenkins, more).await.output()["result"], "UNSTABLE");
    let wrong = done("jenkins.build", &jenkins, json!({"accept": ["GREEN"]})).await;
    assert!(wrong.error().message.contains("`GREEN`"), "{}", wrong.error().message);
}

#[tokio::test(flavor = "multi_thread")]
async fn crumbs_are_fetched_once_with_their_session_and_again_after_a_restart() {
    let jenkins = Jenkins::start(Manners { crumbs: true, ..ended("SUCCESS") }).await;
    done("jenkins.build", &jenkins, parameters()).await.output();
    let asked = jenkins.asked();
    assert_eq!(asked.iter().filter(|one| one.contains("crumbIssuer")).count(), 1, "{asked:?}");
    assert_eq!(asked.iter().filter(|one| one.contains("buildWithParameters")).count(), 2, "{asked:?}");
    assert_eq!(jenkins.builds("shop").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_that_answer_302_are_understood() {
    let jenkins = Jenkins::start(Manners { accepted: 302, ..ended("SUCCESS") }).await;
    done("jenkins.build", &jenkins, parameters()).await.output();
    // Older still: they point to the job, and the build is found by what it was asked for with.
    jenkins.change(|manners| manners.says_item = false);
    let more = json!({"parameters": {"BRANCH": "b", "COMMIT": "c"}});
    jenkins.change(|manners| manners.looks_in_queue = Some(0));
    assert_eq!(done("jenkins.build", &jenkins, more).await.output()["number"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_requests_that_wait_become_one_build_for_both() {
    let jenkins = Jenkins::start(Manners { looks_in_queue: None, ..ended("SUCCESS") }).await;
    let both = [(); 2].map(|()| {
        let jenkins = jenkins.clone();
        tokio::spawn(async move { done("jenkins.build", &jenkins, parameters()).await })
    });
    until("both have asked", || {
        jenkins.asked().iter().filter(|one| one.contains("buildWithParameters")).count() == 2
    })
    .await;
    jenkins.change(|manners| manners.looks_in_queue = Some(0));
    for one in both {
        assert_eq!(one.await.unwrap().output()["number"], 1);
    }
    assert_eq!(jenkins.builds("shop").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_is_gone_is_found_as_the_build_that_came_of_it() {
    let jenkins = Jenkins::start(Manners { forgets_items: true, ..ended("SUCCESS") }).await;
    // One of somebody else with the same parameters, before ours.
    jenkins.change(|manners| manners.joins = false);
    let other = jenkins.someone_asks("shop", &[("BRANCH", "feature/ä $(x)"), ("COMMIT", "abc")]);
    let seen = done("jenkins.build", &jenkins, parameters()).await;
    assert_eq!(seen.output()["number"], 1);
    assert_eq!(jenkins.builds("shop")[0].queue_id, other + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_lost_in_a_restart_fails_the_step_with_the_reason() {
    let jenkins = Jenkins::start(Manners { looks_in_queue: None, ..Manners::default() }).await;
    let (mut bench, mut desk) = (Bench::new(), Desk::default());
    bench.order(wanted("jenkins.build", &jenkins, parameters()), &[]).await;
    let other = jenkins.clone();
    let breaker = tokio::spawn(async move {
        until("it waits", || !other.items().is_empty()).await;
        other.restart(true);
    });
    let seen = bench.seen_answering(|request| desk.answer(request)).await;
    breaker.await.unwrap();
    assert!(seen.error().message.contains("lost it in a restart"), "{}", seen.error().message);
    assert!(
        desk.values.values().all(Value::is_null),
        "a step that is tried again asks anew: {:?}",
        desk.values
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_in_the_queue_is_said_to_be() {
    let jenkins = Jenkins::start(Manners { looks_in_queue: None, ..Manners::default() }).await;
    let (mut bench, mut desk) = (Bench::new(), Desk::default());
    bench.order(wanted("jenkins.build", &jenkins, parameters()), &[]).await;
    let other = jenkins.clone();
    let breaker = tokio::spawn(async move {
        until("it waits", || !other.items().is_empty()).await;
        other.cancel_item(100);
    });
    let seen = bench.seen_answering(|request| desk.answer(request)).await;
    breaker.await.unwrap();
    assert!(seen.error().message.contains("cancelled in Jenkins' queue"), "{}", seen.error().message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_an_answer_is_not_sent_twice() {
    let jenkins = Jenkins::start(Manners { loses_answers: 1, ..ended("SUCCESS") }).await;
    let seen = done("jenkins.build", &jenkins, parameters()).await;
    assert_eq!(seen.output()["number"], 1);
    assert!(seen.notes.contains("arrived all the same"), "{}", seen.notes);
    assert_eq!(jenkins.builds("shop").len(), 1);
    // Away before the request, and again in the middle: it is waited for.
    jenkins.change(|manners| manners.away = 3);
    assert_eq!(done("jenkins.build", &jenkins, parameters()).await.output()["number"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_was_lost_goes_on_with_its_build() {
    let jenkins = Jenkins::start(Manners::default()).await;
    let mut desk = Desk::default();
    let mut first = Bench::new();
    first.order(wanted("jenkins.build", &jenkins, parameters()), &[]).await;
    // The worker is stopped in the middle of the build.
    let (other, stop) = (jenkins.clone(), first.stop.clone());
    let stopper = tokio::spawn(async move {
        until("the build is listened to", || other.asked().iter().any(|one| one.contains("progressiveText")))
            .await;
        stop.cancel();
    });
    while let Some(report) = first.server.reports.recv().await {
        use siskin::dispatch::{Report, Verdict};
        match report {
            Report::Claim { go, .. } => go.send(Verdict::Go(Default::default())).unwrap(),
            Report::Question { request, answer, .. } => drop(answer.send(desk.answer(request))),
            Report::Progress { stored, .. } => stored.unwrap().send(()).unwrap(),
            Report::Finished { outcome, .. } => panic!("it is not over: {outcome:?}"),
            Report::Log { .. } => {}
        }
    }
    stopper.await.unwrap();
    assert_eq!(jenkins.builds("shop")[0].stops, 0, "the build goes on");
    jenkins.end("shop", 1, "SUCCESS");
    let mut second = Bench::new();
    second.order(Attempt { key: key(2), ..wanted("jenkins.build", &jenkins, parameters()) }, &[]).await;
    let seen = second.seen_answering(|request| desk.answer(request)).await;
    assert_eq!(seen.output()["number"], 1);
    assert_eq!(jenkins.builds("shop").len(), 1, "no other was asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_before_a_crash_is_looked_for_before_it_is_asked_for_again() {
    for (job, has_it) in [("shop", true), ("shop", false), ("marked", true)] {
        let jenkins = Jenkins::start(ended("SUCCESS")).await;
        let mut desk = Desk::default();
        desk.values.insert("jenkins/7/build/1".into(), json!({"first": 1, "item": null, "number": null}));
        if has_it {
            let mark = ("SISKIN_RUN", "jenkins/7/build/1");
            let given = [("BRANCH", "feature/ä $(x)"), ("COMMIT", "abc"), mark];
            jenkins.someone_asks(job, &given[..if job == "marked" { 3 } else { 2 }]);
        }
        let mut bench = Bench::new();
        let mut more = parameters();
        more["job"] = json!(job);
        bench.order(wanted("jenkins.build", &jenkins, more), &[]).await;
        let seen = bench.seen_answering(|request| desk.answer(request)).await;
        assert_eq!(seen.output()["number"], 1, "{}", seen.notes);
        let posts = jenkins.asked().iter().filter(|one| one.starts_with("POST")).count();
        assert_eq!(posts, usize::from(!has_it), "{job}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_cancelled_stops_its_build_but_not_one_that_is_somebody_elses_too() {
    for (looks, joined) in [(Some(0), false), (None, false), (Some(0), true)] {
        let jenkins =
            Jenkins::start(Manners { looks_in_queue: looks, crumbs: true, ..Manners::default() }).await;
        if joined {
            jenkins.someone_asks("shop", &[("BRANCH", "feature/ä $(x)"), ("COMMIT", "abc")]);
        }
        let (mut bench, mut desk) = (Bench::new(), Desk::default());
        bench.order(wanted("jenkins.build", &jenkins, parameters()), &[]).await;
        let mut is_cancelled = false;
        let outcome = loop {
            use siskin::dispatch::Report;
            let ready = match looks {
                Some(_) => jenkins.asked().iter().any(|one| one.contains("progressiveText")),
                None => jenkins.asked().iter().filter(|one| one.contains("queue/item")).count() > 1,
            };
            if ready && !is_cancelled {
                bench.cancel(&key(1)).await;
                is_cancelled = true;
            }
            let report =
                tokio::time::timeout(std::time::Duration::from_millis(20), bench.server.reports.recv()).await;
            let Ok(Some(report)) = report else { continue };
            match report {
                Report::Claim { go, .. } => {
                    go.send(siskin::dispatch::Verdict::Go(Default::default())).unwrap()
                }
                Report::Question { request, answer, .. } => drop(answer.send(desk.answer(request))),
                Report::Progress { stored, .. } => stored.unwrap().send(()).unwrap(),
                Report::Finished { outcome, .. } => break outcome,
                Report::Log { .. } => {}
            }
        };
        let siskin::model::Outcome::Failed { error, .. } = outcome else { panic!("it did not fail") };
        assert_eq!(error.kind, ErrorKind::Cancelled);
        let builds = jenkins.builds("shop");
        match (looks, joined) {
            (None, _) => {
                assert!(builds.is_empty() && jenkins.asked().iter().any(|one| one.contains("cancelItem")))
            }
            (_, false) => assert_eq!(builds[0].result.as_deref(), Some("ABORTED")),
            (_, true) => assert_eq!((builds[0].stops, builds[0].causes), (0, 2)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_jenkins_refuses_is_said_in_words_that_help() {
    let jenkins = Jenkins::start(Manners::default()).await;
    for (more, words) in [
        (json!({"job": "nowhere"}), "no such thing (404)"),
        (json!({"job": "old", "parameters": {"BRANCH": "x"}}), "disabled"),
        (json!({"job": "plain", "parameters": {"BRANCH": "x"}}), "it takes none"),
        (json!({"parameters": {"BRANHC": "x"}}), "no parameter `BRANHC`; it has BRANCH, COMMIT"),
        (json!({"url": "ci"}), "no URL"),
        (json!({"job": 7}), "`job` must be"),
        (json!({"url": "http://127.0.0.1:1/", "patience": "50ms"}), "connection refused"),
    ] {
        let seen = done("jenkins.build", &jenkins, more.clone()).await;
        assert!(seen.error().message.contains(words), "{more}: {}", seen.error().message);
    }
    assert!(jenkins.items().is_empty(), "nothing was asked for");
    jenkins.change(|manners| manners.tells_parameters = false);
    let seen = done("jenkins.build", &jenkins, json!({"job": "plain", "parameters": {"A": "x"}})).await;
    assert!(seen.error().message.contains("takes no parameters"), "{}", seen.error().message);
    jenkins.change(|manners| manners.forbids_posts = true);
    let seen = done("jenkins.build", &jenkins, parameters()).await;
    assert!(seen.error().message.contains("Job/Build"), "{}", seen.error().message);
    jenkins.change(|manners| manners.user = Some(("ada".into(), "right".into())));
    let seen = done("jenkins.build", &jenkins, json!({"user": "ada", "token": "wrong"})).await;
    assert!(seen.error().message.contains("siskin secret set jenkins_token"), "{}", seen.error().message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_started_asked_about_and_stopped_by_steps_of_their_own() {
    let jenkins =
        Jenkins::start(Manners { user: Some(("ada".into(), "right".into())), ..Manners::default() }).await;
    let with = |more: Value| {
        let mut all = json!({"user": "ada", "token": "right"});
        for (name, value) in more.as_object().unwrap() {
            all[name] = value.clone();
        }
        all
    };
    let page = done("jenkins.job", &jenkins, with(json!({"job": "folder/shop"}))).await;
    assert_eq!((&page.output()["parameters"], &page.output()["next"]), (&json!(["BRANCH"]), &json!(1)));
    let started = done("jenkins.start", &jenkins, with(parameters())).await;
    assert_eq!((&started.output()["number"], &started.output()["building"]), (&json!(1), &json!(true)));
    let status = done("jenkins.status", &jenkins, with(json!({"number": 1}))).await;
    assert_eq!((&status.output()["building"], &status.output()["result"]), (&json!(true), &Value::Null));
    for stopped in [true, false] {
        let abort = done("jenkins.abort", &jenkins, with(json!({"number": 1}))).await;
        assert_eq!(
            (&abort.output()["stopped"], &abort.output()["result"]),
            (&json!(stopped), &json!("ABORTED"))
        );
    }
    let plain = done("jenkins.start", &jenkins, with(json!({"job": "plain"}))).await;
    assert_eq!(plain.output()["number"], 1);
}
