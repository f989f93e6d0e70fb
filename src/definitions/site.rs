//! `siskin.yaml`: what holds for the whole site. And `packs/P/pack.yaml`, which says what of it a pack wants to know.

use std::collections::BTreeMap;

use super::fields::{self, Fields};
use super::sheet::{Keys, Sheet};
use super::yaml::Node;
use crate::model::Value;

#[derive(Clone, Debug, Default)]
pub struct Site {
    /// `config: {PACK: {...}}`, each held against its pack's schema, defaults filled in.
    pub config: BTreeMap<String, Value>,
    pub public_url: Option<String>,
    /// User name → roles.
    pub users: BTreeMap<String, User>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub roles: Vec<String>,
    /// Names under which others know this person: `{github: octocat}`.
    pub links: BTreeMap<String, String>,
}

const SITE: Keys = Keys {
    of: "siskin.yaml",
    built: &["config", "public_url", "users"],
    later: &["windows", "notify", "retention", "limits", "owners"],
};
const USER: Keys = Keys { of: "a user", built: &["roles", "links"], later: &[] };
const PACK: Keys =
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
    // Found again in the node itself, whose life is longer than the table's.
    let config = match &node.content {
        super::yaml::Content::Map(entries) => {
            entries.iter().find(|entry| entry.key == "config").map(|entry| &entry.value)
        }
        _ => None,
    };
    (site, config)
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

/// The configuration that a pack takes.
pub(super) fn read_pack(sheet: &Sheet<'_>, node: &Node) -> Option<Fields> {
    let table = sheet.table(node, &PACK)?;
    for key in ["name", "description", "version"] {
        table.text(key);
    }
    if let (Some(node), Some(name)) = (table.get("name"), table.text("name"))
        && name != sheet.pack
    {
        sheet.wrong(node, format!("this pack is called `{}`, after its folder", sheet.pack), None);
    }
    for node in table.get("needs").map(|node| sheet.one_or_list(node)).unwrap_or_default() {
        sheet.name(node, "needs");
    }
    Some(table.get("config").map(|node| fields::read(sheet, node, "config")).unwrap_or_default())
}
