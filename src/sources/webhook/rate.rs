//! How often a source is sent to. Each server counts for itself; a restart begins anew.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::definitions::webhook::Rate;
use crate::model::Timestamp;

/// What all sources have left.
#[derive(Debug, Default)]
pub(in crate::sources) struct Rates(Mutex<HashMap<String, Bucket>>);

/// Fills evenly up to the count of its rate; each delivery takes one out.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: Rate,
    left: f64,
    at: Timestamp,
}

impl Rates {
    /// Whether a delivery would be taken now.
    ///
    /// # Errors
    /// After how many seconds one will be.
    pub(super) fn look(&self, source: &str, rate: Rate, now: Timestamp) -> Result<(), u32> {
        self.count(source, rate, now, 0.0)
    }

    /// Counts one that is taken.
    ///
    /// # Errors
    /// As `look`; then it is not counted.
    pub(super) fn take(&self, source: &str, rate: Rate, now: Timestamp) -> Result<(), u32> {
        self.count(source, rate, now, 1.0)
    }

    fn count(&self, source: &str, rate: Rate, now: Timestamp, taken: f64) -> Result<(), u32> {
        // Numbers are whole whatever happened to who held them.
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = Bucket { rate, left: f64::from(rate.count), at: now };
        let bucket = buckets.entry(source.to_owned()).or_insert(full);
        if bucket.rate != rate {
            *bucket = full;
        }
        bucket.fill(now);
        if bucket.left < 1.0 {
            return Err(bucket.seconds_until_one());
        }
        bucket.left -= taken;
        Ok(())
    }
}

impl Bucket {
    fn per_second(&self) -> f64 {
        f64::from(self.rate.count) / self.rate.per.duration().as_secs_f64()
    }

    fn fill(&mut self, now: Timestamp) {
        // Nothing when the clock was set back; it goes on from there.
        let seconds = now.since(self.at).duration().as_secs_f64();
        self.left = (self.left + seconds * self.per_second()).min(f64::from(self.rate.count));
        self.at = now;
    }

    fn seconds_until_one(&self) -> u32 {
        let seconds = std::time::Duration::try_from_secs_f64((1.0 - self.left) / self.per_second());
        let seconds = seconds.map_or(u64::MAX, |wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
        u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Span;

    const TWO_A_MINUTE: Rate = Rate { count: 2, per: Span::minutes(1) };
    const START: Timestamp = Timestamp(1_000_000);

    fn after(seconds: u64) -> Timestamp {
        START.plus(Span::seconds(seconds))
    }

    #[test]
    fn one_too_many_is_told_when_to_come_again() {
        let rates = Rates::default();
        assert_eq!(rates.take("a", TWO_A_MINUTE, START), Ok(()));
        assert_eq!(rates.take("a", TWO_A_MINUTE, START), Ok(()));
        assert_eq!(rates.take("a", TWO_A_MINUTE, START), Err(30));
        assert_eq!(rates.take("b", TWO_A_MINUTE, START), Ok(()), "another source");
        assert_eq!(rates.take("a", TWO_A_MINUTE, after(29)), Err(1));
        assert_eq!(rates.take("a", TWO_A_MINUTE, after(30)), Ok(()));
        assert_eq!(rates.take("a", TWO_A_MINUTE, after(30)), Err(30));
    }

    #[test]
    fn looking_takes_nothing() {
        let rates = Rates::default();
        for _ in 0..10 {
            assert_eq!(rates.look("a", TWO_A_MINUTE, START), Ok(()));
        }
        assert_eq!(rates.take("a", TWO_A_MINUTE, START), Ok(()));
        assert_eq!(rates.take("a", TWO_A_MINUTE, START), Ok(()));
        assert_eq!(rates.look("a", TWO_A_MINUTE, START), Err(30));
    }

    #[test]
    fn a_quiet_day_saves_up_no_more_than_the_count() {
        let rates = Rates::default();
        assert_eq!(rates.take("a", TWO_A_MINUTE, START), Ok(()));
        assert_eq!(rates.take("a", TWO_A_MINUTE, after(86_400)), Ok(()));
        assert_eq!(rates.take("a", TWO_A_MINUTE, after(86_400)), Ok(()));
        assert!(rates.take("a", TWO_A_MINUTE, after(86_400)).is_err());
    }

    #[test]
    fn a_clock_that_is_set_back_stops_nobody_for_long() {
        let rates = Rates::default();
        assert_eq!(rates.take("a", TWO_A_MINUTE, after(3600)), Ok(()));
        assert_eq!(rates.take("a", TWO_A_MINUTE, after(3600)), Ok(()));
        assert_eq!(rates.take("a", TWO_A_MINUTE, START), Err(30));
        assert_eq!(rates.take("a", TWO_A_MINUTE, after(30)), Ok(()));
    }

    #[test]
    fn a_changed_rate_begins_anew() {
        let rates = Rates::default();
        let one_a_day = Rate { count: 1, per: Span::days(1) };
        assert_eq!(rates.take("a", one_a_day, START), Ok(()));
        assert_eq!(rates.take("a", one_a_day, START), Err(86_400));
        assert_eq!(rates.take("a", TWO_A_MINUTE, START), Ok(()));
    }
}
