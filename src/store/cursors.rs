//! How far each source that watches something has come.
//!
//! Promise: a source's events and its place among them are written together or not at all, and by nobody who did not know the last place. So what
//! died in between, or a second server that watches the same, neither misses an event nor stores one twice.

use super::db::{Connection, sql};
use super::events::{self, AddedEvent};
use super::{Store, StoreError, json};
use crate::model::event::NewEvent;
use crate::model::{Timestamp, Value};

/// How far a source has come.
#[derive(Clone, Debug, PartialEq)]
pub struct Cursor {
    /// What was watched.
    pub subject: String,
    /// Whatever the source's kind keeps.
    pub value: Value,
    /// Counts the moves.
    pub version: i64,
    pub moved_at: Timestamp,
}

/// Where a source's cursor goes.
#[derive(Clone, Debug, PartialEq)]
pub struct CursorMove {
    pub source: String,
    pub subject: String,
    pub value: Value,
    /// The version that was read; 0: there was none.
    pub from: i64,
}

impl Store {
    /// How far a source has come; `None` when it never watched anything.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn cursor(&self, source: &str) -> Result<Option<Cursor>, StoreError> {
        let row: Option<(String, String, i64, i64)> =
            sql("SELECT subject, value, version, moved_at FROM cursors WHERE source = $1")
                .bind(source)
                .fetch_optional(self.readers())
                .await?;
        let read = |(subject, value, version, moved_at): (String, String, i64, i64)| {
            let value = json::read(&format!("cursor of {source}"), &value)?;
            Ok(Cursor { subject, value, version, moved_at: Timestamp(moved_at) })
        };
        row.map(read).transpose()
    }

    /// Stores events of a source and how far it has come with them, in one transaction.
    ///
    /// # Errors
    /// `Conflict` when somebody else moved the cursor since it was read; the database cannot be written. Nothing is stored then.
    pub async fn add_events_at(
        &self,
        events: Vec<NewEvent>,
        to: CursorMove,
        now: Timestamp,
    ) -> Result<Vec<AddedEvent>, StoreError> {
        let events = events::prepare(events)?;
        let value = json::write("cursor", &to.value)?;
        self.write_large(events::bytes(&events) + value.len(), move |tx| {
            Box::pin(async move {
                put(tx, &to, &value, now).await?;
                events::add(tx, &events, now).await
            })
        })
        .await
    }
}

async fn put(tx: &mut Connection, to: &CursorMove, value: &str, now: Timestamp) -> Result<(), StoreError> {
    let done = match to.from {
        0 => {
            sql("INSERT INTO cursors (source, subject, value, version, moved_at) VALUES ($1, $2, $3, 1, $4)
                 ON CONFLICT (source) DO NOTHING")
            .bind(&to.source)
            .bind(&to.subject)
            .bind(value)
            .bind(now.0)
            .execute(tx)
            .await?
        }
        from => {
            sql("UPDATE cursors SET subject = $1, value = $2, version = version + 1, moved_at = $3
                 WHERE source = $4 AND version = $5")
            .bind(&to.subject)
            .bind(value)
            .bind(now.0)
            .bind(&to.source)
            .bind(from)
            .execute(tx)
            .await?
        }
    };
    match done {
        0 => Err(StoreError::Conflict(format!("the cursor of {}", to.source))),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Span;
    use crate::store::testing::{NOW, event, fresh, on_both, reopen};

    on_both!(
        events_and_their_cursor_are_stored_together_and_read_back_after_a_restart,
        who_did_not_know_the_last_place_stores_nothing,
        an_event_that_was_known_is_not_stored_again_but_the_cursor_moves_on,
    );

    fn to(value: Value, from: i64) -> CursorMove {
        CursorMove { source: "site.clock".to_owned(), subject: "every 30s".to_owned(), value, from }
    }

    async fn events_and_their_cursor_are_stored_together_and_read_back_after_a_restart() {
        let (place, store) = fresh().await;
        assert_eq!(store.cursor("site.clock").await.unwrap(), None);
        store.add_events_at(vec![], to(json!({"at": 1}), 0), NOW).await.unwrap();
        let two = vec![event("a.b", None), event("a.b", None)];
        let added = store.add_events_at(two, to(json!({"at": 2}), 1), NOW.plus(Span(5))).await.unwrap();
        assert_eq!(added.len(), 2);
        store.close().await;
        let store = reopen(&place).await;
        let cursor = store.cursor("site.clock").await.unwrap().unwrap();
        assert_eq!((cursor.value, cursor.version), (json!({"at": 2}), 2));
        assert_eq!((cursor.subject.as_str(), cursor.moved_at), ("every 30s", NOW.plus(Span(5))));
        assert_eq!(store.count("SELECT count(*) FROM events").await, 2);
    }

    async fn who_did_not_know_the_last_place_stores_nothing() {
        let (_place, store) = fresh().await;
        store.add_events_at(vec![], to(json!(1), 0), NOW).await.unwrap();
        for from in [0, 2, 7] {
            let refused = store.add_events_at(vec![event("a.b", None)], to(json!(9), from), NOW).await;
            assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
        }
        assert_eq!(store.count("SELECT count(*) FROM events").await, 0);
        assert_eq!(store.cursor("site.clock").await.unwrap().unwrap().value, json!(1));
    }

    async fn an_event_that_was_known_is_not_stored_again_but_the_cursor_moves_on() {
        let (_place, store) = fresh().await;
        store.add_events_at(vec![event("a.b", Some("x"))], to(json!(1), 0), NOW).await.unwrap();
        let both = vec![event("a.b", Some("x")), event("a.b", Some("y"))];
        let added = store.add_events_at(both, to(json!(2), 1), NOW).await.unwrap();
        assert_eq!(added.iter().map(|added| added.known).collect::<Vec<_>>(), [true, false]);
        assert_eq!(store.cursor("site.clock").await.unwrap().unwrap().version, 2);
    }
}
