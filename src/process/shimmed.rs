//! The server's side of the shim: starts it, says what to run, reads output and reports.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::capture::Pump;
use super::protocol::{self, How, Report, Request};
use super::{
    Command, Ended, FAMILY, Finished, LOCK_WAIT, ProcessError, RESULT_BYTES, Stream, deadline, environment,
};
use crate::model::Span;

/// How long after the grace the shim may take to report an end; it gives up on the unkillable before.
const REPORT_WITHIN: Duration = Duration::from_secs(25);
/// How long output may still come when the end is known: only an unkillable process can keep it open.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

/// What the shim has said so far.
#[derive(Default)]
struct Said {
    arrived: Vec<u8>,
    pid: Option<i32>,
    result: Option<Vec<u8>>,
    result_overflowed: bool,
    ended: Option<(How, bool, Vec<String>)>,
}

impl Said {
    fn hear(&mut self, bytes: &[u8]) {
        self.arrived.extend_from_slice(bytes);
        while let Some(frame) = protocol::take_frame(&mut self.arrived) {
            match serde_json::from_slice(&frame) {
                Ok(Report::Ready) => {}
                Ok(Report::Started { pid }) => self.pid = Some(pid),
                Ok(Report::Result(text)) => self.result = BASE64.decode(text).ok(),
                Ok(Report::ResultOverflowed) => self.result_overflowed = true,
                Ok(Report::Ended { how, asked, leftovers }) => self.ended = Some((how, asked, leftovers)),
                Err(error) => tracing::warn!(%error, "a report of the shim can't be read"),
            }
        }
    }
}

pub(super) async fn run(
    shim: &Path,
    command: Command,
    on_line: &mut (dyn FnMut(Stream, &[u8]) + Send),
    cancel: &CancellationToken,
    timeout: Option<Span>,
) -> Result<Finished, ProcessError> {
    let time_is_up = deadline(timeout);
    let mut asked: Option<Ended> = None;
    let start_failed = |source| ProcessError::of_start(&command.program, None, source);
    let (mut ours, theirs) = socket_pair().map_err(start_failed)?;
    let mut child = start(shim, theirs).map_err(start_failed)?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(start_failed(std::io::ErrorKind::BrokenPipe.into()));
    };

    let request = request_of(&command).map_err(start_failed)?;
    let mut said = Said::default();
    // An error here means that the shim is gone; the loop below then finds the socket closed.
    let mut gone = ours.write_all(&request).await.is_err();
    drop(request);

    let mut pump = Pump::new(stdout, stderr, command.keep, command.whole.as_deref());
    let mut buffer = vec![0; 64 * 1024];
    let give_up = tokio::time::sleep_until(deadline(None));
    tokio::pin!(give_up);
    while !pump.ended() || !(gone || said.ended.is_some()) {
        let talking = !gone && said.ended.is_none();
        tokio::select! {
            () = pump.step(on_line), if !pump.ended() => {}
            read = ours.read(&mut buffer), if talking => match read {
                Ok(count) if count > 0 => said.hear(&buffer[..count]),
                _ => gone = true,
            },
            () = cancel.cancelled(), if asked.is_none() => {
                asked = Some(Ended::Cancelled);
                gone |= ours.write_all(&[protocol::TERMINATE]).await.is_err() && said.ended.is_none();
                give_up.as_mut().reset(tokio::time::Instant::now() + command.grace.duration() + REPORT_WITHIN);
            }
            () = tokio::time::sleep_until(time_is_up), if asked.is_none() => {
                asked = Some(Ended::TimedOut);
                gone |= ours.write_all(&[protocol::TERMINATE]).await.is_err() && said.ended.is_none();
                give_up.as_mut().reset(tokio::time::Instant::now() + command.grace.duration() + REPORT_WITHIN);
            }
            () = &mut give_up => break,
        }
        let known = gone || said.ended.is_some();
        if known && give_up.deadline() > tokio::time::Instant::now() + DRAIN_WITHIN {
            if said.ended.is_none() {
                end_group(said.pid);
            }
            give_up.as_mut().reset(tokio::time::Instant::now() + DRAIN_WITHIN);
        }
    }
    let (stdout, stderr) = pump.finish(on_line);
    drop(ours);
    let Some((how, ended_by_us, leftovers)) = said.ended else {
        end_group(said.pid);
        // It can't be alive when its socket is closed, except stuck in the kernel.
        child.start_kill().unwrap_or_default();
        let why = child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
        return Err(ProcessError::ShimDied(command.program, why));
    };
    // Reaps the shim, which has nothing left to do.
    drop(child.wait().await);
    let ended = match how {
        How::NotStarted => asked.unwrap_or(Ended::Cancelled),
        How::Code(_) | How::Signal(_) if ended_by_us && asked.is_some() => asked.unwrap_or(Ended::Cancelled),
        How::Code(code) => Ended::Code(code),
        How::Signal(number) => Ended::Signal(number),
        How::StartFailed(errno) => return Err(start_error(&command, errno)),
        How::Busy(holders) => return Err(ProcessError::Busy { program: command.program, holders }),
        How::LockFailed(errno) => {
            let source = std::io::Error::from_raw_os_error(errno);
            return Err(ProcessError::Lock { path: command.lock.unwrap_or_default(), source });
        }
    };
    let result_overflowed = said.result_overflowed;
    Ok(Finished { ended, stdout, stderr, result: said.result, result_overflowed, leftovers })
}

/// A pair of connected sockets: ours, and the one for the shim's stdin.
fn socket_pair() -> std::io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// Starts the shim with an empty environment: what is in ours is none of its business.
fn start(shim: &Path, stdin: OwnedFd) -> std::io::Result<tokio::process::Child> {
    tokio::process::Command::new(shim)
        .arg0("siskin")
        .arg("__shim")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

fn request_of(command: &Command) -> std::io::Result<Vec<u8>> {
    let request = Request {
        program: command.program.clone(),
        args: command.args.clone(),
        env: environment::of(command),
        // The shim runs in `/`.
        cwd: Some(match &command.cwd {
            Some(cwd) => std::path::absolute(cwd)?,
            None => std::env::current_dir()?,
        }),
        lock: command.lock.as_deref().map(std::path::absolute).transpose()?,
        family: FAMILY.get().cloned(),
        lock_wait_ms: LOCK_WAIT.0,
        grace_ms: command.grace.0,
        holds_stdin: command.holds_stdin,
        result_bytes: command.wants_result.then_some(RESULT_BYTES),
    };
    let mut bytes = protocol::frame(&serde_json::to_vec(&request)?);
    bytes.extend(protocol::frame(&command.stdin));
    Ok(bytes)
}

fn start_error(command: &Command, errno: Option<i32>) -> ProcessError {
    let source = match errno {
        Some(errno) => std::io::Error::from_raw_os_error(errno),
        None => std::io::ErrorKind::InvalidInput.into(),
    };
    ProcessError::of_start(&command.program, command.cwd.as_ref(), source)
}

/// When the shim was killed, the group of its program is all that we know of.
fn end_group(pid: Option<i32>) {
    let Some(pid) = pid else { return };
    let group = nix::unistd::Pid::from_raw(pid);
    // It may be gone already.
    let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
}
