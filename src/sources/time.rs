//! Sources `interval` and `at`: time itself. Payloads: `{at, missed, next}`, of `at` also `local`, what the clock on the wall shows.
//!
//! The cursor is the last time that happened or was let go. What came while nobody was there is made up for as `catch_up` says; `missed` counts the times
//! that did not happen for themselves.

use serde_json::json;

use super::seat::{MOST_AT_ONCE, Seat, Sight, Trouble, subject};
use crate::definitions::schedule::{CatchUp, Interval, Schedule};
use crate::model::{Span, Timestamp, Value};

/// Times that are made up for at most, when all are; older ones are let go.
const MOST_MADE_UP: u64 = 10_000;
/// Times of a pattern that are looked at in one go.
const MOST_LOOKED_AT: usize = 200_000;
/// A time that is seen later than this was missed, also by a server that was there: the clock was set, or the machine slept.
const LATE: Span = Span::minutes(1);

/// When it happens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rhythm<'a> {
    Interval(Interval),
    At(&'a Schedule),
}

/// Times that have come.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    /// Older than the ones in `times`.
    skipped: u64,
    /// The last ones, in order; never empty.
    times: Vec<Timestamp>,
    last: Timestamp,
}

impl Rhythm<'_> {
    fn subject(&self) -> String {
        match self {
            Rhythm::Interval(interval) => subject(&["interval", &interval.every.to_string()]),
            Rhythm::At(schedule) => subject(&["at", &schedule.subject]),
        }
    }

    fn catch_up(&self) -> CatchUp {
        match self {
            Rhythm::Interval(interval) => interval.catch_up,
            Rhythm::At(schedule) => schedule.catch_up,
        }
    }

    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Rhythm::Interval(interval) => Some(after.plus(interval.every)),
            Rhythm::At(schedule) => schedule.next(after),
        }
    }

    /// The times after `after` until `now`, the last `MOST_MADE_UP` of them each.
    fn due(&self, after: Timestamp, now: Timestamp) -> Option<Due> {
        let most = usize::try_from(MOST_MADE_UP).unwrap_or(usize::MAX);
        let (count, mut times) = match self {
            Rhythm::Interval(interval) => {
                let count = now.since(after).0 / interval.every.0;
                let first = count.saturating_sub(MOST_MADE_UP) + 1;
                let time = |number: u64| after.plus(Span(interval.every.0.saturating_mul(number)));
                (count, (first..=count).map(time).collect::<Vec<_>>())
            }
            Rhythm::At(schedule) => {
                let next = std::iter::successors(schedule.next(after), |last| schedule.next(*last));
                let times: Vec<_> = next.take_while(|at| *at <= now).take(MOST_LOOKED_AT).collect();
                (times.len() as u64, times)
            }
        };
        times.drain(..times.len().saturating_sub(most));
        let last = *times.last()?;
        Some(Due { skipped: count - times.len() as u64, times, last })
    }

    fn sight(&self, at: Timestamp, missed: u64) -> Sight {
        let mut body = json!({"at": at, "missed": missed, "next": self.next(at)});
        if let Rhythm::At(schedule) = self {
            body["local"] = Value::String(schedule.local(at));
        }
        Sight { body, dedup: None, at: Some(at) }
    }

    /// What happens of that which has come, when it was looked for since `begun`.
    fn happens(&self, due: &Due, begun: Timestamp, now: Timestamp) -> Vec<Sight> {
        let others = due.skipped + due.times.len() as u64 - 1;
        let is_fresh = due.last > begun && now.since(due.last) <= LATE;
        match self.catch_up() {
            CatchUp::None if !is_fresh => Vec::new(),
            CatchUp::None | CatchUp::One => vec![self.sight(due.last, others)],
            CatchUp::All => {
                let mut missed = due.skipped;
                let all = due.times.iter();
                all.map(|at| self.sight(*at, std::mem::take(&mut missed))).collect()
            }
        }
    }
}

pub(super) async fn run(seat: &mut Seat, rhythm: &Rhythm<'_>) -> Result<(), Trouble> {
    let clock = seat.clock().clone();
    let begun = clock.now();
    let stored = seat.open(rhythm.subject()).await?;
    let mut last = match stored.as_ref().and_then(|cursor| cursor["at"].as_str()?.parse().ok()) {
        Some(last) => last,
        None => {
            seat.store(Vec::new(), json!({"at": begun})).await?;
            begun
        }
    };
    loop {
        seat.well();
        let now = clock.now();
        if let Some(due) = rhythm.due(last, now) {
            if due.skipped > 0 && rhythm.catch_up() == CatchUp::All {
                seat.note_error(format!(
                    "{} times that were missed are too many to make up for",
                    due.skipped
                ));
            }
            let mut seen = rhythm.happens(&due, begun, now);
            while seen.len() > MOST_AT_ONCE {
                let rest = seen.split_off(MOST_AT_ONCE);
                let until = seen.last().and_then(|sight| sight.at);
                seat.store(seen, json!({"at": until})).await?;
                seen = rest;
            }
            seat.store(seen, json!({"at": due.last})).await?;
            last = due.last;
            continue;
        }
        match rhythm.next(last) {
            Some(next) => clock.sleep_until(next).await,
            // All its times are over.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn every(seconds: u64, catch_up: CatchUp) -> Rhythm<'static> {
        Rhythm::Interval(Interval { every: Span::seconds(seconds), catch_up })
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1000)
    }

    /// When, and how many were missed with it.
    fn happen(rhythm: &Rhythm<'_>, after: i64, begun: i64, now: i64) -> Vec<(i64, u64)> {
        let due = rhythm.due(at(after), at(now)).unwrap();
        let seen = rhythm.happens(&due, at(begun), at(now));
        seen.iter()
            .map(|sight| (sight.at.unwrap().0 / 1000, sight.body["missed"].as_u64().unwrap()))
            .collect()
    }

    #[test]
    fn what_is_on_time_happens_whatever_catch_up_says() {
        for catch_up in [CatchUp::One, CatchUp::All, CatchUp::None] {
            assert_eq!(happen(&every(30, catch_up), 1000, 990, 1030), [(1030, 0)], "{catch_up:?}");
        }
        assert_eq!(every(30, CatchUp::One).due(at(1000), at(1029)), None);
    }

    #[test]
    fn what_was_missed_happens_once_each_or_not_at_all() {
        assert_eq!(happen(&every(30, CatchUp::One), 1000, 1100, 1100), [(1090, 2)]);
        assert_eq!(happen(&every(30, CatchUp::All), 1000, 1100, 1100), [(1030, 0), (1060, 0), (1090, 0)]);
        assert_eq!(happen(&every(30, CatchUp::None), 1000, 1100, 1100), []);
    }

    #[test]
    fn a_clock_that_jumps_an_hour_does_not_flood() {
        assert_eq!(happen(&every(1, CatchUp::One), 1000, 900, 4600), [(4600, 3599)]);
        assert_eq!(happen(&every(1, CatchUp::All), 0, 0, 20_000).len(), 10_000);
        assert_eq!(happen(&every(1, CatchUp::All), 0, 0, 20_000)[0], (10_001, 10_000));
        assert_eq!(every(1, CatchUp::One).due(at(4600), at(1000)), None);
    }
}
