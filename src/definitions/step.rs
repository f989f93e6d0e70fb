//! One step: its id, what it does, and the keys that all sorts of steps share. What waits is in `waits.rs`, what is done for each item of a list
//! in `loops.rs`; how steps hang together in `graph.rs`.

use std::cell::RefCell;

use super::check::{Named, OwnName, Seen, StepRead, World};
use super::fields::{Field, Fields, Type};
use super::graph::{Members, Section, Written};
use super::sheet::{Keys, Sheet, Table};
use super::tree::Tree;
use super::workflow::{Approve, Call, Group, Kind, Repeat, StartOn, Step, WaitFor, Worker};
use super::yaml::{Content, Node};
use crate::expr::Script;
use crate::model::retry::Retry;
use crate::model::{Span, Value};

/// What a step does: each is a kind of step.
pub(super) const KINDS: [&str; 9] =
    ["run", "shell", "approve", "watch", "wait_for", "sleep", "emit", "steps", "parallel"];
/// The kinds that are groups of steps.
const GROUPS: [&str; 2] = ["steps", "parallel"];
/// Keys that make a group a run of its own.
const OF_RUNS: [&str; 3] = ["for_each", "retry", "timeout"];
pub(super) const STEP: Keys = Keys {
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
        "steps",
        "parallel",
        "needs",
        "start_on",
        "when",
        "for_each",
        "as",
        "concurrency",
        "max_failures",
        "fail_fast",
        "retry",
        "until",
        "every",
        "lock",
        "window",
        "worker",
        "read",
        "timeout",
        "continue_on_failure",
        "undo",
    ],
    later: &["notify"],
};
const LOOPED: &[&str] = &["run", "shell", "emit", "steps", "parallel"];
const LEAVES: &[&str] = &["run", "shell", "approve", "watch", "wait_for", "sleep", "emit"];
/// Keys that belong to some kinds of step only.
pub(super) const BELONGS: [(&str, &[&str]); 17] = [
    ("with", &["run", "emit"]),
    ("env", &["shell"]),
    ("cwd", &["shell"]),
    ("for_each", LOOPED),
    ("as", LOOPED),
    ("concurrency", LOOPED),
    ("max_failures", LOOPED),
    ("fail_fast", LOOPED),
    ("retry", &["run", "shell", "steps", "parallel"]),
    ("undo", &["run", "shell"]),
    ("worker", &["run", "shell"]),
    ("read", LEAVES),
    ("window", LEAVES),
    ("lock", &["run", "shell", "approve", "watch", "wait_for", "sleep", "steps", "parallel"]),
    ("until", &["run", "shell"]),
    ("every", &["run", "shell"]),
    ("timeout", &["run", "shell", "approve", "wait_for", "steps", "parallel"]),
];
pub(super) const RETRY: Keys = Keys {
    of: "`retry`",
    built: &["attempts", "delay", "backoff", "max_delay", "jitter", "when", "lost"],
    later: &[],
};
pub(super) const UNDO: Keys = Keys { of: "`undo`", built: &["run", "with"], later: &[] };
pub(super) const WORKER: Keys = Keys { of: "`worker`", built: &["pool", "labels", "same_as"], later: &[] };

/// What `run` has in expressions.
const RUN: &[&str] = &["id", "url", "workflow", "started_by", "started_at"];
const RUN_LATE: &[&str] =
    &["id", "url", "workflow", "started_by", "started_at", "status", "failed_step", "error"];
pub(super) const NAMES: &[&str] = &["input", "steps", "run"];
pub(super) const NAMES_EVENT: &[&str] = &["input", "steps", "run", "event"];
pub(super) const NAMES_OUTPUT: &[&str] = &["input", "steps", "run", "output"];
const NAMES_RETRY: &[&str] = &["input", "steps", "run", "error", "output"];

/// More attempts than anybody means.
const MAX_ATTEMPTS: u32 = 1000;

/// Reads the steps of one workflow.
pub(super) struct Reader<'a> {
    pub(super) sheet: &'a Sheet<'a>,
    pub(super) world: &'a World<'a>,
    pub(super) input: &'a Fields,
}

/// Where a step stands.
#[derive(Clone, Copy)]
struct Around<'a> {
    section: Section,
    /// The names of the loops around it.
    names: &'a [OwnName],
}

impl<'a> Reader<'a> {
    pub(super) fn seen(
        &self,
        of: &'static str,
        section: Section,
        names: &'static [&'static str],
    ) -> Seen<'a> {
        let run = if section == Section::Steps { RUN } else { RUN_LATE };
        Seen { input: Some(self.input), run, ..Seen::new(of, names) }
    }

    pub(super) fn section(&self, node: &Node, section: Section) -> Vec<Written> {
        self.steps(node, section.key(), Around { section, names: &[] })
    }

    fn steps(&self, node: &Node, key: &str, around: Around<'_>) -> Vec<Written> {
        let nodes = self.sheet.list(node, key).unwrap_or_default();
        if matches!(&node.content, Content::List(items) if items.is_empty()) {
            self.sheet.wrong(node, format!("`{key}` has no steps"), None);
        }
        nodes.iter().filter_map(|node| self.step(node, around)).collect()
    }

    fn step(&self, node: &Node, around: Around<'_>) -> Option<Written> {
        let sheet = self.sheet;
        let table = sheet.table(node, &STEP)?;
        let id = table.need("id").and_then(|node| self.id(node));
        let (reads, own_reads) = (RefCell::default(), RefCell::default());
        let outer =
            Seen { reads: Some(&reads), own: around.names, ..self.seen("a workflow", around.section, NAMES) };
        let read = table.get("read").map(|node| self.read(node, &outer)).unwrap_or_default();
        // What is judged once for the step, and what is seen in each of its items.
        let once_names = joined(around.names, read.iter().map(|(name, _)| OwnName::any(name)));
        let once = Seen { own: &once_names, ..outer };
        let (for_each, loop_names) = self.for_each(&table, &once);
        let each_names = joined(&once_names, loop_names.iter().cloned());
        let each = Seen { own: &each_names, ..outer };

        let word = self.kind_word(&table);
        let mut members = None;
        let kind = match word {
            Some(word) if GROUPS.contains(&word) => {
                let inside = Around { names: &each_names, ..around };
                let steps = table.get(word).map(|node| self.steps(node, word, inside)).unwrap_or_default();
                let is_run = OF_RUNS.iter().any(|key| table.get(key).is_some());
                members = Some(Members { is_parallel: word == "parallel", is_run, steps });
                Some((Kind::Group(Group::Inline), None))
            }
            Some(word) => self.kind(&table, word, &each),
            None => None,
        };
        let (retry, retry_when) = table.get("retry").map(|node| self.retry(node, &each)).unwrap_or_default();
        let undo_names = self.names_of_undo(&table, around.names, &loop_names);
        let undo = self.undo(
            &table,
            around.section,
            &Seen { reads: Some(&own_reads), own: &undo_names, no_secrets: None, ..outer },
        );
        let start_on = table
            .get("start_on")
            .and_then(|node| sheet.word(node, "start_on", &["success", "failure", "finished"]));
        let timeout = table.span("timeout");
        let when = table.get("when").and_then(|node| sheet.script(node, "when", self.world, &once));
        let repeat = self.repeat(&table, &kind, &each);
        let lock = table.get("lock").and_then(|node| {
            sheet.scalar(node, "lock")?;
            Some(sheet.tree(node, Some(&Field::new(Type::String)), self.world, &once))
        });
        let worker = table.get("worker").and_then(|node| self.worker(node, &kind, &each));
        // A step with a mistake keeps its place among the others, so that they are not blamed for reading it.
        let (kind, outputs) = kind.unwrap_or((Kind::Sleep(Tree::Plain(Value::Null)), None));
        self.check_timeouts(&table, &kind);
        let id = id?;
        let step = Step {
            place: sheet.source.place(node.line, node.column),
            kind,
            group: None,
            needs: Vec::new(),
            entry: None,
            start_on: match start_on {
                Some("failure") => StartOn::Failure,
                Some("finished") => StartOn::Finished,
                _ => StartOn::Success,
            },
            when: when.map(|(script, _)| script),
            retry,
            retry_when,
            timeout,
            repeat,
            lock,
            window: table.get("window").and_then(|node| self.world.window(sheet, node)),
            worker,
            read,
            for_each,
            continue_on_failure: table.boolean("continue_on_failure").unwrap_or_default(),
            undo,
            id,
        };
        let mut reads = reads.into_inner();
        reads.extend(self.since(&table, &step));
        let same_as = table.get("worker").and_then(|node| inner(node, "same_as"));
        let same_as = same_as.map(|node| sheet.source.place(node.line, node.column));
        Some(Written {
            needs: self.needs(&table),
            reads,
            own_reads: own_reads.into_inner(),
            same_as: step.worker.as_ref().and_then(|worker| worker.same_as.clone()).zip(same_as),
            is_action: matches!(&step.kind, Kind::Run(call) if !self.is_workflow(&call.run)),
            is_loop: table.get("for_each").is_some(),
            outputs,
            members,
            step,
        })
    }

    fn id(&self, node: &Node) -> Option<String> {
        let id = self.sheet.name(node, "id")?;
        if !super::is_name(&id) {
            let message =
                format!("`{id}` is no name of a step: small letters, digits and `_`, a letter first");
            self.sheet.wrong(node, message, None);
            return None;
        }
        Some(id)
    }

    fn needs(&self, table: &Table<'_>) -> Option<Vec<(String, super::Place)>> {
        let sheet = self.sheet;
        let nodes = sheet.one_or_list(table.get("needs")?);
        let needs = nodes.iter().filter_map(|node| {
            Some((sheet.name(node, "needs")?, sheet.source.place(node.line, node.column)))
        });
        Some(needs.collect())
    }

    fn undo(&self, table: &Table<'_>, section: Section, seen: &Seen<'_>) -> Option<Call> {
        let entry = table.entry("undo")?;
        if section != Section::Steps {
            let message =
                format!("`undo` belongs to `steps`: what `{}` does is not taken back", section.key());
            self.sheet.report(entry.line, entry.column, message, None);
        }
        self.call(&self.sheet.table(&entry.value, &UNDO)?, seen).map(|(call, _)| call)
    }

    /// `since` of a watch reads the step that it names.
    fn since(&self, table: &Table<'_>, step: &Step) -> Option<StepRead> {
        let Kind::Watch(watch) = &step.kind else { return None };
        let node = inner(table.get("watch")?, "since")?;
        let place = self.sheet.source.place(node.line, node.column);
        Some(StepRead { step: watch.since.clone()?, path: Vec::new(), optional: true, place })
    }

    /// Which kind of step it is.
    fn kind_word(&self, table: &Table<'_>) -> Option<&'static str> {
        let sheet = self.sheet;
        let kinds: Vec<&'static str> = KINDS.into_iter().filter(|kind| table.get(kind).is_some()).collect();
        let kind = match kinds.as_slice() {
            [kind] => *kind,
            [] => {
                let message = format!("this step does nothing: it needs one of {}", KINDS.join(", "));
                sheet.wrong(table.node, message, None);
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
                let help = GROUPS.contains(&kind).then(|| {
                    format!(
                        "say it for the steps of the group{}",
                        match key {
                            "undo" => ": what they did is taken back step by step",
                            _ => "",
                        }
                    )
                });
                sheet.report(entry.line, entry.column, message, help);
            }
        }
        Some(kind)
    }

    /// What the step does, and what it gives where that is known.
    fn kind(&self, table: &Table<'_>, kind: &str, seen: &Seen<'_>) -> Option<(Kind, Option<Fields>)> {
        let sheet = self.sheet;
        let node = table.get(kind)?;
        let secrets = Seen { no_secrets: None, ..*seen };
        match kind {
            "run" => self.call(table, &secrets).map(|(call, outputs)| (Kind::Run(call), outputs)),
            "shell" => self.shell(table, node, &secrets).map(|(call, outputs)| (Kind::Run(call), outputs)),
            "approve" => self.approve(node, seen),
            "watch" => self.watch(node, seen),
            "wait_for" => self.wait_for(node, seen),
            "sleep" => self.sleep(node, seen),
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

    fn sleep(&self, node: &Node, seen: &Seen<'_>) -> Option<(Kind, Option<Fields>)> {
        let sheet = self.sheet;
        sheet.scalar(node, "sleep")?;
        let tree = sheet.tree(node, Some(&Field::new(Type::String)), self.world, seen);
        if let Tree::Plain(Value::String(text)) = &tree
            && text.parse::<Span>().is_err()
            && text.parse::<crate::model::Timestamp>().is_err()
        {
            let message = format!("`{text}` is neither a duration (15m) nor a time (2026-12-24T08:00:00Z)");
            sheet.wrong(node, message, None);
        }
        Some((Kind::Sleep(tree), Some(Fields::new())))
    }

    /// `run` + `with`.
    pub(super) fn call(&self, table: &Table<'_>, seen: &Seen<'_>) -> Option<(Call, Option<Fields>)> {
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

    fn retry(&self, node: &Node, seen: &Seen<'_>) -> (Retry, Option<Script>) {
        let sheet = self.sheet;
        let Some(table) = sheet.table(node, &RETRY) else { return Default::default() };
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
        let outputs = kind.as_ref().and_then(|(_, outputs)| outputs.as_ref());
        let until = until.and_then(|entry| self.until(&entry.value, outputs, seen));
        let every = every.and_then(|entry| self.every(&entry.value));
        Some(Repeat { until: until?, every: every? })
    }

    /// `worker: {pool, labels, same_as}`.
    fn worker(&self, node: &Node, kind: &Option<(Kind, Option<Fields>)>, seen: &Seen<'_>) -> Option<Worker> {
        let sheet = self.sheet;
        let table = sheet.table(node, &WORKER)?;
        if let Some((Kind::Run(call), _)) = kind
            && self.is_workflow(&call.run)
        {
            let help = format!("say it for the steps of {}", call.run);
            sheet.wrong(node, "`worker` says who does an action; this step runs a workflow", Some(help));
        }
        if table.keys().next().is_none() {
            sheet.wrong(node, "`worker` needs `pool`, `labels` or `same_as`", None);
        }
        let text = |node: &Node, what: &str| {
            sheet.scalar(node, what);
            sheet.tree(node, Some(&Field::new(Type::String)), self.world, seen)
        };
        let labels = table.get("labels").and_then(|node| sheet.entries(node, "`labels`"));
        Some(Worker {
            pool: table.get("pool").map(|node| text(node, "pool")),
            labels: labels
                .unwrap_or_default()
                .iter()
                .map(|entry| (entry.key.clone(), text(&entry.value, &entry.key)))
                .collect(),
            same_as: table.get("same_as").and_then(|node| sheet.name(node, "same_as")),
        })
    }

    pub(super) fn is_workflow(&self, name: &str) -> bool {
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
}

/// These names, and more.
fn joined(names: &[OwnName], more: impl Iterator<Item = OwnName>) -> Vec<OwnName> {
    // The nearest of a name comes first: it is the one that is found.
    more.chain(names.iter().cloned()).collect()
}

/// The value of a key of a map.
fn inner<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let Content::Map(entries) = &node.content else { return None };
    entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
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
