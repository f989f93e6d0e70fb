//! Source `http_poll`: an answer that is fetched every so often.
//!
//! The payload is the answer's body, as data when it is JSON, else `{text}`. Without `each` an answer that differs from the last one is an event; with it,
//! each element that was not in the last one, known by what `dedup` gives for it, or else by all that it holds. The server is told what was fetched last
//! (`If-None-Match`, `If-Modified-Since`), so that nothing new costs nothing. What is there at the first look makes no event. Redirects lead to the same host
//! only. The cursor is the last answer's tag and fingerprints.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, StatusCode, Url, redirect};
use serde_json::json;

use super::seat::{MOST_AT_ONCE, Seat, Sight, Trouble, fingerprint, subject};
use crate::definitions::live::HttpPoll;
use crate::http_client;
use crate::model::event::NewEvent;

/// The largest answer.
const LARGEST: usize = 10_000_000;
const REDIRECTS: usize = 5;
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take, all of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was fetched last.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
struct Last {
    etag: Option<String>,
    modified: Option<String>,
    /// Of the whole answer.
    body: String,
    /// Of its elements.
    items: Vec<String>,
}

/// A fresh answer.
struct Fetched {
    etag: Option<String>,
    modified: Option<String>,
    bytes: Vec<u8>,
}

pub(super) async fn run(seat: &mut Seat, poll: &HttpPoll) -> Result<(), Trouble> {
    let address = seat.setting("url", &poll.url).await?;
    let url = Url::parse(&address).map_err(|error| Trouble::new(format!("`url` is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Trouble::new("`url` begins with neither http: nor https:"));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &poll.headers {
        let wrong = || Trouble::new(format!("the header `{name}` can't be sent"));
        let mut value = HeaderValue::from_str(&seat.setting(name, value).await?).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?, value);
    }
    let client = client()?;
    // The URL may hold a secret, and a cursor is stored.
    let stored = seat.open(subject(&["http_poll", &fingerprint(address.as_bytes())])).await?;
    let mut last: Option<Last> = stored.and_then(|cursor| serde_json::from_value(cursor).ok());
    loop {
        let fetched = fetch(&client, &url, &headers, last.as_ref()).await?;
        seat.well();
        if let Some(fetched) = fetched {
            let new = take(seat, fetched, last.as_ref()).await?;
            last = Some(new);
        }
        tokio::time::sleep(poll.every.duration()).await;
    }
}

/// Makes events of an answer, and stores them.
async fn take(seat: &mut Seat, fetched: Fetched, last: Option<&Last>) -> Result<Last, Trouble> {
    let mut new = Last {
        etag: fetched.etag,
        modified: fetched.modified,
        body: fingerprint(&fetched.bytes),
        items: Vec::new(),
    };
    if let Some(last) = last.filter(|last| last.body == new.body) {
        new.items.clone_from(&last.items);
        if *last != new {
            seat.store(Vec::new(), json!(new)).await?;
        }
        return Ok(new);
    }
    let body = serde_json::from_slice(&fetched.bytes)
        .unwrap_or_else(|_| json!({"text": String::from_utf8_lossy(&fetched.bytes)}));
    let has_items = seat.has_each();
    let mut events = seat.events(vec![Sight::of(body)]);
    if has_items {
        new.items = events.iter().map(key).collect();
        let is_new = |event: &NewEvent| last.is_some_and(|last| !last.items.contains(&key(event)));
        events.retain(is_new);
    }
    if last.is_none() {
        events.clear();
    }
    while events.len() > MOST_AT_ONCE {
        let rest = events.split_off(MOST_AT_ONCE);
        // Those that are stored are known, the others are not yet.
        let mut part = last.cloned().unwrap_or_default();
        let to_come: Vec<String> = rest.iter().map(key).collect();
        part.items = new.items.iter().filter(|item| !to_come.contains(item)).cloned().collect();
        part.body.clear();
        part.etag = None;
        part.modified = None;
        seat.store_events(events, None, json!(part)).await?;
        events = rest;
    }
    seat.store_events(events, None, json!(new)).await?;
    Ok(new)
}

/// Tells an element from the others.
fn key(event: &NewEvent) -> String {
    match &event.dedup {
        Some(dedup) => fingerprint(dedup.as_bytes()),
        None => fingerprint(event.payload.to_string().as_bytes()),
    }
}

/// What is new there; `None` when it is as it was.
async fn fetch(
    client: &Client,
    url: &Url,
    headers: &HeaderMap,
    last: Option<&Last>,
) -> Result<Option<Fetched>, Trouble> {
    let host = url.host_str().unwrap_or_default();
    let failed =
        |error: &reqwest::Error| Trouble::new(format!("{host} can't be asked: {}", http_client::why(error)));
    let mut request = client.get(url.clone()).headers(headers.clone());
    let known = last.map(|last| [("If-None-Match", &last.etag), ("If-Modified-Since", &last.modified)]);
    for (name, value) in known.into_iter().flatten() {
        if let Some(value) = value {
            request = request.header(name, value);
        }
    }
    let mut answer = request.send().await.map_err(|error| failed(&error))?;
    if answer.status() == StatusCode::NOT_MODIFIED {
        return Ok(None);
    }
    if !answer.status().is_success() {
        return Err(Trouble::new(format!("{host} answered {}", answer.status())));
    }
    let header = |name: &str| answer.headers().get(name)?.to_str().ok().map(str::to_owned);
    let (etag, modified) = (header("etag"), header("last-modified"));
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| failed(&error))? {
        if bytes.len() + chunk.len() > LARGEST {
            return Err(Trouble::new(format!(
                "the answer of {host} is larger than {} MB",
                LARGEST / 1_000_000
            )));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(Fetched { etag, modified, bytes }))
}

/// Follows redirects on the same host only.
pub(super) fn client() -> Result<Client, Trouble> {
    let same_host = redirect::Policy::custom(|attempt| {
        let from = attempt.previous().first();
        let is_same = from.is_some_and(|from| from.origin() == attempt.url().origin());
        if is_same && attempt.previous().len() <= REDIRECTS { attempt.follow() } else { attempt.stop() }
    });
    let builder = http_client::builder()
        .connect_timeout(CONNECT)
        .timeout(PATIENCE)
        .pool_max_idle_per_host(0)
        .redirect(same_host);
    builder.build().map_err(|error| Trouble::new(format!("HTTP requests can't be made here: {error}")))
}
