//! Puts an old event in again, as a new one.

use std::sync::Arc;

use serde_json::json;

use crate::model::EventId;
use crate::model::event::NewEvent;

use super::{Caller, Engine, Refused};

impl Engine {
    /// A new event with the payload of `id`, without a dedup key.
    ///
    /// # Errors
    /// There is no such event; the database cannot be written.
    pub async fn replay(self: &Arc<Self>, id: EventId, caller: &Caller) -> Result<EventId, Refused> {
        let Some(event) = self.store.event(id).await? else {
            return Err(Refused::NotFound(format!("there is no event {id}")));
        };
        let again = NewEvent {
            trigger: event.trigger,
            source: event.source,
            payload: event.payload,
            dedup: None,
            replay_of: Some(id),
        };
        let audit =
            self.audit(caller, "event.replay", format!("event {id}"), json!({"trigger": again.trigger}));
        let engine = Arc::clone(self);
        self.to_the_end(async move {
            let added = engine.store.add_events_asked(vec![again], audit, engine.clock.now()).await?;
            match engine.taken_in(added).first() {
                Some(accepted) => Ok(accepted.event),
                None => Err(Refused::NotFound(format!("event {id} could not be replayed"))),
            }
        })
        .await
    }
}
