//! The pack `consul`, and hosts that are found in Consul, with a real agent.

mod actions;
mod inventory;
