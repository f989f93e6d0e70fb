//! Packs `github`, `gitlab` and `gitea`, against a stand-in of their APIs.

use serde_json::{Value, json};

use super::bench::{Bench, Seen, attempt};
use crate::support::forge::Forge;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

async fn done(action: &str, forge: &Forge, more: Value) -> Seen {
    let mut input =
        json!({"url": forge.url(), "token": "t0ken", "repository": "acme/shop", "commit": COMMIT});
    for (name, value) in more.as_object().unwrap() {
        input[name] = value.clone();
    }
    Bench::new().done(attempt("native", action, input)).await
}

async fn output(action: &str, forge: &Forge, more: Value) -> Value {
    done(action, forge, more).await.output().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_goes_from_pending_to_done_and_is_said_once() {
    for (action, list, words) in [
        ("github.status", format!("repos/acme/shop/commits/{COMMIT}/statuses"), ["pending", "success"]),
        (
            "gitlab.status",
            format!("api/v4/projects/acme%2Fshop/repository/commits/{COMMIT}/statuses"),
            ["pending", "success"],
        ),
        ("gitea.status", format!("api/v1/repos/acme/shop/commits/{COMMIT}/statuses"), ["pending", "success"]),
    ] {
        let forge = Forge::start().await;
        for other in 0..120 {
            let entry = json!({"context": format!("other {other}"), "name": format!("other {other}"), "state": "success", "status": "success"});
            forge.add(&list, entry);
        }
        let said = |state: &str| json!({"context": "siskin/ship", "state": state, "description": "v1", "target_url": "https://s/runs/7"});
        for (round, state) in ["pending", "pending", "success", "success"].into_iter().enumerate() {
            let answer = output(action, &forge, said(state)).await;
            assert_eq!(answer["changed"], round % 2 == 0, "{action} {round}");
        }
        let key = if action == "gitlab.status" { "status" } else { "state" };
        let ours: Vec<Value> =
            forge.list(&list).into_iter().skip(120).map(|entry| entry[key].clone()).collect();
        assert_eq!(ours, words, "{action}");
        // An answer that got lost: the attempt that begins again finds what the first one did.
        forge.lose_the_next_answer();
        let lost = done(action, &forge, said("failure")).await;
        assert!(lost.error().message.contains("502"), "{}", lost.error().message);
        assert_eq!(output(action, &forge, said("failure")).await["changed"], false, "{action}");
        assert_eq!(forge.list(&list).len(), 123, "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_is_known_by_its_external_id() {
    let forge = Forge::start().await;
    let list = format!("repos/acme/shop/commits/{COMMIT}/check-runs");
    forge.add(&list, json!({"name": "ship", "external_id": "run 6", "status": "completed"}));
    let check = |conclusion: Option<&str>| json!({"name": "ship", "external_id": "run 7", "conclusion": conclusion, "summary": "*fine*"});
    for (conclusion, changed) in
        [(None, true), (None, false), (Some("success"), true), (Some("success"), false)]
    {
        assert_eq!(
            output("github.check", &forge, check(conclusion)).await["changed"],
            changed,
            "{conclusion:?}"
        );
    }
    let checks = forge.list(&list);
    assert_eq!(
        (checks.len(), &checks[1]["status"], &checks[1]["conclusion"]),
        (2, &json!("completed"), &json!("success"))
    );
    assert_eq!(checks[0]["status"], "completed", "that of another run stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_is_made_once_and_then_changed() {
    for (action, project) in
        [("github.comment", "repos/acme/shop"), ("gitea.comment", "api/v1/repos/acme/shop")]
    {
        let forge = Forge::start().await;
        let list = format!("{project}/issues/3/comments");
        for _ in 0..130 {
            forge.add(&list, json!({"body": "somebody else's"}));
        }
        let said = |body: &str| json!({"number": 3, "key": "ship shop", "body": body});
        for (body, changed) in [("building", true), ("building", false), ("done", true)] {
            assert_eq!(output(action, &forge, said(body)).await["changed"], changed, "{action} {body}");
        }
        let comments = forge.list(&list);
        assert_eq!(comments.len(), 131, "{action}");
        assert_eq!(comments[130]["body"], "done\n\n<!-- siskin: ship shop -->");
        let wrong = done(action, &forge, json!({"number": 3, "key": "--> <b>", "body": "x"})).await;
        assert!(wrong.error().message.contains("`key`"), "{}", wrong.error().message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_requests_releases_and_deployments_are_there_once() {
    let forge = Forge::start().await;
    let pull = |title: &str| json!({"head": "bump", "base": "main", "title": title});
    let first = output("github.pull_request", &forge, pull("Bump")).await;
    assert_eq!(first["changed"], true);
    assert_eq!(output("github.pull_request", &forge, pull("Bump")).await["changed"], false);
    let other = output("github.pull_request", &forge, pull("Bump to 2")).await;
    assert_eq!((&other["changed"], &other["number"]), (&json!(true), &first["number"]));
    let release = |body: &str| json!({"tag": "v1.0", "body": body, "draft": true});
    for (body, changed) in [("notes", true), ("notes", false), ("better notes", true)] {
        assert_eq!(output("github.release", &forge, release(body)).await["changed"], changed, "{body}");
    }
    let deployment = |state: &str| json!({"environment": "production", "key": "run 7", "state": state, "log_url": "https://s/7"});
    let mut ids = Vec::new();
    for (state, changed) in
        [("in_progress", true), ("in_progress", false), ("success", true), ("success", false)]
    {
        let answer = output("github.deployment", &forge, deployment(state)).await;
        assert_eq!(answer["changed"], changed, "{state}");
        ids.push(answer["id"].as_u64().unwrap());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let counts =
        ["pulls", "releases", "deployments"].map(|what| forge.list(&format!("repos/acme/shop/{what}")).len());
    assert_eq!(counts, [1, 1, 1]);
    assert_eq!(forge.list(&format!("repos/acme/shop/deployments/{}/statuses", ids[0])).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_or_refused_is_said_before_anything_changes() {
    let forge = Forge::start().await;
    let status = || json!({"context": "c", "state": "success"});
    for (more, words) in [
        (json!({"repository": "../../admin"}), "owner/name"),
        (json!({"repository": "acme/shop/x"}), "owner/name"),
        (json!({"repository": "acme/sh?p"}), "owner/name"),
        (json!({"commit": "main"}), "hash of a commit"),
        (json!({"state": "green"}), "known are"),
        (json!({"token": "wrong"}), "401"),
        (json!({"url": "file:///etc"}), "http or https"),
    ] {
        let mut all = status();
        for (name, value) in more.as_object().unwrap() {
            all[name] = value.clone();
        }
        let seen = done("github.status", &forge, all).await;
        assert!(seen.error().message.contains(words), "{more}: {}", seen.error().message);
        assert!(!seen.everything().contains("t0ken"), "{more}");
    }
    for (refusal, words) in [
        ((403, "x-other", "1"), "may not do that"),
        ((429, "retry-after", "30"), "again in 30 s"),
        ((404, "x-other", "1"), "may not see it"),
    ] {
        forge.refuse(Some(refusal));
        let seen = done("github.status", &forge, status()).await;
        assert!(seen.error().message.contains(words), "{}", seen.error().message);
    }
    assert!(forge.changes().is_empty());
    let seen = Bench::new()
        .done(attempt(
            "native",
            "gitea.status",
            json!({"repository": "a/b", "commit": COMMIT, "context": "c", "state": "success"}),
        ))
        .await;
    assert!(seen.error().message.contains("config: {gitea:"), "{}", seen.error().message);
}
