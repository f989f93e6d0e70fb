//! Files that runs keep, by their hash; whole, or from a place on.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Api;
use super::problem::Problem;
use super::request::Name;
use crate::byte_range::{Part, Wanted, wanted};
use crate::model::ArtefactHash;

pub(super) async fn show(
    State(api): State<Api>,
    Name(hash): Name,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let hash: ArtefactHash = hash.parse().map_err(|error: crate::model::artefact::NoHash| {
        Problem::new(StatusCode::NOT_FOUND, error.to_string())
    })?;
    let size = api.engine.artefacts().size(&hash).await?;
    let size = size.ok_or_else(|| Problem::missing(format!("artefact {hash}")))?;
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let (status, part) = match range.map(|range| wanted(range, size)) {
        None | Some(Wanted::All) => (StatusCode::OK, Part { from: 0, to: size }),
        Some(Wanted::Part(part)) => (StatusCode::PARTIAL_CONTENT, part),
        Some(Wanted::Nothing) => {
            let said = HeaderValue::try_from(format!("bytes */{size}"));
            let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("it has {size} bytes"));
            return Err(match said {
                Ok(said) => problem.with_header(header::CONTENT_RANGE, said),
                Err(_) => problem,
            });
        }
    };
    let mut response = (status, Body::from_stream(bytes(api, hash.clone(), part))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(part.to - part.from));
    // What a page of ours would make of somebody's file must not happen.
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(tag) = HeaderValue::try_from(format!("\"{hash}\"")) {
        headers.insert(header::ETAG, tag);
    }
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(range) = HeaderValue::try_from(format!("bytes {}-{}/{size}", part.from, part.to - 1))
    {
        headers.insert(header::CONTENT_RANGE, range);
    }
    Ok(response)
}

/// Piece by piece, as the receiver takes them.
fn bytes(
    api: Api,
    hash: ArtefactHash,
    part: Part,
) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> {
    futures::stream::unfold(Some(part), move |left| {
        let (api, hash) = (api.clone(), hash.clone());
        async move {
            let Part { from, to } = left.filter(|part| part.from < part.to)?;
            let read = match api.engine.artefacts().piece(&hash, from).await {
                Ok(Some(bytes)) if !bytes.is_empty() => Ok(bytes),
                Ok(_) => Err("it has gone".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            match read {
                Ok(mut bytes) => {
                    bytes.truncate(usize::try_from(to - from).unwrap_or(usize::MAX));
                    let next = Part { from: from + bytes.len() as u64, to };
                    Some((Ok(Bytes::from(bytes)), Some(next)))
                }
                // Breaks the connection: what came so far is not taken for the whole.
                Err(error) => {
                    tracing::error!(%hash, %error, "an artefact can't be read");
                    Some((Err(std::io::Error::other(error)), None))
                }
            }
        }
    })
}
