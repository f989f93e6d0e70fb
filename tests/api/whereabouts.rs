//! What is where, and how it came there: on private dpkg roots, from a repository that was really published.

use serde_json::{Value, json};

use super::way_back::World;

impl World {
    /// An event whose rule deploys; the run, when it has ended.
    fn event(&self, version: &str, environment: &str, commits: &[&str]) -> Value {
        let told: Vec<Value> = commits
            .iter()
            .map(|commit| json!({"id": commit, "message": format!("say {commit}\n\nmore")}))
            .collect();
        let payload = json!({"version": version, "environment": environment, "commit": commits.last(), "commits": told});
        let sent = self.server.post("/events", &json!({"trigger": "site.go", "payload": payload}));
        let event =
            self.server.wait_for(&format!("/events/{}", sent["event"]), |event| event["runs"] != json!([]));
        self.server.wait_for_end(event["runs"][0].as_i64().unwrap())
    }

    fn says(&self, args: &[&str]) -> String {
        let output = self.server.cli(args);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }
}

#[test]
fn why_a_host_holds_what_it_holds_is_known_back_to_the_event() {
    let world = World::new();
    let first = world.event("1.0", "production", &["aaaa1111"]);
    assert_eq!(first["status"], "succeeded", "{first}");
    assert_eq!(world.event("3.0", "production", &["cccc3333"])["status"], "failed");

    let hosts = world.server.get("/hosts?app=shop")["items"].clone();
    let names: Vec<&str> =
        hosts.as_array().unwrap().iter().map(|host| host["host"].as_str().unwrap()).collect();
    assert_eq!(names, ["c1", "h1", "h2"]);
    let h2 = world.server.get("/hosts/h2")["holds"][0].clone();
    assert_eq!((&h2["held"], &h2["state"]), (&json!("1.0"), &json!("untouched")));
    assert_eq!((&h2["run"], &h2["step"], &h2["event"]), (&first["id"], &json!("roll"), &first["event"]));
    assert_eq!((&h2["rule"], &h2["by"]), (&json!("site.on_go"), &json!("rule site.on_go")));
    let h1 = world.server.get("/hosts/h1")["holds"].clone();
    let on = |holds: &Value, environment: &str| {
        holds.as_array().unwrap().iter().find(|held| held["environment"] == environment).unwrap().clone()
    };
    let failed = on(&h1, "production");
    assert_eq!(
        (&failed["state"], &failed["held"], &failed["wanted"]),
        (&json!("failed"), &Value::Null, &json!("1.0"))
    );
    assert!(failed["why"].as_str().unwrap().contains("it may hold 1.0 or 3.0"), "{failed}");
    assert_eq!(on(&h1, "empty")["why"], "nothing was deployed to empty yet");

    let why = world.says(&["why", "h2"]);
    for part in [
        "h2 holds shop 1.0",
        "<- step `roll` of run",
        "<- rule site.on_go",
        "<- event 1: site.go",
        "failed before it came",
    ] {
        assert!(why.contains(part), "{why}");
    }
    assert!(world.says(&["hosts", "--state", "failed"]).contains("h1"));
    assert!(world.says(&["hosts", "--state", "wrong"]).contains("known are current, rolling"));
    let unknown = world.says(&["why", "h3"]);
    assert!(unknown.contains("there is no host `h3`"), "{unknown}");

    // What the agent on it says itself.
    let report = json!({"host": "h2", "app": "shop", "environment": "production", "package": "shop", "wanted": "1.0",
        "held": "1.0", "status": "converged", "why": null, "since": "2030-01-01T00:00:00Z",
        "reported_at": "2030-01-01T00:00:10Z", "late_by_seconds": 75});
    let (status, _) =
        world.server.ask("PUT", "/kv/agents/shop/production/h2", Some(&json!({"value": report})));
    assert!(status < 300);
    let why = world.says(&["why", "h2"]);
    assert!(why.contains("its agent") && why.contains("75 s late"), "{why}");

    // Going back is by a person, and h1 holds what stands again.
    assert!(world.server.cli(&["rollback", "shop", "production", "--yes"]).status.success());
    let now = on(&world.server.get("/hosts/h1")["holds"], "production");
    assert_eq!(
        (&now["held"], &now["state"], &now["by"]),
        (&json!("1.0"), &json!("current"), &json!("admin"))
    );

    let of =
        |query: &str| world.server.get(&format!("/deployments?{query}"))["items"].as_array().unwrap().len();
    assert_eq!(
        (of("host=h2"), of("host=c1"), of("status=failed"), of("since=1h"), of("since=2099-01-01T00:00:00Z")),
        (2, 0, 1, 3, 0)
    );
    assert_eq!(world.server.ask("GET", "/deployments?status=wrong", None).0, 422);
    assert!(world.says(&["deployments", "--status", "failed", "--since", "7d"]).contains("3.0"));
}

#[test]
fn how_far_production_is_behind_and_how_it_was_delivered() {
    let world = World::new();
    let empty = world.server.get("/apps/shop/difference?from=canary&to=production");
    assert_eq!(
        (&empty["relation"], &empty["summary"]),
        (&json!("empty"), &json!("canary holds nothing and production holds nothing"))
    );
    world.event("1.0", "canary", &["aaaa1111"]);
    world.event("1.0", "production", &["aaaa1111"]);
    let same = world.server.get("/apps/shop/difference?from=canary&to=production");
    assert_eq!((&same["relation"], &same["deployments"]), (&json!("same"), &json!(0)));
    world.event("2.0", "canary", &["bbbb0001", "bbbb2222"]);
    world.event("3.0", "canary", &["cccc3333"]);
    let found = world.server.get("/apps/shop/difference?from=canary&to=production");
    assert_eq!(
        (&found["relation"], &found["deployments"], &found["versions"]),
        (&json!("behind"), &json!(2), &json!(["2.0", "3.0"]))
    );
    let commits: Vec<&str> =
        found["commits"].as_array().unwrap().iter().map(|one| one["commit"].as_str().unwrap()).collect();
    assert_eq!(commits, ["bbbb0001", "bbbb2222", "cccc3333"]);
    assert_eq!(
        (&found["commits"][0]["message"], &found["to"]["commit"]),
        (&json!("say bbbb0001"), &json!("aaaa1111"))
    );
    let said = world.says(&["apps", "shop", "--diff", "canary..production"]);
    assert!(said.contains("production (1.0) is 2 deployments and") && said.contains("bbbb2222"), "{said}");
    assert!(world.says(&["apps", "shop"]).contains("behind"));
    assert!(world.says(&["apps", "shop", "--diff", "canari..production"]).contains("did you mean `canary`?"));

    // 3.0 fails on production, and a person goes back.
    world.event("3.0", "production", &["cccc3333"]);
    assert!(world.server.cli(&["rollback", "shop", "production", "--yes"]).status.success());
    let stats = world.server.get("/apps/shop/stats?since=1h");
    let of = stats["environments"]["production"].clone();
    assert_eq!(
        (&of["changes"], &of["whole"], &of["failures"], &of["ways_back"]),
        (&json!(2), &json!(1), &json!(1), &json!(1))
    );
    assert_eq!(
        (&of["lead_time"]["n"], &of["time_to_restore"]["n"], &of["failure_rate"]),
        (&json!(1), &json!(1), &json!(0.5))
    );
    assert_eq!(stats["environments"]["canary"]["lead_time"]["n"], 3);
    let said = world.says(&["apps", "shop", "--stats"]);
    assert!(said.contains("50% (1 of 2)") && said.contains("the figures say little"), "{said}");
    let (status, wrong) = world.server.ask("GET", "/apps/shop/stats?since=soon", None);
    assert!(status == 422 && wrong["detail"].as_str().unwrap().contains("like 30d"), "{wrong}");

    let http = crate::support::server::client();
    let metrics =
        |token: &str| http.get(format!("{}/metrics", world.server.url())).bearer_auth(token).send().unwrap();
    assert_eq!(metrics("nobody").status(), 401);
    let text = metrics(&world.server.token()).text().unwrap();
    for line in [
        "siskin_deployments_total{app=\"shop\",environment=\"canary\",status=\"done\"} 3",
        "siskin_deployments_total{app=\"shop\",environment=\"production\",status=\"failed\"} 1",
        "siskin_deployed_version_info{app=\"shop\",environment=\"production\",version=\"1.0\"} 1",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn the_way_back_is_proven_before_the_yes() {
    let world = World::new();
    let proof = |with: Value| {
        let mut input = json!({"app": "shop", "environment": "production"});
        for (name, value) in with.as_object().unwrap() {
            input[name] = value.clone();
        }
        let run = world.server.run_to_end("deploy.way_back", input);
        assert_eq!(run["status"], "succeeded", "{run}");
        run["output"].clone()
    };
    // Nothing is there: the first roll would be taken back by removing it.
    let first = proof(json!({"version": "1.0"}));
    assert_eq!((&first["ready"], &first["hosts"][0]["to"]), (&json!(true), &Value::Null));
    assert!(first["summary"].as_str().unwrap().contains("shop would be removed from 2 hosts"), "{first}");
    let none = proof(json!({}));
    assert_eq!(
        (&none["ready"], &none["problems"][0]),
        (&json!(false), &json!("nothing of shop stands on production"))
    );

    world.put("1.0", false);
    let second = proof(json!({"version": "2.0"}));
    assert_eq!((&second["ready"], &second["reachable"]), (&json!(true), &json!(2)), "{second}");
    assert_eq!(
        (&second["hosts"][1]["holds"], &second["hosts"][1]["to"], &second["hosts"][1]["offered"]),
        (&json!("1.0"), &json!("1.0"), &json!(true))
    );
    assert!(second["roll_seconds"].as_f64().unwrap() > 0.0 && second["rehearsed"].is_null(), "{second}");
    world.put("2.0", false);

    let shown = world.says(&["rollback", "shop", "production", "--dry-run"]);
    for part in [
        "h1: 2.0 to 1.0",
        "h1 answers: holds 2.0, goes to 1.0",
        "ready: 2 hosts would hold 1.0 again",
        "nobody has gone back",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    assert_eq!(world.installed(), ["2.0", "2.0"]);
    assert!(world.server.cli(&["rollback", "shop", "production", "--yes"]).status.success());
    let after = proof(json!({"to": "2.0"}));
    assert_eq!((&after["ready"], &after["rehearsed"]["how"]), (&json!(true), &json!("rollback")), "{after}");
    assert!(after["summary"].as_str().unwrap().contains("that took"), "{after}");

    // The package is gone from the suite; a host is gone too.
    world.unpublish("2.0");
    std::fs::rename(world.folder.path().join("h2"), world.folder.path().join("away")).unwrap();
    let gone = proof(json!({"to": "2.0"}));
    assert_eq!((&gone["ready"], &gone["reachable"]), (&json!(false), &json!(1)));
    let problems = gone["problems"].to_string();
    assert!(
        problems.contains("h2 can't be reached")
            && problems.contains("shop 2.0 is no longer in suite stable"),
        "{problems}"
    );
    let json = world.server.cli(&["rollback", "shop", "production", "--to", "2.0", "--dry-run", "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["to"]["version"], &json["proof"]["ready"]), (&json!("2.0"), &json!(false)));
}

#[test]
fn hosts_behind_ssh_are_asked_and_those_that_do_not_answer_are_named() {
    let Some(sshd) = crate::git_and_ssh::sshd::start() else { return };
    let world = World::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let target = sshd.target();
    let ssh = |port: u16| {
        format!(
            "{{host: {}, port: {port}, user: {}, key: \"{}\", known_hosts: \"{}\", host_keys: accept_new}}",
            target.host,
            target.user.as_deref().unwrap(),
            target.key.as_ref().unwrap().display(),
            target.known_hosts.as_ref().unwrap().display()
        )
    };
    let app = format!(
        "owner: team\nenvironments:\n  far:\n    hosts: [{{name: s1, ssh: {}}}, {{name: s2, ssh: {}}}]\n",
        ssh(target.port.unwrap()),
        ssh(closed)
    );
    world.server.write("apps/far.yaml", &app.replace("owner: team", "owner: team\npackage: shop"));
    world.server.wait_for("/apps", |apps| apps["items"].as_array().unwrap().len() == 2);
    let run = world
        .server
        .run_to_end("deploy.way_back", json!({"app": "far", "environment": "far", "version": "1.0"}));
    let output = &run["output"];
    assert_eq!(
        (&output["ready"], &output["reachable"], &output["hosts"][0]["reachable"]),
        (&json!(false), &json!(1), &json!(true)),
        "{run}"
    );
    assert!(output["problems"][0].as_str().unwrap().starts_with("s2 can't be reached"), "{run}");
}
