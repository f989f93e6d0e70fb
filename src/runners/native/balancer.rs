//! The HAProxys that give the hosts of an environment their traffic:
//!
//! | key of `balancer` | meaning |
//! | --- | --- |
//! | `haproxy` | their runtime sockets: paths, or `HOST:PORT`, reached from where the step is done |
//! | `backend` | the backends that have the hosts as servers; `{app}` when not said |
//! | `server` | what a host is called there; `{host}` when not said |
//! | `drain` | how long its sessions may take to end; 30s when not said. Then it is gone on all the same |
//! | `ready` | how long HAProxy may take to hold a host for up again; 1m when not said |
//!
//! Promises: no HAProxy may be away when a host is taken out for a roll. Who was drained here is noted first (`deploy/out/APP/HOST` in the KV store), so
//! that whoever comes after a killed or failed attempt gives the host its traffic back. A roll touches in that note only the servers of its own
//! environment: those of another one that has the host too are left for that one's next roll. A server that somebody else had drained, or put in
//! maintenance, stays so, at whatever time they did it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::super::{Failure, Job, Line, optional_text};
use super::consul::texts;
use super::core::unexpected;
use super::target;
use crate::delivery::haproxy::{Haproxy, HaproxyError, Server, Wanted};
use crate::delivery::hosts::Host;
use crate::delivery::rollout::{TakeOut, Traffic};
use crate::model::desk::{Reply, Request};
use crate::model::log::Stream;
use crate::model::{Span, Value};

/// How long sessions may take to end when nobody says it.
const DRAIN: Span = Span::seconds(30);
/// How long HAProxy may take to hold a server for up.
const READY: Span = Span::minutes(1);
/// Between two looks at a server.
const LOOK_AGAIN: Span = Span(150);
/// How long it is known who was drained.
const NOTED: Span = Span::days(90);
/// How often a note is tried while others write it too.
const NOTE_TRIES: u32 = 10;

/// What the app's file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Balancer {
    haproxies: Vec<Haproxy>,
    backends: Vec<String>,
    /// With `{host}` for the host's name.
    server: String,
    drain: Span,
    ready: Span,
}

/// A server of a backend of an HAProxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) haproxy: Haproxy,
    pub(super) backend: String,
    pub(super) server: String,
}

impl Place {
    /// As it stands in a note: `SOCKET BACKEND/SERVER`.
    pub(super) fn shown(&self) -> String {
        format!("{} {}/{}", self.haproxy.shown(), self.backend, self.server)
    }

    async fn look(&self) -> Result<Server, HaproxyError> {
        self.haproxy.server(&self.backend, &self.server).await
    }
}

impl Balancer {
    /// Reads `balancer` of an environment.
    pub(super) fn read(
        value: Option<&Value>,
        app: &str,
        environment: &str,
    ) -> Result<Option<Balancer>, Failure> {
        let Some(map) = value.filter(|value| !value.is_null()) else { return Ok(None) };
        let sockets = texts(map.get("haproxy"), "haproxy")?;
        if sockets.is_empty() {
            return Err(Failure::new("`balancer` needs `haproxy`: the runtime sockets of HAProxys"));
        }
        let named = |text: &str| text.replace("{app}", app).replace("{environment}", environment);
        let mut backends = texts(map.get("backend"), "backend")?;
        if backends.is_empty() {
            backends.push("{app}".to_owned());
        }
        let haproxies = sockets.iter().map(|text| Haproxy::at(text)).collect::<Result<_, _>>();
        Ok(Some(Balancer {
            haproxies: haproxies.map_err(|error| Failure::new(error.to_string()))?,
            backends: backends.iter().map(|text| named(text)).collect(),
            server: named(optional_text(map, "server")?.unwrap_or("{host}")),
            drain: target::span(map, "drain")?.unwrap_or(DRAIN),
            ready: target::span(map, "ready")?.unwrap_or(READY),
        }))
    }

    /// Each backend of each HAProxy.
    pub(super) fn backends(&self) -> impl Iterator<Item = (&Haproxy, &str)> {
        self.haproxies
            .iter()
            .flat_map(|haproxy| self.backends.iter().map(move |backend| (haproxy, backend.as_str())))
    }

    /// What a host is called in HAProxy.
    pub(super) fn server_of(&self, host: &str) -> String {
        self.server.replace("{host}", host)
    }

    fn places(&self, host: &str) -> Vec<Place> {
        let place = |(haproxy, backend): (&Haproxy, &str)| Place {
            haproxy: haproxy.clone(),
            backend: backend.to_owned(),
            server: self.server_of(host),
        };
        self.backends().map(place).collect()
    }

    /// What a roll or a way back of this job uses.
    pub(super) fn traffic(&self, job: &Job, app: &str) -> Arc<dyn Traffic> {
        Arc::new(Balanced {
            balancer: self.clone(),
            app: app.to_owned(),
            line: job.line.clone(),
            cancel: job.cancel.clone(),
            ours: Mutex::default(),
        })
    }
}

/// The traffic of an environment, during one attempt.
struct Balanced {
    balancer: Balancer,
    app: String,
    line: Arc<dyn Line>,
    cancel: CancellationToken,
    /// By host: where it was drained by a roll or a way back.
    ours: Mutex<BTreeMap<String, Vec<Place>>>,
}

impl Traffic for Balanced {
    fn look<'a>(&'a self, hosts: &'a [Host]) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let all = self.all().await?;
            for place in hosts.iter().flat_map(|host| self.balancer.places(&host.name)) {
                find(&all, &place).map_err(|error| error.to_string())?;
            }
            Ok(())
        })
    }

    fn away<'a>(&'a self, hosts: &'a [Host]) -> BoxFuture<'a, Result<BTreeMap<String, String>, String>> {
        Box::pin(async move {
            let all = self.all().await?;
            let mut away = BTreeMap::new();
            for host in hosts {
                for place in self.balancer.places(&host.name) {
                    let server = find(&all, &place).map_err(|error| error.to_string())?;
                    if !server.is_up() {
                        away.insert(host.name.clone(), format!("{} is {}", place.shown(), server.shown()));
                    }
                }
            }
            Ok(away)
        })
    }

    fn take_out<'a>(&'a self, host: &'a Host, how: TakeOut) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let noted = self.noted(&host.name).await?;
            let drained = self.drain(&host.name, how, &noted).await;
            // Nobody has changed anything on it, so it can go on as it was.
            if drained.is_err()
                && noted.is_empty()
                && let Err(error) = self.give_back(&host.name, false).await
            {
                self.note(&host.name, &error);
            }
            drained
        })
    }

    fn bring_back<'a>(&'a self, host: &'a Host, wait: bool) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.give_back(&host.name, wait))
    }

    fn stays_out(&self, host: &Host) -> Option<String> {
        let ours = self.ours();
        let places: Vec<String> = ours.get(&host.name)?.iter().map(Place::shown).collect();
        (!places.is_empty()).then(|| format!("drained: {}", places.join(", ")))
    }
}

/// The servers of each backend of each HAProxy.
type All = Vec<(Haproxy, String, Vec<Server>)>;

impl Balanced {
    async fn all(&self) -> Result<All, String> {
        let mut all = Vec::new();
        for (haproxy, backend) in self.balancer.backends() {
            let servers = haproxy.servers(backend).await.map_err(|error| error.to_string())?;
            all.push((haproxy.clone(), backend.to_owned(), servers));
        }
        Ok(all)
    }

    fn ours(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<Place>>> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, host: &str, text: &str) {
        self.line.output(Stream::Note, format!("{host}: {text}\n").as_bytes());
    }

    async fn drain(&self, host: &str, how: TakeOut, noted: &[String]) -> Result<(), String> {
        if how == TakeOut::IfBegun && noted.is_empty() {
            return Ok(());
        }
        let (mut ours, mut to_drain) = (Vec::new(), Vec::new());
        for place in self.balancer.places(host) {
            let is_noted = noted.contains(&place.shown());
            let server = match place.look().await {
                Ok(server) => server,
                Err(error) if how == TakeOut::IfPossible => {
                    self.note(
                        host,
                        &format!("{error}; going on, since taking the version back matters more"),
                    );
                    if is_noted {
                        ours.push(place);
                    }
                    continue;
                }
                Err(error) => return Err(error.to_string()),
            };
            match server.wanted {
                // It has its traffic back already; only the note is left.
                Wanted::Ready if how == TakeOut::IfBegun => (),
                Wanted::Ready => {
                    to_drain.push(place.clone());
                    ours.push(place);
                }
                // An attempt before this one did it.
                Wanted::Drain if is_noted => ours.push(place),
                Wanted::Drain | Wanted::Maint => {
                    self.note(
                        host,
                        &format!("{} is {} already, and is left so", place.shown(), server.shown()),
                    );
                }
            }
        }
        self.write_note(host, &ours).await?;
        self.ours().insert(host.to_owned(), ours.clone());
        for place in &to_drain {
            if let Err(error) = place.haproxy.set_wanted(&place.backend, &place.server, Wanted::Drain).await {
                match how {
                    TakeOut::IfPossible => self.note(host, &error.to_string()),
                    _ => return Err(error.to_string()),
                }
            }
        }
        self.wait_for_sessions(host, &ours).await
    }

    /// Waits until a host has no sessions any more, or has had its time.
    async fn wait_for_sessions(&self, host: &str, places: &[Place]) -> Result<(), String> {
        let began = Instant::now();
        let end = began + self.balancer.drain.duration();
        for place in places {
            loop {
                let Ok(server) = place.look().await else { break };
                if server.sessions == 0 {
                    break;
                }
                if Instant::now() >= end {
                    let (count, span) = (server.sessions, self.balancer.drain);
                    let text = format!("{} still has {count} sessions after {span}; going on", place.shown());
                    self.note(host, &text);
                    break;
                }
                self.pause().await?;
            }
        }
        if !places.is_empty() {
            let seconds = began.elapsed().as_secs_f64();
            self.note(host, &format!("drained {} ({seconds:.1} s)", shown(places)));
        }
        Ok(())
    }

    async fn give_back(&self, host: &str, wait: bool) -> Result<(), String> {
        let Some(ours) = self.ours().get(host).cloned() else { return Ok(()) };
        for place in &ours {
            let server = match place.look().await {
                Ok(server) => server,
                Err(error) => return Err(format!("it is well, but does not get its traffic back: {error}")),
            };
            match server.wanted {
                Wanted::Ready => (), // It forgot the drain when it was restarted, or was told so by hand.
                Wanted::Maint => {
                    self.note(
                        host,
                        &format!("{} was put in maintenance meanwhile, and is left so", place.shown()),
                    );
                }
                Wanted::Drain => {
                    let done = place.haproxy.set_wanted(&place.backend, &place.server, Wanted::Ready).await;
                    done.map_err(|error| error.to_string())?;
                }
            }
        }
        if wait && let Err(error) = self.wait_until_up(&ours).await {
            // Out again, everywhere: what HAProxy holds for ill must not get traffic by and by.
            for place in &ours {
                if let Err(error) =
                    place.haproxy.set_wanted(&place.backend, &place.server, Wanted::Drain).await
                {
                    self.note(host, &error.to_string());
                }
            }
            return Err(error);
        }
        if !ours.is_empty() {
            self.note(host, &format!("gets traffic again: {}", shown(&ours)));
        }
        self.write_note(host, &[]).await?;
        self.ours().remove(host);
        Ok(())
    }

    async fn wait_until_up(&self, places: &[Place]) -> Result<(), String> {
        let end = Instant::now() + self.balancer.ready.duration();
        for place in places {
            loop {
                let server = place.look().await.map_err(|error| error.to_string())?;
                if server.is_up() || server.wanted == Wanted::Maint {
                    break;
                }
                if Instant::now() >= end {
                    let (status, span) = (server.shown(), self.balancer.ready);
                    return Err(format!(
                        "HAProxy does not hold {} for up after {span}: {status}",
                        place.shown()
                    ));
                }
                self.pause().await?;
            }
        }
        Ok(())
    }

    async fn pause(&self) -> Result<(), String> {
        tokio::select! {
            () = sleep(LOOK_AGAIN.duration()) => Ok(()),
            () = self.cancel.cancelled() => Err("cancelled".to_owned()),
        }
    }

    fn key(&self, host: &str) -> String {
        format!("deploy/out/{}/{host}", self.app)
    }

    /// Where in this environment the host was drained by whoever worked on it last, and did not come to the end.
    async fn noted(&self, host: &str) -> Result<Vec<String>, String> {
        let (mut noted, _) = self.read_note(host).await?;
        let places = self.balancer.places(host);
        noted.retain(|server| is_one_of(&places, server));
        Ok(noted)
    }

    /// What is noted of the host in all environments, and the version of the note.
    async fn read_note(&self, host: &str) -> Result<(Vec<String>, i64), String> {
        match self.line.ask(Request::KvGet { key: self.key(host) }).await {
            Reply::Kv { value, version } => {
                let value = value.unwrap_or_default();
                let servers = value.get("servers").and_then(Value::as_array).cloned().unwrap_or_default();
                let servers = servers.iter().filter_map(|server| server.as_str().map(str::to_owned));
                Ok((servers.collect(), version))
            }
            other => Err(unexpected(other).error.message),
        }
    }

    /// Notes where the host is drained in this environment, in place of what was noted of this environment before.
    async fn write_note(&self, host: &str, ours: &[Place]) -> Result<(), String> {
        let places = self.balancer.places(host);
        let mut why = String::new();
        for _ in 0..NOTE_TRIES {
            let (before, version) = self.read_note(host).await?;
            if ours.is_empty() && !before.iter().any(|server| is_one_of(&places, server)) {
                return Ok(());
            }
            let others = before.into_iter().filter(|server| !is_one_of(&places, server));
            let servers: Vec<String> = others.chain(ours.iter().map(Place::shown)).collect();
            let (value, ttl) = match servers.is_empty() {
                true => (Value::Null, Span::minutes(1)),
                false => (json!({"servers": servers}), NOTED),
            };
            // A roll to another environment may write it at the same time.
            let if_version = Some(version);
            match self
                .line
                .ask(Request::KvSet { key: self.key(host), value, ttl: Some(ttl), if_version })
                .await
            {
                Reply::Kv { .. } => return Ok(()),
                other => why = unexpected(other).error.message,
            }
        }
        Err(format!("what is drained could not be noted, in {NOTE_TRIES} tries: {why}"))
    }
}

fn is_one_of(places: &[Place], server: &str) -> bool {
    places.iter().any(|place| place.shown() == server)
}

fn find<'a>(all: &'a All, place: &Place) -> Result<&'a Server, HaproxyError> {
    let servers = all
        .iter()
        .find(|(haproxy, backend, _)| *haproxy == place.haproxy && *backend == place.backend)
        .map(|(_, _, servers)| servers.as_slice())
        .unwrap_or_default();
    servers.iter().find(|server| server.name == place.server).ok_or_else(|| HaproxyError::NoServer {
        socket: place.haproxy.shown(),
        backend: place.backend.clone(),
        server: place.server.clone(),
        known: match servers {
            [] => "none".to_owned(),
            all => all.iter().map(|server| server.name.as_str()).collect::<Vec<_>>().join(", "),
        },
    })
}

fn shown(places: &[Place]) -> String {
    places.iter().map(Place::shown).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::artefact::Artefact;

    /// Keys with their versions; now and then somebody else is quicker.
    #[derive(Default)]
    struct Desk {
        keys: Mutex<BTreeMap<String, (Value, i64)>>,
        /// What others set right before the next sets.
        quicker: Mutex<Vec<Value>>,
    }

    impl Line for Desk {
        fn output(&self, _: Stream, _: &[u8]) {}

        fn progress(&self, _: Value) -> BoxFuture<'_, Result<(), Failure>> {
            Box::pin(async { Ok(()) })
        }

        fn ask(&self, request: Request) -> BoxFuture<'_, Reply> {
            let mut keys = self.keys.lock().unwrap();
            let reply = match request {
                Request::KvGet { key } => {
                    let found = keys.get(&key).cloned();
                    let version = found.as_ref().map_or(0, |found| found.1);
                    Reply::Kv { value: found.map(|found| found.0), version }
                }
                Request::KvSet { key, value, if_version, .. } => {
                    let entry = keys.entry(key).or_default();
                    if let Some(other) = self.quicker.lock().unwrap().pop() {
                        *entry = (other, entry.1 + 1);
                    }
                    if if_version.is_some_and(|wanted| wanted != entry.1) {
                        Reply::Refused { why: "it is at another version".to_owned() }
                    } else {
                        *entry = (value.clone(), entry.1 + 1);
                        Reply::Kv { value: Some(value), version: entry.1 }
                    }
                }
                _ => Reply::Done,
            };
            Box::pin(async move { reply })
        }

        fn keep<'a>(&'a self, _: &'a Path, _: &'a str) -> BoxFuture<'a, Result<Artefact, Failure>> {
            Box::pin(async { Err(Failure::new("nothing is kept here")) })
        }
    }

    /// The traffic of an environment that has a backend of its own, and one that all share.
    fn balanced(desk: &Arc<Desk>, environment: &str) -> Balanced {
        let map = json!({"haproxy": "/a", "backend": ["{app}_{environment}", "all"]});
        Balanced {
            balancer: Balancer::read(Some(&map), "shop", environment).unwrap().unwrap(),
            app: "shop".to_owned(),
            line: desk.clone(),
            cancel: CancellationToken::new(),
            ours: Mutex::default(),
        }
    }

    #[tokio::test]
    async fn a_roll_to_another_environment_leaves_the_note_of_who_is_drained() {
        let desk = Arc::new(Desk::default());
        let (canary, production) = (balanced(&desk, "canary"), balanced(&desk, "production"));
        let of_canary = canary.balancer.places("web1");
        canary.write_note("web1", &of_canary).await.unwrap();
        // What is shared is known to both; the next roll takes it over.
        assert_eq!(production.noted("web1").await.unwrap(), ["/a all/web1"]);
        production.write_note("web1", &production.balancer.places("web1")).await.unwrap();
        assert_eq!(canary.noted("web1").await.unwrap(), ["/a shop_canary/web1", "/a all/web1"]);
        production.write_note("web1", &[]).await.unwrap();
        assert_eq!(canary.noted("web1").await.unwrap(), ["/a shop_canary/web1"]);
        assert!(production.noted("web1").await.unwrap().is_empty());
        // Nothing of its own is noted, so nothing is written.
        let (_, version) = production.read_note("web1").await.unwrap();
        production.write_note("web1", &[]).await.unwrap();
        assert_eq!(production.read_note("web1").await.unwrap().1, version);
        canary.write_note("web1", &[]).await.unwrap();
        assert!(canary.read_note("web1").await.unwrap().0.is_empty());
    }

    #[tokio::test]
    async fn two_rolls_that_note_at_once_lose_nothing() {
        let desk = Arc::new(Desk::default());
        let canary = balanced(&desk, "canary");
        let other = json!({"servers": ["/a shop_production/web1"]});
        *desk.quicker.lock().unwrap() = vec![other.clone(), other];
        canary.write_note("web1", &canary.balancer.places("web1")[..1]).await.unwrap();
        let (all, _) = canary.read_note("web1").await.unwrap();
        assert_eq!(all, ["/a shop_production/web1", "/a shop_canary/web1"]);
        *desk.quicker.lock().unwrap() = vec![Value::Null; 100];
        let refused = canary.write_note("web1", &canary.balancer.places("web1")).await.unwrap_err();
        assert!(refused.contains("could not be noted"), "{refused}");
    }

    #[test]
    fn each_backend_of_each_haproxy_has_a_host_under_a_name() {
        let map = json!({"haproxy": ["/run/a.sock", "lb:9999"], "backend": ["{app}_{environment}", "all"], "server": "srv_{host}"});
        let balancer = Balancer::read(Some(&map), "shop", "canary").unwrap().unwrap();
        let shown: Vec<String> = balancer.places("web1").iter().map(Place::shown).collect();
        assert_eq!(
            shown,
            [
                "/run/a.sock shop_canary/srv_web1",
                "/run/a.sock all/srv_web1",
                "lb:9999 shop_canary/srv_web1",
                "lb:9999 all/srv_web1"
            ]
        );
        let usual = Balancer::read(Some(&json!({"haproxy": "/a"})), "shop", "x").unwrap().unwrap();
        assert_eq!(usual.places("h")[0].shown(), "/a shop/h");
        assert_eq!((usual.drain, usual.ready), (DRAIN, READY));
        assert!(Balancer::read(Some(&json!({})), "shop", "x").is_err());
    }
}
