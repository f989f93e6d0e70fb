//! What a run printed: as text, as lines of JSON, or followed live.
//!
//! A reader pulls: the stored log is read from where the reader is, so a late one sees all of it once, and a slow one holds nothing up.

mod lines;

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::Api;
use super::problem::Problem;
use super::request::{Id, Params};
use super::runs::{find, waiting_approvals};
use super::stream::KEEP_ALIVE;
use super::types::{LogLine, Step, StepChange, wait};
use crate::engine::Change;
use crate::model::run::UNDO_SUFFIX;
use crate::model::{RunId, StepStatus, Timestamp};
use crate::store::{LogFilter, StoreError};
use lines::{Cursor, Lines};

/// Chunks read at once; each has 64 KiB at most.
const CHUNKS: u32 = 32;
/// A change that nobody announced is seen after this time at the latest.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

pub(super) async fn log(
    State(api): State<Api>,
    Id(id): Id<RunId>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let params = params.check(&["follow", "step"])?;
    find(&api, id).await?;
    let step = params.text("step");
    if params.flag("follow") {
        let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(Cursor::parse);
        return Ok(follow(api, id, step, last.unwrap_or_default()));
    }
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let as_json = ["application/x-ndjson", "application/jsonl", "application/json"]
        .iter()
        .any(|kind| accept.contains(kind));
    Ok(whole(api, id, step, as_json))
}

/// The log as it is now, in pieces, so that the largest one takes little memory.
fn whole(api: Api, run: RunId, step: Option<String>, as_json: bool) -> Response {
    let filter = LogFilter { run, step, after: 0, limit: CHUNKS };
    let start = Some((api, filter, Lines::default()));
    let pieces = futures::stream::unfold(start, move |state| async move {
        let (api, mut filter, mut lines) = state?;
        let chunks = match api.engine.store().log(&filter).await {
            Ok(chunks) => chunks,
            Err(error) => return Some((Err(error), None)),
        };
        let mut piece = String::new();
        for stored in &chunks {
            filter.after = stored.id;
            for line in lines.take(stored) {
                write(&mut piece, &line, as_json);
            }
        }
        if chunks.len() == CHUNKS as usize {
            return Some((Ok(Bytes::from(piece)), Some((api, filter, lines))));
        }
        for line in lines.rest() {
            write(&mut piece, &line, as_json);
        }
        Some((Ok::<_, StoreError>(Bytes::from(piece)), None))
    });
    let kind = if as_json { "application/x-ndjson" } else { "text/plain; charset=utf-8" };
    let mut response = Body::from_stream(pieces).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn write(piece: &mut String, line: &LogLine, as_json: bool) {
    if as_json {
        piece.push_str(&json!(line).to_string());
    } else {
        let item = line.item.map(|item| format!("[{item}]")).unwrap_or_default();
        piece.push_str(&format!("{}{item} | {}", line.step, line.text));
    }
    piece.push('\n');
}

/// Server-sent events until the run has ended: `line`, `step` (a step that changed), and at last `end`.
fn follow(api: Api, run: RunId, step: Option<String>, from: Cursor) -> Response {
    let changes = api.engine.changes();
    let filter = LogFilter { run, step, after: from.chunk, limit: CHUNKS };
    let follower = Follower {
        api,
        filter,
        changes,
        lines: Lines::default(),
        cursor: Cursor { chunk: from.chunk, lines: 0 },
        skip: from.lines,
        told: HashMap::new(),
        queue: VecDeque::new(),
        ended: false,
    };
    let events = futures::stream::unfold(follower, |mut follower| async move {
        loop {
            if let Some(event) = follower.queue.pop_front() {
                return Some((Ok::<_, Infallible>(event), follower));
            }
            if follower.ended {
                return None;
            }
            // A store that is away ends the stream: the reader comes again with the id of the last event.
            if follower.look().await.is_err() {
                return None;
            }
            if follower.queue.is_empty() && !follower.ended && !follower.wait().await {
                return None;
            }
        }
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

struct Follower {
    api: Api,
    filter: LogFilter,
    changes: Receiver<Change>,
    lines: Lines,
    cursor: Cursor,
    /// Lines that the reader has already, counted from where we began to read.
    skip: u64,
    /// What was last told of each step.
    told: HashMap<String, (StepStatus, u32)>,
    queue: VecDeque<Event>,
    ended: bool,
}

impl Follower {
    /// Puts all that is new in the queue, or as much as one reading gives.
    async fn look(&mut self) -> Result<(), Problem> {
        // The run first: when it has ended by then, its log is whole.
        let run = find(&self.api, self.filter.run).await?;
        let mut steps = self.changed_steps(&run).await?;
        let chunks = self.api.engine.store().log(&self.filter).await?;
        let is_last = chunks.len() < CHUNKS as usize;
        for stored in &chunks {
            self.filter.after = stored.id;
            let lines = self.lines.take(stored);
            for line in lines {
                self.tell_steps(&mut steps, Some(line.at));
                self.tell_line(&line);
            }
            if self.lines.is_between() {
                self.cursor = Cursor { chunk: stored.id, lines: 0 };
                self.skip = 0;
            }
        }
        if !is_last {
            return Ok(());
        }
        if run.status.is_final() {
            for line in self.lines.rest() {
                self.tell_line(&line);
            }
        }
        self.tell_steps(&mut steps, None);
        if run.status.is_final() {
            let end = json!({"id": run.id, "status": run.status, "error": run.error});
            self.queue.push_back(Event::default().event("end").data(end.to_string()));
            self.ended = true;
        }
        Ok(())
    }

    fn tell_line(&mut self, line: &LogLine) {
        self.cursor.lines += 1;
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        let event = Event::default().event("line").id(self.cursor.to_string()).data(json!(line).to_string());
        self.queue.push_back(event);
    }

    /// The steps that are not as they were told last, in the order in which it happened.
    async fn changed_steps(&mut self, run: &crate::model::Run) -> Result<Vec<StepChange>, Problem> {
        let undos = run.undos.iter().map(|(id, step)| (format!("{id}{UNDO_SUFFIX}"), step));
        let all: Vec<_> = run.steps.iter().map(|(id, step)| (id.clone(), step)).chain(undos).collect();
        let is_new = |id: &String, step: &crate::model::Step| {
            self.told.get(id) != Some(&(step.status(), step.attempts))
                && (step.status() != StepStatus::Pending || self.told.contains_key(id))
        };
        let changed: Vec<_> = all.into_iter().filter(|(id, step)| is_new(id, step)).collect();
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let approvals = waiting_approvals(&self.api, run).await?;
        let mut steps: Vec<StepChange> = changed
            .into_iter()
            .map(|(id, step)| StepChange {
                step: Step::of(&id, step),
                wait: wait(&id, step, run.held.as_ref(), &approvals),
            })
            .collect();
        steps.sort_by_key(when);
        Ok(steps)
    }

    /// Tells the steps that changed before `until`; all of them when that is `None`.
    fn tell_steps(&mut self, steps: &mut Vec<StepChange>, until: Option<Timestamp>) {
        let due = |change: &StepChange| match (until, when(change)) {
            (None, _) => true,
            (Some(until), Some(at)) if change.step.finished_at.is_some() => at < until,
            (Some(until), Some(at)) => at <= until,
            (Some(_), None) => true,
        };
        let count = steps.iter().take_while(|change| due(change)).count();
        for change in steps.drain(..count) {
            self.told.insert(change.step.id.clone(), (change.step.status, change.step.attempts));
            self.queue.push_back(Event::default().event("step").data(json!(change).to_string()));
        }
    }

    /// Waits until something of this run changed. False: the server stops.
    async fn wait(&mut self) -> bool {
        let run = self.filter.run;
        let changes = &mut self.changes;
        let changed = async {
            loop {
                match changes.recv().await {
                    Ok(change) if is_about(change, run) => break,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_) | RecvError::Closed) => break,
                }
            }
            // What else is there already is seen by the same look.
            while !matches!(changes.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
        };
        tokio::select! {
            () = changed => true,
            () = tokio::time::sleep(LOOK_AGAIN) => true,
            () = self.api.stop.cancelled() => false,
        }
    }
}

fn is_about(change: Change, run: RunId) -> bool {
    match change {
        Change::Run(id) | Change::RunEnded(id) | Change::Log(id) | Change::Approval(id) => id == run,
        Change::Everything => true,
        Change::Event(_) | Change::Definitions | Change::Holds => false,
    }
}

/// When the change happened; what never began changed when its neighbours did, and comes first.
fn when(change: &StepChange) -> Option<Timestamp> {
    change.step.finished_at.or(change.step.started_at)
}
