//! What can be wrong with a capture as a whole. Damage behind a good start is no error: [`Cut`](super::Cut) tells of it.

use std::{io, path::PathBuf};

/// Why a capture could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The operating system refused to open or create the file.
    #[error("cannot open capture {path:?}: {source}; check the path and its permissions")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory, device, pipe or socket.
    #[error("cannot use {path:?} as a capture: it is not a regular file; name a regular file")]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// A symbolic link, which is not followed when writing.
    #[error("cannot write the capture to {path:?}: it is a symbolic link; name the file that it points to")]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// Nothing in the file.
    #[error("capture {name:?} is empty; record again")]
    Empty {
        /// The capture.
        name: String,
    },
    /// It ends inside the file header.
    #[error(
        "capture {name:?} is cut off after {len_bytes} bytes, inside its header, so nothing can be read; record again"
    )]
    CutHeader {
        /// The capture.
        name: String,
        /// Its length.
        len_bytes: u64,
    },
    /// It does not start as a capture does.
    #[error("{name:?} is not a tracer capture; give a file that `tracer record` or `run --capture` wrote")]
    NotACapture {
        /// The file.
        name: String,
    },
    /// Another version of the file format.
    #[error(
        "capture {name:?} has format version {found}, this tracer reads {expected}; use the tracer that recorded it"
    )]
    FormatVersion {
        /// The capture.
        name: String,
        /// Its version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// Records of another binary interface.
    #[error(
        "capture {name:?} has records of ABI version {found}, this tracer reads {expected}; use the tracer that recorded it"
    )]
    AbiVersion {
        /// The capture.
        name: String,
        /// Its version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// The file header's checksum is wrong.
    #[error(
        "the header of capture {name:?} is damaged (wrong checksum), so nothing can be read; take another copy or record again"
    )]
    DamagedHeader {
        /// The capture.
        name: String,
    },
    /// The operating system could not read.
    #[error("cannot read capture {name:?} at byte {at_byte}: {source}; check the disk")]
    Read {
        /// The capture.
        name: String,
        /// Where.
        at_byte: u64,
        /// Why.
        source: io::Error,
    },
    /// The operating system could not write.
    #[error("cannot write capture {name:?} at byte {at_byte}: {source}; free disk space or name another file")]
    Write {
        /// The capture.
        name: String,
        /// Where.
        at_byte: u64,
        /// Why.
        source: io::Error,
    },
    /// The bound is below what rotation needs.
    #[error("a capture bounded to {max_bytes} bytes is too small; give at least {least_bytes}")]
    BoundTooSmall {
        /// What was asked for.
        max_bytes: u64,
        /// The least that works.
        least_bytes: u64,
    },
}
