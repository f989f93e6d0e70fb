//! The one test binary: what Siskin promises, seen from outside. A folder per area.

#![expect(clippy::unwrap_used, reason = "tests")]

mod architecture;
mod delivery;
mod delivery_hosts;
mod git_and_ssh;
mod process;
mod shipped;
mod worker;
