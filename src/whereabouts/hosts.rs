//! What one host holds of an app on an environment, by the records of the deployments that touched it and by what it reports itself.

use serde::{Deserialize, Serialize};

use super::{Record, Touch, stands};
use crate::model::release::DeploymentStatus;
use crate::model::{RunId, Timestamp, Value};

/// How a host stands to what it should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It holds what stands on the environment.
    Current,
    /// It is being changed.
    Rolling,
    /// The last change of it failed: it may hold either version, or half of one.
    Failed,
    /// The newest deployment did not come to it.
    Untouched,
    /// It holds something else than what stands, since it was passed over.
    Behind,
    /// It holds the version of a deployment that failed elsewhere and was not taken back.
    Ahead,
    /// A deployment began to change it and nobody knows how that ended.
    Unknown,
    /// It holds a version, and the environment no longer names it.
    Left,
}

impl State {
    pub const ALL: [State; 8] = [
        State::Current,
        State::Rolling,
        State::Failed,
        State::Untouched,
        State::Behind,
        State::Ahead,
        State::Unknown,
        State::Left,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            State::Current => "current",
            State::Rolling => "rolling",
            State::Failed => "failed",
            State::Untouched => "untouched",
            State::Behind => "behind",
            State::Ahead => "ahead",
            State::Unknown => "unknown",
            State::Left => "left",
        }
    }
}

/// What a host holds of an app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    pub host: String,
    pub app: String,
    pub environment: String,
    pub package: Option<String>,
    /// None: nothing, or nobody knows; `state` and `why` say which.
    pub held: Option<String>,
    pub wanted: Option<String>,
    pub state: State,
    pub why: Option<String>,
    /// Since when it holds that.
    pub since: Option<Timestamp>,
    /// The deployment that brought what it holds, or the one that failed on it.
    pub deployment: Option<i64>,
    pub run: Option<RunId>,
    pub step: Option<String>,
    /// What the agent on the host says.
    pub agent: Option<Value>,
}

/// What `host` holds, by `past` (of one app on one environment, newest first; it may lack deployments between the newest ones and those that touched
/// the host). `is_named` says whether the environment's definition names it, where it names any. `None` when the host has nothing to do with it.
pub fn standing(
    host: &str,
    (app, environment): (&str, &str),
    past: &[Record],
    is_named: Option<bool>,
    agent: Option<&Value>,
) -> Option<Standing> {
    let mut found = Standing {
        host: host.to_owned(),
        app: app.to_owned(),
        environment: environment.to_owned(),
        package: None,
        held: None,
        wanted: wanted(past),
        state: State::Untouched,
        why: None,
        since: None,
        deployment: None,
        run: None,
        step: None,
        agent: agent.cloned(),
    };
    let touched = past.iter().enumerate().find_map(|(place, record)| Some((place, record.touch(host)?)));
    match touched {
        Some((place, touch)) => found.take_touch(past, place, touch),
        None if is_named == Some(true) || agent.is_some() => found.never_touched(past),
        None => return None,
    }
    if let Some(agent) = agent {
        let last = touched.and_then(|(place, _)| past.get(place)).map(changed_at);
        found.take_agent(agent, last);
    }
    if is_named == Some(false) && agent.is_none() {
        found.state = State::Left;
        found.why = Some(format!("{environment} of {app} no longer names this host"));
    }
    Some(found)
}

/// What hosts are to hold: of a roll that is going on, its version; else what stands.
fn wanted(past: &[Record]) -> Option<String> {
    let newest = newest(past).filter(|record| record.deployment.status == DeploymentStatus::Rolling);
    newest.or_else(|| stands(past)).map(|record| record.deployment.version.clone())
}

/// The newest that was not taken back.
fn newest(past: &[Record]) -> Option<&Record> {
    past.iter().find(|record| record.deployment.status != DeploymentStatus::Restored)
}

/// When a deployment last changed its hosts.
fn changed_at(record: &Record) -> Timestamp {
    let deployment = &record.deployment;
    deployment.restored_at.or(deployment.finished_at).unwrap_or(deployment.started_at)
}

impl Standing {
    fn take_touch(&mut self, past: &[Record], place: usize, touch: &Touch) {
        let Some(record) = past.get(place) else { return };
        let (from, to) = (touch.from.as_deref(), touch.to.as_deref());
        self.package = touch.package.clone();
        self.brought_by(record);
        let (id, version) = (record.deployment.id, &record.deployment.version);
        match (record.deployment.status, touch.ok) {
            (DeploymentStatus::Restored, _) => {
                self.held = touch.from.clone();
                self.since = record.deployment.restored_at.or(record.deployment.finished_at);
                let brought = from.and_then(|held| bringer(past, place + 1, &self.host, held));
                if let Some(brought) = brought {
                    self.brought_by(brought);
                }
                self.judge(past, record);
                let note = format!("deployment {id} ({version}) was taken back");
                self.why = Some(self.why.take().map_or(note.clone(), |why| format!("{why}; {note}")));
            }
            (_, Some(true)) => {
                self.held = touch.to.clone();
                let brought = to.and_then(|held| bringer(past, place, &self.host, held)).unwrap_or(record);
                self.brought_by(brought);
                self.since = brought.deployment.finished_at.or(Some(brought.deployment.started_at));
                self.judge(past, record);
            }
            (_, Some(false)) => {
                self.state = State::Failed;
                let error = touch.error.as_deref().unwrap_or("no reason was recorded");
                self.why = Some(format!("deployment {id} failed on it: {error}; {}", either(from, to)));
            }
            (DeploymentStatus::Rolling, None) => {
                self.state = State::Rolling;
                self.why =
                    Some(format!("deployment {id} is changing it from {} to {version}", or_nothing(from)));
            }
            (_, None) => {
                self.state = State::Unknown;
                self.why = Some(format!("deployment {id} ended while it was changed; {}", either(from, to)));
            }
        }
    }

    fn brought_by(&mut self, record: &Record) {
        self.deployment = Some(record.deployment.id);
        self.run = record.deployment.run;
        self.step = record.step.clone();
    }

    /// Holds what it has against what it should have; `last` touched it last.
    fn judge(&mut self, past: &[Record], last: &Record) {
        let newest = newest(past);
        let passed = newest
            .filter(|newest| newest.deployment.id > last.deployment.id)
            .map(|newest| &newest.deployment);
        if self.held == self.wanted {
            self.state = State::Current;
            if let Some(newest) = passed.filter(|newest| newest.status == DeploymentStatus::Failed) {
                self.state = State::Untouched;
                let (id, version) = (newest.id, &newest.version);
                self.why = Some(format!("deployment {id} ({version}) failed before it came to this host"));
            }
            return;
        }
        let held = or_nothing(self.held.as_deref());
        let (state, why) = match passed {
            Some(newest) if newest.status == DeploymentStatus::Rolling => (
                State::Untouched,
                format!("deployment {} ({}) has not come to it yet", newest.id, newest.version),
            ),
            Some(newest) if newest.status == DeploymentStatus::Failed => (
                State::Untouched,
                format!("deployment {} ({}) failed before it came to this host", newest.id, newest.version),
            ),
            Some(newest) => (
                State::Behind,
                format!("deployment {} put {} there without this host", newest.id, newest.version),
            ),
            None if last.deployment.status == DeploymentStatus::Failed => (
                State::Ahead,
                format!(
                    "deployment {} brought {held} and failed elsewhere; it was not taken back",
                    last.deployment.id
                ),
            ),
            None => (State::Behind, format!("it holds {held}")),
        };
        (self.state, self.why) = (state, Some(why));
    }

    fn never_touched(&mut self, past: &[Record]) {
        self.state = State::Untouched;
        self.why = Some(match newest(past).map(|newest| &newest.deployment) {
            None => format!("nothing was deployed to {} yet", self.environment),
            Some(newest) => match newest.status {
                DeploymentStatus::Done => {
                    self.state = State::Behind;
                    format!("deployment {} put {} there without this host", newest.id, newest.version)
                }
                DeploymentStatus::Rolling => {
                    format!("deployment {} ({}) has not come to it yet", newest.id, newest.version)
                }
                _ => format!(
                    "deployment {} ({}) failed before it came to this host",
                    newest.id, newest.version
                ),
            },
        });
    }

    /// What the host says itself counts when it said so after it was last touched.
    fn take_agent(&mut self, agent: &Value, last: Option<Timestamp>) {
        let text = |name: &str| agent.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let Some(reported) = text("reported_at").and_then(|at| at.parse::<Timestamp>().ok()) else { return };
        if self.package.is_none() {
            self.package = text("package").map(str::to_owned);
        }
        if last.is_some_and(|last| reported < last) {
            return;
        }
        let held = text("held").map(str::to_owned);
        let wanted = text("wanted").map(str::to_owned).or_else(|| self.wanted.clone());
        if held != self.held || !matches!(self.state, State::Current | State::Untouched) {
            self.since = text("since").and_then(|at| at.parse().ok()).or(Some(reported));
        }
        (self.held, self.wanted) = (held, wanted);
        let late = agent.get("late_by_seconds").and_then(Value::as_u64).filter(|late| *late > 0);
        let said = [text("why").map(str::to_owned), late.map(|late| format!("it came {late} s late"))];
        let said: Vec<String> = said.into_iter().flatten().collect();
        let said = (!said.is_empty()).then(|| said.join("; "));
        if self.held == self.wanted && self.held.is_some() {
            self.state = State::Current;
            self.why = said.map(|said| format!("its agent says: {said}"));
            return;
        }
        if !matches!(self.state, State::Failed | State::Rolling) {
            self.state = State::Behind;
        }
        let status = text("status").unwrap_or("no status");
        self.why = Some(format!(
            "its agent says {status}{}",
            said.map(|said| format!(": {said}")).unwrap_or_default()
        ));
    }
}

/// The first deployment of the unbroken row, from `place` on into the past, that had the host hold `version`.
fn bringer<'a>(past: &'a [Record], place: usize, host: &str, version: &str) -> Option<&'a Record> {
    let mut found = None;
    for record in past.iter().skip(place) {
        let Some(touch) = record.touch(host) else { continue };
        let restored = record.deployment.status == DeploymentStatus::Restored;
        if restored && touch.from.as_deref() == Some(version) {
            continue;
        }
        if restored || touch.ok != Some(true) || touch.to.as_deref() != Some(version) {
            break;
        }
        found = Some(record);
        if touch.from.as_deref() != Some(version) {
            break;
        }
    }
    found
}

fn either(from: Option<&str>, to: Option<&str>) -> String {
    let (from, to) = (or_nothing(from), or_nothing(to));
    if from == to { format!("it may hold {to}") } else { format!("it may hold {from} or {to}") }
}

fn or_nothing(version: Option<&str>) -> &str {
    version.unwrap_or("nothing")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::whereabouts::testing::record;
    use DeploymentStatus::{Done, Failed, Restored, Rolling};

    fn of(host: &str, past: &[Record]) -> Standing {
        standing(host, ("shop", "production"), past, None, None).unwrap()
    }

    fn one(id: i64, version: &str, status: DeploymentStatus) -> Record {
        record(id, "production", version, status)
    }

    #[test]
    fn a_host_holds_what_the_last_deployment_that_touched_it_brought() {
        let past = [
            one(3, "2.0", Done).on("h1", Some("2.0"), Some(true)),
            one(2, "2.0", Done).on("h1", Some("1.0"), Some(true)),
            one(1, "1.0", Done).on("h1", None, Some(true)),
        ];
        let h1 = of("h1", &past);
        assert_eq!((h1.held.as_deref(), h1.state, h1.why.as_deref()), (Some("2.0"), State::Current, None));
        // The third changed nothing: what it holds came with the second.
        assert_eq!(
            (h1.deployment, h1.run, h1.since),
            (Some(2), Some(RunId(102)), Some(Timestamp(7_260_000)))
        );
        assert_eq!((h1.step.as_deref(), h1.package.as_deref()), (Some("roll"), Some("shop")));
    }

    #[test]
    fn what_failed_half_way_is_told_apart_on_each_host() {
        let past = [
            one(2, "2.0", Failed).on("h1", Some("1.0"), Some(true)).on("h2", Some("1.0"), Some(false)).on(
                "h3",
                Some("1.0"),
                None,
            ),
            one(1, "1.0", Done).on("h1", None, Some(true)).on("h2", None, Some(true)).on(
                "h4",
                None,
                Some(true),
            ),
        ];
        let states: Vec<_> = ["h1", "h2", "h3", "h4"].map(|host| of(host, &past).state).into();
        assert_eq!(states, [State::Ahead, State::Failed, State::Unknown, State::Untouched]);
        let h2 = of("h2", &past);
        assert_eq!((h2.held, h2.wanted.as_deref()), (None, Some("1.0")));
        let why = h2.why.unwrap();
        assert!(why.contains("web does not answer") && why.contains("it may hold 1.0 or 2.0"), "{why}");
        assert_eq!(of("h4", &past).held.as_deref(), Some("1.0"));
    }

    #[test]
    fn what_was_taken_back_holds_what_it_held_before_with_the_deployment_that_brought_it() {
        let past = [
            one(2, "2.0", Restored).on("h1", Some("1.0"), Some(true)).on("h2", None, Some(true)),
            one(1, "1.0", Done).on("h1", None, Some(true)),
        ];
        let h1 = of("h1", &past);
        assert_eq!((h1.held.as_deref(), h1.state, h1.deployment), (Some("1.0"), State::Current, Some(1)));
        assert_eq!(
            (h1.since, h1.why.as_deref()),
            (Some(Timestamp(7_800_000)), Some("deployment 2 (2.0) was taken back"))
        );
        let h2 = of("h2", &past);
        assert_eq!((h2.held, h2.state), (None, State::Behind));
    }

    #[test]
    fn a_host_that_was_down_is_behind_until_its_agent_says_otherwise() {
        let past = [
            one(2, "2.0", Done).on("h1", Some("1.0"), Some(true)),
            one(1, "1.0", Done).on("h1", None, Some(true)).on("h2", None, Some(true)),
        ];
        let h2 = of("h2", &past);
        assert_eq!(
            (h2.held.as_deref(), h2.wanted.as_deref(), h2.state),
            (Some("1.0"), Some("2.0"), State::Behind)
        );
        assert_eq!(h2.why.unwrap(), "deployment 2 put 2.0 there without this host");
        let says = |held: &str, at: &str| {
            json!({"held": held, "wanted": "2.0", "package": "shop", "status": "installed", "why": null,
                   "reported_at": at, "late_by_seconds": 90})
        };
        let with = |agent: &Value| standing("h2", ("shop", "production"), &past, None, Some(agent)).unwrap();
        let late = with(&says("2.0", "1970-01-02T00:00:00Z"));
        assert_eq!((late.held.as_deref(), late.state), (Some("2.0"), State::Current));
        assert_eq!(late.why.unwrap(), "its agent says: it came 90 s late");
        // What it said before it was last touched is old.
        let old = with(&says("0.9", "1970-01-01T00:00:01Z"));
        assert_eq!((old.held.as_deref(), old.state), (Some("1.0"), State::Behind));
        let stuck = with(&says("1.0", "1970-01-02T00:00:00Z"));
        assert_eq!(stuck.state, State::Behind);
        assert!(stuck.why.unwrap().starts_with("its agent says installed"));
    }

    #[test]
    fn a_roll_that_goes_on_is_seen_on_each_host() {
        let past = [
            one(2, "2.0", Rolling).on("h1", Some("1.0"), Some(true)).on("h2", Some("1.0"), None),
            one(1, "1.0", Done).on("h1", None, Some(true)).on("h2", None, Some(true)).on(
                "h3",
                None,
                Some(true),
            ),
        ];
        let states: Vec<_> = ["h1", "h2", "h3"].map(|host| of(host, &past).state).into();
        assert_eq!(states, [State::Current, State::Rolling, State::Untouched]);
        assert_eq!(of("h3", &past).wanted.as_deref(), Some("2.0"));
    }

    #[test]
    fn hosts_that_are_named_and_hosts_that_are_no_longer() {
        let past = [one(1, "1.0", Done).on("h1", None, Some(true))];
        let named = |host: &str, is_named| standing(host, ("shop", "production"), &past, is_named, None);
        assert_eq!(named("h9", None), None);
        assert_eq!(named("h9", Some(true)).unwrap().state, State::Behind);
        assert_eq!(named("h1", Some(false)).unwrap().state, State::Left);
        let none = standing("h1", ("shop", "production"), &[], Some(true), None).unwrap();
        assert_eq!(none.why.as_deref(), Some("nothing was deployed to production yet"));
    }
}
