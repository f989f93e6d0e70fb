//! Debian packages: what of an order is theirs alone, and how they are read.
//!
//! Promises: see [`super::package`]. A .deb of our own is what dpkg, lintian and apt expect; one of others is read whole before anything of it
//! is believed.

mod archive;
mod contents;
pub mod control;
mod documents;
mod inspect;
mod scripts;
mod version;

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

pub use super::package::{Build, Built, Compression, Error, Scripts};
pub use control::Paragraph;
pub use inspect::{FileEntry, FileKind, Inspected, inspect};
pub use version::Version;

pub(super) use contents::Contents;

use super::package::{Naming, Packed, Summing};

/// What only a .deb has; fpm's names without their `deb-`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The script that asks debconf's questions, and the questions.
    pub config: Option<PathBuf>,
    pub templates: Option<PathBuf>,
    /// Further files of the control archive.
    pub meta_files: Vec<PathBuf>,
    /// What `shlibs` says.
    pub shlibs: Option<String>,
    /// Triggers that the package waits for, and such as it sets off.
    pub interest: Vec<String>,
    pub interest_noawait: Vec<String>,
    pub activate: Vec<String>,
    pub activate_noawait: Vec<String>,
    /// In place of what the files add up to, in KiB.
    pub installed_size: Option<u64>,
    /// The distribution that the changelog names.
    pub dist: Option<String>,
    /// A file of control fields, which count where no option says otherwise.
    pub custom_control: Option<PathBuf>,
    pub build_depends: Vec<String>,
    /// The changelog of those who wrote the software, beside the package's own.
    pub upstream_changelog: Option<PathBuf>,
    /// A command that fails ends any maintainer script.
    pub maintainerscripts_force_errorchecks: bool,
    /// Relations that name exactly this package's version get its iteration left out.
    pub ignore_iteration_in_dependencies: bool,
}

/// Who the package is.
pub(super) fn naming(build: &Build) -> Result<Naming, Error> {
    let version = Version::from_parts(build.epoch, &build.version, build.iteration.as_deref())
        .map_err(|reason| Error::field("version", reason))?;
    let architecture = control::architecture(build.architecture.as_deref().unwrap_or("native"));
    let plain = Version::from_parts(None, &build.version, None);
    Ok(Naming {
        name: control::package_name(&build.name).map_err(|reason| Error::field("name", reason))?,
        version: plain.map_or_else(|_| build.version.clone(), |plain| plain.to_string()),
        iteration: build.iteration.clone(),
        epoch: build.epoch,
        architecture: architecture.map_err(|reason| Error::field("architecture", reason))?,
        version_in_file_name: version.without_epoch(),
        full_version: version.to_string(),
    })
}

impl Contents {
    /// Writes the whole package to `out`; what is too large for memory waits in an unnamed file in `folder`.
    pub(super) fn pack(&self, build: &Build, folder: &Path, out: &File) -> Result<Packed, Error> {
        let failed = |source: io::Error| Error::Write { path: folder.to_owned(), source };
        // Without a name: nothing stays behind however this ends.
        let mut data = tempfile::tempfile_in(folder).map_err(failed)?;
        let mut encoder = build.compression.encoder(BufWriter::new(&mut data)).map_err(failed)?;
        let written = self.write_data(&mut encoder)?;
        encoder.finish().and_then(|mut rest| rest.flush()).map_err(failed)?;
        let mut control = GzEncoder::new(Vec::new(), Level::best());
        self.write_control(&written.md5sums, &mut control).map_err(failed)?;
        let control = control.finish().map_err(failed)?;
        let data_name = format!("data.tar{}", build.compression.suffix());
        let (size, sha256) = assemble(out, self.time, &control, &mut data, &data_name).map_err(failed)?;
        Ok(Packed { size, sha256, files: written.files, installed_size_kib: self.installed_size_kib() })
    }
}

/// Puts the three members together; answers the size and the SHA-256 of the whole.
fn assemble(
    out: &File,
    mtime: u64,
    control: &[u8],
    data: &mut File,
    data_name: &str,
) -> io::Result<(u64, String)> {
    let mut out = Summing::new(BufWriter::with_capacity(1 << 16, out));
    archive::write_ar_magic(&mut out)?;
    archive::write_ar_member(&mut out, "debian-binary", mtime, 4, &mut &b"2.0\n"[..])?;
    archive::write_ar_member(&mut out, "control.tar.gz", mtime, control.len() as u64, &mut &control[..])?;
    let size = data.stream_position()?;
    data.rewind()?;
    archive::write_ar_member(&mut out, data_name, mtime, size, &mut data.take(size))?;
    out.flush()?;
    let (size, sha256, _) = out.finish();
    Ok((size, sha256))
}
