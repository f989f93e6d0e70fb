//! `siskin package build`: fpm's options become an order, and the order a package.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::delivery::package::attest::{self, Material, Origin, Signer};
use crate::delivery::package::{self, Build, Built, Compression, Error, Format, Scripts, Services, metadata};
use crate::delivery::{ci, deb, rpm};
use crate::git;
use crate::model::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum InputType {
    /// Files and folders
    Dir,
    /// Tar files, plain or compressed with gz, xz or zstd: what is in them goes in
    Tar,
    /// A commit of a git repository: REPOSITORY [PATH..], where REPOSITORY is a URL or a folder
    Git,
    /// Nothing but the control data: a package that only depends on others
    Empty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputType {
    Deb,
    Rpm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CompressionArg {
    #[value(alias = "gzip")]
    Gz,
    Xz,
    #[value(alias = "zstd")]
    Zst,
    None,
}

const EXAMPLES: &str = "\
Examples:
  The tree in build/ below /opt/shop, as shop_1.4-1_amd64.deb in the current folder:
    siskin package build -s dir -t deb -n shop -v 1.4 --iteration 1 -C build --prefix /opt/shop
  One program and its configuration, each to its place:
    siskin package build -n tool -v 2.0 target/release/tool=/usr/bin/tool conf/tool.toml=/etc/tool.toml
  A service that starts when it is installed, as an RPM:
    siskin package build -t rpm -n shopd -v 1.4 -a noarch --systemd shopd.service --systemd-enable --systemd-auto-start shopd=/usr/bin/
  Exactly one commit, described by its fpm.json, with a bill of materials and signed provenance beside it:
    siskin package build -s git --git-ref v1.4 --prefix /opt/shop --sbom --provenance --provenance-key ci.pem https://git.example.com/shop

With SOURCE_DATE_EPOCH, or for a commit, the same input gives the same bytes. The last line that is printed is the absolute path of the
package. It is there whole or not at all, and one that is there already stays, unless --force is said.";

/// What `siskin package build` was asked.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct BuildArgs {
    /// What the inputs are
    #[arg(short = 's', long, value_name = "TYPE", default_value = "dir")]
    input_type: InputType,
    /// What is made
    #[arg(short = 't', long, value_name = "TYPE", default_value = "deb")]
    output_type: OutputType,
    /// The package's name; for a .deb it is put in lower case, and `_` and spaces become `-`
    #[arg(short, long)]
    name: Option<String>,
    /// Stands behind the name, after a `-`
    #[arg(short = 'S', long, value_name = "SUFFIX")]
    package_name_suffix: Option<String>,
    /// The version; a `v` before it is dropped
    #[arg(short, long)]
    version: Option<String>,
    /// Debian's revision, the part behind the last `-`; RPM's release
    #[arg(long)]
    iteration: Option<String>,
    #[arg(long)]
    epoch: Option<u32>,
    /// amd64, arm64, x86_64, aarch64, all, noarch or native
    #[arg(short, long)]
    architecture: Option<String>,
    /// The file to make, or the folder to make it in; NAME, VERSION, ITERATION, EPOCH, FULLVERSION, ARCH and TYPE are filled in
    #[arg(short, long, value_name = "OUT", default_value = ".")]
    package: PathBuf,
    /// Replace a package that is there already
    #[arg(short, long)]
    force: bool,
    /// Say on stderr what was made, as at a terminal
    #[arg(long)]
    verbose: bool,
    /// Print what was made as JSON in place of its path
    #[arg(long)]
    json: bool,
    /// A file like fpm.json: what it says counts where no option says otherwise. With `-s git` that of the commit is taken by itself
    #[arg(long, value_name = "FILE")]
    fpm_json: Option<PathBuf>,

    /// Look for the inputs in this folder
    #[arg(short = 'C', long, value_name = "DIR", help_heading = "Inputs")]
    chdir: Option<PathBuf>,
    /// Put the inputs under this folder of the target machine
    #[arg(long, value_name = "PATH", help_heading = "Inputs")]
    prefix: Option<String>,
    /// The commit, tag or branch of `-s git`
    #[arg(long, value_name = "REF", default_value = "HEAD", help_heading = "Inputs")]
    git_ref: String,
    /// A file with one input a line, beside those on the command line
    #[arg(long = "inputs", value_name = "FILE", help_heading = "Inputs")]
    input_file: Option<PathBuf>,
    /// Leave out what matches; can be given again
    #[arg(short = 'x', long, value_name = "GLOB", help_heading = "Inputs")]
    exclude: Vec<String>,
    /// A file with one such pattern a line
    #[arg(long, value_name = "FILE", help_heading = "Inputs")]
    exclude_file: Option<PathBuf>,
    /// A configuration file, or a folder of them, by its place on the target machine; in a .deb everything under /etc is one by itself
    #[arg(long, value_name = "PATH", help_heading = "Inputs")]
    config_files: Vec<String>,
    /// A folder that belongs to the package with all that is in it; made empty when no input brings it
    #[arg(long, value_name = "PATH", help_heading = "Inputs")]
    directories: Vec<String>,
    /// Mode and owner of files in the package: `0640,root,shop:/etc/shop/*`; `-` leaves a thing as it is
    #[arg(
        long = "attr",
        alias = "rpm-attr",
        alias = "deb-attr",
        value_name = "MODE,USER,GROUP:GLOB",
        help_heading = "Inputs"
    )]
    attributes: Vec<String>,
    /// Who owns the files, in place of root
    #[arg(
        long = "user",
        alias = "deb-user",
        alias = "rpm-user",
        value_name = "NAME",
        help_heading = "Inputs"
    )]
    user: Option<String>,
    #[arg(long = "group", alias = "deb-group", value_name = "NAME", help_heading = "Inputs")]
    group: Option<String>,
    /// Files belong to those who own them here
    #[arg(
        long,
        alias = "deb-use-file-permissions",
        alias = "rpm-use-file-permissions",
        help_heading = "Inputs"
    )]
    use_file_permissions: bool,
    /// Seconds since 1970: no time in the package is later, and the same input gives the same bytes
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", help_heading = "Inputs")]
    source_date_epoch: Option<u64>,
    /// The same where nothing else says it
    #[arg(long, value_name = "SECONDS", help_heading = "Inputs")]
    source_date_epoch_default: Option<u64>,

    /// `Name <address>`
    #[arg(short, long, help_heading = "What it says of itself")]
    maintainer: Option<String>,
    /// A line that says what it is, then further lines
    #[arg(long, help_heading = "What it says of itself")]
    description: Option<String>,
    #[arg(long, help_heading = "What it says of itself")]
    license: Option<String>,
    #[arg(long, help_heading = "What it says of itself")]
    vendor: Option<String>,
    #[arg(long, help_heading = "What it says of itself")]
    url: Option<String>,
    /// Debian's section, RPM's group
    #[arg(long, alias = "rpm-group", help_heading = "What it says of itself")]
    category: Option<String>,
    /// Debian's changelog, or RPM's as in a spec file
    #[arg(
        long = "changelog",
        alias = "deb-changelog",
        alias = "rpm-changelog",
        value_name = "FILE",
        help_heading = "What it says of itself"
    )]
    changelog: Option<PathBuf>,

    /// `name`, `name >= 1.0`, `one | other`; can be given again
    #[arg(short, long, value_name = "DEPENDENCY", help_heading = "Relations")]
    depends: Vec<String>,
    /// Leave out all of --depends
    #[arg(long, help_heading = "Relations")]
    no_depends: bool,
    #[arg(long, value_name = "DEPENDENCY", help_heading = "Relations")]
    provides: Vec<String>,
    #[arg(long, value_name = "DEPENDENCY", help_heading = "Relations")]
    conflicts: Vec<String>,
    /// What it takes the place of; RPM's obsoletes
    #[arg(long, value_name = "DEPENDENCY", help_heading = "Relations")]
    replaces: Vec<String>,
    #[arg(
        long = "pre-depends",
        alias = "deb-pre-depends",
        value_name = "DEPENDENCY",
        help_heading = "Relations"
    )]
    pre_depends: Vec<String>,
    #[arg(
        long = "recommends",
        alias = "deb-recommends",
        value_name = "DEPENDENCY",
        help_heading = "Relations"
    )]
    recommends: Vec<String>,
    #[arg(long = "suggests", alias = "deb-suggests", value_name = "DEPENDENCY", help_heading = "Relations")]
    suggests: Vec<String>,
    #[arg(long = "breaks", alias = "deb-breaks", value_name = "DEPENDENCY", help_heading = "Relations")]
    breaks: Vec<String>,

    #[arg(long, alias = "pre-install", value_name = "FILE", help_heading = "Maintainer scripts")]
    before_install: Option<PathBuf>,
    #[arg(long, alias = "post-install", value_name = "FILE", help_heading = "Maintainer scripts")]
    after_install: Option<PathBuf>,
    #[arg(long, alias = "pre-uninstall", value_name = "FILE", help_heading = "Maintainer scripts")]
    before_remove: Option<PathBuf>,
    #[arg(long, alias = "post-uninstall", value_name = "FILE", help_heading = "Maintainer scripts")]
    after_remove: Option<PathBuf>,
    /// With this or --after-upgrade, the other scripts run on installation and removal only
    #[arg(long, value_name = "FILE", help_heading = "Maintainer scripts")]
    before_upgrade: Option<PathBuf>,
    #[arg(long, value_name = "FILE", help_heading = "Maintainer scripts")]
    after_upgrade: Option<PathBuf>,
    /// When even its configuration goes
    #[arg(long, value_name = "FILE", help_heading = "Maintainer scripts")]
    deb_after_purge: Option<PathBuf>,

    /// A unit of systemd; can be given again
    #[arg(long = "systemd", alias = "deb-systemd", value_name = "FILE", help_heading = "Services")]
    systemd: Vec<PathBuf>,
    /// Enable the units when the package is installed
    #[arg(long = "systemd-enable", alias = "deb-systemd-enable", help_heading = "Services")]
    systemd_enable: bool,
    /// Enable and start them
    #[arg(long = "systemd-auto-start", alias = "deb-systemd-auto-start", help_heading = "Services")]
    systemd_auto_start: bool,
    /// Leave them as they are upon an upgrade
    #[arg(
        long = "no-systemd-restart-after-upgrade",
        alias = "no-deb-systemd-restart-after-upgrade",
        help_heading = "Services"
    )]
    no_systemd_restart_after_upgrade: bool,
    /// Restart them if they run, which is so anyway
    #[arg(
        long = "systemd-restart-after-upgrade",
        alias = "deb-systemd-restart-after-upgrade",
        overrides_with = "no_systemd_restart_after_upgrade",
        help_heading = "Services"
    )]
    systemd_restart_after_upgrade: bool,
    /// A script for /etc/init.d
    #[arg(
        long = "init",
        alias = "deb-init",
        alias = "rpm-init",
        value_name = "FILE",
        help_heading = "Services"
    )]
    init: Vec<PathBuf>,
    /// A file for /etc/default
    #[arg(long, value_name = "FILE", help_heading = "Services")]
    deb_default: Vec<PathBuf>,

    #[arg(long, value_name = "gz|xz|zst|none", help_heading = "Of a .deb")]
    deb_compression: Option<CompressionArg>,
    #[arg(long, value_name = "PRIORITY", help_heading = "Of a .deb")]
    deb_priority: Option<String>,
    /// Another control field; can be given again
    #[arg(long, value_name = "FIELD: VALUE", help_heading = "Of a .deb")]
    deb_field: Vec<String>,
    /// A file of control fields, which count where no option says otherwise
    #[arg(long, value_name = "FILE", help_heading = "Of a .deb")]
    deb_custom_control: Option<PathBuf>,
    #[arg(long, value_name = "DEPENDENCY", help_heading = "Of a .deb")]
    deb_build_depends: Vec<String>,
    /// `name = 1.0-2` means every revision of 1.0
    #[arg(long, help_heading = "Of a .deb")]
    deb_ignore_iteration_in_dependencies: bool,
    /// The changelog of those who wrote the software
    #[arg(long, value_name = "FILE", help_heading = "Of a .deb")]
    deb_upstream_changelog: Option<PathBuf>,
    /// The distribution that the changelog names
    #[arg(long, value_name = "NAME", help_heading = "Of a .deb")]
    deb_dist: Option<String>,
    #[arg(long, value_name = "KIB", help_heading = "Of a .deb")]
    deb_installed_size: Option<u64>,
    /// Files under /etc are configuration only where --config-files says so
    #[arg(long, help_heading = "Of a .deb")]
    deb_no_default_config_files: bool,
    /// A command that fails ends any maintainer script
    #[arg(long, help_heading = "Of a .deb")]
    deb_maintainerscripts_force_errorchecks: bool,
    /// debconf's script and its questions
    #[arg(long, value_name = "FILE", help_heading = "Of a .deb")]
    deb_config: Option<PathBuf>,
    #[arg(long, value_name = "FILE", help_heading = "Of a .deb")]
    deb_templates: Option<PathBuf>,
    /// What `shlibs` says
    #[arg(long, value_name = "TEXT", help_heading = "Of a .deb")]
    deb_shlibs: Option<String>,
    /// Another file of the control archive
    #[arg(long, value_name = "FILE", help_heading = "Of a .deb")]
    deb_meta_file: Vec<PathBuf>,
    /// A trigger that the package waits for, or sets off
    #[arg(long, value_name = "TRIGGER", help_heading = "Of a .deb")]
    deb_interest: Vec<String>,
    #[arg(long, value_name = "TRIGGER", help_heading = "Of a .deb")]
    deb_interest_noawait: Vec<String>,
    #[arg(long, value_name = "TRIGGER", help_heading = "Of a .deb")]
    deb_activate: Vec<String>,
    #[arg(long, value_name = "TRIGGER", help_heading = "Of a .deb")]
    deb_activate_noawait: Vec<String>,

    #[arg(long, value_name = "gz|xz|zst|none", help_heading = "Of an .rpm")]
    rpm_compression: Option<CompressionArg>,
    /// Stands behind the release: el9
    #[arg(long, value_name = "TAG", help_heading = "Of an .rpm")]
    rpm_dist: Option<String>,
    #[arg(long, value_name = "NAME", help_heading = "Of an .rpm")]
    rpm_os: Option<String>,
    /// One line; the first one of the description when not said
    #[arg(long, value_name = "TEXT", help_heading = "Of an .rpm")]
    rpm_summary: Option<String>,
    /// The package owns every folder that it needs, but for those of the system
    #[arg(long, help_heading = "Of an .rpm")]
    rpm_auto_add_directories: bool,
    /// The mode of all files, and of all folders
    #[arg(long, value_name = "MODE", help_heading = "Of an .rpm")]
    rpm_defattrfile: Option<String>,
    #[arg(long, value_name = "MODE", help_heading = "Of an .rpm")]
    rpm_defattrdir: Option<String>,
    #[arg(long, value_name = "FILE", help_heading = "Of an .rpm")]
    rpm_pretrans: Option<PathBuf>,
    #[arg(long, value_name = "FILE", help_heading = "Of an .rpm")]
    rpm_posttrans: Option<PathBuf>,
    #[arg(long, value_name = "FILE", help_heading = "Of an .rpm")]
    rpm_verifyscript: Option<PathBuf>,

    /// Write a bill of materials (CycloneDX) beside the package: PACKAGE.cdx.json
    #[arg(long, help_heading = "Beside the package")]
    sbom: bool,
    /// Write signed provenance (in-toto, SLSA) beside the package: PACKAGE.intoto.jsonl
    #[arg(long, help_heading = "Beside the package")]
    provenance: bool,
    /// The private key that signs it: Ed25519 as PEM, made when it is not there, or OpenPGP
    /// [default: the key of the APT repository, keys/apt.asc in SISKIN_DATA or ~/.config/siskin]
    #[arg(long, value_name = "FILE", help_heading = "Beside the package")]
    provenance_key: Option<PathBuf>,
    /// A URI that says who builds
    #[arg(
        long,
        value_name = "URI",
        default_value = "https://siskin.dev/command-line",
        help_heading = "Beside the package"
    )]
    builder_id: String,

    /// What to package: paths, or SOURCE=DESTINATION; everything in the folder when nothing is said
    #[arg(value_name = "PATH")]
    inputs: Vec<String>,
}

/// What stands behind the command line: an order, and what lives as long as it is needed.
struct Ordered {
    build: Build,
    materials: Vec<Material>,
    _checkout: Option<tempfile::TempDir>,
}

/// Bad use is told from failure.
enum Refusal {
    Use(String),
    Failure(anyhow::Error),
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Refusal {
        Refusal::Failure(error)
    }
}

impl BuildArgs {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.make().await {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(Refusal::Use(reason)) => super::bad_use(&reason),
            Err(Refusal::Failure(error)) => Err(error),
        }
    }

    async fn make(self) -> Result<(), Refusal> {
        let (out, attests) = (self.package.clone(), (self.sbom, self.provenance));
        let show = Show { as_json: self.json, verbose: self.verbose };
        let builder = self.builder_id.clone();
        // Before the work: a key that is no key should not be found out at its end.
        let signer = if self.provenance { Some(self.signer()?) } else { None };
        let ordered = self.into_order().await?;
        let built = match ordered.build.write_to(&out) {
            Ok(built) => built,
            Err(error @ Error::Field { .. }) => return Err(Refusal::Use(error.to_string())),
            Err(error) => return Err(Refusal::Failure(error.into())),
        };
        let origin = Origin { builder, invocation: None, materials: ordered.materials.clone() };
        let beside = attest_beside(&ordered.build, &built, &origin, attests.0, signer.as_ref());
        let beside = beside.context("the package is made, but not what should stand beside it")?;
        report(&built, &beside, show).context("the package is made, but its path can't be printed")?;
        Ok(())
    }

    fn signer(&self) -> anyhow::Result<Signer> {
        match &self.provenance_key {
            Some(path) => Ok(Signer::load(path, true)?),
            None => {
                let path = super::super::apt::default_key_path()?;
                Signer::load(&path, false).context(
                    "there is no key to sign the provenance with; name one with --provenance-key FILE",
                )
            }
        }
    }

    async fn into_order(mut self) -> Result<Ordered, Refusal> {
        let is_git = self.input_type == InputType::Git;
        self.inputs.extend(lines_of(self.input_file.as_deref())?);
        self.exclude.extend(lines_of(self.exclude_file.as_deref())?);
        let commit = if is_git { Some(self.check_out().await?) } else { None };
        let base = self.base(commit.as_ref())?;
        let materials = commit.iter().map(Commit::material).collect();
        let time = commit.as_ref().and_then(|commit| commit.seconds);
        let checkout = commit.map(|commit| commit.folder);
        let mut build = self.onto(base)?;
        build.source_date_epoch = build.source_date_epoch.or(time);
        if let Some(folder) = &checkout {
            build.chdir = Some(folder.path().join(TREE).join(build.chdir.unwrap_or_default()));
            build.excludes.push(".git".to_owned());
        }
        if build.name.is_empty() {
            return Err(Refusal::Use("the package has no name; give it with -n, or in fpm.json".to_owned()));
        }
        if build.version.is_empty() {
            return Err(Refusal::Use(
                "the package has no version; give it with -v, or in fpm.json".to_owned(),
            ));
        }
        Ok(Ordered { build, materials, _checkout: checkout })
    }

    /// What the metadata says, without the options.
    fn base(&self, commit: Option<&Commit>) -> Result<Build, Refusal> {
        let tree = commit.map(|commit| commit.folder.path().join(TREE));
        let found = match (&self.fpm_json, &tree) {
            (Some(file), _) => Some(metadata::read(file).with_context(|| file.display().to_string())?),
            (None, Some(tree)) if tree.join("fpm.json").is_file() => {
                Some(ci::read_metadata(tree).context("the commit's fpm.json")?)
            }
            _ => None,
        };
        let Some(found) = found else { return Ok(Build::default()) };
        let mut base = metadata::order(&found).map_err(|error| Refusal::Failure(error.into()))?;
        base.scripts.after_install = match (&found.after_install, &tree, &self.fpm_json) {
            (Some(script), Some(tree), None) => Some(tree.join(script)),
            (Some(script), _, Some(file)) => Some(file.parent().unwrap_or(Path::new(".")).join(script)),
            _ => None,
        };
        Ok(base)
    }

    /// Takes the first input for the repository, and leaves the rest.
    async fn check_out(&mut self) -> Result<Commit, Refusal> {
        if self.inputs.is_empty() {
            return Err(Refusal::Use("-s git wants a repository: a URL, or a folder".to_owned()));
        }
        let address = self.inputs.remove(0);
        // git knows folders by their absolute paths only.
        let address = match std::fs::canonicalize(&address) {
            Ok(folder) => folder.display().to_string(),
            Err(_) => address,
        };
        let repository = git::Repository::new(address).map_err(|error| Refusal::Use(error.to_string()))?;
        let folder = tempfile::Builder::new()
            .prefix("siskin-package-")
            .tempdir()
            .context("no folder for the checkout can be made")?;
        let tree = folder.path().join(TREE);
        let checkout = git::checkout(&repository, &self.git_ref, &tree, &CancellationToken::new()).await;
        let checkout = checkout.context("the commit can't be checked out")?;
        let seconds = u64::try_from(checkout.time.0.div_euclid(1000)).ok();
        Ok(Commit { folder, uri: repository.shown(), hash: checkout.commit, seconds })
    }

    /// The options over what `base` says; lists are put together.
    fn onto(self, base: Build) -> Result<Build, Refusal> {
        let mut fields = base.fields;
        for field in self.deb_field {
            let Some((name, value)) = field.split_once(':') else {
                let shown = field.escape_debug();
                return Err(Refusal::Use(format!(
                    "--deb-field: `{shown}` has no colon; write `Field: value`"
                )));
            };
            fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        let both = |mut one: Vec<String>, other: Vec<String>| {
            one.extend(other);
            one
        };
        let is_rpm = self.output_type == OutputType::Rpm;
        let compression = if is_rpm { self.rpm_compression } else { self.deb_compression };
        let is_empty = self.input_type == InputType::Empty;
        let mut name = self.name.unwrap_or(base.name);
        if let Some(suffix) = &self.package_name_suffix {
            name = format!("{name}-{suffix}");
        }
        Ok(Build {
            output_type: if is_rpm { Format::Rpm } else { Format::Deb },
            input_type: match self.input_type {
                InputType::Dir | InputType::Git => package::InputType::Dir,
                InputType::Tar => package::InputType::Tar,
                InputType::Empty => package::InputType::Empty,
            },
            name,
            version: self.version.unwrap_or(base.version),
            iteration: self.iteration.or(base.iteration),
            epoch: self.epoch.or(base.epoch),
            architecture: self.architecture.or(base.architecture),
            maintainer: self.maintainer.or(base.maintainer).or_else(maintainer_of_environment),
            description: self.description.or(base.description),
            license: self.license.or(base.license),
            vendor: self.vendor.or(base.vendor),
            url: self.url.or(base.url),
            category: self.category.or(base.category),
            priority: self.deb_priority.or(base.priority),
            depends: if self.no_depends { Vec::new() } else { both(base.depends, self.depends) },
            pre_depends: both(base.pre_depends, self.pre_depends),
            conflicts: both(base.conflicts, self.conflicts),
            breaks: both(base.breaks, self.breaks),
            provides: both(base.provides, self.provides),
            replaces: both(base.replaces, self.replaces),
            recommends: both(base.recommends, self.recommends),
            suggests: both(base.suggests, self.suggests),
            fields,
            prefix: self.prefix.or(base.prefix),
            chdir: self.chdir,
            inputs: self.inputs,
            excludes: both(base.excludes, self.exclude),
            scripts: Scripts {
                before_install: self.before_install,
                after_install: self.after_install.or(base.scripts.after_install),
                before_remove: self.before_remove,
                after_remove: self.after_remove,
                after_purge: self.deb_after_purge,
                before_upgrade: self.before_upgrade,
                after_upgrade: self.after_upgrade,
            },
            services: Services {
                systemd: self.systemd,
                enable: self.systemd_enable,
                auto_start: self.systemd_auto_start,
                no_restart_after_upgrade: self.no_systemd_restart_after_upgrade
                    && !self.systemd_restart_after_upgrade,
                init: self.init,
                default: self.deb_default,
            },
            config_files: both(base.config_files, self.config_files),
            no_default_config_files: self.deb_no_default_config_files,
            directories: both(base.directories, self.directories),
            attributes: both(base.attributes, self.attributes),
            user: self.user.or(base.user),
            group: self.group.or(base.group),
            use_file_permissions: self.use_file_permissions,
            changelog: self.changelog,
            source_date_epoch: self.source_date_epoch.or(self.source_date_epoch_default),
            compression: match compression {
                None => base.compression,
                Some(CompressionArg::Gz) => Compression::Gz,
                Some(CompressionArg::Xz) => Compression::Xz,
                Some(CompressionArg::Zst) => Compression::Zst,
                Some(CompressionArg::None) => Compression::None,
            },
            allow_empty: is_empty,
            overwrite: self.force,
            deb: deb::Options {
                config: self.deb_config,
                templates: self.deb_templates,
                meta_files: self.deb_meta_file,
                shlibs: self.deb_shlibs.or(base.deb.shlibs),
                interest: both(base.deb.interest, self.deb_interest),
                interest_noawait: both(base.deb.interest_noawait, self.deb_interest_noawait),
                activate: both(base.deb.activate, self.deb_activate),
                activate_noawait: both(base.deb.activate_noawait, self.deb_activate_noawait),
                installed_size: self.deb_installed_size.or(base.deb.installed_size),
                dist: self.deb_dist.or(base.deb.dist),
                custom_control: self.deb_custom_control,
                build_depends: both(base.deb.build_depends, self.deb_build_depends),
                upstream_changelog: self.deb_upstream_changelog,
                maintainerscripts_force_errorchecks: self.deb_maintainerscripts_force_errorchecks,
                ignore_iteration_in_dependencies: self.deb_ignore_iteration_in_dependencies,
            },
            rpm: rpm::Options {
                dist: self.rpm_dist.or(base.rpm.dist),
                os: self.rpm_os.or(base.rpm.os),
                summary: self.rpm_summary.or(base.rpm.summary),
                auto_add_directories: self.rpm_auto_add_directories || base.rpm.auto_add_directories,
                defattrfile: self.rpm_defattrfile.or(base.rpm.defattrfile),
                defattrdir: self.rpm_defattrdir.or(base.rpm.defattrdir),
                pretrans: self.rpm_pretrans,
                posttrans: self.rpm_posttrans,
                verifyscript: self.rpm_verifyscript,
            },
        })
    }
}

/// Where in its folder a checkout stands.
const TREE: &str = "tree";

struct Commit {
    folder: tempfile::TempDir,
    uri: String,
    hash: String,
    seconds: Option<u64>,
}

impl Commit {
    fn material(&self) -> Material {
        Material {
            uri: format!("git+{}@{}", self.uri, self.hash),
            digest: ("gitCommit".to_owned(), self.hash.clone()),
        }
    }
}

/// Writes what was asked for beside the package; answers where.
fn attest_beside(
    build: &Build,
    built: &Built,
    origin: &Origin,
    wants_bill: bool,
    signer: Option<&Signer>,
) -> anyhow::Result<Vec<(&'static str, PathBuf)>> {
    let mut beside = Vec::new();
    if wants_bill {
        let path = attest::beside(&built.path, attest::BILL_ENDING);
        attest::write(
            &path,
            &(serde_json::to_string_pretty(&attest::bill_of_materials(build, built))? + "\n"),
        )?;
        beside.push(("sbom", path));
    }
    if let Some(signer) = signer {
        let path = attest::beside(&built.path, attest::STATEMENT_ENDING);
        let at = Timestamp(i64::try_from(built.time).unwrap_or(0).saturating_mul(1000));
        let envelope = attest::envelope(&attest::statement(build, built, origin), signer, at)?;
        attest::write(&path, &envelope)?;
        beside.push(("provenance", path));
    }
    Ok(beside)
}

/// How it is said what was made.
#[derive(Clone, Copy)]
struct Show {
    as_json: bool,
    verbose: bool,
}

/// People at a terminal see what was made; the last line is for programs.
fn report(built: &Built, beside: &[(&'static str, PathBuf)], show: Show) -> std::io::Result<()> {
    if show.as_json {
        let mut made = json!({
            "path": built.path,
            "name": built.name,
            "version": built.version,
            "architecture": built.architecture,
            "sha256": built.sha256,
            "size": built.size,
            "installed_size_kib": built.installed_size_kib,
            "files": built.files,
            "notes": built.notes,
        });
        for (name, path) in beside {
            made[*name] = json!(path);
        }
        return writeln!(std::io::stdout(), "{made}");
    }
    let mut errors = std::io::stderr();
    for note in &built.notes {
        writeln!(errors, "note: {note}")?;
    }
    if show.verbose || errors.is_terminal() {
        let Built { name, version, architecture, files, .. } = built;
        writeln!(errors, "{name} {version} for {architecture}: {} files, {} bytes", files.len(), built.size)?;
        for (_, path) in beside {
            writeln!(errors, "beside it: {}", path.display())?;
        }
    }
    writeln!(std::io::stdout(), "{}", built.path.display())
}

/// The lines of a file that say something.
fn lines_of(file: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let Some(file) = file else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// As Debian's own tools find out who packages.
fn maintainer_of_environment() -> Option<String> {
    let name = std::env::var("DEBFULLNAME").ok()?;
    let address = std::env::var("DEBEMAIL").ok()?;
    Some(format!("{name} <{address}>"))
}
