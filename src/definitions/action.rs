//! `packs/P/actions/*.yaml`: one thing that can be done.

use std::collections::BTreeSet;

use super::Files;
use super::Place;
use super::check::{Seen, Signature, World};
use super::fields::{self, Field, Fields, Type};
use super::mistake::suggestion;
use super::sheet::{Keys, Sheet, Table};
use super::tree::Tree;
use super::yaml::{Content, Node};
use crate::model::attempt::Work;
use crate::model::{Object, Span, Value};

#[derive(Clone, Debug)]
pub struct Action {
    /// `pack.name`.
    pub name: String,
    pub pack: String,
    pub place: Place,
    pub description: String,
    pub input: Fields,
    /// Names of outputs it promises, when it says so; `check` holds readers to them.
    pub returns: Option<Fields>,
    pub idempotent: bool,
    pub timeout: Option<Span>,
    /// What travels to the worker: runner, section, output templates, script, config, functions.
    pub work: Work,
    /// The secrets that its own templates name (by literal or by config path, resolved): given to every attempt of it.
    pub secrets: Vec<String>,
}

/// The runners and their sections. `later` are those that this version does not have.
pub(super) const RUNNERS: [&str; 4] = ["http", "shell", "script", "native"];
const RUNNERS_LATER: [&str; 3] = ["ssh", "container", "rhai"];

pub(super) const ACTION: Keys = Keys {
    of: "an action",
    built: &[
        "description",
        "runner",
        "input",
        "returns",
        "idempotent",
        "timeout",
        "output",
        "http",
        "shell",
        "script",
        "native",
    ],
    later: &["ssh", "container", "rhai"],
};
pub(super) const HTTP: Keys = Keys {
    of: "`http`",
    built: &["method", "url", "headers", "query", "auth", "body", "form", "json", "expect"],
    later: &[],
};
pub(super) const AUTH: Keys = Keys { of: "`auth`", built: &["basic", "bearer"], later: &[] };
pub(super) const SHELL: Keys = Keys { of: "`shell`", built: &["script", "env", "cwd"], later: &[] };
pub(super) const SCRIPT: Keys = Keys { of: "`script`", built: &["file", "args", "env"], later: &[] };
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// What others must know of it.
pub(super) fn signature(sheet: &Sheet<'_>, node: &Node) -> Signature {
    let Content::Map(entries) = &node.content else { return Signature::default() };
    let fields_of = |key: &str| {
        entries.iter().find(|entry| entry.key == key).map(|entry| fields::read(sheet, &entry.value, key))
    };
    Signature {
        is_workflow: false,
        input: fields_of("input").unwrap_or_default(),
        outputs: fields_of("returns"),
    }
}

/// Reads an action file.
pub(super) fn read(
    sheet: &Sheet<'_>,
    node: &Node,
    name: &str,
    world: &World<'_>,
    files: &Files,
    functions: Option<&str>,
) -> Option<Action> {
    let table = sheet.table(node, &ACTION)?;
    let input = table.get("input").map(|node| fields::read(sheet, node, "input")).unwrap_or_default();
    let returns = table.get("returns").map(|node| fields::read(sheet, node, "returns"));
    let mut reader = Reader { sheet, world, input: &input, secrets: BTreeSet::new() };
    let runner = read_runner(&table)?;
    let section = reader.section(&table, runner);
    let output = table.get("output").map(|node| reader.output(node, runner)).unwrap_or_default();
    let script = match (runner, section.get("file").and_then(Value::as_str)) {
        ("script", Some(file)) => reader.script_file(&table, file, files),
        _ => None,
    };
    let secrets = reader.secrets.into_iter().collect();
    let secret_outputs =
        returns.iter().flatten().filter(|(_, field)| field.secret).map(|(name, _)| name.clone()).collect();
    let file_inputs = files_among(&input);
    let file_outputs = returns.as_ref().map(files_among).unwrap_or_default();
    let config = world.configs.get(sheet.pack).map(|config| config.value.clone()).unwrap_or_default();
    Some(Action {
        name: name.to_owned(),
        pack: sheet.pack.to_owned(),
        place: sheet.source.place(1, 1),
        description: table.description(),
        returns,
        idempotent: table.boolean("idempotent").unwrap_or_default(),
        timeout: table.span("timeout"),
        work: Work {
            runner: runner.to_owned(),
            section,
            output,
            script,
            secret_outputs,
            file_inputs,
            file_outputs,
            config,
            functions: functions.map(str::to_owned),
        },
        secrets,
        input,
    })
}

/// The fields that are files, or lists of them.
fn files_among(fields: &Fields) -> Vec<String> {
    let is_file = |field: &Field| field.kind == Type::File;
    let found = fields.iter().filter(|(_, field)| {
        is_file(field) || (field.kind == Type::Array && field.items.as_deref().is_some_and(is_file))
    });
    found.map(|(name, _)| name.clone()).collect()
}

fn read_runner(table: &Table<'_>) -> Option<&'static str> {
    let node = table.need("runner")?;
    let name = table.sheet.name(node, "runner")?;
    if RUNNERS_LATER.contains(&name.as_str()) {
        table.sheet.wrong(node, format!("the runner `{name}` is not built yet in this version"), None);
        return None;
    }
    let found = RUNNERS.into_iter().find(|runner| *runner == name);
    if found.is_none() {
        table.sheet.wrong(node, format!("there is no runner `{name}`"), suggestion(&name, RUNNERS));
    }
    for entry in table.keys().filter(|entry| RUNNERS.contains(&entry.key.as_str())) {
        if found.is_some_and(|runner| runner != entry.key) {
            let message = format!(
                "`{}` belongs to the runner of that name; this action's runner is `{name}`",
                entry.key
            );
            table.sheet.report(entry.line, entry.column, message, None);
        }
    }
    found
}

/// Reads the parts that the worker renders: as data, with their templates checked.
struct Reader<'a> {
    sheet: &'a Sheet<'a>,
    world: &'a World<'a>,
    input: &'a Fields,
    secrets: BTreeSet<String>,
}

impl Reader<'_> {
    fn section(&mut self, table: &Table<'_>, runner: &str) -> Value {
        let Some(node) = table.get(runner) else {
            // Without a section the input has the parameters.
            let wanted = match runner {
                "http" => "url",
                "shell" => "script",
                "script" => "file",
                _ => return Value::Null,
            };
            if runner == "script" || !self.input.contains_key(wanted) {
                let message =
                    format!("an action with the runner `{runner}` needs `{runner}: {{{wanted}: ...}}`");
                self.sheet.wrong(table.node, message, None);
            }
            return Value::Null;
        };
        let section = match runner {
            "http" => self.http(node),
            "shell" => self.shell(node),
            "script" => self.script(node),
            "native" => self.native(node),
            _ => None,
        };
        Value::Object(section.unwrap_or_default())
    }

    fn http(&mut self, node: &Node) -> Option<Object> {
        let sheet = self.sheet;
        let table = sheet.table(node, &HTTP)?;
        let mut section = Object::new();
        if let Some(method) = table.get("method") {
            let text = sheet.text(method, "method").unwrap_or_default();
            if !METHODS.contains(&text.as_str()) && !text.contains("{{") {
                sheet.wrong(
                    method,
                    format!("there is no method `{text}`"),
                    suggestion(&text.to_uppercase(), METHODS).or(Some(METHODS.join(", "))),
                );
            }
            section.insert("method".to_owned(), self.text(method));
        }
        if let Some(url) = table.need("url") {
            section.insert("url".to_owned(), self.text(url));
        }
        for key in ["headers", "query"] {
            if let Some(node) = table.get(key) {
                section.insert(key.to_owned(), self.texts(node, key));
            }
        }
        if let Some(auth) = table.get("auth").filter(|auth| self.names_its_secrets(auth)) {
            section.insert("auth".to_owned(), self.auth(auth));
        }
        let bodies: Vec<&str> =
            ["body", "form", "json"].into_iter().filter(|key| table.get(key).is_some()).collect();
        if let [first, second, ..] = bodies.as_slice()
            && let Some(entry) = table.entry(second)
        {
            sheet.report(
                entry.line,
                entry.column,
                format!("a request has one body: `{first}` and `{second}` are two"),
                None,
            );
        }
        for key in bodies {
            if let Some(node) = table.get(key) {
                section.insert(key.to_owned(), self.any(node));
            }
        }
        if let Some(expect) = table.get("expect") {
            let codes = sheet.one_or_list(expect).iter().filter_map(|node| sheet.whole(node, "expect", 100));
            section.insert("expect".to_owned(), Value::Array(codes.map(Value::from).collect()));
        }
        Some(section)
    }

    fn auth(&mut self, node: &Node) -> Value {
        let sheet = self.sheet;
        let Some(table) = sheet.table(node, &AUTH) else { return Value::Null };
        let mut auth = Object::new();
        if let Some(basic) = table.get("basic") {
            let pair = sheet.list(basic, "basic").unwrap_or_default();
            if pair.len() != 2 {
                sheet.wrong(basic, "`basic` is a list of user and password", None);
            }
            auth.insert("basic".to_owned(), Value::Array(pair.iter().map(|node| self.text(node)).collect()));
        }
        if let Some(bearer) = table.get("bearer") {
            auth.insert("bearer".to_owned(), self.text(bearer));
        }
        if auth.len() != 1 {
            sheet.wrong(node, "`auth` is either `basic` or `bearer`", None);
        }
        Value::Object(auth)
    }

    fn shell(&mut self, node: &Node) -> Option<Object> {
        let sheet = self.sheet;
        let table = sheet.table(node, &SHELL)?;
        let mut section = Object::new();
        if let Some(script) = table.need("script") {
            section
                .insert("script".to_owned(), Value::String(sheet.text(script, "script").unwrap_or_default()));
        }
        if let Some(env) = table.get("env") {
            section.insert("env".to_owned(), self.texts(env, "env"));
        }
        if let Some(cwd) = table.get("cwd") {
            section.insert("cwd".to_owned(), self.text(cwd));
        }
        Some(section)
    }

    /// What it gets beside its input.
    fn native(&mut self, node: &Node) -> Option<Object> {
        let entries = self.sheet.entries(node, "`native`")?;
        let read: Vec<_> = entries.iter().filter(|entry| self.names_its_secrets(&entry.value)).collect();
        Some(read.into_iter().map(|entry| (entry.key.clone(), self.any(&entry.value))).collect())
    }

    /// Whether the pack's configuration names each secret that the value takes by `secret(config.KEY)`. What it does not name is left out, so
    /// that a token may be optional.
    fn names_its_secrets(&self, node: &Node) -> bool {
        match &node.content {
            Content::Scalar(scalar) => {
                let config = self.world.configs.get(self.sheet.pack).map(|config| &config.value);
                let named = |path: &str| {
                    path.split('.').try_fold(config?, |value, key| value.get(key))?.as_str().map(drop)
                };
                secret_paths(&scalar.text).into_iter().all(|path| named(path).is_some())
            }
            Content::List(items) => items.iter().all(|item| self.names_its_secrets(item)),
            Content::Map(entries) => entries.iter().all(|entry| self.names_its_secrets(&entry.value)),
            Content::Broken => true,
        }
    }

    fn script(&mut self, node: &Node) -> Option<Object> {
        let sheet = self.sheet;
        let table = sheet.table(node, &SCRIPT)?;
        let mut section = Object::new();
        if let Some(file) = table.need("file") {
            section.insert("file".to_owned(), Value::String(sheet.name(file, "file").unwrap_or_default()));
        }
        if let Some(args) = table.get("args") {
            let items = sheet.list(args, "args").unwrap_or_default();
            section
                .insert("args".to_owned(), Value::Array(items.iter().map(|node| self.text(node)).collect()));
        }
        if let Some(env) = table.get("env") {
            section.insert("env".to_owned(), self.texts(env, "env"));
        }
        Some(section)
    }

    /// The text of the pack's file that it runs.
    fn script_file(&self, table: &Table<'_>, file: &str, files: &Files) -> Option<String> {
        let node = table.get("script").and_then(|section| match &section.content {
            Content::Map(entries) => {
                entries.iter().find(|entry| entry.key == "file").map(|entry| &entry.value)
            }
            _ => None,
        })?;
        let folder = super::folder_of(self.sheet.pack);
        let Some(bytes) = files.texts.get(&format!("{folder}{file}")) else {
            let known: Vec<&str> = files
                .texts
                .keys()
                .filter_map(|path| path.strip_prefix(&folder))
                .filter(|path| !path.ends_with(".yaml"))
                .collect();
            let help = suggestion(file, known);
            self.sheet.wrong(node, format!("the pack `{}` has no file `{file}`", self.sheet.pack), help);
            return None;
        };
        let text = std::str::from_utf8(bytes);
        if text.is_err() {
            self.sheet.wrong(node, format!("`{file}` is not UTF-8 text"), None);
        }
        text.ok().map(str::to_owned)
    }

    /// A string, as its source text.
    fn text(&mut self, node: &Node) -> Value {
        let Some(text) = self.sheet.text(node, "value") else { return Value::Null };
        self.note(node);
        Value::String(text)
    }

    /// A map of strings, or a template that gives one.
    fn texts(&mut self, node: &Node, what: &str) -> Value {
        if let Content::Scalar(scalar) = &node.content
            && super::sheet::is_template(&scalar.text)
        {
            return self.text(node);
        }
        let entries = self.sheet.entries(node, &format!("`{what}`")).unwrap_or_default();
        let read: Vec<_> = entries.iter().filter(|entry| self.names_its_secrets(&entry.value)).collect();
        let texts = read.into_iter().map(|entry| match &entry.value.content {
            Content::Scalar(_) => (entry.key.clone(), self.text(&entry.value)),
            _ => (entry.key.clone(), self.any(&entry.value)),
        });
        Value::Object(texts.collect())
    }

    /// Any value.
    fn any(&mut self, node: &Node) -> Value {
        self.note(node);
        self.sheet.value(node)
    }

    /// `output`: it may read what came of it.
    fn output(&self, node: &Node, runner: &str) -> Value {
        let names: &'static [&'static str] =
            if runner == "http" { &["input", "response", "result"] } else { &["input", "result"] };
        let seen = Seen { input: Some(self.input), ..Seen::new("an action's `output`", names) };
        self.sheet.entries(node, "`output`");
        self.sheet.tree(node, None, self.world, &seen);
        self.sheet.value(node)
    }

    /// Checks the templates in a value and keeps the secrets that they name.
    fn note(&mut self, node: &Node) {
        let seen =
            Seen { input: Some(self.input), no_secrets: None, ..Seen::new("an action file", &["input"]) };
        let tree = self.sheet.tree(node, None, self.world, &seen);
        let names = self.secrets_of(&tree);
        self.secrets.extend(names);
    }

    fn secrets_of(&self, tree: &Tree) -> Vec<String> {
        let config = self.world.configs.get(self.sheet.pack).map(|config| &config.value);
        let mut names = Vec::new();
        for template in tree.templates() {
            names.extend(template.secrets());
            names.extend(secret_paths(template.source()).into_iter().filter_map(|path| {
                let value = path.split('.').try_fold(config?, |value, key| value.get(key))?;
                value.as_str().map(str::to_owned)
            }));
        }
        names
    }
}

/// What stands after `config.` in each `secret(config.…)`.
fn secret_paths(text: &str) -> Vec<&str> {
    let calls = text.split("secret(").skip(1).map(str::trim_start);
    let paths = calls.filter_map(|call| call.strip_prefix("config."));
    paths
        .map(|path| {
            path.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '.').next().unwrap_or_default()
        })
        .collect()
}
