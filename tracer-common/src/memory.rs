//! Payloads of the families that see memory: page faults, time lost to reclaim, the page cache, kills for want of memory. Also the
//! per-thread sums in which the programs gather what is too frequent for a record each.

use crate::record::Header;

/// What a page fault did.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum FaultKind {
    /// A page of anonymous memory was touched for the first time.
    Anonymous = 0,
    /// The same, and a huge page was given.
    AnonymousHuge = 1,
    /// A page of a mapped file, from the page cache.
    File = 2,
    /// The same, and it had to be read first.
    FileMajor = 3,
    /// A page of shared memory (tmpfs, memfd, shared anonymous memory).
    Shared = 4,
    /// Written to a page that may not be written: it was copied, or, where nobody shares it any more, made writable. Not one of zeroes or of
    /// a file, whose copy is a page more: [`FaultKind::Anonymous`].
    CopyOnWrite = 5,
    /// A page came back from swap.
    SwapIn = 6,
    /// None of these: no page was added (another thread was first, or the access was refused), or nobody saw how it began and it may have
    /// been a copy: of processes that have not forked while they were traced, until there are some such faults.
    Other = 7,
}

/// Number of [`FaultKind`]s.
pub const FAULT_KINDS: usize = 8;

impl FaultKind {
    /// Every kind, in the order of its number.
    pub const ALL: [FaultKind; FAULT_KINDS] = [
        FaultKind::Anonymous,
        FaultKind::AnonymousHuge,
        FaultKind::File,
        FaultKind::FileMajor,
        FaultKind::Shared,
        FaultKind::CopyOnWrite,
        FaultKind::SwapIn,
        FaultKind::Other,
    ];

    /// The kind with this number; a number from a newer tracer is `Other`.
    pub const fn from_number(number: u32) -> Self {
        if (number as usize) < FAULT_KINDS { FaultKind::ALL[number as usize] } else { FaultKind::Other }
    }

    /// The name in reports.
    pub const fn id(self) -> &'static str {
        match self {
            FaultKind::Anonymous => "anonymous",
            FaultKind::AnonymousHuge => "anonymous_huge",
            FaultKind::File => "file",
            FaultKind::FileMajor => "file_major",
            FaultKind::Shared => "shared",
            FaultKind::CopyOnWrite => "copy_on_write",
            FaultKind::SwapIn => "swap_in",
            FaultKind::Other => "other",
        }
    }

    /// Whether it made the process's memory grow.
    pub const fn grows(self) -> bool {
        matches!(self, FaultKind::Anonymous | FaultKind::AnonymousHuge | FaultKind::Shared | FaultKind::SwapIn)
    }
}

/// Counters of resident memory of an address space, as the kernel numbers them (include/linux/mm_types_task.h).
pub mod rss {
    /// Mapped files.
    pub const FILE: u32 = 0;
    /// Anonymous memory.
    pub const ANONYMOUS: u32 = 1;
    /// Swapped out.
    pub const SWAP: u32 = 2;
    /// Shared memory.
    pub const SHARED: u32 = 3;
    /// Bytes of one in an array of them, as up to 6.1; from then on each is a structure with a part for each CPU.
    pub const PLAIN_BYTES: u32 = 8;
    /// How many there are.
    pub const KINDS: usize = 4;
}

/// Bits of the error code with which x86 enters a page fault (arch/x86/include/asm/trap_pf.h).
pub mod error_code {
    /// The page was there, and the access is not allowed.
    pub const PROTECTION: u8 = 1;
    /// It was a write.
    pub const WRITE: u8 = 1 << 1;
}

/// What is known of a fault once the next one begins: the error code with which it was entered, the counters of resident memory that
/// it changed (a bit each), whether it made a huge page, and whether the thread's count of major faults has risen.
#[inline(always)]
pub const fn fault_kind(error: u8, touched: u8, huge: bool, major: bool) -> FaultKind {
    let copied = error_code::PROTECTION | error_code::WRITE;
    if touched & 1 << rss::SWAP != 0 {
        FaultKind::SwapIn
    } else if error & copied == copied && touched & 1 << rss::ANONYMOUS == 0 {
        FaultKind::CopyOnWrite
    } else if major && touched != 0 {
        FaultKind::FileMajor
    } else if touched & 1 << rss::ANONYMOUS != 0 {
        if huge { FaultKind::AnonymousHuge } else { FaultKind::Anonymous }
    } else if touched & 1 << rss::SHARED != 0 {
        FaultKind::Shared
    } else if touched & 1 << rss::FILE != 0 {
        FaultKind::File
    } else if major {
        FaultKind::FileMajor
    } else {
        FaultKind::Other
    }
}

/// A record of faults is written after so many of a thread.
pub const FAULTS_PER_RECORD: u32 = 512;
/// Or with the next one of every 16 after so long.
pub const FAULTS_RECORD_NS: u64 = 50_000_000;

/// Faults of a thread since its record before this one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Kind [`crate::record::fault::FAULTS`].
    pub header: Header,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// When the first of them began.
    pub since_ts_ns: u64,
    /// Pages of anonymous memory that the process had when the last of them began, as far as the kernel has summed them up; 0: not known.
    pub anonymous_pages: u64,
    /// How many, by [`FaultKind`].
    pub counts: [u32; FAULT_KINDS],
}

const _: () = assert!(size_of::<Faults>() == 72);

/// What is known of a thread's last fault: [`FaultSums::open`].
pub mod fault_state {
    /// There was none.
    pub const NONE: u8 = 0;
    /// It has begun, and its kind is not known yet.
    pub const OPEN: u8 = 1;
    /// The same, and what is changed from now on is not its doing.
    pub const LEFT: u8 = 2;
    /// Nobody saw it begin; it is counted by what it changed until now.
    pub const COUNTED: u8 = 3;
    /// The same, and what is changed from now on is not its doing.
    pub const DONE: u8 = 4;
}

/// A thread's faults of which there is no record yet, and its last one, whose kind shows when the next begins.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultSums {
    /// Whose; 0: nobody's.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// See [`Faults::counts`].
    pub counts: [u32; FAULT_KINDS],
    /// See [`Faults::since_ts_ns`].
    pub since_ts_ns: u64,
    /// How many all together.
    pub pending: u32,
    /// Low half of the thread's count of major faults when the last one began.
    pub major_before: u32,
    /// Pages of anonymous memory when it began, as far as the kernel has summed them up.
    pub pages_before: u64,
    /// The file of the last fault that did not find its page mapped near by; 0: none.
    pub inode: u64,
    /// One of [`fault_state`].
    pub open: u8,
    /// Error code of it.
    pub error: u8,
    /// Counters that it changed.
    pub touched: u8,
    /// 1: it made a huge page.
    pub huge: u8,
    /// 1: it was entered from kernel code that accesses user memory.
    pub from_kernel: u8,
    /// 1: since the last fault began the thread has given pages back by madvise: [`crate::mapping::MapSums::freed_call`].
    pub freed: u8,
    /// 1: `next` is known.
    pub numbered: u8,
    /// As what the last one is counted already, a [`FaultKind`].
    pub kind: u8,
    /// Faults that add a page until a stack is taken; 0: not drawn yet.
    pub until_touch: u32,
    /// For how many that stack will stand.
    pub touch_weight: u32,
    /// The same of those that copy one.
    pub until_copy: u32,
    /// See `touch_weight`.
    pub copy_weight: u32,
    /// How the thread's own counters stood when the last one began; zeroes where it has none.
    pub counters: OwnCounters,
    /// The kernel's number of the first fault that is not counted here yet: low half of how many it has counted for the thread.
    pub next: u32,
    /// How often stacks of faults that add a page are taken.
    pub pace: Pace,
}

const _: () = assert!(size_of::<FaultSums>() == 128);

/// How many faults a stack stands for: more where they come so fast that the stacks would cost more than they tell.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// When the last one was taken, in units of 2^20 ns.
    pub taken: u32,
    /// How often the least period is doubled.
    pub doubled: u32,
}

impl Pace {
    /// So often at most.
    pub const MOST_DOUBLED: u32 = 3;
    /// Stacks nearer to each other than this, in its units, are too many.
    pub const NEAR: u32 = 2;
    /// And farther from each other than this too few.
    pub const FAR: u32 = 16;

    /// A stack is taken.
    #[inline(always)]
    pub fn take(&mut self, ts_ns: u64) {
        let now = (ts_ns >> 20) as u32;
        let since = now.wrapping_sub(self.taken);
        if since < Self::NEAR && self.doubled < Self::MOST_DOUBLED {
            self.doubled += 1;
        } else if since > Self::FAR && self.doubled > 0 {
            self.doubled -= 1;
        }
        self.taken = now;
    }
}

/// Processes whose last sum of pages is kept at once; a power of two.
pub const PROCESS_PAGES: u32 = 1024;

/// Pages of anonymous memory of a process when a fault was last seen to add one, as far as the kernel had summed them up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessPages {
    /// Whose; 0: nobody's.
    pub tgid: u64,
    /// See above.
    pub pages: u64,
}

const _: () = assert!(size_of::<ProcessPages>() == 16);

/// What says whether beginnings of faults must be seen to tell copied pages from others.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultWatch {
    /// Faults that added no page, of which nobody saw the beginning.
    pub unseen: u64,
    /// Faults that were seen to copy a page.
    pub copies: u64,
    /// How often a traced process has forked. Without that none is copied.
    pub forks: u64,
}

const _: () = assert!(size_of::<FaultWatch>() == 24);

/// A thread's own counters of memory, which it hands in to its address space now and then, up to 6.1 (`struct task_rss_stat`, and
/// `check_sync_rss_stat` in mm/memory.c). Only then does the kernel report a change, so what a fault did shows here.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnCounters {
    /// Page faults since they were handed in.
    pub events: i32,
    /// The counters, by [`rss`].
    pub counts: [i32; rss::KINDS],
}

impl OwnCounters {
    /// Counters that a fault changed, a bit each, by how they stood before it and stand now. Where they were handed in meanwhile, before
    /// the fault changed any, they began at zero; where behind it, nothing is known.
    #[inline(always)]
    pub const fn touched(&self, now: &OwnCounters) -> u8 {
        let handed_in = now.events <= self.events;
        let (mut bits, mut kind) = (0, 0);
        while kind < rss::KINDS {
            let before = if handed_in { 0 } else { self.counts[kind] };
            bits |= ((now.counts[kind] != before) as u8) << kind;
            kind += 1;
        }
        bits
    }
}

/// Why a thread could not go on for want of memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum StallKind {
    /// Not one of these.
    Unknown = 0,
    /// It had to free memory of its cgroup, which is at its limit.
    MemcgReclaim = 1,
    /// It had to free memory of the host, which has none left.
    DirectReclaim = 2,
    /// It had to move pages to make room for a large one.
    Compaction = 3,
}

impl StallKind {
    /// Every kind, in the order of its number.
    pub const ALL: [StallKind; 4] =
        [StallKind::Unknown, StallKind::MemcgReclaim, StallKind::DirectReclaim, StallKind::Compaction];

    /// The kind with this number; a number from a newer tracer is `Unknown`.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => StallKind::MemcgReclaim,
            2 => StallKind::DirectReclaim,
            3 => StallKind::Compaction,
            _ => StallKind::Unknown,
        }
    }

    /// The name in reports.
    pub const fn id(self) -> &'static str {
        match self {
            StallKind::Unknown => "unknown",
            StallKind::MemcgReclaim => "cgroup reclaim",
            StallKind::DirectReclaim => "direct reclaim",
            StallKind::Compaction => "compaction",
        }
    }
}

/// Added to the number of a [`StallKind`] in the bits in which a switch has the kind of a kernel lock: the thread that left waits for
/// memory.
pub const STALL_IN_SWITCH: u16 = 12;

/// Stalls of a thread are summed up until they span this.
pub const STALLS_RECORD_NS: u64 = 10_000_000;

/// A thread was kept from its work for want of memory, once or several times shortly after each other.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// Kind [`crate::record::reclaim::STALLED`]; the time is the end of the last one.
    pub header: Header,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// When the first one began.
    pub since_ts_ns: u64,
    /// How long all together, waiting included.
    pub total_ns: u64,
    /// Pages that it freed.
    pub pages: u64,
    /// How many.
    pub count: u32,
    /// A [`StallKind`].
    pub kind: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

const _: () = assert!(size_of::<Stalled>() == 56);

/// A thread's stalls of which there is no record yet, and the one that it is in.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StallSums {
    /// Whose; 0: nobody's.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Since when it is stalled; meaningful while `open` is set.
    pub open_ts_ns: u64,
    /// See [`Stalled::since_ts_ns`].
    pub since_ts_ns: u64,
    /// End of the last one.
    pub last_ts_ns: u64,
    /// See [`Stalled::total_ns`].
    pub total_ns: u64,
    /// See [`Stalled::pages`].
    pub pages: u64,
    /// See [`Stalled::count`].
    pub count: u32,
    /// The [`StallKind`] of those that have ended.
    pub kind: u8,
    /// The one of the one that it is in; 0: none.
    pub open: u8,
    /// Stalls within it.
    pub nested: u8,
    /// Zero.
    pub reserved: u8,
}

const _: () = assert!(size_of::<StallSums>() == 56);

/// Files whose pages are counted at once.
pub const CACHED_FILES: u32 = 4096;

/// Pages of smaller files are counted together, by device, under the inode 0: a folder of pictures would take all the room, and no cause is
/// told of a single one.
pub const LARGE_FILE_BYTES: u64 = 256 << 10;

/// A file, as the kernel knows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileKey {
    /// Inode number.
    pub inode: u64,
    /// Device, in the kernel's own encoding: 12 bits of major number, 20 of minor.
    pub device: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<FileKey>() == 16);

/// What one CPU did with a file's pages in the page cache. In pages.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheSums {
    /// Brought in by traced threads that read.
    pub read: u64,
    /// Made by traced threads that wrote.
    pub written: u64,
    /// Reclaimed by a traced thread that was short of memory.
    pub reclaimed_own: u64,
    /// Reclaimed by the kernel's own threads, but for DAMON's.
    pub reclaimed_others: u64,
    /// Given up: the file was cut, deleted, or somebody asked for it.
    pub dropped: u64,
    /// The file's size in bytes when a page came last.
    pub size_bytes: u64,
    /// Of `reclaimed_own`: by threads that were writing to a file, and needed room for that.
    pub reclaimed_writing: u64,
    /// Who did that last: process in the upper half, thread in the lower one.
    pub writer: u64,
    /// When a page was read first and last; 0: none was.
    pub read_first_ts_ns: u64,
    /// See `read_first_ts_ns`.
    pub read_last_ts_ns: u64,
    /// Who read a page last: process in the upper half, thread in the lower one.
    pub reader: u64,
    /// When that thread first read one of those that it has made no request for yet; 0: there are none.
    pub asked_ts_ns: u64,
    /// Reclaimed by a thread of DAMON's, which throws out what is used seldom, whether memory is short or not.
    pub reclaimed_unused: u64,
}

const _: () = assert!(size_of::<CacheSums>() == 104);

/// A file that a family meets for the first time, or a directory that leads to one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedFile {
    /// Kind [`crate::record::cache::FILE`], or that of another family.
    pub header: Header,
    /// Who.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Which. In place of the zeroes its generation, by which it is told from others that had its number before it; 0: not known.
    pub file: FileKey,
    /// Its size then.
    pub size_bytes: u64,
    /// The last part of its path, as far as it fits, with a terminating zero.
    pub name: [u8; FILE_NAME_BYTES],
    /// Inode of the directory that has it under this name, on the same device; 0: not known. Its own: it is the root of its file system.
    pub parent: u64,
}

/// Length kept of a file's name.
pub const FILE_NAME_BYTES: usize = 64;

const _: () = assert!(size_of::<CachedFile>() == 120);

/// The kernel chose a process to kill for want of memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Kind [`crate::record::oom::VICTIM`].
    pub header: Header,
    /// The thread that was marked.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Who asked for memory and found none.
    pub by_tid: u32,
    /// Its process.
    pub by_tgid: u32,
    /// Resident pages when it was chosen, as far as the kernel has summed them up, by [`rss`].
    pub pages: [u64; rss::KINDS],
    /// The victim's name.
    pub comm: [u8; crate::sched::COMM_BYTES],
}

const _: () = assert!(size_of::<Victim>() == 80);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_a_thread_keeps_to_itself_tell_what_a_fault_changed() {
        let counters = |events, counts| OwnCounters { events, counts };
        let before = counters(7, [3, 60, 0, 1]);
        assert_eq!(before.touched(&counters(8, [3, 61, 0, 1])), 1 << rss::ANONYMOUS);
        assert_eq!(before.touched(&counters(8, [19, 60, 0, 1])), 1 << rss::FILE, "with the pages around it");
        assert_eq!(before.touched(&counters(8, [3, 61, -1, 1])), 1 << rss::ANONYMOUS | 1 << rss::SWAP, "swapped in");
        assert_eq!(before.touched(&counters(8, [3, 60, 0, 1])), 0);
        assert_eq!(before.touched(&counters(0, [0, 0, 0, 1])), 1 << rss::SHARED, "handed in, then changed");
        assert_eq!(before.touched(&counters(0, [0; 4])), 0, "changed, then handed in");
        assert_eq!(OwnCounters::default().touched(&OwnCounters::default()), 0, "there are none");
    }

    #[test]
    fn a_faults_kind_follows_from_what_it_changed() {
        let (file, anonymous, swap, shared) = (1, 2, 4, 8);
        let cases = [
            (2, anonymous, false, false, FaultKind::Anonymous),
            (2, anonymous, true, false, FaultKind::AnonymousHuge),
            (0, file, false, false, FaultKind::File),
            (0, file, false, true, FaultKind::FileMajor),
            (2, shared, false, false, FaultKind::Shared),
            (3, 0, false, false, FaultKind::CopyOnWrite),
            (3, file | anonymous, false, false, FaultKind::Anonymous),
            (3, anonymous, false, false, FaultKind::Anonymous),
            (0, anonymous | swap, false, true, FaultKind::SwapIn),
            (0, 0, false, false, FaultKind::Other),
            (1, 0, false, false, FaultKind::Other),
            (0, 0, false, true, FaultKind::FileMajor),
        ];
        for (error, touched, huge, major, kind) in cases {
            assert_eq!(fault_kind(error, touched, huge, major), kind, "{error} {touched} {huge} {major}");
        }
        for kind in FaultKind::ALL {
            assert_eq!(FaultKind::from_number(kind as u32), kind, "{kind:?} comes back from its number");
        }
        for kind in StallKind::ALL {
            assert_eq!(StallKind::from_number(kind as u8), kind, "{kind:?} comes back from its number");
        }
    }

    #[test]
    fn stacks_of_faults_that_come_fast_stand_for_more_of_them_and_again_for_fewer_when_they_do_not() {
        let mut pace = Pace { taken: 100, doubled: 0 };
        let mut at_ms = 100;
        let mut every = |ms: u64, times: u32| {
            for _ in 0..times {
                at_ms += ms;
                pace.take(at_ms << 20);
            }
            pace.doubled
        };
        assert_eq!(every(1, 2), 2);
        assert_eq!(every(1, 9), Pace::MOST_DOUBLED);
        assert_eq!(every(10, 9), Pace::MOST_DOUBLED, "neither near nor far");
        assert_eq!(every(20, 2), 1);
        assert_eq!(every(1_000, 9), 0);
    }

    #[test]
    fn stalls_fit_beside_the_kinds_of_locks_that_sleep() {
        let most = crate::sched::switch_flags::LOCK_MASK >> crate::sched::switch_flags::LOCK_SHIFT;
        let last = STALL_IN_SWITCH + StallKind::ALL.len() as u16 - 1;
        assert_eq!(last, most, "they fill the field");
        let locks = crate::lock::Kind::ALL.iter().map(|kind| *kind as u16).max();
        assert!(locks.is_some_and(|kind| kind < STALL_IN_SWITCH + 1), "no lock has their numbers");
    }
}
