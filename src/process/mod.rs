//! Starts programs. This is the one place of Siskin that does, so that what it promises holds for every action:
//!
//! * Cancel and timeout end the whole process group and what left it (a daemon that called `setsid` twice).
//! * When the server dies, even by `kill -9`, everything it started dies at once; the next server can wait for that ([`family`]).
//! * Two programs with the same `lock` never run beside each other, leftovers included.
//! * Memory is bounded whatever a program prints; lines arrive as the bytes that were printed.
//! * A program sees no environment variable of the server but the few in [`environment::INHERITED`].
//!
//! Between the server and the program stands a small process, the *shim* ([`shim`]): this same binary, started as
//! `siskin __shim`. It is the subreaper of all that descends from the program, and it holds a socket to the server: when
//! the socket closes, the server is gone. A library user without the binary gets the same calls without the shim, which then
//! reach no further than the process group ([`direct`]).
//!
//! Left to others: what to run, masking of secrets, what an exit status means.

mod capture;
mod direct;
mod environment;
mod protocol;
mod shimmed;

pub mod family;
pub mod shim;

use std::path::PathBuf;
use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

use crate::model::Span;

/// Where a line was printed; programs know no `Note`.
pub use crate::model::log::Stream;
pub use capture::{Captured, Whole};
pub use environment::INHERITED;

/// How much of a line is given to `on_line` at once; a longer line comes in pieces.
pub const LINE_BYTES: usize = 64 * 1024;
/// How much a program may write to file descriptor 3.
pub const RESULT_BYTES: usize = 16 * 1024 * 1024;
/// How long a program waits for leftovers of the one that held its lock before.
pub const LOCK_WAIT: Span = Span::seconds(30);

static SHIM: OnceLock<PathBuf> = OnceLock::new();
static FAMILY: OnceLock<PathBuf> = OnceLock::new();

/// Says which binary is the shim. The first call counts; `main` makes it before anything is started.
pub fn set_shim(path: PathBuf) {
    // A later call is a second server in one process (tests): it has the same binary.
    drop(SHIM.set(path));
}

/// The running binary is the shim, also after it was replaced on disk by an upgrade.
pub fn set_shim_to_self() {
    set_shim(PathBuf::from("/proc/self/exe"));
}

/// Names a file that whatever is started from now on locks, shared, for as long as it lives. The first call counts.
pub fn set_family(path: PathBuf) {
    // A later call is a second server in one process (tests): what it starts is of the first one's family.
    drop(FAMILY.set(path));
}

/// A program to run, and the conditions.
#[derive(Clone)]
pub struct Command {
    /// A path, or a name looked up in the program's `PATH`.
    pub program: String,
    pub args: Vec<String>,
    /// Set beside what is inherited; these win.
    pub env: Vec<(String, String)>,
    /// Inherit nothing at all.
    pub clear_env: bool,
    pub cwd: Option<PathBuf>,
    pub stdin: Vec<u8>,
    /// Keep stdin open after its last byte. Closing it is then how the program is asked to end, and SIGTERM is not sent:
    /// what `ssh` needs, which can tell the far end only so.
    pub holds_stdin: bool,
    /// Held while the program or anything it started is alive.
    pub lock: Option<PathBuf>,
    /// Between SIGTERM and SIGKILL.
    pub grace: Span,
    /// How many bytes of stdout, and of stderr, [`Finished`] keeps: half from the beginning, half from the end.
    pub keep: usize,
    /// A folder: an output larger than `keep` is kept whole, in a file there.
    pub whole: Option<PathBuf>,
    /// Give the program file descriptor 3, and return what it writes there.
    pub wants_result: bool,
}

impl Command {
    pub fn new(program: impl Into<String>) -> Command {
        Command {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            clear_env: false,
            cwd: None,
            stdin: Vec::new(),
            holds_stdin: false,
            lock: None,
            grace: Span::seconds(10),
            keep: 64 * 1024,
            whole: None,
            wants_result: false,
        }
    }
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Command {
        self.args.push(arg.into());
        self
    }
    #[must_use]
    pub fn args<T: Into<String>>(mut self, args: impl IntoIterator<Item = T>) -> Command {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Command {
        self.env.push((name.into(), value.into()));
        self
    }
    #[must_use]
    pub fn envs<K: Into<String>, V: Into<String>>(
        mut self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Command {
        self.env.extend(pairs.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }
    #[must_use]
    pub fn clear_env(mut self) -> Command {
        self.clear_env = true;
        self
    }
    #[must_use]
    pub fn cwd(mut self, cwd: impl Into<PathBuf>) -> Command {
        self.cwd = Some(cwd.into());
        self
    }
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Command {
        self.stdin = bytes.into();
        self
    }
    #[must_use]
    pub fn holds_stdin(mut self) -> Command {
        self.holds_stdin = true;
        self
    }
    #[must_use]
    pub fn lock(mut self, path: impl Into<PathBuf>) -> Command {
        self.lock = Some(path.into());
        self
    }
    #[must_use]
    pub fn grace(mut self, grace: Span) -> Command {
        self.grace = grace;
        self
    }
    #[must_use]
    pub fn keep(mut self, bytes: usize) -> Command {
        self.keep = bytes;
        self
    }

    /// Outputs larger than `keep` are kept whole too, in files of `folder`.
    #[must_use]
    pub fn whole(mut self, folder: impl Into<PathBuf>) -> Command {
        self.whole = Some(folder.into());
        self
    }
    #[must_use]
    pub fn wants_result(mut self) -> Command {
        self.wants_result = true;
        self
    }
}

/// Arguments and environment may hold secrets: only the program is shown.
impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("cwd", &self.cwd)
            .finish_non_exhaustive()
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    /// By a signal that was not ours.
    Signal(i32),
    TimedOut,
    Cancelled,
}

impl Ended {
    pub fn success(self) -> bool {
        self == Ended::Code(0)
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Code(code) => write!(f, "exit status {code}"),
            Ended::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "ended by signal {number} ({signal})"),
                Err(_) => write!(f, "ended by signal {number}"),
            },
            Ended::TimedOut => f.write_str("timed out"),
            Ended::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// What is left of a program that ran.
#[derive(Clone, Debug)]
pub struct Finished {
    pub ended: Ended,
    pub stdout: Captured,
    pub stderr: Captured,
    /// What was written to file descriptor 3; `None` when nothing was, or it was not asked for.
    pub result: Option<Vec<u8>>,
    /// More than [`RESULT_BYTES`] were written to file descriptor 3; `result` is then `None`.
    pub result_overflowed: bool,
    /// Processes that could not be ended (of another user, or stuck in the kernel), as `pid name`.
    pub leftovers: Vec<String>,
}

impl Finished {
    pub fn success(&self) -> bool {
        self.ended.success()
    }

    /// The last line that says something, of stderr or else stdout: what an error message quotes.
    pub fn last_words(&self) -> String {
        let last = |captured: &Captured| {
            let text = captured.text();
            text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
        };
        last(&self.stderr).or_else(|| last(&self.stdout)).unwrap_or_else(|| "it printed nothing".to_owned())
    }
}

/// Why a program was not run, or its end is not known.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("program `{0}` not found; install it, or give its full path")]
    NotFound(String),
    #[error("the interpreter named in the first line of `{0}` is missing; install it, or change that line")]
    NoInterpreter(String),
    #[error("`{0}` may not be executed; is it a program, and is its x bit set?")]
    NotExecutable(String),
    #[error("`{0}` is still being written; close it before it is started")]
    Written(String),
    #[error("directory `{}` to run in does not exist, or may not be entered", .0.display())]
    NoDirectory(PathBuf),
    #[error(
        "the arguments and environment of `{0}` are larger than the system takes; pass large data on stdin or in a file"
    )]
    TooLarge(String),
    #[error(
        "`{0}` was not started: this process or the system has no file descriptors left; raise `ulimit -n` (LimitNOFILE)"
    )]
    OutOfFiles(String),
    #[error(
        "`{0}` was not started: the system gives no more processes or memory; raise `ulimit -u` (TasksMax), or run less at once"
    )]
    OutOfProcesses(String),
    #[error(
        "an argument, environment variable or path of `{0}` has a NUL byte, which no program can be given"
    )]
    NulByte(String),
    #[error(
        "`{program}` was not started: the one before it has not ended ({holders}); end it, then try again"
    )]
    Busy { program: String, holders: String },
    #[error("lock `{}` can't be taken: {source}", .path.display())]
    Lock { path: PathBuf, source: std::io::Error },
    #[error("`{0}` was ended, because the process that watches over it died ({1})")]
    ShimDied(String, String),
    #[error("`{program}` was not started: {source}")]
    Start { program: String, source: std::io::Error },
}

impl ProcessError {
    /// What an error of starting `command` means.
    fn of_start(program: &str, cwd: Option<&PathBuf>, source: std::io::Error) -> ProcessError {
        use nix::errno::Errno;
        if cwd.is_some_and(|cwd| !cwd.is_dir()) {
            return ProcessError::NoDirectory(cwd.cloned().unwrap_or_default());
        }
        let program = program.to_owned();
        match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) if program.contains('/') && std::path::Path::new(&program).is_file() => {
                ProcessError::NoInterpreter(program)
            }
            Some(Errno::ENOENT | Errno::ENOTDIR) => ProcessError::NotFound(program),
            Some(Errno::EACCES | Errno::EPERM | Errno::ENOEXEC | Errno::EISDIR) => {
                ProcessError::NotExecutable(program)
            }
            Some(Errno::ETXTBSY) => ProcessError::Written(program),
            Some(Errno::E2BIG) => ProcessError::TooLarge(program),
            Some(Errno::EMFILE | Errno::ENFILE) => ProcessError::OutOfFiles(program),
            Some(Errno::EAGAIN | Errno::ENOMEM) => ProcessError::OutOfProcesses(program),
            None if source.kind() == std::io::ErrorKind::InvalidInput => ProcessError::NulByte(program),
            _ => ProcessError::Start { program, source },
        }
    }
}

/// Runs `command` to its end. `on_line` gets each line without its `\n` as it is printed. When this future is dropped,
/// everything that it started is killed.
pub async fn run(
    command: Command,
    on_line: &mut (dyn FnMut(Stream, &[u8]) + Send),
    cancel: &CancellationToken,
    timeout: Option<Span>,
) -> Result<Finished, ProcessError> {
    if cancel.is_cancelled() {
        return Ok(Finished::before_start(Ended::Cancelled));
    }
    match SHIM.get() {
        Some(shim) => Box::pin(shimmed::run(shim, command, on_line, cancel, timeout)).await,
        None => Box::pin(direct::run(command, on_line, cancel, timeout)).await,
    }
}

/// Runs `command` without looking at its lines, as one calls a tool for its answer.
pub async fn output(
    command: Command,
    cancel: &CancellationToken,
    timeout: Option<Span>,
) -> Result<Finished, ProcessError> {
    run(command, &mut |_, _| {}, cancel, timeout).await
}

impl Finished {
    fn before_start(ended: Ended) -> Finished {
        Finished {
            ended,
            stdout: Captured::default(),
            stderr: Captured::default(),
            result: None,
            result_overflowed: false,
            leftovers: Vec::new(),
        }
    }
}

/// The moment at which a timeout is over; some decades from now when there is none.
fn deadline(timeout: Option<Span>) -> tokio::time::Instant {
    const NEVER: Span = Span::days(30 * 365);
    let span = timeout.unwrap_or(NEVER).min(NEVER);
    tokio::time::Instant::now() + span.duration()
}
