//! One event against the rules of its trigger.

use std::sync::Arc;

use serde_json::json;

use crate::definitions::tree;
use crate::definitions::{Definitions, Place, Rule, fields};
use crate::expr::Scope;
use crate::model::{Event, Object, Value};

/// What came of one rule.
#[derive(Clone, Debug)]
pub struct Decision {
    pub rule: Arc<Rule>,
    pub result: Verdict,
}

#[derive(Clone, Debug)]
pub enum Verdict {
    Matched(Wanted),
    NotMatched,
    /// The rule itself failed: its place and why.
    Errored {
        why: String,
        place: Place,
    },
}

/// What a rule that matched wants run.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub run: String,
    /// Accepted by what it runs: defaults are in it.
    pub input: Value,
    pub on_behalf_of: Option<String>,
}

/// Tries every enabled rule of the event's trigger, in order of name. `disabled` are those that people switched off.
pub fn decide(definitions: &Definitions, event: &Event, disabled: &dyn Fn(&str) -> bool) -> Vec<Decision> {
    let listens =
        |rule: &&Arc<Rule>| rule.triggers.contains(&event.trigger) && rule.enabled && !disabled(&rule.name);
    let rules = definitions.rules.values().filter(listens);
    rules.map(|rule| Decision { rule: Arc::clone(rule), result: judge(definitions, rule, event) }).collect()
}

/// What one rule makes of an event.
pub fn judge(definitions: &Definitions, rule: &Rule, event: &Event) -> Verdict {
    let scope = scope(definitions, rule, event);
    let matched = match &rule.when {
        None => Value::Object(Object::new()),
        Some(when) => match definitions.expr.evaluate(when, &scope) {
            Ok(Value::Bool(true)) => Value::Object(Object::new()),
            Ok(Value::Bool(false) | Value::Null) => return Verdict::NotMatched,
            Ok(map @ Value::Object(_)) => map,
            Ok(other) => {
                let why = format!("`when` must give true, false, () or a map, not {other}");
                return Verdict::Errored { why, place: rule.when_place.clone() };
            }
            Err(failure) => {
                let place = rule.place_in_when(failure.line, failure.column);
                return Verdict::Errored { why: failure.message, place };
            }
        },
    };
    match wanted(definitions, rule, &scope.with("matched", matched)) {
        Ok(wanted) => Verdict::Matched(wanted),
        Err((why, place)) => Verdict::Errored { why, place },
    }
}

fn wanted(definitions: &Definitions, rule: &Rule, scope: &Scope) -> Result<Wanted, (String, Place)> {
    let expr = &definitions.expr;
    let given = tree::render_entries(&rule.with, expr, scope).map_err(|(entry, failure)| {
        (format!("`with`: `{entry}`: {}", failure.message), rule.place_in_with(entry).clone())
    })?;
    let fields = definitions.input_of(&rule.run).ok_or_else(|| {
        let why = format!("there is no action or workflow `{}` in this revision", rule.run);
        (why, rule.run_place.clone())
    })?;
    let input = fields::accept(fields, &given, true).map_err(|mistakes| {
        // Each begins with the name of its field.
        let named = mistakes.first().and_then(|mistake| mistake.split('`').nth(1)).unwrap_or_default();
        let field = named.split(['.', '[']).next().unwrap_or_default();
        (format!("{}: {}", rule.run, mistakes.join("; ")), rule.place_in_with(field).clone())
    })?;
    let on_behalf_of = match &rule.on_behalf_of {
        None => None,
        Some(tree) => {
            let name = tree
                .render(expr, scope)
                .map_err(|failure| (format!("`on_behalf_of`: {}", failure.message), rule.place.clone()))?;
            name.masked().as_str().map(|name| linked(definitions, name))
        }
    };
    Ok(Wanted { run: rule.run.clone(), input: input.masked(), on_behalf_of })
}

/// The user to whom this outside name is linked; the name itself when there is none.
fn linked(definitions: &Definitions, name: &str) -> String {
    let users = &definitions.site.users;
    if users.contains_key(name) {
        return name.to_owned();
    }
    let by_link = users.iter().find(|(_, user)| user.links.values().any(|link| link == name));
    by_link.map_or_else(|| name.to_owned(), |(user, _)| user.clone())
}

fn scope(definitions: &Definitions, rule: &Rule, event: &Event) -> Scope {
    let meta = json!({
        "id": event.id,
        "trigger": event.trigger,
        "source": event.source,
        "received_at": event.received_at,
    });
    Scope::new()
        .with("event", Arc::clone(&event.payload))
        .with("meta", meta)
        .with("config", rule.config.clone())
        .with("apps", Arc::clone(&definitions.apps))
}
