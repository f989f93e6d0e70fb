//! `POST /hooks/github`: who is let in, what is understood, and what is kept.

use reqwest::blocking::{RequestBuilder, Response};
use serde_json::{Value, json};

use crate::support::server::{Server, client, github_signature};

const SECRET: &str = "It's a Secret to Everybody";

const ECHO: &str = "trigger: github.push\nwhen: event.ref.starts_with(\"refs/heads/\") && event.repository.name in apps\nrun: core.echo\nwith: {value: \"{{ event.ref }}\"}\n";
const SHOP: &str = "owner: team-shop\nrepository: /srv/shop\n";

fn server() -> Server {
    let server = Server::start(&[("rules/echo.yaml", ECHO), ("apps/shop.yaml", SHOP)]);
    server.set_secret("github_webhook", SECRET);
    server
}

fn push(git_ref: &str, repository: &str) -> Value {
    json!({"ref": git_ref, "after": "a".repeat(40), "repository": {"name": repository}, "pusher": {"name": "alice"}})
}

/// A delivery without a signature.
fn unsigned(server: &Server, delivery: &str, body: &[u8]) -> RequestBuilder {
    client()
        .post(format!("{}/hooks/github", server.url()))
        .header("Content-Type", "application/json")
        .header("X-GitHub-Event", "push")
        .header("X-GitHub-Delivery", delivery)
        .body(body.to_vec())
}

fn signed(server: &Server, delivery: &str, body: &[u8]) -> RequestBuilder {
    unsigned(server, delivery, body).header("X-Hub-Signature-256", github_signature(SECRET, body))
}

fn status(request: RequestBuilder) -> u16 {
    request.send().unwrap().status().as_u16()
}

fn event_of(response: Response) -> i64 {
    let said: Value = serde_json::from_str(&response.text().unwrap()).unwrap();
    said["event"].as_i64().unwrap()
}

fn routed(server: &Server, event: i64) -> Value {
    server.wait_for(&format!("/events/{event}"), |event| !event["routed_at"].is_null())
}

#[test]
fn who_did_not_sign_is_401_and_leaves_no_event() {
    let server = server();
    let body = push("refs/heads/main", "shop").to_string();
    let bytes = body.as_bytes();
    let right = github_signature(SECRET, bytes);
    let with = |signature: &str| unsigned(&server, "d", bytes).header("X-Hub-Signature-256", signature);
    assert_eq!(status(unsigned(&server, "d", bytes)), 401, "none");
    for wrong in [
        "",
        "sha256=",
        "sha256=00",
        &right["sha256=".len()..],
        &right[..right.len() - 2],
        &format!("{right}00"),
    ] {
        assert_eq!(status(with(wrong)), 401, "{wrong}");
    }
    assert_eq!(status(with(&format!("{right}, {right}"))), 401, "two in one");
    assert_eq!(status(with(&right).header("X-Hub-Signature-256", &right)), 401, "doubled");
    assert_eq!(status(unsigned(&server, "d", bytes).header("X-Hub-Signature", "sha1=00")), 401, "sha1");
    let written_again = serde_json::to_string_pretty(&push("refs/heads/main", "shop")).unwrap();
    let other = unsigned(&server, "d", written_again.as_bytes()).header("X-Hub-Signature-256", &right);
    assert_eq!(status(other), 401, "written again");
    assert_eq!(server.get("/events")["items"], json!([]));
}

#[test]
fn the_published_example_is_signed_and_then_is_no_json() {
    let server = server();
    let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let request = unsigned(&server, "d", b"Hello, World!").header("X-Hub-Signature-256", signature);
    assert_eq!(status(request), 400);
}

#[test]
fn without_its_secret_a_hook_lets_nobody_in_and_says_so() {
    let server = Server::start(&[]);
    let body = push("refs/heads/main", "shop").to_string();
    assert_eq!(status(signed(&server, "d", body.as_bytes())), 401);
    let problem = server.get("/sources/github.webhook")["health"]["problem"].to_string();
    assert!(problem.contains("siskin secret set github_webhook"), "{problem}");
}

#[test]
fn the_same_delivery_is_one_event_and_one_run_also_after_a_crash() {
    let mut server = server();
    let body = push("refs/heads/main", "shop").to_string();
    let first = signed(&server, "same", body.as_bytes()).send().unwrap();
    assert_eq!(first.status(), 202);
    let event = event_of(first);
    let again = signed(&server, "same", body.as_bytes()).send().unwrap();
    assert_eq!((again.status().as_u16(), event_of(again)), (200, event));
    server.kill();
    server.run();
    let again = signed(&server, "same", body.as_bytes()).send().unwrap();
    assert_eq!((again.status().as_u16(), event_of(again)), (200, event));
    assert_eq!(routed(&server, event)["runs"].as_array().unwrap().len(), 1);
    assert_eq!(server.get("/runs")["items"].as_array().unwrap().len(), 1);
}

#[test]
fn what_is_not_understood_gets_the_4xx_that_says_why() {
    let server = server();
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let good = push("refs/heads/main", "shop").to_string();
    let lone = r#"{"ref": "\ud800"}"#;
    let cases: [(&[u8], u16); 9] = [
        (b"hello", 400),
        (b"", 400),
        (deep.as_bytes(), 422),
        (b"{\"ref\": \"\xff\"}", 400),
        (b"\xef\xbb\xbf{}", 400),
        (b"{\"ref\": 1e999}", 400),
        (lone.as_bytes(), 400),
        (b"{\"ref\": 1, \"after\": \"a\", \"repository\": {\"name\": \"x\"}}", 422),
        (b"[]", 422),
    ];
    for (body, wanted) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(30)]);
        assert_eq!(status(signed(&server, &format!("d{shown}"), body)), wanted, "{shown}");
    }
    let large = vec![b'x'; 60_000_000];
    assert_eq!(status(signed(&server, "large", &large)), 413);
    let typed = |kind: &str, body: &[u8]| {
        let request = client().post(format!("{}/hooks/github", server.url()));
        let request = request.header("Content-Type", kind).header("X-GitHub-Event", "push");
        let request = request.header("X-GitHub-Delivery", kind).body(body.to_vec());
        status(request.header("X-Hub-Signature-256", github_signature(SECRET, body)))
    };
    assert_eq!(typed("text/plain", good.as_bytes()), 202);
    assert_eq!(typed("application/xml", good.as_bytes()), 415);
    assert_eq!(typed("application/json; charset=utf-16", good.as_bytes()), 415);
    assert_eq!(typed("application/x-www-form-urlencoded", b"body=%7B%7D"), 422);
    assert_eq!(typed("application/x-www-form-urlencoded", b"payload=%7B"), 400);
    assert_eq!(typed("application/x-www-form-urlencoded; charset=utf-8", b"payload=%7B%22ref%22%3A%22refs%2Fheads%2Fx%22%2C%22after%22%3A%22a%22%2C%22repository%22%3A%7B%22name%22%3A%22x%22%7D%7D"), 202);
    let packed = signed(&server, "gzip", good.as_bytes()).header("Content-Encoding", "gzip");
    assert_eq!(status(packed), 415);
    let event_header = |value: Option<&str>| {
        let request = client().post(format!("{}/hooks/github", server.url()));
        let request = request.header("X-GitHub-Delivery", "e").header("Content-Type", "application/json");
        let request = request.header("X-Hub-Signature-256", github_signature(SECRET, good.as_bytes()));
        let request = match value {
            Some(value) => request.header("X-GitHub-Event", value),
            None => request,
        };
        status(request.body(good.clone()))
    };
    assert_eq!(event_header(None), 422, "no event");
    assert_eq!(event_header(Some("")), 422, "an empty event");
    assert_eq!(
        status(signed(&server, "two", good.as_bytes()).header("X-GitHub-Event", "ping")),
        422,
        "two events"
    );
}

#[test]
fn an_event_that_nobody_declared_is_kept_and_meets_no_rule() {
    let server = server();
    let body = b"{\"action\": \"created\"}";
    let request = client().post(format!("{}/hooks/github", server.url()));
    let request = request.header("x-github-event", "star").header("x-github-delivery", "star");
    let request = request.header("x-hub-signature-256", github_signature(SECRET, body));
    let response = request.header("Content-Type", "application/json").body(body.to_vec()).send().unwrap();
    assert_eq!(response.status(), 202);
    let event = routed(&server, event_of(response));
    assert_eq!((&event["trigger"], &event["matches"]), (&json!("github.star"), &json!([])));
}

#[test]
fn names_from_outside_are_data_and_nothing_else() {
    let server = server();
    for (number, git_ref) in [
        "refs/heads/feature/a/b",
        "refs/heads/$(reboot)",
        "refs/heads/a\nb",
        "refs/heads/{{ 7 * 7 }}",
        "refs/heads/`id`; rm -rf /",
        "refs/heads/\u{0}",
        "refs/heads/\u{202e}😀",
    ]
    .into_iter()
    .enumerate()
    {
        let body = push(git_ref, "shop").to_string();
        let response = signed(&server, &format!("ref{number}"), body.as_bytes()).send().unwrap();
        let event = routed(&server, event_of(response));
        let run = server.wait_for_end(event["runs"][0].as_i64().unwrap());
        assert_eq!(run["output"]["value"], git_ref);
    }
    for (number, repository) in ["__proto__", "constructor", "Shop", "", "shop "].into_iter().enumerate() {
        let body = push("refs/heads/main", repository).to_string();
        let response = signed(&server, &format!("name{number}"), body.as_bytes()).send().unwrap();
        assert_eq!(routed(&server, event_of(response))["matches"], json!([]), "{repository}");
    }
    let body = push("refs/tags/v1", "shop").to_string();
    let response = signed(&server, "tag", body.as_bytes()).send().unwrap();
    assert_eq!(routed(&server, event_of(response))["matches"], json!([]));
}

#[test]
fn a_hook_takes_post_and_only_known_paths_are_hooks() {
    let server = server();
    let get = client().get(format!("{}/hooks/github", server.url())).send().unwrap();
    assert_eq!((get.status().as_u16(), get.headers()["allow"].to_str().unwrap()), (405, "POST"));
    for path in ["/hooks/nobody", "/hooks/", "/hooks/github/more", "/nothing"] {
        let answer = client().post(format!("{}{path}", server.url())).send().unwrap();
        assert_eq!(answer.status(), 404, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
}

#[test]
fn two_hundred_at_once_are_as_many_events_as_they_have_ids() {
    let server = server();
    let body = push("refs/heads/main", "other").to_string();
    let answers: Vec<(u16, i64)> = std::thread::scope(|threads| {
        let workers: Vec<_> = (0..8)
            .map(|_| {
                threads.spawn(|| {
                    let send = |id: i32| {
                        let answer = signed(&server, &format!("c{id}"), body.as_bytes()).send().unwrap();
                        (answer.status().as_u16(), event_of(answer))
                    };
                    (0..25).map(send).collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|(status, _)| *status == 202).count(), 25);
    let events: std::collections::BTreeSet<i64> = answers.iter().map(|(_, event)| *event).collect();
    assert_eq!(events.len(), 25);
}
