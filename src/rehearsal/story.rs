//! What happened in a played run, told in order: what people read when a case failed.

use super::Moment;
use crate::conductor::Entry;
use crate::model::run::UNDO_SUFFIX;
use crate::model::{Span, StepKey, Value};

/// Moments kept of a run that goes on and on.
const MAX_MOMENTS: usize = 1000;
/// Of an input or output in a moment, in characters.
const MAX_SHOWN: usize = 200;

/// The moments so far.
#[derive(Default)]
pub(super) struct Story {
    pub(super) moments: Vec<Moment>,
}

/// Where the steps stand that something is told of.
#[derive(Clone, Debug, Default)]
pub(super) struct Scene {
    /// The group that is a run of its own, `roll[3]`, in the one around it if there is one: `each[0].roll`. Empty: the run of the case.
    pub(super) group: String,
    /// It takes back what the group did.
    pub(super) is_rollback: bool,
}

impl Scene {
    /// The scene of a group in this one.
    pub(super) fn of_group(&self, key: &str) -> Scene {
        Scene { group: self.name(key), is_rollback: false }
    }

    /// What a step, an item or an undo in it is called.
    pub(super) fn who(&self, key: &str) -> String {
        match key.strip_suffix(UNDO_SUFFIX) {
            Some(key) => format!("undo of {}", self.name(key)),
            None => self.name(key),
        }
    }

    fn name(&self, key: &str) -> String {
        if self.group.is_empty() { key.to_owned() } else { format!("{}.{key}", self.group) }
    }
}

impl Story {
    /// A line of the history of a run.
    pub(super) fn note(&mut self, after: Span, scene: &Scene, entry: &Entry) {
        let detail = entry.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
        let what = match (entry.what.split_once('.'), &entry.step) {
            (Some(("undo", what)), Some(step)) => {
                format!("{} {what}{detail}", scene.who(&format!("{step}{UNDO_SUFFIX}")))
            }
            (Some((_, what)), Some(step)) => format!("{} {what}{detail}", scene.who(step)),
            (Some((_, what)), None) if scene.group.is_empty() => format!("run {what}{detail}"),
            // Its step tells of the rest; but an item's tells only of failures.
            (Some((_, what)), None) if is_item(&scene.group) && !scene.is_rollback => match what {
                "started" | "succeeded" => format!("{} {what}", scene.group),
                _ => return,
            },
            (Some(_), None) => return,
            (None, _) => format!("{}{detail}", entry.what),
        };
        self.tell(after, what);
    }

    /// A step calls an action or a workflow. The call says that it started.
    pub(super) fn call(&mut self, after: Span, who: &str, run: &str, with: &Value) {
        let started = Moment { after, what: format!("{who} started"), again: None };
        if self.moments.last() == Some(&started) {
            self.moments.pop();
        }
        self.tell(after, format!("{who} calls {run} with {}", short(with)));
    }

    pub(super) fn tell(&mut self, after: Span, what: String) {
        let is_full = self.moments.len() >= MAX_MOMENTS;
        match self.moments.last_mut() {
            Some(last) if last.what == what => {
                last.again = Some((last.again.map_or(0, |(times, _)| times) + 1, after));
            }
            _ if is_full => (),
            _ => self.moments.push(Moment { after, what, again: None }),
        }
    }
}

/// Whether a group is done for an item of a list.
fn is_item(group: &str) -> bool {
    StepKey::parse(group.rsplit('.').next().unwrap_or(group)).item.is_some()
}

/// A value on one line, cut where it gets long.
pub(super) fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= MAX_SHOWN {
        return text;
    }
    text.chars().take(MAX_SHOWN).chain(['…']).collect()
}
