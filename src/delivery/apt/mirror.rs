//! A copy of a repository where a web server serves it: another directory, or one on a host that ssh reaches.
//!
//! Promises: clients of the copy see the old suite or the new one. Packages and indexes by their hashes come first, each whole under its name or not
//! at all; then a suite's new generation; last its link, by one rename. What is there already is not sent again, so a copy that broke off goes on
//! where it was. Afterwards what the repository has let go of goes from the copy, too; the grace that clients have here they have there.
//!
//! The far end needs a POSIX shell, find, wc and tar.

mod far;
mod near;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::generation::list;
use super::{Error, Place, Repository, index, suite};
use crate::ssh::{HostKeys, Target};

/// Where a copy lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mirror {
    Folder(PathBuf),
    Host { target: Box<Target>, path: String },
}

impl std::fmt::Display for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Mirror::Folder(path) => path.display().fmt(f),
            Mirror::Host { target, path } => write!(f, "ssh://{target}{path}"),
        }
    }
}

impl Mirror {
    /// A directory, or `ssh://[USER@]HOST[:PORT]/PATH`.
    pub fn parse(text: &str, key: Option<&Path>, known_hosts: Option<&Path>) -> Result<Mirror, Error> {
        let wrong = |reason: &str| {
            Err(Error::Refused(format!("`{}` is no place for a copy: {reason}", text.escape_debug())))
        };
        let Some(address) = text.strip_prefix("ssh://") else {
            if text.is_empty() || text.contains("://") {
                return wrong("give a directory or ssh://[USER@]HOST[:PORT]/PATH");
            }
            return Ok(Mirror::Folder(PathBuf::from(text)));
        };
        let Some((host, path)) = address.split_once('/') else { return wrong("it names no directory") };
        let (user, host) = host.rsplit_once('@').map_or((None, host), |(user, host)| (Some(user), host));
        let bracketed = host.strip_prefix('[').and_then(|host| host.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, rest)) => (host, rest.strip_prefix(':')),
            None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
        };
        let port = match port.map(str::parse) {
            None => None,
            Some(Ok(port)) => Some(port),
            Some(Err(_)) => return wrong("its port is no number"),
        };
        if host.is_empty() || path.is_empty() || path.contains(['\0', '\n']) {
            return wrong("it needs a host and a directory");
        }
        let target = Target {
            port,
            user: user.map(str::to_owned),
            key: key.map(Path::to_owned),
            known_hosts: known_hosts.map(Path::to_owned),
            host_keys: HostKeys::Strict,
            ..Target::new(host)
        };
        Ok(Mirror::Host { target: Box::new(target), path: format!("/{path}") })
    }

    /// All copies of a repository that siskin.yaml names.
    pub fn all_of(place: &Place) -> Result<Vec<Mirror>, Error> {
        let parse =
            |text: &String| Mirror::parse(text, place.ssh_key.as_deref(), place.known_hosts.as_deref());
        place.mirrors.iter().map(parse).collect()
    }
}

/// What a copy took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mirrored {
    pub mirror: String,
    /// Suites that clients of the copy see anew.
    pub suites: Vec<String>,
    pub files_sent: usize,
    pub bytes_sent: u64,
    pub files_removed: usize,
}

/// What a copy holds.
#[derive(Debug, Default)]
struct Held {
    /// Files by their paths, with their sizes.
    files: BTreeMap<String, u64>,
    /// Suites, and the generations that their links name.
    links: BTreeMap<String, String>,
    /// Parts of files that were being sent when a copy broke off.
    pieces: BTreeMap<String, u64>,
}

/// A file for a copy.
struct Item {
    path: String,
    size: u64,
    content: Content,
}

enum Content {
    File(PathBuf),
    /// What would be gone when the repository is published to twice in the meantime.
    Bytes(Vec<u8>),
}

impl Item {
    fn read(&self) -> Result<Vec<u8>, Error> {
        match &self.content {
            Content::Bytes(bytes) => Ok(bytes.clone()),
            Content::File(path) => {
                fs::read(path).map_err(|source| Error::Disk { verb: "read", path: path.clone(), source })
            }
        }
    }
}

/// One suite at one moment.
struct Shot {
    suite: String,
    generation: String,
    /// Its own files, indexes under their plain names among them.
    own: Vec<Item>,
    /// Links in it, with what they name.
    links: Vec<(String, String)>,
}

/// The repository at one moment.
struct Snapshot {
    /// Packages and indexes by their hashes.
    lasting: Vec<Item>,
    keys: Vec<Item>,
    shots: Vec<Shot>,
    /// Everything that there is, also what only clients in flight want.
    all: BTreeSet<String>,
}

impl Repository {
    /// Brings a copy up to date.
    pub async fn mirror(&self, mirror: &Mirror, cancel: &CancellationToken) -> Result<Mirrored, Error> {
        if let Mirror::Folder(folder) = mirror {
            self.refuse_itself(folder)?;
        }
        let _turn = self.mirror_lock()?;
        let snapshot = self.snapshot()?;
        let side = Side { mirror, cancel };
        let held = side.held().await?;
        let mut done = Mirrored { mirror: mirror.to_string(), ..Mirrored::default() };
        let is_missing = |item: &&Item| held.files.get(&item.path) != Some(&item.size);
        let missing: Vec<&Item> = snapshot.lasting.iter().filter(is_missing).collect();
        side.put(&missing, &held, &mut done).await?;
        // Public keys change when they are rotated, and stay as long.
        side.put(&snapshot.keys.iter().collect::<Vec<_>>(), &held, &mut done).await?;
        for shot in &snapshot.shots {
            let is_current = held.links.get(&shot.suite) == Some(&shot.generation);
            if is_current && shot.own.iter().all(|item| !is_missing(&item)) {
                continue;
            }
            side.put(&shot.own.iter().collect::<Vec<_>>(), &held, &mut done).await?;
            side.show(shot).await?;
            done.suites.push(shot.suite.clone());
        }
        let current: Vec<String> =
            snapshot.shots.iter().map(|shot| format!("dists/{}/", shot.generation)).collect();
        let is_over = |path: &&String| {
            let is_ours = path.starts_with("pool/") || path.starts_with("dists/.");
            is_ours && !snapshot.all.contains(*path) && !current.iter().any(|folder| path.starts_with(folder))
        };
        let over: Vec<&String> = held.files.keys().filter(is_over).collect();
        done.files_removed = over.len();
        side.remove(&over).await?;
        Ok(done)
    }

    fn refuse_itself(&self, folder: &Path) -> Result<(), Error> {
        let real = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        if real.starts_with(&self.root) || self.root.starts_with(&real) {
            return Err(Error::Refused(format!(
                "{} is the repository itself, or lies in it; a copy needs a directory of its own",
                folder.display()
            )));
        }
        Ok(())
    }

    /// One copy at a time, while publishers go on.
    fn mirror_lock(&self) -> Result<nix::fcntl::Flock<fs::File>, Error> {
        let path = self.internal().join("mirror.lock");
        let failed = |source: std::io::Error| Error::Disk { verb: "lock", path: path.clone(), source };
        let file =
            fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive)
            .map_err(|(_, error)| failed(error.into()))
    }

    fn snapshot(&self) -> Result<Snapshot, Error> {
        let _lock = self.lock()?;
        let mut lasting: BTreeMap<String, Item> = BTreeMap::new();
        let mut shots = Vec::new();
        for name in self.suites()? {
            let Some(found) = suite::read(&self.root, &name)? else { continue };
            for entry in &found.entries {
                self.add_lasting(entry.filename().to_owned(), entry.size(), &mut lasting);
            }
            for algorithm in index::ALGORITHMS {
                for (path, size, hash) in index::release_files(&found.release, algorithm) {
                    let Some((place, _)) = path.rsplit_once('/') else { continue };
                    let path = format!("dists/.{name}.by-hash/{place}/{algorithm}/{hash}");
                    self.add_lasting(path, size, &mut lasting);
                }
            }
            shots.push(self.shot(&name, &found)?);
        }
        let mut keys = Vec::new();
        for name in ["key.asc", "key.gpg"] {
            let path = self.root.join(name);
            let bytes = fs::read(&path).map_err(|source| Error::Disk { verb: "read", path, source })?;
            keys.push(Item {
                path: name.to_owned(),
                size: bytes.len() as u64,
                content: Content::Bytes(bytes),
            });
        }
        let mut all = BTreeSet::new();
        for folder in ["pool", "dists"] {
            names_below(&self.root.join(folder), folder, &mut all)?;
        }
        Ok(Snapshot { lasting: lasting.into_values().collect(), keys, shots, all })
    }

    fn add_lasting(&self, path: String, size: u64, lasting: &mut BTreeMap<String, Item>) {
        let content = Content::File(self.root.join(&path));
        lasting.insert(path.clone(), Item { path, size, content });
    }

    fn shot(&self, name: &str, found: &suite::Suite) -> Result<Shot, Error> {
        let folder = self.root.join("dists").join(&found.generation);
        let mut names: BTreeSet<String> =
            ["Release", "Release.gpg", "InRelease"].into_iter().map(str::to_owned).collect();
        let listed = index::release_files(&found.release, "SHA256");
        names.extend(listed.iter().map(|(path, _, _)| path.clone()));
        let mut own = Vec::new();
        for name in names {
            let path = folder.join(&name);
            let bytes = fs::read(&path).map_err(|source| Error::Disk { verb: "read", path, source })?;
            let path = format!("dists/{}/{name}", found.generation);
            own.push(Item { path, size: bytes.len() as u64, content: Content::Bytes(bytes) });
        }
        let places: BTreeSet<&str> =
            listed.iter().filter_map(|(path, _, _)| path.rsplit_once('/')).map(|(place, _)| place).collect();
        let link = |place: &str| {
            let target = format!("../../../.{name}.by-hash/{place}");
            (format!("dists/{}/{place}/by-hash", found.generation), target)
        };
        let links = places.into_iter().map(link).collect();
        Ok(Shot { suite: name.to_owned(), generation: found.generation.clone(), own, links })
    }
}

fn names_below(folder: &Path, name: &str, all: &mut BTreeSet<String>) -> Result<(), Error> {
    for path in list(folder)? {
        let inside = format!("{name}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            names_below(&path, &inside, all)?;
        } else {
            all.insert(inside);
        }
    }
    Ok(())
}

/// A copy, as it is worked on.
struct Side<'a> {
    mirror: &'a Mirror,
    cancel: &'a CancellationToken,
}

impl Side<'_> {
    async fn held(&self) -> Result<Held, Error> {
        match self.mirror {
            Mirror::Folder(folder) => near::held(folder),
            Mirror::Host { target, path } => self.far(target, path).held().await,
        }
    }

    async fn put(&self, items: &[&Item], held: &Held, done: &mut Mirrored) -> Result<(), Error> {
        done.files_sent += items.len();
        done.bytes_sent += items.iter().map(|item| item.size).sum::<u64>();
        match self.mirror {
            Mirror::Folder(folder) => items.iter().try_for_each(|item| {
                if self.cancel.is_cancelled() {
                    return Err(failed(self.mirror, "cancelled"));
                }
                near::put(folder, item)
            }),
            Mirror::Host { target, path } => self.far(target, path).put(items, held).await,
        }
    }

    /// The moment at which clients of the copy see a suite's new generation.
    async fn show(&self, shot: &Shot) -> Result<(), Error> {
        match self.mirror {
            Mirror::Folder(folder) => near::show(folder, shot),
            Mirror::Host { target, path } => self.far(target, path).show(shot).await,
        }
    }

    async fn remove(&self, paths: &[&String]) -> Result<(), Error> {
        match self.mirror {
            _ if paths.is_empty() => Ok(()),
            Mirror::Folder(folder) => near::remove(folder, paths),
            Mirror::Host { target, path } => self.far(target, path).remove(paths).await,
        }
    }

    fn far<'b>(&'b self, target: &'b Target, path: &'b str) -> far::Far<'b> {
        far::Far { target, path, mirror: self.mirror, cancel: self.cancel }
    }
}

fn failed(mirror: &Mirror, reason: impl std::fmt::Display) -> Error {
    Error::Mirror { mirror: mirror.to_string(), reason: reason.to_string() }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_wrong_ones_refused() {
        let shown = |text: &str| Mirror::parse(text, None, None).unwrap().to_string();
        for text in ["/srv/apt", "ssh://web/srv/apt", "ssh://deploy@web.example.com:2222/srv/apt"] {
            assert_eq!(shown(text), text);
        }
        let Mirror::Host { target, .. } = Mirror::parse("ssh://[::1]:22/srv", None, None).unwrap() else {
            panic!("it is a host")
        };
        assert_eq!((target.host.as_str(), target.port), ("::1", Some(22)));
        for text in [
            "",
            "ssh://web",
            "ssh:///srv",
            "ssh://web/",
            "ssh://web:x/srv",
            "http://web/apt",
            "ssh://web/a\nb",
        ] {
            assert!(matches!(Mirror::parse(text, None, None), Err(Error::Refused(_))), "{text}");
        }
    }
}
