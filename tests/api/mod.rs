//! The server from outside.

mod again;
mod approvals;
mod command_line;
mod locks;
mod rules;
mod runs;
mod secrets;
mod webhooks;
