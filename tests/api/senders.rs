//! The sources that ship: each sender is let in by its own proof, its payloads become the events that rules ask for, and nothing that is sent to any
//! of them is answered with a 5xx.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{KeyInit, Mac};
use reqwest::blocking::{RequestBuilder, Response};
use serde_json::{Value, json};

use crate::support::server::{Server, client};

const SECRET: &str = "s3cret of the sender";
/// Base64 of 32 bytes, as GitLab makes them.
const SIGNING: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
pub(super) const SENDERS: [&str; 8] =
    ["github", "gitlab", "gitea", "bitbucket", "jenkins", "circleci", "slack", "generic"];

fn secret_of(sender: &str) -> String {
    if sender == "slack" { "slack_signing".to_owned() } else { format!("{sender}_webhook") }
}

pub(super) fn server_with(files: &[(&str, &str)]) -> Server {
    let server = Server::start(files);
    for sender in SENDERS {
        server.set_secret(&secret_of(sender), SECRET);
    }
    server.set_secret("gitlab_signing", SIGNING);
    server
}

fn hmac(key: &[u8], pieces: &[&[u8]]) -> Vec<u8> {
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    for piece in pieces {
        mac.update(piece);
    }
    mac.finalize().into_bytes().to_vec()
}

fn hex_of(pieces: &[&[u8]]) -> String {
    hex::encode(hmac(SECRET.as_bytes(), pieces))
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// The headers that prove a body to a sender's source, as that sender writes them.
pub(super) fn proof(sender: &str, body: &[u8]) -> Vec<(&'static str, String)> {
    match sender {
        "github" => vec![("X-Hub-Signature-256", format!("sha256={}", hex_of(&[body])))],
        "gitlab" => vec![("X-Gitlab-Token", SECRET.to_owned())],
        "gitea" => vec![("X-Gitea-Signature", hex_of(&[body]))],
        "bitbucket" => vec![("X-Hub-Signature", format!("sha256={}", hex_of(&[body])))],
        "jenkins" => vec![("X-Siskin-Token", SECRET.to_owned())],
        "circleci" => vec![("circleci-signature", format!("v1={}", hex_of(&[body])))],
        "slack" => slack_proof(now(), body),
        "generic" => vec![("Authorization", format!("Bearer {SECRET}"))],
        _ => Vec::new(),
    }
}

fn slack_proof(time: u64, body: &[u8]) -> Vec<(&'static str, String)> {
    let signature = format!("v0={}", hex_of(&[format!("v0:{time}:").as_bytes(), body]));
    vec![("X-Slack-Request-Timestamp", time.to_string()), ("X-Slack-Signature", signature)]
}

fn gitlab_signed(time: u64, body: &[u8]) -> Vec<(&'static str, String)> {
    let key = BASE64_STANDARD.decode(SIGNING.strip_prefix("whsec_").unwrap()).unwrap();
    let signature = BASE64_STANDARD.encode(hmac(&key, &[format!("id-1.{time}.").as_bytes(), body]));
    vec![
        ("webhook-id", "id-1".to_owned()),
        ("webhook-timestamp", time.to_string()),
        ("webhook-signature", format!("v1,{signature}")),
    ]
}

/// A payload that the sender's source understands, and the headers beside its proof.
fn example(sender: &str) -> (Value, Vec<(&'static str, &'static str)>) {
    let push = json!({"ref": "refs/heads/main", "after": "a".repeat(40), "repository": {"name": "shop"}});
    match sender {
        "github" => (push, vec![("X-GitHub-Event", "push"), ("X-GitHub-Delivery", "1")]),
        "gitlab" => (push, vec![("X-Gitlab-Event", "Push Hook")]),
        "gitea" => (push, vec![("X-Gitea-Event", "push"), ("X-Gitea-Delivery", "1")]),
        "bitbucket" => (
            json!({"push": {"changes": []}, "repository": {"full_name": "a/b"}}),
            vec![("X-Event-Key", "repo:push"), ("X-Request-UUID", "1")],
        ),
        "jenkins" => (json!({"name": "shop", "build": {"number": 1, "phase": "STARTED"}}), vec![]),
        "circleci" => (
            json!({"type": "workflow-completed", "id": "1", "workflow": {"name": "ci", "status": "success"}}),
            vec![],
        ),
        "slack" => (json!({"type": "event_callback", "event_id": "1", "event": {"type": "message"}}), vec![]),
        _ => (json!({"what": "ever"}), vec![]),
    }
}

fn post(server: &Server, path: &str, body: &[u8], headers: &[(&str, String)]) -> RequestBuilder {
    let request = client().post(format!("{}/hooks/{path}", server.url())).body(body.to_vec());
    headers.iter().fold(request, |request, (name, value)| request.header(*name, value))
}

pub(super) fn with_headers(
    mut headers: Vec<(&'static str, String)>,
    more: &[(&'static str, &str)],
) -> Vec<(&'static str, String)> {
    headers.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    headers
}

/// A delivery of JSON that is proved.
fn deliver(server: &Server, sender: &str, more: &[(&'static str, &str)], body: &Value) -> Response {
    let bytes = body.to_string().into_bytes();
    let headers = with_headers(proof(sender, &bytes), more);
    post(server, sender, &bytes, &headers).header("Content-Type", "application/json").send().unwrap()
}

fn status(request: RequestBuilder) -> u16 {
    request.send().unwrap().status().as_u16()
}

fn event_of(response: Response) -> i64 {
    let text = response.text().unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["event"].as_i64().unwrap_or_else(|| panic!("{text}"))
}

fn routed(server: &Server, event: i64) -> Value {
    server.wait_for(&format!("/events/{event}"), |event| !event["routed_at"].is_null())
}

fn count(server: &Server, path: &str) -> usize {
    server.get(path)["items"].as_array().unwrap().len()
}

#[test]
fn each_sender_is_let_in_by_its_own_proof_and_without_it_by_none() {
    let server = server_with(&[]);
    for sender in SENDERS {
        let (payload, more) = example(sender);
        let bytes = payload.to_string().into_bytes();
        let send = |proof: Vec<(&'static str, String)>| {
            let headers = with_headers(proof, &more);
            status(post(&server, sender, &bytes, &headers).header("Content-Type", "application/json"))
        };
        assert_eq!(send(Vec::new()), 401, "{sender}: nothing");
        let right = proof(sender, &bytes);
        let (name, value) = right.last().unwrap().clone();
        let mut wrong = right.clone();
        wrong.last_mut().unwrap().1 = format!("{}0", &value[..value.len() - 1]).replace('1', "2");
        assert_eq!(send(wrong), 401, "{sender}: wrong");
        let mut twice = right.clone();
        twice.push((name, value));
        assert_eq!(send(twice), 401, "{sender}: twice");
        if sender != "gitlab" && sender != "jenkins" && sender != "generic" {
            assert_eq!(send(proof(sender, b"{}")), 401, "{sender}: of another body");
        }
        assert!(matches!(send(right), 200 | 202), "{sender}: right");
        // HTTP clients of our own write names small; this one comes as it stands.
        assert!(matches!(raw_status(&server, sender, &more, &bytes), 200 | 202), "{sender}: capitals");
    }
    let problems: Vec<Value> = server.get("/sources")["items"].as_array().unwrap().clone();
    assert!(problems.iter().all(|source| source["health"]["problem"].is_null()), "{problems:#?}");
}

/// Sends with the names of headers in capitals, over a bare connection.
fn raw_status(server: &Server, sender: &str, more: &[(&'static str, &str)], body: &[u8]) -> u16 {
    use std::io::{Read, Write};
    let address = server.url().strip_prefix("http://").unwrap().trim_end_matches('/').to_owned();
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    let mut head = format!(
        "POST /hooks/{sender} HTTP/1.1\r\nHOST: {address}\r\nCONNECTION: close\r\nCONTENT-LENGTH: {}\r\nCONTENT-TYPE: application/json\r\n",
        body.len()
    );
    for (name, value) in with_headers(proof(sender, body), more) {
        head.push_str(&format!("{}: {value}\r\n", name.to_uppercase()));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_source_whose_secret_is_not_set_lets_nobody_in_and_says_so() {
    let server = Server::start(&[]);
    for sender in SENDERS {
        let (payload, more) = example(sender);
        assert_eq!(deliver(&server, sender, &more, &payload).status(), 401, "{sender}");
        let source = server.get(&format!("/sources/{sender}.webhook"));
        let problem = source["health"]["problem"].as_str().unwrap_or_default().to_owned();
        assert!(problem.contains(&format!("siskin secret set {}", secret_of(sender))), "{sender}: {problem}");
    }
    assert_eq!(count(&server, "/events"), 0);
    server.set_secret("gitlab_signing", "no base64!");
    let problem = server.get("/sources/gitlab.webhook")["health"]["problem"].to_string();
    assert!(problem.contains("is no signing key"), "{problem}");
}

#[test]
fn gitlab_is_let_in_by_a_signature_or_by_its_token() {
    let server = server_with(&[]);
    let body = example("gitlab").0.to_string().into_bytes();
    let send = |proof: Vec<(&'static str, String)>| {
        status(post(&server, "gitlab", &body, &with_headers(proof, &[("X-Gitlab-Event", "Push Hook")])))
    };
    assert_eq!(send(gitlab_signed(now(), &body)), 202);
    assert_eq!(send(gitlab_signed(now() - 1, &body)), 200, "the same id");
    assert_eq!(send(gitlab_signed(now() - 400, &body)), 401, "old");
    assert_eq!(send(gitlab_signed(now() + 400, &body)), 401, "of the future");
    assert_eq!(send(gitlab_signed(now(), b"{}")), 401, "of another body");
    let mut two = gitlab_signed(now(), &body);
    two[2].1 = format!("v1,{} {}", BASE64_STANDARD.encode([0; 32]), two[2].1);
    assert_eq!(send(two), 200, "the second of two");
    let mut both = gitlab_signed(now(), b"{}");
    both.extend(proof("gitlab", &body));
    assert_eq!(send(both), 200, "a wrong signature beside the right token");
}

#[test]
fn a_secret_is_changed_without_a_gap() {
    let source = "kind: webhook\npath: mine\nverify: {hmac_sha256: {header: X-Signature, secret: [mine_new, mine_old]}}\ntrigger: generic.event\n";
    let server = Server::start(&[("packs/mine/sources/hook.yaml", source)]);
    let send = |key: &str| {
        let signature = hex::encode(hmac(key.as_bytes(), &[b"{}"]));
        status(post(&server, "mine", b"{}", &[("X-Signature", signature)]))
    };
    server.set_secret("mine_old", "old");
    assert_eq!((send("old"), send("new")), (202, 401));
    server.set_secret("mine_new", "new");
    assert_eq!((send("old"), send("new")), (202, 202));
    assert_eq!(server.ask("DELETE", "/secrets/mine_old", None).0, 204);
    assert_eq!((send("old"), send("new")), (401, 202));
}

#[test]
fn a_user_and_password_are_asked_for_and_held_against_the_secret() {
    let source =
        "kind: webhook\npath: mine\nverify: {basic: {user: me, secret: mine}}\ntrigger: generic.event\n";
    let server = Server::start(&[("packs/mine/sources/hook.yaml", source)]);
    server.set_secret("mine", "pass");
    let send = || post(&server, "mine", b"{}", &[]);
    assert_eq!(status(send().basic_auth("me", Some("pass"))), 202);
    assert_eq!(status(send().basic_auth("me", Some("word"))), 401);
    assert_eq!(status(send().basic_auth("you", Some("pass"))), 401);
    let refused = send().send().unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["www-authenticate"], "Basic realm=\"siskin\"");
}

#[test]
fn who_sends_too_much_too_often_or_too_deep_is_told_so() {
    let source = "kind: webhook\npath: mine\nverify: {token: {query: t, secret: mine}}\ntrigger: generic.event\nlimit: {size: 1KB, rate: 3/h, depth: 2}\n";
    let server = Server::start(&[("packs/mine/sources/hook.yaml", source)]);
    server.set_secret("mine", "t0ken");
    let send = |body: &str| post(&server, "mine?t=t0ken", body.as_bytes(), &[]).send().unwrap();
    assert_eq!(send(&format!("\"{}\"", "x".repeat(1000))).status(), 413);
    for _ in 0..10 {
        assert_eq!(
            status(post(&server, "mine?t=wrong", b"{}", &[])),
            401,
            "nobody uses up the rate of others"
        );
    }
    assert_eq!(send("[[[]]]").status(), 422);
    assert_eq!(send("[[]]").status(), 202);
    assert_eq!(send("[[]]").status(), 202);
    let refused = send("[[]]");
    assert_eq!(refused.status(), 429);
    let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1000..=1200).contains(&seconds), "{seconds}");
    let source = server.get("/sources/mine.hook");
    assert_eq!(source["limit"], json!({"size": 1000, "depth": 2, "rate": "3/1h"}));
    assert!(source["health"]["last_error"].to_string().contains("rate"), "{source}");
}

/// A sender, and the header in which it names the event.
pub(super) type Sender = (&'static str, Vec<(&'static str, &'static str)>);

/// What senders send, and the trigger that it is of.
pub(super) fn payloads() -> Vec<(Sender, Value, &'static str)> {
    let sha = "0123456789abcdef0123456789abcdef01234567";
    let attributes =
        |more: Value| json!({"object_kind": "x", "object_attributes": more, "project": {"name": "shop"}});
    let github = |event: &'static str| ("github", vec![("x-github-event", event)]);
    let gitlab = |event: &'static str| ("gitlab", vec![("x-gitlab-event", event)]);
    let gitea = |event: &'static str| ("gitea", vec![("x-gitea-event", event)]);
    let bitbucket = |event: &'static str| ("bitbucket", vec![("x-event-key", event)]);
    let plain = |sender: &'static str| (sender, vec![]);
    vec![
        (github("ping"), json!({"zen": "z", "hook_id": 1, "hook": {}}), "github.ping"),
        (
            github("push"),
            json!({"ref": "refs/heads/x", "before": sha, "after": "0".repeat(40), "deleted": true, "head_commit": null, "repository": {"name": "shop"}, "pusher": {"name": "a"}}),
            "github.push",
        ),
        (
            github("pull_request"),
            json!({"action": "opened", "number": 1, "pull_request": {"number": 1, "state": "open", "merged": false, "head": {"ref": "x", "sha": sha, "repo": null}, "base": {"ref": "main"}}}),
            "github.pull_request",
        ),
        (
            github("release"),
            json!({"action": "published", "release": {"tag_name": "v1", "draft": false, "prerelease": false, "name": null}}),
            "github.release",
        ),
        (github("create"), json!({"ref": "v1", "ref_type": "tag", "master_branch": "main"}), "github.create"),
        (github("delete"), json!({"ref": "v1", "ref_type": "tag"}), "github.delete"),
        (
            github("check_run"),
            json!({"action": "created", "check_run": {"name": "ci", "head_sha": sha, "status": "queued", "conclusion": null}}),
            "github.check_run",
        ),
        (
            github("check_suite"),
            json!({"action": "completed", "check_suite": {"head_sha": sha, "head_branch": null, "status": "completed", "conclusion": "success"}}),
            "github.check_suite",
        ),
        (
            github("workflow_run"),
            json!({"action": "completed", "workflow_run": {"name": "CI", "head_sha": sha, "head_branch": "main", "conclusion": "failure"}}),
            "github.workflow_run",
        ),
        (
            github("workflow_job"),
            json!({"action": "queued", "workflow_job": {"name": "build", "conclusion": null}}),
            "github.workflow_job",
        ),
        (
            github("deployment"),
            json!({"deployment": {"id": 1, "environment": "production", "sha": sha, "ref": "main"}}),
            "github.deployment",
        ),
        (
            github("deployment_status"),
            json!({"deployment_status": {"state": "success"}, "deployment": {"id": 1}}),
            "github.deployment_status",
        ),
        (github("status"), json!({"sha": sha, "state": "success", "context": "ci"}), "github.status"),
        (
            github("issues"),
            json!({"action": "opened", "issue": {"number": 1, "title": "t", "state": "open"}}),
            "github.issues",
        ),
        (
            github("issue_comment"),
            json!({"action": "created", "issue": {"number": 1}, "comment": {"body": "/deploy"}}),
            "github.issue_comment",
        ),
        (github("star"), json!({"action": "created", "starred_at": null}), "github.star"),
        (
            gitlab("Push Hook"),
            json!({"object_kind": "push", "ref": "refs/heads/x", "before": sha, "after": sha, "checkout_sha": null, "project": {"name": "shop", "path_with_namespace": "a/shop"}}),
            "gitlab.push",
        ),
        (
            gitlab("Tag Push Hook"),
            json!({"object_kind": "tag_push", "ref": "refs/tags/v1", "after": sha}),
            "gitlab.tag_push",
        ),
        (
            gitlab("Merge Request Hook"),
            attributes(json!({"iid": 1, "source_branch": "x", "target_branch": "main", "state": "opened"})),
            "gitlab.merge_request",
        ),
        (
            gitlab("Pipeline Hook"),
            attributes(json!({"id": 1, "ref": "main", "sha": sha, "status": "success"})),
            "gitlab.pipeline",
        ),
        (
            gitlab("Note Hook"),
            attributes(json!({"note": "/deploy", "noteable_type": "MergeRequest"})),
            "gitlab.note",
        ),
        (
            gitlab("Confidential Note Hook"),
            attributes(json!({"note": "n", "noteable_type": "Issue"})),
            "gitlab.confidential_note",
        ),
        (
            gitlab("Job Hook"),
            json!({"object_kind": "build", "build_name": "test", "build_status": "failed", "ref": "main"}),
            "gitlab.job",
        ),
        (
            gitlab("Release Hook"),
            json!({"object_kind": "release", "tag": "v1", "action": "create", "name": "V1"}),
            "gitlab.release",
        ),
        (
            gitlab("Deployment Hook"),
            json!({"object_kind": "deployment", "status": "running", "environment": "staging"}),
            "gitlab.deployment",
        ),
        (gitlab("Wiki Page Hook"), json!({"object_kind": "wiki_page"}), "gitlab.wiki_page"),
        (gitlab("System Hook"), json!({"event_name": "project_create"}), "gitlab.system"),
        (
            gitea("push"),
            json!({"ref": "refs/heads/x", "before": sha, "after": sha, "repository": {"full_name": "a/shop"}}),
            "gitea.push",
        ),
        (
            gitea("pull_request"),
            json!({"action": "synchronized", "number": 1, "pull_request": {"number": 1, "head": {"ref": "x", "sha": sha}, "base": {"ref": "main"}}}),
            "gitea.pull_request",
        ),
        (
            gitea("release"),
            json!({"action": "published", "release": {"tag_name": "v1", "draft": false, "prerelease": true}}),
            "gitea.release",
        ),
        (
            gitea("package"),
            json!({"action": "created", "package": {"name": "p", "version": "1", "type": "debian"}}),
            "gitea.package",
        ),
        (gitea("repository"), json!({"action": "created"}), "gitea.repository"),
        (
            bitbucket("repo:push"),
            json!({"push": {"changes": [{"new": null, "old": {"name": "x"}}]}, "repository": {"full_name": "a/b"}}),
            "bitbucket.repo_push",
        ),
        (
            bitbucket("pullrequest:fulfilled"),
            json!({"pullrequest": {"id": 1, "title": "t", "state": "MERGED"}}),
            "bitbucket.pullrequest_fulfilled",
        ),
        (
            bitbucket("repo:refs_changed"),
            json!({"changes": [{"ref": {"id": "refs/heads/x"}}], "repository": {"slug": "b"}}),
            "bitbucket.repo_refs_changed",
        ),
        (bitbucket("pr:comment:added"), json!({"comment": {}}), "bitbucket.pr_comment_added"),
        (bitbucket("diagnostics:ping"), json!({"test": true}), "bitbucket.diagnostics_ping"),
        (
            plain("circleci"),
            json!({"type": "workflow-completed", "id": "w1", "happened_at": "2026-01-01T00:00:00Z", "workflow": {"id": "w", "name": "ci", "status": "success"}, "project": {"slug": "gh/a/b"}, "pipeline": {"number": 1}}),
            "circleci.workflow_completed",
        ),
        (
            plain("circleci"),
            json!({"type": "job-completed", "id": "j1", "job": {"name": "test", "status": "failed"}}),
            "circleci.job_completed",
        ),
        (plain("circleci"), json!({"type": "ping", "id": "p1"}), "circleci.ping"),
        (
            plain("circleci"),
            json!({"type": "thing-invented-later", "id": "t1"}),
            "circleci.thing_invented_later",
        ),
        (plain("generic"), json!(["any", 1, null]), "generic.event"),
        (
            plain("jenkins"),
            json!({"name": "shop", "build": {"number": 1, "phase": "STARTED"}}),
            "jenkins.build",
        ),
    ]
}

#[test]
fn what_senders_send_is_an_event_of_its_trigger() {
    let server = server_with(&[]);
    let cases = payloads();
    for (number, ((sender, mut headers), payload, trigger)) in cases.into_iter().enumerate() {
        let delivery = format!("d{number}");
        let delivery = ["x-github-delivery", "x-gitea-delivery", "x-request-uuid", "idempotency-key"]
            .map(|name| (name, delivery.as_str()));
        let mut all: Vec<(&'static str, &str)> = delivery.to_vec();
        all.append(&mut headers);
        let response = deliver(&server, sender, &all, &payload);
        assert_eq!(response.status(), 202, "{trigger}: {:?}", response.text());
        let event = routed(&server, event_of(response));
        assert_eq!((&event["trigger"], &event["matches"]), (&json!(trigger), &json!([])), "no rule ships");
        assert_eq!(event["payload"], payload);
        let again = deliver(&server, sender, &all, &payload);
        assert_eq!(
            (again.status().as_u16(), event_of(again)),
            (200, event["id"].as_i64().unwrap()),
            "{trigger} again"
        );
    }
}

#[test]
fn a_delivery_without_a_key_is_an_event_of_its_own_and_a_long_key_is_still_one() {
    let server = server_with(&[]);
    let (payload, _) = example("generic");
    assert_eq!(deliver(&server, "generic", &[], &payload).status(), 202);
    assert_eq!(deliver(&server, "generic", &[], &payload).status(), 202);
    let long = "k".repeat(2000);
    let keyed = || deliver(&server, "generic", &[("idempotency-key", &long)], &payload).status().as_u16();
    assert_eq!((keyed(), keyed()), (202, 200));
}

#[test]
fn slack_is_answered_as_it_wants() {
    let server = server_with(&[]);
    let form = |body: &str| {
        let headers = proof("slack", body.as_bytes());
        let request = post(&server, "slack", body.as_bytes(), &headers);
        let answer = request.header("Content-Type", "application/x-www-form-urlencoded").send().unwrap();
        (answer.status().as_u16(), answer.text().unwrap())
    };
    let command = "token=x&team_id=T1&command=%2Fdeploy&text=shop+production&user_name=alice&response_url=https%3A%2F%2Fhooks.example%2F1";
    assert_eq!(form(command), (200, String::new()));
    let interaction = "payload=%7B%22type%22%3A%22block_actions%22%2C%22actions%22%3A%5B%5D%7D";
    assert_eq!(form(interaction), (200, String::new()));
    assert_eq!(form("ssl_check=1&token=x"), (200, String::new()), "whether the address can be reached");
    let verification = json!({"type": "url_verification", "challenge": "3eZbrw1a", "token": "x"});
    let answer = deliver(&server, "slack", &[], &verification);
    assert_eq!(answer.status(), 200);
    assert_eq!(
        serde_json::from_str::<Value>(&answer.text().unwrap()).unwrap(),
        json!({"challenge": "3eZbrw1a"})
    );
    let happened = json!({"type": "event_callback", "event_id": "Ev1", "event": {"type": "app_mention"}});
    for retry in ["0", "1"] {
        assert_eq!(deliver(&server, "slack", &[("x-slack-retry-num", retry)], &happened).status(), 200);
    }
    for (trigger, events) in
        [("slack.command", 1), ("slack.interaction", 1), ("slack.url_verification", 1), ("slack.event", 1)]
    {
        assert_eq!(count(&server, &format!("/events?trigger={trigger}")), events, "{trigger}");
    }
    let stored = server.get("/events?trigger=slack.command")["items"][0]["id"].as_i64().unwrap();
    assert_eq!(routed(&server, stored)["payload"]["text"], "shop production");
    let old = post(&server, "slack", command.as_bytes(), &slack_proof(now() - 301, command.as_bytes()));
    assert_eq!(status(old), 401);
}

const JENKINS_RULE: &str = "trigger: jenkins.build\nwhen: event.build.phase in [\"FINALIZED\", \"FINISHED\"] && event.build.status == \"SUCCESS\" && event.name in apps\nrun: core.echo\nwith: {value: \"{{ event.build.number }}\"}\n";

/// The callbacks of Jenkins' Notification plugin: all phases and statuses, in any order, doubled, with things missing.
#[test]
fn a_build_of_jenkins_is_followed_once_whatever_its_callbacks() {
    let server = server_with(&[
        ("rules/package.yaml", JENKINS_RULE),
        ("apps/shop.yaml", "owner: team-shop\nrepository: /srv/shop\n"),
    ]);
    let callback = |job: &str, number: u32, phase: &str, status: Option<&str>, more: Value| {
        let mut body = json!({
            "name": job, "display_name": job, "url": format!("job/{job}/"),
            "build": {"number": number, "queue_id": number + 100, "phase": phase, "url": format!("job/{job}/{number}/"),
                "full_url": format!("https://ci.example/job/{job}/{number}/"), "timestamp": 1_700_000_000_000_u64},
        });
        if let Some(status) = status {
            body["build"]["status"] = json!(status);
        }
        for (key, value) in more.as_object().unwrap() {
            body["build"][key] = value.clone();
        }
        body
    };
    let scm = || json!({"scm": {"url": "https://git.example/shop", "branch": "origin/main", "commit": "abc", "changes": [], "culprits": []}});
    let send = |body: &Value| {
        let bytes = body.to_string().into_bytes();
        // Its client says neither JSON nor UTF-8; the token stands in the address.
        let path = "jenkins?token=s3cret%20of+the%20sender";
        let answer =
            post(&server, path, &bytes, &[("Content-Type", "text/plain; charset=ISO-8859-1".to_owned())]);
        let answer = answer.send().unwrap();
        let code = answer.status().as_u16();
        assert!(matches!(code, 200 | 202), "{code} {body}: {:?}", answer.text());
        (code, event_of(answer))
    };
    let runs = |event: i64| routed(&server, event)["runs"].as_array().unwrap().len();
    let none = json!({});

    // A whole build, its first word without scm.
    for (phase, status) in [("QUEUED", None), ("STARTED", None), ("COMPLETED", Some("SUCCESS"))] {
        let (code, event) = send(&callback("shop", 1, phase, status, none.clone()));
        assert_eq!((code, runs(event)), (202, 0), "{phase}");
    }
    let (code, done) = send(&callback("shop", 1, "FINALIZED", Some("SUCCESS"), scm()));
    assert_eq!((code, runs(done)), (202, 1));
    assert_eq!(send(&callback("shop", 1, "FINALIZED", Some("SUCCESS"), scm())), (200, done), "doubled");
    // Out of order.
    let (_, event) = send(&callback("shop", 2, "FINALIZED", Some("SUCCESS"), scm()));
    assert_eq!(runs(event), 1);
    for phase in ["STARTED", "COMPLETED"] {
        let (code, event) = send(&callback("shop", 2, phase, Some("SUCCESS"), none.clone()));
        assert_eq!((code, runs(event)), (202, 0), "{phase} late");
    }
    // Old plugins.
    let (_, event) =
        send(&callback("shop", 3, "FINISHED", Some("SUCCESS"), json!({"artifacts": ["a", "b"]})));
    assert_eq!(runs(event), 1);
    // No success.
    for (number, status) in
        [Some("FAILURE"), Some("UNSTABLE"), Some("ABORTED"), Some("NOT_BUILT"), Some("BLABLA"), None]
            .into_iter()
            .enumerate()
    {
        let number = 10 + u32::try_from(number).unwrap();
        let (_, event) = send(&callback("shop", number, "FINALIZED", status, none.clone()));
        assert_eq!(runs(event), 0, "{status:?}");
    }
    // A job that is no app; one of the same name in another folder is another build.
    let (_, event) = send(&callback("other", 1, "FINALIZED", Some("SUCCESS"), scm()));
    assert_eq!(runs(event), 0);
    let elsewhere = json!({"full_url": "https://ci.example/job/team/job/shop/1/"});
    assert_eq!(send(&callback("shop", 1, "FINALIZED", Some("SUCCESS"), elsewhere)).0, 202);
    // What Jenkins does not know is missing.
    let bare = json!({"name": "shop", "build": {"number": 20, "phase": "FINALIZED", "status": "SUCCESS"}});
    let (_, event) = send(&bare);
    assert_eq!(runs(event), 1);
    // Two wait in the queue with the number of the next build.
    let queued = |queue: u32| callback("shop", 30, "QUEUED", None, json!({"queue_id": queue}));
    assert_eq!((send(&queued(1)).0, send(&queued(2)).0, send(&queued(1)).0), (202, 202, 200));
    let log = json!({"log": "x".repeat(2_000_000), "parameters": {"A": "b"}, "test_summary": {"total": 1}});
    let (_, event) = send(&callback("shop", 40, "FINALIZED", Some("SUCCESS"), log));
    assert_eq!(runs(event), 1);
    assert_eq!(status(post(&server, "jenkins?token=wrong", b"{}", &[])), 401);
    let client = client();
    let basic = client.post(format!("{}/hooks/jenkins", server.url())).basic_auth("jenkins", Some(SECRET));
    assert_eq!(status(basic.body(bare.to_string())), 200, "with basic authentication");
}

/// Bodies that nobody should send, and those of the wrong sender.
fn hostile() -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = [
        "",
        " ",
        "null",
        "true",
        "0",
        "-1",
        "1e400",
        "\"text\"",
        "[]",
        "{}",
        "[[]]",
        "{",
        "}",
        "{\"a\":}",
        "[1,]",
        "NaN",
        "{\"type\": []}",
        "{\"type\": {\"a\": 1}}",
        "{\"type\": \"\"}",
        "{\"type\": null}",
        "{\"type\": 7}",
        "{\"type\": \"a b,c\\u0000\\n\"}",
        "{\"type\": \"../../x\", \"id\": \"\"}",
        "{\"type\": \"x\", \"id\": {}}",
        "{\"type\": \"x\", \"id\": true}",
        "{\"command\": 1}",
        "{\"command\": null, \"event_id\": []}",
        "{\"type\": \"url_verification\"}",
        "{\"type\": \"url_verification\", \"challenge\": {\"a\": [1, 2]}}",
        "{\"name\": 1, \"build\": 2}",
        "{\"name\": \"x\", \"build\": {}}",
        "{\"name\": \"x\", \"build\": []}",
        "{\"name\": \"x\", \"build\": {\"phase\": null}}",
        "{\"name\": {}, \"build\": {\"phase\": \"QUEUED\", \"queue_id\": {}, \"number\": []}}",
        "{\"name\": \"\\n\", \"build\": {\"phase\": \"\\u0000\"}}",
        "{\"alerts\": null}",
        "{\"alerts\": {}}",
        "{\"alerts\": [1, null, []]}",
        "{\"alerts\": [{}]}",
        "{\"alerts\": []}",
        "{\"alerts\": [{\"status\": [], \"labels\": 1, \"fingerprint\": {}, \"startsAt\": null}]}",
        "{\"ref\": null, \"after\": [], \"repository\": 3}",
        "{\"ref\": \"{{ secret('x') }}\", \"after\": \"{% for\"}",
        "{\"object_attributes\": \"x\"}",
        "{\"a\": \"\\ud800\"}",
        "{\"a\": 1, \"a\": 2}",
        "\u{feff}{}",
        "<?xml version=\"1.0\"?><a/>",
        "payload=",
        "payload",
        "payload=%7B%7D",
        "payload=%7B%7D&payload=%7B%7D",
        "payload=%",
        "payload=%ff%fe",
        "=&=&&&==",
        "a=1&a=2&a=3",
        "command=&command=",
        "command=%00%01",
        "%00=%00",
        "a[b][c]=d",
        "type=url_verification&challenge=%3Cscript%3E",
    ]
    .into_iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    bodies.push(b"\xff\xfe\x00".to_vec());
    bodies.push(b"{\"a\": \"\xc3\x28\"}".to_vec());
    bodies.push("{}".encode_utf16().flat_map(u16::to_le_bytes).collect());
    bodies.push("[".repeat(200_000).into_bytes());
    for levels in [60, 64, 65, 100, 127, 128, 5_000] {
        bodies.push(format!("{}{}", "[".repeat(levels), "]".repeat(levels)).into_bytes());
        bodies.push(format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels)).into_bytes());
    }
    bodies.push(format!("[{}0]", "0,".repeat(1_100_000)).into_bytes());
    bodies.push(format!("{{\"{}\": 1}}", "k".repeat(300_000)).into_bytes());
    bodies.push("a=b&".repeat(20_000).into_bytes());
    bodies.push(format!("{{\"alerts\": [{}{{}}]}}", "{},".repeat(12_000)).into_bytes());
    bodies.push(
        format!(
            "{{\"name\": \"{0}\", \"type\": \"{0}\", \"id\": \"{0}\", \"build\": {{\"phase\": \"{0}\"}}}}",
            "n".repeat(5_000)
        )
        .into_bytes(),
    );
    bodies
}

#[test]
fn nothing_that_is_sent_anywhere_is_answered_with_a_5xx() {
    let server = server_with(&[]);
    let examples = SENDERS.map(|sender| example(sender).0.to_string().into_bytes());
    let mut bodies = hostile();
    bodies.extend(examples);
    let kinds = ["application/json", "application/x-www-form-urlencoded", "text/plain; charset=latin1"];
    let events: [&[(&'static str, &str)]; 4] = [
        &[],
        &[
            ("x-github-event", ""),
            ("x-gitlab-event", " Hook"),
            ("x-gitea-event", "."),
            ("x-event-key", ":"),
            ("idempotency-key", ""),
        ],
        &[
            ("x-github-event", "a b"),
            ("x-gitlab-event", "Push Hook, Tag Push Hook"),
            ("x-gitea-event", "{{ 7 }}"),
            ("x-event-key", "a:b:c:d"),
            ("x-gitea-delivery", "1"),
            ("x-github-delivery", "1"),
        ],
        &[
            ("x-github-event", "push"),
            ("x-gitlab-event", "Merge Request Hook"),
            ("x-forgejo-event", "pull_request"),
            ("x-event-key", "repo:push"),
            ("x-github-delivery", "2"),
            ("x-forgejo-delivery", "2"),
            ("x-request-id", "2"),
        ],
    ];
    let http = client();
    let mut sent = 0;
    for path in SENDERS.into_iter().chain(["alertmanager"]) {
        for (number, body) in bodies.iter().enumerate() {
            let (kind, more) = (kinds[number % kinds.len()], events[(number / kinds.len()) % events.len()]);
            let kinds = if body.len() < 1000 { &kinds[..] } else { &[kind][..] };
            for kind in kinds {
                let mut request = http
                    .post(format!("{}/hooks/{path}", server.url()))
                    .header("Content-Type", *kind)
                    .body(body.clone());
                for (name, value) in with_headers(proof(path, body), more) {
                    request = request.header(name, value);
                }
                let answer = request.send().unwrap();
                let code = answer.status().as_u16();
                let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
                assert!(code < 500, "{code} {path} {kind} {shown}: {:?}", answer.text());
                assert_ne!(code, 401, "{path} {shown}: it was proved");
                sent += 1;
            }
        }
    }
    assert!(sent > 1000, "{sent}");
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(server.get("/runs")["items"], json!([]), "no rule ships");
}
