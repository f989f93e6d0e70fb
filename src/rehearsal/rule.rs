//! One event against one rule.

use serde_json::json;

use super::{Difference, compare};
use crate::definitions::Definitions;
use crate::definitions::test::RuleCase;
use crate::matching::decide::{self, Verdict};
use crate::model::{Event, EventId, Value};

/// What differs from what the case expects.
pub(super) fn play(definitions: &Definitions, rule: &str, case: &RuleCase) -> Vec<Difference> {
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
    match decide::judge(definitions, rule, &event) {
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
        Verdict::NotMatched => {
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
