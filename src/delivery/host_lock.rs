//! The lock of a host: who changes packages on it holds it, so that a roll from a server and `siskin agent` on the host never do so at once.
//!
//! It is a file that is locked (`flock`) around an installation with its health check and its way back: [`FILE`] below the host's root. It goes with its
//! holder, whatever ends that one. A script takes it by [`SHELL`], this process by [`take`].

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::time::Instant;

/// The file, below the root of the host.
pub const FILE: &str = "var/lib/siskin/deploy.lock";

/// For scripts: `take_host_lock SECONDS` takes the lock of the host whose root is `$ROOT`, or fails when it is held for longer. It is held by
/// descriptor 9 of the shell; what the shell starts is started with `9<&-`, or a daemon that outlives the script would keep the lock. Reading is
/// enough to lock, so that also a user who is not root can hold it.
pub const SHELL: &str = r#"
take_host_lock() {
    host_lock=$ROOT/var/lib/siskin/deploy.lock
    if [ ! -e "$host_lock" ]; then
        as_root mkdir -p "${host_lock%/*}" && as_root touch "$host_lock" && as_root chmod 644 "$host_lock" || return
    fi
    exec 9<"$host_lock" || return
    flock -w "$1" 9 && return
    echo "another roll or siskin agent works on this host (it holds $host_lock)" >&2
    return 75
}
"#;

/// Between two looks at a lock that somebody else holds.
const POLL: Duration = Duration::from_millis(100);

/// Where it is, of the host with this root; `/` for the machine itself.
pub fn path(root: &Path) -> PathBuf {
    root.join(FILE)
}

/// Takes the lock, or gives none when somebody else holds it for longer than `patience`.
///
/// # Errors
/// The file can't be made or opened.
pub async fn take(root: &Path, patience: Duration) -> std::io::Result<Option<Flock<File>>> {
    let path = path(root);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().create(true).append(true).mode(0o644).open(&path)?;
    let end = Instant::now() + patience;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err((_, errno)) => return Err(errno.into()),
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_script_and_this_process_never_hold_it_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("as_root() {{ \"$@\"; }}\n{SHELL}\ntake_host_lock 0");
        let run = || {
            let mut shell = std::process::Command::new("/bin/sh");
            shell.args(["-c", &script]).env("ROOT", folder.path()).output().unwrap()
        };
        assert!(run().status.success());
        let lock = take(folder.path(), Duration::ZERO).await.unwrap().unwrap();
        let refused = run();
        assert_eq!(refused.status.code(), Some(75));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("deploy.lock"));
        assert!(take(folder.path(), Duration::ZERO).await.unwrap().is_none());
        drop(lock);
        assert!(take(folder.path(), Duration::ZERO).await.unwrap().is_some());
    }
}
