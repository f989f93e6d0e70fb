//! What comes in: ids, query parameters, bodies, and who asks. Everything that is not understood is a problem that names it.

use std::str::FromStr;

use axum::body::Body as RawBody;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use futures::StreamExt;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::auth::ADMIN;
use crate::engine::Caller;
use crate::model::{Span, Value};
use crate::store::LONGEST_LIST;

/// The largest body.
pub(super) const LARGEST_BODY: usize = 2 * 1024 * 1024;
/// How many items a list has when nobody says.
const USUAL_LIST: u32 = 50;
/// How long a caller may have us wait for a run.
const LONGEST_WAIT: Span = Span::minutes(5);
const LONGEST_KEY: usize = 200;

/// Who asks: put there by the sign-in that every route under /api/v1 stands behind.
pub(super) struct Who(pub(super) Caller);

impl Who {
    /// The caller, who must be an administrator.
    pub(super) fn admin(self) -> Result<Caller, Problem> {
        if self.0.roles.iter().any(|role| role == ADMIN) {
            return Ok(self.0);
        }
        Err(Problem::forbidden(format!("{} may not do this: it takes the role `{ADMIN}`", self.0.actor)))
    }
}

impl<S: Sync> FromRequestParts<S> for Who {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Who, Problem> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.map(Who).ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "a token is needed"))
    }
}

/// The number in a path. What is no number names nothing.
pub(super) struct Id<T>(pub(super) T);

impl<S: Send + Sync, T: FromStr> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Id<T>, Problem> {
        let Name(text) = Name::from_request_parts(parts, state).await?;
        text.parse().map(Id).map_err(|_| {
            let shown: String = text.chars().take(80).collect();
            Problem::new(
                StatusCode::NOT_FOUND,
                format!("`{shown}` names nothing here: ids are whole numbers"),
            )
        })
    }
}

/// The name in a path.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Name, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::new(StatusCode::NOT_FOUND, "this path is not UTF-8 text"))?;
        Ok(Name(text))
    }
}

/// Query parameters. `check` refuses those that nobody asked for.
#[derive(Debug, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Params, Problem> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(pairs)| Params(pairs))
            .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the query can't be decoded"))
    }
}

impl Params {
    /// Refuses parameters other than `known`, and any that stands twice.
    pub(super) fn check(self, known: &[&str]) -> Result<Params, Problem> {
        let mut errors = unknown("parameter", self.0.iter().map(|(name, _)| name.as_str()), known);
        for (place, (name, _)) in self.0.iter().enumerate() {
            if self.0.iter().skip(place + 1).any(|(later, _)| later == name) {
                errors.push(format!("the parameter `{name}` is there twice"));
            }
        }
        if errors.is_empty() { Ok(self) } else { Err(Problem::invalid(errors)) }
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    /// A parameter of some type.
    pub(super) fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Problem::invalid(vec![format!("`{name}={text}` is not understood")])),
        }
    }

    /// `limit`, within bounds.
    pub(super) fn limit(&self) -> Result<u32, Problem> {
        let limit: u32 = self.parsed("limit")?.unwrap_or(USUAL_LIST);
        if limit == 0 || limit > LONGEST_LIST {
            return Err(Problem::invalid(vec![format!("`limit` is 1 to {LONGEST_LIST}")]));
        }
        Ok(limit)
    }

    /// `yes`, `true` and `1` are true.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.text(name).is_some_and(|text| ["", "1", "true", "yes"].contains(&text.as_str()))
    }

    /// `wait=30s`.
    pub(super) fn wait(&self) -> Result<Option<Span>, Problem> {
        let Some(text) = self.text("wait") else { return Ok(None) };
        let span: Span = text.parse().map_err(|why| Problem::invalid(vec![format!("`wait`: {why}")]))?;
        if span > LONGEST_WAIT {
            return Err(Problem::invalid(vec![format!("`wait` is {LONGEST_WAIT} at most")]));
        }
        Ok(Some(span))
    }
}

/// What a body may hold.
pub(super) trait Fields: DeserializeOwned {
    const NAMES: &'static [&'static str];
}

/// A JSON body without unknown fields. None sent counts as `{}`.
pub(super) struct Body<T>(pub(super) T);

impl<S: Sync, T: Fields> FromRequest<S> for Body<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, _: &S) -> Result<Body<T>, Problem> {
        let (parts, body) = request.into_parts();
        is_json(&parts.headers)?;
        let bytes = whole(body).await?;
        read(&bytes).map(Body)
    }
}

/// The body within its bound.
async fn whole(body: RawBody) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the body broke off"))?;
        if bytes.len() + chunk.len() > LARGEST_BODY {
            let detail = format!("the body is larger than {} MiB", LARGEST_BODY / 1024 / 1024);
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let given = String::from_utf8_lossy(given.as_bytes()).to_ascii_lowercase();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence == "application/json" || essence.ends_with("+json") {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send the body as application/json"))
}

fn read<T: Fields>(bytes: &[u8]) -> Result<T, Problem> {
    let bytes = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes };
    // The parser stops at 128 lists and maps inside one another.
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is not JSON that is taken here: {error}"))
    })?;
    let Value::Object(fields) = &value else {
        return Err(Problem::invalid(vec!["the body must be an object".to_owned()]));
    };
    let errors = unknown("field", fields.keys().map(String::as_str), T::NAMES);
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    serde_json::from_value(value).map_err(|error| Problem::invalid(vec![error.to_string()]))
}

fn unknown<'a>(what: &str, given: impl Iterator<Item = &'a str>, known: &[&str]) -> Vec<String> {
    let unknown = given.filter(|name| !known.contains(name)).take(20);
    unknown
        .map(|name| {
            let shown: String = name.chars().take(80).collect();
            let scored = known.iter().map(|known| (strsim::jaro_winkler(name, known), known));
            let nearest =
                scored.max_by(|one, other| one.0.total_cmp(&other.0)).filter(|(score, _)| *score > 0.7);
            match (nearest, known) {
                (Some((_, nearest)), _) => format!("unknown {what} `{shown}`; did you mean `{nearest}`?"),
                (None, []) => format!("unknown {what} `{shown}`; none is taken here"),
                (None, known) => format!("unknown {what} `{shown}`; known are {}", known.join(", ")),
            }
        })
        .collect()
}

/// The `Idempotency-Key` of a request that creates something.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let text = key.to_str().ok().filter(|text| !text.is_empty() && text.len() <= LONGEST_KEY);
    match text {
        Some(text) => Ok(Some(text.to_owned())),
        None => {
            Err(Problem::invalid(vec![format!("`Idempotency-Key` is 1 to {LONGEST_KEY} visible characters")]))
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Sample {
        trigger: String,
    }
    impl Fields for Sample {
        const NAMES: &'static [&'static str] = &["trigger", "payload"];
    }

    fn refusal(body: &str) -> Value {
        serde_json::to_value(read::<Sample>(body.as_bytes()).unwrap_err()).unwrap()
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_nearest() {
        let problem = refusal(r#"{"triger": "a.b", "zzz": 1}"#);
        assert_eq!(problem["status"], 422);
        assert_eq!(problem["errors"][0], "unknown field `triger`; did you mean `trigger`?");
        assert_eq!(problem["errors"][1], "unknown field `zzz`; known are trigger, payload");
    }

    #[test]
    fn a_body_of_the_wrong_shape_is_refused() {
        assert_eq!(read::<Sample>(br#"{"trigger": "a.b"}"#).unwrap().trigger, "a.b");
        assert_eq!(refusal("{")["status"], 400);
        assert_eq!(refusal("[]")["status"], 422);
        assert_eq!(refusal("")["status"], 422);
        assert_eq!(refusal(r#"{"trigger": 3}"#)["status"], 422);
        assert_eq!(refusal(&"[".repeat(10_000))["status"], 400);
    }

    fn params(query: &str) -> Params {
        let uri = format!("/x?{query}").parse().unwrap();
        let Query(pairs) = Query::try_from_uri(&uri).unwrap();
        Params(pairs)
    }

    #[test]
    fn parameters_are_known_once_and_bounded() {
        let known = ["limit", "status"];
        assert!(params("limit=3&status=failed").check(&known).is_ok());
        assert!(params("stauts=failed").check(&known).is_err());
        assert!(params("limit=3&limit=4").check(&known).is_err());
        assert_eq!(params("").limit().unwrap(), 50);
        for wrong in ["limit=0", "limit=501", "limit=-1", "limit=x"] {
            assert!(params(wrong).limit().is_err(), "{wrong}");
        }
        assert_eq!(params("wait=30s").wait().unwrap(), Some(Span::seconds(30)));
        assert!(params("wait=30").wait().is_err());
        assert!(params("wait=3d").wait().is_err());
    }
}
