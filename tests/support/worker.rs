//! A real `siskin worker` in a process of its own.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::server::{PATIENCE, siskin, until};

/// The lease of tests: short, so that what is lost is seen soon, and long enough for a machine that is busy with other tests.
pub(crate) const LEASE: &str = super::server::LEASE;

pub(crate) struct Worker {
    folder: tempfile::TempDir,
    broker: String,
    more: Vec<String>,
    child: Option<Child>,
}

impl Worker {
    /// A worker of the default pool.
    pub(crate) fn start(broker: &str) -> Worker {
        Worker::start_with(broker, &[])
    }

    /// A worker with more arguments.
    pub(crate) fn start_with(broker: &str, more: &[&str]) -> Worker {
        let folder = tempfile::Builder::new().prefix("siskin-worker-").tempdir().unwrap();
        let more = more.iter().map(|word| (*word).to_owned()).collect();
        let mut worker = Worker { folder, broker: broker.to_owned(), more, child: None };
        worker.run();
        worker
    }

    /// Starts the process, and waits until it is connected.
    pub(crate) fn run(&mut self) {
        self.run_without_waiting();
        let connected = until(PATIENCE, || self.log().contains("connected to the broker").then_some(()));
        assert!(connected.is_some(), "the worker did not connect:\n{}", self.log());
    }

    pub(crate) fn run_without_waiting(&mut self) {
        assert!(self.child.is_none(), "it is running");
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let child = siskin()
            .args(["worker", "--lease", LEASE, "--data"])
            .arg(self.data())
            .args(&self.more)
            .env("SISKIN_BROKER", &self.broker)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What it wrote to stderr since it was last started.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// What servers call it.
    pub(crate) fn id(&self) -> String {
        fs::read_to_string(self.data().join("worker.id")).unwrap().trim().to_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    /// SIGKILL, as a crash.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let child = self.child.as_mut().unwrap();
        let ended = until(PATIENCE, || child.try_wait().unwrap());
        let ended = ended.unwrap_or_else(|| panic!("the worker did not end:\n{}", self.log()));
        self.child = None;
        ended
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
