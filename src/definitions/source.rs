//! `packs/P/sources/*.yaml`: what produces events.

use std::sync::Arc;

use super::Place;
use super::check::{Seen, World, full_name};
use super::live::{self, Live};
use super::mistake::{nearest, suggestion};
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
    /// The file as it is written: of the same text and `config`, it is the same source.
    pub text: Arc<str>,
}

impl Source {
    /// Whether it does what `other` does, so that nothing need begin anew.
    pub fn is_as(&self, other: &Source) -> bool {
        self.name == other.name && self.text == other.text && self.config == other.config
    }

    /// What it watches, when it is of a kind that lives in the server.
    pub fn live(&self) -> Option<&Live> {
        match &self.kind {
            Kind::Live(live) => Some(live),
            Kind::Webhook(_) => None,
        }
    }
}

#[derive(Clone, Debug)]
pub enum Kind {
    Webhook(Webhook),
    Live(Live),
}

/// Reads a source file.
pub(super) fn read(sheet: &Sheet<'_>, node: &Node, name: &str, world: &World<'_>) -> Option<Source> {
    let entries = sheet.entries(node, "a source")?;
    let Some(kind) = entries.iter().find(|entry| entry.key == "kind") else {
        sheet.wrong(node, "a source needs `kind`", Some("kind: webhook".to_owned()));
        return None;
    };
    let text = sheet.name(&kind.value, "kind")?;
    let kind = match live::KINDS.iter().find(|(name, _)| *name == text) {
        Some((name, keys)) => Kind::Live(live::read(&sheet.table(node, keys)?, name, world)?),
        None if text == "webhook" => {
            Kind::Webhook(webhook::read(&sheet.table(node, &webhook::WEBHOOK)?, world)?)
        }
        None => {
            let known = live::KINDS.iter().map(|(name, _)| *name).chain(["webhook"]);
            sheet.wrong(
                &kind.value,
                format!("there is no kind of source `{text}`"),
                suggestion(&text, known),
            );
            return None;
        }
    };
    let description = entries.iter().find(|entry| entry.key == "description");
    let description = description.and_then(|entry| sheet.text(&entry.value, "description"));
    Some(Source {
        name: name.to_owned(),
        pack: sheet.pack.to_owned(),
        place: sheet.source.place(1, 1),
        description: description.unwrap_or_default(),
        config: world.configs.get(sheet.pack).map(|config| config.value.clone()).unwrap_or_default(),
        kind,
        text: sheet.source.text.as_str().into(),
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
    let pack_of = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let is_near = |known: &&str| {
        let (own, other) = (pack_of(&full), pack_of(known));
        own == other || nearest(&own, [other.as_str()]).is_some()
    };
    let slip = nearest(&full, world.triggers.iter().map(String::as_str).filter(is_near)).is_some();
    let full =
        if world.triggers.contains(&full) || slip { world.trigger(sheet, node, "trigger")? } else { full };
    // A name without a dot becomes the full one.
    world.expr.template(&full).ok()
}
