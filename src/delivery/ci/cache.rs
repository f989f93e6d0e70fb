//! What a build leaves for the next one of the same app: downloaded dependencies, compiled objects.
//!
//! A cache is one archive under its key. It is written beside its place and moved there, and read from the file that was there when reading began: two
//! builds at once never see half of one, and the later one wins. Links are kept as links; nothing is unpacked outside the tree. What is too large is not
//! kept, and the archives that were not used for longest go when all together are too much.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::Digest;

use crate::model::Timestamp;

/// How much all caches may hold together, for each one that is as large as it may be.
const ALL: u64 = 5;
/// Fast, and small enough.
const LEVEL: i32 = 1;
/// A file that is being written for so long is of a build that was killed.
const LEFTOVER_SECONDS: u64 = 24 * 3600;

/// The cache of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    folder: PathBuf,
    name: String,
    paths: Vec<String>,
    most_bytes: u64,
}

/// What came of keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Bytes(u64),
    /// It is more than so many bytes.
    TooMuch(u64),
    Nothing,
}

impl Cache {
    /// `paths` are folders or files of the tree.
    pub fn new(folder: &Path, key: &str, paths: Vec<String>, most_bytes: u64) -> Result<Cache, String> {
        for path in &paths {
            let is_inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
            if path.is_empty() || !is_inside || path.starts_with(".git") {
                return Err(format!("`{}` in `cache` is no path within the repository", path.escape_debug()));
            }
        }
        let name = format!("{}.tar.zst", hex::encode(&sha2::Sha256::digest(key)[..16]));
        Ok(Cache { folder: folder.to_owned(), name, paths, most_bytes })
    }

    /// Puts into the tree what was kept; false when nothing was. What stands there already stays.
    pub fn restore(&self, tree: &Path) -> Result<bool, String> {
        let path = self.folder.join(&self.name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let unpacked = self.unpack(&file, tree);
        if let Err(error) = unpacked {
            // The next build has no use for it either.
            drop(fs::remove_file(&path));
            for path in self.paths.iter().filter(|path| stays_inside(tree, path)) {
                drop(remove(&tree.join(path)));
            }
            return Err(format!("{}: {error}", path.display()));
        }
        drop(file.set_modified(std::time::SystemTime::now()));
        Ok(true)
    }

    fn unpack(&self, file: &File, tree: &Path) -> io::Result<()> {
        let mut archive = tar::Archive::new(zstd::Decoder::new(file)?);
        archive.set_overwrite(false);
        archive.set_preserve_mtime(true);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            // The paths may have become others since it was kept.
            let is_wanted = self.paths.iter().any(|wanted| path.starts_with(wanted));
            let is_ours = path.to_str().is_some_and(|path| stays_inside(tree, path));
            if is_wanted && is_ours && fs::symlink_metadata(tree.join(&path)).is_err() {
                entry.unpack_in(tree)?;
            }
        }
        Ok(())
    }

    /// Keeps what stands in the tree now.
    pub fn keep(&self, tree: &Path, now: Timestamp) -> Result<Kept, String> {
        let mut bytes = 0;
        let mut present = Vec::new();
        for path in self.paths.iter().filter(|path| stays_inside(tree, path)) {
            let place = tree.join(path);
            if fs::symlink_metadata(&place).is_ok() {
                bytes += size(&place).map_err(|error| format!("{path}: {error}"))?;
                present.push(path);
            }
        }
        if present.is_empty() {
            return Ok(Kept::Nothing);
        }
        if bytes > self.most_bytes {
            return Ok(Kept::TooMuch(self.most_bytes));
        }
        let failed = |error: io::Error| format!("{}: {error}", self.folder.display());
        fs::create_dir_all(&self.folder).map_err(failed)?;
        let mut part = tempfile::Builder::new().prefix(".part-").tempfile_in(&self.folder).map_err(failed)?;
        pack(tree, &present, part.as_file_mut()).map_err(failed)?;
        part.persist(self.folder.join(&self.name)).map_err(|error| failed(error.error))?;
        self.make_room(now).map_err(failed)?;
        Ok(Kept::Bytes(bytes))
    }

    /// The archives that were not used for longest go first.
    fn make_room(&self, now: Timestamp) -> io::Result<()> {
        let mut archives = Vec::new();
        for item in fs::read_dir(&self.folder)? {
            let item = item?;
            // Another build may make room, too.
            let Ok(metadata) = item.metadata() else { continue };
            let used = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            let now_seconds = u64::try_from(now.0 / 1000).unwrap_or(0);
            if item.file_name().to_string_lossy().starts_with(".part-") {
                if used.as_secs() + LEFTOVER_SECONDS < now_seconds {
                    drop(fs::remove_file(item.path()));
                }
                continue;
            }
            archives.push((used, metadata.len(), item.path()));
        }
        archives.sort();
        let mut all: u64 = archives.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in archives {
            if all <= self.most_bytes.saturating_mul(ALL) {
                break;
            }
            drop(fs::remove_file(path));
            all -= bytes;
        }
        Ok(())
    }
}

fn pack(tree: &Path, paths: &[&String], file: &mut File) -> io::Result<()> {
    let mut archive = tar::Builder::new(zstd::Encoder::new(file, LEVEL)?);
    archive.follow_symlinks(false);
    for path in paths {
        let place = tree.join(path);
        match fs::symlink_metadata(&place)?.is_dir() {
            true => archive.append_dir_all(path, &place)?,
            false => archive.append_path_with_name(&place, path)?,
        }
    }
    archive.into_inner()?.finish()?;
    Ok(())
}

fn size(path: &Path) -> io::Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut bytes = 0;
    for item in fs::read_dir(path)? {
        bytes += size(&item?.path())?;
    }
    Ok(bytes)
}

/// Whether no folder on the way to a path is a link: what a commit or a build links to elsewhere is neither kept nor removed.
fn stays_inside(tree: &Path, path: &str) -> bool {
    let above = Path::new(path).ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
    let is_link =
        |path: &Path| fs::symlink_metadata(tree.join(path)).is_ok_and(|metadata| metadata.is_symlink());
    !above.into_iter().any(is_link)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp(i64::try_from(since.as_millis()).unwrap())
    }

    #[test]
    fn links_lead_nowhere_out_of_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, outside) = (folder.path().join("tree"), folder.path().join("outside"));
        for path in [tree.join("deps/keys"), outside.join("keys")] {
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("x"), "x").unwrap();
        }
        let cache = cache(&folder.path().join("cache"), "k", &["deps/keys"], 1 << 20);
        assert!(matches!(cache.keep(&tree, now()).unwrap(), Kept::Bytes(_)));
        // A later commit, or the build itself, has a link there.
        fs::remove_dir_all(tree.join("deps")).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("deps")).unwrap();
        fs::remove_file(outside.join("keys/x")).unwrap();
        drop(cache.restore(&tree));
        assert!(outside.join("keys").is_dir() && !outside.join("keys/x").exists());
        assert_eq!(cache.keep(&tree, now()).unwrap(), Kept::Nothing);
    }

    fn cache(folder: &Path, key: &str, paths: &[&str], most: u64) -> Cache {
        Cache::new(folder, key, paths.iter().map(|path| (*path).to_owned()).collect(), most).unwrap()
    }

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn what_one_build_kept_the_next_one_finds_and_no_other_key_does() {
        let (store, first, second) = (
            tempfile::tempdir().unwrap(),
            tree(&[("deps/a/b", "x"), ("deps/c", "y"), ("d", "z")]),
            tree(&[("deps/c", "own")]),
        );
        std::os::unix::fs::symlink("/etc/passwd", first.path().join("deps/link")).unwrap();
        let shop = cache(store.path(), "shop", &["deps", "nowhere"], 1000);
        assert!(!shop.restore(second.path()).unwrap());
        assert!(matches!(shop.keep(first.path(), now()).unwrap(), Kept::Bytes(_)));
        assert!(!cache(store.path(), "other", &["deps"], 1000).restore(second.path()).unwrap());
        assert!(shop.restore(second.path()).unwrap());
        assert_eq!(fs::read_to_string(second.path().join("deps/a/b")).unwrap(), "x");
        assert_eq!(fs::read_to_string(second.path().join("deps/c")).unwrap(), "own", "what is there stays");
        assert_eq!(fs::read_link(second.path().join("deps/link")).unwrap(), Path::new("/etc/passwd"));
        assert!(!second.path().join("d").exists());
    }

    #[test]
    fn what_is_too_large_or_outside_is_not_kept() {
        let (store, build) = (tempfile::tempdir().unwrap(), tree(&[("deps/a", "0123456789")]));
        assert_eq!(
            cache(store.path(), "k", &["deps"], 9).keep(build.path(), now()).unwrap(),
            Kept::TooMuch(9)
        );
        assert_eq!(
            cache(store.path(), "k", &["nowhere"], 9).keep(build.path(), now()).unwrap(),
            Kept::Nothing
        );
        for path in ["", "/etc", "..", "a/../../b", ".git", ".git/objects"] {
            assert!(Cache::new(store.path(), "k", vec![path.to_owned()], 9).is_err(), "{path}");
        }
    }

    #[test]
    fn a_damaged_archive_is_thrown_away_with_what_came_of_it() {
        let (store, build, next) =
            (tempfile::tempdir().unwrap(), tree(&[("deps/a", "x"), ("deps/b", "y")]), tree(&[]));
        let shop = cache(store.path(), "shop", &["deps"], 1000);
        shop.keep(build.path(), now()).unwrap();
        let archive = store.path().join(&shop.name);
        let bytes = fs::read(&archive).unwrap();
        fs::write(&archive, &bytes[..bytes.len() / 2]).unwrap();
        assert!(shop.restore(next.path()).is_err());
        assert!(!archive.exists() && !next.path().join("deps").exists());
        assert!(!shop.restore(next.path()).unwrap());
    }

    #[test]
    fn builds_at_once_never_see_half_of_a_cache() {
        let store = tempfile::tempdir().unwrap();
        let shop = cache(store.path(), "shop", &["deps"], 10_000_000);
        std::thread::scope(|scope| {
            for number in 0..4 {
                let shop = &shop;
                scope.spawn(move || {
                    let text = number.to_string().repeat(10_000);
                    for _ in 0..10 {
                        let files: Vec<(String, String)> =
                            (0..5).map(|file| (format!("deps/{file}"), text.clone())).collect();
                        let files: Vec<(&str, &str)> =
                            files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
                        shop.keep(tree(&files).path(), now()).unwrap();
                        let next = tree(&[]);
                        assert!(shop.restore(next.path()).unwrap());
                        let read = |file: u32| fs::read(next.path().join(format!("deps/{file}"))).unwrap();
                        assert!((1..5).all(|file| read(file) == read(0)), "of two builds");
                    }
                });
            }
        });
    }

    #[test]
    fn the_least_used_go_when_all_together_are_too_much() {
        let store = tempfile::tempdir().unwrap();
        let noise: String =
            (0..3000_u32).map(|number| char::from_u32(0x4e00 + number * 7 % 9000).unwrap()).collect();
        for number in 0..12 {
            let build = tree(&[("deps/a", &noise)]);
            cache(store.path(), &number.to_string(), &["deps"], 10_000).keep(build.path(), now()).unwrap();
        }
        let all: u64 =
            fs::read_dir(store.path()).unwrap().map(|item| item.unwrap().metadata().unwrap().len()).sum();
        assert!(all <= 50_000, "{all}");
        assert!(cache(store.path(), "11", &["deps"], 10_000).restore(tree(&[]).path()).unwrap());
        assert!(!cache(store.path(), "0", &["deps"], 10_000).restore(tree(&[]).path()).unwrap());
    }
}
