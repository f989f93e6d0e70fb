//! Output on its way: cut into lines for whoever looks on, and kept within a bound for whoever asks afterwards.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::{LINE_BYTES, Stream};

/// The largest output that is kept whole.
const WHOLE_BYTES: u64 = 1024 * 1024 * 1024;

/// What was kept of an output: all of it, or its beginning and its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// With a line in place of what was dropped.
    pub bytes: Vec<u8>,
    /// How many bytes are not in `bytes`.
    pub dropped_bytes: u64,
    /// The whole of it, where that was wanted and more was printed than is kept.
    pub whole: Option<Whole>,
}

/// All that was printed, in a file that goes when nobody holds this any more.
#[derive(Clone, Debug)]
pub struct Whole {
    file: Arc<tempfile::TempPath>,
    pub bytes: u64,
    /// More was printed than a file may hold; its end is missing.
    pub is_cut: bool,
}

impl Whole {
    pub fn path(&self) -> &Path {
        &self.file
    }
}

impl PartialEq for Whole {
    fn eq(&self, other: &Whole) -> bool {
        self.path() == other.path()
    }
}

impl Eq for Whole {}

impl Captured {
    /// As text; what is no UTF-8 shows as `\u{fffd}`.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The last `bytes` of it as text, from the beginning of a line where that is possible.
    pub fn tail(&self, bytes: usize) -> String {
        let start = self.bytes.len().saturating_sub(bytes);
        let mut tail = &self.bytes[start..];
        if start > 0
            && let Some(newline) = tail.iter().position(|byte| *byte == b'\n')
            && newline + 1 < tail.len()
        {
            tail = &tail[newline + 1..];
        }
        String::from_utf8_lossy(tail).into_owned()
    }
}

/// Keeps the beginning and the end of what is written to it.
pub(super) struct Keeper {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_bytes: usize,
    tail_bytes: usize,
    dropped_bytes: u64,
    spill: Option<Spill>,
}

/// Where the whole of a large output goes.
struct Spill {
    folder: PathBuf,
    file: Option<tempfile::NamedTempFile>,
    bytes: u64,
    is_cut: bool,
}

impl Spill {
    /// Writes to the file. What can't be written is not kept: beginning and end are all the same.
    fn write(&mut self, pieces: &[&[u8]]) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let builder = tempfile::Builder::new().prefix(".output-").tempfile_in(&self.folder)?;
                self.file.insert(builder)
            }
        };
        for piece in pieces {
            let room = usize::try_from(WHOLE_BYTES - self.bytes).unwrap_or(usize::MAX);
            let fits = &piece[..piece.len().min(room)];
            file.write_all(fits)?;
            self.bytes += fits.len() as u64;
            self.is_cut |= fits.len() < piece.len();
        }
        Ok(())
    }
}

impl Keeper {
    pub(super) fn new(keep: usize) -> Keeper {
        let head_bytes = keep / 2;
        Keeper {
            head: Vec::new(),
            tail: VecDeque::new(),
            head_bytes,
            tail_bytes: keep - head_bytes,
            dropped_bytes: 0,
            spill: None,
        }
    }

    /// As `new`, with all of it in a file of `folder` when it is more than that.
    pub(super) fn with_whole(keep: usize, folder: Option<&Path>) -> Keeper {
        let spill =
            folder.map(|folder| Spill { folder: folder.to_owned(), file: None, bytes: 0, is_cut: false });
        Keeper { spill, ..Keeper::new(keep) }
    }

    /// Writes to the whole once more is there than is kept. Programs' output is read in pieces of a page cache's size, so this waits for no disk but a full one.
    fn write_whole(&mut self, bytes: &[u8]) {
        let Some(spill) = &mut self.spill else { return };
        let kept = self.head.len() + self.tail.len();
        let written = if spill.file.is_some() {
            spill.write(&[bytes])
        } else if kept + bytes.len() > self.head_bytes + self.tail_bytes {
            let (first, second) = self.tail.as_slices();
            spill.write(&[&self.head, first, second, bytes])
        } else {
            return;
        };
        if let Err(error) = written {
            tracing::warn!(%error, "the whole of a large output can't be kept; its beginning and end are");
            self.spill = None;
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.write_whole(bytes);
        let room = self.head_bytes - self.head.len();
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        let skipped = rest.len().saturating_sub(self.tail_bytes);
        let rest = &rest[skipped..];
        let overflow = (self.tail.len() + rest.len()).saturating_sub(self.tail_bytes);
        self.tail.drain(..overflow);
        self.tail.extend(rest);
        self.dropped_bytes += (skipped + overflow) as u64;
    }

    pub(super) fn finish(self) -> Captured {
        let mut bytes = self.head;
        if self.dropped_bytes > 0 {
            bytes.extend_from_slice(
                format!("\n... {} bytes are not shown here ...\n", self.dropped_bytes).as_bytes(),
            );
        }
        bytes.extend(self.tail);
        let whole = self.spill.and_then(|spill| {
            let (bytes, is_cut) = (spill.bytes, spill.is_cut);
            Some(Whole { file: Arc::new(spill.file?.into_temp_path()), bytes, is_cut })
        });
        Captured { bytes, dropped_bytes: self.dropped_bytes, whole }
    }
}

/// Cuts bytes into lines of at most [`LINE_BYTES`].
#[derive(Default)]
pub(super) struct Lines {
    pending: Vec<u8>,
    /// The pending bytes continue a line of which a piece was given already.
    continues: bool,
}

impl Lines {
    pub(super) fn write(&mut self, mut bytes: &[u8], on_line: &mut dyn FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = LINE_BYTES - self.pending.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(newline) = window.iter().position(|byte| *byte == b'\n') {
                self.end_line(&window[..newline], on_line);
                bytes = &bytes[newline + 1..];
                continue;
            }
            self.pending.extend_from_slice(window);
            bytes = &bytes[window.len()..];
            if self.pending.len() == LINE_BYTES {
                on_line(&self.pending);
                self.pending.clear();
                self.continues = true;
            }
        }
    }

    fn end_line(&mut self, last: &[u8], on_line: &mut dyn FnMut(&[u8])) {
        if self.pending.is_empty() {
            // A line that ended exactly with its last piece is no empty line beside.
            if !(self.continues && last.is_empty()) {
                on_line(last);
            }
        } else {
            self.pending.extend_from_slice(last);
            on_line(&self.pending);
            self.pending.clear();
        }
        self.continues = false;
    }

    pub(super) fn finish(&mut self, on_line: &mut dyn FnMut(&[u8])) {
        if !self.pending.is_empty() {
            on_line(&self.pending);
            self.pending.clear();
        }
    }
}

/// One of the two outputs of a program.
struct Side<R> {
    reader: R,
    buffer: Vec<u8>,
    ended: bool,
    lines: Lines,
    keeper: Keeper,
}

impl<R: AsyncRead + Unpin> Side<R> {
    fn new(reader: R, keep: usize, whole: Option<&Path>) -> Side<R> {
        Side {
            reader,
            buffer: vec![0; LINE_BYTES],
            ended: false,
            lines: Lines::default(),
            keeper: Keeper::with_whole(keep, whole),
        }
    }

    /// Takes in what was read; nothing, or an error, is the end.
    fn take(
        &mut self,
        stream: Stream,
        read: std::io::Result<usize>,
        on_line: &mut (dyn FnMut(Stream, &[u8]) + Send),
    ) {
        let count = read.unwrap_or(0);
        if count == 0 {
            self.ended = true;
            self.lines.finish(&mut |line| on_line(stream, line));
            return;
        }
        self.keeper.write(&self.buffer[..count]);
        self.lines.write(&self.buffer[..count], &mut |line| on_line(stream, line));
    }
}

/// Reads both outputs of a program.
pub(super) struct Pump<O, E> {
    stdout: Side<O>,
    stderr: Side<E>,
}

impl<O: AsyncRead + Unpin, E: AsyncRead + Unpin> Pump<O, E> {
    /// `whole` is the folder for outputs of which more than `keep` bytes come, where they are to be kept whole.
    pub(super) fn new(stdout: O, stderr: E, keep: usize, whole: Option<&Path>) -> Pump<O, E> {
        Pump { stdout: Side::new(stdout, keep, whole), stderr: Side::new(stderr, keep, whole) }
    }

    pub(super) fn ended(&self) -> bool {
        self.stdout.ended && self.stderr.ended
    }

    /// Reads once, from whichever has something. Loses nothing when it is dropped while it waits.
    pub(super) async fn step(&mut self, on_line: &mut (dyn FnMut(Stream, &[u8]) + Send)) {
        tokio::select! {
            read = self.stdout.reader.read(&mut self.stdout.buffer), if !self.stdout.ended => {
                self.stdout.take(Stream::Stdout, read, on_line);
            }
            read = self.stderr.reader.read(&mut self.stderr.buffer), if !self.stderr.ended => {
                self.stderr.take(Stream::Stderr, read, on_line);
            }
            else => {}
        }
    }

    /// What was kept, stdout first.
    pub(super) fn finish(mut self, on_line: &mut (dyn FnMut(Stream, &[u8]) + Send)) -> (Captured, Captured) {
        self.stdout.lines.finish(&mut |line| on_line(Stream::Stdout, line));
        self.stderr.lines.finish(&mut |line| on_line(Stream::Stderr, line));
        (self.stdout.keeper.finish(), self.stderr.keeper.finish())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn lines_of(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut got = Vec::new();
        let mut lines = Lines::default();
        for piece in pieces {
            lines.write(piece, &mut |line| got.push(line.to_vec()));
        }
        lines.finish(&mut |line| got.push(line.to_vec()));
        got
    }

    #[test]
    fn lines_are_the_bytes_between_newlines_however_they_arrive() {
        let expected: Vec<Vec<u8>> =
            vec![b"a\r".to_vec(), Vec::new(), b"\xff\x1b[1mb".to_vec(), b"last".to_vec()];
        let whole: &[u8] = b"a\r\n\n\xff\x1b[1mb\nlast";
        assert_eq!(lines_of(&[whole]), expected);
        let single: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(lines_of(&single), expected);
        assert!(lines_of(&[]).is_empty());
    }

    #[test]
    fn a_long_line_comes_in_pieces_and_adds_no_empty_line() {
        let mut long = vec![b'x'; LINE_BYTES * 2];
        long.extend_from_slice(b"\ny\n");
        let got = lines_of(&[&long]);
        assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), [LINE_BYTES, LINE_BYTES, 1]);
    }

    #[test]
    fn beginning_and_end_are_kept_and_what_is_missing_is_said() {
        let mut keeper = Keeper::new(10);
        for byte in b'a'..=b'z' {
            keeper.write(&[byte]);
        }
        let kept = keeper.finish();
        assert_eq!(kept.dropped_bytes, 16);
        assert_eq!(kept.text(), "abcde\n... 16 bytes are not shown here ...\nvwxyz");
        assert_eq!(kept.tail(3), "xyz");

        let mut keeper = Keeper::new(10);
        keeper.write(b"abcdefghijklmnopqrstuvwxyz");
        assert_eq!(keeper.finish(), kept);

        let mut small = Keeper::new(10);
        small.write(b"abcdefghij");
        assert_eq!(small.finish(), Captured { bytes: b"abcdefghij".to_vec(), ..Captured::default() });
    }

    #[test]
    fn the_whole_of_an_output_is_in_a_file_once_it_is_more_than_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut small = Keeper::with_whole(10, Some(folder.path()));
        small.write(b"abcde");
        small.write(b"fghij");
        assert_eq!(small.finish().whole, None);

        let mut keeper = Keeper::with_whole(10, Some(folder.path()));
        for piece in ["abcd", "efgh", "ijklmnop", "qrstuvwxyz"] {
            keeper.write(piece.as_bytes());
        }
        let kept = keeper.finish();
        let whole = kept.whole.clone().unwrap();
        assert_eq!(std::fs::read(whole.path()).unwrap(), b"abcdefghijklmnopqrstuvwxyz");
        assert_eq!((whole.bytes, whole.is_cut, kept.dropped_bytes), (26, false, 16));
        let path = whole.path().to_owned();
        drop((kept, whole));
        assert!(!path.exists());

        // Where there is no room for it, beginning and end are kept as ever.
        let mut nowhere = Keeper::with_whole(10, Some(Path::new("/nowhere")));
        nowhere.write(b"abcdefghijklmnopqrstuvwxyz");
        assert_eq!(nowhere.finish().tail(3), "xyz");
    }

    #[test]
    fn nothing_is_kept_when_nothing_is_asked_for() {
        let mut keeper = Keeper::new(0);
        keeper.write(b"abc");
        assert_eq!(keeper.finish().dropped_bytes, 3);
    }
}
