//! The pack `consul`, hosts that are found in Consul, and versions that are advertised elsewhere, with real servers.

mod actions;
mod advertised_in_etcd;
mod inventory;
