//! The world outside of a run: workers, people, other runs, locks, events. It knows what it was told and what it said, and nothing of how the
//! conductor decides: what the checkers hold against a run stands here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::chance::Chance;
use crate::conductor::{Effect, Entry, Input, Listening};
use crate::model::run::Parent;
use crate::model::step::StepState;
use crate::model::{
    Attempt, AttemptKey, ErrorKind, Event, Outcome, Run, RunError, RunId, RunStatus, Timestamp, Value,
};

/// Counts the inputs of a run, from 1: when something happened.
pub(super) type Turn = u32;

/// An attempt, from its dispatch on.
pub(super) struct Work {
    pub(super) attempt: Attempt,
    /// The step, undo or item that it is of.
    pub(super) of: String,
    pub(super) dispatched: (Turn, Timestamp),
    /// A worker has claimed it.
    pub(super) begun: bool,
    /// It was asked to end.
    pub(super) told: bool,
    /// Its first outcome, and when that was taken.
    pub(super) ended: Option<(Turn, Timestamp, Outcome)>,
}

impl Work {
    pub(super) fn is_open(&self) -> bool {
        self.ended.is_none()
    }
}

pub(super) struct Asked {
    pub(super) step: String,
    pub(super) settled: Option<Turn>,
}

pub(super) struct Child {
    pub(super) step: String,
    pub(super) visit: u32,
    pub(super) run: RunId,
    pub(super) began: Turn,
    /// The run that it takes back.
    pub(super) of: Option<RunId>,
    pub(super) paused: bool,
    /// It was asked to end.
    pub(super) told: bool,
    pub(super) forced: bool,
    pub(super) ended: Option<Turn>,
}

/// Values that a step wants to read.
pub(super) struct Reading {
    pub(super) step: String,
    pub(super) keys: Vec<(String, String)>,
    pub(super) answered: Option<Turn>,
}

/// A step's place in the queue for a lock.
pub(super) struct Place {
    pub(super) step: String,
    pub(super) lock: String,
    pub(super) granted: Option<Turn>,
    pub(super) freed: Option<Turn>,
}

pub(super) struct Told {
    pub(super) parent: Parent,
    pub(super) status: RunStatus,
}

#[derive(Default)]
pub(super) struct Outside {
    pub(super) turn: Turn,
    pub(super) works: Vec<Work>,
    pub(super) by_key: BTreeMap<AttemptKey, usize>,
    /// Dispatches of a key that was known already.
    pub(super) doubled: Vec<AttemptKey>,
    /// Cancels of attempts and children that never began.
    pub(super) unknown: Vec<String>,
    pub(super) asked: Vec<Asked>,
    pub(super) children: Vec<Child>,
    pub(super) places: Vec<Place>,
    /// Locks that were given back by who had not asked for them.
    pub(super) freed_nothing: Vec<String>,
    /// Undos that were asked to roll back a run that did nothing.
    pub(super) nothing: Vec<String>,
    /// Who waits for each lock, by place; `None` is another run.
    queues: BTreeMap<String, VecDeque<Option<usize>>>,
    pub(super) emitted: Vec<(String, Turn)>,
    pub(super) notes: Vec<(Entry, Turn)>,
    pub(super) told_parent: Vec<Told>,
    pub(super) events: Vec<Event>,
    /// What each step reported so far, whatever came of it.
    pub(super) reported: BTreeMap<String, Value>,
    /// When the run was cancelled.
    pub(super) cancels: Vec<Turn>,
    pub(super) paused: bool,
    pub(super) reads: Vec<Reading>,
    pub(super) forced: bool,
    /// Whether the run was told that it may not begin, or that a younger one wants its place.
    pub(super) refused: bool,
    pub(super) superseded: bool,
    /// Inputs that are stored and will come whatever happens.
    pub(super) inbox: VecDeque<Input>,
    /// Inputs that belong to the write that caused them.
    pub(super) at_once: VecDeque<Input>,
    listening: Vec<Listening>,
    pub(super) old_inputs: Vec<Input>,
}

impl Outside {
    /// What follows from an input having been taken: it is no longer to come.
    pub(super) fn took(&mut self, input: &Input, before: &Run, now: Timestamp) {
        self.turn += 1;
        let turn = self.turn;
        match input {
            Input::AttemptReported { key, output } => self.reports(key, output),
            Input::AttemptFinished { key, outcome, .. } => {
                match outcome {
                    Outcome::Succeeded { output } => self.reports(key, output),
                    Outcome::Failed { output, .. } if !output.is_null() => self.reports(key, output),
                    Outcome::Failed { .. } => (),
                }
                if let Some(work) = self.by_key.get(key).map(|index| &mut self.works[*index]) {
                    work.ended.get_or_insert_with(|| (turn, now, outcome.clone()));
                }
            }
            Input::Approved { step, .. } | Input::Rejected { step, .. } => self.settle(step),
            Input::ChildEnded { run, .. } => {
                if let Some(child) = self.children.iter_mut().find(|child| child.run == *run) {
                    child.ended.get_or_insert(turn);
                }
            }
            Input::LockTaken { step } => {
                let mut places = self.places.iter_mut().rev();
                if let Some(place) = places.find(|place| place.step == *step && place.freed.is_none()) {
                    place.granted.get_or_insert(turn);
                }
            }
            Input::ValuesRead { step, .. } => {
                if let Some(reading) = self.reads.iter_mut().rev().find(|reading| reading.step == *step) {
                    reading.answered.get_or_insert(turn);
                }
            }
            // Nobody can do anything with a run that has ended.
            _ if before.status.is_final() => (),
            Input::CancelAsked { .. } => {
                self.cancels.push(turn);
                self.paused = false;
            }
            Input::PauseAsked { .. } => self.paused = true,
            Input::ResumeAsked { .. } => self.paused = false,
            Input::ForceAsked { .. } => self.forced = true,
            Input::Superseded { .. } => self.superseded = true,
            Input::Refused { .. } => self.refused |= before.started_at.is_none(),
            Input::Started
            | Input::EventCame { .. }
            | Input::TimePassed
            | Input::HoldsChanged
            | Input::NothingToUndo { .. } => (),
        }
    }

    /// A report of an attempt that is still at work is what its step gave last.
    fn reports(&mut self, key: &AttemptKey, output: &Value) {
        let Some(work) = self.by_key.get(key).map(|index| &self.works[*index]) else { return };
        if work.is_open() {
            self.reported.insert(work.of.clone(), output.clone());
        }
    }

    fn settle(&mut self, step: &str) {
        let turn = self.turn;
        for asked in self.asked.iter_mut().filter(|asked| asked.step == step) {
            asked.settled.get_or_insert(turn);
        }
    }

    /// Takes over what a run caused, in the write that stores the run. Children get their numbers here.
    pub(super) fn take(&mut self, effects: &[Effect], run: &mut Run, now: Timestamp) {
        let turn = self.turn;
        for effect in effects {
            match effect {
                Effect::Dispatch { attempt, .. } => self.dispatch(attempt, now),
                Effect::CancelAttempt { key } => match self.by_key.get(key) {
                    Some(index) => self.works[*index].told = true,
                    None => self.unknown.push(key.to_string()),
                },
                Effect::Ask { question } => {
                    self.asked.push(Asked { step: question.step.clone(), settled: None })
                }
                Effect::Withdraw { step, .. } => self.settle(step),
                Effect::TakeLock { step, lock } => self.queue(step, lock),
                Effect::FreeLock { step } => self.free(step),
                Effect::StartChild { step, visit, .. } => self.child(run, step, *visit, None),
                // What is to be taken back did nothing: there will be no run.
                Effect::StartRollback { step, of, .. } if of.0 % 3 == 0 => {
                    self.nothing.push(step.clone());
                    self.at_once.push_back(Input::NothingToUndo { step: step.clone() });
                }
                Effect::StartRollback { step, visit, of } => self.child(run, step, *visit, Some(*of)),
                Effect::CancelChild { run } => self.tell(*run, |child| child.told = true),
                Effect::PauseChild { run } => self.tell(*run, |child| child.paused = true),
                Effect::ResumeChild { run } => self.tell(*run, |child| child.paused = false),
                Effect::ForceChild { run, .. } => self.tell(*run, |child| child.forced = true),
                Effect::Read { step, keys } => {
                    self.reads.push(Reading { step: step.clone(), keys: keys.clone(), answered: None });
                }
                Effect::Remind { .. } => (),
                Effect::Emit { dedup, .. } => self.emitted.push((dedup.clone(), turn)),
                Effect::TellParent { parent, status, .. } => {
                    self.told_parent.push(Told { parent: parent.clone(), status: *status });
                }
                Effect::Note(entry) => self.notes.push((entry.clone(), turn)),
            }
        }
    }

    fn dispatch(&mut self, attempt: &Attempt, now: Timestamp) {
        if self.by_key.contains_key(&attempt.key) {
            self.doubled.push(attempt.key.clone());
            return;
        }
        self.by_key.insert(attempt.key.clone(), self.works.len());
        self.works.push(Work {
            of: attempt.key.step_key(),
            attempt: attempt.clone(),
            dispatched: (self.turn, now),
            begun: false,
            told: false,
            ended: None,
        });
    }

    fn tell(&mut self, run: RunId, what: impl Fn(&mut Child)) {
        match self.children.iter_mut().find(|child| child.run == run) {
            Some(child) => what(child),
            None => self.unknown.push(format!("run {run}")),
        }
    }

    /// The store gives a child its number in the transaction that asks for it. One that is born to a run that is being ended, or is paused, knows.
    fn child(&mut self, run: &mut Run, step: &str, visit: u32, of: Option<RunId>) {
        let id = RunId(1001 + self.children.len() as i64);
        if let Some(step) = run.step_mut(step)
            && let StepState::Child { run } = &mut step.state
        {
            *run = Some(id);
        }
        self.children.push(Child {
            step: step.to_owned(),
            visit,
            run: id,
            began: self.turn,
            of,
            paused: run.paused,
            told: run.step(step).is_some_and(|step| step.stopped),
            forced: false,
            ended: None,
        });
    }

    fn queue(&mut self, step: &str, lock: &str) {
        let place = self.places.len();
        self.places.push(Place { step: step.to_owned(), lock: lock.to_owned(), granted: None, freed: None });
        let queue = self.queues.entry(lock.to_owned()).or_default();
        if queue.is_empty() && step.len().is_multiple_of(2) {
            queue.push_back(None);
        }
        queue.push_back(Some(place));
    }

    fn free(&mut self, step: &str) {
        let turn = self.turn;
        let mut places = self.places.iter_mut().enumerate();
        let Some((index, place)) = places.find(|(_, place)| place.step == step && place.freed.is_none())
        else {
            self.freed_nothing.push(step.to_owned());
            return;
        };
        place.freed = Some(turn);
        self.queues.values_mut().for_each(|queue| queue.retain(|one| *one != Some(index)));
    }

    /// Another run gives its lock back, and somebody of this one has it.
    pub(super) fn move_lock(&mut self, chance: &mut Chance) -> Option<Input> {
        let moving = |queue: &VecDeque<Option<usize>>| match queue.front() {
            Some(Some(place)) => self.places[*place].granted.is_none(),
            Some(None) => true,
            None => false,
        };
        let locks: Vec<String> =
            self.queues.iter().filter(|(_, queue)| moving(queue)).map(|(lock, _)| lock.clone()).collect();
        if locks.is_empty() {
            return None;
        }
        let queue = self.queues.get_mut(chance.pick(&locks))?;
        if queue.front() == Some(&None) {
            queue.pop_front();
        }
        let place = queue.front().copied().flatten()?;
        Some(Input::LockTaken { step: self.places[place].step.clone() })
    }

    pub(super) fn open_works(&self) -> impl Iterator<Item = &Work> {
        self.works.iter().filter(|work| work.is_open())
    }

    pub(super) fn open_children(&self) -> impl Iterator<Item = &Child> {
        self.children.iter().filter(|child| child.ended.is_none())
    }

    pub(super) fn open_questions(&self) -> impl Iterator<Item = &Asked> {
        self.asked.iter().filter(|asked| asked.settled.is_none())
    }

    pub(super) fn open_places(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|place| place.freed.is_none())
    }

    /// The values that a step asked for come.
    pub(super) fn read(&self, chance: &mut Chance) -> Option<Input> {
        let open: Vec<&Reading> = self.reads.iter().filter(|reading| reading.answered.is_none()).collect();
        if open.is_empty() {
            return None;
        }
        let reading = chance.pick(&open);
        let values =
            reading.keys.iter().map(|(name, key)| (name.clone(), Value::from(key.clone()))).collect();
        Some(Input::ValuesRead { step: reading.step.clone(), values })
    }

    /// What a run waits for now: a new wait is given the events that came before it and still count.
    pub(super) fn listens(&mut self, listening: Vec<Listening>) {
        let events = &self.events;
        for new in listening.iter().filter(|new| !self.listening.contains(new)) {
            let counting =
                events.iter().filter(|event| event.trigger == new.trigger && event.received_at >= new.since);
            self.inbox.extend(counting.map(|event| Input::EventCame { event: event.clone() }));
        }
        self.listening = listening;
    }

    /// The process died: an attempt that had begun in it is lost, and what of the others is to end is known from the run alone.
    pub(super) fn crash(&mut self, run: &Run, workers_too: bool) {
        for work in self.works.iter_mut().filter(|work| work.is_open()) {
            work.told = is_to_end(run, work);
            if work.begun && workers_too {
                let outcome = Outcome::failed(ErrorKind::Lost, "lost");
                let key = work.attempt.key.clone();
                self.inbox.push_back(Input::AttemptFinished { key, outcome, worker: None });
            }
        }
    }

    /// What a worker says of an attempt that it has to do or to end.
    pub(super) fn work_on(&mut self, chance: &mut Chance) -> Option<Input> {
        let open: Vec<usize> = self
            .works
            .iter()
            .enumerate()
            .filter(|(_, work)| work.is_open())
            .map(|(index, _)| index)
            .collect();
        if open.is_empty() {
            return None;
        }
        let work = &mut self.works[*chance.pick(&open)];
        let key = work.attempt.key.clone();
        if work.told && (!work.begun || !chance.one_in(4)) {
            return Some(Input::AttemptFinished {
                key,
                outcome: Outcome::failed(ErrorKind::Cancelled, "ended"),
                worker: None,
            });
        }
        work.begun = true;
        if chance.one_in(8) {
            return Some(Input::AttemptReported { key, output: output(chance) });
        }
        Some(Input::AttemptFinished { key, outcome: outcome(chance), worker: Some("w".to_owned()) })
    }

    /// A child ends; one that was told to, or is paused, ends no other way.
    pub(super) fn end_child(&mut self, chance: &mut Chance) -> Option<Input> {
        let open: Vec<&Child> = self.open_children().filter(|child| child.told || !child.paused).collect();
        if open.is_empty() {
            return None;
        }
        let child = chance.pick(&open);
        use RunStatus::{Cancelled, Failed, Rejected, Succeeded};
        let statuses: &[RunStatus] = match (child.told, child.of) {
            (true, _) => &[Cancelled],
            (_, Some(_)) => &[Succeeded, Failed],
            (_, None) => &[Succeeded, Succeeded, Succeeded, Failed, Rejected, Cancelled],
        };
        let status = *chance.pick(statuses);
        let error = (status == Failed).then(|| RunError::failed("it failed"));
        Some(Input::ChildEnded {
            step: child.step.clone(),
            run: child.run,
            status,
            output: Arc::new(output(chance)),
            error,
        })
    }
}

/// Whether an attempt is to end, by what the run's state says of it: what a restart and every worker that asks is told.
pub(super) fn is_to_end(run: &Run, work: &Work) -> bool {
    run.step(&work.of).is_none_or(|step| step.stopped || !step.is_doing(&work.attempt.key))
}

fn output(chance: &mut Chance) -> Value {
    serde_json::json!({"well": !chance.one_in(5), "x": chance.below(1000)})
}

fn outcome(chance: &mut Chance) -> Outcome {
    let failed = |kind, chance: &mut Chance| {
        let output = if chance.one_in(2) { output(chance) } else { Value::Null };
        Outcome::Failed { error: RunError::new(kind, "it failed"), output }
    };
    match chance.below(8) {
        0 => failed(ErrorKind::Failed, chance),
        1 => failed(ErrorKind::TimedOut, chance),
        2 => failed(ErrorKind::Lost, chance),
        _ => Outcome::Succeeded { output: output(chance) },
    }
}
