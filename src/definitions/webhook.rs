//! Sources of the kind `webhook`: what is posted to a path, and how its senders prove who they are.

use super::check::{Seen, World};
use super::sheet::{Keys, Sheet, Table};
use super::source::trigger;
use super::yaml::{Content, Node};
use crate::expr::{Script, Template};

#[derive(Clone, Debug)]
pub struct Webhook {
    /// `POST /hooks/PATH`.
    pub path: String,
    pub verify: Verify,
    pub trigger: Template,
    pub dedup: Option<Template>,
    /// One POST, one event per element.
    pub each: Option<Script>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verify {
    /// `verify: none` must be said.
    None,
    HmacSha256 {
        header: String,
        prefix: String,
        secret: String,
    },
    /// A shared token in a header or a query parameter.
    Token {
        header: Option<String>,
        query: Option<String>,
        secret: String,
    },
}

pub(super) const WEBHOOK: Keys = Keys {
    of: "a webhook source",
    built: &["description", "kind", "path", "verify", "trigger", "dedup", "each"],
    later: &[],
};
const VERIFY: Keys = Keys { of: "`verify`", built: &["hmac_sha256", "token"], later: &[] };
const HMAC: Keys = Keys { of: "`hmac_sha256`", built: &["header", "prefix", "secret"], later: &[] };
const TOKEN: Keys = Keys { of: "`token`", built: &["header", "query", "secret"], later: &[] };

/// Reads its keys.
pub(super) fn read(table: &Table<'_>, world: &World<'_>) -> Option<Webhook> {
    let sheet = table.sheet;
    let seen = Seen::new("a source", &["headers", "body", "query", "path"]);
    let in_item = Seen::new("a source", &["headers", "body", "query", "path", "item"]);
    let each =
        table.get("each").and_then(|node| sheet.script(node, "each", world, &seen)).map(|(script, _)| script);
    let seen = if table.get("each").is_some() { in_item } else { seen };
    let path = table.need("path").and_then(|node| {
        let path = sheet.name(node, "path")?;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-/".contains(c);
        if path.is_empty()
            || !path.chars().all(allowed)
            || path.starts_with('/')
            || path.ends_with('/')
            || path.contains("//")
        {
            let message = format!("`{path}` is no path: small letters, digits, `_`, `-` and `/` inside");
            sheet.wrong(node, message, Some("path: github is reached as POST /hooks/github".to_owned()));
            return None;
        }
        Some(path)
    });
    let verify = table.get("verify").map(|node| verify(sheet, node));
    if verify.is_none() {
        let help =
            "say how deliveries prove where they come from, or that they need not: `verify: none`".to_owned();
        sheet.wrong(table.node, "a webhook source needs `verify`", Some(help));
    }
    let trigger = table.need("trigger").and_then(|node| trigger(sheet, node, world, &seen));
    let dedup = table.get("dedup").and_then(|node| sheet.template(node, "dedup", world, &seen));
    Some(Webhook { path: path?, verify: verify??, trigger: trigger?, dedup, each })
}

fn verify(sheet: &Sheet<'_>, node: &Node) -> Option<Verify> {
    if let Content::Scalar(scalar) = &node.content {
        if scalar.text == "none" {
            return Some(Verify::None);
        }
        let help = "verify: {hmac_sha256: {header: X-Hub-Signature-256, prefix: \"sha256=\", secret: NAME}}"
            .to_owned();
        sheet.wrong(node, format!("there is no way `{}` to verify", scalar.text), Some(help));
        return None;
    }
    let table = sheet.table(node, &VERIFY)?;
    match (table.get("hmac_sha256"), table.get("token")) {
        (Some(node), None) => {
            let table = sheet.table(node, &HMAC)?;
            let header = name(&table, "header", true);
            let secret = name(&table, "secret", true);
            let prefix = table.text("prefix").unwrap_or_default();
            Some(Verify::HmacSha256 { header: header?, prefix, secret: secret? })
        }
        (None, Some(node)) => {
            let table = sheet.table(node, &TOKEN)?;
            let (header, query) = (name(&table, "header", false), name(&table, "query", false));
            if header.is_some() == query.is_some() {
                sheet.wrong(node, "a token comes either in a `header` or in a `query` parameter", None);
            }
            Some(Verify::Token { header, query, secret: name(&table, "secret", true)? })
        }
        _ => {
            sheet.wrong(node, "`verify` is one of `hmac_sha256`, `token` or `none`", None);
            None
        }
    }
}

fn name(table: &Table<'_>, key: &str, needed: bool) -> Option<String> {
    let node = if needed { table.need(key) } else { table.get(key) };
    table.sheet.name(node?, key)
}
