//! Siskin: an event-driven automation server.
//!
//! The map, in reading order. ARCHITECTURE.md has one event's way through it and says who may import whom.

// what happens, as plain records
pub mod model;
// what users write
pub mod expr; // rhai decides, minijinja renders
pub mod definitions; // YAML to checked definitions
// deciding
pub mod matching; // which rules an event meets
pub mod conductor; // what a run does next
pub mod rehearsal; // the tests of definitions, on simulated time
pub mod whereabouts; // what the records of deployments say
// keeping
pub mod clock; // what time it is
pub mod store; // the only place that knows SQL
pub mod secrets; // kept in the store, under a key that is not
// doing
pub mod process; // how programs are started, so that nothing outlives its server
pub mod git; // commits, by the git program
pub mod ssh; // other hosts, by the ssh program
pub mod delivery; // packages, repositories, hosts, rollouts
pub mod amqp; // the only place that knows AMQP
pub mod http_client; // what all clients of HTTP have in common
pub mod byte_range; // one range of bytes, as HTTP asks for it
pub mod consul; // the only place that knows Consul
pub mod etcd; // the only place that knows etcd
pub mod dispatch; // how an attempt reaches a worker
pub mod worker; // does attempts
pub mod runners; // how actions are done
pub mod engine; // stores what was decided, then does it
// who talks to it
pub mod site; // the folder of definitions
pub mod sources; // what produces events
pub mod probes; // what anything may be thrown at, for fuzzers and tests
pub mod auth; // who may do what
pub mod api; // JSON over HTTP
pub mod repositories; // the APT repositories: served, kept valid
pub mod agent; // keeps the packages of a target host at the versions that are advertised
pub mod server; // builds the parts, stops them in reverse order
pub mod cli; // one file per subcommand
