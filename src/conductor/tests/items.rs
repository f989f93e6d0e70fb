//! `for_each`, by the rules of `semantics.md`.

use super::*;

/// `at` items of step `all` are at work: their numbers.
fn at_work(stage: &Stage) -> Vec<u32> {
    let mut items: Vec<u32> = stage.run.items.get("all").unwrap().active().collect();
    items.sort_unstable();
    items
}

fn finish(stage: &mut Stage, step: &str, item: u32, outcome: Outcome) -> Vec<Effect> {
    let found = stage
        .attempts
        .iter()
        .rev()
        .find(|attempt| attempt.key.step == step && attempt.key.item == Some(item));
    let key = found.unwrap_or_else(|| panic!("{step}[{item}] was not dispatched")).key.clone();
    stage.give(&Input::AttemptFinished { key, outcome, worker: None })
}

fn done(stage: &mut Stage, item: u32, output: Value) {
    finish(stage, "all", item, Outcome::Succeeded { output });
}

fn failed(stage: &mut Stage, item: u32) {
    finish(stage, "all", item, Outcome::failed(ErrorKind::Failed, "it broke"));
}

fn workflow(keys: &str) -> String {
    format!(
        "description: d\nsteps:\n  - {{id: all, run: t.do, for_each: '[7, 8, 9, 10]', with: {{what: '{{{{ item }}}} of {{{{ index }}}}'}}{keys}}}\n  - {{id: after, run: t.do, with: {{what: '{{{{ steps.all.output }}}}'}}}}\n"
    )
}

#[test]
fn items_are_done_side_by_side_up_to_the_limit_and_given_in_order() {
    let mut stage = Stage::of(&workflow(", concurrency: 2"));
    assert_eq!(at_work(&stage), [0, 1]);
    done(&mut stage, 1, json!("b"));
    assert_eq!(at_work(&stage), [0, 2]);
    assert_eq!(stage.attempts[2].input.masked(), json!({"what": "9 of 2"}));
    done(&mut stage, 2, json!("c"));
    done(&mut stage, 3, json!("d"));
    assert_eq!(stage.status("all"), StepStatus::Running);
    done(&mut stage, 0, json!("a"));
    assert_eq!(stage.status("all"), StepStatus::Succeeded);
    assert_eq!(stage.attempt("after").input.masked(), json!({"what": ["a", "b", "c", "d"]}));
}

#[test]
fn ten_items_at_once_are_the_default_and_an_empty_list_succeeds() {
    let stage = Stage::of("description: d\nsteps: [{id: all, run: t.do, for_each: '0..25'}]\n");
    assert_eq!(at_work(&stage).len(), 10);
    let stage = Stage::of("description: d\nsteps: [{id: all, run: t.do, for_each: '[]'}]\n");
    assert_eq!((stage.run.status, &*stage.run.steps["all"].output), (RunStatus::Succeeded, &json!([])));
}

#[test]
fn a_failed_item_fails_the_step_when_those_at_work_are_done_and_no_other_starts() {
    let mut stage = Stage::of(&workflow(", concurrency: 2"));
    failed(&mut stage, 0);
    assert_eq!(at_work(&stage), [1]);
    done(&mut stage, 1, json!("b"));
    assert_eq!((stage.status("all"), stage.run.status), (StepStatus::Failed, RunStatus::Failed));
    let error = stage.run.error.as_ref().unwrap().to_string();
    assert!(error.contains("1 of 4 item failed; item 0: it broke"), "{error}");
    assert_eq!(stage.attempts.len(), 2);
}

#[test]
fn so_many_items_may_fail_and_leave_null() {
    let mut stage = Stage::of(&workflow(", max_failures: 50%"));
    for item in 0..4 {
        if item < 2 { failed(&mut stage, item) } else { done(&mut stage, item, json!(item)) }
    }
    assert_eq!(stage.attempt("after").input.masked(), json!({"what": [null, null, 2, 3]}));
}

#[test]
fn with_fail_fast_the_others_are_cancelled() {
    let mut stage = Stage::of(&workflow(", fail_fast: true"));
    let effects = finish(&mut stage, "all", 2, Outcome::failed(ErrorKind::Failed, "it broke"));
    let cancelled = effects.iter().filter(|effect| matches!(effect, Effect::CancelAttempt { .. })).count();
    assert_eq!(cancelled, 3);
    for item in [0, 1, 3] {
        finish(&mut stage, "all", item, Outcome::failed(ErrorKind::Cancelled, "cancelled"));
    }
    assert_eq!(stage.status("all"), StepStatus::Failed);
    assert!(stage.run.error.as_ref().unwrap().to_string().contains("item 2: it broke"));
}

#[test]
fn each_item_has_its_own_retries_and_a_restart_forgets_none() {
    let mut stage = Stage::of(&workflow(", concurrency: 4, retry: {attempts: 2, delay: 1m}"));
    failed(&mut stage, 1);
    assert_eq!(wakes_at(&stage.run), Some(stage.now.plus(Span::minutes(1))));
    stage.restart();
    assert_eq!(wakes_at(&stage.run), Some(stage.now.plus(Span::minutes(1))));
    stage.passes(Span::minutes(1));
    assert_eq!(stage.attempts.last().unwrap().key.to_string(), "1/all[1]#1.2");
    for item in 0..4 {
        done(&mut stage, item, json!(item));
    }
    assert_eq!(stage.status("all"), StepStatus::Succeeded);
}

#[test]
fn every_combination_of_a_map_of_lists_is_an_item() {
    let text = "description: d
steps:
  - {id: all, run: t.do, for_each: {os: [a, b], arch: '{{ input.archs }}'}, with: {what: '{{ item.os }}-{{ item.arch }}'}}
input: {archs: array}
";
    let stage = Stage::with(text, json!({"archs": ["x", "y"]}));
    let whats: Vec<Value> =
        stage.attempts.iter().map(|attempt| attempt.input.masked()["what"].clone()).collect();
    assert_eq!(whats, ["a-x", "a-y", "b-x", "b-y"]);
}

#[test]
fn what_is_no_list_fails_the_step_and_says_what_it_is() {
    let text = "description: d\ninput: {list: any}\nsteps: [{id: all, run: t.do, for_each: input.list}]\n";
    let stage = Stage::with(text, json!({"list": "x"}));
    let error = stage.run.error.as_ref().unwrap().to_string();
    assert!(error.contains("takes a list, a range or a map of lists, and this is \"x\""), "{error}");
}

#[test]
fn items_that_began_are_taken_back_the_last_one_first_with_what_they_reported() {
    let text = "description: d
steps:
  - {id: all, run: t.do, for_each: '[7, 8, 9]', concurrency: 2, undo: {run: t.once, with: {what: '{{ item }} {{ index }} {{ output.id }}'}}}
  - {id: boom, run: t.do}
";
    let mut stage = Stage::of(text);
    for item in 0..3 {
        done(&mut stage, item, json!({"id": format!("i{item}")}));
    }
    stage.failed("boom", ErrorKind::Failed);
    for (item, what) in [(2, "9 2 i2"), (1, "8 1 i1"), (0, "7 0 i0")] {
        let last = stage.attempts.last().unwrap();
        assert_eq!((last.key.step.as_str(), last.key.item), ("all/undo", Some(item)));
        assert_eq!(last.input.masked(), json!({"what": what}));
        stage.restart();
        finish(&mut stage, "all/undo", item, Outcome::Succeeded { output: Value::Null });
    }
    assert_eq!((stage.run.status, stage.run.undone), (RunStatus::Failed, Some(Undone::All)));
}

#[test]
fn a_cancel_ends_items_at_work_and_starts_no_other() {
    let mut stage = Stage::of(&workflow(", concurrency: 2"));
    let effects = stage.give(&Input::CancelAsked { by: Actor::user("ada") });
    assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::CancelAttempt { .. })).count(), 2);
    for item in [0, 1] {
        finish(&mut stage, "all", item, Outcome::failed(ErrorKind::Cancelled, "cancelled"));
    }
    assert_eq!((stage.run.status, stage.status("all")), (RunStatus::Cancelled, StepStatus::Cancelled));
}

#[test]
fn a_failure_elsewhere_lets_items_at_work_finish_and_starts_no_other() {
    let text = "description: d
steps:
  - {id: all, run: t.do, for_each: '0..4', concurrency: 2, needs: []}
  - {id: boom, run: t.do, needs: []}
";
    let mut stage = Stage::of(text);
    stage.failed("boom", ErrorKind::Failed);
    done(&mut stage, 0, json!(0));
    done(&mut stage, 1, json!(1));
    assert_eq!((stage.status("all"), stage.run.status), (StepStatus::Cancelled, RunStatus::Failed));
    assert_eq!(stage.attempts.len(), 3);
}

#[test]
fn an_event_is_emitted_for_each_item_once() {
    let text =
        "description: d\nsteps: [{id: all, emit: t.alarm, for_each: '[1, 2]', with: {n: '{{ item }}'}}]\n";
    let stage = Stage::of(text);
    let emitted: Vec<(Value, String)> = stage
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Emit { payload, dedup, .. } => Some((payload.clone(), dedup.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(
        emitted,
        [(json!({"n": 1}), "1/all/1/0".to_owned()), (json!({"n": 2}), "1/all/1/1".to_owned())]
    );
    assert_eq!(stage.run.status, RunStatus::Succeeded);
}

#[test]
fn a_run_of_ten_thousand_items_stores_as_little_for_each_as_one_of_ten() {
    let mut stage = Stage::of("description: d\nsteps: [{id: all, run: t.do, for_each: '0..10000'}]\n");
    for item in 0..10_000 {
        done(&mut stage, item, json!({"n": item}));
        let items = &stage.run.items["all"];
        // The item that ended and the one that began.
        assert!(items.changed().count() <= 2 + usize::from(item == 0) * 10);
        if item % 1000 == 0 {
            assert!(serde_json::to_string(&stage.run).unwrap().len() < 3000);
        }
        stage.run.stored();
    }
    assert_eq!(stage.run.status, RunStatus::Succeeded);
    assert_eq!(stage.run.steps["all"].output[9_999], json!({"n": 9_999}));
}
