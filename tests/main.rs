//! The one test binary: what Siskin promises, seen from outside. A folder per area.

#![expect(clippy::unwrap_used, reason = "tests")]

mod agent;
mod api;
mod architecture;
mod authoring;
mod broker;
mod check;
mod cluster;
mod consul;
mod containers;
mod delivery;
mod delivery_hosts;
mod demo;
mod git_and_ssh;
mod kill;
mod process;
mod progressive;
mod rehearsal;
mod shipped;
mod sources;
mod support;
mod worker;
