//! Where an app goes, from its file in `apps/`:
//!
//! | key of an environment | meaning |
//! | --- | --- |
//! | `hosts` | a map that says where they are found (`inventory.rs`), or a list; an entry is `web1`, `deploy@web1:2222`, or a map: `{name, ssh: {host, port, user, key, known_hosts, host_keys: strict or accept_new}}`, or `{name, root: DIRECTORY}` for a private dpkg root on this machine; `address` says where what runs on it is reached |
//! | `batch` | how many hosts at once: a number, or a share as `25%`; 1 when not said |
//! | `max_unavailable` | how many hosts may be away at once, those that are ill or without traffic already among them: the same |
//! | `check` | a shell script that says whether a host is healthy, by its exit status; or `{script}`, `{http, port, host, expect, contains}`, `{tcp}` or `{consul, tag, address, datacenter}`, with `tries`, `interval`, `timeout` |
//! | `balancer` | what gives the hosts their traffic (`balancer.rs`) |
//! | `advertise` | where the version that its hosts are to hold is told (`advert.rs`) |
//! | `source_list` | the file in `sources.list.d` of the hosts that names our repository; all are read when not said |
//!
//! The package is called as the app, or as `package` of the app's file says.

use super::advert::Advert;
use super::balancer::Balancer;
use super::consul::{Settings, texts};
use super::inventory::Inventory;
use crate::delivery::deb;
use crate::delivery::health::{Check, Http, Question};
use crate::delivery::hosts::{Host, Reach};
use crate::delivery::rollout::Batch;
use crate::model::{Span, Value};
use crate::runners::{Failure, Job, optional_text};
use crate::ssh;

/// What a check is tried when its file does not say: a service needs a moment after its installation.
const TRIES: u32 = 3;
const INTERVAL: Span = Span::seconds(2);
/// Consul hears of a service only when its agent asks again.
const TRIES_OF_CONSUL: u32 = 30;
const CHECK_TIMEOUT: Span = Span::seconds(30);

/// An environment of an app, ready to be rolled to.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) package: String,
    pub(super) inventory: Inventory,
    pub(super) batch: Batch,
    pub(super) max_unavailable: Option<Batch>,
    pub(super) check: Option<Asked>,
    pub(super) balancer: Option<Balancer>,
    pub(super) advert: Option<Advert>,
}

/// What is asked of a host, before it is known how Consul is reached.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    kind: Kind,
    tries: u32,
    interval: Span,
    timeout: Span,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Script(String),
    Http(Http),
    Tcp(u16),
    Consul { service: String, tags: Vec<String>, address: Option<String>, datacenter: Option<String> },
}

impl Asked {
    /// The check that a job makes.
    pub(super) async fn check(&self, job: &Job) -> Result<Check, Failure> {
        let question = match &self.kind {
            Kind::Script(script) => Question::Script(script.clone()),
            Kind::Http(http) => Question::Http(http.clone()),
            Kind::Tcp(port) => Question::Tcp(*port),
            Kind::Consul { service, tags, address, datacenter } => {
                let settings = Settings::of_deploy(job, address.clone(), datacenter.clone())?;
                let (service, tags) = (service.clone(), tags.clone());
                Question::Consul { client: settings.client().await?, service, tags }
            }
        };
        let Asked { tries, interval, timeout, .. } = *self;
        Ok(Check { question, tries, interval, timeout })
    }
}

impl Target {
    /// How the health of its hosts is asked, where it says so.
    pub(super) async fn health(&self, job: &Job) -> Result<Option<Check>, Failure> {
        match &self.check {
            None => Ok(None),
            Some(asked) => asked.check(job).await.map(Some),
        }
    }

    pub(super) fn read(apps: &Value, app: &str, environment: &str) -> Result<Target, Failure> {
        let Some(file) = apps.get(app) else {
            return Err(Failure::new(format!("there is no app `{app}` here; apps/{app}.yaml describes it")));
        };
        let environments = file.get("environments").and_then(Value::as_object);
        let Some(found) = environments.and_then(|all| all.get(environment)) else {
            let known: Vec<_> = environments.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            return Err(Failure::new(format!(
                "the app `{app}` has no environment `{environment}`; it has {}",
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            )));
        };
        let read = || -> Result<Target, Failure> {
            let package = deb::control::package_name(optional_text(file, "package")?.unwrap_or(app))
                .map_err(Failure::new)?;
            let source_list = optional_text(found, "source_list")?;
            let inventory = match found.get("hosts") {
                Some(map @ Value::Object(_)) => Inventory::read(map, app, environment, source_list)?,
                list => Inventory::Named(hosts(list, source_list)?),
            };
            Ok(Target {
                package,
                inventory,
                batch: share(found.get("batch"), "batch")?.unwrap_or(Batch::Hosts(1)),
                max_unavailable: share(found.get("max_unavailable"), "max_unavailable")?,
                check: check(found.get("check"))?,
                balancer: Balancer::read(found.get("balancer"), app, environment)?,
                advert: Advert::read(found.get("advertise"), app, environment)?,
            })
        };
        read().map_err(|failure| {
            Failure::new(format!("`{environment}` in apps/{app}.yaml: {}", failure.error.message))
        })
    }
}

fn hosts(value: Option<&Value>, source_list: Option<&str>) -> Result<Vec<Host>, Failure> {
    let Some(Value::Array(entries)) = value else {
        return Err(Failure::new("`hosts` must be a list of hosts"));
    };
    let hosts: Vec<Host> = entries.iter().map(|entry| host(entry, source_list)).collect::<Result<_, _>>()?;
    if hosts.is_empty() {
        return Err(Failure::new("`hosts` is empty, so there is nothing to deploy to"));
    }
    Ok(hosts)
}

/// A host that is a name, an address or a map.
pub(super) fn host(entry: &Value, source_list: Option<&str>) -> Result<Host, Failure> {
    let mut host = match entry {
        Value::String(text) => Host::ssh(text.as_str(), address(text)?),
        Value::Object(_) => host_of_map(entry)?,
        _ => return Err(Failure::new("a host is a name or a map")),
    };
    if let Some(address) = optional_text(entry, "address")? {
        host.address = address.to_owned();
    }
    if let Some(file) = source_list {
        host.source_list = Some(file.to_owned());
    }
    Ok(host)
}

/// `[USER@]HOST[:PORT]`.
pub(super) fn address(text: &str) -> Result<ssh::Target, Failure> {
    let (user, rest) = match text.rsplit_once('@') {
        Some((user, rest)) => (Some(user.to_owned()), rest),
        None => (None, text),
    };
    // More than one colon: an address of IPv6, whose port stands in a map.
    let (name, port) = match rest.split_once(':') {
        Some((name, port)) if !port.contains(':') => (name, Some(port)),
        _ => (rest, None),
    };
    let port = match port {
        None => None,
        Some(port) => Some(
            port.parse().map_err(|_| Failure::new(format!("`{port}` in the host `{text}` is no port")))?,
        ),
    };
    Ok(ssh::Target { user, port, ..ssh::Target::new(name) })
}

fn host_of_map(entry: &Value) -> Result<Host, Failure> {
    let name = optional_text(entry, "name")?.ok_or_else(|| Failure::new("a host needs a `name`"))?;
    let root = optional_text(entry, "root")?;
    if root.is_some_and(|root| !root.starts_with('/')) {
        return Err(Failure::new(format!("`root` of the host `{name}` must be an absolute path")));
    }
    let ssh = entry.get("ssh").filter(|ssh| !ssh.is_null());
    if let (Some(root), None) = (root, ssh) {
        return Ok(Host::root(name, root));
    }
    let target = ssh_target(name, ssh.unwrap_or(&Value::Null))?;
    let mut host = Host::ssh(name, target.clone());
    if let Some(root) = root {
        host.reach = Reach::SshRoot(target, root.into());
    }
    Ok(host)
}

fn ssh_target(name: &str, ssh: &Value) -> Result<ssh::Target, Failure> {
    let text = |key: &str| optional_text(ssh, key);
    let mut target = address(text("host")?.unwrap_or(name))?;
    if let Some(port) = ssh.get("port").filter(|port| !port.is_null()) {
        let port = port.as_u64().and_then(|port| u16::try_from(port).ok());
        target.port =
            Some(port.ok_or_else(|| Failure::new(format!("`port` of the host `{name}` is no port")))?);
    }
    if let Some(user) = text("user")? {
        target.user = Some(user.to_owned());
    }
    trust(&mut target, name, ssh)?;
    Ok(target)
}

/// Whom the host is believed to be, and who we are to it.
pub(super) fn trust(target: &mut ssh::Target, name: &str, ssh: &Value) -> Result<(), Failure> {
    let text = |key: &str| optional_text(ssh, key);
    target.key = text("key")?.map(Into::into);
    target.known_hosts = text("known_hosts")?.map(Into::into);
    target.host_keys = match text("host_keys")? {
        None | Some("strict") => ssh::HostKeys::Strict,
        Some("accept_new") => ssh::HostKeys::AcceptNew,
        Some(other) => {
            return Err(Failure::new(format!(
                "`host_keys` of `{name}` is `{other}`; it is strict or accept_new"
            )));
        }
    };
    Ok(())
}

fn share(value: Option<&Value>, key: &str) -> Result<Option<Batch>, Failure> {
    let wrong = || Failure::new(format!("`{key}` must be a number of hosts, or a share of them as 25%"));
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => match text.strip_suffix('%') {
            Some(share) => {
                share.trim().parse().ok().filter(|share| (1..=100).contains(share)).map(Batch::Percent)
            }
            None => text.trim().parse().ok().filter(|count| *count > 0).map(Batch::Hosts),
        }
        .ok_or_else(wrong)
        .map(Some),
        Some(count) => {
            let count =
                count.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
            count.map(Batch::Hosts).ok_or_else(wrong).map(Some)
        }
    }
}

fn check(value: Option<&Value>) -> Result<Option<Asked>, Failure> {
    let value = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    let usual = |kind: Kind| Asked { kind, tries: TRIES, interval: INTERVAL, timeout: CHECK_TIMEOUT };
    if let Value::String(script) = value {
        return Ok(Some(usual(Kind::Script(script.clone()))));
    }
    let text = |name: &str| Ok::<_, Failure>(optional_text(value, name)?.map(str::to_owned));
    let mut check = if let Some(script) = text("script")? {
        usual(Kind::Script(script))
    } else if let Some(url) = text("http")? {
        let port = port(value, "port")?;
        let (host, contains) = (text("host")?, text("contains")?);
        usual(Kind::Http(Http { url, port, host, expect: statuses(value)?, contains }))
    } else if let Some(port) = port(value, "tcp")? {
        usual(Kind::Tcp(port))
    } else if let Some(service) = text("consul")? {
        let tags = texts(value.get("tag"), "tag")?;
        let kind = Kind::Consul { service, tags, address: text("address")?, datacenter: text("datacenter")? };
        Asked { tries: TRIES_OF_CONSUL, ..usual(kind) }
    } else {
        return Err(Failure::new("`check` needs a `script`, or `http`, `tcp` or `consul`"));
    };
    if let Some(tries) = value.get("tries").filter(|tries| !tries.is_null()) {
        let tries = tries.as_u64().and_then(|tries| u32::try_from(tries).ok()).filter(|tries| *tries > 0);
        check.tries = tries.ok_or_else(|| Failure::new("`tries` of `check` must be a number"))?;
    }
    check.interval = span(value, "interval")?.unwrap_or(check.interval);
    check.timeout = span(value, "timeout")?.unwrap_or(check.timeout);
    Ok(Some(check))
}

/// A span of time in a map, where it is said.
pub(super) fn span(value: &Value, name: &str) -> Result<Option<Span>, Failure> {
    optional_text(value, name)?.map(|text| text.parse().map_err(Failure::new)).transpose()
}

fn port(value: &Value, name: &str) -> Result<Option<u16>, Failure> {
    let Some(port) = value.get(name).filter(|port| !port.is_null()) else { return Ok(None) };
    let port = port.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    port.map(Some).ok_or_else(|| Failure::new(format!("`{name}` of `check` is no port")))
}

fn statuses(value: &Value) -> Result<Vec<u16>, Failure> {
    let list = match value.get("expect") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list.clone(),
        Some(one) => vec![one.clone()],
    };
    let code = |code: &Value| code.as_u64().and_then(|code| u16::try_from(code).ok());
    let codes: Option<Vec<u16>> = list.iter().map(code).collect();
    codes.ok_or_else(|| Failure::new("`expect` of `check` must be statuses of HTTP"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(environment: Value) -> Result<Target, String> {
        let apps = json!({"web_shop": {"environments": {"canary": environment}}});
        Target::read(&apps, "web_shop", "canary").map_err(|failure| failure.error.message)
    }

    #[test]
    fn hosts_are_names_addresses_or_roots() {
        let target = read(
            json!({"hosts": ["web1", "deploy@web2:2222", {"name": "web3", "ssh": {"host": "::1", "port": 22,
            "user": "x", "key": "/k", "host_keys": "accept_new"}}, {"name": "local", "root": "/srv/root"},
            {"name": "both", "ssh": {"host": "127.0.0.1:2201"}, "root": "/srv/root"}],
            "batch": "25%", "check": "true", "source_list": "shop.list"}),
        )
        .unwrap();
        assert_eq!((target.package.as_str(), target.batch), ("web-shop", Batch::Percent(25)));
        let Inventory::Named(hosts) = target.inventory else { panic!() };
        let shown: Vec<String> = hosts
            .iter()
            .map(|host| match &host.reach {
                Reach::Ssh(target) => format!("{} {target}", host.name),
                Reach::Root(root) => format!("{} {}", host.name, root.display()),
                Reach::SshRoot(target, root) => format!("{} {target} {}", host.name, root.display()),
            })
            .collect();
        assert_eq!(
            shown,
            [
                "web1 web1",
                "deploy@web2:2222 deploy@web2:2222",
                "web3 x@::1:22",
                "local /srv/root",
                "both 127.0.0.1:2201 /srv/root"
            ]
        );
        assert!(hosts.iter().all(|host| host.source_list.as_deref() == Some("shop.list")));
        assert_eq!(target.check.unwrap().tries, TRIES);
    }

    #[test]
    fn one_host_at_a_time_and_no_check_when_nothing_is_said() {
        let target = read(json!({"hosts": ["web1"]})).unwrap();
        assert_eq!((target.batch, target.check, target.max_unavailable), (Batch::Hosts(1), None, None));
    }

    #[test]
    fn a_check_is_a_script_or_what_is_asked_of_the_host_or_of_consul() {
        let asked = |check: Value| read(json!({"hosts": ["web1"], "check": check})).unwrap().check.unwrap();
        let http =
            asked(json!({"http": "/health", "port": 8080, "host": "shop", "expect": [200, 204], "tries": 9}));
        let Kind::Http(of) = &http.kind else { panic!() };
        assert_eq!((of.port, of.expect.as_slice(), http.tries), (Some(8080), [200, 204].as_slice(), 9));
        assert_eq!(asked(json!({"tcp": 80})).kind, Kind::Tcp(80));
        let consul = asked(json!({"consul": "shop", "tag": ["app"]}));
        assert_eq!(consul.tries, TRIES_OF_CONSUL);
        assert!(matches!(consul.kind, Kind::Consul { service, .. } if service == "shop"));
    }

    #[test]
    fn a_host_has_an_address_of_its_own_where_that_is_said() {
        let hosts = json!([{"name": "a", "root": "/srv/a", "address": "127.0.0.2"}, "deploy@web1:2222"]);
        let Inventory::Named(hosts) = read(json!({"hosts": hosts})).unwrap().inventory else { panic!() };
        assert_eq!((hosts[0].address.as_str(), hosts[1].address.as_str()), ("127.0.0.2", "web1"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_file() {
        for (environment, part) in [
            (json!({}), "`hosts` must be a list"),
            (json!({"hosts": []}), "`hosts` is empty"),
            (json!({"hosts": [{"root": "/x"}]}), "needs a `name`"),
            (json!({"hosts": [{"name": "a", "root": "x"}]}), "absolute path"),
            (json!({"hosts": ["a:b"]}), "no port"),
            (json!({"hosts": ["a"], "batch": "0%"}), "`batch`"),
            (json!({"hosts": ["a"], "check": {}}), "`script`"),
            (json!({"hosts": ["a"], "check": {"script": "true", "timeout": "soon"}}), "duration"),
            (json!({"hosts": ["a"], "check": {"tcp": 0}}), "no port"),
            (json!({"hosts": ["a"], "check": {"http": "/", "expect": "ok"}}), "statuses"),
            (json!({"hosts": ["a"], "max_unavailable": "none"}), "`max_unavailable`"),
            (json!({"hosts": ["a"], "balancer": {"haproxy": ["here"]}}), "no socket"),
        ] {
            let mistake = read(environment).unwrap_err();
            assert!(mistake.contains(part) && mistake.contains("apps/web_shop.yaml"), "{mistake}");
        }
        let apps = json!({"shop": {"environments": {"canary": {}, "production": {}}}});
        let mistake = Target::read(&apps, "shop", "staging").unwrap_err().error.message;
        assert!(mistake.contains("it has canary, production"), "{mistake}");
    }
}
