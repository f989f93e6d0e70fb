//! What was put where: the record that a deployment keeps of each host, so that it can be taken back.

use std::collections::BTreeMap;

use super::db::{Connection, Query, sql};
use super::{Store, StoreError, bounded, json};
use crate::model::release::{Deployment, DeploymentStatus};
use crate::model::{EventId, RunId, Timestamp, Value};

/// A deployment with what is known of its hosts: `[{host, previous, ...}]`.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredDeployment {
    pub deployment: Deployment,
    /// The step of its run that did it.
    pub step: Option<String>,
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
    /// Only when nothing newer than this deployment is there.
    pub after: Option<i64>,
    /// Only when this version is what stands on this other environment of the app.
    pub as_on: Option<String>,
}

/// Which deployment of an app on an environment is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newest {
    /// Of those that are done: what stands.
    Done,
    /// Of those that were not taken back, whatever they are.
    NotTakenBack,
}

/// Which deployments a list holds. Newest first.
#[derive(Clone, Debug, Default)]
pub struct DeploymentFilter {
    pub app: Option<String>,
    pub environment: Option<String>,
    pub run: Option<RunId>,
    pub status: Option<DeploymentStatus>,
    /// Only those that began then or later.
    pub since: Option<Timestamp>,
    /// Only those whose record names this host.
    pub host: Option<String>,
    /// Only deployments older than this one: the last of the page before.
    pub before: Option<i64>,
    pub limit: u32,
}

/// Where a run came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOrigin {
    /// Of the run itself.
    pub workflow: String,
    /// Of the run at the top, as all that follows.
    pub event: Option<EventId>,
    pub rule: Option<String>,
    pub created_at: Timestamp,
    /// When its event came in, while that is stored.
    pub received_at: Option<Timestamp>,
}

/// So many runs are looked for in one statement.
const ORIGINS_AT_ONCE: usize = 500;

impl Store {
    /// Opens the record of a deployment, or gives back the one that `key` opened before, whatever came of it since. Its `previous` is the
    /// version of the newest deployment there that is done.
    ///
    /// # Errors
    /// `Conflict` says which deployment came after `after`.
    /// The database cannot be written.
    pub async fn begin_deployment(
        &self,
        new: NewDeployment,
        now: Timestamp,
    ) -> Result<StoredDeployment, StoreError> {
        self.write(move |tx| Box::pin(async move { begin(tx, &new, now).await })).await
    }

    /// Stores how far a deployment is. It ends at `now` when it becomes done or failed, each time that it does; taking it back leaves when it ended, and
    /// whether it was done, as they were.
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
        self.write(move |tx| {
            Box::pin(async move {
                // A server of an earlier version may have stored that it is done without when.
                let done = sql(
                    "UPDATE deployments SET status = $2, hosts = $3,
                         finished_at = CASE WHEN $2 = 'rolling' THEN NULL
                                            WHEN $2 = 'restored' THEN coalesce(finished_at, done_at, CAST($4 AS BIGINT))
                                            WHEN $2 = status THEN coalesce(finished_at, CAST($4 AS BIGINT))
                                            ELSE CAST($4 AS BIGINT) END,
                         done_at = CASE WHEN $2 = 'failed' THEN NULL
                                        WHEN status = 'done' THEN coalesce(done_at, finished_at)
                                        WHEN $2 = 'done' THEN CAST($4 AS BIGINT)
                                        ELSE done_at END,
                         restored_at = CASE WHEN $2 = 'restored' THEN coalesce(restored_at, CAST($4 AS BIGINT))
                                            ELSE restored_at END
                     WHERE id = $1",
                )
                .bind(id)
                .bind(status_word)
                .bind(hosts)
                .bind(now.0)
                .execute(tx)
                .await?;
                match done {
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
        let row: Option<Row> = query.fetch_optional(self.readers()).await?;
        row.map(read).transpose()
    }

    /// The newest deployment of each environment, of one app or of all.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn newest_deployments(
        &self,
        app: Option<&str>,
        newest: Newest,
    ) -> Result<Vec<StoredDeployment>, StoreError> {
        let mut query = Query::new(SELECT);
        query.push(" WHERE id IN (SELECT max(id) FROM deployments WHERE ");
        query.push(match newest {
            Newest::Done => "status = 'done'",
            Newest::NotTakenBack => "status <> 'restored'",
        });
        if let Some(app) = app {
            query.push(" AND app = ").push_bind(app.to_owned());
        }
        query.push(" GROUP BY app, environment) ORDER BY app, environment");
        let rows: Vec<Row> = query.fetch_all(self.readers()).await?;
        rows.into_iter().map(read).collect()
    }

    /// The newest deployments of each environment of each app, or of one, so many of each: newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn recent_deployments(
        &self,
        app: Option<&str>,
        of_each: u32,
    ) -> Result<Vec<StoredDeployment>, StoreError> {
        let mut query = Query::new(SELECT);
        query.push(" WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY app, environment ORDER BY id DESC) AS place FROM deployments");
        if let Some(app) = app {
            query.push(" WHERE app = ").push_bind(app.to_owned());
        }
        query.push(") AS numbered WHERE place <= ").push_bind(bounded(of_each));
        query.push(") ORDER BY id DESC");
        let rows: Vec<Row> = query.fetch_all(self.readers()).await?;
        rows.into_iter().map(read).collect()
    }

    /// Where the runs came from, whoever they work for: what began the run at the top. A run that is not stored any more is left out.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn origins(&self, runs: &[RunId]) -> Result<BTreeMap<RunId, RunOrigin>, StoreError> {
        let mut found = BTreeMap::new();
        for some in runs.chunks(ORIGINS_AT_ONCE) {
            let mut query = Query::new(
                "WITH RECURSIVE up (run, own, parent_run, event, rule, created_at, place) AS (
                     SELECT id, workflow, parent_run, event, rule, created_at, 0 FROM runs WHERE id IN (",
            );
            query.push_list(some.iter().map(|run| run.0));
            query.push(
                ")
                     UNION ALL
                     SELECT up.run, up.own, runs.parent_run, runs.event, runs.rule, runs.created_at, up.place + 1
                     FROM up JOIN runs ON runs.id = up.parent_run WHERE up.place < 100
                 )
                 SELECT up.run, up.own, up.event, up.rule, up.created_at, events.received_at
                 FROM up LEFT JOIN events ON events.id = up.event WHERE up.parent_run IS NULL",
            );
            #[expect(clippy::type_complexity, reason = "a row")]
            let rows: Vec<(i64, String, Option<i64>, Option<String>, i64, Option<i64>)> =
                query.fetch_all(self.readers()).await?;
            found.extend(rows.into_iter().map(|(run, workflow, event, rule, created_at, received_at)| {
                let origin = RunOrigin {
                    workflow,
                    event: event.map(EventId),
                    rule,
                    created_at: Timestamp(created_at),
                    received_at: received_at.map(Timestamp),
                };
                (RunId(run), origin)
            }));
        }
        Ok(found)
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
        if let Some(status) = filter.status {
            query.push(" AND status = ").push_bind(json::word("status", &status)?);
        }
        if let Some(since) = filter.since {
            query.push(" AND started_at >= ").push_bind(since.0);
        }
        if let Some(host) = &filter.host {
            // Records are compact JSON: an entry begins with the host's name, or has it after a comma.
            let entry = json::write("host", &Value::from(host.as_str()))?;
            query.push(" AND hosts LIKE ").push_bind(format!("%\"name\":{}%", like(&entry)));
            query.push(" ESCAPE '!'");
        }
        if let Some(before) = filter.before {
            query.push(" AND id < ").push_bind(before);
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(bounded(filter.limit));
        let rows: Vec<Row> = query.fetch_all(self.readers()).await?;
        rows.into_iter().map(read).collect()
    }
}

async fn begin(
    tx: &mut Connection,
    new: &NewDeployment,
    now: Timestamp,
) -> Result<StoredDeployment, StoreError> {
    if let Some(after) = new.after {
        refuse_newer(tx, new, after).await?;
    }
    if let Some(environment) = &new.as_on {
        refuse_other(tx, new, environment).await?;
    }
    sql(
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
    let row: Row = query.fetch_one(tx).await?;
    read(row)
}

async fn refuse_newer(tx: &mut Connection, new: &NewDeployment, after: i64) -> Result<(), StoreError> {
    let newer: Option<(i64, String)> = sql("SELECT id, version FROM deployments
         WHERE app = $1 AND environment = $2 AND id > $3 AND unique_key <> $4 AND status <> 'restored'
         ORDER BY id DESC LIMIT 1")
    .bind(&new.app)
    .bind(&new.environment)
    .bind(after)
    .bind(&new.key)
    .fetch_optional(tx)
    .await?;
    match newer {
        None => Ok(()),
        Some((id, version)) => Err(StoreError::Conflict(format!(
            "deployment {id} of {} {version} came to {} since; look again what stands there",
            new.app, new.environment
        ))),
    }
}

/// Refuses a version that is not what stands on `environment`: the newest deployment there that was not taken back must be of it, and done. One that had
/// begun already is not looked at again.
async fn refuse_other(tx: &mut Connection, new: &NewDeployment, environment: &str) -> Result<(), StoreError> {
    let mut query = Query::new("SELECT id FROM deployments WHERE unique_key = ");
    query.push_bind(new.key.clone());
    let begun: Option<i64> = query.fetch_optional(&mut *tx).await?;
    if begun.is_some() {
        return Ok(());
    }
    let mut query = Query::new(SELECT);
    query.push(" WHERE app = ").push_bind(new.app.clone());
    query.push(" AND environment = ").push_bind(environment.to_owned());
    query.push(" ORDER BY id DESC LIMIT 200");
    let rows: Vec<Row> = query.fetch_all(&mut *tx).await?;
    let past: Vec<Deployment> =
        rows.into_iter().map(|row| read(row).map(|stored| stored.deployment)).collect::<Result<_, _>>()?;
    let there = past.iter().find(|one| one.status != DeploymentStatus::Restored);
    let is = |one: &Deployment| one.version == new.version && one.status == DeploymentStatus::Done;
    if there.is_some_and(is) {
        return Ok(());
    }
    let now = match there {
        None => "nothing stands there".to_owned(),
        Some(one) => {
            let (id, version) = (one.id, &one.version);
            match one.status {
                DeploymentStatus::Done => format!("{version} stands there now (deployment {id})"),
                DeploymentStatus::Rolling => format!("deployment {id} brings {version} there just now"),
                _ => format!("deployment {id} of {version} failed there"),
            }
        }
    };
    let own =
        past.iter().find(|one| one.version == new.version && Some(one.id) != there.map(|there| there.id));
    let own = match own {
        None => String::new(),
        Some(one) if one.status == DeploymentStatus::Restored => {
            format!("; deployment {} of {} was taken back", one.id, one.version)
        }
        Some(one) => format!("; deployment {} of {} was before that", one.id, one.version),
    };
    Err(StoreError::Conflict(format!(
        "{} {} is not what stands on {environment}: {now}{own}; nothing was touched. Bring it to {environment} first, or deploy what is there",
        new.app, new.version
    )))
}

const SELECT: &str = "SELECT id, app, environment, version, previous, run, status, started_at, finished_at, hosts, done_at, restored_at, unique_key FROM deployments";

type Row = (
    i64,
    String,
    String,
    String,
    Option<String>,
    Option<i64>,
    String,
    i64,
    Option<i64>,
    String,
    Option<i64>,
    Option<i64>,
    String,
);

fn read(
    (
        id,
        app,
        environment,
        version,
        previous,
        run,
        status,
        started_at,
        finished_at,
        hosts,
        done_at,
        restored_at,
        key,
    ): Row,
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
        done_at: done_at.map(Timestamp),
        restored_at: restored_at.map(Timestamp),
    };
    Ok(StoredDeployment { deployment, step: step_of(&key), hosts: json::read(&what, &hosts)? })
}

/// The step in `RUN/STEP/VISIT`.
fn step_of(key: &str) -> Option<String> {
    let (_, rest) = key.split_once('/')?;
    let (step, _) = rest.rsplit_once('/')?;
    Some(step.to_owned())
}

/// The text with what `LIKE` would take for more than itself made plain.
fn like(text: &str) -> String {
    text.replace('!', "!!").replace('%', "!%").replace('_', "!_")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Span;
    use crate::store::testing::{NOW, fresh, on_both};

    on_both!(
        the_same_key_gets_the_same_record_and_previous_is_what_was_done_last,
        a_deployment_ends_when_it_last_became_done_or_failed,
        deployments_are_found_by_host_status_and_time,
        a_run_is_known_by_what_began_the_run_at_the_top,
    );

    fn new(key: &str, version: &str) -> NewDeployment {
        NewDeployment {
            key: key.to_owned(),
            app: "hello".to_owned(),
            environment: "production".to_owned(),
            version: version.to_owned(),
            run: Some(RunId(4)),
            after: None,
            as_on: None,
        }
    }

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
        assert_eq!(all[1].deployment.restored_at, Some(NOW.plus(Span(9))));
        assert_eq!((all[0].deployment.restored_at, all[0].step.as_deref()), (None, Some("deploy")));
        assert_eq!(store.deployment(third.id).await.unwrap().unwrap().deployment, third);
        let newest = async |which| -> Vec<i64> {
            let found = store.newest_deployments(Some("hello"), which).await.unwrap();
            found.iter().map(|one| one.deployment.id).collect()
        };
        assert_eq!(newest(Newest::Done).await, [first.deployment.id]);
        assert_eq!(newest(Newest::NotTakenBack).await, [third.id]);
        let missing = store.update_deployment(99, DeploymentStatus::Done, &json!([]), NOW).await;
        assert_eq!(missing, Err(StoreError::Missing("deployment 99".to_owned())));
    }

    async fn a_deployment_ends_when_it_last_became_done_or_failed() {
        use DeploymentStatus::{Done, Failed, Restored, Rolling};
        let (_folder, store) = fresh().await;
        let after = async |key: &str, steps: &[(DeploymentStatus, u64)]| {
            let id = store.begin_deployment(new(key, "1.0"), NOW).await.unwrap().deployment.id;
            for (status, at) in steps {
                store.update_deployment(id, *status, &json!([]), NOW.plus(Span(*at))).await.unwrap();
            }
            let found = store.deployment(id).await.unwrap().unwrap().deployment;
            let times = [found.finished_at, found.done_at, found.restored_at];
            (times.map(|at| at.map(|at| at.since(NOW).0)), found.was_whole())
        };
        let again = [(Failed, 1), (Rolling, 2), (Done, 3), (Done, 4), (Restored, 5), (Restored, 6)];
        assert_eq!(after("1/a/1", &again[..1]).await, ([Some(1), None, None], false));
        assert_eq!(after("2/a/1", &again[..2]).await, ([None, None, None], false));
        assert_eq!(after("3/a/1", &again[..3]).await, ([Some(3), Some(3), None], true));
        assert_eq!(after("4/a/1", &again[..4]).await, ([Some(3), Some(3), None], true));
        assert_eq!(after("5/a/1", &again).await, ([Some(3), Some(3), Some(5)], true));
        // Without a host touched in between, too.
        assert_eq!(after("6/a/1", &[(Failed, 1), (Done, 3)]).await, ([Some(3), Some(3), None], true));
        assert_eq!(after("7/a/1", &[(Failed, 1), (Failed, 3)]).await, ([Some(1), None, None], false));
        // Stopped half way, or killed, and taken back: it never was done.
        assert_eq!(after("8/a/1", &[(Failed, 1), (Restored, 3)]).await, ([Some(1), None, Some(3)], false));
        assert_eq!(after("9/a/1", &[(Rolling, 1), (Restored, 3)]).await, ([Some(3), None, Some(3)], false));
        // Done, tried again, and failed: what counts is how it ended.
        let worse = [(Done, 1), (Rolling, 2), (Failed, 3), (Restored, 4)];
        assert_eq!(after("10/a/1", &worse).await, ([Some(3), None, Some(4)], false));
        // A way back is at work on it for a while.
        let back = [(Done, 1), (Rolling, 2), (Restored, 3)];
        assert_eq!(after("12/a/1", &back).await, ([Some(1), Some(1), Some(3)], true));
        // Done by a server that did not store when.
        assert_eq!(after("11/a/1", &[(Done, 1)]).await.0[1], Some(1));
        store.execute("UPDATE deployments SET done_at = NULL WHERE unique_key = '11/a/1'").await.unwrap();
        assert_eq!(after("11/a/1", &[(Restored, 2)]).await, ([Some(1), Some(1), Some(2)], true));
    }

    async fn deployments_are_found_by_host_status_and_time() {
        let (_folder, store) = fresh().await;
        let put = async |key: &str, version: &str, hosts: Value, status, at: u64| {
            let at = NOW.plus(Span(at));
            let id = store.begin_deployment(new(key, version), at).await.unwrap().deployment.id;
            store.update_deployment(id, status, &hosts, at).await.unwrap();
        };
        put(
            "1/a/b/1",
            "1.0",
            json!([{"name": "h%1", "ok": true}, {"name": "h_2"}]),
            DeploymentStatus::Done,
            1,
        )
        .await;
        put("2/roll/1", "2.0", json!([{"name": "hx1"}, {"name": "a\"b"}]), DeploymentStatus::Failed, 2).await;
        let found = async |filter: DeploymentFilter| -> Vec<String> {
            let found = store.deployments(&DeploymentFilter { limit: 9, ..filter }).await.unwrap();
            found.into_iter().map(|one| one.deployment.version).collect()
        };
        let of_host =
            |host: &str| DeploymentFilter { host: Some(host.to_owned()), ..DeploymentFilter::default() };
        assert_eq!(found(of_host("h%1")).await, ["1.0"]);
        assert_eq!(found(of_host("h_2")).await, ["1.0"]);
        assert_eq!(found(of_host("a\"b")).await, ["2.0"]);
        assert!(found(of_host("h1")).await.is_empty());
        let failed =
            DeploymentFilter { status: Some(DeploymentStatus::Failed), ..DeploymentFilter::default() };
        assert_eq!(found(failed).await, ["2.0"]);
        let late = DeploymentFilter { since: Some(NOW.plus(Span(2))), ..DeploymentFilter::default() };
        assert_eq!(found(late).await, ["2.0"]);
        let recent = store.recent_deployments(Some("hello"), 1).await.unwrap();
        assert_eq!((recent.len(), recent[0].deployment.version.as_str()), (1, "2.0"));
        assert_eq!(store.recent_deployments(None, 9).await.unwrap()[1].step.as_deref(), Some("a/b"));
    }

    async fn a_run_is_known_by_what_began_the_run_at_the_top() {
        let (_folder, store) = fresh().await;
        let event = crate::store::testing::event("github.push", None);
        let event = store.add_events(vec![event], NOW).await.unwrap()[0].id;
        let mut top = crate::store::testing::new_run();
        (top.run.event, top.run.rule) = (Some(event), Some("site.ci".to_owned()));
        let top = store.insert_run(top, None, NOW.plus(Span(5))).await.unwrap().id;
        let mut child = crate::store::testing::new_run();
        child.run.workflow = "deploy.rollback".to_owned();
        child.run.parent = Some(crate::model::run::Parent { run: top, step: "s".to_owned(), visit: 1 });
        let child = store.insert_run(child, None, NOW.plus(Span(9))).await.unwrap().id;
        let found = store.origins(&[top, child, RunId(99)]).await.unwrap();
        assert_eq!(found.len(), 2);
        let of_child = &found[&child];
        assert_eq!((of_child.workflow.as_str(), of_child.event), ("deploy.rollback", Some(event)));
        assert_eq!((of_child.rule.as_deref(), of_child.received_at), (Some("site.ci"), Some(NOW)));
        assert_eq!(of_child.created_at, found[&top].created_at);
    }

    #[tokio::test]
    async fn only_what_stands_on_the_canaries_is_promoted() {
        let (_folder, store) = fresh().await;
        let canary = async |key: &str, version: &str, status: DeploymentStatus| {
            let on = NewDeployment { environment: "canary".to_owned(), ..new(key, version) };
            let id = store.begin_deployment(on, NOW).await.unwrap().deployment.id;
            store.update_deployment(id, status, &json!([]), NOW).await.unwrap();
            id
        };
        let promote = async |key: &str, version: &str| {
            let promoted = NewDeployment { as_on: Some("canary".to_owned()), ..new(key, version) };
            match store.begin_deployment(promoted, NOW).await {
                Ok(_) => String::new(),
                Err(StoreError::Conflict(why)) => why,
                Err(other) => panic!("{other}"),
            }
        };
        assert!(promote("p0", "1.0").await.contains("nothing stands there"));
        canary("c1", "1.0", DeploymentStatus::Done).await;
        assert_eq!(promote("p1", "1.0").await, "");
        assert!(promote("p2", "0.9").await.contains("1.0 stands there now (deployment 1)"));
        let second = canary("c2", "2.0", DeploymentStatus::Rolling).await;
        assert!(promote("p3", "2.0").await.contains("brings 2.0 there just now"));
        assert_eq!(promote("p1", "1.0").await, "", "one that had begun goes on");
        store.update_deployment(second, DeploymentStatus::Failed, &json!([]), NOW).await.unwrap();
        assert!(promote("p3", "2.0").await.contains("of 2.0 failed there"));
        store.update_deployment(second, DeploymentStatus::Restored, &json!([]), NOW).await.unwrap();
        let why = promote("p3", "2.0").await;
        assert!(why.contains("1.0 stands there now") && why.contains("of 2.0 was taken back"), "{why}");
        assert_eq!(promote("p4", "1.0").await, "", "it is back on the canaries");
        canary("c3", "3.0", DeploymentStatus::Done).await;
        let why = promote("p5", "1.0").await;
        assert!(why.contains("3.0 stands there now") && why.contains("of 1.0 was before that"), "{why}");
    }

    #[tokio::test]
    async fn a_deployment_that_others_overtook_does_not_begin() {
        let (_folder, store) = fresh().await;
        let first = store.begin_deployment(new("1/deploy/1", "1.0"), NOW).await.unwrap().deployment;
        let back = NewDeployment { after: Some(first.id), ..new("3/roll/1", "0.9") };
        let begun = store.begin_deployment(back.clone(), NOW).await.unwrap().deployment;
        // Begun again after a crash, it is the same one, and not overtaken by itself.
        assert_eq!(store.begin_deployment(back, NOW).await.unwrap().deployment, begun);
        let late = NewDeployment { after: Some(first.id), ..new("4/roll/1", "0.9") };
        let refused = store.begin_deployment(late, NOW).await.unwrap_err();
        assert!(
            matches!(&refused, StoreError::Conflict(why) if why.starts_with("deployment 2 of hello 0.9"))
        );
        assert_eq!(store.count("SELECT count(*) FROM deployments").await, 2);
    }
}
