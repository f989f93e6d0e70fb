//! Reads what a handler left of a request's body, and throws it away. A server that answers and closes while its caller still sends is
//! heard by many callers as a broken connection, not as the answer.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use futures::{Stream, StreamExt};

/// So much is read and thrown away; who sends more gets a closed connection.
const MOST_BYTES: usize = 128 * 1024 * 1024;
const MOST_TIME: Duration = Duration::from_secs(10);

pub(super) async fn drain(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // Who asks first sends nothing when told no.
    let asks_first = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let mut rest = Shared(Arc::new(Mutex::new(body.into_data_stream())));
    let mut response = next.run(Request::from_parts(parts, Body::from_stream(rest.clone()))).await;
    let is_read = !asks_first && tokio::time::timeout(MOST_TIME, to_end(&mut rest)).await == Ok(true);
    if !is_read && (response.status().is_client_error() || response.status().is_server_error()) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether the end came within the bound.
async fn to_end(rest: &mut Shared) -> bool {
    let mut left = MOST_BYTES;
    while let Some(Ok(chunk)) = rest.next().await {
        let Some(less) = left.checked_sub(chunk.len()) else { return false };
        left = less;
    }
    true
}

/// A body that the handler reads and we read on.
#[derive(Clone)]
struct Shared(Arc<Mutex<BodyDataStream>>);

impl Stream for Shared {
    type Item = Result<Bytes, axum::Error>;
    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        body.poll_next_unpin(context)
    }
}
