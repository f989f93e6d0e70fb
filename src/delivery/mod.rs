//! What native actions and the command line use to ship software: builds, packages, repositories, hosts, rollouts.
//!
//! A plain library: every function takes what it needs, answers when it is done, and knows neither the engine nor a store.
//! It promises to refuse before it changes anything, and to leave the old state or the new one when it is killed half-way.
//! When something is shipped, and to whom, is decided elsewhere.

pub mod advertised;
pub mod apt;
pub mod ci;
pub mod deb;
pub mod haproxy;
pub mod health;
pub mod here;
pub mod host_lock;
pub mod hosts;
pub mod package;
pub mod rollout;
pub mod rpm;
