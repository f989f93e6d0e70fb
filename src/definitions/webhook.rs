//! Sources of the kind `webhook`: what is posted to a path, how its senders prove who they are, and how much is taken from them.

use super::check::{Seen, World};
use super::mistake::suggestion;
use super::sheet::{Keys, Sheet, Table};
use super::source::{Kind, Source, trigger};
use super::yaml::{Content, Node};
use crate::expr::{Script, Template};
use crate::model::Span;
use crate::model::depth::DEEPEST;

/// The largest body that any source takes: what GitHub sends at most.
pub const LARGEST_BODY: usize = 25 * 1024 * 1024;
/// The most deliveries that a rate may allow in its time.
const HIGHEST_RATE: u32 = 1_000_000;

#[derive(Clone, Debug)]
pub struct Webhook {
    /// `POST /hooks/PATH`.
    pub path: String,
    pub verify: Verify,
    pub trigger: Template,
    /// Null: this delivery is like no other.
    pub dedup: Option<Template>,
    /// One POST, one event per element.
    pub each: Option<Script>,
    /// What senders are told in place of the events' ids, with 200.
    pub answer: Option<Template>,
    pub limit: Limit,
}

/// How deliveries prove where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verify {
    /// `verify: none` must be said.
    None,
    /// One of them is enough.
    AnyOf(Vec<Way>),
}

/// One proof, and the secrets of which any fits, so that they can be changed without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub proof: Proof,
    pub secrets: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The hex HMAC-SHA-256 of the body, after `prefix`.
    HmacSha256 { header: String, prefix: String },
    /// Signatures as standardwebhooks.com has them, and GitLab: of id, time and body.
    StandardWebhooks,
    /// Slack's v0: of time and body.
    Slack,
    /// CircleCI's: versions between commas, v1 is of the body.
    CircleCi,
    /// A shared token.
    Token(TokenPlace),
    /// A user and a password.
    Basic { user: String },
}

/// Where a shared token stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    Header(String),
    Query(String),
}

/// How much is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bytes of a body.
    pub size: usize,
    /// Lists and maps inside one another. Not said: as deep as can be read; what is stored has a bound of its own.
    pub depth: Option<usize>,
    pub rate: Option<Rate>,
}

impl Default for Limit {
    fn default() -> Limit {
        Limit { size: LARGEST_BODY, depth: None, rate: None }
    }
}

/// So many deliveries in such a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub per: Span,
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.count, self.per)
    }
}

impl Verify {
    /// The ways to verify, as they are written.
    pub fn kinds(&self) -> Vec<&'static str> {
        match self {
            Verify::None => vec!["none"],
            Verify::AnyOf(ways) => ways.iter().map(|way| way.proof.kind()).collect(),
        }
    }

    /// The names of all secrets that it may take.
    pub fn secrets(&self) -> Vec<&str> {
        match self {
            Verify::None => Vec::new(),
            Verify::AnyOf(ways) => ways.iter().flat_map(|way| &way.secrets).map(String::as_str).collect(),
        }
    }
}

impl Proof {
    /// As it is written.
    pub fn kind(&self) -> &'static str {
        match self {
            Proof::HmacSha256 { .. } => "hmac_sha256",
            Proof::StandardWebhooks => "standard_webhooks",
            Proof::Slack => "slack",
            Proof::CircleCi => "circleci",
            Proof::Token(_) => "token",
            Proof::Basic { .. } => "basic",
        }
    }
}

impl Source {
    /// What it takes, when it is a webhook.
    pub fn webhook(&self) -> Option<&Webhook> {
        match &self.kind {
            Kind::Webhook(hook) => Some(hook),
            Kind::Live(_) => None,
        }
    }
}

pub(super) const WEBHOOK: Keys = Keys {
    of: "a webhook source",
    built: &["description", "kind", "path", "verify", "trigger", "dedup", "each", "answer", "limit"],
    later: &[],
};
const PROOFS: [&str; 6] = ["hmac_sha256", "standard_webhooks", "slack", "circleci", "token", "basic"];
pub(super) const VERIFY: Keys = Keys { of: "`verify`", built: &PROOFS, later: &[] };
pub(super) const HMAC: Keys =
    Keys { of: "`hmac_sha256`", built: &["header", "prefix", "secret"], later: &[] };
pub(super) const STANDARD: Keys = Keys { of: "`standard_webhooks`", built: &["secret"], later: &[] };
pub(super) const SLACK: Keys = Keys { of: "`slack`", built: &["secret"], later: &[] };
pub(super) const CIRCLECI: Keys = Keys { of: "`circleci`", built: &["secret"], later: &[] };
pub(super) const TOKEN: Keys = Keys { of: "`token`", built: &["header", "query", "secret"], later: &[] };
pub(super) const BASIC: Keys = Keys { of: "`basic`", built: &["user", "secret"], later: &[] };
pub(super) const LIMIT: Keys = Keys { of: "`limit`", built: &["size", "depth", "rate"], later: &[] };

/// Reads its keys.
pub(super) fn read(table: &Table<'_>, world: &World<'_>) -> Option<Webhook> {
    let sheet = table.sheet;
    let in_body = Seen::new("a source", &["headers", "body", "query", "path"]);
    let in_item = Seen::new("a source", &["headers", "body", "query", "path", "item"]);
    let each = table
        .get("each")
        .and_then(|node| sheet.script(node, "each", world, &in_body))
        .map(|(script, _)| script);
    let seen = if table.get("each").is_some() { &in_item } else { &in_body };
    let path = table.need("path").and_then(|node| path(sheet, node));
    let verify = table.get("verify").map(|node| verify(sheet, node));
    if verify.is_none() {
        let help =
            "say how deliveries prove where they come from, or that they need not: `verify: none`".to_owned();
        sheet.wrong(table.node, "a webhook source needs `verify`", Some(help));
    }
    let trigger = table.need("trigger").and_then(|node| trigger(sheet, node, world, seen));
    let dedup = table.get("dedup").and_then(|node| sheet.template(node, "dedup", world, seen));
    let answer = table.get("answer").and_then(|node| sheet.template(node, "answer", world, &in_body));
    let limit = table.get("limit").map(|node| limit(sheet, node)).unwrap_or_default();
    Some(Webhook { path: path?, verify: verify??, trigger: trigger?, dedup, each, answer, limit })
}

fn path(sheet: &Sheet<'_>, node: &Node) -> Option<String> {
    let path = sheet.name(node, "path")?;
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-/".contains(c);
    let is_path = !path.is_empty()
        && path.chars().all(allowed)
        && !path.starts_with('/')
        && !path.ends_with('/')
        && !path.contains("//");
    if is_path {
        return Some(path);
    }
    let message = format!("`{path}` is no path: small letters, digits, `_`, `-` and `/` inside");
    sheet.wrong(node, message, Some("path: github is reached as POST /hooks/github".to_owned()));
    None
}

fn verify(sheet: &Sheet<'_>, node: &Node) -> Option<Verify> {
    if let Content::Scalar(scalar) = &node.content
        && scalar.text == "none"
    {
        return Some(Verify::None);
    }
    let items = sheet.one_or_list(node);
    if items.is_empty() {
        sheet.wrong(node, "`verify` is an empty list", Some("say `verify: none`".to_owned()));
    }
    let ways: Vec<Option<Way>> = items.iter().map(|item| way(sheet, item)).collect();
    let ways = ways.into_iter().collect::<Option<Vec<Way>>>()?;
    (!ways.is_empty()).then_some(Verify::AnyOf(ways))
}

fn way(sheet: &Sheet<'_>, node: &Node) -> Option<Way> {
    if let Content::Scalar(scalar) = &node.content {
        if scalar.text == "none" {
            sheet.wrong(node, "`none` among others lets everybody in", Some("take it out".to_owned()));
            return None;
        }
        if PROOFS.contains(&scalar.text.as_str()) {
            let help = format!("verify: {{{}: {{secret: NAME, ..}}}}", scalar.text);
            sheet.wrong(node, format!("`{}` needs to know its secret", scalar.text), Some(help));
            return None;
        }
        let help = suggestion(&scalar.text, PROOFS);
        sheet.wrong(node, format!("there is no way `{}` to verify", scalar.text), help);
        return None;
    }
    let table = sheet.table(node, &VERIFY)?;
    let mut said = PROOFS.iter().filter_map(|kind| Some((*kind, table.get(kind)?)));
    let (Some((kind, node)), None) = (said.next(), said.next()) else {
        let message =
            format!("`verify` is one of {}, or `none`", PROOFS.map(|kind| format!("`{kind}`")).join(", "));
        let help = "several, of which one is enough, are a list".to_owned();
        sheet.wrong(node, message, Some(help));
        return None;
    };
    let keys = match kind {
        "hmac_sha256" => &HMAC,
        "standard_webhooks" => &STANDARD,
        "slack" => &SLACK,
        "circleci" => &CIRCLECI,
        "token" => &TOKEN,
        _ => &BASIC,
    };
    let table = sheet.table(node, keys)?;
    let proof = match kind {
        "hmac_sha256" => hmac(&table),
        "standard_webhooks" => Some(Proof::StandardWebhooks),
        "slack" => Some(Proof::Slack),
        "circleci" => Some(Proof::CircleCi),
        "token" => token(&table),
        _ => basic(&table),
    };
    let secrets = secrets(&table);
    Some(Way { proof: proof?, secrets: secrets? })
}

fn hmac(table: &Table<'_>) -> Option<Proof> {
    let prefix = table.text("prefix").unwrap_or_default();
    Some(Proof::HmacSha256 { header: name(table, "header", true)?, prefix })
}

fn token(table: &Table<'_>) -> Option<Proof> {
    match (name(table, "header", false), name(table, "query", false)) {
        (Some(header), None) => Some(Proof::Token(TokenPlace::Header(header))),
        (None, Some(query)) => Some(Proof::Token(TokenPlace::Query(query))),
        _ => {
            let help = "for either, write two `token`s in a list".to_owned();
            let message = "a token comes either in a `header` or in a `query` parameter";
            table.sheet.wrong(table.node, message, Some(help));
            None
        }
    }
}

fn basic(table: &Table<'_>) -> Option<Proof> {
    let user = name(table, "user", true)?;
    if user.contains(':') {
        let node = table.get("user").unwrap_or(table.node);
        table.sheet.wrong(node, "the `user` of basic authentication has no `:` in it", None);
        return None;
    }
    Some(Proof::Basic { user })
}

/// The names of the secrets: one, or a list of which any fits.
fn secrets(table: &Table<'_>) -> Option<Vec<String>> {
    let node = table.need("secret")?;
    let items = table.sheet.one_or_list(node);
    if items.is_empty() {
        table.sheet.wrong(node, "`secret` is an empty list", Some("secret: NAME".to_owned()));
        return None;
    }
    items.iter().map(|item| table.sheet.name(item, "secret")).collect()
}

fn name(table: &Table<'_>, key: &str, needed: bool) -> Option<String> {
    let node = if needed { table.need(key) } else { table.get(key) };
    table.sheet.name(node?, key)
}

fn limit(sheet: &Sheet<'_>, node: &Node) -> Limit {
    let mut limit = Limit::default();
    let Some(table) = sheet.table(node, &LIMIT) else { return limit };
    if let Some(node) = table.get("size")
        && let Some(text) = sheet.text(node, "size")
    {
        match size(&text) {
            Some(size) if (1..=LARGEST_BODY).contains(&size) => limit.size = size,
            _ => {
                let most = LARGEST_BODY / 1024 / 1024;
                let help = format!("size: 2MB; {most}MiB is the most");
                sheet.wrong(node, format!("`size` must be a number of bytes, not `{text}`"), Some(help));
            }
        }
    }
    if let Some(node) = table.get("depth")
        && let Some(depth) = sheet.whole(node, "depth", 1)
    {
        match usize::try_from(depth) {
            Ok(depth) if depth <= DEEPEST => limit.depth = Some(depth),
            _ => sheet.wrong(node, format!("`depth` is at most {DEEPEST}: nothing deeper is stored"), None),
        }
    }
    if let Some(node) = table.get("rate")
        && let Some(text) = sheet.text(node, "rate")
    {
        limit.rate = rate(&text);
        if limit.rate.is_none() {
            let help = format!("rate: 100/s, 600/m or 50/10s; {HIGHEST_RATE} are the most");
            sheet.wrong(node, format!("`rate` must be a number in a time, not `{text}`"), Some(help));
        }
    }
    limit
}

/// `500 KB`, `2MB`, `1MiB`, `4096`.
fn size(text: &str) -> Option<usize> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[digits..].trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "KiB" => 1024,
        "MB" => 1_000_000,
        "MiB" => 1024 * 1024,
        _ => return None,
    };
    text[..digits].parse::<usize>().ok()?.checked_mul(unit)
}

/// `100/s`, `600/m`, `50/10s`.
fn rate(text: &str) -> Option<Rate> {
    let (count, per) = text.split_once('/')?;
    let count: u32 = count.trim().parse().ok()?;
    let per = per.trim();
    let per: Span = per.parse().or_else(|_| format!("1{per}").parse()).ok()?;
    ((1..=HIGHEST_RATE).contains(&count) && per.0 > 0).then_some(Rate { count, per })
}
