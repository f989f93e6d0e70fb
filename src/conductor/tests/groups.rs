//! Groups, gates and places, by the rules of `semantics.md`.

use super::*;
use crate::model::hold::Hold;

#[test]
fn a_group_runs_its_steps_in_order_and_gives_their_outputs() {
    let text = "description: d
steps:
  - {id: first, run: t.do}
  - id: both
    steps:
      - {id: a, run: t.do, with: {what: '{{ steps.first.output.x }}'}}
      - {id: b, run: t.do, with: {what: '{{ steps.a.output.y }}'}}
  - {id: last, run: t.do, with: {what: '{{ steps.both.output.b.z }}'}}
";
    let mut stage = Stage::of(text);
    stage.done("first", json!({"x": 1}));
    assert_eq!((stage.status("both"), stage.dispatched().len()), (StepStatus::Running, 2));
    stage.done("a", json!({"y": 2}));
    assert_eq!(stage.attempt("b").input.masked(), json!({"what": 2}));
    stage.done("b", json!({"z": 3}));
    assert_eq!(stage.attempt("last").input.masked(), json!({"what": 3}));
    stage.done("last", json!({}));
    assert_eq!(stage.run.status, RunStatus::Succeeded);
}

#[test]
fn the_steps_of_a_parallel_group_start_at_once_and_a_failure_fails_the_run() {
    let text = "description: d
steps:
  - id: both
    parallel:
      - {id: a, run: t.do}
      - {id: b, run: t.do}
  - {id: last, run: t.do}
";
    let mut stage = Stage::of(text);
    assert_eq!(stage.dispatched(), ["a", "b"]);
    stage.failed("a", ErrorKind::Failed);
    stage.done("b", json!({}));
    assert_eq!((stage.status("both"), stage.run.status), (StepStatus::Failed, RunStatus::Failed));
    assert_eq!(stage.run.error.as_ref().unwrap().step.as_deref(), Some("a"));
    assert_eq!(stage.status("last"), StepStatus::NotStarted);
}

#[test]
fn the_failure_of_a_forgiven_group_stays_inside_it() {
    let text = "description: d
steps:
  - id: both
    continue_on_failure: true
    parallel:
      - {id: a, run: t.do}
      - {id: waits, sleep: 1h}
      - id: inner
        steps:
          - {id: b, run: t.do}
          - {id: c, run: t.do}
  - {id: last, run: t.do}
";
    let mut stage = Stage::of(text);
    stage.failed("a", ErrorKind::Failed);
    assert_eq!(stage.status("waits"), StepStatus::Cancelled);
    stage.done("b", json!({}));
    assert_eq!((stage.status("c"), stage.status("both")), (StepStatus::NotStarted, StepStatus::Failed));
    stage.done("last", json!({}));
    assert_eq!(stage.run.status, RunStatus::Succeeded);
}

#[test]
fn the_steps_of_a_skipped_group_are_skipped() {
    let text = "description: d
steps:
  - {id: both, when: 'false', steps: [{id: a, run: t.do}, {id: b, run: t.do}]}
  - {id: last, run: t.do}
";
    let stage = Stage::of(text);
    assert_eq!((stage.status("a"), stage.status("b")), (StepStatus::Skipped, StepStatus::Skipped));
    assert_eq!(stage.dispatched(), ["last"]);
}

#[test]
fn a_group_with_retries_is_a_run_that_sees_the_names_of_this_one() {
    let text = "description: d
input: {app: string}
steps:
  - {id: first, run: t.do}
  - id: both
    retry: {attempts: 2}
    for_each: '[5, 6]'
    as: host
    steps:
      - {id: a, run: t.do, with: {what: '{{ steps.first.output.x }} {{ host }} {{ input.app }}'}}
";
    let mut stage = Stage::with(text, json!({"app": "shop"}));
    stage.done("first", json!({"x": 1}));
    let children: Vec<_> = stage
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::StartChild { step, workflow, input, outer, .. } => {
                Some((step.clone(), workflow.clone(), input.clone(), outer.clone().unwrap()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(children.len(), 2);
    let (step, name, input, outer) = children[1].clone();
    assert_eq!((step.as_str(), name.as_str()), ("both[1]", "site.w#both"));
    let workflow = stage.definitions.workflow_of(&name).unwrap();
    let start = Start {
        revision: stage.definitions.revision.clone(),
        input,
        started_by: Actor::user("ada"),
        event: None,
        rule: None,
        parent: None,
        depth: 1,
        outer: Some(*outer),
    };
    let mut child = new_run(&workflow, start, stage.now);
    let world = World {
        definitions: &stage.definitions,
        workflow: &workflow,
        now: stage.now,
        holds: &stage.holds,
        public_url: "",
    };
    let effects = advance(world, &mut child, &Input::Started);
    let Some(Effect::Dispatch { attempt, .. }) =
        effects.into_iter().find(|effect| matches!(effect, Effect::Dispatch { .. }))
    else {
        panic!("nothing was dispatched");
    };
    assert_eq!(attempt.input.masked(), json!({"what": "1 6 shop"}));
    let output = json!({"y": 2});
    let finished = Outcome::Succeeded { output };
    advance(world, &mut child, &Input::AttemptFinished { key: attempt.key, outcome: finished, worker: None });
    assert_eq!((child.status, &*child.output), (RunStatus::Succeeded, &json!({"a": {"y": 2}})));

    // It failed: another run, by the group's own retry.
    let ended = |run: i64, status| Input::ChildEnded {
        step: "both[1]".to_owned(),
        run: RunId(run),
        status,
        output: Arc::new(json!({"a": 1})),
        error: None,
    };
    stage.give(&ended(12, RunStatus::Failed));
    stage.passes(Span::hours(1));
    assert_eq!(stage.run.step("both[1]").unwrap().attempts, 2);
    stage.give(&ended(13, RunStatus::Succeeded));
    assert_eq!(stage.run.step("both[1]").unwrap().status(), StepStatus::Succeeded);
}

fn held() -> Holds {
    let hold =
        Hold { what: "shop".to_owned(), by: Actor::user("eve"), why: "fire".to_owned(), since: Timestamp(0) };
    Holds { all: None, apps: [("shop".to_owned(), hold)].into() }
}

const HELD: &str = "description: d
input: {app: string}
steps:
  - {id: a, run: t.do, retry: {attempts: 2, delay: 1m}, undo: {run: t.once}}
  - {id: b, run: t.do}
";

#[test]
fn a_held_app_starts_no_attempt_until_it_is_released() {
    let mut stage = Stage::with(HELD, json!({"app": "shop"}));
    stage.holds = held();
    stage.failed("a", ErrorKind::Failed);
    stage.passes(Span::minutes(5));
    assert_eq!((stage.dispatched().len(), wakes_at(&stage.run)), (1, None));
    stage.restart();
    stage.holds = Holds::default();
    stage.give(&Input::HoldsChanged);
    stage.done("a", json!({}));
    stage.holds = held();
    stage.give(&Input::HoldsChanged);
    stage.failed("b", ErrorKind::Failed);
    // Taking back is never held.
    assert_eq!(stage.attempts.last().unwrap().key.step, "a/undo");
}

#[test]
fn force_passes_holds_and_a_step_that_waits_begins() {
    let mut stage = Stage::with(HELD, json!({"app": "shop"}));
    stage.holds = held();
    stage.done("a", json!({}));
    assert_eq!((stage.status("b"), stage.run.status), (StepStatus::Waiting, RunStatus::Waiting));
    stage.give(&Input::ForceAsked { by: Actor::user("ada"), why: "the fire is out".to_owned() });
    assert_eq!(stage.dispatched(), ["a", "b"]);
}

#[test]
fn values_are_read_before_when() {
    let text = "description: d
steps:
  - {id: a, run: t.do, read: {frozen: 'freeze/x'}, when: frozen != true, with: {what: '{{ frozen }}'}}
";
    let mut stage = Stage::of(text);
    let keys = vec![("frozen".to_owned(), "freeze/x".to_owned())];
    assert!(stage.effects.contains(&Effect::Read { step: "a".to_owned(), keys }));
    stage.restart();
    let values = json!({"frozen": false}).as_object().unwrap().clone();
    stage.give(&Input::ValuesRead { step: "a".to_owned(), values });
    assert_eq!(stage.attempt("a").input.masked(), json!({"what": false}));
}

#[test]
fn a_run_that_only_waits_gives_way_to_a_newer_one_and_runs_finally() {
    let text = "description: d
steps:
  - {id: a, run: t.do, undo: {run: t.once}}
  - {id: b, sleep: 1h}
finally: [{id: tell, run: t.do}]
";
    let mut stage = Stage::of(text);
    stage.give(&Input::Superseded { by: RunId(9) });
    assert_eq!(stage.status("a"), StepStatus::Running);
    stage.done("a", json!({}));
    assert_eq!((stage.status("b"), stage.run.status), (StepStatus::Cancelled, RunStatus::Running));
    stage.done("tell", json!({}));
    assert_eq!((stage.run.status, stage.run.undos.len()), (RunStatus::Superseded, 0));
}

#[test]
fn those_who_have_not_answered_are_reminded() {
    let text = "description: d\nsteps: [{id: a, approve: {ask: 'ok?', of: [x], remind: 1h, timeout: 90m}}]\n";
    let mut stage = Stage::of(text);
    stage.passes(Span::hours(1));
    assert!(stage.effects.contains(&Effect::Remind { step: "a".to_owned() }));
    stage.passes(Span::minutes(30));
    assert_eq!(stage.status("a"), StepStatus::TimedOut);
}

#[test]
fn a_step_has_the_lock_that_a_group_around_it_has() {
    let text = "description: d
steps:
  - id: both
    lock: one
    steps:
      - {id: a, run: t.do, lock: one, undo: {run: t.do}}
      - {id: b, run: t.do, lock: two}
  - {id: last, run: t.do}
";
    let mut stage = Stage::of(text);
    let asked = |stage: &Stage| -> Vec<String> {
        let lock = |effect: &Effect| match effect {
            Effect::TakeLock { step, lock } => Some(format!("{step}: {lock}")),
            _ => None,
        };
        stage.effects.iter().filter_map(lock).collect()
    };
    assert_eq!(asked(&stage), ["both: one"]);
    stage.give(&Input::LockTaken { step: "both".to_owned() });
    assert_eq!(stage.status("a"), StepStatus::Running);
    stage.done("a", json!({}));
    assert_eq!(asked(&stage).last().unwrap(), "b: two");
    stage.give(&Input::LockTaken { step: "b".to_owned() });
    stage.done("b", json!({}));
    stage.failed("last", ErrorKind::Failed);
    // The group gave it back; to undo the step it is taken again.
    assert_eq!(asked(&stage).last().unwrap(), "a/undo: one");
}

#[test]
fn what_waits_in_a_group_ends_with_its_failure_also_when_the_run_had_failed_before() {
    let text = "description: d
steps:
  - {id: first, run: t.do}
  - id: after
    needs: [first]
    start_on: failure
    parallel:
      - {id: a, run: t.do}
      - {id: b, run: t.do, lock: one}
finally:
  - id: tidy
    parallel:
      - {id: c, run: t.do}
      - {id: d, sleep: 1h}
";
    let mut stage = Stage::of(text);
    stage.failed("first", ErrorKind::Failed);
    assert_eq!(stage.status("b"), StepStatus::Queued);
    stage.failed("a", ErrorKind::Failed);
    assert_eq!((stage.status("b"), stage.status("after")), (StepStatus::NotStarted, StepStatus::Failed));
    stage.failed("c", ErrorKind::Failed);
    assert_eq!((stage.status("d"), stage.run.status), (StepStatus::Cancelled, RunStatus::Failed));
}
