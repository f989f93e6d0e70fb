//! 1,000 packages into an APT repository, and the 1,001st, beside what Debian's own tools take for an index of the same packages, in one run.
//!
//!     cargo bench --bench apt                    as it ships
//!     cargo bench --bench apt -- --packages 200  fewer
//!
//! The tools only make an index: they copy no package, sign nothing, and keep nothing for clients in flight. `apt-ftparchive --db` remembers packages between
//! calls, as Siskin does by reading what it published. Numbers of two runs on a shared machine do not compare; ratios within one do.

#![expect(clippy::unwrap_used, reason = "a benchmark ends where a test would")]
#![expect(clippy::print_stdout, reason = "it prints a table")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use clap::Parser;
use siskin::delivery::apt::{Key, Publish, Repository};
use siskin::delivery::deb::Build;
use siskin::model::Timestamp;

/// 1,000 packages into an APT repository, and the 1,001st.
#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 1000)]
    packages: usize,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn package(folder: &Path, number: usize) -> PathBuf {
    let input = folder.join(format!("input-{number}"));
    fs::create_dir_all(&input).unwrap();
    fs::write(input.join("word"), format!("{number} ").repeat(5000)).unwrap();
    let build = Build {
        name: format!("greeter-{number}"),
        version: "1.0".to_owned(),
        architecture: Some("all".to_owned()),
        maintainer: Some("Ada Example <ada@example.com>".to_owned()),
        description: Some("greets whoever runs it".to_owned()),
        prefix: Some(format!("/opt/greeter-{number}")),
        chdir: Some(input),
        source_date_epoch: Some(1_700_000_000),
        ..Build::default()
    };
    build.write_to(folder).unwrap().path
}

fn main() {
    let Arguments { packages, .. } = Arguments::parse();
    let scratch = tempfile::tempdir().unwrap();
    let made = scratch.path().join("made");
    fs::create_dir(&made).unwrap();
    let mut debs: Vec<PathBuf> = (0..=packages).map(|number| package(&made, number)).collect();
    let last = debs.pop().unwrap();
    let root = scratch.path().join("repository");
    let now = Timestamp(jiff::Timestamp::now().as_millisecond());
    let repository = Repository::open_or_create(&root).unwrap();
    let key = Key::for_repository(&root, &scratch.path().join("key.asc"), now).unwrap();
    let publish = |debs: &[PathBuf]| {
        repository.publish(&Publish { suite: "stable", component: "main", debs }, &key, now).unwrap();
    };
    let (database, index) = (scratch.path().join("cache.db"), scratch.path().join("index"));
    let ftparchive = |cached: bool| {
        let mut command = Command::new("apt-ftparchive");
        if cached {
            command.arg("--db").arg(&database);
        }
        tool(command.args(["packages", "pool"]).current_dir(&root), &index)
    };
    let scanpackages = || {
        tool(Command::new("dpkg-scanpackages").args(["--multiversion", "pool"]).current_dir(&root), &index)
    };

    let all = seconds(|| publish(&debs));
    println!("{packages} packages, inserted at once, signed:        {all:7.2} s");
    let again = seconds(|| publish(&debs));
    println!("  the same again, nothing to do:                 {again:7.2} s");
    against("apt-ftparchive, the index only", all, ftparchive(false));
    against("dpkg-scanpackages, the index only", all, scanpackages());
    // Its cache gets to know the packages.
    if ftparchive(true).is_none() {
        println!("  apt-ftparchive is not installed");
    }
    let one = seconds(|| publish(&[last]));
    println!(
        "one more, signed:                                 {one:7.2} s   {:.1} % of all",
        100.0 * one / all
    );
    against("apt-ftparchive with its cache, the index only", one, ftparchive(true));
    against("dpkg-scanpackages, the index only", one, scanpackages());
    assert_eq!(repository.verify(now).unwrap().problems, [""; 0]);
}

fn against(what: &str, ours: f64, theirs: Option<f64>) {
    match theirs {
        Some(theirs) => println!("  {what:<46} {theirs:7.2} s   ours / theirs {:.2}", ours / theirs),
        None => println!("  {what:<46} it is not installed"),
    }
}

/// A tool's time for `Packages`, and what a client needs of it compressed.
fn tool(command: &mut Command, index: &Path) -> Option<f64> {
    let began = Instant::now();
    let done = command.output().ok()?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::write(index, done.stdout).unwrap();
    for program in ["gzip", "xz"] {
        assert!(Command::new(program).args(["--keep", "--force"]).arg(index).status().unwrap().success());
    }
    Some(began.elapsed().as_secs_f64())
}

fn seconds(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64()
}
