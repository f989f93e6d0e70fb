//! One event against one rule.

use serde_json::json;

use super::{Difference, compare};
use crate::definitions::Definitions;
use crate::definitions::meets::Meets;
use crate::definitions::test::RuleCase;
use crate::matching::decide::{self, Values, Verdict};
use crate::model::{Event, EventId, Object, Value};

/// What differs from what the case expects.
///
/// A rule that counts is played as if this was the last event that it needs; one that wants several kinds of events can't be played with one.
pub(super) fn play(
    definitions: &Definitions,
    rule: &str,
    kv: Option<&Object>,
    case: &RuleCase,
) -> Vec<Difference> {
    let mut found = Vec::new();
    let Some(rule) = definitions.rules.get(rule) else {
        return vec![super::setting::left_out(definitions, "rule", rule)];
    };
    let event = Event {
        id: EventId(1),
        trigger: case.event.trigger.clone(),
        source: "test".to_owned(),
        payload: case.event.payload.clone(),
        received_at: super::workflow::START,
        routed_at: None,
        replay_of: None,
    };
    let expect = &case.expect;
    let values: Values = kv.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    let verdict = match decide::judge_alone(definitions, rule, &event, &values) {
        Verdict::Counts(counted) if matches!(rule.meets, Meets::Count { .. }) => {
            decide::finish_alone(definitions, rule, &event, &counted, &values)
        }
        verdict => verdict,
    };
    match verdict {
        Verdict::Errored { why, place } => match &expect.why {
            Some(expected) => compare::holds("why", expected, Some(&why), &mut found),
            None => found.push(Difference {
                path: "match".to_owned(),
                expected: json!(expect.matched),
                got: Some(json!("an error")),
                why: Some(format!("{place}: {why}")),
            }),
        },
        verdict if expect.why.is_some() => {
            let expected = expect.why.clone().unwrap_or_default();
            let got = if matches!(verdict, Verdict::Matched(_)) { "a match" } else { "no match" };
            compare::differs("why", json!(expected), Some(json!(got)), &mut found);
        }
        Verdict::NotMatched | Verdict::Counts(_) | Verdict::Throttled { .. } => {
            compare::values("match", &json!(expect.matched), Some(&json!(false)), &mut found);
        }
        Verdict::Matched(wanted) => {
            compare::values("match", &json!(expect.matched), Some(&json!(true)), &mut found);
            let expected = |value: &Option<Value>, path: &str, got: &Value, found: &mut Vec<Difference>| {
                if let Some(value) = value {
                    compare::values(path, value, Some(got), found);
                }
            };
            expected(&expect.run.as_ref().map(|run| json!(run)), "run", &json!(wanted.run), &mut found);
            expected(&expect.with, "with", &wanted.input, &mut found);
            expected(&expect.on_behalf_of, "on_behalf_of", &json!(wanted.on_behalf_of), &mut found);
        }
    }
    found
}
