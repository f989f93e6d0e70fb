//! One execution of a workflow or of a single action: the record that the conductor advances and the store keeps.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use std::collections::BTreeMap;

use super::hold::Hold;

use super::kept::Row;
use super::{Actor, EventId, Items, Kept, Object, RunError, RunId, Step, StepKey, Timestamp, Value};

pub use super::key::UNDO_SUFFIX;

/// Where a run stands, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    Queued,
    Running,
    Waiting,
    Paused,
    Undoing,
    Succeeded,
    Failed,
    Rejected,
    Superseded,
    Cancelled,
}

impl RunStatus {
    pub const ALL: [RunStatus; 10] = [
        RunStatus::Queued,
        RunStatus::Running,
        RunStatus::Waiting,
        RunStatus::Paused,
        RunStatus::Undoing,
        RunStatus::Succeeded,
        RunStatus::Failed,
        RunStatus::Rejected,
        RunStatus::Superseded,
        RunStatus::Cancelled,
    ];

    /// Nothing will happen in the run any more.
    pub fn is_final(self) -> bool {
        use RunStatus::{Cancelled, Failed, Rejected, Succeeded, Superseded};
        matches!(self, Succeeded | Failed | Rejected | Superseded | Cancelled)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            RunStatus::Queued => "queued",
            RunStatus::Running => "running",
            RunStatus::Waiting => "waiting",
            RunStatus::Paused => "paused",
            RunStatus::Undoing => "undoing",
            RunStatus::Succeeded => "succeeded",
            RunStatus::Failed => "failed",
            RunStatus::Rejected => "rejected",
            RunStatus::Superseded => "superseded",
            RunStatus::Cancelled => "cancelled",
        }
    }

    pub fn parse(text: &str) -> Option<RunStatus> {
        RunStatus::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

impl std::fmt::Display for RunStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The part of the workflow that a run is in. They follow one another in this order; each may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Steps,
    Undo,
    OnFailure,
    Finally,
    Ended,
}

/// What of a failed run's work was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undone {
    All,
    Part,
    None,
}

/// The step of another run that waits for this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    pub run: RunId,
    pub step: String,
    pub visit: u32,
}

/// A run. Only `conductor::advance` changes one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub id: RunId,
    /// The version that is stored; a write names the version that it read. 0: not stored yet.
    #[serde(skip)]
    pub version: i64,
    /// The workflow or action, `pack.name`.
    pub workflow: String,
    /// The revision of the definitions that it keeps until its end.
    pub revision: String,
    pub status: RunStatus,
    pub phase: Phase,
    pub started_by: Actor,
    pub event: Option<EventId>,
    pub rule: Option<String>,
    pub parent: Option<Parent>,
    /// How many parents stand above it.
    #[serde(default)]
    pub depth: u32,
    #[serde(default)]
    pub rerun_of: Option<RunId>,
    #[serde(default)]
    pub rollback_of: Option<RunId>,
    pub input: Kept,
    pub output: Kept,
    pub error: Option<RunError>,
    /// How it will end once its later phases are done; set when the first phase ends.
    pub verdict: Option<RunStatus>,
    /// Who asked to cancel it; a second one ends `finally` too.
    #[serde(default)]
    pub cancelled_by: Option<Actor>,
    #[serde(default)]
    pub cancels: u32,
    #[serde(default)]
    pub paused: bool,
    pub undone: Option<Undone>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// When the workflow's own `timeout` ends its steps.
    pub deadline: Option<Timestamp>,
    /// Every step of all phases, in the order of writing.
    pub steps: IndexMap<String, Step>,
    /// The undo of a step, by the step's id, in the order in which they are done.
    #[serde(default)]
    pub undos: IndexMap<String, Step>,
    /// Events that a `wait_for` of this run took: one event satisfies at most one wait.
    #[serde(default)]
    pub taken: Vec<EventId>,
    /// How many steps have begun: gives each its place in the order of starts.
    #[serde(default)]
    pub begun: u32,
    /// The hold that keeps it from starting attempts, while it does.
    #[serde(default)]
    pub held: Option<Hold>,
    #[serde(default)]
    pub forced: Option<Force>,
    /// A younger run of the same key wants its place: it has it as soon as this one only waits.
    #[serde(default)]
    pub wanted_by: Option<RunId>,
    /// What it sees of the run around it, when it is a group of that.
    #[serde(default)]
    pub outer: Option<Outer>,
    /// The items of its steps with `for_each`, by the step's id. Stored for themselves.
    #[serde(skip)]
    pub items: BTreeMap<String, Items>,
    /// The same of undos.
    #[serde(skip)]
    pub undo_items: BTreeMap<String, Items>,
    /// Tokens that edges delivered and that have started nothing yet, by the step that they went to.
    #[serde(default)]
    pub tokens: BTreeMap<String, u32>,
    /// What edges published: `vars` in expressions.
    #[serde(default)]
    pub published: Object,
}

/// What a group that is done as a run of its own sees of the run around it, as it was when the group began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outer {
    /// `run` as expressions see it.
    pub run: Kept,
    /// The steps that it reads, as expressions see them.
    pub steps: BTreeMap<String, Kept>,
    /// Names of loops around it: `item`, `index`, or as they are called.
    pub names: BTreeMap<String, Kept>,
}

/// Somebody let a run pass windows and holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Force {
    pub by: Actor,
    pub why: String,
}

impl Run {
    /// The step, undo or item that a key in an attempt, approval or wait names.
    pub fn step(&self, key: &str) -> Option<&Step> {
        let key = StepKey::parse(key);
        match key.item {
            Some(item) => self.items_of(key)?.get(item),
            None if key.undo => self.undos.get(key.id),
            None => self.steps.get(key.id),
        }
    }

    /// As `step`, to change it.
    pub fn step_mut(&mut self, key: &str) -> Option<&mut Step> {
        let key = StepKey::parse(key);
        match key.item {
            Some(item) => self.items_of_mut(key)?.get_mut(item),
            None if key.undo => self.undos.get_mut(key.id),
            None => self.steps.get_mut(key.id),
        }
    }

    /// The items of a step or undo, however it is named.
    pub fn items_of(&self, key: StepKey<'_>) -> Option<&Items> {
        let items = if key.undo { &self.undo_items } else { &self.items };
        items.get(key.id)
    }

    /// As `items_of`, to change them.
    pub fn items_of_mut(&mut self, key: StepKey<'_>) -> Option<&mut Items> {
        let items = if key.undo { &mut self.undo_items } else { &mut self.items };
        items.get_mut(key.id)
    }

    /// Every list of items, with the key of its step.
    pub fn all_items(&self) -> impl Iterator<Item = (StepKey<'_>, &Items)> {
        let key = |id, undo| StepKey { id, item: None, undo };
        let items = self.items.iter().map(move |(id, items)| (key(id.as_str(), false), items));
        items.chain(self.undo_items.iter().map(move |(id, items)| (key(id.as_str(), true), items)))
    }

    /// As `all_items`, to change them.
    pub fn all_items_mut(&mut self) -> impl Iterator<Item = &mut Items> {
        self.items.values_mut().chain(self.undo_items.values_mut())
    }

    /// A copy without the items, which are stored for themselves: cheap, whatever the run does.
    pub fn core(&mut self) -> Run {
        let items = std::mem::take(&mut self.items);
        let undo_items = std::mem::take(&mut self.undo_items);
        let core = self.clone();
        self.items = items;
        self.undo_items = undo_items;
        core
    }

    /// Whether it differs from `core`, a copy of what it was, or some of its items have changed.
    pub fn has_changed(&mut self, core: &Run) -> bool {
        let changed = self.all_items().any(|(_, items)| items.has_changed() || items.list.row().is_some());
        changed || self.core() != *core
    }

    /// What the store has to do about values that have rows of their own, by the rows' names.
    pub fn rows(&self) -> Vec<(String, Row<'_>)> {
        let mut rows = Vec::new();
        for (name, kept) in [("input", &self.input), ("output", &self.output)] {
            rows.extend(kept.row().map(|row| (name.to_owned(), row)));
        }
        if let Some(outer) = &self.outer {
            rows.extend(outer.run.row().map(|row| ("outer".to_owned(), row)));
            for (name, kept) in &outer.steps {
                rows.extend(kept.row().map(|row| (format!("outer/steps/{name}"), row)));
            }
            for (name, kept) in &outer.names {
                rows.extend(kept.row().map(|row| (format!("outer/names/{name}"), row)));
            }
        }
        for (id, step) in &self.steps {
            step.add_rows(StepKey { id, item: None, undo: false }, &mut rows);
        }
        for (id, step) in &self.undos {
            step.add_rows(StepKey { id, item: None, undo: true }, &mut rows);
        }
        for (key, items) in self.all_items() {
            rows.extend(items.list.row().map(|row| (format!("{key}:list"), row)));
            for (item, step) in items.changed() {
                step.add_rows(StepKey { item: Some(item), ..key }, &mut rows);
            }
        }
        rows
    }

    /// Whether a step or undo of it has, or had, items.
    pub fn has_items(&self) -> bool {
        self.steps.values().chain(self.undos.values()).any(|step| step.has_items)
    }

    /// A value as its row has it. Values of items come after their items.
    pub fn fill_value(&mut self, name: &str, value: Value) {
        let Some((key, part)) = name.rsplit_once(':') else {
            if let Some(kept) = self.own_value_mut(name) {
                kept.fill(value);
            }
            return;
        };
        let parsed = StepKey::parse(key);
        match (part, parsed.item) {
            ("list", _) => {
                let steps = if parsed.undo { &self.undos } else { &self.steps };
                let visit = steps.get(parsed.id).map_or(1, |step| step.visit);
                let items = if parsed.undo { &mut self.undo_items } else { &mut self.items };
                let items = items.entry(parsed.id.to_owned()).or_default();
                items.visit = visit;
                items.list.fill(value);
            }
            (_, Some(item)) => {
                if let Some(items) = self.items_of_mut(parsed) {
                    items.fill_value(item, part, value);
                }
            }
            (_, None) => {
                if let Some(kept) = self.step_mut(key).and_then(|step| step.value_mut(part)) {
                    kept.fill(value);
                }
            }
        }
    }

    /// An item as its row has it; one of an earlier visit is passed over.
    pub fn fill_item(&mut self, key: StepKey<'_>, visit: u32, item: u32, step: Step) {
        let now = if key.undo { self.undos.get(key.id) } else { self.steps.get(key.id) };
        if now.is_none_or(|now| now.visit != visit) {
            return;
        }
        let items = if key.undo { &mut self.undo_items } else { &mut self.items };
        let items = items.entry(key.id.to_owned()).or_default();
        items.visit = visit;
        items.fill(item, step);
    }

    /// An undo of items of which none has begun has none stored.
    pub fn fill_empty(&mut self) {
        for (id, undo) in self.undos.iter().filter(|(_, undo)| undo.has_items) {
            self.undo_items.entry(id.clone()).or_default().visit = undo.visit;
        }
    }

    fn own_value_mut(&mut self, name: &str) -> Option<&mut Kept> {
        match name {
            "input" => return Some(&mut self.input),
            "output" => return Some(&mut self.output),
            _ => (),
        }
        let outer = self.outer.as_mut()?;
        match name.split('/').collect::<Vec<_>>().as_slice() {
            ["outer"] => Some(&mut outer.run),
            ["outer", "steps", name] => outer.steps.get_mut(*name),
            ["outer", "names", name] => outer.names.get_mut(*name),
            _ => None,
        }
    }

    /// None of its values is stored yet: a copy that becomes a run of its own.
    pub fn renew(&mut self) {
        self.input = Kept::new(self.input.shared());
        self.output = Kept::new(self.output.shared());
        if let Some(outer) = &mut self.outer {
            let values = outer.steps.values_mut().chain(outer.names.values_mut()).chain([&mut outer.run]);
            values.for_each(|kept| *kept = Kept::new(kept.shared()));
        }
        self.steps.values_mut().chain(self.undos.values_mut()).for_each(Step::renew);
        self.all_items_mut().for_each(|items| *items = items.copied());
    }

    /// Everything that `rows` and the items asked for has been written.
    pub fn stored(&mut self) {
        self.input.stored();
        self.output.stored();
        if let Some(outer) = &mut self.outer {
            outer.run.stored();
            outer.steps.values_mut().chain(outer.names.values_mut()).for_each(Kept::stored);
        }
        for step in self.steps.values_mut().chain(self.undos.values_mut()) {
            step.output.stored();
            step.reported.stored();
            step.bound.stored();
        }
        self.all_items_mut().for_each(Items::stored);
    }

    /// The person that counts as its starter in four eyes.
    pub fn starter(&self) -> Option<&str> {
        self.started_by.person()
    }
}
