//! What tests stand on: real servers on free ports of 127.0.0.1, each in a directory of its own, ended by their pid.

pub(crate) mod server;
