//! Copies of a repository, in a directory and over a real sshd; apt-get and `verify` are the judges.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use siskin::delivery::apt::{Error, Mirror, Mirrored, Repository, Settings};
use siskin::model::Span;
use siskin::ssh::{HostKeys, Target};
use tokio_util::sync::CancellationToken;

use super::Host;
use super::apt::{Place, now, versions};
use crate::git_and_ssh::sshd;

fn copy(place: &Place, mirror: &Mirror) -> Result<Mirrored, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    siskin::process::set_shim(env!("CARGO_BIN_EXE_siskin").into());
    runtime.block_on(place.repository().mirror(mirror, &CancellationToken::new()))
}

fn assert_sound(folder: &Path) {
    assert_eq!(Repository::open(folder).unwrap().verify(now()).unwrap().problems, [""; 0]);
}

/// Every file and link below the public folders.
fn public(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.join("dists"), root.join("pool")];
    while let Some(path) = waiting.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        if metadata.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|item| item.unwrap().path()));
        } else if metadata.is_symlink() {
            found.insert(name, fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes());
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

/// What a copy must do, wherever it lies; `folder` is where it comes to lie.
fn a_copy_is_a_repository(place: &Place, mirror: &Mirror, folder: &Path) {
    let mut repository = place.repository();
    repository.configure(Settings { grace: Span::hours(1), ..Settings::default() }).unwrap();
    place
        .publish("stable", &[place.deb("greeter", "1.0", "word"), place.deb("libgreet", "1.0~b+1", "word")])
        .unwrap();
    place.publish("canary", &[place.deb("greeter", "1.1", "word")]).unwrap();
    let first = copy(place, mirror).unwrap();
    assert_eq!(first.suites, ["canary", "stable"]);
    assert_sound(folder);
    assert!(!folder.join(".siskin/repository.json").exists() && fs::read(folder.join("key.gpg")).is_ok());
    // apt can't be told of a folder with blanks in its name.
    let plain = place.path().join("plain");
    std::os::unix::fs::symlink(folder, &plain).unwrap();
    let host = Host::new(place.path().join("host")).with_source(&plain, "stable", &plain.join("key.gpg"));
    host.must_apt_get(&["update"]);
    host.must_apt_get(&["install", "-y", "greeter", "libgreet"]);
    assert_eq!(host.version_of("greeter"), "1.0");

    // Only what is new is sent.
    let again = copy(place, mirror).unwrap();
    assert_eq!((again.suites.len(), again.files_sent, again.files_removed), (0, 2, 0), "the keys only");
    place.repository().promote(&"greeter".parse().unwrap(), "canary", "stable", &place.key(), now()).unwrap();
    let promoted = copy(place, mirror).unwrap();
    assert_eq!(promoted.suites, ["stable"]);
    assert_sound(folder);
    host.must_apt_get(&["update"]);
    host.must_apt_get(&["install", "-y", "greeter"]);
    assert_eq!(host.version_of("greeter"), "1.1");

    // What is over here is over there, after the same grace.
    let key = place.key();
    repository = place.repository();
    repository.remove(&"libgreet".parse().unwrap(), "stable", &key, now()).unwrap();
    copy(place, mirror).unwrap();
    let library = folder.join("pool/main/libg/libgreet/libgreet_1.0~b+1_all.deb");
    assert!(library.exists(), "clients may be on their way to it");
    for _ in 0..4 {
        repository.refresh("stable", &key, now().plus(Span::hours(2))).unwrap();
    }
    let over = copy(place, mirror).unwrap();
    assert!(over.files_removed > 0 && !library.exists());
    assert_sound(folder);
    let generations = fs::read_dir(folder.join("dists"))
        .unwrap()
        .flatten()
        .filter(|item| item.file_name().to_string_lossy().starts_with(".stable.0"));
    assert!(generations.count() <= 3);

    // One that broke off goes on: half of the files are gone, one is only a part.
    let before = public(&place.root());
    fs::remove_dir_all(folder.join("dists")).unwrap();
    let half = folder.join("pool/main/g/greeter/greeter_1.0_all.deb");
    fs::write(&half, &fs::read(&half).unwrap()[..100]).unwrap();
    copy(place, mirror).unwrap();
    assert_sound(folder);
    for (name, content) in public(folder) {
        assert_eq!(before.get(&name), Some(&content), "{name}");
    }
}

#[test]
fn a_copy_in_a_directory_is_a_repository_of_its_own() {
    let place = Place::new();
    let folder = place.path().join("www/apt");
    a_copy_is_a_repository(&place, &Mirror::Folder(folder.clone()), &folder);
    for wrong in [place.root(), place.root().join("pool/copy"), place.path().to_owned()] {
        assert!(matches!(copy(&place, &Mirror::Folder(wrong)), Err(Error::Refused(_))));
    }
}

fn over(sshd: &sshd::Sshd, folder: &Path) -> Mirror {
    let target = Target { host_keys: HostKeys::AcceptNew, ..sshd.target() };
    Mirror::Host { target: Box::new(target), path: folder.display().to_string() }
}

#[test]
fn a_copy_over_ssh_is_a_repository_of_its_own() {
    let Some(sshd) = sshd::start() else { return println!("no sshd here: not tried") };
    let place = Place::new();
    let folder = place.path().join("web server's $(folder)");
    a_copy_is_a_repository(&place, &over(&sshd, &folder), &folder);
}

#[test]
fn a_large_package_goes_on_from_the_piece_that_came() {
    let Some(sshd) = sshd::start() else { return println!("no sshd here: not tried") };
    let place = Place::new();
    let input = place.path().join("large");
    fs::create_dir(&input).unwrap();
    let mut dice = crate::support::dice::Dice::new(7);
    let block: Vec<u8> = (0..1 << 20).map(|_| u8::try_from(dice.roll(256)).unwrap()).collect();
    let noise: Vec<u8> = (0..40_u8).flat_map(|turn| block.iter().map(move |byte| byte ^ turn)).collect();
    fs::write(input.join("noise"), noise).unwrap();
    let large = super::order("large", "1.0", &input).write_to(place.path()).unwrap().path;
    if fs::metadata(&large).unwrap().len() <= 16 << 20 {
        return println!("it was compressed too well: not tried");
    }
    place.publish("stable", &[large]).unwrap();
    let folder = place.path().join("copy");
    copy(&place, &over(&sshd, &folder)).unwrap();
    let file = folder.join("pool/main/l/large/large_1.0_all.deb");
    let whole = fs::read(&file).unwrap();
    // As if the connection had broken within it.
    use sha2::Digest;
    let name = hex::encode(
        &sha2::Sha256::digest(format!("pool/main/l/large/large_1.0_all.deb {}", whole.len()))[..16],
    );
    fs::write(folder.join(format!(".siskin/incoming/{name}.piece")), &whole[..(16 << 20) + 5]).unwrap();
    fs::remove_file(&file).unwrap();
    copy(&place, &over(&sshd, &folder)).unwrap();
    assert!(fs::read(&file).unwrap() == whole, "other bytes");
    assert_sound(&folder);
}

#[test]
fn clients_of_a_copy_see_the_old_suite_or_the_new_one_while_it_is_made() {
    let place = Place::new();
    place.publish("stable", &[place.deb("greeter", "1.0", "word")]).unwrap();
    let folder = place.path().join("copy");
    let mirror = Mirror::Folder(folder.clone());
    copy(&place, &mirror).unwrap();
    let host = Host::new(place.path().join("host")).with_source(&folder, "stable", &folder.join("key.gpg"));
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (host, finished) = (&host, &finished);
        scope.spawn(move || {
            while !finished.load(Ordering::SeqCst) {
                host.must_apt_get(&["update"]);
                host.must_apt_get(&["install", "-y", "--download-only", "greeter"]);
            }
        });
        for number in 1..=15 {
            place.publish("stable", &[place.deb("greeter", &format!("1.{number}"), "word")]).unwrap();
            copy(&place, &mirror).unwrap();
        }
        finished.store(true, Ordering::SeqCst);
    });
    assert_eq!(versions(&Repository::open(&folder).unwrap().list(None).unwrap()).len(), 16);
    assert_sound(&folder);
}

#[test]
fn a_host_that_refuses_is_named_and_what_is_published_stays() {
    let Some(sshd) = sshd::start() else { return println!("no sshd here: not tried") };
    let place = Place::new();
    place.publish("stable", &[place.deb("greeter", "1.0", "word")]).unwrap();
    let target = Target { key: Some(sshd.path("other")), host_keys: HostKeys::AcceptNew, ..sshd.target() };
    let mirror = Mirror::Host { target: Box::new(target), path: "/nonexistent/apt".to_owned() };
    let error = copy(&place, &mirror).unwrap_err().to_string();
    assert!(error.contains("authentication failed") && error.contains("ssh://"), "{error}");
    // A file stands where a folder is wanted.
    let file = place.path().join("file");
    fs::write(&file, "").unwrap();
    let error = copy(&place, &over(&sshd, &file.join("apt"))).unwrap_err().to_string();
    assert!(error.contains("not up to date"), "{error}");
    place.assert_sound();
}
