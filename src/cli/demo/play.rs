//! The demo's server and what is done with it: pushes come in, runs are watched, approvals given.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio_util::sync::CancellationToken;

use crate::cli::client::Client;
use crate::delivery::hosts;
use crate::model::{RunStatus, Span};
use crate::process::{self, Command};

use super::stage::{HOSTS, Stage};
use super::tell::Teller;

/// The secret that signs the pushes; the demo sets it as anyone would.
const WEBHOOK_SECRET: &str = "the demo's webhook secret";
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the server may take to come up.
const START: Duration = Duration::from_secs(60);
/// How long any one push may take, the time in which a person decides not counted.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often the server is started again when it ends by itself at once, and how long it must have lasted to count as running.
const TRIES: u32 = 5;
const LONG_ENOUGH: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Push {
    Good,
    /// Its health check fails.
    Broken,
}

/// What came of a push.
#[derive(Debug)]
pub(super) struct Shipped {
    pub(super) event: i64,
    pub(super) run: i64,
    pub(super) status: RunStatus,
    /// The package's version; empty when it got none.
    pub(super) version: String,
}

/// What a host holds.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) name: &'static str,
    pub(super) environment: &'static str,
    pub(super) version: Option<String>,
}

/// The stage with a server on it.
pub(super) struct Play {
    stage: Stage,
    pub(super) teller: Teller,
    yes: bool,
    client: Client,
    http: reqwest::Client,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Play {
    pub(super) async fn begin(stage: Stage, teller: Teller, yes: bool) -> anyhow::Result<Play> {
        let stop = CancellationToken::new();
        let data = stage.data();
        // What an earlier server that was killed said about itself is no longer true.
        std::fs::remove_file(data.join("server.json")).ok();
        let began = Instant::now();
        let server = tokio::spawn(keep_serving(
            stage.site(),
            data.clone(),
            stage.folder.join("server.log"),
            stop.clone(),
        ));
        let client = connect(&data, &server).await.with_context(|| {
            let log = std::fs::read_to_string(stage.folder.join("server.log")).unwrap_or_default();
            format!("the server did not start:\n{}", log.trim_end())
        })?;
        let text =
            format!("the server listens on {} after {:.2} s", client.url(), began.elapsed().as_secs_f64());
        teller.line("server", &text, json!({"url": client.url()}));
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
        let play = Play { stage, teller, yes, client, http, stop, server };
        play.client
            .tell(reqwest::Method::PUT, "/secrets/github_webhook", Some(&json!({"value": WEBHOOK_SECRET})))
            .await
            .context("the webhook's secret could not be set")?;
        Ok(play)
    }

    pub(super) fn stage(&self) -> &Stage {
        &self.stage
    }

    pub(super) async fn end(self) {
        self.stop.cancel();
        self.server.await.ok();
    }

    /// Runs that an earlier demo left under way go on first.
    pub(super) async fn finish_what_was_open(&mut self) -> anyhow::Result<()> {
        let runs: Value = self.get("/runs?limit=500").await?;
        let mut open: Vec<i64> = items(&runs)
            .iter()
            .filter(|run| status(run).is_some_and(|status| !status.is_final()))
            .filter_map(|run| run["id"].as_i64())
            .collect();
        open.sort_unstable();
        if !open.is_empty() {
            self.teller.chapter("First, what was under way when the demo was stopped");
        }
        for run in open {
            self.watch(run, false).await?;
        }
        Ok(())
    }

    /// Commits and pushes the next version, and watches what comes of it.
    pub(super) async fn push(&mut self, push: Push, decide_yourself: bool) -> anyhow::Result<Shipped> {
        let number = self.stage.versions().await? + 1;
        let commit = self.stage.commit(number, push == Push::Good).await?;
        let event = self.deliver(&commit).await?;
        let short = commit.get(..7).unwrap_or(&commit);
        let text =
            format!("event {event}: ada pushed {short} (version {number}.0) to main; the signature is right");
        self.teller.line("event", &text, json!({"event": event, "commit": commit}));
        let run = self.run_of(event).await?;
        self.teller.line(
            "match",
            &format!("rule site.ci_on_push matches: run {run} of site.ship"),
            json!({"run": run}),
        );
        let (status, version) = self.watch(run, decide_yourself).await?;
        Ok(Shipped { event, run, status, version })
    }

    pub(super) fn expect(&self, shipped: &Shipped, status: RunStatus) -> anyhow::Result<()> {
        if shipped.status == status {
            return Ok(());
        }
        bail!(
            "run {} ended {}, and should have ended {status}; look at it with: siskin runs {} --data {}",
            shipped.run,
            shipped.status,
            shipped.run,
            self.stage.data().display()
        )
    }

    /// What dpkg on each host says.
    pub(super) async fn read_back(&self) -> anyhow::Result<Vec<Held>> {
        let mut held = Vec::new();
        for (name, environment) in HOSTS {
            let host = self.stage.host(name);
            let version = hosts::installed_version(&host, "shop", &CancellationToken::new()).await?;
            held.push(Held { name, environment, version });
        }
        Ok(held)
    }

    /// Sends the push as GitHub does, again and again while the server is away.
    async fn deliver(&mut self, commit: &str) -> anyhow::Result<i64> {
        let body = json!({
            "ref": "refs/heads/main",
            "before": "0".repeat(40),
            "after": commit,
            "created": false,
            "deleted": false,
            "repository": {"name": "shop", "full_name": "acme/shop"},
            "pusher": {"name": "ada"},
        });
        let bytes = body.to_string();
        let mut mac = Hmac::<Sha256>::new_from_slice(WEBHOOK_SECRET.as_bytes())
            .map_err(|_| anyhow!("the webhook's secret makes no key"))?;
        mac.update(bytes.as_bytes());
        let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
        let until = Instant::now() + START;
        loop {
            let sent = self
                .http
                .post(format!("{}/hooks/github", self.client.url()))
                .header("Content-Type", "application/json")
                .header("X-GitHub-Event", "push")
                .header("X-GitHub-Delivery", format!("demo-{commit}"))
                .header("X-Hub-Signature-256", &signature)
                .body(bytes.clone())
                .send()
                .await;
            match sent {
                Ok(answer) if answer.status().is_success() => {
                    let answer: Value = answer.json().await?;
                    return answer["event"]
                        .as_i64()
                        .ok_or_else(|| anyhow!("the answer to the push names no event"));
                }
                Ok(answer) if answer.status().is_client_error() => {
                    bail!(
                        "the push was refused: {} {}",
                        answer.status(),
                        answer.text().await.unwrap_or_default()
                    );
                }
                Ok(_) | Err(_) if Instant::now() < until => self.reconnect().await?,
                Ok(answer) => bail!("the push was answered {}", answer.status()),
                Err(error) => bail!("the push could not be sent: {error}"),
            }
        }
    }

    async fn run_of(&mut self, event: i64) -> anyhow::Result<i64> {
        let until = Instant::now() + START;
        loop {
            let found = self.get(&format!("/events/{event}")).await?;
            let matches = found["matches"].as_array().cloned().unwrap_or_default();
            if let Some(run) = matches.iter().find_map(|found| found["run"].as_i64()) {
                return Ok(run);
            }
            if !found["routed_at"].is_null() {
                bail!("no rule matched event {event}: {found}");
            }
            if Instant::now() > until {
                bail!("event {event} was not routed in time");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Shows a run as it goes, gives approvals, until it ends.
    async fn watch(&mut self, run: i64, decide_yourself: bool) -> anyhow::Result<(RunStatus, String)> {
        let mut seen = 0;
        let mut asked = Vec::new();
        let mut until = Instant::now() + PATIENCE;
        loop {
            // The run after its history: then it has the outputs of what the history tells.
            let history = self.history(run).await?;
            let state = self.get(&format!("/runs/{run}")).await?;
            seen = self.tell_history(run, &history, seen, &state);
            let now = status(&state).ok_or_else(|| anyhow!("run {run} has no status: {state}"))?;
            if now.is_final() {
                let history = self.history(run).await?;
                self.tell_history(run, &history, seen, &state);
                let version =
                    step_output(&state, "package")["version"].as_str().unwrap_or_default().to_owned();
                return Ok((now, version));
            }
            if now == RunStatus::Waiting && self.ask(run, decide_yourself, &mut asked).await? {
                until = Instant::now() + PATIENCE;
            }
            if Instant::now() > until {
                bail!("run {run} did not end in time: it is {now}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn history(&mut self, run: i64) -> anyhow::Result<Vec<Value>> {
        Ok(items(&self.get(&format!("/runs/{run}/history?limit=500")).await?))
    }

    /// Tells what is new in the run's history, of which `seen` lines were told; says how many that are now.
    fn tell_history(&self, run: i64, history: &[Value], seen: usize, state: &Value) -> usize {
        for entry in history.iter().skip(seen) {
            let what = entry["what"].as_str().unwrap_or_default();
            let step = entry["step"].as_str();
            let detail = entry["details"].as_str().unwrap_or_default();
            let text = phrase(what, step, detail, state);
            self.teller.line(what, &text, json!({"run": run, "step": step, "at": entry["at"]}));
        }
        history.len()
    }

    /// Answers the approvals that the run waits for, or says how to. True when there is one that a person thinks about.
    async fn ask(&mut self, run: i64, decide_yourself: bool, asked: &mut Vec<i64>) -> anyhow::Result<bool> {
        let waiting = self.get("/approvals?status=waiting").await?;
        let Some(approval) = items(&waiting).into_iter().find(|approval| approval["run"] == run) else {
            return Ok(false);
        };
        let Some(id) = approval["id"].as_i64() else { return Ok(false) };
        if asked.contains(&id) {
            return Ok(true);
        }
        asked.push(id);
        let question = approval["ask"].as_str().unwrap_or("?").to_owned();
        self.teller.line(
            "approval",
            &format!("approval {id}: {question}"),
            json!({"approval": id, "run": run}),
        );
        if self.yes || decide_yourself {
            self.approve(id).await?;
            return Ok(false);
        }
        let program = std::env::args().next().unwrap_or_else(|| "siskin".to_owned());
        let data = self.stage.data();
        let how = format!(
            "say yes with Enter, or from another terminal: {program} approve {id} --data {}",
            data.display()
        );
        self.teller.line("approval.how", &how, json!({}));
        if std::io::stdin().is_terminal() && !self.teller.is_json() {
            self.approve_on_enter(id);
        }
        Ok(true)
    }

    async fn approve(&mut self, id: i64) -> anyhow::Result<()> {
        let body = json!({"comment": "the demo says yes"});
        let path = format!("/approvals/{id}/approve");
        if let Err(error) = self.client.tell(reqwest::Method::POST, &path, Some(&body)).await {
            // The server may have been killed before or after it counted the vote; who looks again knows.
            self.reconnect().await?;
            let approval = self.get(&format!("/approvals/{id}")).await?;
            if approval["status"] == "waiting" {
                return Box::pin(self.approve(id)).await;
            }
            if approval["status"] != "approved" {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Waits for Enter beside everything else, since somebody may approve elsewhere meanwhile.
    fn approve_on_enter(&self, id: i64) {
        let (url, data) = (self.client.url().to_owned(), self.stage.data());
        tokio::spawn(async move {
            let read = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await;
            if !matches!(read, Ok(Ok(bytes)) if bytes > 0) {
                return; // The terminal is gone; the other way stays.
            }
            let Ok(client) = client_of(&data, &url) else { return };
            let body = json!({"comment": "yes, at the demo's prompt"});
            let path = format!("/approvals/{id}/approve");
            // When it was decided elsewhere, this comes too late and changes nothing.
            client.tell(reqwest::Method::POST, &path, Some(&body)).await.ok();
        });
    }

    /// Reads from the API; while the server is away, waits for it to come back.
    async fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        let until = Instant::now() + START;
        loop {
            match self.client.get::<Value>(path).await {
                Ok(value) => return Ok(value),
                Err(error) if Instant::now() > until => return Err(error),
                Err(error) if error.to_string().contains("does not know this token") => return Err(error),
                Err(_) => self.reconnect().await?,
            }
        }
    }

    /// The server may have been killed and started again, on another port.
    async fn reconnect(&mut self) -> anyhow::Result<()> {
        tokio::time::sleep(LOOK_EVERY).await;
        if self.server.is_finished() {
            bail!(
                "the server can't be started again; its log is {}",
                self.stage.folder.join("server.log").display()
            );
        }
        if let Ok(url) = address(&self.stage.data())
            && url != self.client.url()
        {
            self.client = client_of(&self.stage.data(), &url)?;
            let text = format!("the server was started again, on {url}; what was under way goes on");
            self.teller.line("server", &text, json!({"url": url}));
        }
        Ok(())
    }
}

/// Keeps a server running until it is stopped: one that is killed is started again.
async fn keep_serving(
    site: std::path::PathBuf,
    data: std::path::PathBuf,
    log: std::path::PathBuf,
    stop: CancellationToken,
) {
    let Ok(program) = std::env::current_exe() else { return };
    let mut in_vain = 0;
    while !stop.is_cancelled() && in_vain < TRIES {
        let began = Instant::now();
        let command = Command::new(program.display().to_string())
            .args(["serve".to_owned(), "--listen".to_owned(), "127.0.0.1:0".to_owned()])
            .args([
                "--site".to_owned(),
                site.display().to_string(),
                "--data".to_owned(),
                data.display().to_string(),
            ])
            .grace(Span::seconds(15));
        let sink = log.clone();
        let mut keep = move |_: process::Stream, line: &[u8]| append(&sink, &[line, b"\n"].concat());
        let ended = process::run(command, &mut keep, &stop, None).await;
        if let Err(error) = &ended {
            append(&log, format!("the server could not be run: {error}\n").as_bytes());
        }
        std::fs::remove_file(data.join("server.json")).ok();
        // Whoever is killed is started again, however often; one that ends by itself at once has a reason, which its log says.
        let killed = ended.is_ok_and(|finished| matches!(finished.ended, process::Ended::Signal(_)));
        in_vain = if killed || began.elapsed() >= LONG_ENOUGH { 0 } else { in_vain + 1 };
        if in_vain > 0 {
            // The one before it may still be letting go of the data.
            tokio::time::sleep(LOOK_EVERY * in_vain).await;
        }
    }
}

fn append(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    // The log is a help for people; the demo does without it where it can't be written.
    file.and_then(|mut file| file.write_all(bytes)).ok();
}

async fn connect(data: &Path, server: &tokio::task::JoinHandle<()>) -> anyhow::Result<Client> {
    let until = Instant::now() + START;
    loop {
        if let Ok(url) = address(data)
            && let Ok(client) = client_of(data, &url)
        {
            return Ok(client);
        }
        if server.is_finished() || Instant::now() > until {
            bail!("it ended, or took more than {} s", START.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn address(data: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(data.join("server.json"))?;
    let said: Value = serde_json::from_str(&text)?;
    said["url"].as_str().map(str::to_owned).ok_or_else(|| anyhow!("server.json has no url"))
}

fn client_of(data: &Path, url: &str) -> anyhow::Result<Client> {
    let token = std::fs::read_to_string(data.join("admin.token"))?;
    Client::new(url.to_owned(), token.trim())
}

fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().cloned().unwrap_or_default()
}

fn status(run: &Value) -> Option<RunStatus> {
    run["status"].as_str().and_then(RunStatus::parse)
}

fn step<'a>(run: &'a Value, id: &str) -> &'a Value {
    let steps = run["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    steps.iter().find(|step| step["id"] == id).unwrap_or(&Value::Null)
}

fn step_output<'a>(run: &'a Value, id: &str) -> &'a Value {
    &step(run, id)["output"]
}

/// A line of history in words.
fn phrase(what: &str, name: Option<&str>, detail: &str, state: &Value) -> String {
    let more = if detail.is_empty() { String::new() } else { format!(": {detail}") };
    match (what.split_once('.'), name) {
        (Some(("run", verb)), _) => format!("run {verb}{more}"),
        (Some(("undo", verb)), Some(name)) => format!("undo of {name} {verb}{more}"),
        (Some((_, "succeeded")), Some(name)) => format!("{name} {}", gist(name, step_output(state, name))),
        (Some((_, verb)), Some(name)) => format!("{name} {verb}{more}"),
        _ => format!("{what}{more}"),
    }
}

/// What a step of the reference pipeline came to, in a few words.
fn gist(name: &str, output: &Value) -> String {
    match name {
        "package" => format!("made {} {}", text(&output["name"]), text(&output["version"])),
        "publish" | "stable" => format!("published in suite {}", text(&output["suite"])),
        "canary" | "production" => {
            let changes = output["changes"].as_array().cloned().unwrap_or_default();
            let lines: Vec<String> = changes.iter().map(text).collect();
            format!("rolled ({})", lines.join("; "))
        }
        "promote" => format!(
            "approved by {}",
            output["approved_by"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ")
        ),
        _ => "done".to_owned(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
