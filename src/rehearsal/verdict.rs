//! What a played run came to, held against what the case expects of it.

use serde_json::json;

use super::{Difference, compare};
use crate::definitions::test::WorkflowExpected;
use crate::model::{Run, RunError, Value};

/// All that can be looked at once a run has been played.
pub(super) struct Played<'a> {
    pub(super) run: &'a Run,
    /// The steps that were taken back, those in groups too, in order.
    pub(super) undone: &'a [String],
    /// What was called with what, in order.
    pub(super) calls: &'a [(String, Value)],
}

impl Played<'_> {
    pub(super) fn differences(&self, expect: &WorkflowExpected) -> Vec<Difference> {
        let mut found = Vec::new();
        if let Some(status) = expect.status
            && status != self.run.status
        {
            let why = self.run.error.as_ref().map(described);
            let (expected, got) = (json!(status), Some(json!(self.run.status)));
            found.push(Difference { path: "status".to_owned(), expected, got, why });
        }
        for (id, expected) in &expect.steps {
            self.compare_step(id, expected, &mut found);
        }
        compare::names("undone", &expect.undone, self.undone, &mut found);
        compare::calls(&expect.called, self.calls, &mut found);
        for run in &expect.not_called {
            if let Some((_, with)) = self.calls.iter().find(|(called, _)| called == run) {
                let got = Some(json!({"run": run, "with": with}));
                compare::differs("not_called", json!(run), got, &mut found);
            }
        }
        if let Some(expected) = &expect.output {
            compare::values("output", expected, Some(&self.run.output), &mut found);
        }
        match (&expect.error, &self.run.error) {
            (None, _) => (),
            (Some(Value::String(part)), error) => {
                let message = error.as_ref().map(|error| error.message.as_str());
                compare::holds("error", part, message, &mut found);
            }
            (Some(expected), error) => {
                compare::values("error", expected, Some(&json!(error)), &mut found);
            }
        }
        found
    }

    fn compare_step(&self, id: &str, expected: &Value, found: &mut Vec<Difference>) {
        let path = format!("steps.{id}");
        let step = self.run.step(id);
        let why = step.and_then(|step| step.error.as_ref()).map(ToString::to_string);
        let got = step.map(|step| {
            json!({
                "status": step.status(),
                "output": step.output,
                "error": step.error,
                "attempts": step.attempts,
            })
        });
        let before = found.len();
        match (expected, &got) {
            (Value::String(_), Some(got)) => compare::values(&path, expected, got.get("status"), found),
            (expected, got) => compare::values(&path, expected, got.as_ref(), found),
        }
        if let Some(first) = found.get_mut(before) {
            first.why = why;
        }
    }
}

fn described(error: &RunError) -> String {
    let step = error.step.as_ref().map(|step| format!("{step}: ")).unwrap_or_default();
    let place = error.place.as_ref().map(|place| format!(", {place}")).unwrap_or_default();
    format!("{step}{error}{place}")
}
