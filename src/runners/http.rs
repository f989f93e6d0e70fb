//! Runner `http`: one request.
//!
//! | parameter | meaning |
//! | --- | --- |
//! | `method` | `GET` when not said |
//! | `url` | `http://` or `https://` |
//! | `headers` | a map; null leaves a header out |
//! | `query` | a map that is added to the URL's query; a list gives its name several times |
//! | `auth` | `{basic: [user, password]}` or `{bearer: token}` |
//! | `body` | text as it is; anything else goes as JSON |
//! | `json` | any value, sent as JSON |
//! | `form` | a map, sent form-encoded; a list gives its name several times |
//! | `expect` | the status codes that are a success; every 2xx when not said |
//!
//! They stand in the section `http:` of the action file; without a section, the action's input has them (`core.http`).
//!
//! Output, and `response` in the templates of `output:`: `{status, headers, body}`, with header names in lower case, and the body as data when its
//! content type is JSON, as text otherwise. A body over 10 MB fails. Redirects are followed for GET and HEAD only, and not when `expect`
//! names a 3xx code. TLS is checked against the machine's own certificates. Errors name the host and the reason, never the path or query.

use std::error::Error as _;
use std::sync::LazyLock;
use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, redirect};

use super::{Done, Failure, Job, Runner, object, optional_text, scalar_text, text_parameter};
use crate::http_client;
use crate::model::{ErrorKind, Object, Value};

/// The largest body that is read.
const BODY_BYTES: usize = 10_000_000;
/// The largest number of redirects that are followed.
const REDIRECTS: usize = 5;
/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an unexpected answer an error shows.
const SHOWN_CHARACTERS: usize = 200;

/// See the head of this file.
pub struct Http;

impl Runner for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn run(&self, job: Job) -> BoxFuture<'static, Result<Done, Failure>> {
        Box::pin(run(job))
    }
}

async fn run(job: Job) -> Result<Done, Failure> {
    let _lock = super::native::take_lock(&job).await?;
    let request = Request::read(&job.parameters)?;
    let cancel = job.cancel.clone();
    tokio::select! {
        done = request.send() => done,
        () = cancel.cancelled() => Err(Failure::cancelled()),
    }
}

/// A request whose parameters were understood.
struct Request {
    method: Method,
    /// Host and port: all of the URL that errors may show, since the rest may hold secrets.
    host: String,
    expect: Expect,
    builder: RequestBuilder,
}

/// Which answers are a success.
enum Expect {
    AnySuccess,
    Codes(Vec<u16>),
}

impl Expect {
    fn read(value: Option<&Value>) -> Result<Expect, Failure> {
        let wrong = || Failure::new("`expect` must be a list of status codes, such as [200, 404]");
        let codes = match value {
            None | Some(Value::Null) => return Ok(Expect::AnySuccess),
            Some(Value::Array(codes)) => codes.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        let code = |value: &Value| value.as_u64().and_then(|code| u16::try_from(code).ok());
        codes.iter().map(code).collect::<Option<Vec<u16>>>().map(Expect::Codes).ok_or_else(wrong)
    }

    fn holds(&self, status: StatusCode) -> bool {
        match self {
            Expect::AnySuccess => status.is_success(),
            Expect::Codes(codes) => codes.contains(&status.as_u16()),
        }
    }

    fn names_a_redirect(&self) -> bool {
        matches!(self, Expect::Codes(codes) if codes.iter().any(|code| (300..400).contains(code)))
    }
}

impl Request {
    fn read(parameters: &Value) -> Result<Request, Failure> {
        let method = match optional_text(parameters, "method")? {
            None => Method::GET,
            Some(name) => Method::from_bytes(name.to_ascii_uppercase().as_bytes())
                .map_err(|_| Failure::new(format!("`{name}` is no HTTP method")))?,
        };
        let url = Url::parse(text_parameter(parameters, "url")?)
            .map_err(|error| Failure::new(format!("the parameter `url` is no URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Failure::new(format!(
                "the parameter `url` begins with `{}:`; only http and https are known",
                url.scheme()
            )));
        }
        let host = host_of(&url);
        let expect = Expect::read(parameters.get("expect"))?;
        let follows = matches!(method, Method::GET | Method::HEAD) && !expect.names_a_redirect();
        let mut builder =
            client(follows)?.request(method.clone(), url).headers(headers(parameters.get("headers"))?);
        if let Some(query) = pairs(parameters, "query")? {
            builder = builder.query(&query);
        }
        builder = with_auth(builder, parameters.get("auth"))?;
        builder = with_body(builder, parameters)?;
        Ok(Request { method, host, expect, builder })
    }

    async fn send(self) -> Result<Done, Failure> {
        let what = format!("{} {}", self.method, self.host);
        let response = self.builder.send().await.map_err(|error| failure_of(&what, &error))?;
        let status = response.status();
        let headers = headers_as_value(response.headers());
        let is_json = is_json(response.headers());
        let bytes = read_body(&what, response).await?;
        let expected = self.expect.holds(status);
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        let body = match is_json && !bytes.is_empty() {
            false => text(),
            true => match serde_json::from_slice(&bytes) {
                Ok(body) => body,
                Err(error) if expected => {
                    return Err(Failure::new(format!(
                        "{what}: the answer says that it is JSON, but {error}"
                    ))
                    .showing(answer(status, headers, text())));
                }
                Err(_) => text(),
            },
        };
        let shown = excerpt(&bytes);
        let response = answer(status, headers, body);
        if !expected {
            let colon = if shown.is_empty() { "" } else { ": " };
            return Err(Failure::new(format!("{what} answered {status}{colon}{shown}")).showing(response));
        }
        Ok(Done { output: response.clone(), response: Some(response) })
    }
}

fn answer(status: StatusCode, headers: Value, body: Value) -> Value {
    object([("status", Value::from(status.as_u16())), ("headers", headers), ("body", body)])
}

fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// The client that follows redirects, or the one that does not. Connections are not kept: a kept one that the server closes just then
/// would fail a request that can't be sent again.
pub(super) fn client(follows: bool) -> Result<&'static Client, Failure> {
    static FOLLOWING: LazyLock<Result<Client, String>> =
        LazyLock::new(|| build(redirect::Policy::limited(REDIRECTS)));
    static STAYING: LazyLock<Result<Client, String>> = LazyLock::new(|| build(redirect::Policy::none()));
    let client = if follows { &*FOLLOWING } else { &*STAYING };
    client.as_ref().map_err(|error| Failure::new(format!("HTTP requests can't be made here: {error}")))
}

fn build(redirects: redirect::Policy) -> Result<Client, String> {
    let builder = || http_client::builder().connect_timeout(CONNECT_TIMEOUT).pool_max_idle_per_host(0);
    match builder().redirect(redirects).build() {
        Ok(client) => Ok(client),
        // A machine without any certificates still speaks plain HTTP.
        Err(error) => {
            builder().redirect(redirect::Policy::none()).tls_certs_only([]).build().map_err(|_| chain(&error))
        }
    }
}

fn headers(value: Option<&Value>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*;q=0.5"));
    let map = match value {
        None | Some(Value::Null) => return Ok(headers),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(Failure::new("`headers` must be a map of names to values")),
    };
    for (name, value) in map {
        let Some(text) = scalar_text(value) else { continue };
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Failure::new(format!("`{name}` in `headers` is no name of a header")))?;
        let text = HeaderValue::from_str(&text).map_err(|_| {
            Failure::new(format!("the value of `{name}` in `headers` has characters that no header can hold"))
        })?;
        headers.insert(header, text);
    }
    Ok(headers)
}

/// A map as the pairs of a query or form.
fn pairs(parameters: &Value, name: &str) -> Result<Option<Vec<(String, String)>>, Failure> {
    let map = match parameters.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(Failure::new(format!("`{name}` must be a map of names to values"))),
    };
    let mut pairs = Vec::new();
    for (key, value) in map {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        pairs.extend(values.iter().filter_map(scalar_text).map(|text| (key.clone(), text)));
    }
    Ok(Some(pairs))
}

fn with_auth(builder: RequestBuilder, auth: Option<&Value>) -> Result<RequestBuilder, Failure> {
    let auth = match auth {
        None | Some(Value::Null) => return Ok(builder),
        Some(auth) => auth,
    };
    if let Some(token) = auth.get("bearer").and_then(Value::as_str) {
        return Ok(builder.bearer_auth(token));
    }
    if let Some([Value::String(user), Value::String(password)]) =
        auth.get("basic").and_then(Value::as_array).map(Vec::as_slice)
    {
        return Ok(builder.basic_auth(user, Some(password)));
    }
    Err(Failure::new("`auth` must be {basic: [user, password]} or {bearer: token}"))
}

fn with_body(builder: RequestBuilder, parameters: &Value) -> Result<RequestBuilder, Failure> {
    let given = |name: &str| parameters.get(name).filter(|value| !value.is_null());
    if ["body", "json", "form"].into_iter().filter(|name| given(name).is_some()).count() > 1 {
        return Err(Failure::new("only one of `body`, `json` and `form` can be sent"));
    }
    if let Some(form) = pairs(parameters, "form")? {
        return Ok(builder.form(&form));
    }
    Ok(match (given("body"), given("json")) {
        (Some(Value::String(text)), _) => builder.body(text.clone()),
        (Some(value), _) | (None, Some(value)) => {
            let has_type = parameters.get("headers").and_then(Value::as_object).is_some_and(|headers| {
                headers.keys().any(|name| name.eq_ignore_ascii_case(CONTENT_TYPE.as_str()))
            });
            match has_type {
                true => builder.body(value.to_string()),
                false => builder.json(value),
            }
        }
        (None, None) => builder,
    })
}

fn headers_as_value(headers: &HeaderMap) -> Value {
    let mut map = Object::new();
    for name in headers.keys() {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        map.insert(name.as_str().to_owned(), Value::String(values.join(", ")));
    }
    Value::Object(map)
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

async fn read_body(what: &str, mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body),
            Ok(Some(chunk)) if body.len() + chunk.len() <= BODY_BYTES => body.extend_from_slice(&chunk),
            Ok(Some(_)) => {
                return Err(Failure::of_kind(
                    ErrorKind::Limit,
                    format!("{what}: the answer is larger than {} MB", BODY_BYTES / 1_000_000),
                ));
            }
            Err(error) => return Err(failure_of(what, &error)),
        }
    }
}

/// Beginning of an answer that was not expected, in one line.
pub(super) fn excerpt(body: &[u8]) -> String {
    let head = &body[..body.len().min(4 * SHOWN_CHARACTERS)];
    let text = String::from_utf8_lossy(head);
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN_CHARACTERS).collect()
}

/// What went wrong on the way, without the URL: it may hold secrets.
fn failure_of(what: &str, error: &reqwest::Error) -> Failure {
    Failure::new(format!("{what}: {}", reason(error)))
}

pub(super) fn reason(error: &reqwest::Error) -> String {
    use std::io::ErrorKind as Io;
    if error.is_redirect() {
        return format!("more than {REDIRECTS} redirects");
    }
    let text = chain_of_sources(error);
    if text.contains("dns error") || text.contains("failed to lookup address") {
        return format!("the host's name is not known ({text})");
    }
    match io_kind(error) {
        Some(Io::ConnectionRefused) => {
            "connection refused; does it run there, and is the port right?".to_owned()
        }
        Some(Io::ConnectionReset | Io::BrokenPipe | Io::UnexpectedEof) => {
            format!("the connection broke before the answer was complete ({text})")
        }
        Some(Io::TimedOut) => format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()),
        _ if error.is_timeout() => format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()),
        _ if error.is_connect() => format!("no connection ({text})"),
        _ if error.is_body() || error.is_decode() => {
            format!("the connection broke before the answer was complete ({text})")
        }
        _ => text,
    }
}

fn io_kind(error: &reqwest::Error) -> Option<std::io::ErrorKind> {
    let mut source = error.source();
    let mut kind = None;
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            kind = Some(io.kind());
        }
        source = error.source();
    }
    kind
}

/// The causes of an error, innermost last; the error itself is left out, since it prints the URL.
fn chain_of_sources(error: &reqwest::Error) -> String {
    match error.source() {
        Some(source) => chain(source),
        None => "the request could not be made".to_owned(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Many repeat their cause in their own text.
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn mistake(parameters: &Value) -> String {
        Request::read(parameters).err().unwrap().error.message
    }

    #[test]
    fn wrong_parameters_are_named_before_anything_is_sent() {
        assert!(mistake(&json!({})).contains("`url` is missing"));
        assert!(mistake(&json!({"url": "file:///etc/passwd"})).contains("only http and https"));
        assert!(mistake(&json!({"url": "http://h", "method": "GE T"})).contains("no HTTP method"));
        assert!(mistake(&json!({"url": "http://h", "expect": ["yes"]})).contains("status codes"));
        assert!(mistake(&json!({"url": "http://h", "body": "a", "form": {}})).contains("only one"));
        assert!(mistake(&json!({"url": "http://h", "auth": {"digest": 1}})).contains("bearer"));
        let split = json!({"url": "http://h", "headers": {"X-A": "a\r\nX-B: b"}});
        assert!(mistake(&split).contains("no header can hold"));
    }

    #[test]
    fn a_method_and_a_url_are_enough() {
        let request = Request::read(&json!({"url": "http://localhost:1/x?token=1"})).unwrap();
        assert_eq!((request.method, request.host.as_str()), (Method::GET, "localhost:1"));
    }
}
