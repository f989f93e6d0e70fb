//! Sends requests as fast as they are answered: HTTP/1.1 by hand on connections that stay open, one thread, one request at a time on each
//! connection. It must never be what a measurement measures, so it does next to nothing else.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::LocalSet;

/// What came of sending.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Answers that say that it was done.
    pub(crate) done: usize,
    /// Answers that refuse, by their status.
    pub(crate) refused: HashMap<u16, usize>,
    pub(crate) took: Duration,
}

impl Load {
    pub(crate) fn a_second(&self) -> f64 {
        assert!(self.refused.is_empty(), "requests were refused: {:?}", self.refused);
        self.done as f64 / self.took.as_secs_f64()
    }
}

/// A request: its head's own lines, and its body.
pub(crate) type Request = dyn Fn(usize) -> Vec<u8>;

/// A request as it travels.
pub(crate) fn post(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("POST {path} HTTP/1.1\r\nHost: siskin\r\nContent-Type: application/json\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    [head.as_bytes(), body].concat()
}

/// One thread's work, and what it gives.
fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, work)
}

/// Sends on so many connections at once; `request` makes the request of a number.
pub(crate) fn send(address: &str, connections: usize, time: Duration, request: Rc<Request>) -> Load {
    on_one_thread(async {
        let load = Rc::new(RefCell::new(Load::default()));
        let next = Rc::new(RefCell::new(0_usize));
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(Connection::open(address).await.unwrap());
        }
        let began = Instant::now();
        let sending = open.into_iter().map(|mut connection| {
            let (load, next, request) = (Rc::clone(&load), Rc::clone(&next), Rc::clone(&request));
            tokio::task::spawn_local(async move {
                loop {
                    let number = next.replace_with(|number| *number + 1);
                    if began.elapsed() >= time {
                        return;
                    }
                    let status = connection.ask(&request(number)).await.unwrap();
                    let mut load = load.borrow_mut();
                    match status {
                        200..300 => load.done += 1,
                        _ => *load.refused.entry(status).or_default() += 1,
                    }
                }
            })
        });
        for task in sending.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let took = began.elapsed();
        let done = load.take();
        Load { took, ..done }
    })
}

/// Events that start runs, at most so many of them unfinished; gives the time that each run took from its request to its end. `pace` is
/// the least time between two.
pub(crate) fn send_and_see_runs_end(
    address: &str,
    token: &str,
    at_once: usize,
    pace: Option<Duration>,
    time: Duration,
    request: Rc<Request>,
) -> (Load, Vec<Duration>) {
    on_one_thread(async {
        let runs = Rc::new(Runs::default());
        let mut stream = Stream::open(address, token).await.unwrap();
        let watched = Rc::clone(&runs);
        let watching = tokio::task::spawn_local(async move {
            loop {
                match stream.next().await.unwrap() {
                    Said::Ended(run) => watched.ended(run),
                    Said::Lost => panic!("the stream of changes was too slow to be watched"),
                }
            }
        });
        let began = Instant::now();
        let next = Rc::new(RefCell::new(0_usize));
        let sending = (0..at_once).map(|_| {
            let (runs, next, request) = (Rc::clone(&runs), Rc::clone(&next), Rc::clone(&request));
            let address = address.to_owned();
            tokio::task::spawn_local(async move {
                let mut connection = Connection::open(&address).await.unwrap();
                loop {
                    let number = next.replace_with(|number| *number + 1);
                    if let Some(pace) = pace {
                        let turn = began + pace * u32::try_from(number).unwrap();
                        tokio::time::sleep_until(turn.into()).await;
                    }
                    if began.elapsed() >= time {
                        return;
                    }
                    runs.begun();
                    let status = connection.ask(&request(number)).await.unwrap();
                    assert!(status == 202, "an event was answered with {status}");
                    runs.until_fewer_than(at_once).await;
                }
            })
        });
        for task in sending.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        runs.until_fewer_than(1).await;
        let took = began.elapsed();
        watching.abort();
        let times = runs.times.take();
        (Load { done: times.len(), took, ..Load::default() }, times)
    })
}

/// Runs under way: those that began first are taken to end first, which is so but for those side by side.
#[derive(Default)]
struct Runs {
    under_way: RefCell<std::collections::VecDeque<Instant>>,
    known: RefCell<HashSet<u64>>,
    times: RefCell<Vec<Duration>>,
    fewer: Notify,
}

impl Runs {
    fn begun(&self) {
        self.under_way.borrow_mut().push_back(Instant::now());
    }

    fn ended(&self, run: u64) {
        if !self.known.borrow_mut().insert(run) {
            return;
        }
        if let Some(began) = self.under_way.borrow_mut().pop_front() {
            self.times.borrow_mut().push(began.elapsed());
        }
        self.fewer.notify_waiters();
    }

    async fn until_fewer_than(&self, count: usize) {
        loop {
            let fewer = self.fewer.notified();
            if self.under_way.borrow().len() < count {
                return;
            }
            fewer.await;
        }
    }
}

/// A connection that stays open.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// The status of the answer, once all of it has come.
    async fn ask(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(status) = self.answered() {
                return Ok(status);
            }
        }
    }

    /// The status, when the whole answer is there.
    fn answered(&self) -> Option<u16> {
        let end = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&self.buffer[..end]).ok()?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        })?;
        (self.buffer.len() >= end + 4 + length).then(|| head.get(9..12)?.parse().ok())?
    }
}

/// The server's stream of changes.
struct Stream {
    lines: tokio::io::Lines<BufReader<TcpStream>>,
}

enum Said {
    Ended(u64),
    Lost,
}

impl Stream {
    async fn open(address: &str, token: &str) -> io::Result<Stream> {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET /api/v1/stream HTTP/1.1\r\nHost: siskin\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut lines = BufReader::with_capacity(64 * 1024, stream).lines();
        // The head of the answer: it listens from here on.
        while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
        Ok(Stream { lines })
    }

    async fn next(&mut self) -> io::Result<Said> {
        loop {
            let Some(line) = self.lines.next_line().await? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            if line == "event: lost" {
                return Ok(Said::Lost);
            }
            let Some(ended) = line.strip_suffix(",\"ended\":true}") else { continue };
            if let Some(run) = ended.strip_prefix("data: {\"run\":").and_then(|run| run.parse().ok()) {
                return Ok(Said::Ended(run));
            }
        }
    }
}
