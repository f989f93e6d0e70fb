//! Random runs in a random world: graphs, outcomes, crashes between any two writes and between a write and what follows from it, inputs that come
//! late, twice and in any order, cancels and pauses at any moment. Checkers that know nothing of the conductor hold each run to what is promised, and
//! for each checker there is a planted bug that it catches.
//!
//! `SISKIN_SEEDS=n` plays more seeds, `SISKIN_SEED=n` that one. A seed that fails prints its workflow and all that the run was given.

mod bugs;
mod chance;
mod checkers;
mod random;
mod store;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;

use self::chance::Chance;
use self::checkers::{Again, Seen};
use self::store::Store;
use self::world::Outside;
use super::definitions;
use crate::conductor::{
    Effect, Input, Start, World, advance, listens, new_rerun, new_rollback, new_run, wakes_at,
};
use crate::definitions::{Definitions, Workflow};
use crate::model::hold::{Hold, Holds};
use crate::model::run::Parent;
use crate::model::{Actor, Event, EventId, Outcome, Run, RunId, RunStatus, Span, Timestamp, Value};

/// The function under test: the conductor's, or one that goes wrong in one way.
type Advance<'a> = dyn Fn(World<'_>, &mut Run, &Input) -> Vec<Effect> + Sync + 'a;

/// How much happens at random to one run before all goes well.
const INPUTS: u32 = 400;
/// By then a run has ended that nothing keeps from it.
const INPUTS_TO_END: u32 = 1500;
const SEEDS: u64 = 2000;
/// How many seeds that failed are shown.
const SHOWN: usize = 6;

/// A promise that was not kept.
struct Complaint {
    /// The checkers that complain, each with what it saw.
    of: Vec<(&'static str, String)>,
    workflow: String,
    trace: Vec<String>,
}

impl Complaint {
    fn show(&self, seed: u64) -> String {
        let mut text = format!(
            "seed {seed}: its workflow\n{}\nits inputs, the last of which went wrong\n",
            self.workflow
        );
        for line in &self.trace {
            text += &format!("  {line}\n");
        }
        for (name, what) in &self.of {
            text += &format!("{name}: {what}\n");
        }
        text += &format!("run it again with: SISKIN_SEED={seed} cargo nextest run --lib random_runs");
        text
    }
}

/// One run at a time, under random events.
struct Game<'a> {
    advance: &'a Advance<'a>,
    chance: Chance,
    definitions: Definitions,
    workflow: Arc<Workflow>,
    text: String,
    run: Run,
    now: Timestamp,
    outside: Outside,
    store: Store,
    holds: Holds,
    /// The holds changed, and the run has not been looked at since.
    holds_moved: bool,
    /// The run that this one follows from.
    old: Option<Run>,
    events: i64,
    /// Every input, when it is wanted for people.
    trace: Option<Vec<String>>,
}

impl<'a> Game<'a> {
    fn new(seed: u64, advance: &'a Advance<'a>, traced: bool) -> Game<'a> {
        let mut chance = Chance::new(seed);
        let text = random::workflow(&mut chance);
        let with_edges = chance.one_in(4);
        Game::of(chance, text, with_edges, advance, traced)
    }

    /// A game with this workflow, maybe joined by edges.
    fn of(
        mut chance: Chance,
        mut text: String,
        with_edges: bool,
        advance: &'a Advance<'a>,
        traced: bool,
    ) -> Game<'a> {
        let definitions = definitions(&[("workflows/w.yaml", &text), ("siskin.yaml", random::SITE)]);
        let mut workflow = definitions.workflow_of("site.w").unwrap();
        if with_edges {
            let (joined, edges) = random::with_edges(&mut chance, &definitions, &workflow);
            (workflow, text) = (Arc::new(joined), text + edges.as_str());
        }
        let parent = chance.one_in(3).then(|| Parent { run: RunId(7), step: "s".to_owned(), visit: 1 });
        let now = Timestamp(1_000_000);
        let mut run = new_run(&workflow, start(&definitions, parent), now);
        run.id = RunId(1);
        let mut game = Game {
            advance,
            chance,
            definitions,
            workflow,
            text,
            run,
            now,
            outside: Outside::default(),
            store: Store::default(),
            holds: Holds::default(),
            holds_moved: false,
            old: None,
            events: 0,
            trace: traced.then(Vec::new),
        };
        game.store.write(&mut game.run);
        game
    }

    fn world(&self) -> World<'_> {
        World {
            definitions: &self.definitions,
            workflow: &self.workflow,
            now: self.now,
            holds: &self.holds,
            public_url: "http://siskin.example",
        }
    }

    fn decide(&self, run: &mut Run, input: &Input) -> Vec<Effect> {
        (self.advance)(self.world(), run, input)
    }

    /// The run as a new process reads it.
    fn stored(&self) -> Run {
        self.store.read(&self.run)
    }

    fn remember(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// The run takes an input: it is decided, written, and done. Then everybody looks.
    fn give(&mut self, input: &Input) -> Result<(), Complaint> {
        let now = self.now;
        self.remember(|| format!("{now} {input:?}"));
        let before = self.run.clone();
        let second = self.chance.one_in(12).then(|| {
            let mut run = self.stored();
            let effects = self.decide(&mut run, input);
            (run, effects)
        });
        let mut run = before.clone();
        let effects = self.decide(&mut run, input);
        let again = second.map(|second| Again { first: (run.clone(), effects.clone()), second });
        self.outside.took(input, &before, now);
        if run.verdict == Some(RunStatus::Superseded) && before.verdict.is_none() {
            self.outside.paused = false; // It gives way, paused or not.
        }
        self.outside.take(&effects, &mut run, now);
        self.outside.listens(listens(&self.workflow, &run));
        self.store.write(&mut run);
        self.run = run;
        self.look(&before, input, &effects, again.as_ref())?;
        self.holds_moved = false;
        if let Some(input) = self.outside.at_once.pop_front() {
            self.give(&input)?;
        }
        Ok(())
    }

    fn look(
        &mut self,
        before: &Run,
        input: &Input,
        effects: &[Effect],
        again: Option<&Again>,
    ) -> Result<(), Complaint> {
        let seen = Seen {
            workflow: &self.workflow,
            now: self.now,
            before,
            input,
            after: &self.run,
            effects,
            outside: &self.outside,
            holds: &self.holds,
            holds_moved: self.holds_moved,
            old: self.old.as_ref(),
            again,
        };
        let nothing = effects.is_empty() && *before == self.run;
        let mut of = Vec::new();
        for checker in checkers::ALL.iter().filter(|checker| checker.always || !nothing) {
            if let Err(what) = (checker.look)(&seen) {
                of.push((checker.name, what));
            }
        }
        if of.is_empty() { Ok(()) } else { Err(self.complaint(of)) }
    }

    fn complaint(&mut self, of: Vec<(&'static str, String)>) -> Complaint {
        let trace = self.trace.take().unwrap_or_default();
        Complaint { of, workflow: std::mem::take(&mut self.text), trace }
    }

    /// The run, what follows from it, and what follows from that.
    fn play(&mut self) -> Result<(), Complaint> {
        for round in 1..=3 {
            self.play_run()?;
            let old = self.run.clone();
            let start = start(&self.definitions, None);
            let mut run = match self.chance.below(3) {
                0 => return Ok(()),
                1 => new_rollback(&self.workflow, &old, start, self.now),
                // No file has edges yet, and from where a circle would be done again nobody has said.
                _ if self.workflow.steps.iter().any(|step| step.entry.is_some()) => {
                    new_rerun(&self.workflow, &old, None, start, self.now)
                }
                _ if old.rollback_of.is_some() => new_rollback(&self.workflow, &old, start, self.now),
                _ => {
                    let steps = &self.workflow.steps;
                    let from = self.chance.pick(steps).id.clone();
                    new_rerun(&self.workflow, &old, Some(&from), start, self.now)
                }
            };
            run.id = RunId(1 + 100 * round);
            self.remember(|| {
                format!(
                    "-- run {} follows, rollback of {:?}, rerun of {:?}",
                    run.id, run.rollback_of, run.rerun_of
                )
            });
            let reported = std::mem::take(&mut self.outside.reported);
            self.outside = Outside::default();
            self.outside.reported = reported;
            self.old = Some(old);
            self.store = Store::default();
            self.store.write(&mut run);
            self.run = run;
        }
        Ok(())
    }

    fn play_run(&mut self) -> Result<(), Complaint> {
        let first = match self.chance.below(40) {
            0 if self.run.rollback_of.is_none() => Input::Refused { why: "there are too many".to_owned() },
            1 => Input::CancelAsked { by: Actor::user("bob") },
            2 if self.run.rollback_of.is_none() => Input::Superseded { by: RunId(900) },
            3 => Input::PauseAsked { by: Actor::user("bob") },
            _ => Input::Started,
        };
        if !matches!(first, Input::Started) {
            self.outside.inbox.push_back(Input::Started);
        }
        self.give(&first)?;
        for _ in 0..INPUTS {
            if self.run.status.is_final() {
                return self.after_the_end();
            }
            if self.chance.one_in(15) {
                self.crash();
                continue;
            }
            let input = self.something();
            if self.chance.one_in(10) {
                self.die_before_the_write(&input);
                continue;
            }
            self.give(&input)?;
            self.keep(input);
        }
        self.all_goes_well()
    }

    /// Inputs may come again. What people ask for is a new wish each time.
    fn keep(&mut self, input: Input) {
        if !is_wish(&input) && !matches!(input, Input::NothingToUndo { .. }) {
            self.outside.old_inputs.push(input);
        }
    }

    /// The process dies after it decided and before it wrote: nothing of that happened, and the input may come again.
    fn die_before_the_write(&mut self, input: &Input) {
        self.remember(|| format!("-- died before this was written: {input:?}"));
        let mut run = self.run.clone();
        self.decide(&mut run, input);
        self.run = self.stored();
        if !is_wish(input) && !matches!(input, Input::TimePassed) {
            self.outside.inbox.push_front(input.clone());
        }
    }

    /// The process dies after a write and before it did what follows: that is found again in what is stored.
    fn crash(&mut self) {
        let workers_too = self.chance.one_in(2);
        self.remember(|| format!("-- died, its workers too: {workers_too}"));
        self.run = self.stored();
        self.outside.crash(&self.run, workers_too);
    }

    /// One thing happens.
    fn something(&mut self) -> Input {
        let by = Actor::user("bob");
        let found = match self.chance.below(20) {
            0..=4 => self.outside.work_on(&mut self.chance),
            5 => self.answer(),
            6 if self.chance.one_in(3) => Some(self.event()),
            7 if self.chance.one_in(15) => Some(Input::CancelAsked { by }),
            8 if self.chance.one_in(8) => Some(Input::PauseAsked { by }),
            9 if self.outside.paused || self.chance.one_in(20) => Some(Input::ResumeAsked { by }),
            10 if !self.outside.old_inputs.is_empty() => {
                Some(self.chance.pick(&self.outside.old_inputs).clone())
            }
            11 => self.outside.end_child(&mut self.chance),
            12 | 13 => self.outside.move_lock(&mut self.chance),
            14 => self.outside.inbox.pop_front(),
            15 => self.outside.read(&mut self.chance),
            16 if self.chance.one_in(6) => self.hold(),
            17 if self.chance.one_in(30) => Some(Input::ForceAsked { by, why: "now".to_owned() }),
            18 if self.run.rollback_of.is_none() && self.chance.one_in(12) => {
                Some(Input::Superseded { by: RunId(900) })
            }
            _ => None,
        };
        found.unwrap_or_else(|| self.time())
    }

    fn answer(&mut self) -> Option<Input> {
        let open: Vec<String> = self.outside.open_questions().map(|asked| asked.step.clone()).collect();
        if open.is_empty() {
            return None;
        }
        let step = self.chance.pick(&open).clone();
        if self.chance.one_in(4) {
            return Some(Input::Rejected { step, by: "bob".to_owned(), comment: None });
        }
        Some(Input::Approved { step, by: vec!["bob".to_owned()], comment: None, answers: Value::Null })
    }

    fn event(&mut self) -> Input {
        self.events += 1;
        let event = Event {
            id: EventId(self.events),
            trigger: "t.alarm".to_owned(),
            source: "test".to_owned(),
            payload: Arc::new(json!({})),
            received_at: self.now,
            routed_at: None,
            replay_of: None,
        };
        self.outside.events.push(event.clone());
        Input::EventCame { event }
    }

    /// Somebody holds the run's app, or everything, or releases what is held; the run hears of it later.
    fn hold(&mut self) -> Option<Input> {
        let hold = |what: &str| Hold {
            what: what.to_owned(),
            by: Actor::user("eve"),
            why: "a fire".to_owned(),
            since: self.now,
        };
        if self.holds != Holds::default() {
            self.holds = Holds::default();
        } else if self.chance.one_in(3) {
            self.holds.all = Some(hold("all"));
        } else {
            self.holds.apps.insert("shop".to_owned(), hold("shop"));
        }
        let holds = format!("{:?}", self.holds);
        self.remember(|| format!("-- {holds}"));
        self.holds_moved = true;
        self.outside.inbox.push_back(Input::HoldsChanged);
        None
    }

    /// Time passes: a little, until something is due, or an hour at once.
    fn time(&mut self) -> Input {
        self.now = match wakes_at(&self.run) {
            Some(at) if at > self.now && self.chance.one_in(2) => at,
            _ if self.chance.one_in(40) => self.now.plus(Span::hours(1)),
            _ => self.now.plus(Span::seconds(self.chance.below(200))),
        };
        Input::TimePassed
    }

    /// What comes after the end of a run finds nothing.
    fn after_the_end(&mut self) -> Result<(), Complaint> {
        for _ in 0..3 {
            let input = self.something();
            self.give(&input)?;
        }
        Ok(())
    }

    /// Whatever has not ended by then ends when everything works and time passes.
    fn all_goes_well(&mut self) -> Result<(), Complaint> {
        self.holds = Holds::default();
        self.holds_moved = true;
        self.give(&Input::HoldsChanged)?;
        self.give(&Input::ResumeAsked { by: Actor::user("bob") })?;
        for _ in 0..INPUTS_TO_END {
            if self.run.status.is_final() {
                return self.after_the_end();
            }
            let input = self.something_good();
            self.give(&input)?;
        }
        let states = format!("it never ended: {:?}", self.run.steps);
        Err(self.complaint(vec![("never_stuck", states)]))
    }

    fn something_good(&mut self) -> Input {
        if let Some(input) = self.outside.inbox.pop_front() {
            return input;
        }
        if let Some(work) = self.outside.open_works().next() {
            let output = json!({"well": true, "x": 1});
            let key = work.attempt.key.clone();
            return Input::AttemptFinished { key, outcome: Outcome::Succeeded { output }, worker: None };
        }
        if let Some(child) = self.outside.open_children().next().filter(|child| child.told || !child.paused) {
            let status = if child.told { RunStatus::Cancelled } else { RunStatus::Succeeded };
            let (step, run) = (child.step.clone(), child.run);
            return Input::ChildEnded { step, run, status, output: Arc::new(json!({})), error: None };
        }
        if let Some(input) = self.outside.move_lock(&mut self.chance) {
            return input;
        }
        if let Some(input) = self.outside.read(&mut self.chance) {
            return input;
        }
        self.now = wakes_at(&self.run).unwrap_or(self.now).max(self.now);
        Input::TimePassed
    }
}

/// What people ask for: a new wish each time it is said.
fn is_wish(input: &Input) -> bool {
    matches!(
        input,
        Input::CancelAsked { .. }
            | Input::PauseAsked { .. }
            | Input::ResumeAsked { .. }
            | Input::ForceAsked { .. }
    )
}

fn start(definitions: &Definitions, parent: Option<Parent>) -> Start {
    Start {
        revision: definitions.revision.clone(),
        input: json!({"app": "shop"}).into(),
        started_by: Actor::user("ada"),
        event: None,
        rule: None,
        parent,
        depth: 0,
        outer: None,
    }
}

/// Plays one seed. What panics is a complaint too.
fn play(seed: u64, advance: &Advance<'_>, traced: bool) -> Result<(), Complaint> {
    play_out(Game::new(seed, advance, traced))
}

/// Plays one seed of this workflow.
fn play_this(seed: u64, workflow: &str, advance: &Advance<'_>) -> Result<(), Complaint> {
    play_out(Game::of(Chance::new(seed), workflow.to_owned(), false, advance, false))
}

fn play_out(mut game: Game<'_>) -> Result<(), Complaint> {
    let played = catch_unwind(AssertUnwindSafe(|| game.play()));
    played.unwrap_or_else(|_| Err(game.complaint(vec![("no_panic", "it panicked".to_owned())])))
}

/// What checkers complained of, over many seeds: how often, and the first seed.
type Complaints = BTreeMap<&'static str, (u64, u64)>;

/// Plays seeds on all cores.
fn play_all(seeds: u64, advance: &Advance<'_>) -> Complaints {
    let (next, complaints) = (AtomicU64::new(0), Mutex::new(Complaints::new()));
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds {
            return;
        }
        let Err(complaint) = play(seed, advance, false) else { continue };
        let mut complaints = complaints.lock().unwrap();
        for (name, _) in complaint.of {
            let (count, first) = complaints.entry(name).or_insert((0, seed));
            (*count, *first) = (*count + 1, seed.min(*first));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });
    complaints.into_inner().unwrap()
}

#[test]
fn random_runs_keep_their_promises() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let complaints = match number("SISKIN_SEED") {
        Some(seed) => Complaints::from([("this seed", (1, seed))]),
        None => play_all(number("SISKIN_SEEDS").unwrap_or(SEEDS), &advance),
    };
    // Whatever is complained of is shown once, by the first seed.
    let first: BTreeSet<u64> = complaints.values().map(|(_, seed)| *seed).collect();
    let shown = first.iter().filter_map(|seed| Some(play(*seed, &advance, true).err()?.show(*seed)));
    let shown: Vec<String> = shown.take(SHOWN).collect();
    assert!(shown.is_empty(), "{}\n\nhow many, the first: {complaints:?}", shown.join("\n\n"));
}
