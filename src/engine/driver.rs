//! Moves one run: reads it, lets the conductor decide, writes, acts. One at a time per run in this process; across processes the version that
//! a write names keeps two from moving one run at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::conductor::{self, Input, World};
use crate::model::step::StepState;
use crate::model::{AttemptKey, Run, RunId, Step, Timestamp};
use crate::store::{AddedEvent, InboxRow, Inserted, NewAudit, NewHistory, NewRun, StoreError, Wait};

use super::effects::Act;
use super::posted::{Opened, Posted};
use super::{Change, Engine, Refused, effects, lock};

/// How often a write is tried over a version that somebody else wrote.
const TRIES: usize = 8;
/// How many inputs are taken out of an inbox at once: an event may be large.
const INBOX_AT_ONCE: usize = 20;

/// The place of one run in this process: holds it while it moves, and its last state while it is busy.
#[derive(Debug, Default)]
pub(super) struct Cell {
    run: Mutex<Held>,
}

/// What is held of a run: nothing, when the store has to be asked.
#[derive(Debug, Default)]
struct Held {
    run: Option<Run>,
    /// What lies in its inbox, while that is known without asking: its first inputs.
    inbox: Option<Vec<InboxRow>>,
}

impl Held {
    fn forget(&mut self) {
        *self = Held::default();
    }
}

/// Says of a run why something can't be done with it.
pub(super) type Judge = Box<dyn Fn(&Run) -> Option<String> + Send + Sync>;

/// What is given to a run.
#[derive(Default)]
pub(super) struct Move {
    pub(super) inputs: Vec<Input>,
    /// Its inbox too, first.
    pub(super) inbox: bool,
    /// Written with the move, also when the inputs change nothing.
    pub(super) audit: Option<NewAudit>,
    /// Why the run, as it stands then, may not be moved so.
    pub(super) refuse: Option<Judge>,
    /// Ends the run in place of all else, and says why.
    pub(super) give_up: Option<String>,
}

impl Move {
    pub(super) fn of(input: Input) -> Move {
        Move { inputs: vec![input], ..Move::default() }
    }
}

/// Where a run came to, and what is left to do about it.
struct Moved {
    run: Run,
    acts: Vec<Act>,
    children: Vec<RunId>,
    events: Vec<AddedEvent>,
    /// The inputs changed nothing, and nothing was written.
    is_nowhere: bool,
}

impl Moved {
    fn nowhere(run: Run) -> Moved {
        Moved { run, acts: Vec::new(), children: Vec::new(), events: Vec::new(), is_nowhere: true }
    }
}

impl Engine {
    fn cell(&self, id: RunId) -> Arc<Cell> {
        Arc::clone(lock(&self.cells).entry(id).or_default())
    }

    /// Has the run read again when it moves next: another server may have moved it. While it is being moved here, the version that the write
    /// names does the same.
    pub(super) fn forget_held(&self, id: RunId) {
        let Some(cell) = lock(&self.cells).get(&id).cloned() else { return };
        if let Ok(mut held) = cell.run.try_lock() {
            held.forget();
        };
    }

    /// A run was stored a moment ago, with these first inputs, which got these ids: whoever moves it first need not read it again.
    pub(super) fn hold_new(&self, new: NewRun, stored: &Inserted) {
        if new.slot.is_some() || stored.inputs.len() != new.inputs.len() {
            return; // It waits for its place, or it had been stored before.
        }
        let at = new.run.created_at;
        let rows = stored.inputs.iter().zip(new.inputs).map(|(id, input)| InboxRow { id: *id, input, at });
        let mut run = new.run;
        (run.id, run.version) = (stored.id, 1);
        run.stored();
        if let Ok(mut held) = self.cell(stored.id).run.try_lock() {
            *held = Held { run: Some(run), inbox: Some(rows.collect()) };
        };
    }

    /// Forgets a run that has ended or only waits, unless somebody is about to move it.
    fn let_go(&self, id: RunId, cell: &Arc<Cell>) {
        let mut cells = lock(&self.cells);
        // The map's and the caller's: nobody else holds it.
        if Arc::strong_count(cell) <= 2 {
            cells.remove(&id);
        }
    }

    /// Gives a run inputs: those of its inbox first, when it is asked to look there. Returns once they are written and their effects under way.
    pub(super) async fn drive(self: &Arc<Self>, id: RunId, wanted: Move) -> Result<Run, Refused> {
        let cell = self.cell(id);
        let mut held = cell.run.lock().await;
        let moved = self.try_drive(id, &mut held, &wanted).await.map(|mut moved| {
            let core = moved.run.core();
            let whole = std::mem::replace(&mut moved.run, core);
            held.run = Some(whole).filter(is_busy);
            moved
        });
        let forget = held.run.is_none();
        drop(held);
        if forget {
            self.let_go(id, &cell);
        }
        // Without the lock: a full queue of orders holds up no claim of this run. Orders that overtake one another do no harm: an attempt is claimed
        // before it begins, and a run that is being ended refuses the claim.
        let Moved { run, acts, children, events, .. } = moved?;
        self.act(run.id, acts, &children, &events).await;
        Ok(run)
    }

    async fn try_drive(
        self: &Arc<Self>,
        id: RunId,
        held: &mut Held,
        wanted: &Move,
    ) -> Result<Moved, Refused> {
        let mut tries = 0;
        loop {
            let (run, is_fresh) = match held.run.take() {
                Some(run) => (run, false),
                None => {
                    held.inbox = None;
                    (self.stored(id).await?, true)
                }
            };
            if let Some(why) = wanted.refuse.as_ref().and_then(|refuse| refuse(&run)) {
                held.run = Some(run);
                return Err(Refused::Conflict(why));
            }
            let inbox = if wanted.inbox { held.inbox.take() } else { None };
            match self.step_forward(run, wanted, inbox).await {
                Err(Refused::Store(StoreError::Conflict(_))) if tries < TRIES => tries += 1,
                // What means nothing to the state that is held may mean something to the one that another server wrote since.
                Ok(moved) if moved.is_nowhere && !is_fresh && self.workforce.is_elsewhere() => (),
                other => return other,
            }
        }
    }

    async fn stored(&self, id: RunId) -> Result<Run, Refused> {
        self.store.run(id).await?.ok_or_else(|| Refused::NotFound(format!("there is no run {id}")))
    }

    /// The run as it stands, without moving it.
    pub(super) async fn peek<T>(
        &self,
        id: RunId,
        look: impl FnOnce(&Run) -> T,
    ) -> Result<Option<T>, StoreError> {
        let cell = self.cell(id);
        let held = cell.run.lock().await;
        let seen = match held.run.as_ref() {
            Some(run) => Some(look(run)),
            None => self.store.run(id).await?.as_ref().map(look),
        };
        let forget = held.run.is_none();
        drop(held);
        if forget {
            self.let_go(id, &cell);
        }
        Ok(seen)
    }

    /// `inbox` is what lies there, where that is known.
    async fn step_forward(
        self: &Arc<Self>,
        mut run: Run,
        wanted: &Move,
        inbox: Option<Vec<InboxRow>>,
    ) -> Result<Moved, Refused> {
        let now = self.clock.now();
        let before = run.core();
        let holds = self.holds();
        let (posted, consumed) =
            if wanted.inbox { self.open_inbox(run.id, inbox).await? } else { Default::default() };
        let ended: Vec<AttemptKey> = wanted.inputs.iter().filter_map(ended_by).collect();
        let found = match self.revision(&run.revision).await {
            Ok(definitions) => definitions
                .workflow_of(&run.workflow)
                .map(|workflow| (Arc::clone(&definitions), workflow))
                .ok_or_else(|| definitions.no_such_callable(&run.workflow)),
            Err(Refused::NotFound(why)) => Err(why),
            Err(error) => return Err(error),
        };
        let (mut listening, mut rollbacks) = (None, Vec::new());
        let caused = match (&wanted.give_up, &found) {
            (Some(why), _) | (None, Err(why)) => conductor::give_up(&mut run, why, now),
            (None, Ok((definitions, workflow))) => {
                let world = World { definitions, workflow, now, holds: &holds, public_url: &self.public_url };
                let inputs = posted.iter().chain(&wanted.inputs);
                let mut caused = match advance_all(world, &mut run, inputs) {
                    Some(caused) => caused,
                    None => {
                        run = self.stored(run.id).await?;
                        conductor::give_up(&mut run, "moving it panicked; this is a mistake in Siskin", now)
                    }
                };
                rollbacks = self.prepare_rollbacks(world, &mut run, &mut caused).await?;
                let now_listening = conductor::listens(workflow, &run);
                listening = (now_listening != conductor::listens(workflow, &before)).then_some(now_listening);
                caused
            }
        };
        let nothing_else = consumed.is_empty() && ended.is_empty() && wanted.audit.is_none();
        if nothing_else && !run.has_changed(&before) {
            return Ok(Moved::nowhere(run)); // Late or doubled: nothing to write.
        }
        // A run that is given up starts nothing, so whose definitions these are does not matter then.
        let definitions = found.map_or_else(|_| self.definitions(), |(definitions, _)| definitions);
        let (mut advance, acts) = effects::sort(self, &definitions, run, caused, rollbacks, now);
        advance.ended_attempts = ended;
        advance.consumed = consumed;
        advance.audit.clone_from(&wanted.audit);
        let new_waits = listening.is_some();
        advance.waits = listening.map(|listening| waits(advance.run.id, listening));
        advance.wake_at = conductor::wakes_at(&advance.run);
        let wake_at = advance.wake_at;
        let saved = self.store.save_run(advance).await?;
        self.after(&saved.run, &before, wake_at, new_waits);
        self.look_at_holds_again(&saved.run, &holds);
        for run in &saved.woken {
            self.nudge(*run);
        }
        Ok(Moved { run: saved.run, acts, children: saved.children, events: saved.events, is_nowhere: false })
    }

    /// What follows from a written state, whatever its effects.
    fn after(self: &Arc<Self>, run: &Run, before: &Run, wake_at: Option<Timestamp>, new_waits: bool) {
        self.changed(Change::Run(run.id));
        if run.status.is_final() && !before.status.is_final() {
            self.changed(Change::RunEnded(run.id));
        }
        if wake_at.is_some() && wake_at != conductor::wakes_at(before) {
            self.wake_earlier();
        }
        if new_waits && !run.status.is_final() {
            // The wait is on disk: now events that came before it count.
            let (engine, id) = (Arc::clone(self), run.id);
            self.moves.spawn(async move { engine.scan_for(id).await });
        }
    }

    async fn open_inbox(
        self: &Arc<Self>,
        id: RunId,
        known: Option<Vec<InboxRow>>,
    ) -> Result<(Vec<Input>, Vec<i64>), StoreError> {
        let mut inputs = Vec::new();
        let mut consumed = Vec::new();
        let rows = match known {
            Some(rows) => rows,
            None => self.store.inbox(id).await?,
        };
        for row in rows.into_iter().take(INBOX_AT_ONCE) {
            consumed.push(row.id);
            match serde_json::from_value::<Posted>(row.input) {
                Ok(posted) => match Opened::from(posted) {
                    Opened::Ready(input) => inputs.push(*input),
                    Opened::Event(event) => {
                        if let Some(event) = self.store.event(event).await? {
                            inputs.push(Input::EventCame { event });
                        }
                    }
                },
                Err(error) => {
                    tracing::error!(run = %id, %error, "an input that this version can't read was dropped")
                }
            }
        }
        if consumed.len() == INBOX_AT_ONCE {
            self.nudge(id); // There may be more.
        }
        Ok((inputs, consumed))
    }
}

/// Attempts are at work for it: it will soon be moved again.
fn is_busy(run: &Run) -> bool {
    let at_work = |step: &Step| match &step.state {
        StepState::Each(each) => each.active > 0,
        state => state.attempt().is_some(),
    };
    !run.status.is_final() && run.steps.values().chain(run.undos.values()).any(at_work)
}

/// Gives the inputs one by one. A panic, which would be a mistake of ours, ends this run and no other: then there is nothing to give.
fn advance_all<'a>(
    world: World<'_>,
    run: &mut Run,
    inputs: impl Iterator<Item = &'a Input>,
) -> Option<Vec<conductor::Effect>> {
    let advanced = catch_unwind(AssertUnwindSafe(|| {
        let mut caused = Vec::new();
        for input in inputs {
            caused.extend(conductor::advance(world, run, input));
        }
        caused
    }));
    if advanced.is_err() {
        tracing::error!(run = %run.id, "moving a run panicked; this is a mistake in Siskin");
    }
    advanced.ok()
}

/// The attempt that an input takes out of flight.
fn ended_by(input: &Input) -> Option<AttemptKey> {
    match input {
        Input::AttemptFinished { key, .. } => Some(key.clone()),
        _ => None,
    }
}

fn waits(run: RunId, listening: Vec<conductor::Listening>) -> Vec<Wait> {
    let mut waits: Vec<Wait> = Vec::new();
    for conductor::Listening { step, trigger, since } in listening {
        if !waits.iter().any(|known| known.step == step && known.trigger == trigger) {
            waits.push(Wait { run, step, trigger, since });
        }
    }
    waits
}

/// A line of history as it is stored.
pub(super) fn history(entry: conductor::Entry) -> NewHistory {
    let details = entry.detail.map_or(crate::model::Value::Null, crate::model::Value::String);
    NewHistory { at: entry.at, step: entry.step, what: entry.what, details }
}
