//! What came of rules that met events, and the one transaction that routes an event.
//!
//! Promise: an event is routed once. Matches, the runs they start, what waiting runs are told, and the mark are written together.

use super::audit::{self, NewAudit};
use super::db::{Connection, Query};
use super::runs::{self, NewRun};
use super::{Store, StoreError, bounded, inbox, json};
use crate::model::event::Match;
use crate::model::{EventId, RunId, Timestamp, Value};

/// All that routing one event writes.
#[derive(Clone, Debug)]
pub struct Routing {
    pub event: EventId,
    pub matches: Vec<NewMatch>,
    /// Inputs for runs that wait for this event. A run that has ended meanwhile gets none.
    pub inputs: Vec<(RunId, Value)>,
    pub audit: Vec<NewAudit>,
    pub now: Timestamp,
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
    /// The runs that began, in the order of the matches that start one.
    Now { runs: Vec<RunId> },
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
        self.write(move |tx| Box::pin(async move { route(tx, routing).await })).await
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
        let rows: Vec<Row> = query.build_query_as().fetch_all(self.readers()).await?;
        rows.into_iter().map(read).collect()
    }
}

async fn route(tx: &mut Connection, routing: Routing) -> Result<Routed, StoreError> {
    let Routing { event, matches, inputs, audit, now } = routing;
    let marked = sqlx::query("UPDATE events SET routed_at = $1 WHERE id = $2 AND routed_at IS NULL")
        .bind(now.0)
        .bind(event.0)
        .execute(&mut *tx)
        .await?;
    if marked.rows_affected() == 0 {
        let there: Option<i64> =
            sqlx::query_scalar("SELECT 1 FROM events WHERE id = $1").bind(event.0).fetch_optional(tx).await?;
        return there.map(|_| Routed::Already).ok_or_else(|| StoreError::Missing(format!("event {event}")));
    }
    let mut began = Vec::new();
    for NewMatch { index, found, run } in matches {
        let run = match run {
            Some(run) => Some(runs::insert(tx, run, now).await?),
            None => None,
        };
        began.extend(run);
        insert(tx, event, index, &found, run, now).await?;
    }
    for (run, input) in &inputs {
        inbox::add(tx, *run, &json::write("input", input)?, now).await?;
    }
    for row in &audit {
        audit::add(tx, row).await?;
    }
    Ok(Routed::Now { runs: began })
}

async fn insert(
    tx: &mut Connection,
    event: EventId,
    index: u32,
    found: &Match,
    run: Option<RunId>,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO matches (event, rule, position, revision, result, run, why, place, at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(event.0)
    .bind(&found.rule)
    .bind(i64::from(index))
    .bind(&found.revision)
    .bind(json::word("result", &found.result)?)
    .bind(run.or(found.run).map(|id| id.0))
    .bind(&found.why)
    .bind(&found.place)
    .bind(now.0)
    .execute(tx)
    .await?;
    Ok(())
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
    use crate::store::testing::{NOW, audit, event, fresh, new_run, stored_run};
    use crate::store::{AuditFilter, RunFilter};

    fn found(rule: &str, result: MatchResult) -> Match {
        let why = (result == MatchResult::Errored).then(|| "it threw".to_owned());
        Match { rule: rule.to_owned(), revision: "r1".to_owned(), result, run: None, why, place: None }
    }

    fn routing(matches: Vec<NewMatch>, inputs: Vec<(RunId, Value)>) -> Routing {
        Routing { event: EventId(1), matches, inputs, audit: vec![audit("run.start")], now: NOW }
    }

    #[tokio::test]
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
        let Routed::Now { runs } = store.route(routing(matches.clone(), inputs.clone())).await.unwrap()
        else {
            panic!("it was not routed")
        };
        assert_eq!(runs, [RunId(2), RunId(3)]);
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

    #[tokio::test]
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
