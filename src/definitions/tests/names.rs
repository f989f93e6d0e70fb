//! Keys, names of definitions, and the values that they are given.

use super::{in_rule, in_steps, in_workflow, mistakes};

#[test]
fn unknown_keys_get_the_nearest_right_one() {
    insta::assert_snapshot!(in_rule("triger: github.push\nrun: core.noop\nwiht: {}\n"), @r##"
    1:1 `triger` is no key of a rule
        did you mean `trigger`?
    1:1 a rule needs `trigger`
    3:1 `wiht` is no key of a rule
        did you mean `with`?
    "##);
    insta::assert_snapshot!(in_workflow("step:\n  - id: a\n"), @r##"
    1:1 `step` is no key of a workflow
        did you mean `steps`?
    1:1 a workflow needs `steps`
    "##);
}

#[test]
fn keys_that_are_not_built_yet_are_refused() {
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.noop\nnotify: {}\n"), @r##"
    3:1 `notify` is not built yet in this version
    "##);
    insta::assert_snapshot!(in_workflow("notify: {}\nsteps:\n  - id: a\n    run: core.noop\n    notify: {}\n"), @r##"
    1:1 `notify` is not built yet in this version
    5:5 `notify` is not built yet in this version
    "##);
    insta::assert_snapshot!(mistakes(&[
        ("packs/a/actions/x.yaml", "runner: ssh\nssh: {host: a}\n"),
        ("apps/x.yaml", "notify: {}\nenvironments:\n  a: {hosts: {consul: x}, window: office}\n"),
    ]), @r##"
    1:1 `notify` is not built yet in this version
    3:35 there is no window `office`
        in siskin.yaml: windows: {office: {open: ["* 9-16 * * mon-fri"]}}
    1:9 the runner `ssh` is not built yet in this version
    2:1 `ssh` is not built yet in this version
    "##);
}

#[test]
fn hosts_are_named_or_found_in_one_place() {
    let environments = "environments:\n  a: {hosts: {consul: x, role: app, canary: false, at_least: 2, ssh: {user: u}}}\n  b: {hosts: {consul: x, role: app, tag: b}}\n  c: {hosts: {file: a, canary: true}}\n  d: {hosts: {comand: a}}\n  e: {hosts: {command: []}}\n  f: {hosts: {command: x, ssh: {host: y}}}\n  g: {hosts: {consul: x, canary: true}}\n";
    insta::assert_snapshot!(mistakes(&[("apps/x.yaml", environments)]), @r##"
    3:32 `hosts` have either a `role` or a `tag`
        `role` gives the tag by the convention, `tag` says it
    4:21 `file` must be an absolute path: it is read where the work is done
    4:24 `canary` is no key of `hosts` from a file
        known are at_least, file, roots, ssh
    5:14 `hosts` must be a list, or say where they are found
        hosts: {consul: shop, tag: app}, {file: PATH} or {command: ...}
    6:24 `command` names no program
    7:33 `host` is no key of `ssh` of hosts
        did you mean `host_keys`?
    8:34 `canary` says which tag a `role` has; there is no `role` here
    "##);
}

#[test]
fn what_asks_hosts_and_what_gives_them_their_traffic_is_checked() {
    let environments = "environments:\n  a:\n    hosts: [web1]\n    check: {htp: /health}\n    balancer: {haproxy: here, drian: 30s}\n    analysis: {queries: [{query: up}]}\n  b:\n    hosts: [web1]\n    check: {http: health, port: 99999}\n";
    insta::assert_snapshot!(mistakes(&[("apps/x.yaml", environments)]), @r##"
    4:12 `check` must say how a host is asked: `http`, `tcp`, `consul` or `script`
        check: {http: /health, port: 8080}, {tcp: 8080}, {consul: SERVICE} or {script: ..}
    5:25 `here` is no socket: the path of one, or HOST:PORT
        haproxy: [/run/haproxy/admin.sock, "lb2.example.org:9999"]
    5:31 `drian` is no key of `balancer`
        did you mean `drain`?
    6:26 the query `up` says neither `max` nor `min`: what it may be
        max: 0.01
    9:19 `http` must be a path or an address, not `health`
        http: /health asks the host itself; http: "https://{name}.example.org/health" says it all
    9:33 `port` must be a port: 1 to 65535
    "##);
}

#[test]
fn unknown_definitions_get_the_nearest_right_name() {
    insta::assert_snapshot!(in_rule("trigger: github.psuh\nrun: ci.biuld\n"), @r##"
    1:10 there is no trigger `github.psuh`
        did you mean `github.push`?
    2:6 there is no action or workflow `ci.biuld`
        did you mean `ci.build`?
    "##);
    insta::assert_snapshot!(in_rule("trigger: push\nrun: build\n"), @r##"
    1:10 there is no trigger `push` in pack `site`, where a name without a dot is looked up
        did you mean `github.push`?
    2:6 there is no action or workflow `build` in pack `site`, where a name without a dot is looked up
        did you mean `ci.build`?
    "##);
    insta::assert_snapshot!(in_rule("trigger: [github.push, github.nothing]\nrun: zzz\n"), @r##"
    1:24 there is no trigger `github.nothing`
        did you mean `github.push`?
    2:6 there is no action or workflow `zzz` in pack `site`, where a name without a dot is looked up
        known are ci.build, ci.child, ci.restore, core.echo, core.noop, core.shell
    "##);
    insta::assert_snapshot!(in_rule("trigger: \"github.{{ event.x }}\"\nrun: \"{{ event.x }}\"\n"), @r##"
    1:10 `trigger` is never a template: it names something that must be known beforehand
    2:6 `run` is never a template: it names something that must be known beforehand
    "##);
}

#[test]
fn what_is_given_is_held_against_what_is_taken() {
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: ci.build\nwith: {comit: a}\n"), @r##"
    2:6 ci.build needs `commit`
        with: {commit: string}
    3:8 ci.build takes no `comit`
        did you mean `commit`?
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: ci.build\nwith:\n  commit: [a]\n  count: \"3\"\n  span: soon\n  values: {level: high, levle: 1}\n"), @r##"
    4:11 `commit` must be text, not a list
    5:10 `count` must be a whole number, not `3` (text)
    6:9 `span` must be a duration: `soon` is not a duration; write it like 90s, 15m, 2h or 3d
    7:19 `values.level` must be a whole number, not `high` (text)
    7:25 `values` takes no `levle`
        did you mean `level`?
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: core.noop\nwith: {a: 1}\n"), @r##"
    3:8 core.noop takes no `a`
        it takes nothing at all
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: ci.build\nwith: {commit: ~}\n"), @r##"
    2:6 ci.build needs `commit`
        with: {commit: string}
    "##);
    assert_eq!(
        in_rule(
            "trigger: github.push\nrun: ci.build\nwith: {commit: x, count: \"{{ event.n }}\", span: 15m}\n"
        ),
        ""
    );
}

#[test]
fn fields_are_declared_rightly() {
    insta::assert_snapshot!(in_workflow("input:\n  a: str\n  b: {type: integer, default: x, patern: y}\n  c: {type: string, pattern: \"[\", enum: [1, 2], default: 3}\n  d: {type: boolean, default: yes}\n  e-f: string\n  g: {type: array, items: {type: nope}, min: many}\n  h: {type: string, items: string}\n  i: {default: ~, type: string}\nsteps:\n  - {id: a, run: core.noop}\n"), @r##"
    2:6 there is no type `str`
        did you mean `string`?
    3:31 `default` must be a whole number, not `x` (text)
    3:34 `patern` is no key of a field
        did you mean `pattern`?
    4:30 `pattern` is no regular expression: unclosed character class
    4:58 `default` must be one of 1, 2, not `3` (text)
    5:31 `default` must be true or false, not `yes` (text)
    6:3 `e-f` is no name of a field: those are letters, digits and `_`, a letter first
    7:34 there is no type `nope`
        known are any, array, boolean, duration, file, integer, number, object, string
    7:46 `min` must be a number, not `many`
    8:28 `items` belongs to an array
    9:16 `default` is null
        say `optional: true` for what may be missing
    "##);
}

#[test]
fn actions_are_checked_to_the_last_key() {
    insta::assert_snapshot!(mistakes(&[
        ("packs/a/actions/one.yaml", "runner: http\ninput: {job: string}\nhttp:\n  method: FETCH\n  url: \"{{ config.base }}/{{ input.jb }}\"\n  auth: {basic: [a], bearer: x}\n  form: {}\n  json: {}\n  expect: [ok]\nshell: {script: x}\noutput: {a: \"{{ response.header.x }}\", b: \"{{ secret('x') }}\"}\n"),
        ("packs/a/actions/two.yaml", "runner: script\nscript: {file: bin/y.py}\n"),
        ("packs/a/bin/x.py", ""),
        ("packs/a/actions/three.yaml", "runner: shell\n"),
        ("packs/a/actions/four.yaml", "description: x\n"),
        ("packs/a/actions/five.yaml", "runner: http\nhttp: {headers: {}}\noutput: {a: \"{{ event.x }}\"}\ntimeout: soon\n"),
        ("packs/a/triggers/t.yaml", "payload: {type: strange}\n"),
    ]), @r##"
    2:7 `http` needs `url`
    3:17 there is no `event` in an action's `output`
        known are apps, config, input, response, result
    4:10 `timeout`: `soon` is not a duration; write it like 90s, 15m, 2h or 3d
    1:1 an action needs `runner`
    4:11 there is no method `FETCH`
        known are DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT
    5:12 the pack `a` takes no configuration
        say what it takes in packs/a/pack.yaml: config: {base: string}
    5:30 `input` has no `jb`
        known are job
    6:9 `auth` is either `basic` or `bearer`
    6:17 `basic` is a list of user and password
    8:3 a request has one body: `form` and `json` are two
    9:12 `expect` must be a whole number from 100, not `ok`
    10:1 `shell` belongs to the runner of that name; this action's runner is `http`
    11:17 `response` has no `header` here
        did you mean `headers`?
    11:43 a secret may not stand here: its value would be stored and shown
        give it in the `with` or `env` of the step that runs the action, in `undo`, or in the action's own file
    1:1 an action with the runner `shell` needs `shell: {script: ...}`
    2:16 the pack `a` has no file `bin/y.py`
        did you mean `bin/x.py`?
    1:10 `payload` is no JSON schema: "strange" is not valid under any of the schemas listed in the 'anyOf' keyword at /type
    "##);
}

#[test]
fn ways_to_verify_and_limits_are_checked_to_the_last_key() {
    let mistakes_of = |rest: &str| {
        let text = format!("kind: webhook\npath: a\ntrigger: push\n{rest}\n");
        mistakes(&[("packs/github/sources/a.yaml", &text)])
    };
    let all: Vec<String> = [
        "verify: slack",
        "verify: []",
        "verify: [none, {slack: {secret: s}}]",
        "verify: {slack: {secret: s}, token: {query: t, secret: s}}",
        "verify: {slak: {secret: s}}",
        "verify: {circleci: {secret: [], header: x}}",
        "verify: [{basic: {secret: s}}, {basic: {user: \"a:b\", secret: s}}]",
        "verify: none\nlimit: {size: 2 TB, rate: many, depth: 65, count: 1}",
        "verify: none\nlimit: {size: 26MiB, rate: 0/s, depth: 0}",
        "verify: none\nanswer: \"{{ item }}\"",
    ]
    .map(mistakes_of)
    .to_vec();
    insta::assert_snapshot!(all.join("\n"), @r##"
    4:9 `slack` needs to know its secret
        verify: {slack: {secret: NAME, ..}}
    4:9 `verify` is an empty list
        say `verify: none`
    4:10 `none` among others lets everybody in
        take it out
    4:9 `verify` is one of `hmac_sha256`, `standard_webhooks`, `slack`, `circleci`, `token`, `basic`, or `none`
        several, of which one is enough, are a list
    4:9 `verify` is one of `hmac_sha256`, `standard_webhooks`, `slack`, `circleci`, `token`, `basic`, or `none`
        several, of which one is enough, are a list
    4:10 `slak` is no key of `verify`
        did you mean `slack`?
    4:29 `secret` is an empty list
        secret: NAME
    4:33 `header` is no key of `circleci`
        known are secret
    4:18 `basic` needs `user`
    4:47 the `user` of basic authentication has no `:` in it
    5:15 `size` must be a number of bytes, not `2 TB`
        size: 2MB; 25MiB is the most
    5:27 `rate` must be a number in a time, not `many`
        rate: 100/s, 600/m or 50/10s; 1000000 are the most
    5:40 `depth` is at most 64: nothing deeper is stored
    5:44 `count` is no key of `limit`
        known are depth, rate, size
    5:15 `size` must be a number of bytes, not `26MiB`
        size: 2MB; 25MiB is the most
    5:28 `rate` must be a number in a time, not `0/s`
        rate: 100/s, 600/m or 50/10s; 1000000 are the most
    5:40 `depth` must be a whole number from 1, not `0`
    5:13 there is no `item` in a source
        known are apps, body, config, headers, path, query
    "##);
    let fine = "verify: [{slack: {secret: [new, old]}}, {basic: {user: a, secret: s}}]\nlimit: {size: 500 KB, rate: 50/10s, depth: 8}\nanswer: \"{{ body.x }}\"";
    assert_eq!(mistakes_of(fine), "");
}

#[test]
fn sources_are_checked_to_the_last_key() {
    insta::assert_snapshot!(mistakes(&[
        ("packs/github/sources/a.yaml", "kind: webhook\npath: /Git Hub\ntrigger: psh\n"),
        ("packs/github/sources/b.yaml", "kind: webhok\n"),
        ("packs/github/sources/c.yaml", "path: x\n"),
        ("packs/github/sources/d.yaml", "kind: webhook\npath: d\nverify: nothing\ntrigger: \"{{ item.x }}\"\n"),
        ("packs/github/sources/e.yaml", "kind: webhook\npath: e\nverify: {token: {secret: s}}\ntrigger: push\n"),
        ("packs/github/sources/f.yaml", "kind: webhook\npath: f\nverify: {hmac_sha256: {secret: s}}\ntrigger: push\neach: body.x +\n"),
        ("packs/github/sources/g.yaml", "kind: webhook\npath: same\nverify: none\ntrigger: push\n"),
        ("packs/github/sources/h.yaml", "kind: webhook\npath: same\nverify: none\ntrigger: push\n"),
    ]), @r##"
    1:1 a webhook source needs `verify`
        say how deliveries prove where they come from, or that they need not: `verify: none`
    2:7 `/Git Hub` is no path: small letters, digits, `_`, `-` and `/` inside
        path: github is reached as POST /hooks/github
    3:10 there is no trigger `psh` in pack `github`, where a name without a dot is looked up
        did you mean `github.push`?
    1:7 there is no kind of source `webhok`
        did you mean `webhook`?
    1:1 a source needs `kind`
        kind: webhook
    3:9 there is no way `nothing` to verify
        known are basic, circleci, hmac_sha256, slack, standard_webhooks, token
    4:14 there is no `item` in a source
        known are apps, body, config, headers, path, query
    3:17 a token comes either in a `header` or in a `query` parameter
        for either, write two `token`s in a list
    3:23 `hmac_sha256` needs `header`
    5:14 script is incomplete
    1:1 the path `same` is that of the source github.g too
        rename one of them
    "##);
}

#[test]
fn apps_are_checked_to_the_last_key() {
    insta::assert_snapshot!(mistakes(&[(
        "apps/x.yaml",
        "ownr: a\nenvironments:\n  Prod: {hosts: [a, a, {name: b, root: x, ssh: {}}, {ssh: {host: c}}], batch: many, max_unavailable: 0}\n  test: {suite: x}\n",
    )]), @r##"
    1:1 `ownr` is no key of an app
        did you mean `owner`?
    3:3 `Prod` is no name of an environment: small letters, digits, `_` and `-`, a letter first
    3:21 the host `a` stands here twice
    3:40 a host is reached by `ssh` or is a `root` on this machine, not both
    3:53 a host needs `name`
    3:79 `batch` must be a number of hosts or a percentage such as 25%, not `many`
    3:102 `max_unavailable` must be a number of hosts or a percentage such as 25%, not `0`
    4:9 an environment needs `hosts`
    "##);
}

#[test]
fn a_step_does_one_thing_with_the_keys_that_belong_to_it() {
    insta::assert_snapshot!(in_steps("  - id: a\n  - id: b\n    run: core.noop\n    shell: x\n  - id: c\n    sleep: 5m\n    retry: {attempts: 2}\n    with: {}\n    timeout: 1m\n    undo: {run: core.noop}\n  - run: core.noop\n  - id: Bad-Id\n    run: core.noop\n  - id: c\n    run: core.noop\n    env: {A: b}\n"), @r##"
    3:5 this step does nothing: it needs one of run, shell, approve, watch, wait_for, sleep, emit, steps, parallel
    6:5 a step does one thing: `run` and `shell` are two
        make two steps of it
    9:5 `retry` belongs to `run`, `shell`, `steps` and `parallel`, not to `sleep`
    10:5 `with` belongs to `run` and `emit`, not to `sleep`
    11:5 `timeout` belongs to `run`, `shell`, `approve`, `wait_for`, `steps` and `parallel`, not to `sleep`
    12:5 `undo` belongs to `run` and `shell`, not to `sleep`
    13:5 a step needs `id`
    14:9 `Bad-Id` is no name of a step: small letters, digits and `_`, a letter first
    16:5 two steps are called `c`; the other stands in line 7
        give each its own `id`
    18:5 `env` belongs to `shell`, not to `run`
    "##);
    insta::assert_snapshot!(in_workflow("steps:\n  - id: a\n    run: core.noop\nfinally:\n  - id: a\n    run: core.noop\n    undo: {run: core.noop}\n"), @r##"
    5:5 two steps are called `a`; the other stands in line 2
        give each its own `id`
    7:5 `undo` belongs to `steps`: what `finally` does is not taken back
    "##);
    insta::assert_snapshot!(in_workflow("steps: []\n"), @r##"1:8 `steps` has no steps"##);
    insta::assert_snapshot!(in_workflow("description: x\n"), @r##"1:1 a workflow needs `steps`"##);
}

#[test]
fn the_parts_of_a_step_are_checked() {
    insta::assert_snapshot!(in_steps("  - id: a\n    run: core.noop\n    retry: {delay: soon, backoff: 0.5, jitter: 2, lost: on}\n    start_on: fail\n    continue_on_failure: 1\n    timeout: 10\n"), @r##"
    5:12 `retry` needs `attempts`
    5:20 `delay`: `soon` is not a duration; write it like 90s, 15m, 2h or 3d
    5:35 `backoff` must be from 1 to 100, not 0.5
    5:48 `jitter` must be from 0 to 1, not 2
    5:57 `lost` must be true or false, not `on`
        write `lost: true`
    6:15 `start_on` must be success or failure or finished, not `fail`
        did you mean `failure`?
    7:26 `continue_on_failure` must be true or false, not `1`
    8:14 `timeout`: `10` is not a duration; write it like 90s, 15m, 2h or 3d
    "##);
    insta::assert_snapshot!(in_steps("  - id: a\n    approve: {of: [], count: 0, remind: 1h, fields: {a: nope}}\n  - id: b\n    watch: {check: {run: ci.child, with: {commit: x}, every: 0s}, abort_on: {when: event.x}}\n  - id: c\n    wait_for: {trigger: github.push, on_timeout: wait, timeout: 1h, or_poll: {}}\n    timeout: 1h\n  - id: d\n    sleep: tomorrow\n  - id: e\n    emit: github.nothing\n  - id: f\n    run: ci.child\n    with: {commit: x}\n    timeout: 1h\n    retry: {attempts: 2}\n"), @r##"
    4:14 `approve` needs `ask`
    4:19 `of` names nobody who could answer
    4:30 `count` must be a whole number from 1, not `0`
    4:57 there is no type `nope`
        known are any, array, boolean, duration, file, integer, number, object, string
    6:12 `watch` needs `for`
    6:20 `check` needs `healthy`
    6:26 `check` runs an action; ci.child is a workflow
    6:62 `every` must be longer than nothing
    6:77 `abort_on` needs `trigger`
    8:50 `on_timeout` must be fail or continue, not `wait`
        known are continue, fail
    8:78 `or_poll` needs `every`
    8:78 `or_poll` needs `run`
    8:78 `or_poll` needs `until`
    9:5 `timeout` is said twice for this step
        keep one of them
    11:12 `tomorrow` is neither a duration (15m) nor a time (2026-12-24T08:00:00Z)
    13:11 there is no trigger `github.nothing`
        did you mean `github.push`?
    17:5 a step that runs a workflow has no timeout of its own
        say `timeout` in that workflow
    "##);
}

#[test]
fn shell_needs_the_core_pack() {
    let files =
        crate::definitions::Files::from_texts([("workflows/w.yaml", "steps:\n  - id: a\n    shell: echo\n")]);
    let (_, mistakes) = crate::definitions::Definitions::read(&files);
    insta::assert_snapshot!(mistakes[0].to_string(), @r##"workflows/w.yaml:3:12: `shell` is the action core.shell, and there is no pack `core` here"##);
}

#[test]
fn a_pack_must_be_told_what_it_needs() {
    insta::assert_snapshot!(mistakes(&[("packs/need/pack.yaml", "config: {url: string, key: string}\n")]), @r##"
    1:1 the pack `need` must be told its url and key
        in siskin.yaml: config: {need: {url: ..., key: ...}}
    "##);
    let mut files = super::with_packs(&[
        ("packs/need/pack.yaml", "config: {url: string, key: string}\n"),
        ("packs/need/actions/a.yaml", "runner: native\n"),
        ("workflows/w.yaml", "steps:\n  - id: a\n    run: need.a\n"),
    ]);
    files.embedded.insert("packs/need/pack.yaml".to_owned());
    let (_, found) = crate::definitions::Definitions::read(&files);
    insta::assert_snapshot!(found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"), @r##"workflows/w.yaml:3:10: the pack `need` must be told its url and key"##);
    files.texts.insert("siskin.yaml".to_owned(), b"config: {need: {url: x, key: y}}\n".as_slice().into());
    assert_eq!(crate::definitions::Definitions::read(&files).1, []);
}
