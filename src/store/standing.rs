//! Whether the database answers, as everybody who needs it may know at once.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// How the store stands.
#[derive(Debug)]
pub(super) struct Standing {
    away: Mutex<Option<String>>,
    /// Counts the times after which nobody knows what became of writes that had been asked for.
    doubts: watch::Sender<u64>,
}

impl Default for Standing {
    fn default() -> Standing {
        Standing { away: Mutex::default(), doubts: watch::channel(0).0 }
    }
}

impl Standing {
    /// Why the database can't be used at the moment.
    pub(super) fn away(&self) -> Option<String> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that it can't be used; whether that is news.
    pub(super) fn went_away(&self, why: &str) -> bool {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let news = away.is_none();
        *away = Some(why.to_owned());
        news
    }

    /// Notes that it can be used; whether that is news.
    pub(super) fn came_back(&self) -> bool {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }

    /// Notes that writes were refused which may have been stored.
    pub(super) fn doubt(&self) {
        self.doubts.send_modify(|doubts| *doubts += 1);
    }

    /// Sees each doubt.
    pub(super) fn doubts(&self) -> watch::Receiver<u64> {
        self.doubts.subscribe()
    }
}
