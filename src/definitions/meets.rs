//! What a rule wants of several events together: `count`, `all`, `at_most`, and the values that it reads before `when`.

use super::Place;
use super::check::{OwnName, Seen, World};
use super::fields::{Field, Type};
use super::sheet::{Keys, Sheet, Table};
use super::tree::Tree;
use super::yaml::Node;
use crate::expr::Script;
use crate::model::Span;

/// Which events make a match together.
#[derive(Clone, Debug, Default)]
pub enum Meets {
    /// Each by itself.
    #[default]
    Each,
    /// So many of one key within the span; then it starts over.
    Count { count: u32, within: Span, by: Option<Script> },
    /// One of each for the same key within the span; then it starts over.
    All { parts: Vec<Part>, within: Span },
}

/// One of the events that `all` wants.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it is called in `event`.
    pub name: String,
    pub trigger: String,
    pub when: Option<Script>,
    pub by: Option<Script>,
    pub place: Place,
}

/// How often a rule may match for one key in a span.
#[derive(Clone, Debug)]
pub struct AtMost {
    pub count: u32,
    pub per: Span,
    pub by: Option<Script>,
    /// What is run instead, once until the rule matches again.
    pub otherwise: Option<Call>,
    pub place: Place,
}

/// Something to run, with its values.
#[derive(Clone, Debug)]
pub struct Call {
    /// Resolved: `pack.name`.
    pub run: String,
    pub with: Vec<(String, Tree)>,
    pub place: Place,
}

/// More events than one match needs: all of them are in memory then.
const MOST_EVENTS: u32 = 100;
/// More matches than anybody counts.
const MOST_MATCHES: u32 = 1000;
const MOST_PARTS: usize = 20;
pub(super) const AT_MOST: Keys =
    Keys { of: "`at_most`", built: &["count", "per", "by", "otherwise"], later: &[] };
pub(super) const OTHERWISE: Keys = Keys { of: "`otherwise`", built: &["run", "with"], later: &[] };
pub(super) const PART: Keys =
    Keys { of: "an event of `all`", built: &["as", "trigger", "when", "by"], later: &[] };
/// Names that mean something in a rule.
const TAKEN: [&str; 8] = ["event", "events", "meta", "matched", "config", "apps", "secret", "item"];

/// Reads `count`, `within`, `by` and `all`.
pub(super) fn meets(table: &Table<'_>, world: &World<'_>, seen: &Seen<'_>) -> Meets {
    let sheet = table.sheet;
    match (table.get("count"), table.get("all")) {
        (Some(_), Some(all)) => {
            sheet.wrong(all, "a rule has `count` or `all`, not both", None);
            Meets::Each
        }
        (Some(node), None) => {
            let count = sheet.whole(node, "count", 2);
            if count.is_some_and(|count| count > MOST_EVENTS) {
                sheet.wrong(node, format!("`count` is {MOST_EVENTS} at most"), None);
            }
            let within = within(table, node);
            let by = table.get("by").and_then(|node| script(sheet, node, "by", world, seen));
            match (count, within) {
                (Some(count), Some(within)) => Meets::Count { count, within, by },
                _ => Meets::Each,
            }
        }
        (None, Some(node)) => {
            for key in ["trigger", "by"] {
                if let Some(entry) = table.entry(key) {
                    let message = format!("`{key}` stands on each event of `all`, not beside it");
                    sheet.report(entry.line, entry.column, message, None);
                }
            }
            let within = within(table, node);
            let parts = parts(sheet, node, world, seen);
            within.map_or(Meets::Each, |within| Meets::All { parts, within })
        }
        (None, None) => {
            for key in ["within", "by"] {
                if let Some(entry) = table.entry(key) {
                    let message = format!("`{key}` belongs to `count` or `all`, and this rule has neither");
                    sheet.report(entry.line, entry.column, message, None);
                }
            }
            Meets::Each
        }
    }
}

fn within(table: &Table<'_>, node: &Node) -> Option<Span> {
    let Some(within) = table.get("within") else {
        let help = Some("within: 10m".to_owned());
        table.sheet.wrong(node, "it needs `within`: in which time the events come", help);
        return None;
    };
    table.sheet.span(within, "within")
}

fn script(sheet: &Sheet<'_>, node: &Node, what: &str, world: &World<'_>, seen: &Seen<'_>) -> Option<Script> {
    sheet.script(node, what, world, seen).map(|(script, _)| script)
}

fn parts(sheet: &Sheet<'_>, node: &Node, world: &World<'_>, seen: &Seen<'_>) -> Vec<Part> {
    let nodes = sheet.list(node, "all").unwrap_or_default();
    if !(2..=MOST_PARTS).contains(&nodes.len()) {
        sheet.wrong(node, format!("`all` wants 2 to {MOST_PARTS} events"), None);
    }
    let mut parts: Vec<Part> = Vec::new();
    for node in nodes {
        let Some(table) = sheet.table(node, &PART) else { continue };
        let name = table.need("as").and_then(|node| {
            let name = sheet.name(node, "as")?;
            if !is_id(&name) {
                let message = format!("`{name}` is no name: small letters, digits and `_`, a letter first");
                sheet.wrong(node, message, None);
            } else if parts.iter().any(|part| part.name == name) {
                sheet.wrong(node, format!("`{name}` is the name of two events of `all`"), None);
            }
            Some(name)
        });
        let trigger = table.need("trigger").and_then(|node| world.trigger(sheet, node, "trigger"));
        let when = table.get("when").and_then(|node| script(sheet, node, "when", world, seen));
        let by = table.get("by").and_then(|node| script(sheet, node, "by", world, seen));
        if let (Some(name), Some(trigger)) = (name, trigger) {
            parts.push(Part { name, trigger, when, by, place: sheet.source.place(node.line, node.column) });
        }
    }
    let keyed = parts.iter().filter(|part| part.by.is_some()).count();
    if keyed != 0 && keyed != parts.len() {
        let message = "either each event of `all` says `by`, or none: the key is what they have in common";
        sheet.wrong(node, message, None);
    }
    parts
}

fn is_id(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
}

/// Reads `at_most`. `seen` is what `with` sees.
pub(super) fn at_most(
    sheet: &Sheet<'_>,
    node: &Node,
    world: &World<'_>,
    in_when: &Seen<'_>,
    in_with: &Seen<'_>,
) -> Option<AtMost> {
    let table = sheet.table(node, &AT_MOST)?;
    let count = table.need("count").and_then(|node| {
        let count = sheet.whole(node, "count", 1)?;
        if count > MOST_MATCHES {
            sheet.wrong(node, format!("`count` is {MOST_MATCHES} at most"), None);
        }
        Some(count)
    });
    let per = table.need("per").and_then(|node| sheet.span(node, "per"));
    let by = table.get("by").and_then(|node| script(sheet, node, "by", world, in_when));
    let otherwise = table.get("otherwise").and_then(|node| {
        let table = sheet.table(node, &OTHERWISE)?;
        let run = table.need("run")?;
        let (name, signature) = world.callable(sheet, run, "run")?;
        let with = world.with(sheet, table.get("with"), run, (&name, signature), in_with);
        Some(Call { run: name, with, place: sheet.source.place(run.line, run.column) })
    });
    let place = sheet.source.place(node.line, node.column);
    Some(AtMost { count: count?, per: per?, by, otherwise, place })
}

/// Reads `read`: names, and the keys of the values that they get.
pub(super) fn read(
    sheet: &Sheet<'_>,
    node: &Node,
    world: &World<'_>,
    seen: &Seen<'_>,
) -> Vec<(String, Tree)> {
    let field = Field::new(Type::String);
    let mut read = Vec::new();
    for entry in sheet.entries(node, "`read`").unwrap_or_default() {
        if !is_id(&entry.key) || TAKEN.contains(&entry.key.as_str()) {
            let message = format!("`{}` can't be the name of a value: it means something else", entry.key);
            sheet.report(entry.line, entry.column, message, None);
        }
        sheet.scalar(&entry.value, &entry.key);
        read.push((entry.key.clone(), sheet.tree(&entry.value, Some(&field), world, seen)));
    }
    read
}

/// The names that `read` gives.
pub(super) fn names(read: &[(String, Tree)]) -> Vec<OwnName> {
    read.iter().map(|(name, _)| OwnName::any(name)).collect()
}

/// What tells the windows of one text of a rule from those of another: they start anew when it is edited.
pub(super) fn stamp(meets: &Meets, at_most: Option<&AtMost>) -> String {
    let source = |script: &Option<Script>| script.as_ref().map(|script| script.source().to_owned());
    let meets = match meets {
        Meets::Each => String::new(),
        Meets::Count { count, within, by } => format!("{count} {} {:?}", within.0, source(by)),
        Meets::All { parts, within } => {
            let part =
                |part: &Part| (part.name.clone(), part.trigger.clone(), source(&part.when), source(&part.by));
            format!("{} {:?}", within.0, parts.iter().map(part).collect::<Vec<_>>())
        }
    };
    let at_most = at_most.map(|limit| format!("{} {} {:?}", limit.count, limit.per.0, source(&limit.by)));
    format!("{meets} / {}", at_most.unwrap_or_default())
}
