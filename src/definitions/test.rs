//! `tests/*.yaml`: what rules and workflows are expected to do, run by `siskin test`. A file holds one or more YAML documents, each the test of
//! one rule or workflow.
//!
//! Promises: names of steps, actions, triggers and outputs are looked up, inputs and payloads are held against what takes them, and every mistake
//! has its place, before a test runs. A mistake in a test leaves out that test and nothing else. Leaves to others: playing it (`rehearsal`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::check::{World, full_name};
use super::fields::{self, Field, Fields, Type};
use super::mistake::{Mistake, Place, suggestion};
use super::sheet::{Keys, Sheet, Table};
use super::workflow::{Approve, Kind, Step, Workflow};
use super::yaml::{Content, Node, Source};
use super::{Action, Files, Rule, SITE, Trigger};
use crate::model::run::UNDO_SUFFIX;
use crate::model::{ErrorKind, Filled, Object, RunError, RunStatus, Span, StepStatus, Timestamp, Value};

/// One document of a file of tests.
#[derive(Clone, Debug)]
pub struct Test {
    pub place: Place,
    pub subject: Subject,
    pub setting: Setting,
}

/// What is tested, and how it is tried.
#[derive(Clone, Debug)]
pub enum Subject {
    Rule { rule: String, cases: Vec<RuleCase> },
    Workflow { workflow: String, mocks: Mocks, cases: Vec<WorkflowCase> },
}

impl Subject {
    /// The full name of the rule or workflow.
    pub fn name(&self) -> &str {
        match self {
            Subject::Rule { rule, .. } => rule,
            Subject::Workflow { workflow, .. } => workflow,
        }
    }
}

/// What a test says of the world around.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    /// By pack, as in siskin.yaml; its entries stand over those of the site.
    pub config: BTreeMap<String, Object>,
    /// What the key-value store holds. `None`: nothing was said, and `core.kv_get` is an action as any other.
    pub kv: Option<Object>,
    /// By name; each stands for the site's app of that name.
    pub apps: Object,
}

/// An event as a test writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Happening {
    pub trigger: String,
    pub payload: Arc<Value>,
}

/// One event that a rule meets.
#[derive(Clone, Debug)]
pub struct RuleCase {
    pub place: Place,
    pub name: String,
    pub event: Happening,
    pub expect: RuleExpected,
}

/// What a rule makes of an event; what is `None` is not looked at.
#[derive(Clone, Debug, Default)]
pub struct RuleExpected {
    pub matched: bool,
    pub run: Option<String>,
    pub with: Option<Value>,
    pub on_behalf_of: Option<Value>,
    /// The rule fails, and this stands in the reason.
    pub why: Option<String>,
}

/// One run of a workflow.
#[derive(Clone, Debug)]
pub struct WorkflowCase {
    pub place: Place,
    pub name: String,
    /// Accepted by the workflow's fields: defaults are in it.
    pub input: Value,
    /// Stand over those of the test.
    pub mocks: Mocks,
    /// When the run begins; some day when not said.
    pub starts_at: Option<Timestamp>,
    pub holds: Vec<Held>,
    pub force: Option<Forced>,
    /// In the order of their times.
    pub events: Vec<(Span, Happening)>,
    /// By the step that asks.
    pub answers: BTreeMap<String, Answer>,
    pub expect: WorkflowExpected,
}

/// What people say to an approval.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub by: Vec<String>,
    /// Since the run's start; at once when it is asked, if that is later.
    pub at: Span,
    pub reject: bool,
    pub comment: Option<String>,
    pub answers: Value,
}

/// A hold that stands for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// An app, or `all`.
    pub what: String,
    /// Since the run's start.
    pub from: Span,
    /// The same; `None`: as long as the run.
    pub until: Option<Span>,
    pub why: String,
}

/// Somebody lets the run pass windows and holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Forced {
    /// Since the run's start.
    pub at: Span,
    pub by: String,
    pub why: String,
}

/// What comes of a run; what is `None` or empty is not looked at.
#[derive(Clone, Debug, Default)]
pub struct WorkflowExpected {
    pub status: Option<RunStatus>,
    /// By step: a status, or a map with some of `status output error attempts`.
    pub steps: Object,
    pub undone: Vec<String>,
    pub called: Vec<Called>,
    pub not_called: Vec<String>,
    pub output: Option<Value>,
    /// Text that stands in the error's message, or a map with some of `kind message step`.
    pub error: Option<Value>,
}

/// A call that is expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Called {
    pub run: String,
    /// Some of what it was given.
    pub with: Option<Value>,
}

/// What stands in for actions and child runs: by step (`package`, `canary/undo`), or by the full name of an action or workflow. Of a step that is
/// done for each item of a list, one for each item; otherwise one for each attempt. The last holds for all further ones.
#[derive(Clone, Debug, Default)]
pub struct Mocks {
    /// Each entry of a list, with its attempts: more than one where it says so.
    pub by_name: BTreeMap<String, Vec<Vec<Mock>>>,
}

/// What one attempt does.
#[derive(Clone, Debug, PartialEq)]
pub struct Mock {
    /// The output; of a failure, what had been reported until then.
    pub output: Value,
    pub error: Option<RunError>,
    pub takes: Span,
}

pub(super) const RULE_TEST: Keys =
    Keys { of: "the test of a rule", built: &["rule", "config", "kv", "apps", "cases"], later: &[] };
pub(super) const WORKFLOW_TEST: Keys = Keys {
    of: "the test of a workflow",
    built: &["workflow", "mock", "config", "kv", "apps", "cases"],
    later: &[],
};
pub(super) const RULE_CASE: Keys =
    Keys { of: "a case of a rule", built: &["name", "event", "expect"], later: &[] };
pub(super) const WORKFLOW_CASE: Keys = Keys {
    of: "a case of a workflow",
    built: &["name", "at", "input", "mock", "events", "answers", "holds", "force", "expect"],
    later: &[],
};
pub(super) const EVENT: Keys = Keys { of: "`event`", built: &["trigger", "payload", "file"], later: &[] };
pub(super) const TIMED_EVENT: Keys =
    Keys { of: "an event", built: &["at", "trigger", "payload", "file"], later: &[] };
pub(super) const ANSWER: Keys =
    Keys { of: "an answer", built: &["by", "at", "yes", "reject", "comment", "answers"], later: &[] };
pub(super) const HELD: Keys = Keys { of: "a hold", built: &["what", "from", "until", "why"], later: &[] };
pub(super) const FORCED: Keys = Keys { of: "`force`", built: &["at", "by", "why"], later: &[] };
pub(super) const MOCK: Keys =
    Keys { of: "a mock", built: &["output", "fail", "error", "takes", "attempts"], later: &[] };
pub(super) const ATTEMPT: Keys =
    Keys { of: "an attempt", built: &["output", "fail", "error", "takes"], later: &[] };
pub(super) const ERROR: Keys = Keys { of: "`error`", built: &["kind", "message"], later: &[] };
pub(super) const RULE_EXPECTED: Keys = Keys {
    of: "what is expected of a rule",
    built: &["match", "run", "with", "on_behalf_of", "why"],
    later: &[],
};
pub(super) const WORKFLOW_EXPECTED: Keys = Keys {
    of: "what is expected of a run",
    built: &["status", "steps", "undone", "called", "not_called", "output", "error"],
    later: &[],
};
pub(super) const STEP_EXPECTED: Keys =
    Keys { of: "what is expected of a step", built: &["status", "output", "error", "attempts"], later: &[] };
pub(super) const ERROR_EXPECTED: Keys =
    Keys { of: "what is expected of an error", built: &["kind", "message", "step"], later: &[] };
pub(super) const CALLED: Keys = Keys { of: "a call", built: &["run", "with"], later: &[] };

const FINAL: [RunStatus; 5] = [
    RunStatus::Succeeded,
    RunStatus::Failed,
    RunStatus::Rejected,
    RunStatus::Superseded,
    RunStatus::Cancelled,
];
const STEP_STATUSES: [StepStatus; 8] = [
    StepStatus::Succeeded,
    StepStatus::Failed,
    StepStatus::Rejected,
    StepStatus::Skipped,
    StepStatus::Cancelled,
    StepStatus::TimedOut,
    StepStatus::Lost,
    StepStatus::NotStarted,
];
const ERROR_KINDS: [(&str, ErrorKind); 6] = [
    ("failed", ErrorKind::Failed),
    ("timed_out", ErrorKind::TimedOut),
    ("rejected", ErrorKind::Rejected),
    ("lost", ErrorKind::Lost),
    ("cancelled", ErrorKind::Cancelled),
    ("limit", ErrorKind::Limit),
];

/// How an attempt may fail, as it is written.
pub(super) fn error_kinds() -> Vec<&'static str> {
    ERROR_KINDS.iter().map(|(word, _)| *word).collect()
}

/// How a run may end.
pub(super) fn final_statuses() -> Vec<&'static str> {
    FINAL.iter().map(|status| status.as_str()).collect()
}

/// How a step may end.
pub(super) fn step_statuses() -> Vec<&'static str> {
    STEP_STATUSES.iter().map(|status| status.as_str()).collect()
}

/// The definitions that tests speak of. What was left out is not here: a test of it is read for its own mistakes, and says why when it is run.
pub(super) struct Kept<'a> {
    pub(super) actions: &'a BTreeMap<String, Arc<Action>>,
    pub(super) workflows: &'a BTreeMap<String, Arc<Workflow>>,
    pub(super) rules: &'a BTreeMap<String, Arc<Rule>>,
    pub(super) triggers: &'a BTreeMap<String, Arc<Trigger>>,
    /// Every rule there is, whole or not.
    pub(super) rule_names: BTreeSet<String>,
}

/// Reads every file of tests.
pub(super) fn read(
    files: &Files,
    world: &World<'_>,
    kept: &Kept<'_>,
    place_of: impl Fn(&str) -> Arc<str>,
) -> (Vec<Test>, Vec<Mistake>) {
    let (mut tests, mut mistakes) = (Vec::new(), Vec::new());
    for (path, bytes) in &files.texts {
        let Some((pack, folder, name)) = sort(path) else { continue };
        let file = place_of(path);
        if let Some((message, help)) = misnamed(name) {
            let place = Place { file, line: 1, column: 1 };
            mistakes.push(Mistake { place, message, help });
            continue;
        }
        if !name.ends_with(".yaml") {
            continue; // A payload, a readme, a program.
        }
        let source = match Source::new(Arc::clone(&file), bytes) {
            Ok(source) => source,
            Err(mistake) => {
                mistakes.push(mistake);
                continue;
            }
        };
        let (documents, more) = source.parse();
        if documents.is_empty() && more.is_empty() {
            let message = "this file is empty: it holds no test".to_owned();
            mistakes.push(Mistake { place: source.place(1, 1), message, help: None });
        }
        let is_whole = more.is_empty();
        mistakes.extend(more);
        for document in &documents {
            let sheet = Sheet::new(&source, pack);
            let reader = Reader { sheet: &sheet, world, kept, files, folder };
            let test = reader.test(document);
            let found = sheet.into_mistakes();
            tests.extend(test.filter(|_| found.is_empty() && is_whole));
            mistakes.extend(found);
        }
    }
    (tests, mistakes)
}

/// The pack, the folder with a slash at its end, and the rest of the path of a file in a folder of tests.
fn sort(path: &str) -> Option<(&str, &str, &str)> {
    let (pack, rest) = match path.strip_prefix("packs/") {
        Some(rest) => rest.split_once('/')?,
        None => (SITE, path),
    };
    let name = rest.strip_prefix("tests/")?;
    let hidden = name.split('/').any(|part| part.starts_with('.'));
    (!hidden).then(|| (pack, &path[..path.len() - name.len()], name))
}

fn misnamed(name: &str) -> Option<(String, Option<String>)> {
    if let Some(stem) = name.strip_suffix(".yml").filter(|stem| !stem.contains('/')) {
        return Some(("tests end in .yaml".to_owned(), Some(format!("rename it to {stem}.yaml"))));
    }
    let last = name.rsplit('/').next().unwrap_or(name);
    if name.contains('/') && last.ends_with(".yaml") {
        let message =
            "tests/ holds tests in itself only; folders inside are for payloads, as JSON".to_owned();
        return Some((message, Some(format!("move it to tests/{last}"))));
    }
    None
}

/// Of which triggers an event of a test may be.
#[derive(Clone, Copy)]
enum Triggers<'a> {
    Any,
    /// Those of the rule at hand: with only one, it need not be said.
    These(&'a [String]),
    /// The rule can't be read.
    Unknown,
}

struct Reader<'a> {
    sheet: &'a Sheet<'a>,
    world: &'a World<'a>,
    kept: &'a Kept<'a>,
    files: &'a Files,
    /// Where the file stands: payloads stand beside it.
    folder: &'a str,
}

impl Reader<'_> {
    fn test(&self, node: &Node) -> Option<Test> {
        let sheet = self.sheet;
        let entries = sheet.entries(node, "a test")?;
        let has = |key: &str| entries.iter().any(|entry| entry.key == key);
        let (subject, table) = match (has("rule"), has("workflow")) {
            (true, false) => {
                let table = sheet.table(node, &RULE_TEST)?;
                (self.of_rule(&table)?, table)
            }
            (false, true) => {
                let table = sheet.table(node, &WORKFLOW_TEST)?;
                (self.of_workflow(&table)?, table)
            }
            (true, true) => {
                let help = Some("make two documents of it, with --- between them".to_owned());
                sheet.wrong(node, "a test is of a rule or of a workflow, not of both", help);
                return None;
            }
            (false, false) => {
                let help = Some("begin with `rule: site.NAME` or `workflow: site.NAME`".to_owned());
                sheet.wrong(node, "a test says which rule or workflow it is of", help);
                return None;
            }
        };
        Some(Test {
            place: sheet.source.place(node.line, node.column),
            subject,
            setting: self.setting(&table),
        })
    }

    fn setting(&self, table: &Table<'_>) -> Setting {
        let sheet = self.sheet;
        let mut setting = Setting::default();
        let configs =
            table.get("config").and_then(|node| sheet.entries(node, "`config`")).unwrap_or_default();
        for entry in configs {
            let Some(config) = self.world.configs.get(&entry.key) else {
                let help = suggestion(&entry.key, self.world.configs.keys().map(String::as_str));
                sheet.report(entry.line, entry.column, format!("there is no pack `{}`", entry.key), help);
                continue;
            };
            let properties = config.schema.clone();
            let field = Field { properties, ..Field::new(Type::Object) };
            let given = sheet.entries(&entry.value, "the configuration of a pack").unwrap_or_default();
            for given in given {
                let known = config.schema.as_ref().map(|schema| (schema, schema.get(&given.key)));
                match known {
                    Some((_, Some(field))) => sheet.check_literal(&given.value, field, &given.key),
                    Some((schema, None)) => {
                        let help = suggestion(&given.key, schema.keys().map(String::as_str));
                        let message = format!("the pack `{}` takes no `{}`", entry.key, given.key);
                        sheet.report(given.line, given.column, message, help);
                    }
                    None => (),
                }
            }
            if let Value::Object(value) = sheet.typed_value(&entry.value, Some(&field)) {
                setting.config.insert(entry.key.clone(), value);
            }
        }
        setting.kv = table.get("kv").map(|node| self.object(node, "`kv`"));
        setting.apps = table.get("apps").map(|node| self.object(node, "`apps`")).unwrap_or_default();
        setting
    }

    fn object(&self, node: &Node, what: &str) -> Object {
        self.sheet.entries(node, what);
        match self.sheet.value(node) {
            Value::Object(object) => object,
            _ => Object::new(),
        }
    }

    /// The cases of a test: a list of maps, each with a name of its own.
    fn cases<'n>(&'n self, table: &Table<'n>, keys: &Keys) -> Vec<(Table<'n>, Place, String)> {
        let sheet = self.sheet;
        let Some(node) = table.need("cases") else { return Vec::new() };
        let nodes = sheet.list(node, "cases").unwrap_or_default();
        if nodes.is_empty() {
            sheet.wrong(node, "`cases` has no case", None);
        }
        let mut names = BTreeSet::new();
        let mut cases = Vec::new();
        for node in nodes {
            let Some(table) = sheet.table(node, keys) else { continue };
            let Some(name) = table.need("name").and_then(|node| sheet.text(node, "name")) else { continue };
            if !names.insert(name.clone())
                && let Some(node) = table.get("name")
            {
                sheet.wrong(node, format!("two cases are called `{name}`"), None);
            }
            cases.push((table, sheet.source.place(node.line, node.column), name));
        }
        cases
    }

    // Rules.

    fn of_rule(&self, table: &Table<'_>) -> Option<Subject> {
        let sheet = self.sheet;
        let node = table.need("rule")?;
        let name = full_name(sheet.pack, &sheet.name(node, "rule")?);
        if !self.kept.rule_names.contains(&name) {
            let help = suggestion(&name, self.kept.rule_names.iter().map(String::as_str));
            sheet.wrong(node, format!("there is no rule `{name}`"), help);
            return None;
        }
        let triggers = match self.kept.rules.get(&name) {
            Some(rule) => Triggers::These(&rule.triggers),
            // Its own mistakes are told; that its cases don't know its trigger would only be noise.
            None => Triggers::Unknown,
        };
        let cases = self.cases(table, &RULE_CASE).into_iter().filter_map(|(case, place, name)| {
            let event = case.need("event").and_then(|node| {
                let event = sheet.table(node, &EVENT)?;
                self.happening(&event, triggers)
            });
            let expect = case.need("expect").and_then(|node| self.rule_expected(node));
            Some(RuleCase { place, name, event: event?, expect: expect? })
        });
        Some(Subject::Rule { cases: cases.collect(), rule: name })
    }

    fn rule_expected(&self, node: &Node) -> Option<RuleExpected> {
        let sheet = self.sheet;
        let table = sheet.table(node, &RULE_EXPECTED)?;
        let why = table.text("why");
        let matched = table.boolean("match");
        let after_match = ["run", "with", "on_behalf_of"].iter().find_map(|key| table.entry(key));
        if let Some(entry) = after_match.filter(|_| matched == Some(false) || why.is_some()) {
            let message = format!("`{}` comes of a match, and none is expected", entry.key);
            sheet.report(entry.line, entry.column, message, None);
        }
        if matched.is_none() && after_match.is_none() && why.is_none() {
            sheet.wrong(node, "nothing is expected: say `match: true` or `match: false`", None);
        }
        if let Some(entry) = table.entry("match").filter(|_| matched == Some(true) && why.is_some()) {
            let message = "`why` is why a rule failed, and a rule that failed matches nothing";
            sheet.report(entry.line, entry.column, message, Some("take `match` away".to_owned()));
        }
        let run = table.get("run").and_then(|node| self.callable(node, "run"));
        // Texts stay texts where what is run takes text.
        let signature = run.as_ref().and_then(|run| self.world.callables.get(run));
        let with = table.get("with").map(|node| {
            if let (Some(signature), Some(run)) = (signature, &run) {
                self.check_fields(node, &signature.input, run);
            }
            self.value_of(node, signature.map(|signature| &signature.input))
        });
        Some(RuleExpected {
            matched: matched.unwrap_or(why.is_none()),
            run,
            with,
            on_behalf_of: table.get("on_behalf_of").map(|node| sheet.value(node)),
            why,
        })
    }

    // Events.

    /// The trigger and payload of an event.
    fn happening(&self, table: &Table<'_>, triggers: Triggers<'_>) -> Option<Happening> {
        let sheet = self.sheet;
        let trigger = match (table.get("trigger"), triggers) {
            (Some(node), _) => {
                let trigger = self.world.trigger(sheet, node, "trigger");
                if let (Some(trigger), Triggers::These(these)) = (&trigger, triggers)
                    && !these.contains(trigger)
                {
                    let message = format!("the rule is not for {trigger}, but for {}", these.join(", "));
                    sheet.wrong(node, message, None);
                }
                trigger
            }
            (None, Triggers::These([only])) => Some(only.clone()),
            (None, Triggers::Unknown) => None,
            (None, _) => table.need("trigger").map(|_| String::new()),
        };
        let (payload, at) = match (table.get("payload"), table.get("file")) {
            (Some(node), None) => (Some(sheet.value(node)), node),
            (None, Some(node)) => (self.payload_file(node), node),
            (Some(_), Some(node)) => {
                sheet.wrong(node, "the payload stands in `payload` or in a `file`, not in both", None);
                return None;
            }
            (None, None) => (Some(Value::Object(Object::new())), table.node),
        };
        let (trigger, payload) = (trigger?, payload?);
        let known = self.kept.triggers.get(&trigger);
        if let Some(Err(why)) = known.map(|trigger| trigger.validate(&payload)) {
            sheet.wrong(at, format!("no {trigger} looks like this: {why}"), None);
        }
        Some(Happening { trigger, payload: Arc::new(payload) })
    }

    /// A JSON file that stands beside the test.
    fn payload_file(&self, node: &Node) -> Option<Value> {
        let sheet = self.sheet;
        let name = sheet.name(node, "file")?;
        let path = format!("{}{name}", self.folder);
        let Some(bytes) = self.files.texts.get(&path) else {
            let beside = self.files.texts.keys().filter_map(|path| path.strip_prefix(self.folder));
            let beside: Vec<&str> = beside.filter(|name| name.ends_with(".json")).collect();
            let message = format!("there is no file {path}: a payload stands beside its test");
            sheet.wrong(node, message, suggestion(&name, beside));
            return None;
        };
        match serde_json::from_slice(bytes) {
            Ok(payload) => Some(payload),
            Err(error) => {
                sheet.wrong(node, format!("{path} is no JSON: {error}"), None);
                None
            }
        }
    }

    // Workflows.

    fn of_workflow(&self, table: &Table<'_>) -> Option<Subject> {
        let sheet = self.sheet;
        let node = table.need("workflow")?;
        let name = self.callable(node, "workflow")?;
        if !self.world.callables.get(&name).is_some_and(|signature| signature.is_workflow) {
            let message = format!("{name} is an action; tests are of rules and of workflows");
            sheet.wrong(node, message, None);
            return None;
        }
        let workflow = self.kept.workflows.get(&name).map(|workflow| &**workflow);
        let mocks = table.get("mock").map(|node| self.mocks(node, workflow)).unwrap_or_default();
        let mut apps = self.world.apps.as_object().cloned().unwrap_or_default();
        if let Some(Value::Object(own)) = table.get("apps").map(|node| self.sheet.value(node)) {
            apps.extend(own);
        }
        let cases = self
            .cases(table, &WORKFLOW_CASE)
            .into_iter()
            .map(|(case, place, name)| self.workflow_case(&case, place, name, workflow, &apps))
            .collect();
        Some(Subject::Workflow { workflow: name, mocks, cases })
    }

    fn workflow_case(
        &self,
        case: &Table<'_>,
        place: Place,
        name: String,
        workflow: Option<&Workflow>,
        apps: &Object,
    ) -> WorkflowCase {
        let sheet = self.sheet;
        let mut events: Vec<(Span, Happening)> = Vec::new();
        let nodes = case.get("events").and_then(|node| sheet.list(node, "events")).unwrap_or_default();
        for node in nodes {
            let Some(table) = sheet.table(node, &TIMED_EVENT) else { continue };
            let at = table.span("at").unwrap_or_default();
            events.extend(self.happening(&table, Triggers::Any).map(|event| (at, event)));
        }
        events.sort_by_key(|(at, _)| *at);
        let entries =
            case.get("answers").and_then(|node| sheet.entries(node, "`answers`")).unwrap_or_default();
        let mut answers = BTreeMap::new();
        for entry in entries {
            let approve = workflow.map(|workflow| self.approval(workflow, &entry.key));
            if let Some(Err((message, help))) = approve {
                sheet.report(entry.line, entry.column, message, help);
                continue;
            }
            let approve = approve.and_then(Result::ok);
            answers.extend(self.answer(&entry.value, approve).map(|answer| (entry.key.clone(), answer)));
        }
        WorkflowCase {
            place,
            name,
            input: self.input(case, workflow),
            mocks: case.get("mock").map(|node| self.mocks(node, workflow)).unwrap_or_default(),
            starts_at: case.get("at").and_then(|node| self.time(node)),
            holds: self.holds(case, apps),
            force: case.get("force").and_then(|node| self.forced(node)),
            events,
            answers,
            expect: case
                .need("expect")
                .and_then(|node| self.workflow_expected(node, workflow))
                .unwrap_or_default(),
        }
    }

    /// A moment, as RFC 3339 writes it.
    fn time(&self, node: &Node) -> Option<Timestamp> {
        let text = self.sheet.text(node, "at")?;
        let time = text.parse();
        if time.is_err() {
            let help = Some("write it like 2026-11-20T10:00:00+01:00".to_owned());
            self.sheet.wrong(node, format!("`at` is when the run begins, and `{text}` is no time"), help);
        }
        time.ok()
    }

    fn holds(&self, case: &Table<'_>, apps: &Object) -> Vec<Held> {
        let sheet = self.sheet;
        let nodes = case.get("holds").map(|node| sheet.one_or_list(node)).unwrap_or_default();
        let held = |node| {
            let table = sheet.table(node, &HELD)?;
            let at = table.need("what")?;
            let what = sheet.name(at, "what")?;
            if what != "all" && !apps.contains_key(&what) {
                let help = suggestion(&what, apps.keys().map(String::as_str).chain(["all"]));
                sheet.wrong(at, format!("there is no app `{what}`: what is held is an app, or all"), help);
            }
            let (from, until) = (table.span("from").unwrap_or_default(), table.span("until"));
            if let Some(node) = table.get("until").filter(|_| until.is_some_and(|until| until <= from)) {
                sheet.wrong(node, format!("the hold would end before it begins, at {from}"), None);
            }
            let why = table.text("why").unwrap_or_else(|| "the test says so".to_owned());
            Some(Held { what, from, until, why })
        };
        nodes.iter().filter_map(held).collect()
    }

    fn forced(&self, node: &Node) -> Option<Forced> {
        let table = self.sheet.table(node, &FORCED)?;
        let at = table.span("at").unwrap_or_default();
        let by = table.text("by").unwrap_or_else(|| "test".to_owned());
        let why = table.text("why").unwrap_or_else(|| "the test says so".to_owned());
        Some(Forced { at, by, why })
    }

    /// What the run is given, as the API would accept it.
    fn input(&self, case: &Table<'_>, workflow: Option<&Workflow>) -> Value {
        let Some(fields) = workflow.map(|workflow| &workflow.input) else { return Value::Null };
        self.accepted(case.get("input"), case.node, fields, "input")
    }

    /// A whole map of these fields, with their defaults. `at` is where it would stand.
    fn accepted(&self, node: Option<&Node>, at: &Node, fields: &Fields, what: &str) -> Value {
        let field = Field { properties: Some(fields.clone()), ..Field::new(Type::Object) };
        match node {
            Some(node) => self.sheet.check_literal(node, &field, what),
            None => {
                for (name, _) in fields.iter().filter(|(_, field)| field.is_required()) {
                    self.sheet.wrong(at, format!("`{what}` needs `{name}`"), None);
                }
            }
        }
        let given =
            node.map_or_else(|| Value::Object(Object::new()), |node| self.value_of(node, Some(fields)));
        // What it would complain of was reported just now, at its own place.
        fields::accept(fields, &Filled::Plain(given), false)
            .map(|accepted| accepted.masked())
            .unwrap_or_default()
    }

    fn approval<'w>(
        &self,
        workflow: &'w Workflow,
        id: &str,
    ) -> Result<&'w Approve, (String, Option<String>)> {
        let asks = |step: &&'w Step| matches!(step.kind, Kind::Approve(_));
        match find_step(workflow, id).map(|found| &found.step().kind) {
            Some(Kind::Approve(approve)) => Ok(approve),
            Some(_) => Err((format!("the step `{id}` asks nobody"), None)),
            None => {
                let known: Vec<&str> =
                    all_steps(workflow).filter(asks).map(|step| step.id.as_str()).collect();
                Err((format!("{} has no step `{id}`", workflow.name), suggestion(id, known)))
            }
        }
    }

    fn answer(&self, node: &Node, approve: Option<&Approve>) -> Option<Answer> {
        let sheet = self.sheet;
        let table = sheet.table(node, &ANSWER)?;
        let by = table.need("by").map(|node| sheet.one_or_list(node)).unwrap_or_default();
        let reject = match (table.boolean("yes"), table.boolean("reject")) {
            (Some(_), Some(_)) => {
                sheet.wrong(node, "an answer is `yes: true` or `reject: true`, not both", None);
                return None;
            }
            (yes, reject) => yes == Some(false) || reject == Some(true),
        };
        let fields = approve.map(|approve| &approve.fields);
        let answers = match (fields, table.get("answers")) {
            (Some(fields), given) if !reject => self.accepted(given, node, fields, "answers"),
            (_, given) => given.map(|node| self.sheet.value(node)).unwrap_or_default(),
        };
        Some(Answer {
            by: by.iter().filter_map(|node| sheet.name(node, "by")).collect(),
            at: table.span("at").unwrap_or_default(),
            reject,
            comment: table.text("comment"),
            answers,
        })
    }

    // Mocks.

    fn mocks(&self, node: &Node, workflow: Option<&Workflow>) -> Mocks {
        let mut mocks = Mocks::default();
        for entry in self.sheet.entries(node, "`mock`").unwrap_or_default() {
            let (name, run) = match self.mocked(&entry.key, workflow) {
                Ok(found) => found,
                Err((message, help)) => {
                    self.sheet.report(entry.line, entry.column, message, help);
                    continue;
                }
            };
            let outputs = run.as_deref().and_then(|run| self.outputs_of(run));
            let nodes = self.sheet.one_or_list(&entry.value);
            if nodes.is_empty() {
                self.sheet.wrong(&entry.value, "a mock without an attempt", None);
            }
            let plays = nodes.iter().map(|node| self.attempts(node, run.as_deref(), outputs));
            mocks.by_name.insert(name, plays.filter(|attempts| !attempts.is_empty()).collect());
        }
        mocks
    }

    /// What a mock's name means: the name it is found by, and the action or workflow that it stands in for.
    fn mocked(
        &self,
        key: &str,
        workflow: Option<&Workflow>,
    ) -> Result<(String, Option<String>), (String, Option<String>)> {
        let Some(workflow) = workflow else { return Ok((key.to_owned(), None)) };
        let id = key.strip_suffix(UNDO_SUFFIX).unwrap_or(key);
        if let Some(step) = find_step(workflow, id).map(|found| found.step()) {
            let run = match (&step.kind, id == key) {
                (_, false) => step.undo.as_ref().map(|call| call.run.clone()),
                (Kind::Run(call), true) => Some(call.run.clone()),
                (Kind::Watch(watch), true) => watch.check.as_ref().map(|check| check.call.run.clone()),
                (Kind::WaitFor(wait), true) => wait.poll.as_ref().map(|poll| poll.call.run.clone()),
                (Kind::Approve(_), true) => {
                    let help = Some("say in the case's `answers` what people say".to_owned());
                    return Err((format!("the step `{id}` asks people; there is nothing to mock"), help));
                }
                (Kind::Group(_), true) => {
                    let help = Some("mock its steps, each by its own `id`".to_owned());
                    return Err((format!("`{id}` is a group, which is always played"), help));
                }
                (_, true) => None,
            };
            let Some(run) = run else {
                let what = if id == key { "calls nothing" } else { "has no undo" };
                return Err((format!("the step `{id}` {what}; there is nothing to mock"), None));
            };
            return Ok((key.to_owned(), Some(run)));
        }
        let full = full_name(self.sheet.pack, key);
        if self.world.callables.contains_key(&full) {
            return Ok((full.clone(), Some(full)));
        }
        let steps = all_steps(workflow).map(|step| step.id.as_str());
        let known: Vec<&str> = steps.chain(self.world.callables.keys().map(String::as_str)).collect();
        Err((format!("`{key}` is neither a step of {} nor an action", workflow.name), suggestion(key, known)))
    }

    /// The outputs that an action or workflow promises, when it promises some.
    fn outputs_of(&self, run: &str) -> Option<&Fields> {
        match self.kept.actions.get(run) {
            Some(action) => action.returns.as_ref(),
            None => self.world.callables.get(run).and_then(|signature| signature.outputs.as_ref()),
        }
    }

    /// One entry of a list of mocks: one attempt, or those in its `attempts`.
    fn attempts(&self, node: &Node, run: Option<&str>, outputs: Option<&Fields>) -> Vec<Mock> {
        let sheet = self.sheet;
        let Some(table) = sheet.table(node, &MOCK) else { return Vec::new() };
        let Some(list) = table.get("attempts") else {
            return self.mock(&table, run, outputs).into_iter().collect();
        };
        if let Some(entry) = table.keys().find(|entry| entry.key != "attempts") {
            let message = format!("`{}` belongs into one of the `attempts`", entry.key);
            sheet.report(entry.line, entry.column, message, None);
        }
        let nodes = sheet.one_or_list(list);
        if nodes.is_empty() {
            sheet.wrong(list, "a mock without an attempt", None);
        }
        let tables = nodes.iter().filter_map(|node| sheet.table(node, &ATTEMPT));
        tables.filter_map(|table| self.mock(&table, run, outputs)).collect()
    }

    fn mock(&self, table: &Table<'_>, run: Option<&str>, outputs: Option<&Fields>) -> Option<Mock> {
        let sheet = self.sheet;
        if let (Some(_), Some(entry)) = (table.get("fail"), table.entry("error")) {
            sheet.report(entry.line, entry.column, "`fail` is short for `error`: say one of them", None);
        }
        let output = match table.get("output") {
            Some(node) => {
                if let (Some(fields), Some(run)) = (outputs, run) {
                    self.check_fields(node, fields, run);
                }
                self.value_of(node, outputs)
            }
            None if table.get("fail").or(table.get("error")).is_some() => Value::Null,
            None => Value::Object(Object::new()),
        };
        let error = match table.get("error") {
            Some(node) => self.error(node),
            None => table.text("fail").map(RunError::failed),
        };
        Some(Mock { output, error, takes: table.span("takes").unwrap_or_default() })
    }

    fn error(&self, node: &Node) -> Option<RunError> {
        let sheet = self.sheet;
        if let Content::Scalar(scalar) = &node.content {
            return Some(RunError::failed(scalar.text.clone()));
        }
        let table = sheet.table(node, &ERROR)?;
        let kind = table.get("kind").and_then(|node| self.kind(node)).unwrap_or(ErrorKind::Failed);
        let word = ERROR_KINDS.iter().find(|(_, known)| *known == kind).map_or("failed", |(word, _)| word);
        Some(RunError::new(kind, table.text("message").unwrap_or_else(|| word.replace('_', " "))))
    }

    fn kind(&self, node: &Node) -> Option<ErrorKind> {
        let words = ERROR_KINDS.map(|(word, _)| word);
        let found = self.sheet.word(node, "kind", &words)?;
        ERROR_KINDS.iter().find(|(word, _)| *word == found).map(|(_, kind)| *kind)
    }

    // What is expected.

    fn workflow_expected(&self, node: &Node, workflow: Option<&Workflow>) -> Option<WorkflowExpected> {
        let sheet = self.sheet;
        let table = sheet.table(node, &WORKFLOW_EXPECTED)?;
        if table.keys().next().is_none() {
            sheet.wrong(node, "nothing is expected: say `status: succeeded`, for example", None);
        }
        let status = table.get("status").and_then(|node| {
            let word = sheet.word(node, "status", &FINAL.map(RunStatus::as_str))?;
            RunStatus::parse(word)
        });
        let mut steps = Object::new();
        let entries = table.get("steps").and_then(|node| sheet.entries(node, "`steps`")).unwrap_or_default();
        for entry in entries {
            if let Some(Err((message, help))) = workflow.map(|workflow| own_step(workflow, &entry.key)) {
                sheet.report(entry.line, entry.column, message, help);
                continue;
            }
            self.check_step_expected(&entry.value);
            steps.insert(entry.key.clone(), sheet.value(&entry.value));
        }
        let undone = table.get("undone").map(|node| sheet.one_or_list(node)).unwrap_or_default();
        let called = table.get("called").map(|node| sheet.one_or_list(node)).unwrap_or_default();
        let not_called = table.get("not_called").map(|node| sheet.one_or_list(node)).unwrap_or_default();
        if let Some(node) = table.get("error").filter(|node| matches!(node.content, Content::Map(_))) {
            sheet.table(node, &ERROR_EXPECTED);
        }
        Some(WorkflowExpected {
            status,
            steps,
            undone: undone.iter().filter_map(|node| self.undone(node, workflow)).collect(),
            called: called.iter().filter_map(|node| self.called(node)).collect(),
            not_called: not_called.iter().filter_map(|node| self.callable(node, "not_called")).collect(),
            output: table.get("output").map(|node| sheet.value(node)),
            error: table.get("error").map(|node| match &node.content {
                Content::Scalar(scalar) => Value::String(scalar.text.clone()),
                _ => sheet.value(node),
            }),
        })
    }

    /// `STATUS`, or a map that holds one.
    fn check_step_expected(&self, node: &Node) {
        let words = STEP_STATUSES.map(StepStatus::as_str);
        if !matches!(node.content, Content::Map(_)) {
            self.sheet.word(node, "status", &words);
            return;
        }
        let Some(table) = self.sheet.table(node, &STEP_EXPECTED) else { return };
        if let Some(node) = table.get("status") {
            self.sheet.word(node, "status", &words);
        }
    }

    fn undone(&self, node: &Node, workflow: Option<&Workflow>) -> Option<String> {
        let id = self.sheet.name(node, "undone")?;
        let Some(workflow) = workflow else { return Some(id) };
        if !all_steps(workflow).any(|step| step.id == id && step.undo.is_some()) {
            let known = all_steps(workflow).filter(|step| step.undo.is_some());
            let known: Vec<&str> = known.map(|step| step.id.as_str()).collect();
            let message = format!("{} has no step `{id}` with an undo", workflow.name);
            self.sheet.wrong(node, message, suggestion(&id, known));
        }
        Some(id)
    }

    fn called(&self, node: &Node) -> Option<Called> {
        if !matches!(node.content, Content::Map(_)) {
            return Some(Called { run: self.callable(node, "called")?, with: None });
        }
        let table = self.sheet.table(node, &CALLED)?;
        let run = table.need("run").and_then(|node| self.callable(node, "run"))?;
        let signature = self.world.callables.get(&run);
        let with = table.get("with").map(|node| {
            if let Some(signature) = signature {
                self.check_fields(node, &signature.input, &run);
            }
            self.value_of(node, signature.map(|signature| &signature.input))
        });
        Some(Called { run, with })
    }

    fn callable(&self, node: &Node, what: &str) -> Option<String> {
        self.world.callable(self.sheet, node, what).map(|(name, _)| name)
    }

    /// A map of some of these fields: names are known, values fit. `of` is what has the fields.
    fn check_fields(&self, node: &Node, fields: &Fields, of: &str) {
        let entries = self.sheet.entries(node, "this").unwrap_or_default();
        for entry in entries {
            match fields.get(&entry.key) {
                // Only a part of an inner map may be written down.
                Some(field) => {
                    let outer = Field { properties: None, ..field.clone() };
                    self.sheet.check_literal(&entry.value, &outer, &entry.key);
                }
                None => {
                    let help = suggestion(&entry.key, fields.keys().map(String::as_str));
                    let message = format!("{of} has no `{}`", entry.key);
                    self.sheet.report(entry.line, entry.column, message, help);
                }
            }
        }
    }

    /// A map's values, texts as they are written where the fields say text.
    fn value_of(&self, node: &Node, fields: Option<&Fields>) -> Value {
        let field = Field { properties: fields.cloned(), ..Field::new(Type::Object) };
        self.sheet.typed_value(node, Some(&field))
    }
}

/// Where a step stands.
enum Stands<'w> {
    /// In the run of the workflow itself.
    Here(&'w Step),
    /// In a group that is a run of its own.
    Apart { step: &'w Step, group: &'w str },
}

impl<'w> Stands<'w> {
    fn step(&self) -> &'w Step {
        match self {
            Stands::Here(step) | Stands::Apart { step, .. } => step,
        }
    }
}

/// The step of this id, in the workflow or in one of its groups.
fn find_step<'w>(workflow: &'w Workflow, id: &str) -> Option<Stands<'w>> {
    let here = workflow.own_steps().find(|step| step.id == id).map(Stands::Here);
    here.or_else(|| {
        workflow.groups.iter().find_map(|(group, inside)| {
            let step = inside.own_steps().find(|step| step.id == id)?;
            Some(Stands::Apart { step, group })
        })
    })
}

/// Whether there is such a step in the run itself, whose status can be looked at.
fn own_step(workflow: &Workflow, id: &str) -> Result<(), (String, Option<String>)> {
    match find_step(workflow, id) {
        Some(Stands::Here(_)) => Ok(()),
        Some(Stands::Apart { group, .. }) => {
            let help = format!("expect what the group gave: {group}: {{output: ...}}");
            Err((format!("`{id}` stands in the group `{group}`, which is a run of its own"), Some(help)))
        }
        None => {
            let known: Vec<&str> = workflow.own_steps().map(|step| step.id.as_str()).collect();
            Err((format!("{} has no step `{id}`", workflow.name), suggestion(id, known)))
        }
    }
}

/// The steps of a workflow and of its groups.
fn all_steps(workflow: &Workflow) -> impl Iterator<Item = &Step> {
    workflow.own_steps().chain(workflow.groups.values().flat_map(|group| group.own_steps()))
}
