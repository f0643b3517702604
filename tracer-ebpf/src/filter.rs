//! Which threads are traced. The tracer's own never are.
//!
//! With a filter, a thread is traced when user space seeded it, or its creator was traced when it was created, or (by name or
//! cgroup) it became what was asked for. The set is a hash map; the thread's slot caches the answer, so a look-up is one array
//! access.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use tracer_common::{FamilyId, config::filter, loss::CpuState};

use crate::{
    access::config,
    emit,
    maps::{self, Slot},
};

/// The slot for this thread, whoever owns it now.
#[inline(always)]
pub fn slot(tid: u32) -> Option<&'static mut Slot> {
    let pointer = maps::SLOTS.get_ptr_mut(tid & config!(slot_mask))?;
    // SAFETY: plain data in a map; races between CPUs cost at most a waker.
    Some(unsafe { &mut *pointer })
}

/// Whether the thread is traced; if so, its slot is its own now. A plain answer instead of the slot: the compiler joins two
/// optional pointers by arithmetic that the verifier refuses.
#[inline(always)]
pub fn tracked(state: &mut CpuState, tid: u32, tgid: u32) -> bool {
    if tid == 0 || tgid == config!(self_tgid) {
        return false;
    }
    let Some(slot) = slot(tid) else { return false };
    if slot.tid != tid {
        let traced = if config!(filter) == filter::ALL { 1 } else { maps::TRACKED.get_ptr(tid).is_some() as u8 };
        if slot.tid != 0 && slot.tracked != 0 {
            if traced == 0 {
                // The owner is traced and this thread is not: leave it alone.
                return false;
            }
            if slot.wake_ts_ns != 0 {
                state.families[FamilyId::Sched as usize].wakers_forgotten += 1;
            }
        }
        take(slot, tid, traced);
    }
    slot.tracked != 0
}

/// The same for programs that may lose their CPU in the middle: changes nothing.
#[inline(always)]
pub fn is_tracked(tid: u32, tgid: u32) -> bool {
    if tid == 0 || tgid == config!(self_tgid) {
        return false;
    }
    if config!(filter) == filter::ALL {
        return true;
    }
    match slot(tid) {
        Some(slot) if slot.tid == tid => slot.tracked != 0,
        _ => maps::TRACKED.get_ptr(tid).is_some(),
    }
}

/// This CPU's state with the current thread and its process, if it is traced.
#[inline(always)]
pub fn current() -> Option<(&'static mut CpuState, u32, u32)> {
    let ids = bpf_get_current_pid_tgid();
    let (tid, tgid) = (ids as u32, (ids >> 32) as u32);
    let state = emit::cpu_state()?;
    if tracked(state, tid, tgid) { Some((state, tid, tgid)) } else { None }
}

/// Gives the slot to this thread.
#[inline(always)]
pub fn take(slot: &mut Slot, tid: u32, traced: u8) {
    slot.wake_ts_ns = 0;
    slot.wait_ts_ns = 0;
    slot.place = 0;
    slot.tracked = traced;
    slot.tid = tid;
}

/// Makes a thread traced. False when the set is full.
#[inline(always)]
pub fn track(tid: u32) -> bool {
    if config!(filter) == filter::TRACKED && emit::in_ours(|| maps::TRACKED.insert(tid, 1, 0)).is_err() {
        return false;
    }
    if let Some(slot) = slot(tid) {
        take(slot, tid, 1);
    }
    true
}

/// The thread is gone; its id may be used again.
#[inline(always)]
pub fn forget(tid: u32) {
    if config!(filter) == filter::TRACKED {
        let _ = emit::in_ours(|| maps::TRACKED.remove(tid));
    }
    if let Some(slot) = slot(tid)
        && slot.tid == tid
    {
        take(slot, 0, 0);
    }
}
