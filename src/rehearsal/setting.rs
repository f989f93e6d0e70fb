//! The definitions as a test wants them: its `config` and `apps` in place of the site's.

use std::sync::Arc;

use super::Difference;
use crate::definitions::Definitions;
use crate::definitions::test::Setting;
use crate::model::{Object, Value};

/// The same definitions under another configuration and with other apps.
pub(super) fn with(definitions: &Definitions, setting: &Setting) -> Definitions {
    let mut changed = definitions.clone();
    if !setting.apps.is_empty() {
        let mut apps = changed.apps.as_object().cloned().unwrap_or_default();
        apps.extend(setting.apps.clone());
        changed.apps = Arc::new(Value::Object(apps));
    }
    for (pack, given) in &setting.config {
        let entry = changed.site.config.entry(pack.clone()).or_insert_with(|| Value::Object(Object::new()));
        overlay(entry, given);
        for rule in changed.rules.values_mut().filter(|rule| rule.pack == *pack) {
            overlay(&mut Arc::make_mut(rule).config, given);
        }
        for workflow in changed.workflows.values_mut().filter(|workflow| workflow.pack == *pack) {
            let workflow = Arc::make_mut(workflow);
            overlay(&mut workflow.config, given);
            workflow.groups.values_mut().for_each(|group| overlay(&mut Arc::make_mut(group).config, given));
        }
    }
    changed.sort_rules();
    changed
}

fn overlay(config: &mut Value, given: &Object) {
    match config {
        Value::Object(object) => object.extend(given.clone()),
        other => *other = Value::Object(given.clone()),
    }
}

/// What is to be tried has a mistake, so nothing of it can be tried.
pub(super) fn left_out(definitions: &Definitions, kind: &str, name: &str) -> Difference {
    let why = definitions.left_out.get(&format!("{kind} {name}"));
    let why =
        why.map_or_else(|| format!("there is no {kind} `{name}`"), |why| format!("it was left out: {why}"));
    Difference { path: kind.to_owned(), expected: Value::String(name.to_owned()), got: None, why: Some(why) }
}
