use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use siskin::delivery::deb::{Build, Compression, Error, FileKind, Scripts, Version, inspect};

use super::{Host, application, file, order, output, run, scratch, text};

#[test]
fn dpkg_reads_the_fields_and_the_files() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    file(&input.join("etc/ignored"), "by the prefix, no configuration", 0o644);
    let build = Build {
        iteration: Some("1421712345-0abc".to_owned()),
        epoch: Some(2),
        license: Some("Apache-2.0".to_owned()),
        vendor: Some("Example".to_owned()),
        url: Some("https://example.com".to_owned()),
        depends: vec!["libc6 >= 2.3".to_owned(), "mta | postfix".to_owned()],
        fields: vec![("X-Commit".to_owned(), "abc".to_owned())],
        ..order("My_App", "v1.0", &input)
    };
    let built = build.write_to(scratch.path()).unwrap();
    assert_eq!(built.path, scratch.path().canonicalize().unwrap().join("my-app_1.0-1421712345-0abc_all.deb"));
    let field = |name: &str| output("dpkg-deb", &["-f", text(&built.path), name]).trim_end().to_owned();
    assert_eq!(field("Package"), "my-app");
    assert_eq!(field("Version"), "2:1.0-1421712345-0abc");
    assert_eq!(field("Architecture"), "all");
    assert_eq!(field("License"), "Apache-2.0");
    assert_eq!(field("Vendor"), "Example");
    assert_eq!(field("Homepage"), "https://example.com");
    assert_eq!(field("Depends"), "libc6 (>= 2.3), mta | postfix");
    assert_eq!(field("X-Commit"), "abc");
    assert_eq!(field("Section"), "default");
    assert!(field("Description").starts_with("greets whoever runs it\n"));
    let listing = output("dpkg-deb", &["-c", text(&built.path)]);
    for wanted in
        ["./opt/My_App/bin/greet", "./usr/share/doc/my-app/changelog.gz", "./usr/share/doc/my-app/copyright"]
    {
        assert!(listing.contains(wanted), "{wanted} in {listing}");
    }
    assert!(listing.lines().all(|line| line.contains("root/root")), "{listing}");
    assert!(!output("dpkg-deb", &["-I", text(&built.path)]).contains("conffiles"));
}

#[test]
fn lintian_finds_no_error() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    file(&scratch.path().join("after"), "#!/bin/sh\nset -e\n", 0o755);
    let least = Build {
        name: "least".to_owned(),
        version: "1.0".to_owned(),
        prefix: Some("/opt/least".to_owned()),
        chdir: Some(input.clone()),
        ..Build::default()
    };
    let full = Build {
        iteration: Some("1".to_owned()),
        license: Some("Apache-2.0".to_owned()),
        vendor: Some("Example".to_owned()),
        url: Some("https://example.com".to_owned()),
        scripts: Scripts {
            after_install: Some(scratch.path().join("after")),
            after_upgrade: Some(scratch.path().join("after")),
            ..Scripts::default()
        },
        inputs: vec!["bin/=/opt/full/bin".to_owned(), "share/words=/etc/full/".to_owned()],
        prefix: None,
        ..order("full", "1.0", &input)
    };
    for build in [least, full] {
        let built = build.write_to(scratch.path()).unwrap();
        let said = run("lintian", &["--allow-root", "--fail-on", "error", text(&built.path)]);
        let said_text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.status.success() && !said_text.contains("E: "), "{said_text}");
    }
}

#[test]
fn the_same_content_gives_the_same_bytes_whenever_and_wherever_it_lies() {
    let scratch = scratch();
    let mut packages = Vec::new();
    for (place, age) in [("one", 100), ("another/one", 5000)] {
        let input = scratch.path().join(place);
        application(&input);
        for path in ["bin/greet", "share/words", "bin", "share"] {
            // After the commit, as in every checkout.
            let at = UNIX_EPOCH + Duration::from_secs(1_700_000_000 + age);
            fs::File::open(input.join(path)).unwrap().set_modified(at).unwrap();
        }
        for compression in [Compression::Gz, Compression::Xz] {
            let out = scratch.path().join(format!("out-{age}-{compression:?}"));
            fs::create_dir(&out).unwrap();
            let built = Build { compression, ..order("app", "1.0", &input) }.write_to(&out).unwrap();
            packages.push((compression, fs::read(built.path).unwrap(), built.sha256));
        }
    }
    assert!(packages[0].1 == packages[2].1 && packages[1].1 == packages[3].1);
    assert_eq!(packages[0].2, packages[2].2);
}

#[test]
fn modes_links_and_long_names_arrive_on_the_host() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    file(&input.join("bin/special"), "x", 0o4755);
    symlink("greet", input.join("bin/other")).unwrap();
    fs::hard_link(input.join("share/words"), input.join("share/again")).unwrap();
    let long = format!("{}/{}", "d".repeat(90), "ä".repeat(60));
    file(&input.join(&long), "long", 0o600);
    let built = order("app", "1.0", &input).write_to(scratch.path()).unwrap();
    let out = scratch.path().join("extracted");
    output("dpkg-deb", &["-x", text(&built.path), text(&out)]);
    let app = out.join("opt/app");
    assert_eq!(fs::metadata(app.join("bin/special")).unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(fs::read_link(app.join("bin/other")).unwrap(), Path::new("greet"));
    let inode = |name: &str| fs::metadata(app.join(name)).unwrap().ino();
    assert_eq!(inode("share/words"), inode("share/again"));
    assert_eq!(fs::read_to_string(app.join(&long)).unwrap(), "long");
    let inspected = inspect(&built.path).unwrap();
    assert!(inspected.files.iter().any(|entry| entry.kind == FileKind::HardLink));
    assert!(inspected.files.iter().any(|entry| entry.path.ends_with(&long)));
    // Every checksum holds on the unpacked files.
    let control = scratch.path().join("control");
    output("dpkg-deb", &["-e", text(&built.path), text(&control)]);
    let sums = control.join("md5sums");
    let checked =
        Command::new("md5sum").args(["--quiet", "-c"]).arg(sums).current_dir(&out).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

#[test]
fn everything_under_etc_is_configuration() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    file(&input.join("etc/app/a.conf"), "a", 0o644);
    file(&input.join("srv/app/b.conf"), "b", 0o644);
    let base = Build { prefix: None, ..order("app", "1.0", &input) };
    let conffiles = |build: &Build, version: &str| {
        let build = Build { version: version.to_owned(), ..build.clone() };
        inspect(&build.write_to(scratch.path()).unwrap().path).unwrap().conffiles
    };
    assert_eq!(conffiles(&base, "1"), ["/etc/app/a.conf"]);
    let more = Build { config_files: vec!["/srv/app".to_owned()], ..base.clone() };
    assert_eq!(conffiles(&more, "2"), ["/etc/app/a.conf", "/srv/app/b.conf"]);
    let none = Build { no_default_config_files: true, ..base.clone() };
    assert_eq!(conffiles(&none, "3"), [""; 0]);
    let wrong = Build { config_files: vec!["/etc/nothing".to_owned()], ..base };
    let error = wrong.write_to(scratch.path()).unwrap_err().to_string();
    assert!(error.contains("config-files") && error.contains("/etc/nothing"), "{error}");
}

#[test]
fn scripts_learn_from_dpkg_whether_it_is_an_upgrade() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    let script = |name: &str| {
        let path = scratch.path().join(name);
        file(&path, &format!("#!/bin/sh -e\necho \"{name} $1 <$2>\" >> \"$DPKG_ROOT/log\"\nexit 0\n"), 0o755);
        Some(path)
    };
    let plain = Scripts { after_install: script("after_install"), ..Scripts::default() };
    let all = Scripts {
        before_install: script("before_install"),
        after_install: script("after_install"),
        before_remove: script("before_remove"),
        after_remove: script("after_remove"),
        before_upgrade: script("before_upgrade"),
        after_upgrade: script("after_upgrade"),
        after_purge: script("after_purge"),
    };
    let history = |name: &str, scripts: Scripts| {
        let host = Host::new(scratch.path().join(format!("host-{name}")));
        for version in ["1.0", "2.0"] {
            let build = Build { scripts: scripts.clone(), ..order(name, version, &input) };
            let built = build.write_to(scratch.path()).unwrap();
            let done = host.dpkg(&["-i", text(&built.path)]);
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        assert!(host.root.join(format!("opt/{name}/bin/greet")).exists());
        assert!(host.dpkg(&["--purge", name]).status.success());
        fs::read_to_string(host.root.join("log")).unwrap()
    };
    assert_eq!(history("plain", plain), "after_install configure <>\nafter_install configure <1.0>\n");
    let expected = "before_install install <>\nafter_install configure <>\nbefore_upgrade upgrade <1.0>\n\
                    after_upgrade configure <1.0>\nbefore_remove remove <>\nafter_remove remove <>\nafter_purge purge <>\n";
    assert_eq!(history("all-of-them", all), expected);
}

#[test]
fn a_wrong_order_names_its_fault_and_leaves_nothing() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    let out = scratch.path().join("out");
    fs::create_dir(&out).unwrap();
    file(&scratch.path().join("no-interpreter"), "echo\n", 0o755);
    let good = || order("app", "1.0", &input);
    let owned = |text: &str| Some(text.to_owned());
    let listen = scratch.path().join("socket/s");
    fs::create_dir(listen.parent().unwrap()).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(&listen).unwrap();
    file(&scratch.path().join("break/a\nb"), "x", 0o644);
    fs::create_dir(scratch.path().join("empty")).unwrap();
    let there = |name: &str| Some(scratch.path().join(name));
    for (words, build) in [
        (["name", "a\\nb"], Build { name: "a\nb".to_owned(), ..good() }),
        (["version", "1_2"], Build { version: "1_2".to_owned(), ..good() }),
        (["version", "iteration"], Build { iteration: owned("a b"), ..good() }),
        (["architecture", "a/b"], Build { architecture: owned("a/b"), ..good() }),
        (["maintainer", "\\n"], Build { maintainer: owned("a\nEssential: yes"), ..good() }),
        (["license", "\\n"], Build { license: owned("a\nb"), ..good() }),
        (["description", "\\r"], Build { description: owned("a\rb"), ..good() }),
        (["depends", "$(reboot)"], Build { depends: vec!["$(reboot)".to_owned()], ..good() }),
        (["field", "Package"], Build { fields: vec![("Package".to_owned(), "x".to_owned())], ..good() }),
        (["field", "X"], Build { fields: vec![("X".to_owned(), "x\ny".to_owned())], ..good() }),
        (["nowhere", "No such file"], Build { chdir: there("nowhere"), ..good() }),
        (["app/nothing", "No such file"], Build { inputs: vec!["nothing".to_owned()], ..good() }),
        (["..", "SOURCE=DESTINATION"], Build { inputs: vec!["../app".to_owned()], ..good() }),
        (["socket/s", "a socket"], Build { chdir: there("socket"), ..good() }),
        (["break/a", "control character"], Build { chdir: there("break"), ..good() }),
        (["empty", "nothing to package"], Build { chdir: there("empty"), ..good() }),
        (["exclude", "["], Build { excludes: vec!["[".to_owned()], ..good() }),
        (["nowhere", "No such file"], Build { changelog: there("nowhere"), ..good() }),
        (
            ["no-interpreter", "#!"],
            Build {
                scripts: Scripts { after_install: there("no-interpreter"), ..Scripts::default() },
                ..good()
            },
        ),
    ] {
        let error = build.write_to(&out).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?} in {error}");
    }
    assert!(matches!(good().write_to(&out.join("no/such/x.deb")), Err(Error::Input { .. })));
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn a_package_that_is_there_stays_unless_it_may_be_replaced() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    let out = scratch.path().join("NAME-FULLVERSION.TYPE");
    let build = order("app", "1.0", &input);
    let first = build.write_to(&out).unwrap();
    assert!(first.path.ends_with("app-1.0.deb"));
    assert!(matches!(build.write_to(&out), Err(Error::Exists { .. })));
    let again = Build { overwrite: true, ..build }.write_to(&out).unwrap();
    assert_eq!(again.sha256, first.sha256);
}

#[test]
fn inputs_go_where_fpm_would_put_them() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    file(&input.join(".git/config"), "x", 0o644);
    file(&input.join("share/x.tmp"), "x", 0o644);
    let paths = |inputs: &[&str], prefix: Option<&str>| {
        let build = Build {
            inputs: inputs.iter().map(|input| (*input).to_owned()).collect(),
            prefix: prefix.map(str::to_owned),
            excludes: vec![".git".to_owned(), "*.tmp".to_owned()],
            overwrite: true,
            ..order("app", "1.0", &input)
        };
        let inspected = inspect(&build.write_to(scratch.path()).unwrap().path).unwrap();
        let files = inspected.files.into_iter().filter(|entry| entry.kind == FileKind::File);
        let own =
            files.map(|entry| entry.path).filter(|path| !path.contains("/doc/") && !path.contains("lintian"));
        own.collect::<Vec<_>>()
    };
    assert_eq!(paths(&[], Some("/opt/a")), ["./opt/a/bin/greet", "./opt/a/share/words"]);
    assert_eq!(paths(&["bin"], Some("/opt/a")), ["./opt/a/bin/greet"]);
    assert_eq!(paths(&["bin/=/usr/bin"], None), ["./usr/bin/greet"]);
    assert_eq!(paths(&["bin=/usr/lib/a"], None), ["./usr/lib/a/bin/greet"]);
    assert_eq!(paths(&["bin/greet=/usr/bin/"], None), ["./usr/bin/greet"]);
    assert_eq!(paths(&["bin/greet=/usr/bin/hi", "share/words=/etc/"], None), ["./etc/words", "./usr/bin/hi"]);
}

#[test]
fn packages_of_others_are_read_whatever_they_are_compressed_with() {
    let scratch = scratch();
    let tree = scratch.path().join("tree");
    file(
        &tree.join("DEBIAN/control"),
        "Package: other\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: x\n",
        0o644,
    );
    file(&tree.join("usr/share/other/data"), "content", 0o644);
    for compression in ["gzip", "xz", "zstd", "none"] {
        let deb = scratch.path().join(format!("{compression}.deb"));
        output("dpkg-deb", &[&format!("-Z{compression}"), "-b", text(&tree), text(&deb)]);
        let inspected = inspect(&deb).unwrap();
        assert_eq!((inspected.name(), inspected.architecture()), ("other", "all"));
        assert!(inspected.files.iter().any(|entry| entry.path == "./usr/share/other/data"), "{compression}");
    }
}

#[test]
fn a_damaged_package_is_refused_with_a_reason() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    let built = order("app", "1.0", &input).write_to(scratch.path()).unwrap();
    let good = fs::read(&built.path).unwrap();
    let damaged = scratch.path().join("damaged.deb");
    for length in (0..good.len() - 1).step_by(37) {
        fs::write(&damaged, &good[..length]).unwrap();
        assert!(matches!(inspect(&damaged), Err(Error::Corrupt { .. })), "cut after {length} bytes");
    }
    // A flipped bit in the compressed parts.
    for place in (140..good.len() - 10).step_by(53) {
        let mut bytes = good.clone();
        bytes[place] ^= 0x10;
        fs::write(&damaged, bytes).unwrap();
        match inspect(&damaged) {
            Err(Error::Corrupt { reason, .. }) => assert!(!reason.is_empty()),
            // Headers of ar and gzip hold times and owners, which may be anything.
            Ok(read) => assert_eq!(read.name(), "app"),
            Err(other) => panic!("{other}"),
        }
    }
    fs::write(&damaged, "<html>not found</html>").unwrap();
    assert!(inspect(&damaged).unwrap_err().to_string().contains("does not begin as a .deb does"));
    assert!(matches!(inspect(&PathBuf::from("/nonexistent.deb")), Err(Error::Input { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn versions_are_ordered_as_dpkg_orders_them(
        one in "([0-3]:)?[0-9][0-9a-b.+~]{0,5}(-[0-9a.+~]{1,3})?",
        other in "([0-3]:)?[0-9][0-9a-b.+~]{0,5}(-[0-9a.+~]{1,3})?",
    ) {
        let (left, right): (Version, Version) = (one.parse().unwrap(), other.parse().unwrap());
        let relation = match left.cmp(&right) {
            std::cmp::Ordering::Less => "lt",
            std::cmp::Ordering::Equal => "eq",
            std::cmp::Ordering::Greater => "gt",
        };
        let agreed = run("dpkg", &["--compare-versions", &one, relation, &other]).status.success();
        prop_assert!(agreed, "{one} {relation} {other}");
    }
}
