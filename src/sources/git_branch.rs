//! Source `git_branch`: branches of any repository that git can reach.
//!
//! Payload: `{change: created, moved or deleted, repository, branch, ref, before, after}`; `before` and `after` are commits, or null. The cursor is the commit
//! that each branch pointed to, so of many commits that came at once the last one makes the event. What is there at the first look makes none.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::seat::{MOST_AT_ONCE, Seat, Sight, Trouble, subject};
use crate::definitions::live::GitBranch;
use crate::git::{self, Repository};
use crate::model::Span;

/// How long git may take.
const PATIENCE: Span = Span::minutes(2);
/// Branches that one source may watch.
const MOST_BRANCHES: usize = 10_000;
const HEADS: &str = "refs/heads/";

/// The commit of each branch.
type Branches = BTreeMap<String, String>;

pub(super) async fn run(seat: &mut Seat, watched: &GitBranch) -> Result<(), Trouble> {
    let url = seat.setting("url", &watched.url).await?;
    let mut repository = Repository::new(url)?.timeout(PATIENCE);
    if let Some(token) = seat.optional("token", watched.token.as_ref()).await? {
        let user = seat.optional("user", watched.user.as_ref()).await?;
        repository = repository.http_token(user.as_deref().unwrap_or("git"), &token);
    }
    let shown = repository.shown();
    let mut parts = vec!["git_branch", shown.as_str()];
    parts.extend(watched.branches.iter().map(|glob| glob.glob()));
    let stored = seat.open(subject(&parts)).await?;
    let mut known: Option<Branches> =
        stored.and_then(|cursor| serde_json::from_value(cursor["branches"].clone()).ok());
    let globs: Vec<_> = watched.branches.iter().map(|glob| glob.compile_matcher()).collect();
    loop {
        let refs = git::refs(&repository, &seat.end).await?;
        let branches = refs.into_iter().filter_map(|found| {
            let name = found.name.strip_prefix(HEADS)?;
            globs.iter().any(|glob| glob.is_match(name)).then(|| (name.to_owned(), found.commit))
        });
        let now: Branches = branches.collect();
        if now.len() > MOST_BRANCHES {
            return Err(Trouble::new(format!("more than {MOST_BRANCHES} branches match; watch fewer")));
        }
        seat.well();
        match &mut known {
            None => {
                seat.store(Vec::new(), json!({"branches": now})).await?;
                known = Some(now);
            }
            Some(known) => {
                let names: BTreeSet<String> = known.keys().chain(now.keys()).cloned().collect();
                let changed: Vec<String> =
                    names.into_iter().filter(|name| known.get(name) != now.get(name)).collect();
                for part in changed.chunks(MOST_AT_ONCE) {
                    let mut seen = Vec::new();
                    for name in part {
                        let after = now.get(name);
                        let before = match after {
                            Some(after) => known.insert(name.clone(), after.clone()),
                            None => known.remove(name),
                        };
                        seen.push(sight(&shown, name, before.as_ref(), after));
                    }
                    seat.store(seen, json!({"branches": known})).await?;
                }
            }
        }
        tokio::time::sleep(watched.every.duration()).await;
    }
}

fn sight(repository: &str, branch: &str, before: Option<&String>, after: Option<&String>) -> Sight {
    let change = match (before, after) {
        (None, _) => "created",
        (Some(_), None) => "deleted",
        (Some(_), Some(_)) => "moved",
    };
    Sight::of(json!({
        "change": change,
        "repository": repository,
        "branch": branch,
        "ref": format!("{HEADS}{branch}"),
        "before": before,
        "after": after,
    }))
}
