//! A signed repository of small packages, and dpkg roots that take from it.

use std::fs;
use std::path::Path;

use siskin::delivery::apt::{Key, Publish, Repository};
use siskin::delivery::deb::Build;
use siskin::delivery::hosts;
use siskin::model::Timestamp;

/// Puts a package in these versions into the repository `folder/apt`. It has the file `/opt/NAME/version`.
pub(crate) fn publish(folder: &Path, name: &str, versions: &[&str]) {
    publish_with(folder, name, versions, None);
}

/// As `publish`, with a script that is run after the installation.
pub(crate) fn publish_with(folder: &Path, name: &str, versions: &[&str], after_install: Option<&str>) {
    let input = folder.join(format!("input-{name}"));
    fs::create_dir_all(&input).unwrap();
    let script = after_install.map(|text| {
        let path = folder.join("after-install");
        fs::write(&path, text).unwrap();
        path
    });
    let mut debs = Vec::new();
    for version in versions {
        fs::write(input.join("version"), version).unwrap();
        let mut build = Build {
            name: name.to_owned(),
            version: (*version).to_owned(),
            architecture: Some("all".to_owned()),
            maintainer: Some("Ada Example <ada@example.com>".to_owned()),
            description: Some("a test".to_owned()),
            prefix: Some(format!("/opt/{name}")),
            chdir: Some(input.clone()),
            source_date_epoch: Some(1_700_000_000),
            ..Build::default()
        };
        build.scripts.after_install = script.clone();
        debs.push(build.write_to(folder).unwrap().path);
    }
    let now = Timestamp(jiff::Timestamp::now().as_millisecond());
    let repository = Repository::open_or_create(&folder.join("apt")).unwrap();
    let key = Key::for_repository(repository.root(), &folder.join("key.asc"), now).unwrap();
    repository.publish(&Publish { suite: "stable", component: "main", debs: &debs }, &key, now).unwrap();
}

/// Makes `folder/name` a host that knows the repository.
pub(crate) fn root(folder: &Path, name: &str) {
    let repository = folder.join("apt");
    let source = format!("deb [signed-by={0}/key.gpg] file:{0} stable main", repository.display());
    hosts::prepare_root(&folder.join(name), &source).unwrap();
}
