//! A host whose package manager is killed at any moment is brought to its version by the next attempt.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use siskin::delivery::apt::{Key, Publish, Repository};
use siskin::delivery::deb::{Build, Scripts};
use siskin::delivery::hosts::{self, Host, Install};
use siskin::model::{Span, Timestamp};
use siskin::process;
use tokio_util::sync::CancellationToken;

use super::{Dice, number};

/// How many installations are killed when `SISKIN_KILLS` says nothing.
const ROUNDS: u64 = 8;

struct Place {
    scratch: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { scratch: tempfile::Builder::new().prefix("siskin-kill-").tempdir().unwrap() }
    }

    fn package(&self, version: u64) -> PathBuf {
        let folder = self.scratch.path().join(format!("input-{version}"));
        fs::create_dir_all(&folder).unwrap();
        for name in 0..20 {
            fs::write(folder.join(format!("{name}-of-{version}")), "text").unwrap();
            fs::write(folder.join(format!("{name}")), format!("{version}")).unwrap();
        }
        let script = self.scratch.path().join("after");
        fs::write(&script, "#!/bin/sh\nset -e\necho \"shop: $1\"\n").unwrap();
        let build = Build {
            name: "shop".to_owned(),
            version: format!("{version}.0"),
            architecture: Some("all".to_owned()),
            maintainer: Some("Ada Example <ada@example.com>".to_owned()),
            description: Some("a shop".to_owned()),
            prefix: Some("/opt/shop".to_owned()),
            chdir: Some(folder),
            scripts: Scripts { after_install: Some(script), ..Scripts::default() },
            source_date_epoch: Some(1_700_000_000),
            ..Build::default()
        };
        build.write_to(self.scratch.path()).unwrap().path
    }

    fn publish(&self, deb: PathBuf) {
        let now = Timestamp(jiff::Timestamp::now().as_millisecond());
        let root = self.scratch.path().join("repository");
        let repository = Repository::open_or_create(&root).unwrap();
        let key = Key::for_repository(repository.root(), &self.scratch.path().join("key.asc"), now).unwrap();
        let debs = [deb];
        repository.publish(&Publish { suite: "stable", component: "main", debs: &debs }, &key, now).unwrap();
    }

    fn host(&self) -> Host {
        let root = self.scratch.path().join("repository");
        let source = format!("deb [signed-by={0}/key.gpg] file:{0} stable main", root.display());
        let host = self.scratch.path().join("host");
        hosts::prepare_root(&host, &source).unwrap();
        Host::root("host", host)
    }

    fn files(&self) -> usize {
        fs::read_dir(self.scratch.path().join("host/opt/shop")).unwrap().count()
    }
}

async fn install(host: &Host, version: &str) -> Result<(), (String, String)> {
    let mut said = String::new();
    let mut keep = |_: process::Stream, line: &[u8]| said.extend([&*String::from_utf8_lossy(line), "\n"]);
    let order = Install { package: "shop", version, allow_downgrade: false, timeout: Span::minutes(2) };
    let done = hosts::install(host, order, &mut keep, &CancellationToken::new()).await;
    done.map(drop).map_err(|error| (error.to_string(), said))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_is_killed_at_any_moment_is_done_by_the_next_attempt() {
    process::set_shim(Path::new(env!("CARGO_BIN_EXE_siskin")).to_owned());
    let rounds = number("SISKIN_KILLS").unwrap_or(ROUNDS);
    let place = Place::new();
    let mut dice = Dice::new(number("SISKIN_SEED").unwrap_or(9));
    let mut cut = 0;
    for version in 1..=rounds {
        place.publish(place.package(version));
        let host = place.host();
        let version = format!("{version}.0");
        let after = Duration::from_millis(30 + dice.roll(400));
        // What is dropped is killed, with all that it started.
        cut += u64::from(tokio::time::timeout(after, install(&host, &version)).await.is_err());
        if let Err((error, said)) = install(&host, &version).await {
            panic!("killed after {after:?}, then: {error}\n{said}");
        }
        let held = hosts::installed_version(&host, "shop", &CancellationToken::new()).await.unwrap();
        assert_eq!(held, Some(version));
        assert_eq!(place.files(), 40);
    }
    println!("kill points tried: {cut} of an installation");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_is_killed_at_any_moment_can_be_taken_back() {
    process::set_shim(Path::new(env!("CARGO_BIN_EXE_siskin")).to_owned());
    let rounds = number("SISKIN_KILLS").unwrap_or(ROUNDS);
    let place = Place::new();
    let mut dice = Dice::new(number("SISKIN_SEED").unwrap_or(10));
    place.publish(place.package(1));
    let (host, mut cut) = (place.host(), 0);
    for _ in 0..rounds {
        let after = Duration::from_millis(30 + dice.roll(400));
        cut += u64::from(tokio::time::timeout(after, install(&host, "1.0")).await.is_err());
        let mut said = String::new();
        let mut keep = |_: process::Stream, line: &[u8]| said.extend([&*String::from_utf8_lossy(line), "\n"]);
        let removed =
            hosts::remove(&host, "shop", Span::minutes(2), &mut keep, &CancellationToken::new()).await;
        if let Err(error) = removed {
            panic!("killed after {after:?}, then: {error}\n{said}");
        }
        let held = hosts::installed_version(&host, "shop", &CancellationToken::new()).await.unwrap();
        assert_eq!(held, None);
        assert!(!place.scratch.path().join("host/opt/shop").exists(), "killed after {after:?}\n{said}");
    }
    println!("kill points tried: {cut} of an installation that is removed then");
}
