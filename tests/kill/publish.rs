//! A server that is killed in the middle of a publication leaves the index of before or the one of after.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use siskin::delivery::apt::Repository;
use siskin::delivery::deb::Build;
use siskin::model::Timestamp;

use super::Dice;
use crate::support::server::Server;

const ROUNDS: u64 = 8;
const PACKAGES: u64 = 6;

fn package(folder: &Path, name: &str) -> PathBuf {
    let input = folder.join(name);
    fs::create_dir_all(&input).unwrap();
    fs::write(input.join("word"), name.repeat(20_000)).unwrap();
    let build = Build {
        name: name.to_owned(),
        version: "1.0".to_owned(),
        architecture: Some("all".to_owned()),
        maintainer: Some("Ada Example <ada@example.com>".to_owned()),
        description: Some("a word".to_owned()),
        prefix: Some(format!("/opt/{name}")),
        chdir: Some(input),
        source_date_epoch: Some(1_700_000_000),
        ..Build::default()
    };
    build.write_to(folder).unwrap().path
}

/// The names in the suite's index, after a look at every signature and hash; nothing before the first publication.
fn published(root: &Path) -> Vec<String> {
    if !root.join("dists/stable/InRelease").exists() {
        return Vec::new();
    }
    let now = Timestamp(jiff::Timestamp::now().as_millisecond());
    let verified = Repository::open_or_create(root).unwrap().verify(now).unwrap();
    assert_eq!(verified.problems, [""; 0]);
    let text = fs::read_to_string(root.join("dists/stable/main/binary-amd64/Packages")).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("Package: ")).map(str::to_owned).collect()
}

#[test]
fn a_publication_that_was_killed_shows_all_or_nothing_and_comes_to_its_end_after() {
    let scratch = tempfile::tempdir().unwrap();
    let mut server = Server::start(&[]);
    let root = server.data().join("apt");
    let mut dice = Dice::new(3);
    let (mut before, mut cut) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        let names: Vec<String> = (0..PACKAGES).map(|number| format!("word-{round}-{number}")).collect();
        let debs: Vec<PathBuf> = names.iter().map(|name| package(scratch.path(), name)).collect();
        let with = json!({"packages": debs, "suite": "stable"});
        let run = server.post("/runs", &json!({"run": "apt.publish", "with": with}))["id"].as_i64().unwrap();
        std::thread::sleep(Duration::from_millis(dice.roll(150)));
        server.kill();
        let now = published(&root);
        let mut after = before.clone();
        after.extend(names);
        after.sort();
        assert!(now == before || now == after, "neither old nor new: {now:?}");
        cut += u64::from(now == before);
        server.run();
        let ended = server.wait_for_end(run);
        assert_eq!(ended["status"], "succeeded", "{ended}");
        assert_eq!(published(&root), after);
        before = after;
    }
    println!("kill points tried: {ROUNDS} of a publication, of which {cut} left the old index");
}
