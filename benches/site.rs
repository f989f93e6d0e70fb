//! The definitions that are measured, and the deliveries that start them.

use std::rc::Rc;

use serde_json::json;

use crate::sender::{self, Request};
use crate::stand::Stand;
use crate::support::server::{Server, github_signature};

const SECRET: &str = "kept between us";

/// What `events` are made of: the trigger is in a header, so one source serves all.
const FILES: [(&str, &str); 16] = [
    ("packs/load/pack.yaml", "description: What the benchmarks send.\n"),
    ("packs/load/triggers/seen.yaml", TRIGGER),
    ("packs/load/triggers/one.yaml", TRIGGER),
    ("packs/load/triggers/skip.yaml", TRIGGER),
    ("packs/load/triggers/approve.yaml", TRIGGER),
    ("packs/load/triggers/wait.yaml", TRIGGER),
    ("packs/load/triggers/never.yaml", TRIGGER),
    ("packs/load/triggers/queued.yaml", TRIGGER),
    (
        "packs/load/sources/one.yaml",
        "description: One event.\nkind: webhook\npath: one\nverify: {hmac_sha256: {header: X-Signature, prefix: \"sha256=\", secret: load}}\ntrigger: \"load.{{ headers['x-kind'] }}\"\ndedup: \"{{ headers['x-delivery'] }}\"\n",
    ),
    (
        "packs/load/sources/many.yaml",
        "description: An event for each item.\nkind: webhook\npath: many\nverify: none\ntrigger: \"load.{{ headers['x-kind'] }}\"\neach: body.items\n",
    ),
    ("workflows/one.yaml", "description: One step.\nsteps:\n  - id: work\n    run: core.noop\n"),
    (
        "workflows/skip.yaml",
        "description: Ends at once.\nsteps:\n  - id: work\n    run: core.noop\n    when: \"false\"\n",
    ),
    (
        "workflows/approve.yaml",
        "description: Asks.\nsteps:\n  - id: ask\n    approve: {ask: \"May it?\", of: [admin], timeout: 2d}\n",
    ),
    (
        "workflows/wait.yaml",
        "description: Waits.\nsteps:\n  - id: wait\n    wait_for: {trigger: load.never, timeout: 2d}\n",
    ),
    (
        "workflows/queued.yaml",
        "description: One at a time.\nconcurrency: {limit: 1}\nsteps:\n  - id: ask\n    approve: {ask: \"May it?\", of: [admin], timeout: 2d}\n",
    ),
    (
        "workflows/items.yaml",
        "description: Many items.\ninput: {n: integer}\nsteps:\n  - id: each\n    for_each: \"0..input.n\"\n    run: core.noop\n",
    ),
];
const TRIGGER: &str = "description: Something was sent.\npayload: {type: object}\n";

/// Of each trigger, what its rule starts.
const RULES: [&str; 5] = ["one", "skip", "approve", "wait", "queued"];

/// Starts a server with all of it.
pub(crate) fn start(stand: &Stand) -> Server {
    let rules: Vec<(String, String)> = RULES
        .iter()
        .map(|name| {
            let text = format!("description: Starts {name}.\ntrigger: load.{name}\nrun: site.{name}\n");
            (format!("rules/{name}.yaml"), text)
        })
        .collect();
    let mut files: Vec<(&str, &str)> = FILES.to_vec();
    files.extend(rules.iter().map(|(path, text)| (path.as_str(), text.as_str())));
    let ten = ten();
    files.push(("workflows/ten.yaml", &ten));
    let large = large_items();
    files.push(("workflows/large_items.yaml", &large));
    let server = stand.serve(&files);
    server.set_secret("load", SECRET);
    server
}

/// Ten steps, one after another.
fn ten() -> String {
    let steps: String =
        (1..=10).map(|number| format!("  - id: step_{number}\n    run: core.noop\n")).collect();
    format!("description: Ten steps.\nsteps:\n{steps}")
}

/// Items after a step with an output of 900 KB.
fn large_items() -> String {
    "description: Many items after a large output.\ninput: {n: integer}\nsteps:\n  - id: large\n    run: core.echo\n    with: {value: \"{{ 'x' * 900000 }}\"}\n  - id: each\n    for_each: \"0..input.n\"\n    run: core.noop\n".to_owned()
}

/// Whether this server can run it: what is not built yet is left out of the definitions, with its mistake.
pub(crate) fn has(server: &Server, workflow: &str) -> bool {
    server.ask("GET", &format!("/workflows/site.{workflow}"), None).0 == 200
}

/// The body that is sent: about what a push is, in bytes.
pub(crate) fn body() -> Vec<u8> {
    let commits: Vec<_> = (0..3)
        .map(|number| {
            json!({
                "id": format!("{number}f1c0ffee5a1e0fda7e0fbadc0dedecade000"),
                "message": "Keep what was said until it is done, and say so",
                "author": {"name": "Ana Finch", "email": "ana@example.org"},
                "modified": ["src/engine/driver.rs", "src/store/runs.rs"],
            })
        })
        .collect();
    let body = json!({
        "ref": "refs/heads/main",
        "after": "0f1c0ffee5a1e0fda7e0fbadc0dedecade000",
        "repository": {"name": "shop", "full_name": "acme/shop"},
        "pusher": {"name": "ana"},
        "commits": commits,
    });
    serde_json::to_vec(&body).unwrap()
}

/// Signed deliveries of a trigger, each with an id of its own. `of` tells those of one measurement from another's.
pub(crate) fn deliveries(kind: &'static str, of: &str) -> Rc<Request> {
    let body = body();
    let signature = github_signature(SECRET, &body);
    let of = of.to_owned();
    Rc::new(move |number| {
        let delivery = format!("{of}-{number}");
        let headers = [("X-Kind", kind), ("X-Delivery", &delivery), ("X-Signature", &signature)];
        sender::post("/hooks/one", &headers, &body)
    })
}

/// Has so many events come in, some hundred a delivery.
pub(crate) fn flood(server: &Server, kind: &str, count: usize) {
    const AT_ONCE: usize = 500;
    let http = crate::support::server::client();
    for begin in (0..count).step_by(AT_ONCE) {
        let items: Vec<_> =
            (begin..count.min(begin + AT_ONCE)).map(|number| json!({"number": number})).collect();
        let answer = http
            .post(format!("{}/hooks/many", server.url()))
            .header("Content-Type", "application/json")
            .header("X-Kind", kind)
            .body(json!({"items": items}).to_string())
            .send()
            .unwrap();
        assert_eq!(answer.status().as_u16(), 202, "{}", answer.text().unwrap());
    }
}
