//! The bytes of the file header and of chunk headers, both ways. Not here: what is inside a chunk (`columns`), where chunks
//! lie (`writer`, `reader`).
//!
//! All numbers are little-endian. Both headers are 64 bytes and end with a CRC-32 of what is before it. Reserved bytes are zero.

use super::CaptureError;
use tracer_common::ABI_VERSION;

/// First bytes of every capture. The byte above 127 and the line feed show a transfer that mangled the file.
pub(super) const FILE_MAGIC: [u8; 8] = *b"\x8ftracer\n";
/// Version of the file format: header, chunk headers, columns.
pub const FORMAT_VERSION: u32 = 1;
/// Length of the file header.
pub(super) const FILE_HEADER_BYTES: u64 = 64;
/// Length of a chunk's header.
pub(super) const CHUNK_HEADER_BYTES: usize = 64;
/// Most bytes that a chunk may hold, stored or unpacked: what a reader allocates for a hostile file.
pub(super) const MAX_CHUNK_BYTES: usize = 64 << 20;
/// Most records that a chunk may hold.
pub(super) const MAX_CHUNK_RECORDS: usize = 4 << 20;
/// Most segments that a reader looks for.
const MAX_SEGMENTS: u32 = 64;

const CHUNK_MAGIC: [u8; 4] = *b"TRCK";
const CRC_AT: usize = 60;

/// How the space behind the file header is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// 0: one run of chunks to the end of the file. Otherwise the length of each segment.
    pub segment_bytes: u64,
    /// Number of segments.
    pub segments: u32,
}

/// What a chunk is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChunkKind {
    /// Records of the stream.
    Data,
    /// Copies of what rotation must not lose, at the start of a segment; not part of the stream.
    Head,
    /// The writer went on to the next segment.
    SegmentEnd,
    /// The capture is complete.
    End,
    /// From a newer tracer: skipped and counted.
    Unknown,
}

/// A chunk's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkHeader {
    pub kind: ChunkKind,
    /// Rises by one from chunk to chunk, over all segments.
    pub sequence: u64,
    /// Number of records in the stream before this chunk, lost ones included.
    pub first_record: u64,
    pub records: u32,
    /// Length of the unpacked body.
    pub raw_bytes: u32,
    /// Length of the body in the file.
    pub stored_bytes: u32,
    pub body_crc: u32,
    /// Least and greatest time of its records; both 0 without any.
    pub min_ts_ns: u64,
    pub max_ts_ns: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The file header for this layout.
pub(super) fn file_header(layout: Layout) -> [u8; FILE_HEADER_BYTES as usize] {
    let mut bytes = [0; FILE_HEADER_BYTES as usize];
    bytes[0..8].copy_from_slice(&FILE_MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&ABI_VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&layout.segment_bytes.to_le_bytes());
    bytes[24..28].copy_from_slice(&layout.segments.to_le_bytes());
    seal(&mut bytes);
    bytes
}

/// Reads the file header from the first bytes of a file of `file_bytes`.
pub(super) fn parse_file_header(start: &[u8], file_bytes: u64, name: &str) -> Result<Layout, CaptureError> {
    let name = || name.to_owned();
    if start.is_empty() {
        return Err(CaptureError::Empty { name: name() });
    }
    let magic_bytes = start.len().min(FILE_MAGIC.len());
    if start[..magic_bytes] != FILE_MAGIC[..magic_bytes] {
        return Err(CaptureError::NotACapture { name: name() });
    }
    if start.len() < FILE_HEADER_BYTES as usize {
        return Err(CaptureError::CutHeader { name: name(), len_bytes: file_bytes });
    }
    let found = u32_at(start, 8);
    if found != FORMAT_VERSION {
        return Err(CaptureError::FormatVersion { name: name(), found, expected: FORMAT_VERSION });
    }
    let layout = Layout { segment_bytes: u64_at(start, 16), segments: u32_at(start, 24) };
    let possible = layout.segment_bytes == 0
        || ((1..=MAX_SEGMENTS).contains(&layout.segments)
            && layout.segment_bytes >= CHUNK_HEADER_BYTES as u64
            && layout.segment_bytes < 1 << 56);
    if u32_at(start, CRC_AT) != crc32fast::hash(&start[..CRC_AT]) || !possible {
        return Err(CaptureError::DamagedHeader { name: name() });
    }
    let found = u32_at(start, 12);
    if found != ABI_VERSION {
        return Err(CaptureError::AbiVersion { name: name(), found, expected: ABI_VERSION });
    }
    Ok(layout)
}

/// Writes the checksum of a header into its last four bytes.
pub(super) fn seal(header: &mut [u8; 64]) {
    let crc = crc32fast::hash(&header[..CRC_AT]);
    header[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

impl ChunkKind {
    fn number(self) -> u8 {
        match self {
            ChunkKind::Unknown => 0,
            ChunkKind::Data => 1,
            ChunkKind::Head => 2,
            ChunkKind::SegmentEnd => 3,
            ChunkKind::End => 4,
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            1 => ChunkKind::Data,
            2 => ChunkKind::Head,
            3 => ChunkKind::SegmentEnd,
            4 => ChunkKind::End,
            _ => ChunkKind::Unknown,
        }
    }
}

impl ChunkHeader {
    /// A header without a body.
    pub(super) fn marker(kind: ChunkKind, sequence: u64, first_record: u64) -> Self {
        ChunkHeader {
            kind,
            sequence,
            first_record,
            records: 0,
            raw_bytes: 0,
            stored_bytes: 0,
            body_crc: crc32fast::hash(&[]),
            min_ts_ns: 0,
            max_ts_ns: 0,
        }
    }

    pub(super) fn to_bytes(self) -> [u8; CHUNK_HEADER_BYTES] {
        let mut bytes = [0; CHUNK_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&CHUNK_MAGIC);
        bytes[4] = self.kind.number();
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_record.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.records.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.raw_bytes.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.stored_bytes.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.body_crc.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.min_ts_ns.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.max_ts_ns.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// `None`: these bytes are no chunk header, or a damaged one.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < CHUNK_HEADER_BYTES || bytes[..4] != CHUNK_MAGIC {
            return None;
        }
        if u32_at(bytes, CRC_AT) != crc32fast::hash(&bytes[..CRC_AT]) {
            return None;
        }
        let header = ChunkHeader {
            kind: ChunkKind::from_number(bytes[4]),
            sequence: u64_at(bytes, 8),
            first_record: u64_at(bytes, 16),
            records: u32_at(bytes, 24),
            raw_bytes: u32_at(bytes, 28),
            stored_bytes: u32_at(bytes, 32),
            body_crc: u32_at(bytes, 36),
            min_ts_ns: u64_at(bytes, 40),
            max_ts_ns: u64_at(bytes, 48),
        };
        let bounded = header.raw_bytes as usize <= MAX_CHUNK_BYTES
            && header.stored_bytes as usize <= MAX_CHUNK_BYTES
            && header.records as usize <= MAX_CHUNK_RECORDS;
        bounded.then_some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_header_survives_its_bytes_and_no_flipped_bit_does() {
        let header = ChunkHeader {
            kind: ChunkKind::Data,
            sequence: 7,
            first_record: 1 << 40,
            records: 3,
            raw_bytes: 4,
            stored_bytes: 5,
            body_crc: 6,
            min_ts_ns: 8,
            max_ts_ns: u64::MAX,
        };
        let bytes = header.to_bytes();
        assert_eq!(ChunkHeader::parse(&bytes), Some(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ChunkHeader::parse(&flipped), None, "bit {bit} flipped unnoticed");
        }
    }

    #[test]
    fn a_file_header_survives_its_bytes() {
        let layout = Layout { segment_bytes: 1 << 20, segments: 4 };
        let bytes = file_header(layout);
        assert_eq!(parse_file_header(&bytes, 64, "x").ok(), Some(layout));
    }

    #[test]
    fn each_bad_start_has_its_own_message() {
        let good = file_header(Layout { segment_bytes: 0, segments: 0 });
        let with = |at: usize, value: u8, sealed: bool| {
            let mut bytes = good;
            bytes[at] = value;
            if sealed {
                seal(&mut bytes);
            }
            parse_file_header(&bytes, 64, "a.trc").err().map(|e| e.to_string()).unwrap_or_default()
        };
        let says = |bytes: &[u8]| {
            parse_file_header(bytes, bytes.len() as u64, "a.trc").err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(says(&[]).contains("is empty"));
        assert!(says(&good[..20]).contains("cut off after 20 bytes"));
        assert!(says(b"PK\x03\x04").contains("not a tracer capture"));
        assert!(with(0, b'x', true).contains("not a tracer capture"));
        assert!(with(8, 9, true).contains("format version 9, this tracer reads 1"));
        assert!(with(12, 77, true).contains("ABI version 77"));
        assert!(with(12, 77, false).contains("damaged"));
        assert!(with(16, 1, true).contains("damaged"), "a segment shorter than a chunk header");
    }
}
