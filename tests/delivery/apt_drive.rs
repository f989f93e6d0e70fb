//! `apt.drive` on the tools that others keep their repositories with: reprepro and aptly are real; Freight, which Debian does not have, is a stand-in that does what
//! its users report.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Host, file, output, package, scratch, text};
use crate::support::server::Server;

/// A keyring of gpg with one key without a passphrase.
struct Gpg {
    home: PathBuf,
}

impl Gpg {
    fn new(folder: &Path) -> Gpg {
        use std::os::unix::fs::PermissionsExt;
        let home = folder.join("gnupg");
        fs::create_dir(&home).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
        let gpg = Gpg { home };
        gpg.run(&["--quick-generate-key", "Ada <ada@example.com>", "rsa2048", "sign", "1d"]);
        gpg
    }
    fn run(&self, arguments: &[&str]) -> String {
        let fixed = [
            "--homedir",
            text(&self.home),
            "--batch",
            "--quiet",
            "--passphrase",
            "",
            "--pinentry-mode",
            "loopback",
        ];
        output("gpg", &[&fixed[..], arguments].concat())
    }
    fn public(&self, folder: &Path) -> PathBuf {
        let path = folder.join("public.asc");
        fs::write(&path, self.run(&["--armor", "--export"])).unwrap();
        path
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        super::run("gpgconf", &["--homedir", text(&self.home), "--kill", "all"]);
    }
}

fn is_installed(program: &str) -> bool {
    let is_here = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .any(|folder| folder.join(program).is_file());
    if !is_here {
        println!("{program} is not installed: not tried");
    }
    is_here
}

/// What each tool must do when it is driven: `with` has all but packages and suites.
fn drives(server: &Server, folder: &Path, with: &Value, installs: impl Fn(&str, &str)) {
    let deb = |version: &str, word: &str| package(folder, "greeter", version, word).path;
    let drive = |suites: &[&str], debs: &[PathBuf]| {
        let mut with = with.clone();
        with["suites"] = json!(suites);
        with["packages"] = json!(debs);
        server.run_to_end("apt.drive", with)
    };
    let refused = |run: Value, why: &str| {
        assert_eq!(run["status"], "failed", "{run}");
        assert!(run["error"].to_string().contains(why), "{run}");
    };
    let good = deb("1.0", "word");
    // B16: an unknown suite stops all, and a list is not one name.
    refused(drive(&["stable", "nowhere"], std::slice::from_ref(&good)), "`nowhere` is no suite");
    let mut with_blank = with.clone();
    with_blank["suites"] = json!(["stable testing"]);
    with_blank["packages"] = json!([good]);
    assert_eq!(server.ask("POST", "/runs", Some(&json!({"run": "apt.drive", "with": with_blank}))).0, 422);
    let done = drive(&["stable", "testing"], std::slice::from_ref(&good));
    assert_eq!(done["status"], "succeeded", "{done}\n{}", server.log());
    assert_eq!(done["output"]["added"].as_array().unwrap().len(), 2);
    installs("stable", "1.0");
    installs("testing", "1.0");
    // The same again changes nothing; B17: the same version with other bytes is refused.
    assert_eq!(drive(&["stable"], &[good])["status"], "succeeded");
    refused(drive(&["stable"], &[deb("1.0", "other")]), "with other bytes");
    installs("stable", "1.0");
    assert_eq!(drive(&["stable"], &[deb("1.1", "word")])["status"], "succeeded");
    installs("stable", "1.1");
    let broken = folder.join("broken.deb");
    fs::write(&broken, "no package").unwrap();
    refused(drive(&["stable"], &[broken]), "dpkg-deb");
}

#[test]
fn reprepro_is_driven() {
    if !is_installed("reprepro") {
        return;
    }
    let scratch = scratch();
    let gpg = Gpg::new(scratch.path());
    let base = scratch.path().join("reprepro");
    let distribution =
        |name: &str| format!("Codename: {name}\nComponents: main\nArchitectures: amd64\nSignWith: yes\n");
    file(
        &base.join("conf/distributions"),
        &format!("{}\n{}", distribution("stable"), distribution("testing")),
        0o644,
    );
    let server = Server::start(&[]);
    let key = gpg.public(scratch.path());
    let with = json!({"tool": "reprepro", "directory": base, "gnupg_home": gpg.home});
    drives(&server, scratch.path(), &with, |suite, version| {
        installs(scratch.path(), &base, suite, &key, version)
    });
    // It keeps the highest version only, and passes over an older one without a word: that is no success.
    let mut old = with.clone();
    old["suites"] = json!(["stable"]);
    old["packages"] = json!([package(scratch.path(), "greeter", "0.9", "word").path]);
    let run = server.run_to_end("apt.drive", old);
    assert!(
        run["error"].to_string().contains("did not take greeter 0.9 into stable, which has 1.1"),
        "{run}"
    );
}

#[test]
fn aptly_is_driven() {
    if !is_installed("aptly") {
        return;
    }
    let scratch = scratch();
    let gpg = Gpg::new(scratch.path());
    let root = scratch.path().join("aptly");
    let configuration = scratch.path().join("aptly.conf");
    fs::write(
        &configuration,
        json!({"rootDir": root, "gpgProvider": "gpg", "architectures": ["amd64"]}).to_string(),
    )
    .unwrap();
    let aptly = |arguments: &[&str]| {
        let done = std::process::Command::new("aptly")
            .arg(format!("-config={}", configuration.display()))
            .args(arguments)
            .env("GNUPGHOME", &gpg.home)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{arguments:?}: {}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    };
    for suite in ["stable", "testing"] {
        aptly(&["repo", "create", &format!("{suite}-main")]);
        aptly(&[
            "publish",
            "repo",
            "-batch",
            "-architectures=amd64",
            &format!("-distribution={suite}"),
            &format!("{suite}-main"),
        ]);
    }
    let server = Server::start(&[]);
    let key = gpg.public(scratch.path());
    let with = json!({
        "tool": "aptly", "configuration": configuration, "gnupg_home": gpg.home,
        "repositories": {"stable": "stable-main", "testing": "testing-main"},
    });
    let public = root.join("public");
    drives(&server, scratch.path(), &with, |suite, version| {
        installs(scratch.path(), &public, suite, &key, version)
    });
}

fn installs(folder: &Path, repository: &Path, suite: &str, key: &Path, version: &str) {
    let root = tempfile::tempdir_in(folder).unwrap();
    let host = Host::new(root.path().to_owned()).with_source(repository, suite, key);
    host.must_apt_get(&["update"]);
    host.must_apt_get(&["install", "-y", "greeter"]);
    assert_eq!(host.version_of("greeter"), version);
}

/// Keeps what it has under a name, and says that all is well (B17); makes any folder that it is told to (B16).
const FREIGHT_ADD: &str = r#"#!/bin/sh
set -eu
. "$2"
mkdir -p "$VARLIB/$4"
[ -e "$VARLIB/$4/$(basename "$3")" ] || cp "$3" "$VARLIB/$4/"
"#;

#[test]
fn freight_is_driven() {
    let scratch = scratch();
    let library = scratch.path().join("freight");
    for suite in ["stable", "testing"] {
        fs::create_dir_all(library.join("apt").join(suite)).unwrap();
    }
    let programs = scratch.path().join("bin");
    file(&programs.join("freight-add"), FREIGHT_ADD, 0o755);
    file(&programs.join("freight-cache"), "#!/bin/sh\n. \"$2\"; echo \"$3\" >>\"$VARLIB/cached\"\n", 0o755);
    let configuration = scratch.path().join("freight.conf");
    fs::write(&configuration, format!("VARLIB=\"{}\"\n", library.display())).unwrap();
    // The script itself, since a server finds programs by the PATH that it was started with.
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let script = crate::support::server::repository("packs/apt/scripts/drive.py");
    let drive = |suites: &[&str], deb: &Path| {
        let input = json!({
            "tool": "freight", "packages": [deb], "suites": suites, "component": "", "directory": "", "configuration": configuration, "prefix": "",
            "repositories": {}, "key": "", "gnupg_home": "",
        });
        let mut child = std::process::Command::new("sh")
            .args(["-c", "exec python3 \"$0\" 3>\"$1\"", text(&script), text(&scratch.path().join("result"))])
            .env("PATH", &path)
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.to_string().as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let deb = package(scratch.path(), "greeter", "1.0", "word").path;
    let (good, said) = drive(&["stable", "testing"], &deb);
    assert!(good, "{said}");
    for suite in ["stable", "testing"] {
        assert!(library.join("apt").join(suite).join(deb.file_name().unwrap()).is_file());
    }
    assert_eq!(fs::read_to_string(library.join("cached")).unwrap(), "apt/stable\napt/testing\n");
    let (good, said) = drive(&["stable"], &package(scratch.path(), "greeter", "1.0", "other").path);
    assert!(!good && said.contains("with other bytes"), "{said}");
    let (good, said) = drive(&["nowhere"], &deb);
    assert!(!good && said.contains("`nowhere` is no suite"), "{said}");
    assert_eq!(fs::read_dir(library.join("apt")).unwrap().count(), 2, "no folder that nobody asked for");
}
