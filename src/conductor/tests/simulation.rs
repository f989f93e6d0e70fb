//! Random runs: random graphs, outcomes, crashes, doubled and late inputs, cancels and pauses at any moment. What is promised is checked after
//! every input, from outside. A seed that fails prints itself; `SISKIN_SEED=n` runs that one alone, `SISKIN_SEEDS=n` so many.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;

/// A small generator of numbers from a seed (SplitMix64, by Steele, Lea and Flood, 2014): the same on every machine.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let index = self.below(of.len() as u64) as usize;
        &of[index]
    }
}

fn random_step(chance: &mut Chance, id: usize, before: &[usize], graph: bool) -> String {
    let mut text = format!("  - id: s{id}\n");
    match chance.below(11) {
        10 => text += "    run: t.child\n",
        0 => text += "    sleep: 5m\n",
        1 => text += "    approve: {ask: 'ok?', of: [managers], timeout: 1h}\n",
        2 if chance.one_in(2) => {
            text += "    wait_for: {trigger: t.alarm, timeout: 30m, or_poll: {run: t.do, every: 3m, until: output.well}}\n";
        }
        2 => text += "    wait_for: {trigger: t.alarm, timeout: 30m, on_timeout: continue}\n",
        3 => {
            text += "    watch: {for: 10m, check: {run: t.do, every: 2m, healthy: output.well, failures: 2}, abort_on: {trigger: t.alarm}}\n";
        }
        4 => text += "    emit: t.alarm\n",
        kind => {
            text += if kind % 2 == 0 { "    run: t.do\n" } else { "    run: t.once\n" };
            if chance.one_in(2) {
                text += "    undo: {run: t.do}\n";
            }
            if chance.one_in(3) {
                text += "    retry: {attempts: 3, delay: 1m}\n";
            }
            if chance.one_in(4) {
                text += "    until: output.well\n    every: 2m\n    timeout: 4m\n";
            }
        }
    }
    if chance.one_in(3) && !text.contains("emit") {
        text += &format!("    lock: {}\n", chance.pick(&["one", "two"]));
    }
    if chance.one_in(6) {
        text += "    continue_on_failure: true\n";
    }
    if chance.one_in(8) {
        text += "    when: 'false'\n";
    }
    if graph && id > 0 {
        let needs: BTreeSet<usize> =
            (0..chance.below(3)).filter(|_| !before.is_empty()).map(|_| *chance.pick(before)).collect();
        let names: Vec<String> = needs.iter().map(|need| format!("s{need}")).collect();
        text += &format!("    needs: [{}]\n", names.join(", "));
        if !needs.is_empty() && chance.one_in(5) {
            text += &format!("    start_on: {}\n", chance.pick(&["failure", "finished"]));
        }
    }
    text
}

fn random_workflow(chance: &mut Chance) -> String {
    let graph = chance.one_in(2);
    let mut text = "description: random\n".to_owned();
    if chance.one_in(4) {
        text += "timeout: 2h\n";
    }
    text += "steps:\n";
    let steps = 1 + chance.below(7) as usize;
    let mut before = Vec::new();
    for id in 0..steps {
        text += &random_step(chance, id, &before, graph);
        before.push(id);
    }
    if chance.one_in(2) {
        text += "on_failure:\n  - {id: tell, run: t.do}\n";
    }
    if chance.one_in(2) {
        text += "finally:\n  - {id: clean, run: t.once}\n";
    }
    text
}

/// The world outside: what is in flight, asked, and known to have happened.
#[derive(Default)]
struct Outside {
    in_flight: Vec<Attempt>,
    seen: BTreeMap<String, u32>,
    old_inputs: Vec<Input>,
    cancelled: bool,
    paused: bool,
    events: i64,
    /// Child runs that have not ended, by the step that they work for.
    children: Vec<(String, RunId)>,
    runs: i64,
    /// Who has each lock, and then those who wait for it; `None` is another run.
    locks: BTreeMap<String, VecDeque<Option<String>>>,
}

impl Outside {
    /// Carries effects out, and holds each to its promise.
    fn take(&mut self, effects: Vec<Effect>, stage: &mut Stage, seed: u64) {
        let mut nothing = None;
        for effect in effects {
            match effect {
                Effect::Dispatch { attempt, .. } => {
                    let key = attempt.key.to_string();
                    let times = self.seen.entry(key.clone()).or_default();
                    *times += 1;
                    assert_eq!(*times, 1, "seed {seed}: attempt {key} was dispatched twice");
                    let beside = self.in_flight.iter().find(|other| other.key.step == attempt.key.step);
                    assert!(beside.is_none(), "seed {seed}: {key} beside another attempt of its step");
                    assert!(!self.paused, "seed {seed}: {key} was started in a paused run");
                    let main = stage.workflow.steps.iter().any(|step| step.id == attempt.key.step);
                    assert!(!(self.cancelled && main), "seed {seed}: {key} was started after a cancel");
                    check_lock(stage, self, &attempt.key.step, seed);
                    check_successor(stage, self, &attempt.key.step, seed);
                    check_time_left(stage, &attempt, seed);
                    self.in_flight.push(*attempt);
                }
                Effect::CancelAttempt { key } => {
                    let known = self.seen.contains_key(&key.to_string());
                    assert!(known, "seed {seed}: {key} was cancelled but never begun");
                }
                Effect::TakeLock { step, lock } => {
                    let queue = self.locks.entry(lock).or_default();
                    assert!(!queue.contains(&Some(step.clone())), "seed {seed}: {step} asks twice");
                    if queue.is_empty() && step.len() % 2 == 0 {
                        queue.push_back(None);
                    }
                    queue.push_back(Some(step));
                }
                Effect::FreeLock { step } => {
                    let was = self.locks.values().flatten().count();
                    self.locks.values_mut().for_each(|queue| queue.retain(|one| *one != Some(step.clone())));
                    let is = self.locks.values().flatten().count();
                    assert_eq!(was, is + 1, "seed {seed}: {step} gave back what it had not asked for");
                }
                Effect::StartChild { step, .. } => {
                    check_lock(stage, self, &step, seed);
                    check_successor(stage, self, &step, seed);
                    self.child(stage, step);
                }
                Effect::StartRollback { step, of, .. } => {
                    assert_eq!(stage.run.phase, Phase::Undo, "seed {seed}: {of} is rolled back too early");
                    check_lock(stage, self, &step, seed);
                    check_successor(stage, self, &step, seed);
                    match of.0 % 3 {
                        0 => nothing = Some(step),
                        _ => self.child(stage, step),
                    }
                }
                Effect::CancelChild { run } => {
                    let known = run.0 <= 1000 + self.runs;
                    assert!(known, "seed {seed}: child {run} was cancelled but never begun");
                }
                _ => (),
            }
        }
        if let Some(step) = nothing {
            let effects = stage.give(&Input::NothingToUndo { step });
            return self.take(effects, stage, seed);
        }
        check(stage, self, seed);
    }

    /// Somebody has a lock now, or another run gives one back.
    fn move_lock(&mut self, chance: &mut Chance) -> Option<Input> {
        let queues: Vec<String> =
            self.locks.iter().filter(|(_, queue)| !queue.is_empty()).map(|(name, _)| name.clone()).collect();
        let queue = self.locks.get_mut(chance.pick(&queues))?;
        if queue.front() == Some(&None) {
            queue.pop_front();
        }
        let step = queue.front().cloned().flatten()?;
        Some(Input::LockTaken { step })
    }

    fn has_locks(&self) -> bool {
        self.locks.values().any(|queue| !queue.is_empty())
    }

    /// The store gives a child its number in the transaction that asks for it.
    fn child(&mut self, stage: &mut Stage, step: String) {
        self.runs += 1;
        let run = RunId(1000 + self.runs);
        stage.run.step_mut(&step).unwrap().state = StepState::Child { run: Some(run) };
        self.children.push((step, run));
    }
}

/// A step or an undo with a lock is at work only while it has it.
fn check_lock(stage: &Stage, outside: &Outside, key: &str, seed: u64) {
    let id = key.strip_suffix("/undo").unwrap_or(key);
    let definition = stage.workflow.steps.iter().find(|step| step.id == id);
    if definition.is_none_or(|definition| definition.lock.is_none()) {
        return;
    }
    let has = outside.locks.values().any(|queue| queue.front() == Some(&Some(key.to_owned())));
    assert!(has, "seed {seed}: {key} began without its lock: {:?}", outside.locks);
}

/// A rollback does nothing but undos, one at a time, of steps that began and were not undone before; a rerun does nothing that it keeps.
fn check_successor(stage: &Stage, outside: &Outside, key: &str, seed: u64) {
    let Some(old) = &stage.old else { return };
    let id = key.strip_suffix("/undo");
    if stage.run.rollback_of.is_some() {
        let id = id.unwrap_or_else(|| panic!("seed {seed}: a rollback did {key}"));
        let done = old.undos.get(id).is_some_and(|undo| undo.status() == StepStatus::Succeeded);
        assert!(old.steps[id].order > 0 && !done, "seed {seed}: {key} had nothing to take back");
        assert!(
            outside.in_flight.is_empty() && outside.children.is_empty(),
            "seed {seed}: {key} beside another undo"
        );
    } else if id.is_none() {
        assert!(stage.run.steps[key].kept_from.is_none(), "seed {seed}: {key} is kept, and was done again");
    }
}

/// What a rerun keeps is as it was, and nothing of it waits for something that is done again.
fn check_kept(stage: &Stage, seed: u64) {
    let Some(old) = stage.old.as_ref().filter(|_| stage.run.rerun_of.is_some()) else { return };
    for definition in &stage.workflow.steps {
        let step = &stage.run.steps[&definition.id];
        if step.kept_from.is_none() {
            continue;
        }
        assert_eq!(
            step.output, old.steps[&definition.id].output,
            "seed {seed}: {} was kept otherwise",
            definition.id
        );
        let again = definition.needs.iter().find(|need| stage.run.steps[*need].kept_from.is_none());
        assert!(again.is_none(), "seed {seed}: {} is kept, but {again:?} is done again", definition.id);
    }
}

/// No repetition begins when the time for all of them is over, and none is given more than what is left of it.
fn check_time_left(stage: &Stage, attempt: &Attempt, seed: u64) {
    let definition = stage.workflow.steps.iter().find(|step| step.id == attempt.key.step);
    let Some(limit) = definition.filter(|step| step.repeat.is_some()).and_then(|step| step.timeout) else {
        return;
    };
    let began = stage.run.steps[&attempt.key.step].started_at.unwrap();
    let end = stage.now.plus(attempt.timeout);
    assert!(end <= began.plus(limit), "seed {seed}: {} may go on until {end}, after its time", attempt.key);
}

/// A step that is repeated, or polls, succeeds only with what it waited for, and ends when its time is over.
fn check_waited_for(stage: &Stage, seed: u64) {
    for definition in &stage.workflow.steps {
        let step = &stage.run.steps[&definition.id];
        if let (StepState::Repeating { at, .. }, Some(limit)) = (&step.state, definition.timeout) {
            let end = step.started_at.unwrap().plus(limit);
            assert!(
                *at <= end,
                "seed {seed}: {} sleeps until {at}, and its time is over at {end}",
                definition.id
            );
        }
        if step.status() != StepStatus::Succeeded {
            continue;
        }
        let well = |output: &Value| output["well"] == true;
        if definition.repeat.is_some() {
            assert!(well(&step.output), "seed {seed}: {} went on with {}", definition.id, step.output);
        }
        if step.output["by"] == "poll" {
            assert!(
                well(&step.output["output"]),
                "seed {seed}: {} went on with {}",
                definition.id,
                step.output
            );
        }
    }
}

/// What must hold of a run after every input.
fn check(stage: &Stage, outside: &Outside, seed: u64) {
    let run = &stage.run;
    check_waited_for(stage, seed);
    check_kept(stage, seed);
    if run.status.is_final() {
        for (id, step) in run.steps.iter().chain(&run.undos) {
            assert!(
                step.has_ended(),
                "seed {seed}: the run ended {} and {id} is {:?}",
                run.status,
                step.state
            );
        }
        let mine = outside.locks.values().flatten().flatten().next();
        assert!(mine.is_none(), "seed {seed}: the run ended and {mine:?} still has or wants a lock");
        assert!(run.finished_at.is_some() && wakes_at(run).is_none(), "seed {seed}: ended, but not quite");
        return;
    }
    // Never stuck: something is at work, or time will move it, or people or events are waited for with a time limit, or it is paused.
    let at_work = !outside.in_flight.is_empty() || !outside.children.is_empty();
    let moves = at_work || outside.has_locks() || wakes_at(run).is_some() || run.paused;
    assert!(moves, "seed {seed}: stuck at {run:#?}");
    let failed = run.verdict == Some(RunStatus::Failed);
    let began_after_failure = |step: &crate::model::Step| failed && step.state == StepState::Pending;
    if run.phase > Phase::Steps {
        for definition in &stage.workflow.steps {
            assert!(
                !began_after_failure(&run.steps[&definition.id]),
                "seed {seed}: {} is still pending",
                definition.id
            );
        }
    }
}

fn outcome(chance: &mut Chance) -> Outcome {
    match chance.below(8) {
        0 => Outcome::failed(ErrorKind::Failed, "failed"),
        1 => Outcome::failed(ErrorKind::TimedOut, "timed out"),
        2 => Outcome::failed(ErrorKind::Lost, "lost"),
        _ => Outcome::Succeeded { output: json!({"well": !chance.one_in(5)}) },
    }
}

/// One thing happens.
fn random_input(chance: &mut Chance, stage: &mut Stage, outside: &mut Outside) -> Input {
    let by = Actor::user("bob");
    let asked: Vec<String> = stage
        .run
        .steps
        .iter()
        .filter(|(_, step)| matches!(step.state, StepState::Approving { .. }))
        .map(|(id, _)| id.clone())
        .collect();
    match chance.below(14) {
        0..=4 if !outside.in_flight.is_empty() => {
            let index = chance.below(outside.in_flight.len() as u64) as usize;
            let attempt = outside.in_flight.remove(index);
            Input::AttemptFinished { key: attempt.key, outcome: outcome(chance) }
        }
        5 if !asked.is_empty() => {
            let step = chance.pick(&asked).clone();
            if chance.one_in(4) {
                Input::Rejected { step, by: "bob".to_owned(), comment: None }
            } else {
                Input::Approved { step, by: vec!["bob".to_owned()], comment: None, answers: Value::Null }
            }
        }
        6 if chance.one_in(3) => {
            outside.events += 1;
            event(outside.events, "t.alarm", stage.now, json!({}))
        }
        7 if chance.one_in(12) => {
            outside.cancelled = true;
            outside.paused = false;
            Input::CancelAsked { by }
        }
        8 if chance.one_in(8) && !outside.paused => {
            outside.paused = true;
            Input::PauseAsked { by }
        }
        9 if outside.paused => {
            outside.paused = false;
            Input::ResumeAsked { by }
        }
        11 if !outside.children.is_empty() => {
            let index = chance.below(outside.children.len() as u64) as usize;
            let (step, run) = outside.children.remove(index);
            let status = *chance.pick(&[
                RunStatus::Succeeded,
                RunStatus::Succeeded,
                RunStatus::Failed,
                RunStatus::Rejected,
                RunStatus::Cancelled,
            ]);
            Input::ChildEnded { step, run, status, output: json!({"well": true}), error: None }
        }
        10 if !outside.old_inputs.is_empty() => chance.pick(&outside.old_inputs).clone(),
        12 | 13 if outside.has_locks() => outside.move_lock(chance).unwrap_or(Input::TimePassed),
        _ => {
            stage.now = match wakes_at(&stage.run) {
                Some(at) if at > stage.now && chance.one_in(2) => at,
                _ => stage.now.plus(Span::seconds(chance.below(200))),
            };
            Input::TimePassed
        }
    }
}

/// The process dies: what was not stored is gone, and attempts whose worker died are lost.
fn crash(chance: &mut Chance, stage: &mut Stage, outside: &mut Outside, seed: u64) {
    let text = serde_json::to_string(&stage.run).unwrap();
    stage.run = serde_json::from_str(&text).unwrap();
    if chance.one_in(2) {
        let mut effects = Vec::new();
        for attempt in std::mem::take(&mut outside.in_flight) {
            let input = Input::AttemptFinished {
                key: attempt.key,
                outcome: Outcome::failed(ErrorKind::Lost, "lost"),
            };
            effects.extend(stage.give(&input));
        }
        outside.take(effects, stage, seed);
    }
}

fn play(seed: u64) {
    let mut chance = Chance(seed);
    let mut stage = Stage::of(&random_workflow(&mut chance));
    for _ in 0..3 {
        play_run(&mut chance, &mut stage, seed);
        // Somebody rolls it back, or runs it again from somewhere.
        stage.old = Some(stage.run.clone());
        match chance.below(3) {
            0 => return,
            1 => roll_back(&mut stage),
            _ if stage.run.rollback_of.is_some() => roll_back(&mut stage),
            _ => {
                let ids: Vec<&str> = stage.workflow.steps.iter().map(|step| step.id.as_str()).collect();
                let from = (*chance.pick(&ids)).to_owned();
                rerun(&mut stage, Some(&from));
            }
        }
    }
}

fn play_run(chance: &mut Chance, stage: &mut Stage, seed: u64) {
    let mut outside = Outside::default();
    let begun = std::mem::take(&mut stage.effects);
    outside.take(begun, stage, seed);
    for _ in 0..600 {
        if stage.run.status.is_final() {
            return;
        }
        if chance.one_in(15) {
            crash(chance, stage, &mut outside, seed);
            continue;
        }
        let before = stage.run.clone();
        let input = random_input(chance, stage, &mut outside);
        let resumed = matches!(input, Input::ResumeAsked { .. } | Input::CancelAsked { .. });
        if chance.one_in(10) {
            // The write failed: nothing of it happened, and the input comes again.
            let mut lost = Vec::new();
            std::mem::swap(&mut lost, &mut stage.effects);
            stage.give(&input);
            stage.effects = lost;
            stage.run = before;
        }
        let effects = stage.give(&input);
        outside.take(effects, stage, seed);
        if !resumed && !matches!(input, Input::PauseAsked { .. }) {
            outside.old_inputs.push(input);
        }
    }
    // Whatever has not ended by then ends when everything works and time passes.
    let by = Actor::user("bob");
    outside.paused = false;
    let effects = stage.give(&Input::ResumeAsked { by });
    outside.take(effects, stage, seed);
    for _ in 0..2000 {
        if stage.run.status.is_final() {
            return;
        }
        let input = match outside.in_flight.pop() {
            Some(attempt) => Input::AttemptFinished {
                key: attempt.key,
                outcome: Outcome::Succeeded { output: json!({"well": true}) },
            },
            None if !outside.children.is_empty() => {
                let (step, run) = outside.children.remove(0);
                let (status, output) = (RunStatus::Succeeded, json!({}));
                Input::ChildEnded { step, run, status, output, error: None }
            }
            None if outside.has_locks() => outside.move_lock(chance).unwrap_or(Input::TimePassed),
            None => {
                stage.now = wakes_at(&stage.run).unwrap_or(stage.now).max(stage.now);
                Input::TimePassed
            }
        };
        let effects = stage.give(&input);
        outside.take(effects, stage, seed);
    }
    panic!("seed {seed}: the run never ended: {:#?}", stage.run);
}

#[test]
fn random_runs_keep_their_promises() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("SISKIN_SEED") {
        return play(seed);
    }
    for seed in 0..number("SISKIN_SEEDS").unwrap_or(2000) {
        let played = std::panic::catch_unwind(|| play(seed));
        assert!(played.is_ok(), "run it again with: SISKIN_SEED={seed} cargo nextest run random_runs");
    }
}
