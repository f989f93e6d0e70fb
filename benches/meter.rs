//! What a process takes: memory and processor time, as /proc has it.

use std::fs;
use std::time::Duration;

use crate::support::server::Server;

/// The process id of a server.
pub(crate) fn pid(server: &Server) -> u32 {
    let said = fs::read_to_string(server.data().join("server.json")).unwrap();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    u32::try_from(said["pid"].as_u64().unwrap()).unwrap()
}

/// Where a server listens.
pub(crate) fn address(server: &Server) -> String {
    server.url().trim_start_matches("http://").to_owned()
}

/// Megabytes resident now.
pub(crate) fn resident_mb(pid: u32) -> f64 {
    kilobytes(pid, "VmRSS:") / 1000.0
}

/// The most megabytes that were resident since `forget_peak`.
pub(crate) fn peak_mb(pid: u32) -> f64 {
    kilobytes(pid, "VmHWM:") / 1000.0
}

/// Lets the peak begin anew.
pub(crate) fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// In units of 1,000 bytes.
fn kilobytes(pid: u32, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let kibibytes: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes * 1.024
}

/// Processor time that the process took so far, in ticks of 10 ms.
pub(crate) fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Ticks shared among so many, in microseconds.
pub(crate) fn microseconds(ticks: u64, many: usize) -> f64 {
    10_000.0 * ticks as f64 / many.max(1) as f64
}

/// Ticks that the process takes while `time` passes.
pub(crate) fn ticks_in(pid: u32, time: Duration) -> u64 {
    let before = ticks(pid);
    std::thread::sleep(time);
    ticks(pid) - before
}

/// Waits until the process does next to nothing.
pub(crate) fn until_quiet(pid: u32) {
    let mut quiet = 0;
    while quiet < 2 {
        quiet = if ticks_in(pid, Duration::from_millis(250)) <= 1 { quiet + 1 } else { 0 };
    }
}
