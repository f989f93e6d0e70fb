//! What is to be done about an app on this host, from what is known: nothing here is done, read or waited for.

use crate::delivery::deb::Version;
use crate::delivery::here::Standing;
use crate::model::{Span, Timestamp};

use super::state::{Attempt, Failed};

/// A version that failed is tried again after this time at the latest.
const LONGEST_RETRY: Span = Span::hours(6);
/// A roll that began so long ago counts as dead, whatever its record says.
const LONGEST_ROLL: Span = Span::hours(3);
/// A roll that failed puts back what was advertised before: so long that may take.
const PUTTING_BACK: Span = Span::minutes(2);

/// What is known.
#[derive(Clone, Debug)]
pub(super) struct Facts<'a> {
    pub(super) now: Timestamp,
    pub(super) wanted: &'a str,
    pub(super) wanted_since: Timestamp,
    /// To go back to `wanted` is meant so.
    pub(super) may_go_back: bool,
    pub(super) standing: &'a Standing,
    pub(super) attempt: Option<&'a Attempt>,
    pub(super) failed: Option<&'a Failed>,
    pub(super) roll: Roll,
    pub(super) settle: Span,
    pub(super) retry: Span,
}

/// What the server knows of rolls in the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Roll {
    /// A roll is at work in the environment, of this or another version.
    AtWork { deployment: i64, since: Timestamp },
    /// None is at work: what is advertised is meant to be here, since then.
    None { since: Option<Timestamp> },
    /// The version failed there, and is advertised all the same.
    Failed { deployment: i64, since: Timestamp },
    /// Nobody can say.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It stands as it should.
    Leave,
    /// It is installed, but nobody knows yet whether it is well: the agent died in between.
    Check,
    Install {
        goes_back: bool,
    },
    /// Not now. `until` is when to look again, where that is known.
    Wait {
        why: String,
        until: Option<Timestamp>,
    },
    /// It failed and is not tried yet.
    Rest {
        why: String,
        until: Timestamp,
    },
    Refuse(String),
}

pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    let Standing { installed, is_held, is_broken, .. } = facts.standing;
    let wanted: Version = match facts.wanted.parse() {
        Ok(version) => version,
        Err(why) => {
            let shown: String = facts.wanted.chars().take(100).flat_map(char::escape_debug).collect();
            return Decision::Refuse(format!(
                "`{shown}` is advertised, which is no version of a package: {why}"
            ));
        }
    };
    let stands: Option<Version> = installed.as_deref().and_then(|text| text.parse().ok());
    let is_there = installed.as_deref() == Some(facts.wanted) && !is_broken;
    if is_there {
        let was_tried = facts.attempt.is_some_and(|attempt| attempt.version == facts.wanted);
        return if was_tried { Decision::Check } else { Decision::Leave };
    }
    if *is_held {
        let is = installed.as_deref().unwrap_or("it");
        return Decision::Refuse(format!("the package is held at {is} (apt-mark unhold lets it go)"));
    }
    let goes_back = stands.as_ref().is_some_and(|stands| *stands > wanted);
    if goes_back && !facts.may_go_back {
        return Decision::Refuse(format!(
            "{} is advertised, which is lower than {}, and nothing says that this is a way back; roll it with `downgrade: true`, or set `allow_downgrade`",
            facts.wanted,
            installed.as_deref().unwrap_or_default()
        ));
    }
    if let Some(failed) = facts.failed.filter(|failed| failed.version == facts.wanted) {
        let until = failed.at.plus(rest_after(facts.retry, failed.times));
        if facts.now < until {
            return Decision::Rest { why: failed.why.clone(), until };
        }
    }
    let install = Decision::Install { goes_back };
    match facts.roll {
        Roll::AtWork { deployment, since } if facts.now < since.plus(LONGEST_ROLL) => Decision::Wait {
            why: format!("deployment {deployment} is rolling; it comes to this host too"),
            until: None,
        },
        Roll::Failed { deployment, since } if facts.now < since.plus(PUTTING_BACK) => {
            let until = Some(since.plus(PUTTING_BACK));
            Decision::Wait { why: format!("deployment {deployment} has just failed"), until }
        }
        Roll::Failed { deployment, .. } => Decision::Refuse(format!(
            "{} is advertised although its deployment {deployment} failed; roll it again, or advertise another",
            facts.wanted
        )),
        Roll::None { .. } => install,
        Roll::AtWork { .. } | Roll::Unknown => {
            let until = facts.wanted_since.plus(facts.settle);
            // What was begun is finished, and what is broken is mended, without a wait.
            if facts.now >= until || facts.attempt.is_some() || *is_broken {
                return install;
            }
            let why = "a roll may be at work; nobody can say".to_owned();
            Decision::Wait { why, until: Some(until) }
        }
    }
}

fn rest_after(retry: Span, times: u32) -> Span {
    let doubled = retry.0.saturating_mul(1_u64.checked_shl(times.saturating_sub(1)).unwrap_or(u64::MAX));
    Span(doubled.min(LONGEST_RETRY.0.max(retry.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(100_000_000);

    fn standing(installed: Option<&str>) -> Standing {
        let installed = installed.map(str::to_owned);
        Standing { before: installed.clone(), installed, ..Standing::default() }
    }

    fn facts<'a>(wanted: &'a str, standing: &'a Standing) -> Facts<'a> {
        Facts {
            now: NOW,
            wanted,
            wanted_since: NOW,
            may_go_back: false,
            standing,
            attempt: None,
            failed: None,
            roll: Roll::None { since: Some(NOW) },
            settle: Span::minutes(10),
            retry: Span::minutes(10),
        }
    }

    #[test]
    fn a_lower_version_is_refused_unless_it_is_said_to_be_a_way_back() {
        let two = standing(Some("2.0"));
        let refused = decide(&facts("1.0", &two));
        assert!(matches!(&refused, Decision::Refuse(why) if why.contains("lower than 2.0")), "{refused:?}");
        let back = Facts { may_go_back: true, ..facts("1.0", &two) };
        assert_eq!(decide(&back), Decision::Install { goes_back: true });
        assert_eq!(decide(&facts("2.1", &two)), Decision::Install { goes_back: false });
        assert_eq!(decide(&facts("2.0", &two)), Decision::Leave);
        assert_eq!(decide(&facts("1.0", &standing(None))), Decision::Install { goes_back: false });
    }

    #[test]
    fn what_is_no_version_and_what_is_held_is_refused() {
        let one = standing(Some("1.0"));
        for garbage in ["N/A", "1 2", "$(reboot)", "-1", "1_2", "2.0\nx"] {
            assert!(matches!(decide(&facts(garbage, &one)), Decision::Refuse(_)), "{garbage:?}");
        }
        let held = Standing { is_held: true, ..one };
        let refused = decide(&facts("2.0", &held));
        assert!(matches!(&refused, Decision::Refuse(why) if why.contains("held at 1.0")), "{refused:?}");
        assert_eq!(decide(&facts("1.0", &held)), Decision::Leave);
    }

    #[test]
    fn a_roll_at_work_is_left_alone_and_an_unknown_one_is_given_time() {
        let one = standing(Some("1.0"));
        let rolling = Roll::AtWork { deployment: 3, since: NOW };
        let wait = decide(&Facts { roll: rolling.clone(), ..facts("2.0", &one) });
        assert!(matches!(wait, Decision::Wait { until: None, .. }), "{wait:?}");
        let dead = Facts { now: NOW.plus(Span::hours(4)), roll: rolling, ..facts("2.0", &one) };
        assert_eq!(decide(&dead), Decision::Install { goes_back: false });
        let unknown = Facts { roll: Roll::Unknown, ..facts("2.0", &one) };
        let until = NOW.plus(Span::minutes(10));
        assert!(matches!(decide(&unknown), Decision::Wait { until: Some(at), .. } if at == until));
        let later = Facts { now: until, ..unknown };
        assert_eq!(decide(&later), Decision::Install { goes_back: false });
        let failed = Facts { roll: Roll::Failed { deployment: 3, since: NOW }, ..facts("2.0", &one) };
        assert!(matches!(decide(&failed), Decision::Wait { .. }));
        assert!(matches!(decide(&Facts { now: until, ..failed }), Decision::Refuse(_)));
    }

    #[test]
    fn what_failed_rests_twice_as_long_each_time_and_what_died_is_taken_up() {
        let one = standing(Some("1.0"));
        let failed =
            |times| Failed { version: "2.0".into(), times, at: NOW, why: "ill".into(), is_refused: false };
        for (times, minutes) in [(1, 10), (2, 20), (3, 40), (60, 360)] {
            let failed = failed(times);
            let until = NOW.plus(Span::minutes(minutes));
            let rest = decide(&Facts { failed: Some(&failed), ..facts("2.0", &one) });
            assert_eq!(rest, Decision::Rest { why: "ill".into(), until }, "{times}");
            let again = Facts { failed: Some(&failed), now: until, ..facts("2.0", &one) };
            assert_eq!(decide(&again), Decision::Install { goes_back: false });
            let another = Facts { failed: Some(&failed), ..facts("2.1", &one) };
            assert_eq!(decide(&another), Decision::Install { goes_back: false });
        }
        let attempt = Attempt { version: "2.0".into(), before: Some("1.0".into()), since: NOW };
        let two = standing(Some("2.0"));
        assert_eq!(decide(&Facts { attempt: Some(&attempt), ..facts("2.0", &two) }), Decision::Check);
        let half = Standing { is_broken: true, ..standing(None) };
        let unknown = Facts { attempt: Some(&attempt), roll: Roll::Unknown, ..facts("2.0", &half) };
        assert_eq!(decide(&unknown), Decision::Install { goes_back: false });
    }
}
