//! A client of HAProxy's runtime socket: how the servers of its backends fare, whether they get sessions, and how many.
//!
//! The socket is a path, or `HOST:PORT` (`stats socket ... level admin`). Each command is a connection of its own, which HAProxy closes after its answer.
//!
//! Promises: a name never ends a command and begins another one; every answer is bounded, in size and in time; errors say which HAProxy, what it was
//! told and what it said. Decides nothing: who is taken out, and when, is the caller's.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// How long one command may take, with its connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer that is read.
const LARGEST: u64 = 32 * 1024 * 1024;
/// How much of what HAProxy says an error shows.
const SHOWN_CHARACTERS: usize = 300;
/// The heaviest that a server can be.
pub const HEAVIEST: u32 = 256;
/// Bits of `srv_admin_state`: what was said by the socket, by the configuration, or follows from another server.
const MAINT: u32 = 0x01 | 0x02 | 0x04 | 0x20 | 0x40;
const DRAIN: u32 = 0x08 | 0x10;

/// Why something was not learnt or not done.
#[derive(Debug, thiserror::Error)]
pub enum HaproxyError {
    #[error("`{0}` is no socket of HAProxy; write the path of one, or HOST:PORT")]
    BadSocket(String),
    #[error("`{0}` can't be the name of a backend or server")]
    BadName(String),
    #[error(
        "HAProxy's socket {socket} can't be used: {why}; does HAProxy run, and may this user use its socket?"
    )]
    Away { socket: String, why: String },
    #[error("HAProxy at {socket} refuses `{command}`: {said}")]
    Refused { socket: String, command: String, said: String },
    #[error("HAProxy at {socket} has no backend `{backend}`; it has {known}")]
    NoBackend { socket: String, backend: String, known: String },
    #[error("the backend `{backend}` of HAProxy at {socket} has no server `{server}`; it has {known}")]
    NoServer { socket: String, backend: String, server: String, known: String },
    #[error("what HAProxy at {socket} answers to `{command}` is not understood: {said}")]
    NotUnderstood { socket: String, command: String, said: String },
}

/// What people want of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It gets sessions when it is well.
    Ready,
    /// No new ones; those that it has go on.
    Drain,
    /// None, and it is not checked either.
    Maint,
}

impl Wanted {
    fn word(self) -> &'static str {
        match self {
            Wanted::Ready => "ready",
            Wanted::Drain => "drain",
            Wanted::Maint => "maint",
        }
    }
}

/// A server of a backend, as HAProxy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    pub wanted: Wanted,
    /// In the words of HAProxy: `UP`, `DOWN 1/2`, `MAINT`, `DRAIN`, `no check`.
    pub status: String,
    /// What its last check said; empty when it is not checked.
    pub last_check: String,
    pub weight: u32,
    /// What the configuration says.
    pub configured_weight: u32,
    /// Sessions that it serves now.
    pub sessions: u64,
}

impl Server {
    /// Whether it is there for sessions: HAProxy holds it for up, or does not check it. One that weighs nothing is called `DRAIN` then.
    pub fn is_up(&self) -> bool {
        let weighs_nothing = self.weight == 0 && self.status.starts_with("DRAIN");
        self.wanted == Wanted::Ready
            && (self.status.starts_with("UP") || self.status == "no check" || weighs_nothing)
    }

    /// How it fares, for people: `DOWN (L7STS/503)`.
    pub fn shown(&self) -> String {
        match self.last_check.as_str() {
            "" => self.status.clone(),
            check => format!("{} ({check})", self.status),
        }
    }
}

/// One HAProxy, by its runtime socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Haproxy {
    socket: Socket,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Socket {
    Unix(PathBuf),
    Tcp(String),
}

impl Haproxy {
    /// The HAProxy whose socket this is: a path, or `HOST:PORT`.
    ///
    /// # Errors
    /// `BadSocket`.
    pub fn at(text: &str) -> Result<Haproxy, HaproxyError> {
        let socket = match text.rsplit_once(':') {
            _ if text.starts_with('/') => Socket::Unix(text.into()),
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Socket::Tcp(text.to_owned())
            }
            _ => return Err(HaproxyError::BadSocket(text.to_owned())),
        };
        Ok(Haproxy { socket })
    }

    /// Where it is, as it was written.
    pub fn shown(&self) -> String {
        match &self.socket {
            Socket::Unix(path) => path.display().to_string(),
            Socket::Tcp(address) => address.clone(),
        }
    }

    /// All servers of a backend, in the order of its configuration.
    ///
    /// # Errors
    /// Any.
    pub async fn servers(&self, backend: &str) -> Result<Vec<Server>, HaproxyError> {
        check_name(backend)?;
        let command = format!("show servers state {backend}");
        let text = self.ask(&command).await?;
        let Some(header) = text.lines().find_map(|line| line.strip_prefix('#')) else {
            let said = cut(&text);
            // Words of HAProxy for a backend that it does not have.
            if said.contains("find backend") || said.contains("No such") {
                let (socket, backend) = (self.shown(), backend.to_owned());
                let known = listed(self.backends().await?);
                return Err(HaproxyError::NoBackend { socket, backend, known });
            }
            return Err(HaproxyError::NotUnderstood { socket: self.shown(), command, said });
        };
        let columns: Vec<&str> = header.split_whitespace().collect();
        let statistics = self.statistics().await?;
        let mut servers = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#') && line.contains(' ')) {
            let row: HashMap<&str, &str> = columns.iter().copied().zip(line.split_whitespace()).collect();
            let number = |name: &str| row.get(name).and_then(|text| text.parse::<u32>().ok());
            let (Some(name), Some(admin), Some(weight), Some(configured_weight)) = (
                row.get("srv_name"),
                number("srv_admin_state"),
                number("srv_uweight"),
                number("srv_iweight"),
            ) else {
                return Err(HaproxyError::NotUnderstood { socket: self.shown(), command, said: cut(line) });
            };
            let of = |name: &str, server: &str| {
                statistics
                    .iter()
                    .find(|row| {
                        row.get("pxname").map(String::as_str) == Some(backend)
                            && row.get("svname").map(String::as_str) == Some(server)
                    })
                    .and_then(|row| row.get(name).cloned())
                    .unwrap_or_default()
            };
            let wanted = match admin {
                admin if admin & MAINT != 0 => Wanted::Maint,
                admin if admin & DRAIN != 0 => Wanted::Drain,
                _ => Wanted::Ready,
            };
            let code = of("check_code", name);
            let check = of("check_status", name);
            servers.push(Server {
                name: (*name).to_owned(),
                wanted,
                status: of("status", name),
                last_check: if code.is_empty() { check } else { format!("{check}/{code}") },
                weight,
                configured_weight,
                sessions: of("scur", name).parse().unwrap_or(0),
            });
        }
        Ok(servers)
    }

    /// One server of a backend.
    ///
    /// # Errors
    /// Any; `NoServer` names those that there are.
    pub async fn server(&self, backend: &str, server: &str) -> Result<Server, HaproxyError> {
        let servers = self.servers(backend).await?;
        if let Some(found) = servers.iter().find(|found| found.name == server) {
            return Ok(found.clone());
        }
        Err(HaproxyError::NoServer {
            socket: self.shown(),
            backend: backend.to_owned(),
            server: server.to_owned(),
            known: listed(servers.into_iter().map(|server| server.name).collect()),
        })
    }

    /// Says what is wanted of a server.
    ///
    /// # Errors
    /// Any.
    pub async fn set_wanted(&self, backend: &str, server: &str, wanted: Wanted) -> Result<(), HaproxyError> {
        self.tell(backend, server, &format!("state {}", wanted.word())).await
    }

    /// Sets how much of the new sessions a server gets, beside the others: 0 to 256.
    ///
    /// # Errors
    /// Any. Backends of a static algorithm refuse.
    pub async fn set_weight(&self, backend: &str, server: &str, weight: u32) -> Result<(), HaproxyError> {
        self.tell(backend, server, &format!("weight {}", weight.min(HEAVIEST))).await
    }

    async fn tell(&self, backend: &str, server: &str, what: &str) -> Result<(), HaproxyError> {
        check_name(backend)?;
        check_name(server)?;
        let command = format!("set server {backend}/{server} {what}");
        let said = self.ask(&command).await?;
        match said.is_empty() {
            true => Ok(()),
            false => Err(HaproxyError::Refused { socket: self.shown(), command, said: cut(&said) }),
        }
    }

    async fn backends(&self) -> Result<Vec<String>, HaproxyError> {
        let rows = self.statistics().await?;
        let is_backend =
            |row: &&HashMap<String, String>| row.get("svname").is_some_and(|name| name == "BACKEND");
        Ok(rows.iter().filter(is_backend).filter_map(|row| row.get("pxname").cloned()).collect())
    }

    async fn statistics(&self) -> Result<Vec<HashMap<String, String>>, HaproxyError> {
        let text = self.ask("show stat").await?;
        let mut lines = text.lines();
        let Some(header) = lines.next().and_then(|line| line.strip_prefix("# ")) else {
            let (socket, command) = (self.shown(), "show stat".to_owned());
            return Err(HaproxyError::NotUnderstood { socket, command, said: cut(&text) });
        };
        let columns: Vec<String> = fields(header);
        Ok(lines.map(|line| columns.iter().cloned().zip(fields(line)).collect()).collect())
    }

    async fn ask(&self, command: &str) -> Result<String, HaproxyError> {
        let away = |why: String| HaproxyError::Away { socket: self.shown(), why };
        let answer = match tokio::time::timeout(PATIENCE, self.exchange(command)).await {
            Err(_) => return Err(away(format!("it did not answer within {} s", PATIENCE.as_secs()))),
            Ok(answer) => answer.map_err(|error| away(error.to_string()))?,
        };
        let text = String::from_utf8_lossy(&answer).trim().to_owned();
        if text.to_lowercase().contains("permission denied") {
            let said = "it needs `level admin`".to_owned();
            return Err(HaproxyError::Refused { socket: self.shown(), command: command.to_owned(), said });
        }
        Ok(text)
    }

    async fn exchange(&self, command: &str) -> std::io::Result<Vec<u8>> {
        match &self.socket {
            Socket::Unix(path) => exchange(UnixStream::connect(path).await?, command).await,
            Socket::Tcp(address) => exchange(TcpStream::connect(address).await?, command).await,
        }
    }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    command: &str,
) -> std::io::Result<Vec<u8>> {
    stream.write_all(format!("{command}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LARGEST).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// The fields of a line of comma-separated values; some are quoted.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields
}

/// A name that is one word of a command.
fn check_name(name: &str) -> Result<(), HaproxyError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
    match !name.is_empty() && name.chars().all(fine) {
        true => Ok(()),
        false => Err(HaproxyError::BadName(name.chars().flat_map(char::escape_debug).collect())),
    }
}

fn listed(names: Vec<String>) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn cut(text: &str) -> String {
    text.trim().chars().take(SHOWN_CHARACTERS).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_a_path_or_host_and_port() {
        for right in ["/run/haproxy/admin.sock", "lb1:9999", "[::1]:9999"] {
            assert_eq!(Haproxy::at(right).unwrap().shown(), right);
        }
        for wrong in ["", "lb1", ":9999", "lb1:port", "run/admin.sock"] {
            assert!(Haproxy::at(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_in_a_name_ends_the_command() {
        assert!(check_name("shop-1.example.org:80").is_ok());
        for wrong in ["", "a b", "a;disable server x/y", "a\nb", "a/b"] {
            assert!(check_name(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn quoted_fields_may_hold_commas() {
        assert_eq!(fields("a,\"b, c\",,d"), ["a", "b, c", "", "d"]);
    }
}
