//! Running a program without the shim, for users of the library who have no binary: in a process group of its own, which is
//! ended as a whole. What left the group, or survives our own death, is out of reach here.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::capture::Pump;
use super::{Command, Ended, Finished, LOCK_WAIT, ProcessError, RESULT_BYTES, Stream, deadline, environment};
use crate::model::Span;

/// Between two looks at a lock that somebody else holds.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// A process group that is killed when its owner goes.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            // A group that is gone is what was asked for.
            let _ = killpg(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

pub(super) async fn run(
    command: Command,
    on_line: &mut (dyn FnMut(Stream, &[u8]) + Send),
    cancel: &CancellationToken,
    timeout: Option<Span>,
) -> Result<Finished, ProcessError> {
    let time_is_up = deadline(timeout);
    let _lock = match &command.lock {
        None => None,
        Some(path) => tokio::select! {
            lock = take_lock(&command.program, path) => Some(lock?),
            () = cancel.cancelled() => return Ok(Finished::before_start(Ended::Cancelled)),
            () = tokio::time::sleep_until(time_is_up) => return Ok(Finished::before_start(Ended::TimedOut)),
        },
    };
    let start_failed = |source| ProcessError::of_start(&command.program, command.cwd.as_ref(), source);
    let result_file = match command.wants_result {
        true => Some(tempfile::NamedTempFile::new().map_err(start_failed)?),
        false => None,
    };
    let mut child = spawn(&command, result_file.as_ref()).map_err(start_failed)?;
    let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let (Some(stdout), Some(stderr), Some(mut stdin)) =
        (child.stdout.take(), child.stderr.take(), child.stdin.take())
    else {
        return Err(start_failed(std::io::ErrorKind::BrokenPipe.into()));
    };
    let payload = command.stdin.clone();
    let (mut held_stdin, let_go) = match command.holds_stdin {
        true => Some(tokio::sync::oneshot::channel::<()>()).unzip(),
        false => (None, None),
    };
    let feed = async move {
        // A program need not read its stdin.
        drop(stdin.write_all(&payload).await);
        if let Some(let_go) = let_go {
            // Nothing is ever sent: this waits until the other end is dropped.
            drop(let_go.await);
        }
        drop(stdin);
    };
    tokio::pin!(feed);
    let mut fed = false;
    let mut pump = Pump::new(stdout, stderr, command.keep, command.whole.as_deref());
    let mut asked: Option<Ended> = None;
    let mut status: Option<ExitStatus> = None;
    let kill_at = tokio::time::sleep_until(deadline(None));
    tokio::pin!(kill_at);
    while status.is_none() || !pump.ended() {
        tokio::select! {
            () = &mut feed, if !fed => fed = true,
            () = pump.step(on_line), if !pump.ended() => {}
            ended = child.wait(), if status.is_none() => {
                status = Some(ended.map_err(start_failed)?);
                // What it left behind in its group would hold the output open.
                group.signal(Signal::SIGKILL);
            }
            () = cancel.cancelled(), if asked.is_none() && status.is_none() => {
                asked = Some(Ended::Cancelled);
                if held_stdin.take().is_none() {
                    group.signal(Signal::SIGTERM);
                }
                kill_at.as_mut().reset(tokio::time::Instant::now() + command.grace.duration());
            }
            () = tokio::time::sleep_until(time_is_up), if asked.is_none() && status.is_none() => {
                asked = Some(Ended::TimedOut);
                if held_stdin.take().is_none() {
                    group.signal(Signal::SIGTERM);
                }
                kill_at.as_mut().reset(tokio::time::Instant::now() + command.grace.duration());
            }
            () = &mut kill_at => {
                group.signal(Signal::SIGKILL);
                if status.is_some() {
                    // Something outside the group holds the output; it is out of our reach.
                    break;
                }
                kill_at.as_mut().reset(tokio::time::Instant::now() + Duration::from_secs(1));
            }
        }
        if status.is_some() && kill_at.deadline() > tokio::time::Instant::now() + Duration::from_secs(2) {
            kill_at.as_mut().reset(tokio::time::Instant::now() + Duration::from_secs(2));
        }
    }
    let (stdout, stderr) = pump.finish(on_line);
    let ended = asked.or(status.map(ended_of)).unwrap_or(Ended::Cancelled);
    let mut finished = Finished { stdout, stderr, ..Finished::before_start(ended) };
    if let Some(file) = result_file {
        read_result(&mut finished, &file).map_err(start_failed)?;
    }
    Ok(finished)
}

fn ended_of(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Code(code),
        (None, Some(number)) => Ended::Signal(number),
        (None, None) => Ended::Code(-1),
    }
}

fn spawn(
    command: &Command,
    result_file: Option<&tempfile::NamedTempFile>,
) -> std::io::Result<tokio::process::Child> {
    let mut program = match result_file {
        None => tokio::process::Command::new(&command.program),
        Some(file) => {
            // Only a shell can put a file on descriptor 3 without unsafe code here; the shim needs none.
            let mut shell = tokio::process::Command::new("/bin/sh");
            shell
                .args(["-c", "result=$1; shift; exec \"$@\" 3>>\"$result\"", "sh"])
                .arg(file.path())
                .arg(&command.program);
            shell
        }
    };
    program
        .args(&command.args)
        .env_clear()
        .envs(environment::of(command))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some(cwd) = &command.cwd {
        program.current_dir(cwd);
    }
    program.spawn()
}

fn read_result(finished: &mut Finished, file: &tempfile::NamedTempFile) -> std::io::Result<()> {
    let length = file.as_file().metadata()?.len();
    finished.result_overflowed = length > RESULT_BYTES as u64;
    if length > 0 && !finished.result_overflowed {
        finished.result = Some(std::fs::read(file.path())?);
    }
    Ok(())
}

async fn take_lock(program: &str, path: &PathBuf) -> Result<Flock<std::fs::File>, ProcessError> {
    let failed = |source| ProcessError::Lock { path: path.clone(), source };
    let mut file = std::fs::File::options().create(true).append(true).open(path).map_err(failed)?;
    let until = deadline(Some(LOCK_WAIT));
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err((_, errno)) => return Err(failed(errno.into())),
        }
        if tokio::time::Instant::now() >= until {
            let holders = format!("lock {} is held", path.display());
            return Err(ProcessError::Busy { program: program.to_owned(), holders });
        }
        tokio::time::sleep(LOCK_POLL).await;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        Command::new("/bin/sh").args(["-c", script]).grace(Span(200))
    }

    async fn start(command: Command, timeout: Option<Span>) -> Result<Finished, ProcessError> {
        run(command, &mut |_, _| {}, &CancellationToken::new(), timeout).await
    }

    #[tokio::test]
    async fn the_same_calls_work_without_a_shim() {
        let finished =
            start(shell("cat; echo note >&2; echo '{}' >&3; exit 4").stdin("in").wants_result(), None)
                .await
                .unwrap();
        assert_eq!(finished.ended, Ended::Code(4));
        assert_eq!((finished.stdout.text().as_str(), finished.stderr.text().as_str()), ("in", "note\n"));
        assert_eq!(finished.result.as_deref(), Some(b"{}\n".as_slice()));
        assert!(matches!(start(Command::new("no-such-program"), None).await, Err(ProcessError::NotFound(_))));
        assert_eq!(start(shell("kill -9 $$"), None).await.unwrap().ended, Ended::Signal(9));
    }

    #[tokio::test]
    async fn a_timeout_ends_the_group() {
        let stubborn = shell("trap '' TERM; sleep 1000 & while :; do sleep 1000; done");
        assert_eq!(start(stubborn, Some(Span(100))).await.unwrap().ended, Ended::TimedOut);
        let held = shell("cat; echo closed").holds_stdin();
        let finished = start(held, Some(Span(100))).await.unwrap();
        assert_eq!((finished.ended, finished.stdout.text().as_str()), (Ended::TimedOut, "closed\n"));
    }

    #[tokio::test]
    async fn a_lock_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("lock");
        let held = Flock::lock(std::fs::File::create(&lock).unwrap(), FlockArg::LockExclusive).unwrap();
        let waited = start(shell("echo x").lock(&lock), Some(Span(100))).await.unwrap();
        assert_eq!((waited.ended, waited.stdout.text().as_str()), (Ended::TimedOut, ""));
        drop(held);
        assert!(start(shell("true").lock(&lock), Some(Span::seconds(20))).await.unwrap().success());
    }
}
