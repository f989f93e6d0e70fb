//! Packages on the machine that this process is on, or in a dpkg root of it: what `siskin agent` does to its own host. Idempotent, as `hosts` is, and
//! with the same shell texts.
//!
//! Promises: only packages of signed repositories are installed, exactly the version that was asked for, and never one that somebody holds. Leaves the
//! host's lock (`host_lock`) to its caller, who has to hold it.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::hosts::{OnLine, PRELUDE, environment_of_root};
use crate::model::Span;
use crate::process::{self, Command, Ended, Finished, ProcessError};

/// A script that says whether the package is well here, by its exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub script: String,
    /// How often it is tried before it counts as ill.
    pub tries: u32,
    /// Between two tries.
    pub interval: Span,
    /// For each try.
    pub timeout: Span,
}

/// The machine itself (`/`), or a dpkg root.
#[derive(Clone, Debug)]
pub struct Here {
    root: PathBuf,
    /// The file in `sources.list.d` that names our repository; all are read when not said.
    source_list: Option<String>,
}

/// How a package stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The version that is installed and configured.
    pub installed: Option<String>,
    /// The same; of one whose installation was broken off, the version that was configured last.
    pub before: Option<String>,
    /// Somebody wants it to stay as it is (`apt-mark hold`).
    pub is_held: bool,
    /// An installation was broken off, of this package or another.
    pub is_broken: bool,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum HereError {
    #[error("{0} {1} is not in the repository")]
    NotThere(String, String),
    #[error(
        "{0} does not demand signatures (`trusted=yes`); name the repository's key there with `signed-by`"
    )]
    Unsigned(String),
    #[error("{what} failed ({ended}): {said}")]
    Failed { what: &'static str, ended: Ended, said: String },
    #[error("after the installation {package} is at {found}, not at {version}")]
    NotInstalled { package: String, version: String, found: String },
    #[error("{what} took longer than {timeout}")]
    TimedOut { what: &'static str, timeout: Span },
    #[error("cancelled")]
    Cancelled,
    #[error("{}: {source}", .path.display())]
    Root { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// Exit statuses of `INSTALL` that mean something else than that apt failed.
const NOT_THERE: i32 = 66;
const UNSIGNED: i32 = 67;

const LOOK: &str = r#"
command -v dpkg-query >/dev/null || { echo "dpkg-query is not installed: this is no Debian host" >&2; exit 1; }
look
held=no; case $status in h*) held=yes ;; esac
broken=no
if [ -n "$(run_dpkg --audit 2>/dev/null)" ] || ls "$ROOT/var/lib/dpkg/updates/"* >/dev/null 2>&1; then broken=yes; fi
before=$standing
case $status in ?[iWt]*) ;; *) standing= ;; esac
printf 'held %s\nbroken %s\ninstalled %s\nbefore %s\n' "$held" "$broken" "$standing" "$before"
"#;

const MEND: &str = r#"
mend
run_dpkg --audit
"#;

const INSTALL: &str = r#"
mend
look
only=
sources="$ROOT/etc/apt/sources.list $ROOT/etc/apt/sources.list.d/*"
if [ -n "$SOURCE_LIST" ]; then
    only="-o Dir::Etc::sourcelist=sources.list.d/$SOURCE_LIST -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0"
    sources="$ROOT/etc/apt/sources.list.d/$SOURCE_LIST"
fi
# Whatever apt takes for a yes: all but a no.
unsigned=$(grep -HiE '^[^#]*[[[:space:]](trusted|allow-insecure)=|^(trusted|allow-insecure):' $sources 2>/dev/null |
    grep -viE '(trusted|allow-insecure)(=|:[[:space:]]*)(no|false|0)([][:space:]]|$)' | head -n 1 | cut -d: -f1)
if [ -n "$unsigned" ]; then echo "$unsigned" >&2; exit 67; fi
run_apt -o APT::Update::Error-Mode=any -o Acquire::AllowInsecureRepositories=false $only update || exit
if ! apt-cache $only madison "$PACKAGE" | awk -F'|' -v wanted="$VERSION" '{gsub(/ /, "", $2); if ($2 == wanted) found = 1} END {exit !found}'; then
    exit 66
fi
# Killed in the middle of unpacking, it can only be unpacked again; apt by itself would try to configure it.
again=
case $status in ??R) again=--reinstall ;; esac
run_apt -o APT::Get::AllowUnauthenticated=false $DOWNGRADE $again install "$PACKAGE=$VERSION"
"#;

const REMOVE: &str = r#"
mend
look
case $status in
    ''|?[nc]*) echo "$PACKAGE is not installed"; exit 0 ;;
    # Killed in the middle of unpacking: dpkg knows its files only once it is whole.
    ??R) run_dpkg --force-remove-reinstreq --remove "$PACKAGE"; exit ;;
esac
run_apt remove "$PACKAGE"
"#;

impl Here {
    /// # Errors
    /// `Root`: there is no such directory.
    pub fn new(root: &Path, source_list: Option<&str>) -> Result<Here, HereError> {
        let at = |source| HereError::Root { path: root.to_owned(), source };
        Ok(Here { root: root.canonicalize().map_err(at)?, source_list: source_list.map(str::to_owned) })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn is_root(&self) -> bool {
        self.root != Path::new("/")
    }

    /// How a package stands.
    ///
    /// # Errors
    /// dpkg does not say.
    pub async fn look(&self, package: &str, cancel: &CancellationToken) -> Result<Standing, HereError> {
        let work = Work { what: "dpkg-query", script: LOOK, timeout: Span::minutes(1) };
        let finished = self.run(&work, &[("PACKAGE", package)], &mut |_, _| {}, cancel).await?;
        let text = finished.stdout.text();
        let said = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned)
        };
        Ok(Standing {
            installed: said("installed "),
            before: said("before "),
            is_held: said("held ").as_deref() == Some("yes"),
            is_broken: said("broken ").as_deref() == Some("yes"),
        })
    }

    /// Finishes what a killed dpkg left half done.
    ///
    /// # Errors
    /// dpkg can't.
    pub async fn mend(&self, on_line: OnLine<'_>, cancel: &CancellationToken) -> Result<(), HereError> {
        let work = Work { what: "dpkg --configure -a", script: MEND, timeout: Span::minutes(15) };
        self.run(&work, &[], on_line, cancel).await.map(drop)
    }

    /// Installs exactly this version.
    ///
    /// # Errors
    /// `NotThere` and `Unsigned` before anything was changed; `Failed`, `NotInstalled`, `TimedOut`, `Cancelled`.
    pub async fn install(
        &self,
        package: &str,
        version: &str,
        may_go_back: bool,
        timeout: Span,
        on_line: OnLine<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), HereError> {
        let work = Work { what: "apt-get install", script: INSTALL, timeout };
        let source_list = match &self.source_list {
            Some(file) => file.as_str(),
            None if self.is_root() => "siskin.list",
            None => "",
        };
        let env = [
            ("PACKAGE", package),
            ("VERSION", version),
            ("SOURCE_LIST", source_list),
            ("DOWNGRADE", if may_go_back { "--allow-downgrades" } else { "" }),
        ];
        let finished = self.start(&work, &env, on_line, cancel).await?;
        match finished.ended {
            Ended::Code(NOT_THERE) => {
                return Err(HereError::NotThere(package.to_owned(), version.to_owned()));
            }
            Ended::Code(UNSIGNED) => return Err(HereError::Unsigned(finished.last_words())),
            _ => judge(&work, finished)?,
        };
        let found = self.look(package, cancel).await?.installed;
        if found.as_deref() == Some(version) {
            return Ok(());
        }
        let found = found.unwrap_or_else(|| "no version".to_owned());
        Err(HereError::NotInstalled { package: package.to_owned(), version: version.to_owned(), found })
    }

    /// Removes a package; its configuration files stay.
    ///
    /// # Errors
    /// apt can't.
    pub async fn remove(
        &self,
        package: &str,
        on_line: OnLine<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), HereError> {
        let work = Work { what: "apt-get remove", script: REMOVE, timeout: Span::minutes(15) };
        self.run(&work, &[("PACKAGE", package)], on_line, cancel).await.map(drop)
    }

    /// Tries a check until it succeeds, at most as often as it says.
    ///
    /// # Errors
    /// It never did.
    pub async fn health(
        &self,
        check: &Check,
        on_line: OnLine<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), HereError> {
        let mut last = HereError::Cancelled;
        for number in 0..check.tries.max(1) {
            if number > 0 {
                tokio::select! {
                    () = tokio::time::sleep(check.interval.duration()) => {}
                    () = cancel.cancelled() => return Err(HereError::Cancelled),
                }
            }
            match self.try_health(check, on_line, cancel).await {
                Err(HereError::Cancelled) => return Err(HereError::Cancelled),
                Err(error) => last = error,
                Ok(()) => return Ok(()),
            }
        }
        Err(last)
    }

    async fn try_health(
        &self,
        check: &Check,
        on_line: OnLine<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), HereError> {
        let work = Work { what: "the health check", script: "", timeout: check.timeout };
        let command = self.command(check.script.clone(), &[]);
        let finished = process::run(command, on_line, cancel, Some(check.timeout)).await?;
        judge(&work, finished).map(drop)
    }

    async fn run(
        &self,
        work: &Work,
        env: &[(&str, &str)],
        on_line: OnLine<'_>,
        cancel: &CancellationToken,
    ) -> Result<Finished, HereError> {
        judge(work, self.start(work, env, on_line, cancel).await?)
    }

    async fn start(
        &self,
        work: &Work,
        env: &[(&str, &str)],
        on_line: OnLine<'_>,
        cancel: &CancellationToken,
    ) -> Result<Finished, HereError> {
        let command = self.command(format!("{PRELUDE}{}", work.script), env);
        Ok(process::run(command, on_line, cancel, Some(work.timeout)).await?)
    }

    fn command(&self, script: String, env: &[(&str, &str)]) -> Command {
        // dpkg in the middle of a package is better left to come to its end.
        let command = Command::new("/bin/sh").args(["-c".to_owned(), script]).grace(Span::seconds(30));
        let command = command.envs(env.iter().copied()).cwd(self.root.clone());
        match self.is_root() {
            true => command.envs(environment_of_root(&self.root)),
            false => command.env("ROOT", ""),
        }
    }
}

/// One of the scripts above.
struct Work {
    what: &'static str,
    script: &'static str,
    timeout: Span,
}

fn judge(work: &Work, finished: Finished) -> Result<Finished, HereError> {
    match finished.ended {
        Ended::Code(0) => Ok(finished),
        Ended::TimedOut => Err(HereError::TimedOut { what: work.what, timeout: work.timeout }),
        Ended::Cancelled => Err(HereError::Cancelled),
        ended => Err(HereError::Failed { what: work.what, ended, said: said(&finished) }),
    }
}

/// apt and dpkg mark what went wrong; the line after it is advice.
fn said(finished: &Finished) -> String {
    let (stdout, stderr) = (finished.stdout.text(), finished.stderr.text());
    let marked = |line: &&str| ["E: ", "dpkg: error", "sudo: "].iter().any(|mark| line.starts_with(mark));
    let found = stderr.lines().chain(stdout.lines()).find(marked).map(str::to_owned);
    found.unwrap_or_else(|| finished.last_words())
}
