//! Whether what runs on a host is well: a program there says so, it answers over HTTP or TCP, or Consul says that it passes.
//!
//! HTTP, TCP and Consul are asked from here, of the host's address; a script runs on the host. All are tried several times, since a service needs a
//! moment after its installation. What is said when it is not well: what was asked, and what came. A Consul that cannot be asked is told apart from one
//! that says that the host is ill.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::hosts::{self, Host, HostError, OnLine};
use crate::consul::{Client, Instance, Wait};
use crate::http_client;
use crate::model::Span;
use crate::process::Ended;

/// How much of what came is shown.
const SHOWN_BYTES: usize = 2000;
/// How much of a body is read.
const BODY_BYTES: usize = 256 * 1024;

/// What is asked of a host, and how patiently.
#[derive(Clone, Debug)]
pub struct Check {
    pub question: Question,
    /// How often it is tried before the host counts as ill.
    pub tries: u32,
    /// Between two tries.
    pub interval: Span,
    /// For each try.
    pub timeout: Span,
}

/// What says that a host is well.
#[derive(Clone, Debug)]
pub enum Question {
    /// A POSIX shell script that ends with 0, on the host. For a root it runs in the root's directory, with `ROOT` set to it.
    Script(String),
    Http(Http),
    /// The port takes connections.
    Tcp(u16),
    /// All instances of the service on the host pass their checks, and there is one.
    Consul {
        client: Client,
        service: String,
        tags: Vec<String>,
    },
}

/// A request that is to be answered well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// An address, in which `{name}` and `{address}` stand for the host's; or a path on the host.
    pub url: String,
    /// For a path.
    pub port: Option<u16>,
    /// What the request calls the host, when that is another name.
    pub host: Option<String>,
    /// The right answers; every 2xx when none are named.
    pub expect: Vec<u16>,
    /// What the body must hold.
    pub contains: Option<String>,
}

/// What a host that is well said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Well {
    pub said: String,
}

/// Tries a check until it succeeds, at most as often as it says.
pub async fn ask(
    host: &Host,
    check: &Check,
    on_line: OnLine<'_>,
    cancel: &CancellationToken,
) -> Result<Well, HostError> {
    let tries = check.tries.max(1);
    let mut last = HostError::Cancelled;
    for number in 0..tries {
        if number > 0 {
            tokio::select! {
                () = tokio::time::sleep(check.interval.duration()) => {}
                () = cancel.cancelled() => return Err(HostError::Cancelled),
            }
        }
        match ask_once(host, check, on_line, cancel).await {
            Err(HostError::Cancelled) => return Err(HostError::Cancelled),
            Err(error) => last = error,
            Ok(well) => return Ok(well),
        }
    }
    Err(match last {
        HostError::Ill { said, .. } => HostError::Ill { tries, said },
        HostError::NotAsked { said, .. } => HostError::NotAsked { tries, said },
        other => other,
    })
}

/// Tries a check once.
pub async fn ask_once(
    host: &Host,
    check: &Check,
    on_line: OnLine<'_>,
    cancel: &CancellationToken,
) -> Result<Well, HostError> {
    let timeout = check.timeout.duration();
    let ill = |said| HostError::Ill { tries: 1, said };
    let answer = async {
        let said = match &check.question {
            Question::Script(script) => {
                let finished = hosts::run_check(host, script, check.timeout, on_line, cancel).await?;
                debug_assert_eq!(finished.ended, Ended::Code(0));
                return Ok(Well { said: finished.stdout.tail(SHOWN_BYTES).trim_end().to_owned() });
            }
            Question::Http(http) => of_http(host, http, timeout).await.map_err(ill)?,
            Question::Tcp(port) => of_tcp(host, *port, timeout).await.map_err(ill)?,
            Question::Consul { client, service, tags } => {
                match tokio::time::timeout(timeout, of_consul(host, client, service, tags)).await {
                    Ok(answer) => answer?,
                    Err(_) => {
                        let said = format!("Consul did not answer within {}", check.timeout);
                        return Err(HostError::NotAsked { tries: 1, said });
                    }
                }
            }
        };
        Ok(Well { said })
    };
    tokio::select! {
        answer = answer => answer,
        () = cancel.cancelled() => Err(HostError::Cancelled),
    }
}

impl Http {
    fn of(&self, host: &Host) -> String {
        let address = &host.address;
        let shown = if address.contains(':') { format!("[{address}]") } else { address.clone() };
        match self.url.contains("://") {
            true => self.url.replace("{name}", &host.name).replace("{address}", &shown),
            false => format!("http://{shown}:{}{}", self.port.unwrap_or(80), self.url),
        }
    }

    fn is_expected(&self, status: u16) -> bool {
        if self.expect.is_empty() { (200..300).contains(&status) } else { self.expect.contains(&status) }
    }

    fn expected(&self) -> String {
        match self.expect.as_slice() {
            [] => "2xx".to_owned(),
            list => list.iter().map(u16::to_string).collect::<Vec<_>>().join(" or "),
        }
    }
}

async fn of_http(host: &Host, http: &Http, timeout: Duration) -> Result<String, String> {
    let url = http.of(host);
    let named = http.host.as_ref().map_or(String::new(), |name| format!(" (Host: {name})"));
    let asked = format!("GET {url}{named}");
    let wrong = |error: &reqwest::Error| format!("{asked}: {}", http_client::why(error));
    let client =
        http_client::builder().no_proxy().timeout(timeout).redirect(reqwest::redirect::Policy::none());
    let client = client.build().map_err(|error| wrong(&error))?;
    let mut request = client.get(&url);
    if let Some(name) = &http.host {
        request = request.header(reqwest::header::HOST, name);
    }
    let mut response = request.send().await.map_err(|error| wrong(&error))?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| wrong(&error))? {
        body.extend_from_slice(&piece);
        if body.len() > BODY_BYTES {
            break;
        }
    }
    let text = String::from_utf8_lossy(&body);
    let shown: String = text.trim().chars().take(SHOWN_BYTES / 4).collect();
    if !http.is_expected(status.as_u16()) {
        let shown = if shown.is_empty() { String::new() } else { format!(": {shown}") };
        return Err(format!("{asked} answered {status}{shown}; {} was wanted", http.expected()));
    }
    match &http.contains {
        Some(wanted) if !text.contains(wanted.as_str()) => {
            Err(format!("{asked} answered {status}, but the body does not hold `{wanted}`: {shown}"))
        }
        _ => Ok(format!("{asked} answered {status}")),
    }
}

async fn of_tcp(host: &Host, port: u16, timeout: Duration) -> Result<String, String> {
    let asked = format!("{}:{port}", host.address);
    let connect = tokio::net::TcpStream::connect((host.address.as_str(), port));
    match tokio::time::timeout(timeout, connect).await {
        Ok(Ok(_)) => Ok(format!("{asked} takes connections")),
        Ok(Err(error)) => Err(format!("{asked} takes no connection: {error}")),
        Err(_) => Err(format!("{asked} took no connection within {} s", timeout.as_secs_f64())),
    }
}

async fn of_consul(
    host: &Host,
    client: &Client,
    service: &str,
    tags: &[String],
) -> Result<String, HostError> {
    let ill = |said| Err(HostError::Ill { tries: 1, said });
    let answer = client.instances(service, tags, false, &Wait::no()).await;
    let answer = answer.map_err(|error| HostError::NotAsked { tries: 1, said: error.to_string() })?;
    // By the name of its node; by its address where no node is called so.
    let by_name = answer.value.iter().any(|one| one.node == host.name);
    let is_here = |one: &&Instance| if by_name { one.node == host.name } else { one.address == host.address };
    let mut here = answer.value.iter().filter(is_here).peekable();
    let asked = format!("`{service}` on {} in Consul at {}", host.name, client.shown());
    if here.peek().is_none() {
        return ill(format!("{asked} has no instance"));
    }
    match here.find(|one| one.status != "passing") {
        Some(one) => ill(format!("{asked} is {} (instance {})", one.status, one.id)),
        None => Ok(format!("{asked} passes")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn asked_of_consul(address: &str) -> HostError {
        let client = Client::new(address, None).unwrap();
        let question = Question::Consul { client, service: "shop".to_owned(), tags: Vec::new() };
        let check = Check { question, tries: 2, interval: Span(0), timeout: Span::seconds(10) };
        let host = Host::root("web1", "/srv/web1");
        ask(&host, &check, &mut |_, _| {}, &CancellationToken::new()).await.unwrap_err()
    }

    /// A Consul that gives this answer to each question; its address.
    async fn consul_that_says(status: &'static str, body: &'static str) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                drop(stream.read(&mut [0; 4096]).await);
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
                );
                drop(stream.write_all(answer.as_bytes()).await);
            }
        });
        address
    }

    #[tokio::test]
    async fn a_consul_that_cannot_be_asked_is_told_apart_from_one_that_does_not_pass() {
        let without = asked_of_consul(&consul_that_says("200 OK", "[]").await).await;
        assert!(matches!(without, HostError::Ill { tries: 2, .. }), "{without}");
        let leaderless = consul_that_says("500 Internal Server Error", "No cluster leader").await;
        for address in [leaderless.as_str(), "http://127.0.0.1:1"] {
            let away = asked_of_consul(address).await;
            assert!(matches!(away, HostError::NotAsked { tries: 2, .. }), "{away}");
            assert!(
                away.to_string().starts_with("the health check could not be made, 2 tries: Consul at"),
                "{away}"
            );
        }
    }

    #[test]
    fn a_path_is_asked_of_the_host_s_address_and_a_url_may_name_it() {
        let http =
            |url: &str, port| Http { url: url.into(), port, host: None, expect: Vec::new(), contains: None };
        let host = |address: &str| Host { address: address.into(), ..Host::root("web1", "/srv/web1") };
        assert_eq!(http("/health", Some(8080)).of(&host("10.0.0.1")), "http://10.0.0.1:8080/health");
        assert_eq!(http("/", None).of(&host("::1")), "http://[::1]:80/");
        let url = http("https://{name}.example.org/{address}", None);
        assert_eq!(url.of(&host("10.0.0.1")), "https://web1.example.org/10.0.0.1");
        assert!(http("/", None).is_expected(204) && !http("/", None).is_expected(302));
    }
}
