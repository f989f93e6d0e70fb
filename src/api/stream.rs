//! Everything that changes, as server-sent events that say what to look at.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::Api;
use crate::engine::Change;

/// How often a silent connection shows that it lives.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Events `event run log approval definitions holds`; `lost` when the listener was too slow and should look at everything.
pub(super) async fn stream(State(api): State<Api>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let changes = api.engine.changes();
    let events = futures::stream::unfold((changes, api.stop), |(mut changes, stop)| async move {
        let change = tokio::select! {
            change = changes.recv() => change,
            () = stop.cancelled() => return None,
        };
        let event = match change {
            Ok(change) => shape(change),
            Err(RecvError::Lagged(_)) => Event::default().event("lost").data("{}"),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(event), (changes, stop)))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

fn shape(change: Change) -> Event {
    let (name, data) = match change {
        Change::Event(event) => ("event", json!({"event": event})),
        Change::Run(run) => ("run", json!({"run": run})),
        Change::RunEnded(run) => ("run", json!({"run": run, "ended": true})),
        Change::Log(run) => ("log", json!({"run": run})),
        Change::Approval(run) => ("approval", json!({"run": run})),
        Change::Definitions => ("definitions", json!({})),
        Change::Everything => ("lost", json!({})),
        Change::Holds => ("holds", json!({})),
    };
    Event::default().event(name).data(data.to_string())
}
