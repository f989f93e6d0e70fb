//! The rules that look at the events of a trigger, found by what their conditions begin with.
//!
//! Promise: what is left out would have said no; the rest is given in order of name. One event among thousands of rules that begin with
//! `event.x == "..."` costs what the few that fit cost.

use std::collections::HashMap;
use std::sync::Arc;

use super::Rule;
use super::meets::Meets;
use crate::expr::condition::{Found, Lead};
use crate::model::Value;

/// The rules of one trigger.
#[derive(Clone, Debug, Default)]
pub struct Listening {
    /// In order of name.
    rules: Vec<Arc<Rule>>,
    /// Those that are tried on every event.
    always: Vec<usize>,
    groups: Vec<Group>,
    readers: Vec<Arc<Rule>>,
}

/// Rules whose conditions begin by comparing the same value with one of the same type.
#[derive(Clone, Debug)]
struct Group {
    /// The lead of one of them.
    lead: Lead,
    all: Vec<usize>,
    by_value: HashMap<String, Vec<usize>>,
}

impl Listening {
    /// To be called in order of name.
    pub(super) fn add(&mut self, rule: &Arc<Rule>) {
        let index = self.rules.len();
        self.rules.push(Arc::clone(rule));
        if !rule.read.is_empty() {
            self.readers.push(Arc::clone(rule));
        }
        let Some(lead) = lead_of(rule) else { return self.always.push(index) };
        let is_same =
            |group: &Group| group.lead.path == lead.path && is_of_one_type(&group.lead.value, &lead.value);
        let key = lead.value.to_string();
        let position = self.groups.iter().position(is_same).unwrap_or_else(|| {
            self.groups.push(Group { lead, all: Vec::new(), by_value: HashMap::new() });
            self.groups.len() - 1
        });
        let group = &mut self.groups[position];
        group.all.push(index);
        group.by_value.entry(key).or_default().push(index);
    }

    /// Those that read values of the KV store, in order of name.
    pub fn readers(&self) -> &[Arc<Rule>] {
        &self.readers
    }

    /// Those that may meet this payload, in order of name.
    pub fn candidates(&self, payload: &Value) -> Vec<&Arc<Rule>> {
        let mut found = self.always.clone();
        for group in &self.groups {
            match group.lead.find(payload) {
                Found::Value(Value::Null) => (),
                Found::Value(value) if is_of_one_type(value, &group.lead.value) => {
                    found.extend(group.by_value.get(&value.to_string()).into_iter().flatten());
                }
                // The comparison is an error, and each of them says so.
                Found::Value(_) | Found::Unclear => found.extend(&group.all),
            }
        }
        found.sort_unstable();
        found.into_iter().map(|index| &self.rules[index]).collect()
    }
}

fn is_of_one_type(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::String(_), Value::String(_)) | (Value::Bool(_), Value::Bool(_)) => true,
        (Value::Number(one), Value::Number(other)) => one.is_i64() && other.is_i64(),
        _ => false,
    }
}

/// The lead of a rule that does nothing before its `when`.
fn lead_of(rule: &Rule) -> Option<Lead> {
    if !rule.read.is_empty() || matches!(rule.meets, Meets::All { .. }) {
        return None;
    }
    Lead::of(rule.when.as_ref()?.source())
}
