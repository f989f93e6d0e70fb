//! What was put where: the record that a deployment keeps of each host, so that it can be taken back.

use super::db::{Connection, Query};
use super::{Store, StoreError, bounded, json};
use crate::model::release::{Deployment, DeploymentStatus};
use crate::model::{RunId, Timestamp, Value};

/// A deployment with what is known of its hosts: `[{host, previous, ...}]`.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredDeployment {
    pub deployment: Deployment,
    pub hosts: Value,
}

/// A deployment that begins.
#[derive(Clone, Debug, PartialEq)]
pub struct NewDeployment {
    /// The same key gets the same record back: `RUN/STEP/VISIT`.
    pub key: String,
    pub app: String,
    pub environment: String,
    pub version: String,
    pub run: Option<RunId>,
}

/// Which deployments a list holds. Newest first.
#[derive(Clone, Debug, Default)]
pub struct DeploymentFilter {
    pub app: Option<String>,
    pub environment: Option<String>,
    pub run: Option<RunId>,
    /// Only deployments older than this one: the last of the page before.
    pub before: Option<i64>,
    pub limit: u32,
}

impl Store {
    /// Opens the record of a deployment, or gives back the one that `key` opened before, whatever came of it since. Its `previous` is the
    /// version of the newest deployment there that is done.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn begin_deployment(
        &self,
        new: NewDeployment,
        now: Timestamp,
    ) -> Result<StoredDeployment, StoreError> {
        self.write(move |tx| Box::pin(async move { begin(tx, &new, now).await })).await
    }

    /// Stores how far a deployment is. A status other than rolling ends it at `now`, the first time.
    ///
    /// # Errors
    /// `Missing` when there is no such deployment. The database cannot be written.
    pub async fn update_deployment(
        &self,
        id: i64,
        status: DeploymentStatus,
        hosts: &Value,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let hosts = json::write("hosts", hosts)?;
        let status_word = json::word("status", &status)?;
        let finished_at = (status != DeploymentStatus::Rolling).then_some(now.0);
        self.write(move |tx| {
            Box::pin(async move {
                let done = sqlx::query(
                    "UPDATE deployments SET status = $2, hosts = $3, finished_at = coalesce(finished_at, $4)
                     WHERE id = $1",
                )
                .bind(id)
                .bind(status_word)
                .bind(hosts)
                .bind(finished_at)
                .execute(tx)
                .await?;
                match done.rows_affected() {
                    0 => Err(StoreError::Missing(format!("deployment {id}"))),
                    _ => Ok(()),
                }
            })
        })
        .await
    }

    /// One deployment.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn deployment(&self, id: i64) -> Result<Option<StoredDeployment>, StoreError> {
        let mut query = Query::new(SELECT);
        query.push(" WHERE id = ").push_bind(id);
        let row: Option<Row> = query.build_query_as().fetch_optional(self.readers()).await?;
        row.map(read).transpose()
    }

    /// A page of deployments, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn deployments(&self, filter: &DeploymentFilter) -> Result<Vec<StoredDeployment>, StoreError> {
        let mut query = Query::new(SELECT);
        query.push(" WHERE 1 = 1");
        if let Some(app) = &filter.app {
            query.push(" AND app = ").push_bind(app.clone());
        }
        if let Some(environment) = &filter.environment {
            query.push(" AND environment = ").push_bind(environment.clone());
        }
        if let Some(run) = filter.run {
            query.push(" AND run = ").push_bind(run.0);
        }
        if let Some(before) = filter.before {
            query.push(" AND id < ").push_bind(before);
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(bounded(filter.limit));
        let rows: Vec<Row> = query.build_query_as().fetch_all(self.readers()).await?;
        rows.into_iter().map(read).collect()
    }
}

async fn begin(
    tx: &mut Connection,
    new: &NewDeployment,
    now: Timestamp,
) -> Result<StoredDeployment, StoreError> {
    sqlx::query(
        "INSERT INTO deployments (unique_key, app, environment, version, previous, run, status, started_at, hosts)
         VALUES ($1, $2, $3, $4,
                 (SELECT version FROM deployments WHERE app = $2 AND environment = $3 AND status = 'done'
                  ORDER BY id DESC LIMIT 1),
                 $5, 'rolling', $6, '[]')
         ON CONFLICT (unique_key) DO NOTHING",
    )
    .bind(&new.key)
    .bind(&new.app)
    .bind(&new.environment)
    .bind(&new.version)
    .bind(new.run.map(|run| run.0))
    .bind(now.0)
    .execute(&mut *tx)
    .await?;
    let mut query = Query::new(SELECT);
    query.push(" WHERE unique_key = ").push_bind(new.key.clone());
    let row: Row = query.build_query_as().fetch_one(tx).await?;
    read(row)
}

const SELECT: &str = "SELECT id, app, environment, version, previous, run, status, started_at, finished_at, hosts FROM deployments";

type Row = (i64, String, String, String, Option<String>, Option<i64>, String, i64, Option<i64>, String);

fn read(
    (id, app, environment, version, previous, run, status, started_at, finished_at, hosts): Row,
) -> Result<StoredDeployment, StoreError> {
    let what = format!("deployment {id}");
    let deployment = Deployment {
        id,
        app,
        environment,
        version,
        previous,
        run: run.map(RunId),
        status: json::of_word(&what, &status)?,
        started_at: Timestamp(started_at),
        finished_at: finished_at.map(Timestamp),
    };
    Ok(StoredDeployment { deployment, hosts: json::read(&what, &hosts)? })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Span;
    use crate::store::testing::{NOW, fresh};

    fn new(key: &str, version: &str) -> NewDeployment {
        NewDeployment {
            key: key.to_owned(),
            app: "hello".to_owned(),
            environment: "production".to_owned(),
            version: version.to_owned(),
            run: Some(RunId(4)),
        }
    }

    #[tokio::test]
    async fn the_same_key_gets_the_same_record_and_previous_is_what_was_done_last() {
        let (_folder, store) = fresh().await;
        let first = store.begin_deployment(new("1/deploy/1", "1.0"), NOW).await.unwrap();
        assert_eq!((first.deployment.previous.as_deref(), &first.hosts), (None, &json!([])));
        let hosts = json!([{"host": "p1", "previous": null}]);
        store.update_deployment(first.deployment.id, DeploymentStatus::Done, &hosts, NOW).await.unwrap();
        let second = store.begin_deployment(new("2/deploy/1", "2.0"), NOW).await.unwrap().deployment;
        assert_eq!(second.previous.as_deref(), Some("1.0"));
        store
            .update_deployment(second.id, DeploymentStatus::Failed, &json!([]), NOW.plus(Span(1)))
            .await
            .unwrap();
        store
            .update_deployment(second.id, DeploymentStatus::Restored, &json!([]), NOW.plus(Span(9)))
            .await
            .unwrap();
        let third = store.begin_deployment(new("3/deploy/1", "3.0"), NOW).await.unwrap().deployment;
        assert_eq!(third.previous.as_deref(), Some("1.0"));

        let again = store.begin_deployment(new("1/deploy/1", "1.0"), NOW).await.unwrap();
        assert_eq!(
            (again.deployment.id, again.deployment.status),
            (first.deployment.id, DeploymentStatus::Done)
        );
        assert_eq!(again.hosts, hosts);
        let filter =
            DeploymentFilter { app: Some("hello".to_owned()), limit: 9, ..DeploymentFilter::default() };
        let all = store.deployments(&filter).await.unwrap();
        assert_eq!(
            all.iter().map(|one| one.deployment.id).collect::<Vec<_>>(),
            [third.id, second.id, first.deployment.id]
        );
        assert_eq!(all[1].deployment.finished_at, Some(NOW.plus(Span(1))));
        assert_eq!(store.deployment(third.id).await.unwrap().unwrap().deployment, third);
        let missing = store.update_deployment(99, DeploymentStatus::Done, &json!([]), NOW).await;
        assert_eq!(missing, Err(StoreError::Missing("deployment 99".to_owned())));
    }
}
