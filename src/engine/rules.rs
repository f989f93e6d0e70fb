//! What people do with rules: switch them off and on.

use std::sync::Arc;

use serde_json::json;

use crate::store::RuleOverride;

use super::{Caller, Change, Engine, Refused};

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
}
