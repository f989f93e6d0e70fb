//! `siskin.yaml`: what holds for the whole site. And `packs/P/pack.yaml`, which says what of it a pack wants to know.

use std::collections::{BTreeMap, BTreeSet};

use super::fields::{self, Fields};
use super::needs;
use super::sheet::{Keys, Sheet};
use super::window::{self, Window};
use super::yaml::{Content, Node};
use crate::model::{Span, Value};

#[derive(Clone, Debug, Default)]
pub struct Site {
    /// `config: {PACK: {...}}`, each held against its pack's schema, defaults filled in.
    pub config: BTreeMap<String, Value>,
    pub public_url: Option<String>,
    /// User name → roles.
    pub users: BTreeMap<String, User>,
    /// Without those that have a mistake.
    pub windows: BTreeMap<String, Window>,
    pub retention: Retention,
}

/// How long is kept what is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// From when an event came.
    pub events: Span,
    /// From a run's end, with all that belongs to it.
    pub runs: Span,
    /// What attempts printed.
    pub logs: Span,
    /// Who did what.
    pub audit: Span,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention {
            events: Span::days(30),
            runs: Span::days(90),
            logs: Span::days(30),
            audit: Span::days(400),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub roles: Vec<String>,
    /// Names under which others know this person: `{github: octocat}`.
    pub links: BTreeMap<String, String>,
}

pub(super) const SITE: Keys = Keys {
    of: "siskin.yaml",
    built: &["config", "public_url", "retention", "users", "windows"],
    later: &["notify", "limits", "owners"],
};
pub(super) const RETENTION: Keys =
    Keys { of: "`retention`", built: &["events", "runs", "logs", "audit"], later: &[] };
/// Less would take away what people still look at.
const SHORTEST_RETENTION: Span = Span::minutes(60);
pub(super) const USER: Keys = Keys { of: "a user", built: &["roles", "links"], later: &[] };
pub(super) const PACK: Keys =
    Keys { of: "pack.yaml", built: &["name", "description", "version", "config", "needs"], later: &[] };

/// What `siskin.yaml` says, but for `config`, which is read when the packs' schemas are known.
pub(super) fn read<'n>(sheet: &Sheet<'_>, node: &'n Node) -> (Site, Option<&'n Node>) {
    let mut site = Site::default();
    let Some(table) = sheet.table(node, &SITE) else { return (site, None) };
    site.public_url = table.get("public_url").and_then(|node| public_url(sheet, node));
    for entry in
        table.get("users").map(|node| sheet.entries(node, "`users`").unwrap_or_default()).unwrap_or_default()
    {
        if let Some(user) = user(sheet, &entry.value) {
            site.users.insert(entry.key.clone(), user);
        }
    }
    if let Some(node) = table.get("retention") {
        site.retention = retention(sheet, node);
    }
    let windows = table.get("windows").and_then(|node| sheet.entries(node, "`windows`"));
    for entry in windows.unwrap_or_default() {
        if !super::is_app_name(&entry.key) {
            let message = format!(
                "`{}` is no name of a window: small letters, digits, `_` and `-`, a letter first",
                entry.key
            );
            sheet.report(entry.line, entry.column, message, None);
        }
        if let Some(window) = window::read(sheet, &entry.value) {
            site.windows.insert(entry.key.clone(), window);
        }
    }
    // Found again in the node itself, whose life is longer than the table's.
    let config = match &node.content {
        Content::Map(entries) => entries.iter().find(|entry| entry.key == "config").map(|entry| &entry.value),
        _ => None,
    };
    (site, config)
}

/// The names of all windows, those with mistakes among them; none when the file could not be read at all.
pub(super) fn names_of_windows(node: &Node) -> Option<BTreeSet<String>> {
    let entries = match &node.content {
        Content::Map(entries) => entries,
        Content::Broken => return None,
        _ => return Some(BTreeSet::new()),
    };
    let windows = entries.iter().find(|entry| entry.key == "windows").map(|entry| &entry.value.content);
    match windows {
        Some(Content::Map(windows)) => Some(windows.iter().map(|entry| entry.key.clone()).collect()),
        Some(Content::Broken) => None,
        _ => Some(BTreeSet::new()),
    }
}

fn retention(sheet: &Sheet<'_>, node: &Node) -> Retention {
    let mut retention = Retention::default();
    let Some(table) = sheet.table(node, &RETENTION) else { return retention };
    for (key, span) in [
        ("events", &mut retention.events),
        ("runs", &mut retention.runs),
        ("logs", &mut retention.logs),
        ("audit", &mut retention.audit),
    ] {
        let Some(node) = table.get(key) else { continue };
        match sheet.span(node, key) {
            Some(said) if said < SHORTEST_RETENTION => {
                let message = format!("`{key}` of `retention` is at least {SHORTEST_RETENTION}, not {said}");
                sheet.wrong(node, message, None);
            }
            Some(said) => *span = said,
            None => (),
        }
    }
    retention
}

fn public_url(sheet: &Sheet<'_>, node: &Node) -> Option<String> {
    let url = sheet.name(node, "public_url")?;
    if !url.starts_with("http://") && !url.starts_with("https://") {
        let message = format!("`public_url` must begin with http:// or https://, not `{url}`");
        sheet.wrong(node, message, None);
    }
    Some(url)
}

fn user(sheet: &Sheet<'_>, node: &Node) -> Option<User> {
    let table = sheet.table(node, &USER)?;
    let roles = table.get("roles").map(|node| sheet.one_or_list(node)).unwrap_or_default();
    let links =
        table.get("links").map(|node| sheet.entries(node, "`links`").unwrap_or_default()).unwrap_or_default();
    Some(User {
        roles: roles.iter().filter_map(|node| sheet.name(node, "roles")).collect(),
        links: links
            .iter()
            .filter_map(|entry| Some((entry.key.clone(), sheet.name(&entry.value, "links")?)))
            .collect(),
    })
}

/// The configuration that a pack takes. `known` are the packs that are there.
pub(super) fn read_pack(sheet: &Sheet<'_>, node: &Node, known: Option<&BTreeSet<&str>>) -> Option<Fields> {
    let table = sheet.table(node, &PACK)?;
    for key in ["name", "description", "version"] {
        table.text(key);
    }
    if let (Some(node), Some(name)) = (table.get("name"), table.text("name"))
        && name != sheet.pack
    {
        sheet.wrong(node, format!("this pack is called `{}`, after its folder", sheet.pack), None);
    }
    if let Some(node) = table.get("needs") {
        needs::read(sheet, node, known);
    }
    Some(table.get("config").map(|node| fields::read(sheet, node, "config")).unwrap_or_default())
}
