//! How what stands on one environment differs from what stands on another.

use serde::{Deserialize, Serialize};

use super::{Record, stands};
use crate::model::Timestamp;
use crate::model::release::DeploymentStatus;

/// How the second environment stands to the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// Both hold the same version.
    Same,
    /// The first had the second's version before, and has gone on since.
    Behind,
    /// The second had the first's version before, and has gone on since.
    Ahead,
    /// Neither ever had what the other holds.
    Apart,
    /// Nothing stands on one of them.
    Empty,
}

/// What lies between two environments.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference<'a> {
    pub relation: Relation,
    /// `Same`: since when both hold it. `Behind` and `Ahead`: since when the one that leads holds something that the other lacks.
    pub since: Option<Timestamp>,
    /// What was done on the one that leads since it held what the other holds, oldest first.
    pub between: Vec<&'a Record>,
}

/// Holds the pasts of two environments of an app against each other, newest first both.
pub fn difference<'a>(first: &'a [Record], second: &'a [Record]) -> Difference<'a> {
    let nothing = |relation| Difference { relation, since: None, between: Vec::new() };
    let (Some(one), Some(other)) = (stands(first), stands(second)) else { return nothing(Relation::Empty) };
    if one.deployment.version == other.deployment.version {
        let since = stands_since(first).max(stands_since(second));
        return Difference { since, ..nothing(Relation::Same) };
    }
    let since_then = |leader: &'a [Record], version: &str, relation| {
        let between = since_version(leader, version)?;
        let since = between.first().and_then(|record| record.deployment.finished_at);
        Some(Difference { relation, since, between })
    };
    since_then(first, &other.deployment.version, Relation::Behind)
        .or_else(|| since_then(second, &one.deployment.version, Relation::Ahead))
        .unwrap_or_else(|| nothing(Relation::Apart))
}

/// Since when what stands has stood: a deployment of the same version once more changes nothing.
pub fn stands_since(past: &[Record]) -> Option<Timestamp> {
    let version = &stands(past)?.deployment.version;
    let done = past.iter().filter(|record| record.deployment.status == DeploymentStatus::Done);
    let same = done.take_while(|record| record.deployment.version == *version);
    same.last().and_then(|record| record.deployment.finished_at)
}

/// What was done after the newest deployment of `version`, oldest first; `None` when it was never there.
fn since_version<'a>(past: &'a [Record], version: &str) -> Option<Vec<&'a Record>> {
    let done = past.iter().filter(|record| record.deployment.status == DeploymentStatus::Done);
    let mut later: Vec<&Record> = Vec::new();
    for record in done {
        if record.deployment.version == version {
            later.reverse();
            return Some(later);
        }
        later.push(record);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::whereabouts::testing::record;
    use DeploymentStatus::{Done, Failed, Restored};

    fn past(environment: &str, of: &[(i64, &str, DeploymentStatus)]) -> Vec<Record> {
        of.iter().map(|(id, version, status)| record(*id, environment, version, *status)).collect()
    }

    #[test]
    fn production_is_so_many_deployments_behind_since_the_first_that_it_lacks() {
        let canary = past(
            "canary",
            &[
                (9, "1.4", Done),
                (8, "1.9", Restored),
                (7, "1.3", Done),
                (6, "1.x", Failed),
                (5, "1.2", Done),
                (1, "1.1", Done),
            ],
        );
        let production = past("production", &[(2, "1.1", Done)]);
        let found = difference(&canary, &production);
        assert_eq!(
            (found.relation, found.since),
            (Relation::Behind, Some(Timestamp(5 * 3_600_000 + 60_000)))
        );
        let between: Vec<i64> = found.between.iter().map(|record| record.deployment.id).collect();
        assert_eq!(between, [5, 7, 9]);
        assert_eq!(difference(&production, &canary).relation, Relation::Ahead);
    }

    #[test]
    fn the_same_version_is_the_same_since_the_later_of_both_had_it() {
        let canary = past("canary", &[(8, "1.2", Done), (5, "1.2", Done), (1, "1.1", Done)]);
        let production = past("production", &[(6, "1.2", Done), (2, "1.1", Done)]);
        let found = difference(&canary, &production);
        assert_eq!((found.relation, found.since), (Relation::Same, Some(Timestamp(6 * 3_600_000 + 60_000))));
    }

    #[test]
    fn what_has_nothing_in_common_is_said_to_have_none() {
        let canary = past("canary", &[(1, "1.1", Done)]);
        let other = past("production", &[(2, "2.0", Done)]);
        assert_eq!(difference(&canary, &other).relation, Relation::Apart);
        assert_eq!(difference(&canary, &past("production", &[(3, "1.1", Failed)])).relation, Relation::Empty);
    }
}
