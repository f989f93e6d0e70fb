//! Puts an old event in again, as a new one; or says what that would do.

use std::sync::Arc;

use serde_json::json;

use crate::definitions::Rule;
use crate::model::event::NewEvent;
use crate::model::{Event, EventId, RunId};

use super::counting::Counting;
use super::trial::{Outcome, why_not_tried};
use super::{Caller, Engine, Refused, lock};

/// How many rules that do not match are said why; of the others only their number.
const SAID_WHY_NOT: usize = 50;

/// What a replay would do.
#[derive(Clone, Debug, Default)]
pub struct DryReplay {
    pub trigger: String,
    /// Rules of the trigger, in order of name: those that meet the event, and of the others the first.
    pub rules: Vec<(String, Outcome)>,
    /// How many do not match.
    pub unmatched: usize,
    /// Runs that wait for events of this trigger, and would look at this one.
    pub waiting: Vec<RunId>,
}

impl Engine {
    /// What would come of the event if it came again now: by the rules in force and what they remember. Nothing changes.
    ///
    /// # Errors
    /// There is no such event; the database cannot be read.
    pub async fn replay_dry(&self, id: EventId) -> Result<DryReplay, Refused> {
        let Some(event) = self.store.event(id).await? else {
            return Err(Refused::NotFound(format!("there is no event {id}")));
        };
        // One that comes now, and is none of those that rules remember.
        let again = Event {
            id: EventId(0),
            received_at: self.clock.now(),
            routed_at: None,
            replay_of: Some(id),
            ..event
        };
        let definitions = self.definitions();
        let mut counting = Counting::new(&self.store, &definitions);
        let mut dry = DryReplay { trigger: again.trigger.clone(), ..DryReplay::default() };
        let rules: Vec<Arc<Rule>> = definitions
            .rules
            .values()
            .filter(|rule| rule.triggers.contains(&again.trigger))
            .cloned()
            .collect();
        for rule in rules {
            let switched = lock(&self.disabled).get(&rule.name).cloned();
            let outcome = match why_not_tried(&rule, switched) {
                Some(why) => Outcome { result: "disabled", why: Some(why), ..Outcome::default() },
                None => self.try_on(&mut counting, &definitions, &rule, &again).await?,
            };
            let is_unmatched = outcome.result == "not matched";
            dry.unmatched += usize::from(is_unmatched);
            if !is_unmatched || dry.unmatched <= SAID_WHY_NOT {
                dry.rules.push((rule.name.clone(), Outcome { event: None, received_at: None, ..outcome }));
            }
        }
        let waits = self.store.waiting_for(&again.trigger).await?;
        dry.waiting = waits.into_iter().map(|wait| wait.run).collect();
        dry.waiting.sort_unstable();
        dry.waiting.dedup();
        Ok(dry)
    }

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
