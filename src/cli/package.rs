//! `siskin package`: makes packages with fpm's option names, and shows what one holds. Needs no server.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::delivery::deb::{self, Build, Compression, Inspected, Scripts};

/// Make packages and look into them.
#[derive(Debug, Subcommand)]
pub enum Package {
    /// Make a package from files; the options have fpm's names
    Build(Box<BuildArgs>),
    /// Show what a package says and holds
    Inspect(InspectArgs),
}

impl Package {
    /// 0 when it is done, 1 when it failed, 2 when it was asked wrongly.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Package::Build(args) => args.run(),
            Package::Inspect(args) => args.run(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InputType {
    Dir,
    /// Nothing but the control data: a package that only depends on others
    Empty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputType {
    Deb,
    /// Not built yet
    Rpm,
}

/// What `siskin package build` was asked.
#[derive(Args, Debug)]
pub struct BuildArgs {
    /// What the inputs are
    #[arg(short = 's', long, value_name = "TYPE", default_value = "dir")]
    input_type: InputType,
    /// What is made
    #[arg(short = 't', long, value_name = "TYPE", default_value = "deb")]
    output_type: OutputType,
    /// The package's name; `_` and spaces become `-`
    #[arg(short, long)]
    name: String,
    /// The version; a `v` before it is dropped
    #[arg(short, long)]
    version: String,
    /// Debian's revision, the part behind the last `-`
    #[arg(long)]
    iteration: Option<String>,
    #[arg(long)]
    epoch: Option<u32>,
    /// amd64, arm64, x86_64, aarch64, all, noarch or native
    #[arg(short, long)]
    architecture: Option<String>,
    /// The file to make, or the folder to make it in; NAME, VERSION, ITERATION, FULLVERSION, ARCH and TYPE are filled in
    #[arg(short, long, value_name = "OUT", default_value = ".")]
    package: PathBuf,
    /// Look for the inputs in this folder
    #[arg(short = 'C', long, value_name = "DIR")]
    chdir: Option<PathBuf>,
    /// Put the inputs under this folder of the target machine
    #[arg(long, value_name = "PATH")]
    prefix: Option<String>,
    /// Replace a package that is there already
    #[arg(short, long)]
    force: bool,
    /// `Name <address>`
    #[arg(short, long)]
    maintainer: Option<String>,
    /// A line that says what it is, then further lines
    #[arg(long)]
    description: Option<String>,
    #[arg(long)]
    license: Option<String>,
    #[arg(long)]
    vendor: Option<String>,
    #[arg(long)]
    url: Option<String>,
    /// Debian's section
    #[arg(long)]
    category: Option<String>,
    /// `name`, `name >= 1.0`, `one | other`; can be given again
    #[arg(short, long, value_name = "DEPENDENCY")]
    depends: Vec<String>,
    #[arg(long, value_name = "DEPENDENCY")]
    provides: Vec<String>,
    #[arg(long, value_name = "DEPENDENCY")]
    conflicts: Vec<String>,
    #[arg(long, value_name = "DEPENDENCY")]
    replaces: Vec<String>,
    /// Leave out what matches; can be given again
    #[arg(short = 'x', long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// A file with one such pattern a line
    #[arg(long, value_name = "FILE")]
    exclude_file: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    before_install: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    after_install: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    before_remove: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    after_remove: Option<PathBuf>,
    /// With this or --after-upgrade, the other scripts run on installation and removal only
    #[arg(long, value_name = "FILE")]
    before_upgrade: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    after_upgrade: Option<PathBuf>,
    /// A configuration file, or a folder of them, by its place on the target machine; everything under /etc is one by itself
    #[arg(long, value_name = "PATH")]
    config_files: Vec<String>,
    /// Seconds since 1970: no time in the package is later, and the same input gives the same bytes
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    source_date_epoch: Option<u64>,
    /// The same where nothing else says it
    #[arg(long, value_name = "SECONDS")]
    source_date_epoch_default: Option<u64>,
    #[arg(long, value_name = "DEPENDENCY")]
    deb_pre_depends: Vec<String>,
    #[arg(long, value_name = "DEPENDENCY")]
    deb_recommends: Vec<String>,
    #[arg(long, value_name = "DEPENDENCY")]
    deb_suggests: Vec<String>,
    #[arg(long, value_name = "DEPENDENCY")]
    deb_breaks: Vec<String>,
    #[arg(long, value_name = "PRIORITY")]
    deb_priority: Option<String>,
    /// Another control field; can be given again
    #[arg(long, value_name = "FIELD: VALUE")]
    deb_field: Vec<String>,
    #[arg(long, value_name = "FILE")]
    deb_changelog: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    deb_after_purge: Option<PathBuf>,
    /// Files under /etc are configuration only where --config-files says so
    #[arg(long)]
    deb_no_default_config_files: bool,
    #[arg(long, value_name = "gz|xz", default_value = "gz")]
    deb_compression: CompressionArg,
    /// What to package: paths, or SOURCE=DESTINATION; everything in the folder when nothing is said
    #[arg(value_name = "PATH")]
    inputs: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CompressionArg {
    Gz,
    Xz,
}

impl BuildArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        if self.output_type == OutputType::Rpm {
            return bad_use("packages of type rpm can't be made yet; -t deb can");
        }
        let out = self.package.clone();
        let build = match self.into_build()? {
            Ok(build) => build,
            Err(reason) => return bad_use(&reason),
        };
        match build.write_to(&out) {
            Ok(built) => {
                writeln!(std::io::stdout(), "{}", built.path.display())?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error @ deb::Error::Field { .. }) => bad_use(&error.to_string()),
            Err(error) => Err(error.into()),
        }
    }

    fn into_build(self) -> anyhow::Result<Result<Build, String>> {
        let mut excludes = self.exclude;
        if let Some(file) = self.exclude_file {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
            excludes.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
        }
        let mut fields = Vec::new();
        for field in self.deb_field {
            let Some((name, value)) = field.split_once(':') else {
                return Ok(Err(format!(
                    "--deb-field: `{}` has no colon; write `Field: value`",
                    field.escape_debug()
                )));
            };
            fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        let is_empty = self.input_type == InputType::Empty;
        if is_empty && !self.inputs.is_empty() {
            return Ok(Err("-s empty takes no paths".to_owned()));
        }
        Ok(Ok(Build {
            name: self.name,
            version: self.version,
            iteration: self.iteration,
            epoch: self.epoch,
            architecture: self.architecture,
            maintainer: self.maintainer.or_else(maintainer_of_environment),
            description: self.description,
            license: self.license,
            vendor: self.vendor,
            url: self.url,
            category: self.category,
            priority: self.deb_priority,
            depends: self.depends,
            pre_depends: self.deb_pre_depends,
            conflicts: self.conflicts,
            breaks: self.deb_breaks,
            provides: self.provides,
            replaces: self.replaces,
            recommends: self.deb_recommends,
            suggests: self.deb_suggests,
            fields,
            prefix: self.prefix,
            chdir: self.chdir,
            inputs: self.inputs,
            excludes,
            scripts: Scripts {
                before_install: self.before_install,
                after_install: self.after_install,
                before_remove: self.before_remove,
                after_remove: self.after_remove,
                after_purge: self.deb_after_purge,
                before_upgrade: self.before_upgrade,
                after_upgrade: self.after_upgrade,
            },
            config_files: self.config_files,
            no_default_config_files: self.deb_no_default_config_files,
            changelog: self.deb_changelog,
            source_date_epoch: self.source_date_epoch.or(self.source_date_epoch_default),
            compression: match self.deb_compression {
                CompressionArg::Gz => Compression::Gz,
                CompressionArg::Xz => Compression::Xz,
            },
            no_inputs: is_empty,
            allow_empty: is_empty,
            overwrite: self.force,
        }))
    }
}

/// As Debian's own tools find out who packages.
fn maintainer_of_environment() -> Option<String> {
    let name = std::env::var("DEBFULLNAME").ok()?;
    let address = std::env::var("DEBEMAIL").ok()?;
    Some(format!("{name} <{address}>"))
}

fn bad_use(reason: &str) -> anyhow::Result<ExitCode> {
    writeln!(std::io::stderr(), "siskin package build: {reason}")?;
    Ok(ExitCode::from(2))
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
        let inspected = deb::inspect(&self.file)?;
        let text = if self.json { as_json(&inspected)? } else { as_text(&inspected) };
        std::io::stdout().write_all(text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}

fn as_json(inspected: &Inspected) -> anyhow::Result<String> {
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

fn as_text(inspected: &Inspected) -> String {
    let mut text = inspected.control.to_string();
    text.push('\n');
    for file in &inspected.files {
        let link = file.link_target.as_deref().map(|target| format!(" -> {target}")).unwrap_or_default();
        let owner = format!("{}/{}", file.owner, file.group);
        text.push_str(&format!("{:04o} {owner} {:>10} {}{link}\n", file.mode, file.size, file.path));
    }
    for conffile in &inspected.conffiles {
        text.push_str(&format!("conffile {conffile}\n"));
    }
    for (name, script) in &inspected.scripts {
        text.push_str(&format!("\n[{name}]\n{}\n", script.trim_end()));
    }
    text
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
        Line::try_parse_from([vec!["siskin package"], line.split(' ').collect()].concat())
            .unwrap()
            .package
            .run()
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
        assert_eq!(package("build -s dir -t rpm -n x1 -v 1").unwrap(), ExitCode::from(2));
        assert_eq!(package("build -n x1 -v 1 --deb-field nonsense").unwrap(), ExitCode::from(2));
        assert!(package("build -n x1 -v 1 /nonexistent").is_err());
    }
}
