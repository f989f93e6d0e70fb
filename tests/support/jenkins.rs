//! A stand-in for Jenkins, by the contract of its REST interface: crumbs bound to sessions, a queue that joins equal requests and forgets its items, builds
//! with a console that grows, and restarts. It does nothing; a test says when a build begins, prints and ends.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// How it behaves; a test changes it at any time.
#[derive(Clone, Debug)]
pub(crate) struct Manners {
    /// POSTs want a crumb of the caller's session.
    pub(crate) crumbs: bool,
    /// The answer to a request for a build: 201, or 302 as of old.
    pub(crate) accepted: u16,
    /// Whether a request for a build says where its item is.
    pub(crate) says_item: bool,
    /// How many looks at an item it takes until its build begins; none begins by itself when there is no number.
    pub(crate) looks_in_queue: Option<u32>,
    /// Items are forgotten as soon as their build begins.
    pub(crate) forgets_items: bool,
    /// So many requests are answered 503 from now on.
    pub(crate) away: u32,
    /// So many requests for a build are carried out, and then answered 504.
    pub(crate) loses_answers: u32,
    /// Equal requests that wait become one.
    pub(crate) joins: bool,
    /// The user and token that may do anything; everybody may when there is none.
    pub(crate) user: Option<(String, String)>,
    /// Others see and may not build.
    pub(crate) forbids_posts: bool,
    /// What a build prints and how it ends as soon as it begins; it goes on when there is nothing.
    pub(crate) ends: Option<(String, String)>,
    /// Whether pages of jobs tell which parameters there are.
    pub(crate) tells_parameters: bool,
}

impl Default for Manners {
    fn default() -> Manners {
        Manners {
            crumbs: false,
            accepted: 201,
            says_item: true,
            looks_in_queue: Some(2),
            forgets_items: false,
            away: 0,
            loses_answers: 0,
            joins: true,
            user: None,
            forbids_posts: false,
            ends: None,
            tells_parameters: true,
        }
    }
}

type Parameters = BTreeMap<String, String>;

#[derive(Clone, Debug)]
struct Item {
    job: String,
    parameters: Parameters,
    looks: u32,
    causes: usize,
    build: Option<u64>,
    is_cancelled: bool,
    is_forgotten: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Build {
    pub(crate) number: u64,
    pub(crate) queue_id: u64,
    pub(crate) parameters: Parameters,
    pub(crate) console: String,
    pub(crate) result: Option<String>,
    pub(crate) causes: usize,
    pub(crate) stops: u32,
}

#[derive(Clone, Debug, Default)]
struct JobState {
    parameters: Vec<&'static str>,
    is_disabled: bool,
    builds: Vec<Build>,
}

#[derive(Default)]
struct Inner {
    manners: Manners,
    jobs: HashMap<String, JobState>,
    items: BTreeMap<u64, Item>,
    crumbs: HashMap<String, String>,
    /// Each request, as `METHOD path`.
    asked: Vec<String>,
}

/// A Jenkins that runs.
#[derive(Clone)]
pub(crate) struct Jenkins {
    inner: Arc<Mutex<Inner>>,
    address: SocketAddr,
}

impl Jenkins {
    /// With the jobs `shop` (BRANCH and COMMIT), `marked` (those and SISKIN_RUN), `plain` (no parameters), `old` (disabled) and `folder/job/shop`.
    pub(crate) async fn start(manners: Manners) -> Jenkins {
        let mut inner = Inner { manners, ..Inner::default() };
        for (name, parameters, is_disabled) in [
            ("shop", &["BRANCH", "COMMIT"][..], false),
            ("marked", &["BRANCH", "COMMIT", "SISKIN_RUN"][..], false),
            ("plain", &[][..], false),
            ("old", &["BRANCH"][..], true),
            ("folder/job/shop", &["BRANCH"][..], false),
        ] {
            let job = JobState { parameters: parameters.to_vec(), is_disabled, builds: Vec::new() };
            inner.jobs.insert(name.to_owned(), job);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let jenkins = Jenkins { inner: Arc::new(Mutex::new(inner)), address: listener.local_addr().unwrap() };
        let app = Router::new().fallback(answer).with_state(jenkins.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        jenkins
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/ci", self.address)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.lock().manners);
    }

    pub(crate) fn builds(&self, job: &str) -> Vec<Build> {
        self.lock().jobs[job].builds.clone()
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.lock().asked.clone()
    }

    pub(crate) fn print(&self, job: &str, number: u64, text: &str) {
        self.with_build(job, number, |build| build.console.push_str(text));
    }

    pub(crate) fn end(&self, job: &str, number: u64, result: &str) {
        self.with_build(job, number, |build| build.result = Some(result.to_owned()));
    }

    fn with_build(&self, job: &str, number: u64, change: impl FnOnce(&mut Build)) {
        let mut inner = self.lock();
        let builds = &mut inner.jobs.get_mut(job).unwrap().builds;
        change(builds.iter_mut().find(|build| build.number == number).unwrap());
    }

    /// Sessions, crumbs and the queue's memory of what has begun are gone; so is what waits, with `loses_queue`.
    pub(crate) fn restart(&self, loses_queue: bool) {
        let mut inner = self.lock();
        inner.crumbs.clear();
        for item in inner.items.values_mut() {
            item.is_forgotten |= loses_queue || item.build.is_some();
        }
        inner.manners.away = 3;
    }

    /// Somebody in Jenkins asks for a build.
    pub(crate) fn someone_asks(&self, job: &str, parameters: &[(&str, &str)]) -> u64 {
        let parameters = parameters.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        let mut inner = self.lock();
        enqueue(&mut inner, job, parameters)
    }

    pub(crate) fn cancel_item(&self, id: u64) {
        self.lock().items.get_mut(&id).unwrap().is_cancelled = true;
    }

    pub(crate) fn items(&self) -> Vec<u64> {
        self.lock().items.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

fn enqueue(inner: &mut Inner, job: &str, parameters: Parameters) -> u64 {
    let waits =
        |item: &Item| item.job == job && item.build.is_none() && !item.is_cancelled && !item.is_forgotten;
    let joins = inner.manners.joins;
    let same = inner.items.iter_mut().find(|(_, item)| joins && waits(item) && item.parameters == parameters);
    if let Some((id, item)) = same {
        item.causes += 1;
        return *id;
    }
    let id = 100 + inner.items.len() as u64;
    let item = Item {
        job: job.to_owned(),
        parameters,
        looks: 0,
        causes: 1,
        build: None,
        is_cancelled: false,
        is_forgotten: false,
    };
    inner.items.insert(id, item);
    id
}

fn begin(inner: &mut Inner, id: u64) {
    let ends = inner.manners.ends.clone();
    let forgets = inner.manners.forgets_items;
    let item = inner.items.get_mut(&id).unwrap();
    let builds = &mut inner.jobs.get_mut(&item.job).unwrap().builds;
    let number = builds.len() as u64 + 1;
    let (console, result) = ends.map_or((String::new(), None), |(console, result)| (console, Some(result)));
    builds.push(Build {
        number,
        queue_id: id,
        parameters: item.parameters.clone(),
        console,
        result,
        causes: item.causes,
        stops: 0,
    });
    item.build = Some(number);
    item.is_forgotten |= forgets;
}

fn status(code: u16) -> Response {
    (StatusCode::from_u16(code).unwrap(), "<html>an error page</html>").into_response()
}

fn page(value: Value) -> Response {
    axum::Json(value).into_response()
}

async fn answer(
    State(jenkins): State<Jenkins>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let form: Parameters = url_pairs(&String::from_utf8_lossy(&body));
    let Some(path) = head.uri.path().strip_prefix("/ci/").map(str::to_owned) else { return status(404) };
    let mut inner = jenkins.lock();
    inner.asked.push(format!("{} {path}", head.method));
    if inner.manners.away > 0 {
        inner.manners.away -= 1;
        return status(503);
    }
    if let Some((user, token)) = &inner.manners.user {
        let wanted = format!("Basic {}", base64_of(&format!("{user}:{token}")));
        if head.headers.get("authorization").and_then(|value| value.to_str().ok()) != Some(&wanted) {
            return status(401);
        }
    }
    if head.method == Method::POST {
        if inner.manners.forbids_posts || (inner.manners.crumbs && !has_crumb(&inner, &head.headers)) {
            return status(403);
        }
        return posted(&mut inner, &path, &query, form);
    }
    looked(&mut inner, &path, &query)
}

fn has_crumb(inner: &Inner, headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    inner.crumbs.get(text("cookie")).is_some_and(|crumb| crumb == text("jenkins-crumb"))
}

fn posted(inner: &mut Inner, path: &str, query: &HashMap<String, String>, form: Parameters) -> Response {
    if path == "queue/cancelItem" {
        let id: u64 = query["id"].parse().unwrap();
        let Some(item) = inner.items.get_mut(&id).filter(|item| item.build.is_none()) else {
            return status(404);
        };
        item.is_cancelled = true;
        return (StatusCode::FOUND, [("location", "http://elsewhere/ci/queue/")]).into_response();
    }
    let Some((job, verb)) = path.strip_prefix("job/").and_then(|path| path.rsplit_once('/')) else {
        return status(404);
    };
    if verb == "stop" {
        let Some((job, number)) = job.rsplit_once('/') else { return status(404) };
        let number: u64 = number.parse().unwrap();
        let builds = &mut inner.jobs.get_mut(job).unwrap().builds;
        let Some(build) = builds.iter_mut().find(|build| build.number == number) else { return status(404) };
        build.stops += 1;
        build.result.get_or_insert_with(|| "ABORTED".to_owned());
        return (StatusCode::FOUND, [("location", "/ci/")]).into_response();
    }
    let Some(known) = inner.jobs.get(job).cloned() else { return status(404) };
    if known.is_disabled {
        return status(409);
    }
    match verb {
        "build" if !known.parameters.is_empty() => return status(400),
        "buildWithParameters" if known.parameters.is_empty() => return status(500),
        "build" | "buildWithParameters" => {}
        _ => return status(404),
    }
    // What the job does not know is dropped without a word.
    let parameters = known
        .parameters
        .iter()
        .map(|name| ((*name).to_owned(), form.get(*name).cloned().unwrap_or_default()));
    let id = enqueue(inner, job, parameters.collect());
    if inner.manners.loses_answers > 0 {
        inner.manners.loses_answers -= 1;
        return status(504);
    }
    let code = StatusCode::from_u16(inner.manners.accepted).unwrap();
    let location = match inner.manners.says_item {
        // Jenkins takes itself for what its settings say.
        true => format!("http://jenkins.invalid/ci/queue/item/{id}/"),
        false => format!("http://jenkins.invalid/ci/job/{job}/"),
    };
    (code, [("location", location)]).into_response()
}

fn looked(inner: &mut Inner, path: &str, query: &HashMap<String, String>) -> Response {
    if path == "crumbIssuer/api/json" {
        if !inner.manners.crumbs {
            return status(404);
        }
        let session = format!("JSESSIONID.1={}", inner.crumbs.len() + 1);
        let crumb = format!("crumb-of-{}", inner.asked.len());
        inner.crumbs.insert(session.clone(), crumb.clone());
        let cookie = format!("{session}; Path=/ci; HttpOnly");
        let body = json!({"crumbRequestField": "Jenkins-Crumb", "crumb": crumb});
        return ([("set-cookie", cookie)], axum::Json(body)).into_response();
    }
    if path == "queue/api/json" {
        let waiting = inner
            .items
            .iter()
            .filter(|(_, item)| item.build.is_none() && !item.is_cancelled && !item.is_forgotten);
        let items = waiting.map(|(id, item)| {
            json!({"id": id, "task": {"url": format!("http://jenkins.invalid/ci/job/{}/", item.job)}, "actions": actions(&item.parameters)})
        });
        return page(json!({"items": items.collect::<Vec<_>>()}));
    }
    if let Some(id) = path.strip_prefix("queue/item/").and_then(|rest| rest.strip_suffix("/api/json")) {
        return item_page(inner, id.parse().unwrap());
    }
    let Some(path) = path.strip_prefix("job/") else { return status(404) };
    if let Some((build, _)) = path.split_once("/logText/progressiveText") {
        let Some((job, number)) = build.rsplit_once('/') else { return status(404) };
        let builds = inner.jobs.get(job).map(|job| job.builds.clone()).unwrap_or_default();
        let Some(build) = builds.iter().find(|build| Some(build.number) == number.parse().ok()) else {
            return status(404);
        };
        let start: usize = query.get("start").and_then(|start| start.parse().ok()).unwrap_or(0);
        let size = build.console.len();
        let text = build.console.get(start..).unwrap_or_default().to_owned();
        let mut headers = HeaderMap::new();
        headers.insert("x-text-size", size.to_string().parse().unwrap());
        if build.result.is_none() {
            headers.insert("x-more-data", "true".parse().unwrap());
        }
        return (headers, text).into_response();
    }
    let Some(path) = path.strip_suffix("/api/json") else { return status(404) };
    if let Some(job) = inner.jobs.get(path) {
        return job_page(job, inner.manners.tells_parameters);
    }
    let Some((job, number)) = path.rsplit_once('/') else { return status(404) };
    let builds = inner.jobs.get(job).map(|job| job.builds.clone()).unwrap_or_default();
    match builds.iter().find(|build| Some(build.number) == number.parse().ok()) {
        Some(build) => build_page(build),
        None => status(404),
    }
}

fn item_page(inner: &mut Inner, id: u64) -> Response {
    let limit = inner.manners.looks_in_queue;
    let Some(item) = inner.items.get_mut(&id).filter(|item| !item.is_forgotten) else { return status(404) };
    if item.is_cancelled {
        return page(json!({"id": id, "cancelled": true}));
    }
    item.looks += 1;
    if item.build.is_none() && limit.is_some_and(|limit| item.looks > limit) {
        begin(inner, id);
    }
    let item = &inner.items[&id];
    match item.build {
        _ if item.is_forgotten => status(404),
        Some(number) => page(
            json!({"id": id, "cancelled": false, "executable": {"number": number, "url": "http://jenkins.invalid/x/"}}),
        ),
        None => {
            page(json!({"id": id, "why": format!("In the quiet period. Expires in {}.3 sec", item.looks)}))
        }
    }
}

fn job_page(job: &JobState, tells: bool) -> Response {
    let definitions: Vec<Value> = job.parameters.iter().map(|name| json!({"name": name})).collect();
    let builds: Vec<Value> = job
        .builds
        .iter()
        .rev()
        .map(|build| json!({"number": build.number, "queueId": build.queue_id, "actions": actions(&build.parameters)}))
        .collect();
    let last = job.builds.last().map(|build| json!({"number": build.number, "result": build.result}));
    let mut all = json!({"buildable": !job.is_disabled, "nextBuildNumber": job.builds.len() + 1, "builds": builds, "lastBuild": last});
    if tells {
        all["property"] = json!([{}, {"parameterDefinitions": definitions}]);
    }
    page(all)
}

fn build_page(build: &Build) -> Response {
    let causes = vec![json!({"shortDescription": "Started by remote host"}); build.causes];
    page(json!({
        "building": build.result.is_none(),
        "result": build.result,
        "duration": if build.result.is_some() { 1234 } else { 0 },
        "actions": [{"causes": causes}, {}],
    }))
}

fn actions(parameters: &Parameters) -> Value {
    let parameters: Vec<Value> =
        parameters.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    json!([{}, {"parameters": parameters}])
}

fn url_pairs(text: &str) -> Parameters {
    let url = reqwest::Url::parse(&format!("http://x/?{text}")).unwrap();
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

fn base64_of(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}
