//! .rpm packages, judged by rpm itself.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use siskin::delivery::package::{Build, Built, Compression, Error, Format, Scripts, Services};
use siskin::delivery::rpm::{self, inspect};

use super::{application, file, order, output, run, scratch, text};

fn rpm_order(name: &str, version: &str, folder: &Path) -> Build {
    Build { output_type: Format::Rpm, ..order(name, version, folder) }
}

/// What `rpm -qp` says in the words of `format`.
fn query(built: &Built, format: &str) -> String {
    output("rpm", &["-qp", "--nosignature", "--qf", format, text(&built.path)])
}

/// A host that is a folder with rpm's database. An ordinary user gets a name space in which he is root.
struct Host {
    root: PathBuf,
}

impl Host {
    fn new(root: PathBuf) -> Host {
        fs::create_dir_all(root.join("var/lib/rpm")).unwrap();
        Host { root }
    }

    fn rpm(&self, arguments: &[&str]) -> Output {
        let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
        let mut command = Command::new(if is_root { "rpm" } else { "unshare" });
        if !is_root {
            command.args(["--map-root-user", "rpm"]);
        }
        command.args(["--root", text(&self.root), "--dbpath", "/var/lib/rpm", "--force-debian"]);
        command.args(arguments).env("LC_ALL", "C").output().unwrap()
    }

    fn must(&self, arguments: &[&str]) -> String {
        let output = self.rpm(arguments);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "rpm {arguments:?}: {said}");
        said
    }
}

#[test]
fn rpm_reads_the_fields_the_relations_and_the_sums() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    let build = Build {
        iteration: Some("1421712345-0abc".to_owned()),
        epoch: Some(2),
        license: Some("Apache-2.0".to_owned()),
        vendor: Some("Example".to_owned()),
        url: Some("https://example.com".to_owned()),
        description: Some("greets\n\nWhoever runs it.\n".to_owned()),
        depends: vec!["glibc >= 2.3".to_owned(), "postfix | exim (>= 4)".to_owned()],
        pre_depends: vec!["shadow-utils".to_owned()],
        provides: vec!["greeter = 1.0".to_owned()],
        conflicts: vec!["rude".to_owned()],
        breaks: vec!["older < 2".to_owned()],
        replaces: vec!["oldname <= 1:3-4".to_owned()],
        recommends: vec!["manners".to_owned()],
        suggests: vec!["tea".to_owned()],
        rpm: rpm::Options { dist: Some("el9".to_owned()), ..rpm::Options::default() },
        ..rpm_order("My_App", "v1.0-rc1", &input)
    };
    let built = build.write_to(scratch.path()).unwrap();
    let name = "My_App-1.0_rc1-1421712345_0abc.el9.noarch.rpm";
    assert_eq!(built.path, scratch.path().canonicalize().unwrap().join(name));
    assert_eq!(
        (built.version.as_str(), built.architecture.as_str()),
        ("2:1.0_rc1-1421712345_0abc.el9", "noarch")
    );
    let fields = query(&built, "%{NAME} %{EVR} %{ARCH} %{LICENSE} %{VENDOR} %{URL} %{SUMMARY} %{PACKAGER}");
    let expected = "My_App 2:1.0_rc1-1421712345_0abc.el9 noarch Apache-2.0 Example https://example.com greets Ada Example <ada@example.com>";
    assert_eq!(fields, expected);
    assert!(query(&built, "%{DESCRIPTION}").contains("Whoever runs it."));
    let relations = |tag: &str| query(&built, &format!("[%{{{tag}NEVRS}}\n]"));
    let requires = relations("REQUIRE");
    for wanted in ["glibc >= 2.3\n", "(postfix or exim >= 4)\n", "shadow-utils\n"] {
        assert!(requires.contains(wanted), "{wanted} in {requires}");
    }
    assert!(relations("PROVIDE").contains("greeter = 1.0\n"));
    assert_eq!(relations("CONFLICT"), "older < 2\nrude\n");
    assert_eq!(relations("OBSOLETE"), "oldname <= 1:3-4\n");
    assert_eq!((relations("RECOMMEND"), relations("SUGGEST")), ("manners\n".to_owned(), "tea\n".to_owned()));
    let checked = output("rpm", &["-Kv", text(&built.path)]);
    assert!(checked.matches(": OK").count() >= 3 && !checked.contains("BAD"), "{checked}");
    // What it names is all that a host must have.
    let host = Host::new(scratch.path().join("host"));
    let missing = host.rpm(&["-i", "--test", text(&built.path)]);
    let missing = String::from_utf8_lossy(&missing.stderr).into_owned();
    for (line, wanted) in
        missing.lines().filter(|line| line.contains("is needed")).zip(["(postfix", "glibc", "shadow"])
    {
        assert!(line.trim().starts_with(wanted), "{missing}");
    }
}

#[test]
fn files_modes_owners_and_links_arrive_on_the_host_whatever_the_compression() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    file(&input.join("bin/special"), "x", 0o4755);
    file(&input.join("share/nothing"), "", 0o644);
    symlink("greet", input.join("bin/other")).unwrap();
    fs::hard_link(input.join("share/words"), input.join("share/again")).unwrap();
    fs::create_dir(input.join("spool")).unwrap();
    let long = format!("{}/{}", "d".repeat(90), "ä".repeat(60));
    file(&input.join(&long), "long", 0o600);
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
    fs::write(input.join("share/large"), &large).unwrap();
    for compression in [Compression::Gz, Compression::Xz, Compression::Zst, Compression::None] {
        let name = format!("app{compression:?}");
        let build =
            Build { compression, prefix: Some("/opt/app".to_owned()), ..rpm_order(&name, "1.0", &input) };
        let built = build.write_to(scratch.path()).unwrap();
        output("rpm", &["-K", text(&built.path)]);
        let host = Host::new(scratch.path().join(format!("host-{compression:?}")));
        host.must(&["-i", text(&built.path)]);
        // Every sum, size, mode, owner and link is as the package says; an ordinary user's files belong to himself.
        let verified = host.rpm(&["-V", "--nouser", "--nogroup", &name]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        let app = host.root.join("opt/app");
        assert_eq!(fs::metadata(app.join("bin/special")).unwrap().mode() & 0o7777, 0o4755);
        assert_eq!(fs::read_link(app.join("bin/other")).unwrap(), Path::new("greet"));
        let inode = |name: &str| fs::metadata(app.join(name)).unwrap().ino();
        assert_eq!(inode("share/words"), inode("share/again"));
        assert_eq!(fs::read_to_string(app.join(&long)).unwrap(), "long");
        assert!(fs::read(app.join("share/large")).unwrap() == large);
        assert!(app.join("spool").is_dir());
        let listing =
            output("sh", &["-c", &format!("rpm2cpio '{}' | cpio -t --quiet", built.path.display())]);
        assert!(listing.contains("./opt/app/bin/greet\n"), "{listing}");
        host.must(&["-e", &name]);
        assert!(!app.join("bin").join("greet").exists() && !app.join("spool").exists());
    }
}

#[test]
fn the_same_content_gives_the_same_bytes_whenever_and_wherever_it_lies() {
    let scratch = scratch();
    let mut sums = Vec::new();
    for place in ["one", "another/one"] {
        let input = scratch.path().join(place);
        application(&input);
        for compression in [Compression::Gz, Compression::Xz, Compression::Zst] {
            let out = scratch.path().join(format!("out-{}-{compression:?}", place.len()));
            fs::create_dir(&out).unwrap();
            let built = Build { compression, ..rpm_order("app", "1.0", &input) }.write_to(&out).unwrap();
            assert_eq!(built.size, fs::metadata(&built.path).unwrap().len());
            sums.push(built.sha256);
        }
    }
    assert_eq!(sums[..3], sums[3..]);
}

#[test]
fn configuration_that_was_changed_on_the_host_stays() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    let host = Host::new(scratch.path().join("host"));
    for version in ["1", "2"] {
        file(&input.join("etc/app.conf"), version, 0o644);
        file(&input.join("etc/plain"), version, 0o644);
        let build = Build {
            prefix: None,
            config_files: vec!["/etc/app.conf".to_owned()],
            ..rpm_order("app", version, &input)
        };
        let built = build.write_to(scratch.path()).unwrap();
        assert_eq!(output("rpm", &["-qpc", text(&built.path)]), "/etc/app.conf\n");
        host.must(&["-U", text(&built.path)]);
        fs::write(host.root.join("etc/app.conf"), "mine").unwrap();
    }
    let read = |name: &str| fs::read_to_string(host.root.join("etc").join(name)).unwrap();
    assert_eq!(
        (read("app.conf"), read("app.conf.rpmnew"), read("plain")),
        ("mine".into(), "2".into(), "2".into())
    );
}

#[test]
fn scripts_learn_from_rpm_whether_it_is_an_upgrade() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    let log = scratch.path().join("log");
    let script = |name: &str| {
        let path = scratch.path().join(name);
        file(&path, &format!("#!/bin/sh -e\necho \"{name} $1\" >> '{}'\n", log.display()), 0o755);
        Some(path)
    };
    let all = Scripts {
        before_install: script("before_install"),
        after_install: script("after_install"),
        before_remove: script("before_remove"),
        after_remove: script("after_remove"),
        before_upgrade: script("before_upgrade"),
        after_upgrade: script("after_upgrade"),
        ..Scripts::default()
    };
    file(&scratch.path().join("appd.service"), "[Service]\nExecStart=/opt/app/bin/greet\n", 0o644);
    let services = Services { systemd: vec![scratch.path().join("appd.service")], ..Services::default() };
    let built =
        Build { scripts: all, services, ..rpm_order("app", "1", &input) }.write_to(scratch.path()).unwrap();
    // As rpm does: it says how many versions there will be.
    for (tag, count) in [
        ("PREIN", "1"),
        ("POSTIN", "1"),
        ("PREIN", "2"),
        ("POSTIN", "2"),
        ("PREUN", "1"),
        ("POSTUN", "1"),
        ("PREUN", "0"),
        ("POSTUN", "0"),
    ] {
        let body = scratch.path().join(tag);
        fs::write(&body, query(&built, &format!("%{{{tag}}}"))).unwrap();
        output("sh", &[text(&body), count]);
    }
    let expected = "before_install 1\nafter_install 1\nbefore_upgrade 2\nafter_upgrade 2\nbefore_remove 0\nafter_remove 0\n";
    assert_eq!(fs::read_to_string(&log).unwrap(), expected);
    assert!(query(&built, "[%{FILENAMES}\n]").contains("/usr/lib/systemd/system/appd.service\n"));
    // A script of another language stays as it is, and says what it needs.
    let python = scratch.path().join("python");
    file(&python, "#!/usr/bin/python3 -I\nprint()\n", 0o755);
    let scripts = Scripts { after_install: Some(python), ..Scripts::default() };
    let built = Build { scripts, ..rpm_order("snake", "1", &input) }.write_to(scratch.path()).unwrap();
    assert_eq!(query(&built, "[%{POSTINPROG} ]"), "/usr/bin/python3 -I ");
    assert!(query(&built, "[%{REQUIRENAME}\n]").contains("/usr/bin/python3\n"));
}

#[test]
fn folders_belong_to_the_package_as_with_fpm() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    fs::create_dir(input.join("empty")).unwrap();
    let folders = |build: Build| {
        let built = Build { overwrite: true, ..build }.write_to(scratch.path()).unwrap();
        query(&built, "[%{FILEMODES:perms} %{FILENAMES}\n]")
            .lines()
            .filter_map(|line| {
                line.strip_prefix("drwx").map(|rest| rest.split_once(' ').unwrap().1.to_owned())
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(folders(rpm_order("app", "1", &input)), ["/opt/app/empty"]);
    let named = Build {
        directories: vec!["/opt/app/bin".into(), "/var/lib/app".into()],
        ..rpm_order("app", "1", &input)
    };
    assert_eq!(folders(named), ["/opt/app/bin", "/opt/app/empty", "/var/lib/app"]);
    let options = rpm::Options { auto_add_directories: true, ..rpm::Options::default() };
    let all = Build { rpm: options, ..rpm_order("app", "1", &input) };
    assert_eq!(folders(all), ["/opt/app", "/opt/app/bin", "/opt/app/empty", "/opt/app/share"]);
}

#[test]
fn a_wrong_order_names_its_fault_and_leaves_nothing() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    let out = scratch.path().join("out");
    fs::create_dir(&out).unwrap();
    let good = || rpm_order("app", "1.0", &input);
    let owned = |text: &str| Some(text.to_owned());
    file(&scratch.path().join("changes"), "no head\n", 0o644);
    for (words, build) in [
        (["name", "a\\nb"], Build { name: "a\nb".to_owned(), ..good() }),
        (["version", "1/2"], Build { version: "1/2".to_owned(), ..good() }),
        (["iteration", "a b"], Build { iteration: owned("a b"), ..good() }),
        (["architecture", "a/b"], Build { architecture: owned("a/b"), ..good() }),
        (["license", "\\n"], Build { license: owned("a\nb"), ..good() }),
        (["description", "\\r"], Build { description: owned("a\rb"), ..good() }),
        (["depends", "$(reboot)"], Build { depends: vec!["a = $(reboot)".to_owned()], ..good() }),
        (["config-files", "/etc/x"], Build { config_files: vec!["/etc/x".to_owned()], ..good() }),
        (["deb-field", ".rpm"], Build { fields: vec![("X".to_owned(), "x".to_owned())], ..good() }),
        (
            ["changes", "* Wed Jan 21 2015"],
            Build { changelog: Some(scratch.path().join("changes")), ..good() },
        ),
        (["attr", "0999"], Build { attributes: vec!["0999,-,-:/opt/app".to_owned()], ..good() }),
    ] {
        let error = build.write_to(&out).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?} in {error}");
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn the_changelog_of_a_spec_file_is_taken() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    let changes = scratch.path().join("changes");
    let text_of = "* Wed Jan 21 2015 Ada <ada@example.com> - 1.0-1\n- second\n\n* Tue Jan 20 2015 Ada <ada@example.com>\n- first\n- of all\n";
    file(&changes, text_of, 0o644);
    let built =
        Build { changelog: Some(changes), ..rpm_order("app", "1", &input) }.write_to(scratch.path()).unwrap();
    let shown = output("rpm", &["-qp", "--changelog", text(&built.path)]);
    assert!(shown.contains("* Wed Jan 21 2015 Ada <ada@example.com> - 1.0-1\n- second\n"), "{shown}");
    assert!(shown.contains("- first\n- of all"), "{shown}");
}

#[test]
fn what_others_built_is_read_and_what_is_damaged_refused() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    let spec = scratch.path().join("a.spec");
    let text_of = "Name: other\nVersion: 1.0\nRelease: 1\nSummary: t\nLicense: MIT\nBuildArch: noarch\n%description\nt\n%install\n\
                   mkdir -p %{buildroot}/etc; echo hi > %{buildroot}/etc/other\n%post\necho hello\n%files\n%config /etc/other\n";
    file(&spec, text_of, 0o644);
    let top = format!("_topdir {}", scratch.path().join("rb").display());
    output("rpmbuild", &["--quiet", "--define", &top, "-bb", text(&spec)]);
    let theirs = inspect(&scratch.path().join("rb/RPMS/noarch/other-1.0-1.noarch.rpm")).unwrap();
    assert_eq!((theirs.name.as_str(), theirs.version.as_str()), ("other", "1.0-1"));
    assert_eq!(
        (theirs.configuration, theirs.scripts["after-install"].as_str()),
        (vec!["/etc/other".to_owned()], "echo hello")
    );

    let built = rpm_order("app", "1.0", &input).write_to(scratch.path()).unwrap();
    assert_eq!(inspect(&built.path).unwrap().field("License"), Some("unknown"));
    let good = fs::read(&built.path).unwrap();
    let damaged = scratch.path().join("damaged.rpm");
    for length in (0..good.len() - 1).step_by(41) {
        fs::write(&damaged, &good[..length]).unwrap();
        assert!(matches!(inspect(&damaged), Err(Error::Corrupt { .. })), "cut after {length} bytes");
    }
    for place in (96..good.len()).step_by(29) {
        let mut bytes = good.clone();
        bytes[place] ^= 0x10;
        fs::write(&damaged, bytes).unwrap();
        // Only the sums themselves may lie, and then the content does not fit them.
        if let Ok(read) = inspect(&damaged) {
            assert_eq!(read.name, "app", "byte {place}");
        }
    }
    fs::write(&damaged, "<html>not found</html>").unwrap();
    assert!(matches!(inspect(&damaged), Err(Error::Corrupt { .. })));
}

#[test]
fn attributes_go_to_whom_they_name() {
    let scratch = scratch();
    let input = scratch.path().join("app");
    application(&input);
    fs::set_permissions(input.join("share/words"), fs::Permissions::from_mode(0o666)).unwrap();
    let build = Build {
        user: Some("shop".to_owned()),
        attributes: vec!["0640,-,www-data:/opt/app/share/*".to_owned()],
        ..rpm_order("app", "1", &input)
    };
    let listing = query(
        &build.write_to(scratch.path()).unwrap(),
        "[%{FILEMODES:perms} %{FILEUSERNAME} %{FILEGROUPNAME} %{FILENAMES}\n]",
    );
    assert_eq!(
        listing,
        "-rwxr-xr-x shop root /opt/app/bin/greet\n-rw-r----- shop www-data /opt/app/share/words\n"
    );
    let deb = Build { output_type: Format::Deb, ..build }.write_to(scratch.path()).unwrap();
    let listing = output("dpkg-deb", &["-c", text(&deb.path)]);
    assert!(listing.contains("-rw-r----- shop/www-data"), "{listing}");
    assert!(run("dpkg-deb", &["-I", text(&deb.path)]).status.success());
}
