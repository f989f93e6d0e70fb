//! The graph of steps, and what they read of one another.

use super::{in_steps, in_workflow};

#[test]
fn a_value_of_a_step_that_is_not_waited_for_is_refused() {
    insta::assert_snapshot!(in_steps("  - id: a\n    run: core.echo\n    with: {value: \"{{ steps.b.output.value }}\"}\n  - id: b\n    run: core.echo\n    with: {value: \"{{ steps.b.output.value }} {{ steps.a.output.value }}\"}\n"), @r##"
    5:23 step `a` reads `steps.b` but does not wait for it
        put `b` above `a`
    8:23 step `b` reads its own output
        only its `undo` can do that
    "##);
    insta::assert_snapshot!(in_steps("  - id: a\n    run: core.noop\n  - id: b\n    needs: []\n    run: core.noop\n  - id: c\n    needs: [b]\n    when: steps.a.output?.x == 1\n    run: core.noop\n"), @r##"
    10:11 step `c` reads `steps.a` but does not wait for it
        add `a` to its `needs`
    "##);
    // Through others is as good.
    assert_eq!(
        in_steps(
            "  - id: a\n    run: core.noop\n  - id: b\n    needs: [a]\n    run: core.noop\n  - id: c\n    needs: [b]\n    when: steps.a.status == \"succeeded\"\n    run: core.noop\n"
        ),
        ""
    );
}

#[test]
fn unknown_steps_and_outputs_get_the_nearest_right_name() {
    insta::assert_snapshot!(in_steps("  - id: build\n    run: ci.build\n    with: {commit: x}\n  - id: b\n    run: core.echo\n    with: {value: \"{{ steps.biuld.output.deb }} {{ steps.build.output.dbe }} {{ steps.build.output.info.vrsion }} {{ steps.build.deb }}\"}\n"), @r##"
    8:23 there is no step `biuld` in this workflow
        did you mean `build`?
    8:52 `steps.build.output` has no `dbe`
        did you mean `deb`?
    8:81 `steps.build.output.info` has no `vrsion`
        did you mean `version`?
    8:118 a step has no `deb`; what it gave is its `output`
        did you mean `steps.build.output.deb`?
    "##);
    insta::assert_snapshot!(in_steps("  - id: c\n    run: ci.child\n    with: {commit: x}\n  - id: n\n    sleep: 1s\n  - id: b\n    run: core.echo\n    with: {value: \"{{ steps.c.output.version }} {{ steps.n.output.x }}\"}\n"), @r##"
    10:23 `steps.c.output` has no `version`
        known are deb
    10:52 `steps.n.output` has no `x`
    "##);
    // What an action does not promise may be there all the same.
    assert_eq!(
        in_steps(
            "  - id: a\n    run: core.noop\n  - id: b\n    run: core.echo\n    with: {value: \"{{ steps.a.output.any.thing }}\"}\n"
        ),
        ""
    );
}

#[test]
fn a_graph_says_all_its_needs() {
    insta::assert_snapshot!(in_steps("  - id: a\n    run: core.noop\n  - id: b\n    needs: [a, a, b, ab]\n    run: core.noop\n  - id: c\n    run: core.noop\n"), @r##"
    6:16 `a` stands here twice
    6:19 step `b` needs itself
    6:22 step `b` needs `ab`, which is no step here
        did you mean `a`?
    8:5 step `c` does not say what it needs, and others of this graph do
        needs: [b], or `needs: []` for nothing
    "##);
}

#[test]
fn a_circle_is_shown_with_its_way() {
    insta::assert_snapshot!(in_steps("  - id: start\n    needs: []\n    run: core.noop\n  - id: a\n    needs: [start, c]\n    run: core.noop\n  - id: b\n    needs: [a]\n    run: core.noop\n  - id: c\n    needs: [b]\n    run: core.noop\n  - id: after\n    needs: [c]\n    run: core.noop\n"), @r##"
    7:13 these steps wait for one another: `a` needs `c` needs `b` needs `a`
        take one of these needs away
    "##);
}

#[test]
fn since_names_a_step_that_has_begun() {
    insta::assert_snapshot!(in_steps("  - id: a\n    run: core.noop\n  - id: b\n    watch: {for: 5m, since: c}\n  - id: c\n    watch: {for: 5m, since: nothing}\n"), @r##"
    6:29 step `b` reads `steps.c` but does not wait for it
        put `c` above `b`
    8:29 there is no step `nothing` in this workflow
        known are a, b
    "##);
}

#[test]
fn later_sections_see_all_steps_and_undo_sees_its_own() {
    assert_eq!(
        in_workflow(
            "steps:\n  - id: a\n    run: ci.build\n    with: {commit: x}\n    undo: {run: ci.restore, with: {deb: \"{{ steps.a.output.deb }}\"}}\non_failure:\n  - id: b\n    run: core.echo\n    with: {value: \"{{ steps.a.output.deb }} {{ run.error.message }}\"}\nfinally:\n  - id: c\n    run: core.echo\n    with: {value: \"{{ steps.a.status }} {{ steps.b.status }}\"}\n"
        ),
        ""
    );
    insta::assert_snapshot!(in_workflow("steps:\n  - id: a\n    run: core.echo\n    with: {value: \"{{ steps.c.output }}\"}\nfinally:\n  - id: c\n    run: core.echo\n    with: {value: 1}\noutput: {c: \"{{ steps.c.output }}\"}\n"), @r##"
    4:23 step `a` reads `steps.c` but does not wait for it
        put `c` above `a`
    9:17 `steps.c` is not known yet where the workflow's `output` is made
    "##);
}

#[test]
fn what_is_repeated_says_how_often_and_until_when() {
    insta::assert_snapshot!(in_steps("  - id: a\n    run: core.noop\n    until: output.done\n  - id: b\n    run: core.noop\n    every: 3s\n  - id: c\n    run: ci.child\n    with: {commit: x}\n    until: output.deb == 1\n    every: 0s\n  - id: d\n    sleep: 1s\n    until: 'true'\n  - id: e\n    run: ci.build\n    with: {commit: x}\n    until: output.dbe == 1 && outptu.deb == 1\n    every: 3s\n"), @r##"
    5:5 `until` needs `every`
        a step is repeated by both: `until: output.done` and `every: 30s`
    8:5 `every` needs `until`
        a step is repeated by both: `until: output.done` and `every: 30s`
    13:12 `every` must be longer than nothing
    16:5 `until` belongs to `run` and `shell`, not to `sleep`
    16:5 `until` needs `every`
        a step is repeated by both: `until: output.done` and `every: 30s`
    20:12 `output` has no `dbe`
        did you mean `deb`?
    20:31 there is no `outptu` in `until`
        did you mean `output`?
    "##);
}

#[test]
fn two_thousand_steps_are_read_in_a_moment() {
    let mut text = "steps:\n".to_owned();
    for number in 0..2_000 {
        let value =
            if number == 0 { String::new() } else { format!("{{{{ steps.s{}.output.value }}}}", number / 2) };
        text += &format!("- {{id: s{number}, run: core.echo, with: {{value: \"{value}\"}}}}\n");
    }
    assert_eq!(in_workflow(&text), "");
}
