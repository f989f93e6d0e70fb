//! What a worker promises, with real programs and a real HTTP server.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bench;
mod ci;
mod core;
mod forge;
mod http;
mod jenkins;
mod orders;
mod pipeline;
mod script;
mod shell;
