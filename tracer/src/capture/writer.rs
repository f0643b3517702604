//! Writes a capture: gathers batches into chunks, goes on after failed writes, and rotates within a bound. Reads no clock.
//!
//! Without a bound, chunks follow each other to the end of the file. With a bound the space is divided into [`SEGMENTS`] equal
//! segments that are written in turn, over and over; going on to a used segment drops what is in it (counted). So at least
//! three quarters of the bound hold the newest records. Each segment but the very first starts with the pinned records: facts
//! of family 0, and the seeds of all threads or the newest keyframe in their place; together at most a quarter of a segment
//! before compression. What found no room there is counted in [`WriterStats::unpinned_records`].
//!
//! Definitions of stacks that a segment's samples need are written again in each segment, in front of the first sample that needs
//! them; see `defined`. They count as records of the stream. Those that the first chunk of a segment needs stand in its head.
//!
//! A chunk is on disk, as far as the page cache goes, after `write` returned; nothing is synced, so a crash of the machine may
//! cost more than a kill of the tracer.

use super::columns::Packer;
use super::format::{
    CHUNK_HEADER_BYTES, ChunkHeader, ChunkKind, FILE_HEADER_BYTES, Layout, MAX_CHUNK_BYTES, MAX_CHUNK_RECORDS,
    file_header,
};
use super::{CaptureError, defined::Defined, pinned::Pinned};
use crate::pipeline::batch::{Batch, header};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Segments of a bounded capture.
pub const SEGMENTS: u32 = 4;
/// Least bound of a capture.
pub const LEAST_MAX_BYTES: u64 = 256 << 10;
/// A record longer than this is dropped and counted.
const MAX_RECORD_BYTES: usize = 16 << 20;
const MARKER_BYTES: u64 = CHUNK_HEADER_BYTES as u64;

/// How a capture is written.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bound of the file's length; `None`: it grows.
    pub max_bytes: Option<u64>,
    /// A chunk is written when its records have this many bytes.
    pub chunk_bytes: usize,
    /// A chunk is written when its oldest record has this age, see [`Writer::tick`].
    pub chunk_age_ns: u64,
    /// Level of zstd.
    pub zstd_level: i32,
}

impl Default for Options {
    fn default() -> Self {
        Options { max_bytes: None, chunk_bytes: 1 << 20, chunk_age_ns: 500_000_000, zstd_level: 1 }
    }
}

/// What a writer did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// Records that were given to it.
    pub records: u64,
    /// Chunks of records written, rotated ones included.
    pub chunks: u64,
    /// Bytes of the records in these.
    pub record_bytes: u64,
    /// Bytes of these chunks in the file.
    pub stored_bytes: u64,
    /// Chunks that could not be written.
    pub failed_chunks: u64,
    /// Records in these, records that were too long, and records given after the end.
    pub failed_records: u64,
    /// Chunks that rotation dropped.
    pub rotated_chunks: u64,
    /// Records in these.
    pub rotated_records: u64,
    /// Records that should have been pinned and found no room.
    pub unpinned_records: u64,
}

impl WriterStats {
    /// Records given to the writer that are not in the file.
    pub fn dropped_records(&self) -> u64 {
        self.failed_records + self.rotated_records
    }
}

/// Where a capture is written to.
pub trait Sink: Write + Seek {
    /// Cuts it off, or makes it longer.
    fn set_len(&mut self, len_bytes: u64) -> io::Result<()>;
}

impl Sink for File {
    fn set_len(&mut self, len_bytes: u64) -> io::Result<()> {
        File::set_len(self, len_bytes)
    }
}

impl Sink for Cursor<Vec<u8>> {
    fn set_len(&mut self, len_bytes: u64) -> io::Result<()> {
        self.get_mut().resize(len_bytes as usize, 0);
        Ok(())
    }
}

/// The segment being written, and what the others hold.
struct Rotation {
    segment_bytes: u64,
    current: usize,
    /// Chunks and records per segment.
    held: [(u64, u64); SEGMENTS as usize],
    /// The next chunk goes to the next segment.
    turn_due: bool,
    /// The pinned records are still to be written to this segment.
    head_due: bool,
    keyframe_wanted: bool,
    pinned: Pinned,
    defined: Defined,
    /// Definitions to write again; empty between records.
    again: Batch,
}

impl Rotation {
    fn start(&self) -> u64 {
        FILE_HEADER_BYTES + self.current as u64 * self.segment_bytes
    }

    fn end(&self) -> u64 {
        self.start() + self.segment_bytes
    }
}

/// Writes a capture. Without [`finish`](Writer::finish) it has no end marker, as after a kill.
pub struct Writer<S: Sink = File> {
    sink: S,
    name: String,
    options: Options,
    packer: Packer,
    pending: Batch,
    pending_oldest_ns: u64,
    /// Records of the stream before `pending`.
    stream_records: u64,
    sequence: u64,
    /// Where the next chunk goes: behind the last whole one.
    position: u64,
    /// Greatest length that the file had with whole chunks.
    good_len: u64,
    rotation: Option<Rotation>,
    buffer: Vec<u8>,
    stats: WriterStats,
    error_told: bool,
    finished: bool,
}

impl Writer<File> {
    /// Creates the file with mode 0600, or empties it. Follows no symbolic link and accepts only a regular file.
    pub fn create(path: &Path, options: Options) -> Result<Self, CaptureError> {
        let open_error = |source: io::Error| match source.raw_os_error() {
            Some(libc::ELOOP) => CaptureError::Link { path: path.to_owned() },
            // A FIFO without a reader, or a directory.
            Some(libc::ENXIO | libc::EISDIR) => CaptureError::NotRegular { path: path.to_owned() },
            _ => CaptureError::Open { path: path.to_owned(), source },
        };
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .map_err(open_error)?;
        // Emptied only now that it is known to be a file of ours to empty.
        if !file.metadata().map_err(open_error)?.is_file() {
            return Err(CaptureError::NotRegular { path: path.to_owned() });
        }
        file.set_permissions(Permissions::from_mode(0o600)).map_err(open_error)?;
        Sink::set_len(&mut file, 0).map_err(open_error)?;
        Writer::new(file, &path.to_string_lossy(), options)
    }
}

impl<S: Sink> Writer<S> {
    /// Starts a capture in an empty sink; `name` is for messages.
    pub fn new(sink: S, name: &str, options: Options) -> Result<Self, CaptureError> {
        let mut options = options;
        let mut layout = Layout { segment_bytes: 0, segments: 0 };
        let mut rotation = None;
        options.chunk_bytes = options.chunk_bytes.clamp(1, MAX_CHUNK_BYTES / 4);
        if let Some(max_bytes) = options.max_bytes {
            if max_bytes < LEAST_MAX_BYTES {
                return Err(CaptureError::BoundTooSmall { max_bytes, least_bytes: LEAST_MAX_BYTES });
            }
            let segment_bytes = ((max_bytes - FILE_HEADER_BYTES) / u64::from(SEGMENTS)).min(1 << 55);
            layout = Layout { segment_bytes, segments: SEGMENTS };
            // So that even incompressible chunks and the pinned records fit a segment together.
            let quarter = usize::try_from(segment_bytes / 4).unwrap_or(usize::MAX);
            options.chunk_bytes = options.chunk_bytes.min(quarter);
            rotation = Some(Rotation {
                segment_bytes,
                current: 0,
                held: [(0, 0); SEGMENTS as usize],
                turn_due: false,
                head_due: false,
                keyframe_wanted: false,
                pinned: Pinned::new(quarter.min(MAX_CHUNK_BYTES / 4)),
                defined: Defined::default(),
                again: Batch::new(),
            });
        }
        let name = name.to_owned();
        let write_error = |source| CaptureError::Write { name: name.clone(), at_byte: 0, source };
        let packer = Packer::new(options.zstd_level).map_err(write_error)?;
        let mut writer = Writer {
            sink,
            name: name.clone(),
            options,
            packer,
            pending: Batch::new(),
            pending_oldest_ns: u64::MAX,
            stream_records: 0,
            sequence: 0,
            position: FILE_HEADER_BYTES,
            good_len: FILE_HEADER_BYTES,
            rotation,
            buffer: Vec::new(),
            stats: WriterStats::default(),
            error_told: false,
            finished: false,
        };
        writer.sink.write_all(&file_header(layout)).map_err(write_error)?;
        Ok(writer)
    }

    /// Takes the records of a batch; writes full chunks. An error is the first one and is told once: the writer has counted
    /// what is lost, and goes on trying with every further chunk.
    pub fn write(&mut self, batch: &Batch) -> Result<(), CaptureError> {
        let mut first = Ok(());
        for record in batch.iter() {
            self.stats.records += 1;
            if self.finished || record.len() > MAX_RECORD_BYTES {
                // Counted in the stream, so that the reader sees the gap; the chunk before it must end here.
                first = first.and(self.flush());
                self.stream_records += 1;
                self.stats.failed_records += 1;
                continue;
            }
            if let Some(rotation) = &mut self.rotation {
                rotation.pinned.look_at(record);
                rotation.defined.look_at(record);
            }
            first = first.and(self.define(record));
            if let Some(header) = header(record) {
                self.pending_oldest_ns = self.pending_oldest_ns.min(header.ts_ns);
            }
            first = first.and(self.gather(record));
        }
        first
    }

    /// Gathers the definitions that a record needs and this segment lacks.
    fn define(&mut self, record: &[u8]) -> Result<(), CaptureError> {
        let Some(rotation) = &mut self.rotation else { return Ok(()) };
        rotation.defined.needed(record, &mut rotation.again);
        if rotation.again.is_empty() {
            return Ok(());
        }
        let again = std::mem::take(&mut rotation.again);
        self.stats.records += again.len() as u64;
        let mut first = Ok(());
        for definition in again.iter() {
            first = first.and(self.gather(definition));
        }
        first
    }

    fn gather(&mut self, record: &[u8]) -> Result<(), CaptureError> {
        let mut first = Ok(());
        // A long record must not swell a chunk beyond what a segment holds.
        let would_be = self.pending.byte_len() + record.len();
        if would_be > self.options.chunk_bytes && !self.pending.is_empty() {
            first = self.flush();
        }
        self.pending.push(record);
        if self.pending.byte_len() >= self.options.chunk_bytes || self.pending.len() >= MAX_CHUNK_RECORDS {
            first = first.and(self.flush());
        }
        first
    }

    /// Writes what is gathered if the oldest record is too old at this time (CLOCK_MONOTONIC). Errors as in [`write`](Self::write).
    pub fn tick(&mut self, now_ns: u64) -> Result<(), CaptureError> {
        let age_ns = now_ns.saturating_sub(self.pending_oldest_ns);
        if age_ns >= self.options.chunk_age_ns { self.flush() } else { Ok(()) }
    }

    /// Whether the capture is about to drop old records and asks for [`write_keyframe`](Self::write_keyframe). Cheap.
    pub fn wants_keyframe(&self) -> bool {
        self.rotation.as_ref().is_some_and(|rotation| rotation.keyframe_wanted)
    }

    /// Takes the seeds (and names) of all threads that live now. From the next segment on they stand in for the threads' records
    /// that rotation drops. Without a keyframe the seeds of the start, or of the last keyframe, are written again.
    pub fn write_keyframe(&mut self, keyframe: &Batch) {
        if let Some(rotation) = &mut self.rotation {
            rotation.pinned.replace_seeds(keyframe);
            rotation.keyframe_wanted = false;
        }
    }

    /// Writes what is gathered and the end marker. Nothing may be written after it.
    pub fn finish(&mut self) -> Result<WriterStats, CaptureError> {
        if !self.finished {
            let flushed = self.flush();
            let marker = ChunkHeader::marker(ChunkKind::End, self.sequence, self.stream_records).to_bytes();
            self.finished = true;
            let ended = self.put(&marker);
            flushed?;
            self.tell(ended)?;
        }
        Ok(self.stats())
    }

    /// Counts so far.
    pub fn stats(&self) -> WriterStats {
        let unpinned_records =
            self.rotation.as_ref().map_or(0, |rotation| rotation.pinned.refused + rotation.defined.refused);
        WriterStats { unpinned_records, ..self.stats }
    }

    /// The file, for instance to change its owner.
    pub fn sink(&self) -> &S {
        &self.sink
    }

    /// Ends writing without an end marker and gives the file back.
    pub fn into_sink(self) -> S {
        self.sink
    }

    /// Writes the gathered records as a chunk.
    fn flush(&mut self) -> Result<(), CaptureError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let written = self.write_chunk(&pending);
        let records = pending.len() as u64;
        self.stream_records += records;
        if written.is_err() {
            self.stats.failed_chunks += 1;
            self.stats.failed_records += records;
        }
        self.pending = pending;
        self.pending.clear();
        self.pending_oldest_ns = u64::MAX;
        self.tell(written)
    }

    fn write_chunk(&mut self, records: &Batch) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = self.write_chunk_from(records, &mut buffer);
        self.buffer = buffer;
        written
    }

    fn write_chunk_from(&mut self, records: &Batch, buffer: &mut Vec<u8>) -> io::Result<()> {
        let mut header = self.pack(ChunkKind::Data, records, buffer)?;
        self.make_room(buffer.len() as u64, records)?;
        // A turn to the next segment used up sequence numbers.
        header.sequence = self.sequence;
        buffer[..CHUNK_HEADER_BYTES].copy_from_slice(&header.to_bytes());
        self.put(buffer)?;
        let stored = buffer.len() as u64;
        self.stats.chunks += 1;
        self.stats.record_bytes += records.byte_len() as u64;
        self.stats.stored_bytes += stored;
        if let Some(rotation) = &mut self.rotation {
            let held = &mut rotation.held[rotation.current];
            held.0 += 1;
            held.1 += records.len() as u64;
            // Asked for early, so that the answer is as new as the segment's first records.
            if rotation.end().saturating_sub(self.position) < 2 * stored + MARKER_BYTES {
                rotation.turn_due = true;
                rotation.keyframe_wanted = true;
            }
        }
        Ok(())
    }

    /// A chunk's bytes into `buffer`.
    fn pack(&mut self, kind: ChunkKind, records: &Batch, buffer: &mut Vec<u8>) -> io::Result<ChunkHeader> {
        buffer.clear();
        buffer.resize(CHUNK_HEADER_BYTES, 0);
        let raw_bytes = self.packer.pack(records, buffer)?;
        let times = || records.iter().filter_map(header).map(|header| header.ts_ns);
        let too_long = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let header = ChunkHeader {
            kind,
            sequence: self.sequence,
            first_record: self.stream_records,
            records: u32::try_from(records.len()).map_err(too_long)?,
            raw_bytes: u32::try_from(raw_bytes).map_err(too_long)?,
            stored_bytes: u32::try_from(buffer.len() - CHUNK_HEADER_BYTES).map_err(too_long)?,
            body_crc: crc32fast::hash(&buffer[CHUNK_HEADER_BYTES..]),
            min_ts_ns: times().min().unwrap_or(0),
            max_ts_ns: times().max().unwrap_or(0),
        };
        buffer[..CHUNK_HEADER_BYTES].copy_from_slice(&header.to_bytes());
        Ok(header)
    }

    /// Goes on to the next segment if a chunk of this length does not fit, and writes the segment's head if it is missing.
    fn make_room(&mut self, chunk_bytes: u64, records: &Batch) -> io::Result<()> {
        let Some(rotation) = &self.rotation else { return Ok(()) };
        if chunk_bytes > rotation.segment_bytes / 2 {
            // One record too long for this bound: not worth dropping a segment for.
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let full = self.position + chunk_bytes + MARKER_BYTES > rotation.end();
        if (full || rotation.turn_due) && !rotation.head_due {
            let marker = ChunkHeader::marker(ChunkKind::SegmentEnd, self.sequence, self.stream_records).to_bytes();
            self.put(&marker)?;
            self.turn();
        }
        self.write_head(records)?;
        let end = self.rotation.as_ref().map_or(u64::MAX, |rotation| rotation.end());
        if self.position + chunk_bytes + MARKER_BYTES > end {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        Ok(())
    }

    fn turn(&mut self) {
        let Some(rotation) = &mut self.rotation else { return };
        rotation.current = (rotation.current + 1) % SEGMENTS as usize;
        rotation.turn_due = false;
        rotation.head_due = true;
        let (chunks, records) = std::mem::take(&mut rotation.held[rotation.current]);
        self.stats.rotated_chunks += chunks;
        self.stats.rotated_records += records;
        self.position = rotation.start();
        rotation.defined.turn();
    }

    /// Writes the segment's head if it is missing: what is pinned, and the definitions that its first chunk needs, since that was
    /// gathered while the segment before it was written.
    fn write_head(&mut self, first_chunk: &Batch) -> io::Result<()> {
        let Some(rotation) = self.rotation.as_mut().filter(|rotation| rotation.head_due) else { return Ok(()) };
        let mut definitions = Batch::new();
        first_chunk.iter().for_each(|record| rotation.defined.needed(record, &mut definitions));
        let pinned = rotation.pinned.records(&definitions);
        let mut head = Vec::new();
        self.pack(ChunkKind::Head, &pinned, &mut head)?;
        self.put(&head)?;
        if let Some(rotation) = &mut self.rotation {
            rotation.head_due = false;
            rotation.keyframe_wanted = false;
        }
        Ok(())
    }

    /// Writes a whole chunk or, as far as possible, nothing.
    fn put(&mut self, chunk: &[u8]) -> io::Result<()> {
        let written = self.sink.seek(SeekFrom::Start(self.position)).and_then(|_| self.sink.write_all(chunk));
        match written {
            Ok(()) => {
                self.position += chunk.len() as u64;
                self.good_len = self.good_len.max(self.position);
                self.sequence += 1;
                Ok(())
            }
            Err(error) => {
                if self.position >= self.good_len {
                    // Best effort: a reader stops at the torn chunk just as well.
                    let _ = self.sink.set_len(self.position);
                }
                Err(error)
            }
        }
    }

    /// Turns the first failure into an error, later ones into silence: they are counted.
    fn tell(&mut self, done: io::Result<()>) -> Result<(), CaptureError> {
        match done {
            Err(source) if !self.error_told => {
                self.error_told = true;
                Err(CaptureError::Write { name: self.name.clone(), at_byte: self.position, source })
            }
            _ => Ok(()),
        }
    }
}
