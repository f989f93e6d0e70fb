//! `workflows/*.yaml`: a graph of steps. A list compiles to a graph in which each step needs the one above.

use std::cell::RefCell;

use super::Place;
use super::check::{Named, Seen, Signature, StepRead, World};
use super::fields::{self, Field, Fields, Type};
use super::graph::{self, Section, Written};
use super::sheet::{Keys, Sheet, Table};
use super::tree::Tree;
use super::yaml::{Content, Node};
use crate::expr::Script;
use crate::model::retry::Retry;
use crate::model::{Span, Value};

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
    /// The pack's configuration: `config` in its expressions.
    pub config: Value,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub id: String,
    pub place: Place,
    pub kind: Kind,
    /// Steps that must have ended first; already filled in for lists.
    pub needs: Vec<String>,
    pub start_on: StartOn,
    pub when: Option<Script>,
    pub retry: Retry,
    pub retry_when: Option<Script>,
    pub timeout: Option<Span>,
    /// `until` + `every`.
    pub repeat: Option<Repeat>,
    /// The name of the lock that it holds while it is at work.
    pub lock: Option<Tree>,
    pub continue_on_failure: bool,
    pub undo: Option<Call>,
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

const WORKFLOW: Keys = Keys {
    of: "a workflow",
    built: &["description", "input", "steps", "on_failure", "finally", "output", "timeout"],
    later: &["concurrency", "notify"],
};
/// What a step does: each is a kind of step.
const KINDS: [&str; 7] = ["run", "shell", "approve", "watch", "wait_for", "sleep", "emit"];
const STEP: Keys = Keys {
    of: "a step",
    built: &[
        "id",
        "run",
        "with",
        "shell",
        "env",
        "cwd",
        "approve",
        "watch",
        "wait_for",
        "sleep",
        "emit",
        "needs",
        "start_on",
        "when",
        "retry",
        "until",
        "every",
        "lock",
        "timeout",
        "continue_on_failure",
        "undo",
    ],
    later: &[
        "steps",
        "parallel",
        "for_each",
        "as",
        "concurrency",
        "max_failures",
        "fail_fast",
        "window",
        "worker",
        "read",
        "notify",
    ],
};
/// Keys that belong to some kinds of step only.
const BELONGS: [(&str, &[&str]); 9] = [
    ("with", &["run", "emit"]),
    ("env", &["shell"]),
    ("cwd", &["shell"]),
    ("retry", &["run", "shell"]),
    ("undo", &["run", "shell"]),
    ("lock", &["run", "shell", "approve", "watch", "wait_for", "sleep"]),
    ("until", &["run", "shell"]),
    ("every", &["run", "shell"]),
    ("timeout", &["run", "shell", "approve", "wait_for"]),
];
const RETRY: Keys = Keys {
    of: "`retry`",
    built: &["attempts", "delay", "backoff", "max_delay", "jitter", "when", "lost"],
    later: &[],
};
const UNDO: Keys = Keys { of: "`undo`", built: &["run", "with"], later: &[] };
const APPROVE: Keys = Keys {
    of: "`approve`",
    built: &["ask", "of", "count", "distinct_from", "show", "fields", "timeout"],
    later: &["remind"],
};
const WATCH: Keys = Keys { of: "`watch`", built: &["for", "since", "abort_on", "check"], later: &[] };
const CHECK: Keys =
    Keys { of: "`check`", built: &["run", "with", "every", "healthy", "failures"], later: &[] };
const PATTERN: Keys = Keys { of: "`abort_on`", built: &["trigger", "when"], later: &[] };
const WAIT_FOR: Keys =
    Keys { of: "`wait_for`", built: &["trigger", "when", "timeout", "on_timeout", "or_poll"], later: &[] };
const POLL: Keys = Keys { of: "`or_poll`", built: &["run", "with", "every", "until"], later: &[] };

/// What `run` has in expressions.
const RUN: &[&str] = &["id", "url", "workflow", "started_by", "started_at"];
const RUN_LATE: &[&str] =
    &["id", "url", "workflow", "started_by", "started_at", "status", "failed_step", "error"];
const NAMES: &[&str] = &["input", "steps", "run"];
const NAMES_EVENT: &[&str] = &["input", "steps", "run", "event"];
const NAMES_OUTPUT: &[&str] = &["input", "steps", "run", "output"];
const NAMES_RETRY: &[&str] = &["input", "steps", "run", "error", "output"];

/// More attempts than anybody means.
const MAX_ATTEMPTS: u32 = 1000;

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
    let reads = RefCell::default();
    let seen = Seen { reads: Some(&reads), ..reader.seen("a workflow's `output`", Section::Steps, NAMES) };
    let output =
        table.get("output").map(|node| sheet.trees(node, "output", world, &seen)).unwrap_or_default();
    let mut sections = [steps, on_failure, finally];
    graph::check(sheet, &mut sections, &reads.into_inner());
    let [steps, on_failure, finally] =
        sections.map(|section| section.into_iter().map(|written| written.step).collect());
    Some(Workflow {
        name: name.to_owned(),
        pack: sheet.pack.to_owned(),
        place: sheet.source.place(1, 1),
        description: table.description(),
        steps,
        on_failure,
        finally,
        output,
        whole_output: None,
        timeout: table.span("timeout"),
        config: world.configs.get(sheet.pack).map(|config| config.value.clone()).unwrap_or_default(),
        input,
    })
}

struct Reader<'a> {
    sheet: &'a Sheet<'a>,
    world: &'a World<'a>,
    input: &'a Fields,
}

impl<'a> Reader<'a> {
    fn seen(&self, of: &'static str, section: Section, names: &'static [&'static str]) -> Seen<'a> {
        let run = if section == Section::Steps { RUN } else { RUN_LATE };
        Seen { input: Some(self.input), run, ..Seen::new(of, names) }
    }

    fn section(&self, node: &Node, section: Section) -> Vec<Written> {
        let nodes = self.sheet.list(node, section.key()).unwrap_or_default();
        if nodes.is_empty() {
            self.sheet.wrong(node, format!("`{}` has no steps", section.key()), None);
        }
        nodes.iter().filter_map(|node| self.step(node, section)).collect()
    }

    fn step(&self, node: &Node, section: Section) -> Option<Written> {
        let sheet = self.sheet;
        let table = sheet.table(node, &STEP)?;
        let id = table.need("id").and_then(|node| {
            let id = sheet.name(node, "id")?;
            if !super::is_name(&id) {
                sheet.wrong(
                    node,
                    format!("`{id}` is no name of a step: small letters, digits and `_`, a letter first"),
                    None,
                );
                return None;
            }
            Some(id)
        });
        let (reads, own_reads) = (RefCell::default(), RefCell::default());
        let seen = Seen { reads: Some(&reads), ..self.seen("a workflow", section, NAMES) };
        let kind = self.kind(&table, section, &seen);
        let (retry, retry_when) =
            table.get("retry").map(|node| self.retry(node, &kind, &seen)).unwrap_or_default();
        let undo_seen = Seen { reads: Some(&own_reads), no_secrets: None, ..seen };
        let undo = table.entry("undo").and_then(|entry| {
            if section != Section::Steps {
                let message =
                    format!("`undo` belongs to `steps`: what `{}` does is not taken back", section.key());
                sheet.report(entry.line, entry.column, message, None);
            }
            self.call(&sheet.table(&entry.value, &UNDO)?, &undo_seen).map(|(call, _)| call)
        });
        let needs = table.get("needs").map(|node| {
            let nodes = sheet.one_or_list(node);
            nodes
                .iter()
                .filter_map(|node| {
                    Some((sheet.name(node, "needs")?, sheet.source.place(node.line, node.column)))
                })
                .collect()
        });
        let start_on = table
            .get("start_on")
            .and_then(|node| sheet.word(node, "start_on", &["success", "failure", "finished"]));
        let timeout = table.span("timeout");
        let when = table
            .get("when")
            .and_then(|node| sheet.script(node, "when", self.world, &seen))
            .map(|(script, _)| script);
        let repeat = self.repeat(&table, &kind, &seen);
        let lock = table.get("lock").and_then(|node| {
            sheet.scalar(node, "lock")?;
            Some(sheet.tree(node, Some(&Field::new(Type::String)), self.world, &seen))
        });
        // A step with a mistake keeps its place among the others, so that they are not blamed for reading it.
        let (kind, outputs) = kind.unwrap_or((Kind::Sleep(Tree::Plain(Value::Null)), None));
        self.check_timeouts(&table, &kind);
        let since = match &kind {
            Kind::Watch(watch) => watch.since.clone(),
            _ => None,
        };
        let id = id?;
        let step = Step {
            place: sheet.source.place(node.line, node.column),
            kind,
            needs: Vec::new(),
            start_on: match start_on {
                Some("failure") => StartOn::Failure,
                Some("finished") => StartOn::Finished,
                _ => StartOn::Success,
            },
            when,
            retry,
            retry_when,
            timeout,
            repeat,
            lock,
            continue_on_failure: table.boolean("continue_on_failure").unwrap_or_default(),
            undo,
            id,
        };
        let mut reads = reads.into_inner();
        if let (Some(since), Some(Content::Map(entries))) =
            (since, table.get("watch").map(|node| &node.content))
        {
            let place = entries
                .iter()
                .find(|entry| entry.key == "since")
                .map(|entry| sheet.source.place(entry.value.line, entry.value.column));
            reads.extend(place.map(|place| StepRead {
                step: since,
                path: Vec::new(),
                optional: true,
                place,
            }));
        }
        Some(Written { step, needs, reads, own_reads: own_reads.into_inner(), outputs })
    }

    /// What the step does, and what it gives where that is known.
    fn kind(&self, table: &Table<'_>, section: Section, seen: &Seen<'_>) -> Option<(Kind, Option<Fields>)> {
        let sheet = self.sheet;
        let kinds: Vec<&str> = KINDS.into_iter().filter(|kind| table.get(kind).is_some()).collect();
        let kind = match kinds.as_slice() {
            [kind] => *kind,
            [] => {
                let is_later = table.keys().any(|entry| matches!(entry.key.as_str(), "steps" | "parallel"));
                if !is_later {
                    sheet.wrong(
                        table.node,
                        format!("this step does nothing: it needs one of {}", KINDS.join(", ")),
                        None,
                    );
                }
                return None;
            }
            [first, second, ..] => {
                let entry = table.entry(second)?;
                let message = format!("a step does one thing: `{first}` and `{second}` are two");
                sheet.report(entry.line, entry.column, message, Some("make two steps of it".to_owned()));
                return None;
            }
        };
        for (key, belongs) in BELONGS {
            if let Some(entry) = table.entry(key).filter(|_| !belongs.contains(&kind)) {
                let message = format!("`{key}` belongs to {}, not to `{kind}`", listed(belongs));
                sheet.report(entry.line, entry.column, message, None);
            }
        }
        let node = table.get(kind)?;
        let secrets = Seen { no_secrets: None, ..*seen };
        match kind {
            "run" => self.call(table, &secrets).map(|(call, outputs)| (Kind::Run(call), outputs)),
            "shell" => self.shell(table, node, &secrets).map(|(call, outputs)| (Kind::Run(call), outputs)),
            "approve" => self.approve(node, seen),
            "watch" => self.watch(node, section, seen),
            "wait_for" => self.wait_for(node, seen),
            "sleep" => {
                let field = Field::new(Type::String);
                sheet.scalar(node, "sleep")?;
                let tree = sheet.tree(node, Some(&field), self.world, seen);
                if let Tree::Plain(Value::String(text)) = &tree
                    && text.parse::<Span>().is_err()
                    && text.parse::<crate::model::Timestamp>().is_err()
                {
                    let message =
                        format!("`{text}` is neither a duration (15m) nor a time (2026-12-24T08:00:00Z)");
                    sheet.wrong(node, message, None);
                }
                Some((Kind::Sleep(tree), Some(Fields::new())))
            }
            _ => {
                let trigger = self.world.trigger(sheet, node, "emit");
                let with = table
                    .get("with")
                    .map(|node| sheet.trees(node, "with", self.world, seen))
                    .unwrap_or_default();
                Some((Kind::Emit { trigger: trigger?, with }, Some(Fields::new())))
            }
        }
    }

    /// `run` + `with`.
    fn call(&self, table: &Table<'_>, seen: &Seen<'_>) -> Option<(Call, Option<Fields>)> {
        let node = table.need("run")?;
        let Some((run, signature)) = self.world.callable(self.sheet, node, "run") else {
            if let Some(with) = table.get("with") {
                self.sheet.trees(with, "with", self.world, seen);
            }
            return None;
        };
        let with = self.world.with(self.sheet, table.get("with"), node, (&run, signature), seen);
        let place = self.sheet.source.place(node.line, node.column);
        Some((Call { run, with, place }, signature.outputs.clone()))
    }

    /// `shell` + `env` + `cwd`: a call of `core.shell`.
    fn shell(&self, table: &Table<'_>, node: &Node, seen: &Seen<'_>) -> Option<(Call, Option<Fields>)> {
        let sheet = self.sheet;
        let mut with = vec![("script".to_owned(), Tree::Plain(Value::String(sheet.text(node, "shell")?)))];
        let strings = Field::new(Type::String);
        if let Some(env) = table.get("env") {
            let trees = sheet.entries(env, "`env`").unwrap_or_default().iter().map(|entry| {
                sheet.scalar(&entry.value, &entry.key);
                if !is_variable_name(&entry.key) {
                    let message = format!("`{}` is no name of an environment variable", entry.key);
                    let help = Some("use letters, digits and `_`, no digit first".to_owned());
                    sheet.report(entry.line, entry.column, message, help);
                }
                (entry.key.clone(), sheet.tree(&entry.value, Some(&strings), self.world, seen))
            });
            with.push(("env".to_owned(), Tree::Map(trees.collect())));
        }
        if let Some(cwd) = table.get("cwd") {
            sheet.scalar(cwd, "cwd");
            with.push(("cwd".to_owned(), sheet.tree(cwd, Some(&strings), self.world, seen)));
        }
        let run = "core.shell".to_owned();
        let Some(signature) = self.world.callables.get(&run) else {
            sheet.wrong(node, "`shell` is the action core.shell, and there is no pack `core` here", None);
            return None;
        };
        sheet.names.borrow_mut().insert(Named::Callable(run.clone()));
        let place = sheet.source.place(node.line, node.column);
        Some((Call { run, with, place }, signature.outputs.clone()))
    }

    fn retry(
        &self,
        node: &Node,
        kind: &Option<(Kind, Option<Fields>)>,
        seen: &Seen<'_>,
    ) -> (Retry, Option<Script>) {
        let sheet = self.sheet;
        let Some(table) = sheet.table(node, &RETRY) else { return Default::default() };
        if let Some((Kind::Run(call), _)) = kind
            && self.is_workflow(&call.run)
        {
            let help = "retry the steps of that workflow instead".to_owned();
            sheet.wrong(node, "`retry` of a whole workflow is not built yet in this version", Some(help));
        }
        let attempts = table.need("attempts").and_then(|node| sheet.whole(node, "attempts", 1));
        if attempts.is_some_and(|attempts| attempts > MAX_ATTEMPTS)
            && let Some(node) = table.get("attempts")
        {
            sheet.wrong(node, format!("`attempts` is at most {MAX_ATTEMPTS}"), None);
        }
        let bounded = |key: &str, least: f64, most: f64| {
            let node = table.get(key)?;
            let number = sheet.number(node, key)?;
            if !(least..=most).contains(&number) {
                sheet.wrong(node, format!("`{key}` must be from {least} to {most}, not {number}"), None);
            }
            Some(number)
        };
        let retry = Retry {
            attempts: attempts.unwrap_or(1),
            delay: table.span("delay").unwrap_or_default(),
            backoff: bounded("backoff", 1.0, 100.0).unwrap_or(1.0),
            max_delay: table.span("max_delay"),
            jitter: bounded("jitter", 0.0, 1.0).unwrap_or_default(),
            lost: table.boolean("lost").unwrap_or_default(),
        };
        let seen = Seen { of: "`retry.when`", names: NAMES_RETRY, ..*seen };
        let when = table.get("when").and_then(|node| sheet.script(node, "when", self.world, &seen));
        (retry, when.map(|(script, _)| script))
    }

    /// `until` + `every`.
    fn repeat(
        &self,
        table: &Table<'_>,
        kind: &Option<(Kind, Option<Fields>)>,
        seen: &Seen<'_>,
    ) -> Option<Repeat> {
        let sheet = self.sheet;
        let (until, every) = (table.entry("until"), table.entry("every"));
        let (entry, missing) = match (until, every) {
            (Some(_), Some(_)) => (None, ""),
            (Some(until), None) => (Some(until), "every"),
            (None, Some(every)) => (Some(every), "until"),
            (None, None) => return None,
        };
        if let Some(entry) = entry {
            let help = "a step is repeated by both: `until: output.done` and `every: 30s`".to_owned();
            sheet.report(entry.line, entry.column, format!("`{}` needs `{missing}`", entry.key), Some(help));
        }
        if let (Some((Kind::Run(call), _)), Some(until)) = (kind, until)
            && self.is_workflow(&call.run)
        {
            let help = "repeat the steps of that workflow instead".to_owned();
            let message = "`until` of a whole workflow is not built yet in this version";
            sheet.report(until.line, until.column, message, Some(help));
        }
        let outputs = kind.as_ref().and_then(|(_, outputs)| outputs.as_ref());
        let until = until.and_then(|entry| self.until(&entry.value, outputs, seen));
        let every = every.and_then(|entry| self.every(&entry.value));
        Some(Repeat { until: until?, every: every? })
    }

    /// rhai over an action's `output`.
    fn until(&self, node: &Node, outputs: Option<&Fields>, seen: &Seen<'_>) -> Option<Script> {
        let seen = Seen { of: "`until`", names: NAMES_OUTPUT, output: outputs, ..*seen };
        self.sheet.script(node, "until", self.world, &seen).map(|(script, _)| script)
    }

    /// A span that is longer than nothing.
    fn every(&self, node: &Node) -> Option<Span> {
        let span = self.sheet.span(node, "every")?;
        if span.0 == 0 {
            self.sheet.wrong(node, "`every` must be longer than nothing", None);
        }
        Some(span)
    }

    /// The action of a `check` or an `or_poll`.
    fn call_of_action(
        &self,
        table: &Table<'_>,
        what: &str,
        seen: &Seen<'_>,
    ) -> Option<(Call, Option<Fields>)> {
        let secrets = Seen { no_secrets: None, ..*seen };
        let call = self.call(table, &secrets);
        if let (Some((call, _)), Some(node)) = (&call, table.get("run"))
            && self.is_workflow(&call.run)
        {
            self.sheet.wrong(node, format!("`{what}` runs an action; {} is a workflow", call.run), None);
        }
        call
    }

    fn poll(&self, node: &Node, seen: &Seen<'_>) -> Option<Poll> {
        let table = self.sheet.table(node, &POLL)?;
        let call = self.call_of_action(&table, "or_poll", seen);
        let every = table.need("every").and_then(|node| self.every(node));
        let outputs = call.as_ref().and_then(|(_, outputs)| outputs.as_ref());
        let until = table.need("until").and_then(|node| self.until(node, outputs, seen));
        Some(Poll { call: call?.0, every: every?, until: until? })
    }

    fn is_workflow(&self, name: &str) -> bool {
        self.world.callables.get(name).is_some_and(|signature| signature.is_workflow)
    }

    /// A timeout said twice, or for what has none.
    fn check_timeouts(&self, table: &Table<'_>, kind: &Kind) {
        let Some(entry) = table.entry("timeout") else { return };
        let (line, column) = (entry.line, entry.column);
        match kind {
            Kind::Run(call) if self.is_workflow(&call.run) => {
                let help = "say `timeout` in that workflow".to_owned();
                self.sheet.report(
                    line,
                    column,
                    "a step that runs a workflow has no timeout of its own",
                    Some(help),
                );
            }
            Kind::Approve(Approve { timeout: Some(_), .. })
            | Kind::WaitFor(WaitFor { timeout: Some(_), .. }) => {
                self.sheet.report(
                    line,
                    column,
                    "`timeout` is said twice for this step",
                    Some("keep one of them".to_owned()),
                );
            }
            _ => (),
        }
    }

    fn approve(&self, node: &Node, seen: &Seen<'_>) -> Option<(Kind, Option<Fields>)> {
        let sheet = self.sheet;
        let table = sheet.table(node, &APPROVE)?;
        let strings = Field::new(Type::String);
        let text = |node: &Node, what: &str| {
            sheet.scalar(node, what);
            sheet.tree(node, Some(&strings), self.world, seen)
        };
        let ask = table.need("ask").map(|node| text(node, "ask"));
        let of = table.need("of").map(|node| match &node.content {
            Content::List(items) if items.is_empty() => {
                sheet.wrong(node, "`of` names nobody who could answer", None);
                Tree::Plain(Value::Null)
            }
            Content::List(_) => {
                let list = Field { items: Some(Box::new(strings.clone())), ..Field::new(Type::Array) };
                sheet.tree(node, Some(&list), self.world, seen)
            }
            _ => text(node, "of"),
        });
        let count = table.get("count").map(|node| {
            let tree = sheet.tree(node, Some(&Field::new(Type::Integer)), self.world, seen);
            if matches!(tree, Tree::Plain(_)) {
                sheet.whole(node, "count", 1);
            }
            tree
        });
        let distinct_from = table.get("distinct_from").map(|node| match &node.content {
            Content::Scalar(scalar) if scalar.text == "none" => Vec::new(),
            _ => sheet.one_or_list(node).iter().map(|node| text(node, "distinct_from")).collect(),
        });
        let show =
            table.get("show").map(|node| sheet.trees(node, "show", self.world, seen)).unwrap_or_default();
        let fields = table.get("fields").map(|node| fields::read(sheet, node, "fields")).unwrap_or_default();
        let mut outputs = fields.clone();
        outputs.insert("approved_by".to_owned(), Field::new(Type::Array));
        outputs.insert("comment".to_owned(), Field::new(Type::String));
        let approve = Approve {
            ask: ask?,
            of: of?,
            count: count.unwrap_or(Tree::Plain(Value::from(1))),
            distinct_from,
            show,
            fields_shown: if fields.is_empty() { Value::Null } else { fields::shown_fields(&fields) },
            fields,
            timeout: table.span("timeout"),
        };
        Some((Kind::Approve(approve), Some(outputs)))
    }

    fn watch(&self, node: &Node, section: Section, seen: &Seen<'_>) -> Option<(Kind, Option<Fields>)> {
        let sheet = self.sheet;
        let table = sheet.table(node, &WATCH)?;
        let span = table.need("for").map(|node| {
            let field = Field::new(Type::Duration);
            sheet.scalar(node, "for");
            let tree = sheet.tree(node, Some(&field), self.world, seen);
            sheet.check_literal(node, &field, "for");
            tree
        });
        if let Some(entry) = table.entry("abort_on").filter(|_| section != Section::Steps) {
            let message = format!("`abort_on` in `{}` is not built yet in this version", section.key());
            sheet.report(entry.line, entry.column, message, None);
        }
        let patterns = table.get("abort_on").map(|node| sheet.one_or_list(node)).unwrap_or_default();
        let abort_on =
            patterns.iter().filter_map(|node| self.pattern(&sheet.table(node, &PATTERN)?, seen)).collect();
        let check = table.get("check").map(|node| self.check(node, seen));
        let watch = Watch {
            span: span?,
            since: table.get("since").and_then(|node| sheet.name(node, "since")),
            abort_on,
            check: match check {
                Some(check) => Some(check?),
                None => None,
            },
        };
        Some((Kind::Watch(watch), Some(any_fields(&["by", "checks", "unhealthy"]))))
    }

    fn check(&self, node: &Node, seen: &Seen<'_>) -> Option<WatchCheck> {
        let sheet = self.sheet;
        let table = sheet.table(node, &CHECK)?;
        let call = self.call_of_action(&table, "check", seen);
        let every = table.need("every").and_then(|node| self.every(node));
        let failures = table.get("failures").and_then(|node| sheet.whole(node, "failures", 1));
        let outputs = call.as_ref().and_then(|(_, outputs)| outputs.as_ref());
        let in_healthy = Seen { of: "`healthy`", names: NAMES_OUTPUT, output: outputs, ..*seen };
        let healthy =
            table.need("healthy").and_then(|node| sheet.script(node, "healthy", self.world, &in_healthy));
        Some(WatchCheck {
            call: call?.0,
            every: every?,
            healthy: healthy?.0,
            failures: failures.unwrap_or(1),
        })
    }

    /// `trigger` + `when`.
    fn pattern(&self, table: &Table<'_>, seen: &Seen<'_>) -> Option<EventPattern> {
        let seen = Seen { of: "this `when`", names: NAMES_EVENT, ..*seen };
        let trigger = table.need("trigger").and_then(|node| self.world.trigger(self.sheet, node, "trigger"));
        let when = table.get("when").map(|node| self.sheet.script(node, "when", self.world, &seen));
        let place = self.sheet.source.place(table.node.line, table.node.column);
        let when = match when {
            Some(script) => Some(script?.0),
            None => None,
        };
        Some(EventPattern { trigger: trigger?, when, place })
    }

    fn wait_for(&self, node: &Node, seen: &Seen<'_>) -> Option<(Kind, Option<Fields>)> {
        let table = self.sheet.table(node, &WAIT_FOR)?;
        let on_timeout = table
            .get("on_timeout")
            .and_then(|node| self.sheet.word(node, "on_timeout", &["fail", "continue"]));
        let timeout = table.span("timeout");
        let poll = table.get("or_poll").and_then(|node| self.poll(node, seen));
        let event = self.pattern(&table, seen)?;
        let outputs = match poll {
            Some(_) => any_fields(&["by", "event", "id", "output"]),
            None => any_fields(&["by", "event", "id"]),
        };
        let wait = WaitFor { event, timeout, continue_on_timeout: on_timeout == Some("continue"), poll };
        Some((Kind::WaitFor(wait), Some(outputs)))
    }
}

fn any_fields(names: &[&str]) -> Fields {
    names.iter().map(|name| ((*name).to_owned(), Field::new(Type::Any))).collect()
}

/// `run`, `shell` and `emit`.
fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [names @ .., last] if !names.is_empty() => format!("{} and {last}", names.join(", ")),
        names => names.join(", "),
    }
}

/// A name that every shell takes.
fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
