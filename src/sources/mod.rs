//! What produces events: one file per kind. A source hands events to the engine and remembers how it fares.
//!
//! Promises: what a source takes is bounded before it is read; nothing is parsed before its sender has proved who they are.

mod amqp;
mod consul;
mod etcd;
mod exec;
mod file;
mod git_branch;
mod github_releases;
mod health;
mod http_poll;
mod live;
mod seat;
mod time;
pub mod webhook;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::definitions::Source;
use crate::definitions::source::Kind;
use crate::engine::{Accepted, Engine};

pub use health::{Health, Life, State};

/// All sources of a server.
#[derive(Debug)]
pub struct Sources {
    engine: Arc<Engine>,
    health: Mutex<HashMap<String, Health>>,
    /// Deliveries that are being read or stored.
    deliveries: Semaphore,
    /// KiB of memory that their bodies may take together.
    memory: Arc<Semaphore>,
    rates: webhook::Rates,
}

impl Sources {
    pub fn new(engine: Arc<Engine>) -> Arc<Sources> {
        Arc::new(Sources {
            engine,
            health: Mutex::default(),
            deliveries: Semaphore::new(webhook::MOST_DELIVERIES),
            memory: Arc::new(Semaphore::new(webhook::MEMORY_KIB)),
            rates: webhook::Rates::default(),
        })
    }

    /// How a source fares: what it did since the server started, and what is wrong with it now.
    pub async fn health(&self, source: &Source) -> Health {
        let mut health = self.lock().get(&source.name).cloned().unwrap_or_default();
        match &source.kind {
            Kind::Webhook(hook) => {
                health.problem = webhook::problem(&hook.verify, self.engine.secrets()).await;
            }
            Kind::Live(_) => drop(health.live.get_or_insert_default()),
        }
        health
    }

    fn note_accepted(&self, source: &str, accepted: &[Accepted]) {
        let now = self.engine.clock().now();
        let known = accepted.iter().filter(|event| event.known).count();
        let new = accepted.len() - known;
        self.note(source, |health| {
            health.known += known as u64;
            health.accepted += new as u64;
            if let Some(last) = accepted.iter().rev().find(|event| !event.known) {
                health.last_event = Some(last.event);
                health.last_event_at = Some(now);
            }
        });
    }

    /// What a source did is forgotten with it.
    fn forget(&self, source: &str) {
        self.lock().remove(source);
    }

    fn note(&self, source: &str, change: impl FnOnce(&mut Health)) {
        change(self.lock().entry(source.to_owned()).or_default());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Health>> {
        // Counters are whole whatever happened to who held them.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
