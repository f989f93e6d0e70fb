//! What both kinds of packages share: inputs that are tar files or commits, services, metadata, and what stands beside a package.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use siskin::delivery::deb::{self, FileKind, inspect};
use siskin::delivery::package::attest::{self, Origin, Signer};
use siskin::delivery::package::{Build, Compression, Error, InputType, Services};
use siskin::model::Timestamp;

use super::{Host, application, file, order, output, run, scratch, text};

fn tar_order(folder: &Path, inputs: &[&str]) -> Build {
    Build {
        input_type: InputType::Tar,
        inputs: inputs.iter().map(|input| (*input).to_owned()).collect(),
        overwrite: true,
        ..order("app", "1.0", folder)
    }
}

/// The paths of a package but for what every one has.
fn own_paths(path: &Path) -> Vec<String> {
    let files = inspect(path).unwrap().files.into_iter().filter(|entry| entry.kind != FileKind::Directory);
    files
        .map(|entry| entry.path)
        .filter(|path| !path.contains("/doc/") && !path.contains("lintian"))
        .collect()
}

#[test]
fn the_contents_of_tar_files_go_in_as_they_are() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    symlink("greet", input.join("bin/other")).unwrap();
    fs::hard_link(input.join("share/words"), input.join("share/again")).unwrap();
    file(&input.join("x.tmp"), "x", 0o644);
    file(&input.join("cache/deep/y"), "x", 0o644);
    let direct = Build { excludes: vec!["*.tmp".into(), "cache".into()], ..order("app", "1.0", &input) };
    let expected = own_paths(&direct.write_to(&scratch.path().join("direct.deb")).unwrap().path);
    for (ending, flag) in [("tar", "-c"), ("tar.gz", "-cz"), ("tar.xz", "-cJ")] {
        let archive = format!("app.{ending}");
        output("tar", &["-C", text(&input), flag, "-f", text(&scratch.path().join(&archive)), "."]);
        let build = Build {
            excludes: vec!["*.tmp".into(), "cache".into()],
            ..tar_order(scratch.path(), &[archive.as_str()])
        };
        let built = build.write_to(scratch.path()).unwrap();
        assert_eq!(own_paths(&built.path), expected, "{ending}");
        let out = scratch.path().join(format!("out-{ending}"));
        output("dpkg-deb", &["-x", text(&built.path), text(&out)]);
        assert_eq!(fs::read_to_string(out.join("opt/app/share/again")).unwrap(), "hello\n");
        assert_eq!(output("sh", &[text(&out.join("opt/app/bin/other"))]), "hello\n");
        // The same bytes again, since times are those of the archive.
        assert_eq!(build.write_to(scratch.path()).unwrap().sha256, built.sha256);
    }
    let mapped = tar_order(scratch.path(), &["app.tar=/srv/place"]).write_to(scratch.path()).unwrap();
    assert!(own_paths(&mapped.path).contains(&"./opt/app/srv/place/bin/greet".to_owned()));
}

/// A tar file with one entry as only an enemy writes it.
fn hostile(path: &Path, name: &[u8], kind: tar::EntryType, link: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    builder.append(&header, std::io::empty()).unwrap();
    builder.finish().unwrap();
}

#[test]
fn no_name_in_a_tar_file_leads_anywhere() {
    use tar::EntryType;
    let scratch = scratch();
    let archive = scratch.path().join("evil.tar");
    let build = tar_order(scratch.path(), &["evil.tar"]);
    for (name, kind, link, words) in [
        (&b"../../etc/passwd"[..], EntryType::Regular, &b""[..], "`..`"),
        (b"a\nb", EntryType::Regular, b"", "control character"),
        (b"dev", EntryType::Block, b"", "device"),
        (b"pipe", EntryType::Fifo, b"", "pipe"),
        (b"link", EntryType::Link, b"../../etc/shadow", "hard link out"),
        (b"link", EntryType::Link, b"/etc/shadow", "not before it"),
    ] {
        hostile(&archive, name, kind, link);
        let error = build.write_to(scratch.path()).unwrap_err().to_string();
        assert!(error.contains(words), "{words} in {error}");
    }
    // An absolute name stays below the prefix, and a link out of the package is only a link.
    hostile(&archive, b"/etc/cron.d/x", EntryType::Regular, b"");
    assert_eq!(own_paths(&build.write_to(scratch.path()).unwrap().path), ["./opt/app/etc/cron.d/x"]);
    hostile(&archive, b"x", EntryType::Symlink, b"/etc/shadow");
    assert_eq!(own_paths(&build.write_to(scratch.path()).unwrap().path), ["./opt/app/x"]);
    // What would be written through a link is no folder there.
    let both = scratch.path().join("both");
    fs::create_dir(&both).unwrap();
    symlink("/etc", both.join("d")).unwrap();
    output("tar", &["-C", text(&both), "-cf", text(&archive), "d"]);
    fs::remove_file(both.join("d")).unwrap();
    file(&both.join("d/passwd"), "x", 0o644);
    output("tar", &["-C", text(&both), "-rf", text(&archive), "d/passwd"]);
    assert!(build.write_to(scratch.path()).unwrap_err().to_string().contains("no folder"));
    for content in
        [&b"no tar file at all, but long enough to be looked at as one"[..], b"\x1f\x8bbroken", b"BZh9"]
    {
        fs::write(&archive, content).unwrap();
        assert!(matches!(build.write_to(scratch.path()), Err(Error::Input { .. })));
    }
}

#[test]
fn a_service_is_installed_enabled_and_goes_with_its_package() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    file(
        &scratch.path().join("appd"),
        "[Service]\nExecStart=/opt/app/bin/greet\n[Install]\nWantedBy=multi-user.target\n",
        0o644,
    );
    let services = Services {
        systemd: vec![scratch.path().join("appd")],
        auto_start: true,
        default: vec![scratch.path().join("appd")],
        ..Services::default()
    };
    let build = Build { services, ..order("app", "1.0", &input) };
    let built = build.write_to(scratch.path()).unwrap();
    let inspected = inspect(&built.path).unwrap();
    assert_eq!(inspected.conffiles, ["/etc/default/appd"]);
    assert!(inspected.scripts["postinst"].contains("systemctl start appd.service"));
    let said = run("lintian", &["--allow-root", "--fail-on", "error", text(&built.path)]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
    let host = Host::new(scratch.path().join("host"));
    for verb in [&["-i", text(&built.path)][..], &["-i", text(&built.path)], &["--purge", "app"]] {
        let done = host.dpkg(verb);
        assert!(done.status.success(), "{verb:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    let wrong = Services { systemd: vec![scratch.path().join("a b;reboot.service")], ..Services::default() };
    let error = Build { services: wrong, ..order("app", "1.0", &input) }.check().unwrap_err().to_string();
    assert!(error.contains("letters, digits"), "{error}");
}

#[test]
fn what_else_a_deb_can_say_dpkg_understands() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    let place = |name: &str, content: &str| {
        file(&scratch.path().join(name), content, 0o644);
        scratch.path().join(name)
    };
    let options = deb::Options {
        templates: Some(place("templates", "Template: app/q\nType: string\nDescription: q\n")),
        config: Some(place("config", "#!/bin/sh\nexit 0\n")),
        meta_files: vec![place("isinstallable", "#!/bin/sh\nexit 0\n")],
        shlibs: Some("libapp 1 app (>= 1)".to_owned()),
        interest: vec!["/usr/share/app".to_owned()],
        activate_noawait: vec!["ldconfig".to_owned()],
        installed_size: Some(4711),
        dist: Some("bookworm".to_owned()),
        custom_control: Some(place(
            "control",
            "Package: not-this\nMaintainer: Bob <b@example.com>\nX-Team: shop\nSection: net\n",
        )),
        upstream_changelog: Some(place("upstream", "all that happened\n")),
        ignore_iteration_in_dependencies: true,
        ..deb::Options::default()
    };
    let build = Build {
        deb: options,
        maintainer: None,
        compression: Compression::Zst,
        depends: vec!["lib-a = 1.2-3".to_owned()],
        ..order("app", "1.0", &input)
    };
    let built = build.write_to(scratch.path()).unwrap();
    let field = |name: &str| output("dpkg-deb", &["-f", text(&built.path), name]).trim_end().to_owned();
    assert_eq!(
        (field("Package"), field("X-Team"), field("Section")),
        ("app".into(), "shop".into(), "net".into())
    );
    assert_eq!((field("Maintainer"), field("Installed-Size")), ("Bob <b@example.com>".into(), "4711".into()));
    assert_eq!(field("Depends"), "lib-a (>= 1.2), lib-a (<< 1.2.0~)");
    let control = scratch.path().join("extracted");
    output("dpkg-deb", &["-e", text(&built.path), text(&control)]);
    assert_eq!(
        fs::read_to_string(control.join("triggers")).unwrap(),
        "interest /usr/share/app\nactivate-noawait ldconfig\n"
    );
    for member in ["templates", "config", "isinstallable", "shlibs"] {
        assert!(control.join(member).exists(), "{member}");
    }
    let out = scratch.path().join("files");
    output("dpkg-deb", &["-x", text(&built.path), text(&out)]);
    let changelog = |name: &str| output("gzip", &["-dc", text(&out.join("usr/share/doc/app").join(name))]);
    assert_eq!(changelog("changelog.gz"), "all that happened\n");
    assert!(changelog("changelog.Debian.gz").contains("app (1.0) bookworm"));
    for version in ["1.2-1", "1.2", "1.2-99"] {
        assert!(run("dpkg", &["--compare-versions", version, "lt", "1.2.0~"]).status.success(), "{version}");
    }
}

/// `siskin` in `folder`, which must succeed; the last line that it printed.
fn siskin(folder: &Path, arguments: &[&str]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_siskin"))
        .args(arguments)
        .current_dir(folder)
        .env("HOME", folder)
        .env_remove("SOURCE_DATE_EPOCH")
        .env_remove("SISKIN_DATA")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{arguments:?}: {printed}{}", String::from_utf8_lossy(&done.stderr));
    printed.lines().last().unwrap_or_default().to_owned()
}

fn git(folder: &Path, arguments: &[&str]) {
    let identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-C", text(folder)];
    output("git", &[&identity[..], arguments].concat());
}

#[test]
fn a_commit_becomes_the_package_that_its_fpm_json_describes() {
    let scratch = scratch();
    let repository = scratch.path().join("shop");
    application(&repository);
    let fpm = r#"{"name": "web_shop", "version": "v1.2", "depends": ["bash"], "architecture": "all", "after_install": "script/post"}"#;
    file(&repository.join("fpm.json"), fpm, 0o644);
    file(&repository.join("script/post"), "#!/bin/sh\nexit 0\n", 0o755);
    output("git", &["init", "-q", "-b", "main", text(&repository)]);
    git(&repository, &["add", "-A"]);
    git(&repository, &["commit", "-q", "-m", "one"]);
    git(&repository, &["tag", "v1.2"]);
    file(&repository.join("later"), "after the tag", 0o644);
    git(&repository, &["add", "-A"]);
    git(&repository, &["commit", "-q", "-m", "two"]);
    let line =
        ["package", "build", "-s", "git", "--git-ref", "v1.2", "--prefix", "/opt/shop", "-d", "curl", "shop"];
    let made = siskin(scratch.path(), &line);
    assert!(made.starts_with('/') && made.ends_with("/web-shop_1.2_all.deb"), "{made}");
    let inspected = inspect(Path::new(&made)).unwrap();
    assert_eq!(inspected.control.get("Depends"), Some("bash, curl"));
    assert!(inspected.scripts.contains_key("postinst"));
    let paths = own_paths(Path::new(&made));
    assert!(paths.contains(&"./opt/shop/bin/greet".to_owned()), "{paths:?}");
    assert!(!paths.iter().any(|path| path.contains(".git") || path.contains("later")), "{paths:?}");
    let first = fs::read(&made).unwrap();
    siskin(scratch.path(), &[&line[..2], &["-f"], &line[2..]].concat());
    assert!(fs::read(&made).unwrap() == first, "the commit's time is that of all of it");
    let rpm = siskin(scratch.path(), &[&line[..2], &["-t", "rpm"], &line[2..]].concat());
    assert!(rpm.ends_with("/web_shop-1.2-1.noarch.rpm"), "{rpm}");
    assert_eq!(siskin(scratch.path(), &["package", "inspect", &rpm]).trim(), "exit 0");
}

#[test]
fn provenance_is_verified_by_its_key_and_by_no_other() {
    let scratch = scratch();
    let at = |name: &str| scratch.path().join(name);
    application(&at("app"));
    let line = [
        "package",
        "build",
        "-n",
        "app",
        "-v",
        "1",
        "-a",
        "all",
        "-C",
        "app",
        "--prefix",
        "/opt/app",
        "-d",
        "bash >= 5",
        "--sbom",
        "--provenance",
    ];
    let key = ["--provenance-key", "key.pem", "--json"];
    let made: Value = serde_json::from_str(&siskin(scratch.path(), &[&line[..], &key].concat())).unwrap();
    assert_eq!(
        fs::metadata(at("key.pem"))
            .map(|metadata| std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777)
            .unwrap(),
        0o600
    );
    let package = PathBuf::from(made["path"].as_str().unwrap());
    // By ours, and, from nothing but the formats, by openssl.
    siskin(scratch.path(), &["package", "verify", text(&package), "--key", "key.pem.pub"]);
    let envelope: Value =
        serde_json::from_slice(&fs::read(made["provenance"].as_str().unwrap()).unwrap()).unwrap();
    let decoded = |value: &Value| {
        let mut child =
            Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(value.as_str().unwrap().as_bytes()).unwrap();
        child.wait_with_output().unwrap().stdout
    };
    let payload = decoded(&envelope["payload"]);
    let kind = envelope["payloadType"].as_str().unwrap();
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    fs::write(at("signed"), [head.as_bytes(), &payload].concat()).unwrap();
    fs::write(at("signature"), decoded(&envelope["signatures"][0]["sig"])).unwrap();
    let verified = run(
        "openssl",
        &[
            "pkeyutl",
            "-verify",
            "-pubin",
            "-inkey",
            text(&at("key.pem.pub")),
            "-rawin",
            "-in",
            text(&at("signed")),
            "-sigfile",
            text(&at("signature")),
        ],
    );
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let statement: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(statement["subject"][0]["digest"]["sha256"], made["sha256"]);
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    assert_eq!(statement["predicate"]["buildDefinition"]["externalParameters"]["depends"][0], "bash >= 5");
    // A key of openssl's own signs, too; another key, another package or another word does not pass.
    output("openssl", &["genpkey", "-algorithm", "ed25519", "-out", text(&at("other.pem"))]);
    output("openssl", &["pkey", "-in", text(&at("other.pem")), "-pubout", "-out", text(&at("other.pub"))]);
    let provenance = attest::beside(&package, attest::STATEMENT_ENDING);
    let refused = |provenance: &Path, key: &str, package: &Path| {
        attest::verify(provenance, &at(key), package).unwrap_err().to_string()
    };
    assert!(refused(&provenance, "other.pub", &package).contains("did not sign"));
    let again = siskin(scratch.path(), &[&line[..], &["-f", "--provenance-key", "other.pem"]].concat());
    attest::verify(&provenance, &at("other.pub"), Path::new(&again)).unwrap();
    fs::write(at("tampered.deb"), b"other").unwrap();
    assert!(refused(&provenance, "other.pub", &at("tampered.deb")).contains("another package"));
    let mut forged: Value = serde_json::from_slice(&fs::read(&provenance).unwrap()).unwrap();
    forged["payload"] = Value::from("e30=");
    fs::write(at("forged"), forged.to_string()).unwrap();
    assert!(refused(&at("forged"), "other.pub", &package).contains("did not sign"));
    // The bill names the package, each file with its sum, and what it needs.
    let bill: Value =
        serde_json::from_slice(&fs::read(attest::beside(&package, attest::BILL_ENDING)).unwrap()).unwrap();
    assert_eq!(
        (&bill["bomFormat"], &bill["metadata"]["component"]["purl"]),
        (&Value::from("CycloneDX"), &Value::from("pkg:deb/app@1?arch=all"))
    );
    let sum = output("sha256sum", &[text(&at("app/bin/greet"))]);
    let greet = bill["components"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "/opt/app/bin/greet")
        .unwrap();
    assert_eq!(greet["hashes"][0]["content"].as_str().unwrap(), sum.split(' ').next().unwrap());
    assert!(bill["components"].as_array().unwrap().iter().any(|one| one["name"] == "bash"));
}

#[test]
fn the_repositorys_key_signs_what_gpgv_verifies() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    let build = order("app", "1", &input);
    let built = build.write_to(scratch.path()).unwrap();
    let key = siskin::delivery::apt::Key::make(
        &scratch.path().join("apt.asc"),
        "Test <t@example.com>",
        Timestamp(1_700_000_000_000),
    )
    .unwrap();
    let signer = Signer::load(key.path(), false).unwrap();
    let statement = attest::statement(&build, &built, &Origin::default());
    let at = Timestamp(1_700_000_000_000);
    let envelope = attest::envelope(&statement, &signer, at).unwrap();
    attest::write(&attest::beside(&built.path, attest::STATEMENT_ENDING), &envelope).unwrap();
    // The private key's file holds the public one as well.
    attest::verify(
        &attest::beside(&built.path, attest::STATEMENT_ENDING),
        &public_of(&key, scratch.path()),
        &built.path,
    )
    .unwrap();
}

/// The key as a repository shows it to its clients.
fn public_of(key: &siskin::delivery::apt::Key, folder: &Path) -> PathBuf {
    let repository = siskin::delivery::apt::Repository::open_or_create(&folder.join("apt")).unwrap();
    let package = super::package(folder, "some", "1", "x");
    let order = siskin::delivery::apt::Publish { suite: "stable", component: "main", debs: &[package.path] };
    repository.publish(&order, key, Timestamp(1_700_000_000_000)).unwrap();
    folder.join("apt/key.gpg")
}

#[test]
fn the_command_line_says_what_is_wrong_and_how_it_is_right() {
    let scratch = scratch();
    application(&scratch.path().join("app"));
    for (line, words) in [
        ("package build -v 1", "no name"),
        ("package build -n app", "no version"),
        ("package build -n app -v 1 -s tar", "name them"),
        ("package build -n app -v 1 -s git", "repository"),
        ("package build -n app -v 1 -C app --attr nonsense", "0750,user,group:/path"),
        ("package build -n app -v 1 -C app --provenance", "--provenance-key"),
        ("package build -n app -v 1 -C app ../../etc/passwd", "SOURCE=DESTINATION"),
        (
            "package build -n app -v 1 -C app --provenance --provenance-key app/bin/greet",
            "no private OpenPGP key",
        ),
    ] {
        let done = Command::new(env!("CARGO_BIN_EXE_siskin"))
            .args(line.split(' '))
            .current_dir(scratch.path())
            .env("HOME", scratch.path())
            .env_remove("SISKIN_DATA")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && said.contains(words), "{line}: {said}");
    }
    assert!(
        !fs::read_dir(scratch.path()).unwrap().any(|entry| entry
            .unwrap()
            .path()
            .extension()
            .is_some_and(|ending| ending == "deb"))
    );
}

#[test]
fn what_is_written_otherwise_than_it_was_ordered_is_said() {
    let scratch = scratch();
    application(&scratch.path().join("app"));
    let said = |line: &str| {
        let done = Command::new(env!("CARGO_BIN_EXE_siskin"))
            .args(line.split(' '))
            .current_dir(scratch.path())
            .env("HOME", scratch.path())
            .output()
            .unwrap();
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stderr).into_owned()
    };
    let said_of_both = said("package build -n My_App -v v1.0 -C app");
    assert!(
        said_of_both.contains("the name `My_App` is written `my-app`, as .deb wants it"),
        "{said_of_both}"
    );
    assert!(said_of_both.contains("the version `v1.0` is written `1.0`"), "{said_of_both}");
    assert_eq!(said("package build -n my-app -v 1.1 -C app"), "");
}
