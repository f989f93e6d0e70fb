//! The names that definitions give each other, held against what exists.
//!
//! Promises: every name in an expression, a `run` or a `with` is looked up before anything runs, and answered with the nearest right one.
//! What a workflow's steps may read of one another is `graph.rs`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::fields::{Field, Fields, Type};
use super::mistake::{Mistake, Place, suggestion};
use super::origin::Origin;
use super::sheet::Sheet;
use super::tree::Tree;
use super::yaml::{Content, Node};
use crate::expr::{Expr, Reference};
use crate::model::Value;

/// What is known of an action or workflow before its body is read.
#[derive(Debug, Default)]
pub(super) struct Signature {
    pub(super) is_workflow: bool,
    pub(super) input: Fields,
    /// Its outputs, where it promises some.
    pub(super) outputs: Option<Fields>,
}

/// A pack's configuration.
#[derive(Debug, Default)]
pub(super) struct Config {
    /// `None`: it takes none. The repository's own pack takes any.
    pub(super) schema: Option<Fields>,
    pub(super) value: Value,
    /// What it must be told and was not. Only of packs of the binary: those of the repository are answered where they stand.
    pub(super) missing: Vec<String>,
}

/// A definition that a file names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Named {
    /// An action or workflow.
    Callable(String),
    Trigger(String),
    Window(String),
}

/// Everything that a file may name.
pub(super) struct World<'a> {
    pub(super) expr: &'a Expr,
    pub(super) apps: &'a Value,
    pub(super) configs: BTreeMap<String, Config>,
    pub(super) callables: BTreeMap<String, Signature>,
    pub(super) triggers: BTreeSet<String>,
    /// Names of windows. `None`: siskin.yaml can't be read, so nobody knows.
    pub(super) windows: Option<BTreeSet<String>>,
}

/// A step's value that an expression reads.
#[derive(Clone, Debug)]
pub(super) struct StepRead {
    /// Empty: which one is known only when it runs, so it may be any.
    pub(super) step: String,
    /// What follows the step's name.
    pub(super) path: Vec<String>,
    pub(super) optional: bool,
    pub(super) place: Place,
}

/// A name that a step gives to something of its own: the item of a loop, a value of the KV store.
#[derive(Clone, Debug)]
pub(super) struct OwnName {
    pub(super) name: String,
    /// What it has, where that is known.
    pub(super) fields: Option<Fields>,
}

/// The names that an expression may use, besides `config` and `apps`.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    /// As in "there is no `x` in a rule".
    pub(super) of: &'static str,
    pub(super) names: &'static [&'static str],
    /// Names that the definition itself gave.
    pub(super) own: &'a [OwnName],
    pub(super) input: Option<&'a Fields>,
    /// What `run` has here.
    pub(super) run: &'static [&'static str],
    /// What `output` has, where that is known.
    pub(super) output: Option<&'a Fields>,
    /// Where the steps that are read are noted.
    pub(super) reads: Option<&'a RefCell<Vec<StepRead>>>,
    /// Why no secret may stand here.
    pub(super) no_secrets: Option<&'static str>,
}

pub(super) const NO_SECRETS: Option<&str> = Some("its value would be stored and shown");

impl Seen<'_> {
    pub(super) fn new(of: &'static str, names: &'static [&'static str]) -> Seen<'static> {
        Seen { of, names, own: &[], input: None, run: &[], output: None, reads: None, no_secrets: NO_SECRETS }
    }
}

pub(super) const META: &[&str] = &["id", "trigger", "source", "received_at"];
const ERROR: &[&str] = &["kind", "message", "step", "place"];
const RESPONSE: &[&str] = &["status", "headers", "body"];
const STEP: &[&str] = &["output", "status", "error", "attempts", "started_at", "finished_at"];

impl World<'_> {
    /// The full name of an action or workflow.
    pub(super) fn callable(
        &self,
        sheet: &Sheet<'_>,
        node: &Node,
        what: &str,
    ) -> Option<(String, &Signature)> {
        let name = sheet.name(node, what)?;
        let full = full_name(sheet.pack, &name);
        if let Some(signature) = self.callables.get(&full) {
            sheet.names.borrow_mut().insert(Named::Callable(full.clone()));
            self.check_configured(sheet, node, &full);
            return Some((full, signature));
        }
        let message = unknown("action or workflow", sheet.pack, &name);
        sheet.wrong(node, message, suggest_name(sheet.pack, &name, self.callables.keys()));
        None
    }

    /// An embedded pack may lie there unconfigured, until somebody names what is in it.
    fn check_configured(&self, sheet: &Sheet<'_>, node: &Node, full: &str) {
        let Some((pack, _)) = full.split_once('.').filter(|(pack, _)| *pack != sheet.pack) else { return };
        let Some(missing) =
            self.configs.get(pack).map(|config| &config.missing).filter(|missing| !missing.is_empty())
        else {
            return;
        };
        let help = format!("in siskin.yaml: config: {{{pack}: {{{}: ...}}}}", missing.join(": ..., "));
        sheet.wrong(
            node,
            format!("the pack `{pack}` must be told its {}", missing.join(" and ")),
            Some(help),
        );
    }

    /// The full name of a trigger.
    pub(super) fn trigger(&self, sheet: &Sheet<'_>, node: &Node, what: &str) -> Option<String> {
        let name = sheet.name(node, what)?;
        let full = full_name(sheet.pack, &name);
        if self.triggers.contains(&full) {
            sheet.names.borrow_mut().insert(Named::Trigger(full.clone()));
            return Some(full);
        }
        let message = unknown("trigger", sheet.pack, &name);
        sheet.wrong(node, message, suggest_name(sheet.pack, &name, self.triggers.iter()));
        None
    }

    /// The name of a window of siskin.yaml.
    pub(super) fn window(&self, sheet: &Sheet<'_>, node: &Node) -> Option<String> {
        let name = sheet.name(node, "window")?;
        if let Some(windows) = self.windows.as_ref().filter(|windows| !windows.contains(&name)) {
            sheet.wrong(node, format!("there is no window `{name}`"), no_window(&name, windows));
            return None;
        }
        sheet.names.borrow_mut().insert(Named::Window(name.clone()));
        Some(name)
    }

    /// `with` for something that takes `signature.input`. `at` is where a missing value is reported.
    pub(super) fn with(
        &self,
        sheet: &Sheet<'_>,
        with: Option<&Node>,
        at: &Node,
        (name, signature): (&str, &Signature),
        seen: &Seen<'_>,
    ) -> Vec<(String, Tree)> {
        let mut trees = Vec::new();
        let entries = with.map(|node| sheet.entries(node, "`with`").unwrap_or_default()).unwrap_or_default();
        for entry in entries {
            let Some(field) = signature.input.get(&entry.key) else {
                let message = format!("{name} takes no `{}`", entry.key);
                let help = suggestion(&entry.key, signature.input.keys().map(String::as_str))
                    .or_else(|| signature.input.is_empty().then(|| "it takes nothing at all".to_owned()));
                sheet.report(entry.line, entry.column, message, help);
                // It may be meant for another name: what it says is checked all the same.
                sheet.tree(&entry.value, None, self, &Seen { no_secrets: None, ..*seen });
                continue;
            };
            let tree = match field.verbatim {
                true => Tree::Plain(sheet.typed_value(&entry.value, Some(field))),
                false => sheet.tree(&entry.value, Some(field), self, &self.seen_for(signature, seen)),
            };
            sheet.check_literal(&entry.value, field, &entry.key);
            trees.push((entry.key.clone(), tree));
        }
        if with.is_some_and(|node| matches!(node.content, Content::Broken)) {
            return trees;
        }
        let given = |name: &str| {
            trees.iter().any(|(key, tree)| key == name && !is_absent(tree, &signature.input[name]))
        };
        let missing: Vec<&str> = signature
            .input
            .iter()
            .filter(|(key, field)| field.is_required() && !given(key))
            .map(|(key, _)| key.as_str())
            .collect();
        if !missing.is_empty() {
            let wanted: Vec<String> = missing.iter().map(|name| format!("`{name}`")).collect();
            let shown: Vec<String> =
                missing.iter().map(|key| format!("{key}: {}", signature.input[*key].kind.as_str())).collect();
            let help = format!("with: {{{}}}", shown.join(", "));
            sheet.wrong(at, format!("{name} needs {}", wanted.join(" and ")), Some(help));
        }
        trees
    }

    /// A workflow's input is stored and shown, so no secret goes there.
    fn seen_for<'s>(&self, signature: &Signature, seen: &Seen<'s>) -> Seen<'s> {
        match (signature.is_workflow, seen.no_secrets) {
            (true, None) => Seen {
                no_secrets: Some("the input of a workflow is stored; secrets go to actions only"),
                ..*seen
            },
            _ => *seen,
        }
    }

    /// Looks up one name of an expression.
    pub(super) fn check_reference(
        &self,
        sheet: &Sheet<'_>,
        reference: &Reference,
        origin: &Origin,
        seen: &Seen<'_>,
    ) {
        let place = origin.place(reference.line, reference.column);
        let wrong = |message: String, help: Option<String>| {
            sheet.add(Mistake { place: place.clone(), message, help })
        };
        let root = reference.root.as_str();
        let own = seen.own.iter().find(|own| own.name == root);
        if own.is_none() && !seen.names.contains(&root) && root != "config" && root != "apps" {
            return wrong(format!("there is no `{root}` in {}", seen.of), hint_for_root(root, seen));
        }
        let Some(first) = reference.path.first() else {
            if let (Some(reads), "steps") = (seen.reads, root) {
                let any = StepRead { step: String::new(), path: Vec::new(), optional: true, place };
                reads.borrow_mut().push(any);
            }
            return;
        };
        if root == "steps" {
            if let Some(reads) = seen.reads {
                let path = reference.path[1..].to_vec();
                if let Some(key) = path.first().filter(|key| !STEP.contains(&key.as_str())) {
                    let help = Some(format!("did you mean `steps.{first}.output.{key}`?"));
                    wrong(format!("a step has no `{key}`; what it gave is its `output`"), help);
                }
                reads.borrow_mut().push(StepRead {
                    step: first.clone(),
                    path,
                    optional: reference.optional,
                    place,
                });
            }
            return;
        }
        if reference.optional {
            return;
        }
        let known = match root {
            "input" => seen.input.map(|fields| unknown_field(fields, &reference.path, "input")),
            "output" => seen.output.map(|fields| unknown_field(fields, &reference.path, "output")),
            "config" => Some(self.unknown_config(sheet.pack, &reference.path)),
            "apps" => Some(unknown_value(self.apps, &reference.path, "apps")),
            "run" => Some(unknown_word(seen.run, first, "run")),
            "meta" => Some(unknown_word(META, first, "meta")),
            "error" => Some(unknown_word(ERROR, first, "error")),
            "response" => Some(unknown_word(RESPONSE, first, "response")),
            _ => own
                .and_then(|own| own.fields.as_ref())
                .map(|fields| unknown_field(fields, &reference.path, root)),
        };
        if let Some(Some((message, help))) = known {
            let help = match (root, first.as_str()) {
                ("run", "error" | "failed_step" | "status") => {
                    Some("that is known in `on_failure` and `finally` only".to_owned())
                }
                _ => help,
            };
            wrong(message, help);
        }
    }

    fn unknown_config(&self, pack: &str, path: &[String]) -> Option<(String, Option<String>)> {
        match self.configs.get(pack).and_then(|config| config.schema.as_ref()) {
            Some(schema) => unknown_field(schema, path, "config"),
            None if pack == super::SITE => None,
            None => {
                let help =
                    format!("say what it takes in packs/{pack}/pack.yaml: config: {{{}: string}}", path[0]);
                Some((format!("the pack `{pack}` takes no configuration"), Some(help)))
            }
        }
    }
}

type Unknown = Option<(String, Option<String>)>;

/// Whether the first names of a path are no fields. Deeper ones are known only where a field says its `properties`.
pub(super) fn unknown_field(fields: &Fields, path: &[String], of: &str) -> Unknown {
    let first = path.first()?;
    let Some(field) = fields.get(first) else {
        let help = suggestion(first, fields.keys().map(String::as_str));
        return Some((format!("`{of}` has no `{first}`"), help));
    };
    let properties = field.properties.as_ref().filter(|_| field.kind == Type::Object)?;
    unknown_field(properties, &path[1..], &format!("{of}.{first}"))
}

fn unknown_value(value: &Value, path: &[String], of: &str) -> Unknown {
    let (Value::Object(object), Some(first)) = (value, path.first()) else { return None };
    match object.get(first) {
        Some(inner) => unknown_value(inner, &path[1..], &format!("{of}.{first}")),
        None => {
            Some((format!("`{of}` has no `{first}`"), suggestion(first, object.keys().map(String::as_str))))
        }
    }
}

fn unknown_word(words: &[&str], word: &str, of: &str) -> Unknown {
    if words.contains(&word) {
        return None;
    }
    Some((format!("`{of}` has no `{word}` here"), suggestion(word, words.iter().copied())))
}

fn hint_for_root(root: &str, seen: &Seen<'_>) -> Option<String> {
    let is_workflow = seen.names.contains(&"steps");
    match root {
        "event" if is_workflow => Some("what a workflow needs of an event comes by its `input`".to_owned()),
        "item" | "index" if is_workflow => Some(format!(
            "`for_each` gives `{root}` to what is done for each item; itself, `when`, `lock` and `read` are judged once for all of them"
        )),
        "secret" => Some("secrets stand in templates: `{{ secret('name') }}`".to_owned()),
        _ => {
            let own = seen.own.iter().map(|own| own.name.as_str());
            suggestion(root, seen.names.iter().copied().chain(own).chain(["config", "apps"]))
        }
    }
}

/// What to do about a window that is not there.
pub(super) fn no_window(name: &str, windows: &BTreeSet<String>) -> Option<String> {
    match windows.is_empty() {
        true => Some(format!("in siskin.yaml: windows: {{{name}: {{open: [\"* 9-16 * * mon-fri\"]}}}}")),
        false => suggestion(name, windows.iter().map(String::as_str)),
    }
}

/// `null` for what may not be null: `with` drops it.
fn is_absent(tree: &Tree, field: &Field) -> bool {
    matches!(tree, Tree::Plain(Value::Null)) && field.kind != Type::Any
}

/// `pack.name`: a name without a dot is of the same pack.
pub(super) fn full_name(pack: &str, name: &str) -> String {
    if name.contains('.') { name.to_owned() } else { format!("{pack}.{name}") }
}

fn unknown(what: &str, pack: &str, name: &str) -> String {
    match name.contains('.') {
        true => format!("there is no {what} `{name}`"),
        false => {
            format!("there is no {what} `{name}` in pack `{pack}`, where a name without a dot is looked up")
        }
    }
}

fn suggest_name<'n>(
    pack: &str,
    name: &str,
    known: impl Iterator<Item = &'n String> + Clone,
) -> Option<String> {
    // The same name in another pack is what was meant most often.
    let last = name.rsplit('.').next().unwrap_or_default();
    let elsewhere = known.clone().find(|full| full.rsplit('.').next() == Some(last));
    let full = full_name(pack, name);
    elsewhere
        .map(|full| format!("did you mean `{full}`?"))
        .or_else(|| suggestion(&full, known.map(String::as_str)))
}
