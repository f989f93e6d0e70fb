//! The server, as an agent sees it: its keys, the deployments that it knows, and who is told how a host stands.

use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde_json::json;

use super::decide::Roll;
use super::state::{Report, Status};
use crate::definitions::agent;
use crate::http_client;
use crate::model::Value;
use crate::model::release::{Deployment, DeploymentStatus};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Deployments that are looked through for the version that is advertised.
const LOOKED_THROUGH: usize = 50;

/// A way to the server.
pub(super) struct Server {
    http: reqwest::Client,
    url: Url,
    token: HeaderValue,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Server").field(&self.shown()).finish()
    }
}

/// What a file holds, without the newline at its end.
///
/// # Errors
/// It can't be read, or is empty.
pub(super) fn secret_in(path: &str) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{path} can't be read"))?;
    let text = text.trim().to_owned();
    anyhow::ensure!(!text.is_empty(), "{path} is empty; it must hold a token or a password");
    Ok(text)
}

impl Server {
    /// # Errors
    /// The token or the certificate can't be read, the address is none.
    pub(super) fn new(said: &agent::Server) -> anyhow::Result<Server> {
        let token = secret_in(&said.token_file)?;
        let mut token = HeaderValue::try_from(format!("Bearer {token}"))
            .with_context(|| format!("{} holds what no token holds", said.token_file))?;
        token.set_sensitive(true);
        let url = Url::parse(&said.url).with_context(|| format!("`{}` is no address", said.url))?;
        let mut builder =
            http_client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
        if let Some(path) = &said.ca {
            let pem = std::fs::read(path).with_context(|| format!("{path} can't be read"))?;
            let trusted = reqwest::Certificate::from_pem_bundle(&pem)
                .with_context(|| format!("{path} is no certificate in PEM"))?;
            builder = builder.tls_certs_only(trusted);
        }
        let http = builder.build().context("TLS can't be set up")?;
        Ok(Server { http, url, token })
    }

    pub(super) fn shown(&self) -> String {
        http_client::host_of(self.url.as_str())
    }

    /// What a key holds, as text.
    pub(super) async fn key(&self, key: &str) -> Result<Option<String>, String> {
        let path: Vec<&str> = ["kv"].into_iter().chain(key.split('/')).collect();
        let found = self.ask(Method::GET, &path, &[], None).await?;
        let value = found.as_ref().and_then(|entry| entry.get("value"));
        Ok(match value {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            Some(other) => Some(other.to_string()),
        })
    }

    /// What it knows of a version in an environment.
    pub(super) async fn roll(&self, app: &str, environment: &str, version: &str) -> Result<Roll, String> {
        let limit = LOOKED_THROUGH.to_string();
        let query = [("app", app), ("environment", environment), ("limit", limit.as_str())];
        let found = self.ask(Method::GET, &["deployments"], &query, None).await?;
        let items = found.and_then(|page| page.get("items").cloned()).unwrap_or_default();
        let deployments = serde_json::from_value::<Vec<Deployment>>(items);
        let deployments =
            deployments.map_err(|error| format!("{} lists deployments otherwise: {error}", self.shown()))?;
        Ok(roll_of(&deployments, version))
    }

    /// Keeps how a host stands, where `siskin why` finds it.
    pub(super) async fn keep(&self, report: &Report) -> Result<(), String> {
        let path = ["kv", "agents", &report.app, &report.environment, &report.host];
        self.ask(Method::PUT, &path, &[], Some(&json!({"value": report}))).await.map(drop)
    }

    /// Tells of it as an event, once however often it is told.
    pub(super) async fn tell(&self, report: &Report) -> Result<(), String> {
        let trigger = match report.status {
            Status::Converged => "deploy.converged",
            Status::Refused => "deploy.refused",
            Status::Failed => "deploy.host_failed",
            Status::Behind => return Ok(()),
        };
        let dedup = format!(
            "agent/{}/{}/{}/{}/{}",
            report.app, report.environment, report.host, report.status, report.since
        );
        let body = json!({"trigger": trigger, "payload": report, "dedup": dedup});
        self.ask(Method::POST, &["events"], &[], Some(&body)).await.map(drop)
    }

    /// The answer; none when there is nothing of that name.
    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Option<Value>, String> {
        let shown = self.shown();
        let is_get = method == Method::GET;
        let mut url = self.url.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        url.query_pairs_mut().extend_pairs(query);
        let mut request = self.http.request(method, url).header(AUTHORIZATION, self.token.clone());
        if let Some(body) = body {
            request = request.json(body);
        }
        let away = |error: reqwest::Error| format!("{shown} does not answer: {}", http_client::why(&error));
        let answer = request.send().await.map_err(away)?;
        let status = answer.status();
        let text = answer.text().await.map_err(away)?;
        let said: Option<Value> = serde_json::from_str(&text).ok();
        // A proxy without its server, or a wrong path in `url`, answers so too; only the server itself says it as a problem.
        let is_its_own = said.as_ref().is_some_and(|said| said.get("status") == Some(&json!(404)));
        match status {
            StatusCode::NOT_FOUND if is_get && is_its_own => Ok(None),
            StatusCode::NOT_FOUND => {
                Err(format!("{shown} is no Siskin server, or its address has a wrong path: it answers 404"))
            }
            status if status.is_success() && said.is_none() && (is_get || !text.trim().is_empty()) => Err(
                format!("{shown} is no Siskin server: it answers {status} with something that is no JSON"),
            ),
            status if status.is_success() => Ok(said),
            StatusCode::UNAUTHORIZED => Err(format!("{shown} does not know our token (`token_file`)")),
            status => {
                let detail = said.as_ref().and_then(|problem| problem.get("detail")).and_then(Value::as_str);
                Err(format!("{shown} answered {status}: {}", detail.unwrap_or("nothing more")))
            }
        }
    }
}

/// What deployments, newest first, say of a version that is advertised.
fn roll_of(deployments: &[Deployment], version: &str) -> Roll {
    let Some(newest) = deployments.first() else { return Roll::None { since: None } };
    if newest.status == DeploymentStatus::Rolling {
        return Roll::AtWork { deployment: newest.id, since: newest.started_at };
    }
    let of_version = deployments.iter().find(|deployment| deployment.version == version);
    let failed = of_version.filter(|deployment| {
        deployment.status == DeploymentStatus::Failed && deployment.previous.as_deref() != Some(version)
    });
    if let Some(failed) = failed {
        return Roll::Failed { deployment: failed.id, since: ended(failed) };
    }
    let was_taken_back = matches!(newest.status, DeploymentStatus::Restored | DeploymentStatus::Failed);
    let since = match was_taken_back {
        true => Some(ended(newest)),
        // What somebody advertised by hand since is not the newest.
        false => of_version.filter(|deployment| deployment.id == newest.id).map(|it| it.started_at),
    };
    Roll::None { since }
}

fn ended(deployment: &Deployment) -> crate::model::Timestamp {
    deployment.restored_at.or(deployment.finished_at).unwrap_or(deployment.started_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    fn deployment(id: i64, version: &str, status: DeploymentStatus, previous: Option<&str>) -> Deployment {
        Deployment {
            id,
            app: "shop".into(),
            environment: "production".into(),
            version: version.into(),
            previous: previous.map(str::to_owned),
            run: None,
            status,
            started_at: Timestamp(id * 100),
            finished_at: Some(Timestamp(id * 100 + 50)),
            done_at: None,
            restored_at: None,
        }
    }

    #[test]
    fn deployments_say_whether_a_version_is_meant_to_be_here() {
        use DeploymentStatus::{Done, Failed, Restored, Rolling};
        let one = deployment(1, "1.0", Done, None);
        let two = |status| deployment(2, "2.0", status, Some("1.0"));
        let over = |since: i64| Roll::None { since: Some(Timestamp(since)) };
        assert_eq!(roll_of(&[two(Done), one.clone()], "2.0"), over(200));
        let at_work = Roll::AtWork { deployment: 2, since: Timestamp(200) };
        assert_eq!(roll_of(&[two(Rolling), one.clone()], "2.0"), at_work);
        assert_eq!(roll_of(&[two(Rolling), one.clone()], "1.0"), at_work);
        assert_eq!(
            roll_of(&[two(Failed), one.clone()], "2.0"),
            Roll::Failed { deployment: 2, since: Timestamp(250) }
        );
        assert_eq!(roll_of(&[two(Failed), one.clone()], "1.0"), over(250));
        assert_eq!(roll_of(&[two(Restored)], "1.0"), over(250));
        let again = deployment(3, "1.0", Failed, Some("1.0"));
        assert_eq!(roll_of(&[again], "1.0"), over(350));
        assert_eq!(roll_of(&[one], "3.0"), Roll::None { since: None });
        assert_eq!(roll_of(&[], "1.0"), Roll::None { since: None });
    }
}
