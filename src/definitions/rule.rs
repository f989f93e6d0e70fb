//! `rules/*.yaml`: trigger + rhai condition + what to run.

use super::Place;
use super::check::{Seen, World};
use super::meets::{self, AtMost, Meets};
use super::origin::Origin;
use super::schedule::{self, Schedule};
use super::sheet::{Keys, Sheet, Table};
use super::tree::Tree;
use super::yaml::{Content, Node};
use crate::expr::Script;
use crate::model::{Event, Value};

#[derive(Clone, Debug)]
pub struct Rule {
    /// `pack.name`.
    pub name: String,
    pub pack: String,
    pub place: Place,
    pub description: String,
    /// Whose events it looks at.
    pub triggers: Vec<String>,
    /// Values of the KV store that are read before `when`: the name, and the key.
    pub read: Vec<(String, Tree)>,
    /// When it is due; its events come from a source of its own.
    pub schedule: Option<Schedule>,
    pub meets: Meets,
    pub at_most: Option<AtMost>,
    /// Changes when what it counts does.
    pub stamp: String,
    /// None: always.
    pub when: Option<Script>,
    /// Where the text of `when` begins; the rule's place without one.
    pub when_place: Place,
    /// Where each character of `when` stands.
    pub when_origin: Option<Origin>,
    /// Resolved: `pack.name`.
    pub run: String,
    pub with: Vec<(String, Tree)>,
    /// Where each entry of `with` begins.
    pub with_places: Vec<(String, Place)>,
    /// Where `run` names what it runs.
    pub run_place: Place,
    pub on_behalf_of: Option<Tree>,
    pub owner: Option<String>,
    pub enabled: bool,
    pub config: Value,
}

impl Rule {
    /// What the events of its schedule come from.
    pub fn clock(&self) -> String {
        format!("{}.schedule", self.name)
    }

    /// Whether an event of one of its triggers is for it: that of a schedule is for its own rule only.
    pub fn hears(&self, event: &Event) -> bool {
        self.schedule.is_none() || event.trigger != SCHEDULE || event.source == self.clock()
    }

    /// Whether it remembers events.
    pub fn counts(&self) -> bool {
        self.at_most.is_some() || !matches!(self.meets, Meets::Each)
    }

    /// Where an entry of `with` stands; without it, what takes it.
    pub fn place_in_with(&self, entry: &str) -> &Place {
        let found = self.with_places.iter().find(|(name, _)| name == entry);
        found.map_or(&self.run_place, |(_, place)| place)
    }

    /// The place in the file of a line and column of `when`.
    pub fn place_in_when(&self, line: usize, column: usize) -> Place {
        match &self.when_origin {
            Some(origin) => origin.place(line, column),
            None => self.when_place.clone(),
        }
    }
}

pub(super) const RULE: Keys = Keys {
    of: "a rule",
    built: &[
        "description",
        "trigger",
        "schedule",
        "read",
        "when",
        "count",
        "within",
        "by",
        "all",
        "at_most",
        "run",
        "with",
        "on_behalf_of",
        "owner",
        "enabled",
    ],
    later: &["notify"],
};
pub(super) const TIMES: Keys =
    Keys { of: "`schedule`", built: &["cron", "times", "time_zone", "catch_up"], later: &[] };
/// The trigger of what a schedule makes.
pub const SCHEDULE: &str = "core.schedule";

/// Reads a rule file.
pub(super) fn read(sheet: &Sheet<'_>, node: &Node, name: &str, world: &World<'_>) -> Option<Rule> {
    let table = sheet.table(node, &RULE)?;
    let bare = Seen::new("a rule's `when`", &["event", "meta"]);
    let read = table.get("read").map(|node| meets::read(sheet, node, world, &bare)).unwrap_or_default();
    let own = meets::names(&read);
    let in_when = Seen { own: &own, ..bare };
    let names: &'static [&'static str] = match table.get("count") {
        Some(_) => &["event", "meta", "matched", "events"],
        None => &["event", "meta", "matched"],
    };
    let in_with = Seen { own: &own, ..Seen::new("a rule", names) };
    let meets = meets::meets(&table, world, &in_when);
    let at_most =
        table.get("at_most").and_then(|node| meets::at_most(sheet, node, world, &in_when, &in_with));
    let mut triggers: Vec<String> = match table.get("trigger") {
        Some(node) => {
            sheet.one_or_list(node).iter().filter_map(|node| world.trigger(sheet, node, "trigger")).collect()
        }
        None if table.get("schedule").is_some() => vec![SCHEDULE.to_owned()],
        None if table.get("all").is_some() => Vec::new(),
        None => table.need("trigger").into_iter().map(|_| String::new()).collect(),
    };
    let schedule = table.get("schedule").and_then(|node| times(&table, node));
    if let Meets::All { parts, .. } = &meets {
        triggers.extend(parts.iter().map(|part| part.trigger.clone()));
        triggers.sort_unstable();
        triggers.dedup();
    }
    let when = table.get("when").and_then(|node| sheet.script(node, "when", world, &in_when));
    let run_node = table.need("run");
    let called = run_node.and_then(|node| Some((node, world.callable(sheet, node, "run")?)));
    let (run, with) = match called {
        Some((node, (name, signature))) => {
            let with = world.with(sheet, table.get("with"), node, (&name, signature), &in_with);
            (name, with)
        }
        None => {
            // What it runs is unknown; the templates are checked all the same.
            if let Some(with) = table.get("with") {
                sheet.trees(with, "with", world, &Seen { no_secrets: None, ..in_with });
            }
            (String::new(), Vec::new())
        }
    };
    let place = sheet.source.place(1, 1);
    let place_of = |node: &Node| sheet.source.place(node.line, node.column);
    let with_places = match table.get("with").map(|node| &node.content) {
        Some(Content::Map(entries)) => {
            entries.iter().map(|entry| (entry.key.clone(), place_of(&entry.value))).collect()
        }
        _ => Vec::new(),
    };
    let (when, when_origin) = when.map_or((None, None), |(script, origin)| (Some(script), Some(origin)));
    Some(Rule {
        name: name.to_owned(),
        pack: sheet.pack.to_owned(),
        description: table.description(),
        triggers,
        read,
        schedule,
        stamp: meets::stamp(&meets, at_most.as_ref()),
        meets,
        at_most,
        when,
        when_place: when_origin.as_ref().map_or_else(|| place.clone(), Origin::start),
        when_origin,
        run_place: run_node.map_or_else(|| place.clone(), place_of),
        run,
        with,
        with_places,
        on_behalf_of: table.get("on_behalf_of").map(|node| {
            let field = super::fields::Field::new(super::fields::Type::String);
            sheet.scalar(node, "on_behalf_of");
            sheet.tree(node, Some(&field), world, &in_with)
        }),
        owner: table.get("owner").and_then(|node| sheet.name(node, "owner")),
        enabled: table.boolean("enabled").unwrap_or(true),
        config: world.configs.get(sheet.pack).map(|config| config.value.clone()).unwrap_or_default(),
        place,
    })
}

/// Reads `schedule`.
fn times(rule: &Table<'_>, node: &Node) -> Option<Schedule> {
    let sheet = rule.sheet;
    for key in ["trigger", "all"] {
        if let Some(entry) = rule.entry(key) {
            let message = format!("a rule has `schedule` or `{key}`, not both");
            sheet.report(entry.line, entry.column, message, Some("write two rules".to_owned()));
        }
    }
    let table = sheet.table(node, &TIMES)?;
    if table.get("cron").is_none() && table.get("times").is_none() {
        let help = Some("schedule: {cron: \"30 2 * * mon-fri\", time_zone: Europe/Berlin}".to_owned());
        sheet.wrong(node, "a schedule needs `cron` or `times`", help);
        return None;
    }
    schedule::read(&table)
}
