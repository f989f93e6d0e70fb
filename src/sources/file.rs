//! Source `file`: a file, or the files of a folder, looked at every so often.
//!
//! Payload: `{change: created, changed or deleted, path, name, size, modified_at}`; of a deleted one `size` and `modified_at` are those that it had. A file
//! that is being written is no event until two looks in a row find it the same. The cursor is what was there; what is there at the first look makes
//! no event. A folder that was there and is not is a failure, not the end of all its files: it may be a disk that is not mounted.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use globset::GlobMatcher;
use serde_json::json;

use super::seat::{MOST_AT_ONCE, Seat, Sight, Trouble, subject};
use crate::definitions::live::File;
use crate::model::Timestamp;

/// Files that one source may watch.
const MOST_FILES: usize = 10_000;
/// Folders inside one another.
const DEEPEST: usize = 32;

/// When a file was changed, in milliseconds, and its size.
type State = (i64, u64);
type Files = BTreeMap<String, State>;

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    word: &'static str,
    path: String,
    /// As it is, or was before it was deleted.
    state: State,
}

pub(super) async fn run(seat: &mut Seat, file: &File) -> Result<(), Trouble> {
    let path = seat.setting("path", &file.path).await?;
    let pattern = file.glob.as_ref().map(|glob| glob.glob()).unwrap_or_default();
    let depth = if file.recursive { DEEPEST } else { 1 };
    let stored = seat.open(subject(&["file", &path, pattern, &depth.to_string()])).await?;
    let mut known: Option<Files> =
        stored.as_ref().and_then(|cursor| serde_json::from_value(cursor["files"].clone()).ok());
    let mut was_folder = stored.is_some_and(|cursor| cursor["folder"] == true);
    let mut unsettled = Files::new();
    loop {
        let (root, matcher) = (PathBuf::from(&path), file.glob.as_ref().map(|glob| glob.compile_matcher()));
        let looking = tokio::task::spawn_blocking(move || look(&root, matcher.as_ref(), depth, was_folder));
        let (now, is_folder) = looking.await.map_err(|error| Trouble::new(error.to_string()))??;
        seat.well();
        was_folder = is_folder;
        let Some(known) = &mut known else {
            seat.store(Vec::new(), json!({"files": now, "folder": is_folder})).await?;
            known = Some(now);
            continue;
        };
        for part in changes(known, &now, &mut unsettled).chunks(MOST_AT_ONCE) {
            for change in part {
                match change.word {
                    "deleted" => known.remove(&change.path),
                    _ => known.insert(change.path.clone(), change.state),
                };
            }
            let seen = part.iter().map(sight).collect();
            seat.store(seen, json!({"files": known, "folder": is_folder})).await?;
        }
        tokio::time::sleep(file.every.duration()).await;
    }
}

/// What changed, and has been the same for two looks; by path.
fn changes(known: &Files, now: &Files, unsettled: &mut Files) -> Vec<Change> {
    let differs = |path: &String, state: &State| known.get(path) != Some(state);
    let different: Files =
        now.iter().filter(|(path, state)| differs(path, state)).map(|(p, s)| (p.clone(), *s)).collect();
    let before = std::mem::replace(unsettled, different);
    let settled: Vec<String> = unsettled
        .iter()
        .filter(|(path, state)| before.get(*path) == Some(state))
        .map(|(path, _)| path.clone())
        .collect();
    let mut changes: Vec<Change> = settled
        .into_iter()
        .filter_map(|path| {
            let state = unsettled.remove(&path)?;
            let word = if known.contains_key(&path) { "changed" } else { "created" };
            Some(Change { word, path, state })
        })
        .collect();
    let gone = known.iter().filter(|(path, _)| !now.contains_key(*path));
    changes.extend(gone.map(|(path, state)| Change { word: "deleted", path: path.clone(), state: *state }));
    changes.sort_by(|one, other| one.path.cmp(&other.path));
    changes
}

fn sight(change: &Change) -> Sight {
    let (modified, size) = change.state;
    let name = Path::new(&change.path).file_name().map(|name| name.to_string_lossy().into_owned());
    let modified = Timestamp(modified);
    let body = json!({
        "change": change.word,
        "path": change.path,
        "name": name,
        "size": size,
        "modified_at": modified,
    });
    Sight { at: (change.word != "deleted").then_some(modified), ..Sight::of(body) }
}

/// The files that are there, and whether it is a folder.
fn look(
    root: &Path,
    matcher: Option<&GlobMatcher>,
    depth: usize,
    was_folder: bool,
) -> Result<(Files, bool), Trouble> {
    let failed = |error: &std::io::Error| Trouble::new(format!("{} can't be read: {error}", root.display()));
    let mut files = Files::new();
    match fs::metadata(root) {
        Ok(found) if found.is_dir() => {
            gather(root, root, matcher, depth, &mut files)?;
            Ok((files, true))
        }
        Ok(_) if was_folder => Err(Trouble::new(format!("{} was a folder and is a file", root.display()))),
        Ok(found) => {
            files.insert(root.to_string_lossy().into_owned(), state(&found));
            Ok((files, false))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !was_folder => Ok((files, false)),
        Err(error) => Err(failed(&error)),
    }
}

fn gather(
    root: &Path,
    folder: &Path,
    matcher: Option<&GlobMatcher>,
    depth: usize,
    files: &mut Files,
) -> Result<(), Trouble> {
    let failed = |error: std::io::Error| Trouble::new(format!("{} can't be read: {error}", folder.display()));
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // What went away in between is gone. Links to folders are not followed: they may lead in a circle.
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if found.is_dir() {
            if depth > 1 {
                gather(root, &path, matcher, depth - 1, files)?;
            }
            continue;
        }
        let Ok(found) = fs::metadata(&path) else { continue };
        let inside = path.strip_prefix(root).unwrap_or(&path);
        if !found.is_file() || matcher.is_some_and(|matcher| !matcher.is_match(inside)) {
            continue;
        }
        if files.len() == MOST_FILES {
            let root = root.display();
            return Err(Trouble::new(format!(
                "{root} has more than {MOST_FILES} files; watch fewer of them, by `glob` or a folder inside"
            )));
        }
        files.insert(path.to_string_lossy().into_owned(), state(&found));
    }
    Ok(())
}

fn state(found: &Metadata) -> State {
    let modified =
        found.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    (i64::try_from(modified.as_millis()).unwrap_or(i64::MAX), found.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, i64)]) -> Files {
        files.iter().map(|(path, at)| ((*path).to_owned(), (*at, 1))).collect()
    }

    fn words(changes: &[Change]) -> Vec<String> {
        changes.iter().map(|change| format!("{} {}", change.word, change.path)).collect()
    }

    #[test]
    fn a_file_is_an_event_once_it_is_written_no_more() {
        let known = files(&[("a", 1), ("b", 1)]);
        let mut unsettled = Files::new();
        assert_eq!(
            words(&changes(&known, &files(&[("a", 2), ("b", 1), ("c", 5)]), &mut unsettled)),
            Vec::<String>::new()
        );
        // `a` is still being written.
        assert_eq!(
            words(&changes(&known, &files(&[("a", 3), ("b", 1), ("c", 5)]), &mut unsettled)),
            ["created c"]
        );
        assert_eq!(words(&changes(&known, &files(&[("a", 3)]), &mut unsettled)), ["changed a", "deleted b"]);
    }
}
