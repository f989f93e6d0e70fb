//! A copy on a host that ssh reaches. What is told there is a fixed script each time; paths are its arguments, or lines that it reads.

use tokio_util::sync::CancellationToken;

use super::{Held, Item, Mirror, Shot, failed};
use crate::delivery::apt::Error;
use crate::process::Finished;
use crate::ssh::{self, Target};

/// Small files travel together up to so much; a larger one in pieces of that size.
const BATCH_BYTES: u64 = 16 * 1024 * 1024;
const BATCH_FILES: usize = 2000;
/// How much a listing may be.
const LISTING_BYTES: usize = 64 * 1024 * 1024;

/// What is there. Leftovers of copies that broke off an hour ago go.
const LIST: &str = r#"cd "$1" 2>/dev/null || exit 0
find .siskin/incoming -mindepth 1 -maxdepth 1 ! -name '*.piece' -mmin +60 -exec rm -rf {} + 2>/dev/null
find .siskin/incoming -name '*.piece' -mtime +7 -exec rm -f {} + 2>/dev/null
for link in dists/*; do
  [ ! -h "$link" ] || printf 'link %s %s\n' "${link#dists/}" "$(readlink "$link")"
done
find pool dists .siskin/incoming -type f -exec wc -c {} + 2>/dev/null
exit 0
"#;

/// Files out of an archive, each moved to its place when all of them have come.
const UNPACK: &str = r#"set -eu
umask 022
root=$1 size=$2
mkdir -p "$root/.siskin/incoming"; cd "$root"
part=.siskin/incoming/part.$$ tree=.siskin/incoming/tree.$$
trap 'rm -rf "$part" "$tree"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$part"
if [ "$(wc -c <"$part")" -ne "$size" ]; then echo "the connection broke: only a part has come" >&2; exit 1; fi
mkdir "$tree"; tar -xmf "$part" -C "$tree"; rm -f "$part"
(cd "$tree"; find . -type d) | while IFS= read -r folder; do mkdir -p "$folder"; done
(cd "$tree"; find . -type f) | while IFS= read -r file; do mv -f "$tree/$file" "$file"; done
"#;

/// A piece of a large file, put behind those that are there; the last one completes it.
const PIECE: &str = r#"set -eu
umask 022
root=$1 name=$2 from=$3 size=$4 whole=$5 place=$6
mkdir -p "$root/.siskin/incoming"; cd "$root"
piece=.siskin/incoming/$name.piece part=.siskin/incoming/part.$$
trap 'rm -f "$part"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$part"
if [ "$(wc -c <"$part")" -ne "$size" ]; then echo "the connection broke: only a part has come" >&2; exit 1; fi
[ "$from" -ne 0 ] || : >"$piece"
if [ "$(wc -c <"$piece")" -ne "$from" ]; then echo "somebody else copies to this directory" >&2; exit 1; fi
cat "$part" >>"$piece"
if [ "$(wc -c <"$piece")" -eq "$whole" ]; then mkdir -p "$(dirname "$place")"; mv -f "$piece" "$place"; fi
"#;

/// Links of a generation, one a line, then the suite's own.
const SHOW: &str = r#"set -eu
umask 022
root=$1 suite=$2 generation=$3
mkdir -p "$root/.siskin/incoming"; cd "$root"
new=.siskin/incoming/link.$$
trap 'rm -f "$new"' EXIT
while IFS=' ' read -r link target; do
  [ -h "$link" ] || ln -s "$target" "$link"
done
sync
ln -s "$generation" "$new"
# A link to a folder must be replaced, not followed.
mv -fT "$new" "dists/$suite" 2>/dev/null || mv -fh "$new" "dists/$suite"
"#;

/// Files that are named one a line, and folders that are empty then.
const REMOVE: &str = r#"set -eu
cd "$1"
while IFS= read -r file; do
  rm -f "$file"
  folder=$(dirname "$file")
  while [ "$folder" != . ]; do
    [ "$(ls -A "$folder" 2>/dev/null)" != by-hash ] || [ ! -h "$folder/by-hash" ] || rm -f "$folder/by-hash"
    rmdir "$folder" 2>/dev/null || break
    folder=$(dirname "$folder")
  done
done
"#;

pub(super) struct Far<'a> {
    pub(super) target: &'a Target,
    pub(super) path: &'a str,
    pub(super) mirror: &'a Mirror,
    pub(super) cancel: &'a CancellationToken,
}

impl Far<'_> {
    pub(super) async fn held(&self) -> Result<Held, Error> {
        let finished = self.script(LIST, &[], Vec::new()).await?;
        if finished.stdout.dropped_bytes > 0 {
            return Err(failed(self.mirror, "it holds more files than can be listed"));
        }
        let mut held = Held::default();
        for line in finished.stdout.text().lines() {
            if let Some((suite, target)) = line.strip_prefix("link ").and_then(|link| link.split_once(' ')) {
                held.links.insert(suite.to_owned(), target.to_owned());
                continue;
            }
            let Some((size, path)) = line.trim_start().split_once(' ') else { continue };
            let Ok(size) = size.parse() else { continue };
            match path.strip_prefix(".siskin/incoming/").map(|name| name.strip_suffix(".piece")) {
                Some(Some(name)) => drop(held.pieces.insert(name.to_owned(), size)),
                Some(None) => {}
                None => drop(held.files.insert(path.to_owned(), size)),
            }
        }
        Ok(held)
    }

    pub(super) async fn put(&self, items: &[&Item], held: &Held) -> Result<(), Error> {
        let mut batch: Vec<&Item> = Vec::new();
        let mut bytes = 0;
        for item in items {
            if item.size > BATCH_BYTES {
                self.put_in_pieces(item, held).await?;
                continue;
            }
            if bytes + item.size > BATCH_BYTES || batch.len() == BATCH_FILES {
                self.put_together(&batch).await?;
                batch.clear();
                bytes = 0;
            }
            batch.push(item);
            bytes += item.size;
        }
        self.put_together(&batch).await
    }

    async fn put_together(&self, items: &[&Item]) -> Result<(), Error> {
        if items.is_empty() {
            return Ok(());
        }
        let mut archive = tar::Builder::new(Vec::new());
        let unpackable = |error: std::io::Error| failed(self.mirror, error);
        for item in items {
            let content = item.read()?;
            if content.len() as u64 != item.size {
                return Err(failed(self.mirror, format!("{} is not as large as its index says", item.path)));
            }
            let mut header = tar::Header::new_gnu();
            header.set_size(item.size);
            header.set_mode(0o644);
            header.set_entry_type(tar::EntryType::Regular);
            archive.append_data(&mut header, &item.path, content.as_slice()).map_err(unpackable)?;
        }
        let archive = archive.into_inner().map_err(unpackable)?;
        let size = archive.len().to_string();
        self.script(UNPACK, &[&size], archive).await.map(drop)
    }

    /// What came of an earlier attempt stays.
    async fn put_in_pieces(&self, item: &Item, held: &Held) -> Result<(), Error> {
        use sha2::Digest;
        let name = hex::encode(&sha2::Sha256::digest(format!("{} {}", item.path, item.size))[..16]);
        let content = item.read()?;
        let whole = content.len();
        if whole as u64 != item.size {
            return Err(failed(self.mirror, format!("{} is not as large as its index says", item.path)));
        }
        let there = held.pieces.get(&name).copied().unwrap_or(0);
        let mut from = usize::try_from(there).unwrap_or(0);
        if from >= whole {
            from = 0;
        }
        while from < whole {
            let to = whole.min(from + usize::try_from(BATCH_BYTES).unwrap_or(usize::MAX));
            let piece = content[from..to].to_vec();
            let (size, from_text, whole_text) =
                (piece.len().to_string(), from.to_string(), whole.to_string());
            self.script(PIECE, &[&name, &from_text, &size, &whole_text, &item.path], piece).await?;
            from = to;
        }
        Ok(())
    }

    pub(super) async fn show(&self, shot: &Shot) -> Result<(), Error> {
        let lines: String = shot.links.iter().map(|(link, target)| format!("{link} {target}\n")).collect();
        self.script(SHOW, &[&shot.suite, &shot.generation], lines.into_bytes()).await.map(drop)
    }

    pub(super) async fn remove(&self, paths: &[&String]) -> Result<(), Error> {
        let lines: String = paths.iter().map(|path| format!("{path}\n")).collect();
        self.script(REMOVE, &[], lines.into_bytes()).await.map(drop)
    }

    /// Runs one of the scripts above, with the copy's directory before its other arguments.
    async fn script(&self, script: &str, arguments: &[&str], content: Vec<u8>) -> Result<Finished, Error> {
        let arguments = [&[self.path], arguments].concat();
        let done = ssh::feed(self.target, content, script, &arguments, LISTING_BYTES, self.cancel).await;
        let finished = done.map_err(|error| failed(self.mirror, error))?;
        match finished.success() {
            true => Ok(finished),
            false => Err(failed(self.mirror, finished.last_words())),
        }
    }
}
