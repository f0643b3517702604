//! Payloads of the family that sees locks of the kernel, and the kinds of these locks.

use crate::record::Header;

/// A contention at least this long becomes a record; shorter ones are counted.
pub const RECORDED_NS: u64 = 10_000;

/// Sums of short contentions kept at once, one per process and kind; what finds no room is summed up under process 0.
pub const TOTALS_ENTRIES: u32 = 1024;

/// Spinning contentions open on one CPU at once: of a task, a softirq, an interrupt and a non-maskable interrupt.
pub const MAX_SPINS: usize = 4;

/// Flags of the tracepoint `contention_begin` (include/trace/events/lock.h).
pub mod contention {
    /// The waiter spins.
    pub const SPIN: u32 = 1;
    /// It wants to read.
    pub const READ: u32 = 1 << 1;
    /// It wants to write.
    pub const WRITE: u32 = 1 << 2;
    /// A priority-inheritance mutex.
    pub const RT: u32 = 1 << 3;
    /// A per-CPU reader-writer semaphore.
    pub const PERCPU: u32 = 1 << 4;
    /// A mutex.
    pub const MUTEX: u32 = 1 << 5;
}

/// A kind of kernel lock, and what it was wanted for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Not one of these.
    Unknown = 0,
    /// The lock of the waiter's own address space, to read.
    MmapRead = 1,
    /// The same, to write.
    MmapWrite = 2,
    /// Another reader-writer semaphore, to read.
    RwsemRead = 3,
    /// The same, to write.
    RwsemWrite = 4,
    /// A mutex.
    Mutex = 5,
    /// A priority-inheritance mutex.
    RtMutex = 6,
    /// A per-CPU reader-writer semaphore, to read.
    PercpuRead = 7,
    /// The same, to write.
    PercpuWrite = 8,
    /// A spinlock.
    Spin = 9,
    /// A spinning reader-writer lock, to read.
    RwlockRead = 10,
    /// The same, to write.
    RwlockWrite = 11,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Kind; 12] = [
        Kind::Unknown,
        Kind::MmapRead,
        Kind::MmapWrite,
        Kind::RwsemRead,
        Kind::RwsemWrite,
        Kind::Mutex,
        Kind::RtMutex,
        Kind::PercpuRead,
        Kind::PercpuWrite,
        Kind::Spin,
        Kind::RwlockRead,
        Kind::RwlockWrite,
    ];

    /// The kind that the tracepoint's flags tell. Whose semaphore it is they do not.
    #[inline(always)]
    pub fn of_flags(flags: u32) -> Self {
        let has = |flag: u32| flags & flag != 0;
        // One after the other: a reader-writer semaphore is told by having none of the other flags.
        if has(contention::MUTEX) {
            Kind::Mutex
        } else if has(contention::RT) {
            Kind::RtMutex
        } else if has(contention::PERCPU) {
            if has(contention::WRITE) { Kind::PercpuWrite } else { Kind::PercpuRead }
        } else if has(contention::SPIN) {
            if has(contention::WRITE) {
                Kind::RwlockWrite
            } else if has(contention::READ) {
                Kind::RwlockRead
            } else {
                Kind::Spin
            }
        } else if has(contention::WRITE) {
            Kind::RwsemWrite
        } else if has(contention::READ) {
            Kind::RwsemRead
        } else {
            Kind::Unknown
        }
    }

    /// The kind with this number; a number from a newer tracer is `Unknown`.
    pub const fn from_number(number: u8) -> Self {
        if (number as usize) < Kind::ALL.len() { Kind::ALL[number as usize] } else { Kind::Unknown }
    }

    /// Whether its waiters only spin, so that they never leave their CPU for it.
    pub const fn only_spins(self) -> bool {
        matches!(self, Kind::Spin | Kind::RwlockRead | Kind::RwlockWrite)
    }

    /// The name in reports.
    pub const fn id(self) -> &'static str {
        match self {
            Kind::Unknown => "kernel lock",
            Kind::MmapRead => "mmap_lock (read)",
            Kind::MmapWrite => "mmap_lock (write)",
            Kind::RwsemRead => "rwsem (read)",
            Kind::RwsemWrite => "rwsem (write)",
            Kind::Mutex => "mutex",
            Kind::RtMutex => "rtmutex",
            Kind::PercpuRead => "percpu_rwsem (read)",
            Kind::PercpuWrite => "percpu_rwsem (write)",
            Kind::Spin => "spinlock",
            Kind::RwlockRead => "rwlock (read)",
            Kind::RwlockWrite => "rwlock (write)",
        }
    }
}

/// Bits of [`Contended::flags`].
pub mod contended_flags {
    /// The lock was held by readers: `owner_tid` is the last one that got it, which may have given it back already.
    pub const OWNER_READS: u8 = 1;
    /// The waiter did not get the lock: it was interrupted.
    pub const GAVE_UP: u8 = 1 << 1;
}

/// A thread has waited for a lock of the kernel, from `header.ts_ns - duration_ns` to `header.ts_ns`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contended {
    /// Kind [`crate::record::lock::CONTENDED`].
    pub header: Header,
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// The lock's address in the kernel.
    pub lock: u64,
    /// How long, time without a CPU included.
    pub duration_ns: u64,
    /// How much of it the thread spun; for semaphores 0, since the kernel does not tell.
    pub spun_ns: u32,
    /// The thread that held the lock when the wait began; 0: not known.
    pub owner_tid: u32,
    /// That thread's process.
    pub owner_tgid: u32,
    /// A [`Kind`].
    pub kind: u8,
    /// See [`contended_flags`].
    pub flags: u8,
    /// Zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<Contended>() == 56);

/// Sums of the contentions of one process and kind that were too short for a record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many.
    pub count: u64,
    /// How long, all together.
    pub ns: u64,
}

const _: () = assert!(size_of::<Totals>() == 16);

/// Where the sums of a process and kind are.
pub const fn totals_key(tgid: u32, kind: u8) -> u64 {
    (tgid as u64) << 8 | kind as u64
}

/// Process and number of the kind of a key.
pub const fn of_totals_key(key: u64) -> (u32, u8) {
    ((key >> 8) as u32, key as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_follow_from_the_tracepoints_flags() {
        let kinds = [
            (contention::SPIN, Kind::Spin),
            (contention::SPIN | contention::READ, Kind::RwlockRead),
            (contention::SPIN | contention::WRITE, Kind::RwlockWrite),
            (contention::READ, Kind::RwsemRead),
            (contention::WRITE, Kind::RwsemWrite),
            (contention::MUTEX, Kind::Mutex),
            (contention::MUTEX | contention::SPIN, Kind::Mutex),
            (contention::RT, Kind::RtMutex),
            (contention::RT | contention::READ, Kind::RtMutex),
            (contention::PERCPU | contention::READ, Kind::PercpuRead),
            (contention::PERCPU | contention::WRITE, Kind::PercpuWrite),
            (0, Kind::Unknown),
        ];
        for (flags, kind) in kinds {
            assert_eq!(Kind::of_flags(flags), kind, "flags {flags:#x}");
        }
        for kind in Kind::ALL {
            assert_eq!(Kind::from_number(kind as u8), kind, "{kind:?} comes back from its number");
        }
        assert_eq!(Kind::from_number(200), Kind::Unknown, "a newer tracer's");
        assert_eq!(of_totals_key(totals_key(u32::MAX, 11)), (u32::MAX, 11));
    }

    #[test]
    fn kinds_that_sleep_fit_into_a_switchs_flags() {
        let most = crate::sched::switch_flags::LOCK_MASK >> crate::sched::switch_flags::LOCK_SHIFT;
        assert!(Kind::ALL.into_iter().filter(|kind| !kind.only_spins()).all(|kind| kind as u16 <= most));
    }
}
