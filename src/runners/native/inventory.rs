//! The hosts of an app's environment, where its file does not name them:
//!
//! | `hosts` | meaning |
//! | --- | --- |
//! | `{consul: SERVICE, tag}` | the nodes of the service's instances that have the tag, or all of a list of tags, and pass their checks |
//! | `{consul: SERVICE, role, canary}` | the same; the tag is made of `consul_tag`, or for canaries `consul_canary_tag`, of the pack's configuration: `{app}::{role}` and `{app}::{role}_canary` when not said. The environment `canary` has canaries, unless `canary` says otherwise |
//! | `{file: PATH}` | a file: a JSON list, or a host a line |
//! | `{command}` | what a program prints: the same |
//!
//! All take `ssh` (what their hosts have in common), `roots` (a directory that has a private dpkg root for each, by its name) and `at_least`; none is always
//! too few. A roll that goes on after a crash, and a way back, also find the hosts that were touched already and do not pass their checks any more.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::super::{Failure, Job, optional_text};
use super::consul::{Settings, texts};
use super::target;
use crate::consul::{Instance, Wait};
use crate::delivery::hosts::{Host, Reach};
use crate::model::{Span, Value};
use crate::process::{self, Ended};
use crate::ssh;

/// Hosts in one environment.
const MOST_HOSTS: usize = 10_000;
/// The largest list.
const LARGEST: u64 = 4 * 1024 * 1024;
/// How long a program may take to tell.
const COMMAND_TIMEOUT: Span = Span::minutes(1);
const TAG: &str = "{app}::{role}";
const CANARY_TAG: &str = "{app}::{role}_canary";

/// Where hosts are found.
#[derive(Debug)]
pub(super) enum Inventory {
    /// The app's file names them.
    Named(Vec<Host>),
    Elsewhere(Box<Elsewhere>),
}

/// What the map in the app's file says.
#[derive(Debug)]
pub(super) struct Elsewhere {
    place: Place,
    common: Common,
    at_least: usize,
}

#[derive(Debug)]
enum Place {
    Consul {
        service: String,
        tags: Tags,
        address: Option<String>,
        datacenter: Option<String>,
    },
    File(PathBuf),
    /// A program with its arguments.
    Command(Vec<String>),
}

#[derive(Debug)]
enum Tags {
    Said(Vec<String>),
    /// By the convention.
    Of {
        app: String,
        role: String,
        is_canary: bool,
    },
}

/// What hosts that are found elsewhere have in common.
#[derive(Debug)]
struct Common {
    ssh: Value,
    roots: Option<PathBuf>,
    source_list: Option<String>,
}

/// A host that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) host: Host,
    /// Whether it may be deployed to: it passes its checks, where somebody checks.
    pub(super) is_well: bool,
}

impl Inventory {
    /// Reads the map in the app's file.
    pub(super) fn read(
        map: &Value,
        app: &str,
        environment: &str,
        source_list: Option<&str>,
    ) -> Result<Inventory, Failure> {
        let text = |name: &str| Ok::<_, Failure>(optional_text(map, name)?.map(str::to_owned));
        let place = if let Some(service) = text("consul")? {
            let is_canary = map.get("canary").and_then(Value::as_bool).unwrap_or(environment == "canary");
            let tags = match text("role")? {
                Some(role) => Tags::Of { app: app.to_owned(), role, is_canary },
                None => Tags::Said(texts(map.get("tag"), "tag")?),
            };
            Place::Consul { service, tags, address: text("address")?, datacenter: text("datacenter")? }
        } else if let Some(path) = text("file")? {
            Place::File(path.into())
        } else {
            let command = match map.get("command") {
                Some(Value::String(text)) => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone()],
                list => texts(list, "command")?,
            };
            if command.is_empty() {
                return Err(Failure::new("`hosts` says neither `consul`, `file` nor `command`"));
            }
            Place::Command(command)
        };
        let at_least = map.get("at_least").and_then(Value::as_u64).unwrap_or(1);
        let common = Common {
            ssh: map.get("ssh").cloned().unwrap_or(Value::Null),
            roots: text("roots")?.map(Into::into),
            source_list: source_list.map(str::to_owned),
        };
        let at_least = usize::try_from(at_least).unwrap_or(usize::MAX).max(1);
        Ok(Inventory::Elsewhere(Box::new(Elsewhere { place, common, at_least })))
    }

    /// All hosts that are found now, in the order of their names where nobody gives another one.
    pub(super) async fn look(&self, job: &Job) -> Result<Vec<Found>, Failure> {
        let (place, common) = match self {
            Inventory::Named(hosts) => {
                let found = hosts.iter().cloned().map(|host| Found { host, is_well: true });
                return Ok(found.collect());
            }
            Inventory::Elsewhere(elsewhere) => (&elsewhere.place, &elsewhere.common),
        };
        let found = match place {
            Place::Consul { service, tags, address, datacenter } => {
                let tags = tags.by(&job.work.config)?;
                let at = (address.clone(), datacenter.clone());
                of_consul(job, common, service, &tags, at).await?
            }
            Place::File(path) => common.parse(&read(path).await?, &path.display().to_string())?,
            Place::Command(command) => {
                common.parse(&said_by(job, command).await?, "what the command printed")?
            }
        };
        if found.len() > MOST_HOSTS {
            return Err(Failure::new(format!("there are {} hosts; {MOST_HOSTS} are the most", found.len())));
        }
        Ok(found)
    }

    /// Those that may be deployed to, and those that were touched already.
    pub(super) fn choose(&self, found: Vec<Found>, touched: &[&str]) -> Result<Vec<Host>, Failure> {
        let all = found.len();
        let is_meant = |found: &Found| found.is_well || touched.contains(&found.host.name.as_str());
        let hosts: Vec<Host> = found.into_iter().filter(is_meant).map(|found| found.host).collect();
        let least = match self {
            Inventory::Named(_) => 1,
            Inventory::Elsewhere(elsewhere) => elsewhere.at_least,
        };
        if hosts.len() < least {
            let others = match all - hosts.len() {
                0 => String::new(),
                ill => format!("; {ill} more do not pass their checks"),
            };
            let (count, place) = (hosts.len(), self.shown());
            return Err(Failure::new(format!(
                "{place} has {count} hosts to deploy to, at least {least} are wanted{others}"
            )));
        }
        Ok(hosts)
    }

    fn shown(&self) -> String {
        let Inventory::Elsewhere(elsewhere) = self else { return "the list of hosts".to_owned() };
        match &elsewhere.place {
            Place::Consul { service, .. } => format!("the service `{service}` of Consul"),
            Place::File(path) => path.display().to_string(),
            Place::Command(_) => "the command for hosts".to_owned(),
        }
    }
}

impl Tags {
    fn by(&self, config: &Value) -> Result<Vec<String>, Failure> {
        let (app, role, is_canary) = match self {
            Tags::Said(tags) => return Ok(tags.clone()),
            Tags::Of { app, role, is_canary } => (app, role, *is_canary),
        };
        let (key, usual) = if is_canary { ("consul_canary_tag", CANARY_TAG) } else { ("consul_tag", TAG) };
        let pattern = optional_text(config, key)?.unwrap_or(usual);
        Ok(vec![pattern.replace("{app}", app).replace("{role}", role)])
    }
}

async fn of_consul(
    job: &Job,
    common: &Common,
    service: &str,
    tags: &[String],
    (address, datacenter): (Option<String>, Option<String>),
) -> Result<Vec<Found>, Failure> {
    let client = Settings::of_deploy(job, address, datacenter)?.client().await?;
    let at_once = Wait::no();
    let answer = tokio::select! {
        answer = client.instances(service, tags, false, &at_once) => answer?,
        () = job.cancel.cancelled() => return Err(Failure::cancelled()),
    };
    let mut instances = answer.value;
    instances.sort_by(|one, other| (&one.node, &one.id).cmp(&(&other.node, &other.id)));
    let mut found: Vec<Found> = Vec::new();
    for instance in &instances {
        let is_well = instance.status == "passing";
        // Several instances on one node are one host, which is as well as the least of them.
        match found.last_mut().filter(|last| last.host.name == instance.node) {
            Some(last) => last.is_well &= is_well,
            None => found.push(Found { host: common.of_instance(instance)?, is_well }),
        }
    }
    Ok(found)
}

async fn read(path: &PathBuf) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("{} can't be read: {error}", path.display()));
    let size = tokio::fs::metadata(path).await.map_err(failed)?.len();
    if size > LARGEST {
        return Err(Failure::new(format!("{} has {size} bytes; {LARGEST} are the most", path.display())));
    }
    tokio::fs::read_to_string(path).await.map_err(failed)
}

async fn said_by(job: &Job, command: &[String]) -> Result<String, Failure> {
    let Some((program, args)) = command.split_first() else {
        return Err(Failure::new("`command` names no program"));
    };
    let keep = usize::try_from(LARGEST).unwrap_or(usize::MAX);
    let command = process::Command::new(program.as_str()).args(args.iter().cloned()).envs(job.environment());
    let command = command.keep(keep).lock(job.child_lock("hosts"));
    let finished = process::run(command, &mut |_, _| (), &job.cancel, Some(COMMAND_TIMEOUT)).await?;
    match finished.ended {
        Ended::Code(0) if finished.stdout.dropped_bytes > 0 => {
            Err(Failure::new(format!("the command for hosts printed more than {LARGEST} bytes")))
        }
        Ended::Code(0) => Ok(finished.stdout.text()),
        Ended::Cancelled => Err(Failure::cancelled()),
        ended => {
            Err(Failure::new(format!("the command for hosts failed ({ended}): {}", finished.last_words())))
        }
    }
}

impl Common {
    fn of_instance(&self, instance: &Instance) -> Result<Host, Failure> {
        let mut host = self.of_address(&instance.node, ssh::Target::new(&*instance.address))?;
        host.address.clone_from(&instance.address);
        Ok(host)
    }

    /// A host by its name and where it is, with what all have in common.
    fn of_address(&self, name: &str, mut address: ssh::Target) -> Result<Host, Failure> {
        let port = self.ssh.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
        address.port = address.port.or(port);
        let user = optional_text(&self.ssh, "user")?.map(str::to_owned);
        address.user = address.user.or(user);
        target::trust(&mut address, name, &self.ssh)?;
        self.finished(Host::ssh(name, address))
    }

    fn finished(&self, mut host: Host) -> Result<Host, Failure> {
        if let (Some(roots), Reach::Ssh(_)) = (&self.roots, &host.reach) {
            if host.name.contains('/') || matches!(host.name.as_str(), "" | "." | "..") {
                return Err(Failure::new(format!("`{}` is no name of a directory in `roots`", host.name)));
            }
            host = Host::root(host.name.clone(), roots.join(&host.name));
        }
        host.source_list.clone_from(&self.source_list);
        Ok(host)
    }

    /// A JSON list of what may stand in `hosts`, or a name or address a line; `#` begins a comment.
    fn parse(&self, text: &str, of: &str) -> Result<Vec<Found>, Failure> {
        let wrong = |why: String| Failure::new(format!("{of}: {why}"));
        let entries: Vec<Value> = match text.trim_start().starts_with('[') {
            true => serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?,
            false => {
                let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
                lines.filter(|line| !line.is_empty()).map(Value::from).collect()
            }
        };
        let mut names = BTreeSet::new();
        let mut found = Vec::new();
        for entry in &entries {
            let host = match entry {
                Value::String(text) => self.of_address(text, target::address(text)?),
                entry => target::host(entry, None).and_then(|host| self.finished(host)),
            };
            let host = host.and_then(|host| match optional_text(entry, "address") {
                Ok(Some(address)) if entry.is_object() => Ok(Host { address: address.to_owned(), ..host }),
                Ok(_) => Ok(host),
                Err(failure) => Err(failure),
            });
            let host = host.map_err(|failure| wrong(failure.error.message))?;
            if !names.insert(host.name.clone()) {
                return Err(wrong(format!("the host `{}` stands there twice", host.name)));
            }
            found.push(Found { host, is_well: true });
        }
        Ok(found)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn inventory(map: Value, environment: &str) -> Inventory {
        Inventory::read(&map, "shop", environment, Some("shop.list")).unwrap()
    }

    fn tags(map: Value, environment: &str, config: &Value) -> Vec<String> {
        let Inventory::Elsewhere(elsewhere) = inventory(map, environment) else { panic!() };
        let Place::Consul { tags, .. } = elsewhere.place else { panic!() };
        tags.by(config).unwrap()
    }

    #[test]
    fn a_role_becomes_a_tag_by_the_convention_or_by_another_one() {
        let (role, none) = (json!({"consul": "shop", "role": "fe"}), Value::Null);
        assert_eq!(tags(role.clone(), "production", &none), ["shop::fe"]);
        assert_eq!(tags(role.clone(), "canary", &none), ["shop::fe_canary"]);
        let said = json!({"consul": "shop", "role": "fe", "canary": true});
        assert_eq!(tags(said, "trial", &none), ["shop::fe_canary"]);
        let other = json!({"consul_tag": "{role}", "consul_canary_tag": "canary_{role}"});
        assert_eq!(tags(role.clone(), "production", &other), ["fe"]);
        assert_eq!(tags(role, "canary", &other), ["canary_fe"]);
        assert_eq!(tags(json!({"consul": "shop", "tag": ["a", "b"]}), "canary", &other), ["a", "b"]);
    }

    fn parsed(map: Value, text: &str) -> Result<Vec<Host>, String> {
        let inventory = inventory(map, "production");
        let Inventory::Elsewhere(elsewhere) = &inventory else { panic!() };
        let found = elsewhere.common.parse(text, "hosts.txt").map_err(|failure| failure.error.message)?;
        inventory.choose(found, &[]).map_err(|failure| failure.error.message)
    }

    #[test]
    fn a_list_is_lines_or_json_and_has_its_ssh_in_common() {
        let map = json!({"file": "/hosts", "ssh": {"user": "deploy", "port": 2222}});
        let shown = |text: &str| -> Vec<String> {
            let hosts = parsed(map.clone(), text).unwrap();
            hosts
                .iter()
                .map(|host| match &host.reach {
                    Reach::Ssh(target) => format!("{} {target}", host.name),
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        let expected = ["web1 deploy@web1:2222", "root@web2:22 root@web2:22"];
        assert_eq!(shown("# all\nweb1\n\nroot@web2:22 # by hand\n"), expected);
        assert_eq!(shown(r#" ["web1", "root@web2:22"]"#), expected);
        let rooted = json!({"command": "x", "roots": "/srv"});
        let hosts = parsed(rooted.clone(), "a\nb").unwrap();
        assert_eq!(hosts[1], Host { source_list: Some("shop.list".to_owned()), ..Host::root("b", "/srv/b") });
        assert!(parsed(rooted, "..").unwrap_err().contains("no name of a directory"));
        assert!(
            parsed(map.clone(), "a\na").unwrap_err().contains("hosts.txt: the host `a` stands there twice")
        );
        assert!(parsed(map.clone(), "[1]").is_err());
        assert!(parsed(map, "# none").unwrap_err().contains("/hosts has 0 hosts"));
    }

    #[test]
    fn hosts_that_are_ill_are_left_out_unless_they_were_touched_already() {
        let inventory = inventory(json!({"consul": "shop", "tag": "app", "at_least": 2}), "production");
        let found = || {
            ["a", "b", "c"]
                .map(|name| Found { host: Host::ssh(name, ssh::Target::new(name)), is_well: name == "a" })
                .into()
        };
        let names = |hosts: Vec<Host>| hosts.into_iter().map(|host| host.name).collect::<Vec<_>>();
        assert_eq!(names(inventory.choose(found(), &["c"]).unwrap()), ["a", "c"]);
        let why = inventory.choose(found(), &[]).unwrap_err().error.message;
        assert!(
            why.contains("1 hosts to deploy to, at least 2") && why.contains("2 more do not pass"),
            "{why}"
        );
    }
}
