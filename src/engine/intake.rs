//! Events come in: held against their trigger's schema, deduplicated, stored. Who sent them hears of it only after the commit.

use std::sync::Arc;

use crate::model::depth::{DEEPEST, is_too_deep};
use crate::model::event::NewEvent;
use crate::store::{AddedEvent, CursorMove, StoreError};

use super::{Accepted, Caller, Change, Engine, Refused};

impl Engine {
    /// Stores events that a source sends, all or none.
    ///
    /// # Errors
    /// A payload does not fit its trigger; too much is waiting; the database cannot be written.
    pub async fn accept(self: &Arc<Self>, events: Vec<NewEvent>) -> Result<Vec<Accepted>, Refused> {
        self.hold_against_triggers(&events)?;
        let engine = Arc::clone(self);
        self.to_the_end(async move {
            let added = engine.store.try_add_events(events, engine.clock.now()).await;
            let added = added.map_err(|error| match error {
                StoreError::Busy => Refused::Busy(1),
                other => Refused::Store(other),
            })?;
            Ok(engine.taken_in(added))
        })
        .await
    }

    /// Stores events of a source that watches something, and how far it has come with them, in one transaction.
    ///
    /// # Errors
    /// As `accept`; `Conflict` of the store when somebody else watched on.
    pub async fn accept_at(
        self: &Arc<Self>,
        events: Vec<NewEvent>,
        to: CursorMove,
    ) -> Result<Vec<Accepted>, Refused> {
        self.hold_against_triggers(&events)?;
        let engine = Arc::clone(self);
        self.to_the_end(async move {
            let added = engine.store.add_events_at(events, to, engine.clock.now()).await?;
            Ok(engine.taken_in(added))
        })
        .await
    }

    /// Why an event would not be stored, whoever sends it.
    pub fn why_not_stored(&self, event: &NewEvent) -> Option<String> {
        match self.hold_against_triggers(std::slice::from_ref(event)) {
            Err(Refused::Invalid(mistakes)) => Some(mistakes.join("; ")),
            _ => None,
        }
    }

    /// Stores an event that somebody put in by hand, and that they did.
    ///
    /// # Errors
    /// As `accept`.
    pub async fn send(self: &Arc<Self>, event: NewEvent, caller: &Caller) -> Result<Vec<Accepted>, Refused> {
        self.hold_against_triggers(std::slice::from_ref(&event))?;
        let details = serde_json::json!({"dedup": event.dedup});
        let audit = self.audit(caller, "event.send", format!("trigger {}", event.trigger), details);
        let engine = Arc::clone(self);
        self.to_the_end(async move {
            let added = engine.store.add_events_asked(vec![event], audit, engine.clock.now()).await?;
            Ok(engine.taken_in(added))
        })
        .await
    }

    fn hold_against_triggers(&self, events: &[NewEvent]) -> Result<(), Refused> {
        let definitions = self.definitions();
        let mut mistakes = Vec::new();
        for event in events {
            if is_too_deep(&event.payload) {
                mistakes.push(format!("the payload nests deeper than {DEEPEST} lists and objects"));
                continue;
            }
            // A trigger that no pack declares is stored unvalidated.
            let Some(trigger) = definitions.triggers.get(&event.trigger) else { continue };
            let fits = trigger.validate(&event.payload);
            mistakes.extend(fits.err().map(|why| format!("the payload of {}: {why}", event.trigger)));
        }
        if mistakes.is_empty() { Ok(()) } else { Err(Refused::Invalid(mistakes)) }
    }

    pub(super) fn taken_in(&self, added: Vec<AddedEvent>) -> Vec<Accepted> {
        for event in added.iter().filter(|event| !event.known) {
            self.changed(Change::Event(event.id));
        }
        // Also for a known one: it costs nothing to look.
        self.routable.notify_one();
        added.into_iter().map(|event| Accepted { event: event.id, known: event.known }).collect()
    }
}
