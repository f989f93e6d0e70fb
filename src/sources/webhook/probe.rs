//! Deliveries that nobody sent: what fuzzers and tests throw at the code that reads what comes from outside. Nothing is stored.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::Semaphore;

use super::{Refusal, VerifiedDelivery, body, taken, verify};
use crate::definitions::{Definitions, Source};
use crate::model::{Secret, Timestamp};

/// A delivery as it would arrive.
#[derive(Clone, Debug)]
pub struct Thrown<'a> {
    pub headers: &'a [(String, Vec<u8>)],
    pub query: &'a str,
    pub bytes: &'a [u8],
}

/// The events that the delivery would be, had its sender proved who they are; or the status that refuses it.
pub fn events(definitions: &Definitions, source: &Source, thrown: &Thrown<'_>) -> Result<usize, u16> {
    let read = || {
        let hook = source.webhook().ok_or_else(Refusal::no_hook)?;
        let headers = headers(thrown);
        body::refuse_encoded(&headers)?;
        let is_form = body::is_form(&headers)?;
        let query = body::pairs(thrown.query).unwrap_or_default();
        let memory = Arc::new(Semaphore::new(1)).try_acquire_owned().map_err(|_| Refusal::busy(1))?;
        let bytes = Bytes::copy_from_slice(thrown.bytes);
        let delivery = VerifiedDelivery { bytes, is_form, headers, query, _memory: memory };
        taken(definitions, source, hook, &delivery)
    };
    read().map(|taken| taken.events.len()).map_err(|refusal: Refusal| refusal.status.as_u16())
}

/// Whether the delivery proves that its sender knows `key`.
pub fn is_proved(source: &Source, thrown: &Thrown<'_>, key: &Secret, now: Timestamp) -> bool {
    let Some(hook) = source.webhook() else { return false };
    let (headers, query) = (headers(thrown), body::pairs(thrown.query).unwrap_or_default());
    let sent = verify::Sent { headers: &headers, query: &query, bytes: thrown.bytes, now };
    verify::is_proved(&hook.verify, &sent, key)
}

/// What HTTP itself would have refused is left out.
fn headers(thrown: &Thrown<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in thrown.headers {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    headers
}
