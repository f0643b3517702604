//! The address spaces of live processes and the files mapped into them: what an address belongs to, and the file's bytes.
//!
//! Files are opened through /proc/PID/map_files, so a deleted or replaced file, and one of another mount namespace, is the one
//! that is mapped. A module stays open and mapped once it was seen: it outlives the process. Not here: what its bytes mean for
//! unwinding (`unwind`) or naming (`symbol`).

use std::{path::PathBuf, sync::Arc};

/// Number of a module within this run; the number of its MODULE record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleId(pub u32);

/// A file with code.
#[derive(Debug)]
pub struct Module {
    /// Its number.
    pub id: ModuleId,
    /// Path as the process that showed it first saw it, printable; `[vdso]` for the kernel's page.
    pub path: String,
    /// Another way to the same file, that works while this module lives: `/proc/self/fd/N`. None for the vdso.
    pub open_path: Option<PathBuf>,
    /// Build id in hexadecimal.
    pub build_id: Option<String>,
    /// It had no name any more.
    pub deleted: bool,
    /// The file's bytes, or why there are none.
    pub image: Result<Image, String>,
}

/// The bytes of a file.
#[derive(Debug)]
pub struct Image {
    /// All of it: a private read-only mapping, or a copy (vdso).
    pub bytes: Bytes,
    /// Loadable segments: file offset, virtual address, length in the file, executable.
    pub segments: Vec<Segment>,
}

/// See [`Image`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts in the file.
    pub offset: u64,
    /// Where it starts in the file's own numbering of addresses.
    pub address: u64,
    /// Bytes in the file.
    pub len_bytes: u64,
    /// Holds code.
    pub executable: bool,
}

/// Bytes that live as long as they are used.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// A mapped file. Truncating it under us raises SIGBUS: readers go through `checked` access where that matters.
    Mapped(Arc<memmap2::Mmap>),
    /// A copy.
    Owned(Arc<[u8]>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// What lies behind a mapping.
#[derive(Clone, Debug)]
pub enum Backing {
    /// A file.
    Module(Arc<Module>),
    /// Nothing: memory of the process; the name that /proc gives it, if any (`[heap]`, `[anon:...]`).
    Anonymous(String),
}

/// A range of a process's addresses.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Where in the file it starts.
    pub offset: u64,
    /// May be executed.
    pub executable: bool,
    /// What is behind it.
    pub backing: Backing,
}

/// All mappings of a process that matter, sorted by address.
#[derive(Clone, Debug, Default)]
pub struct AddressSpace {
    /// Sorted, without overlap. Executable ones, and those of files that have executable ones.
    pub mappings: Vec<Mapping>,
}
