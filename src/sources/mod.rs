//! What produces events: one file per kind. A source hands events to the engine and remembers how it fares.
//!
//! Promises: what a source takes is bounded before it is read; nothing is parsed before its sender has proved who they are.

mod health;
pub mod webhook;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::definitions::Source;
use crate::definitions::source::Kind;
use crate::definitions::webhook::Verify;
use crate::engine::Engine;

pub use health::Health;

/// All sources of a server.
#[derive(Debug)]
pub struct Sources {
    engine: Arc<Engine>,
    health: Mutex<HashMap<String, Health>>,
    /// Deliveries that are being read or stored.
    deliveries: Semaphore,
    /// KiB of memory that their bodies may take together.
    memory: Arc<Semaphore>,
}

impl Sources {
    pub fn new(engine: Arc<Engine>) -> Arc<Sources> {
        Arc::new(Sources {
            engine,
            health: Mutex::default(),
            deliveries: Semaphore::new(webhook::MOST_DELIVERIES),
            memory: Arc::new(Semaphore::new(webhook::MEMORY_KIB)),
        })
    }

    /// How a source fares: what it took since the server started, and what is wrong with it now.
    pub async fn health(&self, source: &Source) -> Health {
        let mut health = self.lock().get(&source.name).cloned().unwrap_or_default();
        health.problem = self.problem(source).await;
        health
    }

    async fn problem(&self, source: &Source) -> Option<String> {
        let Kind::Webhook(hook) = &source.kind;
        let secret = match &hook.verify {
            Verify::None => return None,
            Verify::HmacSha256 { secret, .. } | Verify::Token { secret, .. } => secret,
        };
        match self.engine.secrets().get(secret).await {
            Ok(Some(_)) => None,
            Ok(None) => Some(format!("the secret `{secret}` is not set: siskin secret set {secret}")),
            Err(error) => Some(error.to_string()),
        }
    }

    fn note(&self, source: &str, change: impl FnOnce(&mut Health)) {
        change(self.lock().entry(source.to_owned()).or_default());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Health>> {
        // Counters are whole whatever happened to who held them.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
