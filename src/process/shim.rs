//! The process between the server and a program: `siskin __shim`. It is told on its stdin, a socket, what to run
//! (`protocol`), and does not end before every descendant of the program has ended.
//!
//! * The socket closes: the server is dead. Everything is killed at once.
//! * `TERMINATE` on it, or a SIGTERM from outside: SIGTERM to all, and after the grace SIGKILL.
//! * The program ended: what it left behind gets SIGTERM, and soon after SIGKILL.
//!
//! It is a subreaper: whoever loses a parent below becomes its child, so "no child is left" means that nobody is, wherever
//! they went. (A death signal would not do: it fires when the *thread* that started a process ends.) It uses threads, not a
//! runtime, since thousands of these may stand beside the server.
//!
//! The lock's descriptor is inherited by the program on purpose: when the shim itself is killed, the lock is
//! still held by whatever lives on, and the next shim ends that before it begins.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

use super::protocol::{self, How, Report, Request};

/// What a program leaves behind when it ends by itself has this long after SIGTERM.
const LEFTOVER_GRACE: Duration = Duration::from_secs(2);
/// After this long of SIGKILL what still lives can't be killed: it is another user's, or stuck in the kernel.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Between two looks at who is left, or whether a lock is free.
const POLL: Duration = Duration::from_millis(20);
/// How often a program that somebody still has open for writing is tried again.
const BUSY_TRIES: u32 = 50;
/// How long leftovers without a shim may hold a lock before they are killed.
const ORPHANS_AFTER: Duration = Duration::from_millis(200);
/// Out of the way of descriptors that scripts choose for themselves (0 to 9).
const LOCK_DESCRIPTOR: i32 = 100;
const FAMILY_DESCRIPTOR: i32 = 101;

/// What reaches the main thread.
enum News {
    Terminate,
    ServerGone,
    Exited(Pid, How),
    NobodyLeft,
}

/// The whole life of a shim; `main` calls it when the first argument is `__shim`.
pub fn main() -> ExitCode {
    close_inherited();
    // Before there are threads, so that all have it.
    if wishes_to_end().thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    // Without the subreaper the promises of this process can't be kept: better to run nothing.
    if nix::sys::prctl::set_child_subreaper(true).is_err() {
        return ExitCode::FAILURE;
    }
    // A session of its own: Ctrl-C at the server's terminal is the server's to handle. Fails only for a group leader, as
    // which nobody but a person with a shell starts us.
    let _ = nix::unistd::setsid();
    let Ok(third) = reserve_three() else { return ExitCode::FAILURE };
    let Ok(Ok(socket)) = std::io::stdin().as_fd().try_clone_to_owned().map(to_socket) else {
        return ExitCode::FAILURE;
    };
    match serve(socket, third) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn to_socket(fd: OwnedFd) -> std::io::Result<UnixStream> {
    let socket = UnixStream::from(fd);
    // Refuses a stdin that is no socket: somebody tried `siskin __shim` by hand.
    socket.local_addr()?;
    Ok(socket)
}

/// Descriptors that leaked into the server from whoever started it go no further; and 3 becomes free.
fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // The directory that was just read is in the list, and closed already.
        let _ = nix::unistd::close(descriptor);
    }
}

/// Takes descriptor 3, the lowest free one, before anything else does.
fn reserve_three() -> std::io::Result<OwnedFd> {
    let third = OwnedFd::from(std::fs::File::open("/dev/null")?);
    match third.as_raw_fd() {
        3 => Ok(third),
        other => Err(std::io::Error::other(format!("descriptor 3 is taken, {other} is free"))),
    }
}

fn serve(mut socket: UnixStream, third: OwnedFd) -> std::io::Result<()> {
    let request: Request = serde_json::from_slice(&protocol::read_frame(&mut socket)?)?;
    let stdin = protocol::read_frame(&mut socket)?;
    let (sender, news) = mpsc::channel();
    listen(socket.try_clone()?, sender.clone());
    let not_started = |how| Report::Ended { how, asked: false, leftovers: Vec::new() };

    // The locks are let go when this process ends, and all that inherited them.
    let _family = match request.family.as_deref().map(join_family).transpose() {
        Ok(family) => family,
        Err(error) => {
            let how = How::LockFailed(error.raw_os_error().unwrap_or_default());
            return protocol::write_report(&mut socket, &not_started(how));
        }
    };
    let _lock = match request.lock.as_deref().map(|path| take_lock(path, &request, &news)).transpose() {
        Ok(lock) => lock,
        Err(how) => return protocol::write_report(&mut socket, &not_started(how)),
    };
    // Fails when the server is gone. From here on its successor sees our locks; had it looked before, nothing is started.
    protocol::write_report(&mut socket, &Report::Ready)?;
    let Started { main, mut held_stdin, result } = match start(&request, stdin, third) {
        Ok(started) => started,
        Err(error) => {
            let how = How::StartFailed(error.raw_os_error());
            return protocol::write_report(&mut socket, &not_started(how));
        }
    };
    for descriptor in [LOCK_DESCRIPTOR, FAMILY_DESCRIPTOR] {
        let _ = nix::unistd::close(descriptor);
    }
    // A server that is gone is news that comes by itself.
    drop(protocol::write_report(&mut socket, &Report::Started { pid: main.as_raw() }));
    heed_signals(sender.clone());
    reap(main, sender);

    let ended = watch(main, &request, &news, &mut held_stdin);
    if let Some(report) = result.and_then(|result| result.recv_timeout(LEFTOVER_GRACE).ok()).flatten() {
        protocol::write_report(&mut socket, &report)?;
    }
    protocol::write_report(&mut socket, &ended)
}

/// Reads what the server says from now on.
fn listen(mut socket: UnixStream, sender: mpsc::Sender<News>) {
    std::thread::spawn(move || {
        let mut byte = [0];
        loop {
            let news = match socket.read(&mut byte) {
                Ok(1..) => News::Terminate,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => News::ServerGone,
            };
            let last = matches!(news, News::ServerGone);
            if sender.send(news).is_err() || last {
                return;
            }
        }
    });
}

/// SIGTERM and its like are a wish to end, not our end: we have somebody to look after.
fn wishes_to_end() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect()
}

fn heed_signals(sender: mpsc::Sender<News>) {
    std::thread::spawn(move || {
        while wishes_to_end().wait().is_ok() {
            if sender.send(News::Terminate).is_err() {
                return;
            }
        }
    });
}

/// Reaps children, adopted ones too, until there is none.
fn reap(main: Pid, sender: mpsc::Sender<News>) {
    std::thread::spawn(move || {
        loop {
            let news = match wait() {
                Ok(WaitStatus::Exited(pid, code)) => News::Exited(pid, How::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => News::Exited(pid, How::Signal(signal as i32)),
                Ok(_) | Err(Errno::EINTR) => continue,
                // A real-time signal, which `Signal` has no name for: the one child known by name ended.
                Err(Errno::EINVAL) if kill(main, None).is_err() => News::Exited(main, How::Signal(0)),
                Err(Errno::EINVAL) => continue,
                Err(_) => News::NobodyLeft,
            };
            let last = matches!(news, News::NobodyLeft);
            if sender.send(news).is_err() || last {
                return;
            }
        }
    });
}

/// The end of the program and of all that came from it.
fn watch(
    main: Pid,
    request: &Request,
    news: &mpsc::Receiver<News>,
    held_stdin: &mut Option<HeldStdin>,
) -> Report {
    let mut how = None;
    let mut asked = false;
    let mut ending: Option<Ending> = None;
    loop {
        let heard = match &ending {
            None => news.recv().ok(),
            Some(_) => match news.recv_timeout(POLL) {
                Ok(news) => Some(news),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => Some(News::NobodyLeft),
            },
        };
        match heard {
            Some(News::Exited(pid, status)) if pid == main => {
                how = Some(status);
                let ending = ending.get_or_insert_with(|| Ending::within(LEFTOVER_GRACE));
                ending.by_closing = false;
            }
            Some(News::Exited(..)) | None => {}
            Some(News::Terminate) => {
                asked |= how.is_none();
                let grace = Duration::from_millis(request.grace_ms);
                let by_closing = how.is_none() && held_stdin.take().is_some();
                ending.get_or_insert_with(|| Ending { by_closing, ..Ending::within(grace) });
            }
            Some(News::ServerGone) => {
                asked |= how.is_none();
                ending = Some(Ending::within(Duration::ZERO));
            }
            Some(News::NobodyLeft) => {
                return Report::Ended { how: how.unwrap_or(How::Signal(0)), asked, leftovers: Vec::new() };
            }
        }
        let Some(ending) = &mut ending else { continue };
        if !ending.step(main) {
            let leftovers = descendants().into_iter().map(describe).collect();
            return Report::Ended {
                how: how.unwrap_or(How::Signal(Signal::SIGKILL as i32)),
                asked,
                leftovers,
            };
        }
    }
}

/// Everybody is being ended.
struct Ending {
    kill_at: Instant,
    asked: HashSet<Pid>,
    /// Its stdin was closed, which asks it to end: no SIGTERM.
    by_closing: bool,
}

impl Ending {
    fn within(grace: Duration) -> Ending {
        Ending { kill_at: Instant::now() + grace, asked: HashSet::new(), by_closing: false }
    }

    /// Signals whoever is left; false when it is of no use any more.
    fn step(&mut self, main: Pid) -> bool {
        let now = Instant::now();
        if now >= self.kill_at + GIVE_UP {
            return false;
        }
        if now >= self.kill_at {
            // The group at once, so that a program that forks faster than we look has no chance.
            let _ = kill(Pid::from_raw(-main.as_raw()), Signal::SIGKILL);
            for pid in descendants() {
                let _ = kill(pid, Signal::SIGKILL);
            }
            return true;
        }
        if self.by_closing {
            return true;
        }
        for pid in descendants() {
            if self.asked.insert(pid) {
                let _ = kill(pid, Signal::SIGTERM);
                // A stopped process hears SIGTERM only when it goes on.
                let _ = kill(pid, Signal::SIGCONT);
            }
        }
        true
    }
}

/// All processes that descend from this one.
fn descendants() -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for pid in processes() {
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![nix::unistd::getpid().as_raw()];
    while let Some(pid) = open.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            found.push(Pid::from_raw(child));
            open.push(child);
        }
    }
    found
}

fn processes() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The parent, from `pid (name, which may hold anything) state ppid ...`. The state is no guide: a process whose first thread
/// has ended counts as a zombie, and runs.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = String::from_utf8_lossy(&stat[after_name + 1..]).into_owned();
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn describe(pid: Pid) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{pid} {}", name.trim_end())
}

/// Takes the lock that all of one server share. Not closed on exec, as the other.
fn join_family(path: &Path) -> std::io::Result<Flock<std::fs::File>> {
    let file = std::fs::File::options().create(true).append(true).open(path)?;
    let lock = Flock::lock(file, FlockArg::LockShared).map_err(|(_, errno)| errno)?;
    nix::fcntl::fcntl(&*lock, FcntlArg::F_DUPFD(FAMILY_DESCRIPTOR))?;
    Ok(lock)
}

/// Waits until the lock is free. Leftovers of a program whose shim was killed are ended.
fn take_lock(
    path: &Path,
    request: &Request,
    news: &mpsc::Receiver<News>,
) -> Result<Flock<std::fs::File>, How> {
    let failed = |error: std::io::Error| How::LockFailed(error.raw_os_error().unwrap_or_default());
    let mut file = std::fs::File::options().create(true).append(true).open(path).map_err(failed)?;
    // As /proc shows it.
    let path = &path.canonicalize().map_err(failed)?;
    let started = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                // Not closed on exec, on purpose. The program may outlive us only if we are killed.
                nix::fcntl::fcntl(&*lock, FcntlArg::F_DUPFD(LOCK_DESCRIPTOR))
                    .map_err(|errno| failed(errno.into()))?;
                return Ok(lock);
            }
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err((_, errno)) => return Err(failed(errno.into())),
        }
        if started.elapsed() >= Duration::from_millis(request.lock_wait_ms) {
            let holders: Vec<String> = holders(path, LOCK_DESCRIPTOR).into_iter().map(describe).collect();
            return Err(How::Busy(format!("lock {} is held by {}", path.display(), holders.join(", "))));
        }
        if started.elapsed() >= ORPHANS_AFTER {
            end_orphans(path, LOCK_DESCRIPTOR);
        }
        match news.recv_timeout(POLL) {
            Ok(_) | Err(mpsc::RecvTimeoutError::Disconnected) => return Err(How::NotStarted),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Kills who holds the lock without a shim that looks after them.
fn end_orphans(path: &Path, descriptor: i32) {
    let holders = holders(path, descriptor);
    if holders.iter().any(|pid| is_shim(*pid)) {
        return;
    }
    for pid in holders {
        let _ = kill(pid, Signal::SIGKILL);
    }
}

/// Who holds the lock: shims with a program, and programs that inherited it. A shim that waits as we do has the file open
/// too, but no program.
fn holders(path: &Path, descriptor: i32) -> Vec<Pid> {
    let leads_here = |link: std::path::PathBuf| std::fs::read_link(link).is_ok_and(|target| target == path);
    let inherited = |pid: i32| leads_here(format!("/proc/{pid}/fd/{descriptor}").into());
    let watches = |pid: i32| {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        is_shim(Pid::from_raw(pid))
            && entries.flatten().any(|entry| leads_here(entry.path()))
            && has_children(pid)
    };
    let own = nix::unistd::getpid().as_raw();
    processes().filter(|pid| *pid != own && (inherited(*pid) || watches(*pid))).map(Pid::from_raw).collect()
}

/// Kills what the servers before this one left without a shim, and says who of them is alive, as `pid name`.
pub(super) fn end_orphans_of_family(path: &Path) -> Vec<String> {
    end_orphans(path, FAMILY_DESCRIPTOR);
    holders(path, FAMILY_DESCRIPTOR).into_iter().map(describe).collect()
}

fn has_children(pid: i32) -> bool {
    processes().any(|other| parent_of(other) == Some(pid))
}

fn is_shim(pid: Pid) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.split(|byte| *byte == 0).nth(1) == Some(b"__shim"))
}

/// A program that runs.
struct Started {
    main: Pid,
    held_stdin: Option<HeldStdin>,
    result: Option<ResultOf>,
}

type ResultOf = mpsc::Receiver<Option<Report>>;
/// Dropping this lets the writing thread close the program's stdin.
type HeldStdin = mpsc::Sender<()>;

/// Starts the program in a group of its own, with its stdin being written and its descriptor 3 being read by threads.
fn start(request: &Request, stdin: Vec<u8>, mut third: OwnedFd) -> std::io::Result<Started> {
    let mut command = std::process::Command::new(&request.program);
    command
        .args(&request.args)
        .env_clear()
        .envs(request.env.iter().map(|(name, value)| (name, value)))
        .process_group(0);
    command.stdin(if stdin.is_empty() && !request.holds_stdin { Stdio::null() } else { Stdio::piped() });
    if let Some(cwd) = &request.cwd {
        command.current_dir(cwd);
    }
    let result = match request.result_bytes {
        Some(limit) => Some((result_pipe(&mut third)?, limit)),
        None => None,
    };
    // A program inherits what is blocked, so nothing is for that moment.
    let mut tries = 0;
    let mut child = loop {
        wishes_to_end().thread_unblock()?;
        let child = command.spawn();
        wishes_to_end().thread_block()?;
        match child {
            // A script that was written just now may be open in a process that the server is starting at this moment.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(POLL);
            }
            child => break child?,
        }
    };
    // From here on only the program has the writing end.
    drop(third);
    let (held_stdin, let_go) = mpsc::channel();
    let holds = request.holds_stdin;
    if let Some(mut pipe) = child.stdin.take() {
        // A program need not read its stdin: an error is its choice.
        std::thread::spawn(move || {
            drop(pipe.write_all(&stdin));
            drop(stdin);
            if holds {
                // Nothing is ever sent: this waits until the other end is dropped.
                let _ = let_go.recv();
            }
        });
    }
    let result = result.map(|(reader, limit)| read_result(reader, limit));
    let pid = i32::try_from(child.id()).map_err(std::io::Error::other)?;
    Ok(Started { main: Pid::from_raw(pid), held_stdin: holds.then_some(held_stdin), result })
}

/// A pipe whose writing end becomes descriptor 3, and stays open in the program.
fn result_pipe(third: &mut OwnedFd) -> std::io::Result<OwnedFd> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    nix::unistd::dup2(&writer, third)?;
    Ok(reader)
}

fn read_result(reader: OwnedFd, limit: usize) -> ResultOf {
    let (sender, result) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = std::fs::File::from(reader);
        let mut bytes = Vec::new();
        let whole = Read::take(&mut reader, limit as u64 + 1).read_to_end(&mut bytes).is_ok();
        let report = match bytes.len() {
            _ if !whole => None,
            0 => None,
            length if length > limit => {
                // The program must not be stopped by a full pipe.
                drop(std::io::copy(&mut reader, &mut std::io::sink()));
                Some(Report::ResultOverflowed)
            }
            _ => Some(Report::Result(BASE64.encode(&bytes))),
        };
        // The main thread may have ended already.
        drop(sender.send(report));
    });
    result
}
