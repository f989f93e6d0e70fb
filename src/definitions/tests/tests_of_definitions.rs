//! What is wrong with a file of tests, before it is played.

use super::with_packs;
use crate::definitions::Definitions;
use crate::definitions::test::Subject;

const WORKFLOW: &str = "input: {commit: string, count: {type: integer, default: 2}}
steps:
  - {id: build, run: ci.build, with: {commit: \"{{ input.commit }}\"}, undo: {run: ci.restore, with: {deb: x}}}
  - {id: gate, approve: {ask: x, of: [managers], fields: {ticket: string}}}
  - {id: nap, sleep: 1h}
";
const RULE: &str = "trigger: github.push\nrun: w\nwith: {commit: \"{{ event.after }}\"}\n";
const TWO_TRIGGERS: &str =
    "trigger: [github.push, github.pull]\nrun: w\nwith: {commit: \"{{ event.after }}\"}\n";

fn read(tests: &[(&str, &str)]) -> (Definitions, String) {
    let mut files = with_packs(&[
        ("workflows/w.yaml", WORKFLOW),
        ("rules/r.yaml", RULE),
        ("rules/two.yaml", TWO_TRIGGERS),
    ]);
    for (path, text) in tests {
        files.texts.insert((*path).to_owned(), text.as_bytes().into());
    }
    let (definitions, mistakes) = Definitions::read(&files);
    let shown = mistakes.iter().map(|mistake| {
        let help = mistake.help.as_ref().map(|help| format!(" [{help}]")).unwrap_or_default();
        format!("{}:{} {}{help}", mistake.place.line, mistake.place.column, mistake.message)
    });
    (definitions, shown.collect::<Vec<_>>().join("\n"))
}

fn mistakes(test: &str) -> String {
    read(&[("tests/t.yaml", test)]).1
}

#[test]
fn a_file_holds_several_tests_and_a_mistake_in_one_leaves_out_only_that() {
    let (definitions, mistakes) = read(&[(
        "tests/t.yaml",
        "rule: r
cases: [{name: x, event: {payload: {ref: a, after: b}}, expect: {match: true}}]
---
workflow: v
---
workflow: w
cases: [{name: x, input: {commit: 12345e7}, expect: {status: succeeded}}]
",
    )]);
    assert_eq!(
        mistakes,
        "4:11 there is no action or workflow `v` in pack `site`, where a name without a dot is looked up [did you mean `site.w`?]"
    );
    let names: Vec<&str> = definitions.tests.iter().map(|test| test.subject.name()).collect();
    assert_eq!(names, ["site.r", "site.w"]);
    let Subject::Workflow { cases, .. } = &definitions.tests[1].subject else { panic!("a workflow's") };
    assert_eq!(cases[0].input, serde_json::json!({"commit": "12345e7", "count": 2}));
    assert!(definitions.workflows.contains_key("site.w"), "what is tested stays");
}

#[test]
fn a_test_says_what_it_is_of_and_has_cases_with_names_of_their_own() {
    assert_eq!(
        mistakes("cases: []\n"),
        "1:1 a test says which rule or workflow it is of [begin with `rule: site.NAME` or `workflow: site.NAME`]"
    );
    assert_eq!(
        mistakes("rule: r\nworkflow: w\n"),
        "1:1 a test is of a rule or of a workflow, not of both [make two documents of it, with --- between them]"
    );
    assert_eq!(mistakes("workflow: w\n"), "1:1 the test of a workflow needs `cases`");
    assert_eq!(mistakes("workflow: w\ncases: []\n"), "2:8 `cases` has no case");
    assert_eq!(
        mistakes("workflow: ci.build\ncases: [{name: x, expect: {status: succeeded}}]\n"),
        "1:11 ci.build is an action; tests are of rules and of workflows"
    );
    let case = "{name: x, input: {commit: a}, expect: {status: succeeded}}";
    assert_eq!(
        mistakes(&format!("workflow: w\ncases:\n  - {case}\n  - {case}\n")),
        "4:12 two cases are called `x`"
    );
}

#[test]
fn inputs_and_answers_are_held_against_what_takes_them_each_at_its_place() {
    assert_eq!(
        mistakes(
            "workflow: w
cases:
  - name: x
    input: {comit: a, count: many}
    answers: {gate: {by: a, answers: {tickt: 1}}, nap: {by: a}, gat: {by: a}}
    expect: {status: succeeded}
"
        ),
        "4:12 `input` needs `commit`
4:13 `input` takes no `comit` [did you mean `commit`?]
4:30 `input.count` must be a whole number, not `many` (text)
5:38 `answers` needs `ticket`
5:39 `answers` takes no `tickt` [did you mean `ticket`?]
5:51 the step `nap` asks nobody
5:65 site.w has no step `gat` [did you mean `gate`?]"
    );
}

#[test]
fn mocks_stand_in_for_steps_and_actions_that_are_there_and_give_what_those_return() {
    assert_eq!(
        mistakes(
            "workflow: w
mock:
  buil: {output: {}}
  gate: {output: {}}
  nap: {takes: 1m}
  gate/undo: {output: {}}
  build: {output: {dep: x}}
  build/undo: {fail: no, error: no}
  ci.build: {error: {kind: broken}}
cases: [{name: x, input: {commit: a}, expect: {status: succeeded}}]
"
        ),
        "3:3 `buil` is neither a step of site.w nor an action [did you mean `build`?]
4:3 the step `gate` asks people; there is nothing to mock [say in the case's `answers` what people say]
5:3 the step `nap` calls nothing; there is nothing to mock
6:3 the step `gate` has no undo; there is nothing to mock
7:20 ci.build has no `dep` [did you mean `deb`?]
8:26 `fail` is short for `error`: say one of them
9:28 `kind` must be failed or timed_out or rejected or lost or cancelled or limit, not `broken` [known are cancelled, failed, limit, lost, rejected, timed_out]"
    );
}

#[test]
fn what_is_expected_names_what_there_is() {
    assert_eq!(
        mistakes(
            "workflow: w
cases:
  - name: x
    input: {commit: a}
    expect:
      status: done
      steps: {bild: failed, build: broken, nap: {state: failed}}
      undone: [nap]
      called: [ci.biuld, {run: ci.build, with: {comit: a}}]
"
        )
        .lines()
        .map(|line| line.split(" [").next().unwrap())
        .collect::<Vec<_>>(),
        [
            "6:15 `status` must be succeeded or failed or rejected or superseded or cancelled, not `done`",
            "7:15 site.w has no step `bild`",
            "7:36 `status` must be succeeded or failed or rejected or skipped or cancelled or timed_out or lost or not_started, not `broken`",
            "7:50 `state` is no key of what is expected of a step",
            "8:16 site.w has no step `nap` with an undo",
            "9:16 there is no action or workflow `ci.biuld`",
            "9:49 ci.build has no `comit`",
        ]
    );
    assert_eq!(
        mistakes("rule: r\ncases: [{name: x, event: {payload: {ref: a}}, expect: {match: false, run: w}}]\n"),
        "2:70 `run` comes of a match, and none is expected"
    );
}

#[test]
fn a_payload_stands_in_the_test_or_beside_it_and_fits_its_trigger() {
    let test =
        |event: &str| format!("rule: r\ncases:\n  - {{name: x, event: {event}, expect: {{match: true}}}}\n");
    let with = |event: &str, json: &str| read(&[("tests/t.yaml", &test(event)), ("tests/push.json", json)]).1;
    assert_eq!(with("{file: push.json}", "{\"ref\": \"a\"}"), "");
    assert_eq!(
        with("{file: psh.json}", "{}"),
        "3:29 there is no file tests/psh.json: a payload stands beside its test [did you mean `push.json`?]"
    );
    assert!(with("{file: push.json}", "{ref}").starts_with("3:29 tests/push.json is no JSON: "));
    assert!(with("{file: push.json}", "{}").starts_with("3:29 no github.push looks like this: "));
    assert!(with("{payload: {after: x}}", "").starts_with("3:32 no github.push looks like this: "));
    assert_eq!(
        with("{trigger: github.pull, payload: {}}", ""),
        "3:32 the rule is not for github.pull, but for github.push"
    );
    let two = "rule: two\ncases:\n  - {name: x, event: {payload: {ref: a}}, expect: {match: true}}\n";
    assert_eq!(mistakes(two), "3:22 `event` needs `trigger`");
}

#[test]
fn a_rule_that_is_broken_is_told_and_not_its_tests() {
    let test = "rule: half\ncases:\n  - {name: x, event: {payload: {ref: a}}, expect: {match: true}}\n";
    let half = ("rules/half.yaml", "trigger: github.push\nwhen: event.ref ==\nrun: w\nwith: {commit: a}\n");
    let told = read(&[half, ("tests/t.yaml", test)]).1;
    assert_eq!(told, "2:18 script is incomplete");
}

#[test]
fn files_of_tests_have_their_place_and_name() {
    let case = "workflow: w\ncases: [{name: x, input: {commit: a}, expect: {status: succeeded}}]\n";
    assert_eq!(read(&[("tests/t.yml", case)]).1, "1:1 tests end in .yaml [rename it to t.yaml]");
    assert_eq!(
        read(&[("tests/more/t.yaml", case)]).1,
        "1:1 tests/ holds tests in itself only; folders inside are for payloads, as JSON [move it to tests/t.yaml]"
    );
    assert_eq!(read(&[("tests/t.yaml", "")]).1, "1:1 this file is empty: it holds no test");
    let (definitions, found) = read(&[
        (
            "packs/ci/tests/child.yaml",
            "workflow: child\ncases: [{name: x, input: {commit: a}, mock: {a: {output: {deb: x}}}, expect: {output: {deb: x}}}]\n",
        ),
        ("tests/readme.md", "no test"),
        ("tests/api/server.rs", "no test"),
    ]);
    assert_eq!(found, "");
    assert_eq!(
        definitions.tests[0].subject.name(),
        "ci.child",
        "a name is looked up in the pack of the test"
    );
}

#[test]
fn steps_of_groups_are_mocked_answered_and_undone_by_their_own_ids() {
    let grouped = "steps:
  - id: g
    parallel:
      - {id: a, run: ci.build, with: {commit: x}, undo: {run: ci.restore, with: {deb: x}}}
  - id: each
    for_each: [1, 2]
    steps:
      - {id: b, run: ci.build, with: {commit: x}, undo: {run: ci.restore, with: {deb: x}}}
      - {id: ask, approve: {ask: x, of: [managers]}}
  - {id: c, for_each: [1, 2], run: ci.build, with: {commit: x}}
";
    let check = |test: &str| read(&[("workflows/g.yaml", grouped), ("tests/t.yaml", test)]).1;
    assert_eq!(
        check(
            "workflow: g
mock: {a: {output: {deb: x}}, b: [{output: {deb: x}}, {fail: no}], b/undo: {takes: 1m}, c: [{output: {deb: x}}, {fail: no}]}
cases:
  - name: x
    answers: {ask: {by: alice}}
    expect: {undone: [b, a], steps: {g: succeeded, a: succeeded, each: {output: [{b: {deb: x}}]}, c: {output: [{deb: x}, ~]}}}
"
        ),
        ""
    );
    assert_eq!(
        check(
            "workflow: g
mock: {g: {output: {}}, bb: {output: {}}, b: {output: {dbe: x}}}
cases: [{name: x, answers: {b: {by: alice}}, expect: {undone: [ask], steps: {b: failed, d: failed}}}]
"
        ),
        "2:8 `g` is a group, which is always played [mock its steps, each by its own `id`]
2:25 `bb` is neither a step of site.g nor an action [did you mean `b`?]
2:56 ci.build has no `dbe` [did you mean `deb`?]
3:29 the step `b` asks nobody
3:64 site.g has no step `ask` with an undo [did you mean `a`?]
3:78 `b` stands in the group `each`, which is a run of its own [expect what the group gave: each: {output: ...}]
3:89 site.g has no step `d` [known are a, c, each, g]"
    );
}
