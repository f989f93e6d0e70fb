//! Several servers on one database: each beats, hears what the others changed, and takes up what a dead one left behind.
//!
//! Promises: what a server that died had begun is lost or begun again within half a minute; a server that was taken for dead, or that can't know whether it
//! was, ends the attempts that it does itself; what one server changed, watchers at another see at once, and, when a word is lost, when they look again.
//!
//! A server that is alone on its database does nothing of all this.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::dispatch::Order;
use crate::model::{AttemptKey, ErrorKind, EventId, Outcome, RunError, RunId};
use crate::store::{Beat, DEAD_AFTER, LONGEST_NEWS, News, StoreError};

use super::{Change, Engine, Refused, lock};

/// How often a server says that it lives.
const BEAT: Duration = Duration::from_secs(2);
/// How long one beat may take.
const BEAT_TAKES: Duration = Duration::from_secs(3);
/// A server among others that could not beat for so long ends its attempts: soon the others take it for dead.
const END_AFTER: Duration = Duration::from_secs(10);
/// How often attempts that are done here are compared with what their runs want, in case a word was lost.
const COMPARE: Duration = Duration::from_secs(10);
/// Words are collected for so long before they are sent.
const COLLECT: Duration = Duration::from_millis(10);
/// How long to wait before listening is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Words that may wait to be sent.
const WORDS: usize = 8192;
/// Who holds it takes up what dead servers left behind.
const RECOVERY: &str = "recovery";

/// What this server is among others.
#[derive(Debug)]
pub(super) struct Cluster {
    /// To the task that tells the others; `None` where there are no others.
    words: Option<mpsc::Sender<Word>>,
    waiting: Mutex<Option<mpsc::Receiver<Word>>>,
    /// Words were dropped: the others are told to look at everything.
    dropped: AtomicBool,
    /// Attempts that the worker in this process has begun.
    here: Mutex<BTreeSet<AttemptKey>>,
    /// Those of them that were ended because this server may be taken for dead.
    abandoned: Mutex<BTreeSet<AttemptKey>>,
}

/// What servers tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Word {
    Event(i64),
    Run(i64),
    RunEnded(i64),
    Log(i64),
    Approval(i64),
    Definitions,
    Holds,
    /// A run wakes earlier than the timer may think.
    Earlier,
    /// Some words were lost.
    Everything,
}

impl Word {
    fn of(change: Change) -> Word {
        match change {
            Change::Event(EventId(id)) => Word::Event(id),
            Change::Run(RunId(id)) => Word::Run(id),
            Change::RunEnded(RunId(id)) => Word::RunEnded(id),
            Change::Log(RunId(id)) => Word::Log(id),
            Change::Approval(RunId(id)) => Word::Approval(id),
            Change::Definitions => Word::Definitions,
            Change::Holds => Word::Holds,
            Change::Everything => Word::Everything,
        }
    }

    fn change(self) -> Option<Change> {
        Some(match self {
            Word::Event(id) => Change::Event(EventId(id)),
            Word::Run(id) => Change::Run(RunId(id)),
            Word::RunEnded(id) => Change::RunEnded(RunId(id)),
            Word::Log(id) => Change::Log(RunId(id)),
            Word::Approval(id) => Change::Approval(RunId(id)),
            Word::Definitions => Change::Definitions,
            Word::Holds => Change::Holds,
            Word::Everything => Change::Everything,
            Word::Earlier => return None,
        })
    }

    fn write(self, text: &mut String) {
        let (letter, id) = match self {
            Word::Event(id) => ('e', Some(id)),
            Word::Run(id) => ('r', Some(id)),
            Word::RunEnded(id) => ('R', Some(id)),
            Word::Log(id) => ('l', Some(id)),
            Word::Approval(id) => ('a', Some(id)),
            Word::Definitions => ('d', None),
            Word::Holds => ('h', None),
            Word::Earlier => ('t', None),
            Word::Everything => ('*', None),
        };
        text.push(' ');
        text.push(letter);
        if let Some(id) = id {
            text.push_str(&id.to_string());
        }
    }

    /// What a newer server says and this one does not know is worth a look at everything.
    fn read(text: &str) -> Word {
        let mut characters = text.chars();
        let letter = characters.next();
        let id = characters.as_str().parse::<i64>();
        match (letter, id) {
            (Some('e'), Ok(id)) => Word::Event(id),
            (Some('r'), Ok(id)) => Word::Run(id),
            (Some('R'), Ok(id)) => Word::RunEnded(id),
            (Some('l'), Ok(id)) => Word::Log(id),
            (Some('a'), Ok(id)) => Word::Approval(id),
            (Some('d'), _) => Word::Definitions,
            (Some('h'), _) => Word::Holds,
            (Some('t'), _) => Word::Earlier,
            _ => Word::Everything,
        }
    }
}

impl Cluster {
    pub(super) fn new(is_shared: bool) -> Cluster {
        let (words, waiting) = match is_shared {
            true => {
                let (words, waiting) = mpsc::channel(WORDS);
                (Some(words), Some(waiting))
            }
            false => (None, None),
        };
        Cluster {
            words,
            waiting: Mutex::new(waiting),
            dropped: AtomicBool::new(false),
            here: Mutex::default(),
            abandoned: Mutex::default(),
        }
    }

    fn is_shared(&self) -> bool {
        self.words.is_some()
    }

    pub(super) fn tell(&self, change: Change) {
        self.say(Word::of(change));
    }

    pub(super) fn tell_earlier(&self) {
        self.say(Word::Earlier);
    }

    fn say(&self, word: Word) {
        let Some(words) = &self.words else { return };
        if words.try_send(word).is_err() {
            self.dropped.store(true, Ordering::SeqCst);
        }
    }

    /// Notes that the worker in this process begins an attempt.
    pub(super) fn begun(&self, key: &AttemptKey) {
        if self.is_shared() {
            lock(&self.here).insert(key.clone());
        }
    }

    /// Notes that an attempt has ended; its outcome as it counts.
    pub(super) fn ended(&self, key: &AttemptKey, outcome: Outcome) -> Outcome {
        lock(&self.here).remove(key);
        let was_abandoned = lock(&self.abandoned).remove(key);
        match outcome {
            Outcome::Failed { output, .. } if was_abandoned => {
                let why = "its server lost the database while it was at work, and ended it";
                Outcome::Failed { error: RunError::new(ErrorKind::Lost, why), output }
            }
            other => other,
        }
    }
}

impl Engine {
    /// Is one of the servers, until it is stopped: then it gives back all that it holds. To be stopped last, when its attempts have ended.
    pub async fn live_among_others(self: Arc<Self>, stop: CancellationToken) {
        if !self.store.is_shared() {
            return;
        }
        self.want_lease(RECOVERY);
        let mut alive_since = Instant::now();
        let mut heard = Instant::now();
        let mut compared = Instant::now();
        let (mut others, mut unfinished) = (true, false);
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beats.tick() => (),
                () = self.leases.changed.notified() => (),
                () = stop.cancelled() => break,
            }
            let asked = Instant::now();
            let beat = timeout(BEAT_TAKES, self.store.beat(&self.node.boot, self.leases.wanted())).await;
            match beat.unwrap_or_else(|_| Err(StoreError::Away("a beat took too long".to_owned()))) {
                Ok(Beat::Alive { held, others: some }) => {
                    self.leases.got(held, asked);
                    (heard, others) = (asked, some);
                }
                Ok(Beat::Buried) => {
                    tracing::error!("the other servers took this one for dead; what it did is theirs now");
                    self.leases.lose();
                    self.end_all_here().await;
                    if let Err(error) = self.store.join(self.node.clone()).await {
                        tracing::warn!(%error, "this server can't come back yet");
                    }
                    alive_since = Instant::now();
                    continue;
                }
                Err(error) => {
                    tracing::debug!(%error, "this server can't say that it lives");
                    self.leases.expire();
                    alive_since = Instant::now();
                    if others && heard.elapsed() > END_AFTER {
                        self.end_all_here().await;
                    }
                    continue;
                }
            }
            if self.leases.has(RECOVERY) {
                // After an outage nobody has beaten; who is alive gets the time to say so.
                let silent = alive_since.elapsed().as_millis() > u128::from(DEAD_AFTER.0);
                match self.take_up_what_was_left(silent, &mut unfinished).await {
                    Ok(()) => unfinished = false,
                    Err(error) => tracing::error!(%error, "what a dead server left can't be taken up yet"),
                }
            }
            if compared.elapsed() > COMPARE {
                compared = Instant::now();
                self.compare_all_here().await;
                // Words wake only: whatever was missed is seen now.
                self.routable.notify_one();
                self.earlier.notify_one();
            }
        }
        if let Err(error) = self.store.leave(&self.node.boot).await {
            tracing::warn!(%error, "the other servers can't be told that this one stops; they find out");
        }
    }

    async fn take_up_what_was_left(
        self: &Arc<Self>,
        silent: bool,
        unfinished: &mut bool,
    ) -> Result<(), Refused> {
        let dead = self.store.bury_dead(silent).await?;
        if !dead.is_empty() {
            tracing::warn!("{} server(s) stopped or died; what they were at goes on here", dead.len());
            *unfinished = true;
        }
        if *unfinished {
            self.recover_runs().await?;
        }
        self.recover_attempts().await?;
        Ok(())
    }

    /// Ends all attempts of the worker in this process: elsewhere they count as lost, or will.
    async fn end_all_here(self: &Arc<Self>) {
        let here: Vec<AttemptKey> = lock(&self.cluster.here).iter().cloned().collect();
        if !here.is_empty() {
            tracing::error!("{} attempt(s) are ended: the other servers may take them for lost", here.len());
        }
        for key in here {
            if lock(&self.cluster.abandoned).insert(key.clone()) {
                self.order(Order::Cancel { key, worker: None }).await;
            }
        }
    }

    async fn compare_all_here(self: &Arc<Self>) {
        let runs: BTreeSet<RunId> = lock(&self.cluster.here).iter().map(|key| key.run).collect();
        for run in runs {
            self.compare_here(run).await;
        }
    }

    /// Ends the attempts of a run that are done here and that the run, which another server may have moved, no longer wants.
    async fn compare_here(self: &Arc<Self>, run: RunId) {
        self.forget_held(run);
        let here: Vec<AttemptKey> =
            lock(&self.cluster.here).iter().filter(|key| key.run == run).cloned().collect();
        for key in here {
            match self.is_wanted(&key).await {
                Ok(true) => (),
                Ok(false) => self.order(Order::Cancel { key, worker: None }).await,
                Err(error) => tracing::debug!(%run, %error, "an attempt can't be compared with its run"),
            }
        }
    }

    /// Sends words to the others, those of some milliseconds at once.
    pub(super) async fn tell_others(self: &Arc<Self>, stop: &CancellationToken) {
        let Some(mut waiting) = lock(&self.cluster.waiting).take() else { return };
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut words = BTreeSet::new();
        loop {
            tokio::select! {
                word = waiting.recv() => words.extend(word),
                // Without words too: who listens hears that the connection lives.
                _ = beats.tick() => (),
                () = stop.cancelled() => return,
            }
            if !words.is_empty() {
                sleep(COLLECT).await;
                while let Ok(word) = waiting.try_recv() {
                    words.insert(word);
                }
            }
            if self.cluster.dropped.swap(false, Ordering::SeqCst) {
                words.insert(Word::Everything);
            }
            for text in write_all(&self.node.boot, &std::mem::take(&mut words)) {
                if let Err(error) = self.store.tell(&text).await {
                    tracing::debug!(%error, "the other servers can't be told");
                    self.cluster.dropped.store(true, Ordering::SeqCst);
                    break;
                }
            }
        }
    }

    /// Hears what the others say. Whenever the connection is made, words may have been lost before.
    pub(super) async fn hear_others(self: &Arc<Self>, stop: &CancellationToken) {
        loop {
            let hearing = async {
                match self.store.listen().await {
                    Ok(Some(news)) => self.hear(news).await,
                    Ok(None) => std::future::pending().await,
                    Err(error) => tracing::debug!(%error, "the other servers can't be heard"),
                }
                sleep(AGAIN).await;
            };
            tokio::select! {
                () = hearing => (),
                () = stop.cancelled() => return,
            }
        }
    }

    async fn hear(self: &Arc<Self>, mut news: News) {
        self.heard(Word::Everything).await;
        while let Some(text) = news.next().await {
            let mut words = text.split(' ');
            if words.next() == Some(&*self.node.boot) {
                continue;
            }
            for word in words {
                self.heard(Word::read(word)).await;
            }
        }
    }

    async fn heard(self: &Arc<Self>, word: Word) {
        match word {
            Word::Event(_) => self.routable.notify_one(),
            Word::Earlier => self.earlier.notify_one(),
            Word::Run(run) => self.compare_here(RunId(run)).await,
            Word::Definitions | Word::Holds => self.read_again().await,
            Word::Everything => {
                self.routable.notify_one();
                self.earlier.notify_one();
                self.compare_all_here().await;
                self.read_again().await;
            }
            Word::RunEnded(_) | Word::Log(_) | Word::Approval(_) => (),
        }
        if let Some(change) = word.change() {
            self.changes.send(change).ok(); // Nobody may be watching.
        }
    }

    /// Reads what this server keeps in memory of what others may have changed.
    async fn read_again(self: &Arc<Self>) {
        if let Err(error) = self.refresh_holds().await {
            tracing::warn!(%error, "what people hold can't be read");
        }
        if let Err(error) = self.follow_definitions().await {
            tracing::warn!(%error, "the definitions in force can't be read");
        }
    }

    /// After a loss of which nobody knows what was stored: looks at all that is open, as at start.
    pub(super) async fn settle_doubts(self: &Arc<Self>, stop: &CancellationToken) {
        let mut doubts = self.store.doubts();
        loop {
            tokio::select! {
                changed = doubts.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
            while let Err(error) = self.look_at_all().await {
                tracing::warn!(%error, "what is open can't be looked at yet");
                tokio::select! {
                    () = sleep(AGAIN) => (),
                    () = stop.cancelled() => return,
                }
            }
        }
    }

    async fn look_at_all(self: &Arc<Self>) -> Result<(), Refused> {
        self.recover_runs().await?;
        self.dispatch_own_again().await?;
        self.routable.notify_one();
        self.earlier.notify_one();
        Ok(())
    }
}

/// As texts that are short enough: first who says it, then the words.
fn write_all(boot: &str, words: &BTreeSet<Word>) -> Vec<String> {
    let mut texts = vec![boot.to_owned()];
    for word in words {
        if let Some(text) = texts.last_mut().filter(|text| text.len() < LONGEST_NEWS - 32) {
            word.write(text);
            continue;
        }
        let mut text = boot.to_owned();
        word.write(&mut text);
        texts.push(text);
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_heard_as_they_were_said() {
        let all = [
            Word::Event(1),
            Word::Run(i64::MAX),
            Word::RunEnded(3),
            Word::Log(4),
            Word::Approval(5),
            Word::Definitions,
            Word::Holds,
            Word::Earlier,
            Word::Everything,
        ];
        let texts = write_all("boot", &all.into());
        let heard: BTreeSet<Word> = texts[0].split(' ').skip(1).map(Word::read).collect();
        assert_eq!((texts.len(), heard), (1, all.into()));
        assert_eq!(Word::read("x9"), Word::Everything);
        assert_eq!(write_all("boot", &BTreeSet::new()), ["boot"]);
    }

    #[test]
    fn many_words_are_several_texts() {
        let words: BTreeSet<Word> = (0..5000).map(|id| Word::Run(i64::MAX - id)).collect();
        let texts = write_all("boot", &words);
        assert!(texts.iter().all(|text| text.len() <= LONGEST_NEWS), "too long");
        let heard: usize = texts.iter().map(|text| text.split(' ').count() - 1).sum();
        assert_eq!(heard, 5000);
    }

    #[test]
    fn an_attempt_that_was_ended_for_its_server_s_sake_counts_as_lost() {
        let cluster = Cluster::new(true);
        let key = AttemptKey { run: RunId(1), step: "a".to_owned(), visit: 1, item: None, number: 1 };
        cluster.begun(&key);
        lock(&cluster.abandoned).insert(key.clone());
        let cancelled = Outcome::failed(ErrorKind::Cancelled, "x");
        assert!(matches!(
            cluster.ended(&key, cancelled.clone()),
            Outcome::Failed { error, .. } if error.kind == ErrorKind::Lost
        ));
        assert_eq!(cluster.ended(&key, cancelled.clone()), cancelled);
    }
}
