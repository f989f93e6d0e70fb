//! One file being read: keys taken from its nodes, and all its mistakes collected.
//!
//! Promises: an unknown key is answered with the nearest right one, a key that is not built yet is refused, a value of the wrong sort says
//! what is wanted; what was reported once is passed by in silence afterwards.

use std::cell::RefCell;
use std::collections::BTreeSet;

use saphyr_parser::ScalarStyle;

use super::check::{Named, Seen, World};
use super::fields::{self, Field, Type};
use super::mistake::{Mistake, suggestion};
use super::origin::Origin;
use super::traps::quote;
use super::tree::Tree;
use super::yaml::{Content, Entry, Node, Scalar, Source};
use crate::expr::{Script, Template};
use crate::model::{Object, Span, Value};

/// The keys of one kind of map: those that are built, and those that the language has but this version does not.
pub(super) struct Keys {
    /// As in "`x` is no key of a rule".
    pub(super) of: &'static str,
    pub(super) built: &'static [&'static str],
    pub(super) later: &'static [&'static str],
}

/// A file and what was found in it.
pub(super) struct Sheet<'a> {
    pub(super) source: &'a Source,
    /// The pack that it belongs to.
    pub(super) pack: &'a str,
    mistakes: RefCell<Vec<Mistake>>,
    /// The definitions that it names.
    pub(super) names: RefCell<BTreeSet<Named>>,
}

impl<'a> Sheet<'a> {
    pub(super) fn new(source: &'a Source, pack: &'a str) -> Sheet<'a> {
        Sheet { source, pack, mistakes: RefCell::default(), names: RefCell::default() }
    }

    pub(super) fn into_mistakes(self) -> Vec<Mistake> {
        self.mistakes.into_inner()
    }

    pub(super) fn report(
        &self,
        line: usize,
        column: usize,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        let mistake = Mistake { place: self.source.place(line, column), message: message.into(), help };
        self.add(mistake);
    }

    pub(super) fn add(&self, mistake: Mistake) {
        let mut mistakes = self.mistakes.borrow_mut();
        if !mistakes.contains(&mistake) {
            mistakes.push(mistake);
        }
    }

    /// A mistake at a node; none where one was reported already.
    pub(super) fn wrong(&self, node: &Node, message: impl Into<String>, help: Option<String>) {
        if !matches!(node.content, Content::Broken) {
            self.report(node.line, node.column, message, help);
        }
    }

    /// The node as a map with these keys.
    pub(super) fn table<'n>(&'n self, node: &'n Node, keys: &Keys) -> Option<Table<'n>> {
        let entries = self.entries(node, keys.of)?;
        for entry in entries {
            self.check_key(entry, keys);
        }
        Some(Table { sheet: self, of: keys.of, node, entries })
    }

    fn check_key(&self, entry: &Entry, keys: &Keys) {
        let key = entry.key.as_str();
        if keys.built.contains(&key) || key.is_empty() || key.starts_with('\0') || key == "<<" {
            return;
        }
        let (line, column) = (entry.line, entry.column);
        if keys.later.contains(&key) {
            return self.report(line, column, format!("`{key}` is not built yet in this version"), None);
        }
        let help = suggestion(key, keys.built.iter().copied());
        self.report(line, column, format!("`{key}` is no key of {}", keys.of), help);
    }

    /// The entries of a map with any keys.
    pub(super) fn entries<'n>(&self, node: &'n Node, what: &str) -> Option<&'n [Entry]> {
        match &node.content {
            Content::Map(entries) => Some(entries),
            _ => {
                self.wrong(node, format!("{what} must be a map"), None);
                None
            }
        }
    }

    /// A list, or one item that stands for a list of one.
    pub(super) fn one_or_list<'n>(&self, node: &'n Node) -> &'n [Node] {
        match &node.content {
            Content::List(items) => items,
            Content::Broken => &[],
            _ => std::slice::from_ref(node),
        }
    }

    pub(super) fn list<'n>(&self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        match &node.content {
            Content::List(items) => Some(items),
            _ => {
                self.wrong(node, format!("`{what}` must be a list"), None);
                None
            }
        }
    }

    pub(super) fn scalar<'n>(&self, node: &'n Node, what: &str) -> Option<&'n Scalar> {
        match &node.content {
            Content::Scalar(scalar) => Some(scalar),
            _ => {
                self.wrong(node, format!("`{what}` must be text"), None);
                None
            }
        }
    }

    /// A string: of an unquoted scalar, its source text.
    pub(super) fn text(&self, node: &Node, what: &str) -> Option<String> {
        self.scalar(node, what).map(|scalar| scalar.text.clone())
    }

    /// A string that is never a template.
    pub(super) fn name(&self, node: &Node, what: &str) -> Option<String> {
        let text = self.text(node, what)?;
        if text.contains("{{") || text.contains("{%") {
            self.wrong(
                node,
                format!("`{what}` is never a template: it names something that must be known beforehand"),
                None,
            );
            return None;
        }
        Some(text)
    }

    pub(super) fn boolean(&self, node: &Node, what: &str) -> Option<bool> {
        let scalar = self.scalar(node, what)?;
        match core_value(scalar) {
            Ok(Value::Bool(answer)) => return Some(answer),
            _ => {
                let help = match scalar.text.to_lowercase().as_str() {
                    "yes" | "on" | "y" | "true" => Some(format!("write `{what}: true`")),
                    "no" | "off" | "n" | "false" => Some(format!("write `{what}: false`")),
                    _ => None,
                };
                self.wrong(node, format!("`{what}` must be true or false, not `{}`", scalar.text), help);
            }
        }
        None
    }

    pub(super) fn number(&self, node: &Node, what: &str) -> Option<f64> {
        let scalar = self.scalar(node, what)?;
        let number = core_value(scalar).ok().and_then(|value| value.as_f64());
        if number.is_none() {
            self.wrong(node, format!("`{what}` must be a number, not `{}`", scalar.text), None);
        }
        number
    }

    /// A whole number of at least `least`.
    pub(super) fn whole(&self, node: &Node, what: &str, least: u32) -> Option<u32> {
        let scalar = self.scalar(node, what)?;
        let number = core_value(scalar)
            .ok()
            .and_then(|value| value.as_u64())
            .and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| *number >= least);
        if number.is_none() {
            self.wrong(
                node,
                format!("`{what}` must be a whole number from {least}, not `{}`", scalar.text),
                None,
            );
        }
        number
    }

    pub(super) fn span(&self, node: &Node, what: &str) -> Option<Span> {
        let text = self.text(node, what)?;
        match text.parse() {
            Ok(span) => Some(span),
            Err(message) => {
                let message: String = message;
                let help = text.contains("{{").then(|| format!("`{what}` is never a template"));
                self.wrong(node, format!("`{what}`: {message}"), help);
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn word(&self, node: &Node, what: &str, words: &[&'static str]) -> Option<&'static str> {
        let text = self.text(node, what)?;
        let found = words.iter().copied().find(|word| *word == text);
        if found.is_none() {
            self.wrong(
                node,
                format!("`{what}` must be {}, not `{text}`", words.join(" or ")),
                suggestion(&text, words.iter().copied()),
            );
        }
        found
    }

    /// A value by YAML 1.2's core schema, its strings as they are.
    pub(super) fn value(&self, node: &Node) -> Value {
        match &node.content {
            Content::Scalar(scalar) => core_value(scalar).unwrap_or_else(|message| {
                self.wrong(node, message, Some(quote(&scalar.text)));
                Value::Null
            }),
            Content::List(items) => Value::Array(items.iter().map(|item| self.value(item)).collect()),
            Content::Map(entries) => Value::Object(
                entries.iter().map(|entry| (entry.key.clone(), self.value(&entry.value))).collect(),
            ),
            Content::Broken => Value::Null,
        }
    }

    /// A literal of a declared type: where a string is declared, an unquoted scalar is its source text.
    pub(super) fn typed_value(&self, node: &Node, field: Option<&Field>) -> Value {
        match (&node.content, field.map(|field| field.kind)) {
            (Content::Scalar(scalar), Some(Type::String | Type::Duration | Type::File))
                if !is_null(scalar) =>
            {
                Value::String(scalar.text.clone())
            }
            (Content::List(items), _) => {
                let inner = field.and_then(|field| field.items.as_deref());
                Value::Array(items.iter().map(|item| self.typed_value(item, inner)).collect())
            }
            (Content::Map(entries), _) => {
                let inner = |key: &str| {
                    field.and_then(|field| field.properties.as_ref()).and_then(|fields| fields.get(key))
                };
                let entries = entries
                    .iter()
                    .map(|entry| (entry.key.clone(), self.typed_value(&entry.value, inner(&entry.key))));
                Value::Object(entries.collect())
            }
            _ => self.value(node),
        }
    }

    // Expressions.

    /// A rhai script with its place.
    pub(super) fn script(
        &self,
        node: &Node,
        what: &str,
        world: &World<'_>,
        seen: &Seen<'_>,
    ) -> Option<(Script, Origin)> {
        let scalar = match &node.content {
            Content::Scalar(scalar) => scalar,
            Content::Map(_) => {
                let help = Some("put the script in quotes, or in a block after `|`".to_owned());
                self.wrong(node, format!("`{what}` is a script; this is a map to YAML"), help);
                return None;
            }
            _ => return self.scalar(node, what).and(None),
        };
        let origin = Origin::new(self.source, node, scalar);
        if scalar.text.contains("{{") {
            let at = scalar.text.find("{{").unwrap_or_default();
            let before = &scalar.text[..at];
            let (line, column) = (
                before.matches('\n').count() + 1,
                before.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
            );
            // In rhai, `{{` could only be a block within a block.
            let help = Some("names stand there as they are: `event.ref`, without `{{ }}`".to_owned());
            self.add(Mistake {
                place: origin.place(line, column),
                message: format!("`{what}` is a rhai script, not a template"),
                help,
            });
            return None;
        }
        match world.expr.script(&scalar.text) {
            Ok(script) => {
                for reference in script.references() {
                    world.check_reference(self, &reference, &origin, seen);
                }
                Some((script, origin))
            }
            Err(mistake) => {
                let (line, column) = within(&scalar.text, mistake.line, mistake.column);
                let place = origin.place(line, column);
                self.add(Mistake { place, message: mistake.message, help: None });
                None
            }
        }
    }

    /// A string that may hold `{{ }}`.
    pub(super) fn template(
        &self,
        node: &Node,
        what: &str,
        world: &World<'_>,
        seen: &Seen<'_>,
    ) -> Option<Template> {
        let scalar = self.scalar(node, what)?;
        let origin = Origin::new(self.source, node, scalar);
        let template = match world.expr.template(&scalar.text) {
            Ok(template) => template,
            Err(mistake) => {
                let place = origin.place(mistake.line, mistake.column);
                self.add(Mistake { place, message: mistake.message, help: None });
                return None;
            }
        };
        for reference in template.references() {
            world.check_reference(self, &reference, &origin, seen);
        }
        if let (true, Some(why)) = (template.mentions_secret(), seen.no_secrets) {
            let help = Some("give it in the `with` or `env` of the step that runs the action, in `undo`, or in the action's own file".to_owned());
            self.wrong(node, format!("a secret may not stand here: {why}"), help);
        }
        Some(template)
    }

    /// A value that may hold templates, of the type that `field` says.
    pub(super) fn tree(
        &self,
        node: &Node,
        field: Option<&Field>,
        world: &World<'_>,
        seen: &Seen<'_>,
    ) -> Tree {
        match &node.content {
            Content::Scalar(scalar) if is_template(&scalar.text) => {
                match self.template(node, "value", world, seen) {
                    Some(template) if !template.is_literal() => Tree::Template(template),
                    Some(_) | None => Tree::Plain(Value::String(scalar.text.clone())),
                }
            }
            Content::Scalar(_) | Content::Broken => Tree::Plain(self.typed_value(node, field)),
            Content::List(items) => {
                let inner = field.and_then(|field| field.items.as_deref());
                let trees: Vec<Tree> = items.iter().map(|item| self.tree(item, inner, world, seen)).collect();
                match trees.iter().map(plain).collect::<Option<Vec<Value>>>() {
                    Some(values) => Tree::Plain(Value::Array(values)),
                    None => Tree::List(trees),
                }
            }
            Content::Map(entries) => {
                let inner = |key: &str| {
                    field.and_then(|field| field.properties.as_ref()).and_then(|fields| fields.get(key))
                };
                let trees = entries.iter().map(|entry| {
                    (entry.key.clone(), self.tree(&entry.value, inner(&entry.key), world, seen))
                });
                let trees: Vec<(String, Tree)> = trees.collect();
                let plain = trees
                    .iter()
                    .map(|(key, tree)| Some((key.clone(), plain(tree)?)))
                    .collect::<Option<Object>>();
                match plain {
                    Some(object) => Tree::Plain(Value::Object(object)),
                    None => Tree::Map(trees),
                }
            }
        }
    }

    /// The entries of a map of values that may hold templates.
    pub(super) fn trees(
        &self,
        node: &Node,
        what: &str,
        world: &World<'_>,
        seen: &Seen<'_>,
    ) -> Vec<(String, Tree)> {
        let entries = self.entries(node, &format!("`{what}`")).unwrap_or_default();
        entries.iter().map(|entry| (entry.key.clone(), self.tree(&entry.value, None, world, seen))).collect()
    }

    /// Holds what is written against its field, inner values at their own places. What a template will give is not known yet.
    pub(super) fn check_literal(&self, node: &Node, field: &Field, name: &str) {
        match (&node.content, &field.properties, &field.items) {
            (Content::Broken, _, _) => return,
            (Content::Scalar(scalar), _, _)
                if is_null(scalar) || (is_template(&scalar.text) && !field.verbatim) =>
            {
                return;
            }
            (Content::Map(entries), Some(properties), _) => {
                for entry in entries {
                    match properties.get(&entry.key) {
                        Some(inner) => {
                            self.check_literal(&entry.value, inner, &format!("{name}.{}", entry.key))
                        }
                        None => {
                            let help = suggestion(&entry.key, properties.keys().map(String::as_str));
                            self.report(
                                entry.line,
                                entry.column,
                                format!("`{name}` takes no `{}`", entry.key),
                                help,
                            );
                        }
                    }
                }
                let is_given = |key: &str| entries.iter().any(|entry| entry.key == key);
                for (key, _) in properties.iter().filter(|(key, inner)| inner.is_required() && !is_given(key))
                {
                    self.wrong(node, format!("`{name}` needs `{key}`"), None);
                }
            }
            (Content::List(items), _, Some(inner)) => {
                for (index, item) in items.iter().enumerate() {
                    self.check_literal(item, inner, &format!("{name}[{index}]"));
                }
            }
            _ => (),
        }
        let outer = Field { properties: None, items: None, ..field.clone() };
        let value = self.typed_value(node, Some(&outer));
        let Err(messages) = fields::accept_one(name, &outer, &value) else { return };
        let help = match field.kind {
            Type::Boolean if value == "yes" || value == "on" => Some("write `true`".to_owned()),
            Type::Boolean if value == "no" || value == "off" => Some("write `false`".to_owned()),
            _ => None,
        };
        for message in messages {
            self.wrong(node, message, help.clone());
        }
    }
}

fn plain(tree: &Tree) -> Option<Value> {
    match tree {
        Tree::Plain(value) => Some(value.clone()),
        Tree::Template(_) | Tree::List(_) | Tree::Map(_) => None,
    }
}

pub(super) fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%") || text.contains("{#")
}

fn is_null(scalar: &Scalar) -> bool {
    scalar.style == ScalarStyle::Plain && matches!(scalar.text.as_str(), "~" | "null" | "Null" | "NULL")
}

/// What an unquoted scalar is by YAML 1.2's core schema.
fn core_value(scalar: &Scalar) -> Result<Value, String> {
    let text = scalar.text.as_str();
    if scalar.style != ScalarStyle::Plain {
        return Ok(Value::String(text.to_owned()));
    }
    if is_null(scalar) {
        return Ok(Value::Null);
    }
    match text {
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        _ => (),
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let based = match text.get(..2) {
        Some("0x") => Some(u64::from_str_radix(&text[2..], 16)),
        Some("0o") => Some(u64::from_str_radix(&text[2..], 8)),
        _ => None,
    };
    if let Some(Ok(number)) = based {
        return Ok(Value::from(number));
    }
    if !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        let plain = text.strip_prefix('+').unwrap_or(text);
        if let Ok(number) = plain.parse::<i64>() {
            return Ok(Value::from(number));
        }
        let too_large = || format!("`{text}` is too large a number; in quotes it is text");
        return plain.parse::<u64>().map(Value::from).map_err(|_| too_large());
    }
    if is_float(unsigned) {
        let number = text.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
        return number
            .map(Value::Number)
            .ok_or_else(|| format!("`{text}` is too large a number; in quotes it is text"));
    }
    Ok(Value::String(text.to_owned()))
}

/// `1.5`, `.5`, `1e3`, `1.5E-3`.
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (text, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let has_digits = !whole.is_empty() || !fraction.is_empty();
    has_digits
        && digits(whole)
        && digits(fraction)
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent))
}

/// A map with known keys.
pub(super) struct Table<'n> {
    pub(super) sheet: &'n Sheet<'n>,
    of: &'static str,
    pub(super) node: &'n Node,
    entries: &'n [Entry],
}

impl<'n> Table<'n> {
    pub(super) fn get(&self, key: &str) -> Option<&'n Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    pub(super) fn entry(&self, key: &str) -> Option<&'n Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &'n Entry> {
        self.entries.iter()
    }

    /// The value of a key that must be there.
    pub(super) fn need(&self, key: &str) -> Option<&'n Node> {
        let node = self.get(key);
        if node.is_none() {
            self.sheet.wrong(self.node, format!("{} needs `{key}`", self.of), None);
        }
        node
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.sheet.text(self.get(key)?, key)
    }

    pub(super) fn description(&self) -> String {
        self.text("description").unwrap_or_default()
    }

    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        self.sheet.boolean(self.get(key)?, key)
    }

    pub(super) fn span(&self, key: &str) -> Option<Span> {
        self.sheet.span(self.get(key)?, key)
    }
}

/// A place of `text`: one after its end is its last visible character's.
fn within(text: &str, line: usize, column: usize) -> (usize, usize) {
    let seen = text.trim_end();
    let last = (seen.matches('\n').count() + 1, seen.rsplit('\n').next().unwrap_or_default().chars().count());
    if (line, column) > last { (last.0, last.1.max(1)) } else { (line, column) }
}
