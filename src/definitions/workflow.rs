//! `workflows/*.yaml`: a graph of steps. A list compiles to a graph in which each step needs the one above.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::Place;
use super::check::{Seen, Signature, World};
use super::fields::{self, Field, Fields, Type};
use super::graph::{self, Section};
use super::groups;
use super::sheet::{Keys, Sheet};
use super::step::{NAMES, Reader};
use super::tree::Tree;
use super::yaml::{Content, Node};
use crate::expr::Script;
use crate::model::retry::Retry;
use crate::model::{OnLimit, Span, Value};

#[derive(Clone, Debug)]
pub struct Workflow {
    /// `pack.name`.
    pub name: String,
    pub pack: String,
    pub place: Place,
    pub description: String,
    pub input: Fields,
    pub steps: Vec<Step>,
    pub on_failure: Vec<Step>,
    pub finally: Vec<Step>,
    pub output: Vec<(String, Tree)>,
    /// The whole output, instead of `output`'s entries: a run of a single action gives what the action gave.
    pub whole_output: Option<Tree>,
    /// Covers `steps` only.
    pub timeout: Option<Span>,
    /// How many of its runs may be under way at once.
    pub concurrency: Option<Concurrency>,
    /// Its groups that are done as runs of their own, by the group's id. Their names are `pack.name#id`.
    pub groups: BTreeMap<String, Arc<Workflow>>,
    /// A group: its output is the outputs of its steps, by their ids.
    pub gives_steps: bool,
    /// The pack's configuration: `config` in its expressions.
    pub config: Value,
}

impl Workflow {
    /// Its steps in the order of writing, those of its sections and of groups that are only structure.
    pub fn own_steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().chain(&self.on_failure).chain(&self.finally)
    }
}

/// How many runs of a workflow, of one key, may be under way at once.
#[derive(Clone, Debug)]
pub struct Concurrency {
    /// `None`: all runs of the workflow share one key.
    pub key: Option<Tree>,
    pub limit: u32,
    pub on_limit: OnLimit,
    pub place: Place,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub id: String,
    pub place: Place,
    pub kind: Kind,
    /// The group, a step of the same section, that it belongs to.
    pub group: Option<String>,
    /// Steps of its group or section that must have ended first; already filled in for lists.
    pub needs: Vec<String>,
    pub start_on: StartOn,
    /// In a graph with edges, how it is entered. No file says so yet: other syntaxes compile to it.
    pub entry: Option<Entry>,
    pub when: Option<Script>,
    pub retry: Retry,
    pub retry_when: Option<Script>,
    pub timeout: Option<Span>,
    /// `until` + `every`.
    pub repeat: Option<Repeat>,
    /// The name of the lock that it holds while it is at work.
    pub lock: Option<Tree>,
    /// The name of the window in which it may start.
    pub window: Option<String>,
    /// Which workers may do it.
    pub worker: Option<Worker>,
    /// Keys of the KV store whose values it sees under these names.
    pub read: Vec<(String, Tree)>,
    pub for_each: Option<ForEach>,
    pub continue_on_failure: bool,
    pub undo: Option<Call>,
}

/// How a step of a graph with edges is entered: what its own `needs` and `start_on` say does not count then.
#[derive(Clone, Debug)]
pub struct Entry {
    /// A step without any is where the graph begins.
    pub edges: Vec<Edge>,
    pub join: Join,
}

/// How many tokens a step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// As many as it has edges.
    All,
    Count(u32),
}

/// What leads from one step to another.
#[derive(Clone, Debug)]
pub struct Edge {
    pub from: String,
    pub on: StartOn,
    pub when: Option<Script>,
    /// Values that are `vars` from then on.
    pub publish: Vec<(String, Tree)>,
}

/// Does a step once for each item of a list.
#[derive(Clone, Debug)]
pub struct ForEach {
    pub list: List,
    /// What an item is called; `item` when not said.
    pub name: String,
    /// How many items are done at once.
    pub concurrency: u32,
    pub max_failures: MaxFailures,
    /// Whether items under way are cancelled once too many have failed.
    pub fail_fast: bool,
}

/// Where the items come from: an array, a range, or a map of lists, of which every combination is an item.
#[derive(Clone, Debug)]
pub enum List {
    Script(Script),
    Tree(Tree),
}

/// How many items may fail before the step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxFailures {
    Count(u32),
    /// Of all items, rounded down.
    Percent(u32),
}

/// `worker`: where a step may run.
#[derive(Clone, Debug, Default)]
pub struct Worker {
    pub pool: Option<Tree>,
    pub labels: Vec<(String, Tree)>,
    /// Only where this step was done.
    pub same_as: Option<String>,
}

/// Does an action again until its output is as wanted.
#[derive(Clone, Debug)]
pub struct Repeat {
    pub until: Script,
    pub every: Span,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartOn {
    #[default]
    Success,
    Failure,
    Finished,
}

/// An action or workflow with what it is given.
#[derive(Clone, Debug)]
pub struct Call {
    /// Resolved: `pack.name`.
    pub run: String,
    pub with: Vec<(String, Tree)>,
    pub place: Place,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum Kind {
    /// An action, or a workflow as a child run. `shell:` is read as a call of `core.shell` with its script verbatim.
    Run(Call),
    Approve(Approve),
    Watch(Watch),
    WaitFor(WaitFor),
    /// A duration or an RFC 3339 time.
    Sleep(Tree),
    Emit {
        trigger: String,
        with: Vec<(String, Tree)>,
    },
    Group(Group),
}

/// `steps:` or `parallel:` in a step.
#[derive(Clone, Debug)]
pub enum Group {
    /// Only structure: its steps stand in the same section and name it as their `group`.
    Inline,
    /// With `for_each`, `retry` or `timeout`: a run of its own, of a workflow among `Workflow::groups`, that sees the names of this one. Of its
    /// steps it sees those in `reads`.
    Run { workflow: String, reads: Vec<String> },
}

#[derive(Clone, Debug)]
pub struct Approve {
    pub ask: Tree,
    /// A list, or a template that gives one (or one name).
    pub of: Tree,
    /// An integer; 1 when not said.
    pub count: Tree,
    /// `None`: the starter (not said). `Some` of an empty list: `none` was said.
    pub distinct_from: Option<Vec<Tree>>,
    pub show: Vec<(String, Tree)>,
    pub fields: Fields,
    /// The same as data, for the card and the API: name → `{type, description, ...}`; null when nothing is asked for.
    pub fields_shown: Value,
    /// How often those who have not answered are asked again.
    pub remind: Option<Span>,
    pub timeout: Option<Span>,
}

#[derive(Clone, Debug)]
pub struct Watch {
    /// `for`.
    pub span: Tree,
    pub since: Option<String>,
    /// One or a list in YAML.
    pub abort_on: Vec<EventPattern>,
    pub check: Option<WatchCheck>,
}

#[derive(Clone, Debug)]
pub struct WatchCheck {
    pub call: Call,
    pub every: Span,
    pub healthy: Script,
    pub failures: u32,
}

#[derive(Clone, Debug)]
pub struct EventPattern {
    pub trigger: String,
    pub when: Option<Script>,
    pub place: Place,
}

#[derive(Clone, Debug)]
pub struct WaitFor {
    pub event: EventPattern,
    pub timeout: Option<Span>,
    pub continue_on_timeout: bool,
    /// `or_poll`.
    pub poll: Option<Poll>,
}

/// An action that is done again and again beside a wait.
#[derive(Clone, Debug)]
pub struct Poll {
    pub call: Call,
    pub every: Span,
    pub until: Script,
}

pub(super) const WORKFLOW: Keys = Keys {
    of: "a workflow",
    built: &["description", "input", "steps", "on_failure", "finally", "output", "timeout", "concurrency"],
    later: &["notify"],
};
pub(super) const CONCURRENCY: Keys =
    Keys { of: "`concurrency`", built: &["key", "limit", "on_limit"], later: &[] };

/// What others must know of it.
pub(super) fn signature(sheet: &Sheet<'_>, node: &Node) -> Signature {
    let Content::Map(entries) = &node.content else {
        return Signature { is_workflow: true, ..Signature::default() };
    };
    let get = |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
    let outputs = get("output").map(|node| match &node.content {
        Content::Map(entries) => {
            entries.iter().map(|entry| (entry.key.clone(), Field::new(Type::Any))).collect()
        }
        _ => Fields::new(),
    });
    Signature {
        is_workflow: true,
        input: get("input").map(|node| fields::read(sheet, node, "input")).unwrap_or_default(),
        // A workflow's output is what it says and nothing else.
        outputs: Some(outputs.unwrap_or_default()),
    }
}

/// Reads a workflow file.
pub(super) fn read(sheet: &Sheet<'_>, node: &Node, name: &str, world: &World<'_>) -> Option<Workflow> {
    let table = sheet.table(node, &WORKFLOW)?;
    let input = table.get("input").map(|node| fields::read(sheet, node, "input")).unwrap_or_default();
    let reader = Reader { sheet, world, input: &input };
    let steps = table.need("steps").map(|node| reader.section(node, Section::Steps)).unwrap_or_default();
    let on_failure =
        table.get("on_failure").map(|node| reader.section(node, Section::OnFailure)).unwrap_or_default();
    let finally = table.get("finally").map(|node| reader.section(node, Section::Finally)).unwrap_or_default();
    let concurrency = table.get("concurrency").and_then(|node| concurrency(sheet, node, &input, world));
    let reads = RefCell::default();
    let seen = Seen { reads: Some(&reads), ..reader.seen("a workflow's `output`", Section::Steps, NAMES) };
    let output =
        table.get("output").map(|node| sheet.trees(node, "output", world, &seen)).unwrap_or_default();
    let mut sections = [steps, on_failure, finally];
    let reads_of_groups = graph::check(sheet, &mut sections, &reads.into_inner());
    let workflow = Workflow {
        name: name.to_owned(),
        pack: sheet.pack.to_owned(),
        place: sheet.source.place(1, 1),
        description: table.description(),
        steps: Vec::new(),
        on_failure: Vec::new(),
        finally: Vec::new(),
        output,
        whole_output: None,
        timeout: table.span("timeout"),
        concurrency,
        groups: BTreeMap::new(),
        gives_steps: false,
        config: world.configs.get(sheet.pack).map(|config| config.value.clone()).unwrap_or_default(),
        input,
    };
    Some(groups::lay_out(workflow, sections, &reads_of_groups))
}

/// `concurrency: {key, limit, on_limit}`. It is judged before there is a run, so its key sees the input only.
fn concurrency(sheet: &Sheet<'_>, node: &Node, input: &Fields, world: &World<'_>) -> Option<Concurrency> {
    let table = sheet.table(node, &CONCURRENCY)?;
    let seen = Seen { input: Some(input), ..Seen::new("`concurrency.key`", &["input"]) };
    let key = table.get("key").map(|node| {
        sheet.scalar(node, "key");
        sheet.tree(node, Some(&Field::new(Type::String)), world, &seen)
    });
    let limit = table.get("limit").map(|node| sheet.whole(node, "limit", 1));
    let on_limit =
        table.get("on_limit").and_then(|node| sheet.word(node, "on_limit", &["queue", "newest", "reject"]));
    Some(Concurrency {
        key,
        limit: limit.unwrap_or(Some(1))?,
        on_limit: match on_limit {
            Some("newest") => OnLimit::Newest,
            Some("reject") => OnLimit::Reject,
            _ => OnLimit::Queue,
        },
        place: sheet.source.place(node.line, node.column),
    })
}
