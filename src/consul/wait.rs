//! Blocking queries: how Consul is asked to answer only once something has changed, and what its answers then mean.
//!
//! * An answer does not mean that something changed: the caller compares.
//! * An index that goes backwards is of another history (a restored snapshot, another agent): the next question does not wait.
//! * After an answer, 0 is never sent: it would not wait at all. 1 is the least.
//! * However often it answers, it is not asked more than twice a second for long.

use std::time::Duration;

use reqwest::Url;
use tokio::time::Instant;

/// How long Consul is asked to wait. It adds up to a sixteenth.
const LONGEST: Duration = Duration::from_secs(60);
/// Answers in a row that are taken as they come.
const BURST: u32 = 10;
/// How often it is asked for long.
const EVERY: Duration = Duration::from_millis(500);

/// What to wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    after: Option<After>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum After {
    Index(u64),
    Hash(String),
}

impl Wait {
    /// The answer comes at once.
    pub fn no() -> Wait {
        Wait::default()
    }

    /// It comes when there is something newer than this index, or after a minute.
    pub fn after(index: &Index) -> Wait {
        Wait { after: index.0.map(After::Index) }
    }

    /// As `after`, for endpoints that tell changes by a hash of the answer.
    pub fn until_other_than(hash: Option<String>) -> Wait {
        Wait { after: hash.map(After::Hash) }
    }

    pub(super) fn add_to(&self, url: &mut Url) {
        let Some(after) = &self.after else { return };
        let mut query = url.query_pairs_mut();
        match after {
            After::Index(index) => query.append_pair("index", &index.to_string()),
            After::Hash(hash) => query.append_pair("hash", hash),
        };
        query.append_pair("wait", &format!("{}s", LONGEST.as_secs()));
    }

    /// How long the answer may take.
    pub(super) fn takes(&self) -> Duration {
        match self.after {
            Some(_) => LONGEST + LONGEST / 16,
            None => Duration::ZERO,
        }
    }
}

/// The place of the last answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index(Option<u64>);

/// How an answer stands to the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    First,
    Same,
    On,
    /// Indexes of before mean nothing any more.
    Back,
}

impl Index {
    /// Of an answer that was noted elsewhere.
    pub fn at(index: u64) -> Index {
        Index(Some(index.max(1)))
    }

    /// Notes the index of an answer.
    pub fn note(&mut self, answer: Option<u64>) -> Moved {
        let new = answer.map(|index| index.max(1));
        let moved = match (self.0, new) {
            (Some(old), Some(new)) if new < old => Moved::Back,
            (Some(old), Some(new)) if new == old => Moved::Same,
            (Some(_), Some(_)) => Moved::On,
            _ => Moved::First,
        };
        self.0 = if moved == Moved::Back { None } else { new };
        moved
    }

    /// Notes one that is no number to compare: it may go anywhere. That is so for events.
    pub fn note_opaque(&mut self, answer: Option<u64>) {
        self.0 = answer.map(|index| index.max(1));
    }
}

/// Holds questions back that would come too often.
#[derive(Debug, Default)]
pub struct Pace {
    /// When the next question would come if they came at the pace.
    due: Option<Instant>,
}

impl Pace {
    /// Waits until the next question may be asked.
    pub async fn next(&mut self) {
        tokio::time::sleep(self.ask(Instant::now())).await;
    }

    /// How long a question of `now` has to wait.
    fn ask(&mut self, now: Instant) -> Duration {
        let due = self.due.map_or(now, |due| due.max(now));
        self.due = Some(due + EVERY);
        due.duration_since(now).saturating_sub(EVERY * (BURST - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(wait: &Wait) -> String {
        let Ok(mut url) = Url::parse("http://a/") else { return String::new() };
        wait.add_to(&mut url);
        url.query().unwrap_or_default().to_owned()
    }

    #[test]
    fn an_index_that_goes_backwards_is_forgotten_and_zero_is_never_sent() {
        let mut index = Index::default();
        assert_eq!(query(&Wait::after(&index)), "");
        assert_eq!(index.note(Some(0)), Moved::First);
        assert_eq!(query(&Wait::after(&index)), "index=1&wait=60s");
        assert_eq!(index.note(Some(40)), Moved::On);
        assert_eq!(index.note(Some(40)), Moved::Same);
        assert_eq!(index.note(Some(7)), Moved::Back);
        assert_eq!(query(&Wait::after(&index)), "");
        assert_eq!(index.note(Some(7)), Moved::First);
        assert_eq!(query(&Wait::until_other_than(Some("9f".to_owned()))), "hash=9f&wait=60s");
    }

    #[test]
    fn answers_that_come_too_often_are_asked_for_twice_a_second() {
        let (mut pace, begun) = (Pace::default(), Instant::now());
        let mut now = begun;
        let mut ask = |now: &mut Instant| {
            let wait = pace.ask(*now);
            *now += wait;
            wait
        };
        let burst: Duration = (0..BURST).map(|_| ask(&mut now)).sum();
        assert_eq!(burst, Duration::ZERO);
        let held: Duration = (0..20).map(|_| ask(&mut now)).sum();
        assert_eq!((held, now - begun), (EVERY * 20, EVERY * 20));
        now += Duration::from_secs(60);
        let rested: Duration = (0..BURST).map(|_| ask(&mut now)).sum();
        assert_eq!(rested, Duration::ZERO);
    }
}
