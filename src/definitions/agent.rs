//! `agent.yaml`: what `siskin agent` keeps on a host, and where it hears which version that is to be.

use super::mistake::Mistake;
use super::sheet::{Keys, Sheet, Table};
use super::yaml::{Content, Entry, Node, Source};
use super::{Files, SITE};
use crate::model::Span;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentFile {
    /// What this host is called; the machine's own name when not said.
    pub host: Option<String>,
    pub server: Option<Server>,
    pub consul: Remote,
    pub etcd: Remote,
    /// How often it looks, whatever it was told.
    pub every: Span,
    /// After it was told of a change it waits so long at most, so that many hosts do not fetch at once.
    pub jitter: Span,
    pub apps: Vec<AgentApp>,
}

/// The server that is told, and that knows of rolls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub url: String,
    /// A file that holds a token.
    pub token_file: String,
    /// Who vouches for its certificate: the path of a PEM file.
    pub ca: Option<String>,
}

/// A Consul or an etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// Of etcd, its members; none: the one on this machine.
    pub addresses: Vec<String>,
    pub datacenter: Option<String>,
    pub user: Option<String>,
    /// The file that holds the token, or the password of the user.
    pub secret_file: Option<String>,
    pub ca: Option<String>,
    pub certificate: Option<String>,
}

/// One app, of one environment, on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentApp {
    pub name: String,
    pub environment: String,
    pub package: String,
    pub advertised: Advertised,
    pub source_list: Option<String>,
    pub check: Option<AgentCheck>,
    pub allow_downgrade: bool,
    /// How long a version may be advertised before the agent installs it, when nobody can say whether a roll is at work.
    pub settle: Span,
    /// After an installation that failed, until the same version is tried again; twice as long each time.
    pub retry: Span,
    pub timeout: Span,
}

/// Where an app's version is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertised {
    Consul(String),
    Etcd(String),
    Kv(String),
}

/// How health is asked after an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentCheck {
    pub script: String,
    pub tries: u32,
    pub interval: Span,
    pub timeout: Span,
}

pub(super) const AGENT: Keys = Keys {
    of: "agent.yaml",
    built: &["host", "server", "consul", "etcd", "every", "jitter", "apps"],
    later: &[],
};
const SERVER: Keys = Keys { of: "`server`", built: &["url", "token_file", "ca"], later: &[] };
const CONSUL: Keys =
    Keys { of: "`consul`", built: &["address", "datacenter", "token_file", "ca"], later: &[] };
const ETCD: Keys =
    Keys { of: "`etcd`", built: &["address", "user", "password_file", "ca", "certificate"], later: &[] };
const APP: Keys = Keys {
    of: "an app of agent.yaml",
    built: &[
        "environment",
        "package",
        "advertise",
        "source_list",
        "check",
        "allow_downgrade",
        "settle",
        "retry",
        "timeout",
    ],
    later: &[],
};
const ADVERTISE: Keys = Keys { of: "`advertise`", built: &["consul", "etcd", "kv"], later: &[] };
const CHECK: Keys = Keys { of: "`check`", built: &["script", "tries", "interval", "timeout"], later: &[] };

const EVERY: Span = Span::minutes(1);
const JITTER: Span = Span::seconds(10);
const SETTLE: Span = Span::minutes(10);
const RETRY: Span = Span::minutes(10);
const TIMEOUT: Span = Span::minutes(15);
const TRIES: u32 = 3;
const INTERVAL: Span = Span::seconds(2);
const CHECK_TIMEOUT: Span = Span::seconds(30);

impl AgentFile {
    /// Reads the only file of `files`.
    ///
    /// # Errors
    /// All its mistakes, each with its place.
    pub fn read(files: &Files) -> Result<AgentFile, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let mut found = None;
        for (path, bytes) in &files.texts {
            let source = Source::new(path.as_str().into(), bytes).map_err(|mistake| vec![mistake])?;
            let (documents, more) = source.parse();
            mistakes.extend(more);
            let Some(document) = documents.first() else {
                let message = "this file is empty: it names no app".to_owned();
                mistakes.push(Mistake { place: source.place(1, 1), message, help: None });
                continue;
            };
            let sheet = Sheet::new(&source, SITE);
            found = read(&sheet, document);
            mistakes.extend(sheet.into_mistakes());
        }
        match found {
            Some(file) if mistakes.is_empty() => Ok(file),
            _ => Err(mistakes),
        }
    }
}

fn read(sheet: &Sheet<'_>, node: &Node) -> Option<AgentFile> {
    let table = sheet.table(node, &AGENT)?;
    let mut apps = Vec::new();
    let named = table.need("apps")?;
    for entry in sheet.entries(named, "`apps`")? {
        if !super::is_app_name(&entry.key) {
            let message = format!("`{}` is no name of an app", entry.key);
            sheet.report(entry.line, entry.column, message, None);
        }
        apps.extend(app(sheet, entry));
    }
    if apps.is_empty() {
        sheet.wrong(named, "`apps` names no app, so there is nothing to keep", None);
    }
    let server = table.get("server").and_then(|node| server(sheet, node));
    let needs_server = apps.iter().any(|app| matches!(app.advertised, Advertised::Kv(_)));
    if needs_server && table.get("server").is_none() {
        sheet.wrong(named, "a version in Siskin's own keys (`kv`) needs `server`", None);
    }
    Some(AgentFile {
        host: table.text("host"),
        server,
        consul: table.get("consul").and_then(|node| remote(sheet, node, &CONSUL)).unwrap_or_default(),
        etcd: table.get("etcd").and_then(|node| remote(sheet, node, &ETCD)).unwrap_or_default(),
        every: least(&table, "every", Span::seconds(1)).unwrap_or(EVERY),
        jitter: table.span("jitter").unwrap_or(JITTER),
        apps,
    })
}

/// A time of at least so much.
fn least(table: &Table<'_>, key: &str, least: Span) -> Option<Span> {
    let span = table.span(key)?;
    if span < least
        && let Some(node) = table.get(key)
    {
        table.sheet.wrong(node, format!("`{key}` must be at least {least}"), None);
    }
    Some(span)
}

fn server(sheet: &Sheet<'_>, node: &Node) -> Option<Server> {
    let table = sheet.table(node, &SERVER)?;
    let url = table.need("url")?;
    let address = sheet.text(url, "url")?;
    if !address.starts_with("http://") && !address.starts_with("https://") {
        sheet.wrong(url, "`url` begins with https:// or http://", None);
    }
    let token_file = file(&table, "token_file");
    table.need("token_file")?;
    Some(Server {
        url: address.trim_end_matches('/').to_owned(),
        token_file: token_file?,
        ca: file(&table, "ca"),
    })
}

/// A secret stands in a file that only root can read, never here.
fn file(table: &Table<'_>, key: &str) -> Option<String> {
    let node = table.get(key)?;
    let path = table.sheet.text(node, key)?;
    if !path.starts_with('/') {
        table.sheet.wrong(node, format!("`{key}` must be the absolute path of a file"), None);
    }
    Some(path)
}

fn remote(sheet: &Sheet<'_>, node: &Node, keys: &Keys) -> Option<Remote> {
    let table = sheet.table(node, keys)?;
    let addresses = table.get("address").map(|node| sheet.one_or_list(node)).unwrap_or_default();
    let secret_file = file(&table, "token_file").or_else(|| file(&table, "password_file"));
    if let (Some(user), None) = (table.get("user"), &secret_file) {
        sheet.wrong(user, "a `user` needs a `password_file`", None);
    }
    Some(Remote {
        addresses: addresses.iter().filter_map(|node| sheet.text(node, "address")).collect(),
        datacenter: table.text("datacenter"),
        user: table.text("user"),
        secret_file,
        ca: file(&table, "ca"),
        certificate: file(&table, "certificate"),
    })
}

fn app(sheet: &Sheet<'_>, entry: &Entry) -> Option<AgentApp> {
    let table = sheet.table(&entry.value, &APP)?;
    let environment = table.need("environment").and_then(|node| sheet.text(node, "environment"));
    let advertised = table.need("advertise").and_then(|node| advertise(sheet, node));
    let (environment, advertised) = (environment?, advertised?);
    let filled = |key: String| key.replace("{app}", &entry.key).replace("{environment}", &environment);
    let advertised = match advertised {
        Advertised::Consul(key) => Advertised::Consul(filled(key)),
        Advertised::Etcd(key) => Advertised::Etcd(filled(key)),
        Advertised::Kv(key) => Advertised::Kv(filled(key)),
    };
    if let Some(node) = table.get("source_list")
        && sheet.text(node, "source_list").is_some_and(|name| name.contains(['/', ' ']) || name.is_empty())
    {
        sheet.wrong(node, "`source_list` is the name of a file in /etc/apt/sources.list.d", None);
    }
    Some(AgentApp {
        name: entry.key.clone(),
        package: table.text("package").unwrap_or_else(|| entry.key.clone()),
        environment: environment.clone(),
        advertised,
        source_list: table.text("source_list"),
        check: table.get("check").and_then(|node| check(sheet, node)),
        allow_downgrade: table.boolean("allow_downgrade").unwrap_or(false),
        settle: table.span("settle").unwrap_or(SETTLE),
        retry: least(&table, "retry", Span::seconds(1)).unwrap_or(RETRY),
        timeout: least(&table, "timeout", Span::seconds(1)).unwrap_or(TIMEOUT),
    })
}

fn advertise(sheet: &Sheet<'_>, node: &Node) -> Option<Advertised> {
    let table = sheet.table(node, &ADVERTISE)?;
    let said: Vec<&Entry> = table.keys().collect();
    let [entry] = said.as_slice() else {
        let help = Some("advertise: {consul: \"{app}::version\"}".to_owned());
        sheet.wrong(node, "`advertise` says one of `consul: KEY`, `etcd: KEY` and `kv: KEY`", help);
        return None;
    };
    let key = sheet.name(&entry.value, &entry.key)?;
    if key.is_empty() {
        sheet.wrong(&entry.value, "the key is empty", None);
    }
    match entry.key.as_str() {
        "consul" => Some(Advertised::Consul(key)),
        "etcd" => Some(Advertised::Etcd(key)),
        _ => Some(Advertised::Kv(key)),
    }
}

fn check(sheet: &Sheet<'_>, node: &Node) -> Option<AgentCheck> {
    let of = |script: String| AgentCheck { script, tries: TRIES, interval: INTERVAL, timeout: CHECK_TIMEOUT };
    if matches!(node.content, Content::Scalar(_)) {
        return sheet.text(node, "check").map(of);
    }
    let table = sheet.table(node, &CHECK)?;
    let mut check = of(sheet.text(table.need("script")?, "script")?);
    if let Some(tries) = table.get("tries").and_then(|node| sheet.whole(node, "tries", 1)) {
        check.tries = tries;
    }
    check.interval = table.span("interval").unwrap_or(INTERVAL);
    check.timeout = table.span("timeout").unwrap_or(CHECK_TIMEOUT);
    Some(check)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AgentFile, Vec<String>> {
        let files = Files::from_texts([("agent.yaml", text)]);
        AgentFile::read(&files).map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_least_file_has_defaults_for_the_rest() {
        let text = "apps:\n  shop: {environment: production, advertise: {consul: '{app}::{environment}'}}\n";
        let file = read(text).unwrap();
        let app = &file.apps[0];
        assert_eq!(app.advertised, Advertised::Consul("shop::production".to_owned()));
        assert_eq!((app.package.as_str(), app.settle, app.allow_downgrade), ("shop", SETTLE, false));
        assert_eq!((file.every, file.server), (EVERY, None));
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_their_places() {
        let text = "servr: {}\nevery: often\nserver: {url: siskin, token_file: t}\napps:\n  shop: {advertise: {consul: a, kv: b}}\n  web: {environment: x, advertise: {kv: y}, settle: -1}\n";
        let wrong = read(text).unwrap_err();
        for begin in [
            "agent.yaml:1:1: `servr` is no key",
            "agent.yaml:2:8: `every`",
            "agent.yaml:3:15: `url`",
            "agent.yaml:3:35: `token_file`",
            "agent.yaml:5:9: an app of agent.yaml needs `environment`",
            "agent.yaml:5:21: `advertise` says one of",
            "agent.yaml:6:53: `settle`",
        ] {
            assert!(wrong.iter().any(|mistake| mistake.starts_with(begin)), "{begin} in {wrong:#?}");
        }
        assert!(read("").unwrap_err()[0].contains("empty"));
        assert!(read("apps: [\n").is_err());
        let no_server = read("apps: {a: {environment: b, advertise: {kv: c}}}\n").unwrap_err();
        assert!(no_server[0].contains("needs `server`"), "{no_server:?}");
    }
}
