//! The archive inside an .rpm: cpio of the "new ASCII" kind, and rpm's own short form of it for files that are too large for that.

use std::io::{self, Write};

/// What stands before an entry's content.
pub(super) struct Entry<'a> {
    /// With `./` before it.
    pub(super) name: &'a [u8],
    pub(super) inode: u32,
    /// With the bits of its kind.
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) mtime: u32,
    pub(super) size: u32,
}

pub(super) fn write_header(out: &mut impl Write, entry: &Entry<'_>) -> io::Result<()> {
    let name_bytes = entry.name.len() + 1;
    write!(
        out,
        "070701{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{name_bytes:08x}{:08x}",
        entry.inode, entry.mode, 0, 0, entry.links, entry.mtime, entry.size, 0, 0, 0, 0, 0
    )?;
    out.write_all(entry.name)?;
    out.write_all(&[0])?;
    write_padding(out, 110 + name_bytes as u64)
}

/// An entry that is only the place of the file in the package's header.
pub(super) fn write_short_header(out: &mut impl Write, index: u32) -> io::Result<()> {
    write!(out, "07070X{index:08x}")?;
    write_padding(out, 14)
}

/// Fills up to four bytes.
pub(super) fn write_padding(out: &mut impl Write, length: u64) -> io::Result<()> {
    let over = usize::try_from(length % 4).unwrap_or(0);
    if over == 0 {
        return Ok(());
    }
    out.write_all(&[0; 4][over..])
}

pub(super) fn write_end(out: &mut impl Write) -> io::Result<()> {
    write_header(out, &Entry { name: b"TRAILER!!!", inode: 0, mode: 0, links: 1, mtime: 0, size: 0 })
}
