//! Times in which a thread frees memory, or waits for others to, instead of working: the kernel says when they begin and end. They are
//! summed up in the thread's own entry of an array and written as a record when they span some time.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use tracer_common::{
    FamilyId,
    loss::CpuState,
    memory::{STALL_IN_SWITCH, STALLS_RECORD_NS, StallKind, StallSums, Stalled},
    record::reclaim as kind,
};

use crate::{
    access::config,
    emit::{self, Lane},
    maps,
};

const FAMILY: FamilyId = FamilyId::Reclaim;

/// The entry for this thread, whosever it is now.
#[inline(always)]
pub fn slot(tid: u32) -> Option<&'static mut StallSums> {
    let pointer = maps::STALLS.get_ptr_mut(tid & config!(slot_mask))?;
    // SAFETY: plain data in a map; a thread writes its own entry only, two that share one lose a stall.
    Some(unsafe { &mut *pointer })
}

/// What a switch has in the place of a kernel lock's kind while the thread that leaves is stalled; 0: it is not.
#[inline(always)]
pub fn waits_for(tid: u32) -> u16 {
    if config!(stalls) != 1 {
        return 0;
    }
    match slot(tid) {
        Some(sums) if sums.tid == tid && sums.open != 0 => STALL_IN_SWITCH + u16::from(sums.open),
        _ => 0,
    }
}

/// A stall begins. Within another one it is part of that.
#[inline(always)]
pub fn begin(state: &mut CpuState, tid: u32, tgid: u32, stall: StallKind) {
    let Some(sums) = slot(tid) else { return };
    if sums.tid != tid {
        if sums.tid != 0 && sums.count != 0 {
            write(state, sums);
        }
        *sums = StallSums { tid, tgid, ..StallSums::default() };
    }
    if sums.open != 0 {
        sums.nested = sums.nested.saturating_add(1);
        return;
    }
    // SAFETY: no arguments.
    sums.open_ts_ns = unsafe { bpf_ktime_get_ns() };
    sums.open = stall as u8;
}

/// It ends; the thread has freed this many pages.
#[inline(always)]
pub fn end(state: &mut CpuState, tid: u32, pages: u64) {
    let Some(sums) = slot(tid) else { return };
    if sums.tid != tid || sums.open == 0 {
        // It had begun before the thread was traced.
        return;
    }
    if sums.nested != 0 {
        sums.nested -= 1;
        return;
    }
    // SAFETY: no arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if sums.count != 0 && (sums.kind != sums.open || now_ns.saturating_sub(sums.since_ts_ns) >= STALLS_RECORD_NS) {
        write(state, sums);
    }
    if sums.count == 0 {
        sums.since_ts_ns = sums.open_ts_ns;
    }
    sums.kind = sums.open;
    sums.open = 0;
    sums.total_ns += now_ns.saturating_sub(sums.open_ts_ns);
    sums.pages += pages;
    sums.count += 1;
    sums.last_ts_ns = now_ns;
    if now_ns.saturating_sub(sums.since_ts_ns) >= STALLS_RECORD_NS {
        write(state, sums);
    }
}

/// Writes what was summed up, and begins anew.
#[inline(always)]
pub fn write(state: &mut CpuState, sums: &mut StallSums) {
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    emit::see(state, FAMILY);
    let record = Stalled {
        header: emit::header(state, sums.last_ts_ns, cpu, kind::STALLED),
        tid: sums.tid,
        tgid: sums.tgid,
        since_ts_ns: sums.since_ts_ns,
        total_ns: sums.total_ns,
        pages: sums.pages,
        count: sums.count,
        kind: sums.kind,
        reserved: [0; 3],
    };
    (sums.total_ns, sums.pages, sums.count) = (0, 0, 0);
    emit::submit(state, FAMILY, cpu, Lane::Frequent, &record);
}
