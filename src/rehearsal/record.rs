//! A run that really was, written as a test: its outputs as mocks, its events and answers at their times, its end as what is expected.
//!
//! Promises: what is written reads as a test, whatever the outputs hold. Leaves to others: finding out what was (`cli`). What a failed attempt had
//! reported is not known, nor what came of attempts before the last: the last one is written as if it had been the first. People who know may add it.

use serde_json::json;

use crate::model::{Object, RunError, RunStatus, Span, StepStatus, Value};

/// Items that have a mock of their own. Where there are more, the run's output is not expected.
pub const MOST_ITEMS: usize = 200;

/// What is known of a run that ended.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The name of the case.
    pub name: String,
    pub workflow: String,
    pub input: Value,
    pub status: RunStatus,
    pub error: Option<RunError>,
    pub output: Value,
    pub steps: Vec<RecordedStep>,
    /// Steps whose undos were done, in order.
    pub undone: Vec<String>,
    pub heard: Vec<Heard>,
    pub said: Vec<Said>,
}

/// A step of it.
#[derive(Clone, Debug)]
pub struct RecordedStep {
    pub id: String,
    pub status: StepStatus,
    pub does: Does,
    pub attempts: u32,
    pub output: Value,
    pub error: Option<RunError>,
    pub took: Option<Span>,
    /// Of a step, or a member of a group, that was done for each item of a list: what came of each, in order. `None` where it did not begin.
    pub items: Vec<Option<RecordedStep>>,
    /// It stands in a group that was a run of its own: nothing can be expected of it.
    pub is_in_group: bool,
}

/// What of a step a mock can stand in for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// An action or a workflow did its work: what that gave is the step's output.
    Call,
    /// Time passed under watch: a failure that no event caused came from its check.
    Watch,
    /// An event was waited for, and a poll may have found the same thing before.
    Wait,
    /// Something else: people, events, time.
    Other,
}

/// An event that it took notice of.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Since the run's start.
    pub at: Span,
    pub trigger: String,
    pub payload: Value,
}

/// What people said to one of its steps.
#[derive(Clone, Debug)]
pub struct Said {
    pub step: String,
    pub by: Vec<String>,
    /// Since the run's start.
    pub at: Span,
    pub reject: bool,
    pub comment: Option<String>,
    pub answers: Value,
}

/// The test, as YAML.
pub fn write(run: &Recorded) -> String {
    let mut test = map([("workflow", json!(run.workflow))]);
    let mocks: Object = run.steps.iter().filter_map(|step| Some((step.id.clone(), mock_of(step)?))).collect();
    if !mocks.is_empty() {
        test.insert("mock".to_owned(), Value::Object(mocks));
    }
    let mut case = map([("name", json!(run.name)), ("input", run.input.clone())]);
    let events: Vec<Value> = run
        .heard
        .iter()
        .map(|event| json!({"at": event.at, "trigger": event.trigger, "payload": event.payload}))
        .collect();
    if !events.is_empty() {
        case.insert("events".to_owned(), Value::Array(events));
    }
    let mut answers = Object::new();
    for said in &run.said {
        // What was asked for one item after another is answered as the first was.
        answers.entry(said.step.clone()).or_insert_with(|| answer(said));
    }
    if !answers.is_empty() {
        case.insert("answers".to_owned(), Value::Object(answers));
    }
    case.insert("expect".to_owned(), expected(run));
    test.insert("cases".to_owned(), json!([case]));
    let mut text = String::new();
    block(&Value::Object(test), 0, &mut text);
    text
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Object {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// One mock for each item, as far as they differ; the last holds for all further ones.
fn mocks_of_items(step: &RecordedStep) -> Option<Value> {
    let nothing = || json!({"output": {}});
    let of_item = |item: &Option<RecordedStep>| item.as_ref().and_then(mock_of);
    if !step.items.iter().any(|item| of_item(item).is_some()) {
        return None;
    }
    let items = step.items.iter().take(MOST_ITEMS);
    let mut mocks: Vec<Value> = items.map(|item| of_item(item).unwrap_or_else(nothing)).collect();
    while mocks.len() > 1 && mocks.last() == mocks.get(mocks.len() - 2) {
        mocks.pop();
    }
    match mocks.len() {
        1 => mocks.pop(),
        _ => Some(Value::Array(mocks)),
    }
}

/// What stands in for the step's attempts; nothing when there was none, or when it would be what holds without a mock.
fn mock_of(step: &RecordedStep) -> Option<Value> {
    if !step.items.is_empty() {
        return mocks_of_items(step);
    }
    let is_played = match step.does {
        Does::Call => true,
        Does::Watch => step.status == StepStatus::Failed,
        Does::Wait => step.output["by"] == "poll",
        Does::Other => false,
    };
    if !is_played || step.attempts == 0 {
        return None;
    }
    let mut last = Object::new();
    match &step.error {
        Some(error) if step.status != StepStatus::Succeeded => {
            last.insert("error".to_owned(), json!({"kind": error.kind, "message": error.message}));
            if !step.output.is_null() {
                last.insert("output".to_owned(), step.output.clone());
            }
        }
        _ if step.does == Does::Wait => {
            last.insert("output".to_owned(), step.output["output"].clone());
        }
        _ => {
            last.insert("output".to_owned(), step.output.clone());
        }
    }
    // Waits between attempts are in what it took, so this is known of a single attempt only.
    if let Some(took) = step.took.filter(|took| took.0 > 0 && step.attempts == 1 && step.does == Does::Call) {
        last.insert("takes".to_owned(), json!(took));
    }
    Some(Value::Object(last))
}

fn answer(said: &Said) -> Value {
    let by = match said.by.as_slice() {
        [one] => json!(one),
        all => json!(all),
    };
    let mut answer = map([("by", by), ("at", json!(said.at))]);
    if said.reject {
        answer.insert("reject".to_owned(), json!(true));
    }
    if let Some(comment) = &said.comment {
        answer.insert("comment".to_owned(), json!(comment));
    }
    if said.answers.as_object().is_some_and(|answers| !answers.is_empty()) && !said.reject {
        answer.insert("answers".to_owned(), said.answers.clone());
    }
    Value::Object(answer)
}

fn expected(run: &Recorded) -> Value {
    let mut expected = map([("status", json!(run.status))]);
    let own = run.steps.iter().filter(|step| !step.is_in_group);
    let steps: Object = own.map(|step| (step.id.clone(), json!(step.status))).collect();
    expected.insert("steps".to_owned(), Value::Object(steps));
    // What a failed step had reported is not known, so its undo finds nothing to undo.
    let succeeded =
        |id: &&String| run.steps.iter().any(|step| step.id == **id && step.status == StepStatus::Succeeded);
    let undone: Vec<&String> = run.undone.iter().filter(succeeded).collect();
    if !undone.is_empty() {
        expected.insert("undone".to_owned(), json!(undone));
    }
    let is_whole = run.steps.iter().all(|step| step.items.len() <= MOST_ITEMS);
    if is_whole && run.output.as_object().is_some_and(|output| !output.is_empty()) {
        expected.insert("output".to_owned(), run.output.clone());
    }
    // Messages may name ids that differ from run to run.
    if let Some(error) = &run.error {
        let mut of_error = map([("kind", json!(error.kind))]);
        of_error.extend(error.step.as_ref().map(|step| ("step".to_owned(), json!(step))));
        expected.insert("error".to_owned(), Value::Object(of_error));
    }
    Value::Object(expected)
}

// YAML.

/// A value as block YAML, at an indentation.
fn block(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                *text += &format!("{:indent$}{}:", "", scalar(&json!(key)));
                below(value, indent + 2, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                *text += &format!("{:indent$}-", "");
                let mut inner = String::new();
                below(item, indent + 2, &mut inner);
                // The first entry stands beside the dash.
                match inner.strip_prefix('\n') {
                    Some(rest) => *text += &format!(" {}", rest.trim_start_matches(' ')),
                    None => text.push_str(&inner),
                }
            }
        }
        other => {
            *text += &format!("{:indent$}{}\n", "", flow(other));
        }
    }
}

/// What follows a key or a dash: on the same line when it is short, below it otherwise.
fn below(value: &Value, indent: usize, text: &mut String) {
    const LONGEST: usize = 80;
    let is_nested = matches!(value, Value::Object(_) | Value::Array(_));
    let flat = flow(value);
    if !is_nested || flat.chars().count() <= LONGEST && !holds_maps(value) {
        *text += &format!(" {flat}\n");
        return;
    }
    text.push('\n');
    block(value, indent, text);
}

/// Whether a map stands inside of it: then each has a line of its own.
fn holds_maps(value: &Value) -> bool {
    let is_map = |value: &Value| matches!(value, Value::Object(map) if !map.is_empty());
    match value {
        Value::Object(entries) => entries.values().any(|value| is_map(value) || holds_maps(value)),
        Value::Array(items) => items.iter().any(|value| is_map(value) || holds_maps(value)),
        _ => false,
    }
}

/// A value on one line.
fn flow(value: &Value) -> String {
    match value {
        Value::Object(entries) => {
            let inner: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{}: {}", scalar(&json!(key)), flow(value)))
                .collect();
            format!("{{{}}}", inner.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        other => scalar(other),
    }
}

/// Text in quotes, unless it can only be read as text.
fn scalar(value: &Value) -> String {
    let Some(text) = value.as_str() else { return value.to_string() };
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
        && !matches!(
            text.to_lowercase().as_str(),
            "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
        );
    let is_span = text.parse::<Span>().is_ok() && !text.contains(char::is_whitespace);
    if is_plain || is_span {
        return text.to_owned();
    }
    quoted(text)
}

/// In double quotes: the escapes of JSON are YAML's too, but for what JSON leaves as it is and YAML takes for a control character or a line's end.
fn quoted(text: &str) -> String {
    let mut escaped = String::new();
    for c in json!(text).to_string().chars() {
        let is_seen = !c.is_control() && !matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}');
        match is_seen {
            true => escaped.push(c),
            false => escaped += &format!("\\u{:04x}", u32::from(c)),
        }
    }
    escaped
}
