//! Packages on hosts, with the real apt-get, dpkg and sshd. Hosts are dpkg roots in a temporary directory.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use siskin::delivery::health::{Check, Http, Question};
use siskin::delivery::hosts::{self, Host, HostError, Install, Reach};
use siskin::delivery::rollout::{self, Batch, HostResult, Observer, Plan, Previous, WayBack};
use siskin::model::Span;
use siskin::process::Stream;
use tokio_util::sync::CancellationToken;

use crate::git_and_ssh::{sshd, use_the_shim};

/// A repository of package `demo` in versions 1.0, 1.1 and 2.0, and some hosts that use it.
struct Place {
    folder: tempfile::TempDir,
}

fn must(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The script before installation of 2.0, which leaves the package half unpacked when it is killed.
const PREINST: &str = r#"#!/bin/sh
while [ -e "$DPKG_ROOT/hold-early" ]; do touch "$DPKG_ROOT/holding-early"; sleep 0.05; done
"#;

/// The script after installation of 2.0 waits while `hold` is there, so that a test can kill it then.
const POSTINST: &str = r#"#!/bin/sh
echo "post-install $*"
[ ! -e "$DPKG_ROOT/fail" ] || exit 7
while [ -e "$DPKG_ROOT/hold" ]; do touch "$DPKG_ROOT/holding"; sleep 0.05; done
"#;

fn place() -> Option<Place> {
    use_the_shim();
    if !Path::new("/usr/bin/apt-get").exists() || !Path::new("/usr/bin/dpkg-scanpackages").exists() {
        eprintln!("skipped: no apt-get and dpkg-scanpackages here (apt-get install dpkg-dev)");
        return None;
    }
    let place = Place { folder: tempfile::tempdir().unwrap() };
    std::fs::create_dir(place.path("repository")).unwrap();
    for version in ["1.0", "1.1", "2.0"] {
        let tree = place.path(&format!("tree-{version}"));
        for folder in ["DEBIAN", "usr/share/demo"] {
            std::fs::create_dir_all(tree.join(folder)).unwrap();
        }
        let control = format!(
            "Package: demo\nVersion: {version}\nArchitecture: all\nMaintainer: Bob <bob@example.org>\nDescription: a test\n"
        );
        std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
        std::fs::write(tree.join("usr/share/demo/version"), version).unwrap();
        if version == "2.0" {
            for (name, text) in [("preinst", PREINST), ("postinst", POSTINST)] {
                let script = tree.join("DEBIAN").join(name);
                std::fs::write(&script, text).unwrap();
                std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        let deb = place.path(&format!("repository/demo_{version}_all.deb"));
        must(Command::new("dpkg-deb").args(["--root-owner-group", "-b"]).arg(&tree).arg(&deb));
    }
    place.index();
    Some(place)
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    fn index(&self) {
        let mut scan = Command::new("dpkg-scanpackages");
        let packages = must(scan.args(["-m", "."]).current_dir(self.path("repository")));
        std::fs::write(self.path("repository/Packages"), packages).unwrap();
    }
    fn host(&self, name: &str) -> Host {
        let source = format!("deb [trusted=yes] file:{} ./", self.path("repository").display());
        hosts::prepare_root(&self.path(name), &source).unwrap();
        Host::root(name, self.path(name))
    }
    fn plan(&self, version: &str, hosts: Vec<Host>) -> Plan {
        Plan {
            key: format!("run 1 step roll {version}"),
            package: "demo".into(),
            version: version.into(),
            hosts,
            batch: Batch::Hosts(1),
            max_unavailable: None,
            ill: Vec::new(),
            traffic: None,
            allow_downgrade: false,
            health: None,
            timeout: Span::minutes(2),
            known: Vec::new(),
        }
    }
    async fn until_there(&self, name: &str) {
        let began = Instant::now();
        while !self.path(name).exists() {
            assert!(began.elapsed() < Duration::from_secs(60), "{name} never came");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn install(host: &Host, version: &str, allow_downgrade: bool) -> Result<String, HostError> {
    let install = Install { package: "demo", version, allow_downgrade, timeout: Span::minutes(2) };
    let finished = hosts::install(host, install, &mut |_, _| {}, &CancellationToken::new()).await?;
    Ok(finished.stdout.text())
}

async fn installed(host: &Host) -> Option<String> {
    hosts::installed_version(host, "demo", &CancellationToken::new()).await.unwrap()
}

/// Notes what it is told, and may refuse to store.
#[derive(Default)]
struct Notes {
    previous: Mutex<Vec<Vec<Previous>>>,
    done: Mutex<Vec<String>>,
    lines: Mutex<Vec<String>>,
    refuses: bool,
}

impl Observer for Notes {
    fn line(&self, host: &str, _: Stream, line: &[u8]) {
        self.lines.lock().unwrap().push(format!("{host}: {}", String::from_utf8_lossy(line)));
    }
    fn previous<'a>(&'a self, previous: &'a [Previous]) -> BoxFuture<'a, Result<(), String>> {
        self.previous.lock().unwrap().push(previous.to_vec());
        let answer = if self.refuses { Err("the disk is full".to_owned()) } else { Ok(()) };
        Box::pin(async move { answer })
    }
    fn done(&self, result: &HostResult) {
        self.done.lock().unwrap().push(result.host.clone());
    }
}

async fn roll(plan: &Plan) -> rollout::Rolled {
    rollout::roll(plan, &Notes::default(), &CancellationToken::new()).await
}

#[tokio::test]
async fn a_version_is_put_on_a_host_and_back() {
    let Some(place) = place() else { return };
    let host = place.host("h1");
    assert_eq!(installed(&host).await, None);
    install(&host, "1.1", false).await.unwrap();
    assert_eq!(installed(&host).await.as_deref(), Some("1.1"));
    assert_eq!(std::fs::read_to_string(place.path("h1/usr/share/demo/version")).unwrap(), "1.1");
    assert!(install(&host, "1.1", false).await.unwrap().contains("demo 1.1 is installed already"));

    let refused = install(&host, "1.0", false).await.unwrap_err().to_string();
    assert!(refused.contains("downgrade"), "{refused}");
    assert_eq!(installed(&host).await.as_deref(), Some("1.1"));
    install(&host, "1.0", true).await.unwrap();
    assert_eq!(installed(&host).await.as_deref(), Some("1.0"));

    let missing = install(&host, "9.9", false).await.unwrap_err().to_string();
    assert!(missing.contains("Version '9.9' for 'demo' was not found"), "{missing}");
    assert!(matches!(install(&host, "N/A", false).await, Err(HostError::BadVersion(_))));

    for _ in 0..2 {
        hosts::remove(&host, "demo", Span::minutes(1), &mut |_, _| {}, &CancellationToken::new())
            .await
            .unwrap();
        assert_eq!(installed(&host).await, None);
    }
}

#[tokio::test]
async fn a_roll_goes_in_batches_and_stops_at_the_first_that_fails() {
    let Some(place) = place() else { return };
    let names = ["h1", "h2", "h3", "h4", "h5"];
    let hosts: Vec<Host> = names.map(|name| place.host(name)).into();
    install(&hosts[0], "1.0", false).await.unwrap();
    std::fs::write(place.path("h3/fail"), "").unwrap();
    let plan = Plan { batch: Batch::Percent(40), ..place.plan("2.0", hosts.clone()) };
    let notes = Notes::default();
    let rolled = rollout::roll(&plan, &notes, &CancellationToken::new()).await;
    assert!(!rolled.ok);
    assert_eq!(
        rolled.hosts.iter().map(|host| (host.host.as_str(), host.ok)).collect::<Vec<_>>(),
        [("h1", true), ("h2", true), ("h3", false), ("h4", true)]
    );
    assert_eq!(rolled.untouched, ["h5"]);
    assert_eq!((rolled.hosts[0].from.as_deref(), rolled.hosts[1].from.as_deref()), (Some("1.0"), None));
    assert_eq!((rolled.hosts[0].code, rolled.hosts[2].code), (Some(0), Some(100)));
    assert!(rolled.hosts[2].output.contains("post-install configure"), "{}", rolled.hosts[2].output);
    assert!(rolled.error.unwrap().starts_with("h3: apt-get install failed (exit status 100)"));
    let told: Vec<usize> = notes.previous.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(told, [2, 4]);
    assert!(notes.lines.lock().unwrap().iter().any(|line| line == "h1: post-install configure 1.0"));

    std::fs::remove_file(place.path("h3/fail")).unwrap();
    let again = roll(&plan).await;
    assert!(again.ok && again.untouched.is_empty(), "{:?}", again.error);
    assert_eq!(again.previous[0].version.as_deref(), Some("1.0"), "the new version is not the previous one");
    assert!(again.previous[1..].iter().all(|previous| previous.version.is_none()));
}

#[tokio::test]
async fn nothing_is_touched_when_there_is_no_host_or_the_way_back_can_not_be_stored() {
    let Some(place) = place() else { return };
    let none = roll(&place.plan("1.0", Vec::new())).await;
    assert_eq!((none.ok, none.error.as_deref()), (false, Some("there is no host to roll to")));
    let host = place.host("h1");
    let twice = roll(&place.plan("1.0", vec![host.clone(), host.clone()])).await;
    assert_eq!(twice.error.as_deref(), Some("host h1 is named twice"));
    let notes = Notes { refuses: true, ..Notes::default() };
    let rolled =
        rollout::roll(&place.plan("1.0", vec![host.clone()]), &notes, &CancellationToken::new()).await;
    assert!(!rolled.ok && rolled.error.unwrap().contains("the disk is full"));
    assert_eq!(installed(&host).await, None);
}

#[tokio::test]
async fn a_roll_that_was_killed_in_the_middle_is_finished_by_the_next() {
    let Some(place) = place() else { return };
    let host = place.host("h1");
    install(&host, "1.0", false).await.unwrap();
    let plan = place.plan("2.0", vec![host.clone()]);
    for (hold, holding) in [("h1/hold-early", "h1/holding-early"), ("h1/hold", "h1/holding")] {
        std::fs::write(place.path(hold), "").unwrap();
        let killed = tokio::spawn({
            let plan = plan.clone();
            async move { roll(&plan).await.ok }
        });
        place.until_there(holding).await;
        // To the shim this is what the death of the server is: its socket closes, and all is killed.
        killed.abort();
        assert!(killed.await.unwrap_err().is_cancelled());
        std::fs::remove_file(place.path(hold)).unwrap();
    }

    let rolled = roll(&plan).await;
    assert!(rolled.ok, "{:?}", rolled.error);
    assert_eq!(
        rolled.previous,
        [Previous { host: "h1".into(), package: "demo".into(), version: Some("1.0".into()) }]
    );
    assert_eq!(installed(&host).await.as_deref(), Some("2.0"));

    // Another roll begins from what stands now.
    let next =
        roll(&Plan { key: "another".into(), allow_downgrade: true, ..place.plan("1.1", vec![host]) }).await;
    assert_eq!((next.ok, next.previous[0].version.as_deref()), (true, Some("2.0")));
}

#[tokio::test]
async fn what_was_reported_before_goes_before_what_stands() {
    let Some(place) = place() else { return };
    let host = place.host("h1");
    install(&host, "2.0", false).await.unwrap();
    let known = vec![Previous { host: "h1".into(), package: "demo".into(), version: Some("1.0".into()) }];
    let rolled = roll(&Plan { known: known.clone(), ..place.plan("2.0", vec![host]) }).await;
    assert_eq!((rolled.ok, rolled.previous), (true, known));
}

#[tokio::test]
async fn hosts_go_back_to_what_they_had_newest_first_and_over_failures() {
    let Some(place) = place() else { return };
    let hosts: Vec<Host> = ["h1", "h2"].map(|name| place.host(name)).into();
    install(&hosts[0], "1.0", false).await.unwrap();
    let rolled = roll(&Plan { batch: Batch::Percent(100), ..place.plan("2.0", hosts.clone()) }).await;
    assert!(rolled.ok, "{:?}", rolled.error);
    let mut previous = rolled.previous;
    previous.push(Previous { host: "gone".into(), package: "demo".into(), version: None });
    let notes = Notes::default();
    let way = WayBack {
        previous,
        hosts: hosts.clone(),
        batch: Batch::Hosts(1),
        timeout: Span::minutes(1),
        traffic: None,
        health: None,
    };
    let restored = rollout::restore(&way, &notes, &CancellationToken::new()).await;
    assert_eq!(*notes.done.lock().unwrap(), ["gone", "h2", "h1"]);
    assert_eq!(restored.hosts.iter().map(|host| host.ok).collect::<Vec<_>>(), [false, true, true]);
    assert!(!restored.ok && restored.error.unwrap().contains("no host called gone"));
    assert_eq!((installed(&hosts[0]).await.as_deref(), installed(&hosts[1]).await), (Some("1.0"), None));
    assert_eq!(restored.hosts[2].from.as_deref(), Some("2.0"));
    // Again changes nothing.
    let again = WayBack { previous: way.previous[..2].to_vec(), ..way };
    let again = rollout::restore(&again, &Notes::default(), &CancellationToken::new()).await;
    assert!(again.ok, "{:?}", again.error);
}

#[tokio::test]
async fn a_health_check_is_retried_and_decides() {
    let Some(place) = place() else { return };
    let host = place.host("h1");
    let check = |script: &str, tries| Check {
        question: Question::Script(script.into()),
        tries,
        interval: Span(10),
        timeout: Span::seconds(20),
    };
    let third =
        r#"echo x >>tries; [ $(wc -l <tries) -ge 3 ] && [ "$PWD" = "$ROOT" ] && cat usr/share/demo/version"#;
    let rolled = roll(&Plan { health: Some(check(third, 3)), ..place.plan("1.0", vec![host.clone()]) }).await;
    assert!(rolled.ok, "{:?}", rolled.error);
    let ill =
        roll(&Plan { health: Some(check("echo ill >&2; exit 3", 2)), ..place.plan("1.1", vec![host]) }).await;
    assert!(!ill.ok);
    assert_eq!(
        (ill.hosts[0].code, ill.error.as_deref()),
        (Some(3), Some("h1: the health check failed (exit status 3): ill"))
    );
}

#[tokio::test]
async fn hosts_behind_ssh_are_rolled_and_those_out_of_reach_are_told_apart() {
    let (Some(place), Some(sshd)) = (place(), sshd::start()) else { return };
    let behind = |name: &str| {
        let host = place.host(name);
        Host { reach: Reach::SshRoot(sshd.target(), place.path(name)), ..host }
    };
    let hosts = vec![behind("h1"), behind("h2")];
    let rolled = roll(&Plan { batch: Batch::Hosts(2), ..place.plan("1.0", hosts.clone()) }).await;
    assert!(rolled.ok, "{:?}", rolled.error);
    assert_eq!(installed(&hosts[1]).await.as_deref(), Some("1.0"));

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let down = Host::ssh("down", siskin::ssh::Target { port: Some(closed), ..sshd.target() });
    let partial =
        roll(&Plan { key: "2".into(), ..place.plan("1.1", vec![hosts[0].clone(), down, hosts[1].clone()]) })
            .await;
    assert_eq!(partial.hosts.iter().map(|host| host.ok).collect::<Vec<_>>(), [true, false]);
    assert_eq!(partial.untouched, ["h2"]);
    assert!(partial.error.unwrap().contains("connection refused"));
    assert_eq!(installed(&hosts[1]).await.as_deref(), Some("1.0"));
}

#[tokio::test]
async fn a_root_works_for_an_ordinary_user() {
    let Some(place) = place() else { return };
    if !nix::unistd::geteuid().is_root() {
        // The other tests have shown it.
        return;
    }
    // Behind an ssh that is none: a shell of another user, on this machine.
    place.host("h1");
    must(Command::new("chmod").arg("755").arg(place.folder.path()));
    must(Command::new("chown").args(["-R", "nobody"]).arg(place.path("h1")));
    let apt = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "apt-get", "-q", "-y"])
            .args(args);
        command.env("APT_CONFIG", place.path("h1/etc/apt/siskin.conf")).env("HOME", place.path("h1"));
        must(&mut command);
    };
    apt(&["update"]);
    apt(&["install", "demo=1.1"]);
    assert_eq!(installed(&Host::root("h1", place.path("h1"))).await.as_deref(), Some("1.1"));
}

#[tokio::test]
async fn two_changes_of_one_host_wait_for_each_other() {
    let Some(place) = place() else { return };
    let host = place.host("h1");
    let both = futures::future::join(install(&host, "1.0", true), install(&host, "1.1", true)).await;
    let (first, second) = both;
    // Whoever came first finds the other's version when it looks, but neither broke the other.
    for ended in [first, second] {
        assert!(matches!(ended, Ok(_) | Err(HostError::NotInstalled { .. })), "{ended:?}");
    }
    assert!(installed(&host).await.is_some());
}

/// A health check over HTTP or TCP that is tried twice.
fn asked(question: Question) -> Option<Check> {
    Some(Check { question, tries: 2, interval: Span(10), timeout: Span::seconds(5) })
}

#[tokio::test]
async fn a_host_is_asked_over_http_and_tcp_and_the_error_says_what_was_asked_and_what_came() {
    use axum::http::{HeaderMap, StatusCode};
    let Some(place) = place() else { return };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = axum::Router::new().fallback(async |headers: HeaderMap| match headers["host"].to_str() {
        Ok("shop.example.org") => (StatusCode::OK, "all is well"),
        _ => (StatusCode::MISDIRECTED_REQUEST, "which shop?"),
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let host = place.host("h1");
    let http = |host: Option<&str>, contains: Option<&str>| {
        let (host, contains) = (host.map(str::to_owned), contains.map(str::to_owned));
        asked(Question::Http(Http {
            url: "/health".into(),
            port: Some(port),
            host,
            expect: Vec::new(),
            contains,
        }))
    };
    let with =
        async |health: Option<Check>| roll(&Plan { health, ..place.plan("1.0", vec![host.clone()]) }).await;
    let well = with(http(Some("shop.example.org"), Some("well"))).await;
    assert!(well.ok, "{:?}", well.error);
    assert_eq!(with(asked(Question::Tcp(port))).await.error, None);
    let url = format!("GET http://127.0.0.1:{port}/health");
    let ill = with(http(None, None)).await.error.unwrap();
    let came = "answered 421 Misdirected Request: which shop?; 2xx was wanted";
    assert_eq!(ill, format!("h1: the health check failed, 2 tries: {url} {came}"));
    let ill = with(http(Some("shop.example.org"), Some("ready"))).await.error.unwrap();
    assert!(ill.contains("but the body does not hold `ready`: all is well"), "{ill}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ill = with(asked(Question::Tcp(closed))).await.error.unwrap();
    assert!(ill.contains(&format!("127.0.0.1:{closed} takes no connection")), "{ill}");
}

#[tokio::test]
async fn a_version_that_the_sources_do_not_offer_is_refused_before_anything() {
    let Some(place) = place() else { return };
    let host = place.host("h1");
    let look = async |version: &str| {
        let plan = place.plan(version, vec![host.clone()]);
        rollout::look_first(&plan, &Notes::default(), &CancellationToken::new()).await
    };
    assert_eq!(look("1.1").await, Ok(()));
    let why = look("9.9").await.unwrap_err();
    assert!(why.starts_with("h1: demo 9.9 is not what its sources offer: 2.0, 1.1, 1.0"), "{why}");
    // What stands needs no source.
    install(&host, "1.0", false).await.unwrap();
    std::fs::remove_dir_all(place.path("repository")).unwrap();
    assert_eq!(look("1.0").await, Ok(()));
}

#[tokio::test]
async fn two_rolls_of_other_packages_never_change_one_host_at_once() {
    let (Some(place), Some(sshd)) = (place(), sshd::start()) else { return };
    let local = place.host("h1");
    let behind = Host { reach: Reach::SshRoot(sshd.target(), place.path("h1")), ..local.clone() };
    std::fs::write(place.path("h1/hold"), "").unwrap();
    let first = tokio::spawn({
        let plan = place.plan("2.0", vec![behind]);
        async move { roll(&plan).await.error }
    });
    place.until_there("h1/holding").await;
    let notes = std::sync::Arc::new(Notes::default());
    let second = tokio::spawn({
        let plan =
            Plan { key: "other".into(), allow_downgrade: true, ..place.plan("1.0", vec![local.clone()]) };
        let notes = notes.clone();
        async move { rollout::roll(&plan, &*notes, &CancellationToken::new()).await.error }
    });
    let began = Instant::now();
    let waits = "h1: waiting: another roll or siskin agent works on this host (at most 20m)";
    while !notes.lines.lock().unwrap().iter().any(|line| line == waits) {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", notes.lines.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(notes.previous.lock().unwrap().is_empty(), "nothing is begun meanwhile");
    std::fs::remove_file(place.path("h1/hold")).unwrap();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (None, None));
    assert_eq!(notes.previous.lock().unwrap()[0][0].version.as_deref(), Some("2.0"));
    assert_eq!(installed(&local).await.as_deref(), Some("1.0"));

    // Whoever holds it and dies has let go of it.
    let held = hosts::hold(&local, Span::seconds(1), &mut || (), &CancellationToken::new()).await.unwrap();
    let refused = hosts::hold(&local, Span::seconds(1), &mut || (), &CancellationToken::new()).await;
    assert!(matches!(refused, Err(HostError::Locked { .. })));
    drop(held);
    hosts::hold(&local, Span::minutes(1), &mut || (), &CancellationToken::new())
        .await
        .unwrap()
        .release()
        .await;
}

#[tokio::test]
async fn no_more_hosts_are_taken_out_than_may_be_away() {
    let Some(place) = place() else { return };
    let hosts: Vec<Host> = ["h1", "h2", "h3", "h4"].map(|name| place.host(name)).into();
    for host in &hosts {
        install(host, "1.0", false).await.unwrap();
    }
    // h4 was ill before anybody came, and h2 becomes so by the new version.
    std::fs::write(place.path("h4/ill"), "").unwrap();
    let check = r#"[ ! -e ill ] || { echo "ill here" >&2; exit 1; }"#;
    let plan = |most| Plan {
        batch: Batch::Hosts(3),
        max_unavailable: Some(most),
        health: asked(Question::Script(check.into())),
        ..place.plan("1.1", hosts.clone())
    };
    let rolled = roll(&plan(Batch::Hosts(1))).await;
    assert_eq!(
        rolled.hosts.iter().map(|host| (host.host.as_str(), host.ok)).collect::<Vec<_>>(),
        [("h4", false)]
    );
    assert_eq!(rolled.untouched, ["h1", "h2", "h3"]);

    std::fs::remove_file(place.path("h4/ill")).unwrap();
    let beside = Plan { ill: vec!["h5".into()], ..plan(Batch::Percent(40)) };
    let notes = Notes::default();
    let rolled = rollout::roll(&Plan { key: "2".into(), ..beside }, &notes, &CancellationToken::new()).await;
    assert!(rolled.ok, "{:?}", rolled.error);
    let batches: Vec<usize> = notes.previous.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(batches, [1, 2, 3, 4], "2 of 5 may be away, and h5 is");

    let beside = Plan { ill: vec!["h5".into()], ..plan(Batch::Hosts(1)) };
    let why = roll(&Plan { key: "3".into(), ..beside }).await.error.unwrap();
    assert!(
        why.contains("1 hosts are away already and `max_unavailable` lets 1 be") && why.contains("h5"),
        "{why}"
    );
}
