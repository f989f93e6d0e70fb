//! Files between the worker and the artefact store: outputs that are files are kept, inputs that are files are fetched, and outputs too large to travel
//! inline become files.
//!
//! Promises: a file is never in memory whole; what is fetched is held against its hash; an output never fails for its size. The contents of files are
//! not masked, but for what an action printed or returned as text.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::log::size as shown;
use super::mask::{self, Mask};
use crate::model::artefact::PIECE_BYTES;
use crate::model::desk::{Reply, Request};
use crate::model::{Artefact, ArtefactHash, Value};
use crate::runners::{Failure, Line};

/// A text in an output that is larger is kept as a file.
const TEXT_BYTES: usize = 256 * 1024;
/// The largest output that travels inline, as JSON.
pub(super) const OUTPUT_BYTES: usize = 1024 * 1024;
/// The largest file that is kept.
const LARGEST_FILE: u64 = 16 * 1024 * 1024 * 1024;
/// Where in a workspace fetched files lie.
const FOLDER: &str = ".artefacts";
/// How much of the end of a text stands beside the artefact that has it.
const TAIL_BYTES: usize = 2000;
/// What is smaller is not worth a file.
const SMALL_BYTES: usize = 1024;
/// The longest piece of a line that is masked at once.
const LINE_BYTES: u64 = 1024 * 1024;

/// A file's name as it may be used in any folder.
fn safe_name(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or_default();
    let plain: String = last.chars().filter(|c| !c.is_control()).take(200).collect();
    if ["", ".", ".."].contains(&plain.as_str()) { "file".to_owned() } else { plain }
}

/// Runs what reads or writes files where it may block.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    of: impl FnOnce(std::io::Error) -> Failure,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(of),
        Err(error) => Err(Failure::new(format!("the task that reads or writes a file ended: {error}"))),
    }
}

fn hash_of(file: &mut File) -> std::io::Result<(ArtefactHash, u64)> {
    file.seek(SeekFrom::Start(0))?;
    let (mut hasher, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 128 * 1024]);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((ArtefactHash::of(&hasher.finalize().into()), size));
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
}

/// Keeps a file as it is.
pub(super) async fn put(line: &dyn Line, path: &Path, name: &str) -> Result<Artefact, Failure> {
    let (place, at) = (path.to_owned(), path.display().to_string());
    let unreadable = |error: std::io::Error| Failure::new(format!("the file `{at}` can't be kept: {error}"));
    let opened = aside(
        move || {
            let mut file = File::open(&place)?;
            if !file.metadata()?.is_file() {
                return Err(std::io::Error::other("it is no file"));
            }
            let (hash, size) = hash_of(&mut file)?;
            Ok((file, hash, size))
        },
        unreadable,
    );
    let (mut file, hash, size) = opened.await?;
    if size > LARGEST_FILE {
        let most = LARGEST_FILE / 1024 / 1024 / 1024;
        return Err(Failure::new(format!("the file `{at}` is larger than the {most} GiB that are kept")));
    }
    let artefact = Artefact { artefact: hash.clone(), name: safe_name(name), size, note: None, tail: None };
    match line.ask(Request::HasArtefact { hash: hash.clone() }).await {
        Reply::Artefact { .. } => return Ok(artefact),
        Reply::Absent => (),
        other => return Err(refused(&at, other)),
    }
    let mut offset = 0;
    loop {
        let read = aside(move || piece(file, offset), unreadable).await?;
        let bytes;
        (file, bytes) = read;
        let end = offset + bytes.len() as u64;
        let last = end >= size || bytes.is_empty();
        match line.ask(Request::PutArtefact { hash: hash.clone(), size, offset, bytes }).await {
            // Another attempt has kept the same meanwhile.
            Reply::Artefact { .. } => return Ok(artefact),
            Reply::Done if !last => offset = end,
            Reply::Done => return Err(Failure::new(format!("the file `{at}` changed while it was kept"))),
            other => return Err(refused(&at, other)),
        }
    }
}

fn piece(mut file: File, offset: u64) -> std::io::Result<(File, Vec<u8>)> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::with_capacity(PIECE_BYTES);
    (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut bytes)?;
    Ok((file, bytes))
}

fn refused(what: &str, reply: Reply) -> Failure {
    match reply {
        Reply::Refused { why } => Failure::new(format!("the file `{what}` can't be kept: {why}")),
        _ => Failure::new(format!("the file `{what}` can't be kept: the server's answer is none")),
    }
}

/// Keeps what an action printed, with its secrets hidden.
pub(super) async fn put_masked(
    line: &dyn Line,
    mask: std::sync::Arc<Mask>,
    path: &Path,
    name: &str,
) -> Result<Artefact, Failure> {
    if mask.is_empty() {
        return put(line, path, name).await;
    }
    let from = path.to_owned();
    let unwritten = |error: std::io::Error| Failure::new(format!("an output can't be kept: {error}"));
    let masked = aside(move || masked(&mask, &from), unwritten).await?;
    put(line, masked.path(), name).await
}

/// A copy of a text with its secrets hidden, line by line as the log has it.
fn masked(mask: &Mask, from: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let folder = from.parent().unwrap_or(from);
    let mut copy = tempfile::Builder::new().prefix(".output-").tempfile_in(folder)?;
    let (mut reader, mut writer) = (BufReader::new(File::open(from)?), BufWriter::new(copy.as_file_mut()));
    let (mut stream, mut bytes) = (mask::Stream::default(), Vec::new());
    loop {
        bytes.clear();
        if (&mut reader).take(LINE_BYTES).read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        writer.write_all(&stream.push(mask, &bytes))?;
    }
    writer.write_all(&stream.finish(mask))?;
    writer.flush()?;
    drop(writer);
    Ok(copy)
}

/// Keeps bytes that are in memory already.
async fn put_bytes(line: &dyn Line, folder: &Path, bytes: Vec<u8>, name: &str) -> Result<Artefact, Failure> {
    let folder = folder.to_owned();
    let unwritten = |error: std::io::Error| Failure::new(format!("an output can't be kept: {error}"));
    let written = move || {
        std::fs::create_dir_all(&folder)?;
        let mut file = tempfile::Builder::new().prefix(".output-").tempfile_in(&folder)?;
        file.write_all(&bytes)?;
        file.flush()?;
        Ok(file)
    };
    let file = aside(written, unwritten).await?;
    put(line, file.path(), name).await
}

/// Every output of these names that is a path becomes the artefact that has the file.
pub(super) async fn keep_files(
    line: &dyn Line,
    workspace: &Path,
    names: &[String],
    output: Value,
) -> Result<Value, Failure> {
    let Value::Object(mut entries) = output else { return Ok(output) };
    for name in names {
        let Some(value) = entries.get_mut(name) else { continue };
        *value = match value.take() {
            Value::Array(items) => {
                let mut kept = Vec::with_capacity(items.len());
                for item in items {
                    kept.push(keep_file(line, workspace, name, item).await?);
                }
                Value::Array(kept)
            }
            value => keep_file(line, workspace, name, value).await?,
        };
    }
    Ok(Value::Object(entries))
}

async fn keep_file(line: &dyn Line, workspace: &Path, name: &str, value: Value) -> Result<Value, Failure> {
    match &value {
        Value::Null => Ok(value),
        Value::String(path) => {
            let kept = put(line, &workspace.join(path), path).await;
            kept.map(|artefact| artefact.value()).map_err(|failure| {
                Failure::new(format!("the output `{name}` is a file: {}", failure.error.message))
            })
        }
        other if Artefact::named_by(other).is_some() => Ok(value),
        _ => Err(Failure::new(format!(
            "the output `{name}` is declared as a file, so the action must give a path, not {value}"
        ))),
    }
}

/// An input of a file, or of a list of them, with each artefact in it fetched: a local path.
pub(super) async fn fetch_files(line: &dyn Line, workspace: &Path, value: Value) -> Result<Value, Failure> {
    let Value::Array(items) = value else { return fetch_file(line, workspace, value).await };
    let mut fetched = Vec::with_capacity(items.len());
    for item in items {
        fetched.push(fetch_file(line, workspace, item).await?);
    }
    Ok(Value::Array(fetched))
}

async fn fetch_file(line: &dyn Line, workspace: &Path, value: Value) -> Result<Value, Failure> {
    let Some(artefact) = Artefact::named_by(&value) else { return Ok(value) };
    let path = fetch(line, workspace, &artefact).await?;
    Ok(Value::from(path.display().to_string()))
}

async fn fetch(line: &dyn Line, workspace: &Path, artefact: &Artefact) -> Result<PathBuf, Failure> {
    let hash = artefact.artefact.clone();
    let folder = workspace.join(FOLDER).join(&hash.digits()[..16]);
    let path = folder.join(safe_name(&artefact.name));
    let what = format!("{hash} ({})", artefact.name);
    let failed =
        |error: std::io::Error| Failure::new(format!("the artefact {what} can't be fetched: {error}"));
    let (there, wanted) = (path.clone(), hash.clone());
    let prepare = move || {
        // A step that was here before may have changed its copy.
        if File::open(&there).and_then(|mut file| hash_of(&mut file)).is_ok_and(|(found, _)| found == wanted)
        {
            return Ok(None);
        }
        std::fs::create_dir_all(&folder)?;
        tempfile::Builder::new().prefix(".part-").tempfile_in(&folder).map(Some)
    };
    let Some(mut part) = aside(prepare, failed).await? else { return Ok(path) };
    let mut offset = 0;
    loop {
        let bytes = match line.ask(Request::GetArtefact { hash: hash.clone(), offset }).await {
            Reply::Piece { bytes } => bytes,
            Reply::Absent => {
                return Err(Failure::new(format!(
                    "the artefact {what} is not kept any more: the run that made it has gone"
                )));
            }
            Reply::Refused { why } => {
                return Err(Failure::new(format!("the artefact {what} can't be fetched: {why}")));
            }
            _ => {
                return Err(Failure::new(format!(
                    "the artefact {what} can't be fetched: the server's answer is none"
                )));
            }
        };
        if bytes.is_empty() {
            break;
        }
        offset += bytes.len() as u64;
        let write = move || part.write_all(&bytes).map(|()| part);
        part = aside(write, failed).await?;
    }
    let target = path.clone();
    let finish = move || {
        let (found, _) = hash_of(part.as_file_mut())?;
        if found != hash {
            return Err(std::io::Error::other("what came has another hash"));
        }
        part.persist(&target).map(drop).map_err(|error| error.error)
    };
    aside(finish, failed).await?;
    Ok(path)
}

/// The output so that it can travel: large texts, and what else is too much, are files. What can't be kept either is left out, and says so: what an action
/// did is not undone by what it had to say.
pub(super) async fn shrink(line: &dyn Line, folder: &Path, mut output: Value) -> Value {
    let mut places = Vec::new();
    find_large_texts(&output, String::new(), &mut places);
    for place in places {
        let Some(value) = output.pointer_mut(&place) else { continue };
        let text = value.as_str().unwrap_or_default().to_owned();
        let name = place.rsplit('/').next().unwrap_or_default();
        *value = moved_text(line, folder, text, &format!("{name}.txt")).await;
    }
    let mut total = weight(&output);
    while total > OUTPUT_BYTES {
        let Value::Object(entries) = &mut output else { break };
        let movable = entries.iter_mut().filter(|(_, value)| Artefact::named_by(value).is_none());
        let largest = movable.map(|(name, value)| (weight(value), name, value)).max_by_key(|it| it.0);
        let Some((bytes, name, value)) = largest.filter(|(bytes, ..)| *bytes > SMALL_BYTES) else { break };
        *value = moved(line, folder, value, &format!("{name}.json")).await;
        total -= bytes.saturating_sub(weight(value));
    }
    // A list, or so many small values that together they are too much.
    if total > OUTPUT_BYTES { moved(line, folder, &output, "output.json").await } else { output }
}

fn find_large_texts(value: &Value, place: String, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.len() > TEXT_BYTES => found.push(place),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                find_large_texts(item, format!("{place}/{index}"), found);
            }
        }
        Value::Object(entries) => {
            for (name, item) in entries {
                let name = name.replace('~', "~0").replace('/', "~1");
                find_large_texts(item, format!("{place}/{name}"), found);
            }
        }
        _ => (),
    }
}

async fn moved_text(line: &dyn Line, folder: &Path, text: String, name: &str) -> Value {
    let from = (text.len().saturating_sub(TAIL_BYTES)..).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let tail = text[from..].to_owned();
    let bytes = text.len();
    match put_bytes(line, folder, text.into_bytes(), name).await {
        Ok(artefact) => {
            let note = Some(too_large("text", bytes, "it is kept as a file"));
            Artefact { note, tail: Some(tail), ..artefact }.value()
        }
        Err(failure) => {
            json!({"note": too_large("text", bytes, &failure.error.message), "tail": tail})
        }
    }
}

async fn moved(line: &dyn Line, folder: &Path, value: &Value, name: &str) -> Value {
    let text = value.to_string();
    let bytes = text.len();
    match put_bytes(line, folder, text.into_bytes(), name).await {
        Ok(artefact) => {
            Artefact { note: Some(too_large("JSON", bytes, "it is kept as a file")), ..artefact }.value()
        }
        Err(failure) => json!({"note": too_large("JSON", bytes, &failure.error.message)}),
    }
}

fn too_large(what: &str, bytes: usize, but: &str) -> String {
    format!("{what} of {}, too large to stand here: {but}", shown(bytes))
}

/// How many bytes it is as JSON.
pub(super) fn weight(value: &Value) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => count.0,
        Err(_) => usize::MAX,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use futures::future::BoxFuture;

    use super::*;
    use crate::model::Secret;
    use crate::model::log::Stream;

    /// A server's desk in memory.
    #[derive(Default)]
    struct Desk {
        kept: Mutex<BTreeMap<ArtefactHash, Vec<u8>>>,
        parts: Mutex<BTreeMap<ArtefactHash, Vec<u8>>>,
        largest: Mutex<usize>,
    }

    impl Line for Desk {
        fn output(&self, _: Stream, _: &[u8]) {}

        fn progress(&self, _: Value) -> BoxFuture<'_, Result<(), Failure>> {
            Box::pin(async { Ok(()) })
        }

        fn keep<'a>(&'a self, path: &'a Path, name: &'a str) -> BoxFuture<'a, Result<Artefact, Failure>> {
            Box::pin(put(self, path, name))
        }

        fn ask(&self, request: Request) -> BoxFuture<'_, Reply> {
            let mut kept = self.kept.lock().unwrap();
            let reply = match request {
                Request::HasArtefact { hash } => match kept.get(&hash) {
                    Some(bytes) => Reply::Artefact { size: bytes.len() as u64 },
                    None => Reply::Absent,
                },
                Request::PutArtefact { hash, size, offset, bytes } => {
                    let mut largest = self.largest.lock().unwrap();
                    *largest = bytes.len().max(*largest);
                    let mut parts = self.parts.lock().unwrap();
                    let part = parts.entry(hash.clone()).or_default();
                    assert_eq!(part.len() as u64, offset);
                    part.extend(bytes);
                    if part.len() as u64 == size {
                        kept.insert(hash.clone(), parts.remove(&hash).unwrap());
                        Reply::Artefact { size }
                    } else {
                        Reply::Done
                    }
                }
                Request::GetArtefact { hash, offset } => match kept.get(&hash) {
                    Some(bytes) => {
                        let rest = &bytes[usize::try_from(offset).unwrap()..];
                        Reply::Piece { bytes: rest[..rest.len().min(PIECE_BYTES)].to_vec() }
                    }
                    None => Reply::Absent,
                },
                other => panic!("{other:?}"),
            };
            Box::pin(async { reply })
        }
    }

    #[tokio::test]
    async fn a_file_is_the_same_on_the_other_side_whatever_its_size() {
        let (desk, here, there) =
            (Desk::default(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for size in [0, 1, PIECE_BYTES, PIECE_BYTES * 3 + 7] {
            let bytes: Vec<u8> = (0..size).map(|byte| (byte % 251) as u8).collect();
            std::fs::write(here.path().join("a.bin"), &bytes).unwrap();
            let output = json!({"file": "a.bin", "list": ["a.bin", null], "plain": "a.bin"});
            let names = ["file".to_owned(), "list".to_owned(), "absent".to_owned()];
            let kept = keep_files(&desk, here.path(), &names, output).await.unwrap();
            assert_eq!((&kept["file"]["size"], &kept["plain"]), (&json!(size), &json!("a.bin")));
            assert_eq!(kept["list"], json!([kept["file"], null]));
            let path = fetch_files(&desk, there.path(), kept["file"].clone()).await.unwrap();
            let path = PathBuf::from(path.as_str().unwrap());
            assert!(path.starts_with(there.path()) && path.ends_with("a.bin"), "{path:?}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            // Somebody spoils it; the next step gets it whole again.
            std::fs::write(&path, "spoilt").unwrap();
            fetch_files(&desk, there.path(), json!([kept["file"]])).await.unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
        assert!(*desk.largest.lock().unwrap() <= PIECE_BYTES);
    }

    #[tokio::test]
    async fn what_is_no_file_is_refused_by_name_and_a_name_leads_nowhere_else() {
        let (desk, here) = (Desk::default(), tempfile::tempdir().unwrap());
        let names = ["file".to_owned()];
        for (value, part) in
            [(json!("nothing.txt"), "nothing.txt"), (json!(3), "must give a path"), (json!("."), "no file")]
        {
            let refused = keep_files(&desk, here.path(), &names, json!({"file": value})).await.unwrap_err();
            let message = refused.error.message.clone();
            assert!(message.contains("`file`") && message.contains(part), "{message}");
        }
        assert_eq!(safe_name("../../etc/passwd"), "passwd");
        assert_eq!(safe_name("a/.."), "file");
        let gone = json!({"artefact": format!("sha256:{}", "0".repeat(64)), "name": "x", "size": 1});
        let refused = fetch_files(&desk, here.path(), gone).await.unwrap_err();
        assert!(refused.error.message.contains("not kept any more"), "{}", refused.error.message);
    }

    #[tokio::test]
    async fn an_output_never_fails_for_its_size() {
        let (desk, here) = (Desk::default(), tempfile::tempdir().unwrap());
        let text = format!("first\n{}last", "ü".repeat(200 * 1024));
        let many: Vec<String> = (0..30).map(|number| format!("{number}{}", "x".repeat(100 * 1024))).collect();
        let output =
            json!({"code": 0, "text": text, "deep": [{"a/b": "y".repeat(TEXT_BYTES + 1)}], "many": many});
        let small = shrink(&desk, here.path(), output).await;
        assert!(weight(&small) <= OUTPUT_BYTES);
        assert_eq!((&small["code"], &small["text"]["name"]), (&json!(0), &json!("text.txt")));
        assert!(small["text"]["tail"].as_str().unwrap().ends_with("last"));
        assert!(small["text"]["note"].as_str().unwrap().contains("kept as a file"));
        assert_eq!(small["deep"][0]["a/b"]["size"], json!(TEXT_BYTES + 1));
        assert_eq!(small["many"]["name"], "many.json");
        let hash = Artefact::named_by(&small["text"]).unwrap().artefact;
        assert_eq!(desk.kept.lock().unwrap()[&hash], text.as_bytes());

        let list = shrink(&desk, here.path(), json!(many)).await;
        assert_eq!(list["name"], "output.json");
        let crowd: Value =
            (0..200_000).map(|n| (n.to_string(), json!(n))).collect::<crate::model::Object>().into();
        assert_eq!(shrink(&desk, here.path(), crowd).await["name"], "output.json");
        // Where nothing can be kept, it says so, and what remains is small.
        let text = "z".repeat(TEXT_BYTES + 1);
        let nowhere = shrink(&desk, Path::new("/proc/nowhere"), json!({"a": text, "b": 1})).await;
        assert!(nowhere["a"]["note"].as_str().unwrap().contains("can't be kept"), "{nowhere}");
        assert_eq!(nowhere["b"], 1);
        let untouched = json!({"a": "z".repeat(1000)});
        assert_eq!(shrink(&desk, here.path(), untouched.clone()).await, untouched);
    }

    #[tokio::test]
    async fn what_was_printed_is_kept_with_its_secrets_hidden() {
        let (desk, here) = (Desk::default(), tempfile::tempdir().unwrap());
        let secret = Secret::new("hunter2");
        let mask = std::sync::Arc::new(Mask::new([&secret]));
        let path = here.path().join("printed");
        std::fs::write(&path, "a\nthe hunter2 is\nb").unwrap();
        let kept = put_masked(&desk, mask, &path, "stdout.txt").await.unwrap();
        assert_eq!(desk.kept.lock().unwrap()[&kept.artefact], b"a\nthe *** is\nb");
    }
}
