//! The capture file: records as the kernel and user space wrote them, in chunks that are compressed and checked one by one.
//! Here: format, writer, reader. Not here: what records mean, and when to record.
//!
//! ```text
//! file header   64 bytes: magic, format version, ABI version, layout, CRC-32
//! chunk         64 bytes of header: magic, kind, sequence number, place in the stream, records, unpacked and stored length,
//!               CRC-32 of the body, time range, CRC-32 of the header; then the body
//! ...
//! end marker    a chunk without a body
//! ```
//!
//! A body is lossless and keeps the records' order; see `columns` for its bytes. In a bounded capture the chunks lie in
//! segments that are written in turn; see `writer`.

mod columns;
mod defined;
mod error;
mod format;
mod pinned;
mod predict;
mod reader;
mod writer;

#[cfg(test)]
mod simulate;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_defined;
#[cfg(test)]
mod tests_hostile;

pub use error::CaptureError;
pub use format::FORMAT_VERSION;
pub use reader::{Cut, CutReason, Reader, ReaderStats};
pub use writer::{LEAST_MAX_BYTES, Options, SEGMENTS, Sink, Writer, WriterStats};
