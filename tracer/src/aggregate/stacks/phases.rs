//! Time below a function that does one known thing: CPython's collector of garbage, the kernel's code that brings a file's data
//! to its disk, copies through pipes and unix sockets and what packs the data for that. Any frame of a stack counts, not only the innermost.
//! The collector's code is told by its addresses, from PYTHON records, so that names are not needed; the kernel's by name. Not here:
//! loops that spin.

use std::collections::{BTreeMap, HashSet};

use super::definitions::Definitions;
use crate::model::meta::Addresses;

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

/// Whether a function of the kernel is one of these.
pub fn is_sync(name: &str) -> bool {
    SYNCS.contains(&name)
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
pub fn is_stream(name: &str) -> bool {
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
