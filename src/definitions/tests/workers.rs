//! Where steps are done, and keys that came to some kinds of step.

use super::{in_steps, in_workflow, read};
use crate::definitions::workflow::Kind;
use crate::model::Span;

#[test]
fn a_step_says_which_workers_may_do_it() {
    let (definitions, mistakes) = read(&[(
        "workflows/w.yaml",
        "input: {arch: string}
steps:
  - {id: a, run: core.noop, worker: {pool: build, labels: {arch: \"{{ input.arch }}\", os: linux}}}
  - {id: b, shell: make, worker: {same_as: a}}
",
    )]);
    assert_eq!(mistakes, []);
    let steps = &definitions.workflows["site.w"].steps;
    let worker = steps[0].worker.as_ref().unwrap();
    assert!(worker.pool.is_some());
    assert_eq!(worker.labels.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["arch", "os"]);
    assert_eq!(steps[1].worker.as_ref().unwrap().same_as.as_deref(), Some("a"));
    insta::assert_snapshot!(in_steps("  - {id: a, run: core.noop, worker: {}}
  - {id: b, run: core.noop, worker: {pol: a, labels: [a]}}
  - {id: c, run: ci.child, with: {commit: x}, worker: {pool: a}}
  - {id: d, sleep: 1s, worker: {pool: a}}
"), @r##"
    3:37 `worker` needs `pool`, `labels` or `same_as`
    4:38 `pol` is no key of `worker`
        did you mean `pool`?
    4:54 `labels` must be a map
    5:55 `worker` says who does an action; this step runs a workflow
        say it for the steps of ci.child
    6:24 `worker` belongs to `run` and `shell`, not to `sleep`
    "##);
}

#[test]
fn same_as_names_a_step_that_a_worker_has_done() {
    insta::assert_snapshot!(in_steps("  - {id: a, run: core.noop, worker: {same_as: z}}
  - {id: child, run: ci.child, with: {commit: x}}
  - {id: nap, sleep: 1s}
  - {id: each, run: core.noop, for_each: [1]}
  - {id: b, run: core.noop, worker: {same_as: child}}
  - {id: c, run: core.noop, worker: {same_as: nap}}
  - {id: d, run: core.noop, worker: {same_as: each}}
  - {id: e, run: core.noop, worker: {same_as: nobody}}
  - {id: g, timeout: 1h, steps: [{id: f, run: core.noop, worker: {same_as: a}}, {id: h, run: core.noop, worker: {same_as: f}}]}
  - {id: i, steps: [{id: j, run: core.noop, worker: {same_as: a}}]}
  - {id: z, run: core.noop, worker: {same_as: f}}
"), @r##"
    3:47 step `a` reads `steps.z` but does not wait for it
        put `z` above `a`
    7:47 `child` runs no action, so no worker does it
        name a step that runs an action, and that this one waits for
    8:47 `nap` runs no action, so no worker does it
        name a step that runs an action, and that this one waits for
    9:47 `each` is done for each item of a list, perhaps by many workers
        name a step that runs an action, and that this one waits for
    10:47 there is no step `nobody` in this workflow
        known are a, b, c, child, d, each, f, g, h, i, j, nap, z
    11:76 `a` is done outside of the group `g`, which is a run of its own
        name a step that runs an action, and that this one waits for
    13:47 `f` stands in the group `g`, into which nobody sees
        name a step that runs an action, and that this one waits for
    "##);
}

#[test]
fn who_has_not_answered_is_reminded() {
    let text = "steps:\n  - {id: a, approve: {ask: x, of: y, remind: 2h}}\n";
    let (definitions, mistakes) = read(&[("workflows/w.yaml", text)]);
    assert_eq!(mistakes, []);
    let Kind::Approve(approve) = &definitions.workflows["site.w"].steps[0].kind else { panic!("asks") };
    assert_eq!(approve.remind, Some(Span::hours(2)));
    insta::assert_snapshot!(in_steps("  - {id: a, approve: {ask: x, of: y, remind: 0s}}\n"), @r##"
    3:46 `remind` must be longer than nothing
    "##);
}

#[test]
fn child_runs_are_repeated_and_tried_again_and_a_watch_stands_in_every_section() {
    assert_eq!(
        in_workflow(
            "steps:
  - {id: a, run: ci.child, with: {commit: x}, until: output.deb != \"\", every: 1m, retry: {attempts: 3}}
on_failure:
  - {id: b, watch: {for: 5m, abort_on: {trigger: github.push}}}
finally:
  - {id: c, watch: {for: 5m, abort_on: {trigger: github.push, when: event.ref == run.id}}}
"
        ),
        ""
    );
}
