//! The schemas say of a file what its reader says: what `check` takes they take, and what it refuses for an unknown key or a value of the wrong sort they
//! refuse.

use std::sync::Arc;

use jsonschema::Validator;
use serde_json::json;

use super::site::whole_site;
use super::{PACKS, with_packs};
use crate::definitions::schema::{ALL, formless, kind_of, schema};
use crate::definitions::sheet::Sheet;
use crate::definitions::yaml::Source;
use crate::definitions::{Definitions, Files};
use crate::model::Value;

fn validators() -> Vec<(&'static str, Validator)> {
    ALL.iter().map(|kind| (kind.name, jsonschema::validator_for(&schema(kind)).unwrap())).collect()
}

/// The documents of a file, as an editor sees them.
fn documents(path: &str, bytes: &[u8]) -> Vec<Value> {
    let source = Source::new(Arc::from(path), bytes).unwrap();
    let (nodes, mistakes) = source.parse();
    assert!(mistakes.is_empty(), "{path}: {mistakes:?}");
    let sheet = Sheet::new(&source, "site");
    nodes.iter().map(|node| sheet.value(node)).collect()
}

fn refusals(validators: &[(&'static str, Validator)], path: &str, value: &Value) -> Vec<String> {
    let Some(kind) = kind_of(path) else { return Vec::new() };
    let (_, validator) = validators.iter().find(|(name, _)| *name == kind.name).unwrap();
    validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn the_form_of_every_key_is_said() {
    assert_eq!(formless(), Vec::<String>::new(), "say their forms in definitions/schema.rs");
}

#[test]
fn a_path_says_which_schema_a_file_has() {
    let name = |path: &str| kind_of(path).map(|kind| kind.name);
    let table = [
        ("siskin.yaml", Some("siskin")),
        ("rules/a.yaml", Some("rule")),
        ("apps/a.yaml", Some("app")),
        ("packs/p/pack.yaml", Some("pack")),
        ("packs/p/sources/s.yaml", Some("source")),
        ("packs/p/tests/t.yaml", Some("test")),
        ("packs/p/apps/a.yaml", None),
        ("pack.yaml", None),
        ("packs/p/siskin.yaml", None),
        ("rules/a.yml", None),
        ("rules/in/a.yaml", None),
        ("tests/payload.json", None),
        ("README.md", None),
    ];
    for (path, wanted) in table {
        assert_eq!(name(path), wanted, "{path}");
    }
}

/// The files below a folder of this repository, but for those of builds.
fn shipped() -> Vec<(String, Vec<u8>)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<_> =
        [root.to_owned(), root.join("starter")].into_iter().map(|root| (root.clone(), root)).collect();
    let top = ["apps", "packs", "rules", "workflows", "tests", "actions"];
    while let Some((root, folder)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            if path.is_dir() && (folder != root || top.contains(&name.as_str())) {
                folders.push((root.clone(), path));
            } else if path.is_file() && kind_of(&name).is_some() {
                found.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    found
}

#[test]
fn everything_that_ships_is_valid() {
    let validators = validators();
    let files = shipped();
    assert!(files.len() > 100, "{}", files.len());
    for (path, bytes) in files {
        for document in documents(&path, &bytes) {
            assert_eq!(refusals(&validators, &path, &document), Vec::<String>::new(), "{path}");
        }
    }
}

#[test]
fn what_uses_every_key_is_valid() {
    let validators = validators();
    for (path, bytes) in &whole_files().texts {
        if kind_of(path).is_some() {
            for document in documents(path, bytes) {
                assert_eq!(refusals(&validators, path, &document), Vec::<String>::new(), "{path}");
            }
        }
    }
}

const MORE: &[(&str, &str)] = &[
    (
        "rules/counts.yaml",
        "trigger: github.push\ncount: 3\nwithin: 10m\nby: event.ref\nat_most: {count: 1, per: 1h, by: event.ref, otherwise: {run: core.noop, with: {}}}\nread: {frozen: \"freeze/x\"}\nrun: core.echo\nwith: {value: 1}\non_behalf_of: \"{{ event.who }}\"\nowner: boss\nenabled: false\n",
    ),
    (
        "rules/all.yaml",
        "all:\n  - {as: a, trigger: github.push, when: event.x == 1, by: event.ref}\n  - {as: b, trigger: github.pull, by: event.ref}\nwithin: 1h\nrun: core.noop\n",
    ),
    (
        "rules/timed.yaml",
        "schedule: {cron: \"30 2 * * mon-fri\", times: [\"08:30\"], time_zone: UTC, catch_up: all}\nrun: core.noop\n",
    ),
    ("packs/core/triggers/schedule.yaml", "description: A time.\n"),
    (
        "packs/s/sources/a.yaml",
        "kind: interval\ntrigger: github.push\nevery: 10s\ncatch_up: none\ndedup: \"{{ body.x }}\"\n",
    ),
    ("packs/s/sources/b.yaml", "kind: at\ntrigger: github.push\ncron: [\"* * * * *\"]\ntime_zone: UTC\n"),
    (
        "packs/s/sources/c.yaml",
        "kind: exec\ntrigger: github.push\ncommand: [./watch, --all]\nenv: {A: b}\ncwd: /tmp\ncursor: \"{{ body.id }}\"\neach: body.items\n",
    ),
    (
        "packs/s/sources/d.yaml",
        "kind: file\ntrigger: github.push\npath: /tmp/x\nglob: \"*.json\"\nrecursive: true\nevery: 2s\n",
    ),
    (
        "packs/s/sources/e.yaml",
        "kind: http_poll\ntrigger: github.push\nurl: https://x.example\nheaders: {A: b}\nevery: 1m\n",
    ),
    (
        "packs/s/sources/f.yaml",
        "kind: git_branch\ntrigger: github.push\nurl: https://x.example\nbranch: [main, \"release/*\"]\nuser: u\nsecret: s\nevery: 1m\n",
    ),
    (
        "packs/s/sources/g.yaml",
        "kind: consul_kv\ntrigger: github.push\nkey: a/b\naddress: http://127.0.0.1:8500\ntoken: t\ndatacenter: d\n",
    ),
    ("packs/s/sources/h.yaml", "kind: consul_service\ntrigger: github.push\nservice: web\ntag: [a, b]\n"),
    ("packs/s/sources/i.yaml", "kind: consul_event\ntrigger: github.push\nname: deploy\n"),
    (
        "packs/s/sources/j.yaml",
        "kind: webhook\npath: many\nverify:\n  - standard_webhooks: {secret: a}\n  - slack: {secret: [a, b]}\n  - circleci: {secret: a}\n  - basic: {user: u, secret: a}\n  - token: {header: X-T, secret: a}\ntrigger: github.push\nanswer: ok\nlimit: {size: 2MB, depth: 20, rate: 100/s}\n",
    ),
    (
        "packs/s/sources/k.yaml",
        "kind: etcd\ntrigger: github.push\nprefix: a/\naddress: [\"http://a:2379\", \"http://b:2379\"]\nuser: u\npassword: p\nca: /etc/ca.pem\ncertificate: /etc/c.pem\n",
    ),
    (
        "packs/s/sources/l.yaml",
        "kind: amqp\ntrigger: github.push\nurl: amqp://h/v\nqueue: q\ndeclare: true\nexchange: e\nbinding: [a.#]\nformat: json\nat_once: 5\n",
    ),
    (
        "packs/s/sources/m.yaml",
        "kind: github_releases\ntrigger: github.push\nrepository: a/b\napi: https://g\nsecret: s\nevery: 1m\n",
    ),
    (
        "apps/found.yaml",
        "environments:\n  a: {hosts: {consul: web, tag: [x], address: \"http://c\", datacenter: d, at_least: 2, ssh: {user: u, port: 22}}}\n  b: {hosts: {file: /etc/hosts.json, roots: /srv/roots}}\n  c: {hosts: {command: [./hosts, --all]}}\n  d: {hosts: {consul: web, role: app, canary: true}}\n",
    ),
    ("packs/s/pack.yaml", "needs: {packs: [core], programs: [git], siskin: \">=0.1\"}\n"),
    (
        "tests/t.yaml",
        "rule: site.timed\ncases:\n  - name: a\n    event: {trigger: core.schedule, payload: {}}\n    expect: {match: false}\n---\nworkflow: site.tested\nmock: {a: {output: {value: 1}, takes: 1s}}\nconfig: {github: {url: x}}\nkv: {a: 1}\napps: {}\ncases:\n  - name: b\n    at: \"2026-11-20T10:00:00Z\"\n    input: {}\n    mock: {a: {attempts: [{fail: x}, {error: {kind: lost, message: y}}]}}\n    events: [{at: 1m, trigger: github.push, payload: {ref: x}}]\n    answers: {ask: {by: alice, at: 1m, yes: true, comment: x}}\n    holds: [{what: all, from: 1m, until: 2m, why: x}]\n    force: {at: 1m, by: bob, why: x}\n    expect: {status: failed, steps: {a: failed, ask: {status: not_started}}, undone: [], called: [core.echo, {run: core.echo, with: {value: 1}}], not_called: [core.noop], error: {kind: failed}}\n",
    ),
    (
        "workflows/tested.yaml",
        "steps:\n  - {id: a, run: core.echo, with: {value: 1}, retry: {attempts: 2, delay: 1s, backoff: 2, max_delay: 1m, jitter: 0.1, lost: true}, lock: x, window: office, worker: {pool: p, labels: {a: b}}}\n  - {id: ask, approve: {ask: ok?, of: boss, count: 1, remind: 1h, timeout: 2h}}\n  - {id: w, watch: {for: 1m, since: a, abort_on: [{trigger: github.push, when: \"event.ref == input\"}], check: {run: core.echo, with: {value: 1}, every: 10s, healthy: \"output.value == 1\", failures: 2}}}\n  - {id: l, for_each: [1, 2], as: n, concurrency: 2, max_failures: 10%, fail_fast: true, run: core.echo, with: {value: \"{{ n }}\"}}\n  - {id: g, parallel: [{id: s, sleep: 1m}, {id: e, emit: github.push, with: {ref: x}}]}\n",
    ),
];

/// A site that uses about every key.
fn whole_files() -> Files {
    let own = whole_site();
    let files: Vec<(&str, &str)> = own.into_iter().chain(MORE.iter().copied()).collect();
    with_packs(&files)
}

/// Every value inside, by its path.
fn inside(value: &Value, path: &str, found: &mut Vec<String>) {
    found.push(path.to_owned());
    let key = |name: &str| name.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(entries) => {
            entries.iter().for_each(|(name, inner)| inside(inner, &format!("{path}/{}", key(name)), found));
        }
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, inner)| inside(inner, &format!("{path}/{index}"), found));
        }
        _ => (),
    }
}

/// What a reader says of an unknown key or a value of the wrong sort.
fn is_of_form(message: &str) -> bool {
    let said = [
        "is no key of",
        "must be text",
        "must be a map",
        "must be a list",
        "must be true or false",
        "must be a whole number from",
        "is not a duration",
        "there is no type `",
        "there is no runner `",
    ];
    said.iter().any(|said| message.contains(said))
}

/// Free values, about which the definitions that they are for have the say.
fn is_free(path: &str) -> bool {
    let free = [
        "/with",
        "/config",
        "/payload",
        "/input",
        "/default",
        "/output",
        "/json",
        "/kv",
        "/apps",
        "/show",
        "/for_each",
        "/mock",
        "/answers",
        "/enum",
    ];
    free.iter().any(|part| path.contains(&format!("{part}/")) || path.ends_with(part))
}

/// Every place takes its time; SISKIN_ALL=1 tries them all.
const EACH: usize = 5;

#[test]
fn schema_and_reader_agree_about_every_change_of_a_value() {
    let validators = validators();
    let whole = whole_files();
    let (_, mistakes) = Definitions::read(&whole);
    assert!(mistakes.is_empty(), "{}", crate::definitions::show(&mistakes, &whole, false));
    let own = |path: &&String| {
        !PACKS.iter().any(|(known, _)| known == path)
            && kind_of(path).is_some()
            && !path.contains("/triggers/")
    };
    let all = std::env::var_os("SISKIN_ALL").is_some();
    let (mut tried, mut disagreed) = (0, Vec::new());
    for path in whole.texts.keys().filter(own) {
        // One file at a time, beside what it names.
        let documents = documents(path, &whole.texts[path]);
        for (number, document) in documents.iter().enumerate() {
            let mut places = Vec::new();
            inside(document, "", &mut places);
            for place in places
                .iter()
                .enumerate()
                .filter(|(index, _)| all || index % EACH == 0)
                .map(|(_, place)| place)
            {
                let old = document.pointer(place).unwrap();
                let mut changes = vec![json!([[]]), json!({"xyzzy": 1})];
                if let Value::Object(entries) = old {
                    let mut more = entries.clone();
                    more.insert("xyzzy".to_owned(), json!(1));
                    changes[1] = Value::Object(more);
                }
                if old.is_boolean() || old.is_number() {
                    changes.push(json!("xyzzy"));
                }
                for change in changes {
                    let mut changed = document.clone();
                    *changed.pointer_mut(place).unwrap() = change.clone();
                    let mut texts = documents.clone();
                    texts[number] = changed.clone();
                    let text: Vec<String> = texts.iter().map(ToString::to_string).collect();
                    let mut files = whole.clone();
                    files.texts.insert(path.clone(), Arc::from(text.join("\n---\n").as_bytes()));
                    let mistakes = Definitions::read(&files).1;
                    let mistakes: Vec<String> = mistakes
                        .iter()
                        .filter(|mistake| *mistake.place.file == **path)
                        .map(ToString::to_string)
                        .collect();
                    let refused = refusals(&validators, path, &changed);
                    tried += 1;
                    let is_form = mistakes.iter().any(|mistake| is_of_form(mistake));
                    if !refused.is_empty() && mistakes.is_empty() {
                        disagreed.push(format!(
                            "{path} {place} = {change}: only the schema refuses it: {refused:?}"
                        ));
                    }
                    if refused.is_empty() && is_form && !is_free(place) {
                        disagreed.push(format!(
                            "{path} {place} = {change}: only the reader refuses it: {mistakes:?}"
                        ));
                    }
                }
            }
        }
    }
    assert!(tried > 200, "{tried}");
    assert!(disagreed.is_empty(), "{} of {tried}:\n{}", disagreed.len(), disagreed.join("\n"));
}
