//! One attempt, from its order to its outcome.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::artefacts::{self, OUTPUT_BYTES, weight};
use super::log::{LOG_BYTES, Log, size};
use super::mask::{MASK, Mask};
use super::render::{self, Expressions};
use super::workspace::Workspaces;
use crate::clock::Clock;
use crate::dispatch::{Dispatched, Report, Verdict};
use crate::expr::{Expr, Scope};
use crate::model::depth::{DEEPEST, is_too_deep};
use crate::model::desk::{Reply, Request};
use crate::model::log::Stream;
use crate::model::worker::Claimant;
use crate::model::{Artefact, Attempt, AttemptKey, ErrorKind, Filled, Outcome, Secret, Span, Value};
use crate::runners::{self, Done, Failure, Job, Line, Runner};

/// The longest error message that is kept.
const MESSAGE_CHARACTERS: usize = 4000;
/// How long a runner gets to end what it started once it was told to; programs get ten seconds of it before they are killed.
const END_TIME: Duration = Duration::from_secs(30);

/// What all attempts of a worker share.
pub(super) struct Context {
    pub(super) workspaces: Workspaces,
    data: PathBuf,
    reports: mpsc::Sender<Report>,
    expressions: Expressions,
    clock: Clock,
    pub(super) by: Claimant,
    /// Attempts whose outcome must not be told: they are ended because the worker stops.
    silent: Mutex<HashSet<AttemptKey>>,
}

impl Context {
    pub(super) fn new(data: PathBuf, reports: mpsc::Sender<Report>, by: Claimant) -> Context {
        Context {
            workspaces: Workspaces::new(&data),
            data,
            reports,
            expressions: Expressions::new(),
            clock: Clock::wall(),
            by,
            silent: Mutex::default(),
        }
    }

    /// Tells the server. When it is gone there is nobody to tell, and its successor finds the attempt lost.
    pub(super) async fn report(&self, report: Report) {
        if self.reports.send(report).await.is_err() {
            tracing::debug!("a report found no server");
        }
    }

    /// The last word on an attempt.
    pub(super) fn finished(&self, key: AttemptKey, outcome: Outcome) -> Report {
        Report::Finished { key, worker: self.by.worker.clone(), outcome, stored: None }
    }

    pub(super) fn silence<'a>(&self, keys: impl Iterator<Item = &'a AttemptKey>) {
        self.silent().extend(keys.cloned());
    }

    fn silent(&self) -> MutexGuard<'_, HashSet<AttemptKey>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does an attempt and reports all there is to it.
pub(super) async fn work(context: Arc<Context>, dispatched: Dispatched, cancel: CancellationToken) {
    let Dispatched { attempt, mut secrets } = dispatched;
    let key = attempt.key.clone();
    let (go, mut answer) = oneshot::channel();
    context.report(Report::Claim { key: key.clone(), by: context.by.clone(), go }).await;
    let verdict = tokio::select! {
        verdict = &mut answer => verdict,
        () = cancel.cancelled() => {
            if context.silent().remove(&key) {
                return; // The worker stops, and nothing has begun.
            }
            answer.await
        }
    };
    match verdict {
        Ok(Verdict::Go(more)) => secrets.extend(more),
        Ok(Verdict::No) | Err(_) => return, // The run no longer wants it, and nobody waits for an outcome.
    }
    let mask = Arc::new(Mask::new(secrets.values()));
    let log = Log::new(mask.clone(), LOG_BYTES, cancel.clone());
    let voice = Arc::new(Voice {
        key: key.clone(),
        mask,
        log: log.clone(),
        reports: context.reports.clone(),
        cancel: CancellationToken::new(),
        progress: Mutex::new(Value::Null),
        context: context.clone(),
    });
    let outcome = async {
        let outcome = outcome_of(&context, attempt, &secrets, &voice, &cancel).await;
        if let Outcome::Failed { error, .. } = &outcome {
            log.note(&error.message);
        }
        log.end();
        outcome
    };
    let (outcome, ()) = tokio::join!(outcome, log.carry(&key, &context.reports));
    if context.silent().remove(&key) {
        return;
    }
    context.report(context.finished(key, outcome)).await;
}

async fn outcome_of(
    context: &Context,
    attempt: Attempt,
    secrets: &BTreeMap<String, Secret>,
    voice: &Arc<Voice>,
    cancel: &CancellationToken,
) -> Outcome {
    let secret_outputs = attempt.work.secret_outputs.clone();
    let file_outputs = attempt.work.file_outputs.clone();
    let workspace = context.workspaces.path(attempt.key.run);
    // What is only passing through lies beside the workspaces.
    let folder = workspace.parent().unwrap_or(&workspace);
    let result = do_it(context, attempt, secrets, voice, cancel).await;
    let clean = |output: Value| clean(voice, output, &secret_outputs);
    let result = match result {
        Ok(output) => {
            let kept = artefacts::keep_files(&**voice, &workspace, &file_outputs, output).await;
            ready(voice, folder, kept.map(clean)).await
        }
        failed => failed,
    };
    match result {
        Ok(output) => Outcome::Succeeded { output },
        Err(Failure { mut error, output }) => {
            error.message = voice.mask.text(&error.message).chars().take(MESSAGE_CHARACTERS).collect();
            let shown = clean(output);
            let output = match ready(voice, folder, Ok(shown)).await {
                Ok(output) if !output.is_null() => output,
                _ => voice.last_progress().clone(),
            };
            Outcome::Failed { error: *error, output }
        }
    }
}

async fn do_it(
    context: &Context,
    attempt: Attempt,
    secrets: &BTreeMap<String, Secret>,
    voice: &Arc<Voice>,
    cancel: &CancellationToken,
) -> Result<Value, Failure> {
    let files = tokio::select! {
        fetched = fetched(context, &attempt, voice) => fetched?,
        () = cancel.cancelled() => return Err(Failure::cancelled()),
    };
    Prepared::new(context, attempt, files, secrets, voice)?.run(voice, cancel).await
}

/// The inputs that are files, as paths.
async fn fetched(
    context: &Context,
    attempt: &Attempt,
    voice: &Arc<Voice>,
) -> Result<Vec<(String, Value)>, Failure> {
    let mut files = Vec::new();
    for name in &attempt.work.file_inputs {
        // A file is never a secret.
        let Some(Filled::Plain(value)) = attempt.input.get(name) else { continue };
        let workspace = context.workspaces.path(attempt.key.run);
        files.push((name.clone(), artefacts::fetch_files(&**voice, &workspace, value).await?));
    }
    Ok(files)
}

/// An output that can travel.
async fn ready(
    voice: &Arc<Voice>,
    folder: &std::path::Path,
    output: Result<Value, Failure>,
) -> Result<Value, Failure> {
    let output = output?;
    if is_too_deep(&output) {
        return Err(too_deep());
    }
    Ok(artefacts::shrink(&**voice, folder, output).await)
}

fn too_deep() -> Failure {
    let message = format!("the output nests deeper than {DEEPEST} lists and objects");
    Failure::of_kind(ErrorKind::Limit, message)
}

/// An output as it may leave: masked, also what the action says is secret.
fn clean(voice: &Voice, output: Value, secret_outputs: &[String]) -> Value {
    let mut output = voice.mask.value(output);
    if let Value::Object(entries) = &mut output {
        for (name, value) in entries.iter_mut() {
            if secret_outputs.contains(name) && !value.is_null() {
                *value = Value::from(MASK);
            }
        }
    }
    output
}

/// Outputs so far must travel as they are.
fn check_size(output: &Value) -> Result<(), Failure> {
    if is_too_deep(output) {
        return Err(too_deep());
    }
    let bytes = weight(output);
    if bytes <= OUTPUT_BYTES {
        return Ok(());
    }
    Err(Failure::of_kind(
        ErrorKind::Limit,
        format!(
            "the outputs so far are {} large, more than the {} that they may have; keep them in a file and give its place",
            size(bytes),
            size(OUTPUT_BYTES)
        ),
    ))
}

/// An attempt of which everything is rendered and filled in.
struct Prepared {
    runner: &'static dyn Runner,
    job: Job,
    expr: Arc<Expr>,
    scope: Scope,
}

impl Prepared {
    fn new(
        context: &Context,
        attempt: Attempt,
        files: Vec<(String, Value)>,
        secrets: &BTreeMap<String, Secret>,
        voice: &Arc<Voice>,
    ) -> Result<Prepared, Failure> {
        let Some(runner) = runners::find(&attempt.work.runner) else {
            let known: Vec<_> = runners::ALL.iter().map(|runner| runner.name()).collect();
            return Err(Failure::new(format!(
                "there is no runner `{}`; there are {}",
                attempt.work.runner,
                known.join(", ")
            )));
        };
        let not_made = |error: std::io::Error| {
            Failure::new(format!("the workspace below `{}` can't be made: {error}", context.data.display()))
        };
        let workspace = context.workspaces.path(attempt.key.run);
        let mut lock = PathBuf::new();
        if !runner.is_in_memory(&attempt.action) {
            context.workspaces.create(attempt.key.run).map_err(not_made)?;
            lock = context.workspaces.lock(&attempt.key).map_err(not_made)?;
        }
        let mut input = render::fill(&attempt.input, secrets)?;
        if let Value::Object(entries) = &mut input {
            entries.extend(files);
        }
        let expr = context.expressions.of(&attempt.action, &attempt.work);
        let scope = Scope::new()
            .with("config", attempt.work.config.clone())
            .with("apps", attempt.apps.clone())
            .with("input", input.clone());
        let parameters = match &attempt.work.section {
            Value::Null => input.clone(),
            section => render::section(&expr, section, runner.verbatim(), &scope, secrets)?,
        };
        let job = Job {
            key: attempt.key,
            action: attempt.action,
            input,
            parameters,
            work: attempt.work,
            apps: attempt.apps,
            timeout: attempt.timeout,
            now: context.clock.now(),
            workspace,
            data: context.data.clone(),
            lock,
            cancel: voice.cancel.clone(),
            line: voice.clone(),
        };
        Ok(Prepared { runner, job, expr, scope })
    }

    /// The output, or why there is none.
    async fn run(self, voice: &Voice, cancel: &CancellationToken) -> Result<Value, Failure> {
        let Prepared { runner, job, expr, scope } = self;
        let templates = job.work.output.clone();
        let timeout = job.timeout;
        // In a task of its own, so that a crash harms this attempt only.
        let mut task = JoinSet::new();
        task.spawn(async move { runner.run(job).await });
        let (result, told) = watch(&mut task, voice, cancel, timeout).await;
        let done = match (result, told) {
            (Ok(done), None | Some(Told::TimeIsUp)) => done,
            (Ok(done), Some(Told::Cancelled)) => return Err(Failure::cancelled().showing(done.output)),
            (Err(failure), None) => return Err(failure),
            (Err(failure), Some(told)) => return Err(told.failure(timeout).showing(failure.output)),
        };
        finish(&expr, &templates, &scope, done)
    }
}

/// What the templates of `output:` make of a result.
fn finish(expr: &Expr, templates: &Value, scope: &Scope, done: Done) -> Result<Value, Failure> {
    if templates.is_null() {
        return Ok(done.output);
    }
    let mut scope = scope.with("result", done.output.clone());
    if let Some(response) = done.response {
        scope = scope.with("response", response);
    }
    render::output(expr, templates, &scope).map_err(|failure| failure.showing(done.output))
}

/// Why a runner was told to end.
#[derive(Clone, Copy)]
enum Told {
    Cancelled,
    TimeIsUp,
}

impl Told {
    fn failure(self, timeout: Span) -> Failure {
        match self {
            Told::Cancelled => Failure::cancelled(),
            Told::TimeIsUp => Failure::of_kind(ErrorKind::TimedOut, format!("timed out after {timeout}")),
        }
    }
}

/// Waits for the runner, and tells it to end when its time is up or it is cancelled.
async fn watch(
    task: &mut JoinSet<Result<Done, Failure>>,
    voice: &Voice,
    cancel: &CancellationToken,
    timeout: Span,
) -> (Result<Done, Failure>, Option<Told>) {
    let time_is_up = tokio::time::sleep(timeout.duration());
    tokio::pin!(time_is_up);
    let told = tokio::select! {
        Some(ended) = task.join_next() => return (ended.unwrap_or_else(|crash| Err(crashed(crash))), None),
        () = cancel.cancelled() => Told::Cancelled,
        () = &mut time_is_up => Told::TimeIsUp,
    };
    voice.cancel.cancel();
    let result = match tokio::time::timeout(END_TIME, task.join_next()).await {
        Ok(Some(ended)) => ended.unwrap_or_else(|crash| Err(crashed(crash))),
        Ok(None) | Err(_) => {
            task.shutdown().await;
            voice.log.note(
                "it did not end when it was told to, so it was dropped; what it had started was killed",
            );
            Err(Failure::cancelled())
        }
    };
    (result, Some(told))
}

fn crashed(crash: JoinError) -> Failure {
    let Ok(panic) = crash.try_into_panic() else { return Failure::cancelled() };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    Failure::new(format!("the action crashed, which is a mistake in Siskin: {text}"))
}

/// How a job speaks to the server.
struct Voice {
    key: AttemptKey,
    mask: Arc<Mask>,
    log: Log,
    reports: mpsc::Sender<Report>,
    /// Tells the job to end.
    cancel: CancellationToken,
    /// The last outputs so far, masked.
    progress: Mutex<Value>,
    context: Arc<Context>,
}

impl Voice {
    fn last_progress(&self) -> MutexGuard<'_, Value> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn store(&self, output: Value) -> Result<(), Failure> {
        let output = self.mask.value(output);
        check_size(&output)?;
        *self.last_progress() = output.clone();
        let (stored, is_stored) = oneshot::channel();
        let report = Report::Progress { key: self.key.clone(), output, stored: Some(stored) };
        let nobody = || Failure::new("the server that stores outputs is gone");
        self.reports.send(report).await.map_err(|_| nobody())?;
        tokio::select! {
            answer = is_stored => answer.map_err(|_| nobody()),
            () = self.cancel.cancelled() => Err(Failure::cancelled()),
        }
    }

    async fn put(&self, request: Request) -> Reply {
        let (answer, answered) = oneshot::channel();
        let question = Report::Question { key: self.key.clone(), request: self.masked(request), answer };
        let refused = |why: &str| Reply::Refused { why: why.to_owned() };
        if self.reports.send(question).await.is_err() {
            return refused("the server that answers questions is gone");
        }
        // Also when it is cancelled meanwhile: what was done must still get into its record.
        answered.await.unwrap_or_else(|_| refused("the server gave no answer"))
    }

    /// Secrets do not leave by questions either.
    fn masked(&self, request: Request) -> Request {
        match request {
            Request::KvSet { key, value, ttl, if_version } => {
                Request::KvSet { key, value: self.mask.value(value), ttl, if_version }
            }
            Request::UpdateDeployment { id, status, hosts } => {
                Request::UpdateDeployment { id, status, hosts: self.mask.value(hosts) }
            }
            other @ (Request::KvGet { .. }
            | Request::BeginDeployment { .. }
            | Request::Deployment { .. }
            | Request::WayBack { .. }
            | Request::HasArtefact { .. }
            | Request::PutArtefact { .. }
            | Request::GetArtefact { .. }) => other,
        }
    }
}

impl Line for Voice {
    fn output(&self, stream: Stream, bytes: &[u8]) {
        self.log.write(stream, bytes);
    }

    fn progress(&self, output: Value) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.store(output))
    }

    fn ask(&self, request: Request) -> BoxFuture<'_, Reply> {
        Box::pin(self.put(request))
    }

    fn begins_again(&self) -> bool {
        self.context.silent().contains(&self.key)
    }

    fn keep<'a>(
        &'a self,
        printed: &'a std::path::Path,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Artefact, Failure>> {
        Box::pin(artefacts::put_masked(self, self.mask.clone(), printed, name))
    }
}
