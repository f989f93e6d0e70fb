//! RPM packages, version 4 of the format: written and read here, since memory must not grow with the content and every byte must be
//! accounted for (docs/adr/0013). Judged in the tests by rpm itself.
//!
//! Promises: see [`super::package`]. The content is compressed into a file without a name first, because the header before it holds its sums.

mod contents;
mod cpio;
mod header;
mod inspect;
mod relation;
mod scripts;
mod tag;

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use md5::Md5;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};

pub use inspect::{Inspected, inspect};

pub(super) use contents::Contents;

use super::package::{Build, Compression, Error, Naming, Packed, Summing};
use header::Header;

/// What only an .rpm has; fpm's names without their `rpm-`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Stands behind the release, as in `1.el9`.
    pub dist: Option<String>,
    /// `linux` when not said.
    pub os: Option<String>,
    /// One line; the first one of the description when not said.
    pub summary: Option<String>,
    /// The package owns every folder that its files need, but for those of the system.
    pub auto_add_directories: bool,
    /// Modes of all files and folders, octal; `-` leaves them as they are.
    pub defattrfile: Option<String>,
    pub defattrdir: Option<String>,
    pub pretrans: Option<PathBuf>,
    pub posttrans: Option<PathBuf>,
    pub verifyscript: Option<PathBuf>,
}

/// Who the package is. `-` in a version or release becomes `_`, as with fpm.
pub(super) fn naming(build: &Build) -> Result<Naming, Error> {
    let version = relation::version("version", &build.version)?;
    let mut release = relation::version("iteration", build.iteration.as_deref().unwrap_or("1"))?;
    if let Some(dist) = &build.rpm.dist {
        release = format!("{release}.{}", relation::version("rpm-dist", dist.trim_start_matches('.'))?);
    }
    let in_file_name = format!("{version}-{release}");
    let full_version = match build.epoch.filter(|epoch| *epoch > 0) {
        Some(epoch) => format!("{epoch}:{in_file_name}"),
        None => in_file_name.clone(),
    };
    Ok(Naming {
        name: relation::package_name(&build.name)?,
        version,
        iteration: Some(release),
        epoch: build.epoch,
        architecture: relation::architecture(build.architecture.as_deref().unwrap_or("native"))?,
        full_version,
        version_in_file_name: in_file_name,
    })
}

const LEAD_BYTES: usize = 96;

impl Contents {
    /// Writes the whole package to `out`; the payload waits in an unnamed file in `folder`.
    pub(super) fn pack(&self, build: &Build, folder: &Path, out: &File) -> Result<Packed, Error> {
        let failed = |source: io::Error| Error::Write { path: folder.to_owned(), source };
        // Without a name: nothing stays behind however this ends.
        let mut payload = tempfile::tempfile_in(folder).map_err(failed)?;
        let compressed = Summing::new(BufWriter::with_capacity(1 << 16, &mut payload));
        let encoder = build.compression.encoder(compressed).map_err(failed)?;
        let mut plain = Summing::new(encoder);
        let digests = self.write_payload(&mut plain)?;
        let (plain_size, plain_sum, encoder) = plain.finish();
        let (payload_size, payload_sum, mut rest) = encoder.finish().map_err(failed)?.finish();
        rest.flush().map_err(failed)?;
        drop(rest);
        let header = self.header(build, &digests, &payload_sum, &plain_sum).finish(tag::IMMUTABLE);
        payload.rewind().map_err(failed)?;
        let signature = signature(&header, &mut payload, payload_size, plain_size).map_err(failed)?;
        let mut whole = Summing::new(BufWriter::with_capacity(1 << 16, out));
        let mut write = || -> io::Result<()> {
            whole.write_all(&lead(&self.naming))?;
            whole.write_all(&signature)?;
            whole.write_all(&header)?;
            payload.rewind()?;
            io::copy(&mut (&mut payload).take(payload_size), &mut whole)?;
            whole.flush()
        };
        write().map_err(failed)?;
        let (size, sha256, _) = whole.finish();
        let files = self.packed_files(&digests);
        Ok(Packed { size, sha256, files, installed_size_kib: self.installed_bytes().div_ceil(1024) })
    }
}

/// What very old tools recognise the file by; everything in it is said again behind it.
fn lead(naming: &Naming) -> [u8; LEAD_BYTES] {
    let mut lead = [0; LEAD_BYTES];
    lead[..6].copy_from_slice(&[0xed, 0xab, 0xee, 0xdb, 3, 0]);
    lead[9] = 1;
    let name = format!("{}-{}", naming.name, naming.version_in_file_name);
    // The last byte stays empty.
    let length = name.len().min(65);
    lead[10..10 + length].copy_from_slice(&name.as_bytes()[..length]);
    lead[77] = 1;
    lead[79] = 5;
    lead
}

/// The sums of header and payload, padded as they stand in the file.
fn signature(header: &[u8], payload: &mut File, payload_size: u64, plain_size: u64) -> io::Result<Vec<u8>> {
    let mut md5 = Md5::new();
    md5.update(header);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = payload.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        md5.update(&buffer[..read]);
    }
    let mut signature = Header::default();
    signature.text(tag::SIGNATURE_SHA1, &hex::encode(Sha1::digest(header)));
    signature.text(tag::SIGNATURE_SHA256, &hex::encode(Sha256::digest(header)));
    signature.binary(tag::SIGNATURE_MD5, md5.finalize().to_vec());
    match (u32::try_from(header.len() as u64 + payload_size), u32::try_from(plain_size)) {
        (Ok(size), Ok(plain)) => {
            signature.numbers(tag::SIGNATURE_SIZE, &[size]);
            signature.numbers(tag::SIGNATURE_PAYLOAD_SIZE, &[plain]);
        }
        _ => {
            signature.long_numbers(tag::SIGNATURE_LONG_SIZE, &[header.len() as u64 + payload_size]);
            signature.long_numbers(tag::SIGNATURE_LONG_PAYLOAD_SIZE, &[plain_size]);
        }
    }
    let mut bytes = signature.finish(tag::SIGNATURES);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    Ok(bytes)
}

/// A compression as rpm knows it.
struct Compressor {
    name: &'static str,
    /// What is shown of how hard it tried.
    level: &'static str,
    /// What rpm must be able to do for it, and since when it is.
    feature: Option<(&'static str, &'static str)>,
}

fn compressor(compression: Compression) -> Option<Compressor> {
    let (name, level, feature) = match compression {
        Compression::Gz => ("gzip", "6", None),
        Compression::Xz => ("xz", "6", Some(("PayloadIsXz", "5.2-1"))),
        Compression::Zst => ("zstd", "9", Some(("PayloadIsZstd", "5.4.18-1"))),
        Compression::None => return None,
    };
    Some(Compressor { name, level, feature })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::process::Command;

    use super::super::package::Format;
    use super::*;

    #[test]
    fn the_forms_for_large_packages_are_rpms_own() {
        let scratch = tempfile::tempdir().unwrap();
        let input = scratch.path().join("input");
        std::fs::create_dir_all(input.join("a")).unwrap();
        std::fs::write(input.join("a/one"), "one").unwrap();
        std::fs::write(input.join("a/two"), vec![7; 100_001]).unwrap();
        std::fs::hard_link(input.join("a/one"), input.join("a/zero")).unwrap();
        std::os::unix::fs::symlink("one", input.join("a/link")).unwrap();
        let build = Build {
            output_type: Format::Rpm,
            name: "large".to_owned(),
            version: "1".to_owned(),
            architecture: Some("noarch".to_owned()),
            prefix: Some("/opt".to_owned()),
            chdir: Some(input),
            ..Build::default()
        };
        let mut contents = Contents::gather(&build).unwrap();
        contents.become_large();
        let path = scratch.path().join("large.rpm");
        contents.pack(&build, scratch.path(), &File::create(&path).unwrap()).unwrap();
        let root = scratch.path().join("root");
        std::fs::create_dir_all(root.join("var/lib/rpm")).unwrap();
        let rpm = |arguments: &[&str]| {
            let mut command = Command::new("rpm");
            if !nix::unistd::geteuid().is_root() {
                command = Command::new("unshare");
                command.args(["--map-root-user", "rpm"]);
            }
            let done = command.args(arguments).output().unwrap();
            let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
            assert!(done.status.success(), "{arguments:?}: {said}");
            said
        };
        let (file, root) = (path.to_str().unwrap(), root.to_str().unwrap());
        assert!(rpm(&["-K", file]).contains("OK"));
        let sizes = rpm(&["-qp", "--qf", "[%{LONGFILESIZES} ]%{LONGSIZE}", file]);
        assert_eq!(sizes, "3 3 100001 3 100007");
        rpm(&["--root", root, "-i", "--force-debian", file]);
        rpm(&["--root", root, "-V", "--nouser", "--nogroup", "large"]);
        assert_eq!(std::fs::read(Path::new(root).join("opt/a/zero")).unwrap(), b"one");
        assert_eq!(inspect(&path).unwrap().files.len(), 4);
    }
}
