//! Reads a capture chunk by chunk, with bounded memory. Whatever the bytes are, it neither panics nor believes them.
//!
//! A capture that does not start as one is an error. Damage behind that is not: reading goes on where it can (at the next
//! segment of a rotated capture) or ends, and [`Reader::cut`] says what was cut.

use super::CaptureError;
use super::columns;
use super::format::{CHUNK_HEADER_BYTES, ChunkHeader, ChunkKind, FILE_HEADER_BYTES, parse_file_header};
use crate::pipeline::batch::Batch;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// Why reading stopped before the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutReason {
    /// The last chunk is whole, but nothing says that it is the last.
    NoEndMarker,
    /// The file ends inside a chunk.
    TornChunk,
    /// A checksum is wrong, or bytes are there that are no chunk.
    Damaged,
}

impl CutReason {
    /// For a sentence that starts with "the capture".
    pub fn text(self) -> &'static str {
        match self {
            CutReason::NoEndMarker => "ended without an end marker (was the tracer killed?)",
            CutReason::TornChunk => "ends inside a chunk (was the tracer killed, or the disk full?)",
            CutReason::Damaged => "is damaged",
        }
    }
}

/// What was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where the first chunk that could not be read was expected.
    pub at_byte: u64,
    /// Why it could not be read.
    pub reason: CutReason,
    /// Chunks of records read before it.
    pub chunks_read: u64,
    /// Records read before it.
    pub records_read: u64,
    /// Bytes from there to the end of the file or segment.
    pub unread_bytes: u64,
    /// Places where something was cut, this first one included.
    pub places: u64,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Cut { at_byte, chunks_read, records_read, unread_bytes, .. } = self;
        write!(
            f,
            "the capture {} at byte {at_byte}: {records_read} records in {chunks_read} chunks were read before it, \
             {unread_bytes} bytes were not",
            self.reason.text()
        )?;
        if self.places > 1 { write!(f, "; {} more such places follow", self.places - 1) } else { Ok(()) }
    }
}

/// What a reader has read so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReaderStats {
    /// Chunks of records.
    pub chunks: u64,
    /// Records of the stream; pinned copies are not among them.
    pub records: u64,
    /// Records that rotation dropped before the first one read.
    pub rotated_records: u64,
    /// Records missing elsewhere: lost in failed writes or damaged chunks.
    pub missing_records: u64,
    /// Chunks of kinds from a newer tracer, skipped.
    pub unknown_chunks: u64,
    /// Whether the end marker was reached.
    pub complete: bool,
}

/// A run of chunks: the whole file, or one segment.
#[derive(Clone, Copy)]
struct Segment {
    start: u64,
    end: u64,
}

/// Reads a capture.
pub struct Reader<R: Read + Seek = BufReader<File>> {
    input: R,
    name: String,
    /// Oldest first.
    segments: Vec<Segment>,
    segment: usize,
    position: u64,
    /// Sequence number that the next chunk of this segment must have.
    sequence: Option<u64>,
    /// `first_record` that the next chunk has if nothing is missing.
    next_record: u64,
    rotated: bool,
    head_given: bool,
    range_ns: Option<(u64, u64)>,
    cut: Option<Cut>,
    stats: ReaderStats,
    stored: Vec<u8>,
}

impl Reader<BufReader<File>> {
    /// Opens a capture file.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let open_error = |source| CaptureError::Open { path: path.to_owned(), source };
        // Asked before it is opened: opening a FIFO would wait for a writer.
        if !std::fs::metadata(path).map_err(open_error)?.is_file() {
            return Err(CaptureError::NotRegular { path: path.to_owned() });
        }
        let file = File::open(path).map_err(open_error)?;
        Reader::from_reader(BufReader::with_capacity(64 << 10, file), &path.to_string_lossy())
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Reads a capture from anywhere; `name` is for messages.
    pub fn from_reader(input: R, name: &str) -> Result<Self, CaptureError> {
        let mut input = input;
        let read_error = |source| CaptureError::Read { name: name.to_owned(), at_byte: 0, source };
        let file_bytes = input.seek(SeekFrom::End(0)).map_err(read_error)?;
        input.seek(SeekFrom::Start(0)).map_err(read_error)?;
        let mut start = Vec::new();
        input.by_ref().take(FILE_HEADER_BYTES).read_to_end(&mut start).map_err(read_error)?;
        let layout = parse_file_header(&start, file_bytes, name)?;
        let rotated = layout.segment_bytes > 0;
        let mut reader = Reader {
            input,
            name: name.to_owned(),
            segments: vec![Segment { start: FILE_HEADER_BYTES, end: file_bytes }],
            segment: 0,
            position: FILE_HEADER_BYTES,
            sequence: None,
            next_record: 0,
            rotated,
            head_given: false,
            range_ns: None,
            cut: None,
            stats: ReaderStats::default(),
            stored: Vec::new(),
        };
        if rotated {
            reader.find_segments(file_bytes, layout.segment_bytes, layout.segments)?;
            reader.position = reader.segments.first().map_or(FILE_HEADER_BYTES, |segment| segment.start);
        }
        Ok(reader)
    }

    /// The next batch, one per chunk; `None` at the end, or where reading cannot go on ([`cut`](Self::cut)). Only errors of the
    /// operating system are errors.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, CaptureError> {
        while let Some(segment) = self.segments.get(self.segment).copied() {
            let Some(header) = self.next_header(segment)? else { continue };
            let body_at = self.position + CHUNK_HEADER_BYTES as u64;
            let next = body_at + u64::from(header.stored_bytes);
            match header.kind {
                ChunkKind::End => {
                    self.note_gap(header.first_record);
                    self.stats.complete = true;
                    self.segment = self.segments.len();
                    continue;
                }
                ChunkKind::SegmentEnd => {
                    self.next_segment();
                    continue;
                }
                ChunkKind::Unknown => {
                    self.stats.unknown_chunks += 1;
                    self.position = next;
                    continue;
                }
                ChunkKind::Head if self.head_given || self.stats.chunks > 0 => {
                    self.position = next;
                    continue;
                }
                ChunkKind::Head | ChunkKind::Data => {}
            }
            let Some(batch) = self.body(header, body_at)? else {
                // What a kill in the middle of a write leaves on a used segment has the length of a whole chunk.
                let newest = self.rotated && self.segment + 1 == self.segments.len();
                self.give_up(segment, if newest { CutReason::TornChunk } else { CutReason::Damaged });
                continue;
            };
            self.position = next;
            if header.kind == ChunkKind::Head {
                self.head_given = true;
            } else {
                self.note_gap(header.first_record);
                self.next_record = header.first_record.saturating_add(u64::from(header.records));
                self.stats.chunks += 1;
                self.stats.records += u64::from(header.records);
            }
            if header.records > 0 {
                self.range_ns = Some((header.min_ts_ns, header.max_ts_ns));
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    /// What could not be read, as far as reading has come.
    pub fn cut(&self) -> Option<Cut> {
        self.cut
    }

    /// Counts so far.
    pub fn stats(&self) -> ReaderStats {
        self.stats
    }

    /// Least and greatest time of the batch given last.
    pub fn range_ns(&self) -> Option<(u64, u64)> {
        self.range_ns
    }

    /// Finds the segments that hold something and puts them in order.
    fn find_segments(&mut self, file_bytes: u64, segment_bytes: u64, count: u32) -> Result<(), CaptureError> {
        let mut found = Vec::new();
        let mut unreadable = Vec::new();
        for number in 0..u64::from(count) {
            let start = FILE_HEADER_BYTES.saturating_add(number.saturating_mul(segment_bytes));
            let segment = Segment { start, end: start.saturating_add(segment_bytes).min(file_bytes) };
            if start >= file_bytes {
                break;
            }
            match self.header_at(start, segment.end)? {
                Some(header) => found.push((header.sequence, segment)),
                None => unreadable.push(segment),
            }
        }
        found.sort_by_key(|(sequence, segment)| (*sequence, segment.start));
        self.segments = found.into_iter().map(|(_, segment)| segment).collect();
        if self.segments.is_empty() && unreadable.is_empty() {
            // Nothing was written: says so as for a file without rotation.
            self.segments.push(Segment { start: FILE_HEADER_BYTES, end: file_bytes });
        }
        for segment in unreadable {
            self.position = segment.start;
            self.note_cut(segment, CutReason::Damaged);
        }
        Ok(())
    }

    /// The header at the current position, checked against what must come here. `None`: nothing to read there, and the reader
    /// has gone on to the next segment.
    fn next_header(&mut self, segment: Segment) -> Result<Option<ChunkHeader>, CaptureError> {
        let left = segment.end.saturating_sub(self.position);
        let header = self.header_at(self.position, segment.end)?;
        let in_turn = header.filter(|header| self.sequence.is_none_or(|sequence| header.sequence == sequence));
        let newest = self.segment + 1 == self.segments.len();
        let reason = match in_turn {
            // Behind the newest chunk of a rotated capture lies what remains of an older lap.
            None if left == 0 || (self.rotated && newest) => CutReason::NoEndMarker,
            None if left < CHUNK_HEADER_BYTES as u64 => CutReason::TornChunk,
            None => CutReason::Damaged,
            Some(header) if left - (CHUNK_HEADER_BYTES as u64) < u64::from(header.stored_bytes) => CutReason::TornChunk,
            Some(header) => {
                self.sequence = header.sequence.checked_add(1);
                return Ok(Some(header));
            }
        };
        self.give_up(segment, reason);
        Ok(None)
    }

    fn header_at(&mut self, at: u64, end: u64) -> Result<Option<ChunkHeader>, CaptureError> {
        if end.saturating_sub(at) < CHUNK_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let mut bytes = [0; CHUNK_HEADER_BYTES];
        Ok(if self.read_at(at, &mut bytes)? { ChunkHeader::parse(&bytes) } else { None })
    }

    /// The records of a chunk; `None` if it is damaged.
    fn body(&mut self, header: ChunkHeader, at: u64) -> Result<Option<Batch>, CaptureError> {
        let mut stored = std::mem::take(&mut self.stored);
        stored.resize(header.stored_bytes as usize, 0);
        let read = self.read_at(at, &mut stored);
        let whole = matches!(read, Ok(true)) && crc32fast::hash(&stored) == header.body_crc;
        let batch =
            if whole { columns::unpack(&stored, header.raw_bytes as usize, header.records as usize) } else { None };
        self.stored = stored;
        read.map(|_| batch)
    }

    /// Whether all of `bytes` could be read; the file may have been cut since it was opened.
    fn read_at(&mut self, at: u64, bytes: &mut [u8]) -> Result<bool, CaptureError> {
        match self.input.seek(SeekFrom::Start(at)).and_then(|_| self.input.read_exact(bytes)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(source) => Err(CaptureError::Read { name: self.name.clone(), at_byte: at, source }),
        }
    }

    /// Counts what is missing between the last chunk and one that starts with this record.
    fn note_gap(&mut self, first_record: u64) {
        let missing = first_record.saturating_sub(self.next_record);
        if self.rotated && self.stats.chunks == 0 && self.cut.is_none() {
            self.stats.rotated_records += missing;
        } else {
            self.stats.missing_records += missing;
        }
    }

    /// Gives up this segment.
    fn give_up(&mut self, segment: Segment, reason: CutReason) {
        self.note_cut(segment, reason);
        self.next_segment();
    }

    fn note_cut(&mut self, segment: Segment, reason: CutReason) {
        let first = Cut {
            at_byte: self.position,
            reason,
            chunks_read: self.stats.chunks,
            records_read: self.stats.records,
            unread_bytes: segment.end.saturating_sub(self.position),
            places: 0,
        };
        self.cut.get_or_insert(first).places += 1;
    }

    fn next_segment(&mut self) {
        self.segment += 1;
        self.sequence = None;
        if let Some(segment) = self.segments.get(self.segment) {
            self.position = segment.start;
        } else if !self.stats.complete && self.cut.is_none() {
            // The last segment says that another follows, which is not there: killed between the two.
            self.note_cut(Segment { start: self.position, end: self.position }, CutReason::NoEndMarker);
        }
    }
}
