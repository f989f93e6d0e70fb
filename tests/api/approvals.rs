//! Who may decide, and how often.

use serde_json::{Value, json};

use crate::support::server::{Server, client};

const TWO: &str = "input: {author: string}
steps:
  - id: promote
    approve:
      ask: \"go {{ input.author }}?\"
      of: [release-managers, carol]
      count: 2
      distinct_from: [starter, \"{{ input.author }}\"]
      fields: {percent: {type: integer, min: 1, max: 100}}
output: {answer: \"{{ steps.promote.output }}\"}
";

/// A person with a token of their own.
struct Person<'a> {
    server: &'a Server,
    token: String,
}

impl Person<'_> {
    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = client().post(format!("{}/api/v1{path}", self.server.url())).bearer_auth(&self.token);
        let answer = request.json(body).send().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&answer.text().unwrap()).unwrap_or(Value::Null))
    }

    fn vote(&self, approval: i64, verb: &str, body: Value) -> u16 {
        self.post(&format!("/approvals/{approval}/{verb}"), &body).0
    }
}

fn person<'a>(server: &'a Server, name: &str, role: Option<&str>) -> Person<'a> {
    let mut arguments = vec!["token", "create", "--user", name];
    arguments.extend(role.iter().flat_map(|role| ["--role", role]));
    let created = server.cli(&arguments);
    assert!(created.status.success(), "{created:?}");
    Person { server, token: String::from_utf8(created.stdout).unwrap().trim().to_owned() }
}

fn asked(server: &Server, run: i64) -> i64 {
    let run = server.wait_for(&format!("/runs/{run}"), |run| !run["waits"][0]["approval"].is_null());
    run["waits"][0]["approval"].as_i64().unwrap()
}

#[test]
fn two_others_must_agree_each_once_and_only_those_who_were_asked() {
    let server = Server::start(&[("workflows/two.yaml", TWO)]);
    let manager = Some("release-managers");
    let (alice, bob, erin) = (
        person(&server, "alice", manager),
        person(&server, "bob", manager),
        person(&server, "erin", manager),
    );
    let (carol, dave) = (person(&server, "carol", None), person(&server, "dave", None));
    let (status, run) = alice.post("/runs", &json!({"run": "site.two", "with": {"author": "bob"}}));
    assert_eq!(status, 201);
    let run = run["id"].as_i64().unwrap();
    let approval = asked(&server, run);
    let yes = || json!({"answers": {"percent": 5}});
    assert_eq!(alice.vote(approval, "approve", yes()), 403, "the starter");
    assert_eq!(bob.vote(approval, "approve", yes()), 403, "the author");
    assert_eq!(dave.vote(approval, "approve", yes()), 403, "not asked");
    assert_eq!(dave.vote(approval, "approve", json!({})), 403, "not asked, whatever they answered");
    assert_eq!(dave.vote(approval, "reject", json!({})), 403);
    assert_eq!(erin.vote(approval, "approve", json!({})), 422, "an answer is missing");
    assert_eq!(erin.vote(approval, "approve", json!({"answers": {"percent": 0}})), 422);
    assert_eq!(erin.vote(approval, "approve", yes()), 200);
    assert_eq!(erin.vote(approval, "approve", yes()), 409, "one vote per person");
    assert_eq!(carol.vote(approval, "approve", json!({"answers": {"percent": 60}})), 200);
    assert_eq!(carol.vote(approval, "approve", yes()), 409, "decided");
    assert_eq!(carol.vote(approval, "approve", json!({})), 409, "decided, whatever they answer");
    assert_eq!(dave.vote(99, "approve", json!({})), 404);
    let run = server.wait_for_end(run);
    assert_eq!(run["status"], "succeeded");
    assert_eq!(run["output"]["answer"]["percent"], 60);
}

#[test]
fn one_no_ends_it_and_the_run_is_rejected() {
    let server = Server::start(&[("workflows/two.yaml", TWO)]);
    let erin = person(&server, "erin", Some("release-managers"));
    let run =
        server.post("/runs", &json!({"run": "site.two", "with": {"author": "bob"}}))["id"].as_i64().unwrap();
    let approval = asked(&server, run);
    assert_eq!(erin.vote(approval, "reject", json!({"comment": "not today"})), 200);
    let run = server.wait_for_end(run);
    assert_eq!((&run["status"], &run["error"]["kind"]), (&json!("rejected"), &json!("rejected")));
}

#[test]
fn of_many_clicks_at_once_one_counts() {
    let server = Server::start(&[(
        "workflows/one.yaml",
        "steps:\n  - id: p\n    approve: {ask: \"ok?\", of: [admin], distinct_from: none}\n",
    )]);
    let run = server.post("/runs", &json!({"run": "site.one"}))["id"].as_i64().unwrap();
    let path = format!("/approvals/{}/approve", asked(&server, run));
    let answers: Vec<u16> = std::thread::scope(|threads| {
        let clicks: Vec<_> =
            (0..6).map(|_| threads.spawn(|| server.ask("POST", &path, Some(&json!({}))).0)).collect();
        clicks.into_iter().map(|click| click.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 1, "{answers:?}");
    assert!(answers.iter().all(|status| [200, 409].contains(status)), "{answers:?}");
    assert_eq!(server.wait_for_end(run)["status"], "succeeded");
}
