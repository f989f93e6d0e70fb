//! Artefacts: files that are kept by what is in them, for the runs that name them.
//!
//! With SQLite they are files below a folder, `ab/cdef..`; where several nodes share a database, their bytes are rows, in pieces. Promises: what is
//! known is whole, and its bytes are those of its hash; a file is never in memory whole; an artefact that a run names stays until the run
//! has gone, and goes some time after that.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::db::{Connection, sql};
use super::{Store, StoreError, bounded};
use crate::model::artefact::{ArtefactHash, PIECE_BYTES};
use crate::model::{RunId, Span, Timestamp};

/// How long something that nobody names is left: what is on its way to a run, pieces of what was never whole.
const GRACE: Span = Span::days(1);
/// Where files are put together.
const PARTS: &str = ".parts";

/// The artefacts of a store. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Artefacts {
    store: Store,
    place: Place,
    /// Held while a file comes into its place or leaves it, so that what one takes away is not what another has just found.
    turn: Arc<Mutex<()>>,
}

#[derive(Clone, Debug)]
enum Place {
    Folder(PathBuf),
    Database,
}

/// A piece of a file that is to be kept.
#[derive(Clone, Debug)]
pub struct Piece {
    pub hash: ArtefactHash,
    /// Of the whole file.
    pub size: u64,
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// What came of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// There are more to come.
    More,
    /// The file is kept.
    Kept,
    /// All has come, and it is not what the hash says.
    Wrong,
}

impl Artefacts {
    /// Files in a folder of this machine.
    pub fn in_folder(store: Store, folder: PathBuf) -> Artefacts {
        Artefacts { store, place: Place::Folder(folder), turn: Arc::default() }
    }

    /// Rows of the database, for several nodes.
    pub fn in_database(store: Store) -> Artefacts {
        Artefacts { store, place: Place::Database, turn: Arc::default() }
    }

    /// How large an artefact is; `None` when it is not kept.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn size(&self, hash: &ArtefactHash) -> Result<Option<u64>, StoreError> {
        let size: Option<i64> = sql("SELECT size FROM artefacts WHERE hash = $1")
            .bind(hash.digits())
            .fetch_optional(self.store.readers())
            .await?;
        Ok(size.map(i64::unsigned_abs))
    }

    /// As `size`, and keeps it for `run` from now on.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn keep_for(
        &self,
        hash: &ArtefactHash,
        run: RunId,
        now: Timestamp,
    ) -> Result<Option<u64>, StoreError> {
        if self.size(hash).await?.is_none() {
            return Ok(None);
        }
        let hash = hash.digits().to_owned();
        self.store
            .write(move |tx| {
                Box::pin(async move {
                    // A newer time, so that a node that is just taking old ones away leaves it.
                    let size: Option<i64> =
                        sql("UPDATE artefacts SET stored_at = $2 WHERE hash = $1 RETURNING size")
                            .bind(&hash)
                            .bind(now.0)
                            .fetch_optional(&mut *tx)
                            .await?;
                    if size.is_some() {
                        add_use(tx, &hash, run).await?;
                    }
                    Ok(size.map(i64::unsigned_abs))
                })
            })
            .await
    }

    /// Takes the next piece of a file, for `run`. With the last one the file is held against its hash, and kept. The same pieces may come again.
    ///
    /// # Errors
    /// The database or the folder cannot be written.
    pub async fn put(&self, piece: Piece, run: RunId, now: Timestamp) -> Result<Put, StoreError> {
        if self.keep_for(&piece.hash, run, now).await?.is_some() {
            return Ok(Put::Kept);
        }
        match &self.place {
            Place::Folder(folder) => self.put_in_folder(folder.clone(), piece, run, now).await,
            Place::Database => self.put_in_database(piece, run, now).await,
        }
    }

    async fn put_in_folder(
        &self,
        folder: PathBuf,
        piece: Piece,
        run: RunId,
        now: Timestamp,
    ) -> Result<Put, StoreError> {
        let part = folder.join(PARTS).join(format!("{}.{run}", piece.hash.digits()));
        let (target, hash, size) = (path_below(&folder, &piece.hash), piece.hash.clone(), piece.size);
        let at = part.clone();
        let put = aside(&folder, move || write_piece(&at, &piece)).await?;
        if put != Put::Kept {
            return Ok(put);
        }
        let _turn = self.turn.lock().await;
        aside(&folder, move || into_place(&part, &target)).await?;
        self.note(hash, size, run, now).await?;
        Ok(Put::Kept)
    }

    async fn put_in_database(&self, piece: Piece, run: RunId, now: Timestamp) -> Result<Put, StoreError> {
        let Piece { hash, size, offset, bytes } = piece;
        let end = offset + bytes.len() as u64;
        let digits = hash.digits().to_owned();
        self.store
            .write_large(bytes.len(), move |tx| {
                Box::pin(async move { put_chunk(tx, &digits, offset, bytes, now).await })
            })
            .await?;
        if end < size {
            return Ok(Put::More);
        }
        let (mut hasher, mut position) = (Sha256::new(), 0);
        while let Some(bytes) = self.chunk(&hash, position).await?.filter(|bytes| !bytes.is_empty()) {
            hasher.update(&bytes);
            position += bytes.len() as u64;
        }
        if position != size || ArtefactHash::of(&hasher.finalize().into()) != hash {
            let digits = hash.digits().to_owned();
            self.store.write(move |tx| Box::pin(async move { drop_chunks(tx, &digits).await })).await?;
            return Ok(Put::Wrong);
        }
        self.note(hash, size, run, now).await?;
        Ok(Put::Kept)
    }

    async fn note(
        &self,
        hash: ArtefactHash,
        size: u64,
        run: RunId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        self.store
            .write(move |tx| {
                Box::pin(async move {
                    sql("INSERT INTO artefacts (hash, size, stored_at) VALUES ($1, $2, $3)
                         ON CONFLICT (hash) DO UPDATE SET stored_at = excluded.stored_at")
                    .bind(hash.digits())
                    .bind(size)
                    .bind(now.0)
                    .execute(&mut *tx)
                    .await?;
                    add_use(tx, hash.digits(), run).await
                })
            })
            .await
    }

    /// The piece of an artefact that begins at `offset`; empty at its end, `None` when it is not kept.
    ///
    /// # Errors
    /// The database or the file cannot be read.
    pub async fn piece(&self, hash: &ArtefactHash, offset: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(size) = self.size(hash).await? else { return Ok(None) };
        if offset >= size {
            return Ok(Some(Vec::new()));
        }
        match &self.place {
            Place::Folder(folder) => {
                let path = path_below(folder, hash);
                match aside(folder, move || read_piece(&path, offset)).await? {
                    Some(bytes) => Ok(Some(bytes)),
                    None => Err(StoreError::corrupt(format!("artefact {hash}"), "its file is missing")),
                }
            }
            Place::Database => {
                // Pieces were put as they are read: from the beginning, each as large as it may be.
                let inside = offset % PIECE_BYTES as u64;
                let chunk = self.chunk(hash, offset - inside).await?;
                let chunk = chunk
                    .ok_or_else(|| StoreError::corrupt(format!("artefact {hash}"), "a piece is missing"))?;
                let inside = usize::try_from(inside).unwrap_or(usize::MAX).min(chunk.len());
                Ok(Some(chunk[inside..].to_vec()))
            }
        }
    }

    async fn chunk(&self, hash: &ArtefactHash, position: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let bytes: Option<Vec<u8>> =
            sql("SELECT bytes FROM artefact_chunks WHERE hash = $1 AND position = $2")
                .bind(hash.digits())
                .bind(i64::try_from(position).unwrap_or(i64::MAX))
                .fetch_optional(self.store.readers())
                .await?;
        Ok(bytes)
    }

    /// Lets go of artefacts that no run names, a bite of them; how many there were.
    ///
    /// # Errors
    /// The database or the folder cannot be written.
    pub async fn forget_unnamed(&self, now: Timestamp, most: u32) -> Result<u64, StoreError> {
        let before = now.minus(GRACE);
        let _turn = self.turn.lock().await;
        let gone = self
            .store
            .write(move |tx| Box::pin(async move { remove_unnamed(tx, before, most).await }))
            .await?;
        if let Place::Folder(folder) = &self.place {
            let paths: Vec<PathBuf> =
                gone.iter().filter_map(|digits| Some(path_below(folder, &digits.parse().ok()?))).collect();
            let parts = folder.join(PARTS);
            aside(folder, move || {
                for path in paths {
                    ignore_missing(fs::remove_file(path))?;
                }
                remove_old_parts(&parts, before)
            })
            .await?;
        }
        Ok(gone.len() as u64)
    }
}

/// Notes artefacts that what is stored of runs names, so that they stay as long as the runs do.
pub(super) async fn note_named(tx: &mut Connection, named: &[(RunId, String)]) -> Result<(), StoreError> {
    for (run, digits) in named {
        sql("INSERT INTO artefact_uses (hash, run) SELECT hash, $2 FROM artefacts WHERE hash = $1
             ON CONFLICT (hash, run) DO NOTHING")
        .bind(digits)
        .bind(run.0)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// The artefacts that a text of JSON, stored of `run`, names.
pub(super) fn named_by(run: RunId, text: &str) -> impl Iterator<Item = (RunId, String)> {
    named_in(text).into_iter().map(move |digits| (run, digits.to_owned()))
}

/// The hashes of artefacts in a text of JSON.
fn named_in(text: &str) -> BTreeSet<&str> {
    const BEFORE: &str = "\"artefact\":\"sha256:";
    let mut found = BTreeSet::new();
    let mut rest = text;
    while let Some(at) = rest.find(BEFORE) {
        rest = &rest[at + BEFORE.len()..];
        if let Some(digits) = rest.get(..64).filter(|digits| digits.parse::<ArtefactHash>().is_ok()) {
            found.insert(digits);
        }
    }
    found
}

async fn add_use(tx: &mut Connection, digits: &str, run: RunId) -> Result<(), StoreError> {
    sql("INSERT INTO artefact_uses (hash, run) VALUES ($1, $2) ON CONFLICT (hash, run) DO NOTHING")
        .bind(digits)
        .bind(run.0)
        .execute(tx)
        .await?;
    Ok(())
}

async fn put_chunk(
    tx: &mut Connection,
    digits: &str,
    position: u64,
    bytes: Vec<u8>,
    now: Timestamp,
) -> Result<(), StoreError> {
    sql("INSERT INTO artefact_chunks (hash, position, at, bytes) VALUES ($1, $2, $3, $4)
         ON CONFLICT (hash, position) DO UPDATE SET bytes = excluded.bytes, at = excluded.at")
    .bind(digits)
    .bind(i64::try_from(position).unwrap_or(i64::MAX))
    .bind(now.0)
    .bind(bytes)
    .execute(tx)
    .await?;
    Ok(())
}

async fn drop_chunks(tx: &mut Connection, digits: &str) -> Result<(), StoreError> {
    sql("DELETE FROM artefact_chunks WHERE hash = $1").bind(digits).execute(tx).await?;
    Ok(())
}

/// Takes away what no run names, and pieces of what was never whole.
async fn remove_unnamed(
    tx: &mut Connection,
    before: Timestamp,
    most: u32,
) -> Result<Vec<String>, StoreError> {
    let gone: Vec<String> = sql("DELETE FROM artefacts WHERE hash IN (
             SELECT hash FROM artefacts WHERE stored_at < $1
                 AND NOT EXISTS (SELECT 1 FROM artefact_uses WHERE artefact_uses.hash = artefacts.hash)
             ORDER BY hash LIMIT $2
         ) RETURNING hash")
    .bind(before.0)
    .bind(bounded(most))
    .fetch_all(&mut *tx)
    .await?;
    for digits in &gone {
        drop_chunks(&mut *tx, digits).await?;
    }
    let orphans: Vec<String> = sql("SELECT DISTINCT hash FROM artefact_chunks WHERE at < $1
             AND NOT EXISTS (SELECT 1 FROM artefacts WHERE artefacts.hash = artefact_chunks.hash) LIMIT 10")
    .bind(before.0)
    .fetch_all(&mut *tx)
    .await?;
    for digits in &orphans {
        drop_chunks(&mut *tx, digits).await?;
    }
    Ok(gone)
}

fn path_below(folder: &Path, hash: &ArtefactHash) -> PathBuf {
    let (first, rest) = hash.digits().split_at(2);
    folder.join(first).join(rest)
}

/// Runs what may wait for the disk where it may block.
async fn aside<T: Send + 'static>(
    folder: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let refuse = |error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        _ => StoreError::NotWritable { path: folder.to_owned(), why: error.to_string() },
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(refuse),
        Err(error) => Err(StoreError::Away(format!("a task that reads or writes a file ended: {error}"))),
    }
}

/// Writes a piece to its place in the part; at the end the part is on disk, and is what its hash says, or is gone.
fn write_piece(part: &Path, piece: &Piece) -> io::Result<Put> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    if let Some(folder) = part.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut options = File::options();
    let mut file = options.create(true).truncate(false).read(true).write(true).mode(0o600).open(part)?;
    file.seek(SeekFrom::Start(piece.offset))?;
    file.write_all(&piece.bytes)?;
    if piece.offset + (piece.bytes.len() as u64) < piece.size {
        return Ok(Put::More);
    }
    file.set_len(piece.size)?;
    file.seek(SeekFrom::Start(0))?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 128 * 1024]);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    if ArtefactHash::of(&hasher.finalize().into()) != piece.hash {
        drop(file);
        fs::remove_file(part)?;
        return Ok(Put::Wrong);
    }
    file.sync_all()?;
    Ok(Put::Kept)
}

/// The part becomes the artefact, durably.
fn into_place(part: &Path, target: &Path) -> io::Result<()> {
    let folder = target.parent().unwrap_or(target);
    fs::create_dir_all(folder)?;
    fs::rename(part, target)?;
    File::open(folder)?.sync_all()?;
    folder.parent().map_or(Ok(()), |above| File::open(above)?.sync_all())
}

fn read_piece(path: &Path, offset: u64) -> io::Result<Option<Vec<u8>>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::with_capacity(PIECE_BYTES);
    file.take(PIECE_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn ignore_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Parts of files that never came whole.
fn remove_old_parts(parts: &Path, before: Timestamp) -> io::Result<()> {
    let entries = match fs::read_dir(parts) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let age = entry.metadata()?.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        if i64::try_from(age.as_millis()).is_ok_and(|at| at < before.0) {
            ignore_missing(fs::remove_file(entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::testing::{NOW, Place, fresh, on_both, stored_run};

    on_both!(
        what_is_put_in_pieces_comes_back_whole_from_files_and_from_rows,
        bytes_that_are_not_those_of_the_hash_are_never_kept,
        an_artefact_goes_a_day_after_the_last_run_that_names_it,
    );

    fn hash_of(bytes: &[u8]) -> ArtefactHash {
        ArtefactHash::of(&Sha256::digest(bytes).into())
    }

    async fn put_all(artefacts: &Artefacts, bytes: &[u8], run: RunId) -> Put {
        let (hash, size) = (hash_of(bytes), bytes.len() as u64);
        let mut last = Put::More;
        let pieces: Vec<&[u8]> =
            if bytes.is_empty() { vec![&[]] } else { bytes.chunks(PIECE_BYTES).collect() };
        for (number, piece) in pieces.into_iter().enumerate() {
            let offset = (number * PIECE_BYTES) as u64;
            let piece = Piece { hash: hash.clone(), size, offset, bytes: piece.to_vec() };
            last = artefacts.put(piece, run, NOW).await.unwrap();
        }
        last
    }

    async fn read_all(artefacts: &Artefacts, hash: &ArtefactHash) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let piece = artefacts.piece(hash, bytes.len() as u64).await.unwrap().unwrap();
            if piece.is_empty() {
                return bytes;
            }
            bytes.extend(piece);
        }
    }

    fn both(store: &Store, folder: &Place) -> [Artefacts; 2] {
        let below = folder.path().join("artefacts");
        [Artefacts::in_folder(store.clone(), below), Artefacts::in_database(store.clone())]
    }

    async fn what_is_put_in_pieces_comes_back_whole_from_files_and_from_rows() {
        for place in 0..2 {
            let (folder, store) = fresh().await;
            let run = stored_run(&store).await.id;
            let artefacts = &both(&store, &folder)[place];
            for size in [0, 5, PIECE_BYTES, PIECE_BYTES * 2 + 9] {
                let bytes: Vec<u8> = (0..size).map(|byte| (byte % 253) as u8).collect();
                let hash = hash_of(&bytes);
                assert_eq!(artefacts.size(&hash).await.unwrap(), None);
                assert_eq!(artefacts.piece(&hash, 0).await.unwrap(), None);
                assert_eq!(put_all(artefacts, &bytes, run).await, Put::Kept);
                assert_eq!(artefacts.size(&hash).await.unwrap(), Some(size as u64));
                assert_eq!(read_all(artefacts, &hash).await, bytes);
                if size > 2 {
                    assert_eq!(artefacts.piece(&hash, 2).await.unwrap().unwrap()[..3], bytes[2..5]);
                }
                assert_eq!(put_all(artefacts, &bytes, run).await, Put::Kept);
            }
        }
    }

    async fn bytes_that_are_not_those_of_the_hash_are_never_kept() {
        for place in 0..2 {
            let (folder, store) = fresh().await;
            let run = stored_run(&store).await.id;
            let artefacts = &both(&store, &folder)[place];
            let hash = hash_of(b"wanted");
            let wrong = Piece { hash: hash.clone(), size: 6, offset: 0, bytes: b"others".to_vec() };
            assert_eq!(artefacts.put(wrong, run, NOW).await.unwrap(), Put::Wrong);
            assert_eq!(artefacts.piece(&hash, 0).await.unwrap(), None);
            assert_eq!(put_all(artefacts, b"wanted", run).await, Put::Kept);
        }
    }

    async fn an_artefact_goes_a_day_after_the_last_run_that_names_it() {
        for place in 0..2 {
            let (folder, store) = fresh().await;
            let (first, second) = (stored_run(&store).await.id, stored_run(&store).await.id);
            let artefacts = &both(&store, &folder)[place];
            put_all(artefacts, b"text", first).await;
            let hash = hash_of(b"text");
            let text = format!("{{\"artefact\":\"{hash}\",\"x\":1}}");
            store
                .write(move |tx| {
                    Box::pin(
                        async move { note_named(tx, &named_by(second, &text).collect::<Vec<_>>()).await },
                    )
                })
                .await
                .unwrap();
            let later = NOW.plus(Span::days(2));
            store.execute("DELETE FROM runs WHERE id = 1").await.unwrap();
            assert_eq!(artefacts.forget_unnamed(later, 9).await.unwrap(), 0);
            store.execute("DELETE FROM runs WHERE id = 2").await.unwrap();
            assert_eq!(artefacts.forget_unnamed(NOW, 9).await.unwrap(), 0);
            assert_eq!(artefacts.forget_unnamed(later, 9).await.unwrap(), 1);
            assert_eq!(artefacts.size(&hash).await.unwrap(), None);
            assert_eq!(store.count("SELECT count(*) FROM artefact_chunks").await, 0);
            if place == 0 {
                assert!(!path_below(&folder.path().join("artefacts"), &hash).exists());
            }
            let run = stored_run(&store).await.id;
            assert_eq!(put_all(artefacts, b"text", run).await, Put::Kept);
        }
    }

    #[test]
    fn names_of_artefacts_are_found_in_what_is_stored_and_nothing_else_is() {
        let digits = "ab".repeat(32);
        let text = format!(
            "{{\"a\":{{\"artefact\":\"sha256:{digits}\"}},\"b\":[{{\"artefact\":\"sha256:{digits}\"}}],\"c\":\"sha256:{}\",\"d\":{{\"artefact\":\"sha256:ü\"}}}}",
            "c".repeat(64)
        );
        assert_eq!(named_in(&text), BTreeSet::from([digits.as_str()]));
    }
}
