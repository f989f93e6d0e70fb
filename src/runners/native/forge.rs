//! Packs `github`, `gitlab` and `gitea`: what a delivery says on the commit, the pull request and the release that it is about.
//!
//! | action | parameters | does, and gives |
//! | --- | --- | --- |
//! | `*.status` | `repository`, `commit`, `context`, `state`, `description`, `target_url` | the status of a commit; `{changed, state}` |
//! | `github.check` | `repository`, `commit`, `name`, `external_id`, `status`, `conclusion`, `title`, `summary`, `details_url` | a check run; `{changed, id}` |
//! | `github.comment`, `gitea.comment` | `repository`, `number`, `key`, `body` | a comment on an issue or pull request; `{changed, id, url}` |
//! | `github.pull_request`, `gitea.pull_request` | `repository`, `head`, `base`, `title`, `body` | an open pull request; `{changed, number, url}` |
//! | `github.release`, `gitea.release` | `repository`, `tag`, `name`, `body`, `commit`, `draft`, `prerelease` | a release; `{changed, id, url}` |
//! | `github.deployment` | `repository`, `commit`, `environment`, `key`, `state`, `description`, `log_url`, `environment_url` | a deployment with its state; `{changed, id}` |
//!
//! What GitLab has in another shape is in `gitlab.rs`. All take `url` and `token`, which the action files fill in from the pack's configuration and secret. Each says how things should be: it looks
//! first, and changes what is not so. An attempt that begins again finds what the one before did, by context, external id, key, branch or tag,
//! so nothing is there twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::{Method, StatusCode, Url};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::super::http;
use super::super::{Done, Failure, Job, optional_text, text_parameter};
use crate::model::{Object, Value};

const ANSWER_TIME: Duration = Duration::from_secs(30);
const BODY_BYTES: usize = 8_000_000;
/// How many entries a page has, and how many pages are looked through.
const PAGE: usize = 100;
const PAGES: usize = 10;
/// Before another look, where an answer was lost.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// A forge that wants to be asked later than that is not waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Github,
    Gitlab,
    Gitea,
}

/// A forge, as the owner of a token.
pub(super) struct Forge {
    kind: Kind,
    base: Url,
    token: Option<String>,
    cancel: CancellationToken,
    /// Something was changed, or may have been: its answer did not come.
    changed: AtomicBool,
    /// What went wrong may be over soon, or may have been done all the same: it is worth another look.
    uncertain: AtomicBool,
}

pub(super) async fn github_status(job: Job) -> Result<Done, Failure> {
    steadily(Kind::Github, &job, status).await
}

pub(super) async fn gitea_status(job: Job) -> Result<Done, Failure> {
    steadily(Kind::Gitea, &job, status).await
}

pub(super) async fn gitlab_status(job: Job) -> Result<Done, Failure> {
    steadily(Kind::Gitlab, &job, status).await
}

pub(super) async fn github_check(job: Job) -> Result<Done, Failure> {
    steadily(Kind::Github, &job, check).await
}

pub(super) async fn github_comment(job: Job) -> Result<Done, Failure> {
    steadily(Kind::Github, &job, comment).await
}

pub(super) async fn gitea_comment(job: Job) -> Result<Done, Failure> {
    steadily(Kind::Gitea, &job, comment).await
}

pub(super) async fn github_pull_request(job: Job) -> Result<Done, Failure> {
    steadily(Kind::Github, &job, pull_request).await
}

pub(super) async fn gitea_pull_request(job: Job) -> Result<Done, Failure> {
    steadily(Kind::Gitea, &job, pull_request).await
}

pub(super) async fn github_release(job: Job) -> Result<Done, Failure> {
    steadily(Kind::Github, &job, release).await
}

pub(super) async fn gitea_release(job: Job) -> Result<Done, Failure> {
    steadily(Kind::Gitea, &job, release).await
}

pub(super) async fn github_deployment(job: Job) -> Result<Done, Failure> {
    steadily(Kind::Github, &job, deployment).await
}

/// Does what looks first and changes what is not so; where an answer was lost, or somebody else was first, it looks again, so that what was done is found and
/// not done twice.
pub(super) async fn steadily(
    kind: Kind,
    job: &Job,
    act: impl AsyncFn(&Forge, &Job) -> Result<Done, Failure>,
) -> Result<Done, Failure> {
    let mut has_changed = false;
    for pause in [Some(PAUSES[0]), Some(PAUSES[1]), None] {
        let forge = Forge::read(kind, job)?;
        let result = act(&forge, job).await;
        has_changed |= forge.changed.load(Ordering::Relaxed);
        let failure = match result {
            Ok(mut done) => {
                if has_changed {
                    done.output["changed"] = Value::from(true);
                }
                return Ok(done);
            }
            Err(failure) => failure,
        };
        let Some(pause) = pause.filter(|_| forge.uncertain.load(Ordering::Relaxed)) else {
            return Err(failure);
        };
        job.note(&format!("{}; looking again in {} s", failure.error.message, pause.as_secs()));
        tokio::select! {
            () = tokio::time::sleep(pause) => (),
            () = job.cancel.cancelled() => return Err(Failure::cancelled()),
        }
    }
    Err(Failure::cancelled())
}

/// The words for the state of a commit: ours, and each forge's.
fn state_word(kind: Kind, state: &str) -> Result<&'static str, Failure> {
    let words = match state {
        "pending" => ["pending", "pending", "pending"],
        "running" => ["pending", "running", "pending"],
        "success" => ["success", "success", "success"],
        "failure" => ["failure", "failed", "failure"],
        "error" => ["error", "failed", "error"],
        "cancelled" => ["error", "canceled", "warning"],
        other => {
            let known = "pending running success failure error cancelled";
            return Err(Failure::new(format!("`state` is `{other}`; known are {known}")));
        }
    };
    Ok(match kind {
        Kind::Github => words[0],
        Kind::Gitlab => words[1],
        Kind::Gitea => words[2],
    })
}

async fn status(forge: &Forge, job: &Job) -> Result<Done, Failure> {
    let parameters = &job.parameters;
    let commit = commit(parameters)?;
    let context = text_parameter(parameters, "context")?;
    let state = state_word(forge.kind, text_parameter(parameters, "state")?)?;
    let description: String =
        optional_text(parameters, "description")?.unwrap_or_default().chars().take(140).collect();
    let target = whole_address(parameters, "target_url")?.unwrap_or_default();
    let project = forge.project(parameters)?;
    let (list, post, context_key, state_key) = match forge.kind {
        Kind::Gitlab => (
            format!("{project}/repository/commits/{commit}/statuses?name={}", escaped(context)),
            format!("{project}/statuses/{commit}"),
            "name",
            "status",
        ),
        Kind::Github => (
            format!("{project}/commits/{commit}/status?"),
            format!("{project}/statuses/{commit}"),
            "context",
            "state",
        ),
        Kind::Gitea => (
            format!("{project}/commits/{commit}/statuses?sort=recentupdate"),
            format!("{project}/statuses/{commit}"),
            "context",
            "status",
        ),
    };
    let of_context = |entry: &Value| entry.get(context_key).and_then(Value::as_str) == Some(context);
    // The newest comes first, in all of them.
    let last = forge.find(&list, Some("statuses"), of_context).await?;
    let is_so = last.as_ref().is_some_and(|last| {
        let text = |key: &str| last.get(key).and_then(Value::as_str).unwrap_or_default();
        text(state_key) == state && text("description") == description && text("target_url") == target
    });
    if is_so {
        return Ok(Done::with(json!({"changed": false, "state": state})));
    }
    let mut body = json!({"state": state, context_key: context, "description": description});
    if !target.is_empty() {
        body["target_url"] = Value::from(target);
    }
    match forge.send(Method::POST, &post, Some(&body)).await {
        Ok(_) => Ok(Done::with(json!({"changed": true, "state": state}))),
        // GitLab refuses the state that a job of that name has already.
        Err(Trouble { status: 400, reason, .. })
            if forge.kind == Kind::Gitlab && reason.contains("Cannot transition") =>
        {
            job.note(&format!("GitLab keeps the state that it has: {reason}"));
            Ok(Done::with(json!({"changed": false, "state": state})))
        }
        Err(trouble) => Err(trouble.into()),
    }
}

async fn check(forge: &Forge, job: &Job) -> Result<Done, Failure> {
    let parameters = &job.parameters;
    let project = forge.project(parameters)?;
    let commit = commit(parameters)?;
    let (name, external) = (text_parameter(parameters, "name")?, text_parameter(parameters, "external_id")?);
    let conclusion = optional_text(parameters, "conclusion")?;
    let status = optional_text(parameters, "status")?.unwrap_or(if conclusion.is_some() {
        "completed"
    } else {
        "in_progress"
    });
    let mut body = json!({"name": name, "head_sha": commit, "external_id": external, "status": status});
    if let Some(conclusion) = conclusion {
        body["conclusion"] = Value::from(conclusion);
    }
    if let Some(url) = whole_address(parameters, "details_url")? {
        body["details_url"] = Value::from(url);
    }
    if let Some(summary) = optional_text(parameters, "summary")? {
        let title = optional_text(parameters, "title")?.unwrap_or(name);
        body["output"] = json!({"title": title, "summary": summary});
    }
    let list = format!("{project}/commits/{commit}/check-runs?filter=all&check_name={}", escaped(name));
    let ours = |entry: &Value| entry.get("external_id").and_then(Value::as_str) == Some(external);
    let found = forge.find(&list, Some("check_runs"), ours).await?;
    forge.put(&format!("{project}/check-runs"), Method::PATCH, found, body).await
}

async fn comment(forge: &Forge, job: &Job) -> Result<Done, Failure> {
    let parameters = &job.parameters;
    let project = forge.project(parameters)?;
    let number = parameters.get("number").and_then(Value::as_u64).filter(|number| *number > 0);
    let number =
        number.ok_or_else(|| Failure::new("`number` must be the number of an issue or pull request"))?;
    let mark = mark(parameters, job)?;
    let body = json!({"body": format!("{}\n\n{mark}", text_parameter(parameters, "body")?)});
    let list = format!("{project}/issues/{number}/comments?");
    let ours =
        |entry: &Value| entry.get("body").and_then(Value::as_str).is_some_and(|text| text.contains(&mark));
    let found = forge.find(&list, None, ours).await?;
    match found.as_ref().and_then(|found| found.get("id")).and_then(Value::as_u64) {
        Some(id) => {
            let is_so = found.as_ref().and_then(|found| found.get("body")) == body.get("body");
            let path = format!("{project}/issues/comments/{id}");
            let now = match is_so {
                true => found.unwrap_or_default(),
                false => forge.send(Method::PATCH, &path, Some(&body)).await?,
            };
            Ok(Done::with(summary(!is_so, &now)))
        }
        None => {
            let path = format!("{project}/issues/{number}/comments");
            Ok(Done::with(summary(true, &forge.send(Method::POST, &path, Some(&body)).await?)))
        }
    }
}

/// What nobody sees and we find our comment by.
pub(super) fn mark(parameters: &Value, job: &Job) -> Result<String, Failure> {
    let key = match optional_text(parameters, "key")? {
        Some(key) => key.to_owned(),
        None => format!("run {} step {}", job.key.run, job.key.step),
    };
    if key.contains("--") || key.contains(['<', '>', '\n']) {
        return Err(Failure::new("`key` must be one line without `--`, `<` and `>`"));
    }
    Ok(format!("<!-- siskin: {key} -->"))
}

async fn pull_request(forge: &Forge, job: &Job) -> Result<Done, Failure> {
    let parameters = &job.parameters;
    let project = forge.project(parameters)?;
    let (head, base) = (text_parameter(parameters, "head")?, text_parameter(parameters, "base")?);
    let body = json!({
        "title": text_parameter(parameters, "title")?,
        "body": optional_text(parameters, "body")?.unwrap_or_default(),
        "head": head,
        "base": base,
    });
    let owner = text_parameter(parameters, "repository")?.split('/').next().unwrap_or_default();
    let of_owner = if head.contains(':') { head.to_owned() } else { format!("{owner}:{head}") };
    // Gitea has no such filter.
    let list = match forge.kind {
        Kind::Gitea => format!("{project}/pulls?state=open"),
        _ => format!("{project}/pulls?state=open&head={}&base={}", escaped(&of_owner), escaped(base)),
    };
    let branch = head.rsplit(':').next().unwrap_or(head);
    // Asked again: a forge that does not know the filter answers everything.
    let ours = |entry: &Value| {
        let text = |place: &str| entry.pointer(place).and_then(Value::as_str);
        text("/head/ref") == Some(branch) && text("/base/ref") == Some(base)
    };
    let found = forge.find(&list, None, ours).await?;
    let path = format!("{project}/pulls");
    let Some(found) = found else {
        return Ok(Done::with(summary(true, &forge.send(Method::POST, &path, Some(&body)).await?)));
    };
    let number = found.get("number").and_then(Value::as_u64).unwrap_or_default();
    let is_so = ["title", "body"].iter().all(|key| same_text(found.get(*key), body.get(*key)));
    let wanted = json!({"title": body["title"], "body": body["body"]});
    let now = match is_so {
        true => found,
        false => forge.send(Method::PATCH, &format!("{path}/{number}"), Some(&wanted)).await?,
    };
    Ok(Done::with(summary(!is_so, &now)))
}

async fn release(forge: &Forge, job: &Job) -> Result<Done, Failure> {
    let parameters = &job.parameters;
    let project = forge.project(parameters)?;
    let tag = text_parameter(parameters, "tag")?;
    let flag = |name: &str| parameters.get(name).and_then(Value::as_bool).unwrap_or(false);
    let mut body = json!({
        "tag_name": tag,
        "name": optional_text(parameters, "name")?.unwrap_or(tag),
        "body": optional_text(parameters, "body")?.unwrap_or_default(),
        "draft": flag("draft"),
        "prerelease": flag("prerelease"),
    });
    if let Some(commit) = optional_text(parameters, "commit")? {
        body["target_commitish"] = Value::from(commit);
    }
    // Drafts are not found by their tag, only in the list.
    let ours = |entry: &Value| entry.get("tag_name").and_then(Value::as_str) == Some(tag);
    let found = forge.find(&format!("{project}/releases?"), None, ours).await?;
    forge.put(&format!("{project}/releases"), Method::PATCH, found, body).await
}

async fn deployment(forge: &Forge, job: &Job) -> Result<Done, Failure> {
    let parameters = &job.parameters;
    // Before anything is made there.
    for name in ["log_url", "environment_url"] {
        whole_address(parameters, name)?;
    }
    let project = forge.project(parameters)?;
    let commit = commit(parameters)?;
    let environment = text_parameter(parameters, "environment")?;
    let key = match optional_text(parameters, "key")? {
        Some(key) => key.to_owned(),
        None => format!("run {} {environment}", job.key.run),
    };
    let list = format!("{project}/deployments?sha={commit}&environment={}", escaped(environment));
    let ours = |entry: &Value| entry.pointer("/payload/siskin").and_then(Value::as_str) == Some(&key);
    let (mut changed, found) = match forge.find(&list, None, ours).await? {
        Some(found) => (false, found),
        None => {
            let body = json!({
                "ref": commit, "environment": environment, "payload": {"siskin": key}, "auto_merge": false,
                // Siskin decides when; GitHub's own checks are not asked.
                "required_contexts": [], "description": optional_text(parameters, "description")?.unwrap_or_default(),
            });
            (true, forge.send(Method::POST, &format!("{project}/deployments"), Some(&body)).await?)
        }
    };
    let id = found
        .get("id")
        .and_then(Value::as_u64)
        .ok_or_else(|| Failure::new("the answer names no deployment"))?;
    if let Some(state) = optional_text(parameters, "state")? {
        let mut body = json!({"state": state, "auto_inactive": true});
        if let Some(text) = optional_text(parameters, "description")? {
            body["description"] = Value::from(text);
        }
        for name in ["log_url", "environment_url"] {
            if let Some(url) = whole_address(parameters, name)? {
                body[name] = Value::from(url);
            }
        }
        let path = format!("{project}/deployments/{id}/statuses");
        let last = forge.find(&format!("{path}?"), None, |_| true).await?;
        if last.as_ref().and_then(|last| last.get("state")).and_then(Value::as_str) != Some(state) {
            forge.send(Method::POST, &path, Some(&body)).await?;
            changed = true;
        }
    }
    Ok(Done::with(json!({"changed": changed, "id": id})))
}

/// Nothing and an empty text are the same to people.
pub(super) fn same_text(one: Option<&Value>, other: Option<&Value>) -> bool {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    text(one) == text(other)
}

pub(super) fn summary(changed: bool, entry: &Value) -> Value {
    let mut output = Object::new();
    output.insert("changed".to_owned(), Value::from(changed));
    for (name, key) in [("id", "id"), ("number", "number"), ("url", "html_url")] {
        if let Some(value) = entry.get(key).filter(|value| !value.is_null()) {
            output.insert(name.to_owned(), value.clone());
        }
    }
    Value::Object(output)
}

/// An address that people can follow from the forge: part of one, as Jenkins gives in `build.url`, leads nowhere there.
fn whole_address<'a>(parameters: &'a Value, name: &str) -> Result<Option<&'a str>, Failure> {
    let Some(text) = optional_text(parameters, name)?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
        true => Ok(Some(text)),
        false => Err(Failure::new(format!(
            "`{name}` must be a whole address, as https://HOST/PATH, and `{}` is none",
            text.escape_debug()
        ))),
    }
}

pub(super) fn commit(parameters: &Value) -> Result<&str, Failure> {
    let commit = text_parameter(parameters, "commit")?;
    match (7..=64).contains(&commit.len()) && commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(commit),
        false => Err(Failure::new(format!(
            "`commit` must be the hash of a commit, not `{}`",
            commit.escape_debug()
        ))),
    }
}

/// Why a request came to nothing.
pub(super) struct Trouble {
    status: u16,
    reason: String,
    /// It was refused since there were too many, and may be sent again then.
    again_after: Option<Duration>,
    /// What was to be made is there.
    already_there: bool,
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        Failure::new(trouble.reason)
    }
}

impl Forge {
    fn read(kind: Kind, job: &Job) -> Result<Forge, Failure> {
        let parameters = &job.parameters;
        let url = match (optional_text(parameters, "url")?, kind) {
            (Some(url), _) => url,
            (None, Kind::Github) => "https://api.github.com",
            (None, Kind::Gitlab) => "https://gitlab.com",
            (None, Kind::Gitea) => {
                return Err(Failure::new(
                    "the address of Gitea is not known; say it in siskin.yaml: `config: {gitea: {url: https://git.example.com}}`",
                ));
            }
        };
        let mut base = Url::parse(url).map_err(|error| Failure::new(format!("`url` is no URL: {error}")))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(Failure::new("`url` must be an http or https address"));
        }
        let below = match kind {
            Kind::Github => "",
            Kind::Gitlab => "api/v4/",
            Kind::Gitea => "api/v1/",
        };
        let path = format!("{}/{below}", base.path().trim_end_matches('/'));
        base.set_path(&path);
        let token = optional_text(parameters, "token")?.filter(|token| !token.is_empty()).map(str::to_owned);
        let flag = || AtomicBool::new(false);
        let cancel = job.cancel.clone();
        Ok(Forge { kind, base, token, cancel, changed: flag(), uncertain: flag() })
    }

    /// The path of the repository `owner/name`; GitLab has groups in groups.
    pub(super) fn project(&self, parameters: &Value) -> Result<String, Failure> {
        let name = text_parameter(parameters, "repository")?.trim_end_matches(".git").trim_matches('/');
        let parts: Vec<&str> = name.split('/').collect();
        let plain = |part: &&str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            !part.is_empty() && !matches!(*part, "." | "..") && part.bytes().all(allowed)
        };
        let fits =
            parts.iter().all(plain) && (parts.len() == 2 || (parts.len() > 2 && self.kind == Kind::Gitlab));
        if !fits {
            return Err(Failure::new(format!(
                "`repository` must be written as owner/name, not `{}`",
                name.escape_debug()
            )));
        }
        Ok(match self.kind {
            Kind::Gitlab => format!("projects/{}", parts.join("%2F")),
            Kind::Github | Kind::Gitea => format!("repos/{name}"),
        })
    }

    /// The first entry of a list, page by page, that is wanted. `within` is where GitHub puts some lists.
    pub(super) async fn find(
        &self,
        list: &str,
        within: Option<&str>,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Option<Value>, Failure> {
        let per_page = if self.kind == Kind::Gitea { "limit" } else { "per_page" };
        let joint = if list.ends_with('?') { "" } else { "&" };
        for page in 1..=PAGES {
            let path = format!("{list}{joint}{per_page}={PAGE}&page={page}");
            let answer = self.send(Method::GET, &path, None).await?;
            let list = within.and_then(|key| answer.get(key)).unwrap_or(&answer);
            let Value::Array(entries) = list else { return Ok(None) };
            if let Some(found) = entries.iter().find(|entry| wanted(entry)) {
                return Ok(Some(found.clone()));
            }
            // A forge may have smaller pages than it is asked for.
            if entries.is_empty() || (entries.len() < PAGE && self.kind != Kind::Gitea) {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Makes an entry, or changes the one that was found where it is not as it should be.
    async fn put(
        &self,
        path: &str,
        change: Method,
        found: Option<Value>,
        body: Value,
    ) -> Result<Done, Failure> {
        let Some(found) = found else {
            return Ok(Done::with(summary(true, &self.send(Method::POST, path, Some(&body)).await?)));
        };
        let id = found.get("id").and_then(Value::as_u64).unwrap_or_default();
        let empty = Object::new();
        let fields = body.as_object().unwrap_or(&empty).iter();
        let is_so = fields
            .filter(|(name, _)| *name != "head_sha" && *name != "target_commitish")
            .all(|(name, value)| contains(found.get(name), value));
        let now = match is_so {
            true => found,
            false => self.send(change, &format!("{path}/{id}"), Some(&body)).await?,
        };
        Ok(Done::with(summary(!is_so, &now)))
    }

    /// Sends a request. One that is refused since there were too many is sent again when the forge says so, if that is soon: it was not done.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Trouble> {
        let is_change = method != Method::GET;
        let mut patience = LONGEST_WAIT;
        let result = loop {
            let result = self.send_once(method.clone(), path, body).await;
            let wait = match &result {
                Err(Trouble { again_after: Some(wait), .. }) if *wait <= patience => *wait,
                _ => break result,
            };
            patience = patience.saturating_sub(wait.max(Duration::from_secs(1)));
            tokio::select! {
                () = tokio::time::sleep(wait) => (),
                () = self.cancel.cancelled() => break result,
            }
        };
        match &result {
            Ok(_) => self.changed.fetch_or(is_change, Ordering::Relaxed),
            Err(trouble) => {
                let is_lost = trouble.status == 0 || trouble.status >= 500;
                let is_there = is_change && trouble.already_there;
                self.changed.fetch_or(is_change && is_lost, Ordering::Relaxed);
                self.uncertain.fetch_or(is_lost || is_there, Ordering::Relaxed)
            }
        };
        result
    }

    async fn send_once(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Trouble> {
        let host = self.base.host_str().unwrap_or_default();
        let what = format!("{method} {host}");
        let trouble = |status: u16, reason: String| Trouble {
            status,
            reason: format!("{what}: {reason}"),
            again_after: None,
            already_there: false,
        };
        let url = self.base.join(path).map_err(|error| trouble(0, error.to_string()))?;
        let client = http::client(false).map_err(|failure| trouble(0, failure.error.message.clone()))?;
        let mut request = client.request(method.clone(), url).timeout(ANSWER_TIME);
        request = match (&self.token, self.kind) {
            (None, _) => request,
            (Some(token), Kind::Github) => request.bearer_auth(token),
            (Some(token), Kind::Gitlab) => request.header("PRIVATE-TOKEN", token),
            (Some(token), Kind::Gitea) => request.header("Authorization", format!("token {token}")),
        };
        if self.kind == Kind::Github {
            request = request
                .header("Accept", "application/vnd.github+json")
                .header("X-GitHub-Api-Version", "2022-11-28");
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(|error| trouble(0, http::reason(&error)))?;
        let status = response.status();
        let limit = rate_limit(&response);
        let again_after = again_after(&response);
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| trouble(0, http::reason(&error)))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > BODY_BYTES {
                return Err(trouble(0, "the answer is larger than 8 MB".to_owned()));
            }
        }
        if status.is_success() {
            return Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null));
        }
        let said = http::excerpt(&bytes);
        let secondary = said.to_ascii_lowercase().contains("secondary rate limit");
        let limit =
            limit.or_else(|| secondary.then(|| "again in a minute or later (a secondary limit)".to_owned()));
        let already_there = matches!(status.as_u16(), 409 | 422)
            && said.to_ascii_lowercase().replace('_', " ").contains("already exist");
        let reason = match status {
            StatusCode::UNAUTHORIZED => "401: the token is wrong or has expired".to_owned(),
            StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS if limit.is_some() => {
                format!("{status}: too many requests; {}", limit.unwrap_or_default())
            }
            StatusCode::FORBIDDEN => format!("403: the token may not do that: {said}"),
            StatusCode::NOT_FOUND => {
                "404: the repository or what is asked for in it is not there, or the token may not see it"
                    .to_owned()
            }
            other => format!("it answered {other}: {said}"),
        };
        let is_limited = matches!(status, StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS);
        let again_after = again_after.filter(|_| is_limited);
        Err(Trouble { again_after, already_there, ..trouble(status.as_u16(), reason) })
    }
}

/// In how long it may be asked again, if it says so.
fn again_after(response: &reqwest::Response) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// When it may be asked again, if that is why it refused.
fn rate_limit(response: &reqwest::Response) -> Option<String> {
    let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    if let Some(seconds) = text("retry-after") {
        return Some(format!("again in {seconds} s"));
    }
    let reset = text("x-ratelimit-reset").filter(|_| text("x-ratelimit-remaining") == Some("0"))?;
    let at = jiff::Timestamp::from_second(reset.parse().ok()?).ok()?;
    Some(format!("again at {at}"))
}

/// Whether what is there says all that is wanted; it may say more.
fn contains(there: Option<&Value>, wanted: &Value) -> bool {
    match (there, wanted) {
        (Some(Value::Object(there)), Value::Object(wanted)) => {
            wanted.iter().all(|(name, value)| contains(there.get(name), value))
        }
        (there, Value::String(text)) => there.and_then(Value::as_str).unwrap_or_default() == text,
        (there, wanted) => there == Some(wanted),
    }
}

/// A text in a query.
pub(super) fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => escaped.push(char::from(byte)),
            false => escaped.push_str(&format!("%{byte:02X}")),
        }
        escaped
    })
}
