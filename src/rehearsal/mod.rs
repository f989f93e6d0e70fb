//! The tests of definitions, played on simulated time: rules meet events, workflows run from their first step to their last, and nothing is done.
//!
//! Promises: the same definitions and tests give the same reports; a timeout of 24 hours takes no time; a run that never ends is stopped and says
//! so; each difference says what was expected and what came, each failed case also what happened, in order. A run is moved by
//! `conductor::advance` and a rule judged by `matching`, so a test sees what the server would do. Leaves to others: reading the tests
//! (`definitions::test`) and showing the reports.

mod compare;
mod mocks;
mod record;
mod rule;
mod setting;
mod story;
#[cfg(test)]
mod tests;
mod verdict;
mod workflow;

use serde::Serialize;

use crate::definitions::test::{Subject, Test};
use crate::definitions::{Definitions, Place};
use crate::model::{Span, Value};

pub use record::{Does, Heard, MOST_ITEMS, Recorded, RecordedStep, Said, write};

/// What came of one case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The rule or workflow.
    pub of: String,
    pub case: String,
    pub place: Place,
    /// Empty: it passed.
    pub differences: Vec<Difference>,
    /// What happened, in order; empty for rules.
    pub timeline: Vec<Moment>,
}

impl Report {
    pub fn passed(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Where what came is not what was expected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// `status`, `steps.bake`, `with.app`, `called`.
    pub path: String,
    pub expected: Value,
    /// `None`: there was no such thing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub got: Option<Value>,
    /// Why, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: expected {}, ", self.path, shown(&self.expected))?;
        match &self.got {
            Some(got) => write!(f, "got {}", shown(got))?,
            None => f.write_str("got nothing")?,
        }
        match &self.why {
            Some(why) => write!(f, " ({why})"),
            None => Ok(()),
        }
    }
}

/// A word stands as it is, anything else as JSON, so that text and data can be told apart.
fn shown(value: &Value) -> String {
    match value.as_str() {
        Some(word) if !word.is_empty() && word.chars().all(is_of_a_word) => word.to_owned(),
        _ => value.to_string(),
    }
}

fn is_of_a_word(c: char) -> bool {
    c.is_alphabetic() || "_.".contains(c)
}

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// Since the run's start.
    pub after: Span,
    pub what: String,
    /// How often it happened again, and when the last time was: the check of a watch fills no pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub again: Option<(u32, Span)>,
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)?;
        match self.again {
            Some((1, last)) => write!(f, ", and again at {last}"),
            Some((times, last)) => write!(f, ", and {times} times more until {last}"),
            None => Ok(()),
        }
    }
}

/// Plays every case of a test.
pub fn rehearse(definitions: &Definitions, test: &Test) -> Vec<Report> {
    let definitions = setting::with(definitions, &test.setting);
    let of = test.subject.name();
    match &test.subject {
        Subject::Rule { cases, .. } => {
            let kv = test.setting.kv.as_ref();
            let play = |case| (rule::play(&definitions, of, kv, case), Vec::new());
            cases.iter().map(|case| report(of, &case.name, &case.place, play(case))).collect()
        }
        Subject::Workflow { mocks, cases, .. } => {
            let kv = test.setting.kv.as_ref();
            let play = |case| workflow::play(&definitions, of, mocks, kv, case);
            cases.iter().map(|case| report(of, &case.name, &case.place, play(case))).collect()
        }
    }
}

fn report(
    of: &str,
    case: &str,
    place: &Place,
    (differences, timeline): (Vec<Difference>, Vec<Moment>),
) -> Report {
    Report { of: of.to_owned(), case: case.to_owned(), place: place.clone(), differences, timeline }
}
