//! The only place that knows AMQP: connections, queues, messages.
//!
//! Promises:
//! * Nothing waits without end: connecting, sending and the broker's confirmation each have a time limit of their own.
//! * What `Confirm::wait` said yes to is on the broker's disk (in a shared queue), or in a queue that somebody reads (in an own one).
//! * A lost connection is seen: its consumers end, and every call fails at once.
//! * No error and no `Debug` shows a password.
//!
//! Left to others: what is sent, when to connect again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use futures::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions,
    BasicQosOptions, BasicRejectOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::uri::AMQPUri;
use lapin::{
    BasicProperties, ConnectionProperties, ConnectionStatus, ErrorKind, ExchangeKind, PublisherConfirm,
};
use tokio::time::Instant;

use crate::model::{Object, Value};

/// How long connecting may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long the broker may take to answer anything else.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How often it is looked whether the connection still is there while an answer is waited for.
const LOOK_TIME: Duration = Duration::from_millis(200);
/// Between two signs of life on a quiet connection, in seconds.
const HEARTBEAT_SECONDS: u16 = 10;
/// The largest message that is sent or read.
pub const MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// How often a message may come back before the broker takes it for poison. High: a busy worker gives back what an idle one may have.
const RETURNS: i64 = 1_000_000;
/// Says why a message is in the queue of the dead.
const REASON: &str = "siskin-reason";
/// Says which queue it came from.
const CAME_FROM: &str = "siskin-queue";

/// Why something with the broker did not work.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    #[error("`{0}` is no address of a broker; write amqp://USER:PASSWORD@HOST:PORT/VHOST (or amqps://)")]
    Address(String),
    #[error("the broker {address} can't be reached: {why}")]
    Unreachable { address: String, why: String },
    #[error("the broker {0} refuses the user or the password; correct the address (--broker, SISKIN_BROKER)")]
    Login(String),
    #[error("the broker {address} does not allow it: {why}")]
    Refused { address: String, why: String },
    #[error("the queue `{0}` is in use: another process with the same data directory or name is connected")]
    InUse(String),
    #[error("the connection to the broker is gone: {0}")]
    Gone(String),
    #[error("the broker did not answer within {} seconds", ANSWER_TIME.as_secs())]
    Silent,
    #[error("the queue `{0}` does not answer")]
    Deaf(String),
    #[error("nobody reads the queue `{0}`")]
    NoQueue(String),
    #[error("the message has {0} bytes, more than the {MESSAGE_BYTES} that one may have")]
    TooLarge(usize),
}

impl AmqpError {
    fn gone(error: &lapin::Error) -> AmqpError {
        AmqpError::Gone(error.to_string())
    }
}

/// Where a broker is, with user and password. Prints without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(AMQPUri);

impl FromStr for Address {
    type Err = AmqpError;

    fn from_str(text: &str) -> Result<Address, AmqpError> {
        // What is no address is shown up to where a password might begin.
        let shown =
            || text.split_once('@').map_or(text, |(before, _)| before.split(':').next().unwrap_or_default());
        let mut uri: AMQPUri = text.parse().map_err(|_| AmqpError::Address(shown().to_owned()))?;
        if uri.authority.host.is_empty() {
            return Err(AmqpError::Address(shown().to_owned()));
        }
        // `amqp://host` and `amqp://host/` mean the usual virtual host: nobody calls one "".
        if uri.vhost.is_empty() {
            uri.vhost = "/".to_owned();
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        Ok(Address(uri))
    }
}

impl Address {
    /// With this user in place of the one in it.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Address {
        self.0.authority.userinfo.username = name.to_owned();
        self.0.authority.userinfo.password = password.to_owned();
        self
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { scheme, authority, vhost, .. } = &self.0;
        write!(f, "{scheme}://{}@{}:{}", authority.userinfo.username, authority.host, authority.port)?;
        if vhost == "/" { Ok(()) } else { write!(f, "/{vhost}") }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// A queue, as it is declared by whoever uses it first. The words of one name must never change: the broker refuses others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue<'a> {
    /// Kept on disk by the brokers together, for whoever comes.
    Shared(&'a str),
    /// As `Shared`, and read by one consumer at a time: when it goes, the next takes over.
    InTurn(&'a str),
    /// Of one connection, and gone with it.
    Own(&'a str),
}

impl<'a> Queue<'a> {
    pub fn name(self) -> &'a str {
        match self {
            Queue::Shared(name) | Queue::InTurn(name) | Queue::Own(name) => name,
        }
    }
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To<'a> {
    Queue(&'a str),
    /// Every queue that is bound to it; none is fine too.
    All(&'a str),
}

/// One connection to the broker. Gone when it is dropped, or when the broker is.
pub struct Connection {
    inner: lapin::Connection,
    address: Address,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.address)
    }
}

impl Connection {
    /// Connects; `name` is what the broker's own pages call it.
    ///
    /// # Errors
    /// `Unreachable`, `Login`, `Refused`.
    pub async fn open(address: &Address, name: &str) -> Result<Connection, AmqpError> {
        Connection::open_trusting(address, name, None).await
    }

    /// As `open`; `ca` (PEM) also vouches for the broker's certificate.
    ///
    /// # Errors
    /// As `open`.
    pub async fn open_trusting(
        address: &Address,
        name: &str,
        ca: Option<String>,
    ) -> Result<Connection, AmqpError> {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let unreachable = |why: String| AmqpError::Unreachable { address: address.to_string(), why };
        let tls = OwnedTLSConfig { identity: None, cert_chain: ca };
        let runtime = lapin::runtime::default_runtime().map_err(|error| unreachable(plain(&error)))?;
        let connecting =
            lapin::Connection::connect_uri_with_config(address.0.clone(), properties, tls, runtime);
        match tokio::time::timeout(CONNECT_TIME, connecting).await {
            Ok(Ok(inner)) => Ok(Connection { inner, address: address.clone() }),
            Ok(Err(error)) => Err(refusal(address, &error).unwrap_or_else(|| unreachable(plain(&error)))),
            Err(_) => Err(unreachable(format!("no answer within {} seconds", CONNECT_TIME.as_secs()))),
        }
    }

    /// A channel on which the broker confirms what is sent.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn channel(&self) -> Result<Channel, AmqpError> {
        let state = self.inner.status().clone();
        let inner = in_time(&state, self.inner.create_channel()).await?;
        in_time(&state, inner.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Channel { inner, state, address: self.address.clone() })
    }

    /// Says goodbye to the broker.
    pub async fn close(&self) {
        // A connection that is gone already needs no goodbye.
        drop(in_time(self.inner.status(), self.inner.close(200, "done".into())).await);
    }
}

/// What one has to say to the broker. Cheap to clone; clones are one.
#[derive(Clone)]
pub struct Channel {
    inner: lapin::Channel,
    state: ConnectionStatus,
    address: Address,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({}, {})", self.address, self.inner.id())
    }
}

impl Channel {
    /// Makes the queue where it is missing. `dead` is where the broker puts what it can't deliver.
    ///
    /// # Errors
    /// `InUse`, `Refused` (also when it is there with other words), or the connection is gone.
    pub async fn declare(&self, queue: Queue<'_>, dead: Option<&str>) -> Result<(), AmqpError> {
        let mut arguments = FieldTable::default();
        let shared = !matches!(queue, Queue::Own(_));
        if shared {
            arguments.insert("x-queue-type".into(), long("quorum"));
            arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(RETURNS));
            if let Some(dead) = dead {
                arguments.insert("x-dead-letter-exchange".into(), long(""));
                arguments.insert("x-dead-letter-routing-key".into(), long(dead));
            }
        }
        if matches!(queue, Queue::InTurn(_)) {
            arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        }
        let options = QueueDeclareOptions {
            durable: shared,
            exclusive: !shared,
            auto_delete: !shared,
            ..QueueDeclareOptions::default()
        };
        let declared = self.inner.queue_declare(queue.name().into(), options, arguments);
        match tokio::time::timeout(ANSWER_TIME, declared).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if is_locked(&error) => Err(AmqpError::InUse(queue.name().to_owned())),
            Ok(Err(error)) => Err(refusal(&self.address, &error).unwrap_or_else(|| AmqpError::gone(&error))),
            Err(_) => Err(AmqpError::Silent),
        }
    }

    /// Takes a queue away with all that is in it; its consumers end. One that is not there is fine too.
    ///
    /// # Errors
    /// `Deaf`, or the connection is gone.
    pub async fn delete(&self, queue: &str) -> Result<(), AmqpError> {
        let deleted = self.inner.queue_delete(queue.into(), QueueDeleteOptions::default());
        in_time(&self.state, deleted).await.map(drop).map_err(|error| deaf(queue, error))
    }

    /// Makes an exchange whose messages go to every queue that is bound to it.
    ///
    /// # Errors
    /// `Refused`, or the connection is gone.
    pub async fn declare_for_all(&self, exchange: &str) -> Result<(), AmqpError> {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let kind = ExchangeKind::Fanout;
        in_time(
            &self.state,
            self.inner.exchange_declare(exchange.into(), kind, options, FieldTable::default()),
        )
        .await
    }

    /// Has `queue` get what is sent to all of `exchange`.
    ///
    /// # Errors
    /// `Refused`, or the connection is gone.
    pub async fn bind(&self, queue: Queue<'_>, exchange: &str) -> Result<(), AmqpError> {
        let (queue, exchange) = (queue.name().into(), exchange.into());
        let options = QueueBindOptions::default();
        in_time(
            &self.state,
            self.inner.queue_bind(queue, exchange, "".into(), options, FieldTable::default()),
        )
        .await
    }

    /// Has `queue` get what `exchange` sends under a routing key, or one that fits the pattern.
    ///
    /// # Errors
    /// `Refused` (also when there is no such exchange), or the connection is gone.
    pub async fn bind_key(&self, queue: &str, exchange: &str, key: &str) -> Result<(), AmqpError> {
        let bound = self.inner.queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        self.allowed(bound).await
    }

    /// Reads a queue that others made. As `consume`; says why when there is no such queue, or it is not for us.
    ///
    /// # Errors
    /// `Refused`, `Silent`, or the connection is gone.
    pub async fn consume_theirs(&self, queue: &str, tag: &str, at_once: u16) -> Result<Consumer, AmqpError> {
        in_time(&self.state, self.inner.basic_qos(at_once, BasicQosOptions::default())).await?;
        let options = BasicConsumeOptions::default();
        let consuming = self.inner.basic_consume(queue.into(), tag.into(), options, FieldTable::default());
        let inner = self.allowed(consuming).await?;
        Ok(Consumer { inner, queue: queue.to_owned(), channel: self.clone() })
    }

    /// Whether the broker still answers.
    pub fn is_open(&self) -> bool {
        self.inner.status().connected() && self.state.connected()
    }

    /// An answer of the broker, or why it says no.
    async fn allowed<T>(&self, answer: impl Future<Output = lapin::Result<T>>) -> Result<T, AmqpError> {
        match tokio::time::timeout(ANSWER_TIME, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(refusal(&self.address, &error).unwrap_or_else(|| AmqpError::gone(&error))),
            Err(_) => Err(AmqpError::Silent),
        }
    }

    /// Reads a queue, with at most `at_once` deliveries under way. `tag` names the consumer on this channel.
    ///
    /// # Errors
    /// `Refused`, `Deaf`, or the connection is gone.
    pub async fn consume(&self, queue: Queue<'_>, tag: &str, at_once: u16) -> Result<Consumer, AmqpError> {
        in_time(&self.state, self.inner.basic_qos(at_once, BasicQosOptions::default())).await?;
        let (name, options) = (queue.name().into(), BasicConsumeOptions::default());
        let consuming = self.inner.basic_consume(name, tag.into(), options, FieldTable::default());
        let inner = in_time(&self.state, consuming).await.map_err(|error| deaf(queue.name(), error))?;
        Ok(Consumer { inner, queue: queue.name().to_owned(), channel: self.clone() })
    }

    /// Has the broker deliver no more to the consumer `tag`. What is on its way still comes; then the consumer ends.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn stop_consuming(&self, tag: &str) -> Result<(), AmqpError> {
        in_time(&self.state, self.inner.basic_cancel(tag.into(), BasicCancelOptions::default())).await
    }

    /// Hands a message to the connection. Messages of one channel arrive in the order in which they were handed over.
    ///
    /// # Errors
    /// `TooLarge`, `Silent`, or the connection is gone.
    pub async fn send(&self, to: To<'_>, body: &[u8]) -> Result<Confirm, AmqpError> {
        self.send_with(to, body, FieldTable::default()).await
    }

    async fn send_with(&self, to: To<'_>, body: &[u8], headers: FieldTable) -> Result<Confirm, AmqpError> {
        if body.len() > MESSAGE_BYTES {
            return Err(AmqpError::TooLarge(body.len()));
        }
        let (exchange, key, mandatory) = match to {
            To::Queue(name) => ("", name, true),
            To::All(name) => (name, "", false),
        };
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_headers(headers);
        let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
        let sent = self.inner.basic_publish(exchange.into(), key.into(), options, body, properties);
        let inner = in_time(&self.state, sent).await?;
        Ok(Confirm { inner, state: self.state.clone(), to: key.to_owned() })
    }

    /// Puts what nobody can read where people find it, with the reason, and takes it out of its own queue.
    ///
    /// # Errors
    /// The connection is gone; then it comes again.
    pub async fn bury(&self, delivery: Delivery, dead: &str, why: &str) -> Result<(), AmqpError> {
        let mut headers = FieldTable::default();
        headers.insert(REASON.into(), long(why));
        headers.insert(CAME_FROM.into(), long(&delivery.queue));
        // One that is too large to be sent again leaves its beginning.
        let kept = delivery.body().get(..MESSAGE_BYTES).unwrap_or(delivery.body());
        self.send_with(To::Queue(dead), kept, headers).await?.wait().await?;
        delivery.acknowledge().await
    }
}

/// Whether the broker has what was sent.
#[derive(Debug)]
pub struct Confirm {
    inner: PublisherConfirm,
    state: ConnectionStatus,
    to: String,
}

impl Confirm {
    /// Returns once the broker has it.
    ///
    /// # Errors
    /// `NoQueue`, `Deaf`, or the connection is gone.
    pub async fn wait(self) -> Result<(), AmqpError> {
        let confirmation = in_time(&self.state, self.inner).await.map_err(|error| deaf(&self.to, error))?;
        if !confirmation.is_ack() {
            return Err(AmqpError::Gone("the broker could not keep a message".to_owned()));
        }
        match confirmation.take_message() {
            None => Ok(()),
            Some(_returned) => Err(AmqpError::NoQueue(self.to)),
        }
    }
}

/// Reads one queue.
pub struct Consumer {
    inner: lapin::Consumer,
    queue: String,
    /// Closed when nobody holds it.
    channel: Channel,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Consumer({})", self.queue)
    }
}

impl Consumer {
    /// The next message; `None` when it was stopped.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn next(&mut self) -> Result<Option<Delivery>, AmqpError> {
        match self.inner.next().await {
            Some(Ok(inner)) => {
                let (queue, state) = (self.queue.clone(), self.channel.state.clone());
                Ok(Some(Delivery { inner: Box::new(inner), state, queue }))
            }
            Some(Err(error)) => Err(AmqpError::gone(&error)),
            None => Ok(None),
        }
    }
}

/// A message that was delivered. It comes again, here or elsewhere, until it is acknowledged.
pub struct Delivery {
    inner: Box<lapin::message::Delivery>,
    state: ConnectionStatus,
    queue: String,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delivery({}, {} bytes)", self.queue, self.inner.data.len())
    }
}

impl Delivery {
    pub fn body(&self) -> &[u8] {
        &self.inner.data
    }

    /// What a header says, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        let headers = self.inner.properties.headers().as_ref()?;
        match headers.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            _ => None,
        }
    }

    /// What stands on the message beside its body.
    pub fn about(&self) -> About {
        let properties = &self.inner.properties;
        let text = |value: &Option<ShortString>| value.as_ref().map(|text| text.as_str().to_owned());
        let headers = properties.headers().as_ref().map(table).unwrap_or_default();
        About {
            exchange: self.inner.exchange.as_str().to_owned(),
            routing_key: self.inner.routing_key.as_str().to_owned(),
            redelivered: self.inner.redelivered,
            message_id: text(properties.message_id()),
            correlation_id: text(properties.correlation_id()),
            content_type: text(properties.content_type()),
            content_encoding: text(properties.content_encoding()),
            kind: text(properties.kind()),
            app_id: text(properties.app_id()),
            reply_to: text(properties.reply_to()),
            seconds: *properties.timestamp(),
            headers: Value::Object(headers),
        }
    }

    /// Nobody can have it: it goes where its queue puts the dead, or nowhere.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn reject(self) -> Result<(), AmqpError> {
        let options = BasicRejectOptions { requeue: false };
        in_time(&self.state, self.inner.acker.reject(options)).await.map(drop)
    }

    /// It is dealt with.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn acknowledge(self) -> Result<(), AmqpError> {
        in_time(&self.state, self.inner.acker.ack(BasicAckOptions::default())).await.map(drop)
    }

    /// Somebody else may have it.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn give_back(self) -> Result<(), AmqpError> {
        let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
        in_time(&self.state, self.inner.acker.nack(options)).await.map(drop)
    }
}

/// What stands on a message beside its body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    pub exchange: String,
    pub routing_key: String,
    /// Whether somebody had it before.
    pub redelivered: bool,
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    /// Its `type`.
    pub kind: Option<String>,
    pub app_id: Option<String>,
    pub reply_to: Option<String>,
    /// When it was sent, in seconds since 1970.
    pub seconds: Option<u64>,
    /// A map.
    pub headers: Value,
}

fn table(table: &FieldTable) -> Object {
    table.inner().iter().map(|(name, value)| (name.as_str().to_owned(), json_of(value))).collect()
}

/// A header as JSON; bytes that are no text as base64.
fn json_of(value: &AMQPValue) -> Value {
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => Value::from(base64::engine::general_purpose::STANDARD.encode(bytes)),
    };
    match value {
        AMQPValue::Boolean(value) => Value::from(*value),
        AMQPValue::ShortShortInt(value) => Value::from(*value),
        AMQPValue::ShortShortUInt(value) => Value::from(*value),
        AMQPValue::ShortInt(value) => Value::from(*value),
        AMQPValue::ShortUInt(value) => Value::from(*value),
        AMQPValue::LongInt(value) => Value::from(*value),
        AMQPValue::LongUInt(value) => Value::from(*value),
        AMQPValue::LongLongInt(value) => Value::from(*value),
        AMQPValue::Timestamp(value) => Value::from(*value),
        AMQPValue::Float(value) => Value::from(*value),
        AMQPValue::Double(value) => Value::from(*value),
        AMQPValue::DecimalValue(value) => {
            Value::from(f64::from(value.value) / 10_f64.powi(i32::from(value.scale)))
        }
        AMQPValue::ShortString(value) => Value::from(value.as_str()),
        AMQPValue::LongString(value) => text(value.as_bytes()),
        AMQPValue::ByteArray(value) => text(value.as_slice()),
        AMQPValue::FieldArray(values) => Value::Array(values.as_slice().iter().map(json_of).collect()),
        AMQPValue::FieldTable(inner) => Value::Object(table(inner)),
        AMQPValue::Void => Value::Null,
    }
}

/// Waits for an answer as long as the connection lives: what is asked while it breaks may never be answered.
async fn in_time<T>(
    state: &ConnectionStatus,
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T, AmqpError> {
    let until = Instant::now() + ANSWER_TIME;
    tokio::pin!(answer);
    loop {
        if let Ok(answer) = tokio::time::timeout(LOOK_TIME, &mut answer).await {
            return answer.map_err(|error| AmqpError::gone(&error));
        }
        if state.errored() || state.closed() {
            return Err(AmqpError::Gone("it broke".to_owned()));
        }
        if Instant::now() >= until {
            return Err(AmqpError::Silent);
        }
    }
}

/// Says which queue is silent.
fn deaf(queue: &str, error: AmqpError) -> AmqpError {
    match error {
        AmqpError::Silent => AmqpError::Deaf(queue.to_owned()),
        other => other,
    }
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

/// What the broker said no to.
fn refusal(address: &Address, error: &lapin::Error) -> Option<AmqpError> {
    let ErrorKind::ProtocolError(protocol) = error.kind() else { return None };
    let (address, why) = (address.to_string(), protocol.get_message().to_string());
    match protocol.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) if why.contains("Login was refused") => {
            Some(AmqpError::Login(address))
        }
        AMQPErrorKind::Soft(
            AMQPSoftError::ACCESSREFUSED | AMQPSoftError::PRECONDITIONFAILED | AMQPSoftError::NOTFOUND,
        )
        | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => Some(AmqpError::Refused { address, why }),
        _ => None,
    }
}

fn is_locked(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(protocol) = error.kind() else { return false };
    matches!(protocol.kind(), AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED))
}

/// The words of the system where it was the system's error.
fn plain(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::IOError(error) => error.to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_address_prints_without_its_password() {
        let address: Address = "amqp://ana:hunter2@broker:5673/siskin".parse().unwrap();
        assert_eq!(address.to_string(), "amqp://ana@broker:5673/siskin");
        assert!(!format!("{address:?}").contains("hunter2"));
        assert_eq!("amqp://broker".parse::<Address>().unwrap().0.vhost, "/");
        assert_eq!("amqp://broker/".parse::<Address>().unwrap().0.vhost, "/");
    }

    #[test]
    fn what_is_no_address_says_what_one_is_and_shows_no_password() {
        for text in ["http://ana:hunter2@host", "broker:5672", "", "ana:hunter2@host"] {
            let said = text.parse::<Address>().unwrap_err().to_string();
            assert!(said.contains("amqp://USER") && !said.contains("hunter2"), "{said}");
        }
    }
}
