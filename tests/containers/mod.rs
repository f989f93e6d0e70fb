//! Packs `container`, `registry` and `kubernetes`: a real engine and real registries; Kubernetes is a stand-in by its wire contract.

mod engine;
mod kubernetes;
mod registry;
