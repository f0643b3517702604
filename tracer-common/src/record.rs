//! The header in front of every record, and the kinds of record.
//!
//! Kinds of family 0 are written by user space only (host facts, ticks, seeds); their payload is JSON and has its types in
//! `tracer::model`. All other kinds are fixed `repr(C)` structs in this crate, little-endian as the machine that recorded them.

/// In front of every record. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub ts_ns: u64,
    /// What follows: upper byte the family, lower byte the kind within it.
    pub kind: u16,
    /// The CPU that wrote the record.
    pub cpu: u16,
    /// How many records this CPU had lost before this one (low 32 bits): a rise since the CPU's previous record marks a gap.
    pub lost: u32,
}

/// Size of [`Header`] in bytes.
pub const HEADER_BYTES: usize = 16;

const _: () = assert!(size_of::<Header>() == HEADER_BYTES && align_of::<Header>() == 8);

/// Builds a record kind from its family's number and its number within the family.
pub const fn kind(family: u8, number: u8) -> u16 {
    ((family as u16) << 8) | number as u16
}

/// The family's number of a record kind; 0 for records that user space wrote.
pub const fn family_of(kind: u16) -> u8 {
    (kind >> 8) as u8
}

/// Kinds of the scheduling family; payloads in [`crate::sched`].
pub mod sched {
    /// A context switch.
    pub const SWITCH: u16 = super::kind(1, 1);
    /// A context switch in which the thread that left waits on a futex.
    pub const SWITCH_FUTEX: u16 = super::kind(1, 2);
    /// A new task: process, thread or io_uring worker.
    pub const NEW_TASK: u16 = super::kind(1, 3);
    /// A fork is complete and its child becomes runnable.
    pub const FORK: u16 = super::kind(1, 4);
    /// A program was executed.
    pub const EXEC: u16 = super::kind(1, 5);
    /// A thread ends.
    pub const EXIT: u16 = super::kind(1, 6);
    /// A thread's name changed.
    pub const RENAME: u16 = super::kind(1, 7);
    /// A task moved to another cgroup.
    pub const CGROUP_MOVE: u16 = super::kind(1, 8);
    /// [`Switch`](crate::sched::Switch): a thread that leaves its CPU had got it in a switch that the kernel did not report. The
    /// header's time is that of leaving; `next_tid` and what belongs to it are as in a switch, `object` is for how long it ran.
    pub const ARRIVED: u16 = super::kind(1, 9);
    /// A thread begins a step: it entered the function that was asked for.
    pub const STEP: u16 = super::kind(1, 12);
    /// What a thread has read and written in its life; just before its end, where it is much.
    pub const MOVED: u16 = super::kind(1, 10);
    /// [`Switch`](crate::sched::Switch), just before the one in which `prev_tid` gets a CPU again: its wait in epoll was ended by the socket
    /// that `arg0`, `fd_kind` and `object` describe, in the state of [`tcp_state`](crate::net::tcp_state) that `prev_state` says. The rest is empty.
    pub const POLLED: u16 = super::kind(1, 11);
}

/// Kinds of the family that takes stacks; payloads in [`crate::stack`].
pub mod cpu {
    /// A stack was taken and unwound; written by user space in place of the raw record.
    pub const SAMPLED: u16 = super::kind(2, 1);
    /// A copy of registers and stack: from the kernel to the unwinder only, never in a capture.
    pub const RAW_STACK: u16 = super::kind(2, 255);
}

/// Kinds of the family that sees locks of the kernel; payloads in [`crate::lock`].
pub mod lock {
    /// A thread has waited for a lock of the kernel.
    pub const CONTENDED: u16 = super::kind(3, 1);
}

/// Kinds of the family that sees page faults; payloads in [`crate::memory`].
pub mod fault {
    /// Faults of a thread, counted by kind.
    pub const FAULTS: u16 = super::kind(4, 1);
}

/// Kinds of the family that sees reclaim; payloads in [`crate::memory`].
pub mod reclaim {
    /// A thread was kept from its work for want of memory.
    pub const STALLED: u16 = super::kind(5, 1);
}

/// Kinds of the family that sees the page cache; payloads in [`crate::memory`].
pub mod cache {
    /// A file whose pages are counted.
    pub const FILE: u16 = super::kind(6, 1);
}

/// Kinds of the family that sees kills for want of memory; payloads in [`crate::memory`].
pub mod oom {
    /// A process was chosen to be killed.
    pub const VICTIM: u16 = super::kind(7, 1);
}

/// Kinds of the family that sees calls which change address spaces; payloads in [`crate::mapping`].
pub mod map {
    /// Calls of a thread, summed up by kind.
    pub const MAPPED: u16 = super::kind(9, 1);
}

/// Kinds of the family that sees block devices; payloads in [`crate::block`].
pub mod block {
    /// A request is done.
    pub const DONE: u16 = super::kind(10, 1);
    /// [`CachedFile`](crate::memory::CachedFile): a file that a request is for.
    pub const FILE: u16 = super::kind(10, 2);
    /// [`CachedFile`](crate::memory::CachedFile): a directory that leads to such a file. Each is told once, the nearest to the file first.
    pub const DIRECTORY: u16 = super::kind(10, 3);
}

/// Kinds of the family that sees writeback; payloads in [`crate::block`].
pub mod writeback {
    /// A thread that dirtied pages is paused.
    pub const PAUSE: u16 = super::kind(11, 1);
    /// [`CachedFile`](crate::memory::CachedFile): a file whose pages are dirtied.
    pub const FILE: u16 = super::kind(11, 2);
    /// A file system begins or ends a sync of a file.
    pub const SYNC: u16 = super::kind(11, 3);
}

/// Kinds of the family that sees statements of databases; payloads in [`crate::database`].
pub mod database {
    /// Calls of a client's functions have returned.
    pub const CALL: u16 = super::kind(12, 1);
    /// A piece of a statement's text: from the kernel to the thread that reads the rings only, never in a capture.
    pub const TEXT: u16 = super::kind(12, 255);
}

/// Kinds of the family that sees the network; payloads in [`crate::net`].
pub mod net {
    /// A TCP connection was made, could not be made, or is closed.
    pub const CONNECTION: u16 = super::kind(13, 1);
}

/// Kinds of the family that counts calls on files.
pub mod file_exact {
    /// [`CachedFile`](crate::memory::CachedFile): a file that is read or written.
    pub const FILE: u16 = super::kind(14, 1);
}

/// Kinds that user space writes (family 0); payloads are JSON.
pub mod meta {
    /// Facts about the host; once, first.
    pub const HOST: u16 = super::kind(0, 1);
    /// What is traced; once.
    pub const TARGET: u16 = super::kind(0, 2);
    /// Which families run, and why others do not.
    pub const FAMILIES: u16 = super::kind(0, 3);
    /// Tracing starts to count: all probes are attached.
    pub const START: u16 = super::kind(0, 4);
    /// A tick: clock offsets, and up to which time all records have been seen.
    pub const TICK: u16 = super::kind(0, 5);
    /// A snapshot of the kernel's loss counters.
    pub const LOSS: u16 = super::kind(0, 6);
    /// A thread that existed when tracing began.
    pub const SEED: u16 = super::kind(0, 7);
    /// The name of a thread that is not traced but was seen (a waker, a pre-empter).
    pub const NAME: u16 = super::kind(0, 8);
    /// What tracing itself cost so far.
    pub const COST: u16 = super::kind(0, 9);
    /// The end of the run: why it ended and how.
    pub const END: u16 = super::kind(0, 10);
    /// A file that frames lie in.
    pub const MODULE: u16 = super::kind(0, 11);
    /// A frame: an address in a module, in the kernel or in memory without a file, or a Python function's line.
    pub const FRAME: u16 = super::kind(0, 12);
    /// A stack: frames from the innermost to the outermost, and how it ended.
    pub const STACK: u16 = super::kind(0, 13);
    /// Names of a frame.
    pub const SYMBOL: u16 = super::kind(0, 14);
    /// Sums of contentions that were too short for a record of their own.
    pub const LOCKS: u16 = super::kind(0, 15);
    /// Limits and counters of CPU time: cgroups with a quota, and the host's CPUs.
    pub const CPU_LIMITS: u16 = super::kind(0, 16);
    /// What became of the stacks of threads that waited already when tracing began.
    pub const ATTACHED: u16 = super::kind(0, 20);
    /// A process runs CPython, and where its interpreter lock and its collector of garbage are.
    pub const PYTHON: u16 = super::kind(0, 17);
    /// What descriptors refer to on which threads waited: paths, addresses.
    pub const OBJECTS: u16 = super::kind(0, 18);
    /// What the families that see memory keep in maps: pages in the page cache by file, and at the end what has no record.
    pub const SUMS: u16 = super::kind(0, 22);
    /// Sizes of processes, of their cgroups, and of the host.
    pub const MEMORY: u16 = super::kind(0, 25);
    /// Where the entries of a Python function are watched, whose steps were asked for.
    pub const STEPS: u16 = super::kind(0, 24);
    /// Clients of databases whose functions are looked at, and statements without their values.
    pub const DATABASE: u16 = super::kind(0, 26);
}
