//! `siskin plan` says what a change would do, before it is saved where the server looks.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::server::Server;

const PINGS: &str = "trigger: github.ping\nwhen: event.zen == \"a\"\nrun: core.echo\nwith: {value: one}\n";

fn send(server: &Server, zen: &str) {
    server.post("/events", &json!({"trigger": "github.ping", "payload": {"zen": zen}}));
}

fn plan(server: &Server, site: &Path) -> (Option<i32>, Value) {
    let output = server.cli(&["plan", "--json", "--site", site.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let plan = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.code(), plan)
}

/// The site of the server as somebody else has it on their machine.
fn working_tree(server: &Server) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut folders = vec![server.site()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).unwrap().map(Result::unwrap) {
            let to = folder.path().join(entry.path().strip_prefix(server.site()).unwrap());
            match entry.path().is_dir() {
                true => {
                    fs::create_dir_all(&to).unwrap();
                    folders.push(entry.path());
                }
                false => drop(fs::copy(entry.path(), &to).unwrap()),
            }
        }
    }
    folder
}

#[test]
fn a_change_is_shown_with_what_last_weeks_events_would_have_started() {
    let workflow = "steps:\n  - {id: a, run: core.noop, timeout: 1m}\n";
    let server = Server::start(&[
        ("rules/pings.yaml", PINGS),
        ("rules/goes.yaml", "trigger: github.ping\nrun: core.noop\n"),
        ("rules/stays.yaml", "trigger: github.ping\nrun: site.w\n"),
        ("workflows/w.yaml", workflow),
    ]);
    for zen in ["a", "b", "a", "c"] {
        send(&server, zen);
    }
    let tree = working_tree(&server);
    let (status, same) = plan(&server, tree.path());
    assert_eq!((status, &same["changes"]), (Some(0), &json!([])));
    assert_eq!(same["events"]["rules"], json!([]));

    let write = |path: &str, text: &str| fs::write(tree.path().join(path), text).unwrap();
    write("rules/pings.yaml", &PINGS.replace("\"a\"", "\"b\"").replace("one", "two"));
    write("rules/new.yaml", "trigger: github.ping\nwhen: event.zen == \"c\"\nrun: core.noop\n");
    fs::remove_file(tree.path().join("rules/goes.yaml")).unwrap();
    write("workflows/w.yaml", &workflow.replace("1m", "2m"));
    let before =
        (server.get("/events?limit=500"), server.get("/runs?limit=500")["items"].as_array().unwrap().len());
    let (status, plan) = plan(&server, tree.path());
    assert_eq!(status, Some(0), "{plan}");
    let change = |index: usize| {
        let change = &plan["changes"][index];
        (
            change["change"].as_str().unwrap(),
            change["kind"].as_str().unwrap(),
            change["name"].as_str().unwrap(),
        )
    };
    assert_eq!(change(0), ("removed", "rule", "site.goes"));
    assert_eq!(change(1), ("added", "rule", "site.new"));
    assert_eq!(change(2), ("changed", "rule", "site.pings"));
    assert_eq!(change(3), ("changed", "workflow", "site.w"));
    assert_eq!(plan["changes"][3]["how"], json!(["~ steps.a.timeout: 1m -> 2m"]));
    assert_eq!((&plan["events"]["tried"], &plan["events"]["bound"]), (&json!(4), &Value::Null));
    let rule = |name: &str| {
        let rules = plan["events"]["rules"].as_array().unwrap();
        let rule = rules.iter().find(|rule| rule["rule"] == name).unwrap_or_else(|| panic!("{name}: {plan}"));
        ["matched_before", "matched_after", "newly", "no_longer"].map(|key| rule[key].as_i64().unwrap())
    };
    assert_eq!(rule("site.pings"), [2, 1, 1, 2]);
    assert_eq!(rule("site.goes"), [4, 0, 0, 4]);
    assert_eq!(rule("site.new"), [0, 1, 1, 0]);
    assert!(!plan["events"]["rules"].to_string().contains("site.stays"));
    // Nothing was done.
    assert_eq!(
        (server.get("/events?limit=500"), server.get("/runs?limit=500")["items"].as_array().unwrap().len()),
        before
    );
    let said = server.cli(&["plan", "--site", tree.path().to_str().unwrap(), "--last", "1d"]);
    let said = String::from_utf8(said.stdout).unwrap();
    for wanted in [
        "- rule site.goes (rules/goes.yaml)",
        "~ workflow site.w (workflows/w.yaml)",
        "~ steps.a.timeout: 1m -> 2m",
        "4 events since",
        "site.pings: 1 would match newly, 2 no longer (2 matched, 1 would)",
        "core.echo {\"value\":\"one\"} -> not matched",
    ] {
        assert!(said.contains(wanted), "{wanted} is not in\n{said}");
    }
}

#[test]
fn mistakes_of_the_tree_are_shown_and_are_exit_status_1() {
    let server = Server::start(&[("rules/pings.yaml", PINGS)]);
    send(&server, "a");
    let tree = working_tree(&server);
    fs::write(tree.path().join("rules/pings.yaml"), PINGS.replace("core.echo", "core.ecko")).unwrap();
    let (status, plan) = plan(&server, tree.path());
    assert_eq!(status, Some(1));
    assert_eq!(plan["mistakes"][0]["file"], "rules/pings.yaml");
    assert_eq!(plan["changes"][0]["broken"], true);
    assert!(plan["left_out"]["rule site.pings"].is_string());
    assert_eq!(plan["events"]["rules"][0]["no_longer"], 1);
    let said = server.cli(&["plan", "--site", tree.path().to_str().unwrap()]);
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("mistake rules/pings.yaml:3:6") && said.contains("broken"), "{said}");
}

#[test]
fn a_change_of_a_function_or_an_input_reaches_the_rules_that_use_it() {
    let server = Server::start(&[
        ("functions.rhai", "fn wanted(zen) { zen == \"a\" }\n"),
        ("rules/a.yaml", "trigger: github.ping\nwhen: wanted(event.zen)\nrun: site.w\n"),
        (
            "rules/b.yaml",
            "trigger: github.ping\nwhen: event.zen == \"a\"\nrun: core.noop\ncount: 2\nwithin: 1h\n",
        ),
        (
            "workflows/w.yaml",
            "input: {level: {type: integer, default: 1}}\nsteps:\n  - {id: a, run: core.noop}\n",
        ),
    ]);
    send(&server, "a");
    send(&server, "a");
    let tree = working_tree(&server);
    let write = |path: &str, text: &str| fs::write(tree.path().join(path), text).unwrap();
    write(
        "workflows/w.yaml",
        "input: {level: {type: integer, default: 2}}\nsteps:\n  - {id: a, run: core.noop}\n",
    );
    let (_, by_input) = plan(&server, tree.path());
    assert_eq!(by_input["events"]["rules"][0]["otherwise"], 2, "{by_input}");
    write("functions.rhai", "fn wanted(zen) { false }\n");
    let (_, by_function) = plan(&server, tree.path());
    assert_eq!(by_function["events"]["rules"][0]["no_longer"], 2, "{by_function}");
    // A rule that counts counts in a plan, too.
    write(
        "rules/b.yaml",
        "trigger: github.ping\nwhen: event.zen == \"a\"\nrun: core.noop\ncount: 3\nwithin: 1h\n",
    );
    let (_, by_count) = plan(&server, tree.path());
    let rules = by_count["events"]["rules"].as_array().unwrap();
    let counts = rules.iter().find(|rule| rule["rule"] == "site.b").unwrap();
    assert_eq!((&counts["matched_before"], &counts["no_longer"]), (&json!(1), &json!(1)), "{counts}");
}

#[test]
fn what_a_change_means_for_sources_and_for_rules_that_stay_is_said() {
    let hook = "kind: webhook\npath: things\nverify: {token: {header: X-Token, secret: things}}\ntrigger: things.came\n";
    let inner = "steps:\n  - {id: a, run: core.noop, timeout: 1m}\n";
    let server = Server::start(&[
        ("packs/things/pack.yaml", "config: {name: {type: string, optional: true}}\n"),
        ("packs/things/triggers/came.yaml", "description: d\n"),
        ("packs/things/sources/hook.yaml", hook),
        ("packs/things/sources/gone.yaml", &hook.replace("path: things", "path: gone")),
        ("rules/comes.yaml", "trigger: things.came\nrun: site.outer\n"),
        ("rules/direct.yaml", "trigger: things.came\nrun: site.inner\n"),
        ("workflows/outer.yaml", "steps:\n  - {id: a, run: site.inner}\n"),
        ("workflows/inner.yaml", inner),
        ("siskin.yaml", "config: {things: {name: one}}\n"),
    ]);
    let tree = working_tree(&server);
    let write = |path: &str, text: &str| fs::write(tree.path().join(path), text).unwrap();
    write("workflows/inner.yaml", &inner.replace("1m", "2m"));
    write(
        "packs/things/sources/hook.yaml",
        &hook.replace("path: things", "path: other").replace("X-Token", "X-Key"),
    );
    fs::remove_file(tree.path().join("packs/things/sources/gone.yaml")).unwrap();
    let (status, changed) = plan(&server, tree.path());
    assert_eq!(status, Some(0), "{changed}");
    let means = |plan: &Value, name: &str| {
        let changes = plan["changes"].as_array().unwrap();
        changes.iter().find(|change| change["name"] == name).unwrap_or_else(|| panic!("{name}: {plan}"))["means"].clone()
    };
    assert_eq!(
        means(&changed, "site.inner"),
        json!(["rule site.comes comes to it through site.outer", "rule site.direct starts it"])
    );
    assert_eq!(
        means(&changed, "things.hook"),
        json!([
            "deliveries to /hooks/things are refused from then on; senders have to be told /hooks/other",
            "deliveries have to prove otherwise where they come from"
        ])
    );
    assert_eq!(means(&changed, "things.gone"), json!(["deliveries to /hooks/gone are refused from then on"]));
    let said = server.cli(&["plan", "--site", tree.path().to_str().unwrap()]);
    assert!(String::from_utf8(said.stdout).unwrap().contains("senders have to be told /hooks/other"));

    // Settings in siskin.yaml change sources whose files do not.
    let tree = working_tree(&server);
    fs::write(tree.path().join("siskin.yaml"), "config: {things: {name: two}}\n").unwrap();
    let (_, settings) = plan(&server, tree.path());
    let changes = settings["changes"].as_array().unwrap();
    let source =
        changes.iter().find(|change| change["name"] == "things.hook").unwrap_or_else(|| panic!("{settings}"));
    assert_eq!(
        (&source["kind"], &source["how"]),
        (&json!("source"), &json!(["~ config.name (siskin.yaml)"]))
    );
}

#[test]
fn a_plan_that_is_asked_wrongly_is_refused() {
    let server = Server::start(&[]);
    for (body, status) in [
        (json!({}), 422),
        (json!({"files": {}, "last": "400d"}), 422),
        (json!({"files": {"rules/a.yaml": {"sha256": "00"}}}), 409),
        (json!({"files": {"rules/a.yaml": {"base64": "!"}}}), 422),
        (json!({"files": {}, "lats": "1d"}), 422),
    ] {
        let (said, problem) = server.ask("POST", "/plan", Some(&body));
        assert!(said == status || (said == 400 && status == 422), "{body}: {said} {problem}");
    }
}
