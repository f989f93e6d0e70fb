//! What becomes of runs at work when their server is killed or stopped, and started again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::processes::{Process, about, descendants, parent_of};
use crate::support::server::{PATIENCE, Server, until};

/// Notes that it began, and works for ever; with `FOLDER/quick` there, it ends at once.
const WORK: &str = r#"echo "$$" >>"$FOLDER/begun"
      test -e "$FOLDER/quick" || sleep 1000
      echo done >>"$FOLDER/ended""#;

fn workflow(more: &str) -> String {
    format!(
        "description: Works.\ninput:\n  folder: string\nsteps:\n  - id: work\n    shell: |\n      {WORK}\n    env: {{FOLDER: \"{{{{ input.folder }}}}\"}}\n{more}"
    )
}

/// The same work as an action that may be done again.
fn repeatable() -> [(&'static str, String); 3] {
    let action = format!(
        "description: Works.\nrunner: shell\ninput:\n  folder: string\nidempotent: true\nshell:\n  script: |\n      {WORK}\n  env: {{FOLDER: \"{{{{ input.folder }}}}\"}}\n"
    );
    let steps = "description: Works.\ninput:\n  folder: string\nsteps:\n  - id: work\n    run: local.work\n    with: {folder: \"{{ input.folder }}\"}\n";
    [
        ("packs/local/pack.yaml", "description: For the tests.\n".to_owned()),
        ("packs/local/actions/work.yaml", action),
        ("workflows/work.yaml", steps.to_owned()),
    ]
}

/// A server, and a folder that its actions know.
struct Scene {
    server: Server,
    folder: tempfile::TempDir,
}

impl Scene {
    fn of(files: &[(&str, String)]) -> Scene {
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        Scene {
            server: Server::start(&files),
            folder: tempfile::Builder::new().prefix("siskin-kill-").tempdir().unwrap(),
        }
    }

    fn of_work(more: &str) -> Scene {
        Scene::of(&[("workflows/work.yaml", workflow(more))])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self) -> i64 {
        let with = json!({"folder": self.folder.path()});
        self.server.post("/runs", &json!({"run": "site.work", "with": with}))["id"].as_i64().unwrap()
    }

    /// Starts the work, and waits until it is under way.
    fn start_work(&self) -> i64 {
        let run = self.start();
        self.wait_for_lines("begun", 1);
        run
    }

    fn wait_for_lines(&self, name: &str, count: usize) {
        let path = self.path(name);
        let found = until(PATIENCE, || (lines(&path) >= count).then_some(()));
        assert!(found.is_some(), "{name} never had {count} lines\n{}", self.server.log());
    }

    fn let_work_be_quick(&self) {
        fs::write(self.path("quick"), "").unwrap();
    }

    fn history(&self, run: i64) -> Vec<String> {
        let history = self.server.get(&format!("/runs/{run}/history?limit=500"));
        let line = |line: &Value| {
            format!("{} {}", line["step"].as_str().unwrap_or("-"), line["what"].as_str().unwrap())
        };
        history["items"].as_array().unwrap().iter().map(line).collect()
    }
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

fn step<'a>(run: &'a Value, id: &str) -> &'a Value {
    run["steps"].as_array().unwrap().iter().find(|step| step["id"] == id).unwrap()
}

#[test]
fn an_attempt_that_may_not_be_repeated_is_lost_and_the_run_goes_on_by_its_rules() {
    let mut scene = Scene::of_work(
        "on_failure:\n  - id: tell\n    run: core.echo\n    with: {value: \"{{ run.failed_step }}: {{ run.error }}\"}\n",
    );
    let run = scene.start_work();
    scene.server.kill();
    scene.server.run();
    let ended = scene.server.wait_for_end(run);
    assert_eq!(ended["status"], "failed", "{ended}");
    assert_eq!(
        (&step(&ended, "work")["status"], &step(&ended, "work")["attempts"]),
        (&json!("lost"), &json!(1))
    );
    let told = step(&ended, "tell")["output"]["value"].as_str().unwrap();
    // Over a broker it is the server's own worker that went.
    let whys = ["work: the server stopped while it was at work", "work: its worker "];
    assert!(whys.iter().any(|why| told.starts_with(why)), "{told}");
    assert_eq!(lines(&scene.path("begun")), 1);
    assert!(about(scene.folder.path()).is_empty(), "{:?}", about(scene.folder.path()));
}

#[test]
fn a_lost_attempt_is_tried_again_when_its_step_says_so() {
    let mut scene = Scene::of_work("    retry: {attempts: 2, lost: true, delay: 100ms}\n");
    let run = scene.start_work();
    scene.server.kill();
    scene.let_work_be_quick();
    scene.server.run();
    let ended = scene.server.wait_for_end(run);
    assert_eq!(
        (&ended["status"], &step(&ended, "work")["attempts"]),
        (&json!("succeeded"), &json!(2)),
        "{ended}"
    );
    assert_eq!((lines(&scene.path("begun")), lines(&scene.path("ended"))), (2, 1));
}

#[test]
fn an_attempt_that_may_be_repeated_begins_again() {
    let mut scene = Scene::of(&repeatable());
    let run = scene.start_work();
    for begun in [2, 3] {
        scene.server.kill();
        scene.server.run();
        scene.wait_for_lines("begun", begun);
    }
    scene.server.kill();
    scene.let_work_be_quick();
    scene.server.run();
    let ended = scene.server.wait_for_end(run);
    assert_eq!(ended["status"], "succeeded", "{ended}");
    assert_eq!((lines(&scene.path("begun")), lines(&scene.path("ended"))), (4, 1));
    assert_eq!(
        scene.history(run),
        [
            "- run.started",
            "work step.started",
            "work step.lost",
            "work step.lost",
            "work step.lost",
            "work step.succeeded",
            "- run.succeeded"
        ]
    );
}

/// Starts the work, and kills the server while the process that would end the work with it is held up. Gives the work, and who is held up.
fn kill_with_a_shim_that_is_held_up(scene: &mut Scene) -> (i64, Process, Process) {
    let run = scene.start_work();
    let program: i32 = fs::read_to_string(scene.path("begun")).unwrap().trim().parse().unwrap();
    let shim = Process::of(parent_of(program).unwrap()).unwrap();
    assert!(shim.line.contains("__shim"), "{}", shim.line);
    let program = Process::of(program).unwrap();
    shim.signal(Signal::SIGSTOP);
    scene.server.kill();
    (run, program, shim)
}

/// Starts the server, which waits for the work to end; lets it end after a while.
fn start_and_let_go(scene: &mut Scene, program: &Process, shim: Process) {
    let (work, folder) = (program.clone(), scene.folder.path().to_owned());
    let letting_go = std::thread::spawn(move || {
        // Long enough for a server that would not wait.
        std::thread::sleep(Duration::from_secs(2));
        let undisturbed =
            work.is_alive() && lines(&folder.join("begun")) == 1 && !folder.join("undone").exists();
        shim.signal(Signal::SIGCONT);
        undisturbed
    });
    scene.server.run();
    assert!(letting_go.join().unwrap(), "something was done while the work was alive");
    assert!(!program.is_alive());
}

#[test]
fn an_attempt_begins_again_only_when_nothing_of_the_killed_server_is_alive() {
    let mut scene = Scene::of(&repeatable());
    let (run, program, shim) = kill_with_a_shim_that_is_held_up(&mut scene);
    scene.let_work_be_quick();
    start_and_let_go(&mut scene, &program, shim);
    let ended = scene.server.wait_for_end(run);
    assert_eq!(ended["status"], "succeeded", "{ended}");
    assert_eq!((lines(&scene.path("begun")), lines(&scene.path("ended"))), (2, 1));
}

#[test]
fn an_attempt_is_called_lost_only_when_nothing_of_the_killed_server_is_alive() {
    let mut scene = Scene::of_work(
        "on_failure:\n  - id: tidy\n    shell: touch \"$FOLDER/undone\"\n    env: {FOLDER: \"{{ input.folder }}\"}\n",
    );
    let (run, program, shim) = kill_with_a_shim_that_is_held_up(&mut scene);
    start_and_let_go(&mut scene, &program, shim);
    let ended = scene.server.wait_for_end(run);
    assert_eq!(step(&ended, "work")["status"], "lost", "{ended}");
    assert!(scene.path("undone").exists());
}

#[test]
fn what_is_left_without_its_shim_is_ended_by_the_next_server() {
    let mut scene = Scene::of(&repeatable());
    let run = scene.start_work();
    let program: i32 = fs::read_to_string(scene.path("begun")).unwrap().trim().parse().unwrap();
    let (program, shim) = (Process::of(program).unwrap(), Process::of(parent_of(program).unwrap()).unwrap());
    // Both at once, so that neither can end the program; the server first, as it would see the end of the shim.
    shim.signal(Signal::SIGSTOP);
    scene.server.kill();
    shim.signal(Signal::SIGKILL);
    assert!(program.is_alive());
    scene.let_work_be_quick();
    scene.server.run();
    assert!(!program.is_alive());
    let ended = scene.server.wait_for_end(run);
    assert_eq!(ended["status"], "succeeded", "{ended}");
}

#[test]
fn a_server_that_is_stopped_while_a_run_is_at_work_makes_neither_failure_nor_timeout_of_it() {
    let mut scene = Scene::of(&repeatable());
    let run = scene.start_work();
    assert!(scene.server.stop().success(), "{}", scene.server.log());
    assert!(about(scene.folder.path()).is_empty(), "{:?}", about(scene.folder.path()));
    scene.let_work_be_quick();
    scene.server.run();
    let ended = scene.server.wait_for_end(run);
    assert_eq!(ended["status"], "succeeded", "{ended}");
    let history = scene.history(run);
    assert!(!history.iter().any(|line| line.contains("failed") || line.contains("timed_out")), "{history:?}");
}

#[test]
fn what_may_not_be_repeated_comes_to_its_end_before_a_server_stops_and_the_run_goes_on_after() {
    let mut scene = Scene::of_work(
        "  - id: after\n    run: core.echo\n    with: {value: \"{{ steps.work.output.code }}\"}\n",
    );
    let run = scene.start();
    scene.wait_for_lines("begun", 1);
    // It ends by itself a moment after the server was asked to stop.
    let program: i32 = fs::read_to_string(scene.path("begun")).unwrap().trim().parse().unwrap();
    let sleeps = descendants(program);
    let ender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        // `sh -e` would end with the status of what was killed, so it is stopped by what it waits for.
        for sleep in sleeps {
            sleep.signal(Signal::SIGKILL);
        }
    });
    assert!(scene.server.stop().success());
    ender.join().unwrap();
    scene.server.run();
    let ended = scene.server.wait_for_end(run);
    // The outcome, a failure that is no loss, was stored before the server was gone.
    assert_eq!(step(&ended, "work")["status"], "failed", "{ended}");
    assert_eq!(step(&ended, "work")["error"]["kind"], "failed", "{ended}");
    assert_eq!(lines(&scene.path("begun")), 1);
}

#[test]
fn a_run_that_was_cancelled_just_before_the_kill_is_cancelled() {
    let mut scene = Scene::of_work("finally:\n  - id: tidy\n    run: core.echo\n    with: {value: tidy}\n");
    let run = scene.start_work();
    scene.server.post(&format!("/runs/{run}/cancel"), &json!({}));
    scene.server.kill();
    scene.server.run();
    let ended = scene.server.wait_for_end(run);
    assert_eq!(ended["status"], "cancelled", "{ended}");
    assert_eq!(step(&ended, "tidy")["status"], "succeeded", "{ended}");
    assert_eq!(lines(&scene.path("begun")), 1);
    assert!(about(scene.folder.path()).is_empty(), "{:?}", about(scene.folder.path()));
}

const TIMERS: [(&str, &str, &str); 3] = [
    ("site.nap", "workflows/nap.yaml", "description: Sleeps.\nsteps:\n  - id: nap\n    sleep: 2s\n"),
    (
        "site.ask",
        "workflows/ask.yaml",
        "description: Asks.\nsteps:\n  - id: ask\n    approve:\n      ask: \"May it?\"\n      of: [admin]\n      timeout: 2s\n",
    ),
    (
        "site.again",
        "workflows/again.yaml",
        "description: Fails twice.\nsteps:\n  - id: again\n    run: core.fail\n    retry: {attempts: 2, delay: 2s}\n",
    ),
];

#[test]
fn a_timer_that_fell_due_while_the_server_was_down_fires_once() {
    let files: Vec<(&str, String)> =
        TIMERS.iter().map(|(_, path, text)| (*path, (*text).to_owned())).collect();
    let mut scene = Scene::of(&files);
    let runs: Vec<i64> = TIMERS
        .iter()
        .map(|(what, _, _)| scene.server.post("/runs", &json!({"run": what}))["id"].as_i64().unwrap())
        .collect();
    for run in &runs {
        scene.server.wait_for(&format!("/runs/{run}"), |run| !run["waits"].as_array().unwrap().is_empty());
    }
    scene.server.kill();
    // All of them fall due.
    std::thread::sleep(Duration::from_millis(2500));
    scene.server.run();
    let ended: Vec<Value> = runs.iter().map(|run| scene.server.wait_for_end(*run)).collect();
    // A second restart finds nothing to fire.
    scene.server.kill();
    scene.server.run();
    assert_eq!(ended[0]["status"], "succeeded", "{}", ended[0]);
    assert_eq!(
        scene.history(runs[0]),
        ["- run.started", "nap step.started", "nap step.succeeded", "- run.succeeded"]
    );
    assert_eq!(
        (&ended[1]["status"], &step(&ended[1], "ask")["status"]),
        (&json!("failed"), &json!("timed_out"))
    );
    assert_eq!(count(&scene.history(runs[1]), "ask step.timed_out"), 1, "{:?}", scene.history(runs[1]));
    let approvals = scene.server.get("/approvals?status=expired");
    assert_eq!(approvals["items"].as_array().unwrap().len(), 1, "{approvals}");
    assert_eq!((&ended[2]["status"], &step(&ended[2], "again")["attempts"]), (&json!("failed"), &json!(2)));
    assert_eq!(count(&scene.history(runs[2]), "again step.failed"), 2, "{:?}", scene.history(runs[2]));
}

fn count(history: &[String], line: &str) -> usize {
    history.iter().filter(|found| *found == line).count()
}

#[test]
fn a_question_to_people_survives_a_kill_and_is_asked_once() {
    let text = "description: Asks.\nsteps:\n  - id: ask\n    approve: {ask: \"May it?\", of: [admin], distinct_from: none, timeout: 1h}\n  - id: after\n    run: core.echo\n    with: {value: \"{{ steps.ask.output.approved_by }}\"}\n";
    let mut scene = Scene::of(&[("workflows/ask.yaml", text.to_owned())]);
    let run = scene.server.post("/runs", &json!({"run": "site.ask"}))["id"].as_i64().unwrap();
    scene.server.wait_for("/approvals?status=waiting", |found| found["items"].as_array().unwrap().len() == 1);
    for _ in 0..2 {
        scene.server.kill();
        scene.server.run();
    }
    let approvals = scene.server.get("/approvals?status=waiting");
    let approvals = approvals["items"].as_array().unwrap();
    assert_eq!(approvals.len(), 1, "{approvals:?}");
    scene.server.post(&format!("/approvals/{}/approve", approvals[0]["id"]), &json!({}));
    // The vote is stored when it is answered, whatever becomes of the server then.
    scene.server.kill();
    scene.server.run();
    let ended = scene.server.wait_for_end(run);
    assert_eq!(ended["status"], "succeeded", "{ended}");
    assert_eq!(step(&ended, "after")["output"]["value"], json!(["admin"]));
}
