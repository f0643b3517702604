//! System calls that read and write files through a descriptor, counted exactly: what threads keep of the file that they are at, and what
//! is summed up by file and process.

use crate::memory::FileKey;

/// Files and processes that are told apart.
pub const FILE_CALLS: u32 = 1 << 13;

/// Key of the map of sums.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileCallsKey {
    /// The file.
    pub file: FileKey,
    /// The process that called.
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<FileCallsKey>() == 24);

/// Calls that ended without an error, and the bytes that they moved.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileCallsSums {
    /// Calls that read: those at the end of a file too.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Calls that write.
    pub writes: u64,
    /// Their bytes.
    pub written_bytes: u64,
}

const _: () = assert!(size_of::<FileCallsSums>() == 32);

impl FileCallsSums {
    /// Adds what was summed up elsewhere.
    pub fn add(&mut self, other: &FileCallsSums) {
        self.reads = self.reads.saturating_add(other.reads);
        self.read_bytes = self.read_bytes.saturating_add(other.read_bytes);
        self.writes = self.writes.saturating_add(other.writes);
        self.written_bytes = self.written_bytes.saturating_add(other.written_bytes);
    }
}

/// The file that a thread reads or writes, with what it has not added to the sums yet. Most calls are for the same file as the one before.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileCallsSlot {
    /// The thread; 0: nobody.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// The descriptor.
    pub fd: u32,
    /// 1: it is a regular file.
    pub is_file: u32,
    /// Address of what is open, and of its inode: others have other ones as long as it is open.
    pub open: u64,
    /// See there.
    pub inode: u64,
    /// The file.
    pub file: FileKey,
    /// What is not in the map yet.
    pub sums: FileCallsSums,
}

const _: () = assert!(size_of::<FileCallsSlot>() == 80);
