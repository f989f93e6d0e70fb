//! A whole site, and what is left of one that has mistakes.

use serde_json::json;

use super::{PACKS, mistakes, read, with_packs};
use crate::definitions::source::Kind as SourceKind;
use crate::definitions::tree::Tree;
use crate::definitions::webhook::{Proof, TokenPlace, Verify, Way};
use crate::definitions::workflow::{Kind, StartOn};
use crate::definitions::{Definitions, Files, show};
use crate::expr::Scope;
use crate::model::Span;

const SITE: &str = r#"
config:
  http_pack: {url: https://ci.example, retries: 3, token_name: ci_token}
public_url: https://siskin.example
users:
  alice: {roles: [admin, release-managers], links: {github: octocat}}
  bob: {}
windows:
  office: {open: ["* 9-16 * * mon-fri"], closed: [2026-12-24, "2026-12-31..2027-01-02"], time_zone: Asia/Tokyo}
  always: {open: "* * * * *"}
"#;

const HTTP_ACTION: &str = r#"
description: Asks for a build.
runner: http
input:
  job: {type: string, description: "The job's name.", pattern: "^[a-z]+$", min: 1, max: 40}
  level: {type: string, enum: [low, high], default: low}
  values: {type: object, default: {}}
  tags: {type: array, items: string, optional: true}
returns: {queue_url: string, ticket: {type: string, secret: true}}
idempotent: false
timeout: 30s
http:
  method: POST
  url: "{{ config.url }}/job/{{ input.job | shout }}"
  headers: {X-Version: 1.10, X-Owner: "{{ apps.shop.owner }}"}
  query: {page: 2}
  auth: {basic: [robot, "{{ secret(config.token_name) }}"]}
  json: {values: "{{ input.values }}", n: 3, key: "{{ secret('other_key') | base64 }}"}
  expect: [200, 201]
output:
  queue_url: "{{ response.headers.location }}"
  ticket: "{{ result.body.ticket }}"
"#;

const SHIP: &str = r#"
description: Everything that a workflow can be made of.
input: {commit: string, bake: {type: duration, default: 15m}, author: {type: string, optional: true}}
timeout: 2d
concurrency: {key: "ship/{{ input.commit }}", limit: 1, on_limit: newest}
steps:
  - id: build
    run: ci.build
    with: {commit: "{{ input.commit }}", token: "Bearer {{ secret('t') }}", code: "docker ps --format '{{.Names}}'", values: {level: 3}}
    needs: []
    timeout: 1h
    retry: {attempts: 3, delay: 10s, backoff: 2, max_delay: 1m, jitter: 0.5, lost: true, when: 'error.kind == "failed" && output?.code != 2'}
    undo: {run: ci.restore, with: {deb: "{{ steps.build.output.deb }}", key: "{{ secret('k') }}"}}
  - id: lint
    shell: |
      echo "${#files[@]}" {{.Raw}}
      lint "$COMMIT"
    env: {COMMIT: "{{ input.commit }}", VERSION: 1.10}
    cwd: src
    needs: []
    continue_on_failure: true
  - id: child
    run: ci.child
    with: {commit: "{{ input.commit }}"}
    needs: [build, lint]
    when: input.commit != "" && steps.lint.output?.code == 0
  - id: bake
    needs: [child]
    watch:
      for: "{{ input.bake }}"
      since: build
      abort_on:
        - trigger: github.push
          when: event.ref == input.commit
        - {trigger: github.pull}
      check: {run: ci.build, with: {commit: x}, every: 30s, healthy: 'output.deb != ""', failures: 2}
  - id: ask
    needs: [bake]
    approve:
      ask: "Ship {{ steps.build.output.info.version }}?"
      of: "{{ apps.shop.environments.production.approvers }}"
      count: 2
      distinct_from: [starter, "{{ input.author | default('nobody') }}"]
      show: {deb: "{{ steps.child.output.deb }}", all: "{{ steps.bake.output }}"}
      fields: {reason: string}
      remind: 4h
      timeout: 24h
    window: office
  - id: answer
    needs: [ask]
    wait_for: {trigger: github.pull, when: "event.number == 3", timeout: 1h, on_timeout: continue}
  - id: nap
    needs: [ask]
    sleep: 5m
  - id: tell
    needs: [answer, nap]
    emit: github.push
    with: {ref: "{{ steps.ask.output.reason }} by {{ steps.answer.output.by }}"}
  - id: rescue
    needs: [build]
    start_on: failure
    run: core.noop
  - id: test
    needs: [build]
    for_each: {os: [linux, bsd], commit: ["{{ input.commit }}"]}
    as: target
    concurrency: 2
    max_failures: 10%
    fail_fast: true
    retry: {attempts: 2, when: 'target.os == "bsd"'}
    timeout: 10m
    lock: "test/{{ input.commit }}"
    parallel:
      - id: unit
        shell: make check
        env: {OS: "{{ target.os }}"}
        worker: {pool: "{{ target.os }}", labels: {os: "{{ target.os }}"}}
      - id: slow
        read: {skip: "skip/{{ input.commit }}"}
        when: skip == ()
        run: core.echo
        with: {value: "{{ skip }} {{ index }}"}
        until: output.value != ()
        every: 1m
      - id: after
        needs: [unit]
        shell: make report
        worker: {same_as: unit}
on_failure:
  - id: cry
    run: core.echo
    with: {value: "{{ run.failed_step }}: {{ run.error }}"}
finally:
  - id: status
    run: core.echo
    with: {value: "{{ run.status }} {{ run.url }} {{ steps.build.status }}"}
output:
  deb: "{{ steps.build.output.deb }}"
"#;

const RULE: &str = r#"
description: A push starts it.
trigger: [github.push, github.pull]
when: |
  if !event.ref.starts_with("refs/heads/") { return false; }
  #{branch: event.ref.removeprefix("refs/heads/")}
run: ship
with:
  commit: "{{ matched.branch }} {{ meta.id }}"
on_behalf_of: "{{ event.pusher.name }}"
owner: alice
enabled: false
"#;

const APP: &str = r#"
description: A shop.
owner: team
repository: https://example/shop2
environments:
  canary-1:
    hosts: [one.example, {name: two, ssh: {host: 10.0.0.2, port: 2222, user: deploy, key: deploy_key}}, {name: three, root: ./hosts/three}]
    suite: canary
    window: office
    batch: 25%
    max_unavailable: 1
    approvers: boss
"#;

pub(super) fn whole_site() -> Vec<(&'static str, &'static str)> {
    vec![
        ("siskin.yaml", SITE),
        (
            "packs/http_pack/pack.yaml",
            "name: http_pack\ndescription: x\nversion: 1.10\nneeds: [core]\nconfig:\n  url: string\n  retries: {type: integer, default: 1}\n  token_name: string\n",
        ),
        ("packs/http_pack/functions.rhai", "fn shout(text) { text.to_upper() }\n"),
        ("packs/http_pack/actions/build.yaml", HTTP_ACTION),
        (
            "packs/http_pack/actions/run.yaml",
            "runner: script\nscript: {file: bin/run.py, args: [\"{{ config.url }}\", 007], env: {A: \"{{ secret('a') }}\"}}\n",
        ),
        ("packs/http_pack/bin/run.py", "#!/usr/bin/python3\nprint('{}')\n"),
        (
            "packs/http_pack/actions/sh.yaml",
            "runner: shell\nshell: {script: \"echo {{.X}}\", env: {B: \"{{ config.retries }}\"}, cwd: a}\noutput: {text: \"{{ result.stdout }}\"}\n",
        ),
        (
            "packs/github/sources/webhook.yaml",
            "kind: webhook\npath: github\nverify: {hmac_sha256: {header: X-Hub-Signature-256, prefix: \"sha256=\", secret: github_webhook}}\ntrigger: \"github.{{ headers['x-github-event'] }}\"\ndedup: \"{{ headers['x-github-delivery'] }}\"\n",
        ),
        (
            "packs/github/sources/many.yaml",
            "kind: webhook\npath: github/many\nverify: none\ntrigger: push\neach: body.alerts\ndedup: \"{{ item.id }}\"\n",
        ),
        (
            "packs/github/sources/token.yaml",
            "kind: webhook\npath: token\nverify: {token: {query: t, secret: s}}\ntrigger: push\n",
        ),
        ("workflows/ship.yaml", SHIP),
        ("rules/on_push.yaml", RULE),
        ("apps/shop-2.yaml", APP),
        ("README.md", "not a definition"),
        ("rules/notes.txt", "neither"),
    ]
}

#[test]
fn what_is_kept_how_long_is_said_by_the_site_and_never_too_short() {
    let (definitions, found) = read(&[("siskin.yaml", "retention: {events: 7d, logs: 2h}\n")]);
    assert!(found.is_empty(), "{found:?}");
    let kept = definitions.site.retention;
    assert_eq!((kept.events, kept.logs), (Span::days(7), Span::minutes(120)));
    assert_eq!((kept.runs, kept.audit), (Span::days(90), Span::days(400)));
    let said = mistakes(&[("siskin.yaml", "retention: {runs: 10m, log: 3d}\n")]);
    assert!(said.contains("`runs` of `retention` is at least 1h, not 10m"), "{said}");
    assert!(said.contains("did you mean `logs`?"), "{said}");
}

#[test]
fn a_site_that_uses_every_built_key_has_no_mistakes() {
    let files = with_packs(&whole_site());
    let (definitions, mistakes) = Definitions::read(&files);
    assert!(mistakes.is_empty(), "{}", show(&mistakes, &files, false));
    assert!(definitions.left_out.is_empty());
    assert_eq!(definitions.rules.keys().collect::<Vec<_>>(), ["site.on_push"]);
    assert_eq!(definitions.workflows.keys().collect::<Vec<_>>(), ["ci.child", "site.ship"]);
}

#[test]
fn an_action_carries_its_section_raw_and_its_secrets_by_name() {
    let (definitions, _) = read(&whole_site());
    let action = &definitions.actions["http_pack.build"];
    assert_eq!(action.secrets, ["ci_token", "other_key"]);
    assert_eq!(action.work.secret_outputs, ["ticket"]);
    assert_eq!(
        action.work.config,
        json!({"url": "https://ci.example", "retries": 3, "token_name": "ci_token"})
    );
    assert_eq!(action.work.section["headers"]["X-Version"], "1.10");
    assert_eq!(action.work.section["json"]["n"], 3);
    assert_eq!(action.work.output["ticket"], "{{ result.body.ticket }}");
    assert!(action.work.functions.as_ref().unwrap().contains("shout"));
    let script = &definitions.actions["http_pack.run"].work;
    assert!(script.script.as_ref().unwrap().contains("print"));
    assert_eq!(script.section["args"], json!(["{{ config.url }}", "007"]));
}

#[test]
fn a_workflow_keeps_code_verbatim_and_its_graph() {
    let (definitions, _) = read(&whole_site());
    let ship = &definitions.workflows["site.ship"];
    let step = |id: &str| ship.steps.iter().find(|step| step.id == id).unwrap();
    let Kind::Run(build) = &step("build").kind else { panic!() };
    let code = build.with.iter().find(|(name, _)| name == "code").unwrap();
    assert!(matches!(&code.1, Tree::Plain(code) if code == "docker ps --format '{{.Names}}'"));
    let Kind::Run(lint) = &step("lint").kind else { panic!() };
    assert_eq!(lint.run, "core.shell");
    assert!(
        matches!(&lint.with[0].1, Tree::Plain(code) if code == "echo \"${#files[@]}\" {{.Raw}}\nlint \"$COMMIT\"\n")
    );
    assert_eq!(step("child").needs, ["build", "lint"]);
    assert_eq!(step("rescue").start_on, StartOn::Failure);
    assert_eq!(step("build").retry.max_delay, Some(Span::minutes(1)));
    assert_eq!(step("build").undo.as_ref().unwrap().run, "ci.restore");
    let Kind::Approve(ask) = &step("ask").kind else { panic!() };
    assert_eq!(ask.fields_shown, json!({"reason": {"type": "string"}}));
    assert_eq!(ask.distinct_from.as_ref().unwrap().len(), 2);
    let child = &definitions.workflows["ci.child"];
    assert_eq!(child.steps[0].needs, Vec::<String>::new());
}

#[test]
fn an_app_is_data_with_hosts_of_one_form() {
    let (definitions, _) = read(&whole_site());
    let canary = &definitions.apps["shop-2"]["environments"]["canary-1"];
    assert_eq!(
        canary["hosts"],
        json!([
            {"name": "one.example", "ssh": {"host": "one.example"}},
            {"name": "two", "ssh": {"host": "10.0.0.2", "port": 2222, "user": "deploy", "key": "deploy_key"}},
            {"name": "three", "root": "./hosts/three"},
        ])
    );
    assert_eq!(canary["batch"], "25%");
    assert_eq!(canary["max_unavailable"], 1);
    assert_eq!(canary["approvers"], json!(["boss"]));
}

#[test]
fn sources_say_how_deliveries_are_verified() {
    let (definitions, _) = read(&whole_site());
    let verify = |name: &str| {
        let SourceKind::Webhook(webhook) = &definitions.sources[name].kind else { panic!("{name}") };
        webhook.verify.clone()
    };
    assert_eq!(verify("github.many"), Verify::None);
    assert_eq!(
        verify("github.token"),
        Verify::AnyOf(vec![Way {
            proof: Proof::Token(TokenPlace::Query("t".to_owned())),
            secrets: vec!["s".to_owned()]
        }])
    );
    let SourceKind::Webhook(many) = &definitions.sources["github.many"].kind else { panic!() };
    assert_eq!(many.trigger.source(), "github.push");
}

#[test]
fn a_trigger_validates_payloads() {
    let (definitions, _) = read(&[]);
    let push = &definitions.triggers["github.push"];
    assert!(push.validate(&json!({"ref": "x"})).is_ok());
    assert!(push.validate(&json!({})).unwrap_err().contains("ref"));
    assert!(definitions.triggers["github.pull"].validate(&json!(3)).is_ok());
}

#[test]
fn a_broken_definition_takes_with_it_what_names_it_and_nothing_else() {
    let (definitions, mistakes) = read(&[
        ("workflows/bad.yaml", "steps:\n  - id: a\n    run: core.nope\n"),
        ("workflows/outer.yaml", "steps:\n  - id: a\n    run: bad\n"),
        ("workflows/good.yaml", "steps:\n  - id: a\n    run: core.noop\n"),
        ("rules/one.yaml", "trigger: github.push\nrun: outer\n"),
        ("rules/two.yaml", "trigger: github.push\nrun: good\n"),
    ]);
    assert_eq!(mistakes.len(), 1);
    assert_eq!(definitions.rules.keys().collect::<Vec<_>>(), ["site.two"]);
    assert_eq!(
        definitions.left_out.keys().collect::<Vec<_>>(),
        ["rule site.one", "workflow site.bad", "workflow site.outer"]
    );
    assert_eq!(
        definitions.left_out["rule site.one"],
        "the workflow site.outer, which it names, has a mistake"
    );
}

#[test]
fn a_single_action_runs_as_a_workflow_of_one_step() {
    let (definitions, _) = read(&[]);
    let workflow = definitions.implicit_workflow(&definitions.actions["ci.build"]);
    assert_eq!(workflow.steps[0].id, "build");
    let Kind::Run(call) = &workflow.steps[0].kind else { panic!() };
    let scope = Scope::new().with("input", json!({"commit": "c", "count": 2}));
    let given = crate::definitions::tree::render_map(&call.with, &definitions.expr, &scope).unwrap();
    assert_eq!(given.masked(), json!({"commit": "c", "count": 2}));
    let scope = Scope::new().with("steps", json!({"build": {"output": {"deb": "x"}}}));
    let output = workflow.whole_output.unwrap().render(&definitions.expr, &scope).unwrap();
    assert_eq!(output.masked(), json!({"deb": "x"}));
}

#[test]
fn the_revision_names_the_texts() {
    let revision = |files: &[(&str, &str)]| read(files).0.revision;
    assert_eq!(revision(&[("rules/a.txt", "x")]), revision(&[("rules/a.txt", "x")]));
    assert_ne!(revision(&[("rules/a.txt", "x")]), revision(&[("rules/a.txt", "y")]));
    assert_ne!(revision(&[("rules/a.txt", "x")]), revision(&[("rules/a.tx", "tx")]));
    assert_eq!(revision(&[]).len(), 64);
}

#[test]
fn places_of_files_from_the_binary_say_so() {
    let mut files = Files::from_texts(PACKS);
    files.texts.insert("packs/core/actions/bad.yaml".to_owned(), b"runner: nativ\n".as_slice().into());
    files.embedded.insert("packs/core/actions/bad.yaml".to_owned());
    let (_, mistakes) = Definitions::read(&files);
    insta::assert_snapshot!(show(&mistakes, &files, false), @r##"
    error: there is no runner `nativ`
     --> <siskin>/packs/core/actions/bad.yaml:1:9
      |
    1 | runner: nativ
      |         ^^^^^
      |
      = help: did you mean `native`?
    "##);
}

#[test]
fn files_in_wrong_places_are_named() {
    insta::assert_snapshot!(mistakes(&[
        ("rules/a.yml", ""),
        ("rules/sub/b.yaml", ""),
        ("rules/Deploy-It.yaml", ""),
        ("siskin.yml", ""),
        ("packs/site/actions/a.yaml", ""),
        ("packs/Bad/pack.yaml", ""),
        ("packs/ok/commands/say.yaml", "run: x"),
        ("rules/empty.yaml", "# nothing\n"),
        ("rules/two.yaml", "trigger: github.push\nrun: core.noop\n---\ntrigger: github.push\n"),
        ("actions/x.yaml", "runner: native\n"),
        ("workflows/x.yaml", "steps: [{id: a, run: core.noop}]\n"),
        ("rules/.hidden.yaml", "%"),
    ]), @r##"
    1:1 `Bad` is no name of a pack: small letters, digits and `_`, a letter first
    1:1 chat commands are not built yet in this version
        take this file away
    1:1 `site` is the repository itself and can't be a pack
        give the pack another name
    1:1 `Deploy-It` is no name of a rule: small letters, digits and `_`, a letter first
        rename it to deploy_it.yaml
    1:1 definitions end in .yaml
        rename it to a.yaml
    1:1 this file is empty
    1:1 rules/ has no folders inside: a definition's name is its file's name
        move it to rules/b.yaml
    4:1 a file holds one definition: here a second YAML document begins
    1:1 this file is called siskin.yaml
        rename it
    1:1 `site.x` is an action as well (actions/x.yaml); actions and workflows share their names
        rename one of them
    "##);
}

#[test]
fn the_site_and_its_packs_are_held_against_each_other() {
    insta::assert_snapshot!(mistakes(&[
        ("siskin.yaml", "config:\n  githb: {a: 1}\n  github: {ulr: x}\n  need: {number: many}\n  core: {a: 1}\nwindows: {}\npublic_url: example.org\nusers:\n  a: {role: admin}\n"),
        ("packs/need/pack.yaml", "config: {must: string, number: {type: integer, default: 1}}\nname: other\nnope: 1\n"),
    ]), @r##"
    2:7 this pack is called `need`, after its folder
    3:1 `nope` is no key of pack.yaml
        known are config, description, name, needs, version
    2:3 there is no pack `githb`
        did you mean `github`?
    3:12 the pack `github` takes no `ulr`
        did you mean `url`?
    4:9 the configuration of `need`: `must` is missing
    4:18 `number` must be a whole number, not `many` (text)
    5:9 the pack `core` takes no configuration
    7:13 `public_url` must begin with http:// or https://, not `example.org`
    9:7 `role` is no key of a user
        did you mean `roles`?
    "##);
}

#[test]
fn mistakes_are_data_too() {
    let (_, mistakes) = read(&[("rules/r.yaml", "trigger: github.psh\nrun: core.noop\n")]);
    assert_eq!(
        serde_json::to_value(&mistakes).unwrap(),
        json!([{"file": "rules/r.yaml", "line": 1, "column": 10, "message": "there is no trigger `github.psh`", "help": "did you mean `github.push`?"}])
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 60, ..Default::default() })]
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let mut files = Files::from_texts(PACKS);
        for path in ["siskin.yaml", "rules/a.yaml", "packs/p/functions.rhai", "packs/p/pack.yaml", "workflows/w.yaml"] {
            files.texts.insert(path.to_owned(), bytes.as_slice().into());
        }
        let (_, mistakes) = Definitions::read(&files);
        show(&mistakes, &files, true);
    }

    #[test]
    fn no_text_like_yaml_makes_it_panic(words in proptest::collection::vec(proptest::sample::select(WORDS), 0..60)) {
        let text = words.concat();
        let mut files = Files::from_texts(PACKS);
        for path in ["siskin.yaml", "rules/a.yaml", "packs/p/sources/s.yaml", "packs/p/actions/a.yaml", "workflows/w.yaml", "apps/x.yaml", "packs/p/triggers/t.yaml"] {
            files.texts.insert(path.to_owned(), text.as_bytes().into());
        }
        let (_, mistakes) = Definitions::read(&files);
        show(&mistakes, &files, false);
    }
}

const WORDS: &[&str] = &[
    "steps:",
    "\n",
    "\n  ",
    "\n    ",
    "- ",
    "id: ",
    "a",
    "run: ",
    "core.shell",
    "with: ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    ": ",
    "\"",
    "'",
    "|\n",
    ">-\n",
    "{{ ",
    " }}",
    "when: ",
    "#{",
    "!x ",
    "&y ",
    "*y",
    "<<: ",
    "ü",
    "𝄞",
    "\t",
    "\r\n",
    "needs: ",
    "undo: ",
    "watch: ",
    "approve: ",
    "for: ",
    "trigger: ",
    "github.push",
    "steps.a.output.x",
    "event.ref",
    "==",
    "input: ",
    "type: ",
    "enum: ",
    "default: ",
    "1",
    "1.5",
    "~",
    "null",
    "yes",
    "? ",
    "---\n",
    "...\n",
    "\\",
    "%",
    "@",
    "payload: ",
    "kind: webhook",
    "verify: none",
    "runner: http",
    "http: ",
    "url: ",
    "hosts: ",
    "config: ",
    "secret('x')",
    "|",
    ">2\n",
    "# x",
    "\u{feff}",
    "\n  - id: ",
    "parallel: ",
    "for_each: ",
    "as: ",
    "max_failures: ",
    "concurrency: ",
    "worker: ",
    "same_as: ",
    "read: ",
    "window: ",
    "windows: ",
    "open: ",
    "closed: ",
    "2026-12-24",
    "..",
    "* * * * *",
    "time_zone: ",
];
