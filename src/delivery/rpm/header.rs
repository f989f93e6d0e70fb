//! RPM's header: an index of numbered, typed values and a store that they lie in. Written in the order of the numbers, read with bounds.

use std::collections::BTreeMap;
use std::io::{self, Read};

const MAGIC: [u8; 8] = [0x8e, 0xad, 0xe8, 0x01, 0, 0, 0, 0];
const INDEX_ENTRY_BYTES: usize = 16;
/// The largest header that is read; rpm itself stops at four times as much.
const MOST_STORE_BYTES: usize = 64 << 20;
const MOST_ENTRIES: usize = 4096;

const INT16: u32 = 3;
const INT32: u32 = 4;
const INT64: u32 = 5;
const STRING: u32 = 6;
const BINARY: u32 = 7;
const STRING_ARRAY: u32 = 8;
const TRANSLATED: u32 = 9;

struct Value {
    kind: u32,
    count: u32,
    data: Vec<u8>,
}

/// A header that is being put together.
#[derive(Default)]
pub(super) struct Header {
    values: BTreeMap<u32, Value>,
}

impl Header {
    fn put(&mut self, tag: u32, kind: u32, count: usize, data: Vec<u8>) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.values.insert(tag, Value { kind, count, data });
    }

    pub(super) fn text(&mut self, tag: u32, text: &str) {
        self.put(tag, STRING, 1, terminated(&[text]));
    }

    /// Text that could be in several languages and is in none.
    pub(super) fn translated(&mut self, tag: u32, text: &str) {
        self.put(tag, TRANSLATED, 1, terminated(&[text]));
    }

    pub(super) fn texts<T: AsRef<[u8]>>(&mut self, tag: u32, texts: &[T]) {
        if !texts.is_empty() {
            self.put(tag, STRING_ARRAY, texts.len(), terminated(texts));
        }
    }

    pub(super) fn short_numbers(&mut self, tag: u32, numbers: &[u16]) {
        if !numbers.is_empty() {
            let data = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
            self.put(tag, INT16, numbers.len(), data);
        }
    }

    pub(super) fn numbers(&mut self, tag: u32, numbers: &[u32]) {
        if !numbers.is_empty() {
            let data = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
            self.put(tag, INT32, numbers.len(), data);
        }
    }

    pub(super) fn long_numbers(&mut self, tag: u32, numbers: &[u64]) {
        if !numbers.is_empty() {
            let data = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
            self.put(tag, INT64, numbers.len(), data);
        }
    }

    pub(super) fn binary(&mut self, tag: u32, data: Vec<u8>) {
        self.put(tag, BINARY, data.len(), data);
    }

    /// The bytes, as one region that carries `region`'s number and must not be changed.
    pub(super) fn finish(&self, region: u32) -> Vec<u8> {
        let entries = self.values.len() + 1;
        let (mut index, mut store) = (Vec::new(), Vec::new());
        for (tag, value) in &self.values {
            let alignment = match value.kind {
                INT16 => 2,
                INT32 => 4,
                INT64 => 8,
                _ => 1,
            };
            store.resize(usize::next_multiple_of(store.len(), alignment), 0);
            index.extend(entry(*tag, value.kind, store.len() as u32, value.count));
            store.extend_from_slice(&value.data);
        }
        let trailer_offset = store.len() as u32;
        // The trailer says, as a negative offset, how long the index of the region is.
        let index_bytes = (entries * INDEX_ENTRY_BYTES) as u32;
        store.extend(entry(region, BINARY, index_bytes.wrapping_neg(), INDEX_ENTRY_BYTES as u32));
        let mut bytes = MAGIC.to_vec();
        bytes.extend((entries as u32).to_be_bytes());
        bytes.extend((store.len() as u32).to_be_bytes());
        bytes.extend(entry(region, BINARY, trailer_offset, INDEX_ENTRY_BYTES as u32));
        bytes.extend(index);
        bytes.extend(store);
        bytes
    }
}

fn terminated<T: AsRef<[u8]>>(texts: &[T]) -> Vec<u8> {
    let mut data = Vec::new();
    for text in texts {
        data.extend_from_slice(text.as_ref());
        data.push(0);
    }
    data
}

fn entry(tag: u32, kind: u32, offset: u32, count: u32) -> Vec<u8> {
    [tag, kind, offset, count].iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// A header that was read.
pub(super) struct Parsed {
    /// All of it, as it stands in the file.
    pub(super) bytes: Vec<u8>,
    values: BTreeMap<u32, Value>,
}

impl Parsed {
    pub(super) fn read(reader: &mut impl Read) -> io::Result<Parsed> {
        let mut start = [0; 16];
        reader.read_exact(&mut start).map_err(|_| invalid("it ends before its header"))?;
        if start[..8] != MAGIC {
            return Err(invalid("no header stands where one should"));
        }
        let (entries, store_bytes) = (number_at(&start, 8) as usize, number_at(&start, 12) as usize);
        if entries > MOST_ENTRIES || store_bytes > MOST_STORE_BYTES {
            return Err(invalid("its header is larger than any package needs"));
        }
        let length = entries * INDEX_ENTRY_BYTES + store_bytes;
        let mut bytes = start.to_vec();
        let read = reader.take(length as u64).read_to_end(&mut bytes)?;
        if read != length {
            return Err(invalid("it ends within its header"));
        }
        let store = &bytes[16 + entries * INDEX_ENTRY_BYTES..];
        let mut values = BTreeMap::new();
        for number in 0..entries {
            let at = 16 + number * INDEX_ENTRY_BYTES;
            let [tag, kind, offset, count] = [0, 4, 8, 12].map(|field| number_at(&bytes, at + field));
            let data = data_of(store, kind, offset as usize, count as usize)
                .ok_or_else(|| invalid("a value of its header lies outside of it"))?;
            values.insert(tag, Value { kind, count, data: data.to_vec() });
        }
        Ok(Parsed { bytes, values })
    }

    /// The texts of `tag`; none when it is not there.
    pub(super) fn texts(&self, tag: u32) -> Vec<String> {
        let Some(value) = self.values.get(&tag) else { return Vec::new() };
        if !matches!(value.kind, STRING | STRING_ARRAY | TRANSLATED) {
            return Vec::new();
        }
        let parts = value.data.split(|byte| *byte == 0).take(value.count as usize);
        parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
    }

    pub(super) fn text(&self, tag: u32) -> Option<String> {
        self.texts(tag).into_iter().next()
    }

    /// The numbers of `tag`, of whatever width.
    pub(super) fn numbers(&self, tag: u32) -> Vec<u64> {
        let Some(value) = self.values.get(&tag) else { return Vec::new() };
        let width = match value.kind {
            INT16 => 2,
            INT32 => 4,
            INT64 => 8,
            _ => return Vec::new(),
        };
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte));
        value.data.chunks_exact(width).map(number).collect()
    }

    pub(super) fn binary(&self, tag: u32) -> Option<&[u8]> {
        self.values.get(&tag).filter(|value| value.kind == BINARY).map(|value| value.data.as_slice())
    }
}

fn data_of(store: &[u8], kind: u32, offset: usize, count: usize) -> Option<&[u8]> {
    let rest = store.get(offset..)?;
    let length = match kind {
        0 => 0,
        1 | 2 | BINARY => count,
        INT16 => count.checked_mul(2)?,
        INT32 => count.checked_mul(4)?,
        INT64 => count.checked_mul(8)?,
        STRING | STRING_ARRAY | TRANSLATED => {
            if count == 0 {
                return Some(&[]);
            }
            let mut ends = rest.iter().enumerate().filter(|(_, byte)| **byte == 0).map(|(end, _)| end);
            ends.nth(count - 1)? + 1
        }
        _ => return None,
    };
    rest.get(..length)
}

fn number_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(number)
}

pub(super) fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
