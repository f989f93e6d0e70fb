//! What goes into a package: inputs are walked, mapped to their places, and judged before anything is written.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::{Build, Error, InputType, attributes, tar_input};

/// Entries by their path in the package, without `/` before or behind. A folder sorts before what it holds.
pub(in super::super) type Tree = BTreeMap<Vec<u8>, Entry>;

/// What goes in, and the folder that holds what came out of tar files, for as long as it is needed.
pub(in super::super) struct Inputs {
    pub(in super::super) tree: Tree,
    pub(in super::super) staging: Option<tempfile::TempDir>,
}

/// Who owns an entry; root where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Owner {
    pub(in super::super) user: Option<String>,
    pub(in super::super) group: Option<String>,
}

impl Owner {
    pub(in super::super) fn user(&self) -> &str {
        self.user.as_deref().unwrap_or("root")
    }
    pub(in super::super) fn group(&self) -> &str {
        self.group.as_deref().unwrap_or("root")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Entry {
    pub(in super::super) kind: Kind,
    pub(in super::super) mode: u32,
    /// Seconds since 1970; nothing for what was not in the inputs.
    pub(in super::super) mtime: Option<u64>,
    pub(in super::super) owner: Owner,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Kind {
    Directory,
    File {
        source: PathBuf,
        size: u64,
        identity: Option<(u64, u64)>,
    },
    Made(Vec<u8>),
    Symlink(Vec<u8>),
    /// The same file as another entry that comes before it.
    HardLink(Vec<u8>),
}

impl Kind {
    /// How much content it has.
    pub(in super::super) fn size(&self) -> u64 {
        match self {
            Kind::File { size, .. } => *size,
            Kind::Made(content) => content.len() as u64,
            Kind::Directory | Kind::Symlink(_) | Kind::HardLink(_) => 0,
        }
    }
}

impl Entry {
    pub(in super::super) fn directory() -> Entry {
        Entry { kind: Kind::Directory, mode: 0o755, mtime: None, owner: Owner::default() }
    }

    pub(in super::super) fn made(content: Vec<u8>) -> Entry {
        Entry { kind: Kind::Made(content), mode: 0o644, mtime: None, owner: Owner::default() }
    }

    pub(in super::super) fn is_file(&self) -> bool {
        matches!(self.kind, Kind::File { .. } | Kind::Made(_) | Kind::HardLink(_))
    }
}

/// Walks all inputs of `build`. Every folder above an entry is there too.
pub(in super::super) fn collect(build: &Build) -> Result<Inputs, Error> {
    let mut collector = Collector {
        excludes: exclude_set(&build.excludes)?,
        keeps_owners: build.use_file_permissions,
        tree: Tree::new(),
        origins: HashMap::new(),
    };
    let mut staging = None;
    match build.input_type {
        InputType::Empty if build.inputs.is_empty() => {}
        InputType::Empty => return Err(Error::field("inputs", "a package of type empty takes none")),
        InputType::Dir => {
            let everything = [".".to_owned()];
            let inputs = if build.inputs.is_empty() { &everything[..] } else { &build.inputs[..] };
            for input in inputs {
                collector.walk(Input::resolve(build, input)?)?;
            }
        }
        InputType::Tar => staging = Some(collector.unpack(build)?),
    }
    let mut tree = collector.tree;
    let is_empty = tree.is_empty();
    for directory in &build.directories {
        let wrong =
            |reason: &str| Error::field("directories", format!("`{}`: {reason}", directory.escape_debug()));
        let path = target_path(Path::new(directory)).map_err(|_| wrong("`..` has no place there"))?;
        let entry = tree.entry(path).or_insert_with(Entry::directory);
        if entry.kind != Kind::Directory {
            return Err(wrong("the package holds a file of that name"));
        }
    }
    if is_empty && build.directories.is_empty() && !build.allow_empty && build.input_type != InputType::Empty
    {
        let place = build.chdir.clone().unwrap_or_else(|| PathBuf::from("."));
        return Err(Error::input(place, "the inputs hold nothing to package"));
    }
    mark_hard_links(&mut tree);
    Ok(Inputs { tree, staging })
}

/// The last of what is done to a tree: the folders that are missing, and the modes and owners that the order names.
pub(in super::super) fn finish(build: &Build, tree: &mut Tree) -> Result<(), Error> {
    add_parents(tree)?;
    attributes::apply(&build.attributes, build.user.as_deref(), build.group.as_deref(), tree)
}

/// Adds the folders that entries need and no input brought.
pub(in super::super) fn add_parents(tree: &mut Tree) -> Result<(), Error> {
    let paths: Vec<Vec<u8>> = tree.keys().cloned().collect();
    for path in paths {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        for end in ends {
            let parent = tree.entry(path[..end].to_vec()).or_insert_with(Entry::directory);
            if parent.kind != Kind::Directory {
                let reason = format!("it would lie in `{}`, which is no folder", show(&path[..end]));
                return Err(Error::input(as_path(&path), reason));
            }
        }
    }
    Ok(())
}

/// The path in the package as one would write it.
pub(in super::super) fn as_path(path: &[u8]) -> PathBuf {
    Path::new("/").join(OsStr::from_bytes(path))
}

pub(in super::super) fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// A path within the package: `//a/./b/` is `a/b`. `..` has no meaning there.
pub(in super::super) fn target_path(path: &Path) -> Result<Vec<u8>, Error> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.as_bytes()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                return Err(Error::input(
                    path,
                    "`..` has no place in a package; map it with SOURCE=DESTINATION",
                ));
            }
        }
    }
    Ok(parts.join(&b'/'))
}

/// One input: what to read, and where it goes.
struct Input {
    root: PathBuf,
    target: Vec<u8>,
    /// The name that excludes see for the root; empty when only its contents are taken.
    seen_as: Vec<u8>,
    contents_only: bool,
}

impl Input {
    /// By fpm's rules: `PATH` keeps its path below the prefix; `DIR/=DEST` puts the contents into DEST, `DIR=DEST` the folder
    /// itself, `FILE=DEST/` the file into DEST and `FILE=DEST` the file under that name.
    fn resolve(build: &Build, text: &str) -> Result<Input, Error> {
        if text.is_empty() {
            return Err(Error::field("input", "it is empty; `.` is the folder itself"));
        }
        let base = build.chdir.clone().unwrap_or_else(|| PathBuf::from("."));
        let prefix = build.prefix.clone().unwrap_or_else(|| "/".to_owned());
        let exists = fs::symlink_metadata(base.join(text)).is_ok();
        match text
            .split_once('=')
            .filter(|(source, target)| !exists && !source.is_empty() && !target.is_empty())
        {
            Some((source, target)) => Input::mapped(&base, &prefix, source, target),
            None => Input::plain(&base, &prefix, text),
        }
    }

    fn plain(base: &Path, prefix: &str, text: &str) -> Result<Input, Error> {
        let inner = target_path(Path::new(text))?;
        let target = join(&target_path(Path::new(prefix))?, &inner);
        let contents_only = inner.is_empty();
        let root = if contents_only && !text.starts_with('/') { base.to_owned() } else { base.join(text) };
        Ok(Input { root, target, contents_only, seen_as: inner })
    }

    fn mapped(base: &Path, prefix: &str, source: &str, target: &str) -> Result<Input, Error> {
        let root = base.join(source);
        let below = join(&target_path(Path::new(prefix))?, &target_path(Path::new(target))?);
        let contents_only = source.ends_with('/') || matches!(source, "." | "..");
        if contents_only {
            return Ok(Input { root, target: below, seen_as: Vec::new(), contents_only });
        }
        let name = root.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        let is_directory = fs::symlink_metadata(&root).is_ok_and(|metadata| metadata.is_dir());
        let target = if is_directory || target.ends_with('/') { join(&below, &name) } else { below };
        Ok(Input { root, target, seen_as: name, contents_only })
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        return name.to_vec();
    }
    if name.is_empty() {
        return parent.to_vec();
    }
    [parent, name].join(&b'/')
}

fn exclude_set(patterns: &[String]) -> Result<GlobSet, Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let bare = pattern.trim_start_matches("./").trim_matches('/');
        let glob = GlobBuilder::new(bare).literal_separator(false).build();
        set.add(glob.map_err(|error| Error::field("exclude", format!("`{pattern}`: {error}")))?);
    }
    set.build().map_err(|error| Error::field("exclude", error.to_string()))
}

struct Collector {
    excludes: GlobSet,
    /// Whether files stay with those who have them here.
    keeps_owners: bool,
    tree: Tree,
    origins: HashMap<Vec<u8>, PathBuf>,
}

impl Collector {
    fn walk(&mut self, input: Input) -> Result<(), Error> {
        // Contents are taken through a link, as `cp -a DIR/.` does; anything else is taken as it is.
        let metadata =
            if input.contents_only { fs::metadata(&input.root) } else { fs::symlink_metadata(&input.root) };
        let metadata = metadata.map_err(|error| Error::input(&input.root, error.to_string()))?;
        if input.contents_only && !metadata.is_dir() {
            return Err(Error::input(&input.root, "it is no folder"));
        }
        let mut waiting = Vec::new();
        if input.contents_only {
            list(&input.root, &input.target, &input.seen_as, &mut waiting)?;
        } else {
            waiting.push((input.root, input.target, input.seen_as));
        }
        while let Some((source, target, seen_as)) = waiting.pop() {
            if self.is_excluded(&target, &seen_as) {
                continue;
            }
            let metadata =
                fs::symlink_metadata(&source).map_err(|error| Error::input(&source, error.to_string()))?;
            if metadata.is_dir() {
                list(&source, &target, &seen_as, &mut waiting)?;
            }
            let entry = entry(&source, &metadata, self.keeps_owners)?;
            self.insert(source, target, entry)?;
        }
        Ok(())
    }

    /// Puts the contents of the tar files in, under the prefix.
    fn unpack(&mut self, build: &Build) -> Result<tempfile::TempDir, Error> {
        if build.inputs.is_empty() {
            return Err(Error::field("inputs", "a package of type tar is made of tar files; name them"));
        }
        let staging = tar_input::staging()?;
        let base = build.chdir.clone().unwrap_or_else(|| PathBuf::from("."));
        let mut number = 0;
        for input in &build.inputs {
            let exists = fs::symlink_metadata(base.join(input)).is_ok();
            let (source, place) = match input.split_once('=').filter(|_| !exists) {
                Some((source, place)) => (source, place),
                None => (input.as_str(), ""),
            };
            let prefix = target_path(Path::new(build.prefix.as_deref().unwrap_or("/")))?;
            let prefix = join(&prefix, &target_path(Path::new(place))?);
            let archive = base.join(source);
            for (path, mut entry) in tar_input::read(&archive, staging.path(), &mut number)? {
                let target = join(&prefix, &path);
                if self.is_excluded(&target, &path) || self.is_below_excluded(&path) {
                    continue;
                }
                if !self.keeps_owners {
                    entry.owner = Owner::default();
                }
                // The last one counts, as for tar itself.
                let both_folders = |old: &Entry| old.kind == Kind::Directory && entry.kind == Kind::Directory;
                if self.tree.get(&target).is_some_and(|old| !both_folders(old)) {
                    self.tree.remove(&target);
                }
                self.insert(archive.clone(), target, entry)?;
            }
        }
        Ok(staging)
    }

    /// A walk never goes into a folder that is left out; an archive lists what is in it all the same.
    fn is_below_excluded(&self, path: &[u8]) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        ends.into_iter().any(|end| self.excludes.is_match(OsStr::from_bytes(&path[..end])))
    }

    fn is_excluded(&self, target: &[u8], seen_as: &[u8]) -> bool {
        self.excludes.is_match(OsStr::from_bytes(target))
            || self.excludes.is_match(OsStr::from_bytes(seen_as))
    }

    fn insert(&mut self, source: PathBuf, target: Vec<u8>, entry: Entry) -> Result<(), Error> {
        if target.iter().any(|byte| byte.is_ascii_control()) {
            return Err(Error::input(
                source,
                "its name holds a control character, which dpkg's lists can't hold",
            ));
        }
        let both_folders = |old: &Entry| old.kind == Kind::Directory && entry.kind == Kind::Directory;
        if let Some(old) = self.tree.get(&target).filter(|old| !both_folders(old) && **old != entry) {
            let other = self.origins.get(&target).map(|path| path.display().to_string()).unwrap_or_default();
            let what = if old.kind == Kind::Directory { "the folder" } else { "the file" };
            let reason = format!("it would take the place `/{}` of {what} {other}", show(&target));
            return Err(Error::input(source, reason));
        }
        self.origins.insert(target.clone(), source);
        self.tree.insert(target, entry);
        Ok(())
    }
}

type Waiting = Vec<(PathBuf, Vec<u8>, Vec<u8>)>;

fn list(directory: &Path, target: &[u8], seen_as: &[u8], waiting: &mut Waiting) -> Result<(), Error> {
    let unreadable = |error: std::io::Error| Error::input(directory, format!("it can't be listed: {error}"));
    for item in fs::read_dir(directory).map_err(unreadable)? {
        let item = item.map_err(unreadable)?;
        let name = item.file_name();
        waiting.push((item.path(), join(target, name.as_bytes()), join(seen_as, name.as_bytes())));
    }
    Ok(())
}

fn entry(source: &Path, metadata: &Metadata, keeps_owner: bool) -> Result<Entry, Error> {
    let kind = metadata.file_type();
    let mtime = Some(u64::try_from(metadata.mtime()).unwrap_or(0));
    let mode = metadata.mode() & 0o7777;
    let owner = if keeps_owner { owner_of(metadata) } else { Owner::default() };
    if kind.is_dir() {
        return Ok(Entry { kind: Kind::Directory, mode, mtime, owner });
    }
    if kind.is_symlink() {
        let target = fs::read_link(source).map_err(|error| Error::input(source, error.to_string()))?;
        let kind = Kind::Symlink(target.as_os_str().as_bytes().to_vec());
        return Ok(Entry { kind, mode: 0o777, mtime, owner });
    }
    if kind.is_file() {
        // Opened now, so that a file that can't be read stops the build before it has begun.
        File::open(source).map_err(|error| Error::input(source, format!("it can't be read: {error}")))?;
        let identity = (metadata.nlink() > 1).then(|| (metadata.dev(), metadata.ino()));
        return Ok(Entry {
            kind: Kind::File { source: source.to_owned(), size: metadata.len(), identity },
            mode,
            mtime,
            owner,
        });
    }
    let what = if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a named pipe"
    } else {
        "a device"
    };
    Err(Error::input(source, format!("it is {what}, which a package can't carry; exclude it")))
}

/// By name where this machine knows one, else by number.
fn owner_of(metadata: &Metadata) -> Owner {
    let user = nix::unistd::User::from_uid(metadata.uid().into()).ok().flatten().map(|user| user.name);
    let group = nix::unistd::Group::from_gid(metadata.gid().into()).ok().flatten().map(|group| group.name);
    Owner {
        user: Some(user.unwrap_or_else(|| metadata.uid().to_string())),
        group: Some(group.unwrap_or_else(|| metadata.gid().to_string())),
    }
}

fn mark_hard_links(tree: &mut Tree) {
    let mut first_of: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    for (path, entry) in tree.iter_mut() {
        let Kind::File { identity: Some(identity), .. } = &entry.kind else { continue };
        match first_of.get(identity) {
            Some(first) => entry.kind = Kind::HardLink(first.clone()),
            None => {
                first_of.insert(*identity, path.clone());
            }
        }
    }
}
