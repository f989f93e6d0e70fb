//! What an attempt or child run comes to, without anything being done.

use serde_json::json;

use crate::definitions::Workflow;
use crate::definitions::test::{Mock, Mocks};
use crate::definitions::workflow::{Call, Kind};
use crate::model::{Object, RunError, Span, Value};

/// The mocks of a test, with those of the case at hand over them.
#[derive(Clone, Copy)]
pub(super) struct Cast<'a> {
    pub(super) of_test: &'a Mocks,
    pub(super) of_case: &'a Mocks,
}

impl<'a> Cast<'a> {
    /// The mock for attempt `number` (from 1) of a step that calls `run`: of the case before the test, of the step before what it calls. For an `item` of
    /// a list it is the item's own. The last one holds for all further ones.
    pub(super) fn find(self, step: &str, run: &str, item: Option<u32>, number: u32) -> Option<&'a Mock> {
        let mocks = [self.of_case, self.of_test];
        let named = |name: &str| mocks.iter().find_map(|mocks| mocks.by_name.get(name));
        let plays = named(step).or_else(|| named(run))?;
        match item {
            Some(item) => nth(nth(plays.iter(), item)?.iter(), number.saturating_sub(1)),
            None => nth(plays.iter().flatten(), number.saturating_sub(1)),
        }
    }

    fn knows(self, step: &str, run: &str) -> bool {
        self.find(step, run, None, 1).is_some()
    }
}

/// The entry of this index, or the last.
fn nth<'a, T: ?Sized>(entries: impl Iterator<Item = &'a T> + Clone, index: u32) -> Option<&'a T> {
    entries.clone().nth(usize::try_from(index).unwrap_or(usize::MAX)).or_else(|| entries.last())
}

/// The workflow as it is played. What judges the answer of an action that nobody mocked would judge an answer that nobody gave, so it is left out:
/// the check of a watch, the poll beside a wait, the repetition of a step.
pub(super) fn as_played(workflow: &Workflow, cast: Cast<'_>, has_kv: bool) -> Workflow {
    let mut played = workflow.clone();
    let steps = played.steps.iter_mut().chain(&mut played.on_failure).chain(&mut played.finally);
    for step in steps {
        let answers = |call: &Call| cast.knows(&step.id, &call.run) || is_really_done(&call.run, has_kv);
        match &mut step.kind {
            Kind::Watch(watch) => watch.check = watch.check.take().filter(|check| answers(&check.call)),
            Kind::WaitFor(wait) => wait.poll = wait.poll.take().filter(|poll| answers(&poll.call)),
            Kind::Run(call) => step.repeat = step.repeat.take().filter(|_| answers(call)),
            Kind::Approve(_) | Kind::Sleep(_) | Kind::Emit { .. } | Kind::Group(_) => (),
        }
    }
    played
}

fn is_really_done(action: &str, has_kv: bool) -> bool {
    let of_kv = matches!(action, "core.kv_get" | "core.kv_set");
    matches!(action, "core.echo" | "core.noop" | "core.fail") || (of_kv && has_kv)
}

/// What an action that nobody mocked comes to: the smallest ones are really done, all others succeed with nothing.
pub(super) fn unmocked(action: &str, input: &Value, kv: &mut Option<Kv>) -> Mock {
    let succeeds = |output| Mock { output, error: None, takes: Span(0) };
    match (action, kv) {
        ("core.echo", _) => succeeds(json!({"value": input["value"]})),
        ("core.fail", _) => {
            let message = input["message"].as_str().unwrap_or_default();
            Mock { output: Value::Null, error: Some(RunError::failed(message)), takes: Span(0) }
        }
        ("core.kv_get", Some(kv)) => succeeds(kv.get(&text(&input["key"]))),
        ("core.kv_set", Some(kv)) => match kv.set(input) {
            Ok(output) => succeeds(output),
            Err(why) => Mock { output: Value::Null, error: Some(RunError::failed(why)), takes: Span(0) },
        },
        _ => succeeds(json!({})),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The key-value store of one played run.
pub(super) struct Kv {
    entries: std::collections::BTreeMap<String, (Value, i64)>,
}

impl Kv {
    pub(super) fn holding(entries: &Object) -> Kv {
        let entries = entries.iter().map(|(key, value)| (key.clone(), (value.clone(), 1)));
        Kv { entries: entries.collect() }
    }

    fn get(&self, key: &str) -> Value {
        match self.entries.get(key) {
            Some((value, version)) => json!({"value": value, "version": version}),
            None => json!({"value": null, "version": 0}),
        }
    }

    /// The value of a key, null where there is none.
    pub(super) fn value(&self, key: &str) -> Value {
        self.entries.get(key).map(|(value, _)| value.clone()).unwrap_or_default()
    }

    fn set(&mut self, input: &Value) -> Result<Value, String> {
        let key = text(&input["key"]);
        let now = self.entries.get(&key).map_or(0, |(_, version)| *version);
        if let Some(wanted) = input["if_version"].as_i64().filter(|wanted| *wanted != now) {
            return Err(format!("`{key}` has version {now}, not {wanted}"));
        }
        self.entries.insert(key, (input["value"].clone(), now + 1));
        Ok(json!({"version": now + 1}))
    }
}
