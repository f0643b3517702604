//! Family sched: a traced thread enters the function whose entries begin steps. Native functions are seen by a probe at their first
//! instruction, Python functions by a debug register on the first instruction of their bytecode.
//!
//! The kernel may take the CPU away from a program at a user probe, so these count by atomic additions, which the others, which run
//! to their end, do not need; and they change nothing of a thread's slot.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::{perf_event, uprobe},
    programs::{PerfEventContext, ProbeContext},
};
use tracer_common::{FamilyId, record::sched as kind, sched::Step};

use crate::{emit, filter};

/// The current thread enters a native function.
#[uprobe]
pub fn step_entry(_ctx: ProbeContext) -> u32 {
    begin();
    0
}

/// It reads the first instruction of a Python function.
#[perf_event]
pub fn step_watched(_ctx: PerfEventContext) -> i32 {
    begin();
    0
}

#[inline(always)]
fn begin() {
    let ids = bpf_get_current_pid_tgid();
    let (tid, tgid) = (ids as u32, (ids >> 32) as u32);
    if !filter::is_tracked(tid, tgid) {
        return;
    }
    let Some(state) = emit::cpu_state() else { return };
    // SAFETY: no arguments.
    let (ts_ns, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    let record = Step { header: emit::header(state, ts_ns, cpu, kind::STEP), tid, tgid };
    emit::submit_preemptible(state, FamilyId::Sched, cpu, &record);
}
