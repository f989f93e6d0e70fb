//! A storm: senders post events, workflows of many kinds of steps run, and what does the work is killed and started again, round after
//! round. At the end everything is counted, from outside: by what was answered, by what the API lists, by what actions wrote down.
//!
//! Every action appends a line `begun RUN/STEP/ITEM/NUMBER` to a file, and `ended ...` when it is through. The same key twice is an attempt
//! that ran twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::dice::Dice;
use crate::support::postgres;
use crate::support::rabbitmq;
use crate::support::server::{Server, client};
use crate::support::worker::{LEASE, Worker};

/// What a storm is made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) land: Land,
    /// How often something is killed.
    pub(crate) rounds: u64,
    /// Repeats the moments of a storm.
    pub(crate) seed: u64,
    pub(crate) senders: usize,
    /// Between two events of a sender.
    pub(crate) pace: Duration,
    /// The longest that something lives between two kills.
    pub(crate) longest_life: Duration,
    /// After the last kill, how long runs that are open may do nothing.
    pub(crate) patience: Duration,
}

/// Where a storm rages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Land {
    /// One server on a file.
    Alone,
    /// A server on PostgreSQL whose work is done by two workers over RabbitMQ.
    Cluster,
}

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Victim {
    Server,
    Worker,
    Postgres,
    RabbitMq,
}

impl Land {
    /// What there is to kill, what is killed more often more often.
    fn victims(self) -> &'static [Victim] {
        use Victim::{Postgres, RabbitMq, Server, Worker};
        match self {
            Land::Alone => &[Server],
            // The first four are one of each: a short storm kills all of them.
            Land::Cluster => {
                &[Worker, Server, Postgres, RabbitMq, Worker, Server, Worker, Server, Postgres, Worker]
            }
        }
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Victim::Server => "server",
            Victim::Worker => "workers",
            Victim::Postgres => "PostgreSQL",
            Victim::RabbitMq => "RabbitMQ",
        })
    }
}

/// Everything that runs.
struct Stage {
    server: Server,
    workers: Vec<Worker>,
    postgres: Option<postgres::Private>,
    broker: Option<rabbitmq::Private>,
}

impl Stage {
    fn set(land: Land, files: &[(&str, &str)]) -> Stage {
        if land == Land::Alone {
            let server = Server::start_with(files, &[]);
            return Stage { server, workers: Vec::new(), postgres: None, broker: None };
        }
        let (postgres, broker) = (postgres::Private::start(), rabbitmq::Private::start());
        let (database, address) = (postgres.url(), broker.url());
        let more = [
            "--database",
            &database,
            "--broker",
            &address,
            "--roles",
            "api,sources,engine",
            "--lease",
            LEASE,
        ];
        let server = Server::start_with(files, &more.map(str::to_owned));
        let workers = (0..2).map(|_| Worker::start(&address)).collect();
        Stage { server, workers, postgres: Some(postgres), broker: Some(broker) }
    }

    /// SIGKILL, and a new start.
    fn strike(&mut self, victim: Victim, dice: &mut Dice) {
        match victim {
            Victim::Server => {
                self.server.kill();
                self.server.run();
            }
            Victim::Worker => {
                let which = usize::try_from(dice.roll(self.workers.len() as u64)).unwrap();
                self.workers[which].kill();
                self.workers[which].run_without_waiting();
            }
            Victim::Postgres => {
                let postgres = self.postgres.as_mut().unwrap();
                postgres.kill();
                postgres.run();
            }
            Victim::RabbitMq => {
                let broker = self.broker.as_mut().unwrap();
                broker.kill();
                broker.run();
            }
        }
    }
}

/// What came of a storm.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) seed: u64,
    pub(crate) kills: BTreeMap<Victim, u64>,
    pub(crate) accepted: usize,
    /// Requests that were cut off or refused, and sent again.
    pub(crate) sent_again: usize,
    pub(crate) runs: usize,
    pub(crate) ended: BTreeMap<String, usize>,
    pub(crate) attempts: usize,
    /// Attempts that began, and never came to their end.
    pub(crate) cut_off: usize,
    pub(crate) took: Duration,
    /// What must not be: which promise, and every case of it.
    pub(crate) losses: BTreeMap<&'static str, Vec<String>>,
}

impl Tally {
    pub(crate) fn is_clean(&self) -> bool {
        self.losses.values().all(Vec::is_empty)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |what: &str, value: String| writeln!(f, "  {what:<52} {value:>8}");
        for (victim, kills) in &self.kills {
            row(&format!("kills of the {victim}"), kills.to_string())?;
        }
        row("seconds", self.took.as_secs().to_string())?;
        row("events accepted", self.accepted.to_string())?;
        row("requests cut off or refused, and sent again", self.sent_again.to_string())?;
        row("runs", self.runs.to_string())?;
        for (status, count) in &self.ended {
            row(&format!("runs that ended {status}"), count.to_string())?;
        }
        row("attempts begun", self.attempts.to_string())?;
        row("attempts cut off by a kill", self.cut_off.to_string())?;
        for (promise, cases) in &self.losses {
            row(promise, cases.len().to_string())?;
        }
        for (promise, cases) in self.losses.iter().filter(|(_, cases)| !cases.is_empty()) {
            writeln!(f, "\n{promise}:")?;
            for case in cases.iter().take(20) {
                writeln!(f, "  {case}")?;
            }
        }
        write!(f, "\nseed {}", self.seed)
    }
}

/// Writes down that it begins, works a little, and writes down that it ends.
const WORK: &str = "key=\"$SISKIN_RUN/$SISKIN_STEP/${ITEM:--}/$SISKIN_ATTEMPT\"\n      echo \"begun $key\" >>\"$LINES\"\n      sleep 0.03\n";
const ENDED: &str = "      echo \"ended $key\" >>\"$LINES\"\n";

/// How many items the step has that has some.
const ITEMS: usize = 3;

/// The definitions of a storm whose actions write to `lines`.
fn site(lines: &Path) -> Vec<(&'static str, String)> {
    let env = format!("env: {{LINES: \"{}\"}}", lines.display());
    let env_of_item = format!("env: {{LINES: \"{}\", ITEM: \"{{{{ index }}}}\"}}", lines.display());
    let shell_with = |id: &str, before_the_end: &str, env: &str, more: &str| {
        format!("  - id: {id}\n    shell: |\n      {WORK}{before_the_end}{ENDED}    {env}\n{more}")
    };
    let shell = |id: &str, before_the_end: &str, more: &str| shell_with(id, before_the_end, &env, more);
    let items = format!(
        "    for_each: \"0..{ITEMS}\"\n    concurrency: 2\n    retry: {{attempts: 6, lost: true, delay: 50ms}}\n"
    );
    let action = format!(
        "description: Work that may be done again.\nrunner: shell\nidempotent: true\nshell:\n  script: |\n      {WORK}{ENDED}  {env}\n"
    );
    let fails_once = "      test \"$SISKIN_ATTEMPT\" -gt 1\n";
    let work = [
        "description: A bit of everything.\ninput: {id: string}\nsteps:\n".to_owned(),
        shell("once", "", ""),
        "  - id: again\n    run: storm.work\n".to_owned(),
        shell("flaky", fails_once, "    retry: {attempts: 6, delay: 100ms, lost: true}\n"),
        "  - id: nap\n    sleep: 100ms\n  - id: child\n    run: site.child\n  - id: last\n    run: core.echo\n    with: {value: \"{{ input.id }}\"}\n".to_owned(),
        shell_with("each", "", &env_of_item, &items),
        "finally:\n  - id: tidy\n    run: storm.work\n".to_owned(),
    ]
    .concat();
    let child = format!(
        "description: Part of it.\nsteps:\n  - id: nothing\n    run: core.noop\n{}",
        shell("small", "", "    retry: {attempts: 5, lost: true, delay: 50ms}\n")
    );
    vec![
        ("packs/storm/pack.yaml", "description: What comes in.\n".to_owned()),
        ("packs/storm/actions/work.yaml", action),
        ("packs/storm/triggers/came.yaml", "description: Something came.\npayload: {type: object, required: [id]}\n".to_owned()),
        (
            "packs/storm/sources/hook.yaml",
            "description: From the senders.\nkind: webhook\npath: storm\nverify: none\ntrigger: storm.came\ndedup: \"{{ body.id }}\"\n".to_owned(),
        ),
        ("rules/work.yaml", "description: Works.\ntrigger: storm.came\nrun: site.work\nwith: {id: \"{{ event.id }}\"}\n".to_owned()),
        ("workflows/work.yaml", work),
        ("workflows/child.yaml", child),
    ]
}

/// What senders share.
struct Sending {
    url: Mutex<String>,
    stop: AtomicBool,
    accepted: Mutex<BTreeSet<String>>,
    sent_again: AtomicUsize,
}

/// Plays a storm to its end, and counts.
pub(crate) fn play(plan: &Plan) -> Tally {
    let began = Instant::now();
    let folder = tempfile::Builder::new().prefix("siskin-storm-").tempdir().unwrap();
    let lines = folder.path().join("lines");
    let files = site(&lines);
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let mut stage = Stage::set(plan.land, &files);
    assert_eq!(stage.server.ask("GET", "/workflows/site.work", None).0, 200, "{}", stage.server.log());
    let sending = Sending {
        url: Mutex::new(stage.server.url()),
        stop: AtomicBool::new(false),
        accepted: Mutex::default(),
        sent_again: AtomicUsize::new(0),
    };
    let mut tally = Tally { seed: plan.seed, ..Tally::default() };
    std::thread::scope(|scope| {
        for sender in 0..plan.senders {
            let sending = &sending;
            scope.spawn(move || send(sender, plan, sending));
        }
        let mut dice = Dice::new(plan.seed);
        for round in 0..plan.rounds {
            let longest = u64::try_from(plan.longest_life.as_millis()).unwrap();
            std::thread::sleep(Duration::from_millis(dice.roll(longest)));
            let victims = plan.land.victims();
            // One after another at first, so that a short storm strikes all of them.
            let many = victims.len() as u64;
            let next = if round < many { round } else { dice.roll(many) };
            let victim = victims[usize::try_from(next).unwrap()];
            stage.strike(victim, &mut dice);
            *sending.url.lock().unwrap() = stage.server.url();
            *tally.kills.entry(victim).or_default() += 1;
        }
        sending.stop.store(true, Ordering::SeqCst);
    });
    let done = || fs::metadata(&lines).map_or(0, |lines| lines.len());
    let stuck = wait_for_the_end(&stage.server, plan.patience, done);
    let accepted = sending.accepted.into_inner().unwrap();
    tally.accepted = accepted.len();
    tally.sent_again = sending.sent_again.into_inner();
    tally.losses.insert("runs stuck", stuck);
    let runs = all(&stage.server, "/runs?");
    count_events(&mut tally, &accepted, &runs);
    count_attempts(&mut tally, &fs::read_to_string(&lines).unwrap_or_default(), &runs);
    tally.took = began.elapsed();
    tally
}

/// Sends events one after another, each until it is accepted.
fn send(sender: usize, plan: &Plan, sending: &Sending) {
    let http = client();
    for number in 0.. {
        if sending.stop.load(Ordering::SeqCst) {
            return;
        }
        let turn = Instant::now();
        let id = format!("{sender}-{number}");
        while !deliver(&http, &sending.url.lock().unwrap().clone(), &id) {
            sending.sent_again.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
        }
        sending.accepted.lock().unwrap().insert(id);
        std::thread::sleep(plan.pace.saturating_sub(turn.elapsed()));
    }
}

/// Whether the server says that it has the event.
fn deliver(http: &reqwest::blocking::Client, url: &str, id: &str) -> bool {
    let request = http
        .post(format!("{url}/hooks/storm"))
        .header("Content-Type", "application/json")
        .timeout(Duration::from_secs(10))
        .body(json!({"id": id}).to_string());
    let Ok(answer) = request.send() else { return false };
    let status = answer.status().as_u16();
    assert!(
        [200, 202, 429].contains(&status) || status >= 500,
        "{status}: {}",
        answer.text().unwrap_or_default()
    );
    // The answer counts only when all of it came.
    [200, 202].contains(&status) && answer.text().is_ok_and(|text| text.contains("\"event\""))
}

/// Waits until no run is open, or as little as nothing was `done` for as long as patience lasts; gives those that are still open then.
fn wait_for_the_end(server: &Server, patience: Duration, done: impl Fn() -> u64) -> Vec<String> {
    let (mut end, mut before) = (Instant::now() + patience, done());
    loop {
        if done() != before {
            (end, before) = (Instant::now() + patience, done());
        }
        let (status, open) =
            server.ask("GET", "/runs?status=queued,running,waiting,paused,undoing&limit=500", None);
        let open =
            if status == 200 { open["items"].as_array().cloned().unwrap_or_default() } else { vec![open] };
        if open.is_empty() || Instant::now() > end {
            return open.iter().map(|run| format!("{:.600}", run.to_string())).collect();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Each event that was accepted has one run.
fn count_events(tally: &mut Tally, accepted: &BTreeSet<String>, runs: &[Value]) {
    let mut of_event: BTreeMap<&str, usize> = BTreeMap::new();
    for run in runs {
        *of_event.entry(run["input"]["id"].as_str().unwrap_or_default()).or_default() += 1;
        *tally.ended.entry(run["status"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    tally.runs = runs.len();
    let lost = accepted.iter().filter(|id| !of_event.contains_key(id.as_str())).cloned().collect();
    tally.losses.insert("events accepted and lost", lost);
    let doubled = of_event.iter().filter(|(_, count)| **count > 1).map(|(id, _)| (*id).to_owned()).collect();
    tally.losses.insert("events with more than one run", doubled);
}

/// What actions wrote down, held against what the runs say.
fn count_attempts(tally: &mut Tally, lines: &str, runs: &[Value]) {
    let (mut begun, mut ended): (BTreeMap<&str, usize>, BTreeSet<&str>) = Default::default();
    for (word, key) in lines.lines().filter_map(|line| line.split_once(' ')) {
        match word {
            "begun" => *begun.entry(key).or_default() += 1,
            _ => drop(ended.insert(key)),
        }
    }
    tally.attempts = begun.len();
    tally.cut_off = begun.keys().filter(|key| !ended.contains(*key) && !key.contains("/flaky/-/1")).count();
    let twice = begun.iter().filter(|(_, count)| **count > 1).map(|(key, _)| (*key).to_owned()).collect();
    tally.losses.insert("attempts run twice", twice);
    // What may not be repeated, and has no retry, has a first attempt only.
    let again = begun.keys().filter(|key| key.contains("/once/") && !key.ends_with("/1"));
    let again = again.map(|key| (*key).to_owned()).collect();
    tally.losses.insert("attempts begun again that must not be", again);

    let (mut undone, mut unexplained) = (Vec::new(), Vec::new());
    for run in runs {
        let id = &run["id"];
        let has_ended = |step: &str| ended.iter().any(|key| key.starts_with(&format!("{id}/{step}/")));
        match run["status"].as_str() {
            Some("succeeded") => {
                let steps = ["once/-", "again/-", "flaky/-", "tidy/-"].map(str::to_owned);
                let items = (0..ITEMS).map(|item| format!("each/{item}"));
                let missing = steps.into_iter().chain(items).filter(|step| !has_ended(step));
                undone.extend(missing.map(|step| format!("{id}/{step}")));
            }
            // Only a step whose attempt was lost may fail a run, or a child in which that happened.
            Some("failed") => {
                let text = run.to_string();
                if !text.contains("lost") && !text.contains("stopped while it was at work") {
                    unexplained.push(format!("{text:.800}"));
                }
            }
            _ => (),
        }
    }
    tally.losses.insert("steps that succeeded without being done", undone);
    tally.losses.insert("runs that failed without a lost attempt", unexplained);
}

/// Every page of a list.
fn all(server: &Server, path: &str) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("{path}&limit=200{cursor}"));
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { return items };
        cursor = format!("&cursor={next}");
    }
}
