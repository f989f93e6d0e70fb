//! One run, from its first step to its last, on simulated time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde_json::json;

use super::mocks::{self, Cast, Kv};
use super::{Difference, Moment, compare, setting};
use crate::conductor::{self, Effect, Entry, Input, Start, World};
use crate::definitions::test::{Answer, Happening, Mock, Mocks, WorkflowCase, WorkflowExpected};
use crate::definitions::{Definitions, Workflow};
use crate::model::approval::Question;
use crate::model::run::UNDO_SUFFIX;
use crate::model::{
    Actor, Attempt, ErrorKind, Event, EventId, Object, Outcome, Run, RunError, RunId, RunStatus, Span,
    StepStatus, Timestamp, Value,
};

/// When every played run begins: 2026-01-01T00:00:00Z.
pub(super) const START: Timestamp = Timestamp(1_767_225_600_000);
/// Of the conductor: more than any run needs that ends.
const MAX_INPUTS: usize = 100_000;
/// Of simulated time.
const LONGEST: Span = Span::days(3650);
/// Moments kept of a run that goes on and on.
const MAX_MOMENTS: usize = 1000;
/// Of an input or output in a moment, in characters.
const MAX_SHOWN: usize = 200;

/// What differs from what the case expects, and what happened.
pub(super) fn play(
    definitions: &Definitions,
    name: &str,
    of_test: &Mocks,
    kv: Option<&Object>,
    case: &WorkflowCase,
) -> (Vec<Difference>, Vec<Moment>) {
    let Some(workflow) = definitions.workflows.get(name) else {
        return (vec![setting::left_out(definitions, "workflow", name)], Vec::new());
    };
    let cast = Cast { of_test, of_case: &case.mocks };
    let workflow = mocks::as_played(workflow, cast, kv.is_some());
    let mut stage = Stage::set(definitions, &workflow, cast, kv.map(Kv::holding), case);
    let stuck = stage.play();
    let mut differences = stage.compare(&case.expect);
    differences.extend(stuck);
    (differences, stage.timeline)
}

/// One run being played.
struct Stage<'a> {
    definitions: &'a Definitions,
    workflow: &'a Workflow,
    cast: Cast<'a>,
    case: &'a WorkflowCase,
    kv: Option<Kv>,
    run: Run,
    now: Timestamp,
    /// What will happen, in order of time and then of being known.
    agenda: BTreeMap<(Timestamp, usize), Input>,
    planned: usize,
    /// Every event that came, for those who begin to listen later.
    events: Vec<Event>,
    /// Which steps, by how often they were entered, have heard the events before them.
    listening: BTreeSet<(String, u32)>,
    /// Keys of emitted events: the same one is one event.
    emitted: BTreeSet<String>,
    /// Who has and who waits for each lock, the holder first.
    locks: BTreeMap<String, VecDeque<String>>,
    /// What was called with what, in order.
    calls: Vec<(String, Value)>,
    children: i64,
    timeline: Vec<Moment>,
}

impl<'a> Stage<'a> {
    fn set(
        definitions: &'a Definitions,
        workflow: &'a Workflow,
        cast: Cast<'a>,
        kv: Option<Kv>,
        case: &'a WorkflowCase,
    ) -> Stage<'a> {
        let start = Start {
            revision: definitions.revision.clone(),
            input: case.input.clone(),
            started_by: Actor::user("test"),
            event: None,
            rule: None,
            parent: None,
            depth: 0,
        };
        let mut run = conductor::new_run(workflow, start, START);
        run.id = RunId(1);
        Stage {
            definitions,
            workflow,
            cast,
            case,
            kv,
            run,
            now: START,
            agenda: BTreeMap::new(),
            planned: 0,
            events: Vec::new(),
            listening: BTreeSet::new(),
            emitted: BTreeSet::new(),
            locks: BTreeMap::new(),
            calls: Vec::new(),
            children: 0,
            timeline: Vec::new(),
        }
    }

    /// Plays the run to its end. What it gives is why there was none.
    fn play(&mut self) -> Option<Difference> {
        for (index, (at, event)) in self.case.events.iter().enumerate() {
            let event = self.event(index, event, START.plus(*at), "test");
            self.plan(START.plus(*at), Input::EventCame { event });
        }
        self.plan(START, Input::Started);
        for _ in 0..MAX_INPUTS {
            if self.run.status.is_final() {
                return None;
            }
            let Some((at, input)) = self.next() else {
                return Some(self.never_ends("it waits, and nothing will ever come".to_owned()));
            };
            if at > START.plus(LONGEST) {
                return Some(self.never_ends(format!("it would go on for more than {LONGEST}")));
            }
            self.now = self.now.max(at);
            self.give(&input);
        }
        Some(self.never_ends(format!("after {MAX_INPUTS} things that happened it still goes on")))
    }

    fn never_ends(&self, why: String) -> Difference {
        let got = Some(json!(self.run.status));
        Difference { path: "end".to_owned(), expected: json!("a run that ends"), got, why: Some(why) }
    }

    /// What happens next, and when: what is planned, or that time passes.
    fn next(&mut self) -> Option<(Timestamp, Input)> {
        let wakes = conductor::wakes_at(&self.run);
        let planned = self.agenda.first_key_value().map(|((at, _), _)| *at);
        match (planned, wakes) {
            (Some(at), wakes) if wakes.is_none_or(|wakes| at <= wakes) => {
                self.agenda.pop_first().map(|((at, _), input)| (at, input))
            }
            (_, wakes) => wakes.map(|at| (at, Input::TimePassed)),
        }
    }

    fn plan(&mut self, at: Timestamp, input: Input) {
        self.planned += 1;
        // The run begins before anything else happens at that moment.
        let order = if matches!(input, Input::Started) { 0 } else { self.planned };
        self.agenda.insert((at, order), input);
    }

    fn event(&self, index: usize, event: &Happening, at: Timestamp, source: &str) -> Event {
        Event {
            id: EventId(i64::try_from(index).unwrap_or(i64::MAX).saturating_add(1)),
            trigger: event.trigger.clone(),
            source: source.to_owned(),
            payload: Arc::clone(&event.payload),
            received_at: at,
            routed_at: None,
            replay_of: None,
        }
    }

    fn give(&mut self, input: &Input) {
        if let Input::EventCame { event } = input
            && !self.events.iter().any(|known| known.id == event.id)
        {
            self.events.push(event.clone());
            self.tell(format!("event {}: {} {}", event.id, event.trigger, short(&event.payload)));
        }
        let world = World {
            definitions: self.definitions,
            workflow: self.workflow,
            now: self.now,
            public_url: self.definitions.site.public_url.as_deref().unwrap_or("http://siskin.example"),
        };
        for effect in conductor::advance(world, &mut self.run, input) {
            self.carry_out(effect);
        }
        self.hear_earlier_events();
    }

    /// A step that begins to listen is told the events since the moment from which they count.
    fn hear_earlier_events(&mut self) {
        for listening in conductor::listens(self.workflow, &self.run) {
            let visit = self.run.step(&listening.step).map_or(0, |step| step.visit);
            let counts =
                |event: &&Event| event.trigger == listening.trigger && event.received_at >= listening.since;
            let key = (format!("{} {}", listening.step, listening.trigger), visit);
            if self.listening.insert(key) {
                let earlier: Vec<Event> = self.events.iter().filter(counts).cloned().collect();
                for event in earlier {
                    self.plan(self.now, Input::EventCame { event });
                }
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Dispatch { attempt, .. } => self.attempt(&attempt),
            Effect::CancelAttempt { key } => {
                let is_its = |input: &Input| matches!(input, Input::AttemptFinished { key: other, .. } if *other == key);
                self.agenda.retain(|_, input| !is_its(input));
                let outcome = Outcome::failed(ErrorKind::Cancelled, "cancelled");
                self.plan(self.now, Input::AttemptFinished { key, outcome });
            }
            Effect::Ask { question } => self.ask(&question),
            Effect::Withdraw { step, .. } => self.agenda.retain(|_, input| match input {
                Input::Approved { step: asking, .. } | Input::Rejected { step: asking, .. } => {
                    *asking != step
                }
                _ => true,
            }),
            Effect::StartChild { step, workflow, input, .. } => self.child(step, workflow, input),
            // What a child did is taken back by a run of its own, which succeeds as the child did.
            Effect::StartRollback { step, of, .. } => {
                let (status, output) = (RunStatus::Succeeded, json!({}));
                self.plan(self.now, Input::ChildEnded { step, run: of, status, output, error: None });
            }
            Effect::TakeLock { step, lock } => {
                let queue = self.locks.entry(lock).or_default();
                queue.push_back(step.clone());
                if queue.len() == 1 {
                    self.plan(self.now, Input::LockTaken { step });
                }
            }
            Effect::FreeLock { step } => self.free_lock(&step),
            Effect::CancelChild { run } => {
                let mut steps = Vec::new();
                self.agenda.retain(|_, input| match input {
                    Input::ChildEnded { step, run: other, .. } if *other == run => {
                        steps.push(step.clone());
                        false
                    }
                    _ => true,
                });
                for step in steps {
                    let (status, output) = (RunStatus::Cancelled, Value::Null);
                    self.plan(self.now, Input::ChildEnded { step, run, status, output, error: None });
                }
            }
            Effect::Emit { trigger, payload, dedup } => {
                if self.emitted.insert(dedup) {
                    let happening = Happening { trigger, payload: Arc::new(payload) };
                    let index = self.case.events.len() + self.emitted.len();
                    let event = self.event(index, &happening, self.now, "run 1");
                    self.plan(self.now, Input::EventCame { event });
                }
            }
            // Nobody pauses a run that is played, and it has no parent.
            Effect::PauseChild { .. } | Effect::ResumeChild { .. } | Effect::TellParent { .. } => (),
            Effect::Note(entry) => self.note(&entry),
        }
    }

    /// The next in the queue has the lock; nobody but this run wants any.
    fn free_lock(&mut self, step: &str) {
        let mut next = Vec::new();
        for queue in self.locks.values_mut() {
            let had_it = queue.front().is_some_and(|first| first == step);
            queue.retain(|waiting| waiting != step);
            next.extend(queue.front().filter(|_| had_it).cloned());
        }
        for step in next {
            self.plan(self.now, Input::LockTaken { step });
        }
    }

    fn attempt(&mut self, attempt: &Attempt) {
        let (key, input) = (&attempt.key, attempt.input.masked());
        let mock = self.cast.find(&key.step, &attempt.action, key.number).cloned();
        let mock = mock.unwrap_or_else(|| mocks::unmocked(&attempt.action, &input, &mut self.kv));
        self.called(&key.step, &attempt.action, input);
        let (takes, outcome) = if mock.takes > attempt.timeout {
            let message = format!("it took longer than {}", attempt.timeout);
            let error = RunError::new(ErrorKind::TimedOut, message);
            (attempt.timeout, Outcome::Failed { error, output: Value::Null })
        } else {
            (mock.takes, outcome(mock))
        };
        self.plan(self.now.plus(takes), Input::AttemptFinished { key: key.clone(), outcome });
    }

    fn child(&mut self, step: String, workflow: String, input: Value) {
        self.children += 1;
        let run = RunId(1 + self.children);
        let number = self.run.step(&step).map_or(1, |step| step.attempts.max(1));
        let nothing = Mock { output: json!({}), error: None, takes: Span(0) };
        let mock = self.cast.find(&step, &workflow, number).cloned().unwrap_or(nothing);
        self.called(&step, &workflow, input);
        let status = match mock.error.as_ref().map(|error| error.kind) {
            None => RunStatus::Succeeded,
            Some(ErrorKind::Rejected) => RunStatus::Rejected,
            Some(ErrorKind::Cancelled) => RunStatus::Cancelled,
            Some(_) => RunStatus::Failed,
        };
        let (output, error) = (mock.output, mock.error);
        self.plan(self.now.plus(mock.takes), Input::ChildEnded { step, run, status, output, error });
    }

    fn called(&mut self, step: &str, run: &str, with: Value) {
        let who = who(step);
        // The call says that it started.
        let started = Moment { after: self.now.since(START), what: format!("{who} started"), again: None };
        if self.timeline.last() == Some(&started) {
            self.timeline.pop();
        }
        self.tell(format!("{who} calls {run} with {}", short(&with)));
        self.calls.push((run.to_owned(), with));
    }

    /// People answer when the case says so; roles are not looked at.
    fn ask(&mut self, question: &Question) {
        let of = question.of.join(", ");
        self.tell(format!("{} asks {of}: {}", question.step, question.ask));
        let Some(answer) = self.case.answers.get(&question.step) else { return };
        let Answer { by, at, reject, comment, answers } = answer.clone();
        let (step, at) = (question.step.clone(), self.now.max(START.plus(at)));
        if reject {
            let by = by.into_iter().next().unwrap_or_default();
            return self.plan(at, Input::Rejected { step, by, comment });
        }
        let votes = by.iter().collect::<BTreeSet<_>>().len();
        if votes < usize::try_from(question.count).unwrap_or(usize::MAX) {
            let wanted = question.count;
            return self.tell(format!("{step} wants {wanted} votes, and the case has only {votes}"));
        }
        self.plan(at, Input::Approved { step, by, comment, answers });
    }

    fn note(&mut self, entry: &Entry) {
        let detail = entry.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
        let what = match (entry.what.split_once('.'), &entry.step) {
            (Some(("undo", what)), Some(step)) => {
                format!("{} {what}{detail}", who(&format!("{step}{UNDO_SUFFIX}")))
            }
            (Some((_, what)), Some(step)) => format!("{step} {what}{detail}"),
            (Some((_, what)), None) => format!("run {what}{detail}"),
            (None, _) => format!("{}{detail}", entry.what),
        };
        self.tell(what);
    }

    fn tell(&mut self, what: String) {
        let after = self.now.since(START);
        let is_full = self.timeline.len() >= MAX_MOMENTS;
        match self.timeline.last_mut() {
            Some(last) if last.what == what => {
                last.again = Some((last.again.map_or(0, |(times, _)| times) + 1, after));
            }
            _ if is_full => (),
            _ => self.timeline.push(Moment { after, what, again: None }),
        }
    }

    // What came of it.

    fn compare(&self, expect: &WorkflowExpected) -> Vec<Difference> {
        let mut found = Vec::new();
        if let Some(status) = expect.status
            && status != self.run.status
        {
            let why = self.run.error.as_ref().map(described);
            let (expected, got) = (json!(status), Some(json!(self.run.status)));
            found.push(Difference { path: "status".to_owned(), expected, got, why });
        }
        for (id, expected) in &expect.steps {
            self.compare_step(id, expected, &mut found);
        }
        let undone: Vec<String> = self.undone().collect();
        compare::names("undone", &expect.undone, &undone, &mut found);
        compare::calls(&expect.called, &self.calls, &mut found);
        for run in &expect.not_called {
            if let Some((_, with)) = self.calls.iter().find(|(called, _)| called == run) {
                let got = Some(json!({"run": run, "with": with}));
                compare::differs("not_called", json!(run), got, &mut found);
            }
        }
        if let Some(expected) = &expect.output {
            compare::values("output", expected, Some(&self.run.output), &mut found);
        }
        match (&expect.error, &self.run.error) {
            (None, _) => (),
            (Some(Value::String(part)), error) => {
                let message = error.as_ref().map(|error| error.message.as_str());
                compare::holds("error", part, message, &mut found);
            }
            (Some(expected), error) => {
                compare::values("error", expected, Some(&json!(error)), &mut found);
            }
        }
        found
    }

    fn compare_step(&self, id: &str, expected: &Value, found: &mut Vec<Difference>) {
        let path = format!("steps.{id}");
        let step = self.run.step(id);
        let why = step.and_then(|step| step.error.as_ref()).map(ToString::to_string);
        let got = step.map(|step| {
            json!({
                "status": step.status(),
                "output": step.output,
                "error": step.error,
                "attempts": step.attempts,
            })
        });
        let before = found.len();
        match (expected, &got) {
            (Value::String(_), Some(got)) => compare::values(&path, expected, got.get("status"), found),
            (expected, got) => compare::values(&path, expected, got.as_ref(), found),
        }
        if let Some(first) = found.get_mut(before) {
            first.why = why;
        }
    }

    /// The steps that were taken back, in order.
    fn undone(&self) -> impl Iterator<Item = String> {
        let done = |status| status == StepStatus::Succeeded;
        self.run.undos.iter().filter(move |(_, undo)| done(undo.status())).map(|(id, _)| id.clone())
    }
}

/// A step, or the undo of one.
fn who(key: &str) -> String {
    key.strip_suffix(UNDO_SUFFIX).map_or_else(|| key.to_owned(), |id| format!("undo of {id}"))
}

fn outcome(mock: Mock) -> Outcome {
    match mock.error {
        None => Outcome::Succeeded { output: mock.output },
        Some(error) => Outcome::Failed { error, output: mock.output },
    }
}

fn described(error: &RunError) -> String {
    let step = error.step.as_ref().map(|step| format!("{step}: ")).unwrap_or_default();
    let place = error.place.as_ref().map(|place| format!(", {place}")).unwrap_or_default();
    format!("{step}{error}{place}")
}

/// A value on one line, cut where it gets long.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= MAX_SHOWN {
        return text;
    }
    text.chars().take(MAX_SHOWN).chain(['…']).collect()
}
