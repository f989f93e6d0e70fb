//! What came of rules that met events, and the one transaction that routes an event.
//!
//! Promise: an event is routed once. Matches, the runs they start, what waiting runs are told, and the mark are written together.

use std::collections::HashSet;

use super::audit::{self, NewAudit};
use super::db::{Connection, Query, sql};
use super::rows::Rows;
use super::runs::{self, Inserted, NewRun};
use super::windows::NewWindow;
use super::{Store, StoreError, bounded, inbox, json, windows};
use crate::model::event::{Match, MatchResult};
use crate::model::{EventId, RunId, Timestamp, Value};

/// All that routing one event writes.
#[derive(Clone, Debug)]
pub struct Routing {
    pub event: EventId,
    pub matches: Vec<NewMatch>,
    /// Inputs for runs that wait for this event. A run that has ended meanwhile gets none.
    pub inputs: Vec<(RunId, Value)>,
    pub audit: Vec<NewAudit>,
    /// What rules remember after it.
    pub windows: Vec<NewWindow>,
    pub now: Timestamp,
}

impl Routing {
    /// Of an event that no rule meets.
    pub fn of(event: EventId, now: Timestamp) -> Routing {
        let (matches, inputs, audit, windows) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Routing { event, matches, inputs, audit, windows, now }
    }
}

/// A rule that met the event.
#[derive(Clone, Debug)]
pub struct NewMatch {
    /// Tells matches of the same rule with the same event apart; 0 for the only one.
    pub index: u32,
    /// Its `run` is filled in by the store.
    pub found: Match,
    /// The run that it starts.
    pub run: Option<NewRun>,
}

/// What `route` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routed {
    /// What began, each with the place of its match.
    Now { began: Vec<(usize, Inserted)> },
    /// Somebody had routed it before; nothing was written.
    Already,
}

/// A match as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMatch {
    pub id: i64,
    pub event: EventId,
    pub index: u32,
    pub found: Match,
    pub at: Timestamp,
}

/// Which matches a list holds. Newest first.
#[derive(Clone, Debug, Default)]
pub struct MatchFilter {
    pub event: Option<EventId>,
    pub rule: Option<String>,
    pub run: Option<RunId>,
    /// Only matches older than this one: the last of the page before.
    pub before: Option<i64>,
    pub limit: u32,
}

impl Store {
    /// Writes what came of an event, unless it was routed already.
    ///
    /// # Errors
    /// `Missing` when there is no such event; the database cannot be written.
    pub async fn route(&self, routing: Routing) -> Result<Routed, StoreError> {
        self.lanes().routings.write(self.queue(), routing, None).await
    }

    /// A page of matches, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn matches(&self, filter: &MatchFilter) -> Result<Vec<StoredMatch>, StoreError> {
        let mut query = Query::new(
            "SELECT id, event, position, rule, revision, result, run, why, place, at FROM matches WHERE 1 = 1",
        );
        if let Some(event) = filter.event {
            query.push(" AND event = ").push_bind(event.0);
        }
        if let Some(rule) = &filter.rule {
            query.push(" AND rule = ").push_bind(rule.clone());
        }
        if let Some(run) = filter.run {
            query.push(" AND run = ").push_bind(run.0);
        }
        if let Some(before) = filter.before {
            query.push(" AND id < ").push_bind(before);
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(bounded(filter.limit));
        let rows: Vec<Row> = query.fetch_all(self.readers()).await?;
        rows.into_iter().map(read).collect()
    }
}

static MARK: Rows<2> = Rows::new(
    ["event", "at"],
    "UPDATE events SET routed_at = new.at FROM new WHERE events.id = new.event AND events.routed_at IS NULL RETURNING events.id",
);

static ADD: Rows<9> = Rows::new(
    ["event", "rule", "place_in_rule", "revision", "result", "run", "why", "place", "at"],
    "INSERT INTO matches (event, rule, position, revision, result, run, why, place, at)
     SELECT event, rule, place_in_rule, revision, result, run, why, place, at FROM new WHERE event IS NOT NULL",
);

/// Writes what came of many events. Those that are marked already, or are not there, are left as they are.
pub(super) async fn route_all(
    tx: &mut Connection,
    items: &[Routing],
) -> Result<Vec<Result<Routed, StoreError>>, StoreError> {
    let marks = items.iter().map(|routing| [routing.event.0.into(), routing.now.0.into()]);
    let mut marked: HashSet<i64> = MARK.fetch_all(tx, marks.collect()).await?.into_iter().collect();
    let (mut results, mut matches) = (Vec::with_capacity(items.len()), Vec::new());
    let simple = items.iter().filter(|routing| marked.contains(&routing.event.0)).flat_map(|routing| {
        let runs = routing.matches.iter().filter_map(|found| found.run.as_ref());
        runs.filter(|run| run.slot.is_none()).map(|run| (run, routing.now))
    });
    let mut simple = runs::insert_all(tx, &simple.collect::<Vec<_>>()).await?.into_iter();
    for routing in items {
        // Of two that route the same event here the first does it.
        if !marked.remove(&routing.event.0) {
            results.push(not_marked(tx, routing.event).await?);
            continue;
        }
        let mut began = Vec::new();
        for (place, found) in routing.matches.iter().enumerate() {
            let (came, inserted) = begin(tx, routing, found, &mut simple).await?;
            matches.push(came);
            began.extend(inserted.map(|inserted| (place, inserted)));
        }
        for (run, input) in &routing.inputs {
            inbox::add(tx, *run, &json::write("input", input)?, routing.now).await?;
        }
        results.push(Ok(Routed::Now { began }));
    }
    let rows = matches.iter().map(|came| {
        let Match { rule, revision, why, place, .. } = &came.found;
        let run = came.found.run.map(|id| id.0);
        [
            came.event.0.into(),
            rule.into(),
            came.index.into(),
            revision.into(),
            (&came.result).into(),
            run.into(),
            why.into(),
            place.into(),
            came.at.0.into(),
        ]
    });
    ADD.execute(tx, rows.collect()).await?;
    let done = items.iter().zip(&results).filter(|(_, result)| matches!(result, Ok(Routed::Now { .. })));
    let audit: Vec<&NewAudit> = done.flat_map(|(routing, _)| &routing.audit).collect();
    audit::add_all(tx, &audit).await?;
    let done = items.iter().zip(&results).filter(|(_, result)| matches!(result, Ok(Routed::Now { .. })));
    windows::save_all(tx, done.flat_map(|(routing, _)| &routing.windows)).await?;
    Ok(results)
}

/// A match as it will be stored.
struct Came {
    event: EventId,
    index: i64,
    found: Match,
    result: String,
    at: Timestamp,
}

/// Stores the run that a match starts, if it may start.
async fn begin(
    tx: &mut Connection,
    routing: &Routing,
    NewMatch { index, found, run }: &NewMatch,
    simple: &mut impl Iterator<Item = Inserted>,
) -> Result<(Came, Option<Inserted>), StoreError> {
    let mut found = found.clone();
    let mut began = None;
    if let Some(run) = run {
        // A run that needs no place was stored with all others of its kind.
        let stored = if run.slot.is_none() { simple.next() } else { None };
        let inserted = match stored {
            Some(inserted) => Ok(inserted),
            None => runs::insert_or_refuse(tx, run, routing.now).await,
        };
        match inserted {
            Ok(inserted) => {
                found.run = Some(inserted.id);
                began = Some(inserted);
            }
            // The limit of its workflow: nothing was written.
            Err(StoreError::Conflict(why)) => {
                found.result = MatchResult::Rejected;
                found.why = Some(why);
            }
            Err(error) => return Err(error),
        }
    }
    let result = json::word("result", &found.result)?;
    Ok((Came { event: routing.event, index: i64::from(*index), found, result, at: routing.now }, began))
}

/// Why an event was not marked now.
async fn not_marked(tx: &mut Connection, event: EventId) -> Result<Result<Routed, StoreError>, StoreError> {
    let there: Option<i64> =
        sql("SELECT 1 FROM events WHERE id = $1").bind(event.0).fetch_optional(tx).await?;
    Ok(there.map(|_| Routed::Already).ok_or_else(|| StoreError::Missing(format!("event {event}"))))
}

type Row = (i64, i64, u32, String, String, String, Option<i64>, Option<String>, Option<String>, i64);

fn read(
    (id, event, index, rule, revision, result, run, why, place, at): Row,
) -> Result<StoredMatch, StoreError> {
    let result = json::of_word(&format!("result of match {id}"), &result)?;
    let found = Match { rule, revision, result, run: run.map(RunId), why, place };
    Ok(StoredMatch { id, event: EventId(event), index, found, at: Timestamp(at) })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::event::MatchResult;
    use crate::store::testing::{NOW, audit, event, fresh, new_run, on_both, stored_run};
    use crate::store::{AuditFilter, RunFilter};

    on_both!(
        an_event_is_routed_once_with_all_that_comes_of_it,
        a_routing_that_cannot_be_written_leaves_nothing,
    );

    fn found(rule: &str, result: MatchResult) -> Match {
        let why = (result == MatchResult::Errored).then(|| "it threw".to_owned());
        Match { rule: rule.to_owned(), revision: "r1".to_owned(), result, run: None, why, place: None }
    }

    fn routing(matches: Vec<NewMatch>, inputs: Vec<(RunId, Value)>) -> Routing {
        Routing { matches, inputs, audit: vec![audit("run.start")], ..Routing::of(EventId(1), NOW) }
    }

    async fn an_event_is_routed_once_with_all_that_comes_of_it() {
        let (_folder, store) = fresh().await;
        let waiting = stored_run(&store).await;
        store.add_events(vec![event("a.b", None)], NOW).await.unwrap();
        let mut run = new_run();
        run.run.event = Some(EventId(1));
        run.inputs = vec![json!("started")];
        let matches = vec![
            NewMatch { index: 0, found: found("site.bad", MatchResult::Errored), run: None },
            NewMatch { index: 0, found: found("site.push", MatchResult::Matched), run: Some(run.clone()) },
            NewMatch { index: 1, found: found("site.push", MatchResult::Matched), run: Some(run) },
        ];
        let inputs = vec![(waiting.id, json!("event 1")), (RunId(99), json!("nobody"))];
        let Routed::Now { began } = store.route(routing(matches.clone(), inputs.clone())).await.unwrap()
        else {
            panic!("it was not routed")
        };
        let runs: Vec<RunId> = began.iter().map(|(_, inserted)| inserted.id).collect();
        assert_eq!(runs, [RunId(2), RunId(3)]);
        assert_eq!(began.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [1, 2]);
        for (_, inserted) in &began {
            let inbox = store.inbox(inserted.id).await.unwrap();
            assert_eq!(inbox.iter().map(|row| row.id).collect::<Vec<_>>(), inserted.inputs);
            assert_eq!(inbox.len(), 1);
        }
        assert_eq!(store.route(routing(matches, inputs)).await.unwrap(), Routed::Already);

        assert!(store.event(EventId(1)).await.unwrap().unwrap().routed_at.is_some());
        assert_eq!(store.inbox(waiting.id).await.unwrap()[0].input, "event 1");
        assert_eq!(store.runs_with_inbox().await.unwrap(), [RunId(1), RunId(2), RunId(3)]);
        let of_event = MatchFilter { event: Some(EventId(1)), limit: 9, ..MatchFilter::default() };
        let stored = store.matches(&of_event).await.unwrap();
        assert_eq!(
            stored.iter().map(|found| found.found.run).collect::<Vec<_>>(),
            [Some(runs[1]), Some(runs[0]), None]
        );
        assert_eq!(
            (stored[2].found.result, stored[2].found.why.as_deref()),
            (MatchResult::Errored, Some("it threw"))
        );
        let by_event = RunFilter { event: Some(EventId(1)), limit: 9, ..RunFilter::default() };
        assert_eq!(store.runs(&by_event).await.unwrap().len(), 2);
        assert_eq!(store.audit(&AuditFilter { limit: 9, ..AuditFilter::default() }).await.unwrap().len(), 1);
    }

    async fn a_routing_that_cannot_be_written_leaves_nothing() {
        let (_folder, store) = fresh().await;
        store.add_events(vec![event("a.b", None)], NOW).await.unwrap();
        let twice =
            NewMatch { index: 0, found: found("site.push", MatchResult::Matched), run: Some(new_run()) };
        let refused = store.route(routing(vec![twice.clone(), twice], vec![])).await;
        assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
        assert_eq!(store.count("SELECT count(*) FROM runs").await, 0);
        assert_eq!(store.unrouted(9, 1 << 20).await.unwrap().len(), 1);
        let missing = Routing { event: EventId(9), ..routing(vec![], vec![]) };
        assert_eq!(store.route(missing).await, Err(StoreError::Missing("event 9".to_owned())));
    }
}
