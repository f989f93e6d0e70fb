//! Events and their dedup keys.
//!
//! Promise: the same source and key within `DEDUP_LIVES` is one event, whichever of two deliveries comes first and whatever died in between.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::audit::{self, NewAudit};
use super::db::{Connection, Query, sql};
use super::rows::Rows;
use super::{Store, StoreError, bounded, json};
use crate::model::event::NewEvent;
use crate::model::{Event, EventId, Span, Timestamp};

/// How long a dedup key stands for its event.
pub const DEDUP_LIVES: Span = Span::days(7);

/// The longest dedup key that is kept as it is, in bytes.
const LONGEST_KEY: usize = 1000;

/// What became of a `NewEvent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedEvent {
    pub id: EventId,
    /// It had been stored before, under the same source and key; `id` is that event's.
    pub known: bool,
}

/// Which events a list holds. Newest first.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    pub trigger: Option<String>,
    pub source: Option<String>,
    /// Only events older than this one: the last of the page before.
    pub before: Option<EventId>,
    pub limit: u32,
}

/// An event as text, made before the writer is asked, so that the writer only writes.
#[derive(Debug)]
pub(super) struct PreparedEvent {
    event: NewEvent,
    payload: String,
}

pub(super) fn prepare(events: Vec<NewEvent>) -> Result<Vec<PreparedEvent>, StoreError> {
    events
        .into_iter()
        .map(|event| Ok(PreparedEvent { payload: json::write("payload", &*event.payload)?, event }))
        .collect()
}

pub(super) fn bytes(events: &[PreparedEvent]) -> usize {
    events.iter().map(|prepared| prepared.payload.len()).sum()
}

impl Store {
    /// Stores events in one transaction, all or none, in their order. Waits where the queue of writes is full.
    ///
    /// # Errors
    /// The database cannot be written; none of them is stored then.
    pub async fn add_events(
        &self,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Vec<AddedEvent>, StoreError> {
        let events = prepare(events)?;
        let room = self.room_for(bytes(&events)).await?;
        self.lanes().events.write(self.queue(), (events, now), Some(room)).await
    }

    /// As `add_events`, because somebody asked for it: the audit row is in the same transaction.
    ///
    /// # Errors
    /// The database cannot be written; nothing is stored then.
    pub async fn add_events_asked(
        &self,
        events: Vec<NewEvent>,
        row: NewAudit,
        now: Timestamp,
    ) -> Result<Vec<AddedEvent>, StoreError> {
        let events = prepare(events)?;
        self.write_large(bytes(&events), move |tx| {
            Box::pin(async move {
                let added = add(tx, &events, now).await?;
                audit::add(tx, &row).await?;
                Ok(added)
            })
        })
        .await
    }

    /// As `add_events`, but refuses with `Busy` where it would have to wait.
    ///
    /// # Errors
    /// `Busy`, or the database cannot be written; none of them is stored then.
    pub async fn try_add_events(
        &self,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Vec<AddedEvent>, StoreError> {
        let events = prepare(events)?;
        let room = self.try_room_for(bytes(&events))?;
        self.lanes().events.try_write(self.queue(), (events, now), Some(room)).await
    }

    /// Events that rules were not tried on yet, oldest first, with at most so many bytes of payloads; one event may have more.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn unrouted(&self, limit: u32, most_bytes: usize) -> Result<Vec<Event>, StoreError> {
        let sizes: Vec<(i64, i64)> =
            sql("SELECT id, length(payload) FROM events WHERE routed_at IS NULL ORDER BY id LIMIT $1")
                .bind(bounded(limit))
                .fetch_all(self.readers())
                .await?;
        let mut bytes = 0_usize;
        let mut last = None;
        for (id, size) in sizes {
            bytes = bytes.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
            if last.is_some() && bytes > most_bytes {
                break;
            }
            last = Some(id);
        }
        let Some(last) = last else { return Ok(Vec::new()) };
        let mut query = select();
        query.push(" WHERE routed_at IS NULL AND id <= ").push_bind(last).push(" ORDER BY id");
        self.fetch_events(query).await
    }

    /// One event.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn event(&self, id: EventId) -> Result<Option<Event>, StoreError> {
        let mut query = select();
        query.push(" WHERE id = ").push_bind(id.0);
        Ok(self.fetch_events(query).await?.pop())
    }

    /// A page of events, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn events(&self, filter: &EventFilter) -> Result<Vec<Event>, StoreError> {
        let mut query = select();
        query.push(" WHERE 1 = 1");
        if let Some(source) = &filter.source {
            query.push(" AND source = ").push_bind(source.clone());
        }
        match (&filter.trigger, filter.before) {
            (None, None) => query.push(" ORDER BY id DESC"),
            (None, Some(before)) => query.push(" AND id < ").push_bind(before.0).push(" ORDER BY id DESC"),
            (Some(trigger), before) => {
                query.push(" AND trigger = ").push_bind(trigger.clone());
                if let Some(before) = before {
                    query.push(
                        " AND (received_at, id) < (coalesce((SELECT received_at FROM events WHERE id = ",
                    );
                    query.push_bind(before.0).push("), 0), ").push_bind(before.0).push(")");
                }
                query.push(" ORDER BY received_at DESC, id DESC")
            }
        };
        query.push(" LIMIT ").push_bind(bounded(filter.limit));
        self.fetch_events(query).await
    }

    /// Events of some triggers received at `since` or later, oldest first, those after event `after`: what a wait scans once it is
    /// committed.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn events_since(
        &self,
        triggers: &[String],
        since: Timestamp,
        after: Option<EventId>,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        if triggers.is_empty() {
            return Ok(Vec::new());
        }
        let mut query = select();
        query.push(" WHERE trigger IN (");
        query.push_list(triggers.iter().cloned());
        query.push(") AND received_at >= ").push_bind(since.0);
        if let Some(after) = after {
            query.push(" AND (received_at, id) > (coalesce((SELECT received_at FROM events WHERE id = ");
            query.push_bind(after.0).push("), 0), ").push_bind(after.0).push(")");
        }
        query.push(" ORDER BY received_at, id LIMIT ").push_bind(bounded(limit));
        self.fetch_events(query).await
    }

    /// Forgets up to `limit` dedup keys that no longer count; says how many.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget_dedup(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let done = sql("DELETE FROM dedup WHERE (source, key) IN
                     (SELECT source, key FROM dedup WHERE received_at <= $1 ORDER BY received_at LIMIT $2)")
                .bind(horizon(now))
                .bind(i64::from(limit))
                .execute(tx)
                .await?;
                Ok(done)
            })
        })
        .await
    }

    async fn fetch_events(&self, query: Query) -> Result<Vec<Event>, StoreError> {
        let rows: Vec<Row> = query.fetch_all(self.readers()).await?;
        rows.into_iter().map(read).collect()
    }
}

/// Keys stored at this time or before no longer count.
fn horizon(now: Timestamp) -> i64 {
    now.0.saturating_sub(i64::try_from(DEDUP_LIVES.0).unwrap_or(i64::MAX))
}

/// The events of one caller, and when they came.
pub(super) type Adding = (Vec<PreparedEvent>, Timestamp);

/// Stores the events of many callers, each of them as `add` does.
pub(super) async fn add_all(
    tx: &mut Connection,
    items: &[Adding],
) -> Result<Vec<Result<Vec<AddedEvent>, StoreError>>, StoreError> {
    let events = items.iter().flat_map(|(events, now)| events.iter().map(|event| (event, *now))).collect();
    let mut added = add_events(tx, events).await?.into_iter();
    Ok(items.iter().map(|(events, _)| Ok(added.by_ref().take(events.len()).collect())).collect())
}

/// Stores prepared events inside somebody's transaction.
pub(super) async fn add(
    tx: &mut Connection,
    events: &[PreparedEvent],
    now: Timestamp,
) -> Result<Vec<AddedEvent>, StoreError> {
    add_events(tx, events.iter().map(|event| (event, now)).collect()).await
}

static KNOWN: Rows<4> = Rows::new(
    ["number", "of", "name", "since"],
    "SELECT new.number, dedup.event FROM new JOIN dedup ON dedup.source = new.of AND dedup.key = new.name
     WHERE dedup.received_at > new.since",
);

static ADD: Rows<5> = Rows::new(
    ["kind", "of", "at", "replayed", "body"],
    "INSERT INTO events (trigger, source, received_at, replay_of, payload)
     SELECT kind, of, at, replayed, body FROM new WHERE kind IS NOT NULL RETURNING id",
);

static REMEMBER: Rows<4> = Rows::new(
    ["of", "name", "id", "at"],
    "INSERT INTO dedup (source, key, event, received_at) SELECT of, name, id, at FROM new WHERE of IS NOT NULL
     ON CONFLICT (source, key) DO UPDATE SET event = excluded.event, received_at = excluded.received_at",
);

/// Where an event's id is found.
enum Place {
    Known(EventId),
    /// Among those that are new now.
    New(usize),
    /// As that one of the same call, which came before.
    Again(usize),
}

/// Stores prepared events inside somebody's transaction, each with when it came.
pub(super) async fn add_events(
    tx: &mut Connection,
    events: Vec<(&PreparedEvent, Timestamp)>,
) -> Result<Vec<AddedEvent>, StoreError> {
    let keys: Vec<Option<(&str, Cow<'_, str>)>> = events
        .iter()
        .map(|(prepared, _)| {
            let event = &prepared.event;
            event.dedup.as_deref().map(|key| (event.source.as_str(), kept_key(key)))
        })
        .collect();
    let asked = (0_i64..).zip(&keys).zip(&events);
    let asked = asked.filter_map(|((number, key), (_, now))| {
        let (source, key) = key.as_ref()?;
        Some([number.into(), (*source).into(), key.as_ref().into(), horizon(*now).into()])
    });
    let known: HashMap<i64, i64> = KNOWN.fetch_all(tx, asked.collect()).await?.into_iter().collect();

    let (mut new, mut places) = (Vec::new(), Vec::with_capacity(events.len()));
    let mut first: HashMap<(&str, &str), usize> = HashMap::new();
    for ((number, key), (prepared, now)) in (0_i64..).zip(&keys).zip(&events) {
        if let Some(id) = known.get(&number) {
            places.push(Place::Known(EventId(*id)));
            continue;
        }
        let key = key.as_ref().map(|(source, key)| (*source, key.as_ref()));
        if let Some(place) = key.and_then(|key| first.get(&key)) {
            places.push(Place::Again(*place));
            continue;
        }
        first.extend(key.map(|key| (key, new.len())));
        places.push(Place::New(new.len()));
        new.push((*prepared, key, *now));
    }

    let rows = new.iter().map(|(prepared, _, now)| {
        let event = &prepared.event;
        let replay_of = event.replay_of.map(|id| id.0);
        [
            (&event.trigger).into(),
            (&event.source).into(),
            now.0.into(),
            replay_of.into(),
            (&prepared.payload).into(),
        ]
    });
    let mut ids: Vec<i64> = ADD.fetch_all(tx, rows.collect()).await?;
    // Ids are given in the order of the rows, whatever the order in which they are told.
    ids.sort_unstable();
    let remembered = new.iter().zip(&ids).filter_map(|((_, key, now), id)| {
        let (source, key) = (*key)?;
        Some([source.into(), key.into(), (*id).into(), now.0.into()])
    });
    REMEMBER.execute(tx, remembered.collect()).await?;
    let id_of = |place: usize| {
        ids.get(place).copied().map(EventId).ok_or_else(|| StoreError::Sql("an event got no id".to_owned()))
    };
    let added = places.into_iter().map(|place| {
        Ok(match place {
            Place::Known(id) => AddedEvent { id, known: true },
            Place::New(place) => AddedEvent { id: id_of(place)?, known: false },
            Place::Again(place) => AddedEvent { id: id_of(place)?, known: true },
        })
    });
    added.collect()
}

/// A key as it is kept: of a very long one its beginning and its hash, since an index of PostgreSQL has no room for more.
fn kept_key(key: &str) -> Cow<'_, str> {
    if key.len() <= LONGEST_KEY {
        return Cow::Borrowed(key);
    }
    let begin = &key[..key.floor_char_boundary(LONGEST_KEY / 2)];
    Cow::Owned(format!("{begin}...{}", hex::encode(Sha256::digest(key))))
}

type Row = (i64, String, String, i64, Option<i64>, Option<i64>, String);

fn select() -> Query {
    Query::new("SELECT id, trigger, source, received_at, routed_at, replay_of, payload FROM events")
}

fn read((id, trigger, source, received_at, routed_at, replay_of, payload): Row) -> Result<Event, StoreError> {
    Ok(Event {
        id: EventId(id),
        trigger,
        source,
        payload: Arc::new(json::read(&format!("payload of event {id}"), &payload)?),
        received_at: Timestamp(received_at),
        routed_at: routed_at.map(Timestamp),
        replay_of: replay_of.map(EventId),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::Routing;
    use crate::store::testing::{NOW, event, fresh, on_both, reopen};

    on_both!(
        the_same_delivery_is_one_event_also_after_a_restart_and_another_one_after_7_days,
        elements_of_one_delivery_are_deduplicated_among_themselves,
        an_event_reads_back_as_it_came,
        very_long_keys_are_told_apart,
        lists_page_newest_first_and_waits_scan_oldest_first,
        routed_events_are_no_longer_offered,
    );

    fn ids(events: &[Event]) -> Vec<i64> {
        events.iter().map(|event| event.id.0).collect()
    }

    async fn the_same_delivery_is_one_event_also_after_a_restart_and_another_one_after_7_days() {
        let (folder, store) = fresh().await;
        let first = store.add_events(vec![event("a.b", Some("d1"))], NOW).await.unwrap()[0];
        assert!(!first.known);
        store.close().await;
        let store = reopen(&folder).await;
        let just_before = Timestamp(NOW.0 + DEDUP_LIVES.0 as i64 - 1);
        let again = store.add_events(vec![event("a.b", Some("d1"))], just_before).await.unwrap()[0];
        assert_eq!(again, AddedEvent { id: first.id, known: true });
        let mut elsewhere = event("a.b", Some("d1"));
        elsewhere.source = "api".to_owned();
        assert!(!store.add_events(vec![elsewhere], NOW).await.unwrap()[0].known);
        assert!(!store.add_events(vec![event("a.b", None), event("a.b", None)], NOW).await.unwrap()[1].known);

        let later = NOW.plus(DEDUP_LIVES);
        let fresh = store.add_events(vec![event("a.b", Some("d1"))], later).await.unwrap()[0];
        assert!(!fresh.known && fresh.id > first.id);
        assert_eq!(store.forget_dedup(later, 10).await.unwrap(), 1);
        assert!(store.add_events(vec![event("a.b", Some("d1"))], later).await.unwrap()[0].known);
    }

    async fn elements_of_one_delivery_are_deduplicated_among_themselves() {
        let (_folder, store) = fresh().await;
        let three = vec![event("a.b", Some("x")), event("a.b", Some("x")), event("a.b", Some("y"))];
        let added = store.add_events(three, NOW).await.unwrap();
        assert_eq!(added[0].id, added[1].id);
        assert_eq!(added.iter().map(|added| added.known).collect::<Vec<_>>(), [false, true, false]);
    }

    async fn very_long_keys_are_told_apart() {
        let (_folder, store) = fresh().await;
        let mut known = Vec::new();
        for end in ["x", "y", "x"] {
            // As random as it gets, so that no database makes it short.
            let noise: String = (0..200).map(|part| hex::encode(Sha256::digest(format!("{part}")))).collect();
            let key = format!("é{noise}{end}");
            known.push(store.add_events(vec![event("a.b", Some(&key))], NOW).await.unwrap()[0].known);
        }
        assert_eq!(known, [false, false, true]);
    }

    async fn an_event_reads_back_as_it_came() {
        let (_folder, store) = fresh().await;
        let mut new = event("a.b", None);
        new.payload = Arc::new(
            serde_json::json!({"b": "\u{0}\u{1F426}", "a": [1, 18_446_744_073_709_551_615_u64, 1e300]}),
        );
        new.replay_of = Some(EventId(7));
        let id = store.add_events(vec![new.clone()], NOW).await.unwrap()[0].id;
        let read = store.event(id).await.unwrap().unwrap();
        assert_eq!((read.payload.to_string(), read.replay_of), (new.payload.to_string(), new.replay_of));
        assert_eq!((read.received_at, read.routed_at), (NOW, None));
        assert_eq!(store.event(EventId(99)).await.unwrap(), None);
    }

    async fn lists_page_newest_first_and_waits_scan_oldest_first() {
        let (_folder, store) = fresh().await;
        for (step, trigger) in ["a.b", "c.d", "a.b", "a.b", "c.d"].into_iter().enumerate() {
            store.add_events(vec![event(trigger, None)], NOW.plus(Span(step as u64))).await.unwrap();
        }
        let all = EventFilter { limit: 2, ..EventFilter::default() };
        assert_eq!(ids(&store.events(&all).await.unwrap()), [5, 4]);
        let next = EventFilter { before: Some(EventId(4)), limit: 9, ..EventFilter::default() };
        assert_eq!(ids(&store.events(&next).await.unwrap()), [3, 2, 1]);
        let of_trigger = EventFilter { trigger: Some("a.b".to_owned()), before: Some(EventId(4)), ..next };
        assert_eq!(ids(&store.events(&of_trigger).await.unwrap()), [3, 1]);

        let both = ["a.b".to_owned(), "c.d".to_owned()];
        let since = NOW.plus(Span(1));
        assert_eq!(ids(&store.events_since(&both, since, None, 9).await.unwrap()), [2, 3, 4, 5]);
        assert_eq!(ids(&store.events_since(&both[..1], since, Some(EventId(3)), 9).await.unwrap()), [4]);
        assert_eq!(store.events_since(&[], since, None, 9).await.unwrap(), []);
    }

    async fn routed_events_are_no_longer_offered() {
        let (_folder, store) = fresh().await;
        store.add_events(vec![event("a.b", None), event("a.b", None)], NOW).await.unwrap();
        store.route(Routing::of(EventId(1), NOW)).await.unwrap();
        assert_eq!(ids(&store.unrouted(9, 1 << 20).await.unwrap()), [2]);
    }
}
