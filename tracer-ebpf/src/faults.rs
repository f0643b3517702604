//! A thread's page faults: counted in its own entry of an array, written as a record now and then. What kind a fault was shows when the
//! next one begins, from what the kernel changed meanwhile; where nobody sees faults begin, see `numbered`.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, generated::bpf_get_prandom_u32};
use tracer_common::{
    FamilyId,
    loss::CpuState,
    memory::{
        FAULTS_PER_RECORD, FAULTS_RECORD_NS, FaultKind, FaultSums, Faults, OwnCounters, Pace, fault_kind, fault_state,
        rss,
    },
    record::fault as kind,
};

use crate::{
    access::{config, present, probed, typed},
    emit::{self, Lane},
    maps, numbered,
    task::Task,
};

const FAMILY: FamilyId = FamilyId::Fault;
/// The time is looked at with one of so many faults; a power of two.
pub const LOOK_AT_TIME: u32 = 16;

/// The entry for this thread, whosever it is now.
#[inline(always)]
pub fn slot(tid: u32) -> Option<&'static mut FaultSums> {
    let pointer = maps::FAULTS.get_ptr_mut(tid & config!(slot_mask))?;
    // SAFETY: plain data in a map; a thread writes its own entry only, two that share one lose a fault.
    Some(unsafe { &mut *pointer })
}

/// The entry for this thread, its own from now on. What another one had counted there is written first.
#[inline(always)]
pub fn own(state: &mut CpuState, tid: u32, tgid: u32) -> Option<&'static mut FaultSums> {
    let sums = slot(tid)?;
    if sums.tid != tid {
        if sums.tid != 0 && sums.pending != 0 {
            write(state, sums);
        }
        *sums = FaultSums { tid, tgid, ..FaultSums::default() };
    }
    Some(sums)
}

/// Whether threads of this kernel count their memory themselves, see [`OwnCounters`].
#[inline(always)]
pub fn has_own_counters() -> bool {
    present(config!(offsets.task_rss_events)) && present(config!(offsets.task_rss_counts))
}

/// A thread's own counters; zeroes where it has none.
#[inline(always)]
pub fn own_counters(task: Task) -> OwnCounters {
    if !has_own_counters() {
        return OwnCounters::default();
    }
    // SAFETY: probed loads take any address.
    unsafe {
        OwnCounters {
            events: probed(task, config!(offsets.task_rss_events)),
            counts: probed(task, config!(offsets.task_rss_counts)),
        }
    }
}

/// A fault begins.
#[inline(always)]
pub fn begin(state: &mut CpuState, sums: &mut FaultSums, task: Task, (error, from_kernel): (u8, u8)) {
    let counters = own_counters(task);
    settle(state, sums, task, &counters);
    if has_own_counters() {
        sums.counters = counters;
    }
    if sums.pending == 0 {
        // SAFETY: no arguments.
        sums.since_ts_ns = unsafe { bpf_ktime_get_ns() };
    }
    numbered::begun(sums, task);
    (sums.open, sums.error, sums.from_kernel) = (fault_state::OPEN, error, from_kernel);
    (sums.touched, sums.huge, sums.inode, sums.freed) = (0, 0, 0, 0);
    sums.major_before = major_faults(task);
}

/// Counts the last fault, whose kind is known by now, and writes a record if it is time.
#[inline(always)]
pub fn settle(state: &mut CpuState, sums: &mut FaultSums, task: Task, counters: &OwnCounters) {
    let was = sums.open;
    sums.open = fault_state::NONE;
    if was != fault_state::OPEN && was != fault_state::LEFT {
        if was != fault_state::NONE {
            numbered::was_major(sums, major_faults(task));
        }
        return;
    }
    if has_own_counters() {
        sums.touched |= sums.counters.touched(counters);
    }
    let major = major_faults(task) != sums.major_before;
    let kind = fault_kind(sums.error, sums.touched, sums.huge == 1, major);
    if kind as u8 == FaultKind::CopyOnWrite as u8 {
        numbered::copied();
    }
    if let Some(count) = sums.counts.get_mut(kind as usize) {
        *count += 1;
    }
    sums.pending += 1;
    write_if_due(state, sums);
}

/// Writes a record if it is time.
#[inline(always)]
pub fn write_if_due(state: &mut CpuState, sums: &mut FaultSums) {
    if sums.pending & (LOOK_AT_TIME - 1) == 0 || sums.pending >= FAULTS_PER_RECORD {
        // SAFETY: no arguments.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        if sums.pending >= FAULTS_PER_RECORD || now_ns.saturating_sub(sums.since_ts_ns) >= FAULTS_RECORD_NS {
            write(state, sums);
        }
    }
}

/// Writes what was counted, and begins anew.
#[inline(always)]
pub fn write(state: &mut CpuState, sums: &mut FaultSums) {
    // SAFETY: no arguments.
    let (ts_ns, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    emit::see(state, FAMILY);
    let record = Faults {
        header: emit::header(state, ts_ns, cpu, kind::FAULTS),
        tid: sums.tid,
        tgid: sums.tgid,
        since_ts_ns: sums.since_ts_ns,
        anonymous_pages: sums.pages_before,
        counts: sums.counts,
    };
    sums.counts = Default::default();
    sums.pending = 0;
    emit::submit(state, FAMILY, cpu, Lane::Frequent, &record);
}

/// Low half of the thread's own count of major faults.
#[inline(always)]
pub fn major_faults(task: Task) -> u32 {
    // SAFETY: `task` is known to the verifier.
    unsafe { typed(task, config!(offsets.task_maj_flt)) }
}

/// Pages that the kernel has summed up for a counter of an address space; what CPUs have not handed in yet is missing.
#[inline(always)]
pub fn anonymous_pages(space: *const u8) -> u64 {
    let (base, stride) = (config!(offsets.mm_rss), config!(offsets.mm_rss_stride));
    if !present(base) || !present(stride) || space.is_null() {
        return 0;
    }
    let at = base + rss::ANONYMOUS * stride;
    // SAFETY: known to the verifier as `struct mm_struct`. Up to 6.1 the counters are an array of `atomic_long_t`, through which verifiers of
    // that age follow no typed load.
    unsafe { if stride == rss::PLAIN_BYTES { probed(space, at) } else { typed(space, at) } }
}

/// Draws how many faults a stack stands for: between 1 and twice the period (so many times doubled), so the period in the mean, whatever
/// pattern there is.
#[inline(always)]
pub fn draw(doubled: u32) -> u32 {
    // SAFETY: no arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    let period = u64::from(config!(fault_period)) << (doubled & Pace::MOST_DOUBLED);
    ((u64::from(random) * (2 * period - 1)) >> 32) as u32 + 1
}

/// The inode of the file whose page the thread waits for in a page fault; 0: none.
#[inline(always)]
pub fn waits_for_file(task: Task, tid: u32) -> u64 {
    if config!(faults) != 1 {
        return 0;
    }
    match slot(tid) {
        Some(sums) if sums.tid == tid && numbered::is_in(sums, task) => sums.inode,
        _ => 0,
    }
}
