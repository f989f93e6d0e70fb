//! The rules that look at the events of a trigger, found by the comparisons with which their conditions begin.
//!
//! Promise: what is left out would have said no; the rest is given in order of name. One event among thousands of rules that begin with comparisons
//! costs what the few that fit cost, also where they share the first of them: the comparisons make a tree.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Rule;
use super::meets::Meets;
use crate::expr::condition::{Found, Lead, Wanted, find, leads};
use crate::model::Value;

/// In how many places of the tree one rule may stand: lists of values multiply.
const MOST_PLACES: usize = 256;

/// The rules of one trigger.
#[derive(Clone, Debug, Default)]
pub struct Listening {
    /// In order of name.
    rules: Vec<Arc<Rule>>,
    root: Node,
    readers: Vec<Arc<Rule>>,
}

/// The rules whose comparisons so far all held.
#[derive(Clone, Debug, Default)]
struct Node {
    /// Those that have no more of them.
    here: Vec<usize>,
    groups: Vec<Group>,
}

/// Rules whose next comparison is of the same value, with the same kind of thing.
#[derive(Clone, Debug)]
struct Group {
    path: Vec<(String, bool)>,
    kind: Kind,
    all: Vec<usize>,
    by_value: HashMap<String, Node>,
    /// Of prefixes: how long they are, in bytes.
    lengths: BTreeSet<usize>,
}

/// What is compared with, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Whole,
    Truth,
    Prefix,
}

impl Listening {
    /// To be called in order of name.
    pub(super) fn add(&mut self, rule: &Arc<Rule>) {
        let index = self.rules.len();
        self.rules.push(Arc::clone(rule));
        if !rule.read.is_empty() {
            self.readers.push(Arc::clone(rule));
        }
        self.root.add(index, &bounded(leads_of(rule)));
    }

    /// Those that read values of the KV store, in order of name.
    pub fn readers(&self) -> &[Arc<Rule>] {
        &self.readers
    }

    /// Those that may meet this payload, in order of name.
    pub fn candidates(&self, payload: &Value) -> Vec<&Arc<Rule>> {
        let mut found = Vec::new();
        self.root.find(payload, &mut found);
        found.sort_unstable();
        found.dedup();
        found.into_iter().map(|index| &self.rules[index]).collect()
    }
}

impl Node {
    fn add(&mut self, index: usize, leads: &[Lead]) {
        let Some((lead, rest)) = leads.split_first() else { return self.here.push(index) };
        let kind = kind_of(&lead.wanted);
        let is_same = |group: &Group| group.path == lead.path && group.kind == kind;
        let position = self.groups.iter().position(is_same).unwrap_or_else(|| {
            let (path, all, by_value, lengths) =
                (lead.path.clone(), Vec::new(), HashMap::new(), BTreeSet::new());
            self.groups.push(Group { path, kind, all, by_value, lengths });
            self.groups.len() - 1
        });
        let group = &mut self.groups[position];
        group.all.push(index);
        for key in keys_of(&lead.wanted) {
            group.lengths.insert(key.len());
            group.by_value.entry(key).or_default().add(index, rest);
        }
    }

    fn find(&self, payload: &Value, found: &mut Vec<usize>) {
        found.extend(&self.here);
        for group in &self.groups {
            match (group.kind, find(&group.path, payload)) {
                (Kind::Prefix, Found::Value(Value::String(text))) => {
                    let prefixes = group.lengths.iter().map_while(|length| text.as_bytes().get(..*length));
                    let nodes =
                        prefixes.filter_map(|bytes| group.by_value.get(std::str::from_utf8(bytes).ok()?));
                    nodes.for_each(|node| node.find(payload, found));
                }
                (Kind::Text, Found::Value(Value::String(text))) => group.descend(text, payload, found),
                (Kind::Whole, Found::Value(Value::Number(number))) if number.is_i64() => {
                    group.descend(&number.to_string(), payload, found);
                }
                (Kind::Truth, Found::Value(Value::Bool(truth))) => {
                    group.descend(if *truth { "true" } else { "false" }, payload, found);
                }
                (Kind::Text | Kind::Whole | Kind::Truth, Found::Value(Value::Null)) => (),
                // The comparison is an error, and each of them says so.
                (_, Found::Value(_) | Found::Unclear) => found.extend(&group.all),
            }
        }
    }
}

impl Group {
    fn descend(&self, key: &str, payload: &Value, found: &mut Vec<usize>) {
        if let Some(node) = self.by_value.get(key) {
            node.find(payload, found);
        }
    }
}

fn kind_of(wanted: &Wanted) -> Kind {
    match wanted {
        Wanted::Prefix(_) => Kind::Prefix,
        Wanted::OneOf(values) => match values.first() {
            Some(Value::Number(_)) => Kind::Whole,
            Some(Value::Bool(_)) => Kind::Truth,
            _ => Kind::Text,
        },
    }
}

/// What a value is looked up by.
fn keys_of(wanted: &Wanted) -> BTreeSet<String> {
    match wanted {
        Wanted::Prefix(prefix) => BTreeSet::from([prefix.clone()]),
        Wanted::OneOf(values) => {
            let key = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            values.iter().map(key).collect()
        }
    }
}

/// As many of the comparisons as give a rule no more places than it may have.
fn bounded(mut leads: Vec<Lead>) -> Vec<Lead> {
    let mut places = 1;
    let fits = leads.iter().take_while(|lead| {
        places *= keys_of(&lead.wanted).len();
        places <= MOST_PLACES
    });
    let count = fits.count();
    leads.truncate(count);
    leads
}

/// The comparisons of a rule that does nothing before its `when`.
fn leads_of(rule: &Rule) -> Vec<Lead> {
    if !rule.read.is_empty() || matches!(rule.meets, Meets::All { .. }) {
        return Vec::new();
    }
    rule.when.as_ref().map(|when| leads(when.source())).unwrap_or_default()
}
