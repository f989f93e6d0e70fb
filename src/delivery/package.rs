//! Packages, .deb and .rpm, made of folders, tar files and nothing, with fpm's names for things. What the two formats share is here: the order,
//! the tree of what goes in, maintainer scripts, services, and the way the file comes to its place. What differs is in [`super::deb`] and
//! [`super::rpm`].
//!
//! Promises: everything that can be wrong with names, fields and inputs is found before a byte is written; the same input gives the same
//! bytes; the finished file appears at its place whole or not at all; memory does not grow with the content, only with the number of files.
//! Where packages go, and who gets them, is left to [`super::apt`] and others.

pub mod attest;
pub mod attributes;
pub mod compression;
pub mod metadata;
pub(super) mod scripts;
pub(super) mod services;
mod tar_input;
pub(super) mod tree;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use compression::Compression;
pub use scripts::Scripts;
pub use services::Services;

use super::{deb, rpm};

/// What is wrong with an order for a package, or with a package.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The order itself is wrong, whatever the files are.
    #[error("{field}: {reason}")]
    Field { field: String, reason: String },
    #[error("{}: {reason}", path.display())]
    Input { path: PathBuf, reason: String },
    #[error("{} is there already; overwrite it with --force, or choose another place", path.display())]
    Exists { path: PathBuf },
    #[error("{} is no sound {format}: {reason}", path.display())]
    Corrupt { path: PathBuf, format: Format, reason: String },
    #[error("can't write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Error {
    pub(super) fn field(field: &str, reason: impl Into<String>) -> Error {
        Error::Field { field: field.to_owned(), reason: reason.into() }
    }
    pub(super) fn input(path: impl Into<PathBuf>, reason: impl Into<String>) -> Error {
        Error::Input { path: path.into(), reason: reason.into() }
    }
}

/// Which kind of package.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    #[default]
    Deb,
    Rpm,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Format::Deb => ".deb",
            Format::Rpm => ".rpm",
        })
    }
}

/// What the inputs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputType {
    /// Files and folders.
    #[default]
    Dir,
    /// Tar files, compressed or not, whose contents go in.
    Tar,
    /// Nothing at all: a package that only depends on others.
    Empty,
}

/// An order for a package. The names are fpm's; relative paths of inputs start at `chdir`, those of scripts, services and other files at the
/// working folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Build {
    pub output_type: Format,
    pub input_type: InputType,
    pub name: String,
    pub version: String,
    /// Debian's revision, RPM's release.
    pub iteration: Option<String>,
    pub epoch: Option<u32>,
    /// `native` when it is left out.
    pub architecture: Option<String>,
    pub maintainer: Option<String>,
    /// A synopsis, then further lines.
    pub description: Option<String>,
    pub license: Option<String>,
    pub vendor: Option<String>,
    pub url: Option<String>,
    /// Debian's section, RPM's group.
    pub category: Option<String>,
    #[serde(alias = "deb_priority")]
    pub priority: Option<String>,
    pub depends: Vec<String>,
    #[serde(alias = "deb_pre_depends")]
    pub pre_depends: Vec<String>,
    pub conflicts: Vec<String>,
    #[serde(alias = "deb_breaks")]
    pub breaks: Vec<String>,
    pub provides: Vec<String>,
    pub replaces: Vec<String>,
    #[serde(alias = "deb_recommends")]
    pub recommends: Vec<String>,
    #[serde(alias = "deb_suggests")]
    pub suggests: Vec<String>,
    /// Further control fields, by name; of Debian only.
    pub fields: Vec<(String, String)>,
    /// The folder on the target machine under which inputs go.
    pub prefix: Option<String>,
    pub chdir: Option<PathBuf>,
    /// Paths, or `SOURCE=DESTINATION`; everything in `chdir` when there are none. Tar files when the input is of that type.
    pub inputs: Vec<String>,
    /// Globs over paths in the package or in the input.
    #[serde(alias = "exclude")]
    pub excludes: Vec<String>,
    pub scripts: Scripts,
    pub services: Services,
    /// Configuration files beside those under /etc: files, or folders of them, by their place on the target machine.
    pub config_files: Vec<String>,
    #[serde(alias = "deb_no_default_config_files")]
    pub no_default_config_files: bool,
    /// Folders that belong to the package with all that is in them; made where no input brings them.
    pub directories: Vec<String>,
    /// `MODE,USER,GROUP:GLOB`, where `-` leaves a thing as it is.
    pub attributes: Vec<String>,
    /// Who owns the files, in place of root.
    pub user: Option<String>,
    pub group: Option<String>,
    /// Owners are those that the inputs have here.
    pub use_file_permissions: bool,
    #[serde(alias = "deb_changelog", alias = "rpm_changelog")]
    pub changelog: Option<PathBuf>,
    /// Seconds since 1970; no time in the package is later.
    pub source_date_epoch: Option<u64>,
    pub compression: Compression,
    pub allow_empty: bool,
    /// Whether a file at the place of the result may be replaced.
    pub overwrite: bool,
    /// What only .deb has.
    pub deb: deb::Options,
    /// What only .rpm has.
    pub rpm: rpm::Options,
}

/// A package that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Built {
    /// Absolute.
    pub path: PathBuf,
    pub format: Format,
    pub name: String,
    pub version: String,
    pub architecture: String,
    pub size: u64,
    pub sha256: String,
    pub installed_size_kib: u64,
    /// The latest time in it, in seconds since 1970.
    pub time: u64,
    /// What stands in it otherwise than it was ordered, a sentence each: a name in small letters, a version without its `v`.
    pub notes: Vec<String>,
    /// What it holds, in order.
    #[serde(skip)]
    pub files: Vec<PackedFile>,
}

/// A file in a package, with the sum of its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackedFile {
    /// On the target machine.
    pub path: String,
    pub mode: u32,
    pub size: u64,
    pub sha256: String,
}

/// Who a package is, in the words of its format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Naming {
    pub(super) name: String,
    /// As it was given, without a leading `v`, in the format's spelling.
    pub(super) version: String,
    pub(super) iteration: Option<String>,
    pub(super) epoch: Option<u32>,
    pub(super) architecture: String,
    /// With everything, as the format's tools show it.
    pub(super) full_version: String,
    /// The same without the epoch.
    pub(super) version_in_file_name: String,
}

/// An order with its inputs looked at: nothing is wrong with it, and nothing was written.
enum Prepared {
    Deb(Box<deb::Contents>),
    Rpm(Box<rpm::Contents>),
}

/// What a format's writer has to say at its end.
pub(super) struct Packed {
    pub(super) size: u64,
    pub(super) sha256: String,
    pub(super) files: Vec<PackedFile>,
    pub(super) installed_size_kib: u64,
}

impl Build {
    /// The file's name: `name_version_architecture.deb` or `name-version-release.architecture.rpm`, without the epoch.
    pub fn file_name(&self) -> Result<String, Error> {
        Ok(self.default_name(&self.naming()?))
    }

    fn default_name(&self, naming: &Naming) -> String {
        let Naming { name, version_in_file_name: version, architecture, .. } = naming;
        match self.output_type {
            Format::Deb => format!("{name}_{version}_{architecture}.deb"),
            Format::Rpm => format!("{name}-{version}.{architecture}.rpm"),
        }
    }

    /// Who the package will be; finds what is wrong with its name, version and architecture.
    fn naming(&self) -> Result<Naming, Error> {
        match self.output_type {
            Format::Deb => deb::naming(self),
            Format::Rpm => rpm::naming(self),
        }
    }

    /// Finds everything wrong with the order and its inputs that can be found without writing.
    pub fn check(&self) -> Result<(), Error> {
        self.prepare().map(drop)
    }

    fn prepare(&self) -> Result<Prepared, Error> {
        Ok(match self.output_type {
            Format::Deb => Prepared::Deb(Box::new(deb::Contents::gather(self)?)),
            Format::Rpm => Prepared::Rpm(Box::new(rpm::Contents::gather(self)?)),
        })
    }

    /// Makes the package at `out`: a folder that is there, or the file's path, in which `NAME VERSION ITERATION EPOCH ARCH TYPE FULLVERSION`
    /// of the file's name are filled in as fpm does.
    pub fn write_to(&self, out: &Path) -> Result<Built, Error> {
        let naming = self.naming()?;
        let target = self.target(&naming, out)?;
        if !self.overwrite && fs::symlink_metadata(&target).is_ok() {
            return Err(Error::Exists { path: target });
        }
        if fs::metadata(&target).is_ok_and(|metadata| metadata.is_dir()) {
            return Err(Error::input(target, "it is a folder, where the package should go"));
        }
        let prepared = self.prepare()?;
        self.put(&prepared, naming, target)
    }

    fn put(&self, prepared: &Prepared, naming: Naming, target: PathBuf) -> Result<Built, Error> {
        let failed = |source: io::Error| Error::Write { path: target.clone(), source };
        let folder = target.parent().unwrap_or(Path::new("/"));
        let file_name = target.file_name().unwrap_or_default().to_string_lossy();
        let temporary =
            tempfile::Builder::new().prefix(&format!(".{file_name}.")).tempfile_in(folder).map_err(failed)?;
        let (packed, time) = match prepared {
            Prepared::Deb(contents) => (contents.pack(self, folder, temporary.as_file())?, contents.time),
            Prepared::Rpm(contents) => (contents.pack(self, folder, temporary.as_file())?, contents.time),
        };
        temporary.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
        temporary.as_file().sync_all().map_err(failed)?;
        if self.overwrite {
            temporary.persist(&target).map_err(|error| failed(error.error))?;
        } else {
            temporary.persist_noclobber(&target).map_err(|error| match error.error.kind() {
                io::ErrorKind::AlreadyExists => Error::Exists { path: target.clone() },
                _ => failed(error.error),
            })?;
        }
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(Built {
            notes: self.written_otherwise(&naming),
            path: target,
            format: self.output_type,
            name: naming.name,
            version: naming.full_version,
            architecture: naming.architecture,
            size: packed.size,
            sha256: packed.sha256,
            installed_size_kib: packed.installed_size_kib,
            time,
            files: packed.files,
        })
    }

    /// What the format spells in its own way: whoever waits for the package under the other name must hear of it.
    fn written_otherwise(&self, naming: &Naming) -> Vec<String> {
        let both =
            [("name", self.name.trim(), &naming.name), ("version", self.version.trim(), &naming.version)];
        let other = both.into_iter().filter(|(_, ordered, written)| ordered != written);
        other
            .map(|(what, ordered, written)| {
                format!(
                    "the {what} `{}` is written `{written}`, as {} wants it",
                    ordered.escape_debug(),
                    self.output_type
                )
            })
            .collect()
    }

    fn target(&self, naming: &Naming, out: &Path) -> Result<PathBuf, Error> {
        let is_folder = out.is_dir() || out.as_os_str().as_encoded_bytes().ends_with(b"/");
        let name = match out.file_name().and_then(|name| name.to_str()).filter(|_| !is_folder) {
            None => self.default_name(naming),
            Some(name) => self.fill_in(name, naming),
        };
        let folder = if is_folder { out } else { out.parent().unwrap_or(Path::new("")) };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let folder = fs::canonicalize(folder)
            .map_err(|error| Error::input(folder, format!("the folder for the package: {error}")))?;
        Ok(folder.join(name))
    }

    /// Every word once, from left to right: what a name brings is not looked at again.
    fn fill_in(&self, pattern: &str, naming: &Naming) -> String {
        let words: [(&str, String); 7] = [
            ("FULLVERSION", naming.version_in_file_name.clone()),
            ("VERSION", naming.version.clone()),
            ("ITERATION", naming.iteration.clone().unwrap_or_default()),
            ("EPOCH", naming.epoch.map(|epoch| epoch.to_string()).unwrap_or_default()),
            ("ARCH", naming.architecture.clone()),
            ("NAME", naming.name.clone()),
            ("TYPE", self.output_type.to_string().trim_start_matches('.').to_owned()),
        ];
        let mut filled = String::new();
        let mut rest = pattern;
        'next: while let Some(first) = rest.chars().next() {
            for (word, value) in &words {
                if let Some(behind) = rest.strip_prefix(word) {
                    filled.push_str(value);
                    rest = behind;
                    continue 'next;
                }
            }
            filled.push(first);
            rest = &rest[first.len_utf8()..];
        }
        filled
    }
}

/// A writer that knows the size and the SHA-256 of what went through it.
pub(super) struct Summing<W> {
    pub(super) inner: W,
    sum: Sha256,
    pub(super) size: u64,
}

impl<W: Write> Summing<W> {
    pub(super) fn new(inner: W) -> Summing<W> {
        Summing { inner, sum: Sha256::new(), size: 0 }
    }

    /// The size, the sum in hex, and the writer.
    pub(super) fn finish(self) -> (u64, String, W) {
        (self.size, hex::encode(self.sum.finalize()), self.inner)
    }
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The folder of inputs must be one, whatever is in it.
pub(super) fn check_chdir(build: &Build) -> Result<(), Error> {
    let Some(chdir) = &build.chdir else { return Ok(()) };
    let metadata = fs::metadata(chdir).map_err(|error| Error::input(chdir, error.to_string()))?;
    match metadata.is_dir() {
        true => Ok(()),
        false => Err(Error::input(chdir, "it is no folder")),
    }
}
