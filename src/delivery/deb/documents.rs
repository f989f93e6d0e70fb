//! What Debian expects in a package beside the software.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use super::super::package::Naming;
use super::super::package::tree::{self, Entry, Tree};
use super::contents::DEFAULT_MAINTAINER;
use super::control::Paragraph;
use super::{Build, Error};

/// The changelogs that were given: of the package, and of those who wrote the software.
pub(super) struct Changelogs {
    pub(super) own: Option<Vec<u8>>,
    pub(super) upstream: Option<Vec<u8>>,
}

pub(super) fn read_changelog(path: &Path) -> Result<Vec<u8>, Error> {
    let content = fs::read(path).map_err(|error| Error::input(path, error.to_string()))?;
    if content.is_empty() {
        return Err(Error::input(path, "the changelog is empty"));
    }
    Ok(content)
}

/// What Debian expects beside the software: a changelog, a statement of the licence, and a word to lintian about places that
/// only software from outside Debian uses.
pub(super) fn add_documents(
    build: &Build,
    naming: &Naming,
    paragraph: &Paragraph,
    changelogs: Changelogs,
    time: u64,
    tree: &mut Tree,
) -> Result<(), Error> {
    let folder = format!("usr/share/doc/{}", naming.name);
    let overrides = overrides(&naming.name, tree);
    let maintainer = paragraph.get("Maintainer").unwrap_or(DEFAULT_MAINTAINER);
    let own = changelogs.own.unwrap_or_else(|| made_changelog(build, naming, maintainer, time).into_bytes());
    let compress = |changelog| {
        compressed_changelog(changelog).map_err(|source| Error::Write { path: "changelog.gz".into(), source })
    };
    let own = compress(own)?;
    let upstream = changelogs.upstream.map(compress).transpose()?;
    let mut add = |path: String, content: Vec<u8>| {
        tree.entry(path.into_bytes()).or_insert_with(|| Entry::made(content));
    };
    if naming.iteration.is_some() || naming.version.contains('-') || upstream.is_some() {
        add(format!("{folder}/changelog.Debian.gz"), own.clone());
    }
    add(format!("{folder}/changelog.gz"), upstream.unwrap_or(own));
    add(format!("{folder}/copyright"), copyright(build, naming, maintainer, time).into_bytes());
    if !overrides.is_empty() {
        add(format!("usr/share/lintian/overrides/{}", naming.name), overrides.into_bytes());
    }
    tree::add_parents(tree)
}

fn compressed_changelog(content: Vec<u8>) -> io::Result<Vec<u8>> {
    if content.starts_with(&[0x1f, 0x8b]) {
        return Ok(content);
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&content)?;
    encoder.finish()
}

fn made_changelog(build: &Build, naming: &Naming, maintainer: &str, time: u64) -> String {
    let date = utc(time).strftime("%a, %d %b %Y %H:%M:%S +0000");
    let Naming { name, full_version: version, .. } = naming;
    let distribution = build.deb.dist.as_deref().unwrap_or("unstable");
    format!(
        "{name} ({version}) {distribution}; urgency=medium\n\n  * Version {version}.\n\n -- {maintainer}  {date}\n"
    )
}

fn utc(seconds: u64) -> jiff::Timestamp {
    let at = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    at.unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

fn copyright(build: &Build, naming: &Naming, maintainer: &str, time: u64) -> String {
    let year = utc(time).strftime("%Y");
    let holder = build.vendor.as_deref().map(str::trim).unwrap_or(maintainer);
    let licence = build.license.as_deref().map_or("not stated", str::trim);
    let source = build.url.as_deref().map(|url| format!("Source: {}\n", url.trim())).unwrap_or_default();
    let full_text = match common_licence(licence) {
        Some(file) => format!("On Debian systems its full text is in /usr/share/common-licenses/{file}.\n"),
        None => String::new(),
    };
    format!("{}\n{source}Copyright (C) {year} {holder}\nLicense: {licence}\n{full_text}", naming.name)
}

/// The licences whose text every Debian system has.
fn common_licence(name: &str) -> Option<&'static str> {
    let plain =
        name.to_ascii_lowercase().replace("-only", "").replace("-or-later", "").replace(['+', ' '], "");
    Some(match plain.as_str() {
        "apache-2.0" | "apache2" | "apache2.0" | "apache-2" => "Apache-2.0",
        "gpl-2" | "gpl-2.0" | "gplv2" | "gpl2" => "GPL-2",
        "gpl-3" | "gpl-3.0" | "gplv3" | "gpl3" => "GPL-3",
        "lgpl-2.1" | "lgplv2.1" => "LGPL-2.1",
        "lgpl-3" | "lgpl-3.0" | "lgplv3" => "LGPL-3",
        "mpl-2.0" | "mpl2" | "mplv2" => "MPL-2.0",
        "bsd" | "bsd-3-clause" => "BSD",
        _ => return None,
    })
}

/// Places that Debian's own packages must leave alone are where other people's belong; lintian is told so.
fn overrides(name: &str, tree: &Tree) -> String {
    const PLACES: [(&[u8], &str); 4] = [
        (b"opt/", "dir-or-file-in-opt"),
        (b"srv/", "dir-or-file-in-srv"),
        (b"home/", "dir-or-file-in-home"),
        (b"usr/local/", "dir-in-usr-local file-in-usr-local dir-or-file-in-usr-local"),
    ];
    let mut text = String::new();
    for (place, tags) in PLACES {
        if tree.keys().any(|path| path.starts_with(place)) {
            text.extend(tags.split(' ').map(|tag| format!("{name}: {tag}\n")));
        }
    }
    text
}
