//! Holds: people stop the line, for an app, for a rule, or for all, and let it go on. What is under way is left to finish.
//!
//! A hold on a rule is the switch that people have on it, with a reason. Other holds are in the store; the engine keeps a copy in memory, since every
//! move of a run asks for them.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::conductor::Input;
use crate::definitions::{Definitions, nearest};
use crate::model::hold::{Hold, Holds};
use crate::model::{Run, RunId, Timestamp};
use crate::store::{RuleOverride, StoreError};

use super::{Caller, Change, Engine, Refused};

/// The hold on everything.
const ALL: &str = "all";
const BATCH: u32 = 500;
const LONGEST_WHY: usize = 2000;

/// What a hold is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldKind {
    All,
    App,
    Rule,
}

/// A hold as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub what: String,
    pub kind: HeldKind,
    pub by: String,
    pub why: Option<String>,
    pub since: Timestamp,
}

impl From<Hold> for Held {
    fn from(hold: Hold) -> Held {
        let kind = if hold.what == ALL { HeldKind::All } else { HeldKind::App };
        Held { what: hold.what, kind, by: hold.by.to_string(), why: Some(hold.why), since: hold.since }
    }
}

impl From<RuleOverride> for Held {
    fn from(over: RuleOverride) -> Held {
        Held { what: over.rule, kind: HeldKind::Rule, by: over.by, why: over.why, since: over.at }
    }
}

impl Engine {
    /// The holds on apps and on all, as they are now.
    pub fn holds(&self) -> Arc<Holds> {
        self.holds.load_full()
    }

    /// Every hold: all, then apps, then rules.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn held(&self) -> Result<Vec<Held>, StoreError> {
        let mut held: Vec<Held> = self.store.holds().await?.into_iter().map(Held::from).collect();
        held.sort_by_key(|hold| hold.kind != HeldKind::All);
        let rules = self.store.rule_overrides().await?.into_iter().filter(|over| over.disabled);
        held.extend(rules.map(Held::from));
        Ok(held)
    }

    /// Stops an app, a rule or all.
    ///
    /// # Errors
    /// Nothing is called so, or two things are; it is held already; the database cannot be written.
    pub async fn hold(self: &Arc<Self>, what: &str, why: &str, caller: &Caller) -> Result<Held, Refused> {
        let why = reason(why)?;
        match self.held_subject(what)? {
            Subject::Rule(rule) => self.hold_rule(rule, why, caller).await,
            Subject::Named(what) => {
                let hold = Hold { what, by: caller.actor.clone(), why: why.clone(), since: self.clock.now() };
                let audit = self.audit(caller, "hold.set", subject(&hold.what), json!({"why": why}));
                let engine = Arc::clone(self);
                self.to_the_end(async move {
                    if let Some(there) = engine.store.add_hold(hold.clone(), audit).await? {
                        return Err(already(&there.into()));
                    }
                    engine.refresh_holds().await?;
                    engine.changed(Change::Holds);
                    Ok(hold.into())
                })
                .await
            }
        }
    }

    /// Lets what was stopped go on.
    ///
    /// # Errors
    /// It is not held; nothing is called so; the database cannot be written.
    pub async fn unhold(self: &Arc<Self>, what: &str, caller: &Caller) -> Result<Held, Refused> {
        // A hold outlives the app that it is on: it must be possible to end it by its name.
        let known = self.store.holds().await?.iter().any(|hold| hold.what == what);
        let found = if known { Subject::Named(what.to_owned()) } else { self.held_subject(what)? };
        match found {
            Subject::Rule(rule) => self.unhold_rule(&rule, caller).await,
            Subject::Named(what) => {
                let audit = self.audit(caller, "hold.end", subject(&what), Value::Null);
                let engine = Arc::clone(self);
                self.to_the_end(async move {
                    let Some(gone) = engine.store.remove_hold(&what, audit).await? else {
                        return Err(Refused::NotFound(format!("`{what}` is not held")));
                    };
                    engine.refresh_holds().await?;
                    engine.changed(Change::Holds);
                    Ok(gone.into())
                })
                .await
            }
        }
    }

    async fn hold_rule(
        self: &Arc<Self>,
        rule: String,
        why: String,
        caller: &Caller,
    ) -> Result<Held, Refused> {
        if let Some(there) = self.rule_hold(&rule).await? {
            return Err(already(&there));
        }
        if let Some(definition) = self.definitions().rules.get(&rule).filter(|rule| !rule.enabled) {
            let message = format!("{} says `enabled: false` already", definition.place);
            return Err(Refused::Conflict(message));
        }
        self.set_rule_enabled(&rule, false, Some(why.clone()), caller).await?;
        self.changed(Change::Holds);
        let (by, since) = (caller.actor.to_string(), self.clock.now());
        Ok(Held { what: rule, kind: HeldKind::Rule, by, why: Some(why), since })
    }

    async fn unhold_rule(self: &Arc<Self>, rule: &str, caller: &Caller) -> Result<Held, Refused> {
        let Some(there) = self.rule_hold(rule).await? else {
            return Err(Refused::NotFound(format!("`{rule}` is not held")));
        };
        self.set_rule_enabled(rule, true, None, caller).await?;
        self.changed(Change::Holds);
        Ok(there)
    }

    async fn rule_hold(&self, rule: &str) -> Result<Option<Held>, StoreError> {
        let mut overrides = self.store.rule_overrides().await?.into_iter();
        Ok(overrides.find(|over| over.disabled && over.rule == rule).map(Held::from))
    }

    /// What a person means by a name. `app:NAME` and `rule:NAME` say it exactly.
    fn held_subject(&self, what: &str) -> Result<Subject, Refused> {
        find(&self.definitions(), what)
    }

    /// Brings the copies of holds and of rules' switches up to date with the store, and tells the runs that waited for a hold that ended. To be called
    /// at start, after every change, and, where several nodes share a store, whenever another may have changed something.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn refresh_holds(self: &Arc<Self>) -> Result<(), StoreError> {
        // One at a time: an older answer must not come after a newer one.
        let turn = self.refreshing_holds.lock().await;
        for over in self.store.rule_overrides().await? {
            self.remember_disabled(&over.rule, over.disabled, over.why);
        }
        let (mut now, mut has_ended) = (Holds::default(), false);
        for hold in self.store.holds().await? {
            if hold.what == ALL {
                now.all = Some(hold);
            } else {
                now.apps.insert(hold.what.clone(), hold);
            }
        }
        let before = self.holds();
        has_ended |= before.all.is_some() && now.all.is_none();
        has_ended |= before.apps.keys().any(|app| !now.apps.contains_key(app));
        if *before != now {
            self.holds.store(Arc::new(now));
        }
        drop(turn);
        if has_ended {
            self.tell_held_runs().await?;
        }
        Ok(())
    }

    /// Has every run that waits for a hold look whether it still has to. Runs that are still held stay so.
    pub(super) async fn tell_held_runs(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut after = RunId(0);
        loop {
            let held = self.store.held_runs(after, BATCH).await?;
            let Some(last) = held.last() else { return Ok(()) };
            after = *last;
            for run in held {
                self.insist(run, vec![Input::HoldsChanged], false);
            }
        }
    }

    /// A run was written that was moved when `seen` held. Who ended a hold meanwhile may not have found it among those that wait.
    pub(super) fn look_at_holds_again(self: &Arc<Self>, run: &Run, seen: &Arc<Holds>) {
        if !run.status.is_final() && !Arc::ptr_eq(seen, &self.holds()) {
            self.insist(run.id, vec![Input::HoldsChanged], false);
        }
    }
}

/// What is held or is to be held.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    /// An app, or all.
    Named(String),
    Rule(String),
}

fn find(definitions: &Definitions, what: &str) -> Result<Subject, Refused> {
    let apps: Vec<&str> =
        definitions.apps.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let app = |name: &str| apps.contains(&name).then(|| Subject::Named(name.to_owned()));
    // A name without a dot is the site's own rule.
    let rule = |name: &str| {
        let full = if name.contains('.') { name.to_owned() } else { format!("site.{name}") };
        definitions.rules.contains_key(&full).then_some(Subject::Rule(full))
    };
    let (found, name) = match what.split_once(':') {
        _ if what == ALL => return Ok(Subject::Named(ALL.to_owned())),
        Some(("app", name)) => (app(name), name),
        Some(("rule", name)) => (rule(name), name),
        _ => match (app(what), rule(what)) {
            (Some(_), Some(_)) => {
                let message = format!(
                    "`{what}` is an app and a rule: say `app:{what}` for the app, or `rule:{what}` for the rule"
                );
                return Err(Refused::Invalid(vec![message]));
            }
            (app, rule) => (app.or(rule), what),
        },
    };
    if found == Some(Subject::Named(ALL.to_owned())) {
        let message = "an app that is called `all` can't be held by itself: the name means everything";
        return Err(Refused::Invalid(vec![message.to_owned()]));
    }
    found.ok_or_else(|| {
        let own = definitions.rules.keys().filter_map(|rule| rule.strip_prefix("site."));
        let known = apps.iter().copied().chain(definitions.rules.keys().map(String::as_str)).chain(own);
        let near = nearest(name, known).map(|near| format!("; did you mean `{near}`?"));
        Refused::NotFound(format!("there is no app or rule `{name}`{}", near.unwrap_or_default()))
    })
}

/// A reason that people can read.
pub(super) fn reason(why: &str) -> Result<String, Refused> {
    let why = why.trim();
    if why.is_empty() {
        return Err(Refused::Invalid(vec!["`why` is missing: others will read it".to_owned()]));
    }
    if why.len() > LONGEST_WHY {
        return Err(Refused::Invalid(vec![format!("`why` has {LONGEST_WHY} bytes at most")]));
    }
    Ok(why.to_owned())
}

fn subject(what: &str) -> String {
    if what == ALL { ALL.to_owned() } else { format!("app {what}") }
}

fn already(there: &Held) -> Refused {
    let why = there.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    Refused::Conflict(format!("{} holds `{}` since {}{why}", there.by, there.what, there.since))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::definitions::Files;

    fn definitions() -> Definitions {
        let files = Files::from_texts([
            ("apps/shop.yaml", "owner: team\n"),
            ("apps/till.yaml", "owner: team\n"),
            ("apps/all.yaml", "owner: team\n"),
            ("triggers/go.yaml", "description: d\n"),
            ("actions/a.yaml", "description: d\nrunner: shell\nshell: {script: 'true'}\n"),
            ("rules/shop.yaml", "trigger: go\nrun: a\n"),
            ("rules/on_push.yaml", "trigger: go\nrun: a\n"),
        ]);
        let (definitions, mistakes) = Definitions::read(&files);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        definitions
    }

    #[test]
    fn a_name_means_an_app_a_rule_or_all_and_a_doubt_is_said() {
        let definitions = definitions();
        let meant = |what: &str| find(&definitions, what);
        let rule = |name: &str| Subject::Rule(name.to_owned());
        assert_eq!(meant("till").unwrap(), Subject::Named("till".to_owned()));
        assert_eq!(meant("all").unwrap(), Subject::Named("all".to_owned()));
        assert_eq!(meant("on_push").unwrap(), rule("site.on_push"));
        assert_eq!(meant("site.shop").unwrap(), rule("site.shop"));
        assert_eq!(meant("rule:shop").unwrap(), rule("site.shop"));
        assert_eq!(meant("app:shop").unwrap(), Subject::Named("shop".to_owned()));
        let doubt = meant("shop").unwrap_err().to_string();
        assert!(doubt.contains("`app:shop`") && doubt.contains("`rule:shop`"), "{doubt}");
        let near = meant("tils").unwrap_err().to_string();
        assert_eq!(near, "there is no app or rule `tils`; did you mean `till`?");
        assert!(meant("app:all").is_err());
    }
}
