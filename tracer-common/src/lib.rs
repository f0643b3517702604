//! The binary interface between tracer's eBPF programs and its user space: one definition, checked by layout asserts beside
//! each type, versioned by [`ABI_VERSION`].
//!
//! Here: record layouts, loss counters, the configuration that the loader hands to the programs, and the small pure tables
//! (task states, system calls, futex words) that both sides or several layers need. Not here: anything that allocates, reads a
//! file or knows a map.
#![no_std]

pub mod block;
pub mod config;
pub mod database;
pub mod file_calls;
pub mod futex;
pub mod lock;
pub mod loss;
pub mod mapping;
pub mod memory;
pub mod net;
pub mod python;
pub mod record;
pub mod sched;
pub mod stack;
pub mod state;
pub mod syscall;

/// Version of everything in this crate. The eBPF object carries it in its configuration; the loader refuses another one.
pub const ABI_VERSION: u32 = 1;

/// A set of probes that answers one question. The number is the upper byte of its records' kinds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum FamilyId {
    /// Scheduling: which thread ran, which waited, for what, woken by whom.
    Sched = 1,
    /// Stacks: which code runs, and which code waits.
    Cpu = 2,
    /// Locks of the kernel: who waited for which, how long, and who held it.
    Lock = 3,
    /// Page faults: how many, of which kind, in which code.
    Fault = 4,
    /// Time in which threads freed memory instead of working.
    Reclaim = 5,
    /// The page cache: which files were brought in, and thrown out.
    Cache = 6,
    /// Processes killed for want of memory.
    Oom = 7,
    /// Sizes of processes and cgroups, which user space reads.
    Rss = 8,
    /// Calls that change address spaces: mmap, munmap, brk, mremap, madvise.
    Map = 9,
    /// Requests of block devices: for which file, by whom, how long queued and how long with the device.
    Block = 10,
    /// Pages that threads dirty, and their pauses when they dirty too many.
    Writeback = 11,
    /// Statements of databases, at their clients' libraries.
    Database = 12,
    /// The network: connections, and which thread's packets wake which.
    Net = 13,
    /// Calls that read and write files, each counted.
    FileExact = 14,
}

impl FamilyId {
    /// Every family that has kernel records, in the order of its number.
    pub const ALL: [FamilyId; 14] = [
        FamilyId::Sched,
        FamilyId::Cpu,
        FamilyId::Lock,
        FamilyId::Fault,
        FamilyId::Reclaim,
        FamilyId::Cache,
        FamilyId::Oom,
        FamilyId::Rss,
        FamilyId::Map,
        FamilyId::Block,
        FamilyId::Writeback,
        FamilyId::Database,
        FamilyId::Net,
        FamilyId::FileExact,
    ];

    /// The family with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(FamilyId::Sched),
            2 => Some(FamilyId::Cpu),
            3 => Some(FamilyId::Lock),
            4 => Some(FamilyId::Fault),
            5 => Some(FamilyId::Reclaim),
            6 => Some(FamilyId::Cache),
            7 => Some(FamilyId::Oom),
            8 => Some(FamilyId::Rss),
            9 => Some(FamilyId::Map),
            10 => Some(FamilyId::Block),
            11 => Some(FamilyId::Writeback),
            12 => Some(FamilyId::Database),
            13 => Some(FamilyId::Net),
            14 => Some(FamilyId::FileExact),
            _ => None,
        }
    }
}

/// Number of slots in arrays indexed by [`FamilyId`].
pub const FAMILY_SLOTS: usize = 15;
