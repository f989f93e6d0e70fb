use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use siskin::delivery::apt::{Change, Error, Key, Listed, Publish, Repository, Settings, Steps};
use siskin::model::{Span, Timestamp};

use super::{Host, output, package, run, scratch, text};

pub(super) fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond())
}

/// A repository with its key beside it.
pub(super) struct Place {
    scratch: tempfile::TempDir,
}

impl Place {
    pub(super) fn new() -> Place {
        Place { scratch: scratch() }
    }
    pub(super) fn path(&self) -> &Path {
        self.scratch.path()
    }
    pub(super) fn root(&self) -> PathBuf {
        self.path().join("repository")
    }
    pub(super) fn key_path(&self) -> PathBuf {
        self.path().join("private/key.asc")
    }
    pub(super) fn key(&self) -> Key {
        Key::for_repository(&self.root(), &self.key_path(), now()).unwrap()
    }
    pub(super) fn repository(&self) -> Repository {
        Repository::open_or_create(&self.root()).unwrap()
    }
    pub(super) fn deb(&self, name: &str, version: &str, word: &str) -> PathBuf {
        package(self.path(), name, version, word).path
    }
    pub(super) fn publish(&self, suite: &str, debs: &[PathBuf]) -> Result<Change, Error> {
        publish(&self.repository(), &self.key(), suite, debs)
    }
    pub(super) fn assert_sound(&self) {
        assert_eq!(self.repository().verify(now()).unwrap().problems, [""; 0]);
    }
    /// Every file and link, with what it holds.
    pub(super) fn everything(&self) -> BTreeSet<(PathBuf, Vec<u8>)> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![self.root()];
        while let Some(path) = waiting.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                waiting.extend(fs::read_dir(&path).unwrap().map(|item| item.unwrap().path()));
            } else if metadata.is_symlink() {
                found.insert((
                    path.clone(),
                    fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
                ));
            } else {
                found.insert((path.clone(), fs::read(&path).unwrap()));
            }
        }
        found
    }
}

pub(super) fn publish(
    repository: &Repository,
    key: &Key,
    suite: &str,
    debs: &[PathBuf],
) -> Result<Change, Error> {
    repository.publish(&Publish { suite, component: "main", debs }, key, now())
}

pub(super) fn versions(listed: &[Listed]) -> Vec<String> {
    listed.iter().map(|package| format!("{} {}", package.name, package.version)).collect()
}

#[test]
fn apt_get_installs_upgrades_and_goes_back() {
    let place = Place::new();
    let old = place.deb("greeter", "1.0", "old");
    let new = place.deb("greeter", "1.1", "new");
    place.publish("stable", &[old, new]).unwrap();
    let host = Host::new(place.path().join("host")).with_source(
        &place.root(),
        "stable",
        &place.root().join("key.gpg"),
    );
    host.must_apt_get(&["update"]);
    host.must_apt_get(&["install", "-y", "greeter=1.0"]);
    assert_eq!(host.version_of("greeter"), "1.0");
    host.must_apt_get(&["install", "-y", "greeter"]);
    assert_eq!(host.version_of("greeter"), "1.1");
    assert_eq!(fs::read_to_string(host.root.join("opt/greeter/word")).unwrap(), "new");
    assert!(!host.apt_get(&["install", "-y", "greeter=1.0"]).status.success());
    host.must_apt_get(&["install", "-y", "--allow-downgrades", "greeter=1.0"]);
    assert_eq!(host.version_of("greeter"), "1.0");
}

#[test]
fn a_client_with_another_key_and_a_client_of_tampered_bytes_refuse() {
    let place = Place::new();
    place.publish("stable", &[place.deb("greeter", "1.0", "word")]).unwrap();
    let other = Place::new();
    other.publish("stable", &[other.deb("greeter", "1.0", "word")]).unwrap();
    let stranger = Host::new(place.path().join("stranger"));
    let stranger = stranger.with_source(&place.root(), "stable", &other.root().join("key.gpg"));
    assert!(!stranger.apt_get(&["update", "--error-on=any"]).status.success());

    let host = Host::new(place.path().join("host")).with_source(
        &place.root(),
        "stable",
        &place.root().join("key.asc"),
    );
    host.must_apt_get(&["update"]);
    let deb = place.root().join("pool/main/g/greeter/greeter_1.0_all.deb");
    let mut bytes = fs::read(&deb).unwrap();
    let last = bytes.len() - 20;
    bytes[last] ^= 1;
    fs::write(&deb, bytes).unwrap();
    assert!(!host.apt_get(&["install", "-y", "greeter"]).status.success());
    let problems = place.repository().verify(now()).unwrap().problems;
    assert!(problems.len() == 1 && problems[0].contains("greeter_1.0_all.deb"), "{problems:?}");
}

#[test]
fn gpgv_verifies_and_the_indexes_lie_where_clients_look() {
    let place = Place::new();
    let library = place.deb("libgreet", "1:1.0-2", "word");
    place.publish("stable", &[library]).unwrap();
    let suite = place.root().join("dists/stable");
    let keyring = place.root().join("key.gpg");
    output("gpgv", &["--keyring", text(&keyring), text(&suite.join("InRelease"))]);
    output(
        "gpgv",
        &["--keyring", text(&keyring), text(&suite.join("Release.gpg")), text(&suite.join("Release"))],
    );
    assert!(place.root().join("pool/main/libg/libgreet/libgreet_1.0-2_all.deb").is_file());
    let release = fs::read_to_string(suite.join("Release")).unwrap();
    for line in ["Suite: stable", "Codename: stable", "Acquire-By-Hash: yes", "Components: main", "SHA256:"] {
        assert!(release.lines().any(|known| known == line), "{line} in {release}");
    }
    let native = output("dpkg", &["--print-architecture"]);
    let packages = suite.join(format!("main/binary-{}/Packages", native.trim()));
    let plain = fs::read_to_string(&packages).unwrap();
    assert!(plain.contains("Version: 1:1.0-2\n") && plain.contains("Filename: pool/main/libg/"));
    assert_eq!(output("xz", &["-dc", &format!("{}.xz", packages.display())]), plain);
    assert_eq!(output("gzip", &["-dc", &format!("{}.gz", packages.display())]), plain);
    let sum = output("sha256sum", &[text(&packages)]);
    let by_hash = packages.with_file_name("by-hash/SHA256").join(sum.split_whitespace().next().unwrap());
    assert_eq!(fs::read_to_string(by_hash).unwrap(), plain);
    place.assert_sound();
}

#[test]
fn the_paragraphs_are_those_of_dpkg_scanpackages() {
    let place = Place::new();
    place.publish("stable", &[place.deb("greeter", "1.0", "word")]).unwrap();
    let scanned = Command::new("dpkg-scanpackages")
        .args(["--multiversion", "pool"])
        .current_dir(place.root())
        .output()
        .unwrap();
    let sorted = |text: &str| {
        text.lines()
            .filter(|line| !line.starts_with("SHA512") && !line.is_empty())
            .map(str::to_owned)
            .collect::<BTreeSet<_>>()
    };
    let ours = fs::read_to_string(place.root().join("dists/stable/main/binary-all/Packages")).unwrap();
    assert_eq!(sorted(&ours), sorted(&String::from_utf8(scanned.stdout).unwrap()));
}

#[test]
fn packages_for_all_machines_stand_in_every_list() {
    let place = Place::new();
    let for_all = place.deb("data", "1.0", "word");
    let input = place.path().join("arm");
    super::application(&input);
    let arm = siskin::delivery::deb::Build {
        architecture: Some("aarch64".to_owned()),
        ..super::order("program", "1.0", &input)
    };
    let arm = arm.write_to(place.path()).unwrap().path;
    place.publish("stable", &[for_all, arm]).unwrap();
    let names = |architecture: &str| {
        let list = place.root().join(format!("dists/stable/main/binary-{architecture}/Packages"));
        let text = fs::read_to_string(list).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("Package: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names("arm64"), ["data", "program"]);
    assert_eq!(names("amd64"), ["data"]);
    assert_eq!(names("all"), ["data"]);
    assert_eq!(place.repository().list(None).unwrap().len(), 2);
}

#[test]
fn the_same_bytes_again_change_nothing_and_other_bytes_are_refused() {
    let place = Place::new();
    let deb = place.deb("greeter", "1.0", "one");
    let other = place.deb("greeter", "1.0", "other");
    place.publish("stable", std::slice::from_ref(&deb)).unwrap();
    let before = place.everything();
    let change = place.publish("stable", std::slice::from_ref(&deb)).unwrap();
    assert_eq!((change.added.len(), versions(&change.unchanged)), (0, vec!["greeter 1.0".to_owned()]));
    // In the same suite, in another one, and as a twin in one order.
    for (suite, debs) in [
        ("stable", vec![other.clone()]),
        ("testing", vec![other.clone()]),
        ("new", vec![deb.clone(), other.clone()]),
    ] {
        let error = place.publish(suite, &debs).unwrap_err();
        let Error::OtherBytes { known, given, .. } = &error else { panic!("{error}") };
        assert!(
            known != given
                && error.to_string().contains(known.as_str())
                && error.to_string().contains(given.as_str())
        );
    }
    assert_eq!(place.everything(), before);
    // Given twice, it is added once, where it is new and where another suite has it.
    let other_suite = place.publish("testing", &[deb.clone(), deb.clone()]).unwrap();
    assert_eq!(versions(&other_suite.added), ["greeter 1.0"]);
    let testing = place.repository().list(Some("testing")).unwrap();
    assert_eq!(testing.len(), 1);
    place.repository().remove(&"greeter".parse().unwrap(), "testing", &place.key(), now()).unwrap();
    // Nor once it is gone.
    let what = "greeter=1.0".parse().unwrap();
    place.repository().remove(&what, "stable", &place.key(), now()).unwrap();
    assert!(matches!(place.publish("stable", &[other]), Err(Error::OtherBytes { .. })));
    assert_eq!(place.publish("stable", &[deb]).unwrap().added.len(), 1);
    place.assert_sound();
}

#[test]
fn two_epochs_of_a_version_do_not_share_a_file() {
    let place = Place::new();
    place.publish("stable", &[place.deb("greeter", "1:1.0", "one")]).unwrap();
    let error = place.publish("stable", &[place.deb("greeter", "2:1.0", "two")]).unwrap_err();
    assert!(matches!(&error, Error::Refused(reason) if reason.contains("epoch")), "{error}");
}

#[test]
fn wrong_names_and_wrong_packages_are_refused_before_anything_changes() {
    let place = Place::new();
    let deb = place.deb("greeter", "1.0", "word");
    place.publish("stable", std::slice::from_ref(&deb)).unwrap();
    let before = place.everything();
    for suite in [
        "",
        "a b",
        "../x",
        "a/b",
        "..",
        ".hidden",
        "a..b",
        "a\nb",
        "-x",
        "apt/trusty apt/precise",
        &"x".repeat(80),
    ] {
        assert!(
            matches!(place.publish(suite, std::slice::from_ref(&deb)), Err(Error::Refused(_))),
            "{suite:?}"
        );
    }
    let order = Publish { suite: "stable", component: "../main", debs: std::slice::from_ref(&deb) };
    assert!(matches!(place.repository().publish(&order, &place.key(), now()), Err(Error::Refused(_))));
    let corrupt = place.path().join("corrupt.deb");
    let bytes = fs::read(&deb).unwrap();
    fs::write(&corrupt, &bytes[..bytes.len() - 40]).unwrap();
    let good = place.deb("other", "1.0", "word");
    assert!(matches!(place.publish("stable", &[good, corrupt]), Err(Error::Package(_))));
    assert_eq!(place.everything(), before);
    // A suite that another program made is left alone.
    fs::create_dir(place.root().join("dists/foreign")).unwrap();
    assert!(matches!(place.publish("foreign", &[deb]), Err(Error::Damaged { .. })));
}

#[test]
fn only_the_suites_that_are_named_exist() {
    let place = Place::new();
    let mut repository = place.repository();
    repository.configure(Settings { suites: vec!["stable".to_owned()], ..Settings::default() }).unwrap();
    let debs = [place.deb("greeter", "1.0", "word")];
    assert!(matches!(place.publish("stabel", &debs), Err(Error::Refused(_))));
    assert!(place.publish("stable", &debs).is_ok());
}

#[test]
fn without_its_key_a_repository_stays_as_it_is() {
    let place = Place::new();
    assert!(matches!(
        Key::for_repository(&place.root(), &place.root().join("private.asc"), now()),
        Err(Error::Key { reason, .. }) if reason.contains("must not lie in the repository")
    ));
    let deb = place.deb("greeter", "1.0", "word");
    place.publish("stable", &[deb]).unwrap();
    assert_eq!(fs::metadata(place.key_path()).unwrap().permissions().mode() & 0o777, 0o600);
    let before = place.everything();
    let key = |path: &Path| Key::for_repository(&place.root(), path, now());
    // Missing: another one would lock the clients out.
    let missing = place.path().join("elsewhere/key.asc");
    assert!(matches!(key(&missing), Err(Error::Key { reason, .. }) if reason.contains("restore that key")));
    assert!(!missing.exists());
    let garbage = place.path().join("garbage.asc");
    fs::write(&garbage, "no key").unwrap();
    assert!(matches!(key(&garbage), Err(Error::Key { .. })));
    assert!(matches!(key(&place.root().join("key.asc")), Err(Error::Key { .. })));
    assert!(matches!(key(place.path()), Err(Error::Key { .. })));
    // Another one.
    let other = Key::make(&place.path().join("other.asc"), "Other <o@example.com>", now()).unwrap();
    let refused = publish(&place.repository(), &other, "stable", &[place.deb("greeter", "1.1", "word")]);
    assert!(matches!(refused, Err(Error::Key { .. })));
    assert_eq!(place.everything(), before);
}

#[test]
fn a_key_that_gpg_made_signs_until_it_expires() {
    let place = Place::new();
    let home = place.path().join("gnupg");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    let gpg = |arguments: &[&str]| {
        output(
            "gpg",
            &[&["--homedir", text(&home), "--batch", "--quiet", "--passphrase", ""], arguments].concat(),
        )
    };
    gpg(&["--quick-generate-key", "Ada <ada@example.com>", "rsa2048", "sign", "1d"]);
    let exported = gpg(&["--armor", "--export-secret-keys"]);
    let path = place.path().join("gpg.asc");
    fs::write(&path, exported).unwrap();
    let key = Key::load(&path).unwrap();
    publish(&place.repository(), &key, "stable", &[place.deb("greeter", "1.0", "word")]).unwrap();
    let release = place.root().join("dists/stable/InRelease");
    output("gpgv", &["--keyring", text(&place.root().join("key.gpg")), text(&release)]);
    place.assert_sound();
    let debs = [place.deb("greeter", "1.1", "word")];
    let order = Publish { suite: "stable", component: "main", debs: &debs };
    let too_late = place.repository().publish(&order, &key, now().plus(Span::days(2)));
    assert!(matches!(too_late, Err(Error::Key { reason, .. }) if reason.contains("expired")));
    run("gpgconf", &["--homedir", text(&home), "--kill", "all"]);
}

#[test]
fn promotion_carries_the_same_bytes() {
    let place = Place::new();
    let debs = [place.deb("greeter", "1.9", "word"), place.deb("greeter", "1.10", "word")];
    place.publish("canary", &debs).unwrap();
    let (repository, key) = (place.repository(), place.key());
    let newest =
        repository.promote(&"greeter".parse().unwrap(), "canary", "production", &key, now()).unwrap();
    assert_eq!(versions(&newest.added), ["greeter 1.10"]);
    let again =
        repository.promote(&"greeter=1.10".parse().unwrap(), "canary", "production", &key, now()).unwrap();
    assert_eq!((again.added.len(), again.unchanged.len()), (0, 1));
    let canary = repository.list(Some("canary")).unwrap();
    let production = repository.list(Some("production")).unwrap();
    let promoted = canary.iter().find(|package| package.version == "1.10").unwrap();
    assert_eq!((&production[0].sha256, &production[0].filename), (&promoted.sha256, &promoted.filename));
    let absent = repository.promote(&"greeter=3".parse().unwrap(), "canary", "production", &key, now());
    assert!(matches!(absent, Err(Error::NotFound(reason)) if reason.contains("1.9")));
    assert!(matches!(
        repository.promote(&"greeter".parse().unwrap(), "nowhere", "production", &key, now()),
        Err(Error::NotFound(_))
    ));
    place.assert_sound();
}

#[test]
fn superseded_files_stay_for_the_grace_and_no_longer() {
    let place = Place::new();
    let first = place.deb("greeter", "1.0", "word");
    let start = now();
    let later = |span: Span| start.plus(span);
    let (repository, key) = (place.repository(), place.key());
    let order = |debs: &[PathBuf], at| {
        repository.publish(&Publish { suite: "stable", component: "main", debs }, &key, at).unwrap();
    };
    let by_hash =
        || fs::read_dir(place.root().join("dists/.stable.by-hash/main/binary-all/SHA256")).unwrap().count();
    order(&[first], start);
    assert_eq!(by_hash(), 3);
    order(&[place.deb("greeter", "1.1", "word")], later(Span::minutes(10)));
    repository.remove(&"greeter=1.0".parse().unwrap(), "stable", &key, later(Span::minutes(20))).unwrap();
    assert_eq!(by_hash(), 9);
    let gone = place.root().join("pool/main/g/greeter/greeter_1.0_all.deb");
    assert!(gone.exists());
    // The first was superseded at ten past, the second at twenty past.
    order(&[place.deb("greeter", "1.2", "word")], later(Span::minutes(75)));
    assert_eq!(by_hash(), 9);
    assert!(gone.exists());
    order(&[place.deb("greeter", "1.3", "word")], later(Span::minutes(90)));
    assert_eq!(by_hash(), 9);
    assert!(!gone.exists());
    place.assert_sound();
}

#[test]
fn a_damaged_index_is_told_and_made_anew_from_the_pool() {
    let place = Place::new();
    let (one, other) = (place.deb("greeter", "1:1.0", "word"), place.deb("libgreet", "1.0", "word"));
    place.publish("stable", &[one, other]).unwrap();
    let before = place.repository().list(None).unwrap();
    fs::write(place.root().join("dists/stable/main/binary-all/Packages"), "").unwrap();
    assert!(!place.repository().verify(now()).unwrap().problems.is_empty());
    assert!(matches!(
        place.publish("stable", &[place.deb("late", "1.0", "word")]),
        Err(Error::Damaged { .. })
    ));
    place.repository().rebuild("stable", "main", &place.key(), now()).unwrap();
    assert_eq!(place.repository().list(None).unwrap(), before);
    place.assert_sound();
}

#[test]
fn a_release_says_how_long_it_holds() {
    let place = Place::new();
    let mut repository = place.repository();
    repository.configure(Settings { valid_for: Some(Span::days(7)), ..Settings::default() }).unwrap();
    place.publish("stable", &[place.deb("greeter", "1.0", "word")]).unwrap();
    assert_eq!(repository.verify(now()).unwrap().problems, [""; 0]);
    let too_late = now().plus(Span::days(8));
    assert!(repository.verify(too_late).unwrap().problems[0].contains("Valid-Until"));
    repository.refresh("stable", &place.key(), too_late).unwrap();
    assert_eq!(repository.verify(too_late).unwrap().problems, [""; 0]);
    // A clock that was set back does not make the new index look old.
    repository.refresh("stable", &place.key(), now()).unwrap();
    assert_eq!(repository.verify(too_late).unwrap().problems, [""; 0]);
}

/// Fails the step of a number, and, after a crash, all that follow.
struct Stumble {
    at: usize,
    crash: bool,
    count: AtomicUsize,
}

impl Stumble {
    fn new(at: usize, crash: bool) -> Arc<Stumble> {
        Arc::new(Stumble { at, crash, count: AtomicUsize::new(0) })
    }
}

impl Steps for Stumble {
    fn before(&self, _verb: &'static str, _path: &Path) -> io::Result<()> {
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        if number == self.at || (self.crash && number > self.at) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }
}

/// Stumbles at every step in turn, and looks at what clients see and at what the next publish makes of it.
fn stumble_everywhere(crash: bool) {
    let place = Place::new();
    let (old, new) = (place.deb("greeter", "1.0", "word"), place.deb("greeter", "1.1", "word"));
    let rebuilt = place.deb("greeter", "1.1", "rebuilt");
    place.publish("stable", &[old]).unwrap();
    let key = place.key();
    let template = place.path().join("template");
    fs::rename(place.root(), &template).unwrap();
    for at in 0.. {
        output("cp", &["-a", text(&template), text(&place.root())]);
        let steps = Stumble::new(at, crash);
        let stumbling = place.repository().with_steps(steps.clone());
        let done = publish(&stumbling, &key, "stable", std::slice::from_ref(&new));
        place.assert_sound();
        let seen = versions(&place.repository().list(Some("stable")).unwrap());
        assert!(seen == ["greeter 1.0"] || seen == ["greeter 1.0", "greeter 1.1"], "step {at}: {seen:?}");
        let is_new = seen.len() == 2;
        assert!(is_new || done.is_err(), "step {at} was reported as done");
        let exists = |name: &str| place.root().join(name).exists();
        if !crash && !is_new {
            assert!(!exists("pool/main/g/greeter/greeter_1.1_all.deb"), "step {at} left a package");
        }
        // What was left does not stand in the way, not even of other bytes, which nobody has seen.
        let again = if is_new { &new } else { &rebuilt };
        publish(&place.repository(), &key, "stable", std::slice::from_ref(again)).unwrap();
        place.assert_sound();
        assert_eq!(place.repository().list(Some("stable")).unwrap().len(), 2);
        assert!(is_new || !(exists(".siskin/pending.json") || exists(".siskin/tmp/package")), "step {at}");
        if steps.count.load(Ordering::SeqCst) <= at {
            println!("{at} steps");
            assert!(at > 40, "only {at} steps were tried");
            return;
        }
        fs::remove_dir_all(place.root()).unwrap();
    }
}

#[test]
fn a_crash_at_any_step_leaves_the_old_index_or_the_new_one() {
    stumble_everywhere(true);
}

#[test]
fn a_full_disk_at_any_step_leaves_the_old_index_or_the_new_one() {
    stumble_everywhere(false);
}

#[test]
fn a_crash_in_the_first_publish_leaves_nothing_or_all_of_it() {
    let place = Place::new();
    let deb = place.deb("greeter", "1.0", "word");
    let key = place.key();
    for at in 0.. {
        let steps = Stumble::new(at, true);
        let done = publish(&place.repository().with_steps(steps), &key, "stable", std::slice::from_ref(&deb));
        let seen = place.repository().list(None).unwrap().len();
        assert!(seen == 1 || done.is_err(), "step {at}");
        if seen == 1 {
            place.assert_sound();
        }
        publish(&place.repository(), &key, "stable", std::slice::from_ref(&deb)).unwrap();
        place.assert_sound();
        fs::remove_dir_all(place.root()).unwrap();
        if done.is_ok() {
            assert!(at > 40, "only {at} steps were tried");
            return;
        }
    }
}

/// Ends its own process, as kill -9 does, before the step of a number.
struct Kill {
    at: usize,
    count: AtomicUsize,
}

impl Steps for Kill {
    fn before(&self, _verb: &'static str, _path: &Path) -> io::Result<()> {
        if self.count.fetch_add(1, Ordering::SeqCst) == self.at {
            nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL)?;
        }
        Ok(())
    }
}

const CHILD: &str = "SISKIN_TEST_KILLED_PUBLISHER";

#[test]
#[ignore = "is run by the test below, in a process of its own"]
fn killed_publisher() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let [root, key, deb, at]: [&str; 4] = order.split('|').collect::<Vec<_>>().try_into().unwrap();
    let steps = Kill { at: at.parse().unwrap(), count: AtomicUsize::new(0) };
    let repository = Repository::open(Path::new(root)).unwrap().with_steps(Arc::new(steps));
    publish(&repository, &Key::load(Path::new(key)).unwrap(), "stable", &[PathBuf::from(deb)]).unwrap();
}

#[test]
fn a_publisher_killed_at_any_step_leaves_the_old_index_or_the_new_one() {
    let place = Place::new();
    place.publish("stable", &[place.deb("greeter", "1.0", "word")]).unwrap();
    let keyring = place.root().join("key.gpg");
    let mut published = 1;
    for at in 0.. {
        let deb = place.deb("greeter", &format!("1.{}", at + 1), "word");
        let order = format!("{}|{}|{}|{at}", text(&place.root()), text(&place.key_path()), text(&deb));
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "delivery::apt::killed_publisher"])
            .env(CHILD, order)
            .output()
            .unwrap();
        place.assert_sound();
        output("gpgv", &["--keyring", text(&keyring), text(&place.root().join("dists/stable/InRelease"))]);
        let seen = place.repository().list(Some("stable")).unwrap().len();
        assert!(seen == published || seen == published + 1, "step {at}: {seen} packages after {published}");
        published = seen;
        if child.status.success() {
            assert!(at > 40, "only {at} steps were tried");
            break;
        }
    }
    place.publish("stable", &[place.deb("greeter", "2.0", "word")]).unwrap();
    place.assert_sound();
}

#[test]
fn publishers_at_once_take_turns() {
    let place = Place::new();
    let debs: Vec<PathBuf> =
        (0..12).map(|number| place.deb("greeter", &format!("1.{number}"), "word")).collect();
    drop(place.key());
    std::thread::scope(|scope| {
        for part in debs.chunks(3) {
            let place = &place;
            scope.spawn(move || {
                for deb in part {
                    place.publish("stable", std::slice::from_ref(deb)).unwrap();
                }
            });
        }
    });
    assert_eq!(place.repository().list(Some("stable")).unwrap().len(), 12);
    place.assert_sound();
}

#[test]
fn clients_in_flight_never_see_a_mismatch() {
    let place = Place::new();
    place.publish("stable", &[place.deb("greeter", "1.0", "word")]).unwrap();
    let debs: Vec<PathBuf> =
        (1..=40).map(|number| place.deb("greeter", &format!("1.{number}"), "word")).collect();
    let key = place.root().join("key.gpg");
    let host = |number: usize| {
        Host::new(place.path().join(format!("host{number}"))).with_source(&place.root(), "stable", &key)
    };
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (host, finished) = (host(number), &finished);
            scope.spawn(move || {
                let mut rounds = 0;
                while !finished.load(Ordering::SeqCst) || rounds == 0 {
                    host.must_apt_get(&["update"]);
                    host.must_apt_get(&["install", "-y", "--download-only", "greeter"]);
                    rounds += 1;
                }
            });
        }
        for deb in &debs {
            place.publish("stable", std::slice::from_ref(deb)).unwrap();
        }
        finished.store(true, Ordering::SeqCst);
    });
    place.assert_sound();
}

#[test]
fn a_thousand_packages_are_a_matter_of_seconds() {
    let place = Place::new();
    let mut debs: Vec<PathBuf> =
        (0..1000).map(|number| place.deb(&format!("greeter-{number}"), "1.0", "word")).collect();
    let last = debs.pop().unwrap();
    let (repository, key) = (place.repository(), place.key());
    let started = Instant::now();
    publish(&repository, &key, "stable", &debs).unwrap();
    let all = started.elapsed();
    let started = Instant::now();
    publish(&repository, &key, "stable", &[last]).unwrap();
    let one = started.elapsed();
    println!("999 packages in {all:?}, one more in {one:?}");
    assert!(all.as_secs() < 30 && one.as_secs() < 10, "{all:?} {one:?}");
    assert_eq!(repository.list(None).unwrap().len(), 1000);
}
