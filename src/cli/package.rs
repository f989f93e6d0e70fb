//! `siskin package`: makes packages with fpm's option names, shows what one holds, and verifies what stands beside it. Needs no server.

mod build;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::delivery::package::attest;
use crate::delivery::{deb, rpm};

pub use build::BuildArgs;

/// Make packages and look into them.
#[derive(Debug, Subcommand)]
pub enum Package {
    /// Make a .deb or .rpm from files, tar files or a commit; the options have fpm's names
    Build(Box<BuildArgs>),
    /// Show what a .deb or .rpm says and holds, once it is sound
    Inspect(InspectArgs),
    /// Check that the provenance beside a package is signed by a key and speaks of it
    Verify(VerifyArgs),
}

impl Package {
    /// 0 when it is done, 1 when it failed, 2 when it was asked wrongly.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Package::Build(args) => args.run().await,
            Package::Inspect(args) => args.run(),
            Package::Verify(args) => args.run(),
        }
    }
}

fn bad_use(reason: &str) -> anyhow::Result<ExitCode> {
    writeln!(std::io::stderr(), "siskin package build: {reason}")?;
    Ok(ExitCode::from(2))
}

/// What `siskin package verify` was asked.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The package
    file: PathBuf,
    /// The public key: Ed25519 as PEM, or OpenPGP, as key.gpg of an APT repository
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The signed statement [default: PACKAGE.intoto.jsonl]
    #[arg(long, value_name = "FILE")]
    provenance: Option<PathBuf>,
    /// Print the statement
    #[arg(long)]
    json: bool,
}

impl VerifyArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        let beside = || attest::beside(&self.file, attest::STATEMENT_ENDING);
        let provenance = self.provenance.clone().unwrap_or_else(beside);
        let statement = attest::verify(&provenance, &self.key, &self.file)?;
        let mut out = std::io::stdout();
        if self.json {
            writeln!(out, "{statement}")?;
            return Ok(ExitCode::SUCCESS);
        }
        let at = |place: &str| {
            statement.pointer(place).and_then(serde_json::Value::as_str).unwrap_or("nobody says")
        };
        writeln!(out, "{}: good", self.file.display())?;
        writeln!(out, "built by {}", at("/predicate/runDetails/builder/id"))?;
        let materials = statement.pointer("/predicate/buildDefinition/resolvedDependencies");
        for material in materials.and_then(serde_json::Value::as_array).into_iter().flatten() {
            writeln!(
                out,
                "from {}",
                material.get("uri").and_then(serde_json::Value::as_str).unwrap_or_default()
            )?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What `siskin package inspect` was asked.
#[derive(Args, Debug)]
pub struct InspectArgs {
    file: PathBuf,
    #[arg(long)]
    json: bool,
}

impl InspectArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        let text = match (is_rpm(&self.file), self.json) {
            (true, true) => serde_json::to_string_pretty(&rpm::inspect(&self.file)?.json())? + "\n",
            (true, false) => rpm_as_text(&rpm::inspect(&self.file)?),
            (false, true) => as_json(&deb::inspect(&self.file)?)?,
            (false, false) => as_text(&deb::inspect(&self.file)?),
        };
        std::io::stdout().write_all(text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// By its first bytes, whatever it is called.
fn is_rpm(file: &Path) -> bool {
    use std::io::Read;
    let mut start = [0; 4];
    let read = std::fs::File::open(file).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == [0xed, 0xab, 0xee, 0xdb]
}

fn as_json(inspected: &deb::Inspected) -> anyhow::Result<String> {
    let control: serde_json::Map<_, _> =
        inspected.control.iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    let all = json!({
        "control": control,
        "files": inspected.files,
        "conffiles": inspected.conffiles,
        "scripts": inspected.scripts,
    });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

fn as_text(inspected: &deb::Inspected) -> String {
    let mut text = inspected.control.to_string();
    text.push('\n');
    list(&mut text, &inspected.files, &inspected.conffiles, &inspected.scripts);
    text
}

fn rpm_as_text(inspected: &rpm::Inspected) -> String {
    let mut text = String::new();
    for (name, value) in &inspected.fields {
        text.push_str(&format!("{name}: {}\n", value.trim_end().replace('\n', "\n ")));
    }
    for (name, relations) in &inspected.relations {
        text.push_str(&format!("{name}: {}\n", relations.join(", ")));
    }
    text.push('\n');
    list(&mut text, &inspected.files, &inspected.configuration, &inspected.scripts);
    text
}

fn list(
    text: &mut String,
    files: &[deb::FileEntry],
    configuration: &[String],
    scripts: &std::collections::BTreeMap<String, String>,
) {
    for file in files {
        let link = file.link_target.as_deref().map(|target| format!(" -> {target}")).unwrap_or_default();
        let owner = format!("{}/{}", file.owner, file.group);
        text.push_str(&format!("{:04o} {owner} {:>10} {}{link}\n", file.mode, file.size, file.path));
    }
    for file in configuration {
        text.push_str(&format!("conffile {file}\n"));
    }
    for (name, script) in scripts {
        text.push_str(&format!("\n[{name}]\n{}\n", script.trim_end()));
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        package: Package,
    }

    fn package(line: &str) -> anyhow::Result<ExitCode> {
        let run = Line::try_parse_from([vec!["siskin package"], line.split(' ').collect()].concat())
            .unwrap()
            .package
            .run();
        tokio::runtime::Runtime::new().unwrap().block_on(run)
    }

    #[test]
    fn fpms_options_make_a_package() {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path().to_str().unwrap();
        std::fs::write(scratch.path().join("tool"), "x").unwrap();
        let line = format!(
            "build -s dir -t deb -n My_Tool -v v1.0 --iteration 3 -a noarch -p {place} -C {place} --prefix /opt/tool \
             -d libc6>=2.3 -d b1 --conflicts c1 --provides d1 --replaces e1 --deb-recommends f1 --deb-suggests g1 \
             --deb-pre-depends h1 --deb-breaks i1 --deb-field X-A:b --deb-priority extra --category net --epoch 1 \
             --license MIT --vendor V --url https://example.com -m A --description D -x *.tmp \
             --source-date-epoch-default 1700000000 tool"
        );
        assert_eq!(package(&line).unwrap(), ExitCode::SUCCESS);
        let made = scratch.path().join("my-tool_1.0-3_all.deb");
        let inspected = deb::inspect(&made).unwrap();
        assert_eq!(inspected.control.get("Depends"), Some("libc6 (>= 2.3), b1"));
        assert_eq!(inspected.control.get("Version"), Some("1:1.0-3"));
        assert!(inspected.files.iter().any(|file| file.path == "./opt/tool/tool"));
        // It is there now, and stays as it is.
        assert!(package(&line).is_err());
        assert_eq!(package(&line.replace("build", "build -f")).unwrap(), ExitCode::SUCCESS);
        assert_eq!(package(&format!("inspect {}", made.display())).unwrap(), ExitCode::SUCCESS);
    }

    #[test]
    fn bad_use_is_told_from_failure() {
        assert_eq!(package("build -s dir -t deb -n x1 -v 1_2").unwrap(), ExitCode::from(2));
        assert_eq!(package("build -s dir -t rpm -n x1 -v 1/2").unwrap(), ExitCode::from(2));
        assert_eq!(package("build -v 1").unwrap(), ExitCode::from(2));
        assert_eq!(package("build -n x1 -v 1 --deb-field nonsense").unwrap(), ExitCode::from(2));
        assert!(package("build -n x1 -v 1 /nonexistent").is_err());
    }
}
