//! One event against the rules of its trigger.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use crate::definitions::listening::Listening;
use crate::definitions::meets::{Meets, Part};
use crate::definitions::tree::{self, Tree};
use crate::definitions::{Definitions, Place, Rule, fields};
use crate::expr::{Scope, Script};
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
    /// The event is one for a rule that remembers events: its windows decide.
    Counts(Counted),
    /// It matched too often; what is run instead, if anything.
    Throttled {
        why: String,
        otherwise: Option<Wanted>,
    },
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

/// An event that counts for a rule.
#[derive(Clone, Debug)]
pub struct Counted {
    matched: Value,
    /// For `count` its key, for `all` the events that it may be, each with its key. Empty: the event is a match by itself.
    pub seats: Vec<Seat>,
}

/// Where an event counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Which event of `all` it is.
    pub name: Option<String>,
    pub key: String,
}

/// The events that make a match together.
#[derive(Clone, Debug, Default)]
pub struct Together {
    /// Their payloads, oldest first for `count`, in the order of its parts for `all`.
    pub payloads: Vec<Arc<Value>>,
}

/// Values of the KV store, by key.
pub type Values = BTreeMap<String, Value>;

/// The longest text of a key.
const KEY_BYTES: usize = 1024;

/// Tries every enabled rule of the event's trigger, in order of name. `disabled` are those that people switched off; `values` what the keys have that
/// [`keys`] gave.
pub fn decide(
    definitions: &Definitions,
    event: &Event,
    disabled: &dyn Fn(&str) -> bool,
    values: &Values,
) -> Vec<Decision> {
    let rules = listening(definitions, event, disabled);
    rules
        .map(|rule| Decision { rule: Arc::clone(rule), result: judge(definitions, rule, event, values) })
        .collect()
}

/// What one rule makes of an event, whether it is enabled or not.
pub fn decide_one(definitions: &Definitions, rule: &Arc<Rule>, event: &Event, values: &Values) -> Decision {
    Decision { rule: Arc::clone(rule), result: judge(definitions, rule, event, values) }
}

/// The keys of the KV store that rules read for this event.
pub fn keys(definitions: &Definitions, event: &Event, disabled: &dyn Fn(&str) -> bool) -> Vec<String> {
    let readers = definitions.rules_of(&event.trigger).map(Listening::readers).unwrap_or_default();
    let readers = readers.iter().filter(|rule| is_on(rule, event, disabled));
    readers.flat_map(|rule| keys_of(definitions, rule, event)).collect()
}

/// The keys that one rule reads for this event; one that can't be said is left out, and fails the rule later.
pub fn keys_of(definitions: &Definitions, rule: &Rule, event: &Event) -> Vec<String> {
    let scope = scope(definitions, rule, event);
    rule.read.iter().filter_map(|(_, key)| key_of(definitions, key, &scope).ok()).collect()
}

fn listening<'a>(
    definitions: &'a Definitions,
    event: &'a Event,
    disabled: &'a dyn Fn(&str) -> bool,
) -> impl Iterator<Item = &'a Arc<Rule>> {
    let rules = definitions.rules_of(&event.trigger).map(|rules| rules.candidates(&event.payload));
    rules.unwrap_or_default().into_iter().filter(move |rule| is_on(rule, event, disabled))
}

fn is_on(rule: &Rule, event: &Event, disabled: &dyn Fn(&str) -> bool) -> bool {
    rule.enabled && rule.hears(event) && !disabled(&rule.name)
}

/// What one rule makes of an event.
pub fn judge(definitions: &Definitions, rule: &Rule, event: &Event, values: &Values) -> Verdict {
    match try_judge(definitions, rule, event, values) {
        Ok(verdict) => verdict,
        Err((why, place)) => Verdict::Errored { why, place },
    }
}

/// Why a rule failed, and where.
pub(super) type Errored = (String, Place);

fn try_judge(
    definitions: &Definitions,
    rule: &Rule,
    event: &Event,
    values: &Values,
) -> Result<Verdict, Errored> {
    let scope = with_values(definitions, rule, scope(definitions, rule, event), values)?;
    let counted = |seats| Counted { matched: Value::Object(Object::new()), seats };
    if let Meets::All { parts, .. } = &rule.meets {
        let mut seats = Vec::new();
        for part in parts.iter().filter(|part| part.trigger == event.trigger) {
            if let Some(key) = part_key(definitions, part, &scope)? {
                seats.push(Seat { name: Some(part.name.clone()), key });
            }
        }
        return Ok(if seats.is_empty() { Verdict::NotMatched } else { Verdict::Counts(counted(seats)) });
    }
    let Some(matched) = when(definitions, rule, &scope)? else { return Ok(Verdict::NotMatched) };
    let seats = match &rule.meets {
        Meets::Count { by, .. } => {
            let scope = scope.with("matched", matched.clone());
            vec![Seat { name: None, key: key(definitions, by.as_ref(), &scope, &rule.place)? }]
        }
        Meets::Each | Meets::All { .. } => Vec::new(),
    };
    if rule.counts() {
        return Ok(Verdict::Counts(Counted { matched, seats }));
    }
    wanted(definitions, rule, &scope.with("matched", matched)).map(Verdict::Matched)
}

/// What matched, as `matched` shows it; `None` when `when` says no.
fn when(definitions: &Definitions, rule: &Rule, scope: &Scope) -> Result<Option<Value>, Errored> {
    let Some(when) = &rule.when else { return Ok(Some(Value::Object(Object::new()))) };
    match definitions.expr.evaluate(when, scope) {
        Ok(Value::Bool(true)) => Ok(Some(Value::Object(Object::new()))),
        Ok(Value::Bool(false) | Value::Null) => Ok(None),
        Ok(map @ Value::Object(_)) => Ok(Some(map)),
        Ok(other) => {
            let why = format!("`when` must give true, false, () or a map, not {other}");
            Err((why, rule.when_place.clone()))
        }
        Err(failure) => Err((failure.message, rule.place_in_when(failure.line, failure.column))),
    }
}

/// The key under which an event is this one of `all`; `None` when it is not.
fn part_key(definitions: &Definitions, part: &Part, scope: &Scope) -> Result<Option<String>, Errored> {
    let fits = match &part.when {
        None => true,
        Some(when) => definitions.expr.condition(when, scope).map_err(|failure| {
            (format!("`when` of `{}`: {}", part.name, failure.message), part.place.clone())
        })?,
    };
    if !fits {
        return Ok(None);
    }
    key(definitions, part.by.as_ref(), scope, &part.place).map(Some)
}

/// The text of a key; all events have the same when there is no `by`.
fn key(
    definitions: &Definitions,
    by: Option<&Script>,
    scope: &Scope,
    place: &Place,
) -> Result<String, Errored> {
    let Some(by) = by else { return Ok(String::new()) };
    let value = definitions
        .expr
        .evaluate(by, scope)
        .map_err(|failure| (format!("`by`: {}", failure.message), place.clone()))?;
    let text = value.to_string();
    match text.len() {
        0..=KEY_BYTES => Ok(text),
        bytes => Err((format!("`by` gives a key of {bytes} bytes, more than {KEY_BYTES}"), place.clone())),
    }
}

fn with_values(
    definitions: &Definitions,
    rule: &Rule,
    mut scope: Scope,
    values: &Values,
) -> Result<Scope, Errored> {
    let bare = scope.clone();
    for (name, tree) in &rule.read {
        let key = key_of(definitions, tree, &bare)
            .map_err(|why| (format!("`read`: `{name}`: {why}"), rule.place.clone()))?;
        scope = scope.with(name, values.get(&key).cloned().unwrap_or_default());
    }
    Ok(scope)
}

fn key_of(definitions: &Definitions, tree: &Tree, scope: &Scope) -> Result<String, String> {
    let rendered = tree.render(&definitions.expr, scope).map_err(|failure| failure.message)?;
    match rendered.masked() {
        Value::String(key) => Ok(key),
        other => Err(format!("the key is a text, not {other}")),
    }
}

/// What a rule wants of events that count together, and the key under which `at_most` counts it. `None` when its `when` says no to them.
///
/// # Errors
/// The rule fails: why, and where.
pub fn finish(
    definitions: &Definitions,
    rule: &Rule,
    event: &Event,
    counted: &Counted,
    together: &Together,
    values: &Values,
) -> Result<Option<(Wanted, String)>, Errored> {
    let mut scope = with_values(definitions, rule, scope(definitions, rule, event), values)?;
    let mut matched = counted.matched.clone();
    match &rule.meets {
        Meets::All { parts, .. } => {
            let named = parts.iter().zip(&together.payloads);
            let named = named.map(|(part, payload)| (part.name.clone(), (**payload).clone()));
            scope = scope.with("event", Value::Object(named.collect()));
            match when(definitions, rule, &scope)? {
                Some(map) => matched = map,
                None => return Ok(None),
            }
        }
        Meets::Count { .. } => {
            let payloads = together.payloads.iter().map(|payload| (**payload).clone()).collect();
            scope = scope.with("events", Value::Array(payloads));
        }
        Meets::Each => (),
    }
    let scope = scope.with("matched", matched);
    let key = match &rule.at_most {
        Some(limit) => key(definitions, limit.by.as_ref(), &scope, &limit.place)?,
        None => String::new(),
    };
    Ok(Some((wanted(definitions, rule, &scope)?, key)))
}

/// What one rule makes of an event when nothing is remembered: `at_most` allows it, and where several events are needed, it is one of them.
pub fn judge_alone(definitions: &Definitions, rule: &Rule, event: &Event, values: &Values) -> Verdict {
    match judge(definitions, rule, event, values) {
        Verdict::Counts(counted) if matches!(rule.meets, Meets::Each) => {
            finish_alone(definitions, rule, event, &counted, values)
        }
        other => other,
    }
}

/// As if the event was the last of those that `count` needs.
pub fn finish_alone(
    definitions: &Definitions,
    rule: &Rule,
    event: &Event,
    counted: &Counted,
    values: &Values,
) -> Verdict {
    let together = Together { payloads: vec![Arc::clone(&event.payload)] };
    match finish(definitions, rule, event, counted, &together, values) {
        Ok(Some((wanted, _))) => Verdict::Matched(wanted),
        Ok(None) => Verdict::NotMatched,
        Err((why, place)) => Verdict::Errored { why, place },
    }
}

/// Says for what an event counts.
pub fn counts_for(rule: &Rule, counted: &Counted) -> String {
    let key = counted.seats.first().map(|seat| seat.key.as_str()).unwrap_or_default();
    let of = if key.is_empty() { String::new() } else { format!(" for {key}") };
    match &rule.meets {
        Meets::Each => format!("it matches{of}"),
        Meets::Count { count, within, .. } => {
            format!("it counts{of}: the rule matches at every {count} within {within}")
        }
        Meets::All { parts, within } => {
            let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
            let is: Vec<&str> = counted.seats.iter().filter_map(|seat| seat.name.as_deref()).collect();
            format!(
                "it is `{}`{of}: the rule matches when {} have come within {within}",
                is.join("`, `"),
                names.join(" and ")
            )
        }
    }
}

/// What is run instead of a match too many.
///
/// # Errors
/// It can't be said: why, and where.
pub fn otherwise(
    definitions: &Definitions,
    rule: &Rule,
    event: &Event,
    values: &Values,
) -> Result<Option<Wanted>, Errored> {
    let Some(call) = rule.at_most.as_ref().and_then(|limit| limit.otherwise.as_ref()) else {
        return Ok(None);
    };
    let scope = with_values(definitions, rule, scope(definitions, rule, event), values)?;
    let scope = scope.with("matched", Value::Object(Object::new())).with("events", Value::Array(Vec::new()));
    let place = |_: &str| call.place.clone();
    let input = accepted(definitions, (&call.run, &call.with), &scope, &call.place, &place)?;
    Ok(Some(Wanted { run: call.run.clone(), input, on_behalf_of: None }))
}

fn wanted(definitions: &Definitions, rule: &Rule, scope: &Scope) -> Result<Wanted, Errored> {
    let expr = &definitions.expr;
    let place = |entry: &str| rule.place_in_with(entry).clone();
    let input = accepted(definitions, (&rule.run, &rule.with), scope, &rule.run_place, &place)?;
    let on_behalf_of = match &rule.on_behalf_of {
        None => None,
        Some(tree) => {
            let name = tree
                .render(expr, scope)
                .map_err(|failure| (format!("`on_behalf_of`: {}", failure.message), rule.place.clone()))?;
            name.masked().as_str().map(|name| linked(definitions, name))
        }
    };
    Ok(Wanted { run: rule.run.clone(), input, on_behalf_of })
}

/// The input of what is run, with its defaults.
fn accepted(
    definitions: &Definitions,
    (run, with): (&str, &[(String, Tree)]),
    scope: &Scope,
    run_place: &Place,
    place: &dyn Fn(&str) -> Place,
) -> Result<Value, Errored> {
    let given = tree::render_entries(with, &definitions.expr, scope)
        .map_err(|(entry, failure)| (format!("`with`: `{entry}`: {}", failure.message), place(entry)))?;
    let fields = definitions.input_of(run).ok_or_else(|| {
        (format!("there is no action or workflow `{run}` in this revision"), run_place.clone())
    })?;
    let input = fields::accept(fields, &given, true).map_err(|mistakes| {
        // Each begins with the name of its field.
        let named = mistakes.first().and_then(|mistake| mistake.split('`').nth(1)).unwrap_or_default();
        let field = named.split(['.', '[']).next().unwrap_or_default();
        (format!("{run}: {}", mistakes.join("; ")), place(field))
    })?;
    Ok(input.masked())
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

/// What `when` sees.
pub(super) fn scope_of(
    definitions: &Definitions,
    rule: &Rule,
    event: &Event,
    values: &Values,
) -> Result<Scope, Errored> {
    with_values(definitions, rule, scope(definitions, rule, event), values)
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::definitions::Files;
    use crate::model::{EventId, Timestamp};

    const PATHS: [&str; 7] =
        ["event.a", "event?.a", "event.a.c", "event.a?.c", "event?.a?.c", "!event.a", "event.b"];
    const TESTS: [&str; 14] = [
        " == \"x\"",
        " == \"y\"",
        " == 1",
        " == 2",
        " == true",
        " == 1.5",
        " == ()",
        " in [\"x\", \"y\", \"x\"]",
        " in [1, 2]",
        " in [1, \"x\"]",
        ".starts_with(\"\")",
        ".starts_with(\"x\")",
        ".starts_with(\"xé\")",
        "?.starts_with(\"x\")",
    ];
    const ENDS: [&str; 5] = ["", " && event.b == 2", " && event.missing", " || event.b == 2", " == true"];

    /// `when` from two comparisons and what follows.
    fn condition((first, second, end): &((usize, usize), Option<(usize, usize)>, usize)) -> String {
        let test = |(path, test): (usize, usize)| format!("{}{}", PATHS[path], TESTS[test]);
        let second = second.map(|second| format!(" && {}", test(second))).unwrap_or_default();
        format!("{}{second}{}", test(*first), ENDS[*end])
    }

    fn payloads() -> Vec<Value> {
        let inner = [
            json!("x"),
            json!("xéy"),
            json!("x\u{301}"),
            json!(1),
            json!(1.0),
            json!(true),
            Value::Null,
            json!({"c": "y"}),
            json!({"c": 1}),
            json!([1]),
        ];
        let with = inner.into_iter().map(|a| json!({"a": a, "b": 2}));
        with.chain([json!({}), json!("text"), Value::Null, json!({"b": 2})]).collect()
    }

    proptest! {
        #[test]
        fn what_the_index_leaves_out_would_have_said_no(
            conditions in proptest::collection::vec(
                (
                    (0..PATHS.len(), 0..TESTS.len()),
                    proptest::option::of((0..PATHS.len(), 0..TESTS.len())),
                    0..ENDS.len(),
                ),
                1..12,
            ),
        ) {
            let texts: Vec<(String, String)> = conditions.iter().enumerate().map(|(number, parts)| {
                (format!("rules/r{number:02}.yaml"), format!("trigger: go\nwhen: '{}'\nrun: core.noop\n", condition(parts)))
            }).collect();
            let own = texts.iter().map(|(path, text)| (path.as_str(), text.as_str()));
            let fixed = [
                ("triggers/go.yaml", "description: d\n"),
                ("packs/core/pack.yaml", "description: d\n"),
                ("packs/core/actions/noop.yaml", "description: d\nrunner: native\n"),
            ];
            let (definitions, _) = Definitions::read(&Files::from_texts(own.chain(fixed)));
            for payload in payloads() {
                let event = Event {
                    id: EventId(1),
                    trigger: "site.go".to_owned(),
                    source: "test".to_owned(),
                    payload: Arc::new(payload),
                    received_at: Timestamp(0),
                    routed_at: None,
                    replay_of: None,
                };
                let values = Values::new();
                let said = |decision: &Decision| match &decision.result {
                    Verdict::NotMatched => None,
                    other => Some(format!("{}: {other:?}", decision.rule.name)),
                };
                let indexed: Vec<String> = decide(&definitions, &event, &|_| false, &values).iter().filter_map(said).collect();
                let every = definitions.rules.values();
                let every: Vec<String> = every.filter_map(|rule| said(&decide_one(&definitions, rule, &event, &values))).collect();
                prop_assert_eq!(indexed, every);
            }
        }
    }

    #[test]
    fn of_many_rules_that_begin_with_a_comparison_only_those_that_fit_are_tried() {
        let rule = |number: usize| {
            let end = ["", " && event.on.starts_with(\"m\")"][number / 500];
            format!(
                "trigger: go\nwhen: 'event.kind in [\"a\", \"b\"] && event.name == \"app{}\"{end}'\nrun: core.noop\n",
                number % 500
            )
        };
        let texts: Vec<(String, String)> =
            (0..1000).map(|number| (format!("rules/r{number:05}.yaml"), rule(number))).collect();
        let own = texts.iter().map(|(path, text)| (path.as_str(), text.as_str()));
        let fixed = [
            ("triggers/go.yaml", "description: d\n"),
            ("packs/core/pack.yaml", "description: d\n"),
            ("packs/core/actions/noop.yaml", "description: d\nrunner: native\n"),
        ];
        let (definitions, mistakes) = Definitions::read(&Files::from_texts(own.chain(fixed)));
        assert_eq!(mistakes, []);
        let rules = definitions.rules_of("site.go").unwrap();
        let names = |payload: Value| -> Vec<String> {
            rules.candidates(&payload).iter().map(|rule| rule.name.clone()).collect()
        };
        let main = json!({"kind": "a", "name": "app7", "on": "main"});
        assert_eq!(names(main), ["site.r00007", "site.r00507"]);
        assert_eq!(names(json!({"kind": "b", "name": "app7", "on": "next"})), ["site.r00007"]);
        assert_eq!(names(json!({"kind": "c", "name": "app7"})), Vec::<String>::new());
        assert_eq!(names(json!({"kind": "b", "name": 7})).len(), 1000);
        assert_eq!(names(json!({"kind": 7})).len(), 1000);
    }
}
