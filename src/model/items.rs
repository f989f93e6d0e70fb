//! The items of a step with `for_each`. They are not part of the run's state: each is a row of its own, written when it changed, so that what one
//! item costs does not depend on how many there are.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::kept::Kept;
use super::{Step, Timestamp};

/// Where a step with `for_each` stands: numbers only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Each {
    /// How many items there are.
    pub total: u32,
    /// The item that starts next; all below it have begun. In an undo: how many, from the first, are still to be looked at.
    pub next: u32,
    /// Items that have begun and not ended.
    pub active: u32,
    pub failed: u32,
    /// How many may fail.
    pub most_failures: u32,
    /// How many are done at once.
    pub at_once: u32,
    /// No further item starts.
    #[serde(default)]
    pub is_closed: bool,
    /// The step itself was let in after the run had failed, so that this keeps no item back.
    #[serde(default)]
    pub is_late: bool,
}

/// The items of one step, in one visit of it.
#[derive(Clone, Debug, Default)]
pub struct Items {
    pub visit: u32,
    /// What there is an item for: an array.
    pub list: Kept,
    steps: BTreeMap<u32, Step>,
    /// Items that changed since they were stored.
    changed: BTreeSet<u32>,
    /// Items that may have to be looked at again, since somebody had them in hand.
    touched: BTreeSet<u32>,
    /// Items that have begun and not ended.
    active: BTreeSet<u32>,
    /// When items wake, soonest first, and the same by item.
    wakes: BTreeSet<(Timestamp, u32)>,
    wakes_at: BTreeMap<u32, Timestamp>,
}

impl Items {
    pub fn new(visit: u32, list: Kept) -> Items {
        Items { visit, list, ..Items::default() }
    }

    /// A copy for another run, of which nothing is stored yet.
    pub fn copied(&self) -> Items {
        let mut copy =
            Items { visit: self.visit, list: Kept::beside(self.list.shared()), ..Items::default() };
        for (item, step) in &self.steps {
            let mut step = step.clone();
            step.renew();
            copy.add(*item, step);
        }
        copy.settle();
        copy
    }

    pub fn get(&self, item: u32) -> Option<&Step> {
        self.steps.get(&item)
    }

    /// To change it; it is stored with the run's next write.
    pub fn get_mut(&mut self, item: u32) -> Option<&mut Step> {
        let step = self.steps.get_mut(&item)?;
        self.changed.insert(item);
        self.touched.insert(item);
        Some(step)
    }

    /// An item that has no record yet gets one.
    pub fn add(&mut self, item: u32, step: Step) {
        self.steps.insert(item, step);
        self.changed.insert(item);
        self.touched.insert(item);
    }

    /// An item as it is stored.
    pub(super) fn fill(&mut self, item: u32, step: Step) {
        self.steps.insert(item, step);
        self.touched.insert(item);
        self.settle();
    }

    /// The value of an item whose row is called `part`, as it is stored.
    pub(super) fn fill_value(&mut self, item: u32, part: &str, value: super::Value) {
        if let Some(kept) = self.steps.get_mut(&item).and_then(|step| step.value_mut(part)) {
            kept.fill(value);
        }
    }

    /// All that have begun, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u32, &Step)> {
        self.steps.iter().map(|(item, step)| (*item, step))
    }

    /// Brings what is known of active and waiting items up to date. Costs what was touched.
    pub fn settle(&mut self) {
        for item in std::mem::take(&mut self.touched) {
            let Some(step) = self.steps.get(&item) else { continue };
            if step.has_ended() {
                self.active.remove(&item);
            } else {
                self.active.insert(item);
            }
            if let Some(at) = self.wakes_at.remove(&item) {
                self.wakes.remove(&(at, item));
            }
            if let Some(at) = step.state.wakes_at(false) {
                self.wakes.insert((at, item));
                self.wakes_at.insert(item, at);
            }
        }
    }

    /// Items that have begun and not ended, as of the last `settle`.
    pub fn active(&self) -> impl Iterator<Item = u32> + '_ {
        self.active.iter().copied()
    }

    /// When the first of them wakes.
    pub fn wakes_at(&self) -> Option<Timestamp> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// Those that have to be woken by `now`.
    pub fn due(&self, now: Timestamp) -> Vec<u32> {
        self.wakes.iter().take_while(|(at, _)| *at <= now).map(|(_, item)| *item).collect()
    }

    /// Whether something of it is to be stored.
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The items to be stored, each once.
    pub fn changed(&self) -> impl Iterator<Item = (u32, &Step)> {
        self.changed.iter().filter_map(|item| Some((*item, self.steps.get(item)?)))
    }

    /// The store has everything.
    pub fn stored(&mut self) {
        for item in std::mem::take(&mut self.changed) {
            if let Some(step) = self.steps.get_mut(&item) {
                step.output.stored();
                step.reported.stored();
                step.bound.stored();
            }
        }
        self.list.stored();
    }

    /// What has been given so far, in order; null for what failed or never began.
    pub fn outputs(&self, total: u32) -> super::Value {
        let output = |item| self.steps.get(&item).map_or(super::Value::Null, |step| (*step.output).clone());
        (0..total).map(output).collect()
    }
}

/// Only for tests and for telling whether something changed: what is derived does not count.
impl PartialEq for Items {
    fn eq(&self, other: &Items) -> bool {
        self.visit == other.visit && self.list == other.list && self.steps == other.steps
    }
}
