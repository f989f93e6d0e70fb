//! Which names stand where, and where a secret may.

use super::{in_rule, in_steps, in_workflow, mistakes};

#[test]
fn a_rule_sees_its_event_and_no_steps() {
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: steps.a == 1 || matched.x || meta.ide == 3 || input.a\nrun: core.echo\nwith: {value: \"{{ run.id }} {{ matched.x }} {{ apps.shpo.owner }} {{ apps.shop.ownr }} {{ config.x }}\"}\n"), @r##"
    2:7 there is no `steps` in a rule's `when`
        known are apps, config, event, meta
    2:23 there is no `matched` in a rule's `when`
        known are apps, config, event, meta
    2:36 `meta` has no `ide` here
        did you mean `id`?
    2:53 there is no `input` in a rule's `when`
        known are apps, config, event, meta
    4:19 there is no `run` in a rule
        known are apps, config, event, matched, meta
    4:48 `apps` has no `shpo`
        did you mean `shop`?
    4:70 `apps.shop` has no `ownr`
        did you mean `owner`?
    "##);
}

#[test]
fn a_workflow_sees_its_input_and_no_event() {
    insta::assert_snapshot!(in_steps("  - id: a\n    when: event.ref == \"x\"\n    run: core.echo\n    with: {value: \"{{ input.comit }} {{ run.error }} {{ run.ur }} {{ error.kind }}\"}\n"), @r##"
    4:11 there is no `event` in a workflow
        what a workflow needs of an event comes by its `input`
    6:23 `input` has no `comit`
        did you mean `commit`?
    6:41 `run` has no `error` here
        that is known in `on_failure` and `finally` only
    6:57 `run` has no `ur` here
        did you mean `url`?
    6:70 there is no `error` in a workflow
        known are apps, config, input, run, steps
    "##);
    insta::assert_snapshot!(in_workflow("steps:\n  - {id: a, run: core.noop}\noutput: {x: \"{{ run.failed_step }} {{ output.x }}\"}\n"), @r##"
    3:17 `run` has no `failed_step` here
        that is known in `on_failure` and `finally` only
    3:39 there is no `output` in a workflow's `output`
        known are apps, config, input, run, steps
    "##);
}

#[test]
fn each_key_has_its_own_names_besides() {
    assert_eq!(
        in_steps(
            "  - id: a\n    run: ci.build\n    with: {commit: x}\n    retry: {attempts: 2, when: 'error.kind == \"lost\" || output?.code == 1'}\n  - id: b\n    watch: {for: 1m, check: {run: ci.build, with: {commit: x}, every: 1s, healthy: output.deb == input.commit}}\n"
        ),
        ""
    );
    insta::assert_snapshot!(in_steps("  - id: a\n    run: ci.build\n    with: {commit: x}\n    retry: {attempts: 2, when: error.knd == event.x}\n  - id: b\n    watch: {for: 1m, check: {run: ci.build, with: {commit: x}, every: 1s, healthy: output.dbe == error.x}}\n"), @r##"
    6:32 `error` has no `knd` here
        did you mean `kind`?
    6:45 there is no `event` in `retry.when`
        what a workflow needs of an event comes by its `input`
    8:84 `output` has no `dbe`
        did you mean `deb`?
    8:98 there is no `error` in `healthy`
        known are apps, config, input, output, run, steps
    "##);
}

#[test]
fn config_is_that_of_the_own_pack() {
    insta::assert_snapshot!(mistakes(&[
        ("packs/github/rules/r.yaml", "trigger: push\nwhen: config.url == config.ulr\nrun: core.noop\n"),
        ("packs/ci/rules/r.yaml", "trigger: github.push\nwhen: config.url == 1\nrun: core.noop\n"),
    ]), @r##"
    2:7 the pack `ci` takes no configuration
        say what it takes in packs/ci/pack.yaml: config: {url: string}
    2:21 `config` has no `ulr`
        did you mean `url`?
    "##);
}

#[test]
fn what_may_be_missing_is_not_looked_up() {
    assert_eq!(
        in_rule(
            "trigger: github.push\nwhen: apps?.nothing?.owner == ()\nrun: core.echo\nwith: {value: \"{{ apps.nope | default('x') }}\"}\n"
        ),
        ""
    );
}

#[test]
fn a_secret_stands_only_where_nothing_keeps_it() {
    insta::assert_snapshot!(in_steps("  - id: a\n    approve: {ask: \"{{ secret('a') }}\", of: x, show: {b: \"{{ secret('b') }}\"}}\n  - id: b\n    run: ci.child\n    with: {commit: \"{{ secret('c') }}\"}\n  - id: c\n    emit: github.push\n    with: {ref: \"{{ secret('d') }}\"}\n"), @r##"
    4:20 a secret may not stand here: its value would be stored and shown
        give it in the `with` or `env` of the step that runs the action, in `undo`, or in the action's own file
    4:58 a secret may not stand here: its value would be stored and shown
        give it in the `with` or `env` of the step that runs the action, in `undo`, or in the action's own file
    7:20 a secret may not stand here: the input of a workflow is stored; secrets go to actions only
        give it in the `with` or `env` of the step that runs the action, in `undo`, or in the action's own file
    10:17 a secret may not stand here: its value would be stored and shown
        give it in the `with` or `env` of the step that runs the action, in `undo`, or in the action's own file
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nrun: ci.build\nwith: {commit: \"{{ secret('a') }}\"}\non_behalf_of: \"{{ secret('b') }}\"\n"), @r##"
    3:16 a secret may not stand here: its value would be stored and shown
        give it in the `with` or `env` of the step that runs the action, in `undo`, or in the action's own file
    4:15 a secret may not stand here: its value would be stored and shown
        give it in the `with` or `env` of the step that runs the action, in `undo`, or in the action's own file
    "##);
    insta::assert_snapshot!(in_steps("  - id: a\n    run: ci.build\n    with: {commit: \"{{ secret(input.commit) }}\"}\n"), @r##"5:24 secret() takes a name in quotes or a value from config or apps, never from event or input"##);
    assert_eq!(
        in_steps(
            "  - id: a\n    shell: x\n    env: {T: \"{{ secret('t') }}\"}\n  - id: b\n    run: ci.build\n    with: {commit: \"{{ secret('t') }}\"}\n"
        ),
        ""
    );
}

#[test]
fn templates_do_not_stand_in_scripts_nor_scripts_in_maps() {
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: \"event.ref == '{{ event.x }}'\"\nrun: core.noop\n"), @r##"
    2:22 `when` is a rhai script, not a template
        names stand there as they are: `event.ref`, without `{{ }}`
    "##);
    insta::assert_snapshot!(in_rule("trigger: github.push\nwhen: [event.ref]\nrun: core.noop\n"), @r##"2:7 `when` must be text"##);
}
