//! What rules remember of events, for each key: written with the mark that the event was routed, so that none counts twice.

use std::collections::BTreeMap;

use super::db::{Connection, sql};
use super::rows::Rows;
use super::{Store, StoreError, json};
use crate::model::Timestamp;
use crate::model::window::Window;

/// Whose window it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WindowKey {
    pub rule: String,
    /// `count`, `all` or `at_most`.
    pub kind: &'static str,
    pub key: String,
}

/// A window after an event.
#[derive(Clone, Debug)]
pub struct NewWindow {
    pub key: WindowKey,
    /// Of the rule's text: a window of another is not this one's.
    pub stamp: String,
    pub window: Window,
    /// From then on nothing in it counts.
    pub ends_at: Timestamp,
}

impl Store {
    /// What a rule with this stamp remembers; nothing, when it does not.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn rule_window(&self, key: &WindowKey, stamp: &str) -> Result<Window, StoreError> {
        let found: Option<String> =
            sql("SELECT state FROM rule_windows WHERE rule = $1 AND kind = $2 AND name = $3 AND stamp = $4")
                .bind(&key.rule)
                .bind(key.kind)
                .bind(&key.key)
                .bind(stamp)
                .fetch_optional(self.readers())
                .await?;
        found.map_or_else(|| Ok(Window::default()), |state| json::read("window of a rule", &state))
    }

    /// Removes windows that have ended, at most `limit`; how many went.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget_rule_windows(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                sql("DELETE FROM rule_windows WHERE (rule, kind, name) IN
                     (SELECT rule, kind, name FROM rule_windows WHERE ends_at <= $1 LIMIT $2)")
                .bind(now.0)
                .bind(i64::from(limit))
                .execute(tx)
                .await
            })
        })
        .await
    }
}

static SAVE: Rows<6> = Rows::new(
    ["rule", "kind", "key", "stamp", "state", "ends_at"],
    "INSERT INTO rule_windows (rule, kind, name, stamp, state, ends_at)
     SELECT rule, kind, key, stamp, state, ends_at FROM new WHERE rule IS NOT NULL
     ON CONFLICT (rule, kind, name) DO UPDATE SET stamp = excluded.stamp, state = excluded.state, ends_at = excluded.ends_at",
);

/// Writes windows; of one that comes more than once, as it was last.
pub(super) async fn save_all<'a>(
    tx: &mut Connection,
    windows: impl Iterator<Item = &'a NewWindow>,
) -> Result<(), StoreError> {
    let last: BTreeMap<&WindowKey, &NewWindow> = windows.map(|window| (&window.key, window)).collect();
    if last.is_empty() {
        return Ok(());
    }
    let texts = last.values().map(|window| json::write("window of a rule", &window.window));
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    let rows = last.values().zip(&texts).map(|(window, text)| {
        let NewWindow { key, stamp, ends_at, .. } = window;
        [(&key.rule).into(), key.kind.into(), (&key.key).into(), stamp.into(), text.into(), ends_at.0.into()]
    });
    SAVE.execute(tx, rows.collect()).await.map(drop)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::window::Entry;
    use crate::model::{EventId, Span};
    use crate::store::Routing;
    use crate::store::testing::{NOW, event, fresh, on_both};

    on_both!(a_window_is_kept_with_the_mark_of_its_event_and_goes_when_it_has_ended);

    async fn a_window_is_kept_with_the_mark_of_its_event_and_goes_when_it_has_ended() {
        let (_folder, store) = fresh().await;
        store.add_events(vec![event("a.b", None)], NOW).await.unwrap();
        let key = WindowKey { rule: "site.r".to_owned(), kind: "count", key: "\"x\"".to_owned() };
        let entry = Entry { event: EventId(1), at: NOW, name: None };
        let window = Window { entries: vec![entry], told: false };
        let ends_at = NOW.plus(Span::seconds(60));
        let new = NewWindow { key: key.clone(), stamp: "s".to_owned(), window: window.clone(), ends_at };
        let routing = Routing { windows: vec![new.clone(), new], ..Routing::of(EventId(1), NOW) };
        store.route(routing.clone()).await.unwrap();
        assert_eq!(store.rule_window(&key, "s").await.unwrap(), window);
        // The rule was edited.
        assert_eq!(store.rule_window(&key, "t").await.unwrap(), Window::default());
        // Routed already: nothing counts twice.
        let mut other = routing;
        other.windows[1].window = Window::default();
        store.route(other).await.unwrap();
        assert_eq!(store.rule_window(&key, "s").await.unwrap(), window);
        assert_eq!(store.forget_rule_windows(NOW, 9).await.unwrap(), 0);
        assert_eq!(store.forget_rule_windows(ends_at, 9).await.unwrap(), 1);
        assert_eq!(store.rule_window(&key, "s").await.unwrap(), Window::default());
    }
}
