//! What a test of a definition sees: each promise of formats.md and semantics.md about them, by tests that pass and tests that fail.

#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use crate::definitions::{Definitions, Files};
use crate::model::{RunError, RunStatus, StepStatus};

use super::*;

const PACKS: [(&str, &str); 9] = [
    ("packs/core/pack.yaml", "description: For tests.\n"),
    (
        "packs/core/actions/echo.yaml",
        "description: d\nrunner: native\ninput: {value: any}\nreturns: {value: any}\nidempotent: true\n",
    ),
    (
        "packs/core/actions/fail.yaml",
        "description: d\nrunner: native\ninput: {message: string}\nreturns: {}\nidempotent: true\n",
    ),
    (
        "packs/core/actions/kv_get.yaml",
        "description: d\nrunner: native\ninput: {key: string}\nreturns: {value: any, version: integer}\nidempotent: true\n",
    ),
    (
        "packs/core/actions/kv_set.yaml",
        "description: d\nrunner: native\ninput: {key: string, value: any, if_version: {type: integer, optional: true}}\nreturns: {version: integer}\nidempotent: true\n",
    ),
    ("packs/t/pack.yaml", "description: For tests.\nconfig: {limit: {type: integer, default: 3}}\n"),
    (
        "packs/t/actions/do.yaml",
        "description: d\nrunner: shell\ninput: {what: {type: any, optional: true}}\nidempotent: true\nreturns: {id: integer, well: boolean, version: string}\ntimeout: 10m\nshell: {script: 'true'}\n",
    ),
    ("packs/t/triggers/alarm.yaml", "description: Rings.\npayload: {type: object, required: [app]}\n"),
    ("packs/t/triggers/other.yaml", "description: Rings otherwise.\n"),
];

fn files(texts: &[(&str, &str)]) -> Files {
    Files::from_texts(PACKS.into_iter().chain(texts.iter().copied()))
}

/// The reports of `tests/t.yaml` about what `texts` define.
fn reports(texts: &[(&str, &str)], test: &str) -> Vec<Report> {
    let mut files = files(texts);
    files.texts.insert("tests/t.yaml".to_owned(), test.as_bytes().into());
    let (definitions, mistakes) = Definitions::read(&files);
    assert!(mistakes.is_empty(), "{mistakes:#?}");
    definitions.tests.iter().flat_map(|test| rehearse(&definitions, test)).collect()
}

/// The differences of the one case of a test of `workflows/w.yaml`.
fn differences(workflow: &str, test: &str) -> Vec<String> {
    let test = format!("workflow: w\n{test}");
    let reports = reports(&[("workflows/w.yaml", &format!("description: d\n{workflow}"))], &test);
    let [report] = reports.as_slice() else { panic!("one case, not {reports:#?}") };
    report.differences.iter().map(ToString::to_string).collect()
}

fn passes(workflow: &str, test: &str) {
    let found = differences(workflow, test);
    assert_eq!(found, Vec::<String>::new());
}

const LIST: &str = "steps:
  - {id: a, run: t.do, undo: {run: t.do, with: {what: '{{ steps.a.output.id }}'}}}
  - {id: b, run: t.do, with: {what: '{{ steps.a.output.id }}'}}
output: {id: '{{ steps.a.output.id }}'}
";

#[test]
fn a_mock_by_step_stands_before_one_by_action_and_one_of_the_case_before_one_of_the_test() {
    passes(
        LIST,
        "mock: {t.do: {output: {id: 1}}, a: {output: {id: 2}}}
cases: [{name: x, expect: {output: {id: 2}, called: [{run: t.do, with: {what: 2}}]}}]",
    );
    passes(
        LIST,
        "mock: {a: {output: {id: 1}}}
cases: [{name: x, mock: {t.do: {output: {id: 3}}}, expect: {output: {id: 1}}}]",
    );
    passes(
        LIST,
        "mock: {a: {output: {id: 1}}}
cases: [{name: x, mock: {a: {output: {id: 3}}}, expect: {output: {id: 3}}}]",
    );
}

#[test]
fn what_is_not_mocked_succeeds_with_nothing_and_the_smallest_actions_are_really_done() {
    passes(
        "steps: [{id: a, run: t.do}]\noutput: {all: '{{ steps.a.output }}'}\n",
        "cases: [{name: x, expect: {status: succeeded, output: {all: {}}}}]",
    );
    passes(
        "steps: [{id: a, run: core.echo, with: {value: [1, 2]}}]\noutput: {got: '{{ steps.a.output.value }}'}\n",
        "cases: [{name: x, expect: {output: {got: [1, 2]}}}]",
    );
    passes(
        "steps: [{id: a, run: core.fail, with: {message: no luck}}]\n",
        "cases: [{name: x, expect: {status: failed, error: {kind: failed, message: no luck, step: a}}}]",
    );
}

#[test]
fn each_difference_says_what_was_expected_and_what_came_by_path() {
    let found = differences(
        LIST,
        "mock: {a: {output: {id: 1}}, b: {fail: it broke}}
cases:
  - name: x
    expect:
      status: succeeded
      steps: {a: failed, b: {status: succeeded, attempts: 2}}
      undone: []
      called: [{run: t.do, with: {what: 7}}, core.echo]
      not_called: [t.do]
      output: {id: 1}
      error: it bent",
    );
    assert_eq!(
        found,
        [
            "status: expected succeeded, got failed (b: it broke)",
            "steps.a: expected failed, got succeeded",
            "steps.b.status: expected succeeded, got failed (it broke)",
            "steps.b.attempts: expected 2, got 1",
            "called: expected {\"run\":\"t.do\",\"with\":{\"what\":7}}, got [{},{\"what\":1},{\"what\":1}] (it was called with these, in this order)",
            "called: expected core.echo, got [\"t.do\",\"t.do\",\"t.do\"] (these were called, in this order)",
            "not_called: expected t.do, got {\"run\":\"t.do\",\"with\":{}}",
            "output: expected {\"id\":1}, got null",
            "error: expected \"it bent\", got \"it broke\"",
        ]
    );
}

#[test]
fn a_failed_case_tells_what_happened_and_when() {
    let reports = reports(
        &[("workflows/w.yaml", "description: d\nsteps: [{id: a, sleep: 1h}, {id: b, run: t.do}]\n")],
        "workflow: w\nmock: {b: {fail: it broke, takes: 5m}}\ncases:\n  - name: x\n    expect: {status: succeeded}\n",
    );
    let timeline: Vec<String> =
        reports[0].timeline.iter().map(|moment| format!("{} {moment}", moment.after)).collect();
    assert_eq!(
        timeline,
        [
            "0s run started: by test",
            "0s a started",
            "1h a succeeded",
            "1h b calls t.do with {}",
            "1h5m b failed: it broke",
            "1h5m run failed: it broke",
        ]
    );
    assert_eq!(reports[0].place.to_string(), "tests/t.yaml:4:5");
}

#[test]
fn a_list_of_mocks_is_one_for_each_attempt_and_the_last_holds_on() {
    let workflow = "steps: [{id: a, run: t.do, retry: {attempts: 3, delay: 1h}}]\n";
    passes(
        workflow,
        "mock: {a: [{fail: x}, {fail: x}, {output: {id: 1}}]}
cases: [{name: x, expect: {status: succeeded, steps: {a: {attempts: 3, output: {id: 1}}}}}]",
    );
    passes(
        workflow,
        "mock: {a: [{output: {}, takes: 1m}, {fail: never}]}
cases: [{name: x, expect: {steps: {a: {attempts: 1}}}}]",
    );
    passes(workflow, "mock: {a: {fail: x}}\ncases: [{name: x, expect: {steps: {a: {attempts: 3}}}}]");
}

#[test]
fn an_attempt_that_takes_longer_than_its_timeout_times_out() {
    passes(
        "steps: [{id: a, run: t.do}]\n",
        "mock: {a: {takes: 11m}}\ncases: [{name: x, expect: {status: failed, steps: {a: timed_out}}}]",
    );
    passes(
        "steps: [{id: a, run: t.do, timeout: 1h}]\n",
        "mock: {a: {takes: 11m}}\ncases: [{name: x, expect: {status: succeeded}}]",
    );
    passes(
        "timeout: 5m\nsteps: [{id: a, run: t.do}]\n",
        "mock: {a: {takes: 10m}}\ncases: [{name: x, expect: {status: failed, error: {kind: timed_out}, steps: {a: cancelled}}}]",
    );
}

#[test]
fn an_error_may_be_of_any_kind() {
    passes(
        "steps: [{id: a, run: t.do, retry: {attempts: 2, when: 'error.kind == \"timed_out\"'}}]\n",
        "mock: {a: {error: {kind: timed_out, message: slow}}}
cases: [{name: x, expect: {steps: {a: {status: timed_out, attempts: 2}}}}]",
    );
    passes(
        "steps: [{id: a, run: t.do, retry: {attempts: 2, when: 'error.kind == \"timed_out\"'}}]\n",
        "mock: {a: {error: it broke}}
cases: [{name: x, expect: {steps: {a: {status: failed, attempts: 1}}}}]",
    );
}

const GATE: &str = "steps:
  - {id: a, run: t.do, undo: {run: t.do}}
  - id: gate
    approve: {ask: 'Ship?', of: [managers], timeout: 24h, fields: {ticket: string}}
  - {id: b, run: t.do, with: {what: '{{ steps.gate.output.ticket }}'}}
";

#[test]
fn people_answer_at_their_times_and_roles_are_not_looked_at() {
    passes(
        GATE,
        "cases:
  - name: yes
    answers: {gate: {by: zoe, at: 20h, comment: fine, answers: {ticket: OPS-7}}}
    expect:
      status: succeeded
      called: [{run: t.do, with: {what: OPS-7}}]
      steps: {gate: {output: {approved_by: [zoe], comment: fine}}}",
    );
    passes(
        GATE,
        "cases:
  - name: no
    answers: {gate: {by: zoe, reject: true, comment: not today}}
    expect: {status: rejected, undone: [a], steps: {b: not_started}, error: 'rejected by zoe: not today'}",
    );
    for answers in ["", "    answers: {gate: {by: zoe, at: 25h, answers: {ticket: x}}}\n"] {
        passes(
            GATE,
            &format!(
                "cases:\n  - name: too late\n{answers}    expect: {{status: failed, steps: {{gate: timed_out}}, undone: [a]}}"
            ),
        );
    }
}

#[test]
fn an_answer_with_too_few_votes_decides_nothing() {
    let workflow = "steps:\n  - {id: gate, approve: {ask: x, of: [managers], count: 2}}\n";
    passes(
        workflow,
        "cases: [{name: x, answers: {gate: {by: [zoe, zoe]}}, expect: {steps: {gate: timed_out}}}]",
    );
    passes(workflow, "cases: [{name: x, answers: {gate: {by: [zoe, yan]}}, expect: {status: succeeded}}]");
}

const WAIT: &str = "steps:
  - {id: a, run: t.do}
  - {id: w, wait_for: {trigger: t.alarm, when: 'event.app == \"shop\"', timeout: 2h}}
  - {id: v, wait_for: {trigger: t.alarm, timeout: 1h, on_timeout: continue}}
output: {by: '{{ steps.v.output.by }}'}
";

#[test]
fn events_come_at_their_times_and_those_that_came_too_early_for_the_step_count_too() {
    passes(
        WAIT,
        "mock: {a: {takes: 5m}}
cases:
  - name: a fast answer
    events: [{at: 1m, trigger: t.alarm, payload: {app: shop}}]
    expect: {status: succeeded, output: {by: timeout}, steps: {w: {output: {by: event, event: {app: shop}}}}}",
    );
    passes(
        WAIT,
        "cases:
  - name: two of them
    events:
      - {at: 70m, trigger: t.alarm, payload: {app: other}}
      - {at: 1h, trigger: t.alarm, payload: {app: shop}}
    expect: {status: succeeded, output: {by: event}}",
    );
    passes(
        WAIT,
        "cases:
  - name: none
    events: [{at: 3h, trigger: t.alarm, payload: {app: shop}}]
    expect: {status: failed, steps: {w: timed_out}}",
    );
}

#[test]
fn what_a_run_emits_reaches_its_own_waits() {
    passes(
        "steps:
  - {id: w, needs: [], wait_for: {trigger: t.alarm, timeout: 1h}}
  - {id: e, needs: [], emit: t.alarm, with: {app: shop}}
output: {app: '{{ steps.w.output.event.app }}'}
",
        "cases: [{name: x, expect: {output: {app: shop}}}]",
    );
}

const BAKE: &str = "steps:
  - {id: a, run: t.do, undo: {run: t.do}}
  - id: bake
    watch:
      for: 15m
      check: {run: t.do, every: 5m, healthy: output.well, failures: 2}
      abort_on: {trigger: t.alarm}
";

#[test]
fn the_check_of_a_watch_is_played_when_it_is_mocked_and_left_out_when_not() {
    passes(BAKE, "cases: [{name: x, expect: {status: succeeded, steps: {bake: {output: {checks: 0}}}}}]");
    passes(
        BAKE,
        "mock: {bake: {output: {well: true}}}
cases: [{name: x, expect: {status: succeeded, steps: {bake: {output: {checks: 4}}}}}]",
    );
    passes(
        BAKE,
        "mock: {bake: [{output: {well: true}}, {output: {well: false}}]}
cases: [{name: x, expect: {status: failed, steps: {bake: {status: failed, attempts: 3}}}}]",
    );
    passes(
        BAKE,
        "cases: [{name: x, events: [{at: 3m, trigger: t.alarm, payload: {app: x}}], expect: {steps: {bake: failed}, undone: [a]}}]",
    );
}

#[test]
fn repetitions_and_polls_are_played_when_they_are_mocked_and_left_out_when_not() {
    let repeat = "steps: [{id: a, run: t.do, until: output.well, every: 1m}]\n";
    passes(repeat, "cases: [{name: x, expect: {status: succeeded, steps: {a: {attempts: 1}}}}]");
    passes(
        repeat,
        "mock: {a: [{output: {well: false}}, {output: {well: false}}, {output: {well: true}}]}
cases: [{name: x, expect: {status: succeeded, steps: {a: {attempts: 3}}}}]",
    );
    passes(
        repeat,
        "mock: {a: {output: {well: false}}}\ncases: [{name: x, expect: {status: failed, steps: {a: timed_out}}}]",
    );
    let poll = "steps:
  - id: w
    wait_for:
      trigger: t.other
      timeout: 1h
      or_poll: {run: t.do, every: 5m, until: output.well}
";
    passes(poll, "cases: [{name: x, expect: {steps: {w: timed_out}}}]");
    passes(
        poll,
        "mock: {w: [{output: {well: false}}, {output: {well: true}}]}
cases: [{name: x, expect: {status: succeeded, steps: {w: {output: {by: poll}}}}}]",
    );
    passes(
        poll,
        "mock: {t.do: {output: {well: false}}}
cases: [{name: x, events: [{at: 7m, trigger: t.other}], expect: {steps: {w: {output: {by: event}}}}}]",
    );
}

#[test]
fn a_child_workflow_is_a_mock_too() {
    let child =
        "description: d\nsteps: [{id: z, run: core.fail, with: {message: not played}}]\noutput: {n: 1}\n";
    let parent = "description: d
steps: [{id: a, run: child}]
output: {n: '{{ steps.a.output?.n | default(none) }}'}
";
    let parent = &parent.replace("?.n", ".n");
    let play = |test: &str| {
        let reports = reports(&[("workflows/child.yaml", child), ("workflows/w.yaml", parent)], test);
        reports[0].differences.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let none = Vec::<String>::new();
    assert_eq!(
        play(
            "workflow: w\nmock: {child: {output: {n: 5}, takes: 3d}}\ncases: [{name: x, expect: {output: {n: 5}, called: [child]}}]"
        ),
        none
    );
    assert_eq!(play("workflow: w\ncases: [{name: x, expect: {status: succeeded, output: {n: null}}}]"), none);
    assert_eq!(
        play(
            "workflow: w\nmock: {a: {error: {kind: rejected, message: no}}}\ncases: [{name: x, expect: {status: rejected}}]"
        ),
        none
    );
}

#[test]
fn the_key_value_store_is_played_where_the_test_says_what_it_holds() {
    let workflow = "steps:
  - {id: old, run: core.kv_get, with: {key: a/b}}
  - {id: set, run: core.kv_set, with: {key: a/b, value: 2}}
  - {id: new, run: core.kv_get, with: {key: a/b}}
output: {old: '{{ steps.old.output.value }}', new: '{{ steps.new.output.value }}'}
";
    passes(workflow, "kv: {a/b: 1}\ncases: [{name: x, expect: {output: {old: 1, new: 2}}}]");
}

#[test]
fn config_and_apps_of_the_test_stand_over_those_of_the_site() {
    let texts = [
        ("siskin.yaml", "config: {site: {room: here}}\n"),
        ("apps/shop.yaml", "owner: team\n"),
        (
            "workflows/w.yaml",
            "description: d\nsteps: [{id: a, run: core.echo, with: {value: x}}]\noutput: {room: '{{ config.room }}', owner: '{{ apps.shop.owner }}'}\n",
        ),
    ];
    let play = |test: &str| {
        let reports = reports(&texts, test);
        reports[0].differences.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let none = Vec::<String>::new();
    assert_eq!(play("workflow: w\ncases: [{name: x, expect: {output: {room: here, owner: team}}}]"), none);
    assert_eq!(
        play(
            "workflow: w\nconfig: {site: {room: there}}\napps: {shop: {owner: others}}\ncases: [{name: x, expect: {output: {room: there, owner: others}}}]"
        ),
        none
    );
}

const RULE: &str = "description: d
trigger: t.alarm
when: 'event.app.starts_with(\"s\")'
run: t.do
with: {what: '{{ event.n }}'}
";

#[test]
fn a_rule_matches_or_not_or_errs_and_says_so() {
    let play = |case: &str| {
        let reports =
            reports(&[("rules/r.yaml", RULE)], &format!("rule: r\ncases:\n  - {{name: x, {case}}}\n"));
        reports[0].differences.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let none = Vec::<String>::new();
    assert_eq!(
        play("event: {payload: {app: shop, n: 3}}, expect: {match: true, run: t.do, with: {what: 3}}"),
        none
    );
    assert_eq!(
        play("event: {payload: {app: shop, n: 3}}, expect: {with: {what: 4}}"),
        ["with.what: expected 4, got 3"]
    );
    assert_eq!(play("event: {payload: {app: other}}, expect: {match: false}"), none);
    assert_eq!(
        play("event: {payload: {app: other}}, expect: {match: true}"),
        ["match: expected true, got false"]
    );
    assert_eq!(play("event: {payload: {app: shop}}, expect: {why: with}"), none);
    let found = play("event: {payload: {app: shop}}, expect: {match: true}");
    assert!(found[0].starts_with("match: expected true, got \"an error\" (rules/r.yaml:"), "{found:?}");
    assert_eq!(
        play("event: {payload: {app: other}}, expect: {why: with}"),
        ["why: expected with, got \"no match\""]
    );
}

#[test]
fn what_has_a_mistake_is_not_tried_and_says_why() {
    let mut files = files(&[("workflows/w.yaml", "description: d\nsteps: [{id: a, run: t.don}]\n")]);
    let test = "workflow: w\ncases: [{name: x, expect: {status: succeeded}}]\n";
    files.texts.insert("tests/t.yaml".to_owned(), test.as_bytes().into());
    let (definitions, mistakes) = Definitions::read(&files);
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    let reports = rehearse(&definitions, &definitions.tests[0]);
    assert!(reports[0].differences[0].to_string().contains("t.don"), "{reports:#?}");
}

#[test]
fn a_run_without_an_end_is_stopped_and_says_so() {
    let found = differences(
        "steps: [{id: a, sleep: '2999-01-01T00:00:00Z'}]\n",
        "cases: [{name: x, expect: {status: succeeded}}]",
    );
    assert!(found.last().unwrap().starts_with("end: expected \"a run that ends\", got waiting"), "{found:?}");
}

#[test]
fn a_day_of_checks_takes_no_time_and_fills_no_pages() {
    let reports = reports(
        &[(
            "workflows/w.yaml",
            "description: d\nsteps:\n  - id: bake\n    watch: {for: 24h, check: {run: t.do, every: 1m, healthy: output.well}}\n",
        )],
        "workflow: w\nmock: {bake: {output: {well: true}}}\ncases: [{name: x, expect: {status: failed}}]\n",
    );
    let timeline: Vec<String> = reports[0].timeline.iter().map(ToString::to_string).collect();
    assert_eq!(timeline[1], "bake calls t.do with {}, and 1440 times more until 1d");
}

#[test]
fn what_was_written_from_a_run_reads_as_a_test_and_passes() {
    let step = |id: &str, status, does, attempts, output| RecordedStep {
        id: id.to_owned(),
        status,
        does,
        attempts,
        output,
        error: None,
        took: Some(Span(1500)),
        items: Vec::new(),
        is_in_group: false,
    };
    let odd = "no \u{85}\u{2028} \"end\": {{ input.x }} #!";
    let mut run = Recorded {
        name: "as run 7 went".to_owned(),
        workflow: "site.w".to_owned(),
        input: json!({}),
        status: RunStatus::Failed,
        error: Some(RunError::failed("it broke").of_step("b")),
        output: Value::Null,
        steps: vec![
            step("a", StepStatus::Succeeded, Does::Call, 2, json!({"id": 1, "version": "1.10"})),
            step("gate", StepStatus::Succeeded, Does::Other, 0, json!({"approved_by": ["zoe"]})),
            step("w", StepStatus::Succeeded, Does::Other, 0, json!({"by": "event", "id": 3})),
            step("b", StepStatus::Failed, Does::Call, 1, Value::Null),
        ],
        undone: vec!["a".to_owned()],
        heard: vec![Heard {
            at: Span(4000),
            trigger: "t.alarm".to_owned(),
            payload: json!({"app": odd, "list": [{"a": [], "b": {}}, [1, [2.5, null]], "true"], "- x": "12345e7"}),
        }],
        said: vec![Said {
            step: "gate".to_owned(),
            by: vec!["zoe".to_owned()],
            at: Span(3000),
            reject: false,
            comment: Some(odd.to_owned()),
            answers: json!({}),
        }],
    };
    run.steps[3].error = Some(RunError::failed("it\nbroke"));
    let text = write(&run);
    let workflow = "description: d
steps:
  - {id: a, run: t.do, retry: {attempts: 2, delay: 1s}, undo: {run: t.do}}
  - {id: gate, approve: {ask: x, of: [managers]}}
  - {id: w, wait_for: {trigger: t.alarm}}
  - {id: b, run: t.do}
";
    let reports = reports(&[("workflows/w.yaml", workflow)], &text);
    assert!(reports.iter().all(Report::passed), "{text}\n{reports:#?}");
    let files = files(&[("workflows/w.yaml", workflow), ("tests/t.yaml", &text)]);
    let tests = Definitions::read(&files).0.tests;
    let Subject::Workflow { cases, .. } = &tests[0].subject else { panic!("a workflow's") };
    assert_eq!(*cases[0].events[0].1.payload, run.heard[0].payload, "{text}");
    assert_eq!(cases[0].answers["gate"].comment.as_deref(), Some(odd));
}

/// What happened in the one case of a test of `workflows/w.yaml`, which must pass.
fn story(workflow: &str, test: &str) -> Vec<String> {
    let test = format!("workflow: w\n{test}");
    let reports = reports(&[("workflows/w.yaml", &format!("description: d\n{workflow}"))], &test);
    assert!(reports[0].passed(), "{reports:#?}");
    reports[0].timeline.iter().map(|moment| format!("{} {moment}", moment.after)).collect()
}

const EACH: &str = "steps:
  - {id: a, for_each: '[1, 2, 3]', concurrency: 2, run: t.do, with: {what: '{{ item }}'}, retry: {attempts: 2, delay: 1m}, undo: {run: t.do, with: {what: '{{ output.id }}'}}}
  - {id: b, run: t.do, with: {what: '{{ steps.a.output }}'}}
";

#[test]
fn a_list_of_mocks_is_one_for_each_item_and_the_last_holds_on() {
    passes(
        EACH,
        "mock: {a: [{output: {id: 7}}, {output: {id: 8}}]}
cases: [{name: x, expect: {called: [{run: t.do, with: {what: [{id: 7}, {id: 8}, {id: 8}]}}], steps: {a: {output: [{id: 7}, {id: 8}, {id: 8}]}}}}]",
    );
    passes(
        EACH,
        "mock: {a: [{output: {id: 7}}, {fail: no, output: {id: 8}}], b: {output: {}}}
cases: [{name: x, expect: {status: failed, undone: [a], error: '2 of 3 items failed', steps: {b: not_started}, called: [{run: t.do, with: {what: 8}}, {run: t.do, with: {what: 7}}]}}]",
    );
}

#[test]
fn attempts_of_one_item_may_differ_and_the_timeline_names_items() {
    let test = "mock: {a: [{output: {id: 7}, takes: 10s}, {attempts: [{fail: no}, {output: {id: 8}}]}]}
cases: [{name: x, expect: {status: succeeded}}]";
    assert_eq!(
        story(EACH, test),
        [
            "0s run started: by test",
            "0s a started",
            "0s a[0] calls t.do with {\"what\":1}",
            "0s a[1] calls t.do with {\"what\":2}",
            "0s a[1] failed: no; attempt 2 at 2026-01-01T00:01:00.000Z",
            "10s a[2] calls t.do with {\"what\":3}",
            "10s a[2] failed: no; attempt 2 at 2026-01-01T00:01:10.000Z",
            "1m a[1] calls t.do with {\"what\":2}",
            "1m10s a[2] calls t.do with {\"what\":3}",
            "1m10s a succeeded",
            "1m10s b calls t.do with {\"what\":[{\"id\":7},{\"id\":8},{\"id\":8}]}",
            "1m10s b succeeded",
            "1m10s run succeeded",
        ]
    );
}

const GROUPS: &str = "input: {app: {type: string, default: shop}}
steps:
  - {id: first, run: t.do}
  - id: each
    for_each: '[\"x\", \"y\"]'
    as: host
    concurrency: 1
    steps:
      - {id: roll, run: t.do, with: {what: '{{ host }} {{ steps.first.output.id }} {{ input.app }}'}, undo: {run: t.do, with: {what: 'back {{ host }} {{ steps.roll.output.id }}'}}}
      - {id: ok, approve: {ask: 'Is {{ host }} well?', of: [managers], timeout: 2h}}
  - {id: last, run: t.do, with: {what: '{{ steps.each.output }}'}}
";

#[test]
fn groups_that_are_runs_of_their_own_are_played_with_their_mocks_and_answers() {
    let test = "mock: {first: {output: {id: 1}}, roll: [{output: {id: 10}, takes: 5m}, {output: {id: 20}}], last: {output: {}}}
cases:
  - name: x
    answers: {ok: {by: zoe, at: 1h}}
    expect:
      status: succeeded
      steps: {each: succeeded}
      called: [{run: t.do, with: {what: x 1 shop}}, {run: t.do, with: {what: y 1 shop}}, t.do]
      not_called: [core.echo]
";
    assert_eq!(
        story(GROUPS, test),
        [
            "0s run started: by test",
            "0s first calls t.do with {}",
            "0s first succeeded",
            "0s each started",
            "0s each[0] started",
            "0s each[0].roll calls t.do with {\"what\":\"x 1 shop\"}",
            "5m each[0].roll succeeded",
            "5m each[0].ok started",
            "5m each[0].ok asks managers: Is x well?",
            "1h each[0].ok approved: by zoe",
            "1h each[0].ok succeeded",
            "1h each[0] succeeded",
            "1h each[1] started",
            "1h each[1].roll calls t.do with {\"what\":\"y 1 shop\"}",
            "1h each[1].roll succeeded",
            "1h each[1].ok started",
            "1h each[1].ok asks managers: Is y well?",
            "1h each[1].ok approved: by zoe",
            "1h each[1].ok succeeded",
            "1h each[1] succeeded",
            "1h each succeeded",
            "1h last calls t.do with {\"what\":[{\"roll\":{\"id\":10},\"ok\":{\"approved_by\":[\"zoe\"]}},{\"roll\":{\"id\":20},\"ok\":{\"approved_by\":[\"zoe\"]}}]}",
            "1h last succeeded",
            "1h run succeeded",
        ]
    );
}

#[test]
fn what_a_group_did_is_taken_back_when_the_run_fails_later() {
    passes(
        GROUPS,
        "mock: {first: {output: {id: 1}}, roll: [{output: {id: 10}}, {output: {id: 20}}], last: {fail: no}}
cases:
  - name: x
    answers: {ok: {by: zoe}}
    expect:
      status: failed
      undone: [roll, roll]
      called: [{run: t.do, with: {what: back y 20}}, {run: t.do, with: {what: back x 10}}]
",
    );
    // Nobody answers: the first host is taken back by its own run, and the second never begins.
    passes(
        GROUPS,
        "mock: {first: {output: {id: 1}}, roll: [{output: {id: 10}}, {output: {id: 20}}]}
cases: [{name: x, expect: {status: failed, undone: [roll], steps: {each: failed, last: not_started}, called: [{run: t.do, with: {what: back x 10}}]}}]",
    );
}

#[test]
fn a_group_is_tried_again_and_its_steps_go_on_in_their_lists_of_mocks() {
    let workflow = "steps:
  - id: g
    retry: {attempts: 2, delay: 1h}
    timeout: 30m
    parallel:
      - {id: a, run: t.do, undo: {run: t.do}}
      - id: inner
        timeout: 10m
        steps: [{id: b, wait_for: {trigger: t.alarm}}]
";
    let test = "mock: {a: [{fail: no}, {output: {id: 5}}]}
cases:
  - name: x
    events: [{at: 71m, trigger: t.alarm, payload: {app: x}}]
    expect: {status: succeeded, undone: [a], steps: {g: {attempts: 2}}}
";
    let told = story(workflow, test);
    let wanted = [
        "0s g.inner.b started",
        "0s g.a failed: no",
        "10m undo of g.a succeeded",
        "1h10m g.a succeeded",
        "1h11m g.inner.b succeeded",
    ];
    for line in wanted {
        assert!(told.iter().any(|told| told == line), "{line}: {told:#?}");
    }
    // Without the event the inner group's time is over, both times.
    passes(
        workflow,
        "cases: [{name: x, expect: {status: failed, steps: {g: {status: failed, attempts: 2}}}}]",
    );
}

#[test]
fn members_of_a_group_share_the_locks_and_the_key_value_store_of_the_run() {
    let workflow = "steps:
  - id: g
    for_each: 0..3
    concurrency: 3
    steps:
      - {id: a, run: t.do, lock: one}
      - {id: s, run: core.kv_set, with: {key: 'k{{ index }}', value: '{{ item }}'}}
  - {id: r, run: core.kv_get, with: {key: k2}}
output: {last: '{{ steps.r.output.value }}'}
";
    let told = story(
        workflow,
        "kv: {}\nmock: {a: {takes: 1m}}\ncases: [{name: x, expect: {status: succeeded, output: {last: 2}}}]",
    );
    let calls: Vec<&str> = told
        .iter()
        .filter(|line| line.contains("calls t.do"))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(calls, ["0s", "1m", "2m"]);
}

const WINDOW: &str = "input: {app: string}
steps:
  - {id: a, run: t.do, window: office}
";

fn in_office(case: &str) -> Vec<String> {
    let texts = [
        ("siskin.yaml", "windows: {office: {open: ['* 9-16 * * mon-fri'], time_zone: Europe/Berlin}}\n"),
        ("apps/shop.yaml", "owner: team\n"),
        ("workflows/w.yaml", &format!("description: d\n{WINDOW}")),
    ];
    let reports = reports(
        &texts,
        &format!(
            "workflow: w\ncases: [{{name: x, input: {{app: shop}}, expect: {{status: succeeded}}, {case}}}]"
        ),
    );
    assert!(reports[0].passed(), "{reports:#?}");
    reports[0].timeline.iter().map(|moment| format!("{} {moment}", moment.after)).collect()
}

fn has(told: &[String], line: &str) {
    assert!(told.iter().any(|told| told == line), "{line}: {told:#?}");
}

#[test]
fn windows_open_on_simulated_time_and_somebody_may_break_the_glass() {
    // A Friday.
    has(&in_office("at: 2026-11-20T10:00:00+01:00"), "0s a calls t.do with {}");
    let told = in_office("at: 2026-11-20T18:00:00+01:00");
    has(&told, "0s a waits for its window: office opens at 2026-11-23T08:00:00.000Z");
    has(&told, "2d15h a calls t.do with {}");
    let told = in_office("at: 2026-11-20T18:00:00+01:00, force: {at: 1h, by: ada, why: outage}");
    has(&told, "1h run forced: by ada: outage");
    has(&told, "1h a calls t.do with {}");
}

#[test]
fn a_held_app_starts_nothing_until_the_hold_ends() {
    let monday = "at: 2026-11-23T10:00:00+01:00";
    let told = in_office(&format!("{monday}, holds: [{{what: shop, until: 2h, why: the fair}}]"));
    has(&told, "2h shop is held no more");
    has(&told, "2h a calls t.do with {}");
    let told = in_office(&format!("{monday}, holds: {{what: all}}, force: {{at: 10m}}"));
    has(&told, "10m a calls t.do with {}");
    let told = in_office(&format!("{monday}, holds: [{{what: shop, from: 1h}}]"));
    has(&told, "0s a calls t.do with {}");
}

#[test]
fn holds_and_times_of_a_case_are_checked() {
    let mut files = files(&[
        ("apps/shop.yaml", "owner: team\n"),
        ("workflows/w.yaml", &format!("description: d\n{}", LIST)),
    ]);
    let test = "workflow: w
apps: {own: {owner: me}}
cases:
  - {name: x, at: tomorrow, expect: {status: failed}}
  - {name: y, holds: [{what: shap}, {what: own, from: 2h, until: 1h}, {what: all}], expect: {status: failed}}
  - {name: z, mock: {a: [{attempts: [{fail: x}], takes: 1m}, {attempts: []}]}, expect: {status: failed}}
";
    files.texts.insert("tests/t.yaml".to_owned(), test.as_bytes().into());
    let (_, mistakes) = Definitions::read(&files);
    let told: Vec<String> =
        mistakes.iter().map(|mistake| format!("{} {}", mistake.place, mistake.message)).collect();
    let wanted = [
        "`at` is when the run begins, and `tomorrow` is no time",
        "there is no app `shap`: what is held is an app, or all",
        "the hold would end before it begins, at 2h",
        "`takes` belongs into one of the `attempts`",
        "a mock without an attempt",
    ];
    assert_eq!(told.len(), wanted.len(), "{told:#?}");
    for (told, wanted) in told.iter().zip(wanted) {
        assert!(told.ends_with(wanted), "{told}: {wanted}");
    }
}

#[test]
fn a_mocked_child_ends_with_the_run_s_time() {
    let child = "description: d\nsteps: [{id: z, run: t.do}]\n";
    let parent = "description: d\ntimeout: 1h\nsteps: [{id: a, run: child}]\n";
    let test = "workflow: w\nmock: {a: {takes: 3h}}\ncases: [{name: x, expect: {status: failed, steps: {a: cancelled}}}]\n";
    let reports = reports(&[("workflows/child.yaml", child), ("workflows/w.yaml", parent)], test);
    assert!(reports[0].passed(), "{reports:#?}");
    assert_eq!(reports[0].timeline.last().unwrap().after, Span::hours(1));
}

#[test]
fn items_and_groups_of_a_run_that_was_are_written_with_a_mock_for_each() {
    let step = |id: &str, status, output: Value, items| RecordedStep {
        id: id.to_owned(),
        status,
        does: Does::Call,
        attempts: 1,
        output,
        error: (status == StepStatus::Failed).then(|| RunError::failed("no")),
        took: None,
        items,
        is_in_group: id == "m",
    };
    let item = |output| Some(step("a", StepStatus::Succeeded, output, Vec::new()));
    let failed = Some(step("a", StepStatus::Failed, Value::Null, Vec::new()));
    let group = RecordedStep {
        does: Does::Other,
        attempts: 0,
        ..step("g", StepStatus::Succeeded, json!([{"m": {"id": 5}}, {"m": {"id": 6}}]), Vec::new())
    };
    let run = Recorded {
        name: "as it went".to_owned(),
        workflow: "site.w".to_owned(),
        input: json!({}),
        status: RunStatus::Succeeded,
        error: None,
        output: json!({"a": [{"id": 1}, null, {"id": 2}, {"id": 2}], "g": [{"m": {"id": 5}}, {"m": {"id": 6}}]}),
        steps: vec![
            step(
                "a",
                StepStatus::Succeeded,
                json!([{"id": 1}, null, {"id": 2}, {"id": 2}]),
                vec![item(json!({"id": 1})), failed, item(json!({"id": 2})), item(json!({"id": 2}))],
            ),
            group,
            step("m", StepStatus::Succeeded, json!({}), vec![item(json!({"id": 5})), item(json!({"id": 6}))]),
        ],
        undone: Vec::new(),
        heard: Vec::new(),
        said: Vec::new(),
    };
    let text = write(&run);
    let workflow = "description: d
steps:
  - {id: a, for_each: 0..4, max_failures: 1, run: t.do}
  - {id: g, for_each: 0..2, steps: [{id: m, run: t.do}]}
output: {a: '{{ steps.a.output }}', g: '{{ steps.g.output }}'}
";
    let reports = reports(&[("workflows/w.yaml", workflow)], &text);
    assert!(reports.iter().all(Report::passed), "{text}\n{reports:#?}");
    assert_eq!(text.matches("id: 2").count(), 3, "{text}"); // One mock, and twice in the output.
}
