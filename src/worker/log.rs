//! The log of one attempt on its way to the server: masked, put together to chunks, bounded.
//!
//! Lines that come one after another travel together: a chunk goes when it is large enough, or a tenth of a second after its first line. When
//! the server takes them more slowly than they come, the writer waits, so that memory stays bounded. An attempt's log ends at a size.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::mask::{self, Mask};
use crate::dispatch::Report;
use crate::model::AttemptKey;
use crate::model::log::Stream;

/// A chunk that is sent at once, and the largest one.
const CHUNK_BYTES: usize = 64 * 1024;
/// How long a chunk waits for more.
const BATCH_TIME: Duration = Duration::from_millis(100);
/// How much may wait to be sent before the writer must wait.
const WAITING_BYTES: usize = 1024 * 1024;
/// How much of an attempt's output is kept.
pub(super) const LOG_BYTES: usize = 100 * 1000 * 1000;
/// Between two looks at whether waiting for room still makes sense.
const ROOM_POLL: Duration = Duration::from_millis(100);

/// The writing end; clones write to the same log.
#[derive(Clone)]
pub(super) struct Log(Arc<Shared>);

struct Shared {
    mask: Arc<Mask>,
    state: Mutex<State>,
    /// There is something to send.
    something: Notify,
    /// There is so much to send that it should go now.
    plenty: Notify,
    /// Some of what waited was taken.
    room: Condvar,
    limit: usize,
    cancel: CancellationToken,
}

#[derive(Default)]
struct State {
    masks: [mask::Stream; 3],
    chunks: VecDeque<(Stream, Vec<u8>)>,
    waiting: usize,
    written: usize,
    /// Nothing more is taken: the attempt is over, its log is full, or nobody listens.
    closed: bool,
    ended: bool,
}

impl Log {
    /// A log of at most `limit` bytes. A writer that waits for room gives up when `cancel` is cancelled.
    pub(super) fn new(mask: Arc<Mask>, limit: usize, cancel: CancellationToken) -> Log {
        Log(Arc::new(Shared {
            mask,
            state: Mutex::default(),
            something: Notify::new(),
            plenty: Notify::new(),
            room: Condvar::new(),
            limit,
            cancel,
        }))
    }

    pub(super) fn write(&self, stream: Stream, bytes: &[u8]) {
        self.wait_for_room();
        self.push(stream, bytes);
    }

    fn push(&self, stream: Stream, bytes: &[u8]) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        let masked = state.masks[index(stream)].push(&self.0.mask, bytes);
        self.add(&mut state, stream, masked);
    }

    /// A line of Siskin's own. It waits for no room: it comes from the task that carries the log, too, and is short.
    pub(super) fn note(&self, text: &str) {
        self.push(Stream::Note, format!("{text}\n").as_bytes());
    }

    /// Nothing more will be written: what was held back goes too, and `carry` ends.
    pub(super) fn end(&self) {
        let mut state = self.state();
        for stream in [Stream::Stdout, Stream::Stderr, Stream::Note] {
            let held = state.masks[index(stream)].finish(&self.0.mask);
            self.add(&mut state, stream, held);
        }
        state.closed = true;
        state.ended = true;
        self.0.something.notify_one();
        self.0.plenty.notify_one();
    }

    /// Sends what is written, until the end of the log. Must run in another task than the writers.
    pub(super) async fn carry(&self, key: &AttemptKey, reports: &mpsc::Sender<Report>) {
        loop {
            self.0.something.notified().await;
            if !self.is_urgent() {
                // Either way it goes now.
                drop(tokio::time::timeout(BATCH_TIME, self.0.plenty.notified()).await);
            }
            let (chunks, ended) = self.take();
            for (stream, bytes) in chunks {
                let report = Report::Log { key: key.clone(), stream, bytes, stored: None };
                if reports.send(report).await.is_err() {
                    return self.give_up();
                }
            }
            if ended {
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, state: &mut State, stream: Stream, bytes: Vec<u8>) {
        if bytes.is_empty() || state.closed {
            return;
        }
        state.written += bytes.len();
        if state.written > self.0.limit {
            let note = format!("the log is larger than {}: the rest of it is not kept\n", size(self.0.limit));
            append(state, Stream::Note, note.as_bytes());
            state.closed = true;
        } else {
            append(state, stream, &bytes);
        }
        self.0.something.notify_one();
        if state.waiting >= CHUNK_BYTES {
            self.0.plenty.notify_one();
        }
    }

    fn is_urgent(&self) -> bool {
        let state = self.state();
        state.ended || state.waiting >= CHUNK_BYTES
    }

    fn take(&self) -> (VecDeque<(Stream, Vec<u8>)>, bool) {
        let mut state = self.state();
        state.waiting = 0;
        let taken = (mem::take(&mut state.chunks), state.ended);
        self.0.room.notify_all();
        taken
    }

    fn give_up(&self) {
        let mut state = self.state();
        state.closed = true;
        state.chunks.clear();
        state.waiting = 0;
        self.0.room.notify_all();
    }

    /// Programs' lines come by a plain call, so this blocks its thread; the runtime is told. Where it can't be told (a runtime of one thread:
    /// tests), the writer goes on, and memory is bounded by the size of the log only.
    fn wait_for_room(&self) {
        if self.has_room(&self.state()) {
            return;
        }
        if Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread)
        {
            return;
        }
        tokio::task::block_in_place(|| {
            let mut state = self.state();
            while !self.has_room(&state) {
                state = match self.0.room.wait_timeout(state, ROOM_POLL) {
                    Ok((state, _)) => state,
                    Err(poisoned) => poisoned.into_inner().0,
                };
            }
        });
    }

    fn has_room(&self, state: &State) -> bool {
        state.waiting < WAITING_BYTES || state.closed || self.0.cancel.is_cancelled()
    }
}

/// Adds to the last chunk when it is of the same stream and not full.
fn append(state: &mut State, stream: Stream, bytes: &[u8]) {
    state.waiting += bytes.len();
    for piece in bytes.chunks(CHUNK_BYTES) {
        match state.chunks.back_mut() {
            Some((last, chunk)) if *last == stream && chunk.len() + piece.len() <= CHUNK_BYTES => {
                chunk.extend_from_slice(piece);
            }
            _ => state.chunks.push_back((stream, piece.to_vec())),
        }
    }
}

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
        Stream::Note => 2,
    }
}

/// A number of bytes as people say it.
pub(super) fn size(bytes: usize) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..1_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RunId, Secret};

    fn key() -> AttemptKey {
        AttemptKey { run: RunId(1), step: "a".into(), visit: 1, item: None, number: 1 }
    }

    fn log(limit: usize) -> Log {
        let secret = Secret::new("hunter2");
        Log::new(Arc::new(Mask::new([&secret])), limit, CancellationToken::new())
    }

    /// What the log gives when everything was written before.
    async fn carried(log: &Log) -> Vec<(Stream, Vec<u8>)> {
        log.end();
        let (reports, mut received) = mpsc::channel(1000);
        log.carry(&key(), &reports).await;
        drop(reports);
        let mut chunks = Vec::new();
        while let Some(report) = received.recv().await {
            if let Report::Log { stream, bytes, .. } = report {
                chunks.push((stream, bytes));
            }
        }
        chunks
    }

    #[tokio::test]
    async fn lines_travel_together_in_order_and_masked() {
        let log = log(1000);
        log.write(Stream::Stdout, b"one\n");
        log.write(Stream::Stdout, b"hunt");
        log.write(Stream::Stdout, b"er2\n");
        log.write(Stream::Stderr, b"\xff hunter2");
        log.note("done");
        let chunks = carried(&log).await;
        assert_eq!(
            chunks,
            [
                (Stream::Stdout, b"one\n***\n".to_vec()),
                (Stream::Stderr, b"\xff ***".to_vec()),
                (Stream::Note, b"done\n".to_vec()),
            ]
        );
    }

    #[tokio::test]
    async fn a_log_ends_at_its_limit_and_says_so() {
        let log = log(20);
        for _ in 0..100 {
            log.write(Stream::Stdout, b"123456789\n");
        }
        let chunks = carried(&log).await;
        assert_eq!(chunks[0], (Stream::Stdout, b"123456789\n123456789\n".to_vec()));
        assert_eq!(chunks[1].0, Stream::Note);
        assert_eq!(chunks.len(), 2);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_writer_that_is_too_fast_waits_and_loses_nothing() {
        let log = log(LOG_BYTES);
        let (reports, mut received) = mpsc::channel(1);
        let carrier = tokio::spawn({
            let log = log.clone();
            async move { log.carry(&key(), &reports).await }
        });
        let writer = tokio::spawn({
            let log = log.clone();
            async move {
                for _ in 0..8000 {
                    log.write(Stream::Stdout, &[b'x'; 1024]);
                    assert!(log.state().waiting <= WAITING_BYTES + 1024);
                }
                log.end();
            }
        });
        let mut total = 0;
        while let Some(report) = received.recv().await {
            if let Report::Log { bytes, .. } = report {
                assert!(bytes.len() <= CHUNK_BYTES);
                total += bytes.len();
            }
        }
        assert_eq!(total, 8000 * 1024);
        assert!(writer.await.is_ok() && carrier.await.is_ok());
    }
}
