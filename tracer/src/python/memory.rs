//! Reading a process's memory while it runs. Not here: what is read.

use std::{fs::File, io, os::unix::fs::FileExt};

/// The memory of one process, or what a test recorded of one.
pub trait ReadMemory {
    /// Fills `out` with the bytes at `address`; false: not all of them could be read, and `out` means nothing.
    fn read(&mut self, address: u64, out: &mut [u8]) -> bool;
}

/// The word at an address.
pub fn word(memory: &mut dyn ReadMemory, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read(address, &mut bytes).then(|| u64::from_le_bytes(bytes))
}

/// The memory of a live process, through /proc/PID/mem.
///
/// It belongs to the program that ran when it was opened: after an exec or the process's end reads fail, and another process with
/// the same id is never read by mistake. Reading does not stop the process. Costs one descriptor.
#[derive(Debug)]
pub struct ProcessMemory(File);

impl ProcessMemory {
    /// Opens it. Needs the right to trace that process.
    pub fn open(pid: u32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/mem")).map(Self)
    }
}

impl ReadMemory for ProcessMemory {
    fn read(&mut self, address: u64, out: &mut [u8]) -> bool {
        // File offsets are signed: the upper half of the addresses is the kernel's.
        i64::try_from(address).is_ok() && self.0.read_exact_at(out, address).is_ok()
    }
}
