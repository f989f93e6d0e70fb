//! Windows in, windows out: what rules remember of events until several of them make a match, and how often they matched.
//!
//! Pure: who asks brings the window and stores it with the mark that the event was routed, so that no event counts twice. Time is `received_at` of the
//! events, and spans slide.

use crate::model::window::{Entry, Window};
use crate::model::{EventId, Span, Timestamp};

/// Whether a rule may match once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    Yes,
    /// Not before this moment.
    No {
        until: Timestamp,
        /// It is the first time that it may not.
        is_first: bool,
    },
}

/// When nothing in it counts any more.
pub fn ends_at(window: &Window, span: Span) -> Timestamp {
    window.entries.iter().map(|entry| entry.at).max().unwrap_or(Timestamp(0)).plus(span)
}

fn forget(window: &mut Window, now: Timestamp, span: Span) {
    window.entries.retain(|entry| now.since(entry.at) < span);
}

fn add(window: &mut Window, event: EventId, at: Timestamp, name: Option<&str>) {
    let name = name.map(str::to_owned);
    if !window.entries.iter().any(|entry| entry.event == event && entry.name == name) {
        window.entries.push(Entry { event, at, name });
    }
}

/// Counts an event; when it is the last of `count` within the span, gives them all, oldest first, and starts over.
pub fn count(
    window: &mut Window,
    event: EventId,
    at: Timestamp,
    count: u32,
    within: Span,
) -> Option<Vec<EventId>> {
    forget(window, at, within);
    add(window, event, at, None);
    if (window.entries.len() as u64) < u64::from(count) {
        return None;
    }
    Some(std::mem::take(&mut window.entries).into_iter().map(|entry| entry.event).collect())
}

/// Keeps the newest event of each name; when there is one of each within the span, gives them in the order of `names`. Whoever
/// uses them empties the window.
pub fn gather(
    window: &mut Window,
    event: EventId,
    at: Timestamp,
    fits: &[&str],
    names: &[&str],
    within: Span,
) -> Option<Vec<EventId>> {
    forget(window, at, within);
    window.entries.retain(|entry| !fits.iter().any(|name| entry.name.as_deref() == Some(name)));
    for name in fits {
        add(window, event, at, Some(name));
    }
    let of = |name: &&str| window.entries.iter().find(|entry| entry.name.as_deref() == Some(name));
    names.iter().map(|name| of(name).map(|entry| entry.event)).collect()
}

/// Whether a match at this moment is one of `count` in the span; then it is counted.
pub fn allow(window: &mut Window, event: EventId, at: Timestamp, count: u32, per: Span) -> Allowed {
    forget(window, at, per);
    if (window.entries.len() as u64) < u64::from(count) {
        add(window, event, at, None);
        window.told = false;
        return Allowed::Yes;
    }
    let oldest = window.entries.iter().map(|entry| entry.at).min().unwrap_or(at);
    Allowed::No { until: oldest.plus(per), is_first: !std::mem::replace(&mut window.told, true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Span = Span::seconds(60);

    fn at(seconds: i64) -> Timestamp {
        Timestamp(1_700_000_000_000 + seconds * 1000)
    }

    #[test]
    fn the_third_within_a_minute_matches_and_then_it_starts_over() {
        let mut window = Window::default();
        let mut came = |id, seconds| count(&mut window, EventId(id), at(seconds), 3, MINUTE);
        assert_eq!(came(1, 0), None);
        assert_eq!(came(2, 30), None);
        // The first is a minute old.
        assert_eq!(came(3, 60), None);
        assert_eq!(came(4, 61), Some(vec![EventId(2), EventId(3), EventId(4)]));
        assert_eq!(came(5, 62), None);
    }

    #[test]
    fn an_event_that_comes_again_counts_once() {
        let mut window = Window::default();
        assert_eq!(count(&mut window, EventId(1), at(0), 2, MINUTE), None);
        assert_eq!(count(&mut window, EventId(1), at(0), 2, MINUTE), None);
        assert_eq!(count(&mut window, EventId(2), at(0), 2, MINUTE), Some(vec![EventId(1), EventId(2)]));
    }

    #[test]
    fn one_of_each_makes_a_match_of_the_newest() {
        let mut window = Window::default();
        let mut came = |id, seconds, fits: &[&str]| {
            gather(&mut window, EventId(id), at(seconds), fits, &["a", "b"], MINUTE)
        };
        assert_eq!(came(1, 0, &["a"]), None);
        assert_eq!(came(2, 1, &["a"]), None);
        assert_eq!(came(3, 2, &["b"]), Some(vec![EventId(2), EventId(3)]));
        assert_eq!(came(4, 62, &["a"]), None);
        assert_eq!(came(5, 63, &["a", "b"]), Some(vec![EventId(5), EventId(5)]));
    }

    #[test]
    fn two_an_hour_are_allowed_and_the_third_hears_until_when() {
        let hour = Span::seconds(3600);
        let mut window = Window::default();
        let mut came = |id, seconds| allow(&mut window, EventId(id), at(seconds), 2, hour);
        assert_eq!((came(1, 0), came(2, 10)), (Allowed::Yes, Allowed::Yes));
        assert_eq!(came(3, 20), Allowed::No { until: at(3600), is_first: true });
        assert_eq!(came(4, 30), Allowed::No { until: at(3600), is_first: false });
        assert_eq!(came(5, 3600), Allowed::Yes);
        assert_eq!(came(6, 3601), Allowed::No { until: at(3610), is_first: true });
    }
}
