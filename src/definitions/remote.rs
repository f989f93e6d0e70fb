//! Sources that watch other people's servers: etcd, a queue of RabbitMQ, the releases of a repository.

use super::check::World;
use super::live::{every, key_or_prefix, list, secret_setting, setting, setting_of, token};
use super::sheet::{Keys, Table};
use crate::expr::Template;
use crate::model::Span;

/// Which etcd, and what of it.
#[derive(Clone, Debug)]
pub struct Etcd {
    /// Of its members; none: the one on this machine.
    pub addresses: Vec<Template>,
    pub user: Option<Template>,
    pub password: Option<Template>,
    pub ca: Option<Template>,
    /// With its key in the same text.
    pub certificate: Option<Template>,
    pub key: Template,
    /// Whether all that begin with `key` are watched.
    pub all_below: bool,
}

/// Which broker, and what of it.
#[derive(Clone, Debug)]
pub struct Amqp {
    pub url: Template,
    pub user: Option<Template>,
    pub password: Option<Template>,
    pub ca: Option<Template>,
    pub queue: Template,
    /// Whether the queue is made when it is missing.
    pub declare: bool,
    pub binding: Option<Binding>,
    pub format: Format,
    /// Messages that may be on their way.
    pub at_once: u16,
}

/// What the queue gets from an exchange.
#[derive(Clone, Debug)]
pub struct Binding {
    pub exchange: Template,
    /// Routing keys, or patterns of them; none: whatever it sends without one.
    pub keys: Vec<Template>,
}

/// What messages hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// What their content type says; without one, JSON if it is.
    Auto,
    Json,
    Text,
}

/// Whose releases.
#[derive(Clone, Debug)]
pub struct GithubReleases {
    /// `owner/name`.
    pub repository: Template,
    /// `None`: GitHub's own.
    pub api: Option<Template>,
    pub token: Option<Template>,
    pub every: Span,
}

pub(super) const ETCD: Keys = Keys {
    of: "an etcd source",
    built: &[
        "description",
        "kind",
        "trigger",
        "dedup",
        "each",
        "address",
        "user",
        "password",
        "secret",
        "ca",
        "certificate",
        "key",
        "prefix",
    ],
    later: &[],
};
pub(super) const AMQP: Keys = Keys {
    of: "an amqp source",
    built: &[
        "description",
        "kind",
        "trigger",
        "dedup",
        "each",
        "url",
        "user",
        "password",
        "secret",
        "ca",
        "queue",
        "declare",
        "exchange",
        "binding",
        "format",
        "at_once",
    ],
    later: &[],
};
pub(super) const GITHUB_RELEASES: Keys = Keys {
    of: "a github_releases source",
    built: &[
        "description",
        "kind",
        "trigger",
        "dedup",
        "each",
        "repository",
        "api",
        "token",
        "secret",
        "every",
    ],
    later: &[],
};

/// Messages that are on their way when nobody says otherwise.
const AT_ONCE: u16 = 50;
const MOST_AT_ONCE: u32 = 1000;

pub(super) fn etcd(table: &Table<'_>, world: &World<'_>) -> Option<Etcd> {
    let addresses = list(table, "address", world);
    let login = login(table, world);
    let ca = setting(table, "ca", world);
    let certificate = setting(table, "certificate", world);
    let key = key_or_prefix(table, "an etcd source", world);
    let ((user, password), (key, all_below)) = (login?, key?);
    Some(Etcd { addresses: addresses?, user, password, ca: ca?, certificate: certificate?, key, all_below })
}

pub(super) fn amqp(table: &Table<'_>, world: &World<'_>) -> Option<Amqp> {
    let sheet = table.sheet;
    let need = |key: &str| setting_of(sheet, table.need(key)?, key, world);
    let (url, queue) = (need("url"), need("queue"));
    let login = login(table, world);
    let ca = setting(table, "ca", world);
    let declare = table.get("declare").map_or(Some(false), |_| table.boolean("declare"));
    let keys = list(table, "binding", world);
    let exchange = setting(table, "exchange", world);
    if let (Some(node), None) = (table.get("binding"), table.get("exchange")) {
        sheet.wrong(node, "`binding` needs the `exchange` that it binds to", None);
        return None;
    }
    let format = table
        .get("format")
        .map_or(Some("auto"), |node| sheet.word(node, "format", &["auto", "json", "text"]));
    let at_once = table.get("at_once").map_or(Some(AT_ONCE), |node| {
        let number = sheet.whole(node, "at_once", 1)?;
        if number > MOST_AT_ONCE {
            sheet.wrong(node, format!("`at_once` is {MOST_AT_ONCE} at most, not {number}"), None);
            return None;
        }
        u16::try_from(number).ok()
    });
    let (user, password) = login?;
    let (exchange, keys) = (exchange?, keys?);
    Some(Amqp {
        url: url?,
        user,
        password,
        ca: ca?,
        queue: queue?,
        declare: declare?,
        binding: exchange.map(|exchange| Binding { exchange, keys }),
        format: match format? {
            "json" => Format::Json,
            "text" => Format::Text,
            _ => Format::Auto,
        },
        at_once: at_once?,
    })
}

pub(super) fn github_releases(table: &Table<'_>, world: &World<'_>) -> Option<GithubReleases> {
    let sheet = table.sheet;
    let repository = table.need("repository").and_then(|node| {
        let template = setting_of(sheet, node, "repository", world)?;
        if template.is_literal() {
            let text = sheet.text(node, "repository")?;
            if !is_repository(&text) {
                let help = Some("repository: acme/shop".to_owned());
                sheet.wrong(node, format!("`{text}` is no repository: write owner/name"), help);
                return None;
            }
        }
        Some(template)
    });
    let api = setting(table, "api", world);
    let token = token(table, world);
    let every = every(table, Span::minutes(1));
    Some(GithubReleases { repository: repository?, api: api?, token: token?, every: every? })
}

/// Whether it is written `owner/name`.
pub fn is_repository(text: &str) -> bool {
    let is_name = |part: &str| {
        !part.is_empty()
            && !matches!(part, "." | "..")
            && part.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
    };
    text.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name))
}

type Login = (Option<Template>, Option<Template>);

/// `user` with its `password`, or the `secret` that holds it.
fn login(table: &Table<'_>, world: &World<'_>) -> Option<Login> {
    let sheet = table.sheet;
    let user = setting(table, "user", world)?;
    let password = secret_setting(table, "password", world)?;
    match (table.get("user"), table.get("secret").or_else(|| table.get("password"))) {
        (Some(node), None) => {
            sheet.wrong(node, "`user` needs a `password`, or the `secret` that holds it", None);
            None
        }
        (None, Some(node)) => {
            sheet.wrong(node, "the password of nobody: `user` is missing", None);
            None
        }
        _ => Some((user, password)),
    }
}
