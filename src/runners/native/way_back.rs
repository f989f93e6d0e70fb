//! Pack `deploy`: whether there is a way back, proven before anybody says yes.
//!
//! | action | parameters | does, and gives |
//! | --- | --- | --- |
//! | `deploy.way_back` | `app`, `environment`, `version`, `to` | looks what taking `version` back would come to, once it is there; or, without `version`, what `siskin rollback APP ENV [--to]` would do now; `{ready, problems, warnings, summary, hosts, ..}` |
//!
//! Nothing is changed anywhere: each host is asked what it holds, what apt offers there, and whether we may install; the repository of `config.apt`, where
//! this worker has it, whether the package is still in the environment's suite. What speaks against it is a problem in the output and never a failure of
//! the step: people decide.

use std::path::PathBuf;

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use serde_json::json;

use super::super::{Done, Failure, Job, optional_text, text_parameter};
use super::core::unexpected;
use super::target::Target;
use crate::delivery::apt::Repository;
use crate::delivery::hosts::{self, Host, HostError};
use crate::model::desk::{Reply, Request};
use crate::model::{Span, Value};

/// So many hosts are asked at once.
const AT_ONCE: usize = 16;
/// How long one may take to answer.
const PATIENCE: Span = Span::seconds(30);
/// So many problems stand in the summary.
const SHOWN: usize = 3;

/// Says what is installed, what apt offers, and whether we may install: a line each. `PACKAGE` has been checked to be a package's name.
const LOOK: &str = r#"
export LC_ALL=C
command -v dpkg-query >/dev/null || { echo "nothing dpkg-query is not installed: this is no Debian host"; exit 0; }
printf 'installed %s\n' "$(dpkg-query ${ROOT:+"--admindir=$ROOT/var/lib/dpkg"} -W -f '${db:Status-Abbrev}|${Version}\n' 'PACKAGE' 2>/dev/null | head -n 1)"
apt-cache madison 'PACKAGE' 2>/dev/null | while IFS='|' read -r name version rest; do echo "offers $version"; done
if [ -n "$ROOT" ] || [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; then echo may; fi
exit 0
"#;

/// The repository at hand: its folder, the suite, and which versions of the package stand there, or why it can't be read.
type InRepository = Option<Result<(PathBuf, String, Vec<String>), String>>;

/// What a host said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    installed: Option<String>,
    offers: Vec<String>,
    /// Whether we may become root there.
    may: bool,
    /// Why it can't be asked such things.
    nothing: Option<String>,
}

pub(super) async fn way_back(job: Job) -> Result<Done, Failure> {
    let app = text_parameter(&job.parameters, "app")?.to_owned();
    let environment = text_parameter(&job.parameters, "environment")?.to_owned();
    let version = optional_text(&job.parameters, "version")?.map(str::to_owned);
    let to = optional_text(&job.parameters, "to")?.map(str::to_owned);
    let target = Target::read(&job.apps, &app, &environment)?;
    let asked = Request::WayBack { app: app.clone(), environment: environment.clone(), version, to };
    let facts = match job.line.ask(asked).await {
        Reply::WayBack { facts } => facts,
        other => return Err(unexpected(other)),
    };
    let mut proof = Proof::new(&facts);
    if let Some(why) = facts["refused"].as_str() {
        proof.problems.push(why.to_owned());
        return Ok(Done::with(proof.output(&app, &environment, &target.package)));
    }
    let found = match target.inventory.look(&job).await {
        Ok(found) => found,
        Err(failure) => {
            proof.problems.push(format!("its hosts can't be found: {}", failure.error.message));
            return Ok(Done::with(proof.output(&app, &environment, &target.package)));
        }
    };
    if found.is_empty() {
        proof.problems.push(format!("{environment} of {app} has no hosts"));
    }
    let suite = job.apps[&app]["environments"][&environment]["suite"].as_str().map(str::to_owned);
    let in_repository = in_repository(&job, &facts, &target.package, suite).await;
    let (job, package) = (&job, &target.package);
    let mut asked: Vec<BoxFuture<'_, (&str, Result<Seen, String>)>> = Vec::new();
    for found in &found {
        asked
            .push(Box::pin(async move { (found.host.name.as_str(), look(&found.host, package, job).await) }));
    }
    let answers: Vec<_> = stream::iter(asked).buffered(AT_ONCE).collect().await;
    if job.cancel.is_cancelled() {
        return Err(Failure::cancelled());
    }
    for (name, answer) in answers {
        proof.take(name, answer, package, &in_repository);
    }
    proof.take_repository(package, in_repository);
    let output = proof.output(&app, &environment, package);
    job.note(output["summary"].as_str().unwrap_or_default());
    Ok(Done::with(output))
}

async fn look(host: &Host, package: &str, job: &Job) -> Result<Seen, String> {
    let script = LOOK.replace("PACKAGE", package);
    match hosts::run_check(host, &script, PATIENCE, &mut |_, _| {}, &job.cancel).await {
        Ok(finished) => Ok(seen(&finished.stdout.text())),
        Err(HostError::TimedOut { timeout, .. }) => Err(format!("it did not answer within {timeout}")),
        Err(error) => Err(error.to_string()),
    }
}

fn seen(text: &str) -> Seen {
    let mut seen = Seen::default();
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("installed", said)) => {
                let (status, version) = said.split_once('|').unwrap_or_default();
                let stands = matches!(status.as_bytes().get(1), Some(b'i' | b'W' | b't'));
                seen.installed =
                    Some(version.trim().to_owned()).filter(|version| stands && !version.is_empty());
            }
            Some(("offers", version)) => seen.offers.push(version.trim().to_owned()),
            Some(("nothing", why)) => seen.nothing = Some(why.to_owned()),
            _ => seen.may = seen.may || line == "may",
        }
    }
    seen
}

/// The repository at hand, and which versions of the package its suite has; `None` where this worker has none.
async fn in_repository(job: &Job, facts: &Value, package: &str, suite: Option<String>) -> InRepository {
    let suite = suite?;
    let root = facts["repository"].as_str().map_or_else(|| job.data.join("apt"), PathBuf::from);
    if !root.join("dists").is_dir() {
        return None;
    }
    let (package, name) = (package.to_owned(), suite.clone());
    let listed = super::blocking(move || {
        let listed = Repository::open(&root).and_then(|repository| repository.list(Some(&name)));
        let listed = listed.map_err(|error| Failure::new(error.to_string()))?;
        let versions = listed.into_iter().filter(|one| one.name == package).map(|one| one.version).collect();
        Ok((root, versions))
    });
    Some(match listed.await {
        Ok((root, versions)) => Ok((root, suite, versions)),
        Err(failure) => Err(failure.error.message),
    })
}

/// What was found out.
struct Proof<'a> {
    facts: &'a Value,
    problems: Vec<String>,
    warnings: Vec<String>,
    hosts: Vec<Value>,
    /// Which versions have to be there.
    needed: Vec<String>,
    answered: usize,
}

impl<'a> Proof<'a> {
    fn new(facts: &'a Value) -> Proof<'a> {
        let warnings = facts["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
        Proof {
            facts,
            problems: Vec::new(),
            warnings: warnings.map(str::to_owned).collect(),
            hosts: Vec::new(),
            needed: Vec::new(),
            answered: 0,
        }
    }

    /// What the records say that a host holds.
    fn recorded(&self, host: &str) -> Option<&str> {
        let hosts = self.facts["hosts"].as_array()?;
        hosts.iter().find(|one| one["name"] == host)?["from"].as_str()
    }

    fn take(&mut self, name: &str, answer: Result<Seen, String>, package: &str, repository: &InRepository) {
        let answer = answer.and_then(|seen| match seen.nothing {
            Some(why) => Err(why),
            None => Ok(seen),
        });
        let seen = match answer {
            Err(error) => {
                self.problems.push(format!("{name} can't be reached: {error}"));
                self.hosts.push(
                    json!({"name": name, "holds": null, "to": null, "reachable": false, "error": error}),
                );
                return;
            }
            Ok(seen) => seen,
        };
        self.answered += 1;
        let holds = seen.installed.as_deref();
        // After a roll each host gets what it held before; a rollback brings all to one version.
        let to = if self.facts["each"] == true {
            holds.map(str::to_owned)
        } else {
            self.facts["to"].as_str().map(str::to_owned)
        };
        let is_offered = to.as_ref().is_none_or(|to| seen.offers.contains(to));
        let is_there = match (repository, &to) {
            (Some(Ok((_, _, versions))), Some(to)) => versions.contains(to),
            _ => is_offered,
        };
        if !seen.may {
            self.problems.push(format!(
                "{name}: neither root nor sudo without a password, so nothing can be installed there"
            ));
        }
        if let Some(to) = &to {
            if !is_there && repository.is_none() {
                self.problems.push(format!("{name}: apt there does not offer {package} {to} any more"));
            }
            if !self.needed.contains(to) {
                self.needed.push(to.clone());
            }
        }
        if let Some(recorded) = self.recorded(name).filter(|recorded| Some(*recorded) != holds) {
            let holds = holds.unwrap_or("nothing");
            self.warnings.push(format!("{name} holds {holds}, and the records say {recorded}"));
        }
        self.hosts.push(json!({
            "name": name, "holds": holds, "to": to, "reachable": true, "offered": is_offered, "error": null,
        }));
    }

    fn take_repository(&mut self, package: &str, found: InRepository) {
        match found {
            None => (),
            // Before the first deployment there may be no suite yet; nothing is wanted of it then.
            Some(Err(_)) if self.needed.is_empty() => (),
            Some(Err(why)) => self.problems.push(format!("the APT repository can't be read: {why}")),
            Some(Ok((root, suite, versions))) => {
                for version in self.needed.iter().filter(|version| !versions.contains(version)) {
                    self.problems.push(format!(
                        "{package} {version} is no longer in suite {suite} of {}",
                        root.display()
                    ));
                }
            }
        }
    }

    fn output(self, app: &str, environment: &str, package: &str) -> Value {
        let ready = self.problems.is_empty();
        let removed =
            self.hosts.iter().filter(|host| host["reachable"] == true && host["to"].is_null()).count();
        let mut said = Vec::new();
        match ready {
            false => {
                let shown: Vec<&str> = self.problems.iter().take(SHOWN).map(String::as_str).collect();
                let more = self.problems.len().saturating_sub(SHOWN);
                let more = if more > 0 { format!("; and {more} more") } else { String::new() };
                said.push(format!("not ready: {}{more}", shown.join("; ")));
            }
            true if removed == self.hosts.len() => {
                said.push(format!("ready: {package} would be removed from {}", of_hosts(removed)));
            }
            true => said.push(format!(
                "ready: {} would hold {} again",
                of_hosts(self.hosts.len()),
                self.needed.join(", ")
            )),
        }
        said.push(match (&self.facts["rehearsed"], self.facts["tested"].as_array().map_or(0, Vec::len)) {
            (Value::Null, 0) => format!("nobody has gone back on {environment} yet"),
            (Value::Null, tests) => {
                format!("nobody has gone back on {environment} yet, {tests} of the tests do")
            }
            (last, _) => {
                let ago = Span::seconds(last["seconds_ago"].as_u64().unwrap_or_default());
                format!("gone last {} ago, by {}", shortly(ago), last["how"].as_str().unwrap_or_default())
            }
        });
        let (back, roll) = (&self.facts["back_seconds"], &self.facts["roll_seconds"]);
        if let Some(seconds) = back.as_f64() {
            said.push(format!("that took {seconds:.0} s"));
        } else if let Some(seconds) = roll.as_f64() {
            said.push(format!("the last roll took {seconds:.0} s"));
        }
        json!({
            "ready": ready,
            "summary": said.join("; "),
            "problems": self.problems,
            "warnings": self.warnings,
            "app": app,
            "environment": environment,
            "package": package,
            "from": self.facts["from"],
            "to": self.facts["to"],
            "hosts": self.hosts,
            "reachable": self.answered,
            "rehearsed": self.facts["rehearsed"],
            "tested": self.facts["tested"],
            "roll_seconds": roll,
            "back_seconds": back,
        })
    }
}

fn of_hosts(number: usize) -> String {
    if number == 1 { "1 host".to_owned() } else { format!("{number} hosts") }
}

/// The largest unit only.
fn shortly(span: Span) -> String {
    let seconds = span.0 / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_says_is_read() {
        let said = seen("installed ii |1.0\noffers 1.0\noffers 2:2.0-1\nmay\n");
        assert_eq!(said.installed.as_deref(), Some("1.0"));
        assert_eq!((said.offers, said.may), (vec!["1.0".to_owned(), "2:2.0-1".to_owned()], true));
        // Removed with its configuration left, or half unpacked, is not there.
        assert_eq!(seen("installed rc |1.0\n").installed, None);
        assert_eq!(seen("installed iHR|1.0\n").installed, None);
        assert_eq!(seen("installed \n"), Seen::default());
    }

    #[test]
    fn each_host_goes_back_to_what_it_holds_and_what_is_missing_is_said() {
        let facts = json!({"from": "2.0", "to": "1.0", "each": true, "hosts": [], "warnings": [], "rehearsed": null, "tested": ["t: c"], "roll_seconds": 12.4});
        let mut proof = Proof::new(&facts);
        let host = |installed: Option<&str>| Seen {
            installed: installed.map(str::to_owned),
            offers: vec!["1.0".to_owned(), "2.0".to_owned()],
            may: true,
            nothing: None,
        };
        let repository = Some(Ok((PathBuf::from("/apt"), "stable".to_owned(), vec!["1.0".to_owned()])));
        proof.take("h1", Ok(host(Some("1.0"))), "shop", &repository);
        proof.take("h2", Ok(host(Some("0.9"))), "shop", &repository);
        proof.take("h3", Ok(host(None)), "shop", &repository);
        proof.take("h4", Err("connection refused".to_owned()), "shop", &repository);
        proof.take_repository("shop", repository);
        let output = proof.output("shop", "production", "shop");
        assert_eq!((&output["ready"], &output["reachable"]), (&json!(false), &json!(3)));
        assert_eq!(
            output["problems"],
            json!([
                "h4 can't be reached: connection refused",
                "shop 0.9 is no longer in suite stable of /apt"
            ])
        );
        assert_eq!(
            (&output["hosts"][2]["to"], &output["hosts"][1]["offered"]),
            (&Value::Null, &json!(false))
        );
        let summary = output["summary"].as_str().unwrap_or_default();
        assert!(summary.contains("1 of the tests do; the last roll took 12 s"), "{summary}");
        // Before the first deployment nothing is wanted of a repository that has no such suite yet.
        let mut first = Proof::new(&facts);
        let none = Some(Err("there is no suite `stable`".to_owned()));
        first.take("h1", Ok(host(None)), "shop", &none);
        first.take_repository("shop", none);
        assert_eq!(first.output("shop", "production", "shop")["ready"], true);
    }
}
