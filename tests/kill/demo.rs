//! The demo, with its server killed again and again, and killed itself.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::processes::{Process, about, descendants, server_below};
use super::{Dice, number};
use crate::support::server::{PATIENCE, Server, client, siskin, until};

/// How long one demo may take, all restarts counted.
const DEMO: Duration = Duration::from_secs(240);
/// Between two looks at what the demo does.
const LOOK_EVERY: Duration = Duration::from_millis(4);

/// Kill the server when a line stands in the history of a run, and a while has passed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    /// The how-manieth push, from 1.
    run: i64,
    what: &'static str,
    step: &'static str,
    after_ms: u64,
}

/// Every line of the three histories that a kill can follow, with how long what begins there takes at most.
const MOMENTS: [(&str, &str, u64); 12] = [
    ("run.started", "", 20),
    ("step.started", "build", 100),
    ("step.started", "package", 60),
    ("step.started", "publish", 40),
    ("step.started", "canary", 400),
    ("step.started", "bake", 2100),
    ("step.started", "promote", 150),
    ("step.approved", "promote", 10),
    ("step.started", "stable", 50),
    ("step.started", "production", 500),
    ("undo.started", "canary", 250),
    ("step.started", "tell", 10),
];

/// Which moments a run has: the third fails on the canaries.
fn has(run: i64, what: &str, step: &str) -> bool {
    let of_the_third = ["run.started", "build", "package", "publish", "canary", "tell"];
    let undo = what == "undo.started" || step == "tell";
    if run < 3 { !undo } else { undo || of_the_third.contains(&step) || of_the_third.contains(&what) }
}

fn point(run: i64, what: &'static str, step: &'static str, after_ms: u64) -> Point {
    Point { run, what, step, after_ms }
}

#[test]
fn a_server_killed_in_every_step_of_the_demo_loses_nothing() {
    let plan = vec![
        point(1, "step.started", "build", 30),
        point(1, "step.started", "canary", 150),
        point(1, "step.started", "production", 200),
        point(2, "run.started", "", 0),
        point(2, "step.started", "package", 10),
        point(2, "step.started", "publish", 5),
        point(2, "step.started", "bake", 400),
        point(2, "step.started", "promote", 0),
        point(2, "step.started", "stable", 5),
        point(3, "step.started", "canary", 250),
        point(3, "undo.started", "canary", 60),
    ];
    let tried = Story::begin().play(&plan);
    println!("kill points tried: {tried} in one demo");
    assert!(tried >= 8, "only {tried} of {} kill points came", plan.len());
}

/// Many kill points at random moments: `SISKIN_KILLS` says how many.
#[test]
fn a_server_killed_at_random_moments_of_the_demo_loses_nothing() {
    let Some(wanted) = number("SISKIN_KILLS") else { return };
    let seed = number("SISKIN_SEED").unwrap_or(1);
    let (mut tried, mut demos) = (0, 0);
    while tried < wanted {
        let seed = seed + demos;
        let plan = random_plan(seed);
        println!("seed {seed}: {plan:?}");
        let now = Story::begin().play(&plan) as u64;
        tried += now;
        demos += 1;
        println!("kill points tried: {now} with seed {seed}, {tried} in {demos} demos");
    }
}

#[test]
fn a_demo_that_is_killed_takes_its_server_along_and_goes_on_when_it_is_called_again() {
    let mut dice = Dice::new(number("SISKIN_SEED").unwrap_or(5));
    let story = Story::begin();
    // At once, while it sets the stage; while its first run is at work; while canaries bake.
    for (at_least, event) in [(0, "stage"), (0, "step.started"), (600, "step.succeeded")] {
        let mut demo = story.start();
        let seen = until(PATIENCE, || demo.said().iter().any(|line| line["what"] == event).then_some(()));
        assert!(seen.is_some(), "the demo never said {event}: {}", demo.errors());
        std::thread::sleep(Duration::from_millis(at_least + dice.roll(120)));
        let below = descendants(demo.child.id().cast_signed());
        demo.child.kill().unwrap();
        demo.child.wait().unwrap();
        let gone =
            until(Duration::from_secs(20), || below.iter().all(|process| !process.is_alive()).then_some(()));
        assert!(gone.is_some(), "a killed demo left {:?}", living(&below));
    }
    let mut demo = story.start();
    story.watch(&mut demo, &mut Vec::new());
    let result = demo.said().pop().unwrap();
    let version = result["version"].as_str().unwrap();
    for host in result["hosts"].as_array().unwrap() {
        assert_eq!(host["version"], version, "{result}");
    }
    story.assert_nothing_lives();
    story.assert_nothing_ran_beside_its_like();
}

fn random_plan(seed: u64) -> Vec<Point> {
    let mut dice = Dice::new(seed);
    let mut plan = Vec::new();
    for run in 1..=3 {
        for (what, step, longest) in MOMENTS {
            // Not each every time: an attempt whose server dies more than three times is not begun again.
            if has(run, what, step) && dice.roll(5) < 3 {
                plan.push(point(run, what, step, dice.roll(longest)));
            }
        }
    }
    plan
}

fn living(processes: &[Process]) -> Vec<&Process> {
    processes.iter().filter(|process| process.is_alive()).collect()
}

/// A folder in which the demo plays, with programs that tell when they run beside their like.
struct Story {
    folder: tempfile::TempDir,
}

/// A demo that runs.
struct Demo {
    child: Child,
    said: Arc<Mutex<Vec<Value>>>,
    errors: PathBuf,
    /// What the servers that were killed had started.
    orphans: Vec<Process>,
}

impl Demo {
    fn said(&self) -> Vec<Value> {
        self.said.lock().unwrap().clone()
    }

    fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Its server goes with it.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Story {
    fn begin() -> Story {
        let story = Story { folder: tempfile::Builder::new().prefix("siskin-kill-").tempdir().unwrap() };
        fs::create_dir(story.folder.path().join("bin")).unwrap();
        story.wrap("git");
        story
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("demo")
    }

    /// Puts a program before the real one that holds a lock for what it works on while that runs, and says when somebody else has it. The
    /// build of the demo's app calls git too, and is made longer here.
    fn wrap(&self, program: &str) {
        let real = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|folder| folder.join(program))
            .find(|path| path.is_file())
            .unwrap();
        let text = format!(
            r#"#!/bin/sh
folder={folder}
case "$PWD" in
  */workspaces/*/*) ;;
  *) exec {real} "$@" ;;
esac
exec 9>>"$folder/$(echo "$PWD" | tr / _).lock"
flock -n 9 || echo "$PWD: $*" >>"$folder/overlaps"
echo "$PWD" >>"$folder/calls"
[ "$1 $2" = "rev-parse --short" ] && sleep 0.2
{real} "$@"
"#,
            folder = self.folder.path().join("bin").display(),
            real = real.display(),
        );
        let path = self.folder.path().join("bin").join(program);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn start(&self) -> Demo {
        let errors = self.folder.path().join("errors");
        let path = format!(
            "{}:{}",
            self.folder.path().join("bin").display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let mut child = siskin()
            .args(["demo", "--yes", "--json", "--dir"])
            .arg(self.dir())
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (lines, sink) = (BufReader::new(child.stdout.take().unwrap()).lines(), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // A line may be cut when the demo is killed.
                sink.lock().unwrap().extend(serde_json::from_str::<Value>(&line));
            }
        });
        Demo { child, said, errors, orphans: Vec::new() }
    }

    /// The whole demo, and what must be true after it. Says how many of the points came.
    fn play(&self, plan: &[Point]) -> usize {
        let mut open = plan.to_vec();
        let mut demo = self.start();
        self.watch(&mut demo, &mut open);
        self.assert_the_demo_ended_well(&demo);
        self.assert_nothing_lives();
        assert!(living(&demo.orphans).is_empty(), "left alive: {:?}", living(&demo.orphans));
        self.assert_nothing_ran_beside_its_like();
        self.assert_every_push_is_one_event_and_one_run();
        plan.len() - open.len()
    }

    /// Kills the server at the points until the demo ends, which must be a success. The points that came are taken from the list.
    fn watch(&self, demo: &mut Demo, open: &mut Vec<Point>) {
        let mut looker = Looker::new(self.dir());
        let end = Instant::now() + DEMO;
        loop {
            if let Some(status) = demo.child.try_wait().unwrap() {
                assert!(status.success(), "{status}: {}\n{}", demo.errors(), self.story_of(demo));
                return;
            }
            if Instant::now() > end {
                panic!("the demo did not end: {}\n{}", demo.errors(), self.story_of(demo));
            }
            // One at a time: each server gets on before it is killed.
            if let Some(found) = open.iter().position(|point| looker.sees(point)) {
                let point = open.remove(found);
                std::thread::sleep(Duration::from_millis(point.after_ms));
                if let Some(server) = server_below(demo.child.id()) {
                    demo.orphans.extend(descendants(server.pid));
                    server.signal(Signal::SIGKILL);
                    until(PATIENCE, || (!server.is_alive()).then_some(()));
                } else {
                    open.push(point);
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn story_of(&self, demo: &Demo) -> String {
        let lines: Vec<String> = demo.said().iter().map(Value::to_string).collect();
        let log = fs::read_to_string(self.dir().join("server.log")).unwrap_or_default();
        format!("{}\n{log}", lines.join("\n"))
    }

    fn assert_the_demo_ended_well(&self, demo: &Demo) {
        let result = demo.said().pop().unwrap();
        let version = result["version"].as_str().unwrap_or_default();
        assert!(version.starts_with("2.0-"), "{result}");
        let hosts = result["hosts"].as_array().unwrap();
        assert_eq!(hosts.len(), 5);
        for host in hosts {
            assert_eq!(host["version"], version, "{result}");
        }
    }

    fn assert_nothing_lives(&self) {
        let gone = until(Duration::from_secs(20), || about(self.folder.path()).is_empty().then_some(()));
        assert!(gone.is_some(), "left alive: {:?}", about(self.folder.path()));
    }

    fn assert_nothing_ran_beside_its_like(&self) {
        let bin = self.folder.path().join("bin");
        let overlaps = fs::read_to_string(bin.join("overlaps")).unwrap_or_default();
        assert_eq!(overlaps, "", "two attempts of one step at once");
        assert!(bin.join("calls").exists(), "the attempts did not call the git that watches them");
    }

    fn assert_every_push_is_one_event_and_one_run(&self) {
        let server = Server::over(&self.dir().join("site"), &self.dir().join("data"));
        let events = server.get("/events?trigger=github.push&limit=500");
        let events = events["items"].as_array().unwrap();
        assert_eq!(events.len(), 3, "{events:?}");
        let mut runs = BTreeSet::new();
        for event in events {
            let event = server.get(&format!("/events/{}", event["id"]));
            let matches = event["matches"].as_array().unwrap();
            assert_eq!(matches.len(), 1, "{event}");
            runs.insert(matches[0]["run"].as_i64().unwrap());
        }
        assert_eq!(runs.len(), 3);
        let listed = server.get("/runs?limit=500");
        let listed = listed["items"].as_array().unwrap();
        assert_eq!(listed.len(), 3, "{listed:?}");
        for (run, status) in runs.iter().zip(["succeeded", "succeeded", "failed"]) {
            let run = server.get(&format!("/runs/{run}"));
            assert_eq!(run["status"], status, "{run}");
            assert_steps_came_one_after_another(&server, &run);
        }
        assert_eq!(server.get("/approvals?status=waiting")["items"].as_array().unwrap().len(), 0);
    }
}

/// What began ended before the next began.
fn assert_steps_came_one_after_another(server: &Server, run: &Value) {
    let history = server.get(&format!("/runs/{}/history?limit=500", run["id"]));
    let mut open: Option<String> = None;
    let mut succeeded = BTreeSet::new();
    for line in history["items"].as_array().unwrap() {
        let Some(step) = line["step"].as_str() else { continue };
        let Some((kind, verb)) = line["what"].as_str().unwrap().split_once('.') else { continue };
        let name = format!("{kind} {step}");
        match verb {
            "started" => {
                assert!(open.is_none(), "{name} began while {open:?} was at work: {history}");
                open = Some(name);
            }
            "succeeded" | "failed" | "timed_out" => {
                assert_eq!(open.as_deref(), Some(name.as_str()), "{history}");
                assert!(verb != "succeeded" || succeeded.insert(name), "{step} succeeded twice: {history}");
                open = None;
            }
            // A lost attempt whose action is idempotent: the step goes on.
            _ => {}
        }
    }
}

/// Looks at the histories of the demo's runs while its server is up.
struct Looker {
    data: PathBuf,
    http: reqwest::blocking::Client,
}

impl Looker {
    fn new(folder: PathBuf) -> Looker {
        Looker { data: folder.join("data"), http: client() }
    }

    fn sees(&mut self, point: &Point) -> bool {
        let path = format!("/runs/{}/history?limit=500", point.run);
        let Some(history) = self.ask(&path) else { return false };
        let lines = history["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        lines
            .iter()
            .any(|line| line["what"] == point.what && line["step"].as_str().unwrap_or_default() == point.step)
    }

    fn ask(&self, path: &str) -> Option<Value> {
        let said: Value = serde_json::from_str(&read(&self.data.join("server.json"))?).ok()?;
        let token = read(&self.data.join("admin.token"))?;
        let url = format!("{}/api/v1{path}", said["url"].as_str()?);
        let answer = self.http.get(url).bearer_auth(token.trim()).send().ok()?;
        answer
            .status()
            .is_success()
            .then(|| answer.text().ok())?
            .and_then(|text| serde_json::from_str(&text).ok())
    }
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}
