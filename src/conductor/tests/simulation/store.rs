//! What is on disk of a run, written as the store writes it: only what the run says has changed.

use std::collections::BTreeMap;

use crate::model::kept::Row;
use crate::model::{Run, StepKey, Value};

#[derive(Default)]
pub(super) struct Store {
    values: BTreeMap<String, Value>,
    /// By step, visit and item.
    items: BTreeMap<(String, u32, u32), String>,
}

impl Store {
    pub(super) fn write(&mut self, run: &mut Run) {
        for (name, row) in run.rows() {
            match row {
                Row::Write(value) => drop(self.values.insert(name, value.clone())),
                Row::Remove => drop(self.values.remove(&name)),
            }
        }
        for (key, items) in run.all_items() {
            for (item, step) in items.changed() {
                let row = (key.to_string(), items.visit, item);
                self.items.insert(row, serde_json::to_string(step).unwrap());
            }
        }
        run.stored();
    }

    /// `run`, as a new process reads it after it was written.
    pub(super) fn read(&self, run: &Run) -> Run {
        let state = serde_json::to_string(run).unwrap();
        let mut run: Run = serde_json::from_str(&state).unwrap();
        for ((key, visit, item), step) in &self.items {
            run.fill_item(StepKey::parse(key), *visit, *item, serde_json::from_str(step).unwrap());
        }
        run.fill_empty();
        for (name, value) in &self.values {
            run.fill_value(name, value.clone());
        }
        run
    }
}
