//! Talks to a server: finds it, sends the token, turns its problems into messages.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;

use crate::model::{Timestamp, Value};

/// Which server is meant.
#[derive(Args, Clone, Debug, Default)]
pub struct ServerArgs {
    /// The server's address [default: what its data directory says]
    #[arg(long, value_name = "URL", env = "SISKIN_URL", help_heading = "Server")]
    pub url: Option<String>,
    /// The server's data directory, where its address and admin token lie [default: ./data, then /var/lib/siskin]
    #[arg(long, value_name = "DIR", env = "SISKIN_DATA", help_heading = "Server")]
    pub data: Option<PathBuf>,
}

/// A server and the right to talk to it.
pub struct Client {
    url: String,
    /// What the `Authorization` header says; its `Debug` hides.
    token: HeaderValue,
    http: reqwest::Client,
    /// What its last answer said the time is; 0 before the first.
    now: AtomicI64,
}

impl Client {
    /// Finds the server.
    ///
    /// # Errors
    /// There is none, or no token for it.
    pub fn find(args: &ServerArgs) -> anyhow::Result<Client> {
        let token = std::env::var("SISKIN_TOKEN").ok().filter(|token| !token.is_empty());
        let found = look(args, &folders(args), token)?;
        Client::new(found.url, &found.token)
    }

    /// A server whose address and token are known.
    ///
    /// # Errors
    /// The token is no text for a header; TLS cannot be set up.
    pub fn new(url: String, token: &str) -> anyhow::Result<Client> {
        let mut token = HeaderValue::try_from(format!("Bearer {token}"))
            .context("the token holds what no token holds")?;
        token.set_sensitive(true);
        let mut http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .user_agent(concat!("siskin/", env!("CARGO_PKG_VERSION")));
        if is_local(&url) {
            http = http.no_proxy();
        }
        let http = http.build().context("TLS can't be set up")?;
        Ok(Client { url, token, http, now: AtomicI64::new(0) })
    }

    /// Its address, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The time by the server's clock, as of its last answer.
    pub fn now(&self) -> Option<Timestamp> {
        Some(self.now.load(Ordering::Relaxed)).filter(|millis| *millis != 0).map(Timestamp)
    }

    /// `GET /api/v1{path}`.
    ///
    /// # Errors
    /// No server, or it refused.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.read(self.request(Method::GET, path)).await
    }

    /// `GET /api/v1{path}` with query parameters; those that are `None` are left out.
    ///
    /// # Errors
    /// No server, or it refused.
    pub async fn list(&self, path: &str, query: &[(&str, Option<String>)]) -> anyhow::Result<Value> {
        let query: Vec<_> = query.iter().filter_map(|(name, value)| Some((*name, value.clone()?))).collect();
        self.read(self.request(Method::GET, path).query(&query)).await
    }

    /// `POST /api/v1{path}` with a JSON body.
    ///
    /// # Errors
    /// No server, or it refused.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> anyhow::Result<T> {
        self.read(self.request(Method::POST, path).json(body)).await
    }

    /// `PUT` or `DELETE`, whose answer nobody needs.
    ///
    /// # Errors
    /// No server, or it refused.
    pub async fn tell(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<()> {
        let request = self.request(method, path);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        self.send(request.timeout(PATIENCE)).await.map(drop)
    }

    /// A request whose answer is read as it comes.
    ///
    /// # Errors
    /// No server, or it refused.
    pub async fn open(&self, path: &str, accept: &str, last_event: Option<&str>) -> anyhow::Result<Response> {
        let mut request = self.request(Method::GET, path).header("accept", accept);
        if let Some(id) = last_event {
            request = request.header("last-event-id", id);
        }
        self.send(request).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}/api/v1{path}", self.url))
            .header(AUTHORIZATION, self.token.clone())
    }

    async fn read<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let response = self.send(request.timeout(PATIENCE)).await?;
        let bytes = response.bytes().await.map_err(|error| self.unreachable(error))?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("{} answered something that is no answer of Siskin's API", self.url))
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        if let Some(date) = response.headers().get("date").and_then(|date| date.to_str().ok())
            && let Ok(date) = jiff::fmt::rfc2822::parse(date)
        {
            self.now.store(date.timestamp().as_millisecond(), Ordering::Relaxed);
        }
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body: Value = response.json().await.unwrap_or(Value::Null);
        Err(self.problem(status, &body))
    }

    fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        if error.is_connect() {
            return anyhow!("no server at {}; start one with `siskin serve`", self.url);
        }
        if error.is_timeout() {
            return anyhow!("the server at {} did not answer in time", self.url);
        }
        if error.is_builder() {
            let message =
                format!("`{}` is no address of a server; SISKIN_URL is like http://127.0.0.1:8640", self.url);
            return anyhow::Error::new(super::Usage(message));
        }
        anyhow::Error::new(error.without_url()).context(format!("the connection to {} broke", self.url))
    }

    fn problem(&self, status: StatusCode, body: &Value) -> anyhow::Error {
        if status == StatusCode::UNAUTHORIZED {
            return anyhow!(
                "the server at {} does not know this token; set SISKIN_TOKEN, or name its data directory with --data",
                self.url
            );
        }
        let errors: Vec<&str> =
            body["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if errors.len() > 1 {
            return anyhow!("{} mistakes:\n{}", errors.len(), errors.join("\n"));
        }
        match body["detail"].as_str().or(body["title"].as_str()) {
            Some(detail) => anyhow!("{detail}"),
            None => anyhow!("the server at {} answered {status}", self.url),
        }
    }
}

/// How long an answer may take. Longer than any wait that we ask of the server.
const PATIENCE: Duration = Duration::from_secs(90);

#[cfg_attr(test, derive(Debug))]
struct Found {
    url: String,
    token: String,
}

/// Where a server of this machine may have its data.
fn folders(args: &ServerArgs) -> Vec<PathBuf> {
    match &args.data {
        Some(folder) => vec![folder.clone()],
        None => vec![PathBuf::from("data"), PathBuf::from("/var/lib/siskin")],
    }
}

fn look(args: &ServerArgs, folders: &[PathBuf], token: Option<String>) -> anyhow::Result<Found> {
    let wanted = args.url.as_ref().map(|url| url.trim_end_matches('/').to_owned());
    if let (Some(url), Some(token)) = (&wanted, &token) {
        return Ok(Found { url: url.clone(), token: token.clone() });
    }
    for folder in folders {
        let Some(address) = address_in(folder)? else { continue };
        // The admin token goes to its own server only, never to an address that merely stands in a variable.
        if wanted.as_ref().is_some_and(|wanted| *wanted != address) && args.data.is_none() {
            continue;
        }
        let token = match token {
            Some(token) => token,
            None => admin_token_in(folder)?,
        };
        return Ok(Found { url: wanted.unwrap_or(address), token });
    }
    if let Some(url) = wanted {
        bail!("there is no token for {url}; set SISKIN_TOKEN");
    }
    let looked = folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" or ");
    bail!(
        "no server found: there is no server.json in {looked}; start one with `siskin serve`, or set SISKIN_URL and SISKIN_TOKEN"
    )
}

fn address_in(folder: &Path) -> anyhow::Result<Option<String>> {
    let path = folder.join("server.json");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(path.display().to_string()),
    };
    let said: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    let url = said["url"].as_str().with_context(|| format!("{} has no `url`", path.display()))?;
    Ok(Some(url.trim_end_matches('/').to_owned()))
}

fn admin_token_in(folder: &Path) -> anyhow::Result<String> {
    let path = folder.join("admin.token");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{} can't be read; set SISKIN_TOKEN to a token of yours", path.display()))?;
    Ok(text.trim().to_owned())
}

fn is_local(url: &str) -> bool {
    let host = url.split("://").nth(1).unwrap_or(url);
    ["127.0.0.1", "localhost", "[::1]"].iter().any(|local| host.starts_with(local))
}

/// A path segment as it travels in a URL.
pub(super) fn segment(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn data(url: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("server.json"), format!("{{\"url\": \"{url}\"}}")).unwrap();
        std::fs::write(folder.path().join("admin.token"), "ssk_admin\n").unwrap();
        folder
    }

    #[test]
    fn a_server_on_this_machine_is_found_by_its_data() {
        let folder = data("http://127.0.0.1:8640/");
        let found = look(&ServerArgs::default(), &[folder.path().to_owned()], None).unwrap();
        assert_eq!((found.url.as_str(), found.token.as_str()), ("http://127.0.0.1:8640", "ssk_admin"));
    }

    #[test]
    fn the_admin_token_is_not_sent_to_another_server() {
        let folder = data("http://127.0.0.1:8640");
        let args = ServerArgs { url: Some("https://elsewhere.example".to_owned()), data: None };
        let refused = look(&args, &[folder.path().to_owned()], None).unwrap_err();
        assert!(refused.to_string().contains("SISKIN_TOKEN"), "{refused}");
    }

    #[test]
    fn without_a_server_the_message_says_how_to_start_one() {
        let refused = look(&ServerArgs::default(), &[PathBuf::from("/nowhere/data")], None).unwrap_err();
        assert!(refused.to_string().contains("siskin serve"), "{refused}");
    }

    #[test]
    fn segments_hold_no_separators() {
        assert_eq!(segment("a/b ü"), "a%2Fb%20%C3%BC");
    }
}
