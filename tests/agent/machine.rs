//! The agent on a whole Debian: the machine itself is `/` of a root made by debootstrap, which it is put into by chroot.
//!
//! The root is made once and kept below `target/`. Where debootstrap or its mirror are not to be had, or this is not root, the test says so and passes.
#![expect(clippy::print_stderr, reason = "says why it is skipped")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::fcntl::{Flock, FlockArg};

use crate::support::etcd::Etcd;
use crate::support::packages;
use crate::support::server::repository;

/// A Debian that goes with the test.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Option<Machine> {
        let whole = whole_debian()?;
        let folder = tempfile::tempdir_in(repository("target")).unwrap();
        let machine = Machine { folder };
        let copied = Command::new("cp").arg("-a").arg(&whole).arg(machine.path("")).output().unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let program = machine.path("usr/bin/siskin");
        let built = env!("CARGO_BIN_EXE_siskin");
        fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop)).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "proc", "proc"]).arg(machine.path("proc")).output().unwrap();
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        Some(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("root").join(name)
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new("chroot");
        command.arg(self.path("")).args(words).env_clear().env("NO_COLOR", "1");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DEBIAN_FRONTEND", "noninteractive");
        command.output().unwrap()
    }

    fn must(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What the agent says of its only app, after a look.
    fn look(&self) -> String {
        let output = self.run(&["siskin", "agent", "--once"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.path("proc")).output().ok();
    }
}

fn whole_debian() -> Option<PathBuf> {
    let skipped = |why: &str| {
        eprintln!("skipped: no whole Debian to try the agent on: {why}");
        None
    };
    if !nix::unistd::geteuid().is_root() {
        return skipped("this is not root");
    }
    let folder = repository("target/debian");
    fs::create_dir_all(&folder).unwrap();
    let lock = Flock::lock(File::create(folder.join("lock")).unwrap(), FlockArg::LockExclusive);
    let _lock = lock.map_err(|(_, error)| error).unwrap();
    let root = folder.join("root");
    if root.join("usr/bin/apt-get").exists() {
        return Some(root);
    }
    if !Path::new("/usr/sbin/debootstrap").exists() {
        return skipped("debootstrap is not installed");
    }
    let script = r#"set -e
        uri=$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null | awk '/^URIs:/ {print $2; exit} /^deb / {for (i = 2; i <= NF; i++) if ($i ~ /^[a-z]+:/) {print $i; exit}}')
        rm -rf new root
        debootstrap --variant=minbase "$(. /etc/os-release; echo "$VERSION_CODENAME")" new "$uri"
        rm -f new/var/cache/apt/archives/*.deb new/etc/apt/sources.list
        mv new root"#;
    let made = Command::new("sh").args(["-c", script]).current_dir(&folder).output().unwrap();
    match made.status.success() {
        true => Some(root),
        false => skipped(&format!("debootstrap failed: {}", String::from_utf8_lossy(&made.stdout))),
    }
}

#[test]
fn on_a_whole_debian_the_agent_keeps_the_machine_itself() {
    let Some(machine) = Machine::new() else { return };
    let etcd = Etcd::start();
    packages::publish(&machine.path("srv"), "shop", &["1.0", "2.0"]);
    let source = "deb [signed-by=/srv/apt/key.gpg] file:/srv/apt stable main\n";
    fs::write(machine.path("etc/apt/sources.list.d/siskin.list"), source).unwrap();
    machine.must(&["apt-get", "-q", "update"]);
    machine.must(&["apt-get", "-qy", "install", "shop=1.0"]);
    let config = format!(
        "etcd: {{address: '{}'}}\napps:\n  shop:\n    environment: production\n    advertise: {{etcd: /shop}}\n    source_list: siskin.list\n    settle: 0s\n    check: 'grep -qx 2.0 /opt/shop/version'\n",
        etcd.url()
    );
    fs::create_dir_all(machine.path("etc/siskin")).unwrap();
    fs::write(machine.path("etc/siskin/agent.yaml"), config).unwrap();
    let version = || machine.must(&["dpkg-query", "-W", "-f", "${Version}", "shop"]);

    etcd.put("/shop", "2.0");
    machine.must(&["apt-mark", "hold", "shop"]);
    let held = machine.look();
    assert!(held.contains("refused") && held.contains("held at 1.0"), "{held}");
    machine.must(&["apt-mark", "unhold", "shop"]);
    let done = machine.look();
    assert!(done.contains("shop: converged at 2.0"), "{done}");
    assert_eq!(version(), "2.0");
    etcd.put("/shop", "1.0");
    assert!(machine.look().contains("lower than 2.0"));
    // A way back, to a version that is ill: what was there is there again.
    etcd.put("/shop.rollback", "1.0");
    let ill = machine.look();
    assert!(ill.contains("failed") && ill.contains("2.0 is there again"), "{ill}");
    assert_eq!(version(), "2.0");
    assert!(machine.path("var/lib/siskin/deploy.lock").exists());
}
