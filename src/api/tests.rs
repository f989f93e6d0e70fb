//! The API over a real connection, with a store and an engine whose tasks do not run: what is stored is what it shows.

use std::collections::BTreeMap;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::json;
use sha2::Sha256;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::auth::Auth;
use crate::clock::Clock;
use crate::definitions::Files;
use crate::dispatch::local;
use crate::engine::{Engine, Loaded, Parts};
use crate::model::log::Stream;
use crate::model::{Actor, AttemptKey, RunId, Secret, Value};
use crate::secrets::Secrets;
use crate::store::{Artefacts, LogChunk, NewNode, Store};

const KEY: &str = "hush";
const SITE: [(&str, &str); 7] = [
    ("packs/github/pack.yaml", "description: For tests.\n"),
    (
        "packs/github/triggers/push.yaml",
        "description: A push.\npayload: {type: object, required: [ref], properties: {ref: {type: string}}}\n",
    ),
    ("packs/github/triggers/item.yaml", "description: One of many.\n"),
    (
        "packs/github/sources/webhook.yaml",
        "kind: webhook\npath: github/org\nverify: {hmac_sha256: {header: X-Hub-Signature-256, prefix: \"sha256=\", secret: github_webhook}}\ntrigger: \"github.{{ headers['x-github-event'] }}\"\ndedup: \"{{ headers['x-github-delivery'] }}\"\n",
    ),
    (
        "packs/github/sources/many.yaml",
        "kind: webhook\npath: many\nverify: none\neach: body.items\ntrigger: \"github.item\"\ndedup: \"{{ item.id }}\"\n",
    ),
    (
        "workflows/greet.yaml",
        "description: For tests.\ninput: {name: string}\nsteps:\n  - id: hello\n    sleep: 1h\n",
    ),
    ("rules/greet.yaml", "description: For tests.\ntrigger: github.push\nrun: site.greet\nwith: {name: x}\n"),
];

/// A server on a free port; it ends with the test.
struct Server {
    url: String,
    token: String,
    engine: Arc<Engine>,
    http: Client,
    _data: TempDir,
    _stop: DropGuard,
}

impl Server {
    async fn start() -> Server {
        rustls::crypto::ring::default_provider().install_default().ok();
        let data = tempfile::tempdir().unwrap();
        let clock = Clock::wall();
        let store = Store::open(&crate::store::Location::file(data.path().join("siskin.db")), clock.now())
            .await
            .unwrap();
        let secrets = Secrets::open(data.path(), store.clone()).await.unwrap();
        let auth = Auth::open(data.path(), store.clone(), clock.now()).await.unwrap();
        let texts: BTreeMap<_, Arc<[u8]>> =
            SITE.iter().map(|(path, text)| ((*path).to_owned(), Arc::from(text.as_bytes()))).collect();
        let files = Files { texts, ..Files::default() };
        let loaded = Loaded::from_files(&files, None, &store, clock.now()).await.unwrap();
        assert_eq!(loaded.mistakes.iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
        let (server_end, _worker_end) = local::pair();
        let engine = Engine::new(Parts {
            artefacts: Artefacts::in_folder(store.clone(), data.path().join("artefacts")),
            store,
            secrets,
            clock,
            public_url: "http://siskin.example".to_owned(),
            node: NewNode { boot: "test".to_owned(), place: "test".to_owned(), address: String::new() },
            orders: server_end.orders,
            workers: crate::engine::Workers::default(),
            loaded,
        });
        let stop = CancellationToken::new();
        let router = super::router(
            Arc::clone(&engine),
            Arc::new(auth),
            crate::sources::Sources::new(Arc::clone(&engine)),
            stop.clone(),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let closing = stop.clone();
        tokio::spawn(async move {
            axum::serve(listener, router).with_graceful_shutdown(closing.cancelled_owned()).await
        });
        let token = std::fs::read_to_string(data.path().join("admin.token")).unwrap().trim().to_owned();
        let http = Client::builder().no_proxy().build().unwrap();
        Server { url, token, engine, http, _data: data, _stop: stop.drop_guard() }
    }

    async fn with_secret() -> Server {
        let server = Server::start().await;
        let now = server.engine.clock().now();
        server
            .engine
            .secrets()
            .set("github_webhook", &Secret::new(KEY), &Actor::System, None, now)
            .await
            .unwrap();
        server
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.ask(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.json().await.unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        read(self.ask(Method::POST, path).json(body).send().await.unwrap()).await
    }

    /// A signed delivery.
    fn delivery(&self, id: &str, body: &[u8]) -> RequestBuilder {
        let mut mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap();
        mac.update(body);
        self.http
            .post(format!("{}/hooks/github/org", self.url))
            .header("X-GitHub-Event", "push")
            .header("x-github-delivery", id)
            .header("X-HUB-SIGNATURE-256", format!("sha256={}", hex::encode(mac.finalize().into_bytes())))
            .header("content-type", "application/json")
            .body(body.to_vec())
    }

    async fn events(&self) -> usize {
        self.get("/api/v1/events").await["items"].as_array().unwrap().len()
    }
}

async fn read(answer: Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let text = answer.text().await.unwrap();
    if status >= 400 {
        assert_eq!(kind.as_deref(), Some("application/problem+json"), "{status} {text}");
    }
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_opens_without_a_token() {
    let server = Server::start().await;
    for path in ["/api/v1/events", "/api/v1/secrets", "/api/v1/nothing", "/api/v1/stream"] {
        for token in [None, Some("ssk_wrong"), Some("")] {
            let mut request = server.http.get(format!("{}{path}", server.url));
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let answer = request.send().await.unwrap();
            assert!(answer.headers().contains_key("www-authenticate"), "{path}");
            assert_eq!(read(answer).await.0, 401, "{path}");
        }
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.http.get(format!("{}{path}", server.url)).send().await.unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_a_problem_too() {
    let server = Server::start().await;
    for (method, path, status) in [
        (Method::GET, "/api/v1/nothing", 404),
        (Method::GET, "/nothing", 404),
        (Method::GET, "/api/v1/runs/999", 404),
        (Method::GET, "/api/v1/runs/abc", 404),
        (Method::GET, "/api/v1/runs/99999999999999999999999", 404),
        (Method::GET, "/api/v1/events/-1", 404),
        (Method::GET, "/api/v1/rules/site.none", 404),
        (Method::GET, "/api/v1/runs/%ff", 404),
        (Method::DELETE, "/api/v1/events", 405),
        (Method::PUT, "/api/v1/runs/1/cancel", 405),
        (Method::GET, "/api/v1/runs?stauts=failed", 422),
        (Method::GET, "/api/v1/runs?status=none", 422),
        (Method::GET, "/api/v1/runs?limit=1000", 422),
        (Method::GET, "/hooks/none", 404),
        (Method::POST, "/hooks/", 404),
        (Method::GET, "/hooks/github/org", 405),
        (Method::GET, "/api/v1/runs/1/log", 404),
        (Method::POST, "/api/v1/approvals/1/approve", 404),
    ] {
        let answer = server.ask(method.clone(), path).send().await.unwrap();
        assert_eq!(read(answer).await.0, status, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_delivery_is_one_event_however_often_it_comes() {
    let server = Server::with_secret().await;
    let body = br#"{"ref": "refs/heads/$(reboot)\n"}"#;
    let (status, first) = read(server.delivery("d1", body).send().await.unwrap()).await;
    assert_eq!(status, 202, "{first}");
    assert_eq!(read(server.delivery("d1", body).send().await.unwrap()).await, (200, first.clone()));
    assert_eq!(read(server.delivery("d2", body).send().await.unwrap()).await.0, 202);
    assert_eq!(server.events().await, 2);
    let event = server.get(&format!("/api/v1/events/{}?why=site.greet", first["event"])).await;
    assert_eq!(event["trigger"], "github.push");
    assert_eq!(event["source"], "github.webhook");
    assert_eq!(event["payload"]["ref"], "refs/heads/$(reboot)\n");
    assert_eq!(event["matches"], json!([]));
    assert_eq!(event["why"]["result"], "matched");
    let health = server.get("/api/v1/sources/github.webhook").await["health"].clone();
    assert_eq!(
        (&health["accepted"], &health["known"], &health["problem"]),
        (&json!(2), &json!(1), &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_signed_is_no_event() {
    let server = Server::with_secret().await;
    let body = br#"{"ref": "r"}"#;
    let bare = || {
        server
            .http
            .post(format!("{}/hooks/github/org", server.url))
            .header("x-github-event", "push")
            .body(body.to_vec())
    };
    let signature = || {
        let request = server.delivery("d", body).build().unwrap();
        request.headers()["x-hub-signature-256"].to_str().unwrap().to_owned()
    };
    let wrong = signature().replace(['0', '1', '2'], "3");
    for request in [
        bare(),
        bare().header("x-hub-signature-256", wrong),
        bare().header("x-hub-signature", signature()),
        bare().header("x-hub-signature-256", signature()).header("x-hub-signature-256", signature()),
        server.delivery("d", body).body(r#"{"ref": "r" }"#),
        // Not even parsed: that it is no JSON is nobody's business.
        bare().body("{"),
    ] {
        assert_eq!(read(request.send().await.unwrap()).await.0, 401);
    }
    assert_eq!(server.events().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_secret_is_not_set_takes_nothing_and_says_so() {
    let server = Server::start().await;
    assert_eq!(read(server.delivery("d", b"{}").send().await.unwrap()).await.0, 401);
    let health = server.get("/api/v1/sources/github.webhook").await["health"].clone();
    assert!(health["problem"].as_str().unwrap().contains("siskin secret set github_webhook"), "{health}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_body_is_the_senders_mistake() {
    let server = Server::with_secret().await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let huge = format!("{{\"ref\": \"{}\"}}", "x".repeat(60 << 20));
    let form = "a=b".to_owned();
    for (body, kind, status) in [
        ("hello".to_owned(), "application/json", 400),
        (deep, "application/json", 422),
        (huge, "application/json", 413),
        (form.clone(), "application/x-www-form-urlencoded", 422),
        (form.clone(), "text/plain", 400),
        (form, "text/html", 415),
        ("{}".to_owned(), "application/json", 422),
        ("[]".to_owned(), "application/json", 422),
    ] {
        let request = server.delivery("d", body.as_bytes()).header("content-type", kind);
        // The header of `delivery` was a default; the later one counts.
        let mut request = request.build().unwrap();
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        let answer = server.http.execute(request).await.unwrap();
        assert_eq!(read(answer).await.0, status, "{kind} {}", &body[..body.len().min(20)]);
    }
    assert_eq!(server.events().await, 0);
    let mut request = server.delivery("d", b"payload=%7B%22ref%22%3A%22r%22%7D").build().unwrap();
    request.headers_mut().insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
    assert_eq!(read(server.http.execute(request).await.unwrap()).await.0, 202);
    let without_header = {
        let mut request = server.delivery("d", br#"{"ref": "r"}"#).build().unwrap();
        request.headers_mut().remove("x-github-event");
        server.http.execute(request).await.unwrap()
    };
    assert_eq!(read(without_header).await.0, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_delivery_may_hold_many_events() {
    let server = Server::start().await;
    let url = format!("{}/hooks/many", server.url);
    let send = async |items: Value| {
        read(server.http.post(&url).json(&json!({"items": items})).send().await.unwrap()).await
    };
    assert_eq!(send(json!([{"id": 1}, {"id": 2}])).await, (202, json!({"event": 1, "events": [1, 2]})));
    assert_eq!(send(json!([{"id": 2}, {"id": 3}])).await, (202, json!({"event": 2, "events": [2, 3]})));
    assert_eq!(send(json!([{"id": 3}])).await, (200, json!({"event": 3, "events": [3]})));
    assert_eq!(send(json!([])).await, (200, json!({"event": null, "events": []})));
    assert_eq!(send(json!([{"id": 4}, {}])).await.0, 422);
    assert_eq!(server.events().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_put_in_listed_and_replayed() {
    let server = Server::start().await;
    let send = json!({"trigger": "github.push", "payload": {"ref": "r"}, "dedup": "k"});
    let (status, answer) = server.post("/api/v1/events", &send).await;
    assert_eq!((status, &answer["event"]), (202, &json!(1)));
    assert_eq!(server.post("/api/v1/events", &send).await.0, 200);
    let keyed = async || {
        let body = json!({"trigger": "any.thing", "payload": [1]});
        let request = server.ask(Method::POST, "/api/v1/events").header("idempotency-key", "k").json(&body);
        read(request.send().await.unwrap()).await
    };
    assert_eq!(keyed().await, (202, json!({"event": 2})));
    assert_eq!(keyed().await, (200, json!({"event": 2})));
    assert_eq!(
        server.post("/api/v1/events/1/replay", &json!({})).await,
        (202, json!({"event": 3, "replay_of": 1}))
    );
    let (status, problem) = server.post("/api/v1/events", &json!({"triger": "a.b"})).await;
    assert_eq!(status, 422);
    assert!(problem["detail"].as_str().unwrap().contains("did you mean `trigger`"), "{problem}");
    assert_eq!(server.post("/api/v1/events", &json!({"trigger": "github.push", "payload": {}})).await.0, 422);
    let page = server.get("/api/v1/events?limit=2").await;
    let ids: Vec<&Value> = page["items"].as_array().unwrap().iter().map(|event| &event["id"]).collect();
    assert_eq!((ids, &page["next"]), (vec![&json!(3), &json!(2)], &json!("2")));
    let page = server.get("/api/v1/events?limit=2&cursor=2").await;
    assert_eq!((&page["items"][0]["id"], &page["next"]), (&json!(1), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_started_once_per_key_and_its_log_is_read_and_followed() {
    let server = Server::start().await;
    let start = async || {
        let body = json!({"run": "site.greet", "with": {"name": "x"}});
        let request = server.ask(Method::POST, "/api/v1/runs").header("idempotency-key", "k").json(&body);
        read(request.send().await.unwrap()).await
    };
    let (status, run) = start().await;
    assert_eq!((status, &run["id"], &run["workflow"]), (201, &json!(1), &json!("site.greet")));
    assert_eq!(start().await.1["id"], 1);
    assert_eq!(server.post("/api/v1/runs", &json!({"run": "site.gret"})).await.0, 404);
    assert_eq!(server.post("/api/v1/runs", &json!({"run": "site.greet", "with": {"nam": "x"}})).await.0, 422);
    assert_eq!(server.post("/api/v1/runs", &json!({"run": "site.greet", "with": []})).await.0, 422);
    let key = AttemptKey { run: RunId(1), step: "hello".to_owned(), visit: 1, item: None, number: 1 };
    let chunk = |bytes: &[u8]| LogChunk {
        key: key.clone(),
        stream: Stream::Stdout,
        at: server.engine.clock().now(),
        bytes: bytes.to_vec(),
    };
    let store = server.engine.store();
    store.append_log(vec![chunk(b"one\ntw"), chunk(b"o\nthr"), chunk(b"ee\n")]).await.unwrap();
    let text = server.ask(Method::GET, "/api/v1/runs/1/log").send().await.unwrap().text().await.unwrap();
    assert_eq!(text, "hello | one\nhello | two\nhello | three\n");
    let json = server.ask(Method::GET, "/api/v1/runs/1/log").header("accept", "application/x-ndjson");
    let json = json.send().await.unwrap().text().await.unwrap();
    assert_eq!(json.lines().count(), 3);
    let first: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["step"], &first["text"], &first["stream"]),
        (&json!("hello"), &json!("one"), &json!("stdout"))
    );
    // A reader that comes back goes on after the last line that it saw, also in the middle of a chunk.
    assert_eq!(followed(&server, None, 3).await, ["one 0.1", "two 0.2", "three 0.3"]);
    assert_eq!(followed(&server, Some("0.1"), 2).await, ["two 0.2", "three 0.3"]);
}

/// The first lines that a follower sees.
async fn followed(server: &Server, last: Option<&str>, count: usize) -> Vec<String> {
    let mut request = server.ask(Method::GET, "/api/v1/runs/1/log?follow=1");
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let mut answer = request.send().await.unwrap();
    let mut text = String::new();
    while text.matches("event: line").count() < count || !text.ends_with("\n\n") {
        text.push_str(std::str::from_utf8(&answer.chunk().await.unwrap().unwrap()).unwrap());
    }
    let blocks = text.split("\n\n").filter(|block| block.contains("event: line"));
    let field = |block: &str, name: &str| {
        block.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
    };
    blocks
        .map(|block| {
            let line: Value = serde_json::from_str(&field(block, "data:")).unwrap();
            format!("{} {}", line["text"].as_str().unwrap(), field(block, "id:"))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_switched_and_say_who_did_it() {
    let server = Server::start().await;
    let (status, rule) = server.post("/api/v1/rules/site.greet/disable", &json!({"why": "noisy"})).await;
    assert_eq!((status, &rule["enabled"], &rule["switched"]["by"]), (200, &json!(false), &json!("admin")));
    let (_, rule) = server.post("/api/v1/rules/site.greet/enable", &Value::Null).await;
    assert_eq!(rule["status"], 422, "null is no object");
    let (_, rule) = server.post("/api/v1/rules/site.greet/enable", &json!({})).await;
    assert_eq!((&rule["enabled"], &rule["switched"]), (&json!(true), &Value::Null));
    let audit = server.get("/api/v1/audit?subject=rule%20site.greet").await;
    let acts: Vec<&str> =
        audit["items"].as_array().unwrap().iter().map(|row| row["act"].as_str().unwrap()).collect();
    assert_eq!(acts, ["rule.enable", "rule.disable"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_compared_and_set() {
    let server = Server::start().await;
    let put =
        |value: i32| server.ask(Method::PUT, "/api/v1/kv/a/b").json(&json!({"value": value, "ttl": "1h"}));
    let first = put(1).header("if-none-match", "*").send().await.unwrap();
    let tag = first.headers()["etag"].clone();
    assert_eq!(read(first).await.0, 200);
    assert_eq!(read(put(2).header("if-none-match", "*").send().await.unwrap()).await.0, 412);
    assert_eq!(read(put(2).header("if-match", &tag).send().await.unwrap()).await.0, 200);
    assert_eq!(read(put(3).header("if-match", &tag).send().await.unwrap()).await.0, 412);
    assert_eq!(read(put(3).header("if-match", "x").send().await.unwrap()).await.0, 422);
    assert_eq!(server.get("/api/v1/kv/a/b").await["value"], 2);
    assert_eq!(server.get("/api/v1/kv?prefix=a/").await["items"][0]["key"], "a/b");
    let delete = || server.ask(Method::DELETE, "/api/v1/kv/a/b").send();
    assert_eq!(delete().await.unwrap().status(), 204);
    assert_eq!(read(delete().await.unwrap()).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_go_in_and_never_out() {
    let server = Server::start().await;
    let put = |name: &str, body: Value| {
        server.ask(Method::PUT, &format!("/api/v1/secrets/{name}")).json(&body).send()
    };
    assert_eq!(put("deploy_key", json!({"value": "canary-4711"})).await.unwrap().status(), 204);
    assert_eq!(read(put("deploy_key", json!({"value": ""})).await.unwrap()).await.0, 422);
    assert_eq!(read(put("Deploy Key", json!({"value": "x"})).await.unwrap()).await.0, 422);
    assert_eq!(server.get("/api/v1/secrets").await["items"][0]["name"], "deploy_key");
    assert_eq!(
        read(server.ask(Method::GET, "/api/v1/secrets/deploy_key").send().await.unwrap()).await.0,
        405
    );
    let audit = server.get("/api/v1/audit?act=secret.set").await;
    assert!(!audit.to_string().contains("canary-4711"));
    let delete = || server.ask(Method::DELETE, "/api/v1/secrets/deploy_key").send();
    assert_eq!(delete().await.unwrap().status(), 204);
    assert_eq!(read(delete().await.unwrap()).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_until_it_is_revoked_and_administers_only_with_the_role() {
    let server = Server::start().await;
    let (status, made) =
        server.post("/api/v1/tokens", &json!({"user": "alice", "roles": ["release-managers"]})).await;
    assert_eq!(status, 201);
    let token = made["token"].as_str().unwrap().to_owned();
    let as_alice = |method: Method, path: &str| {
        server.http.request(method, format!("{}{path}", server.url)).bearer_auth(&token)
    };
    assert_eq!(as_alice(Method::GET, "/api/v1/runs").send().await.unwrap().status(), 200);
    let set = as_alice(Method::PUT, "/api/v1/secrets/x").json(&json!({"value": "y"}));
    assert_eq!(read(set.send().await.unwrap()).await.0, 403);
    let more = as_alice(Method::POST, "/api/v1/tokens").json(&json!({"user": "root", "roles": ["admin"]}));
    assert_eq!(read(more.send().await.unwrap()).await.0, 403);
    let tokens = server.get("/api/v1/tokens").await;
    assert!(!tokens.to_string().contains(&token));
    let revoke = server.ask(Method::DELETE, &format!("/api/v1/tokens/{}", made["id"])).send().await.unwrap();
    assert_eq!(revoke.status(), 204);
    assert_eq!(read(as_alice(Method::GET, "/api/v1/runs").send().await.unwrap()).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_answered() {
    let server = Server::start().await;
    let body = json!({"trigger": "a.b", "payload": "x".repeat(8 << 20)});
    assert_eq!(server.post("/api/v1/events", &body).await.0, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_defined_is_shown() {
    let server = Server::start().await;
    let workflow = server.get("/api/v1/workflows/site.greet").await;
    assert_eq!(workflow["graph"][0]["does"], "sleep");
    assert_eq!(workflow["input"]["name"]["type"], "string");
    assert_eq!(server.get("/api/v1/triggers/github.push").await["payload"]["required"], json!(["ref"]));
    let source = server.get("/api/v1/sources/github.webhook").await;
    assert_eq!(source["url"], "http://siskin.example/hooks/github/org");
    assert_eq!(server.get("/api/v1/packs/site").await["rules"], json!(["site.greet"]));
    for list in [
        "actions",
        "workflows",
        "triggers",
        "sources",
        "packs",
        "rules",
        "apps",
        "users",
        "deployments",
        "hosts",
        "approvals",
    ] {
        assert!(server.get(&format!("/api/v1/{list}")).await["items"].is_array(), "{list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_leaves_the_connection_whole() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Server::start().await;
    let address = server.url.strip_prefix("http://").unwrap();
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    for _ in 0..3 {
        // The body comes after the answer could have been given.
        let head = b"POST /api/v1/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n";
        connection.write_all(head).await.unwrap();
        tokio::task::yield_now().await;
        connection.write_all(b"12345").await.unwrap();
        let mut answer = vec![0; 4096];
        let length = connection.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 401"));
    }
}
