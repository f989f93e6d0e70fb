//! A server that does no work itself, its workers, and a folder that actions know.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::rabbitmq;
use crate::support::server::{PATIENCE, Server, until};
use crate::support::worker::{LEASE, Worker};

pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) broker: String,
    folder: tempfile::TempDir,
}

impl Stage {
    /// A server with these files as its site, over the broker that all tests share.
    pub(crate) fn new(files: &[(&str, &str)]) -> Stage {
        Stage::over(&rabbitmq::shared(), files)
    }

    pub(crate) fn over(broker: &str, files: &[(&str, &str)]) -> Stage {
        let server = Server::start_with(files, &arguments(broker));
        let folder = tempfile::Builder::new().prefix("siskin-broker-").tempdir().unwrap();
        Stage { server, broker: broker.to_owned(), folder }
    }

    pub(crate) fn worker(&self) -> Worker {
        Worker::start(&self.broker)
    }

    /// A file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(crate) fn wait_for_file(&self, name: &str) -> String {
        let found = until(PATIENCE, || Some(self.read(name)).filter(|text| text.ends_with('\n')));
        found.unwrap_or_else(|| panic!("{name} never came\n{}", self.server.log()))
    }

    /// Starts a run that is told of the folder.
    pub(crate) fn start(&self, what: &str) -> i64 {
        let with = json!({"folder": self.folder.path()});
        self.server.post("/runs", &json!({"run": what, "with": with}))["id"].as_i64().unwrap()
    }

    pub(crate) fn run(&self, what: &str) -> Value {
        self.server.wait_for_end(self.start(what))
    }

    /// What a run has printed so far.
    pub(crate) fn log_of(&self, run: i64) -> String {
        String::from_utf8(self.server.cli(&["log", &run.to_string()]).stdout).unwrap()
    }
}

pub(crate) fn arguments(broker: &str) -> Vec<String> {
    ["--broker", broker, "--roles", "api,sources,engine", "--lease", LEASE].map(str::to_owned).to_vec()
}

/// The file of an action of the shell, `local.NAME` of the pack `local`.
pub(crate) fn action(idempotent: bool, script: &str) -> String {
    let script = script.replace('\n', "\n    ");
    format!(
        "description: For the tests.\nrunner: shell\nidempotent: {idempotent}\ninput: {{folder: string}}\nshell:\n  script: |\n    {script}\n  env: {{FOLDER: \"{{{{ input.folder }}}}\"}}\n"
    )
}

pub(crate) const PACK: (&str, &str) = ("packs/local/pack.yaml", "description: For the tests.\n");

pub(crate) fn step<'a>(run: &'a Value, id: &str) -> &'a Value {
    run["steps"].as_array().unwrap().iter().find(|step| step["id"] == id).unwrap()
}

/// Whether a process lives.
pub(crate) fn is_alive(pid: &str) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", pid.trim())) else { return false };
    !stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X'])
}

/// Waits until something holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    assert!(until(PATIENCE, || holds().then_some(())).is_some(), "never came true: {what}");
}
