//! How the content of a package is compressed. Each writes the same bytes for the same input, on every machine.

use std::io::{self, Write};

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use liblzma::write::XzEncoder;
use serde::{Deserialize, Serialize};

const XZ_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 9;

/// How the data archive is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    #[default]
    #[serde(alias = "gzip")]
    Gz,
    Xz,
    #[serde(alias = "zstd")]
    Zst,
    None,
}

impl Compression {
    /// The end of the name of a file that is compressed so.
    pub fn suffix(self) -> &'static str {
        match self {
            Compression::Gz => ".gz",
            Compression::Xz => ".xz",
            Compression::Zst => ".zst",
            Compression::None => "",
        }
    }

    pub(in super::super) fn encoder<W: Write>(self, inner: W) -> io::Result<Encoder<W>> {
        Ok(match self {
            Compression::Gz => Encoder::Gz(GzEncoder::new(inner, Level::default())),
            Compression::Xz => Encoder::Xz(XzEncoder::new(inner, XZ_LEVEL)),
            Compression::Zst => {
                let mut encoder = zstd::stream::write::Encoder::new(inner, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Encoder::Zst(encoder)
            }
            Compression::None => Encoder::None(inner),
        })
    }
}

pub(in super::super) enum Encoder<W: Write> {
    Gz(GzEncoder<W>),
    Xz(XzEncoder<W>),
    Zst(zstd::stream::write::Encoder<'static, W>),
    None(W),
}

impl<W: Write> Encoder<W> {
    pub(in super::super) fn finish(self) -> io::Result<W> {
        match self {
            Encoder::Gz(encoder) => encoder.finish(),
            Encoder::Xz(encoder) => encoder.finish(),
            Encoder::Zst(encoder) => encoder.finish(),
            Encoder::None(inner) => Ok(inner),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::Gz(encoder) => encoder.write(bytes),
            Encoder::Xz(encoder) => encoder.write(bytes),
            Encoder::Zst(encoder) => encoder.write(bytes),
            Encoder::None(inner) => inner.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::Gz(encoder) => encoder.flush(),
            Encoder::Xz(encoder) => encoder.flush(),
            Encoder::Zst(encoder) => encoder.flush(),
            Encoder::None(inner) => inner.flush(),
        }
    }
}
