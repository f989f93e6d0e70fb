//! The worker's end: takes attempts from the queues of its pools while it has free slots, and says what comes of them until a server has it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    BEATS, DEAD, FIRST_PAUSE, NEWS, REPORTS, SECOND, longer, or_never, pool_queue, wire, worker_queue,
};
use crate::amqp::{Address, AmqpError, Channel, Connection, Consumer, Delivery, Queue, To};
use crate::dispatch::local::{self, WorkerEnd};
use crate::dispatch::sealing::ClaimKey;
use crate::dispatch::{Dispatched, Order, Report, Stored, Verdict};
use crate::model::desk::Reply;
use crate::model::message::{FromWorker, Said, ToServers, ToWorker};
use crate::model::worker::{Beat, Claimant};
use crate::model::{Attempt, AttemptKey, DEFAULT_POOL, ErrorKind, Outcome, RunError, RunId, Span};

/// How many bytes may be said and not settled. Beyond it the actions wait with what they print.
const UNSETTLED_BYTES: usize = 8 * 1024 * 1024;
const UNSETTLED: usize = 4096;
/// How many messages may wait for the broker's confirmation.
const UNCONFIRMED: usize = 256;
const OWN_AT_ONCE: u16 = 64;
const EVENTS: usize = 256;
/// How many attempts that are settled are still known, so that a second delivery is not done again; more than the worker itself remembers.
const REMEMBERED: usize = 16_384;
/// How many beats there are in a lease.
const BEATS_IN_LEASE: u32 = 6;
/// How long the last words of a worker that stops may take.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often it is said again that the broker is missing.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Which pools a worker takes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pools {
    /// Every one that there is or will be.
    All,
    Named(Vec<String>),
}

/// What a worker is to servers.
pub struct WorkerOptions {
    pub address: Address,
    /// Its name: stays the same over restarts, since its workspaces do.
    pub id: String,
    /// Names this start of it.
    pub session: String,
    pub pools: Pools,
    pub labels: BTreeMap<String, String>,
    pub slots: usize,
    /// How long it may be silent before what it does counts as lost.
    pub lease: Duration,
    /// The runs whose workspaces it keeps.
    pub kept: Arc<dyn Fn() -> Vec<RunId> + Send + Sync>,
}

impl fmt::Debug for WorkerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerOptions").field("id", &self.id).finish_non_exhaustive()
    }
}

impl WorkerOptions {
    /// As whom it claims.
    pub fn claimant(&self) -> Claimant {
        Claimant { worker: self.id.clone(), session: Some(self.session.clone()) }
    }

    fn every(&self) -> Duration {
        self.lease / BEATS_IN_LEASE
    }
}

/// The worker's end of the way to servers. Runs as a task.
#[derive(Debug)]
pub struct WorkerLink {
    options: WorkerOptions,
    pools: Vec<String>,
    /// Queues of pools that kept this worker waiting, and are left alone until a connection breaks by itself.
    deaf: HashSet<String>,
    orders: mpsc::Sender<Order>,
    reports: mpsc::Receiver<Report>,
    held: HashMap<AttemptKey, Held>,
    settled: Settled,
    said: BTreeMap<u64, Unsettled>,
    said_bytes: usize,
    last_id: u64,
    /// What is to be sent, in this order.
    to_send: VecDeque<u64>,
    /// Attempts that were ended because the broker was missing for too long.
    cut: HashSet<AttemptKey>,
    draining: bool,
    beat_soon: bool,
    /// Since when no server can have heard that it is alive.
    alone_since: Instant,
}

/// An attempt that this worker knows of and that is not settled.
#[derive(Debug)]
enum Held {
    /// Taken, perhaps claimed, not granted. The delivery is acknowledged once the claim is answered; none is there when it came to this worker
    /// only, or by a connection that is gone.
    Claiming(Option<Delivery>),
    Working,
    /// Over; the outcome is on its way.
    Ended,
}

/// Something that was said and that nobody has settled yet. It is said again after every new connection.
#[derive(Debug)]
struct Unsettled {
    key: AttemptKey,
    body: Vec<u8>,
    wants: Wants,
}

enum Wants {
    /// The broker's word.
    Confirmation,
    Verdict(ClaimKey, oneshot::Sender<Verdict>),
    Stored(Option<Stored>),
    /// The word that the outcome is on disk.
    End,
    Reply(oneshot::Sender<Reply>),
}

impl fmt::Debug for Wants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wants::Confirmation => "Confirmation",
            Wants::Verdict(..) => "Verdict",
            Wants::Stored(_) => "Stored",
            Wants::End => "End",
            Wants::Reply(_) => "Reply",
        })
    }
}

#[derive(Debug)]
enum Event {
    Own(Delivery),
    Pool(Delivery),
    Confirmed(u64, Result<(), AmqpError>),
    /// The broker has the sign of life that was sent at this moment.
    Alive(Instant),
    /// The queue of a pool does not answer although the broker does.
    Deaf(String),
    Gone(String),
}

/// A connection with all that hangs on it; what is under way ends when it is dropped.
struct Live {
    connection: Connection,
    out: Channel,
    /// What the task that reads the pools is to do.
    wanted: watch::Sender<Wanted>,
    events: mpsc::Receiver<Event>,
    tell: mpsc::Sender<Event>,
    tasks: JoinSet<()>,
    unconfirmed: usize,
}

/// What is to be taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    pools: Vec<String>,
    /// How many deliveries at once; 0: nothing.
    at_once: u16,
}

type Connecting = BoxFuture<'static, Result<Live, AmqpError>>;

impl WorkerLink {
    /// An end, and what the worker is to be built with.
    pub fn new(options: WorkerOptions) -> (WorkerLink, WorkerEnd) {
        let (server_end, worker_end) = local::pair();
        let pools = match &options.pools {
            Pools::All => vec![DEFAULT_POOL.to_owned()],
            Pools::Named(names) => names.clone(),
        };
        let link = WorkerLink {
            options,
            pools,
            deaf: HashSet::new(),
            orders: server_end.orders,
            reports: server_end.reports,
            held: HashMap::new(),
            settled: Settled::default(),
            said: BTreeMap::new(),
            said_bytes: 0,
            last_id: 0,
            to_send: VecDeque::new(),
            cut: HashSet::new(),
            draining: false,
            beat_soon: false,
            alone_since: Instant::now(),
        };
        (link, worker_end)
    }

    /// Works until the worker is gone and its last words are said. Once `drain` is cancelled it takes nothing new, and cancels `drained` when
    /// nothing is left to do.
    pub async fn run(mut self, drain: CancellationToken, drained: CancellationToken) {
        let mut live: Option<Live> = None;
        let mut connecting: Option<Connecting> = Some(self.connect(Duration::ZERO));
        let mut pause = FIRST_PAUSE;
        let (mut told, mut told_at) = (String::new(), Instant::now());
        let mut beats = tokio::time::interval(self.options.every());
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.alone_since = Instant::now();
        let mut closes_at: Option<Instant> = None;
        loop {
            if closes_at.is_some_and(|at| self.said.is_empty() || at <= Instant::now()) {
                break;
            }
            let may_hear =
                self.said_bytes < UNSETTLED_BYTES && self.said.len() < UNSETTLED && closes_at.is_none();
            let gone = tokio::select! {
                opened = or_never(connecting.as_mut()) => {
                    connecting = None;
                    match opened {
                        Ok(opened) => {
                            tracing::info!("connected to the broker {}", self.options.address);
                            (live, pause) = (Some(opened), FIRST_PAUSE);
                            told.clear();
                            self.to_send = self.said.keys().copied().collect();
                            self.beat(&mut live, Sign::Hello).await
                        }
                        Err(error) => Err(error.to_string()),
                    }
                }
                event = next(&mut live) => match &mut live {
                    Some(live) => self.handle(live, event).await,
                    None => Ok(()),
                },
                report = self.reports.recv(), if may_hear => {
                    match report {
                        Some(report) => self.hear(report),
                        None => closes_at = Some(Instant::now() + LAST_WORDS),
                    }
                    Ok(())
                }
                _ = beats.tick() => self.beat(&mut live, Sign::Usual).await,
                () = drain.cancelled(), if !self.draining => {
                    self.draining = true;
                    self.beat(&mut live, Sign::Usual).await
                }
                () = or_never(closes_at.map(tokio::time::sleep_until)) => Ok(()),
            };
            let gone = match (gone, &mut live) {
                (Ok(()), Some(live)) => self.go_on(live).await,
                (gone, _) => gone,
            };
            if self.alone_since.elapsed() >= self.options.lease {
                self.cut_off();
            }
            if self.draining && self.held.is_empty() {
                drained.cancel();
            }
            let Err(why) = gone else { continue };
            if told != why || told_at.elapsed() > SAY_AGAIN {
                tracing::warn!("{why}; trying again");
                (told, told_at) = (why, Instant::now());
            }
            live = None;
            self.forget_deliveries();
            connecting = Some(self.connect(pause));
            pause = longer(pause);
        }
        // What is not settled by now is lost.
        let farewell = self.beat(&mut live, Sign::Farewell);
        if farewell.await.is_ok()
            && let Some(live) = live
        {
            live.finish().await;
        }
    }

    fn connect(&self, pause: Duration) -> Connecting {
        let (address, queue) = (self.options.address.clone(), worker_queue(&self.options.id));
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            Live::open(&address, &queue).await
        })
    }

    /// The broker gives what was not acknowledged to somebody, perhaps to this worker again.
    fn forget_deliveries(&mut self) {
        for held in self.held.values_mut() {
            if let Held::Claiming(delivery) = held {
                *delivery = None;
            }
        }
    }

    fn takes(&self, pool: &str) -> bool {
        let first = pool.strip_suffix(SECOND).unwrap_or(pool);
        match &self.options.pools {
            Pools::All => true,
            Pools::Named(names) => names.iter().any(|name| name == first),
        }
    }

    fn busy(&self) -> usize {
        self.held.values().filter(|held| !matches!(held, Held::Ended)).count()
    }

    fn free(&self) -> usize {
        self.options.slots.saturating_sub(self.busy())
    }

    /// Sends what is to be sent, and takes attempts or stops doing so.
    async fn go_on(&mut self, live: &mut Live) -> Result<(), String> {
        while live.tasks.try_join_next().is_some() {}
        while live.unconfirmed < UNCONFIRMED
            && let Some(id) = self.to_send.pop_front()
        {
            let Some(unsettled) = self.said.get(&id) else { continue };
            live.send(id, &unsettled.body).await?;
        }
        if std::mem::take(&mut self.beat_soon) {
            live.beat(&self.sign(Sign::Usual)).await?;
        }
        let free = if self.draining { 0 } else { self.free() };
        let pools =
            self.pools.iter().filter(|pool| !self.deaf.contains(&pool_queue(pool))).cloned().collect();
        let wanted = Wanted { pools, at_once: u16::try_from(free).unwrap_or(u16::MAX) };
        live.wanted.send_if_modified(|known| {
            let is_other = known.pools != wanted.pools || (known.at_once == 0) != (wanted.at_once == 0);
            known.clone_from(&wanted);
            is_other
        });
        Ok(())
    }

    fn sign(&self, sign: Sign) -> Vec<u8> {
        let beat = Beat {
            worker: self.options.id.clone(),
            session: self.options.session.clone(),
            pools: match &self.options.pools {
                Pools::All => None,
                Pools::Named(names) => Some(names.clone()),
            },
            labels: self.options.labels.clone(),
            slots: u32::try_from(self.options.slots).unwrap_or(u32::MAX),
            busy: u32::try_from(self.busy()).unwrap_or(u32::MAX),
            keys: if matches!(sign, Sign::Farewell) {
                Vec::new()
            } else {
                self.held.keys().cloned().collect()
            },
            every: Span(u64::try_from(self.options.every().as_millis()).unwrap_or(u64::MAX)),
            draining: self.draining,
            leaving: matches!(sign, Sign::Farewell),
            kept: if matches!(sign, Sign::Hello) { (self.options.kept)() } else { Vec::new() },
        };
        wire::write(ToServers::Beat(beat))
    }

    async fn beat(&mut self, live: &mut Option<Live>, sign: Sign) -> Result<(), String> {
        let Some(live) = live else { return Ok(()) };
        let body = self.sign(sign);
        live.beat(&body).await
    }

    /// Ends what is at work: servers call it lost by now. What is ended here says so.
    fn cut_off(&mut self) {
        let working = self.held.iter().filter(|(_, held)| matches!(held, Held::Working));
        let keys: Vec<_> =
            working.map(|(key, _)| key.clone()).filter(|key| !self.cut.contains(key)).collect();
        for key in keys {
            tracing::warn!(attempt = %key, "ended: no server could be told for too long that it is alive");
            // The worker always has room for a cancel; when it has none it is asked again at the next beat.
            if self.orders.try_send(Order::Cancel { key: key.clone(), worker: None }).is_ok() {
                self.cut.insert(key);
            }
        }
    }

    /// Takes what the worker says.
    fn hear(&mut self, report: Report) {
        match report {
            Report::Claim { key, go, .. } => {
                let claim_key = ClaimKey::new();
                let said = Said::Claim { public_key: claim_key.public() };
                self.say(key, said, Wants::Verdict(claim_key, go));
            }
            Report::Log { key, stream, bytes, .. } => {
                self.say(key, Said::Log { stream, bytes: BASE64.encode(bytes) }, Wants::Confirmation);
            }
            Report::Progress { key, output, stored } => {
                self.say(key, Said::Progress { output }, Wants::Stored(stored));
            }
            Report::Question { key, request, answer } => {
                self.say(key, Said::Question { request }, Wants::Reply(answer));
            }
            Report::Finished { key, mut outcome, .. } => {
                if self.cut.remove(&key)
                    && let Outcome::Failed { error, .. } = &mut outcome
                    && error.kind == ErrorKind::Cancelled
                {
                    let why = "its worker could not reach the broker for too long, and ended it";
                    *error = RunError::new(ErrorKind::Lost, why);
                }
                self.beat_soon |= self.free() == 0;
                self.held.insert(key.clone(), Held::Ended);
                self.say(key, Said::Finished { outcome }, Wants::End);
            }
        }
    }

    fn say(&mut self, key: AttemptKey, said: Said, wants: Wants) {
        self.last_id += 1;
        let by = self.options.claimant();
        let body = wire::write(FromWorker { by, id: self.last_id, key: key.clone(), said });
        self.said_bytes += body.len();
        self.said.insert(self.last_id, Unsettled { key, body, wants });
        self.to_send.push_back(self.last_id);
    }

    fn settle(&mut self, id: u64) -> Option<Unsettled> {
        let unsettled = self.said.remove(&id)?;
        self.said_bytes -= unsettled.body.len();
        Some(unsettled)
    }

    async fn handle(&mut self, live: &mut Live, event: Event) -> Result<(), String> {
        match event {
            Event::Own(delivery) => {
                let message = wire::read(delivery.body());
                match message {
                    Ok(message) => {
                        self.obey(message).await?;
                        delivery.acknowledge().await.map_err(|error| error.to_string())
                    }
                    Err(poison) => {
                        self.bury(live, delivery, poison);
                        Ok(())
                    }
                }
            }
            Event::Pool(delivery) => self.take(live, delivery).await,
            Event::Confirmed(id, confirmed) => {
                live.unconfirmed -= 1;
                match confirmed {
                    Ok(()) => {
                        if self.said.get(&id).is_some_and(|said| matches!(said.wants, Wants::Confirmation)) {
                            self.settle(id);
                        }
                        Ok(())
                    }
                    // No server ever made the queue, or the broker could not keep it: a new connection says all again.
                    Err(error) => Err(error.to_string()),
                }
            }
            Event::Alive(at) => {
                self.alone_since = at;
                Ok(())
            }
            Event::Deaf(queue) => {
                let why = AmqpError::Deaf(queue.clone()).to_string();
                self.deaf.insert(queue);
                Err(why)
            }
            Event::Gone(why) => {
                // Perhaps the broker was started again, and has them all.
                self.deaf.clear();
                Err(why)
            }
        }
    }

    /// An attempt from the queue of a pool.
    async fn take(&mut self, live: &mut Live, delivery: Delivery) -> Result<(), String> {
        let (key, attempt) = match wire::read(delivery.body()) {
            Ok(ToWorker::Do { key, attempt }) => (key, attempt),
            Ok(_) => {
                let why = "it is no attempt, and in the queue of a pool".to_owned();
                self.bury(live, delivery, wire::Poison { why, key: None });
                return Ok(());
            }
            Err(poison) => {
                self.bury(live, delivery, poison);
                return Ok(());
            }
        };
        let has_room = !self.draining && self.free() > 0;
        let done = match self.held.get_mut(&key) {
            // It came by a connection that is gone, and comes again.
            Some(Held::Claiming(none @ None)) => {
                *none = Some(delivery);
                return Ok(());
            }
            Some(_) => delivery.acknowledge().await,
            None if self.settled.contains(&key) => delivery.acknowledge().await,
            // Whoever is idle may have it.
            None if !has_room => delivery.give_back().await,
            None => return self.begin(key, *attempt, Some(delivery)).await,
        };
        done.map_err(|error| error.to_string())
    }

    /// Has the worker claim it, and do it when the claim is granted.
    async fn begin(
        &mut self,
        key: AttemptKey,
        attempt: Attempt,
        delivery: Option<Delivery>,
    ) -> Result<(), String> {
        self.held.insert(key, Held::Claiming(delivery));
        let order = Order::Do(Box::new(Dispatched { attempt, secrets: BTreeMap::new() }));
        // A worker that is gone does nothing; the delivery goes to another when this link ends.
        self.orders.send(order).await.ok();
        Ok(())
    }

    /// What a server says to this worker.
    async fn obey(&mut self, message: ToWorker) -> Result<(), String> {
        match message {
            ToWorker::Do { key, attempt } => {
                if self.draining || self.held.contains_key(&key) || self.settled.contains(&key) {
                    return Ok(()); // The server sees by the next beats whether it is here.
                }
                self.begin(key, *attempt, None).await?;
            }
            ToWorker::Go { id, sealed } => self.granted(id, sealed).await?,
            ToWorker::No { id } => {
                if let Some(Unsettled { key, wants: Wants::Verdict(_, go), .. }) = self.settle(id) {
                    self.let_go(key).await?;
                    go.send(Verdict::No).ok();
                }
            }
            ToWorker::Answer { id, reply } => {
                if let Some(Unsettled { wants: Wants::Reply(answer), .. }) = self.settle(id) {
                    answer.send(reply).ok();
                }
            }
            ToWorker::Stored { id } => match self.settle(id) {
                Some(Unsettled { wants: Wants::Stored(Some(stored)), .. }) => drop(stored.send(())),
                Some(Unsettled { key, wants: Wants::End, .. }) => self.let_go(key).await?,
                _ => (),
            },
            // The attempt hears that nobody would know: its sender is dropped.
            ToWorker::NotStored { id } => drop(self.settle(id)),
            ToWorker::Cancel { key } => {
                self.orders.send(Order::Cancel { key, worker: None }).await.ok();
            }
            ToWorker::RunEnded { run } => {
                self.orders.send(Order::RunEnded { run, worker: None }).await.ok();
            }
            ToWorker::Pools { names } => {
                for name in names {
                    if self.takes(&name) && !self.pools.contains(&name) {
                        self.pools.push(name);
                    }
                }
            }
        }
        Ok(())
    }

    async fn granted(
        &mut self,
        id: u64,
        sealed: Option<crate::model::message::Sealed>,
    ) -> Result<(), String> {
        let Some(Unsettled { key, wants: Wants::Verdict(claim_key, go), .. }) = self.settle(id) else {
            return Ok(()); // Said twice.
        };
        let opened = sealed.map_or_else(|| Ok(BTreeMap::new()), |sealed| claim_key.open(&key, &sealed));
        let held = self.held.insert(key.clone(), Held::Working);
        // A server knows of it at this moment, perhaps before it confirmed the first beat of a new connection.
        self.alone_since = Instant::now();
        match opened {
            Ok(secrets) => drop(go.send(Verdict::Go(secrets))),
            Err(error) => {
                go.send(Verdict::No).ok();
                let outcome =
                    Outcome::failed(ErrorKind::Failed, format!("its secrets can't be opened: {error}"));
                self.held.insert(key.clone(), Held::Ended);
                self.say(key, Said::Finished { outcome }, Wants::End);
            }
        }
        match held {
            // From here the beats hold it.
            Some(Held::Claiming(Some(delivery))) => {
                delivery.acknowledge().await.map_err(|error| error.to_string())
            }
            _ => Ok(()),
        }
    }

    /// Nothing is owed for it any more.
    async fn let_go(&mut self, key: AttemptKey) -> Result<(), String> {
        let held = self.held.remove(&key);
        self.settled.add(key);
        match held {
            Some(Held::Claiming(Some(delivery))) => {
                delivery.acknowledge().await.map_err(|error| error.to_string())
            }
            _ => Ok(()),
        }
    }

    /// What can't be read is kept for people, and the server is told, so that no run waits for it.
    fn bury(&mut self, live: &mut Live, delivery: Delivery, poison: wire::Poison) {
        tracing::error!("a message can't be read and goes to the queue {DEAD}: {}", poison.why);
        if let Some(key) = poison.key {
            self.say(key, Said::Unreadable { why: poison.why.clone() }, Wants::Stored(None));
        }
        live.bury(delivery, poison.why);
    }
}

/// What kind of sign of life.
#[derive(Clone, Copy, Debug)]
enum Sign {
    /// The first on a connection.
    Hello,
    Usual,
    /// The last.
    Farewell,
}

impl Live {
    async fn open(address: &Address, queue: &str) -> Result<Live, AmqpError> {
        let connection = Connection::open(address, "siskin worker").await?;
        let out = connection.channel().await?;
        out.declare(Queue::Shared(DEAD), None).await?;
        out.declare(Queue::InTurn(REPORTS), Some(DEAD)).await?;
        out.declare_for_all(BEATS).await?;
        out.declare_for_all(NEWS).await?;
        out.declare(Queue::Own(queue), None).await?;
        out.bind(Queue::Own(queue), NEWS).await?;
        let own = connection.channel().await?.consume(Queue::Own(queue), "own", OWN_AT_ONCE).await?;
        let taps = Taps {
            declares: connection.channel().await?,
            channel: connection.channel().await?,
            tags: Vec::new(),
            last_tag: 0,
        };
        let (tell, events) = mpsc::channel(EVENTS);
        let mut tasks = JoinSet::new();
        tasks.spawn(pump(own, tell.clone(), Event::Own, CancellationToken::new()));
        let (wanted, wants) = watch::channel(Wanted::default());
        tasks.spawn(taps.keep(wants, tell.clone()));
        Ok(Live { connection, out, wanted, events, tell, tasks, unconfirmed: 0 })
    }

    async fn send(&mut self, id: u64, body: &[u8]) -> Result<(), String> {
        let confirm = self.out.send(To::Queue(REPORTS), body).await.map_err(|error| error.to_string())?;
        self.unconfirmed += 1;
        let tell = self.tell.clone();
        self.tasks.spawn(async move {
            let confirmed = confirm.wait().await;
            tell.send(Event::Confirmed(id, confirmed)).await.ok();
        });
        Ok(())
    }

    async fn beat(&mut self, body: &[u8]) -> Result<(), String> {
        let confirm = self.out.send(To::All(BEATS), body).await.map_err(|error| error.to_string())?;
        let (tell, sent_at) = (self.tell.clone(), Instant::now());
        self.tasks.spawn(async move {
            if confirm.wait().await.is_ok() {
                tell.send(Event::Alive(sent_at)).await.ok();
            }
        });
        Ok(())
    }

    /// What can't be read is kept for people.
    fn bury(&mut self, delivery: Delivery, why: String) {
        let (out, tell) = (self.out.clone(), self.tell.clone());
        self.tasks.spawn(async move {
            if let Err(error) = out.bury(delivery, DEAD, &why).await {
                tell.send(Event::Gone(error.to_string())).await.ok();
            }
        });
    }

    /// Waits until the broker has the last word, and closes.
    async fn finish(mut self) {
        drop(self.events);
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        self.connection.close().await;
    }
}

/// Reads the queues of pools while there are free slots. A task of its own: a broker that has just started may take seconds to answer, and signs of life
/// must not wait for it.
struct Taps {
    /// A queue that does not answer keeps the channel on which it was asked for.
    declares: Channel,
    channel: Channel,
    /// The consumers, one for each pool, and what says that they are not needed any more.
    tags: Vec<(String, CancellationToken)>,
    last_tag: u64,
}

impl Taps {
    async fn keep(mut self, mut wants: watch::Receiver<Wanted>, tell: mpsc::Sender<Event>) {
        let mut pumps = JoinSet::new();
        while wants.changed().await.is_ok() {
            let wanted = wants.borrow_and_update().clone();
            let done = match wanted.at_once {
                0 => self.close().await,
                at_once => self.open(&wanted.pools, at_once, &mut pumps, &tell).await,
            };
            if let Err(error) = done {
                let event = match error {
                    AmqpError::Deaf(queue) => Event::Deaf(queue),
                    other => Event::Gone(other.to_string()),
                };
                tell.send(event).await.ok();
                return;
            }
            while pumps.try_join_next().is_some() {}
        }
    }

    async fn open(
        &mut self,
        pools: &[String],
        at_once: u16,
        pumps: &mut JoinSet<()>,
        tell: &mpsc::Sender<Event>,
    ) -> Result<(), AmqpError> {
        for pool in pools.iter().skip(self.tags.len()) {
            let name = pool_queue(pool);
            let queue = Queue::Shared(&name);
            self.declares.declare(queue, Some(DEAD)).await?;
            self.last_tag += 1;
            let tag = format!("pool-{}", self.last_tag);
            let consumer = self.channel.consume(queue, &tag, at_once).await?;
            let unneeded = CancellationToken::new();
            self.tags.push((tag, unneeded.clone()));
            pumps.spawn(pump(consumer, tell.clone(), Event::Pool, unneeded));
        }
        Ok(())
    }

    /// Takes nothing more; what is on its way is given back when it comes.
    async fn close(&mut self) -> Result<(), AmqpError> {
        for (tag, unneeded) in std::mem::take(&mut self.tags) {
            unneeded.cancel();
            self.channel.stop_consuming(&tag).await?;
        }
        Ok(())
    }
}

/// Hands on what a queue gives, until it is `unneeded`, or taken away, or the connection is lost.
async fn pump(
    mut consumer: Consumer,
    tell: mpsc::Sender<Event>,
    wrap: fn(Delivery) -> Event,
    unneeded: CancellationToken,
) {
    loop {
        let event = match consumer.next().await {
            Ok(Some(delivery)) => wrap(delivery),
            Ok(None) if unneeded.is_cancelled() => return,
            Ok(None) => Event::Gone("the broker ended a consumer".to_owned()),
            Err(error) => Event::Gone(error.to_string()),
        };
        let is_last = matches!(event, Event::Gone(_));
        if tell.send(event).await.is_err() || is_last {
            return;
        }
    }
}

async fn next(live: &mut Option<Live>) -> Event {
    match live {
        Some(live) => live.events.recv().await.unwrap_or_else(|| Event::Gone("it was closed".to_owned())),
        None => std::future::pending().await,
    }
}

/// The last attempts that are settled.
#[derive(Debug, Default)]
struct Settled {
    keys: HashSet<AttemptKey>,
    order: VecDeque<AttemptKey>,
}

impl Settled {
    fn contains(&self, key: &AttemptKey) -> bool {
        self.keys.contains(key)
    }

    fn add(&mut self, key: AttemptKey) {
        if !self.keys.insert(key.clone()) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
    }
}
