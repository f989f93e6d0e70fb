//! Processes as /proc shows them.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One process, not another that has its number later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(super) pid: i32,
    began: String,
    pub(super) line: String,
}

impl Process {
    pub(super) fn of(pid: i32) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // A zombie does nothing any more.
        if matches!(fields.first(), Some(&("Z" | "X"))) {
            return None;
        }
        let began = fields.get(19)?.to_string();
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ").trim_end().to_owned();
        Some(Process { pid, began, line })
    }

    pub(super) fn is_alive(&self) -> bool {
        Process::of(self.pid).is_some_and(|now| now.began == self.began)
    }

    pub(super) fn signal(&self, signal: Signal) {
        if self.is_alive() {
            // It may end in this very moment.
            kill(Pid::from_raw(self.pid), signal).ok();
        }
    }
}

/// All processes below one.
pub(super) fn descendants(root: i32) -> Vec<Process> {
    let all: Vec<(i32, i32)> = pids().filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
    let (mut found, mut open) = (Vec::new(), vec![root]);
    while let Some(parent) = open.pop() {
        for (pid, _) in all.iter().filter(|(_, above)| *above == parent) {
            open.push(*pid);
            found.extend(Process::of(*pid));
        }
    }
    found
}

/// Processes that work in a folder or name it.
pub(crate) fn about(folder: &Path) -> Vec<Process> {
    let name = folder.to_string_lossy().into_owned();
    let own = std::process::id().cast_signed();
    pids()
        .filter(|pid| *pid != own)
        .filter_map(Process::of)
        .filter(|process| {
            let cwd = std::fs::read_link(format!("/proc/{}/cwd", process.pid));
            process.line.contains(&name) || cwd.is_ok_and(|cwd| cwd.starts_with(folder))
        })
        .collect()
}

/// The `siskin serve` below a process.
pub(super) fn server_below(root: u32) -> Option<Process> {
    let found = descendants(root.cast_signed());
    found.into_iter().find(|process| process.line.split(' ').nth(1) == Some("serve"))
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

pub(super) fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
