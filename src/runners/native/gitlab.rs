//! What GitLab has in another shape than GitHub and Gitea: notes in place of comments, merge requests, releases by their tag, deployments that carry
//! their own state.
//!
//! | action | parameters | does, and gives |
//! | --- | --- | --- |
//! | `gitlab.comment` | `repository`, `number` or `commit`, `key`, `body` | a comment on a merge request or a commit; `{changed, id}` |
//! | `gitlab.merge_request` | `repository`, `source`, `target`, `title`, `body`, `remove_source` | an open merge request; `{changed, id, number, url}` |
//! | `gitlab.release` | `repository`, `tag`, `name`, `body`, `commit` | a release; `{changed, url}` |
//! | `gitlab.deployment` | `repository`, `commit`, `ref`, `environment`, `state` | a deployment with its state; `{changed, id}` |
//!
//! They look first and change what is not so, as all of `forge.rs` do.

use reqwest::Method;
use serde_json::json;

use super::super::{Done, Failure, Job, optional_text, text_parameter};
use super::forge::{Forge, Kind, commit, escaped, mark, same_text, steadily, summary};
use crate::model::Value;

pub(super) async fn comment(job: Job) -> Result<Done, Failure> {
    steadily(Kind::Gitlab, &job, comment_once).await
}

pub(super) async fn merge_request(job: Job) -> Result<Done, Failure> {
    steadily(Kind::Gitlab, &job, merge_request_once).await
}

pub(super) async fn release(job: Job) -> Result<Done, Failure> {
    steadily(Kind::Gitlab, &job, release_once).await
}

pub(super) async fn deployment(job: Job) -> Result<Done, Failure> {
    steadily(Kind::Gitlab, &job, deployment_once).await
}

fn text<'a>(entry: &'a Value, place: &str) -> &'a str {
    entry.pointer(place).and_then(Value::as_str).unwrap_or_default()
}

async fn comment_once(forge: &Forge, job: &Job) -> Result<Done, Failure> {
    let parameters = &job.parameters;
    let project = forge.project(parameters)?;
    let mark = mark(parameters, job)?;
    let body = json!({"body": format!("{}\n\n{mark}", text_parameter(parameters, "body")?)});
    let number = parameters.get("number").and_then(Value::as_u64).filter(|number| *number > 0);
    let has_mark = |note: &Value| text(note, "/body").contains(&mark);
    let (list, found, change) = match (number, optional_text(parameters, "commit")?) {
        (Some(number), None) => {
            let list = format!("{project}/merge_requests/{number}/notes");
            let found = forge.find(&format!("{list}?"), None, has_mark).await?;
            let change = found.as_ref().map(|note| format!("{list}/{}", note["id"]));
            (list, found, change)
        }
        (None, Some(_)) => {
            // The comments of a commit can't be changed, but for those of its discussions.
            let list = format!("{project}/repository/commits/{}/discussions", commit(parameters)?);
            let notes = |discussion: &Value| discussion["notes"].as_array().cloned().unwrap_or_default();
            let ours = |discussion: &Value| notes(discussion).iter().any(has_mark);
            let discussion = forge.find(&format!("{list}?"), None, ours).await?;
            let note = discussion.as_ref().and_then(|one| notes(one).into_iter().find(|note| has_mark(note)));
            let change = discussion.as_ref().zip(note.as_ref()).map(|(discussion, note)| {
                format!("{list}/{}/notes/{}", escaped(text(discussion, "/id")), note["id"])
            });
            (list, note, change)
        }
        _ => {
            return Err(Failure::new(
                "say either `number`, of a merge request, or `commit`: what the comment is on",
            ));
        }
    };
    let (Some(found), Some(change)) = (found, change) else {
        let made = forge.send(Method::POST, &list, Some(&body)).await?;
        let note = made.pointer("/notes/0").unwrap_or(&made);
        return Ok(Done::with(summary(true, note)));
    };
    if found["body"] == body["body"] {
        return Ok(Done::with(summary(false, &found)));
    }
    Ok(Done::with(summary(true, &forge.send(Method::PUT, &change, Some(&body)).await?)))
}

async fn merge_request_once(forge: &Forge, job: &Job) -> Result<Done, Failure> {
    let parameters = &job.parameters;
    let project = forge.project(parameters)?;
    let (source, target) = (text_parameter(parameters, "source")?, text_parameter(parameters, "target")?);
    let title = text_parameter(parameters, "title")?;
    let description = optional_text(parameters, "body")?.unwrap_or_default();
    let path = format!("{project}/merge_requests");
    let list =
        format!("{path}?state=opened&source_branch={}&target_branch={}", escaped(source), escaped(target));
    let ours =
        |entry: &Value| text(entry, "/source_branch") == source && text(entry, "/target_branch") == target;
    let shown = |changed: bool, entry: &Value| {
        let mut shown = summary(changed, entry);
        shown["number"] = entry["iid"].clone();
        shown["url"] = entry["web_url"].clone();
        Done::with(shown)
    };
    let Some(found) = forge.find(&list, None, ours).await? else {
        let remove = parameters.get("remove_source").and_then(Value::as_bool).unwrap_or(false);
        let body = json!({
            "source_branch": source, "target_branch": target, "title": title, "description": description,
            "remove_source_branch": remove,
        });
        return Ok(shown(true, &forge.send(Method::POST, &path, Some(&body)).await?));
    };
    let wanted = json!({"title": title, "description": description});
    if ["title", "description"].iter().all(|key| same_text(found.get(*key), wanted.get(*key))) {
        return Ok(shown(false, &found));
    }
    let path = format!("{path}/{}", found["iid"]);
    Ok(shown(true, &forge.send(Method::PUT, &path, Some(&wanted)).await?))
}

async fn release_once(forge: &Forge, job: &Job) -> Result<Done, Failure> {
    let parameters = &job.parameters;
    let project = forge.project(parameters)?;
    let tag = text_parameter(parameters, "tag")?;
    let name = optional_text(parameters, "name")?.unwrap_or(tag);
    let description = optional_text(parameters, "body")?.unwrap_or_default();
    let path = format!("{project}/releases");
    let found = forge.find(&format!("{path}?"), None, |entry| text(entry, "/tag_name") == tag).await?;
    let shown = |changed: bool, entry: &Value| {
        Done::with(
            json!({"changed": changed, "url": entry.pointer("/_links/self").cloned().unwrap_or_default()}),
        )
    };
    let mut wanted = json!({"name": name, "description": description});
    let Some(found) = found else {
        wanted["tag_name"] = Value::from(tag);
        if optional_text(parameters, "commit")?.is_some() {
            wanted["ref"] = Value::from(commit(parameters)?);
        }
        return Ok(shown(true, &forge.send(Method::POST, &path, Some(&wanted)).await?));
    };
    if ["name", "description"].iter().all(|key| same_text(found.get(*key), wanted.get(*key))) {
        return Ok(shown(false, &found));
    }
    let path = format!("{path}/{}", escaped(tag));
    Ok(shown(true, &forge.send(Method::PUT, &path, Some(&wanted)).await?))
}

/// The states in which a deployment of GitLab has ended.
const ENDED: [&str; 3] = ["success", "failed", "canceled"];

async fn deployment_once(forge: &Forge, job: &Job) -> Result<Done, Failure> {
    let parameters = &job.parameters;
    let project = forge.project(parameters)?;
    let (commit, reference) = (commit(parameters)?, text_parameter(parameters, "ref")?);
    let environment = text_parameter(parameters, "environment")?;
    let state = match text_parameter(parameters, "state")? {
        "pending" | "queued" => "created",
        "running" | "in_progress" => "running",
        "success" => "success",
        "failure" | "error" => "failed",
        "cancelled" => "canceled",
        other => {
            let known = "pending running success failure error cancelled";
            return Err(Failure::new(format!("`state` is `{other}`; known are {known}")));
        }
    };
    let path = format!("{project}/deployments");
    let list = format!("{path}?environment={}&order_by=id&sort=desc", escaped(environment));
    // It has no key of ours: the newest one there is meant, if it is of this commit and has not ended otherwise.
    let here = |entry: &Value| text(entry, "/environment/name") == environment;
    let newest = forge.find(&list, None, here).await?;
    let open = newest.filter(|newest| {
        let status = text(newest, "/status");
        text(newest, "/sha") == commit && (status == state || !ENDED.contains(&status))
    });
    let (changed, now) = match open {
        Some(open) if text(&open, "/status") == state => (false, open),
        Some(open) => {
            let path = format!("{path}/{}", open["id"]);
            (true, forge.send(Method::PUT, &path, Some(&json!({"status": state}))).await?)
        }
        None => {
            let is_tag = parameters.get("tag").and_then(Value::as_bool).unwrap_or(false);
            let body = json!({"environment": environment, "sha": commit, "ref": reference, "tag": is_tag, "status": state});
            (true, forge.send(Method::POST, &path, Some(&body)).await?)
        }
    };
    Ok(Done::with(json!({"changed": changed, "id": now["id"]})))
}
