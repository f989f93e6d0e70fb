//! Tar files as inputs. Nothing is unpacked by name: each file's content lies under a number in a folder of our own until it is packed, so that no
//! name in the archive can lead anywhere.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Error;
use super::tree::{Entry, Kind, Owner, target_path};

/// How many entries one archive may have.
const MOST_ENTRIES: usize = 1_000_000;

/// One entry of an archive: its path there, and what it is.
pub(super) type Found = (Vec<u8>, Entry);

/// Reads `archive` and puts the contents of its files into `staging`, under numbers from `number` on.
pub(super) fn read(archive: &Path, staging: &Path, number: &mut u64) -> Result<Vec<Found>, Error> {
    let unreadable =
        |error: io::Error| Error::input(archive, format!("it can't be read as a tar file: {error}"));
    let file = File::open(archive).map_err(|error| Error::input(archive, error.to_string()))?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(Error::input(archive, "it is no tar file"));
    }
    let mut plain = decompressed(BufReader::with_capacity(1 << 16, file)).map_err(unreadable)?;
    let mut found: Vec<Found> = Vec::new();
    let mut files: HashMap<Vec<u8>, Entry> = HashMap::new();
    for entry in tar::Archive::new(&mut plain).entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        if found.len() >= MOST_ENTRIES {
            return Err(Error::input(archive, format!("it has more than {MOST_ENTRIES} entries")));
        }
        let name = entry.path_bytes().into_owned();
        let refused = |reason: &str| {
            Error::input(archive, format!("`{}`: {reason}", String::from_utf8_lossy(&name).escape_debug()))
        };
        let path = target_path(Path::new(std::ffi::OsStr::from_bytes(&name)))
            .map_err(|_| refused("`..` has no place in a package"))?;
        if path.is_empty() {
            continue;
        }
        let header = entry.header().clone();
        let mode = header.mode().map_err(unreadable)? & 0o7777;
        let mtime = header.mtime().map_err(unreadable)?;
        let owner = owner_of(&header);
        let kind = header.entry_type();
        let link = entry.link_name_bytes().map(|target| target.into_owned());
        let kind = if kind.is_dir() {
            Kind::Directory
        } else if kind.is_symlink() {
            Kind::Symlink(
                link.filter(|target| !target.is_empty()).ok_or_else(|| refused("a link to nothing"))?,
            )
        } else if kind.is_hard_link() {
            let target = link.unwrap_or_default();
            let target = target_path(Path::new(std::ffi::OsStr::from_bytes(&target)))
                .map_err(|_| refused("a hard link out of the archive"))?;
            let first = files.get(&target).ok_or_else(|| refused("a hard link to what is not before it"))?;
            first.kind.clone()
        } else if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
            *number += 1;
            let source = staging.join(number.to_string());
            let mut out =
                File::create_new(&source).map_err(|error| Error::input(&source, error.to_string()))?;
            let size = io::copy(&mut entry, &mut out).map_err(unreadable)?;
            Kind::File { source, size, identity: Some((u64::MAX, *number)) }
        } else if kind.is_pax_global_extensions() {
            continue;
        } else {
            return Err(refused(
                "a device or pipe, which a package can't carry; leave it out of the tar file",
            ));
        };
        let entry = Entry { kind, mode, mtime: Some(mtime), owner };
        if let Kind::File { .. } = entry.kind {
            files.insert(path.clone(), entry.clone());
        }
        found.push((path, entry));
    }
    // To the end, so that the compressor's checksum is looked at.
    io::copy(&mut plain, &mut io::sink()).map_err(unreadable)?;
    Ok(found)
}

fn owner_of(header: &tar::Header) -> Owner {
    let name = |bytes: Option<&[u8]>| {
        let text = String::from_utf8_lossy(bytes?).into_owned();
        super::attributes::account("tar", &text).ok()
    };
    Owner { user: name(header.username_bytes()), group: name(header.groupname_bytes()) }
}

/// By the first bytes, whatever the file is called.
fn decompressed(mut file: BufReader<File>) -> io::Result<Box<dyn Read>> {
    use std::io::BufRead;
    let start = file.fill_buf()?;
    let begins = |magic: &[u8]| start.starts_with(magic);
    if begins(b"\x1f\x8b") {
        return Ok(Box::new(flate2::read::MultiGzDecoder::new(file)));
    }
    if begins(b"\xfd7zXZ\0") {
        return Ok(Box::new(liblzma::read::XzDecoder::new_multi_decoder(file)));
    }
    if begins(b"\x28\xb5\x2f\xfd") {
        return Ok(Box::new(zstd::stream::read::Decoder::new(file)?));
    }
    if begins(b"BZh") {
        return Err(io::Error::other("it is compressed with bzip2; gz, xz, zst and none are known"));
    }
    Ok(Box::new(file))
}

/// A folder for the contents of tar files, made when there are any.
pub(super) fn staging() -> Result<tempfile::TempDir, Error> {
    let place = std::env::temp_dir();
    tempfile::Builder::new().prefix("siskin-package-").tempdir().map_err(|error| {
        Error::input(place, format!("no room for the contents of the tar files can be made: {error}"))
    })
}
