//! A batch of records: what a source hands over at once. One buffer, no allocation per record. Knows no kind of record.

use tracer_common::record::{HEADER_BYTES, Header};

/// Records as bytes, header included, in the order in which the source gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one record. Shorter ones than a header are kept too: decoding counts them.
    pub fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len() as u32);
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all records.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets the records, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// The record at this index.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)? as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        self.bytes.get(start..end)
    }

    /// The records in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

/// Reads the header of a record.
pub fn header(record: &[u8]) -> Option<Header> {
    // Several look at the header of each record: as one number, which is quick in development builds too.
    let bytes: &[u8; HEADER_BYTES] = record.first_chunk()?;
    let number = u128::from_le_bytes(*bytes);
    Some(Header {
        ts_ns: number as u64,
        kind: (number >> 64) as u16,
        cpu: (number >> 80) as u16,
        lost: (number >> 96) as u32,
    })
}

/// Writes a header as the kernel would.
pub fn header_bytes(header: Header) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0..8].copy_from_slice(&header.ts_ns.to_le_bytes());
    bytes[8..10].copy_from_slice(&header.kind.to_le_bytes());
    bytes[10..12].copy_from_slice(&header.cpu.to_le_bytes());
    bytes[12..16].copy_from_slice(&header.lost.to_le_bytes());
    bytes
}
