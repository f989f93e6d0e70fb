//! What of a run is stored beside its state: large values, and the items of its steps. Each is written when it changed and never again, so that a step
//! forward costs what it changes.

use std::collections::HashMap;

use super::db::{Connection, sql};
use super::rows::Rows;
use super::{Store, StoreError, artefacts, json};
use crate::model::kept::Row;
use crate::model::{Run, RunId, Step, StepKey, Value};

/// What of a run has changed, as text, made before the writer is asked.
#[derive(Debug, Default)]
pub(super) struct Changed {
    written: Vec<(String, String)>,
    removed: Vec<String>,
    items: Vec<Item>,
}

#[derive(Debug)]
struct Item {
    step: String,
    visit: i64,
    item: i64,
    state: String,
}

impl Changed {
    pub(super) fn of(run: &Run) -> Result<Changed, StoreError> {
        let mut changed = Changed::default();
        for (name, row) in run.rows() {
            match row {
                Row::Write(value) => changed.written.push((name, json::write("value of a run", value)?)),
                Row::Remove => changed.removed.push(name),
            }
        }
        for (key, items) in run.all_items() {
            let (key, visit) = (key.to_string(), i64::from(items.visit));
            for (item, step) in items.changed() {
                let state = json::write("item of a run", step)?;
                changed.items.push(Item { step: key.clone(), visit, item: i64::from(item), state });
            }
        }
        Ok(changed)
    }
}

static WRITE: Rows<3> = Rows::new(
    ["run", "name", "value"],
    "INSERT INTO run_values (run, name, value) SELECT run, name, value FROM new WHERE run IS NOT NULL
     ON CONFLICT (run, name) DO UPDATE SET value = excluded.value",
);

static READ: Rows<1> = Rows::new(
    ["run"],
    "SELECT run_values.run, run_values.name, run_values.value FROM new JOIN run_values ON run_values.run = new.run",
);

static REMOVE: Rows<2> =
    Rows::new(["run", "name"], "DELETE FROM run_values WHERE (run, name) IN (SELECT run, name FROM new)");

static ITEMS: Rows<5> = Rows::new(
    ["run", "step", "visit", "item", "state"],
    "INSERT INTO items (run, step, visit, item, state) SELECT run, step, visit, item, state FROM new WHERE run IS NOT NULL
     ON CONFLICT (run, step, visit, item) DO UPDATE SET state = excluded.state",
);

/// Writes what changed of runs; each of them is named once.
pub(super) async fn write_all(tx: &mut Connection, runs: Vec<(RunId, &Changed)>) -> Result<(), StoreError> {
    let (mut written, mut removed, mut items) = (Vec::new(), Vec::new(), Vec::new());
    let mut named = Vec::new();
    for (run, changed) in runs {
        let texts = changed.written.iter().map(|(_, value)| value);
        for text in texts.chain(changed.items.iter().map(|item| &item.state)) {
            named.extend(artefacts::named_by(run, text));
        }
        written.extend(changed.written.iter().map(|(name, value)| [run.0.into(), name.into(), value.into()]));
        removed.extend(changed.removed.iter().map(|name| [run.0.into(), name.into()]));
        items.extend(changed.items.iter().map(|item| {
            [run.0.into(), (&item.step).into(), item.visit.into(), item.item.into(), (&item.state).into()]
        }));
    }
    WRITE.execute(tx, written).await?;
    REMOVE.execute(tx, removed).await?;
    ITEMS.execute(tx, items).await?;
    artefacts::note_named(tx, &named).await
}

impl Store {
    /// Fills in the values of runs that have rows of their own; those of items only where the items are there.
    pub(super) async fn fill_values(&self, runs: &mut [Run]) -> Result<(), StoreError> {
        let asked = runs.iter().map(|run| [run.id.0.into()]).collect();
        let mut places: HashMap<i64, &mut Run> = runs.iter_mut().map(|run| (run.id.0, run)).collect();
        let rows: Vec<(i64, String, String)> = READ.read_all(self.readers(), asked).await?;
        for (run, name, value) in rows {
            if let Some(run) = places.get_mut(&run) {
                run.fill_value(&name, json::read::<Value>("value of a run", &value)?);
            }
        }
        Ok(())
    }

    /// Fills in the items of a run's steps: those of the visit at hand.
    pub(super) async fn fill_items(&self, run: &mut Run) -> Result<(), StoreError> {
        if !run.has_items() {
            return Ok(());
        }
        let rows: Vec<(String, i64, i64, String)> =
            sql("SELECT step, visit, item, state FROM items WHERE run = $1")
                .bind(run.id.0)
                .fetch_all(self.readers())
                .await?;
        for (key, visit, item, state) in rows {
            let step: Step = json::read("item of a run", &state)?;
            let item = number("item", item)?;
            run.fill_item(StepKey::parse(&key), number("visit", visit)?, item, step);
        }
        run.fill_empty();
        Ok(())
    }

    /// A page of the items of a step, in order, those after `after`.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn items(
        &self,
        run: RunId,
        step: &str,
        visit: u32,
        after: Option<u32>,
        limit: u32,
    ) -> Result<Vec<(u32, Step)>, StoreError> {
        let rows: Vec<(i64, String)> =
            sql("SELECT item, state FROM items WHERE run = $1 AND step = $2 AND visit = $3 AND item > $4
             ORDER BY item LIMIT $5")
            .bind(run.0)
            .bind(step)
            .bind(i64::from(visit))
            .bind(after.map_or(-1, i64::from))
            .bind(super::bounded(limit))
            .fetch_all(self.readers())
            .await?;
        let mut items = Vec::with_capacity(rows.len());
        for (item, state) in rows {
            items.push((number("item", item)?, json::read::<Step>("item of a run", &state)?));
        }
        for (item, state) in &mut items {
            let prefix = format!("{}:", StepKey { item: Some(*item), ..StepKey::parse(step) });
            let values: Vec<(String, String)> =
                sql("SELECT name, value FROM run_values WHERE run = $1 AND name >= $2 AND name < $3")
                    .bind(run.0)
                    .bind(&prefix)
                    .bind(format!("{prefix}~"))
                    .fetch_all(self.readers())
                    .await?;
            for (name, value) in values {
                if let Some(kept) = name.strip_prefix(&prefix).and_then(|part| state.value_mut(part)) {
                    kept.fill(json::read("value of a run", &value)?);
                }
            }
        }
        Ok(items)
    }
}

fn number(what: &str, number: i64) -> Result<u32, StoreError> {
    u32::try_from(number).map_err(|error| StoreError::corrupt(what, error))
}
