//! What people do with rules: switch them off and on, and ask why one did not match.

use std::sync::Arc;

use serde_json::json;

use crate::matching::decide::{Verdict, counts_for, judge_alone, keys_of};
use crate::model::{EventId, Value};
use crate::store::RuleOverride;

use super::{Caller, Change, Engine, Refused};

/// What a rule makes of an event, worked out on request.
#[derive(Clone, Debug, PartialEq)]
pub struct WhyNot {
    pub rule: String,
    pub matched: bool,
    /// What would run, and with what.
    pub run: Option<String>,
    pub with: Option<Value>,
    /// Why it errored or did not match.
    pub why: Option<String>,
    pub place: Option<String>,
}

impl Engine {
    /// Switches a rule on or off; what its file disables can't be switched on here.
    ///
    /// # Errors
    /// There is no such rule; its file disables it; the database cannot be written.
    pub async fn set_rule_enabled(
        self: &Arc<Self>,
        rule: &str,
        enabled: bool,
        why: Option<String>,
        caller: &Caller,
    ) -> Result<(), Refused> {
        let definitions = self.definitions();
        let Some(definition) = definitions.rules.get(rule) else {
            return Err(Refused::NotFound(format!("there is no rule `{rule}`")));
        };
        if enabled && !definition.enabled {
            let message = format!("{} says `enabled: false`; change it there", definition.place);
            return Err(Refused::Conflict(message));
        }
        let act = if enabled { "rule.enable" } else { "rule.disable" };
        let audit = self.audit(caller, act, format!("rule {rule}"), json!({"why": why}));
        let over = RuleOverride {
            rule: rule.to_owned(),
            disabled: !enabled,
            by: caller.actor.to_string(),
            why: why.clone(),
            at: self.clock.now(),
        };
        self.store.set_rule_override(over, audit).await?;
        self.remember_disabled(rule, !enabled, why);
        self.changed(Change::Definitions);
        Ok(())
    }

    /// Whether people have switched the rule off, and why.
    pub fn rule_is_disabled(&self, rule: &str) -> Option<Option<String>> {
        super::lock(&self.disabled).get(rule).cloned()
    }

    /// What the rule, as it stands now, makes of a stored event.
    ///
    /// # Errors
    /// There is no such rule or event.
    pub async fn why(&self, rule: &str, event: EventId) -> Result<WhyNot, Refused> {
        let definitions = self.definitions();
        let Some(definition) = definitions.rules.get(rule) else {
            return Err(Refused::NotFound(format!("there is no rule `{rule}`")));
        };
        let Some(event) = self.store.event(event).await? else {
            return Err(Refused::NotFound(format!("there is no event {event}")));
        };
        let mut answer =
            WhyNot { rule: rule.to_owned(), matched: false, run: None, with: None, why: None, place: None };
        if !definition.triggers.contains(&event.trigger) {
            answer.why = Some(format!(
                "its trigger is {}, the event's is {}",
                definition.triggers.join(", "),
                event.trigger
            ));
            return Ok(answer);
        }
        let values = self.values(keys_of(&definitions, definition, &event)).await?;
        match judge_alone(&definitions, definition, &event, &values) {
            Verdict::Matched(wanted) => {
                answer.matched = true;
                answer.run = Some(wanted.run);
                answer.with = Some(wanted.input);
            }
            Verdict::Counts(counted) => answer.why = Some(counts_for(definition, &counted)),
            Verdict::Throttled { why, .. } => answer.why = Some(why),
            Verdict::NotMatched => answer.why = Some("`when` was false".to_owned()),
            Verdict::Errored { why, place } => {
                answer.why = Some(why);
                answer.place = Some(place.to_string());
            }
        }
        Ok(answer)
    }
}
