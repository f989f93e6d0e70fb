//! Questions to people, and their votes. Whether a vote counts is decided by `model::Approval::vote`; here it is kept.

use super::audit::{self, NewAudit};
use super::db::{Connection, Query, sql};
use super::{Store, StoreError, bounded, inbox, json};
use crate::model::approval::{ApprovalStatus, Question, Vote};
use crate::model::{Approval, ApprovalId, RunId, Timestamp, Value};

/// An approval with the version that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredApproval {
    pub approval: Approval,
    pub version: i64,
}

/// Which approvals a list holds. Newest first.
#[derive(Clone, Debug, Default)]
pub struct ApprovalFilter {
    pub status: Option<ApprovalStatus>,
    pub run: Option<RunId>,
    /// Only approvals older than this one: the last of the page before.
    pub before: Option<ApprovalId>,
    pub limit: u32,
}

impl Store {
    /// One approval.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn approval(&self, id: ApprovalId) -> Result<Option<StoredApproval>, StoreError> {
        let mut query = select();
        query.push(" WHERE id = ").push_bind(id.0);
        Ok(self.fetch_approvals(query).await?.pop())
    }

    /// A page of approvals, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn approvals(&self, filter: &ApprovalFilter) -> Result<Vec<StoredApproval>, StoreError> {
        let mut query = select();
        query.push(" WHERE 1 = 1");
        match filter.status {
            // As text, so that the partial index on waiting ones is seen to fit.
            Some(ApprovalStatus::Waiting) => {
                query.push(" AND status = 'waiting'");
            }
            Some(status) => {
                query.push(" AND status = ").push_bind(status.as_str());
            }
            None => {}
        }
        if let Some(run) = filter.run {
            query.push(" AND run = ").push_bind(run.0);
        }
        if let Some(before) = filter.before {
            query.push(" AND id < ").push_bind(before.0);
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(bounded(filter.limit));
        self.fetch_approvals(query).await
    }

    /// Stores the votes and the status of `voted`, whose `version` is the one that was read before the vote; with it the audit row and,
    /// when the vote decided, the input for the run.
    ///
    /// # Errors
    /// `Conflict` when somebody voted in between: read it again and vote again. The database cannot be written.
    pub async fn save_votes(
        &self,
        voted: &StoredApproval,
        input: Option<&Value>,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<Option<i64>, StoreError> {
        let (id, run, version) = (voted.approval.id, voted.approval.run, voted.version);
        let status = voted.approval.status.as_str();
        let votes = json::write("votes", &voted.approval.votes)?;
        let input = input.map(|input| json::write("input", input)).transpose()?;
        self.write(move |tx| {
            Box::pin(async move {
                update(tx, id, version, status, &votes).await?;
                audit::add(tx, &audit).await?;
                match input {
                    Some(input) => inbox::add(tx, run, &input, now).await,
                    None => Ok(None),
                }
            })
        })
        .await
    }

    async fn fetch_approvals(&self, query: Query) -> Result<Vec<StoredApproval>, StoreError> {
        let rows: Vec<Row> = query.fetch_all(self.readers()).await?;
        rows.into_iter().map(read).collect()
    }
}

/// Asks, inside the transaction that advances the run.
pub(super) async fn ask(
    tx: &mut Connection,
    run: RunId,
    question: &Question,
    now: Timestamp,
) -> Result<ApprovalId, StoreError> {
    let id = sql("INSERT INTO approvals (run, step, version, status, asked_at, question, votes)
         VALUES ($1, $2, 1, 'waiting', $3, $4, '[]') RETURNING id")
    .bind(run.0)
    .bind(&question.step)
    .bind(now.0)
    .bind(json::write("question", question)?)
    .fetch_one(tx)
    .await?;
    Ok(ApprovalId(id))
}

/// Ends what a step still asks.
pub(super) async fn settle(
    tx: &mut Connection,
    run: RunId,
    step: &str,
    status: ApprovalStatus,
) -> Result<(), StoreError> {
    sql("UPDATE approvals SET status = $3, version = version + 1
         WHERE run = $1 AND step = $2 AND status = 'waiting'")
    .bind(run.0)
    .bind(step)
    .bind(status.as_str())
    .execute(tx)
    .await?;
    Ok(())
}

async fn update(
    tx: &mut Connection,
    id: ApprovalId,
    version: i64,
    status: &str,
    votes: &str,
) -> Result<(), StoreError> {
    let saved = sql(
        "UPDATE approvals SET version = version + 1, status = $3, votes = $4 WHERE id = $1 AND version = $2",
    )
    .bind(id.0)
    .bind(version)
    .bind(status)
    .bind(votes)
    .execute(tx)
    .await?;
    match saved {
        1 => Ok(()),
        _ => Err(StoreError::Conflict(format!("approval {id}"))),
    }
}

type Row = (i64, i64, i64, String, i64, String, String);

fn select() -> Query {
    Query::new("SELECT id, run, version, status, asked_at, question, votes FROM approvals")
}

fn read((id, run, version, status, asked_at, question, votes): Row) -> Result<StoredApproval, StoreError> {
    let what = format!("approval {id}");
    let question: Question = json::read(&what, &question)?;
    let votes: Vec<Vote> = json::read(&what, &votes)?;
    let approval = Approval {
        id: ApprovalId(id),
        run: RunId(run),
        question,
        votes,
        status: json::of_word(&what, &status)?,
        asked_at: Timestamp(asked_at),
    };
    Ok(StoredApproval { approval, version })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Span;
    use crate::store::Advance;
    use crate::store::testing::{NOW, audit, fresh, on_both, stored_run};

    on_both!(of_two_votes_on_the_same_version_one_counts_and_the_run_hears_of_it,);

    async fn of_two_votes_on_the_same_version_one_counts_and_the_run_hears_of_it() {
        let (_folder, store) = fresh().await;
        let run = stored_run(&store).await;
        let mut advance = Advance::of(run, NOW);
        advance.questions = vec![Question {
            step: "ask".to_owned(),
            ask: "ship it?".to_owned(),
            of: vec!["release".to_owned()],
            count: 1,
            distinct_from: vec![],
            show: Value::Null,
            fields: Value::Null,
            warnings: vec![],
            undos: vec![],
            expires_at: NOW.plus(Span::days(7)),
        }];
        let saved = store.save_run(advance).await.unwrap();
        let read = store.approval(saved.approvals[0]).await.unwrap().unwrap();
        let vote = |by: &str, yes: bool| {
            let mut voted = read.clone();
            let vote = Vote { by: by.to_owned(), yes, comment: None, answers: Value::Null, at: NOW };
            voted.approval.vote(vote, &["release".to_owned()]).unwrap();
            voted
        };
        let input = json!({"approved": saved.approvals[0]});
        let yes = vote("ben", true);
        assert!(store.save_votes(&yes, Some(&input), audit("approval.vote"), NOW).await.unwrap().is_some());
        let no = store.save_votes(&vote("cleo", false), Some(&input), audit("approval.vote"), NOW).await;
        assert_eq!(no, Err(StoreError::Conflict("approval 1".to_owned())));

        let stored = store.approval(saved.approvals[0]).await.unwrap().unwrap();
        assert_eq!((&stored.approval, stored.version), (&yes.approval, 2));
        assert_eq!(store.inbox(saved.run.id).await.unwrap().len(), 1);
        assert_eq!(store.count("SELECT count(*) FROM audit").await, 1);
        let of_run = ApprovalFilter { run: Some(saved.run.id), limit: 9, ..ApprovalFilter::default() };
        assert_eq!(store.approvals(&of_run).await.unwrap(), [stored]);
    }
}
