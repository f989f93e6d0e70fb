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
        // An answer that got lost: it looks again, and finds what it did.
        forge.lose_the_next_answer();
        assert_eq!(output(action, &forge, said("failure")).await["changed"], true, "{action}");
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

/// Every action that makes something, with what it takes, where that is listed, and how often it stands there afterwards.
fn makers() -> Vec<(&'static str, Value, String)> {
    let (github, gitlab, gitea) =
        ("repos/acme/shop", "api/v4/projects/acme%2Fshop", "api/v1/repos/acme/shop");
    let pull = json!({"head": "bump", "base": "main", "title": "Bump"});
    let release = json!({"tag": "v1.0", "body": "notes"});
    let comment = json!({"number": 3, "key": "ship", "body": "fine"});
    vec![
        (
            "github.check",
            json!({"name": "ship", "external_id": "run 7"}),
            format!("{github}/commits/{COMMIT}/check-runs"),
        ),
        ("github.comment", comment.clone(), format!("{github}/issues/3/comments")),
        ("github.pull_request", pull.clone(), format!("{github}/pulls")),
        ("github.release", release.clone(), format!("{github}/releases")),
        (
            "github.deployment",
            json!({"environment": "production", "key": "k"}),
            format!("{github}/deployments"),
        ),
        ("gitea.comment", comment.clone(), format!("{gitea}/issues/3/comments")),
        ("gitea.pull_request", pull, format!("{gitea}/pulls")),
        ("gitea.release", release.clone(), format!("{gitea}/releases")),
        (
            "gitlab.comment",
            json!({"commit": null, "number": 3, "key": "ship", "body": "fine"}),
            format!("{gitlab}/merge_requests/3/notes"),
        ),
        (
            "gitlab.comment",
            json!({"key": "ship", "body": "fine"}),
            format!("{gitlab}/repository/commits/{COMMIT}/discussions"),
        ),
        (
            "gitlab.merge_request",
            json!({"source": "bump", "target": "main", "title": "Bump"}),
            format!("{gitlab}/merge_requests"),
        ),
        ("gitlab.release", release, format!("{gitlab}/releases")),
        (
            "gitlab.deployment",
            json!({"ref": "main", "environment": "production", "state": "running"}),
            format!("{gitlab}/deployments"),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_and_whose_answer_was_lost_is_there_once() {
    let each = makers().into_iter().map(|(action, input, list)| async move {
        let forge = Forge::start().await;
        forge.lose_the_next_answer();
        let first = output(action, &forge, input.clone()).await;
        assert_eq!(first["changed"], true, "{action}");
        assert_eq!(output(action, &forge, input).await["changed"], false, "{action}");
        assert_eq!(forge.list(&list).len(), 1, "{action}");
    });
    futures::future::join_all(each).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forge_that_wants_to_be_asked_later_is_asked_later() {
    for (action, input, list) in makers().into_iter().filter(|(action, ..)| action.ends_with("release")) {
        let forge = Forge::start().await;
        forge.refuse_times(2, (403, "retry-after", "0"));
        assert_eq!(output(action, &forge, input).await["changed"], true, "{action}");
        assert_eq!(forge.list(&list).len(), 1, "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_made_in_the_meantime_is_taken_for_ours() {
    let one_of_each = ["pull_request", "release", "merge_request"];
    let wanted = |action: &str| one_of_each.iter().any(|name| action.ends_with(name));
    let each =
        makers().into_iter().filter(|(action, ..)| wanted(action)).map(|(action, input, list)| async move {
            let forge = Forge::start().await;
            output(action, &forge, input.clone()).await;
            // It looks, sees nothing yet, makes it, and hears that it is there: 422 of GitHub, 409 of the others.
            forge.see_nothing_once();
            output(action, &forge, input).await;
            assert_eq!(forge.list(&list).len(), 1, "{action}");
        });
    futures::future::join_all(each).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gitlab_and_gitea_have_is_brought_up_to_date() {
    let forge = Forge::start().await;
    let request = |title: &str| json!({"source": "bump", "target": "main", "title": title, "body": "b"});
    let first = output("gitlab.merge_request", &forge, request("Bump")).await;
    let other = output("gitlab.merge_request", &forge, request("Bump to 2")).await;
    assert_eq!((&other["changed"], &other["number"]), (&json!(true), &first["number"]));
    assert!(other["url"].as_str().unwrap().ends_with(&other["number"].to_string()), "{other}");
    let project = "api/v4/projects/acme%2Fshop";
    assert_eq!(forge.list(&format!("{project}/merge_requests"))[0]["title"], "Bump to 2");

    for action in ["gitlab.release", "gitea.release"] {
        for (body, changed) in [("notes", true), ("notes", false), ("better", true)] {
            let answer = output(action, &forge, json!({"tag": "v1/0", "body": body})).await;
            assert_eq!(answer["changed"], changed, "{action} {body}");
        }
    }
    for on in [json!({"number": 3, "commit": null}), json!({})] {
        for (body, changed) in [("building", true), ("building", false), ("done", true), ("done", false)] {
            let mut said = json!({"key": "ship", "body": body});
            for (name, value) in on.as_object().unwrap() {
                said[name] = value.clone();
            }
            assert_eq!(output("gitlab.comment", &forge, said).await["changed"], changed, "{on} {body}");
        }
    }
    let pull = |title: &str| json!({"head": "bump", "base": "main", "title": title});
    let first = output("gitea.pull_request", &forge, pull("Bump")).await;
    let other = output("gitea.pull_request", &forge, pull("Better")).await;
    assert_eq!((&other["changed"], &other["number"]), (&json!(true), &first["number"]));

    // A deployment goes on from state to state; one that ended is not taken up again.
    let said = |commit: &str, state: &str| json!({"commit": commit, "ref": "main", "environment": "production", "state": state});
    let mut ids = Vec::new();
    let other = "ffff456789abcdef0123456789abcdef01234567";
    for (commit, state, changed) in [
        (COMMIT, "pending", true),
        (COMMIT, "running", true),
        (COMMIT, "running", false),
        (COMMIT, "success", true),
        (COMMIT, "success", false),
        (other, "running", true),
        (other, "failure", true),
        (other, "running", true),
    ] {
        let answer = output("gitlab.deployment", &forge, said(commit, state)).await;
        assert_eq!(answer["changed"], changed, "{commit} {state}");
        ids.push(answer["id"].as_u64().unwrap());
    }
    assert!(ids[..5].iter().all(|id| *id == ids[0]) && ids[5] == ids[6] && ids[6] != ids[7], "{ids:?}");
    let wrong = done("gitlab.comment", &forge, json!({"number": 3, "body": "x"})).await;
    assert!(wrong.error().message.contains("either `number`"), "{}", wrong.error().message);
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
        (json!({"target_url": "job/shop/1/"}), "a whole address"),
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
