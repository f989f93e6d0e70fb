//! Sources that watch a Consul: keys, instances of a service, events.

use super::check::World;
use super::live::{key_or_prefix, list, setting, setting_of, token};
use super::sheet::{Keys, Table};
use crate::expr::Template;

/// Which Consul, and what of it.
#[derive(Clone, Debug)]
pub struct Consul {
    /// `None`: the agent on this machine.
    pub address: Option<Template>,
    pub token: Option<Template>,
    pub ca: Option<Template>,
    pub datacenter: Option<Template>,
    pub what: What,
}

/// What of a Consul is watched.
#[derive(Clone, Debug)]
pub enum What {
    Key(Template),
    Prefix(Template),
    Service { name: Template, tags: Vec<Template> },
    Event(Template),
}

impl What {
    /// As `kind` names it.
    pub fn kind(&self) -> &'static str {
        match self {
            What::Key(_) | What::Prefix(_) => "consul_kv",
            What::Service { .. } => "consul_service",
            What::Event(_) => "consul_event",
        }
    }
}

pub(super) const KV: Keys = Keys {
    of: "a consul_kv source",
    built: &[
        "description",
        "kind",
        "trigger",
        "dedup",
        "each",
        "address",
        "token",
        "secret",
        "ca",
        "datacenter",
        "key",
        "prefix",
    ],
    later: &[],
};
pub(super) const SERVICE: Keys = Keys {
    of: "a consul_service source",
    built: &[
        "description",
        "kind",
        "trigger",
        "dedup",
        "each",
        "address",
        "token",
        "secret",
        "ca",
        "datacenter",
        "service",
        "tag",
    ],
    later: &[],
};
pub(super) const EVENT: Keys = Keys {
    of: "a consul_event source",
    built: &[
        "description",
        "kind",
        "trigger",
        "dedup",
        "each",
        "address",
        "token",
        "secret",
        "ca",
        "datacenter",
        "name",
    ],
    later: &[],
};

/// Reads the keys of a kind.
pub(super) fn read(table: &Table<'_>, kind: &str, world: &World<'_>) -> Option<Consul> {
    let sheet = table.sheet;
    let address = setting(table, "address", world);
    let token = token(table, world);
    let ca = setting(table, "ca", world);
    let datacenter = setting(table, "datacenter", world);
    let need = |key: &str| setting_of(sheet, table.need(key)?, key, world);
    let what = match kind {
        "consul_kv" => key_or_prefix(table, "a consul_kv source", world)
            .map(|(key, is_prefix)| if is_prefix { What::Prefix(key) } else { What::Key(key) }),
        "consul_service" => {
            let tags = list(table, "tag", world);
            let name = need("service");
            name.zip(tags).map(|(name, tags)| What::Service { name, tags })
        }
        _ => need("name").map(What::Event),
    };
    Some(Consul { address: address?, token: token?, ca: ca?, datacenter: datacenter?, what: what? })
}
