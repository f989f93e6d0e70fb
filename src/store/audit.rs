//! Who did what, when, from where. A row is written in the transaction of the change that it is about, and never changed.

use super::db::{Connection, Query, sql};
use super::rows::Rows;
use super::{Store, StoreError, bounded, json};
use crate::model::{Actor, Timestamp, Value};

/// An act, to be written beside what it changed.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAudit {
    pub at: Timestamp,
    pub actor: Actor,
    /// What was done: `run.cancel`, `secret.set`.
    pub act: String,
    /// To what: `run 12`, `secret github_webhook`.
    pub subject: String,
    pub details: Value,
    /// The address that the request came from.
    pub from: Option<String>,
}

/// An act as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    pub id: i64,
    pub at: Timestamp,
    pub actor: Actor,
    pub act: String,
    pub subject: String,
    pub details: Value,
    pub from: Option<String>,
}

/// Which acts a list holds. Newest first.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    pub act: Option<String>,
    pub subject: Option<String>,
    /// Only acts older than this one: the last of the page before.
    pub before: Option<i64>,
    pub limit: u32,
}

impl Store {
    /// Writes an act that changed nothing else in the store.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn add_audit(&self, row: NewAudit) -> Result<i64, StoreError> {
        self.write(move |tx| Box::pin(async move { add(tx, &row).await })).await
    }

    /// A page of acts, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        let mut query =
            Query::new("SELECT id, at, actor, act, subject, details, address FROM audit WHERE 1 = 1");
        if let Some(act) = &filter.act {
            query.push(" AND act = ").push_bind(act.clone());
        }
        if let Some(subject) = &filter.subject {
            query.push(" AND subject = ").push_bind(subject.clone());
        }
        if let Some(before) = filter.before {
            query.push(" AND id < ").push_bind(before);
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(bounded(filter.limit));
        let rows: Vec<Row> = query.fetch_all(self.readers()).await?;
        rows.into_iter().map(read).collect()
    }
}

pub(super) async fn add(tx: &mut Connection, row: &NewAudit) -> Result<i64, StoreError> {
    let id = sql(
        "INSERT INTO audit (at, actor, act, subject, details, address) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
    )
    .bind(row.at.0)
    .bind(json::write("actor", &row.actor)?)
    .bind(&row.act)
    .bind(&row.subject)
    .bind(json::write("details", &row.details)?)
    .bind(&row.from)
    .fetch_one(tx)
    .await?;
    Ok(id)
}

static ADD: Rows<6> = Rows::new(
    ["at", "actor", "act", "subject", "details", "address"],
    "INSERT INTO audit (at, actor, act, subject, details, address)
     SELECT at, actor, act, subject, details, address FROM new WHERE at IS NOT NULL",
);

/// As `add`, for many.
pub(super) async fn add_all(tx: &mut Connection, rows: &[&NewAudit]) -> Result<(), StoreError> {
    let mut values = Vec::with_capacity(rows.len());
    for row in rows {
        let (actor, details) = (json::write("actor", &row.actor)?, json::write("details", &row.details)?);
        values.push([
            row.at.0.into(),
            actor.into(),
            (&row.act).into(),
            (&row.subject).into(),
            details.into(),
            (&row.from).into(),
        ]);
    }
    ADD.execute(tx, values).await.map(drop)
}

type Row = (i64, i64, String, String, String, String, Option<String>);

fn read((id, at, actor, act, subject, details, from): Row) -> Result<AuditRow, StoreError> {
    let what = format!("audit row {id}");
    Ok(AuditRow {
        id,
        at: Timestamp(at),
        actor: json::read(&what, &actor)?,
        act,
        subject,
        details: json::read(&what, &details)?,
        from,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::testing::{audit, fresh, on_both};

    on_both!(acts_are_listed_newest_first_by_subject_and_act,);

    async fn acts_are_listed_newest_first_by_subject_and_act() {
        let (_folder, store) = fresh().await;
        for act in ["run.start", "run.cancel", "run.start"] {
            store.add_audit(audit(act)).await.unwrap();
        }
        let starts = AuditFilter { act: Some("run.start".to_owned()), limit: 9, ..AuditFilter::default() };
        let rows = store.audit(&starts).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [3, 1]);
        assert_eq!((&rows[0].actor, rows[0].from.as_deref()), (&Actor::user("ana"), Some("127.0.0.1")));
        let page = AuditFilter { subject: Some("run 1".to_owned()), before: Some(3), limit: 1, act: None };
        assert_eq!(store.audit(&page).await.unwrap()[0].act, "run.cancel");
    }
}
