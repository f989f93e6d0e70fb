//! What is done for each item of a list, and the names that a step gives: `for_each` with its keys, and `read`.

use super::check::{OwnName, Seen};
use super::fields::{Field, Fields, Type};
use super::sheet::Table;
use super::step::Reader;
use super::traps::quote;
use super::tree::Tree;
use super::workflow::{ForEach, List, MaxFailures};
use super::yaml::{Content, Entry, Node};
use crate::expr::Scope;
use crate::model::Value;

/// What an item is called when `as` does not say.
const ITEM: &str = "item";
const INDEX: &str = "index";
/// Keys that only `for_each` gives a meaning.
const OF_LOOPS: [&str; 4] = ["as", "concurrency", "max_failures", "fail_fast"];
/// How many items are done at once, when nobody says.
const CONCURRENCY: u32 = 10;
/// More items than a step takes.
pub(super) const MAX_ITEMS: usize = 100_000;
/// Names that mean something somewhere in a workflow, or soon may.
const TAKEN: [&str; 14] = [
    "input", "steps", "run", "config", "apps", "event", "events", "output", "error", "meta", "matched",
    "secret", INDEX, ITEM,
];

impl OwnName {
    /// A name of which nobody knows what it has.
    pub(super) fn any(name: &str) -> OwnName {
        OwnName { name: name.to_owned(), fields: None }
    }
}

impl Reader<'_> {
    /// `for_each` and its keys; also the names that each item gives. With a mistake in it, the names are known all the same.
    pub(super) fn for_each(&self, table: &Table<'_>, seen: &Seen<'_>) -> (Option<ForEach>, Vec<OwnName>) {
        let sheet = self.sheet;
        let Some(entry) = table.entry("for_each") else {
            for entry in OF_LOOPS.iter().filter_map(|key| table.entry(key)) {
                let message = format!("`{}` belongs to `for_each`, and this step has none", entry.key);
                sheet.report(entry.line, entry.column, message, None);
            }
            return (None, Vec::new());
        };
        let list = self.list(&entry.value, seen);
        let name = self.name_of_item(table, entry, seen);
        let concurrency = table.get("concurrency").map(|node| self.concurrency(node));
        let max_failures = table.get("max_failures").map(|node| self.max_failures(node));
        let fail_fast = table.boolean("fail_fast").unwrap_or_default();
        let names =
            vec![OwnName { name: name.clone(), fields: fields_of_item(&entry.value) }, OwnName::any(INDEX)];
        let read = || {
            Some(ForEach {
                list: list?,
                name,
                concurrency: concurrency.unwrap_or(Some(CONCURRENCY))?,
                max_failures: max_failures.unwrap_or(Some(MaxFailures::Count(0)))?,
                fail_fast,
            })
        };
        (read(), names)
    }

    /// How many items are done at once: a number, where a workflow's `concurrency` is a map.
    fn concurrency(&self, node: &Node) -> Option<u32> {
        if matches!(node.content, Content::Map(_)) {
            let message = "`concurrency` of a step is a number: how many items are done at once";
            self.sheet.wrong(
                node,
                message,
                Some("that of runs stands at the top of the workflow".to_owned()),
            );
            return None;
        }
        self.sheet.whole(node, "concurrency", 1)
    }

    /// The names that `undo` sees beside those of the loops around.
    pub(super) fn names_of_undo(
        &self,
        table: &Table<'_>,
        around: &[OwnName],
        of_loop: &[OwnName],
    ) -> Vec<OwnName> {
        let output = table.get("for_each").map(|_| OwnName::any("output"));
        of_loop.iter().cloned().chain(output).chain(around.iter().cloned()).collect()
    }

    /// A script, a YAML list, or a map of lists.
    fn list(&self, node: &Node, seen: &Seen<'_>) -> Option<List> {
        match &node.content {
            Content::Scalar(_) => self.script_of_list(node, seen),
            Content::List(items) => {
                self.check_size(node, items.len());
                Some(List::Tree(self.sheet.tree(node, None, self.world, seen)))
            }
            Content::Map(entries) => self.map_of_lists(node, entries, seen),
            Content::Broken => None,
        }
    }

    fn script_of_list(&self, node: &Node, seen: &Seen<'_>) -> Option<List> {
        let sheet = self.sheet;
        let (script, _) = sheet.script(node, "for_each", self.world, seen)?;
        if !script.references().is_empty() {
            return Some(List::Script(script));
        }
        // It reads nothing, so what it gives is known already.
        match self.world.expr.evaluate(&script, &Scope::new()) {
            Ok(Value::Array(items)) => self.check_size(node, items.len()),
            Ok(Value::Object(lists)) if lists.values().all(Value::is_array) => {
                let sizes = lists.values().filter_map(Value::as_array).map(Vec::len);
                self.check_size(node, sizes.fold(1, usize::saturating_mul));
            }
            Ok(other) => {
                let message = format!("`for_each` must be a list, and this is {}", described(&other));
                let help = match &other {
                    Value::Number(number) => format!("for so many times: for_each: \"1..={number}\""),
                    _ => "a list of one: for_each: [...]".to_owned(),
                };
                sheet.wrong(node, message, Some(help));
            }
            Err(failure) => sheet.wrong(node, format!("`for_each` fails: {}", failure.message), None),
        }
        Some(List::Script(script))
    }

    /// Every combination of an entry of each list is an item.
    fn map_of_lists(&self, node: &Node, entries: &[Entry], seen: &Seen<'_>) -> Option<List> {
        let sheet = self.sheet;
        if entries.is_empty() {
            sheet.wrong(node, "`for_each` is a map of lists, and this one has none", None);
        }
        let mut size = 1_usize;
        for entry in entries {
            let what = format!("`{}` of `for_each`", entry.key);
            match &entry.value.content {
                Content::List(items) => size = size.saturating_mul(items.len()),
                Content::Scalar(scalar) => {
                    let template = self.world.expr.template(&scalar.text);
                    // What is wrong with a template is said when it is read below.
                    if template.is_ok_and(|template| !template.is_whole()) {
                        let one = if scalar.text.contains("{{") {
                            quote(&scalar.text)
                        } else {
                            scalar.text.clone()
                        };
                        let help = format!("a list of one: {}: [{one}]", entry.key);
                        sheet.wrong(
                            &entry.value,
                            format!("{what} must be a list, or one `{{{{ }}}}` that gives one"),
                            Some(help),
                        );
                    }
                }
                Content::Map(_) => sheet.wrong(&entry.value, format!("{what} must be a list"), None),
                Content::Broken => (),
            }
        }
        self.check_size(node, size);
        Some(List::Tree(sheet.tree(node, None, self.world, seen)))
    }

    fn check_size(&self, node: &Node, size: usize) {
        if size > MAX_ITEMS {
            self.sheet.wrong(node, format!("`for_each` takes {MAX_ITEMS} items at most, not {size}"), None);
        }
    }

    fn name_of_item(&self, table: &Table<'_>, for_each: &Entry, seen: &Seen<'_>) -> String {
        let sheet = self.sheet;
        let Some(node) = table.get("as") else {
            if seen.own.iter().any(|own| own.name == ITEM) {
                let message =
                    "an item of this step would hide that of the loop around it: both are called `item`";
                let help = Some("give it another name: as: NAME".to_owned());
                sheet.report(for_each.line, for_each.column, message, help);
            }
            return ITEM.to_owned();
        };
        let Some(name) = sheet.name(node, "as") else { return ITEM.to_owned() };
        // `as: item` says what is so anyway.
        if name != ITEM || seen.own.iter().any(|own| own.name == ITEM) {
            self.check_name((node.line, node.column), &name, seen);
        }
        name
    }

    /// A name that a step gives: one that both languages take, and that hides no other.
    fn check_name(&self, (line, column): (usize, usize), name: &str, seen: &Seen<'_>) {
        let wrong = |message: String| {
            self.sheet.report(line, column, message, Some("choose another name".to_owned()))
        };
        if !super::is_name(name) {
            return wrong(format!("`{name}` is no name: small letters, digits and `_`, a letter first"));
        }
        if TAKEN.contains(&name) || seen.own.iter().any(|own| own.name == name) {
            return wrong(format!("`{name}` has a meaning already, which this would hide"));
        }
        let expr = self.world.expr;
        let script = expr.script(name).ok().map(|script| script.references());
        let template = expr.template(&format!("{{{{ {name} }}}}")).ok().map(|template| template.references());
        let is_read = |references: Option<Vec<crate::expr::Reference>>| {
            references.is_some_and(|references| references.iter().any(|reference| reference.root == name))
        };
        if !is_read(script) || !is_read(template) {
            wrong(format!("`{name}` is a word of the language itself, so nothing can be called so"));
        }
    }

    fn max_failures(&self, node: &Node) -> Option<MaxFailures> {
        let text = self.sheet.name(node, "max_failures")?;
        let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
        match (text.parse(), percent) {
            (Ok(count), _) => Some(MaxFailures::Count(count)),
            (_, Some(percent @ 0..=100)) => Some(MaxFailures::Percent(percent)),
            _ => {
                let message = format!(
                    "`max_failures` must be a number of items or a percentage such as 10%, not `{text}`"
                );
                self.sheet.wrong(node, message, None);
                None
            }
        }
    }

    /// `read: {NAME: "key"}`: values of the KV store.
    pub(super) fn read(&self, node: &Node, seen: &Seen<'_>) -> Vec<(String, Tree)> {
        let sheet = self.sheet;
        let field = Field::new(Type::String);
        let mut read = Vec::new();
        for entry in sheet.entries(node, "`read`").unwrap_or_default() {
            self.check_name((entry.line, entry.column), &entry.key, seen);
            sheet.scalar(&entry.value, &entry.key);
            read.push((entry.key.clone(), sheet.tree(&entry.value, Some(&field), self.world, seen)));
        }
        read
    }
}

/// What an item of a map of lists has.
fn fields_of_item(node: &Node) -> Option<Fields> {
    let Content::Map(entries) = &node.content else { return None };
    Some(entries.iter().map(|entry| (entry.key.clone(), Field::new(Type::Any))).collect())
}

fn described(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Object(_) => "a map of other things than lists".to_owned(),
        Value::String(_) => "text".to_owned(),
        other => format!("`{other}`"),
    }
}
