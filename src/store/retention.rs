//! Lets go of what is over for long: events, logs, audit rows, runs with all that belongs to them, deployments beyond the last ones.
//!
//! Promises: a bite of rows a transaction, so that nobody waits long behind it; an open run keeps all it has; a run stays as long as a deployment that is
//! kept names it, or an open run that runs it again or rolls it back. What is looked at is found by the order of ids, so a look costs what
//! it lets go of, however much is kept.

use super::db::{Connection, Query, sql};
use super::{Store, StoreError, bounded};
use crate::model::Timestamp;

/// How many runs are looked at in one go: each may have thousands of rows.
const RUNS_AT_ONCE: u32 = 100;
/// How many deployments of an app are kept on each environment, however old.
const DEPLOYMENTS: i64 = 50;

/// What one look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub gone: u64,
    /// Where to look next; `None`: what comes is younger.
    pub next: Option<i64>,
}

/// What is looked at: an id, when it was, and whether it must stay whatever its age.
type Found = (i64, i64, i64);

impl Store {
    /// Lets go of events from before `before`, with their matches. Those that are not routed yet, or that began an open run, stay.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget_events(&self, after: i64, before: Timestamp, most: u32) -> Result<Left, StoreError> {
        let found: Vec<Found> =
            sql("SELECT id, received_at, CASE WHEN routed_at IS NULL
                 OR EXISTS (SELECT 1 FROM runs WHERE runs.event = events.id AND runs.open = 1) THEN 1 ELSE 0 END
             FROM events WHERE id > $1 ORDER BY id LIMIT $2")
            .bind(after)
            .bind(bounded(most))
            .fetch_all(self.readers())
            .await?;
        self.forget(found, before, "DELETE FROM events WHERE id IN (").await
    }

    /// Lets go of what attempts printed before `before`; that of open runs stays.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget_logs(&self, after: i64, before: Timestamp, most: u32) -> Result<Left, StoreError> {
        let found: Vec<Found> =
            sql("SELECT log_chunks.id, log_chunks.at, runs.open FROM log_chunks JOIN runs ON runs.id = log_chunks.run
             WHERE log_chunks.id > $1 ORDER BY log_chunks.id LIMIT $2")
            .bind(after)
            .bind(bounded(most))
            .fetch_all(self.readers())
            .await?;
        self.forget(found, before, "DELETE FROM log_chunks WHERE id IN (").await
    }

    /// Lets go of the record of who did what before `before`.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget_audit(&self, after: i64, before: Timestamp, most: u32) -> Result<Left, StoreError> {
        let found: Vec<(i64, i64)> = sql("SELECT id, at FROM audit WHERE id > $1 ORDER BY id LIMIT $2")
            .bind(after)
            .bind(bounded(most))
            .fetch_all(self.readers())
            .await?;
        let found = found.into_iter().map(|(id, at)| (id, at, 0)).collect();
        self.forget(found, before, "DELETE FROM audit WHERE id IN (").await
    }

    async fn forget(
        &self,
        found: Vec<Found>,
        before: Timestamp,
        delete: &'static str,
    ) -> Result<Left, StoreError> {
        let next = found.last().filter(|(_, at, _)| *at < before.0).map(|(id, ..)| *id);
        let old: Vec<i64> = found
            .into_iter()
            .filter(|(_, at, stays)| *at < before.0 && *stays == 0)
            .map(|(id, ..)| id)
            .collect();
        if old.is_empty() {
            return Ok(Left { gone: 0, next });
        }
        let gone =
            self.write(move |tx| Box::pin(async move { delete_listed(tx, delete, &old).await })).await?;
        Ok(Left { gone, next })
    }

    /// Lets go of deployments from before `before`, but for the last ones of each environment and the one that stands.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget_deployments(&self, before: Timestamp, most: u32) -> Result<u64, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                sql("DELETE FROM deployments WHERE id IN (
                         SELECT id FROM (
                             SELECT id, started_at, status,
                                    row_number() OVER (PARTITION BY app, environment ORDER BY id DESC) AS place
                             FROM deployments
                         ) AS numbered
                         WHERE place > $1 AND started_at < $2 AND status <> 'rolling'
                             AND id NOT IN (SELECT max(id) FROM deployments WHERE status = 'done' GROUP BY app, environment)
                         LIMIT $3
                     )")
                .bind(DEPLOYMENTS)
                .bind(before.0)
                .bind(bounded(most))
                .execute(tx)
                .await
            })
        })
        .await
    }

    /// Lets go of runs that ended before `before`, each with its children and all that belongs to them, `most` rows a transaction. `gone` counts runs.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget_runs(&self, after: i64, before: Timestamp, most: u32) -> Result<Left, StoreError> {
        let found: Vec<(i64, i64, i64, Option<i64>)> =
            sql("SELECT id, created_at, open, finished_at FROM runs
             WHERE parent_run IS NULL AND id > $1 ORDER BY id LIMIT $2")
            .bind(after)
            .bind(i64::from(RUNS_AT_ONCE))
            .fetch_all(self.readers())
            .await?;
        // A run that began after that has not ended before it.
        let next = found.last().filter(|(_, created_at, ..)| *created_at < before.0).map(|(id, ..)| *id);
        let mut gone = 0;
        for (id, _, open, finished_at) in found {
            if open == 0 && finished_at.is_some_and(|at| at < before.0) {
                gone += self.forget_family(id, most).await?;
            }
        }
        Ok(Left { gone, next })
    }

    /// Lets go of an ended run and those that worked for it, unless something that is kept names one of them.
    async fn forget_family(&self, id: i64, most: u32) -> Result<u64, StoreError> {
        let family: Vec<(i64, i64)> = sql("WITH RECURSIVE family (id, open) AS (
                 SELECT id, open FROM runs WHERE id = $1
                 UNION ALL
                 SELECT runs.id, runs.open FROM runs JOIN family ON runs.parent_run = family.id
             )
             SELECT id, open FROM family ORDER BY id DESC")
        .bind(id)
        .fetch_all(self.readers())
        .await?;
        if family.iter().any(|(_, open)| *open != 0) {
            return Ok(0);
        }
        let ids: Vec<i64> = family.into_iter().map(|(id, _)| id).collect();
        if self.are_named(&ids).await? {
            return Ok(0);
        }
        // Children first: what is cut off half way through is found again by its parent.
        for id in &ids {
            self.forget_run(*id, most).await?;
        }
        Ok(ids.len() as u64)
    }

    async fn are_named(&self, ids: &[i64]) -> Result<bool, StoreError> {
        for ids in ids.chunks(500) {
            for text in [
                "SELECT id FROM deployments WHERE run IN (",
                "SELECT id FROM runs WHERE open = 1 AND rerun_of IN (",
                "SELECT id FROM runs WHERE open = 1 AND rollback_of IN (",
            ] {
                let mut query = Query::new(text);
                query.push_list(ids.iter().copied()).push(") LIMIT 1");
                let named: Option<i64> = query.fetch_optional(self.readers()).await?;
                if named.is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn forget_run(&self, id: i64, most: u32) -> Result<(), StoreError> {
        for text in [
            "DELETE FROM log_chunks WHERE id IN (SELECT id FROM log_chunks WHERE run = $1 ORDER BY id LIMIT $2)",
            "DELETE FROM history WHERE id IN (SELECT id FROM history WHERE run = $1 ORDER BY id LIMIT $2)",
            "DELETE FROM items WHERE (run, step, visit, item) IN (SELECT run, step, visit, item FROM items WHERE run = $1 LIMIT $2)",
            "DELETE FROM run_values WHERE (run, name) IN (SELECT run, name FROM run_values WHERE run = $1 LIMIT $2)",
            "DELETE FROM artefact_uses WHERE (hash, run) IN (SELECT hash, run FROM artefact_uses WHERE run = $1 LIMIT $2)",
        ] {
            let most = bounded(most);
            while self
                .write(move |tx| Box::pin(async move { sql(text).bind(id).bind(most).execute(tx).await }))
                .await?
                >= most.unsigned_abs()
            {}
        }
        self.write(move |tx| {
            Box::pin(async move {
                sql("DELETE FROM runs WHERE id = $1 AND open = 0").bind(id).execute(tx).await.map(drop)
            })
        })
        .await
    }

    /// Lets go of idempotency keys whose runs have gone. Looks at a page of keys, those after `after`; gives the last of a full page.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget_idempotency(&self, after: &str, most: u32) -> Result<Option<String>, StoreError> {
        let after = if after.is_empty() { "idempotency/" } else { after };
        let page: Vec<(String, String)> =
            sql("SELECT key, value FROM meta WHERE key > $1 AND key < 'idempotency0' ORDER BY key LIMIT $2")
                .bind(after)
                .bind(bounded(most))
                .fetch_all(self.readers())
                .await?;
        let last = page.last().filter(|_| page.len() as i64 >= bounded(most)).map(|(key, _)| key.clone());
        let ids: Vec<i64> = page.iter().filter_map(|(_, run)| run.parse().ok()).collect();
        if ids.is_empty() {
            return Ok(last);
        }
        let mut query = Query::new("SELECT id FROM runs WHERE id IN (");
        query.push_list(ids).push(")");
        let there: Vec<i64> = query.fetch_all(self.readers()).await?;
        let gone =
            page.into_iter().filter(|(_, run)| run.parse().is_ok_and(|run: i64| !there.contains(&run)));
        let gone: Vec<String> = gone.map(|(key, _)| key).collect();
        if !gone.is_empty() {
            self.write(move |tx| {
                Box::pin(async move {
                    let mut query = Query::new("DELETE FROM meta WHERE key IN (");
                    query.push_list(gone).push(")");
                    query.execute(tx).await.map(drop)
                })
            })
            .await?;
        }
        Ok(last)
    }

    /// Lets go of tokens that were revoked before `before`.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn forget_tokens(&self, before: Timestamp, most: u32) -> Result<u64, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                sql("DELETE FROM tokens WHERE id IN (
                         SELECT id FROM tokens WHERE revoked_at IS NOT NULL AND revoked_at < $1 ORDER BY id LIMIT $2
                     )")
                .bind(before.0)
                .bind(bounded(most))
                .execute(tx)
                .await
            })
        })
        .await
    }

    /// The runs that are stored, the oldest first, for tests of what goes.
    #[cfg(test)]
    async fn run_ids(&self) -> Vec<crate::model::RunId> {
        let ids: Vec<i64> =
            sql("SELECT id FROM runs ORDER BY id").fetch_all(self.readers()).await.unwrap_or_default();
        ids.into_iter().map(crate::model::RunId).collect()
    }
}

async fn delete_listed(tx: &mut Connection, delete: &'static str, ids: &[i64]) -> Result<u64, StoreError> {
    let mut query = Query::new(delete);
    query.push_list(ids.iter().copied()).push(")");
    query.execute(tx).await
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::release::DeploymentStatus;
    use crate::model::run::Parent;
    use crate::model::{RunStatus, Span};
    use crate::store::testing::{NOW, audit, event, fresh, new_run, on_both};
    use crate::store::{LogChunk, NewDeployment, NewRun};

    on_both!(
        an_ended_run_goes_with_its_children_and_all_that_belongs_to_them,
        a_run_stays_while_a_deployment_or_an_open_run_names_it,
        of_deployments_the_last_ones_and_the_one_that_stands_are_kept,
        events_logs_and_audit_go_bite_by_bite_but_for_what_is_open,
    );

    const LATER: Timestamp = Timestamp(NOW.0 + 100 * 86_400_000);

    fn ended() -> NewRun {
        let mut new = new_run();
        new.run.status = RunStatus::Succeeded;
        new.run.created_at = NOW;
        new.run.finished_at = Some(NOW);
        new
    }

    async fn all_runs(store: &Store, before: Timestamp) -> u64 {
        let (mut after, mut gone) = (0, 0);
        loop {
            let left = store.forget_runs(after, before, 2).await.unwrap();
            gone += left.gone;
            match left.next {
                Some(next) => after = next,
                None => return gone,
            }
        }
    }

    async fn an_ended_run_goes_with_its_children_and_all_that_belongs_to_them() {
        let (_folder, store) = fresh().await;
        let run = store.insert_run_once(ended(), "key", None, NOW).await.unwrap().0.id;
        let mut child = ended();
        child.run.parent = Some(Parent { run, step: "a".to_owned(), visit: 1 });
        let child = store.insert_run(child, None, NOW).await.unwrap().id;
        let open = store.insert_run(new_run(), None, NOW).await.unwrap().id;
        let key = crate::store::testing::attempt(child, None, 1).key;
        let chunk =
            LogChunk { key, stream: crate::model::log::Stream::Stdout, at: NOW, bytes: b"x".to_vec() };
        store.append_log(vec![chunk.clone(), chunk.clone(), chunk]).await.unwrap();
        assert_eq!(all_runs(&store, NOW).await, 0);
        assert_eq!(all_runs(&store, LATER).await, 2);
        assert_eq!(store.run_ids().await, [open]);
        assert_eq!(store.count("SELECT count(*) FROM log_chunks").await, 0);
        assert_eq!(store.forget_idempotency("", 9).await.unwrap(), None);
        assert_eq!(store.count("SELECT count(*) FROM meta WHERE key LIKE 'idempotency/%'").await, 0);
    }

    async fn a_run_stays_while_a_deployment_or_an_open_run_names_it() {
        let (_folder, store) = fresh().await;
        let deployed = store.insert_run(ended(), None, NOW).await.unwrap().id;
        let new = NewDeployment {
            key: "1/a/1".to_owned(),
            app: "shop".to_owned(),
            environment: "production".to_owned(),
            version: "1".to_owned(),
            run: Some(deployed),
            after: None,
            as_on: None,
        };
        let record = store.begin_deployment(new, NOW).await.unwrap().deployment;
        store.update_deployment(record.id, DeploymentStatus::Done, &json!([]), NOW).await.unwrap();
        let again = store.insert_run(ended(), None, NOW).await.unwrap().id;
        let mut rerun = new_run();
        rerun.run.rerun_of = Some(again);
        let rerun = store.insert_run(rerun, None, NOW).await.unwrap().id;
        assert_eq!(all_runs(&store, LATER).await, 0);
        assert_eq!(store.run_ids().await, [deployed, again, rerun]);
        store.execute("UPDATE runs SET open = 0, finished_at = 5 WHERE id = 3").await.unwrap();
        store.execute("DELETE FROM deployments").await.unwrap();
        assert_eq!(all_runs(&store, LATER).await, 3);
    }

    async fn of_deployments_the_last_ones_and_the_one_that_stands_are_kept() {
        let (_folder, store) = fresh().await;
        for number in 0..60 {
            let new = NewDeployment {
                key: format!("{number}/a/1"),
                app: "shop".to_owned(),
                environment: "production".to_owned(),
                version: number.to_string(),
                run: None,
                after: None,
                as_on: None,
            };
            let id = store.begin_deployment(new, NOW).await.unwrap().deployment.id;
            let status = if number == 3 { DeploymentStatus::Done } else { DeploymentStatus::Failed };
            store.update_deployment(id, status, &json!([]), NOW).await.unwrap();
        }
        assert_eq!(store.forget_deployments(NOW, 500).await.unwrap(), 0);
        assert_eq!(store.forget_deployments(LATER, 500).await.unwrap(), 9);
        assert_eq!(store.count("SELECT count(*) FROM deployments WHERE id <= 10").await, 1);
    }

    async fn events_logs_and_audit_go_bite_by_bite_but_for_what_is_open() {
        let (_folder, store) = fresh().await;
        store.add_events((0..5).map(|_| event("a.b", None)).collect(), NOW).await.unwrap();
        store.execute("UPDATE events SET routed_at = 5 WHERE id <> 2").await.unwrap();
        let mut started = new_run();
        started.run.event = Some(crate::model::EventId(3));
        store.insert_run(started, None, NOW).await.unwrap();
        let first = store.forget_events(0, LATER, 3).await.unwrap();
        assert_eq!(first, Left { gone: 1, next: Some(3) });
        assert_eq!(store.forget_events(3, LATER, 3).await.unwrap(), Left { gone: 2, next: Some(5) });
        assert_eq!(store.forget_events(5, LATER, 3).await.unwrap(), Left { gone: 0, next: None });
        assert_eq!(store.count("SELECT count(*) FROM events").await, 2);
        store.add_audit(audit("a.b")).await.unwrap();
        assert_eq!(store.forget_audit(0, NOW, 9).await.unwrap().gone, 0);
        assert_eq!(store.forget_audit(0, NOW.plus(Span(1)), 9).await.unwrap().gone, 1);
    }
}
