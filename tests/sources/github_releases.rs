//! `github_releases`, with a stand-in built to the API's contract, faults included.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{payloads, start, wait_for_events, wait_for_health, wait_until_watching};
use crate::support::server::Server;

/// How an answer goes wrong.
#[derive(Clone, Copy)]
enum Fault {
    /// 500 with a page.
    Broken,
    /// The connection ends in the middle of the body.
    Cut,
    /// A page of something else in place of the list.
    Html,
    /// 403: the hour's requests are used up; they come again in so many seconds.
    UsedUp(i64),
    /// 429 with `Retry-After` in seconds.
    Later(i64),
}

#[derive(Default)]
struct Github {
    /// Newest first, as the API lists them.
    releases: Vec<Value>,
    faults: VecDeque<Fault>,
    /// `GET` line and `authorization` of each request, with the status of its answer.
    asked: Vec<(String, u16)>,
}

/// A stand-in, and its URL.
fn github() -> (Arc<Mutex<Github>>, String) {
    let state: Arc<Mutex<Github>> = Arc::default();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/api/v3", listener.local_addr().unwrap());
    let (shared, base) = (Arc::clone(&state), url.clone());
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            answer(&shared, &base, connection);
        }
    });
    (state, url)
}

fn answer(state: &Mutex<Github>, base: &str, mut connection: TcpStream) {
    let lines = BufReader::new(connection.try_clone().unwrap()).lines();
    let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let Some(first) = head.first() else { return };
    let header = |name: &str| {
        head.iter().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let mut state = state.lock().unwrap();
    let now = jiff::Timestamp::now();
    let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let mut headers = format!("Date: {date}\r\nConnection: close\r\n");
    let (status, mut body) = match state.faults.pop_front() {
        Some(Fault::Broken) => (500, "<h1>Unicorn!</h1>".to_owned()),
        Some(Fault::Html) => (200, "<html>a proxy's page</html>".to_owned()),
        Some(Fault::UsedUp(seconds)) => {
            let at = now.as_second() + seconds;
            headers.push_str(&format!("X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: {at}\r\n"));
            (403, json!({"message": "API rate limit exceeded for 127.0.0.1."}).to_string())
        }
        Some(Fault::Later(seconds)) => {
            headers.push_str(&format!("Retry-After: {seconds}\r\n"));
            (429, json!({"message": "You have exceeded a secondary rate limit."}).to_string())
        }
        fault => {
            let query = first.split_whitespace().nth(1).unwrap().split_once('?').unwrap().1;
            let number = |name: &str| {
                let pair = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
                pair.unwrap().parse::<usize>().unwrap()
            };
            let (per_page, page) = (number("per_page"), number("page"));
            let skipped = (page - 1) * per_page;
            let list: Vec<Value> = state.releases.iter().skip(skipped).take(per_page).cloned().collect();
            if state.releases.len() > skipped + per_page {
                let next = format!("{base}/repositories/1/releases?per_page={per_page}&page={}", page + 1);
                headers.push_str(&format!("Link: <{next}>; rel=\"next\", <{next}>; rel=\"last\"\r\n"));
            }
            let body = Value::Array(list).to_string();
            let tag = format!("W/\"{}\"", hex::encode(Sha256::digest(&body)));
            headers.push_str(&format!("ETag: {tag}\r\n"));
            match (fault, header("if-none-match") == Some(tag)) {
                (Some(Fault::Cut), _) => {
                    let length = body.len() + 100;
                    let text = format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
                    connection.write_all(text.as_bytes()).ok();
                    return;
                }
                (_, true) => (304, String::new()),
                _ => (200, body),
            }
        }
    };
    if !first.starts_with("GET /api/v3/repos/acme/shop/releases?") {
        body = json!({"message": "Not Found"}).to_string();
    }
    let status = if body == r#"{"message":"Not Found"}"# { 404 } else { status };
    let asked = format!("{first} {}", header("authorization").unwrap_or_default());
    state.asked.push((asked, status));
    let text = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
    connection.write_all(text.as_bytes()).ok();
}

fn release(id: u64, tag: &str, kind: &str) -> Value {
    json!({
        "id": id,
        "tag_name": tag,
        "name": null,
        "draft": kind == "draft",
        "prerelease": kind == "prerelease",
        "target_commitish": "main",
        "created_at": "2026-11-20T10:00:00Z",
        "published_at": if kind == "draft" { Value::Null } else { json!(format!("2026-11-20T10:{:02}:00Z", id % 60)) },
        "html_url": format!("https://github.example/acme/shop/releases/tag/{tag}"),
        "author": {"login": "ana"},
        "body": "Notes.",
        "assets": [{"id": id, "name": "shop.deb", "browser_download_url": "https://github.example/shop.deb", "size": 10,
            "content_type": "application/x-debian-package"}],
    })
}

fn source(url: &str) -> String {
    format!("kind: github_releases\ntrigger: release\nrepository: acme/shop\napi: {url}\nevery: 1s\n")
}

/// `CHANGE TAG`.
fn changes(payloads: &[Value]) -> Vec<String> {
    let text = |payload: &Value, key: &str| payload[key].as_str().unwrap().to_owned();
    payloads.iter().map(|payload| format!("{} {}", text(payload, "change"), text(payload, "tag"))).collect()
}

fn publish(github: &Mutex<Github>, release: Value) {
    github.lock().unwrap().releases.insert(0, release);
}

fn turn(github: &Mutex<Github>, id: u64, kind: &str) {
    let mut github = github.lock().unwrap();
    let found = github.releases.iter_mut().find(|release| release["id"] == id).unwrap();
    *found = release(id, found["tag_name"].as_str().unwrap(), kind);
}

#[test]
fn releases_and_turned_pre_releases_are_events_once_and_drafts_are_none() {
    let (github, url) = github();
    publish(&github, release(1, "release-1", "release"));
    publish(&github, release(2, "release-2", "prerelease"));
    publish(&github, release(3, "release-3", "draft"));
    let mut server = start(&[("sources/shop.yaml", &format!("{}secret: github\n", source(&url)))]);
    server.set_secret("github", "gh-t0ken");
    wait_until_watching(&server, "site.shop");
    publish(&github, release(4, "release-4", "prerelease"));
    let seen = wait_for_events(&server, "site.shop", 1);
    assert_eq!(changes(&seen), ["published release-4"]);
    assert_eq!((&seen[0]["prerelease"], &seen[0]["assets"][0]["name"]), (&json!(true), &json!("shop.deb")));
    assert_eq!((&seen[0]["author"], &seen[0]["repository"]), (&json!("ana"), &json!("acme/shop")));
    turn(&github, 2, "release");
    assert_eq!(changes(&wait_for_events(&server, "site.shop", 2))[1], "released release-2");
    server.kill();
    turn(&github, 3, "release");
    turn(&github, 4, "release");
    publish(&github, release(5, "release-5", "release"));
    server.run();
    let seen = changes(&wait_for_events(&server, "site.shop", 5));
    assert_eq!(seen[2..], ["published release-3", "released release-4", "published release-5"]);
    // What did not change costs nothing, and the token goes with every request.
    wait_for_answers(&github, &server, 304);
    let asked = github.lock().unwrap().asked.clone();
    assert!(asked.iter().all(|(head, _)| head.ends_with("Bearer gh-t0ken")), "{asked:?}");
    assert_eq!(payloads(&server, "site.shop").len(), 5);
    assert!(!server.log().contains("gh-t0ken"));
}

/// Waits until the stand-in answered so.
fn wait_for_answers(github: &Mutex<Github>, server: &Server, status: u16) {
    github.lock().unwrap().asked.clear();
    let is_answered = || github.lock().unwrap().asked.iter().any(|(_, answered)| *answered == status);
    server.wait_for("/sources/site.shop", |_| is_answered());
}

#[test]
fn every_page_is_read_and_asked_for_again_only_when_it_changed() {
    let (github, url) = github();
    for id in 1..=250 {
        publish(&github, release(id, &format!("v{id}"), if id == 7 { "prerelease" } else { "release" }));
    }
    let server = start(&[("sources/shop.yaml", &source(&url))]);
    wait_until_watching(&server, "site.shop");
    // The one that turns is on the third page.
    turn(&github, 7, "release");
    assert_eq!(changes(&wait_for_events(&server, "site.shop", 1)), ["released v7"]);
    // Later than the first of the batch by time, and told in that order.
    publish(&github, release(252, "v252", "release"));
    publish(&github, release(251, "v251", "release"));
    let seen = changes(&wait_for_events(&server, "site.shop", 3));
    let mut last = seen[1..].to_vec();
    last.sort();
    assert_eq!(last, ["published v251", "published v252"]);
    wait_for_answers(&github, &server, 304);
    assert_eq!(payloads(&server, "site.shop").len(), 3);
}

#[test]
fn faults_of_the_api_are_said_and_lose_nothing() {
    let (github, url) = github();
    publish(&github, release(1, "v1", "release"));
    let server = start(&[("sources/shop.yaml", &source(&url))]);
    wait_until_watching(&server, "site.shop");
    for (id, fault, part) in [
        (2, Fault::Broken, "answered 500"),
        (3, Fault::Cut, "can't be asked"),
        (4, Fault::Html, "no list of releases"),
        (5, Fault::UsedUp(3), "wants to be asked less often (403 Forbidden: API rate limit exceeded"),
        (6, Fault::Later(2), "wants to be asked less often (429"),
    ] {
        {
            let mut github = github.lock().unwrap();
            github.faults.push_back(fault);
            github.releases.insert(0, release(id, &format!("v{id}"), "release"));
            github.asked.clear();
        }
        let said = |health: &Value| health["problem"].as_str().is_some_and(|problem| problem.contains(part));
        let health = wait_for_health(&server, "site.shop", said);
        assert!(health["next_try_at"].is_string(), "{health}");
        let seen = wait_for_events(&server, "site.shop", usize::try_from(id).unwrap() - 1);
        assert_eq!(changes(&seen).last().unwrap(), &format!("published v{id}"));
        wait_for_health(&server, "site.shop", |health| health["problem"].is_null());
    }
    assert_eq!(payloads(&server, "site.shop").len(), 5);
}

#[test]
fn a_limit_is_waited_for_and_a_repository_that_is_not_there_is_said() {
    let ((limited, url), (_open, other)) = (github(), github());
    limited.lock().unwrap().faults.push_back(Fault::UsedUp(600));
    let server = start(&[
        ("sources/shop.yaml", &source(&url)),
        ("sources/none.yaml", &source(&other).replace("acme/shop", "acme/none")),
    ]);
    let said = |part: &'static str| {
        move |health: &Value| health["problem"].as_str().is_some_and(|problem| problem.contains(part))
    };
    wait_for_health(&server, "site.shop", said("less often"));
    wait_for_health(&server, "site.none", said("there is no such repository"));
    assert_eq!(limited.lock().unwrap().asked.len(), 1);
}
