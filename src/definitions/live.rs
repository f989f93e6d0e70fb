//! Sources that live in the server: what they watch, and how events are made of what they see.

use globset::{Glob, GlobBuilder};

use super::check::{Seen, World};
use super::consul::{self, Consul};
use super::remote::{self, Amqp, Etcd, GithubReleases};
use super::schedule::{self, Interval, Schedule};
use super::sheet::{Keys, Sheet, Table};
use super::source::trigger;
use super::yaml::{Content, Node};
use crate::expr::{Script, Template};
use crate::model::Span;

/// A source that watches something.
#[derive(Clone, Debug)]
pub struct Live {
    pub trigger: Template,
    pub dedup: Option<Template>,
    /// Of what it saw, one event per element.
    pub each: Option<Script>,
    pub watch: Watch,
}

/// What is watched.
#[derive(Clone, Debug)]
pub enum Watch {
    Interval(Interval),
    At(Schedule),
    Consul(Box<Consul>),
    Exec(Exec),
    File(File),
    HttpPoll(HttpPoll),
    GitBranch(GitBranch),
    Etcd(Box<Etcd>),
    Amqp(Box<Amqp>),
    GithubReleases(GithubReleases),
}

/// A program that prints events.
#[derive(Clone, Debug)]
pub struct Exec {
    /// The program and its arguments.
    pub command: Vec<Template>,
    pub env: Vec<(String, Template)>,
    pub cwd: Option<Template>,
    /// Of an event: what the program is told as SISKIN_CURSOR when it is started again.
    pub cursor: Option<Template>,
}

/// A file, or all files of a folder.
#[derive(Clone, Debug)]
pub struct File {
    pub path: Template,
    /// Which files of a folder.
    pub glob: Option<Glob>,
    pub recursive: bool,
    pub every: Span,
}

/// An answer that is fetched again and again.
#[derive(Clone, Debug)]
pub struct HttpPoll {
    pub url: Template,
    pub headers: Vec<(String, Template)>,
    pub every: Span,
}

/// Branches of a repository.
#[derive(Clone, Debug)]
pub struct GitBranch {
    pub url: Template,
    pub branches: Vec<Glob>,
    pub user: Option<Template>,
    pub token: Option<Template>,
    pub every: Span,
}

impl Watch {
    /// As `kind` names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Watch::Interval(_) => "interval",
            Watch::At(_) => "at",
            Watch::Consul(consul) => consul.what.kind(),
            Watch::Exec(_) => "exec",
            Watch::File(_) => "file",
            Watch::HttpPoll(_) => "http_poll",
            Watch::GitBranch(_) => "git_branch",
            Watch::Etcd(_) => "etcd",
            Watch::Amqp(_) => "amqp",
            Watch::GithubReleases(_) => "github_releases",
        }
    }
}

/// The kinds, with their keys.
pub(super) const KINDS: &[(&str, &Keys)] = &[
    ("interval", &INTERVAL),
    ("at", &AT),
    ("consul_kv", &consul::KV),
    ("consul_service", &consul::SERVICE),
    ("consul_event", &consul::EVENT),
    ("exec", &EXEC),
    ("file", &FILE),
    ("http_poll", &HTTP_POLL),
    ("git_branch", &GIT_BRANCH),
    ("etcd", &remote::ETCD),
    ("amqp", &remote::AMQP),
    ("github_releases", &remote::GITHUB_RELEASES),
];

const INTERVAL: Keys = Keys {
    of: "an interval source",
    built: &["description", "kind", "trigger", "dedup", "every", "catch_up"],
    later: &[],
};
const AT: Keys = Keys {
    of: "an `at` source",
    built: &["description", "kind", "trigger", "dedup", "cron", "times", "time_zone", "catch_up"],
    later: &[],
};

const EXEC: Keys = Keys {
    of: "an exec source",
    built: &["description", "kind", "trigger", "dedup", "each", "command", "env", "cwd", "cursor"],
    later: &[],
};
const FILE: Keys = Keys {
    of: "a file source",
    built: &["description", "kind", "trigger", "dedup", "path", "glob", "recursive", "every"],
    later: &[],
};
const HTTP_POLL: Keys = Keys {
    of: "an http_poll source",
    built: &["description", "kind", "trigger", "dedup", "each", "url", "headers", "every"],
    later: &[],
};
const GIT_BRANCH: Keys = Keys {
    of: "a git_branch source",
    built: &["description", "kind", "trigger", "dedup", "url", "branch", "user", "token", "secret", "every"],
    later: &[],
};

/// The shortest interval.
const SHORTEST: Span = Span::seconds(1);

/// Reads a source of one of `KINDS`.
pub(super) fn read(table: &Table<'_>, kind: &str, world: &World<'_>) -> Option<Live> {
    let sheet = table.sheet;
    let seen = Seen::new("a source", &["body"]);
    let each = table.get("each").map(|node| sheet.script(node, "each", world, &seen));
    let seen = if each.is_some() { Seen::new("a source", &["body", "item"]) } else { seen };
    let trigger = table.need("trigger").and_then(|node| trigger(sheet, node, world, &seen));
    let dedup = table.get("dedup").map(|node| sheet.template(node, "dedup", world, &seen));
    let watch = match kind {
        "interval" => interval(table).map(Watch::Interval),
        "at" => at(table).map(Watch::At),
        "exec" => exec(table, world, &seen).map(Watch::Exec),
        "file" => file(table, world).map(Watch::File),
        "http_poll" => http_poll(table, world).map(Watch::HttpPoll),
        "git_branch" => git_branch(table, world).map(Watch::GitBranch),
        "etcd" => remote::etcd(table, world).map(Box::new).map(Watch::Etcd),
        "amqp" => remote::amqp(table, world).map(Box::new).map(Watch::Amqp),
        "github_releases" => remote::github_releases(table, world).map(Watch::GithubReleases),
        _ => consul::read(table, kind, world).map(Box::new).map(Watch::Consul),
    };
    let each = each.map_or(Some(None), |each| each.map(|(script, _)| Some(script)));
    let dedup = dedup.map_or(Some(None), |dedup| dedup.map(Some));
    Some(Live { trigger: trigger?, dedup: dedup?, each: each?, watch: watch? })
}

fn interval(table: &Table<'_>) -> Option<Interval> {
    let catch_up = schedule::catch_up(table);
    let every = table.need("every").and_then(|node| at_least(table.sheet, node, "every", SHORTEST));
    Some(Interval { every: every?, catch_up: catch_up? })
}

fn at(table: &Table<'_>) -> Option<Schedule> {
    if table.get("cron").is_none() && table.get("times").is_none() {
        let help = "cron: \"30 2 * * mon-fri\", or times: [\"08:30\", \"2026-12-24 18:00\"]".to_owned();
        table.sheet.wrong(table.node, "an `at` source needs `cron` or `times`", Some(help));
        return None;
    }
    schedule::read(table)
}

fn exec(table: &Table<'_>, world: &World<'_>, seen: &Seen<'_>) -> Option<Exec> {
    let sheet = table.sheet;
    let command = table.need("command").and_then(|node| {
        // A text is for the shell, a list is a program with its arguments.
        let (shell, parts) = match &node.content {
            Content::List(items) => (&[][..], items.as_slice()),
            _ => (&["/bin/sh", "-c"][..], std::slice::from_ref(node)),
        };
        let shell = shell.iter().map(|text| world.expr.template(text).ok());
        let parts = parts.iter().map(|node| setting_of(sheet, node, "command", world));
        let command =
            shell.chain(parts).collect::<Vec<_>>().into_iter().collect::<Option<Vec<Template>>>()?;
        if command.is_empty() {
            let help = "command: [./watch, --verbose], or command: \"watch | jq -c .\"".to_owned();
            sheet.wrong(node, "`command` names no program", Some(help));
            return None;
        }
        Some(command)
    });
    let env = settings(table, "env", world);
    let cwd = setting(table, "cwd", world);
    let cursor = table.get("cursor").map(|node| sheet.template(node, "cursor", world, seen));
    let cursor = cursor.map_or(Some(None), |cursor| cursor.map(Some));
    Some(Exec { command: command?, env: env?, cwd: cwd?, cursor: cursor? })
}

fn file(table: &Table<'_>, world: &World<'_>) -> Option<File> {
    let path = table.need("path").and_then(|node| setting_of(table.sheet, node, "path", world));
    let glob = table.get("glob").map_or(Some(None), |node| glob(table.sheet, node, "glob").map(Some));
    let recursive = table.get("recursive").map_or(Some(false), |_| table.boolean("recursive"));
    let every = every(table, Span::seconds(2));
    Some(File { path: path?, glob: glob?, recursive: recursive?, every: every? })
}

fn http_poll(table: &Table<'_>, world: &World<'_>) -> Option<HttpPoll> {
    let url = table.need("url").and_then(|node| setting_of(table.sheet, node, "url", world));
    let headers = settings(table, "headers", world);
    let every = every(table, Span::minutes(1));
    Some(HttpPoll { url: url?, headers: headers?, every: every? })
}

fn git_branch(table: &Table<'_>, world: &World<'_>) -> Option<GitBranch> {
    let sheet = table.sheet;
    let url = table.need("url").and_then(|node| setting_of(sheet, node, "url", world));
    let branches = table.need("branch").and_then(|node| {
        let globs = sheet.one_or_list(node).iter().map(|node| glob(sheet, node, "branch"));
        globs.collect::<Vec<_>>().into_iter().collect::<Option<Vec<Glob>>>()
    });
    let user = setting(table, "user", world);
    let token = token(table, world);
    let every = every(table, Span::minutes(1));
    Some(GitBranch { url: url?, branches: branches?, user: user?, token: token?, every: every? })
}

pub(super) fn every(table: &Table<'_>, usual: Span) -> Option<Span> {
    let Some(node) = table.get("every") else { return Some(usual) };
    at_least(table.sheet, node, "every", SHORTEST)
}

/// `release/*`: what stands between two slashes, `**` for more.
fn glob(sheet: &Sheet<'_>, node: &Node, what: &str) -> Option<Glob> {
    let text = sheet.name(node, what)?;
    match GlobBuilder::new(&text).literal_separator(true).build() {
        Ok(glob) => Some(glob),
        Err(error) => {
            sheet.wrong(node, format!("`{text}` is no pattern: {}", error.kind()), None);
            None
        }
    }
}

/// `token`, a template; or `secret`, the name of a secret that holds it.
pub(super) fn token(table: &Table<'_>, world: &World<'_>) -> Option<Option<Template>> {
    secret_setting(table, "token", world)
}

/// A setting that is secret: a template under its own key, or `secret`, the name of a secret that holds it.
pub(super) fn secret_setting(table: &Table<'_>, key: &str, world: &World<'_>) -> Option<Option<Template>> {
    let Some(node) = table.get("secret") else { return setting(table, key, world) };
    let sheet = table.sheet;
    if table.get(key).is_some() {
        sheet.wrong(node, format!("the {key} comes either from `{key}` or from `secret`"), None);
        return None;
    }
    let name = sheet.name(node, "secret")?;
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)) {
        sheet.wrong(node, format!("`{name}` is no name of a secret"), None);
        return None;
    }
    world.expr.template(&format!("{{{{ secret('{name}') }}}}")).ok().map(Some)
}

/// One setting or a list of them; none where the key is missing.
pub(super) fn list(table: &Table<'_>, key: &str, world: &World<'_>) -> Option<Vec<Template>> {
    let Some(node) = table.get(key) else { return Some(Vec::new()) };
    let read = table.sheet.one_or_list(node).iter().map(|node| setting_of(table.sheet, node, key, world));
    read.collect::<Vec<_>>().into_iter().collect()
}

/// Either one `key`, or a `prefix` below which all is watched; whether it is a prefix.
pub(super) fn key_or_prefix(table: &Table<'_>, of: &str, world: &World<'_>) -> Option<(Template, bool)> {
    let read = |node, what, is_prefix| setting_of(table.sheet, node, what, world).map(|key| (key, is_prefix));
    match (table.get("key"), table.get("prefix")) {
        (Some(node), None) => read(node, "key", false),
        (None, Some(node)) => read(node, "prefix", true),
        _ => {
            let what = format!("{of} watches either one `key` or all below a `prefix`");
            table.sheet.wrong(table.node, what, None);
            None
        }
    }
}

/// A map of settings.
fn settings(table: &Table<'_>, key: &str, world: &World<'_>) -> Option<Vec<(String, Template)>> {
    let Some(node) = table.get(key) else { return Some(Vec::new()) };
    let entries = table.sheet.entries(node, &format!("`{key}`"))?;
    let read = entries
        .iter()
        .map(|entry| Some((entry.key.clone(), setting_of(table.sheet, &entry.value, &entry.key, world)?)));
    read.collect::<Vec<_>>().into_iter().collect()
}

/// A span that is not shorter than `least`.
pub(super) fn at_least(sheet: &Sheet<'_>, node: &Node, what: &str, least: Span) -> Option<Span> {
    let span = sheet.span(node, what)?;
    if span < least {
        sheet.wrong(node, format!("`{what}` must be {least} at least, not {span}"), None);
        return None;
    }
    Some(span)
}

/// A text that is rendered when the source begins, from `config` and `apps`; secrets may stand in it.
pub(super) fn setting(table: &Table<'_>, key: &str, world: &World<'_>) -> Option<Option<Template>> {
    let Some(node) = table.get(key) else { return Some(None) };
    setting_of(table.sheet, node, key, world).map(Some)
}

/// As `setting`, of a node.
pub(super) fn setting_of(sheet: &Sheet<'_>, node: &Node, what: &str, world: &World<'_>) -> Option<Template> {
    let seen = Seen { no_secrets: None, ..Seen::new("a source", &[]) };
    sheet.template(node, what, world, &seen)
}
