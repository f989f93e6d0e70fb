//! For each checker a planted bug that it catches: the conductor, wrapped so that it goes wrong in one way. A checker that never complains proves
//! nothing.

use super::{Complaint, checkers, play, play_this};
use crate::conductor::{Effect, Input, World, advance, wakes_at};
use crate::definitions::Workflow;
use crate::definitions::workflow::{Join, StartOn};
use crate::model::hold::Holds;
use crate::model::items::Each;
use crate::model::run::{Phase, UNDO_SUFFIX, Undone};
use crate::model::step::StepState;
use crate::model::{ErrorKind, Object, Outcome, Run, RunError, RunStatus, Span, Step, StepStatus, Value};

/// The conductor with a bug.
type Bug = fn(World<'_>, &mut Run, &Input) -> Vec<Effect>;

/// By then every bug has shown.
const SEEDS: u64 = 1500;

/// The first seed in which anybody complains is one in which `checker` does.
fn caught(checker: &str, bug: Bug) {
    caught_by(checker, |seed| play(seed, &bug, false));
}

/// The same in this workflow: in most others the bug has nowhere to show.
fn caught_in(checker: &str, workflow: &str, bug: Bug) {
    caught_by(checker, |seed| play_this(seed, workflow, &bug));
}

fn caught_by(checker: &str, play: impl Fn(u64) -> Result<(), Complaint>) {
    for seed in 0..SEEDS {
        let Err(complaint) = play(seed) else { continue };
        let of: Vec<&str> = complaint.of.iter().map(|(name, _)| *name).collect();
        assert!(of.contains(&checker), "seed {seed}: {checker} should complain, and {:?} did", complaint.of);
        return;
    }
    panic!("{checker} caught nothing in {SEEDS} seeds");
}

/// The same where others may complain in earlier seeds, of what the bug leads to.
fn caught_among_others(checker: &str, bug: Bug) {
    let complains = |seed| match play(seed, &bug, false) {
        Ok(()) => false,
        Err(complaint) => complaint.of.iter().any(|(name, _)| *name == checker),
    };
    assert!((0..SEEDS).any(complains), "{checker} caught nothing in {SEEDS} seeds");
}

#[test]
fn every_checker_is_seen_to_catch_something() {
    let text = include_str!("bugs.rs");
    let kinds = ["caught", "caught_in", "caught_among_others"];
    let calls = |name: &str| kinds.map(|kind| format!("{kind}(\"{name}\""));
    let without = |name: &&str| !calls(name).iter().any(|call| text.contains(call.as_str()));
    let names = checkers::ALL.iter().map(|checker| checker.name);
    let without: Vec<&str> = names.filter(without).collect();
    assert!(without.is_empty(), "no bug is planted for {without:?}");
}

/// Everything of `run`, by key.
fn keys(run: &Run) -> Vec<String> {
    let undos = run.undos.keys().map(|id| format!("{id}{UNDO_SUFFIX}"));
    run.steps.keys().cloned().chain(undos).collect()
}

/// Changes every step and undo of a run.
fn change(run: &mut Run, with: impl Fn(&mut Step)) {
    for key in keys(run) {
        with(run.step_mut(&key).unwrap());
    }
}

/// Which steps were entered since `before`.
fn begun(run: &Run, before: &Run) -> Vec<String> {
    let visit = |run: &Run, key: &str| run.step(key).map_or(0, |step| step.visit);
    keys(run).into_iter().filter(|key| visit(run, key) > visit(before, key)).collect()
}

/// The step or undo that an effect is about.
fn about(effect: &Effect) -> Option<String> {
    match effect {
        Effect::Dispatch { attempt, .. } => Some(attempt.key.step_key()),
        Effect::Ask { question } => Some(question.step.clone()),
        Effect::StartChild { step, .. } | Effect::StartRollback { step, .. } => Some(step.clone()),
        Effect::Note(entry) => {
            let undo = if entry.what.starts_with("undo.") { UNDO_SUFFIX } else { "" };
            Some(format!("{}{undo}", entry.step.as_ref()?))
        }
        _ => None,
    }
}

/// The effects without some.
fn without(mut effects: Vec<Effect>, dropped: impl Fn(&Effect) -> bool) -> Vec<Effect> {
    effects.retain(|effect| !dropped(effect));
    effects
}

/// The effects, some of them twice.
fn doubled(
    mut effects: Vec<Effect>,
    which: impl Fn(&Effect) -> bool,
    other: impl Fn(&mut Effect),
) -> Vec<Effect> {
    let mut again: Vec<Effect> = effects.iter().filter(|effect| which(effect)).cloned().collect();
    again.iter_mut().for_each(other);
    effects.extend(again);
    effects
}

/// As if the workflow said something else.
fn misread(world: World<'_>, run: &mut Run, input: &Input, change: impl Fn(&mut Workflow)) -> Vec<Effect> {
    let mut workflow = world.workflow.clone();
    change(&mut workflow);
    advance(World { workflow: &workflow, ..world }, run, input)
}

/// Whether it is the outcome of an attempt that is at work.
fn is_news(run: &Run, input: &Input) -> bool {
    match input {
        Input::AttemptFinished { key, .. } => {
            run.step(&key.step_key()).is_some_and(|step| step.is_doing(key))
        }
        _ => false,
    }
}

fn is_dispatch(effect: &Effect) -> bool {
    matches!(effect, Effect::Dispatch { .. })
}

#[test]
fn the_checker_of_stuck_runs_catches_a_step_that_is_not_started() {
    caught_among_others("never_stuck", |world, run, input| {
        let before = run.clone();
        let effects = advance(world, run, input);
        let forgotten = begun(run, &before);
        let at_work = |key: &String| {
            let step = run.step(key).unwrap();
            !forgotten.contains(key) && !step.has_ended() && step.state != StepState::Pending
        };
        let waits = run.paused || wakes_at(run).is_some() || keys(run).iter().any(at_work);
        if forgotten.is_empty() || !is_news(&before, input) || waits {
            return effects;
        }
        for key in &forgotten {
            *run.step_mut(key).unwrap() = before.step(key).cloned().unwrap_or_else(Step::pending);
        }
        without(effects, |effect| about(effect).is_some_and(|key| forgotten.contains(&key)))
    });
}

#[test]
fn the_checker_of_waits_catches_an_attempt_that_is_never_dispatched() {
    caught("who_waits_is_served", |world, run, input| without(advance(world, run, input), is_dispatch));
}

#[test]
fn the_checker_of_waits_catches_a_child_that_is_never_started() {
    caught("who_waits_is_served", |world, run, input| {
        without(advance(world, run, input), |effect| matches!(effect, Effect::StartChild { .. }))
    });
}

#[test]
fn the_checker_of_waits_catches_a_lock_that_is_never_asked_for() {
    caught("who_waits_is_served", |world, run, input| {
        without(advance(world, run, input), |effect| matches!(effect, Effect::TakeLock { .. }))
    });
}

#[test]
fn the_checker_of_stale_inputs_catches_a_late_outcome_that_is_taken_for_the_next_attempt_s() {
    caught("stale_inputs_change_nothing", |world, run, input| {
        let mut input = input.clone();
        if let Input::AttemptFinished { key, .. } = &mut input
            && let Some(number) = run.step(&key.step_key()).and_then(|step| step.state.attempt())
        {
            key.number = number;
        }
        advance(world, run, &input)
    });
}

#[test]
fn the_checker_of_ends_catches_a_status_that_changes_after_the_end() {
    caught("final_is_final", |world, run, input| {
        if run.status.is_final() {
            run.status =
                if run.status == RunStatus::Failed { RunStatus::Succeeded } else { RunStatus::Failed };
        }
        advance(world, run, input)
    });
}

#[test]
fn the_checker_of_ends_catches_a_run_that_ends_while_an_attempt_is_in_flight() {
    caught("ends_completely", |world, run, input| {
        let effects = advance(world, run, input);
        if run.verdict.is_some() && !run.status.is_final() {
            run.status = RunStatus::Failed;
            run.phase = Phase::Ended;
            run.finished_at = Some(world.now);
        }
        effects
    });
}

#[test]
fn the_checker_of_verdicts_catches_a_failed_run_that_ends_succeeded() {
    caught("verdict_is_deserved", |world, run, input| {
        let ends = run.phase == Phase::Finally && is_news(run, input);
        if ends && run.verdict == Some(RunStatus::Failed) && run.rollback_of.is_none() {
            run.verdict = Some(RunStatus::Succeeded);
            run.error = None;
        }
        advance(world, run, input)
    });
}

#[test]
fn the_checker_of_outputs_catches_one_that_is_lost() {
    caught("outputs_are_kept", |world, run, input| {
        let effects = advance(world, run, input);
        if let Input::AttemptFinished { key, .. } = input
            && let Some(step) = run.step_mut(&key.step_key())
            && step.status() == StepStatus::Succeeded
        {
            step.output = Value::Null.into();
        }
        effects
    });
}

#[test]
fn the_checker_of_parents_catches_one_that_is_told_twice() {
    caught("parent_is_told_once", |world, run, input| {
        let tells = |effect: &Effect| matches!(effect, Effect::TellParent { .. });
        doubled(advance(world, run, input), tells, |_| ())
    });
}

#[test]
fn the_checker_of_parents_catches_one_that_is_not_told() {
    caught("parent_is_told_once", |world, run, input| {
        without(advance(world, run, input), |effect| matches!(effect, Effect::TellParent { .. }))
    });
}

#[test]
fn the_checker_of_restarts_catches_what_is_remembered_and_not_stored() {
    caught("a_restart_decides_the_same", |world, run, input| {
        let effects = advance(world, run, input);
        // The version is not part of what is stored of a run.
        run.version += i64::from(!effects.is_empty());
        if run.version > 3 && !run.status.is_final() {
            without(effects, |effect| matches!(effect, Effect::Emit { .. }))
        } else {
            effects
        }
    });
}

#[test]
fn the_checker_of_restarts_catches_a_cancel_that_is_only_said() {
    caught("what_is_to_end_is_stored", |world, run, input| {
        let effects = advance(world, run, input);
        change(run, |step| step.stopped = false);
        effects
    });
}

#[test]
fn the_checker_of_dispatches_catches_one_that_is_repeated() {
    caught("dispatched_once", |world, run, input| doubled(advance(world, run, input), is_dispatch, |_| ()));
}

#[test]
fn the_checker_of_attempts_catches_two_at_once() {
    caught("one_attempt_at_a_time", |world, run, input| {
        doubled(advance(world, run, input), is_dispatch, |effect| {
            if let Effect::Dispatch { attempt, .. } = effect {
                attempt.key.number += 100;
            }
        })
    });
}

#[test]
fn the_checker_of_lost_attempts_catches_one_that_begins_again() {
    caught("lost_is_not_repeated", |world, run, input| {
        let mut input = input.clone();
        if let Input::AttemptFinished { outcome: Outcome::Failed { error, .. }, .. } = &mut input
            && error.kind == ErrorKind::Lost
        {
            error.kind = ErrorKind::Failed;
        }
        advance(world, run, &input)
    });
}

#[test]
fn the_checker_of_retries_catches_one_too_many() {
    caught("retries_are_counted", |world, run, input| {
        if let Input::AttemptFinished { key, .. } = input
            && let Some(step) = run.step_mut(&key.step_key()).filter(|step| step.is_doing(key))
        {
            step.repeats = step.attempts;
        }
        advance(world, run, input)
    });
}

#[test]
fn the_checker_of_retries_catches_one_that_does_not_wait() {
    caught("retries_wait", |world, run, input| {
        let news = is_news(run, input);
        let effects = advance(world, run, input);
        if news {
            change(run, |step| {
                if let StepState::Retrying { at, .. } = &mut step.state {
                    *at = world.now;
                }
            });
        }
        effects
    });
}

#[test]
fn the_checker_of_needs_catches_a_step_that_does_not_wait_for_them() {
    caught("needs_are_met", |world, run, input| {
        misread(world, run, input, |workflow| workflow.steps.iter_mut().for_each(|step| step.needs.clear()))
    });
}

#[test]
fn the_checker_of_skips_catches_a_when_that_is_ignored() {
    caught("skipped_never_begins", |world, run, input| {
        misread(world, run, input, |workflow| workflow.steps.iter_mut().for_each(|step| step.when = None))
    });
}

#[test]
fn the_checker_of_failures_catches_a_step_that_starts_after_one() {
    caught("nothing_starts_after_a_failure", |world, run, input| {
        let failed = run.phase == Phase::Steps && run.verdict == Some(RunStatus::Failed);
        misread(world, run, input, |workflow| {
            let steps = workflow.steps.iter_mut().filter(|step| failed && step.start_on == StartOn::Success);
            for step in steps {
                step.start_on = StartOn::Finished;
            }
        })
    });
}

#[test]
fn the_checker_of_cancels_catches_an_on_failure_that_runs_after_one() {
    caught("nothing_starts_after_a_cancel", |world, run, input| {
        let (cancels, verdict) = (run.cancels, run.verdict);
        if run.phase > Phase::Steps || cancels == 0 || run.status.is_final() {
            return advance(world, run, input);
        }
        (run.cancels, run.verdict) = (0, Some(RunStatus::Failed));
        let effects = advance(world, run, input);
        (run.cancels, run.verdict) = (cancels, verdict);
        effects
    });
}

#[test]
fn the_checker_of_pauses_catches_a_paused_run_that_starts_something() {
    caught("pause_starts_nothing", |world, run, input| {
        if !run.paused || !matches!(input, Input::AttemptFinished { .. }) {
            return advance(world, run, input);
        }
        run.paused = false;
        let effects = advance(world, run, input);
        run.paused = true;
        if !run.status.is_final() {
            run.status = RunStatus::Paused;
        }
        effects
    });
}

#[test]
fn the_checker_of_repetitions_catches_one_that_may_take_too_long() {
    caught("repetitions_keep_their_time", |world, run, input| {
        let mut effects = advance(world, run, input);
        for effect in &mut effects {
            if let Effect::Dispatch { attempt, .. } = effect {
                attempt.timeout = Span::hours(1);
            }
        }
        effects
    });
}

#[test]
fn the_checker_of_emits_catches_a_second_event() {
    caught("emits_once", |world, run, input| {
        let emits = |effect: &Effect| matches!(effect, Effect::Emit { .. });
        doubled(advance(world, run, input), emits, |effect| {
            if let Effect::Emit { dedup, .. } = effect {
                dedup.push('x');
            }
        })
    });
}

#[test]
fn the_checker_of_children_catches_a_second_one() {
    caught("children_begin_once", |world, run, input| {
        let starts = |effect: &Effect| matches!(effect, Effect::StartChild { .. });
        doubled(advance(world, run, input), starts, |_| ())
    });
}

#[test]
fn the_checker_of_reruns_catches_a_kept_step_that_is_done_again() {
    caught("kept_is_not_done_again", |world, run, input| {
        if matches!(input, Input::Started) && run.rerun_of.is_some() && run.verdict.is_none() {
            change(run, |step| step.state = StepState::Pending);
        }
        advance(world, run, input)
    });
}

#[test]
fn the_checker_of_phases_catches_an_on_failure_beside_an_undo() {
    caught_among_others("phases_in_order", |world, run, input| {
        let mut effects = advance(world, run, input);
        let undoing = run.phase == Phase::Undo && run.rollback_of.is_none() && run.cancels == 0;
        if undoing && !run.paused && run.verdict == Some(RunStatus::Failed) {
            run.phase = Phase::OnFailure;
            effects.extend(advance(world, run, &Input::TimePassed));
        }
        effects
    });
}

#[test]
fn the_checker_of_on_failure_catches_one_that_runs_after_a_refusal() {
    caught("on_failure_is_for_failures", |world, run, input| {
        if run.phase != Phase::Undo || run.verdict != Some(RunStatus::Rejected) {
            return advance(world, run, input);
        }
        run.verdict = Some(RunStatus::Failed);
        let effects = advance(world, run, input);
        if run.verdict == Some(RunStatus::Failed) {
            run.verdict = Some(RunStatus::Rejected);
        }
        if run.status.is_final() && run.cancels == 0 {
            run.status = RunStatus::Rejected;
        }
        effects
    });
}

#[test]
fn the_checker_of_finally_catches_a_first_cancel_that_ends_it() {
    caught("finally_runs_once", |world, run, input| {
        if matches!(input, Input::CancelAsked { .. }) && run.phase < Phase::Finally {
            run.cancels += 1;
        }
        advance(world, run, input)
    });
}

#[test]
fn the_checker_of_history_catches_a_start_that_is_not_told() {
    caught("history_is_in_order", |world, run, input| {
        without(
            advance(world, run, input),
            |effect| matches!(effect, Effect::Note(entry) if entry.what == "step.started"),
        )
    });
}

#[test]
fn the_checker_of_history_catches_an_end_that_is_told_first() {
    caught("history_is_in_order", |world, run, input| {
        let mut effects = advance(world, run, input);
        effects.sort_by_key(|effect| match effect {
            Effect::Note(entry) => u8::from(!entry.what.starts_with("run.")),
            _ => 2,
        });
        effects
    });
}

#[test]
fn the_checker_of_starts_catches_two_with_one_number() {
    caught("starts_are_numbered", |world, run, input| {
        let before = run.begun;
        let effects = advance(world, run, input);
        run.begun = before;
        effects
    });
}

#[test]
fn the_checker_of_cancels_catches_an_attempt_that_is_left_at_work() {
    caught("cancel_ends_all", |world, run, input| {
        let cancel = matches!(input, Input::CancelAsked { .. });
        without(advance(world, run, input), |effect| cancel && matches!(effect, Effect::CancelAttempt { .. }))
    });
}

#[test]
fn the_checker_of_cancels_catches_a_child_that_is_left_at_work() {
    caught("cancel_ends_all", |world, run, input| {
        without(advance(world, run, input), |effect| matches!(effect, Effect::CancelChild { .. }))
    });
}

#[test]
fn the_checker_of_verbs_catches_a_cancel_that_nobody_hears() {
    caught("verbs_take_effect", |world, run, input| match input {
        Input::CancelAsked { .. } => Vec::new(),
        _ => advance(world, run, input),
    });
}

#[test]
fn the_checker_of_verbs_catches_a_pause_that_nobody_hears() {
    caught("verbs_take_effect", |world, run, input| match input {
        Input::PauseAsked { .. } => Vec::new(),
        _ => advance(world, run, input),
    });
}

#[test]
fn the_checker_of_verbs_catches_a_resume_that_nobody_hears() {
    caught("verbs_take_effect", |world, run, input| match input {
        Input::ResumeAsked { .. } => Vec::new(),
        _ => advance(world, run, input),
    });
}

#[test]
fn the_checker_of_children_catches_one_that_is_not_resumed() {
    caught("children_follow", |world, run, input| {
        without(advance(world, run, input), |effect| matches!(effect, Effect::ResumeChild { .. }))
    });
}

#[test]
fn the_checker_of_undos_catches_the_wrong_order() {
    caught("undo_newest_first", |world, run, input| {
        let effects = advance(world, run, input);
        if run.phase == Phase::Undo
            && !run.undos.is_empty()
            && run.undos.values().skip(1).all(|undo| undo.state == StepState::Pending)
        {
            let mut undos: Vec<_> = run.undos.drain(..).collect();
            undos[1..].reverse();
            run.undos.extend(undos);
        }
        effects
    });
}

#[test]
fn the_checker_of_undos_catches_two_at_once() {
    caught("undo_one_at_a_time", |world, run, input| {
        let mut effects = advance(world, run, input);
        let at_work = run.undos.iter().find(|(_, undo)| undo.state.attempt().is_some());
        let Some((id, undo)) = at_work.map(|(id, undo)| (id.clone(), undo.clone())) else { return effects };
        let more = run.undos.values().any(|undo| undo.state == StepState::Pending);
        if run.phase == Phase::Undo && more && run.cancels == 0 {
            run.undos[&id].state = StepState::Ended(StepStatus::Succeeded);
            effects.extend(advance(world, run, &Input::TimePassed));
            run.undos[&id] = undo;
        }
        effects
    });
}

#[test]
fn the_checker_of_undos_catches_one_that_is_skipped() {
    caught("undo_of_all_that_began", |world, run, input| {
        let effects = advance(world, run, input);
        if run.phase == Phase::Undo
            && run.undos.values().last().is_some_and(|undo| undo.state == StepState::Pending)
        {
            run.undos.pop();
        }
        effects
    });
}

#[test]
fn the_checker_of_undos_catches_one_of_a_step_that_never_began() {
    caught("undo_of_nothing_else", |world, run, input| {
        let never =
            world.workflow.steps.iter().find(|step| step.undo.is_some() && run.steps[&step.id].order == 0);
        if let Some(step) = never.filter(|_| run.phase == Phase::Undo && is_news(run, input)) {
            run.undos.entry(step.id.clone()).or_insert_with(Step::pending);
        }
        advance(world, run, input)
    });
}

#[test]
fn the_checker_of_undos_catches_one_that_is_given_something_else() {
    caught("undo_sees_what_was_reported", |world, run, input| {
        if is_news(run, input) {
            change(run, |step| {
                if !step.reported.is_null() {
                    step.reported = serde_json::json!({"x": -1}).into();
                }
            });
        }
        advance(world, run, input)
    });
}

#[test]
fn the_checker_of_undos_catches_a_boast() {
    caught("undone_is_true", |world, run, input| {
        let effects = advance(world, run, input);
        if effects.is_empty() {
            return effects;
        }
        if matches!(run.undone, Some(Undone::Part | Undone::None)) {
            run.undone = Some(Undone::All);
        }
        effects
    });
}

#[test]
fn the_checker_of_time_catches_a_timer_that_is_forgotten() {
    caught("what_is_due_happens", |world, run, input| {
        let sleeps = |step: &Step| matches!(step.state, StepState::Sleeping { until } if until <= world.now);
        match input {
            Input::TimePassed if run.steps.values().any(sleeps) => Vec::new(),
            _ => advance(world, run, input),
        }
    });
}

#[test]
fn the_checker_of_time_catches_a_sleep_that_is_too_short() {
    caught("nothing_happens_early", |world, run, input| {
        if matches!(input, Input::TimePassed) {
            change(run, |step| {
                if let StepState::Sleeping { until } = &mut step.state {
                    *until = world.now;
                }
            });
        }
        advance(world, run, input)
    });
}

#[test]
fn the_checker_of_deadlines_catches_one_that_passes_unseen() {
    caught("deadline_ends_the_steps", |world, run, input| {
        let effects = advance(world, run, input);
        run.deadline = None;
        effects
    });
}

#[test]
fn the_checker_of_questions_catches_one_that_is_not_withdrawn() {
    caught("questions_are_open_while_asked", |world, run, input| {
        without(advance(world, run, input), |effect| matches!(effect, Effect::Withdraw { .. }))
    });
}

#[test]
fn the_checker_of_answers_catches_a_no_that_is_taken_for_a_yes() {
    caught("answers_decide", |world, run, input| match input {
        Input::Rejected { step, by, comment } => {
            let (step, by, comment) = (step.clone(), vec![by.clone()], comment.clone());
            advance(world, run, &Input::Approved { step, by, comment, answers: Value::Null })
        }
        _ => advance(world, run, input),
    });
}

fn any_in(run: &Run, is: fn(&StepState) -> bool) -> bool {
    run.steps.values().any(|step| is(&step.state))
}

fn is_waiting(state: &StepState) -> bool {
    matches!(state, StepState::WaitingFor { .. })
}

fn is_watching(state: &StepState) -> bool {
    matches!(state, StepState::Watching { .. })
}

#[test]
fn the_checker_of_events_catches_one_that_a_wait_does_not_take() {
    caught("events_end_waits", |world, run, input| match input {
        Input::EventCame { .. } if any_in(run, is_waiting) && !any_in(run, is_watching) => Vec::new(),
        _ => advance(world, run, input),
    });
}

#[test]
fn the_checker_of_events_catches_one_that_ends_two_waits() {
    let two_waits = "description: two that wait for the same
input: {app: string}
steps:
  - {id: s0, wait_for: {trigger: t.alarm, timeout: 30m}, needs: []}
  - {id: s1, wait_for: {trigger: t.alarm, timeout: 30m}, needs: []}
";
    caught_in("one_event_for_one_wait", two_waits, |world, run, input| {
        let mut effects = advance(world, run, input);
        if matches!(input, Input::EventCame { .. }) && any_in(run, is_waiting) {
            run.taken.clear();
            effects.extend(advance(world, run, input));
        }
        effects
    });
}

#[test]
fn the_checker_of_watches_catches_an_alarm_that_is_not_heard() {
    caught("watches_abort", |world, run, input| match input {
        Input::EventCame { .. } if any_in(run, is_watching) && !any_in(run, is_waiting) => Vec::new(),
        _ => advance(world, run, input),
    });
}

#[test]
fn the_checker_of_repetitions_catches_an_until_that_is_ignored() {
    caught("waited_for_is_what_came", |world, run, input| {
        let effects = advance(world, run, input);
        change(run, |step| {
            if let StepState::Repeating { .. } = step.state {
                step.state = StepState::Ended(StepStatus::Succeeded);
                step.output = step.reported.clone();
            }
        });
        effects
    });
}

#[test]
fn the_checker_of_locks_catches_a_step_that_does_not_wait_for_its_own() {
    caught("locks_are_held_at_work", |world, run, input| {
        let mut effects = advance(world, run, input);
        let asks = effects.iter().find_map(|effect| match effect {
            Effect::TakeLock { step, .. } => Some(step.clone()),
            _ => None,
        });
        if let Some(step) = asks {
            effects.extend(advance(world, run, &Input::LockTaken { step }));
        }
        effects
    });
}

#[test]
fn the_checker_of_locks_catches_one_that_is_kept() {
    caught("locks_are_given_back", |world, run, input| {
        without(advance(world, run, input), |effect| matches!(effect, Effect::FreeLock { .. }))
    });
}

#[test]
fn the_checker_of_children_catches_a_refusal_that_is_taken_for_a_failure() {
    caught("children_decide", |world, run, input| {
        let mut input = input.clone();
        if let Input::ChildEnded { status, error, .. } = &mut input
            && *status == RunStatus::Rejected
        {
            (*status, *error) = (RunStatus::Failed, Some(RunError::failed("it failed")));
        }
        advance(world, run, &input)
    });
}

#[test]
fn the_checker_of_reads_catches_a_step_that_does_not_wait_for_them() {
    caught("values_are_read_first", |world, run, input| {
        let mut effects = advance(world, run, input);
        let reads = effects.iter().find_map(|effect| match effect {
            Effect::Read { step, .. } => Some(step.clone()),
            _ => None,
        });
        if let Some(step) = reads {
            effects.extend(advance(world, run, &Input::ValuesRead { step, values: Object::new() }));
        }
        effects
    });
}

#[test]
fn the_checker_of_holds_catches_a_run_that_knows_of_none() {
    caught("a_hold_starts_nothing", |world, run, input| {
        advance(World { holds: &Holds::default(), ..world }, run, input)
    });
}

#[test]
fn the_checker_of_windows_catches_a_step_that_begins_while_its_own_is_closed() {
    caught("windows_are_respected", |world, run, input| {
        misread(world, run, input, |workflow| workflow.steps.iter_mut().for_each(|step| step.window = None))
    });
}

#[test]
fn the_checker_of_holds_catches_an_undo_that_is_held() {
    caught("undos_pass_holds", |world, run, input| {
        let effects = advance(world, run, input);
        if run.phase != Phase::Steps && !run.status.is_final() {
            run.held = world.holds.on(Some("shop")).cloned();
        }
        effects
    });
}

#[test]
fn the_checker_of_the_young_catches_a_run_that_keeps_its_place() {
    caught("the_young_supersede_who_waits", |world, run, input| match input {
        Input::Superseded { .. } if run.started_at.is_some() => Vec::new(),
        _ => advance(world, run, input),
    });
}

#[test]
fn the_checker_of_the_superseded_catches_one_that_handles_a_failure() {
    caught("superseded_starts_nothing", |world, run, input| {
        let mut effects = advance(world, run, input);
        let tells = world.workflow.on_failure.first().map(|step| step.id.clone());
        if let (Some(tell), Some(RunStatus::Superseded), Phase::Finally) = (tells, run.verdict, run.phase) {
            run.phase = Phase::OnFailure;
            run.steps[&tell].state = StepState::Pending;
            effects.extend(advance(world, run, &Input::TimePassed));
        }
        effects
    });
}

#[test]
fn the_checker_of_the_refused_catches_one_that_begins() {
    caught("refused_never_begins", |world, run, input| match input {
        Input::Refused { .. } => advance(world, run, &Input::Started),
        _ => advance(world, run, input),
    });
}

#[test]
fn the_checker_of_groups_catches_a_step_that_does_not_wait_for_its_own() {
    caught("groups_hold_their_steps", |world, run, input| {
        misread(world, run, input, |workflow| workflow.steps.iter_mut().for_each(|step| step.group = None))
    });
}

#[test]
fn the_checker_of_groups_catches_a_step_that_begins_after_a_failure_in_its_own() {
    let group = "description: one at work, one that waits for its lock, one that fails
input: {app: string}
steps:
  - id: s0
    continue_on_failure: true
    parallel:
      - {id: s0_0, run: t.do}
      - {id: s0_1, run: t.do, lock: one}
      - {id: s0_2, run: t.do}
";
    caught_in("groups_stop_at_a_failure", group, |world, run, input| {
        let before = run.clone();
        let effects = advance(world, run, input);
        if run.verdict.is_some() {
            return effects;
        }
        let mut kept = Vec::new();
        for (id, step) in &before.steps {
            let group =
                world.workflow.steps.iter().find(|step| step.id == *id).and_then(|step| step.group.as_ref());
            let is_open = group.is_some_and(|group| !run.steps[group].has_ended());
            if is_open
                && matches!(step.state, StepState::Locking { .. })
                && run.steps[id].state == StepState::Ended(StepStatus::NotStarted)
            {
                run.steps[id] = step.clone();
                kept.push(id.clone());
            }
        }
        without(effects, |effect| matches!(effect, Effect::FreeLock { step } if kept.contains(step)))
    });
}

#[test]
fn the_checker_of_groups_catches_an_output_that_is_lost() {
    caught("groups_say_what_came_of_them", |world, run, input| {
        let before = run.clone();
        let effects = advance(world, run, input);
        for (id, step) in &mut run.steps {
            let was_open = matches!(before.steps[id].state, StepState::Open { .. });
            if was_open && step.status() == StepStatus::Succeeded {
                step.output = Value::Null.into();
            }
        }
        effects
    });
}

#[test]
fn the_checker_of_items_catches_too_many_at_once() {
    caught("items_at_once", |world, run, input| {
        misread(world, run, input, |workflow| {
            workflow
                .steps
                .iter_mut()
                .filter_map(|step| step.for_each.as_mut())
                .for_each(|each| each.concurrency += 1);
        })
    });
}

/// Changes where steps with items stand.
fn change_items(run: &mut Run, with: impl Fn(&mut Each)) {
    for step in run.steps.values_mut() {
        if let StepState::Each(each) = &mut step.state {
            with(each);
        }
    }
}

#[test]
fn the_checker_of_items_catches_one_that_begins_again() {
    caught("items_begin_once_in_order", |world, run, input| {
        if is_news(run, input) {
            change_items(run, |each| each.next = each.next.saturating_sub(1));
        }
        advance(world, run, input)
    });
}

#[test]
fn the_checker_of_items_catches_one_that_begins_after_too_many_failures() {
    caught_among_others("items_stop_after_too_many_failures", |world, run, input| {
        let Input::AttemptFinished { key, .. } = input else { return advance(world, run, input) };
        let more = |each: &Each| each.next < each.total;
        let more = matches!(run.steps.get(&key.step).map(|step| &step.state), Some(StepState::Each(each)) if more(each));
        let before = run.clone();
        let effects = advance(world, run, input);
        let has_failed = run.step(&key.step_key()).is_some_and(|item| item.status().is_failure());
        if !has_failed || !more || !is_news(&before, input) || run.paused || before.verdict.is_some() {
            return effects;
        }
        *run = before;
        change_items(run, |each| each.most_failures += 1);
        advance(world, run, input)
    });
}

#[test]
fn the_checker_of_items_catches_one_that_is_left_at_work() {
    caught("items_fail_fast", |world, run, input| {
        let failed = matches!(input, Input::AttemptFinished { .. });
        without(advance(world, run, input), |effect| {
            failed && matches!(effect, Effect::CancelAttempt { key } if key.item.is_some())
        })
    });
}

#[test]
fn the_checker_of_items_catches_failures_that_are_forgotten() {
    caught("items_decide", |world, run, input| {
        if is_news(run, input)
            && matches!(input, Input::AttemptFinished { outcome: Outcome::Succeeded { .. }, .. })
        {
            change_items(run, |each| {
                if each.next == each.total {
                    (each.failed, each.is_closed) = (0, false);
                }
            });
        }
        advance(world, run, input)
    });
}

#[test]
fn the_checker_of_items_catches_outputs_in_the_wrong_order() {
    caught("items_give_in_order", |world, run, input| {
        let before = run.clone();
        let effects = advance(world, run, input);
        for (id, step) in &mut run.steps {
            let was_open = matches!(before.steps[id].state, StepState::Each(_));
            if let (true, Value::Array(given)) = (was_open, &*step.output) {
                let given: Vec<Value> = given.iter().rev().cloned().collect();
                step.output = Value::Array(given).into();
            }
        }
        effects
    });
}

#[test]
fn the_checker_of_items_catches_one_that_is_not_taken_back() {
    caught("items_are_undone_from_the_last", |world, run, input| {
        let effects = advance(world, run, input);
        for undo in run.undos.values_mut() {
            if let StepState::Each(each) = &mut undo.state
                && each.next > 1
            {
                each.next -= 1;
            }
        }
        effects
    });
}

#[test]
fn the_checkers_of_edges_catch_a_step_let_in_too_early_one_forgotten_and_a_word_lost() {
    caught_among_others("edges_let_in_only_who_was_led", |world, run, input| {
        misread(world, run, input, |workflow| {
            for entry in workflow.steps.iter_mut().filter_map(|step| step.entry.as_mut()) {
                entry.join = Join::Count(1);
            }
        })
    });
    caught_among_others("edges_are_followed_to_the_end", |world, run, input| {
        let effects = advance(world, run, input);
        run.tokens.clear();
        effects
    });
    caught_among_others("edges_publish_what_was_given", |world, run, input| {
        let effects = advance(world, run, input);
        run.published.clear();
        effects
    });
}
