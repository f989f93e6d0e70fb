//! `packs/P/sources/*.yaml`: what produces events.

use super::Place;
use super::check::{Seen, World, full_name};
use super::mistake::suggestion;
use super::sheet::Sheet;
use super::webhook::{self, Webhook};
use super::yaml::Node;
use crate::expr::Template;
use crate::model::Value;

#[derive(Clone, Debug)]
pub struct Source {
    /// `pack.name`.
    pub name: String,
    pub pack: String,
    pub place: Place,
    pub description: String,
    pub config: Value,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Webhook(Webhook),
}

const KINDS_LATER: [&str; 12] = [
    "interval",
    "at",
    "consul_kv",
    "consul_service",
    "consul_event",
    "etcd",
    "amqp",
    "github_releases",
    "git_branch",
    "http_poll",
    "file",
    "exec",
];
/// Reads a source file.
pub(super) fn read(sheet: &Sheet<'_>, node: &Node, name: &str, world: &World<'_>) -> Option<Source> {
    let entries = sheet.entries(node, "a source")?;
    let Some(kind) = entries.iter().find(|entry| entry.key == "kind") else {
        sheet.wrong(node, "a source needs `kind`", Some("kind: webhook".to_owned()));
        return None;
    };
    let text = sheet.name(&kind.value, "kind")?;
    if KINDS_LATER.contains(&text.as_str()) {
        sheet.wrong(
            &kind.value,
            format!("sources of the kind `{text}` are not built yet in this version"),
            None,
        );
        return None;
    }
    if text != "webhook" {
        sheet.wrong(
            &kind.value,
            format!("there is no kind of source `{text}`"),
            suggestion(&text, ["webhook"]),
        );
        return None;
    }
    let table = sheet.table(node, &webhook::WEBHOOK)?;
    let webhook = webhook::read(&table, world)?;
    Some(Source {
        name: name.to_owned(),
        pack: sheet.pack.to_owned(),
        place: sheet.source.place(1, 1),
        description: table.description(),
        config: world.configs.get(sheet.pack).map(|config| config.value.clone()).unwrap_or_default(),
        kind: Kind::Webhook(webhook),
    })
}

/// A template, or a trigger's name.
pub(super) fn trigger(
    sheet: &Sheet<'_>,
    node: &Node,
    world: &World<'_>,
    seen: &Seen<'_>,
) -> Option<Template> {
    let template = sheet.template(node, "trigger", world, seen)?;
    if !template.is_literal() {
        return Some(template);
    }
    let name = sheet.name(node, "trigger")?;
    let full = full_name(sheet.pack, &name);
    // Events of a trigger that no pack declares are stored as they are; but a name that is nearly a known one is a slip.
    let slip = suggestion(&full, world.triggers.iter().map(String::as_str)).is_some();
    let full =
        if world.triggers.contains(&full) || slip { world.trigger(sheet, node, "trigger")? } else { full };
    // A name without a dot becomes the full one.
    world.expr.template(&full).ok()
}
