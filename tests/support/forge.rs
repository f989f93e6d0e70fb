//! A stand-in for the forges' APIs, by their wire contract: lists in pages, newest first, statuses that are never changed but only followed by others, and
//! what may not be there twice.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;

#[derive(Default)]
struct Inner {
    /// Entries by the path of their list, oldest first.
    lists: BTreeMap<String, Vec<Value>>,
    /// Each request that changes something.
    changes: Vec<String>,
    next_id: u64,
    /// The next change is made, and then answered so.
    answers_next_change: Option<u16>,
    /// Every request is answered so, with these headers.
    refuses: Option<(u16, &'static str, &'static str)>,
    /// So many requests are refused, the next ones.
    times: Option<u32>,
    /// The next look at a list sees nothing, as if it had been there before what somebody else makes.
    blind_once: bool,
}

/// A forge that runs. Its only token is `t0ken`.
#[derive(Clone)]
pub(crate) struct Forge {
    inner: Arc<Mutex<Inner>>,
    address: SocketAddr,
}

impl Forge {
    pub(crate) async fn start() -> Forge {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let forge = Forge { inner: Arc::default(), address: listener.local_addr().unwrap() };
        let app = Router::new().fallback(answer).with_state(forge.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        forge
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn list(&self, path: &str) -> Vec<Value> {
        self.lock().lists.get(path).cloned().unwrap_or_default()
    }

    /// Somebody else's entries.
    pub(crate) fn add(&self, path: &str, entry: Value) {
        add(&mut self.lock(), path, entry);
    }

    pub(crate) fn changes(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().changes)
    }

    pub(crate) fn lose_the_next_answer(&self) {
        self.lock().answers_next_change = Some(502);
    }

    /// Refuses the next requests, so many.
    pub(crate) fn refuse_times(&self, times: u32, with: (u16, &'static str, &'static str)) {
        let mut inner = self.lock();
        (inner.refuses, inner.times) = (Some(with), Some(times));
    }

    pub(crate) fn see_nothing_once(&self) {
        self.lock().blind_once = true;
    }

    pub(crate) fn refuse(&self, with: Option<(u16, &'static str, &'static str)>) {
        self.lock().refuses = with;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

fn add(inner: &mut Inner, path: &str, mut entry: Value) -> Value {
    inner.next_id += 1;
    entry["id"] = json!(inner.next_id);
    entry["html_url"] = json!(format!("https://forge/{path}/{}", inner.next_id));
    if path.ends_with("/merge_requests") {
        entry["iid"] = json!(inner.next_id + 500);
        entry["web_url"] = json!(format!("https://forge/{path}/{}", inner.next_id + 500));
        entry["state"] = json!("opened");
    }
    if path.contains("api/v4/") && path.ends_with("/deployments") {
        entry["environment"] = json!({"id": 1, "name": entry["environment"]});
    }
    if path.ends_with("/discussions") {
        let id = inner.next_id;
        entry = json!({"id": format!("d{id}"), "notes": [{"id": id, "body": entry["body"]}]});
    }
    if path.ends_with("/pulls") {
        entry["number"] = json!(inner.next_id);
        entry["head"] = json!({"ref": entry["head"]});
        entry["base"] = json!({"ref": entry["base"]});
    }
    inner.lists.entry(path.to_owned()).or_default().push(entry.clone());
    entry
}

async fn answer(
    State(forge): State<Forge>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let path = head.uri.path().trim_start_matches('/').to_owned();
    let mut inner = forge.lock();
    if let Some((status, name, value)) = inner.refuses {
        if let Some(times) = inner.times.as_mut() {
            *times -= 1;
            if *times == 0 {
                (inner.refuses, inner.times) = (None, None);
            }
        }
        return (StatusCode::from_u16(status).unwrap(), [(name, value)], "no").into_response();
    }
    if !has_token(&path, &head.headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if head.method == Method::GET {
        if std::mem::take(&mut inner.blind_once) {
            let nothing = match path.rsplit('/').next() {
                Some("check-runs") => json!({"check_runs": []}),
                _ => json!([]),
            };
            return axum::Json(nothing).into_response();
        }
        return listed(&inner, &path, &query);
    }
    inner.changes.push(format!("{} {path}", head.method));
    let (status, made) = changed(&mut inner, &head.method, &path, body);
    match inner.answers_next_change.take() {
        Some(lost) => StatusCode::from_u16(lost).unwrap().into_response(),
        None => (StatusCode::from_u16(status).unwrap(), axum::Json(made)).into_response(),
    }
}

fn has_token(path: &str, headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if path.starts_with("api/v4/") {
        return text("private-token") == "t0ken";
    }
    text("authorization") == if path.starts_with("api/v1/") { "token t0ken" } else { "Bearer t0ken" }
}

fn listed(inner: &Inner, path: &str, query: &HashMap<String, String>) -> Response {
    let github_status = path.strip_suffix("/status");
    let list = github_status.map_or_else(|| path.to_owned(), |commit| format!("{commit}/statuses"));
    let mut entries: Vec<Value> = inner.lists.get(&list).cloned().unwrap_or_default();
    // Comments are told oldest first, all else newest first.
    if !path.ends_with("/comments") {
        entries.reverse();
    }
    if let Some(name) = query.get("name") {
        entries.retain(|entry| entry["name"] == **name);
    }
    if github_status.is_some() {
        let mut seen = Vec::new();
        entries.retain(|entry| {
            let is_new = !seen.contains(&entry["context"]);
            seen.push(entry["context"].clone());
            is_new
        });
    }
    let size: usize = query.get("per_page").or(query.get("limit")).map_or(30, |size| size.parse().unwrap());
    // Gitea's pages are smaller than asked for.
    let size = if path.starts_with("api/v1/") { size.min(50) } else { size };
    let page: usize = query.get("page").map_or(1, |page| page.parse().unwrap());
    let entries: Vec<Value> = entries.into_iter().skip((page - 1) * size).take(size).collect();
    axum::Json(match path.rsplit('/').next() {
        Some("status") => json!({"state": "pending", "statuses": entries}),
        Some("check-runs") => json!({"total_count": entries.len(), "check_runs": entries}),
        _ => Value::Array(entries),
    })
    .into_response()
}

fn changed(inner: &mut Inner, method: &Method, path: &str, body: Value) -> (u16, Value) {
    if method == Method::PUT {
        return put(inner, path, &body);
    }
    if method == Method::PATCH {
        let id: u64 = path.rsplit('/').next().unwrap().parse().unwrap();
        if let Some(entry) = inner.lists.values_mut().flatten().find(|entry| entry["id"] == id) {
            for (name, value) in body.as_object().unwrap() {
                entry[name] = value.clone();
            }
            return (200, entry.clone());
        }
        return (404, Value::Null);
    }
    let (project, what) = path.split_at(path.find("/statuses/").unwrap_or(path.len()));
    let Some(commit) = what.strip_prefix("/statuses/") else {
        let mut list = path.to_owned();
        if let Some(project) = path.strip_suffix("/check-runs") {
            list = format!("{project}/commits/{}/check-runs", body["head_sha"].as_str().unwrap());
        }
        let same_tag = |entry: &Value| path.ends_with("/releases") && entry["tag_name"] == body["tag_name"];
        let same_branch = |entry: &Value| {
            (path.ends_with("/pulls") && entry["head"]["ref"] == body["head"])
                || (path.ends_with("/merge_requests") && entry["source_branch"] == body["source_branch"])
        };
        let is_there =
            |same: &dyn Fn(&Value) -> bool| inner.lists.get(&list).is_some_and(|all| all.iter().any(same));
        if is_there(&same_branch) || (is_there(&same_tag) && path.starts_with("api/")) {
            return match path.starts_with("api/") {
                true => (409, json!({"message": ["Another open merge request or release already exists"]})),
                false => (
                    422,
                    json!({"message": "Validation Failed", "errors": [{"message": "A pull request already exists for acme:bump."}]}),
                ),
            };
        }
        if is_there(&same_tag) {
            return (422, json!({"message": "Validation Failed", "errors": [{"code": "already_exists"}]}));
        }
        return (201, add(inner, &list, body));
    };
    if path.starts_with("api/v4/") {
        let list = format!("{project}/repository/commits/{commit}/statuses");
        let last = inner
            .lists
            .get(&list)
            .and_then(|entries| entries.iter().rev().find(|entry| entry["name"] == body["name"]));
        if last.is_some_and(|last| last["status"] == body["state"]) {
            return (400, json!({"message": "Cannot transition status via :run from :running"}));
        }
        let entry = json!({"name": body["name"], "status": body["state"], "description": body["description"], "target_url": body["target_url"]});
        return (201, add(inner, &list, entry));
    }
    let mut entry = body;
    if path.starts_with("api/v1/") {
        entry["status"] = entry["state"].clone();
    }
    (201, add(inner, &format!("{project}/commits/{commit}/statuses"), entry))
}

/// GitLab's way of changing: the last part of the path names an entry, by what its list is known by.
fn put(inner: &mut Inner, path: &str, body: &Value) -> (u16, Value) {
    let (list, name) = path.rsplit_once('/').unwrap();
    let name = name.replace("%2F", "/");
    let laid_over = |entry: &mut Value| {
        for (key, value) in body.as_object().unwrap() {
            entry[key] = value.clone();
        }
        (200, entry.clone())
    };
    if let Some((list, discussion)) = list.strip_suffix("/notes").and_then(|rest| rest.rsplit_once('/'))
        && list.ends_with("/discussions")
    {
        let all = inner.lists.get_mut(list).into_iter().flatten();
        return all
            .into_iter()
            .find(|one| one["id"] == discussion)
            .map_or((404, Value::Null), |one| laid_over(&mut one["notes"][0]));
    }
    let key = match list.rsplit('/').next().unwrap() {
        "merge_requests" => "iid",
        "releases" => "tag_name",
        _ => "id",
    };
    let is = |entry: &&mut Value| entry[key] == name || name.parse::<i64>().is_ok_and(|id| entry[key] == id);
    inner.lists.get_mut(list).into_iter().flatten().find(is).map_or((404, Value::Null), laid_over)
}
