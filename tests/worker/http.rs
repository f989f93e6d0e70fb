//! Runner `http`, against a server with faults.

use std::collections::HashMap;
use std::net::SocketAddr;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use axum::routing::{any, get, post};
use serde_json::{Value, json};
use siskin::model::{ErrorKind, Filled, Span};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::bench::{Bench, Seen, attempt, key};

async fn echo(
    Query(query): Query<HashMap<String, String>>,
    method: Method,
    headers: HeaderMap,
    body: String,
) -> impl IntoResponse {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (authorization, kind) = (header("authorization"), header("content-type"));
    let method = method.to_string();
    axum::Json(
        json!({"method": method, "query": query, "authorization": authorization, "type": kind, "body": body}),
    )
}

async fn endless() -> Body {
    let chunk = Bytes::from(vec![b'x'; 1 << 20]);
    Body::from_stream(futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone())))
}

async fn headers() -> impl IntoResponse {
    let mut headers = HeaderMap::new();
    headers.append("X-Two", "a".parse().unwrap());
    headers.append("X-Two", "b".parse().unwrap());
    (StatusCode::CREATED, headers, "made")
}

async fn server() -> SocketAddr {
    let app = Router::new()
        .route("/echo", any(echo))
        .route("/slow", get(std::future::pending::<()>))
        .route("/endless", get(endless))
        .route("/headers", post(headers))
        .route("/no-json", get(|| async { ([(header::CONTENT_TYPE, "application/json")], "<html>") }))
        .route("/text", get(|| async { ([(header::CONTENT_TYPE, "text/plain")], "{\"a\": 1}") }))
        .route("/broken", get(|| async { (StatusCode::INTERNAL_SERVER_ERROR, "no disk\n  left") }))
        .route("/moved", any(|| async { Redirect::to("/echo?moved=1") }))
        .route("/queued", post(|| async { (StatusCode::FOUND, [(header::LOCATION, "/queue/item/7")]) }))
        .route("/round", get(|| async { Redirect::to("/round") }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

async fn asked(mut parameters: Value) -> Seen {
    let address = server().await;
    let path = parameters["url"].as_str().unwrap();
    if path.starts_with('/') {
        parameters["url"] = json!(format!("http://{address}{path}"));
    }
    Bench::new().done(attempt("http", "core.http", parameters)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_status_headers_and_body() {
    let seen = asked(json!({"url": "/headers", "method": "post"})).await;
    let output = seen.output();
    assert_eq!((&output["status"], &output["body"]), (&json!(201), &json!("made")));
    assert_eq!(output["headers"]["x-two"], "a, b");
    let seen = asked(json!({"url": "/text"})).await;
    assert_eq!(seen.output()["body"], "{\"a\": 1}", "only what says that it is JSON is read as such");
}

#[tokio::test(flavor = "multi_thread")]
async fn query_auth_form_and_json_are_sent() {
    let seen = asked(json!({"url": "/echo?a=1", "query": {"b": "x&y"}, "auth": {"basic": ["u", "p"]}})).await;
    let body = &seen.output()["body"];
    assert_eq!(body["query"], json!({"a": "1", "b": "x&y"}));
    assert_eq!(body["authorization"], "Basic dTpw");
    let form =
        json!({"url": "/echo", "method": "POST", "form": {"a": [1, 2], "b": "ü "}, "auth": {"bearer": "t"}});
    let seen = asked(form).await;
    let body = &seen.output()["body"];
    assert_eq!(body["body"], "a=1&a=2&b=%C3%BC+");
    assert_eq!(
        (&body["authorization"], &body["type"]),
        (&json!("Bearer t"), &json!("application/x-www-form-urlencoded"))
    );
    let seen = asked(json!({"url": "/echo", "method": "PUT", "json": {"a": [1]}})).await;
    let body = &seen.output()["body"];
    assert_eq!((&body["body"], &body["type"]), (&json!("{\"a\":[1]}"), &json!("application/json")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_is_not_expected_fails_and_shows_the_beginning() {
    let seen = asked(json!({"url": "/broken"})).await;
    let message = &seen.error().message;
    assert!(message.contains("500 Internal Server Error: no disk left"), "{message}");
    let seen = asked(json!({"url": "/broken", "expect": [500]})).await;
    assert_eq!(seen.output()["status"], 500);
    assert!(asked(json!({"url": "/text", "expect": [404]})).await.error().message.contains("200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_for_reading_only() {
    let seen = asked(json!({"url": "/moved"})).await;
    assert_eq!(seen.output()["body"]["query"], json!({"moved": "1"}));
    assert!(
        asked(json!({"url": "/moved", "method": "POST", "json": 1})).await.error().message.contains("303")
    );
    let seen = asked(json!({"url": "/queued", "method": "POST", "expect": [201, 302]})).await;
    assert_eq!(seen.output()["headers"]["location"], "/queue/item/7");
    assert!(asked(json!({"url": "/round"})).await.error().message.contains("more than 5 redirects"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_json_is_said_to_be_wrong() {
    let seen = asked(json!({"url": "/no-json"})).await;
    assert!(seen.error().message.contains("says that it is JSON"), "{}", seen.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_answer_meets_its_limit() {
    let seen = asked(json!({"url": "/endless"})).await;
    assert_eq!(seen.kind(), ErrorKind::Limit, "{}", seen.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_times_out_and_can_be_cancelled() {
    let address = server().await;
    let slow = || attempt("http", "core.http", json!({"url": format!("http://{address}/slow")}));
    let mut attempt = slow();
    attempt.timeout = Span(200);
    assert_eq!(Bench::new().done(attempt).await.kind(), ErrorKind::TimedOut);
    let mut bench = Bench::new();
    bench.order(slow(), &[]).await;
    bench.grant().await;
    bench.cancel(&key(1)).await;
    assert_eq!(bench.seen().await.kind(), ErrorKind::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_reset_and_unknown_hosts_are_told_apart_and_nothing_secret_is_shown() {
    let refused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let seen = asked(json!({"url": format!("http://{refused}/path?token=geheim")})).await;
    let message = &seen.error().message;
    assert!(message.contains(&refused.to_string()) && message.contains("connection refused"), "{message}");
    assert!(!message.contains("geheim"), "{message}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let reset = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            drop(stream.read(&mut buffer).await);
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await);
        }
    });
    let seen = asked(json!({"url": format!("http://{reset}/")})).await;
    assert!(seen.error().message.contains("before the answer was complete"), "{}", seen.error());

    let seen = asked(json!({"url": "http://no-such-host.invalid/"})).await;
    assert!(seen.error().message.contains("name is not known"), "{}", seen.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_section_is_rendered_and_response_makes_the_output() {
    let address = server().await;
    let mut attempt = attempt("http", "jenkins.trigger_build", json!({}));
    attempt.input = Filled::Plain(json!({"job": "shop", "values": {"branch": "a b"}}));
    attempt.work.config = json!({"url": format!("http://{address}"), "user": "bot"});
    attempt.work.section = json!({
        "method": "POST", "url": "{{ config.url }}/echo?job={{ input.job }}", "form": "{{ input.values }}",
        "auth": {"basic": ["{{ config.user }}", "{{ secret('jenkins_token') }}"]}, "expect": [200],
    });
    attempt.work.output = json!({"sent": "{{ response.body.body }}", "length": "{{ response.headers['content-length'] }}",
        "authorization": "{{ response.body.authorization }}"});
    let seen = Bench::new().done_with(attempt, &[("jenkins_token", "geheim-123")]).await;
    assert_eq!(seen.output()["sent"], "branch=a+b");
    // base64 of `bot:geheim-123` comes back, and is masked.
    let authorization = seen.output()["authorization"].as_str().unwrap();
    assert!(authorization.contains("***") && !seen.everything().contains("Z2VoZWlt"), "{authorization}");
}
