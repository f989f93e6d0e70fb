//! Files that runs keep, by their hash; whole, or from a place on.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Api;
use super::problem::Problem;
use super::request::Name;
use crate::model::ArtefactHash;

/// The bytes of a file that are asked for: from one to before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    from: u64,
    to: u64,
}

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
    let (status, part) = match range.map(|range| part_of(range, size)) {
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part(Part),
    /// Nothing of it is there.
    Nothing,
}

/// One range of bytes; what is not understood, or several, means the whole, as the standard wants it.
fn part_of(range: &str, size: u64) -> Wanted {
    let Some((first, last)) = range.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Wanted::All;
    };
    let part = match (first.trim(), last.trim()) {
        ("", last) => last.parse::<u64>().map(|count| Part { from: size.saturating_sub(count), to: size }),
        (first, "") => first.parse().map(|from| Part { from, to: size }),
        (first, last) => match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(from), Ok(last)) if from <= last => Ok(Part { from, to: size.min(last.saturating_add(1)) }),
            (Ok(_), Ok(_)) => return Wanted::All,
            (Err(error), _) | (_, Err(error)) => Err(error),
        },
    };
    match part {
        Ok(part) if part.from < part.to => Wanted::Part(part),
        Ok(_) => Wanted::Nothing,
        Err(_) => Wanted::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_understood_and_everything_else_is_the_whole() {
        let part = |from, to| Wanted::Part(Part { from, to });
        for (range, wanted) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=2-", part(2, 10)),
            ("bytes=-3", part(7, 10)),
            ("bytes=-30", part(0, 10)),
            ("bytes=4-99", part(4, 10)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-4", Wanted::All),
            ("bytes=0-1,3-4", Wanted::All),
            ("lines=1-2", Wanted::All),
        ] {
            assert_eq!(part_of(range, 10), wanted, "{range}");
        }
        assert_eq!(part_of("bytes=0-", 0), Wanted::Nothing);
    }
}
