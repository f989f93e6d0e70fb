//! What users write: YAML texts in, checked definitions out, and every mistake with its place.
//!
//! Promises: all mistakes at once, never only the first; a definition with a mistake, and what names it, is left out and harms no other;
//! nothing here reads a file (the texts come in as `Files`), so a revision in the store reads like a folder.
//!
//! `yaml.rs` makes nodes of a text, `sheet.rs` takes keys from them, one file per kind says which keys there are and what they mean,
//! `check.rs` looks up names, `read.rs` knows which file is what. A workflow is read by `workflow.rs`, its steps by `step.rs`, `waits.rs` and
//! `loops.rs`; `graph.rs` holds them together, `reads.rs` says which of them sees what, `groups.rs` lays them out for the conductor.

pub mod action;
pub mod agent;
pub mod answers;
pub mod app;
pub mod check;
pub mod consul;
pub mod difference;
pub mod fields;
mod graph;
mod groups;
pub mod live;
mod loops;
pub mod mistake;
mod read;
mod reads;
pub mod schema;
pub mod needs;
pub mod origin;
pub mod remote;
pub mod rule;
pub mod schedule;
mod sheet;
pub mod site;
pub mod listening;
pub mod meets;
pub mod source;
pub mod webhook;
mod step;
pub mod test;
#[cfg(test)]
mod tests;
mod traps;
pub mod tree;
pub mod trigger;
mod waits;
pub mod window;
pub mod workflow;
pub mod yaml;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use action::Action;
pub use mistake::{Mistake, Place, nearest, show};
pub use rule::Rule;
pub use source::Source;
pub use trigger::Trigger;
pub use workflow::Workflow;

use crate::expr::Expr;
use crate::model::Value;
use crate::model::retry::Retry;
use listening::Listening;

/// The pack of the repository's own definitions.
pub const SITE: &str = "site";

/// The texts of a site, by path relative to its root: `siskin.yaml`, `rules/ci.yaml`, `packs/github/pack.yaml`, `packs/ci/bin/x.py`.
/// Bytes, since a file may be in the wrong encoding and must be answered with a mistake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    pub texts: BTreeMap<String, Arc<[u8]>>,
    /// Paths below `packs/` that came from the binary: their places say so.
    pub embedded: std::collections::BTreeSet<String>,
    /// Paths that could not be read, and why: each is a mistake of its own. Their texts are empty.
    pub unread: BTreeMap<String, String>,
}

impl Files {
    /// Files from pairs of path and text.
    pub fn from_texts<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Files {
        let texts = texts.into_iter().map(|(path, text)| (path.to_owned(), Arc::from(text.as_bytes())));
        Files { texts: texts.collect(), ..Files::default() }
    }
}

/// Everything that a site defines, checked, of one revision.
#[derive(Clone, Debug)]
pub struct Definitions {
    /// Hex SHA-256 over all texts: names the revision.
    pub revision: String,
    pub expr: Arc<Expr>,
    pub site: site::Site,
    pub actions: BTreeMap<String, Arc<Action>>,
    pub workflows: BTreeMap<String, Arc<Workflow>>,
    pub rules: BTreeMap<String, Arc<Rule>>,
    /// The same by trigger: each event meets those of its own only.
    listening: BTreeMap<String, Listening>,
    pub triggers: BTreeMap<String, Arc<Trigger>>,
    pub sources: BTreeMap<String, Arc<Source>>,
    /// What `siskin test` plays, in the order of their files.
    pub tests: Vec<test::Test>,
    /// All apps as data: what `apps` is in expressions.
    pub apps: Arc<Value>,
    /// Definitions that were left out, by `KIND NAME` (`rule site.ci`), and the reason.
    pub left_out: BTreeMap<String, String>,
}

/// An action or a workflow: they share one namespace.
#[derive(Clone, Copy, Debug)]
pub enum Callable<'a> {
    Action(&'a Arc<Action>),
    Workflow(&'a Arc<Workflow>),
}

impl<'a> Callable<'a> {
    /// What it takes.
    pub fn input(self) -> &'a fields::Fields {
        match self {
            Callable::Action(action) => &action.input,
            Callable::Workflow(workflow) => &workflow.input,
        }
    }
}

impl Definitions {
    /// The rules that look at events of a trigger.
    pub fn rules_of(&self, trigger: &str) -> Option<&Listening> {
        self.listening.get(trigger)
    }

    /// To be called when `rules` has changed.
    pub(crate) fn sort_rules(&mut self) {
        self.listening.clear();
        for rule in self.rules.values() {
            for trigger in &rule.triggers {
                self.listening.entry(trigger.clone()).or_default().add(rule);
            }
        }
    }

    /// Reads all texts. What has a mistake, and what names it, is not among the definitions. Mistakes come by file and line.
    pub fn read(files: &Files) -> (Definitions, Vec<Mistake>) {
        read::read(files)
    }

    /// The action or workflow of this name.
    pub fn callable(&self, name: &str) -> Option<Callable<'_>> {
        let action = self.actions.get(name).map(Callable::Action);
        action.or_else(|| self.workflows.get(name).map(Callable::Workflow))
    }

    /// What the action or workflow of this name takes.
    pub fn input_of(&self, name: &str) -> Option<&fields::Fields> {
        self.callable(name).map(Callable::input)
    }

    /// What a run of this name follows: a workflow, the one step of an action, or of a workflow the group `pack.name#group`.
    pub fn workflow_of(&self, name: &str) -> Option<Arc<Workflow>> {
        if let Some((outer, group)) = name.split_once('#') {
            return self.workflows.get(outer)?.groups.get(group).map(Arc::clone);
        }
        match self.callable(name)? {
            Callable::Workflow(workflow) => Some(Arc::clone(workflow)),
            Callable::Action(action) => Some(Arc::new(self.implicit_workflow(action))),
        }
    }

    /// Says that there is no such action or workflow, and which is meant perhaps, or why it was left out.
    pub fn no_such_callable(&self, name: &str) -> String {
        let left_out =
            ["action", "workflow"].iter().find_map(|kind| self.left_out.get(&format!("{kind} {name}")));
        if let Some(why) = left_out {
            return format!("`{name}` was left out, because {why}; `siskin check` shows all mistakes");
        }
        let names = self.actions.keys().chain(self.workflows.keys()).map(String::as_str);
        match nearest(name, names) {
            Some(near) => format!("there is no action or workflow `{name}`; did you mean `{near}`?"),
            None => format!("there is no action or workflow `{name}`"),
        }
    }

    /// The workflow that a run of a single action follows: one step, called as the action is, which is given the whole input. The run's output is
    /// the step's.
    pub fn implicit_workflow(&self, action: &Action) -> Workflow {
        let id = action.name.rsplit('.').next().unwrap_or_default().to_owned();
        let with = action.input.iter().filter_map(|(name, field)| {
            // What may be missing is left out when it is.
            let text = if field.optional && field.default.is_none() {
                format!("{{{{ input.{name} | default(none) }}}}")
            } else {
                format!("{{{{ input.{name} }}}}")
            };
            Some((name.clone(), tree::Tree::Template(self.expr.template(&text).ok()?)))
        });
        let step = workflow::Step {
            place: action.place.clone(),
            kind: workflow::Kind::Run(workflow::Call {
                run: action.name.clone(),
                with: with.collect(),
                place: action.place.clone(),
            }),
            needs: Vec::new(),
            start_on: workflow::StartOn::Success,
            entry: None,
            when: None,
            retry: Retry::default(),
            retry_when: None,
            timeout: None,
            repeat: None,
            lock: None,
            group: None,
            window: None,
            worker: None,
            read: Vec::new(),
            for_each: None,
            continue_on_failure: false,
            undo: None,
            id: id.clone(),
        };
        let output = self.expr.template(&format!("{{{{ steps.{id}.output }}}}"));
        Workflow {
            name: action.name.clone(),
            pack: action.pack.clone(),
            place: action.place.clone(),
            description: action.description.clone(),
            input: action.input.clone(),
            steps: vec![step],
            on_failure: Vec::new(),
            finally: Vec::new(),
            output: Vec::new(),
            whole_output: output.ok().map(tree::Tree::Template),
            concurrency: None,
            groups: BTreeMap::new(),
            gives_steps: false,
            timeout: None,
            config: action.work.config.clone(),
        }
    }
}

/// `[a-z][a-z0-9_]*`
pub(crate) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// As `is_name`, with `-`.
pub(crate) fn is_app_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-')
}

/// The folder of a pack, with a slash at its end.
fn folder_of(pack: &str) -> String {
    if pack == SITE { String::new() } else { format!("packs/{pack}/") }
}
