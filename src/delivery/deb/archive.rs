//! The two archive formats of a .deb: `ar` around, `tar` within. Headers are written here byte by byte, so that the same
//! input gives the same bytes on every machine.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

const AR_MAGIC: &[u8] = b"!<arch>\n";
const AR_HEADER_LENGTH: usize = 60;
const NAME_LENGTH: usize = 100;

/// Begins an `ar` archive.
pub(super) fn write_ar_magic(out: &mut impl Write) -> io::Result<()> {
    out.write_all(AR_MAGIC)
}

/// One member of `size` bytes, padded to an even length.
pub(super) fn write_ar_member(
    out: &mut impl Write,
    name: &str,
    mtime: u64,
    size: u64,
    data: &mut impl Read,
) -> io::Result<()> {
    writeln!(out, "{name:<16}{mtime:<12}{:<6}{:<6}{:<8}{size:<10}`", 0, 0, 100_644)?;
    let copied = io::copy(data, out)?;
    if copied != size {
        return Err(io::Error::other(format!("{name} holds {copied} bytes in place of {size}")));
    }
    if size % 2 == 1 {
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Reads an `ar` archive's members in order.
pub(super) struct ArReader<R> {
    inner: R,
}

pub(super) struct ArMember {
    pub(super) name: String,
    pub(super) size: u64,
}

impl<R: Read> ArReader<R> {
    pub(super) fn open(mut inner: R) -> io::Result<ArReader<R>> {
        let mut magic = [0; 8];
        inner.read_exact(&mut magic).map_err(|_| invalid("it is too short"))?;
        if magic != AR_MAGIC {
            return Err(invalid("it does not begin as a .deb does"));
        }
        Ok(ArReader { inner })
    }

    /// The next member's header; nothing at the end. The member must have been read whole, see [`ArReader::data`].
    pub(super) fn next_member(&mut self) -> io::Result<Option<ArMember>> {
        let mut header = [0; AR_HEADER_LENGTH];
        let mut filled = 0;
        while filled < AR_HEADER_LENGTH {
            match self.inner.read(&mut header[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(invalid("it ends within a member's header")),
                read => filled += read,
            }
        }
        if &header[58..] != b"`\n" {
            return Err(invalid("a member's header is damaged"));
        }
        let text = std::str::from_utf8(&header[..58]).map_err(|_| invalid("a member's header is damaged"))?;
        let name = text[..16].trim_end().trim_end_matches('/').to_owned();
        let size = text[48..].trim().parse().map_err(|_| invalid("a member's size is no number"))?;
        Ok(Some(ArMember { name, size }))
    }

    /// The data of the member just read.
    pub(super) fn data(&mut self, member: &ArMember) -> io::Take<&mut R> {
        (&mut self.inner).take(member.size)
    }

    /// Reads over what is left of a member, of which `left` bytes were not read, and its padding.
    pub(super) fn finish(&mut self, member: &ArMember, left: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.inner).take(left), &mut io::sink())?;
        if skipped != left {
            return Err(invalid(&format!("it ends within {}", member.name)));
        }
        if member.size % 2 == 1 {
            let mut padding = [0];
            let _ = self.inner.read(&mut padding)?;
        }
        Ok(())
    }
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// What a tar entry is, beside its name.
pub(super) struct TarEntry<'a> {
    /// With `./` before it and, for a folder, `/` behind it.
    pub(super) name: &'a [u8],
    pub(super) kind: EntryType,
    pub(super) mode: u32,
    pub(super) mtime: u64,
    pub(super) size: u64,
    pub(super) link_target: &'a [u8],
    pub(super) user: &'a str,
    pub(super) group: &'a str,
}

/// Writes an entry's header; its data must follow, see [`write_tar_padding`].
pub(super) fn write_tar_header(out: &mut impl Write, entry: &TarEntry<'_>) -> io::Result<()> {
    write_long_name(out, entry.name, EntryType::GNULongName)?;
    write_long_name(out, entry.link_target, EntryType::GNULongLink)?;
    let header = tar_header(entry)?;
    out.write_all(header.as_bytes())
}

/// Fills the last block of an entry's data.
pub(super) fn write_tar_padding(out: &mut impl Write, size: u64) -> io::Result<()> {
    let over = usize::try_from(size % 512).unwrap_or(0);
    if over == 0 {
        return Ok(());
    }
    out.write_all(&[0; 512][over..])
}

/// The two empty blocks at the end.
pub(super) fn write_tar_end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 1024])
}

fn tar_header(entry: &TarEntry<'_>) -> io::Result<Header> {
    let mut header = Header::new_gnu();
    {
        let fields = header.as_old_mut();
        fill(&mut fields.name, entry.name);
        fill(&mut fields.linkname, entry.link_target);
    }
    header.set_entry_type(entry.kind);
    header.set_mode(entry.mode);
    // dpkg goes by the names; an owner without one is a number.
    header.set_uid(entry.user.parse().unwrap_or(0));
    header.set_gid(entry.group.parse().unwrap_or(0));
    header.set_username(entry.user)?;
    header.set_groupname(entry.group)?;
    header.set_mtime(entry.mtime);
    header.set_size(entry.size);
    header.set_cksum();
    Ok(header)
}

/// Names over 100 bytes stand in an entry of their own, in GNU's way, which dpkg reads.
fn write_long_name(out: &mut impl Write, name: &[u8], kind: EntryType) -> io::Result<()> {
    if name.len() <= NAME_LENGTH {
        return Ok(());
    }
    let size = name.len() as u64 + 1;
    let entry = TarEntry {
        name: b"././@LongLink",
        kind,
        mode: 0o644,
        mtime: 0,
        size,
        link_target: b"",
        user: "root",
        group: "root",
    };
    out.write_all(tar_header(&entry)?.as_bytes())?;
    out.write_all(name)?;
    out.write_all(&[0])?;
    write_tar_padding(out, size)
}

fn fill(field: &mut [u8; NAME_LENGTH], text: &[u8]) {
    let length = text.len().min(NAME_LENGTH);
    field[..length].copy_from_slice(&text[..length]);
}
