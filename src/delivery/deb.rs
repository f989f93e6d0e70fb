//! Debian packages: made from folders with fpm's names for things, and read.
//!
//! Promises: everything that can be wrong with names, fields and inputs is found before a byte is written; the same input
//! gives the same bytes; the finished file appears at its place whole or not at all; memory does not grow with the content.
//! Where packages go, and who gets them, is left to [`super::apt`] and others.

mod archive;
mod contents;
pub mod control;
mod documents;
mod inspect;
mod scripts;
mod tree;
mod version;

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use liblzma::write::XzEncoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use control::Paragraph;
pub use inspect::{FileEntry, FileKind, Inspected, inspect};
pub use scripts::Scripts;
pub use version::Version;

use contents::Contents;

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
    #[error("{} is no sound .deb: {reason}", path.display())]
    Corrupt { path: PathBuf, reason: String },
    #[error("can't write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Error {
    fn field(field: &str, reason: impl Into<String>) -> Error {
        Error::Field { field: field.to_owned(), reason: reason.into() }
    }
    fn input(path: impl Into<PathBuf>, reason: impl Into<String>) -> Error {
        Error::Input { path: path.into(), reason: reason.into() }
    }
}

/// How the data archive is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    #[default]
    Gz,
    Xz,
}

/// An order for a package. The names are fpm's; relative paths of inputs start at `chdir`, those of scripts at the working folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Build {
    pub name: String,
    pub version: String,
    /// Debian's revision.
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
    /// Debian's section.
    pub category: Option<String>,
    pub priority: Option<String>,
    pub depends: Vec<String>,
    pub pre_depends: Vec<String>,
    pub conflicts: Vec<String>,
    pub breaks: Vec<String>,
    pub provides: Vec<String>,
    pub replaces: Vec<String>,
    pub recommends: Vec<String>,
    pub suggests: Vec<String>,
    /// Further control fields, by name.
    pub fields: Vec<(String, String)>,
    /// The folder on the target machine under which inputs go.
    pub prefix: Option<String>,
    pub chdir: Option<PathBuf>,
    /// Paths, or `SOURCE=DESTINATION`; everything in `chdir` when there are none.
    pub inputs: Vec<String>,
    /// Globs over paths in the package or in the input.
    pub excludes: Vec<String>,
    pub scripts: Scripts,
    /// Configuration files beside those under /etc: files, or folders of them, by their place on the target machine.
    pub config_files: Vec<String>,
    pub no_default_config_files: bool,
    pub changelog: Option<PathBuf>,
    /// Seconds since 1970; no time in the package is later.
    pub source_date_epoch: Option<u64>,
    pub compression: Compression,
    /// Take nothing at all, not even the folder: a package that only depends on others.
    pub no_inputs: bool,
    pub allow_empty: bool,
    /// Whether a file at the place of the result may be replaced.
    pub overwrite: bool,
}

/// A package that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Built {
    /// Absolute.
    pub path: PathBuf,
    pub name: String,
    pub version: String,
    pub architecture: String,
    pub size: u64,
    pub sha256: String,
    pub installed_size_kib: u64,
}

impl Build {
    /// The file's name: `name_version_architecture.deb`, without the epoch.
    pub fn file_name(&self) -> Result<String, Error> {
        let identity = contents::Identity::of(self)?;
        Ok(format!("{}_{}_{}.deb", identity.name, identity.version.without_epoch(), identity.architecture))
    }

    /// Finds everything wrong with the order and its inputs that can be found without writing.
    pub fn check(&self) -> Result<(), Error> {
        Contents::gather(self).map(drop)
    }

    /// Makes the package at `out`: a folder that is there, or the file's path, in which `NAME VERSION ITERATION ARCH TYPE`
    /// of the file's name are filled in as fpm does.
    pub fn write_to(&self, out: &Path) -> Result<Built, Error> {
        let contents = Contents::gather(self)?;
        let target = self.target(&contents, out)?;
        if !self.overwrite && fs::symlink_metadata(&target).is_ok() {
            return Err(Error::Exists { path: target });
        }
        if fs::metadata(&target).is_ok_and(|metadata| metadata.is_dir()) {
            return Err(Error::input(target, "it is a folder, where the package should go"));
        }
        write_package(&contents, self, &target)
    }

    fn target(&self, contents: &Contents, out: &Path) -> Result<PathBuf, Error> {
        let is_folder = out.is_dir() || out.as_os_str().as_encoded_bytes().ends_with(b"/");
        let name = match out.file_name().and_then(|name| name.to_str()).filter(|_| !is_folder) {
            None => self.file_name()?,
            Some(name) => self.fill_in(name, contents),
        };
        let folder = if is_folder { out } else { out.parent().unwrap_or(Path::new("")) };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let folder = fs::canonicalize(folder)
            .map_err(|error| Error::input(folder, format!("the folder for the package: {error}")))?;
        Ok(folder.join(name))
    }

    fn fill_in(&self, name: &str, contents: &Contents) -> String {
        let identity = &contents.identity;
        let plain = |text: &Option<String>| text.clone().unwrap_or_default();
        name.replace("FULLVERSION", &identity.version.without_epoch())
            .replace("VERSION", &self.version)
            .replace("ITERATION", &plain(&self.iteration))
            .replace("ARCH", &identity.architecture)
            .replace("NAME", &identity.name)
            .replace("TYPE", "deb")
    }
}

fn write_package(contents: &Contents, build: &Build, target: &Path) -> Result<Built, Error> {
    let failed = |source: io::Error| Error::Write { path: target.to_owned(), source };
    let folder = target.parent().unwrap_or(Path::new("/"));
    // Without a name: nothing stays behind however this ends.
    let mut data = tempfile::tempfile_in(folder).map_err(failed)?;
    let md5sums = match build.compression {
        Compression::Gz => {
            let mut encoder = GzEncoder::new(BufWriter::new(&mut data), Level::default());
            let md5sums = contents.write_data(&mut encoder)?;
            encoder.finish().and_then(|mut rest| rest.flush()).map_err(failed)?;
            md5sums
        }
        Compression::Xz => {
            let mut encoder = XzEncoder::new(BufWriter::new(&mut data), 6);
            let md5sums = contents.write_data(&mut encoder)?;
            encoder.finish().and_then(|mut rest| rest.flush()).map_err(failed)?;
            md5sums
        }
    };
    let mut control = GzEncoder::new(Vec::new(), Level::best());
    contents.write_control(&md5sums, &mut control).map_err(failed)?;
    let control = control.finish().map_err(failed)?;

    let file_name = target.file_name().unwrap_or_default().to_string_lossy();
    let temporary =
        tempfile::Builder::new().prefix(&format!(".{file_name}.")).tempfile_in(folder).map_err(failed)?;
    let data_name = if build.compression == Compression::Xz { "data.tar.xz" } else { "data.tar.gz" };
    let (size, sha256) =
        assemble(temporary.as_file(), contents.time, &control, &mut data, data_name).map_err(failed)?;
    temporary.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
    temporary.as_file().sync_all().map_err(failed)?;
    if build.overwrite {
        temporary.persist(target).map_err(|error| failed(error.error))?;
    } else {
        temporary.persist_noclobber(target).map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists { path: target.to_owned() },
            _ => failed(error.error),
        })?;
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(Built {
        path: target.to_owned(),
        name: contents.identity.name.clone(),
        version: contents.identity.version.to_string(),
        architecture: contents.identity.architecture.clone(),
        size,
        sha256,
        installed_size_kib: contents.installed_size_kib(),
    })
}

/// Puts the three members together; answers the size and the SHA-256 of the whole.
fn assemble(
    out: &File,
    mtime: u64,
    control: &[u8],
    data: &mut File,
    data_name: &str,
) -> io::Result<(u64, String)> {
    let mut out = Summing { inner: BufWriter::with_capacity(1 << 16, out), sum: Sha256::new(), size: 0 };
    archive::write_ar_magic(&mut out)?;
    archive::write_ar_member(&mut out, "debian-binary", mtime, 4, &mut &b"2.0\n"[..])?;
    archive::write_ar_member(&mut out, "control.tar.gz", mtime, control.len() as u64, &mut &control[..])?;
    let size = data.stream_position()?;
    data.rewind()?;
    archive::write_ar_member(&mut out, data_name, mtime, size, &mut data.take(size))?;
    out.flush()?;
    Ok((out.size, hex::encode(out.sum.finalize())))
}

struct Summing<W> {
    inner: W,
    sum: Sha256,
    size: u64,
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
