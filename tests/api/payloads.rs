//! Payloads of many senders and versions, known and unknown, go to every webhook that ships: each is taken or refused, none is answered with a 5xx, and the
//! server goes on.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::senders::{SENDERS, payloads, proof, server_with, with_headers};
use crate::support::server::{Server, client};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// Every webhook that ships.
fn hooks() -> Vec<&'static str> {
    SENDERS.into_iter().chain(["alertmanager"]).collect()
}

/// A body, its type, and the header that names the event.
type Sent = (Vec<u8>, &'static str, Option<(&'static str, &'static str)>);

/// What else is sent about in the world.
fn others() -> Vec<Sent> {
    let json = |value: Value| (value.to_string().into_bytes(), JSON, None);
    let text = |text: &str, kind: &'static str| (text.as_bytes().to_vec(), kind, None);
    let named = |value: Value, name: &'static str, event: &'static str| {
        (value.to_string().into_bytes(), JSON, Some((name, event)))
    };
    let alert = json!({"status": "firing", "labels": {"alertname": "Down", "app": "shop"}, "annotations": {}, "startsAt": "2026-11-20T10:00:00Z", "endsAt": "0001-01-01T00:00:00Z", "generatorURL": "", "fingerprint": "ab12"});
    vec![
        // Alertmanager, now and before; what calls itself so.
        json(
            json!({"version": "4", "groupKey": "{}:{}", "truncatedAlerts": 0, "status": "firing", "receiver": "r", "groupLabels": {}, "commonLabels": {}, "commonAnnotations": {}, "externalURL": "", "alerts": [alert]}),
        ),
        json(json!({"version": "3", "status": "resolved", "alert": [alert], "alerts": null})),
        json(json!({"version": "4", "alerts": []})),
        json(json!({"version": "4", "alerts": {"not": "a list"}})),
        json(
            json!({"receiver": "grafana", "orgId": 1, "alerts": [{"values": {"A": 1.5}, "silenceURL": "u"}, 3, null, "x", []]}),
        ),
        // GitHub as a form, from an enterprise server, as an app, with nothing in it.
        text(
            "payload=%7B%22ref%22%3A%22refs%2Fheads%2Fmain%22%2C%22after%22%3A%223f1c%22%2C%22repository%22%3A%7B%22name%22%3A%22shop%22%7D%7D",
            FORM,
        ),
        text("payload=", FORM),
        text("payload=%7B&payload=%7B%7D", FORM),
        named(
            json!({"enterprise": {"slug": "e"}, "installation": {"id": 1}, "action": "created"}),
            "X-GitHub-Event",
            "installation",
        ),
        named(json!({}), "X-GitHub-Event", "push"),
        named(json!({"ref": null, "after": 3, "repository": "shop"}), "X-GitHub-Event", "push"),
        named(json!({"x": 1}), "X-GitHub-Event", "../../etc/passwd"),
        named(json!({"x": 1}), "X-GitHub-Event", "{{ config }}"),
        named(json!({"x": 1}), "X-GitHub-Event", ""),
        // Gogs and the first Gitea; Forgejo; GitLab's system hooks and its newest.
        named(json!({"secret": "", "ref": "refs/heads/main", "commits": []}), "X-Gogs-Event", "push"),
        named(
            json!({"ref": "refs/heads/main", "after": "a", "repository": {"full_name": "a/b"}}),
            "X-Forgejo-Event",
            "push",
        ),
        named(json!({"event_name": "user_create", "email": "a@b"}), "X-Gitlab-Event", "System Hook"),
        named(json!({"object_kind": "emoji", "event_type": "award"}), "X-Gitlab-Event", "Emoji Hook"),
        named(json!({"object_kind": "push", "ref": 1}), "X-Gitlab-Event", "Push Hook"),
        // Bitbucket's server and cloud, with and without.
        named(
            json!({"eventKey": "pr:opened", "pullRequest": {"id": 1, "fromRef": null}}),
            "X-Event-Key",
            "pr:opened",
        ),
        named(json!({"push": {"changes": null}}), "X-Event-Key", "repo:push"),
        // Jenkins, each phase, with what old versions leave out.
        json(
            json!({"name": "shop", "url": "job/shop/", "build": {"full_url": "http://j/1/", "number": 1, "queue_id": 3, "phase": "QUEUED", "url": "job/shop/1/", "scm": {}, "log": "", "artifacts": {}}}),
        ),
        json(
            json!({"name": "shop", "build": {"number": "1", "phase": "COMPLETED", "status": "UNSTABLE", "parameters": {"branch": "main"}}}),
        ),
        json(
            json!({"name": "shop", "build": {"number": 1, "phase": "FINALIZED", "status": "NOT_BUILT", "scm": {"commit": null, "branch": "origin/main"}, "artifacts": {"a.deb": {"archive": "u"}}}}),
        ),
        json(json!({"build": {}})),
        json(json!({"name": null, "build": null})),
        // CircleCI's old form, Slack's many.
        json(json!({"payload": {"vcs_url": "u", "build_num": 1, "outcome": "success"}})),
        json(json!({"type": "url_verification", "challenge": "c", "token": "t"})),
        json(json!({"type": "url_verification"})),
        json(
            json!({"type": "event_callback", "event_id": "Ev1", "event": {"type": "app_mention", "text": "<@U1> deploy shop"}}),
        ),
        json(json!({"type": "event_callback", "event": []})),
        text(
            "token=t&team_id=T1&command=%2Fdeploy&text=shop+1.4.2&response_url=https%3A%2F%2Fx&trigger_id=1.2",
            FORM,
        ),
        text("payload=%7B%22type%22%3A%22block_actions%22%2C%22actions%22%3A%5B%5D%7D", FORM),
        // Senders that nobody told us of.
        json(
            json!({"specversion": "1.0", "type": "com.example.x", "source": "/s", "id": "1", "data": {"a": [1, 2]}}),
        ),
        text(
            "{\"Type\":\"Notification\",\"Message\":\"{}\",\"TopicArn\":\"arn\"}",
            "text/plain; charset=UTF-8",
        ),
        json(
            json!({"callback_url": "https://registry", "push_data": {"tag": "latest"}, "repository": {"repo_name": "a/b"}}),
        ),
        json(
            json!({"type": "PUSH_ARTIFACT", "occur_at": 1, "event_data": {"resources": [{"digest": "sha256:0"}]}}),
        ),
        json(json!({"messages": [{"event": "incident.trigger", "incident": {"id": "P"}}]})),
        json(json!({"id": "evt_1", "object": "event", "livemode": false, "data": {"object": {}}})),
        json(json!({"subscriptionId": "s", "eventType": "git.push", "resource": {"refUpdates": []}})),
        text("<?xml version=\"1.0\"?><event/>", "application/xml"),
        (vec![0x81, 0xa1, 0x61, 0x01, 0xff, 0xfe, 0x00], "application/msgpack", None),
        (vec![0xff; 300], JSON, None),
        text("", JSON),
        text("   ", JSON),
        text("null", JSON),
        text("true", JSON),
        text("-0", JSON),
        text("1e400", JSON),
        text("\"text\"", JSON),
        text("[]", JSON),
        text("{\"a\":1,\"a\":2}", JSON),
        text("{\"a\":1}{\"b\":2}", JSON),
        text("\u{feff}{\"a\":1}", JSON),
        text("{\"\\u0000\":\"\\ud83d\"}", JSON),
        text(&format!("{}{}", "[".repeat(500), "]".repeat(500)), JSON),
        text(&format!("{{\"name\":\"{}\"}}", "x".repeat(300_000)), JSON),
        text(&"&".repeat(5000), FORM),
        text("%", FORM),
        text("{}", "application/vnd.github.v3+json"),
        text("{}", "multipart/form-data; boundary=x"),
        text("{}", "nonsense"),
    ]
}

/// A payload of every sender, in bytes.
fn bodies() -> Vec<Sent> {
    let known = payloads()
        .into_iter()
        .map(|((_, named), payload, _)| (payload.to_string().into_bytes(), JSON, named.first().copied()));
    known.chain(others()).collect()
}

struct Post<'a> {
    server: &'a Server,
    http: reqwest::blocking::Client,
    url: String,
}

impl Post<'_> {
    fn new(server: &Server) -> Post<'_> {
        Post { server, http: client(), url: server.url() }
    }

    /// With the proof that this hook wants, so that the body is looked at.
    fn send(&self, hook: &str, body: &[u8], kind: &str, named: Option<(&'static str, &'static str)>) -> u16 {
        let named: Vec<_> = named.into_iter().collect();
        let headers = with_headers(proof(hook, body), &named);
        let mut request = self
            .http
            .post(format!("{}/hooks/{hook}", self.url))
            .header("Content-Type", kind)
            .body(body.to_vec());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        let answer = request.send().unwrap_or_else(|error| panic!("{hook} broke off at {shown}: {error}"));
        let status = answer.status().as_u16();
        assert!(status < 500, "{hook} answers {status} to {kind} {named:?} {shown}\n{}", self.server.log());
        status
    }

    fn is_well(&self) {
        assert_eq!(self.http.get(format!("{}/readyz", self.url)).send().unwrap().status(), 200);
        assert!(!self.server.log().contains("panicked"), "{}", self.server.log());
    }
}

#[test]
fn payloads_of_all_senders_may_go_to_every_hook() {
    let server = server_with(&[(
        "rules/all.yaml",
        "trigger: [github.push, gitlab.push, alertmanager.alert, jenkins.build]\nwhen: event?.ref == \"x\"\nrun: core.noop\n",
    )]);
    let post = Post::new(&server);
    let (mut taken, mut refused) = (0, 0);
    for (body, kind, named) in &bodies() {
        for hook in hooks() {
            match post.send(hook, body, kind, *named) {
                200..=299 => taken += 1,
                400 | 401 | 413 | 415 | 422 => refused += 1,
                other => panic!("{hook} answers {other}"),
            }
        }
    }
    assert!(taken > 100 && refused > 100, "{taken} {refused}");
    post.is_well();
}

/// A value as some sender might come to send it in its next version.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        ".{0,20}".prop_map(Value::from),
        prop::sample::select(vec!["", "{{ 7 * 7 }}", "\u{0}", "../x", "a,b", "0", "github.push"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((".{0,8}", inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

/// Puts `new` in place of one of the values inside.
fn replace(value: &mut Value, which: &mut usize, new: &Value) {
    if *which == 0 {
        *value = new.clone();
        *which = usize::MAX;
        return;
    }
    *which -= 1;
    let inner: Vec<&mut Value> = match value {
        Value::Object(entries) => entries.values_mut().collect(),
        Value::Array(items) => items.iter_mut().collect(),
        _ => Vec::new(),
    };
    for value in inner {
        if *which == usize::MAX {
            return;
        }
        replace(value, which, new);
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Object(entries) => entries.values().map(count).sum::<usize>(),
        Value::Array(items) => items.iter().map(count).sum(),
        _ => 0,
    }
}

#[test]
fn a_payload_that_is_not_quite_as_it_was_is_taken_or_refused() {
    let server = server_with(&[]);
    let post = Post::new(&server);
    let known: Vec<_> = bodies()
        .into_iter()
        .filter_map(|(body, kind, named)| Some((serde_json::from_slice::<Value>(&body).ok()?, kind, named)))
        .collect();
    let mut runner = TestRunner::deterministic();
    let strategy = (
        0..known.len(),
        prop::collection::vec((any::<usize>(), any_value()), 1..4),
        any::<usize>(),
        any::<bool>(),
    );
    for _ in 0..400 {
        let (index, changes, hook, is_cut) = strategy.new_tree(&mut runner).unwrap().current();
        let (mut payload, kind, named) = known[index].clone();
        for (which, new) in changes {
            let mut which = which % count(&payload);
            replace(&mut payload, &mut which, &new);
        }
        let mut body = payload.to_string().into_bytes();
        if is_cut && hook % 5 == 0 {
            body.truncate(body.len() / 2);
        }
        // To whom it belongs as often as to another.
        let hooks = hooks();
        let hook = match named {
            Some((name, _)) if is_cut => {
                hooks.iter().find(|hook| name.to_lowercase().contains(**hook)).copied()
            }
            _ => None,
        }
        .unwrap_or(hooks[hook % hooks.len()]);
        post.send(hook, &body, kind, named);
    }
    post.is_well();
}
