//! A host on which Debian packages are installed: another machine over ssh, or a private dpkg root on this one. What is done to
//! it is idempotent, and repairs what a killed attempt left half done.
//!
//! Both kinds of host run the same shell texts, below; names and versions reach them by the environment, never as text.

use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::host_lock;
use crate::delivery::deb::control::native_architecture;
use crate::model::Span;
use crate::process::{self, Command, Ended, Finished, ProcessError, Stream};
use crate::ssh::{self, SshError, Target};

/// A host, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub reach: Reach,
    /// Where what runs on it is reached: a name or an address of the network.
    pub address: String,
    /// The file in `sources.list.d` that holds our repository: `apt-get update` is then for it alone. All sources when not said.
    pub source_list: Option<String>,
    /// Held while something is changed on it, so that two changes wait for each other. A root has one of its own.
    pub lock: Option<PathBuf>,
}

/// How to get to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    Ssh(Target),
    /// A directory made by [`prepare_root`], here.
    Root(PathBuf),
    /// Such a directory on another machine: several hosts behind one sshd.
    SshRoot(Target, PathBuf),
}

impl Host {
    pub fn ssh(name: impl Into<String>, target: Target) -> Host {
        let address = target.host.clone();
        Host { name: name.into(), reach: Reach::Ssh(target), address, source_list: None, lock: None }
    }
    pub fn root(name: impl Into<String>, directory: impl Into<PathBuf>) -> Host {
        let directory = directory.into();
        let lock = Some(directory.join("var/lib/siskin/lock"));
        let address = "127.0.0.1".to_owned();
        Host { name: name.into(), reach: Reach::Root(directory), address, source_list: None, lock }
    }
}

/// Which version of a package is to be on a host.
#[derive(Clone, Copy, Debug)]
pub struct Install<'a> {
    pub package: &'a str,
    pub version: &'a str,
    pub allow_downgrade: bool,
    pub timeout: Span,
}

/// Why something could not be done on a host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("`{0}` is no name of a Debian package")]
    BadPackage(String),
    #[error("`{0}` is no version of a Debian package")]
    BadVersion(String),
    #[error("{what} failed ({}): {said}", .finished.ended)]
    Failed { what: &'static str, said: String, finished: Box<Finished> },
    #[error("after the installation {package} is at {found}, not at {version}")]
    NotInstalled { package: String, version: String, found: String, finished: Box<Finished> },
    /// What was asked of it, and what came.
    #[error("the health check failed{}: {said}", of_tries(*.tries))]
    Ill { tries: u32, said: String },
    /// Who knows how it does could not be asked, which says nothing about the host.
    #[error("the health check could not be made{}: {said}", of_tries(*.tries))]
    NotAsked { tries: u32, said: String },
    #[error(
        "{package} {version} is not what its sources offer: {offered}; publish it in the suite that the host takes from"
    )]
    NotOffered { package: String, version: String, offered: String },
    #[error(
        "another roll or siskin agent works on it, for longer than {limit}: it holds the host's lock; look what is under way there, then try again"
    )]
    Locked { limit: Span },
    #[error("{what} took longer than {timeout}")]
    TimedOut { what: &'static str, timeout: Span },
    #[error("cancelled")]
    Cancelled,
    #[error("{}: {source}", .path.display())]
    Root { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Ssh(#[from] SshError),
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl HostError {
    /// The program's end, when one ran.
    pub fn finished(&self) -> Option<&Finished> {
        match self {
            HostError::Failed { finished, .. } | HostError::NotInstalled { finished, .. } => Some(finished),
            _ => None,
        }
    }
}

fn of_tries(tries: u32) -> String {
    if tries > 1 { format!(", {tries} tries") } else { String::new() }
}

/// What each script begins with. `ROOT` is the directory of a root, or empty.
pub(super) const PRELUDE: &str = r#"
export LC_ALL=C
store=$ROOT/var/lib/siskin/rolls
as_root() {
    if [ -n "$ROOT" ] || [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}
quiet() {
    as_root env LC_ALL=C DEBIAN_FRONTEND=noninteractive DEBIAN_PRIORITY=critical APT_LISTCHANGES_FRONTEND=none NEEDRESTART_MODE=a UCF_FORCE_CONFFOLD=1 "$@"
}
run_dpkg() {
    if [ -n "$ROOT" ]; then
        quiet dpkg --root="$ROOT" --log="$ROOT/var/log/dpkg.log" --force-script-chrootless --force-not-root --force-bad-path --force-confdef --force-confold "$@"
    else
        quiet dpkg --force-confdef --force-confold "$@"
    fi
}
run_apt() {
    quiet apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}
# status|version|the version that was configured last
query() {
    dpkg-query ${ROOT:+"--admindir=$ROOT/var/lib/dpkg"} -W -f '${db:Status-Abbrev}|${Version}|${Config-Version}\n' "$PACKAGE" 2>/dev/null | head -n 1
}
look() {
    line=$(query); status=${line%%|*}; line=${line#*|}; version=${line%%|*}; configured=${line#*|}
    case $status in
        ?[iWt]*) standing=$version ;;
        ?[UFH]*) standing=$configured ;;
        *) standing= ;;
    esac
}
only=
if [ -n "${SOURCE_LIST:-}" ]; then
    only="-o Dir::Etc::sourcelist=sources.list.d/$SOURCE_LIST -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0"
fi
# A dpkg that was killed is taken up where it was, once whoever works there now has ended.
mend() {
    if [ -z "$(run_dpkg --audit 2>/dev/null)" ] && ! ls "$ROOT/var/lib/dpkg/updates/"* >/dev/null 2>&1; then return; fi
    tries=0
    while [ $tries -lt 300 ]; do
        said=$(run_dpkg --configure -a 2>&1); code=$?
        [ -z "$said" ] || printf '%s\n' "$said"
        [ $code -ne 0 ] || return
        case $said in *"lock"*) tries=$((tries+1)); sleep 1 ;; *) return ;; esac
    done
}
"#;

/// Says which version stood before the roll named KEY, and remembers it on the host, where a second attempt finds it.
const BEGIN: &str = r#"
file=$store/$PACKAGE
if [ -f "$file" ] && [ "$(head -n 1 "$file")" = "$KEY" ]; then
    standing=$(tail -n +2 "$file")
else
    look
    as_root mkdir -p "$store" || exit 1
    printf '%s\n%s\n' "$KEY" "$standing" | as_root tee "$file.part" >/dev/null && as_root mv -f "$file.part" "$file" || exit 1
fi
printf 'previous %s\n' "$standing"
"#;

const INSTALL: &str = r#"
mend
look
case $status in
    ?i*) if [ "$version" = "$VERSION" ]; then echo "$PACKAGE $VERSION is installed already"; exit 0; fi ;;
esac
run_apt -o APT::Update::Error-Mode=any $only update || exit
# Killed in the middle of unpacking, it can only be unpacked again; apt by itself would try to configure it.
again=
case $status in ??R) again=--reinstall ;; esac
run_apt $DOWNGRADE $again install "$PACKAGE=$VERSION"
"#;

/// Lists the versions that could be installed, after a look at the sources; nothing is changed but what apt knows of them.
const OFFERED: &str = r#"
look
case $status in
    ?i*) if [ "$version" = "$VERSION" ]; then echo stands; exit 0; fi ;;
esac
run_apt -o APT::Update::Error-Mode=any $only update >/dev/null || exit
apt-cache $only madison "$PACKAGE" 2>/dev/null | while IFS='| ' read -r _ offered _; do printf 'offered %s\n' "$offered"; done
"#;

/// Holds the host's lock until it is ended, and says so.
const HOLD: &str = r#"
take_host_lock 0 2>/dev/null || { echo waiting; take_host_lock "$LIMIT_SECONDS" || exit; }
echo held
while :; do sleep 3600 9<&-; done
"#;

const REMOVE: &str = r#"
mend
look
if [ -z "$standing" ] && [ -z "${version:-}" ]; then echo "$PACKAGE is not installed"; exit 0; fi
case $status in
    ?[nc]*) echo "$PACKAGE is not installed"; exit 0 ;;
    # Killed in the middle of unpacking: dpkg knows its files only once it is whole.
    ??R) run_apt --reinstall install "$PACKAGE=$version" || { run_dpkg --force-remove-reinstreq --remove "$PACKAGE"; exit; } ;;
esac
run_apt remove "$PACKAGE"
"#;

const LOOK: &str = r#"
command -v dpkg-query >/dev/null || { echo "dpkg-query is not installed: this is no Debian host" >&2; exit 1; }
query || true
"#;

const FORGET: &str = r#"
[ ! -e "$store/$PACKAGE" ] || as_root rm -f "$store/$PACKAGE"
"#;

/// Where output goes.
pub type OnLine<'a> = &'a mut (dyn FnMut(Stream, &[u8]) + Send);

/// Makes a dpkg root in `directory`: a host on this machine, to which `source` is the only repository, as
/// `deb [signed-by=/path/keyring.gpg] file:/path/repository stable main`. A root that is there keeps its packages.
pub fn prepare_root(directory: &Path, source: &str) -> Result<(), HostError> {
    let at = |path: &Path| path.to_owned();
    std::fs::create_dir_all(directory).map_err(|source| HostError::Root { path: at(directory), source })?;
    let directory =
        directory.canonicalize().map_err(|source| HostError::Root { path: at(directory), source })?;
    let shown = directory.display().to_string();
    if shown.contains(['"', '\\', '\n', ';', ' ']) {
        let source = std::io::Error::other(
            "apt can't be given a directory with quotes, spaces, backslashes or semicolons",
        );
        return Err(HostError::Root { path: directory, source });
    }
    let folders = [
        "var/lib/dpkg/updates",
        "var/lib/dpkg/info",
        "var/lib/dpkg/triggers",
        "var/lib/apt/lists/partial",
        "var/cache/apt/archives/partial",
        "var/log/apt",
        "var/lib/siskin/rolls",
        "etc/apt/apt.conf.d",
        "etc/apt/preferences.d",
        "etc/apt/sources.list.d",
        "etc/apt/trusted.gpg.d",
        "tmp",
    ];
    for folder in folders {
        let path = directory.join(folder);
        std::fs::create_dir_all(&path).map_err(|source| HostError::Root { path, source })?;
    }
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|source| HostError::Root { path, source })
    };
    for name in ["var/lib/dpkg/status", "var/lib/dpkg/available"] {
        if !directory.join(name).exists() {
            write(name, "")?;
        }
    }
    let architecture = native_architecture();
    write(
        "etc/apt/siskin.conf",
        &format!(
            r#"Dir "{shown}";
Dir::State::status "{shown}/var/lib/dpkg/status";
Dir::Etc::Parts "{shown}/etc/apt/apt.conf.d";
Dir::Log "{shown}/var/log/apt";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "";
APT::Install-Recommends "false";
Acquire::Languages "none";
DPkg::Options {{ "--root={shown}"; "--log={shown}/var/log/dpkg.log"; "--force-script-chrootless"; "--force-not-root"; "--force-bad-path"; }};
DPkg::Path "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
"#
        ),
    )?;
    write("etc/apt/sources.list.d/siskin.list", &format!("{source}\n"))
}

/// The version that is installed and configured; none when the package is not there, or only half.
pub async fn installed_version(
    host: &Host,
    package: &str,
    cancel: &CancellationToken,
) -> Result<Option<String>, HostError> {
    check_package(package)?;
    let job = Job { what: "dpkg-query", script: LOOK, timeout: Span::minutes(1), locks: false };
    let finished = run(host, &job, &[("PACKAGE", package)], &mut |_, _| {}, cancel).await?;
    let text = finished.stdout.text();
    let mut fields = text.trim_end().split('|');
    let status = fields.next().unwrap_or_default();
    let stands = matches!(status.as_bytes().get(1), Some(b'i' | b'W' | b't'));
    Ok(fields.next().filter(|version| stands && !version.is_empty()).map(str::to_owned))
}

/// The version that stood before the roll called `key` touched this host: whoever asks again with the same key gets the same
/// answer, though the new version may be installed by now.
pub(super) async fn begin(
    host: &Host,
    package: &str,
    key: &str,
    cancel: &CancellationToken,
) -> Result<Option<String>, HostError> {
    check_package(package)?;
    let key: String = key.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let job =
        Job { what: "looking at what is installed", script: BEGIN, timeout: Span::minutes(5), locks: true };
    let finished =
        run(host, &job, &[("PACKAGE", package), ("KEY", key.trim())], &mut |_, _| {}, cancel).await?;
    let text = finished.stdout.text();
    let previous = text.lines().rev().find_map(|line| line.strip_prefix("previous ")).map(str::trim);
    match previous {
        Some(version) => Ok((!version.is_empty()).then(|| version.to_owned())),
        None => Err(failed("looking at what is installed", finished)),
    }
}

/// Forgets what [`begin`] remembers.
pub(super) async fn forget(host: &Host, package: &str, cancel: &CancellationToken) -> Result<(), HostError> {
    check_package(package)?;
    let job = Job { what: "forgetting a roll", script: FORGET, timeout: Span::minutes(1), locks: true };
    run(host, &job, &[("PACKAGE", package)], &mut |_, _| {}, cancel).await.map(drop)
}

/// Puts a package at exactly this version, which dpkg-query must confirm. Nothing is done when it is there.
pub async fn install(
    host: &Host,
    install: Install<'_>,
    on_line: OnLine<'_>,
    cancel: &CancellationToken,
) -> Result<Finished, HostError> {
    check_package(install.package)?;
    check_version(install.version)?;
    let job = Job { what: "apt-get install", script: INSTALL, timeout: install.timeout, locks: true };
    let env = [
        ("PACKAGE", install.package),
        ("VERSION", install.version),
        ("DOWNGRADE", if install.allow_downgrade { "--allow-downgrades" } else { "" }),
        ("SOURCE_LIST", source_list(host)),
    ];
    let finished = run(host, &job, &env, on_line, cancel).await?;
    let found = installed_version(host, install.package, cancel).await?;
    if found.as_deref() == Some(install.version) {
        return Ok(finished);
    }
    Err(HostError::NotInstalled {
        package: install.package.to_owned(),
        version: install.version.to_owned(),
        found: found.unwrap_or_else(|| "no version".to_owned()),
        finished: Box::new(finished),
    })
}

/// Removes a package; its configuration files stay. Nothing is done when it is not there.
pub async fn remove(
    host: &Host,
    package: &str,
    timeout: Span,
    on_line: OnLine<'_>,
    cancel: &CancellationToken,
) -> Result<Finished, HostError> {
    check_package(package)?;
    let job = Job { what: "apt-get remove", script: REMOVE, timeout, locks: true };
    run(host, &job, &[("PACKAGE", package)], on_line, cancel).await
}

/// Refuses when the sources of a host do not offer a version, which is not there yet either.
pub(super) async fn must_be_offered(
    host: &Host,
    package: &str,
    version: &str,
    cancel: &CancellationToken,
) -> Result<(), HostError> {
    check_package(package)?;
    check_version(version)?;
    let job = Job { what: "apt-get update", script: OFFERED, timeout: Span::minutes(5), locks: true };
    let env = [("PACKAGE", package), ("VERSION", version), ("SOURCE_LIST", source_list(host))];
    let finished = run(host, &job, &env, &mut |_, _| {}, cancel).await?;
    let text = finished.stdout.text();
    let mut offered: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("offered ")).collect();
    if offered.contains(&version) || text.trim() == "stands" {
        return Ok(());
    }
    offered.truncate(5);
    let offered = if offered.is_empty() { "no version of it".to_owned() } else { offered.join(", ") };
    let (package, version) = (package.to_owned(), version.to_owned());
    Err(HostError::NotOffered { package, version, offered })
}

fn source_list(host: &Host) -> &str {
    match (&host.source_list, &host.reach) {
        (Some(file), _) => file.as_str(),
        (None, Reach::Root(_) | Reach::SshRoot(..)) => "siskin.list",
        (None, Reach::Ssh(_)) => "",
    }
}

/// Runs the script of a health check, which must end with 0.
pub async fn run_check(
    host: &Host,
    script: &str,
    timeout: Span,
    on_line: OnLine<'_>,
    cancel: &CancellationToken,
) -> Result<Finished, HostError> {
    let finished = start(host, script, &[], timeout, None, on_line, cancel).await?;
    judge("the health check", timeout, finished)
}

/// The lock of a host ([`host_lock`]), held on the host itself by a program there, which ends with this value, with this process, or with the
/// connection.
pub struct Held {
    ends: CancellationToken,
    holder: BoxFuture<'static, Result<Finished, HostError>>,
}

/// Takes the lock of a host. When somebody else holds it, `on_wait` is told, and it is waited for as long as `limit` says.
pub async fn hold(
    host: &Host,
    limit: Span,
    on_wait: &mut (dyn FnMut() + Send),
    cancel: &CancellationToken,
) -> Result<Held, HostError> {
    let (tell, mut told) = watch::channel(Said::Nothing);
    let ends = cancel.child_token();
    let mut holder: BoxFuture<'static, _> = Box::pin({
        let (host, ends) = (host.clone(), ends.clone());
        async move {
            let script = format!("{PRELUDE}{}{HOLD}", host_lock::SHELL);
            let mut on_line = |_: Stream, line: &[u8]| match line {
                b"waiting" => drop(tell.send(Said::Waiting)),
                b"held" => drop(tell.send(Said::Held)),
                _ => (),
            };
            let seconds = limit.0.div_ceil(1000).to_string();
            let env = [("LIMIT_SECONDS", seconds.as_str()), ("PACKAGE", "")];
            start(&host, &script, &env, Span::hours(24), None, &mut on_line, &ends).await
        }
    });
    loop {
        tokio::select! {
            biased;
            Ok(()) = told.changed() => match *told.borrow_and_update() {
                Said::Held => return Ok(Held { ends, holder }),
                Said::Waiting => on_wait(),
                Said::Nothing => (),
            },
            ended = &mut holder => {
                let finished = ended?;
                return Err(match finished.ended {
                    // What `take_host_lock` ends with.
                    Ended::Code(75) => HostError::Locked { limit },
                    Ended::Cancelled => HostError::Cancelled,
                    _ => failed("taking the host's lock", finished),
                });
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Waiting,
    Held,
}

impl Held {
    /// Lets go of the lock; done once it is free.
    pub async fn release(self) {
        self.ends.cancel();
        // However it ended, nobody holds it any more.
        drop(self.holder.await);
    }
}

/// One of the scripts above.
struct Job {
    what: &'static str,
    script: &'static str,
    timeout: Span,
    /// It changes something, so it waits for whoever does too.
    locks: bool,
}

async fn run(
    host: &Host,
    job: &Job,
    env: &[(&str, &str)],
    on_line: OnLine<'_>,
    cancel: &CancellationToken,
) -> Result<Finished, HostError> {
    let script = format!("{PRELUDE}{}", job.script);
    let lock = host.lock.clone().filter(|_| job.locks);
    let finished = start(host, &script, env, job.timeout, lock, on_line, cancel).await?;
    judge(job.what, job.timeout, finished)
}

async fn start(
    host: &Host,
    script: &str,
    env: &[(&str, &str)],
    timeout: Span,
    lock: Option<PathBuf>,
    on_line: OnLine<'_>,
    cancel: &CancellationToken,
) -> Result<Finished, HostError> {
    let mut env: Vec<(String, String)> =
        env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let (target, cwd) = match &host.reach {
        Reach::Ssh(target) => {
            env.push(("ROOT".into(), String::new()));
            (target, None)
        }
        Reach::SshRoot(target, directory) => {
            env.extend(environment_of_root(directory));
            (target, Some(directory.to_string_lossy().into_owned()))
        }
        Reach::Root(directory) => {
            let directory = directory
                .canonicalize()
                .map_err(|source| HostError::Root { path: directory.clone(), source })?;
            // dpkg in the middle of a package is better left to come to its end.
            let grace = Span::seconds(30);
            let mut command = Command::new("/bin/sh").args(["-c", script]).envs(env).grace(grace);
            command = command.envs(environment_of_root(&directory)).cwd(directory);
            command.lock = lock;
            return Ok(process::run(command, on_line, cancel, Some(timeout)).await?);
        }
    };
    let work = ssh::Work::Script { text: script.to_owned(), args: Vec::new() };
    let request = ssh::Request { env, cwd, timeout: Some(timeout), lock, ..ssh::Request::new(work) };
    Ok(ssh::run(target, request, on_line, cancel).await?)
}

/// What makes apt and dpkg work on a root.
pub(super) fn environment_of_root(directory: &Path) -> [(String, String); 4] {
    let shown = directory.to_string_lossy().into_owned();
    [
        ("APT_CONFIG".into(), format!("{shown}/etc/apt/siskin.conf")),
        // dpkg reads a file of settings there.
        ("HOME".into(), shown.clone()),
        ("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
        ("ROOT".into(), shown),
    ]
}

fn judge(what: &'static str, timeout: Span, finished: Finished) -> Result<Finished, HostError> {
    match finished.ended {
        Ended::Code(0) => Ok(finished),
        Ended::TimedOut => Err(HostError::TimedOut { what, timeout }),
        Ended::Cancelled => Err(HostError::Cancelled),
        Ended::Code(_) | Ended::Signal(_) => Err(failed(what, finished)),
    }
}

fn failed(what: &'static str, finished: Finished) -> HostError {
    let (stdout, stderr) = (finished.stdout.text(), finished.stderr.text());
    // apt and dpkg mark what went wrong; the line after it is advice.
    let marked = |line: &&str| ["E: ", "dpkg: error", "sudo: "].iter().any(|mark| line.starts_with(mark));
    let said = stderr.lines().chain(stdout.lines()).find(marked).map(str::to_owned);
    HostError::Failed {
        what,
        said: said.unwrap_or_else(|| finished.last_words()),
        finished: Box::new(finished),
    }
}

fn check_package(package: &str) -> Result<(), HostError> {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+.-".contains(&byte);
    let begins =
        package.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    match begins && package.len() > 1 && package.bytes().all(fine) {
        true => Ok(()),
        false => Err(HostError::BadPackage(package.chars().flat_map(char::escape_debug).collect())),
    }
}

fn check_version(version: &str) -> Result<(), HostError> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b".+:~-".contains(&byte);
    match version.starts_with(|c: char| c.is_ascii_digit()) && version.bytes().all(fine) {
        true => Ok(()),
        false => Err(HostError::BadVersion(version.chars().flat_map(char::escape_debug).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_would_misread_is_refused() {
        assert!(check_package("lib-x1.0+2").is_ok());
        for package in ["", "a", "-y", "a b", "A", "a=1", "a/stable", "demo*", "a;id", "demo-\n"] {
            assert!(check_package(package).is_err(), "{package:?}");
        }
        assert!(check_version("1:1.0~beta-1421712345-3f1c").is_ok());
        for version in ["", "N/A", "1_2", "1 2", "-1", "1.0=x", "$(id)", "1\n"] {
            assert!(check_version(version).is_err(), "{version:?}");
        }
    }
}
