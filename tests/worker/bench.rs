//! A worker with a server's end in the hands of a test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use siskin::dispatch::local::{self, ServerEnd};
use siskin::dispatch::{Dispatched, Order, Report, Verdict};
use siskin::model::attempt::Work;
use siskin::model::desk::{Reply, Request};
use siskin::model::log::Stream;
use siskin::model::{Attempt, AttemptKey, ErrorKind, Filled, Outcome, Route, RunError, RunId, Secret, Span};
use siskin::worker::Worker;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Bench {
    pub(crate) data: tempfile::TempDir,
    pub(crate) server: ServerEnd,
    pub(crate) stop: CancellationToken,
    pub(crate) worker: JoinHandle<()>,
}

/// What came of one attempt, and all that it said on the way.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) outcome: Outcome,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) notes: String,
    pub(crate) progress: Vec<Value>,
}

impl Seen {
    pub(crate) fn output(&self) -> &Value {
        match &self.outcome {
            Outcome::Succeeded { output } => output,
            Outcome::Failed { error, .. } => panic!("it failed: {error}; {self:?}"),
        }
    }

    pub(crate) fn error(&self) -> &RunError {
        match &self.outcome {
            Outcome::Succeeded { output } => panic!("it succeeded: {output}"),
            Outcome::Failed { error, .. } => error,
        }
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        self.error().kind
    }

    /// Everything that anybody could see of it.
    pub(crate) fn everything(&self) -> String {
        format!("{self:?}")
    }
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench::with_slots(4)
    }

    pub(crate) fn with_slots(slots: usize) -> Bench {
        siskin::process::set_shim(PathBuf::from(env!("CARGO_BIN_EXE_siskin")));
        let data = tempfile::tempdir().unwrap();
        let (server, end) = local::pair();
        let stop = CancellationToken::new();
        let worker = tokio::spawn(Worker::new(end, data.path(), slots).run(stop.clone()));
        Bench { data, server, stop, worker }
    }

    pub(crate) async fn order(&self, attempt: Attempt, secrets: &[(&str, &str)]) {
        let secrets: BTreeMap<_, _> =
            secrets.iter().map(|(name, text)| ((*name).to_owned(), Secret::new(*text))).collect();
        self.server.orders.send(Order::Do(Box::new(Dispatched { attempt, secrets }))).await.unwrap();
    }

    pub(crate) async fn cancel(&self, key: &AttemptKey) {
        self.server.orders.send(Order::Cancel { key: key.clone(), worker: None }).await.unwrap();
    }

    /// The next report of any attempt; claims are granted on the way.
    pub(crate) async fn report(&mut self) -> Report {
        loop {
            match self.any_report().await {
                Report::Claim { go, .. } => go.send(Verdict::Go(BTreeMap::new())).unwrap(),
                other => return other,
            }
        }
    }

    pub(crate) async fn any_report(&mut self) -> Report {
        tokio::time::timeout(PATIENCE, self.server.reports.recv())
            .await
            .expect("a report comes in time")
            .unwrap()
    }

    /// Lets the next attempt begin.
    pub(crate) async fn grant(&mut self) {
        match self.any_report().await {
            Report::Claim { go, .. } => go.send(Verdict::Go(BTreeMap::new())).unwrap(),
            other => panic!("no claim: {other:?}"),
        }
    }

    /// Reads reports up to the end of the only attempt.
    pub(crate) async fn seen(&mut self) -> Seen {
        self.seen_answering(|_| Reply::Refused { why: "the test answers nothing".into() }).await
    }

    pub(crate) async fn seen_answering(&mut self, mut answer: impl FnMut(Request) -> Reply) -> Seen {
        let (mut stdout, mut stderr, mut notes, mut progress) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        loop {
            match self.report().await {
                Report::Claim { .. } => unreachable!("granted already"),
                Report::Log { stream: Stream::Stdout, bytes, .. } => stdout.extend(bytes),
                Report::Log { stream: Stream::Stderr, bytes, .. } => stderr.extend(bytes),
                Report::Log { stream: Stream::Note, bytes, .. } => notes.extend(bytes),
                Report::Progress { output, stored, .. } => {
                    progress.push(output);
                    stored.unwrap().send(()).unwrap();
                }
                Report::Question { request, answer: reply, .. } => drop(reply.send(answer(request))),
                Report::Finished { outcome, .. } => {
                    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                    return Seen {
                        outcome,
                        stdout: text(stdout),
                        stderr: text(stderr),
                        notes: text(notes),
                        progress,
                    };
                }
            }
        }
    }

    pub(crate) async fn done(&mut self, attempt: Attempt) -> Seen {
        self.done_with(attempt, &[]).await
    }

    pub(crate) async fn done_with(&mut self, attempt: Attempt, secrets: &[(&str, &str)]) -> Seen {
        self.order(attempt, secrets).await;
        self.seen().await
    }

    /// The workspace of the run that all attempts here belong to.
    pub(crate) fn workspace(&self) -> PathBuf {
        self.data.path().join("workspaces/7")
    }
}

pub(crate) fn key(number: u32) -> AttemptKey {
    AttemptKey { run: RunId(7), step: "build".into(), visit: 1, item: None, number }
}

/// An attempt of an action without a file of its own: its input is all there is.
pub(crate) fn attempt(runner: &str, action: &str, input: Value) -> Attempt {
    Attempt {
        key: key(1),
        action: action.into(),
        input: Filled::Plain(input),
        work: Work {
            runner: runner.into(),
            section: Value::Null,
            output: Value::Null,
            script: None,
            secret_outputs: Vec::new(),
            file_inputs: Vec::new(),
            file_outputs: Vec::new(),
            config: json!({}),
            functions: None,
        },
        apps: json!({}),
        idempotent: false,
        timeout: Span::seconds(20),
        route: Route::default(),
    }
}

pub(crate) fn shell(script: &str) -> Attempt {
    attempt("shell", "core.shell", json!({"script": script}))
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X'])
}
