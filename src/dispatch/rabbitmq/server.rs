//! The server's end: hands attempts to the broker, and what workers say to the engine.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::future::BoxFuture;
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    BEATS, DEAD, FIRST_PAUSE, NEWS, REPORTS, longer, or_never, pool_queue, second, wire, worker_queue,
};
use crate::amqp::{Address, AmqpError, Channel, Connection, Consumer, Delivery, MESSAGE_BYTES, Queue, To};
use crate::dispatch::{Dispatched, Notice, Order, Report, Verdict, sealing};
use crate::model::desk::Reply;
use crate::model::message::{FromWorker, Said, ToServers, ToWorker};
use crate::model::{AttemptKey, DEFAULT_POOL};

/// How many reports may be under way between the broker and the store.
const REPORTS_AT_ONCE: u16 = 512;
const BEATS_AT_ONCE: u16 = 64;
const EVENTS: usize = 256;
/// How many attempts may wait for the broker's confirmation.
const UNCONFIRMED: usize = 1024;
/// How often workers that take every pool are told which there are.
const NEWS_EVERY: Duration = Duration::from_secs(5);
/// Of how many attempts it is remembered which of their lines came last.
const REMEMBERED: usize = 20_000;
/// A pool's queue that does not answer for so long while the broker does is given up.
const DEAF_FOR: Duration = Duration::from_secs(5);
/// The longest name of a pool or worker that fits into the name of a queue.
const LONGEST_NAME: usize = 200;

/// The server's end of the way to workers. Runs as a task; never blocks the engine: what can't be sent is told, and waits in the store.
#[derive(Debug)]
pub struct ServerLink {
    address: Address,
    /// Names this start of the server.
    boot: String,
    orders: mpsc::Receiver<Order>,
    reports: mpsc::Sender<Report>,
    notices: mpsc::Sender<Notice>,
    pools: BTreeSet<String>,
    heard: Heard,
    /// The pools whose queues do not answer, and since when.
    deaf: HashMap<String, Instant>,
    /// The pools whose second queue is used on this connection.
    seconds: BTreeSet<String>,
}

/// What happens on a connection.
#[derive(Debug)]
enum Event {
    Said(Delivery),
    Unreadable(Delivery, String),
    /// Whether an attempt for a pool, or for one worker, was taken.
    Confirmed {
        key: AttemptKey,
        pool: Option<String>,
        sent: Result<(), AmqpError>,
    },
    /// What was delivered is on disk; the answer may go, and then it is acknowledged.
    Settled {
        delivery: Delivery,
        answer: Option<(String, ToWorker)>,
    },
    Gone(String),
}

/// A connection with all that hangs on it; what is under way ends when it is dropped.
struct Live {
    connection: Arc<Connection>,
    out: Channel,
    events: mpsc::Receiver<Event>,
    tell: mpsc::Sender<Event>,
    tasks: JoinSet<()>,
    /// Each queue of a pool, once it is declared, has a channel of its own: one that does not answer holds up its channel.
    declared: HashMap<String, Arc<OnceCell<Channel>>>,
    unconfirmed: HashSet<AttemptKey>,
}

type Connecting = BoxFuture<'static, Result<Live, AmqpError>>;

impl ServerLink {
    /// The end of a server whose start is named `boot`: takes `orders`, gives what workers say to `reports` and what becomes known about them to
    /// `notices`.
    pub fn new(
        address: Address,
        boot: String,
        orders: mpsc::Receiver<Order>,
        reports: mpsc::Sender<Report>,
        notices: mpsc::Sender<Notice>,
    ) -> ServerLink {
        let pools = BTreeSet::from([DEFAULT_POOL.to_owned()]);
        let (heard, deaf, seconds) = (Heard::default(), HashMap::new(), BTreeSet::new());
        ServerLink { address, boot, orders, reports, notices, pools, heard, deaf, seconds }
    }

    /// Works until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut live: Option<Live> = None;
        let mut pause = FIRST_PAUSE;
        let mut told = String::new();
        let mut connecting: Option<Connecting> = Some(self.connect(Duration::ZERO));
        let mut news = tokio::time::interval(NEWS_EVERY);
        loop {
            let gone = tokio::select! {
                () = stop.cancelled() => break,
                opened = or_never(connecting.as_mut()) => {
                    connecting = None;
                    match opened {
                        Ok(opened) => {
                            (live, pause) = (Some(opened), FIRST_PAUSE);
                            told.clear();
                            self.deaf.clear();
                            self.seconds.clear();
                            tracing::info!("connected to the broker {}", self.address);
                            self.notice(Notice::Connected).await;
                            self.tell_pools(&mut live).await
                        }
                        Err(error) => Err(error.to_string()),
                    }
                }
                Some(order) = self.orders.recv(), if has_room(live.as_ref()) => {
                    self.carry(&mut live, order).await
                }
                event = next(&mut live) => match (&mut live, event) {
                    (Some(live), event) => self.handle(live, event).await,
                    (None, _) => Ok(()),
                },
                _ = news.tick() => self.tell_pools(&mut live).await,
            };
            if let Some(live) = &mut live {
                while live.tasks.try_join_next().is_some() {}
            }
            let Err(why) = gone else { continue };
            if told != why {
                tracing::warn!("{why}; trying again, attempts wait in the store");
                told.clone_from(&why);
            }
            self.lose(live.take()).await;
            self.notice(Notice::Missing(why)).await;
            connecting = Some(self.connect(pause));
            pause = longer(pause);
        }
        if let Some(live) = live {
            live.connection.close().await;
        }
    }

    fn connect(&self, pause: Duration) -> Connecting {
        let (address, boot, notices) = (self.address.clone(), self.boot.clone(), self.notices.clone());
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            Live::open(&address, &boot, notices).await
        })
    }

    /// What the broker did not confirm waits in the store.
    async fn lose(&self, live: Option<Live>) {
        let Some(live) = live else { return };
        for key in live.unconfirmed {
            self.notice(Notice::Unsent(key)).await;
        }
    }

    async fn notice(&self, notice: Notice) {
        // An engine that is gone needs to know nothing.
        self.notices.send(notice).await.ok();
    }

    async fn carry(&mut self, live: &mut Option<Live>, order: Order) -> Result<(), String> {
        let Some(live) = live else {
            if let Order::Do(dispatched) = order {
                self.notice(Notice::Unsent(dispatched.attempt.key)).await;
            }
            // A cancel is told again while its attempt lives; workspaces go when the worker asks.
            return Ok(());
        };
        let (to, message) = match order {
            Order::Do(dispatched) => return self.hand_over(live, *dispatched).await,
            Order::Cancel { key, worker } => (worker, ToWorker::Cancel { key }),
            Order::RunEnded { run, worker } => (worker, ToWorker::RunEnded { run }),
        };
        let body = wire::write(message);
        match to {
            Some(worker) => live.tell(To::Queue(&worker_queue(&worker)), &body).await,
            None => live.tell(To::All(NEWS), &body).await,
        }
    }

    async fn hand_over(&mut self, live: &mut Live, dispatched: Dispatched) -> Result<(), String> {
        // The secrets stay here: they go with the answer to the claim.
        let attempt = dispatched.attempt;
        let key = attempt.key.clone();
        let queue = match &attempt.route.worker {
            Some(worker) => worker_queue(worker),
            None => self.queue_of(attempt.route.pool()),
        };
        let pool = attempt.route.worker.is_none().then(|| attempt.route.pool().to_owned());
        let body = wire::write(ToWorker::Do { key: key.clone(), attempt: Box::new(attempt) });
        if queue.len() > LONGEST_NAME || body.len() > MESSAGE_BYTES {
            let why = match body.len() {
                bytes if bytes > MESSAGE_BYTES => format!(
                    "the attempt with its input and scripts has {bytes} bytes, more than the {MESSAGE_BYTES} that fit into a message"
                ),
                _ => format!("`{queue}` is too long for the name of a queue; choose a shorter name"),
            };
            self.notice(Notice::Refused { key, why }).await;
            return Ok(());
        }
        live.send_attempt(key, queue, pool.clone(), body);
        if pool.is_some_and(|pool| self.pools.insert(pool)) {
            let news = wire::write(ToWorker::Pools { names: self.pools.iter().cloned().collect() });
            live.tell(To::All(NEWS), &news).await?;
        }
        Ok(())
    }

    async fn tell_pools(&self, live: &mut Option<Live>) -> Result<(), String> {
        let Some(live) = live else { return Ok(()) };
        let news = wire::write(ToWorker::Pools { names: self.pools.iter().cloned().collect() });
        live.tell(To::All(NEWS), &news).await
    }

    async fn handle(&mut self, live: &mut Live, event: Event) -> Result<(), String> {
        match event {
            Event::Said(delivery) => self.hear(live, delivery).await,
            Event::Unreadable(delivery, why) => {
                live.bury(delivery, why);
                Ok(())
            }
            Event::Confirmed { key, pool, sent } => {
                live.unconfirmed.remove(&key);
                if let Some(pool) = pool {
                    self.look_at_pool(live, &pool, &sent);
                }
                if let Err(error) = sent {
                    tracing::debug!(attempt = %key, %error, "an attempt was not confirmed");
                    self.notice(Notice::Unsent(key)).await;
                }
                Ok(())
            }
            Event::Settled { delivery, answer } => {
                if let Some((worker, message)) = answer {
                    // A worker that is not there now asks again when it is.
                    live.tell(To::Queue(&worker_queue(&worker)), &wire::write(message)).await?;
                }
                delivery.acknowledge().await.map_err(|error| error.to_string())
            }
            Event::Gone(why) => Err(why),
        }
    }

    fn queue_of(&self, pool: &str) -> String {
        if self.seconds.contains(pool) { pool_queue(&second(pool)) } else { pool_queue(pool) }
    }

    /// Sees to the queue of a pool after something was sent to it. RabbitMQ 3.10, killed in the first moments of a queue, comes back without a leader for it, and
    /// whoever uses or deletes it waits for ever, until it is started once more: its second queue is used meanwhile.
    fn look_at_pool(&mut self, live: &mut Live, pool: &str, sent: &Result<(), AmqpError>) {
        match sent {
            Ok(()) => drop(self.deaf.remove(pool)),
            Err(AmqpError::NoQueue(queue)) => drop(live.declared.remove(queue)),
            Err(AmqpError::Deaf(queue)) if *queue == self.queue_of(pool) => {
                let since = *self.deaf.entry(pool.to_owned()).or_insert_with(Instant::now);
                if since.elapsed() >= DEAF_FOR {
                    self.deaf.remove(pool);
                    let other = match self.seconds.remove(pool) {
                        true => pool.to_owned(),
                        false => {
                            self.seconds.insert(pool.to_owned());
                            second(pool)
                        }
                    };
                    tracing::warn!(
                        "the queue {queue} does not answer although the broker does; {} takes its place",
                        pool_queue(&other)
                    );
                    self.pools.insert(other);
                }
            }
            Err(_) => (),
        }
    }

    /// Gives the engine what a worker said. It is acknowledged once it is on disk.
    async fn hear(&mut self, live: &mut Live, delivery: Delivery) -> Result<(), String> {
        let FromWorker { by, id, key, said } = match wire::read(delivery.body()) {
            Ok(said) => said,
            Err(poison) => {
                if let Some(key) = poison.key {
                    let why = format!("its worker said what this server can't read: {}", poison.why);
                    self.notice(Notice::Refused { key, why }).await;
                }
                live.bury(delivery, poison.why);
                return Ok(());
            }
        };
        let worker = by.worker.clone();
        let report = match said {
            Said::Claim { public_key } => {
                let (go, verdict) = oneshot::channel();
                let (notices, claimed) = (self.notices.clone(), key.clone());
                live.settle(delivery, async move {
                    let answer = match verdict.await.unwrap_or(Verdict::No) {
                        Verdict::No => ToWorker::No { id },
                        Verdict::Go(secrets) if secrets.is_empty() => ToWorker::Go { id, sealed: None },
                        Verdict::Go(secrets) => match sealing::seal(&claimed, &public_key, &secrets) {
                            Ok(sealed) => ToWorker::Go { id, sealed: Some(sealed) },
                            Err(error) => {
                                let why = format!("its secrets can't be sealed for the worker: {error}");
                                notices.send(Notice::Refused { key: claimed, why }).await.ok();
                                ToWorker::No { id }
                            }
                        },
                    };
                    Some(Some((worker, answer)))
                });
                Report::Claim { key, by, go }
            }
            Said::Log { stream, bytes } => {
                let session = by.session.unwrap_or_default();
                let bytes = BASE64.decode(&bytes);
                let (true, Ok(bytes)) = (self.heard.is_new(&key, session, id), bytes) else {
                    // Heard before, on a connection that broke.
                    return delivery.acknowledge().await.map_err(|error| error.to_string());
                };
                let (stored, is_stored) = oneshot::channel();
                live.settle(delivery, async move { is_stored.await.ok().map(|()| None) });
                Report::Log { key, stream, bytes, stored: Some(stored) }
            }
            Said::Progress { output } => {
                let (stored, is_stored) = oneshot::channel();
                live.settle(delivery, async move {
                    let answer = match is_stored.await {
                        Ok(()) => ToWorker::Stored { id },
                        Err(_) => ToWorker::NotStored { id },
                    };
                    Some(Some((worker, answer)))
                });
                Report::Progress { key, output, stored: Some(stored) }
            }
            Said::Question { request } => {
                let (answer, reply) = oneshot::channel();
                live.settle(delivery, async move {
                    let nothing = |_| Reply::Refused { why: "the server gave no answer".to_owned() };
                    let reply = reply.await.unwrap_or_else(nothing);
                    Some(Some((worker, ToWorker::Answer { id, reply })))
                });
                Report::Question { key, request, answer }
            }
            Said::Finished { outcome } => {
                let (stored, is_stored) = oneshot::channel();
                let done_by = worker.clone();
                live.settle(delivery, async move {
                    is_stored.await.ok().map(|()| Some((worker, ToWorker::Stored { id })))
                });
                Report::Finished { key, worker: done_by, outcome, stored: Some(stored) }
            }
            Said::Unreadable { why } => {
                let why = format!("worker {worker} can't read what it is to do: {why}");
                self.notice(Notice::Refused { key, why }).await;
                live.settle(delivery, async move { Some(Some((worker, ToWorker::Stored { id }))) });
                return Ok(());
            }
        };
        // An engine that is gone acknowledges nothing: with the connection it goes to the next one.
        self.reports.send(report).await.map_err(|_| "the server stops".to_owned())
    }
}

impl Live {
    async fn open(address: &Address, boot: &str, notices: mpsc::Sender<Notice>) -> Result<Live, AmqpError> {
        let connection = Arc::new(Connection::open(address, "siskin serve").await?);
        let out = connection.channel().await?;
        out.declare(Queue::Shared(DEAD), None).await?;
        out.declare(Queue::InTurn(REPORTS), Some(DEAD)).await?;
        // Early: a broker that is killed just after it made a queue may lose it.
        out.declare(Queue::Shared(&pool_queue(DEFAULT_POOL)), Some(DEAD)).await?;
        out.declare_for_all(BEATS).await?;
        out.declare_for_all(NEWS).await?;
        let own = format!("siskin.server.{boot}");
        out.declare(Queue::Own(&own), None).await?;
        out.bind(Queue::Own(&own), BEATS).await?;
        let beats = connection.channel().await?.consume(Queue::Own(&own), "beats", BEATS_AT_ONCE).await?;
        let said =
            connection.channel().await?.consume(Queue::InTurn(REPORTS), "reports", REPORTS_AT_ONCE).await?;
        let (tell, events) = mpsc::channel(EVENTS);
        let mut tasks = JoinSet::new();
        tasks.spawn(pump(said, tell.clone(), Event::Said));
        tasks.spawn(hear_beats(beats, tell.clone(), notices));
        let (declared, unconfirmed) = (HashMap::new(), HashSet::new());
        Ok(Live { connection, out, events, tell, tasks, declared, unconfirmed })
    }

    /// In a task of its own: a broker that has just started may take seconds to answer.
    fn send_attempt(&mut self, key: AttemptKey, queue: String, pool: Option<String>, body: Vec<u8>) {
        let declared = pool.is_some().then(|| Arc::clone(self.declared.entry(queue.clone()).or_default()));
        self.unconfirmed.insert(key.clone());
        let (connection, out, tell) = (Arc::clone(&self.connection), self.out.clone(), self.tell.clone());
        self.tasks.spawn(async move {
            let sent = async {
                let out = match &declared {
                    Some(declared) => declared.get_or_try_init(|| declare(&connection, &queue)).await?,
                    None => &out,
                };
                out.send(To::Queue(&queue), &body).await?.wait().await
            };
            let sent = sent.await;
            tell.send(Event::Confirmed { key, pool, sent }).await.ok();
        });
    }

    /// Says something that is said again if it must be.
    async fn tell(&mut self, to: To<'_>, body: &[u8]) -> Result<(), String> {
        let confirm = self.out.send(to, body).await.map_err(|error| error.to_string())?;
        // Who is not there hears it later; a lost connection is seen by its consumers.
        self.tasks.spawn(async move { drop(confirm.wait().await) });
        Ok(())
    }

    /// Answers and acknowledges a delivery once `ready` says what to answer; when it says nothing, the delivery comes again.
    fn settle(
        &mut self,
        delivery: Delivery,
        ready: impl Future<Output = Option<Option<(String, ToWorker)>>> + Send + 'static,
    ) {
        let tell = self.tell.clone();
        self.tasks.spawn(async move {
            if let Some(answer) = ready.await {
                tell.send(Event::Settled { delivery, answer }).await.ok();
            }
        });
    }

    fn bury(&mut self, delivery: Delivery, why: String) {
        tracing::error!("a message can't be read and goes to the queue {DEAD}: {why}");
        let (out, tell) = (self.out.clone(), self.tell.clone());
        self.tasks.spawn(async move {
            if let Err(error) = out.bury(delivery, DEAD, &why).await {
                tell.send(Event::Gone(error.to_string())).await.ok();
            }
        });
    }
}

/// Makes the queue of a pool, and the channel on which it is sent to.
async fn declare(connection: &Connection, queue: &str) -> Result<Channel, AmqpError> {
    let channel = connection.channel().await?;
    channel.declare(Queue::Shared(queue), Some(DEAD)).await?;
    Ok(channel)
}

/// Hands on what a queue gives, until the connection is lost.
async fn pump(mut consumer: Consumer, tell: mpsc::Sender<Event>, wrap: fn(Delivery) -> Event) {
    loop {
        let event = match consumer.next().await {
            Ok(Some(delivery)) => wrap(delivery),
            Ok(None) => Event::Gone("the broker ended a consumer".to_owned()),
            Err(error) => Event::Gone(error.to_string()),
        };
        let is_last = matches!(event, Event::Gone(_));
        if tell.send(event).await.is_err() || is_last {
            return;
        }
    }
}

/// Hands on signs of life, past all that may hold up the rest: a worker is not silent because the store is slow.
async fn hear_beats(mut consumer: Consumer, tell: mpsc::Sender<Event>, notices: mpsc::Sender<Notice>) {
    while let Ok(Some(delivery)) = consumer.next().await {
        match wire::read(delivery.body()) {
            Ok(ToServers::Beat(beat)) => {
                if notices.send(Notice::Beat(Box::new(beat))).await.is_err() {
                    return;
                }
                // One that comes twice is heard twice.
                delivery.acknowledge().await.ok();
            }
            Err(poison) => {
                if tell.send(Event::Unreadable(delivery, poison.why)).await.is_err() {
                    return;
                }
            }
        }
    }
    tell.send(Event::Gone("the connection to the broker is gone".to_owned())).await.ok();
}

/// Whether more may be sent: where there is no connection, it is told at once that nothing is.
fn has_room(live: Option<&Live>) -> bool {
    live.is_none_or(|live| live.unconfirmed.len() < UNCONFIRMED)
}

async fn next(live: &mut Option<Live>) -> Event {
    match live {
        Some(live) => live.events.recv().await.unwrap_or_else(|| Event::Gone("it was closed".to_owned())),
        None => std::future::pending().await,
    }
}

/// Which lines of which attempts were heard: after a broken connection a worker says again what was not confirmed.
#[derive(Debug, Default)]
struct Heard {
    last: HashMap<AttemptKey, (String, u64)>,
    order: VecDeque<AttemptKey>,
}

impl Heard {
    fn is_new(&mut self, key: &AttemptKey, session: String, id: u64) -> bool {
        if let Some((known, last)) = self.last.get_mut(key) {
            if *known == session && id <= *last {
                return false;
            }
            (*known, *last) = (session, id);
            return true;
        }
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.last.remove(&oldest);
        }
        self.order.push_back(key.clone());
        self.last.insert(key.clone(), (session, id));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RunId;

    #[test]
    fn a_line_that_is_said_again_is_heard_once() {
        let key = |run| AttemptKey { run: RunId(run), step: "a".into(), visit: 1, item: None, number: 1 };
        let mut heard = Heard::default();
        let mut says = |run, session: &str, id| heard.is_new(&key(run), session.to_owned(), id);
        assert!(says(1, "s", 1) && says(1, "s", 2) && says(2, "s", 1));
        assert!(!says(1, "s", 1) && !says(1, "s", 2));
        assert!(says(1, "s", 7) && says(1, "other", 1));
    }
}
