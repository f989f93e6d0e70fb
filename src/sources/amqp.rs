//! Source `amqp`: a queue of anyone's RabbitMQ, every message an event.
//!
//! Payload: `{content, routing_key, exchange, redelivered, message_id, correlation_id, content_type, type, app_id, reply_to, sent_at, headers}`; a body that is
//! no text is in `content_base64`. A message is acknowledged once its event is stored, so that none is lost; what is delivered again after a crash in between
//! is known by its `message_id` and what it holds, and without a `message_id` it is an event a second time. What can't become an event is rejected, so that it
//! holds up no other and goes where its queue puts the dead; the source's health says why. The cursor only counts, and keeps a second server from storing.

use std::time::Duration;

use serde_json::json;

use super::seat::{MOST_AT_ONCE, Seat, Sight, Trouble, fingerprint, put_bytes, subject};
use crate::amqp::{About, Address, Channel, Connection, Consumer, Delivery, MESSAGE_BYTES, Queue};
use crate::definitions::remote::{Amqp, Format};
use crate::model::event::NewEvent;
use crate::model::{Object, Span, Timestamp, Value};

/// How often a queue in which nothing comes is looked after.
const QUIET: Duration = Duration::from_secs(30);
/// Bytes of messages that are stored at once; one more than that is stored alone.
const BYTES_AT_ONCE: usize = 4 * 1024 * 1024;
/// How the consumer is called on its channel.
const TAG: &str = "siskin";

pub(super) async fn run(seat: &mut Seat, watched: &Amqp) -> Result<(), Trouble> {
    let address = address(seat, watched).await?;
    let queue = seat.setting("queue", &watched.queue).await?;
    let ca = seat.pem("ca", watched.ca.as_ref()).await?;
    let stored = seat.open(subject(&["amqp", &address.to_string(), &queue])).await?;
    let mut count = stored.and_then(|cursor| cursor["events"].as_u64()).unwrap_or(0);
    let connection = Connection::open_trusting(&address, "siskin source", ca).await?;
    let channel = connection.channel().await?;
    prepare(seat, watched, &channel, &queue).await?;
    let mut consumer = channel.consume_theirs(&queue, TAG, watched.at_once).await?;
    seat.well();
    loop {
        let first = match tokio::time::timeout(QUIET, consumer.next()).await {
            Ok(next) => next?,
            Err(_) if channel.is_open() => {
                seat.well();
                continue;
            }
            Err(_) => return Err(Trouble::new("the connection to the broker is gone")),
        };
        let Some(first) = first else {
            let why = format!("the broker ended it: the queue `{queue}` was deleted, or its node is gone");
            return Err(Trouble::new(why));
        };
        let deliveries = with_those_that_are_there(first, &mut consumer).await?;
        seat.well();
        take(seat, watched.format, deliveries, &mut count).await?;
    }
}

async fn address(seat: &Seat, watched: &Amqp) -> Result<Address, Trouble> {
    let address: Address = seat.setting("url", &watched.url).await?.parse()?;
    let user = seat.optional("user", watched.user.as_ref()).await?;
    let password = seat.optional("password", watched.password.as_ref()).await?;
    Ok(match (user, password) {
        (Some(user), Some(password)) => address.user(&user, &password),
        _ => address,
    })
}

/// Makes the queue and binds it, as far as that is asked for.
async fn prepare(seat: &Seat, watched: &Amqp, channel: &Channel, queue: &str) -> Result<(), Trouble> {
    if watched.declare {
        channel.declare(Queue::Shared(queue), None).await?;
    }
    let Some(binding) = &watched.binding else { return Ok(()) };
    let exchange = seat.setting("exchange", &binding.exchange).await?;
    if binding.keys.is_empty() {
        channel.bind_key(queue, &exchange, "").await?;
    }
    for key in &binding.keys {
        channel.bind_key(queue, &exchange, &seat.setting("binding", key).await?).await?;
    }
    Ok(())
}

/// What was delivered meanwhile is stored together.
async fn with_those_that_are_there(
    first: Delivery,
    consumer: &mut Consumer,
) -> Result<Vec<Delivery>, Trouble> {
    let mut bytes = first.body().len();
    let mut deliveries = vec![first];
    while deliveries.len() < MOST_AT_ONCE && bytes < BYTES_AT_ONCE {
        match tokio::time::timeout(Duration::ZERO, consumer.next()).await {
            Ok(Ok(Some(delivery))) => {
                bytes += delivery.body().len();
                deliveries.push(delivery);
            }
            // What has come is stored first; the end is seen the next time too.
            Ok(Ok(None) | Err(_)) | Err(_) => break,
        }
    }
    Ok(deliveries)
}

/// Stores the events of messages, then acknowledges them; rejects those that become none.
async fn take(
    seat: &mut Seat,
    format: Format,
    deliveries: Vec<Delivery>,
    count: &mut u64,
) -> Result<(), Trouble> {
    let mut events: Vec<NewEvent> = Vec::new();
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let mut last_sent_at = None;
    for delivery in deliveries {
        let about = delivery.about();
        let made = match sight(&about, delivery.body(), format) {
            Ok(sight) => {
                last_sent_at = sight.at.or(last_sent_at);
                seat.made(sight)?
            }
            Err(why) => super::seat::Made { refused: vec![why], ..Default::default() },
        };
        for why in &made.refused {
            seat.refuse(format!("{}: {why}", named(&about)));
        }
        // One of which a part became events is used; only one of which nothing did is of no use.
        match made.events.is_empty() && !made.refused.is_empty() {
            true => bad.push(delivery),
            false => good.push(delivery),
        }
        events.extend(made.events);
    }
    let lag: Option<Span> = last_sent_at.map(|at| seat.clock().now().since(at));
    while !events.is_empty() {
        let rest = events.split_off(events.len().min(MOST_AT_ONCE));
        *count += events.len() as u64;
        seat.store_events(events, lag, json!({"events": count})).await?;
        events = rest;
    }
    for delivery in good {
        delivery.acknowledge().await?;
    }
    for delivery in bad {
        delivery.reject().await?;
    }
    Ok(())
}

/// How a message is called in what people read.
fn named(about: &About) -> String {
    let key = &about.routing_key;
    match &about.message_id {
        Some(id) => format!("the message `{id}` with the key `{key}`"),
        None => format!("a message with the key `{key}`"),
    }
}

fn sight(about: &About, body: &[u8], format: Format) -> Result<Sight, String> {
    if body.len() > MESSAGE_BYTES {
        return Err(format!("it has {} bytes; {MESSAGE_BYTES} are the most", body.len()));
    }
    let mut payload = Object::new();
    put_content(&mut payload, about, body, format)?;
    payload.insert("routing_key".to_owned(), json!(about.routing_key));
    payload.insert("exchange".to_owned(), json!(about.exchange));
    payload.insert("redelivered".to_owned(), json!(about.redelivered));
    payload.insert("message_id".to_owned(), json!(about.message_id));
    payload.insert("correlation_id".to_owned(), json!(about.correlation_id));
    payload.insert("content_type".to_owned(), json!(about.content_type));
    payload.insert("type".to_owned(), json!(about.kind));
    payload.insert("app_id".to_owned(), json!(about.app_id));
    payload.insert("reply_to".to_owned(), json!(about.reply_to));
    let at = about.seconds.and_then(|seconds| i64::try_from(seconds).ok()?.checked_mul(1000));
    let at = at.map(Timestamp);
    payload.insert("sent_at".to_owned(), json!(at));
    payload.insert("headers".to_owned(), about.headers.clone());
    // A number that a sender counts begins anew some day: the same id with something else in it is another message.
    let dedup = about.message_id.as_ref().filter(|id| !id.is_empty()).map(|id| {
        let all = [about.routing_key.as_bytes(), &[0], body].concat();
        fingerprint(format!("{id}\0{}", fingerprint(&all)).as_bytes())
    });
    Ok(Sight { dedup, at, ..Sight::of(Value::Object(payload)) })
}

fn put_content(payload: &mut Object, about: &About, body: &[u8], format: Format) -> Result<(), String> {
    if let Some(encoding) = about.content_encoding.as_ref().filter(|text| is_packed(text)) {
        return Err(format!("its content is packed (`{encoding}`), which is not understood"));
    }
    let kind = about.content_type.as_deref().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let must_be_json = format == Format::Json
        || (format == Format::Auto && (kind.ends_with("/json") || kind.ends_with("+json")));
    let may_be_json = must_be_json || (format == Format::Auto && !kind.starts_with("text/"));
    let read = may_be_json.then(|| serde_json::from_slice::<Value>(body));
    match read {
        Some(Ok(value)) => drop(payload.insert("content".to_owned(), value)),
        Some(Err(error)) if must_be_json => return Err(format!("it is no JSON: {error}")),
        _ => put_bytes(payload, "content", body.to_vec()),
    }
    Ok(())
}

/// Whether the bytes must be unpacked before they mean anything. Some senders put the character set there.
fn is_packed(encoding: &str) -> bool {
    ["gzip", "deflate", "br", "zstd", "compress"].contains(&encoding.to_ascii_lowercase().as_str())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn content(kind: &str, body: &[u8], format: Format) -> Result<Value, String> {
        let about = About { content_type: Some(kind.to_owned()), ..About::default() };
        let payload = sight(&about, body, format)?.body;
        Ok(match payload.get("content_base64") {
            Some(bytes) => json!({"base64": bytes}),
            None => payload["content"].clone(),
        })
    }

    #[test]
    fn a_body_is_what_its_content_type_says_or_what_it_looks_like() {
        let json = br#"{"a": 1}"#;
        assert_eq!(content("application/json; charset=utf-8", json, Format::Auto), Ok(json!({"a": 1})));
        assert_eq!(content("application/cloudevents+json", json, Format::Auto), Ok(json!({"a": 1})));
        assert_eq!(content("", json, Format::Auto), Ok(json!({"a": 1})));
        assert_eq!(content("", b"plain", Format::Auto), Ok(json!("plain")));
        assert_eq!(content("text/plain", b"1", Format::Auto), Ok(json!("1")));
        assert_eq!(content("application/json", b"1", Format::Text), Ok(json!("1")));
        assert_eq!(content("application/octet-stream", &[0xff], Format::Auto), Ok(json!({"base64": "/w=="})));
        assert!(content("application/json", b"{", Format::Auto).unwrap_err().contains("no JSON"));
        assert!(content("text/plain", b"x", Format::Json).unwrap_err().contains("no JSON"));
        assert!(content("", &vec![b' '; MESSAGE_BYTES + 1], Format::Text).is_err());
    }

    #[test]
    fn the_same_id_with_something_else_in_it_is_another_message() {
        let dedup = |id: Option<&str>, body: &str| {
            let about = About { message_id: id.map(str::to_owned), ..About::default() };
            sight(&about, body.as_bytes(), Format::Auto).unwrap().dedup
        };
        assert_eq!(dedup(Some("1"), "a"), dedup(Some("1"), "a"));
        assert_ne!(dedup(Some("1"), "a"), dedup(Some("1"), "b"));
        assert_ne!(dedup(Some("1"), "a"), dedup(Some("2"), "a"));
        assert_eq!((dedup(None, "a"), dedup(Some(""), "a")), (None, None));
    }
}
