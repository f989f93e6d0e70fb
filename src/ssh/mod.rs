//! Runs things on other hosts by the `ssh` program.
//!
//! * Nothing asks: no password, no unknown host key is accepted unless the target's policy says so.
//! * Data is quoted in one place ([`quote`]), and values of the environment are on no command line, here or there.
//! * Cancel, timeout and our own death end the remote command: the far end holds our stdin as a lifeline, and ends its process
//!   group when that closes.
//! * Errors tell apart: refused, unreachable, a bad host key, failed authentication, a connection lost on the way. A command
//!   that ran and failed is no error, but a [`Finished`] with its exit status.
//!
//! Left to others: which hosts, and what a failure means.

mod quote;

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::model::Span;
use crate::process::{self, Command, Ended, Finished, ProcessError, Stream};

pub use quote::{is_variable, quote, quote_all};

/// What the far end prints on stderr before the program begins: we got there.
const BEGUN: &[u8] = b"siskin: begun";
/// And after it, when the program's exit status is 255, which `ssh` uses for its own failures too.
const ENDED_255: &[u8] = b"siskin: ended 255";
/// Or instead of either: somebody holds the lock there.
const BUSY: &str = "siskin: busy";
/// Between SIGTERM and SIGKILL at the far end.
const REMOTE_GRACE_SECONDS: u64 = 10;

/// Which host keys are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum HostKeys {
    /// Those in the known hosts file only.
    #[default]
    Strict,
    /// Also that of a host seen for the first time, which is then written to the file; a changed key is refused.
    AcceptNew,
}

/// A host, and how to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub host: String,
    pub port: Option<u16>,
    pub user: Option<String>,
    /// The private key's file; the user's own keys and agent when not said.
    pub key: Option<PathBuf>,
    pub host_keys: HostKeys,
    /// `~/.ssh/known_hosts` when not said.
    pub known_hosts: Option<PathBuf>,
    /// A configuration file of ssh, say with `ProxyJump`; none is read when not said.
    pub config: Option<PathBuf>,
    pub connect_timeout: Span,
}

impl Target {
    pub fn new(host: impl Into<String>) -> Target {
        Target {
            host: host.into(),
            port: None,
            user: None,
            key: None,
            host_keys: HostKeys::default(),
            known_hosts: None,
            config: None,
            connect_timeout: Span::seconds(10),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// What to run on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A program and its arguments, passed as they are.
    Argv(Vec<String>),
    /// The text of a POSIX shell script, verbatim, and what it sees as `$1 $2 ...`.
    Script { text: String, args: Vec<String> },
}

/// A piece of work, and the conditions.
#[derive(Clone)]
pub struct Request {
    pub work: Work,
    pub env: Vec<(String, String)>,
    pub cwd: Option<String>,
    pub timeout: Option<Span>,
    /// A local lock that is held until the work has ended. The far end takes one of its own for it, where it has `flock`: it is
    /// there that the work of an attempt that was killed here may still be ending.
    pub lock: Option<PathBuf>,
    /// As [`Command::keep`].
    pub keep: usize,
}

impl Request {
    pub fn new(work: Work) -> Request {
        Request { work, env: Vec::new(), cwd: None, timeout: None, lock: None, keep: 64 * 1024 }
    }
}

/// Why something was not run on a host, or its end is not known.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    #[error("{target}: connection refused; does sshd run there, on that port?")]
    Refused { target: String },
    #[error("{target}: not reachable: {said}")]
    Unreachable { target: String, said: String },
    #[error("{target}: its host key is not the known one, or not known at all: {said}")]
    HostKey { target: String, said: String },
    #[error("{target}: authentication failed: {said}")]
    Authentication { target: String, said: String },
    #[error("{target}: the connection broke before the command had ended, so its end is not known: {said}")]
    Lost { target: String, said: String },
    #[error("{target}: not started: what was begun there before has not ended; end it, then try again")]
    Busy { target: String },
    #[error("{target}: ssh failed: {said}")]
    Failed { target: String, said: String },
    #[error("`{what}` can't be given to ssh: {why}")]
    BadValue { what: String, why: &'static str },
    #[error("{target}: {path} was not written: {said}")]
    Copy { target: String, path: String, said: String },
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Runs a command on a host. `on_line` gets what it prints, as it prints it.
pub async fn run(
    target: &Target,
    request: Request,
    on_line: &mut (dyn FnMut(Stream, &[u8]) + Send),
    cancel: &CancellationToken,
) -> Result<Finished, SshError> {
    let program = program_text(&request)?;
    let lock = request.lock.as_deref().map(remote_lock);
    let mut command = command_for(target, &far_end(program.len(), lock.as_deref().unwrap_or_default()))?;
    command.stdin = program.into_bytes();
    command.holds_stdin = true;
    command.grace = Span::seconds(REMOTE_GRACE_SECONDS + 5);
    command.lock = request.lock;
    command.keep = request.keep;
    let mut begun = false;
    let mut filter = |stream: Stream, line: &[u8]| {
        if stream == Stream::Stderr && !begun && line.ends_with(BEGUN) {
            begun = true;
        } else if !(stream == Stream::Stderr && line == ENDED_255) {
            on_line(stream, line);
        }
    };
    let mut finished = process::run(command, &mut filter, cancel, request.timeout).await?;
    let was_255 = finished.stderr.bytes.ends_with(&line_of(ENDED_255));
    if finished.ended == Ended::Code(255) && !was_255 {
        return Err(failure(target, &finished, begun));
    }
    remove_line(&mut finished.stderr.bytes, BEGUN);
    if was_255 {
        remove_line(&mut finished.stderr.bytes, ENDED_255);
    }
    Ok(finished)
}

/// Puts a file on a host, whole or not at all: it is written beside its place, then moved.
pub async fn copy(
    target: &Target,
    content: Vec<u8>,
    path: &str,
    mode: u32,
    timeout: Option<Span>,
    cancel: &CancellationToken,
) -> Result<(), SshError> {
    refuse_nul(path)?;
    let size = content.len();
    // A connection that breaks looks like the end of the file: only the right size is moved into place.
    let script = format!(
        "umask 077; path={}; part=\"$path.siskin-$$\"; trap 'rm -f \"$part\"' EXIT HUP TERM; printf '{}\\n' >&2; \
         cat >\"$part\" && [ \"$(wc -c <\"$part\")\" -eq {size} ] && chmod {mode:o} \"$part\" && mv -f \"$part\" \"$path\"",
        quote(path),
        String::from_utf8_lossy(BEGUN),
    );
    let mut command = command_for(target, &format!("exec sh -c {}", quote(&script)))?;
    command.stdin = content;
    command.grace = Span::seconds(5);
    let mut begun = false;
    let mut on_line = |_, line: &[u8]| begun |= line.ends_with(BEGUN);
    let mut finished = process::run(command, &mut on_line, cancel, timeout).await?;
    if finished.ended == Ended::Code(255) {
        return Err(failure(target, &finished, begun));
    }
    remove_line(&mut finished.stderr.bytes, BEGUN);
    if finished.success() {
        return Ok(());
    }
    let said = match finished.ended {
        Ended::Code(_) => finished.last_words(),
        other => other.to_string(),
    };
    Err(SshError::Copy { target: target.to_string(), path: path.to_owned(), said })
}

/// Runs a shell script on a host that reads `content` to its end. A connection that breaks looks to it like that end, so it must know how much it
/// is to read. `arguments` are its `$1 $2 ...`; `keep` as [`Command::keep`].
pub async fn feed(
    target: &Target,
    content: Vec<u8>,
    script: &str,
    arguments: &[&str],
    keep: usize,
    cancel: &CancellationToken,
) -> Result<Finished, SshError> {
    refuse_nul(script)?;
    arguments.iter().try_for_each(|argument| refuse_nul(argument))?;
    let script = format!("printf '{}\n' >&2\n{script}", String::from_utf8_lossy(BEGUN));
    let remote = format!("exec sh -c {} sh {}", quote(&script), quote_all(arguments));
    let mut command = command_for(target, &remote)?;
    command.stdin = content;
    command.grace = Span::seconds(5);
    command.keep = keep;
    let mut begun = false;
    let mut on_line = |_, line: &[u8]| begun |= line.ends_with(BEGUN);
    let mut finished = process::run(command, &mut on_line, cancel, None).await?;
    if finished.ended == Ended::Code(255) {
        return Err(failure(target, &finished, begun));
    }
    remove_line(&mut finished.stderr.bytes, BEGUN);
    Ok(finished)
}

/// The shell program that the far end gets on its stdin: environment, directory, then the work.
fn program_text(request: &Request) -> Result<String, SshError> {
    let mut text = String::new();
    for (name, value) in &request.env {
        if !is_variable(name) {
            return Err(SshError::BadValue { what: name.clone(), why: "no variable has such a name" });
        }
        refuse_nul(value)?;
        text.push_str(&format!("export {name}={}\n", quote(value)));
    }
    if let Some(cwd) = &request.cwd {
        refuse_nul(cwd)?;
        // `./` keeps a directory named `-` or `-P` what it is.
        let place = if cwd.starts_with('/') { cwd.clone() } else { format!("./{cwd}") };
        text.push_str(&format!("cd {} || exit 126\n", quote(&place)));
    }
    match &request.work {
        Work::Argv(words) if words.is_empty() => {
            return Err(SshError::BadValue { what: "argv".into(), why: "it is empty" });
        }
        Work::Argv(words) => {
            words.iter().try_for_each(|word| refuse_nul(word))?;
            text.push_str(&format!("exec {}\n", quote_all(words)));
        }
        Work::Script { text: script, args } => {
            refuse_nul(script)?;
            args.iter().try_for_each(|arg| refuse_nul(arg))?;
            text.push_str(&format!("set -- {}\n", quote_all(args)));
            text.push_str(script);
            text.push('\n');
        }
    }
    Ok(text)
}

fn refuse_nul(text: &str) -> Result<(), SshError> {
    match text.contains('\0') {
        true => Err(SshError::BadValue { what: text.replace('\0', "\\0"), why: "it has a NUL byte" }),
        false => Ok(()),
    }
}

/// The name of the far end's lock that stands for a local one.
fn remote_lock(lock: &std::path::Path) -> String {
    use sha2::Digest;
    hex::encode(&sha2::Sha256::digest(lock.as_os_str().as_encoded_bytes())[..16])
}

/// What the remote shell is told on its command line; it holds no data. It reads the program from stdin, waits for the lock
/// (none when the name is empty), runs the program in a session of its own with an empty stdin, and ends it when our stdin closes.
fn far_end(program_bytes: usize, lock: &str) -> String {
    // The program goes in by a here-document on descriptor 9: an argument would be seen by others and is limited in size, and
    // stdin would be eaten by the first command that reads it. The lock is on 8, and only this shell has it; locks that
    // nobody took for ten days are removed.
    let script = format!(
        r#"program=$(head -c {program_bytes}; echo .); program=${{program%.}}
exec 3<&0
lock={lock}; locks=$HOME/.cache/siskin
if [ -n "$lock" ] && command -v flock >/dev/null && mkdir -p "$locks" 2>/dev/null && [ -w "$locks" ]; then
find "$locks" -name '*.lock' -mmin +14400 -exec rm -f {{}} + 2>/dev/null
exec 8>>"$locks/$lock.lock"; touch "$locks/$lock.lock"
(cat >/dev/null; kill -KILL $$) <&3 8>&- >/dev/null 2>&1 &
early=$!
flock -w {wait} 8 || {{ printf '{busy}\n' >&2; kill $early; exit 255; }}
kill $early; wait $early 2>/dev/null
fi
printf '{begun}\n' >&2
leader=; command -v setsid >/dev/null && leader=setsid
$leader sh /dev/fd/9 9<<END </dev/null 3<&- 8>&- &
$program
END
job=$!; ending=; trap ending=1 USR1
(cat >/dev/null; group=$job; [ -n "$leader" ] && group=-$job; kill -USR1 $$; kill -TERM $group; tries=0
while kill -0 $group && [ $tries -lt {tries} ]; do tries=$((tries+1)); sleep 0.2 || sleep 1; done
kill -KILL $group) <&3 8>&- >/dev/null 2>&1 &
watch=$!
wait $job; code=$?
if [ -n "$ending" ]; then wait $job; wait $watch; else kill $watch 2>/dev/null; fi
[ $code -ne 255 ] || printf '{ended}\n' >&2
exit $code"#,
        begun = String::from_utf8_lossy(BEGUN),
        ended = String::from_utf8_lossy(ENDED_255),
        busy = BUSY,
        wait = process::LOCK_WAIT.0 / 1000,
        tries = REMOTE_GRACE_SECONDS * 5,
    );
    format!("exec sh -c {}", quote(&script))
}

/// `ssh` with all that makes it silent and predictable.
fn command_for(target: &Target, remote: &str) -> Result<Command, SshError> {
    check_name(&target.host, ":[]%")?;
    let mut options = vec![
        "BatchMode=yes".to_owned(),
        format!("ConnectTimeout={}", target.connect_timeout.0.div_ceil(1000).max(1)),
        "ConnectionAttempts=1".into(),
        "ControlMaster=no".into(),
        "ControlPath=none".into(),
        "ClearAllForwardings=yes".into(),
        "ForwardAgent=no".into(),
        "PermitLocalCommand=no".into(),
        "EscapeChar=none".into(),
        "RequestTTY=no".into(),
        "ServerAliveInterval=15".into(),
        "ServerAliveCountMax=3".into(),
        "LogLevel=ERROR".into(),
    ];
    options.push(match target.host_keys {
        HostKeys::Strict => "StrictHostKeyChecking=yes".into(),
        HostKeys::AcceptNew => "StrictHostKeyChecking=accept-new".into(),
    });
    if let Some(file) = &target.known_hosts {
        options.push(format!("UserKnownHostsFile={}", option_path(file)?));
        options.push("GlobalKnownHostsFile=/dev/null".into());
    }
    if let Some(key) = &target.key {
        options.push(format!("IdentityFile={}", option_path(key)?));
        options.push("IdentitiesOnly=yes".into());
    }
    if let Some(user) = &target.user {
        check_name(user, "")?;
        options.push(format!("User={user}"));
    }
    if let Some(port) = target.port {
        options.push(format!("Port={port}"));
    }
    let config = target.config.as_ref().map_or("/dev/null".into(), |path| path.to_string_lossy());
    let mut command = Command::new("ssh").args(["-F", &*config]).env("LC_ALL", "C");
    for option in options {
        command = command.args(["-o".to_owned(), option]);
    }
    if target.key.is_none()
        && let Ok(agent) = std::env::var("SSH_AUTH_SOCK")
    {
        command = command.env("SSH_AUTH_SOCK", agent);
    }
    Ok(command.args(["--", &target.host, remote]))
}

/// A host or user: nothing that could be an option, or mean something to ssh.
fn check_name(name: &str, also: &str) -> Result<(), SshError> {
    let fine = |c: char| c.is_alphanumeric() || "._-".contains(c) || also.contains(c);
    match name.is_empty() || name.starts_with('-') || !name.chars().all(fine) {
        true => Err(SshError::BadValue {
            what: name.chars().flat_map(char::escape_debug).collect(),
            why: "it is no host or user name",
        }),
        false => Ok(()),
    }
}

/// A path as the value of an option, where `%` and quotes have a meaning.
fn option_path(path: &std::path::Path) -> Result<String, SshError> {
    let text = path.to_string_lossy();
    if text.contains(['"', '\n', '$']) || text.starts_with('~') {
        return Err(SshError::BadValue {
            what: text.into_owned(),
            why: "such a path can't be an option of ssh",
        });
    }
    Ok(format!("\"{}\"", text.replace('%', "%%")))
}

/// What ssh's own failure is, by its message in English.
fn failure(target: &Target, finished: &Finished, begun: bool) -> SshError {
    let mut stderr = finished.stderr.clone();
    remove_line(&mut stderr.bytes, BEGUN);
    let text = stderr.text();
    let target = target.to_string();
    let line = |phrases: &[&str]| {
        text.lines()
            .rev()
            .find(|line| phrases.iter().any(|phrase| line.contains(phrase)))
            .map(|line| line.trim().to_owned())
    };
    let last = text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("it said nothing")
        .to_owned();
    if line(&[BUSY]).is_some() {
        return SshError::Busy { target };
    }
    if begun {
        return SshError::Lost { target, said: last };
    }
    if let Some(said) =
        line(&["IDENTIFICATION HAS CHANGED", "Host key verification failed", "host key is known for"])
    {
        return SshError::HostKey { target, said };
    }
    if let Some(said) = line(&[
        "Permission denied",
        "Too many authentication failures",
        "no such identity",
        "bad permissions",
    ]) {
        return SshError::Authentication { target, said };
    }
    if line(&["Connection refused"]).is_some() {
        return SshError::Refused { target };
    }
    let unreachable = [
        "timed out",
        "No route to host",
        "unreachable",
        "Could not resolve hostname",
        "Name or service not known",
    ];
    if let Some(said) =
        line(&unreachable).or_else(|| line(&["Connection closed", "Connection reset", "kex_exchange"]))
    {
        return SshError::Unreachable { target, said };
    }
    SshError::Failed { target, said: last }
}

fn line_of(text: &[u8]) -> Vec<u8> {
    [text, b"\n"].concat()
}

/// Takes our own line out of what was kept.
fn remove_line(bytes: &mut Vec<u8>, line: &[u8]) {
    let line = line_of(line);
    if let Some(at) = bytes.windows(line.len()).position(|window| window == line) {
        bytes.drain(at..at + line.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_users_that_could_be_options_are_refused() {
        for host in ["", "-oProxyCommand=touch", "a b", "a;b", "host\n", "$(x)", "a/b"] {
            assert!(command_for(&Target::new(host), "true").is_err(), "{host:?}");
        }
        for host in ["10.0.0.1", "fe80::1%eth0", "web-1.example.org", "::1"] {
            assert!(command_for(&Target::new(host), "true").is_ok(), "{host:?}");
        }
        let odd_user = Target { user: Some("-x".into()), ..Target::new("host") };
        assert!(command_for(&odd_user, "true").is_err());
    }

    #[test]
    fn what_ssh_would_misread_is_refused() {
        let request = |env: (&str, &str)| Request {
            env: vec![(env.0.into(), env.1.into())],
            ..Request::new(Work::Argv(vec!["true".into()]))
        };
        assert!(program_text(&request(("A", "x\ny'z"))).is_ok());
        assert!(program_text(&request(("A;id", "x"))).is_err());
        assert!(program_text(&request(("A", "x\0y"))).is_err());
        assert!(program_text(&Request::new(Work::Argv(Vec::new()))).is_err());
    }
}
