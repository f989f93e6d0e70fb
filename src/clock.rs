//! The only place that asks what time it is. Everything else is handed a `Clock`, or a `Timestamp`.
//!
//! The wall clock may jump when somebody sets it: a wait looks again at least every minute, so that a jump is noticed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::model::{Span, Timestamp};

/// What time it is. Cheap to clone; clones of a manual clock are one clock.
#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Wall,
    Manual(watch::Sender<Timestamp>),
}

/// The longest sleep without another look at the wall clock.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl Clock {
    /// The machine's own clock.
    pub fn wall() -> Clock {
        Clock(Kind::Wall)
    }

    /// A clock that stands at `at` until it is moved: for tests.
    pub fn manual(at: Timestamp) -> Clock {
        Clock(Kind::Manual(watch::Sender::new(at)))
    }

    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Kind::Wall => {
                // A machine whose clock stands before 1970 is at 1970.
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            Kind::Manual(at) => *at.borrow(),
        }
    }

    /// Moves a manual clock forward, and wakes who waits for it. The wall clock cannot be moved; it stays as it is.
    pub fn advance(&self, span: Span) {
        if let Kind::Manual(at) = &self.0 {
            at.send_modify(|at| *at = at.plus(span));
        }
    }

    /// Returns once it is `at` or later.
    pub async fn sleep_until(&self, at: Timestamp) {
        match &self.0 {
            Kind::Wall => {
                while let Some(left) = left(self.now(), at) {
                    tokio::time::sleep(left.min(LOOK_AGAIN)).await;
                }
            }
            Kind::Manual(clock) => {
                // It cannot be closed: this clock holds its sender.
                clock.subscribe().wait_for(|now| *now >= at).await.ok();
            }
        }
    }
}

/// How long until `at`; `None` when it has come.
fn left(now: Timestamp, at: Timestamp) -> Option<Duration> {
    (now < at).then(|| at.since(now).duration())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_who_waits_when_it_is_moved() {
        let clock = Clock::manual(Timestamp(1_000));
        clock.sleep_until(Timestamp(1_000)).await;
        let waiting = tokio::spawn({
            let clock = clock.clone();
            async move {
                clock.sleep_until(Timestamp(61_000)).await;
                clock.now()
            }
        });
        clock.advance(Span::seconds(30));
        assert!(!waiting.is_finished());
        clock.advance(Span::seconds(30));
        assert_eq!(waiting.await.ok(), Some(Timestamp(61_000)));
    }

    #[tokio::test]
    async fn a_time_that_has_come_is_not_waited_for() {
        let clock = Clock::wall();
        let now = clock.now();
        assert!(now > Timestamp(1_700_000_000_000));
        clock.sleep_until(now).await;
    }
}
