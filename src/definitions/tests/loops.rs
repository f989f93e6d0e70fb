//! `for_each`, the names that it gives, and the values that a step reads from the KV store.

use super::{in_steps, in_workflow, read};
use crate::definitions::workflow::{ForEach, List, MaxFailures};
use crate::model::OnLimit;

fn for_each(keys: &str) -> ForEach {
    let text = format!("input: {{hosts: array}}\nsteps:\n  - id: a\n    run: core.noop\n{keys}");
    let (definitions, mistakes) = read(&[("workflows/w.yaml", &text)]);
    assert_eq!(mistakes, []);
    definitions.workflows["site.w"].steps[0].for_each.clone().unwrap()
}

#[test]
fn items_come_from_a_script_a_list_or_a_map_of_lists() {
    let each = for_each("    for_each: input.hosts\n");
    assert!(matches!(each.list, List::Script(_)));
    assert_eq!((each.name.as_str(), each.concurrency, each.fail_fast), ("item", 10, false));
    assert_eq!(each.max_failures, MaxFailures::Count(0));
    let each = for_each(
        "    for_each: [a, \"{{ input.hosts }}\", {b: 1}]\n    as: host\n    concurrency: 3\n    max_failures: 10%\n    fail_fast: true\n",
    );
    assert!(matches!(each.list, List::Tree(_)));
    assert_eq!((each.name.as_str(), each.concurrency, each.fail_fast), ("host", 3, true));
    assert_eq!(each.max_failures, MaxFailures::Percent(10));
    for_each("    for_each: {os: [linux, bsd], host: \"{{ input.hosts }}\"}\n    max_failures: 2\n");
    for_each("    for_each: \"1..=3\"\n");
    for_each("    for_each: \"#{a: [1, 2]}\"\n");
    for_each("    for_each: |\n      input.hosts.filter(|host| host.up)\n");
}

#[test]
fn what_can_be_no_list_is_refused() {
    insta::assert_snapshot!(in_steps("  - {id: a, run: core.noop, for_each: 3}
  - {id: b, run: core.noop, for_each: \"'linux'\"}
  - {id: c, run: core.noop, for_each: true}
  - {id: d, run: core.noop, for_each: {os: linux, n: 3, m: {a: 1}, t: \"x {{ input.commit }}\"}}
  - {id: e, run: core.noop, for_each: \"{{ input.commit }}\"}
  - {id: f, run: core.noop, for_each: \"0..200000\"}
  - {id: g, run: core.noop, for_each: {}}
  - {id: h, run: core.noop, for_each: \"#{a: 1}\"}
  - {id: i, run: core.noop, for_each: \"input.comit\"}
  - {id: j, run: core.noop, for_each: \"[1][3]\"}
"), @r##"
    3:39 `for_each` must be a list, and this is `3`
        for so many times: for_each: "1..=3"
    4:40 this is not how rhai writes it: texts stand in double quotes
    5:39 `for_each` must be a list, and this is `true`
        a list of one: for_each: [...]
    6:44 `os` of `for_each` must be a list, or one `{{ }}` that gives one
        a list of one: os: [linux]
    6:54 `n` of `for_each` must be a list, or one `{{ }}` that gives one
        a list of one: n: [3]
    6:60 `m` of `for_each` must be a list
    6:71 `t` of `for_each` must be a list, or one `{{ }}` that gives one
        a list of one: t: ["x {{ input.commit }}"]
    7:40 `for_each` is a rhai script, not a template
        names stand there as they are: `event.ref`, without `{{ }}`
    8:39 `for_each` takes 100000 items at most, not 200000
    9:39 `for_each` is a map of lists, and this one has none
    10:39 `for_each` must be a list, and this is a map of other things than lists
        a list of one: for_each: [...]
    11:40 `input` has no `comit`
        did you mean `commit`?
    12:39 `for_each` fails: the list has 1 items, there is no [3]
    "##);
}

#[test]
fn keys_of_a_loop_belong_to_one_and_are_numbers() {
    insta::assert_snapshot!(in_steps("  - {id: a, run: core.noop, as: x, concurrency: 3, max_failures: 1, fail_fast: true}
  - {id: b, run: core.noop, for_each: [1], concurrency: 0, max_failures: many, fail_fast: maybe}
  - {id: c, run: core.noop, for_each: [1], max_failures: 110%}
  - {id: d, sleep: 1s, for_each: [1]}
  - {id: e, approve: {ask: x, of: y}, for_each: [1]}
  - {id: f, emit: github.push, for_each: [1], with: {ref: \"{{ item }}\"}}
  - {id: g, run: core.noop, for_each: [1], concurrency: {limit: 3}}
"), @r##"
    3:29 `as` belongs to `for_each`, and this step has none
    3:36 `concurrency` belongs to `for_each`, and this step has none
    3:52 `max_failures` belongs to `for_each`, and this step has none
    3:69 `fail_fast` belongs to `for_each`, and this step has none
    4:57 `concurrency` must be a whole number from 1, not `0`
    4:74 `max_failures` must be a number of items or a percentage such as 10%, not `many`
    4:91 `fail_fast` must be true or false, not `maybe`
    5:58 `max_failures` must be a number of items or a percentage such as 10%, not `110%`
    6:24 `for_each` belongs to `run`, `shell`, `emit`, `steps` and `parallel`, not to `sleep`
    7:39 `for_each` belongs to `run`, `shell`, `emit`, `steps` and `parallel`, not to `approve`
    9:57 `concurrency` of a step is a number: how many items are done at once
        that of runs stands at the top of the workflow
    "##);
}

#[test]
fn the_item_is_known_where_each_is_done_and_nowhere_else() {
    assert_eq!(
        in_steps(
            "  - id: a
    for_each: [{name: x}]
    as: host
    run: core.echo
    with: {value: \"{{ host.name }} {{ index }}\"}
    retry: {attempts: 2, when: 'host.name == \"x\" && error.kind == \"failed\"'}
    until: output.value == host.name
    every: 3s
    worker: {pool: \"{{ host.name }}\"}
    undo: {run: core.echo, with: {value: \"{{ host }} {{ index }} {{ output.value }}\"}}
"
        ),
        ""
    );
    insta::assert_snapshot!(in_steps("  - id: a
    for_each: \"[item, index]\"
    run: core.echo
    with: {value: \"{{ itme }}\"}
    when: item == 1
    lock: \"{{ item }}\"
    read: {frozen: \"{{ index }}\"}
  - id: b
    run: core.echo
    with: {value: \"{{ item }}\"}
    undo: {run: core.echo, with: {value: \"{{ output }}\"}}
  - id: c
    for_each: {os: [a], arch: [b]}
    as: target
    run: core.echo
    with: {value: \"{{ target.os }} {{ target.arhc }} {{ item }}\"}
    undo: {run: core.echo, with: {value: \"{{ steps.c.output.value }}\"}}
  - id: d
    run: core.echo
    with: {value: \"{{ steps.c.output.value }} {{ steps.c.output[0].value }} {{ steps.c.output | length }}\"}
    when: steps.c.output.len() == 1
"), @r##"
    4:17 there is no `item` in a workflow
        `for_each` gives `item` to what is done for each item; itself, `when`, `lock` and `read` are judged once for all of them
    4:23 there is no `index` in a workflow
        `for_each` gives `index` to what is done for each item; itself, `when`, `lock` and `read` are judged once for all of them
    6:23 there is no `itme` in a workflow
        did you mean `item`?
    7:11 there is no `item` in a workflow
        `for_each` gives `item` to what is done for each item; itself, `when`, `lock` and `read` are judged once for all of them
    8:15 there is no `item` in a workflow
        `for_each` gives `item` to what is done for each item; itself, `when`, `lock` and `read` are judged once for all of them
    9:24 there is no `index` in a workflow
        `for_each` gives `index` to what is done for each item; itself, `when`, `lock` and `read` are judged once for all of them
    12:23 there is no `item` in a workflow
        `for_each` gives `item` to what is done for each item; itself, `when`, `lock` and `read` are judged once for all of them
    13:46 there is no `output` in a workflow
        known are apps, config, input, run, steps
    18:39 `target` has no `arhc`
        did you mean `arch`?
    18:57 there is no `item` in a workflow
        `for_each` gives `item` to what is done for each item; itself, `when`, `lock` and `read` are judged once for all of them
    19:46 `steps.c.output` is a list, with an entry for each item: it has no `value`
        in its `undo`, what the item gave is `output`: `output.value`
    22:23 `steps.c.output` is a list, with an entry for each item: it has no `value`
        of the first item: `steps.c.output[0].value`
    "##);
}

#[test]
fn no_name_hides_another() {
    insta::assert_snapshot!(in_steps("  - id: g
    for_each: [1]
    steps:
      - {id: a, for_each: [1], run: core.noop}
      - {id: b, for_each: [1], as: item, run: core.noop}
      - {id: c, for_each: [1], as: inner, run: core.echo, with: {value: \"{{ item }} {{ inner }} {{ index }}\"}}
  - {id: d, for_each: [1], as: input, run: core.noop}
  - {id: e, for_each: [1], as: case, run: core.noop}
  - {id: f, for_each: [1], as: Big-Name, run: core.noop}
  - {id: h, for_each: [1], as: none, run: core.noop}
  - {id: i, for_each: [1], as: item, run: core.noop}
  - {id: j, for_each: [1], as: x, read: {x: y}, run: core.noop}
  - {id: k, read: {steps: y, item: y, output: y, good: y}, run: core.noop}
"), @r##"
    6:17 an item of this step would hide that of the loop around it: both are called `item`
        give it another name: as: NAME
    7:36 `item` has a meaning already, which this would hide
        choose another name
    9:32 `input` has a meaning already, which this would hide
        choose another name
    10:32 `case` is a word of the language itself, so nothing can be called so
        choose another name
    11:32 `Big-Name` is no name: small letters, digits and `_`, a letter first
        choose another name
    12:32 `none` is a word of the language itself, so nothing can be called so
        choose another name
    14:32 `x` has a meaning already, which this would hide
        choose another name
    15:20 `steps` has a meaning already, which this would hide
        choose another name
    15:30 `item` has a meaning already, which this would hide
        choose another name
    15:39 `output` has a meaning already, which this would hide
        choose another name
    "##);
}

#[test]
fn what_a_step_reads_is_known_in_all_of_it_but_its_undo() {
    assert_eq!(
        in_steps(
            "  - id: a
    read: {frozen: \"freeze/{{ input.commit }}\", hosts: all}
    when: \"!frozen\"
    for_each: hosts
    lock: \"{{ frozen }}\"
    run: core.echo
    with: {value: \"{{ frozen }}\"}
  - {id: b, read: {since: t}, wait_for: {trigger: github.push, when: event.at > since}}
"
        ),
        ""
    );
    insta::assert_snapshot!(in_steps("  - id: a
    read: {one: x, two: \"{{ one }}\", three: [a]}
    run: core.noop
    undo: {run: core.echo, with: {value: \"{{ one }}\"}}
  - {id: b, run: core.echo, with: {value: \"{{ one }}\"}}
"), @r##"
    4:29 there is no `one` in a workflow
        known are apps, config, input, run, steps
    4:45 `three` must be text
    6:46 there is no `one` in a workflow
        known are apps, config, input, run, steps
    7:47 there is no `one` in a workflow
        known are apps, config, input, run, steps
    "##);
}

#[test]
fn a_workflow_says_how_many_of_its_runs_may_be_under_way() {
    let (definitions, mistakes) = read(&[
        ("workflows/a.yaml", "concurrency: {}\nsteps: [{id: a, run: core.noop}]\n"),
        (
            "workflows/b.yaml",
            "input: {app: string}\nconcurrency: {key: \"ship/{{ input.app }}\", limit: 2, on_limit: newest}\nsteps: [{id: a, run: core.noop}]\n",
        ),
    ]);
    assert_eq!(mistakes, []);
    let of = |name: &str| definitions.workflows[name].concurrency.clone().unwrap();
    let (a, b) = (of("site.a"), of("site.b"));
    assert_eq!((a.key.is_none(), a.limit, a.on_limit), (true, 1, OnLimit::Queue));
    assert_eq!((b.key.is_some(), b.limit, b.on_limit), (true, 2, OnLimit::Newest));
    assert_eq!(b.place.line, 2);
    insta::assert_snapshot!(in_workflow("input: {app: string}\nconcurrency: {key: \"{{ input.ap }} {{ run.id }} {{ steps.a.output }} {{ secret('x') }} {{ apps.shop.owner }}\", limit: 0, on_limit: wait, max: 3}\nsteps: [{id: a, run: core.noop}]\n"), @r##"
    2:20 a secret may not stand here: its value would be stored and shown
        give it in the `with` or `env` of the step that runs the action, in `undo`, or in the action's own file
    2:24 `input` has no `ap`
        did you mean `app`?
    2:39 there is no `run` in `concurrency.key`
        known are apps, config, input
    2:52 there is no `steps` in `concurrency.key`
        known are apps, config, input
    2:119 `limit` must be a whole number from 1, not `0`
    2:132 `on_limit` must be queue or newest or reject, not `wait`
        known are newest, queue, reject
    2:138 `max` is no key of `concurrency`
        known are key, limit, on_limit
    "##);
}
