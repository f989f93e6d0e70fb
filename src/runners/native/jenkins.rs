//! Pack `jenkins`: builds of a Jenkins, by its REST interface.
//!
//! | action | parameters | does, and gives |
//! | --- | --- | --- |
//! | `jenkins.build` | `job`, `parameters`, `accept` | puts a build in the queue, follows it to its end with its console in the log; `{job, number, url, result, duration_ms, queue_item}` |
//! | `jenkins.start` | `job`, `parameters` | the same until the build has begun; `{job, number, url, queue_item}` |
//! | `jenkins.status` | `job`, `number` | how a build fares; `{job, number, url, building, result, duration_ms}` |
//! | `jenkins.abort` | `job`, `number` | stops a build; `{stopped, building, result}` |
//! | `jenkins.job` | `job` | what Jenkins says of a job; `{job, url, buildable, parameters, next, last, last_result}` |
//!
//! All take `url`, `user` and `token`, which the action files fill in from `config.jenkins` and the secret `jenkins_token`.
//!
//! A build belongs to a step of a run: what is known of it stands in the server's KV store under `jenkins/RUN/STEP/..`. An attempt that was lost,
//! or whose worker was stopped, goes on with that build in place of starting another. Whether a request that got no answer was carried out is
//! found out before it is sent again. A build is stopped with the run, unless it is also somebody else's.

mod client;

use std::sync::Arc;
use std::time::Duration;

use client::{Jenkins, Trouble, header};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::super::{Done, Failure, Job, optional_text};
use crate::model::desk::{Reply, Request};
use crate::model::log::Stream;
use crate::model::{Object, Span, Value};

/// Between two looks at a queue or a build.
const POLL: Duration = Duration::from_secs(2);
/// How long Jenkins may be away before the step gives up; it is restarted for its updates.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// How often it is looked for a build whose place in the queue is gone, or whose request got no answer.
const LOOKS: u32 = 8;
/// How many of the last builds are looked through.
const LAST_BUILDS: u32 = 50;
/// How long stopping a build may take.
const STOP_TIME: Duration = Duration::from_secs(8);
const STOP_POLL: Duration = Duration::from_millis(250);
/// How long a build is remembered after the last word on it.
const MEMORY: Span = Span::minutes(60 * 24 * 7);
/// The parameter by which a build says whose it is, in jobs that have it.
const MARK: &str = "SISKIN_RUN";

pub(super) async fn build(job: Job) -> Result<Done, Failure> {
    followed(&job, Until::Ended).await
}

pub(super) async fn start(job: Job) -> Result<Done, Failure> {
    followed(&job, Until::Begun).await
}

pub(super) async fn status(job: Job) -> Result<Done, Failure> {
    let build = Named::read(&job)?;
    let seen = build.look().await.map_err(|trouble| trouble.failure(&build.shown()))?;
    Ok(Done::with(seen.output(&build)))
}

pub(super) async fn abort(job: Job) -> Result<Done, Failure> {
    // What an undo names when the build was never begun.
    if job.parameters.get("number").is_none_or(|number| number.is_null() || *number == 0) {
        return Ok(Done::with(json!({"stopped": false})));
    }
    let build = Named::read(&job)?;
    let (stopped, seen) = build.stop().await.map_err(|trouble| trouble.failure(&build.shown()))?;
    let mut output = seen.output(&build);
    output["stopped"] = Value::from(stopped);
    Ok(Done::with(output))
}

pub(super) async fn job(job: Job) -> Result<Done, Failure> {
    let jenkins = Jenkins::read(&job.parameters)?;
    let name = job.parameters.get("job").cloned().unwrap_or(Value::Null);
    let path = Jenkins::job_path(&name)?;
    let page =
        jenkins.json(&JobPage::address(&path)).await.map_err(|trouble| trouble.failure(&shown(&name)))?;
    let known = JobPage::of(&page);
    Ok(Done::with(json!({
        "job": name,
        "url": jenkins.address(&format!("{path}/")),
        "buildable": known.buildable,
        "parameters": known.parameters,
        "next": known.next,
        "last": known.last,
        "last_result": known.last_result,
    })))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    Begun,
    Ended,
}

/// What is known of a step's build; it is what the KV store holds.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
struct Known {
    /// The first number that the build can have: builds before were there already.
    first: u64,
    item: Option<u64>,
    number: Option<u64>,
}

async fn followed(job: &Job, until: Until) -> Result<Done, Failure> {
    let name = job.parameters.get("job").cloned().unwrap_or(Value::Null);
    let accept = accepted(&job.parameters)?;
    let follow = Follow {
        job,
        jenkins: Arc::new(Jenkins::read(&job.parameters)?),
        path: Jenkins::job_path(&name)?,
        name: shown(&name),
        parameters: parameters(&job.parameters)?,
        pause: span(&job.parameters, "poll")?.unwrap_or(POLL),
        patience: span(&job.parameters, "patience")?.unwrap_or(PATIENCE),
    };
    let mut known = follow.remembered().await?;
    let ended = {
        let work = follow.to_the_end(&mut known, until);
        tokio::pin!(work);
        tokio::select! {
            ended = &mut work => Some(ended),
            () = job.cancel.cancelled() => None,
        }
    };
    let Some(ended) = ended else {
        if job.line.begins_again() {
            job.note("the build goes on; it is followed again when the step begins again");
            return Err(Failure::cancelled());
        }
        follow.give_up(&known.unwrap_or_default()).await;
        follow.forget().await;
        return Err(Failure::cancelled());
    };
    // A step that is tried again wants another build, so what is known of this one goes with its end.
    follow.forget().await;
    let (seen, known) = ended?;
    let named = follow.named(known.number.unwrap_or_default());
    let mut output = seen.output(&named);
    output["queue_item"] = Value::from(known.item);
    let result = seen.result.unwrap_or_default();
    if until == Until::Begun || accept.contains(&result) {
        return Ok(Done::with(output));
    }
    let url = named.jenkins.address(&format!("{}/", named.path()));
    let what = format!("build {} of {} ended {result}: {url}", named.number, named.name);
    Err(Failure::new(what).showing(output))
}

fn span(parameters: &Value, name: &str) -> Result<Option<Duration>, Failure> {
    let Some(text) = optional_text(parameters, name)? else { return Ok(None) };
    let span: Span = text.parse().map_err(|error| Failure::new(format!("`{name}`: {error}")))?;
    Ok(Some(span.duration()))
}

/// Which results are a success.
fn accepted(parameters: &Value) -> Result<Vec<String>, Failure> {
    const RESULTS: [&str; 5] = ["SUCCESS", "UNSTABLE", "FAILURE", "ABORTED", "NOT_BUILT"];
    let given: Vec<String> = match parameters.get("accept") {
        None | Some(Value::Null) => vec!["SUCCESS".to_owned()],
        Some(Value::Array(results)) => {
            results.iter().filter_map(|one| one.as_str().map(str::to_uppercase)).collect()
        }
        Some(one) => one.as_str().map(str::to_uppercase).into_iter().collect(),
    };
    match given.iter().find(|one| !RESULTS.contains(&one.as_str())) {
        Some(wrong) => {
            Err(Failure::new(format!("`accept` names `{wrong}`; Jenkins knows {}", RESULTS.join(", "))))
        }
        None => Ok(given),
    }
}

/// The build's parameters as text: lists and maps as JSON, null not at all.
fn parameters(parameters: &Value) -> Result<Vec<(String, String)>, Failure> {
    let map = match parameters.get("parameters") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(Failure::new("`parameters` must be a map of names to values")),
    };
    let pairs =
        map.iter().filter_map(|(name, value)| Some((name.clone(), super::super::scalar_text(value)?)));
    Ok(pairs.collect())
}

fn shown(name: &Value) -> String {
    match name {
        Value::Array(parts) => parts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("/"),
        other => other.as_str().unwrap_or_default().to_owned(),
    }
}

/// The page of a job.
struct JobPage {
    buildable: bool,
    /// Names of its parameters; nothing when Jenkins does not tell this user.
    parameters: Option<Vec<String>>,
    next: u64,
    last: Option<u64>,
    last_result: Option<String>,
}

impl JobPage {
    fn address(job_path: &str) -> String {
        let tree = "buildable,nextBuildNumber,property[parameterDefinitions[name]],lastBuild[number,result]";
        format!("{job_path}/api/json?tree={tree}")
    }

    fn of(page: &Value) -> JobPage {
        let definitions = page.get("property").and_then(Value::as_array).map(|properties| {
            let lists = properties.iter().filter_map(|one| one.get("parameterDefinitions")?.as_array());
            let names = lists.flatten().filter_map(|one| one.get("name")?.as_str());
            names.map(str::to_owned).collect()
        });
        JobPage {
            buildable: page.get("buildable").and_then(Value::as_bool).unwrap_or(true),
            parameters: definitions,
            next: page.get("nextBuildNumber").and_then(Value::as_u64).unwrap_or(1),
            last: page.pointer("/lastBuild/number").and_then(Value::as_u64),
            last_result: page.pointer("/lastBuild/result").and_then(Value::as_str).map(str::to_owned),
        }
    }
}

/// A build by its number.
struct Named {
    jenkins: Arc<Jenkins>,
    /// The job, as it was named.
    name: String,
    job_path: String,
    number: u64,
}

/// How a build fares.
#[derive(Clone, Debug, Default)]
struct Seen {
    building: bool,
    result: Option<String>,
    duration_ms: u64,
    /// How many asked for it: Jenkins makes one build of equal ones that wait.
    causes: usize,
}

impl Seen {
    fn of(page: &Value) -> Seen {
        let actions = page.get("actions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let causes = actions.iter().filter_map(|action| action.get("causes")?.as_array()).map(Vec::len).sum();
        Seen {
            building: page.get("building").and_then(Value::as_bool).unwrap_or(false),
            result: page.get("result").and_then(Value::as_str).map(str::to_owned),
            duration_ms: page.get("duration").and_then(Value::as_u64).unwrap_or(0),
            causes,
        }
    }

    fn has_ended(&self) -> bool {
        !self.building && self.result.is_some()
    }

    fn output(&self, build: &Named) -> Value {
        json!({
            "job": build.name,
            "number": build.number,
            "url": build.jenkins.address(&format!("{}/", build.path())),
            "building": self.building,
            "result": self.result,
            "duration_ms": self.duration_ms,
        })
    }
}

impl Named {
    fn read(job: &Job) -> Result<Named, Failure> {
        let jenkins = Arc::new(Jenkins::read(&job.parameters)?);
        let name = job.parameters.get("job").cloned().unwrap_or(Value::Null);
        let number = job.parameters.get("number").and_then(Value::as_u64).filter(|number| *number > 0);
        Ok(Named {
            jenkins,
            name: shown(&name),
            job_path: Jenkins::job_path(&name)?,
            number: number.ok_or_else(|| Failure::new("`number` must be the number of a build"))?,
        })
    }

    fn path(&self) -> String {
        format!("{}/{}", self.job_path, self.number)
    }

    fn shown(&self) -> String {
        format!("build {} of {}", self.number, self.name)
    }

    fn page(&self) -> String {
        format!("{}/api/json?tree=building,result,duration,actions[causes[shortDescription]]", self.path())
    }

    async fn look(&self) -> Result<Seen, Trouble> {
        Ok(Seen::of(&self.jenkins.json(&self.page()).await?))
    }

    /// Stops the build and sees it end, for a while. Answers whether there was anything to stop.
    async fn stop(&self) -> Result<(bool, Seen), Trouble> {
        let mut seen = self.look().await?;
        if seen.has_ended() {
            return Ok((false, seen));
        }
        self.jenkins.post(&format!("{}/stop", self.path()), &[]).await?;
        let until = Instant::now() + STOP_TIME;
        while !seen.has_ended() && Instant::now() < until {
            sleep(STOP_POLL).await;
            seen = self.look().await?;
        }
        Ok((true, seen))
    }
}

/// Jenkins may be away for a while; not for ever.
struct Patience<'a> {
    job: &'a Job,
    limit: Duration,
    since: Option<Instant>,
}

impl Patience<'_> {
    /// Waits before the next try, or says that it was enough.
    async fn spend(&mut self, trouble: Trouble, what: &str, pause: Duration) -> Result<(), Failure> {
        let Trouble::Away { reason, .. } = &trouble else { return Err(trouble.failure(what)) };
        let since = *self.since.get_or_insert_with(|| {
            self.job.note(&format!("Jenkins does not answer ({reason}); it is asked again"));
            Instant::now()
        });
        if since.elapsed() >= self.limit {
            return Err(trouble.failure(what));
        }
        sleep(pause).await;
        Ok(())
    }

    fn renew(&mut self) {
        if self.since.take().is_some() {
            self.job.note("Jenkins is back");
        }
    }
}

/// One step's build, from the request to its end.
struct Follow<'a> {
    job: &'a Job,
    jenkins: Arc<Jenkins>,
    name: String,
    path: String,
    parameters: Vec<(String, String)>,
    pause: Duration,
    patience: Duration,
}

impl Follow<'_> {
    fn named(&self, number: u64) -> Named {
        Named { jenkins: self.jenkins.clone(), name: self.name.clone(), job_path: self.path.clone(), number }
    }

    fn patience(&self) -> Patience<'_> {
        Patience { job: self.job, limit: self.patience, since: None }
    }

    /// Asks until there is an answer that is one.
    async fn insist(&self, what: &str, path: &str) -> Result<Value, Failure> {
        let mut patience = self.patience();
        loop {
            match self.jenkins.json(path).await {
                Ok(answer) => {
                    patience.renew();
                    return Ok(answer);
                }
                Err(trouble) => patience.spend(trouble, what, self.pause).await?,
            }
        }
    }

    async fn to_the_end(&self, known: &mut Option<Known>, until: Until) -> Result<(Seen, Known), Failure> {
        if known.is_some() {
            self.job.note("this step has asked for a build before; it goes on with that one");
        }
        if known.as_ref().is_none_or(|known| known.item.is_none() && known.number.is_none()) {
            self.ask(known).await?;
        }
        let mut now = known.clone().unwrap_or_default();
        let number = match now.number {
            Some(number) => number,
            None => self.leave_the_queue(&now).await?,
        };
        if now.number.is_none() {
            now.number = Some(number);
            self.remember(&now).await?;
            *known = Some(now.clone());
        }
        let named = self.named(number);
        let address = self.jenkins.address(&format!("{}/", named.path()));
        self.job.note(&format!("{}: {address}", named.shown()));
        self.job.line.progress(json!({"job": self.name, "number": number, "url": address})).await?;
        let seen = match until {
            Until::Begun => Seen::of(&self.insist(&named.shown(), &named.page()).await?),
            Until::Ended => self.listen(&named).await?,
        };
        Ok((seen, now))
    }

    /// Sees to it that the build is asked for once. Afterwards its item or its number is known.
    async fn ask(&self, known: &mut Option<Known>) -> Result<(), Failure> {
        let what = format!("job {}", self.name);
        let page = JobPage::of(&self.insist(&what, &JobPage::address(&self.path)).await?);
        let form = self.form(&page)?;
        // Asked for before, by an attempt that was lost: it may be there.
        let mut now = match known.clone() {
            Some(now) => {
                if let Some(found) = self.search(&now, &form).await? {
                    return self.settle(known, found).await;
                }
                now
            }
            None => Known { first: page.next, ..Known::default() },
        };
        self.remember(&now).await?;
        *known = Some(now.clone());
        let endpoint = match page.parameters.as_ref().map_or(!form.is_empty(), |names| !names.is_empty()) {
            true => format!("{}/buildWithParameters", self.path),
            false => format!("{}/build", self.path),
        };
        let mut patience = self.patience();
        loop {
            match self.jenkins.post(&endpoint, &form).await {
                Ok(location) => {
                    now.item = location.as_deref().and_then(item_of);
                    if now.item.is_some() {
                        return self.settle(known, now).await;
                    }
                    // Very old versions point to the job.
                    return match self.search(&now, &form).await? {
                        Some(found) => self.settle(known, found).await,
                        None => Err(Failure::new(format!(
                            "{what}: Jenkins took the request, but no build of it can be found"
                        ))),
                    };
                }
                Err(trouble @ Trouble::Away { arrived, .. }) => {
                    patience.spend(trouble, &what, self.pause).await?;
                    if arrived && let Some(found) = self.search(&now, &form).await? {
                        self.job.note("the request had arrived all the same");
                        return self.settle(known, found).await;
                    }
                }
                Err(Trouble::Refused { status: 500, .. })
                    if page.parameters.is_none() && !form.is_empty() =>
                {
                    return Err(Failure::new(format!(
                        "{what}: Jenkins answered 500, as it does when a job takes no parameters; leave `parameters` out, or give the job some"
                    )));
                }
                Err(trouble) => return Err(trouble.failure(&what)),
            }
        }
    }

    async fn settle(&self, known: &mut Option<Known>, now: Known) -> Result<(), Failure> {
        self.remember(&now).await?;
        *known = Some(now);
        Ok(())
    }

    /// What is sent: a name that the job does not have would be dropped without a word.
    fn form(&self, page: &JobPage) -> Result<Vec<(String, String)>, Failure> {
        if !page.buildable {
            return Err(Failure::new(format!("job {} can't be built: it is disabled", self.name)));
        }
        let mut form = self.parameters.clone();
        let Some(names) = &page.parameters else { return Ok(form) };
        if let Some((wrong, _)) = form.iter().find(|(name, _)| !names.contains(name)) {
            let has = match names.is_empty() {
                true => "it takes none".to_owned(),
                false => format!("it has {}", names.join(", ")),
            };
            return Err(Failure::new(format!("job {} has no parameter `{wrong}`; {has}", self.name)));
        }
        if names.iter().any(|name| name == MARK) && !form.iter().any(|(name, _)| name == MARK) {
            form.push((MARK.to_owned(), self.key()));
        }
        Ok(form)
    }

    /// The number of the build that the item became.
    async fn leave_the_queue(&self, known: &Known) -> Result<u64, Failure> {
        let Some(item) = known.item else {
            return Err(Failure::new("the build's place in the queue is not known"));
        };
        let what = format!("item {item} of the queue");
        let mut patience = self.patience();
        let mut why = String::new();
        loop {
            match self.jenkins.json(&format!("queue/item/{item}/api/json")).await {
                Ok(page) => {
                    patience.renew();
                    if page.get("cancelled").and_then(Value::as_bool) == Some(true) {
                        return Err(Failure::new(format!(
                            "the build of {} was cancelled in Jenkins' queue",
                            self.name
                        )));
                    }
                    if let Some(number) = page.pointer("/executable/number").and_then(Value::as_u64) {
                        return Ok(number);
                    }
                    let now = page.get("why").and_then(Value::as_str).unwrap_or_default();
                    if without_numbers(now) != without_numbers(&why) {
                        self.job.note(&format!("in the queue: {now}"));
                        why = now.to_owned();
                    }
                    sleep(self.pause).await;
                }
                // Items are forgotten some minutes after they have left the queue, and when Jenkins restarts.
                Err(Trouble::NotFound) => {
                    let found = self.search(known, &self.parameters).await?;
                    return found.and_then(|found| found.number).ok_or_else(|| {
                        Failure::new(format!(
                            "{what} of Jenkins is gone, and no build of {} came of it; Jenkins may have lost it in a restart",
                            self.name
                        ))
                    });
                }
                Err(trouble) => patience.spend(trouble, &what, self.pause).await?,
            }
        }
    }

    /// Looks for the build that was asked for: by its item, by the mark, or by its parameters, among those that can be it.
    async fn search(&self, known: &Known, form: &[(String, String)]) -> Result<Option<Known>, Failure> {
        let what = format!("builds of {}", self.name);
        for look in 0..LOOKS {
            if look > 0 {
                sleep(self.pause).await;
            }
            let tree = format!("builds[number,queueId,actions[parameters[name,value]]]{{0,{LAST_BUILDS}}}");
            let page = self.insist(&what, &format!("{}/api/json?tree={tree}", self.path)).await?;
            let builds = page.get("builds").and_then(Value::as_array).cloned().unwrap_or_default();
            let number = |build: &Value| build.get("number").and_then(Value::as_u64).unwrap_or(0);
            let is_it = |build: &&Value| match (known.item, build.get("queueId").and_then(Value::as_u64)) {
                (Some(item), Some(id)) => item == id,
                _ => number(build) >= known.first && has_parameters(build, form),
            };
            if let Some(build) = builds.iter().filter(is_it).min_by_key(|build| number(build)) {
                let item = known.item.or(build.get("queueId").and_then(Value::as_u64));
                return Ok(Some(Known { number: Some(number(build)), item, ..known.clone() }));
            }
            if known.item.is_none()
                && let Some(item) = self.waiting(form).await?
            {
                return Ok(Some(Known { item: Some(item), ..known.clone() }));
            }
        }
        Ok(None)
    }

    /// The item of the queue that has these parameters.
    async fn waiting(&self, form: &[(String, String)]) -> Result<Option<u64>, Failure> {
        let tree = "items[id,task[url],actions[parameters[name,value]]]";
        let page = self.insist("the queue", &format!("queue/api/json?tree={tree}")).await?;
        let items = page.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let ending = format!("{}/", self.path);
        let is_of_job = |item: &&Value| {
            item.pointer("/task/url").and_then(Value::as_str).is_some_and(|url| url.ends_with(&ending))
        };
        let found = items.iter().filter(is_of_job).find(|item| has_parameters(item, form));
        Ok(found.and_then(|item| item.get("id")?.as_u64()))
    }

    /// Carries the console into the log until the build has ended.
    async fn listen(&self, build: &Named) -> Result<Seen, Failure> {
        let what = build.shown();
        let (mut offset, mut is_heard, mut missing) = (0, true, 0);
        let mut patience = self.patience();
        loop {
            let mut more = false;
            if is_heard {
                match self.console(build, &mut offset).await {
                    Ok(has_more) => more = has_more,
                    Err(Trouble::Away { .. }) => {}
                    Err(trouble) => {
                        self.job.note(&format!(
                            "its console can't be read: {}",
                            trouble.failure(&what).error.message
                        ));
                        is_heard = false;
                    }
                }
            }
            match build.look().await {
                Ok(seen) if seen.has_ended() => {
                    if is_heard && more {
                        drop(self.console(build, &mut offset).await);
                    }
                    return Ok(seen);
                }
                Ok(_) => {
                    patience.renew();
                    missing = 0;
                }
                // While Jenkins loads its jobs it does not know their builds.
                Err(Trouble::NotFound) if missing < LOOKS => missing += 1,
                Err(trouble) => patience.spend(trouble, &what, self.pause).await?,
            }
            sleep(self.pause).await;
        }
    }

    /// What the console has beyond `offset`. Answers whether more is to come.
    async fn console(&self, build: &Named, offset: &mut u64) -> Result<bool, Trouble> {
        loop {
            let path = format!("{}/logText/progressiveText?start={offset}", build.path());
            let mut response = self.jenkins.get(&path).await?;
            let size = header(response.headers(), "x-text-size").and_then(|size| size.parse::<u64>().ok());
            let more = header(response.headers(), "x-more-data")
                .is_some_and(|more| more.eq_ignore_ascii_case("true"));
            let before = *offset;
            loop {
                match response.chunk().await {
                    Ok(Some(bytes)) => {
                        self.job.line.output(Stream::Stdout, &bytes);
                        *offset += bytes.len() as u64;
                    }
                    Ok(None) => break,
                    // What came is counted, so that it does not come twice.
                    Err(error) => {
                        return Err(Trouble::Away {
                            reason: super::super::http::reason(&error),
                            arrived: true,
                        });
                    }
                }
            }
            // Its own count is right also where it converts what it prints.
            *offset = size.unwrap_or(*offset);
            if !more || *offset <= before {
                return Ok(more);
            }
        }
    }

    /// The run does not want the build any more.
    async fn give_up(&self, known: &Known) {
        let ended = tokio::time::timeout(2 * STOP_TIME, self.stop_what_is_there(known)).await;
        match ended {
            Ok(Ok(said)) => self.job.note(&said),
            Ok(Err(trouble)) => {
                let failure = trouble.failure("the build could not be stopped; stop it in Jenkins");
                self.job.note(&failure.error.message);
            }
            Err(_) => self.job.note("Jenkins takes its time to stop the build; have a look at it there"),
        }
    }

    async fn stop_what_is_there(&self, known: &Known) -> Result<String, Trouble> {
        let mut number = known.number;
        if number.is_none()
            && let Some(item) = known.item
        {
            match self.jenkins.post(&format!("queue/cancelItem?id={item}"), &[]).await {
                Ok(_) | Err(Trouble::NotFound) => {}
                Err(trouble) => return Err(trouble),
            }
            let page = match self.jenkins.json(&format!("queue/item/{item}/api/json")).await {
                Ok(page) => page,
                Err(Trouble::NotFound) => Value::Null,
                Err(trouble) => return Err(trouble),
            };
            number = page.pointer("/executable/number").and_then(Value::as_u64);
            if number.is_none() {
                return Ok("the build was taken out of Jenkins' queue".to_owned());
            }
        }
        if number.is_none() && known.first > 0 {
            let found = self.search(known, &self.parameters).await.ok().flatten();
            number = found.and_then(|found| found.number);
        }
        let Some(number) = number else { return Ok("no build was asked for yet".to_owned()) };
        let build = self.named(number);
        let seen = build.look().await?;
        if seen.causes > 1 && !seen.has_ended() {
            return Ok(format!("{} goes on: somebody else asked for it, too", build.shown()));
        }
        let (stopped, seen) = build.stop().await?;
        Ok(match (stopped, seen.result) {
            (false, _) => format!("{} had ended already", build.shown()),
            (true, Some(result)) => format!("{} was stopped; it ended {result}", build.shown()),
            (true, None) => format!("{} was told to stop", build.shown()),
        })
    }

    /// The name of this step's build in the KV store.
    fn key(&self) -> String {
        let key = &self.job.key;
        let item = key.item.map(|item| format!("/{item}")).unwrap_or_default();
        format!("jenkins/{}/{}/{}{item}", key.run, key.step, key.visit)
    }

    async fn remembered(&self) -> Result<Option<Known>, Failure> {
        match self.job.line.ask(Request::KvGet { key: self.key() }).await {
            Reply::Kv { value, .. } => Ok(value.and_then(|value| serde_json::from_value(value).ok())),
            reply => Err(super::core::unexpected(reply)),
        }
    }

    async fn remember(&self, known: &Known) -> Result<(), Failure> {
        self.keep(serde_json::to_value(known).unwrap_or(Value::Null), MEMORY).await
    }

    /// A step that is tried again begins with another build.
    async fn forget(&self) {
        if let Err(failure) = self.keep(Value::Null, Span::minutes(1)).await {
            self.job
                .note(&format!("what is known of the build can't be forgotten: {}", failure.error.message));
        }
    }

    async fn keep(&self, value: Value, ttl: Span) -> Result<(), Failure> {
        let request = Request::KvSet { key: self.key(), value, ttl: Some(ttl), if_version: None };
        match self.job.line.ask(request).await {
            Reply::Kv { .. } => Ok(()),
            reply => Err(super::core::unexpected(reply)),
        }
    }
}

/// The number of the item in an address like `https://ci/queue/item/7/`. The host may be what Jenkins takes itself for.
fn item_of(location: &str) -> Option<u64> {
    let (_, rest) = location.split_once("queue/item/")?;
    rest.split(['/', '?']).next()?.parse().ok()
}

/// Reasons to wait count the seconds; that is no news.
fn without_numbers(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect()
}

/// Whether a build or item was asked for with these parameters; what it has beyond them are the job's own defaults.
fn has_parameters(build: &Value, form: &[(String, String)]) -> bool {
    let actions = build.get("actions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let lists = actions.iter().filter_map(|action| action.get("parameters")?.as_array());
    let has: Object = lists
        .flatten()
        .filter_map(|one| {
            Some((one.get("name")?.as_str()?.to_owned(), one.get("value").cloned().unwrap_or(Value::Null)))
        })
        .collect();
    let marked = form.iter().find(|(name, _)| name == MARK);
    let wanted: Vec<&(String, String)> = marked.map_or_else(|| form.iter().collect(), |mark| vec![mark]);
    wanted.iter().all(|(name, text)| match has.get(name) {
        // Jenkins does not show the values of secret parameters.
        Some(Value::Null) => true,
        Some(value) => super::super::scalar_text(value).as_ref() == Some(text),
        None => false,
    })
}
