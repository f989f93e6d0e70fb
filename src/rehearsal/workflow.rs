//! One run, from its first step to its last, on simulated time; beside it the runs of its groups, which are played as it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde_json::json;

use super::mocks::{self, Cast, Kv};
use super::story::{Scene, Story, short};
use super::verdict::Played;
use super::{Difference, Moment, setting};
use crate::conductor::{self, Effect, Input, Start, World};
use crate::definitions::test::{Answer, Happening, Held, Mock, Mocks, WorkflowCase};
use crate::definitions::{Definitions, Workflow};
use crate::model::approval::Question;
use crate::model::hold::{Hold, Holds};
use crate::model::run::{Outer, Parent};
use crate::model::step::StepState;
use crate::model::{
    Actor, Attempt, ErrorKind, Event, EventId, Kept, Object, Outcome, Run, RunError, RunId, RunStatus, Span,
    StepKey, Timestamp, Value,
};

/// When a played run begins whose case does not say: 2026-01-01T00:00:00Z.
pub(super) const START: Timestamp = Timestamp(1_767_225_600_000);
/// Of the conductor: more than any run needs that ends.
const MAX_INPUTS: usize = 100_000;
/// Of simulated time.
const LONGEST: Span = Span::days(3650);
/// The run of the case.
const FIRST: RunId = RunId(1);

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
    let mut stage = Stage::set(definitions, workflow, cast, kv.map(Kv::holding), case);
    let stuck = stage.play();
    let mut differences = stage.played().differences(&case.expect);
    differences.extend(stuck);
    (differences, stage.story.moments)
}

/// One run on the stage.
struct Player {
    run: Run,
    workflow: Arc<Workflow>,
    scene: Scene,
    /// The items of the groups that it stands in, from the outside inwards.
    items: Vec<u32>,
}

/// What will happen.
enum Due {
    To(RunId, Input),
    /// To every run that is under way.
    Event(Event),
    /// A hold begins or ends.
    Holds,
}

/// A run being played, with those of its groups.
struct Stage<'a> {
    definitions: &'a Definitions,
    cast: Cast<'a>,
    case: &'a WorkflowCase,
    kv: Option<Kv>,
    start: Timestamp,
    now: Timestamp,
    first: Player,
    /// Those of groups and of their rollbacks.
    others: BTreeMap<RunId, Player>,
    /// How many runs there are, mocked ones among them.
    runs: i64,
    /// What will happen, in order of time and then of being known.
    agenda: BTreeMap<(Timestamp, usize), Due>,
    planned: usize,
    /// Every event that came, for those who begin to listen later.
    events: Vec<Event>,
    /// Which steps, by how often they were entered, have heard the events before them.
    listening: BTreeSet<(RunId, String, u32)>,
    /// Keys of emitted events: the same one is one event.
    emitted: BTreeSet<String>,
    /// Who has and who waits for each lock, the holder first.
    locks: BTreeMap<String, VecDeque<(RunId, String)>>,
    holds: Holds,
    /// How often each step has called what it calls, for each item of it and of groups around it.
    tries: BTreeMap<(Vec<u32>, String), u32>,
    /// What was called with what, in order.
    calls: Vec<(String, Value)>,
    undone: Vec<String>,
    story: Story,
}

impl<'a> Stage<'a> {
    fn set(
        definitions: &'a Definitions,
        workflow: Workflow,
        cast: Cast<'a>,
        kv: Option<Kv>,
        case: &'a WorkflowCase,
    ) -> Stage<'a> {
        let start = Start {
            revision: definitions.revision.clone(),
            input: case.input.clone().into(),
            started_by: Actor::user("test"),
            event: None,
            rule: None,
            parent: None,
            depth: 0,
            outer: None,
        };
        let now = case.starts_at.unwrap_or(START);
        let mut run = conductor::new_run(&workflow, start, now);
        run.id = FIRST;
        let first = Player { run, workflow: Arc::new(workflow), scene: Scene::default(), items: Vec::new() };
        Stage {
            definitions,
            cast,
            case,
            kv,
            start: now,
            now,
            first,
            others: BTreeMap::new(),
            runs: 1,
            agenda: BTreeMap::new(),
            planned: 0,
            events: Vec::new(),
            listening: BTreeSet::new(),
            emitted: BTreeSet::new(),
            locks: BTreeMap::new(),
            holds: Holds::default(),
            tries: BTreeMap::new(),
            calls: Vec::new(),
            undone: Vec::new(),
            story: Story::default(),
        }
    }

    fn played(&self) -> Played<'_> {
        Played { run: &self.first.run, undone: &self.undone, calls: &self.calls }
    }

    /// Plays the run to its end. What it gives is why there was none.
    fn play(&mut self) -> Option<Difference> {
        self.plan_the_case();
        for _ in 0..MAX_INPUTS {
            if self.first.run.status.is_final() {
                return None;
            }
            let Some((at, due)) = self.next() else {
                return Some(self.never_ends("it waits, and nothing will ever come".to_owned()));
            };
            if at > self.start.plus(LONGEST) {
                return Some(self.never_ends(format!("it would go on for more than {LONGEST}")));
            }
            self.now = self.now.max(at);
            self.happen(due);
        }
        Some(self.never_ends(format!("after {MAX_INPUTS} things that happened it still goes on")))
    }

    /// What the case says of the world around, and that the run begins before anything else happens at that moment, but under the holds that stand then.
    fn plan_the_case(&mut self) {
        self.holds = self.holds_now();
        self.agenda.insert((self.start, 0), Due::To(FIRST, Input::Started));
        for held in &self.case.holds {
            for span in [Some(held.from), held.until].into_iter().flatten() {
                self.plan_for(self.start.plus(span), Due::Holds);
            }
        }
        for (index, (at, event)) in self.case.events.iter().enumerate() {
            let event = self.event(index, event, self.start.plus(*at), "test");
            self.plan_for(self.start.plus(*at), Due::Event(event));
        }
        if let Some(force) = &self.case.force {
            let (by, why) = (Actor::user(force.by.clone()), force.why.clone());
            self.plan(self.start.plus(force.at), FIRST, Input::ForceAsked { by, why });
        }
    }

    fn never_ends(&self, why: String) -> Difference {
        let got = Some(json!(self.first.run.status));
        Difference { path: "end".to_owned(), expected: json!("a run that ends"), got, why: Some(why) }
    }

    fn player(&mut self, id: RunId) -> Option<&mut Player> {
        if id == FIRST { Some(&mut self.first) } else { self.others.get_mut(&id) }
    }

    /// Those that have not ended.
    fn under_way(&self) -> impl Iterator<Item = &Run> {
        let runs = std::iter::once(&self.first).chain(self.others.values()).map(|player| &player.run);
        runs.filter(|run| !run.status.is_final())
    }

    /// What happens next, and when: what is planned, or that time passes.
    fn next(&mut self) -> Option<(Timestamp, Due)> {
        let wakes = self.under_way().filter_map(|run| Some((conductor::wakes_at(run)?, run.id))).min();
        let planned = self.agenda.first_key_value().map(|((at, _), _)| *at);
        match (planned, wakes) {
            (Some(at), wakes) if wakes.is_none_or(|(wakes, _)| at <= wakes) => {
                self.agenda.pop_first().map(|((at, _), due)| (at, due))
            }
            (_, wakes) => wakes.map(|(at, run)| (at, Due::To(run, Input::TimePassed))),
        }
    }

    fn plan(&mut self, at: Timestamp, run: RunId, input: Input) {
        self.plan_for(at, Due::To(run, input));
    }

    fn plan_for(&mut self, at: Timestamp, due: Due) {
        self.planned += 1;
        self.agenda.insert((at, self.planned), due);
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::To(run, input) => self.give(run, &input),
            Due::Event(event) => {
                self.tell(format!("event {}: {} {}", event.id, event.trigger, short(&event.payload)));
                self.events.push(event.clone());
                self.give_all(&Input::EventCame { event });
            }
            Due::Holds => {
                let now = self.holds_now();
                let before = std::mem::replace(&mut self.holds, now);
                for (held, other, what) in
                    [(&self.holds, &before, "is held"), (&before, &self.holds, "is held no more")]
                {
                    let is_new = |hold: &&Hold| !named(other).any(|known| known.what == hold.what);
                    let new: Vec<String> =
                        named(held).filter(is_new).map(|hold| format!("{} {what}", hold.what)).collect();
                    new.into_iter().for_each(|what| self.story.tell(self.now.since(self.start), what));
                }
                self.give_all(&Input::HoldsChanged);
            }
        }
    }

    fn holds_now(&self) -> Holds {
        let after = self.now.since(self.start);
        let stands = |held: &&Held| held.from <= after && held.until.is_none_or(|until| after < until);
        let mut holds = Holds::default();
        for held in self.case.holds.iter().filter(stands) {
            let (what, why, since) = (held.what.clone(), held.why.clone(), self.start.plus(held.from));
            let hold = Hold { what: what.clone(), by: Actor::user("test"), why, since };
            match what.as_str() {
                "all" => holds.all = Some(hold),
                _ => drop(holds.apps.insert(what, hold)),
            }
        }
        holds
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

    fn give_all(&mut self, input: &Input) {
        let runs: Vec<RunId> = self.under_way().map(|run| run.id).collect();
        runs.into_iter().for_each(|run| self.give(run, input));
    }

    fn give(&mut self, id: RunId, input: &Input) {
        let (definitions, now) = (self.definitions, self.now);
        let holds = std::mem::take(&mut self.holds);
        let Some(player) = self.player(id) else {
            self.holds = holds;
            return;
        };
        let world = World {
            definitions,
            workflow: &player.workflow,
            now,
            holds: &holds,
            public_url: definitions.site.public_url.as_deref().unwrap_or("http://siskin.example"),
        };
        let effects = conductor::advance(world, &mut player.run, input);
        let listening = conductor::listens(&player.workflow, &player.run);
        self.holds = holds;
        for effect in effects {
            self.carry_out(id, effect);
        }
        self.hear_earlier_events(id, listening);
    }

    /// A step that begins to listen is told the events since the moment from which they count.
    fn hear_earlier_events(&mut self, id: RunId, listening: Vec<conductor::Listening>) {
        for listening in listening {
            let visit = self
                .player(id)
                .and_then(|player| player.run.step(&listening.step))
                .map_or(0, |step| step.visit);
            let counts =
                |event: &&Event| event.trigger == listening.trigger && event.received_at >= listening.since;
            let key = (id, format!("{} {}", listening.step, listening.trigger), visit);
            if self.listening.insert(key) {
                let earlier: Vec<Event> = self.events.iter().filter(counts).cloned().collect();
                for event in earlier {
                    self.plan(self.now, id, Input::EventCame { event });
                }
            }
        }
    }

    fn carry_out(&mut self, id: RunId, effect: Effect) {
        match effect {
            Effect::Dispatch { attempt, .. } => self.attempt(id, &attempt),
            Effect::CancelAttempt { key } => {
                let is_its = |due: &Due| matches!(due, Due::To(_, Input::AttemptFinished { key: other, .. }) if *other == key);
                self.agenda.retain(|_, due| !is_its(due));
                let outcome = Outcome::failed(ErrorKind::Cancelled, "cancelled");
                self.plan(self.now, id, Input::AttemptFinished { key, outcome, worker: None });
            }
            Effect::Ask { question } => self.ask(id, &question),
            Effect::Withdraw { step, .. } => self.agenda.retain(|_, due| match due {
                Due::To(run, Input::Approved { step: asking, .. } | Input::Rejected { step: asking, .. }) => {
                    *run != id || *asking != step
                }
                _ => true,
            }),
            Effect::StartChild { step, visit, workflow, input, outer } => match outer {
                Some(outer) => self.group(Parent { run: id, step, visit }, &workflow, input, *outer),
                None => self.child(id, step, &workflow, (*input).clone()),
            },
            Effect::StartRollback { step, visit, of } => self.roll_back(Parent { run: id, step, visit }, of),
            Effect::TakeLock { step, lock } => {
                let queue = self.locks.entry(lock).or_default();
                queue.push_back((id, step.clone()));
                if queue.len() == 1 {
                    self.plan(self.now, id, Input::LockTaken { step });
                }
            }
            Effect::FreeLock { step } => self.free_lock(&(id, step)),
            Effect::CancelChild { run } => self.cancel_child(id, run),
            Effect::ForceChild { run, by, why } => self.plan(self.now, run, Input::ForceAsked { by, why }),
            Effect::Emit { trigger, payload, dedup } => {
                if self.emitted.insert(dedup) {
                    let happening = Happening { trigger, payload: Arc::new(payload) };
                    let index = self.case.events.len() + self.emitted.len() - 1;
                    let event = self.event(index, &happening, self.now, &format!("run {id}"));
                    self.plan_for(self.now, Due::Event(event));
                }
            }
            Effect::TellParent { parent, status, output, error } => {
                let (step, output) = (parent.step, output.shared());
                let ended = Input::ChildEnded { step, run: id, status, output, error };
                self.plan(self.now, parent.run, ended);
            }
            // Nobody pauses a run that is played, and reminding changes nothing.
            Effect::PauseChild { .. } | Effect::ResumeChild { .. } | Effect::Remind { .. } => (),
            Effect::Read { step, keys } => {
                let read = |key: &str| self.kv.as_ref().map(|kv| kv.value(key)).unwrap_or_default();
                let values = keys.into_iter().map(|(name, key)| (name, read(&key))).collect();
                self.plan(self.now, id, Input::ValuesRead { step, values });
            }
            Effect::Note(entry) => {
                if let ("undo.succeeded", Some(step)) = (entry.what.as_str(), &entry.step) {
                    self.undone.push(step.clone());
                }
                let (scene, after) = (self.scene(id), self.now.since(self.start));
                self.story.note(after, &scene, &entry);
            }
        }
    }

    /// The next in the queue has the lock; nobody but these runs wants any.
    fn free_lock(&mut self, whose: &(RunId, String)) {
        let mut next = Vec::new();
        for queue in self.locks.values_mut() {
            let had_it = queue.front() == Some(whose);
            queue.retain(|waiting| waiting != whose);
            next.extend(queue.front().filter(|_| had_it).cloned());
        }
        for (run, step) in next {
            self.plan(self.now, run, Input::LockTaken { step });
        }
    }

    fn attempt(&mut self, id: RunId, attempt: &Attempt) {
        let (key, input) = (&attempt.key, attempt.input.masked());
        let mock = self.mock(id, &key.step_key(), &attempt.action);
        let mock = mock.unwrap_or_else(|| mocks::unmocked(&attempt.action, &input, &mut self.kv));
        self.called(id, &key.step_key(), &attempt.action, input);
        let (takes, outcome) = if mock.takes > attempt.timeout {
            let message = format!("it took longer than {}", attempt.timeout);
            let error = RunError::new(ErrorKind::TimedOut, message);
            (attempt.timeout, Outcome::Failed { error, output: Value::Null })
        } else {
            (mock.takes, outcome(mock))
        };
        let finished = Input::AttemptFinished { key: key.clone(), outcome, worker: None };
        self.plan(self.now.plus(takes), id, finished);
    }

    /// What the next try of a step, of one of its items or of its undo comes to, when that is mocked.
    fn mock(&mut self, id: RunId, key: &str, run: &str) -> Option<Mock> {
        let parsed = StepKey::parse(key);
        let step = parsed.whole().to_string();
        let mut items = self.player(id).map(|player| player.items.clone()).unwrap_or_default();
        items.extend(parsed.item);
        let item = items.last().copied();
        let tries = self.tries.entry((items, step.clone())).or_default();
        *tries += 1;
        self.cast.find(&step, run, item, *tries).cloned()
    }

    // Other runs.

    fn next_run(&mut self) -> RunId {
        self.runs += 1;
        RunId(self.runs)
    }

    /// A child workflow is a mock.
    fn child(&mut self, id: RunId, step: String, workflow: &str, input: Value) {
        let run = self.next_run();
        let nothing = Mock { output: json!({}), error: None, takes: Span(0) };
        let mock = self.mock(id, &step, workflow).unwrap_or(nothing);
        self.called(id, &step, workflow, input);
        self.name_child(id, &step, run);
        let status = match mock.error.as_ref().map(|error| error.kind) {
            None => RunStatus::Succeeded,
            Some(ErrorKind::Rejected) => RunStatus::Rejected,
            Some(ErrorKind::Cancelled) => RunStatus::Cancelled,
            Some(_) => RunStatus::Failed,
        };
        let (output, error) = (Arc::new(mock.output), mock.error);
        self.plan(self.now.plus(mock.takes), id, Input::ChildEnded { step, run, status, output, error });
    }

    /// A group that is a run of its own is played beside the one around it.
    fn group(&mut self, parent: Parent, name: &str, input: Kept, outer: Outer) {
        let Some(workflow) = self.definitions.workflow_of(name) else { return };
        let workflow = mocks::as_played(&workflow, self.cast, self.kv.is_some());
        let start = self.start_of(&parent, input, Some(outer));
        let run = conductor::new_run(&workflow, start, self.now);
        let Some(around) = self.player(parent.run) else { return };
        let scene = around.scene.of_group(&parent.step);
        let items = around.items.iter().copied().chain(StepKey::parse(&parent.step).item).collect();
        self.enter(parent, Player { run, workflow: Arc::new(workflow), scene, items });
    }

    /// What a group did is taken back by a run of its own, undo by undo. What a mock did is taken back as it was done.
    fn roll_back(&mut self, parent: Parent, of: RunId) {
        let Some(old) = self.others.get(&of) else {
            let (status, output) = (RunStatus::Succeeded, Arc::new(json!({})));
            let ended = Input::ChildEnded { step: parent.step, run: of, status, output, error: None };
            return self.plan(self.now, parent.run, ended);
        };
        let scene = Scene { is_rollback: true, ..old.scene.clone() };
        let (workflow, items) = (Arc::clone(&old.workflow), old.items.clone());
        let start = self.start_of(&parent, old.run.input.clone(), None);
        let Some(old) = self.others.get(&of) else { return };
        let run = conductor::new_rollback(&workflow, &old.run, start, self.now);
        if run.undos.is_empty() {
            return self.plan(self.now, parent.run, Input::NothingToUndo { step: parent.step });
        }
        self.enter(parent, Player { run, workflow, scene, items });
    }

    fn start_of(&self, parent: &Parent, input: Kept, outer: Option<Outer>) -> Start {
        let depth = match self.others.get(&parent.run) {
            Some(around) => around.run.depth,
            None => self.first.run.depth,
        };
        Start {
            revision: self.definitions.revision.clone(),
            input,
            started_by: self.first.run.started_by.clone(),
            event: None,
            rule: None,
            parent: Some(parent.clone()),
            depth: depth + 1,
            outer,
        }
    }

    /// Another run enters the stage, and hears what its parent was told in the same turn.
    fn enter(&mut self, parent: Parent, mut player: Player) {
        let id = self.next_run();
        player.run.id = id;
        self.others.insert(id, player);
        self.name_child(parent.run, &parent.step, id);
        let Some(around) = self.player(parent.run) else { return };
        let (is_stopped, forced) =
            (around.run.step(&parent.step).is_some_and(|step| step.stopped), around.run.forced.clone());
        if let Some(force) = forced {
            self.plan(self.now, id, Input::ForceAsked { by: force.by, why: force.why });
        }
        self.plan(self.now, id, Input::Started);
        if is_stopped {
            self.plan(self.now, id, Input::CancelAsked { by: Actor::Run { id: parent.run } });
        }
    }

    /// Which run works for a step is known only now, as it is to the server when it stores it.
    fn name_child(&mut self, id: RunId, step: &str, child: RunId) {
        if let Some(step) = self.player(id).and_then(|player| player.run.step_mut(step))
            && let StepState::Child { run: known @ None } = &mut step.state
        {
            *known = Some(child);
        }
    }

    fn cancel_child(&mut self, id: RunId, child: RunId) {
        if self.others.contains_key(&child) {
            return self.plan(self.now, child, Input::CancelAsked { by: Actor::Run { id } });
        }
        let mut steps = Vec::new();
        self.agenda.retain(|_, due| match due {
            Due::To(_, Input::ChildEnded { step, run, .. }) if *run == child => {
                steps.push(step.clone());
                false
            }
            _ => true,
        });
        for step in steps {
            let (status, output) = (RunStatus::Cancelled, Arc::new(Value::Null));
            self.plan(self.now, id, Input::ChildEnded { step, run: child, status, output, error: None });
        }
    }

    // People, and what is told.

    /// People answer when the case says so; roles are not looked at.
    fn ask(&mut self, id: RunId, question: &Question) {
        let of = question.of.join(", ");
        let who = self.scene(id).who(&question.step);
        self.tell(format!("{who} asks {of}: {}", question.ask));
        let Some(answer) = self.case.answers.get(&question.step) else { return };
        let Answer { by, at, reject, comment, answers } = answer.clone();
        let (step, at) = (question.step.clone(), self.now.max(self.start.plus(at)));
        if reject {
            let by = by.into_iter().next().unwrap_or_default();
            return self.plan(at, id, Input::Rejected { step, by, comment });
        }
        let votes = by.iter().collect::<BTreeSet<_>>().len();
        let wanted = usize::try_from(question.count).unwrap_or(usize::MAX);
        if votes < wanted {
            return self.tell(format!("{who} wants {wanted} votes, and the case has only {votes}"));
        }
        self.plan(at, id, Input::Approved { step, by, comment, answers });
    }

    fn called(&mut self, id: RunId, step: &str, run: &str, with: Value) {
        let who = self.scene(id).who(step);
        self.story.call(self.now.since(self.start), &who, run, &with);
        self.calls.push((run.to_owned(), with));
    }

    fn scene(&self, id: RunId) -> Scene {
        self.others.get(&id).map(|player| player.scene.clone()).unwrap_or_default()
    }

    fn tell(&mut self, what: String) {
        self.story.tell(self.now.since(self.start), what);
    }
}

fn named(holds: &Holds) -> impl Iterator<Item = &Hold> {
    holds.all.iter().chain(holds.apps.values())
}

fn outcome(mock: Mock) -> Outcome {
    match mock.error {
        None => Outcome::Succeeded { output: mock.output },
        Some(error) => Outcome::Failed { error, output: mock.output },
    }
}
