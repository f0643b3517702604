//! Time below a function that does one known thing: CPython's collector of garbage, the kernel's code that brings a file's data
//! to its disk, copies through pipes and unix sockets and what packs the data for that. Any frame of a stack counts, not only the innermost.
//! The collector's code is told by its addresses, from PYTHON records, so that names are not needed; the kernel's by name. Not here:
//! loops that spin.

use std::collections::{BTreeMap, HashSet};

use super::definitions::Definitions;
use crate::model::meta::Addresses;
use crate::model::stacks::{FILE_READ, FILE_WRITE, FUTEX, IPC_COPY, PAGE_FAULT, PIN, RECLAIM, SYNC, UNMAP};

/// Stacks in a phase.
#[derive(Debug, Default)]
pub struct Phases {
    collecting: HashSet<u64>,
}

impl Phases {
    /// Looks at all stacks; `collectors` are the addresses of collectors by the number of their file.
    pub fn of(definitions: &Definitions, collectors: &BTreeMap<u32, Vec<Addresses>>) -> Self {
        let mut phases = Phases::default();
        if collectors.is_empty() {
            return phases;
        }
        let in_collector = |frame: &u32| {
            let frame = definitions.frames.get(frame)?;
            let ranges = collectors.get(&frame.module?)?;
            Some(ranges.iter().any(|range| range.contains(frame.address)))
        };
        for (id, stack) in &definitions.stacks {
            if stack.frames.iter().any(|frame| in_collector(frame) == Some(true)) {
                phases.collecting.insert(*id);
            }
        }
        phases
    }

    /// Whether a stack is below the collector.
    pub fn is_collecting(&self, stack: u64) -> bool {
        self.collecting.contains(&stack)
    }
}

/// Functions of the kernel below which a thread brings a file's data to its disk.
const SYNCS: [&str; 8] = [
    "vfs_fsync_range",
    "do_fsync",
    "ksys_sync",
    "ksys_sync_file_range",
    "sync_filesystem",
    "__x64_sys_msync",
    "__x64_sys_fsync",
    "__arm64_sys_fsync",
];

/// Functions of the kernel below which a thread frees memory, or moves pages to make room for large ones.
const RECLAIMS: [&str; 5] = [
    "try_to_free_mem_cgroup_pages",
    "try_to_free_pages",
    "do_try_to_free_pages",
    "try_to_compact_pages",
    "shrink_lruvec",
];

/// Those that pin memory, and release it.
const PINS: [&str; 13] = [
    "__x64_sys_mlock",
    "__x64_sys_mlock2",
    "__x64_sys_mlockall",
    "__x64_sys_munlock",
    "__arm64_sys_mlock",
    "__arm64_sys_mlock2",
    "__arm64_sys_mlockall",
    "__arm64_sys_munlock",
    "do_mlock",
    "pin_user_pages",
    "pin_user_pages_fast",
    "__gup_longterm_locked",
    "unpin_user_pages",
];

/// Those that handle a page fault.
const FAULTS: [&str; 6] = [
    "asm_exc_page_fault",
    "exc_page_fault",
    "do_user_addr_fault",
    "handle_mm_fault",
    "__handle_mm_fault",
    "do_mem_abort",
];

/// Those that give memory back.
const UNMAPS: [&str; 8] = [
    "__x64_sys_munmap",
    "__arm64_sys_munmap",
    "__vm_munmap",
    "__x64_sys_madvise",
    "__arm64_sys_madvise",
    "__x64_sys_brk",
    "__arm64_sys_brk",
    "do_vmi_munmap",
];

/// Those that put threads to sleep at futexes, and wake them.
const FUTEXES: [&str; 5] = ["__x64_sys_futex", "__arm64_sys_futex", "do_futex", "futex_wait", "futex_wake"];

/// Those that read files, past the page cache and through it.
const READS: [&str; 9] = [
    "iomap_dio_rw",
    "__iomap_dio_rw",
    "filemap_read",
    "generic_file_read_iter",
    "ext4_file_read_iter",
    "xfs_file_read_iter",
    "btrfs_file_read_iter",
    "blkdev_read_iter",
    "fuse_file_read_iter",
];

/// Those that write files, past the page cache (which the reads' functions do as well) and into it.
const WRITES: [&str; 13] = [
    "generic_perform_write",
    "generic_file_write_iter",
    "__generic_file_write_iter",
    "iomap_file_buffered_write",
    "ext4_file_write_iter",
    "ext4_buffered_write_iter",
    "xfs_file_write_iter",
    "xfs_file_buffered_write",
    "btrfs_file_write_iter",
    "blkdev_write_iter",
    "shmem_file_write_iter",
    "fuse_file_write_iter",
    "nfs_file_write",
];

/// What a stack does for its thread's memory, or its files, by the names of the kernel's functions in it. Freeing memory is done within
/// page faults and copies, and copies touch memory, so the cause comes first.
pub fn of_kernel<'a>(functions: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    let rank = |name: &str| {
        if SYNCS.contains(&name) {
            Some((0, SYNC))
        } else if RECLAIMS.contains(&name) {
            Some((1, RECLAIM))
        } else if is_stream(name) {
            Some((2, IPC_COPY))
        } else if PINS.contains(&name) {
            Some((3, PIN))
        } else if FAULTS.contains(&name) {
            Some((4, PAGE_FAULT))
        } else if UNMAPS.contains(&name) {
            Some((5, UNMAP))
        } else if FUTEXES.contains(&name) {
            Some((6, FUTEX))
        } else if WRITES.contains(&name) {
            Some((7, FILE_WRITE))
        } else if READS.contains(&name) {
            Some((8, FILE_READ))
        } else {
            None
        }
    };
    functions.filter_map(rank).min().map(|(_, phase)| phase)
}

/// Functions of the kernel that read and write pipes (6.14 and later call anonymous ones so) and unix sockets.
const STREAMS: [&str; 15] = [
    "pipe_read",
    "pipe_write",
    "anon_pipe_read",
    "anon_pipe_write",
    "fifo_pipe_read",
    "fifo_pipe_write",
    "unix_stream_sendmsg",
    "unix_stream_recvmsg",
    "unix_stream_read_generic",
    "unix_seqpacket_sendmsg",
    "unix_seqpacket_recvmsg",
    "unix_dgram_sendmsg",
    "unix_dgram_recvmsg",
    "__unix_dgram_recvmsg",
    "vmsplice_to_pipe",
];

/// Whether a function of the kernel is one of these. The compiler adds to the names of functions that it splits.
fn is_stream(name: &str) -> bool {
    STREAMS.contains(&name.split('.').next().unwrap_or(name))
}

/// Files of Python's multiprocessing that pickle, send, receive and put together.
const PACKERS: [&str; 3] =
    ["multiprocessing/connection.py", "multiprocessing/reduction.py", "multiprocessing/queues.py"];

/// Whether these source files of a stack's Python functions, innermost first, show data being packed or unpacked for another process.
/// What unpickling imports is no transport.
pub fn is_packing<'a>(mut files: impl Iterator<Item = &'a str>) -> bool {
    let told = files.find_map(|file| {
        let imports = file.starts_with("<frozen importlib");
        let packs = PACKERS.iter().any(|packer| file.ends_with(packer));
        (imports || packs).then_some(packs)
    });
    told == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::meta::{FrameKind, FrameRecord, StackRecord};

    #[test]
    fn what_is_most_urgent_in_a_stack_names_its_phase() {
        let phase = |names: &[&str]| of_kernel(names.iter().copied());
        assert_eq!(phase(&["clear_page_erms", "handle_mm_fault", "asm_exc_page_fault"]), Some(PAGE_FAULT));
        assert_eq!(phase(&["shrink_lruvec", "try_to_free_mem_cgroup_pages", "handle_mm_fault"]), Some(RECLAIM));
        assert_eq!(phase(&["zap_pte_range", "__x64_sys_munmap"]), Some(UNMAP));
        assert_eq!(phase(&["clear_page_erms", "handle_mm_fault", "do_mlock", "__x64_sys_mlock"]), Some(PIN));
        assert_eq!(phase(&["submit_bio", "do_fsync"]), Some(SYNC));
        assert_eq!(phase(&["io_schedule", "iomap_dio_rw", "ext4_file_read_iter"]), Some(FILE_READ));
        assert_eq!(phase(&["copy_folio_from_iter_atomic", "generic_perform_write", "vfs_write"]), Some(FILE_WRITE));
        assert_eq!(phase(&["io_schedule", "__iomap_dio_rw", "ext4_file_write_iter"]), Some(FILE_WRITE), "direct I/O");
        assert_eq!(phase(&["shrink_lruvec", "filemap_read"]), Some(RECLAIM));
        assert_eq!(phase(&["copy_page_to_iter", "handle_mm_fault", "anon_pipe_read.constprop.0"]), Some(IPC_COPY));
        assert_eq!(phase(&["do_syscall_64"]), None);
    }

    #[test]
    fn a_stack_is_collecting_if_any_of_its_frames_lies_in_the_collector_of_that_file() {
        let mut definitions = Definitions::default();
        let frame = |id, module, address| FrameRecord {
            id,
            frame_kind: FrameKind::Native,
            module: Some(module),
            address,
            ..FrameRecord::default()
        };
        for record in [frame(1, 7, 0x50), frame(2, 7, 0x120), frame(3, 8, 0x120), frame(4, 7, 0x200)] {
            definitions.frame(&record);
        }
        for (id, frames) in [(10, vec![1, 2, 4]), (11, vec![1, 3, 4]), (12, vec![2])] {
            definitions.stack(&StackRecord { id, frames, ..StackRecord::default() });
        }
        let collectors = BTreeMap::from([(7, vec![Addresses { start: 0x100, end: 0x200 }])]);
        let phases = Phases::of(&definitions, &collectors);
        let collecting: Vec<u64> = (10..13).filter(|stack| phases.is_collecting(*stack)).collect();
        assert_eq!(collecting, [10, 12], "below it and in it; another file's code at that address is another function");
    }

    #[test]
    fn pipes_and_unix_sockets_are_streams_whatever_the_compiler_adds() {
        for name in ["pipe_read", "anon_pipe_write", "unix_stream_read_generic", "anon_pipe_read.isra.0"] {
            assert!(is_stream(name), "{name}");
        }
        for name in ["pipe_poll", "tcp_sendmsg", "vfs_read", ""] {
            assert!(!is_stream(name), "{name}");
        }
    }

    #[test]
    fn what_unpickling_imports_is_no_transport() {
        let connection = "/usr/lib/python3.11/multiprocessing/connection.py";
        assert!(is_packing([connection, "/app/train.py"].into_iter()));
        assert!(is_packing(["/app/item.py", connection].into_iter()), "an item's own pickling");
        assert!(!is_packing(["<frozen importlib._bootstrap>", connection].into_iter()));
        assert!(!is_packing(["/app/train.py", "/app/connection.py"].into_iter()));
    }
}
