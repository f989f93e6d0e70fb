//! What keeps a repository going: old versions go, keys are rotated, a publisher may be killed at any moment and a disk may fill.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use siskin::delivery::apt::{Error, Key, Publish, Repository};
use siskin::model::Span;

use super::apt::{Place, now, versions};
use super::{Host, output, package, run, text};
use crate::support::server::siskin;

fn keep(number: usize) -> std::num::NonZeroUsize {
    number.try_into().unwrap()
}

#[test]
fn the_newest_versions_stay_and_what_is_protected_or_in_another_suite() {
    let place = Place::new();
    let debs: Vec<PathBuf> = ["1.8", "1.9", "1.10", "1.11"]
        .into_iter()
        .map(|version| place.deb("greeter", version, "word"))
        .collect();
    place.publish("stable", &debs).unwrap();
    place.publish("stable", &[place.deb("other", "1.0", "word")]).unwrap();
    place.publish("archive", &debs[..1]).unwrap();
    let (repository, key) = (place.repository(), place.key());
    let change = repository.prune("stable", keep(2), &["greeter=1.9".parse().unwrap()], &key, now()).unwrap();
    assert_eq!(versions(&change.removed), ["greeter 1.8"]);
    assert_eq!(repository.list(Some("archive")).unwrap().len(), 1);
    assert_eq!(repository.prune("stable", keep(2), &[], &key, now()).unwrap().removed.len(), 1);
    let before = place.everything();
    assert_eq!(repository.prune("stable", keep(2), &[], &key, now()).unwrap().removed.len(), 0);
    assert_eq!(place.everything(), before, "nothing was to be done, so nothing was");
    assert!(matches!(repository.prune("nowhere", keep(1), &[], &key, now()), Err(Error::NotFound(_))));
    place.assert_sound();
}

/// What gpgv says of the signatures of a suite, with the keys of a keyring.
fn verified_by(place: &Place, keyring: &Path) -> usize {
    let release = place.root().join("dists/stable/InRelease");
    let said = run("gpgv", &["--status-fd", "1", "--keyring", text(keyring), text(&release)]);
    let inline = String::from_utf8_lossy(&said.stdout).matches("[GNUPG:] GOODSIG").count();
    let folder = release.parent().unwrap();
    let said = run(
        "gpgv",
        &[
            "--status-fd",
            "1",
            "--keyring",
            text(keyring),
            text(&folder.join("Release.gpg")),
            text(&folder.join("Release")),
        ],
    );
    let detached = String::from_utf8_lossy(&said.stdout).matches("[GNUPG:] GOODSIG").count();
    assert_eq!(inline, detached, "both say the same");
    inline
}

#[test]
fn a_key_is_rotated_and_no_client_is_ever_locked_out() {
    let place = Place::new();
    let ago = |days| now().minus(Span::days(days));
    Key::make(&place.key_path(), "Siskin <apt@siskin.invalid>", ago(9)).unwrap();
    place.publish("stable", &[place.deb("greeter", "1.0", "word")]).unwrap();
    let keyring = |name: &str| {
        let copy = place.path().join(name);
        fs::copy(place.root().join("key.gpg"), &copy).unwrap();
        copy
    };
    let host =
        |name: &str, key: &Path| Host::new(place.path().join(name)).with_source(&place.root(), "stable", key);
    let old = keyring("old.gpg");
    let old_host = host("old", &old);
    old_host.must_apt_get(&["update"]);

    let repository = place.repository();
    assert!(matches!(repository.finish_rotation(&place.key_path(), Span(0), now()), Err(Error::Refused(_))));
    let begun = repository.begin_rotation(&place.key_path(), ago(8)).unwrap();
    assert_eq!(begun.keys.len(), 2);
    // Again, as after a kill: no third key.
    assert_eq!(repository.begin_rotation(&place.key_path(), ago(8)).unwrap(), begun);
    let both = keyring("both.gpg");
    assert_eq!((verified_by(&place, &old), verified_by(&place, &both)), (1, 2));
    output("gpgv", &["--keyring", text(&both), text(&place.root().join("dists/stable/InRelease"))]);
    // Publishers know nothing of it.
    place.publish("stable", &[place.deb("greeter", "1.1", "word")]).unwrap();
    place.assert_sound();
    old_host.must_apt_get(&["update"]);
    let patient = host("patient", &place.root().join("key.asc"));
    patient.must_apt_get(&["update"]);

    let early = repository.finish_rotation(&place.key_path(), Span::days(9), now());
    assert!(matches!(&early, Err(Error::Refused(reason)) if reason.contains("locked out")), "{early:?}");
    let finished = repository.finish_rotation(&place.key_path(), Span::days(7), now()).unwrap();
    assert_eq!(finished.keys, begun.keys[1..]);
    let new = keyring("new.gpg");
    assert_eq!((verified_by(&place, &old), verified_by(&place, &both), verified_by(&place, &new)), (0, 1, 1));
    host("new", &new).must_apt_get(&["update"]);
    host("both", &both).must_apt_get(&["update"]);
    assert!(
        !old_host.apt_get(&["update", "--error-on=any"]).status.success(),
        "the old key opens no door any more"
    );
    place.publish("stable", &[place.deb("greeter", "1.2", "word")]).unwrap();
    place.assert_sound();
    // The old key lies beside the new one, for its owner only.
    let kept = place.key_path().with_extension(format!("{}.asc", begun.keys[0]));
    for path in [&kept, &place.key_path()] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let refused = Key::load(&kept).unwrap();
    let debs = [place.deb("greeter", "1.3", "word")];
    let order = Publish { suite: "stable", component: "main", debs: &debs };
    assert!(matches!(repository.publish(&order, &refused, now()), Err(Error::Key { .. })));
}

#[test]
fn a_rotation_that_was_cut_off_is_completed_by_doing_it_again() {
    let place = Place::new();
    place.publish("stable", &[place.deb("greeter", "1.0", "word")]).unwrap();
    let repository = place.repository();
    let public = fs::read(place.root().join("key.gpg")).unwrap();
    repository.begin_rotation(&place.key_path(), now()).unwrap();
    // As if it had ended before the public keys were written.
    let both = fs::read(place.root().join("key.gpg")).unwrap();
    fs::write(place.root().join("key.gpg"), &public).unwrap();
    place.assert_sound();
    repository.begin_rotation(&place.key_path(), now()).unwrap();
    assert_eq!(fs::read(place.root().join("key.gpg")).unwrap(), both);
    repository.finish_rotation(&place.key_path(), Span(0), now()).unwrap();
    // As if it had ended before they were written then.
    fs::write(place.root().join("key.gpg"), &both).unwrap();
    let done = repository.finish_rotation(&place.key_path(), Span::days(7), now()).unwrap();
    assert_eq!(done.keys.len(), 1);
    assert_ne!(fs::read(place.root().join("key.gpg")).unwrap(), both);
    place.assert_sound();
}

/// `siskin apt publish`, as a process that can be killed.
fn publisher(place: &Place, deb: &Path) -> Command {
    let mut command = siskin();
    command.args([
        "apt",
        "publish",
        "--repo",
        text(&place.root()),
        "--suite",
        "stable",
        "--key",
        text(&place.key_path()),
    ]);
    command.arg(deb).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// C13: kill -9 of the program itself after ever longer delays; every single step is cut in `a_publisher_killed_at_any_step_...`.
/// `SISKIN_APT_KILLS=200` makes more of them.
#[test]
fn a_publish_that_is_killed_at_any_moment_leaves_a_signed_index_and_no_rubbish() {
    let place = Place::new();
    place.publish("stable", &[place.deb("greeter", "1.0", "word")]).unwrap();
    let keyring = place.root().join("key.gpg");
    let kills: u32 = std::env::var("SISKIN_APT_KILLS").map_or(24, |text| text.parse().unwrap());
    // As long as a publish takes here, and a little more.
    let deb = place.deb("greeter", "1.0.1", "word");
    let began = std::time::Instant::now();
    assert!(publisher(&place, &deb).status().unwrap().success());
    let step = (began.elapsed() + Duration::from_millis(20)) / kills;
    let (mut published, mut old, mut new) = (2, 0, 0);
    for number in 0..kills {
        let deb = place.deb("greeter", &format!("1.{}", number + 1), "word");
        let mut child = publisher(&place, &deb).spawn().unwrap();
        std::thread::sleep(step * number);
        child.kill().unwrap();
        child.wait().unwrap();
        output("gpgv", &["--keyring", text(&keyring), text(&place.root().join("dists/stable/InRelease"))]);
        place.assert_sound();
        let seen = place.repository().list(Some("stable")).unwrap().len();
        assert!(seen == published || seen == published + 1, "{seen} packages after {published}");
        if seen == published {
            old += 1
        } else {
            new += 1
        }
        published = seen;
    }
    place.publish("stable", &[place.deb("greeter", "2.0", "word")]).unwrap();
    place.assert_sound();
    let listed: Vec<String> =
        place.repository().list(None).unwrap().into_iter().map(|package| package.filename).collect();
    let pool = output("find", &[text(&place.root().join("pool")), "-type", "f"]);
    for file in pool.lines() {
        let name = Path::new(file).strip_prefix(place.root()).unwrap().to_str().unwrap().to_owned();
        assert!(listed.contains(&name), "{name} was left in the pool");
    }
    let generations =
        output("find", &[text(&place.root().join("dists")), "-maxdepth", "1", "-name", ".stable.0*"]);
    assert!(generations.lines().count() <= 3, "{generations}");
    assert!(!place.root().join(".siskin/tmp/package").exists());
    println!("{kills} kills: {old} left the old index, {new} the new one");
}

/// C13: a small disk of its own that fills.
#[test]
fn a_disk_that_is_full_leaves_the_old_repository_and_says_so() {
    let place = Place::new();
    let mounted = place.path().join("disk");
    fs::create_dir(&mounted).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=2m", "siskin-test"]).arg(&mounted);
    if !mount.output().unwrap().status.success() {
        return println!("nothing can be mounted here: not tried");
    }
    let _mounted = Mounted(mounted.clone());
    let root = mounted.join("repository");
    let small = place.deb("greeter", "1.0", "word");
    let input = place.path().join("large");
    fs::create_dir(&input).unwrap();
    let mut dice = crate::support::dice::Dice::new(7);
    let noise: Vec<u8> = (0..4 << 20).map(|_| u8::try_from(dice.roll(256)).unwrap()).collect();
    fs::write(input.join("noise"), noise).unwrap();
    let large = super::order("large", "1.0", &input).write_to(place.path()).unwrap().path;
    let publish = |deb: &PathBuf| {
        let mut command = siskin();
        command.args([
            "apt",
            "publish",
            "--repo",
            text(&root),
            "--suite",
            "stable",
            "--key",
            text(&place.key_path()),
        ]);
        command.arg(deb).output().unwrap()
    };
    assert!(publish(&small).status.success());
    let sound = || {
        let repository = Repository::open(&root).unwrap();
        assert_eq!(repository.verify(now()).unwrap().problems, [""; 0]);
        versions(&repository.list(None).unwrap())
    };
    let failed = publish(&large);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success() && said.contains("No space left on device"), "{said}");
    assert_eq!(sound(), ["greeter 1.0"]);
    // What came of it is gone, so that there is room for what fits.
    assert!(publish(&place.deb("greeter", "1.1", "word")).status.success());
    assert_eq!(sound(), ["greeter 1.0", "greeter 1.1"]);
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// C12: the differential against the tool that Debian's own archives are made with.
#[test]
fn the_fields_are_those_of_apt_ftparchive() {
    let place = Place::new();
    let input = place.path().join("input");
    super::application(&input);
    let build = siskin::delivery::deb::Build {
        depends: vec!["libc6 (>= 2.3)".to_owned(), "adduser".to_owned()],
        conflicts: vec!["shouter".to_owned()],
        epoch: Some(2),
        iteration: Some("3".to_owned()),
        description: Some("greets\nwhoever\n\nruns it".to_owned()),
        ..super::order("greeter", "1.0~rc1", &input)
    };
    let debs =
        [build.write_to(place.path()).unwrap().path, package(place.path(), "libgreet", "1.0", "word").path];
    place.publish("stable", &debs).unwrap();
    let theirs =
        Command::new("apt-ftparchive").args(["packages", "pool"]).current_dir(place.root()).output().unwrap();
    assert!(theirs.status.success());
    let fields = |text: &str| {
        let mut paragraphs: Vec<Vec<String>> = Vec::new();
        for paragraph in text.trim_end().split("\n\n") {
            let mut fields: Vec<String> = Vec::new();
            for line in paragraph.lines() {
                match fields.last_mut().filter(|_| line.starts_with(' ')) {
                    Some(field) => field.push_str(&format!("\n{line}")),
                    None => fields.push(line.to_owned()),
                }
            }
            fields.sort();
            paragraphs.push(fields);
        }
        paragraphs.sort();
        paragraphs
    };
    let ours = fs::read_to_string(place.root().join("dists/stable/main/binary-all/Packages")).unwrap();
    assert_eq!(fields(&ours), fields(&String::from_utf8(theirs.stdout).unwrap()));
}

/// C12: a comma list of suites lands in each of them, an unknown one stops all.
#[test]
fn several_suites_get_it_or_none() {
    let place = Place::new();
    let deb = place.deb("greeter", "1.0", "word");
    let apt = |arguments: &[&str]| {
        let mut command = siskin();
        command
            .args(["apt", arguments[0], "--repo", text(&place.root())])
            .args(&arguments[1..])
            .output()
            .unwrap()
    };
    assert!(apt(&["configure", "--suites", "canary,stable", "--grace", "2h"]).status.success());
    let publish =
        |suites: &str| apt(&["publish", "--suite", suites, "--key", text(&place.key_path()), text(&deb)]);
    let refused = publish("canary,stabel");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("which has canary, stable"));
    assert!(place.repository().suites().unwrap().is_empty());
    assert!(publish("canary,stable").status.success());
    assert_eq!(place.repository().suites().unwrap(), ["canary", "stable"]);
    assert_eq!(place.repository().list(None).unwrap().len(), 2);
    place.assert_sound();
}
