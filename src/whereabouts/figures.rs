//! How fast and how well an app comes to an environment: deployment frequency, lead time, change failure rate, time to restore.
//!
//! | word | means |
//! | --- | --- |
//! | change | a deployment that is no way back (not done by `deploy.rollback`), and that ended in the period |
//! | whole | it reached all its hosts, also when it was taken back since |
//! | failure | it failed; or was taken back; or was left by a rollback of the environment |
//! | frequency | whole changes a day |
//! | lead time | of each version that became whole there for the first time: from its origin to the end of that deployment. The origin is when the event came in that began the first run which deployed that version anywhere; of a run without an event, when the run was made |
//! | change failure rate | failures among all changes |
//! | time to restore | of each failure: from the end of the deployment to when it was taken back, or else to the end of the next deployment that is done there |
//!
//! A median of an even number is the mean of the two in the middle; the 90th percentile is by nearest rank.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Record;
use crate::model::release::DeploymentStatus;
use crate::model::{RunId, Span, Timestamp};

/// Where a run came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// When the event that began it, or the run that it works for, came in; else when that run was made.
    pub began_at: Timestamp,
    /// It goes back to an earlier version.
    pub is_way_back: bool,
}

/// How numbers are spread. With few of them (`n`) it says little.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub n: usize,
    /// In seconds.
    pub median: Option<f64>,
    pub p90: Option<f64>,
}

/// The figures of one environment over a period.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Changes that ended in the period.
    pub changes: usize,
    /// Of them, those that reached all their hosts.
    pub whole: usize,
    pub failures: usize,
    /// Failures among changes; nothing when there was no change.
    pub failure_rate: Option<f64>,
    /// Whole changes a day.
    pub per_day: f64,
    pub lead_time: Spread,
    /// Versions of which nobody knows any more where they came from.
    pub unknown_origin: usize,
    pub time_to_restore: Spread,
    /// Failures after which nothing good stands there yet.
    pub not_restored: usize,
    /// Deployments that went back to an earlier version: no changes.
    pub ways_back: usize,
}

/// The figures of `environment` from `since` to `until`. `past` is all of the app, on all environments, newest first.
pub fn figures(
    past: &[Record],
    origins: &BTreeMap<RunId, Origin>,
    environment: &str,
    (since, until): (Timestamp, Timestamp),
) -> Figures {
    let origin = |record: &Record| record.deployment.run.and_then(|run| origins.get(&run));
    let is_way_back = |record: &Record| origin(record).is_some_and(|origin| origin.is_way_back);
    let here: Vec<&Record> =
        past.iter().filter(|record| record.deployment.environment == environment).collect();
    let in_period = |at: Option<Timestamp>| at.is_some_and(|at| at >= since && at < until);
    let ended: Vec<&Record> =
        here.iter().copied().filter(|record| in_period(record.deployment.finished_at)).collect();
    let left: BTreeSet<i64> = here
        .iter()
        .enumerate()
        .filter(|(_, record)| is_way_back(record) && record.deployment.status == DeploymentStatus::Done)
        .filter_map(|(place, _)| {
            // What stood there when it went back: a way back that came to nothing before is none of it.
            here.iter().skip(place + 1).find(|record| match record.deployment.status {
                DeploymentStatus::Done => true,
                DeploymentStatus::Restored => false,
                DeploymentStatus::Rolling | DeploymentStatus::Failed => !is_way_back(record),
            })
        })
        .map(|record| record.deployment.id)
        .collect();

    let mut found = Figures::default();
    let (mut leads, mut restores) = (Vec::new(), Vec::new());
    for record in ended {
        if is_way_back(record) {
            found.ways_back += 1;
            continue;
        }
        found.changes += 1;
        let deployment = &record.deployment;
        let Some(end) = deployment.finished_at else { continue };
        if deployment.was_whole() {
            found.whole += 1;
            if is_first(&here, record) {
                match origin_of(past, &origin, &deployment.version) {
                    Some(began) => leads.push(end.since(began)),
                    None => found.unknown_origin += 1,
                }
            }
        }
        let failed = matches!(deployment.status, DeploymentStatus::Failed | DeploymentStatus::Restored);
        if failed || left.contains(&deployment.id) {
            found.failures += 1;
            match restored_at(&here, record) {
                Some(at) => restores.push(at.since(end)),
                None => found.not_restored += 1,
            }
        }
    }
    let days = until.since(since).0 as f64 / Span::days(1).0 as f64;
    found.per_day = if days > 0.0 { found.whole as f64 / days } else { 0.0 };
    found.failure_rate = (found.changes > 0).then(|| found.failures as f64 / found.changes as f64);
    found.lead_time = Spread::of(leads);
    found.time_to_restore = Spread::of(restores);
    found
}

/// Whether its version was never whole there before.
fn is_first(here: &[&Record], record: &Record) -> bool {
    let (id, version) = (record.deployment.id, &record.deployment.version);
    let mut before = here.iter().map(|other| &other.deployment);
    !before.any(|other| other.id < id && other.version == *version && other.was_whole())
}

/// When what became a version began: by the first deployment of it anywhere.
fn origin_of<'a>(
    past: &'a [Record],
    origin: &impl Fn(&'a Record) -> Option<&'a Origin>,
    version: &str,
) -> Option<Timestamp> {
    let first = past
        .iter()
        .filter(|record| record.deployment.version == version)
        .min_by_key(|record| record.deployment.id);
    first.and_then(origin).filter(|origin| !origin.is_way_back).map(|origin| origin.began_at)
}

/// When the harm of a failure was over. Of some that were taken back long ago nobody stored when.
fn restored_at(here: &[&Record], failure: &Record) -> Option<Timestamp> {
    let deployment = &failure.deployment;
    if deployment.status == DeploymentStatus::Restored && deployment.restored_at.is_some() {
        return deployment.restored_at;
    }
    let good = here.iter().rev().map(|record| &record.deployment);
    let mut good = good.filter(|later| later.id > deployment.id && later.status == DeploymentStatus::Done);
    good.find_map(|later| later.finished_at)
}

impl Spread {
    fn of(mut spans: Vec<Span>) -> Spread {
        spans.sort_unstable();
        let n = spans.len();
        let at = |place: usize| spans.get(place).map(|span| span.0 as f64 / 1000.0);
        let median = match n % 2 {
            _ if n == 0 => None,
            1 => at(n / 2),
            _ => at(n / 2 - 1).zip(at(n / 2)).map(|(one, other)| f64::midpoint(one, other)),
        };
        Spread { n, median, p90: (n > 0).then(|| at((n * 9).div_ceil(10) - 1)).flatten() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::whereabouts::testing::record;
    use DeploymentStatus::{Done, Failed, Restored, Rolling};

    const HOUR: i64 = 3_600_000;

    /// Runs whose event came ten minutes before the deployment began, but for those that go back.
    fn origins(past: &[Record], ways_back: &[i64]) -> BTreeMap<RunId, Origin> {
        let of = |record: &Record| {
            let deployment = &record.deployment;
            let began_at = Timestamp(deployment.started_at.0 - 600_000);
            Some((deployment.run?, Origin { began_at, is_way_back: ways_back.contains(&deployment.id) }))
        };
        past.iter().filter_map(of).collect()
    }

    fn of(past: &[Record], ways_back: &[i64], hours: (i64, i64)) -> Figures {
        let period = (Timestamp(hours.0 * HOUR), Timestamp(hours.1 * HOUR));
        figures(past, &origins(past, ways_back), "production", period)
    }

    #[test]
    fn lead_time_runs_from_the_event_that_first_brought_the_version_anywhere() {
        let past = [
            record(6, "production", "2.0", Done), // once more: no lead time
            record(5, "production", "2.0", Done),
            record(3, "canary", "2.0", Done),
            record(2, "production", "1.0", Done),
            record(1, "canary", "1.0", Done),
        ];
        let found = of(&past, &[], (0, 24));
        // 1.0: the event at 0:50, done at 2:01; 2.0: the event at 2:50, done at 5:01.
        assert_eq!(
            found.lead_time,
            Spread { n: 2, median: Some((4260.0 + 7860.0) / 2.0), p90: Some(7860.0) }
        );
        assert_eq!((found.changes, found.whole, found.failures, found.per_day), (3, 3, 0, 3.0));
        // What was deployed before the period counts for where a version came from, and for nothing else.
        let late = of(&past, &[], (4, 24));
        assert_eq!((late.changes, late.lead_time.n, late.lead_time.median), (2, 1, Some(7860.0)));
    }

    #[test]
    fn failed_taken_back_and_left_by_a_rollback_are_failures() {
        let past = [
            record(9, "production", "5.0", Rolling),
            record(7, "production", "3.0", Done), // the rollback
            record(6, "production", "4.0", Done).on("h", None, Some(true)),
            record(5, "production", "3.0", Done),
            record(3, "production", "2.1", Restored).on("h", None, Some(true)),
            record(2, "production", "2.0", Failed),
            record(1, "production", "1.0", Done),
        ];
        let found = of(&past, &[7], (0, 24));
        assert_eq!((found.changes, found.failures, found.ways_back), (5, 3, 1));
        assert_eq!(found.failure_rate, Some(0.6));
        // 2.1 was there on all hosts before it was taken back.
        assert_eq!(found.whole, 4);
        // 2.0: until 3.0 at 5:01, 3 h; 2.1: taken back after 9 min; 4.0: until the rollback, 1 h.
        assert_eq!(found.time_to_restore, Spread { n: 3, median: Some(3600.0), p90: Some(10_800.0) });
        assert_eq!(found.not_restored, 0);
    }

    #[test]
    fn a_change_that_the_second_try_of_a_rollback_left_is_a_failure() {
        let past = |first: DeploymentStatus| {
            [
                record(8, "production", "1.0", Done), // the rollback, tried again
                record(7, "production", "1.0", first),
                record(6, "production", "2.0", Done),
                record(1, "production", "1.0", Done),
            ]
        };
        for first in [Failed, Rolling, Restored] {
            let found = of(&past(first), &[7, 8], (0, 24));
            assert_eq!((found.changes, found.failures, found.not_restored), (2, 1, 0), "{first:?}");
            // 2.0: until the rollback that was done, 2 h.
            assert_eq!(found.time_to_restore, Spread { n: 1, median: Some(7200.0), p90: Some(7200.0) });
        }
    }

    #[test]
    fn what_stopped_half_way_and_was_taken_back_was_never_whole() {
        let mut half = record(2, "production", "2.0", Restored).on("a", None, Some(true));
        half.deployment.done_at = None;
        let found = of(&[half, record(1, "production", "1.0", Done)], &[], (0, 24));
        assert_eq!((found.changes, found.whole, found.failures, found.lead_time.n), (2, 1, 1, 1));
    }

    #[test]
    fn what_was_taken_back_before_that_was_stored_is_restored_by_the_next_that_is_done() {
        let mut old = record(2, "production", "2.0", Restored);
        old.deployment.restored_at = None;
        let found = of(&[record(3, "production", "2.1", Done), old.clone()], &[], (0, 24));
        assert_eq!((found.not_restored, found.time_to_restore.median), (0, Some(3600.0)));
        assert_eq!(of(&[old], &[], (0, 24)).not_restored, 1);
    }

    #[test]
    fn a_failure_that_nothing_followed_is_open_and_no_time() {
        let past = [record(2, "production", "2.0", Failed), record(1, "production", "1.0", Done)];
        let found = of(&past, &[], (0, 24));
        assert_eq!((found.failures, found.not_restored, found.time_to_restore.n), (1, 1, 0));
        assert_eq!(found.time_to_restore.median, None);
    }

    #[test]
    fn nothing_is_no_rate_and_no_time() {
        let found = of(&[], &[], (0, 24));
        assert_eq!((found.failure_rate, found.per_day, found.lead_time.p90), (None, 0.0, None));
    }

    #[test]
    fn a_version_whose_runs_are_forgotten_has_no_lead_time() {
        let past = [record(1, "production", "1.0", Done)];
        let found = figures(&past, &BTreeMap::new(), "production", (Timestamp(0), Timestamp(24 * HOUR)));
        assert_eq!((found.unknown_origin, found.lead_time.n, found.changes), (1, 0, 1));
    }

    #[test]
    fn medians_and_percentiles_are_as_the_page_says() {
        let of = |seconds: &[u64]| Spread::of(seconds.iter().map(|one| Span::seconds(*one)).collect());
        assert_eq!(of(&[5, 1, 9]).median, Some(5.0));
        assert_eq!(of(&[4, 1]).median, Some(2.5));
        assert_eq!((of(&[1]).p90, of(&[1, 2]).p90), (Some(1.0), Some(2.0)));
        assert_eq!(of(&(1..=10).collect::<Vec<_>>()).p90, Some(9.0));
        assert_eq!(of(&(1..=100).collect::<Vec<_>>()).p90, Some(90.0));
    }
}
