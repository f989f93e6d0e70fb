//! Waiting for what an earlier server left behind. All that a server starts holds one lock, shared ([`super::set_family`]); whoever
//! gets that lock for itself knows that nothing of it is alive. What is said to be lost after that is lost.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::shim;

/// Between two looks.
const POLL: Duration = Duration::from_millis(10);
/// How long a shim gets to see for itself that its server is gone, before those without one are looked for.
const ORPHANS_AFTER: Duration = Duration::from_millis(200);

/// Waits until nothing is alive that an earlier process of the family of `path` started, and ends what has no shim any more. Says who still
/// lives after `patience`, as `pid name`: processes of another user, or stuck in the kernel.
///
/// # Errors
/// The file can't be opened or locked.
pub async fn end(path: &Path, patience: Duration) -> std::io::Result<Vec<String>> {
    let mut file = std::fs::File::options().create(true).append(true).open(path)?;
    let path = path.canonicalize()?;
    let began = Instant::now();
    let mut living = Vec::new();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(_lock) => return Ok(Vec::new()),
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err((_, errno)) => return Err(errno.into()),
        }
        if began.elapsed() >= patience {
            return Ok(living);
        }
        if began.elapsed() >= ORPHANS_AFTER {
            living = shim::end_orphans_of_family(&path);
        }
        tokio::time::sleep(POLL).await;
    }
}
