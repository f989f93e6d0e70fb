//! What tests stand on: real servers on free ports of 127.0.0.1, each in a directory of its own, ended by their pid.

pub(crate) mod consul;
pub(crate) mod dice;
pub(crate) mod docker;
pub(crate) mod etcd;
pub(crate) mod forge;
pub(crate) mod haproxy;
pub(crate) mod jenkins;
pub(crate) mod packages;
#[expect(dead_code, reason = "tests of the store use the rest")]
pub(crate) mod postgres;
pub(crate) mod prometheus;
pub(crate) mod publisher;
pub(crate) mod rabbitmq;
pub(crate) mod server;
pub(crate) mod worker;
