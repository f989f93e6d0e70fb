//! The server from outside.

mod again;
mod approvals;
mod artefacts;
mod command_line;
mod counting;
mod holds;
mod jenkins;
mod language;
mod locks;
mod output;
mod payloads;
mod rules;
mod runs;
mod senders;
mod secrets;
mod small_packs;
mod way_back;
mod webhooks;
mod whereabouts;
