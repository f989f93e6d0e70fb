//! Native actions of pack `core`.

use serde_json::json;
use siskin::model::desk::{Reply, Request};
use siskin::model::{ErrorKind, Span};

use super::bench::{Bench, attempt};

#[tokio::test(flavor = "multi_thread")]
async fn echo_gives_back_any_value_and_noop_nothing() {
    let mut bench = Bench::new();
    let value = json!({"value": {"{{ x }}": [1, null, "{{ y }}"]}});
    assert_eq!(*bench.done(attempt("native", "core.echo", value.clone())).await.output(), value);
    let mut bench = Bench::new();
    assert_eq!(*bench.done(attempt("native", "core.noop", json!({}))).await.output(), json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn fail_fails_with_its_message() {
    let seen = Bench::new().done(attempt("native", "core.fail", json!({"message": "as you wish"}))).await;
    assert_eq!((seen.kind(), seen.error().message.as_str()), (ErrorKind::Failed, "as you wish"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_named() {
    let seen = Bench::new().done(attempt("native", "core.nope", json!({}))).await;
    assert!(seen.error().message.contains("core.nope"), "{}", seen.error());
    let seen = Bench::new().done(attempt("pigeon", "core.nope", json!({}))).await;
    assert!(seen.error().message.contains("no runner `pigeon`; there are shell"), "{}", seen.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_asked_of_the_server() {
    let mut bench = Bench::new();
    bench.order(attempt("native", "core.kv_get", json!({"key": "a"})), &[]).await;
    let seen = bench
        .seen_answering(|request| {
            assert_eq!(request, Request::KvGet { key: "a".into() });
            Reply::Kv { value: Some(json!([1])), version: 3 }
        })
        .await;
    assert_eq!(*seen.output(), json!({"value": [1], "version": 3}));

    let mut bench = Bench::new();
    let input = json!({"key": "a", "value": "x", "ttl": "5m", "if_version": 0});
    bench.order(attempt("native", "core.kv_set", input), &[]).await;
    let seen = bench
        .seen_answering(|request| {
            let ttl = Some(Span::minutes(5));
            assert_eq!(
                request,
                Request::KvSet { key: "a".into(), value: json!("x"), ttl, if_version: Some(0) }
            );
            Reply::Refused { why: "`a` has version 2".into() }
        })
        .await;
    assert_eq!(seen.error().message, "`a` has version 2");
}
