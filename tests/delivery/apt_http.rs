//! Repositories over HTTP, as the server serves them at `/apt/`; apt-get is the judge.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::blocking::Response;
use serde_json::json;
use siskin::delivery::apt::{Key, Publish, Repository, Settings};
use siskin::model::{Span, Timestamp};

use super::{Host, file, output, package, scratch, text};
use crate::support::server::{PATIENCE, Server, client, until};

fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond())
}

/// A server, and its repository as one who publishes on its machine sees it.
struct Served {
    scratch: tempfile::TempDir,
    server: Server,
}

impl Served {
    fn new(config: &str) -> Served {
        Served { scratch: scratch(), server: Server::start(&[("siskin.yaml", config)]) }
    }
    fn root(&self) -> PathBuf {
        self.server.data().join("apt")
    }
    fn address(&self) -> String {
        format!("{}/apt", self.server.url())
    }
    fn deb(&self, name: &str, version: &str) -> PathBuf {
        package(self.scratch.path(), name, version, "word").path
    }
    fn key(&self) -> Key {
        Key::for_repository(&self.root(), &self.server.data().join("keys/apt.asc"), now()).unwrap()
    }
    fn publish(&self, suite: &str, debs: &[PathBuf]) {
        let repository = Repository::open_or_create(&self.root()).unwrap();
        repository.publish(&Publish { suite, component: "main", debs }, &self.key(), now()).unwrap();
    }
    fn host(&self, name: &str, suite: &str) -> Host {
        let host = Host::new(self.scratch.path().join(name));
        let key = host.root.join("etc/apt/siskin.asc");
        std::fs::write(&key, self.get("key.asc", &[]).bytes().unwrap()).unwrap();
        host.with_address(&self.address(), suite, &key)
    }
    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = client().get(format!("{}/{path}", self.address()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().unwrap()
    }
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[test]
fn apt_get_installs_over_http_what_an_action_published_and_trusts_the_key_that_is_served() {
    let served = Served::new("config: {apt: {repositories: {tools: {}}}}\n");
    let debs = [served.deb("greeter", "1:1.0~rc1+b1"), served.deb("libgreet", "2.0")];
    for repository in ["", "tools"] {
        let mut with = json!({"packages": debs, "suite": "stable"});
        if !repository.is_empty() {
            with["repository"] = json!(repository);
        }
        let run = served.server.run_to_end("apt.publish", with);
        assert_eq!(run["status"], "succeeded", "{run}");
        // An index of this very minute is sent again, to be sure; one that is older is not.
        let folder =
            served.server.data().join(if repository.is_empty() { "apt" } else { "apt-repositories/tools" });
        let index = std::fs::File::open(folder.join("dists/stable/InRelease")).unwrap();
        index.set_modified(std::time::SystemTime::now() - Duration::from_secs(120)).unwrap();
        let host = Host::new(served.scratch.path().join(format!("host-{repository}")));
        let key = host.root.join("etc/apt/siskin.asc");
        let below = if repository.is_empty() { String::new() } else { format!("{repository}/") };
        std::fs::write(&key, served.get(&format!("{below}key.asc"), &[]).bytes().unwrap()).unwrap();
        let host = host.with_address(&format!("{}/{repository}", served.address()), "stable", &key);
        host.must_apt_get(&["update"]);
        host.must_apt_get(&["install", "-y", "greeter", "libgreet"]);
        assert_eq!(host.version_of("greeter"), "1:1.0~rc1+b1");
        // Nothing changed: the index is not sent again.
        assert!(host.must_apt_get(&["update"]).contains("Hit:1"), "the index was sent again");
    }
    let stranger = Host::new(served.scratch.path().join("stranger"));
    let other = served.scratch.path().join("other.asc");
    Key::make(&served.scratch.path().join("private.asc"), "Other <o@example.com>", now()).unwrap();
    std::fs::write(&other, served.get("tools/key.asc", &[]).bytes().unwrap()).unwrap();
    let stranger = stranger.with_address(&served.address(), "stable", &other);
    assert!(
        !stranger.apt_get(&["update", "--error-on=any"]).status.success(),
        "each repository has its own key"
    );
    assert!(served.server.data().join("keys/apt/tools.asc").is_file());
}

#[test]
fn what_never_changes_may_be_kept_and_what_changes_is_asked_for() {
    let served = Served::new("");
    served.publish("stable", &[served.deb("greeter", "1.0")]);
    let pool = "pool/main/g/greeter/greeter_1.0_all.deb";
    let whole = std::fs::read(served.root().join(pool)).unwrap();
    let answer = served.get(pool, &[]);
    assert!(header(&answer, "cache-control").contains("immutable"), "{answer:?}");
    assert_eq!(header(&answer, "content-type"), "application/vnd.debian.binary-package");
    let (tag, date) = (header(&answer, "etag").to_owned(), header(&answer, "last-modified").to_owned());
    assert_eq!(answer.bytes().unwrap(), whole);

    let part = served.get(pool, &[("range", "bytes=10-19")]);
    assert_eq!((part.status().as_u16(), header(&part, "content-length")), (206, "10"));
    assert_eq!(header(&part, "content-range"), format!("bytes 10-19/{}", whole.len()));
    assert_eq!(part.bytes().unwrap(), whole[10..20]);
    for (condition, status) in [
        (tag.as_str(), 206),
        (date.as_str(), 206),
        ("\"other\"", 200),
        ("Sat, 21 Nov 2020 06:43:58 GMT", 200),
    ] {
        let part = served.get(pool, &[("range", "bytes=0-3"), ("if-range", condition)]);
        assert_eq!(part.status().as_u16(), status, "If-Range: {condition}");
    }
    assert_eq!(served.get(pool, &[("range", &format!("bytes={}-", whole.len()))]).status().as_u16(), 416);
    assert_eq!(served.get(pool, &[("if-none-match", &tag)]).status().as_u16(), 304);
    assert_eq!(served.get(pool, &[("if-modified-since", &date)]).status().as_u16(), 304);

    let head = client().head(format!("{}/{pool}", served.address())).send().unwrap();
    assert_eq!(
        (head.status().as_u16(), header(&head, "content-length")),
        (200, whole.len().to_string().as_str())
    );
    for name in ["InRelease", "Release", "Release.gpg", "main/binary-all/Packages"] {
        assert_eq!(
            header(&served.get(&format!("dists/stable/{name}"), &[]), "cache-control"),
            "no-cache",
            "{name}"
        );
    }
    let sum = output("sha256sum", &[text(&served.root().join("dists/stable/main/binary-all/Packages"))]);
    let by_hash = format!("dists/stable/main/binary-all/by-hash/SHA256/{}", sum.split(' ').next().unwrap());
    assert!(header(&served.get(&by_hash, &[]), "cache-control").contains("immutable"));

    // The next publish shows at once, also to one who asks with the time of an index of the same second.
    let first = served.get("dists/stable/InRelease", &[]);
    let (date, tag) = (header(&first, "last-modified").to_owned(), header(&first, "etag").to_owned());
    served.publish("stable", &[served.deb("greeter", "1.1")]);
    for condition in [("if-modified-since", date.as_str()), ("if-none-match", tag.as_str())] {
        assert_eq!(
            served.get("dists/stable/InRelease", &[condition]).status().as_u16(),
            200,
            "{condition:?}"
        );
    }
    assert_eq!(served.get(&by_hash, &[]).status().as_u16(), 200, "the index of before is still there");
}

#[test]
fn nothing_but_what_is_published_is_served() {
    let served = Served::new("");
    served.publish("stable", &[served.deb("greeter", "1.0")]);
    let outside = served.scratch.path().join("outside");
    file(&outside, "secret", 0o644);
    std::os::unix::fs::symlink(&outside, served.root().join("pool/main/link.deb")).unwrap();
    for path in [
        "",
        "dists",
        "dists/",
        "dists/stable",
        "dists/nowhere/InRelease",
        ".siskin/lock",
        "dists/.stable.000001/Release",
        "..%2fkeys%2fapt.asc",
        "dists/..%2f..%2fkeys%2fapt.asc",
        "%2e%2e/keys/apt.asc",
        "pool/main/link.deb",
        "pool/%00",
        "pool//main",
        "%2fetc%2fpasswd",
        "siskin.db",
        "dists/stable/InRelease/x",
    ] {
        let answer = served.get(path, &[]);
        assert_eq!(answer.status().as_u16(), 404, "{path}");
        let body = answer.text().unwrap();
        // A client resolves `..` itself, and then asks for something outside of /apt/.
        let is_ours = body.starts_with("not found") || path.starts_with("%2e");
        assert!(is_ours && !body.contains("secret"), "{path}: {body}");
    }
    let posted = client().post(format!("{}/dists/stable/InRelease", served.address())).send().unwrap();
    assert_eq!(posted.status().as_u16(), 405);
}

#[test]
fn the_server_signs_again_when_half_of_the_time_is_over() {
    let scratch = scratch();
    let (site, data) = (scratch.path().join("site"), scratch.path().join("data"));
    std::fs::create_dir_all(&site).unwrap();
    let root = data.join("apt");
    let key =
        Key::make(&data.join("keys/apt.asc"), "Siskin <apt@siskin.invalid>", now().minus(Span::days(9)))
            .unwrap();
    let mut repository = Repository::open_or_create(&root).unwrap();
    repository.configure(Settings { valid_for: Some(Span::days(7)), ..Settings::default() }).unwrap();
    let debs = [package(scratch.path(), "greeter", "1.0", "word").path];
    let order = |suite| Publish { suite, component: "main", debs: &debs };
    repository.publish(&order("old"), &key, now().minus(Span::days(8))).unwrap();
    repository.publish(&order("half"), &key, now().minus(Span::days(4))).unwrap();
    repository.publish(&order("young"), &key, now().minus(Span::days(3))).unwrap();
    assert_eq!(repository.due(now()).unwrap(), ["half", "old"]);
    let young = std::fs::read(root.join("dists/young/InRelease")).unwrap();
    let server = Server::over_file(&site, &data);
    let done = until(PATIENCE, || repository.due(now()).unwrap().is_empty().then_some(()));
    assert!(done.is_some(), "{}", server.log());
    assert_eq!(repository.verify(now()).unwrap().problems, [""; 0]);
    assert_eq!(std::fs::read(root.join("dists/young/InRelease")).unwrap(), young);
}

/// C13. The short form is part of every test run; `SISKIN_APT_CLIENTS=8 SISKIN_APT_PACKAGES=200` is the long one.
#[test]
fn clients_over_http_never_see_a_mismatch_or_a_missing_file_while_packages_are_published() {
    let number = |name: &str, usual: usize| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let (clients, packages) = (number("SISKIN_APT_CLIENTS", 8), number("SISKIN_APT_PACKAGES", 40));
    let served = Served::new("");
    served.publish("stable", &[served.deb("greeter", "1.0")]);
    let debs: Vec<PathBuf> =
        (1..=packages).map(|number| served.deb("greeter", &format!("1.{number}"))).collect();
    let hosts: Vec<Host> =
        (0..clients).map(|number| served.host(&format!("host{number}"), "stable")).collect();
    let (finished, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for host in &hosts {
            let (finished, rounds) = (&finished, &rounds);
            scope.spawn(move || {
                while !finished.load(Ordering::SeqCst) {
                    host.must_apt_get(&["update"]);
                    host.must_apt_get(&["install", "-y", "--download-only", "greeter"]);
                    forget_downloads(&host.root);
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
                host.must_apt_get(&["update"]);
                host.must_apt_get(&["install", "-y", "greeter"]);
            });
        }
        let guard = Finish(&finished);
        for deb in &debs {
            served.publish("stable", std::slice::from_ref(deb));
        }
        // Everybody was at it while there was something to publish.
        until(Duration::from_secs(60), || (rounds.load(Ordering::SeqCst) >= clients).then_some(()));
        drop(guard);
    });
    for host in &hosts {
        assert_eq!(host.version_of("greeter"), format!("1.{packages}"));
    }
    println!(
        "{clients} clients made {} rounds of update and download while {packages} packages were published in {:?}: no mismatch, nothing missing",
        rounds.load(Ordering::SeqCst),
        began.elapsed()
    );
    let verified = Repository::open(&served.root()).unwrap().verify(now()).unwrap();
    assert_eq!(verified.problems, [""; 0]);
}

/// Lets the clients end, also when a publish fails.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn forget_downloads(root: &Path) {
    for item in std::fs::read_dir(root.join("var/cache/apt/archives")).unwrap().flatten() {
        if item.path().extension().is_some_and(|extension| extension == "deb") {
            std::fs::remove_file(item.path()).unwrap();
        }
    }
}
