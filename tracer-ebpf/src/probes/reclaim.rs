//! Family reclaim: when traced threads free memory instead of working, for their cgroup's limit or because the host has none left, and
//! when they move pages to make room for a large one. The kernel's own threads for that (kswapd, kcompactd) are nobody's stall.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tracer_common::memory::StallKind;

use crate::{emit, filter, stalls, task};

#[inline(always)]
fn begin(kind: StallKind) -> i32 {
    if let Some((state, tid, tgid)) = filter::current()
        && !task::is_kernel_thread(task::current())
    {
        stalls::begin(state, tid, tgid, kind);
    }
    0
}

#[inline(always)]
fn end(pages: u64) -> i32 {
    if let Some((state, tid, _)) = filter::current() {
        stalls::end(state, tid, pages);
    }
    0
}

/// The current thread begins to free memory of a cgroup that is at its limit.
#[btf_tracepoint(function = "mm_vmscan_memcg_reclaim_begin")]
pub fn memcg_reclaim_begin(_ctx: BtfTracePointContext) -> i32 {
    begin(StallKind::MemcgReclaim)
}

/// It has freed this many pages.
#[btf_tracepoint(function = "mm_vmscan_memcg_reclaim_end")]
pub fn memcg_reclaim_end(ctx: BtfTracePointContext) -> i32 {
    end(ctx.arg(0))
}

/// The current thread begins to free memory of the host.
#[btf_tracepoint(function = "mm_vmscan_direct_reclaim_begin")]
pub fn direct_reclaim_begin(_ctx: BtfTracePointContext) -> i32 {
    begin(StallKind::DirectReclaim)
}

/// It has freed this many pages.
#[btf_tracepoint(function = "mm_vmscan_direct_reclaim_end")]
pub fn direct_reclaim_end(ctx: BtfTracePointContext) -> i32 {
    end(ctx.arg(0))
}

/// Pages begin to be moved.
#[btf_tracepoint(function = "mm_compaction_begin")]
pub fn compaction_begin(_ctx: BtfTracePointContext) -> i32 {
    begin(StallKind::Compaction)
}

/// They have been.
#[btf_tracepoint(function = "mm_compaction_end")]
pub fn compaction_end(_ctx: BtfTracePointContext) -> i32 {
    end(0)
}

/// A thread ends: what was summed up is written.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn stalls_at_exit(ctx: BtfTracePointContext) -> i32 {
    let tid = task::tid(ctx.arg::<*const u8>(0));
    let Some(state) = emit::cpu_state() else { return 0 };
    if let Some(sums) = stalls::slot(tid)
        && sums.tid == tid
        && tid != 0
    {
        if sums.count != 0 {
            stalls::write(state, sums);
        }
        sums.tid = 0;
    }
    0
}
