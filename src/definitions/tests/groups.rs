//! Groups: `steps` and `parallel` in a step, and who sees what of them.

use super::{in_steps, in_workflow, read};
use crate::definitions::Workflow;
use crate::definitions::workflow::{Group, Kind};

/// The workflow of a text without mistakes.
fn workflow(text: &str) -> (std::sync::Arc<Workflow>, crate::definitions::Definitions) {
    let (definitions, mistakes) = read(&[("workflows/w.yaml", text)]);
    assert_eq!(mistakes, []);
    (definitions.workflow_of("site.w").unwrap(), definitions)
}

/// `id(group): needs`
fn order(workflow: &Workflow) -> Vec<String> {
    let shown = workflow.steps.iter().map(|step| {
        let group = step.group.as_ref().map(|group| format!("({group})")).unwrap_or_default();
        format!("{}{group}: {}", step.id, step.needs.join(" "))
    });
    shown.collect()
}

#[test]
fn a_group_without_keys_of_its_own_is_only_structure() {
    let (workflow, _) = workflow(
        "steps:
  - {id: a, run: core.noop}
  - id: both
    parallel:
      - {id: b, run: core.noop}
      - {id: c, run: core.noop, needs: [b]}
      - id: d
        steps:
          - {id: e, run: core.noop}
          - {id: f, run: core.noop}
  - {id: z, run: core.noop}
",
    );
    assert_eq!(
        order(&workflow),
        ["a: ", "both: a", "b(both): ", "c(both): b", "d(both): ", "e(d): ", "f(d): e", "z: both"]
    );
    assert!(matches!(workflow.steps[1].kind, Kind::Group(Group::Inline)));
    assert!(workflow.groups.is_empty());
}

#[test]
fn a_group_with_a_loop_a_retry_or_a_timeout_is_a_run_of_its_own() {
    let (workflow, definitions) = workflow(
        "input: {hosts: array}
timeout: 2d
steps:
  - {id: a, run: ci.build, with: {commit: x}}
  - {id: unread, run: core.noop}
  - id: each
    for_each: input.hosts
    timeout: 5m
    steps:
      - {id: b, run: core.echo, with: {value: \"{{ item }} {{ index }}\"}}
      - id: inner
        retry: {attempts: 2}
        parallel:
          - {id: c, run: core.echo, with: {value: \"{{ steps.a.output.deb }} {{ steps.b.output.value }} {{ item }}\"}}
          - id: deep
            steps:
              - {id: d, run: core.echo, with: {value: \"{{ input.hosts }}\"}}
output: {all: \"{{ steps.each.output }}\"}
",
    );
    assert_eq!(order(&workflow), ["a: ", "unread: a", "each: unread"]);
    let Kind::Group(Group::Run { workflow: name, reads }) = &workflow.steps[2].kind else { panic!("a run") };
    assert_eq!((name.as_str(), reads.as_slice()), ("site.w#each", ["a".to_owned()].as_slice()));
    let each = definitions.workflow_of("site.w#each").unwrap();
    assert_eq!(order(&each), ["b: ", "inner: b"]);
    assert_eq!((each.gives_steps, each.timeout), (true, Some(crate::model::Span::minutes(5))));
    assert!(each.input.contains_key("hosts"));
    assert!(each.output.is_empty() && each.groups.is_empty());
    let Kind::Group(Group::Run { workflow: name, reads }) = &each.steps[1].kind else { panic!("a run") };
    assert_eq!(name, "site.w#inner");
    assert_eq!(reads, &["a", "b"]);
    let inner = definitions.workflow_of("site.w#inner").unwrap();
    assert_eq!(order(&inner), ["c: ", "deep: ", "d(deep): "]);
    assert_eq!(inner.timeout, None);
    assert!(definitions.workflow_of("site.w#b").is_none());
    assert!(definitions.callable("site.w#each").is_none(), "nobody starts a group by itself");
}

#[test]
fn a_step_that_is_read_by_a_name_known_later_may_be_any() {
    let (workflow, _) = workflow(
        "input: {which: string}
steps:
  - {id: a, run: core.noop}
  - {id: b, run: core.noop}
  - id: g
    timeout: 1h
    steps:
      - {id: c, run: core.noop, when: 'steps[input.which].status == \"succeeded\"'}
",
    );
    let Kind::Group(Group::Run { reads, .. }) = &workflow.steps[2].kind else { panic!("a run") };
    assert_eq!(reads, &["a", "b"]);
}

#[test]
fn outside_of_a_group_only_its_output_is_seen() {
    insta::assert_snapshot!(in_steps("  - id: g
    parallel:
      - {id: build, run: ci.build, with: {commit: x}}
      - id: inner
        steps:
          - {id: deep, run: ci.build, with: {commit: x}}
  - id: each
    for_each: [1, 2]
    steps:
      - {id: one, run: core.noop}
  - id: b
    run: core.echo
    with:
      value: [\"{{ steps.build.output.deb }}\", \"{{ steps.deep.output.info.version }}\", \"{{ steps.deep.status }}\", \"{{ steps.one.output }}\"]
  - id: c
    run: core.echo
    with:
      value: [\"{{ steps.g.output.build.deb }}\", \"{{ steps.g.output.inner.deep.info.version }}\", \"{{ steps.each.output[0].one }}\"]
  - id: d
    run: core.echo
    with:
      value: [\"{{ steps.g.output.build.dbe }}\", \"{{ steps.g.output.biuld.deb }}\", \"{{ steps.g.output.inner.deep.info.vrsion }}\", \"{{ steps.each.output.one }}\"]
"), @r##"
    16:19 `build` stands in the group `g`: outside, only the group's output is seen
        read `steps.g.output.build.deb`
    16:51 `deep` stands in the group `g`: outside, only the group's output is seen
        read `steps.g.output.inner.deep.info.version`
    16:91 `deep` stands in the group `g`: outside, only the group's output is seen
        read `steps.g.output.inner.deep`
    16:118 `one` stands in the group `each`: outside, only the group's output is seen
        `steps.each.output` is a list; of its first item, read `steps.each.output[0].one`
    24:19 `steps.g.output.build` has no `dbe`
        did you mean `deb`?
    24:53 `steps.g.output` has no `biuld`
        did you mean `build`?
    24:87 `steps.g.output.inner.deep.info` has no `vrsion`
        did you mean `version`?
    24:134 `steps.each.output` is a list, with an entry for each item: it has no `one`
        of the first item: `steps.each.output[0].one`
    "##);
}

#[test]
fn members_see_what_their_group_waits_for_and_members_before_them() {
    assert_eq!(
        in_workflow(
            "steps:
  - {id: a, run: ci.build, with: {commit: x}}
  - id: g
    steps:
      - {id: b, run: core.echo, with: {value: \"{{ steps.a.output.deb }}\"}}
      - id: h
        parallel:
          - {id: c, run: core.echo, with: {value: \"{{ steps.a.output.deb }} {{ steps.b.output.value }}\"}, undo: {run: core.echo, with: {value: \"{{ steps.c.output.value }}\"}}}
finally:
  - id: f
    parallel:
      - {id: k, run: core.echo, with: {value: \"{{ run.status }} {{ steps.g.output }} {{ steps.a.output.deb }}\"}}
"
        ),
        ""
    );
    insta::assert_snapshot!(in_workflow("steps:
  - id: g
    parallel:
      - {id: a, run: core.noop}
      - {id: b, run: core.echo, with: {value: \"{{ steps.a.output }} {{ steps.z.output }} {{ steps.g.output }}\"}}
      - id: h
        steps:
          - {id: c, run: core.echo, with: {value: \"{{ steps.b.output }} {{ steps.d.output }}\"}}
          - {id: d, run: core.noop}
  - {id: z, run: core.noop}
"), @r##"
    5:51 step `b` reads `steps.a` but does not wait for it
        both are in `parallel`: say `needs: [a]` for `b`
    5:72 step `b` reads `steps.z` but does not wait for it
        put `z` above the group `g`
    5:93 step `b` reads the output of `g`, the group that it is a part of
        that is known when all steps of the group have ended
    8:55 step `c` reads `steps.b` but does not wait for it
        both are in `parallel`: say `needs: [b]` for `h`
    8:76 step `c` reads `steps.d` but does not wait for it
        put `d` above `c`
    "##);
    insta::assert_snapshot!(in_workflow("steps:
  - {id: a, run: core.noop}
  - {id: x, needs: [], run: core.noop}
  - id: g
    needs: [a]
    steps:
      - {id: b, run: core.echo, with: {value: \"{{ steps.x.output }}\"}}
"), @r##"
    7:51 step `b` reads `steps.x` but does not wait for it
        add `x` to the `needs` of the group `g`
    "##);
}

#[test]
fn needs_stay_within_their_group() {
    insta::assert_snapshot!(in_workflow("steps:
  - {id: a, needs: [], run: core.noop}
  - id: g
    needs: [a]
    steps:
      - {id: b, needs: [a], run: core.noop}
      - {id: c, needs: [g], run: core.noop}
      - {id: d, run: core.noop}
      - {id: i, needs: [j], run: core.noop}
      - {id: j, needs: [i], run: core.noop}
  - {id: z, needs: [b], run: core.noop}
  - {id: y, needs: [bb], run: core.noop}
"), @r##"
    6:25 step `b` needs `a`, which is no step here
        `needs` names steps of the same group; what all of `g` waits for stands in the `needs` of `g`
    7:25 step `c` needs `g`, which is no step here
        it is a part of `g`, which ends after it
    8:9 step `d` does not say what it needs, and others of this graph do
        needs: [c], or `needs: []` for nothing
    9:25 these steps wait for one another: `i` needs `j` needs `i`
        take one of these needs away
    11:21 step `z` needs `b`, which is no step here
        it stands in the group `g`: needs: [g]
    12:21 step `y` needs `bb`, which is no step here
        known are a, g, z
    "##);
}

#[test]
fn a_group_takes_what_fits_a_group() {
    insta::assert_snapshot!(in_workflow("steps:
  - id: g
    parallel: []
  - id: h
    steps: [{id: a, run: core.noop}]
    undo: {run: core.noop}
    worker: {pool: a}
    read: {a: b}
    window: office
    with: {a: 1}
    until: 'true'
    every: 3s
  - id: i
    steps: [{id: k, run: core.noop}]
    parallel: [{id: l, run: core.noop}]
  - id: j
    steps: {id: m}
"), @r##"
    3:15 `parallel` has no steps
    6:5 `undo` belongs to `run` and `shell`, not to `steps`
        say it for the steps of the group: what they did is taken back step by step
    7:5 `worker` belongs to `run` and `shell`, not to `steps`
        say it for the steps of the group
    8:5 `read` belongs to `run`, `shell`, `approve`, `watch`, `wait_for`, `sleep` and `emit`, not to `steps`
        say it for the steps of the group
    9:5 `window` belongs to `run`, `shell`, `approve`, `watch`, `wait_for`, `sleep` and `emit`, not to `steps`
        say it for the steps of the group
    9:13 there is no window `office`
        in siskin.yaml: windows: {office: {open: ["* 9-16 * * mon-fri"]}}
    10:5 `with` belongs to `run` and `emit`, not to `steps`
        say it for the steps of the group
    11:5 `until` belongs to `run` and `shell`, not to `steps`
        say it for the steps of the group
    12:5 `every` belongs to `run` and `shell`, not to `steps`
        say it for the steps of the group
    15:5 a step does one thing: `steps` and `parallel` are two
        make two steps of it
    17:12 `steps` must be a list
    "##);
    assert_eq!(
        in_workflow(
            "steps:
  - id: g
    parallel: [{id: a, run: core.noop}]
    for_each: [1]
    as: host
    concurrency: 2
    max_failures: 10%
    fail_fast: true
    when: 1 == 1
    retry: {attempts: 2, when: 'error.kind == \"failed\" && host == 1'}
    timeout: 1h
    lock: x
    continue_on_failure: true
  - {id: h, start_on: failure, steps: [{id: b, run: core.noop}]}
on_failure:
  - {id: i, parallel: [{id: c, run: core.noop}, {id: d, run: core.noop}]}
"
        ),
        ""
    );
}

#[test]
fn ids_are_unique_in_the_whole_file() {
    insta::assert_snapshot!(in_workflow("steps:
  - {id: g, parallel: [{id: a, run: core.noop}, {id: b, run: core.noop}]}
  - {id: h, parallel: [{id: a, run: core.noop}, {id: g, run: core.noop}]}
"), @r##"
    3:24 two steps are called `a`; the other stands in line 2
        give each its own `id`
    3:49 two steps are called `g`; the other stands in line 2
        give each its own `id`
    "##);
}

#[test]
fn a_workflow_may_run_itself() {
    assert_eq!(in_workflow("steps:\n  - {id: again, run: w}\n"), "");
}
