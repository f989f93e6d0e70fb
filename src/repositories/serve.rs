//! `GET /apt/...`: the repository without a name at `/apt/`, those with one at `/apt/NAME/`.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::Repositories;
use crate::byte_range::{Part, Wanted, wanted};
use crate::delivery::apt::Place;
use crate::model::Timestamp;

/// What clients may see of a repository.
const PUBLIC: [&str; 4] = ["dists", "pool", "key.gpg", "key.asc"];
/// How much of a file is read at once.
const PIECE_BYTES: usize = 64 * 1024;
/// A suite that is published twice in a second has two files with one time. For so long after that time, clients are told one second less: then
/// the file that they have never counts as the newer one.
const YOUNG_SECONDS: i64 = 60;

/// The routes of the repositories.
pub fn router(repositories: Repositories) -> Router {
    Router::new()
        .route("/apt", get(nothing))
        .route("/apt/", get(nothing))
        .route("/apt/{*path}", get(serve))
        .with_state(repositories)
}

async fn nothing() -> Response {
    plain(StatusCode::NOT_FOUND, "not found; repositories have no listings, see /apt/dists/SUITE/InRelease\n")
}

async fn serve(
    State(repositories): State<Repositories>,
    UrlPath(path): UrlPath<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let places = match repositories.places() {
        Ok(places) => places,
        Err(error) => {
            tracing::error!(%error, "/apt/ can't be served");
            return plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the server's configuration of repositories is wrong\n",
            );
        }
    };
    let Some((root, inside)) = locate(&places, &path) else {
        return plain(StatusCode::NOT_FOUND, "not found\n");
    };
    let opened = tokio::task::spawn_blocking(move || open(&root, &inside)).await;
    let found = match opened {
        Ok(Ok(found)) => found,
        Ok(Err(error)) if is_absent(&error) => return plain(StatusCode::NOT_FOUND, "not found\n"),
        Ok(Err(error)) => {
            tracing::error!(%error, path, "a file of a repository can't be read");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "this file can't be read\n");
        }
        Err(_) => return plain(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping\n"),
    };
    answer(found, &method, &headers, repositories.engine.clock().now())
}

/// The repository's folder, and the way in it; none for what is no business of clients.
fn locate(places: &[Place], path: &str) -> Option<(PathBuf, PathBuf)> {
    // No name that a repository gives begins with a dot, so that of `..` is refused, too.
    let is_plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\0', '\\']);
    if !path.split('/').all(is_plain) {
        return None;
    }
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let (place, inside) = match places.iter().find(|place| place.name.as_deref() == Some(first)) {
        Some(place) => (place, rest),
        None => (places.iter().find(|place| place.name.is_none())?, path),
    };
    PUBLIC.contains(&inside.split('/').next()?).then(|| (place.directory.clone(), PathBuf::from(inside)))
}

/// A file that may be served.
struct Found {
    file: File,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    tag: String,
    kind: Kind,
    content_type: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// What lies under this address never gets other bytes.
    Immutable,
    /// Another publish may replace it.
    Current,
}

/// Opens a file whose real place is in the public part of the repository.
fn open(root: &Path, inside: &Path) -> io::Result<Found> {
    let absent = || io::Error::from(io::ErrorKind::NotFound);
    let root = fs::canonicalize(root)?;
    let real = fs::canonicalize(root.join(inside))?;
    let below = real.strip_prefix(&root).map_err(|_| absent())?;
    let folder = below.components().next().and_then(|part| part.as_os_str().to_str()).unwrap_or_default();
    if !PUBLIC.contains(&folder) {
        return Err(absent());
    }
    let file = File::open(&real)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(absent());
    }
    let by_hash = inside.components().any(|part| part.as_os_str() == "by-hash");
    let name = inside.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let modified = (metadata.mtime(), metadata.mtime_nsec());
    let tag = match by_hash {
        // The file's time says when it was superseded; its name says what it is.
        true => format!("\"{name}\""),
        false => format!("\"{:x}-{:x}-{:x}{:08x}\"", metadata.ino(), metadata.len(), modified.0, modified.1),
    };
    let kind = if by_hash || folder == "pool" { Kind::Immutable } else { Kind::Current };
    Ok(Found { file, size: metadata.len(), modified, tag, kind, content_type: content_type(name, by_hash) })
}

/// A path that leads nowhere, or through a file.
fn is_absent(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let is_in_circles = error.raw_os_error() == Some(Errno::ELOOP as i32);
    let kinds = [
        io::ErrorKind::NotFound,
        io::ErrorKind::NotADirectory,
        io::ErrorKind::IsADirectory,
        io::ErrorKind::InvalidFilename,
        io::ErrorKind::InvalidInput,
    ];
    is_in_circles || kinds.contains(&error.kind())
}

fn content_type(name: &str, by_hash: bool) -> &'static str {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    match (name, extension) {
        ("Release" | "InRelease" | "Packages", _) => "text/plain; charset=utf-8",
        ("Release.gpg", _) => "application/pgp-signature",
        ("key.asc", _) => "application/pgp-keys",
        (_, Some("deb")) if !by_hash => "application/vnd.debian.binary-package",
        (_, Some("gz")) => "application/gzip",
        (_, Some("xz")) => "application/x-xz",
        _ => "application/octet-stream",
    }
}

fn answer(found: Found, method: &Method, asked: &HeaderMap, now: Timestamp) -> Response {
    let last_modified = last_modified(&found, now);
    let mut response = if is_known(asked, &found, last_modified) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        whole_or_part(&found, method, asked, last_modified)
    };
    let headers = response.headers_mut();
    let cache = match found.kind {
        Kind::Immutable => "public, max-age=31536000, immutable",
        Kind::Current => "no-cache",
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    put(headers, header::ETAG, found.tag.clone());
    put(headers, header::LAST_MODIFIED, http_date(last_modified));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let status = response.status();
    if method != Method::GET || !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        return response;
    }
    let part = match status {
        StatusCode::PARTIAL_CONTENT => part_of(asked, found.size),
        _ => None,
    };
    let Part { from, to } = part.unwrap_or(Part { from: 0, to: found.size });
    let mut file = found.file;
    if let Err(error) = file.seek(SeekFrom::Start(from)) {
        tracing::error!(%error, "a file of a repository can't be read");
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "this file can't be read\n");
    }
    let bytes = tokio::fs::File::from_std(file).take(to - from);
    *response.body_mut() = Body::from_stream(ReaderStream::with_capacity(bytes, PIECE_BYTES));
    response
}

/// Status and headers; the body comes when it is wanted.
fn whole_or_part(found: &Found, method: &Method, asked: &HeaderMap, last_modified: i64) -> Response {
    let size = found.size;
    let range = match method == Method::GET && is_same_for_range(asked, found, last_modified) {
        true => text(asked, header::RANGE).map_or(Wanted::All, |range| wanted(range, size)),
        false => Wanted::All,
    };
    let (status, length, range) = match range {
        Wanted::All => (StatusCode::OK, size, None),
        Wanted::Part(Part { from, to }) => {
            (StatusCode::PARTIAL_CONTENT, to - from, Some(format!("bytes {from}-{}/{size}", to - 1)))
        }
        Wanted::Nothing => (StatusCode::RANGE_NOT_SATISFIABLE, 0, Some(format!("bytes */{size}"))),
    };
    let mut response = status.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(found.content_type));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if let Some(range) = range {
        put(headers, header::CONTENT_RANGE, range);
    }
    response
}

fn part_of(asked: &HeaderMap, size: u64) -> Option<Part> {
    match wanted(text(asked, header::RANGE)?, size) {
        Wanted::Part(part) => Some(part),
        Wanted::All | Wanted::Nothing => None,
    }
}

/// Whether the client has this very file.
fn is_known(asked: &HeaderMap, found: &Found, last_modified: i64) -> bool {
    if asked.contains_key(header::IF_NONE_MATCH) {
        let mut tags = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
        return tags.any(|tags| tags.split(',').any(|tag| matches_tag(tag, &found.tag)));
    }
    let since = text(asked, header::IF_MODIFIED_SINCE).and_then(read_http_date);
    // Not what was said last, but the file's own time: see `YOUNG_SECONDS`.
    let own = if found.kind == Kind::Current { found.modified.0 } else { last_modified };
    since.is_some_and(|since| own <= since)
}

fn matches_tag(tag: &str, own: &str) -> bool {
    let tag = tag.trim();
    tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == own
}

/// Whether what the client has of the file is of this very file, so that a part can be added to it.
fn is_same_for_range(asked: &HeaderMap, found: &Found, last_modified: i64) -> bool {
    match text(asked, header::IF_RANGE) {
        None => !asked.contains_key(header::IF_RANGE),
        Some(tag) if tag.contains('"') => tag.trim() == found.tag,
        Some(date) => read_http_date(date) == Some(last_modified),
    }
}

fn last_modified(found: &Found, now: Timestamp) -> i64 {
    let own = found.modified.0;
    let is_young = now.0 / 1000 - own < YOUNG_SECONDS;
    if found.kind == Kind::Current && is_young { own - 1 } else { own }
}

fn http_date(seconds: i64) -> String {
    let at = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn read_http_date(text: &str) -> Option<i64> {
    let text = text.trim().strip_suffix(" GMT")?;
    let at = jiff::civil::DateTime::strptime("%a, %d %b %Y %H:%M:%S", text).ok()?;
    Some(at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, text).into_response()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;
    use crate::delivery::apt::places;

    fn located(path: &str) -> Option<String> {
        let all = places(&json!({"repositories": {"tools": {}}}), Path::new("/data")).unwrap();
        locate(&all, path).map(|(root, inside)| root.join(inside).display().to_string())
    }

    #[test]
    fn only_what_is_published_has_an_address() {
        assert_eq!(located("dists/stable/InRelease").unwrap(), "/data/apt/dists/stable/InRelease");
        assert_eq!(located("tools/key.gpg").unwrap(), "/data/apt-repositories/tools/key.gpg");
        for path in [
            "",
            "/",
            "..",
            "dists/../../keys/apt.asc",
            "dists//x",
            "dists/.stable.000001/Release",
            ".siskin/lock",
            "dists/stable/",
            "other/file",
            "tools",
            "tools/",
            "tools/../key.gpg",
            "pool/\0",
            "keys/apt.asc",
            "dists/./x",
        ] {
            assert_eq!(located(path), None, "{path}");
        }
    }

    #[test]
    fn a_link_out_of_the_repository_or_into_its_own_affairs_leads_nowhere() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("apt");
        fs::create_dir_all(root.join("pool/main")).unwrap();
        fs::create_dir_all(root.join(".siskin")).unwrap();
        fs::write(scratch.path().join("secret"), "x").unwrap();
        fs::write(root.join(".siskin/lock"), "x").unwrap();
        fs::write(root.join("pool/main/a.deb"), "x").unwrap();
        symlink("../../../secret", root.join("pool/main/out.deb")).unwrap();
        symlink("../../.siskin/lock", root.join("pool/main/lock.deb")).unwrap();
        symlink("a.deb", root.join("pool/main/b.deb")).unwrap();
        symlink("c.deb", root.join("pool/main/c.deb")).unwrap();
        let opens = |inside: &str| match open(&root, Path::new(inside)) {
            Ok(_) => true,
            Err(error) => {
                assert!(is_absent(&error), "{inside}: {error}");
                false
            }
        };
        assert!(opens("pool/main/a.deb") && opens("pool/main/b.deb"));
        for inside in
            ["pool/main/out.deb", "pool/main/lock.deb", "pool/main/c.deb", "pool/main", "pool/main/a.deb/x"]
        {
            assert!(!opens(inside), "{inside}");
        }
    }

    #[test]
    fn a_file_of_this_second_is_never_said_to_be_unchanged() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("dists/s")).unwrap();
        fs::write(scratch.path().join("dists/s/InRelease"), "x").unwrap();
        let found = open(scratch.path(), Path::new("dists/s/InRelease")).unwrap();
        let now = Timestamp(found.modified.0 * 1000 + 500);
        let said = last_modified(&found, now);
        let mut asked = HeaderMap::new();
        put(&mut asked, header::IF_MODIFIED_SINCE, http_date(said));
        assert!(!is_known(&asked, &found, said));
        // Later it is certain.
        let said = last_modified(&found, Timestamp(now.0 + 120_000));
        put(&mut asked, header::IF_MODIFIED_SINCE, http_date(said));
        assert!(is_known(&asked, &found, said));
        put(&mut asked, header::IF_NONE_MATCH, "\"other\"".to_owned());
        assert!(!is_known(&asked, &found, said), "the tag goes before the date");
        put(&mut asked, header::IF_NONE_MATCH, format!("\"other\", W/{}", found.tag));
        assert!(is_known(&asked, &found, said));
        assert_eq!(read_http_date(&http_date(said)), Some(said));
    }
}
