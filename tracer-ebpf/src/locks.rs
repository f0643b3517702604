//! Contentions of kernel locks that have begun: one of a sleeping lock per thread, and per CPU a stack of spinning ones.
//!
//! A thread waits for one sleeping lock at a time, but while it does, the kernel takes the spinlock inside that lock, and interrupts
//! take others. A spinning waiter stays on its CPU, and what interrupts it is over before it goes on: so a small stack per CPU is
//! enough, and a switch empties it.

use tracer_common::{
    lock::{Kind, MAX_SPINS, contended_flags as flags, contention},
    loss::{CpuState, Spin},
};

use crate::{
    access::{config, present, probed},
    maps,
    task::{self, Task},
};

/// A thread's contention of a sleeping lock.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Contention {
    /// The lock's address; 0: none.
    pub lock: u64,
    /// Since when.
    pub since_ts_ns: u64,
    /// Since when it spins; 0: it does not.
    pub spins_since_ts_ns: u64,
    /// How long it spun before.
    pub spun_ns: u64,
    /// Whose contention this is.
    pub tid: u32,
    /// Who held the lock when it began.
    pub owner_tid: u32,
    /// That thread's process.
    pub owner_tgid: u32,
    /// A [`Kind`].
    pub kind: u8,
    /// `contended_flags`.
    pub flags: u8,
    /// Zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<Contention>() == 48);

/// Lowest bits of an owner's word, which are flags: three of semaphores and mutexes, one of others.
const OWNER_FLAGS: u64 = 7;
/// Of a semaphore: readers have it (`RWSEM_READER_OWNED`, kernel/locking/rwsem.c).
const OWNER_READS: u64 = 1;

/// The place for this thread's contention, whosever is there now.
#[inline(always)]
pub fn slot(tid: u32) -> Option<&'static mut Contention> {
    let pointer = maps::CONTENTIONS.get_ptr_mut(tid & config!(slot_mask))?;
    // SAFETY: plain data in a map; only the thread itself writes its own, two that share a place lose one.
    Some(unsafe { &mut *pointer })
}

/// The number of the kind of lock that this thread waits for; 0: none.
#[inline(always)]
pub fn waits_for(tid: u32) -> u16 {
    if config!(kernel_locks) != 1 {
        return 0;
    }
    match slot(tid) {
        Some(open) if open.tid == tid && open.lock != 0 => u16::from(open.kind),
        _ => 0,
    }
}

/// A thread begins to wait for a sleeping lock, or goes on to wait for it in another way.
#[inline(always)]
pub fn begin(open: &mut Contention, tid: u32, lock: u64, how: u32, ts_ns: u64) {
    let spins_since_ts_ns = if how & contention::SPIN != 0 { ts_ns } else { 0 };
    if open.tid == tid && open.lock == lock {
        settle(open, ts_ns);
        open.spins_since_ts_ns = spins_since_ts_ns;
        return;
    }
    let kind = kind(how, lock);
    let (owner_tid, owner_tgid, flags) = owner(kind, how, lock);
    *open = Contention {
        lock,
        since_ts_ns: ts_ns,
        spins_since_ts_ns,
        spun_ns: 0,
        tid,
        owner_tid,
        owner_tgid,
        kind: kind as u8,
        flags,
        reserved: 0,
    };
}

/// Ends a time of spinning.
#[inline(always)]
pub fn settle(open: &mut Contention, ts_ns: u64) {
    if open.spins_since_ts_ns != 0 {
        open.spun_ns += ts_ns.saturating_sub(open.spins_since_ts_ns);
        open.spins_since_ts_ns = 0;
    }
}

/// The kind of lock. The lock of an address space is told by where it is.
#[inline(always)]
fn kind(how: u32, lock: u64) -> Kind {
    let kind = Kind::of_flags(how);
    let inside = config!(offsets.mm_mmap_lock);
    if !present(inside) || !matches!(kind, Kind::RwsemRead | Kind::RwsemWrite) {
        return kind;
    }
    let space = task::address_space(task::current()) as u64;
    if space == 0 || space + u64::from(inside) != lock {
        return kind;
    }
    if matches!(kind, Kind::RwsemRead) { Kind::MmapRead } else { Kind::MmapWrite }
}

/// Who holds the lock: thread, process, flags. Of readers the kernel remembers the last one only.
#[inline(always)]
fn owner(kind: Kind, how: u32, lock: u64) -> (u32, u32, u8) {
    let semaphore = matches!(kind, Kind::MmapRead | Kind::MmapWrite | Kind::RwsemRead | Kind::RwsemWrite);
    let offset = if semaphore {
        config!(offsets.rwsem_owner)
    } else if matches!(kind, Kind::Mutex) {
        config!(offsets.mutex_owner)
    } else if matches!(kind, Kind::RtMutex) && how & (contention::READ | contention::WRITE) == 0 {
        config!(offsets.rtmutex_owner)
    } else {
        return (0, 0, 0);
    };
    if !present(offset) {
        return (0, 0, 0);
    }
    // SAFETY: probed loads take any address.
    let word: u64 = unsafe { probed(lock as *const u8, offset) };
    let holder = (word & !OWNER_FLAGS) as Task;
    if holder.is_null() {
        return (0, 0, 0);
    }
    let reads = if semaphore && word & OWNER_READS != 0 { flags::OWNER_READS } else { 0 };
    let (at_tid, at_tgid) = (config!(offsets.task_pid), config!(offsets.task_tgid));
    // SAFETY: probed loads take any address.
    let (tid, tgid) = unsafe {
        if at_tgid == at_tid.wrapping_add(4) {
            // The two lie side by side on all kernels seen so far: one read.
            let both: u64 = probed(holder, at_tid);
            (both as u32, (both >> 32) as u32)
        } else {
            (probed(holder, at_tid), probed(holder, at_tgid))
        }
    };
    (tid, tgid, reads)
}

/// A spinning contention begins on this CPU.
#[inline(always)]
pub fn push(state: &mut CpuState, spin: Spin) {
    let open = state.spins_open as usize;
    if let Some(free) = state.spins.get_mut(open) {
        *free = spin;
        state.spins_open = open as u32 + 1;
    }
}

/// It ends: when it began, and its kind. What began inside it and did not end is forgotten. `None`: its begin was not seen.
#[inline(always)]
pub fn pop(state: &mut CpuState, tid: u32, lock: u64) -> Option<(u64, u32)> {
    let open = state.spins_open as usize;
    for index in (0..MAX_SPINS).rev() {
        let spin = state.spins[index];
        if index < open && spin.lock == lock && spin.tid == tid {
            state.spins_open = index as u32;
            return Some((spin.since_ts_ns, spin.kind));
        }
    }
    None
}
