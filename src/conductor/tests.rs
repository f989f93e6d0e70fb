//! The rules of `semantics.md` for runs and steps, each as a test; and random runs under random events.

#![expect(clippy::unwrap_used, reason = "tests")]

mod edges;
mod groups;
mod items;
mod simulation;

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::definitions::{Files, Workflow};
use crate::model::hold::Holds;
use crate::model::run::{Phase, Undone};
use crate::model::step::StepState;
use crate::model::{
    Actor, Attempt, ErrorKind, Event, EventId, Outcome, Run, RunError, RunId, RunStatus, Span, StepKey,
    StepStatus, Value,
};

const CORE: [(&str, &str); 5] = [
    ("packs/t/pack.yaml", "description: For tests.\n"),
    (
        "packs/t/actions/do.yaml",
        "description: Does.\nrunner: shell\ninput: {what: {type: any, optional: true}}\nidempotent: true\nshell: {script: 'true'}\n",
    ),
    (
        "packs/t/actions/once.yaml",
        "description: Does once.\nrunner: shell\ninput: {what: {type: any, optional: true}}\nidempotent: false\nshell: {script: 'true'}\n",
    ),
    ("packs/t/triggers/alarm.yaml", "description: Rings.\n"),
    ("packs/t/workflows/child.yaml", "description: Works for a step.\nsteps: [{id: x, run: t.do}]\n"),
];

pub(super) fn definitions(workflows: &[(&str, &str)]) -> Definitions {
    let mut files = Files::default();
    for (path, text) in CORE.iter().chain(workflows) {
        files.texts.insert((*path).to_owned(), Arc::from(text.as_bytes()));
    }
    let (definitions, mistakes) = Definitions::read(&files);
    assert!(mistakes.is_empty(), "{mistakes:#?}");
    definitions
}

/// One run under test, with what it caused so far.
pub(super) struct Stage {
    definitions: Definitions,
    workflow: Arc<Workflow>,
    pub(super) run: Run,
    pub(super) now: Timestamp,
    attempts: Vec<Attempt>,
    effects: Vec<Effect>,
    pub(super) holds: Holds,
}

impl Stage {
    fn of(text: &str) -> Stage {
        Stage::with(text, json!({}))
    }

    fn with(text: &str, input: Value) -> Stage {
        let definitions = definitions(&[("workflows/w.yaml", text)]);
        let workflow = definitions.workflow_of("site.w").unwrap();
        Stage::playing(definitions, workflow, input)
    }

    fn playing(definitions: Definitions, workflow: Arc<Workflow>, input: Value) -> Stage {
        let start = Start {
            revision: definitions.revision.clone(),
            input: input.into(),
            started_by: Actor::user("ada"),
            event: None,
            rule: None,
            parent: None,
            depth: 0,
            outer: None,
        };
        let now = Timestamp(1_000_000);
        let mut run = new_run(&workflow, start, now);
        run.id = RunId(1);
        let (attempts, effects) = (Vec::new(), Vec::new());
        let mut stage = Stage { definitions, workflow, run, now, attempts, effects, holds: Holds::default() };
        stage.give(&Input::Started);
        stage
    }

    pub(super) fn give(&mut self, input: &Input) -> Vec<Effect> {
        let world = World {
            definitions: &self.definitions,
            workflow: &self.workflow,
            now: self.now,
            holds: &self.holds,
            public_url: "http://siskin.example",
        };
        let effects = advance(world, &mut self.run, input);
        for effect in &effects {
            if let Effect::Dispatch { attempt, .. } = effect {
                self.attempts.push((**attempt).clone());
            }
        }
        self.effects.extend(effects.iter().cloned());
        effects
    }

    fn attempt(&self, step: &str) -> Attempt {
        let found = self.attempts.iter().rev().find(|attempt| attempt.key.step == step);
        found.unwrap_or_else(|| panic!("{step} was not dispatched")).clone()
    }

    fn done(&mut self, step: &str, output: Value) -> Vec<Effect> {
        let key = self.attempt(step).key;
        self.give(&Input::AttemptFinished { key, outcome: Outcome::Succeeded { output }, worker: None })
    }

    fn failed(&mut self, step: &str, kind: ErrorKind) -> Vec<Effect> {
        let key = self.attempt(step).key;
        self.give(&Input::AttemptFinished { key, outcome: Outcome::failed(kind, "it broke"), worker: None })
    }

    fn reported(&mut self, step: &str, output: Value) {
        let key = self.attempt(step).key;
        self.give(&Input::AttemptReported { key, output });
    }

    fn passes(&mut self, span: Span) {
        self.now = self.now.plus(span);
        self.give(&Input::TimePassed);
    }

    /// The run as a new process reads it from the store.
    fn restart(&mut self) {
        let mut values: Vec<(String, Value)> = Vec::new();
        self.run.stored();
        let mut whole = self.run.clone();
        whole.renew();
        for (name, row) in whole.rows() {
            if let crate::model::kept::Row::Write(value) = row {
                values.push((name, value.clone()));
            }
        }
        let items: Vec<_> = self
            .run
            .all_items()
            .flat_map(|(key, items)| {
                let key = key.to_string();
                items.iter().map(move |(item, step)| {
                    (key.clone(), items.visit, item, serde_json::to_string(step).unwrap())
                })
            })
            .collect();
        let text = serde_json::to_string(&self.run).unwrap();
        let version = self.run.version;
        self.run = serde_json::from_str(&text).unwrap();
        self.run.version = version;
        for (key, visit, item, step) in items {
            self.run.fill_item(StepKey::parse(&key), visit, item, serde_json::from_str(&step).unwrap());
        }
        self.run.fill_empty();
        for (name, value) in values {
            self.run.fill_value(&name, value);
        }
    }

    fn status(&self, step: &str) -> StepStatus {
        self.run.step(step).unwrap().status()
    }

    fn dispatched(&self) -> Vec<&str> {
        self.attempts.iter().map(|attempt| attempt.key.step.as_str()).collect()
    }
}

fn event(id: i64, trigger: &str, at: Timestamp, payload: Value) -> Input {
    let event = Event {
        id: EventId(id),
        trigger: trigger.to_owned(),
        source: "test".to_owned(),
        payload: Arc::new(payload),
        received_at: at,
        routed_at: None,
        replay_of: None,
    };
    Input::EventCame { event }
}

const TWO: &str = "description: d
steps:
  - {id: a, run: t.do}
  - {id: b, run: t.do, with: {what: '{{ steps.a.output.x }}'}}
output: {x: '{{ steps.b.output.y }}'}
";

#[test]
fn the_steps_of_a_list_follow_one_another_and_see_what_came_before() {
    let mut stage = Stage::of(TWO);
    assert_eq!(stage.dispatched(), ["a"]);
    stage.done("a", json!({"x": [1, 2]}));
    assert_eq!(stage.attempt("b").input.masked(), json!({"what": [1, 2]}));
    stage.done("b", json!({"y": 3}));
    assert_eq!((stage.run.status, &*stage.run.output), (RunStatus::Succeeded, &json!({"x": 3})));
}

#[test]
fn late_and_doubled_outcomes_change_nothing() {
    let mut stage = Stage::of(TWO);
    let key = stage.attempt("a").key;
    stage.done("a", json!({"x": 1}));
    let before = stage.run.clone();
    stage.give(&Input::AttemptFinished {
        key,
        outcome: Outcome::failed(ErrorKind::Failed, "late"),
        worker: None,
    });
    assert_eq!(stage.run, before);
    stage.done("b", json!({"y": 3}));
    let before = stage.run.clone();
    assert_eq!(stage.done("b", json!({"y": 4})), []);
    assert_eq!(stage.run, before);
}

#[test]
fn an_output_that_can_not_be_rendered_fails_the_run() {
    let mut stage = Stage::of(TWO);
    stage.done("a", json!({"x": 1}));
    stage.done("b", json!({}));
    assert_eq!(stage.run.status, RunStatus::Failed);
    assert!(stage.run.error.as_ref().unwrap().message.contains("output"), "{:?}", stage.run.error);
}

#[test]
fn after_a_failure_undos_run_newest_first_then_on_failure_then_finally() {
    let mut stage = Stage::of(
        "description: d
steps:
  - {id: a, run: t.do, undo: {run: t.do, with: {what: '{{ steps.a.output.id }}'}}}
  - {id: b, run: t.do, undo: {run: t.do, with: {what: '{{ steps.b.output.id }}'}}}
  - {id: c, run: t.do, undo: {run: t.do, with: {what: '{{ steps.c.output.id }}'}}}
  - {id: d, run: t.do}
on_failure: [{id: tell, run: t.do, with: {what: '{{ run.failed_step }}: {{ run.error }}'}}]
finally: [{id: clean, run: t.do, with: {what: '{{ run.status }}'}}]
",
    );
    stage.done("a", json!({"id": 1}));
    stage.reported("b", json!({"id": 2}));
    stage.failed("b", ErrorKind::Failed);
    assert_eq!((stage.run.status, stage.status("c")), (RunStatus::Undoing, StepStatus::NotStarted));
    assert_eq!(stage.attempt("b/undo").input.masked(), json!({"what": 2}));
    assert!(!stage.dispatched().contains(&"a/undo"), "one at a time");
    stage.done("b/undo", json!({}));
    assert_eq!(stage.attempt("a/undo").input.masked(), json!({"what": 1}));
    stage.done("a/undo", json!({}));
    assert_eq!(stage.run.undone, Some(Undone::All));
    assert_eq!(stage.attempt("tell").input.masked(), json!({"what": "b: it broke"}));
    stage.done("tell", json!({}));
    assert_eq!(stage.attempt("clean").input.masked(), json!({"what": "failed"}));
    stage.done("clean", json!({}));
    assert_eq!(stage.run.status, RunStatus::Failed);
}

#[test]
fn a_step_that_never_reported_what_its_undo_needs_has_nothing_to_undo() {
    let mut stage = Stage::of(
        "description: d
steps:
  - {id: a, run: t.do, undo: {run: t.do, with: {what: '{{ steps.a.output.id }}'}}}
",
    );
    stage.failed("a", ErrorKind::Failed);
    assert_eq!(stage.run.status, RunStatus::Failed);
    assert_eq!(stage.status("a/undo"), StepStatus::Skipped);
    assert!(stage.run.undos["a"].note.as_ref().unwrap().contains("nothing to undo"));
}

#[test]
fn a_failed_undo_is_recorded_and_the_others_go_on() {
    let mut stage = Stage::of(
        "description: d
steps:
  - {id: a, run: t.do, undo: {run: t.do}}
  - {id: b, run: t.do, undo: {run: t.do}}
",
    );
    stage.done("a", json!({}));
    stage.failed("b", ErrorKind::Failed);
    stage.failed("b/undo", ErrorKind::Failed);
    stage.done("a/undo", json!({}));
    assert_eq!((stage.run.status, stage.run.undone), (RunStatus::Failed, Some(Undone::Part)));
}

#[test]
fn a_failed_step_is_tried_again_after_its_delay() {
    let mut stage = Stage::of(
        "description: d\nsteps:\n  - {id: a, run: t.do, retry: {attempts: 3, delay: 10s, backoff: 2}}\n",
    );
    stage.failed("a", ErrorKind::Failed);
    assert_eq!((stage.run.status, stage.status("a")), (RunStatus::Waiting, StepStatus::Waiting));
    assert_eq!(wakes_at(&stage.run), Some(stage.now.plus(Span::seconds(10))));
    stage.passes(Span::seconds(9));
    assert_eq!(stage.attempts.len(), 1);
    stage.passes(Span::seconds(1));
    stage.failed("a", ErrorKind::TimedOut);
    stage.passes(Span::seconds(19));
    assert_eq!(stage.attempts.len(), 2);
    stage.passes(Span::seconds(1));
    stage.failed("a", ErrorKind::Failed);
    assert_eq!((stage.run.status, stage.run.steps["a"].attempts), (RunStatus::Failed, 3));
}

#[test]
fn retry_when_sees_the_error_and_may_refuse() {
    let text = "description: d
steps:
  - id: a
    run: t.do
    retry: {attempts: 3, delay: 1s, when: 'error.kind == \"timed_out\"'}
";
    let mut stage = Stage::of(text);
    stage.failed("a", ErrorKind::TimedOut);
    assert_eq!(stage.status("a"), StepStatus::Waiting);
    stage.passes(Span::seconds(1));
    stage.failed("a", ErrorKind::Failed);
    assert_eq!(stage.run.status, RunStatus::Failed);
}

#[test]
fn lost_attempts_of_idempotent_actions_begin_again_three_times_and_others_never() {
    let mut stage = Stage::of("description: d\nsteps: [{id: a, run: t.do}]\n");
    for number in 2..=4 {
        stage.failed("a", ErrorKind::Lost);
        assert_eq!(stage.attempt("a").key.number, number);
    }
    stage.failed("a", ErrorKind::Lost);
    assert_eq!((stage.run.status, stage.status("a")), (RunStatus::Failed, StepStatus::Lost));

    let mut stage = Stage::of("description: d\nsteps: [{id: a, run: t.once}]\n");
    stage.failed("a", ErrorKind::Lost);
    assert_eq!((stage.attempts.len(), stage.status("a")), (1, StepStatus::Lost));
    let mut stage =
        Stage::of("description: d\nsteps: [{id: a, run: t.once, retry: {attempts: 2, lost: true}}]\n");
    stage.failed("a", ErrorKind::Lost);
    stage.passes(Span(0));
    assert_eq!(stage.attempts.len(), 2);
}

const GATE: &str = "description: d
steps:
  - {id: a, run: t.do, undo: {run: t.do}}
  - id: gate
    approve: {ask: 'Ship it?', of: [managers], timeout: 24h}
  - {id: b, run: t.do}
on_failure: [{id: tell, run: t.do}]
finally: [{id: clean, run: t.do}]
";

#[test]
fn an_approval_asks_everyone_but_the_starter_and_lets_the_run_go_on() {
    let mut stage = Stage::of(GATE);
    let effects = stage.done("a", json!({}));
    let question = effects.iter().find_map(|effect| match effect {
        Effect::Ask { question } => Some(question.clone()),
        _ => None,
    });
    let question = question.unwrap();
    assert_eq!((question.of, question.distinct_from), (vec!["managers".to_owned()], vec!["ada".to_owned()]));
    assert_eq!(question.undos, [json!({"step": "a", "run": "t.do", "with": {}})]);
    assert_eq!(stage.run.status, RunStatus::Waiting);
    let by = vec!["bob".to_owned()];
    stage.give(&Input::Approved { step: "gate".to_owned(), by, comment: None, answers: Value::Null });
    assert_eq!(stage.status("gate"), StepStatus::Succeeded);
    assert!(stage.dispatched().contains(&"b"));
}

#[test]
fn a_refusal_ends_rejected_with_undos_and_finally_but_without_on_failure() {
    let mut stage = Stage::of(GATE);
    stage.done("a", json!({}));
    stage.give(&Input::Rejected {
        step: "gate".to_owned(),
        by: "bob".to_owned(),
        comment: Some("no".to_owned()),
    });
    stage.done("a/undo", json!({}));
    stage.done("clean", json!({}));
    assert_eq!((stage.run.status, stage.status("gate")), (RunStatus::Rejected, StepStatus::Rejected));
    assert_eq!(stage.status("tell"), StepStatus::NotStarted);
    assert_eq!(stage.run.error.as_ref().unwrap().to_string(), "rejected by bob: no");
}

#[test]
fn an_approval_that_nobody_answers_times_out() {
    let mut stage = Stage::of(GATE);
    stage.done("a", json!({}));
    stage.passes(Span::hours(24));
    assert_eq!(stage.status("gate"), StepStatus::TimedOut);
    assert!(stage.effects.contains(&Effect::Withdraw { step: "gate".to_owned(), expired: true }));
}

#[test]
fn cancel_ends_attempts_without_undo_or_on_failure_and_runs_finally_which_a_second_one_ends() {
    let mut stage = Stage::of(GATE);
    let by = Actor::user("bob");
    let effects = stage.give(&Input::CancelAsked { by: by.clone() });
    let key = stage.attempt("a").key;
    assert!(effects.contains(&Effect::CancelAttempt { key }));
    stage.failed("a", ErrorKind::Cancelled);
    assert!(stage.run.undos.is_empty());
    assert_eq!((stage.status("b"), stage.status("tell")), (StepStatus::NotStarted, StepStatus::NotStarted));
    assert_eq!(stage.status("clean"), StepStatus::Running);
    stage.give(&Input::CancelAsked { by });
    stage.failed("clean", ErrorKind::Cancelled);
    assert_eq!(stage.run.status, RunStatus::Cancelled);
}

#[test]
fn a_paused_run_starts_nothing_and_goes_on_when_it_is_resumed() {
    let mut stage = Stage::of(TWO);
    let by = Actor::user("bob");
    stage.give(&Input::PauseAsked { by: by.clone() });
    stage.done("a", json!({"x": 1}));
    assert_eq!((stage.run.status, stage.dispatched().len()), (RunStatus::Paused, 1));
    stage.give(&Input::ResumeAsked { by });
    assert_eq!(stage.dispatched(), ["a", "b"]);
}

#[test]
fn a_workflow_that_timed_out_ends_failed_and_its_attempts_are_ended() {
    let mut stage = Stage::of("description: d\ntimeout: 1h\nsteps: [{id: a, run: t.do}]\n");
    stage.passes(Span::hours(1));
    stage.failed("a", ErrorKind::Cancelled);
    assert_eq!(
        (stage.run.status, stage.run.error.as_ref().unwrap().kind),
        (RunStatus::Failed, ErrorKind::TimedOut)
    );
}

#[test]
fn when_false_skips_a_step_and_what_follows_goes_on() {
    let mut stage = Stage::with(
        "description: d
input: {go: boolean}
steps:
  - {id: a, run: t.do, when: input.go}
  - {id: b, run: t.do}
",
        json!({"go": false}),
    );
    assert_eq!((stage.status("a"), stage.dispatched()), (StepStatus::Skipped, vec!["b"]));
    stage.done("b", json!({}));
    assert_eq!(stage.run.status, RunStatus::Succeeded);
}

#[test]
fn a_forgiven_failure_keeps_its_status_and_counts_as_success() {
    let mut stage = Stage::of(
        "description: d
steps:
  - {id: a, run: t.do, continue_on_failure: true}
  - {id: b, run: t.do}
",
    );
    stage.failed("a", ErrorKind::Failed);
    assert_eq!((stage.status("a"), stage.dispatched()), (StepStatus::Failed, vec!["a", "b"]));
    stage.done("b", json!({}));
    assert_eq!(stage.run.status, RunStatus::Succeeded);
}

#[test]
fn a_graph_starts_what_its_needs_allow_and_a_failure_step_does_not_rescue_the_run() {
    let mut stage = Stage::of(
        "description: d
steps:
  - {id: a, run: t.do}
  - {id: b, run: t.do, needs: []}
  - {id: joined, run: t.do, needs: [a, b]}
  - {id: rescue, run: t.do, needs: [a], start_on: failure}
  - {id: report, run: t.do, needs: [a, b], start_on: finished}
",
    );
    assert_eq!(stage.dispatched(), ["a", "b"]);
    stage.failed("a", ErrorKind::Failed);
    assert_eq!((stage.status("joined"), stage.status("b")), (StepStatus::NotStarted, StepStatus::Running));
    assert!(stage.dispatched().contains(&"rescue"));
    stage.done("b", json!({}));
    stage.done("rescue", json!({}));
    stage.done("report", json!({}));
    assert_eq!(stage.run.status, RunStatus::Failed);
}

const BAKE: &str = "description: d
steps:
  - {id: a, run: t.do}
  - id: bake
    watch:
      for: 15m
      since: a
      check: {run: t.do, every: 5m, healthy: output.well, failures: 2}
      abort_on: {trigger: t.alarm, when: event.app == \"shop\"}
  - {id: b, run: t.do}
";

#[test]
fn a_watch_lets_time_pass_and_checks_at_once_and_then_every_so_often() {
    let mut stage = Stage::of(BAKE);
    stage.done("a", json!({}));
    for _ in 0..3 {
        stage.done("bake", json!({"well": true}));
        stage.passes(Span::minutes(5));
    }
    // The last check falls together with the end of the watch.
    stage.done("bake", json!({"well": true}));
    assert_eq!(stage.status("bake"), StepStatus::Succeeded);
    assert_eq!(stage.dispatched().last(), Some(&"b"));
}

#[test]
fn a_watch_fails_when_its_check_was_unhealthy_too_often() {
    let mut stage = Stage::of(BAKE);
    stage.done("a", json!({}));
    stage.done("bake", json!({"well": false}));
    assert_eq!(stage.status("bake"), StepStatus::Waiting);
    stage.passes(Span::minutes(5));
    stage.failed("bake", ErrorKind::Failed);
    assert_eq!(stage.run.status, RunStatus::Failed);
}

#[test]
fn a_watch_fails_on_an_event_since_the_step_it_names_and_on_no_earlier_one() {
    let mut stage = Stage::of(BAKE);
    let began = stage.now;
    stage.now = stage.now.plus(Span::minutes(1));
    stage.done("a", json!({}));
    stage.give(&event(1, "t.alarm", Timestamp(began.0 - 1), json!({"app": "shop"})));
    stage.give(&event(2, "t.alarm", began, json!({"app": "other"})));
    stage.give(&event(3, "t.alarm", began, json!({})));
    assert_eq!(stage.status("bake"), StepStatus::Waiting);
    assert!(stage.run.steps["bake"].note.is_some(), "an error in `when` is shown");
    stage.give(&event(4, "t.alarm", began, json!({"app": "shop"})));
    assert_eq!(stage.run.status, RunStatus::Failed);
}

#[test]
fn a_wait_takes_one_event_and_one_event_satisfies_one_wait() {
    let mut stage = Stage::of(
        "description: d
steps:
  - {id: a, wait_for: {trigger: t.alarm}}
  - {id: b, wait_for: {trigger: t.alarm, timeout: 1h, on_timeout: continue}}
  - {id: c, run: t.do, with: {what: '{{ steps.b.output.by }}'}}
",
    );
    let at = stage.now;
    stage.give(&event(7, "t.alarm", at, json!({"n": 1})));
    assert_eq!(stage.run.steps["a"].output["event"], json!({"n": 1}));
    stage.give(&event(7, "t.alarm", at, json!({"n": 1})));
    assert_eq!(stage.status("b"), StepStatus::Waiting);
    stage.passes(Span::hours(1));
    assert_eq!(stage.attempt("c").input.masked(), json!({"what": "timeout"}));
}

const REPEATED: &str = "description: d
steps:
  - {id: a, run: t.do, until: output.done, every: 30s, timeout: 2m, retry: {attempts: 2, delay: 10s}}
  - {id: b, run: t.do, with: {what: '{{ steps.a.output.n }}'}}
";

#[test]
fn a_step_with_until_is_repeated_until_it_is_true_each_time_as_a_new_attempt() {
    let mut stage = Stage::of(REPEATED);
    stage.done("a", json!({"done": false, "n": 1}));
    assert_eq!((stage.status("a"), stage.run.status), (StepStatus::Waiting, RunStatus::Waiting));
    stage.passes(Span::seconds(29));
    assert_eq!(stage.attempts.len(), 1);
    stage.passes(Span::seconds(1));
    assert_eq!(stage.attempt("a").key.number, 2);
    stage.run = serde_json::from_str(&serde_json::to_string(&stage.run).unwrap()).unwrap(); // A restart.
    stage.done("a", json!({"done": true, "n": 2}));
    assert_eq!(stage.attempt("b").input.masked(), json!({"what": 2}));
}

#[test]
fn with_until_the_timeout_covers_all_repetitions() {
    let mut stage = Stage::of(REPEATED);
    assert_eq!(stage.attempt("a").timeout, Span::minutes(2));
    for _ in 0..3 {
        stage.done("a", json!({"done": false}));
        stage.passes(Span::seconds(30));
    }
    assert_eq!((stage.attempt("a").key.number, stage.attempt("a").timeout), (4, Span::seconds(30)));
    stage.done("a", json!({"done": false}));
    assert_eq!(wakes_at(&stage.run), Some(stage.now.plus(Span::seconds(30))));
    stage.passes(Span::seconds(30));
    assert_eq!((stage.status("a"), stage.attempts.len()), (StepStatus::TimedOut, 4));
}

#[test]
fn repetitions_are_no_retries_and_a_retry_that_would_come_too_late_is_none() {
    let mut stage = Stage::of(REPEATED);
    stage.done("a", json!({"done": false}));
    stage.passes(Span::seconds(30));
    stage.failed("a", ErrorKind::Failed);
    stage.passes(Span::seconds(10));
    assert_eq!(stage.attempt("a").key.number, 3);
    stage.failed("a", ErrorKind::Failed);
    assert_eq!(stage.status("a"), StepStatus::Failed, "two failed, and two are the total");

    let mut stage = Stage::of(REPEATED);
    stage.now = stage.now.plus(Span::seconds(110));
    stage.failed("a", ErrorKind::Failed);
    assert_eq!(stage.status("a"), StepStatus::Failed);
}

#[test]
fn an_error_in_until_fails_the_step() {
    let mut stage = Stage::of(REPEATED);
    stage.done("a", json!({}));
    assert_eq!(stage.status("a"), StepStatus::Failed);
    assert!(
        stage.run.error.as_ref().unwrap().message.starts_with("`until` of step `a`"),
        "{:?}",
        stage.run.error
    );
}

#[test]
fn after_a_failure_nothing_is_repeated() {
    let mut stage = Stage::of(
        "description: d
steps:
  - {id: a, run: t.do, until: output.done, every: 30s}
  - {id: c, run: t.do, needs: [], until: output.done, every: 30s}
  - {id: b, run: t.do, needs: []}
",
    );
    stage.done("c", json!({"done": false}));
    stage.failed("b", ErrorKind::Failed);
    assert_eq!(stage.status("c"), StepStatus::Cancelled);
    stage.done("a", json!({"done": false}));
    assert_eq!((stage.status("a"), stage.run.status), (StepStatus::Cancelled, RunStatus::Failed));
}

const POLLED: &str = "description: d
steps:
  - id: a
    wait_for:
      trigger: t.alarm
      timeout: 1h
      or_poll: {run: t.do, every: 5m, until: output.done}
";

#[test]
fn a_wait_with_or_poll_ends_with_whichever_comes_first_and_says_which() {
    let mut stage = Stage::of(POLLED);
    stage.failed("a", ErrorKind::Failed);
    assert!(stage.run.steps["a"].note.as_ref().unwrap().contains("a poll failed"));
    stage.passes(Span::minutes(5));
    stage.done("a", json!({"done": false}));
    stage.passes(Span::minutes(5));
    assert_eq!(stage.attempt("a").key.number, 3);
    stage.done("a", json!({"done": true}));
    assert_eq!(stage.run.steps["a"].output, json!({"by": "poll", "output": {"done": true}}));

    let mut stage = Stage::of(POLLED);
    let (at, key) = (stage.now, stage.attempt("a").key);
    let effects = stage.give(&event(1, "t.alarm", at, json!({})));
    assert!(effects.contains(&Effect::CancelAttempt { key }), "nobody needs the poll any more");
    assert_eq!(
        (stage.run.steps["a"].output["by"].as_str(), stage.run.status),
        (Some("event"), RunStatus::Succeeded)
    );

    let mut stage = Stage::of(POLLED);
    stage.passes(Span::hours(1));
    assert_eq!(stage.status("a"), StepStatus::TimedOut);
}

#[test]
fn what_a_paused_run_may_not_start_does_not_wake_it() {
    for text in [REPEATED, POLLED] {
        let mut stage = Stage::of(text);
        stage.done("a", json!({"done": false}));
        let by = Actor::user("bob");
        stage.give(&Input::PauseAsked { by: by.clone() });
        stage.passes(Span::minutes(6));
        assert_eq!(stage.attempts.len(), 1);
        assert!(wakes_at(&stage.run).is_none_or(|at| at > stage.now));
    }
}

#[test]
fn a_sleep_takes_its_time_and_an_emit_is_an_event_with_a_key() {
    let mut stage = Stage::of(
        "description: d
steps:
  - {id: a, sleep: 10m}
  - {id: b, emit: t.alarm, with: {app: shop}}
",
    );
    assert_eq!(wakes_at(&stage.run), Some(stage.now.plus(Span::minutes(10))));
    stage.passes(Span::minutes(10));
    let dedup = "1/b/1".to_owned();
    let emit = Effect::Emit { trigger: "t.alarm".to_owned(), payload: json!({"app": "shop"}), dedup };
    assert!(stage.effects.contains(&emit));
    assert_eq!(stage.run.status, RunStatus::Succeeded);
}

#[test]
fn a_child_run_works_for_its_step_and_its_refusal_is_the_step_s() {
    let text = "description: d\nsteps: [{id: a, run: w}]\n";
    let mut stage = Stage::of(text);
    assert!(matches!(stage.effects.last(), Some(Effect::StartChild { .. })));
    // The store fills the number in.
    stage.run.steps["a"].state = StepState::Child { run: Some(RunId(2)) };
    let ended = |run, status| Input::ChildEnded {
        step: "a".to_owned(),
        run: RunId(run),
        status,
        output: Arc::new(json!({"x": 1})),
        error: Some(RunError::failed("no")),
    };
    stage.give(&ended(3, RunStatus::Succeeded));
    assert_eq!(stage.status("a"), StepStatus::Running, "another run's end is nobody's business");
    stage.give(&ended(2, RunStatus::Rejected));
    stage.give(&Input::NothingToUndo { step: "a/undo".to_owned() });
    assert_eq!((stage.run.status, stage.run.phase), (RunStatus::Rejected, Phase::Ended));
}

const FAMILY: &str = "description: d
steps:
  - {id: a, run: t.child}
  - {id: b, run: t.do, undo: {run: t.do, with: {what: '{{ steps.b.output.id }}'}}}
  - {id: c, run: t.do}
  - {id: d, run: t.do, when: 'false'}
on_failure: [{id: tell, run: t.do}]
";

fn child_ended(stage: &mut Stage, step: &str, run: i64, status: RunStatus) -> Vec<Effect> {
    let step = step.to_owned();
    stage.run.step_mut(&step).unwrap().state = StepState::Child { run: Some(RunId(run)) };
    stage.give(&Input::ChildEnded { step, run: RunId(run), status, output: Arc::new(json!({})), error: None })
}

#[test]
fn a_child_run_without_an_undo_on_its_step_is_rolled_back_as_a_run() {
    let mut stage = Stage::of(FAMILY);
    child_ended(&mut stage, "a", 2, RunStatus::Succeeded);
    stage.done("b", json!({"id": 7}));
    stage.failed("c", ErrorKind::Failed);
    let effects = stage.done("b/undo", json!({}));
    let back = Effect::StartRollback { step: "a/undo".to_owned(), visit: 1, of: RunId(2) };
    assert!(effects.contains(&back), "{effects:?}");
    assert_eq!(stage.status("a/undo"), StepStatus::Running);
    child_ended(&mut stage, "a/undo", 3, RunStatus::Failed);
    assert_eq!((stage.run.undone, stage.run.phase), (Some(Undone::Part), Phase::OnFailure));
}

/// Goes on with a run that follows from the one on stage.
fn follow(stage: &mut Stage, make: impl Fn(&Workflow, &Run, Start) -> Run) {
    let start = Start {
        revision: stage.run.revision.clone(),
        input: stage.run.input.clone(),
        started_by: Actor::user("bob"),
        event: None,
        rule: None,
        parent: None,
        depth: 0,
        outer: None,
    };
    let mut run = make(&stage.workflow, &stage.run, start);
    run.id = RunId(stage.run.id.0 + 100);
    stage.run = run;
    stage.attempts.clear();
    stage.effects.clear();
    stage.give(&Input::Started);
}

fn roll_back(stage: &mut Stage) {
    let now = stage.now;
    follow(stage, |workflow, old, start| new_rollback(workflow, old, start, now));
}

fn rerun(stage: &mut Stage, from: Option<&str>) {
    let now = stage.now;
    follow(stage, |workflow, old, start| new_rerun(workflow, old, from, start, now));
}

fn succeeded_family() -> Stage {
    let mut stage = Stage::of(FAMILY);
    child_ended(&mut stage, "a", 2, RunStatus::Succeeded);
    stage.done("b", json!({"id": 7}));
    stage.done("c", json!({"n": 1}));
    assert_eq!(stage.run.status, RunStatus::Succeeded);
    stage
}

#[test]
fn a_rollback_is_a_run_whose_steps_are_the_undos_also_of_a_run_that_succeeded() {
    let mut stage = succeeded_family();
    roll_back(&mut stage);
    assert_eq!((stage.run.status, stage.dispatched()), (RunStatus::Running, vec!["b/undo"]));
    assert_eq!(stage.attempt("b/undo").input.masked(), json!({"what": 7}));
    stage.done("b/undo", json!({}));
    child_ended(&mut stage, "a/undo", 9, RunStatus::Succeeded);
    assert_eq!((stage.run.status, stage.run.undone), (RunStatus::Succeeded, Some(Undone::All)));
    assert_eq!(stage.run.rollback_of, Some(RunId(1)));
    assert_eq!(stage.dispatched(), ["b/undo"], "neither steps nor `on_failure` run");
}

#[test]
fn a_rollback_that_failed_says_what_it_left_and_a_rerun_of_it_does_only_that() {
    let mut stage = succeeded_family();
    roll_back(&mut stage);
    stage.done("b/undo", json!({}));
    child_ended(&mut stage, "a/undo", 9, RunStatus::Failed);
    assert_eq!(stage.run.error.as_ref().unwrap().to_string(), "not undone: a");
    roll_back(&mut stage);
    assert_eq!((stage.dispatched(), stage.status("a/undo")), (vec![], StepStatus::Running));
    assert_eq!(stage.run.rollback_of, Some(RunId(1)), "what is rolled back is the run, not its rollback");
    stage.give(&Input::CancelAsked { by: Actor::user("bob") });
    child_ended(&mut stage, "a/undo", 10, RunStatus::Cancelled);
    assert_eq!(stage.run.status, RunStatus::Cancelled);
}

#[test]
fn a_rerun_from_a_step_keeps_what_went_well_before_it_with_its_outputs() {
    let mut stage = Stage::of(FAMILY);
    child_ended(&mut stage, "a", 2, RunStatus::Succeeded);
    stage.done("b", json!({"id": 7}));
    let mut failed = stage;
    failed.failed("c", ErrorKind::Failed);
    failed.failed("b/undo", ErrorKind::Failed);
    failed.give(&Input::NothingToUndo { step: "a/undo".to_owned() });
    failed.done("tell", json!({}));
    assert_eq!(failed.run.status, RunStatus::Failed);
    rerun(&mut failed, Some("c"));
    assert_eq!((failed.dispatched(), failed.run.rerun_of), (vec!["c"], Some(RunId(1))));
    assert_eq!(
        (failed.status("b"), failed.run.steps["b"].kept_from),
        (StepStatus::Succeeded, Some(RunId(1)))
    );
    assert_eq!(failed.status("tell"), StepStatus::Pending);
    failed.failed("c", ErrorKind::Failed);
    assert_eq!(
        failed.attempt("b/undo").input.masked(),
        json!({"what": 7}),
        "what was kept is undone with the rest"
    );
}

#[test]
fn a_rerun_keeps_nothing_that_did_not_go_well_and_nothing_without_from() {
    let mut stage = succeeded_family();
    rerun(&mut stage, None);
    assert!(stage.run.steps.values().all(|step| step.kept_from.is_none()));
    assert_eq!(stage.status("a"), StepStatus::Running);

    let mut stage = Stage::of(FAMILY);
    child_ended(&mut stage, "a", 2, RunStatus::Failed);
    stage.give(&Input::NothingToUndo { step: "a/undo".to_owned() });
    stage.done("tell", json!({}));
    rerun(&mut stage, Some("c"));
    assert_eq!(stage.status("a"), StepStatus::Running, "it failed, so it is done again as well");
}

const LOCKED: &str = "description: d
input: {app: string}
steps:
  - {id: a, run: t.do, lock: 'deploy/{{ input.app }}', undo: {run: t.do}}
  - {id: b, run: t.do, needs: []}
  - {id: c, run: t.do, needs: [a]}
";

fn lock_taken(stage: &mut Stage, step: &str) -> Vec<Effect> {
    stage.give(&Input::LockTaken { step: step.to_owned() })
}

fn take(step: &str) -> Effect {
    Effect::TakeLock { step: step.to_owned(), lock: "deploy/shop".to_owned() }
}

fn free(step: &str) -> Effect {
    Effect::FreeLock { step: step.to_owned() }
}

#[test]
fn a_step_with_a_lock_begins_when_it_has_it_and_gives_it_back_when_it_ends() {
    let mut stage = Stage::with(LOCKED, json!({"app": "shop"}));
    assert!(stage.effects.contains(&take("a")));
    assert_eq!((stage.dispatched(), stage.status("a")), (vec!["b"], StepStatus::Queued));
    stage.done("b", json!({}));
    assert_eq!((stage.run.status, stage.run.steps["a"].started_at), (RunStatus::Waiting, None));
    lock_taken(&mut stage, "a");
    assert_eq!(stage.dispatched(), ["b", "a"]);
    lock_taken(&mut stage, "a");
    assert_eq!(stage.dispatched().len(), 2, "a doubled grant changes nothing");
    assert!(stage.done("a", json!({})).contains(&free("a")));
}

#[test]
fn after_a_failure_who_waits_for_a_lock_never_starts_and_waits_no_longer() {
    let mut stage = Stage::with(LOCKED, json!({"app": "shop"}));
    let effects = stage.failed("b", ErrorKind::Failed);
    assert!(effects.contains(&free("a")));
    assert_eq!((stage.status("a"), stage.status("c")), (StepStatus::NotStarted, StepStatus::NotStarted));
    assert!(stage.run.undos.is_empty(), "what never began is not undone");
}

#[test]
fn an_undo_takes_the_lock_of_its_step_and_so_does_a_rollback() {
    let mut stage = Stage::with(LOCKED, json!({"app": "shop"}));
    lock_taken(&mut stage, "a");
    stage.done("b", json!({}));
    stage.done("a", json!({}));
    let effects = stage.failed("c", ErrorKind::Failed);
    assert!(effects.contains(&take("a/undo")));
    assert!(!stage.dispatched().contains(&"a/undo"));
    lock_taken(&mut stage, "a/undo");
    assert!(stage.failed("a/undo", ErrorKind::Failed).contains(&free("a/undo")));
    roll_back(&mut stage);
    assert_eq!((stage.dispatched(), stage.effects.contains(&take("a/undo"))), (vec![], true));
    let effects = stage.give(&Input::CancelAsked { by: Actor::user("bob") });
    assert!(effects.contains(&free("a/undo")));
    assert_eq!(stage.run.status, RunStatus::Cancelled);
}

#[test]
fn a_paused_run_takes_its_lock_and_begins_when_it_is_resumed() {
    let mut stage = Stage::with(LOCKED, json!({"app": "shop"}));
    let by = Actor::user("bob");
    stage.give(&Input::PauseAsked { by: by.clone() });
    lock_taken(&mut stage, "a");
    assert_eq!(stage.dispatched(), ["b"]);
    stage.give(&Input::ResumeAsked { by });
    assert_eq!(stage.dispatched(), ["b", "a"]);
}

#[test]
fn runs_that_start_themselves_meet_a_limit_that_says_so() {
    let mut stage = Stage::of("description: d\nsteps: [{id: a, sleep: 1s}, {id: b, run: w}]\n");
    stage.run.depth = MAX_DEPTH;
    stage.passes(Span::seconds(1));
    let error = stage.run.error.clone().unwrap();
    assert_eq!(error.kind, ErrorKind::Limit);
    assert!(error.message.contains("start itself"), "{error}");
}

#[test]
fn what_is_stored_of_a_run_reads_back_as_it_was() {
    let mut stage = Stage::of(BAKE);
    stage.done("a", json!({"x": 1}));
    let mut again: Run = serde_json::from_str(&serde_json::to_string(&stage.run).unwrap()).unwrap();
    again.version = stage.run.version;
    assert_eq!(again, stage.run);
    assert!(matches!(again.steps["bake"].state, StepState::Watching { checking: Some(_), .. }));
}
