//! Source `github_releases`: the releases of a repository, by GitHub's API or one that speaks like it.
//!
//! Payload: `{change: published or released, repository, id, tag, name, prerelease, target, created_at, published_at, url, author, body, assets}`, an asset being
//! `{id, name, url, size, content_type, digest}`. `published` is one that was not there before; `released` one that was a pre-release and is none any more.
//! Drafts are passed over. Every page is asked for with the tag of its last answer, so that nothing new costs nothing. When the API says that too much was
//! asked, nothing is asked until the time that it names. The cursor is the pages' tags, and which releases are known; those of the first look make no event.

use std::collections::BTreeMap;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, IF_NONE_MATCH, LINK};
use reqwest::{Client, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::http_poll::client;
use super::seat::{MOST_AT_ONCE, Seat, Sight, Trouble, subject};
use crate::definitions::remote::{GithubReleases, is_repository};
use crate::http_client;
use crate::model::{Span, Value};

const API: &str = "https://api.github.com";
const PER_PAGE: usize = 100;
/// Pages that are read: GitHub lists no more releases either.
const MOST_PAGES: usize = 100;
/// The largest page: a hundred releases with their notes and assets.
const LARGEST: usize = 32 * 1024 * 1024;
/// The longest that is waited because the API wants it; then it is asked once more.
const LONGEST_REST: Span = Span::hours(1);
/// The shortest, also when it says nothing of how long.
const SHORTEST_REST: Span = Span::seconds(1);
const USUAL_REST: Span = Span::minutes(1);
/// How much of what the API says an error shows.
const SHOWN_CHARACTERS: usize = 200;

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cursor {
    /// The tag of each page's last answer.
    pages: Vec<Option<String>>,
    /// Whether each release is a pre-release, by its id.
    releases: BTreeMap<u64, bool>,
}

/// What the API says of a release, as far as it matters.
#[derive(Clone, Debug, Deserialize)]
struct Release {
    id: u64,
    tag_name: String,
    #[serde(default)]
    draft: bool,
    #[serde(default)]
    prerelease: bool,
    name: Option<String>,
    target_commitish: Option<String>,
    created_at: Option<String>,
    published_at: Option<String>,
    html_url: Option<String>,
    author: Option<Author>,
    body: Option<String>,
    #[serde(default)]
    assets: Vec<Asset>,
}

#[derive(Clone, Debug, Deserialize)]
struct Author {
    login: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Asset {
    id: u64,
    name: String,
    browser_download_url: Option<String>,
    size: Option<u64>,
    content_type: Option<String>,
    digest: Option<String>,
}

/// What a page is.
enum Page {
    AsBefore,
    New {
        tag: Option<String>,
        releases: Vec<Release>,
        is_last: bool,
    },
    /// The API wants to be left alone for so long.
    Later {
        why: String,
        rest: Span,
    },
}

/// Whose releases, and how they are asked for.
struct Asking {
    client: Client,
    url: Url,
    headers: HeaderMap,
    repository: String,
}

pub(super) async fn run(seat: &mut Seat, watched: &GithubReleases) -> Result<(), Trouble> {
    let asking = asking(seat, watched).await?;
    let (host, repository) = (asking.host().to_owned(), asking.repository.clone());
    let stored = seat.open(subject(&["github_releases", &host, &repository])).await?;
    let mut known: Option<Cursor> = stored.and_then(|cursor| serde_json::from_value(cursor).ok());
    loop {
        if let Some(look) = look(seat, &asking, known.as_ref()).await? {
            take(seat, &asking.repository, look, &mut known).await?;
        }
        seat.well();
        tokio::time::sleep(watched.every.duration()).await;
    }
}

async fn asking(seat: &Seat, watched: &GithubReleases) -> Result<Asking, Trouble> {
    let repository = seat.setting("repository", &watched.repository).await?;
    if !is_repository(&repository) {
        return Err(Trouble::new(format!("`{repository}` is no repository: write owner/name")));
    }
    let api = seat.optional("api", watched.api.as_ref()).await?.filter(|api| !api.is_empty());
    let api = api.unwrap_or_else(|| API.to_owned());
    let wrong = |why: &str| Trouble::new(format!("`api` is no URL of an API: {why}"));
    let mut url = Url::parse(&api).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("it begins with neither http: nor https:"));
    }
    if let Ok(mut parts) = url.path_segments_mut() {
        parts.pop_if_empty().push("repos").extend(repository.split('/')).push("releases");
    }
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
    headers.insert("X-GitHub-Api-Version", HeaderValue::from_static("2022-11-28"));
    let token = seat.optional("token", watched.token.as_ref()).await?;
    if let Some(token) = token.filter(|token| !token.is_empty()) {
        let value = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut value =
            value.map_err(|_| Trouble::new("the token has characters that no header can hold"))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(Asking { client: client()?, url, headers, repository })
}

/// What a look at all pages showed.
struct Look {
    pages: Vec<Option<String>>,
    /// Of the pages that changed, newest first.
    releases: Vec<Release>,
}

/// Looks at all pages; `None` when nothing is otherwise than it was.
async fn look(seat: &Seat, asking: &Asking, known: Option<&Cursor>) -> Result<Option<Look>, Trouble> {
    let before = known.map(|known| known.pages.as_slice()).unwrap_or_default();
    let mut look = Look { pages: Vec::new(), releases: Vec::new() };
    let mut has_changed = known.is_none();
    while look.pages.len() < MOST_PAGES {
        let index = look.pages.len();
        let tag = before.get(index).and_then(Option::as_deref);
        let page = loop {
            match asking.page(index, tag).await? {
                Page::Later { why, rest } => seat.rest(why, rest).await,
                page => break page,
            }
        };
        let is_last = match page {
            Page::New { tag, releases, is_last } => {
                has_changed = true;
                look.pages.push(tag);
                look.releases.extend(releases);
                is_last
            }
            Page::AsBefore | Page::Later { .. } => {
                look.pages.push(tag.map(str::to_owned));
                look.pages.len() >= before.len()
            }
        };
        if is_last {
            break;
        }
    }
    Ok(has_changed.then_some(look))
}

/// Makes events of what is new, and stores them.
async fn take(
    seat: &mut Seat,
    repository: &str,
    look: Look,
    known: &mut Option<Cursor>,
) -> Result<(), Trouble> {
    let is_first = known.is_none();
    let mut now = known.clone().unwrap_or_default();
    // What was published first is told first.
    let mut releases: Vec<Release> = look.releases.into_iter().filter(|release| !release.draft).collect();
    releases.sort_by(|one, other| (&one.published_at, one.id).cmp(&(&other.published_at, other.id)));
    let mut seen = Vec::new();
    for release in releases {
        let before = now.releases.insert(release.id, release.prerelease);
        let change = match before {
            None => "published",
            Some(true) if !release.prerelease => "released",
            Some(_) => continue,
        };
        if !is_first {
            seen.push(sight(repository, change, &release));
        }
        if seen.len() == MOST_AT_ONCE {
            // The pages are as they were, so that after a crash the rest is found.
            seat.store(std::mem::take(&mut seen), json!(now)).await?;
        }
    }
    now.pages = look.pages;
    if known.as_ref() != Some(&now) {
        seat.store(seen, json!(now)).await?;
    }
    *known = Some(now);
    Ok(())
}

fn sight(repository: &str, change: &str, release: &Release) -> Sight {
    let assets = release.assets.iter().map(|asset| {
        json!({
            "id": asset.id,
            "name": asset.name,
            "url": asset.browser_download_url,
            "size": asset.size,
            "content_type": asset.content_type,
            "digest": asset.digest,
        })
    });
    let body = json!({
        "change": change,
        "repository": repository,
        "id": release.id,
        "tag": release.tag_name,
        "name": release.name,
        "prerelease": release.prerelease,
        "target": release.target_commitish,
        "created_at": release.created_at,
        "published_at": release.published_at,
        "url": release.html_url,
        "author": release.author.as_ref().and_then(|author| author.login.as_ref()),
        "body": release.body,
        "assets": assets.collect::<Vec<Value>>(),
    });
    // When a pre-release became a release is not said.
    let at = release.published_at.as_ref().filter(|_| change == "published");
    Sight { at: at.and_then(|at| at.parse().ok()), ..Sight::of(body) }
}

impl Asking {
    fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// A page, unless it is as it was when its answer had this tag.
    async fn page(&self, index: usize, tag: Option<&str>) -> Result<Page, Trouble> {
        let mut url = self.url.clone();
        url.query_pairs_mut()
            .append_pair("per_page", &PER_PAGE.to_string())
            .append_pair("page", &(index + 1).to_string());
        let mut request = self.client.get(url).headers(self.headers.clone());
        if let Some(tag) = tag.and_then(|tag| HeaderValue::from_str(tag).ok()) {
            request = request.header(IF_NONE_MATCH, tag);
        }
        let answer = request.send().await.map_err(|error| self.failed(&error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        if status == StatusCode::NOT_MODIFIED {
            return Ok(Page::AsBefore);
        }
        let bytes = self.body(answer).await?;
        if !status.is_success() {
            return self.refused(status, &headers, &bytes);
        }
        let read: Result<Vec<Release>, _> = serde_json::from_slice(&bytes);
        let releases = read.map_err(|error| {
            Trouble::new(format!("what {} answered is no list of releases: {error}", self.host()))
        })?;
        let links = headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok());
        let has_next = links.into_iter().any(|link| link.contains("rel=\"next\""));
        let tag = headers.get("etag").and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        Ok(Page::New { tag, is_last: !has_next, releases })
    }

    /// Why there is no page: an API that wants to be left alone is no failure.
    fn refused(&self, status: StatusCode, headers: &HeaderMap, bytes: &[u8]) -> Result<Page, Trouble> {
        #[derive(Deserialize)]
        struct Said {
            message: String,
        }
        let said = serde_json::from_slice(bytes).map_or_else(|_| String::new(), |said: Said| said.message);
        let said: String = said.chars().take(SHOWN_CHARACTERS).collect();
        if let Some(rest) = rest(status, headers, &said) {
            let why = format!("{} wants to be asked less often ({status}: {said})", self.host());
            return Ok(Page::Later { why, rest });
        }
        let help = match status {
            StatusCode::UNAUTHORIZED => "; the token is wrong or has expired",
            StatusCode::FORBIDDEN => "; the token may not read this",
            StatusCode::NOT_FOUND => "; there is no such repository, or the token may not see it",
            _ => "",
        };
        let repository = &self.repository;
        Err(Trouble::new(format!(
            "{} answered {status} when asked for the releases of {repository}{}{help}",
            self.host(),
            if said.is_empty() { String::new() } else { format!(": {said}") },
        )))
    }

    async fn body(&self, mut answer: Response) -> Result<Vec<u8>, Trouble> {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.failed(&error))? {
            if bytes.len() + chunk.len() > LARGEST {
                return Err(Trouble::new(format!(
                    "an answer of {} is larger than {} MB",
                    self.host(),
                    LARGEST / 1_000_000
                )));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn failed(&self, error: &reqwest::Error) -> Trouble {
        Trouble::new(format!("{} can't be asked: {}", self.host(), http_client::why(error)))
    }
}

/// How long the API wants to be left alone; `None` when that is not why it refuses.
fn rest(status: StatusCode, headers: &HeaderMap, said: &str) -> Option<Span> {
    if !matches!(status, StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) {
        return None;
    }
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let seconds = |text: &str| text.trim().parse::<u64>().ok();
    let now = text("date").and_then(http_time);
    let until = |at: i64| u64::try_from(at.saturating_sub(now?)).ok();
    let after = text("retry-after").and_then(|text| seconds(text).or_else(|| until(http_time(text)?)));
    let is_used_up = text("x-ratelimit-remaining").and_then(seconds) == Some(0);
    // By the API's own clock, in case ours goes wrong.
    let reset = || {
        let at = text("x-ratelimit-reset").and_then(|text| text.trim().parse().ok());
        is_used_up.then(|| at.and_then(until)).flatten()
    };
    let is_limit =
        status == StatusCode::TOO_MANY_REQUESTS || is_used_up || said.to_lowercase().contains("rate limit");
    let wanted = after.or_else(reset).map(|seconds| Span::seconds(seconds.saturating_add(1)));
    let wanted = wanted.or(is_limit.then_some(USUAL_REST))?;
    Some(wanted.clamp(SHORTEST_REST, LONGEST_REST))
}

/// Seconds since 1970 of a time as HTTP writes it.
fn http_time(text: &str) -> Option<i64> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(time.as_second())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn rest_of(status: u16, headers: &[(&'static str, &str)], said: &str) -> Option<Span> {
        let headers = headers.iter().map(|(name, value)| {
            (reqwest::header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        rest(StatusCode::from_u16(status).unwrap(), &headers.collect(), said)
    }

    #[test]
    fn a_limit_is_respected_as_long_as_it_says_by_its_own_clock() {
        let date = ("date", "Sat, 21 Nov 2026 10:00:00 GMT");
        assert_eq!(rest_of(403, &[("retry-after", "30")], ""), Some(Span::seconds(31)));
        assert_eq!(
            rest_of(429, &[date, ("retry-after", "Sat, 21 Nov 2026 10:00:10 GMT")], ""),
            Some(Span::seconds(11))
        );
        let reset = [date, ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1795255260")];
        assert_eq!(rest_of(403, &reset, "API rate limit exceeded"), Some(Span::seconds(61)));
        let far = [date, ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "9795255260")];
        assert_eq!(rest_of(429, &far, ""), Some(LONGEST_REST));
        // The second limit has no headers of its own.
        let second = "You have exceeded a secondary rate limit.";
        assert_eq!(rest_of(403, &[("x-ratelimit-remaining", "4000")], second), Some(USUAL_REST));
        assert_eq!(rest_of(429, &[], ""), Some(USUAL_REST));
        assert_eq!(rest_of(403, &[("x-ratelimit-remaining", "4000")], "Resource not accessible"), None);
        assert_eq!(rest_of(500, &[("retry-after", "30")], ""), None);
    }
}
