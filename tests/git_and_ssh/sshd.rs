//! A sshd on 127.0.0.1 for one test, with keys of its own.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use siskin::ssh::{HostKeys, Target};

pub(crate) struct Sshd {
    child: Child,
    pub(crate) port: u16,
    pub(crate) folder: tempfile::TempDir,
}

/// None where no sshd is installed.
pub(crate) fn start() -> Option<Sshd> {
    let program = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())?;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for key in ["host", "id", "other"] {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)])
            .status()
            .unwrap();
        assert!(made.success());
    }
    std::fs::copy(path("id.pub"), path("authorized_keys")).unwrap();
    std::fs::set_permissions(path("authorized_keys"), std::fs::Permissions::from_mode(0o600)).unwrap();
    // Privilege separation wants it; only root can make it, and only root needs it.
    drop(std::fs::create_dir_all("/run/sshd"));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {}\nPidFile {}\nAuthorizedKeysFile {}\nPasswordAuthentication no\n\
         KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\nMaxStartups 100\n",
        path("host"),
        path("pid"),
        path("authorized_keys"),
    );
    std::fs::write(path("config"), config).unwrap();
    let log = std::fs::File::create(path("log")).unwrap();
    let child = Command::new(program)
        .args(["-D", "-e", "-f", &path("config")])
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "sshd: {}",
            std::fs::read_to_string(path("log")).unwrap()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    Some(Sshd { child, port, folder })
}

impl Sshd {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn target(&self) -> Target {
        Target {
            port: Some(self.port),
            user: Some(nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name),
            key: Some(self.path("id")),
            host_keys: HostKeys::AcceptNew,
            known_hosts: Some(self.path("known hosts")),
            ..Target::new("127.0.0.1")
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
